"""SPLIT_MODE=files: whole jobs with whole files as parts, against models of a few lines."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import faulty
import pytest
from fanfold import Part, Stream, reduce_outputs
from fanfold.fold import Fold
from fanfold.names import DIGITS, PART_OUTPUT
from fanfold.storage import folder, uploads
from hypothesis import given
from hypothesis import strategies as st
from pipeline import Outcome, Volume, finish, model
from strategies import contents

pytestmark = pytest.mark.usefixtures("storage")

RUN = {"RUN_ID": "a", "RUN_STARTED": 1}
NEXT = {"RUN_ID": "b", "RUN_STARTED": 2, "ONLY_MISSING": "true"}
THIRD = {"RUN_ID": "c", "RUN_STARTED": 3, "ONLY_MISSING": "true"}
FILES = {"in/a": b"INFO 1\n", "in/b/c": b"WARN\nINFO 2", "in/d": b"", "in/e": b"ERROR\n" * 9}

How = str | Callable[[Part], Any]
Lines = list[dict[str, Any]]


def job(volume: Volume, files: Mapping[str, bytes], **settings: object) -> Volume:
    """A job with these files, in two parts."""
    for name, data in files.items():
        volume.write(name, data)
    return volume.having(**{"SPLIT_MODE": "files", "INPUT": "in/", "NUM_PARTS": 2, **settings})


def with_map(how: How, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings, and for a custom map also MAP_SETTINGS."""
    return {**settings} if isinstance(how, str) else {"MAP_SETTINGS": "a test", **settings}


def mapped(job: Volume, how: How, part: object, **settings: object) -> Outcome:
    """Map a part with count.py, map.py or a function."""
    settings = with_map(how, settings)
    if isinstance(how, str):
        return job.run(how, PART_ID=part, **settings)
    return job.run_map(how, part, **settings)


def map_all(job: Volume, how: How, **settings: object) -> list[str]:
    """Split and map, which must succeed; return the output of split."""
    printed = job.split(**with_map(how, settings))
    for part in printed:
        outcome = mapped(job, how, part, **settings)
        assert (outcome.code, outcome.output) == (0, ""), outcome.words
    return printed


def merged(job: Volume, how: How = "count", **settings: object) -> Outcome:
    """Run the last step."""
    return job.run("merge", **with_map(how, settings))


def do(job: Volume, how: How, **settings: object) -> Outcome:
    """Run all steps; return the outcome of the last step."""
    map_all(job, how, **settings)
    return merged(job, how, **settings)


def lines(data: bytes | None) -> Lines:
    """Parse an outputs.jsonl."""
    assert data is not None
    return [json.loads(line) for line in data.splitlines()]


def final(job: Volume) -> Lines:
    """Return the published lines, after a check of their outputs."""
    found = lines(job.final("outputs.jsonl"))
    for line in found:
        assert (line["exit"] == 0) >= (line["output"] is not None)
        if line["output"]:
            data = (job.root / line["output"]).read_bytes()
            digest = sha256(data).hexdigest()[:DIGITS]
            assert (len(data), digest) == (line["output_bytes"], line["digest"])
    return found


def outputs(job: Volume) -> dict[str, bytes | None]:
    """Return the output of each file, by file name, from outputs.jsonl."""
    return {
        line["name"]: (job.root / line["output"]).read_bytes() if line["output"] else None
        for line in final(job)
    }


def ends(job: Volume) -> dict[str, int]:
    """Return the exit code of each file."""
    return {line["name"]: line["exit"] for line in final(job)}


def upper(part: Part) -> dict[str, int]:
    """A custom map: the text in capitals, and the number of letters x."""
    found = 0
    part.write(b"")
    for piece in part.pieces():
        part.write(piece.upper())
        found += piece.count(b"x")
    return {"x": found}


def started(log: Path) -> list[str]:
    """Return the files for which programs of LOGGED were started, in order."""
    found = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def logged(log: Path, then: str) -> str:
    """A program that logs its start."""
    return f"""sh -c 'echo "$INPUT_NAMES" >>{log}; {then}'"""


# --- cuts


