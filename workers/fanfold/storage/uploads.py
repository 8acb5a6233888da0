"""Uploads: one PUT, a multipart upload, an object being written, and how a copy is divided into
parts."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import md5
from io import BufferedReader, RawIOBase
from typing import Any, Self

import oss2

from fanfold.errors import WorkerError
from fanfold.storage.folder import Segment
from fanfold.storage.retries import UploadEndedError

LEAST = 100 << 10  # bytes: the smallest part that OSS takes, except for the last one
SENT = 4 << 20  # bytes at which the worker sends a part of small segments
MOST = 256 << 20  # bytes that OSS copies per request: it answers when the copy is complete
MAX_PARTS = 10_000  # of an upload, a limit of OSS
BODY = 64 << 10  # bytes of a body that are read together
FIRST, GROWTH = 8 << 20, 20 << 10  # bytes: a part that is written, and how much larger the next is


def part_size(number: int) -> int:
    """The size of a part of an object that is written, from number 0 on. MAX_PARTS of them hold
    1 TiB; the part held in memory has 8 MiB at first and 203 MiB then."""
    return FIRST + number * GROWTH


def upload_parts(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """The parts of an upload of these segments, one after the other. A part is one segment of
    LEAST to MOST bytes, which OSS copies; or it is several smaller ones and as much of the next as
    makes them LEAST bytes together. Only the last part may have fewer. Of a very large object the
    parts have more than MOST bytes."""
    most = max(MOST, 2 * sum(size for *_, size in segments) // MAX_PARTS)
    held: list[Segment] = []
    size = 0
    for name, version, start, rest in segments:
        at, length = start, rest
        while length:
            if length >= LEAST and (not held or size >= LEAST):
                if held:
                    yield held
                    held, size = [], 0
                take = min(length, most)
                yield [(name, version, at, take)]
            else:
                take = min(length, LEAST - size) if length >= LEAST else length
                held.append((name, version, at, take))
                size += take
                if size >= SENT:
                    yield held
                    held, size = [], 0
            at, length = at + take, length - take
    if held:
        yield held


def attempts_at(key: str) -> str:
    """What the keys of all attempts at one output begin with: the key without its nonce."""
    return re.sub(r"-[0-9a-f]{16}([.][\w.-]+)?$", "-", key)


def is_copied(part: list[Segment]) -> bool:
    """Whether OSS copies this part of an upload."""
    return len(part) == 1 and part[0][3] >= LEAST


class Body(RawIOBase):
    """Pieces as the body of a request, with one of them in memory at a time."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def put(
    bucket: oss2.Bucket, key: str, ask: Callable[[Callable[[], Any]], Any], pieces: Iterable[bytes]
) -> tuple[str, int]:
    """Make an object by one request, of pieces that can be gone through again; its version and its
    size. `ask` makes a request."""
    digest, size = md5(usedforsecurity=False), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    # With it OSS refuses what was damaged on the way.
    headers = {"Content-MD5": b64encode(digest.digest()).decode()}

    def request() -> Any:
        body = oss2.SizedFileAdapter(BufferedReader(Body(pieces), BODY), size)
        return bucket.put_object(key, body, headers)

    return str(ask(request).etag), size


class Upload:
    """A multipart upload, which is aborted if it is not completed."""

    def __init__(
        self,
        bucket: oss2.Bucket,
        key: str,
        ask: Callable[[Callable[[], Any]], Any],
        known: str = "",
    ) -> None:
        """Begin it, or take the one with the id `known`. `ask` makes a request."""
        self.bucket, self.key, self.ask = bucket, key, ask
        self.id = known or str(ask(lambda: bucket.init_multipart_upload(key).upload_id))

    def __enter__(self) -> Self:
        """It has begun."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Abort it after an error."""
        if kind:
            self.abort()

    def send(self, number: int, body: bytes) -> oss2.models.PartInfo:
        sent = self.ask(lambda: self.bucket.upload_part(self.key, self.id, number, body))
        return oss2.models.PartInfo(number, sent.etag)

    def complete(self, sent: list[oss2.models.PartInfo]) -> str:
        """Complete it; return the version of the object."""
        request = self.bucket.complete_multipart_upload
        return str(self.ask(lambda: request(self.key, self.id, sent)).etag)

    def end_others(self) -> None:
        """Abort the uploads that killed attempts at this output left, which OSS bills. Only after
        this one is complete, so that two workers cannot abort each other forever."""
        ours = attempts_at(self.key)
        pages = oss2.MultipartUploadIterator(self.bucket, ours, max_retries=1)
        while (left := self.ask(lambda: next(pages, None))) is not None:
            if attempts_at(left.key) == ours:
                Upload(self.bucket, left.key, self.ask, left.upload_id).abort()

    def abort(self) -> None:
        """Abort it, as far as that is possible now."""
        with suppress(WorkerError, OSError):
            self.ask(lambda: self.bucket.abort_multipart_upload(self.key, self.id))


class Writer:
    """An object being written: one PUT if it is small, else an upload."""

    def __init__(
        self,
        name: str,
        upload: Callable[[], Upload],
        put: Callable[[Iterable[bytes]], Segment],
        look: Callable[[], Any],
    ) -> None:
        self.name, self._begin, self._put, self._look = name, upload, put, look
        self.made: Segment | None = None
        self.begun, self.held, self.size = False, bytearray(), 0
        self.upload: Upload | None = None
        self.sent: list[oss2.models.PartInfo] = []

    def __enter__(self) -> Self:
        """It is begun with the first bytes."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish it, or remove what there is of it."""
        try:
            if not kind:
                self.publish()
        finally:
            if self.upload and not self.made:  # SIGTERM, too
                self.upload.abort()

    def write(self, data: bytes) -> None:
        self.begun = True
        self.held += data
        while len(self.held) >= (step := part_size(len(self.sent))):
            self._send(step)

    def _send(self, length: int) -> None:
        self.upload = self.upload or self._begin()
        with memoryview(self.held) as held:
            body = bytes(held[:length])
        del self.held[:length]
        self.sent.append(self.upload.send(len(self.sent) + 1, body))
        self.size += length

    def publish(self) -> None:
        if not self.upload:
            self.made = self._put([bytes(self.held)]) if self.begun else None
            return
        if self.held:
            self._send(len(self.held))
        self.made = self.name, self._complete(self.upload), 0, self.size
        if attempts_at(self.upload.key) == self.upload.key:
            # What a killed attempt at this name left. Those at a name with a nonce may be at work.
            self.upload.end_others()

    def _complete(self, upload: Upload) -> str:
        """The version of the whole object. If OSS knows the upload no more and the object is there,
        the answer to an earlier request was lost."""
        try:
            return upload.complete(self.sent)
        except UploadEndedError:
            with suppress(FileNotFoundError):
                if (found := self._look()).size == self.size:
                    return str(found.version)
            raise
