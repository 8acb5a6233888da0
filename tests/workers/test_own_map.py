"""A map of one's own: the very one that README.md shows, and what map_part does for it."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import strategies
import worker
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, WORKERS, Outcome, Volume, finish, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

SETTINGS = "status classes, 1"
LOG = "".join(
    f'10.0.0.{n % 250} - - [01/Jan/2026:00:00:00 +0000] "GET /é/{n} HTTP/1.1" {status} {n}\n'
    for n, status in enumerate([200, 201, 204, 301, 304, 400, 404, 404, 500, 503] * 30)
).encode()
CLASSES = {"2xx": 90, "3xx": 60, "4xx": 90, "5xx": 60}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of workers/README.md, as a file beside the workers would be."""
    [source] = re.findall(
        r"^```python\n(.*?map_part.*?)^```", (WORKERS / "README.md").read_text(), re.M | re.S
    )
    path = tmp_path_factory.mktemp("own") / "status_classes.py"
    path.write_text(source)
    return path


def run_map(
    volume: Volume, function: Callable[[Iterator[bytes]], Any], part_id: object = 0
) -> Outcome:
    """Run a map in this process."""
    words = io.StringIO()
    environ = volume.environ({"PART_ID": part_id})
    with contextlib.redirect_stderr(words):
        code = worker.map_part(function, environ)
    return Outcome(code, "", words.getvalue())


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_the_example(volume: Volume, example: Path, mode: str) -> None:
    """split, the example as a process of its own for every part, merge: what a model finds. With
    other MAP_SETTINGS the results are stale, and to be made again."""
    volume.write(INPUT, LOG)
    volume = volume.having(NUM_PARTS=3, SPLIT_MODE=mode, MAP_SETTINGS=SETTINGS)
    prologue = f"import runpy; runpy.run_path({str(example)!r}, run_name='__main__')"
    for part_id in volume.split():
        with volume.start("count", prologue=prologue, PART_ID=part_id) as process:
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
    assert outcome.code == 2
    assert "3 stale (0, 1, 2)" in outcome.words


@pytest.mark.folder
@given(
    files=strategies.folders(),
    parts=strategies.parts(),
    mode=st.sampled_from(["copy", "range"]),
    piece=strategies.pieces(),
)
def test_lines_of_any_input(files: dict[str, bytes], parts: int, mode: str, piece: int) -> None:
    """A map that counts lines by their first byte sees every line of every file once and whole,
    wherever the parts are cut: one at the end of a file without a line end, too."""
    from contract import lines

    def first_bytes(pieces: Iterator[bytes]) -> Mapping[str, int]:
        return Counter(line[:1].hex() or "empty" for line in lines(pieces))

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
            assert run_map(volume, first_bytes, part_id).code == 0
        volume.merge()
        assert volume.totals() == dict(sorted(expected.items()))


def test_numbers_with_a_fraction(volume: Volume) -> None:
    """Sums may have a fraction, and a part need not have every name."""
    volume.write(INPUT, b"1.50\n2.00\n0.25\n")
    volume = volume.having(NUM_PARTS=3, MAP_SETTINGS="sum")

    def add(pieces: Iterator[bytes]) -> Mapping[str, float]:
        number = float(b"".join(pieces))
        return {"sum": number} if number == 2 else {"sum": number, "parts": 1}

    for part_id in volume.split():
        assert run_map(volume, add, part_id).code == 0
    volume.merge()
    assert volume.totals() == {"parts": 2, "sum": 3.75}


@pytest.mark.parametrize("text", [None, ""])
def test_without_map_settings(volume: Volume, text: str | None) -> None:
    """A map of one's own has to say what it counts."""
    volume.write(INPUT, LOG)
    volume.split()
    before = volume.tree()
    made = volume if text is None else volume.having(MAP_SETTINGS=text)
    outcome = run_map(made, Counter)

    assert outcome.code == 2
    assert "MAP_SETTINGS is not set: say in it what the map counts" in outcome.words
    assert volume.tree() == before


BAD: dict[str, Any] = {
    "nothing": None,
    "a list": [1, 2],
    "a text for a number": {"a": "1"},
    "no number": {"a": None},
    "a truth": {"a": True},
    "not a number": {"a": float("nan")},
    "no end": {"a": float("inf")},
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_an_answer_that_no_merge_can_add(volume: Volume, answer: Any) -> None:
    """A map that gives anything but numbers by name is wrong itself: it fails at once, and
    publishes nothing that merge.py would have to refuse, or would write a result of."""
    volume.write(INPUT, LOG)
    volume = volume.having(MAP_SETTINGS="1")
    volume.split()
    before = volume.tree()

    def bad(pieces: Iterator[bytes]) -> Any:
        assert b"".join(pieces)
        return answer

    try:
        code = run_map(volume, bad).code
    except (TypeError, ValueError):
        code = 1  # a traceback, for a bug that is the map's
    assert code in (1, 2)
    assert volume.tree() == before


def test_a_map_that_does_not_read_its_part(volume: Volume) -> None:
    """A map that stops early is a bug and keeps its traceback: half a part is no result."""
    volume.write(INPUT, LOG)
    volume = volume.having(MAP_SETTINGS="1")
    volume.split()
    before = volume.tree()

    with pytest.raises(RuntimeError, match="the map took 0 of the"):
        run_map(volume, lambda pieces: {"a": 1})
    assert volume.tree() == before