def model_cuts(sizes: Sequence[int], count: int) -> list[int]:
    """Return the number of the first file that starts at or after each even share. If all files are
    empty, each counts as one byte."""
    counted = sizes if sum(sizes) else [1] * len(sizes)
    starts = list(accumulate(counted, initial=0))
    return [
        next(at for at, start in enumerate(starts) if start >= starts[-1] * number // count)
        for number in range(count)
    ] + [len(sizes)]


@given(st.lists(st.integers(0, 5) | st.integers(0, 60), min_size=1, max_size=9), st.integers(1, 12))
def test_parts_are_whole_files(sizes: list[int], count: int) -> None:
    """There are always NUM_PARTS parts, each with the files from cut to cut in byte order of names.
    Every file is in exactly one part. Some parts, or all files, may be empty."""
    names = sorted(f"in/{'é' * (at % 3)}{at}" for at in range(len(sizes)))
    by_part: dict[str, list[str]] = {}

    def note(part: Part) -> None:
        by_part.setdefault(part.id, []).append(part.name)
        assert sum(map(len, part.pieces())) == dict(zip(names, sizes, strict=True))[part.name]

    with Volume.temporary() as volume:
        run = job(volume, {name: b"x" * n for name, n in zip(names, sizes, strict=True)})
        outcome = do(run, note, NUM_PARTS=count)

        assert outcome.code == 0, outcome.words
        cuts = model_cuts(sizes, count)
        assert run.plan()["cuts"] == cuts
        spans = enumerate(pairwise(cuts))
        assert by_part == {str(n): names[at:stop] for n, (at, stop) in spans if at < stop}
        assert [line["name"] for line in final(run)] == names
        assert run.summary()["files"] == len(names)


@pytest.mark.parametrize(
    ("source", "more", "code"),
    [
        ("**/*.json", {}, 2),
        ("*/*", {}, 2),
        ("*.json", {}, 2),
        ("**", {"RUN_DIR": "runs/1"}, 2),
        ("in/", {"OUTPUT_DIR": "in"}, 2),
        ("in/made/**", {"RUN_DIR": "in", "OUTPUT_DIR": "made/small"}, 2),
        ("in/**", {}, 0),
        ("*/*", {"RUN_DIR": "runs/1"}, 0),
        ("i*/*.json", {"OUTPUT_DIR": "made"}, 0),
    ],
)
def test_the_files_of_the_run_itself(
    volume: Volume, source: str, more: Mapping[str, str], code: int
) -> None:
    """A pattern that may match outputs of the run is refused before these exist: the next run would
    use them as inputs."""
    run = job(volume, {"in/a.json": b"INFO"}, **more)
    outcome = run.run("split", INPUT=source)

    assert outcome.code == code, outcome.words
    assert ("use another INPUT, OUTPUT" in outcome.words) == (code == 2)


# --- count.py

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@given(contents(30), st.integers(1, 6))
def test_counts_of_compressed_files(text: bytes, count: int) -> None:
    """A file of each kind counts like its text. The lines and the records have both sizes."""
    packed = {f"in/{kind}": pack(text) for kind, pack in PACKED.items()}
    with Volume.temporary() as volume:
        run = job(volume, packed, NUM_PARTS=count)
        assert do(run, "count").code == 0

        assert run.totals() == model([text] * len(packed))
        names = sorted(packed)
        assert [
            (line["name"], line["bytes"], line["text_bytes"], line["counts"], line["tries"])
            for line in final(run)
        ] == [(name, len(packed[name]), len(text), model([text]), 1) for name in names]
        for number, (at, stop) in enumerate(pairwise(run.plan()["cuts"])):
            record, here = run.record(str(number)), names[at:stop]
            assert record["files"] == len(here)
            assert record["bytes"] == sum(len(packed[name]) for name in here)
            assert record["text_bytes"] == len(text) * len(here)


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("large", [False, True])
def test_a_damaged_file_fails(volume: Volume, kind: str, large: bool) -> None:
    """A damaged file is tried once and named. The other files of its part are counted."""
    text = random.Random(1).randbytes(400_000) if large else b"INFO\nmore\n"
    whole = PACKED[kind](text)
    damaged = {"in/cut": whole[:-9], "in/more": whole + b"INFO"}
    run = job(volume, {"in/a": b"INFO\n", **damaged, "in/z": b"INFO\n"}, NUM_PARTS=1)
    outcome = do(run, "count", TOLERATED_FAILURES=2)

    assert outcome.code == 0, outcome.words
    assert ends(run) == {"in/a": 0, "in/cut": 2, "in/more": 2, "in/z": 0}
    assert run.totals() == {**model([]), "INFO": 2}
    for line in final(run)[1:3]:
        assert (line["tries"], line["counts"], line["output"]) == (1, {}, None)
        assert line["name"] in line["said"]
        assert "byte" in line["said"]
    assert (run.record("0")["failed"], run.summary()["failed"]) == (2, 2)


# --- map.py


@pytest.mark.parametrize(
    "more", [{}, {"RUN_DIR": "run", "OUTPUT_DIR": "made/small", "OUTPUT_SUFFIX": ".up"}]
)
def test_a_program_per_file(volume: Volume, tmp_path: Path, more: Mapping[str, str]) -> None:
    """A program runs for each file, and its output has the file's name. Its stdin is the text of
    the file. Without a list ITEM is not set."""
    log = tmp_path / "log"
    files = {**FILES, "in/f.gz": gzip.compress(b"info\n" * 99)}
    command = logged(log, 'cat; printf "%s %s" "$INPUT_NAMES" "${ITEM-none}"')
    run = job(volume, files, MAP_COMMAND=command, **more)
    outcome = do(run, "map")

    assert outcome.code == 0, outcome.words
    assert started(log) == sorted(files)
    texts = {**FILES, "in/f.gz": b"info\n" * 99}
    expected = {name: text + f"{name} none".encode() for name, text in texts.items()}
    assert outputs(run) == expected
    for line in final(run):
        place = f"{run.job()}/{line['name']}{more.get('OUTPUT_SUFFIX', '')}"
        top = "run/made/small" if more else "map-output"
        assert line["output"] == f"{top}/{place}"
    assert run.summary()["output_bytes"] == sum(map(len, expected.values()))
    assert run.final("result.json") == b"{}\n"


def test_the_input_as_it_is_stored(volume: Volume) -> None:
    """{input} is the stored file with its suffix, and stdin is its text. {output} is the output,
    with OUTPUT_SUFFIX as its suffix."""
    packed = gzip.compress(b"INFO\n" * 50)
    command = """sh -c 'printf "%s %s " "${1##*.}" "${2##*.}" >"$2"; cat "$1" >>"$2"'"""
    run = job(volume, {"in/a.gz": packed, "in/empty.gz": b""}, OUTPUT_SUFFIX=".out")
    outcome = do(run, "map", MAP_COMMAND=f"{command} x {{input}} {{output}}")

    assert outcome.code == 0, outcome.words
    assert outputs(run) == {"in/a.gz": b"gz out " + packed, "in/empty.gz": b"gz out "}
    assert [line["text_bytes"] for line in final(run)] == [None, None]


def test_items(volume: Volume) -> None:
    """A program gets the whole object of a list's line as ITEM. The line of outputs.jsonl also has
    this object."""
    items = [{"name": "in/b", "speed": 1.5, "é": [None, "\ud800"]}, {"name": "in/a", "speed": 2}]
    run = job(volume, {"in/a": b"A", "in/b": b"B", "in/c": b"C"}, INPUT="@list.jsonl")
    volume.write("list.jsonl", "".join(json.dumps(item) + "\n" for item in items).encode())
    outcome = do(run, "map", MAP_COMMAND="""sh -c 'cat >/dev/null; printf %s "$ITEM"'""")

    assert outcome.code == 0, outcome.words
    made = {name: json.loads(data or b"") for name, data in outputs(run).items()}
    assert made == {item["name"]: item for item in items}
    assert [line["item"] for line in final(run)] == [items[1], items[0]]


@pytest.mark.parametrize(("code", "tries"), [(1, 3), (2, 1), (75, 3), (255, 3)])
def test_a_program_that_fails(volume: Volume, tmp_path: Path, code: int, tries: int) -> None:
    """A failed program is tried three times, or once if its exit code is 2. Its output does not
    exist. The line has its exit code and its last words."""
    log = tmp_path / "log"
    then = f"cat; echo no such luck >&2; case $INPUT_NAMES in *c) exit {code};; esac"
    run = job(volume, FILES, MAP_COMMAND=logged(log, then), TOLERATED_FAILURES=1)
    outcome = do(run, "map")

    assert outcome.code == 0, outcome.words
    assert Counter(started(log)) == {**dict.fromkeys(FILES, 1), "in/b/c": tries}
    assert outputs(run) == {**FILES, "in/b/c": None}
    failed = final(run)[1]
    assert (failed["exit"], failed["tries"], failed["output_bytes"]) == (code, tries, 0)
    assert "no such luck" in failed["said"]
    assert not any(name.endswith("in/b/c") for name in volume.tree() if "map-output" in name)
    assert volume.temporary_files() == []


def test_a_program_that_fails_at_first(volume: Volume, tmp_path: Path) -> None:
    """Only the output of the successful attempt counts."""
    mark = tmp_path / "mark"
    command = f"sh -c 'cat; test -e {mark} || {{ touch {mark}; exit 1; }}'"
    run = job(volume, {"in/a": b"once"}, NUM_PARTS=1)
    assert do(run, "map", MAP_COMMAND=command).code == 0

    assert outputs(run) == {"in/a": b"once"}
    assert final(run)[0]["tries"] == 2


def test_a_program_that_is_not_there(volume: Volume) -> None:
    """A missing program is a failure of the part, not of its files."""
    run = job(volume, FILES, MAP_COMMAND="no-such-program", TOLERATED_FAILURES=9)
    run.split()
    outcome = run.run("map", PART_ID=0)

    assert outcome.code == 2
    assert "file_failed" not in outcome.words
    assert not run.record_path("0").exists()


@pytest.mark.parametrize("at_once", [3, 20])
def test_several_programs_at_once(volume: Volume, tmp_path: Path, at_once: int) -> None:
    """Exactly FILES_AT_ONCE programs run in parallel. The lines are in the order of the names,
    whichever program ends first."""
    marks, files = tmp_path / "marks", {f"in/{n:02}": b"%d" % n for n in range(at_once)}
    marks.mkdir()
    # Ends when all have started, or after a while.
    wait = f"for i in $(seq 99); do set -- {marks}/*; test $# -ge {at_once} && break; sleep 0.1"
    command = f"sh -c ': >{marks}/$$; {wait}; done; cat; printf \" $#\"'"
    run = job(volume, files, NUM_PARTS=1, MAP_COMMAND=command)
    outcome = do(run, "map", FILES_AT_ONCE=at_once)

    assert outcome.code == 0, outcome.words
    assert outputs(run) == {name: b"%b %d" % (data, at_once) for name, data in files.items()}
    assert [line["name"] for line in final(run)] == sorted(files)


def test_no_more_than_files_at_once(volume: Volume, tmp_path: Path) -> None:
    """With 3, no four of 12 programs run in parallel."""
    marks, files = tmp_path / "marks", {f"in/{n:02}": b"" for n in range(12)}
    marks.mkdir()
    command = f"sh -c ': >{marks}/$$; sleep 0.03; ls {marks} | wc -l; rm {marks}/$$'"
    run = job(volume, files, NUM_PARTS=1, MAP_COMMAND=command)
    assert do(run, "map", FILES_AT_ONCE=3).code == 0

    seen = [int(data or b"") for data in outputs(run).values()]
    assert max(seen) <= 3


def test_at_once_is_as_one_by_one(volume: Volume, tmp_path: Path) -> None:
    """The outputs and lines, also of failed files, are the same for any FILES_AT_ONCE."""
    dice = random.Random(4)
    files = {f"in/{n:02}": dice.randbytes(dice.choice([0, 9, 300_000])) for n in range(12)}
    then = "cat; case $INPUT_NAMES in *7) echo bad >&2; exit 3;; esac"
    run = job(volume, files, MAP_COMMAND=f"sh -c '{then}'", TOLERATED_FAILURES=1)
    found = []
    for at_once in (1, 4):
        assert do(run.having(RUN_DIR=f"run{at_once}"), "map", FILES_AT_ONCE=at_once).code == 0
        made = run.having(RUN_DIR=f"run{at_once}")
        assert outputs(made) == {**files, "in/07": None}
        varies = {"seconds": 0, "output": "", "output_version": ""}
        found.append([{**line, **varies} for line in final(made)])
    assert found[0] == found[1]


def test_sigterm_ends_all_programs(volume: Volume, tmp_path: Path) -> None:
    """None of four programs is left running, none of their files is left, and the pod ends long
    before its 30 s."""
    run = job(volume, {f"in/{n}": b"x" for n in range(9)}, NUM_PARTS=1)
    command = f"sh -c 'echo $$ >{tmp_path}/$$; echo half; exec sleep 60'"
    run = run.having(MAP_COMMAND=command, FILES_AT_ONCE=4)
    run.split()
    before = set(volume.tree())
    with run.start("map", PART_ID=0) as process:
        until = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)

    assert outcome.code == 143, outcome.words
    assert time.monotonic() - start < 5
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 4
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert "file_failed" not in outcome.words
    tree = {name for name, data in volume.tree().items() if data is not None}
    assert tree <= before
    assert volume.temporary_files() == []


