"""Child: starts, feeds, reads and ends a program as a process.

The program has its own process group. SIGTERM goes to the group, then SIGKILL: after ENDING
seconds, or immediately if the program has ended by itself. No process of the group is left running.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from threading import get_ident, main_thread

from fanfold import parallel
from fanfold.errors import CommandError, RetryError
from fanfold.storage.folder import File
from fanfold.streams import Watch, Write

STEP = 128 << 10  # bytes per read from a program; a pipe has twice this size
TICK = 100  # milliseconds between two checks whether a silent program has ended
ENDING = 10  # seconds for a program after SIGTERM; the worker has 20
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP,
              errno.ENAMETOOLONG, errno.E2BIG)  # fmt: skip
PR_SET_DUMPABLE = 4


def execute(
    words: list[str], environ: Mapping[str, str], file: File | None,
    pieces: Iterator[bytes], *sinks: Write, most: int, watch: Watch | None = None, setting: str,
) -> tuple[int, bool, bool]:  # fmt: skip
    """Run a program. Return its exit code, whether it read all of its stdin (a file or pieces), and
    whether its stdout was closed at the end. The sinks receive stdout and stderr. `most` limits the
    bytes of each file that it writes. `watch` is called with its offset in stdin. `setting` is
    the name of the command in errors."""
    import fcntl

    def look() -> None:
        if file and watch:
            watch(os.lseek(file.fd, 0, os.SEEK_CUR))

    with ExitStack() as stack:
        stdin, feed, stdout, out, stderr, err = (
            stack.enter_context(FileIO(fd, mode))
            for _ in range(3)
            for fd, mode in zip(os.pipe(), "rw", strict=True)
        )
        for each in (feed, out):
            with suppress(OSError, AttributeError):  # a limit of the user, or macOS
                fcntl.fcntl(each, fcntl.F_SETPIPE_SZ, 2 * STEP)
        ends = dict(zip((stdout, stderr), sinks, strict=True))
        files = file.fd if file else stdin.fileno(), out.fileno(), err.fileno()
        with started(words, environ, files, most, setting) as child:
            out.close()
            err.close()
            converse(child, feed, pieces, ends, look)
        drain(stderr, ends[stderr], TICK / 1000)
        is_over = drain(stdout, ends[stdout], ENDING)
        os.set_blocking(stdin.fileno(), False)
        has_read = os.lseek(file.fd, 0, os.SEEK_CUR) >= file.size if file else not stdin.read(1)
        return child.code, has_read and feed.closed, is_over


@contextmanager
def started(
    words: list[str], environ: Mapping[str, str], files: Sequence[int], most: int, setting: str
) -> Iterator[Child]:
    """Run a program in its own process group. Nothing of the group is left at the end."""
    hide_environment()
    child = Child()
    came: list[int] = []  # signals between the start of the program and the assignment of its pid
    # Only the main thread handles signals: in other threads no signal can come in between.
    handled = (signal.SIGTERM, signal.SIGINT) if get_ident() == main_thread().ident else ()
    before = [
        (number, signal.signal(number, lambda number, _: came.append(number))) for number in handled
    ]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
        try:
            with limited(most if handled else 0):
                child.pid = os.posix_spawnp(
                    words[0], words, environ, setpgroup=0, file_actions=actions,
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # ignored by Python
                )  # fmt: skip
        except OSError as error:
            if error.errno not in NO_PROGRAM:
                raise
            remedy = "make it an executable program, or correct its name"
            if error.errno == errno.ENOENT:
                remedy = "install it in the image, or correct its name"
            elif error.errno == errno.E2BIG:
                remedy = "use fewer or shorter arguments"
            place = "" if "/" in words[0] else " in PATH"
            raise CommandError(
                f"{setting} must begin with a program{place} that can be run, got {words[0]!r} "
                f"with {len(words) - 1} arguments ({error.strerror}): {remedy}"
            ) from None
        finally:
            for number, handler in reversed(before):
                signal.signal(number, handler)
        if most and not handled:
            limit(child.pid, most)
        for one in came:
            signal.raise_signal(one)
        yield child
    finally:
        if child.pid:
            child.end()


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Limit the size of each file that a started program writes, from its first instruction on."""
    if not most:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits(most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit(pid: int, most: int) -> None:
    """Limit a program that was started by one of several threads: a limit of this process would
    also limit the other threads."""
    import resource

    with suppress(AttributeError, ProcessLookupError):  # macOS; the program has ended
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits(most))


def limits(most: int) -> tuple[int, int]:
    """Return the limits for `most` bytes per file, or the hard limit if that is lower."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard), hard


class Child:
    """A started program."""

    pid, code = 0, -1  # -1 while it runs; 128 + n after signal n, as in a shell

    def has_ended(self, flags: int = os.WNOHANG) -> bool:
        """Whether the program has ended. With flags=0, wait for its end."""
        if self.code < 0:
            try:
                pid, status = os.waitpid(self.pid, flags)
            except ChildProcessError:  # its status is lost
                pid, status = self.pid, 0xFF00
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code
        return self.code >= 0

    def end(self) -> None:
        """End all processes of the group: with SIGTERM first if the program still runs."""

        def send(number: int) -> None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

        try:
            if not self.has_ended():
                send(signal.SIGTERM)
            end = time.monotonic() + ENDING
            while not self.has_ended() and time.monotonic() < end:
                time.sleep(TICK / 5000)
        finally:
            send(signal.SIGKILL)
            self.has_ended(0)


def converse(
    child: Child, feed: FileIO, pieces: Iterator[bytes], sinks: Mapping[FileIO, Write],
    look: Callable[[], object],
) -> None:  # fmt: skip
    """Feed a program and read its output until it has ended, and call `look` regularly. `feed` is
    closed after all pieces are written."""
    import select

    poll, ends = select.poll(), {end.fileno(): end for end in (feed, *sinks)}
    for fd, each in ends.items():
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLOUT if each is feed else select.POLLIN)
    held = memoryview(b"")
    # Each thread of several programs must see SIGTERM, which only the main thread gets.
    while not child.has_ended():
        if parallel.terminated:
            raise RetryError("received SIGTERM")
        look()
        for fd, _ in poll.poll(TICK if ends else TICK // 50):
            if ends[fd] is feed:
                held = held or memoryview(next(pieces, b""))
                is_over = not held
                held = held[feed.write(held) or 0 :]
            else:
                data = ends[fd].read(STEP)
                is_over = data == b""
                sinks[ends[fd]](data or b"")
            if is_over:
                poll.unregister(fd)
                if ends.pop(fd) is feed:
                    feed.close()
    if not held and not next(pieces, b""):
        feed.close()


def drain(pipe: FileIO, sink: Write, seconds: float) -> bool:
    """Read the rest of a pipe after the program's group has ended. A process that left the group
    may keep the pipe open: return False if it is open after `seconds`."""
    end = time.monotonic() + seconds
    while (data := pipe.read(STEP)) != b"":
        sink(data or b"")
        if time.monotonic() > end:
            return False
        if not data:
            time.sleep(TICK / 5000)
    return True


def hide_environment() -> None:
    """Hide this process's environment, which may contain keys, from the user's other processes."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
