"""Run the pipelines on this machine with the workers of the images. Not in an image.

All output goes to one folder (local/), with a folder per input in it. Inputs are only read.
WORK_DIR of the workers is the whole file system, so an input may be anywhere. With a bucket as
WORK_DIR the runs are in the bucket, and the folder has only their locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NoReturn

import click
from fanfold import names
from fanfold.errors import WorkerError, explain
from fanfold.levels import Levels
from fanfold.part_ids import parse
from fanfold.plan import open_plan
from fanfold.publish import published, results_folder
from fanfold.settings import FILES, MAX_FILES, SUFFIX, output_dir, output_name, whole_number
from fanfold.settings import keywords as check_keywords
from fanfold.storage import Storage, check_apart, open_storage

WORKERS = Path(__file__).parent
# The names of the workers' settings in `make`.
IN_MAKE = {
    "NUM_PARTS": "PARTS",
    "SPLIT_MODE": "MODE",
    "MAP_COMMAND": "MAP",
    "PROCESS_COMMAND": "PROCESS",
    "REDUCE_COMMAND": "REDUCE",
    "ONLY_MISSING=true": "the same KEYWORDS or MAP_SETTINGS",
}
KEPT = ("PATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL")  # inherited environment variables
# With a bucket, also inherit names with these prefixes, and these names in any case.
OF_OSS = ("OSS_", "ALIBABA_CLOUD_")
OF_HTTP = (
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("requests_ca_bundle", "curl_ca_bundle", "ssl_cert_file"),
)
SHOWN = 64 << 10  # last bytes of a worker's stderr that are shown
LOOK, LINE = 0.5, 10  # seconds between two checks of the workers, and between two progress lines
KEPT_RESULTS = 5  # runs per folder with kept results
ENDING = signal.SIGINT, signal.SIGTERM
COUNTED = {"files": "files", "failed": "failed", "taken": "taken over from an earlier run"}
SAMPLE = "log-count-sample.txt"  # name in a bucket, which may have a log-count-data.txt
SAMPLE_LINES = 20_000
MESSAGES = (
    "request served in {n} ms",
    "connexion fermée après {n} essais",
    "cache miss, key user:{n}",
    "磁盘使用率 {n}%",
    "retrying after {n} s",
)


def sample() -> Iterator[str]:
    """Yield the lines of the sample log: the same on every machine."""
    dice = random.Random("fanfold")  # noqa: S311 - a sample, not a secret
    levels = random.Random(32).choices(  # noqa: S311
        ("DEBUG", "INFO", "WARN", "ERROR"), weights=(3, 10, 2, 1), k=SAMPLE_LINES
    )
    for number, level in enumerate(levels):
        clock = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
        message = dice.choice(MESSAGES).format(n=dice.randrange(1000))
        yield f"2026-01-01T{clock}Z [{level}] {message}\n"


def write_sample(folder: Path) -> Path:
    """Write the sample log to a file."""
    path = folder / "log-count-data.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text("".join(sample()), encoding="utf-8")
        path.with_suffix(".new").rename(path)
    return path


@contextmanager
def blocked_signals() -> Iterator[Callable[[], object]]:
    """Block the signals that end a run; the yielded function unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    unblock = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield unblock
    finally:
        unblock()


class Worker:
    """A worker process. Its stdout is data, its stderr is for the operator."""

    running: list[Worker] = []  # noqa: RUF012 - shared by all workers of this process

    def __init__(
        self, settings: Mapping[str, str], script: str, *arguments: str, size: int = 0
    ) -> None:
        """Start the worker with only these settings and the variables in KEPT. `size` is the number
        of bytes that it reads."""
        self.size, self.progress = size, settings.get("ARGO_PROGRESS_FILE", "")
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.words = TemporaryFile()  # noqa: SIM115 - a program may write more than a pipe holds
        # A signal between these lines would leave the worker running.
        with blocked_signals() as unblock:
            self.process = subprocess.Popen(
                [sys.executable, WORKERS / script, *arguments],
                env={**inherited, **settings},
                stdout=subprocess.PIPE,
                stderr=self.words,
                text=True,
                preexec_fn=unblock,  # noqa: PLW1509 - this process has one thread
            )
            self.running.append(self)

    def done(self) -> int:
        """Return how many bytes the worker has read, from its progress file."""
        with suppress(OSError, ValueError, ArithmeticError):  # a program may also write this file
            done, _, total = Path(self.progress).read_text().partition("/")
            return self.size * min(max(int(done), 0), int(total)) // int(total)
        return 0

    def output(self) -> str:
        """Wait for the end and return stdout. After a failure, print the worker's stderr and end
        the run. The stderr of a program is always printed."""
        output, _ = self.process.communicate()
        self.running.remove(self)
        with self.words as file:
            file.seek(max(0, file.tell() - SHOWN))
            lines = file.read().decode("utf-8", "replace").splitlines()
        code = self.process.returncode
        for line in lines:
            if not line.startswith("worker="):
                click.echo(line, err=True)
            elif code or " event=file_failed " in line:
                click.echo(in_make(line), err=True)
        if code:
            raise SystemExit(code)
        return output


