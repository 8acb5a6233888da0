"""The pipelines on a cluster, compared with the same pods that do nothing."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from statistics import median
from typing import Any

from cases import Sizes
from measure import ROOT
from report import Section, size, spread
from scenario import Run, Volume, argo, get, kubectl, pods_of, submit_variant

Edit = Callable[[dict[str, Any]], None]  # of a workflow's spec
Once = Callable[[Edit], dict[str, float]]  # runs a workflow, and returns its figures

NO_CLUSTER = (
    "left out: there is no cluster. Set E2E_KUBECONFIG to the kubeconfig of a cluster that has the "
    "images (tests/cluster/README.md; on this machine: cluster.py build, up and load), FANFOLD_BIN "
    "to a folder with kubectl and argo if they are not on the PATH, and E2E_VOLUME to the node's "
    "folder of the volume. Use a cluster that is only for tests: the cases apply the overlay local "
    "in the namespace argo, and the case clock restarts Argo's controller with other settings"
)
TEXT = (
    "From the submission to the end of the workflow, mode `range`, a small log. The floor is the "
    "same workflow with the same images, templates and pods, but with containers that run "
    "`python -c pass` (the container of split prints the ids that the next step needs). So the "
    "floor has the time of Kubernetes and Argo, and the start of Python. Pod-seconds are from the "
    "workflow's clock, which has whole seconds. Three sizes are per pod: the nodes of the status "
    "as JSON, the same packed as Argo packs them in an object over 1 MiB, and the whole object "
    "without its `managedFields`. The overlay `local` runs 8 pods at a time. "
)
LINES = 20_000  # of the log: the time of the pod itself counts, not of its work
TIMEOUT = 1800  # seconds, of one workflow
# In place of a worker: only the outputs that the workflow needs.
NOTHING = "pass"
NO_SPLIT = (
    "import json, os; print(json.dumps([str(n) for n in range(int(os.environ['NUM_PARTS']))]));"
    "open(os.environ['PLAN_ID_FILE'], 'w').write('0' * 32)"
)


def idle(spec: dict[str, Any]) -> None:
    """Let each container of a workflow start its Python and do nothing: same images, same pods."""
    for template in spec["templates"]:
        if "container" in template:
            program = NO_SPLIT if template["name"] == "split" else NOTHING
            template["container"]["args"] = ["-c", program]


def busy(_: dict[str, Any]) -> None:
    """Change nothing."""


def moments(each: Mapping[str, Any]) -> tuple[float, float]:
    """Start and end of a node or a status by the workflow's clock, which has whole seconds."""
    first, last = (datetime.fromisoformat(each[name]) for name in ("startedAt", "finishedAt"))
    return first.timestamp(), last.timestamp()


@contextmanager
def ended(submitted: Callable[[], Run]) -> Iterator[tuple[float, Run, dict[str, Any]]]:
    """Run a workflow to its end. Yield its seconds, the run and the workflow, then delete it."""
    start = time.monotonic()
    run = submitted()
    found = run.succeed(TIMEOUT)
    yield time.monotonic() - start, run, found
    kubectl("delete", "workflow", run.name, "--wait=false")


def timed(submitted: Callable[[], Run]) -> dict[str, float]:
    """Run a workflow to its end. Return its figures."""
    with ended(submitted) as (wall, run, found):
        nodes = found["status"]["nodes"]
        text = json.dumps(nodes, separators=(",", ":")).encode()
        pods = [moments(node) for node in nodes.values() if node["type"] == "Pod"]
        return {
            "wall": wall,
            "pods": float(sum(pods_of(found).values())),
            "pod seconds": sum(last - first for first, last in pods),
            "nodes": float(len(text)),
            # Argo keeps the nodes of a large workflow like this, in base64.
            "packed": float(len(gzip.compress(text)) * 4 / 3),
            "stored": float(len(json.dumps(get("workflow", run.name), separators=(",", ":")))),
        }


def prepare(lines: int = LINES) -> None:
    """Apply the bundle, and write a log of `lines` lines to the volume."""
    bundle = kubectl("kustomize", str(ROOT / "manifests/overlays/local"))
    folder = os.environ.get("E2E_VOLUME", "/var/local/fanfold")
    kubectl("apply", "-f", "-", stdin=bundle.replace("/var/local/fanfold", folder).encode())
    kubectl("apply", "-f", str(ROOT / "tests/e2e/toolbox-pod.yaml"))
    kubectl("wait", "pod/toolbox", "--for=condition=Ready", "--timeout=120s", timeout=130)
    words = ("INFO", "WARN", "ERROR", "DEBUG")
    log = (f"2026-01-01T00:00:{n % 60:02}Z [{words[n % 4]}] line {n}\n" for n in range(lines))
    Volume().put("bench/log.txt", "".join(log).encode())


