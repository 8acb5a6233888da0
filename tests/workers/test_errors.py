"""Every error of the contract: the exit code, the sentence, and that nothing was written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pipeline import INPUT, WORKERS, Volume, bare_environ

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n"
TOTALS = {"INFO": 3, "WARN": 1, "ERROR": 1, "DEBUG": 1}
NOBODY = 65534
LONG = "x" * 300

State = Callable[[Volume], object]


def nothing(_: Volume) -> None:
    """Leave the volume with an input and no more."""


def split(volume: Volume, **settings: object) -> None:
    """Put a plan of three parts there."""
    volume.split(**{"NUM_PARTS": 3, "SPLIT_MODE": "range", **settings})


def counted(volume: Volume, **settings: object) -> None:
    """Put a plan of three parts and its results there, and a result.json from before."""
    split(volume, **settings)
    volume.count("012")
    volume.write("result.json", b"an older one")


def plan(change: Callable[[bytes], bytes]) -> State:
    """Have plan.json changed after the parts were counted."""

    def state(volume: Volume) -> None:
        counted(volume)
        path = volume.root / "split-output/plan.json"
        path.write_bytes(change(path.read_bytes()))

    return state


def without(*names: str, state: State = counted) -> State:
    """Remove files from a state."""

    def removed(volume: Volume) -> None:
        state(volume)
        for name in names:
            (volume.root / name).unlink()

    return removed


def put(name: str, data: bytes, state: State = nothing) -> State:
    """Add a file to a state."""

    def added(volume: Volume) -> None:
        state(volume)
        volume.write(name, data)

    return added


def folder(name: str, state: State = nothing) -> State:
    """Add a folder to a state."""

    def added(volume: Volume) -> None:
        state(volume)
        (volume.root / name).mkdir(parents=True)

    return added


def fifo(name: str) -> State:
    """Add a pipe that nobody writes to."""
    return lambda volume: os.mkfifo(volume.root / name)


def link(name: str, target: str) -> State:
    """Add a link."""

    def added(volume: Volume) -> None:
        (volume.root / name).parent.mkdir(exist_ok=True)
        (volume.root / name).symlink_to(target)

    return added


def levels(count: int) -> State:
    """Put the files of the first level there."""

    def state(volume: Volume) -> None:
        for number in range(count):
            volume.write(f"aggregation-demo/l1/{number}.txt", b"%d\n" % number)

    return state


def copies(name: str, data: bytes) -> State:
    """Change a copy after the split."""
    return put(name, data, lambda volume: split(volume, SPLIT_MODE="copy"))


# worker and arguments, settings, what is there, exit code, a pattern of the sentence
Case = tuple[str, Mapping[str, object], State, int, str]
COUNT: dict[str, object] = {"PART_ID": 1}
MERGE: dict[str, object] = {"NUM_PARTS": 3}
NUMBER = "give a whole number from {} to {}"
PARTS = NUMBER.format(1, 100000)

SETTINGS: list[Case] = [
    *(
        ("split", {"NUM_PARTS": text}, nothing, 2, f"NUM_PARTS is {re.escape(repr(text))}: {PARTS}")
        for text in ("", "0", "-1", "1.5", "five", " 5", "5 ", "+5", "100001", "٣", "1e3", "9" * 99)
    ),
    ("split", {"SPLIT_MODE": "move"}, nothing, 2, "SPLIT_MODE is 'move': give one of copy, range"),
    ("split", {"SPLIT_MODE": ""}, nothing, 2, "SPLIT_MODE is '': give one of copy, range"),
    (
        "split",
        {"ONLY_MISSING": "yes"},
        nothing,
        2,
        "ONLY_MISSING is 'yes': give one of false, true",
    ),
    *(
        (worker, {**COUNT, **MERGE, "KEYWORDS": text}, counted, 2, f"KEYWORDS is .*{why}.*: give")
        for worker in ("split", "count", "merge")
        for text, why in {
            "": "'' is empty",
            "INFO,": "'' is empty",
            ",INFO": "'' is empty",
            "INFO,,WARN": "'' is empty",
            "INFO,WARN,INFO": "'INFO' is .*repeated",
            "INFO\n": "'INFO.n' is .*line end",
            "IN\rFO": "'IN.rFO' is .*line end",
            "a,\udcff": "'.udcff' is .*not UTF-8",
        }.items()
    ),
    *(
        (worker, {**COUNT, **MERGE, "RUN_DIR": text}, counted, 2, f"RUN_DIR is .*: {why}")
        for worker in ("split", "count", "merge", "process 0 1", "merge 2")
        for text, why in {
            "..": "give a name in WORK_DIR",
            "/": "give a name in WORK_DIR",
            "/etc": "give a name in WORK_DIR",
            "a/../../b": "give a name in WORK_DIR",
            "a/..": "give a name in WORK_DIR",
            "a\0b": "give a name in WORK_DIR",
        }.items()
    ),
    *(
        ("split", {"INPUT": text}, nothing, 2, f"INPUT is {re.escape(repr(text))}.*: {why}")
        for text, why in {
            "": "give the name of a file",
            ".": "give the name of a file",
            "..": "give a name in WORK_DIR",
            "../x": "give a name in WORK_DIR",
            "a/../b": "give a name in WORK_DIR",
            "/etc/passwd": "give a name in WORK_DIR",
            "a\0b": "give a name in WORK_DIR",
            "./": "part them",
            "split-output/": "part them",
            "split-output/0.txt": "part them",
            "cout-output/": "part them",
            "./cout-output//x": "part them",
            "result.json": "part them",
        }.items()
    ),
    ("split", {"INPUT": "in/", "RUN_DIR": "in/run"}, put("in/a", DATA), 2, "INPUT .*in/run.*part"),
    ("split", {"INPUT": "r/split-output/x", "RUN_DIR": "r"}, nothing, 2, "INPUT .*part them"),
    *(
        (
            "split",
            {"NUM_PARTS": parts, "OUTPUT_LIMIT": limit, "SPLIT_MODE": mode},
            nothing,
            2,
            f"NUM_PARTS is {parts}, whose ids take {size} bytes, and OUTPUT_LIMIT is {limit}: give",
        )
        for mode in ("copy", "range")
        for parts, limit, size in ((1, 5, 6), (11, 46, 47), (35000, 262144, 268892))
    ),
    ("split", {"OUTPUT_LIMIT": "256Ki"}, nothing, 2, "OUTPUT_LIMIT is '256Ki': give a whole"),
    *(
        ("count", {"PART_ID": text}, counted, 2, f"PART_ID is {re.escape(repr(text))}: give a")
        for text in ("", "-1", "one", "100000", "0.json", "../0")
    ),
    ("count", {}, counted, 2, "PART_ID is '': give a whole number from 0 to 99999"),
    ("merge", {"NUM_PARTS": "0"}, counted, 2, f"NUM_PARTS is '0': {PARTS}"),
    ("merge 1 2", {}, nothing, 2, "2 arguments: give one, NUMBER, or none"),
    ("merge none", {}, nothing, 2, "NUMBER is 'none': give a whole number from 1"),
    ("merge 0", {}, nothing, 2, "NUMBER is '0': give a whole number from 1"),
    ("merge 2", {"LEVEL": "0"}, nothing, 2, "LEVEL is '0': give a whole number from 1"),
    ("process", {}, nothing, 2, "0 arguments: give two, FILE_NUMBER and LEVEL"),
    ("process 0", {}, nothing, 2, "1 arguments: give two, FILE_NUMBER and LEVEL"),
    ("process 0 1 2", {}, nothing, 2, "3 arguments: give two, FILE_NUMBER and LEVEL"),
    ("process -1 1", {}, nothing, 2, "FILE_NUMBER is '-1': give a whole number from 0"),
    ("process 0 0", {}, nothing, 2, "LEVEL is '0': give a whole number from 1"),
    ("process 0 1", {"FAN_IN": "1"}, levels(2), 2, "FAN_IN is '1': give a whole number from 2"),
    ("process 0 1", {"FAN_IN": "x"}, levels(2), 2, "FAN_IN is 'x': give a whole number from 2"),
    ("process 0 1", {"FILES": "0"}, levels(2), 2, "FILES is '0': give a whole number from 1"),
    ("process 2 1", {"FILES": "4"}, levels(4), 2, "FILE_NUMBER is 2 and FILES is 4: .*0 to 1"),
]

STATES: list[Case] = [
    ("split", {"INPUT": "absent"}, nothing, 2, "INPUT absent is no file .*: put the input there"),
    ("split", {"INPUT": "absent/"}, nothing, 2, "INPUT absent/ is no file .*put the input there"),
    (
        "count",
        COUNT,
        nothing,
        75,
        "plan.json: No such file .*: put it there, or run the step that writes it.*retry",
    ),
    ("count", {"PART_ID": 3}, counted, 2, "PART_ID is 3 and .*plan.json has 3 parts, counted from"),
    (
        "count",
        {**COUNT, "PLAN_ID": "a1"},
        counted,
        75,
        "plan.json is plan .* PLAN_ID is a1:.*retry",
    ),
    ("count", COUNT, without(INPUT, state=split), 75, f"{INPUT}: No such file .*retry"),
    ("count", COUNT, put(INPUT, DATA[1:], split), 75, f"{INPUT} has changed .*begin the run again"),
    (
        "count",
        COUNT,
        put(INPUT, DATA[::-1], split),
        75,
        f"{INPUT} has changed .*begin the run again",
    ),
    ("count", COUNT, put(INPUT, b"", split), 75, f"{INPUT} has changed .*begin the run again"),
    (
        "count",
        COUNT,
        copies("split-output/1.txt", b"WARN"),
        75,
        "1.txt has changed from .*16 bytes",
    ),
    (
        "count",
        COUNT,
        copies("split-output/1.txt", b""),
        75,
        "1.txt has changed from .*begin the run again",
    ),
    (
        "merge",
        MERGE,
        nothing,
        75,
        "plan.json: No such file .*: put it there, or run the step that writes it.*retry",
    ),
    ("merge", {"NUM_PARTS": 4}, counted, 2, "NUM_PARTS is 4 and .* has 3 parts: give merge.py the"),
    (
        "merge",
        {**MERGE, "PLAN_ID": "a1"},
        counted,
        75,
        "plan.json is plan .* PLAN_ID is a1:.*retry",
    ),
    ("merge", MERGE, without("cout-output/1.json"), 75, r"of 3 parts .* 1 missing \(1\): .*retry"),
    ("merge", MERGE, split, 75, r"of 3 parts .* 3 missing \(0, 1, 2\): map these again"),
    (
        "merge",
        MERGE,
        put("cout-output/0.json", b"{", without("cout-output/2.json")),
        2,
        r"of 3 parts .* 1 corrupt \(0\); 1 missing \(2\): map these again",
    ),
    ("merge", {**MERGE, "KEYWORDS": "INFO"}, counted, 2, r"3 stale \(0, 1, 2\)"),
    ("merge", {**MERGE, "MAP_SETTINGS": "x"}, counted, 2, r"3 stale \(0, 1, 2\)"),
    ("merge", MERGE, put("cout-output/1.json", b""), 75, "plan.json: No such file"),
    (
        "merge 2",
        {"LEVEL": 2},
        levels(2),
        75,
        "l2/0.txt: No such file .*: put it there, or run the step that writes",
    ),
    (
        "process 0 2",
        {},
        levels(2),
        75,
        "l2/0.txt: No such file .*: put it there, or run the step that writes it",
    ),
    ("merge 2", {"LEVEL": 1}, levels(1), 2, "l1/1.txt is not there: .* as NUMBER, which is 2, how"),
    ("merge 2", {"LEVEL": 1}, levels(3), 2, "l1/2.txt is there and NUMBER is 2: give as NUMBER"),
    ("merge 2", {"LEVEL": 1}, nothing, 2, "l1/0.txt is not there: write it before"),
    ("process 0 1", {}, levels(1), 2, "l1/1.txt is not there: write it before$"),
    ("process 1 1", {"FILES": 4}, levels(3), 2, "l1/3.txt is not there: .* FILES, which is 4, how"),
    ("process 2 1", {"FILES": 10**9}, levels(4), 2, "l1/4.txt is not there"),
    ("process 0 1", {"FILES": 2}, levels(3), 2, "l1/2.txt is there and FILES is 2: give as FILES"),
]

# What only a file system has, or minds.
STATES_OF_FOLDERS: list[Case] = [
    ("split", {"INPUT": "in/"}, folder("in/deep"), 2, "INPUT in/ is .*no folder with files"),
    ("split", {"INPUT": "in"}, folder("in"), 2, "in is not a regular file: name a file"),
    ("split", {"INPUT": f"{INPUT}/"}, nothing, 2, "Not a directory: move away the file"),
    ("split", {"INPUT": LONG}, nothing, 2, "File name too long: choose a shorter name"),
    ("split", {"INPUT": "pipe"}, fifo("pipe"), 2, "pipe is not a regular file"),
    ("split", {"INPUT": "in/"}, link("in/a", "../" + INPUT), 2, "in/a is a link: put the file"),
    ("split", {"INPUT": "in/"}, link("in/a", ".."), 2, "in/a is a link: put the file itself"),
    ("split", {"INPUT": "link"}, link("link", "nowhere"), 2, "INPUT link is no file"),
    ("split", {}, put("split-output", b""), 2, "split-output: .*: move away the file"),
    (
        "count",
        COUNT,
        folder("cout-output/1.json", split),
        2,
        "1.json: Is a dir.*: move away the fol",
    ),
    (
        "merge",
        MERGE,
        folder("cout-output/1.json", without("cout-output/1.json")),
        2,
        "1.json is not",
    ),
    (
        "process 0 1",
        {},
        folder("aggregation-demo/l1/1.txt", levels(1)),
        2,
        "1.txt is not a regular file",
    ),
    (
        "process 0 1",
        {},
        put("aggregation-demo/l2", b"", levels(2)),
        2,
        "l2: .*: move away the file",
    ),
]

# What plan.json may be instead; count.py has no need to see it where its own line is right.
PLANS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another format": (
        lambda text: text.replace(b'"format":1', b'"format":2'),
        "plan.json has format 2 and this worker reads 1: use images of one version .*run split.py",
    ),
    "no format": (lambda text: text.replace(b'"format":1,', b""), "has format None"),
    "empty": (lambda _: b"", "is not a plan that split.py wrote: delete it and run split.py"),
    "not JSON": (lambda _: DATA, "is not a plan that split.py wrote"),
    "an array": (lambda _: b"[]", "is not a plan that split.py wrote"),
    "a number": (lambda _: b"1", "is not a plan that split.py wrote"),
    "NUL bytes": (lambda text: b"\0" * len(text), "is not a plan that split.py wrote"),
    "without a body": (lambda text: text.split(b"\n")[0] + b"\n", "is not a plan that split.py"),
    "nested too deeply": (lambda _: b"[" * 100_000, "is not a plan that split.py wrote"),
}
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "another size of a part": lambda text: re.sub(rb'("part":"1","bytes":)16', rb"\g<1>17", text),
    "another offset": lambda text: text.replace(b",0,", b",1,"),
    "another version": lambda text: re.sub(rb'",0,', rb'0",0,', text),
    "another input": lambda text: text.replace(b"log-count", b"log_count"),
    "a part twice": lambda text: re.sub(rb'(,\{"part":"1".*\n)', rb"\1\1", text),
    "a part too few": lambda text: re.sub(rb',\{"part":"1".*\n', b"", text),
    "two parts in the wrong order": lambda text: re.sub(
        rb'(,\{"part":"1".*\n)(,\{"part":"2".*\n)', rb"\2\1", text
    ),
    "an_end_too_many": lambda text: text + b"]}\n",
    "another total": lambda text: text.replace(b'"bytes":44,', b'"bytes":45,'),
    "another id": lambda text: re.sub(rb'"id":"....', b'"id":"0000', text),
    "another mode": lambda text: text.replace(b'"mode":"range"', b'"mode":"copy"'),
}


def check(volume: Volume, case: Case) -> None:
    """Run the case, and see that it ends as it says, in one sentence, and writes nothing."""
    command, settings, state, code, pattern = case
    worker, *arguments = command.split()
    volume.write(INPUT, DATA)
    state(volume)
    before = volume.tree()
    outcome = volume.run(worker, *arguments, **settings)

    assert (outcome.code, outcome.output) == (code, "")
    line = outcome.words.encode("utf-8", "backslashreplace").decode()
    assert line.count("\n") == 1
    start = f"worker={worker} event=failed exit={code} error="
    assert line.startswith(start)
    sentence = json.loads(line.removeprefix(start))
    assert re.search(pattern, sentence), sentence
    after = volume.tree()
    for made in (
        "split-output",
        "cout-output",
        "aggregation-demo/l2",
        "aggregation-demo/l3",
    ):  # a folder is no output
        if after.get(made, b"") is None:
            before.setdefault(made, None)
    assert after == before


def names(cases: list[Case]) -> list[str]:
    """A name for every case."""
    return [
        f"{number}-{command}-{','.join(f'{k}={v}' for k, v in settings.items())[:40]}".encode(
            "ascii", "replace"
        ).decode()
        for number, (command, settings, *_) in enumerate(cases)
    ]


@pytest.mark.parametrize("case", SETTINGS, ids=names(SETTINGS))
def test_settings(volume: Volume, case: Case) -> None:
    """A setting that is bad or missing is the operator's to fix; not a folder is made."""
    check(volume, case)


