"""Runs of both pipelines, step by step, as in Argo or by hand, and their expected results: those
of the model for the input of the run, or nothing.

    older = Run.of(volume, pipeline, OLD, RUN_ID="a", RUN_STARTED=1)
    older.write()
    assert [older.do(step) for step in pipeline.steps] == [0] * len(pipeline.steps)
    older.check()
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import faulty
import own_map
from fanfold import map_part, reduce_outputs
from pipeline import JOINED, LEVEL_1, MAINS, Tree, Volume

MAINS["own"] = lambda _, environ: map_part(own_map.own, environ)  # workers of these tests
MAINS["plain"] = lambda _, environ: map_part(own_map.plain, environ)
MAINS["join"] = lambda argv, environ: reduce_outputs(own_map.join, argv, environ)

Files = Mapping[str, bytes]
OLD, SAME, OTHER = "old", "other bytes of the same sizes", "other sizes"
WORDS = "opqr"
MAY_CHANGE = {"replace", "unlink", "makedirs", "PUT", "POST", "DELETE"}
# Operations that other processes can notice: in a folder, and in a bucket.
MAY_NOTICE = MAY_CHANGE | {"open", "scandir", "GET", "HEAD"}


class Step(NamedTuple):
    """A call of a worker."""

    worker: str
    arguments: tuple[int, ...] = ()
    settings: Mapping[str, object] = {}


@dataclass(frozen=True)
class Pipeline:
    """The steps of a pipeline, its inputs, and the model of its results."""

    name: str
    steps: list[Step]
    inputs: Mapping[str, Files]  # by variant, and by name relative to RUN_DIR
    model: Callable[[Files], Tree]  # of the files at the final names
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The number of the last step."""
        return len(self.steps) - 1


def letters(files: Files) -> Counter[str]:
    """Count each of WORDS in the files."""
    return Counter(letter for data in files.values() for letter in data.decode() if letter in WORDS)


def totals(words: str) -> Callable[[Files], Tree]:
    """Return the expected result of count."""

    def model(files: Files) -> Tree:
        found = letters(files)
        return {"result.json": json.dumps({word: found[word] for word in words}).encode() + b"\n"}

    return model


def joined_lines(files: Files) -> Tree:
    """Return the expected result of the map in own_map.py: counts, and all lines."""
    found = json.dumps(dict(sorted(letters(files).items()))).encode() + b"\n"
    return {"result.json": found, "result.out": b"".join(files.values())}


def joined_by_program(files: Files) -> Tree:
    """Return the expected result of ATTEMPT as a map: all lines."""
    return {"result.json": b"{}\n", "result.out": b"".join(files.values())}


def joined_files(files: Files) -> Tree:
    """Return the expected results of the plain map and the join of own_map.py in mode files: a line
    per file, without the fields that vary, and all files."""
    found = [
        {"name": name.rpartition("/")[2], "bytes": len(data), "counts": dict(letters({name: data}))}
        for name, data in files.items()
    ]
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in found)
    result = json.dumps(dict(sorted(letters(files).items()))).encode() + b"\n"
    return {
        "result.json": result,
        "outputs.jsonl": lines,
        "result.out": b"".join(b"<%b>" % data for data in files.values()),
    }


def joined(files: Files) -> Tree:
    """Return the expected result of process-data."""
    return {JOINED: b"".join(files.values())}


def lines(a: bytes, b: bytes) -> Files:
    """Two logs."""
    return {"in/a": a, "in/b": b}


def level_1(letter: bytes, sizes: Iterable[int]) -> Files:
    """The files of level 1."""
    return {
        LEVEL_1.format(number): b"%b%d" % (letter, number) * size
        for number, size in enumerate(sizes)
    }


