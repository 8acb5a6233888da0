"""Several parts per pod: ids of groups, and a pod that maps one part after the other."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import signal
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr
from typing import Any

import count
import pytest
import split
import strategies
from fanfold import Part, WorkerError, part_ids, settings
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, KEYWORDS, Outcome, Volume, finish, model

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"".join(b"INFO %d ERROR\n" % number for number in range(40))
ARGO: dict[str, Any] = {"RUN_ID": "a", "RUN_STARTED": 1}
ALL = "0-7"


@pytest.fixture
def run(volume: Volume) -> Volume:
    """A run of eight parts after split, with a custom map or a program."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=8, SPLIT_MODE="range", PARTS_PER_POD=8, MAP_SETTINGS="1")
    assert volume.split() == [ALL]
    return volume


def ids(text: str) -> list[int]:
    """The part ids in a PART_ID: the model."""
    pairs = [list(map(int, word.split("-"))) for word in text.split(",")]
    return [number for pair in pairs for number in range(pair[0], pair[-1] + 1)]


def echo(part: Part) -> Mapping[str, int]:
    """Write the bytes that are read, and count."""
    part.write(data := b"".join(part.pieces()))
    return {"INFO": data.count(b"INFO"), "parts": 1}


def failing(errors: Mapping[int, BaseException]) -> tuple[Callable[[Part], Any], list[str]]:
    """A map that fails in some parts, and the list of its calls."""
    called: list[str] = []

    def function(part: Part) -> Mapping[str, int]:
        called.append(part.id)
        answer = echo(part)
        if error := errors.get(int(part.id)):
            raise error
        return answer

    return function, called


def done(volume: Volume) -> str:
    """Return the parts of the newest plan with a record, as a text of digits."""
    found = volume.record_path("0").parent
    names = (
        sorted(path.name for path in found.iterdir()) if volume.in_bucket or found.is_dir() else []
    )
    return "".join(name.partition(".")[0] for name in names)


def errors(outcome: Outcome) -> list[tuple[str, ...]]:
    """Return the part and the exit code of each error line of a part."""
    return re.findall(r"event=error part=(\d+) exit=(\d+) error=", outcome.words)


# --- ids


@pytest.mark.folder
@given(numbers=st.sets(st.integers(0, 60) | st.integers(0, part_ids.MAX_PARTS - 1), min_size=1))
def test_ids_are_read_as_they_are_shown(numbers: set[int]) -> None:
    """Any parts, formatted and parsed: each once, in order, as in the model, with the minimum
    number of ranges."""
    text = part_ids.show(part_ids.ranges(sorted(numbers)))

    assert [*itertools.chain.from_iterable(part_ids.parse(text))] == sorted(numbers) == ids(text)
    assert text.count(",") == sum(number - 1 not in numbers for number in numbers) - 1


@pytest.mark.folder
@given(
    count=st.integers(1, 200),
    per_pod=st.integers(1, 60),
    missing=st.sets(st.integers(0, 199)) | st.just(set(range(200))),
    most=st.integers(0, 9),
)
def test_groups(count: int, per_pod: int, missing: set[int], most: int) -> None:
    """Each missing part is in the group of its neighbours. A group has only missing parts, unless
    it is the whole group, and a limited number of ranges."""
    wanted = missing & set(range(count))
    groups = [*part_ids.groups(count, per_pod, set(range(count)) - wanted, most)]
    whole = [range(at, min(at + per_pod, count)) for at in range(0, count, per_pod)]

    assert len(groups) == sum(not wanted.isdisjoint(each) for each in whole)
    for text in groups:
        numbers, (group,) = ids(text), [each for each in whole if ids(text)[0] in each]
        left = sorted(wanted & set(group))
        assert numbers in (left, list(group))
        assert numbers == left or sum(one - 1 not in left for one in left) > most
        wanted -= set(numbers)
    assert not wanted


