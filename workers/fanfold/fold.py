"""Fold: the last step of both pipelines. It proves the whole from the records to the inputs, then
publishes the results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

from fanfold import command, names, publish, records, settings, worker
from fanfold.errors import RetryError, WorkerError
from fanfold.levels import Levels
from fanfold.names import digest
from fanfold.parallel import map_in_order
from fanfold.plan import Plan, check_inputs, open_plan
from fanfold.storage import Segment, Storage, check_apart, open_storage
from fanfold.streams import Combine, Stream, combine, yields

SHOWN = 20  # part ids in an error, per kind
FAILED = "Failed", "Errored"  # MAP_STATUS of a map that has ended so: Argo's words
SHOWN_BYTES = 32 << 10  # of RESULT_FILE: Argo keeps it in the workflow


def reduce_outputs(
    function: Callable[[Sequence[Stream]], Iterable[bytes]],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """The main of a custom last step; returns the exit code. `function` is called once, with the
    outputs of the parts or the files of the last level, and yields the bytes of the result."""
    return last_step(sys.argv[1:] if argv is None else argv, environ, yields(function))


def last_step(
    arguments: Sequence[str], environ: Mapping[str, str], function: Combine | None = None
) -> int:
    """The last step: with the argument NUMBER for the files of a level, without for the counts."""

    def work() -> None:
        if arguments:
            fold_files(arguments, environ, function)
        else:
            fold_counts(environ, function)

    return worker.run_worker("merge", work, environ)


def fold_counts(environ: Mapping[str, str], function: Combine | None) -> None:
    """Prove that every part of the plan was mapped, whole and once, and publish the results."""
    count = settings.num_parts(environ)
    made_by = settings.map_settings(environ)
    if environ.get("REDUCE_COMMAND") and "keywords" in made_by:
        raise WorkerError(
            "REDUCE_COMMAND must come with MAP_COMMAND or MAP_SETTINGS, got neither: set what the "
            "maps have, or unset REDUCE_COMMAND, for count.py makes no output to reduce"
        )
    function = function or command.find("REDUCE", environ, NUM_PARTS=count)
    run_id, started = settings.run_id(environ)
    output_name = settings.output_name(environ)
    clean = settings.is_true(environ, "CLEAN")
    status = settings.choice(environ, "MAP_STATUS", "", *FAILED, "Succeeded", "Skipped")
    settings.check_files(environ, "RESULT_FILE", "RESULT_PATH_FILE")
    work, run = open_storage(environ)
    folder = publish.results_folder(run_id, started)

    plan = open_plan(run, environ.get("PLAN_ID", ""))
    if plan.num_parts != count:
        raise plan.misfit(
            f"NUM_PARTS is {count} and {plan.name} has {plan.num_parts} parts: give merge.py the "
            "NUM_PARTS that split.py had"
        )
    check_apart(work, run, plan.source, output_name)
    job = records.job_id(plan.id, made_by)

    def make() -> tuple[publish.Finals, dict[str, object]]:
        totals: records.Counts = {}
        outputs: list[Segment] = []
        wrong: dict[str, list[str]] = {}
        begin = records.utc(time.time())
        for record in records.read_parts(run, job, parts_of(plan)):
            if record.problem:
                wrong.setdefault(record.problem, []).append(record.part)
                continue
            add(totals, record.counts, record.part)
            outputs += [record.output] if record.output else []
            begin = min(begin, record.start)
        if wrong:
            raise incomplete(wrong, count, job, status)
        # In the mode copy the copies are the inputs, unless the plan is not given: then an older
        # one may have taken the place of the newest.
        new = check_inputs(work, plan, plan.mode == "range" or not environ.get("PLAN_ID"))
        words = settings.keywords(environ) if "keywords" in made_by else sorted(totals)
        text = json.dumps({name: totals[name] for name in words}, ensure_ascii=False)
        # Without outputs, that of an earlier run must not stay.
        is_made = bool(outputs or function)
        stays = not is_made and run.has(output_name)
        if stays and not publish.is_final(run, names.RESULT, output_name):
            raise WorkerError(
                f"OUTPUT is {output_name!r}, where a file is that no run in results/ has made, and "
                "the maps wrote nothing: move the file away, or set OUTPUT to another name"
            )
        made = None
        if is_made or stays:
            suffix = os.path.splitext(output_name)[1]
            made = combine(run, folder + output_name, outputs, function, suffix)
        result = run.put(folder + names.RESULT, [text.encode(), b"\n"])
        worker.log("merge", "proven", parts=count, new=new)
        return {names.RESULT: result, output_name: made}, {
            "parts": count,
            "files": plan.files,
            "input_bytes": plan.bytes,
            "output_bytes": made[3] if made else 0,
            "seconds": round(time.time() - records.from_utc(begin), 3),
            "run": run_id,
            "plan": plan.id,
            "job": job,
        }

    # Under another OUTPUT, what an earlier attempt has published is not what is asked for.
    whole = f"{reduced(job, environ)}/{digest([os.fsencode(output_name)])}"
    made = publish.publish(run, folder, names.RESULT, whole, make)
    name, version, _, size = made[names.RESULT]
    with run.open(name, version) as file:
        text = b"".join(file.pieces(0, size)).strip()
    worker.hand_over(environ, "RESULT_FILE", text.decode() if len(text) <= SHOWN_BYTES else "")
    worker.hand_over(environ, "RESULT_PATH_FILE", run.path(name))
    if clean:
        clean_up(run, plan, job, folder, run_id)
    worker.log("merge", "done", parts=count, plan=plan.id, job=job, output=folder)


def reduced(job: str, environ: Mapping[str, str]) -> str:
    """What a last step with this program makes of a job: one with another makes it again."""
    how = settings.program(environ, "REDUCE")
    return f"{records.job_id('', how)}/{job}" if how else job


def add(totals: records.Counts, counts: records.Counts, part: str) -> None:
    """Add the numbers of a part to the totals. Integers add up exactly; beside a float they would
    not, so a name has one kind of number in all parts."""
    for name, number in counts.items():
        before = totals.get(name, type(number)(0))
        if type(before) is not type(number):
            raise WorkerError(
                f"{name!r} is {number!r:.50} in part {part} and another kind of number in the "
                "parts before: let the map return only integers or only floats for a name"
            )
        totals[name] = before + number
        if records.find_bad_count({name: totals[name]}):
            raise WorkerError(f"the total of {name!r} is too large: let the map return less")


def incomplete(
    wrong: Mapping[str, Sequence[str]], count: int, job: str, status: str
) -> WorkerError:
    """The error that lists the parts without a valid record, per kind. What is missing after a map
    that has failed, no retry of the last step will find."""
    lists = []
    for problem, ids in sorted(wrong.items()):
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        lists.append(f"{len(ids)} {problem} ({', '.join(ids[:SHOWN])}{more})")
    sentence = (
        f"of {count} parts in {names.folder(names.PART_RECORD.format(job, ''))} "
        f"{'; '.join(lists)}: map these again, split.py with ONLY_MISSING=true lists them"
    )
    if status in FAILED and "missing" in wrong:
        return WorkerError(f"{sentence} (MAP_STATUS is {status}: no retry of this step helps)")
    return RetryError(
        f"{sentence}; if they were mapped, this node's mount may still hide their records or show "
        "old ones, and a retry elsewhere can help"
    )


def fold_files(
    arguments: Sequence[str], environ: Mapping[str, str], function: Combine | None
) -> None:
    """Prove that all files of a level were made of all files of level 1 as these are now; publish
    what is made of them."""
    if len(arguments) > 1:
        raise WorkerError(f"{len(arguments)} arguments: give one, NUMBER, or none to merge counts")
    number = settings.whole_number("NUMBER", arguments[0], 1, settings.MAX_FILES)
    level = settings.whole_number("LEVEL", environ.get("LEVEL", "3"), 1, settings.MAX_FILES)
    if level == 1 and environ.get("PROCESS_COMMAND"):
        raise WorkerError(
            "LEVEL must be 2 or more with PROCESS_COMMAND, got 1, whose files no process.py has "
            "made: run process.py on level 1, or unset PROCESS_COMMAND"
        )
    function = function or command.find("REDUCE", environ, LEVEL=level)
    settings.file_suffix(environ)
    run_id, started = settings.run_id(environ)
    clean = settings.is_true(environ, "CLEAN")
    settings.check_files(environ, "RESULT_FILE", "RESULT_PATH_FILE")
    _, run = open_storage(environ)
    begin, levels = time.time(), Levels(run, environ)
    folder = publish.results_folder(run_id, started)
    name = folder + os.path.basename(names.LEVEL_RESULT)
    # Levels that an attempt has removed, after it had published, are not looked for again.
    found: tuple[list[Segment], list[str]] = [], []
    with suppress(FileNotFoundError):
        found = levels.find_whole(level, number)
    job = reduced(f"{level}/{number}/", environ)
    if found[0]:
        job += digest(["\n".join(found[1]).encode()])

    def make() -> tuple[publish.Finals, dict[str, object]]:
        if level == 1:
            levels.check_level_1(range(number), "NUMBER")
        files, versions = found if found[0] else levels.find_whole(level, number)
        new = levels.check_unchanged(versions)
        if new and run_id:
            levels.check_left_out(level, len(versions))
        elif new:
            raise WorkerError(
                f"level 1 has {new} files more than the {len(versions)} that these were made of: "
                "run every level again, or move away those that are too many"
            )
        worker.log("merge", "proven", files=len(versions), new=new)
        result = combine(run, name, files, function, levels.suffix)
        return {names.LEVEL_RESULT: result}, {
            "files": len(versions),
            "output_bytes": result[3],
            "seconds": round(time.time() - begin, 3),
            "run": run_id,
        }

    published = publish.publish(run, folder, os.path.basename(name), job, make)
    _, version, _, size = published[names.LEVEL_RESULT]
    with run.open(name, version):
        told = {"bytes": size, "digest": run.checksum(name)}
    worker.hand_over(environ, "RESULT_FILE", json.dumps(told))
    worker.hand_over(environ, "RESULT_PATH_FILE", run.path(name))
    if clean:
        remove(run, levels.outputs(level))
    worker.log("merge", "done", level=level, files=number, output=folder)


def clean_up(run: Storage, plan: Plan, job: str, folder: str, run_id: str) -> None:
    """Remove the copies of a plan and the outputs of a job that this run has made, unless another
    run of the plan, or of the job, has begun and not published: it may need them."""
    place = names.BEGUN.format(plan.id, "")
    begun = [name.removeprefix(place) for name in run.names(place)]
    done = {folder, *publish.published(run, names.RESULT)} if begun else set()
    at_work = [one for one in begun if f"{names.RESULTS}{one.partition('/')[2]}/" not in done]
    unneeded: list[str] = []
    if plan.mode == "copy" and not at_work:
        unneeded += (names.PART_COPY.format(plan.id, part) for part, _ in parts_of(plan))
    if not any(one.startswith(f"{job}/") for one in at_work):
        found = records.read_parts(run, job, parts_of(plan))
        unneeded += (one.output[0] for one in found if one.output and one.run == run_id)
    remove(run, unneeded)
    if at_work:
        worker.log("merge", "kept", why="other runs of this plan are at work", runs=len(at_work))


def parts_of(plan: Plan) -> Iterator[tuple[str, int]]:
    """The id and the size of every part."""
    return ((str(number), stop - at) for number, (at, stop) in enumerate(pairwise(plan.cuts())))


def remove(run: Storage, found: Iterable[str]) -> None:
    """Remove files that this run made and that nothing needs any more."""
    for _ in map_in_order(run.remove, found):
        pass
