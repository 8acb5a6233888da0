"""The test cluster works as documented. The tests run in the order of this file.

They share one cluster with a separate state, so no other cluster may run on the machine.
"""

import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

CLUSTER = Path(__file__).with_name("cluster.py")
CGROUPS = Path("/sys/fs/cgroup")
GROUP = "fanfold"
BRIDGE = "fanfold0"
HOST_ADDRESS = "10.244.0.1"
IMAGE = "localhost/busybox:dev"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def cluster(*arguments: str | Path, timeout: int = 180) -> subprocess.CompletedProcess[str]:
    """Run a command of cluster.py."""
    return subprocess.run(
        [sys.executable, CLUSTER, *arguments], capture_output=True, text=True, timeout=timeout
    )


def last_value(done: subprocess.CompletedProcess[str]) -> str:
    """The value after NAME= in the last line of a successful command."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].partition("=")[2]


class Client:
    """kubectl and argo against one cluster."""

    def __init__(self, programs: str, kubeconfig: str) -> None:
        """Name the folder of the programs and the kubeconfig."""
        self.programs = Path(programs)
        self.kubeconfig = kubeconfig

    def run(self, *words: str, content: str = "", timeout: int = 90) -> str:
        """Run a command that must succeed; return its stdout."""
        done = self.try_run(*words, content=content, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_run(
        self, program: str, *words: str, content: str = "", timeout: int = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail."""
        return subprocess.run(
            [self.programs / program, *words],
            input=content,
            env={**os.environ, "KUBECONFIG": self.kubeconfig},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.run("kubectl", "create", "-f", "-", content=json.dumps(listed))

    def read(self, *words: str) -> Any:
        """Get an object or a list."""
        return json.loads(self.run("kubectl", "get", *words, "-o", "json"))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of the running cluster of these tests."""
    folder = tmp_path_factory.mktemp("cluster") / "state"
    # `down` of an unknown state fails only if another cluster runs.
    for command in (("check",), ("down", folder)):
        need(cluster(*command))
    done = cluster("up", folder)
    if "must be built: run" in done.stderr:
        need(done)
    assert done.returncode == 0, done.stderr
    yield folder
    cluster("down", "--purge", folder)


def need(done: subprocess.CompletedProcess[str]) -> None:
    """Skip the tests if a command failed; with CI=true fail them."""
    if done.returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(done.stderr.strip())


@pytest.fixture(scope="module")
def client(state: Path) -> Client:
    """A client of the running cluster."""
    return Client(last_value(cluster("build")), f"{state}/kubeconfig")


def pod(name: str, *command: str, **container: Any) -> dict[str, Any]:
    """A pod that the restricted standard admits."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [
                {
                    "name": "main",
                    "image": IMAGE,
                    "command": command,
                    "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
                    **container,
                }
            ],
        },
    }


def test_a_second_up_changes_nothing(state: Path, client: Client) -> None:
    """`up` on a running state is quick and prints the same kubeconfig."""
    started = time.monotonic()
    assert last_value(cluster("up", state)) == client.kubeconfig
    assert time.monotonic() - started < 10


def test_only_the_owner_reads_secrets(state: Path, client: Client) -> None:
    """Only their owner can read tokens and keys."""
    assert state.stat().st_mode & 0o777 == 0o700
    for path in (Path(client.kubeconfig), state / "pki/tokens.csv", *state.glob("pki/*.key")):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_nothing_listens_to_other_machines(client: Client) -> None:
    """Every daemon listens on the loopback device or on the bridge."""
    listening = subprocess.run(
        ["ss", "-Hltnp"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    addresses = [
        line.split()[3].rpartition(":")[0]
        for line in listening.splitlines()
        if any(f"pid={process}," in line for process in members())
    ]
    assert set(addresses) == {"127.0.0.1", HOST_ADDRESS, "10.96.0.1"}


def test_a_second_cluster_is_refused(state: Path, client: Client, tmp_path: Path) -> None:
    """A second cluster on a machine is refused, and the error has the remedy."""
    done = cluster("up", tmp_path / "other")
    assert done.returncode == 1
    assert f"cluster.py down {state}" in done.stderr
    assert not (tmp_path / "other").exists()


def test_no_pod_below_the_restricted_standard(client: Client) -> None:
    """The namespace refuses a pod without a security context."""
    bare = pod("bare", "true")
    del bare["spec"]["securityContext"]
    done = client.try_run("kubectl", "create", "-f", "-", content=json.dumps(bare))
    assert done.returncode == 1
    assert 'violates PodSecurity "restricted' in done.stderr


def test_a_workflow_succeeds(client: Client) -> None:
    """Two steps, admitted under the restricted standard with Argo's default configuration."""
    role = "rbac.authorization.k8s.io"
    client.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker"}},
        {
            "apiVersion": f"{role}/v1",
            "kind": "Role",
            "metadata": {"name": "worker"},
            "rules": [
                {
                    "apiGroups": ["argoproj.io"],
                    "resources": ["workflowtaskresults"],
                    "verbs": ["create", "patch"],
                }
            ],
        },
        {
            "apiVersion": f"{role}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "worker"},
            "roleRef": {"apiGroup": role, "kind": "Role", "name": "worker"},
            "subjects": [{"kind": "ServiceAccount", "name": "worker"}],
        },
    )
    helpers = {
        "initContainers": [{"name": "init", "securityContext": RESTRICTED}],
        "containers": [{"name": "wait", "securityContext": RESTRICTED}],
    }
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "steps"},
        "spec": {
            "entrypoint": "main",
            "serviceAccountName": "worker",
            "securityContext": POD_SECURITY,
            "podSpecPatch": json.dumps(helpers),
            "templates": [
                {
                    "name": "main",
                    "steps": [
                        [{"name": "say", "template": "say"}],
                        [
                            {
                                "name": "hear",
                                "template": "hear",
                                "arguments": {
                                    "parameters": [
                                        {"name": "text", "value": "{{steps.say.outputs.result}}"}
                                    ]
                                },
                            }
                        ],
                    ],
                },
                {"name": "say", "container": main("echo", "hello")},
                {
                    "name": "hear",
                    "inputs": {"parameters": [{"name": "text"}]},
                    "container": main("test", "{{inputs.parameters.text}}", "=", "hello"),
                },
            ],
        },
    }
    client.run("argo", "submit", "--wait", "/dev/stdin", content=json.dumps(workflow))
    assert client.read("workflow/steps")["status"]["phase"] == "Succeeded"


