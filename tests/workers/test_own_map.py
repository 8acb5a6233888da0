"""Custom maps: the examples of programs.md, and what map_part does for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import strategies
from fanfold import Part, WorkerError
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, WORKERS, Volume, bare_environ, finish, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

SETTINGS = "status classes, 1"
LOG = "".join(
    f'10.0.0.{n % 250} - - [01/Jan/2026:00:00:00 +0000] "GET /é/{n} HTTP/1.1" {status} {n}\n'
    for n, status in enumerate([200, 201, 204, 301, 304, 400, 404, 404, 500, 503] * 30)
).encode()
THREE = {"NUM_PARTS": 3, "MAP_SETTINGS": "1"}
CLASSES = {"2xx": 90, "3xx": 60, "4xx": 90, "5xx": 60}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write the examples of workers/programs.md to files. Return the code that runs each."""
    sources = re.findall(
        r"^```python\n(.*?map_part.*?)^```", (WORKERS / "programs.md").read_text(), re.M | re.S
    )
    folder = tmp_path_factory.mktemp("own")
    paths = [folder / f"example{number}.py" for number in range(len(sources))]
    for path, source in zip(paths, sources, strict=True):
        path.write_text(source)
    return [f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')" for path in paths]


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_the_example(volume: Volume, examples: list[str], mode: str) -> None:
    """split, the first example as a process for every part, merge: the result equals the model.
    Under other MAP_SETTINGS every part is still to be mapped."""
    volume.write(INPUT, LOG)
    volume = volume.having(NUM_PARTS=3, SPLIT_MODE=mode, MAP_SETTINGS=SETTINGS)
    for part_id in volume.split():
        with volume.start("count", prologue=examples[0], PART_ID=part_id) as process:
            outcome = finish(process)
        assert (outcome.code, outcome.output) == (0, ""), outcome.words
    volume.merge()

    pattern = re.compile(rb'" (\d)\d\d ')
    model = Counter(f"{match.decode()}xx" for match in pattern.findall(LOG))
    assert volume.totals() == dict(model) == CLASSES
    assert list(volume.totals() or ()) == sorted(CLASSES)

    assert volume.split(ONLY_MISSING="true") == []
    assert volume.split(ONLY_MISSING="true", MAP_SETTINGS=SETTINGS + "!") == ["0", "1", "2"]
    outcome = volume.run("merge", MAP_SETTINGS=SETTINGS + "!")
    assert outcome.code == 75
    assert "3 missing (0, 1, 2)" in outcome.words


@pytest.mark.folder
def test_the_commands_of_the_example(tmp_path: Path) -> None:
    """The steps of the first example outside Argo, as programs.md writes them."""
    text = (WORKERS / "programs.md").read_text().partition("## A custom map")[2]
    source, commands = (
        text.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "sh")
    )
    (tmp_path / "status_classes.py").write_text(source)
    (tmp_path / "workers").symlink_to(WORKERS)
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes/access.log").write_bytes(LOG)
    commands = commands.replace("python3", sys.executable)
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, env=bare_environ(), check=True)

    assert json.loads((tmp_path / "classes/result.json").read_text()) == CLASSES


def test_the_example_that_writes(volume: Volume, examples: list[str]) -> None:
    """The second example: OUTPUT has the lines with errors in the order of the log, and result.json
    has no numbers."""
    log = b"".join(b"%d [%b] a\n" % (n, [b"INFO", b"ERROR", b"WARN"][n % 3]) for n in range(60))
    volume.write(INPUT, log)
    volume = volume.having(NUM_PARTS=3, MAP_SETTINGS="errors")
    for part_id in volume.split():
        with volume.start("count", prologue=examples[1], PART_ID=part_id) as process:
            outcome = finish(process)
        assert (outcome.code, outcome.output) == (0, ""), outcome.words
    volume.merge()

    lines = [line for line in log.splitlines(keepends=True) if b"[ERROR]" in line]
    assert volume.final("result.out") == b"".join(lines)
    assert volume.totals() == {}


