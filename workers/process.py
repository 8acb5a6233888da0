"""Make one file of the next level from a group of files: the map of process-data. The files are
joined, or are the input of the program PROCESS_COMMAND.

Reads   aggregation-demo/l1/<n>.txt    FAN_IN files, n from FILE_NUMBER * FAN_IN; for other
                                       levels the files that their records name
Writes  aggregation-demo/l<LEVEL+1>/<run>/<FILE_NUMBER>-<attempt>.txt    the output
        aggregation-demo/l<LEVEL+1>/<run>/<FILE_NUMBER>.json             its record, written last
        aggregation-demo/l<LEVEL+1>/<FILE_NUMBER>.txt    without RUN_ID: a copy for people
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others, also of a program: a retry may help
Takes   FAN_IN=2 FILES PROCESS_COMMAND PROCESS_EXIT_OK=0 PROCESS_SETTINGS FILE_SUFFIX=.txt
        SCRATCH_DIR=/tmp SCRATCH_SIZE POD_NAME NODE_NAME RETRIES

With FILES, the number of files of LEVEL, the last group may be smaller. The worker of the last
group of level 1 checks that level 1 has exactly these files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from fanfold import group, worker


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker with the arguments FILE_NUMBER LEVEL."""
    arguments = sys.argv[1:] if argv is None else argv
    return worker.run_worker("process", lambda: group.process(arguments, environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
