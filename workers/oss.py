"""Storage in a bucket of Alibaba Cloud OSS, without a mount: WORK_DIR=oss://BUCKET/PREFIX.

The two classes of store.py over oss2, which takes 0.2 s to import and 40 MB: only `open_stores`
imports this, and only for such a WORK_DIR. What holds here:

- an object's version is its ETag, and every range is asked for with it: an input that is replaced
  under a run is an error, whichever moment it happens at;
- an output is one PUT or one completed multipart upload: whole, or absent;
- a copy is made by OSS itself, out of ranges of the inputs; no byte of it comes through here,
  except of segments too small for that.
"""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

import credentials
import oss2
from contract import RetryError, Segment, WorkerError, changed, inside, run_dir, whole_number
from oss2.exceptions import OssError
from requests.exceptions import RequestException
from store import LANES, MOST_LANES, PIECE, File, Store, each

Answer = TypeVar("Answer")

SCHEME = "oss://"
AHEAD = 96 << 20  # bytes of ranges in flight, over all connections: what hides the latency
BLOCK = 4 << 20  # bytes of an upload's part that go through here, or of an object in one request
LEAST = 100 << 10  # bytes: OSS takes no smaller part of an upload, but the last one
MOST = 256 << 20  # bytes OSS is to copy in one request: it answers when it is done
MOST_PARTS = 10_000  # of an upload, says OSS
TIMEOUT = (10, 60)  # seconds: to connect, and between two bytes
ATTEMPTS = 8  # of a request; with their pauses about half a minute
PATIENCE = 120  # seconds after which a request that hangs is not made again
PAUSES = 0.2, 10.0  # seconds: at most the first, and at most any
UPLOADS = 3  # of an object, while other workers end them

REMEDIES = {
    "AccessDenied": "give the key or the role the right to it",
    "InvalidAccessKeyId": "give a key that exists and is enabled",
    "SignatureDoesNotMatch": "give the secret of this key, and the OSS_REGION of the bucket",
    "SecurityTokenExpired": "give a token that has not ended",
    "RequestTimeTooSkewed": "set the clock of the node right",
    "NoSuchBucket": "name a bucket that exists in WORK_DIR",
    "InvalidObjectState": "restore the object from the archive before, and wait until it is",
    "InvalidObjectName": "choose another name",
    "UserDisable": "settle the account that owns the bucket",
}


class UploadEndedError(RetryError):
    """The upload at hand is no more."""


def open_stores(environ: Mapping[str, str]) -> tuple[Bucket, Bucket]:
    """What WORK_DIR names, and RUN_DIR in it."""
    work_dir = environ["WORK_DIR"]
    name, _, prefix = work_dir.removeprefix(SCHEME).partition("/")
    if not oss2.is_valid_bucket_name(name):
        shown = SCHEME + work_dir.removeprefix(SCHEME).rpartition("@")[2]  # a key may stand before
        raise WorkerError(f"WORK_DIR is {shown!r}: give oss://BUCKET/PREFIX, of a bucket's name")
    region = environ.get("OSS_REGION", "")
    if not re.fullmatch("[a-z0-9-]+", region):
        raise WorkerError(
            f"OSS_REGION is {region!r}: give the region of the bucket, as in cn-hangzhou"
        )
    endpoint = environ.get("OSS_ENDPOINT") or f"https://oss-{region}-internal.aliyuncs.com"
    connections = whole_number(
        "OSS_CONNECTIONS", environ.get("OSS_CONNECTIONS", "4"), 1, MOST_LANES
    )
    auth = oss2.ProviderAuthV4(credentials.find(environ, region))
    session = oss2.Session(pool_size=max(Bucket.copies_at_once * LANES, connections))
    oss2.logger.setLevel("CRITICAL")  # what matters is raised; what it would write may hold keys
    try:
        if not re.fullmatch(r"https?://[\w-]{1,63}(\.[\w-]{1,63})*(:\d+)?/?", endpoint):
            raise ValueError
        # A range has no CRC of its own to compare, and the client would compute one all the same.
        bucket, ranges = (
            oss2.Bucket(
                auth, endpoint, name, session=session, region=region,
                connect_timeout=TIMEOUT, enable_crc=crc,
            )
            for crc in (True, False)
        )  # fmt: skip
    except (OssError, ValueError):
        shown = endpoint.rpartition("@")[2].partition("?")[0]  # keys may stand around it
        raise WorkerError(
            f"OSS_ENDPOINT is {shown!r}: give a URL, as in https://oss-{region}.aliyuncs.com"
        ) from None
    root = inside("The prefix in WORK_DIR", prefix.strip("/"))
    root += "/" * bool(root)
    run_root = root + run_dir(environ)
    return Bucket(bucket, ranges, root, connections), Bucket(bucket, ranges, run_root, connections)


