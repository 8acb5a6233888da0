"""Connections of pods with the component network-policy.

The network of the test cluster enforces no policies. During a test, kube-router's controller does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import test_programs
from scenario import ROOT, WORDS, Volume, get, kubectl, model, submit, tool, until

pytestmark = pytest.mark.e2e
COMPONENT = ROOT / "manifests/components/network-policy"
BRIDGE = "fanfold0"
HOST, API_SERVER, OSS = "10.244.0.1", "10.96.0.1", "100.64.0.1"  # the last one represents OSS
SERVE = """
import sys, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
for address, port in zip(sys.argv[1::2], sys.argv[2::2]):
    server = ThreadingHTTPServer((address, int(port)), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""
REACH = """
import json, socket, sys
for name, address in json.loads(sys.argv[1]).items():
    try:
        socket.create_connection(address, 3).close()
        print(name)
    except OSError:
        pass
"""


def start(stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
    """Start a program that ends with the test."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 60)
    stack.callback(process.terminate)
    return process


@pytest.fixture
def enforced(volume: Volume) -> Iterator[None]:
    """Enforce the policies of the cluster, and serve at an address of OSS on this machine."""
    program = shutil.which("network-policies", path=os.environ.get("FANFOLD_BIN"))
    if not program or not Path("/sys/class/net", BRIDGE).exists():
        pytest.skip("not the cluster of these tests: its network may enforce policies or not")
    address = ("dev", BRIDGE, f"{OSS}/32")
    with ExitStack() as stack:
        subprocess.run(["ip", "address", "replace", *address], check=True)
        stack.callback(subprocess.run, ["ip", "address", "delete", *address], check=True)
        places = (OSS, "443", OSS, "80", HOST, "8443")
        server = start(stack, sys.executable, "-c", SERVE, *places)
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        start(
            stack, program, f"--kubeconfig={os.environ['E2E_KUBECONFIG']}", "--enable-ipv6=false",
            "--hostname-override=fanfold", "--service-cluster-ip-range=10.97.0.0/24",
        )  # fmt: skip  # a range without Services: the program does not enforce it
        yield


def pod(name: str, namespace: str, labels: dict[str, str], *places: str) -> dict[str, Any]:
    """A pod that serves at these ports."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": "localhost/fanfold-map:dev",
                    "command": ["python", "-c", SERVE, *places],
                    "workingDir": "/tmp",  # noqa: S108 - of the container
                    "securityContext": {"runAsUser": 0},  # for port 53
                }
            ],
        },
    }


@pytest.fixture
def pods(enforced: None) -> Iterator[None]:
    """A worker, a worker with oss-direct and another pod, in a namespace with the policies, and a
    pod that replaces DNS."""
    worker = {"app.kubernetes.io/part-of": "fanfold"}
    at_8080 = ("0.0.0.0", "8080")  # noqa: S104 - of the container
    at_53 = ("0.0.0.0", "53", "0.0.0.0", "5353")  # noqa: S104
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "network"}},
        pod("worker", "network", worker, *at_8080),
        pod("direct", "network", {**worker, "fanfold.storage": "oss-direct"}, *at_8080),
        pod("other", "network", {}, *at_8080),
        pod("e2e-dns", "kube-system", {"k8s-app": "kube-dns"}, *at_53),
    ]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": made}).encode()
    tool("kubectl", "apply", "-f", "-", stdin=manifest)
    for each in COMPONENT.glob("*-networkpolicy.yaml"):
        tool("kubectl", "apply", "--namespace=network", "-f", str(each))
    yield
    tool("kubectl", "delete", "-f", "-", stdin=manifest, timeout=120)


def address(name: str, namespace: str = "network") -> str:
    """Wait for a pod's address, and return it."""

    def look() -> str:
        found = get("pod", name, f"--namespace={namespace}")
        return str(found["status"].get("podIP", ""))

    return str(until(f"an address of {name}", 120, look))


def reached(name: str, places: dict[str, tuple[str, int]]) -> set[str]:
    """The names of the places that a pod of the namespace reaches."""
    command = ("exec", name, "--namespace=network", "--", "python", "-c", REACH)
    return set(kubectl(*command, json.dumps(places)).split())


@pytest.mark.usefixtures("pods")
def test_pods_reach_what_they_need() -> None:
    """A worker reaches DNS and the API server, and with oss-direct also OSS, only at port 443. No
    pod reaches a worker. Other pods reach everything else, as before."""
    places = {
        "api-server": (API_SERVER, 443),
        "oss": (OSS, 443),
        "oss-plain": (OSS, 80),
        "host": (HOST, 8443),
        "dns": (address("e2e-dns", "kube-system"), 53),
        "dns-elsewhere": (address("e2e-dns", "kube-system"), 5353),
        "other": (address("other"), 8080),
    }
    workers = {name: (address(name), 8080) for name in ("worker", "direct")}

    def other_is_kept_out() -> bool:
        return reached("other", places | workers) == set(places)

    until("no connection to a worker, and all others", 120, other_is_kept_out)
    needed = {"api-server", "dns"}
    until(
        "a worker with only the needed connections", 60, lambda: reached("worker", places) == needed
    )
    until("a connection to OSS", 60, lambda: reached("direct", places) == {*needed, "oss"})


@pytest.mark.usefixtures("enforced")
def test_a_run_under_policies(volume: Volume, log: bytes, checkout: Path) -> None:
    """A run of an overlay with the component succeeds: the executor reaches the API server. A label
    limits the policies to the pods of this test."""
    label = "{op: add, path: /spec/podMetadata/labels/e2e, value: network}"
    selector = "{op: replace, path: /spec/podSelector/matchLabels, value: {e2e: network}}"
    policies = {"kind": "NetworkPolicy", "name": "fanfold(-api-server)?"}
    patches = [
        {"target": {"kind": "WorkflowTemplate", "name": "log-count"}, "patch": f"- {label}"},
        {"target": policies, "patch": f"- {selector}"},
    ]
    last = ["../../components/network-policy"]
    test_programs.apply(checkout, "network", patches=patches, last=last)

    submit("network-log-count", runDir="e2e/network").succeed()

    assert volume.result("e2e/network") == model(log, WORDS)
