"""Formats: detects compressed and UTF-16/32 files by their first bytes, and refuses them."""

from __future__ import annotations

from fanfold.errors import WorkerError

SIZE = 16  # bytes needed to detect a format
MAX_LOOKS = 1000  # files that split checks; with more, the maps check them

COMPRESSED = "decompress it first"
DECODED = f"{COMPRESSED}, or set SPLIT_MODE=files, which decompresses gzip, bzip2 and xz"
ENCODED = "convert it to UTF-8 first"
FORMATS = (
    (b"\x1f\x8b\x08", "gzip", COMPRESSED),  # RFC 1952
    (b"\x28\xb5\x2f\xfd", "zstd", COMPRESSED),  # RFC 8878
    *(
        (b"%c\x2a\x4d\x18" % number, "zstd", COMPRESSED) for number in range(0x50, 0x60)
    ),  # skippable frames
    (b"\xfd7zXZ\0", "xz", COMPRESSED),
    *((b"BZh%d1AY&SY" % level, "bzip2", COMPRESSED) for level in range(1, 10)),
    *((b"BZh%d\x17rE8P\x90" % level, "bzip2", COMPRESSED) for level in range(1, 10)),  # empty
    (b"PK\x03\x04", "zip", "unpack it first"),
    (b"\xff\xfe\0\0", "UTF-32", ENCODED),  # before UTF-16: its mark begins the same way
    (b"\0\0\xfe\xff", "UTF-32", ENCODED),
    (b"\xff\xfe", "UTF-16", ENCODED),
    (b"\xfe\xff", "UTF-16", ENCODED),
)


def refuse_coded(name: str, start: bytes, compressed: str = COMPRESSED) -> None:
    """Refuse a file with these first bytes if it is compressed or in UTF-16 or UTF-32. Its words
    would not be found, and the totals would be wrong. `compressed` is the remedy for a compressed
    file."""
    start = start[:SIZE]
    for mark, what, remedy in FORMATS:
        if start.startswith(mark):
            fix = compressed if remedy == COMPRESSED else remedy
            raise WorkerError(f"{name} is {what}, which cannot be read as text: {fix}")
    for what, zeros in (("UTF-32", b"\0\0\0"), ("UTF-16", b"\0")):  # without a byte order mark
        width = len(zeros) + 1
        units = [start[at : at + width] for at in range(0, len(start) - width + 1, width)]
        for ends in bytes.endswith, bytes.startswith:
            if len(units) > 1 and all(ends(one, zeros) and one.strip(b"\0") for one in units):
                raise WorkerError(f"{name} is {what}, which cannot be read as text: {ENCODED}")
