"""Listings of a bucket: their answers about many names, and the number of requests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake import FakeOSS
from fanfold.errors import WorkerError
from fanfold.inputs import find_inputs
from fanfold.patterns import Pattern
from fanfold.storage.bucket import open_storage
from fanfold.storage.listing import just_before
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Answer, Request
from pipeline import Volume


@pytest.fixture
def sizes(fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record the number of keys of each page."""
    found: list[int] = []
    answer = fake.service.answer

    def counted(operation: object, request: Request) -> Answer:
        made = answer(operation, request)  # type: ignore[arg-type]
        body = made.body if isinstance(made.body, bytes) else b""
        found.append(body.count(b"<Key>"))
        return made

    monkeypatch.setattr(fake.service, "answer", counted)
    yield found
    for key in list(fake.bucket().objects):
        fake.bucket().set(key, None)


def fill(fake: FakeOSS, volume: Volume, names: list[str]) -> None:
    """Write small objects."""
    some, none = (fake.bucket().put("elsewhere", data) for data in (b"x", b""))
    for name in names:
        made = some if name.rpartition("/")[2] else none
        fake.bucket().set(f"{volume.root}/{name}", made)


WORDS = st.text(st.sampled_from("ab/\x01\x02-é\ue000\U00010000\U0010ffff"), min_size=1, max_size=4)


@settings(max_examples=60)
@given(there=st.sets(WORDS, max_size=30), asked=st.lists(WORDS | st.just("\udcff"), max_size=30))
@pytest.mark.parametrize(("page", "keys"), [(1, 1), (3, 1), (5, 2), (1000, 32)])
def test_versions(fake: FakeOSS, page: int, keys: int, there: set[str], asked: list[str]) -> None:
    """In any order, with duplicates and missing names: the current state of these names, with pages
    of any size, and at most one page per name."""
    with Volume.temporary() as volume, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fanfold.storage.listing.PAGE", page)
        patch.setattr("fanfold.storage.bucket.PAGE", 7)
        patch.setattr("fanfold.storage.listing.KEYS", keys)
        expected = {}
        for name in there:
            made = fake.bucket().put(f"{volume.root}/{name}", name.encode())
            expected[name] = (name, len(name.encode()), made.etag)
        store, _ = open_storage(volume.environ({}))
        fake.counters.reset()
        names = [name for name in asked if not name.endswith("/")]
        found = list(store.versions(iter(names)))

    assert found == [expected.get(name) for name in names]
    counted = fake.counters.read()["requests"]
    assert set(counted) <= {"ListObjectsV2"}
    if not any("\U0010ffff" in name for name in there):  # the last of all characters
        assert counted.get("ListObjectsV2", 0) <= len(names)
    assert store.seen == {}


@pytest.mark.parametrize("present", [True, False])
def test_a_dense_list(bucket: Volume, fake: FakeOSS, sizes: list[int], *, present: bool) -> None:
    """5,000 names that are all objects of a folder, or none of which exists, take a page per
    thousand."""
    names = [f"in/{number:05}" for number in range(5000)]
    fill(fake, bucket, names if present else [f"{name}.txt" for name in names])
    store, _ = open_storage(bucket.environ({}))

    assert sum(map(bool, store.versions(names))) == 5000 * present

    assert 5 <= len(sizes) <= 6


def test_a_tenth_of_a_folder(bucket: Volume, fake: FakeOSS, sizes: list[int]) -> None:
    """Every tenth of 20,000: pages stay large."""
    names = [f"in/{number:05}" for number in range(20_000)]
    fill(fake, bucket, names)
    store, _ = open_storage(bucket.environ({}))

    assert [one and one[0] for one in store.versions(names[::10])] == names[::10]

    assert len(sizes) <= 22