@pytest.mark.parametrize("case", STATES, ids=names(STATES))
def test_states(volume: Volume, case: Case) -> None:
    """What is there does not fit: 2 if somebody must act, 75 if a retry can mend it."""
    check(volume, case)


@pytest.mark.folder
@pytest.mark.parametrize("case", STATES_OF_FOLDERS, ids=names(STATES_OF_FOLDERS))
def test_states_of_folders(volume: Volume, case: Case) -> None:
    """The same for what an object store does not have."""
    check(volume, case)


@pytest.mark.parametrize("worker", ["count", "merge"])
@pytest.mark.parametrize(("change", "pattern"), PLANS.values(), ids=PLANS)
def test_no_plan(
    volume: Volume, worker: str, change: Callable[[bytes], bytes], pattern: str
) -> None:
    """A plan.json that is none, or of another version, is refused by whoever reads it."""
    check(volume, (worker, {**COUNT, **MERGE}, plan(change), 2, pattern))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_plan(volume: Volume, change: Callable[[bytes], bytes]) -> None:
    """A plan of which a single byte is not what split.py committed makes no result."""

    def changed(text: bytes) -> bytes:
        new = change(text)
        assert new != text
        return new

    check(volume, ("merge", MERGE, plan(changed), 2, "is not a plan that split.py wrote"))


