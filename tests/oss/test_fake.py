"""The fake OSS against oss2, an independent client: all operations work, refusals are refused, and
each fault has its effect."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import crcmod  # type: ignore[import-untyped]
import objects
import oss2
import pytest
import requests
from fake import FakeOSS
from hypothesis import given
from hypothesis import strategies as st
from messages import Request
from operations import Limits
from oss2.credentials import EcsRamRoleCredentialsProvider
from oss2.models import PartInfo
from signature import Key, signed

REGION = "cn-hangzhou"
STANDARD = {"x-oss-range-behavior": "standard"}
MIB = 1 << 20
DATA = bytes(range(250)) * 4  # 1000 bytes, as in the vendor's examples
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(
    # HTTP clients take the last two as steps of a path, and send another name than the signed one.
    lambda name: name[0] not in "/\\" and name not in (".", "..")
)


def client(fake: FakeOSS, name: str = "bucket", auth: Any = None, **rest: Any) -> Any:
    """A bucket of oss2."""
    settings = {"region": REGION, "connect_timeout": 20} | rest
    endpoint = settings.pop("endpoint", fake.endpoint)
    return oss2.Bucket(auth or oss2.AuthV4("id", "secret"), endpoint, name, **settings)


class Tampering(oss2.Session):  # type: ignore[misc]
    """Changes requests after they are signed."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.change = change

    def do_request(self, req: Any, timeout: Any) -> Any:
        """Change the request, and send it."""
        self.change(req)
        return super().do_request(req, timeout)


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeOSS]:
    """A server for tests that use only their own keys."""
    with FakeOSS() as fake:
        yield fake


@pytest.fixture
def fake() -> Iterator[FakeOSS]:
    """A server for one test, with small limits."""
    limits = Limits(part_least=1000, part_most=5000, put_most=9000, copy_most=4000, parts=20)
    with FakeOSS(limits=limits) as made:
        made.bucket().put("key", DATA)
        yield made


@pytest.fixture
def bucket(fake: FakeOSS) -> Any:
    """A client of this server."""
    return client(fake)


