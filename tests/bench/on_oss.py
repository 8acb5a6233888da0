"""The map in a fake OSS with the latency and the bandwidth of a real OSS."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from cases import Sizes, record_name
from fanfold.names import NEWEST_PLAN
from measure import (
    HERE,
    KEYWORDS,
    MIB,
    ROOT,
    Job,
    Totals,
    environ,
    in_turn,
    measure,
    middle,
    records,
    worker,
    write_log,
)
from report import Section, size

LATENCY, BANDWIDTH = 0.02, 100e6  # seconds, bytes per second of one connection
RUN_DIR = "count-run/"
PROFILE = (
    "CPU seconds. At 16 connections the count of an object takes one whole core, so more "
    "connections do not help. Most of this time is the sum of the two jobs:"
)


@contextmanager
def fake(folder: Path) -> Iterator[str]:
    """Start a fake OSS as a process. Yield its address."""
    command = [sys.executable, str(ROOT / "tests/oss/fake.py"), "--port", "0", "--bucket", "bench"]
    with subprocess.Popen(
        [*command, "--root", str(folder)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                raise SystemExit("the fake OSS did not start")
            yield line.split()[-1]
        finally:
            server.kill()


def post_faults(endpoint: str) -> None:
    """Set a latency and a bandwidth for all later answers."""
    faults = [
        {"fault": "latency", "seconds": LATENCY},
        {"fault": "bandwidth", "rate": BANDWIDTH},
    ]
    request = urllib.request.Request(  # noqa: S310 - our own
        f"{endpoint}/-/faults", json.dumps(faults).encode(), method="POST"
    )
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def oss(sizes: Sizes, folder: Path) -> Section:
    """The map without a mount, compared with a plain download."""
    expected = write_log(folder / "log", sizes.log, records(KEYWORDS), KEYWORDS)
    (folder / "fake").mkdir()
    with fake(folder / "fake") as endpoint:
        client: Any = import_module("oss2")
        auth = client.AuthV4("id", "secret")
        bucket = client.Bucket(auth, endpoint, "bench", region="cn-hangzhou")
        bucket.put_object_from_file("log", str(folder / "log"))
        settings = {
            "OSS_ENDPOINT": endpoint, "OSS_REGION": "cn-hangzhou", "OSS_ACCESS_KEY_ID": "id",
            "OSS_ACCESS_KEY_SECRET": "secret", "INPUT": "log", "RUN_DIR": RUN_DIR,
            "NUM_PARTS": 1, "SPLIT_MODE": "range", "PART_ID": 0,
        }  # fmt: skip

        script, env = worker(folder, "split", **settings)
        there = {**env, "WORK_DIR": "oss://bench"}
        measure(Job("split", [[(script, env)]]), folder)
        measure(Job("split", [[(script, there)]]), folder)
        plan = bucket.get_object(RUN_DIR + NEWEST_PLAN).read()
        key = RUN_DIR + record_name(plan, 0, KEYWORDS)
        post_faults(endpoint)

        def found(_: str) -> Totals:
            counts = json.loads(bucket.get_object(key).read())["counts"]
            bucket.delete_object(key)
            return dict(counts)

        script, _ = worker(folder, "count", **settings)
        plan = (folder / RUN_DIR / NEWEST_PLAN).read_bytes()
        result = folder / RUN_DIR / record_name(plan, 0, KEYWORDS)
        local = lambda _: dict(json.loads(result.read_bytes())["counts"])  # noqa: E731
        jobs = [Job("count, no network", [[(script, env)]], local, [result])]
        for lanes in (1, 4, 16):
            program = (sys.executable, str(HERE / "programs.py"), "oss2", endpoint, str(lanes))
            jobs += [
                Job(f"count, {lanes} at once",
                    [[(script, {**there, "OSS_CONNECTIONS": str(lanes)})]], found),
                Job(f"oss2 download, {lanes} at once", [[(program, environ(folder))]]),
            ]  # fmt: skip
        runs = in_turn(jobs, sizes.repeats, folder, expected)

    section = Section(
        "oss",
        "The map without a mount",
        f"A part of {size(sizes.log)} in a fake OSS on this machine. Each answer takes "
        f"{1000 * LATENCY:.0f} ms, and a connection has {BANDWIDTH / 1e6:.0f} MB/s. The fake runs "
        "on the same cores. The rows compare `OSS_CONNECTIONS` of 1, 4 and 16 with a plain "
        "download of the same bytes by oss2 in as many threads, and with the count of a local "
        "file. One process receives and counts, under one GIL. Where CPU seconds are near the "
        "seconds, more connections do not help. One connection is limited by its own rate. At "
        "most 96 MiB of ranges are in flight. The start of oss2 is part of each row.",
        "MiB/s",
    )
    section.bars = [
        (label, [sizes.log / MIB / run["wall"] for run in found]) for label, found in runs.items()
    ]
    rate = {label: median(values) for label, values in section.bars}
    section.compare(runs, section.unit, {label: f"{value:.0f}" for label, value in rate.items()})
    peak = max(run["peak"] for label, found in runs.items() if "count, " in label for run in found)
    section.target("map from OSS: peak of a worker", "<", 32, peak / MIB, " MiB")
    counting, rows = middle(runs["count, no network"], "cpu"), []
    for lanes, least in ((1, 0.9), (4, 0.75), (16, 0.75)):
        lesser = min(rate["count, no network"], rate[f"oss2 download, {lanes} at once"])
        ratio = rate[f"count, {lanes} at once"] / lesser
        section.target(f"map from OSS, {lanes} at once / CPU or network", ">", least, ratio)
        ours, plain = runs[f"count, {lanes} at once"], runs[f"oss2 download, {lanes} at once"]
        receiving = middle(plain, "cpu")
        took = counting, receiving, counting + receiving, middle(ours, "cpu"), middle(ours, "wall")
        rows.append((f"{lanes} at once", *(f"{seconds:.2f}" for seconds in took)))
    head = ("", "count of a file", "oss2 download", "sum", "count of an object", "wall time")
    section.tables.append((PROFILE, head, rows))
    return section