# --- the storage


def swallows(part: Part) -> None:
    """A custom map that ignores every error."""
    for way in (part.pieces, part.lines):
        try:
            for piece in way():
                part.write(piece[:0])
        except Exception:  # noqa: S110
            pass


def named(how: object) -> str:
    """A name for a case that is the same in every process."""
    return getattr(how, "__name__", str(how))


@pytest.mark.parametrize("how", ["count", "map", upper, swallows], ids=named)
@pytest.mark.parametrize("number", [5, 28, 116], ids=["EIO", "ENOSPC", "ESTALE"])
def test_an_error_of_the_storage_is_none_of_a_file(volume: Volume, how: How, number: int) -> None:
    """Whichever operation of a map fails: 75, no record and no failed file, also if the map ignores
    the error. Or another way succeeded. The next attempt succeeds as the first would have."""
    run = job(volume, FILES, NUM_PARTS=1, **{"MAP_COMMAND": "cat"} if how == "map" else {})
    run.split()
    with faulty.operations(lambda *_: None) as seen:
        assert mapped(run, how, 0).code == 0
    step = 5 if volume.in_bucket else 2
    for nth in range(number % step, len(seen), step):
        run.record_path("0", **{} if isinstance(how, str) else {"MAP_SETTINGS": "a test"}).unlink()

        def fail(at: int, _: str, nth: int = nth) -> None:
            if at == nth:
                raise OSError(number, os.strerror(number))

        with faulty.operations(fail):
            outcome = mapped(run, how, 0)
        assert outcome.code in (0, 75), (nth, outcome.words)
        assert "file_failed" not in outcome.words, (nth, outcome.words)
        assert volume.hidden_files() == []
        if outcome.code:
            assert mapped(run, how, 0).code == 0
        assert merged(run, how).code == 0
        assert not any(ends(run).values()), nth
        if how is not swallows and how != "count":
            made = [data.upper() if how is upper else data for data in FILES.values()]
            assert list(outputs(run).values()) == made, nth


def test_a_write_that_failed_and_was_swallowed(volume: Volume) -> None:
    """No output has a hole: 75."""
    run = job(volume, {"in/a": b"x" * 300_000}, NUM_PARTS=1)
    run.split()

    def careless(part: Part) -> None:
        for piece in part.pieces():
            try:
                part.write(piece)
            except OSError:
                part.write(b"!")

    kind: Any = uploads.Writer if volume.in_bucket else folder.Writer
    write, calls = kind.write, []

    def broken(self: Any, data: bytes) -> None:
        if data.startswith(b"x"):
            calls.append(len(data))
            raise OSError(5, "Input/output error")
        write(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "write", broken)
        outcome = mapped(run, careless, 0)

    assert calls
    assert outcome.code == 75, outcome.words
    assert "file_failed" not in outcome.words


