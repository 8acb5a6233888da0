"""Make of a group of files of one level a file of the next: the map of process-data. The files are
joined, or are the input of the program PROCESS_COMMAND.

Reads   aggregation-demo/l1/<n>.txt    n from FILE_NUMBER * FAN_IN on, FAN_IN files; of the levels
                                       above the files that their records name
Writes  aggregation-demo/l<LEVEL+1>/<run>/<FILE_NUMBER>-<attempt>.txt    what is made of them
        aggregation-demo/l<LEVEL+1>/<run>/<FILE_NUMBER>.json             its record, last
        aggregation-demo/l<LEVEL+1>/<FILE_NUMBER>.txt    without RUN_ID: the same again, to look at
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others, that of a program too: a retry may help
Takes   FAN_IN=2 FILES PROCESS_COMMAND PROCESS_EXIT_OK=0 PROCESS_SETTINGS FILE_SUFFIX=.txt
        SCRATCH_DIR=/tmp SCRATCH_SIZE POD_NAME NODE_NAME RETRIES

With FILES, the number of files at LEVEL, the last group may be short. The worker of the last group
of level 1 checks that level 1 has exactly these files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from fanfold import group, worker


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the arguments FILE_NUMBER LEVEL."""
    arguments = sys.argv[1:] if argv is None else argv
    return worker.run_worker("process", lambda: group.process(arguments, environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
