"""The progress of a map, in the file that ARGO_PROGRESS_FILE names."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from fanfold import Part, progress
from pipeline import INPUT, Volume, pieces_of

pytestmark = pytest.mark.usefixtures("storage")
DATA = b"".join(b"INFO %06d is here\n" % number for number in range(100))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file. Its folder is not on the volume."""
    return tmp_path / "progress"


@pytest.fixture
def run(volume: Volume, file: Path) -> Volume:
    """A run of four parts of 25 lines."""
    volume.write(INPUT, DATA)
    return volume.having(NUM_PARTS=4, MAP_SETTINGS="1", ARGO_PROGRESS_FILE=file)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a map write each time that it has progress."""
    monkeypatch.setattr(progress, "EVERY", 0)


def reported(file: Path) -> int:
    """Return the percentage in the file, or -1 without a file."""
    if not file.exists():
        return -1
    done, of = file.read_text().split("/")
    assert (of, file.read_text().strip()) == ("100\n", f"{done}/100")
    return int(done)


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.usefixtures("at_once")
def test_bytes_of_all_parts(run: Volume, file: Path, mode: str) -> None:
    """With several parts per pod: the bytes that were read, of the bytes of all parts. After
    everything is read, the map has not ended yet."""
    seen: list[int] = []

    def watching(part: Part) -> Mapping[str, int]:
        seen.extend(reported(file) for _ in part.pieces())
        return {}

    run.split(SPLIT_MODE=mode)
    with pieces_of(200):
        assert run.run_map(watching, "0-3").code == 0
    # A part has 500 bytes of 2000: pieces of 200, 200 and 100.
    assert seen == [10, 20, 25, 35, 45, 50, 60, 70, 75, 85, 95, 99]

    seen.clear()
    with pieces_of(200):
        assert run.run_map(watching, "1,3").code == 0
    assert seen == [20, 40, 50, 70, 90, 99]


@pytest.mark.usefixtures("at_once")
def test_what_an_attempt_has_not_to_do(run: Volume, file: Path) -> None:
    """An attempt after a failed one: finished parts count as done, and the progress of the failed
    attempt is replaced."""
    seen: list[int] = []

    def watching(part: Part) -> Mapping[str, int]:
        seen.extend(reported(file) for _ in part.pieces())
        if part.id == "2" and len(seen) < 6:
            raise OSError(5, "Input/output error")
        return {}

    run = run.having(SPLIT_MODE="range", RUN_ID="a", RUN_STARTED=1)
    run.split()
    assert run.run_map(watching, "0-2").code != 0
    assert seen == [33, 66, 99]
    run.record_path("1").unlink()
    assert run.run_map(watching, "0-2").code != 0
    assert seen[3:] == [66, 99]
    assert run.run_map(watching, "0-2").code == 0
    assert seen[5:] == [99]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("lanes", [1, 4])
def test_files(run: Volume, file: Path, lanes: int) -> None:
    """In mode files: the number of finished files, also with programs in parallel."""
    for number in range(20):
        run.write(f"in/{number:02}", b"INFO\n" * (1 + 50 * number))
    run = run.having(INPUT="in/", SPLIT_MODE="files", NUM_PARTS=1, FILES_AT_ONCE=lanes)
    run = run.having(MAP_COMMAND="cat")
    run.split()
    assert run.run("map", PART_ID=0).code == 0
    assert reported(file) == 99


@pytest.mark.usefixtures("at_once")
def test_files_one_by_one(run: Volume, file: Path) -> None:
    """In mode files a map sees the number of files before each file, whatever their sizes. Results
    taken over from an earlier run count as done."""
    seen: list[int] = []

    def watching(part: Part) -> Mapping[str, int]:
        assert b"".join(part.pieces())
        seen.append(reported(file))
        return {}

    for number in range(5):
        run.write(f"in/{number}", b"INFO\n" * (1 + 100 * number))
    run = run.having(INPUT="in/", SPLIT_MODE="files", NUM_PARTS=2, ONLY_MISSING="true")
    assert run.split(PARTS_PER_POD=2) == ["0-1"]
    assert run.run_map(watching, "0-1").code == 0
    assert seen == [-1, 20, 40, 60, 80]
    run.merge()

    for number in (1, 3):
        run.write(f"in/{number}", b"another\n")
    assert run.split(NUM_PARTS=1) == ["0"]
    file.unlink()
    assert run.run_map(watching, "0").code == 0
    assert seen[5:] == [-1, 80]


@pytest.mark.usefixtures("at_once")
def test_a_program(run: Volume, file: Path) -> None:
    """How far a program has read its stdin if this is a file; for a pipe, how much was written to
    it. This program reads half, and continues when half is reported."""
    script = (
        "import os, sys, time\n"
        "half = os.read(0, 1000)\n"
        "end = time.monotonic() + 30\n"
        "def progress(): return open(os.environ['ARGO_PROGRESS_FILE']).read()[:2]\n"
        "while progress() not in ('50', '99'):\n"
        "    if time.monotonic() > end: sys.exit(7)\n"
        "    time.sleep(0.01)\n"
        "while os.read(0, 65536): pass\n"
    )
    command = shlex.join([sys.executable, "-c", script])
    run = run.having(SPLIT_MODE="range", MAP_COMMAND=command, NUM_PARTS=1)
    run.split()
    file.write_text("")
    with pieces_of(1000):
        outcome = run.run("map", PART_ID=0)
    assert outcome.code == 0, outcome.words


def test_once_in_three_seconds(run: Volume, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written three seconds after the start, and then every three seconds. A shorter
    map does not write it."""
    now, seen = 1000.0, list[int]()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))

    def slow(part: Part) -> Mapping[str, int]:
        nonlocal now
        for _ in part.pieces():
            seen.append(reported(file))
            now += 1
        return {}

    run.split(SPLIT_MODE="range")
    with pieces_of(200):
        assert run.run_map(slow, "0").code == 0
        assert seen == [-1, -1, -1]
        assert run.run_map(slow, "0-3").code == 0
    assert seen[3:] == [-1, -1, -1, 35, 35, 35, 60, 60, 60, 85, 85, 85]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("where", ["no-folder/file", "", "pipe", "/dev/full"])
def test_a_file_that_cannot_be_written(run: Volume, tmp_path: Path, where: str) -> None:
    """The map succeeds as before."""
    os.mkfifo(tmp_path / "pipe")  # a pipe without a reader
    run.split()
    for part in range(4):
        settings = {"PART_ID": part, "ARGO_PROGRESS_FILE": tmp_path / where}
        assert run.run("count", MAP_SETTINGS="", **settings).code == 0
    run.split(MAP_SETTINGS="")
    run.merge(MAP_SETTINGS="")
    assert run.totals() == {"INFO": 100, "WARN": 0, "ERROR": 0, "DEBUG": 0}


@pytest.mark.usefixtures("at_once")
def test_others_say_nothing(run: Volume, file: Path) -> None:
    """split, process and merge do not write it: Argo counts their pods as one each."""
    run.log_count(MAP_SETTINGS="")
    assert reported(file) == 99
    file.unlink()
    run.split(MAP_SETTINGS="")
    run.merge(MAP_SETTINGS="")
    run.write_level_1([b"a", b"b", b"c"])
    assert run.aggregate(3).code == 0
    assert not file.exists()


def test_without_the_setting(run: Volume, file: Path) -> None:
    """Outside of Argo nothing is written."""
    run.log_count(MAP_SETTINGS="", ARGO_PROGRESS_FILE="")
    assert [*file.parent.iterdir()] == []
