"""Each file that commits something is cut off or changed at every byte. Its readers refuse it and
write nothing. The step that wrote the file repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fanfold import publish
from fanfold.storage import open_storage
from pipeline import INPUT, JOINED, Outcome, Volume

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n"
RUN = {"RUN_ID": "a", "RUN_STARTED": 1}


def damaged(path: Path, volume: Volume, *, last: bool = True) -> Iterator[str]:
    """Cut the file off at every byte, then flip bit 0 of every byte, and restore the file at the
    end. In a bucket use every 20th byte, because each takes many requests. Without `last`, do not
    cut off the last byte alone."""
    whole = path.read_bytes()
    step = 20 if volume.in_bucket else 1
    for size in range(0, len(whole) - (not last), step):
        path.write_bytes(whole[:size])
        yield f"cut off at {size}"
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        yield f"byte {at} changed"
    path.write_bytes(whole)


def refuses(volume: Volume, outcome: Outcome, before: dict[str, bytes | None], *codes: int) -> None:
    """The step fails with one message and changes no other file. A retry can help: the file may be
    damaged only on one mount."""
    assert outcome.code in (75, *codes)
    assert outcome.words.count("\n") == 1
    after = volume.tree()
    changed = {name for name in before | after if before.get(name, 0) != after.get(name, 0)}
    assert len(changed) <= 1, changed


@pytest.mark.parametrize("given", [False, True], ids=["the newest", "PLAN_ID"])
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_the_plan(volume: Volume, mode: str, given: bool) -> None:
    """No map and no merge uses the plan, whether it is the newest or in PLAN_ID. Without its last
    line end it is the same JSON."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=3, SPLIT_MODE=mode)
    volume.log_count()
    volume.write("result.json", b"an older one")
    before = volume.tree()
    more = {"PLAN_ID": volume.plan()["id"]} if given else {}
    path = volume.plan_path() if given else volume.run_dir / "split-output/plan.json"
    for _ in damaged(path, volume, last=False):
        for outcome in volume.run("count", PART_ID=1, **more), volume.run("merge", **more):
            # 2 for another format or number of parts: the plan in PLAN_ID never changes these.
            refuses(volume, outcome, before, *[2] * given)
    path.write_bytes(b"")
    assert volume.split(ONLY_MISSING="true") == []
    assert volume.tree() == before


@pytest.mark.parametrize("writes", [False, True], ids=["counts", "output"])
def test_the_record_of_a_part(volume: Volume, writes: bool) -> None:
    """merge.py names the part, and ONLY_MISSING prints its id."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=3, **({"MAP_SETTINGS": "1"} if writes else {}))
    if writes:
        assert volume.fan_out(lambda part: part.write(b"".join(part.pieces()))).code == 0
    else:
        volume.log_count()
    before = volume.tree()
    for _ in damaged(volume.record_path("1"), volume):
        outcome = volume.run("merge")
        refuses(volume, outcome, before)
        assert "1 corrupt (1): map these parts again" in outcome.words
        assert volume.split(ONLY_MISSING="true") == ["1"]
    assert volume.split(ONLY_MISSING="true") == []


@pytest.mark.parametrize("run", [{}, RUN], ids=["by hand", "RUN_ID"])
def test_the_record_of_a_level(volume: Volume, run: dict[str, object]) -> None:
    """Neither the next level nor merge uses the record. The group that wrote the record writes it
    again."""
    volume = volume.having(**run)
    files = [b"%d\n" % number for number in range(4)]
    volume.write_level_1(files)
    volume.process(4)
    before = volume.tree()
    path = volume.run_dir / f"aggregation-demo/l2/{run.get('RUN_ID', 'by-hand')}/1.json"
    for _ in damaged(path, volume):
        for outcome in volume.run("process", 0, 2), volume.run("merge", 2, LEVEL=2):
            refuses(volume, outcome, before)
            assert f"{path.parent.name}/1.json is not a record that process.py wrote: run " in (
                outcome.words
            )
    path.write_bytes(b"")
    assert volume.aggregate(4).code == 0
    assert volume.final(JOINED) == b"".join(files)


@pytest.mark.parametrize("result", ["result.json", "result.txt"])
def test_the_record_of_results(volume: Volume, result: str) -> None:
    """The record does not decide about final names. The merge of its run writes it again, and a
    late older run does not change the final name."""
    older = volume.having(LEVEL=1, **RUN)
    volume = volume.having(LEVEL=1, RUN_ID="b", RUN_STARTED=2)
    number = () if result == "result.json" else (2,)
    volume.write(INPUT, DATA)
    volume.write_level_1([b"a", b"b"])
    volume.log_count()
    assert volume.aggregate(2, levels=1).code == 0
    final = result if result == "result.json" else JOINED
    right = volume.final(final)
    [folder] = volume.results()
    path = volume.run_dir / f"results/{folder}/{result}.record"
    _, run = open_storage(volume.environ({}))
    for what in damaged(path, volume):
        with pytest.raises(publish.DamagedError, match=f"{result}.record is not a record"):
            publish.read_record(run, f"results/{folder}/", result)
        if what.endswith("0"):
            assert older.run("merge", *number).code in (0, 75)
            assert volume.final(final) == right
    path.write_bytes(b"{")
    assert volume.run("merge", *number).code == 0
    assert volume.final(final) == right
    publish.read_record(run, f"results/{folder}/", result)
