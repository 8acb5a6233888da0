"""A run with steps that alternate between nodes and are retried as in the workflow."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Sequence

from mounts import Node
from pipeline import INPUT, Outcome, finish

ATTEMPTS = 6  # as in the templates: limit 5
PARTS = 2
FAN_IN = 2

Start = Callable[..., "subprocess.Popen[str]"]  # its argument is the prologue of Volume.start


class FailedError(Exception):
    """The run failed with an error: exit 2, or the last attempt failed."""


# A count that also writes its part: OUTPUT equals the input.
WRITES = """if True:
    from fanfold import mapping
    run_map = mapping.run_map
    def writes(name, function, *rest):
        def map_part(part):
            for piece in part.pieces():
                part.write(piece)
            return function(part)
        run_map(name, map_part, *rest)
    mapping.run_map = writes
"""


class Run:
    """Runs in one run directory on some nodes, starting with the first node."""

    starts = itertools.count(1767225600)

    def __init__(
        self,
        nodes: Sequence[Node],
        run_dir: str,
        *,
        by_hand: bool = False,
        writes: bool = False,
        **settings: object,
    ) -> None:
        """`by_hand` calls the workers as a user does by hand, otherwise as Argo does. `writes`
        makes the maps write outputs."""
        self.bucket, self.run_dir = nodes[0].bucket, run_dir
        self.input = f"{run_dir}/in/{INPUT}"
        self.settings = {
            "RUN_DIR": run_dir,
            "INPUT": self.input,
            "NUM_PARTS": PARTS,
            "FAN_IN": FAN_IN,
            **settings,
        }
        self.by_hand, self.prologue = by_hand, WRITES if writes else ""
        self._turns = itertools.cycle(nodes)
        self.codes: list[int] = []
        self.begin()

    def begin(self) -> None:
        """Start another run, later than all runs before."""
        start = next(self.starts)
        self.of_run = {} if self.by_hand else {"RUN_ID": f"run-{start}", "RUN_STARTED": start}

    def attempt(self, node: Node, worker: str, start: Start) -> Outcome:
        """One attempt of a step. Subclasses add failures."""
        with start() as process:
            return finish(process)

    def step(self, worker: str, *arguments: object, **settings: object) -> Outcome:
        """A step with retries, each on the next node."""
        for node in itertools.islice(self._turns, ATTEMPTS):

            def start(prologue: str = "", node: Node = node) -> subprocess.Popen[str]:
                volume = node.volume(**self.settings, **self.of_run)
                prologue += self.prologue * (worker == "count")
                return volume.start(worker, *arguments, prologue=prologue, **settings)

            outcome = self.attempt(node, worker, start)
            self.codes.append(outcome.code)
            if outcome.code == 0:
                if worker == "split" and not self.by_hand:
                    self.of_run["PLAN_ID"] = outcome.event("done")["plan"]
                return outcome
            # A killed worker may log nothing. Any other logs its error, without a traceback.
            lines = outcome.words.splitlines()
            assert all(line.startswith("worker=") for line in lines), outcome.words
            assert outcome.code < 0 or " event=failed " in lines[-1], outcome.words
            assert outcome.code < 0 or outcome.code in (2, 75), outcome.words
            if outcome.code == 2:
                break
        raise FailedError(outcome.words)

    def log_count(self) -> dict[str, int]:
        """Split, count every part and merge; return the totals."""
        self.begin()
        for part_id in self.step("split").part_ids:
            self.step("count", PART_ID=part_id)
        self.step("merge")
        return self.totals()

    def totals(self) -> dict[str, int]:
        """The result.json in the bucket."""
        totals: dict[str, int] = json.loads(self.bucket.get(f"{self.run_dir}/result.json"))
        return totals

    def output(self) -> bytes:
        """The joined outputs of the maps."""
        return self.bucket.get(f"{self.run_dir}/result.out")

    def level(self, level: int, number: int) -> str:
        """The name of a file of the aggregation."""
        return f"{self.run_dir}/aggregation-demo/l{level}/{number}.txt"

    def aggregate(self, files: int) -> bytes:
        """Join the files of level 1, level by level; return the result."""
        self.begin()
        level = 1
        while files > FAN_IN:
            groups = -(-files // FAN_IN)
            for number in range(groups):
                self.step("process", number, level, FILES=files)
            files, level = groups, level + 1
        self.step("merge", files, LEVEL=level)
        return self.joined()

    def joined(self) -> bytes:
        """The result of the aggregation in the bucket."""
        return self.bucket.get(f"{self.run_dir}/aggregation-demo/result.txt")
