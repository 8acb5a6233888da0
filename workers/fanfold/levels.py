"""Levels: the files that process-data works on, their records, and the check of level 1.

A level's record names the versions of the files of level 1 that its output was made of, so the
last step can check the whole without the records between.
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

BY_HAND = "by-hand"  # in place of RUN_ID
MAX_LEVEL_1 = 300_000  # files, of which each takes 600 bytes of memory in the last step

# An input of a step: the file, the number of its first file of level 1, and their versions.
Source = tuple[Segment, int, list[str]]


class Levels:
    """The levels of a run, as the settings say. By hand those of another program, or of files with
    another suffix, have a place of their own."""

    def __init__(self, run: Storage, environ: Mapping[str, str]) -> None:
        self.run, self.suffix = run, settings.file_suffix(environ)
        self.run_id, _ = settings.run_id(environ)
        how = settings.program(environ, "PROCESS")
        how |= {"suffix": self.suffix} if self.suffix != settings.SUFFIX else {}
        self.place = self.run_id or BY_HAND + (f"-{records.job_id('', how)}" if how else "")

    def file(self, number: int, level: int = 1) -> str:
        """The name of a file of level 1, or of a copy by hand of one of another."""
        return names.LEVEL_FILE.format(level, number).removesuffix(settings.SUFFIX) + self.suffix

    def record(self, level: int, number: int) -> str:
        """The name of the record of a file of a level above."""
        return names.LEVEL_RECORD.format(level, self.place, number)

    def output(self, level: int, number: int) -> str:
        """A name for such a file that no other attempt has."""
        base = f"{number}-{names.nonce()}{self.suffix}"
        return names.LEVEL_OUTPUT.format(level, self.place, base)

    def find_sources(self, level: int, numbers: range) -> list[Source]:
        """The files with these numbers of a level: of level 1 as they are now, of the levels above
        as their records say."""
        find = self.look if level == 1 else lambda number: self.read_record(level, number)
        found = list(map_in_order(find, numbers))
        due = found[0][1] if numbers.start else 0
        for file, first, versions in found:
            if first != due:  # by hand, a mount may show an older record
                raise (WorkerError if self.run_id else OldViewError)(
                    f"{file[0]} begins with file {first} of level 1 and must begin with file "
                    f"{due}: run every level again, with one FAN_IN and FILES"
                )
            due += len(versions)
        return found

    def find_whole(self, level: int, count: int) -> tuple[list[Segment], list[str]]:
        """The files 0 to `count` - 1 of a level, and the versions of all files of level 1 that they
        were made of. Raises FileNotFoundError."""
        if level == 1:  # in a bucket, the listing tells all versions
            there = self.names_of_level_1()
            for name in (self.file(number) for number in range(count)):
                if name not in there:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        sources = self.find_sources(level, range(count))
        return [file for file, *_ in sources], [one for *_, versions in sources for one in versions]

    def look(self, number: int) -> Source:
        """A file of level 1 as it is now."""
        name = self.file(number)
        with self.run.open(name) as file:
            return (name, file.version, 0, file.size), number, [file.version]

    def read_record(self, level: int, number: int) -> Source:
        """A file of a level above, as its record says."""
        name = self.record(level, number)
        try:
            found = self.told(level, number)
            (output, size, version), versions = found["output"], list(found["versions"])
            return (str(output), str(version), 0, int(size)), int(found["first"]), versions
        except UNREADABLE:
            raise OldViewError(
                f"{name} is not a record that process.py wrote: run process.py {number} "
                f"{level - 1} again"
            ) from None

    def told(self, level: int, number: int) -> dict[str, Any]:
        """What the record of a file says. Raises one of UNREADABLE if it is not whole."""
        found = records.unseal(b"".join(self.run.stream(self.record(level, number))))
        if (found["level"], found["number"]) != (level, number):
            raise ValueError
        return found

    def check_unchanged(self, versions: Sequence[str]) -> int:
        """Check that the files of level 1 still are the versions from which the result was made;
        return how many files are there that have come since."""
        there = self.names_of_level_1()  # in a bucket, this tells all versions

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
                f"{min(stray)} is there and nobody reads it: name the file <number>{self.suffix} "
                "with no leading zero, or move it away"
            )
        return len(new)

    def outputs(self, last: int) -> list[str]:
        """All that a run has written into the levels 2 to `last`."""
        places = (self.record(level, 0) for level in range(2, last + 1))
        return [name for place in places for name in self.run.names(folder(place))]

    def check_left_out(self, last: int, covered: int) -> None:
        """Check that this run has made nothing, in the levels 2 to `last`, of files of level 1 from
        `covered` on: they would pass for files that came later."""
        for level in range(2, last + 1):
            made = folder(self.record(level, 0))
            numbers = (name[len(made) :].removesuffix(".json") for name in self.run.names(made))
            top = max((int(number) for number in numbers if number.isdecimal()), default=None)
            if top is not None:
                file, first, versions = self.read_record(level, top)
                if first + len(versions) > covered:
                    raise WorkerError(
                        f"{file[0]} was made of the files {first} to {first + len(versions) - 1} "
                        f"of level 1, and the result would be of the first {covered} alone: give "
                        "as NUMBER, and as FILES of each level, how many files there are"
                    )

    def names_of_level_1(self) -> set[str]:
        """All that is in level 1, from a listing, but for files that a killed writer of ours
        left."""
        place = folder(self.file(0))
        left = re.compile(re.escape(place) + TEMPORARY)
        found = {name for name in self.run.names(place) if not left.fullmatch(name)}
        if len(found) > MAX_LEVEL_1:
            raise WorkerError(
                f"{place} has {len(found)} files and may have {MAX_LEVEL_1}: join small ones before"
            )
        return found

    def check_level_1(self, wanted: range, total: str = "") -> None:
        """Check that level 1 has these files. With `total`, the setting that says how many there
        are, also that nothing else is there: nobody would read it. The check lists the folder:
        never probe for a file that may not exist yet, some mounts cache the miss."""
        there = self.names_of_level_1()
        for number in wanted:
            if (name := self.file(number)) not in there:
                other = f", or give as {total}, which is {wanted.stop}, how many there are"
                raise WorkerError(f"{name} is not there: write it before{other if total else ''}")
            there.remove(name)
        if total and there:
            raise WorkerError(
                f"{min(there)} is there and {total} is {wanted.stop}: give as {total} how many "
                f"files there are, name the file <number>{self.suffix} with no leading zero, or "
                "move it away"
            )