@pytest.mark.folder
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_truncated_plan(volume: Volume, mode: str) -> None:
    """plan.json cut off anywhere: count and merge end with 2, or count's own line was whole and
    its result is right; merge never writes a result. The next split heals it."""
    volume.write(INPUT, DATA)
    counted(volume, SPLIT_MODE=mode)
    path = volume.root / "split-output/plan.json"
    whole = path.read_bytes()
    expected = [json.loads(volume.result_path(n).read_bytes())["counts"] for n in "012"]
    for size in range(len(whole) - 1):  # without its last line end it is the same JSON
        path.write_bytes(whole[:size])
        for part_id in "012":
            if (code := volume.run("count", PART_ID=part_id).code) == 0:
                made = json.loads(volume.result_path(part_id).read_bytes())["counts"]
                assert made == expected[int(part_id)]
            else:
                assert code == 2
        assert volume.run("merge", NUM_PARTS=3).code == 2
        assert (volume.root / "result.json").read_bytes() == b"an older one"

        if size % 20 == 0:
            assert volume.split(NUM_PARTS=3, SPLIT_MODE=mode, ONLY_MISSING="true") == []
            assert path.read_bytes() == whole


@pytest.mark.folder
def test_what_a_damaged_plan_led_to_is_not_believed(volume: Volume) -> None:
    """A part was counted by a plan.json of which one digit had turned. The plan that split.py
    writes anew has the same id; that result must not count for it. No digit makes a traceback."""
    volume.write(INPUT, DATA)
    split(volume)
    path = volume.root / "split-output/plan.json"
    whole = path.read_bytes()
    wrong = []
    for at, digit in enumerate(whole):
        if not chr(digit).isdigit():
            continue
        path.write_bytes(whole[:at] + (b"0" if digit != ord("0") else b"1") + whole[at + 1 :])
        try:
            for part_id in "012":
                volume.run("count", PART_ID=part_id)
        except Exception as error:
            wrong.append((whole[at - 10 : at + 1], repr(error)))
        volume.count(volume.split(NUM_PARTS=3, SPLIT_MODE="range", ONLY_MISSING="true"))
        volume.merge(NUM_PARTS=3)
        if volume.totals() != TOTALS:
            wrong.append((whole[at - 10 : at + 1], repr(volume.totals())))

    assert wrong == []


