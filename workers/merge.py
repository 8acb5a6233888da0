"""Fold the results into one: the reduce of both pipelines.

Without an argument, log-count:
Reads   split-output/plan.json, cout-output/<id>.json for every part of it
Writes  result.json    {"INFO": 7, "WARN": 2, "ERROR": 0, "DEBUG": 1}
With NUMBER, process-data:
Reads   aggregation-demo/l<LEVEL>/<n>.txt    n from 0 to NUMBER - 1
Writes  aggregation-demo/result.txt    their bytes, one after the other
Prints  nothing
Exits   0 done; 2 bad settings or a result that cannot be right, do not retry; others, among them
        75 for a result that is not there yet: a retry may help
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

import contract
from contract import RetryError, WorkerError, whole_number
from store import open_stores
from worker import check_level_1, log, open_plan, results, run_worker

SHOWN = 20  # part ids in an error, of each kind


def merge_counts(environ: Mapping[str, str]) -> None:
    """Write result.json once every part of the plan is shown to be counted, whole and once."""
    count = whole_number("NUM_PARTS", environ.get("NUM_PARTS", "5"), 1, contract.MAX_PARTS)
    settings = contract.map_settings(environ)
    _, run = open_stores(environ)

    plan = open_plan(run, environ.get("PLAN_ID", ""))
    if plan.num_parts != count:
        raise WorkerError(
            f"NUM_PARTS is {count} and {plan.name} has {plan.num_parts} parts: give merge.py the "
            "NUM_PARTS that split.py had"
        )
    totals: contract.Counts = {}
    wrong: dict[str, list[str]] = {}
    for part_id, counts, problem in results(run, plan.id, plan.parts(), settings):
        if problem:
            wrong.setdefault(problem, []).append(part_id)
        for name, number in counts.items():
            totals[name] = totals.get(name, 0) + number
    if wrong:
        raise incomplete(wrong, count)
    if not contract.are_counts(totals):
        raise WorkerError(f"{totals} are the totals, not all finite: let the map return less")
    names = contract.keywords(environ) if "keywords" in settings else sorted(totals)
    text = json.dumps({name: totals[name] for name in names}, ensure_ascii=False)
    run.put(contract.RESULT, [text.encode(), b"\n"])
    log("merge", "done", parts=count, plan=plan.id, output=contract.RESULT)


def incomplete(wrong: Mapping[str, Sequence[str]], count: int) -> WorkerError:
    """The error that names the parts without a valid result, by what is wrong with each."""
    lists = []
    for problem, ids in sorted(wrong.items()):
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        lists.append(f"{len(ids)} {problem} ({', '.join(ids[:SHOWN])}{more})")
    sentence = (
        f"of {count} parts in {contract.folder(contract.COUNT)} {'; '.join(lists)}: map these "
        "again, split.py with ONLY_MISSING=true lists them"
    )
    if set(wrong) == {"missing"}:
        return RetryError(
            f"{sentence}; if they were mapped, this node's mount may still hide their results and "
            "a retry elsewhere can help"
        )
    return WorkerError(sentence)


def merge_files(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Join all files of a level."""
    if len(arguments) > 1:
        raise WorkerError(f"{len(arguments)} arguments: give one, NUMBER, or none to merge counts")
    number = whole_number("NUMBER", arguments[0], 1, contract.MOST)
    level = whole_number("LEVEL", environ.get("LEVEL", "3"), 1, contract.MOST)
    _, run = open_stores(environ)
    if level == 1:
        check_level_1(run, range(number), "NUMBER")
    run.join(contract.LEVEL_RESULT, (contract.LEVEL.format(level, n) for n in range(number)))
    log("merge", "done", level=level, files=number, output=contract.LEVEL_RESULT)


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run it: merge the files of a level with the argument NUMBER, the counts without."""
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> None:
        if arguments:
            merge_files(arguments, environ)
        else:
            merge_counts(environ)

    return run_worker("merge", work, environ)


if __name__ == "__main__":
    raise SystemExit(main())
