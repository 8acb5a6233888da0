"""Settings: reads and checks environment variables. README.md, "Settings", lists them all."""

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

SCHEME = "oss://"  # of a WORK_DIR that is a bucket
MAX_INPUTS = 500_000  # files of INPUT: README.md, "Settings", has the memory that each takes
MAX_KEYWORDS = (128 << 10) - len("KEYWORDS=\0")  # bytes: Linux starts no program with more
MAX_PODS = 18_000  # the longest ids of so many pods fit in the 256 KiB that Argo reads
SUFFIX = ".txt"  # of the files of levels
FILES = "files"  # the mode in which a part is whole files, and plan.json's cuts count files
MAX_FILES = 10**9  # files or levels of process-data; a larger number is a typing error


def whole_number(what: str, text: str, low: int, high: int) -> int:
    """`text` as a number; `what` names it in the error."""
    if text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high:
        return int(text)
    raise WorkerError(f"{what} is {text!r}: give a whole number from {low} to {high}")


def choice(environ: Mapping[str, str], name: str, *choices: str) -> str:
    """A setting with a fixed set of values; the first one is the default."""
    if (text := environ.get(name, choices[0])) in choices:
        return text
    raise WorkerError(f"{name} is {text!r}: give one of {', '.join(filter(None, choices))}")


def num_parts(environ: Mapping[str, str]) -> int:
    """NUM_PARTS."""
    return whole_number("NUM_PARTS", environ.get("NUM_PARTS", "5"), 1, MAX_PARTS)


def parts_per_pod(environ: Mapping[str, str]) -> int:
    """PARTS_PER_POD."""
    return whole_number("PARTS_PER_POD", environ.get("PARTS_PER_POD", "1"), 1, MAX_PARTS)


def max_pods(environ: Mapping[str, str]) -> int:
    """MAX_PODS, the most map pods that the fan-out may have; without it, as many as parts."""
    text = environ.get("MAX_PODS", "")
    return whole_number("MAX_PODS", text, 1, MAX_PODS) if text else MAX_PARTS


def parts(environ: Mapping[str, str]) -> list[range]:
    """PART_ID, which names one part or several."""
    return part_ids.parse(environ.get("PART_ID", ""))


def inside(what: str, text: str, environ: Mapping[str, str]) -> str:
    """`text` as a normal name below WORK_DIR; a / at its end is kept. In a bucket a//b is another
    key than a/b: what is not normal is refused there."""
    given = text.removesuffix("/").split("/")
    steps = [step for step in given if step not in ("", ".")]
    if text.startswith("/") or ".." in steps or "\0" in text:
        raise WorkerError(f"{what} is {text!r}: give a name in WORK_DIR, with no leading / or ..")
    if text and steps != given and environ.get("WORK_DIR", "").startswith(SCHEME):
        raise WorkerError(
            f"{what} must have no empty step and no step . in a bucket, got {text!r}: leave that "
            "step out, or copy the object to a key without one"
        )
    return "/".join(steps) + "/" * (bool(steps) and text.endswith("/"))


def prefix_of(what: str, text: str, environ: Mapping[str, str]) -> str:
    """`text` as a prefix of names: empty, or with a / at its end."""
    name = inside(what, text, environ).rstrip("/")
    return name and name + "/"


def run_dir(environ: Mapping[str, str]) -> str:
    """RUN_DIR as a prefix of names."""
    return prefix_of("RUN_DIR", environ.get("RUN_DIR", ""), environ)


def run_id(environ: Mapping[str, str]) -> tuple[str, int]:
    """RUN_ID, empty if the worker is called by hand, and RUN_STARTED in seconds since 1970."""
    run, started = environ.get("RUN_ID", ""), environ.get("RUN_STARTED", "")
    if not run and not started:
        return "", 0
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", run) or not run.strip("."):
        raise WorkerError(
            f"RUN_ID must be 1 to 64 letters, digits, dots, - and _, got {run!r}: set it to an id "
            "of this run, or unset it and RUN_STARTED"
        )
    moment = whole_number("RUN_STARTED", started, 0, 253_402_300_799)
    if moment > time.time() + 86400:  # it would hold the final names until then
        raise WorkerError(
            f"RUN_STARTED is {moment}, more than a day after this node's time: give the seconds "
            "since 1970 at which the run started, or set the node's clock"
        )
    return run, moment


def output_name(environ: Mapping[str, str]) -> str:
    """OUTPUT, the file in RUN_DIR that gets what the maps wrote."""
    text = environ.get("OUTPUT", "result.out")
    name = inside("OUTPUT", text, environ)
    first = name.partition("/")[0]
    if not name or name.endswith("/") or first in TAKEN or f"{first}/" in OUTPUTS:
        raise WorkerError(
            f"OUTPUT must be the name of a file of its own in RUN_DIR, got {text!r}: choose another"
        )
    return name


def input_name(environ: Mapping[str, str]) -> str:
    """INPUT: a file, or with a / at its end every file below a folder."""
    text = environ.get("INPUT", "log-count-data.txt")
    name = inside("INPUT", text, environ)
    if not name:
        raise WorkerError(f"INPUT is {text!r}: give the name of a file, or of a folder and a /")
    return name


