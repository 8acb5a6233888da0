"""Pods that die: reclaimed in the middle, or killed for their memory."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Run, Volume, argo, kubectl, pods_of, submit, submit_variant, template_of, until

pytestmark = pytest.mark.e2e
GIB = 1 << 30


@pytest.fixture(scope="module")
def long_log(volume: Volume) -> dict[str, int]:
    """A log of 16 GiB that takes no room: lines far apart, so that a map pod lasts for seconds."""
    volume.run(
        "with open('long.log', 'wb') as file:\n"
        "    for number in range(17):\n"
        "        file.seek(number << 30)\n"
        "        file.write(b'\\n2026-01-01 [INFO] a line\\n[ERROR] another\\n')\n"
    )
    return {"INFO": 17, "WARN": 0, "ERROR": 17, "DEBUG": 0}


def kill(run: Run, template: str, *, working: bool) -> None:
    """Delete a pod of the run by force: one whose worker is at work, or the first that is seen."""

    def find() -> str:
        for pod in run.pods(template):
            states = {
                one["name"]: one["state"] for one in pod["status"].get("containerStatuses", [])
            }
            if not working or "running" in states.get("main", {}):
                return str(pod["metadata"]["name"])
        return ""

    name: str = until(f"a pod of {template}", 120, find)
    kubectl("delete", "pod", name, "--force", "--grace-period=0")


def test_reclaimed_pods(volume: Volume, long_log: dict[str, int]) -> None:
    """Two map pods and the reduce pod deleted by force: retried, and the totals are right."""
    run = submit("log-count", input="long.log", splitMode="range", numParts=4, runDir="e2e/spot")
    for _ in range(2):
        kill(run, ".map", working=True)
    kill(run, ".reduce", working=False)

    found = run.succeed()

    assert volume.result("e2e/spot") == long_log
    pods = pods_of(found)
    assert pods["map"] >= 6
    assert pods["reduce"] >= 2


def test_out_of_memory(volume: Volume, log: bytes) -> None:
    """A map pod that is killed for its memory is tried again, then fails with a clear message."""

    def starve(spec: dict[str, Any]) -> None:
        map_ = template_of(spec, "map")
        map_["container"]["resources"] = {
            "requests": {"memory": "4Mi"},
            "limits": {"memory": "7Mi"},
        }
        map_["retryStrategy"]["limit"] = "1"

    run = submit_variant("log-count", starve, numParts="1", runDir="e2e/oom")

    found = run.fail()

    assert pods_of(found) == {"split": 1, "map": 2}
    assert "OOMKilled (exit code 137)" in argo("get", run.name, "--no-color")
