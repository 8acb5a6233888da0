"""What the tests say to the cluster: submit a run, look at it, read and write the volume.

All of it goes through kubectl and argo, so that any cluster will do: E2E_KUBECONFIG names it, and
FANFOLD_BIN a folder with the two programs where they are not on the PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "manifests/runs"
NAMESPACE = "argo"


def tool(
    *command: str, stdin: bytes | None = None, timeout: float = 60, check: bool = True
) -> bytes:
    """Run kubectl or argo; the stdout, or an error with what it said."""
    found = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
        env={
            **os.environ,
            "KUBECONFIG": os.environ["E2E_KUBECONFIG"],
            "PATH": f"{os.environ.get('FANFOLD_BIN', '')}:{os.environ['PATH']}",
        },
    )
    if check and found.returncode:
        raise AssertionError(f"{' '.join(command)}: {found.stderr.decode()}")
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

    def __init__(self, name: str) -> None:
        self.name = name

    def get(self) -> dict[str, Any]:
        """The workflow as it is now."""
        found: dict[str, Any] = json.loads(argo("get", self.name, "-o", "json"))
        return found

    def wait(self, timeout: int = 900) -> dict[str, Any]:
        """The workflow once it has ended."""
        try:
            kubectl(
                "wait", f"workflow/{self.name}", "--for=condition=Completed",
                f"--timeout={timeout}s", timeout=timeout + 10,
            )  # fmt: skip
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None
        return self.get()

    def succeed(self, timeout: int = 900) -> dict[str, Any]:
        """The workflow, which must succeed."""
        found = self.wait(timeout)
        assert found["status"]["phase"] == "Succeeded", self.describe()
        return found

    def fail(self, timeout: int = 900) -> dict[str, Any]:
        """The workflow, which must fail."""
        found = self.wait(timeout)
        assert found["status"]["phase"] == "Failed", self.describe()
        return found

    def pods(self, template: str = "") -> list[dict[str, Any]]:
        """The pods that now exist, of one template or all."""
        label = f"-lworkflows.argoproj.io/workflow={self.name}"
        pods: list[dict[str, Any]] = get("pods", label)["items"]
        return [
            pod
            for pod in pods
            if template in pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
        ]

    def describe(self) -> str:
        """What one needs to understand a failure."""
        label = f"-lworkflows.argoproj.io/workflow={self.name}"
        logs, events = (
            tool("kubectl", "-n", NAMESPACE, *words, check=False).decode()
            for words in (
                ("logs", label, "--container=main", "--prefix", "--tail=5"),
                ("get", "events", "--sort-by=.lastTimestamp"),
            )
        )
        return "\n".join([argo("get", self.name), logs, *events.splitlines()[-20:]])


def pods_of(workflow: dict[str, Any]) -> Counter[str]:
    """How many pods a workflow has had, by template."""
    nodes = workflow["status"].get("nodes", {}).values()
    return Counter(
        node.get("templateName") or node["templateRef"]["template"]
        for node in nodes
        if node["type"] == "Pod"
    )


def submit(what: str | Path, **parameters: object) -> Run:
    """Submit a template by name, or a file."""
    source = [str(what)] if isinstance(what, Path) else ["--from", f"workflowtemplate/{what}"]
    chosen = [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]
    return Run(argo("submit", *source, *chosen, "-o", "name").strip())


def submit_variant(template: str, edit: Callable[[dict[str, Any]], None], **parameters: str) -> Run:
    """Submit a template's spec with a change that no parameter makes."""
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


class Volume:
    """The volume, seen through a pod of the project's own that mounts it."""

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
        """The names in a folder, hidden ones included."""
        return self.run("print(*sorted(os.listdir(sys.argv[1])))", folder).decode().split()

    def result(self, run_dir: str = "") -> dict[str, int]:
        """The result.json of a run directory."""
        found: dict[str, int] = json.loads(self.get(os.path.join(run_dir, "result.json")))
        return found


def until(what: str, timeout: float, attempt: Any) -> Any:
    """The first true answer of `attempt`."""
    deadline = time.monotonic() + timeout
    while not (found := attempt()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.3)
    return found


def model(content: bytes, words: Iterator[str] | tuple[str, ...]) -> dict[str, int]:
    """What result.json must be."""
    return {word: content.count(word.encode()) for word in words}
