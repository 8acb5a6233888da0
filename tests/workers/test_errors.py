"""Every documented error: its exit code and message, and that nothing was written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faulty
import pytest
from fanfold import settings
from fanfold.errors import explain
from fanfold.settings import keywords
from fanfold.storage import bucket, walk
from fanfold.storage import folder as storage_folder
from pipeline import INPUT, JOINED, LEVEL_1, WORKERS, Volume, bare_environ, model, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n"
TOTALS = {"INFO": 3, "WARN": 1, "ERROR": 1, "DEBUG": 1}
NOBODY = 65534
LONG = "x" * 300

State = Callable[[Volume], object]


def nothing(_: Volume) -> None:
    """Leave only an input on the volume."""


def split(volume: Volume, **settings: object) -> None:
    """Make a plan of three parts."""
    volume.split(**{"NUM_PARTS": 3, "SPLIT_MODE": "range", **settings})


def counted(volume: Volume, **settings: object) -> None:
    """Make a plan of three parts and its results, and an older result.json."""
    split(volume, **settings)
    volume.count("012")
    volume.write("result.json", b"an older one")


def plan(change: Callable[[bytes], bytes]) -> State:
    """Change the newest plan after the parts were counted."""

    def state(volume: Volume) -> None:
        counted(volume)
        path = volume.root / "split-output/plan.json"
        path.write_bytes(change(path.read_bytes()))

    return state


def named(volume: Volume, name: str) -> str:
    """Replace the marks for the ids of the newest plan and its job in a name."""
    return name.format(plan=volume.plan()["id"], job=volume.job()) if "{" in name else name


def without(*names: str, state: State = counted) -> State:
    """Remove files from a state."""

    def removed(volume: Volume) -> None:
        state(volume)
        for name in names:
            (volume.root / named(volume, name)).unlink()

    return removed


def put(name: str, data: bytes, state: State = nothing) -> State:
    """Add a file to a state."""

    def added(volume: Volume) -> None:
        state(volume)
        volume.write(named(volume, name), data)

    return added


def folder(name: str, state: State = nothing) -> State:
    """Add a folder to a state."""

    def added(volume: Volume) -> None:
        state(volume)
        (volume.root / named(volume, name)).mkdir(parents=True)

    return added


def fifo(name: str) -> State:
    """Add a pipe without a writer."""
    return lambda volume: os.mkfifo(volume.root / name)


def unix_socket(name: str) -> State:
    """Add a socket."""

    def added(volume: Volume) -> None:
        (volume.root / name).parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(volume.root / name))

    return added


def link(name: str, target: str) -> State:
    """Add a link."""

    def added(volume: Volume) -> None:
        (volume.root / name).parent.mkdir(exist_ok=True)
        (volume.root / name).symlink_to(target)

    return added


def levels(count: int) -> State:
    """Write the files of level 1."""

    def state(volume: Volume) -> None:
        for number in range(count):
            volume.write(LEVEL_1.format(number), b"%d\n" % number)

    return state


def copies(name: str, data: bytes) -> State:
    """Change a copy after the split."""
    return put(name, data, lambda volume: split(volume, SPLIT_MODE="copy"))


def another(volume: Volume) -> None:
    """Copy a plan to the id of another plan."""
    counted(volume)
    volume.write("split-output/a1/plan.json", volume.plan_path().read_bytes())


def both(volume: Volume) -> None:
    """Make the files that both pipelines need."""
    counted(volume)
    levels(2)(volume)


def joined(volume: Volume) -> None:
    """Make four files of level 1 and the two files of level 2."""
    levels(4)(volume)
    volume.process(4)


def of_two_fan_ins(volume: Volume) -> None:
    """Make files of level 2 from three files each and from two files each."""
    levels(4)(volume)
    assert volume.run("process", 0, 1, FAN_IN=3).code == 0
    assert volume.run("process", 1, 1, FAN_IN=2).code == 0


def record(at: int, *, like: int, **changes: object) -> State:
    """Replace the record of a file of level 2 by another file's record, with other fields."""

    def state(volume: Volume) -> None:
        joined(volume)
        folder = volume.run_dir / "aggregation-demo/l2/by-hand"
        path = folder / f"{at}.json"
        path.write_bytes((folder / f"{like}.json").read_bytes())
        volume.reseal(path, **changes)

    return state


# worker and arguments, settings, state, exit code, pattern of the message
Case = tuple[str, Mapping[str, object], State, int, str]
COUNT: dict[str, object] = {"PART_ID": 1}
MERGE: dict[str, object] = {"NUM_PARTS": 3}
NUMBER = "must be a whole number from {} to {}, got "
PARTS = NUMBER.format(1, 100000)

