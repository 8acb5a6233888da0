"""The plan: what split commits and every other step goes by, and how plan.json states it.

README.md, "Files", has a sample. The plan's id is a digest of the inputs, their versions, the mode
and the cuts. cuts.py decides where the cuts are.
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
        """A file of the input as split found it."""

        name: str
        size: int  # in bytes
        version: str
        item: object = None  # what a list of inputs says of the file
        taken: bool = False  # over from an earlier result

else:  # to import typing costs every worker 2 ms
    Input = namedtuple("Input", "name size version item taken", defaults=(None, False))

FORMAT = 2  # of plan.json and of a record; any other is refused
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # JSON's errors

encode = json.JSONEncoder(separators=(",", ":")).encode

MOST = 4 << 20  # bytes before the inputs: 100,000 cuts take half
_INPUTS, _END = b'],"inputs":[', b"]}"  # lines of plan.json


def open_plan(run: Storage, wanted: str = "") -> Plan:
    """The plan with the id `wanted`, which is PLAN_ID, or if that is empty the newest plan."""
    name = PLAN.format(wanted) if wanted else NEWEST_PLAN
    return Plan(name, run.stream(name), wanted)


class Inputs:
    """Inputs in little memory: the lines of plan.json that state them, and where each ends in all
    of them together."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ends = array("Q")
        self.bytes = 0  # of the inputs up to here
        self.left_out = 0  # lines of an outputs.jsonl whose file has failed

    def add(self, item: Input, *, keep: bool = True) -> None:
        """The next one. It counts also if it is not kept."""
        self.bytes += item.size
        if keep:
            used = 5 if item.taken else 4 if item.item is not None else 3
            self.lines.append(encode([*item[:4], 1][:used]).encode())
            self.ends.append(self.bytes)

    def files(self, first: int, stop: int) -> Iterator[Input]:
        """Some of those that are kept, counted from 0."""
        return (Input(*json.loads(self.lines[index])) for index in range(first, stop))

    def take(self, taken: Iterable[int]) -> None:
        """Mark those that an earlier result has made, in ascending order. They take no part in the
        even shares."""
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
        """The segments between two offsets in all inputs together."""
        index = bisect_right(self.ends, at)
        while at < stop:
            name, size, version, *_ = json.loads(self.lines[index])
            end = self.ends[index]
            if length := min(stop, end) - at:
                yield name, version, at - (end - size), length
            at, index = at + length, index + 1


class _Lines:
    """Lines that can be gone through again."""

    def __init__(self, make: Callable[[], Iterator[bytes]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return self._make()


def make_plan(
    source: str, mode: str, inputs: Inputs, cuts: Sequence[int], before: Segment | None = None
) -> tuple[str, Iterable[bytes]]:
    """The id of a plan, which is the digest of all lines but the first, and its lines.
    `source` is INPUT; `cuts` are offsets in all inputs together, or in the mode files numbers of
    files; `before` is the outputs.jsonl that has what is taken over."""

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
    """A plan that is read in pieces: its head and cuts, then the inputs of some parts or all."""

    def __init__(self, name: str, pieces: Iterable[bytes], wanted: str = "") -> None:
        """Read all but the inputs; `wanted` is the id that the plan must have, or empty."""
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
                f"{name} has format {found!r} and this worker reads {FORMAT}: use images of one "
                "version in all steps and run split.py again"
            )
        if wanted not in ("", self.id):
            raise OldViewError(
                f"{name} is plan {self.id} and PLAN_ID is {wanted}: run split.py again"
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
        """Where each part begins, and the last one ends."""
        try:
            return array("Q", map(int, self._cuts.split(b"\n,")))
        except (ValueError, OverflowError):
            raise self._corrupt() from None

    def parts(self, wanted: Sequence[range]) -> tuple[dict[int, tuple[int, int]], Inputs]:
        """Where each of these parts, which are in ascending order, begins and ends, and the inputs
        that they are in. The other inputs are read for the proof, but not kept."""
        if wanted[-1].stop > self.num_parts:
            raise self.misfit(
                f"PART_ID is {part_ids.show(wanted):.200} and {self.name} has {self.num_parts} "
                "parts, counted from 0: give some of these"
            )
        found = self._cuts.split(b"\n,", wanted[-1].stop + 1)  # of 100,000 cuts no more than needed
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
        """Every input, in order, once. The last one proves that split.py wrote the plan."""
        total = 0
        try:
            if next(self._body, b"?"):  # of the line before
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
        """What follows in the plan. The last step proves that split.py committed it, and what is
        known of the lines after the first."""
        from hashlib import sha256

        proof = sha256(known)
        for piece in pieces:
            proof.update(piece)
            yield piece
        if proof.hexdigest()[:DIGITS] != self.id:
            raise self._corrupt()

    def misfit(self, sentence: str) -> WorkerError:
        """The error for a plan that is whole and does not fit the settings. Without PLAN_ID a mount
        may show a plan that was the newest one before."""
        return WorkerError(sentence) if self.wanted else OldViewError(sentence)

    def _corrupt(self) -> WorkerError:
        return OldViewError(f"{self.name} is not a plan that split.py wrote: run split.py again")
