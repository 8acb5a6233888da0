"""The bundle on a cluster: applied once, with a sample log on its volume."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run import sample
from scenario import ROOT, Volume, kubectl

HERE = Path(__file__).parent
NO_CLUSTER = (
    "no cluster: `make test` builds one as root on Debian with Go; or set E2E_KUBECONFIG to yours "
    "(see tests/cluster/README.md)"
)


def apply_bundle() -> None:
    """The overlay `local`, its volume in the folder E2E_VOLUME of the node."""
    folder = os.environ.get("E2E_VOLUME", "/var/local/fanfold")
    move = json.dumps([{"op": "replace", "path": "/spec/hostPath/path", "value": folder}])
    with tempfile.TemporaryDirectory() as overlay:
        Path(overlay, "kustomization.yaml").write_text(
            json.dumps(
                {
                    "resources": [os.path.relpath(ROOT / "manifests/overlays/local", overlay)],
                    "patches": [{"target": {"kind": "PersistentVolume"}, "patch": move}],
                }
            )
        )
        kubectl("apply", "-k", overlay)


@pytest.fixture(scope="session")
def volume() -> Volume:
    """The volume of the bundle, with a pod to reach it by, which ends by itself, and with the
    sample log as log-count-data.txt. Processes that run these tests side by side share it."""
    if "E2E_KUBECONFIG" not in os.environ:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(NO_CLUSTER)
    volume = Volume()
    content = "".join(sample()).encode()
    with open(HERE / "conftest.py", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        apply_bundle()
        kubectl("apply", "-f", str(HERE / "toolbox-pod.yaml"))
        kubectl("wait", "pod/toolbox", "--for=condition=Ready", "--timeout=120s", timeout=130)
        if (
            "log-count-data.txt" not in volume.names(".")
            or volume.get("log-count-data.txt") != content
        ):
            volume.put("log-count-data.txt", content)
    return volume


@pytest.fixture(scope="session")
def log(volume: Volume) -> bytes:
    """The log of 20,000 lines that is on the volume."""
    return volume.get("log-count-data.txt")
