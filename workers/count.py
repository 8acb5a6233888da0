"""Count the keywords in one part: the map of log-count.

Reads   split-output/plan.json    and the bytes of part PART_ID: its copy, or a range of the input
Writes  cout-output/<id>.json     {"plan":...,"bytes":250,"counts":{"INFO":3,"WARN":0},...}
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others: a retry may help
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import contract
from worker import one_part, run_worker


def count(pieces: Iterable[bytes], keywords: Sequence[str]) -> dict[str, int]:
    """How often each keyword occurs in the pieces laid end to end, as bytes, from left to right
    without overlap. Holds one piece, whatever the length of a line."""
    words = [word.encode() for word in keywords]
    counts = [0] * len(words)
    starts = [0] * len(words)  # where in `text` the search for a word goes on
    # Of a word that can overlap itself the last one found from the left may not be the last one.
    overlaps = [any(word.endswith(word[:end]) for end in range(1, len(word))) for word in words]
    margin = max(map(len, words)) - 1  # bytes of a word that the next piece may complete
    text = b""
    for piece in pieces:
        text += piece
        lines_end = text.rfind(b"\n") + 1
        for index, word in enumerate(words):
            # No word holds a line end, so none that begins in these lines ends behind them.
            start = starts[index]
            counts[index] += text.count(word, start, lines_end)
            start = max(start, lines_end)
            if not overlaps[index] and (rest := text.count(word, start)):
                counts[index] += rest
                start = text.rfind(word, start) + len(word)
            while overlaps[index] and (found := text.find(word, start)) >= 0:
                counts[index] += 1
                start = found + len(word)
            starts[index] = start
        kept = max(0, len(text) - margin)
        starts = [max(0, start - kept) for start in starts]
        text = text[kept:]
    return dict(zip(keywords, counts, strict=True))


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the settings in the environment."""

    def work() -> None:
        keywords = contract.keywords(environ)
        one_part("count", lambda pieces: count(pieces, keywords), {"keywords": keywords}, environ)

    return run_worker("count", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
