"""Names: the path of each file of a run, relative to RUN_DIR, and the digests used as ids.

A name contains the id of the plan, job or run that made the file. Two plans, jobs or runs never
write the same name, so a late pod cannot overwrite files that others read. files.md has the list.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

PLAN = "split-output/{}/plan.json"  # by plan
NEWEST_PLAN = "split-output/plan.json"  # copy of the newest plan, for use without PLAN_ID
BEGUN = "split-output/{}/runs/{}"  # by plan and JOB/RUN: marks the start of a run
PART_COPY = "split-output/{}/{}.txt"  # by plan and part
PART_RECORD = "cout-output/{}/{}.json"  # by job and part; spelled as in the tutorial
PART_OUTPUT = "map-output/{}/{}-{}"  # by job, part and attempt
LEVEL_FILE = "aggregation-demo/l{}/{}.txt"  # by level and number: level 1, and use by hand
LEVEL_RECORD = "aggregation-demo/l{}/{}/{}.json"  # by level, run and number
LEVEL_OUTPUT = "aggregation-demo/l{}/{}/{}"  # by level, run and file: number and attempt
RESULTS = "results/"
RESULT = "result.json"
FILE_LINES = "outputs.jsonl"  # in mode files: the outcome of each file
REPORT = "report.html"  # the HTML report of the run
LEVEL_RESULT = "aggregation-demo/result.txt"
LEVEL_REPORT = "aggregation-demo/report.html"
LEVEL_PAGE = "aggregation-report.html"  # the same in results/, which both pipelines share
TEMPORARY = r"\..+\.[0-9a-f]{16}\.tmp"  # pattern: an unfinished file in a folder
OUTPUTS = "split-output/", "cout-output/", "map-output/", RESULTS  # folders that the workers write
# Other names that the last step writes in RUN_DIR and results/: OUTPUT must not use these names.
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
    """Return the folder of a name, with a / at its end."""
    return name[: name.rfind("/") + 1]


def run_name(run_id: str, started: int) -> str:
    """Return the name of a run. Names sort by start time. Without RUN_ID the run starts now and the
    name is unique."""
    now = time.time()
    name = run_id or f"by-hand-{int(now % 1 * 1e6):06}-{nonce()}"
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started if run_id else now))}-{name}"


def cut(name: str, most: int = 200) -> str:
    """Cut a name to at most `most` bytes, to leave space for a suffix."""
    return os.fsencode(name)[:most].decode(errors="ignore")


def nonce() -> str:
    """Return a word that is unique to this attempt."""
    return os.urandom(8).hex()


def digest(pieces: Iterable[bytes]) -> str:
    """Return the first DIGITS hex digits of the SHA-256 of all pieces together."""
    from hashlib import sha256  # loads OpenSSL: import it only when needed

    total = sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()[:DIGITS]
