"""Shared by all tests: one Hypothesis profile, and an empty volume per test on each storage."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake import FakeOSS
from fanfold.errors import WorkerError
from fanfold.storage import bucket
from hypothesis import HealthCheck, settings
from pipeline import Volume, settings_of, volumes_in
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# A make that a test calls must print the same as for a user, not as a child of `make test`.
os.environ.pop("MAKELEVEL", None)
# A shell's background jobs ignore Ctrl-C, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "fanfold",
    deadline=None,  # a busy machine is not a bug
    derandomize="CI" in os.environ,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fanfold")


@pytest.fixture
def volume() -> Iterator[Volume]:
    """An empty volume."""
    with Volume.temporary() as made:
        yield made


REAL = os.environ.get("TEST_WORK_DIR", "").rstrip("/")  # oss://BUCKET/PREFIX (`make test-oss`)
OWN = f"fanfold-test-{secrets.token_hex(8)}"  # the folder of these tests in it


@contextmanager
def a_bucket() -> Iterator[None]:
    """Make volumes in a fake OSS, or in a real OSS with the settings of the environment."""
    if not REAL:
        with FakeOSS() as fake, volumes_in(settings_of(fake), fake):
            yield
        return
    names = [name for name in os.environ if name.startswith(("OSS_", "ALIBABA_CLOUD_"))]
    chosen = {name: os.environ[name] for name in names} | {"WORK_DIR": f"{REAL}/{OWN}"}
    try:
        next(bucket.open_storage(chosen)[0].names(""), None)
    except WorkerError as error:
        pytest.exit(str(error), 2)
    with volumes_in(chosen):
        yield


@pytest.fixture(scope="module", params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """For modules that apply to volumes in folders and in buckets: run all tests on a folder, then
    on a bucket, except tests with the mark `folder`. With a real bucket, run only on the bucket."""
    if request.param == "folder":
        yield
        return
    with a_bucket(), pytest.MonkeyPatch.context() as patch:
        for test in vars(request.module).values():  # fewer examples: each is many requests
            if chosen := getattr(test, "_hypothesis_internal_use_settings", None):
                fewer = settings(chosen, max_examples=5 if REAL else 10)
                patch.setattr(test, "_hypothesis_internal_use_settings", fewer)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests for folders where they would run in a bucket; with a real bucket, leave out
    all tests that do not run in a bucket."""

    def fits(item: pytest.Item) -> bool:
        if storage_of(item) != "bucket":
            return not REAL
        return item.get_closest_marker("folder") is None

    config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
    items[:] = filter(fits, items)


def storage_of(item: pytest.Item) -> str | None:
    """The storage of a test, if it runs on both storages."""
    params: dict[str, str] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("storage")


class TogetherScheduling(LoadScopeScheduling):  # type: ignore[misc] # has no types
    """Tests that build images run in one process: buildah's builds in one storage at the same time
    see each other's names. Every other test is a group of its own. The marks for groups of
    pytest-xdist 3.8 have no effect with pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return "images" if nodeid.startswith("tests/images/") else nodeid


@pytest.hookimpl(optionalhook=True)  # a run without pytest-xdist does not know this hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TogetherScheduling | None:
    """Use these groups with `--dist loadgroup`."""
    return TogetherScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None
