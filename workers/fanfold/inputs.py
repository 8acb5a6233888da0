"""The files that INPUT names: one file or all below a folder; in mode files also the matches of a
pattern or the files in a list.

The inputs are in byte order of their names. In a bucket, listings return their sizes and versions.
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
LOOK_UPS = 8000  # inputs of a list per look-up
LONGEST = 1 << 20  # bytes of a line of a list: longer than any line of an outputs.jsonl
DEPTH = 100  # extra levels of nesting when an item is written

Line = tuple[bytes, int, bytes]  # name of the input, line number, and the line if it is JSON


def find_inputs(store: Storage, source: str, mode: str, environ: Mapping[str, str]) -> Inputs:
    """Return the files that INPUT names, in byte order. Up to formats.MAX_LOOKS inputs that are
    read as text are checked for other formats; with more inputs, only the maps check them."""
    whole = mode == FILES
    if whole and source.startswith("@"):
        return _find_listed(store, source, environ)
    if whole and is_pattern(source):
        return _find_matches(store, source, environ)
    return _find_named(store, source, looks=0 if whole else formats.MAX_LOOKS)


def _find_named(store: Storage, source: str, looks: int) -> Inputs:
    """Find a file, or with a / at the end every file below a folder, checked as in _stored."""
    file = source.rstrip("/")
    try:
        found = store.names(source) if file != source else iter([source])
        inputs = _stored(store, source, found, looks)
        if inputs.lines:
            return inputs
    except (NotADirectoryError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and (file != source or store.has(source)):
            raise  # the file is listed: a retry can help
    must, remedy = "be a file or a folder of files in WORK_DIR", f"copy it to {store.path(source)}"
    if is_pattern(source) or "/@" in f"/{source}":
        remedy = "set SPLIT_MODE=files for a pattern or a list"
    remedy += ", or correct INPUT"
    if file != source:
        with suppress(FileNotFoundError, NotADirectoryError, WorkerError), store.open(file):
            must, remedy = "not end with a / if it is a file", "remove the /"
    raise WorkerError(f"INPUT must {must}, got {source!r}: {remedy}")


def _find_matches(store: Storage, source: str, environ: Mapping[str, str]) -> Inputs:
    """Find the files that match a pattern."""
    pattern = Pattern(source)
    for own in _own(environ):
        if pattern.may_hold(own) if own.endswith("/") else pattern.matches(own):
            raise WorkerError(
                f"INPUT must not match what the run writes, got {source!r}, which would match "
                f"{own}: use another INPUT, OUTPUT or RUN_DIR, or add a folder before the first *"
            )
    with suppress(NotADirectoryError):
        inputs = _stored(store, source, store.names(pattern.folder, pattern), looks=0)
        if inputs.lines:
            return inputs
    raise WorkerError(
        f"INPUT must match a file in WORK_DIR, got {source!r}: copy the files there, or change "
        "the pattern; write [*] for a * in a name, and [[] for a ["
    )


def _own(environ: Mapping[str, str]) -> list[str]:
    """Return the names that every run in RUN_DIR replaces, and a sample of each folder with ids."""
    output, finals = settings.output_name(environ), (names.RESULT, names.FILE_LINES, names.REPORT)
    places = *names.OUTPUTS, settings.output_dir(environ)
    own = output, *finals, names.NEWEST_PLAN, *(f"{each}{'0' * names.DIGITS}/" for each in places)
    return [settings.run_dir(environ) + name for name in own]


def _stored(store: Storage, source: str, names: Iterator[str], looks: int) -> Inputs:
    """Return the inputs with these names. If there are at most `looks`, check their first bytes."""

    def look(name: str) -> Input:
        with store.open(name) as file:
            if len(first) <= looks:
                formats.refuse_coded(name, file.read(0, formats.SIZE), formats.DECODED)
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
            f"INPUT must name at most {settings.MAX_INPUTS} files, got more in {source!r}: use a "
            "smaller folder, or join small files first"
        )


def _find_listed(store: Storage, source: str, environ: Mapping[str, str]) -> Inputs:
    """Find the files in a list, each with its object if the list has JSON objects."""
    where = settings.inside("The list in INPUT", source[1:], environ)
    if not where or where.endswith("/"):
        raise WorkerError(f"INPUT must name a list after its @, got {source!r}: name a file")
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
            f"INPUT must be a list that names a file, got {source}"
            + (f", where {inputs.left_out} files have failed" if inputs.left_out else "")
            + ": write a name on each line, or use another list"
        )
    listed = {os.fsencode(where), *(name for name, *_ in lines)}
    if taken := next((own for own in _own(environ) if os.fsencode(own) in listed), ""):
        raise WorkerError(
            f"INPUT must not be or list what the run writes, got {source!r} with {taken}: change "
            "OUTPUT or RUN_DIR, use @results/RUN/outputs.jsonl, or remove the name"
        )
    lines.sort()
    for (name, number, _), (again, other, _) in pairwise(lines):
        if name == again:
            raise WorkerError(
                f"{where} must name a file once, got {os.fsdecode(name)!r} in lines {number} and "
                f"{other}: remove one"
            )
    sought = (os.fsdecode(name) for name, *_ in lines)
    for (name, number, text), found in zip(lines, store.versions(sought), strict=True):
        if not found:
            raise _missing(store, os.fsdecode(name), f"line {number} of {where}")
        item = json.loads(os.fsdecode(text)) if text else None
        if item and "output" in item:
            if not is_output(store, item, found):
                raise OldViewError(
                    f"{found[0]} is not the output in line {number} of {where}: use the "
                    f"outputs.jsonl of the run that wrote {found[0]} last"
                )
            item = item.get("item")  # otherwise lines would nest, from job to job
        inputs.add(Input(*found, item))
    return inputs


def _missing(store: Storage, name: str, where: str) -> Exception:
    """The error for a missing file, named in `where`. If it is listed, a retry can help."""
    with suppress(NotADirectoryError):
        if store.has(name):
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), store.path(name))
    return WorkerError(
        f"{name} (in {where}) must be a file in WORK_DIR, got no such file: copy the file there, "
        "or correct the name"
    )


def _read(store: Storage, source: str, where: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and text of each line of a list that is not empty."""
    number, rest = 0, b""
    try:
        # Adds a line end to the last line if it is missing, otherwise an empty line.
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
        raise _missing(store, where, f"INPUT {source}") from None


