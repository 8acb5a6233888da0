"""CLEAN=true: the last step removes, after it has published, what this run alone has made, and
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
    """Write what is read."""
    for piece in part.pieces():
        part.write(piece)


def files(tree: Tree) -> set[str]:
    """The names of the files."""
    return {name for name, data in tree.items() if data is not None}


def published(volume: Volume, *finals: str) -> set[str]:
    """What a merge writes: the final names and all results."""
    made = {f"results/{folder}/{name}" for folder, two in volume.results().items() for name in two}
    return made | set(finals)


def run_of(volume: Volume, name: str, **settings: object) -> Volume:
    """A run; the letter says how old it is."""
    return volume.having(RUN_ID=name, RUN_STARTED=ord(name), **settings)


@pytest.fixture(params=["copy", "range"])
def mapped(volume: Volume, request: pytest.FixtureRequest) -> Volume:
    """A volume on which run b has mapped its parts, as another job of the same plan (run c), and
    another plan (run d), have, and something else lies around. Run e has then mapped part 1 of b's
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
    """Removed are the outputs that the run's own records name, and the plan's copies once no other
    run of the plan is at work."""
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
    """The default, and false."""
    before = files(mapped.tree())
    mapped.merge()
    mapped.merge(CLEAN="false")
    assert files(mapped.tree()) == before | published(mapped, "result.json", "report.html")


def test_other_runs_go_on(mapped: Volume) -> None:
    """Another job of the plan whose copies are gone, one of its parts not mapped yet; another
    plan; and a run of the same job, which begins again with what is missing."""
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
    mapped.split()  # which makes its plan the newest again

    same = run_of(mapped, "e")
    assert same.split(ONLY_MISSING="true") == ["0", "2"]
    for part_id in "02":
        assert same.run_map(echo, part_id).code == 0
    same.merge()
    assert same.final("result.out") == DATA


def test_the_same_run_once_more(mapped: Volume) -> None:
    """A later run with ONLY_MISSING maps what has no output any more and, if the maps wrote
    nothing, no part: the records stay."""
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
    """They share their records: what one has made, the other may need. The last one removes it."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=2, MAP_SETTINGS="1", CLEAN="true")
    first, second = run_of(volume, "a"), run_of(volume, "b")
    for run in (second, first):
        run.split()
    for run in (second, first):  # whose records replace those of the second
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
    """There is no result yet: what the parts have made is still needed."""
    if problem == "missing":
        mapped.record_path("2").unlink()
    if problem == "corrupt":
        mapped.record_path("2").write_bytes(b"{")
    wrong = {"NUM_PARTS": 4} if problem == "settings" else {}
    before = mapped.tree()
    assert mapped.run("merge", CLEAN="true", PLAN_ID=mapped.plan()["id"], **wrong).code == code
    assert mapped.tree() == before


def test_by_hand(volume: Volume) -> None:
    """Without RUN_ID the same: what was made by hand is removed, and what a run made is not."""
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
    """Removed are the run's own levels. Level 1, the levels of other runs and those by hand stay;
    a merge of these still goes well."""
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
    """The default, and false."""
    volume.write_level_1(FILES)
    for run in (volume, run_of(volume, "a"), run_of(volume, "b", CLEAN="false")):
        width = run.process(8, levels=3)
        before = files(volume.tree())
        assert run.run("merge", width).code == 0
        assert before <= files(volume.tree())


def test_levels_by_hand(volume: Volume) -> None:
    """The levels that records name are removed; the copies to look at stay."""
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
    """A file of level 1 has changed since: no result, and the levels stay."""
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
    """A merge whose pod was killed after it had removed the levels: another attempt goes well."""
    run = run_of(volume, "a", CLEAN="true")
    run.write_level_1(FILES)
    assert run.aggregate(8).code == 0
    before = run.tree()
    assert run.run("merge", 4, LEVEL=2).code == 0
    assert run.tree() == before
