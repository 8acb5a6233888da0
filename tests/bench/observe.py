"""The load of a large run on the control plane, measured during the run: the size of its object,
CPU and memory of the programs, requests to the API server, and the pace of its pods."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from apiserver import ARGO
from report import Section, size
from scenario import NAMESPACE, Run, kubectl

# Programs of a cluster on this machine. Programs of another machine are left out.
PROGRAMS = (
    "workflow-controller",
    "kube-apiserver",
    "etcd",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
)
EVERY = 5  # seconds between two reads of the workflow
PACES = 10  # sections of a run in the table of paces
MOST = 12  # kinds of requests in the table
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
ENDED = ("Succeeded", "Failed", "Error", "Stalled")
STALL = 600  # seconds without a change: Argo may retry for ever if it cannot store the nodes

Nodes = dict[str, dict[str, Any]]
Usage = dict[tuple[str, int], tuple[float, int]]  # program and process: CPU seconds, bytes


@dataclass
class Seen:
    """The measurements of a run."""

    wall: float = 0.0  # seconds
    phase: str = ""
    message: str = ""
    largest: int = 0  # bytes of the stored object, at most
    packed: int = 0  # bytes of its compressed nodes, at most
    nodes: Nodes = field(default_factory=dict)  # the nodes in the last stored object
    cpu: dict[str, float] = field(default_factory=dict)  # seconds, by program
    memory: dict[str, int] = field(default_factory=dict)  # at most, by program
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by resource and verb
    version: str = ""
    changed: float = 0.0  # when this version was first read

    @property
    def pods(self) -> int:
        """The number of pods in the object."""
        return sum(node["type"] == "Pod" for node in self.nodes.values())


def usage(proc: Path = Path("/proc")) -> Usage:
    """The CPU seconds and the memory of the programs."""
    found: Usage = {}
    for folder in proc.glob("[0-9]*"):
        try:
            name = Path(os.fsdecode((folder / "cmdline").read_bytes().split(b"\0")[0])).name
            if name in PROGRAMS:
                # The fields after the name in brackets. The name can contain anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                seconds = (int(fields[11]) + int(fields[12])) / TICKS
                found[name, int(folder.name)] = seconds, int(fields[21]) * PAGE
        except OSError:
            continue  # it has ended
    return found


def requests(metrics: str) -> Counter[tuple[str, str]]:
    """The requests that an API server has answered, without watches."""
    found: Counter[tuple[str, str]] = Counter()
    for labels, count in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", metrics, re.M):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if of["verb"] not in ("WATCH", "CONNECT") and of["resource"]:
            name = "/".join(filter(None, (of["resource"], of.get("subresource"))))
            found[name, of["verb"]] += int(float(count))
    return found


def nodes_of(workflow: Mapping[str, Any]) -> Nodes:
    """The nodes of a stored workflow."""
    found = workflow.get("status", {})
    if packed := found.get("compressedNodes"):
        return dict(json.loads(gzip.decompress(b64decode(packed))))
    return dict(found.get("nodes", {}))


def paces(nodes: Nodes, sections: int = PACES) -> list[float]:
    """Seconds per pod in each section of a run, by the times at which its maps ended."""
    ends = sorted(
        datetime.fromisoformat(node["finishedAt"]).timestamp()
        for node in nodes.values()
        if node["type"] == "Pod" and node.get("templateName") == "map" and node.get("finishedAt")
    )
    marks = [len(ends[1:]) * number // sections for number in range(sections + 1)]
    return [
        (ends[last] - ends[first]) / (last - first)
        for first, last in pairwise(marks)
        if last > first
    ]


def errors(log: str, name: str) -> list[str]:
    """The last two different errors of Argo's controller about a workflow."""
    lines = (line for line in log.splitlines() if f"workflow={name} " in f"{line} ")
    found = (re.search(r' error="((?:[^"\\]|\\.)*)"', line) for line in lines)
    return list(dict.fromkeys(each[1] for each in found if each))[-2:]


def requested() -> Counter[tuple[str, str]]:
    """The requests that the API server has answered until now."""
    return requests(kubectl("get", "--raw", "/metrics"))


