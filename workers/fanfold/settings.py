"""Settings: reads and checks environment variables. settings.md lists them all."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping

from fanfold import part_ids
from fanfold.errors import WorkerError
from fanfold.names import OUTPUTS, TAKEN, digest
from fanfold.parallel import MAX_LANES
from fanfold.part_ids import MAX_PARTS

SCHEME = "oss://"  # the beginning of a WORK_DIR in a bucket
MAX_INPUTS = 500_000  # files of INPUT; settings.md has the memory per file
MAX_KEYWORDS = (128 << 10) - len("KEYWORDS=\0")  # bytes: the limit of Linux
MAX_PODS = 18_000  # the longest ids of these pods fit in the 256 KiB that Argo reads
SUFFIX = ".txt"  # of the files of levels
FILES = "files"  # the mode in which a part is whole files, and the cuts of plan.json count files
MAX_FILES = 10**9  # files or levels of process-data; a larger number is a typo


def whole_number(what: str, text: str, low: int, high: int) -> int:
    """Parse `text` as a whole number. `what` is the name for the error."""
    if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
        return int(text)
    raise WorkerError(
        f"{what} must be a whole number from {low} to {high}, got {text!r}: correct {what}"
    )


def choice(environ: Mapping[str, str], name: str, *choices: str) -> str:
    """Return a setting with a fixed set of values. The first value is the default."""
    if (text := environ.get(name, choices[0])) in choices:
        return text
    some = ", ".join(filter(None, choices))
    raise WorkerError(f"{name} must be one of {some}, got {text!r}: use one of these")


def num_parts(environ: Mapping[str, str]) -> int:
    """Return NUM_PARTS."""
    return whole_number("NUM_PARTS", environ.get("NUM_PARTS", "5"), 1, MAX_PARTS)


def parts_per_pod(environ: Mapping[str, str]) -> int:
    """Return PARTS_PER_POD."""
    return whole_number("PARTS_PER_POD", environ.get("PARTS_PER_POD", "1"), 1, MAX_PARTS)


def max_pods(environ: Mapping[str, str]) -> int:
    """Return MAX_PODS, the maximum number of map pods; if it is not set, the maximum number of
    parts."""
    text = environ.get("MAX_PODS", "")
    return whole_number("MAX_PODS", text, 1, MAX_PODS) if text else MAX_PARTS


def parts(environ: Mapping[str, str]) -> list[range]:
    """Return PART_ID, which names one or more parts."""
    return part_ids.parse(environ.get("PART_ID", ""))


def inside(what: str, text: str, environ: Mapping[str, str]) -> str:
    """Return `text` as a normalized name below WORK_DIR, and keep a / at its end. In a bucket, a//b
    and a/b are different keys: a name that is not normalized is refused there."""
    given = text.removesuffix("/").split("/")
    steps = [step for step in given if step not in ("", ".")]
    if text.startswith("/") or ".." in steps or "\0" in text:
        root = "RUN_DIR" if what.startswith("OUTPUT") else "WORK_DIR"
        raise WorkerError(
            f"{what} must be a name in {root}, with no leading / or .., got {text!r}: write the "
            f"path relative to {root}, such as tmp/a"
        )
    if text and steps != given and environ.get("WORK_DIR", "").startswith(SCHEME):
        raise WorkerError(
            f"{what} must have no empty path component and no path component . in a bucket, got "
            f"{text!r}: remove this component, or copy the object to a key without it"
        )
    return "/".join(steps) + "/" * (bool(steps) and text.endswith("/"))


def prefix_of(what: str, text: str, environ: Mapping[str, str]) -> str:
    """Return `text` as a prefix of names: empty, or with a / at its end."""
    name = inside(what, text, environ).rstrip("/")
    return name and name + "/"


def run_dir(environ: Mapping[str, str]) -> str:
    """Return RUN_DIR as a prefix of names."""
    return prefix_of("RUN_DIR", environ.get("RUN_DIR", ""), environ)


def run_id(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return RUN_ID, empty if the worker runs by hand, and RUN_STARTED in seconds since 1970."""
    run, started = environ.get("RUN_ID", ""), environ.get("RUN_STARTED", "")
    if not run and not started:
        return "", 0
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", run) or not run.strip("."):
        raise WorkerError(
            f"RUN_ID must be 1 to 64 letters, digits, dots, - and _, and not only dots, got "
            f"{run!r}: set RUN_ID to the id of this run, or unset RUN_ID and RUN_STARTED"
        )
    if not started:
        raise WorkerError("RUN_STARTED must be set with RUN_ID, got no value: set both or neither")
    moment = whole_number("RUN_STARTED", started, 0, 253_402_300_799)
    if moment > time.time() + 86400:  # no later run could publish final names until then
        raise WorkerError(
            f"RUN_STARTED must be at most a day after this node's time, got {moment}: set "
            "RUN_STARTED to the start of the run in seconds since 1970, or correct the node's clock"
        )
    return run, moment


def output_name(environ: Mapping[str, str]) -> str:
    """Return OUTPUT, the file in RUN_DIR for the joined outputs of the maps."""
    text = environ.get("OUTPUT", "result.out")
    name = inside("OUTPUT", text, environ)
    first = name.partition("/")[0]
    if not name or name.endswith("/") or first in TAKEN or f"{first}/" in OUTPUTS:
        raise WorkerError(
            f"OUTPUT must be a free name for a file in RUN_DIR, got {text!r}: choose another; the "
            f"run itself writes {', '.join([*TAKEN, *OUTPUTS])}"
        )
    return name


def input_name(environ: Mapping[str, str]) -> str:
    """Return INPUT: a file, or with a / at its end all files below a folder."""
    text = environ.get("INPUT", "log-count-data.txt")
    name = inside("INPUT", text, environ)
    if not name:
        raise WorkerError(
            f"INPUT must name a file, or a folder with a / at its end, got {text!r}: set INPUT"
        )
    return name


