"""Signals to real processes at random moments: SIGTERM, SIGKILL, SIGSTOP. SIGTERM at every line."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from fanfold import names, worker
from pipeline import (
    INPUT,
    LEVEL_1,
    WORKERS,
    Outcome,
    Volume,
    children,
    finish,
    model,
    pieces_of,
)
from runs import ARGO, COUNT, LEVELS, OLD, SAME, Pipeline, Run, begin, place

PROMPT = 2  # seconds for the handling of SIGTERM
LINE = b"2026-01-01T00:00:00Z [INFO] caf\xc3\xa9 served, WARN or ERROR\n"


def after(process: subprocess.Popen[str], seconds: float, number: int) -> tuple[Outcome, float]:
    """Send a signal to a process after a while; return its outcome, and the time that it took."""
    with process:
        time.sleep(seconds)
        start = time.monotonic()
        process.send_signal(number)
        return finish(process), time.monotonic() - start


def test_sigkill(tmp_path: Path) -> None:
    """Real processes are killed at random moments of each step, and each step is retried: the
    totals are right, and only hidden files of the killed processes are left."""
    dice = random.Random(9)
    data = LINE * ((16 << 20) // len(LINE))
    volume = Volume(tmp_path).having(NUM_PARTS=3, **ARGO[0])
    volume.write(INPUT, data)
    killed = 0

    def step(name: str, times: int, **settings: Any) -> Outcome:
        nonlocal killed
        start = time.monotonic()
        assert volume.call(name, **settings).code == 0
        longest = time.monotonic() - start
        for _ in range(times):
            moment = dice.uniform(0.3, 1) * longest
            outcome, _ = after(volume.start(name, **settings), moment, signal.SIGKILL)
            assert outcome.code in (-signal.SIGKILL, 0)
            killed += outcome.code != 0
        return volume.call(name, **settings)

    part_ids = step("split", 4).part_ids
    for part_id in part_ids:
        assert step("count", 2, PART_ID=part_id).code == 0
    assert step("merge", 2).code == 0

    assert killed > 3
    assert volume.totals() == model([data])
    assert b"".join(volume.copies(3)) == data
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    visible = {name for name in files if not name.startswith(".")}
    begun = names.run_name(str(ARGO[0]["RUN_ID"]), int(str(ARGO[0]["RUN_STARTED"])))
    published = {"plan.json", begun, "result.json", "result.json.record", "summary.json"}
    published.add("report.html")
    assert visible == {INPUT} | published | {
        f"{part_id}.{end}" for part_id in part_ids for end in ("txt", "json")
    }


SLOW = """if True:
    import os, time
    def slowly(function):
        def operation(*arguments):
            time.sleep(0.04)
            return function(*arguments)
        return operation
    os.replace, os.scandir = slowly(os.replace), slowly(os.scandir)
