"""A storage with a fault at its Nth operation.

    with faulty.operations(lambda number, name: ...) as seen:
        volume.run("split")

calls the function before every operation of fanfold/storage/folder.py on the storage, counted from
0, or before every request of bucket.py. The function may raise (the operation fails), kill the
process, return SHORT (the operation does half of its work; the answer of a request breaks off),
return AFTER (the operation is done, and then fails), or run other workers, which do not call the
function. Everything runs in one thread, so that a number always means the same operation.

    with faulty.Stopped(lambda: run.do(3), number) as late:
        ...
        assert late.go_on() == 0

runs a worker in another process and stops it (SIGSTOP) before an operation.
"""

from __future__ import annotations

import fcntl
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import oss2
import pytest
import requests
from fanfold import parallel
from fanfold.storage import folder, retries, walk
from pipeline import BucketPath

NAMES = [
    "open",
    "close",
    "pread",
    "read",
    "write",
    "fstat",
    "lseek",
    "copy_file_range",
    "sendfile",
    "fsync",
    "replace",
    "rename",
    "unlink",
    "scandir",
    "listdir",
    "makedirs",
    "mkdir",
]
SHORT, AFTER = "short", "after"
REQUEST = oss2.http.Session.do_request

Hook = Callable[[int, str], str | None]


class Faulty:
    """The operations of one storage, with a hook."""

    def __init__(self, hook: Hook) -> None:
        """Call the hook before each operation, but not within the hook."""
        self.hook, self.seen, self.within = hook, list[str](), False

    def __getattr__(self, name: str) -> Any:
        """Return os functions, with the operations on the storage wrapped."""
        found = getattr(os, name)
        return self.wrapped(name, found) if name in NAMES else found

    def before(self, name: str) -> str | None:
        """Call the hook for the next operation."""
        if self.within:
            return None
        assert threading.current_thread() is threading.main_thread()
        self.within = True
        try:
            self.seen.append(name)
            return self.hook(len(self.seen) - 1, name)
        finally:
            self.within = False

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """One operation of os."""

        def operation(*arguments: Any, **more: Any) -> Any:
            if name == "close" and not writes(arguments[0]):
                return function(*arguments)  # the workers ignore its error
            what = self.before(name)
            if what == SHORT and name == "pread":
                fd, length, offset = arguments
                arguments = fd, max(1, length // 2), offset
            if what == SHORT and name == "copy_file_range":
                source, target, length, *rest = arguments
                arguments = source, target, max(1, length // 2), *rest
            answer = function(*arguments, **more)
            if what == AFTER:
                if name == "copy_file_range":  # the kernel then does not change the file's position
                    os.lseek(arguments[1], -answer, os.SEEK_CUR)
                raise failure()
            return answer

        return operation

    def open_output(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        """The built-in open, for the binary outputs of a folder."""
        assert "b" in mode
        what = self.before("open")
        raw = Output(path, mode.replace("b", ""))
        raw.faulty = self
        if what == AFTER:
            raise failure()
        return raw if buffering == 0 else io.BufferedWriter(raw, max(buffering, 1))

    def as_method(self) -> Callable[..., Any]:
        """Return the replacement of the method that sends all requests."""

        def do_request(session: Any, request: Any, timeout: Any) -> Any:
            return self.request(session, request, timeout)

        return do_request

    def request(self, session: Any, request: Any, timeout: Any) -> Any:
        """One request to a bucket."""
        what = self.before(request.method)
        answer = REQUEST(session, request, timeout)
        if what == AFTER:
            raise oss2.exceptions.RequestError(failure())
        if what == SHORT:
            breaks_off(answer.response)
        return answer


class Output(io.FileIO):
    """A file being written, below Python's buffer."""

    faulty: Faulty

    def write(self, data: Any, /) -> int:
        """Write all of the data, or half."""
        what = self.faulty.before("write")
        view = memoryview(data)
        done = super().write(view[: max(1, len(view) // 2)] if what == SHORT else view)
        if what == AFTER:
            raise failure()
        return done

    def close(self) -> None:
        """Close the file, also if this fails."""
        was_open = not self.closed
        try:
            what = self.faulty.before("close") if was_open else None
        finally:
            super().close()
        if what == AFTER:
            raise failure()


def breaks_off(response: requests.Response) -> None:
    """End the connection in the middle of the body."""
    body = response.content

    def halves() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        raise requests.exceptions.ChunkedEncodingError("the connection broke")

    if body:
        rest = halves()
        response.iter_content = lambda *_: rest  # type: ignore[assignment, method-assign]


def writes(fd: int) -> bool:
    """Whether the file was opened for writing."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def failure() -> OSError:
    """Return the error of an operation that succeeds and then fails."""
    return OSError(5, "Input/output error")


@contextmanager
def operations(hook: Hook, attempts: int = 1) -> Iterator[list[str]]:
    """Call the hook before every operation; yield the names of the operations so far. `attempts`
    limits the attempts per request to a bucket."""
    faulty = Faulty(hook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "os", faulty)
        patch.setattr(walk, "os", faulty)
        patch.setattr(folder, "open", faulty.open_output, raising=False)
        patch.setattr(parallel, "MAX_LANES", 0)
        if BucketPath.place:
            patch.setattr(oss2.http.Session, "do_request", faulty.as_method())
            patch.setattr(retries, "ATTEMPTS", attempts)
            patch.setattr(retries, "PAUSES", (0, 0))
        yield faulty.seen


class Stopped:
    """Work in another process, stopped before its operation `moment`, and killed before its
    operation `end` if this is set."""

    def __init__(self, work: Callable[[], int], moment: int, end: int | None = None) -> None:
        """Start the work, and wait until it has stopped."""

        def send(number: int, _: str) -> None:
            if number == moment:
                os.kill(os.getpid(), signal.SIGSTOP)
            if number == end:
                os.kill(os.getpid(), signal.SIGKILL)

        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            code = 1
            try:
                with operations(send):
                    code = work()
            finally:
                os._exit(code)
        self.wait()

    code: int | None

    def wait(self) -> None:
        """Wait until the process stops or ends."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.code = os.waitstatus_to_exitcode(status)

    def go_on(self) -> int:
        """Continue the process if it has not ended before `moment`; return its exit code."""
        if self.code is None:
            os.kill(self.pid, signal.SIGCONT)
            self.wait()
        assert self.code is not None
        return self.code

    def __enter__(self) -> Self:
        """The process has stopped."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the process if it has not ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
