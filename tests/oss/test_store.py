"""Storage in a bucket: ranges, multipart uploads, listings, and their memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count as numbers
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from fake import FakeOSS
from fanfold import records
from fanfold.errors import RetryError, WorkerError
from fanfold.names import nonce
from fanfold.storage import Segment, folder, retries, uploads
from fanfold.storage import bucket as oss_bucket
from fanfold.storage.bucket import Bucket, open_storage
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Answer, Request
from objects import Object, Part, crc64
from pipeline import INPUT, KEYWORDS, TIMEOUT, Volume, finish, model, pieces_of

KIB, MIB = 1 << 10, 1 << 20
LOG = b"INFO 1\nWARN 2\nERROR 3\nINFO 4\n"
# Uploads of many small parts that OSS copies, one at a time.
SMALL_PARTS = f"""if True:
    from fanfold.storage import bucket, uploads
    uploads.MOST, bucket.LANES = {128 * KIB}, 1"""

OVER_HTTP = settings(max_examples=15)
Tamper = Callable[[Request, Answer], None]


def stores(volume: Volume, **settings: object) -> tuple[Bucket, Bucket]:
    """Open the storages of a worker."""
    return open_storage(volume.environ(settings))


def tamper(monkeypatch: pytest.MonkeyPatch, fake: FakeOSS, change: Tamper, times: int) -> None:
    """Change some of the answers to range requests."""
    answer, left = fake.service.answer, [None] * times

    def changed(operation: Any, request: Request) -> Answer:
        made = answer(operation, request)
        if "range" in request.headers and left:
            left.pop()
            change(request, made)
        return made

    monkeypatch.setattr(fake.service, "answer", changed)


def large(fake: FakeOSS, key: str, piece: bytes, count: int) -> None:
    """Write an object that repeats a piece, which is stored once."""
    part = Part(fake.bucket().receive([piece]))
    fake.bucket().set(key, Object.joined([part] * count, {}))


# --- ranges


@OVER_HTTP
@given(st.data())
@pytest.mark.parametrize("connections", [1, 4, 16])
def test_ranges(fake: FakeOSS, connections: int, data: st.DataObject) -> None:
    """Any range, especially around the step sizes: its bytes in order, in pieces, each fetched
    once, with a limited number of parallel requests."""
    piece = data.draw(st.integers(16, 40), "piece")
    steps = st.integers(0, 12).flatmap(lambda n: st.integers(max(0, n * piece - 2), n * piece + 2))
    offset, length, behind = (data.draw(steps, name) for name in ("offset", "length", "behind"))
    content = bytes(at % 251 for at in range(offset + length + behind))
    with Volume.temporary() as volume, pieces_of(piece):
        volume.write("x", content)
        inputs, _ = stores(volume, OSS_CONNECTIONS=connections)
        with inputs.open("x") as file:
            fake.counters.reset()
            pieces = list(file.pieces(offset, length))

    assert b"".join(pieces) == content[offset : offset + length]
    assert all(0 < len(one) <= piece for one in pieces)
    counted = fake.counters.read()
    assert counted["down"].get("GetObject", 0) == length
    assert counted["most_requests_at_once"] <= connections
    step = min(4 * piece // connections, max(piece, -(-length // connections)))
    assert counted["requests"].get("GetObject", 0) == -(-length // step)


def test_ranges_at_once(bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maximum number of ranges is fetched in parallel: the answers wait for each other."""
    meeting = Barrier(4)

    def meet(*_: object) -> None:
        meeting.wait(TIMEOUT)

    tamper(monkeypatch, fake, meet, 8)
    with pieces_of(16):
        bucket.write("x", bytes(8 * 16))
        inputs, _ = stores(bucket, OSS_CONNECTIONS=4)
        with inputs.open("x") as file:
            assert b"".join(file.pieces(0, file.size)) == bytes(8 * 16)
    assert not meeting.broken


def whole(_: Request, answer: Answer) -> None:
    """The whole object, as for a range that OSS does not understand."""
    answer.status = 200
    del answer.headers["Content-Range"]


def shifted(_: Request, answer: Answer) -> None:
    """Other bytes of the same number."""
    assert isinstance(answer.body, tuple)
    answer.body = tuple(replace_piece(piece) for piece in answer.body)
    first = int(answer.headers["Content-Range"].split()[1].partition("-")[0]) - 1
    answer.headers["Content-Range"] = f"bytes {first}-{first + 9}/100"


def replace_piece(piece: Any) -> Any:
    """The same piece, a byte before."""
    return piece._replace(offset=piece.offset - 1)


def unnamed(_: Request, answer: Answer) -> None:
    """A 206 without the range in its headers."""
    del answer.headers["Content-Range"]


def short(_: Request, answer: Answer) -> None:
    """A body that is shorter than its length and ends normally."""
    assert isinstance(answer.body, tuple)
    answer.body = tuple(piece._replace(length=piece.length - 1) for piece in answer.body)