@pytest.mark.parametrize(
    ("error", "code", "tries"),
    [
        (OSError("cannot identify image file"), 75, 3),
        (FileNotFoundError(2, "No such file", "palette"), 75, 3),
        (PermissionError(13, "Permission denied", "palette"), 2, 1),
        (ValueError("bad"), 1, 3),
        (SystemExit(4), 4, 3),
    ],
    ids=str,
)
def test_an_error_of_the_map_itself(
    volume: Volume, error: BaseException, code: int, tries: int
) -> None:
    """An error of the map is the file's failure, also if it looks like one of the storage, such as
    PIL's."""

    def fails(part: Part) -> None:
        data = b"".join(part.pieces())
        part.write(data)
        if data.startswith(b"WARN"):
            raise error

    run = job(volume, FILES, TOLERATED_FAILURES=1)
    assert do(run, fails).code == 0

    assert outputs(run) == {**FILES, "in/b/c": None}
    line = final(run)[1]
    assert (line["exit"], line["tries"]) == (code, tries)
    assert str(error.args[-1]) in line["said"]


# --- a custom map


def test_what_a_custom_map_gets(volume: Volume) -> None:
    """A custom map gets each file by itself: its name and item, its text by lines and by pieces,
    and the path of the stored file. The counts of all files are added up."""
    texts = {"in/a.gz": b"one\ntwo\n", "in/b": b"three", "in/c": b""}
    files = {name: gzip.compress(text) if ".gz" in name else text for name, text in texts.items()}
    items = [{"name": name, "weight": at} for at, name in enumerate(files)]
    run = job(volume, files, INPUT="@list.jsonl", NUM_PARTS=2)
    volume.write("list.jsonl", "".join(json.dumps(item) + "\n" for item in items).encode())

    def look(part: Part) -> dict[str, float]:
        (itself,) = part.files()
        assert itself is part
        text = texts[part.name]
        assert part.item in items
        assert isinstance(part.item, dict)
        assert part.num_parts == 2
        path = part.path()
        assert volume.in_bucket or Path(path).read_bytes() == files[part.name]
        assert b"".join(part.pieces()) == text
        assert list(part.lines()) == text.splitlines()
        if text:
            part.write(part.id.encode())
        return {"bytes": len(text), "weight": part.item["weight"]}

    assert do(run, look).code == 0
    assert run.totals() == {"bytes": sum(map(len, texts.values())), "weight": 3}
    assert [line["output"] is None for line in final(run)] == [False, False, True]


def takes_a_line(part: Part) -> None:
    """A custom map that stops after the first line."""
    next(part.lines(), None)


def takes_nothing(part: Part) -> None:
    """A custom map that does not read the file."""
    part.write(b"nothing")


@pytest.mark.parametrize("how", [takes_a_line, takes_nothing])
def test_a_map_that_does_not_take_all(volume: Volume, how: Callable[[Part], None]) -> None:
    """Not reading all is a failure of the file. An empty file has nothing to read, and a file of
    one line is read by its first line."""
    files = {"in/a": b"1\n2\n" * 9, "in/b": b"", "in/c.gz": gzip.compress(b"1\n2\n")}
    run = job(volume, files, TOLERATED_FAILURES=2)
    assert do(run, how).code == 0

    assert ends(run) == {"in/a": 2, "in/b": 0, "in/c.gz": 2}
    assert final(run)[0]["said"].startswith("the map must read all of in/a, got ")


def test_files_is_for_this_mode(volume: Volume) -> None:
    """A map that asks for files in another mode fails with a message."""
    run = job(volume, FILES)
    run.split(SPLIT_MODE="range")
    outcome = mapped(run, lambda part: list(part.files()) and None, 0)

    assert outcome.code == 2
    assert "SPLIT_MODE must be files" in outcome.words


# --- the last step


def some_fail(part: Part) -> None:
    """A custom map that always fails for files with a dash at the beginning."""
    data = b"".join(part.pieces())
    if data.startswith(b"-"):
        raise PermissionError(13, "told to fail", part.name)
    part.write(data)  # an empty output for an empty file


@pytest.mark.parametrize(
    ("tolerated", "failed", "code"),
    [
        ("0", 0, 0),
        ("0", 1, 2),
        ("2", 2, 0),
        ("2", 3, 2),
        ("5%", 1, 0),
        ("5%", 2, 2),
        ("4.9%", 1, 2),
        ("100%", 20, 0),
        ("0%", 1, 2),
    ],
)
def test_tolerated_failures(
    volume: Volume, tmp_path: Path, tolerated: str, failed: int, code: int
) -> None:
    """Of 20 files: within the limit, all is published and the summary has the number; beyond it,
    nothing is published."""
    files = {f"in/{n:02}": b"-" if n < failed else b"+" for n in range(20)}
    run = job(volume, files, TOLERATED_FAILURES=tolerated)
    outcome = do(run, some_fail, SUMMARY_FILE=tmp_path / "summary")

    assert outcome.code == code, outcome.words
    if code:
        assert (
            f"TOLERATED_FAILURES is {tolerated}, and {failed} of 20 files failed" in outcome.words
        )
        assert run.final("outputs.jsonl") is run.final("result.json") is None
        assert not (tmp_path / "summary").exists()
        return
    summary = json.loads((tmp_path / "summary").read_text())
    assert (summary["files"], summary["failed"]) == (20, failed)
    assert run.summary() == summary
    assert list(ends(run).values()) == [2] * failed + [0] * (20 - failed)
    *_, newest = run.results().values()
    assert newest["outputs.jsonl"] == run.final("outputs.jsonl")


def test_the_first_twenty_that_failed(volume: Volume) -> None:
    """The error names the first twenty, the number of the others, and the file with all of them."""
    files = {f"in/{n:02}": b"-" for n in range(25)}
    run = job(volume, files, **RUN)
    outcome = do(run, some_fail)

    assert outcome.code == 2
    named = ", ".join(f"in/{n:02} (exit code 2)" for n in range(20))
    assert f"25 of 25 files failed: {named} and 5 more: fix the errors that " in outcome.words
    (outputs,) = run.results().values()
    assert [line["exit"] for line in lines(outputs["outputs.jsonl"])] == [2] * 25
    assert "outputs.jsonl has, and run again" in outcome.words
    said = lines(outputs["outputs.jsonl"])[0]["said"]
    assert f"maps only these files; the first error: {said}" in outcome.words


def test_a_part_of_a_lost_pod(volume: Volume) -> None:
    """Without MAP_STATUS, a retry may find the record of the part. After the maps have failed, its
    files count as failed, if this is tolerated."""
    files = {f"in/{n}": b"+" for n in range(4)}
    run = job(volume, files)
    run.split()
    assert mapped(run, some_fail, 0).code == 0

    for tolerated, status, code in (
        ("0", "", 75), ("2", "", 75), ("2", "Succeeded", 75),
        ("0", "Failed", 2), ("1", "Failed", 2), ("2", "Failed", 0), ("50%", "Errored", 0),
    ):  # fmt: skip
        more = {"TOLERATED_FAILURES": tolerated, "MAP_STATUS": status}
        outcome = merged(run, some_fail, **more, RUN_ID=f"r{tolerated[0]}{status}", RUN_STARTED=1)
        assert outcome.code == code, (more, outcome.words)
        # Without a result, the lines still exist for a later run to take over.
        name = f"19700101T000001Z-r{tolerated[0]}{status}"
        assert ("outputs.jsonl" in run.results().get(name, {})) == (code != 75)
    assert [bool(line["exit"]) for line in final(run)] == [False, False, True, True]
    assert "no pod has mapped part 1" in final(run)[3]["said"]
    assert run.summary()["failed"] == 2


