"""What all tests share: one Hypothesis profile, a volume of one's own, and where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fake import FakeOSS
from hypothesis import HealthCheck, settings
from pipeline import BucketPath, Volume

# A make that a test calls is its user's, and says what it says to him: no child of `make test`.
os.environ.pop("MAKELEVEL", None)

settings.register_profile(
    "fanfold",
    deadline=None,  # a machine that is busy is not a bug
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


@pytest.fixture(scope="module", params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """For modules that hold for volumes in folders and in buckets alike: first all tests with the
    one, then with the other, but for those that are marked `folder`."""
    if request.param == "folder":
        yield
        return
    with FakeOSS() as fake, pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketPath, "fake", fake)
        for test in vars(request.module).values():  # fewer examples: each is many requests
            if given := getattr(test, "_hypothesis_internal_use_settings", None):
                fewer = settings(given, max_examples=10)
                patch.setattr(test, "_hypothesis_internal_use_settings", fewer)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what holds for folders only, where it would run in a bucket."""

    def fits(item: pytest.Item) -> bool:
        params = getattr(getattr(item, "callspec", None), "params", {})
        return params.get("storage") != "bucket" or item.get_closest_marker("folder") is None

    config.hook.pytest_deselected(items=[item for item in items if not fits(item)])
    items[:] = filter(fits, items)
