"""Tests that check many objects and report all problems together."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec

import pytest

# A build, an object in it, the object's tree, and the expected value per path of the tree: a value,
# a pattern of a text, a range of numbers, the set of all keys, or None for no value.
Check = tuple[str, str, Any, Mapping[str, object]]
P = ParamSpec("P")


def at(tree: Any, path: str) -> Any:
    """The value at a JSON pointer, or None. In a list, a step that is no number means the first
    item."""
    for step in path.split("/"):
        if isinstance(tree, list) and step.isdigit():
            tree = tree[int(step)] if int(step) < len(tree) else None
            continue
        while isinstance(tree, list):
            tree = tree[0] if tree else None
        tree = tree.get(step.replace("~1", "/")) if isinstance(tree, dict) else None
    return tree


def is_right(found: Any, expected: object) -> bool:
    """Whether a value is as a check expects it."""
    if isinstance(expected, re.Pattern):
        return isinstance(found, str) and bool(expected.fullmatch(found))
    if isinstance(expected, range):
        return str(found).isdigit() and int(found) in expected
    if isinstance(expected, set):
        return isinstance(found, dict | set) and set(found) == expected
    return type(found) is type(expected) and bool(found == expected)


def shown(value: object) -> str:
    """A value in the message of a check."""
    if isinstance(value, re.Pattern):
        words = re.search(r"\(\?#(.+?)\)", value.pattern)  # its comment, for people
        return words[1] if words else f"like {value.pattern}"
    if value is None:
        return "unset"
    if isinstance(value, range):
        return f"from {value.start} to {value.stop - 1}"
    return f"exactly {sorted(value)}" if isinstance(value, set) else repr(value)


def judge(found: Iterator[Check]) -> tuple[int, list[str]]:
    """The number of checks, and a line per problem: the object, the field, the value that it must
    have, the value that it has, and the builds with this problem."""
    made = 0
    problems: dict[str, list[str]] = {}
    for build, name, tree, fields in found:
        for field, expected in fields.items():
            made += 1
            if not is_right(value := at(tree, field), expected):
                problem = f"{name}: {field} must be {shown(expected)}, got {shown(value)}"
                problems.setdefault(problem, []).append(build)
    return made, [f"{each}  [{', '.join(builds)}]" for each, builds in problems.items()]


def checks(test: Callable[P, Iterator[Check]]) -> Callable[P, None]:
    """Turn a generator of checks into a test."""

    @functools.wraps(test)
    def run(*args: P.args, **more: P.kwargs) -> None:
        made, lines = judge(test(*args, **more))
        if not made:
            lines = ["there was nothing to check"]
        if lines:
            pytest.fail("\n".join(lines), pytrace=False)

    return run
