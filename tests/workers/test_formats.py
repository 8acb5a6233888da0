"""First bytes: files in other formats than text are refused, and text with a similar beginning is
accepted."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import random
import zipfile
from collections.abc import Iterator

import pytest
from fanfold import formats
from pipeline import INPUT, KEYWORDS, Volume, model, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

TEXT = "2026-01-01 INFO café\n" * 20
DATA = TEXT.encode()


def zstd(data: bytes) -> bytes:
    """A frame of RFC 8878 with one raw block; Python 3.11 has no zstd."""
    size = (len(data) - 256).to_bytes(2, "little")
    block = (1 | len(data) << 3).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + b"\x60" + size + block + data


def zipped(data: bytes) -> bytes:
    """A zip with one file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app.log", data)
    return made.getvalue()


# The format and the remedy.
CODED: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(DATA), "gzip, .*: decompress it first, or set SPLIT_MODE=files, "),
    "gzip of nothing": (gzip.compress(b""), "gzip, .*: decompress it first"),
    "zstd": (zstd(DATA), "zstd, .*: decompress it first"),
    "xz": (lzma.compress(DATA), "xz, .*: decompress it first"),
    **{
        f"bzip2 -{level}": (bz2.compress(DATA, level), "bzip2, .*: decompress it first")
        for level in range(1, 10)
    },
    "bzip2 of nothing": (bz2.compress(b""), "bzip2, .*: decompress it first"),
    "zip": (zipped(DATA), "zip, .*: unpack it first"),
    "UTF-16, little end first": (
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        "UTF-16, .*: convert it to UTF-8 first",
    ),
    "UTF-16, big end first": (
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        "UTF-16, .*: convert it to UTF-8 first",
    ),
    "UTF-32, little end first": (
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        "UTF-32, .*: convert it to UTF-8 first",
    ),
    "UTF-32, big end first": (
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        "UTF-32, .*: convert it to UTF-8 first",
    ),
    **{
        f"{coding} without a mark": (TEXT.encode(coding), f"{what}, .*: convert it to UTF-8 first")
        for what, coding in (
            ("UTF-16", "utf-16-le"), ("UTF-16", "utf-16-be"),
            ("UTF-32", "utf-32-le"), ("UTF-32", "utf-32-be"),
        )
    },
    "zstd after a frame to skip": (
        b"\x5d\x2a\x4d\x18\2\0\0\0hi" + zstd(DATA),
        "zstd, .*: decompress it first",
    ),
}  # fmt: skip
MARKS = [mark for mark, *_ in formats.FORMATS]


def check(words: str, name: str, pattern: str) -> None:
    """The message names the file, the format and the remedy."""
    what, _, remedy = pattern.partition(", .*: ")
    assert f'error="{name} is {what}, ' in words
    assert remedy in words


@pytest.mark.parametrize(("data", "pattern"), CODED.values(), ids=CODED)
def test_split_refuses(volume: Volume, data: bytes, pattern: str) -> None:
    """A single file, and a file among others: exit code 2, and nothing is written."""
    volume.write(INPUT, data)
    volume.write("in/app.log", DATA)
    volume.write("in/app.log.1", data)
    before = volume.tree()
    for name, named in ((INPUT, INPUT), ("in/", "in/app.log.1")):
        outcome = volume.run("split", INPUT=name)
        assert (outcome.code, outcome.output) == (2, "")
        check(outcome.words, named, pattern)
    assert volume.tree() == before


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize(("data", "pattern"), CODED.values(), ids=CODED)
def test_the_map_refuses(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, data: bytes, pattern: str, mode: str
) -> None:
    """With more files than split checks, the map that reads a file's first byte refuses it. Its
    part has no record and the run has no result."""
    monkeypatch.setattr(formats, "MAX_LOOKS", 2)
    volume = volume.having(INPUT="in/", NUM_PARTS=3, SPLIT_MODE=mode)
    files = {"a": DATA, "b": DATA, "c": data, "d": DATA}
    for name, content in files.items():
        volume.write(f"in/{name}", content)
    ends = volume.split() and volume.plan()["cuts"][1:]
    refused = next(number for number, end in enumerate(ends) if end > 2 * len(DATA))
    for number in range(3):
        outcome = volume.run("count", PART_ID=number)
        assert outcome.code == (2 if number == refused else 0)
        if number == refused:
            check(outcome.words, "in/c", pattern)
        assert volume.record_path(str(number)).exists() == (number != refused)
    assert volume.run("merge").code == 75
    assert volume.totals() is None


