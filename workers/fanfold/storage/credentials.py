"""Credentials for OSS: a key from the environment, or a role's temporary keys, renewed in time."""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from threading import Lock

import requests
from oss2.credentials import Credentials
from requests.exceptions import RequestException

from fanfold.errors import WorkerError

METADATA = "http://100.100.100.200/latest"  # of every ECS instance
TIMEOUT = 10  # seconds
RRSA = (
    "ALIBABA_CLOUD_ROLE_ARN",
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
)
KEY = ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET")
TOKEN = "OSS_SESSION_TOKEN"  # noqa: S105 - the variable's name
ECS_ROLE = "ALIBABA_CLOUD_ECS_METADATA"


def find(environ: Mapping[str, str], region: str) -> Provider:
    """Credentials come from the first source below with any variable set: a key, RRSA, the role of
    the ECS instance. All variables of this source are required."""
    for names in (KEY, RRSA, (ECS_ROLE,)):
        if any(environ.get(name) for name in names):
            break
    else:
        raise WorkerError(
            f"no credentials for OSS are set: set {' and '.join(KEY)}, or for RRSA "
            f"{', '.join(RRSA)}, or {ECS_ROLE} to the role of the ECS instance"
        )
    if missing := [name for name in names if not environ.get(name)]:
        raise WorkerError(f"{missing[0]} must be set, got no value: set all of {', '.join(names)}")
    if names == KEY:
        for name in (*KEY, TOKEN):
            if re.search("[^!-~]", environ.get(name, "")):
                raise WorkerError(
                    f"{name} must be ASCII with no space and no line end: set the value as it was "
                    "issued"
                )
        keys = Credentials(*(environ[name] for name in KEY), environ.get(TOKEN, ""))
        return Provider(lambda: (keys, float("inf")))
    if names == RRSA:
        return Provider(lambda: assume_role(environ, region))
    return Provider(lambda: instance_role(environ[ECS_ROLE]))


class Provider:
    """Provides oss2 with the keys to sign requests. Keys are renewed when a fifth of their lifetime
    is left. If a renewal fails, the old keys are used until they expire."""

    def __init__(self, fetch: Callable[[], tuple[Credentials, float]]) -> None:
        self._fetch, self._lock, self._renewal, self._end = fetch, Lock(), 0.0, 0.0

    def get_credentials(self) -> Credentials:
        """Return the keys. Raises an error of requests if a retry can help, or WorkerError."""
        with self._lock:
            if (now := time.time()) >= self._renewal:
                try:
                    self._keys, self._end = self._fetch()
                except RequestException:
                    if now >= self._end:
                        raise
                self._renewal = now + 0.8 * (self._end - now)
            return self._keys


def assume_role(environ: Mapping[str, str], region: str) -> tuple[Credentials, float]:
    """Fetch keys for the role of the pod's service account (STS, AssumeRoleWithOIDC)."""
    role, provider, token_file = (environ[name] for name in RRSA)
    try:
        with open(token_file, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeError) as error:
        raise WorkerError(
            f"{RRSA[2]} must be readable, got {token_file!r} ({error}): mount the service "
            "account's token"
        ) from None
    fields = {
        "Action": "AssumeRoleWithOIDC",
        "Version": "2015-04-01",
        "Format": "JSON",
        "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "RoleArn": role,
        "OIDCProviderArn": provider,
        "OIDCToken": token,
        "RoleSessionName": "fanfold",
    }
    url = environ.get("ALIBABA_CLOUD_STS_ENDPOINT") or f"sts-vpc.{region}.aliyuncs.com"
    url = url if "://" in url else f"https://{url}"  # the ACK webhook sets only a host
    try:
        return keys_of(requests.post(url, fields, timeout=TIMEOUT), "Credentials")
    except ValueError:  # from requests: the URL is invalid
        host = f"sts-vpc.{region}.aliyuncs.com"
        raise WorkerError(
            f"ALIBABA_CLOUD_STS_ENDPOINT must be a host, got {url!r}: use for example {host}"
        ) from None


def instance_role(role: str) -> tuple[Credentials, float]:
    """Fetch keys for the role of the ECS instance."""
    life = {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}
    token = answer_of(requests.put(f"{METADATA}/api/token", headers=life, timeout=TIMEOUT)).text
    url = f"{METADATA}/meta-data/ram/security-credentials/{role}"
    headers = {"X-aliyun-ecs-metadata-token": token}
    return keys_of(requests.get(url, headers=headers, timeout=TIMEOUT))


def keys_of(response: requests.Response, field: str = "") -> tuple[Credentials, float]:
    """Parse the keys in a response, or in one of its fields, and their expiration."""
    names = ("AccessKeyId", "AccessKeySecret", "SecurityToken")
    try:
        record = answer_of(response).json()
        record = record[field] if field else record
        end = timegm(time.strptime(record["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
        return Credentials(*(str.strip(record[name]) for name in names)), end
    except (KeyError, TypeError, ValueError):
        raise RequestException(f"{response.url} returned no keys") from None


def answer_of(response: requests.Response) -> requests.Response:
    """Return the response, or raise its error. The operator must fix a refusal."""
    if response.status_code == 200:
        return response
    try:
        reason = str(response.json()["Code"])  # the message might contain the token
    except (ValueError, KeyError, TypeError):
        reason = str(response.reason)
    sentence = f"{response.url} returned no keys: {response.status_code} {reason}"
    if response.status_code >= 500 or response.status_code == 429 or "Throttling" in reason:
        raise RequestException(sentence)
    raise WorkerError(f"{sentence}: correct the role and its trust policy")