SETTINGS: list[Case] = [
    *(
        ("split", {"NUM_PARTS": text}, nothing, 2, f"NUM_PARTS {PARTS}{re.escape(repr(text))}: ")
        for text in ("", "0", "-1", "1.5", "five", " 5", "5 ", "+5", "100001", "٣", "1e3", "9" * 99)
    ),
    ("split", {"SPLIT_MODE": "move"}, nothing, 2, "SPLIT_MODE must be .* files, got 'move'"),
    ("split", {"SPLIT_MODE": ""}, nothing, 2, "SPLIT_MODE must be .*, range, files, got ''"),
    ("split", {"ONLY_MISSING": "yes"}, nothing, 2, "ONLY_MISSING must be .* true, got 'yes'"),
    *(
        (worker, {**COUNT, **MERGE, "KEYWORDS": text}, counted, 2, f"KEYWORDS .*{why}.*: correct")
        for worker in ("split", "count", "merge")
        for text, why in {
            "": "'' is empty",
            "INFO,": "'' is empty",
            ",INFO": "'' is empty",
            "INFO,,WARN": "'' is empty",
            "INFO,WARN,INFO": "'INFO' is repeated",
            "INFO\n": "'INFO.n' has a line end",
            "IN\rFO": "'IN.rFO' has a line end",
            "a,\udcff": "'.udcff' is not UTF-8",
            "INFO, WARN": "' WARN' begins or ends with white space",
            "INFO ,WARN": "'INFO ' begins or ends with white space",
            "INFO,\tWARN": "'.tWARN' begins or ends with white space",
            "INFO,WARN\u3000": "'WARN.u3000' begins or ends with white space",
            "INFO, ": "' ' begins or ends with white space",
        }.items()
    ),
    *(
        (worker, {**COUNT, **MERGE, "KEYWORDS": text}, counted, 2, f"KEYWORDS must have .*{why}")
        for worker in ("split", "count", "merge")
        for text, why in {
            "x" * 131063: "at most 131062 bytes, .* got 131063: use fewer words",
            "é" * 65532: "at most 131062 bytes, .* got 131064: use fewer words",
        }.items()
    ),
    ("split", {"KEYWORDS": "x" * 1000 + ",,"}, nothing, 2, "got .{200}, where '' is empty"),
    *(
        (worker, {**MERGE, setting: text}, both, 2, f"{setting} must be a file .* got '{text}': ")
        for worker, setting in (
            ("split", "PLAN_ID_FILE"),
            ("merge", "RESULT_FILE"),
            ("merge", "RESULT_PATH_FILE"),
            ("merge 2", "RESULT_FILE"),
            ("merge 2", "RESULT_PATH_FILE"),
        )
        for text in ("/absent/x", "/", "/proc/version/x")
    ),
    *(
        (worker, {**COUNT, **MERGE, "RUN_DIR": text}, counted, 2, f"RUN_DIR must be {why}.* got ")
        for worker in ("split", "count", "merge", "process 0 1", "merge 2")
        for text, why in {
            "..": "a name in WORK_DIR",
            "/": "a name in WORK_DIR",
            "/etc": "a name in WORK_DIR",
            "a/../../b": "a name in WORK_DIR",
            "a/..": "a name in WORK_DIR",
            "a\0b": "a name in WORK_DIR",
        }.items()
    ),
    *(
        ("split", {"INPUT": text}, nothing, 2, f"INPUT (?=.*{why}).* got {re.escape(repr(text))}")
        for text, why in {
            "": "name a file, or a folder",
            "..": "a name in WORK_DIR",
            "../x": "a name in WORK_DIR",
            "a/../b": "a name in WORK_DIR",
            "/etc/passwd": "a name in WORK_DIR",
            "a\0b": "a name in WORK_DIR",
            "split-output/": "use another INPUT, OUTPUT or RUN_DIR",
            "split-output/0.txt": "use another INPUT, OUTPUT or RUN_DIR",
            "cout-output/": "use another INPUT, OUTPUT or RUN_DIR",
            "cout-output/x": "use another INPUT, OUTPUT or RUN_DIR",
            "result.json": "use another INPUT, OUTPUT or RUN_DIR",
            "result.out": "use another INPUT, OUTPUT or RUN_DIR",
            "map-output/": "use another INPUT, OUTPUT or RUN_DIR",
            "results/x/result.json": "use another INPUT, OUTPUT or RUN_DIR",
        }.items()
    ),
    (
        "split",
        {"INPUT": "in/", "RUN_DIR": "in/run"},
        put("in/a", DATA),
        2,
        "INPUT must not overlap .*/in/run/split-output/, got 'in/': use another",
    ),
    ("split", {"INPUT": "r/split-output/x", "RUN_DIR": "r"}, nothing, 2, "INPUT .*use another"),
    *(
        (
            "split",
            {"NUM_PARTS": parts, "PARTS_PER_POD": each, "MAX_PODS": most, "SPLIT_MODE": mode},
            nothing,
            2,
            f"NUM_PARTS={parts} with PARTS_PER_POD={each} must take at most MAX_PODS={most} map "
            f"pods, got {pods}: set PARTS_PER_POD to {enough} or more, or set a smaller NUM_PARTS",
        )
        for mode in ("copy", "range")
        for parts, each, most, pods, enough in ((2, 1, 1, 2, 2), (10001, 10, 1000, 1001, 11))
    ),
    *(
        (
            "split",
            {"MAX_PODS": text},
            nothing,
            2,
            f"MAX_PODS must be a whole number .* got '{text}'",
        )
        for text in ("0", "9k", "18001")
    ),
    *(
        ("count", {"PART_ID": text}, counted, 2, f"PART_ID .* got {re.escape(repr(text))}: ")
        for text in ("", "-1", "one", "100000", "0.json", "../0")
    ),
    ("count", {}, counted, 2, "PART_ID must be ascending part numbers from 0 to 99999, .* got ''"),
    ("merge", {"NUM_PARTS": "0"}, counted, 2, f"NUM_PARTS {PARTS}'0': "),
    ("merge 1 2", {}, nothing, 2, "argument must be NUMBER or none, got 2: "),
    ("merge none", {}, nothing, 2, "NUMBER must be a whole number from 1 .* got 'none'"),
    ("merge 0", {}, nothing, 2, "NUMBER must be a whole number from 1 .* got '0'"),
    ("merge 2", {"LEVEL": "0"}, nothing, 2, "LEVEL must be a whole number from 1 .* got '0'"),
    ("process", {}, nothing, 2, "must be FILE_NUMBER and LEVEL, got 0: "),
    ("process 0", {}, nothing, 2, "must be FILE_NUMBER and LEVEL, got 1: "),
    ("process 0 1 2", {}, nothing, 2, "must be FILE_NUMBER and LEVEL, got 3: "),
    ("process -1 1", {}, nothing, 2, "FILE_NUMBER must be a whole number from 0 .* got '-1'"),
    ("process 0 0", {}, nothing, 2, "LEVEL must be a whole number from 1 .* got '0'"),
    ("process 0 1", {"FAN_IN": "1"}, levels(2), 2, "FAN_IN must .* from 2 .* got '1'"),
    ("process 0 1", {"FAN_IN": "x"}, levels(2), 2, "FAN_IN must .* from 2 .* got 'x'"),
    ("process 0 1", {"FILES": "0"}, levels(2), 2, "FILES must be a whole number from 1 .* got '0'"),
    ("process 2 1", {"FILES": "4"}, levels(4), 2, "FILE_NUMBER must be at most 1 .*=4 .* got 2"),
    *(
        (worker, {**COUNT, **MERGE, **run}, both, 2, why)
        for worker in ("split", "count", "merge", "process 0 1", "merge 2")
        for run, why in (
            ({"RUN_ID": "a"}, "RUN_STARTED must be set with RUN_ID, got no value: "),
            ({"RUN_STARTED": "1"}, "RUN_ID must .* or unset RUN_ID and RUN_STARTED"),
            ({"RUN_ID": "a", "RUN_STARTED": "now"}, "RUN_STARTED must be .* got 'now'"),
            ({"RUN_ID": "a", "RUN_STARTED": "-1"}, "RUN_STARTED must be .* got '-1'"),
            ({"RUN_ID": "a", "RUN_STARTED": str(10**12)}, "RUN_STARTED .* got '10{12}'"),
            ({"RUN_ID": "x" * 65, "RUN_STARTED": "1"}, "RUN_ID must be 1 to 64 letters, .* got 'x"),
            *(
                ({"RUN_ID": text, "RUN_STARTED": "1"}, "RUN_ID must be .*, and not only dots, got ")
                for text in ("a/b", "..", ".", "a b", "a\n", "é")
            ),
        )
    ),
    *(
        (worker, {**MERGE, "CLEAN": "yes"}, both, 2, "CLEAN must be one of false, true, got 'yes'")
        for worker in ("merge", "merge 2")
    ),
    *(
        (worker, {**MERGE, "OUTPUT": text}, counted, 2, f"OUTPUT {why}")
        for worker in ("split", "merge")
        for text, why in {
            "": "must be a free name for a file in RUN_DIR, got '': choose another; .*-demo, ",
            "out/": "must be a free name for a file",
            "result.json": "must be a free name for a file",
            "result.json/x": "must be a free name for a file",
            "result.txt": "must be a free name for a file",
            "summary.json": "must be a free name for a file",
            "result.json.record": "must be a free name for a file",
            "report.html": "must be a free name for a file",
            "results/x": "must be a free name for a file",
            "results": "must be a free name for a file",
            "split-output/plan.json": "must be a free name for a file",
            "cout-output/0.json": "must be a free name for a file",
            "map-output/x/y": "must be a free name for a file",
            "aggregation-demo/result.txt": "must be a free name for a file",
            "aggregation-demo/l1/0.txt": "must be a free name for a file",
            "../x": "must be a name in RUN_DIR, .* got '../x': write the path relative to RUN_DIR",
            "/x": "must be a name in RUN_DIR, .* got '/x'",
        }.items()
    ),
    (
        "split",
        {"INPUT": "x", "OUTPUT": "x"},
        put("x", DATA),
        2,
        "INPUT must not overlap the run's output .*/x, got 'x':",
    ),
    (
        "split",
        {"INPUT": "in/", "OUTPUT": "in/x"},
        put("in/a", DATA),
        2,
        "INPUT must not overlap the run's output .*/in/x, got 'in/':",
    ),
    (
        "merge",
        {**MERGE, "OUTPUT": INPUT},
        counted,
        2,
        f"INPUT must not overlap the run's output .*/{INPUT}, got '{INPUT}':",
    ),
]