@pytest.mark.parametrize("source", ["in/", "in/**", "@list"])
@pytest.mark.parametrize("change", [b"INFO 9\n", b"INFO 1\n", None], ids=["other", "same", "gone"])
def test_an_input_that_was_replaced(volume: Volume, source: str, change: bytes | None) -> None:
    """An input that is replaced or removed before the last step is refused. In a bucket an object
    with the same bytes is the same version."""
    run = job(volume, FILES, INPUT=source)
    volume.write("list", "\n".join(FILES).encode())
    map_all(run, "count")
    if change is None:
        (volume.root / "in/a").unlink()
    else:
        volume.write("in/a", change)
    outcome = merged(run)

    is_same = change == FILES["in/a"] and volume.in_bucket
    assert outcome.code == (0 if is_same else 75), outcome.words
    assert is_same or "in/a has changed" in outcome.words
    assert (run.final("outputs.jsonl") is not None) == is_same


def test_an_input_replaced_before_its_map(volume: Volume) -> None:
    """The part ends with 75. This is not a failure of the file."""
    run = job(volume, FILES, TOLERATED_FAILURES="100%")
    run.split()
    for data in (b"INFO 9\n", None):
        (volume.root / "in/a").unlink() if data is None else volume.write("in/a", data)
        outcome = mapped(run, "count", 0)
        assert outcome.code == 75, outcome.words
        assert "file_failed" not in outcome.words
        assert not run.record_path("0").exists()


def test_an_input_that_came_later(volume: Volume) -> None:
    """A new input is not in the plan."""
    run = job(volume, FILES)
    map_all(run, "count")
    volume.write("in/aa", b"INFO")
    outcome = merged(run)

    assert outcome.event("proven")["new"] == "1"
    assert run.totals() == model(FILES.values())


def place_of(run: Volume, name: str) -> Path:
    """Return the name of the output of a file of the newest plan."""
    return run.run_dir / "map-output" / run.job(MAP_SETTINGS="a test") / name


@pytest.mark.parametrize(
    ("data", "code"), [(b"+", 0), (b"-", 75), (b"longer", 75), (None, 75)], ids=str
)
def test_an_output_that_was_replaced(volume: Volume, data: bytes | None, code: int) -> None:
    """If the same bytes replace an output, as when a pod runs twice, the lines have its new
    version. Other bytes, or a removed output, are refused."""
    run = job(volume, {"in/a": b"+", "in/b": b"b"})
    map_all(run, some_fail)
    path = place_of(run, "in/a")
    if data is None:
        path.unlink()
    else:
        volume.write(str(path.relative_to(volume.root)), data)
    outcome = merged(run, some_fail)

    assert outcome.code == code, outcome.words
    if code:
        assert "is not the output that the map of in/a made" in outcome.words
        assert run.final("outputs.jsonl") is None
        # The remedy of the error works.
        assert do(run, some_fail, ONLY_MISSING="true").code == 0
    assert outputs(run) == {"in/a": b"+", "in/b": b"b"}
    assert do(run, "count", INPUT="@outputs.jsonl", RUN_DIR="next").code == 0


OUTPUTS = {"in/x/1": b"a\nb", "in/x/2": b"", "in/y": b"\x81\2" * 70_000, "in/z/1": b"end\n"}


@pytest.mark.parametrize("command", ["cat", "cat {inputs}"])
def test_a_program_reduces(volume: Volume, command: str) -> None:
    """The program gets the outputs byte for byte in the order of the files, without failed
    files."""
    run = job(volume, {**OUTPUTS, "in/x/3": b"-"}, NUM_PARTS=3, TOLERATED_FAILURES=1)
    outcome = do(run, some_fail, REDUCE_COMMAND=command, OUTPUT="all")

    assert outcome.code == 0, outcome.words
    assert run.final("all") == b"".join(OUTPUTS.values())
    assert run.summary()["output_bytes"] == len(b"".join(OUTPUTS.values()))


def test_a_custom_last_step(volume: Volume) -> None:
    """The function gets each output by itself, with its name."""
    run = job(volume, OUTPUTS, MAP_SETTINGS="a test")
    map_all(run, some_fail)

    def framed(streams: Sequence[Stream]) -> Iterable[bytes]:
        for stream in streams:
            (name,) = stream.names()
            assert name.endswith(next(iter(order)))
            yield b"<%b>" % b"".join(stream.pieces())
            del order[0]

    order = sorted(OUTPUTS)
    with redirect_stderr(io.StringIO()) as words:
        code = reduce_outputs(framed, [], run.environ({"OUTPUT": "all"}))
    assert code == 0, words.getvalue()
    assert run.final("all") == b"".join(b"<%b>" % data for data in OUTPUTS.values())


# --- ONLY_MISSING


def mapped_names(names: list[str]) -> Callable[[Part], dict[str, int]]:
    """A custom map like some_fail, with counts, that records its calls."""

    def note(part: Part) -> dict[str, int]:
        names.append(part.name)
        some_fail(part)
        return {"bytes": part.size, "files": 1}

    return note


def counted(files: Mapping[str, bytes]) -> dict[str, int]:
    """The counts of the files for which it does not fail."""
    good = [data for data in files.values() if not data.startswith(b"-")]
    return {"bytes": sum(map(len, good)), "files": len(good)}


MANY = {f"in/{n}": b"x" * (n + 1) for n in range(8)}


def check(run: Volume, files: Mapping[str, bytes]) -> None:
    """Check that exactly these files have published results."""
    is_bad = {name: data.startswith(b"-") for name, data in files.items()}
    ordered = sorted(files.items())
    assert list(outputs(run).items()) == [
        (name, None if is_bad[name] else data) for name, data in ordered
    ]
    assert run.totals() == counted(files)
    assert run.summary()["failed"] == sum(is_bad.values())


def test_only_what_has_changed(volume: Volume) -> None:
    """Changed and new files, files with a missing output and failed files are mapped. Removed files
    are left out. A second takeover also takes over what the first took over."""
    files, names = {**MANY, "in/7": b"-"}, list[str]()
    run = job(volume, files, NUM_PARTS=3)
    note = mapped_names(names)
    assert do(run, note, **RUN, TOLERATED_FAILURES=1).code == 0
    check(run, files)
    place_of(run, "in/4").unlink()
    files |= {"in/1": b"new bytes", "in/2x": b"a new file", "in/7": b"repaired"}
    for name in ("in/1", "in/2x", "in/7"):
        volume.write(name, files[name])
    del files["in/3"]
    (volume.root / "in/3").unlink()

    names.clear()
    assert do(run, note, **NEXT).code == 0
    assert names == ["in/1", "in/2x", "in/4", "in/7"]
    check(run, files)
    assert run.summary()["taken"] == 4

    names.clear()
    volume.write("in/0", b"")
    files["in/0"] = b""
    assert do(run, note, **THIRD).code == 0
    assert names == ["in/0"]
    check(run, files)

    names.clear()
    assert map_all(run, note, **{**THIRD, "RUN_ID": "d"}) == []
    assert merged(run, note, **{**THIRD, "RUN_ID": "d"}).code == 0
    assert names == []
    check(run, files)


