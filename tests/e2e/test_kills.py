"""Pods that are reclaimed while they work, or killed because of their memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scenario import (
    WORDS,
    Volume,
    argo,
    kill,
    model,
    pods_of,
    results_folder,
    submit,
    submit_variant,
    template_of,
    until,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def long_log(volume: Volume) -> dict[str, int]:
    """A sparse log of 12 GiB: each of two map pods works for five seconds or more."""
    volume.run(
        "with open('long.log', 'wb') as file:\n"
        "    for number in range(5):\n"
        "        file.seek(number * 3 << 30)\n"
        "        file.write(b'\\n2026-01-01 [INFO] a line\\n[ERROR] another\\n')\n"
    )
    return {"INFO": 5, "WARN": 0, "ERROR": 5, "DEBUG": 0}


@pytest.mark.each_argo
def test_reclaimed_pods(volume: Volume, long_log: dict[str, int]) -> None:
    """Two map pods and the reduce pod are deleted by force: Argo retries, the totals are right."""
    run = submit("log-count", input="long.log", splitMode="range", numParts=2, runDir="e2e/spot")
    for _ in range(2):
        kill(run, ".map", {"Running"})
    kill(run, ".reduce", {"Pending", "Running"})

    found = run.succeed()

    assert volume.result("e2e/spot") == volume.own_result(found, "e2e/spot") == long_log
    page = volume.get(f"e2e/spot/results/{results_folder(found)}/report.html").decode()
    assert re.search("[12] parts at attempt [123]", page)
    maps = [node for node in found["status"]["nodes"].values() if node["templateName"] == "map"]
    for shown in {node["hostNodeName"] for node in maps if "hostNodeName" in node}, {"log-count-"}:
        assert any(f">{name}" in page for name in shown)


def test_out_of_memory(volume: Volume, log: bytes) -> None:
    """A map pod that is killed because of its memory is retried, then fails with a clear error."""

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


def deadline(spec: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Set the deadline of split's first attempt to these seconds; return split."""
    split = template_of(spec, "split")
    assert "? 600 :" in split["activeDeadlineSeconds"]
    split["activeDeadlineSeconds"] = split["activeDeadlineSeconds"].replace("600", str(seconds))
    return split


@pytest.mark.each_argo
def test_an_image_that_cannot_be_pulled(volume: Volume) -> None:
    """The first pod of a run waits for its image until its deadline. Then the run ends, without a
    second attempt."""

    def lose(spec: dict[str, Any]) -> None:
        deadline(spec, 15)["container"]["image"] = "localhost/fanfold-no-such:dev"

    run = submit_variant("log-count", lose, runDir="e2e/no-image")
    until("its reason", 60, lambda: "ImagePull" in argo("get", run.name, "--no-color"))

    found = run.fail()

    assert pods_of(found) == {"split": 1}
    message = argo("get", run.name, "--no-color")
    assert "Pod was active on the node longer than the specified deadline" in message


@pytest.mark.each_argo
def test_a_long_split(volume: Volume, log: bytes) -> None:
    """A split that still works at its deadline is retried, with six hours."""
    wait = (
        "import os, runpy, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))\n"
        "time.sleep(600 if os.environ['ATTEMPT'] == '0' else 0)\n"
        "runpy.run_path('split.py', run_name='__main__')\n"
    )

    def slow(spec: dict[str, Any]) -> None:
        container = deadline(spec, 10)["container"]
        container["args"] = ["-c", wait]
        container["env"].append({"name": "ATTEMPT", "value": "{{retries}}"})

    run = submit_variant("log-count", slow, numParts="1", runDir="e2e/long-split")
    found = run.succeed()

    assert pods_of(found) == {"split": 2, "map": 1, "reduce": 1}
    assert volume.result("e2e/long-split") == model(log, WORDS)