def md5(data: bytes) -> bytes:
    """Return the MD5, which is an ETag of OSS."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def etag_of(data: bytes) -> str:
    """Return it in hexadecimal and capitals."""
    return md5(data).hex().upper()


def fetch(url: str, body: bytes | None = None, method: str | None = None) -> bytes:
    """Send a request without oss2."""
    request = urllib.request.Request(url, body, method=method)  # noqa: S310 (to the fake)
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return bytes(answer.read())


def refused(call: Callable[..., object], *given: Any, **rest: Any) -> tuple[int, str, str]:
    """Return the status, code and number of a refusal."""
    with pytest.raises(oss2.exceptions.ServerError) as caught:
        call(*given, **rest)
    assert caught.value.headers["x-oss-request-id"] == caught.value.request_id != ""
    assert caught.value.headers.get("x-oss-ec", "") == caught.value.ec
    return caught.value.status, caught.value.code, caught.value.ec


# Operations


@given(names, st.binary(max_size=300))
def test_any_key(shared: FakeOSS, name: str, data: bytes) -> None:
    """Every operation on one object works under any name, with its signature."""
    bucket = client(shared)
    put = bucket.put_object(name, data, headers={"x-oss-meta-a": "b", "Content-Type": "text/x"})
    assert put.etag == etag_of(data)
    got = bucket.get_object(name)
    assert (got.read(), got.headers["x-oss-meta-a"], got.content_type) == (data, "b", "text/x")
    assert got.server_crc == put.crc
    head = bucket.head_object(name)
    assert (head.content_length, head.etag, head.object_type) == (len(data), put.etag, "Normal")
    assert bucket.get_object_meta(name).content_length == len(data)
    listed = bucket.list_objects_v2(prefix=name).object_list
    assert [(found.key, found.size, found.etag) for found in listed if found.key == name] == [
        (name, len(data), put.etag)
    ]
    assert bucket.copy_object("bucket", name, "copy").etag == put.etag
    assert bucket.get_object("copy").read() == data
    upload = bucket.init_multipart_upload(name).upload_id
    part = bucket.upload_part_copy("bucket", name, None, name, upload, 1)
    assert [part.etag for part in bucket.list_parts(name, upload).parts] == [part.etag]
    listed = oss2.MultipartUploadIterator(bucket, prefix=name)
    assert (name, upload) in [(found.key, found.upload_id) for found in listed]
    done = bucket.complete_multipart_upload(name, upload, [PartInfo(1, part.etag)])
    assert bucket.get_object(name).read() == data
    assert done.crc == put.crc
    assert bucket.object_exists(name)
    assert bucket.batch_delete_objects([name, "copy"]).deleted_keys == [name, "copy"]
    assert not bucket.object_exists(name)
    bucket.delete_object(name)


@given(
    keys=st.sets(st.text("a/é~", min_size=1, max_size=6).filter(lambda key: key[0] != "/")),
    prefix=st.text("a/é", max_size=2),
    delimiter=st.sampled_from(["", "/", "a/"]),
    page=st.integers(1, 4),
    after=st.text("a/é~", max_size=3),
)
def test_listing(
    shared: FakeOSS, keys: set[str], *, prefix: str, delimiter: str, page: int, after: str
) -> None:
    """Both listings, in pages, equal the model: sorted by bytes, grouped, without duplicates."""
    found: list[str] = []
    for key in sorted(keys, key=str.encode):
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        name = key if cut < 0 else key[: cut + len(delimiter)]
        # A group is left out if the listing begins after its name.
        if key.startswith(prefix) and key > after and name != after and name not in found:
            found.append(name)
    stored = shared.add_bucket("list")
    for key in keys:
        stored.put(key, b"")
    shared.counters.reset()
    settings = {"prefix": prefix, "delimiter": delimiter, "max_keys": page}
    second = oss2.ObjectIteratorV2(client(shared, "list"), start_after=after, **settings)
    assert [each.key for each in islice(second, 100)] == found  # an empty page ends the listing
    first = oss2.ObjectIterator(client(shared, "list"), marker=after, **settings)
    assert [each.key for each in islice(first, 100)] == found
    assert shared.counters.requests["ListObjectsV2"] == max(1, -(-len(found) // page))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_sums(pieces: list[bytes]) -> None:
    """CRC64 equals another implementation, and can be combined from parts."""
    right = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=(1 << 64) - 1)
    joined = 0
    for piece in pieces:
        assert objects.crc64(piece, 0) == right(piece)
        joined = objects.combined(joined, right(piece), len(piece))
    assert joined == right(b"".join(pieces))


def test_parts(fake: FakeOSS, bucket: Any) -> None:
    """Parts in any order, replaced, copied by ranges, listed in pages, joined with gaps."""
    upload = bucket.init_multipart_upload("big", headers={"Content-Type": "text/x"}).upload_id
    bucket.upload_part("big", upload, 7, b"first try")
    parts = []
    for number, data in (7, b"7" * 10), (2, b"2" * 2000):
        sent = bucket.upload_part("big", upload, number, data)
        parts.append(PartInfo(number, sent.etag, size=len(data), part_crc=sent.crc))
    sent = bucket.upload_part_copy("bucket", "key", (0, 999), "big", upload, 4)
    copied = PartInfo(4, sent.etag, size=1000, part_crc=objects.crc64(DATA, 0))
    listed = list(oss2.PartIterator(bucket, "big", upload, max_retries=1))
    assert [(part.part_number, part.size) for part in listed] == [(2, 2000), (4, 1000), (7, 10)]
    page = bucket.list_parts("big", upload, marker="2", max_parts=1)
    assert [part.part_number for part in page.parts] == [4]
    assert (page.is_truncated, page.next_marker) == (True, "4")
    assert fake.uploads() == {"bucket": ["big"]}
    assert "big" not in fake.bucket().objects
    done = bucket.complete_multipart_upload("big", upload, [*parts, copied])  # checks the CRC
    assert fake.bucket().get("big") == b"2" * 2000 + DATA + b"7" * 10
    assert fake.uploads() == {}
    sums = b"".join(md5(data) for data in (b"2" * 2000, DATA, b"7" * 10))
    assert done.etag == etag_of(sums) + "-3"
    head = bucket.head_object("big")
    assert (head.object_type, head.etag, head.content_type) == ("Multipart", done.etag, "text/x")
    assert bucket.get_object("big", byte_range=(1999, 3000), headers=STANDARD).read() == (
        b"2" + DATA + b"7"
    )
    for number in range(5):
        bucket.init_multipart_upload(f"left{number % 2}")
    left = oss2.MultipartUploadIterator(bucket, max_uploads=2)
    assert [each.key for each in left] == ["left0"] * 3 + ["left1"] * 2


def test_copies_without_a_sum(fake: FakeOSS, bucket: Any) -> None:
    """A copy by OSS may have no CRC: then nothing made from it has one."""
    fake.service.limits.copies_have_crc = False
    upload = bucket.init_multipart_upload("joined").upload_id
    sent = bucket.upload_part_copy("bucket", "key", (0, 999), "joined", upload, 1)
    more = bucket.upload_part("joined", upload, 2, b"more")
    parts = [PartInfo(1, sent.etag), PartInfo(2, more.etag)]
    done = bucket.complete_multipart_upload("joined", upload, parts)
    bucket.copy_object("bucket", "key", "copy")

    assert done.crc is None
    for name, data in (("joined", DATA + b"more"), ("copy", DATA)):
        assert bucket.head_object(name).server_crc is None
        assert bucket.get_object(name).read() == data
    assert bucket.head_object("key").server_crc == objects.crc64(DATA, 0)


def test_what_is_read_stays(fake: FakeOSS, bucket: Any) -> None:
    """A download continues with its first version, and files are deleted with their objects."""
    big = os.urandom(8 * MIB)
    fake.bucket().put("big", big)
    got = bucket.get_object("big")
    bucket.put_object("big", b"new")
    assert got.read() == big
    assert bucket.get_object("big").read() == b"new"
    bucket.batch_delete_objects(["big", "key"])
    wait_until(lambda: not list(fake.bucket().folder.iterdir()))


def test_uploads_of_unknown_length(fake: FakeOSS, bucket: Any) -> None:
    """A chunked upload, as oss2 sends a stream. If it is cut off, nothing is kept."""
    bucket.put_object("stream", (piece for piece in [b"ab", b"", b"c" * 70]))
    assert fake.bucket().get("stream") == b"ab" + b"c" * 70

    def cut_off() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the pod died")

    with pytest.raises(RuntimeError):
        bucket.put_object("dead", cut_off())
    assert refused(lambda: bucket.put_object("long", (b"x" * 1000 for _ in range(10)))) == (
        400,
        "EntityTooLarge",
        "",
    )
    assert set(fake.bucket().objects) == {"key", "stream"}


def test_host_names(fake: FakeOSS) -> None:
    """A bucket is in the host name. In the path it is refused under the domain of OSS."""
    settings: Any = {"endpoint": "http://oss.test", "proxies": {"http": fake.endpoint}}
    assert client(fake, **settings).get_object("key").read() == DATA
    assert refused(client(fake, "other", **settings).get_object, "key")[1] == "NoSuchBucket"
    path_style = client(fake, is_path_style=True, **settings)
    assert refused(path_style.get_object, "key")[1] == "SecondLevelDomainForbidden"


# Authentication


@pytest.mark.parametrize(
    ("auth", "settings", "refusal"),
    [
        (oss2.AuthV4("id", "wrong"), {}, (403, "SignatureDoesNotMatch", "0002-00000201")),
        (oss2.AuthV4("nobody", "secret"), {}, (403, "InvalidAccessKeyId", "0002-00000902")),
        (
            oss2.AuthV4("id", "secret"),
            {"region": "cn-beijing"},
            (400, "InvalidArgument", "0002-00000226"),
        ),
        (oss2.Auth("id", "secret"), {}, (403, "AccessDenied", "0002-00000080")),
        (oss2.AuthV2("id", "secret"), {}, (403, "AccessDenied", "0002-00000080")),
        (oss2.AnonymousAuth(), {}, (403, "AccessDenied", "0003-00000001")),
    ],
)
def test_who_is_refused(shared: FakeOSS, auth: Any, settings: Any, refusal: object) -> None:
    """Unknown keys, other regions and older signatures are refused."""
    assert refused(client(shared, auth=auth, **settings).get_object, "key") == refusal
    head = refused(client(shared, auth=auth, **settings).head_object, "key")
    assert head == refusal  # by x-oss-err, as there is no body


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("headers", {"x-oss-forbid-overwrite": "true"}, "SignatureDoesNotMatch"),
        ("headers", {"Content-Type": "text/y"}, "SignatureDoesNotMatch"),
        ("params", {"marker": "b"}, "SignatureDoesNotMatch"),
        ("method", "DELETE", "SignatureDoesNotMatch"),
        ("url", "x", "SignatureDoesNotMatch"),
        ("headers", {"x-oss-content-sha256": ""}, "InvalidArgument"),
        ("headers", {"x-oss-date": ""}, "AccessDenied"),
        ("headers", {"x-oss-date": "20200101T000000Z"}, "InvalidArgument"),
        ("headers", {"x-oss-security-token": "t"}, "InvalidAccessKeyId"),
        ("headers", {"authorization": "OSS4 x"}, "InvalidArgument"),
        ("headers", {"x-not-signed": "x"}, ""),
    ],
)
def test_tampering(shared: FakeOSS, part: str, change: Any, code: str) -> None:
    """Requests that are changed after they are signed are refused."""

    def tamper(request: Any) -> None:
        if isinstance(change, dict):
            getattr(request, part).update(change)
        else:
            setattr(request, part, request.url + change if part == "url" else change)

    bucket = client(shared, session=Tampering(tamper))
    headers = {"Content-Type": "text/x"}
    if code:
        assert refused(bucket.put_object, "a b+c", b"x", headers=headers)[1] == code
    else:
        bucket.put_object("a b+c", b"x", headers=headers)


def test_additional_headers(fake: FakeOSS) -> None:
    """Additional signed headers are checked."""
    auth = oss2.AuthV4("id", "secret")

    def sign_range(request: Any) -> None:
        auth._sign_request(request, "bucket", "key", {"range"})

    def change_range(request: Any) -> None:
        sign_range(request)
        request.headers["range"] = "bytes=0-2"

    good, bad = (client(fake, session=Tampering(each)) for each in (sign_range, change_range))
    assert good.get_object("key", byte_range=(0, 1)).read() == DATA[:2]
    assert refused(bad.get_object, "key", byte_range=(0, 1))[1] == "SignatureDoesNotMatch"


def test_clocks(fake: FakeOSS, bucket: Any) -> None:
    """A difference of more than 15 minutes is refused."""
    for minutes in -14, 14:
        fake.service.clock = lambda minutes=minutes: time.time() + 60 * minutes  # type: ignore[misc]
        bucket.get_object("key").read()
    for minutes in -16, 16:
        fake.service.clock = lambda minutes=minutes: time.time() + 60 * minutes  # type: ignore[misc]
        answer = refused(bucket.get_object, "key")
        assert answer == (403, "RequestTimeTooSkewed", "0002-00000504")


def test_temporary_keys(fake: FakeOSS) -> None:
    """A token belongs to its key, and both expire."""
    issued = fake.sts.issue(600)
    other = fake.sts.issue(600)

    def ask(key: dict[str, str], token: str) -> object:
        auth = oss2.ProviderAuthV4(
            oss2.credentials.StaticCredentialsProvider(
                key["AccessKeyId"], key["AccessKeySecret"], token
            )
        )
        return client(fake, auth=auth).get_object("key").read()

    assert ask(issued, issued["SecurityToken"]) == DATA
    assert refused(ask, issued, "")[1] == "InvalidAccessKeyId"
    wrong = refused(ask, issued, other["SecurityToken"])
    assert wrong == (403, "InvalidSecurityToken", "0002-00000006")
    fake.service.clock = lambda: time.time() + 601
    late = refused(ask, issued, issued["SecurityToken"])
    assert late == (403, "SecurityTokenExpired", "0002-00000007")


def test_policy(fake: FakeOSS, bucket: Any) -> None:
    """A key that may only read below a prefix, with listings and copies."""
    reads = {"GetObject", "HeadObject", "ListObjectsV2"}
    fake.add_key(
        Key("ro", "s", allows=lambda operation, _, key: operation in reads and key[:3] == "in/")
    )
    fake.bucket().put("in/a", DATA)
    limited = client(fake, auth=oss2.AuthV4("ro", "s"))
    assert limited.get_object("in/a").read() == DATA
    assert len(limited.list_objects_v2(prefix="in/").object_list) == 1
    for call in (
        lambda: limited.get_object("key"),
        limited.list_objects_v2,
        lambda: limited.put_object("in/a", b""),
        lambda: limited.delete_object("in/a"),
    ):
        assert refused(call) == (403, "AccessDenied", "0003-00000001")
    fake.add_key(Key("wo", "s", allows=lambda operation, bucket, key: operation != "GetObject"))
    blind = client(fake, auth=oss2.AuthV4("wo", "s"))
    assert refused(blind.copy_object, "bucket", "in/a", "copy")[1] == "AccessDenied"


def sts(fake: FakeOSS, **changes: str) -> dict[str, Any]:
    """Request a key as a pod does."""
    form = {
        "Action": "AssumeRoleWithOIDC",
        "Version": "2015-04-01",
        "Format": "JSON",
        "Timestamp": "2026-01-01T00:00:00Z",
        "RoleArn": fake.sts.role_arn,
        "OIDCProviderArn": fake.sts.provider_arn,
        "OIDCToken": "token-of-the-pod",
        "RoleSessionName": "fanfold",
    } | changes
    try:
        return dict(json.loads(fetch(fake.endpoint, urlencode(form).encode())))
    except urllib.error.HTTPError as error:
        return dict(json.load(error)) | {"status": error.code}


def test_rrsa(fake: FakeOSS) -> None:
    """A pod's token is exchanged for a key that works until it expires."""
    fake.sts.seconds = 7
    key = sts(fake)["Credentials"]
    assert time.time() - 1 < _seconds(key["Expiration"]) - 7 < time.time() + 1
    provider = oss2.credentials.StaticCredentialsProvider(
        key["AccessKeyId"], key["AccessKeySecret"], key["SecurityToken"]
    )
    assert client(fake, auth=oss2.ProviderAuthV4(provider)).get_object("key").read() == DATA
    for change, status, code in [
        ({"OIDCToken": "another"}, 400, "AuthenticationFail.OIDCToken.Invalid"),
        ({"RoleArn": "acs:ram::1:role/other"}, 404, "EntityNotExist.Role"),
        ({"OIDCProviderArn": "acs:ram::1:other"}, 404, "EntityNotExist.OIDCProvider"),
        ({"RoleSessionName": "a b"}, 400, "InvalidParameter.RoleSessionName"),
        ({"DurationSeconds": "899"}, 400, "InvalidParameter.DurationSeconds"),
        ({"Timestamp": ""}, 400, "MissingTimestamp"),
        ({"Action": "AssumeRole"}, 404, "InvalidAction.NotFound"),
    ]:
        answer = sts(fake, **change)
        assert (answer["status"], answer["Code"]) == (status, code)
    with pytest.raises(json.JSONDecodeError):
        sts(fake, Format="")  # XML


