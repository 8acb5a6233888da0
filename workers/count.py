"""Count the keywords in each of one or more parts: the map of log-count.

Reads   split-output/<plan>/plan.json    and the bytes of part PART_ID: from its copy or the input
Writes  cout-output/<job>/<id>.json      its record: {...,"counts":{"INFO":3,"WARN":0},...}
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others: a retry may help
Takes   PART_ID PLAN_ID ONLY_MISSING=false KEYWORDS=INFO,WARN,ERROR,DEBUG MAP_COMMAND MAP_SETTINGS
        OUTPUT_DIR=map-output OUTPUT_SUFFIX POD_NAME NODE_NAME RETRIES ARGO_PROGRESS_FILE

PART_ID=0-3,7 names five parts. They are counted one after the other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from fanfold import mapping, settings, worker
from fanfold.errors import WorkerError

SAMPLE, AGAIN = 16 << 10, 32 << 20  # bytes of a sample; bytes until the next sample
EDGE = 5  # bytes: Python searches for longer words with another algorithm, three times as slow
# Bytes searched in the time of one hit: by `find` for a key of one byte or a longer key, and by
# `count` for a word of up to EDGE bytes or a longer word.
FIND, COUNT = (12_000, 900), (1000, 330)

Groups = dict[bytes, list[tuple[int, bytes, int]]]  # by key: index, word, offset of the key


def group(words: Sequence[bytes], sample: bytes) -> Groups:
    """Group the words by a key: a byte of the word, or its first or last EDGE bytes. Hits of the
    key show where the word can be. The key is empty if no key saves time on text like `sample`."""
    edges = [{word[:EDGE], word[-EDGE:]} if len(word) > EDGE else set() for word in words]
    keys = [{*map(bytes, zip(word)), *found} for word, found in zip(words, edges, strict=True)]
    cost = {
        key: sample.count(key) + len(sample) / FIND[len(key) > 1] / sharing
        for key, sharing in Counter(chain.from_iterable(keys)).items()
    }
    groups: Groups = {}
    for index, word in enumerate(words):
        key = min(sorted(keys[index]), key=cost.__getitem__)
        key = key if cost[key] < len(sample) / COUNT[len(word) > EDGE] else b""
        groups.setdefault(key, []).append((index, word, word.index(key)))
    return groups


def count(pieces: Iterable[bytes], keywords: Sequence[str]) -> dict[str, int]:
    """Count each keyword in all pieces together, as bytes, from left to right, without overlaps.
    Keeps one piece in memory, for lines of any length."""
    words = [word.encode() for word in keywords]
    counts, ends = [0] * len(words), [0] * len(words)  # ends of matches, in the piece
    groups, margin, tail, wait = group(words, b""), max(map(len, words)), b"", 0
    for piece in pieces:
        joint, kept = tail + piece[:margin], len(tail)
        for index, word in enumerate(words):  # at most one match crosses the border
            start = max(0, kept - len(word) + 1, kept + ends[index])
            if (at := joint.find(word, start, kept + len(word) - 1)) >= 0:
                counts[index] += 1
                ends[index] = at + len(word) - kept
        if wait <= 0 and len(piece) >= SAMPLE:
            groups, wait = group(words, piece[:SAMPLE]), AGAIN
        for key, members in [*groups.items()]:
            most = len(piece) // COUNT[len(members[0][1]) > EDGE]
            at, hits = piece.find(key), most if key else 0
            while at >= 0 and hits:
                for index, word, offset in members:
                    if piece.startswith(word, at - offset) and at - offset >= ends[index]:
                        counts[index] += 1
                        ends[index] = at - offset + len(word)
                at, hits = piece.find(key, at + 1), hits - 1
            for index, word, offset in members if at >= 0 else ():  # the key is too frequent
                start = max(0, ends[index], at - offset)
                counts[index] += piece.count(word, start)
                if word[0] in word[1:] and word[-1] in word[:-1]:  # the word may overlap itself
                    start = max(start, piece.rfind(b"\n") + 1)  # no word contains a line end
                    while (start := piece.find(word, start)) >= 0:
                        start = ends[index] = start + len(word)
            if key and at >= 0:
                groups[b""] = groups.get(b"", []) + groups.pop(key)
        ends = [end - len(piece) for end in ends]
        tail, wait = (tail + piece[-margin:])[-margin:], wait - len(piece)
    return dict(zip(keywords, counts, strict=True))


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker with the settings in the environment."""

    def work() -> None:
        for name, other in (("MAP_COMMAND", "map.py"), ("MAP_SETTINGS", "a custom map")):
            if environ.get(name):
                raise WorkerError(
                    f"{name} must not be set for count.py, got one for {other}: unset {name}"
                )
        keywords = settings.keywords(environ)
        made_by = {"keywords": keywords}
        mapping.run_map("count", lambda part: count(part.pieces(), keywords), made_by, environ)

    return worker.run_worker("count", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
