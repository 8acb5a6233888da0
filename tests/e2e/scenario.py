"""Helpers for the cluster: submit a run, read its state, read and write the volume.

They use only kubectl and argo, so they work on any cluster: E2E_KUBECONFIG names the cluster, and
FANFOLD_BIN a folder with the two programs if they are not on the PATH.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "argo"
WORDS = ("INFO", "WARN", "ERROR", "DEBUG")  # log-count's default keywords


def environment() -> dict[str, str]:
    """The environment in which a command finds kubectl, argo and the cluster."""
    return {
        **os.environ,
        "KUBECONFIG": os.environ["E2E_KUBECONFIG"],
        "PATH": f"{os.environ.get('FANFOLD_BIN', '')}:{os.environ['PATH']}",
    }


def tool(*command: str, stdin: bytes | None = None, timeout: float = 60, cwd: Path = ROOT) -> bytes:
    """Run a command that finds kubectl, argo and the cluster. Return its stdout; AssertionError
    with its output if it fails."""
    found = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env=environment(),
    )
    if found.returncode:
        output = (found.stdout + found.stderr).decode()
        raise AssertionError(f"{' '.join(command)}:\n{output}")
    return found.stdout


def kubectl(*arguments: str, stdin: bytes | None = None, timeout: float = 60) -> str:
    """Kubectl in the namespace of the bundle."""
    return tool("kubectl", "-n", NAMESPACE, *arguments, stdin=stdin, timeout=timeout).decode()


def get(*arguments: str) -> Any:
    """An object, or a list of objects."""
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def argo(*arguments: str, timeout: float = 60) -> str:
    """Argo in the namespace of the bundle."""
    return tool("argo", "-n", NAMESPACE, *arguments, timeout=timeout).decode()


class Run:
    """A workflow that was submitted."""

    made: ClassVar[list[Run]] = []  # by the current test

    def __init__(self, name: str) -> None:
        self.name = name
        self.made.append(self)

    def get(self) -> dict[str, Any]:
        """The current state of the workflow."""
        found: dict[str, Any] = json.loads(argo("get", self.name, "-o", "json"))
        return found

    def wait(self, timeout: int = 900) -> dict[str, Any]:
        """Wait for the end of the workflow, and return its state."""
        for is_last in (False, False, True):
            try:
                kubectl(
                    "wait", f"workflow/{self.name}", "--for=condition=Completed",
                    f"--timeout={timeout}s", timeout=timeout + 10,
                )  # fmt: skip
                break
            except AssertionError as error:
                # The server's cache may not have a new object yet.
                if is_last or "(NotFound)" not in str(error):
                    raise
                time.sleep(2)
        return self.get()

    def end(self, phase: str, timeout: int = 900) -> dict[str, Any]:
        """Wait for the end of the workflow, which must be in this phase."""
        found = self.wait(timeout)
        status = found["status"]
        assert status["phase"] == phase, f"{self.name}: {status['phase']}: {status.get('message')}"
        return found

    def succeed(self, timeout: int = 900) -> dict[str, Any]:
        """Wait for the end of the workflow, which must succeed."""
        return self.end("Succeeded", timeout)

    def fail(self) -> dict[str, Any]:
        """Wait for the end of the workflow, which must fail."""
        return self.end("Failed")

    def pods(self, template: str = "") -> list[dict[str, Any]]:
        """The current pods, of one template or all."""
        label = f"-lworkflows.argoproj.io/workflow={self.name}"
        pods: list[dict[str, Any]] = get("pods", label)["items"]
        return [
            pod
            for pod in pods
            if template in pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
        ]

    def keep(self, folder: Path) -> None:
        """Write files that explain a failure. A file that cannot be made contains the error."""
        label = f"-lworkflows.argoproj.io/workflow={self.name}"
        words = {
            "argo-get.txt": ("argo", "get", self.name, "--no-color"),
            "workflow.json": ("argo", "get", self.name, "-o", "json"),
            "events.txt": ("kubectl", "get", "events", "--sort-by=.lastTimestamp"),
            "pods.txt": ("kubectl", "describe", "pods", label),
            "logs.txt": (
                *("kubectl", "logs", label, "--all-containers", "--tail=-1"),
                *("--prefix", "--timestamps", "--ignore-errors"),
            ),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, command in words.items():
            try:
                found = tool(*command, f"--namespace={NAMESPACE}")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                found = str(error).encode()
            if name == "events.txt":
                found = b"".join(
                    line for line in found.splitlines(True) if self.name.encode() in line
                )
            (folder / name).write_bytes(found)


def pods_of(workflow: dict[str, Any]) -> Counter[str]:
    """The number of pods that a workflow has had, by template."""
    nodes = workflow["status"].get("nodes", {}).values()
    return Counter(
        node.get("templateName") or node["templateRef"]["template"]
        for node in nodes
        if node["type"] == "Pod"
    )


def results_folder(workflow: dict[str, Any]) -> str:
    """The name of a workflow's folder in results/."""
    created = re.sub("[-:]", "", workflow["metadata"]["creationTimestamp"])
    return f"{created}-{workflow['metadata']['uid']}"


