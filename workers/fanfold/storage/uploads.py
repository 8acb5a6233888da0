"""Uploads: one PUT, a multipart upload, an object that is being written, and the parts of a
copy."""

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

LEAST = 100 << 10  # bytes: the smallest part that OSS accepts, except the last part
SENT = 4 << 20  # bytes after which the worker sends a part of small segments
MOST = 256 << 20  # bytes that OSS copies per request: OSS answers when the copy is complete
MAX_PARTS = 10_000  # per upload, a limit of OSS
BODY = 64 << 10  # bytes per read of a body
FIRST, GROWTH = 8 << 20, 20 << 10  # bytes of the first part that is written, and more per part


def part_size(number: int) -> int:
    """Return the size of a part of a written object, counted from 0. MAX_PARTS parts are 1 TiB. The
    part in memory grows from 8 MiB to 203 MiB."""
    return FIRST + number * GROWTH


def upload_parts(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield the parts of an upload of these segments, in order. A part is one segment of LEAST to
    MOST bytes, which OSS copies; or several smaller segments and enough of the next to make LEAST
    bytes. Only the last part may be smaller. For a very large object the parts are larger than
    MOST."""
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
    """Return the prefix of the keys of all attempts at an output: the key without its nonce."""
    return re.sub(r"-[0-9a-f]{16}([.][\w.-]+)?$", "-", key)


def is_copied(part: list[Segment]) -> bool:
    """Whether OSS copies this part of an upload."""
    return len(part) == 1 and part[0][3] >= LEAST


class Body(RawIOBase):
    """Pieces as the body of a request, with one piece in memory at a time."""

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
    """Create an object with one request, from pieces that can be iterated again. Returns its
    version and size. `ask` sends a request."""
    digest, size = md5(usedforsecurity=False), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    # With this checksum, OSS refuses data that was damaged in transit.
    headers = {"Content-MD5": b64encode(digest.digest()).decode()}

    def request() -> Any:
        body = oss2.SizedFileAdapter(BufferedReader(Body(pieces), BODY), size)
        return bucket.put_object(key, body, headers)

    return str(ask(request).etag), size


class Upload:
    """A multipart upload, aborted unless it is completed."""

    def __init__(
        self,
        bucket: oss2.Bucket,
        key: str,
        ask: Callable[[Callable[[], Any]], Any],
        known: str = "",
    ) -> None:
        """Begin an upload, or take over the upload with the id `known`. `ask` sends a request."""
        self.bucket, self.key, self.ask = bucket, key, ask
        self.id = known or str(ask(lambda: bucket.init_multipart_upload(key).upload_id))

    def __enter__(self) -> Self:
        """Nothing: __init__ begins the upload."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Abort the upload after an error."""
        if kind:
            self.abort()

    def send(self, number: int, body: bytes) -> oss2.models.PartInfo:
        sent = self.ask(lambda: self.bucket.upload_part(self.key, self.id, number, body))
        return oss2.models.PartInfo(number, sent.etag)

    def complete(self, sent: list[oss2.models.PartInfo]) -> str:
        """Complete the upload and return the version of the object."""
        request = self.bucket.complete_multipart_upload
        return str(self.ask(lambda: request(self.key, self.id, sent)).etag)

    def end_others(self) -> None:
        """Abort the uploads that killed attempts at this output left, which OSS bills. Call this
        only after this upload is complete, so that two workers cannot abort each other forever."""
        prefix = attempts_at(self.key)
        pages = oss2.MultipartUploadIterator(self.bucket, prefix, max_retries=1)
        while (left := self.ask(lambda: next(pages, None))) is not None:
            if attempts_at(left.key) == prefix:
                Upload(self.bucket, left.key, self.ask, left.upload_id).abort()

    def abort(self) -> None:
        """Abort the upload and ignore errors."""
        with suppress(WorkerError, OSError):
            self.ask(lambda: self.bucket.abort_multipart_upload(self.key, self.id))


class Writer:
    """An object that is being written: one PUT if it is small, otherwise a multipart upload."""

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
        """Nothing: the first write begins the object."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish the object, or abort its upload."""
        try:
            if not kind:
                self.publish()
        finally:
            if self.upload and not self.made:  # also SIGTERM
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
            # Killed attempts at this name left these. Attempts at a name with a nonce may still
            # run.
            self.upload.end_others()

    def _complete(self, upload: Upload) -> str:
        """Return the version of the complete object. If OSS no longer knows the upload and the
        object exists, the answer to an earlier request was lost."""
        try:
            return upload.complete(self.sent)
        except UploadEndedError:
            with suppress(FileNotFoundError):
                if (found := self._look()).size == self.size:
                    return str(found.version)
            raise
