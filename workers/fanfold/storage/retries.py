"""Requests to OSS: which errors are retried, how often, and what the other errors mean."""

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
PATIENCE = 120  # seconds after which a hanging request is not repeated
PAUSES = 0.2, 10.0  # seconds: upper bounds of the first pause and of all pauses

REMEDIES = {
    "AccessDenied": "grant the key or the role access to it",
    "InvalidAccessKeyId": "use a key that exists and is enabled",
    "SignatureDoesNotMatch": "use the secret of this key, and the OSS_REGION of the bucket",
    "SecurityTokenExpired": "use a token that has not expired",
    "RequestTimeTooSkewed": "correct the node's clock",
    "NoSuchBucket": "name a bucket that exists in WORK_DIR",
    "InvalidObjectState": "restore the object from the archive, and wait until it is restored",
    "InvalidObjectName": "choose another name",
    "UserDisable": "reactivate the account that owns the bucket",
}


class UploadEndedError(RetryError):
    """Another worker aborted the upload, or it was completed and the answer was lost."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path}: another worker has ended the upload: a retry can help")


def ask(bucket: oss2.Bucket, path: str, request: Callable[[], Answer], version: str = "") -> Answer:
    """Send a request about `path` and return the answer. Retries with growing pauses if a retry can
    help. Raises FileNotFoundError, WorkerError for what the operator must fix, or RetryError."""
    first, longest = PAUSES
    end = time.monotonic() + PATIENCE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except UnicodeError:
            raise WorkerError(
                f"{path!r} must be UTF-8, as all names in OSS: choose another name"
            ) from None
        except RequestException as error:
            problem: object = error
            is_unknown = False
        except OssError as error:
            if not is_transient(error):
                raise refusal(bucket, path, error, version) from None
            problem = f"{error.status} {error.code}" if error.status > 0 else error.body
            is_unknown = is_of_no_host(error)
        if attempt == ATTEMPTS or time.monotonic() > end:
            break
        time.sleep(random.random() * min(longest, first * 2**attempt))  # noqa: S311
    if is_unknown:
        raise WorkerError(
            f"OSS_ENDPOINT must have a host that DNS knows, got {bucket.endpoint!r}: correct "
            "OSS_ENDPOINT or OSS_REGION, or set OSS_CNAME=true for the bucket's own domain"
        )
    raise RetryError(
        f"{path}: {problem} ({attempt} attempts): a retry can help if OSS_ENDPOINT is correct, "
        f"got {bucket.endpoint}"
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
    """Whether DNS answered that the host does not exist."""
    while error and not isinstance(error, socket.gaierror):
        error = error.__context__
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME


def refusal(bucket: oss2.Bucket, path: str, error: OssError, version: str) -> Exception:
    """Return the exception for an error that is not retried."""
    if error.status == 412:
        return ChangedError(path, f"version {version}", "another")
    if right := error.details.get("Endpoint"):  # the bucket is in another region
        return WorkerError(
            f"{path}: OSS_ENDPOINT must be {right} for this bucket, got {bucket.endpoint}: correct "
            "OSS_ENDPOINT and OSS_REGION"
        )
    if error.code == "NoSuchUpload":
        return UploadEndedError(path)
    if error.status == 404 and error.code != "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    remedy = REMEDIES.get(
        error.code,
        f"correct the bucket, OSS_ENDPOINT ({bucket.endpoint}), OSS_REGION ({bucket.region}) or "
        "the permissions",
    )
    of_file = {"InvalidObjectName": BadNameError, "InvalidObjectState": WorkerError}
    kind = of_file.get(error.code, RefusedError)
    return kind(
        f"{path}: OSS returned {error.status} {error.code}: {error.message} (request "
        f"{error.request_id}): {remedy}"
    )