def test_the_first_20_are_named(volume: Volume) -> None:
    """Of many parts without a result merge.py names the first 20 and says how many there are."""
    volume.write(INPUT, DATA)
    volume.split(NUM_PARTS=30)
    volume.count(["0", "3"])
    outcome = volume.run("merge", NUM_PARTS=30)
    ids = [str(number) for number in range(30) if number not in (0, 3)]

    assert outcome.code == 75
    assert f"of 30 parts in cout-output/ 28 missing ({', '.join(ids[:20])} and 8 more):" in (
        outcome.words
    )


def test_a_result_of_another_part(volume: Volume) -> None:
    """A result under the name of another part is stale, even where both parts are empty."""
    volume.write(INPUT, b"")
    volume.split(NUM_PARTS=3)
    volume.count("012")
    volume.result_path("1").write_bytes(volume.result_path("0").read_bytes())
    outcome = volume.run("merge", NUM_PARTS=3)

    assert outcome.code == 2
    assert "1 stale (1)" in outcome.words


@pytest.mark.parametrize(
    "names", [("result.jsonl",), ("result.json.1", "x"), ("split-output.log",)]
)
def test_a_name_that_only_starts_like_an_output(volume: Volume, names: tuple[str, ...]) -> None:
    """An input beside the outputs may have a name that starts like one of theirs."""
    volume.write(names[0], DATA)
    assert volume.split(INPUT=names[0], NUM_PARTS=1) == ["0"]


