"""Cuts: chooses where the input is cut into parts, at line ends. Add other ways to cut here."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import chain, groupby

from fanfold.errors import ChangedError
from fanfold.parallel import map_in_order
from fanfold.plan import Inputs
from fanfold.storage import PIECE, Storage, StoredFile

FIRST_READ = 64 << 10  # bytes of the first read for a line end; each next read is twice as large
GROUP = 16  # cuts per open file


def find_cuts(work: Storage, inputs: Inputs, count: int) -> Sequence[int]:
    """Return `count` + 1 offsets in all inputs together. Each is the first line start at or after
    its even share. Takes one small read per part, for any size of the input."""
    total = inputs.bytes
    targets = [total * number // count for number in range(1, count)]
    groups = [targets[at : at + GROUP] for at in range(0, len(targets), GROUP)]
    looks = map_in_order(lambda group: line_starts(work, inputs, group, FIRST_READ), groups)
    cuts = array("Q", [0])
    for target, start in zip(targets, chain.from_iterable(looks), strict=True):
        if start >= 0:
            cuts.append(start)
        elif target <= cuts[-1]:  # in a line longer than FIRST_READ with a known end
            cuts.append(cuts[-1])
        else:
            cuts.extend(line_starts(work, inputs, [target], total))
    cuts.append(total)
    return cuts


def find_file_cuts(inputs: Inputs, count: int) -> Sequence[int]:
    """Return `count` + 1 indexes of files. Each is the first file that begins at or after its even
    share of the bytes to map, or of the files if there are no bytes."""
    files = len(inputs.lines)
    total = inputs.ends[-1] if files else 0
    ends = inputs.ends if total else range(1, files + 1)
    targets = ((total or files) * number // count for number in range(1, count))
    starts = (bisect_left(ends, target) + 1 if target else 0 for target in targets)
    return array("Q", [0, *(min(start, files) for start in starts), files])


def line_starts(work: Storage, inputs: Inputs, targets: Sequence[int], most: int) -> list[int]:
    """Return the first line start at or after each of the ascending targets, or -1 if none is
    within `most` bytes."""
    found: list[int] = []
    for index, group in groupby(targets, lambda target: bisect_right(inputs.ends, target)):
        if index == len(inputs.ends):  # only if the inputs are empty
            found.extend(group)
            continue
        name, size, version, *_ = json.loads(inputs.lines[index])
        begin = inputs.ends[index] - size
        with work.open(name, version, size) as file:
            for target in group:
                start = next_line(file, target - begin, most)
                found.append(start if start < 0 else begin + start)
    return found


def next_line(file: StoredFile, offset: int, most: int) -> int:
    """Return the first line start, or the end of the file, at or after `offset`, or -1 if none is
    within `most` bytes."""
    if offset == 0:
        return 0
    at, end, block = offset - 1, min(file.size, offset + most), FIRST_READ
    while at < end:
        piece = file.read(at, block)
        if not piece:
            raise ChangedError(file.name, f"{file.size} bytes", at)
        if (found := piece.find(b"\n")) >= 0:
            return at + found + 1
        at, block = file.data(at + len(piece)), min(2 * block, PIECE)
    return file.size if at >= file.size else -1
