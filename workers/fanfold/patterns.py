"""Patterns of names, such as `logs/*/2026-11-*.gz` or `logs/**/*.gz`.

`*` `?` `[a-z]` and `[!a-z]` match characters of one path component, never a `/`. They also match in
names that begin with a dot. The path component `**` matches any number of folders, or none. As the
last component `**` matches every file below. `[*]` matches a `*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

MANY = "**"  # a step that matches any number of folders


def is_pattern(text: str) -> bool:
    """Whether a text has a wildcard."""
    return bool(re.search(r"[*?[]", text))


class Pattern:
    """A pattern of names. The time to match a name is bounded by the lengths of the name and the
    pattern: fnmatch.translate makes expressions without backtracking, and all positions in the
    pattern are tracked in parallel."""

    def __init__(self, text: str) -> None:
        self.begin = re.split(r"[*?[]", text)[0]  # of all names that match
        self.folder = self.begin[: self.begin.rfind("/") + 1]
        # A / at the end means every file below, as in a folder's name.
        steps = (text + MANY if text.endswith("/") else text).split("/")
        if steps[-1] == MANY:
            steps.append("*")
        self.steps = [None if step == MANY else re.compile(translate(step)) for step in steps]

    def matches(self, name: str) -> bool:
        """Whether the pattern matches this file name."""
        return len(self.steps) in self._after(name.split("/"))

    def may_hold(self, folder: str) -> bool:
        """Whether files below a folder may match. The folder's name ends with a /."""
        return any(at < len(self.steps) for at in self._after(folder.split("/")[:-1]))

    def _after(self, steps: Iterable[str]) -> set[int]:
        """Return all numbers of pattern steps that these steps of a name can match."""
        reached = self._skip({0})
        for step in steps:
            taken = set()
            for at in reached - {len(self.steps)}:
                wanted = self.steps[at]
                if not wanted:
                    taken.add(at)
                elif wanted.match(step):
                    taken.add(at + 1)
            reached = self._skip(taken)
        return reached

    def _skip(self, reached: set[int]) -> set[int]:
        """Add the positions after steps that can match no folder."""
        for at, step in enumerate(self.steps):
            if not step and at in reached:
                reached.add(at + 1)
        return reached
