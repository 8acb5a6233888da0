"""Run the pipelines on this machine with the very workers that the images carry. Not in an image.

Everything it writes lies in one folder (local/), a folder a run in it; inputs are only read. The
workers see the whole file system as their WORK_DIR, so an input may lie anywhere.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import click

WORKERS = Path(__file__).parent
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


class Worker:
    """One worker as a process of its own; its stdout is data, its stderr is for the operator."""

    def __init__(self, settings: Mapping[str, str], script: str, *arguments: str) -> None:
        """Start it with these settings over our own environment."""
        self.process = subprocess.Popen(
            [sys.executable, WORKERS / script, *arguments],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def output(self) -> str:
        """Wait for its end and give its stdout; a failure ends the run with the worker's words."""
        output, words = self.process.communicate()
        if self.process.returncode:
            click.echo(words.rstrip(), err=True)
            raise SystemExit(self.process.returncode)
        return output


def run_all(label: str, workers: Iterable[tuple[Mapping[str, str], str, *tuple[str, ...]]]) -> None:
    """Run the workers, as many at once as there are cores; on any way out none is left running."""
    todo = list(workers)
    running: list[Worker] = []
    cores = len(os.sched_getaffinity(0))
    try:
        with click.progressbar(length=len(todo), label=label, file=sys.stderr) as bar:
            while todo or running:
                while todo and len(running) < cores:
                    running.append(Worker(*todo.pop(0)))
                time.sleep(0.002)
                for worker in [one for one in running if one.process.poll() is not None]:
                    running.remove(worker)
                    worker.output()
                    bar.update(1)
    finally:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.wait()


@click.group()
def main() -> None:
    """Run a pipeline on this machine, without a cluster."""


@main.command()
@click.option("--input", "source", default="", help="A file, or a folder and a /; else a sample.")
@click.option("--parts", default="5", show_default=True, help="How many parts.")
@click.option("--keywords", default="INFO,WARN,ERROR,DEBUG", show_default=True)
@click.option("--mode", default="copy", show_default=True, help="copy, or range: store no copies.")
@click.option("--folder", default="local", type=click.Path(path_type=Path), show_default=True)
def log_count(source: str, parts: str, keywords: str, mode: str, folder: Path) -> None:
    """Split, map and reduce a log. What an earlier run has counted is not counted again."""
    if not source:
        source = str(folder / "log-count-data.txt")
        if not Path(source).exists():
            folder.mkdir(parents=True, exist_ok=True)
            Path(source).with_suffix(".new").write_text("".join(sample()), encoding="utf-8")
            Path(source).with_suffix(".new").rename(source)
    run_dir = (folder / Path(source).stem).resolve()
    settings = {
        "WORK_DIR": "/",
        "INPUT": str(Path(source).resolve())[1:] + "/" * source.endswith("/"),
        "RUN_DIR": str(run_dir)[1:],
        "NUM_PARTS": parts,
        "KEYWORDS": keywords,
        "SPLIT_MODE": mode,
        "ONLY_MISSING": "true",
    }
    start = time.monotonic()
    missing = json.loads(Worker(settings, "split.py").output())
    if int(parts) > len(missing):
        click.echo(f"{int(parts) - len(missing)} of {parts} parts were counted before", err=True)
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
    run_dir = (folder / "aggregate").resolve()
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
        run_all(
            f"level {level + 1}",
            ((here, "process.py", str(number), str(level)) for number in range(files)),
        )
        level += 1
    Worker({**settings, "LEVEL": str(level)}, "merge.py", str(files)).output()
    result = (demo / "result.txt").read_text()
    click.echo(result if len(result) <= 80 else f"{result[:60]}... {len(result)} letters")
    click.echo(f"{workers} workers on {level} levels in {time.monotonic() - start:.2f} s")
    click.echo(f"result: {demo / 'result.txt'}")


if __name__ == "__main__":
    main()