# Names in level 1 that no step reads.
STRANGERS = ("03.txt", "4.TXT", "part-4.txt", "4.log", "4", "٣.txt", "more/0.txt", ".4.txt.tmp")

STATES: list[Case] = [
    ("split", {"INPUT": "absent"}, nothing, 2, "INPUT must be a file .* got 'absent': copy"),
    ("split", {"INPUT": "absent"}, nothing, 2, "copy it to .*/absent, or correct INPUT$"),
    *(
        ("split", {"INPUT": text}, nothing, 2, "SPLIT_MODE=files for a pattern or a list, or corr")
        for text in ("*.log", "@list.txt", "in/@list.txt")
    ),
    ("split", {"INPUT": "absent/"}, nothing, 2, "INPUT must be a file .* got 'absent/': copy"),
    (
        "split",
        {"INPUT": f"{INPUT}/"},
        nothing,
        2,
        f"^INPUT must not end with a / if it is a file, got '{INPUT}/': remove the /$",
    ),
    ("split", {"INPUT": f"{INPUT}/x"}, nothing, 2, f"^INPUT must .* got '{INPUT}/x': copy"),
    ("split", {"INPUT": f"{INPUT}/x/"}, nothing, 2, f"^INPUT must .* got '{INPUT}/x/': copy"),
    (
        "count",
        COUNT,
        nothing,
        75,
        "plan.json: No such file .*: create the file, or run the step .*split.py writes.*retry",
    ),
    ("count", {"PART_ID": 3}, counted, 75, "PART_ID must be less than 3, .* got 3: .*retry"),
    (
        "count",
        {**COUNT, "PLAN_ID": "a1"},
        counted,
        75,
        "split-output/a1/plan.json: No such file .*: create the file, or run the step that",
    ),
    ("count", {**COUNT, "PLAN_ID": "a1"}, another, 75, "PLAN_ID must be .*, got a1:.*retry"),
    ("count", COUNT, without(INPUT, state=split), 75, f"{INPUT}: No such file .*retry"),
    ("count", COUNT, put(INPUT, DATA[1:], split), 75, f"{INPUT} has changed .*start the run again"),
    (
        "count",
        COUNT,
        put(INPUT, DATA[::-1], split),
        75,
        f"{INPUT} has changed .*start the run again",
    ),
    ("count", COUNT, put(INPUT, b"", split), 75, f"{INPUT} has changed .*start the run again"),
    (
        "count",
        COUNT,
        copies("split-output/{plan}/1.txt", b"WARN"),
        75,
        "1.txt has changed from .*16 bytes",
    ),
    (
        "count",
        COUNT,
        copies("split-output/{plan}/1.txt", b""),
        75,
        "1.txt has changed from .*start the run again",
    ),
    (
        "merge",
        MERGE,
        nothing,
        75,
        "plan.json: No such file .*: create the file, or run the step .*split.py writes.*retry",
    ),
    ("merge", {"NUM_PARTS": 4}, counted, 75, "NUM_PARTS must be 3, .* got 4: set .*retry"),
    ("merge", {**MERGE, "PLAN_ID": "a1"}, another, 75, "PLAN_ID must be .*, got a1:.*retry"),
    (
        "merge",
        MERGE,
        without("cout-output/{job}/1.json"),
        75,
        r"of 3 parts .* 1 missing \(1\): .*retry",
    ),
    ("merge", MERGE, split, 75, r"of 3 parts .* 3 missing \(0, 1, 2\): map these parts again"),
    (
        "merge",
        MERGE,
        put("cout-output/{job}/0.json", b"{", without("cout-output/{job}/2.json")),
        75,
        r"of 3 parts .* 1 corrupt \(0\); 1 missing \(2\): map these parts again.*retry",
    ),
    ("merge", {**MERGE, "KEYWORDS": "INFO"}, counted, 75, r"3 missing \(0, 1, 2\)"),
    ("merge", {**MERGE, "MAP_SETTINGS": "x"}, counted, 75, r"3 missing \(0, 1, 2\)"),
    ("merge", MERGE, without(INPUT), 75, f"{INPUT} has changed from version .* to no file: "),
    ("merge", MERGE, put(INPUT, DATA[::-1], counted), 75, f"{INPUT} has changed from version"),
    (
        "merge 2",
        {"LEVEL": 2},
        levels(2),
        75,
        "l2/by-hand/0.json: No such file .*: create the file, or run the step that writes",
    ),
    (
        "process 0 2",
        {},
        levels(2),
        75,
        "l2/by-hand/0.json: No such file .*: create the file, or run the step that writes it",
    ),
    (
        "merge 2",
        {"LEVEL": 1},
        levels(1),
        2,
        r"level 1 must have .*l1/1.txt, .* set NUMBER \(2\) to",
    ),
    ("merge 2", {"LEVEL": 1}, levels(3), 2, "NUMBER must count all .* got 2 and also .*l1/2.txt:"),
    ("merge 2", {"LEVEL": 1}, nothing, 2, "level 1 must have .*l1/0.txt, got no such file: copy"),
    ("process 0 1", {}, levels(1), 2, "l1/1.txt, got no such file: copy the file there$"),
    (
        "process 1 1",
        {"FILES": 4},
        levels(3),
        2,
        r"l1/3.txt, got no such file: .* set FILES \(4\) to",
    ),
    ("process 2 1", {"FILES": 10**9}, levels(4), 2, "level 1 must have .*l1/4.txt"),
    (
        "process 0 1",
        {"FILES": 2},
        levels(3),
        2,
        "FILES must count all .* got 2 and also .*l1/2.txt:",
    ),
    ("merge 1000000000", {"LEVEL": 1}, levels(2), 2, "l1/2.txt, got no such file: copy"),
    *(
        (
            command,
            settings,
            put(f"aggregation-demo/l1/{name}", b"x", levels(4)),
            2,
            f"^{total} must count all .* got 4 and also .*/l1/{re.escape(name)}: .*, or move",
        )
        for command, settings, total in (
            ("process 1 1", {"FILES": 4}, "FILES"),
            ("merge 4", {"LEVEL": 1}, "NUMBER"),
        )
        for name in STRANGERS
    ),
    *(
        (
            "merge 2",
            {"LEVEL": 2},
            put(f"aggregation-demo/l1/{name}", b"x", joined),
            2,
            f"^aggregation-demo/l1/{re.escape(name)} is a file that no step reads: ",
        )
        for name in STRANGERS
    ),
    *(
        (command, {"LEVEL": 2}, state, code, pattern)
        for command in ("process 0 2", "merge 2")
        for state, code, pattern in (
            (of_two_fan_ins, 75, "must begin with file 3 of level 1, got file 2: run"),
            (record(1, like=0), 75, "by-hand/1.json is not a record that process.py wrote: run pr"),
            (record(0, like=0, level=3), 75, "by-hand/0.json is not a record that process.py wr"),
            (record(0, like=0, output=None), 75, "by-hand/0.json is not a record that process"),
        )
    ),
    (
        "process 0 2",
        {},
        record(0, like=0, output=["x", 1, "1"]),
        75,
        "x: No such file .*: create the file, or run the step that writes it",
    ),
    (
        "merge 1",
        {"LEVEL": 2},
        record(0, like=1, number=0),
        75,
        "must begin with file 0 .* got file 2",
    ),
    (
        "merge 2",
        {"LEVEL": 2},
        put(LEVEL_1.format(4), b"late", joined),
        2,
        "level 1 must have only the 4 files of the result, got 1 more: run every level again",
    ),
    ("merge 1", {"LEVEL": 2}, joined, 2, "must have only the 2 files .* got 2 more"),
    (
        "merge 2",
        {"LEVEL": 2},
        put(LEVEL_1.format(3), b"other", joined),
        75,
        "l1/3.txt has changed from version .* start the run again",
    ),
    ("merge 2", {"LEVEL": 2}, without(LEVEL_1.format(0), state=joined), 75, "l1/0.txt: No such fi"),
]

