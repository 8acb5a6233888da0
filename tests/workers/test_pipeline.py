"""The pipelines against a model of three lines of Python over the whole input."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from itertools import count as numbers
from pathlib import Path

import pytest
import strategies
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pipeline import INPUT, BucketPath, Volume, model, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

MODES = ("copy", "range")


def in_order(files: Mapping[str, bytes]) -> list[bytes]:
    """Return the files of a folder in byte order of their names."""
    return [files[name] for name in sorted(files, key=os.fsencode)]


def has_surrogates(name: str) -> bool:
    """Whether a name has bytes that are not UTF-8."""
    return name != name.encode(errors="ignore").decode()


def longest_line(files: list[bytes]) -> int:
    """Return the length of the longest line in bytes, with its line end."""
    return max((len(line) + 1 for data in files for line in data.split(b"\n")), default=0)


@given(
    files=st.one_of(
        strategies.contents().map(lambda data: {"": data}),
        strategies.folders(),
    ),
    words=strategies.keywords(),
    parts=strategies.parts(),
    mode=st.sampled_from(MODES),
    piece=strategies.pieces(),
    seed=st.integers(0, 999),
)
@example(files={"": b""}, words=["INFO"], parts=3, mode="copy", piece=2, seed=0)
@example(files={"": b"\xff" * 99}, words=["\xff"], parts=2, mode="copy", piece=2, seed=0)
@example(files={"a": b"IN", "b": b"FO"}, words=["INFO"], parts=1, mode="copy", piece=4, seed=0)
@example(files={"a": b"IN", "b": b"FO"}, words=["INFO"], parts=1, mode="range", piece=4, seed=0)
@example(
    files={"a": b"a", "b": b"", "c": b"a"}, words=["aa"], parts=2, mode="copy", piece=2, seed=0
)
def test_log_count_is_the_model(
    *, files: dict[str, bytes], words: list[str], parts: int, mode: str, piece: int, seed: int
) -> None:
    """Any bytes in any number of files, any NUM_PARTS, any keywords, both modes: split, every part
    counted twice in any order, and merge equal the model. The key of a single file is ""."""
    assume(not (BucketPath.place and any(map(has_surrogates, files))))  # names in OSS are UTF-8
    contents = in_order(files)
    total = sum(map(len, contents))
    with Volume.temporary(NUM_PARTS=parts, SPLIT_MODE=mode, KEYWORDS=",".join(words)) as made:
        volume = made.having(RUN_DIR="run", INPUT=INPUT if "" in files else "in/")
        for name, data in files.items():
            volume.write(f"in/{name}" if name else INPUT, data)
        before = volume.tree()
        with pieces_of(piece):
            part_ids = volume.log_count(seed)

        assert volume.totals() == model(contents, words)
        assert list(volume.totals() or ()) == words
        assert part_ids == [str(number) for number in range(parts)]
        assert before.items() <= volume.tree().items()  # the input is only read
        assert volume.temporary_files() == [str(volume.root / "in/.hidden")] * (".hidden" in files)
        plan = volume.plan()
        sizes = volume.sizes()
        assert (plan["bytes"], sum(sizes)) == (total, total)
        assert max(sizes) <= total / parts + longest_line(contents)
        at, joined = 0, b"".join(contents)
        line_ends = {0, total}
        for data in contents:
            line_ends |= {at} | {
                at + i for i in range(1, len(data) + 1) if data[i - 1 : i] == b"\n"
            }
            at += len(data)
        at = 0
        for size in sizes:
            at += size
            assert at in line_ends
        if mode == "copy":
            assert b"".join(volume.copies(parts)) == joined
        else:
            names = [
                path for path in (volume.run_dir / "split-output").rglob("*") if path.is_file()
            ]
            assert {path.name for path in names} == {"plan.json"}


@given(data=strategies.contents(), parts=strategies.parts(), mode=st.sampled_from(MODES))
def test_the_same_input_and_settings_give_the_same_plan(data: bytes, parts: int, mode: str) -> None:
    """A second split commits the same plan, also in another RUN_DIR and with other pieces. Another
    mode or NUM_PARTS makes another id."""
    with Volume.temporary(NUM_PARTS=parts, SPLIT_MODE=mode) as volume:
        volume.write(INPUT, data)
        plans = []
        for piece, run_dir in ((1 << 20, ""), (3, ""), (1 << 20, "other")):
            with pieces_of(piece):
                volume.split(RUN_DIR=run_dir)
            plans.append((volume.root / run_dir / "split-output/plan.json").read_bytes())

        assert plans[0] == plans[1] == plans[2]
        volume.split(NUM_PARTS=parts + 1)
        volume.having(RUN_DIR="third").split(SPLIT_MODE="copy" if mode == "range" else "range")
        ids = {volume.having(RUN_DIR=name).plan()["id"] for name in ("", "other", "third")}
        assert len(ids) == 3


@given(
    files=st.lists(strategies.contents(10), min_size=1, max_size=30),
    fan_in=st.integers(2, 7),
    levels=st.integers(0, 4),
    piece=strategies.pieces(),
    seed=st.randoms(use_true_random=False),
)
def test_a_tree_of_files_is_their_concatenation(
    files: list[bytes], fan_in: int, levels: int, piece: int, seed: random.Random
) -> None:
    """Any number of files, any FAN_IN and any number of levels: process.py, for each file twice and
    in any order, and merge.py concatenate the files."""
    with Volume.temporary(RUN_DIR="run", FAN_IN=fan_in) as volume, pieces_of(piece):
        for number, data in enumerate(files):
            volume.write(f"run/aggregation-demo/l1/{number}.txt", data)
        width = len(files)
        for level in range(1, levels + 1):
            groups = [*range(-(-width // fan_in))] * 2
            seed.shuffle(groups)
            for group in groups:
                assert volume.run("process", group, level, FILES=width).code == 0
            width = len(groups) // 2
        assert volume.run("merge", width, LEVEL=levels + 1).code == 0

        assert volume.write("run/aggregation-demo/x", b"").exists()
        assert (volume.run_dir / "aggregation-demo/result.txt").read_bytes() == b"".join(files)
        assert volume.temporary_files() == []


def test_process_without_files_wants_whole_groups(volume: Volume) -> None:
    """Eight files with the default FAN_IN and LEVEL, without FILES, as in the manifest."""
    data = [f"file {number}\r\n".encode() * number for number in range(8)]
    for number, one in enumerate(data):
        volume.write(f"aggregation-demo/l1/{number}.txt", one)
    for level, width in ((1, 4), (2, 2)):
        for number in range(width):
            assert volume.run("process", number, level).code == 0
    outcome = volume.run("merge", 2)

    assert outcome.code == 0, outcome.words
    assert (volume.root / "aggregation-demo/result.txt").read_bytes() == b"".join(data)
    assert (volume.root / "aggregation-demo/l2/3.txt").read_bytes() == data[6] + data[7]


@pytest.mark.parametrize("mode", MODES)
def test_as_processes(volume: Volume, mode: str, tmp_path: Path) -> None:
    """The defaults, with real processes: their output, and its stream."""
    volume.write(INPUT, data := b"INFO a\nWARN b\nERROR c INFO\n" * 100)
    split = volume.call("split", SPLIT_MODE=mode, PLAN_ID_FILE=tmp_path / "id")
    assert split.part_ids == ["0", "1", "2", "3", "4"]
    plan_id = (tmp_path / "id").read_text()
    for part_id in reversed(split.part_ids):
        outcome = volume.call("count", PART_ID=part_id, PLAN_ID=plan_id)
        assert (outcome.code, outcome.output) == (0, ""), outcome.words
        assert outcome.words.startswith("worker=count event=done ")
    outcome = volume.call("merge", PLAN_ID=plan_id)

    assert (outcome.code, outcome.output) == (0, ""), outcome.words
    assert volume.totals() == model([data])
    assert volume.plan()["id"] == plan_id


def test_names_of_inputs_are_in_byte_order(volume: Volume) -> None:
    """A folder below INPUT is sorted by the bytes of the whole names, not by the order of a
    walk."""
    names = ["in/a", "in/a.b", "in/a/x", "in/B", "in/é"]
    for name, number in zip(names[1:], numbers(), strict=False):
        volume.write(name, b"%d\n" % number)
    volume.split(INPUT="in/", NUM_PARTS=1, SPLIT_MODE="range")
    inputs = volume.plan()["inputs"]

    assert [name for name, _, _ in inputs] == ["in/B", "in/a.b", "in/a/x", "in/é"]
