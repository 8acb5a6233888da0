"""How many requests and bytes each worker takes: the figures of the README."""

from __future__ import annotations

import pytest
from fake import FakeOSS
from pipeline import INPUT, Volume, model

KIB = 1 << 10
LINE = b"INFO a line of sixty-four bytes, so that parts end where they may\n"[:63] + b"\n"
LOG = LINE * (64 * KIB)  # 4 MiB
PARTS = 4
READ = 64 * KIB  # to find a cut
EDGES = 2 * 4 * KIB


Asked = tuple[dict[str, int], int, int]


def step(volume: Volume, fake: FakeOSS, worker: str, *arguments: object, **more: object) -> Asked:
    """What a worker asks for: requests, and the bytes down and up that are no plan or result."""
    fake.counters.reset()
    outcome = volume.run(worker, *arguments, **more)
    assert outcome.code == 0, outcome.words
    counted = fake.counters.read()

    def data(way: str, *operations: str) -> int:
        small = sum(n for key, n in counted[f"{way}_by_key"].items() if key.endswith(".json"))
        return int(sum(counted[way].get(name, 0) for name in operations) - small)

    return counted["requests"], data("down", "GetObject"), data("up", "PutObject", "UploadPart")


def test_range(bucket: Volume, fake: FakeOSS) -> None:
    """Each byte of the input is downloaded once, and 64 KiB more a cut; none is uploaded."""
    bucket.write(INPUT, LOG)
    volume = bucket.having(SPLIT_MODE="range", NUM_PARTS=PARTS)
    assert step(volume, fake, "split") == (
        {"HeadObject": 1, "GetObject": PARTS - 1, "PutObject": 1},
        (PARTS - 1) * READ,
        0,
    )
    for part in range(PARTS):  # the plan, its range, its result
        assert step(volume, fake, "count", PART_ID=part) == (
            {"GetObject": 2, "PutObject": 1}, len(LOG) // PARTS, 0
        )  # fmt: skip
    assert step(volume, fake, "merge") == ({"GetObject": 1 + PARTS, "PutObject": 1}, 0, 0)
    assert volume.totals() == model([LOG])


def test_copy(bucket: Volume, fake: FakeOSS) -> None:
    """The copies are made by OSS: nothing is uploaded, and all is downloaded once by the maps."""
    bucket.write(INPUT, LOG)
    volume = bucket.having(SPLIT_MODE="copy", NUM_PARTS=PARTS)
    assert step(volume, fake, "split") == (
        {
            "HeadObject": 1,
            "GetObject": PARTS - 1 + 2 * PARTS,  # a cut, and two edges a part
            "ListObjectsV2": 1,  # whether there is another plan
            "ListMultipartUploads": PARTS,
            "InitiateMultipartUpload": PARTS,
            "UploadPartCopy": PARTS,
            "CompleteMultipartUpload": PARTS,
            "PutObject": 1,
        },
        (PARTS - 1) * READ + PARTS * EDGES,
        0,
    )
    for part in range(PARTS):  # the plan, the copy's edges, the copy, its result
        assert step(volume, fake, "count", PART_ID=part) == (
            {"GetObject": 4, "HeadObject": 1, "PutObject": 1}, len(LOG) // PARTS + EDGES, 0
        )  # fmt: skip
    assert step(volume, fake, "merge") == ({"GetObject": 1 + PARTS, "PutObject": 1}, 0, 0)
    assert volume.totals() == model([LOG])


COPIES = {"ListMultipartUploads": 1, "InitiateMultipartUpload": 1, "CompleteMultipartUpload": 1}


@pytest.mark.parametrize(
    ("size", "joined", "moved"),
    [
        (100 * KIB, COPIES | {"UploadPartCopy": 2}, 0),
        (99 * KIB, {"GetObject": 2, "PutObject": 1}, 2 * 99 * KIB),
    ],
)
def test_aggregation(
    bucket: Volume, fake: FakeOSS, size: int, joined: dict[str, int], moved: int
) -> None:
    """Files that are large enough are joined by OSS; smaller ones come and go once a level."""
    for number in range(4):
        bucket.write(f"aggregation-demo/l1/{number}.txt", b"%d" % number * size)
    looked = {"HeadObject": 2}
    for number, listed in enumerate(({}, {"ListObjectsV2": 1})):  # by the last group alone
        found = step(bucket, fake, "process", number, 1, FILES=4)
        assert found == (looked | listed | joined, moved, moved)
    assert step(bucket, fake, "merge", 2, LEVEL=2) == (
        {**looked, **COPIES, "UploadPartCopy": 2}, 0, 0
    )  # fmt: skip
