"""What is particular to a bucket: ranges, uploads in parts, listings, and the memory they take."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import Any

import oss
import pytest
from contract import RetryError, Segment
from fake import FakeOSS
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import Answer, Request
from objects import Object, Part
from pipeline import INPUT, TIMEOUT, Volume, finish, model, pieces_of

KIB, MIB = 1 << 10, 1 << 20
LOG = b"INFO 1\nWARN 2\nERROR 3\nINFO 4\n"

OVER_HTTP = settings(max_examples=15)
Tamper = Callable[[Request, Answer], None]


def stores(volume: Volume, **settings: object) -> tuple[oss.Bucket, oss.Bucket]:
    """What a worker opens."""
    return oss.open_stores(volume.environ(settings))


def tamper(monkeypatch: pytest.MonkeyPatch, fake: FakeOSS, change: Tamper, times: int) -> None:
    """Change so many of the answers to ranges."""
    answer, left = fake.service.answer, [None] * times

    def changed(operation: Any, request: Request) -> Answer:
        made = answer(operation, request)
        if "range" in request.headers and left:
            left.pop()
            change(request, made)
        return made

    monkeypatch.setattr(fake.service, "answer", changed)


def large(fake: FakeOSS, key: str, piece: bytes, count: int) -> None:
    """An object that repeats a piece, which is stored once."""
    part = Part(fake.bucket().receive([piece]))
    fake.bucket().set(key, Object.joined([part] * count, {}))


# --- ranges


@OVER_HTTP
@given(st.data())
@pytest.mark.parametrize("connections", [1, 4, 16])
def test_ranges(fake: FakeOSS, connections: int, data: st.DataObject) -> None:
    """Any range, around the steps above all: its bytes in order, in pieces, each fetched once, and
    never more requests in flight than there may be."""
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
    """As many ranges are in flight as there may be: the answers wait for each other."""
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
    """The right number of other bytes."""
    assert isinstance(answer.body, tuple)
    answer.body = tuple(replace_piece(piece) for piece in answer.body)
    first = int(answer.headers["Content-Range"].split()[1].partition("-")[0]) - 1
    answer.headers["Content-Range"] = f"bytes {first}-{first + 9}/100"


def replace_piece(piece: Any) -> Any:
    """The same piece, a byte before."""
    return piece._replace(offset=piece.offset - 1)


def unnamed(_: Request, answer: Answer) -> None:
    """206, and no word of which range."""
    del answer.headers["Content-Range"]


def short(_: Request, answer: Answer) -> None:
    """A body that is shorter than what it says to be, and ends well."""
    assert isinstance(answer.body, tuple)
    answer.body = tuple(piece._replace(length=piece.length - 1) for piece in answer.body)


@pytest.mark.parametrize("change", [whole, shifted, unnamed, short])
def test_wrong_ranges(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, change: Tamper
) -> None:
    """An answer that is not the range that was asked for is asked for again, and never used."""
    content = bytes(range(100))
    bucket.write("x", content)
    for times in (1, oss.ATTEMPTS - 1, oss.ATTEMPTS):
        with monkeypatch.context() as patch:
            inputs, _ = stores(bucket, OSS_CONNECTIONS=1)
            with inputs.open("x") as file:
                tamper(patch, fake, change, times)
                if times < oss.ATTEMPTS:
                    assert file.read(10, 10) == content[10:20]
                else:
                    with pytest.raises(RetryError, match=f"oss://bucket/.*/x.*{times} times"):
                        file.read(10, 10)


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_broken_bodies(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    """Bodies that end early or stop to come, at every byte: the range is fetched anew."""
    monkeypatch.setattr(oss, "TIMEOUT", (10, 0.1))
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
    """A part of 448 MiB, counted within the memory that its pod requests."""
    large(fake, str(bucket.root / INPUT), (LOG * 40_000)[:MIB], 448)
    volume = bucket.having(SPLIT_MODE="range", NUM_PARTS=1, KEYWORDS="ERROR")
    volume.split()
    prologue = (
        "import atexit, resource, sys\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "atexit.register(lambda: print('peak', peak(), file=sys.stderr))"
    )
    outcome = volume.call("count", prologue=prologue, PART_ID=0, OSS_CONNECTIONS=connections)
    assert outcome.code == 0, outcome.words
    assert int(outcome.words.split()[-1]) < 256 * KIB


# --- the parts of an upload


def lengths() -> st.SearchStrategy[list[int]]:
    """Lengths of segments, around what is the least and the most of a part."""
    edges = [n + d for n in (oss.LEAST, oss.BLOCK, oss.MOST, 2 * oss.MOST) for d in (-1, 0, 1)]
    some = st.sampled_from([0, 1, *edges, oss.LEAST // 2, 2 * oss.LEAST - 1, 40 * oss.MOST])
    return st.lists(some | st.integers(0, 3 * oss.LEAST), max_size=30)


@given(lengths(), st.sampled_from([oss.LEAST, oss.BLOCK]))
def test_upload_parts(sizes: list[int], least: int) -> None:
    """All bytes once and in order; no part but the last is smaller than OSS allows, none larger;
    what OSS copies is one range; few bytes beyond those of small segments go through the pod."""
    segments = [(f"{n}", "v", 7 * n, size) for n, size in enumerate(sizes)]
    parts = list(oss.upload_parts(segments, least))
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
        assert total <= (oss.MOST if oss.is_copied(part) else oss.BLOCK + least)
    through = sum(
        total for part, total in zip(parts, totals, strict=True) if not oss.is_copied(part)
    )
    small = sum(size % oss.MOST if size % oss.MOST < least else 0 for size in sizes)
    assert through <= small + least * len(sizes)


def test_upload_parts_of_terabytes() -> None:
    """What OSS can hold in so many parts fits."""
    parts = list(
        oss.upload_parts(
            [("x", "v", 0, 2 << 40), ("y", "v", 5, 100), ("z", "v", 0, 1 << 38)], oss.LEAST
        )
    )
    assert len(parts) <= oss.MOST_PARTS
    assert sum(one[3] for part in parts for one in part) == (2 << 40) + 100 + (1 << 38)


@OVER_HTTP
@given(st.lists(st.binary(max_size=200), max_size=12), st.integers(16, 48), st.data())
def test_uploads(fake: FakeOSS, contents: list[bytes], size: int, data: st.DataObject) -> None:
    """Copies, joined objects and blocks, by OSS's own rules for parts: the same bytes."""
    with Volume.temporary(RUN_DIR="run") as volume, pieces_of(size):
        for number, content in enumerate(contents):
            volume.write(f"run/{number}", content)
        inputs, run = stores(volume)
        segments: list[Segment] = []
        expected = b""
        for number, content in enumerate(contents):
            first, end = sorted(data.draw(st.integers(0, len(content))) for _ in "12")
            segments.append((f"run/{number}", inputs.look(f"run/{number}")[0], first, end - first))
            expected += content[first:end]
        fake.counters.reset()
        run.copy("copy", inputs, segments)
        assert (volume.run_dir / "copy").read_bytes() == expected
        parts = oss.upload_parts(segments, oss.LEAST)
        through = [part for part in parts if not oss.is_copied(part)]
        moved = sum(one[3] for part in through for one in part)
        counted = fake.counters.read()
        assert counted["down"].get("GetObject", 0) == moved
        assert counted["up"].get("PutObject", 0) + counted["up"].get("UploadPart", 0) == moved

        run.join("joined", map(str, range(len(contents))))
        assert (volume.run_dir / "joined").read_bytes() == b"".join(contents)
        run.put("put", contents)
        assert (volume.run_dir / "put").read_bytes() == b"".join(contents)
        assert fake.uploads() == {}