def main(*command: str) -> dict[str, Any]:
    """A step's container."""
    return {
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": command[:1],
        "args": command[1:],
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
    }


def test_workflows_are_validated(client: Client) -> None:
    """The API server checks the full schemas of the CRDs."""
    wrong = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "wrong"},
        "spec": {"entrypoint": "main", "templates": "none"},
    }
    done = client.try_run(
        "kubectl", "create", "--validate=false", "-f", "-", content=json.dumps(wrong)
    )
    assert done.returncode == 1
    assert "spec.templates" in done.stderr


def test_exec_logs_volumes_and_connections_to_the_host(client: Client, tmp_path: Path) -> None:
    """The operations of the end-to-end tests on a pod work."""
    volume, page = tmp_path / "volume", tmp_path / "web/page.txt"
    volume.mkdir()
    volume.chmod(0o777)
    page.parent.mkdir()
    page.write_text("from the host")
    size = {"storage": "1Mi"}
    modes = ["ReadWriteMany"]
    client.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "smoke"},
            "spec": {
                "accessModes": modes,
                "capacity": size,
                "storageClassName": "",
                "hostPath": {"path": str(volume)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "smoke"},
            "spec": {
                "accessModes": modes,
                "resources": {"requests": size},
                "storageClassName": "",
                "volumeName": "smoke",
            },
        },
    )
    shell = pod(
        "shell",
        *("sh", "-c", "echo started; sleep 600"),
        volumeMounts=[
            {"name": "volume", "mountPath": "/volume"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
    )
    shell["spec"]["volumes"] = [
        {"name": "volume", "persistentVolumeClaim": {"claimName": "smoke"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    client.create(shell)
    client.run("kubectl", "wait", "pod/shell", "--for=condition=Ready", "--timeout=60s")
    assert client.run("kubectl", "logs", "shell") == "started\n"
    in_pod = functools.partial(client.run, "kubectl", "exec", "-i", "shell", "--")
    in_pod("sh", "-c", "cat > /volume/file", content="from the pod")
    assert (volume / "file").read_text() == "from the pod"
    in_pod("touch", "/scratch/file")
    refused = client.try_run("kubectl", "exec", "shell", "--", "touch", "/file")
    assert "Read-only file system" in refused.stderr
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer((HOST_ADDRESS, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{HOST_ADDRESS}:{server.server_port}/{page.name}"
        assert in_pod("wget", "-q", "-O", "-", url) == "from the host"
        server.shutdown()
    started = time.monotonic()
    client.run("kubectl", "delete", "pod/shell", "--grace-period=1")
    assert time.monotonic() - started < 15


def test_a_pod_over_its_memory_limit_is_killed(client: Client) -> None:
    """Memory limits are enforced."""
    client.create(pod("greedy", "tail", "/dev/zero", resources={"limits": {"memory": "16Mi"}}))
    client.run(
        *("kubectl", "wait", "pod/greedy", "--timeout=60s"),
        "--for=jsonpath={.status.phase}=Failed",
    )
    ended = client.read("pod/greedy")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_up_after_a_killed_run(state: Path, client: Client) -> None:
    """After all daemons are killed, `up` ends the remaining pods and starts a new cluster."""
    daemons = {process for process in members("daemons") if not is_shim(process)}
    assert len(daemons) == 6
    for process in daemons:
        os.kill(process, signal.SIGKILL)
    left = members() - daemons
    assert left, "the pod of the controller and its shim still run"
    assert last_value(cluster("up", state)) == client.kubeconfig
    assert not left & members()
    names = {item["metadata"]["name"] for item in client.read("pods", "-A")["items"]}
    assert len(names) == 1
    assert all(name.startswith("workflow-controller-") for name in names)


def test_down_leaves_nothing(state: Path, client: Client) -> None:
    """No process, control group, mount, bridge or file outlives `down --purge`."""
    ended = members()
    assert ended
    assert cluster("down", "--purge", state).returncode == 0
    alive = {process for process in ended if is_alive(process)}
    assert not alive
    assert not list(CGROUPS.glob(f"**/{GROUP}"))
    assert str(state) not in Path("/proc/self/mounts").read_text()
    assert not Path("/sys/class/net", BRIDGE).exists()
    assert not state.exists()
    for folder in ("/var/log/containers", "/var/lib/cni/results", "/run/containerd/s"):
        assert not list(Path(folder).glob("*")), folder


def members(group: str = "") -> set[int]:
    """The processes of the cluster, or of one of its control groups."""
    found: set[int] = set()
    root = CGROUPS if (CGROUPS / "cgroup.controllers").exists() else CGROUPS / "pids"
    for path in (root / GROUP / group).rglob("cgroup.procs"):
        found.update(map(int, path.read_text().split()))
    return found


def is_shim(process: int) -> bool:
    """Whether a process is the parent that containerd starts for a pod."""
    return b"containerd-shim" in Path(f"/proc/{process}/cmdline").read_bytes()


def is_alive(process: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