class Object(File):
    """An object; its size is asked for only where it is needed and nobody has told it."""

    def __init__(self, bucket: Bucket, name: str, version: str, size: int | None) -> None:
        self.bucket, self.name, self.version, self._size = bucket, name, version, size

    @property
    def size(self) -> int:  # type: ignore[override]
        """Its bytes."""
        if self._size is None:
            version, self._size = self.bucket.look(self.name)
            if version != self.version:
                raise changed(self.name, f"version {self.version}", version)
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on; none only at the end."""
        length = min(length, self.size - offset)
        return b"".join(self.bucket.fetch(self, offset, length)) if length > 0 else b""

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Exactly these bytes, at most PIECE at a time, several ranges of them in flight."""
        lanes = self.bucket.connections
        step = min(AHEAD // lanes, max(PIECE, -(-length // lanes)))
        end = offset + length
        ranges = ((at, min(step, end - at)) for at in range(offset, end, step))
        answers: Iterator[list[bytes]]
        if length <= step:
            answers = (self.bucket.fetch(self, *one) for one in ranges)
        else:
            answers = each(lambda one: self.bucket.fetch(self, *one), ranges, 1, lanes, lanes)
        for pieces in answers:
            while pieces:  # let go of each as it is used
                yield pieces.pop(0)

    def data(self, offset: int) -> int:
        """Where the next stored byte lies: an object has no holes."""
        return offset


class Bucket(Store):
    """What lies below a prefix of a bucket."""

    copies_at_once = 4  # each some requests, one after the other

    def __init__(
        self, bucket: oss2.Bucket, ranges: oss2.Bucket, root: str, connections: int
    ) -> None:
        self.bucket, self.ranges, self.root, self.connections = bucket, ranges, root, connections
        self.known: dict[tuple[str, str], int] = {}  # sizes, by name and version
        self.looked: set[tuple[str, str]] = set()  # names and versions asked for one by one
        self.listed: dict[str, tuple[str, int]] = {}  # told by a listing and not yet used

    def path(self, name: str) -> str:
        """Where a name lies in OSS."""
        return f"{SCHEME}{self.bucket.bucket_name}/{self.root}{name}"

    def ask(self, name: str, request: Callable[[], Answer], version: str = "") -> Answer:
        """The answer to a request about a name; asked again, ever more slowly, while that can help.
        Raises FileNotFoundError, WorkerError for what is to be fixed, RetryError."""
        first, longest = PAUSES
        end = time.monotonic() + PATIENCE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request()
            except UnicodeError:
                raise WorkerError(
                    f"{self.path(name)!r} is not UTF-8, as all names in OSS are: choose another"
                ) from None
            except RequestException as error:
                said: object = error
                is_unknown = False
            except OssError as error:
                if not is_transient(error):
                    raise self.refusal(name, error, version) from None
                said = f"{error.status} {error.code}" if error.status > 0 else error.body
                is_unknown = is_of_no_host(error)
            if attempt == ATTEMPTS or time.monotonic() > end:
                break
            time.sleep(random.random() * min(longest, first * 2**attempt))  # noqa: S311
        endpoint = self.bucket.endpoint
        if is_unknown:
            raise WorkerError(
                f"OSS_ENDPOINT is {endpoint!r}, whose host no name server knows: set it, or the "
                "OSS_REGION that it is made of, right"
            )
        raise RetryError(
            f"{self.path(name)}: {said}, {attempt} times: a retry can help, if OSS_ENDPOINT is "
            f"right, which is {endpoint}"
        )

    def refusal(self, name: str, error: OssError, version: str) -> Exception:
        """What a refusal of OSS means."""
        if error.status == 412:
            return changed(self.path(name), f"version {version}", "another")
        if right := error.details.get("Endpoint"):  # of a bucket of another region
            return WorkerError(
                f"{self.path(name)}: the bucket is not at OSS_ENDPOINT, which is "
                f"{self.bucket.endpoint}, but at {right}: set OSS_ENDPOINT and OSS_REGION so"
            )
        if error.code == "NoSuchUpload":
            return UploadEndedError("its upload was ended by another worker: a retry can help")
        if error.status == 404 and error.code != "NoSuchBucket":
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path(name))
        remedy = REMEDIES.get(
            error.code,
            f"set the bucket, OSS_ENDPOINT, which is {self.bucket.endpoint}, OSS_REGION, which is "
            f"{self.bucket.region}, and the rights right",
        )
        return WorkerError(
            f"{self.path(name)}: OSS says {error.status} {error.code}: "
            f"{error.message} (request {error.request_id}): {remedy}"
        )

    # --- reading

    def look(self, name: str) -> tuple[str, int]:
        """An object's version and size. Raises FileNotFoundError."""
        found = self.ask(name, lambda: self.bucket.head_object(self.root + name))
        self.refuse_coded(name, found)
        self.looked.add((name, found.etag))
        self.known[name, found.etag] = found.content_length
        return found.etag, found.content_length

    def refuse_coded(self, name: str, found: oss2.models.HeadObjectResult) -> None:
        """Refuse an object whose bytes as they are stored are not those that it stands for."""
        coding = str(found.headers.get("Content-Encoding"))
        if re.search("gzip|deflate|compress|br|zstd", coding, re.IGNORECASE):
            raise WorkerError(
                f"{self.path(name)} has the Content-Encoding {coding}: put it there decompressed"
            )

    @contextmanager
    def open(self, name: str, version: str | None = None) -> Iterator[Object]:
        """An object to read, of the version that it has now or of the one that is given; another
        one shows itself at the first read."""
        if version:
            yield Object(self, name, version, self.known.get((name, version)))
        else:
            yield Object(self, name, *(self.listed.pop(name, None) or self.look(name)))

    def fetch(self, file: File, offset: int, length: int) -> list[bytes]:
        """Exactly these bytes of a version, in pieces."""
        # Without the first header OSS answers a wrong range with the whole object.
        headers = {"x-oss-range-behavior": "standard", "If-Match": f'"{file.version}"'}
        last = offset + length - 1

        def request() -> list[bytes]:
            found = self.ranges.get_object(self.root + file.name, (offset, last), headers)
            got = str(found.content_range)
            self.refuse_coded(file.name, found)
            if found.status != 206 or not got.startswith(f"bytes {offset}-{last}/"):
                found.resp.response.close()
                raise RequestException(f"bytes {offset}-{last} came as {found.status} {got}")
            pieces = list(iter(lambda: found.read(PIECE), b""))
            if sum(map(len, pieces)) != length:
                raise RequestException(f"of {length} bytes {sum(map(len, pieces))} came")
            return pieces

        return self.ask(file.name, request, file.version)

    def stream(self, name: str) -> Iterator[bytes]:
        """All of an object: in one request, unless it is large."""

        def request() -> tuple[list[bytes], Object | None]:
            found = self.bucket.get_object(self.root + name)
            size = found.content_length
            if size > BLOCK:
                found.resp.response.close()
                return [], Object(self, name, found.etag, size)
            pieces = list(iter(lambda: found.read(PIECE), b""))
            if sum(map(len, pieces)) != size:
                raise RequestException(f"of {size} bytes {sum(map(len, pieces))} came")
            oss2.utils.check_crc("get", found.client_crc, found.server_crc, found.request_id)
            return pieces, None

        pieces, large = self.ask(name, request)
        yield from large.pieces(0, large.size) if large else pieces

    def names(self, folder: str) -> list[str]:
        """Every object below a folder, in byte order of their names."""
        prefix = self.root + folder
        pages = oss2.ObjectIteratorV2(self.bucket, prefix, max_keys=1000, max_retries=1)
        names: list[str] = []
        for found in self.listing(folder, pages):
            name = found.key.removeprefix(self.root)
            if found.type == "Symlink" or (name.endswith("/") and found.size):
                raise WorkerError(
                    f"{self.path(name)} is a link, or has bytes and the name of a folder: put a "
                    "plain object in its place"
                )
            if not name.endswith("/"):  # a mount keeps its folders so
                names.append(name)
                self.listed[name] = found.etag, found.size
                self.known[name, found.etag] = found.size
        return names

    def listing(self, name: str, pages: Iterator[Answer]) -> Iterator[Answer]:
        """All that a listing by oss2 holds; a page that fails is asked for again, and no other."""
        while (found := self.ask(name, lambda: next(pages, None))) is not None:
            yield found

    # --- writing

    def make_folder(self, folder: str) -> None:
        """There are no folders."""

    def remove(self, name: str) -> None:
        """Take an object away, if it is there."""
        self.ask(name, lambda: self.bucket.delete_object(self.root + name))

    def put(self, name: str, pieces: Iterable[bytes]) -> None:
        """Publish an object of these pieces."""
        body = b"".join(pieces)
        # With it OSS stores nothing that was damaged on its way.
        headers = {"Content-MD5": oss2.utils.content_md5(body)}
        self.ask(name, lambda: self.bucket.put_object(self.root + name, body, headers))

    def copy(self, name: str, inputs: Store, segments: Iterable[Segment]) -> None:
        """Publish an object of these segments of inputs."""
        assert isinstance(inputs, Bucket)  # noqa: S101 - open_stores makes two of a kind
        wanted = list(segments)
        for least in (LEAST, BLOCK):
            parts = list(upload_parts(wanted, least))
            if len(parts) <= MOST_PARTS:
                break
        else:
            raise WorkerError(
                f"{self.path(name)} takes {len(parts)} parts of an upload, and OSS {MOST_PARTS} at "
                "most: give more parts, or a smaller FAN_IN"
            )
        if not parts or (len(parts) == 1 and not is_copied(parts[0])):
            self.put(name, [inputs.content(part, LANES) for part in parts])
            return
        for _ in range(UPLOADS):
            with suppress(UploadEndedError):  # by one that makes the same, or the answer was lost
                self._upload(name, inputs, parts)
                return
        raise RetryError(
            f"{self.path(name)}: its upload was ended by other workers, {UPLOADS} times: a retry "
            "can help"
        )

    def join(self, name: str, sources: Iterable[str]) -> None:
        """Publish an object made of others, one after the other."""

        def whole(source: str) -> Segment:
            version, size = self.look(source)
            return source, version, 0, size

        self.copy(name, self, each(whole, sources))

    def _upload(self, name: str, inputs: Bucket, parts: Iterable[list[Segment]]) -> None:
        """A multipart upload, of parts that OSS copies and of such as go through here."""
        key = self.root + name

        def send(number: int, part: list[Segment]) -> oss2.models.PartInfo:
            if self.terminated:
                raise RetryError(f"{self.path(name)}: SIGTERM came")
            if is_copied(part):
                ((source, version, offset, length),) = part
                if (source, version) not in inputs.looked:  # but only listed, or by another worker
                    inputs.look(source)
                sent = inputs.ask(
                    source,
                    lambda: self.bucket.upload_part_copy(
                        self.bucket.bucket_name,
                        inputs.root + source,
                        (offset, offset + length - 1),
                        key,
                        upload,
                        number,
                        {"x-oss-copy-source-if-match": version},
                    ),
                    version,
                )
            else:
                body = inputs.content(part)
                sent = self.ask(name, lambda: self.bucket.upload_part(key, upload, number, body))
            return oss2.models.PartInfo(number, sent.etag)

        upload = self.ask(name, lambda: str(self.bucket.init_multipart_upload(key).upload_id))
        try:
            numbered = enumerate(parts, 1)
            sent = list(each(lambda one: send(*one), numbered, ahead=LANES, reads=False))
            self.ask(name, lambda: self.bucket.complete_multipart_upload(key, upload, sent))
        except BaseException:
            self._abort(name, upload)
            raise
        # What killed workers have left of uploads of this name, for OSS bills them; not before
        # ours was whole: of two workers that make the same, one is always done.
        uploads = oss2.MultipartUploadIterator(self.bucket, key, max_retries=1)
        for left in self.listing(name, uploads):
            if left.key == key:
                self._abort(name, left.upload_id)

    def _abort(self, name: str, upload: str) -> None:
        """End an upload, as well as that can be done now."""
        with suppress(WorkerError, OSError):
            self.ask(name, lambda: self.bucket.abort_multipart_upload(self.root + name, upload))

    def content(self, part: list[Segment], lanes: int = 1) -> bytes:
        """The bytes of a part that goes through here."""

        def fetch(segment: Segment) -> bytes:
            name, version, at, size = segment
            return b"".join(self.fetch(Object(self, name, version, None), at, size))

        return b"".join(each(fetch, part, 1, lanes, 2 * lanes))


