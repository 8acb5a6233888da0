"""Faults between a worker and its bucket: every request fails in every way; inputs are replaced;
errors that the operator must fix; and no worker ever prints a key."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as numbers
from pathlib import Path
from typing import Any

import pytest
from fake import FakeOSS
from fanfold import Part, parallel, report
from fanfold.storage import bucket as oss_bucket
from fanfold.storage import retries, uploads
from messages import Answer, Request
from pipeline import INPUT, Outcome, Tree, Volume, model, pieces_of
from signature import Key

KEYS = Key("AKIDofatest", "hidden+secret/of=a+test", "CAIStoken+of/a=test")
LOG = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\n" * 3
FILES = {"in/a": LOG, "in/b": LOG[:50] + b"\n", "in/c": b"INFO"}
OTHER = LOG.replace(b"INFO", b"WARN")
Settings = dict[str, object]

WRITES: Settings = {"MAP_SETTINGS": "writes its part twice"}
# The steps before, the step on a bucket with faults, and its settings.
SCENARIOS: dict[str, tuple[list[str], str, Settings]] = {
    "split copy": ([], "split", {}),
    "split range": ([], "split", {"SPLIT_MODE": "range"}),
    "split missing parts": (["split", "count 0"], "split", {"ONLY_MISSING": "true"}),
    "count a copy": (["split"], "count 1", {}),
    "count a range": (["split range"], "count 0", {}),
    "write": (["split"], "write 0", WRITES),
    "merge": (["split", "count 0", "count 1"], "merge", {}),
    "merge outputs": (["split", "write 0", "write 1"], "merge", {**WRITES, "CLEAN": "true"}),
    "process": ([], "process 0 1", {}),
    "process a level": (["process 0 1", "process 1 1"], "process 0 2", {}),
    "merge files": ([], "merge 3", {"LEVEL": 1}),
    "merge a level": (["process 0 1", "process 1 1"], "merge 2", {"LEVEL": 2, "CLEAN": "true"}),
}
# Only bodies with a checksum get a wrong bit: a range has none.
FAULTS: dict[str, dict[str, Any]] = {
    "reset": {"fault": "reset"},
    "done and reset": {"fault": "reset", "after": True},
    "503": {"fault": "error"},
    "done and 500": {
        "fault": "error",
        "after": True,
        "status": 500,
        "code": "InternalError",
    },
    "429": {"fault": "error", "status": 429, "code": "QpsLimitExceeded"},
    "truncated": {"fault": "truncate", "at": 3},
    "stalls": {"fault": "stall", "at": 3, "seconds": 30},
    "a late answer": {"fault": "latency", "after": True, "seconds": 0.4},
    "a wrong sum": {"fault": "crc"},
    "a bit of a PUT": {"fault": "flip", "operation": "PutObject", "at": 3},
    "a bit of a part": {"fault": "flip", "operation": "UploadPart", "at": 3},
    "a bit of a small object": {"fault": "flip", "operation": "GetObject", "key": "*.json"},
}


@contextmanager
def small() -> Iterator[None]:
    """OSS copies from 64 bytes on. Plans and records still take one request."""
    with pieces_of(64), pytest.MonkeyPatch.context() as patch:
        patch.setattr(oss_bucket, "WHOLE", 4 << 20)
        patch.setattr(uploads, "SENT", 4 << 20)
        # One request: a failed page does not fail the run.
        patch.setattr(report.Report, "page", lambda *_: [b"page"])
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts are short."""
    monkeypatch.setattr(oss_bucket, "TIMEOUT", (10, 0.2))


