"""Thousands of pods without a cluster: the reports of the stand-in for the kubelet, and how a run
is observed."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from clock import phases
from observe import PAGE, TICKS, Seen, errors, nodes_of, paces, requests, tell, usage
from report import Section, table

HERE = Path(__file__).parent
POD = "/api/v1/namespaces/argo/pods/run-map-1/status"
RESULTS = "/apis/argoproj.io/v1alpha1/namespaces/argo/workflowtaskresults"
# A worker that reports its place, and ends with the code that is set.
WORKER = """
import os, sys
open(os.environ["PLAN_ID_FILE"], "w").write(os.environ["POD_NAME"] + "\\n")
open(os.environ["ERROR_FILE"], "w").write("alas: " + os.environ["WORD"])
print(*os.listdir(os.environ["WORK_DIR"]))
sys.exit(int(os.environ["CODE"]))
"""

Told = list[tuple[str, str, Any]]  # method, path and body of requests


def pod(code: int) -> dict[str, Any]:
    """A pod as Argo makes it, with the settings that the stand-in reads."""
    template = {"outputs": {"parameters": [
        {"name": "planId", "valueFrom": {"path": "/scratch/plan-id"}},
        {"name": "result", "valueFrom": {"path": "/scratch/none", "default": "nothing"}},
    ]}}  # fmt: skip
    variables = {
        "CODE": str(code), "NAME": "x", "WORD": "$(NAME)$$(NAME)$(OTHER)", "WORK_DIR": "/mnt/vol",
        "ERROR_FILE": "/dev/termination-log", "PLAN_ID_FILE": "/scratch/plan-id",
        "ARGO_INCLUDE_SCRIPT_OUTPUT": "true", "ARGO_PROGRESS_FILE": "/var/run/argo/progress",
    }  # fmt: skip
    env: list[dict[str, Any]] = [{"name": name, "value": text} for name, text in variables.items()]
    env.append({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    init = [{"name": "ARGO_TEMPLATE", "value": json.dumps(template)}]
    mounts = {"/mnt/vol": "workdir", "/scratch": "tmp", "/var/run/argo": "var-run-argo"}
    return {
        "metadata": {
            "name": "run-map-1", "namespace": "argo", "uid": "1",
            "labels": {"workflows.argoproj.io/workflow": "run"},
            "annotations": {"workflows.argoproj.io/node-id": "run-1"},
            "ownerReferences": [{"kind": "Workflow", "name": "run", "uid": "2"}],
        },
        "spec": {
            "securityContext": {},
            "volumes": [{"name": "workdir", "persistentVolumeClaim": {"claimName": "pvc-oss"}},
                        {"name": "tmp", "emptyDir": {}}, {"name": "var-run-argo", "emptyDir": {}}],
            "initContainers": [{"name": "init", "image": "argoexec", "env": init}],
            "containers": [
                {"name": "wait", "image": "argoexec"},
                {"name": "main", "image": "map", "env": env, "args": ["worker.py"],
                 "command": ["/var/run/argo/argoexec", "emissary", "--", "python"],
                 "volumeMounts": [{"mountPath": path, "name": name}
                                  for path, name in mounts.items()]},
            ],
        },
        "status": {"phase": "Pending"},
    }  # fmt: skip


@contextmanager
def api_server(pods: list[dict[str, Any]]) -> Iterator[tuple[str, Told, threading.Event]]:
    """Start an API server with these pods. Yield its address, the requests, and an event that is
    set when a pod has ended."""
    told: Told = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.append((self.command, self.path, json.loads(body or "null")))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            if b'"Succeeded"' in body or b'"Failed"' in body:
                ended.set()

        def do_GET(self) -> None:
            # A watch is the only GET request.
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            for each in pods:
                event = {"type": "ADDED", "object": each}
                self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()
            ended.wait(60)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    for method in ("PATCH", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", told, ended
        server.shutdown()


@pytest.mark.parametrize("code", [0, 2])
def test_the_stand_in(code: int, tmp_path: Path) -> None:
    """The worker runs with its pod's environment. The stand-in sends the reports of a kubelet and
    of Argo's executor, in their order. At its end the stand-in deletes the node."""
    volume, programs = tmp_path / "volume", tmp_path / "programs"
    volume.mkdir()
    programs.mkdir()
    (volume / "log.txt").touch()
    (programs / "worker.py").write_text(WORKER)
    with api_server([pod(code)]) as (address, told, ended):
        command = [sys.executable, str(HERE / "kubelet.py"), address, "node"]
        with subprocess.Popen((*command, str(volume), str(programs), "1")) as kubelet:
            assert ended.wait(60)
            kubelet.terminate()
            assert kubelet.wait(60) == 0

    nodes = [each for each in told if each[1].startswith("/api/v1/nodes")]
    assert nodes[0][:2] == ("POST", "/api/v1/nodes")
    assert nodes[-1][:2] == ("DELETE", "/api/v1/nodes/node")
    running, made, outputs, complete, end = (each for each in told if each not in nodes)
    assert (running[:2], running[2]["status"]["phase"]) == (("PATCH", POD), "Running")
    completed = "workflows.argoproj.io/report-outputs-completed"
    assert made[:2] == ("POST", RESULTS)
    assert made[2]["kind"] == "WorkflowTaskResult"
    assert made[2]["metadata"] == {
        "name": "run-1",
        "labels": {"workflows.argoproj.io/workflow": "run", completed: "false"},
        "ownerReferences": [{"kind": "Workflow", "name": "run", "uid": "2"}],
    }
    assert outputs[:2] == complete[:2] == ("PATCH", f"{RESULTS}/run-1")
    assert outputs[2]["outputs"]["result"] == "log.txt"
    found = {each["name"]: each["value"] for each in outputs[2]["outputs"]["parameters"]}
    assert found == {"planId": "run-map-1", "result": "nothing"}
    assert complete[2] == {"metadata": {"labels": {completed: "true"}}}
    assert end[:2] == ("PATCH", POD)
    assert end[2]["status"]["phase"] == ("Failed" if code else "Succeeded")
    states = {each["name"]: each["state"] for each in end[2]["status"]["containerStatuses"]}
    assert states["wait"]["terminated"]["exitCode"] == 0
    main = states["main"]["terminated"]
    assert main["exitCode"] == code
    assert main.get("message") == ("alas: x$(NAME)$(OTHER)" if code else None)


