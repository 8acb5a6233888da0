"""Storage: opens the storage in WORK_DIR, and declares what each offers. Add other storages here.

A storage is a module with `open_storage` and two classes that follow the protocols below:

- an output is written from start to end, then published: a reader gets all of it or nothing;
- list the folder of a file that may not exist yet: after a failed open some mounts cache the miss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from fanfold.errors import WorkerError
from fanfold.names import OUTPUTS, REPORT, RESULT
from fanfold.settings import SCHEME
from fanfold.storage import folder
from fanfold.storage.folder import PIECE, Segment
from fanfold.storage.walk import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager as ContextManager
    from typing import Protocol, Self
else:
    Protocol = object  # the import of typing takes 2 ms per worker

__all__ = [
    "PIECE",
    "Segment",
    "Storage",
    "StoredFile",
    "Wanted",
    "Writer",
    "check_apart",
    "open_storage",
]


class StoredFile(Protocol):
    """An open file of one version."""

    name: str
    version: str

    @property
    def size(self) -> int: ...
    # At most `length` bytes; empty only at the end.
    def read(self, offset: int, length: int) -> bytes: ...
    # Exactly these bytes, at most PIECE at a time.
    def pieces(self, offset: int, length: int) -> Iterator[bytes]: ...
    # The offset of the next stored byte: holes in a sparse file need not be read.
    def data(self, offset: int) -> int: ...


class Storage(Protocol):
    """A folder or a prefix. All names are relative to it; a folder's name ends with /."""

    copies_at_once: int  # calls of copy() that may run in parallel; 0 is one at a time

    # The full path of a name, for messages.
    def path(self, name: str) -> str: ...
    # A file to read. With `version`, any other version is an error, also if it shows only during
    # the reads. With `size`, a bucket is not asked for the size of this version. Raises
    # FileNotFoundError.
    def open(
        self, name: str, version: str = "", size: int | None = None
    ) -> ContextManager[StoredFile]: ...
    # The bytes of segments in order, at most PIECE at a time. A bucket is asked for several pieces
    # in parallel.
    def read(self, segments: Iterable[Segment]) -> Iterator[bytes]: ...
    # A whole file in pieces. The first piece raises FileNotFoundError.
    def stream(self, name: str) -> Iterator[bytes]: ...
    # The full path without links, to compare two names.
    def real(self, name: str) -> str: ...
    # Every file below a folder, or the wanted files, in byte order of names; none if the folder
    # does not exist. A link is refused.
    def names(self, folder: str, wanted: Wanted | None = None) -> Iterator[str]: ...
    # For each name, in order: name, size and version of the file as it is now, or None if it is
    # missing. Only for names that should exist: a mount may cache a miss.
    def versions(self, names: Iterable[str]) -> Iterator[tuple[str, int, str] | None]: ...
    # The folders directly in a folder; none if the folder does not exist. Links are left out.
    def folders(self, folder: str) -> list[str]: ...
    # Create a folder and its parents, if the storage has folders.
    def make_folder(self, folder: str) -> None: ...
    # Delete a file, if it exists.
    def remove(self, name: str) -> None: ...
    # Whether a listing has this file and it is not a link. Unlike an open of a missing file, no
    # mount caches a listing.
    def has(self, name: str) -> bool: ...
    # The names that may exist. A bucket returns all names: a request for a missing object hides
    # nothing.
    def likely(self, names: Iterable[str]) -> Iterable[str]: ...
    # Publish a file: from pieces, which can be iterated again; from segments of inputs; or from the
    # writes in the `with`, under a name that no other attempt writes. All three report the version
    # of the file as published.
    def put(self, name: str, pieces: Iterable[bytes]) -> Segment: ...
    def copy(self, name: str, inputs: Self, segments: Iterable[Segment]) -> Segment: ...
    def writer(self, name: str) -> ContextManager[Writer]: ...
    # A checksum of a file as stored, after its kind and a colon.
    def checksum(self, name: str) -> str: ...


class Writer(Protocol):
    """A file that is being written. Without a write, no file is made."""

    made: Segment | None  # set at the end

    def write(self, data: bytes) -> None: ...


def open_storage(environ: Mapping[str, str]) -> tuple[Storage, Storage]:
    """Open WORK_DIR, which has the inputs, and RUN_DIR in it, which the run reads and writes."""
    root = environ.get("WORK_DIR", "/mnt/vol")
    if root.startswith(SCHEME):
        name = root.removeprefix(SCHEME).partition("/")[0]
        if not re.fullmatch("[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name):
            shown = SCHEME + root.removeprefix(SCHEME).rpartition("@")[2]  # without a key before it
            raise WorkerError(f"WORK_DIR must be oss://BUCKET/PREFIX, got {shown!r}: name a bucket")
        try:
            from fanfold.storage import bucket  # imports oss2, which is large
        except ModuleNotFoundError as error:
            raise WorkerError(
                f"WORK_DIR must be a folder without the package oss2, got {root!r} ({error}): "
                "install oss2, or use an image that has oss2"
            ) from None

        return bucket.open_storage(environ)
    return folder.open_storage(root, environ)


def real_place(store: Storage, name: str) -> str:
    """Return the full path of a name, with the links in its folders resolved. The name itself may
    be a link."""
    place, _, base = name.rpartition("/")
    return f"{store.real(place).rstrip('/')}/{base}"


def check_apart(work: Storage, run: Storage, source: str, output: str, *more: str) -> None:
    """Refuse an INPUT that overlaps the run's own files. Links are resolved. Final names are not
    probed: they may not exist yet."""
    name, final = work.real(source.rstrip("/")), real_place(run, output)
    own_files = (f"{run.real('').rstrip('/')}/{one}" for one in (*OUTPUTS, *more, RESULT, REPORT))
    for own in (*own_files, final):
        inside = f"{name}/".startswith(own.rstrip("/") + "/")
        if inside or (source.endswith("/") and own.startswith(f"{name}/")):
            raise WorkerError(
                f"INPUT must not overlap the run's output {own}, got {source!r}: use another "
                "INPUT, OUTPUT or RUN_DIR"
            )
