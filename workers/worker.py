"""The edge of a worker (exit codes, log lines, SIGTERM), and what all maps share.

A map of one's own is a function that takes the bytes of a part in pieces and returns numbers by
name; `map_part` is its main.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import contract
from contract import Counts, Part, Plan, RetryError, WorkerError, changed
from store import File, Store, each, open_stores

Map = Callable[[Iterator[bytes]], Mapping[str, "int | float"]]

GRACE = 20  # seconds that it may take to end at SIGTERM: a pod has 30

REMEDIES = {
    errno.ENOENT: "put it there, or run the step that writes it; if it is there, a mount may still "
    "hide it on this node and a retry elsewhere can help",
    errno.EACCES: "give the worker's user the right to it",
    errno.EPERM: "give the worker's user the right to it",
    errno.EROFS: "mount the volume for writing",
    errno.EEXIST: "move away the file that stands where a folder must be",
    errno.ENOTDIR: "move away the file that stands where a folder must be",
    errno.EISDIR: "move away the folder that stands where a file must be",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class Terminated(BaseException):
    """SIGTERM came."""


def log(worker: str, event: str, **fields: object) -> None:
    """One line on stderr: key=value, the value in JSON's quotes where it is more than a word."""
    words = []
    for key, value in {"worker": worker, "event": event, **fields}.items():
        text = str(value)
        plain = text.isprintable() and not set(text) & set(' "=')
        words.append(f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}")
    print(*words, file=sys.stderr, flush=True)


def run_worker(worker: str, work: Callable[[], None], environ: Mapping[str, str]) -> int:
    """Do the work and return the exit code: 0, 2 for what the operator must fix, 75 for what a
    retry can mend, 143 for SIGTERM, which removes a file half written. A bug keeps its
    traceback."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signal.SIGTERM))
        signal.alarm(GRACE)  # storage may hang when asked to take away what is half written
        Store.terminated = True
        raise Terminated

    Store.terminated = False
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, terminate)
        code = attempt(worker, work, environ)
        signal.signal(signal.SIGTERM, before)
    except (Terminated, KeyboardInterrupt) as error:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, before)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    return code


def attempt(worker: str, work: Callable[[], None], environ: Mapping[str, str]) -> int:
    """Do the work and return the exit code; the sentence of an error goes to stderr and to
    ERROR_FILE, where Argo finds it."""
    try:
        work()
        sys.stdout.flush()
        return 0
    except WorkerError as error:
        code, sentence = error.exit_code, str(error)
    except OSError as error:
        final = error.errno in REMEDIES and error.errno != errno.ENOENT
        code = WorkerError.exit_code if final else RetryError.exit_code
        remedy = REMEDIES.get(error.errno or 0, "a retry can help")
        name = error.filename2 or error.filename or "the storage"
        sentence = f"{name}: {error.strerror or error}: {remedy}"
    log(worker, "failed", exit=code, error=sentence)
    if path := environ.get("ERROR_FILE"):
        with suppress(OSError), open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(sentence)
    return code


def map_part(function: Map, environ: Mapping[str, str] = os.environ) -> int:
    """The main of a map of one's own. MAP_SETTINGS, any text, says what it counts: split and
    merge must have the same, for results made under another do not count."""

    def work() -> None:
        if not environ.get("MAP_SETTINGS"):
            raise WorkerError("MAP_SETTINGS is not set: say in it what the map counts")
        one_part("map", function, contract.map_settings(environ), environ)

    return run_worker("map", work, environ)


def one_part(
    worker: str, function: Map, settings: Mapping[str, object], environ: Mapping[str, str]
) -> None:
    """Give the part PART_ID to `function` in pieces and publish the numbers that it returns.

    Where an input ends without a line end and the part goes on in the next, `function` sees a
    line end between them that is not among the part's bytes: a line never spans two files.
    """
    most = contract.MAX_PARTS - 1
    number = contract.whole_number("PART_ID", environ.get("PART_ID", ""), 0, most)
    inputs, run = open_stores(environ)
    start = time.time()
    plan = open_plan(run, environ.get("PLAN_ID", ""))
    part = plan.part(number)
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        piece = b"\n"
        for file, offset, length in sources(plan.mode, part, inputs, run):
            if not piece.endswith(b"\n"):
                yield b"\n"
            for piece in file.pieces(offset, length):
                read += len(piece)
                yield piece

    counts = dict(function(pieces()))
    part_id, size = part[:2]
    if not contract.are_counts(counts):
        raise TypeError(f"the map must return finite numbers by name, not {counts!r:.200}")
    if read != size:
        raise RuntimeError(f"the map took {read} of the {size} bytes of part {part_id}")
    end = time.time()
    made = contract.result(plan.id, part, settings, counts=counts, start=utc(start), end=utc(end))
    run.put(contract.COUNT.format(part_id), [made])
    log(worker, "done", part=part_id, bytes=size, seconds=round(end - start, 3), plan=plan.id)


def sources(mode: str, part: Part, inputs: Store, run: Store) -> Iterator[tuple[File, int, int]]:
    """Where the bytes of each segment of a part lie: in the input, or in the part's copy."""
    part_id, size, mark, segments = part
    if mode == "range":
        for name, version, offset, length in segments:
            with inputs.open(name, version) as file:
                yield file, offset, length
    elif segments:
        with run.open(contract.COPY.format(part_id)) as file:
            first, last = contract.edge_lengths(part)
            if file.size != size:
                raise changed(file.name, f"{size} bytes", f"{file.size} bytes")
            if mark != contract.edges(file.pieces(0, first), file.pieces(size - last, last)):
                raise changed(file.name, "what the plan says", "another part")
            at = 0
            for *_, length in segments:
                yield file, at, length
                at += length


def open_plan(run: Store, wanted: str = "") -> Plan:
    """The plan of the run directory."""
    return Plan(contract.PLAN, run.stream(contract.PLAN), wanted)


def results(
    run: Store, plan_id: str, parts: Iterable[Part], settings: Mapping[str, object]
) -> Iterator[tuple[str, Counts, str]]:
    """For every part its id, its counts, and a word for what is wrong with its result, if it is."""

    def look(part: Part) -> tuple[str, Counts, str]:
        try:
            text = b"".join(run.stream(contract.COUNT.format(part[0])))
        except FileNotFoundError:
            return part[0], {}, "missing"
        return part[0], *contract.check_result(text, plan_id, part, settings)

    return each(look, parts, batch=8)


def check_level_1(run: Store, wanted: range, total: str = "") -> None:
    """That these files of level 1 are there, which somebody else has written, and no others where
    the setting `total` says that these are all: what nobody reads would be lost in silence. A
    listing tells, for a mount may hide for long what was looked for before it was there."""
    folder = contract.folder(contract.LEVEL.format(1, 0))
    there = set()
    with suppress(FileNotFoundError):
        there.update(run.names(folder))
    for name in (contract.LEVEL.format(1, number) for number in wanted):
        if name not in there:
            other = f", or give as {total}, which is {wanted.stop}, how many there are"
            raise WorkerError(f"{name} is not there: write it before{other if total else ''}")
    for name in sorted(there) if total else ():
        number = name.removeprefix(folder).removesuffix(".txt")
        if number.isdecimal() and int(number) >= wanted.stop:
            raise WorkerError(
                f"{name} is there and {total} is {wanted.stop}: give as {total} how many files "
                "there are, or move away those that are too many"
            )


def utc(seconds: float) -> str:
    """A moment as ISO 8601 has it, to the millisecond."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"
