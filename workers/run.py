"""Run the pipelines on this machine with the very workers that the images carry. Not in an image.

Everything it writes lies in one folder (local/), a folder a run in it; inputs are only read. The
workers see the whole file system as their WORK_DIR, so an input may lie anywhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

WORKERS = Path(__file__).parent
KEPT = ("PATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL")  # of our environment
SAMPLE_LINES = 20_000
MESSAGES = (
    "request served in {n} ms",
    "connexion fermée après {n} essais",
    "cache miss, key user:{n}",
    "磁盘使用率 {n}%",
    "retrying after {n} s",
)


def sample() -> Iterator[str]:
    """The lines of the sample log: the same on every machine."""
    dice = random.Random("fanfold")  # noqa: S311 - a sample, not a secret
    levels = random.Random(32).choices(  # noqa: S311
        ("DEBUG", "INFO", "WARN", "ERROR"), weights=(3, 10, 2, 1), k=SAMPLE_LINES
    )
    for number, level in enumerate(levels):
        clock = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
        message = dice.choice(MESSAGES).format(n=dice.randrange(1000))
        yield f"2026-01-01T{clock}Z [{level}] {message}\n"


def write_sample(folder: Path) -> Path:
    """The sample log as a file."""
    path = folder / "log-count-data.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text("".join(sample()), encoding="utf-8")
        path.with_suffix(".new").rename(path)
    return path


class Worker:
    """One worker as a process of its own; its stdout is data, its stderr is for the operator."""

    running: list[Worker] = []  # noqa: RUF012 - of this process

    def __init__(self, settings: Mapping[str, str], script: str, *arguments: str) -> None:
        """Start it with these settings and none that happen to be in our environment."""
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, WORKERS / script, *arguments],
            env={**inherited, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(self)

    def output(self) -> str:
        """Wait for its end and give its stdout; a failure ends the run with the worker's words."""
        output, words = self.process.communicate()
        self.running.remove(self)
        if self.process.returncode:
            click.echo(words.rstrip(), err=True)
            raise SystemExit(self.process.returncode)
        return output


def run_all(label: str, workers: Iterable[tuple[Mapping[str, str], str, *tuple[str, ...]]]) -> None:
    """Run the workers, as many at once as there are cores."""
    todo = list(workers)
    cores = len(os.sched_getaffinity(0))
    with click.progressbar(length=len(todo), label=label, file=sys.stderr) as bar:
        while todo or Worker.running:
            while todo and len(Worker.running) < cores:
                Worker(*todo.pop(0))
            time.sleep(0.002)
            for worker in [one for one in Worker.running if one.process.poll() is not None]:
                worker.output()
                bar.update(1)


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """A folder for one run at a time, at whose end no worker is left, whatever ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.ClickException(f"another run is at work in {folder}: wait for it") from None
        try:
            yield folder.resolve()
        finally:
            for worker in Worker.running:
                worker.process.terminate()
            for worker in Worker.running:
                worker.process.wait()


def interrupt(*_: object) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


@click.group()
def main() -> None:
    """Run a pipeline on this machine, without a cluster."""
    signal.signal(signal.SIGTERM, interrupt)


@main.command()
@click.option("--input", "source", default="", help="A file, or a folder and a /; else a sample.")
@click.option("--parts", default="5", show_default=True, help="How many parts.")
@click.option("--keywords", default="INFO,WARN,ERROR,DEBUG", show_default=True)
@click.option("--mode", default="copy", show_default=True, help="copy, or range: store no copies.")
@click.option("--folder", default="local", type=click.Path(path_type=Path), show_default=True)
def log_count(source: str, parts: str, keywords: str, mode: str, folder: Path) -> None:
    """Split, map and reduce a log. What an earlier run has counted is not counted again."""
    path = Path(source) if source else write_sample(folder)
    name = f"{path.name}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
    with run_folder(folder / "runs" / name) as run_dir:
        plan_id = run_dir / ".plan-id"
        settings = {
            "WORK_DIR": "/",
            "INPUT": str(path.resolve())[1:] + "/" * source.endswith("/"),
            "RUN_DIR": str(run_dir)[1:],
            "NUM_PARTS": parts,
            "KEYWORDS": keywords,
            "SPLIT_MODE": mode,
            "ONLY_MISSING": "true",
            "PLAN_ID_FILE": str(plan_id),
        }
        start = time.monotonic()
        missing = json.loads(Worker(settings, "split.py").output())
        settings["PLAN_ID"] = plan_id.read_text()
        if int(parts) > len(missing):
            click.echo(
                f"{int(parts) - len(missing)} of {parts} parts were counted before", err=True
            )
        run_all("map", (({**settings, "PART_ID": part}, "count.py") for part in missing))
        Worker(settings, "merge.py").output()
        seconds = time.monotonic() - start
        totals = json.loads((run_dir / "result.json").read_bytes())
        size = json.loads((run_dir / "split-output/plan.json").read_bytes())["bytes"]
    width = max(map(len, totals))
    for word, total in totals.items():
        click.echo(f"{word:<{width}}  {total:>15,}")
    click.echo(f"{size / 1e6:,.1f} MB in {seconds:.2f} s, {size / 1e6 / seconds:,.0f} MB/s")
    click.echo(f"result: {run_dir / 'result.json'}")


@main.command()
@click.option("--files", default=32, show_default=True, type=click.IntRange(1))
@click.option("--fan-in", default=2, show_default=True, type=click.IntRange(2))
@click.option("--folder", default="local", type=click.Path(path_type=Path), show_default=True)
def aggregate(files: int, fan_in: int, folder: Path) -> None:
    """Join files level by level, a letter each, until one is left."""
    with run_folder(folder / f"aggregate-{files}") as run_dir:
        demo = run_dir / "aggregation-demo"
        (demo / "l1").mkdir(parents=True, exist_ok=True)
        letters = random.Random(files).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=files)  # noqa: S311
        for number, letter in enumerate(letters):
            (demo / f"l1/{number}.txt").write_text(letter)
        settings = {"WORK_DIR": "/", "RUN_DIR": str(run_dir)[1:], "FAN_IN": str(fan_in)}
        level, workers, start = 1, 1, time.monotonic()
        while files > fan_in:
            here = {**settings, "FILES": str(files)}
            files = -(-files // fan_in)
            workers += files
            groups = [(here, "process.py", str(number), str(level)) for number in range(files)]
            level += 1
            run_all(f"level {level}", groups)
        Worker({**settings, "LEVEL": str(level)}, "merge.py", str(files)).output()
    result = (demo / "result.txt").read_text()
    click.echo(result if len(result) <= 80 else f"{result[:60]}... {len(result)} letters")
    click.echo(f"{workers} workers on {level} levels in {time.monotonic() - start:.2f} s")
    click.echo(f"result: {demo / 'result.txt'}")


if __name__ == "__main__":
    main()