def test_the_parts_of_what_is_missing_are_even(volume: Volume) -> None:
    """Results that are taken over do not count in the shares: of eight files with four to map, two
    parts have two each."""
    files, names = {f"in/{n}": b"-" if n > 3 else b"x" * 99 for n in range(8)}, list[str]()
    run = job(volume, files)
    assert do(run, mapped_names([]), **RUN).code == 2
    run.split(**NEXT, MAP_SETTINGS="a test")
    for part in "01":
        mapped(run, mapped_names(names), part, **NEXT, TOLERATED_FAILURES=9)
        names.append("|")

    tried = [name for name, before in zip(names, ["", *names], strict=False) if name != before]
    assert tried == ["in/4", "in/5", "|", "in/6", "in/7", "|"]


@pytest.mark.parametrize("failed", [1, 8], ids=["one", "all"])
def test_from_a_run_with_too_many_failures(volume: Volume, tmp_path: Path, failed: int) -> None:
    """Files that failed for an external reason are mapped again after this reason is fixed."""
    log, good = tmp_path / "log", tmp_path / "good"
    then = f"cat; case $INPUT_NAMES in in/[{8 - failed}-7]) test -e {good} || exit 2;; esac"
    run = job(volume, MANY, MAP_COMMAND=logged(log, then))
    assert do(run, "map", **RUN).code == 2
    assert started(log) == sorted(MANY)
    good.touch()

    assert do(run, "map", **NEXT).code == 0
    assert started(log) == sorted(MANY)[8 - failed :]
    assert outputs(run) == MANY


def test_a_changed_item(volume: Volume) -> None:
    """A file with another item is mapped again, also if Python considers both items equal."""
    items: list[dict[str, Any]] = [{"name": name, "v": 1} for name in MANY]
    run = job(volume, MANY, INPUT="@list.jsonl", MAP_SETTINGS="a test")
    names = list[str]()
    note = mapped_names(names)

    def put() -> None:
        volume.write("list.jsonl", "".join(json.dumps(item) + "\n" for item in items).encode())

    put()
    assert do(run, note, **RUN).code == 0
    names.clear()
    items[1]["v"], items[2]["v"], items[3]["v"], items[4]["w"] = 2, True, 1.0, 0
    put()
    assert do(run, note, **NEXT).code == 0
    assert names == ["in/1", "in/2", "in/3", "in/4"]
    check(run, MANY)
    assert json.dumps([line["item"] for line in final(run)]) == json.dumps(items)


@pytest.mark.parametrize(
    "other",
    [{"MAP_SETTINGS": "other"}, {"OUTPUT_SUFFIX": ".x"}, {"OUTPUT_DIR": "made"}],
    ids=str,
)
def test_other_settings(volume: Volume, other: dict[str, str]) -> None:
    """Results for other settings are not taken over. With the first settings again, the first run's
    results are, although a newer run has published."""
    names = list[str]()
    note = mapped_names(names)
    run = job(volume, MANY)
    assert do(run, note, **RUN).code == 0
    names.clear()
    assert do(run, note, **NEXT, **other).code == 0
    assert names == sorted(MANY)
    names.clear()
    assert do(run, note, **THIRD).code == 0
    assert names == []
    check(run, MANY)


def test_a_folder_of_results_that_is_damaged(volume: Volume) -> None:
    """A damaged folder of results is ignored."""
    names = list[str]()
    note = mapped_names(names)
    run = job(volume, MANY)
    assert do(run, note, **RUN).code == 0
    for path in (run.run_dir / "results").rglob("*outputs.jsonl*"):
        if "record" not in path.name:
            path.write_bytes(path.read_bytes().replace(b'"exit":0', b'"exit":1', 1))
    files = {**MANY, "in/8": b"new"}
    volume.write("in/8", b"new")
    names.clear()
    assert do(run, note, **NEXT).code == 0
    assert names == sorted(files)
    check(run, files)


@pytest.mark.parametrize("per_pod", [1, 2])
def test_an_output_that_is_gone_before_the_last_step(volume: Volume, per_pod: int) -> None:
    """Nothing was published: ONLY_MISSING maps only this part again."""
    names = list[str]()
    note = mapped_names(names)
    run = job(volume, MANY, PARTS_PER_POD=per_pod, NUM_PARTS=2)
    map_all(run, note, **RUN)
    place_of(run, "in/7").unlink()
    assert merged(run, note, **RUN).code == 75
    names.clear()
    assert do(run, note, **NEXT).code == 0
    assert "in/7" in names
    assert "in/0" not in names
    check(run, MANY)


# --- chains


def test_a_job_of_outputs(volume: Volume) -> None:
    """The outputs of a job are the inputs of the next job, at their versions. Failed files are left
    out. A replaced output is refused."""
    run = job(volume, {**MANY, "in/3": b"-"}, RUN_DIR="one", OUTPUT_SUFFIX=".1")
    items = [{"name": name, "of": [name]} for name in MANY]
    volume.write("items.jsonl", "".join(json.dumps(item) + "\n" for item in items).encode())
    run = run.having(INPUT="@items.jsonl")
    assert do(run, some_fail, TOLERATED_FAILURES=1).code == 0
    chain = run.having(RUN_DIR="two", INPUT="@one/outputs.jsonl", OUTPUT_SUFFIX="")
    outcome = do(chain, upper)

    assert outcome.code == 0, outcome.words
    made = {name: data for name, data in outputs(run).items() if data}
    texts = [(data or b"").upper() for data in made.values()]
    assert list(outputs(chain).values()) == texts
    assert chain.totals() == {"x": sum(map(len, texts))}
    assert [line["item"] for line in final(chain)] == [
        {"name": name, "of": [name]} for name in sorted(made)
    ]

    place = str(final(run)[0]["output"])
    volume.write(place, b"?")
    outcome = chain.run("split")
    assert (outcome.code, f"{place} is not the output in line 1 of" in outcome.words) == (
        75,
        True,
    )


# --- the laws


