"""Big inputs and many parts: right, in bounded memory, and no slower than the parts are many.

Sparse files make them cheap: their holes are NUL bytes that lie on no disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline import INPUT, KEYWORDS, Volume, model

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
LIMIT = 32 * MIB
LIMIT_OF_SPLIT = 48 * MIB  # which reads in several lanes at once
LINE = b"2026-01-01T00:00:00Z [INFO] caf\xc3\xa9 served\n"
SECONDS = 30

# Prints the most memory that the process ever had, at its end. (What wait4 tells of a child may be
# its parent's.)
PROLOGUE = """if True:
    import atexit, sys
    def peak():
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                print("PEAK", line.split()[1], file=sys.stderr)
    atexit.register(peak)
"""


def peak(volume: Volume, worker: str, *arguments: object, **settings: Any) -> int:
    """The most resident memory of a worker, in bytes."""
    outcome = volume.call(worker, *arguments, prologue=PROLOGUE, **settings)
    assert outcome.code == 0, outcome.words
    return int(outcome.words.split("PEAK ")[1]) * 1024


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """Inputs of 256 MiB: one line, many lines, and nothing but line ends."""
    volume = Volume(tmp_path_factory.mktemp("big"))
    size = 256 * MIB
    (volume.root / "one-line").write_bytes((b"x" * 1019 + b"INFO ") * (size // 1024))
    (volume.root / "many-lines").write_bytes(LINE * (size // len(LINE)))
    (volume.root / "empty-lines").write_bytes(b"\n" * size)
    (volume.root / "not-text").write_bytes(b"\xff\xfe\0\x80" * (size // 4))
    yield volume
    for path in volume.root.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("name", ["one-line", "many-lines", "empty-lines", "not-text"])
def test_memory_of_count(big: Volume, name: str) -> None:
    """count.py takes under 32 MiB for a part of 256 MiB, whatever its lines."""
    volume = big.having(RUN_DIR=f"of-{name}", INPUT=name, NUM_PARTS=1, SPLIT_MODE="range")
    volume.split()
    used = peak(volume, "count", PART_ID=0)
    volume.merge()

    assert used < LIMIT
    assert volume.totals() == model([(big.root / name).read_bytes()])


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_memory_of_split(big: Volume, mode: str) -> None:
    """split.py takes under 32 MiB where it looks for the ends of giant lines, and where it
    copies."""
    for name in ("one-line", "many-lines"):
        volume = big.having(RUN_DIR=f"{mode}-{name}", INPUT=name, NUM_PARTS=8, SPLIT_MODE=mode)
        assert peak(volume, "split") < LIMIT_OF_SPLIT


def test_memory_of_process(big: Volume) -> None:
    """process.py and merge.py NUMBER take under 32 MiB for files of 256 MiB."""
    levels = big.root / "aggregation-demo/l1"
    levels.mkdir(parents=True)
    for number in range(2):
        (levels / f"{number}.txt").hardlink_to(big.root / "one-line")
    assert peak(big, "process", 0, 1) < LIMIT

    output = big.root / "aggregation-demo/l2/0.txt"
    assert output.read_bytes() == (big.root / "one-line").read_bytes() * 2
    assert peak(big, "merge", 1, LEVEL=2) < LIMIT
    output.unlink()
    (big.root / "aggregation-demo/result.txt").unlink()


def test_results_of_many_parts(tmp_path: Path) -> None:
    """20,000 parts, most of them empty, with a result of each: folded and looked through in
    bounded memory; two that are missing are found, named and listed."""
    count = 20_000
    volume = Volume(tmp_path).having(NUM_PARTS=count, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 1000)
    volume.split()
    volume.count(["0"])
    first = json.loads(volume.result_path("0").read_bytes())
    for part in volume.plan()["parts"]:
        counts = {**dict.fromkeys(KEYWORDS, 0), "INFO": int(part["bytes"] > 0)}
        made = {key: part.get(key, value) for key, value in first.items()}
        volume.result_path(part["part"]).write_text(json.dumps({**made, "counts": counts}))
    assert peak(volume, "merge") < LIMIT
    assert volume.totals() == model([LINE * 1000])
    assert peak(volume, "split", ONLY_MISSING="true") < LIMIT_OF_SPLIT

    for part_id in ("7", "19999"):
        volume.result_path(part_id).unlink()
    outcome = volume.run("merge")
    assert outcome.code == 75
    assert "of 20000 parts in cout-output/ 2 missing (7, 19999): " in outcome.words
    assert volume.split(ONLY_MISSING="true") == ["7", "19999"]


def test_100000_parts(tmp_path: Path) -> None:
    """As many parts as there may be: all ids are printed, in order; the last part is found in
    bounded memory; merge names what is missing."""
    count = 100_000
    volume = Volume(tmp_path).having(NUM_PARTS=count, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 1000)
    assert peak(volume, "split") < LIMIT_OF_SPLIT
    assert peak(volume, "count", PART_ID=count - 1) < LIMIT
    assert volume.split() == [str(number) for number in range(count)]
    outcome = volume.run("merge")

    assert outcome.code == 75
    assert "of 100000 parts in cout-output/ 99999 missing (0, 1, 2," in outcome.words
    assert "19 and 99979 more)" in outcome.words


def test_a_tebibyte(tmp_path: Path) -> None:
    """1 TiB with a line here and there, 1,000 parts, by ranges: in seconds, cut at line ends, and
    the keywords around the cuts are found."""
    volume = Volume(tmp_path).having(NUM_PARTS=1000, SPLIT_MODE="range")
    places = [TIB // 1000 * 300 - 20, TIB // 1000 * 300 + 10, TIB // 2 + 5, TIB - len(LINE) - 9]
    volume.sparse(INPUT, TIB, dict.fromkeys(places, b"\n" + LINE))
    outcome = volume.call("split", timeout=SECONDS)

    assert outcome.part_ids == [str(number) for number in range(1000)]
    parts = volume.plan()["parts"]
    ends, at = set(), 0
    for part in parts:
        at += part["bytes"]
        ends.add(at)
    assert at == TIB
    line_ends = {place + 1 for place in places} | {place + 1 + len(LINE) for place in places}
    assert ends <= line_ends | {TIB}
    assert len(ends) >= 4
    small = [part["part"] for part in parts if 0 < part["bytes"] < MIB]
    assert small
    volume.count(small)


def test_no_line_end_in_a_tebibyte(tmp_path: Path) -> None:
    """1 TiB of one line: the first part has it all."""
    volume = Volume(tmp_path).having(NUM_PARTS=1000, SPLIT_MODE="range")
    volume.sparse(INPUT, TIB)
    assert len(volume.call("split", timeout=SECONDS).part_ids) == 1000

    parts = volume.plan()["parts"]
    assert [part["bytes"] for part in parts] == [TIB] + [0] * 999


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_line_of_half_a_gibibyte(tmp_path: Path, mode: str) -> None:
    """One line of 512 MiB, mostly NUL bytes, without a final line end, keywords at its ends and
    where pieces meet: counted right, by a process with little memory."""
    volume = Volume(tmp_path).having(NUM_PARTS=2, SPLIT_MODE=mode)
    size = GIB // 2
    places = [0, MIB - 2, 2 * MIB - 1, 64 * MIB - 3, size - 4]
    volume.sparse(INPUT, size, dict.fromkeys(places, b"INFO"))
    part_ids = volume.split()
    assert peak(volume, "count", PART_ID=0) < LIMIT
    volume.count(part_ids[1:])
    volume.merge()

    assert volume.totals() == {"INFO": len(places), "WARN": 0, "ERROR": 0, "DEBUG": 0}


def test_copies_of_many_pieces(tmp_path: Path) -> None:
    """A copy of more than one system call's worth is the input's bytes."""
    volume = Volume(tmp_path).having(NUM_PARTS=2)
    data = bytes(range(256)) * (600 * 1024) + b"\nend"
    volume.write(INPUT, data)
    volume.split()

    assert b"".join(volume.copies(2)) == data