def _seconds(text: str) -> float:
    return float(oss2.utils.to_unixtime(text, "%Y-%m-%dT%H:%M:%SZ"))


def test_metadata(fake: FakeOSS) -> None:
    """A node's role, as oss2's own provider requests it."""
    address = fake.endpoint + "/latest/meta-data/ram/security-credentials/"
    provider = EcsRamRoleCredentialsProvider(address + fetch(address).decode())
    assert client(fake, auth=oss2.ProviderAuthV4(provider)).get_object("key").read() == DATA
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(address + "other")


# Refusals


@pytest.mark.parametrize(
    ("whatrange", "usual", "standard"),
    [
        ("bytes=0-499", (206, 0, 500), (206, 0, 500)),
        ("bytes=0-999", (206, 0, 1000), (206, 0, 1000)),
        ("bytes=500-", (206, 500, 1000), (206, 500, 1000)),
        ("bytes=-500", (206, 500, 1000), (206, 500, 1000)),
        ("bytes=9-10", (206, 9, 11), (206, 9, 11)),
        ("bytes=500-2000", (200, 0, 1000), (206, 500, 1000)),
        ("bytes=-2000", (200, 0, 1000), (206, 0, 1000)),
        ("bytes=1000-2000", (200, 0, 1000), None),
        ("bytes=1000-", (200, 0, 1000), None),
        ("bytes=-0", (200, 0, 1000), None),
        ("bytes=0-499,600-700", (206, 0, 500), None),
        ("byte=0-499", (200, 0, 1000), (200, 0, 1000)),
        ("bytes=5-4", (200, 0, 1000), (200, 0, 1000)),
        ("bytes=-", (200, 0, 1000), (200, 0, 1000)),
    ],
)
def test_ranges(fake: FakeOSS, bucket: Any, whatrange: str, usual: Any, standard: Any) -> None:
    """The vendor's table and more: a range outside the object returns the whole object by
    default."""

    def get(**headers: str) -> tuple[int, bytes, str | None]:
        got = bucket.get_object("key", headers={"range": whatrange, **headers})
        return got.status, got.read(), got.headers.get("Content-Range")

    def wanted(status: int, first: int, end: int) -> tuple[int, bytes, str | None]:
        place = f"bytes {first}-{end - 1}/1000" if status == 206 else None
        return status, DATA[first:end], place

    assert get() == wanted(*usual)
    if standard:
        assert get(**STANDARD) == wanted(*standard)
    else:
        assert refused(get, **STANDARD)[:2] == (416, "InvalidRange")


