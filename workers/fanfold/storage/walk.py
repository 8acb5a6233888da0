"""A walk through a folder: the names of all files below it, or of those that are wanted."""

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
    Protocol = object  # to import typing costs every worker 2 ms

MOST = 1_000_000  # names in a listing, which are in memory at once


class Wanted(Protocol):
    """Which of the files below a folder are wanted."""

    begin: str  # what all wanted names begin with: a bucket lists nothing else

    # Whether the file of this name is wanted.
    def matches(self, name: str) -> bool: ...
    # Whether wanted files may be in this folder, whose name ends with /, or below it.
    def may_hold(self, folder: str) -> bool: ...


def is_of_interest(name: str, wanted: Wanted | None) -> bool:
    """Whether a name is wanted as a file, or as a folder with wanted files."""
    return not wanted or wanted.matches(name) or wanted.may_hold(name + "/")


def walk(root: str, folder: str, wanted: Wanted | None, listed: set[str]) -> Iterator[str]:
    """The names below a folder, in byte order, without files that are being written. The folders
    that were read are added to `listed`."""
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
                    raise WorkerError(f"{name} is a link: put the file itself in its place")
                if entry.is_dir():
                    if not wanted or wanted.may_hold(name + "/"):
                        folders.append(name + "/")
                elif re.fullmatch(TEMPORARY, entry.name):  # by a pod that may be dead
                    continue
                elif not wanted or wanted.matches(name):
                    found.append(os.fsencode(name))
                if len(found) > MOST:
                    raise WorkerError(f"{folder} has more than {MOST} files: move some away")
        listed.add(parent)
    found.sort(reverse=True)
    return (os.fsdecode(found.pop()) for _ in range(len(found)))  # each is freed
