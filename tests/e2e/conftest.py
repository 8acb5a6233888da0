"""Apply the bundle to a cluster once, with a sample log on its volume. Keep files about the runs of
a failed test."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run import sample
from scenario import ROOT, Run, Volume, at_volume, kubectl, tool

HERE = Path(__file__).parent
KEPT = ROOT / "build/e2e"
NO_CLUSTER = (
    "E2E_KUBECONFIG must be a cluster's kubeconfig: set it, or run `make test` as root on Debian "
    "with Go (see tests/cluster/README.md)"
)
# The longest tests first, so that no long test starts at the end. Each process takes two tests: a
# long one and one that may wait.
FIRST = (
    *("test_300_parts", "test_every_command_is_run_or_marked"),
    *("test_every_command", "test_reclaim"),
    *("test_reclaimed_pods", "test_out_of_memory"),
    *("test_redrive", "test_two_runs_in_parallel"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Remove the files of earlier failures, in the main process and not in xdist's processes."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(KEPT, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests in the order of their start."""
    items.sort(key=lambda item: FIRST.index(item.name) if item.name in FIRST else len(FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write files about the runs of a failed test, and add their folder to the error."""
    if call.excinfo and Run.made and not call.excinfo.errisinstance(pytest.skip.Exception):
        folder = KEPT / re.sub(r"[^\w.=-]+", "-", item.name).strip("-")
        for run in Run.made:
            run.keep(folder / run.name)
        call.excinfo.value.add_note(f"files about its runs: {folder.relative_to(ROOT)}")
    if call.when == "teardown":
        Run.made.clear()
    return (yield)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with the volume's folder E2E_VOLUME. The commands of the README run here
    unchanged."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    path = folder / "manifests/components/local-volume/pv-local-persistentvolume.yaml"
    path.write_text(at_volume(path.read_text()))
    return folder


@pytest.fixture(scope="session")
def volume(checkout: Path) -> Volume:
    """The volume of the bundle, with a pod that reads and writes it and ends by itself, and with
    the sample log as log-count-data.txt. All test processes share it."""
    if "E2E_KUBECONFIG" not in os.environ:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(NO_CLUSTER)
    volume = Volume()
    content = "".join(sample()).encode()
    phase = "jsonpath={.status.phase}"
    with open(HERE / "conftest.py", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tool("kubectl", "apply", "-k", "manifests/overlays/local", cwd=checkout)
        if kubectl(*("get", "pod", "toolbox", "--ignore-not-found", "-o", phase)) != "Running":
            # An ended pod does not start again.
            kubectl("delete", "pod", "toolbox", "--ignore-not-found")
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