def in_make(message: str) -> str:
    """Replace the names of the workers' settings in a message by their names in `make`."""
    return re.sub(rf"\b({'|'.join(IN_MAKE)})\b", lambda name: IN_MAKE[name[0]], message)


def amount(size: float) -> str:
    """Format a number of bytes for people."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and units[1:]:
        size /= 1000
        units.pop(0)
    return f"{size:,.1f} {units[0]}"


@contextmanager
def display(label: str, count: int, size: int) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of `count` workers that read `size` bytes (0 if unknown) on stderr: a bar
    on a terminal, otherwise a line every 10 seconds. The yielded function takes the number of
    finished workers and the bytes read."""
    start = shown_at = time.monotonic()

    def words(ended: int, read: int) -> str:
        rate = read / max(time.monotonic() - start, 0.001)
        known = f"{amount(read)} of {amount(size)}, {amount(rate)}/s, " if size else ""
        return f"{known}{ended} of {count} workers"

    def report(ended: int, read: int) -> None:
        nonlocal shown_at
        if (now := time.monotonic()) >= shown_at + LINE:
            shown_at = now
            click.echo(f"{label}: {words(ended, read)}", err=True)

    if not sys.stderr.isatty():
        yield report
        return
    with click.progressbar(
        length=size or count, label=label, item_show_func=str, file=sys.stderr,
        width=20, show_eta=False,  # 80 columns in total
    ) as bar:  # fmt: skip
        yield lambda ended, read: bar.update(
            max(0, (read if size else ended) - bar.pos), words(ended, read)
        )


def run_all(
    label: str,
    workers: Iterable[tuple[Mapping[str, str], str, *tuple[str, ...]]],
    sizes: Sequence[int] = (),
) -> None:
    """Run the workers, one per core in parallel. `sizes` are the bytes that each map reads."""
    todo = [*enumerate(workers)]
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    count, ended, read, look = len(todo), 0, 0, 0.0
    with (
        display(label, count, sum(sizes)) as show,
        TemporaryDirectory(prefix="fanfold-", ignore_cleanup_errors=True) as folder,
    ):
        while todo or Worker.running:
            while todo and len(Worker.running) < cores:
                number, (settings, *words) = todo.pop(0)
                more = {"ARGO_PROGRESS_FILE": f"{folder}/{number}"}
                Worker({**settings, **more}, *words, size=sizes[number] if sizes else 0)
            time.sleep(0.002)
            for worker in [one for one in Worker.running if one.process.poll() is not None]:
                worker.output()
                ended, read, look = ended + 1, read + worker.size, 0.0
            if (now := time.monotonic()) >= look:
                show(ended, read + sum(worker.done() for worker in Worker.running))
                look = now + LOOK


def sizes_of(run: Storage, plan_id: str, groups: Iterable[str]) -> list[int]:
    """Return how many bytes each of these groups of parts reads."""
    plan = open_plan(run, plan_id)
    ends = [*plan.cuts()]
    if plan.mode == FILES:  # cuts count files
        sums = [0, *accumulate(0 if file.taken else file.size for file in plan.inputs())]
        ends = [sums[end] for end in ends]
    return [
        sum(ends[number + 1] - ends[number] for ids in parse(group) for number in ids)
        for group in groups
    ]


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Lock a folder for one run. At the end, no worker is left running."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.ClickException(
                f"{folder} is in use by another run: wait until that run ends"
            ) from None
        try:
            yield folder.resolve()
        finally:
            for worker in Worker.running:
                worker.process.terminate()
            for worker in Worker.running:
                worker.process.wait()


def interrupt(*_: object) -> NoReturn:
    """End a run at SIGTERM as at Ctrl-C."""
    raise KeyboardInterrupt