def test_ranges_of_nothing(fake: FakeOSS, bucket: Any) -> None:
    """An empty object has no valid range."""
    fake.bucket().put("empty", b"")
    assert bucket.get_object("empty", byte_range=(0, 0)).status == 200
    outside = refused(bucket.get_object, "empty", byte_range=(0, 0), headers=STANDARD)
    assert outside[:2] == (416, "InvalidRange")


def test_conditions(fake: FakeOSS, bucket: Any) -> None:
    """By ETag, quoted or not, and by time; for GET, HEAD, and the source of a copy."""
    etag = bucket.head_object("key").etag
    early, late = "Mon, 01 Jan 2024 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    upload = bucket.init_multipart_upload("big").upload_id
    for name, good, bad, status in [
        ("If-Match", etag, "0" * 32, 412),
        ("If-Match", f'"{etag}"', '"x"', 412),
        ("If-Unmodified-Since", late, early, 412),
        ("If-None-Match", "0" * 32, etag, 304),
        ("If-Modified-Since", early, late, 304),
    ]:
        for call in bucket.get_object, bucket.head_object:
            assert call("key", headers={name: good}).status == 200
            assert refused(call, "key", headers={name: bad})[0] == status
        source = "x-oss-copy-source-" + name
        for call, what in [
            (bucket.copy_object, ("bucket", "key", "copy")),
            (bucket.upload_part_copy, ("bucket", "key", (0, 9), "big", upload, 1)),
        ]:
            call(*what, headers={source: good})
            stopped = refused(call, *what, headers={source: bad})
            assert stopped[:2] == (412, "PreconditionFailed")


