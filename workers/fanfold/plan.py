"""The plan, which split commits and every other step reads, and its format in plan.json.

files.md has a sample. The plan's id is a digest of the inputs, their versions, the mode and the
cuts. cuts.py chooses the cuts.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections import deque, namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from fanfold import part_ids
from fanfold.errors import OldViewError, WorkerError
from fanfold.names import DIGITS, NEWEST_PLAN, PLAN, digest
from fanfold.settings import FILES
from fanfold.storage import Segment, Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Input(NamedTuple):
        """An input file as split found it."""

        name: str
        size: int  # in bytes
        version: str
        item: object = None  # the file's object in a list of inputs
        taken: bool = False  # the output is taken over from an earlier result

else:  # the import of typing takes 2 ms per worker
    Input = namedtuple("Input", "name size version item taken", defaults=(None, False))

FORMAT = 2  # of plan.json and of records; other formats are refused
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # bad JSON

encode = json.JSONEncoder(separators=(",", ":")).encode

MOST = 4 << 20  # bytes before the inputs: 100,000 cuts take half
_INPUTS, _END = b'],"inputs":[', b"]}"  # lines of plan.json


def open_plan(run: Storage, wanted: str = "") -> Plan:
    """Open the plan with the id `wanted` (PLAN_ID), or the newest plan if `wanted` is empty."""
    name = PLAN.format(wanted) if wanted else NEWEST_PLAN
    return Plan(name, run.stream(name), wanted)


class Inputs:
    """Inputs in little memory: their lines in plan.json, and the end of each input as an offset in
    all inputs together."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ends = array("Q")
        self.bytes = 0  # of the inputs added so far
        self.left_out = 0  # lines of an outputs.jsonl for failed files

    def add(self, item: Input, *, keep: bool = True) -> None:
        """Add the next input. With keep=False only its size is counted."""
        self.bytes += item.size
        if keep:
            used = 5 if item.taken else 4 if item.item is not None else 3
            self.lines.append(encode([*item[:4], 1][:used]).encode())
            self.ends.append(self.bytes)

    def files(self, first: int, stop: int) -> Iterator[Input]:
        """Yield kept inputs from index `first` to `stop`."""
        return (Input(*json.loads(self.lines[index])) for index in range(first, stop))

    def take(self, taken: Iterable[int]) -> None:
        """Mark the inputs with these ascending indexes as taken over from an earlier result. They
        do not count in the even shares of the parts."""
        rest, size = iter(taken), 0
        next_taken = next(rest, -1)
        for index, item in enumerate(self.files(0, len(self.lines))):
            if index == next_taken:
                self.lines[index] = encode([*item[:4], 1]).encode()
                next_taken = next(rest, -1)
            else:
                size += item.size
            self.ends[index] = size

    def segments(self, at: int, stop: int) -> Iterator[Segment]:
        """Yield the segments between two offsets in all inputs together."""
        index = bisect_right(self.ends, at)
        while at < stop:
            name, size, version, *_ = json.loads(self.lines[index])
            end = self.ends[index]
            if length := min(stop, end) - at:
                yield name, version, at - (end - size), length
            at, index = at + length, index + 1


