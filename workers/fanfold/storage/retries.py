"""Requests to OSS: which error codes are retried, how often, and what the others mean."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import oss2
from oss2.exceptions import OssError
from requests.exceptions import RequestException

from fanfold.errors import BadNameError, ChangedError, RefusedError, RetryError, WorkerError

Answer = TypeVar("Answer")

ATTEMPTS = 8  # per request; with the pauses about half a minute
PATIENCE = 120  # seconds after which a request that hangs is not repeated
PAUSES = 0.2, 10.0  # seconds: upper bound of the first pause, and of every pause

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
    """Another worker has aborted the upload, or it was completed and the answer was lost."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: its upload was ended by another worker: a retry can help")


def ask(bucket: oss2.Bucket, path: str, request: Callable[[], Answer], version: str = "") -> Answer:
    """The answer to a request about `path`, retried with growing pauses where that can help.
    Raises FileNotFoundError, WorkerError for what the operator must fix, RetryError."""
    first, longest = PAUSES
    end = time.monotonic() + PATIENCE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except UnicodeError:
            raise WorkerError(
                f"{path!r} is not UTF-8, as all names in OSS are: choose another"
            ) from None
        except RequestException as error:
            said: object = error
            is_unknown = False
        except OssError as error:
            if not is_transient(error):
                raise refusal(bucket, path, error, version) from None
            said = f"{error.status} {error.code}" if error.status > 0 else error.body
            is_unknown = is_of_no_host(error)
        if attempt == ATTEMPTS or time.monotonic() > end:
            break
        time.sleep(random.random() * min(longest, first * 2**attempt))  # noqa: S311
    if is_unknown:
        raise WorkerError(
            f"OSS_ENDPOINT is {bucket.endpoint!r}, whose host no name server knows: set it, or the "
            "OSS_REGION that it is made of, right; OSS_CNAME=true if it is the bucket's own domain"
        )
    raise RetryError(
        f"{path}: {said}, {attempt} times: a retry can help, if OSS_ENDPOINT is "
        f"right, which is {bucket.endpoint}"
    )


def is_transient(error: OssError) -> bool:
    """Whether to retry: the request or its answer was lost or damaged, or OSS is busy."""
    codes = oss2.exceptions
    lost = (codes.OSS_REQUEST_ERROR_STATUS, codes.OSS_INCONSISTENT_ERROR_STATUS)
    return (
        error.status in (*lost, 408, 429)
        or error.status >= 500
        or error.code in ("RequestTimeout", "InvalidDigest")
    )


def is_of_no_host(error: BaseException | None) -> bool:
    """Whether the name servers answered that the host does not exist."""
    while error and not isinstance(error, socket.gaierror):
        error = error.__context__
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME


def refusal(bucket: oss2.Bucket, path: str, error: OssError, version: str) -> Exception:
    """What an error that is not retried means."""
    if error.status == 412:
        return ChangedError(path, f"version {version}", "another")
    if right := error.details.get("Endpoint"):  # of a bucket in another region
        return WorkerError(
            f"{path}: the bucket is not at OSS_ENDPOINT, which is "
            f"{bucket.endpoint}, but at {right}: set OSS_ENDPOINT and OSS_REGION so"
        )
    if error.code == "NoSuchUpload":
        return UploadEndedError(path)
    if error.status == 404 and error.code != "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    remedy = REMEDIES.get(
        error.code,
        f"set the bucket, OSS_ENDPOINT, which is {bucket.endpoint}, OSS_REGION, which is "
        f"{bucket.region}, and the rights right",
    )
    of_file = {"InvalidObjectName": BadNameError, "InvalidObjectState": WorkerError}
    kind = of_file.get(error.code, RefusedError)
    return kind(
        f"{path}: OSS says {error.status} {error.code}: "
        f"{error.message} (request {error.request_id}): {remedy}"
    )