@pytest.mark.folder
@given(
    files=strategies.folders(),
    parts=strategies.parts(),
    mode=st.sampled_from(["copy", "range"]),
    piece=strategies.pieces(),
)
def test_lines_of_any_input(files: dict[str, bytes], parts: int, mode: str, piece: int) -> None:
    """A map that counts lines by their first byte sees every line of every file once and
    completely, for any cuts, also a line without a line end at the end of a file."""

    def first_bytes(part: Part) -> Mapping[str, int]:
        return Counter(line[:1].hex() or "empty" for line in part.lines())

    expected: Counter[str] = Counter()
    for data in files.values():
        found = data.split(b"\n")
        expected.update(
            line[:1].hex() or "empty" for line in found[: -1 if not found[-1] else None]
        )
    settings = {"INPUT": "in/", "NUM_PARTS": parts, "SPLIT_MODE": mode, "MAP_SETTINGS": "1"}
    with Volume.temporary(**settings) as volume, pieces_of(piece):
        for name, data in files.items():
            volume.write(f"in/{name}", data)
        for part_id in volume.split():
            assert volume.run_map(first_bytes, part_id).code == 0
        volume.merge()
        assert volume.totals() == dict(sorted(expected.items()))


def test_nothing(volume: Volume) -> None:
    """A map that returns None has no numbers for its part, and the part is done."""
    volume.write(INPUT, b"1\n2\n3\n")
    volume = volume.having(NUM_PARTS=3, MAP_SETTINGS="odd")

    def odd(part: Part) -> Mapping[str, int] | None:
        assert part.id in ("0", "1", "2")
        [line] = part.lines()
        return {"odd": 1} if int(line) % 2 else None

    for part_id in volume.split():
        assert volume.run_map(odd, part_id).code == 0
    volume.merge()
    assert volume.totals() == {"odd": 2}


def test_reading_twice(volume: Volume) -> None:
    """A map may read its part again. The last time it must read all of it."""
    volume.write(INPUT, LOG)
    volume = volume.having(NUM_PARTS=1, MAP_SETTINGS="twice")
    volume.split()

    def twice(part: Part) -> Mapping[str, int]:
        return {"lines": len(list(part.lines())), "bytes": sum(map(len, part.pieces()))}

    assert volume.run_map(twice, 0).code == 0
    volume.merge()
    assert volume.totals() == {"bytes": len(LOG), "lines": 300}


def test_numbers_with_a_fraction(volume: Volume) -> None:
    """Sums may have a fraction, and a part need not have every name."""
    volume.write(INPUT, b"1.50\n2.00\n0.25\n")
    volume = volume.having(NUM_PARTS=3, MAP_SETTINGS="sum")

    def add(part: Part) -> Mapping[str, float]:
        number = float(b"".join(part.pieces()))
        return {"sum": number} if number == 2 else {"sum": number, "parts": 1}

    for part_id in volume.split():
        assert volume.run_map(add, part_id).code == 0
    volume.merge()
    assert volume.totals() == {"parts": 2, "sum": 3.75}


@pytest.mark.parametrize("text", [None, ""])
def test_without_map_settings(volume: Volume, text: str | None) -> None:
    """A custom map must set MAP_SETTINGS."""
    volume.write(INPUT, LOG)
    volume.split()
    before = volume.tree()
    made = volume if text is None else volume.having(MAP_SETTINGS=text)
    outcome = made.run_map(lambda part: Counter(part.pieces()), 0)

    assert outcome.code == 2
    assert "MAP_SETTINGS must be set for a custom map, got no value" in outcome.words
    assert volume.tree() == before