@pytest.mark.parametrize(
    "text",
    ["3-1", "0-", "-", "-1", "1,1", "0-3,3", "0-3,2-5", "2,1", "0,,1", ",0", "0,", "0--3", "0-1-2",
     "0 -3", "0-3, 7", "0\n", "+1", "1_0", "٣", "0-٣", "0x1", "a", "100000", "0-100000",
     "0-999999999", f"0-{10**30}", "0," * 10**6],
)  # fmt: skip
def test_nonsense_is_refused(run: Volume, text: str) -> None:
    """Exit code 2 and a short message; nothing is mapped."""
    outcome = run.run_map(echo, text)

    assert (outcome.code, done(run)) == (2, "")
    shown = json.dumps(f"got {text!r:.40}", ensure_ascii=False)
    assert shown.strip('"') in outcome.words
    assert "such as 8, 0-49 or 0-3,7" in outcome.words
    assert len(outcome.words) < 600


@pytest.mark.folder
def test_ids_take_no_memory() -> None:
    """Ranges stay ranges, and a range that is too large is refused immediately."""
    alternate = ",".join(map(str, range(0, part_ids.MAX_PARTS, 2)))
    for text, most in (("0-99999", 20_000), ("0-999999999", 20_000), (alternate, 12_000_000)):
        tracemalloc.start()
        try:
            assert part_ids.parse(text)[-1].stop <= part_ids.MAX_PARTS
        except WorkerError:
            assert text == "0-999999999"
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


def test_parts_beyond_the_plan(run: Volume) -> None:
    """A part beyond the plan ends the group before its first part."""
    for text, plan_id, code in (("0-8", run.plan()["id"], 2), ("0-3,8", "", 75)):
        outcome = run.run_map(echo, text, PLAN_ID=plan_id)
        assert (outcome.code, done(run), errors(outcome)) == (code, "", [])
        assert "PART_ID must be less than 8, the number of parts in " in outcome.words
        assert f", got {text}: use a part id that split printed" in outcome.words


def test_what_split_prints(run: Volume) -> None:
    """Groups of neighbours; a single part without a range; single ids by default."""
    assert run.split(PARTS_PER_POD=1) == list("01234567")
    assert run.split(PARTS_PER_POD=3) == ["0-2", "3-5", "6-7"]
    assert run.split(PARTS_PER_POD=7) == ["0-6", "7"]
    assert run.split(PARTS_PER_POD=100000) == [ALL]
    for text in ("0", "100001", "", "1-2"):
        outcome = run.run("split", PARTS_PER_POD=text)
        assert (outcome.code, outcome.output) == (2, "")
        assert (
            f"PARTS_PER_POD must be a whole number from 1 to 100000, got {text!r}" in outcome.words
        )


def test_the_limit_of_pods(run: Volume) -> None:
    """MAX_PODS pods are allowed, and one more is not, however many parts are missing."""
    run = run.having(PARTS_PER_POD=4)
    assert run.split(MAX_PODS=2) == ["0-3", "4-7"]
    assert run.run_map(echo, "0-3").code == 0
    outcome = run.run("split", MAX_PODS=1, ONLY_MISSING="true")
    assert (outcome.code, outcome.output) == (2, "")
    assert "must take at most MAX_PODS=1 map pods, got 2" in outcome.words


def test_the_longest_ids_fit() -> None:
    """The longest ids of MAX_PODS pods fit in the output that Argo reads."""
    assert len(split.as_json(["99998-99999"] * settings.MAX_PODS)) < split.STDOUT


