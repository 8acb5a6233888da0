"""Two runs in one run directory at once, at every moment of each other.

README.md of the workers says what holds: runs with one plan do each other no harm; of runs with
different plans one may fail. No total is wrong. (A copy is known by its size and by how it starts
and ends: two parts that are alike in all of these are told apart by nothing, which is why one run
directory is to have one run at a time.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations_with_replacement
from typing import Any

import faulty
import pytest
from pipeline import INPUT, Volume, model

pytestmark = pytest.mark.usefixtures("storage")

# Parts of two plans that have the same size and not the same bytes: 3 lines, 2 or 3 parts.
DATA = b"abc\nbbc\nccc\n"
WORDS = ["a", "b", "c"]
RIGHT = model([DATA], WORDS)
# What one process can notice of another: in a folder, and in a bucket.
SWITCHES = {"open", "replace", "unlink", "scandir"} | {"GET", "HEAD", "PUT", "POST", "DELETE"}


@pytest.fixture
def run(volume: Volume) -> Volume:
    """A volume with the input."""
    volume.write(INPUT, DATA)
    return volume.having(KEYWORDS=",".join(WORDS), NUM_PARTS=2)


def moments(volume: Volume, worker: str, *, every: bool = False, **settings: Any) -> list[int]:
    """The operations of a worker before which something else may have happened; every one of them
    where an input may be written in place."""
    with faulty.operations(lambda *_: None) as seen:
        assert volume.run(worker, **settings).code == 0
    return [number for number, name in enumerate(seen) if every or name in SWITCHES]


def meanwhile(
    volume: Volume,
    worker: str,
    others: Iterable[tuple[int, Callable[[], object]]],
    **settings: object,
) -> int:
    """Run a worker, and before some of its operations something else; gives its exit code."""

    def at(number: int, _: str) -> None:
        for moment, other in others:
            if moment == number:
                other()

    with faulty.operations(at):
        return volume.run(worker, **settings).code


def fold(volume: Volume, **settings: object) -> None:
    """Count all parts and merge, as far as it will go; a total that comes of it is right."""
    (volume.run_dir / "result.json").unlink(missing_ok=True)
    merged = {**volume.settings, **settings}
    for number in range(int(str(merged["NUM_PARTS"]))):
        volume.run("count", PART_ID=number, **settings)
    volume.run("merge", **settings)
    assert volume.totals() in (None, RIGHT)


def test_two_splits_with_one_plan(run: Volume) -> None:
    """At every moment of a split another runs from start to end: both end well, and so does all
    that follows."""
    for moment in moments(run, "split"):
        assert meanwhile(run, "split", [(moment, run.split)]) == 0
        run.count("01")
        run.merge()
        assert run.totals() == RIGHT


def test_two_splits_with_two_plans(run: Volume) -> None:
    """The same where the other split makes more parts: what follows may fail, and a split that
    runs alone mends it."""
    for moment in moments(run, "split"):
        meanwhile(run, "split", [(moment, lambda: run.split(NUM_PARTS=3))])
        fold(run)
        fold(run, NUM_PARTS=3)
        run.log_count()
        assert run.totals() == RIGHT


def pairs(volume: Volume, worker: str, **settings: Any) -> Iterator[tuple[int, ...]]:
    """Every two moments of a worker, the earlier one first."""
    return combinations_with_replacement(moments(volume, worker, **settings), 2)


def test_maps_and_merge_while_another_split_goes_on(run: Volume) -> None:
    """A whole run, its split at one moment of another split in mode copy and its maps and merge at
    a later one, while the other is putting copies of the same names and sizes in place."""
    for first, second in pairs(run, "split", NUM_PARTS=3):
        others = [(first, lambda: run.run("split")), (second, lambda: fold(run))]
        meanwhile(run, "split", others, NUM_PARTS=3)
        fold(run, NUM_PARTS=3)


def test_a_count_while_splits_replace_its_copy(run: Volume) -> None:
    """A slow count: at one moment another split replaces the copies, at a later one a split puts
    the count's own plan back. What it publishes, if it does, is right."""
    run.split()
    for first, second in pairs(run, "count", PART_ID=1):
        run.split()
        run.result_path("1").unlink(missing_ok=True)
        others = [
            (first, lambda: run.run("split", NUM_PARTS=3)),
            (second, lambda: run.run("split")),
        ]
        meanwhile(run, "count", others, PART_ID=1)
        run.count("0")
        (run.root / "result.json").unlink(missing_ok=True)
        run.run("merge")
        assert run.totals() in (None, RIGHT), (first, second)


