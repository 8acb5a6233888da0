"""Run a user's program on each of one or more parts: the map of map-reduce.

Reads   split-output/<plan>/plan.json    and the bytes of part PART_ID: from its copy or the input
Writes  map-output/<job>/<id>-<attempt>    the output of the program MAP_COMMAND; with
                                           SPLIT_MODE=files a line of JSON per file
        <OUTPUT_DIR>/<job>/<name><OUTPUT_SUFFIX>    with SPLIT_MODE=files: the output of each file
        cout-output/<job>/<id>.json        the record of the part, written last
Prints  nothing
Exits   0 done; 2 bad settings, do not retry; others, also of the program: a retry may help
Takes   PART_ID PLAN_ID ONLY_MISSING=false MAP_COMMAND MAP_EXIT_OK=0 MAP_SETTINGS SCRATCH_DIR=/tmp
        SCRATCH_SIZE OUTPUT_DIR=map-output OUTPUT_SUFFIX FILES_AT_ONCE=1 POD_NAME NODE_NAME RETRIES
        ARGO_PROGRESS_FILE

PART_ID=0-3,7 names five parts. The program runs for each part, one after the other; with
SPLIT_MODE=files for each file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from fanfold import mapping, settings, worker
from fanfold.command import Program
from fanfold.errors import WorkerError
from fanfold.parts import Part
from fanfold.plan import encode

LARGEST = (128 << 10) - 16  # bytes per environment variable: the limit of Linux


def as_text(item: object) -> str:
    """Format an item as JSON, in UTF-8 if possible: escapes can take three times the space."""
    text = json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    return text if text.encode(errors="replace").decode() == text else encode(item)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker with the settings in the environment."""

    def work() -> None:
        program, suffix = Program("MAP", environ), settings.output_suffix(environ)
        at_once = settings.files_at_once(environ)

        def run(part: Part) -> None:
            variables = {"PART_ID": part.id, "NUM_PARTS": str(part.num_parts)}
            if part.item is not None:
                variables["ITEM"] = text = as_text(part.item)
                if (size := len(os.fsencode(text))) > LARGEST:
                    raise WorkerError(
                        f"the item of {part.name} must have at most {LARGEST} bytes as JSON, the "
                        f"limit of a program's variable, got {size}: shorten the item in the list"
                    )
            try:
                program.run([part], part.write, suffix, **variables)
            except OSError as error:  # an error of the node or the storage, not of the file
                part.broken = error
                raise

        made_by, reads = settings.map_settings(environ), not program.takes_paths
        mapping.run_map("map", run, made_by, environ, at_once=at_once, reads=reads)

    return worker.run_worker("map", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
