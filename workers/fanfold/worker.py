"""The entry point of every worker: exit codes, log lines on stderr, SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

from fanfold import parallel
from fanfold.errors import Naming, RetryError, WorkerError, explain

OF_ALL = """
All steps also take WORK_DIR=/mnt/vol RUN_DIR RUN_ID RUN_STARTED ERROR_FILE. In a bucket, all steps
also take OSS_REGION OSS_ENDPOINT OSS_CNAME=false OSS_CONNECTIONS and credentials. All settings are
variables of the environment. workers/settings.md describes them."""
GRACE = 20  # seconds for the cleanup after SIGTERM: a pod has 30


class Terminated(BaseException):
    """SIGTERM was received."""


def log(worker: str, event: str, **fields: object) -> None:
    """Write a log line to stderr: key=value, the value as a JSON string unless it is one word."""
    words = []
    for key, value in {"worker": worker, "event": event, **fields}.items():
        text = str(value)
        plain = text.isprintable() and not set(text) & set(' "=')
        words.append(f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}")
    say("stderr", f"{' '.join(words)}\n")


def say(name: str, text: str) -> str:
    """Print a text without delay; return why that failed, or an empty string. After a failure the
    rest is dropped: the interpreter would print it at its end, and exit with its own code."""
    if not (stream := getattr(sys, name)):  # print would use stdout instead
        return "the stream is closed"
    try:
        print(text, end="", file=stream, flush=True)
    except OSError as error:
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return error.strerror or str(error)
    return ""


def output(text: str) -> None:
    """Print a text for others, or raise an error: a part of the text must not pass for all."""
    if problem := say("stdout", f"{text}\n"):
        kind = RetryError if sys.stdout else WorkerError
        raise kind(
            f"stdout cannot be written ({problem}): send stdout to a program or file that accepts "
            "it"
        )


def hand_over(environ: Mapping[str, str], name: str, text: str) -> None:
    """Write a text for the workflow to the file, outside the volume, that a setting names."""
    if path := environ.get(name):
        with Naming(path), open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def run_worker(worker: str, work: Callable[[], None], environ: Mapping[str, str]) -> int:
    """Do the work and return the exit code: 0, 2 for what the operator must fix, 75 for what a
    retry can fix, 143 after SIGTERM, which removes unfinished files. A bug keeps its traceback."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signal.SIGTERM))
        signal.alarm(GRACE)  # the storage may hang during the cleanup
        parallel.terminated = True
        raise Terminated

    parallel.terminated = False
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, terminate)
        code = attempt(worker, work, environ)
        signal.signal(signal.SIGTERM, before)
    except (Terminated, KeyboardInterrupt) as error:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, before)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    finally:
        for stream in ("stdout", "stderr"):  # output of a custom map
            say(stream, "")
    return code


def judge(error: Exception | SystemExit) -> tuple[int, str]:
    """Return the exit code and message for an error of one part among several. For a bug, print the
    traceback to stderr."""
    if isinstance(error, (WorkerError, OSError)):
        return explain(error)
    if isinstance(error, SystemExit):  # in a custom map
        code = error.code if isinstance(error.code, int) else 1
        return code & 255 or 1, f"your function has called sys.exit({error.code!r}): return instead"
    from traceback import format_exception

    say("stderr", "".join(format_exception(error)))
    return 1, f"{type(error).__name__}: {error}"


def attempt(worker: str, work: Callable[[], None], environ: Mapping[str, str]) -> int:
    """Do the work and return the exit code. The message of an error goes to stderr and to
    ERROR_FILE, which Argo reads."""
    try:
        if sys.argv[1:] == ["--help"]:
            output((sys.modules["__main__"].__doc__ or "") + OF_ALL)
        else:
            work()
        return 0
    except SystemExit as error:
        if error.code in (None, 0):  # in a custom map: its outputs are not published
            raise RuntimeError("your function has called sys.exit: return instead") from error
        raise
    except (WorkerError, OSError) as error:
        code, sentence = explain(error)
    log(worker, "failed", exit=code, error=sentence)
    if path := environ.get("ERROR_FILE"):
        with suppress(OSError), open(path, "w", encoding="utf-8", errors="replace") as file:
            file.write(sentence)
    return code
