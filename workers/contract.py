"""The contract between the workers: settings, names, the plan, a part's result, the errors.

README.md beside this file tells it to people, with a sample of every format. All names are
relative to WORK_DIR; what a run writes lies under RUN_DIR, a folder in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from math import isfinite

Input = tuple[str, int, str]  # name, size in bytes, version
Segment = tuple[str, str, int, int]  # name and version of an input, offset, length
Part = tuple[str, int, str, list[Segment]]  # id, size in bytes, edges of a copy, its bytes
Counts = dict[str, "int | float"]

FORMAT = 1  # of plan.json and of a part's result; another is refused
MAX_PARTS = 100_000
DIGITS = 32  # of an id: a workflow keeps the plan's twice a part, and Argo bounds its size
EDGE = 4096  # bytes at each end of a part that its copy is known by
MOST = 10**9  # files or levels of process-data; more is a slip

# Names in the run directory.
PLAN = "split-output/plan.json"
COPY = "split-output/{}.txt"  # of a part, by its id
COUNT = "cout-output/{}.json"  # a part's result; spelled as the tutorial spells it
RESULT = "result.json"
LEVEL = "aggregation-demo/l{}/{}.txt"  # a file, by its level and number
LEVEL_RESULT = "aggregation-demo/result.txt"

_PARTS, _END = b'],"parts":[', b"]}"  # lines of plan.json
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_encode = json.JSONEncoder(separators=(",", ":")).encode


class WorkerError(Exception):
    """What the operator can fix: one sentence that names the object, the value and the remedy."""

    exit_code = 2


class RetryError(WorkerError):
    """What another attempt can mend, such as a file that a mount's cache still hides."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


def changed(name: str, old: object, new: object) -> RetryError:
    """The error of a file that is not what the plan says."""
    return RetryError(
        f"{name} has changed from {old} to {new}: leave the file alone during a run and "
        "begin the run again, unless it is a mount that shows an old version on this node: then a "
        "retry can help"
    )


# --- settings


def whole_number(what: str, text: str, low: int, high: int) -> int:
    """`text` as a number; `what` names it in the error."""
    if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
        return int(text)
    raise WorkerError(f"{what} is {text!r}: give a whole number from {low} to {high}")


def choice(environ: Mapping[str, str], name: str, *choices: str) -> str:
    """A setting that is one of `choices`; the first is the default."""
    if (text := environ.get(name, choices[0])) in choices:
        return text
    raise WorkerError(f"{name} is {text!r}: give one of {', '.join(choices)}")


def inside(what: str, text: str) -> str:
    """`text` as a plain name below WORK_DIR, with the / at its end if it has one."""
    steps = [step for step in text.split("/") if step not in ("", ".")]
    if text.startswith("/") or ".." in steps or "\0" in text:
        raise WorkerError(f"{what} is {text!r}: give a name in WORK_DIR, with no leading / or ..")
    return "/".join(steps) + "/" * (bool(steps) and text.endswith("/"))


def run_dir(environ: Mapping[str, str]) -> str:
    """RUN_DIR as a prefix of names: empty, or with a / at its end."""
    name = inside("RUN_DIR", environ.get("RUN_DIR", "")).rstrip("/")
    return name and name + "/"


def folder(name: str) -> str:
    """The folder that a name lies in, with a / at its end."""
    return name[: name.rfind("/") + 1]


def input_name(environ: Mapping[str, str]) -> str:
    """INPUT: a file, or with a final / every file below a folder."""
    text = environ.get("INPUT", "log-count-data.txt")
    name = inside("INPUT", text)
    for output in (run_dir(environ) + part for part in (folder(COPY), folder(COUNT), RESULT)):
        taken = (name + "/").startswith(output.removesuffix("/") + "/")
        if taken or (text.endswith("/") and output.startswith(name)):
            raise WorkerError(f"INPUT is {text!r} and the run writes {output}: part them")
    if not name:
        raise WorkerError(f"INPUT is {text!r}: give the name of a file, or of a folder and a /")
    return name


