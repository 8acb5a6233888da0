"""Merge the results of all parts or files: the reduce of both pipelines.

Without an argument, log-count:
Reads   split-output/<plan>/plan.json, cout-output/<job>/<id>.json of every part, the outputs that
        these records name, and the versions of the inputs
Writes  results/<start>-<run>/    result.json, summary.json, report.html, OUTPUT if a map wrote
                                  output, and with SPLIT_MODE=files outputs.jsonl
        result.json               {"INFO": 7, "WARN": 2, "ERROR": 0, "DEBUG": 1}
        OUTPUT, outputs.jsonl, report.html    the same files as in results/
With NUMBER, process-data:
Reads   the files 0 to NUMBER - 1 of LEVEL that their records name
Writes  results/<start>-<run>/    result.txt, summary.json, aggregation-report.html
        aggregation-demo/result.txt    the bytes of these files, in order
        aggregation-demo/report.html   the page of the run
Prints  nothing
Exits   0 done; 2 bad settings or data, do not retry; others, such as 75 for a missing record: a
        retry may help
Takes   NUM_PARTS=5 KEYWORDS=INFO,WARN,ERROR,DEBUG MAP_COMMAND MAP_SETTINGS MAP_STATUS
        OUTPUT=result.out PLAN_ID LEVEL=3 CLEAN=false RESULT_FILE RESULT_PATH_FILE REDUCE_COMMAND
        REDUCE_EXIT_OK=0 REDUCE_SETTINGS PROCESS_COMMAND PROCESS_SETTINGS FILE_SUFFIX=.txt
        SCRATCH_DIR=/tmp SCRATCH_SIZE OUTPUT_DIR=map-output OUTPUT_SUFFIX TOLERATED_FAILURES=0
        SUMMARY_FILE

The final names belong to the newest run that has published. A late run does not write them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from fanfold import fold


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker: with the argument NUMBER for the files of a level, without it for counts."""
    return fold.last_step(sys.argv[1:] if argv is None else argv, environ)


if __name__ == "__main__":
    raise SystemExit(main())