def keywords(environ: Mapping[str, str]) -> list[str]:
    """KEYWORDS, separated at commas and otherwise unchanged."""
    text = environ.get("KEYWORDS", "INFO,WARN,ERROR,DEBUG")
    if (size := len(text.encode("utf-8", "replace"))) > MAX_KEYWORDS:
        raise WorkerError(
            f"KEYWORDS must have at most {MAX_KEYWORDS} bytes, as no variable of the environment "
            f"has room for more, got {size}: give fewer words"
        )
    words: dict[str, None] = {}
    for word in text.split(","):
        utf8 = word.encode("utf-8", "replace").decode() == word
        if not word or word in words or not utf8 or re.search(r"[\r\n]|^\s|\s$", word):
            raise WorkerError(
                f"KEYWORDS is {text!r:.200}, where {word!r:.200} is empty, repeated, not UTF-8, "
                "has a line end, or begins or ends with white space: give different words with "
                "only a comma between them"
            )
        words[word] = None
    return list(words)


def program(environ: Mapping[str, str], step: str) -> dict[str, object]:
    """What an id says of a step (MAP, PROCESS, REDUCE) that users have made: digests of its command
    and its settings, of each that is set."""
    given = {name: environ.get(f"{step}_{name.upper()}") for name in ("command", "settings")}
    return {
        name: digest([text.encode("utf-8", "surrogateescape")])
        for name, text in given.items()
        if text
    }


def map_settings(environ: Mapping[str, str]) -> dict[str, object]:
    """What a job says of its map: the keywords, or what there is of a program or a custom map."""
    return program(environ, "MAP") or {"keywords": keywords(environ)}


def file_suffix(environ: Mapping[str, str]) -> str:
    """FILE_SUFFIX, with which the names of the files of levels end."""
    text = environ.get("FILE_SUFFIX", SUFFIX)
    if not re.fullmatch(r"(\.[A-Za-z0-9_-]+)*", text) or len(text) > 64:
        raise WorkerError(
            f"FILE_SUFFIX must be like .txt or .tar.gz, got {text!r}: give a dot and then letters, "
            "digits, - and _"
        )
    return text


def output_dir(environ: Mapping[str, str]) -> str:
    """OUTPUT_DIR as a prefix of names: where a file's output goes in the mode files."""
    text = environ.get("OUTPUT_DIR", "map-output")
    name = prefix_of("OUTPUT_DIR", text, environ)
    first = f"{name.partition('/')[0]}/"
    if not name or first[:-1] in TAKEN or first in {*OUTPUTS} - {"map-output/"}:
        raise WorkerError(
            f"OUTPUT_DIR must be a folder of its own in RUN_DIR, got {text!r}: choose another"
        )
    return name


def output_suffix(environ: Mapping[str, str]) -> str:
    """OUTPUT_SUFFIX, which follows a file's name in the name of its output."""
    text = environ.get("OUTPUT_SUFFIX", "")
    if "/" in text or "\0" in text or len(os.fsencode(text)) > 64:
        raise WorkerError(
            f"OUTPUT_SUFFIX must be at most 64 bytes with no / in them, got {text!r:.200}: give an "
            "ending such as .png"
        )
    return text


def job_settings(
    made_by: Mapping[str, object], mode: str, environ: Mapping[str, str]
) -> Mapping[str, object]:
    """What a job's id says of its map, and in the mode files of where the outputs are."""
    if mode != FILES:
        return made_by
    return {**made_by, "outputs": [output_dir(environ), output_suffix(environ)]}


def files_at_once(environ: Mapping[str, str]) -> int:
    """FILES_AT_ONCE: how many programs a map runs at the same time."""
    return whole_number("FILES_AT_ONCE", environ.get("FILES_AT_ONCE", "1"), 1, MAX_LANES)


def tolerated_failures(environ: Mapping[str, str], mode: str) -> Callable[[int], int]:
    """TOLERATED_FAILURES: of so many files, how many may fail."""
    text = environ.get("TOLERATED_FAILURES", "0")
    if mode != FILES and text != "0":
        raise WorkerError(
            f"TOLERATED_FAILURES must be 0 in the mode {mode}, got {text!r}: set SPLIT_MODE to "
            "files, where each file fails by itself, or unset it"
        )
    if match := re.fullmatch(r"(\d{1,3})(?:\.(\d{1,6}))?%", text, re.ASCII):
        whole, decimals = match[1], match[2] or ""
        share, of = int(whole + decimals), 100 * 10 ** len(decimals)
        if share <= of:
            return lambda files: files * share // of
    elif re.fullmatch(r"\d{1,18}", text, re.ASCII):
        return lambda _: int(text)
    raise WorkerError(
        f"TOLERATED_FAILURES must be a number of files or a share of them, got {text!r}: give one, "
        "such as 10 or 2%"
    )


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """A setting that is true or, by default, false."""
    return choice(environ, name, "false", "true") == "true"


def check_files(environ: Mapping[str, str], *names: str) -> None:
    """Check that files outside the volume, which these settings name, can be written."""
    for name in names:
        path = environ.get(name, "")
        place = path if os.path.exists(path) else os.path.join(os.path.dirname(path), ".")
        if path and (os.path.isdir(path) or not os.access(place, os.W_OK)):
            raise WorkerError(f"{name} is {path!r}: give a file in a folder that can be written")
