"""The files that INPUT names: one file, all below a folder, or in the mode files also those that
match a pattern or are on a list.

The inputs are in byte order of their names. In a bucket listings tell their sizes and versions.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice, pairwise

from fanfold import formats, names, settings
from fanfold.errors import ChangedError, OldViewError, WorkerError
from fanfold.parallel import map_in_order
from fanfold.patterns import Pattern, is_pattern
from fanfold.plan import UNREADABLE, Input, Inputs, Plan
from fanfold.settings import FILES
from fanfold.storage import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOM = b"\xef\xbb\xbf"
LOOK_UPS = 8000  # inputs of a list that are looked up together
LONGEST = 1 << 20  # bytes of a line of a list: what an outputs.jsonl says of a file is shorter
DEPTH = 100  # how much deeper than in the list an item may stand in what is read and written

Line = tuple[bytes, int, bytes]  # the name of an input, the number of its line, the line if JSON


def find_inputs(store: Storage, source: str, mode: str, environ: Mapping[str, str]) -> Inputs:
    """The files that INPUT names, in byte order of their names. Those that are read as text and
    begin as none are refused; of very many inputs only the maps look at the first bytes."""
    whole = mode == FILES
    if whole and source.startswith("@"):
        return _find_listed(store, source, environ)
    if whole and is_pattern(source):
        return _find_matches(store, source, environ)
    return _find_named(store, source, looks=0 if whole else formats.MAX_LOOKS)


def _find_named(store: Storage, source: str, looks: int) -> Inputs:
    """A file, or with a / at the end every file below a folder, looked at as in _stored."""
    file = source.rstrip("/")
    try:
        found = store.names(source) if file != source else iter([source])
        inputs = _stored(store, source, found, looks)
        if inputs.lines:
            return inputs
    except NotADirectoryError:
        pass
    except FileNotFoundError:
        if file != source or store.has(source):
            raise  # it is listed: a retry can help
    said = "is no file and no folder with files in WORK_DIR: put the input there, or give its name"
    if file != source:
        with suppress(FileNotFoundError, NotADirectoryError, WorkerError), store.open(file):
            said = f"has a / at its end and {file} is a file: leave out the /"
    raise WorkerError(f"INPUT {source} {said}")


def _find_matches(store: Storage, source: str, environ: Mapping[str, str]) -> Inputs:
    """The files that match a pattern."""
    pattern = Pattern(source)
    for own in _own(environ):
        if pattern.may_hold(own) if own.endswith("/") else pattern.matches(own):
            raise WorkerError(
                f"INPUT is {source!r} and the run writes {own}: use another INPUT, OUTPUT or "
                "RUN_DIR, or a pattern with a folder before its first *"
            )
    with suppress(NotADirectoryError):
        inputs = _stored(store, source, store.names(pattern.folder, pattern), looks=0)
        if inputs.lines:
            return inputs
    raise WorkerError(
        f"INPUT {source} is a pattern that matches no file in WORK_DIR: put the files there, or "
        "change the pattern; write [*] for a * in a name, and [[] for a ["
    )


def _own(environ: Mapping[str, str]) -> list[str]:
    """What every run in RUN_DIR replaces, and its folders as those of a run with any ids."""
    output, finals = settings.output_name(environ), (names.RESULT, names.FILE_LINES, names.REPORT)
    places = *names.OUTPUTS, settings.output_dir(environ)
    own = output, *finals, names.NEWEST_PLAN, *(f"{each}{'0' * names.DIGITS}/" for each in places)
    return [settings.run_dir(environ) + name for name in own]


def _stored(store: Storage, source: str, names: Iterator[str], looks: int) -> Inputs:
    """The inputs of these names. If they are at most `looks`, their first bytes are looked at."""

    def look(name: str) -> Input:
        with store.open(name) as file:
            if len(first) <= looks:
                formats.refuse_coded(name, file.read(0, formats.SIZE))
            return Input(name, file.size, file.version)

    inputs, first = Inputs(), list(islice(names, looks + 1))
    for item in map_in_order(look, chain(first, names)):
        inputs.add(item)
        _check_number(source, len(inputs.lines))
    return inputs


def _check_number(source: str, number: int) -> None:
    """Refuse more inputs than split has memory for."""
    if number > settings.MAX_INPUTS:
        raise WorkerError(
            f"INPUT {source} has more than {settings.MAX_INPUTS} files: name a folder with "
            "fewer, or join small files before"
        )


def _find_listed(store: Storage, source: str, environ: Mapping[str, str]) -> Inputs:
    """The files that a list names, each with its item if the list is one of JSON objects."""
    where = settings.inside("The list in INPUT", source[1:], environ)
    if not where or where.endswith("/"):
        raise WorkerError(f"INPUT must name a list after its @, got {source!r}: give a file's name")
    inputs, lines = Inputs(), list[Line]()
    for number, text in _read(store, source, where):
        line = (_parse if where.endswith(".jsonl") else _plain)(where, number, text, environ)
        if line:
            lines.append(line)
            _check_number(source, len(lines))
        else:
            inputs.left_out += 1
    if not lines:
        raise WorkerError(
            f"INPUT is {source} and {where} names no file"
            + (f" ({inputs.left_out} have failed)" if inputs.left_out else "")
            + ": put a name on each line, or use another list"
        )
    listed = {os.fsencode(where), *(name for name, *_ in lines)}
    if taken := next((own for own in _own(environ) if os.fsencode(own) in listed), ""):
        raise WorkerError(
            f"INPUT is {source!r}, which is or names {taken}, and the run writes that: use another "
            "OUTPUT or RUN_DIR, or @results/RUN/outputs.jsonl, or leave the name out"
        )
    lines.sort()
    for (name, number, _), (again, other, _) in pairwise(lines):
        if name == again:
            raise WorkerError(
                f"Lines {number} and {other} of {where} both name {os.fsdecode(name)!r}: name each "
                "file once"
            )
    sought = (os.fsdecode(name) for name, *_ in lines)
    for (name, number, text), found in zip(lines, store.versions(sought), strict=True):
        if not found:
            raise _missing(store, os.fsdecode(name), f"which line {number} of {where} names, ")
        item = json.loads(os.fsdecode(text)) if text else None
        if item and "output" in item:
            if not is_output(store, item, found):
                raise OldViewError(
                    f"{found[0]} is not the output that line {number} of {where} tells of: use the "
                    f"outputs.jsonl of the run that wrote {found[0]} last"
                )
            item = item.get("item")  # or the lines would hold each other, from job to job
        inputs.add(Input(*found, item))
    return inputs


def _missing(store: Storage, name: str, why: str) -> Exception:
    """The error for a file that could not be opened. If a listing has it, a retry can help."""
    with suppress(NotADirectoryError):
        if store.has(name):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), store.path(name))
    return WorkerError(
        f"{name}, {why}is no file in WORK_DIR: put the file there, or give the right name"
    )


def _read(store: Storage, source: str, where: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a list that are not empty, by number."""
    number, rest = 0, b""
    try:
        # At the end of a line that has none, else an empty line.
        for piece in chain(store.stream(where), [b"\n"]):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                number += 1
                if number == 1:
                    line = line.removeprefix(BOM)  # noqa: PLW2901 - as some editors write UTF-8
                    formats.refuse_coded(where, line)
                _check_length(where, number, line)
                if line := line.removesuffix(b"\r"):
                    yield number, line
            _check_length(where, number + 1, rest)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(store, where, f"which INPUT {source} names, ") from None


