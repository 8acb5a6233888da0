"""Big inputs and many parts: the results are right, the memory is bounded, and the time is linear
in the number of parts.

Sparse files make these tests cheap: their holes are NUL bytes that are not stored.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fanfold import names, records
from fanfold.storage import open_storage
from pipeline import INPUT, JOINED, KEYWORDS, LEVEL_1, Volume, model

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
LIMIT = 32 * MIB
BASE = 25 * MIB  # for any run, with its page; and bytes per part or file if there are 100,000
PER_ID, PER_PART, PER_INPUT, PER_FILE, PER_SOURCE = 150, 600, 160, 400, 1200
PER_ITEM = 200  # in the mode files
SECONDS_OF_10000, SECONDS_OF_100000 = 1, 10  # of CPU time, for the proof of parts and of level 1
LINE = b"2026-01-01T00:00:00Z [INFO] caf\xc3\xa9 served\n"
SECONDS = 30

# At its end, prints the maximum memory of the process and its CPU time. (wait4 may return the
# values of the child's parent.)
PROLOGUE = """if True:
    import atexit, sys, time
    def peak():
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                print("PEAK", line.split()[1], time.process_time(), file=sys.stderr)
    atexit.register(peak)
"""


# Makes map.py a custom map that copies its files.
OWN = """if True:
    from fanfold import map_part
    raise SystemExit(map_part(lambda part: [part.write(piece) for piece in part.pieces()] and None))
