"""Storage: opens the one that WORK_DIR names, and declares what each offers. A third one goes here.

Every storage has a room with `open_storage` and two classes that follow the protocols below:

- an output is written once, from start to end, then put in place: a reader gets all or nothing;
- never probe for a file that may not exist yet, some mounts cache the miss: list the folder.
"""

from __future__ import annotations

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
    Protocol = object  # to import typing costs every worker 2 ms

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
    # At most `length` bytes; none only at the end.
    def read(self, offset: int, length: int) -> bytes: ...
    # Exactly these bytes, at most PIECE at a time.
    def pieces(self, offset: int, length: int) -> Iterator[bytes]: ...
    # The offset of the next stored byte: a hole in a sparse file need not be read.
    def data(self, offset: int) -> int: ...


class Storage(Protocol):
    """A folder or a prefix. All names are relative to it; a folder's name ends with /."""

    copies_at_once: int  # how many calls of copy() may run at the same time; 0 is one at a time

    # The full path of a name, for messages.
    def path(self, name: str) -> str: ...
    # A file to read. With `version` any other version is an error, also one that shows only during
    # the reads; a bucket need not be asked for the `size` of that version. Raises
    # FileNotFoundError.
    def open(
        self, name: str, version: str = "", size: int | None = None
    ) -> ContextManager[StoredFile]: ...
    # The bytes of segments, one after the other, at most PIECE at a time. A bucket is asked for
    # several at once.
    def read(self, segments: Iterable[Segment]) -> Iterator[bytes]: ...
    # A whole file in pieces. The first one raises FileNotFoundError.
    def stream(self, name: str) -> Iterator[bytes]: ...
    # The same without links, to see whether two names mean one file.
    def real(self, name: str) -> str: ...
    # Every file below a folder, or those that are wanted, in byte order of the names; none if there
    # is no such folder. A link is refused.
    def names(self, folder: str, wanted: Wanted | None = None) -> Iterator[str]: ...
    # For each of these names, in their order: name, size and version of the file as it is now, or
    # None if it is missing. For names that are expected to exist: a mount may cache a miss.
    def versions(self, names: Iterable[str]) -> Iterator[tuple[str, int, str] | None]: ...
    # The folders directly in a folder; none if there is no such folder. Links are left out.
    def folders(self, folder: str) -> list[str]: ...
    # Make a folder and its parents, where the storage has folders.
    def make_folder(self, folder: str) -> None: ...
    # Delete a file, if it exists.
    def remove(self, name: str) -> None: ...
    # Whether a listing has this file, which is no link. Unlike an open of a missing file, no mount
    # caches that.
    def has(self, name: str) -> bool: ...
    # Those of these names that may be there. A bucket says so of all: to ask for one that is
    # missing costs a request, and hides nothing.
    def likely(self, names: Iterable[str]) -> Iterable[str]: ...
    # Publish a file: of these pieces, which can be gone through again; of segments of inputs; of
    # what is written until the end of the `with`, of a name that no other attempt writes. All tell
    # the version of the whole file as it was published.
    def put(self, name: str, pieces: Iterable[bytes]) -> Segment: ...
    def copy(self, name: str, inputs: Self, segments: Iterable[Segment]) -> Segment: ...
    def writer(self, name: str) -> ContextManager[Writer]: ...
    # A checksum of a file as it is stored, with its kind before a colon.
    def checksum(self, name: str) -> str: ...


class Writer(Protocol):
    """A file being written. Without a write there will be none."""

    made: Segment | None  # after the end

    def write(self, data: bytes) -> None: ...


def open_storage(environ: Mapping[str, str]) -> tuple[Storage, Storage]:
    """WORK_DIR, which has the inputs, and RUN_DIR in it, which the run reads and writes."""
    root = environ.get("WORK_DIR", "/mnt/vol")
    if root.startswith(SCHEME):
        from fanfold.storage import bucket  # imports oss2, which is large

        return bucket.open_storage(environ)
    return folder.open_storage(root, environ)


def real_place(store: Storage, name: str) -> str:
    """Where a name is: of its folders, links count as what they lead to, but the name itself may be
    one."""
    place, _, base = name.rpartition("/")
    return f"{store.real(place).rstrip('/')}/{base}"


def check_apart(work: Storage, run: Storage, source: str, output: str, *more: str) -> None:
    """Refuse an INPUT that the run's own files would replace, or would be read as. Links count as
    what they lead to; final names are not looked for, since they may not be there yet."""
    name, final = work.real(source.rstrip("/")), real_place(run, output)
    ours = (f"{run.real('').rstrip('/')}/{one}" for one in (*OUTPUTS, *more, RESULT, REPORT))
    for own in (*ours, final):
        inside = f"{name}/".startswith(own.rstrip("/") + "/")
        if inside or (source.endswith("/") and own.startswith(f"{name}/")):
            raise WorkerError(
                f"INPUT is {source!r} and the run writes {own}: use another INPUT, OUTPUT or "
                "RUN_DIR"
            )
