"""The bundle on a cluster whose volume is a mounted bucket; the mount dies under its pods."""

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
PREFIX = "mount-"  # of the names of all objects of ours: others may be at work on the cluster
LOG = b"".join(b"[%b] a line\n" % word for word in (b"INFO", b"WARN", b"INFO", b"ERROR")) * 50_000


def kubelet_is_here() -> bool:
    """Whether a kubelet of this host sees our mounts: it has to be in our mount namespace."""
    found = subprocess.run(["pgrep", "-x", "kubelet"], capture_output=True, text=True, timeout=10)
    own = os.readlink("/proc/self/ns/mnt")
    return any(os.readlink(f"/proc/{pid}/ns/mnt") == own for pid in found.stdout.split())


@pytest.fixture(scope="module")
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """The mount that the cluster's pods have, with the bundle on it, and one of our own."""
    if "E2E_KUBECONFIG" not in os.environ:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "no cluster: `make test` builds one, or set E2E_KUBECONFIG to yours"
        )
    if not kubelet_is_here():
        pytest.skip("the cluster's node is not this host: nothing mounted here reaches its pods")
    bucket: Bucket = request.getfixturevalue("bucket")
    with ExitStack() as stack:
        theirs, ours = (stack.enter_context(bucket.node(name, UNCACHED)) for name in ("c", "d"))
        overlay = stack.enter_context(tempfile.TemporaryDirectory())
        move = json.dumps(
            [{"op": "replace", "path": "/spec/hostPath/path", "value": f"{theirs.root}"}]
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
        remove(overlay)  # a killed run leaves a volume whose path is no more
        kubectl("apply", "-k", overlay)
        stack.callback(remove, overlay)
        yield theirs, ours


def remove(overlay: str) -> None:
    """Delete all that is ours."""
    workflows = kubectl("get", "workflows", "-o", "name").split()
    if own := [name for name in workflows if name.startswith(f"workflow.argoproj.io/{PREFIX}")]:
        kubectl("delete", "--ignore-not-found", *own, timeout=120)
    kubectl("delete", "--ignore-not-found", "-k", overlay, "--timeout=60s", timeout=90)


def test_workflows(nodes: tuple[Node, Node]) -> None:
    """Runs side by side, the log put there by another node: right totals, and the letters of
    prepare-data in order. Then a run whose mount dies while parts are counted, and comes back: it
    succeeds, or it fails and is right once it is run again for what is missing. One test, so that
    one bundle is enough however many processes run tests."""
    theirs, ours = nodes
    ours.put({"log.txt": LOG})
    runs = [
        submit(f"{PREFIX}log-count", input="log.txt", splitMode=mode, runDir=mode)
        for mode in ("copy", "range")
    ]
    submit(f"{PREFIX}prepare-data", files=8, runDir="data").succeed(300)
    runs.append(submit(f"{PREFIX}process-data", numbers=4, runDir="data"))

    for run in runs:
        run.succeed(300)

    assert totals(ours, "copy") == totals(ours, "range") == model([LOG])
    files = [f"data/aggregation-demo/l1/{number}.txt" for number in range(8)]
    letters = b"".join(map(ours.bucket.get, files))
    assert re.fullmatch(rb"[A-Z]{8}", letters)
    assert ours.bucket.get("data/aggregation-demo/result.txt") == letters

    parameters = {"input": "log.txt", "runDir": "killed"}
    killed = submit(f"{PREFIX}log-count", **parameters)
    until("a map pod", 120, lambda: killed.pods(".map"))
    theirs.kill()
    time.sleep(2)
    theirs.remount()

    if killed.wait(300)["status"]["phase"] == "Failed":
        print(f"it failed with its mount, as it may:\n{argo('get', killed.name)}")
        submit(f"{PREFIX}log-count", **parameters, onlyMissing="true").succeed(300)

    assert totals(ours, "killed") == model([LOG])


def totals(node: Node, run_dir: str) -> dict[str, int]:
    """What result.json says in the bucket."""
    found: dict[str, int] = json.loads(node.bucket.get(f"{run_dir}/result.json"))
    return found
