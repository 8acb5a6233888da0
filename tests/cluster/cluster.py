"""A real one-node Kubernetes with Argo Workflows for tests, without a container registry."""

import argparse
import contextlib
import re
import secrets
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import archives
import builds
import checks
import machine
from common import ClusterError, cache_directory, last_lines, lock, run, say

HERE = Path(__file__).resolve().parent
# The file with the path of the state of this machine's cluster.
RECORD = Path("/run/fanfold-cluster/state")
LOCK_TIMEOUT = 300
# Only a folder with this file may be emptied. The file contains the path of the programs.
MARK = ".fanfold-cluster"
NETWORK = {
    "pod_network": "10.244.0.0/24",
    "host_address": "10.244.0.1",
    "service_network": "10.96.0.0/24",
    # The first service address, at which every pod expects the API server. The bridge has this
    # address and the API server listens there, so no kube-proxy and no firewall rule is needed.
    "api_address": "10.96.0.1",
    "etcd": "http://127.0.0.1:23790",
    "etcd_peer": "http://127.0.0.1:23800",
}
# The users that may log in: the name of the kubeconfig, the user and the group.
USERS = (
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("kubelet", f"system:node:{machine.NAME}", "system:nodes"),
)


class Cluster:
    """A cluster with its state in one folder."""

    def __init__(self, state: Path, argo: str = builds.NEWEST_ARGO) -> None:
        """Describe a cluster with this state, without starting it."""
        self.state = state
        self.programs = builds.bin_directory(argo)
        self.kubeconfig = state / "kubeconfig"
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons on an empty state, then Argo in the cluster."""
        self._write_config()
        machine.create_groups()
        machine.add_bridge(f"{NETWORK['host_address']}/24", f"{NETWORK['api_address']}/32")
        self._start("containerd", "etcd", "kube-apiserver")
        self._wait_for("containerd", 60, lambda: self._ctr("version"))
        for image in archives.needed(self.programs):
            archive = self.state / "image.tar"
            archives.write_archive(image, archive)
            self.load(archive)
            archive.unlink()
        self._wait_for("the API server", 90, lambda: self._kubectl("get", "--raw=/readyz"))
        self._start("kube-controller-manager", "kube-scheduler", "kubelet")
        self._install_argo()
        node = f"node/{machine.NAME}"
        self._wait_for("the node", 90, lambda: self._kubectl("get", node))
        self._wait_for("the node", 90, lambda: self._kubectl_wait(node, "Ready", 5))
        self._wait_for(
            "Argo's controller",
            120,
            lambda: self._kubectl_wait("deployment/workflow-controller", "Available", 5),
        )

    def find_complaint(self) -> str:
        """The problem of a running cluster; empty if it works."""
        if stopped := set(self._commands()) - machine.running():
            return f"{', '.join(sorted(stopped))} not running"
        mark = self.state / MARK
        if not mark.exists() or mark.read_text() != str(self.programs):
            return f"it does not run the programs of {self.programs}"
        try:
            self._kubectl_wait(f"node/{machine.NAME}", "Ready", 5)
            self._kubectl_wait("deployment/workflow-controller", "Available", 5)
        except ClusterError as error:
            return str(error)
        return ""

    def load(self, archive: Path) -> None:
        """Import an image archive and print the names of its images."""
        started = time.monotonic()
        output = self._ctr("images", "import", archive.absolute())
        names = re.findall(r"^unpacking (\S+)", output, re.MULTILINE)
        if not names:
            raise ClusterError(
                f"{archive} must contain an image with a name: save the image under a name"
            )
        say(f"loaded {', '.join(names)} in {time.monotonic() - started:.1f} s")

    def clean(self) -> None:
        """End and remove everything of a cluster outside its state, and all mounts in the state."""
        machine.end_processes()
        machine.unmount_below(self.state)
        machine.remove_traces(self.state)

    def empty(self) -> None:
        """Make the state an empty folder that only its owner can read."""
        if self.state.exists():
            if any(self.state.iterdir()) and not (self.state / MARK).exists():
                raise ClusterError(
                    f"STATE must be a cluster's folder or empty, got {self.state}: choose another"
                )
            if points := machine.mounts_below(self.state):
                raise ClusterError(f"{points[0]} must not be mounted: unmount it first")
            shutil.rmtree(self.state)
        self.state.mkdir(parents=True, mode=0o700)
        (self.state / MARK).write_text(str(self.programs))

    def _install_argo(self) -> None:
        manifests = self.programs / "manifests"
        files = [
            HERE / "argo/argo-namespace.yaml",
            *sorted((manifests / "base/crds/full").glob("argoproj.io_*.yaml")),
            manifests / "base/workflow-controller/workflow-controller-sa.yaml",
            manifests / "base/workflow-controller/workflow-controller-configmap.yaml",
            *(
                manifests / "cluster-install-no-crds/workflow-controller-rbac" / f"{name}.yaml"
                for name in (
                    *("workflow-controller-role", "workflow-controller-rolebinding"),
                    "workflow-controller-clusterrole",
                )
            ),
            HERE / "argo/argo-clusterrolebinding.yaml",
            HERE / "argo/workflow-controller-deployment.yaml",
        ]
        # Not `apply`: the full schemas are too large for its annotation.
        self._kubectl("create", *(f"--filename={file}" for file in files), timeout=180)
        say("Argo's CRDs, roles and controller are applied")

    def _write_config(self) -> None:
        for folder in ("config/cni", "log", "pki", "run"):
            (self.state / folder).mkdir(parents=True)
        values = {**NETWORK, "state": str(self.state), "bridge": machine.BRIDGE}
        values["name"] = machine.NAME
        config = self.state / "config"
        _write(config / "containerd.toml", "containerd.toml", values)
        _write(config / "cni/pods.conflist", "cni.conflist", values)
        _write(config / "kubelet.yaml", "kubelet.yaml", values)
        tokens = self.state / "pki/tokens.csv"
        tokens.touch(mode=0o600)
        with tokens.open("w") as stream:
            for name, user, group in USERS:
                token = secrets.token_hex(32)
                print(f'{token},{user},{name},"{group}"', file=stream)
                path = self.kubeconfig if name == "admin" else config / f"{name}.kubeconfig"
                _write(path, "kubeconfig.yaml", {**values, "user": name, "token": token})
        key = self.state / "pki/service-account.key"
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
        # A self-signed certificate is its own authority: the kubelet accepts only this one.
        pair = self.state / "pki/kubelet-client"
        request = "-x509 -noenc -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 3650"
        purpose = ["-subj", "/CN=kube-apiserver", "-addext", "extendedKeyUsage=clientAuth"]
        files = ["-keyout", f"{pair}.key", "-out", f"{pair}.crt"]
        run(["openssl", "req", *request.split(), *purpose, *files])

    def _commands(self) -> dict[str, list[str]]:
        """The arguments of each daemon."""
        config, pki = self.state / "config", self.state / "pki"
        key = pki / "service-account.key"
        return {
            "containerd": [f"--config={config}/containerd.toml"],
            "etcd": [
                f"--data-dir={self.state}/etcd",
                f"--listen-client-urls={NETWORK['etcd']}",
                f"--advertise-client-urls={NETWORK['etcd']}",
                f"--listen-peer-urls={NETWORK['etcd_peer']}",
                f"--initial-advertise-peer-urls={NETWORK['etcd_peer']}",
                f"--initial-cluster=default={NETWORK['etcd_peer']}",
                # No data outlives the cluster, so it need not wait for the disk.
                "--unsafe-no-fsync",
            ],
            "kube-apiserver": [
                f"--etcd-servers={NETWORK['etcd']}",
                f"--bind-address={NETWORK['api_address']}",
                "--secure-port=443",
                "--endpoint-reconciler-type=none",
                f"--service-cluster-ip-range={NETWORK['service_network']}",
                f"--cert-dir={pki}",
                f"--token-auth-file={pki}/tokens.csv",
                "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                f"--kubelet-client-certificate={pki}/kubelet-client.crt",
                f"--kubelet-client-key={pki}/kubelet-client.key",
                "--kubelet-preferred-address-types=InternalIP",
            ],
            "kube-controller-manager": [
                f"--kubeconfig={config}/controller-manager.kubeconfig",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={pki}/apiserver.crt",
                "--leader-elect=false",
                "--secure-port=0",
                # Two busy cores may delay the heartbeat: do not evict every pod then.
                "--node-monitor-grace-period=300s",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
            "kube-scheduler": [
                f"--kubeconfig={config}/scheduler.kubeconfig",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            "kubelet": [
                f"--config={config}/kubelet.yaml",
                f"--kubeconfig={config}/kubelet.kubeconfig",
                f"--hostname-override={machine.NAME}",
                f"--node-ip={NETWORK['host_address']}",
                f"--root-dir={self.state}/kubelet",
                f"--cert-dir={pki}/kubelet",
            ],
        }

    def _start(self, *names: str) -> None:
        for name in names:
            built = self.programs / name
            program = built if built.exists() else Path("/usr/bin", name)
            self.started[name] = machine.start(name, [program, *self._commands()[name]], self.state)
        say(f"starting {', '.join(names)}")

    def _wait_for(self, what: str, timeout: float, attempt: Callable[[], object]) -> None:
        """Try until it works. If a daemon dies, fail immediately."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                attempt()
                return
            except ClusterError as error:
                for name, process in self.started.items():
                    if process.poll() is not None:
                        log = self.state / "log" / f"{name}.log"
                        raise ClusterError(f"{name} ended; {last_lines(log)}") from None
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{what} was not ready within {timeout:.0f} s (logs: {self.state}/log): "
                        f"{error}"
                    ) from None
            time.sleep(0.2)

    def _kubectl(self, *arguments: str | Path, timeout: float = 60) -> str:
        return run(
            [self.programs / "kubectl", *arguments],
            timeout,
            KUBECONFIG=str(self.kubeconfig),
            KUBECACHEDIR=f"{self.state}/run/kubectl",
        )

    def _kubectl_wait(self, what: str, condition: str, seconds: int) -> None:
        self._kubectl("wait", what, f"--for=condition={condition}", f"--timeout={seconds}s")

    def _ctr(self, *arguments: str | Path) -> str:
        address = f"--address={self.state}/run/containerd.sock"
        return run(["ctr", address, "--namespace=k8s.io", *arguments], timeout=300)