# States that only a file system has.
STATES_OF_FOLDERS: list[Case] = [
    ("split", {"INPUT": "."}, nothing, 2, "INPUT must name a file, .* got '.': "),
    ("split", {"INPUT": "./"}, nothing, 2, "INPUT must name a file, .* got './': "),
    ("split", {"INPUT": "./cout-output//x"}, nothing, 2, "INPUT must .*use another INPUT, OUT"),
    ("split", {"OUTPUT": "./result.json"}, nothing, 2, "OUTPUT must be a free name for a file"),
    (
        "split",
        {"INPUT": "in/"},
        folder("in/deep"),
        2,
        "INPUT must be .* folder of files .* got 'in/'",
    ),
    ("split", {"INPUT": "in"}, folder("in"), 2, "in must be a regular file, got a folder: name"),
    ("split", {"INPUT": LONG}, nothing, 2, "File name too long: choose a shorter name"),
    ("split", {"INPUT": "pipe"}, fifo("pipe"), 2, "pipe must be a regular file, got a pipe"),
    ("split", {"INPUT": "in/"}, link("in/a", "../" + INPUT), 2, "in/a must not be a link"),
    ("split", {"INPUT": "in/"}, link("in/a", ".."), 2, "in/a must not be a link: replace"),
    ("split", {"INPUT": "link"}, link("link", "nowhere"), 2, "INPUT must be a file .* got 'link'"),
    ("split", {"INPUT": "link"}, link("link", "link"), 2, "link: Too many .*: name the file, not"),
    ("split", {"INPUT": "in"}, unix_socket("in"), 2, "^in must be a regular file, got a pipe, a s"),
    (
        "split",
        {"INPUT": "in/"},
        unix_socket("in/a"),
        2,
        "^in/a must be a regular file, .* folder that has only files",
    ),
    ("split", {"RUN_DIR": INPUT}, nothing, 2, f"{INPUT} must be a folder, got a file: move"),
    ("split", {}, put("split-output", b""), 2, "split-output must be a folder, got a file: move"),
    (
        "count",
        COUNT,
        folder("cout-output/{job}/1.json", split),
        2,
        "1.json: Is a dir.*: move the folder",
    ),
    (
        "merge",
        MERGE,
        folder("cout-output/{job}/1.json", without("cout-output/{job}/1.json")),
        2,
        "1.json must be a regular file",
    ),
    (
        "process 0 1",
        {},
        folder("aggregation-demo/l1/1.txt", levels(1)),
        2,
        "1.txt must be a regular file, got a folder",
    ),
    (
        "process 0 1",
        {},
        put("aggregation-demo/l2", b"", levels(2)),
        2,
        "aggregation-demo/l2 must be a folder, got a file: move",
    ),
]

# Other contents of plan.json. count.py does not check all of them.
PLANS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another format": (
        lambda text: text.replace(b'"format":2', b'"format":1'),
        "plan.json must have format 2, got 1: use images of one version .*run split.py",
    ),
    "no format": (lambda text: text.replace(b'"format":2,', b""), "must have format 2, got None"),
    "empty": (lambda _: b"", "is not a plan that split.py wrote: run split.py again.*retry"),
    "not JSON": (lambda _: DATA, "is not a plan that split.py wrote"),
    "an array": (lambda _: b"[]", "is not a plan that split.py wrote"),
    "a number": (lambda _: b"1", "is not a plan that split.py wrote"),
    "NUL bytes": (lambda text: b"\0" * len(text), "is not a plan that split.py wrote"),
    "without a body": (lambda text: text.split(b"\n")[0] + b"\n", "is not a plan that split.py"),
    "nested too deeply": (lambda _: b"[" * 100_000, "is not a plan that split.py wrote"),
}
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "another cut": lambda text: text.replace(b",30\n", b",29\n"),
    "a cut twice": lambda text: text.replace(b",30\n", b",30\n,30\n"),
    "a cut too few": lambda text: text.replace(b",30\n", b""),
    "two cuts in the wrong order": lambda text: text.replace(b",14\n,30\n", b",30\n,14\n"),
    "a cut that is no number": lambda text: text.replace(b",30\n", b",x\n"),
    "a cut that is too large": lambda text: text.replace(b",30\n", b",%d\n" % 2**64),
    "another version": lambda text: re.sub(rb'"\]\n', rb'0"]\n', text),
    "another size": lambda text: text.replace(b'",44,"', b'",45,"'),
    "another input": lambda text: text.replace(b"log-count", b"log_count"),
    "an input twice": lambda text: re.sub(rb'(\n)(\["log.*\n)', rb"\1\2,\2", text),
    "no input": lambda text: re.sub(rb'\["log.*\n', b"", text),
    "an_end_too_many": lambda text: text + b"]}\n",
    "another total": lambda text: text.replace(b'"bytes":44,', b'"bytes":45,'),
    "another id": lambda text: re.sub(rb'"id":"....', b'"id":"0000', text),
    "another mode": lambda text: text.replace(b'"mode":"range"', b'"mode":"copy"'),
}


