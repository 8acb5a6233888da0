"""Inputs that change after split, and new files: the result is for the inputs of the plan, or there
is no result."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import NoReturn

import pytest
from fanfold.storage import mounts
from pipeline import INPUT, Volume, model

pytestmark = pytest.mark.usefixtures("storage")

FILES = {"in/a": b"INFO\nWARN\n", "in/b": b"", "in/c": b"ERROR\nINFO\n"}
TOTALS = model(FILES.values())

CHANGES: dict[str, Callable[[Volume], object]] = {
    "an empty file gets a line": lambda volume: volume.write("in/b", b"INFO\n"),
    "a line more": lambda volume: volume.write("in/a", FILES["in/a"] + b"INFO\n"),
    "a line less": lambda volume: volume.write("in/c", b"ERROR\n"),
    "other bytes": lambda volume: volume.write("in/a", b"WARN\nINFO\n"),
    "empty": lambda volume: volume.write("in/c", b""),
    "gone": lambda volume: (volume.root / "in/a").unlink(),
    "an empty file is gone": lambda volume: (volume.root / "in/b").unlink(),
}


def ready(volume: Volume, **settings: object) -> Volume:
    """A run with all parts counted, with settings for every step."""
    for name, data in FILES.items():
        volume.write(name, data)
    run = volume.having(INPUT="in/", NUM_PARTS=3, **settings)
    run.count(run.split())
    return run


@pytest.mark.parametrize("given", [False, True], ids=["by hand", "by Argo"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_range(volume: Volume, change: Callable[[Volume], object], given: bool) -> None:
    """In mode range the inputs must not change until the last step. The last step refuses changed
    inputs and names the file, also if every map succeeded. The next run is right."""
    run = ready(volume, SPLIT_MODE="range")
    plan_id = {"PLAN_ID": run.plan()["id"], "RUN_ID": "a", "RUN_STARTED": 1} if given else {}
    change(run)
    before = run.tree()
    outcome = run.run("merge", **plan_id)
    assert outcome.code == 75
    assert " has changed from version " in outcome.words
    assert run.tree() == before

    run.log_count()
    left = [path.read_bytes() for path in (run.root / "in").iterdir()]
    assert run.totals() == model(left)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_copy(volume: Volume, change: Callable[[Volume], object]) -> None:
    """In mode copy the copies are the inputs: the result of a run with PLAN_ID is for the moment of
    its split. By hand, the newest plan must match the current inputs."""
    run = ready(volume, SPLIT_MODE="copy")
    change(run)
    outcome = run.run("merge")
    assert outcome.code == 75
    assert " has changed from version " in outcome.words
    assert run.totals() is None

    run.merge(PLAN_ID=run.plan()["id"])
    assert run.totals() == TOTALS


@pytest.mark.parametrize("settings", [{}, {"RUN_ID": "a", "RUN_STARTED": 1}], ids=["", "RUN_ID"])
def test_new_files(volume: Volume, settings: dict[str, object]) -> None:
    """Files added after split are not in this plan: their number is logged, and the next run
    includes them."""
    run = ready(volume, SPLIT_MODE="range", **settings)
    outcome = run.run("merge")
    assert (outcome.code, outcome.event("proven")["new"]) == (0, "0")

    for name in ("in/0", "in/d/e"):
        run.write(name, b"INFO\n")
    outcome = run.having(RUN_ID="b", RUN_STARTED=int(time.time()) + 3600).run("merge")
    assert (outcome.code, outcome.event("proven")["new"]) == (0, "2")
    assert run.totals() == TOTALS

    run.having(RUN_ID="c", RUN_STARTED=int(time.time()) + 3600).log_count()
    assert run.totals() == {**TOTALS, "INFO": TOTALS["INFO"] + 2}


def test_new_files_anywhere(volume: Volume) -> None:
    """New files are detected anywhere in byte order. A deleted file is named, also if there are new
    files."""
    names = ["0", "A", "a", "a/", "a0", "\u00e9", "\uff21", "\U0001f600"]
    run = volume.having(INPUT="in/", NUM_PARTS=2, SPLIT_MODE="range")
    for name in names[1::2]:
        run.write(f"in/{name}x", b"INFO\n")
    run.count(run.split())
    for name in names[::2]:
        run.write(f"in/{name}x", b"INFO\n")
    outcome = run.run("merge")
    assert (outcome.code, outcome.event("proven")["new"]) == (0, "4")

    (run.root / f"in/{names[3]}x").unlink()
    outcome = run.run("merge")
    assert outcome.code == 75
    assert "in/a/x has changed from version" in outcome.words
    assert "to no file" in outcome.words


def test_a_file_that_is_the_input_alone(volume: Volume) -> None:
    """If INPUT is a single file, other files in its folder are not inputs, new or not."""
    volume.write(INPUT, b"INFO\n")
    volume.count(volume.split(NUM_PARTS=1, SPLIT_MODE="range"))
    volume.write("beside.txt", b"INFO\n")
    outcome = volume.run("merge", NUM_PARTS=1)
    assert (outcome.code, outcome.event("proven")["new"]) == (0, "0")


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_an_older_plan_takes_the_place_of_the_newest(volume: Volume, mode: str) -> None:
    """By hand: a late split makes its plan the newest, although its input has changed since. No
    result of this plan is published. After a new split the result is right."""
    volume = volume.having(NUM_PARTS=2, SPLIT_MODE=mode)
    volume.write(INPUT, b"INFO\nWARN\n")
    volume.log_count()
    older = (volume.run_dir / "split-output/plan.json").read_bytes()
    volume.write(INPUT, b"ERROR\nERROR\n")
    volume.log_count()
    right = volume.totals()
    (volume.run_dir / "split-output/plan.json").write_bytes(older)
    assert volume.run("merge").code == 75
    assert volume.totals() == right == model([b"ERROR\nERROR\n"])
    volume.log_count()
    assert volume.totals() == right


@pytest.mark.folder
def test_another_file_of_the_same_times(volume: Volume) -> None:
    """Two files with the same clock tick, size and mtime; a folder is renamed, and one file
    replaces the other. Clients of a mount choose inode numbers freely, so there the change is not
    detected."""
    paths = [volume.write(f"{name}/0.txt", data) for name, data in (("l1", b"A"), ("next", b"B"))]
    while len({path.stat().st_ctime_ns for path in paths}) > 1:
        for path in paths:
            os.utime(path, ns=(1, 1))
    run = volume.having(INPUT="l1/", NUM_PARTS=1, SPLIT_MODE="range")
    run.split()
    (volume.root / "l1").rename(volume.root / "old")
    (volume.root / "next").rename(volume.root / "l1")
    outcome = run.run("count", PART_ID=0)
    assert outcome.code == 75
    assert "l1/0.txt has changed" in outcome.words
    assert mounts.are_numbered(volume.root.stat().st_dev)


def test_types_of_file_systems() -> None:
    """The type comes from mountinfo, by device."""
    assert mounts.find_type(b"0:0") == b""
    device = os.stat("/proc").st_dev
    assert mounts.find_type(f"{os.major(device)}:{os.minor(device)}".encode()) == b"proc"
    assert not mounts.are_numbered(device)


@pytest.mark.folder
def test_types_that_cannot_be_read(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc, or without access to it, there are no types. Any other error can be retried: a
    version without its inode would be another version."""
    volume.write(INPUT, b"INFO\n")
    for number, code in ((errno.ENOENT, 0), (errno.EACCES, 0), (errno.EIO, 75)):

        def fails(path: str, *_: object, number: int = number) -> NoReturn:
            raise OSError(number, os.strerror(number), path)

        with monkeypatch.context() as patch:
            patch.setattr(mounts, "known", {})
            patch.setattr(mounts, "open", fails, raising=False)
            outcome = volume.run("split", NUM_PARTS=1)
        assert outcome.code == code, outcome.words
        assert ("/proc/self/mountinfo: Input/output error" in outcome.words) == (code == 75)
