"""CLEAN=true: after it has published, the last step removes the files that only this run made, and
nothing that another run may need."""

from __future__ import annotations

import pytest
from fanfold import Part
from fanfold.names import LEVEL_REPORT
from pipeline import INPUT, JOINED, Tree, Volume, model

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"".join(b"INFO %d\n" % number for number in range(9))
FILES = [b"%d\n" % number for number in range(8)]


def echo(part: Part) -> None:
    """Write the bytes that are read."""
    for piece in part.pieces():
        part.write(piece)


def files(tree: Tree) -> set[str]:
    """Return the names of the files."""
    return {name for name, data in tree.items() if data is not None}


def published(volume: Volume, *finals: str) -> set[str]:
    """Return what a merge writes: the final names and all results."""
    made = {f"results/{folder}/{name}" for folder, two in volume.results().items() for name in two}
    return made | set(finals)


def run_of(volume: Volume, name: str, **settings: object) -> Volume:
    """Return a run. The letter sets its age."""
    return volume.having(RUN_ID=name, RUN_STARTED=ord(name), **settings)


@pytest.fixture(params=["copy", "range"])
def mapped(volume: Volume, request: pytest.FixtureRequest) -> Volume:
    """A volume on which run b has mapped its parts, and so have another job of the same plan (run
    c) and another plan (run d). There are also unrelated files. Then run e has mapped part 1 of b's
    job again. Nothing is merged yet."""
    volume = volume.having(NUM_PARTS=3, MAP_SETTINGS="1", SPLIT_MODE=request.param)
    volume.write(INPUT, DATA)
    volume.write("result.out", b"yesterday's")
    volume.write("notes.txt", b"mine")
    volume.write_level_1(FILES)
    volume.process(8)
    for name, more in (("d", {"NUM_PARTS": 2}), ("c", {"MAP_SETTINGS": "2"}), ("b", {})):
        run = run_of(volume, name, **more)
        for part_id in run.split():
            assert run.run_map(echo, part_id).code == 0
    volume.write(f"map-output/{volume.job()}/0-0123456789abcdef", b"of an attempt that was killed")
    assert run_of(volume, "e").run_map(echo, 1).code == 0
    return run_of(volume, "b")


def test_log_count(mapped: Volume) -> None:
    """The outputs in the run's own records are removed, and the plan's copies are removed when no
    other run of the plan is active."""
    other = run_of(mapped, "c", MAP_SETTINGS="2", PLAN_ID=mapped.plan()["id"])
    before = mapped.tree()
    ours = {str(mapped.record(part_id)["output"][0]) for part_id in "02"}
    mapped.merge(CLEAN="true")
    after = mapped.tree()

    assert mapped.final("result.out") == DATA
    assert files(before) - files(after) == ours
    assert files(after) - files(before) == published(mapped, "result.json", "report.html")
    assert before.items() - after.items() <= {
        (name, before[name]) for name in ours | {"result.out"}
    }

    theirs = {str(other.record(part_id)["output"][0]) for part_id in "012"}
    if mapped.settings["SPLIT_MODE"] == "copy":
        plan = mapped.plan_path().parent.relative_to(mapped.root)
        theirs |= {f"{plan}/{number}.txt" for number in range(3)}
    other.merge(CLEAN="true")
    assert files(after) - files(mapped.tree()) == theirs


def test_without_it_nothing_is_removed(mapped: Volume) -> None:
    """Nothing is removed by default, and with false."""
    before = files(mapped.tree())
    mapped.merge()
    mapped.merge(CLEAN="false")
    assert files(mapped.tree()) == before | published(mapped, "result.json", "report.html")


def test_other_runs_go_on(mapped: Volume) -> None:
    """These continue: another job of the plan, without copies and with one part not yet mapped;
    another plan; and a run of the same job, which maps the missing parts."""
    other = run_of(mapped, "c", MAP_SETTINGS="2", PLAN_ID=mapped.plan()["id"])
    other.record_path("2").unlink()
    mapped.merge(CLEAN="true")
    assert other.run_map(echo, 2).code == 0
    other.merge()
    assert other.final("result.out") == DATA
    other = run_of(mapped, "d", NUM_PARTS=2)
    other.split()
    other.merge()
    assert other.final("result.out") == DATA
    mapped.split()  # makes its plan the newest again

    same = run_of(mapped, "e")
    assert same.split(ONLY_MISSING="true") == ["0", "2"]
    for part_id in "02":
        assert same.run_map(echo, part_id).code == 0
    same.merge()
    assert same.final("result.out") == DATA


def test_the_same_run_once_more(mapped: Volume) -> None:
    """A later run with ONLY_MISSING maps the parts without an output. If the maps wrote nothing, it
    maps no part: the records stay."""
    mapped.merge(CLEAN="true")
    later = run_of(mapped, "f", ONLY_MISSING="true", CLEAN="true")
    assert later.split() == ["0", "2"]
    for part_id in "02":
        assert later.run_map(echo, part_id).code == 0
    later.merge()
    assert later.final("result.out") == DATA

    counts = mapped.having(MAP_SETTINGS="", CLEAN="true")
    counts.log_count()
    assert counts.split(ONLY_MISSING="true") == []
    run_of(counts, "g").merge()
    assert counts.totals() == model([DATA])
    assert counts.final("result.out") == b""