LOGS = {
    OLD: lines(b"ooo\nooo\no\noooo\n", b"pp\np\n"),
    SAME: lines(b"qqq\nqqq\nq\nqqqq\n", b"rr\nr\n"),
    OTHER: lines(b"qq\nq\n", b"rrrr\nrrrr\nr\nrrrrrr\n"),
}
FILES = {
    OLD: level_1(b"o", (8, 10, 9, 8, 1)),
    SAME: level_1(b"n", (8, 10, 9, 8, 1)),
    OTHER: level_1(b"n", (9, 1, 0, 20, 8)),
}
IN_LOGS = {"NUM_PARTS": 2, "KEYWORDS": ",".join(WORDS)}
COUNTS = [Step("count", (), {"PART_ID": number}) for number in range(2)]
MAPS = [Step("own", (), {"PART_ID": number}) for number in range(2)]
GROUPS = [
    Step("process", (number, level), {"FILES": files})
    for level, files in ((1, 5), (2, 3))
    for number in range((files + 1) // 2)
]

COUNT = Pipeline("count", [Step("split"), *COUNTS, Step("merge")], LOGS, totals(WORDS), IN_LOGS)
MAP = Pipeline(
    "map",
    [Step("split"), *MAPS, Step("merge")],
    LOGS,
    joined_lines,
    {"NUM_PARTS": 2, "MAP_SETTINGS": "letters, 1"},
)
# Programs with other output bytes in each attempt: a head with the step, the part or the group, and
# the attempt.
ATTEMPT = """sh -c 'printf "[%s.1%014d]" "$0$PART_ID$FILE_NUMBER" $$; exec cat "$@"' """
PROGRAM = Pipeline(
    "program",
    [step._replace(worker="map") if step.worker == "own" else step for step in MAP.steps],
    LOGS,
    joined_by_program,
    {"NUM_PARTS": 2, "MAP_COMMAND": ATTEMPT + "m", "REDUCE_COMMAND": ATTEMPT + "r"},
)
GROUP = replace(
    MAP,
    name="group",
    steps=[Step("split"), Step("own", (), {"PART_ID": "0-1"}), Step("merge")],
    settings={**MAP.settings, "PARTS_PER_POD": 2},
)
THREE_PARTS = replace(
    COUNT,
    name="three parts",
    steps=[*COUNT.steps[:3], Step("count", (), {"PART_ID": 2}), COUNT.steps[3]],
    settings={**IN_LOGS, "NUM_PARTS": 3},
)
OTHER_WORDS = replace(
    COUNT, name="other words", model=totals("po"), settings={**IN_LOGS, "KEYWORDS": "p,o"}
)
LEVELS = Pipeline("levels", [*GROUPS, Step("merge", (2,), {"LEVEL": 3})], FILES, joined)
PROGRAMS = replace(
    LEVELS,
    name="programs",
    settings={"PROCESS_COMMAND": ATTEMPT + "p {inputs}", "REDUCE_COMMAND": ATTEMPT + "r"},
)
JOIN = Pipeline("join", [Step("merge", (5,), {"LEVEL": 1})], FILES, joined)

WHOLE = Pipeline(
    "files",
    [
        Step("split"),
        *(Step("plain", (), {"PART_ID": number}) for number in range(2)),
        Step("join"),
    ],
    LOGS,
    joined_files,
    {"NUM_PARTS": 2, "MAP_SETTINGS": "letters, 1", "SPLIT_MODE": "files"},
)
# A part of both files; only one of them may be changed.
BOTH = replace(
    WHOLE,
    name="files of a part",
    steps=[*WHOLE.steps[:2], WHOLE.steps[3]],
    settings={**WHOLE.settings, "NUM_PARTS": 1},
)

COPY, RANGE = {"SPLIT_MODE": "copy"}, {"SPLIT_MODE": "range"}
STEPS: dict[str, tuple[Pipeline, int, dict[str, str]]] = {
    "split copy": (MAP, 0, COPY),
    "split range": (MAP, 0, RANGE),
    "count copy": (COUNT, 1, COPY),
    "count range": (COUNT, 1, RANGE),
    "map copy": (MAP, 1, COPY),
    "map range": (MAP, 1, RANGE),
    "group copy": (GROUP, 1, COPY),
    "group range": (GROUP, 1, RANGE),
    "program copy": (PROGRAM, 1, COPY),
    "program range": (PROGRAM, 2, RANGE),
    "program merge": (PROGRAM, 3, RANGE),
    "merge copy": (MAP, 3, COPY),
    "merge range": (MAP, 3, RANGE),
    "process level 1": (LEVELS, 0, {}),
    "process level 2": (LEVELS, 3, {}),
    "merge files": (LEVELS, 5, {}),
    "program level 1": (PROGRAMS, 0, {}),
    "program level 2": (PROGRAMS, 3, {}),
    "program merge files": (PROGRAMS, 5, {}),
    "join": (JOIN, 0, {}),
    "split files": (WHOLE, 0, {}),
    "map files": (BOTH, 1, {}),
    "merge outputs": (WHOLE, 3, {}),
}
ARGO = {"RUN_ID": "b", "RUN_STARTED": 1}, {"RUN_ID": "a", "RUN_STARTED": 2}  # the newer second
BY_HAND: tuple[dict[str, object], ...] = {}, {}


@dataclass(eq=False)
class Run:
    """A run of a pipeline in a RUN_DIR."""

    volume: Volume
    pipeline: Pipeline
    files: Files  # its input
    id: str = ""  # RUN_ID; empty for a run by hand

    numbers = itertools.count()

    @classmethod
    def of(cls, volume: Volume, pipeline: Pipeline, variant: str, **settings: object) -> Run:
        """Return a run on an input. With RUN_ID all steps also get PLAN_ID, as in Argo."""
        more = {**pipeline.settings, "INPUT": f"{volume.settings['RUN_DIR']}/in/", **settings}
        files = pipeline.inputs[variant]
        return cls(volume.having(**more), pipeline, files, str(settings.get("RUN_ID", "")))

    def write(self) -> None:
        """Write the input, the first file first, and remove other files."""
        there = self.volume.run_dir / next(iter(self.files))
        for path in there.parent.iterdir() if there.exists() else ():
            if str(path.relative_to(self.volume.run_dir)) not in self.files:
                path.unlink()
        for name, data in self.files.items():
            self.volume.write(str((self.volume.run_dir / name).relative_to(self.volume.root)), data)

    def read_aside(self) -> Run:
        """Like write(), but the run reads its logs from the places of write_aside(): several runs
        in parallel then have their own logs, and equal logs have one plan."""
        if self.pipeline.inputs is LOGS:
            variant = next(key for key, files in LOGS.items() if files is self.files)
            self.volume = self.volume.having(INPUT=f"{variant}/in/")
        else:
            self.write()
        return self

    def do(self, number: int, hook: faulty.Hook | None = None) -> int:
        """Do one step, with a hook before every operation; return its exit code."""
        step = self.pipeline.steps[number]
        with ExitStack() as stack:
            if hook:
                stack.enter_context(faulty.operations(hook))
            outcome = self.volume.run(step.worker, *step.arguments, **step.settings)
        assert (outcome.code == 0) != ("event=failed" in outcome.words)
        if step.worker == "split" and self.id:
            plan = outcome.event("done").get("plan", "none")
            self.volume = self.volume.having(PLAN_ID=plan)
        return outcome.code

    def finish(self, first: int = 0) -> list[int]:
        """Do all steps from one on, until a step fails; return their exit codes."""
        codes: list[int] = []
        for number in range(first, self.pipeline.last + 1):
            codes.append(self.do(number))
            if codes[-1] and self.id:
                break  # Argo starts no further step
        return codes

    @property
    def right(self) -> Tree:
        """Return the expected files at the final names."""
        return self.pipeline.model(self.files)

    def final(self) -> Tree:
        """Return the files at the final names."""
        found = {name: self.volume.final(name) for name in self.right}
        return {} if set(found.values()) == {None} else as_model(found)

    def results(self) -> Tree:
        """Return the files in the folder of its results, by final name; nothing without a
        record."""
        for folder, found in self.volume.results().items():
            if folder.partition("-")[2] == self.id and any(
                name.endswith(".record") for name in found
            ):
                return as_model({name: found[name.rpartition("/")[2]] for name in self.right})
        return {}


def as_model(found: Tree) -> Tree:
    """Return results without the heads of own_map.py or ATTEMPT. Check that they have one attempt
    of every part, and that the totals have its numbers."""
    plain = {name: data and re.sub(rb"\[\w+\.\d{15}\]", b"", data) for name, data in found.items()}
    if outcomes := found.get("outputs.jsonl"):
        return {**plain, "outputs.jsonl": b"".join(map(as_line, outcomes.splitlines()))}
    output = found.get("result.out")
    if output is None:
        return plain
    heads = re.findall(rb"\[m?(\d+)\.(\d+)\]", output)
    assert [int(part) for part, _ in heads] == list(range(len(heads)))
    numbers = json.loads(found["result.json"] or b"{}")
    attempts = sum(int(attempt) for _, attempt in heads)
    assert numbers.pop("attempt", attempts) == attempts
    return {**plain, "result.json": json.dumps(numbers).encode() + b"\n"}


def as_line(text: bytes) -> bytes:
    """Return the line of a successful file in outputs.jsonl, without the fields that vary."""
    line = json.loads(text)
    size, name = line["bytes"], line["name"].rpartition("/")[2]
    assert (line["exit"], line["output_bytes"], line["item"]) == (0, size + 2, None)
    return json.dumps({"name": name, "bytes": size, "counts": line["counts"]}).encode() + b"\n"


def place(volume: Volume, **settings: object) -> Volume:
    """Return an unused RUN_DIR."""
    return volume.having(RUN_DIR=f"run{next(Run.numbers)}", **settings)


def write_aside(volume: Volume) -> None:
    """Write all logs outside of RUN_DIR."""
    for variant, files in LOGS.items():
        for name, data in files.items():
            volume.write(f"{variant}/{name}", data)


def begin(run: Run, number: int) -> Run:
    """Write the input, and do all steps before a step."""
    run.write()
    assert [run.do(step) for step in range(number)] == [0] * number
    return run


def moments(run: Run, number: int, kinds: Iterable[str] = MAY_CHANGE) -> list[int]:
    """Return the operations of a step at which a fault is possible: the first, and all of some
    kinds or of all kinds."""
    begin(run, number)
    seen: list[str] = []
    assert run.do(number, lambda _, name: seen.append(name)) == 0
    return [at for at, name in enumerate(seen) if not kinds or name in kinds or not at]


def nested(moment: int, work: Callable[[], object]) -> faulty.Hook:
    """Return a hook that does some work at a moment."""

    def hook(at: int, _: str) -> None:
        if at == moment:
            work()

    return hook


Item = TypeVar("Item")


def some(volume: Volume, everything: Iterable[Item], share: int) -> list[Item]:
    """Return all moments; in a bucket, where each takes a hundred requests, only some of them,
    always the same."""
    found = list(everything)
    few = -(-len(found) // share)
    return random.Random(few).sample(found, few) if volume.in_bucket else found