def check(volume: Volume, case: Case, *, folders: bool = True) -> None:
    """Run the case, and check its exit code and its single message. It must write nothing, except
    folders of fanfold."""
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
    if folders:
        ours = ("split-output", "cout-output", "aggregation-demo", "results")
        made = {n for n, data in after.items() if data is None and n.startswith(ours)}
        after = {name: data for name, data in after.items() if name not in made - set(before)}
    assert after == before


def names(cases: list[Case]) -> list[str]:
    """Return a name for every case."""
    return [
        f"{number}-{command}-{','.join(f'{k}={v}' for k, v in settings.items())[:40]}".encode(
            "ascii", "replace"
        ).decode()
        for number, (command, settings, *_) in enumerate(cases)
    ]


@pytest.mark.parametrize("case", SETTINGS, ids=names(SETTINGS))
def test_settings(volume: Volume, case: Case) -> None:
    """A wrong or missing setting is for the operator to fix. No folder is made."""
    check(volume, case, folders=False)


@pytest.mark.parametrize("case", STATES, ids=names(STATES))
def test_states(volume: Volume, case: Case) -> None:
    """Data that does not fit: 2 if the operator must act, 75 if a retry can fix it."""
    check(volume, case)


@pytest.mark.folder
@pytest.mark.parametrize("case", STATES_OF_FOLDERS, ids=names(STATES_OF_FOLDERS))
def test_states_of_folders(volume: Volume, case: Case) -> None:
    """The same for states that an object store does not have."""
    check(volume, case)


@pytest.mark.parametrize("worker", ["count", "merge"])
@pytest.mark.parametrize(("change", "pattern"), PLANS.values(), ids=PLANS)
def test_no_plan(
    volume: Volume, worker: str, change: Callable[[bytes], bytes], pattern: str
) -> None:
    """A plan.json that is not a plan, or of another version, is refused by all readers with 75: a
    mount may still show an old file."""
    check(volume, (worker, {**COUNT, **MERGE}, plan(change), 75, pattern))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_plan(volume: Volume, change: Callable[[bytes], bytes]) -> None:
    """A plan that split.py did not commit: no map uses it, and merge.py makes no result."""

    def changed(text: bytes) -> bytes:
        new = change(text)
        assert new != text
        return new

    check(volume, ("count", COUNT, plan(changed), 75, "is not a plan that split.py wrote"))
    before = volume.tree()
    assert volume.run("merge", **MERGE).code == 75
    assert volume.tree() == before


def test_a_plan_that_does_not_fit(volume: Volume) -> None:
    """The plan of PLAN_ID cannot be an older file of a mount. Settings that do not fit it, and
    images of another version, are for the operator to fix."""
    volume.write(INPUT, DATA)
    counted(volume)
    given = {"PLAN_ID": volume.plan()["id"]}
    outcome = volume.run("merge", NUM_PARTS=4, **given)
    assert (outcome.code, "NUM_PARTS must be 3, " in outcome.words) == (2, True)
    outcome = volume.run("count", PART_ID=3, **given)
    assert (outcome.code, "PART_ID must be less than 3" in outcome.words) == (2, True)
    volume.plan_path().write_bytes(PLANS["another format"][0](volume.plan_path().read_bytes()))
    for outcome in (volume.run(worker, **COUNT, **MERGE, **given) for worker in ("count", "merge")):
        assert (outcome.code, "must have format 2, got 1" in outcome.words) == (2, True)


def test_a_level_that_does_not_fit(volume: Volume) -> None:
    """With RUN_ID, the records of another FAN_IN are for the operator to fix."""
    run = volume.having(RUN_ID="a", RUN_STARTED=1)
    of_two_fan_ins(run)
    for outcome in run.run("process", 0, 2), run.run("merge", 2, LEVEL=2):
        assert (outcome.code, "must begin with file 3" in outcome.words) == (2, True)


