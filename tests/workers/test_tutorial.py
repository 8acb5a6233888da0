"""The comparison in README: a model of the tutorial's steps, and fanfold, with a log of 3 lines in
the directory of a log of 10,000."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from pipeline import INPUT, KEYWORDS, Volume, model

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
WORDS = " ".join(README.split())
PARTS, LONG, SHORT = 5, 10_000, [b"INFO 1\n", b"WARN 2\n", b"INFO 3\n"]


def documented(who: str) -> dict[str, int]:
    """The totals in README's row of `who`."""
    (cells,) = re.findall(rf"(?m)^\| {who} \|((?: \d+ \|)+)$", README)
    return dict(zip(KEYWORDS, map(int, re.findall(r"\d+", cells)), strict=True))


def tutorial(log: list[bytes], copies: dict[int, list[bytes]]) -> dict[str, int]:
    """The totals that the tutorial reports: split writes only the parts that have lines, and the
    maps read all parts. `copies` is its directory. A missing part ends the map."""
    size = math.ceil(len(log) / PARTS)
    for first in range(0, len(log), size):
        copies[first // size] = log[first : first + size]
    return model(b"".join(copies[part]) for part in range(PARTS))


def test_the_second_result() -> None:
    """The tutorial counts the last two parts of the longer log again. Each line of that log has one
    keyword."""
    assert f"with {PARTS} parts on its log of {LONG:,} lines" in WORDS
    assert f"on a log of {len(SHORT)} lines" in WORDS
    right, reported = documented("fanfold"), documented("the tutorial")
    old = [
        b"%b\n" % word.encode() for word in KEYWORDS for _ in range(reported[word] - right[word])
    ]
    copies: dict[int, list[bytes]] = {}

    tutorial([b"INFO\n"] * (LONG - len(old)) + old, copies)

    assert [len(copies[part]) for part in range(PARTS)] == [LONG // PARTS] * PARTS
    assert tutorial(SHORT, copies) == reported


def test_an_empty_directory() -> None:
    """There the tutorial's maps of the last two parts find no file."""
    copies: dict[int, list[bytes]] = {}
    with pytest.raises(KeyError, match="3"):
        tutorial(SHORT, copies)
    assert "two of the tutorial's five maps crash" in WORDS
    assert len(copies) == PARTS - 2


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("before", [LONG, 0])
def test_fanfold(volume: Volume, mode: str, before: int) -> None:
    """The totals are right in either directory."""
    run = volume.having(NUM_PARTS=PARTS, SPLIT_MODE=mode)
    if before:
        run.write(INPUT, b"ERROR\n" * before)
        run.log_count()
    run.write(INPUT, b"".join(SHORT))
    run.log_count()

    assert run.totals() == model(SHORT) == documented("fanfold")