def keywords(environ: Mapping[str, str]) -> list[str]:
    """KEYWORDS, parted at commas and otherwise taken as they stand, spaces included."""
    text = environ.get("KEYWORDS", "INFO,WARN,ERROR,DEBUG")
    words = text.split(",")
    for word in words:
        utf8 = word.encode("utf-8", "replace").decode() == word
        if not word or not utf8 or words.count(word) > 1 or set(word) & set("\r\n"):
            raise WorkerError(
                f"KEYWORDS is {text!r}, where {word!r} is empty, repeated, not UTF-8 or holds a "
                "line end: give different words with a comma between them"
            )
    return words


def map_settings(environ: Mapping[str, str]) -> dict[str, object]:
    """What a result must say of its making: the keywords, or, for a map of one's own, a digest
    of MAP_SETTINGS."""
    text = environ.get("MAP_SETTINGS")
    if not text:
        return {"keywords": keywords(environ)}
    return {"settings": digest([text.encode("utf-8", "surrogateescape")])}


def digest(pieces: Iterable[bytes]) -> str:
    """The first DIGITS of SHA-256, in hex, of the pieces one after the other."""
    from hashlib import sha256  # loads OpenSSL: only who needs it pays

    total = sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()[:DIGITS]


# --- the plan: what split.py decides and the others go by


def plan_head(plan_id: str) -> bytes:
    """The first line of plan.json; the id is the digest of all that follows it."""
    return f'{{"format":{FORMAT},"id":"{plan_id}",\n'.encode()


NO_PLAN = plan_head("")  # in the place of a plan whose copies are being replaced


def plan_body(
    mode: str, inputs: Sequence[Input], cuts: Sequence[int], marks: Sequence[str]
) -> Iterator[bytes]:
    """What follows it: a line an input and a line a part, so that a map finds its own part
    without holding the others. `cuts` are offsets in the inputs laid end to end, `marks` the
    edges of the copies in the mode copy."""
    totals = f'"mode":"{mode}","num_parts":{len(cuts) - 1},"bytes":{cuts[-1]},"inputs":[\n'
    yield totals.encode()
    for index, item in enumerate(inputs):
        yield f"{',' if index else ''}{_encode(item)}\n".encode()
    yield _PARTS + b"\n"
    for part_id, size, edge, segments in cut_parts(inputs, cuts, marks):
        line = _encode({"part": part_id, "bytes": size, "edges": edge, "segments": segments})
        yield f"{',' if part_id != '0' else ''}{line}\n".encode()
    yield _END + b"\n"


def cut_parts(
    inputs: Sequence[Input], cuts: Sequence[int], marks: Sequence[str] = ()
) -> Iterator[Part]:
    """The parts between the cuts; an empty part has no segments."""
    files = iter(inputs)
    name, version, begin, end = "", "", 0, 0  # the input at hand, and where it lies
    for number in range(len(cuts) - 1):
        at, stop = cuts[number], cuts[number + 1]
        segments: list[Segment] = []
        while at < stop:
            while at == end:
                name, size, version = next(files)
                begin, end = end, end + size
            length = min(stop, end) - at
            segments.append((name, version, at - begin, length))
            at += length
        yield str(number), stop - cuts[number], marks[number] if marks else "", segments


def edges(head: Iterable[bytes], tail: Iterable[bytes]) -> str:
    """What a copy is known by: a digest of its edges."""
    return digest(chain(head, tail))[:16]


