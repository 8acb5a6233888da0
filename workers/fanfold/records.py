"""Records: what each output records about itself, and how readers check it.

files.md has a sample of each. A record commits an output. First the output is written under a name
that is unique to the attempt. Then the record is written under a fixed name, with the output's
name, size and version. An output without a record does not count. A record's first line is a digest
of all that follows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from math import isfinite

from fanfold.errors import WorkerError
from fanfold.names import PART_RECORD, digest
from fanfold.parallel import map_in_order
from fanfold.plan import FORMAT, UNREADABLE, encode
from fanfold.storage import Segment, Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Counts = dict[str, "int | float"]

MAX_DIGITS = 4000  # of an integer: Python's limit
TOO_LARGE = 10**MAX_DIGITS  # computed once: this takes longer than to read a record


def seal(fields: Mapping[str, object]) -> bytes:
    """Format a record for storage."""
    body = f"{encode({'format': FORMAT, **fields})[1:]}\n".encode()
    return b'{"digest":"%b",\n%b' % (digest([body]).encode(), body)


def unseal(text: bytes) -> dict[str, Any]:
    """Parse a record. Raises one of UNREADABLE if it is incomplete or changed."""
    head, _, body = text.partition(b"\n")
    if head != b'{"digest":"%b",' % digest([body]).encode():
        raise ValueError("the digest does not match")
    found: dict[str, Any] = json.loads(b"{" + body)
    if found["format"] != FORMAT:
        raise ValueError("the format does not match")
    return found


def maker(environ: Mapping[str, str], start: float) -> dict[str, object]:
    """Return who made an output, and when: run, pod, node, attempt (from 1; 0 if unknown), start
    and end."""
    pod = environ.get("POD_NAME") or os.uname().nodename
    attempt = environ.get("RETRIES", "")[:9]
    return {
        "run": environ.get("RUN_ID", ""),
        "pod": pod,
        "node": environ.get("NODE_NAME", ""),
        "attempt": int(attempt) + 1 if attempt.isdecimal() else 0,
        "start": utc(start),
        "end": utc(time.time()),
    }


def utc(seconds: float) -> str:
    """Format a time in ISO 8601, to the millisecond."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def find_bad_count(counts: Mapping[str, object]) -> str:
    """Describe a number of a map that merge cannot add, or return an empty string."""
    for name, number in counts.items():
        if not isinstance(name, str) or name.encode("utf-8", "replace").decode() != name:
            return f"the name {name!r}, which is not UTF-8 text"
        if type(number) is not int and not (isinstance(number, float) and isfinite(number)):
            return f"{name!r}: {number!r:.200}, which is not a finite number"
        if type(number) is int and abs(number) >= TOO_LARGE:
            return f"{name!r}: a number of more than {MAX_DIGITS} digits"
    return ""


def counts_of(answer: Mapping[str, int | float] | None) -> Counts:
    """Return the checked result of a map function."""
    try:
        counts = {} if answer is None else dict(answer)
        problem = find_bad_count(counts)
    except (TypeError, ValueError):  # not a mapping
        counts, problem = {}, f"{answer!r:.200}"
    if problem:
        raise WorkerError(
            f"the map must return finite numbers by name, got {problem}: correct the map"
        )
    return counts


def job_id(plan_id: str, settings: Mapping[str, object]) -> str:
    """Return the id of a job: a plan and the settings of its map."""
    return digest([encode([plan_id, settings]).encode()])


def from_utc(text: str) -> float:
    """Parse a time in ISO 8601 to seconds since 1970."""
    from datetime import datetime  # only the last step parses times

    return datetime.fromisoformat(text).timestamp()


def seal_part(
    part: str,
    *,
    job: str,
    plan: str,
    size: int,
    counts: Counts,
    output: Segment | None,
    made: Mapping[str, object],
    files: Mapping[str, int] | None = None,
) -> bytes:
    """Format the record of a part. To add a field, add it here and in PartRecord. In mode files,
    `files` has the numbers of files, and the output has a line per file."""
    named = as_input(output) if output else None
    fields = {
        "job": job,
        "plan": plan,
        "part": part,
        "bytes": size,
        **(files or {}),
        "counts": counts,
    }
    return seal({**fields, "output": named, **made})


class PartRecord:
    """The record of a part, checked against its job, part and size. In mode files the size is a
    number of files."""

    def __init__(self, text: bytes, job: str, part: str, size: int) -> None:
        """Parse the record. `problem` is empty, or names the error in a word."""
        self.part, self.problem = part, ""
        self.counts: Counts = {}
        self.output: Segment | None = None
        self.run, self.start, self.size = "", "", 0
        self.fields: Mapping[str, object] = {}  # all fields of the record
        try:
            found = unseal(text)
            if (found["job"], found["part"]) != (job, part) or find_bad_count(found["counts"]):
                raise ValueError
            if found["output"]:
                name, length, version = found["output"]
                self.output = str(name), str(version), 0, int(length)
            self.run, self.start = str(found["run"]), str(found["start"])
            self.counts, self.size, self.fields = dict(found["counts"]), int(found["bytes"]), found
            if found.get("files", found["bytes"]) != size:
                self.problem = "short"
        except UNREADABLE:
            self.problem = "corrupt"

    @classmethod
    def missing(cls, part: str) -> PartRecord:
        """Return the result for a part without a record."""
        record = cls(b"", "", part, 0)
        record.problem = "missing"
        return record


def read_parts(run: Storage, job: str, parts: Iterable[tuple[str, int]]) -> Iterator[PartRecord]:
    """Yield the record of every part of these ids and sizes."""

    def look(part: tuple[str, int]) -> PartRecord:
        try:
            text = b"".join(run.stream(PART_RECORD.format(job, part[0])))
        except FileNotFoundError:
            return PartRecord.missing(part[0])
        return PartRecord(text, job, *part)

    return map_in_order(look, parts, batch=8)


def find_done(
    run: Storage, job: str, parts: Iterable[tuple[str, int]], counts: Callable[[PartRecord], bool]
) -> set[str]:
    """Return the parts with a valid record for which `counts` is true, and with their output if the
    record names one."""

    def is_done(found: PartRecord) -> bool:
        if found.problem or not counts(found):
            return False
        if not found.output:
            return True
        name, version, _, size = found.output
        with suppress(FileNotFoundError), run.open(name) as file:
            return (file.version, file.size) == (version, size)
        return False

    found = read_parts(run, job, parts)
    done = map_in_order(lambda one: one.part if is_done(one) else "", found, batch=8)
    return set(filter(None, done))


def as_input(output: Segment) -> list[object]:
    """Format an output for a record: name, size in bytes, version."""
    name, version, _, size = output
    return [name, size, version]
