"""Join a group of files of one level into one file of the next: the map of process-data.

Reads   aggregation-demo/l<LEVEL>/<n>.txt    n from FILE_NUMBER * FAN_IN on, FAN_IN files
Writes  aggregation-demo/l<LEVEL+1>/<FILE_NUMBER>.txt    their bytes, one after the other
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others: a retry may help

FILES, the number of files at LEVEL, lets the last group be short; level 1 must have exactly these,
which the worker of its last group sees to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import contract
from contract import WorkerError, whole_number
from store import open_stores
from worker import check_level_1, log, run_worker


def process(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Join the files of group FILE_NUMBER of LEVEL."""
    if len(arguments) != 2:
        raise WorkerError(f"{len(arguments)} arguments: give two, FILE_NUMBER and LEVEL")
    number = whole_number("FILE_NUMBER", arguments[0], 0, contract.MOST)
    level = whole_number("LEVEL", arguments[1], 1, contract.MOST)
    fan_in = whole_number("FAN_IN", environ.get("FAN_IN", "2"), 2, contract.MOST)
    first, end = number * fan_in, (number + 1) * fan_in
    files = 0
    if text := environ.get("FILES"):
        files = whole_number("FILES", text, 1, contract.MOST)
        end = min(end, files)
        if first >= end:
            raise WorkerError(
                f"FILE_NUMBER is {number} and FILES is {files}: with a FAN_IN of {fan_in} there "
                f"are groups 0 to {(end - 1) // fan_in}"
            )
    _, run = open_stores(environ)
    if level == 1 and end == files:  # one pod looks for all: a listing by each would be N * N
        check_level_1(run, range(files), "FILES")
    target = contract.LEVEL.format(level + 1, number)
    try:
        run.join(target, (contract.LEVEL.format(level, n) for n in range(first, end)))
    except FileNotFoundError:
        if level == 1:
            check_level_1(run, range(first, end))
        raise
    log("process", "done", level=level, files=end - first, output=target)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the arguments FILE_NUMBER LEVEL."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_worker("process", lambda: process(arguments, environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
