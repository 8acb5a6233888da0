"""The local run, as somebody with a checkout uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The runner, with its outputs in `folder`."""
    return subprocess.Popen(
        [sys.executable, ROOT / "workers/run.py", *arguments, "--folder", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PLAN_ID": "of another run", "MAP_SETTINGS": "of another map"},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    output, words = process.communicate(timeout=120)
    return process.returncode, output, words


def result(folder: Path) -> dict[str, int]:
    """The one result.json in the folder."""
    (path,) = folder.glob("runs/*/result.json")
    found: dict[str, int] = json.loads(path.read_bytes())
    return found


def test_the_sample(tmp_path: Path) -> None:
    """Without an input it counts a sample, and a second time nothing is counted again."""
    code, output, words = finish(start(tmp_path, "log-count"))
    log = (tmp_path / "log-count-data.txt").read_bytes()
    again = finish(start(tmp_path, "log-count"))

    assert (code, "counted before" in words) == (0, False)
    assert log.count(b"\n") >= 10_000
    assert result(tmp_path) == {
        word: log.count(word.encode()) for word in ("INFO", "WARN", "ERROR", "DEBUG")
    }
    assert "result.json" in output
    assert (again[0], "5 of 5 parts were counted before" in again[2]) == (0, True)


def test_inputs_of_one_name(tmp_path: Path) -> None:
    """Two inputs of one name, counted at once, do not meet."""
    runs = []
    for word in ("INFO", "WARN"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "app.log").write_text(f"{word}\n" * 100_000)
        log = str(tmp_path / word / "app.log")
        runs.append(start(tmp_path / "out", "log-count", "--input", log, "--parts", "3"))

    outputs = [finish(run)[1] for run in runs]

    assert [output.split()[1:4:2] for output in outputs] == [["100,000", "0"], ["0", "100,000"]]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run on an input that is being counted is refused with a sentence."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(4 << 30)
    first = start(tmp_path, "log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    time.sleep(1)

    second = finish(start(tmp_path, "log-count", "--input", str(log)))
    first.terminate()

    assert second[0] == 1
    assert "another run is at work in" in second[2]
    assert finish(first)[0] != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM, sent to the runner alone, end the workers, too."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(16 << 30)
    run = start(tmp_path, "log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    time.sleep(1.5)
    run.send_signal(number)

    code, _, _ = finish(run)

    assert code != 0
    workers = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if str(tmp_path).encode()[1:] in path.read_bytes():
                workers.append(path.parent.name)
    assert workers == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_failing_worker(tmp_path: Path) -> None:
    """The worker's sentence and its exit code are those of the run."""
    code, output, words = finish(start(tmp_path, "log-count", "--keywords", "a,a"))

    assert (code, output) == (2, "")
    assert "KEYWORDS is 'a,a'" in words


@pytest.mark.parametrize(("files", "fan_in", "workers"), [(32, 2, 31), (20, 3, 11), (1, 8, 1)])
def test_aggregate(tmp_path: Path, files: int, fan_in: int, workers: int) -> None:
    """The letters in order, by as many workers as the tree has nodes."""
    code, output, _ = finish(
        start(tmp_path, "aggregate", "--files", str(files), "--fan-in", str(fan_in))
    )

    demo = tmp_path / f"aggregate-{files}/aggregation-demo"
    letters = "".join((demo / f"l1/{number}.txt").read_text() for number in range(files))
    assert (code, (demo / "result.txt").read_text()) == (0, letters)
    assert f"{workers} workers on" in output


def test_the_commands_of_the_readme() -> None:
    """Every make command in the README that runs here does, quotes and dollars included."""
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line.partition(" #")[0].strip() for line in lines if line.startswith("make ")]
    local = [line for line in commands if line.startswith(("make run", "make aggregate"))]
    odd = """make run 'INPUT=workers/run.py' 'KEYWORDS=it'"'"'s,$5,"' MODE=range"""

    assert len(local) >= 3
    for command in [*local, odd]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stderr)
