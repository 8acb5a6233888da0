"""The workers in a bucket, by tests that a real one can run: it has no counters and no faults, its
limits are what they are, and what is in it is not ours.

With TEST_WORK_DIR=oss://BUCKET/PREFIX it is that bucket, and region, endpoint and credentials are
those of the environment (`make test-oss`); else a fake OSS, so that the tests are known to work.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, cast

import oss
import oss2
import pytest
from contract import RetryError, WorkerError
from fake import FakeOSS
from pipeline import BucketPath, Volume, model

NUMBERS = itertools.count()
LINE = "2026-01-01 [{}] naïve\n"
LOG = "".join(map(LINE.format, ("INFO", "WARN", "INFO", "DEBUG"))).encode() * 10_000


class Key(BucketPath):
    """The name of an object, for the tests' own eyes and hands."""

    bucket: ClassVar[Any]

    def read_bytes(self) -> bytes:
        """What it holds."""
        data: bytes = self.bucket.get_object(str(self)).read()
        return data

    def write_bytes(self, data: bytes) -> None:
        """Put it in place."""
        self.bucket.put_object(str(self), data)

    def exists(self) -> bool:
        """Whether there is one."""
        found: bool = self.bucket.object_exists(str(self))
        return found

    is_file = exists

    def unlink(self, missing_ok: bool = True) -> None:
        """Take it away."""
        self.bucket.delete_object(str(self))

    def rglob(self, pattern: str = "*") -> list[BucketPath]:
        """All below it."""
        assert pattern == "*"
        return [Key(found.key) for found in oss2.ObjectIteratorV2(self.bucket, f"{self}/")]

    def uploads(self) -> list[Any]:
        """The uploads below it that have not ended, and are billed."""
        return list(oss2.MultipartUploadIterator(self.bucket, prefix=f"{self}/"))


@pytest.fixture(scope="module")
def settings() -> Iterator[Mapping[str, str]]:
    """Where the tests work: below a prefix of their own, of which nothing is left in the end."""
    with ExitStack() as stack:
        place = os.environ.get("TEST_WORK_DIR")
        if place:
            ours = ("OSS_", "ALIBABA_CLOUD_")
            given = {name: os.environ[name] for name in os.environ if name.startswith(ours)}
        else:
            fake = stack.enter_context(FakeOSS())
            fake.bucket().put("team/log.txt", b"of others")
            place = "oss://bucket/team"
            given = {
                "OSS_ENDPOINT": fake.endpoint,
                "OSS_REGION": fake.service.region,
                "OSS_ACCESS_KEY_ID": "id",
                "OSS_ACCESS_KEY_SECRET": "secret",
            }
        given["WORK_DIR"] = f"{place.rstrip('/')}/fanfold-test-{secrets.token_hex(8)}"
        try:
            store, _ = oss.open_stores(given)
        except WorkerError as error:
            pytest.exit(str(error), 2)
        Key.bucket = store.bucket
        try:
            yield given
        finally:
            for upload in Key(store.root).uploads():
                Key.bucket.abort_multipart_upload(upload.key, upload.upload_id)
            for key in Key(store.root).rglob():
                key.unlink()
        if not os.environ.get("TEST_WORK_DIR"):
            assert (list(fake.bucket().objects), fake.uploads()) == (["team/log.txt"], {})


@pytest.fixture
def volume(settings: Mapping[str, str]) -> Volume:
    """An empty volume."""
    store, _ = oss.open_stores(settings)
    number = next(NUMBERS)
    work_dir = f"{settings['WORK_DIR']}/{number}"
    root = cast(Path, Key(f"{store.root}{number}"))
    return Volume(root).having(**{**settings, "WORK_DIR": work_dir})


def uploads(volume: Volume) -> list[Any]:
    """The uploads on the volume that have not ended."""
    return cast(Key, volume.root).uploads()


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count(volume: Volume, mode: str) -> None:
    """Right totals, under names that have to be quoted; and what is missing is counted again."""
    odd = "1 + 1 = 2 % ü &?"
    volume.write(f"{odd}.log", LOG)
    run = volume.having(INPUT=f"{odd}.log", RUN_DIR=odd, NUM_PARTS=4, SPLIT_MODE=mode)

    run.log_count()

    assert run.totals() == model([LOG])
    if mode == "copy":
        assert b"".join(run.copies(4)) == LOG
    run.result_path("2").unlink()
    assert run.split(ONLY_MISSING="true") == ["2"]
    run.count(["2"])
    run.merge()
    assert run.totals() == model([LOG])
    assert uploads(volume) == []


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_folder(volume: Volume, mode: str) -> None:
    """Of files that OSS can copy ranges of and of such as are too small for that, or empty."""
    sizes = {"a/1": 300_000, "a/2": 10, "a/b/3": 0, "c": 120_000, "d": 60_000, "e": 150_000}
    files = {name: LOG[:size] for name, size in sizes.items()}
    for name, data in files.items():
        volume.write(f"in/{name}", data)
    run = volume.having(INPUT="in/", RUN_DIR="run", NUM_PARTS=3, SPLIT_MODE=mode)

    run.log_count()

    assert run.totals() == model(files.values())
    if mode == "copy":
        assert b"".join(run.copies(3)) == b"".join(files.values())


