"""Decode: the text within a compressed file, proven whole by the checksums that the file has."""

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

# Bytes fed at once. A decoder copies what follows a member: of small members, once per member.
CHUNK = 64 * 1024
MEMORY = 96 * 1024 * 1024  # for xz: -9 needs 65 MiB
WINDOW = 27  # for zstd: 2 to the power of this, 128 MiB, the limit of its own tool

AGAIN = "put the whole file there, or compress it again"


class Gzip:
    """Decompresses one member, with the methods of the other modules, which zlib lacks."""

    def __init__(self, zlib: Any) -> None:
        self._zlib, self.needs_input = zlib.decompressobj(16 + zlib.MAX_WBITS), True
        self.eof, self.unused_data = False, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The next bytes of the text, at most so many."""
        text: bytes = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = len(text) < max_length  # if not, zlib may hold back more
        self.eof, self.unused_data = self._zlib.eof, self._zlib.unused_data
        return text


class Kind:
    """A format: the module, imported only for a file of it, and how a member is decompressed."""

    def __init__(self, module: str, make: Callable[[Any], Any], error: str, zeros: int = 0) -> None:
        """`make` gives what has the methods of bz2.BZ2Decompressor. `error` is the name of an error
        in the module, unless that is OSError or EOFError. As many `zeros` may follow a member, or a
        multiple of these."""
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
# What a file with such a name is. Empty, or damaged in its first bytes, it would pass for text.
NAMES = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
MARKS = {kind: tuple(mark for mark, what, _ in FORMATS if what == kind) for kind in KINDS}


def is_compressed(name: str, start: bytes) -> bool:
    """Whether a file is compressed by its first bytes, formats.SIZE of them or all, or should be by
    its name."""
    return _find_kind(start) is not None or _named(name) is not None


def decode(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The text of a stored file, in pieces of at most 1 MiB if `pieces` are.

    The first bytes decide: gzip, bzip2, xz and zstd are decompressed, all else passes unchanged. A
    file that is cut, damaged or followed by other bytes is an error, though only after the text
    before the damage: nothing may be published before the end. Text in UTF-16, or a compressed file
    within the compressed one, is refused before the first byte. At the end all pieces were read.
    """
    held, start = _begin(pieces)
    text = chain(held, pieces)
    kind, said = _find_kind(start), _named(name)
    if said and not kind:
        raise WorkerError(
            f"{name} has the name of {said} and does not begin as {said}: {AGAIN}; if it is none, "
            "give it another name"
        )
    if kind:
        text = chain(_decompress(name, kind, text))
        name = f"{name}, decompressed,"
        held, start = _begin(text)
        text = chain(held, text)
    refuse_coded(name, start)
    yield from text


def _begin(pieces: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """The pieces that hold the first bytes, and these bytes."""
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
            f"{name} is {kind}, for which Python {sys.version.split()[0]} has no module "
            f"{how.module}: use an image that has it (for zstd: Python 3.14), compress the file "
            "with gzip instead, or let the program take {input} and decompress it"
        ) from None
    member = None
    at = end = 0  # how much was fed, and where the last whole member ended
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
    if (at - end) % (KINDS[kind].zeros or 1) or not follows:
        raise WorkerError(f"{name} has other bytes after its {kind}, from byte {end} on: {AGAIN}")


def _explain(name: str, kind: str, at: int, error: str) -> WorkerError:
    if "memory" in error.lower():
        return WorkerError(
            f"{name} is {kind} with a window that takes more memory than {MEMORY >> 20} MiB (zstd: "
            f"{1 << WINDOW >> 20} MiB): compress it again with a smaller one, such as that of xz -9"
        )
    return WorkerError(f"{name} is damaged {kind}, near byte {at}: {error}: {AGAIN}")
