"""Names: where each file of a run is, relative to RUN_DIR, and the digests used as ids.

A name holds the plan, the job or the run that made the file: two of them never write one name, so
a pod that runs late writes where nobody looks. README.md, "Files", has the list.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

PLAN = "split-output/{}/plan.json"  # by plan
NEWEST_PLAN = "split-output/plan.json"  # a copy of the newest one, for use without PLAN_ID
BEGUN = "split-output/{}/runs/{}"  # by plan, and JOB/RUN: that the run has begun
PART_COPY = "split-output/{}/{}.txt"  # by plan and part
PART_RECORD = "cout-output/{}/{}.json"  # by job and part; spelled as in the tutorial
PART_OUTPUT = "map-output/{}/{}-{}"  # by job, part and attempt
LEVEL_FILE = "aggregation-demo/l{}/{}.txt"  # by level and number: level 1, and use by hand
LEVEL_RECORD = "aggregation-demo/l{}/{}/{}.json"  # by level, run and number
LEVEL_OUTPUT = "aggregation-demo/l{}/{}/{}"  # by level, run and file: number and attempt
RESULTS = "results/"
RESULT = "result.json"
FILE_LINES = "outputs.jsonl"  # in the mode files: what became of each file
REPORT = "report.html"  # the page that shows the run
LEVEL_RESULT = "aggregation-demo/result.txt"
LEVEL_REPORT = "aggregation-demo/report.html"
LEVEL_PAGE = "aggregation-report.html"  # the same in results/, where a run of both has both
TEMPORARY = r"\..+\.[0-9a-f]{16}\.tmp"  # a pattern: a file while it is written in a folder
OUTPUTS = "split-output/", "cout-output/", "map-output/", RESULTS  # folders of ours
# What the last step writes into RUN_DIR and results/ besides: OUTPUT must not take these names.
TAKEN = (
    "aggregation-demo",
    RESULT,
    "result.txt",
    "summary.json",
    "result.json.record",
    FILE_LINES,
    "outputs.jsonl.record",
    REPORT,
    LEVEL_PAGE,
)

DIGITS = 32  # of an id: a workflow stores the plan's id twice per part, and Argo limits its size


def folder(name: str) -> str:
    """The folder of a name, with a / at its end."""
    return name[: name.rfind("/") + 1]


def run_name(run_id: str, started: int) -> str:
    """The name of a run; names order runs by their starts. Without a RUN_ID the run starts now, and
    has a name that no other has."""
    now = time.time()
    name = run_id or f"by-hand-{int(now % 1 * 1e6):06}-{nonce()}"
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started if run_id else now))}-{name}"


def cut(name: str, most: int = 200) -> str:
    """A name without what is beyond `most` bytes, so that there is room for what tells it apart."""
    return os.fsencode(name)[:most].decode(errors="ignore")


def nonce() -> str:
    """A word that no other attempt has."""
    return os.urandom(8).hex()


def digest(pieces: Iterable[bytes]) -> str:
    """The first DIGITS of the SHA-256, in hex, of all pieces together."""
    from hashlib import sha256  # loads OpenSSL: only the callers pay for it

    total = sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()[:DIGITS]
