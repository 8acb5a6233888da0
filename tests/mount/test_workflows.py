"""The bundle on a cluster with a mounted bucket as its volume; the mount dies during a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mounts import UNCACHED, Bucket, Node
from pipeline import model

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from scenario import ROOT, argo, kubectl, submit, until

pytestmark = pytest.mark.e2e
PREFIX = "mount-"  # of all objects of these tests: other tests use the cluster too
LOG = b"".join(b"[%b] a line\n" % word for word in (b"INFO", b"WARN", b"INFO", b"ERROR")) * 50_000


def kubelet_is_here() -> bool:
    """Whether a kubelet of this host sees these mounts: it must be in the same mount namespace."""
    found = subprocess.run(["pgrep", "-x", "kubelet"], capture_output=True, text=True, timeout=10)
    own = os.readlink("/proc/self/ns/mnt")
    return any(os.readlink(f"/proc/{pid}/ns/mnt") == own for pid in found.stdout.split())


@pytest.fixture(scope="module")
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """The mount of the cluster's pods, with the bundle applied, and a mount of the tests."""
    if "E2E_KUBECONFIG" not in os.environ:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "E2E_KUBECONFIG must be a cluster's kubeconfig: set it, or run `make test`"
        )
    if not kubelet_is_here():
        pytest.skip(
            "the cluster's node must be this host, so that its pods see mounts of this host"
        )
    bucket: Bucket = request.getfixturevalue("bucket")
    with ExitStack() as stack:
        cluster_node, own_node = (
            stack.enter_context(bucket.node(name, UNCACHED)) for name in ("c", "d")
        )
        overlay = stack.enter_context(tempfile.TemporaryDirectory())
        move = json.dumps(
            [{"op": "replace", "path": "/spec/hostPath/path", "value": f"{cluster_node.root}"}]
        )
        Path(overlay, "kustomization.yaml").write_text(
            json.dumps(
                {
                    "namePrefix": PREFIX,
                    "resources": [os.path.relpath(ROOT / "manifests/overlays/local", overlay)],
                    "patches": [{"target": {"kind": "PersistentVolume"}, "patch": move}],
                }
            )
        )
        remove(overlay)  # a killed run leaves a volume with a path that no longer exists
        kubectl("apply", "-k", overlay)
        stack.callback(remove, overlay)
        yield cluster_node, own_node


def remove(overlay: str) -> None:
    """Delete all objects of these tests."""
    workflows = kubectl("get", "workflows", "-o", "name").split()
    if own := [name for name in workflows if name.startswith(f"workflow.argoproj.io/{PREFIX}")]:
        kubectl("delete", "--ignore-not-found", *own, timeout=120)
    kubectl("delete", "--ignore-not-found", "-k", overlay, "--timeout=60s", timeout=90)


def test_workflows(nodes: tuple[Node, Node]) -> None:
    """Parallel runs on a log that another node has written: right totals, and the letters of
    prepare-data in order. Then a run with a mount that dies during the count and comes back: it
    succeeds, or it fails and a rerun of the missing parts is right. One test, so that one bundle is
    enough for any number of test processes."""
    cluster_node, own_node = nodes
    own_node.put({"log.txt": LOG})
    runs = [
        submit(f"{PREFIX}log-count", input="log.txt", splitMode=mode, runDir=mode)
        for mode in ("copy", "range")
    ]
    submit(f"{PREFIX}prepare-data", files=8, runDir="data").succeed(300)
    runs.append(submit(f"{PREFIX}process-data", numbers=4, runDir="data"))

    for run in runs:
        run.succeed(300)

    assert totals(own_node, "copy") == totals(own_node, "range") == model([LOG])
    files = [f"data/aggregation-demo/l1/{number}.txt" for number in range(8)]
    letters = b"".join(map(own_node.bucket.get, files))
    assert re.fullmatch(rb"[A-Z]{8}", letters)
    assert own_node.bucket.get("data/aggregation-demo/result.txt") == letters

    parameters = {"input": "log.txt", "runDir": "killed"}
    killed = submit(f"{PREFIX}log-count", **parameters)
    until("a map pod", 120, lambda: killed.pods(".map"))
    cluster_node.kill()
    time.sleep(2)
    cluster_node.remount()

    if killed.wait(300)["status"]["phase"] == "Failed":
        print(f"the run failed with its mount, which is allowed:\n{argo('get', killed.name)}")
        submit(f"{PREFIX}log-count", **parameters, onlyMissing="true").succeed(300)

    assert totals(own_node, "killed") == model([LOG])


def totals(node: Node, run_dir: str) -> dict[str, int]:
    """The result.json in the bucket."""
    found: dict[str, int] = json.loads(node.bucket.get(f"{run_dir}/result.json"))
    return found