def build(arguments: argparse.Namespace) -> None:
    """Build the missing programs and print their folder."""
    print(f"BIN={builds.build(arguments.components)}")


def up(arguments: argparse.Namespace) -> None:
    """Start a cluster, or check that the cluster of this state works; print the folder of its
    programs and its kubeconfig."""
    started = time.monotonic()
    _demand(checks.find_problems(to_build=False))
    if unbuilt := builds.missing():
        raise ClusterError(f"{', '.join(unbuilt)} must be built: run `cluster.py build` first")
    cluster = Cluster(arguments.state.absolute(), arguments.argo)
    with _lock_machine(cluster) as previous:
        running = machine.running()
        complaint = cluster.find_complaint() if running else "nothing runs"
        if complaint:
            if running:
                say(f"starting a new cluster: {complaint}")
            for found in (previous, cluster):
                found.clean()
            cluster.empty()
            RECORD.write_text(str(cluster.state))
            try:
                cluster.start()
            except BaseException:
                # Only the logs stay, and no half-started cluster.
                cluster.clean()
                raise
    say(f"the cluster is up ({time.monotonic() - started:.1f} s)")
    print(f"BIN={cluster.programs}\nKUBECONFIG={cluster.kubeconfig}")


def down(arguments: argparse.Namespace) -> None:
    """Stop the cluster of this state and remove its traces on the machine."""
    cluster = Cluster(arguments.state.absolute())
    with _lock_machine(cluster) as previous:
        for found in (previous, cluster):
            found.clean()
        if arguments.purge:
            cluster.empty()
            shutil.rmtree(cluster.state)
        RECORD.unlink(missing_ok=True)
    say("the cluster is down")