def _check_length(where: str, number: int, line: bytes) -> None:
    """Refuse a very long line, which would use all memory."""
    if len(line) > LONGEST:
        raise WorkerError(
            f"Line {number} of {where} must have at most {LONGEST} bytes, got more: split the line"
        )


def _plain(where: str, number: int, text: bytes, environ: Mapping[str, str]) -> Line:
    """Parse a line that is a name."""
    return _name(f"The name in line {number} of {where}", os.fsdecode(text), environ), number, b""


def _parse(where: str, number: int, text: bytes, environ: Mapping[str, str]) -> Line | None:
    """Parse a line that is a JSON object; return None for a failed file. A line with an output is
    from an outputs.jsonl: the output is the input."""
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
            f"L{place} must be a JSON object with a string as name, finite numbers and at most "
            f"{DEPTH} levels, got {shown!r:.200}: correct the line"
        ) from None
    if "output" not in item:
        return _name(f"The name in l{place}", given, environ), number, text
    code, output, version = (item.get(key) for key in ("exit", "output", "output_version"))
    if type(code) is int and code:
        return None
    if code == 0 and output is None:
        raise WorkerError(
            f"L{place} must have an output, got {given!r}, which has none: remove the line"
        )
    size, digest = item.get("output_bytes"), item.get("digest")
    are_words = isinstance(version, str) and isinstance(digest, str)
    if not (type(code) is type(size) is int and isinstance(output, str) and are_words):
        raise WorkerError(
            f"L{place} must be unchanged from an outputs.jsonl, as it has the key output, got "
            f"{shown!r:.200}: use the line as the run wrote it, or rename the key"
        )
    return _name(f"The output in l{place}", output, environ), number, text


def _finite(text: str) -> float:
    """Parse a number that JSON can state: not NaN, and not too large for a float."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _name(what: str, text: str, environ: Mapping[str, str]) -> bytes:
    """Return the name of a file below WORK_DIR from a list."""
    name = settings.inside(what, text, environ)
    if not name or name.endswith("/"):
        raise WorkerError(f"{what} must name a file, got {text!r}: list the files one by one")
    try:
        return os.fsencode(name)
    except UnicodeError:  # half a surrogate pair, which JSON can have
        raise WorkerError(f"{what} must be UTF-8, got {text!r}: correct the name") from None


def is_output(store: Storage, line: Mapping[str, Any], found: tuple[str, int, str]) -> bool:
    """Whether this file is the output in a line of an outputs.jsonl. A pod that runs twice may
    write the same bytes again as another version."""
    name, size, version = found
    if version == line["output_version"]:
        return True
    if size != line["output_bytes"]:
        return False
    with store.open(name, version) as file:
        return bool(names.digest(file.pieces(0, size)) == line["digest"])


def check_inputs(store: Storage, plan: Plan, *, everything: bool) -> int:
    """Check that the inputs are unchanged since the plan; return the number of new files. Without
    `everything`, only the plan is proven."""
    source, is_whole, new = plan.source, plan.mode == FILES, 0

    def check(item: Input, version: str) -> None:
        if version != item.version:
            raise ChangedError(item.name, f"version {item.version}", version or "no file")

    def past(there: Iterator[str]) -> Iterator[Input]:
        """Yield every input after the listing has passed it: in a bucket the listing returns its
        version. The inputs and the listing are in byte order."""
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

    # The end of plan.inputs() proves the plan.
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
