"""The seconds of a small run, and the effect of each setting."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

from cases import Sizes
from on_cluster import NOTHING, Edit, busy, ended, idle, moments, prepare, versions
from report import Section, spread
from scenario import get, kubectl, submit_variant, template_of

PARTS = 5
DEPLOYMENT, REQUEUE = "deployment/workflow-controller", "DEFAULT_REQUEUE_TIME"
STEPS = {"split": 1, "map": PARTS, "reduce": 1}  # the pods of each step
HEAD = (
    "", "seconds", "to split", "split", "to map", "map", "to reduce", "reduce", "to the end",
)  # fmt: skip
TEXT = (
    f"log-count of a small log in {PARTS} parts. *Seconds* are from the submission to the end. The "
    "other columns are means by the workflow's own clock, which has whole seconds. A step lasts "
    "from the creation of its first pod to the end of its last pod. Between two steps Argo's "
    "controller works or waits. The controller of the test cluster has "
    f"`{REQUEUE}=2s`; Argo's default is 10 s. The images are already on the node. "
    "The rows with another requeue time run after the other rows. "
    "The pods without Argo have the images and the volume of the bundle, and not the two "
    "containers that Argo adds to each pod. "
)
Once = Callable[[], tuple[float, list[float]]]  # a run: its seconds, and its phases


def no_gc(spec: dict[str, Any]) -> None:
    """Keep the pods until the workflow is deleted."""
    del spec["podGC"]


def whole_core(spec: dict[str, Any]) -> None:
    """Let each map request one of the two cores of the node."""
    resources = {name: {"cpu": "1"} for name in ("requests", "limits")}
    template_of(spec, "map")["container"]["resources"] = resources  # merged with the defaults


@contextmanager
def requeue_time(value: str) -> Iterator[None]:
    """Restart Argo's controller with this requeue time, and afterwards with its own again."""
    (container,) = get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    known = {each["name"]: each.get("value", "") for each in container.get("env", [])}

    def restart(setting: str) -> None:
        kubectl("set", "env", DEPLOYMENT, setting)
        kubectl("rollout", "status", DEPLOYMENT, "--timeout=120s", timeout=130)

    try:
        restart(f"{REQUEUE}={value}")
        yield
    finally:
        restart(f"{REQUEUE}={known[REQUEUE]}" if REQUEUE in known else f"{REQUEUE}-")


def phases(workflow: Mapping[str, Any]) -> list[float]:
    """Seconds of each column of HEAD but the first two, by the workflow's clock."""
    nodes = [node for node in workflow["status"]["nodes"].values() if node["type"] == "Pod"]
    marks = [moments(workflow["status"])[0]]
    for step in STEPS:
        found = [moments(node) for node in nodes if node["templateName"] == step]
        marks += [min(first for first, _ in found), max(last for _, last in found)]
    marks.append(moments(workflow["status"])[1])
    return [last - first for first, last in pairwise(marks)]


def with_argo(edit: Edit) -> tuple[float, list[float]]:
    """Run log-count once."""
    settings = {"input": "bench/log.txt", "runDir": "bench/clock", "splitMode": "range"}
    submitted = partial(submit_variant, "log-count", edit, numParts=str(PARTS), **settings)
    with ended(submitted) as (wall, _, found):
        return wall, phases(found)


def without_argo() -> tuple[float, list[float]]:
    """Create the pods of each step after the end of the step before."""
    spec = get("workflowtemplate", "log-count")["spec"]
    found = [0.0]
    for step, count in STEPS.items():
        container = {
            **spec["templateDefaults"]["container"],
            "name": "main",
            "image": template_of(spec, step)["container"]["image"],
            "args": ["-c", NOTHING],
        }
        names = [f"clock-{step}-{number}" for number in range(count)]
        pods = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "restartPolicy": "Never",
                    **{key: spec[key] for key in ("securityContext", "volumes")},
                    "containers": [container],
                },
            }
            for name in names
        ]
        start = time.monotonic()
        objects = {"apiVersion": "v1", "kind": "List", "items": pods}
        kubectl("create", "-f", "-", stdin=json.dumps(objects).encode())
        try:
            is_done = "--for=jsonpath={.status.phase}=Succeeded"
            kubectl("wait", "pod", *names, is_done, "--timeout=120s", timeout=130)
            found += [time.monotonic() - start, 0.0]
        finally:
            kubectl("delete", "pod", *names)
    return sum(found), found


WORK: tuple[tuple[str, str, Once], ...] = (  # label, requeue time, run
    ("the bundle", "", partial(with_argo, busy)),
    ("pods that do nothing", "", partial(with_argo, idle)),
    ("pods that do nothing, without Argo", "", without_argo),
    ("no `podGC`", "", partial(with_argo, no_gc)),
    ("each map requests a core", "", partial(with_argo, whole_core)),
    (f"`{REQUEUE}=500ms`", "500ms", partial(with_argo, busy)),
    (f"`{REQUEUE}=10s`, Argo's default", "10s", partial(with_argo, busy)),
)


def clock(sizes: Sizes) -> Section:
    """A small run, and the same run with one change per row."""
    prepare()
    found: dict[str, list[tuple[float, list[float]]]] = {label: [] for label, _, _ in WORK}
    for setting in dict.fromkeys(setting for _, setting, _ in WORK):
        with requeue_time(setting) if setting else nullcontext():
            for number in range(sizes.repeats):
                for label, once in [(label, once) for label, own, once in WORK if own == setting]:
                    print(f"  {number + 1}/{sizes.repeats} {label}", file=sys.stderr, flush=True)
                    found[label].append(once())
    section = Section("clock", "The clock of a run", TEXT + versions())
    rows: list[Sequence[str]] = [
        (
            label,
            spread([wall for wall, _ in runs]),
            *(f"{fmean(column):.1f}" for column in zip(*(steps for _, steps in runs), strict=True)),
        )
        for label, runs in found.items()
    ]
    section.tables.append(("", HEAD, rows))
    section.bars = [(label, [wall for wall, _ in runs]) for label, runs in found.items()]
    return section
