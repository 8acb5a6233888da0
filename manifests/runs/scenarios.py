"""Simulate the driving scenario on stdin, {"speed": 20, "gap": 60, "reaction": 1, "brakes": 8}, in
metres and seconds, and print {"scenario": ..., "passed": true, "left": 12.3}. With --total, add up
such lines: {"passed": 61, "failed": 39}.
"""

import json
import os
import sys

STEP = 0.001  # seconds


def left(scenario: dict[str, float]) -> float:
    """The distance in metres from the stopped car to the obstacle; negative after a crash."""
    speed, gap, time = scenario["speed"], scenario["gap"], 0.0
    while speed > 0:
        gap -= speed * STEP
        time += STEP
        if time > scenario["reaction"]:
            speed -= scenario["brakes"] * STEP
    return gap


def main() -> int:
    """Simulate, or add up."""
    if sys.argv[1:] == ["--total"]:
        results = [json.loads(line)["passed"] for line in sys.stdin]
        print(json.dumps({"passed": sum(results), "failed": len(results) - sum(results)}))
        return 0
    try:
        rest = left(json.load(sys.stdin))
    except (ValueError, KeyError) as error:
        print(f"stdin must be a scenario, got {error!r}: repair it", file=sys.stderr)
        return 2  # final: a retry cannot help
    name = os.path.basename(os.environ["INPUT_NAMES"])
    print(json.dumps({"scenario": name, "passed": rest > 0, "left": round(rest, 2)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