def test_two_runs_of_one_job(volume: Volume) -> None:
    """Two runs of one job share their records: one run may need what the other has made. The last
    run removes it."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=2, MAP_SETTINGS="1", CLEAN="true")
    first, second = run_of(volume, "a"), run_of(volume, "b")
    for run in (second, first):
        run.split()
    for run in (second, first):  # its records replace those of the second
        for part_id in "01":
            assert run.run_map(echo, part_id).code == 0
    before = files(volume.tree())
    outcome = first.run("merge")
    assert outcome.event("kept")["runs"] == "1"
    assert files(volume.tree()) > before
    ours = {str(volume.record(part_id)["output"][0]) for part_id in "01"}
    second.merge()
    assert volume.final("result.out") == DATA
    first.merge()
    assert not ours & files(volume.tree())


@pytest.mark.parametrize(("problem", "code"), [("settings", 2), ("corrupt", 75), ("missing", 75)])
def test_a_merge_that_fails_removes_nothing(mapped: Volume, problem: str, code: int) -> None:
    """Without a result, the outputs of the parts are still needed."""
    if problem == "missing":
        mapped.record_path("2").unlink()
    if problem == "corrupt":
        mapped.record_path("2").write_bytes(b"{")
    wrong = {"NUM_PARTS": 4} if problem == "settings" else {}
    before = mapped.tree()
    assert mapped.run("merge", CLEAN="true", PLAN_ID=mapped.plan()["id"], **wrong).code == code
    assert mapped.tree() == before


def test_by_hand(volume: Volume) -> None:
    """Without RUN_ID the same applies: files made by hand are removed, files of a run are not."""
    volume = volume.having(NUM_PARTS=2, MAP_SETTINGS="1")
    volume.write(INPUT, DATA)
    part_ids = run_of(volume, "a").split()
    assert run_of(volume, "a").run_map(echo, 0).code == 0
    assert volume.run_map(echo, 1).code == 0
    kept, gone = (volume.run_dir / volume.record(part_id)["output"][0] for part_id in part_ids)
    run_of(volume, "a").merge()
    volume.merge(CLEAN="true")
    assert volume.final("result.out") == DATA
    assert (kept.exists(), gone.exists()) == (True, False)


# --- the aggregation


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_process_data(volume: Volume, levels: int) -> None:
    """The run's own levels are removed. Level 1, the levels of other runs and levels by hand stay,
    and can still be merged."""
    volume.write_level_1(FILES)
    volume.write("notes.txt", b"mine")
    run, other = run_of(volume, "b"), run_of(volume, "a")
    for each in (volume, other):
        each.process(8, levels=3)
    width = run.process(8, levels=levels)
    before = volume.tree()
    outcome = run.run("merge", width, LEVEL=levels, CLEAN="true")
    assert outcome.code == 0, outcome.words
    after = volume.tree()

    ours = {f"aggregation-demo/l{level}/b/" for level in range(2, levels + 1)}
    assert files(before) - files(after) == {
        name for name in files(before) if name.startswith(tuple(ours))
    }
    assert files(after) - files(before) == published(volume, JOINED, LEVEL_REPORT)
    assert volume.final(JOINED) == b"".join(FILES)
    for each in (other, volume):
        assert each.run("merge", 2).code == 0
    assert volume.final(JOINED) == b"".join(FILES)


def test_without_it_no_level_is_removed(volume: Volume) -> None:
    """No level is removed by default, and with false."""
    volume.write_level_1(FILES)
    for run in (volume, run_of(volume, "a"), run_of(volume, "b", CLEAN="false")):
        width = run.process(8, levels=3)
        before = files(volume.tree())
        assert run.run("merge", width).code == 0
        assert before <= files(volume.tree())


def test_levels_by_hand(volume: Volume) -> None:
    """The levels in records are removed. Their copies for people stay."""
    volume.write_level_1(FILES)
    run_of(volume, "a").process(8)
    assert volume.aggregate(8, CLEAN="true").code == 0
    there = files(volume.tree())
    assert {f"aggregation-demo/l2/{number}.txt" for number in range(4)} <= there
    assert not [name for name in there if name.startswith("aggregation-demo/l2/by-hand/")]
    assert run_of(volume, "a").run("merge", 4, LEVEL=2).code == 0
    assert volume.run("merge", 4, LEVEL=2).code == 75  # each level again
    assert volume.aggregate(8).code == 0


def test_a_join_that_fails_removes_nothing(volume: Volume) -> None:
    """A file of level 1 has changed: there is no result, and the levels stay."""
    run = run_of(volume, "a")
    run.write_level_1(FILES)
    run.process(8)
    run.write("aggregation-demo/l1/5.txt", b"other")
    before = run.tree()
    assert run.run("merge", 4, LEVEL=2, CLEAN="true").code == 75
    assert files(run.tree()) == files(before)
    assert run.aggregate(8, CLEAN="true").code == 0
    assert run.final(JOINED) == b"".join([*FILES[:5], b"other", *FILES[6:]])


def test_a_retry_after_the_levels_are_gone(volume: Volume) -> None:
    """If the pod of a merge is killed after it has removed the levels, the next attempt
    succeeds."""
    run = run_of(volume, "a", CLEAN="true")
    run.write_level_1(FILES)
    assert run.aggregate(8).code == 0
    before = run.tree()
    assert run.run("merge", 4, LEVEL=2).code == 0
    assert run.tree() == before