def outputs_of(workflow: dict[str, Any]) -> dict[str, str]:
    """The output parameters of a workflow, which must equal the outputs of its template `main`."""
    status = workflow["status"]
    (main,) = (node for node in status["nodes"].values() if node["name"] == node["displayName"])
    found, same = (
        {each["name"]: each["value"] for each in outputs["parameters"]}
        for outputs in (status["outputs"], main["outputs"])
    )
    assert found == same
    return found


def submit(template: str, **parameters: object) -> Run:
    """Submit a template by name."""
    chosen = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    source = f"workflowtemplate/{template}"
    return Run(argo("submit", "--from", source, *chosen, "-o", "name").strip())


def submit_variant(template: str, edit: Callable[[dict[str, Any]], None], **parameters: str) -> Run:
    """Submit a template's spec with a change by `edit`."""
    spec = get("workflowtemplate", template)["spec"]
    for parameter in spec["arguments"]["parameters"]:
        parameter["value"] = parameters.get(parameter["name"], parameter["value"])
    edit(spec)
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": f"{template}-variant-"},
        "spec": spec,
    }
    made = kubectl("create", "-f", "-", "-o", "name", stdin=json.dumps(workflow).encode())
    return Run(made.strip().rpartition("/")[2])


def template_of(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """One template of a workflow's spec."""
    found: dict[str, Any] = next(one for one in spec["templates"] if one["name"] == name)
    return found


def at_volume(text: str) -> str:
    """The text with the folder of this cluster's volume."""
    return text.replace("/var/local/fanfold", os.environ.get("E2E_VOLUME", "/var/local/fanfold"))


class Volume:
    """The volume, accessed by a pod of the tests."""

    POD = "toolbox"

    def run(self, script: str, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run Python in the pod, in the volume's root."""
        prelude = f"import os, sys; os.chdir('/mnt/vol'); sys.argv[1:] = {list(arguments)!r}\n"
        return tool(
            "kubectl", "-n", NAMESPACE, "exec", "-i", self.POD, "--",
            "python", "-c", prelude + script, stdin=stdin, timeout=300,
        )  # fmt: skip

    def put(self, name: str, content: bytes) -> None:
        """Write a file."""
        self.run(
            "os.makedirs(os.path.dirname(sys.argv[1]) or '.', exist_ok=True)\n"
            "open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())",
            name,
            stdin=content,
        )

    def get(self, name: str) -> bytes:
        """Read a file."""
        return self.run("sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())", name)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, including hidden ones."""
        return self.run("print(*sorted(os.listdir(sys.argv[1])))", folder).decode().split()

    def files(self, folder: str) -> list[str]:
        """The names of all files below a folder, relative to it."""
        script = (
            "from pathlib import Path\n"
            "below = Path(sys.argv[1])\n"
            "found = (path.relative_to(below) for path in below.rglob('*') if path.is_file())\n"
            "print(*sorted(map(str, found)))"
        )
        return self.run(script, folder).decode().split()

    def join(self, folder: str, files: int) -> str:
        """The content of the files 0.txt, 1.txt, ... in the order of their numbers."""
        names = (f"{folder}/{number}.txt" for number in range(files))
        script = "print(end=''.join(open(name).read() for name in sys.argv[1:]))"
        return self.run(script, *names).decode()

    def result(self, run_dir: str = "") -> dict[str, int]:
        """The result.json of a run directory."""
        found: dict[str, int] = json.loads(self.get(os.path.join(run_dir, "result.json")))
        return found

    def own_result(self, workflow: dict[str, Any], run_dir: str = "") -> dict[str, int]:
        """The result.json in the workflow's folder in results/, which must equal its output
        parameters."""
        name = os.path.join(run_dir, "results", results_folder(workflow), "result.json")
        found: dict[str, int] = json.loads(self.get(name))
        outputs = outputs_of(workflow)
        assert os.path.normpath(outputs["resultPath"]) == f"/mnt/vol/{os.path.normpath(name)}"
        assert json.loads(outputs["result"]) == found
        return found


def own_join(volume: Volume, workflow: dict[str, Any], run_dir: str = ".") -> str:
    """The result.txt in the workflow's folder in results/, which must match its output
    parameters."""
    name = f"{run_dir}/results/{results_folder(workflow)}/result.txt"
    content = volume.get(name)
    outputs = outputs_of(workflow)
    assert os.path.normpath(outputs["resultPath"]) == os.path.normpath(f"/mnt/vol/{name}")
    digest = f"sha256:{sha256(content).hexdigest()}"
    assert json.loads(outputs["result"]) == {"bytes": len(content), "digest": digest}
    return content.decode()


def check_three_levels(volume: Volume, run: Run, levels: list[int], run_dir: str = ".") -> None:
    """Check a run of process-data: a pod per pair, a tree of three levels, and the letters of
    prepare-data in order, each exactly once."""
    folder = f"{run_dir}/aggregation-demo"
    found = run.get()
    tree = argo("get", run.name, "--no-color")
    steps = ("process-data-l1", "process-data-l2", "merge-data")

    assert re.fullmatch(r"[A-Z]+", expected := volume.join(f"{folder}/l1", 2 * levels[0]))
    assert volume.get(f"{folder}/result.txt").decode() == expected
    assert own_join(volume, found, run_dir) == expected
    assert found["status"]["progress"] == f"{sum(levels)}/{sum(levels)}"
    assert pods_of(found) == {"process-data": sum(levels[:2]), "merge-data": 1}
    assert [len(re.findall(rf"✔ {step}\(", tree)) for step in steps] == levels


def until(what: str, timeout: float, attempt: Any) -> Any:
    """Call `attempt` until its result is true; return the result."""
    deadline = time.monotonic() + timeout
    while not (found := attempt()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(1)  # each attempt costs a tenth of a second of a core that the pods need
    return found


def first_pod(run: Run, template: str, phases: set[str]) -> tuple[str, str, str]:
    """Name, uid and node name of the first pod of the template in one of these phases. A watch,
    because a pod of a small part lives for only three seconds."""
    names = "{.metadata.name} {.metadata.uid} {.status.phase} "
    names += r"{.metadata.annotations.workflows\.argoproj\.io/node-name}"
    options = ("--watch", "--request-timeout=600s", f"-o=jsonpath={names}{{'\\n'}}")
    label = f"-lworkflows.argoproj.io/workflow={run.name}"
    command = ("kubectl", "-n", NAMESPACE, "get", "pods", label, *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as watch:
        assert watch.stdout
        for line in watch.stdout:
            name, uid, phase, node = line.rstrip("\n").split(" ", 3)
            if template in node and phase in phases:
                watch.kill()
                return name, uid, node
    raise AssertionError(f"not within 600 s: a pod of {template} in {phases}")


def kill(run: Run, template: str, phases: set[str]) -> None:
    """Delete a pod of the run by force, and wait for the pod that replaces it: a new pod with the
    same name, or a pod of the next attempt."""
    name, uid, node = first_pod(run, template, phases)
    kubectl("delete", "pod", name, "--force", "--grace-period=0")
    # Attempts of the same part or step: x.map(0:0)(0), (1), ...
    step, _, attempt = node.removesuffix(")").rpartition("(")

    def replaced() -> bool:
        nodes = run.get()["status"].get("nodes", {}).values()
        attempts = sum(node["name"].startswith(f"{step}(") for node in nodes)
        pods = (pod["metadata"] for pod in run.pods(template))
        return attempts > int(attempt) + 1 or any(
            pod["name"] == name and pod["uid"] != uid for pod in pods
        )

    until(f"a pod that replaces {name}", 600, replaced)


def model(content: bytes, words: Iterator[str] | tuple[str, ...]) -> dict[str, int]:
    """The expected content of result.json."""
    return {word: content.count(word.encode()) for word in words}
