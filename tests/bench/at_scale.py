"""Thousands of pods: real ones, and ten times as many whose kubelet is a stand-in."""

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
from scenario import WORDS, Volume, kubectl, submit_variant, template_of

HOURS = 3600
LINES = 10  # a part, as many of each keyword
NODE = "fanfold-simulated"
AT_ONCE = 100  # pods, as the component `parallelism` has it
GROUP = 50  # parts a pod
LANES = 4 * CORES  # pods at once that the stand-in runs; they wait for the API server, too
TEXT = (
    "The workflow log-count, mode `range`, a small log: {what} The object is the workflow as the "
    "API server stores it, looked at every few seconds; its nodes are packed once all of it takes "
    "1 MiB. The programs are those of the test cluster, whose garbage collector is told to save "
    "time, not memory. Leases and looks are among the requests. "
)


def log_count(label: str, parts: int, group: int, edit: Edit) -> Seen:
    """Run log-count with so many parts, and check what it counted if it ended well."""
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
    """Real pods, once."""
    label = f"{sizes.pods:,} parts"
    seen = log_count(label, sizes.pods, 1, busy)
    if seen.phase != "Succeeded":
        raise SystemExit(f"{label}: {seen.phase}: {seen.message}")
    what = "every part in a real pod of the test cluster, one run."
    title = f"On the test cluster, {sizes.pods:,} pods"
    section = Section("cluster-2000", title, TEXT.format(what=what) + versions(), "seconds a pod")
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
    """A node whose pods run on this machine, as long as it lasts."""
    volume = Path(os.environ.get("E2E_VOLUME", "/var/local/fanfold"))
    if not (volume / "bench/log.txt").exists():
        raise SystemExit(
            f"{volume} is not the cluster's volume: set E2E_VOLUME to the folder of this machine "
            "that the pods of the cluster mount"
        )
    env = {
        **os.environ,
        "KUBECONFIG": os.environ["E2E_KUBECONFIG"],
        "PATH": f"{os.environ.get('FANFOLD_BIN', '')}:{os.environ['PATH']}",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            ("kubectl", "proxy", "--port=0"), env=env, stdout=subprocess.PIPE, text=True
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
    """Let the maps of a workflow run on the simulated node, and as many at once as a user has."""
    spec["parallelism"] = AT_ONCE
    # Argo's limit is what is measured, not the limit that split goes by.
    variables = template_of(spec, "split")["container"]["env"]
    variables[:] = [each for each in variables if each["name"] != "MAX_PODS"]
    maps = template_of(spec, "map")
    maps["nodeSelector"] = {LABEL: "true"}
    maps["tolerations"] = [{"key": LABEL, "operator": "Exists"}]


def simulated(sizes: Sizes) -> Section:
    """As many parts as go, a pod each; and ten times as many in groups. A run that ends
    badly is a finding: the table says how."""
    prepare()
    runs: dict[str, Seen] = {}

    def run(parts: int, group: int = 1) -> Seen:
        label = f"{parts:,} parts" + (f", {group} a pod" if group > 1 else "")
        runs[label] = log_count(label, parts, group, on_simulated)
        return runs[label]

    with simulated_node():
        first = run(sizes.simulated)
        if first.pods < sizes.simulated / 10:
            raise SystemExit(f"{first.phase}: {first.message}")
        if first.phase == "Succeeded":
            last = run(3 * sizes.simulated)
        else:  # what was stored before it was refused, and a little less
            last, first = first, run(int(0.95 * first.pods) // 100 * 100)
        run(10 * sizes.simulated, GROUP)
    what = (
        "split and reduce in real pods; the maps in pods bound to a node whose kubelet is a "
        f"stand-in of ours, which runs the same worker in a process, {LANES} at once. Everything "
        f"else is real. {AT_ONCE} pods at once at most. A pod makes fewer requests than a real one."
    )
    limit = (
        f"Argo goes no further than {last.pods:,} pods: `{last.message}`. "
        if last.phase != "Succeeded"
        else ""
    )
    section = Section(
        "simulated", "Simulated nodes", TEXT.format(what=what) + limit + versions(), "seconds a pod"
    )
    tell(section, runs)
    if first.packed:
        section.figures["packed"] = first.packed / first.pods
    return section
