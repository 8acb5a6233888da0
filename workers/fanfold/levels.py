"""Levels: the files of process-data, their records, and the check of level 1.

The record of a level names the versions of all files of level 1 in its output. So the last step can
check the whole without the records in between.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence

from fanfold import names, records, settings
from fanfold.errors import ChangedError, OldViewError, WorkerError
from fanfold.names import TEMPORARY, folder
from fanfold.parallel import map_in_order
from fanfold.plan import UNREADABLE
from fanfold.storage import Segment, Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BY_HAND = "by-hand"  # used instead of RUN_ID
MAX_LEVEL_1 = 300_000  # files; each takes 600 bytes of memory in the last step

# An input of a step: the file, its first file of level 1, and the versions of all of these.
Source = tuple[Segment, int, list[str]]


class Levels:
    """The levels of a run, from the settings. Without RUN_ID, other programs and suffixes have
    their own folders."""

    def __init__(self, run: Storage, environ: Mapping[str, str]) -> None:
        self.run, self.suffix = run, settings.file_suffix(environ)
        self.run_id, _ = settings.run_id(environ)
        how = settings.program(environ, "PROCESS")
        how |= {"suffix": self.suffix} if self.suffix != settings.SUFFIX else {}
        self.place = self.run_id or BY_HAND + (f"-{records.job_id('', how)}" if how else "")

    def file(self, number: int, level: int = 1) -> str:
        """Return the name of a file of level 1, or by hand of a copy of another level."""
        return names.LEVEL_FILE.format(level, number).removesuffix(settings.SUFFIX) + self.suffix

    def record(self, level: int, number: int) -> str:
        """Return the name of the record of a file above level 1."""
        return names.LEVEL_RECORD.format(level, self.place, number)

    def output(self, level: int, number: int) -> str:
        """Return a name for a file above level 1 that is unique to this attempt."""
        base = f"{number}-{names.nonce()}{self.suffix}"
        return names.LEVEL_OUTPUT.format(level, self.place, base)

    def find_sources(self, level: int, numbers: range) -> list[Source]:
        """Find the files with these numbers of a level: level 1 as it is now, other levels from
        their records."""
        find = self.look if level == 1 else lambda number: self.read_record(level, number)
        found = list(map_in_order(find, numbers))
        due = found[0][1] if numbers.start else 0
        for file, first, versions in found:
            if first != due:  # by hand, a mount may show an older record
                raise (WorkerError if self.run_id else OldViewError)(
                    f"{file[0]} must begin with file {due} of level 1, got file {first}: run "
                    "every level again with the same FAN_IN and FILES"
                )
            due += len(versions)
        return found

    def find_whole(self, level: int, count: int) -> tuple[list[Segment], list[str]]:
        """Return the files 0 to `count` - 1 of a level, and the versions of all their files of
        level 1. Raises FileNotFoundError."""
        if level == 1:  # in a bucket, the listing has all versions
            there = self.names_of_level_1()
            for name in (self.file(number) for number in range(count)):
                if name not in there:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        sources = self.find_sources(level, range(count))
        return [file for file, *_ in sources], [one for *_, versions in sources for one in versions]

    def look(self, number: int) -> Source:
        """Return a file of level 1 as it is now."""
        name = self.file(number)
        with self.run.open(name) as file:
            return (name, file.version, 0, file.size), number, [file.version]

    def read_record(self, level: int, number: int) -> Source:
        """Return a file above level 1 from its record."""
        name = self.record(level, number)
        try:
            found = self.fields(level, number)
            (output, size, version), versions = found["output"], list(found["versions"])
            return (str(output), str(version), 0, int(size)), int(found["first"]), versions
        except UNREADABLE:
            raise OldViewError(
                f"{name} is not a record that process.py wrote: run process.py {number} "
                f"{level - 1} again"
            ) from None

    def fields(self, level: int, number: int) -> dict[str, Any]:
        """Return the fields of a file's record. Raises one of UNREADABLE if it is damaged."""
        found = records.unseal(b"".join(self.run.stream(self.record(level, number))))
        if (found["level"], found["number"]) != (level, number):
            raise ValueError
        return found

    def check_unchanged(self, versions: Sequence[str]) -> int:
        """Check that the files of level 1 still have these versions; return the number of new
        files."""
        there = self.names_of_level_1()  # in a bucket, the listing has all versions

        def check(item: tuple[int, str]) -> None:
            number, version = item
            name = self.file(number)
            with self.run.open(name) as file:
                if file.version != version:
                    raise ChangedError(name, f"version {version}", file.version)

        for _ in map_in_order(check, enumerate(versions), batch=8):
            pass
        new = there.difference(self.file(number) for number in range(len(versions)))
        begin, _, end = self.file(0).rpartition("0")
        later = re.compile(f"{re.escape(begin)}(0|[1-9][0-9]*){re.escape(end)}")
        if stray := [name for name in new if not later.fullmatch(name)]:
            raise WorkerError(
                f"{min(stray)} is a file that no step reads: rename it to <number>{self.suffix} "
                "with no leading zero, or move it away"
            )
        return len(new)

    def outputs(self, last: int) -> list[str]:
        """List all files that a run has written in the levels 2 to `last`."""
        places = (self.record(level, 0) for level in range(2, last + 1))
        return [name for place in places for name in self.run.names(folder(place))]

    def check_left_out(self, last: int, covered: int) -> None:
        """Check that in the levels 2 to `last` this run has made no file from files of level 1 with
        the number `covered` or a higher one: these files of level 1 would pass for new files."""
        for level in range(2, last + 1):
            made = folder(self.record(level, 0))
            numbers = (name[len(made) :].removesuffix(".json") for name in self.run.names(made))
            top = max((int(number) for number in numbers if number.isdecimal()), default=None)
            if top is not None:
                file, first, versions = self.read_record(level, top)
                if first + len(versions) > covered:
                    raise WorkerError(
                        f"NUMBER must cover all files of level 1, got the first {covered}, and "
                        f"{file[0]} was made of the files {first} to {first + len(versions) - 1}: "
                        "set NUMBER, and FILES of each level, to the number of files"
                    )

    def names_of_level_1(self) -> set[str]:
        """List the files in level 1, without unfinished files of killed writers."""
        place = folder(self.file(0))
        left = re.compile(re.escape(place) + TEMPORARY)
        found = {name for name in self.run.names(place) if not left.fullmatch(name)}
        if len(found) > MAX_LEVEL_1:
            raise WorkerError(
                f"{place} must have at most {MAX_LEVEL_1} files, got {len(found)}: join small files"
            )
        return found

    def check_level_1(self, wanted: range, total: str = "") -> None:
        """Check that level 1 has these files. With `total`, the setting with the number of files,
        also check that level 1 has no other file, which no step would read. The check lists the
        folder: never probe for a file that may not exist yet, some mounts cache the miss."""
        there = self.names_of_level_1()
        for number in wanted:
            if (name := self.file(number)) not in there:
                other = f", or set {total} ({wanted.stop}) to the number of files"
                raise WorkerError(
                    f"level 1 must have {name}, got no such file: copy the file there"
                    f"{other if total else ''}"
                )
            there.remove(name)
        if total and there:
            raise WorkerError(
                f"{total} must count all files of level 1, got {wanted.stop} and also "
                f"{min(there)}: set {total} to the number of files, rename the file to "
                f"<number>{self.suffix} with no leading zero, or move it away"
            )
