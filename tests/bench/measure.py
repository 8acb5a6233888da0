"""Jobs, their figures, and their inputs."""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORKERS = ROOT / "workers"
CORES = len(os.sched_getaffinity(0))
KEYWORDS = ("INFO", "WARN", "ERROR", "DEBUG")
TIMEOUT = 900  # seconds, of one job
GIB, MIB = 1 << 30, 1 << 20

Figures = dict[str, float]  # what launch.py prints
Totals = dict[str, int]
Command = tuple[Sequence[str], Mapping[str, str]]  # arguments and environment


@dataclass(frozen=True)
class Job:
    """Stages of commands. `totals` returns the totals that the job found, from its stdout or from a
    file. The paths in `clean` are removed after each run."""

    label: str
    stages: Sequence[Sequence[Command]]
    totals: Callable[[str], Totals] | None = None
    clean: Sequence[Path] = field(default=())
    missing: str = ""  # why this machine cannot run it


def environ(folder: Path, **settings: object) -> dict[str, str]:
    """A small environment with these settings."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # without the user's dot files
        "TMPDIR": str(folder),
        "LC_ALL": "C",  # makes grep and sort fast
        "PYTHONDONTWRITEBYTECODE": "1",
        **{name: str(value) for name, value in settings.items()},
    }


def measure(job: Job, folder: Path) -> tuple[Figures, str]:
    """Run a job. Return its figures and its stdout."""
    words = {name: folder / f"{name}.txt" for name in ("stdout", "stderr")}
    for path in words.values():
        path.unlink(missing_ok=True)
    order = {
        "stages": job.stages,
        "width": CORES,
        **{name: str(path) for name, path in words.items()},
    }
    with subprocess.Popen(
        [sys.executable, HERE / "launch.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            answer, problem = launcher.communicate(json.dumps(order), timeout=TIMEOUT)
        except BaseException:
            launcher.terminate()
            raise
    output = words["stdout"].read_text() if words["stdout"].exists() else ""
    if launcher.returncode:
        complaint = words["stderr"].read_text()[-2000:] if words["stderr"].exists() else ""
        raise SystemExit(f"{job.label} failed: {problem}{complaint}")
    return dict(json.loads(answer)), output


Runs = dict[str, list[Figures]]


def in_turn(
    jobs: Sequence[Job], repeats: int, folder: Path, expected: Totals | None = None
) -> Runs:
    """Run each job `repeats` times, A B C A B C ...: a drift of the machine changes all jobs alike.
    A job with totals other than `expected` ends the benchmark."""
    runs: Runs = {
        f"{job.label} (left out: {job.missing})" if job.missing else job.label: [] for job in jobs
    }
    for number in range(repeats):
        for job in jobs:
            if job.missing:
                continue
            print(f"  {number + 1}/{repeats} {job.label}", file=sys.stderr, flush=True)
            figures, output = measure(job, folder)
            if job.totals and (found := job.totals(output)) != expected:
                raise SystemExit(f"{job.label} found {found}, and there are {expected}")
            runs[job.label].append(figures)
            for path in job.clean:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return runs


def middle(runs: Iterable[Figures], name: str) -> float:
    """The median of one figure."""
    return median(run[name] for run in runs)


def workers(folder: Path) -> Path:
    """The folder of the workers, with their bytecode as in the images."""
    copy = folder / "workers"
    if not copy.exists():
        shutil.copytree(WORKERS, copy, ignore=lambda *_: {"__pycache__", ".mypy_cache"})
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(copy, quiet=1, invalidation_mode=unchecked)
    return copy


def worker(folder: Path, name: str, *arguments: object, **settings: object) -> Command:
    """One worker with the volume `folder`, as an image starts it."""
    script = (sys.executable, str(workers(folder) / f"{name}.py"), *map(str, arguments))
    return script, environ(folder, WORK_DIR=folder, **settings)


def records(
    words: Sequence[str], every: int = 1, length: int = 100, lines: int = 1
) -> Iterator[bytes]:
    """Endless records of `length` bytes. Every `every`-th record has a word (0: none has). Every
    `lines`-th record ends with a line end (0: none does)."""
    dice = random.Random("fanfold")
    texts = (
        "GET /v1/orders/{n} 200 from Robin in {n} ms",
        "Opened connection {n} to 10.0.3.17, user={n}",
        "Cache miss, key user:{n}, Age {n} s",
        "Gave up after {n} s; Retry no. {n} of 12",
    )
    number = 0
    while True:
        number += 1
        word = dice.choice(words) if every and number % every == 0 else ""
        text = f"[{word}] 2026-01-01T00:{number % 60:02}Z {dice.choice(texts)}".format(
            n=dice.randrange(10**6)
        )
        end = "\n" if lines and number % lines == 0 else " "
        yield (text.ljust(length, ".")[: length - 1] + end).encode()


def write_log(path: Path, size: int, source: Iterator[bytes], words: Sequence[str]) -> Totals:
    """Write `size` bytes: a block of records, repeated. Return the totals."""
    block, length = [], 0
    while length < min(size, 4 * MIB):
        block.append(next(source))
        length += len(block[-1])
    whole = b"".join(block)
    rest = whole[: size % len(whole)]
    with path.open("wb") as file:
        file.writelines([whole] * (size // len(whole)))
        file.write(rest)
    return {
        word: whole.count(word.encode()) * (size // len(whole)) + rest.count(word.encode())
        for word in words
    }
