"""Parts: what a map works on. In the mode files the function of a map gets the files of its parts,
each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from fanfold import names
from fanfold.decode import decode, is_compressed
from fanfold.errors import RetryError, WorkerError, is_of_name
from fanfold.plan import Input, Inputs, Plan
from fanfold.storage import Storage, Writer
from fanfold.storage.folder import File
from fanfold.streams import Stream

Map = Callable[["Part"], "Mapping[str, int | float] | None"]


class Part(Stream):
    """The part that a map works on, one of `num_parts`. The map must read all of it. In the mode
    files it is a file of the part, with a `name` in WORK_DIR, and with the `item` that a list of
    items has of the file."""

    name: str = ""
    item: object = None
    broken: Exception | None = (
        None  # an error that is none of the file, whatever the map makes of it
    )

    def __init__(
        self, number: int, plan: Plan, place: tuple[Inputs, int, int],
        stores: tuple[Storage, Storage], output: Writer,
    ) -> None:  # fmt: skip
        (files, at, stop), (inputs, run) = place, stores
        self.id, self.num_parts, self._output = str(number), plan.num_parts, output
        copy = names.PART_COPY.format(plan.id, number) if plan.mode == "copy" else ""
        super().__init__(stop - at, partial(files.segments, at, stop), inputs, (run, copy))

    def write(self, data: bytes) -> None:
        """Append to the output: of the part, which the last step joins with those of the other
        parts, or in the mode files of the file."""
        self._output.write(data)

    def files(self) -> Iterator[Part]:
        """The files that are to be mapped now: in the mode files this one, for the function is
        called with each file of the part."""
        if not self.name:
            raise WorkerError(
                "SPLIT_MODE must be files for a map that takes files, got parts of lines: set it "
                "to files, or let the map take .lines() or .pieces()"
            )
        yield self


class FilePart(Part):
    """A file, which is mapped by itself. What is compressed is read decompressed."""

    def __init__(
        self, place: tuple[str, int], file: Input,
        stores: tuple[Storage, Storage], output: Writer, known: list[bytes] | None,
    ) -> None:  # fmt: skip
        """`known` has all bytes of the file, if these were read before."""
        (self.id, self.num_parts), self._output = place, output
        self.name, self.item, self._known = file.name, file.item, known
        self.text_bytes: int | None = None  # of what was read, decompressed
        self.damaged: WorkerError | None = (
            None  # what is wrong with the file, whatever the map does
        )
        from hashlib import sha256  # loads OpenSSL: only the callers pay for it

        self.digest = sha256()  # of the output
        segment = file.name, file.version, 0, file.size
        Stream.__init__(self, file.size, lambda: iter([segment]), stores[0], (stores[1], ""))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RetryError) as error:
            if not is_of_name(error):
                self.broken = self.broken or error
            raise

    def stored(self) -> Iterator[bytes]:
        """The bytes as they are stored."""
        self._taken, self._whole = 0, False
        stream = self._stream = self._all_stored()
        return stream

    def _all_stored(self) -> Iterator[bytes]:
        with self._guarded():
            for piece in self._known if self._known is not None else self._read():
                self._taken += len(piece)
                yield piece
        self._whole = True

    def _pieces(self) -> Iterator[bytes]:
        self.text_bytes = 0
        try:
            for piece in decode(self.name, self._all_stored()):
                self.text_bytes += len(piece)
                yield piece
        except WorkerError as error:
            self.damaged = error
            raise

    def _is_plain(self, name: str, start: bytes) -> bool:
        return not is_compressed(start) and super()._is_plain(name, start)

    @contextmanager
    def file(self, *, stored: bool = False) -> Iterator[File | None]:
        """The file of a folder, open, or None: see Stream."""
        with self._guarded(), super().file(stored=stored) as file:
            yield file
            if file and not stored:
                self.text_bytes = self.size

    def path(self) -> str:
        """Where a program finds this file by itself, as it is stored, or nothing if it cannot."""
        with self.file(stored=True) as file:
            return file.path if file else ""

    def write(self, data: bytes) -> None:
        """Append to the output of the file."""
        self.digest.update(data)
        with self._guarded():
            self._output.write(data)