@pytest.mark.parametrize("change", [whole, shifted, unnamed, short])
def test_wrong_ranges(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, change: Tamper
) -> None:
    """An answer with another range is requested again, and never used."""
    content = bytes(range(100))
    bucket.write("x", content)
    for times in (1, retries.ATTEMPTS - 1, retries.ATTEMPTS):
        with monkeypatch.context() as patch:
            inputs, _ = stores(bucket, OSS_CONNECTIONS=1)
            with inputs.open("x") as file:
                tamper(patch, fake, change, times)
                if times < retries.ATTEMPTS:
                    assert file.read(10, 10) == content[10:20]
                else:
                    with pytest.raises(RetryError, match=f"oss://bucket/.*/x.*{times} attempts"):
                        file.read(10, 10)


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_broken_bodies(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """Bodies that end early or stall, at every byte: the range is fetched again."""
    monkeypatch.setattr(oss_bucket, "TIMEOUT", (10, 0.1))
    content = bytes(range(16))
    bucket.write("x", content)
    inputs, _ = stores(bucket)
    for at in range(0, 16, 1 if fault == "truncate" else 5):
        rule = fake.faults.add(fault, method="GET", at=at, seconds=30, times=2)
        with inputs.open("x") as file:
            assert file.read(0, 16) == content
        assert rule.used == 2
    fake.faults.add("truncate", method="GET", at=15)
    with inputs.open("x") as file, pytest.raises(RetryError):
        file.read(0, 16)


@pytest.mark.parametrize("connections", [1, 4, 64])
def test_memory(bucket: Volume, fake: FakeOSS, connections: int) -> None:
    """A part of 448 MiB is counted within the memory request of its pod."""
    large(fake, str(bucket.root / INPUT), (LOG * 40_000)[:MIB], 448)
    volume = bucket.having(SPLIT_MODE="range", NUM_PARTS=1, KEYWORDS="ERROR")
    volume.split()
    outcome = volume.call("count", prologue=PEAK, PART_ID=0, OSS_CONNECTIONS=connections)
    assert outcome.code == 0, outcome.words
    assert int(outcome.words.split()[-1]) < 256 * KIB


def test_memory_of_many_objects(bucket: Volume, fake: FakeOSS) -> None:
    """Objects of 20 MiB in one part, several fetched in parallel: they take the memory of one large
    object."""
    for number in range(20):
        large(fake, f"{bucket.root}/in/{number:02}", (LOG * 40_000)[:MIB], 20)
    volume = bucket.having(SPLIT_MODE="range", NUM_PARTS=1, KEYWORDS="ERROR", INPUT="in/")
    volume.split()
    outcome = volume.call("count", prologue=PEAK, PART_ID=0, OSS_CONNECTIONS=16)
    assert outcome.code == 0, outcome.words
    assert int(outcome.words.split()[-1]) < 256 * KIB


def test_memory_per_object(bucket: Volume, fake: FakeOSS) -> None:
    """Split takes a few hundred bytes per object, like the plan. The proof takes none: it reads
    plan and listing side by side."""
    made = fake.bucket().put("elsewhere", b"INFO\n")
    volume = bucket.having(SPLIT_MODE="range", NUM_PARTS=1, INPUT="in/")
    used: dict[tuple[str, int], int] = {}
    for count in (1, 30_000):
        for number in range(count):
            fake.bucket().set(f"{bucket.root}/in/{number:06}.log", made)
        volume.split()
        volume.record_path("0").write_bytes(
            records.seal_part(
                "0", job=volume.job(), plan=volume.plan()["id"], size=5 * count, output=None,
                counts=dict.fromkeys(KEYWORDS, count), made=records.maker({}, 0),
            )
        )  # fmt: skip
        for worker in ("split", "merge"):
            outcome = volume.call(worker, prologue=PEAK)
            assert outcome.code == 0, outcome.words
            used[worker, count] = int(outcome.words.split()[-1]) * KIB
    print({key: f"{size / MIB:.1f} MiB" for key, size in used.items()})
    assert used["split", 30_000] < used["split", 1] + 30_000 * 400
    assert used["merge", 30_000] < used["merge", 1] + 10 * MIB


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_small_objects_at_once(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The small objects of a part are fetched in parallel, and counted in order: the answers wait
    for each other. Their copy is one request."""
    files = [b"%d INFO" % number * (number + 1) for number in range(16)]
    volume = bucket.having(SPLIT_MODE=mode, NUM_PARTS=1, INPUT="in/", OSS_CONNECTIONS=4)
    for number, data in enumerate(files):
        volume.write(f"in/{number:02}", data)
    volume.split()
    meeting = Barrier(4)

    def meet(*_: object) -> None:
        if mode == "range":
            meeting.wait(TIMEOUT / 4)

    tamper(monkeypatch, fake, meet, 16)
    fake.counters.reset()
    taken: list[bytes] = []
    outcome = volume.run_map(lambda part: taken.extend(part.lines()), 0, MAP_SETTINGS="lines")
    assert outcome.code == 0, outcome.words
    assert taken == files
    assert not meeting.broken
    counted = fake.counters.read()
    assert counted["requests"]["GetObject"] == 1 + (16 if mode == "range" else 1)
    assert counted["most_requests_at_once"] <= 4


def test_a_copy_that_goes_away(bucket: Volume) -> None:
    """Another run of the plan removes a copy while it is read: 75 and no record. The map does not
    start again from the inputs."""
    volume = bucket.having(NUM_PARTS=1, MAP_SETTINGS="lines")
    volume.write(INPUT, LOG * 100)
    volume.split()

    def take(part: Any) -> None:
        for _ in part.pieces():
            volume.copy_path(0).unlink(missing_ok=True)

    with pieces_of(64):
        assert volume.run_map(take, 0).code == 75
        assert not volume.record_path("0").exists()
        volume.fan_out(lambda part: part.write(b"".join(part.pieces())))
    assert volume.final("result.out") == LOG * 100


# --- the parts of an upload


def lengths() -> st.SearchStrategy[list[int]]:
    """Lengths of segments, around the minimum and maximum size of a part."""
    least, most = uploads.LEAST, uploads.MOST
    edges = [n + d for n in (least, uploads.SENT, most, 2 * most) for d in (-1, 0, 1)]
    some = st.sampled_from([0, 1, *edges, least // 2, 2 * least - 1, 40 * most])
    return st.lists(some | st.integers(0, 3 * least), max_size=30)


@given(lengths())
def test_upload_parts(sizes: list[int]) -> None:
    """All bytes once and in order. Only the last part is smaller than the minimum of OSS, and none
    is larger than the maximum. Each part that OSS copies is one range. Few bytes of large segments
    go through the pod."""
    least = uploads.LEAST
    segments = [(f"{n}", "v", 7 * n, size) for n, size in enumerate(sizes)]
    parts = list(uploads.upload_parts(segments))
    joined: list[Segment] = []
    for name, version, at, size in (one for part in parts for one in part):
        assert size > 0
        if joined and joined[-1][0] == name:
            assert joined[-1][2] + joined[-1][3] == at
            joined[-1] = (name, version, joined[-1][2], joined[-1][3] + size)
        else:
            joined.append((name, version, at, size))
    assert joined == [one for one in segments if one[3]]

    totals = [sum(one[3] for one in part) for part in parts]
    assert all(total >= least for total in totals[:-1])
    for part, total in zip(parts, totals, strict=True):
        assert total <= (uploads.MOST if uploads.is_copied(part) else uploads.SENT + least)
    through = sum(
        total for part, total in zip(parts, totals, strict=True) if not uploads.is_copied(part)
    )
    small = sum(size % uploads.MOST if size % uploads.MOST < least else 0 for size in sizes)
    assert through <= small + least * len(sizes)


@pytest.mark.parametrize("size", [2 << 40, 20 << 40])
def test_upload_parts_of_terabytes(size: int) -> None:
    """The maximum object of OSS, in parts of at most 5 GB, fits."""
    segments = [("x", "v", 0, size), ("y", "v", 5, 100), ("z", "v", 0, 1 << 38)]
    parts = list(uploads.upload_parts(segments))
    assert len(parts) <= uploads.MAX_PARTS
    assert max(one[3] for part in parts for one in part) <= 5 << 30
    assert sum(one[3] for part in parts for one in part) == size + 100 + (1 << 38)


@OVER_HTTP
@given(st.lists(st.binary(max_size=200), max_size=12), st.integers(16, 48), st.data())
def test_uploads(fake: FakeOSS, contents: list[bytes], size: int, data: st.DataObject) -> None:
    """Copies, joined objects and blocks, with OSS's own rules for parts: the same bytes."""
    with Volume.temporary(RUN_DIR="run") as volume, pieces_of(size):
        for number, content in enumerate(contents):
            volume.write(f"run/{number}", content)
        inputs, run = stores(volume)
        segments: list[Segment] = []
        expected = b""
        for number, content in enumerate(contents):
            first, end = sorted(data.draw(st.integers(0, len(content))) for _ in "12")
            version = inputs.look(f"run/{number}").version
            segments.append((f"run/{number}", version, first, end - first))
            expected += content[first:end]
        fake.counters.reset()
        made = run.copy("copy", inputs, segments)
        assert made == as_it_is(run, "copy")
        assert (volume.run_dir / "copy").read_bytes() == expected
        parts = uploads.upload_parts(segments)
        through = [part for part in parts if not uploads.is_copied(part)]
        moved = sum(one[3] for part in through for one in part)
        counted = fake.counters.read()
        assert counted["down"].get("GetObject", 0) == moved
        assert counted["up"].get("PutObject", 0) + counted["up"].get("UploadPart", 0) == moved

        assert run.put("put", contents) == as_it_is(run, "put")
        assert (volume.run_dir / "put").read_bytes() == b"".join(contents)
        assert fake.uploads() == {}


def as_it_is(store: Bucket, name: str) -> Segment:
    """Return an object as in a HEAD."""
    found = store.look(name)
    return name, found.version, 0, found.size


def joined(volume: Volume, count: int = 20) -> tuple[Bucket, list[Segment], bytes]:
    """Write objects to join, each large enough to be copied by OSS."""
    store, _ = stores(volume)
    made = [store.put(f"in/{n}", [bytes([n]) * (16 + n)]) for n in range(count)]
    return store, made, b"".join(bytes([n]) * (16 + n) for n in range(count))


@pytest.mark.parametrize("most", [3, 7, 19])
def test_more_parts_than_an_upload_has(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """They are copied in steps, by OSS except for the small ends. No object of the steps is
    left."""
    with pieces_of(16):
        monkeypatch.setattr(uploads, "MAX_PARTS", most)
        monkeypatch.setattr(fake.service.limits, "parts", most)
        store, made, content = joined(bucket)
        fake.counters.reset()
        assert store.copy("whole", store, made) == as_it_is(store, "whole")
    assert (bucket.root / "whole").read_bytes() == content
    counted = fake.counters.read()
    assert counted["down"].get("GetObject", 0) < 16
    assert set(bucket.tree()) == {"whole", *(name for name, *_ in made)}
    assert bucket.uploads() == []


def test_steps_of_a_copy_with_a_long_key(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps have keys that are short enough for a unique suffix."""
    with pieces_of(16):
        monkeypatch.setattr(uploads, "MAX_PARTS", 3)
        store, made, content = joined(bucket, 7)
        name = "é" * ((1023 - len(store.root)) // 2)
        assert store.copy(name, store, made) == as_it_is(store, name)
    assert (bucket.root / name).read_bytes() == content
    assert set(bucket.tree()) == {name, *(name for name, *_ in made)}


def test_steps_of_a_copy_that_fails(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a failure of any request, no object of the steps is left."""
    with pieces_of(16):
        monkeypatch.setattr(uploads, "MAX_PARTS", 3)
        store, made, _ = joined(bucket, 7)
        for nth in range(1, 100):
            fake.faults.clear()
            rule = fake.faults.add("error", operation="*Up*", nth=nth, status=403, code="No")
            try:
                store.copy("whole", store, made)
            except WorkerError:
                assert set(bucket.tree()) - {"whole"} == {name for name, *_ in made}
            assert bucket.uploads() == []
            if not rule.used:
                break
    assert nth > 20


# --- objects that are written


@OVER_HTTP
@given(st.lists(st.binary(max_size=150), max_size=12), st.integers(16, 48))
def test_writer(fake: FakeOSS, pieces: list[bytes], size: int) -> None:
    """Any pieces: their bytes, in one PUT if they fit in the first part, otherwise in growing
    parts, with the right version. Without a write there is no object, not an empty one."""
    content = b"".join(pieces)
    with Volume.temporary() as volume, pieces_of(size):
        store, _ = stores(volume)
        fake.counters.reset()
        with store.writer("out") as out:
            for piece in pieces:
                out.write(piece)
        asked = fake.counters.read()["requests"]
        assert (volume.final("out") is None) == (not pieces)
        if pieces:
            assert volume.final("out") == content
            assert out.made == as_it_is(store, "out")
        full = [sum(map(uploads.part_size, range(n + 1))) for n in range(len(content))]
        parts = sum(end < len(content) for end in full) + 1 if len(content) >= size else 0
        assert asked.get("UploadPart", 0) == parts
        assert asked.get("PutObject", 0) == (bool(pieces) and not parts)
        assert volume.uploads() == []


def test_writer_in_a_folder(tmp_path: Path) -> None:
    """The same in a folder: without a write there is no file; an empty write makes an empty
    file."""
    _, store = folder.open_storage(str(tmp_path), {})
    for pieces in ([], [b""], [b"a", b"", b"bc"]):
        with store.writer("out") as out:
            for piece in pieces:
                out.write(piece)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"".join(pieces)] * bool(
            pieces
        )
        assert (out.made or ("out", "", 0, 0))[3] == len(b"".join(pieces))


@pytest.mark.parametrize("length", [5, 40])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_writer_that_fails(bucket: Volume, length: int, error: type[BaseException]) -> None:
    """There is no object, and no open upload that is billed."""
    store, _ = stores(bucket)

    def write() -> None:
        with store.writer("out") as out:
            out.write(bytes(length))
            assert bool(bucket.uploads()) == (length >= 16)
            raise error

    with pieces_of(16), pytest.raises(error):
        write()
    assert (bucket.tree(), bucket.uploads()) == ({}, [])


@pytest.mark.parametrize("operation", ["InitiateMultipartUpload", "UploadPart", "PutObject"])
def test_writer_with_lost_answers(bucket: Volume, fake: FakeOSS, operation: str) -> None:
    """Each request is retried. An upload with a lost id is aborted."""
    with pieces_of(16):
        store, _ = stores(bucket)
        rule = fake.faults.add("reset", operation=operation, after=True, times=1)
        with store.writer("out") as out:
            out.write(bytes(range(5 if operation == "PutObject" else 40)))
        assert rule.used == 1
        assert out.made == as_it_is(store, "out")
        assert not fake.bucket().uploads


def test_writer_with_a_lost_completion(bucket: Volume, fake: FakeOSS) -> None:
    """The written data is gone from memory, but the object exists: it is accepted."""
    with pieces_of(16):
        store, _ = stores(bucket)
        rule = fake.faults.add("reset", operation="CompleteMultipartUpload", times=1, after=True)
        with store.writer("out") as out:
            out.write(bytes(range(40)))
        assert rule.used == 1
        assert out.made == as_it_is(store, "out")
    assert (bucket.final("out"), bucket.uploads()) == (bytes(range(40)), [])


@pytest.mark.parametrize("moment", ["before a part", "before the end"])
@pytest.mark.parametrize("there", [None, b"of another"])
def test_writer_with_an_ended_upload(
    bucket: Volume, fake: FakeOSS, moment: str, there: bytes | None
) -> None:
    """By a rule of the bucket, or by hand: the message asks for another attempt, and an existing
    object of this name is not accepted."""
    store, _ = stores(bucket)
    if there:
        bucket.write("out", there)

    def write() -> None:
        with store.writer("out") as out:
            out.write(bytes(16))
            fake.bucket().uploads.clear()
            out.write(bytes(40 if moment == "before a part" else 0))

    with pieces_of(16), pytest.raises(RetryError, match="out: another worker has ended the upload"):
        write()
    assert bucket.final("out") == there


# A custom map that writes its part again and again, a MiB at a time.
WRITES = """if True:
    from fanfold import mapping
    run_map = mapping.run_map
    def writes(name, function, *rest):
        def map_part(part):
            for _ in range({}):
                part.write(bytes(1 << 20))
            return function(part)
        run_map(name, map_part, *rest)
    mapping.run_map = writes"""
PEAK = """
import atexit, sys
# Not getrusage, which tells the peak of the parent where that is higher.
peak = lambda: next(line for line in open('/proc/self/status') if 'VmHWM' in line).split()[1]
atexit.register(lambda: print('peak', peak(), file=sys.stderr))"""


def test_memory_of_a_writer(bucket: Volume) -> None:
    """A map that writes 256 MiB keeps only one or two parts in memory."""
    bucket.write(INPUT, LOG)
    bucket.split(NUM_PARTS=1)
    peaks = []
    for count in (1, 256):
        outcome = bucket.call("count", prologue=WRITES.format(count) + PEAK, PART_ID=0)
        assert outcome.code == 0, outcome.words
        peaks.append(int(outcome.words.split()[-1]))
    assert bucket.record("0")["output"][1] == 256 * MIB
    assert peaks[1] - peaks[0] < 40 * KIB


def test_memory_of_a_split(bucket: Volume, fake: FakeOSS) -> None:
    """Split takes at most 200 bytes per file with a name of 44 bytes: it sends the plan in
    pieces."""
    peaks, counts = [], (1000, 41_000)
    for count in counts:
        for number in range(count):
            fake.bucket().put(f"{bucket.root}/{count}/some/folder/{number:025}.log", b"")
        settings: dict[str, Any] = {"INPUT": f"{count}/", "SPLIT_MODE": "files", "NUM_PARTS": 200}
        outcome = bucket.call("split", prologue=PEAK, **settings)
        assert outcome.code == 0, outcome.words
        peaks.append(int(outcome.words.split()[-1]) * KIB)
    assert (peaks[1] - peaks[0]) / (counts[1] - counts[0]) < 200


def test_sigterm_to_a_writer(bucket: Volume, fake: FakeOSS) -> None:
    """SIGTERM while a map writes: no output, no record, no upload."""
    bucket.write(INPUT, LOG)
    bucket.split(NUM_PARTS=1)
    before = bucket.tree()
    fake.faults.add("latency", operation="UploadPart", nth=2, seconds=TIMEOUT)
    with bucket.start("count", prologue=WRITES.format(100), PART_ID=0) as process:
        wait_for(lambda: fake.counters.read()["requests"].get("UploadPart") == 2)
        assert len(bucket.uploads()) == 1
        process.terminate()
        outcome = finish(process)
    fake.faults.clear()
    assert (outcome.code, outcome.words) == (128 + signal.SIGTERM, "")
    assert (bucket.tree(), bucket.uploads()) == (before, [])


# --- uploads that do not end


def start_stuck(volume: Volume, fake: FakeOSS, before: str = "") -> Any:
    """Start a split with an upload that has one part and waits for the next."""
    volume.write(INPUT, LOG * 10_000)
    fake.faults.add("latency", operation="UploadPartCopy", nth=2, seconds=TIMEOUT)
    prologue = f"{SMALL_PARTS}\n{before}"
    process = volume.start("split", prologue=prologue, NUM_PARTS=1)
    wait_for(lambda: fake.counters.read()["requests"].get("UploadPartCopy") == 2)
    assert len(volume.temporary_files()) == 1
    return process


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until the upload exists."""
    end = time.monotonic() + TIMEOUT
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sigkill(bucket: Volume, fake: FakeOSS) -> None:
    """The upload of a killed worker is aborted by the next attempt. An upload for another name is
    not."""
    with start_stuck(bucket, fake) as process:
        process.kill()
        assert finish(process).code == -signal.SIGKILL
    (left,) = bucket.uploads()
    stores(bucket)[0].bucket.init_multipart_upload(f"{left}.other")
    fake.faults.clear()

    assert bucket.run("split", NUM_PARTS=1).code == 0
    assert left.endswith("/0.txt")
    assert bucket.uploads() == [f"{left}.other"]
    assert bucket.copies(1) == [LOG * 10_000]


def test_sigterm(bucket: Volume, fake: FakeOSS) -> None:
    """SIGTERM in the middle of an upload leaves nothing of it."""
    with start_stuck(bucket, fake) as process:
        process.terminate()
        fake.faults.clear()
        fake.closing.set()  # end the wait
        outcome = finish(process)
    fake.closing.clear()
    assert outcome.code == 128 + signal.SIGTERM, outcome.words
    assert bucket.temporary_files() == []
    assert set(bucket.tree()) == {INPUT}


def test_sigterm_while_requests_hang(bucket: Volume, fake: FakeOSS) -> None:
    """The pod has half a minute. A request may hang for longer, also during the cleanup."""
    before = "    from fanfold import worker; worker.GRACE = 2"
    with start_stuck(bucket, fake, before) as process:
        fake.faults.add("latency", operation="AbortMultipartUpload", seconds=TIMEOUT)
        process.terminate()
        outcome = finish(process, timeout=30)
        fake.faults.clear()
        fake.closing.set()
    fake.closing.clear()
    assert (outcome.code, outcome.words) == (128 + signal.SIGTERM, "")
    assert set(bucket.tree()) == {INPUT}


@pytest.mark.parametrize("fault", ["none", "one fails"])
def test_sigterm_amid_copies(bucket: Volume, fake: FakeOSS, fault: str) -> None:
    """Several copies run in parallel: SIGTERM ends all of them and aborts their uploads, also if it
    comes while the others are waited for after a failure."""
    bucket.write(INPUT, LOG * 40_000)
    fake.faults.add("latency", operation="UploadPartCopy", seconds=2)
    with bucket.start("split", NUM_PARTS=8) as process:
        if fault == "one fails":
            fake.faults.add("error", operation="InitiateMultipartUpload", nth=3, status=403)
        wait_for(lambda: fake.counters.read()["requests"].get("UploadPartCopy", 0) >= 2)
        process.terminate()
        outcome = finish(process)
    assert (outcome.code, outcome.words) == (128 + signal.SIGTERM, "")
    assert bucket.temporary_files() == []


def test_splits_at_once(bucket: Volume, fake: FakeOSS) -> None:
    """Three splits of one plan succeed in parallel, although the first to finish a copy aborts the
    uploads that the others have begun for it."""
    bucket.write(INPUT, LOG * 40_000)
    fake.faults.add("latency", operation="UploadPartCopy", seconds=0.1)
    with ExitStack() as stack:
        start = partial(bucket.start, "split", prologue=SMALL_PARTS, NUM_PARTS=2)
        splits = [stack.enter_context(start()) for _ in range(3)]
        outcomes = [finish(split) for split in splits]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert b"".join(bucket.copies(2)) == LOG * 40_000
    assert bucket.temporary_files() == []


def test_lost_completion(bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion with a lost answer looks like a completion by another worker: the object is made
    again, and the last version counts. If this fails too, a retry is needed."""
    complete, made = Object.joined, numbers()

    def renamed(parts: list[Part], headers: dict[str, str]) -> Object:
        """Return a unique ETag: OSS does not promise any form."""
        return replace(complete(parts, headers), etag=f"{next(made)}-X")

    monkeypatch.setattr(Object, "joined", renamed)
    bucket.write(INPUT, LOG * 10_000)
    store, run = stores(bucket, RUN_DIR="run")
    found = store.look(INPUT)
    whole = [(INPUT, found.version, 0, found.size)]
    lost = fake.faults.add("reset", operation="CompleteMultipartUpload", times=1, after=True)
    assert run.copy("copy", store, whole) == as_it_is(run, "copy") == ("copy", "1-X", 0, found.size)
    assert lost.used == 1

    fake.faults.add("reset", operation="CompleteMultipartUpload", after=True)
    outcome = bucket.run("split", NUM_PARTS=1)
    assert outcome.code == 75
    assert "0.txt: other workers have ended the upload 3 times" in outcome.words
    fake.faults.clear()
    assert bucket.run("split", NUM_PARTS=1).code == 0
    assert bucket.copies(1) == [LOG * 10_000]
    assert bucket.temporary_files() == []


def test_failed_upload(bucket: Volume, fake: FakeOSS) -> None:
    """A failed upload is aborted, with retries."""
    bucket.write(INPUT, LOG * 10_000)
    fake.faults.add("error", operation="UploadPartCopy", status=403, code="AccessDenied")
    lost = fake.faults.add("error", operation="AbortMultipartUpload", times=3)
    assert bucket.run("split", NUM_PARTS=1).code == 2
    assert lost.used == 3
    assert bucket.temporary_files() == []


def test_uploads_of_other_attempts(bucket: Volume, fake: FakeOSS) -> None:
    """The uploads that killed attempts at an output left, with other nonces, are aborted by a
    successful attempt. Uploads for other outputs are not."""
    store, _ = stores(bucket)
    made = store.put("in", [bytes(100 << 10)])
    ours, others = ("l2/run/7-{}.txt", "out/1-{}"), ("l2/run/77-{}.txt", "l3/run/7-{}.txt")
    for name in (*ours, *others):
        for _ in range(2):
            store.bucket.init_multipart_upload(store.root + name.format(nonce()))
    for name in ours:
        store.copy(name.format(nonce()), store, [made])
    left = [key.removeprefix(store.root).partition("-")[0] for key in bucket.uploads()]
    assert sorted(left) == ["l2/run/77"] * 2 + ["l3/run/7"] * 2


# --- listings


@pytest.fixture
def many(fake: FakeOSS, bucket: Volume) -> Iterator[list[str]]:
    """Write more files than a page has, and folders as a mount stores them."""
    names = [f"in/{number}/{number % 7}.log" for number in range(2500)]
    made = fake.bucket().put("elsewhere", b"")
    for name in [*names, "in/", "in/7/", "in0", "i"]:
        fake.bucket().set(f"{bucket.root}/{name}", made)
    yield sorted(names)
    for key in list(fake.bucket().objects):
        fake.bucket().set(key, None)


@pytest.mark.parametrize("fault", ["error", "reset", "truncate"])
@pytest.mark.parametrize("after", [False, True])
def test_pages(bucket: Volume, fake: FakeOSS, many: list[str], fault: Any, *, after: bool) -> None:
    """Only a failed page is requested again: no name is skipped or doubled."""
    inputs, _ = stores(bucket)
    rules = [
        fake.faults.add(fault, operation="ListObjectsV2", nth=nth, after=after, at=5000)
        for nth in (2, 3, 5)
    ]
    assert list(inputs.names("in/")) == many
    assert [rule.used for rule in rules] == [1, 1, 1]
    assert fake.counters.read()["requests"] == {"ListObjectsV2": 6}


def test_long_listings(bucket: Volume, fake: FakeOSS, many: list[str]) -> None:
    """Every page may fail as often as a request may."""
    inputs, _ = stores(bucket)
    for nth in range(1, 3 * retries.ATTEMPTS + 1):
        if nth % retries.ATTEMPTS:
            fake.faults.add("reset", operation="ListObjectsV2", nth=nth)
    assert list(inputs.names("in/")) == many


def test_what_is_no_file(bucket: Volume, fake: FakeOSS) -> None:
    """A link (a listing does not have its size), and bytes in place of a folder."""
    bucket.write("in/a", LOG)
    link = replace(fake.bucket().put("elsewhere", b""), kind="Symlink")
    fake.bucket().set(f"{bucket.root}/in/b", link)
    fake.bucket().put(f"{bucket.root}/more/c/", LOG)
    for source, name in (("in/", "in/b"), ("more/", "more/c/")):
        outcome = bucket.run("split", INPUT=source)
        assert outcome.code == 2
        assert f"/{name} is a link, or has bytes and the name of a folder" in outcome.words


def test_has(bucket: Volume, fake: FakeOSS) -> None:
    """Whether this name exists, not a longer one, with one listing of one name."""
    store, _ = stores(bucket)
    for name in ("a b", "a bc", "in/file", "é"):
        bucket.write(name, b"")
    fake.counters.reset()
    asked = ("a b", "a", "a bc", "a bcd", "in", "in/", "in/file", "é", "e")
    assert [name for name in asked if store.has(name)] == ["a b", "a bc", "in/file", "é"]
    assert fake.counters.read()["requests"] == {"ListObjectsV2": len(asked)}


@pytest.mark.parametrize("have_crc", [True, False])
def test_checksum(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, *, have_crc: bool
) -> None:
    """The CRC of an object. A copy by OSS may have none: then the ETag."""
    monkeypatch.setattr(fake.service.limits, "copies_have_crc", have_crc)
    store, _ = stores(bucket)
    content = LOG * 10_000
    put = store.put("put", [content])
    copied = store.copy("copied", store, [put])
    expected = f"crc64:{crc64(content, 0)}"
    assert store.checksum("put") == expected
    assert store.checksum("copied") == (expected if have_crc else f"etag:{copied[1]}")
    with pytest.raises(FileNotFoundError):
        store.checksum("none")


@OVER_HTTP
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8)
        .filter(lambda name: name not in (".", "..")),  # no names for the test itself
        min_size=1, max_size=4, unique=True,
    )
)  # fmt: skip
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_any_name(fake: FakeOSS, mode: str, names: list[str]) -> None:
    """A run over objects with any name."""
    with Volume.temporary(INPUT="in/", SPLIT_MODE=mode, NUM_PARTS=2) as volume:
        for number, name in enumerate(names):
            volume.write(f"in/{name}", LOG * (number + 1))
        volume.split()
        assert [name for name, *_ in volume.plan()["inputs"]] == sorted(f"in/{n}" for n in names)
        volume.count(["0", "1"])
        volume.merge()
        assert volume.totals() == model([LOG] * sum(range(1, len(names) + 1)))


