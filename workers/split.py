"""Cut the input into NUM_PARTS parts at line ends, and commit them as a plan.

Reads   INPUT                     one file, or with a final / every file under that prefix
Writes  split-output/<id>.txt     the bytes of a part (SPLIT_MODE=copy; range writes none)
        split-output/plan.json    last: what the parts are; its id goes to PLAN_ID_FILE, too
Prints  ["0","1","2"]             the part ids; with ONLY_MISSING those without a valid result
Exits   0 done; 2 bad settings or input, do not retry; others: a retry may help
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, groupby

import contract
from contract import Input, WorkerError, changed
from store import LANES, PIECE, File, Store, each, open_stores
from worker import log, open_plan, results, run_worker

BLOCK = 64 << 10  # bytes read at first to find a line end; each further read is twice as large


def look(store: Store, name: str) -> Input:
    """A file's name, size and version."""
    with store.open(name) as file:
        return name, file.size, file.version


def find_inputs(store: Store, name: str) -> list[Input]:
    """The files that INPUT names, in byte order of their names."""
    try:
        names = store.names(name) if name.endswith("/") else [name]
        inputs = list(each(lambda name: look(store, name), names))
    except FileNotFoundError:
        inputs = []
    if not inputs:
        raise WorkerError(
            f"INPUT {name} is no file and no folder with files in WORK_DIR: put the input there, "
            "or set INPUT to its name"
        )
    return inputs


def find_cuts(store: Store, inputs: Sequence[Input], count: int) -> Sequence[int]:
    """`count` + 1 offsets in the inputs laid end to end, each the first line start at or after
    its even share. Costs one small read a part, whatever the size of the input."""
    ends = list(accumulate(size for _, size, _ in inputs))
    total = ends[-1]
    targets = [total * number // count for number in range(1, count)]
    share = len(targets) // LANES + 1
    shares = (targets[at : at + share] for at in range(0, len(targets), share))
    cuts = array("Q", [0])
    for found in each(lambda targets: line_starts(store, inputs, ends, targets), shares):
        cuts.extend(found)
    cuts.append(total)
    return cuts


def line_starts(
    store: Store, inputs: Sequence[Input], ends: Sequence[int], targets: Iterable[int]
) -> list[int]:
    """For each of the ascending targets the first line start at or after it."""
    found: list[int] = []
    for index, group in groupby(targets, lambda target: bisect_right(ends, target)):
        if index == len(inputs):  # only where the inputs hold no byte
            found.extend(group)
            continue
        name, size, version = inputs[index]
        begin = ends[index] - size
        start = begin
        with store.open(name, version) as file:
            for target in group:
                if target > start:  # else the line that reaches over this target is known
                    start = begin + next_line(file, target - begin)
                found.append(start)
    return found


def next_line(file: File, offset: int) -> int:
    """The first line start at or after `offset`, which is not 0; the end of the file is one."""
    at, block = offset - 1, BLOCK
    while at < file.size:
        piece = file.read(at, block)
        if not piece:
            raise changed(file.name, f"{file.size} bytes", at)
        if (end := piece.find(b"\n")) >= 0:
            return at + end + 1
        at, block = file.data(at + len(piece)), min(2 * block, PIECE)
    return file.size


def split(environ: Mapping[str, str]) -> None:
    """Cut, copy if asked to, commit the plan, and print the ids of the parts to map."""
    name = contract.input_name(environ)
    count = contract.whole_number("NUM_PARTS", environ.get("NUM_PARTS", "5"), 1, contract.MAX_PARTS)
    mode = contract.choice(environ, "SPLIT_MODE", "copy", "range")
    only_missing = contract.choice(environ, "ONLY_MISSING", "false", "true") == "true"
    settings = contract.map_settings(environ)
    work, run = open_stores(environ)

    inputs = find_inputs(work, name)
    cuts = find_cuts(work, inputs, count)
    plan_id = contract.digest(contract.plan_body(mode, inputs, cuts))
    for folder in (contract.folder(contract.PLAN), contract.folder(contract.COUNT)):
        run.make_folder(folder)
    present = set(run.names(contract.folder(contract.PLAN)))
    old = published(run) if contract.PLAN in present else ""
    if mode == "copy":
        if old not in ("", plan_id):  # its maps must not take the new copies for their own
            run.remove(contract.PLAN)
        kept = present if only_missing and old == plan_id else set()
        for part_id, size, segments in contract.cut_parts(inputs, cuts):
            copy = contract.COPY.format(part_id)
            if copy not in kept or look(run, copy)[1] != size:
                run.copy(copy, work, segments)
    body = contract.plan_body(mode, inputs, cuts)
    run.put(contract.PLAN, chain([contract.plan_head(plan_id)], body))
    if path := environ.get("PLAN_ID_FILE"):
        with open(path, "w", encoding="ascii") as file:
            file.write(plan_id)

    done = set()
    if only_missing:
        counted = set(run.names(contract.folder(contract.COUNT)))
        parts = contract.cut_parts(inputs, cuts)
        listed = (part for part in parts if contract.COUNT.format(part[0]) in counted)
        found = results(run, plan_id, listed, settings)
        done = {part_id for part_id, _, problem in found if not problem}
    missing = [str(number) for number in range(count) if str(number) not in done]
    print(json.dumps(missing, separators=(",", ":")))
    log(
        "split",
        "done",
        mode=mode,
        files=len(inputs),
        bytes=cuts[-1],
        parts=count,
        missing=len(missing),
        plan=plan_id,
    )


def published(run: Store) -> str:
    """The id of the plan that is there, or a word where it is none that this worker reads."""
    try:
        return open_plan(run).id
    except WorkerError:
        return "unreadable"


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the settings in the environment."""
    return run_worker("split", lambda: split(environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
