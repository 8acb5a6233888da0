"""An input that changes at any moment of a step: the result is right for the input at one moment of
the run, or there is no result."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from fanfold.storage import bucket
from pipeline import LEVEL_1, Volume, pieces_of
from runs import (
    ARGO,
    BY_HAND,
    JOIN,
    OLD,
    SAME,
    STEPS,
    Files,
    Run,
    begin,
    moments,
    nested,
    place,
    some,
)

pytestmark = pytest.mark.usefixtures("storage")


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    """Each read or copy is a piece of a file. Records are read in one piece."""
    with pieces_of(16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "WHOLE", 1 << 20)
        yield


def write(path: Path, data: bytes) -> None:
    """Write other bytes to the same file, or another object."""
    path.write_bytes(data)


def in_place(path: Path, data: bytes) -> None:
    """Write other bytes to the same file, and keep the old time."""
    old = path.stat()
    path.write_bytes(data)
    set_time(path, old)


def move_in_place(path: Path, data: bytes) -> None:
    """Replace a file by another with the old time, as `cp -p`, `rsync -t` and `tar` do."""
    old = path.stat()
    other = path.with_name(".other")
    other.write_bytes(data)
    other.replace(path)
    set_time(path, old)


def set_time(path: Path, old: os.stat_result) -> None:
    """Set a file's old mtime, and wait for the next ctime: this clock may tick slowly."""
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    while path.stat().st_ctime_ns == old.st_ctime_ns:
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


Make = Callable[[Mapping[str, Files]], Files]
Put = Callable[[Path, bytes], object]


def each(function: Callable[[bytes], bytes]) -> Make:
    """Change every file."""
    return lambda inputs: {name: function(data) for name, data in inputs[OLD].items()}


def one_more(inputs: Mapping[str, Files]) -> Files:
    """Add a file after the last."""
    name = {"in/a": "in/c"}.get(next(iter(inputs[OLD])), LEVEL_1.format(len(inputs[OLD])))
    return {**inputs[OLD], name: b"qqq"}


CHANGES: dict[str, tuple[Make, Put]] = {
    "other bytes": (lambda inputs: inputs[SAME], write),
    "cut": (each(lambda data: data[: data.rfind(b"\n", 0, -1) + 1 or len(data) // 2]), write),
    "empty": (each(lambda _: b""), write),
    "grown": (each(lambda data: data + b"q\n"), write),
    "one file more": (one_more, write),
    "one file less": (lambda inputs: dict([*inputs[OLD].items()][:-1]), write),
}
OLD_TIMES: dict[str, tuple[Make, Put]] = {
    "in place": (lambda inputs: inputs[SAME], in_place),
    "moved in place": (lambda inputs: inputs[SAME], move_in_place),
}


def change_at_every_moment(
    volume: Volume, step: str, ids: tuple[Any, ...], make: Make, put: Put
) -> None:
    """Change the input of a run at any moment of a step, the first file first, so that the files
    read before and after the change never existed together."""
    pipeline, at, settings = STEPS[step]
    files = make(pipeline.inputs)

    def start() -> Run:
        return Run.of(place(volume, **settings), pipeline, OLD, **ids[0])

    def change(run: Run) -> None:
        for name in {**run.files, **files}:
            path = run.volume.run_dir / name
            if name not in files:
                path.unlink()
            elif run.files.get(name) != files[name]:
                put(path, files[name])

    for moment in some(volume, moments(start(), at, ()), 6):
        run = begin(start(), at)
        ends = [run.do(at, nested(moment, partial(change, run)))]
        if ends == [0] or ids is BY_HAND:
            ends += run.finish(at + 1)

        assert {*ends} <= {0, 2, 75}
        right = [{}] if ends[-1] else [run.right, pipeline.model(files)]
        assert run.final() in right, moment


# A last step in mode files makes hundreds of requests, and each is a moment.
LONG = {"merge outputs": pytest.mark.folder}
each_step = pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=LONG.get(step, ())) for step in STEPS if "count" not in step],
)


@pytest.mark.parametrize("change", CHANGES)
@each_step
def test_an_input_changes(volume: Volume, step: str, change: str) -> None:
    """The files get other bytes or sizes, or are replaced."""
    change_at_every_moment(volume, step, ARGO, *CHANGES[change])


@pytest.mark.parametrize("change", ["other bytes", "one file more"])
@each_step
def test_an_input_changes_by_hand(volume: Volume, step: str, change: str) -> None:
    """The same without RUN_ID and PLAN_ID."""
    change_at_every_moment(volume, step, BY_HAND, *CHANGES[change])


@pytest.mark.folder
@pytest.mark.parametrize("change", OLD_TIMES)
@each_step
def test_an_input_of_the_old_time(volume: Volume, step: str, change: str) -> None:
    """The files get other bytes of the same size, and keep their times."""
    change_at_every_moment(volume, step, ARGO, *OLD_TIMES[change])


def test_files_change_one_after_the_other(volume: Volume) -> None:
    """The first file of a join changes at any moment, the others later: the result never has the
    old first file with new others."""
    settings = ARGO[0]
    before, after = JOIN.inputs[OLD], JOIN.inputs[SAME]
    first, *others = before
    right = [{}, *map(JOIN.model, (before, {**before, first: after[first]}, after))]
    stops = moments(Run.of(place(volume), JOIN, OLD, **settings), 0, ())
    for moments_of in some(volume, combinations(stops[::2], 2), 30):
        run = begin(Run.of(place(volume), JOIN, OLD, **settings), 0)

        def change(at: int, _: str, run: Run = run, two: tuple[int, ...] = moments_of) -> None:
            for name in [[first], others][two.index(at)] if at in two else ():
                (run.volume.run_dir / name).write_bytes(after[name])

        code = run.do(0, change)
        assert run.final() in right[:1] if code else right[1:], moments_of