def is_of_no_host(error: BaseException | None) -> bool:
    """Whether the name servers have answered that there is no such host."""
    while error and not isinstance(error, socket.gaierror):
        error = error.__context__
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME


def is_transient(error: OssError) -> bool:
    """Whether to ask again: the request or its answer was lost or damaged, or OSS is busy."""
    codes = oss2.exceptions
    lost = (codes.OSS_REQUEST_ERROR_STATUS, codes.OSS_INCONSISTENT_ERROR_STATUS)
    return (
        error.status in (*lost, 408, 429)
        or error.status >= 500
        or error.code in ("RequestTimeout", "InvalidDigest")
    )


def upload_parts(segments: Iterable[Segment], least: int) -> Iterator[list[Segment]]:
    """The parts of an upload that holds these segments one after the other: one segment of `least`
    to MOST bytes, which OSS copies, or such as are too small for that, and then as much of
    the next as makes them `least` bytes together. Only the last part may have fewer."""
    held: list[Segment] = []
    size = 0
    for name, version, start, rest in segments:
        at, length = start, rest
        while length:
            if length >= least and (not held or size >= least):
                if held:
                    yield held
                    held, size = [], 0
                take = min(length, MOST)
                yield [(name, version, at, take)]
            else:
                take = min(length, least - size) if length >= least else length
                held.append((name, version, at, take))
                size += take
                if size >= BLOCK:
                    yield held
                    held, size = [], 0
            at, length = at + take, length - take
    if held:
        yield held


def is_copied(part: list[Segment]) -> bool:
    """Whether OSS is to copy this part of an upload."""
    return len(part) == 1 and part[0][3] >= LEAST
