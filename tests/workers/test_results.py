"""The files that the last step publishes: OUTPUT, summary.json, the results of a run, the final
names, and the output parameters of Argo."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import oss2
import pytest
import strategies
from fanfold import Part, storage
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, JOINED, Volume, model, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"".join(b"INFO %d\n" % number for number in range(9))
RUN = {"RUN_ID": "a", "RUN_STARTED": 1767225600}
FOLDER = "20260101T000000Z-a"


@pytest.fixture
def own(volume: Volume) -> Volume:
    """A volume with an input, and the settings of a custom map."""
    volume.write(INPUT, DATA)
    return volume.having(NUM_PARTS=3, MAP_SETTINGS="1")


def echo(part: Part) -> None:
    """Write the bytes that are read."""
    for piece in part.pieces():
        part.write(piece)


def nothing(part: Part) -> None:
    """Read all, write nothing."""
    assert len(b"".join(part.pieces())) >= part.size


# --- OUTPUT


@given(
    data=strategies.contents(),
    parts=strategies.parts(),
    mode=st.sampled_from(["copy", "range"]),
    piece=strategies.pieces(),
    seed=st.randoms(use_true_random=False),
)
def test_the_output_is_the_parts_in_order(
    data: bytes, parts: int, mode: str, piece: int, seed: Any
) -> None:
    """Any input, any number of parts, each mapped twice and in any order: a map that copies its
    input makes the input again."""
    with Volume.temporary(NUM_PARTS=parts, SPLIT_MODE=mode, MAP_SETTINGS="1") as volume:
        volume.write(INPUT, data)
        with pieces_of(piece):
            part_ids = volume.split() * 2
            seed.shuffle(part_ids)
            for part_id in part_ids:
                assert volume.run_map(echo, part_id).code == 0
            volume.merge()

        assert volume.final("result.out") == (data or None)
        assert volume.totals() == {}
        assert volume.temporary_files() == []


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "in/" + "é" * 124 + "x.jsonl"])
def test_an_output_with_a_long_name(own: Volume, name: str) -> None:
    """A name may be as long as the storage allows: the temporary name also fits."""
    assert own.fan_out(echo, OUTPUT=name).code == 0

    assert own.final(name) == DATA
    assert own.temporary_files() == []


def test_a_part_that_writes_nothing(own: Volume) -> None:
    """Parts without an output are left out. The records of the other parts name one."""
    outcome = own.fan_out(lambda part: nothing(part) if part.id == "1" else echo(part))
    assert outcome.code == 0

    parts = own.copies(3)
    assert own.final("result.out") == parts[0] + parts[2]
    assert own.record("1")["output"] is None
    name, size, _ = own.record("2")["output"]
    assert re.fullmatch(rf"map-output/{own.job()}/2-[0-9a-f]{{16}}", name)
    assert (own.run_dir / name).read_bytes() == parts[2]
    assert size == len(parts[2])


def test_many_writes(own: Volume) -> None:
    """Pieces of any size, also empty ones, and numbers in addition."""

    def writes(part: Part) -> dict[str, int]:
        for line in part.lines():
            for byte in line:
                part.write(bytes([byte]))
            part.write(b"")
        part.write(b"x" * (3 << 20))
        return {"lines": 3}

    assert own.fan_out(writes).code == 0
    expected = b"".join(part.replace(b"\n", b"") + b"x" * (3 << 20) for part in own.copies(3))
    assert own.final("result.out") == expected
    assert own.totals() == {"lines": 9}


def test_another_name(own: Volume) -> None:
    """OUTPUT may be in a folder of RUN_DIR. results/ has the same name."""
    own = own.having(RUN_DIR="run", OUTPUT="out/of the/lines.log")
    assert own.fan_out(echo).code == 0
    assert own.final("out/of the/lines.log") == DATA
    [made] = own.results().values()
    assert made["out/of the/lines.log"] == DATA
    assert own.final("result.out") is None


def test_yesterday_s_does_not_stay(own: Volume) -> None:
    """If the maps of a run write nothing, OUTPUT becomes empty if it exists. Otherwise it is not
    created."""
    assert own.fan_out(nothing, MAP_SETTINGS="2").code == 0
    assert own.final("result.out") is None
    assert own.fan_out(echo).code == 0
    assert own.final("result.out") == DATA

    assert own.fan_out(nothing, MAP_SETTINGS="2").code == 0
    assert own.final("result.out") == b""
    own.log_count(MAP_SETTINGS="")
    assert own.final("result.out") == b""
    *_, newest = own.results().values()
    assert newest["result.out"] == b""


def test_yesterday_s_and_an_old_view(own: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """No map wrote. The record of the run that made OUTPUT is listed but cannot be read, as on a
    mount with an old view: a retry can help, and the message does not take OUTPUT for a user's
    file."""
    assert own.fan_out(echo, **RUN).code == 0
    kind = type(storage.open_storage(own.environ({}))[1])
    stream = kind.stream

    def old_view(self: Any, name: str) -> Any:
        if name == f"results/{FOLDER}/result.json.record":
            raise FileNotFoundError(2, "No such file or directory", name)
        return stream(self, name)

    today = own.having(RUN_ID="b", RUN_STARTED=1767225601)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "stream", old_view)
        outcome = today.fan_out(nothing)
    assert (outcome.code, own.final("result.out")) == (75, DATA), outcome.words
    today.merge()
    assert own.final("result.out") == b""


def test_a_file_of_the_user_s(own: Volume) -> None:
    """A file at OUTPUT that no run has written is not emptied: the last step refuses to leave it
    next to an unrelated result."""
    own.write("result.out", b"mine")
    own.fan_out(nothing, MAP_SETTINGS="2")
    outcome = own.run("merge", MAP_SETTINGS="2")
    assert (outcome.code, own.totals(), own.final("result.out")) == (2, None, b"mine")
    assert "got 'result.out': move the file away" in outcome.words
    own.merge(MAP_SETTINGS="2", OUTPUT="other.out")
    assert (own.totals(), own.final("result.out")) == ({}, b"mine")


def test_a_file_of_the_user_s_that_replaces_an_output(own: Volume) -> None:
    """If a user replaces OUTPUT after a run has written it, the file is the user's."""
    own.fan_out(echo)
    own.write("result.out", b"mine")
    own.fan_out(nothing, MAP_SETTINGS="2")
    assert own.run("merge", MAP_SETTINGS="2").code == 2
    assert own.final("result.out") == b"mine"


