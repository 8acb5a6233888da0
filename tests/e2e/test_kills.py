"""Pods that die: reclaimed in the middle, or killed for their memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scenario import (
    Volume,
    argo,
    kill,
    pods_of,
    results_folder,
    submit,
    submit_variant,
    template_of,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def long_log(volume: Volume) -> dict[str, int]:
    """A log of 12 GiB that takes no room: lines far apart, so that each of two map pods is at work
    for five seconds and more."""
    volume.run(
        "with open('long.log', 'wb') as file:\n"
        "    for number in range(5):\n"
        "        file.seek(number * 3 << 30)\n"
        "        file.write(b'\\n2026-01-01 [INFO] a line\\n[ERROR] another\\n')\n"
    )
    return {"INFO": 5, "WARN": 0, "ERROR": 5, "DEBUG": 0}


@pytest.mark.each_argo
def test_reclaimed_pods(volume: Volume, long_log: dict[str, int]) -> None:
    """Two map pods and the reduce pod deleted by force: retried, and the totals are right."""
    run = submit("log-count", input="long.log", splitMode="range", numParts=2, runDir="e2e/spot")
    for _ in range(2):
        kill(run, ".map", {"Running"})
    kill(run, ".reduce", {"Pending", "Running"})

    found = run.succeed()

    assert volume.result("e2e/spot") == volume.own_result(found, "e2e/spot") == long_log
    page = volume.get(f"e2e/spot/results/{results_folder(found)}/report.html").decode()
    assert re.search("[12] parts at attempt [23]", page)
    maps = [node for node in found["status"]["nodes"].values() if node["templateName"] == "map"]
    for told in {node["hostNodeName"] for node in maps if "hostNodeName" in node}, {"log-count-"}:
        assert any(f">{name}" in page for name in told)


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