def test_level_1_and_what_a_killed_writer_left(volume: Volume) -> None:
    """A temporary file of fanfold in level 1 makes no run fail, and is in no result."""
    levels(4)(volume)
    volume.write("aggregation-demo/l1/.4.txt.0123456789abcdef.tmp", b"4")
    assert volume.aggregate(4).code == 0
    assert volume.run("merge", 4, LEVEL=1).code == 0
    assert volume.final(JOINED) == b"0\n1\n2\n3\n"


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_listed_file_that_goes_away(
    volume: Volume, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is listed but deleted before it is opened: a retry can help, and the message names the
    file."""
    for name in ("in/x", "in/y"):
        volume.write(name, DATA)
    kind = bucket.Bucket if volume.in_bucket else storage_folder.Folder
    names = kind.names

    def listed(self: Any, place: str) -> Iterator[str]:
        found = list(names(self, place))
        (volume.root / "in/y").unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(kind, "names", listed)
    outcome = volume.run("split", INPUT="in/", SPLIT_MODE=mode)
    assert (outcome.code, outcome.output) == (75, "")
    assert "in/y: No such file or directory: " in outcome.words


@pytest.mark.folder
@pytest.mark.parametrize("worker", ["split", "merge"])
def test_a_listed_folder_that_goes_away(
    volume: Volume, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a folder, in every step that lists."""
    volume = volume.having(INPUT="in/", NUM_PARTS=3, SPLIT_MODE="range")
    volume.write("in/x", DATA)
    volume.count(volume.split())
    volume.write("in/sub/y", DATA)
    scandir = os.scandir

    def gone(path: str) -> Any:
        if path == f"{volume.root}/in/sub/":
            shutil.rmtree(volume.root / "in/sub")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    outcome = volume.run(worker)
    assert (outcome.code, outcome.output) == (75, "")
    assert f"{volume.root}/in/sub/: No such file or directory" in outcome.words


@pytest.mark.folder
def test_a_file_that_a_mount_hides(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """INPUT is in the listing of its folder, but the mount has cached that it is missing."""
    volume.write("in/x", DATA)
    hidden = volume.root / "in/x"

    def hides(path: Any, *more: Any) -> int:
        if os.fspath(path) == str(hidden):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return open_(path, *more)

    open_ = os.open
    monkeypatch.setattr(os, "open", hides)
    outcome = volume.run("split", INPUT="in/x")
    assert (outcome.code, outcome.output) == (75, "")
    assert "in/x: No such file or directory: " in outcome.words


@pytest.mark.folder
@pytest.mark.parametrize("name", ["sys/kernel/uevent_seqnum", "proc/version"])
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_file_of_the_kernel(volume: Volume, name: str, mode: str) -> None:
    """Its size is 0, or larger than its content: no retry changes this."""
    if not os.path.exists(f"/{name}"):
        pytest.skip(f"no /{name} here")
    run_dir = str(volume.root)[1:]
    outcome = volume.run("split", WORK_DIR="/", INPUT=name, RUN_DIR=run_dir, SPLIT_MODE=mode)
    assert (outcome.code, outcome.output) == (2, "")
    assert f"{name} must be a stored file, got one that the kernel makes" in outcome.words


class OldSizes:
    """Replaces os on a mount that shows an old size of 0 for every file until its folder is
    listed."""

    def __init__(self) -> None:
        """Start without a listing."""
        self.listed = False

    def __getattr__(self, name: str) -> Any:
        """Return all other functions of os."""
        return getattr(os, name)

    def scandir(self, path: str) -> Any:
        """List a folder."""
        self.listed = True
        return os.scandir(path)

    def fstat(self, fd: int) -> os.stat_result:
        """Return the size of a file after a listing, 0 before."""
        found = [*os.fstat(fd)]
        return os.stat_result(found) if self.listed else os.stat_result([*found[:6], 0, *found[7:]])

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """The kernel does not ask the mount for bytes beyond the size."""
        return os.pread(fd, length, offset) if self.listed else b""


@pytest.mark.folder
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_an_old_size_of_0(volume: Volume, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size of 0 counts only after a listing of the folder: no byte of the input is left out."""
    volume.write(f"in/{INPUT}", DATA)
    run = volume.having(INPUT=f"in/{INPUT}", SPLIT_MODE=mode, NUM_PARTS=2)
    with monkeypatch.context() as patch:
        patch.setattr(storage_folder, "os", OldSizes())
        run.split()
    assert run.plan()["bytes"] == len(DATA)


@pytest.mark.folder
def test_many_empty_files(volume: Volume) -> None:
    """Their folder is listed once for all files."""
    for number in range(20):
        volume.write(f"in/{number}", b"")
    with faulty.operations(lambda *_: None) as seen:
        volume.split(INPUT="in/", SPLIT_MODE="range")
    assert seen.count("scandir") == 1


@pytest.mark.folder
def test_a_hole_that_is_none(volume: Volume) -> None:
    """ENXIO for SEEK_DATA means a hole up to the end, or a busy mount."""
    volume.write(INPUT, b"x" * 100 + b"\n" + DATA)

    def busy(_: int, name: str) -> None:
        if name == "lseek" and seen.count("lseek") % 2:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))

    with pieces_of(16):
        volume.split(NUM_PARTS=3)
        right = volume.plan()["cuts"]
        with faulty.operations(busy) as seen:
            volume.split(NUM_PARTS=3)
    assert "lseek" in seen
    assert volume.plan()["cuts"] == right


# Errors that the operator must fix. Other errors may pass, such as those of a busy or dead mount.
NEED_SOMEBODY = """
    EACCES EPERM EROFS EEXIST ENOTDIR EISDIR ENOTEMPTY ENAMETOOLONG EILSEQ ELOOP EFBIG EMLINK EINVAL
    ENOSYS ENOTSUP EOPNOTSUPP EXDEV
"""


@pytest.mark.parametrize("number", errno.errorcode, ids=errno.errorcode.get)
def test_errors_of_the_system(number: int) -> None:
    """Each error has its exit code, names the file, and mentions a retry only if a retry can
    help."""
    needs_somebody = errno.errorcode[number] in NEED_SOMEBODY.split()
    code, sentence = explain(OSError(number, os.strerror(number), "in/x"))
    assert code == (2 if needs_somebody else 75)
    assert sentence.startswith(f"in/x: {os.strerror(number)}: ")
    assert ("retry" in sentence) == (code == 75)
    assert not re.search("delete|remove |overwrite", sentence)


def test_the_first_20_are_named(volume: Volume) -> None:
    """If many parts have no result, merge.py names the first 20 and the number of all."""
    volume.write(INPUT, DATA)
    volume.split(NUM_PARTS=30)
    volume.count(["0", "3"])
    outcome = volume.run("merge", NUM_PARTS=30)
    ids = [str(number) for number in range(30) if number not in (0, 3)]

    assert outcome.code == 75
    assert f" 28 missing ({', '.join(ids[:20])} and 8 more): map these parts again" in outcome.words


def test_a_result_of_another_part(volume: Volume) -> None:
    """A record under the name of another part does not count, even if both parts are empty."""
    volume.write(INPUT, b"")
    volume.split(NUM_PARTS=3)
    volume.count("012")
    volume.record_path("1").write_bytes(volume.record_path("0").read_bytes())
    outcome = volume.run("merge", NUM_PARTS=3)

    assert outcome.code == 75
    assert "1 corrupt (1)" in outcome.words


@pytest.mark.parametrize(
    "names", [("result.jsonl",), ("result.json.1", "x"), ("split-output.log",)]
)
def test_a_name_that_only_starts_like_an_output(volume: Volume, names: tuple[str, ...]) -> None:
    """The name of an input may begin like the name of an output."""
    volume.write(names[0], DATA)
    assert volume.split(INPUT=names[0], NUM_PARTS=1) == ["0"]


def test_too_many_files(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the maximum number of files are refused before anything is written. The maximum is
    accepted."""
    monkeypatch.setattr(settings, "MAX_INPUTS", 3)
    for number in range(3):
        volume.write(f"in/{number}", DATA)
    assert volume.split(INPUT="in/", NUM_PARTS=1) == ["0"]
    refused = "INPUT must name at most 3 files, got more in 'in/': use a smaller folder, or join"
    check(volume, ("split", {"INPUT": "in/"}, put("in/3", b""), 2, refused))


@pytest.mark.folder
def test_a_listing_that_is_too_long(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a folder are all in memory: too many names are refused during the listing."""
    monkeypatch.setattr(walk, "MOST", 2)
    levels(3)(volume)
    case: Case = (
        "process 0 1",
        {"FILES": 2},
        nothing,
        2,
        "l1/ must have at most 2 files, got more:",
    )
    check(volume, case)


@pytest.mark.folder
def test_names_in_a_folder_are_paths(volume: Volume) -> None:
    """Different spellings of a path mean the same file, the same plan and the same folder."""
    volume.write("logs/app.log", DATA)
    volume.log_count(INPUT="./logs//app.log", RUN_DIR="a//./b/", OUTPUT="x/./y")
    run = volume.having(INPUT="logs/app.log", RUN_DIR="a/b", OUTPUT="x/y")
    assert run.totals() == TOTALS
    assert run.plan()["input"] == "logs/app.log"
    assert run.split(ONLY_MISSING="true") == []


@pytest.mark.folder
def test_a_link_as_the_input(volume: Volume) -> None:
    """A link in INPUT is followed, because the user has named it. A change of its target is
    detected."""
    volume.write("data", DATA)
    (volume.root / INPUT).symlink_to("data")
    volume.log_count(SPLIT_MODE="range")
    assert volume.totals() == TOTALS

    volume.write("data", DATA.lower())
    outcome = volume.run("count", PART_ID=0)
    assert outcome.code == 75
    assert f"{INPUT} has changed" in outcome.words


LINKS = {  # by INPUT: a link and its target
    "log.txt": ("log.txt", "result.out"),
    "in.txt": ("in.txt", "out/lines.log"),
    "in/": ("in", "out"),
    "all/": ("all", "."),
    "of/x/": ("of", "split-output"),
}


@pytest.mark.folder
@pytest.mark.parametrize("source", LINKS)
@pytest.mark.parametrize("by_link", [False, True])
def test_an_input_that_is_an_output_by_a_link(volume: Volume, source: str, by_link: bool) -> None:
    """Different names may mean one file: the run would replace its input. RUN_DIR may also be a
    link."""
    for name in ("run/result.out", "run/out/lines.log", "run/split-output/x/y"):
        volume.write(name, DATA)
    name, target = LINKS[source]
    (volume.root / name).symlink_to(f"run/{target}")
    (volume.root / "link").symlink_to("run")
    output = "out/lines.log" if "out" in target and target != "result.out" else "result.out"
    run = volume.having(INPUT=source, RUN_DIR="link" if by_link else "run", OUTPUT=output)
    before = volume.tree()
    outcome = run.run("split")
    assert outcome.code == 2
    assert f"INPUT must not overlap the run's output {volume.root.resolve()}/run/" in outcome.words
    assert f", got '{source}': use another" in outcome.words
    assert volume.tree() == before


@pytest.mark.folder
def test_an_output_that_is_the_input_by_a_link(volume: Volume) -> None:
    """The last step checks this too, because only its OUTPUT may differ."""
    volume.write("out/log.txt", DATA)
    (volume.root / "in").symlink_to("out")
    run = volume.having(INPUT="in/log.txt", NUM_PARTS=1, MAP_SETTINGS="1")
    run.split()
    assert run.run_map(lambda part: part.write(b"".join(part.pieces())), 0).code == 0
    outcome = run.run("merge", OUTPUT="out/log.txt")
    assert outcome.code == 2
    assert "INPUT must not overlap the run's output " in outcome.words
    assert (volume.root / "out/log.txt").read_bytes() == DATA


@pytest.mark.folder
def test_a_bucket_without_oss2(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oss2 every worker says that it is missing, and a wrong text of WORK_DIR comes
    first."""
    monkeypatch.setitem(sys.modules, "oss2", None)
    monkeypatch.delitem(sys.modules, "fanfold.storage.bucket", raising=False)
    monkeypatch.delattr("fanfold.storage.bucket", raising=False)
    for text, sentence in (
        ("oss://bucket/a", "WORK_DIR must be a folder without the package oss2, got 'oss://bucke"),
        ("oss://", "WORK_DIR must be oss://BUCKET/PREFIX, got 'oss://': name a bucket"),
        ("oss://id:secret@", "WORK_DIR must be oss://BUCKET/PREFIX, got 'oss://': name a bucket"),
    ):
        for command in ("split", "count", "merge", "process 0 1", "merge 2"):
            worker, *arguments = command.split()
            outcome = volume.run(worker, *arguments, WORK_DIR=text, PART_ID=0)
            assert (outcome.code, sentence in outcome.words) == (2, True), outcome.words


@pytest.mark.folder
@pytest.mark.parametrize("work_dir", ["absent", INPUT, ""])
def test_no_work_dir(volume: Volume, work_dir: str) -> None:
    """A WORK_DIR that is missing, a file or empty: every worker reports this. No worker creates
    it."""
    volume.write(INPUT, DATA)
    text = str(volume.root / work_dir) if work_dir else ""
    for command in ("split", "count", "merge", "process 0 1", "merge 2"):
        worker, *arguments = command.split()
        before = volume.tree()
        outcome = volume.run(worker, *arguments, WORK_DIR=text, PART_ID=0)

        assert outcome.code == 2
        assert f", got '{text}': mount the volume there" in outcome.words
        assert volume.tree() == before


@contextmanager
def nobody() -> Iterator[None]:
    """Drop all rights for a while. (A new process might not be able to read the interpreter.)"""
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
    """On a volume that the worker's user cannot write: exit code 2 and a remedy."""
    volume.root.chmod(0o755)
    volume.write(INPUT, DATA)
    levels(2)(volume)
    counted(volume)
    before = volume.tree()
    worker, *arguments = command.split()
    with nobody():
        outcome = volume.run(worker, *arguments, PART_ID=0, NUM_PARTS=3, LEVEL=1)

    assert (outcome.code, outcome.output) == (2, "")
    assert f"Permission denied: allow user {NOBODY} to read it, or to write it if" in outcome.words
    assert volume.tree() == before


@pytest.mark.folder
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_no_right_to_read(volume: Volume, mode: str) -> None:
    """For an input that the worker's user cannot read: exit code 2 and a remedy."""
    volume.root.chmod(0o777)
    volume.write(INPUT, DATA).chmod(0o600)
    with nobody():
        outcome = volume.run("split", SPLIT_MODE=mode)

    assert (outcome.code, outcome.output) == (2, "")
    assert f"{INPUT}: Permission denied: allow user {NOBODY} to read it" in outcome.words


def test_the_sentence_for_argo(volume: Volume, tmp_path: Path) -> None:
    """ERROR_FILE gets only the message. An error of this file hides no other error."""
    for target in (tmp_path / "sentence", tmp_path / "absent" / "sentence"):
        outcome = volume.run("split", INPUT="absent", ERROR_FILE=target)
        assert outcome.code == 2
    text = (tmp_path / "sentence").read_text()

    assert text.startswith("INPUT must be a file or a folder of files in WORK_DIR, got 'absent'")
    assert json.dumps(text) in outcome.words


def test_the_plan_id_for_the_workflow(volume: Volume, tmp_path: Path) -> None:
    """PLAN_ID_FILE gets only the id. An error of this file comes before the ids are printed."""
    volume.write(INPUT, DATA)
    volume.split(PLAN_ID_FILE=tmp_path / "id")
    assert (tmp_path / "id").read_text() == volume.plan()["id"]

    outcome = volume.run("split", PLAN_ID_FILE=tmp_path / "absent" / "id")
    assert (outcome.code, outcome.output) == (2, "")
    outcome = volume.run("split", PLAN_ID_FILE="/dev/full")
    assert (outcome.code, outcome.output) == (75, "")
    assert "/dev/full: No space left on device: free space" in outcome.words


def with_streams(
    volume: Volume, streams: str, worker: str, *arguments: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a worker, or another program, with its streams redirected by a shell."""
    program = worker if worker.endswith(".py") else str(WORKERS / f"{worker}.py")
    environ = {**bare_environ(), **volume.environ(settings), "PYTHONPATH": str(WORKERS)}
    command = ["bash", "-c", f'exec "$@" {streams}', "bash", sys.executable, program, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True)


NOWHERE = ["2>/dev/full", "2>&-", "2>/dev/full >/dev/full", "2>&- >&-"]


@pytest.mark.parametrize("streams", NOWHERE)
def test_log_lines_that_nobody_reads(volume: Volume, tmp_path: Path, streams: str) -> None:
    """A log line that cannot be written changes no result, no exit code and nothing on stdout. For
    all workers except split, stdout may also be closed or full."""
    volume.write(INPUT, DATA)
    levels(2)(volume)
    done = with_streams(volume, streams.partition(" ")[0], "split", NUM_PARTS=2)
    assert (done.returncode, done.stdout, done.stderr) == (0, '["0","1"]\n', "")
    for command in ("count", "count", "merge", "process 0 1", "merge 1"):
        worker, *arguments = command.split()
        more = {"PART_ID": 0, "NUM_PARTS": 2, "LEVEL": 2}
        if command == "count":
            volume.count("1")
        done = with_streams(volume, streams, worker, *arguments, **more)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command
    assert volume.totals() == TOTALS
    assert volume.final("aggregation-demo/result.txt") == b"0\n1\n"

    sentence = tmp_path / "sentence"
    done = with_streams(volume, streams, "merge", NUM_PARTS=0, ERROR_FILE=sentence)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert sentence.read_text().startswith("NUM_PARTS must be ")


@pytest.mark.parametrize("streams", [">/dev/full", ">&-"])
def test_what_a_custom_map_prints(volume: Volume, tmp_path: Path, streams: str) -> None:
    """Output of a custom map that cannot be written changes neither a result nor an exit code."""
    volume.write(INPUT, DATA)
    volume = volume.having(MAP_SETTINGS="1", NUM_PARTS=2)
    volume.split()
    program = tmp_path / "lines.py"
    program.write_text(
        "from fanfold import WorkerError, map_part\n"
        "def lines(part):\n"
        "    print('debug')\n"
        "    if part.id == '2':\n"
        "        raise WorkerError('no')\n"
        "    return {'lines': len(list(part.lines()))}\n"
        "raise SystemExit(map_part(lines))\n"
    )
    for part_id in "01":
        done = with_streams(volume, streams, str(program), PART_ID=part_id)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert " event=done " in done.stderr
    volume.merge()
    assert volume.totals() == {"lines": 6}
    volume.split(NUM_PARTS=3)
    done = with_streams(volume, streams, str(program), PART_ID=2)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("streams", "code", "problem"),
    [(">/dev/full", 75, "No space left on device"), (">&-", 2, "the stream is closed")],
)
@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_part_ids_that_nobody_reads(
    volume: Volume, streams: str, code: int, problem: str, arguments: list[str]
) -> None:
    """A stdout that accepts no data is an error: the split must not seem successful."""
    volume.write(INPUT, DATA)
    done = with_streams(volume, streams, "split", *arguments)

    assert done.returncode == code
    sentence = (
        f"stdout cannot be written ({problem}): send stdout to a program or file that accepts it"
    )
    assert done.stderr == f'worker=split event=failed exit={code} error="{sentence}"\n'


def test_the_reader_of_the_part_ids_is_gone(volume: Volume) -> None:
    """The same for a pipe without a reader."""
    volume.write(INPUT, DATA)
    reader, writer = os.pipe()
    os.close(reader)
    environ = {**bare_environ(), **volume.environ({})}
    command = [sys.executable, str(WORKERS / "split.py")]
    done = subprocess.run(command, env=environ, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert done.returncode == 75
    assert done.stderr.count(b"\n") == 1
    assert b"stdout cannot be written (Broken pipe)" in done.stderr


@pytest.mark.parametrize("command", ["split", "merge", "merge 2"])
def test_a_disk_that_is_full_for_the_workflow(volume: Volume, command: str) -> None:
    """If a file for the workflow cannot be written in the end, a retry can help. No part ids are
    printed before."""
    volume.write(INPUT, DATA)
    both(volume)
    volume = volume.having(NUM_PARTS=3, SPLIT_MODE="range", LEVEL=1)
    worker, *arguments = command.split()
    for setting in ("PLAN_ID_FILE",) if worker == "split" else ("RESULT_FILE", "RESULT_PATH_FILE"):
        outcome = volume.run(worker, *arguments, **{setting: "/dev/full"})
        assert (outcome.code, outcome.output) == (75, "")
        assert "/dev/full: No space left on device: free space" in outcome.words
        assert volume.run(worker, *arguments).code == 0


class Word(str):
    """A keyword that counts its comparisons."""

    __slots__ = ()
    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        """Count and compare."""
        Word.compared += 1
        return str.__eq__(self, other)


class Words(str):
    """A KEYWORDS text that splits into such words."""

    __slots__ = ()

    def split(self, *_: object) -> list[str]:
        """Return the words."""
        return [Word(word) for word in str.split(self, ",")]


@pytest.mark.folder
def test_many_keywords() -> None:
    """Keywords are checked in one pass: each word is not compared with all others."""
    text = ",".join(f"word{number}" for number in range(5000))

    assert keywords({"KEYWORDS": Words(text)}) == text.split(",")
    assert Word.compared < 10 * 5000


@pytest.mark.folder
def test_as_many_keywords_as_the_environment_holds(volume: Volume) -> None:
    """The longest KEYWORDS that a process can be started with is counted. A longer one is
    refused."""
    words = [f"{number:04x}" for number in range(26212)]
    text = ",".join(words) + "123"
    volume.write(INPUT, text.encode())
    assert len(text) == 131062
    assert volume.call("split", NUM_PARTS=1, KEYWORDS=text).code == 0
    assert volume.call("count", PART_ID=0, KEYWORDS=text).code == 0
    assert volume.call("merge", NUM_PARTS=1, KEYWORDS=text).code == 0
    assert volume.totals() == model([text.encode()], text.split(","))

    assert volume.run("count", PART_ID=0, KEYWORDS=text + "x").code == 2
    with pytest.raises(OSError, match="Argument list too long"):
        volume.call("count", PART_ID=0, KEYWORDS=text + "x")


@pytest.mark.folder
@pytest.mark.parametrize("name", ["a link to nothing", "a link to itself", "a file"])
@pytest.mark.parametrize("worker", ["split", "count", "process 0 1"])
def test_no_folder_where_one_must_be(volume: Volume, name: str, worker: str) -> None:
    """The message names the file that is in place of a folder, not a path below it."""
    volume.write(INPUT, DATA)
    volume.write_level_1([DATA, DATA])
    volume.split()
    places = {"split": "split-output", "count": "cout-output", "process": "aggregation-demo/l2"}
    command, *arguments = worker.split()
    place = volume.run_dir / places[command]
    if place.exists():
        place.rename(volume.root / "aside")
    if name == "a link to nothing":
        place.symlink_to("nothing")
    elif name == "a link to itself":
        place.symlink_to(place.name)
    else:
        place.write_bytes(b"mine")
    outcome = volume.run(command, *arguments, PART_ID=0)
    assert outcome.code == 2, outcome.words
    what = "a link to no folder" if "link" in name else "a file"
    assert f"{place} must be a folder, got {what}: move this file away" in outcome.words
