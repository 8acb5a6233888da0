"""count(): what count.py does to the bytes, wherever they are cut into pieces."""

from __future__ import annotations

import time

import count
import pytest
import strategies
from fanfold import plan
from hypothesis import given
from hypothesis import strategies as st
from pipeline import model

TABLE = {
    "empty": (b"", ["INFO"]),
    "itself": (b"INFO", ["INFO"]),
    "one keyword within another": (b"WARNING WARN\n", ["WARN", "WARNING", "N"]),
    "overlaps itself, odd": (b"aaaaa\naaa", ["a", "aa", "aaa"]),
    "overlaps itself, longer": (b"abababab abab\nab\nabab", ["abab", "bab", "ab"]),
    "starts like its own end": (b"aabaabaab aab", ["aabaab", "aab"]),
    "case-sensitive": (b"info Info INFO", ["INFO", "Info"]),
    "not text": (b"\xff\x00IN\x00FO\xffINFO\x00", ["INFO", "\x00"]),
    "UTF-8": ("é磁盘é\r\ne\u0301".encode(), ["é", "磁盘", "盘"]),
    "half a UTF-8 letter": ("é".encode()[:1] + "é".encode(), ["é"]),
    "no line end at all": (b"xINFO" * 9, ["INFO", "xINFOxINFO"]),
    "many line ends": (b"\n\n\r\n\nINFO\n\n", ["INFO"]),
    "a space is part of a keyword": (b"a INFO\n INFO", [" INFO", "INFO"]),
}


@pytest.mark.parametrize(("data", "words"), TABLE.values(), ids=TABLE)
def test_every_boundary(data: bytes, words: list[str]) -> None:
    """Cut in two at every place, and into pieces of every size, the counts are the model's."""
    cuts = [[data[:at], data[at:]] for at in range(len(data) + 1)]
    sizes = [
        [data[at : at + size] for at in range(0, len(data), size)]
        for size in range(1, len(data) + 1)
    ]
    for pieces in cuts + sizes:
        assert count.count(pieces, words) == model([data], words), pieces


@given(pieces=st.lists(strategies.contents(8), max_size=12), words=strategies.keywords())
def test_any_pieces(pieces: list[bytes], words: list[str]) -> None:
    """Any pieces, empty ones among them, are counted like their concatenation."""
    assert count.count(pieces, words) == model([b"".join(pieces)], words)


@pytest.mark.parametrize("word", ["a" * 5000, "ab" * 2500, "a" * 2500 + "b" * 2500])
def test_long_keywords(word: str) -> None:
    """They are counted as short ones are, whether they overlap themselves or not."""
    data = (word + "b" + word * 2).encode() + word[:2500].encode() + b"\n" + word.encode()
    pieces = [data[at : at + 999] for at in range(0, len(data), 999)]
    for words in ([word], [word, "INFO", word[:4000]]):
        assert count.count(pieces, words) == model([data], words)


def test_the_longest_keyword() -> None:
    """As long as a variable of the environment may be, and the worst to look at: not of the square
    of its length, which would be some 10^10 steps."""
    word = "x" * 65_000 + "y" * 65_000
    start = time.process_time()
    assert count.count([b"INFO"], [word]) == {word: 0}
    assert time.process_time() - start < 0.1


@given(pieces=st.lists(strategies.contents(8), max_size=12))
def test_lines(pieces: list[bytes]) -> None:
    """plan.lines, of which Part.lines is made: the lines of the concatenation, each once."""
    expected = b"".join(pieces).split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(plan.lines(pieces)) == expected
