"""Files: the common code of all maps in mode files, which maps each file of a part by itself.

A failed file does not end its part. The part's output has a line of JSON per file, and
outputs.jsonl has the lines of all parts. items.md has a sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

from fanfold import records, settings, worker
from fanfold.decode import decode, is_compressed
from fanfold.errors import CommandError, RefusedError, RetryError, WorkerError, is_of_name
from fanfold.names import DIGITS
from fanfold.parallel import map_in_order
from fanfold.parts import Map, Part
from fanfold.plan import Input, encode
from fanfold.storage import Segment, Storage, Writer
from fanfold.storage.folder import File
from fanfold.streams import Stream, Watch, Write

TRIES = 3  # attempts per file, unless the exit code is 2
SMALL = 256 << 10  # bytes of the largest file that is read ahead
READS = 16  # small files that are read in parallel
SAID = 2000  # characters of an error in a line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Line = dict[str, "Any"]


def begin_line(file: Input) -> Line:
    """Return the line of a file without an output."""
    return {
        "name": file.name,
        "item": file.item,
        "version": file.version,
        "bytes": file.size,
        "text_bytes": None,
        "output": None,
        "output_bytes": 0,
        "output_version": "",
        "digest": "",
        "counts": {},
        "exit": 0,
        "said": "",
        "tries": 0,
        "seconds": 0.0,
    }


class FileError(Exception):
    """A file could not be mapped, with this exit code."""

    def __init__(self, exit_code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class FilePart(Part):
    """A file that is mapped by itself. A compressed file is read decompressed."""

    def __init__(
        self, place: tuple[str, int], file: Input,
        stores: tuple[Storage, Storage], output: Writer, known: list[bytes] | None,
    ) -> None:  # fmt: skip
        """`known` is the content of the file, if it was read ahead."""
        (self.id, self.num_parts), self._output = place, output
        self.name, self.item, self._known = file.name, deepcopy(file.item), known
        self.text_bytes: int | None = None  # of the text that was read
        # The error of a damaged file, also if the map ignores it.
        self.damaged: WorkerError | None = None
        from hashlib import sha256  # loads OpenSSL: import it only when needed

        self.digest = sha256()  # of the output
        segment = file.name, file.version, 0, file.size
        Stream.__init__(self, file.size, lambda: iter([segment]), stores[0], (stores[1], ""))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RetryError, RefusedError) as error:
            if not is_of_name(error):
                self.broken = self.broken or error
            raise

    def stored(self) -> Iterator[bytes]:
        """Yield the bytes as stored."""
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
        return not is_compressed(name, start) and super()._is_plain(name, start)

    @contextmanager
    def file(self, *, stored: bool = False) -> Iterator[File | None]:
        """The file of a folder, open, or None: see Stream."""
        with self._guarded(), super().file(stored=stored) as file:
            yield file
            if file and not stored:
                self.text_bytes = self.size

    def path(self) -> str:
        """Return the path at which a program can read this file as stored, or an empty string."""
        with self.file(stored=True) as file:
            return file.path if file else ""

    def write(self, data: bytes) -> None:
        """Append to the output of the file."""
        self.digest.update(data)
        with self._guarded():
            self._output.write(data)


class Files:
    """Maps the files of a job's parts with a function, at most `at_once` in parallel. With `reads`,
    small files are read ahead for a function that takes their bytes."""

    def __init__(
        self, function: Map, job: str, num_parts: int,
        stores: tuple[Storage, Storage], environ: Mapping[str, str],
        *, name: str, at_once: int, reads: bool, watch: Watch,
    ) -> None:  # fmt: skip
        self.watch = watch  # called with the number of finished files of the part
        self.name, self.function, self.num_parts = name, function, num_parts
        self.stores, self.at_once, self.reads = stores, at_once, reads
        self.folder, self.run_dir = settings.output_dir(environ) + job, settings.run_dir(environ)
        self.suffix = settings.output_suffix(environ)

    def map(self, part: str, files: Iterable[Input], write: Write) -> dict[str, int]:
        """Map the files of a part and write a line for each in order, except for files taken over
        from an earlier result. Return the numbers of files and bytes."""
        fields = {"files": 0, "failed": 0, "bytes": 0, "text_bytes": 0}
        done = 0

        def todo() -> Iterator[Input]:
            nonlocal done
            for file in files:
                fields["files"] += 1
                if file.taken:
                    done += 1
                else:
                    fields["bytes"] += file.size
                    yield file

        for line in self.lines(part, todo()):
            write(encode(line).encode() + b"\n")
            fields["failed"] += line["exit"] != 0
            fields["text_bytes"] += line["text_bytes"] or 0
            done += 1
            self.watch(done)
        return fields

    def lines(self, part: str, files: Iterable[Input]) -> Iterator[Line]:
        """Yield the line of each file, in order."""
        one = partial(self.map_file, part)
        if self.at_once > 1:
            lanes, ahead = self.at_once, 2 * self.at_once
            return map_in_order(
                lambda file: one(*self.read(file)), files, 1, lanes, ahead, reads=False
            )
        return (one(*known) for known in map_in_order(self.read, files, 1, READS, 2 * READS))

    def read(self, file: Input) -> tuple[Input, list[bytes] | None]:
        """Return a file, and its bytes if it is small."""
        if not self.reads or file.size > SMALL:
            return file, None
        try:
            return file, list(self.stores[0].read([(file.name, file.version, 0, file.size)]))
        except (RetryError, RefusedError):
            raise
        except WorkerError:  # an error of the file: it appears again when the file is mapped
            return file, None

    def map_file(self, part: str, file: Input, known: list[bytes] | None) -> Line:
        """Map a file, publish its output and return its line. Raises errors of the storage."""
        start, tries = time.monotonic(), 0
        line = begin_line(file)
        while True:
            tries += 1
            try:
                line |= self.attempt(part, file, known)
            except FileError as error:
                code, sentence = error.exit_code, str(error)[-SAID:]
                fields = {
                    "part": part,
                    "file": file.name,
                    "exit": code,
                    "tries": tries,
                    "error": sentence,
                }
                worker.log(self.name, "file_failed", **fields)
                if tries < TRIES and code != 2:
                    continue
                line |= {"exit": code, "said": sentence}
            return {**line, "tries": tries, "seconds": round(time.monotonic() - start, 3)}

    def attempt(self, number: str, file: Input, known: list[bytes] | None) -> Line:
        """Map a file once. Raises FileError if the function or the program failed."""
        name = f"{self.folder}/{file.name}{self.suffix}"
        try:
            with self.stores[1].writer(name) as out:
                part = FilePart((number, self.num_parts), file, self.stores, out, known)
                counts = self.take(part)
        except (OSError, WorkerError) as error:
            if not is_of_name(error):
                raise
            raise FileError(
                WorkerError.exit_code,
                f"the storage does not accept the output's name {name!r}: use a shorter "
                "OUTPUT_SUFFIX, OUTPUT_DIR or RUN_DIR, or rename the file",
            ) from error
        fields = {"text_bytes": part.text_bytes, "counts": counts}
        return fields | (self.fields(out.made, part.digest.hexdigest()) if out.made else {})

    def take(self, part: FilePart) -> records.Counts:
        """Call the function with a file and return its numbers."""
        try:
            counts = records.counts_of(self.function(part))
            if part.damaged:
                raise part.damaged
            part.finish("the map", part.name)
        except (Exception, SystemExit) as error:
            if is_of_name(error) or isinstance(error, (RetryError, CommandError)) or part.broken:
                raise part.broken or error  # noqa: B904 - the error itself, or its cause
            raise FileError(*worker.judge(error)) from error
        if part.broken:  # the map ignored this error: the output may have a hole
            raise part.broken
        return counts

    def fields(self, made: Segment, digest: str) -> Line:
        """Return the fields of a line for an output. Its name is in WORK_DIR, as for inputs."""
        name, version, _, size = made
        return {
            "output": self.run_dir + name,
            "output_bytes": size,
            "output_version": version,
            "digest": digest[:DIGITS],
        }
