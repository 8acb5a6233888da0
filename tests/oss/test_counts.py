"""The number of requests and bytes per worker, as in manifests/docs/storage.md."""

from __future__ import annotations

from collections import Counter

import pytest
from fake import FakeOSS
from fanfold import Part, formats
from pipeline import INPUT, Outcome, Volume, model

KIB = 1 << 10
LINE = b"INFO a line of sixty-four bytes, so that parts end where they may\n"[:63] + b"\n"
LOG = LINE * (64 * KIB)  # 4 MiB
PARTS = 4
READ = 64 * KIB  # to find a cut
RECORD = 600  # maximum bytes of a record of a part or a group
RUN = {"RUN_ID": "run", "RUN_STARTED": 1767225600}

Requests = dict[str, int]
Asked = tuple[Requests, int, int]


def asked(fake: FakeOSS, outcome: Outcome) -> Asked:
    """Return the requests of a worker, and the bytes down and up except plans, records, pages and
    results of counts."""
    assert outcome.code == 0, outcome.words
    counted = fake.counters.read()

    def data(way: str, *operations: str) -> int:
        ours = (".json", ".json.record", ".txt.record", ".html")
        small = sum(n for key, n in counted[f"{way}_by_key"].items() if key.endswith(ours))
        return int(sum(counted[way].get(name, 0) for name in operations) - small)

    return counted["requests"], data("down", "GetObject"), data("up", "PutObject", "UploadPart")


def step(volume: Volume, fake: FakeOSS, worker: str, *arguments: object, **more: object) -> Asked:
    """Run a worker and return its requests."""
    fake.counters.reset()
    return asked(fake, volume.run(worker, *arguments, **more))


def total(*parts: Requests) -> Requests:
    """Add up requests by operation."""
    return dict(sum(map(Counter, parts), Counter()))


def upload(copies: int, sent: int = 0) -> Requests:
    """The requests for one object in parts, of which OSS copies some."""
    once = ("InitiateMultipartUpload", "CompleteMultipartUpload", "ListMultipartUploads")
    found = dict.fromkeys(once, 1) | {"UploadPartCopy": copies, "UploadPart": sent}
    return {name: count for name, count in found.items() if count}


