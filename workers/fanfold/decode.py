"""Decode: the text within a compressed file, proven whole by the checksums that the file has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from typing import Protocol

from fanfold.errors import WorkerError
from fanfold.formats import FORMATS, SIZE, refuse_coded
from fanfold.storage import PIECE

# Bytes fed at once. A decoder copies what follows a member: of small members, once per member.
CHUNK = 64 * 1024
MEMORY = 96 * 1024 * 1024  # for xz: -9 needs 65 MiB
WINDOW = 26  # for zstd: 2 to the power of this, 64 MiB

AGAIN = "put the whole file there, or compress it again"


class Decoder(Protocol):
    """Decompresses one member. bz2, lzma and compression.zstd have it."""

    @property
    def eof(self) -> bool: ...  # noqa: D102
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...  # noqa: D102


# What makes the decoder of a member, and the errors of one.
Opened = tuple[Callable[[], Decoder], tuple[type[Exception], ...]]


def _open_gzip() -> Opened:
    import zlib

    class Gzip:
        """zlib as a Decoder."""

        def __init__(self) -> None:
            self._zlib, self.needs_input = zlib.decompressobj(16 + zlib.MAX_WBITS), True

        eof = property(lambda self: self._zlib.eof)
        unused_data = property(lambda self: self._zlib.unused_data)

        def decompress(self, data: bytes, max_length: int, /) -> bytes:
            text = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
            self.needs_input = len(text) < max_length  # else zlib may hold back more
            return text

    return Gzip, (zlib.error,)


def _open_bzip2() -> Opened:
    import bz2

    return bz2.BZ2Decompressor, (OSError, EOFError)


def _open_xz() -> Opened:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY), (lzma.LZMAError, EOFError)


def _open_zstd() -> Opened:
    zstd = import_module("compression.zstd")  # from Python 3.14 on
    options = {zstd.DecompressionParameter.window_log_max: WINDOW}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError)


# How a format is opened; and where zeros may follow a member, a multiple of how many.
KINDS = {
    "gzip": (_open_gzip, 1),
    "bzip2": (_open_bzip2, 0),
    "xz": (_open_xz, 4),
    "zstd": (_open_zstd, 0),
}
MARKS = {kind: tuple(mark for mark, what, _ in FORMATS if what == kind) for kind in KINDS}


def is_compressed(start: bytes) -> bool:
    """Whether `decode` decompresses a file that begins with these bytes, at least formats.SIZE of
    them if the file has so many."""
    return _find_kind(start) is not None


def decode(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The text of a stored file, in pieces of at most 1 MiB if `pieces` are.

    The first bytes decide: gzip, bzip2, xz and zstd are decompressed, all else passes unchanged. A
    file that is cut, damaged or followed by other bytes is an error, though only after the text
    before the damage: nothing may be published before the end. Text in UTF-16, or a compressed file
    within the compressed one, is refused before the first byte. At the end all pieces were read.
    """
    held, start = _begin(pieces)
    text = chain(held, pieces)
    if kind := _find_kind(start):
        text = chain(_decompress(name, kind, text))
        name = f"{name}, decompressed,"
        held, start = _begin(text)
        text = chain(held, text)
    refuse_coded(name, start)
    yield from text


def _begin(pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """The pieces that hold the first bytes, and these bytes."""
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= SIZE:
            break
    return held, b"".join(piece[:SIZE] for piece in held)[:SIZE]


def _find_kind(start: bytes) -> str | None:
    return next((kind for kind, marks in MARKS.items() if start.startswith(marks)), None)


def _decompress(name: str, kind: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    opener, zeros = KINDS[kind]
    try:
        make, errors = opener()
    except ImportError:
        raise WorkerError(
            f"{name} is {kind}, which Python {sys.version.split()[0]} here cannot decompress: "
            "use an image with Python 3.14 or newer, compress the file with gzip instead, or let "
            "the program take {input} and decompress it"
        ) from None
    member: Decoder | None = None
    at = end = 0  # how much was fed, and where the last whole member ended
    for rest in (piece[of : of + CHUNK] for piece in pieces for of in range(0, len(piece), CHUNK)):
        at += len(rest)
        while rest:
            if not member:
                rest = rest.lstrip(b"\0") if zeros else rest
                if not rest:
                    break
                _check_padding(name, kind, end, at - len(rest), rest)
                member = make()
            try:
                yield from _feed(member, rest)
            except errors as error:
                if "memory" in str(error).lower():
                    raise WorkerError(
                        f"{name} needs more than {MEMORY >> 20} MiB of memory to decompress: "
                        "compress it again with a smaller window, such as that of xz -9 or zstd -19"
                    ) from None
                raise WorkerError(
                    f"{name} is damaged {kind}, near byte {at}: {error}: {AGAIN}"
                ) from None
            rest = member.unused_data
            if member.eof:
                member, end = None, at - len(rest)
    if member:
        raise WorkerError(f"{name} is cut off: its {kind} does not end by byte {at}: {AGAIN}")
    _check_padding(name, kind, end, at)


def _feed(member: Decoder, data: bytes) -> Iterator[bytes]:
    """The text of a member up to its end or that of the data."""
    while True:
        if text := member.decompress(data, PIECE):
            yield text
        if member.eof or member.needs_input:
            return
        data = b""


def _check_padding(name: str, kind: str, end: int, at: int, rest: bytes = b"") -> None:
    """Check that from the end of a member to `at` there are as many zeros as may be, and that what
    follows begins like another member."""
    follows = any(rest[: len(mark)] == mark[: len(rest)] for mark in MARKS[kind])
    if (at - end) % (KINDS[kind][1] or 1) or not follows:
        raise WorkerError(f"{name} has other bytes after its {kind}, from byte {end} on: {AGAIN}")
