"""The local run on systems with fewer features than Linux, simulated with a modified Python."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import click
import pytest
from fanfold.storage.folder import File
from pipeline import KEYWORDS, model
from run import sample

RUNNER = str(Path(__file__).resolve().parents[2] / "workers/run.py")
# Functions of Python's os on Linux that macOS lacks, and SEEK_DATA, which has another meaning
# there.
NOT_ON_MACOS = (
    *("copy_file_range", "sched_getaffinity", "sched_setaffinity", "posix_fadvise", "fdatasync"),
    *("posix_fallocate", "pipe2", "splice", "memfd_create", "getrandom", "eventfd", "pidfd_open"),
    *("getxattr", "setxattr", "listxattr", "removexattr", "O_DIRECT", "O_TMPFILE", "O_PATH"),
    *("SEEK_DATA", "SEEK_HOLE"),
)
WITHOUT = f"""
for name in {NOT_ON_MACOS}:
    if hasattr(os, name):
        delattr(os, name)
sys.platform = "darwin"
"""
REFUSED = """
def refuse(*_):
    note("copy_file_range")
    raise OSError(errno.{}, os.strerror(errno.{}))
os.copy_file_range = refuse
"""
SHIM = """
import errno, os, sys
def note(line):
    with open(__file__ + ".log", "a") as file:
        print(line, file=file)
note(sys.orig_argv)
"""


def other_python(folder: Path, change: str) -> tuple[str, Path]:
    """A Python with this change, also in every worker of the runner; and its log."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shim.py").write_text(SHIM + change)
    (packages / "shim.pth").write_text(f"{Path(click.__file__).parents[1]}\nimport shim\n")
    return str(folder / "bin/python"), packages / "shim.py.log"


def run(python: str, folder: Path, *arguments: str) -> str:
    """Return the runner's output."""
    done = subprocess.run(
        [python, RUNNER, *arguments, "--folder", folder],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def both_pipelines(python: str, folder: Path) -> None:
    """Run both pipelines, log-count in both modes, and check the totals."""
    totals = model(["".join(sample()).encode()], KEYWORDS)
    for mode in ("copy", "range"):
        run(python, folder / mode, "log-count", "--mode", mode)
        (found,) = (folder / mode).glob("runs/*/result.json")
        assert json.loads(found.read_bytes()) == totals
    run(python, folder, "aggregate", "--files", "20", "--fan-in", "3")
    demo = folder / "aggregate-20/aggregation-demo"
    letters = "".join((demo / f"l1/{number}.txt").read_text() for number in range(20))
    assert (demo / "result.txt").read_text() == letters


def test_without_what_macos_lacks(tmp_path: Path) -> None:
    """Without copy_file_range, sched_getaffinity and other calls of Linux."""
    python, log = other_python(tmp_path / "python", WITHOUT)

    both_pipelines(python, tmp_path / "out")

    started = log.read_text()
    assert all(f"{name}.py" in started for name in ("run", "split", "count", "merge", "process"))


@pytest.mark.parametrize("error", ["ENOSYS", "EXDEV", "EOPNOTSUPP", "EINVAL"])
def test_copy_file_range_refused(tmp_path: Path, error: str) -> None:
    """Old kernels do not have it, and some pairs of file systems do not support it."""
    python, log = other_python(tmp_path / "python", REFUSED.format(error, error))

    both_pipelines(python, tmp_path / "out")

    assert log.read_text().count("\ncopy_file_range") >= 5 + 20


def test_holes_are_read_but_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within stored bytes, macOS returns the start of the next stored range for SEEK_DATA: a split
    would skip the line ends before it."""
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.truncate(1 << 20)
        out.seek(1 << 20)
        out.write(b"INFO\n")
    file = File(str(path), "sparse")
    on_linux = file.data(1)
    monkeypatch.setattr(sys, "platform", "darwin")

    assert file.data(1) == 1
    assert on_linux in (1, 1 << 20)  # the file system may not support holes
