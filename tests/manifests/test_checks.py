"""The tests of the bundle fail when they must, and report each problem."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from checks import Check, checks

TREE = {"spec": {"on": True, "limit": "5", "tasks": [{"name": "a"}, {"name": "b"}], "x/y": None}}


@checks
def wrong() -> Iterator[Check]:
    """A failing check of each kind, the first in two builds."""
    yield "one", "Task t", TREE, {"spec/on": 1}
    yield "two", "Task t", TREE, {"spec/on": 1}
    yield "one", "Task t", TREE, {"spec/off": True, "spec/off/more": "x", "spec/tasks/2": {}}
    yield "one", "Task t", TREE, {"spec/tasks/1/name": re.compile("a")}
    yield "one", "Task t", TREE, {"spec/tasks/0/name": re.compile("(?#a word of two letters)..")}
    yield "one", "Task t", TREE, {"spec/limit": range(1, 5)}
    yield "one", "Task t", TREE, {"spec": {"on", "off"}, "spec/tasks/name": None}


@checks
def right() -> Iterator[Check]:
    """A passing check of each kind."""
    yield "one", "Task t", TREE, {"spec/on": True, "spec/off": None, "spec/x~1y": None}
    yield "one", "Task t", TREE, {"spec/tasks/1/name": "b", "spec/tasks/name": re.compile("a")}
    yield "one", "Task t", TREE, {"spec/limit": range(1, 6), "spec/tasks/0": {"name"}}


@checks
def nothing() -> Iterator[Check]:
    """No check at all."""
    yield "one", "Task t", TREE, {}


def test_every_problem_is_reported() -> None:
    """Every failed check has a line, with each build in which it fails."""
    with pytest.raises(pytest.fail.Exception) as failure:
        wrong()

    assert str(failure.value).splitlines() == [
        "Task t: spec/on must be 1, got True  [one, two]",
        "Task t: spec/off must be True, got unset  [one]",
        "Task t: spec/off/more must be 'x', got unset  [one]",
        "Task t: spec/tasks/2 must be {}, got unset  [one]",
        "Task t: spec/tasks/1/name must be like a, got 'b'  [one]",
        "Task t: spec/tasks/0/name must be a word of two letters, got 'a'  [one]",
        "Task t: spec/limit must be from 1 to 4, got '5'  [one]",
        f"Task t: spec must be exactly ['off', 'on'], got {TREE['spec']!r}  [one]",
        "Task t: spec/tasks/name must be unset, got 'a'  [one]",
    ]


def test_right_checks_pass() -> None:
    """If every check holds, nothing is reported. No check at all is a failure."""
    right()
    with pytest.raises(pytest.fail.Exception, match="nothing to check"):
        nothing()
