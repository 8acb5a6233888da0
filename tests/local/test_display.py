"""What a local run shows while its workers run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import run
from fanfold.storage import open_storage
from pipeline import WORKERS, Volume

LINE = b"2026-01-01T00:00:00Z [INFO] a line of fifty bytes\n"
assert len(LINE) == 50
# Reads everything, reports 40 of 100, and ends when a file exists.
WAITING = """sh -c 'cat >/dev/null; echo 40/100 >"$ARGO_PROGRESS_FILE"
for n in $(seq 600); do [ ! -e "$0" ] || exit 0; sleep 0.05; done; exit 9' """


@pytest.mark.parametrize("terminal", [False, True])
def test_bytes_and_rate(tmp_path: Path, terminal: bool) -> None:
    """While a map runs: the bytes that it has read, of all bytes, and the rate. Without a terminal
    as lines, on a terminal as a bar that fits 80 columns."""
    log, go = tmp_path / "app.log", tmp_path / "go"
    log.write_bytes(LINE * 20_000)
    # run.py with more frequent lines.
    program = "import run; run.LINE = run.LOOK = 0; run.main()"
    words = ["log-count", "--input", str(log), "--mode", "range", "--parts", "1"]
    words += ["--map", f"{WAITING}{go}", "--folder", str(tmp_path / "out")]
    ours, theirs = os.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "PYTHONPATH": str(WORKERS)},
    )  # fmt: skip
    os.close(theirs)
    pattern = r"map: " * (not terminal) + r"400\.0 kB of 1\.0 MB, [\d.]+ [kM]?B/s, 0 of 1 workers"
    output = ""
    try:
        while piece := os.read(ours, 1 << 16):
            output += piece.decode()
            if re.search(pattern, output):
                go.touch()
    except OSError:  # the error at the end of a terminal
        assert terminal
    os.close(ours)

    assert b"result.out\nreport: " in process.communicate(timeout=60)[0]
    assert re.search(pattern, output), output
    assert process.returncode == 0
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", output)
    assert max(map(len, re.split(r"[\r\n]", shown))) <= 80


def test_a_short_run_says_nothing(tmp_path: Path) -> None:
    """Without a terminal there is a line every ten seconds, so a short run prints none."""
    log = tmp_path / "app.log"
    log.write_bytes(LINE)
    done = subprocess.run(
        [sys.executable, WORKERS / "run.py", "log-count", "--input", log, "--folder", tmp_path],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("text", "done"),
    [("37/100\n", 370), ("1/3", 333), ("150/100", 1000), ("-5/100", 0), ("", 0), ("37", 0),
     ("0/0", 0), ("a/b", 0), ("é/100", 0), (None, 0)],
)  # fmt: skip
def test_what_a_worker_tells(tmp_path: Path, text: str | None, done: int) -> None:
    """A program may write anything to the file; the file may be missing."""
    worker = object.__new__(run.Worker)
    worker.size, worker.progress = 1000, str(tmp_path / "progress")
    if text is not None:
        (tmp_path / "progress").write_text(text, encoding="latin-1")
    assert worker.done() == done


@pytest.mark.parametrize("mode", ["copy", "range", "files"])
def test_sizes(volume: Volume, mode: str) -> None:
    """The bytes that each worker reads, in all modes: the same as in its records afterwards."""
    for number in range(9):
        volume.write(f"in/{number}", LINE * (1 + 3 * number))
    volume = volume.having(INPUT="in/", SPLIT_MODE=mode, NUM_PARTS=4, PARTS_PER_POD=3)
    groups = volume.split()
    _, storage = open_storage(volume.environ({}))
    sizes = run.sizes_of(storage, str(volume.plan()["id"]), groups)
    volume.count(groups)

    assert groups == ["0-2", "3"]
    parts = [volume.record(str(number))["bytes"] for number in range(4)]
    assert sizes == [sum(parts[:3]), parts[3]]
    assert sum(sizes) == sum(50 * (1 + 3 * number) for number in range(9))


def test_size_of_what_is_left(volume: Volume) -> None:
    """In mode files, results taken over from an earlier run do not count."""
    for number in range(4):
        volume.write(f"in/{number}", LINE)
    volume = volume.having(INPUT="in/", SPLIT_MODE="files", NUM_PARTS=2, PARTS_PER_POD=2)
    volume.count(volume.split())
    volume.merge()
    volume.write("in/1", LINE * 5)
    groups = volume.split(ONLY_MISSING="true")

    _, storage = open_storage(volume.environ({}))
    assert run.sizes_of(storage, str(volume.plan()["id"]), groups) == [250]