@pytest.mark.folder
def test_a_link_as_the_input(volume: Volume) -> None:
    """A link that INPUT itself names is followed: whoever set INPUT has named it. Its target's
    change is noticed like that of any input."""
    volume.write("data", DATA)
    (volume.root / INPUT).symlink_to("data")
    volume.log_count(SPLIT_MODE="range")
    assert volume.totals() == TOTALS

    volume.write("data", DATA.lower())
    outcome = volume.run("count", PART_ID=0)
    assert outcome.code == 75
    assert f"{INPUT} has changed" in outcome.words


@pytest.mark.folder
@pytest.mark.parametrize("work_dir", ["absent", INPUT, ""])
def test_no_work_dir(volume: Volume, work_dir: str) -> None:
    """WORK_DIR that is missing, a file or empty: every worker says so. Nobody makes it."""
    volume.write(INPUT, DATA)
    text = str(volume.root / work_dir) if work_dir else ""
    for command in ("split", "count", "merge", "process 0 1", "merge 2"):
        worker, *arguments = command.split()
        before = volume.tree()
        outcome = volume.run(worker, *arguments, WORK_DIR=text, PART_ID=0)

        assert outcome.code == 2
        assert f"WORK_DIR is '{text}', which is no folder: mount the volume there" in outcome.words
        assert volume.tree() == before


