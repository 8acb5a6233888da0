"""Decode: decompresses files and checks the checksums in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain

from fanfold.errors import WorkerError
from fanfold.formats import FORMATS, SIZE, refuse_coded
from fanfold.storage import PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Bytes per call of a decoder. A decoder copies the bytes after a member once per member.
CHUNK = 64 * 1024
MEMORY = 96 * 1024 * 1024  # for xz: -9 needs 65 MiB
WINDOW = 27  # for zstd, as a power of 2: 128 MiB, the limit of the zstd tool

AGAIN = "copy the complete file there, or compress it again"


class Gzip:
    """Decompresses one member, with the interface of the other modules, which zlib lacks."""

    def __init__(self, zlib: Any) -> None:
        self._zlib, self.needs_input = zlib.decompressobj(16 + zlib.MAX_WBITS), True
        self.eof, self.unused_data = False, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return the next bytes of the text, at most `max_length`."""
        text: bytes = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(text) < max_length  # if False, zlib may have more text
        self.eof, self.unused_data = self._zlib.eof, self._zlib.unused_data
        return text


class Kind:
    """A format: its module, imported only for a file of this format, and its decoder."""

    def __init__(self, module: str, make: Callable[[Any], Any], error: str, zeros: int = 0) -> None:
        """`make` returns an object like bz2.BZ2Decompressor. `error` names an error of the module,
        unless this is OSError or EOFError. A multiple of `zeros` zero bytes may follow a member."""
        self.module, self.make, self.error, self.zeros = module, make, error, zeros


KINDS = {
    "gzip": Kind("zlib", Gzip, "error", 1),
    "bzip2": Kind("bz2", lambda bz2: bz2.BZ2Decompressor(), ""),
    "xz": Kind("lzma", lambda lzma: lzma.LZMADecompressor(lzma.FORMAT_XZ, MEMORY), "LZMAError", 4),
    "zstd": Kind(
        "compression.zstd",
        lambda zstd: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: WINDOW}
        ),
        "ZstdError",
    ),
}
# The format by file name: an empty file, or one with damaged first bytes, must not pass for text.
NAMES = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
MARKS = {kind: tuple(mark for mark, what, _ in FORMATS if what == kind) for kind in KINDS}


def is_compressed(name: str, start: bytes) -> bool:
    """Whether a file is compressed according to its first bytes (formats.SIZE of them, or all) or
    to its name."""
    return _find_kind(start) is not None or _named(name) is not None


def decode(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the text of a stored file, in pieces of at most 1 MiB if `pieces` are.

    The first bytes decide: gzip, bzip2, xz and zstd are decompressed, other files pass unchanged. A
    file that is cut off, damaged, or followed by other bytes raises an error only after the text
    before the damage: publish nothing before the end. Text in UTF-16, and a compressed file within
    the compressed file, are refused before the first byte. At the end all pieces are read.
    """
    held, start = _begin(pieces)
    text = chain(held, pieces)
    kind, by_name = _find_kind(start), _named(name)
    if by_name and not kind:
        raise WorkerError(
            f"{name} must be {by_name} as its name says, got a file that does not begin as "
            f"{by_name}: {AGAIN}; if it is not compressed, rename it"
        )
    if kind:
        text = chain(_decompress(name, kind, text))
        name = f"{name}, decompressed,"
        held, start = _begin(text)
        text = chain(held, text)
    refuse_coded(name, start)
    yield from text


def _begin(pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """Return the pieces that contain the first bytes, and these bytes."""
    held: list[bytes] = []
    while sum(map(len, held)) < SIZE and (piece := next(pieces, None)) is not None:
        held += [piece] if piece else []
    return held, b"".join(piece[:SIZE] for piece in held)[:SIZE]


def _find_kind(start: bytes) -> str | None:
    return next((kind for kind, marks in MARKS.items() if start.startswith(marks)), None)


def _named(name: str) -> str | None:
    return NAMES.get(os.path.splitext(name)[1].lower())


def _decompress(name: str, kind: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    how = KINDS[kind]
    try:
        module = import_module(how.module)
    except ImportError:
        raise WorkerError(
            f"{name} is {kind} and Python {sys.version.split()[0]} has no module {how.module}: use "
            "an image with this module (for zstd: Python 3.14), compress the file with gzip, or "
            "let the program take {input} and decompress it"
        ) from None
    member = None
    at = end = 0  # bytes fed, and the end of the last complete member
    for data in (piece[of : of + CHUNK] for piece in pieces for of in range(0, len(piece), CHUNK)):
        at, rest = at + len(data), data
        while rest:
            if not member:
                rest = rest.lstrip(b"\0") if how.zeros else rest
                if not rest:
                    break
                _check_padding(name, kind, end, at - len(rest), rest)
                member = how.make(module)
            try:
                yield from _feed(member, rest)
            except (OSError, EOFError, getattr(module, how.error, OSError)) as error:
                raise _explain(name, kind, at, str(error)) from None
            rest = member.unused_data
            if member.eof:
                member, end = None, at - len(rest)
    if member:
        raise WorkerError(f"{name} is cut off: its {kind} does not end by byte {at}: {AGAIN}")
    _check_padding(name, kind, end, at)


def _feed(member: Any, data: bytes) -> Iterator[bytes]:
    """Yield the text of a member, up to the end of the member or of the data."""
    while True:
        if text := member.decompress(data, PIECE):
            yield text
        if member.eof or member.needs_input:
            return
        data = b""


def _check_padding(name: str, kind: str, end: int, at: int, rest: bytes = b"") -> None:
    """Check that a valid number of zero bytes follows the end of a member, up to `at`, and that the
    next bytes begin another member."""
    follows = any(rest[: len(mark)] == mark[: len(rest)] for mark in MARKS[kind])
    if (at - end) % (KINDS[kind].zeros or 1) or not follows:
        raise WorkerError(f"{name} has other bytes after its {kind}, from byte {end} on: {AGAIN}")


def _explain(name: str, kind: str, at: int, error: str) -> WorkerError:
    if "memory" in error.lower():
        return WorkerError(
            f"{name} is {kind} with a window of more than {MEMORY >> 20} MiB (zstd: "
            f"{1 << WINDOW >> 20} MiB): compress it again with a smaller window, such as xz -9"
        )
    return WorkerError(f"{name} is damaged {kind} near byte {at} ({error}): {AGAIN}")
