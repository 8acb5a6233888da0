"""Run the pipelines on this machine with the very workers that the images carry. Not in an image.

Everything it writes lies in one folder (local/), a folder a run in it; inputs are only read. The
workers see the whole file system as their WORK_DIR, so an input may lie anywhere. With a bucket as
their WORK_DIR the runs lie there, and the folder has only their locks.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
import contract
from contract import WorkerError
from store import Store, open_stores

WORKERS = Path(__file__).parent
KEPT = ("PATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL")  # of our environment
OF_OSS = ("OSS_", "ALIBABA_CLOUD_")  # the names of more, where the work is in a bucket
ENDING = signal.SIGINT, signal.SIGTERM
SAMPLE = "log-count-sample.txt"  # of a bucket, which may have a log-count-data.txt of its own
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


@contextmanager
def held_back() -> Iterator[Callable[[], object]]:
    """Keep the signals that end a run waiting; what it gives heeds them again."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    heeded = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield heeded
    finally:
        heeded()


class Worker:
    """One worker as a process of its own; its stdout is data, its stderr is for the operator."""

    running: list[Worker] = []  # noqa: RUF012 - of this process

    def __init__(self, settings: Mapping[str, str], script: str, *arguments: str) -> None:
        """Start it with these settings and none that happen to be in our environment."""
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        # Ended in here, a run would not know of the worker that it has to end.
        with held_back() as heeded:
            self.process = subprocess.Popen(
                [sys.executable, WORKERS / script, *arguments],
                env={**inherited, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=heeded,  # noqa: PLW1509 - this process has one thread
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


work_dir_option = click.option(
    "--work-dir", default="", help="oss://BUCKET/PREFIX; else what there is on this machine."
)


@contextmanager
def run_place(
    folder: Path, name: str, work_dir: str
) -> Iterator[tuple[dict[str, str], Store, Store]]:
    """What the workers of a run need to know, where its input lies, and what the run writes."""
    with run_folder(folder / name) as run_dir:
        settings = {
            "WORK_DIR": work_dir or "/",
            "RUN_DIR": name if work_dir else str(run_dir)[1:],
            "PLAN_ID_FILE": str(run_dir / ".plan-id"),
            **{key: os.environ[key] for key in os.environ if work_dir and key.startswith(OF_OSS)},
        }
        try:
            yield settings, *open_stores(settings)
        except WorkerError as error:
            click.echo(error, err=True)
            raise SystemExit(error.exit_code) from None


@main.command()
@click.option("--input", "source", default="", help="A file, or a folder and a /; else a sample.")
@click.option("--parts", default="5", show_default=True, help="How many parts.")
@click.option("--keywords", default="INFO,WARN,ERROR,DEBUG", show_default=True)
@click.option("--mode", default="copy", show_default=True, help="copy, or range: store no copies.")
@work_dir_option
@click.option("--folder", default="local", type=click.Path(path_type=Path), show_default=True)
def log_count(
    *, source: str, parts: str, keywords: str, mode: str, work_dir: str, folder: Path
) -> None:
    """Split, map and reduce a log. What an earlier run has counted is not counted again."""
    if work_dir:
        where = source or SAMPLE
    else:
        path = Path(source) if source else write_sample(folder)
        where = str(path.resolve())[1:] + "/" * source.endswith("/")
    known_by = hashlib.sha256(os.fsencode(work_dir + where)).hexdigest()[:8]
    name = f"runs/{where.rstrip('/').rpartition('/')[2]}-{known_by}"
    with run_place(folder, name, work_dir) as (settings, work, run):
        if work_dir and not source:
            work.put(SAMPLE, ["".join(sample()).encode()])
        settings |= {
            "INPUT": where,
            "NUM_PARTS": parts,
            "KEYWORDS": keywords,
            "SPLIT_MODE": mode,
            "ONLY_MISSING": "true",
        }
        start = time.monotonic()
        missing = json.loads(Worker(settings, "split.py").output())
        settings["PLAN_ID"] = Path(settings["PLAN_ID_FILE"]).read_text()
        if int(parts) > len(missing):
            click.echo(
                f"{int(parts) - len(missing)} of {parts} parts were counted before", err=True
            )
        run_all("map", (({**settings, "PART_ID": part}, "count.py") for part in missing))
        Worker(settings, "merge.py").output()
        seconds = time.monotonic() - start
        totals = json.loads(b"".join(run.stream(contract.RESULT)))
        size = json.loads(b"".join(run.stream(contract.PLAN)))["bytes"]
        result = run.path(contract.RESULT)
    width = max(map(len, totals))
    for word, total in totals.items():
        click.echo(f"{word:<{width}}  {total:>15,}")
    click.echo(f"{size / 1e6:,.1f} MB in {seconds:.2f} s, {size / 1e6 / seconds:,.0f} MB/s")
    click.echo(f"result: {result}")


@main.command()
@click.option("--files", default=32, show_default=True, type=click.IntRange(1))
@click.option("--fan-in", default=2, show_default=True, type=click.IntRange(2))
@work_dir_option
@click.option("--folder", default="local", type=click.Path(path_type=Path), show_default=True)
def aggregate(files: int, fan_in: int, work_dir: str, folder: Path) -> None:
    """Join files level by level, a letter each, until one is left."""
    with run_place(folder, f"aggregate-{files}", work_dir) as (settings, _, run):
        letters = random.Random(files).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=files)  # noqa: S311
        for number, letter in enumerate(letters):
            run.put(contract.LEVEL.format(1, number), [letter.encode()])
        settings["FAN_IN"] = str(fan_in)
        level, workers, start = 1, 1, time.monotonic()
        while files > fan_in:
            here = {**settings, "FILES": str(files)}
            files = -(-files // fan_in)
            workers += files
            groups = [(here, "process.py", str(number), str(level)) for number in range(files)]
            level += 1
            run_all(f"level {level}", groups)
        Worker({**settings, "LEVEL": str(level)}, "merge.py", str(files)).output()
        result = b"".join(run.stream(contract.LEVEL_RESULT)).decode()
        where = run.path(contract.LEVEL_RESULT)
    click.echo(result if len(result) <= 80 else f"{result[:60]}... {len(result)} letters")
    click.echo(f"{workers} workers on {level} levels in {time.monotonic() - start:.2f} s")
    click.echo(f"result: {where}")


if __name__ == "__main__":
    main()
