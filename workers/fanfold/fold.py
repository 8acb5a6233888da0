"""Fold: the last step of both pipelines. Proves the whole, from the records to the inputs, and
publishes the results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from fanfold import command, fold_levels, names, publish, records, report, settings, worker
from fanfold.errors import RetryError, WorkerError
from fanfold.inputs import check_inputs
from fanfold.names import FILE_LINES, digest
from fanfold.plan import Plan, encode, open_plan
from fanfold.settings import FILES
from fanfold.storage import Segment, Storage, check_apart, open_storage
from fanfold.streams import Combine, Stream, combine, reduce, yields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fanfold.outputs import Whole

SHOWN = 20  # part ids in an error, per kind
FAILED = "Failed", "Errored"  # values of MAP_STATUS after a failed map: Argo's words
SHOWN_BYTES = 32 << 10  # of RESULT_FILE: Argo stores it in the workflow
PROOFS = {  # by mode, for the page
    "copy": "Proven: every byte that split has copied was mapped once.",
    "range": "Proven: every byte of the input was mapped once, and no input has changed since.",
    FILES: "Proven: every file has one line in outputs.jsonl, and no file has changed since.",
}


def reduce_outputs(
    function: Callable[[Sequence[Stream]], Iterable[bytes]],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """The main function of a custom last step; returns the exit code. `function` gets the outputs
    of the parts or the files of the last level, and yields the bytes of the result."""
    return last_step(sys.argv[1:] if argv is None else argv, environ, yields(function))


def last_step(
    arguments: Sequence[str], environ: Mapping[str, str], function: Combine | None = None
) -> int:
    """The last step: with the argument NUMBER for the files of a level, without it for counts."""

    def work() -> None:
        if arguments:
            fold_levels.fold_files(arguments, environ, function)
        else:
            fold_counts(environ, function)

    return worker.run_worker("merge", work, environ)


class Fold:
    """The parts of a job, from which the last step makes the results."""

    def __init__(self, environ: Mapping[str, str], function: Combine | None) -> None:
        """Check the settings and read the plan."""
        self.environ, self.count = environ, settings.num_parts(environ)
        made_by = settings.map_settings(environ)
        self.words = settings.keywords(environ) if "keywords" in made_by else None
        if environ.get("REDUCE_COMMAND") and self.words:
            raise WorkerError(
                "REDUCE_COMMAND must be set with MAP_COMMAND or MAP_SETTINGS, got neither: set one "
                "as for the maps, or unset REDUCE_COMMAND, as count.py makes no output to reduce"
            )
        # A function, {input} and {inputs} read each output by itself; stdin joins the outputs.
        self.is_each = bool(function) or "{input" in environ.get("REDUCE_COMMAND", "")
        self.function = function or command.find("REDUCE", environ, NUM_PARTS=self.count)
        self.run_id, started = settings.run_id(environ)
        self.output = settings.output_name(environ)
        self.status = settings.choice(environ, "MAP_STATUS", "", *FAILED, "Succeeded", "Skipped")
        settings.check_files(environ, "RESULT_FILE", "RESULT_PATH_FILE", "SUMMARY_FILE")
        self.work, self.run = open_storage(environ)
        self.folder = publish.results_folder(self.run_id, started)
        self.plan = plan = open_plan(self.run, environ.get("PLAN_ID", ""))
        if plan.num_parts != self.count:
            raise plan.misfit(
                f"NUM_PARTS must be {plan.num_parts}, as in {plan.name}, got {self.count}: set the "
                "same NUM_PARTS for split.py and merge.py"
            )
        check_apart(self.work, self.run, plan.source, self.output)
        self.is_tolerated = settings.tolerated_failures(environ, plan.mode)
        self.made_by = settings.job_settings(made_by, plan.mode, environ)
        self.job = records.job_id(plan.id, self.made_by)
        self.begin = records.utc(time.time())
        self.totals = records.Counts(dict.fromkeys(self.words or (), 0))
        self.report = report.Report(self.run_id)

    def records(self) -> Iterator[records.PartRecord]:
        """Yield the record of every part."""
        for record in records.read_parts(self.run, self.job, parts_of(self.plan)):
            self.begin = min(self.begin, record.start or self.begin)
            if record.fields:
                self.report.add(record.part, record.size, record.fields)
            yield record

    def check_whole(self, wrong: Mapping[str, Sequence[str]]) -> None:
        """Check that no part has a problem with its record."""
        if wrong:
            raise incomplete(wrong, self.count, self.job, self.status)

    def check_inputs(self, plan: Plan) -> None:
        """Check that the inputs are unchanged since the plan."""
        # In mode copy the copies are the inputs, unless PLAN_ID is not set: then an older plan may
        # have replaced the newest.
        everything = plan.mode != "copy" or not self.environ.get("PLAN_ID")
        new = check_inputs(self.work, plan, everything=everything)
        worker.log("merge", "proven", parts=self.count, new=new)

    def prove_text(self) -> list[Segment]:
        """Add up the counts of the parts; return the outputs of the parts."""
        found: list[Segment] = []
        wrong: dict[str, list[str]] = {}
        for record in self.records():
            if record.problem:
                wrong.setdefault(record.problem, []).append(record.part)
                continue
            add(self.totals, record.counts, f"part {record.part}")
            found += [record.output] if record.output else []
        self.check_whole(wrong)
        self.check_inputs(self.plan)
        return found

    def prove_files(self) -> Whole:
        """Add up the counts of the files, and publish the line of each file."""
        from fanfold import outputs  # the other modes do not need it

        whole = outputs.Whole(self.work, self.run, self.plan)
        most = self.is_tolerated(self.plan.files)
        with self.run.writer(f"{self.folder}{FILE_LINES}-{names.nonce()}") as out:
            out.write(b"")
            for line in whole.lines(self.records()):
                add(self.totals, line["counts"], str(line["name"]))
                if line["exit"]:
                    self.report.fail(line["name"], line["exit"], line["said"])
                out.write(encode(line).encode() + b"\n")
            # After a failed map, files without a record have failed.
            lost = {"missing"} if self.status in FAILED else set()
            self.check_whole({each: whole.lost[each] for each in whole.lost.keys() - lost})
            self.check_inputs(open_plan(self.run, self.plan.id))
        whole.made = outputs.commit(self.run, self.folder, self.made_by, out)
        if whole.failed > most:
            text = self.environ.get("TOLERATED_FAILURES", "0")
            raise whole.error(text, self.run.path(whole.made[0]))
        return whole

    def make(self) -> tuple[publish.Finals, dict[str, object]]:
        """Prove the whole and write the results to the run's folder. Return them and the
        summary."""
        run, plan, function, name = self.run, self.plan, self.function, self.output
        finals, counted, parts, whole = publish.Finals(), {}, list[Segment](), None
        if plan.mode == FILES:
            whole = self.prove_files()
            finals[FILE_LINES] = whole.made
            counted = {"failed": whole.failed, "taken": whole.taken}
        else:
            parts = self.prove_text()
        is_made = bool(parts or function)
        # Without outputs, the output of an earlier run must not stay.
        stays = not is_made and run.has(name)
        if stays and not publish.is_final(run, names.RESULT, name):
            raise WorkerError(
                "OUTPUT must be free, or a file of a run in results/, as the maps wrote nothing, "
                f"got {name!r}: move the file away, or set OUTPUT to another name"
            )
        made, target, suffix = None, self.folder + name, os.path.splitext(name)[1]
        if whole and function:
            made = reduce(run, target, whole.streams(is_each=self.is_each), function, suffix)
        elif is_made or stays:
            made = combine(run, target, parts, function, suffix)
        text = json.dumps(
            {each: self.totals[each] for each in self.words or sorted(self.totals)},
            ensure_ascii=False,
        )
        result = run.put(self.folder + names.RESULT, [text.encode(), b"\n"])
        summary = {
            "parts": self.count,
            "files": plan.files,
            **counted,
            "input_bytes": plan.bytes,
            "output_bytes": made[3] if made else whole.output_bytes if whole else 0,
            "seconds": round(time.time() - records.from_utc(self.begin), 3),
            "run": self.run_id,
            "plan": plan.id,
            "job": self.job,
        }
        facts = {"input": plan.source, "mode": plan.mode, **summary}
        failed = whole.failed if whole else 0
        page = publish.put_page(
            run, self.folder + names.REPORT,
            lambda: self.report.page(PROOFS[plan.mode], facts, self.totals, failed),
        )  # fmt: skip
        return {names.RESULT: result, name: made, **finals, names.REPORT: page}, summary


def fold_counts(environ: Mapping[str, str], function: Combine | None) -> None:
    """Prove that every part was mapped, completely and once, and publish the results."""
    clean = settings.is_true(environ, "CLEAN")
    fold = Fold(environ, function)
    run, plan, job, folder = fold.run, fold.plan, fold.job, fold.folder
    # With another OUTPUT, the results of an earlier attempt are not the requested ones.
    whole = f"{publish.reduced(job, environ)}/{digest([os.fsencode(fold.output)])}"
    made = publish.publish(run, folder, names.RESULT, whole, fold.make)
    name, version, _, size = made[names.RESULT]
    with run.open(name, version) as file:
        text = b"".join(file.pieces(0, size)).strip()
    worker.hand_over(environ, "RESULT_FILE", text.decode() if len(text) <= SHOWN_BYTES else "")
    worker.hand_over(environ, "RESULT_PATH_FILE", run.path(name))
    if environ.get("SUMMARY_FILE"):
        summary = b"".join(run.stream(f"{folder}summary.json")).strip()
        worker.hand_over(environ, "SUMMARY_FILE", summary.decode())
    if clean:
        clean_up(run, plan, job, folder, fold.run_id)
    worker.log("merge", "done", parts=fold.count, plan=plan.id, job=job, output=folder)


def add(totals: records.Counts, counts: records.Counts, where: str) -> None:
    """Add numbers to the totals. Integers add up exactly, but not together with floats, so a name
    must have only one kind of number."""
    for name, number in counts.items():
        before = totals.get(name, type(number)(0))
        if type(before) is not type(number):
            raise WorkerError(
                f"the numbers of {name!r} must be all integers or all floats, got {number!r:.50} "
                f"in {where} after the other kind: let the map return one kind"
            )
        totals[name] = before + number
        if records.find_bad_count({name: totals[name]}):
            raise WorkerError(f"the total of {name!r} is too large: return smaller numbers")


def incomplete(
    wrong: Mapping[str, Sequence[str]], count: int, job: str, status: str
) -> WorkerError:
    """Return the error that lists the parts without a valid record, by problem. After a failed map,
    no retry of the last step finds missing records."""
    lists = []
    for problem, ids in sorted(wrong.items()):
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        lists.append(f"{len(ids)} {problem} ({', '.join(ids[:SHOWN])}{more})")
    sentence = (
        f"each of {count} parts in {names.folder(names.PART_RECORD.format(job, ''))} must have a "
        f"valid record, got {'; '.join(lists)}: map these parts again (split.py with "
        "ONLY_MISSING=true prints them), or set KEYWORDS, MAP_COMMAND, MAP_SETTINGS as for the maps"
    )
    if status in FAILED and "missing" in wrong:
        return WorkerError(f"{sentence} (MAP_STATUS is {status}: no retry of this step helps)")
    return RetryError(
        f"{sentence}; if they were mapped, this node's mount may hide their records or show old "
        "ones, and a retry on another node can help"
    )


def clean_up(run: Storage, plan: Plan, job: str, folder: str, run_id: str) -> None:
    """Remove the copies of a plan and the outputs of a job that this run made, unless another run
    of the plan or the job has begun and not published: it may need them."""
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
    publish.remove(run, unneeded)
    if at_work:
        worker.log("merge", "kept", why="other runs of this plan are at work", runs=len(at_work))


def parts_of(plan: Plan) -> Iterator[tuple[str, int]]:
    """Yield the id and the size of every part."""
    return ((str(number), stop - at) for number, (at, stop) in enumerate(pairwise(plan.cuts())))