@contextmanager
def nobody() -> Iterator[None]:
    """Be somebody without rights for a while. (A process of its own might have no right to the
    interpreter that runs us.)"""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run a worker as somebody else")
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.folder
@pytest.mark.parametrize("command", ["split", "count", "merge", "process 0 1", "merge 2"])
def test_no_right_to_write(volume: Volume, command: str) -> None:
    """On a volume that the worker's user may read and not write: 2, and who must act."""
    volume.root.chmod(0o755)
    volume.write(INPUT, DATA)
    levels(2)(volume)
    counted(volume)
    before = volume.tree()
    worker, *arguments = command.split()
    with nobody():
        outcome = volume.run(worker, *arguments, PART_ID=0, NUM_PARTS=3, LEVEL=1)

    assert (outcome.code, outcome.output) == (2, "")
    assert "Permission denied: give the worker's user the right to it" in outcome.words
    assert volume.tree() == before


@pytest.mark.folder
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_no_right_to_read(volume: Volume, mode: str) -> None:
    """An input that the worker's user may not read: 2, and who must act."""
    volume.root.chmod(0o777)
    volume.write(INPUT, DATA).chmod(0o600)
    with nobody():
        outcome = volume.run("split", SPLIT_MODE=mode)

    assert (outcome.code, outcome.output) == (2, "")
    assert f"{INPUT}: Permission denied: give the worker's user the right to it" in outcome.words


