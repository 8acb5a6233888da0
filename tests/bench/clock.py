"""The seconds of a small run, and the effect of each setting."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

from cases import Sizes
from on_cluster import Edit, busy, ended, idle, moments, prepare, versions
from report import Section, spread
from scenario import get, kubectl, submit_variant, template_of

PARTS = 5
DEPLOYMENT, REQUEUE = "deployment/workflow-controller", "DEFAULT_REQUEUE_TIME"
STEPS = ("split", "map", "reduce")
HEAD = (
    "", "seconds", "to split", "split", "to map", "map", "to reduce", "reduce", "to the end",
)  # fmt: skip
TEXT = (
    f"log-count of a small log in {PARTS} parts. *Seconds* are from the submission to the end. The "
    "other columns are means of the workflow's own clock, which has whole seconds: from the "
    "creation of a step's first pod to the end of its last, and the time between steps, in which "
    "Argo's controller works or waits. The controller of the test cluster has "
    f"`{REQUEUE}=2s`, where Argo's default is 10 s. The images are on the node already. "
)


def no_gc(spec: dict[str, Any]) -> None:
    """Keep the pods until the workflow is deleted."""
    del spec["podGC"]


def whole_core(spec: dict[str, Any]) -> None:
    """Let each map request one of the two cores of the node."""
    resources = {name: {"cpu": "1"} for name in ("requests", "limits")}
    template_of(spec, "map")["container"]["resources"] = resources  # merged with the defaults


WORK: tuple[tuple[str, str, Edit], ...] = (  # label, requeue time, edit of the spec
    ("the bundle", "", busy),
    ("pods that do nothing", "", idle),
    ("no `podGC`", "", no_gc),
    ("each map requests a core", "", whole_core),
    (f"`{REQUEUE}=500ms`", "500ms", busy),
    (f"`{REQUEUE}=10s`, Argo's default", "10s", busy),
)


@contextmanager
def requeue_time(value: str) -> Iterator[None]:
    """Restart Argo's controller with this requeue time, and afterwards with its own again."""
    (container,) = get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"]
    known = {each["name"]: each.get("value", "") for each in container.get("env", [])}

    def restart(setting: str) -> None:
        kubectl("set", "env", DEPLOYMENT, setting)
        kubectl("rollout", "status", DEPLOYMENT, "--timeout=120s", timeout=130)

    restart(f"{REQUEUE}={value}")
    try:
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


def once(edit: Edit) -> tuple[float, list[float]]:
    """Run log-count once. Return its seconds and its phases."""
    settings = {"input": "bench/log.txt", "runDir": "bench/clock", "splitMode": "range"}
    submitted = partial(submit_variant, "log-count", edit, numParts=str(PARTS), **settings)
    with ended(submitted) as (wall, _, found):
        return wall, phases(found)


def clock(sizes: Sizes) -> Section:
    """A small run, and the same run with one change per row."""
    prepare()
    found: dict[str, list[tuple[float, list[float]]]] = {label: [] for label, _, _ in WORK}
    for setting in dict.fromkeys(setting for _, setting, _ in WORK):
        with requeue_time(setting) if setting else nullcontext():
            for number in range(sizes.repeats):
                for label, edit in [(label, edit) for label, own, edit in WORK if own == setting]:
                    print(f"  {number + 1}/{sizes.repeats} {label}", file=sys.stderr, flush=True)
                    found[label].append(once(edit))
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