def test_usage(tmp_path: Path) -> None:
    """CPU and memory of the programs of a cluster are found, for any name in /proc/PID/stat."""
    for number, program in (("12", "/bin/kube-apiserver"), ("13", "python")):
        folder = tmp_path / number
        folder.mkdir()
        (folder / "cmdline").write_bytes(program.encode() + b"\0--flag\0")
        fields = ["0"] * 40
        fields[11], fields[12], fields[21] = str(3 * TICKS), str(TICKS), "7"
        (folder / "stat").write_text(f"{number} (odd) name) {' '.join(fields)}")
    (tmp_path / "14").mkdir()  # it has ended
    assert usage(tmp_path) == {("kube-apiserver", 12): (4.0, 7 * PAGE)}


def test_requests() -> None:
    """Requests of a kind are added up, whatever the answer."""
    line = 'apiserver_request_total{{code="{}",resource="{}",subresource="{}",verb="{}"}} {}\n'
    kinds = (
        (200, "pods", "status", "PATCH", 3),
        (409, "pods", "status", "PATCH", "2e+06"),
        (201, "pods", "", "POST", 1),
        (200, "pods", "", "WATCH", 9),
        (200, "", "", "GET", 9),
    )
    found = requests("# TYPE x\n" + "".join(line.format(*kind) for kind in kinds))
    assert found == {("pods/status", "PATCH"): 2_000_003, ("pods", "POST"): 1}


def test_errors() -> None:
    """The errors of a workflow are the texts of Argo's controller, without the rest of a line."""
    log = """
level=WARN msg="Failed to dehydrate" workflow=run-1 error="too long: \\"x\\""
level=WARN msg="Failed to dehydrate" workflow=run-12 error="of another"
level=WARN msg="Error updating workflow" error="too large" reason="" workflow=run-1 namespace=argo
level=INFO msg="Processing workflow" workflow=run-1
level=WARN msg="Error updating workflow" error="too large" reason="" workflow=run-1 namespace=argo
"""
    assert errors(log, "run-1") == ['too long: \\"x\\"', "too large"]


def map_node(second: int) -> dict[str, Any]:
    """A map that ended at this second."""
    ended = f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z"
    return {"type": "Pod", "templateName": "map", "finishedAt": ended}


def test_an_observed_run() -> None:
    """Packed and plain nodes are read alike. The pace is per tenth of the run, of map pods only.
    The table has the last message of the run."""
    seconds = [*range(11), *range(20, 120, 10)]  # a pod a second, then one in ten
    nodes = {str(second): map_node(second) for second in seconds}
    nodes["split"] = {"type": "Pod", "templateName": "split", "finishedAt": "2025-01-01T00:00:00Z"}
    nodes["dag"] = {"type": "DAG"}
    packed = base64.b64encode(gzip.compress(json.dumps(nodes).encode())).decode()
    assert nodes_of({"status": {"compressedNodes": packed}}) == nodes
    assert nodes_of({"status": {"nodes": nodes}}) == nodes
    assert paces(nodes, 2) == [1, 10]
    assert paces({}) == []

    section = Section("x", "X", "")
    seen = Seen(220, "Error", "too | large", 1 << 20, 2200, nodes, {"etcd": 11}, {"etcd": 4096})
    tell(section, {"run": seen})
    text = "\n".join(table(head, rows) for _, head, rows in section.tables)
    assert "| run | 220 | 22 | 10.00 | 1 MiB | 2.15 KiB | 100 B | Error too / large |" in text
    assert "| run: etcd | 11 | 500 | 4 KiB |" in text


def test_phases() -> None:
    """The steps and the times between the steps, by the first and the last pod of a step."""

    def node(step: str, first: int, last: int, kind: str = "Pod") -> dict[str, str]:
        started, finished = (f"2026-01-01T00:00:{second:02}Z" for second in (first, last))
        return {
            "type": kind, "templateName": step, "startedAt": started, "finishedAt": finished,
        }  # fmt: skip

    nodes = [
        node("main", 0, 40, "DAG"), node("split", 1, 4), node("map", 9, 12), node("map", 6, 11),
        node("map", 7, 20), node("reduce", 25, 31),
    ]  # fmt: skip
    status = {**node("", 0, 40), "nodes": dict(enumerate(nodes))}
    assert phases({"status": status}) == [1, 3, 2, 14, 5, 6, 9]