def keywords(environ: Mapping[str, str]) -> list[str]:
    """Return the words of KEYWORDS, split at commas and otherwise unchanged."""
    text = environ.get("KEYWORDS", "INFO,WARN,ERROR,DEBUG")
    if (size := len(text.encode("utf-8", "replace"))) > MAX_KEYWORDS:
        raise WorkerError(
            f"KEYWORDS must have at most {MAX_KEYWORDS} bytes, the limit of an environment "
            f"variable, got {size}: use fewer words"
        )
    words: dict[str, None] = {}
    for word in text.split(","):
        wrong = {
            "is empty": not word,
            "is repeated": word in words,
            "is not UTF-8": word.encode("utf-8", "replace").decode() != word,
            "has a line end": re.search("[\r\n]", word),
            "begins or ends with white space": word != word.strip(),
        }
        if why := next(filter(wrong.get, wrong), ""):
            raise WorkerError(
                "KEYWORDS must be different words with only a comma between them, got "
                f"{text!r:.200}, where {word!r:.200} {why}: correct this word"
            )
        words[word] = None
    return list(words)


def program(environ: Mapping[str, str], step: str) -> dict[str, object]:
    """Return the entries of an id for a user's step (MAP, PROCESS, REDUCE): digests of its command
    and of its settings, each only if set."""
    given = {name: environ.get(f"{step}_{name.upper()}") for name in ("command", "settings")}
    return {
        name: digest([text.encode("utf-8", "surrogateescape")])
        for name, text in given.items()
        if text
    }


def map_settings(environ: Mapping[str, str]) -> dict[str, object]:
    """Return the entries of a job's id for its map: keywords, or a program or custom map."""
    return program(environ, "MAP") or {"keywords": keywords(environ)}


def file_suffix(environ: Mapping[str, str]) -> str:
    """Return FILE_SUFFIX, the ending of the file names of levels."""
    text = environ.get("FILE_SUFFIX", SUFFIX)
    if not re.fullmatch(r"(\.[A-Za-z0-9_-]+)*", text) or len(text) > 64:
        raise WorkerError(
            f"FILE_SUFFIX must be like .txt or .tar.gz, got {text!r}: use a dot, followed by "
            "letters, digits, - and _"
        )
    return text


def output_dir(environ: Mapping[str, str]) -> str:
    """Return OUTPUT_DIR, the folder for outputs in mode files, as a prefix of names."""
    text = environ.get("OUTPUT_DIR", "map-output")
    name = prefix_of("OUTPUT_DIR", text, environ)
    first = f"{name.partition('/')[0]}/"
    if not name or first[:-1] in TAKEN or first in {*OUTPUTS} - {"map-output/"}:
        raise WorkerError(
            f"OUTPUT_DIR must be a free name for a folder in RUN_DIR, got {text!r}: choose "
            f"another; the run itself writes {', '.join([*TAKEN, *OUTPUTS])}"
        )
    return name


def output_suffix(environ: Mapping[str, str]) -> str:
    """Return OUTPUT_SUFFIX, which is appended to a file's name to name its output."""
    text = environ.get("OUTPUT_SUFFIX", "")
    if "/" in text or "\0" in text or len(os.fsencode(text)) > 64:
        raise WorkerError(
            f"OUTPUT_SUFFIX must be at most 64 bytes with no /, got {text!r:.200}: use an ending "
            "such as .png"
        )
    return text


def job_settings(
    made_by: Mapping[str, object], mode: str, environ: Mapping[str, str]
) -> Mapping[str, object]:
    """Return the entries of a job's id: its map, and in mode files the place of the outputs."""
    if mode != FILES:
        return made_by
    return {**made_by, "outputs": [output_dir(environ), output_suffix(environ)]}


def files_at_once(environ: Mapping[str, str]) -> int:
    """Return FILES_AT_ONCE: how many programs a map runs in parallel."""
    return whole_number("FILES_AT_ONCE", environ.get("FILES_AT_ONCE", "1"), 1, MAX_LANES)


def tolerated_failures(environ: Mapping[str, str], mode: str) -> Callable[[int], int]:
    """Return a function from the number of files to the failures that TOLERATED_FAILURES allows."""
    text = environ.get("TOLERATED_FAILURES", "0")
    if mode != FILES and text != "0":
        raise WorkerError(
            f"TOLERATED_FAILURES must be 0 in mode {mode}, got {text!r}: set SPLIT_MODE=files, "
            "which maps each file by itself, or unset TOLERATED_FAILURES"
        )
    if match := re.fullmatch(r"(\d{1,3})(?:\.(\d{1,6}))?%", text, re.ASCII):
        whole, decimals = match[1], match[2] or ""
        share, of = int(whole + decimals), 100 * 10 ** len(decimals)
        if share <= of:
            return lambda files: files * share // of
    elif re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return lambda _: int(text)
    raise WorkerError(
        f"TOLERATED_FAILURES must be a number of files or a percentage up to 100%, got {text!r}: "
        "use for example 10 or 2%"
    )


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """Return a setting that is true or false. The default is false."""
    return choice(environ, name, "false", "true") == "true"


def check_files(environ: Mapping[str, str], *names: str) -> None:
    """Check that the files in these settings, which are outside the volume, can be written."""
    for name in names:
        path = environ.get(name, "")
        place = path if os.path.exists(path) else os.path.join(os.path.dirname(path), ".")
        if path and (os.path.isdir(path) or not os.access(place, os.W_OK)):
            raise WorkerError(
                f"{name} must be a file that can be written, got {path!r}: use another path"
            )
