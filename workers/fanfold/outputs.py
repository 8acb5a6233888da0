"""Outputs: outputs.jsonl, with a line for each file in mode files. The last step proves and
publishes it, and split takes over its valid results."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice, pairwise

from fanfold import publish, records
from fanfold.errors import OldViewError, RetryError, WorkerError
from fanfold.files import Line, begin_line
from fanfold.inputs import is_output
from fanfold.names import FILE_LINES
from fanfold.plan import UNREADABLE, Input, Inputs, Plan, encode, lines
from fanfold.storage import Segment, Storage, Writer
from fanfold.streams import Stream

SHOWN = 20  # names in an error
SAID = 300  # characters of the reason in an error
MOST_STREAMS = 10_000  # outputs that the last step reads one by one
LOST = -1  # instead of an exit code
BATCH, FEW = 1000, 250  # outputs per look-up; fewer for each of several parts


def read_lines(run: Storage, stored: Iterable[Segment]) -> Iterator[Line]:
    """Yield the lines of stored files."""
    for line in lines(run.read(stored)):
        yield json.loads(line)


def is_of(line: Line, file: Input) -> bool:
    """Whether a line is for a file at this version, with this item."""
    if (line["name"], line["version"]) != (file.name, file.version):
        return False
    # In Python 1, 1.0 and true are equal. A program gets the text.
    return encode(line.get("item")) == encode(file.item)


def with_outputs(
    work: Storage, found: Iterator[Line], most: int = BATCH
) -> Iterator[tuple[Line, bool]]:
    """Yield each line, and whether the output that it names, if any, exists."""
    while batch := list(islice(found, most)):
        there = work.versions([line["output"] for line in batch if line["output"]])
        batch.reverse()
        while batch:
            line = batch.pop()  # each line is freed before the next batch
            now = next(there) if line["output"] else None
            is_there = bool(now and is_output(work, line, now))
            if now and is_there:
                line["output_version"] = now[2]
            yield line, is_there or not line["output"]


def are_there(
    work: Storage, run: Storage, record: records.PartRecord, *, failed: bool = True
) -> bool:
    """Whether the outputs of all files of a part exist. Without `failed`, a part with a failed file
    does not count."""
    with suppress(FileNotFoundError, RetryError, *UNREADABLE):
        found = read_lines(run, [record.output] if record.output else [])
        lines = with_outputs(work, found, FEW)
        return all(is_there and (failed or line["exit"] == 0) for line, is_there in lines)
    return False


class Whole:
    """The lines of all files of a plan, in order, each checked against its file."""

    def __init__(self, work: Storage, run: Storage, plan: Plan) -> None:
        self.work, self.run, self.plan = work, run, plan
        self.lost: dict[str, list[str]] = {}  # by problem of the records: the part ids
        self.files, self.failed, self.taken, self.output_bytes = 0, 0, 0, 0
        self.first: list[str] = []  # some of the failed files
        self.said = ""  # why the first of them failed
        self.made: Segment = "", "", 0, 0  # the lines, after they are published

    def lines(self, parts: Iterable[records.PartRecord]) -> Iterator[Line]:
        """Yield the lines of the parts, and the lines of the earlier result that the plan takes
        over. All outputs exist. The files of a part without a record count as failed."""
        for line, is_there in with_outputs(self.work, self._lines(parts)):
            if not is_there:
                raise OldViewError(
                    f"{line['output']} is not the output that the map of {line['name']} made: do "
                    "not change outputs during a run, and map the file again with ONLY_MISSING=true"
                )
            self.files += 1
            self.output_bytes += line["output_bytes"]
            if line["exit"] != 0:
                self.failed += 1
                self.said = self.said or " ".join(line["said"].split())[-SAID:]
                if len(self.first) < SHOWN:
                    self.first.append(f"{line['name']:.120} ({shown(line['exit'])})")
            yield line

    def _lines(self, parts: Iterable[records.PartRecord]) -> Iterator[Line]:
        inputs, before = self.plan.inputs(), self.plan.before
        taken = read_lines(self.run, [before] if before[0] else [])
        for record, (at, stop) in zip(parts, pairwise(self.plan.cuts()), strict=True):
            found = read_lines(self.run, [record.output] if record.output else [])
            for file in islice(inputs, stop - at):
                if file.taken:
                    self.taken += 1
                    yield find(file, taken, before[0])
                elif record.problem:
                    if record.part not in (ids := self.lost.setdefault(record.problem, []))[-1:]:
                        ids.append(record.part)
                    yield lost(file, record.part)
                else:
                    yield find(file, islice(found, 1), f"the output of part {record.part}")
            if next(found, None):
                raise OldViewError(
                    f"the output of part {record.part} has lines of other files: map this part "
                    "again"
                )
        next(inputs, None)  # proves the plan

    def streams(self, *, is_each: bool) -> list[Stream]:
        """Return the outputs in the order of their files: joined, or one by one."""

        def outputs() -> Iterator[Segment]:
            for line in read_lines(self.run, [self.made]):
                if name := line["output"]:
                    yield name, line["output_version"], 0, line["output_bytes"]

        if not is_each:
            return [Stream(self.output_bytes, outputs, self.work)]
        found = list(islice(outputs(), MOST_STREAMS + 1))
        if len(found) > MOST_STREAMS:
            raise WorkerError(
                f"REDUCE_COMMAND must read stdin for more than {MOST_STREAMS} outputs, got a "
                "program or function that reads each output by itself: let it read stdin, or "
                f"reduce the outputs in a separate job with INPUT=@{FILE_LINES}"
            )
        return [Stream(one[3], partial(iter, [one]), self.work) for one in found]

    def error(self, text: str, place: str) -> WorkerError:
        """Return the error for more failed files than TOLERATED_FAILURES, `text`, allows."""
        more = f" and {self.failed - SHOWN} more" if self.failed > SHOWN else ""
        return WorkerError(
            f"TOLERATED_FAILURES is {text}, and {self.failed} of {self.files} files failed: "
            f"{', '.join(self.first)}{more}: fix the errors that {place} has, and run again with "
            f"ONLY_MISSING=true, which maps only these files; the first error: {self.said}"
        )


def shown(code: int) -> str:
    """Format an exit code for an error."""
    return "no pod has mapped it" if code == LOST else f"exit code {code}"


def find(file: Input, found: Iterable[Line], where: str) -> Line:
    """Find the line of a file in ordered lines."""
    with suppress(*UNREADABLE):
        for line in found:
            if is_of(line, file):
                return line
    raise OldViewError(f"{where} has no line of {file.name}: map the part of this file again")


def lost(file: Input, part: str) -> Line:
    """Return the line of a file that no pod has mapped."""
    sentence = f"no pod has mapped part {part} to its end"
    return {**begin_line(file), "exit": LOST, "said": sentence}


def settings_id(made_by: Mapping[str, object]) -> str:
    """Return the id of a map's settings."""
    return records.job_id("", made_by)