@pytest.fixture(params=list(SCENARIOS.values()), ids=list(SCENARIOS))
def scenario(bucket: Volume, fake: FakeOSS, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A bucket in the state before the run, and the run."""
    with small():
        yield Scenario(bucket, fake, *request.param)


class Scenario:
    """One run, repeatedly from the same state, each time in a new RUN_DIR."""

    def __init__(
        self, bucket: Volume, fake: FakeOSS, before: list[str], command: str, settings: Settings
    ) -> None:
        self.fake, self.runs = fake, numbers()
        for name, data in FILES.items():
            bucket.write(name, data)
        for number, data in enumerate((LOG, b"a few bytes", LOG * 2)):
            bucket.write(f"given/aggregation-demo/l1/{number}.txt", data)
        run: Settings = {"RUN_ID": "run", "RUN_STARTED": 1767225600, "FILES": 3}
        self.given = bucket.having(RUN_DIR="given", INPUT="in/", NUM_PARTS=2, **run)
        for step in before:
            mode: Settings = {"SPLIT_MODE": "range"} if step == "split range" else {}
            more = WRITES if "write" in step else mode
            outcome = self.run(self.given, step.removesuffix(" range"), more)
            assert outcome.code == 0, outcome.words
        self.before = visible(self.given)
        self.command, self.settings = command, settings
        self.volume = self.start()
        fake.counters.reset()
        self.clean = self.worker()
        assert self.clean.code == 0, self.clean.words
        self.requests: dict[str, int] = fake.counters.read()["requests"]
        self.after = visible(self.volume)

    @staticmethod
    def run(volume: Volume, command: str, settings: Settings) -> Outcome:
        """Run a worker."""
        worker, *rest = command.split()
        if worker == "write":
            return volume.run_map(write_twice, *rest, **settings)
        part = {"PART_ID": rest.pop(0)} if worker == "count" else {}
        return volume.run(worker, *rest, **settings, **part)

    def start(self) -> Volume:
        """Copy the state before the run."""
        self.volume = self.given.copy_run(f"run{next(self.runs)}")
        return self.volume

    def worker(self) -> Outcome:
        """Run the step."""
        return self.run(self.volume, self.command, self.settings)

    def check(self, outcome: Outcome, *codes: int) -> None:
        """The run has succeeded, or has failed with one message. Nothing is incomplete. Without
        faults the same run succeeds."""
        assert outcome.code in codes, outcome.words
        lines = outcome.words.splitlines()
        assert all(line.startswith("worker=") for line in lines), outcome.words
        assert len(re.findall(" event=(?:done|failed) ", outcome.words)) == 1, outcome.words
        if outcome.code == 0:
            assert (visible(self.volume), outcome.output) == (self.after, self.clean.output)
        else:
            assert outcome.output == ""
            for name, data in visible(self.volume).items():
                assert data in (self.before.get(name, b"?"), self.after.get(name, b"?")), name
            self.fake.faults.clear()
            again = self.worker()
            assert (again.code, again.output) == (0, self.clean.output), again.words
            assert visible(self.volume) == self.after
        self.fake.faults.clear()
        # If the answer to an upload was lost, its id is unknown, and it has no part that is billed.
        uploads = self.fake.bucket().uploads.values()
        assert [each.key for each in uploads if each.parts or "write" not in self.command] == []
        self.fake.bucket().uploads.clear()
        self.volume.remove_run()


def write_twice(part: Part) -> dict[str, int]:
    """A map that writes its part in several pieces, and again."""
    for _ in range(2):
        for piece in part.pieces():
            part.write(piece)
    return {"bytes": part.size}


TIMES = rb'"(start|end|seconds|digest|versions?)": ?("[^"]*"|[0-9.]+),?'


def visible(volume: Volume) -> Tree:
    """Return the files of a run, without times, what depends on times, and what differs per
    attempt."""

    def alike(text: bytes) -> bytes:
        return re.sub(rb"-[0-9a-f]{16}\b", b"-", re.sub(TIMES, b"", text))

    return {
        alike(str(path.relative_to(volume.run_dir)).encode()).decode(): alike(path.read_bytes())
        for path in volume.run_dir.rglob("*")
    }


@pytest.mark.parametrize("fault", ["reset", "done and reset"])
def test_every_request(scenario: Scenario, fault: str) -> None:
    """The Nth request fails once, for every N: the worker retries and makes the same bytes."""
    for nth in numbers(1):
        scenario.start()
        rule = scenario.fake.faults.add(**FAULTS[fault], nth=nth)
        scenario.check(scenario.worker(), 0)
        if not rule.used:
            break
    assert nth > sum(scenario.requests.values())


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_many_requests(scenario: Scenario, fault: dict[str, Any]) -> None:
    """One request in six fails at random."""
    scenario.start()
    scenario.fake.faults.add(**fault, share=1 / 6, seed=1)
    outcome = scenario.worker()
    lost = fault.get("after") and "has ended the upload" in outcome.words
    scenario.check(outcome, 75 if lost else 0)


@pytest.mark.parametrize("fault", ["503", "a wrong sum"])
def test_for_good(scenario: Scenario, fault: str) -> None:
    """A kind of request that always fails: 75, after the maximum of attempts."""
    for operation in scenario.requests:
        scenario.start()
        scenario.fake.counters.reset()
        scenario.fake.faults.add(**FAULTS[fault], operation=operation)
        outcome = scenario.worker()
        asked = scenario.fake.counters.read()["requests"][operation]
        scenario.check(outcome, *([75] if fault == "503" else [0, 75]))
        assert asked <= 2 * parallel.LANES * retries.ATTEMPTS


@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
def test_damaged_for_good(scenario: Scenario, operation: str) -> None:
    """An upload that is damaged every time is never completed."""
    rule = scenario.fake.faults.add("flip", operation=operation, at=3)
    scenario.start()
    outcome = scenario.worker()
    scenario.check(outcome, 75 if rule.used else 0)


# --- inputs that change under a run


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_inputs(
    bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, mode: str, change: str
) -> None:
    """An input is replaced by another of the same size, or removed, before the Nth request of a
    run: the total is right for one of the two inputs, or there is no total."""
    answer, old, new = fake.service.answer, model([LOG]), model([OTHER])
    assert old != new
    ended = set()
    with small():
        for nth in numbers():
            volume = bucket.having(RUN_DIR=f"run{nth}", NUM_PARTS=2, SPLIT_MODE=mode)
            path = volume.write(INPUT, LOG)
            asked = numbers()

            def at_nth(
                operation: Any,
                request: Request,
                nth: int = nth,
                asked: Iterator[int] = asked,
                path: Path = path,
            ) -> Answer:
                if next(asked) == nth:
                    path.unlink() if change == "removed" else path.write_bytes(OTHER)
                return answer(operation, request)

            with monkeypatch.context() as patch:
                patch.setattr(fake.service, "answer", at_nth)
                codes = [volume.run("split").code]
                for step in ("count", "count", "merge"):
                    if not any(codes):
                        codes.append(volume.run(step, PART_ID=len(codes) - 1).code)
            assert codes[-1] in (0, 75, 2), codes
            assert volume.totals() in ((old, None) if change == "removed" else (old, new, None))
            assert (volume.totals() is None) == (codes[-1] != 0)
            assert volume.temporary_files() == []
            ended.add(codes[-1])
            volume.remove_run()
            if next(asked) <= nth:
                break
    assert ended >= {0, 75}


def test_etags(bucket: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every range request for an input names the version in the plan."""
    asked = set()
    answer = fake.service.answer

    def seen(operation: Any, request: Request) -> Answer:
        if request.key.endswith(INPUT) or "x-oss-copy-source" in request.headers:
            name = {"GetObject": "if-match", "UploadPartCopy": "x-oss-copy-source-if-match"}
            if operation.name in name:
                asked.add(
                    (operation.name, request.headers.get(name[operation.name], "").strip('"'))
                )
        return answer(operation, request)

    monkeypatch.setattr(fake.service, "answer", seen)
    bucket.write(INPUT, LOG * 10_000)
    for mode in ("copy", "range"):
        bucket.log_count(SPLIT_MODE=mode)
    etag = fake.bucket().objects[f"{bucket.root}/{INPUT}"].etag
    assert asked == {("GetObject", etag), ("UploadPartCopy", etag)}


# --- errors for the operator


@pytest.fixture
def keyed(bucket: Volume, fake: FakeOSS, tmp_path: Path) -> Iterator[Volume]:
    """A bucket, with keys that tests search for in the output of workers."""
    fake.add_key(KEYS)
    bucket.write(INPUT, LOG)
    yield bucket.having(
        OSS_ACCESS_KEY_ID=KEYS.id,
        OSS_ACCESS_KEY_SECRET=KEYS.secret,
        OSS_SESSION_TOKEN=KEYS.token,
        ERROR_FILE=tmp_path / "error",
    )
    KEYS.allows = lambda operation, bucket, key: True


def failed_split(volume: Volume, **settings: object) -> tuple[int, str]:
    """Return the exit code and the message of a split. No output may contain a key."""
    volume = volume.having(**settings)
    outcome = volume.run("split")
    file = Path(volume.settings["ERROR_FILE"])
    sentence = file.read_text() if file.exists() else ""
    for text in (outcome.output, outcome.words, sentence):
        for key in (KEYS.id, KEYS.secret, KEYS.token, "Signature=", "Credential="):
            assert key not in text
    assert outcome.words.count("\n") == 1
    return outcome.code, sentence


URL = "must be a URL with a name or an IPv4 address as host"
NAME = "must be oss://BUCKET/PREFIX"
REGION = "set the bucket's region"
ISSUED = "set the value as it was issued"


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        *(("WORK_DIR", value, NAME) for value in (
            "oss://", "oss:///", "oss:///x", "oss://B", "oss://Bucket/x", "oss://bu", "oss://-bucket",
            "oss://bucket?x=y", "oss:// bucket/x", "oss://bucket /x", "oss://a.b/c", "oss://b\n/x")),
        ("WORK_DIR", "oss://bucket/a/../b", "WORK_DIR must be .* got 'a/../b'"),
        ("WORK_DIR", "oss://bucket/..", "WORK_DIR must be .* got '..'"),
        *(("WORK_DIR", f"oss://bucket/{prefix}", f"WORK_DIR must have no .* got '{prefix}': ")
            for prefix in ("p//", "a//b", "./p", "a/./b", ".")),
        ("WORK_DIR", "oss://bucket//p", "WORK_DIR must be a name .* no leading / .* got '/p'"),
        ("WORK_DIR", "oss://bucket//", "WORK_DIR must be a name .* no leading / .* got '/'"),
        ("WORK_DIR", "oss://bucket/\udcff", "must be UTF-8"),
        ("WORK_DIR", "oss://bucket/\\x", "InvalidObjectName"),
        ("WORK_DIR", "oss://bucket/" + 1024 * "x", "InvalidObjectName"),
        ("WORK_DIR", "oss://other-bucket/x", "NoSuchBucket.*name a bucket that exists in WORK_DIR"),
        ("INPUT", "in\udcff", "must be UTF-8"),
        *(("OSS_REGION", value, REGION) for value in ("", "cn hangzhou", "cn-hangzhou\n", "é")),
        ("OSS_REGION", "cn-beijing", "signing region.*OSS_REGION"),
        *(("OSS_ENDPOINT", value, URL) for value in (
            "oss", "not a url", "ftp://oss", "http://", "http:///x", "http://a b", "http://host:port",
            "http://host:99999", "http://.oss", "http://host/path", "http://host\n",
            "http://[::1]", "https://[2001:db8::1]:443")),
        ("OSS_ENDPOINT", f"http://{KEYS.id}:{KEYS.secret}@host", "must be a URL .* got 'host'"),
        ("OSS_ENDPOINT", f"http://host/?key={KEYS.secret}", "must be a URL .* got 'http://host/'"),
        ("WORK_DIR", f"oss://{KEYS.id}:{KEYS.secret}@bucket", "must be .* got 'oss://bucket'"),
        ("OSS_CNAME", "yes", "OSS_CNAME must be one of false, true, got 'yes'"),
        ("OSS_CONNECTIONS", "0", "OSS_CONNECTIONS must be a whole number .* got '0'"),
        ("OSS_ACCESS_KEY_ID", "", "OSS_ACCESS_KEY_ID must be set"),
        ("OSS_ACCESS_KEY_ID", "AKIDother", "InvalidAccessKeyId.*use a key that exists"),
        ("OSS_ACCESS_KEY_ID", KEYS.id + "\n", ISSUED),
        ("OSS_ACCESS_KEY_SECRET", "", "OSS_ACCESS_KEY_SECRET must be set"),
        ("OSS_ACCESS_KEY_SECRET", "other", "SignatureDoesNotMatch.*use the secret of this key"),
        ("OSS_ACCESS_KEY_SECRET", KEYS.secret + "\n", ISSUED),
        ("OSS_ACCESS_KEY_SECRET", " " + KEYS.secret, ISSUED),
        ("OSS_SESSION_TOKEN", KEYS.token + "\n", ISSUED),
        ("OSS_SESSION_TOKEN", KEYS.token + "é", ISSUED),
        ("OSS_SESSION_TOKEN", "other", "InvalidSecurityToken"),
    ],
)  # fmt: skip
def test_settings(keyed: Volume, setting: str, value: str, words: str) -> None:
    """Each ends with 2 and a message that names the setting and a remedy, without a retry."""
    code, sentence = failed_split(keyed, **{setting: value})
    assert code == 2, sentence
    assert re.search(words, sentence), sentence
    if words in (URL, NAME, REGION, ISSUED):
        assert sentence.startswith(f"{setting} ")
        assert setting in ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN") or (
            repr(value) in sentence
        )


