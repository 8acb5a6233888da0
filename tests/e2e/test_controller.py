"""Argo's controller is killed and restarted while one run works and another waits.

All tests share the controller, so this test runs alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from scenario import (
    WORDS,
    Run,
    Volume,
    get,
    kubectl,
    model,
    results_folder,
    submit,
    until,
)

pytestmark = pytest.mark.e2e
CONTROLLER = "deployment/workflow-controller"
POD = "-lapp=workflow-controller"
SEND = """
import os, signal, sys
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if file.read().split(b"\\0")[1:2] == [b"count.py"]:
            os.kill(int(pid), getattr(signal, sys.argv[1]))
            print(pid)
"""


def send(pod: str, signal: str) -> str:
    """Send a signal to the worker in a map pod. Return its process id, or nothing if none runs."""
    command = ("exec", pod, "-c", "main", "--", "python", "-c", SEND, signal)
    return kubectl(*command).strip()


def stop_map(run: Run) -> str:
    """Stop the worker of a map pod of the run. Return the pod's name, or nothing if none runs."""
    for pod in run.pods(".map"):
        name = str(pod["metadata"]["name"])
        with suppress(AssertionError):  # its container has not started
            if send(name, "SIGSTOP"):
                return name
    return ""


@contextmanager
def stopped_map(run: Run) -> Iterator[None]:
    """Stop a map of the run, as on a node that hangs."""
    pod = until("a running map", 300, lambda: stop_map(run))
    try:
        yield
    finally:
        assert send(pod, "SIGCONT")


@contextmanager
def no_controller() -> Iterator[None]:
    """Kill the controller, and restart it at the end."""
    kubectl("scale", CONTROLLER, "--replicas=0")
    try:
        kubectl("delete", "pod", POD, "--force", "--grace-period=0", "--ignore-not-found")
        until("no controller", 120, lambda: not get("pods", POD)["items"])
        yield
    finally:
        kubectl("scale", CONTROLLER, "--replicas=1")
        kubectl("rollout", "status", CONTROLLER, "--timeout=180s", timeout=190)


def test_controller_is_killed(volume: Volume, log: bytes) -> None:
    """The first run's map is stopped. The second run has another input and the same directory, and
    waits for the mutex. After the restart, Argo 3.7.4 and 4.0.5 let the second run start, so the
    first run ends late; other versions may not. In both cases both runs have right results, and
    result.json is the result of the second run, which was created later."""
    run_dir = "e2e/controller"
    # A sparse file of 12 GiB: the map runs for ten seconds or more.
    volume.run(
        "with open('controller.log', 'wb') as file:\n"
        "    for number in range(5):\n"
        "        file.seek(number * 3 << 30)\n"
        "        file.write(b'\\n2026-01-01 [INFO] a line\\n[ERROR] another\\n')\n"
    )
    old = {"INFO": 5, "WARN": 0, "ERROR": 5, "DEBUG": 0}
    first = submit(
        "log-count", input="controller.log", splitMode="range", numParts=1, runDir=run_dir
    )
    with stopped_map(first):
        second = submit("log-count", numParts=2, runDir=run_dir)

        def message() -> str:
            return str(second.get().get("status", {}).get("message", ""))

        until("a wait for the mutex", 120, lambda: "Waiting for" in message())
        with no_controller():
            time.sleep(2)
        deadline = time.monotonic() + 90
        while not second.get()["status"].get("finishedAt") and time.monotonic() < deadline:
            time.sleep(2)
        phase = second.get()["status"].get("phase")
        print(f"when the first run continued, the second was {phase}: {message()}")
    ended = [first.succeed(), second.succeed()]

    assert max(ended, key=results_folder) is ended[1]
    assert [volume.own_result(each, run_dir) for each in ended] == [old, model(log, WORDS)]
    assert volume.result(run_dir) == model(log, WORDS)
