"""Patterns of names, such as `logs/*/2026-11-*.gz` or `logs/**/*.gz`.

`*` `?` `[a-z]` and `[!a-z]` stand for characters of one step of a name, never for a `/`; also in
names that begin with a dot. `**` as a step stands for any number of folders, also none; as the last
step for every file below. `[*]` is a `*` itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

MANY = "**"  # a step of a pattern: any number of folders


def is_pattern(text: str) -> bool:
    """Whether a text has a sign that stands for something else."""
    return bool(re.search(r"[*?[]", text))


class Pattern:
    """What a pattern matches. A name takes time by its length and the pattern's, whatever both
    are: fnmatch.translate makes no expression that goes back, and steps are matched side by
    side."""

    def __init__(self, text: str) -> None:
        self.begin = re.split(r"[*?[]", text)[0]  # of all names that match
        self.folder = self.begin[: self.begin.rfind("/") + 1]
        # A / at the end means every file below, as that of a folder does.
        steps = (text + MANY if text.endswith("/") else text).split("/")
        if steps[-1] == MANY:
            steps.append("*")
        self.steps = [None if step == MANY else re.compile(translate(step)) for step in steps]

    def matches(self, name: str) -> bool:
        """Whether the pattern stands for the file of this name."""
        return len(self.steps) in self._after(name.split("/"))

    def may_hold(self, folder: str) -> bool:
        """Whether files that match may be below a folder, whose name ends with a /."""
        return any(at < len(self.steps) for at in self._after(folder.split("/")[:-1]))

    def _after(self, steps: Iterable[str]) -> set[int]:
        """How many steps of the pattern these of a name can have taken: all that is possible."""
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
        """The same, and what comes after steps that can stand for no folder."""
        for at, step in enumerate(self.steps):
            if not step and at in reached:
                reached.add(at + 1)
        return reached