def test_other_region(keyed: Volume, fake: FakeOSS) -> None:
    """A bucket of another region: OSS returns its endpoint."""
    fake.add_bucket("far-away", region="cn-beijing")
    code, sentence = failed_split(keyed, WORK_DIR="oss://far-away/x")
    assert code == 2
    assert "OSS_ENDPOINT must be oss-cn-beijing.aliyuncs.com for this bucket, got " in sentence


@pytest.mark.parametrize(
    "operation",
    ["HeadObject", "GetObject", "PutObject", "InitiateMultipartUpload", "ListMultipartUploads"],
)
def test_rights(keyed: Volume, fake: FakeOSS, operation: str) -> None:
    """A missing permission: 2 without a retry, and the message names the object."""
    KEYS.allows = lambda asked, bucket, key: asked != operation
    with small():
        code, sentence = failed_split(keyed, NUM_PARTS=1)
    assert code == 2
    assert re.search(
        r"oss://bucket/volume\d+/.* AccessDenied: .*grant the key or the role access", sentence
    )
    assert fake.counters.read()["requests"][operation] <= parallel.LANES


@pytest.mark.parametrize("denied", ["GetObject", "PutObject"])
def test_a_missing_right_is_no_failure_of_files(keyed: Volume, denied: str) -> None:
    """It ends the part for any TOLERATED_FAILURES: no file counts as failed."""
    for number in range(3):
        keyed.write(f"in/{number}", b"INFO")
    run = keyed.having(SPLIT_MODE="files", INPUT="in/", NUM_PARTS=1, TOLERATED_FAILURES="100%")
    run.split(MAP_COMMAND="cat")
    KEYS.allows = lambda asked, bucket, key: asked != denied or "plan.json" in key
    outcome = run.run("map", PART_ID=0, MAP_COMMAND="cat")
    assert outcome.code == 2
    assert "file_failed" not in outcome.words
    assert "AccessDenied" in outcome.words