def test_two_attempts_that_write_different_bytes(own: Volume) -> None:
    """The record decides which attempt counts: the last that has committed."""
    own.fan_out(echo)

    def other(part: Part) -> None:
        nothing(part)
        part.write(b"<%b>" % part.id.encode())

    for part_id in "012":
        assert own.run_map(other, part_id).code == 0
    own.merge()
    assert own.final("result.out") == b"<0><1><2>"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_map_that_fails_writes_nothing(own: Volume, error: type[BaseException]) -> None:
    """The output of a failed map does not exist."""
    own.split()
    before = own.tree()

    def fails(part: Part) -> None:
        echo(part)
        raise error

    if error is ValueError:
        with pytest.raises(error):
            own.run_map(fails, 1)
    else:
        assert own.run_map(fails, 1).code == 130
    after = own.tree()
    assert {name for name, data in after.items() if data is not None} <= before.keys()
    assert own.temporary_files() == []


CHANGES: dict[str, Callable[[bytes], bytes] | None] = {
    "cut off": lambda data: data[:-1],
    "other bytes": lambda data: data[::-1],
    "gone": None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_output_that_was_changed(own: Volume, change: Callable[[bytes], bytes] | None) -> None:
    """If an output is missing or is not the one in its record: no result, and the part is listed as
    missing."""
    for part_id in own.split():
        own.run_map(echo, part_id)
    path = own.run_dir / own.record("1")["output"][0]
    if change:
        own.write(str(path.relative_to(own.root)), change(path.read_bytes()))
    else:
        path.unlink()
    assert own.run("merge").code == 75
    assert (own.totals(), own.final("result.out")) == (None, None)
    assert own.split(ONLY_MISSING="true") == ["1"]
    own.run_map(echo, 1)
    own.merge()
    assert own.final("result.out") == DATA


# --- a run's results


def test_the_summary_of_log_count(volume: Volume) -> None:
    """By name and number. result.json has only the totals."""
    for name, data in {"in/a": DATA, "in/b": b"", "in/c": DATA}.items():
        volume.write(name, data)
    run = volume.having(INPUT="in/", NUM_PARTS=4, MAP_SETTINGS="1", **RUN)

    def function(part: Part) -> dict[str, int]:
        part.write(b"%d\n" % part.size)
        return {"bytes": len(b"".join(part.pieces()))}

    assert run.fan_out(function).code == 0
    [(folder, made)] = run.results().items()
    summary = json.loads(made["summary.json"])

    assert folder == FOLDER
    assert made.keys() == {
        "result.json", "result.out", "summary.json", "result.json.record", "report.html"
    }  # fmt: skip
    assert 0 <= summary.pop("seconds") < 60
    assert summary == {
        "parts": 4,
        "files": 3,
        "input_bytes": 2 * len(DATA),
        "output_bytes": len(made["result.out"]),
        "run": "a",
        "job": run.job(),
        "plan": run.plan()["id"],
    }
    assert made["result.json"] == b'{"bytes": %d}\n' % (2 * len(DATA))
    assert run.final("result.json") == made["result.json"]
    assert run.final("result.out") == made["result.out"]


def test_the_summary_of_process_data(volume: Volume) -> None:
    """The same for files."""
    run = volume.having(**RUN)
    files = [b"x" * number for number in range(5)]
    run.write_level_1(files)
    assert run.aggregate(5, fan_in=2, levels=3).code == 0
    [(folder, made)] = run.results().items()
    summary = json.loads(made["summary.json"])

    assert folder == FOLDER
    assert made.keys() == {
        "result.txt", "summary.json", "result.txt.record", "aggregation-report.html"
    }  # fmt: skip
    assert 0 <= summary["seconds"] < 60
    assert (summary["files"], summary["output_bytes"], summary["run"]) == (5, 10, "a")
    assert made["result.txt"] == run.final(JOINED) == b"".join(files)


def test_the_newest_run_has_the_final_names(volume: Volume) -> None:
    """By RUN_STARTED, then RUN_ID: an older run that ends later exits with 0, has its results under
    its own name, logs that it is late, and does not change the final names."""
    volume = volume.having(NUM_PARTS=2)
    runs = [("b", 1, b"INFO 1\n"), ("a", 2, b"WARN\n"), ("c", 2, b"INFO 3\nINFO\n"), ("d", 1, b"")]
    newest: tuple[int, str] = (0, "")
    for name, started, data in runs:
        volume.write(INPUT, data)
        volume.write_level_1([data, b"."])
        run = volume.having(RUN_ID=name, RUN_STARTED=started)
        for part_id in run.split():
            assert run.run("count", PART_ID=part_id, PLAN_ID=run.plan()["id"]).code == 0
        outcomes = [run.run("merge", PLAN_ID=run.plan()["id"]), run.aggregate(2)]
        late = (started, name) < newest
        for outcome in outcomes:
            assert outcome.code == 0, outcome.words
            assert (outcome.event("late") != {}) == late
        newest = max(newest, (started, name))

        right = {one: content for one, _, content in runs}
        assert run.totals() == model([right[newest[1]]])
        assert run.final(JOINED) == right[newest[1]] + b"."
        found = {folder.rpartition("-")[2]: made for folder, made in run.results().items()}
        assert json.loads(found[name]["result.json"]) == model([data])
        assert found[name]["result.txt"] == data + b"."


@pytest.fixture
def two_runs(own: Volume) -> tuple[Volume, Volume]:
    """An older and a newer run of one input, both mapped. Only the maps of the older run write."""
    older = own.having(RUN_ID="a", RUN_STARTED=1)
    newer = own.having(RUN_ID="b", RUN_STARTED=2, MAP_SETTINGS="2")
    for run, function in ((older, echo), (newer, nothing)):
        for part_id in run.split():
            assert run.run_map(function, part_id).code == 0
    return older, newer


def test_a_late_run_leaves_no_output_next_to_a_newer_total(two_runs: tuple[Volume, Volume]) -> None:
    """The newer run has no OUTPUT, so the late run's must not be there."""
    older, newer = two_runs
    newer.merge()
    older.merge()
    assert older.final("result.out") is None
    # An attempt of the older run that was killed before it had checked again.
    older.write("result.out", DATA)
    older.merge()
    assert older.final("result.out") == b""
    folder = "19700101T000001Z-a"
    assert older.results()[folder]["result.out"] == DATA


def test_each_final_name_is_the_newest_run_s_that_has_it(two_runs: tuple[Volume, Volume]) -> None:
    """An OUTPUT that the newer run does not have belongs to the older run, late or not."""
    older, newer = two_runs
    newer.merge(OUTPUT="newer.out")
    older.merge()
    assert (older.final("result.out"), older.final("newer.out")) == (DATA, None)
    assert json.loads(older.results()["19700101T000002Z-b"]["result.json"]) == older.totals()


def other_folder(own: Volume, name: str) -> None:
    """Copy the newest results by hand."""
    source = max(own.results())
    for file, data in own.results()[source].items():
        own.write(f"results/{name}/{file}", data)


@pytest.mark.parametrize("name", ["keep-me", "20300101T000000Z-b", "zz/20260101T000000Z-a"])
def test_a_copy_in_results_is_no_run(own: Volume, name: str) -> None:
    """For any name of the copy, a later run gets the final names."""
    run = own.having(**RUN, MAP_SETTINGS="")
    run.log_count(KEYWORDS="INFO")
    other_folder(own, name)
    run.having(RUN_ID="b").log_count(KEYWORDS="1")
    assert own.totals() == model([DATA], ["1"])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "result gone": lambda folder: (folder / "result.json").unlink(),
    "result changed": lambda folder: (folder / "result.json").write_bytes(b"{}\n"),
    "record cut off": lambda folder: (folder / "result.json.record").write_bytes(b"{"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_late_run_with_damaged_newer_results(
    own: Volume, damage: Callable[[Path], object]
) -> None:
    """Damage to a newer run's folder does not fail an older run. The newer run keeps the final
    name."""
    own = own.having(MAP_SETTINGS="")
    newer, older = own.having(RUN_ID="b", RUN_STARTED=2), own.having(RUN_ID="a", RUN_STARTED=1)
    newer.log_count(KEYWORDS="1")
    damage(own.run_dir / "results/19700101T000002Z-b")
    for part_id in older.split():
        older.run("count", PART_ID=part_id)
    outcome = older.run("merge")
    assert outcome.code == 0, outcome.words
    assert "event=left error=" in outcome.words
    assert own.totals() == model([DATA], ["1"])
    assert json.loads(own.results()["19700101T000001Z-a"]["result.json"]) == model([DATA])


def test_results_that_are_removed_meanwhile(own: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """If results are removed after they were listed, by hand or by a lifecycle rule, a late run is
    still late."""
    own = own.having(MAP_SETTINGS="")
    for name, started in (("a", 1), ("c", 3), ("d", 4)):
        own.having(RUN_ID=name, RUN_STARTED=started).log_count(KEYWORDS="1")
    kind = type(storage.open_storage(own.environ({}))[1])
    listed = kind.folders

    def folders(self: Any, folder: str) -> list[str]:
        found = listed(self, folder)
        for name in ("19700101T000001Z-a", "19700101T000004Z-d"):
            for path in sorted((own.run_dir / "results" / name).rglob("*"), reverse=True):
                path.unlink()
        return found

    monkeypatch.setattr(kind, "folders", folders)
    late = own.having(RUN_ID="b", RUN_STARTED=2)
    late.log_count(KEYWORDS="INFO")
    assert own.totals() == model([DATA], ["1"])


@pytest.mark.folder
def test_a_link_in_results(own: Volume) -> None:
    """A link to the newest run, which a user has made, is not a run."""
    own = own.having(MAP_SETTINGS="", **RUN)
    own.log_count(KEYWORDS="INFO")
    (own.root / "results/latest").symlink_to(FOLDER)
    (own.root / "results/20300101T000000Z-a").symlink_to(FOLDER)
    own.log_count(KEYWORDS="1")
    assert own.totals() == model([DATA], ["1"])


@pytest.mark.parametrize("worker", ["split", "count", "merge", "process 0 1", "merge 1"])
def test_a_start_in_the_future(own: Volume, worker: str) -> None:
    """Such a run would keep the final names until then: every step refuses a start more than a day
    ahead."""
    ahead = int(time.time()) + 2 * 86400
    name, *arguments = worker.split()
    own.write_level_1([DATA])
    own.split()
    run = own.having(RUN_ID="a", PART_ID=0, MAP_SETTINGS="")
    outcome = run.run(name, *arguments, RUN_STARTED=ahead)
    assert outcome.code == 2
    assert f"RUN_STARTED must be at most a day after this node's time, got {ahead}" in outcome.words
    assert run.run("split", RUN_STARTED=ahead - 86400 - 3600).code == 0


def test_by_hand_each_merge_is_a_run(volume: Volume) -> None:
    """Without RUN_ID the last run to start has the final name, and every run has its results."""
    volume.write(INPUT, DATA)
    for words in ("INFO", "1", "2"):
        volume.log_count(KEYWORDS=words)
        assert volume.totals() == model([DATA], [words])
    found = volume.results()
    assert [json.loads(made["result.json"]) for made in found.values()] == [
        model([DATA], [words]) for words in ("INFO", "1", "2")
    ]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-by-hand-\d{6}-[0-9a-f]{16}", name) for name in found)


def test_a_retry_of_the_merge(own: Volume) -> None:
    """An attempt after a successful attempt changes nothing, also if the outputs are gone."""
    run = own.having(**RUN)
    assert run.fan_out(echo).code == 0
    before = run.tree()
    assert run.run("merge").code == 0
    assert run.tree() == before
    run.merge(CLEAN="true")
    run.merge(CLEAN="true")
    assert before.items() >= run.tree().items()
    assert run.final("result.out") == DATA


def test_a_run_that_is_begun_again(volume: Volume) -> None:
    """RUN_ID and RUN_STARTED again, with other settings or another input: another result replaces
    the first."""
    run = volume.having(NUM_PARTS=2, **RUN)
    for data, words in ((DATA, "INFO"), (DATA, "1"), (b"1\n", "1"), (DATA, "INFO")):
        run.write(INPUT, data)
        run.log_count(KEYWORDS=words)
        assert run.totals() == model([data], [words])
        assert json.loads(run.results()[FOLDER]["result.json"]) == model([data], [words])


def test_a_result_that_was_changed_by_hand(volume: Volume) -> None:
    """A file in results/ is not the version that was published: the merge of this run publishes it
    again."""
    run = volume.having(NUM_PARTS=2, **RUN)
    run.write(INPUT, DATA)
    run.log_count()
    run.write(f"results/{FOLDER}/result.json", b"{}\n")
    run.merge()
    assert run.totals() == model([DATA])
    assert json.loads(run.results()[FOLDER]["result.json"]) == model([DATA])


# --- output parameters


def handed_over(
    volume: Volume, tmp_path: Path, *arguments: object, **settings: object
) -> tuple[str, str]:
    """Return what merge.py hands to Argo: the result and its path."""
    files = {"RESULT_FILE": tmp_path / "result", "RESULT_PATH_FILE": tmp_path / "path"}
    outcome = volume.run("merge", *arguments, **files, **settings)
    assert (outcome.code, outcome.output) == (0, ""), outcome.words
    return (tmp_path / "result").read_text(), (tmp_path / "path").read_text()


def where(volume: Volume, name: str) -> str:
    """Return the full path of a result."""
    work_dir = volume.environ({})["WORK_DIR"]
    return str(Path(work_dir, volume.settings.get("RUN_DIR", ""), "results", FOLDER, name)).replace(
        "oss:/", "oss://"
    )


def test_the_totals_for_the_workflow(volume: Volume, tmp_path: Path) -> None:
    """RESULT_FILE gets the totals and RESULT_PATH_FILE the path, both without a line end. A late
    run and a retry hand over their own."""
    run = volume.having(RUN_DIR="run", NUM_PARTS=2, **RUN)
    run.write(INPUT, DATA)
    run.log_count()
    result = handed_over(run, tmp_path)
    assert result == (json.dumps(model([DATA])), where(run, "result.json"))

    run.having(RUN_ID="b", RUN_STARTED=1767225601).log_count(KEYWORDS="1")
    assert handed_over(run, tmp_path) == result
    assert run.totals() == model([DATA], ["1"])


@pytest.mark.parametrize("more", [0, 1])
def test_totals_that_are_too_long(own: Volume, tmp_path: Path, more: int) -> None:
    """Up to 32 KiB, because Argo stores them in the workflow. Beyond, only the path is handed
    over."""
    run = own.having(**RUN)
    name = "é" * (((32 << 10) - len('{"": 3}')) // 2) + "x" + "y" * more
    assert run.fan_out(lambda part: {name: len(list(part.pieces()))}).code == 0
    result, path = handed_over(run, tmp_path)
    assert path == where(run, "result.json")
    assert result == ("" if more else json.dumps({name: 3}, ensure_ascii=False))
    assert run.totals() == {name: 3}


def test_the_joined_file_for_the_workflow(volume: Volume, tmp_path: Path) -> None:
    """For merge.py NUMBER the size and a digest of the stored result."""
    run = volume.having(**RUN)
    run.write_level_1([b"ab\n", b"c"])
    result, path = handed_over(run, tmp_path, run.process(2), LEVEL=2)
    crc = oss2.utils.Crc64()
    crc.update(whole := b"ab\nc")
    digest = f"crc64:{crc.crc}" if run.in_bucket else f"sha256:{sha256(whole).hexdigest()}"
    assert json.loads(result) == {"bytes": 4, "digest": digest}
    assert path == where(run, "result.txt")


def test_no_result_is_handed_over_after_a_failure(volume: Volume, tmp_path: Path) -> None:
    """If the proof fails, nothing is handed over."""
    volume.write(INPUT, DATA)
    volume.split()
    file = tmp_path / "result"
    assert volume.run("merge", RESULT_FILE=file, RESULT_PATH_FILE=file).code == 75
    assert volume.run("merge", 2, RESULT_FILE=file, RESULT_PATH_FILE=file).code == 75
    assert not file.exists()
