"""The operations of OSS on objects and uploads, and their refusals."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate, parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from messages import Answer, OssError, Request, document, stamp
from objects import Bucket, Content, Object, Part, Upload, measured
from signature import Key, verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from messages import Tree

GIB = 1 << 30
KEPT = {"content-type", "content-encoding", "content-disposition", "cache-control", "expires"}


@dataclass
class Limits:
    """The limits of OSS; a test may set smaller ones."""

    part_least: int = 100 << 10  # of every part except the last, checked when the parts are joined
    part_most: int = 5 * GIB
    put_most: int = 5 * GIB
    copy_most: int = GIB
    parts: int = 10_000
    batch: int = 1000
    page: int = 1000
    copies_have_crc: bool = True  # OSS may have it or not


class Service:
    """The buckets, the keys, and the permissions."""

    def __init__(self, region: str, limits: Limits) -> None:
        self.region, self.limits = region, limits
        self.buckets: dict[str, Bucket] = {}
        self.keys: dict[str, Key] = {}
        self.clock: Callable[[], float] = time.time

    def answer(self, operation: Operation, request: Request) -> Answer:
        """Execute a request; raises the refusals of OSS."""
        request.by = verify(self.keys, self.region, self.clock(), request)
        if len(request.key.encode("utf-8", "surrogateescape")) > 1023 or re.match(
            r"[/\\]|.*[\udc80-\udcff]", request.key, re.DOTALL
        ):
            raise OssError("InvalidObjectName")
        self.allow(request, operation.name, request.bucket, request.key)
        return operation.act(self, self.bucket(request.bucket), request)

    def allow(self, request: Request, operation: str, bucket: str, key: str) -> None:
        """Check the policy of the key that signed."""
        assert request.by
        if not request.by.allows(operation, bucket, key or request.query.get("prefix", "")):
            raise OssError("AccessDenied")

    def bucket(self, name: str) -> Bucket:
        """Return a bucket of this region."""
        bucket = self.buckets.get(name)
        if bucket is None:
            raise OssError("NoSuchBucket", BucketName=name)
        if bucket.region != self.region:
            message = (
                "The bucket you are attempting to access must be addressed using the specified "
                "endpoint. Please send all future requests to this endpoint."
            )
            endpoint = f"oss-{bucket.region}.aliyuncs.com"
            raise OssError("AccessDenied", message, Bucket=name, Endpoint=endpoint)
        return bucket

    def source(self, request: Request) -> Object:
        """Return the object in x-oss-copy-source, if its conditions are met."""
        given = request.headers["x-oss-copy-source"]
        name, _, key = unquote(given.split("?")[0])[1:].partition("/")
        if given[0] != "/" or not key:
            raise invalid("x-oss-copy-source", given, "0042-00000301")
        self.allow(request, "GetObject", name, key)
        if name in self.buckets and self.buckets[name].region != self.region:
            message = "Target object does not reside in the same data center as source object."
            raise OssError("AccessDenied", message)
        found = existing(self.bucket(name), key)
        check_conditions(request, found, "x-oss-copy-source-")
        return found


def existing(bucket: Bucket, key: str) -> Object:
    """Return an existing object."""
    if key not in bucket.objects:
        raise OssError("NoSuchKey", Key=key)
    return bucket.objects[key]


def invalid(name: str, value: str, ec: str = "", message: str = "") -> OssError:
    """Return the error for an invalid parameter or header."""
    message = message or f"The argument {name} is invalid."
    return OssError("InvalidArgument", message, ec, ArgumentName=name, ArgumentValue=value)


def check_conditions(request: Request, found: Object, start: str = "") -> None:
    """Check If-Match and the like. For an unmodified object, a reader gets 304 and a copy 412."""
    modified = int(found.modified)
    checks: dict[str, Callable[[str], bool]] = {
        "if-match": lambda value: value.strip('"') != found.etag,
        "if-unmodified-since": lambda value: modified > _moment(value),
        "if-none-match": lambda value: value.strip('"') == found.etag,
        "if-modified-since": lambda value: modified <= _moment(value),
    }
    for name, fails in checks.items():
        value = request.headers.get(start + name)
        if value and fails(value):
            if name in ("if-none-match", "if-modified-since") and not start:
                raise OssError("NotModified")
            raise OssError("PreconditionFailed", Condition=start + name)


def _moment(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        raise invalid("date", text) from None


def byte_range(text: str, size: int, *, standard: bool) -> tuple[int, int] | None:
    """Return the first byte and the length of a Range, or None for the whole object. By default a
    malformed range, or one outside the object, is ignored. With the standard behaviour the range is
    clipped, or refused if nothing is left."""
    refusal = OssError("InvalidRange", ActualObjectSize=str(size), RangeRequested=text)
    if "," in text and standard:
        raise refusal
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.partition(",")[0])
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first = int(match[1])
        last = int(match[2] or max(first, size - 1))
        if first > last:
            return None
        inside = last < size
    else:
        first, last = max(size - int(match[2]), 0), size - 1
        inside = 0 < int(match[2]) <= size
    if not inside and not standard:
        return None
    last = min(last, size - 1)
    if first > last:
        raise refusal
    return first, last - first + 1


# Reading


def get_object(service: Service, bucket: Bucket, request: Request) -> Answer:
    """GetObject, HeadObject and GetObjectMeta; a HEAD has no ranges."""
    found = existing(bucket, request.key)
    headers = found.described() | {"Last-Modified": formatdate(found.modified, usegmt=True)}
    try:
        check_conditions(request, found)
    except OssError as error:
        if error.status == 304:
            return Answer(304, headers)
        raise
    size = found.content.size
    given = request.headers.get("range") if request.method == "GET" else None
    standard = request.headers.get("x-oss-range-behavior") == "standard"
    part = byte_range(given, size, standard=standard) if given else None
    if part is None:
        return Answer(200, headers, found.content.cut(0, size))
    headers["Content-Range"] = f"bytes {part[0]}-{sum(part) - 1}/{size}"
    return Answer(206, headers, found.content.cut(*part))


def list_objects(service: Service, bucket: Bucket, request: Request) -> Answer:
    """ListObjects and ListObjectsV2, which differ in their markers."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most, shown = number(query, "max-keys", 100, service.limits.page), encoder(query)
    second = "list-type" in query
    after = query.get("start-after" if second else "marker", "")
    if token := query.get("continuation-token"):
        try:
            after = bytes.fromhex(token).decode()
        except ValueError:
            raise invalid("continuation-token", token) from None
    with bucket.lock:
        keys, groups, last = bucket.listed(prefix, delimiter, after, most)
        objects = {key: bucket.objects[key] for key in keys}
    tree: dict[str, str | Tree | list[Tree]] = {
        "Name": bucket.name,
        "Prefix": shown(prefix),
        "MaxKeys": str(most),
        "Delimiter": shown(delimiter),
        "EncodingType": query.get("encoding-type", ""),
        "IsTruncated": "true" if last else "false",
        "Contents": [
            {
                "Key": shown(key),
                "LastModified": stamp(found.modified),
                "ETag": f'"{found.etag}"',
                "Type": found.kind,
                "Size": str(found.content.size),
                "StorageClass": "Standard",
            }
            for key, found in objects.items()
        ],
        "CommonPrefixes": [{"Prefix": shown(group)} for group in groups],
    }
    if second:
        tree["StartAfter"] = shown(query.get("start-after", ""))
        tree["KeyCount"] = str(len(keys) + len(groups))
    else:
        tree["Marker"] = shown(after)
    if last and second:
        tree["NextContinuationToken"] = last.encode().hex()
    elif last:
        tree["NextMarker"] = shown(last)
    return document("ListBucketResult", tree)


