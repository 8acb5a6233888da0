"""Fold of a level: the last step of process-data. It proves all files of a level, from the records
to level 1, and publishes the result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from fanfold import command, names, publish, report, settings, worker
from fanfold.errors import WorkerError
from fanfold.levels import Levels
from fanfold.names import digest
from fanfold.parallel import map_in_order
from fanfold.storage import Segment, open_storage
from fanfold.streams import Combine, combine

MOST_RECORDS = 2000  # records that are read for the page
PROOF = "Proven: every file of level 1 is in the result once, and none has changed since."


def fold_files(
    arguments: Sequence[str], environ: Mapping[str, str], function: Combine | None
) -> None:
    """Prove that all files of a level were made from all current files of level 1, and publish the
    result."""
    if len(arguments) > 1:
        raise WorkerError(
            f"the argument must be NUMBER or none, got {len(arguments)}: pass at most one argument"
        )
    number = settings.whole_number("NUMBER", arguments[0], 1, settings.MAX_FILES)
    level = settings.whole_number("LEVEL", environ.get("LEVEL", "3"), 1, settings.MAX_FILES)
    if level == 1 and environ.get("PROCESS_COMMAND"):
        raise WorkerError(
            "LEVEL must be 2 or more with PROCESS_COMMAND, got 1, the level of the inputs: run "
            "process.py on level 1, or unset PROCESS_COMMAND"
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
    # An earlier attempt may have published and removed the levels.
    found: tuple[list[Segment], list[str]] = [], []
    with suppress(FileNotFoundError):
        found = levels.find_whole(level, number)
    job = publish.reduced(f"{level}/{number}/", environ)
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
                f"level 1 must have only the {len(versions)} files of the result, got {new} more: "
                "run every level again, or move the additional files away"
            )
        worker.log("merge", "proven", files=len(versions), new=new)
        result = combine(run, name, files, function, levels.suffix)
        summary = {
            "files": len(versions),
            "output_bytes": result[3],
            "seconds": round(time.time() - begin, 3),
            "run": run_id,
        }
        page = publish.put_page(
            run, folder + names.LEVEL_PAGE, lambda: page_of(levels, level, len(versions), summary)
        )
        return {names.LEVEL_RESULT: result, names.LEVEL_REPORT: page}, summary

    published = publish.publish(run, folder, os.path.basename(name), job, make)
    _, version, _, size = published[names.LEVEL_RESULT]
    with run.open(name, version):
        fields = {"bytes": size, "digest": run.checksum(name)}
    worker.hand_over(environ, "RESULT_FILE", json.dumps(fields))
    worker.hand_over(environ, "RESULT_PATH_FILE", run.path(name))
    if clean:
        publish.remove(run, levels.outputs(level))
    worker.log("merge", "done", level=level, files=number, output=folder)


def page_of(levels: Levels, last: int, count: int, facts: Mapping[str, object]) -> Iterator[bytes]:
    """Return the page of a run over `count` files of level 1, from the records of the levels 2 to
    `last`. If there are too many records, only the last levels are read."""
    found, there = report.Report(levels.run_id, "file"), dict[int, list[int]]()
    for level in range(last, 1, -1):
        place = names.folder(levels.record(level, 0))
        ids = (name[len(place) :].removesuffix(".json") for name in levels.run.names(place))
        there[level] = sorted(int(number) for number in ids if number.isdecimal())
        if sum(map(len, there.values())) > MOST_RECORDS:
            del there[level]
            break
    for level, numbers in sorted(there.items()):
        fields = map_in_order(partial(levels.fields, level), numbers)
        for number, one in zip(numbers, fields, strict=True):
            end = one["first"] + len(one["versions"])
            if end <= count:  # by hand, another run may have made more
                bar = found.add(f"{number} of level {level}", one["output"][1], one)
                found.put(level, one["first"] / count, end / count, bar)
    facts = {"input": names.folder(levels.file(0)), "level": last, **facts}
    yield from found.page(PROOF, facts)