def test_forbid_overwrite(fake: FakeOSS, bucket: Any) -> None:
    """In PUT, copy and complete; of many parallel requests one succeeds."""
    forbid = {"x-oss-forbid-overwrite": "true"}
    upload = bucket.init_multipart_upload("key").upload_id
    parts = [PartInfo(1, bucket.upload_part("key", upload, 1, b"x").etag)]
    for call in (
        lambda: bucket.put_object("key", b"x", headers=forbid),
        lambda: bucket.copy_object("bucket", "key", "key", headers=forbid),
        lambda: bucket.complete_multipart_upload("key", upload, parts, headers=forbid),
    ):
        assert refused(call) == (409, "FileAlreadyExists", "0026-00000002")
    assert fake.bucket().get("key") == DATA
    bucket.put_object("key", b"new", headers={"x-oss-forbid-overwrite": "false"})
    odd = {"x-oss-forbid-overwrite": "yes"}
    assert refused(bucket.put_object, "key", b"", headers=odd)[1] == "InvalidArgument"

    def race(number: int) -> int:
        try:
            bucket.put_object("race", b"%d" % number, headers=forbid)
        except oss2.exceptions.ServerError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(race, range(16))) == 1


def test_puts(fake: FakeOSS, bucket: Any) -> None:
    """Wrong MD5, length, name or bucket."""
    sent = base64.b64encode(md5(b"x")).decode()
    bucket.put_object("x", b"x", headers={"Content-MD5": sent})
    for wrong in sent, "no base64":
        headers = {"Content-MD5": wrong}
        stopped = refused(bucket.put_object, "y", b"y", headers=headers)
        assert stopped[:2] == (400, "InvalidDigest")
    bucket.put_object("most", b"x" * 9000)
    assert refused(bucket.put_object, "y", b"x" * 9001)[:2] == (400, "EntityTooLarge")
    bucket.put_object("é" * 511, b"")
    for name in "é" * 512, "/x", "\\x":
        stopped = refused(bucket.put_object, name, b"")
        assert stopped[:2] == (400, "InvalidObjectName")
    assert "y" not in fake.bucket().objects
    assert refused(client(fake, "nope").put_object, "y", b"") == (
        404,
        "NoSuchBucket",
        "0015-00000101",
    )
    fake.add_bucket("far", "cn-beijing")
    assert refused(client(fake, "far").get_object, "key")[:2] == (403, "AccessDenied")
    assert refused(bucket.get_object, "nope") == (404, "NoSuchKey", "0026-00000001")
    assert refused(bucket.get_object_acl, "key")[:2] == (400, "NotImplemented")
    assert refused(bucket.append_object, "key", 0, b"")[:2] == (400, "NotImplemented")
    with pytest.raises(oss2.exceptions.ServerError, match="InvalidArgument"):
        bucket.list_objects_v2(max_keys=1001)
    with pytest.raises(oss2.exceptions.ServerError, match="MalformedXML"):
        bucket.batch_delete_objects([f"{number}" for number in range(1001)])