def number(query: dict[str, str], name: str, default: int, most: int, least: int = 1) -> int:
    """Parse a parameter that is a number."""
    text = query.get(name) or str(default)
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise invalid(name, text)
    return int(text)


def encoder(query: dict[str, str]) -> Callable[[str], str]:
    """Return the encoder of keys in an answer."""
    given = query.get("encoding-type", "")
    if given not in ("", "url"):
        raise invalid("encoding-type", given)
    return quote if given else str


# Writing


def kept_headers(request: Request) -> dict[str, str]:
    """Return the headers that a writer sets on an object."""
    kept = {
        name: value
        for name, value in request.headers.items()
        if name in KEPT or name.startswith("x-oss-meta-")
    }
    return {"content-type": "application/octet-stream"} | kept


def received(bucket: Bucket, request: Request, most: int) -> Content:
    """Store the body of a request."""
    length = request.headers.get("content-length")
    if length is None and "transfer-encoding" not in request.headers:
        raise OssError("MissingContentLength")

    def limited() -> Iterator[bytes]:
        size = int(length or 0)
        for data in request.body:
            size += 0 if length else len(data)
            if size > most:
                raise OssError("EntityTooLarge", MaxSizeAllowed=str(most))
            yield data

    content = bucket.receive(limited())
    check_md5(request, content.md5)
    return content