def test_too_many_parts(bucket: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """More parts than an object can have: exit 2, and no upload is left. Where they are many for
    their files are small, these go through here, as few parts as it takes."""
    with pieces_of(16), monkeypatch.context() as patch:
        patch.setattr(oss, "MOST_PARTS", 3)
        bucket.write(INPUT, LOG * 10)
        outcome = bucket.run("split", NUM_PARTS=2)
        assert outcome.code == 2
        assert "split-output/0.txt takes 10 parts of an upload, and OSS 3 at most" in outcome.words

        patch.setattr(oss, "BLOCK", 64)
        for number in range(8):
            bucket.write(f"in/{number}", LOG[:20])
        bucket.split(INPUT="in/", NUM_PARTS=1)
        assert bucket.copies(1) == [LOG[:20] * 8]
    assert bucket.temporary_files() == []


# --- uploads that do not end


def start_stuck(volume: Volume, fake: FakeOSS, before: str = "") -> Any:
    """A split whose upload has one part and waits for the next."""
    volume.write(INPUT, LOG * 10_000)
    fake.faults.add("latency", operation="UploadPartCopy", nth=2, seconds=TIMEOUT)
    # Small parts that OSS copies, one at a time.
    prologue = f"import oss; oss.MOST = {128 * KIB}; oss.LANES = 1; {before}"
    process = volume.start("split", prologue=prologue, NUM_PARTS=1)
    wait_for(lambda: fake.counters.read()["requests"].get("UploadPartCopy") == 2)
    assert len(volume.temporary_files()) == 1
    return process


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until it is there."""
    end = time.monotonic() + TIMEOUT
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sigkill(bucket: Volume, fake: FakeOSS) -> None:
    """What a killed worker leaves of an upload is ended by the next attempt; that of another name
    is not."""
    with start_stuck(bucket, fake) as process:
        process.kill()
        assert finish(process).code == -signal.SIGKILL
    other = stores(bucket)[0]
    other.bucket.init_multipart_upload(f"{bucket.root}/split-output/0.txt.other")
    fake.faults.clear()

    assert bucket.run("split", NUM_PARTS=1).code == 0
    assert bucket.temporary_files() == [f"{bucket.root}/split-output/0.txt.other"]
    assert bucket.copies(1) == [LOG * 10_000]


def test_sigterm(bucket: Volume, fake: FakeOSS) -> None:
    """SIGTERM in the middle of an upload leaves nothing of it."""
    with start_stuck(bucket, fake) as process:
        process.terminate()
        fake.faults.clear()
        fake.closing.set()  # whoever waits is let go
        outcome = finish(process)
    fake.closing.clear()
    assert outcome.code == 128 + signal.SIGTERM, outcome.words
    assert bucket.temporary_files() == []
    assert not (bucket.run_dir / "split-output/0.txt").exists()


def test_sigterm_while_requests_hang(bucket: Volume, fake: FakeOSS) -> None:
    """The pod has half a minute, and a request may hang for longer, one that cleans up as well."""
    with start_stuck(bucket, fake, before="import worker; worker.GRACE = 2") as process:
        fake.faults.add("latency", operation="AbortMultipartUpload", seconds=TIMEOUT)
        process.terminate()
        outcome = finish(process, timeout=30)
        fake.faults.clear()
        fake.closing.set()
    fake.closing.clear()
    assert (outcome.code, outcome.words) == (128 + signal.SIGTERM, "")
    assert not (bucket.run_dir / "split-output/0.txt").exists()


@pytest.mark.parametrize("fault", ["none", "one fails"])
def test_sigterm_amid_copies(bucket: Volume, fake: FakeOSS, fault: str) -> None:
    """Several are made at once: SIGTERM ends them all, and what they have begun, also where it
    comes while the others are waited for because one has failed."""
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
    """Three splits of one plan: each comes to its end, although the first to have made a copy
    ends the uploads that the others have begun of it."""
    bucket.write(INPUT, LOG * 40_000)
    fake.faults.add("latency", operation="UploadPartCopy", seconds=0.1)
    with ExitStack() as stack:
        prologue = f"import oss; oss.MOST = {128 * KIB}; oss.LANES = 1"  # uploads of many parts
        start = partial(bucket.start, "split", prologue=prologue, NUM_PARTS=2)
        splits = [stack.enter_context(start()) for _ in range(3)]
        outcomes = [finish(split) for split in splits]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert b"".join(bucket.copies(2)) == LOG * 40_000
    assert bucket.temporary_files() == []


def test_lost_completion(bucket: Volume, fake: FakeOSS) -> None:
    """A completion whose answer is lost cannot be told from that of another worker: the object is
    made once more, and where that is of no use, too, another attempt has to."""
    bucket.write(INPUT, LOG * 10_000)
    lost = fake.faults.add("reset", operation="CompleteMultipartUpload", times=1, after=True)
    assert bucket.run("split", NUM_PARTS=1).code == 0
    assert lost.used == 1
    assert bucket.copies(1) == [LOG * 10_000]

    fake.faults.add("reset", operation="CompleteMultipartUpload", after=True)
    outcome = bucket.run("split", NUM_PARTS=1)
    assert outcome.code == 75
    assert "0.txt: its upload was ended by other workers, 3 times" in outcome.words
    fake.faults.clear()
    assert bucket.run("split", NUM_PARTS=1).code == 0
    assert bucket.temporary_files() == []


def test_failed_upload(bucket: Volume, fake: FakeOSS) -> None:
    """An upload that fails is aborted, and that is tried more than once."""
    bucket.write(INPUT, LOG * 10_000)
    fake.faults.add("error", operation="UploadPartCopy", status=403, code="AccessDenied")
    lost = fake.faults.add("error", operation="AbortMultipartUpload", times=3)
    assert bucket.run("split", NUM_PARTS=1).code == 2
    assert lost.used == 3
    assert bucket.temporary_files() == []


# --- listings


@pytest.fixture
def many(fake: FakeOSS, bucket: Volume) -> Iterator[list[str]]:
    """The names of more files than a page has, and folders as a mount keeps them."""
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
    """A page that fails is asked for again and no other: no name is skipped or doubled."""
    inputs, _ = stores(bucket)
    rules = [
        fake.faults.add(fault, operation="ListObjectsV2", nth=nth, after=after, at=5000)
        for nth in (2, 3, 5)
    ]
    assert inputs.names("in/") == many
    assert [rule.used for rule in rules] == [1, 1, 1]
    assert fake.counters.read()["requests"] == {"ListObjectsV2": 6}


def test_long_listings(bucket: Volume, fake: FakeOSS, many: list[str]) -> None:
    """Every page may fail as often as a request may."""
    inputs, _ = stores(bucket)
    for nth in range(1, 3 * oss.ATTEMPTS + 1):
        if nth % oss.ATTEMPTS:
            fake.faults.add("reset", operation="ListObjectsV2", nth=nth)
    assert inputs.names("in/") == many


def test_what_is_no_file(bucket: Volume, fake: FakeOSS) -> None:
    """A link, of which a listing does not have the size, and bytes in the place of a folder."""
    bucket.write("in/a", LOG)
    link = replace(fake.bucket().put("elsewhere", b""), kind="Symlink")
    fake.bucket().set(f"{bucket.root}/in/b", link)
    fake.bucket().put(f"{bucket.root}/more/c/", LOG)
    for folder, name in (("in/", "in/b"), ("more/", "more/c/")):
        outcome = bucket.run("split", INPUT=folder)
        assert outcome.code == 2
        assert f"/{name} is a link, or has bytes and the name of a folder" in outcome.words


@OVER_HTTP
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8)
        .filter(lambda name: name not in (".", "..")),  # no names to the harness
        min_size=1, max_size=4, unique=True,
    )
)  # fmt: skip
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_any_name(fake: FakeOSS, mode: str, names: list[str]) -> None:
    """A run over objects of any name."""
    with Volume.temporary(INPUT="in/", SPLIT_MODE=mode, NUM_PARTS=2) as volume:
        for number, name in enumerate(names):
            volume.write(f"in/{name}", LOG * (number + 1))
        volume.split()
        assert [name for name, *_ in volume.plan()["inputs"]] == sorted(f"in/{n}" for n in names)
        volume.count(["0", "1"])
        volume.merge()
        assert volume.totals() == model([LOG] * sum(range(1, len(names) + 1)))


@pytest.mark.parametrize(
    "work_dir", ["oss://bucket", "oss://bucket/", "oss://bucket//", "oss://bucket/./a b?c/"]
)
def test_work_dirs(bucket: Volume, fake: FakeOSS, work_dir: str) -> None:
    """No prefix, and one that looks odd."""
    prefix = "a b?c/" if "a" in work_dir else ""
    fake.bucket().put(f"{prefix}{INPUT}", LOG)
    volume = bucket.having(WORK_DIR=work_dir, RUN_DIR="run")
    volume.log_count()
    assert (
        fake.bucket().get(f"{prefix}run/result.json")
        == b'{"INFO": 2, "WARN": 1, "ERROR": 1, "DEBUG": 0}\n'
    )
