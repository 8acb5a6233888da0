"""The workers in a bucket, with all sizes at their defaults: tests that are specific to buckets and
can run in a real bucket (`make test-oss`). There are no counters and no faults, and the bucket may
have other objects."""

from __future__ import annotations

import secrets

import pytest
from fanfold import Part
from fanfold.errors import RetryError
from fanfold.storage import bucket, uploads
from pipeline import Volume, model

pytestmark = [
    pytest.mark.usefixtures("storage"),
    pytest.mark.parametrize("storage", ["bucket"], indirect=True),
]

LINE = "2026-01-01 [{}] naïve\n"
LOG = "".join(map(LINE.format, ("INFO", "WARN", "INFO", "DEBUG"))).encode() * 10_000


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count(volume: Volume, mode: str) -> None:
    """The totals are right, under names that must be quoted. Missing parts are counted again."""
    odd = "1 + 1 = 2 % ü &?"
    volume.write(f"{odd}.log", LOG)
    run = volume.having(INPUT=f"{odd}.log", RUN_DIR=odd, NUM_PARTS=4, SPLIT_MODE=mode)

    run.log_count()

    assert run.totals() == model([LOG])
    if mode == "copy":
        assert b"".join(run.copies(4)) == LOG
    run.record_path("2").unlink()
    assert run.split(ONLY_MISSING="true") == ["2"]
    run.count(["2"])
    run.merge()
    assert run.totals() == model([LOG])
    assert volume.uploads() == []


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_folder(volume: Volume, mode: str) -> None:
    """Files that OSS can copy ranges of, and files that are too small for this, or empty."""
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
    """Files are joined in order, by OSS itself if they are large enough."""
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
    assert volume.uploads() == []