def test_missing_length(fake: FakeOSS) -> None:
    """A PUT must have a length."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"x-oss-date": now, "x-oss-content-sha256": "UNSIGNED-PAYLOAD"}
    scope = f"{now[:8]}/{REGION}/oss/aliyun_v4_request"
    request = Request("PUT", "", "bucket", "key", {}, headers, iter([]))
    signature = signed(request, "secret", scope, "")[0]
    credential = f"OSS4-HMAC-SHA256 Credential=id/{scope}, Signature={signature}"
    connection = http.client.HTTPConnection(urlsplit(fake.endpoint).netloc, timeout=20)
    connection.putrequest("PUT", "/bucket/key")
    for name, value in (headers | {"Authorization": credential}).items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_copies(fake: FakeOSS, bucket: Any) -> None:
    """Allowed sources of copies, and their maximum size."""
    fake.bucket().put("large", b"x" * 6000)
    fake.add_bucket("far", "cn-beijing").put("key", DATA)
    fake.add_bucket("near").put("key", b"near" * 500)
    upload = bucket.init_multipart_upload("big").upload_id

    def part(source: str, key: str, size: int) -> object:
        return bucket.upload_part_copy(source, key, (0, size - 1), "big", upload, 1)

    for call, refusal in [
        (lambda: bucket.copy_object("bucket", "large", "copy"), (400, "EntityTooLarge", "")),
        (lambda: part("bucket", "large", 5001), (400, "EntityTooLarge", "")),
        (lambda: bucket.copy_object("far", "key", "copy"), (403, "AccessDenied", "")),
        (lambda: part("far", "key", 10), (403, "AccessDenied", "")),
        (lambda: part("nope", "key", 10), (404, "NoSuchBucket", "0015-00000101")),
        (lambda: part("bucket", "nope", 10), (404, "NoSuchKey", "0026-00000001")),
    ]:
        assert refused(call) == refusal
    part("bucket", "large", 5000)
    bucket.copy_object("near", "key", "copy")
    assert fake.bucket().get("copy") == b"near" * 500
    bucket.upload_part_copy("near", "key", (0, 5000), "big", upload, 2)  # as for a GET: all of it
    assert [part.size for part in bucket.list_parts("big", upload).parts] == [5000, 2000]


def test_uploads(fake: FakeOSS, bucket: Any) -> None:
    """Refusals when an upload is completed. It can still be completed or aborted then."""
    upload = bucket.init_multipart_upload("big").upload_id

    def send(number: int, size: int) -> PartInfo:
        return PartInfo(number, bucket.upload_part("big", upload, number, b"x" * size).etag)

    small, large, last = send(1, 999), send(2, 1000), send(3, 1)

    def complete(*parts: Any) -> object:
        body = oss2.xml_utils.to_complete_upload_request(parts)  # oss2 itself sorts them
        return bucket._Bucket__do_object("POST", "big", params={"uploadId": upload}, data=body)

    for call, refusal in [
        (lambda: complete(small, last), (400, "EntityTooSmall", "0042-00000213")),
        (lambda: complete(last, large), (400, "InvalidPartOrder", "0042-00000209")),
        (lambda: complete(large, large), (400, "InvalidPartOrder", "0042-00000209")),
        (lambda: complete(PartInfo(2, "0" * 32)), (400, "InvalidPart", "")),
        (lambda: complete(PartInfo(9, large.etag)), (400, "InvalidPart", "")),
        (complete, (400, "MalformedXML", "")),
        (lambda: send(0, 1), (400, "InvalidArgument", "0017-00000220")),
        (lambda: send(21, 1), (400, "InvalidArgument", "0017-00000220")),
        (lambda: send(4, 5001), (400, "EntityTooLarge", "")),
        (lambda: bucket.upload_part("other", upload, 1, b""), (404, "NoSuchUpload", "")),
    ]:
        assert refused(call) == refusal
    assert fake.uploads() == {"bucket": ["big"]}
    complete(large, last)
    assert refused(complete, large, last)[:2] == (404, "NoSuchUpload")
    assert refused(bucket.abort_multipart_upload, "big", upload)[1] == "NoSuchUpload"
    upload = bucket.init_multipart_upload("big").upload_id
    bucket.abort_multipart_upload("big", upload)
    assert refused(send, 1, 1)[1] == "NoSuchUpload"
    assert refused(bucket.list_parts, "big", upload)[1] == "NoSuchUpload"
    assert (fake.uploads(), len(fake.bucket().get("big"))) == ({}, 1001)


# Faults


def test_errors(fake: FakeOSS, bucket: Any) -> None:
    """Instead of an answer, before the request is executed, or after it."""
    for status, code in (503, "ServiceUnavailable"), (429, "QpsLimitExceeded"), (500, "Internal"):
        fake.faults.clear()
        fake.faults.add("error", operation="PutObject", times=1, status=status, code=code)
        assert refused(bucket.put_object, code, b"")[:2] == (status, code)
        assert code not in fake.bucket().objects
        fake.faults.add("error", method="P*", times=1, after=True, status=status, code=code)
        assert refused(bucket.put_object, code, b"")[:2] == (status, code)
        assert code in fake.bucket().objects
        bucket.put_object(code, b"")


def test_which(fake: FakeOSS, bucket: Any) -> None:
    """The Nth request that matches, and a share by the dice, the same every time."""

    def pattern(**rule: Any) -> str:
        fake.faults.clear()
        fake.faults.add("error", **rule)
        marks = ""
        for _ in range(20):
            try:
                bucket.get_object("key").read()
                marks += "."
            except oss2.exceptions.ServerError:
                marks += "x"
        return marks

    assert pattern(nth=3) == "..x" + "." * 17
    assert pattern(key="ke?", times=2) == "xx" + "." * 18
    assert pattern(key="other") == pattern(operation="Put*") == pattern(method="PUT") == "." * 20
    assert pattern(share=0.5, seed=1) == pattern(share=0.5, seed=1) != pattern(share=0.5, seed=2)
    assert 3 < pattern(share=0.5, seed=1).count("x") < 17


def test_resets(fake: FakeOSS, bucket: Any) -> None:
    """A connection is reset before or after the effect of a request."""
    rule = fake.faults.add("reset", operation="PutObject")
    for after, there in (False, False), (True, True):
        rule.after = after
        with pytest.raises(oss2.exceptions.RequestError, match="Connection aborted"):
            bucket.put_object("new", b"")
        assert ("new" in fake.bucket().objects) == there


def test_bodies(fake: FakeOSS, bucket: Any) -> None:
    """Bodies are cut off, changed in both directions, or have a wrong checksum."""
    fake.faults.add("truncate", at=300, times=1)
    got = bucket.get_object("key")
    assert got.content_length == 1000
    with pytest.raises(Exception, match="IncompleteRead"):
        got.read()
    fake.faults.add("flip", at=300, times=1)
    changed = bucket.get_object("key").read()
    assert [place for place in range(1000) if changed[place] != DATA[place]] == [300]
    fake.faults.add("flip", at=3, times=1)
    with pytest.raises(oss2.exceptions.InconsistentError):  # oss2 compares the CRCs
        bucket.put_object("new", DATA)
    assert fake.bucket().get("new")[:4] == DATA[:3] + bytes([DATA[3] ^ 1])
    fake.faults.add("crc", times=1)
    with pytest.raises(oss2.exceptions.InconsistentError):
        bucket.put_object("new", DATA)
    assert fake.bucket().get("new") == DATA
    assert bucket.get_object("key").read() == DATA


def test_slowness(fake: FakeOSS) -> None:
    """A late first byte, or a stalled body: the client's timeout ends the request, whatever the
    server has done. Bytes at a rate take their time in both directions."""
    hasty = client(fake, connect_timeout=1)
    fake.faults.add("latency", operation="PutObject", seconds=60, times=1, after=True)
    with pytest.raises(oss2.exceptions.RequestError, match="timed out"):
        hasty.put_object("new", b"")
    wait_until(lambda: "new" in fake.bucket().objects)
    fake.faults.add("latency", operation="DeleteObject", seconds=60, times=1)
    with pytest.raises(oss2.exceptions.RequestError, match="timed out"):
        hasty.delete_object("new")
    assert "new" in fake.bucket().objects
    fake.faults.add("stall", at=500, seconds=60, times=1)
    got = hasty.get_object("key")
    assert got.read(500) == DATA[:500]
    with pytest.raises(Exception, match="timed out"):
        got.read()
    fake.faults.add("bandwidth", rate=5000)
    moments = [time.monotonic()]
    client(fake).get_object("key").read()
    moments.append(time.monotonic())
    client(fake).put_object("new", DATA)
    moments.append(time.monotonic())
    assert min(moments[1] - moments[0], moments[2] - moments[1]) >= 0.2  # it cannot be faster


# Counters, and the program


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.01)


def test_counters(fake: FakeOSS, bucket: Any) -> None:
    """Requests, bytes in both directions, and the maximum number in parallel."""
    fake.faults.add("latency", operation="GetObject", seconds=0.2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: bucket.get_object("key", byte_range=(0, 99)).read(), range(4)))
    fake.faults.clear()
    bucket.put_object("new", b"x" * 50)
    bucket.head_object("new")
    counted = fake.counters.read()
    assert counted["requests"] == {"GetObject": 4, "PutObject": 1, "HeadObject": 1}
    assert (counted["down"]["GetObject"], counted["up"]["PutObject"]) == (400, 50)
    assert (counted["down_by_key"]["key"], counted["up_by_key"]["new"]) == (400, 50)
    assert counted["most_requests_at_once"] == counted["most_connections"] == 4
    fake.counters.reset()
    for _ in range(20):
        client(fake).get_object("key").read()  # one connection after the other
    assert fake.counters.read()["most_requests_at_once"] == 1


def test_a_bug_in_the_fake_shows() -> None:
    """A bug is not reported as a fault that a client retries."""
    fake = FakeOSS()
    with pytest.raises(AssertionError, match="the fake failed"), fake:  # noqa: PT012
        fake.service.keys = None  # type: ignore[assignment]
        with pytest.raises(oss2.exceptions.RequestError):
            client(fake).get_object("key")


def test_it_ends_with_clients_connected() -> None:
    """Clients with an open connection or a running request do not block the end of the server."""
    with FakeOSS() as fake:
        fake.bucket().put("key", DATA)
        client(fake).get_object("key")
        fake.faults.add("stall", at=1, seconds=600)
        slow = threading.Thread(target=_read, args=[client(fake)])
        slow.start()
        wait_until(lambda: fake.counters.requests["GetObject"] == 2)
    slow.join(20)
    assert not slow.is_alive()


def _read(bucket: Any) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        bucket.get_object("key").read()


def test_program(tmp_path: Path) -> None:
    """For pods: faults and counters over HTTP. A signal ends the program, and no files are left."""
    command = [sys.executable, str(Path(__file__).with_name("fake.py")), "--port", "0", "--root"]
    rest = ["--bucket", "b-1", "--bucket", "b-2", "--region", "cn-x", "--key", "me:se:cret"]
    with subprocess.Popen(
        [*command, str(tmp_path), *rest], stdout=subprocess.PIPE, text=True
    ) as ran:
        assert ran.stdout
        endpoint = ran.stdout.readline().split()[-1]

        def ask(method: str, path: str, body: object = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            return json.loads(fetch(f"{endpoint}/-/{path}", data, method) or b"null")

        bucket = oss2.Bucket(oss2.AuthV4("me", "se:cret"), endpoint, "b-2", region="cn-x")
        bucket.put_object("key", DATA)
        upload = bucket.init_multipart_upload("left")
        ask("POST", "faults", [{"fault": "error", "operation": "GetObject", "nth": 2}])
        bucket.get_object("key").read()
        assert refused(bucket.get_object, "key")[0] == 503
        assert [rule["used"] for rule in ask("GET", "faults")] == [1]
        ask("DELETE", "faults")
        assert ask("GET", "faults") == []
        counted = ask("GET", "counters")
        assert counted["requests"]["GetObject"] == 2
        assert counted["uploads"] == {"b-2": ["left"]}
        bucket.abort_multipart_upload("left", upload.upload_id)
        ask("DELETE", "counters")
        assert ask("GET", "counters")["requests"] == {}
        ran.send_signal(signal.SIGTERM)
        assert ran.wait(20) == 0
    assert list(tmp_path.iterdir()) == []