"""


class Used(NamedTuple):
    """Resources of a worker: bytes of memory, seconds of CPU time."""

    memory: int
    seconds: float


def measured(
    volume: Volume, worker: str, *arguments: object, prologue: str = "", **settings: Any
) -> Used:
    """Run a worker and measure it."""
    prologue = PROLOGUE + prologue
    outcome = volume.call(worker, *arguments, prologue=prologue, timeout=300, **settings)
    assert outcome.code == 0, outcome.words
    memory, seconds = outcome.words.split("PEAK ")[1].split()
    used = Used(int(memory) * 1024, float(seconds))
    print(worker, *arguments, settings, f"{used.memory / MIB:.1f} MiB, {used.seconds:.2f} s")
    return used


def peak(volume: Volume, worker: str, *arguments: object, **settings: Any) -> int:
    """Return the maximum resident memory of a worker in bytes."""
    return measured(volume, worker, *arguments, **settings).memory


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """Inputs of 256 MiB: one line, many lines, and only line ends."""
    volume = Volume(tmp_path_factory.mktemp("big"))
    size = 256 * MIB
    (volume.root / "one-line").write_bytes((b"x" * 1019 + b"INFO ") * (size // 1024))
    (volume.root / "many-lines").write_bytes(LINE * (size // len(LINE)))
    (volume.root / "empty-lines").write_bytes(b"\n" * size)
    (volume.root / "not-text").write_bytes(b"\xff\x80\0\xfe" * (size // 4))
    yield volume
    for path in volume.root.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("name", ["one-line", "many-lines", "empty-lines", "not-text"])
def test_memory_of_count(big: Volume, name: str) -> None:
    """count.py takes less than 32 MiB for a part of 256 MiB, for any lines."""
    volume = big.having(RUN_DIR=f"of-{name}", INPUT=name, NUM_PARTS=1, SPLIT_MODE="range")
    volume.split()
    used = peak(volume, "count", PART_ID=0)
    volume.merge()

    assert used < LIMIT
    assert volume.totals() == model([(big.root / name).read_bytes()])


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_memory_of_split(big: Volume, mode: str) -> None:
    """split.py takes less than 32 MiB, both to find the ends of giant lines and to copy."""
    for name in ("one-line", "many-lines"):
        volume = big.having(RUN_DIR=f"{mode}-{name}", INPUT=name, NUM_PARTS=8, SPLIT_MODE=mode)
        assert peak(volume, "split") < LIMIT


def test_memory_of_process(big: Volume) -> None:
    """process.py and merge.py NUMBER take less than 32 MiB for files of 256 MiB."""
    big = big.having(RUN_ID="a", RUN_STARTED=1, CLEAN="true")
    levels = big.root / "aggregation-demo/l1"
    levels.mkdir(parents=True)
    for number in range(2):
        (levels / f"{number}.txt").hardlink_to(big.root / "one-line")
    assert peak(big, "process", 0, 1) < LIMIT
    assert peak(big, "merge", 1, LEVEL=2) < LIMIT

    assert big.final(JOINED) == (big.root / "one-line").read_bytes() * 2
    shutil.rmtree(big.root / "aggregation-demo")
    shutil.rmtree(big.root / "results")


def write_records(volume: Volume) -> None:
    """Write a record for every part, as count.py does. Only the first part is counted."""
    volume.count(["0"])
    first = records.unseal(volume.record_path("0").read_bytes())
    folder = volume.record_path("0").parent
    for number, size in enumerate(volume.sizes()):
        counts = {**dict.fromkeys(KEYWORDS, 0), "INFO": int(size > 0)}
        made = {**first, "part": str(number), "bytes": size, "counts": counts}
        (folder / f"{number}.json").write_bytes(records.seal(made))


def test_the_proof_of_many_parts(tmp_path: Path) -> None:
    """20,000 parts, most of them empty, with a record each: the proof takes bounded memory and one
    CPU second per 10,000 parts. Two missing parts are named and listed."""
    volume = Volume(tmp_path).having(NUM_PARTS=20_000, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 1000)
    volume.split()
    write_records(volume)
    assert (used := measured(volume, "merge")).memory < LIMIT
    assert used.seconds < 2 * SECONDS_OF_10000
    assert volume.totals() == model([LINE * 1000])
    assert peak(volume, "split", ONLY_MISSING="true") < LIMIT

    for part_id in ("7", "19999"):
        volume.record_path(part_id).unlink()
    outcome = volume.run("merge")
    assert outcome.code == 75
    assert " 2 missing (7, 19999): " in outcome.words
    assert volume.split(ONLY_MISSING="true") == ["7", "19999"]


def test_100000_parts(tmp_path: Path) -> None:
    """The maximum number of parts: all ids are printed, in order. The last part is found in bounded
    memory. merge names the missing parts, and proves a complete run."""
    count = 100_000
    volume = Volume(tmp_path).having(NUM_PARTS=count, SPLIT_MODE="range")
    volume.write(INPUT, LINE * 1000)
    assert peak(volume, "split") < BASE + count * PER_ID
    assert peak(volume, "count", PART_ID=count - 1) < LIMIT
    assert volume.split() == [str(number) for number in range(count)]
    outcome = volume.run("merge")

    assert outcome.code == 75
    assert f" {count - 1} missing (0, 1, 2," in outcome.words
    assert "19 and 99979 more)" in outcome.words

    write_records(volume)
    assert peak(volume, "merge") < LIMIT
    assert peak(volume, "split", ONLY_MISSING="true") < BASE + count * PER_PART


def test_outputs_of_100000_parts(tmp_path: Path) -> None:
    """Every part has an output: they are joined in order, with a few hundred bytes of memory
    each."""
    count = 100_000
    volume = Volume(tmp_path).having(NUM_PARTS=count, SPLIT_MODE="range", MAP_SETTINGS="1")
    volume.write(INPUT, LINE * 1000)
    volume.split()
    assert volume.run_map(lambda part: part.write(b"".join(part.pieces())), 0).code == 0
    first = volume.record_path("0")
    made = records.unseal(first.read_bytes())
    _, run = open_storage(volume.environ({}))
    for number, size in enumerate(volume.sizes()):
        name = names.PART_OUTPUT.format(made["job"], number, f"{number:016x}")
        (tmp_path / name).write_bytes(b"%d\n" % number)
        with run.open(name) as file:
            output = [name, file.size, file.version]
        more = {"part": str(number), "bytes": size, "output": output}
        first.with_name(f"{number}.json").write_bytes(records.seal({**made, **more}))

    assert peak(volume, "merge") < BASE + count * PER_PART
    assert volume.final("result.out") == b"".join(b"%d\n" % number for number in range(count))
    assert peak(volume, "split", ONLY_MISSING="true") < BASE + count * PER_PART


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_100000_files(tmp_path: Path, mode: str) -> None:
    """100,000 inputs, half of them in one part: split, a map and the proof take a hundred bytes per
    file plus its name."""
    count = 100_000
    volume = Volume(tmp_path).having(INPUT="in/", NUM_PARTS=2, SPLIT_MODE=mode)
    (tmp_path / "in").mkdir()
    for number in range(count):
        (tmp_path / f"in/app-{number:06}.log").write_bytes(b"INFO\n")
    assert peak(volume, "split") < BASE + count * PER_INPUT
    for part_id in "01":
        assert peak(volume, "count", PART_ID=part_id) < BASE + count // 2 * PER_INPUT
    assert peak(volume, "merge") < BASE + count * PER_INPUT
    assert volume.totals() == {**dict.fromkeys(KEYWORDS, 0), "INFO": count}


def test_the_proof_of_100000_files_of_level_1(tmp_path: Path) -> None:
    """The last step of 100,000 files with a fan-in of 8 takes ten seconds and a few hundred bytes
    per file. A changed file is named."""
    count, fan_in = 100_000, 8
    volume = Volume(tmp_path).having(RUN_ID="a", RUN_STARTED=1)
    (tmp_path / "aggregation-demo/l1").mkdir(parents=True)
    for number in range(count):
        (tmp_path / LEVEL_1.format(number)).write_bytes(b"%d\n" % number)
    group = count // fan_in  # the result of a tree of four levels
    for number in range(fan_in - 1):
        assert volume.run("process", number, 1, FAN_IN=group).code == 0
    used = measured(volume, "process", fan_in - 1, 1, FAN_IN=group, FILES=count)
    assert used.memory < BASE + group * PER_SOURCE
    used = measured(volume, "merge", fan_in, LEVEL=2)

    assert volume.final(JOINED) == b"".join(b"%d\n" % number for number in range(count))
    assert used.memory < BASE + count * PER_FILE
    assert used.seconds < SECONDS_OF_100000

    (tmp_path / LEVEL_1.format(77_777)).write_bytes(b"0\n")
    outcome = volume.run("merge", fan_in, LEVEL=2, RUN_STARTED=2)
    assert outcome.code == 75
    assert f"{LEVEL_1.format(77_777)} has changed from version" in outcome.words


def test_a_tebibyte(tmp_path: Path) -> None:
    """1 TiB with few lines, 1,000 parts, by ranges: it takes seconds, the cuts are at line ends,
    and the keywords around the cuts are found."""
    volume = Volume(tmp_path).having(NUM_PARTS=1000, SPLIT_MODE="range")
    places = [TIB // 1000 * 300 - 20, TIB // 1000 * 300 + 10, TIB // 2 + 5, TIB - len(LINE) - 9]
    volume.sparse(INPUT, TIB, dict.fromkeys(places, b"\n" + LINE))
    outcome = volume.call("split", timeout=SECONDS)

    assert outcome.part_ids == [str(number) for number in range(1000)]
    ends = set(volume.plan()["cuts"][1:])
    assert max(ends) == TIB
    line_ends = {place + 1 for place in places} | {place + 1 + len(LINE) for place in places}
    assert ends <= line_ends | {TIB}
    assert len(ends) >= 4
    small = [str(number) for number, size in enumerate(volume.sizes()) if 0 < size < MIB]
    assert small
    volume.count(small)


def test_no_line_end_in_a_tebibyte(tmp_path: Path) -> None:
    """1 TiB in one line: the first part has all of it."""
    volume = Volume(tmp_path).having(NUM_PARTS=1000, SPLIT_MODE="range")
    volume.sparse(INPUT, TIB)
    assert len(volume.call("split", timeout=SECONDS).part_ids) == 1000

    assert volume.sizes() == [TIB] + [0] * 999


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_line_of_half_a_gibibyte(tmp_path: Path, mode: str) -> None:
    """One line of 512 MiB, mostly NUL bytes, without a line end, with keywords at its ends and at
    the borders of pieces: it is counted right, with little memory."""
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
    """A copy that takes more than one system call is equal to the input."""
    volume = Volume(tmp_path).having(NUM_PARTS=2)
    data = bytes(range(256)) * (600 * 1024) + b"\nend"
    volume.write(INPUT, data)
    volume.split()

    assert b"".join(volume.copies(2)) == data


def test_20000_files_as_items() -> None:
    """In mode files split, a map, the last step and a takeover use at most PER_ITEM bytes per file
    in addition to the base. Names have 40 bytes, and each file has an output."""
    count, most = 20_000, BASE + 20_000 * PER_ITEM
    with Volume.temporary() as empty:
        (empty.root / "in").mkdir()
        for number in range(count):
            (empty.root / f"in/{number:037}").write_bytes(b"INFO\n")
        volume = empty.having(INPUT="in/", NUM_PARTS=1, SPLIT_MODE="files", MAP_SETTINGS="1")
        first = volume.having(RUN_ID="a", RUN_STARTED=1)
        again = volume.having(RUN_ID="b", RUN_STARTED=2, ONLY_MISSING="true")
        assert peak(first, "split") < most
        assert measured(first, "map", PART_ID=0, prologue=OWN).memory < most
        assert peak(first, "merge") < most
        assert peak(again, "split") < most
        assert peak(again, "merge") < most
        assert volume.summary()["taken"] == volume.summary()["files"] == count
