"""Listings of a bucket: what is below a folder, and what is there of many names.

A page of a listing tells the size and the version of up to a thousand objects. A HEAD tells those
of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os.path import commonprefix
from typing import Any, Protocol, TypeAlias

import oss2

from fanfold.errors import WorkerError
from fanfold.storage.retries import Answer
from fanfold.storage.walk import Wanted, is_of_interest

PAGE = 1000  # keys in a page: what OSS gives at most
KEYS = 32  # per name that is looked up: to read so many takes less time than one more request
LONGEST = 1023  # bytes of a key

Info: TypeAlias = oss2.models.SimplifiedObjectInfo


class Ask(Protocol):
    """Makes a request about a name, and repeats the request where that can help."""

    def __call__(self, name: str, request: Callable[[], Answer], /) -> Answer: ...


class Listing:
    """Listings of the keys below `root`. Names are relative to it."""

    def __init__(self, bucket: oss2.Bucket, root: str, ask: Ask) -> None:
        self.bucket, self.root, self.ask = bucket, root, ask

    def below(self, begin: str, stop: str = "") -> Iterator[Info]:
        """What there is of names with this beginning. Up to `stop`, prefixes are given as
        objects."""
        prefix = self.root + begin
        pages = oss2.ObjectIteratorV2(self.bucket, prefix, stop, max_keys=PAGE, max_retries=1)
        # Only the page that failed is requested again.
        return iter(lambda: self.ask(begin, lambda: next(pages, None)), None)

    def files(self, folder: str, wanted: Wanted | None) -> Iterator[tuple[str, Info]]:
        """The files below a folder that are wanted, by name."""
        for found in self.below(wanted.begin if wanted else folder):
            name = found.key.removeprefix(self.root)
            if name and is_of_interest(name.removesuffix("/"), wanted):
                self.refuse_link(name, found)
                # A mount stores its folders as objects whose names end with /.
                if not name.endswith("/") and (not wanted or wanted.matches(name)):
                    yield name, found

    def refuse_link(self, name: str, found: Info) -> None:
        """Refuse what is no file, and no folder as a mount stores it."""
        if found.type == "Symlink" or (name.endswith("/") and found.size):
            raise WorkerError(
                f"oss://{self.bucket.bucket_name}/{found.key} is a link, or has bytes and the name "
                "of a folder: give its bytes to a plain object of another name"
            )

    def look_up(self, names: Iterable[str]) -> dict[str, Info]:
        """Those of these names that are there. Every page begins at one of them, and tells of all
        others that it goes past."""
        found: dict[str, Info] = {}
        # No other name can be that of an object. These sort as their bytes do.
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
            # Where many of the keys are wanted, pages are large.
            most = min(PAGE, KEYS * max(1, before - len(waiting)))
        return found

    def has(self, name: str) -> bool:
        key = self.root + name
        found = self.ask(name, lambda: self.bucket.list_objects_v2(key, max_keys=1))
        return [one.key for one in found.object_list] == [key]

    def _page(self, key: str, prefix: str, after: str, most: int) -> Any:
        """The first keys behind `after`; an error is one of `key`."""
        request = self.bucket.list_objects_v2
        return self.ask(
            key.removeprefix(self.root),
            lambda: request(prefix, start_after=after, max_keys=most),
        )


def is_utf8(name: str) -> bool:
    """Whether a name is UTF-8, as all keys are."""
    return name.encode(errors="replace").decode() == name


def just_before(key: str) -> str:
    """A key that sorts before this one. Hardly another key fits between the two."""
    point = ord(key[-1]) - 1
    if point < 1:  # no key holds U+0000
        return key[:-1]
    if 0xD800 <= point <= 0xDFFF:  # these are no characters
        point = 0xD7FF
    before = key[:-1] + chr(point)
    last = before + "\U0010ffff"
    return last if len(last.encode()) <= LONGEST else before
