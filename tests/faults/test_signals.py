"""SIGTERM and SIGKILL, to real processes at random moments and to the code at every line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import worker
from pipeline import INPUT, WORKERS, Outcome, Volume, finish, model, pieces_of

PROMPT = 2  # seconds that SIGTERM may take
LINE = b"2026-01-01T00:00:00Z [INFO] caf\xc3\xa9 served, WARN or ERROR\n"


def after(process: subprocess.Popen[str], seconds: float, number: int) -> tuple[Outcome, float]:
    """Send a signal to a process after a while; gives its end, and how long that took."""
    with process:
        time.sleep(seconds)
        start = time.monotonic()
        process.send_signal(number)
        return finish(process), time.monotonic() - start


def test_sigkill(tmp_path: Path) -> None:
    """Real processes are killed at random moments of each step, and each step is then retried:
    the totals are right, and nothing but hidden files of the dead is left."""
    dice = random.Random(9)
    data = LINE * ((64 << 20) // len(LINE))
    volume = Volume(tmp_path).having(NUM_PARTS=4)
    volume.write(INPUT, data)
    killed = 0

    def step(name: str, times: int, **settings: Any) -> Outcome:
        nonlocal killed
        start = time.monotonic()
        assert volume.call(name, **settings).code == 0
        longest = time.monotonic() - start
        for _ in range(times):
            moment = dice.uniform(0.2, 1) * longest
            outcome, _ = after(volume.start(name, **settings), moment, signal.SIGKILL)
            assert outcome.code in (-signal.SIGKILL, 0)
            killed += outcome.code != 0
        return volume.call(name, **settings)

    part_ids = step("split", 6).part_ids
    for part_id in part_ids:
        assert step("count", 2, PART_ID=part_id).code == 0
    assert step("merge", 2).code == 0

    assert killed > 4
    assert volume.totals() == model([data])
    assert b"".join(volume.copies(4)) == data
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    visible = {name for name in files if not name.startswith(".")}
    assert visible == {INPUT, "plan.json", "result.json"} | {
        f"{part_id}.{end}" for part_id in part_ids for end in ("txt", "json")
    }


@pytest.mark.parametrize(
    ("name", "arguments"), [("split", ()), ("count", ()), ("process", (0, 1)), ("merge", (2,))]
)
def test_sigterm(tmp_path: Path, name: str, arguments: tuple[int, ...]) -> None:
    """A worker in the middle of a large file ends within PROMPT seconds with 143, says nothing on
    stdout and leaves no temporary file. (Before it can take the signal it dies of it.)"""
    dice = random.Random(name)
    volume = Volume(tmp_path).having(NUM_PARTS=1, LEVEL=1)
    volume.sparse(INPUT, 16 << 30, {0: LINE})
    volume.split(SPLIT_MODE="range")
    (tmp_path / "aggregation-demo/l1").mkdir(parents=True)
    for number in range(2):
        (tmp_path / f"aggregation-demo/l1/{number}.txt").hardlink_to(tmp_path / INPUT)
    before = set(tmp_path.rglob("*"))
    for _ in range(4):
        process = volume.start(name, *arguments, PART_ID=0)
        outcome, seconds = after(process, dice.uniform(0.05, 0.6), signal.SIGTERM)

        assert outcome.code in (143, -signal.SIGTERM)
        assert (outcome.output, outcome.words) == ("", "")
        assert seconds < PROMPT
        assert [path for path in set(tmp_path.rglob("*")) - before if path.is_file()] == []


@pytest.mark.parametrize("name", ["split", "merge"])
def test_sigterm_on_a_slow_mount(tmp_path: Path, name: str) -> None:
    """Where every read takes a while and there are many to do, SIGTERM does not wait for them."""
    volume = Volume(tmp_path).having(NUM_PARTS=5000, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 5000)
    volume.split()
    if name == "merge":  # results that are no results are read all the same
        for number in range(5000):
            volume.result_path(str(number)).touch()
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
    """Sends SIGTERM to this process at the Nth line, and in some functions the Nth instruction, of
    the workers that are run with it, while they take signals."""

    FILES = frozenset(str(WORKERS / name) for name in os.listdir(WORKERS))
    CLOSELY = frozenset({"run_worker", "_publish"})

    def __init__(self, nth: int) -> None:
        """Do so once."""
        self.nth, self.seen = nth, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        """What sys.settrace calls."""
        if frame.f_code.co_filename not in self.FILES:
            return None
        frame.f_trace_opcodes = frame.f_code.co_name in self.CLOSELY
        if event in ("line", "opcode") and callable(signal.getsignal(signal.SIGTERM)):
            self.seen += 1
            if self.seen == self.nth:
                signal.raise_signal(signal.SIGTERM)
        return self


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", ["split", "count", "merge", "process 0 1", "broken count"])
def test_sigterm_at_every_line(volume: Volume, step: str) -> None:
    """Wherever SIGTERM finds a worker, in the middle of the handling of another error too: 143 (or
    the end that it was about to have), no traceback, no temporary file."""
    volume.write(INPUT, b"INFO 1\nWARN 2\n")
    volume.log_count(NUM_PARTS=2)
    for number in range(2):
        volume.write(f"aggregation-demo/l1/{number}.txt", b"%d\n" % number)
    if step == "broken count":
        volume.write("split-output/0.txt", b"INFO")
    name, *arguments = step.removeprefix("broken ").split()
    before = set(volume.tree())
    ends, escaped, nth = set(), set(), 0
    with pieces_of(64):
        while True:
            nth += 1
            trace = SignalAt(nth)
            old = sys.gettrace()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.settrace(trace)
            try:
                outcome = volume.run(name, *arguments, PART_ID=0, NUM_PARTS=2)
            except worker.Terminated as error:
                escaped.add(traceback.extract_tb(error.__traceback__)[-3].line)
                outcome = Outcome(143, "", "")
            finally:
                sys.settrace(old)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if trace.seen < nth:
                break
            ends.add(outcome.code)
            assert volume.temporary_files() == [], nth
            assert outcome.code == 143 or outcome.words.count("\n") == 1

    assert escaped == set()
    assert outcome.code == (75 if step.startswith("broken") else 0)
    assert ends <= {143, outcome.code}
    assert nth > 100
    assert before <= set(volume.tree())
