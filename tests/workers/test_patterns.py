"""Patterns of names against a model of a few lines."""

from __future__ import annotations

import time
from itertools import accumulate, product

import pytest
from fanfold.patterns import Pattern, is_pattern
from hypothesis import example, given
from hypothesis import strategies as st

STEPS = ["a", "ab", "*", "**", "?", "a*", "*b", "a**b", "[ab]", "[!a]", "[*]", ".*", "", "[a", "]"]
PATTERNS = st.lists(st.sampled_from(STEPS), min_size=1, max_size=5).map("/".join).filter(bool)
SOME = ["a", "ab", ".b", "*", "\udcff", "[a", ""]
NAMES = ["/".join(steps) for count in (1, 2, 3) for steps in product(SOME, repeat=count)]


def step_matches(pattern: str, step: str) -> bool:
    """Whether a step of a pattern matches a step of a name."""
    if not pattern:
        return not step
    if pattern[0] == "*":
        return any(step_matches(pattern[1:], step[at:]) for at in range(len(step) + 1))
    if not step:
        return False
    if pattern[0] == "[" and (end := pattern.find("]")) > 0:
        chosen = pattern[1:end]
        fits = (step[0] in chosen.strip("!")) != chosen.startswith("!")
        return fits and step_matches(pattern[end + 1 :], step[1:])
    return pattern[0] in ("?", step[0]) and step_matches(pattern[1:], step[1:])


def model(pattern: list[str], name: list[str]) -> bool:
    """Whether the steps of a pattern match the steps of a name."""
    if pattern in (["**"], [""]):  # every file below
        return bool(name)
    if pattern[:1] == ["**"]:
        return any(model(pattern[1:], name[at:]) for at in range(len(name) + 1))
    if not pattern or not name:
        return pattern == name
    return step_matches(pattern[0], name[0]) and model(pattern[1:], name[1:])


@example("a/")
@example("a/**")
@example("**/a")
@example("a/**/b")
@given(PATTERNS)
def test_pattern(pattern: str) -> None:
    """The pattern matches what the model matches. Matching names begin with its prefix, and are in
    folders that may have matches."""
    found = Pattern(pattern)

    matched = list(filter(found.matches, NAMES))
    assert matched == [name for name in NAMES if model(pattern.split("/"), name.split("/"))]
    assert found.begin.startswith(found.folder)
    for name in matched:
        assert name.startswith(found.begin)
        *folders, _ = accumulate(name.split("/"), "{}/{}".format)
        assert all(found.may_hold(f"{folder}/") for folder in folders)
    if not is_pattern(pattern) and not pattern.endswith("/"):
        assert matched == [name for name in NAMES if name == pattern]


@pytest.mark.parametrize(
    ("pattern", "folder", "expected"),
    [
        ("in/*/a", "in/", True),
        ("in/*/a", "in/b/", True),
        ("in/*/a", "in/b/a/", False),
        ("in/*/a", "out/", False),
        ("in/*", "in/b/", False),
        ("in/**", "in/b/c/", True),
        ("in/**/a", "in/b/c/", True),
        ("**/b/*", "a/", True),
        ("in/2026-*/x", "in/2025-01/", False),
    ],
)
def test_folders(pattern: str, folder: str, *, expected: bool) -> None:
    """A folder without wanted files is detected by its name."""
    assert Pattern(pattern).may_hold(folder) == expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("/".join(["**"] * 30 + ["x"]), "/".join("y" * 500)),
        ("/".join(["**", "*"] * 30 + ["x"]), "/".join("y" * 500)),
        ("*a" * 30 + "*b", "a" * 1000),
        ("**/" + "*a" * 30 + "*b/**/c", "/".join(["a" * 100] * 10)),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str) -> None:
    """Patterns that would backtrack for years take a moment."""
    began = time.process_time()
    assert not Pattern(pattern).matches(name)
    assert time.process_time() - began < 2
