"""The aggregation against a model of a few lines: result.txt is the concatenation of the current
files of level 1, or there is no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import strategies
from fanfold import levels
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pipeline import JOINED, LEVEL_1, Volume

pytestmark = pytest.mark.usefixtures("storage")

RUNS: dict[str, dict[str, object]] = {
    "by hand": {},
    "a": {"RUN_ID": "a", "RUN_STARTED": 1},
    "b": {"RUN_ID": "b", "RUN_STARTED": 2},
}


class Write(NamedTuple):
    """Write or replace a file of level 1."""

    number: int
    data: bytes


class Remove(NamedTuple):
    """Remove a file of level 1."""

    number: int


class Process(NamedTuple):
    """A pod of a run makes a file of the next level."""

    run: str
    number: int
    level: int
    fan_in: int


class Merge(NamedTuple):
    """The last step of a run, with any NUMBER and LEVEL, possibly repeated."""

    run: str
    number: int
    level: int


class Aggregate(NamedTuple):
    """A whole run over all files of level 1, level by level."""

    run: str
    fan_in: int
    levels: int


runs = st.sampled_from([*RUNS])
few = st.integers(0, 4)
Operation = Write | Remove | Process | Merge | Aggregate
operations = st.lists(
    st.builds(Write, few, strategies.contents(3))
    | st.builds(Remove, few)
    | st.builds(Process, runs, st.integers(0, 2), st.integers(1, 2), st.integers(2, 3))
    | st.builds(Merge, runs, st.integers(1, 4), st.integers(1, 3))
    | st.builds(Aggregate, runs, st.integers(2, 3), st.integers(1, 3)),
    max_size=14,
)


class Model:
    """The files of level 1, and the results that must follow from them."""

    def __init__(self, volume: Volume) -> None:
        """Start with four files."""
        self.volume, self.files = volume, dict[int, bytes]()
        for number in range(4):
            self.do(Write(number, b"%d" % number))

    def do(self, operation: Operation) -> None:
        """Do the operation, and check what a last step has published."""
        volume = self.volume
        match operation:
            case Write(number, data):
                self.files[number] = data
                volume.write(LEVEL_1.format(number), data)
            case Remove(number):
                self.files.pop(number, None)
                (volume.root / LEVEL_1.format(number)).unlink(missing_ok=True)
            case Process(run, number, level, fan_in):
                volume.run("process", number, level, FAN_IN=fan_in, **RUNS[run])
            case Merge(run, number, level):
                self.merge(run, lambda: volume.run("merge", number, LEVEL=level, **RUNS[run]))
            case Aggregate(run, fan_in, levels) if [*self.files] and max(self.files) + 1 == len(
                self.files
            ):
                made = (fan_in, levels)
                count, run_of = len(self.files), volume.having(**RUNS[run])
                assert self.merge(run, lambda: run_of.aggregate(count, *made)) == 0
                right = b"".join(self.files[number] for number in range(count))
                assert right in [one["result.txt"] for one in volume.results().values()]
                assert run != "by hand" or volume.final(JOINED) == right

    def merge(self, run: str, step: Callable[[], Any]) -> int:
        """Run a last step. It publishes the concatenation of level 1. By hand it needs all files;
        with RUN_ID new files may be left out."""
        before = self.volume.final(JOINED), self.volume.results()
        outcome = step()
        if outcome.code:
            assert outcome.code in (2, 75)
            assert (self.volume.final(JOINED), self.volume.results()) == before
            return int(outcome.code)
        results = self.volume.results()
        name = max(each for each in results if each.endswith(f"Z-{run}") or each not in before[1])
        if proof := outcome.event("proven"):
            proven = int(proof["files"])
            right = b"".join(self.files[number] for number in range(proven))
            assert results[name]["result.txt"] == right
            assert proven == len(self.files) or run != "by hand"
        else:  # an attempt after a successful attempt
            assert results[name] == before[1][name]
        assert self.volume.final(JOINED) == results[max(results)]["result.txt"]
        return 0


@settings(max_examples=200)
@given(todo=operations)
@example(todo=[Aggregate("a", 2, 2), Write(0, b"x"), Aggregate("a", 2, 2)])
@example(todo=[Process("a", n, 1, 2) for n in (0, 1)] + [Write(3, b"x"), Merge("a", 2, 2)])
@example(todo=[Process("a", n, 1, 2) for n in (0, 1)] + [Write(4, b"x"), Merge("a", 2, 2)])
@example(todo=[Aggregate("b", 2, 2), Write(0, b"x"), Aggregate("a", 2, 3), Merge("b", 2, 2)])
@example(todo=[Aggregate("by hand", 3, 2), Remove(3), Merge("by hand", 2, 2)])
@example(todo=[Process("by hand", n, 1, 2) for n in (0, 1)] + [Remove(0), Merge("by hand", 2, 2)])
@example(todo=[Aggregate("a", 2, 2), Remove(3), Remove(2), Aggregate("a", 2, 2)])
def test_the_model(todo: list[Operation]) -> None:
    """Any steps of any runs in any order, while level 1 changes."""
    with Volume.temporary() as volume:
        model = Model(volume)
        for operation in todo:
            model.do(operation)


def test_new_files(volume: Volume) -> None:
    """Files of level 1 that are added after the first level was made are not in this run: their
    number is logged, and the next run includes them."""
    files = [b"%d\n" % number for number in range(6)]
    volume.write_level_1(files[:4])
    run = volume.having(**RUNS["a"])
    run.process(4)
    for number in (4, 5):
        volume.write(LEVEL_1.format(number), files[number])
    outcome = run.run("merge", 2, LEVEL=2)
    assert (outcome.code, outcome.event("proven")["new"]) == (0, "2")
    assert volume.final(JOINED) == b"".join(files[:4])

    assert volume.having(**RUNS["b"]).aggregate(6).code == 0
    assert volume.final(JOINED) == b"".join(files)


def test_a_number_that_is_too_small(volume: Volume) -> None:
    """With RUN_ID the last step detects that the run has made more files than NUMBER, and makes no
    partial result. The same run, started again with fewer files, succeeds."""
    run = volume.having(RUN_ID="a", RUN_STARTED=1)
    run.write_level_1([b"%d\n" % number for number in range(8)])
    run.process(8)
    outcome = run.run("merge", 2, LEVEL=2)
    assert (outcome.code, run.final(JOINED)) == (2, None)
    assert "NUMBER must cover all files of level 1, got the first 4, and " in outcome.words
    assert "was made of the files 6 to 7: set NUMBER" in outcome.words
    assert run.run("merge", 4, LEVEL=2).code == 0

    for number in range(4, 8):
        (run.run_dir / LEVEL_1.format(number)).unlink()
    run.process(4)
    assert run.run("merge", 2, LEVEL=2).code == 0
    assert run.final(JOINED) == b"0\n1\n2\n3\n"


def test_a_level_that_takes_too_few(volume: Volume) -> None:
    """FILES of an inner level is too small: the last step finds the files that no group has
    read."""
    run = volume.having(RUN_ID="a", RUN_STARTED=1)
    run.write_level_1([b"%x" % number for number in range(16)])
    for number in range(8):
        assert run.run("process", number, 1, FILES=16).code == 0
    for number in range(2):
        assert run.run("process", number, 2, FILES=4).code == 0
    outcome = run.run("merge", 2, LEVEL=3)
    assert (outcome.code, run.final(JOINED)) == (2, None)
    assert "was made of the files 14 to 15: set NUMBER" in outcome.words
    for number in range(4):
        assert run.run("process", number, 2, FILES=8).code == 0
    assert run.run("merge", 4, LEVEL=3).code == 0
    assert run.final(JOINED) == b"0123456789abcdef"


def test_levels_that_are_gone_and_never_were(volume: Volume) -> None:
    """After CLEAN a retry of the last step succeeds, but not with another NUMBER or LEVEL."""
    run = volume.having(RUN_ID="a", RUN_STARTED=1, CLEAN="true")
    run.write_level_1([b"a", b"b", b"c", b"d"])
    run.process(4)
    codes = [run.run("merge", *given, LEVEL=level).code for *given, level in
             ((2, 2), (2, 2), (1, 2), (2, 7))]  # fmt: skip
    assert codes == [0, 0, 75, 75]


@pytest.mark.parametrize("name", ["4.log", "04.txt", "4.TXT", "deep/4.txt"])
def test_what_nobody_reads_is_no_file_that_came_later(volume: Volume, name: str) -> None:
    """Without FILES, only the last step detects a file that no step reads."""
    run = volume.having(RUN_ID="a", RUN_STARTED=1)
    run.write_level_1([b"a", b"b", b"c", b"d"])
    run.write(f"aggregation-demo/l1/{name}", b"e")
    for number in range(2):
        assert run.run("process", number, 1).code == 0
    outcome = run.run("merge", 2, LEVEL=2)
    assert (outcome.code, run.final(JOINED)) == (2, None)
    assert f"l1/{name} is a file that no step reads" in outcome.words


def test_too_many_files(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than fit in memory are refused."""
    monkeypatch.setattr(levels, "MAX_LEVEL_1", 3)
    volume.write_level_1([b"a", b"b", b"c"])
    assert volume.aggregate(3, fan_in=3, levels=2).code == 0
    volume.write_level_1([b"a", b"b", b"c", b"d"])
    outcome = volume.run("process", 0, 1, FILES=4, FAN_IN=4)
    assert outcome.code == 2
    assert "aggregation-demo/l1/ must have at most 3 files, got 4" in outcome.words
