"""A walk through a folder: the names of all files below it, or of the wanted files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from fanfold.errors import WorkerError
from fanfold.names import TEMPORARY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object  # the import of typing takes 2 ms per worker

MOST = 1_000_000  # names in a listing; all are in memory


class Wanted(Protocol):
    """Selects files below a folder."""

    begin: str  # the prefix of all wanted names: a bucket lists only this prefix

    # Whether the file with this name is wanted.
    def matches(self, name: str) -> bool: ...
    # Whether wanted files may be below this folder. Its name ends with /.
    def may_hold(self, folder: str) -> bool: ...


def is_of_interest(name: str, wanted: Wanted | None) -> bool:
    """Whether a name is a wanted file, or a folder with wanted files."""
    return not wanted or wanted.matches(name) or wanted.may_hold(name + "/")


def walk(root: str, folder: str, wanted: Wanted | None, listed: set[str]) -> Iterator[str]:
    """Yield the names below a folder in byte order, without unfinished files. Folders that were
    read are added to `listed`."""
    found, folders = list[bytes](), [folder]
    while folders:
        parent = folders.pop()
        try:
            entries = os.scandir(os.path.join(root, parent))
        except FileNotFoundError:
            if parent == folder:
                return iter(())
            raise
        with entries:
            for entry in entries:
                name = parent + entry.name
                if not is_of_interest(name, wanted):
                    continue
                if entry.is_symlink():
                    if wanted and not wanted.matches(name) and not entry.is_dir():
                        continue
                    raise WorkerError(f"{name} must not be a link: replace the link with the file")
                if entry.is_dir():
                    if not wanted or wanted.may_hold(name + "/"):
                        folders.append(name + "/")
                elif re.fullmatch(TEMPORARY, entry.name):  # of a pod that may have been killed
                    continue
                elif not wanted or wanted.matches(name):
                    found.append(os.fsencode(name))
                if len(found) > MOST:
                    raise WorkerError(
                        f"{folder} must have at most {MOST} files, got more: move some away"
                    )
        listed.add(parent)
    found.sort(reverse=True)
    return (os.fsdecode(found.pop()) for _ in range(len(found)))  # each name is freed after use
