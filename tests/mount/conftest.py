"""One bucket for all tests, one run directory per test, and mounts with a test's options."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mounts import CACHED, Bucket, Node, missing


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket on a server of this host."""
    if reason := missing():
        asked = os.environ.get("CI") == "true" or os.environ.get("MOUNT_CLIENT")
        (pytest.fail if asked else pytest.skip)(reason)
    with Bucket.served() as served:
        yield served


@pytest.fixture
def nodes(bucket: Bucket, request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """Two nodes that mount the bucket, with the clients' default caches or a test's options."""
    options = getattr(request, "param", CACHED)
    with ExitStack() as stack:
        a, b = (stack.enter_context(bucket.node(name, options)) for name in "ab")
        yield a, b


@pytest.fixture
def run_dir(request: pytest.FixtureRequest) -> str:
    """The run directory of a test."""
    return re.sub(r"\W+", "-", request.node.name)
