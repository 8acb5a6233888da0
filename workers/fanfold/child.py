"""Child: a program as a process, which is started, fed, listened to, and ended.

It has a process group of its own. SIGTERM goes to the group, then SIGKILL: after ENDING seconds, or
at once where the program has ended by itself. Nothing of the group is left running.
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

STEP = 128 << 10  # bytes of a read from a program; a pipe holds two
TICK = 100  # milliseconds between two looks whether a program that is silent has ended
ENDING = 10  # seconds that a program has after SIGTERM; the worker has 20
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP,
              errno.ENAMETOOLONG, errno.E2BIG)  # fmt: skip
PR_SET_DUMPABLE = 4


def execute(
    words: list[str], environ: Mapping[str, str], file: File | None,
    pieces: Iterator[bytes], *sinks: Write, most: int, watch: Watch | None = None,
) -> tuple[int, bool, bool]:  # fmt: skip
    """The exit code of a program, whether it has read all of its stdin, a file or pieces, and
    whether its stdout has ended with it. The sinks get its stdout and stderr; `most` limits the
    bytes of each file that it writes; `watch` is told how far it has read a file."""
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
            with suppress(OSError, AttributeError):  # a limit of the user's, or macOS
                fcntl.fcntl(each, fcntl.F_SETPIPE_SZ, 2 * STEP)
        ends = dict(zip((stdout, stderr), sinks, strict=True))
        files = file.fd if file else stdin.fileno(), out.fileno(), err.fileno()
        with started(words, environ, files, most) as child:
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
    words: list[str], environ: Mapping[str, str], files: Sequence[int], most: int
) -> Iterator[Child]:
    """A program in a process group of its own, of which nothing is left at the end."""
    hide_environment()
    child = Child()
    came: list[int] = []  # signals between the start of the program and our knowledge of it
    # Python hands signals to its first thread: in another one nothing comes in between.
    heeded = (signal.SIGTERM, signal.SIGINT) if get_ident() == main_thread().ident else ()
    before = [
        (number, signal.signal(number, lambda number, _: came.append(number))) for number in heeded
    ]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)]
        try:
            with limited(most if heeded else 0):
                child.pid = os.posix_spawnp(
                    words[0], words, environ, setpgroup=0, file_actions=actions,
                    setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
                )  # fmt: skip
        except OSError as error:
            if error.errno not in NO_PROGRAM:
                raise
            remedy = "name one that is in the image and may be run"
            if error.errno == errno.E2BIG:
                remedy = "give fewer or shorter arguments"
            raise CommandError(
                f"the program {words[0]!r} cannot be run with {len(words) - 1} arguments "
                f"({error.strerror}): {remedy}"
            ) from None
        finally:
            for number, handler in reversed(before):
                signal.signal(number, handler)
        if most and not heeded:
            limit(child.pid, most)
        for one in came:
            signal.raise_signal(one)
        yield child
    finally:
        if child.pid:
            child.end()


@contextmanager
def limited(most: int) -> Iterator[None]:
    """Let what is started write at most so many bytes to a file, from its first instruction on."""
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
    """Limit a program that one of several threads has started: a limit of this process would be one
    of what the other threads write, too."""
    import resource

    with suppress(AttributeError, ProcessLookupError):  # macOS has none; it has ended
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits(most))


def limits(most: int) -> tuple[int, int]:
    """A limit of so many bytes to a file, or the one that cannot be raised if that is less."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard), hard


class Child:
    """A program that was started."""

    pid, code = 0, -1  # -1 as long as it runs; a shell's 128 + n after signal n

    def has_ended(self, flags: int = os.WNOHANG) -> bool:
        """Whether it has ended. With flags=0 wait until it has."""
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
        """End all of its group; if it has not ended by itself, with SIGTERM at first."""

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
    """Feed a program and take what it writes until it has ended, and `look` at it now and then. If
    it was fed all pieces, `feed` is closed."""
    import select

    poll, ends = select.poll(), {end.fileno(): end for end in (feed, *sinks)}
    for fd, each in ends.items():
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLOUT if each is feed else select.POLLIN)
    held = memoryview(b"")
    # Of several programs at once each one's thread must see SIGTERM, which only the first gets.
    while not child.has_ended():
        if parallel.terminated:
            raise RetryError("SIGTERM came")
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
    """Take what is left in a pipe of a program whose group has ended. What has left the group may
    hold it open: False if it still does after so many seconds."""
    end = time.monotonic() + seconds
    while (data := pipe.read(STEP)) != b"":
        sink(data or b"")
        if time.monotonic() > end:
            return False
        if not data:
            time.sleep(TICK / 5000)
    return True


def hide_environment() -> None:
    """Make the environment of this process, where keys may be, unreadable to others of its user."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)