def load(arguments: argparse.Namespace) -> None:
    """Import image archives into the running cluster."""
    if not RECORD.exists() or "containerd" not in machine.running():
        raise ClusterError("a cluster must run on this machine: run `cluster.py up` first")
    for archive in arguments.archives:
        if not archive.is_file():
            raise ClusterError(
                f"ARCHIVE must be a file, got {archive}: write it with `buildah push` first"
            )
        Cluster(Path(RECORD.read_text())).load(archive)


def check(arguments: argparse.Namespace) -> None:
    """Print whether a cluster is possible here, or with --go whether programs can be built, and
    remedies if not."""
    if arguments.go:
        _demand(checks.go_problems())
        return
    _demand(checks.find_problems(to_build=bool(builds.missing())))
    print("A cluster is possible here.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        text = (function.__doc__ or "").rstrip(".")
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        return command

    names = ", ".join(component.name for component in builds.COMPONENTS)
    add(build).add_argument("components", nargs="*", metavar="COMPONENT", help=f"of {names}")
    for command in (add(up), add(down)):
        default = cache_directory() / "cluster"
        command.add_argument("state", nargs="?", type=Path, default=default, metavar="STATE")
    commands.choices["up"].add_argument(
        "--argo", choices=builds.ARGO, default=builds.NEWEST_ARGO, help="version of Argo Workflows"
    )
    commands.choices["down"].add_argument("--purge", action="store_true", help="remove STATE too")
    add(load).add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    add(check).add_argument("--go", action="store_true", help="check only Go")
    arguments = parser.parse_args(argv)
    # A terminated build must end the compilers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        arguments.function(arguments)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _lock_machine(cluster: Cluster) -> Iterator[Cluster]:
    """Lock this machine's cluster against other commands; yield the last cluster."""
    with lock(RECORD.with_name("lock"), LOCK_TIMEOUT):
        previous = Path(RECORD.read_text()) if RECORD.exists() else cluster.state
        if previous != cluster.state and machine.running():
            raise ClusterError(
                f"only one cluster may run on this machine, got another in {previous}: "
                f"run `cluster.py down {previous}` first"
            )
        yield Cluster(previous)


def _demand(problems: list[str]) -> None:
    if problems:
        raise ClusterError("\n".join(problems))


def _write(path: Path, template: str, values: dict[str, str]) -> None:
    """Write a file that only its owner can read, from a template in the config folder."""
    path.touch(mode=0o600)
    path.write_text(string.Template((HERE / "config" / template).read_text()).substitute(values))


if __name__ == "__main__":
    sys.exit(main())