def check_md5(request: Request, md5: bytes) -> None:
    """Check Content-MD5 if it is set."""
    try:
        given = base64.b64decode(request.headers.get("content-md5", ""), validate=True)
    except binascii.Error:
        given = b"?"
    if given not in (b"", md5):
        raise OssError("InvalidDigest")


def publish(bucket: Bucket, request: Request, made: Object) -> None:
    """Write an object to its key, if the old object may be replaced."""
    forbid = request.headers.get("x-oss-forbid-overwrite", "false")
    if forbid not in ("true", "false"):
        raise invalid("x-oss-forbid-overwrite", forbid)
    with bucket.lock:
        if forbid == "true" and request.key in bucket.objects:
            raise OssError("FileAlreadyExists")
        bucket.set(request.key, made)


def sums(etag: str, content: Content) -> dict[str, str]:
    """Return the headers with which a client checks the data."""
    return {"ETag": f'"{etag}"', "x-oss-hash-crc64ecma": content.crc_header}


def put_object(service: Service, bucket: Bucket, request: Request) -> Answer:
    """PutObject."""
    content = received(bucket, request, service.limits.put_most)
    made = Object.put(content, kept_headers(request))
    publish(bucket, request, made)
    return Answer(headers=sums(made.etag, content))


def copy_object(service: Service, bucket: Bucket, request: Request) -> Answer:
    """CopyObject."""
    found = service.source(request)
    if found.content.size > service.limits.copy_most:
        raise OssError("EntityTooLarge", MaxSizeAllowed=str(service.limits.copy_most))
    directive = request.headers.get("x-oss-metadata-directive", "COPY").upper()
    headers = kept_headers(request) if directive == "REPLACE" else found.headers
    content = found.content
    content = content if service.limits.copies_have_crc else replace(content, crc=None)
    made = Object(content, found.etag, found.kind, headers)
    publish(bucket, request, made)
    return copied("CopyObjectResult", made.etag, made.modified)


def copied(name: str, etag: str, modified: float) -> Answer:
    """Return the answer to a copy: it has no CRC."""
    answer = document(name, {"LastModified": stamp(modified), "ETag": f'"{etag}"'})
    answer.headers["ETag"] = f'"{etag}"'
    return answer


def delete_object(service: Service, bucket: Bucket, request: Request) -> Answer:
    """DeleteObject, also for a missing object."""
    bucket.set(request.key, None)
    return Answer(204)


def parsed(body: bytes) -> ElementTree.Element:
    """Parse the XML of a request."""
    try:
        return ElementTree.fromstring(body)  # noqa: S314 (from a test)
    except ElementTree.ParseError:
        raise OssError("MalformedXML") from None


def delete_objects(service: Service, bucket: Bucket, request: Request) -> Answer:
    """DeleteMultipleObjects, quiet or not."""
    body = b"".join(request.body)
    if "content-md5" not in request.headers:
        raise OssError("MissingArgument")
    check_md5(request, hashlib.md5(body, usedforsecurity=False).digest())
    root, shown = parsed(body), encoder(request.query)
    keys = [node.findtext("Key") or "" for node in root.findall("Object")]
    if not 0 < len(keys) <= service.limits.batch or "" in keys:
        raise OssError("MalformedXML")
    for key in keys:
        service.allow(request, "DeleteObject", bucket.name, key)
        bucket.set(key, None)
    if root.findtext("Quiet") == "true":
        return Answer()
    encoding = request.query.get("encoding-type", "")
    deleted: list[Tree] = [{"Key": shown(key)} for key in keys]
    return document("DeleteResult", {"EncodingType": encoding, "Deleted": deleted})


# Uploads in parts


