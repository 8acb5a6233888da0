"""A custom map of which no two attempts write the same bytes: all lines of the part, behind a head
that names the part and the attempt. Its numbers are the letters, and that of the attempt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

from fanfold import Part, map_part


def own(part: Part) -> Mapping[str, int]:
    """Copy the part, piece by piece, and count."""
    attempt = 10**14 + int.from_bytes(os.urandom(5), "big")
    part.write(b"[%b.%d]" % (part.id.encode(), attempt))
    found: Counter[str] = Counter(attempt=attempt)
    for piece in part.pieces():
        part.write(piece)
        found.update(letter for letter in piece.decode() if letter.isalpha())
    return found


if __name__ == "__main__":
    raise SystemExit(map_part(own))
