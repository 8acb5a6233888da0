"""Storage in a folder, local or mounted. An output is a hidden file that is renamed when complete.

Rules that are true for disks and for ossfs:

- close() commits, so its error counts.
- Take a size only from an open file after a read of one byte, never from a path: a mount may answer
  for a path from an old cache. A size of 0 counts only after a listing of the folder.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate

from fanfold.errors import ChangedError, Naming, WorkerError
from fanfold.names import cut, nonce
from fanfold.names import folder as folder_of
from fanfold.parallel import map_in_order
from fanfold.settings import run_dir
from fanfold.storage import mounts
from fanfold.storage.walk import Wanted, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

Segment = tuple[str, str, int, int]  # of an input: name, version, offset, length

PIECE = 1 << 20  # bytes per read: large for the mount, small for the memory
SMALL = 64 << 10  # bytes of writes that are joined; larger writes are not copied
CHUNK = 64 << 20  # bytes per system call: SIGTERM is handled between two calls


def open_storage(root: str, environ: Mapping[str, str]) -> tuple[Folder, Folder]:
    """Open the folder `root`, which is WORK_DIR, and RUN_DIR in it."""
    try:
        is_folder = stat.S_ISDIR(os.stat(root).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False  # another error, such as a dead mount, is worth a retry
    if not is_folder:
        raise WorkerError(
            f"WORK_DIR must be a folder or oss://BUCKET/PREFIX, got {root!r}: mount the volume "
            "there, or use another WORK_DIR"
        )
    return Folder(root), Folder(os.path.join(root, run_dir(environ)))


class File:
    """An open file. The size and version are of the open file, not of its path."""

    def __init__(self, path: str, name: str) -> None:
        self.name, self.path, self.naming = name, path, Naming(path)
        try:
            # O_NONBLOCK: a pipe instead of a file is an error, not an endless wait.
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):  # errors of a socket
                self.check_kind(os.stat(path))
            raise
        with self.naming:
            self.check_kind(found := os.fstat(self.fd))
            before = found.st_size
            # A mount answers from a cache until a byte is read. Read the last byte: some mounts
            # fetch up to half a gigabyte from the offset on.
            last = os.pread(self.fd, 1, max(0, before - 1))
            found = os.fstat(self.fd)
        # A replacement with an old mtime (cp -p, tar) has a new ctime. Two files can have the same
        # ctime: a clock ticks in milliseconds.
        self.version = f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_size}"
        if mounts.are_numbered(found.st_dev):
            self.version += f"-{found.st_ino}"
        self.size = found.st_size
        if self.size == before and bool(last) != bool(self.size):
            if not os.fstatvfs(self.fd).f_blocks:  # in /proc, /sys and the like
                raise WorkerError(
                    f"{name} must be a stored file, got one that the kernel makes while it is "
                    "read: copy the file and name the copy"
                )
            raise ChangedError(name, f"{self.size} bytes", "another size")

    def check_kind(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
            raise WorkerError(
                f"{self.name} must be a regular file, got {what}: name a file; or, with a / at the "
                "end, a folder that has only files"
            )

    def close(self) -> None:
        with suppress(OSError):  # a read-only file
            os.close(self.fd)

    def read(self, offset: int, length: int) -> bytes:
        with self.naming:
            return os.pread(self.fd, length, offset)

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        while offset < end and (piece := self.read(offset, min(PIECE, end - offset))):
            offset += len(piece)
            yield piece
        if offset < end:
            raise ChangedError(self.name, f"{self.size} bytes", offset)

    def append_to(self, out: BinaryIO, offset: int, length: int) -> None:
        """Copy bytes to the end of `out`, in the kernel if possible. The rest is read and written
        here, which raises errors that are not about kernel copies."""
        end = offset + length
        copy = getattr(os, "copy_file_range", None)  # not on macOS
        with Naming(out.name):
            out.flush()
            with suppress(OSError):  # ENOSYS from an old kernel, EXDEV and others from the volume
                while copy and offset < end:
                    if not (done := copy(self.fd, out.fileno(), min(CHUNK, end - offset), offset)):
                        break
                    offset += done
            out.writelines(self.pieces(offset, end - offset))

    def data(self, offset: int) -> int:
        if sys.platform != "linux":
            return offset  # macOS may skip stored bytes
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return offset
        with suppress(OSError):  # a hole up to the end; but ossfs2 also returns ENXIO for a 503
            if os.lseek(self.fd, offset, os.SEEK_HOLE) == offset:
                return self.size
        return offset


class Folder:
    """A folder, local or mounted. All names are relative to it; names of folders end with /."""

    copies_at_once = 0  # one at a time: each copy keeps a disk or a mount busy

    def __init__(self, root: str) -> None:
        self.root = root
        self.made: set[str] = set()
        self.listed: set[str] = set()

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def real(self, name: str) -> str:
        return os.path.realpath(self.path(name))

    @contextmanager
    def open(self, name: str, version: str = "", size: int | None = None) -> Iterator[File]:
        file = File(self.path(name), name)
        if not file.size and folder_of(name) not in self.listed:
            file.close()
            self.has(name)  # before this listing, a mount may show an old size of 0
            file = File(self.path(name), name)
        try:
            if version not in ("", file.version):
                raise ChangedError(name, f"version {version}", file.version)
            yield file
        finally:
            file.close()
        if version:  # after the reads: a mount may read from another file than the opened one
            with self.open(name) as again:
                if again.version != version:
                    raise ChangedError(name, f"version {version}", again.version)

    def read(self, segments: Iterable[Segment]) -> Iterator[bytes]:
        for name, version, offset, length in segments:
            with self.open(name, version) as file:
                yield from file.pieces(offset, length)

    def stream(self, name: str) -> Iterator[bytes]:
        with self.open(name) as file:
            yield from file.pieces(0, file.size)

    def names(self, folder: str, wanted: Wanted | None = None) -> Iterator[str]:
        return walk(self.root, folder, wanted, self.listed)

    def versions(self, names: Iterable[str]) -> Iterator[tuple[str, int, str] | None]:
        def look(name: str) -> tuple[str, int, str] | None:
            with suppress(FileNotFoundError, NotADirectoryError), self.open(name) as file:
                return name, file.size, file.version
            return None

        return map_in_order(look, names, batch=8)

    def folders(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError), os.scandir(self.path(folder)) as entries:
            return [f"{folder}{one.name}/" for one in entries if one.is_dir(follow_symlinks=False)]
        return []

    def make_folder(self, folder: str) -> None:
        if folder not in self.made:
            path = self.path(folder.rstrip("/"))
            try:
                os.makedirs(path, exist_ok=True)
            except OSError:
                steps = accumulate(path.split("/"), "{}/{}".format)
                for step in (each for each in steps if os.path.lexists(each)):
                    if not os.path.isdir(step):
                        what = "a link to no folder" if os.path.islink(step) else "a file"
                        raise WorkerError(
                            f"{step} must be a folder, got {what}: move this file away, or use "
                            "another name"
                        ) from None
                raise
            self.made.add(folder)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path(name))

    def has(self, name: str) -> bool:
        folder, base = folder_of(name), os.path.basename(name)
        with suppress(FileNotFoundError), os.scandir(self.path(folder)) as entries:
            found = [entry for entry in entries if entry.name == base and not entry.is_symlink()]
            self.listed.add(folder)
            return bool(found)
        return False

    def likely(self, names: Iterable[str]) -> Iterable[str]:
        wanted, there = set(names), list[str]()
        for folder in {folder_of(name) for name in wanted}:
            with suppress(FileNotFoundError), os.scandir(self.path(folder)) as entries:
                there += wanted.intersection(folder + entry.name for entry in entries)
        return there

    @contextmanager
    def writer(self, name: str) -> Iterator[Writer]:
        writer = Writer(self, name)
        try:
            yield writer
            if writer.file:
                writer.publish()
        except BaseException:  # also SIGTERM
            writer.remove()
            raise

    def put(self, name: str, pieces: Iterable[bytes]) -> Segment:
        with self.writer(name) as out, out.naming:
            out.open().writelines(pieces)
        return out.whole()

    def copy(self, name: str, inputs: Folder, segments: Iterable[Segment]) -> Segment:
        with self.writer(name) as out:
            target = out.open()
            for source, version, offset, length in segments:
                with inputs.open(source, version) as file:
                    file.append_to(target, offset, length)
        return out.whole()

    def checksum(self, name: str) -> str:
        from hashlib import sha256

        total = sha256()
        for piece in self.stream(name):
            total.update(piece)
        return f"sha256:{total.hexdigest()}"


class Writer:
    """A file that is being written, under a hidden name until it is complete."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name, self.naming = folder, name, Naming(folder.path(name))
        self.file: BinaryIO | None = None
        self.made: Segment | None = None
        parent, base = os.path.split(name)
        # Unique, so that two writers do not share a file; hidden, so that readers ignore it.
        self.temporary = folder.path(os.path.join(parent, f".{cut(base)}.{nonce()}.tmp"))

    def open(self) -> BinaryIO:
        if not self.file:
            self.folder.make_folder(os.path.dirname(self.name))
            self.file = open(self.temporary, "xb", buffering=SMALL)  # noqa: SIM115
        return self.file

    def write(self, data: bytes) -> None:
        with self.naming:
            self.open().write(data)

    def publish(self) -> None:
        assert self.file  # noqa: S101
        with self.naming, self.file:
            self.file.flush()
            # Before the rename: after a power cut, a complete name and size must not cover holes.
            os.fsync(self.file.fileno())
        os.replace(self.temporary, self.folder.path(self.name))
        # The version after the rename, which changes ctime.
        with self.folder.open(self.name) as file:
            self.made = self.name, file.version, 0, file.size

    def remove(self) -> None:
        with suppress(OSError):
            if self.file:
                self.file.close()
        with suppress(OSError):
            os.unlink(self.temporary)

    def whole(self) -> Segment:
        """Return the published file."""
        assert self.made  # noqa: S101
        return self.made
