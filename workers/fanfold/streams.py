"""Streams: named bytes in the storage that a map, a group or the last step must read completely."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice

from fanfold.errors import ChangedError, WorkerError
from fanfold.formats import DECODED, SIZE, refuse_coded
from fanfold.plan import lines
from fanfold.storage import PIECE, Segment, Storage, StoredFile
from fanfold.storage.folder import File

Write = Callable[[bytes], object]
# Makes one file of several. Arguments: the files, the function that writes, the output's suffix.
Combine = Callable[[Sequence["Stream"], Write, str], None]
Watch = Callable[[int], object]  # called with the number of bytes read so far


class Stream:
    """The bytes of some files, in order. The reader must read all of them."""

    def __init__(
        self,
        size: int,
        segments: Callable[[], Iterator[Segment]],
        store: Storage,
        copy: tuple[Storage, str] | None = None,
    ) -> None:
        """The segments are in `store`. With `copy` they are text, and there may be a copy with this
        name (another run of the same plan may have removed it)."""
        self.size, self._segments, self._store, self._copy = size, segments, store, copy
        self._taken, self._whole = 0, not size
        self.watch: Watch | None = None
        self._stream: Iterator[bytes] = iter(())

    def names(self) -> Iterator[str]:
        """Yield the names of the files."""
        return (name for name, *_ in self._segments())

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB. If an input ends without a line end and the
        part continues in the next input, a line end is added that is not in the part: a line never
        spans two files."""
        self._taken, self._whole, self._stream = 0, False, self._pieces()
        return self._stream

    def _pieces(self) -> Iterator[bytes]:
        stream = self._read()
        block, at, piece = b"", 0, b"\n"
        for name, _, offset, length in self._segments():
            if self._copy and not piece.endswith(b"\n"):
                yield b"\n"
            is_start = self._copy and not offset
            rest, least = length, min(length, SIZE) if is_start else 1
            while rest:
                while len(block) < at + least:
                    block, at = block[at:] + next(stream), 0
                piece = block[at : at + min(rest, PIECE)]
                if rest == length and is_start:
                    refuse_coded(name, piece, DECODED)
                at, rest, least = at + len(piece), rest - len(piece), 1
                self._taken += len(piece)
                if self.watch:
                    self.watch(self._taken)
                yield piece
        next(stream, None)  # the check after the last byte
        self._whole = True

    def _read(self) -> Iterator[bytes]:
        with self._open_copy() as file:
            yield from file.pieces(0, self.size) if file else self._store.read(self._segments())

    @contextmanager
    def _open_copy(self) -> Iterator[StoredFile | None]:
        with ExitStack() as stack:
            file = None
            if self._copy and self._copy[1] and self.size:
                with suppress(FileNotFoundError):
                    file = stack.enter_context(self._copy[0].open(self._copy[1]))
            if file and file.size != self.size:
                raise ChangedError(file.name, f"{self.size} bytes", f"{file.size} bytes")
            yield file

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, without line ends."""
        self._stream = lines(self.pieces())
        return self._stream

    def stored(self) -> Iterator[bytes]:
        """Yield the bytes as stored, for a copy of the file."""
        return self.pieces()

    def _is_plain(self, name: str, start: bytes) -> bool:
        """Whether a file with these first bytes is read as stored."""
        if self._copy:
            refuse_coded(name, start, DECODED)
        return True

    @contextmanager
    def file(self, *, stored: bool = False) -> Iterator[File | None]:
        """Open the file of a folder that is exactly this stream, or return None. Without `stored`,
        also return None for a file that is not read as stored. At the end of the `with`, the file
        counts as read and its version is checked again."""
        with ExitStack() as stack:
            file, found = None, [*islice(self._segments(), 2)]
            if len(found) == 1:
                name, version, offset, _ = found[0]
                file = stack.enter_context(self._open_copy())
                if not file and not offset:
                    file = stack.enter_context(self._store.open(name, version))
            if not isinstance(file, File) or file.size != self.size:
                yield None
                return
            if not stored and not offset and not self._is_plain(name, file.read(0, SIZE)):
                yield None
                return
            yield file
        self._taken, self._whole, self._stream = self.size, True, iter(())

    def path(self) -> str:
        """Return the path at which a program can read this file, or an empty string."""
        with self.file() as file:
            return file.path if file else ""

    def finish(self, who: str, what: str) -> None:
        """Check that `who` has read all of `what`. The check after the last byte is for inputs that
        have changed."""
        rest = next(self._stream, None) if self._taken == self.size else b""
        if rest is not None or not self._whole:
            end = " and not their end" * (self._taken == self.size)
            raise WorkerError(
                f"{who} must read all of {what}, got {self._taken} of {self.size} bytes{end}: read "
                "its .lines() or .pieces() to the end"
            )


def combine(
    run: Storage, name: str, files: Iterable[Segment], function: Combine | None, suffix: str
) -> Segment:
    """Publish a function's output for these files as `name`; without a function, join them."""
    if not function:
        return run.copy(name, run, files)
    streams = [Stream(file[3], partial(iter, [file]), run) for file in files]
    return reduce(run, name, streams, function, suffix)


def reduce(
    run: Storage, name: str, streams: Sequence[Stream], function: Combine, suffix: str
) -> Segment:
    """Publish a function's output for streams as `name`. It must read each stream completely."""
    with run.writer(name) as out:
        out.write(b"")  # an empty output is an output
        function(streams, out.write, suffix)
        for stream in streams:
            stream.finish("the function", next(stream.names(), "its input"))
    assert out.made  # noqa: S101
    return out.made


def yields(function: Callable[[Sequence[Stream]], Iterable[bytes]]) -> Combine:
    """Convert a function that yields its output to one that writes it."""

    def combine(streams: Sequence[Stream], write: Write, _: str) -> None:
        for piece in function(streams):
            write(piece)

    return combine