def _check_length(where: str, number: int, line: bytes) -> None:
    """Refuse a line that may be anything, and take all of the memory."""
    if len(line) > LONGEST:
        raise WorkerError(
            f"Line {number} of {where} has more than {LONGEST} bytes: give a list with one "
            "file per line"
        )


def _plain(where: str, number: int, text: bytes, environ: Mapping[str, str]) -> Line:
    """A line that is a name."""
    return _name(f"The name in line {number} of {where}", os.fsdecode(text), environ), number, b""


def _parse(where: str, number: int, text: bytes, environ: Mapping[str, str]) -> Line | None:
    """A line that is a JSON object; None if it is of a file that has failed. One that has an output
    is a line of an outputs.jsonl: then the output is the input."""
    place, shown = f"ine {number} of {where}", os.fsdecode(text)
    try:
        item = json.loads(shown, parse_float=_finite, parse_constant=_finite)
        given = item["name"]
        if not isinstance(item, dict) or not isinstance(given, str):
            raise TypeError
        if shown.count("[") + shown.count("{") > DEPTH:
            json.loads("[" * DEPTH + shown + "]" * DEPTH)
    except UNREADABLE:
        raise WorkerError(
            f"L{place} must be a JSON object with a name, which is a string, with finite numbers "
            f"and at most {DEPTH} levels, got {shown!r:.200}: correct the line"
        ) from None
    if "output" not in item:
        return _name(f"The name in l{place}", given, environ), number, text
    code, output, version = (item.get(key) for key in ("exit", "output", "output_version"))
    if type(code) is int and code:
        return None
    if code == 0 and output is None:
        raise WorkerError(
            f"L{place} says that {given!r} has made no output: leave the line out, or use a list "
            "whose files have all made one"
        )
    size, digest = item.get("output_bytes"), item.get("digest")
    are_words = isinstance(version, str) and isinstance(digest, str)
    if not (type(code) is type(size) is int and isinstance(output, str) and are_words):
        raise WorkerError(
            f"L{place} must be one that a run wrote into its outputs.jsonl, as it has an output, "
            f"got {shown!r:.200}: use that file as it is, or give another key to what is no output"
        )
    return _name(f"The output in l{place}", output, environ), number, text


