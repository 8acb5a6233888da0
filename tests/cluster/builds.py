"""The programs of the test cluster, built from pinned Go modules and kept outside the tree."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import ClusterError, cache_directory, last_lines, lock, run, say

GO_BUILD = (
    *("build", "-trimpath", "-p", "2", "-mod=mod"),
    # The linker strips debug information, so the compiler need not produce it.
    "-gcflags=all=-dwarf=false",
)
GO_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    # Use the module's go.mod, not a go.work of its archive or of the user.
    "GOWORK": "off",
    "GOFLAGS": "-buildvcs=false",
    # The compiler may use more memory: its garbage collector takes a share of two cores.
    "GOGC": "400",
}
# Ignore the user's settings of the target.
FOR_HERE = dict.fromkeys(("GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT"), "")
LOCK_TIMEOUT = 3600


@dataclass(frozen=True)
class Component:
    """A Go module at one version, and its programs and folders to keep."""

    name: str
    module: str
    version: str
    packages: tuple[str, ...]
    # Not in the repr, so not in the key: it does not change the programs.
    timeout: int = field(repr=False)
    # Variables that the linker sets to the version, which the programs print.
    version_variables: tuple[str, ...] = ()
    # The published version of modules that go.mod replaces by a folder outside the archive.
    staging_version: str = ""
    # Files that the build needs and the archive lacks: path and text.
    files: tuple[tuple[str, str], ...] = ()
    # Symbolic links that the archive lacks: path and target.
    links: tuple[tuple[str, str], ...] = ()
    # Folders of the module to keep with the programs.
    keep: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A folder name that changes with the version and with the recipe."""
        return f"{self.name}-{self.version}-{_digest(repr((self, GO_BUILD, GO_ENVIRONMENT)))}"

    @property
    def programs(self) -> list[str]:
        """The names of the programs. A single program has the component's name."""
        if len(self.packages) == 1:
            return [self.name]
        return [Path(package).name for package in self.packages]


KUBERNETES = "1.34.4"
ARGO_CD = "v3.2.11"
# A cluster runs one of these.
ARGO = {"4.0": "v4.0.5", "3.7": "v3.7.4"}
NEWEST_ARGO = "4.0"
# The newest version, and the oldest version that renders the bundle.
KUSTOMIZE = {"kustomize": "v5.8.2", "kustomize-oldest": "v5.5.0"}


def _kustomize(name: str, version: str) -> Component:
    return Component(
        name=name,
        module="sigs.k8s.io/kustomize/kustomize/v5",
        version=version,
        packages=(".",),
        timeout=900,
        version_variables=("sigs.k8s.io/kustomize/api/provenance.version",),
    )


def _argo(minor: str, version: str) -> Component:
    module = f"github.com/argoproj/argo-workflows/{version.partition('.')[0]}"
    return Component(
        name=f"argo-workflows-{minor}",
        module=module,
        version=version,
        packages=("./cmd/workflow-controller", "./cmd/argoexec", "./cmd/argo"),
        timeout=2400,
        version_variables=(f"{module}.version",),
        files=(("ui/dist/app/index.html", "<!doctype html>\n"),),
        links=(("workflow/executor/osspecific/signal_linux.go", "signal_darwin.go"),),
        keep=("manifests",),
    )


HERE = Path(__file__).resolve().parent

# In the order in which tests need them.
COMPONENTS = (
    *(_kustomize(name, version) for name, version in KUSTOMIZE.items()),
    *(_argo(minor, version) for minor, version in ARGO.items()),
    Component(
        name="etcd",
        module="go.etcd.io/etcd/server/v3",
        version="v3.6.4",
        packages=(".",),
        timeout=900,
    ),
    Component(
        name="kubernetes",
        module="k8s.io/kubernetes",
        version=f"v{KUBERNETES}",
        packages=(
            "./cmd/kube-apiserver",
            "./cmd/kube-controller-manager",
            "./cmd/kube-scheduler",
            "./cmd/kubelet",
            "./cmd/kubectl",
        ),
        timeout=3600,
        version_variables=(
            "k8s.io/component-base/version.gitVersion",
            "k8s.io/client-go/pkg/version.gitVersion",
        ),
        staging_version="v0." + KUBERNETES.removeprefix("1."),
    ),
    # Enforces NetworkPolicies during a test.
    Component(
        name="network-policies",
        module="github.com/cloudnativelabs/kube-router/v2",
        version="v2.1.0",
        packages=("./cmd/network-policies",),
        timeout=1800,
        files=(("cmd/network-policies/main.go", (HERE / "network-policies.go").read_text()),),
    ),
    # One program for all servers of Argo CD: its name selects the server.
    Component(
        name="argocd",
        module="github.com/argoproj/argo-cd/v3",
        version=ARGO_CD,
        packages=("./cmd",),
        timeout=2400,
        files=(("ui/dist/app/index.html", "<!doctype html>\n"),),
        keep=("manifests/crds",),
    ),
)


def components(argo: str) -> list[Component]:
    """All components of a cluster with this minor version of Argo."""
    others = {f"argo-workflows-{minor}" for minor in ARGO if minor != argo}
    return [c for c in COMPONENTS if c.name not in others]


