"""Listings of every storage: the wanted names below a folder, and look-ups of a list of names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from fanfold.errors import WorkerError
from fanfold.storage import open_storage
from hypothesis import given
from hypothesis import strategies as st
from pipeline import Volume

pytestmark = pytest.mark.usefixtures("storage")


@dataclass
class These:
    """Selects exactly these names."""

    wanted: Iterable[str]
    begin: str = "in/"

    def matches(self, name: str) -> bool:
        """Whether this is one of the names."""
        return name in self.wanted

    def may_hold(self, folder: str) -> bool:
        """Whether one of the names is below this folder."""
        return any(name.startswith(folder) for name in self.wanted)


NAMES = ["in/a", "in/b/a", "in/b/c/a", "in/b.c", "in/é", "in/d/e/f", "in/.x", "in/g\nh"]


@given(there=st.sets(st.sampled_from(NAMES)), asked=st.lists(st.sampled_from([*NAMES, "in/a/b"])))
def test_names_and_versions(there: set[str], asked: list[str]) -> None:
    """Names are in byte order. Versions are current and in the order of the request."""
    with Volume.temporary() as volume:
        for name in there:
            volume.write(name, os.fsencode(name))
        store, _ = open_storage(volume.environ({}))
        expected = {}
        for name in there:
            with store.open(name) as file:
                expected[name] = (name, file.size, file.version)

        assert list(store.names("in/")) == sorted(there, key=os.fsencode)
        wanted = These(set(asked))
        assert list(store.names("in/", wanted)) == sorted(there & set(asked), key=os.fsencode)
        assert list(store.versions(iter(asked))) == [expected.get(name) for name in asked]


@pytest.mark.folder
def test_folders_that_hold_nothing_wanted(volume: Volume) -> None:
    """Folders without wanted names are not read. A link is refused only if it matches."""
    for name in ("in/a/1", "in/b/1"):
        volume.write(name, b"x")
    (volume.root / "in/b/link").symlink_to(volume.root / "in/a")
    (volume.root / "in/c").symlink_to(volume.root / "in/a")
    store, _ = open_storage(volume.environ({}))

    for name in ("in/a/1", "in/b/1"):
        assert list(store.names("in/", These([name]))) == [name]
    assert list(store.names("in/", These(["in/a"]))) == []
    for wanted in (None, These(["in/c/1"]), These(["in/c"]), These(["in/b/link"])):
        with pytest.raises(WorkerError, match="must not be a link"):
            list(store.names("in/", wanted))
