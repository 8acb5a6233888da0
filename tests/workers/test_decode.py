"""Decode: the text of a stored file is equal to the tools' text, or there is an error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from fanfold.decode import decode, is_compressed
from fanfold.errors import WorkerError
from fanfold.formats import SIZE
from fanfold.storage import PIECE
from hypothesis import given
from hypothesis import strategies as st
from pipeline import WORKERS, bare_environ

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
MARK = {"gzip": 3, "bzip2": 10, "xz": 6, "zstd": 4}  # bytes that show the format
try:
    zstd = import_module("compression.zstd")
except ImportError:  # before Python 3.14
    pass
else:
    checked = {zstd.CompressionParameter.checksum_flag: 1}
    COMPRESS["zstd"] = lambda data: bytes(zstd.compress(data, options=checked))
KINDS = pytest.mark.parametrize("kind", COMPRESS)
LINE = b"2026-01-01 INFO caf\xc3\xa9\n"


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Cut the data into pieces of these sizes, repeatedly."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


def decoded(data: bytes, *sizes: int) -> bytes:
    """Decode a file, and check that all of its bytes are read."""
    pieces = cut(data, list(sizes) or [PIECE])
    text = b"".join(decode("in/a", pieces))
    assert next(pieces, None) is None
    return text


def refusal(data: bytes, *sizes: int) -> str:
    """Return the message for a refused file."""
    with pytest.raises(WorkerError) as caught:
        decoded(data, *sizes)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("in/a")
    assert ": " in str(caught.value)
    return str(caught.value)


texts = st.builds(
    lambda text, times: text.encode() * times,
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    st.sampled_from([1, 1, 3, 1000]),
)
sizes_of_pieces = st.lists(st.integers(1, 100) | st.just(PIECE), min_size=1, max_size=5)


@KINDS
@given(members=st.lists(texts, min_size=1, max_size=5), sizes=sizes_of_pieces)
def test_members(kind: str, members: list[bytes], sizes: list[int]) -> None:
    """One or more members, some empty, cut into any pieces: the text is their texts in order."""
    data = b"".join(map(COMPRESS[kind], members))

    assert decoded(data, *sizes) == b"".join(members)
    assert is_compressed("in/a", data[:SIZE])


@given(data=texts, sizes=sizes_of_pieces)
def test_text_passes(data: bytes, sizes: list[int]) -> None:
    """Text passes piece by piece, unchanged and not copied."""
    pieces = [piece for piece in cut(data, sizes) if piece]
    passed = list(decode("in/a", iter(pieces)))

    assert [*map(id, passed)] == [*map(id, pieces)]
    assert not is_compressed("in/a", data[:SIZE])


@pytest.mark.parametrize("pieces", [[], [b""]])
def test_nothing(pieces: list[bytes]) -> None:
    """An empty file has an empty text."""
    assert list(decode("in/a", iter(pieces))) == []
    assert not is_compressed("in/a", b"")


@KINDS
@pytest.mark.parametrize("size", [1, PIECE])
def test_cut(kind: str, size: int) -> None:
    """A file that is cut off at any byte does not pass as complete. Two cuts cannot be detected:
    between members, which leaves a valid file, and within the first mark, which leaves another
    format."""
    first, second = COMPRESS[kind](LINE * 3), COMPRESS[kind](LINE * 5)
    data = first + second
    for end in range(len(data)):
        if end < MARK[kind]:
            assert decoded(data[:end], size) == data[:end]
        elif end == len(first):
            assert decoded(data[:end], size) == LINE * 3
        else:
            assert f"is cut off: its {kind} does not end by byte {end}: " in refusal(
                data[:end], size
            )


@KINDS
def test_flipped_bits(kind: str) -> None:
    """After a change of any bit there is an error, or the right text: some bits of a header have no
    meaning. A change in the first mark leaves another format, which passes unchanged."""
    data = COMPRESS[kind](LINE * 3) + COMPRESS[kind](LINE * 5)
    refused = 0
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            text = decoded(bytes(changed), 7)
        except WorkerError as error:
            assert error.exit_code == 2  # noqa: PT017
            refused += 1
        else:
            mark = bit < MARK[kind] * 8 and not is_compressed("in/a", bytes(changed[:SIZE]))
            assert text == (changed if mark else LINE * 8)
    assert refused > len(data) * 8 * 0.5


@KINDS
def test_damage_is_named(kind: str) -> None:
    """The message names the damage, its place and a remedy."""
    text = b"".join(b"%d %d\n" % (number, number**7) for number in range(20_000))
    data = bytearray(COMPRESS[kind](text))
    middle = len(data) // 2
    data[middle] ^= 4
    found = re.fullmatch(
        rf"in/a is damaged {kind} near byte ([0-9]+) \(.+\): copy the complete file there, .*",
        refusal(bytes(data)),
    )
    assert found
    assert int(found[1]) >= middle


@KINDS
@pytest.mark.parametrize("sizes", [[PIECE], [1, 17, 10]])
def test_bomb(kind: str, sizes: list[int]) -> None:
    """A small file with a large text is decoded in pieces, in little memory. xz has a window of 8
    MiB."""
    size = 24 << 20
    data = COMPRESS[kind](b"a" * size)
    tracemalloc.start()
    try:
        lengths = [len(piece) for piece in decode("in/a", cut(data, sizes))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(lengths) == size
    assert max(lengths) <= PIECE
    assert peak < (14 if kind == "xz" else 6) * PIECE


@pytest.mark.parametrize("size", [1, 3, PIECE])
def test_zeros(size: int) -> None:
    """Zero bytes may follow a member of gzip, and of xz in multiples of four."""
    for zeros in 1, 4, 511, 512, 200_000:
        padding = bytes(zeros)
        for kind, compress in COMPRESS.items():
            data = compress(LINE)
            if kind == "gzip" or (kind == "xz" and not zeros % 4):
                assert decoded(data + padding, size) == LINE
                assert decoded(data + padding + data + padding, size) == LINE * 2
            else:
                sentence = f"has other bytes after its {kind}, from byte {len(data)} on: "
                assert sentence in refusal(data + padding, size)
                assert sentence in refusal(data + padding + data, size)


@KINDS
@pytest.mark.parametrize("size", [1, PIECE])
def test_other_bytes_after_the_end(kind: str, size: int) -> None:
    """Other bytes after a member are an error, unless they are another member. No byte is
    ignored."""
    data = COMPRESS[kind](LINE)
    others = [COMPRESS[other](LINE) for other in COMPRESS if other != kind]
    for after in b"x", b"\n", LINE, b"\0\0\0\0x", *others:
        assert f"in/a has other bytes after its {kind}, from byte {len(data)} on: " in refusal(
            data + after, size
        )


def zipped(data: bytes) -> bytes:
    """Return a zip with one file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a", data)
    return made.getvalue()


