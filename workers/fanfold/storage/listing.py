"""Listings of a bucket: the objects below a folder, and look-ups of many names.

A page of a listing has the sizes and versions of up to a thousand objects. A HEAD request is for
one object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os.path import commonprefix
from typing import Any, Protocol, TypeAlias

import oss2

from fanfold.errors import WorkerError
from fanfold.storage.retries import Answer
from fanfold.storage.walk import Wanted, is_of_interest

PAGE = 1000  # keys in a page: the maximum of OSS
KEYS = 32  # per name of a look-up: reading them takes less time than one more request
LONGEST = 1023  # bytes of a key: the limit of OSS

Info: TypeAlias = oss2.models.SimplifiedObjectInfo


class Ask(Protocol):
    """Sends a request about a name, and retries if a retry can help."""

    def __call__(self, name: str, request: Callable[[], Answer], /) -> Answer: ...


class Listing:
    """Listings of the keys below `root`. Names are relative to `root`."""

    def __init__(self, bucket: oss2.Bucket, root: str, ask: Ask) -> None:
        self.bucket, self.root, self.ask = bucket, root, ask

    def below(self, begin: str, stop: str = "") -> Iterator[Info]:
        """Yield the objects with this prefix. With `stop`, prefixes up to this character are
        returned as objects."""
        prefix = self.root + begin
        pages = oss2.ObjectIteratorV2(self.bucket, prefix, stop, max_keys=PAGE, max_retries=1)
        # Only a failed page is requested again.
        return iter(lambda: self.ask(begin, lambda: next(pages, None)), None)

    def files(self, folder: str, wanted: Wanted | None) -> Iterator[tuple[str, Info]]:
        """Yield the wanted files below a folder, by name."""
        for found in self.below(wanted.begin if wanted else folder):
            name = found.key.removeprefix(self.root)
            if name and is_of_interest(name.removesuffix("/"), wanted):
                self.refuse_link(name, found)
                # A mount stores folders as objects with names that end with /.
                if not name.endswith("/") and (not wanted or wanted.matches(name)):
                    yield name, found

    def refuse_link(self, name: str, found: Info) -> None:
        """Refuse an object that is not a file and not a folder as a mount stores it."""
        if found.type == "Symlink" or (name.endswith("/") and found.size):
            raise WorkerError(
                f"oss://{self.bucket.bucket_name}/{found.key} is a link, or has bytes and the "
                "name of a folder: copy its bytes to an ordinary object with another name"
            )

    def look_up(self, names: Iterable[str]) -> dict[str, Info]:
        """Return the names that exist. Every page begins at one of the names, and also covers all
        others in its range."""
        found: dict[str, Info] = {}
        # Keys are UTF-8, so other names cannot exist. These names sort like their bytes.
        waiting = sorted({self.root + name for name in names if is_utf8(name)}, reverse=True)
        prefix = commonprefix(waiting)  # noqa: RUF071 - of characters, not of steps
        after, most = "", min(PAGE, KEYS * len(waiting))
        while waiting:
            after, before = max(after, just_before(waiting[-1])), len(waiting)
            page = self._page(waiting[-1], prefix, after, most)
            there = {one.key: one for one in page.object_list}
            is_last = not page.is_truncated or not there
            after = "" if is_last else page.object_list[-1].key
            while waiting and (is_last or waiting[-1] <= after):
                key = waiting.pop()
                if one := there.get(key):
                    name = key.removeprefix(self.root)
                    self.refuse_link(name, one)
                    found[name] = one
            # If many of the keys are wanted, pages are large.
            most = min(PAGE, KEYS * max(1, before - len(waiting)))
        return found

    def has(self, name: str) -> bool:
        key = self.root + name
        found = self.ask(name, lambda: self.bucket.list_objects_v2(key, max_keys=1))
        return [one.key for one in found.object_list] == [key]

    def _page(self, key: str, prefix: str, after: str, most: int) -> Any:
        """Return the first keys after `after`. An error is reported for `key`."""
        request = self.bucket.list_objects_v2
        return self.ask(
            key.removeprefix(self.root),
            lambda: request(prefix, start_after=after, max_keys=most),
        )


def is_utf8(name: str) -> bool:
    """Whether a name is UTF-8, as all keys are."""
    return name.encode(errors="replace").decode() == name


def just_before(key: str) -> str:
    """Return a key that sorts before this key, with few or no other keys in between."""
    point = ord(key[-1]) - 1
    if point < 1:  # no key contains U+0000
        return key[:-1]
    if 0xD800 <= point <= 0xDFFF:  # surrogates are not characters
        point = 0xD7FF
    before = key[:-1] + chr(point)
    last = before + "\U0010ffff"
    return last if len(last.encode()) <= LONGEST else before
