"""A bucket for tests of buckets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake import FakeOSS
from fanfold.storage import retries
from pipeline import Volume, settings_of, volumes_in


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOSS]:
    """A fake OSS for volumes. Retries do not wait."""
    with (
        FakeOSS() as made,
        volumes_in(settings_of(made), made),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(retries, "PAUSES", (0.0, 0.0))
        yield made


@pytest.fixture
def bucket(fake: FakeOSS) -> Iterator[Volume]:
    """An empty volume in it, without faults."""
    fake.counters.reset()
    with Volume.temporary() as volume:
        yield volume
    fake.faults.clear()
    fake.bucket().uploads.clear()
