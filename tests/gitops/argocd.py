"""A real Argo CD for the tests: its servers are processes of this machine, its objects are in the
namespace argocd of the test cluster. It reads a fork of this repository."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from e2e.scenario import ROOT, tool, until

NAMESPACE = "argocd"
PROGRAMS = Path(os.environ.get("FANFOLD_BIN", ""))
OVERLAY = "manifests/overlays/local"
Object = dict[str, Any]


def kubectl(*arguments: str, stdin: bytes | None = None) -> str:
    """Kubectl in the namespace that the arguments name."""
    return tool("kubectl", *arguments, stdin=stdin, timeout=90).decode()


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def settings() -> list[Object]:
    """The objects that Argo CD needs to start."""
    names = ("cm", "rbac-cm", "cmd-params-cm", "gpg-keys-cm", "ssh-known-hosts-cm", "tls-certs-cm")
    common = {"namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "argocd"}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"argocd-{name}"} | common,
            }
            for name in names
        ),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "argocd-secret"} | common,
            "stringData": {"server.secretkey": "of a local server"},
        },
    ]


def remove_namespace() -> None:
    """Remove the namespace, with objects of failed tests that no controller ends."""
    where = ("--namespace", NAMESPACE)
    for name in kubectl("get", "application,appproject", "--output=name", *where).split():
        kubectl("patch", name, *where, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")


class Fork:
    """A git repository of the working tree's manifests, with a user's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = tool("git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "manifests")
        for name in listed.decode().split():
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        """Run git in the repository, as a test user."""
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        return tool("git", "-C", str(self.folder), *identity, *arguments).decode().strip()

    def commit(self, message: str) -> str:
        """Commit everything; return the revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def revert(self, message: str) -> str:
        """Revert the commit with this message; return the revision."""
        self.git("revert", "--no-edit", f":/^{message}")
        return self.git("rev-parse", "HEAD")

    @contextmanager
    def edit(self, name: str) -> Iterator[Any]:
        """The content of a YAML file in the repository, written back at the end."""
        path = self.folder / name
        content = yaml.safe_load(path.read_text()) if path.exists() else {}
        yield content
        path.write_text(yaml.safe_dump(content))


class ArgoCD:
    """The servers, and their command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis, self.repo_server, self.server = (
            f"127.0.0.1:{free_port()}" for _ in range(3)
        )  # fmt: skip
        self.environment = {
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "KUBECONFIG": os.environ["E2E_KUBECONFIG"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            # https://kubernetes.default.svc is the cluster of the kubeconfig.
            "ARGOCD_FAKE_IN_CLUSTER": "true",
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_RECONCILIATION_JITTER": "0",
        }

    @contextmanager
    def running(self) -> Iterator[ArgoCD]:
        """Start all servers; in the end remove all processes and objects."""
        with ExitStack() as stack:
            crds = [f"--filename={path}" for path in sorted((PROGRAMS / "crds").glob("*-crd.yaml"))]
            stack.callback(kubectl, "delete", "--wait=false", *crds)
            stack.callback(remove_namespace)
            kubectl("apply", "--server-side", *crds)
            objects = {"apiVersion": "v1", "kind": "List", "items": settings()}
            kubectl("apply", "--filename=-", stdin=json.dumps(objects).encode())
            common = ("--redis", self.redis, "--loglevel=warn")
            client = ("--namespace", NAMESPACE, "--kubeconfig", os.environ["E2E_KUBECONFIG"])
            repo = ("--repo-server", self.repo_server, "--repo-server-plaintext")
            _, redis_port = self.redis.split(":")
            _, repo_port = self.repo_server.split(":")
            _, port = self.server.split(":")
            self.start(
                stack, "redis-server", "/usr/bin/redis-server",
                "--bind", "127.0.0.1", "--port", redis_port, "--save", "",
            )  # fmt: skip
            self.start(
                stack, "argocd-repo-server", PROGRAMS / "argocd", *common, "--disable-tls",
                "--address=127.0.0.1", "--port", repo_port, "--metrics-address=127.0.0.1",
                "--metrics-port", str(free_port()),
            )  # fmt: skip
            self.start(
                stack, "argocd-application-controller", PROGRAMS / "argocd", *common, *client,
                *repo, "--app-resync=10", "--metrics-port", str(free_port()),
            )  # fmt: skip
            self.start(
                stack, "argocd-server", PROGRAMS / "argocd", *common, *client, *repo,
                "--insecure", "--disable-auth", "--address=127.0.0.1", "--port", port,
                "--metrics-address=127.0.0.1", "--metrics-port", str(free_port()),
            )  # fmt: skip
            yield self

    def start(self, stack: ExitStack, name: str, program: str | Path, *arguments: str) -> None:
        """Start a server, which ends with the stack. Argo CD's program is the server of its
        name."""
        log = stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [name, *arguments],
            executable=program,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def stop() -> None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

        stack.callback(stop)

    def run(self, *arguments: str, timeout: float = 120) -> str:
        """Run the command line of Argo CD."""
        client = ("--server", self.server, "--plaintext")
        done = subprocess.run(
            ["argocd", *arguments, *client],
            executable=PROGRAMS / "argocd",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout


class Application:
    """The Application fanfold."""

    def get(self) -> Object:
        """The current status of the Application."""
        found: Object = json.loads(
            kubectl("get", "application/fanfold", "--namespace", NAMESPACE, "--output=json")
        ).get("status", {})
        return found

    def state(self) -> tuple[str, str]:
        """The sync status and the health."""
        status = self.get()
        return status.get("sync", {}).get("status", ""), status.get("health", {}).get("status", "")

    def look_at(self, revision: str, timeout: float = 120) -> None:
        """Let Argo CD read the repository now, as a webhook does, and wait for the end."""
        kubectl(
            "annotate", "--overwrite", "--namespace", NAMESPACE, "application/fanfold",
            "argocd.argoproj.io/refresh=normal",
        )  # fmt: skip
        until(
            f"a refresh to {revision}",
            timeout,
            lambda: self.get().get("sync", {}).get("revision") == revision,
        )

    def operation(self, revision: str) -> Object:
        """The last operation, if it has this revision."""
        found: Object = self.get().get("operationState", {})
        return found if found.get("syncResult", {}).get("revision") == revision else {}

    def sync(self, revision: str, timeout: float = 120) -> None:
        """Wait until a revision has been applied."""
        self.look_at(revision)
        ends = ("Succeeded", "Failed", "Error")
        what = f"the end of a sync of {revision}"
        until(what, timeout, lambda: self.operation(revision).get("phase") in ends)
        found = self.operation(revision)
        assert found["phase"] == "Succeeded", found["message"]

    def settle(self, health: str = "Healthy", timeout: float = 180) -> None:
        """Wait until nothing differs from git and the smoke run has ended, in any phase."""
        until(f"Synced and {health}", timeout, lambda: self.state() == ("Synced", health))

    def refusals(self, revision: str, timeout: float = 120) -> str:
        """The errors of a revision that is not synced: fields or objects that are refused."""
        self.look_at(revision)

        def reasons() -> str:
            resources = self.operation(revision).get("syncResult", {}).get("resources", [])
            failed = [each["message"] for each in resources if each["status"] == "SyncFailed"]
            conditions = [each["message"] for each in self.get().get("conditions", [])]
            return "\n".join((*conditions, *failed))

        return str(until(f"a refusal of {revision}", timeout, reasons))

    def delete(self) -> None:
        """Delete the Application and its objects."""
        kubectl("delete", "application/fanfold", "--namespace", NAMESPACE, "--timeout=60s")
