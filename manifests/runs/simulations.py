"""Estimate pi with the random numbers of each seed on stdin: print a line SEED,ESTIMATE per seed.

For 1 of 100 seeds the first attempt fails, as programs do. An empty file in RUN_DIR marks the
attempt.
"""

import os
import random
import sys
from pathlib import Path

DARTS = 1000


def estimate(seed: int) -> float:
    """Four times the share of darts that hit the quarter of a circle."""
    dice = random.Random(seed)  # noqa: S311 - a simulation, not a secret
    return 4 * sum(abs(complex(dice.random(), dice.random())) < 1 for _ in range(DARTS)) / DARTS


def main() -> int:
    """Simulate."""
    for line in sys.stdin:
        seed = int(line)
        tried = Path(os.environ["WORK_DIR"], os.environ["RUN_DIR"], f"tried-{seed}")
        if seed % 100 == 42 and not tried.exists():
            tried.touch()
            print(f"no luck with seed {seed}", file=sys.stderr)
            return 1
        print(f"{seed},{estimate(seed)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
