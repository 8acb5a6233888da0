"""Storage in a bucket of Alibaba Cloud OSS, without a mount: WORK_DIR=oss://BUCKET/PREFIX.

It imports oss2, which takes 0.2 s and 40 MB. Only open_storage imports this module. Rules:

- An object's version is its ETag. Every range request names the version: an input that is replaced
  during a run is always an error.
- An output is one PUT or one completed multipart upload: complete or absent.
- OSS itself copies ranges of the inputs. Only segments that are too small for this go through the
  worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice, repeat

import oss2
from oss2.exceptions import OssError
from requests.exceptions import RequestException

from fanfold import parallel
from fanfold.errors import ChangedError, RetryError, WorkerError
from fanfold.names import cut, nonce
from fanfold.parallel import LANES, MAX_LANES, map_in_order
from fanfold.settings import SCHEME, is_true, prefix_of, run_dir, whole_number
from fanfold.storage import credentials, uploads
from fanfold.storage.folder import PIECE, Segment
from fanfold.storage.listing import PAGE, Listing
from fanfold.storage.retries import Answer, UploadEndedError, ask
from fanfold.storage.session import open_session
from fanfold.storage.uploads import Upload, Writer
from fanfold.storage.walk import Wanted

AHEAD = 96 << 20  # bytes of ranges in flight, over all connections: hides the latency
WHOLE = 4 << 20  # bytes of the largest object that is read with one request
TIMEOUT = (10, 60)  # seconds: to connect, and between two bytes
UPLOADS = 3  # attempts per object if other workers abort the upload


def open_storage(environ: Mapping[str, str]) -> tuple[Bucket, Bucket]:
    """Open the prefix that WORK_DIR names, and RUN_DIR in it."""
    name, _, prefix = environ["WORK_DIR"].removeprefix(SCHEME).partition("/")
    region = environ.get("OSS_REGION", "")
    if not re.fullmatch("[a-z0-9-]+", region):
        raise WorkerError(
            f"OSS_REGION must be a region like cn-hangzhou, got {region!r}: set the bucket's region"
        )
    endpoint = environ.get("OSS_ENDPOINT") or f"https://oss-{region}-internal.aliyuncs.com"
    connections = whole_number("OSS_CONNECTIONS", environ.get("OSS_CONNECTIONS", "4"), 1, MAX_LANES)
    auth = oss2.ProviderAuthV4(credentials.find(environ, region))
    oss2.logger.setLevel("CRITICAL")  # its messages may contain keys; errors are raised
    try:
        if not re.fullmatch(r"https?://[\w-]{1,63}(\.[\w-]{1,63})*(:\d+)?/?", endpoint):
            raise ValueError
        session = open_session(endpoint, name, max(Bucket.copies_at_once * LANES, connections))
        # A range has no CRC to compare, but the client would compute one.
        bucket, ranges = (
            oss2.Bucket(
                auth, endpoint, name, is_true(environ, "OSS_CNAME"), session=session,
                region=region, connect_timeout=TIMEOUT, enable_crc=crc,
            )
            for crc in (True, False)
        )  # fmt: skip
    except (OssError, ValueError):
        shown = endpoint.rpartition("@")[2].partition("?")[0]  # without keys
        raise WorkerError(
            f"OSS_ENDPOINT must be a URL with a name or an IPv4 address as host, got {shown!r}: "
            f"use for example https://oss-{region}.aliyuncs.com"
        ) from None
    root = prefix_of("The prefix in WORK_DIR", prefix, environ)
    run_root = root + run_dir(environ)
    return Bucket(bucket, ranges, root, connections), Bucket(bucket, ranges, run_root, connections)


class Object:
    """An object of one version. Its size is requested only when needed and unknown. A listing has
    no Content-Encoding; `looked` is True after a request that returned it."""

    __slots__ = ("_size", "bucket", "looked", "name", "version")

    def __init__(
        self, bucket: Bucket, name: str, version: str, size: int | None = None, looked: bool = False
    ) -> None:
        self.bucket, self.name, self.version = bucket, name, version
        self._size, self.looked = size, looked

    @property
    def size(self) -> int:
        if self._size is None:
            found = self.bucket.look(self.name)
            if found.version != self.version:
                raise ChangedError(self.name, f"version {self.version}", found.version)
            self._size = found.size
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        return b"".join(self.bucket.fetch(self, offset, length)) if length > 0 else b""

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        return self.bucket.read([(self.name, self.version, offset, length)])

    def data(self, offset: int) -> int:
        return offset


class Bucket:
    """The objects below a prefix of a bucket."""

    copies_at_once = 4  # each copy makes several requests, one at a time

    def __init__(self, bucket: oss2.Bucket, ranges: oss2.Bucket, root: str, lanes: int) -> None:
        self.bucket, self.ranges, self.root, self.lanes = bucket, ranges, root, lanes
        self.seen: dict[str, Object] = {}  # the last answer of OSS for each name
        self.listing = Listing(bucket, root, self.ask)

    def path(self, name: str) -> str:
        return f"{SCHEME}{self.bucket.bucket_name}/{self.root}{name}"

    real = path
    likely = staticmethod(iter)  # a request for a missing object hides nothing

    def ask(self, name: str, request: Callable[[], Answer], version: str = "") -> Answer:
        """Return the answer to a request about a name, see retries.py. Raises FileNotFoundError."""
        return ask(self.bucket, self.path(name), request, version)

    def look(self, name: str) -> Object:
        """Return an object as it is now. Raises FileNotFoundError."""
        found = self.ask(name, lambda: self.bucket.head_object(self.root + name))
        self.refuse_coded(name, found)
        self.seen[name] = Object(self, name, found.etag, found.content_length, looked=True)
        return self.seen[name]

    def at(self, name: str, version: str, size: int | None = None) -> Object:
        """Return an object of a version. The first request fails if the object has changed."""
        seen = self.seen.get(name)
        return seen if seen and seen.version == version else Object(self, name, version, size)

    def refuse_coded(self, name: str, found: oss2.models.HeadObjectResult) -> None:
        """Refuse an object that is stored compressed."""
        coding = str(found.headers.get("Content-Encoding"))
        if re.search("gzip|deflate|compress|br|zstd", coding, re.IGNORECASE):
            raise WorkerError(
                f"{self.path(name)} must have no Content-Encoding, got {coding}: store it "
                "decompressed"
            )

    @contextmanager
    def open(self, name: str, version: str = "", size: int | None = None) -> Iterator[Object]:
        listed = None if version else self.seen.get(name)
        if not listed or listed.looked:
            yield self.at(name, version, size) if version else self.look(name)
        else:
            yield listed
            if not listed.looked:  # use each listing entry once, to save memory
                self.seen.pop(name, None)

    def read(self, segments: Iterable[Segment], lanes: int = 0) -> Iterator[bytes]:
        lanes = lanes or self.lanes

        def ranges() -> Iterator[tuple[Object, int, int]]:
            for name, version, offset, length in segments:
                file, end = self.at(name, version), offset + length
                step = min(AHEAD // lanes, max(PIECE, -(-length // lanes)))
                yield from ((file, at, min(step, end - at)) for at in range(offset, end, step))

        for pieces in map_in_order(lambda one: self.fetch(*one), ranges(), 1, lanes, lanes):
            while pieces:  # free each piece after use
                yield pieces.pop(0)

    def fetch(self, file: Object, offset: int, length: int) -> list[bytes]:
        """Return exactly these bytes of a version, in pieces."""
        # Without the first header, OSS answers an invalid range with the whole object.
        headers = {"x-oss-range-behavior": "standard", "If-Match": f'"{file.version}"'}
        last = offset + length - 1

        def request() -> list[bytes]:
            found = self.ranges.get_object(self.root + file.name, (offset, last), headers)
            got = str(found.content_range)
            self.refuse_coded(file.name, found)
            file.looked = True
            if found.status != 206 or not got.startswith(f"bytes {offset}-{last}/"):
                found.resp.response.close()
                raise RequestException(f"got {found.status} {got} for bytes {offset}-{last}")
            pieces = list(iter(lambda: found.read(PIECE), b""))
            if sum(map(len, pieces)) != length:
                raise RequestException(f"got {sum(map(len, pieces))} of {length} bytes")
            return pieces

        return self.ask(file.name, request, file.version)

    def stream(self, name: str) -> Iterator[bytes]:
        def request() -> tuple[list[bytes], Object | None]:
            found = self.bucket.get_object(self.root + name)
            size = found.content_length
            if size > WHOLE:
                found.resp.response.close()
                return [], Object(self, name, found.etag, size)
            pieces = list(iter(lambda: found.read(PIECE), b""))
            if sum(map(len, pieces)) != size:
                raise RequestException(f"got {sum(map(len, pieces))} of {size} bytes")
            oss2.utils.check_crc("get", found.client_crc, found.server_crc, found.request_id)
            return pieces, None

        pieces, large = self.ask(name, request)
        yield from large.pieces(0, large.size) if large else pieces

    def names(self, folder: str, wanted: Wanted | None = None) -> Iterator[str]:
        for name, found in self.listing.files(folder, wanted):
            self.seen[name] = Object(self, name, found.etag, found.size)
            yield name

    def versions(self, names: Iterable[str]) -> Iterator[tuple[str, int, str] | None]:
        def look(batch: list[str]) -> list[tuple[str, int, str] | None]:
            found = self.listing.look_up(batch)
            there = {name: (name, one.size, one.etag) for name, one in found.items()}
            return [there.get(name) for name in batch]

        waiting = iter(names)
        batches = iter(lambda: list(islice(waiting, PAGE)), [])
        return chain.from_iterable(map_in_order(look, batches))

    def folders(self, folder: str) -> list[str]:
        found = self.listing.below(folder, "/")
        return [one.key[len(self.root) :] for one in found if one.is_prefix()]

    def make_folder(self, folder: str) -> None:
        pass  # a bucket has no folders

    def remove(self, name: str) -> None:
        self.ask(name, lambda: self.bucket.delete_object(self.root + name))

    def has(self, name: str) -> bool:
        return self.listing.has(name)

    def writer(self, name: str) -> Writer:
        actions = partial(self.upload, name), partial(self.put, name), partial(self.look, name)
        return Writer(name, *actions)

    def checksum(self, name: str) -> str:
        found = self.ask(name, lambda: self.bucket.head_object(self.root + name))
        # Objects that OSS made from copies may have no CRC.
        return f"etag:{found.etag}" if found.server_crc is None else f"crc64:{found.server_crc}"

    def put(self, name: str, pieces: Iterable[bytes]) -> Segment:
        version, size = uploads.put(self.bucket, self.root + name, partial(self.ask, name), pieces)
        return name, version, 0, size

    def copy(self, name: str, inputs: Bucket, segments: Iterable[Segment]) -> Segment:
        parts = list(uploads.upload_parts(list(segments)))
        if not parts or (len(parts) == 1 and not uploads.is_copied(parts[0])):
            return self.put(name, list(inputs.read(chain.from_iterable(parts), LANES)))
        if len(parts) > uploads.MAX_PARTS:
            return self._copy_in_steps(name, inputs, parts)
        sources = dict.fromkeys(part[0][:2] for part in parts if uploads.is_copied(part))
        listed = (source for source, version in sources if not inputs.at(source, version).looked)
        for _ in map_in_order(inputs.look, listed):  # refuses objects that are stored compressed
            pass
        size = sum(segment[3] for part in parts for segment in part)
        for _ in range(UPLOADS):
            with suppress(UploadEndedError):
                return name, self._copy_parts(name, inputs, parts), 0, size
        raise RetryError(
            f"{self.path(name)}: other workers have ended the upload {UPLOADS} times: a retry can "
            "help"
        )

    def _copy_in_steps(self, name: str, inputs: Bucket, parts: Sequence[list[Segment]]) -> Segment:
        """Copy more parts than an upload can have: first into several objects, then these."""
        most = uploads.MAX_PARTS
        steps = [parts[at : at + most] for at in range(0, len(parts), most)]
        stem = cut(self.root + name, 1000)[len(self.root) :]  # of the 1023 bytes of a key
        names = [f"{stem}-{nonce()}" for _ in steps]
        try:
            made = map(self.copy, names, repeat(inputs), map(chain.from_iterable, steps))
            return self.copy(name, self, made)
        finally:
            for step in names:
                with suppress(WorkerError, OSError):
                    self.remove(step)

    def _copy_parts(self, name: str, inputs: Bucket, parts: Iterable[list[Segment]]) -> str:
        """Make a multipart upload, of parts that OSS copies and parts that the worker sends.
        Returns the version."""
        bucket, key = self.bucket.bucket_name, self.root + name

        def send(number: int, part: list[Segment]) -> oss2.models.PartInfo:
            if parallel.terminated:
                raise RetryError(f"{self.path(name)}: received SIGTERM")
            if not uploads.is_copied(part):
                return upload.send(number, b"".join(inputs.read(part, 1)))
            ((source, version, offset, length),) = part
            copied = inputs.root + source, (offset, offset + length - 1)
            target = key, upload.id, number, {"x-oss-copy-source-if-match": version}
            request = partial(self.bucket.upload_part_copy, bucket, *copied, *target)
            return oss2.models.PartInfo(number, inputs.ask(source, request, version).etag)

        with self.upload(name) as upload:
            numbered = enumerate(parts, 1)
            sent = list(map_in_order(lambda one: send(*one), numbered, ahead=LANES, reads=False))
            version = upload.complete(sent)
        upload.end_others()
        return version

    def upload(self, name: str) -> Upload:
        """Begin a multipart upload."""
        return Upload(self.bucket, self.root + name, partial(self.ask, name))