"""


@pytest.mark.parametrize(
    ("pipeline", "at"),
    [(COUNT, 0), (COUNT, 1), (COUNT, 3), (LEVELS, 0), (LEVELS, 3), (LEVELS, 5)],
    ids=["split", "count", "merge", "process level 1", "process level 2", "merge files"],
)
def test_sigstop(volume: Volume, pipeline: Pipeline, at: int) -> None:
    """A process of an older run is stopped at a random moment and continues after a newer run has
    ended: it succeeds or fails, and the final names have the newer results."""
    dice = random.Random(at)
    for _ in range(3):
        where = place(volume)
        older = begin(Run.of(where, pipeline, OLD, **ARGO[0]), at)
        newer = Run.of(where, pipeline, SAME, **ARGO[1])
        worker, arguments, settings = pipeline.steps[at]
        with older.volume.start(worker, *arguments, prologue=SLOW, **settings) as process:
            time.sleep(dice.uniform(0.1, 0.4))
            process.send_signal(signal.SIGSTOP)
            newer.write()
            assert not any(newer.finish())
            process.send_signal(signal.SIGCONT)
            outcome = finish(process)

        assert outcome.code in (0, 75)
        assert newer.final() == newer.results() == newer.right
        if at == pipeline.last:
            assert older.results() == (older.right if outcome.code == 0 else {})


@pytest.mark.parametrize(
    ("name", "arguments"), [("split", ()), ("count", ()), ("process", (0, 1)), ("merge", (2,))]
)
def test_sigterm(tmp_path: Path, name: str, arguments: tuple[int, ...]) -> None:
    """A worker in the middle of a large file ends within PROMPT seconds with 143, prints nothing on
    stdout and leaves no temporary file. (Before it can handle the signal, the signal kills it.)"""
    dice = random.Random(name)
    volume = Volume(tmp_path).having(NUM_PARTS=1, LEVEL=1)
    volume.sparse(INPUT, 16 << 30, {0: LINE})
    (tmp_path / "aggregation-demo/l1").mkdir(parents=True)
    for number in range(2):
        (tmp_path / LEVEL_1.format(number)).hardlink_to(tmp_path / INPUT)
    volume.split(SPLIT_MODE="range")
    before = set(tmp_path.rglob("*"))
    for _ in range(4):
        process = volume.start(name, *arguments, PART_ID=0)
        outcome, seconds = after(process, dice.uniform(0.05, 0.6), signal.SIGTERM)

        assert outcome.code in (143, -signal.SIGTERM)
        assert outcome.output == ""
        assert outcome.words in ("", "worker=merge event=proven files=2 new=0\n")
        assert seconds < PROMPT
        assert [path for path in set(tmp_path.rglob("*")) - before if path.is_file()] == []


@pytest.mark.parametrize("name", ["split", "merge"])
def test_sigterm_on_a_slow_mount(tmp_path: Path, name: str) -> None:
    """If every read is slow and many are left, SIGTERM does not wait for them."""
    volume = Volume(tmp_path).having(NUM_PARTS=5000, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 5000)
    volume.split()
    if name == "merge":  # damaged results are also read
        for number in range(5000):
            volume.record_path(str(number)).touch()
    slow = """if True:
        import os, time
        read, fstat = os.pread, os.fstat
        def pread(*arguments):
            time.sleep(0.02)
            return read(*arguments)
        def slow_fstat(*arguments):
            time.sleep(0.02)
            return fstat(*arguments)
        os.pread, os.fstat = pread, slow_fstat
    """
    outcome, seconds = after(volume.start(name, prologue=slow), 1, signal.SIGTERM)

    assert outcome.code == 143
    assert (outcome.output, outcome.words) == ("", "")
    assert seconds < PROMPT
    assert volume.temporary_files() == []


class SignalAt:
    """Sends SIGTERM to this process at the Nth place of the workers, while they handle signals. A
    place is a line, or in some functions an instruction, together with the calling line: an
    iteration of a loop is not a new place."""

    FILES = frozenset(map(str, WORKERS.rglob("*.py")))
    CLOSELY = frozenset({"run_worker", "publish"})

    def __init__(self, nth: int) -> None:
        """Send the signal once."""
        self.nth, self.places = nth, set[tuple[CodeType | int, ...]]()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        """The trace function of sys.settrace."""
        if frame.f_code.co_filename not in self.FILES:
            return None
        frame.f_trace_opcodes = frame.f_code.co_name in self.CLOSELY
        if event in ("line", "opcode") and callable(signal.getsignal(signal.SIGTERM)):
            caller = frame.f_back or frame
            where = frame.f_lasti if frame.f_trace_opcodes else frame.f_lineno
            place = frame.f_code, where, caller.f_code, caller.f_lineno
            if place not in self.places:
                self.places.add(place)
                if len(self.places) == self.nth:
                    signal.raise_signal(signal.SIGTERM)
        return self


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "step",
    ["split", "count", "own", "map", "merge", "process 0 1", "merge 2", "broken count", "group"],
)
def test_sigterm_at_every_line(volume: Volume, step: str) -> None:
    """Wherever SIGTERM finds a worker, also while it handles another error or starts a program: 143
    (or the exit code that was already certain), no traceback, no temporary file, no process."""
    volume.write(INPUT, b"INFO 1\nWARN 2\n")
    volume = volume.having(NUM_PARTS=2, PART_ID=0, LEVEL=1)
    volume.log_count()
    for number in range(2):
        volume.write(LEVEL_1.format(number), b"%d\n" % number)
    more: dict[str, dict[str, object]] = {
        "own": {"MAP_SETTINGS": "1"},
        "map": {"MAP_COMMAND": "cat"},
        "group": {"PART_ID": "0-1", "RUN_ID": "a", "RUN_STARTED": 1},
    }
    volume = volume.having(**more.get(step, {}))
    if step == "broken count":
        volume.copy_path(0).write_bytes(b"INFO")
    name, *arguments = step.removeprefix("broken ").replace("group", "count").split()
    shutil.rmtree(volume.root / "results")
    before, others = set(volume.tree()), children()
    ends, escaped, nth = set(), set(), 0
    with pieces_of(64):
        while True:
            nth += 1
            trace = SignalAt(nth)
            old = sys.gettrace()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.settrace(trace)
            try:
                outcome = volume.run(name, *arguments)
            except worker.Terminated as error:
                escaped.add(traceback.extract_tb(error.__traceback__)[-3].line)
                outcome = Outcome(143, "", "")
            finally:
                sys.settrace(old)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if len(trace.places) < nth:
                break
            ends.add(outcome.code)
            assert volume.temporary_files() == [], nth
            assert children() == others  # no program is left
            assert outcome.code == 143 or outcome.words.count("event=failed") == (outcome.code > 0)
            shutil.rmtree(volume.root / "results", ignore_errors=True)
            if step == "split":
                shutil.rmtree(volume.root / "split-output", ignore_errors=True)

    assert escaped == set()
    assert outcome.code == (75 if step.startswith("broken") else 0)
    assert ends <= {143, outcome.code}
    assert nth > 100
    assert before <= set(volume.tree())