@pytest.mark.parametrize("size", [1, 150_000])
def test_aggregation(volume: Volume, size: int) -> None:
    """Files are joined in order, by OSS itself where they are large enough."""
    files = [bytes([65 + number]) * size for number in range(7)]
    for number, data in enumerate(files):
        volume.write(f"aggregation-demo/l1/{number}.txt", data)

    for number in range(3):
        outcome = volume.run("process", number, 1, FILES=7, FAN_IN=3)
        assert outcome.code == 0, outcome.words
    outcome = volume.run("merge", 3, LEVEL=2, FAN_IN=3)

    assert outcome.code == 0, outcome.words
    joined = volume.root / "aggregation-demo/result.txt"
    assert joined.read_bytes() == b"".join(files)
    assert uploads(volume) == []


def test_uploads_of_many_parts(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that OSS makes by several ranges each, the last one short, and an object of several
    blocks that come from here; both read back in several ranges at once."""
    volume.write("log", LOG)
    run = volume.having(INPUT="log", NUM_PARTS=2)
    monkeypatch.setattr(oss, "MOST", 150_000)
    monkeypatch.setattr(oss, "PIECE", 200_000)

    run.log_count()

    assert run.totals() == model([LOG])
    assert b"".join(run.copies(2)) == LOG
    store, _ = oss.open_stores(volume.environ({}))
    monkeypatch.setattr(oss, "BLOCK", 300_000)
    store.put("large", (LOG[at : at + 7000] for at in range(0, len(LOG), 7000)))
    assert (volume.root / "large").read_bytes() == LOG
    assert b"".join(store.stream("large")) == LOG


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_replaced_input(volume: Volume, mode: str) -> None:
    """A new input of the old size: a part is not counted in place, and is copied once more."""
    volume.write("log", LOG)
    run = volume.having(INPUT="log", NUM_PARTS=2, SPLIT_MODE=mode)
    run.split()
    new = LOG.replace(b"INFO", b"WARN")
    volume.write("log", new)

    if mode == "range":
        outcome = run.run("count", PART_ID=0)
        assert (outcome.code, "has changed" in outcome.words) == (75, True)
        assert not run.result_path("0").exists()

    run.log_count(ONLY_MISSING="true")
    assert run.totals() == model([new])


def test_a_copy_of_what_has_changed(volume: Volume) -> None:
    """No object, and no upload is left that is billed."""
    volume.write("log", LOG)
    store, run = oss.open_stores(volume.environ({"RUN_DIR": "run"}))
    version, size = store.look("log")
    parts = [("log", version, 0, size // 2), ("log", "0" * 32, size // 2, size - size // 2)]

    with pytest.raises(RetryError, match="has changed"):
        run.copy("copy", store, parts)

    assert not (volume.root / "run/copy").exists()
    assert uploads(volume) == []


def test_an_upload_that_was_left(volume: Volume) -> None:
    """What a killed split has left of a copy ends when the copy is made again, and nothing else."""
    volume.write("log", LOG)
    key = f"{volume.root}/split-output/0.txt"
    left, other = (Key.bucket.init_multipart_upload(name).upload_id for name in (key, key + ".gz"))
    Key.bucket.upload_part(key, left, 1, b"a part")

    volume.having(INPUT="log", NUM_PARTS=2).split()

    assert [upload.upload_id for upload in uploads(volume)] == [other]
    assert b"".join(volume.copies(2)) == LOG


def test_what_is_not_there(volume: Volume) -> None:
    """An object, a plan, a bucket, a key: a sentence each, and what to do."""
    refusals = {
        ("split", "INPUT log is no file and no folder"): {"INPUT": "log"},
        ("split", "INPUT logs/ is no file and no folder"): {"INPUT": "logs/"},
        ("split", "NoSuchBucket"): {"WORK_DIR": f"oss://fanfold-{secrets.token_hex(16)}/x"},
        ("split", "InvalidAccessKeyId"): {
            "OSS_ACCESS_KEY_ID": f"LTAI{secrets.token_hex(10)}",
            "OSS_ACCESS_KEY_SECRET": "a-secret",
            "OSS_SESSION_TOKEN": "",
        },
    }
    for (worker, said), wrong in refusals.items():
        outcome = volume.run(worker, **wrong)
        assert (outcome.code, outcome.output) == (2, ""), outcome.words
        assert said in outcome.words
        assert "a-secret" not in outcome.words

    outcome = volume.run("count", PART_ID=0)
    assert outcome.code == 75, outcome.words
    assert "plan.json" in outcome.words
