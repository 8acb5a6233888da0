"""The identity of a worker for OSS: keys in the environment, the role of its pod, the role of its
node."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake import FakeOSS
from fanfold.storage import credentials
from fanfold.storage.bucket import open_storage
from messages import Answer
from pipeline import INPUT, Volume, model
from requests.exceptions import RequestException
from signature import Key

LOG = b"INFO 1\nWARN 2\nERROR 3\n" * 9
NONE = {"OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": ""}
TOKEN = "token-of-the-pod"  # noqa: S105


@pytest.fixture
def rrsa(bucket: Volume, fake: FakeOSS, tmp_path: Path) -> Iterator[Volume]:
    """A bucket, and a pod with a token and without keys."""
    bucket.write(INPUT, LOG)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    fake.sts.tokens = {TOKEN}
    yield bucket.having(
        **NONE,
        ALIBABA_CLOUD_ROLE_ARN=fake.sts.role_arn,
        ALIBABA_CLOUD_OIDC_PROVIDER_ARN=fake.sts.provider_arn,
        ALIBABA_CLOUD_OIDC_TOKEN_FILE=file,
        ALIBABA_CLOUD_STS_ENDPOINT=fake.endpoint + "/",
    )
    fake.sts.seconds, fake.sts.tokens = None, {TOKEN}


@pytest.fixture
def node(rrsa: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """The same on a node with a role. The node answers only requests with a token."""
    monkeypatch.setattr(credentials, "METADATA", f"{fake.endpoint}/latest")
    monkeypatch.setattr(fake.sts, "node_tokens", set())
    settings = dict.fromkeys(credentials.RRSA, "") | {"ALIBABA_CLOUD_ECS_METADATA": "node-role"}
    return rrsa.having(**settings)


def asked(fake: FakeOSS, operation: str) -> int:
    """Return the number of requests for something."""
    return int(fake.counters.read()["requests"].get(operation, 0))


def refused(volume: Volume) -> tuple[int, str]:
    """Return the exit code and output of a split, which must not contain a key."""
    outcome = volume.run("split")
    for key in (TOKEN, "secret", "STS.", "CAIS"):
        assert key not in outcome.output + outcome.words
    assert outcome.words.count("\n") == 1
    return outcome.code, outcome.words


# --- each of them, and their order


@pytest.fixture
def no_key(fake: FakeOSS) -> Iterator[None]:
    """The key of the other tests is not known."""
    fake.service.keys.pop("id")
    yield
    fake.add_key(Key("id", "secret"))


@pytest.mark.usefixtures("no_key")
def test_rrsa(rrsa: Volume, fake: FakeOSS) -> None:
    """A run of a pod with a token: each worker makes one request for keys, and uses them for all
    other requests."""
    parts = rrsa.log_count()
    assert rrsa.totals() == model([LOG])
    assert asked(fake, "AssumeRoleWithOIDC") == 2 + 2 * len(parts)


@pytest.mark.usefixtures("no_key")
def test_node(node: Volume, fake: FakeOSS) -> None:
    """A run with the role of the node."""
    parts = node.log_count()
    assert node.totals() == model([LOG])
    assert asked(fake, "Metadata") == 2 * (2 + 2 * len(parts))
    assert asked(fake, "AssumeRoleWithOIDC") == 0


def test_environment(rrsa: Volume, fake: FakeOSS) -> None:
    """Keys of the environment come before a role, with a token and without."""
    for key in (Key("id", "secret"), Key("temporary", "other", "its-token")):
        fake.add_key(key)
        rrsa.having(
            OSS_ACCESS_KEY_ID=key.id, OSS_ACCESS_KEY_SECRET=key.secret, OSS_SESSION_TOKEN=key.token
        ).log_count(RUN_DIR=key.id)
    assert asked(fake, "AssumeRoleWithOIDC") == 0


def test_order(rrsa: Volume, fake: FakeOSS) -> None:
    """The role of the pod is used before the role of the node."""
    rrsa.having(ALIBABA_CLOUD_ECS_METADATA="node-role").split()
    assert asked(fake, "AssumeRoleWithOIDC") == 1
    assert asked(fake, "Metadata") == 0


SETTINGS = [*credentials.KEY, *credentials.RRSA]


@pytest.mark.parametrize("name", SETTINGS)
def test_half_a_setting(rrsa: Volume, name: str) -> None:
    """If one of several settings is set, all are required: no other source is tried."""
    keys = {"OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "secret"}
    code, words = refused(rrsa.having(**(keys if name in keys else {})).having(**{name: ""}))
    assert code == 2
    assert f"{name} must be set, got no value: set all of " in words


def test_none(bucket: Volume) -> None:
    """No credentials at all."""
    code, words = refused(bucket.having(**NONE))
    assert code == 2
    assert all(name in words for name in (*SETTINGS, credentials.ECS_ROLE))


# --- renewal


class Clock:
    """The time, for workers and for issuers of keys."""

    def __init__(self) -> None:
        # not the time of the import: OSS refuses requests older than 15 minutes
        self.now = time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, fake: FakeOSS) -> Clock:
    """A clock that the test sets. The fake OSS uses it for keys, but not for the age of a
    request."""
    made = Clock()
    monkeypatch.setattr(time, "time", lambda: made.now)
    monkeypatch.setattr(fake.service, "clock", lambda: made.now)
    return made


def test_renewal(rrsa: Volume, fake: FakeOSS, clock: Clock) -> None:
    """Keys are renewed when a fifth of their life is left, with the current token of the file."""
    environ = rrsa.environ({})
    provider = credentials.find(environ, "")
    first = provider.get_credentials()
    clock.now += 3600 * 0.79
    assert provider.get_credentials() is first
    fake.sts.tokens = {"next"}
    Path(environ["ALIBABA_CLOUD_OIDC_TOKEN_FILE"]).write_text("next")
    clock.now += 3600 * 0.02
    assert provider.get_credentials().get_access_key_id() != first.get_access_key_id()
    assert asked(fake, "AssumeRoleWithOIDC") == 2


def test_short_lives(rrsa: Volume, fake: FakeOSS, clock: Clock) -> None:
    """Keys that live for seconds: no request is signed with expired keys."""
    fake.sts.seconds = 20
    inputs, _ = open_storage(rrsa.environ({}))
    for _ in range(30):
        assert inputs.look(INPUT).size == len(LOG)
        clock.now += 5
    assert 5 <= asked(fake, "AssumeRoleWithOIDC") <= 30


def test_sts_is_down(rrsa: Volume, fake: FakeOSS) -> None:
    """At the start a worker retries, and ends with 75."""
    rule = fake.faults.add("error", operation="AssumeRoleWithOIDC", times=3)
    assert rrsa.run("split").code == 0
    assert rule.used == 3
    fake.faults.add("reset", operation="AssumeRoleWithOIDC")
    assert refused(rrsa)[0] == 75


def test_sts_goes_down(rrsa: Volume, fake: FakeOSS, clock: Clock) -> None:
    """Later its keys are used until they expire."""
    provider = credentials.find(rrsa.environ({}), "")
    first = provider.get_credentials()
    fake.faults.add("reset", operation="AssumeRoleWithOIDC")
    clock.now += 3600 * 0.81
    for _ in range(10):
        assert provider.get_credentials() is first
    assert asked(fake, "AssumeRoleWithOIDC") == 2
    clock.now += 3600 * 0.20
    with pytest.raises(RequestException):
        provider.get_credentials()
    fake.faults.clear()
    assert provider.get_credentials() is not first


# --- refusals


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/other", "EntityNotExist.Role"),
        (
            "ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
            "acs:ram::1:oidc-provider/x",
            "EntityNotExist.OIDCProvider",
        ),
        (
            "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
            "/nowhere/token",
            "/nowhere/token.*mount the service account",
        ),
        (
            "ALIBABA_CLOUD_STS_ENDPOINT",
            "http://[bad",
            r"STS_ENDPOINT must be a host, got 'http://\[bad'",
        ),
    ],
)
def test_refused(rrsa: Volume, fake: FakeOSS, setting: str, value: str, words: str) -> None:
    """Errors that the operator must fix: 2, without a retry."""
    code, message = refused(rrsa.having(**{setting: value}))
    assert code == 2
    assert re.search(words, message)
    assert asked(fake, "AssumeRoleWithOIDC") <= 1


@pytest.mark.parametrize("content", [b"", b"another", b"\xff"])
def test_wrong_token(rrsa: Volume, content: bytes) -> None:
    """A file without a token, with another token, or without text."""
    file = Path(rrsa.settings["ALIBABA_CLOUD_OIDC_TOKEN_FILE"])
    file.write_bytes(content)
    code, words = refused(rrsa)
    assert code == 2
    assert "another" not in words


def test_no_such_node_role(node: Volume) -> None:
    """A node with another role."""
    code, words = refused(node.having(ALIBABA_CLOUD_ECS_METADATA="other"))
    assert code == 2
    assert "ram/security-credentials/other returned no keys: 404" in words


GOOD = (
    '{"Credentials": {"AccessKeyId": "STS.x", "AccessKeySecret": "secret", "SecurityToken": "CAIS",'
    ' "Expiration": "2999-01-01T00:00:00Z"}}'
)


@pytest.mark.parametrize(
    "answer",
    ["", "<html/>", "[]", "null", "{}", '{"Credentials": []}', '{"Credentials": {}}', GOOD[:-9],
     GOOD.replace('"CAIS"', "null"), GOOD.replace('"secret"', "7"), GOOD.replace("2999-01", "")],
)  # fmt: skip
def test_malformed(
    rrsa: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """An answer without keys, or with half of them: 75."""
    made = Answer(200, {"Content-Type": "application/json"}, answer.encode())
    monkeypatch.setattr(fake.sts, "assume_role", lambda _: made)
    code, words = refused(rrsa)
    assert code == 75
    assert "returned no keys" in words


@pytest.mark.parametrize(
    ("refusal", "ended"),
    [((400, "Throttling.User"), 75), ((429, "Throttling"), 75), ((503, "ServiceUnavailable"), 75),
     ((403, "NoPermission"), 2)],
)  # fmt: skip
def test_refusals_of_sts(
    rrsa: Volume,
    fake: FakeOSS,
    monkeypatch: pytest.MonkeyPatch,
    refusal: tuple[int, str],
    ended: int,
) -> None:
    """Thousands of pods request keys at the same time: a refusal because of this is retried. The
    message of an answer may contain the token, and is not printed."""
    status, code = refusal
    body = '{"Code": "%s", "Message": "the token %s"}' % (code, TOKEN)  # noqa: UP031
    made = Answer(status, {"Content-Type": "application/json"}, body.encode())
    monkeypatch.setattr(fake.sts, "assume_role", lambda _: made)
    assert (found := refused(rrsa))[0] == ended
    assert code in found[1]