def initiate(service: Service, bucket: Bucket, request: Request) -> Answer:
    """InitiateMultipartUpload."""
    upload = Upload(request.key, kept_headers(request))
    with bucket.lock:
        bucket.uploads[upload.id] = upload
    tree = {"Bucket": bucket.name, "Key": upload.key, "UploadId": upload.id}
    return document("InitiateMultipartUploadResult", tree)


def begun(bucket: Bucket, request: Request) -> Upload:
    """Return the open upload in a request."""
    upload = bucket.uploads.get(request.query["uploadId"])
    if upload is None or upload.key != request.key:
        raise OssError("NoSuchUpload", UploadId=request.query["uploadId"])
    return upload


def part_number(service: Service, text: str) -> int:
    """Return the number of a part."""
    most = service.limits.parts
    if not re.fullmatch(r"\d{1,9}", text) or not 1 <= int(text) <= most:
        message = f"Part number must be an integer between 1 and {most}, inclusive."
        raise invalid("PartNumber", text, "0017-00000220", message)
    return int(text)


def upload_part(service: Service, bucket: Bucket, request: Request) -> Answer:
    """UploadPart; a part that is too small is refused when the parts are joined."""
    place = part_number(service, request.query["partNumber"])
    begun(bucket, request)
    part = Part(received(bucket, request, service.limits.part_most))
    with bucket.lock:
        begun(bucket, request).parts[place] = part
    return Answer(headers=sums(part.etag, part.content))


def upload_part_copy(service: Service, bucket: Bucket, request: Request) -> Answer:
    """UploadPartCopy."""
    place = part_number(service, request.query["partNumber"])
    begun(bucket, request)
    found = service.source(request)
    size = found.content.size
    given = request.headers.get("x-oss-copy-source-range")
    first, length = (given and byte_range(given, size, standard=False)) or (0, size)
    if length > service.limits.part_most:
        raise OssError("EntityTooLarge", MaxSizeAllowed=str(service.limits.part_most))
    cut = found.content.cut(first, length)
    part = Part(measured(cut, with_crc=service.limits.copies_have_crc))
    with bucket.lock:
        begun(bucket, request).parts[place] = part
    return copied("CopyPartResult", part.etag, part.modified)


def complete(service: Service, bucket: Bucket, request: Request) -> Answer:
    """CompleteMultipartUpload."""
    nodes = parsed(b"".join(request.body)).findall("Part")
    least = service.limits.part_least
    with bucket.lock:
        upload = begun(bucket, request)
        parts: list[Part] = []
        before = 0
        for node in nodes:
            place = part_number(service, node.findtext("PartNumber") or "")
            if place <= before:
                raise OssError("InvalidPartOrder")
            part, etag = upload.parts.get(place), (node.findtext("ETag") or "").strip('"')
            if part is None or part.etag != etag:
                raise OssError("InvalidPart", PartNumber=str(place), ETag=etag)
            if parts and parts[-1].content.size < least:
                raise OssError("EntityTooSmall", MinSizeAllowed=str(least), PartNumber=str(before))
            parts.append(part)
            before = place
        if not parts:
            raise OssError("MalformedXML")
        made = Object.joined(parts, upload.headers)
        publish(bucket, request, made)
        del bucket.uploads[upload.id]
    address = f"http://{bucket.name}.oss-{service.region}.aliyuncs.com/{quote(request.key)}"
    tree = {"Location": address, "Bucket": bucket.name, "Key": request.key, "ETag": made.etag}
    answer = document("CompleteMultipartUploadResult", tree)
    answer.headers |= sums(made.etag, made.content)
    return answer


def abort(service: Service, bucket: Bucket, request: Request) -> Answer:
    """AbortMultipartUpload."""
    with bucket.lock:
        del bucket.uploads[begun(bucket, request).id]
    return Answer(204)


def list_parts(service: Service, bucket: Bucket, request: Request) -> Answer:
    """ListParts."""
    after = number(request.query, "part-number-marker", 0, service.limits.parts, least=0)
    most = number(request.query, "max-parts", 1000, service.limits.page)
    with bucket.lock:
        upload = begun(bucket, request)
        left = [(place, part) for place, part in sorted(upload.parts.items()) if place > after]
    parts: list[Tree] = [
        {
            "PartNumber": str(place),
            "LastModified": stamp(part.modified),
            "ETag": f'"{part.etag}"',
            "Size": str(part.content.size),
        }
        for place, part in left[:most]
    ]
    tree = {
        "Bucket": bucket.name,
        "Key": upload.key,
        "UploadId": upload.id,
        "MaxParts": str(most),
        "NextPartNumberMarker": str(left[:most][-1][0]) if left else "",
        "IsTruncated": "true" if len(left) > most else "false",
        "Part": parts,
    }
    return document("ListPartsResult", tree)