def commit(run: Storage, folder: str, made_by: Mapping[str, object], out: Writer) -> Segment:
    """Commit the outputs.jsonl of a run. Other runs may then take over results from `out`, a copy
    that no other attempt of the last step writes."""
    assert out.made  # noqa: S101
    made = run.copy(folder + FILE_LINES, run, [out.made])
    stored = records.as_input(out.made)
    fields = {"folder": folder, "settings": settings_id(made_by), "outputs": stored}
    run.put(folder + publish.RECORD.format(FILE_LINES), [records.seal(fields)])
    return made


def find_before(run: Storage, made_by: Mapping[str, object]) -> Segment | None:
    """Find the outputs.jsonl of the newest run with the same map settings."""
    for folder in publish.published(run, FILE_LINES):
        # Results that cannot be read are made again.
        with suppress(FileNotFoundError, *UNREADABLE):
            text = b"".join(run.stream(folder + publish.RECORD.format(FILE_LINES)))
            found = records.unseal(text)
            if (found["folder"], found["settings"]) == (folder, settings_id(made_by)):
                name, size, version = found["outputs"]
                with run.open(name) as file:
                    if file.version == version:
                        return name, version, 0, size
    return None


def find_taken(work: Storage, run: Storage, inputs: Inputs, before: Segment) -> array[int]:
    """Return the indexes of the inputs that succeeded at this version in an earlier result, with an
    output that still exists."""
    indexes = array("Q")

    def candidates() -> Iterator[Line]:
        found = read_lines(run, [before])
        line = next(found, None)
        for index, file in enumerate(inputs.files(0, len(inputs.lines))):
            while line and os.fsencode(line["name"]) < os.fsencode(file.name):
                line = next(found, None)
            if line and line["exit"] == 0 and is_of(line, file):
                yield {**line, "index": index}

    for line, is_there in with_outputs(work, candidates()):
        if is_there:
            indexes.append(line["index"])
    return indexes
