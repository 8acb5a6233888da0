"""A run whose steps alternate between nodes and are tried again as the workflow does it."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Sequence

from mounts import Node
from pipeline import INPUT, Outcome, finish

ATTEMPTS = 6  # as the templates have it: limit 5
PARTS = 2
FAN_IN = 2

Start = Callable[..., "subprocess.Popen[str]"]  # takes the prologue of Volume.start


class FailedError(Exception):
    """The run failed, and said why: with exit 2, or after the last attempt."""


class Run:
    """A run on some nodes, the first step on the first of them."""

    def __init__(self, nodes: Sequence[Node], run_dir: str, **settings: object) -> None:
        self.bucket, self.run_dir = nodes[0].bucket, run_dir
        self.input = f"{run_dir}/in/{INPUT}"
        self.settings = {
            "RUN_DIR": run_dir,
            "INPUT": self.input,
            "NUM_PARTS": PARTS,
            "FAN_IN": FAN_IN,
            **settings,
        }
        self._turns = itertools.cycle(nodes)
        self.codes: list[int] = []

    def attempt(self, node: Node, worker: str, start: Start) -> Outcome:
        """One attempt of a step; a test puts trouble in its place."""
        with start() as process:
            return finish(process)

    def step(self, worker: str, *arguments: object, **settings: object) -> Outcome:
        """A step, tried on one node after the other until it is done."""
        for node in itertools.islice(self._turns, ATTEMPTS):

            def start(prologue: str = "", node: Node = node) -> subprocess.Popen[str]:
                volume = node.volume(**self.settings)
                return volume.start(worker, *arguments, prologue=prologue, **settings)

            outcome = self.attempt(node, worker, start)
            self.codes.append(outcome.code)
            if outcome.code == 0:
                return outcome
            # A killed worker says nothing; any other says one sentence, and has no traceback.
            assert outcome.code < 0 or outcome.words.count("\n") == 1, outcome.words
            assert outcome.code < 0 or outcome.code in (2, 75), outcome.words
            if outcome.code == 2:
                break
        raise FailedError(outcome.words)

    def log_count(self) -> dict[str, int]:
        """Split, count every part, merge; the totals."""
        for part_id in self.step("split").part_ids:
            self.step("count", PART_ID=part_id)
        self.step("merge")
        return self.totals()

    def totals(self) -> dict[str, int]:
        """What result.json says in the bucket."""
        totals: dict[str, int] = json.loads(self.bucket.get(f"{self.run_dir}/result.json"))
        return totals

    def level(self, level: int, number: int) -> str:
        """The name of a file of the aggregation."""
        return f"{self.run_dir}/aggregation-demo/l{level}/{number}.txt"

    def aggregate(self, files: int) -> bytes:
        """Join the files of level 1, level by level; the result."""
        level = 1
        while files > FAN_IN:
            groups = -(-files // FAN_IN)
            for number in range(groups):
                self.step("process", number, level, FILES=files)
            files, level = groups, level + 1
        self.step("merge", files, LEVEL=level)
        return self.bucket.get(f"{self.run_dir}/aggregation-demo/result.txt")