def test_a_late_map_of_an_older_run(volume: Volume) -> None:
    """Its plan has other inputs: no step reads its output."""
    run = job(volume, FILES)
    older = run.having(PLAN_ID="", **RUN)
    older.split()
    older = older.having(PLAN_ID=volume.plan()["id"])
    first = mapped(older, upper, 1)
    assert first.code == 0
    (volume.root / "in/a").unlink()
    newer = {**FILES, "in/b/c": b"other x"}
    del newer["in/a"]
    volume.write("in/b/c", newer["in/b/c"])
    assert do(run, upper, **{**NEXT, "ONLY_MISSING": "false"}).code == 0
    before = {name: run.final(name) for name in ("outputs.jsonl", "result.json")}

    assert mapped(older, upper, 0).code == 75
    assert mapped(older, upper, 1).code == 0
    assert merged(older, upper).code == 75
    assert {name: run.final(name) for name in before} == before
    assert outputs(run) == {name: data.upper() for name, data in newer.items()}


@pytest.mark.parametrize("same", [True, False], ids=["same bytes", "other bytes"])
@pytest.mark.parametrize("first", [True, False], ids=["record of the first", "of the second"])
def test_a_part_that_is_mapped_twice(volume: Volume, same: bool, first: bool) -> None:
    """Two attempts of a part write their outputs and records in any order: the result is right, or
    refused, and never names bytes that do not exist."""
    run = job(volume, {"in/a": b"a", "in/b": b"b"}, NUM_PARTS=1)
    run.split()

    def attempt(word: bytes, then: Callable[[], object] = lambda: None) -> Outcome:
        def write(part: Part) -> dict[str, int]:
            part.write(b"".join(part.pieces()) + word)
            if part.name == "in/b":
                then()
            return {"n": len(word)}

        return mapped(run, write, 0)

    other = b"1" if same else b"22"
    path = run.record_path("0", MAP_SETTINGS="a test")
    # The second attempt runs while the first maps its last file, and writes its record first.
    assert attempt(b"1", lambda: attempt(other)).code == 0
    if first:  # in/a is now the second attempt's, and in/b the first's
        record = path.read_bytes()
        assert attempt(other).code == 0
        path.write_bytes(record)
    outcome = merged(run, upper)

    if outcome.code == 0:
        final(run)  # proves each output
        words = {(data or b"")[1:] for data in outputs(run).values()}
        assert len(words) == 1
        assert run.totals() == {"n": 2 * len(words.pop())}
    else:
        assert (outcome.code, same) == (75, False)
        assert run.final("outputs.jsonl") is None
    # In each case, mapping the part again fixes it.
    assert attempt(b"3").code == 0
    assert merged(run, upper).code == 0
    assert outputs(run) == {"in/a": b"a3", "in/b": b"b3"}


def test_the_last_step_is_killed(volume: Volume) -> None:
    """The last step is killed at every operation, also between outputs.jsonl and the result. A
    retry makes the same result, and no other run uses the incomplete one."""
    files = {**FILES, "in/x": b"-"}
    settings = {**RUN, "TOLERATED_FAILURES": 1, "MAP_SETTINGS": "a test"}
    run = job(volume, files, **settings)
    map_all(run, some_fail)
    with faulty.operations(lambda *_: None) as seen:
        assert merged(run).code == 0
    first = final(run)
    kinds = {"replace", "PUT"}
    for nth in [at for at, name in enumerate(seen) if name in kinds]:
        for place, made in run.results().items():
            for name in made:
                (run.run_dir / "results" / place / name).unlink()
        for name in ("outputs.jsonl", "result.json"):
            (run.run_dir / name).unlink(missing_ok=True)
        with faulty.Stopped(lambda: run.run("merge").code, -1, nth) as killed:
            assert killed.code == -signal.SIGKILL
        assert run.final("outputs.jsonl") is None or final(run) == first
        assert merged(run).code == 0
        assert final(run) == first
        assert run.summary()["failed"] == 1


def test_a_late_last_step(volume: Volume) -> None:
    """The late last step of an older run succeeds, and the newer run's outputs.jsonl stays."""
    run = job(volume, FILES, MAP_SETTINGS="a test")
    older, newer = run.having(**RUN), run.having(**{**NEXT, "ONLY_MISSING": "false"})
    map_all(older, upper)
    older = older.having(PLAN_ID=run.plan()["id"])
    assert do(newer, upper, MAP_SETTINGS="another").code == 0
    before = {name: run.final(name) for name in ("outputs.jsonl", "result.json")}
    outcome = merged(older)

    assert outcome.code == 0, outcome.words
    assert "event=late" in outcome.words
    assert {name: run.final(name) for name in before} == before
    assert len(run.results()) == 2


def test_an_older_last_step_again(volume: Volume) -> None:
    """A newer run takes over from an older run with a last step that was killed before its result.
    Meanwhile the older last step is retried: the newer run still succeeds."""
    run = job(volume, MANY, MAP_SETTINGS="a test")
    older, newer = run.having(**RUN), run.having(**NEXT)
    map_all(older, some_fail)
    older = older.having(PLAN_ID=run.plan()["id"])

    prove = Fold.prove_files

    def fails(self: Fold) -> None:
        prove(self)
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fold, "make", fails)
        assert merged(older).code == 75
    volume.write("in/8", b"new")
    assert map_all(newer, some_fail)
    assert merged(older).code == 0
    outcome = merged(newer)

    assert outcome.code == 0, outcome.words
    assert outputs(run) == {**MANY, "in/8": b"new"}


def test_part_outputs_have_names_of_their_own(volume: Volume) -> None:
    """The lines of a part and the output of a file with a similar name do not collide."""
    files = {"0": b"zero", "1-x": b"one"}
    run = job(volume, {f"in/{name}": data for name, data in files.items()}, OUTPUT_DIR="map-output")
    assert do(run, upper).code == 0
    job_id = run.job(MAP_SETTINGS="a test")
    prefix = PART_OUTPUT.format(job_id, "0", "")
    assert run.record("0", MAP_SETTINGS="a test")["output"][0].startswith(prefix)
    assert outputs(run) == {f"in/{name}": data.upper() for name, data in files.items()}


# --- what a user of the mode has found


def test_an_output_is_none_of_the_inputs(volume: Volume) -> None:
    """OUTPUT must not be a listed file or the list: the run would replace it."""
    run = job(volume, {"in/a": b"1\n", "l.txt": b"in/a\n"}, INPUT="@l.txt")
    for output in ("in/a", "l.txt"):
        outcome = run.run("split", OUTPUT=output)
        assert outcome.code == 2, outcome.words
        assert f" with {output}: change OUTPUT or RUN_DIR" in outcome.words


def test_damage_that_a_map_swallows(volume: Volume) -> None:
    """Damage that the map ignores is still the file's failure."""

    def careless(part: Part) -> dict[str, int]:
        with suppress(Exception):
            list(part.lines())
        return {"x": 1}

    run = job(volume, {"in/a": gzip.compress(bytes(range(256)) * 999)[:-9], "in/b": b"b"})
    assert do(run, careless, TOLERATED_FAILURES=1).code == 0
    assert ends(run) == {"in/a": 2, "in/b": 0}
    assert run.totals() == {"x": 1}


