"""Storage: the one place that opens, reads and publishes files.

`open_stores` gives those that the settings name; oss.py has the same two classes for a bucket.
What holds on a disk and on ossfs alike:

- an output is written once, in order, under a name of its own and then put in place: a reader
  sees a whole one or none, whoever else writes it. close() commits, so its error counts;
- a size is that of an open file from which a byte was read, never of a path: a mount may answer
  for a path from yesterday;
- nothing is looked for before it is there, for a mount may then deny it for a long time: what
  may be missing is looked up in a listing first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice

from contract import RetryError, Segment, WorkerError, changed, run_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from queue import SimpleQueue
    from typing import Any, BinaryIO, TypeVar

    Item = TypeVar("Item")
    Answer = TypeVar("Answer")
    Done = tuple[list[Any], BaseException | None]

PIECE = 1 << 20  # bytes read at once: large for the mount, small for the memory
COPY = 64 << 20  # bytes copied by one system call: SIGTERM is heeded between two
LANES = 8  # reads in flight: a mounted bucket answers in milliseconds
MOST_LANES = 64  # of one `each`, and the most that a setting may ask for


def open_stores(environ: Mapping[str, str]) -> tuple[Store, Store]:
    """WORK_DIR, where the inputs lie, and RUN_DIR in it, which the run reads and writes."""
    root = environ.get("WORK_DIR", "/mnt/vol")
    if root.startswith("oss://"):
        import oss  # and with it oss2, which is large

        return oss.open_stores(environ)
    try:
        is_folder = stat.S_ISDIR(os.stat(root).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False  # any other error, such as of a mount that has died, is worth a retry
    if not is_folder:
        raise WorkerError(
            f"WORK_DIR is {root!r}, which is no folder: mount the volume there, or give "
            "oss://BUCKET/PREFIX"
        )
    return Store(root), Store(os.path.join(root, run_dir(environ)))


def each(
    function: Callable[[Item], Answer],
    items: Iterable[Item],
    batch: int = 1,
    lanes: int = LANES,
    ahead: int = 2 * LANES,
    *,
    reads: bool = True,
) -> Iterator[Answer]:
    """function(item) for every item, in order: `lanes` batches of items at once, and at most
    `ahead` of them done or under way while the one before is used; with no lanes one by one, as
    they are used. What only reads is left behind at SIGTERM: a request may hang for a minute."""
    lanes = min(lanes, MOST_LANES)
    waiting = iter(items)
    groups = iter(lambda: list(islice(waiting, batch)), [])
    first = list(islice(groups, 2))
    groups = chain(first, groups)
    if len(first) < 2 or not lanes:
        for group in groups:
            yield from map(function, group)
        return
    # Not concurrent.futures: to load it takes half as long as all else that a worker loads.
    from queue import SimpleQueue
    from threading import Thread

    tasks: SimpleQueue[tuple[list[Item], SimpleQueue[Done]] | None] = SimpleQueue()
    running: deque[SimpleQueue[Done]] = deque()
    threads: list[Thread] = []
    wanted = True

    def serve() -> None:
        while (task := tasks.get()) and wanted:
            group, done = task
            try:
                done.put((list(map(function, group)), None))
            except BaseException as error:  # raised where its answer is used
                done.put(([], error))

    def fill() -> None:
        for group in islice(groups, ahead - len(running)):
            running.append(SimpleQueue())
            tasks.put((group, running[-1]))
            if len(threads) < lanes:
                threads.append(Thread(target=serve, daemon=True))
                threads[-1].start()

    def join() -> None:
        for thread in threads:
            thread.join()

    wait = True
    try:
        fill()
        while running:
            answers, error = running.popleft().get()
            if error:
                raise error
            fill()
            yield from answers
    except BaseException as error:
        wait = not reads or isinstance(error, Exception)
        raise
    finally:
        wanted = False
        for _ in threads:
            tasks.put(None)
        if wait:
            try:
                join()
            except BaseException:  # SIGTERM, which comes but once
                join()
                raise


class File:
    """An open file; its size and version are those of what was opened, whatever a path says."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        # O_NONBLOCK: a pipe in place of a file is an error, not an endless wait.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        found = os.fstat(self.fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(self.fd)
            raise WorkerError(
                f"{name} is not a regular file: name a file, or a folder with a / at the end"
            )
        if found.st_size:
            # A mount answers from a cache until a byte was read. The last one, for some fetch as
            # much as half a gigabyte from there on.
            os.pread(self.fd, 1, found.st_size - 1)
            found = os.fstat(self.fd)
        self.size, self.version = found.st_size, f"{found.st_mtime_ns}-{found.st_size}"
        if not self.size and os.pread(self.fd, 1, 0):
            os.close(self.fd)
            raise RetryError(
                f"{name} has 0 bytes by its size and more when read: if this node's mount shows an "
                "old size a retry can help; a file of /proc is to be copied first"
            )

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on; none only at the end."""
        return os.pread(self.fd, length, offset)

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Exactly these bytes, at most PIECE at a time."""
        end = offset + length
        while offset < end and (piece := self.read(offset, min(PIECE, end - offset))):
            offset += len(piece)
            yield piece
        if offset < end:
            raise changed(self.name, f"{self.size} bytes", offset)

    def append_to(self, out: BinaryIO, offset: int, length: int) -> None:
        """Copy bytes to the end of `out`: in the kernel as far as it will, the rest through here,
        where a failure that is not a matter of how one copies shows itself again."""
        end = offset + length
        out.flush()
        with suppress(OSError):
            while offset < end and (
                done := os.copy_file_range(self.fd, out.fileno(), min(COPY, end - offset), offset)
            ):
                offset += done
        out.writelines(self.pieces(offset, end - offset))

    def data(self, offset: int) -> int:
        """Where the next stored byte lies: a hole in a sparse file need not be read."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else offset


class Store:
    """A folder, local or mounted. All names are relative to it, those of folders end in /."""

    copies_at_once = 0  # but one by one: a disk, or a mount, has enough to do with each
    terminated = False  # set for all at SIGTERM: a thread is to begin nothing more

    def __init__(self, root: str) -> None:
        self.root = root
        self.made: set[str] = set()

    def path(self, name: str) -> str:
        """Where a name lies in the file system."""
        return os.path.join(self.root, name)

    @contextmanager
    def open(self, name: str, version: str | None = None) -> Iterator[File]:
        """A file to read. With a version it must have that and still have it afterwards, asked
        of the name anew: what is read through a mount is not tied to what was opened. Raises
        FileNotFoundError."""
        file = File(self.path(name), name)
        try:
            if version not in (None, file.version):
                raise changed(name, f"version {version}", file.version)
            yield file
        finally:
            os.close(file.fd)
        if version:
            self._has_still(name, version)

    def _has_still(self, name: str, version: str) -> None:
        with self.open(name) as again:
            if again.version != version:
                raise changed(name, f"version {version}", again.version)

    def stream(self, name: str) -> Iterator[bytes]:
        """All of a file in pieces; the first raises FileNotFoundError."""
        with self.open(name) as file:
            yield from file.pieces(0, file.size)

    def names(self, folder: str) -> list[str]:
        """Every file below a folder, in byte order of their names."""
        found, folders = [], [folder]
        while folders:
            parent = folders.pop()
            with os.scandir(self.path(parent)) as entries:
                for entry in entries:
                    name = parent + entry.name
                    if entry.is_symlink():
                        raise WorkerError(f"{name} is a link: put the file itself in its place")
                    folders.append(name + "/") if entry.is_dir() else found.append(name)
        return sorted(found, key=os.fsencode)

    def make_folder(self, folder: str) -> None:
        """Make a folder, and those above it, unless they are there."""
        if folder not in self.made:
            os.makedirs(self.path(folder.rstrip("/")), exist_ok=True)
            self.made.add(folder)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(self.path(name))

    @contextmanager
    def _publish(self, name: str, *, durable: bool) -> Iterator[BinaryIO]:
        folder, base = os.path.split(name)
        self.make_folder(folder)
        # Unique, so that two writers of one name do not meet; hidden, so that no reader takes it.
        temporary = self.path(os.path.join(folder, f".{base}.{os.urandom(8).hex()}.tmp"))
        try:
            with open(temporary, "xb", buffering=PIECE) as out:
                yield out
                out.flush()
                if durable:
                    os.fsync(out.fileno())
            os.replace(temporary, self.path(name))
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """Publish a file of these pieces."""
        with self._publish(name, durable=True) as out:
            out.writelines(pieces)

    def copy(self, name: str, inputs: Store, segments: Iterable[Segment]) -> None:
        """Publish a file of these segments of inputs. It is not forced to the disk, which takes
        the time of the disk: whoever reads it knows its size and its edges."""
        with self._publish(name, durable=False) as out:
            for source, version, offset, length in segments:
                with inputs.open(source, version) as file:
                    file.append_to(out, offset, length)

    def join(self, name: str, sources: Iterable[str]) -> None:
        """Publish a file made of others, one after the other."""
        with self._publish(name, durable=True) as out:
            for source in sources:
                with self.open(source) as file:
                    file.append_to(out, 0, file.size)
                self._has_still(source, file.version)