# The mark of the run's start; the plan, under its id and as the newest.
COMMIT = {"PutObject": 3}
# Twice whether OUTPUT exists, once whether this run has published, twice whether a newer run has.
LOOKS = {"ListObjectsV2": 5}
# result.json, summary.json, the record, which is read, and result.json, which is read and copied to
# its final name. Then it is read for the workflow.
PUBLISH = {"PutObject": 4, "GetObject": 3}
# The page of the run, twice, and whether an older page exists.
PAGE = {"PutObject": 2, "GetObject": 1, "ListObjectsV2": 1}


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("files", [1, 6])
def test_log_count(bucket: Volume, fake: FakeOSS, mode: str, files: int) -> None:
    """Each byte of the input is downloaded once, by the maps, and 64 KiB more per cut. None is
    uploaded: OSS makes the copies. A folder takes one listing, and no look-up per file."""
    each = LOG[: len(LOG) // files // len(LINE) * len(LINE)]
    source, found = ("in/", {"ListObjectsV2": 1}) if files > 1 else (INPUT, {"HeadObject": 1})
    for number in range(files):
        bucket.write(f"in/{number}" if files > 1 else source, each)
    volume = bucket.having(INPUT=source, SPLIT_MODE=mode, NUM_PARTS=PARTS, **RUN)
    # A cut is within a file unless a file begins there.
    cuts = sum(len(each) * files * n // PARTS % len(each) > 0 for n in range(1, PARTS))
    first = {"GetObject": files + cuts}  # the first bytes of every file, and the cuts
    looked = files * formats.SIZE + cuts * READ
    pieces = [1, 1, 1, 1] if files == 1 else [2, 2, 2, 2]  # files of a part
    copies = total({"ListObjectsV2": 1}, *map(upload, pieces)) if mode == "copy" else {}

    assert step(volume, fake, "split") == (total(found, first, copies, COMMIT), looked, 0)

    volume = volume.having(PLAN_ID=volume.plan()["id"])
    sizes = volume.sizes()
    for part, (size, ranges) in enumerate(zip(sizes, pieces, strict=True)):
        # The plan, the copy and its size or the ranges of the inputs, the record.
        expected = {"GetObject": 2, "PutObject": 1, "HeadObject": 1}
        if mode == "range":
            expected = {"GetObject": 1 + ranges, "PutObject": 1}
        assert step(volume, fake, "count", PART_ID=part) == (expected, size, 0)

    # The plan, every record; in the mode copy the copies are the inputs.
    again = found if mode == "range" else {}
    proof = total({"GetObject": 1 + PARTS}, again)
    assert step(volume, fake, "merge") == (total(proof, LOOKS, PUBLISH, PAGE), 0, 0)
    assert volume.totals() == model([each] * files)
    read = fake.counters.read()["down_by_key"]
    records = [size for key, size in read.items() if "/cout-output/" in key]
    assert len(records) == PARTS
    assert max(records) < RECORD

    # Whether copies, records and outputs exist, and every record: nothing is made again.
    look = {"ListObjectsV2": 2 + (mode == "copy"), "GetObject": PARTS}
    expected = total(found, first, look, COMMIT)
    assert step(volume, fake, "split", ONLY_MISSING="true") == (expected, looked, 0)


@pytest.mark.parametrize("size", [100 * KIB, 99 * KIB])
def test_outputs(bucket: Volume, fake: FakeOSS, size: int) -> None:
    """Outputs of maps are joined by OSS if they are large enough, with one HEAD per output. Smaller
    outputs are downloaded and uploaded once."""
    bucket.write(INPUT, LOG)
    volume = bucket.having(NUM_PARTS=PARTS, SPLIT_MODE="range", MAP_SETTINGS="writes", **RUN)
    volume.split()
    volume = volume.having(PLAN_ID=volume.plan()["id"])
    for part in range(PARTS):

        def write(part: Part) -> None:
            for _ in part.pieces():
                pass
            part.write(part.id.encode() * size)

        fake.counters.reset()
        outcome = volume.run_map(write, part)
        expected = {"GetObject": 2, "PutObject": 2}
        assert asked(fake, outcome) == (expected, len(LOG) // PARTS, size)

    # Each final name takes a copy from results/: a HEAD, and its parts.
    final = total({"HeadObject": 1}, upload(1))
    if size < 100 * KIB:
        joined, moved = {**upload(0, 1), "GetObject": PARTS}, PARTS * size
    else:
        joined, moved = {"HeadObject": PARTS, **upload(PARTS)}, 0
    if moved:  # less than 4 MiB: one PUT
        joined = {"GetObject": PARTS, "PutObject": 1}
    proof = {"GetObject": 1 + PARTS, "HeadObject": 1}
    # No request is needed to know that OUTPUT exists.
    publish = total(LOOKS, {"ListObjectsV2": -2}, PUBLISH, PAGE)
    found = step(volume, fake, "merge")
    assert found == (total(proof, joined, final, publish), moved, moved)
    assert volume.final("result.out") == b"".join(b"%d" % n * size for n in range(PARTS))

    cleaned = step(volume, fake, "merge", CLEAN="true")[0]
    assert cleaned["DeleteObject"] == PARTS
    assert cleaned.get("UploadPart", 0) == 0


@pytest.mark.parametrize("size", [100 * KIB, 99 * KIB])
def test_aggregation(bucket: Volume, fake: FakeOSS, size: int) -> None:
    """Files that are large enough are joined by OSS, with one HEAD per file. Smaller files are
    downloaded and uploaded once per level."""
    files, groups = 8, 4
    bucket.write_level_1(b"%d" % number * size for number in range(files))
    volume = bucket.having(**RUN)
    large = size >= 100 * KIB
    joined = upload(2) if large else {"GetObject": 2, "PutObject": 1}
    record = {"PutObject": 1}
    moved = 0 if large else 2 * size
    for number in range(groups):
        # Only the last group lists level 1. The listing has everything except the encoding of
        # files.
        looks = {"HeadObject": 2}
        if number == groups - 1:
            looks = {"ListObjectsV2": 1, **({"HeadObject": 2} if large else {})}
        found = step(volume, fake, "process", number, 1, FILES=files)
        assert found == (total(looks, joined, record), moved, moved)

    for number in range(2):
        # Their records, each read once; then two files of twice the size.
        found = step(volume, fake, "process", number, 2, FILES=groups)
        assert found == (total({"GetObject": 2, "HeadObject": 2}, upload(2), record), 0, 0)

    # Two records; both files are joined into result.txt, which is copied to its final name; one
    # listing checks level 1; whether this run has published, and twice whether a newer run has; the
    # checksum. For the page a listing per level, and all records.
    found = step(volume, fake, "merge", 2, LEVEL=3)
    join = total({"GetObject": 2, "HeadObject": 2}, upload(2))
    final = total({"HeadObject": 1}, upload(1))
    rest = {"ListObjectsV2": 1 + 3, "PutObject": 2, "GetObject": 1, "HeadObject": 1}
    shown = total(PAGE, {"ListObjectsV2": 2, "GetObject": groups + 2})
    assert found == (total(join, final, rest, shown), 0, 0)
    read = fake.counters.read()["down_by_key"]
    assert max(size for key, size in read.items() if "/l3/" in key) < 2 * RECORD


@pytest.mark.parametrize("size", [100 * KIB, 99 * KIB])
def test_one_level(bucket: Volume, fake: FakeOSS, size: int) -> None:
    """Without levels above, listings are enough for level 1: no file is looked up, except for its
    encoding if OSS copies it."""
    bucket.write_level_1(b"%d" % number * size for number in range(8))
    found = step(bucket.having(**RUN), fake, "merge", 8, LEVEL=1)
    large = size >= 100 * KIB
    join = {"HeadObject": 8, **upload(8)} if large else {"GetObject": 8, "PutObject": 1}
    final = total({"HeadObject": 1}, upload(1))
    # The files, that there are no others, that they are unchanged; whether this run has published,
    # and twice whether a newer run has; the summary and the record, which is read; the checksum.
    rest = {"ListObjectsV2": 3 + 3, "PutObject": 2, "GetObject": 1, "HeadObject": 1}
    moved = 0 if large else 8 * size
    assert found == (total(join, final, rest, PAGE), moved, moved)


def test_files_as_items(bucket: Volume, fake: FakeOSS) -> None:
    """In mode files split makes listings and no request per file, a map reads each file once, and
    the last step makes listings and reads the records and lines of the parts. The same is true if
    all results are taken over."""
    count, parts = 3000, 3
    data = b"INFO a file\n"
    for number in range(count):
        fake.bucket().put(f"{bucket.root}/in/{number:05}", data)
    volume = bucket.having(INPUT="in/", SPLIT_MODE="files", NUM_PARTS=parts, **RUN)
    pages = {"ListObjectsV2": count // 1000}

    assert step(volume, fake, "split")[0] == total(pages, COMMIT)

    for part in range(parts):
        counted, down, _ = step(volume, fake, "count", PART_ID=part)
        assert counted == {"GetObject": 1 + count // parts, "PutObject": 2}
        assert down == count // parts * len(data)

    again = volume.having(RUN_ID="run2", ONLY_MISSING="true")
    for run in (volume, again):
        merged, *_ = step(run, fake, "merge")
        assert merged["ListObjectsV2"] - LOOKS["ListObjectsV2"] <= pages["ListObjectsV2"] + 2
        assert sum(merged.values()) < 40
        if run is volume:
            taken, *_ = step(again, fake, "split")
            # The folders of results, their records, the records and the outputs of parts.
            assert taken["ListObjectsV2"] - pages["ListObjectsV2"] <= 4
            assert taken == taken | {"GetObject": 2, "HeadObject": 1, **COMMIT}
    assert again.totals() == {**model([]), "INFO": count}
    assert again.summary()["taken"] == count
