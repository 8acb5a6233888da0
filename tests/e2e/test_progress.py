"""The progress of a run in Argo, and the metrics of Argo's controller."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import test_programs
from scenario import ROOT, Run, Volume, kubectl, pods_of, submit, tool, until

pytestmark = pytest.mark.e2e
PREFIX = "argo_workflows_fanfold_"


@pytest.fixture(scope="module")
def bundle(checkout: Path) -> None:
    """The bundle with programs and metrics, as metrics-log-count and so on."""
    test_programs.apply(checkout, "metrics", last=["../../components/metrics"])


def metrics() -> dict[str, float]:
    """The bundle's metrics in Argo's controller, by the command of monitoring.md."""
    monitoring = (ROOT / "manifests/docs/monitoring.md").read_text()
    (command,) = re.findall('`(kubectl get --raw "[^`]+")`', monitoring)
    pod = "jsonpath={.items[0].metadata.name}"
    name = kubectl("get", "pod", "-l", "app=workflow-controller", "-o", pod)
    text = tool("env", f"POD={name}", "bash", "-euc", command).decode()
    return {
        line.rpartition(" ")[0].removeprefix(PREFIX): float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(PREFIX)
    }


def program(*lines: str) -> str:
    """A command that runs Python."""
    return f'python3 -c "{chr(10).join(lines)}"'


def errors_of_metrics(workflow: dict[str, Any]) -> list[str]:
    """Argo's errors about metrics of a workflow."""
    conditions = workflow["status"].get("conditions", ())
    return [each["message"] for each in conditions if each["type"] == "MetricsError"]


@pytest.mark.each_argo
@pytest.mark.usefixtures("bundle")
def test_metrics(volume: Volume, log: bytes) -> None:
    """A successful run, a run with one failed attempt of a map, and a failed run add the expected
    values to the controller's metrics."""
    before = metrics()
    once = program(
        "import os, sys",
        "while os.read(0, 65536): pass",
        "try: os.mkdir('/mnt/vol/e2e/metrics/once')",
        "except FileExistsError: sys.exit(0)",
        "sys.exit(3)",
    )
    counted = submit("metrics-log-count", numParts=3, runDir="e2e/metrics/a")
    volume.run("os.makedirs('e2e/metrics', exist_ok=True); os.chmod('e2e/metrics', 0o777)")
    retried = submit("metrics-map-reduce", numParts=1, mapCommand=once, runDir="e2e/metrics/b")
    failed = submit("metrics-log-count", input="nothing", runDir="e2e/metrics/c")
    ended = [counted.succeed(), retried.succeed(), failed.wait()]

    def grown() -> dict[str, float]:
        return {name: value - before.get(name, 0) for name, value in metrics().items()}

    ran = 'run_seconds_count{status="Failed",template="log-count"}'
    until("metrics of the last run", 60, lambda: grown().get(ran))
    found = grown()
    assert failed.get()["status"]["phase"] == "Failed"
    assert [errors_of_metrics(each) for each in ended] == [[], [], []]
    assert pods_of(ended[1])["map"] == 2
    expected = {
        ran: 1,
        'run_seconds_count{status="Succeeded",template="log-count"}': 1,
        'run_seconds_count{status="Succeeded",template="map-reduce"}': 1,
        'input_bytes_total{template="log-count"}': len(log),
        'input_bytes_total{template="map-reduce"}': len(log),
        'part_seconds_count{template="log-count"}': 3,
        'part_seconds_bucket{template="log-count",le="+Inf"}': 3,
        'part_seconds_count{template="map-reduce"}': 1,
        'part_failures_total{template="map-reduce"}': 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found.get('part_failures_total{template="log-count"}', 0) == 0
    # Two attempts and the wait between them, at least 5 s.
    assert found['part_seconds_sum{template="map-reduce"}'] > 5


def progress(run: Run) -> str:
    """The Progress that `argo get` shows."""
    return str(run.get()["status"].get("progress"))


@pytest.mark.usefixtures("bundle")
def test_progress(volume: Volume, log: bytes) -> None:
    """A map that has read half of its part has the progress 50 of 100. Argo updates it once
    per minute."""
    half = program(
        "import os, time",
        f"rest = {len(log) // 2}",
        "while rest: rest -= len(os.read(0, rest))",
        "while not os.path.exists('/mnt/vol/e2e/progress-go'): time.sleep(1)",
        "while os.read(0, 65536): pass",
    )
    volume.run("os.path.exists('e2e/progress-go') and os.unlink('e2e/progress-go')")
    run = submit("metrics-map-reduce", numParts=1, mapCommand=half, runDir="e2e/progress")
    until("a map that waits for its pod", 300, lambda: progress(run) == "1/101")
    until("half of the progress", 300, lambda: progress(run) == "51/101")
    volume.put("e2e/progress-go", b"")
    assert run.succeed()["status"]["progress"] == "102/102"