def edge_lengths(part: Part) -> tuple[int, int]:
    """How many bytes of its first and of its last segment a copy is known by."""
    segments = part[3]
    return min(EDGE, segments[0][3]), min(EDGE, segments[-1][3])


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream of pieces, without their line ends."""
    rest: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    if last := b"".join(rest):
        yield last


class Plan:
    """A plan as a reader sees it, line by line: its head, then one of its parts or all."""

    def __init__(self, name: str, pieces: Iterable[bytes], wanted: str = "") -> None:
        """Read the head; `wanted` is the id that it must have, where the workflow handed it on."""
        self.name, self._lines = name, lines(pieces)
        try:
            head = json.loads(next(self._lines, b"").removesuffix(b",") + b"}")
            self.id, found = str(head.get("id")), head.get("format")
            self._totals = next(self._lines, b"")
            totals = json.loads(b"{%b]}" % self._totals) if found == FORMAT and self.id else {}
        except _UNREADABLE:
            raise self._corrupt() from None
        if found != FORMAT:
            raise WorkerError(
                f"{name} has format {found!r} and this worker reads {FORMAT}: use images of one "
                "version in all steps and run split.py again"
            )
        if not self.id:
            raise RetryError(
                f"{name} is being made, or its split.py has failed: wait for it, or run it again"
            )
        if wanted not in ("", self.id):
            raise RetryError(
                f"{name} is plan {self.id} and PLAN_ID is {wanted}: if this node's mount shows an "
                "old plan a retry can help; else run split.py again"
            )
        self.mode, self.num_parts = str(totals.get("mode")), totals.get("num_parts")

    def part(self, number: int) -> Part:
        """One part; the others are read for the proof, but not held."""
        start = b'%b{"part":"%d",' % (b"," if number else b"", number)
        found = [line for line in self._proven() if line.startswith(start)]
        if not found:
            raise WorkerError(
                f"PART_ID is {number} and {self.name} has {self.num_parts} parts, counted from 0: "
                "give one of these"
            )
        return self._part(found[0])

    def parts(self) -> Iterator[Part]:
        """Every part in order, and in the end the proof that they hold every byte of the inputs
        once."""
        body = self._proven()
        try:
            inputs = [
                json.loads(line.removeprefix(b",")) for line in takewhile(_PARTS.__ne__, body)
            ]
            uncovered = ((name, version, size) for name, size, version in inputs if size)
            name, version, size, at = "", "", 0, 0
            for line in takewhile(_END.__ne__, body):
                part = self._part(line)
                for segment in part[3]:
                    if at == size:
                        (name, version, size), at = next(uncovered), 0
                    if segment[:3] != (name, version, at) or not 0 < segment[3] <= size - at:
                        raise ValueError
                    at += segment[3]
                if part[1] != sum(segment[3] for segment in part[3]):
                    raise ValueError
                yield part
            if at != size or [*uncovered, *body]:
                raise ValueError
        except (*_UNREADABLE, StopIteration):
            raise self._corrupt() from None

    def _proven(self) -> Iterator[bytes]:
        """The other lines, and in the end the proof that they are what split.py committed."""
        from hashlib import sha256

        proof = sha256(self._totals + b"\n")
        for line in self._lines:
            proof.update(line + b"\n")
            yield line
        if proof.hexdigest()[:DIGITS] != self.id:
            raise self._corrupt()

    def _part(self, line: bytes) -> Part:
        try:
            record = json.loads(line.removeprefix(b","))
            segments = [(name, version, at, size) for name, version, at, size in record["segments"]]
            return record["part"], record["bytes"], record["edges"], segments
        except _UNREADABLE:
            raise self._corrupt() from None

    def _corrupt(self) -> WorkerError:
        return WorkerError(
            f"{self.name} is not a plan that split.py wrote: delete it and run split.py again"
        )


# --- a part's result: what a map publishes and merge.py verifies


def result(plan_id: str, part: Part, settings: Mapping[str, object], **made: object) -> bytes:
    """A part's result; `made` is its counts and its times."""
    record = {"format": FORMAT, "plan": plan_id, "part": part[0], "bytes": part[1]}
    return f"{_encode({**record, **settings, **made})}\n".encode()


def are_counts(counts: Mapping[str, object]) -> bool:
    """Whether these are numbers, finite ones, by name."""
    return {str}.issuperset(map(type, counts)) and all(
        type(n) is int or (isinstance(n, float) and isfinite(n)) for n in counts.values()
    )


def check_result(
    text: bytes, plan_id: str, part: Part, settings: Mapping[str, object]
) -> tuple[Counts, str]:
    """The counts of a result, and a word for what is wrong with it if anything is."""
    try:
        record = json.loads(text)
        counts = dict(record["counts"])
        names = settings.get("keywords", list(counts))
        if record["format"] != FORMAT or not are_counts(counts):
            return {}, "corrupt"
        if (record["plan"], record["part"]) != (plan_id, part[0]):
            return {}, "stale"
        if {key: record.get(key) for key in settings} != settings or list(counts) != names:
            return {}, "stale"
        return (counts, "") if record["bytes"] == part[1] else ({}, "short")
    except _UNREADABLE:
        return {}, "corrupt"