# What an input of DATA may become: of the same size, shorter, longer.
CHANGES = {
    "other": DATA.replace(b"c", b"a"),
    "shorter": DATA[:6],
    "empty": b"",
    "longer": DATA + b"aaa\n",
}


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_count_while_the_input_changes(run: Volume, mode: str, changed: bytes) -> None:
    """A slow count: at any moment the input is written anew in place and split again. The old
    count publishes nothing that a merge takes for one of the new plan, and no bug ends it."""
    run = run.having(SPLIT_MODE=mode)
    run.split()
    for moment in moments(run, "count", every=True, PART_ID=1):
        run.write(INPUT, DATA)
        run.split()

        def change() -> None:
            run.write(INPUT, changed)
            run.split()

        assert meanwhile(run, "count", [(moment, change)], PART_ID=1) in (0, 75)
        run.count(run.split(ONLY_MISSING="true"))
        run.merge()
        assert run.totals() == model([changed], WORDS)


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_count_of_an_input_that_changed(run: Volume, changed: bytes) -> None:
    """The same without a new split: a count in the mode range publishes what the plan says, or
    nothing."""
    run = run.having(SPLIT_MODE="range")
    run.log_count()
    for moment in moments(run, "count", every=True, PART_ID=1):
        run.write(INPUT, DATA)
        run.log_count()
        (run.root / "result.json").unlink()
        run.result_path("1").unlink()
        change = (moment, lambda: run.write(INPUT, changed))
        assert meanwhile(run, "count", [change], PART_ID=1) in (0, 75)
        run.run("merge")
        assert run.totals() in (None, RIGHT)


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_a_split_while_the_input_changes(run: Volume, mode: str, changed: bytes) -> None:
    """At any moment of a split the input is written anew in place: the split fails, or what
    follows makes the total of one version or the other, or none. The next run is right."""
    run = run.having(SPLIT_MODE=mode)
    for moment in moments(run, "split", every=True):
        run.write(INPUT, DATA)
        (run.root / "result.json").unlink(missing_ok=True)
        change = (moment, lambda: run.write(INPUT, changed))
        if meanwhile(run, "split", [change]) == 0:
            for part_id in "01":
                run.run("count", PART_ID=part_id)
            run.run("merge")
            assert run.totals() in (None, RIGHT, model([changed], WORDS))
        run.log_count()
        assert run.totals() == model([changed], WORDS)


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_two_counts_of_one_part(run: Volume, mode: str) -> None:
    """At every moment of a count another one of the same part: both end well, the result is whole
    at any time, and the total is right."""
    run.split(SPLIT_MODE=mode)
    for moment in moments(run, "count", PART_ID=0):
        assert meanwhile(run, "count", [(moment, lambda: run.count("0"))], PART_ID=0) == 0
        run.count("1")
        run.merge()
        assert run.totals() == RIGHT


def test_two_merges(run: Volume) -> None:
    """At every moment of a merge another one: both end well."""
    run.log_count()
    for moment in moments(run, "merge"):
        assert meanwhile(run, "merge", [(moment, run.merge)]) == 0
        assert run.totals() == RIGHT


def test_a_merge_while_a_part_is_counted_again(run: Volume) -> None:
    """A pod that runs late writes its result anew at every moment of the merge."""
    run.log_count()
    for moment in moments(run, "merge"):
        assert meanwhile(run, "merge", [(moment, lambda: run.count("01"))]) == 0
        assert run.totals() == RIGHT


def test_a_merge_while_the_run_starts_again(run: Volume) -> None:
    """At every moment of a merge a split with other parts and its maps: the merge writes the total
    of the plan that it read, or none."""
    run.log_count()
    for moment in moments(run, "merge"):
        run.log_count()
        (run.root / "result.json").unlink()

        def again() -> None:
            run.count(run.split(NUM_PARTS=3))

        assert meanwhile(run, "merge", [(moment, again)]) in (0, 2, 75)
        assert run.totals() in (None, RIGHT)


@pytest.mark.parametrize(("worker", "arguments"), [("process", (0, 1)), ("merge", (2,))])
def test_two_joins(volume: Volume, worker: str, arguments: tuple[int, ...]) -> None:
    """At every moment of a join another one of the same files: the output is whole."""
    for number in range(2):
        volume.write(f"aggregation-demo/l1/{number}.txt", b"%d\n" % number)
    with faulty.operations(lambda *_: None) as seen:
        volume.run(worker, *arguments, LEVEL=1)
    output = volume.root / ("aggregation-demo/" + ("l2/0" if worker == "process" else "result"))
    for moment in range(len(seen)):

        def other(at: int, _: str, moment: int = moment) -> None:
            if at == moment:
                assert volume.run(worker, *arguments, LEVEL=1).code == 0

        with faulty.operations(other):
            assert volume.run(worker, *arguments, LEVEL=1).code == 0
        assert output.with_suffix(".txt").read_bytes() == b"0\n1\n"
