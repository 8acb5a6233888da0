"""Thousands of real pods, and ten thousand pods with a stand-in for the kubelet."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cases import Sizes
from kubelet import LABEL
from measure import CORES, HERE, workers
from observe import Seen, observe, tell
from on_cluster import Edit, busy, prepare, versions
from report import Section
from scenario import WORDS, Volume, environment, kubectl, submit_variant, template_of

HOURS = 3600
LINES = 10  # per part, with the same number of each keyword
NODE = "fanfold-simulated"
AT_ONCE = 100  # pods at a time, as in the component `parallelism`
GROUP = 50  # parts per pod
LANES = 4 * CORES  # processes of the stand-in; they also wait for the API server
TEXT = (
    "The workflow log-count, mode `range`, with a small log: {what} The object is the workflow in "
    "the API server, read every few seconds. Argo packs the nodes of an object over 1 MiB. The "
    "programs of the test cluster collect garbage rarely. This saves time, but not memory. The "
    "requests include the leases, and the reads of this benchmark. "
)


def log_count(label: str, parts: int, group: int, edit: Edit) -> Seen:
    """Run log-count, and check its totals if it succeeded."""
    print(f"  {label}", file=sys.stderr, flush=True)
    lines = max(LINES * parts, 1000)
    prepare(lines)
    run_dir = f"bench/scale-{parts}"
    Volume().run("import shutil; shutil.rmtree(sys.argv[1], ignore_errors=True)", run_dir)
    settings = {"numParts": str(parts), "partsPerPod": str(group), "splitMode": "range"}
    seen = observe(
        lambda: submit_variant(
            "log-count", edit, input="bench/log.txt", runDir=run_dir, **settings
        ),
        10 * HOURS,
    )
    if seen.phase == "Succeeded":
        expected = dict.fromkeys(WORDS, lines // len(WORDS))
        if (found := Volume().result(run_dir)) != expected:
            raise SystemExit(f"log-count found {found}, and there are {expected}")
    return seen


def real(sizes: Sizes) -> Section:
    """Real pods, in one run."""
    label = f"{sizes.pods:,} parts"
    seen = log_count(label, sizes.pods, 1, busy)
    if seen.phase != "Succeeded":
        raise SystemExit(f"{label}: {seen.phase}: {seen.message}")
    what = "each part in a real pod of the test cluster, 8 pods at a time, one run."
    title = f"On the test cluster, {sizes.pods:,} pods"
    section = Section("cluster-2000", title, TEXT.format(what=what) + versions(), "seconds per pod")
    tell(section, {label: seen})
    section.figures["calls"] = seen.requests.total() / seen.pods
    control = ("workflow-controller", "kube-apiserver", "etcd")
    if all(name in seen.cpu for name in control):
        section.figures["control"] = sum(seen.cpu[name] for name in control) / seen.pods
    if seen.packed:
        section.figures["packed"] = seen.packed / seen.pods
    return section


@contextmanager
def simulated_node() -> Iterator[None]:
    """A node with pods that run as processes of this machine, until the context ends."""
    volume = Path(os.environ.get("E2E_VOLUME", "/var/local/fanfold"))
    if not (volume / "bench/log.txt").exists():
        raise SystemExit(
            f"E2E_VOLUME must be the folder that the pods of the cluster mount, got {volume}: set "
            "E2E_VOLUME to this folder of this machine"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            ("kubectl", "proxy", "--port=0"), env=environment(), stdout=subprocess.PIPE, text=True
        ) as proxy,
    ):
        os.chmod(folder, 0o755)  # noqa: S103 - the workers run as another user
        try:
            assert proxy.stdout
            address = "http://" + proxy.stdout.readline().split()[-1]
            command = (sys.executable, str(HERE / "kubelet.py"), address, NODE, str(volume))
            with subprocess.Popen((*command, str(workers(Path(folder))), str(LANES))) as kubelet:
                try:
                    kubectl("wait", "--for=create", f"node/{NODE}", "--timeout=60s", timeout=70)
                    yield
                finally:
                    kubelet.terminate()
                    try:
                        kubelet.wait(60)  # it removes the node, for which it needs the proxy
                    except subprocess.TimeoutExpired:
                        kubelet.kill()
        finally:
            proxy.terminate()


def on_simulated(spec: dict[str, Any]) -> None:
    """Let the maps of a workflow run on the simulated node, with a user's parallelism."""
    spec["parallelism"] = AT_ONCE
    # This benchmark measures the limit of Argo, not the limit of split.
    variables = template_of(spec, "split")["container"]["env"]
    variables[:] = [each for each in variables if each["name"] != "MAX_PODS"]
    maps = template_of(spec, "map")
    maps["nodeSelector"] = {LABEL: "true"}
    maps["tolerations"] = [{"key": LABEL, "operator": "Exists"}]


def simulated(sizes: Sizes) -> Section:
    """As many parts as Argo allows, with one pod per part, and ten times as many in groups. The
    table has the end of each run, also of a failed run."""
    prepare()
    runs: dict[str, Seen] = {}

    def run(parts: int, group: int = 1) -> Seen:
        label = f"{parts:,} parts" + (f", {group} per pod" if group > 1 else "")
        runs[label] = log_count(label, parts, group, on_simulated)
        return runs[label]

    with simulated_node():
        first = run(sizes.simulated)
        if first.pods < sizes.simulated / 10:
            raise SystemExit(f"{first.phase}: {first.message}")
        if first.phase == "Succeeded":
            last = run(3 * sizes.simulated)
        else:  # a little less than Argo stored before it refused
            last, first = first, run(int(0.95 * first.pods) // 100 * 100)
        run(10 * sizes.simulated, GROUP)
    what = (
        "split and reduce run in real pods. The maps are pods of a node with a stand-in for the "
        f"kubelet, which runs the same worker as a process, {LANES} at a time. Everything else is "
        f"real. At most {AT_ONCE} pods exist at a time. A simulated pod makes fewer requests than "
        "a real pod."
    )
    limit = (
        f"Argo stores at most {last.pods:,} pods: `{last.message}`. "
        if last.phase != "Succeeded"
        else ""
    )
    section = Section(
        "simulated",
        "Simulated nodes",
        TEXT.format(what=what) + limit + versions(),
        "seconds per pod",
    )
    tell(section, runs)
    section.figures["creations"] = first.pods / first.wall
    if first.packed:
        section.figures["packed"] = first.packed / first.pods
    return section