def _finite(text: str) -> float:
    """A number that JSON can state: not NaN, nor one that is read as Infinity."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _name(what: str, text: str, environ: Mapping[str, str]) -> bytes:
    """The name of a file below WORK_DIR, as a list gives it."""
    name = settings.inside(what, text, environ)
    if not name or name.endswith("/"):
        raise WorkerError(f"{what} must be that of a file, got {text!r}: list the files one by one")
    try:
        return os.fsencode(name)
    except UnicodeError:  # a half of a character, as JSON can have it
        raise WorkerError(f"{what} must be UTF-8, got {text!r}: correct the name") from None


def is_output(store: Storage, line: Mapping[str, Any], found: tuple[str, int, str]) -> bool:
    """Whether the file with the name of an output is the one that a line of an outputs.jsonl tells
    of. A pod that runs twice may put the same bytes there again, as another version."""
    name, size, version = found
    if version == line["output_version"]:
        return True
    if size != line["output_bytes"]:
        return False
    with store.open(name, version) as file:
        return bool(names.digest(file.pieces(0, size)) == line["digest"])


def check_inputs(store: Storage, plan: Plan, *, everything: bool) -> int:
    """Check that the inputs still are those of the plan; return how many have come since. Without
    `everything` only the plan itself is proven."""
    source, is_whole, new = plan.source, plan.mode == FILES, 0

    def check(item: Input, version: str) -> None:
        if version != item.version:
            raise ChangedError(item.name, f"version {item.version}", version or "no file")

    def past(there: Iterator[str]) -> Iterator[Input]:
        """Every input, once the listing is past it: in a bucket that tells its version. Both are in
        byte order."""
        nonlocal new
        found = next(there, "")
        for item in plan.inputs():
            while found and os.fsencode(found) <= os.fsencode(item.name):
                new += found != item.name
                found = next(there, "")
            yield item
        new += bool(found) + sum(1 for _ in there)

    def look(item: Input) -> None:
        version = ""
        with suppress(FileNotFoundError), store.open(item.name) as file:
            version = file.version
        check(item, version)

    # The last input proves the plan.
    if not everything:
        deque(plan.inputs(), maxlen=0)
    elif is_whole and source.startswith("@"):
        inputs = plan.inputs()
        while batch := list(islice(inputs, LOOK_UPS)):
            found = store.versions(item.name for item in batch)
            for item, one in zip(batch, found, strict=True):
                check(item, one[2] if one else "")
    else:
        pattern = Pattern(source) if is_whole and is_pattern(source) else None
        folder = pattern.folder if pattern else source
        there = store.names(folder, pattern) if pattern or source.endswith("/") else iter(())
        deque(map_in_order(look, past(there), batch=8), maxlen=0)
    return new