@pytest.mark.parametrize("size", [1, PIECE])
@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("UTF-16", LINE.decode().encode("utf-16")),
        ("UTF-16", LINE.decode().encode("utf-16-be")),
        ("UTF-32", LINE.decode().encode("utf-32")),
        ("zip", zipped(LINE)),
        *((kind, compress(LINE)) for kind, compress in COMPRESS.items()),
        ("bzip2", bz2.compress(b"")),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_what_is_no_text(what: str, data: bytes, size: int) -> None:
    """Other formats are refused before the first byte, within each compressed format, and also as
    stored unless they are one of these formats."""
    for outer in COMPRESS.values():
        with pytest.raises(
            WorkerError, match=f"^in/a, decompressed, is {what}, which cannot be read"
        ):
            next(decode("in/a", cut(outer(data), [size])))
    if not is_compressed("in/a", data[:SIZE]):
        assert f"in/a is {what}, which cannot be read as text: " in refusal(data, size)


def tool(words: str, data: bytes = LINE * 9999) -> bytes:
    """Return the output of a program for the data."""
    command = words.split()
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not there")
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "words",
    [
        *("gzip -1", "gzip -9", "bzip2 -1", "bzip2 -9", "xz -0", "xz -9e", "xz -T2"),
        *("xz --block-size=5000", "xz --check=none", "xz --check=sha256", "xz --x86 --lzma2"),
    ],
)
def test_tools(words: str) -> None:
    """The output of the tools, one file after the other."""
    data = tool(words) + tool(words, b"") + tool(words, b"end")

    assert decoded(data, 1000) == LINE * 9999 + b"end"


def test_gzip_with_a_name(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A header with every field: extra bytes, file name, comment, checksum."""
    path = tmp_path_factory.mktemp("a") / "app.log"
    path.write_bytes(LINE)
    head, body = b"\x1f\x8b\x08", gzip.compress(LINE)[10:]
    fields = b"\3\0abc" + b"app.log\0" + b"made by hand\0"
    full = head + b"\x1d" + bytes(6) + fields

    assert decoded(tool(f"gzip -c {path} {path}", b"")) == LINE * 2
    assert decoded(full + body, 5) == LINE


def test_large_window() -> None:
    """The memory for a file is limited: xz -9 is accepted, a larger window is refused."""
    assert decoded(lzma.compress(LINE, preset=9)) == LINE

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 65 << 20}]
    sentence = refusal(lzma.compress(LINE, filters=filters))
    assert "a window of more than 96 MiB" in sentence
    assert "xz -9" in sentence


@pytest.mark.parametrize("between", [b"", LINE])
def test_many_small_members(between: bytes) -> None:
    """A file of blocks, as from bgzip, with an empty block at the end. The time per member does not
    grow with the bytes after it (otherwise the test would take minutes)."""
    times = 200_000
    data = gzip.compress(between) * times + gzip.compress(b"")
    start = time.process_time()

    assert sum(map(len, decode("in/a", iter([data])))) == times * len(between)
    assert time.process_time() - start < 30


def test_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.14 there is no zstd: the message has remedies."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    data = b"\x28\xb5\x2f\xfd" + bytes(20)

    assert is_compressed("in/a", data)
    sentence = refusal(data)
    assert "in/a is zstd and Python " in sentence
    for remedy in "Python 3.14", "with gzip", "{input}":
        assert remedy in sentence


@pytest.mark.parametrize("name", ["in/a.gz", "in/a.TGZ", "in/a.bz2", "in/a.xz", "in/a.zst"])
@pytest.mark.parametrize("data", [b"", b"\x1f", b"text\n"])
def test_a_name_without_its_mark(name: str, data: bytes) -> None:
    """An empty file, or one with damaged first bytes, does not pass as text."""
    assert is_compressed(name, data)
    with pytest.raises(WorkerError, match=f"^{name} must be .+ as its name says, got "):
        next(decode(name, iter([data])))


def test_a_start_is_short() -> None:
    """The decoder is imported only for a compressed file."""
    code = (
        "import sys; from fanfold.decode import decode; before = {*sys.modules}; "
        "[*decode('a', iter([b'text']))]; print(*({*sys.modules} - before), '-'); "
        "print('_bz2' in before, '_lzma' in before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=WORKERS, env=bare_environ(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "-\nFalse False\n"
