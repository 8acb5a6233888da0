"""Runs in another namespace, during drains, and under a cap for all runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import test_programs
from scenario import (
    NAMESPACE,
    WORDS,
    Run,
    Volume,
    argo,
    get,
    kubectl,
    model,
    pods_of,
    submit,
    submit_variant,
    tool,
    until,
)

pytestmark = pytest.mark.e2e
OWN = "analytics"


def test_another_namespace(volume: Volume, log: bytes, checkout: Path) -> None:
    """With one changed line the bundle runs in another namespace than Argo. The prefix separates
    the volume, which has no namespace, from the volume of `local`."""
    (controller,) = get("deployment", "workflow-controller")["spec"]["template"]["spec"][
        "containers"
    ]
    if "--namespaced" in controller["args"]:
        pytest.skip("this controller watches only its own namespace")
    folder = checkout / "manifests/overlays" / OWN
    shutil.copytree(checkout / "manifests/overlays/local", folder)
    file = folder / "kustomization.yaml"
    text = file.read_text()
    assert text.count(f"namespace: {NAMESPACE}") == 1
    text = text.replace(f"namespace: {NAMESPACE}", f"namespace: {OWN}")
    file.write_text(f"{text}\nnamePrefix: own-\n")
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": OWN, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    tool("kubectl", "apply", "-f", "-", stdin=json.dumps(namespace).encode())
    tool("kubectl", "apply", "--dry-run=server", "-k", str(folder))
    tool("kubectl", "apply", "-k", str(folder))

    template = "workflowtemplate/own-log-count"
    chosen = ("-p", "numParts=2", "-p", f"runDir=e2e/{OWN}")
    output = tool("argo", "-n", OWN, "submit", "--from", template, *chosen, "--wait", timeout=300)

    assert b"Succeeded" in output
    assert volume.result(f"e2e/{OWN}") == model(log, WORDS)
    claim = json.loads(
        tool("kubectl", "get", "-n", OWN, "pvc", "own-pvc-oss", "-o", "json").decode()
    )
    bound = get("pv", "own-pv-local")["spec"]["claimRef"]
    assert bound["uid"] == claim["metadata"]["uid"]
    # Fields of the API server and the binder are not a difference.
    assert tool("kubectl", "diff", "-k", str(folder)) == b""


def asleep(spec: dict[str, Any]) -> None:
    """Change split, map and reduce to sleep, in parallel."""
    main, *steps = spec["templates"]
    values = {"numParts": "1", "partsPerPod": "1", "onlyMissing": "false"}
    values |= {"partId": "0", "planId": "none"}
    for each in (main, *steps):
        each.pop("outputs", None)
    for each in steps:
        each["container"]["args"] = ["-c", "import time; time.sleep(120)"]
    main["dag"]["tasks"] = [
        {
            "name": each["name"],
            "template": each["name"],
            "arguments": {
                "parameters": [
                    {"name": one["name"], "value": values[one["name"]]}
                    for one in each["inputs"]["parameters"]
                ]
            },
        }
        for each in steps
    ]


def evict(name: str) -> str:
    """Evict a pod as a drain does; the API server's error if it refuses."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    try:
        kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction).encode())
    except AssertionError as error:
        return str(error)
    return ""


def test_evictions(volume: Volume) -> None:
    """A drain cannot evict split and reduce, for which a whole run waits, and can evict a map."""
    run = submit_variant("log-count", asleep, runDir="e2e/evictions")

    def running() -> dict[str, dict[str, Any]]:
        pods = [pod for pod in run.pods() if pod["status"]["phase"] == "Running"]
        component = "app.kubernetes.io/component"
        found = {pod["metadata"]["labels"][component]: pod for pod in pods}
        return found if len(found) == 3 else {}

    pods = until("three pods", 300, running)
    for step in ("split", "reduce"):
        output = evict(pods[step]["metadata"]["name"])
        assert "would violate the pod's disruption budget" in output, f"{step}: {output}"
    assert evict(pods["map"]["metadata"]["name"]) == ""

    spread = pods["map"]["spec"]["topologySpreadConstraints"]
    keys = [(each["topologyKey"], each["whenUnsatisfiable"]) for each in spread]
    assert keys == [
        ("topology.kubernetes.io/zone", "ScheduleAnyway"),
        ("kubernetes.io/hostname", "ScheduleAnyway"),
    ]
    argo("terminate", run.name)


def test_cap_over_all_runs(volume: Volume, log: bytes, checkout: Path) -> None:
    """Two runs in parallel never have more map pods in total than the ConfigMap allows."""
    limit = '[{"op": "replace", "path": "/data/maps", "value": "2"}]'
    test_programs.apply(
        checkout,
        "capped",
        last=["../../components/semaphore"],
        patches=[{"target": {"kind": "ConfigMap", "name": "fanfold-limits"}, "patch": limit}],
    )
    folders = [f"e2e/capped-{number}" for number in range(2)]
    runs = [submit("capped-log-count", numParts=3, runDir=folder) for folder in folders]
    most, waited = 0, False

    def ended() -> bool:
        nonlocal most, waited
        maps = [pod for pod in alive(runs) if ".map" in pod]
        most = max(most, len(maps))
        found = [run.get()["status"] for run in runs]
        waited = waited or "lock" in str([each.get("nodes") for each in found])
        return all(each.get("phase") in ("Succeeded", "Failed") for each in found)

    until("both runs", 300, ended)

    assert most == 2
    assert waited
    for run, folder in zip(runs, folders, strict=True):
        assert pods_of(run.succeed())["map"] == 3
        assert volume.result(folder) == model(log, WORDS)


def alive(runs: list[Run]) -> list[str]:
    """The node names of the unfinished pods of these runs."""
    names = ",".join(run.name for run in runs)
    pods = get("pods", f"-lworkflows.argoproj.io/workflow in ({names})")["items"]
    return [
        pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
        for pod in pods
        if pod["status"]["phase"] in ("Pending", "Running")
    ]