class _Lines:
    """Lines that can be iterated several times."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return self._make()


def make_plan(
    source: str, mode: str, inputs: Inputs, cuts: Sequence[int], before: Segment | None = None
) -> tuple[str, Iterable[bytes]]:
    """Return the id of a plan, which is the digest of all lines except the first, and its lines.
    `source` is INPUT. `cuts` are offsets in all inputs together, or in mode files indexes of files.
    `before` is the outputs.jsonl from which results are taken over."""

    def body() -> Iterator[bytes]:
        totals = {"input": source, "mode": mode, "bytes": inputs.bytes, "files": len(inputs.lines)}
        yield (
            encode({**totals, "before": before} if before else totals)[1:-1].encode()
            + b',"cuts":[\n'
        )
        for index, cut in enumerate(cuts):
            yield b"%b%d\n" % (b"," if index else b"", cut)
        yield _INPUTS + b"\n"
        for index, line in enumerate(inputs.lines):
            yield b"%b%b\n" % (b"," if index else b"", line)
        yield _END + b"\n"

    def text() -> Iterator[bytes]:
        yield f'{{"format":{FORMAT},"id":"{plan_id}",\n'.encode()
        yield from body()

    plan_id = digest(body())
    return plan_id, _Lines(text)


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream of pieces, without line ends."""
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
    """A plan, read in pieces: first its head and cuts, then the inputs of some or all parts."""

    def __init__(self, name: str, pieces: Iterable[bytes], wanted: str = "") -> None:
        """Read everything before the inputs. `wanted` is the required id, or empty."""
        self.name, self.wanted = name, wanted
        text, rest = b"", iter(pieces)
        while _INPUTS not in text and len(text) < MOST and (piece := next(rest, b"")):
            text += piece
        first, _, text = text.partition(b"\n")
        try:
            head = json.loads(first.removesuffix(b",") + b"}")
            self.id, found = str(head.get("id")), head.get("format")
        except UNREADABLE:
            raise self._corrupt() from None
        if found != FORMAT:
            raise self.misfit(
                f"{name} must have format {FORMAT}, got {found!r}: use images of one version in "
                "all steps and run split.py again"
            )
        if wanted not in ("", self.id):
            raise OldViewError(
                f"PLAN_ID must be {self.id}, the plan in {name}, got {wanted}: run split.py again"
            )
        known, found, text = text.partition(_INPUTS)
        self._body = lines(self._proven(known + found, chain([text], rest)))
        line, _, self._cuts = known.partition(b"\n")
        self.num_parts = self._cuts.count(b"\n,")
        try:
            totals = json.loads(b"{%b]}" % line)
            self.source, self.mode = str(totals["input"]), str(totals["mode"])
            self.bytes, self.files = int(totals["bytes"]), int(totals["files"])
            name, version, at, size = totals.get("before") or ("", "", 0, 0)
            self.before: Segment = str(name), str(version), int(at), int(size)
            last = self._cuts[self._cuts.rfind(b",") + 1 :]
            end = self.files if self.mode == FILES else self.bytes
            if not self.num_parts or self._cuts[:2] != b"0\n" or int(last) != end:
                raise ValueError
        except UNREADABLE:
            raise self._corrupt() from None

    def cuts(self) -> Sequence[int]:
        """Return the start of each part and the end of the last part."""
        try:
            return array("Q", map(int, self._cuts.split(b"\n,")))
        except (ValueError, OverflowError):
            raise self._corrupt() from None

    def parts(self, wanted: Sequence[range]) -> tuple[dict[int, tuple[int, int]], Inputs]:
        """Return the start and end of each of these ascending parts, and their inputs. The other
        inputs are read for the proof but not kept."""
        if wanted[-1].stop > self.num_parts:
            raise self.misfit(
                f"PART_ID must be less than {self.num_parts}, the number of parts in {self.name}, "
                f"got {part_ids.show(wanted):.200}: use a part id that split printed"
            )
        found = self._cuts.split(b"\n,", wanted[-1].stop + 1)  # of 100,000 cuts, only those needed
        try:
            parts = {n: (int(found[n]), int(found[n + 1])) for n in chain.from_iterable(wanted)}
        except ValueError:
            raise self._corrupt() from None
        spans = deque((parts[one[0]][0], parts[one[-1]][1]) for one in wanted)
        inputs, end = Inputs(), 0
        for item in self.inputs():
            begin, end = end, end + (1 if self.mode == FILES else item.size)
            while spans and spans[0][1] <= begin:
                spans.popleft()
            inputs.add(item, keep=bool(spans) and begin < spans[0][1] and spans[0][0] < end)
        return parts, inputs

    def inputs(self) -> Iterator[Input]:
        """Yield every input, in order, only once. The end proves that split.py wrote the plan."""
        total = 0
        try:
            if next(self._body, b"?"):  # the rest of the previous line
                raise ValueError
            for line in self._body:
                if line == _END:
                    break
                item = Input(*json.loads(line.removeprefix(b",")))
                total += item.size
                yield item
            if total != self.bytes or [*self._body]:
                raise ValueError
        except UNREADABLE:
            raise self._corrupt() from None

    def _proven(self, known: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the rest of the plan. At its end, check the digest of all lines after the first:
        `known` and the rest."""
        from hashlib import sha256

        proof = sha256(known)
        for piece in pieces:
            proof.update(piece)
            yield piece
        if proof.hexdigest()[:DIGITS] != self.id:
            raise self._corrupt()

    def misfit(self, sentence: str) -> WorkerError:
        """The error for a valid plan that does not fit the settings. Without PLAN_ID, a mount may
        still show an older plan as the newest."""
        return WorkerError(sentence) if self.wanted else OldViewError(sentence)

    def _corrupt(self) -> WorkerError:
        return OldViewError(f"{self.name} is not a plan that split.py wrote: run split.py again")
