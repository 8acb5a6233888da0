"""Cut the input into NUM_PARTS parts at line ends, and commit them as a plan.

Reads   INPUT                     one file, or with a final / every file under that prefix
Writes  split-output/<id>.txt     the bytes of a part (SPLIT_MODE=copy; range writes none)
        split-output/plan.json    last: what the parts are; its id goes to PLAN_ID_FILE, too
Prints  ["0","1","2"]             the part ids; with ONLY_MISSING those without a valid result
Exits   0 done; 2 bad settings or input, do not retry; others: a retry may help
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain, groupby

import contract
from contract import Input, Part, RetryError, WorkerError, changed
from store import PIECE, File, Store, each, open_stores
from worker import log, open_plan, results, run_worker, sources

BLOCK = 64 << 10  # bytes read at first to find a line end; each further read is twice as large
GROUP = 16  # cuts looked for with one open file


def find_inputs(store: Store, name: str) -> list[Input]:
    """The files that INPUT names, in byte order of their names."""

    def look(name: str) -> Input:
        with store.open(name) as file:
            return name, file.size, file.version

    try:
        inputs = list(each(look, store.names(name) if name.endswith("/") else [name]))
    except FileNotFoundError:
        inputs = []
    if not inputs:
        raise WorkerError(
            f"INPUT {name} is no file and no folder with files in WORK_DIR: put the input there, "
            "or set INPUT to its name"
        )
    return inputs


def find_cuts(work: Store, inputs: Sequence[Input], count: int) -> Sequence[int]:
    """`count` + 1 offsets in the inputs laid end to end, each the first line start at or after
    its even share: one small read a part, whatever the size of the input."""
    ends = list(accumulate(size for _, size, _ in inputs))
    targets = [ends[-1] * number // count for number in range(1, count)]
    groups = [targets[at : at + GROUP] for at in range(0, len(targets), GROUP)]
    looks = each(lambda group: line_starts(work, inputs, ends, group, BLOCK), groups)
    cuts = array("Q", [0])
    for target, start in zip(targets, chain.from_iterable(looks), strict=True):
        if start >= 0:
            cuts.append(start)
        elif target <= cuts[-1]:  # in a line longer than BLOCK, whose end is known by now
            cuts.append(cuts[-1])
        else:
            cuts.extend(line_starts(work, inputs, ends, [target], ends[-1]))
    cuts.append(ends[-1])
    return cuts


def line_starts(
    work: Store, inputs: Sequence[Input], ends: Sequence[int], targets: Sequence[int], most: int
) -> list[int]:
    """For each of the ascending targets the first line start at or after it, or -1 if there is
    none within `most` bytes."""
    found: list[int] = []
    for index, group in groupby(targets, lambda target: bisect_right(ends, target)):
        if index == len(inputs):  # only where the inputs hold no byte
            found.extend(group)
            continue
        name, size, version = inputs[index]
        begin = ends[index] - size
        with work.open(name, version) as file:
            for target in group:
                start = next_line(file, target - begin, most)
                found.append(start if start < 0 else begin + start)
    return found


def next_line(file: File, offset: int, most: int) -> int:
    """The first line start at or after `offset`, or -1 if there is none within `most` bytes; the
    end of the file is one."""
    if offset == 0:
        return 0
    at, end, block = offset - 1, min(file.size, offset + most), BLOCK
    while at < end:
        piece = file.read(at, block)
        if not piece:
            raise changed(file.name, f"{file.size} bytes", at)
        if (found := piece.find(b"\n")) >= 0:
            return at + found + 1
        at, block = file.data(at + len(piece)), min(2 * block, PIECE)
    return file.size if at >= file.size else -1


def find_edges(work: Store, part: Part) -> str:
    """How a part begins and ends: what tells its copy from one of another split, which may have
    the same name and size."""
    if not part[3]:
        return ""
    first, last = contract.edge_lengths(part)
    (name, version, at, _), (end_name, end_version, end_at, length) = part[3][0], part[3][-1]
    with work.open(name, version) as file, work.open(end_name, end_version) as end:
        return contract.edges(file.pieces(at, first), end.pieces(end_at + length - last, last))


def find_copies(run: Store, plan_id: str) -> set[str]:
    """The copies that an earlier split of this very plan has left. Another plan goes: it would be
    believed again if its input came back, and have copies of this one by then."""
    names = set(run.names(contract.folder(contract.COPY)))
    if contract.PLAN not in names:
        return set()
    try:
        open_plan(run, plan_id)
    except WorkerError:
        run.put(contract.PLAN, [contract.NO_PLAN])
        return set()
    return names


def is_whole(run: Store, part: Part) -> bool:
    """Whether the copy that is there is one of this very part."""
    try:
        for _ in sources("copy", part, run, run):
            break
    except RetryError:
        return False
    return True


def printed(ids: Iterable[int]) -> str:
    """What split.py prints: the ids of parts."""
    return "[" + ",".join(f'"{number}"' for number in ids) + "]"


def check_output(count: int, limit: str) -> None:
    """That what is printed, for all parts, does not take more than `limit` bytes: who reads it may
    cut off the rest."""
    most = contract.whole_number("OUTPUT_LIMIT", limit, 1, contract.MOST)
    if (size := len(printed(range(count))) + 1) > most:
        raise WorkerError(
            f"NUM_PARTS is {count}, whose ids take {size} bytes, and OUTPUT_LIMIT is {most}: give "
            "fewer parts"
        )


def split(environ: Mapping[str, str]) -> None:
    """Cut, copy if asked to, commit the plan, and print the ids of the parts to map."""
    name = contract.input_name(environ)
    count = contract.whole_number("NUM_PARTS", environ.get("NUM_PARTS", "5"), 1, contract.MAX_PARTS)
    mode = contract.choice(environ, "SPLIT_MODE", "copy", "range")
    only_missing = contract.choice(environ, "ONLY_MISSING", "false", "true") == "true"
    settings = contract.map_settings(environ)
    if limit := environ.get("OUTPUT_LIMIT"):
        check_output(count, limit)
    id_file = environ.get("PLAN_ID_FILE")
    if id_file and not os.access(os.path.dirname(id_file) or ".", os.W_OK):
        raise WorkerError(
            f"PLAN_ID_FILE is {id_file!r}: give a file in a folder that can be written"
        )
    work, run = open_stores(environ)

    inputs = find_inputs(work, name)
    cuts = find_cuts(work, inputs, count)
    edges: list[str] = []
    if mode == "copy":
        parts = contract.cut_parts(inputs, cuts)
        edges = list(each(lambda part: find_edges(work, part), parts, batch=8))
    plan_id = contract.digest(contract.plan_body(mode, inputs, cuts, edges))
    for folder in (contract.folder(contract.PLAN), contract.folder(contract.COUNT)):
        run.make_folder(folder)
    if mode == "copy":
        kept = find_copies(run, plan_id)

        def copy(part: Part) -> None:
            name = contract.COPY.format(part[0])
            if not only_missing or name not in kept or not is_whole(run, part):
                run.copy(name, work, part[3])

        parts = contract.cut_parts(inputs, cuts, edges)
        for _ in each(copy, parts, lanes=run.copies_at_once, reads=False):
            pass
    body = contract.plan_body(mode, inputs, cuts, edges)
    run.put(contract.PLAN, chain([contract.plan_head(plan_id)], body))
    if id_file:
        with open(id_file, "w", encoding="ascii") as file:
            file.write(plan_id)

    done = set()
    if only_missing:
        counted = set(run.names(contract.folder(contract.COUNT)))
        parts = contract.cut_parts(inputs, cuts)
        listed = (part for part in parts if contract.COUNT.format(part[0]) in counted)
        found = results(run, plan_id, listed, settings)
        done = {part_id for part_id, _, problem in found if not problem}
    missing = array("L", (number for number in range(count) if str(number) not in done))
    print(printed(missing))
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


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run it with the settings in the environment."""
    return run_worker("split", lambda: split(environ), environ)


if __name__ == "__main__":
    raise SystemExit(main())
