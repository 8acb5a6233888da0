"""Group: makes one file from a group of files of the level below."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from fanfold import command, records, settings
from fanfold.errors import WorkerError
from fanfold.levels import Levels
from fanfold.settings import MAX_FILES, whole_number
from fanfold.storage import open_storage
from fanfold.streams import Combine, Stream, combine, yields
from fanfold.worker import log, run_worker


def process_group(
    function: Callable[[Sequence[Stream]], Iterable[bytes]],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """The main function of a custom process; returns the exit code. `function` is called once with
    the files of the group, and yields the bytes of the new file."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_worker("process", lambda: process(arguments, environ, yields(function)), environ)


def process(
    arguments: Sequence[str], environ: Mapping[str, str], function: Combine | None = None
) -> None:
    """Make the file of group FILE_NUMBER of LEVEL: with a function, with the program in
    PROCESS_COMMAND, or by joining the files."""
    if len(arguments) != 2:
        raise WorkerError(
            f"the arguments must be FILE_NUMBER and LEVEL, got {len(arguments)}: pass these two"
        )
    number = whole_number("FILE_NUMBER", arguments[0], 0, MAX_FILES)
    level = whole_number("LEVEL", arguments[1], 1, MAX_FILES)
    fan_in = whole_number("FAN_IN", environ.get("FAN_IN", "2"), 2, MAX_FILES)
    settings.file_suffix(environ)
    settings.run_id(environ)
    function = function or command.find("PROCESS", environ, FILE_NUMBER=number, LEVEL=level)
    start = time.time()
    first, end = number * fan_in, (number + 1) * fan_in
    files = 0
    if text := environ.get("FILES"):
        files = whole_number("FILES", text, 1, MAX_FILES)
        end = min(end, files)
        if first >= end:
            raise WorkerError(
                f"FILE_NUMBER must be at most {(end - 1) // fan_in} with FILES={files} and "
                f"FAN_IN={fan_in}, got {number}: pass the number of a group"
            )
    _, run = open_storage(environ)
    found = Levels(run, environ)
    if level == 1 and end == files:  # in one pod: a listing per pod would take N * N time
        found.check_level_1(range(files), "FILES")
    try:
        sources = found.find_sources(level, range(first, end))
    except FileNotFoundError:
        if level == 1:
            found.check_level_1(range(first, end))
        raise
    name = found.output(level + 1, number)
    output = combine(run, name, [file for file, *_ in sources], function, found.suffix)
    if not found.run_id:
        run.copy(found.file(number, level + 1), run, [output])
    record = {
        "level": level + 1,
        "number": number,
        "output": records.as_input(output),
        "first": sources[0][1],
        "versions": [version for *_, versions in sources for version in versions],
        **records.maker(environ, start),
    }
    run.put(found.record(level + 1, number), [records.seal(record)])
    log("process", "done", level=level, files=end - first, output=output[0])
