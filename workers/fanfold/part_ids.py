"""Part ids: how PART_ID names several parts, as in 0-3,7, and how split prints groups of parts."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice

from fanfold.errors import WorkerError

MAX_PARTS = 100_000
MOST = 8  # ranges per group that split prints; with more, it prints the whole group


def parse(text: str) -> list[range]:
    """Parse a PART_ID into ascending ranges of part numbers."""
    found: list[range] = []
    for word in text.split(","):
        match = re.fullmatch("([0-9]{1,6})(?:-([0-9]{1,6}))?", word)
        first = int(match[1]) if match else -1
        last = int(match[2] or first) if match else -1
        if not (found[-1].stop if found else 0) <= first <= last < MAX_PARTS:
            raise WorkerError(
                f"PART_ID must be ascending part numbers from 0 to {MAX_PARTS - 1}, such as 8, "
                f"0-49 or 0-3,7, got {text!r:.200}: use an id that split printed"
            )
        found.append(range(first, last + 1))
    return found


def ranges(numbers: Iterable[int]) -> Iterator[range]:
    """Group ascending numbers into ranges."""
    first = last = -1
    for number in numbers:
        if number != last + 1 or first < 0:
            if first >= 0:
                yield range(first, last + 1)
            first = number
        last = number
    if first >= 0:
        yield range(first, last + 1)


def show(found: Iterable[range]) -> str:
    """Format ranges as in PART_ID."""
    return ",".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in found)


def groups(count: int, per_pod: int, done: Container[int] = (), most: int = MOST) -> Iterator[str]:
    """Yield the unfinished parts of each group of `per_pod` parts as a PART_ID. If a group needs
    more than `most` ranges, yield the whole group: the map skips finished parts."""
    for start in range(0, count, per_pod):
        group = range(start, min(start + per_pod, count))
        missing = [number for number in group if number not in done]
        found: Sequence[range] = [*islice(ranges(missing), most + 1)]
        if found:
            yield show(found if len(found) <= most else [group])