@pytest.mark.parametrize("command", ["cat", "sh -c 'cat \"$@\"' x {inputs}"])
def test_nothing_to_reduce(volume: Volume, command: str) -> None:
    """If all files have failed, the program of the last step has an empty input."""
    run = job(volume, FILES, MAP_COMMAND="sh -c 'cat; exit 2'", TOLERATED_FAILURES="100%")
    assert do(run, "map", REDUCE_COMMAND=command).code == 0
    assert run.final("result.out") == b""
    assert set(ends(run).values()) == {2}


def test_a_name_that_is_too_long(volume: Volume) -> None:
    """An output name that the storage does not accept is the failure of this file."""
    long = "x" * 250 if not volume.in_bucket else "/".join(["x" * 90] * 10)
    run = job(volume, {f"in/{long}": b"1", "in/y": b"2"}, TOLERATED_FAILURES=1)
    assert do(run, upper, OUTPUT_SUFFIX="." + "y" * 63).code == 0
    assert ends(run) == {f"in/{long}": 2, "in/y": 0}
    assert "use a shorter OUTPUT_SUFFIX" in final(run)[0]["said"]


def test_what_failed_without_a_last_step(volume: Volume, tmp_path: Path) -> None:
    """With ONLY_MISSING a part with a failed file is mapped again."""
    flag = tmp_path / "repaired"
    command = f"sh -c 'cat; grep -q WARN $1 && [ ! -e {flag} ] && exit 2; exit 0' x {{input}}"
    run = job(volume, FILES, MAP_COMMAND=command)
    map_all(run, "map")
    flag.touch()
    assert map_all(run, "map", ONLY_MISSING="true") != []
    assert merged(run, "map").code == 0
    assert map_all(run, "map", ONLY_MISSING="true") == []


@pytest.mark.folder
def test_links_that_do_not_match(volume: Volume) -> None:
    """Links that do not match are ignored. A link to a folder that may have matches is refused."""
    run = job(volume, {"in/a/b.log": b"INFO", "other/c.log": b"INFO"}, INPUT="in/**/*.log")
    (run.root / "in/a/link").symlink_to("b.log")
    assert do(run, "count").code == 0
    assert [line["name"] for line in final(run)] == ["in/a/b.log"]
    (run.root / "in/a/folder").symlink_to("../../other")
    assert run.run("split").code == 2


def test_a_list_that_the_run_replaces(volume: Volume) -> None:
    """The outputs.jsonl of the same RUN_DIR is refused as a list: the run replaces it. The one of a
    run in results/ is accepted."""
    run = job(volume, FILES)
    assert do(run, upper).code == 0
    outcome = run.run("split", INPUT="@outputs.jsonl")
    assert (outcome.code, "use @results/RUN/outputs.jsonl" in outcome.words) == (2, True)
    (folder,) = run.results()
    chain = run.having(INPUT=f"@results/{folder}/outputs.jsonl")
    assert do(chain, upper).code == 0
    assert list(outputs(chain).values()) == [data.upper() for data in FILES.values()]


def test_a_map_that_changes_its_item(volume: Volume) -> None:
    """The item of the line is the item in the list."""

    def spoils(part: Part) -> None:
        list(part.pieces())
        assert isinstance(part.item, dict)
        part.item.clear()

    run = job(volume, {"in/a": b"a", "l.jsonl": b'{"name":"in/a","x":[1]}'}, INPUT="@l.jsonl")
    assert do(run, spoils).code == 0
    assert final(run)[0]["item"] == {"name": "in/a", "x": [1]}


def test_large_items(volume: Volume) -> None:
    """A program gets an item as large as in the list, also one that is not UTF-8."""
    texts = ["é" * 32_000, "界" * 21_000, "\\ud83d"]
    lines = [f'{{"name":"in/{at}","x":"{text}"}}' for at, text in enumerate(texts)]
    files = {f"in/{at}": b"" for at in range(3)}
    run = job(volume, {**files, "l.jsonl": "\n".join(lines).encode()}, INPUT="@l.jsonl")
    program = "sh -c 'printf %s \"$ITEM\" | wc -c'"
    assert do(run, "map", MAP_COMMAND=program).code == 0
    assert [int(data or b"") for data in outputs(run).values()] == [
        len(line.encode()) for line in lines
    ]


def test_an_item_that_is_too_large(volume: Volume) -> None:
    """For a program, only this file fails. The lines of the others can be the list of a next
    job."""
    sizes = {"in/a": 100_000, "in/b": 200_000}
    lines = [f'{{"name":"{name}","x":"{"x" * size}"}}' for name, size in sizes.items()]
    files = {**dict.fromkeys(sizes, b"1\n"), "l.jsonl": "\n".join(lines).encode()}
    run = job(volume, files, INPUT="@l.jsonl", RUN_DIR="one")
    outcome = do(run, "map", MAP_COMMAND="cat", TOLERATED_FAILURES=1)
    assert outcome.code == 0, outcome.words
    assert ends(run) == {"in/a": 0, "in/b": 2}
    assert "got 200022: shorten the item" in final(run)[1]["said"]

    after = volume.having(INPUT="@one/outputs.jsonl", SPLIT_MODE="files", RUN_DIR="two")
    assert do(after, "map", MAP_COMMAND="cat").code == 0
    assert [len(json.dumps(line["item"])) > sizes["in/a"] for line in final(after)] == [True]


@pytest.mark.folder
def test_an_output_in_the_way_of_another(volume: Volume) -> None:
    """The second of the two files fails, in any order."""
    run = job(volume, {"in/a": b"1", "in/a.d/b": b"2"}, NUM_PARTS=1, OUTPUT_SUFFIX=".d")
    assert do(run, upper, TOLERATED_FAILURES=1).code == 0
    assert ends(run) == {"in/a": 0, "in/a.d/b": 2}


@pytest.mark.folder
def test_what_a_killed_pod_was_writing(volume: Volume) -> None:
    """An unfinished file is not an item of the next job."""
    run = job(volume, {**FILES, "in/.x.png.0123456789abcdef.tmp": b"half"})
    assert do(run, "count").code == 0
    assert list(ends(run)) == list(FILES)


def test_a_limit_of_several_programs(volume: Volume) -> None:
    """SCRATCH_SIZE limits each program, and not the worker. With several programs in parallel, a
    larger output through stdout succeeds, and a larger file does not."""
    run = job(volume, {f"in/{at}": b"x" * 2000 for at in range(12)}, NUM_PARTS=1)
    more: dict[str, object] = {"SCRATCH_SIZE": 1000, "FILES_AT_ONCE": 4}
    assert do(run, "map", MAP_COMMAND="cat", **more).code == 0
    assert {len(data or b"") for data in outputs(run).values()} == {2000}
    command = "sh -c 'sleep 0.3; cat >$0' {output}"  # the limit is set right after the start
    outcome = do(run, "map", MAP_COMMAND=command, TOLERATED_FAILURES="100%", **more)
    assert outcome.code == 0
    assert set(ends(run).values()) == {2}
