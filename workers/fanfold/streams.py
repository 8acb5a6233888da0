"""Streams: named bytes of the storage that a map, a group or the last step must read whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice

from fanfold.errors import ChangedError
from fanfold.formats import SIZE, refuse_coded
from fanfold.plan import lines
from fanfold.storage import PIECE, Segment, Storage, StoredFile
from fanfold.storage.folder import File

Write = Callable[[bytes], object]
# Makes one file of several: it gets them, the function that writes, and the file's suffix.
Combine = Callable[[Sequence["Stream"], Write, str], None]
Watch = Callable[[int], object]  # is told how many bytes of a stream were taken up to now


class Stream:
    """Bytes of some files, in order. Whoever gets it must read all of it."""

    def __init__(
        self,
        size: int,
        segments: Callable[[], Iterator[Segment]],
        store: Storage,
        copy: tuple[Storage, str] | None = None,
    ) -> None:
        """The segments are in `store`, and with `copy` they are text, of which there may be a copy
        of this name. (The copy may be gone: another run of the same plan may have cleaned up.)"""
        self.size, self._segments, self._store, self._copy = size, segments, store, copy
        self._taken, self._whole = 0, not size
        self.watch: Watch | None = None
        self._stream: Iterator[bytes] = iter(())

    def names(self) -> Iterator[str]:
        """The names of the files."""
        return (name for name, *_ in self._segments())

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces of at most 1 MiB. Where an input ends without a line end and the
        part goes on in the next input, a line end that is not in the part is added: a line never
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
                    refuse_coded(name, piece)
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
        """The lines, without their line ends."""
        self._stream = lines(self.pieces())
        return self._stream

    def stored(self) -> Iterator[bytes]:
        """The bytes as they are stored, for a copy of the file."""
        return self.pieces()

    def _is_plain(self, name: str, start: bytes) -> bool:
        """Whether a file that begins so is read as it is stored."""
        if self._copy:
            refuse_coded(name, start)
        return True

    @contextmanager
    def file(self, *, stored: bool = False) -> Iterator[File | None]:
        """The file of a folder that is this stream and nothing more, open, or None; without
        `stored` only one that is read as it is stored. To leave the `with` is to have read it: the
        file is checked again."""
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
        """Where a program finds this file by itself, or nothing if it cannot."""
        with self.file() as file:
            return file.path if file else ""

    def finish(self, what: str) -> None:
        """Check that all was read, by `what`. After the last byte the inputs are checked."""
        rest = next(self._stream, None) if self._taken == self.size else b""
        if rest is not None or not self._whole:
            end = " and not their end" * (self._taken == self.size)
            raise RuntimeError(f"{what}: {self._taken} of {self.size} bytes were read{end}")


def combine(
    run: Storage, name: str, files: Iterable[Segment], function: Combine | None, suffix: str
) -> Segment:
    """Publish under `name` what a function makes of these files; without one, all of them."""
    if not function:
        return run.copy(name, run, files)
    streams = [Stream(file[3], partial(iter, [file]), run) for file in files]
    return reduce(run, name, streams, function, suffix)


def reduce(
    run: Storage, name: str, streams: Sequence[Stream], function: Combine, suffix: str
) -> Segment:
    """Publish under `name` what a function makes of streams, each of which it must read whole."""
    with run.writer(name) as out:
        out.write(b"")  # an output of no byte is one, too
        function(streams, out.write, suffix)
        for stream in streams:
            stream.finish(f"the function did not take all of {next(stream.names(), 'nothing')}")
    assert out.made  # noqa: S101
    return out.made


def yields(function: Callable[[Sequence[Stream]], Iterable[bytes]]) -> Combine:
    """A function that yields what it makes, as one that writes."""

    def combine(streams: Sequence[Stream], write: Write, _: str) -> None:
        for piece in function(streams):
            write(piece)

    return combine
