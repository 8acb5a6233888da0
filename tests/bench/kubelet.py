"""A stand-in for the kubelet of a simulated node, and for Argo's executor in its pods.

kubelet.py http://127.0.0.1:8001 NODE VOLUME PROGRAMS LANES     # the address of `kubectl proxy`

It creates the node, with a taint that only pods of a simulation tolerate. It runs the command of a
container `main` as a process of this machine, LANES at a time, with the program of the folder
PROGRAMS and the user and environment of the pod. Each claim is the folder VOLUME. It reports the
phases of a kubelet in two requests instead of five, and the task result of Argo's executor with
progress and outputs. Not simulated: limits, probes, deadlines, variables from Secrets.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import reduce
from pathlib import Path

from apiserver import ARGO, CORE, Api, Object, RefusedError

LABEL = "fanfold/simulated"  # of the node, and its taint
CAPACITY = {"cpu": "1000", "memory": "10Ti", "pods": "1000"}
COMPLETED = "workflows.argoproj.io/report-outputs-completed"
NODE_ID, WORKFLOW = "workflows.argoproj.io/node-id", "workflows.argoproj.io/workflow"
HEARTBEAT, PROGRESS = 10, 60  # seconds
STDOUT, MESSAGE = 256 << 10, 2048  # bytes at the end of output and message that are kept


def now() -> str:
    """The time, in the format of Kubernetes."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def environment(pod: Object, container: Object) -> dict[str, str]:
    """The variables of a container, expanded like the kubelet expands them."""
    known: Object = {}

    def expand(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    for each in container.get("env", []):
        known[each["name"]] = re.sub(r"\$\$|\$\(([^)]*)\)", expand, each.get("value", ""))
        if source := each.get("valueFrom"):
            steps = source["fieldRef"]["fieldPath"].split(".")
            known[each["name"]] = reduce(lambda found, step: found[step], steps, pod)
    return known


class Pod:
    """A pod of the node."""

    def __init__(self, api: Api, found: Object, volume: str, programs: str) -> None:
        self.api, self.volume, self.programs = api, volume, programs
        self.found, self.about, self.deleted = found, found["metadata"], False
        self.path = f"{CORE}/namespaces/{self.about['namespace']}/pods/{self.about['name']}"
        results = f"{ARGO}/namespaces/{self.about['namespace']}/workflowtaskresults"
        self.report = f"{results}/{self.about['annotations'][NODE_ID]}"
        self.process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End the process of a deleted pod."""
        self.deleted = True
        if self.process:
            self.process.kill()

    def tell(self, phase: str, started: str, ended: Object) -> None:
        """Report the phase of the pod. Init containers have ended, the others run or have ended."""

        def state(each: Object, ended: Object | None) -> Object:
            found = {"terminated": ended} if ended else {"running": {"startedAt": started}}
            about = {"name": each["name"], "image": each["image"], "imageID": "", "restartCount": 0}
            return {**about, "ready": not ended, "state": found}

        spec, done = self.found["spec"], {"exitCode": 0, "reason": "Completed"}
        inits = [state(each, done) for each in spec["initContainers"]]
        others = [state(each, ended.get(each["name"])) for each in spec["containers"]]
        found: Object = {"initContainerStatuses": inits, "containerStatuses": others}
        found |= {"phase": phase, "startTime": started}
        self.api.ask("PATCH", f"{self.path}/status", {"status": found})

    def run(self, made: Path) -> tuple[int, str, Object]:
        """Run the command of the container `main`. Return exit code, message and outputs."""
        (main,) = (one for one in self.found["spec"]["containers"] if one["name"] == "main")
        # The worker can run as another user, who cannot pass a folder above the claim.
        made.chmod(0o777)
        claims = {v["name"] for v in self.found["spec"]["volumes"] if "persistentVolumeClaim" in v}
        mounts = {mount["mountPath"]: mount["name"] in claims for mount in main["volumeMounts"]}
        here = {path: "/proc/self/cwd" if claim else str(made) for path, claim in mounts.items()}
        here["/dev/termination-log"] = f"{made}/last-words"

        def at(path: str) -> str:
            for mount, folder in here.items():
                if f"{path}/".startswith(f"{mount}/"):
                    return folder + path[len(mount) :]
            return path

        given = environment(self.found, main)
        words = [*main["command"], *main.get("args", [])]
        words = words[words.index("--") + 1 :]  # Argo's program stands before --
        if words[0] == "python":
            words[:2] = [sys.executable, os.path.join(self.programs, words[1])]
        user = self.found["spec"]["securityContext"].get("runAsUser") if os.geteuid() == 0 else None
        self.process = subprocess.Popen(
            words, cwd=self.volume, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **{name: at(text) for name, text in given.items()}},
            user=user, group=user, extra_groups=None if user is None else [],
        )  # fmt: skip
        while True:
            with suppress(subprocess.TimeoutExpired):
                output, log = self.process.communicate(timeout=PROGRESS)
                break
            with suppress(OSError, IndexError):  # there is no progress yet
                told = Path(at(given["ARGO_PROGRESS_FILE"])).read_text().split()[-1]
                self.api.ask("PATCH", self.report, {"progress": told})
        # Argo passes the template to the container init, which stages files.
        init = environment(self.found, self.found["spec"]["initContainers"][0])
        outputs: Object = json.loads(init["ARGO_TEMPLATE"]).get("outputs", {})
        for each in outputs.get("parameters", []):
            with suppress(FileNotFoundError):
                each["value"] = each["valueFrom"].get("default")
                each["value"] = Path(at(each["valueFrom"]["path"])).read_text().removesuffix("\n")
        if given.get("ARGO_INCLUDE_SCRIPT_OUTPUT") == "true":
            outputs["result"] = output.decode().removesuffix("\n")[-STDOUT:]
        said = b"".join(file.read_bytes() for file in made.glob("last-words")) or log
        code = self.process.returncode
        return code if code >= 0 else 128 - code, said[-MESSAGE:].decode(errors="replace"), outputs

    def live(self) -> None:
        """Run the pod, and report to Kubernetes and Argo."""
        started, (results, _, node) = now(), self.report.rpartition("/")
        labels = {WORKFLOW: self.about["labels"][WORKFLOW], COMPLETED: "false"}
        about = {"name": node, "labels": labels, "ownerReferences": self.about["ownerReferences"]}
        kind = {"apiVersion": ARGO.removeprefix("/apis/"), "kind": "WorkflowTaskResult"}
        try:
            self.tell("Running", started, {})
            self.api.ask("POST", results, {**kind, "metadata": about})
            with tempfile.TemporaryDirectory() as made:
                code, said, outputs = self.run(Path(made))
            self.api.ask("PATCH", self.report, {"outputs": outputs})
            self.api.ask("PATCH", self.report, {"metadata": {"labels": {COMPLETED: "true"}}})
            fine = {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": now()}
            bad = {**fine, "exitCode": code, "reason": "Error", "message": said}
            ended = {"wait": fine, "main": bad if code else fine}
            self.tell("Failed" if code else "Succeeded", started, ended)
        except Exception as error:  # no caller waits for this thread
            if not self.deleted:
                print(f"{self.path}: {error!r}", file=sys.stderr, flush=True)


def beat(api: Api, name: str) -> None:
    """Report the node as ready, every few seconds."""
    while True:
        well = {"type": "Ready", "status": "True", "lastHeartbeatTime": now()}
        found = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [well]}
        api.ask("PATCH", f"{CORE}/nodes/{name}/status", {"status": found})
        time.sleep(HEARTBEAT)


def main() -> int:
    """Be a node until SIGTERM."""
    address, name, volume, programs, lanes = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    api, pods, pool = Api(address), dict[str, Pod](), ThreadPoolExecutor(int(lanes))
    taint = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
    about = {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}}
    try:
        with suppress(RefusedError):  # the node exists
            api.ask("POST", f"{CORE}/nodes", {"metadata": about, "spec": {"taints": [taint]}})
        threading.Thread(target=beat, args=(api, name), daemon=True).start()
        while True:
            for kind, found in api.watch(f"{CORE}/pods?fieldSelector=spec.nodeName%3D{name}"):
                uid = found["metadata"]["uid"]
                if uid not in pods and found["status"]["phase"] == "Pending":
                    pods[uid] = Pod(api, found, volume, programs)
                    pool.submit(pods[uid].live)
                if kind == "DELETED" and uid in pods:
                    pods.pop(uid).kill()
                elif uid in pods and "deletionTimestamp" in found["metadata"]:
                    pods[uid].kill()
                    with suppress(RefusedError):  # the API server waits for the kubelet
                        api.ask("DELETE", f"{pods[uid].path}?gracePeriodSeconds=0")
    finally:
        for pod in pods.values():
            pod.kill()
        pool.shutdown(cancel_futures=True)
        api.ask("DELETE", f"{CORE}/nodes/{name}")


if __name__ == "__main__":
    raise SystemExit(main())