@click.group()
def main() -> None:
    """Run a pipeline on this machine, without a cluster."""
    signal.signal(signal.SIGTERM, interrupt)


work_dir_option = click.option(
    "--work-dir", default="", help="oss://BUCKET/PREFIX; default: the files of this machine."
)
folder_option = click.option(
    "--folder",
    default="local",
    type=click.Path(path_type=Path),
    show_default=True,
    help="Folder for all output; with a bucket only for locks.",
)


def takes(*settings: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options for worker settings: --map for MAP_COMMAND, --map-exit-ok for MAP_EXIT_OK."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for name in reversed(settings):
            option = "--" + name.removesuffix("_COMMAND").lower().replace("_", "-")
            function = click.option(option, name, default="", help=f"Sets {name}.")(function)
        return function

    return add


def is_for_bucket(name: str) -> bool:
    """Whether a variable of the environment is for work in a bucket."""
    return name.startswith(OF_OSS) or name.lower() in OF_HTTP


@contextmanager
def run_place(
    folder: Path, name: str, work_dir: str, root: str = "/"
) -> Iterator[tuple[dict[str, str], Storage, Storage]]:
    """Return the settings of a run's workers, the storage of the input, and the storage of the run.
    Without a bucket, names are relative to the folder `root`."""
    with run_folder(folder / name) as run_dir:
        now = time.time_ns()
        settings = {
            "WORK_DIR": work_dir or root,
            "RUN_DIR": name if work_dir else os.path.relpath(run_dir, root),
            "RUN_ID": f"local-{now}-{names.nonce()}",
            "RUN_STARTED": str(now // 10**9),
            "CLEAN": "true",
            "PLAN_ID_FILE": str(run_dir / ".plan-id"),
            **{key: value for key, value in os.environ.items() if work_dir and is_for_bucket(key)},
        }
        try:
            yield settings, *open_storage(settings)
        except (WorkerError, OSError) as error:
            code, sentence = explain(error)
            click.echo(in_make(sentence), err=True)
            raise SystemExit(code) from None


def results_of(settings: Mapping[str, str], run: Storage, result: str) -> str:
    """Return the folder of a run's results. Print a notice if a later run has the final name."""
    own = results_folder(settings["RUN_ID"], int(settings["RUN_STARTED"]))
    for holder in islice(published(run, result, since=own), 1):
        click.echo(
            f"{result} is of a run with a later start: its results are in {run.path(holder)}",
            err=True,
        )
    return own


def forget(run_dir: Path, kept: Container[str] = ()) -> None:
    """Remove what earlier local runs have left: all except the newest results, and the plans and
    jobs in `kept`. The folder is locked, so no other run needs them. Other names belong to the
    user. Outputs of files are kept, because any outputs.jsonl may name them."""
    old = sorted(run_dir.glob("results/????????T??????Z-local-*"))[:-KEPT_RESULTS]
    places = "", "results/*/"
    has_files = any(one for each in places for one in run_dir.glob(each + names.FILE_LINES))
    for folder in names.OUTPUTS[: 2 if has_files else 3]:  # the third folder has the outputs
        ids = (one for one in run_dir.glob(f"{folder}*/") if re.fullmatch("[0-9a-f]{32}", one.name))
        old += [one for one in ids if one.name not in kept]
    for each in (*old, *run_dir.glob("aggregation-demo/l*/local-*/")):
        shutil.rmtree(each, ignore_errors=True)


@main.command()
@click.option(
    "--input", "source", default="",
    help="A file, or a folder with a / at its end; in mode files also a pattern or @LIST. "
    "Default: a sample.",
)  # fmt: skip
@click.option("--parts", default="5", show_default=True, help="Number of parts.")
@click.option("--parts-per-pod", default="1", show_default=True, help="Parts per worker.")
@click.option(
    "--keywords",
    default="INFO,WARN,ERROR,DEBUG",
    show_default=True,
    help="Words to count, separated by commas.",
)
@click.option(
    "--mode",
    default="copy",
    show_default=True,
    help="copy; range: without copies; files: map each file.",
)
@takes("MAP_COMMAND", "MAP_EXIT_OK", "MAP_SETTINGS", "REDUCE_COMMAND", "REDUCE_EXIT_OK")
@takes("OUTPUT_DIR", "OUTPUT_SUFFIX", "FILES_AT_ONCE", "TOLERATED_FAILURES")
@work_dir_option
@folder_option
def log_count(
    *,
    source: str,
    parts: str,
    parts_per_pod: str,
    keywords: str,
    mode: str,
    work_dir: str,
    folder: Path,
    **given: str,
) -> None:
    """Split, map and reduce a log. Counts of earlier runs are reused. A program runs again; with
    MAP_SETTINGS only on parts or files without a valid output."""
    where = source or (SAMPLE if work_dir else str(write_sample(folder)))
    root = "/"
    if not work_dir:
        at = "@" * (mode == FILES and where.startswith("@"))
        path = where.removeprefix(at)
        if mode == FILES:
            root = root_of(Path(path), folder)
        where = at + on_this_machine(path, root)
        if mode == FILES and not at and where.startswith("@"):
            where = f"[@]{where[1:]}"  # not a list
    name = f"runs/{named_after(where, work_dir)}"
    with run_place(folder, name, work_dir, root) as (settings, work, run):
        if given["REDUCE_COMMAND"] and not given["MAP_COMMAND"]:
            raise WorkerError(
                "REDUCE must be set with MAP, got only REDUCE: set MAP too, because a count of "
                "keywords makes no output for REDUCE"
            )
        if work_dir and not source:
            work.put(SAMPLE, ["".join(sample()).encode()])
        is_unknown = given["MAP_COMMAND"] and not given["MAP_SETTINGS"]
        settings |= {
            "INPUT": where,
            "NUM_PARTS": parts,
            "PARTS_PER_POD": parts_per_pod,
            "KEYWORDS": keywords,
            "SPLIT_MODE": mode,
            "ONLY_MISSING": "false" if is_unknown else "true",
            **{setting: text for setting, text in given.items() if text},
        }
        check_keywords(settings)  # with too many bytes, no worker could start
        start = time.monotonic()
        missing = json.loads(Worker(settings, "split.py").output())
        settings["PLAN_ID"] = Path(settings["PLAN_ID_FILE"]).read_text()
        if before := int(parts) - sum(len(one) for ids in missing for one in parse(ids)):
            click.echo(f"{before} of {parts} parts were mapped by earlier runs", err=True)
        script = "map.py" if given["MAP_COMMAND"] else "count.py"
        sizes = sizes_of(run, settings["PLAN_ID"], missing)
        run_all("map", (({**settings, "PART_ID": part}, script) for part in missing), sizes)
        try:
            Worker(settings, "merge.py").output()
        except SystemExit:
            if is_unknown and mode == FILES:
                click.echo(
                    "Without MAP_SETTINGS the next run maps all files again: set MAP_SETTINGS to "
                    "any text that names the version of the program, and later runs with the same "
                    "text map only the files that failed",
                    err=True,
                )
            raise
        seconds = time.monotonic() - start
        results = results_of(settings, run, names.RESULT)
        totals = json.loads(b"".join(run.stream(results + names.RESULT)))
        summary = json.loads(b"".join(run.stream(results + "summary.json")))
        size = summary["input_bytes"]
        is_reduced = mode != FILES or given["REDUCE_COMMAND"]
        last = output_name(settings) if is_reduced else names.FILE_LINES
        result = run.path(names.RESULT if totals else last)
        if not work_dir:
            forget(folder / name, (summary["plan"], summary["job"]))
    width = max(map(len, totals), default=0)
    for word, total in totals.items():
        click.echo(f"{word:<{width}}  {total:>15,}")
    if mode == FILES:
        counted = (f"{summary[each]} {how}" for each, how in COUNTED.items())
        click.echo(f"{', '.join(counted)}")
    click.echo(f"{size / 1e6:,.1f} MB in {seconds:.2f} s, {size / 1e6 / seconds:,.0f} MB/s")
    click.echo(f"result: {result}")
    if mode == FILES and given["MAP_COMMAND"]:
        click.echo(f"outputs: {run.path(output_dir(settings))}{summary['job']}")
    click.echo(f"report: {run.path(results + names.REPORT)}")


@main.command()
@click.option("--input", "source", default="", help="A folder: its files, in the order of ls -v.")
@click.option(
    "--files",
    default="",
    help="Number of files in INPUT. Without INPUT: number of sample files, by default 32.",
)
@click.option("--fan-in", default="2", show_default=True, help="Number of files per group.")
@takes("PROCESS_COMMAND", "PROCESS_EXIT_OK", "REDUCE_COMMAND", "REDUCE_EXIT_OK")
@work_dir_option
@folder_option
def aggregate(
    *, source: str, files: str, fan_in: str, work_dir: str, folder: Path, **given: str
) -> None:
    """Make one file of many, level by level: join the files, or run programs."""
    where = (source if work_dir else on_this_machine(source)).rstrip("/") + "/"
    try:
        count = whole_number("FILES", files or "32", 1, MAX_FILES)
        group = whole_number("FAN_IN", fan_in, 2, MAX_FILES)
    except WorkerError as error:
        raise click.UsageError(str(error)) from None
    name = f"aggregate/{named_after(where, work_dir)}" if source else f"aggregate-{count}"
    with run_place(folder, name, work_dir) as (settings, work, run):
        settings |= {"FAN_IN": fan_in, **{key: text for key, text in given.items() if text}}
        if source:
            check_apart(work, run, where, names.LEVEL_RESULT)
            count, settings["FILE_SUFFIX"] = copy_level_1(work, where, run, files)
        else:
            letters = random.Random(count).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=count)  # noqa: S311
            for number, letter in enumerate(letters):
                run.put(names.LEVEL_FILE.format(1, number), [letter.encode()])
        level, workers, start = 1, 1, time.monotonic()
        while count > group or (level == 1 and given["PROCESS_COMMAND"]):
            here = {**settings, "FILES": str(count)}
            count = -(-count // group)
            workers += count
            groups = [(here, "process.py", str(number), str(level)) for number in range(count)]
            level += 1
            run_all(f"level {level}", groups)
        Worker({**settings, "LEVEL": str(level)}, "merge.py", str(count)).output()
        joined = os.path.basename(names.LEVEL_RESULT)
        results = results_of(settings, run, joined)
        with run.open(results + joined) as file:
            size, begin = file.size, file.read(0, 60).decode("utf-8", "replace")
        result = run.path(names.LEVEL_RESULT)
        if not work_dir:
            forget(folder / name)
    if not source:
        click.echo(begin if size <= 60 else f"{begin}... {size} letters")
    click.echo(f"{workers} workers on {level} levels in {time.monotonic() - start:.2f} s")
    click.echo(f"result: {result}")
    click.echo(f"report: {run.path(results + names.LEVEL_PAGE)}")


def root_of(*paths: Path) -> str:
    """Return the root of names in lists and outputs.jsonl: this folder if it has these paths, or
    /."""
    here = Path.cwd()
    return str(here) if all(path.resolve().is_relative_to(here) for path in paths) else "/"


def on_this_machine(source: str, root: str = "/") -> str:
    """Return a file or a folder as a name in `root`, which is WORK_DIR."""
    return os.path.relpath(Path(source).resolve(), root) + "/" * source.endswith("/")


def named_after(where: str, work_dir: str) -> str:
    """Return the name of the folder for runs with this input."""
    known_by = hashlib.sha256(os.fsencode(work_dir + where)).hexdigest()[:8]
    return f"{names.cut(where.rstrip('/').rpartition('/')[2])}-{known_by}"


def copy_level_1(work: Storage, where: str, run: Storage, files: str) -> tuple[int, str]:
    """Copy the files of a folder to level 1; return their number and their common suffix."""

    def as_numbers(name: str) -> list[tuple[str, int]]:
        return [(text, int(digits or 0)) for text, digits in re.findall("([^0-9]*)([0-9]*)", name)]

    try:
        found = sorted(work.names(where), key=as_numbers)
    except NotADirectoryError:
        raise WorkerError(
            f"INPUT must be a folder, got the file {work.path(where.rstrip('/'))!r}: name the "
            "folder of the file"
        ) from None
    if not found:
        raise WorkerError(
            f"INPUT must be a folder with files, got {work.path(where)!r}: correct INPUT"
        )
    if files not in ("", str(len(found))):
        raise WorkerError(
            f"FILES must be {len(found)}, the number of files in {work.path(where)!r}, got "
            f"{files!r}: correct FILES, or leave it unset"
        )
    suffix = os.path.splitext(found[0])[1]
    if not re.fullmatch("[.][A-Za-z0-9_-]{1,32}", suffix) or not all(
        name.endswith(suffix) for name in found
    ):
        suffix = SUFFIX
    levels = Levels(run, {"FILE_SUFFIX": suffix})
    for left in levels.names_of_level_1():
        run.remove(left)
    for number, name in enumerate(found):
        with work.open(name) as file:
            run.copy(levels.file(number), work, [(name, file.version, 0, file.size)])
    return len(found), suffix


if __name__ == "__main__":
    main()
