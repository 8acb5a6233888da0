"""Run a program on one part, or on each of several: the map of whoever has one.

Reads   split-output/plan.json    and the bytes of part PART_ID: its copy, or a range of the input
Writes  map-output/<job>/<id>-<attempt>    what the program MAP_COMMAND makes of them
        cout-output/<job>/<id>.json        its record, last
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others, that of the program too: a retry may help
Takes   PART_ID PLAN_ID ONLY_MISSING=false MAP_COMMAND MAP_EXIT_OK=0 MAP_SETTINGS SCRATCH_DIR=/tmp
        SCRATCH_SIZE POD_NAME NODE_NAME

PART_ID=0-3,7 names five parts, which are mapped one after the other. The program runs for each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fanfold import mapping, settings, worker
from fanfold.command import Program


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the settings in the environment."""

    def work() -> None:
        program = Program("MAP", environ)

        def run(part: mapping.Part) -> None:
            program.environ |= {"PART_ID": part.id, "NUM_PARTS": str(part.num_parts)}
            program.run([part], part.write, "")

        mapping.run_map("map", run, settings.map_settings(environ), environ)

    return worker.run_worker("map", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
