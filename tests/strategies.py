"""Hypothesis strategies: bytes, keywords, sizes of pieces, trees of files."""

from __future__ import annotations

from fanfold.errors import WorkerError
from fanfold.formats import refuse_coded
from hypothesis import strategies as st

# Words that overlap themselves and each other, and bytes that are not text.
WORDS = [
    "INFO",
    "WARN",
    "a",
    "aa",
    "aaa",
    "abab",
    "ab",
    "ba",
    "é",
    "\x00",
    "a b",
    "磁盘",
    "INF",
    "O\tI",
]
BITS = [word.encode() for word in WORDS] + [b"\n", b"\r\n", b"\r", b"\xff", b"\xc3", b"IN", b"FO"]


def is_text(data: bytes) -> bool:
    """Whether a file with these first bytes is accepted: no byte order mark, and no UTF-16."""
    try:
        refuse_coded("a file", data)
    except WorkerError:
        return False
    return True


def contents(most: int = 60) -> st.SearchStrategy[bytes]:
    """The bytes of a file: empty, lines of all kinds, with and without a final newline, or one
    giant line; never bytes that the workers refuse."""
    bits = st.sampled_from(BITS) | st.binary(max_size=4)
    some = st.lists(bits, max_size=most).map(b"".join)
    giant = st.tuples(some, bits, st.integers(0, 50), some).map(lambda t: t[0] + t[1] * t[2] + t[3])
    return (some | giant).filter(is_text)


def keywords() -> st.SearchStrategy[list[str]]:
    """Keywords as KEYWORDS may have them."""
    text = st.text(st.characters(exclude_characters=",\r\n", codec="utf-8"), min_size=1, max_size=4)
    trimmed = (st.sampled_from(WORDS) | text).filter(lambda word: word == word.strip())
    return st.lists(trimmed, min_size=1, max_size=4, unique=True)


def pieces() -> st.SearchStrategy[int]:
    """Sizes of the pieces in which a storage reads. Python's open() accepts no buffer size of 1."""
    return st.integers(2, 16)


def parts() -> st.SearchStrategy[int]:
    """NUM_PARTS, often more than there are lines."""
    return st.integers(1, 12)


# Names of files below INPUT, including names that are not text, and folders.
NAMES = ["a", "b/a", "b/b", "b.c", "B", "é", "c d", "new\nline", "\udcff", ".hidden", "b/c/d"]


def folders() -> st.SearchStrategy[dict[str, bytes]]:
    """Several files by name."""
    return st.dictionaries(st.sampled_from(NAMES), contents(20), min_size=1, max_size=5)