def bin_directory(argo: str = NEWEST_ARGO) -> Path:
    """The folder of links to the programs of exactly these versions and recipes."""
    return cache_directory() / "bin" / _digest(" ".join(c.key for c in components(argo)))


def component_directory(component: Component) -> Path:
    """The folder of a built component. It exists only if the component is complete."""
    return cache_directory() / "components" / component.key


def missing(names: Sequence[str] = ()) -> list[str]:
    """The names of these components, by default of all, that are not built yet."""
    return [c.name for c in _selected(names) if not component_directory(c).is_dir()]


def build(names: Sequence[str] = ()) -> Path:
    """Build these components, by default all, if they are missing. Return the folder of the
    programs of a cluster with the newest Argo."""
    with lock(cache_directory() / "build.lock", LOCK_TIMEOUT):
        for component in _selected(names):
            started = time.monotonic()
            fresh = not component_directory(component).is_dir()
            if fresh:
                say(f"building {component.name} {component.version} ...")
                _build(component)
            for argo in ARGO:
                if component in components(argo):
                    _link(component, bin_directory(argo))
            how = f"built in {time.monotonic() - started:.0f} s" if fresh else "cached"
            say(f"{component.name} {component.version}: {how}")
    return bin_directory()


def _build(component: Component) -> None:
    final = component_directory(component)
    final.parent.mkdir(parents=True, exist_ok=True)
    # This process has the lock, so such a folder is left from a killed build. Its compiler may
    # still write there, so this build uses a new folder.
    for left in final.parent.glob(f"{component.key}.work-*"):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{component.key}.work-", dir=final.parent))
    source, out = work / "source", work / "out"
    out.mkdir(mode=0o755)
    log = cache_directory() / "log" / f"build-{component.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    go = _Go(component, log, time.monotonic() + component.timeout)
    (work / "go.mod").write_text("module download\n")
    wanted = f"{component.module}@{component.version}"
    downloaded = json.loads(go.run(work, "mod", "download", "-json", wanted))["Dir"]
    # The files of the module cache are read-only; their copies are not.
    shutil.copytree(downloaded, source, copy_function=shutil.copyfile)
    run(["chmod", "-R", "u+w", source])
    if edits := _replacements(json.loads(go.run(source, "mod", "edit", "-json")), component):
        go.run(source, "mod", "edit", *edits)
    for path, text in component.files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    for path, target in component.links:
        (source / path).unlink(missing_ok=True)
        (source / path).symlink_to(target)
    stamps = [f"-X={name}={component.version}" for name in component.version_variables]
    linking = f"-ldflags={' '.join(['-s', '-w', *stamps])}"
    destination = f"{out}/" if len(component.packages) > 1 else str(out / component.programs[0])
    go.run(source, *GO_BUILD, linking, "-o", destination, *component.packages)
    for folder in component.keep:
        shutil.copytree(source / folder, out / folder)
    # The rename comes last: a folder under the final name is complete.
    out.rename(final)
    shutil.rmtree(work)


def _replacements(module: dict[str, Any], component: Component) -> list[str]:
    """Arguments of `go mod edit` that undo replacements by folders outside the archive."""
    edits = []
    for replacement in module.get("Replace") or []:
        name = replacement["Old"]["Path"]
        if not replacement["New"]["Path"].startswith("."):
            continue
        if component.staging_version:
            edits.append(f"-replace={name}={name}@{component.staging_version}")
        else:
            edits.append(f"-dropreplace={name}")
    return edits


@dataclass(frozen=True)
class _Go:
    """The go command for one component: one log, one deadline."""

    component: Component
    log: Path
    deadline: float

    def run(self, folder: Path, *arguments: str) -> str:
        """Run go in a separate process group, which ends with this process."""
        what = f"building {self.component.name} {self.component.version}"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["go", *arguments],
                cwd=folder,
                env={**os.environ, **FOR_HERE, **GO_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,  # in this session: the scheduler may weigh sessions, not processes
            )
        try:
            output, _ = process.communicate(timeout=max(1, self.deadline - time.monotonic()))
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise ClusterError(
                f"{what} took longer than {self.component.timeout} s (see {self.log}): "
                "run it again, which keeps the compiled packages"
            ) from None
        if process.returncode:
            raise ClusterError(
                f"{what} failed at `go {' '.join(arguments[:2])}`; {last_lines(self.log)}"
            )
        return output


def _link(component: Component, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in (*component.programs, *component.keep):
        name = Path(path).name
        link, destination = target / name, component_directory(component) / path
        if link.is_symlink() and link.readlink() == destination:
            continue
        fresh = target / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(destination)
        fresh.replace(link)


def _selected(names: Sequence[str]) -> list[Component]:
    known = {c.name: c for c in COMPONENTS}
    for name in names:
        if name not in known:
            raise ClusterError(
                f"COMPONENT must be one of {', '.join(known)}, got {name!r}: choose one"
            )
    return [c for c in COMPONENTS if not names or c.name in names]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