def test_the_sentence_for_argo(volume: Volume, tmp_path: Path) -> None:
    """ERROR_FILE gets the sentence alone; one that cannot be written hides no error."""
    for target in (tmp_path / "sentence", tmp_path / "absent" / "sentence"):
        outcome = volume.run("split", INPUT="absent", ERROR_FILE=target)
        assert outcome.code == 2
    text = (tmp_path / "sentence").read_text()

    assert text.startswith("INPUT absent is no file")
    assert json.dumps(text) in outcome.words


def test_the_plan_id_for_the_workflow(volume: Volume, tmp_path: Path) -> None:
    """PLAN_ID_FILE gets the id and no more; an error with it comes before the ids are printed."""
    volume.write(INPUT, DATA)
    volume.split(PLAN_ID_FILE=tmp_path / "id")
    assert (tmp_path / "id").read_text() == volume.plan()["id"]

    outcome = volume.run("split", PLAN_ID_FILE=tmp_path / "absent" / "id")
    assert (outcome.code, outcome.output) == (2, "")


def test_the_part_ids_that_nobody_reads(volume: Volume) -> None:
    """A stdout that takes nothing more is an error, not a split that seems to have ended well."""
    volume.write(INPUT, DATA)
    command = [sys.executable, str(WORKERS / "split.py")]
    environ = {**bare_environ(), **volume.environ({})}
    with open("/dev/full", "w") as full:
        outcome = subprocess.run(command, env=environ, stdout=full, stderr=subprocess.PIPE)

    assert outcome.returncode not in (0, 2)
    assert b"exit=75" in outcome.stderr
    assert b"No space left on device" in outcome.stderr