@pytest.mark.parametrize("name", ["in//x.log", "./in/x.log", "in/./x.log", "in//", "in/./", "."])
@pytest.mark.parametrize("setting", ["INPUT", "RUN_DIR", "OUTPUT", "WORK_DIR"])
def test_a_key_is_no_path(bucket: Volume, fake: FakeOSS, setting: str, name: str) -> None:
    """A name that would change if it were normalized as a path is refused, whatever objects exist,
    and nothing is written."""
    for key in ("in/x.log", "in//x.log", "./in/x.log", "in/./x.log", INPUT):
        fake.bucket().put(f"{bucket.root}/{key}", LOG)
    value = f"oss://bucket/{bucket.root}/{name}" if setting == "WORK_DIR" else name
    before = bucket.tree()
    for worker, more in (("split", {}), ("count", {"PART_ID": 0}), ("merge", {})):
        if setting in ("RUN_DIR", "WORK_DIR") or worker == "split":
            outcome = bucket.run(worker, **{**more, setting: value})
            assert outcome.code == 2
            assert (
                f"{setting} must have no empty path component and no path component . in a bucket"
                in outcome.words
            )
            assert f"{name}': remove this component" in outcome.words
    assert bucket.tree() == before


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_listed_keys_are_no_paths(bucket: Volume, fake: FakeOSS, mode: str) -> None:
    """Below a folder every key is a file and is read under its own name, also if two keys would be
    the same path."""
    volume = bucket.having(INPUT="in/", NUM_PARTS=2, SPLIT_MODE=mode, RUN_DIR=mode)
    names = ["in//x", "in/../x", "in/./x", "in/.", "in/..", "in/x", "in/x//", "in/x/./"]
    for number, name in enumerate(names[:-2]):
        fake.bucket().put(f"{bucket.root}/{name}", b"INFO %d\n" % number + b"WARN\n" * 10**number)
    for name in names[-2:]:  # folders as a mount keeps them
        fake.bucket().put(f"{bucket.root}/{name}", b"")
    volume.log_count()
    assert [name for name, *_ in volume.plan()["inputs"]] == sorted(names[:-2])
    assert volume.totals() == {"INFO": 6, "WARN": 111_111, "ERROR": 0, "DEBUG": 0}


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_the_own_domain_of_a_bucket(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """With a CNAME the bucket is not in the address of any request: ranges, copies by OSS,
    listings."""
    monkeypatch.setitem(fake.own_domains, "logs.example.com", "bucket")
    monkeypatch.setenv("http_proxy", fake.endpoint)  # so that DNS is not used
    volume = bucket.having(OSS_ENDPOINT="http://logs.example.com", INPUT="in/", SPLIT_MODE=mode)
    for number in range(3):
        volume.write(f"in/{number}", LOG * 9)
    assert volume.run("split").code == 2  # the host has the bucket's name as a prefix
    volume = volume.having(OSS_CNAME="true")
    with pieces_of(64):
        volume.split(NUM_PARTS=2)
        assert ("UploadPartCopy" in fake.counters.read()["requests"]) == (mode == "copy")
        volume.log_count(NUM_PARTS=2)
    assert volume.totals() == model([LOG] * 27)


@pytest.mark.parametrize("work_dir", ["oss://bucket", "oss://bucket/", "oss://bucket/a b?c/"])
def test_work_dirs(bucket: Volume, fake: FakeOSS, work_dir: str) -> None:
    """No prefix, and an unusual prefix."""
    prefix = "a b?c/" if "a" in work_dir else ""
    fake.bucket().put(f"{prefix}{INPUT}", LOG)
    volume = bucket.having(WORK_DIR=work_dir, RUN_DIR="run")
    volume.log_count()
    assert (
        fake.bucket().get(f"{prefix}run/result.json")
        == b'{"INFO": 2, "WARN": 1, "ERROR": 1, "DEBUG": 0}\n'
    )