def versions() -> str:
    """The versions of the cluster."""
    server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return f"Kubernetes {server}, Argo Workflows {argo('version', '--short').split()[-1]}."


def log_count(parts: int, edit: Edit) -> dict[str, float]:
    """Run log-count. Check its totals, unless its pods do nothing."""
    run_dir = f"bench/log-count-{parts}"
    remove = "import shutil; shutil.rmtree(sys.argv[1], ignore_errors=True)"
    Volume().run(remove, run_dir)  # the result of an earlier run must not pass for this one
    settings = {"input": "bench/log.txt", "runDir": run_dir, "numParts": str(parts)}
    figures = timed(lambda: submit_variant("log-count", edit, splitMode="range", **settings))
    expected = dict.fromkeys(("INFO", "WARN", "ERROR", "DEBUG"), LINES // 4)
    if edit is busy and (found := Volume().result(run_dir)) != expected:
        raise SystemExit(f"log-count found {found}, and there are {expected}")
    return figures


def compare(section: Section, work: dict[str, Once], repeats: int) -> None:
    """Run each workflow and its floor, in turn."""
    rows = []
    for label, once in work.items():
        runs: dict[str, list[dict[str, float]]] = {"": [], ", doing nothing": []}
        for number in range(repeats):
            for name, edit in (("", busy), (", doing nothing", idle)):
                print(f"  {number + 1}/{repeats} {label}{name}", file=sys.stderr, flush=True)
                runs[name].append(once(edit))
        wall = {name: [run["wall"] for run in found] for name, found in runs.items()}
        ratio = median(wall[""]) / median(wall[", doing nothing"])
        for name, found in runs.items():
            last = found[-1]
            rows.append((
                label + name, spread(wall[name]), f"{last['pods']:.0f}",
                f"{median(run['pod seconds'] for run in found):.0f}",
                *(f"{size(last[key] / last['pods'])}" for key in ("nodes", "packed", "stored")),
                "" if name else f"{ratio:.2f}",
            ))  # fmt: skip
            section.bars.append((label + name, wall[name]))
        section.target(f"{label} on the cluster / doing nothing", "<", 1.1, ratio)
        if label.startswith("log-count"):
            section.figures["packed"] = runs[""][-1]["packed"] / runs[""][-1]["pods"]
    head = (
        "", "seconds", "pods", "pod-seconds", "nodes per pod", "packed", "stored", "time / floor",
    )  # fmt: skip
    section.tables.append(("", head, rows))


def aggregate(template: str, number: int, **parameters: str) -> Once:
    """Return a function that runs an aggregation of `number` files."""
    run_dir = f"bench/{template}-{number}"

    def once(edit: Edit) -> dict[str, float]:
        Volume().run(
            "import shutil; shutil.rmtree(sys.argv[1], ignore_errors=True)\n"
            "os.makedirs(f'{sys.argv[1]}/aggregation-demo/l1')\n"
            "for n in range(int(sys.argv[2])):\n"
            "    open(f'{sys.argv[1]}/aggregation-demo/l1/{n}.txt', 'w').write(f'{n}\\n')",
            run_dir,
            str(number),
        )
        figures = timed(lambda: submit_variant(template, edit, runDir=run_dir, **parameters))
        if edit is busy:
            joined = Volume().get(f"{run_dir}/aggregation-demo/result.txt").split()
            if joined != [b"%d" % n for n in range(number)]:
                raise SystemExit(f"{template} of {number} files lost some or their order")
        return figures

    return once


def small(sizes: Sizes) -> Section:
    """Runs of a minute or two."""
    prepare()
    section = Section("cluster", "On the test cluster", TEXT + versions())
    work = {
        "log-count, 5 parts": lambda edit: log_count(5, edit),
        "log-count, 50 parts": lambda edit: log_count(50, edit),
        "process-data, 32 files": aggregate("process-data", 32, numbers="16"),
    }
    compare(section, work, sizes.repeats)
    return section


def large(_: Sizes) -> Section:
    """Runs of many minutes, once each."""
    prepare()
    section = Section(
        "cluster-large", "On the test cluster, larger", TEXT + "One run each. " + versions()
    )
    compare(section, {"log-count, 300 parts": lambda edit: log_count(300, edit)}, 1)
    rows = []
    for fan_in in (8, 2):
        label = f"512 files, fan-in {fan_in}"
        print(f"  {label}", file=sys.stderr, flush=True)
        found = aggregate("aggregate", 512, files="512", fanIn=str(fan_in))(busy)
        row = (f"{found['wall']:.0f}", f"{found['pods']:.0f}", f"{found['pod seconds']:.0f}")
        rows.append((label, *row))
        section.bars.append((label, [found["wall"]]))
    section.tables.append(("", ("", "seconds", "pods", "pod-seconds"), rows))
    return section
