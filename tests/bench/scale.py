"""Terabytes on thousands of pods: a table from measured and assumed figures, and a simulation."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Mapping
from math import ceil

from report import Section, size

MIB, TIB, GB, TB = 1 << 20, 1 << 40, 1e9, 1e12

# Argo's and OSS's limits.
STDOUT = 256 << 10  # bytes of output of split that Argo keeps
OBJECT = MIB  # bytes of a workflow with packed nodes
QPS = 10_000  # requests per second of an account; 2,000 for sequential names
BANDWIDTH = 12.5 * GB  # bytes per second of an account: 100 Gbit/s in the best regions


# The figures of the table: name, value if no case has measured the figure, and meaning.
ASSUMED = (
    ("rate", 1.5 * GB, "GB/s: the counting rate of a core", GB),
    ("network", 0.125 * GB, "GB/s: the upper limit of the network of a pod of ECI with 2 vCPU", GB),
    ("start", 10, "s from a pod's creation to its first byte", 1),
    ("creations", 20, "pods per second that Argo creates", 1),
    ("reclaimed", 0.01, "of the pods are lost half-way and retried", 1),
    ("request", 0.02, "s per request to OSS", 1),
    ("lanes", 8, "requests of split and merge in flight", 1),
    ("read", 8 * MIB, "MiB per request of a map", MIB),
    ("requests", 12, "more requests per map, for the plan and the result", 1),
    ("split", 30e-6, "µs per part in split", 1e-6),
    ("merge", 60e-6, "µs per part in merge", 1e-6),
    ("packed", 200, "bytes per part in the packed workflow object", 1),
    ("line", 16, "bytes per part in the plan, which every map reads whole", 1),
    ("vcpu", 0.1764, "CNY per hour for a vCPU of ECI, the list price of October 2025", 1),
    ("memory", 0.0221, "CNY per hour for a GiB of ECI, the list price of October 2025", 1),
    ("control", 0.5, "CPU seconds of controller, API server and etcd per pod, at 2,000 pods", 1),
    ("calls", 20, "requests per pod to the API server", 1),
)
SPOT = (0.1, 0.7)  # of the list price: by the vendor spot saves 30 to 90 %
POD = (2, 2)  # vCPU and GiB of the component eci-spot
Known = dict[str, float]


def simulate(total: float, parts: int, pods: int, known: Known) -> tuple[float, float]:
    """Seconds of the map step, and the most requests per second. Pods are created one by one, start
    and share the bandwidth equally. Some are lost and retried."""
    dice = random.Random(parts)
    part = total / parts + known["line"] * parts
    todo, running, now, created, most = parts, 0, 0.0, 0.0, 0.0
    starting: list[float] = []  # when each pod begins to read
    reading: list[tuple[float, bool]] = []  # per pod: its end in bytes served, and its success
    served = 0.0  # bytes of a pod that reads since the beginning
    while todo or running:
        rate = min(known["rate"], known["network"], BANDWIDTH / max(1, len(reading)))
        most = max(
            most, len(reading) * rate / known["read"] + known["requests"] * known["creations"]
        )
        creation = max(now, created + 1 / known["creations"]) if todo and running < pods else None
        beginning = starting[0] if starting else None
        ending = now + (reading[0][0] - served) / rate if reading else None
        then = min(moment for moment in (creation, beginning, ending) if moment is not None)
        served += rate * (then - now)
        now = then
        if now == ending:
            served, well = heapq.heappop(reading)
            running -= 1
            todo += not well
        elif now == beginning:
            heapq.heappop(starting)
            well = dice.random() >= known["reclaimed"]
            heapq.heappush(reading, (served + part * (1 if well else dice.random()), well))
        else:
            todo, running, created = todo - 1, running + 1, now
            heapq.heappush(starting, now + known["start"] * dice.uniform(0.5, 1.5))
    return now, most


def bound(total: float, parts: int, pods: int, known: Known) -> tuple[float, str]:
    """The least seconds of the map step, and the limit that sets them."""
    part = total / parts + known["line"] * parts
    alone = known["start"] + part / min(known["rate"], known["network"])
    return max(
        (parts / known["creations"], "creation of pods"),
        (ceil(parts / pods) * alone, "the pods"),
        (part * parts / BANDWIDTH, "bandwidth of OSS"),
    )


def measured(sections: Mapping[str, Section]) -> Known:
    """The figures that cases have measured."""
    known = {}
    if "count" in sections:
        known["rate"] = sections["count"].figures["rate"]
    for case in {"split", "merge"} & set(sections):
        seconds = {int(parts): value for parts, value in sections[case].figures.items()}
        few, many = min(seconds), max(seconds)
        known[case] = max(0.0, seconds[many] - seconds[few]) / (many - few)
    for case in ("cluster", "cluster-large", "cluster-2000", "simulated"):
        found = sections[case].figures if case in sections else {}
        wanted = ("packed", "control", "calls") if case != "simulated" else ("packed", "creations")
        known |= {name: found[name] for name in wanted if name in found}
    return known


def costs(total: float, known: Known) -> list[tuple[str, ...]]:
    """The rows of the costs of a run, by its number of parts, with one pod per part."""
    rows: list[tuple[str, ...]] = []
    for parts in (100, 300, 1000, 3000, 5000):
        part = total / parts + known["line"] * parts
        seconds = parts * (known["start"] + part / min(known["rate"], known["network"]))
        price = seconds / 3600 * (POD[0] * known["vcpu"] + POD[1] * known["memory"])
        rows.append((
            f"{parts:,} parts", size(total / parts), f"{seconds / 3600:.2f}",
            f"{known['start'] * parts / seconds:.0%}", f"{price:.2f}",
            f"{SPOT[0] * price:.2f} to {SPOT[1] * price:.2f}",
            f"{known['calls'] * parts:,.0f}", f"{known['control'] * parts:,.0f}",
        ))  # fmt: skip
    return rows


COSTS = (
    "1 TiB", "per part", "pod-hours", "share of starts", "CNY at list price", "CNY on spot",
    "requests to the API server", "CPU seconds of the control plane",
)  # fmt: skip


def stops(parts: int, requests: float, known: Known) -> str:
    """The limits that a row exceeds."""
    printed = len(json.dumps([str(n) for n in range(parts)], separators=(",", ":")))
    over = [
        ("ids over 256 KiB", printed > STDOUT),
        ("workflow over 1 MiB", known["packed"] * parts > OBJECT),
        ("requests over 10,000/s", requests > QPS),
    ]
    return ", ".join(name for name, is_over in over if is_over) or "-"


KNOBS = (
    ("creation of pods", "fewer parts; then the controller's `--qps` and `--burst`"),
    ("the pods", "more pods: `spec.parallelism` (the component `parallelism`), quota, more parts"),
    ("bandwidth of OSS", "more pods do not help: ask the vendor for a higher limit"),
    ("ids over 256 KiB", "fewer, larger parts, or more parts per pod"),
    (
        "workflow over 1 MiB",
        "fewer parts, more parts per pod, or the controller's offloading of node status",
    ),
    ("requests over 10,000/s", "larger reads: fewer, larger parts, the mount's part size"),
)


def scale(sections: Mapping[str, Section]) -> Section:
    """The time and cost of runs of terabytes, from measured and assumed figures."""
    found = measured(sections)
    known = {name: found.get(name, value) for name, value, *_ in ASSUMED}
    sources = [
        (f"{known[name] / unit:.3g} {what}", "measured" if name in found else "assumed")
        for name, _, what, unit in ASSUMED
    ]
    rows, bars = [], []
    for total in (TB, 100 * TB):
        for pods in (100, 1000, 10_000):
            for waves in (1, 10):
                parts = pods * waves
                seconds, requests = simulate(total, parts, pods, known)
                least, limit = bound(total, parts, pods, known)
                label = f"{total / TB:.0f} TB, {pods:,} pods, {parts:,} parts"
                # A cut takes one read, and 16 cuts take two requests to open their file.
                split = parts * (known["split"] + known["request"] * (1 + 2 / 16) / known["lanes"])
                merge = parts * (known["merge"] + known["request"] * 2 / known["lanes"])
                split, merge = split + known["start"], merge + known["start"]  # pods, too
                rows.append((
                    label, size(total / parts), f"{split:.0f}", f"{seconds:.0f}", f"{least:.0f}",
                    limit, f"{merge:.0f}", f"{requests:,.0f}", size(known["packed"] * parts),
                    stops(parts, requests, known),
                ))  # fmt: skip
                bars.append((label, [split + seconds + merge]))
    head = (
        "mode `range`", "per part", "split, s", "map, s", "at least, s", "set by", "merge, s",
        "requests/s, most", "workflow", "stops at",
    )  # fmt: skip
    return Section(
        "scale",
        "Scale, on paper",
        "The map step is simulated pod by pod. Argo creates pods at its rate. A pod "
        "starts, then reads at the rate of its core or of its network. All pods share the "
        f"bandwidth of OSS (at most {BANDWIDTH / GB} GB/s per account, and less in most regions). "
        "Some pods are lost half-way. *At least* is the largest of three bounds without random "
        "events, and *set by* names it. *Stops at* names the limits of Argo and OSS that a row "
        "exceeds.",
        "seconds of split, map and merge",
        tables=[
            ("", head, rows),
            (
                "The cost of a run: pods of ECI, from their start to their end, without traffic "
                "and requests of OSS:",
                COSTS,
                costs(TIB, known),
            ),
            ("What to change at a limit:", ("limit", "change"), KNOBS),
            ("The figures of these tables:", ("figure", "source"), sources),
        ],
        bars=bars,
    )
