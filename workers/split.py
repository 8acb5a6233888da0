"""Split the input into NUM_PARTS parts at line ends, and commit them as a plan.

Reads   INPUT                            a file, or with a / at its end every file below a folder;
                                         with SPLIT_MODE=files also a pattern, or a list as @LIST
        results/*/outputs.jsonl          only with SPLIT_MODE=files and ONLY_MISSING
Writes  split-output/<plan>/<id>.txt     the bytes of a part (only with SPLIT_MODE=copy)
        split-output/<plan>/plan.json    the plan, written last; its id goes to PLAN_ID_FILE
        split-output/plan.json           a copy of the newest plan, for use without PLAN_ID
Prints  ["0","1","2"]             the part ids; with ONLY_MISSING only parts without a valid record
        ["0-49","50-99"]          with PARTS_PER_POD=50, grouped by pod; with ONLY_MISSING for
                                  example ["0-3,7","50-99"]
Exits   0 done; 2 bad settings or input, do not retry; others: a retry may help
Takes   INPUT=log-count-data.txt NUM_PARTS=5 PARTS_PER_POD=1 SPLIT_MODE=copy ONLY_MISSING=false
        KEYWORDS=INFO,WARN,ERROR,DEBUG MAP_COMMAND MAP_SETTINGS OUTPUT=result.out MAX_PODS
        OUTPUT_DIR=map-output OUTPUT_SUFFIX TOLERATED_FAILURES=0 PLAN_ID_FILE
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise

from fanfold import cuts, part_ids, plan, records, settings, worker
from fanfold.errors import WorkerError
from fanfold.inputs import find_inputs
from fanfold.names import (
    BEGUN,
    FILE_LINES,
    NEWEST_PLAN,
    PART_COPY,
    PART_OUTPUT,
    PART_RECORD,
    PLAN,
    folder,
    run_name,
)
from fanfold.parallel import map_in_order
from fanfold.settings import FILES
from fanfold.storage import Segment, Storage, check_apart, open_storage

STDOUT = 256 << 10  # bytes of a pod's output that Argo reads, with the line end


def copy_parts(
    work: Storage, run: Storage, plan_id: str, parts: Iterable[tuple[int, int, Iterator[Segment]]]
) -> None:
    """Copy each part (a number, a size and segments), unless a complete copy of it exists."""
    there = set(run.names(folder(PLAN.format(plan_id))))

    def copy(item: tuple[int, int, Iterator[Segment]]) -> None:
        number, size, segments = item
        name = PART_COPY.format(plan_id, number)
        if name in there:
            with suppress(FileNotFoundError), run.open(name) as file:
                if file.size == size:
                    return
        run.copy(name, work, segments)

    for _ in map_in_order(copy, parts, lanes=run.copies_at_once, reads=False):
        pass


def find_done(
    run: Storage, job: str, cut: Sequence[int], counts: Callable[[records.PartRecord], bool]
) -> set[int]:
    """Return the parts of a job with a valid record for which `counts` is true, and with their
    output if the record names one."""
    there: set[str] = set()
    for name in PART_RECORD.format(job, ""), PART_OUTPUT.format(job, "", ""):
        there.update(run.names(folder(name)))
    parts = ((str(number), stop - at) for number, (at, stop) in enumerate(pairwise(cut)))
    listed = (part for part in parts if PART_RECORD.format(job, part[0]) in there)

    def is_there(found: records.PartRecord) -> bool:
        return (not found.output or found.output[0] in there) and counts(found)

    return set(map(int, records.find_done(run, job, listed, is_there)))


def as_json(ids: Iterable[str]) -> str:
    """Format a JSON array of strings without quotes in them."""
    return "[" + ",".join(f'"{one}"' for one in ids) + "]"


def split(environ: Mapping[str, str]) -> None:
    """Cut the input, copy it in mode copy, commit the plan, and print the ids to map."""
    source = settings.input_name(environ)
    count = settings.num_parts(environ)
    mode = settings.choice(environ, "SPLIT_MODE", "copy", "range", FILES)
    only_missing = settings.is_true(environ, "ONLY_MISSING")
    made_by = settings.map_settings(environ)
    if program := environ.get("MAP_COMMAND"):  # find an error of thousands of maps here
        from fanfold.command import split_words

        split_words("MAP_COMMAND", program)
    of_job = settings.job_settings(made_by, mode, environ)
    settings.tolerated_failures(environ, mode)  # find an error of the last step here
    output = settings.output_name(environ)
    run_id, started = settings.run_id(environ)
    per_pod = settings.parts_per_pod(environ)
    if (pods := -(-count // per_pod)) > (most := settings.max_pods(environ)):
        raise WorkerError(
            f"NUM_PARTS={count} with PARTS_PER_POD={per_pod} must take at most MAX_PODS={most} map "
            f"pods, got {pods}: set PARTS_PER_POD to {-(-count // most)} or more, or set a smaller "
            "NUM_PARTS"
        )
    settings.check_files(environ, "PLAN_ID_FILE")
    work, run = open_storage(environ)

    places = [settings.output_dir(environ), FILE_LINES] if mode == FILES else []
    check_apart(work, run, source, output, *places)
    inputs = find_inputs(work, source, mode, environ)
    before, taken = None, array("Q")
    counts: Callable[[records.PartRecord], bool] = bool
    if mode == FILES and only_missing:
        from fanfold import outputs  # imported only if results can be taken over

        counts = partial(outputs.are_there, work, run, failed=False)
        if before := outputs.find_before(run, of_job):
            taken = outputs.find_taken(work, run, inputs, before)
            inputs.take(taken)
    is_files = mode == FILES
    cut = cuts.find_file_cuts(inputs, count) if is_files else cuts.find_cuts(work, inputs, count)
    plan_id, text = plan.make_plan(source, mode, inputs, cut, before)
    job = records.job_id(plan_id, of_job)
    for name in (PLAN.format(plan_id), PART_RECORD.format(job, "")):
        run.make_folder(folder(name))
    if run_id:  # before any existing file is relied on: see CLEAN
        run.put(BEGUN.format(plan_id, f"{job}/{run_name(run_id, started)}"), [b""])
    done = find_done(run, job, cut, counts) if only_missing else set()
    if taken:  # some parts may have nothing left to map
        rest = [at - bisect_left(taken, at) for at in cut]
        done |= {number for number, (at, stop) in enumerate(pairwise(rest)) if at == stop}
    if mode == "copy":
        numbered = (part for part in enumerate(pairwise(cut)) if part[0] not in done)
        parts = ((n, stop - at, inputs.segments(at, stop)) for n, (at, stop) in numbered)
        copy_parts(work, run, plan_id, parts)
    for name in (PLAN.format(plan_id), NEWEST_PLAN):
        run.put(name, text)
    worker.hand_over(environ, "PLAN_ID_FILE", plan_id)

    printed = as_json(part_ids.groups(count, per_pod, done))
    if len(printed) >= STDOUT:  # the ids of whole groups are shorter
        printed = as_json(part_ids.groups(count, per_pod, done, most=0))
    worker.output(printed)
    missing = count - len(done)
    numbers = {"files": len(inputs.lines), "bytes": inputs.bytes, "parts": count}
    if mode == FILES:
        numbers |= {"taken": len(taken), "left_out": inputs.left_out}
    worker.log("split", "done", mode=mode, **numbers, missing=missing, plan=plan_id, job=job)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the worker with the settings in the environment."""
    return worker.run_worker("split", lambda: split(environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
