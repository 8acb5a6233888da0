"""Count the keywords in one part, or in several, each by itself: the map of log-count.

Reads   split-output/<plan>/plan.json    and the bytes of part PART_ID: its copy, or the input's
Writes  cout-output/<job>/<id>.json      its record: {...,"counts":{"INFO":3,"WARN":0},...}
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others: a retry may help
Takes   PART_ID PLAN_ID ONLY_MISSING=false KEYWORDS=INFO,WARN,ERROR,DEBUG MAP_COMMAND MAP_SETTINGS
        OUTPUT_DIR=map-output OUTPUT_SUFFIX POD_NAME NODE_NAME RETRIES ARGO_PROGRESS_FILE

PART_ID=0-3,7 names five parts, which are counted one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from fanfold import mapping, settings, worker
from fanfold.errors import WorkerError

LONG = 1000  # bytes


def count(pieces: Iterable[bytes], keywords: Sequence[str]) -> dict[str, int]:
    """How often each keyword occurs in all pieces together, as bytes, from left to right without
    overlap. Keeps one piece in memory, whatever the length of a line."""
    words = [word.encode() for word in keywords]
    counts = [0] * len(words)
    starts = [0] * len(words)  # where in `text` the search for a word continues
    # If a word can overlap itself, the last match from the left may not be the last one. To find
    # out takes the square of its length: a long word is treated as one that can.
    overlaps = [
        len(word) > LONG or any(word.endswith(word[:end]) for end in range(1, len(word)))
        for word in words
    ]
    margin = max(map(len, words)) - 1  # bytes of a word that the next piece may complete
    text = b""
    for piece in pieces:
        text += piece
        lines_end = text.rfind(b"\n") + 1
        for index, word in enumerate(words):
            # No word has a line end in it, so a word that begins in these lines ends in them.
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
        for name, other in (("MAP_COMMAND", "map.py"), ("MAP_SETTINGS", "a custom map")):
            if environ.get(name):
                raise WorkerError(f"{name} is for {other}, and this is count.py: unset it")
        keywords = settings.keywords(environ)
        made_by = {"keywords": keywords}
        mapping.run_map("count", lambda part: count(part.pieces(), keywords), made_by, environ)

    return worker.run_worker("count", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
