"""count(): counts in bytes that are cut into pieces anywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import count
import pytest
import strategies
from fanfold import plan
from hypothesis import event, given
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
    """Cut in two at every offset, and into pieces of every size, the counts equal the model's."""
    cuts = [[data[:at], data[at:]] for at in range(len(data) + 1)]
    sizes = [
        [data[at : at + size] for at in range(0, len(data), size)]
        for size in range(1, len(data) + 1)
    ]
    for pieces in cuts + sizes:
        assert count.count(pieces, words) == model([data], words), pieces


@given(pieces=st.lists(strategies.contents(8), max_size=12), words=strategies.keywords())
def test_any_pieces(pieces: list[bytes], words: list[str]) -> None:
    """Any pieces, also empty ones, are counted like their concatenation."""
    assert count.count(pieces, words) == model([b"".join(pieces)], words)


@contextmanager
def searching(sample: int, again: int, edge: int, most: int) -> Iterator[None]:
    """Make count() choose its search from few bytes, and change it after few hits."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SAMPLE", sample), ("AGAIN", again), ("EDGE", edge)):
            patch.setattr(count, name, value)
        patch.setattr(count, "COUNT", (most, most))
        yield


class Piece(bytes):
    """A piece that records the offsets from which `count` searched it."""

    def __init__(self, _: bytes) -> None:
        self.starts: list[int] = []

    def count(self, word: bytes, start: int) -> int:  # type: ignore[override]
        """Like bytes.count."""
        self.starts.append(start)
        return super().count(word, start)


BITS = [b"a", b"b", b"ab", b"aab", b"\n", b"." * 9]


@given(
    pieces=st.lists(st.lists(st.sampled_from(BITS), max_size=20).map(b"".join).map(Piece)),
    words=st.lists(st.text("ab", min_size=1, max_size=8), min_size=1, max_size=5, unique=True),
    search=st.tuples(*(st.integers(1, most) for most in (8, 40, 5, 6))),
)
def test_any_search(
    pieces: list[Piece], words: list[str], search: tuple[int, int, int, int]
) -> None:
    """The counts are right for any choice of searches, also if a search is abandoned in the middle
    of a piece."""
    with searching(*search):
        found = count.count(pieces, words)
    event(f"in the middle: {any(start > 0 for piece in pieces for start in piece.starts)}")
    assert found == model([b"".join(pieces)], words)


@pytest.mark.parametrize(
    ("text", "words", "starts"),
    [
        pytest.param(b"." * 12 + b"INFO WARN ", ["INFO", "WARN"], [], id="rare"),
        pytest.param(b"INFO" * 5, ["INFO"], [0], id="frequent"),
        pytest.param(b"." * 7, ["INFO"], [0], id="too short for a choice"),
        # After four hits of F, the third letter, `count` is used, and once for the dots.
        pytest.param(b"." * 8 + b"OFNI" * 8, ["INFO", "."], [9 + 4 * 4 - 2, 0], id="not words"),
        pytest.param(b"ab" * 4 + b"." * 32 + b"aaab", ["aab"], [], id="hits that overlap"),
    ],
)
def test_the_search(text: bytes, words: list[str], starts: list[int]) -> None:
    """Rare words are not searched for with `count`. Frequent words are, as soon as this is
    detected."""
    piece = Piece(text)
    with searching(8, 1 << 20, 2, 10):
        assert count.count([piece], words) == model([text], words)
    assert piece.starts == starts


def test_a_search_is_chosen_again() -> None:
    """An abandoned search stays abandoned until the next sample, not forever."""
    rare = b"." * 40 + b"INFO"
    pieces = [Piece(text) for text in (b"." * 8 + b"INFO" * 8, rare, rare, rare)]
    with searching(8, 2 * len(rare), 5, 10):
        assert count.count(pieces, ["INFO"]) == {"INFO": 11}
    assert [len(piece.starts) for piece in pieces] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("INFO WARN", {b"N": "INFO WARN"}),  # one search for both
        ("ERROR", {b"": "ERROR"}),  # its letters are frequent
        ("ERROR TIMEOUT ENOTEMPTY", {b"": "ERROR", b"MEOUT": "TIMEOUT", b"N": "ENOTEMPTY"}),
        ("METEOR METEORITE", {b"METEO": "METEOR METEORITE"}),  # same beginning
        ("TIMEOUT MEMEOUT", {b"MEOUT": "TIMEOUT MEMEOUT"}),  # same end
    ],
)
def test_groups(words: str, keys: dict[bytes, str]) -> None:
    """Words are grouped by their rarest byte, or by their ends if all bytes are frequent, in as few
    groups as possible."""
    found = count.group(words.encode().split(), b"EROTIMU " * (count.SAMPLE // 8))
    assert {key: b" ".join(w for _, w, _ in group).decode() for key, group in found.items()} == keys


@pytest.mark.parametrize("word", ["a" * 5000, "ab" * 2500, "a" * 2500 + "b" * 2500])
def test_long_keywords(word: str) -> None:
    """Long keywords are counted like short ones, also if they overlap themselves."""
    data = (word + "b" + word * 2).encode() + word[:2500].encode() + b"\n" + word.encode()
    pieces = [data[at : at + 999] for at in range(0, len(data), 999)]
    for words in ([word], [word, "INFO", word[:4000]]):
        assert count.count(pieces, words) == model([data], words)


def test_the_longest_keyword() -> None:
    """A keyword of the maximum length, in the worst text. The time does not grow with the square of
    the length, which would be about 10^10 steps."""
    word = "x" * 65_000 + "y" * 65_000
    start = time.process_time()
    assert count.count([b"INFO"], [word]) == {word: 0}
    assert time.process_time() - start < 0.1


@given(pieces=st.lists(strategies.contents(8), max_size=12))
def test_lines(pieces: list[bytes]) -> None:
    """plan.lines, which Part.lines uses, returns each line of the concatenation once."""
    expected = b"".join(pieces).split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(plan.lines(pieces)) == expected