def test_expired(keyed: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired token, and a wrong clock."""
    monkeypatch.setattr(KEYS, "expires", 1.0)
    assert failed_split(keyed)[0] == 2
    monkeypatch.setattr(fake.service, "clock", lambda: 1e9)
    code, sentence = failed_split(keyed)
    assert (code, "correct the node's clock" in sentence) == (2, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 75), (None, 75)],
    ids=["no such host", "no name server", "nobody listens"],
)
def test_no_such_host(
    keyed: Volume, monkeypatch: pytest.MonkeyPatch, error: int | None, code: int
) -> None:
    """A host that DNS does not know, after some time, is for the operator to fix. If DNS does not
    answer, a retry can help."""

    def look_up(*_: object, **__: object) -> Any:
        raise socket.gaierror(error, "no address")

    if error:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(retries, "PAUSES", (0, 0))
    found, sentence = failed_split(keyed, OSS_ENDPOINT="http://127.0.0.1:1")
    assert found == code, sentence
    assert re.search("OSS_ENDPOINT .*http://127.0.0.1:1", sentence)
    assert ("or set OSS_CNAME=true for the bucket's own domain" in sentence) == (code == 2)


@pytest.mark.parametrize("coding", ["gzip", "GZIP, identity", "zstd", "utf-8"])
@pytest.mark.parametrize("length", [len(LOG), 200_000])
def test_compressed(keyed: Volume, coding: str, length: int) -> None:
    """An object with a Content-Encoding for compression is refused wherever it is read or copied,
    also among many."""
    store, _ = oss_bucket.open_storage(keyed.environ({}))
    for number, headers in enumerate(({}, {"Content-Encoding": coding}, {})):
        for name in (f"in/{number}", f"aggregation-demo/l1/{number}.txt"):
            store.bucket.put_object(store.root + name, (LOG * 10_000)[:length], headers)
    outcomes = [keyed.run("merge", 3, LEVEL=1)]
    for mode in ("copy", "range"):
        run = keyed.having(INPUT="in/", NUM_PARTS=1, SPLIT_MODE=mode, RUN_DIR=mode)
        outcomes.append(run.run("split"))
        if outcomes[-1].code == 0:
            outcomes[-1] = run.run("count", PART_ID=0)
    for outcome in outcomes:
        assert outcome.code == (0 if coding == "utf-8" else 2), outcome.words
        assert (f"must have no Content-Encoding, got {coding}: " in outcome.words) == bool(
            outcome.code
        )


CODES = ["SignatureDoesNotMatch", "NoSuchUpload", "Unknown"]


@pytest.mark.parametrize("status", [403, 404, 503])
@pytest.mark.parametrize("code", CODES)
def test_no_key_in_messages(
    keyed: Volume, fake: FakeOSS, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """OSS answers with anything, also cut off, and its answers contain keys: no worker prints
    one."""
    answer = fake.service.answer
    secrets = f"<OSSAccessKeyId>{KEYS.id}</OSSAccessKeyId><Signature>Signature=x</Signature>"
    whole = f"<Error><Code>{code}</Code>{secrets}<Token>{KEYS.token}</Token></Error>"
    for body in (whole, whole[:-9], secrets, ""):
        for operation in ("HeadObject", "GetObject", "PutObject"):

            def refuse(
                asked: Any, request: Request, operation: str = operation, body: str = body
            ) -> Answer:
                if asked.name == operation:
                    return Answer(status, {"Content-Type": "application/xml"}, body.encode())
                return answer(asked, request)

            with monkeypatch.context() as patch:
                patch.setattr(fake.service, "answer", refuse)
                assert failed_split(keyed)[0] in (2, 75)
