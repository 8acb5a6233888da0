"""Shared by the other modules: errors, commands, logs and locks."""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClusterError(Exception):
    """An error that the operator can fix. The message is one sentence with the remedy."""


def say(line: str) -> None:
    """Print a line for the operator. Standard output is only for results."""
    print(line, file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], timeout: float = 60, **environment: str) -> str:
    """Run a command in a plain environment (without proxies); return its stdout."""
    shown = " ".join(str(word) for word in argv[:5])
    try:
        done = subprocess.run(
            argv,
            env={"PATH": PATH, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"`{shown}` did not end within {timeout:.0f} s") from None
    if done.returncode:
        raise ClusterError(f"`{shown}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def last_lines(log: Path) -> str:
    """The end of a log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join([f"the last lines of {log}:", *lines])


def cache_directory() -> Path:
    """The folder of builds and of the default state, outside the repository."""
    if chosen := os.environ.get("FANFOLD_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "fanfold"


@contextlib.contextmanager
def lock(path: Path, timeout: float) -> Iterator[None]:
    """Lock a file. The kernel frees the lock when the process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except PermissionError:
        raise ClusterError(f"{path} must be writable: run this command as root") from None
    with stream:
        deadline = time.monotonic() + timeout
        waiting = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"another command has locked {path} for {timeout:.0f} s: end it first"
                    ) from None
            if not waiting:
                say(f"waiting for another command to free {path} ...")
            waiting = True
            time.sleep(0.2)
        yield
