"""Requests, answers, and error messages of OSS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from objects import Piece

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signature import Key

    Tree = Mapping[str, "str | Tree | list[Tree]"]

# Status, number of the error's page if known, and message. fmt: off
REFUSALS = {
    "AccessDenied": (
        403,
        "0003-00000001",
        "You have no right to access this object because of bucket acl.",
    ),
    "EntityTooLarge": (400, "", "Your proposed upload exceeds the maximum allowed object size."),
    "EntityTooSmall": (
        400,
        "0042-00000213",
        "Your proposed upload smaller than the minimum allowed size.",
    ),
    "FileAlreadyExists": (
        409,
        "0026-00000002",
        "The object you specified already exists and can not be overwritten.",
    ),
    "InternalError": (500, "", "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (
        403,
        "0002-00000902",
        "The OSS Access Key Id you provided does not exist in our records.",
    ),
    "InvalidArgument": (400, "", "The argument is invalid."),
    "InvalidDigest": (400, "", "The Content-MD5 you specified did not match what we received."),
    "InvalidObjectName": (400, "0016-00000002", "The specified object is not valid."),
    "InvalidPart": (
        400,
        "",
        "One or more of the specified parts could not be found or the specified entity tag "
        "might not have matched the part's entity tag.",
    ),
    "InvalidPartOrder": (400, "0042-00000209", "The list of parts was not in ascending order."),
    "InvalidRange": (416, "", "The requested range cannot be satisfied"),
    "InvalidSecurityToken": (403, "0002-00000006", "The security token you provided is invalid."),
    "MalformedXML": (
        400,
        "",
        "The XML you provided was not well-formed or did not validate against our published "
        "schema.",
    ),
    "MissingArgument": (400, "", "Missing Some Required Arguments."),
    "MissingContentLength": (411, "", "You must provide the Content-Length HTTP header."),
    "NoSuchBucket": (404, "0015-00000101", "The specified bucket does not exist."),
    "NoSuchKey": (404, "0026-00000001", "The specified key does not exist."),
    "NoSuchUpload": (
        404,
        "",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may "
        "have been aborted or completed.",
    ),
    "NotImplemented": (
        400,
        "",
        "A header or query you provided implies functionality that is not implemented.",
    ),
    "NotModified": (304, "", ""),
    "PreconditionFailed": (
        412,
        "",
        "At least one of the pre-conditions you specified did not hold.",
    ),
    "QpsLimitExceeded": (429, "", "Please reduce your request rate."),
    "RequestTimeTooSkewed": (
        403,
        "0002-00000504",
        "The difference between the request time and the current time is too large.",
    ),
    "SecondLevelDomainForbidden": (403, "", "Please use virtual hosted style to access."),
    "SecurityTokenExpired": (403, "0002-00000007", "The security token you provided has expired."),
    "ServiceUnavailable": (503, "", "Thread pool is almost full, please retry later"),
    "SignatureDoesNotMatch": (
        403,
        "0002-00000201",
        "The request signature we calculated does not match the signature you provided. Check "
        "your key and signing method.",
    ),
}
# fmt: on


class OssError(Exception):
    """A refusal; `fields` are in its body, in addition to the code and the message."""

    def __init__(
        self, code: str, message: str = "", ec: str = "", *, status: int = 0, **fields: str
    ) -> None:
        super().__init__(code)
        usual = REFUSALS.get(code, (status, "", ""))
        self.code, self.fields = code, fields
        self.status = status or usual[0]
        self.ec = ec or ("" if message else usual[1])
        self.message = message or usual[2]


@dataclass
class Request:
    """A request; names of headers are in lower case."""

    method: str
    host: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Iterator[bytes]
    by: Key | None = None


@dataclass
class Answer:
    """An answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | tuple[Piece, ...] = b""


def xml(tree: Tree) -> str:
    """Convert to elements: a mapping is nested, a list repeats an element."""
    text = ""
    for name, content in tree.items():
        for one in content if isinstance(content, list) else [content]:
            text += f"<{name}>{escape(one) if isinstance(one, str) else xml(one)}</{name}>"
    return text


def document(name: str, tree: Tree, status: int = 200) -> Answer:
    """Return an answer in XML."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{xml({name: tree})}'
    body = text.encode("utf-8", "backslashreplace")
    return Answer(status, {"Content-Type": "application/xml"}, body)


def stamp(when: float, form: str = "%Y-%m-%dT%H:%M:%S.000Z") -> str:
    """Format a time for XML."""
    return datetime.fromtimestamp(when, UTC).strftime(form)
