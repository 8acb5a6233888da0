"""The sender of a request: OSS Signature V4 in the Authorization header, no older signature."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

from messages import OssError, Request, stamp

SKEW = 15 * 60  # seconds: the maximum difference of clocks
ALWAYS_SIGNED = {"content-type", "content-md5"}
AUTHORIZATION = re.compile(
    "OSS4-HMAC-SHA256 Credential=([^,]*)(?:, ?AdditionalHeaders=([^,]*))?, ?Signature=([0-9a-f]*)"
    "(?:, ?AdditionalHeaders=(.*))?"
)


@dataclass
class Key:
    """An access key. A temporary key has a token and an end. `allows` is its policy: a function of
    the operation, the bucket and the key, or the prefix of a listing."""

    id: str
    secret: str
    token: str = ""
    expires: float = float("inf")
    allows: Callable[[str, str, str], bool] = field(default=lambda operation, bucket, key: True)


def signed(request: Request, secret: str, scope: str, additional: str) -> tuple[str, str, str]:
    """Return the signature of a request, the signed text and its canonical request."""
    names = ALWAYS_SIGNED | set(additional.split(";"))
    # The same for a bucket in the path and in the host name.
    path = f"/{request.bucket}/{request.key}" if request.bucket else "/"
    query = sorted((_quoted(name), _quoted(value)) for name, value in request.query.items())
    headers = [
        f"{name}:{value.strip()}\n"
        for name, value in sorted(request.headers.items())
        if name.startswith("x-oss-") or name in names
    ]
    canonical = "\n".join(
        [
            request.method,
            _quoted(path, safe="/"),
            "&".join(f"{name}={value}" if value else name for name, value in query),
            "".join(headers),
            additional,
            request.headers["x-oss-content-sha256"],
        ]
    )
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    text = "\n".join(["OSS4-HMAC-SHA256", request.headers["x-oss-date"], scope, hashed])
    key = b"aliyun_v4" + secret.encode()
    for piece in [*scope.split("/"), text]:
        key = hmac.digest(key, piece.encode("utf-8", "surrogateescape"), "sha256")
    return key.hex(), text, canonical


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe=safe, errors="surrogateescape")


def verify(keys: Mapping[str, Key], region: str, now: float, request: Request) -> Key:
    """Return the key that signed this request, or raise the refusal of OSS."""
    headers = request.headers
    given = headers.get("authorization")
    if not given:
        raise OssError("AccessDenied")
    if given.startswith(("OSS ", "OSS2 ")):
        message = "The signature version of this request is not supported any more."
        raise OssError("AccessDenied", message, "0002-00000080")
    match = AUTHORIZATION.fullmatch(given)
    credential = match[1].split("/") if match else []
    if match is None or len(credential) != 5:
        raise OssError("InvalidArgument", "Authorization header is invalid.")
    key_id, day, signed_region, product, end = credential
    if headers.get("x-oss-content-sha256") != "UNSIGNED-PAYLOAD":
        raise OssError("InvalidArgument", "Invalid x-oss-content-sha256 header.")
    try:
        date = datetime.strptime(headers.get("x-oss-date", ""), "%Y%m%dT%H%M%SZ")
    except ValueError:
        raise OssError("AccessDenied", "OSS authentication requires a valid Date.") from None
    if day != date.strftime("%Y%m%d"):
        raise OssError("InvalidArgument", "Invalid signing date in Authorization header.")
    if signed_region != region:
        message = "Invalid signing region in Authorization header."
        raise OssError("InvalidArgument", message, "0002-00000226")
    if (product, end) != ("oss", "aliyun_v4_request"):
        message = "Invalid signing product in Authorization header."
        raise OssError("InvalidArgument", message, "0002-00000227")
    sent = date.replace(tzinfo=UTC).timestamp()
    if abs(now - sent) > SKEW:
        raise OssError("RequestTimeTooSkewed", RequestTime=stamp(sent), ServerTime=stamp(now))
    key, token = keys.get(key_id), headers.get("x-oss-security-token", "")
    # For OSS a temporary key without its token is unknown, and so is a permanent key with a token.
    if key is None or bool(token) != bool(key.token):
        ec = "0002-00000002" if token else ""
        raise OssError("InvalidAccessKeyId", ec=ec, OSSAccessKeyId=key_id)
    if token != key.token:
        raise OssError("InvalidSecurityToken")
    if now >= key.expires:
        raise OssError("SecurityTokenExpired")
    scope, additional = "/".join(credential[1:]), match[2] or match[4] or ""
    expected, text, canonical = signed(request, key.secret, scope, additional)
    if not hmac.compare_digest(expected, match[3]):
        raise OssError(
            "SignatureDoesNotMatch",
            OSSAccessKeyId=key_id,
            SignatureProvided=match[3],
            StringToSign=text,
            CanonicalRequest=canonical,
        )
    return key