def test_a_sparse_list(bucket: Volume, fake: FakeOSS, sizes: list[int]) -> None:
    """50 names among 20,000 take at most a request each, and few other keys. If a thousand more are
    between them, these take a few pages more."""
    names = [f"in/{number:05}" for number in range(20_000)]
    fill(fake, bucket, names)
    store, _ = open_storage(bucket.environ({}))
    asked = random.Random(1).sample(names[::400], 50)

    assert [one and one[0] for one in store.versions(asked)] == asked

    assert len(sizes) <= 55
    assert sum(sizes) <= 5000
    sizes.clear()
    asked = sorted({*asked, *names[8_000:8_900]})
    assert [one and one[0] for one in store.versions(asked)] == asked
    assert len(sizes) <= 60
    assert sum(sizes) <= 7000


def test_one_name(bucket: Volume, fake: FakeOSS, sizes: list[int]) -> None:
    """One name does not list a folder."""
    fill(fake, bucket, [f"in/1{number:05}" for number in range(2000)])
    store, _ = open_storage(bucket.environ({}))

    assert list(store.versions(["in/1"])) == [None]

    assert len(sizes) == 1
    assert sum(sizes) <= 50


def test_a_page_that_fails(bucket: Volume, fake: FakeOSS) -> None:
    """A failed page is requested again."""
    names = [f"{number}" for number in range(5)]
    fill(fake, bucket, names)
    store, _ = open_storage(bucket.environ({}))
    rule = fake.faults.add("reset", operation="ListObjectsV2", nth=1)

    assert [one and one[0] for one in store.versions(names)] == names
    assert rule.used == 1


def test_a_link(bucket: Volume, fake: FakeOSS) -> None:
    """A link is refused in a look-up, and in a listing if it is wanted."""
    link = replace(fake.bucket().put("elsewhere", b""), kind="Symlink")
    for name in ("a/1", "a/3"):
        bucket.write(name, b"x")
    fake.bucket().set(f"{bucket.root}/a/2", link)
    store, _ = open_storage(bucket.environ({}))

    assert [one and one[0] for one in store.versions(["a/1", "a/3"])] == ["a/1", "a/3"]
    with pytest.raises(WorkerError, match="/a/2 is a link"):
        list(store.versions(["a/1", "a/2"]))
    for pattern in ("[a]/[13]", "a/3", "*/1"):
        assert list(store.names("", Pattern(pattern))) == [
            name for name in ("a/1", "a/3") if Pattern(pattern).matches(name)
        ]
    for pattern in ("a/*", "**/2", "*/2/x"):
        with pytest.raises(WorkerError, match="/a/2 is a link"):
            list(store.names("a/", Pattern(pattern)))


def test_inputs_take_no_request_each(bucket: Volume, fake: FakeOSS, sizes: list[int]) -> None:
    """The inputs of a folder, a pattern and a list come from listings with their common prefix."""
    fill(fake, bucket, [f"in/{number:04}" for number in range(1500)])
    fill(fake, bucket, ["", "in/", "in/x/", *(f"on/{number:04}" for number in range(3000))])
    bucket.write("list", b"".join(b"in/%04d\n" % number for number in range(1500)))
    for source, count, pages in (
        ("in/", 1500, 2),
        ("in/*", 1500, 2),
        ("in/10*", 100, 1),
        ("@list", 1500, 2),
    ):
        sizes.clear()
        fake.counters.reset()
        environ = bucket.environ({})
        store, _ = open_storage(environ)
        assert len(find_inputs(store, source, "files", environ).lines) == count
        asked = {"ListObjectsV2": pages} | ({"GetObject": 1} if source == "@list" else {})
        assert fake.counters.read()["requests"] == asked
        assert store.seen == {}


@given(WORDS)
def test_just_before(key: str) -> None:
    """The result sorts before the key, is not longer than a key may be, and sorts after the
    prefixes of the key."""
    for one in (key, "x" * (1023 - len(key.encode())) + key):
        before = just_before(one)
        assert one[:-1].encode() <= before.encode() < one.encode()
        assert len(before.encode()) <= 1023
