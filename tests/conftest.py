"""What all tests share: one Hypothesis profile, and a volume of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from pipeline import Volume

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