def list_uploads(service: Service, bucket: Bucket, request: Request) -> Answer:
    """ListMultipartUploads, without delimiters."""
    query = request.query
    key, identity = query.get("key-marker", ""), query.get("upload-id-marker", "")
    # A marker with only a key is after all uploads of the key.
    after = (key, identity or "\U0010ffff") if key else ("", "")
    most, shown = number(query, "max-uploads", 1000, service.limits.page), encoder(query)
    with bucket.lock:
        left = sorted(
            ((upload.key, upload.id), upload)
            for upload in bucket.uploads.values()
            if upload.key.startswith(query.get("prefix", "")) and (upload.key, upload.id) > after
        )
    uploads: list[Tree] = [
        {"Key": shown(upload.key), "UploadId": upload.id, "Initiated": stamp(upload.begun)}
        for _, upload in left[:most]
    ]
    more = len(left) > most
    tree = {
        "Bucket": bucket.name,
        "EncodingType": query.get("encoding-type", ""),
        "KeyMarker": shown(key),
        "UploadIdMarker": identity,
        "NextKeyMarker": shown(left[most - 1][1].key) if more else "",
        "NextUploadIdMarker": left[most - 1][1].id if more else "",
        "MaxUploads": str(most),
        "IsTruncated": "true" if more else "false",
        "Upload": uploads,
    }
    return document("ListMultipartUploadsResult", tree)


def unknown(service: Service, bucket: Bucket, request: Request) -> Answer:
    """Refuse other operations of OSS."""
    raise OssError("NotImplemented")


class Operation(NamedTuple):
    """An operation, and its requests: method, whether there is a key, the parameters that select
    it, and whether it copies."""

    name: str
    act: Callable[[Service, Bucket, Request], Answer]
    method: str
    keyed: bool = True
    query: Iterable[str] = ()
    copies: bool = False


OPERATIONS = [
    Operation("GetObject", get_object, "GET"),
    Operation("HeadObject", get_object, "HEAD"),
    Operation("GetObjectMeta", get_object, "HEAD", True, ["objectMeta"]),
    Operation("PutObject", put_object, "PUT"),
    Operation("CopyObject", copy_object, "PUT", copies=True),
    Operation("DeleteObject", delete_object, "DELETE"),
    Operation("DeleteMultipleObjects", delete_objects, "POST", False, ["delete"]),
    Operation("ListObjects", list_objects, "GET", False),
    Operation("ListObjectsV2", list_objects, "GET", False, ["list-type"]),
    Operation("InitiateMultipartUpload", initiate, "POST", True, ["uploads"]),
    Operation("UploadPart", upload_part, "PUT", True, ["partNumber", "uploadId"]),
    Operation("UploadPartCopy", upload_part_copy, "PUT", True, ["partNumber", "uploadId"], True),
    Operation("CompleteMultipartUpload", complete, "POST", True, ["uploadId"]),
    Operation("AbortMultipartUpload", abort, "DELETE", True, ["uploadId"]),
    Operation("ListParts", list_parts, "GET", True, ["uploadId"]),
    Operation("ListMultipartUploads", list_uploads, "GET", False, ["uploads"]),
]
# Parameters that do not select an operation.
MODIFIERS = {
    *("delimiter", "encoding-type", "fetch-owner", "prefix", "marker", "max-keys", "start-after"),
    *("continuation-token", "key-marker", "upload-id-marker", "max-uploads", "max-parts"),
    "part-number-marker",
}


def asked_for(request: Request) -> Operation:
    """Return the operation of a request."""
    query = set(request.query) - MODIFIERS
    copies = "x-oss-copy-source" in request.headers
    wanted = (request.method, bool(request.key), query, copies)
    for known in OPERATIONS if request.bucket else []:
        if wanted == (known.method, known.keyed, set(known.query), known.copies):
            return known
    return Operation("Unknown", unknown, request.method)
