"""The contents of buckets: immutable pieces of files. So a GET uses sendfile, a copy by ranges
copies no bytes, and a download is not changed by a replacement."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import secrets
import threading
import time
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

CHUNK = 1 << 18
POLYNOMIAL = 0xC96C5795D7870F42  # ECMA-182 as in XZ: reversed bits


def _crc64_function() -> Callable[[bytes, int], int]:
    try:
        library = ctypes.CDLL("liblzma.so.5")  # fast, and other threads can run
    except OSError:
        import crcmod  # type: ignore[import-untyped]

        slow: Callable[[bytes, int], int] = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, 0, True, 2**64 - 1)
        return slow
    library.lzma_crc64.restype = ctypes.c_uint64
    library.lzma_crc64.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return lambda data, crc: int(library.lzma_crc64(data, len(data), crc))


crc64 = _crc64_function()


@cache
def _zeros(power: int) -> list[int]:
    """Return the effect of 2**power zero bytes on each bit of a CRC."""
    if power == 0:
        step = [POLYNOMIAL] + [1 << bit for bit in range(63)]  # one zero bit
        for _ in range(3):
            step = [_times(step, column) for column in step]
        return step
    half = _zeros(power - 1)
    return [_times(half, column) for column in half]


def _times(matrix: list[int], vector: int) -> int:
    result = 0
    while vector:
        low = vector & -vector
        result ^= matrix[low.bit_length() - 1]
        vector ^= low
    return result


def combined(first: int, second: int, length: int) -> int:
    """Return the CRC of two byte strings together; `length` is the length of the second."""
    for power in range(length.bit_length()):
        if length >> power & 1:
            first = _times(_zeros(power), first)
    return first ^ second


class Blob:
    """A file with the body of one request, deleted with the last object that uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = weakref.finalize(self, _unlink, path)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


class Piece(NamedTuple):
    """A range of a blob."""

    blob: Blob
    offset: int
    length: int


@dataclass(frozen=True)
class Content:
    """Bytes, with their checksums."""

    pieces: tuple[Piece, ...]
    size: int
    md5: bytes
    crc: int | None  # copies by OSS may have none

    @property
    def crc_header(self) -> str:
        """Return the CRC for an answer; an empty header is not sent."""
        return "" if self.crc is None else str(self.crc)

    def cut(self, offset: int, length: int) -> tuple[Piece, ...]:
        """Return a range of the content."""
        found, at = [], 0
        for piece in self.pieces:
            first, last = max(offset - at, 0), min(offset + length - at, piece.length)
            if first < last:
                found.append(Piece(piece.blob, piece.offset + first, last - first))
            at += piece.length
        return tuple(found)