def test_uploads_of_many_parts(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that OSS makes from several ranges each, the last one short, and an object of several
    uploaded parts. Both are read back in several ranges in parallel."""
    volume.write("log", LOG)
    run = volume.having(INPUT="log", NUM_PARTS=2)
    monkeypatch.setattr(uploads, "MOST", 150_000)
    monkeypatch.setattr(bucket, "PIECE", 200_000)

    run.log_count()

    assert run.totals() == model([LOG])
    assert b"".join(run.copies(2)) == LOG
    store, _ = bucket.open_storage(volume.environ({}))
    monkeypatch.setattr(bucket, "WHOLE", 300_000)
    store.put("large", [LOG[at : at + 7000] for at in range(0, len(LOG), 7000)])
    assert (volume.root / "large").read_bytes() == LOG
    assert b"".join(store.stream("large")) == LOG


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_replaced_input(volume: Volume, mode: str) -> None:
    """A new input of the old size: no part of the old one counts, and its parts are copied
    again."""
    volume.write("log", LOG)
    run = volume.having(INPUT="log", NUM_PARTS=2, SPLIT_MODE=mode)
    run.split()
    new = LOG.replace(b"INFO", b"WARN")
    volume.write("log", new)

    if mode == "range":
        outcome = run.run("count", PART_ID=0)
        assert (outcome.code, "has changed" in outcome.words) == (75, True)
        assert not run.record_path("0").exists()

    run.log_count(ONLY_MISSING="true")
    assert run.totals() == model([new])


def test_a_copy_of_what_has_changed(volume: Volume) -> None:
    """There is no object, and no open upload that is billed."""
    volume.write("log", LOG)
    store, run = bucket.open_storage(volume.environ({"RUN_DIR": "run"}))
    found = store.look("log")
    version, size = found.version, found.size
    parts = [("log", version, 0, size // 2), ("log", "0" * 32, size // 2, size - size // 2)]

    with pytest.raises(RetryError, match="has changed"):
        run.copy("copy", store, parts)

    assert not (volume.root / "run/copy").exists()
    assert volume.uploads() == []


def test_an_upload_that_was_left(volume: Volume) -> None:
    """An open upload that a killed split left is aborted when the copy is made again. Other uploads
    are not."""
    volume.write("log", LOG)
    run = volume.having(INPUT="log", NUM_PARTS=2)
    run.split()
    run.copy_path(0).unlink()
    store, _ = bucket.open_storage(volume.environ({}))
    key = str(run.copy_path(0))
    left, _ = (store.bucket.init_multipart_upload(name).upload_id for name in (key, key + ".gz"))
    store.bucket.upload_part(key, left, 1, b"a part")

    run.split()

    assert volume.uploads() == [key + ".gz"]
    assert b"".join(run.copies(2)) == LOG


@pytest.mark.parametrize("size", [0, 1, 90_000, 300_000, 1_000_000])
def test_a_written_object(volume: Volume, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """An object from one request or several parts has its bytes, and the version that OSS returns
    for it, in a HEAD as in a listing. The same is true for a PUT and for a copy by OSS."""
    monkeypatch.setattr(uploads, "FIRST", 200_000)
    content = (LOG * 2)[:size]
    store, _ = bucket.open_storage(volume.environ({}))
    with store.writer("written") as out:
        for at in range(0, max(size, 1), 70_000):
            out.write(content[at : at + 70_000])
    assert out.made
    made = [out.made, store.put("put", [content]), store.copy("copied", store, [out.made])]

    for name, version, _, length in made:
        assert (volume.root / name).read_bytes() == content
        found = store.look(name)
        assert (found.version, found.size, length) == (version, size, size)
    names = [name for name, *_ in made]
    assert list(store.names("")) == sorted(names)
    assert [store.seen[name].version for name in names] == [version for _, version, *_ in made]
    assert all(map(store.has, names))
    assert not store.has("write")
    assert {store.checksum(name) for name in ("written", "put")} == {store.checksum("put")}
    assert store.checksum("copied").startswith(("crc64:", "etag:"))
    assert volume.uploads() == []


@pytest.mark.parametrize("repeats", [1, 200])
def test_outputs_of_maps(volume: Volume, repeats: int) -> None:
    """Outputs are joined in order, by OSS if they are large enough. One is empty, and one part has
    none."""
    volume.write("log", b"".join(b"%d a line\n" % n for n in range(8000)))
    run = volume.having(INPUT="log", NUM_PARTS=6, OUTPUT="joined", MAP_SETTINGS="reversed lines")
    written: dict[str, bytes] = {}

    def map_lines(part: Part) -> None:
        lines = [line[::-1] for line in part.lines()] * repeats
        written[part.id] = b"" if part.id in "24" else b"\n".join(lines)
        if part.id != "4":
            part.write(written[part.id])

    outcome = run.fan_out(map_lines)

    assert outcome.code == 0, outcome.words
    assert run.final("joined") == b"".join(data for _, data in sorted(written.items()))
    assert run.final("result.json") == b"{}\n"
    assert volume.uploads() == []


def test_what_is_not_there(volume: Volume) -> None:
    """A missing object, plan, bucket or key: one message each, with a remedy."""
    refusals = {
        ("split", "INPUT must be a file or a folder of files in WORK_DIR, got 'log'"): {
            "INPUT": "log"
        },
        ("split", "INPUT must be a file or a folder of files in WORK_DIR, got 'logs/'"): {
            "INPUT": "logs/"
        },
        ("split", "NoSuchBucket"): {"WORK_DIR": f"oss://fanfold-{secrets.token_hex(16)}/x"},
        ("split", "InvalidAccessKeyId"): {
            "OSS_ACCESS_KEY_ID": f"LTAI{secrets.token_hex(10)}",
            "OSS_ACCESS_KEY_SECRET": "a-secret",
            "OSS_SESSION_TOKEN": "",
        },
    }
    for (worker, sentence), wrong in refusals.items():
        outcome = volume.run(worker, **wrong)
        assert (outcome.code, outcome.output) == (2, ""), outcome.words
        assert sentence in outcome.words
        assert "a-secret" not in outcome.words

    outcome = volume.run("count", PART_ID=0)
    assert outcome.code == 75, outcome.words
    assert "plan.json" in outcome.words