BAD: dict[str, Any] = {
    "a number": 0,
    "a list": [1, 2],
    "a text for a number": {"a": "1"},
    "no number": {"a": None},
    "a truth": {"a": True},
    "not a number": {"a": float("nan")},
    "no end": {"a": float("inf")},
    "more digits than Python reads": {"a": 10**4000},
    "as many below zero": {"a": -(10**4000)},
    "a complex number": {"a": 1j},
    "a name that is a number": {1: 1},
    "a name of bytes": {b"a": 1},
    "a name that is no UTF-8": {"a": 1, "\udcff": 1},
    "half a pair": {"\ud83d": 1},
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_an_answer_that_no_merge_can_add(volume: Volume, answer: Any) -> None:
    """A map that returns other things than numbers by name fails with exit code 2: no retry helps.
    It publishes nothing that merge.py would refuse or could not write."""
    volume.write(INPUT, LOG)
    volume = volume.having(MAP_SETTINGS="1")
    volume.split()
    before = volume.tree()

    def bad(part: Part) -> Any:
        assert b"".join(part.pieces())
        return answer

    outcome = volume.run_map(bad, 0)
    assert outcome.code == 2
    assert "the map must return finite numbers by name, got " in outcome.words
    assert volume.tree() == before


# Numbers of the parts, and their exact sum.
SUMS: dict[str, tuple[list[int | float], int | float]] = {
    "beyond the integers of a float": ([2**53 + 1, 1, -2], 2**53),
    "beyond a float": ([10**400, -1, 1 - 10**400], 0),
    "as many digits as there may be": ([10**3999, 10**3999, 7], 2 * 10**3999 + 7),
    "floats": ([0.5, 0.25, -1.0], -0.25),
    "a float that is whole": ([2.0, 1.0, 0.0], 3.0),
}


@pytest.mark.parametrize(("parts", "total"), SUMS.values(), ids=SUMS)
def test_sums(volume: Volume, parts: list[int | float], total: int | float) -> None:
    """Integers of any size are added up exactly, and floats stay floats."""
    volume.write(INPUT, b"0\n1\n2\n")
    outcome = volume.fan_out(lambda part: {"é": parts[int(*part.lines())]}, **THREE)
    assert outcome.code == 0, outcome.words
    assert volume.totals() == {"é": total}
    assert type((volume.totals() or {})["é"]) is type(total)


# Numbers of the parts without an exact sum, and the part in the error.
MIXED: dict[str, tuple[list[int | float], str]] = {
    "a float and an integer": ([0.5, 1, 1], "1"),
    "an integer and a float": ([1, 1, 0.5], "2"),
    "one that the float would lose": ([2**53 + 1, 0.5, 1], "1"),
    "one that is no float": ([10**400, 0.5, 1], "1"),
    "a zero": ([0.5, 0, 0.5], "1"),
    "the same number": ([1, 1.0, 1], "1"),
}


@pytest.mark.parametrize(("parts", "named"), MIXED.values(), ids=MIXED)
def test_two_kinds_of_numbers(volume: Volume, parts: list[int | float], named: str) -> None:
    """A name with integers in one part and floats in another is refused, in any order."""
    volume.write(INPUT, b"0\n1\n2\n")
    volume.write("result.json", b"an older one")
    volume.write("result.out", b"an older one")
    outcome = volume.fan_out(lambda part: {"n": parts[int(*part.lines())]}, **THREE)
    assert outcome.code == 2
    assert re.search(
        f"'n' must be all integers or all floats, got .* in part {named} ", outcome.words
    )
    assert (volume.final("result.json"), volume.final("result.out")) == (b"an older one",) * 2
    assert volume.results() == {}


@pytest.mark.parametrize("number", [1e308, -1e308, 5 * 10**3999], ids=["inf", "-inf", "digits"])
def test_a_total_that_is_too_large(volume: Volume, number: int | float) -> None:
    """Each part's number is valid, but the total is not a number in JSON or Python."""
    volume.write(INPUT, b"0\n1\n2\n")
    outcome = volume.fan_out(lambda part: {"n": number * len(list(part.lines()))}, **THREE)
    assert outcome.code == 2
    assert "the total of 'n' is too large: return smaller numbers" in outcome.words
    assert volume.results() == {}


def test_names_of_all_kinds(volume: Volume) -> None:
    """Any text is a name, and each name has its own kind of number. Names are sorted."""
    numbers: dict[str, int | float] = {"": 1, "a\nb": 0.5, "\0": 2, "磁盘": 3, '"': 4.0}
    volume.write(INPUT, b"0\n1\n2\n")
    assert volume.fan_out(lambda part: numbers if list(part.lines()) else {}, **THREE).code == 0
    assert volume.totals() == {name: 3 * number for name, number in numbers.items()}
    assert list(volume.totals() or ()) == sorted(numbers)


# --- a map must take all of its part


def first_pieces(part: Part) -> None:
    """Read all pieces except the last."""
    count = len(list(part.pieces()))
    pieces = part.pieces()
    for _ in range(count - 1):
        next(pieces)


def first_lines(part: Part) -> None:
    """Read all lines except the last."""
    count = len(list(part.lines()))
    lines = part.lines()
    for _ in range(count - 1):
        next(lines)


def again(part: Part) -> None:
    """Read everything, and then only a part again."""
    assert b"".join(part.pieces())
    next(part.pieces())


def two_at_once(part: Part) -> None:
    """Read half of it twice."""
    for pieces in part.pieces(), part.pieces():
        taken = 0
        while taken < part.size // 2:
            taken += len(next(pieces))


PARTLY: dict[str, Callable[[Part], object]] = {
    "nothing": lambda part: part.id,
    "the first piece": lambda part: next(part.pieces()),
    "all but the last piece": first_pieces,
    "the first line": lambda part: next(part.lines()),
    "all but the last line": first_lines,
    "pieces that nobody asks for": lambda part: part.pieces(),
    "some again": again,
    "two halves": two_at_once,
}


@pytest.mark.parametrize(
    ("name", "piece"),
    [(name, 64) for name in PARTLY]
    + [(name, 1 << 20) for name in PARTLY if name not in ("the first piece", "some again")],
)
def test_a_map_that_does_not_take_all(volume: Volume, name: str, piece: int) -> None:
    """A map that reads only some of its part, of one or many pieces, fails with exit code 2: half a
    part is not a result."""
    volume.write(INPUT, LOG)
    volume = volume.having(NUM_PARTS=2, MAP_SETTINGS="1")
    volume.split()
    before = volume.tree()

    def partly(part: Part) -> dict[str, int]:
        part.write(b"x")
        PARTLY[name](part)
        return {"a": 1}

    with pieces_of(piece):
        outcome = volume.run_map(partly, 0)
    assert outcome.code == 2
    assert "the map must read all of part 0, got " in outcome.words
    assert {name for name, data in volume.tree().items() if data is not None} <= before.keys()


def test_a_map_that_leaves_a_line_without_an_end(volume: Volume) -> None:
    """The last line is not read yet when all bytes have been read."""
    volume.write(INPUT, b"1\n2")
    volume = volume.having(NUM_PARTS=1, MAP_SETTINGS="1")
    volume.split()
    outcome = volume.run_map(lambda part: {"a": int(next(part.lines()))}, 0)
    assert outcome.code == 2
    assert "must read all of part 0, got 3 of 3 bytes and not their end: read" in outcome.words


TAKEN: list[Callable[[Part], object]] = [
    lambda part: None,
    lambda part: part.pieces(),
    lambda part: list(part.lines()),
]


@pytest.mark.parametrize("take", TAKEN, ids=["no call", "a call", "a loop"])
def test_a_part_without_a_byte(volume: Volume, take: Callable[[Part], object]) -> None:
    """An empty part counts as read, whether the map reads it or not."""
    volume.write(INPUT, b"")

    def function(part: Part) -> None:
        take(part)

    assert volume.fan_out(function, **THREE).code == 0


@pytest.mark.parametrize("hidden", [False, True], ids=["raised", "hidden"])
@pytest.mark.parametrize("at", [0, 1, 2, None], ids=["0", "1", "2", "the end"])
def test_a_map_with_an_overwritten_input(volume: Volume, at: int | None, hidden: bool) -> None:
    """In mode range, an input is overwritten in place before a piece or after the last piece. The
    map fails, also if it stops right after the last byte or ignores the error. In a bucket the map
    may have bytes of one version, and the proof fails."""
    volume.write(INPUT, LOG)
    volume = volume.having(NUM_PARTS=1, SPLIT_MODE="range", MAP_SETTINGS="1")
    volume.split()

    def take(part: Part) -> None:
        pieces, taken, number = part.pieces(), 0, 0
        while taken < part.size:
            if number == at:
                volume.write(INPUT, LOG.replace(b"4", b"2"))
            taken += len(next(pieces))
            number += 1
        if at is None:
            volume.write(INPUT, LOG.replace(b"4", b"2"))
        if hidden:
            assert not list(pieces)

    def function(part: Part) -> dict[str, int]:
        try:
            take(part)
        except WorkerError:
            if not hidden:
                raise
        return {"a": 1}

    with pieces_of(4096):
        code = volume.run_map(function, 0).code
    assert code == (2 if hidden else 75) or volume.in_bucket
    assert volume.record_path("0").exists() == (code == 0)
    assert volume.run("merge").code == 75
    assert volume.totals() is None


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_map_that_exits(volume: Volume, code: int | None) -> None:
    """sys.exit(0) before the record is written is an error."""
    volume.write(INPUT, b"INFO\n")
    volume = volume.having(NUM_PARTS=1, MAP_SETTINGS="1")
    volume.split()

    def leaves(part: Part) -> None:
        raise SystemExit(code)

    with pytest.raises(RuntimeError if not code else SystemExit, match=r"sys\.exit|3"):
        volume.run_map(leaves, 0)


def test_count_with_the_settings_of_another_map(volume: Volume) -> None:
    """MAP_SETTINGS belongs to another job than count.py's."""
    volume.write(INPUT, b"INFO\n")
    volume = volume.having(NUM_PARTS=1, MAP_SETTINGS="1")
    volume.split()
    outcome = volume.run("count", PART_ID=0)
    assert outcome.code == 2
    assert "MAP_SETTINGS must not be set for count.py" in outcome.words
