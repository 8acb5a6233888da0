"""A custom map with other output bytes in each attempt: a head with the part and the attempt, then
all lines of the part. Its numbers are counts of letters and the number of the attempt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fanfold import Part, Stream, map_part


def own(part: Part) -> Mapping[str, int]:
    """Copy the part, piece by piece, and count."""
    attempt = 10**14 + int.from_bytes(os.urandom(5), "big")
    part.write(b"[%b.%d]" % (part.id.encode(), attempt))
    found: Counter[str] = Counter(attempt=attempt)
    for piece in part.pieces():
        part.write(piece)
        found.update(letter for letter in piece.decode() if letter.isalpha())
    return found


def plain(part: Part) -> Mapping[str, int]:
    """Copy a file with a sign at each end, and count. Every attempt writes the same bytes."""
    found = Counter[str]()
    part.write(b"<")
    for piece in part.pieces():
        part.write(piece)
        found.update(letter for letter in piece.decode() if letter.isalpha())
    part.write(b">")
    return found


def join(streams: Sequence[Stream]) -> Iterator[bytes]:
    """Join all outputs, each read by itself."""
    for stream in streams:
        yield from stream.pieces()


if __name__ == "__main__":
    raise SystemExit(map_part(own))
