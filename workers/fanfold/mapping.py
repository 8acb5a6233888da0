"""The common code of all maps: finds the parts, calls a function for each, publishes the output."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate, islice

from fanfold import names, part_ids, records, settings, worker
from fanfold.errors import RetryError, WorkerError
from fanfold.parts import Map, Part
from fanfold.plan import open_plan
from fanfold.progress import Progress
from fanfold.settings import FILES
from fanfold.storage import Storage, open_storage

SHOWN = 20  # ranges of parts in an error


def map_part(function: Map, environ: Mapping[str, str] = os.environ) -> int:
    """The main function of a custom map; returns the exit code. `function` is called with each part
    of PART_ID, or in mode files with each file of these parts. It returns numbers by name, or None.
    MAP_SETTINGS, any text, describes the map: results made with another text do not count."""

    def work() -> None:
        if not environ.get("MAP_SETTINGS"):
            raise WorkerError(
                "MAP_SETTINGS must be set for a custom map, got no value: set any text that names "
                "the version of the map, such as 'status classes, 1'"
            )
        run_map("map", function, settings.map_settings(environ), environ)

    return worker.run_worker("map", work, environ)


class PartsError(WorkerError):
    """Some of several parts have failed. If all have one exit code, the error has it too."""

    def __init__(self, total: int, failed: Mapping[int, int], sentence: str) -> None:
        """The exit codes by part, and the message of the first failed part."""
        super().__init__(
            f"{len(failed)} of {total} parts failed ({shown(failed)}), part {min(failed)} with: "
            f"{sentence}"
        )
        codes = set(failed.values())
        self.exit_code = codes.pop() if len(codes) == 1 else RetryError.exit_code


def shown(numbers: Iterable[int]) -> str:
    """Format ascending part numbers for a message, at most SHOWN ranges."""
    found = [*islice(part_ids.ranges(numbers), SHOWN + 1)]
    return part_ids.show(found[:SHOWN]) + " and more" * (len(found) > SHOWN)


def run_map(
    name: str, function: Map, made_by: Mapping[str, object], environ: Mapping[str, str],
    *, at_once: int = 1, reads: bool = True,
) -> None:  # fmt: skip
    """Map the parts of PART_ID one after the other: call `function` for each, publish its output,
    then its record. With several parts, a failed part does not stop the others, and finished parts
    are skipped. In mode files: see Files."""
    wanted = settings.parts(environ)
    run_id, _ = settings.run_id(environ)
    any_run = settings.is_true(environ, "ONLY_MISSING")
    inputs, run = open_storage(environ)
    plan = open_plan(run, environ.get("PLAN_ID", ""))
    job = records.job_id(plan.id, settings.job_settings(made_by, plan.mode, environ))
    parts, kept = plan.parts(wanted)
    # Where each part begins in the kept inputs; in mode files the cuts count all files.
    ends = [*accumulate(stop - at for at, stop in parts.values())]
    starts = {
        number: end - (stop - at)
        for end, (number, (at, stop)) in zip(ends, parts.items(), strict=True)
    }

    progress = Progress(ends[-1], environ)

    def map_one(number: int) -> None:
        start, part_id = time.time(), str(number)
        at, stop = parts[number]
        first = starts[number]
        counts, fields = records.Counts(), dict[str, int]()
        with run.writer(names.PART_OUTPUT.format(job, part_id, names.nonce())) as output:
            if plan.mode == FILES:
                from fanfold.files import Files

                files = Files(
                    function, job, plan.num_parts, (inputs, run), environ,
                    name=name, at_once=at_once, reads=reads,
                    watch=lambda done: progress.at(first + done),
                )  # fmt: skip
                fields = files.map(part_id, kept.files(first, first + stop - at), output.write)
                size = fields.pop("bytes")
            else:
                part = Part(number, plan, (kept, at, stop), (inputs, run), output)
                part.watch = lambda done: progress.at(first + done)
                counts, size = records.counts_of(function(part)), part.size
                part.finish("the map", f"part {part_id}")
        record = records.seal_part(
            part_id, job=job, plan=plan.id, size=size, counts=counts, output=output.made,
            made=records.maker(environ, start), files=fields,
        )  # fmt: skip
        run.put(names.PART_RECORD.format(job, part_id), [record])
        seconds = round(time.time() - start, 3)
        ids = {"plan": plan.id, "job": job}
        worker.log(name, "done", part=part_id, bytes=size, **fields, seconds=seconds, **ids)

    if len(parts) == 1:
        map_one(wanted[0][0])
        return
    done: set[str] = set()
    if run_id or any_run:
        sizes = {str(number): stop - at for number, (at, stop) in parts.items()}
        counts: Callable[[records.PartRecord], bool] = bool
        if plan.mode == FILES:
            from fanfold import outputs

            counts = partial(outputs.are_there, inputs, run, failed=not any_run)
        done = find_done(run, job, sizes, "" if any_run else run_id, counts)
    if done:
        worker.log(name, "skipped", parts=shown(sorted(map(int, done))))
    failed: dict[int, int] = {}
    first = ""
    for number in parts:
        if str(number) not in done:
            try:
                map_one(number)
            except (Exception, SystemExit) as error:
                failed[number], sentence = worker.judge(error)
                worker.log(name, "error", part=number, exit=failed[number], error=sentence)
                first = first or sentence
    if failed:
        raise PartsError(len(parts), failed, first)


def find_done(
    run: Storage, job: str, sizes: Mapping[str, int], run_id: str,
    counts: Callable[[records.PartRecord], bool],
) -> set[str]:  # fmt: skip
    """Return the parts with a valid record for which `counts` is true, and with their output. With
    `run_id`, only records of this run count."""
    parts = {names.PART_RECORD.format(job, part): (part, size) for part, size in sizes.items()}
    there = (parts[name] for name in run.likely(parts))

    def is_ours(record: records.PartRecord) -> bool:
        return record.run == (run_id or record.run) and counts(record)

    return records.find_done(run, job, there, is_ours)