def observe(submitted: Callable[[], Run], timeout: float) -> Seen:
    """Run a workflow to its end, with success or failure, and remove it."""
    seen, first, before, start = Seen(), usage(), requested(), time.monotonic()
    run = submitted()
    try:
        while seen.phase not in ENDED:
            if seen.wall > timeout:
                raise SystemExit(f"{run.name} has not ended in {timeout:.0f} s: it is {seen.phase}")
            time.sleep(EVERY)
            seen.wall = time.monotonic() - start
            last = usage()
            for (name, _), (_, memory) in last.items():
                seen.memory[name] = max(memory, seen.memory.get(name, 0))
            with suppress(AssertionError, subprocess.TimeoutExpired):  # a busy server
                look(seen, run.name)
            if seen.wall - seen.changed > STALL and seen.phase not in ENDED:
                log = kubectl("logs", "deployment/workflow-controller", "--since=1h", timeout=300)
                seen.wall, seen.phase = seen.changed, "Stalled"
                seen.message = "; ".join(errors(log, run.name))
        for key, (seconds, _) in last.items():
            seen.cpu[key[0]] = seen.cpu.get(key[0], 0) + seconds - first.get(key, (0, 0))[0]
        seen.requests = requested() - before
    finally:
        kubectl(
            *("delete", "workflow", run.name, "--ignore-not-found", "--timeout=900s"), timeout=910
        )
    return seen


def look(seen: Seen, name: str) -> None:
    """Read the workflow, and update the measurements."""
    text = kubectl("get", "--raw", f"{ARGO}/namespaces/{NAMESPACE}/workflows/{name}")
    found = json.loads(text)
    if (version := found["metadata"]["resourceVersion"]) != seen.version:
        seen.version, seen.changed = version, seen.wall
    status = found.get("status", {})
    seen.phase, seen.message = status.get("phase", ""), status.get("message", "")
    seen.largest = max(seen.largest, len(text))
    seen.packed = max(seen.packed, len(status.get("compressedNodes", "")))
    seen.nodes = nodes_of(found) or seen.nodes


def tell(section: Section, runs: Mapping[str, Seen]) -> None:
    """Add the tables of measured runs."""
    rows: list[Sequence[str]] = [
        (
            label, f"{seen.wall:.0f}", f"{seen.pods:,}", f"{seen.wall / seen.pods:.2f}",
            size(seen.largest), size(seen.packed), f"{seen.packed / seen.pods:.0f} B",
            f"{seen.phase} {seen.message}".strip().replace("|", "/"),
        )
        for label, seen in runs.items()
    ]  # fmt: skip
    head: Sequence[str] = (
        "", "seconds", "pods", "seconds per pod", "largest object", "its packed nodes",
        "packed per pod", "end",
    )  # fmt: skip
    section.tables.append(("", head, rows))
    rows = [
        (f"{label}: {name}", f"{seen.cpu[name]:.0f}", f"{1000 * seen.cpu[name] / seen.pods:.0f}",
         size(seen.memory[name]))
        for label, seen in runs.items() for name in PROGRAMS if name in seen.memory
    ]  # fmt: skip
    if rows:
        head = ("", "CPU seconds", "milliseconds per pod", "most memory")
        section.tables.append(("The control plane:", head, rows))
    kinds = sum((seen.requests for seen in runs.values()), Counter[tuple[str, str]]())
    rows = [
        ("all", *(f"{seen.requests.total() / seen.pods:.1f}" for seen in runs.values())),
        *((f"{verb} {resource}", *(f"{seen.requests[resource, verb] / seen.pods:.2f}"
                                  for seen in runs.values()))
          for (resource, verb), _ in kinds.most_common(MOST)),
    ]  # fmt: skip
    section.tables.append(("Requests to the API server per pod:", ("", *runs), rows))
    found = {label: paces(seen.nodes) for label, seen in runs.items()}
    rows = [
        (label, *(f"{pace:.2f}" for pace in tenths), *[""] * (PACES - len(tenths)))
        for label, tenths in found.items()
    ]
    head = ("", *(f"{number + 1} of {PACES}" for number in range(PACES)))
    section.tables.append(("Seconds per pod over time, by the end of the maps:", head, rows))
    section.bars += [(label, tenths) for label, tenths in found.items() if tenths]