def test_the_limit_of_what_is_printed(run: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the ranges of missing parts would exceed the output that Argo reads, whole groups are
    printed."""
    run = run.having(PARTS_PER_POD=4, ONLY_MISSING="true")
    assert run.run_map(echo, "1,3,5").code == 0
    printed = '["0,2","4,6-7"]\n'
    assert run.run("split").output == printed
    monkeypatch.setattr(split, "STDOUT", len(printed))
    assert run.run("split").output == printed
    monkeypatch.setattr(split, "STDOUT", len(printed) - 1)
    assert run.run("split").output == '["0-3","4-7"]\n'


# --- a group


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("step", ["count", "map", "own"])
def test_a_group_is_its_parts(volume: Volume, mode: str, step: str) -> None:
    """A built-in map, a program and a custom map make the same from a group as from its parts. Each
    part has its record, and a program gets the id of the part."""
    files = [DATA[:300], b"", DATA[300:] + b"end"]
    for name, data in zip("abc", files, strict=True):
        volume.write(f"in/{name}", data)
    more = {
        "count": {},
        "map": {"MAP_COMMAND": """sh -c 'echo "$PART_ID of $NUM_PARTS"; cat'"""},
        "own": {"MAP_SETTINGS": "1"},
    }[step]
    volume = volume.having(NUM_PARTS=7, SPLIT_MODE=mode, INPUT="in/", **more)
    results = []
    for per_pod in (1, 3, 7):
        place = volume.having(RUN_DIR=f"run{per_pod}", PARTS_PER_POD=per_pod)
        words = ""
        for part_id in place.split():
            outcome = (
                place.run_map(echo, part_id) if step == "own" else place.run(step, PART_ID=part_id)
            )
            assert (outcome.code, outcome.output) == (0, ""), outcome.words
            words += outcome.words
        place.merge()
        results.append((place.totals(), place.final("result.out"), done(place)))
        assert re.findall(r"event=done part=(\d+) ", words) == list("0123456")

    assert results[0] == results[1] == results[2]
    assert results[0][2] == "0123456"
    if step == "count":
        assert results[0][0] == model(files)
    if step == "own":
        assert results[0][0] == {"INFO": model(files)["INFO"], "parts": 7}


@pytest.mark.folder
@given(files=strategies.folders(), parts=strategies.parts(), per_pod=st.integers(1, 5))
def test_groups_of_any_input(files: dict[str, bytes], parts: int, per_pod: int) -> None:
    """For any parts with any files, the totals equal the model."""
    settings = {"INPUT": "in/", "NUM_PARTS": parts, "PARTS_PER_POD": per_pod, "SPLIT_MODE": "range"}
    with Volume.temporary(**settings) as volume:
        for name, data in files.items():
            volume.write(f"in/{name}", data)
        volume.log_count()
        assert volume.totals() == model(files.values())


def test_any_parts_of_a_plan(run: Volume) -> None:
    """Parts with gaps between them: each reads its own bytes."""
    assert run.run_map(echo, "0,2-3,7").code == 0
    assert run.run_map(echo, "1,4-6").code == 0
    run.merge()

    assert (run.totals(), run.final("result.out")) == ({"INFO": 40, "parts": 8}, DATA)


OURS, PASSES = WorkerError("because"), OSError(5, "Input/output error")
FAILURES: dict[str, tuple[dict[int, BaseException], int]] = {
    "one of the operator's": ({3: OURS}, 2),
    "all of the operator's": (dict.fromkeys(range(8), OURS), 2),
    "the first and the last": ({0: OURS, 7: OURS}, 2),
    "one that may pass": ({2: PASSES}, 75),
    "both": ({2: OURS, 3: PASSES}, 75),
    "both, the other way round": ({2: PASSES, 3: OURS}, 75),
    "a bug": ({4: ValueError("bug")}, 1),
    "two bugs": ({4: ValueError("bug"), 5: KeyError("bug")}, 1),
    "a bug and one of the operator's": ({4: ValueError("bug"), 5: OURS}, 75),
    "an exit": ({4: SystemExit(2)}, 2),
    "an exit that looks well": ({4: SystemExit(0), 5: SystemExit()}, 1),
    "an exit that would look well": ({4: SystemExit(256)}, 1),
    "an exit in words": ({4: SystemExit("because")}, 1),
}


@pytest.mark.parametrize(("raised", "code"), FAILURES.values(), ids=FAILURES)
def test_a_part_that_fails(
    run: Volume, tmp_path: Any, raised: dict[int, BaseException], code: int
) -> None:
    """The other parts are mapped and published. A log line reports each failure. The last line,
    which the workflow shows, reports all. A retry maps the failed parts."""
    function, called = failing(raised)
    file = tmp_path / "error"
    outcome = run.run_map(function, ALL, ERROR_FILE=file, **ARGO)

    assert (outcome.code, called) == (code, list("01234567"))
    assert done(run) == "".join(str(number) for number in range(8) if number not in raised)
    assert [int(number) for number, _ in errors(outcome)] == sorted(raised)
    assert outcome.words.count("event=failed") == 1
    first, shown = min(raised), part_ids.show(part_ids.ranges(sorted(raised)))
    assert file.read_text().startswith(
        f"{len(raised)} of 8 parts failed ({shown}), part {first} with: "
    )
    assert outcome.words.count("Traceback") == sum(
        isinstance(error, (ValueError, KeyError)) for error in raised.values()
    )
    assert run.temporary_files() == []

    function, called = failing({})
    assert run.run_map(function, ALL, **ARGO).code == 0
    assert called == [str(number) for number in sorted(raised)]
    run.merge()
    assert run.final("result.out") == DATA


@pytest.mark.parametrize(
    ("codes", "code"), [("2", 2), ("2 2", 2), ("7", 7), ("7 7", 7), ("2 7", 75), ("75 2", 75)]
)
def test_a_program_that_fails(run: Volume, codes: str, code: int) -> None:
    """The exit codes of a program are judged for each part."""
    wanted = dict(zip("36", codes.split(), strict=False))
    cases = " ".join(f"{part}) exit {end};;" for part, end in wanted.items())
    run = run.having(MAP_COMMAND=f"sh -c 'cat; case $PART_ID in {cases} esac'")
    outcome = run.run("map", PART_ID=ALL)

    assert (outcome.code, errors(outcome)) == (code, [*wanted.items()])
    assert done(run) == "".join(part for part in "01234567" if part not in wanted)


def test_many_failures_in_a_sentence(volume: Volume) -> None:
    """The message names the first failures and mentions the others."""
    volume.write(INPUT, DATA)
    volume = volume.having(NUM_PARTS=60, SPLIT_MODE="range", MAP_SETTINGS="1")
    volume.split()
    function, _ = failing(dict.fromkeys(range(0, 60, 2), OURS))
    outcome = volume.run_map(function, "0-59")

    assert "30 of 60 parts failed (0,2,4,6," in outcome.words
    assert ",38 and more), part 0 with: because" in outcome.words


def test_what_all_parts_share_ends_at_once(run: Volume) -> None:
    """A missing plan or a wrong setting: one message, not a line per part."""
    for more, code in (
        ({"PLAN_ID": "0" * 32}, 75),
        ({"RUN_ID": ""}, 2),
        ({"ONLY_MISSING": "yes"}, 2),
        ({"MAP_SETTINGS": ""}, 2),
    ):
        outcome = run.run_map(echo, ALL, **{**ARGO, **more})
        assert (outcome.code, errors(outcome), done(run)) == (code, [], "")
        assert outcome.words.count("\n") == 1


# --- what a retry skips


def calls(volume: Volume, part_id: str = ALL, **settings: object) -> str:
    """Map a group, which must succeed; return the mapped parts as a text of digits."""
    function, called = failing({})
    outcome = volume.run_map(function, part_id, **settings)
    assert outcome.code == 0, outcome.words
    skipped = outcome.event("skipped").get("parts")
    assert sorted([*(ids(skipped) if skipped else []), *map(int, called)]) == ids(part_id)
    return "".join(called)


OTHER: dict[str, Any] = {"RUN_ID": "b", "RUN_STARTED": 2}


def test_what_a_retry_skips(run: Volume) -> None:
    """With RUN_ID a retry skips the finished parts of this run only. With ONLY_MISSING it skips all
    valid parts of the job. By hand it skips nothing. A single part is always mapped."""
    assert calls(run, "1,3-4", **ARGO) == "134"
    assert calls(run, "0-5", **ARGO) == "025"
    assert calls(run, "0-5", **ARGO) == ""
    assert calls(run, "5-6", **OTHER) == "56"
    assert calls(run, "4-6", **ARGO) == "56"
    assert calls(run, "4-6", **OTHER) == "456"
    assert calls(run, "0-6") == "0123456"
    assert calls(run, "6-7") == "67"
    assert calls(run, "6-7", **ARGO) == "67"
    assert calls(run, ALL, ONLY_MISSING="true") == ""
    assert calls(run, ALL, ONLY_MISSING="true", **OTHER) == ""
    assert calls(run, ALL, ONLY_MISSING="true", MAP_SETTINGS="2") == "01234567"
    assert calls(run, "7", ONLY_MISSING="true", **ARGO) == "7"
    run.merge()
    assert run.final("result.out") == DATA


DAMAGED: dict[str, Callable[[Volume], object]] = {
    "no record": lambda run: run.record_path("3").unlink(),
    "half a record": lambda run: run.record_path("3").write_bytes(b'{"digest":'),
    "an empty record": lambda run: run.record_path("3").write_bytes(b""),
    "another part's": lambda run: run.record_path("3").write_bytes(
        run.record_path("4").read_bytes()
    ),
    "of other bytes": lambda run: run.reseal(run.record_path("3"), bytes=1),
    "no output": lambda run: (run.run_dir / run.record("3")["output"][0]).unlink(),
    "another output": lambda run: (run.run_dir / run.record("3")["output"][0]).write_bytes(b"?"),
}


@pytest.mark.parametrize("more", [ARGO, {"ONLY_MISSING": "true"}], ids=["retry", "only missing"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_mapped_again(
    run: Volume, damage: Callable[[Volume], object], more: dict[str, Any]
) -> None:
    """A record that is not valid, or an output that is missing or changed."""
    assert calls(run, **more) == "01234567"
    damage(run)
    assert calls(run, **more) == "3"
    run.merge()
    assert run.final("result.out") == DATA


def test_only_missing_in_groups(run: Volume) -> None:
    """Missing parts are printed as ranges; with more than 8 ranges, the whole group, of which the
    map skips the finished parts. Copies are made only of missing parts."""
    run = run.having(NUM_PARTS=40, PARTS_PER_POD=20, SPLIT_MODE="copy", ONLY_MISSING="true")
    assert run.split() == ["0-19", "20-39"]
    function, called = failing(dict.fromkeys([*range(0, 18, 2), 25, 26, 30], OURS))
    for part_id in run.split():
        assert run.run_map(function, part_id).code == 2
    run.reseal(run.record_path("39"), job="0" * 32)

    assert run.split() == ["0-19", "25-26,30,39"]
    function, called = failing({})
    for part_id in run.split():
        assert run.run_map(function, part_id).code == 0
    assert list(map(int, called)) == [*range(0, 18, 2), 25, 26, 30, 39]
    assert run.split() == []
    run.merge()
    assert run.final("result.out") == DATA


# --- killed, doubled, late


def program(gate: str, seen: str) -> str:
    """A program that logs the part, and waits in part 3 while the file `gate` exists."""
    wait = f"test $PART_ID = 3 && while test -e {gate}; do sleep 0.01; done"
    return "sh -c " + shlex.quote(f"echo $PART_ID >>{seen}; {wait}; cat")


def until(is_true: Callable[[], bool]) -> None:
    """Wait for something that takes a moment."""
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_pod_that_is_reclaimed(run: Volume, tmp_path: Any, number: signal.Signals) -> None:
    """A process in the middle of a group is killed, or ends with 143. Its finished parts stay, and
    its retry maps only the others."""
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    gate.touch()
    run = run.having(MAP_COMMAND=program(str(gate), str(seen)), **ARGO)
    with run.start("map", PART_ID=ALL) as process:
        until(lambda: seen.exists() and "3" in seen.read_text())
        process.send_signal(number)
        outcome = finish(process)
    assert outcome.code == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert (done(run), errors(outcome)) == ("012", [])
    gate.unlink()
    seen.write_text("")

    outcome = run.call("map", PART_ID=ALL)
    assert (outcome.code, seen.read_text().split()) == (0, list("34567")), outcome.words
    assert outcome.event("skipped")["parts"] == "0-2"
    run.merge()
    assert run.final("result.out") == DATA


def test_a_group_that_runs_twice(run: Volume, tmp_path: Any) -> None:
    """Two pods of one group in parallel, one of them ahead: the result has each part once."""
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    gate.touch()
    run = run.having(MAP_COMMAND=program(str(gate), str(seen)), **ARGO)
    with run.start("map", PART_ID=ALL) as one:
        until(lambda: seen.exists() and "3" in seen.read_text())
        with run.start("map", PART_ID=ALL) as two:
            until(lambda: seen.read_text().count("3") == 2)
            gate.unlink()
            ends = [finish(one), finish(two)]
    assert [end.code for end in ends] == [0, 0]
    assert Counter(seen.read_text().split()) == {**Counter("34567" * 2), **Counter("012")}
    run.merge()
    assert run.final("result.out") == DATA


def test_a_group_of_an_older_run(run: Volume) -> None:
    """A late group, after a change of the input: it fails, or its output is not used. The newer
    run, which has mapped half of its parts, skips none because of it."""
    older = run.having(PLAN_ID=run.plan()["id"], **ARGO)
    assert calls(older, "0-3") == "0123"
    newer = run.having(**OTHER)
    newer.write(INPUT, data := DATA.replace(b"INFO", b"WARN"))
    newer.split()
    newer = newer.having(PLAN_ID=newer.plan()["id"])
    assert calls(newer, "2-4") == "234"
    before = newer.tree()
    outcome = older.run_map(echo, ALL)

    assert outcome.code in (2, 75)
    assert [number for number, _ in errors(outcome)] == list("4567")
    assert newer.tree() == before
    assert calls(newer) == "01567"
    newer.merge()
    assert newer.final("result.out") == data


# --- the last step after a map that has failed


@pytest.mark.parametrize(
    ("status", "code"),
    [("", 75), ("Succeeded", 75), ("Skipped", 75), ("Failed", 2), ("Errored", 2)],
)
def test_the_status_of_the_map(run: Volume, status: str, code: int) -> None:
    """After a failed map, missing records are final. Records that a mount may show wrong are not
    final, and a complete result is valid in any case."""
    assert calls(run, "0-5,7") == "0123457"
    outcome = run.run("merge", MAP_STATUS=status)
    assert (outcome.code, run.totals()) == (code, None)
    assert "1 missing (6): map these parts again" in outcome.words
    assert (f"MAP_STATUS is {status}: no retry" in outcome.words) == (code == 2)
    record = run.record_path("0").read_bytes()
    run.record_path("0").write_bytes(b"")
    assert calls(run, "6") == "6"
    assert run.run("merge", MAP_STATUS=status).code == 75
    run.record_path("0").write_bytes(record)
    run.merge(MAP_STATUS=status)
    assert run.final("result.out") == DATA


def test_a_status_that_is_none(run: Volume) -> None:
    """For example a parameter that Argo did not replace."""
    for text in ("{{tasks.map.status}}", "failed", "Running"):
        outcome = run.run("merge", MAP_STATUS=text)
        assert outcome.code == 2
        assert f"got {text!r}: use one of these" in outcome.words


# --- many


def mapped_by(process: int, volume: Volume, groups: Iterable[str]) -> Iterator[int]:
    """Map groups in a new process; return its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            environ = volume.environ({})
            with redirect_stderr(io.StringIO()):
                code = max(count.main({**environ, "PART_ID": group}) for group in groups)
        finally:
            os._exit(code)
    yield pid


@pytest.mark.folder
def test_100000_parts_in_groups_of_50(volume: Volume) -> None:
    """Every byte is counted once, and every part has its record, with its id and its bytes."""
    lines = (b"%d %b\n" % (number % 97, KEYWORDS[number % 4].encode()) for number in range(10**6))
    data = b"".join(lines)
    volume.write(INPUT, data)
    volume = volume.having(NUM_PARTS=100_000, PARTS_PER_POD=50, SPLIT_MODE="range")
    start = time.monotonic()
    groups = volume.split(MAX_PODS=2000)
    assert [number for text in groups for number in ids(text)] == [*range(100_000)]
    assert len(groups) == 2000
    volume = volume.having(PLAN_ID=volume.plan()["id"])
    split = time.monotonic() - start
    pids = [next(mapped_by(one, volume, groups[one::2])) for one in range(2)]
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    assert ends == [0, 0]
    seconds = time.monotonic() - start
    volume.merge()
    print(f"split {split:.1f} s, maps {seconds:.1f} s, all {time.monotonic() - start:.1f} s")

    assert volume.totals() == model([data])
    folder = volume.record_path("0").parent
    assert len(os.listdir(folder)) == 100_000
    for number in (0, 49, 50, 12_345, 99_999):
        record = volume.record(str(number))
        cuts = volume.plan()["cuts"][number : number + 2]
        assert (record["part"], record["bytes"]) == (str(number), cuts[1] - cuts[0])
        assert record["counts"] == model([data[slice(*cuts)]])