def read(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Return the bytes of pieces."""
    for blob, offset, length in pieces:
        with blob.path.open("rb") as file:
            file.seek(offset)
            for start in range(0, length, CHUNK):
                yield file.read(min(length - start, CHUNK))


def measured(pieces: tuple[Piece, ...], *, with_crc: bool = True) -> Content:
    """Return a content made of pieces of others."""
    md5, crc = hashlib.md5(usedforsecurity=False), 0
    for data in read(pieces):
        md5.update(data)
        crc = crc64(data, crc)
    size = sum(piece.length for piece in pieces)
    return Content(pieces, size, md5.digest(), crc if with_crc else None)


@dataclass(frozen=True)
class Object:
    """An object, with the headers of its writer."""

    content: Content
    etag: str
    kind: str = "Normal"
    headers: dict[str, str] = field(default_factory=dict)
    modified: float = field(default_factory=time.time)

    @classmethod
    def put(cls, content: Content, headers: dict[str, str]) -> Object:
        """Return an object from one request: its ETag is its MD5."""
        return cls(content, content.md5.hex().upper(), headers=headers)

    @classmethod
    def joined(cls, parts: list[Part], headers: dict[str, str]) -> Object:
        """Return an object from parts: its ETag is not the MD5 of the whole."""
        crc: int | None = 0
        size = 0
        pieces: list[Piece] = []
        for part in parts:
            more = part.content.crc
            crc = None if crc is None or more is None else combined(crc, more, part.content.size)
            size += part.content.size
            pieces.extend(part.content.pieces)
        sums = b"".join(part.content.md5 for part in parts)
        md5 = hashlib.md5(sums, usedforsecurity=False)
        etag = f"{md5.hexdigest().upper()}-{len(parts)}"
        return cls(Content(tuple(pieces), size, b"", crc), etag, "Multipart", headers)

    def described(self) -> dict[str, str]:
        """Return the headers for a GET or HEAD."""
        headers = {
            **self.headers,
            "ETag": f'"{self.etag}"',
            "Accept-Ranges": "bytes",
            "x-oss-object-type": self.kind,
            "x-oss-storage-class": "Standard",
            "x-oss-hash-crc64ecma": self.content.crc_header,
        }
        if self.kind == "Normal":
            headers["Content-MD5"] = base64.b64encode(self.content.md5).decode()
        return headers


@dataclass(frozen=True)
class Part:
    """A part of an upload."""

    content: Content
    modified: float = field(default_factory=time.time)

    @property
    def etag(self) -> str:
        """Return its MD5."""
        return self.content.md5.hex().upper()


@dataclass
class Upload:
    """An open multipart upload: it is billed."""

    key: str
    headers: dict[str, str]
    id: str = field(default_factory=lambda: secrets.token_hex(16).upper())
    parts: dict[int, Part] = field(default_factory=dict)
    begun: float = field(default_factory=time.time)


class Bucket:
    """Objects and uploads by name. Take the lock for changes."""

    def __init__(self, name: str, region: str, folder: Path) -> None:
        self.name, self.region, self.folder = name, region, folder
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, Upload] = {}
        self.lock = threading.RLock()
        self._sorted: list[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def receive(self, data: Iterable[bytes]) -> Content:
        """Store bytes; nothing is kept after an error."""
        blob = Blob(self.folder / secrets.token_hex(8))
        md5, crc, size = hashlib.md5(usedforsecurity=False), 0, 0
        with blob.path.open("xb") as file:
            for piece in data:
                file.write(piece)
                md5.update(piece)
                crc = crc64(piece, crc)
                size += len(piece)
        return Content((Piece(blob, 0, size),), size, md5.digest(), crc)

    def put(self, key: str, data: bytes) -> Object:
        """Create an object without a request."""
        made = Object.put(self.receive([data]), {"Content-Type": "application/octet-stream"})
        self.set(key, made)
        return made

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return b"".join(read(self.objects[key].content.pieces))

    def set(self, key: str, made: Object | None) -> None:
        """Replace or remove an object."""
        with self.lock:
            if (made is None) == (key in self.objects):
                self._sorted = None
            if made is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = made

    def names(self) -> list[str]:
        """Return all keys in byte order, which is the order of code points."""
        with self.lock:
            if self._sorted is None:
                self._sorted = sorted(self.objects)
            return self._sorted

    def listed(
        self, prefix: str, delimiter: str, after: str, most: int
    ) -> tuple[list[str], list[str], str]:
        """Return keys and common prefixes after a name, at most `most`, and the last of them if
        there are more."""
        names = self.names()
        keys: list[str] = []
        groups: list[str] = []
        last = ""
        for name in names[max(bisect_left(names, prefix), bisect_right(names, after)) :]:
            if not name.startswith(prefix):
                break
            end = name.find(delimiter, len(prefix)) if delimiter else -1
            group = name[: end + len(delimiter)] if end >= 0 else ""
            if group and (group == after or groups[-1:] == [group]):
                continue
            if len(keys) + len(groups) == most:
                return keys, groups, last
            last = group or name
            (groups if group else keys).append(last)
        return keys, groups, ""