@pytest.mark.parametrize("looks", [1000, 1])
@pytest.mark.parametrize("mode", ["copy", "range"])
def test_the_first_is_named(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, mode: str, looks: int
) -> None:
    """In a folder with text and several other files, split and the map name the first file in byte
    order, for any size of the pieces that are read."""
    monkeypatch.setattr(formats, "MAX_LOOKS", looks)
    volume = volume.having(INPUT="in/", NUM_PARTS=1, SPLIT_MODE=mode)
    coded = [data for data, _ in CODED.values()]
    names = ["A.log", "a.log.gz", "a/b", "b.log", "z", "\u00e9.gz", "\uff21.zip", "\U0001f600"]
    for at, name in enumerate(names):
        volume.write(f"in/{name}", b"INFO\n" * at if at in (0, 3) else coded[at])
    for at in range(1, len(names)):
        if at != 3:
            with pieces_of(7):
                outcomes = [volume.run("split"), volume.run("count", PART_ID=0)]
            assert outcomes[looks == 1].code == 2
            check(outcomes[looks == 1].words, f"in/{names[at]}", [*CODED.values()][at][1])
            volume.write(f"in/{names[at]}", b"WARN\n" * at)
    volume.log_count()
    assert volume.totals() == {**dict.fromkeys(KEYWORDS, 0), "INFO": 3, "WARN": 25}


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_1000_files(volume: Volume, mode: str) -> None:
    """Split checks 1,000 files, and none of 1,001: then the map checks them."""
    volume = volume.having(INPUT="in/", NUM_PARTS=2, SPLIT_MODE=mode)
    for number in range(999):
        volume.write(f"in/{number:04}", b"INFO\n")
    volume.write("in/app.log.gz", gzip.compress(random.Random(0).randbytes(9999)))
    outcome = volume.run("split")
    assert outcome.code == 2
    check(outcome.words, "in/app.log.gz", CODED["gzip"][1])

    volume.write("in/1000", b"INFO\n")
    volume.split()
    outcomes = [volume.run("count", PART_ID=number) for number in range(2)]
    assert [outcome.code for outcome in outcomes].count(2) == 1
    check("".join(one.words for one in outcomes), "in/app.log.gz", CODED["gzip"][1])


def texts() -> Iterator[bytes]:
    """Texts that begin like another format, or are shorter than a mark."""
    for mark in MARKS:
        for end in range(1, len(mark)):
            if not mark[:end].startswith(tuple(MARKS)):
                yield mark[:end]
                yield mark[:end] + b" INFO\n"
    yield from (b"BZh91 INFO\n", b"BZh0" + b"1AY&SY INFO\n", b"PK INFO\n", b"PK\x01\x02 INFO\n")
    yield codecs.BOM_UTF8 + b"INFO\n"
    yield b"INFO\n" + gzip.compress(DATA)  # not at the start


def test_text_is_not_refused(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither split nor the map refuses text: it is counted unchanged."""
    files = [*dict.fromkeys(texts())]
    assert len(files) > 20
    for number, data in enumerate(files):
        volume.write(f"in/{number:03}", data)
    volume.log_count(INPUT="in/", NUM_PARTS=4)
    assert volume.totals() == model(files, KEYWORDS)
    monkeypatch.setattr(formats, "MAX_LOOKS", 1)
    volume.log_count(INPUT="in/", NUM_PARTS=4, SPLIT_MODE="range")
    assert volume.totals() == model(files, KEYWORDS)
