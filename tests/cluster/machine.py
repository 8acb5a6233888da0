"""Find and end everything that a cluster has on the machine outside its state folder.

Every process of a cluster, including the processes of its pods, is in one control group. The kernel
records the members: the record outlives a killed caller, and does not contain a process id that
another process has now.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from common import PATH, ClusterError, run

NAME = "fanfold"
BRIDGE = f"{NAME}0"
CGROUPS = Path("/sys/fs/cgroup")
END_TIMEOUT = 30


def start(name: str, argv: Sequence[str | Path], state: Path) -> subprocess.Popen[bytes]:
    """Start a daemon that outlives this process, in the cluster's control group, with its own
    log."""
    group = _lookup_hierarchy() / NAME / "daemons"
    group.mkdir(exist_ok=True)
    # The shell enters the group before it becomes the daemon: all children are in the group.
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    with (state / "log" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            ["/bin/sh", "-c", enter, "sh", *argv],
            cwd=state,
            env={"PATH": PATH, "GOGC": "300"},  # memory is cheaper here than processor time
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # Unprivileged containers must be able to read the files of the daemons.
            umask=0o022,
        )


def running() -> set[str]:
    """The names of the programs that run in the daemons' control group."""
    names = set()
    for process in _members(_lookup_hierarchy() / NAME / "daemons"):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            names.add(Path(os.fsdecode(words[0])).name)
    return names


def end_processes() -> None:
    """Kill everything in the cluster's control group."""
    group = _lookup_hierarchy() / NAME
    deadline = time.monotonic() + END_TIMEOUT
    while members := _members(group):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {sorted(members)} of the cluster outlive SIGKILL")
        handles = {}
        for process in members:
            with contextlib.suppress(ProcessLookupError):
                handles[process] = os.pidfd_open(process)
        # Read the members again: a process in both sets is the process of its handle.
        still = _members(group)
        for process, handle in handles.items():
            if process in still:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        time.sleep(0.1)


def create_groups() -> None:
    """Create the control group in every hierarchy, for the kubelet."""
    for hierarchy in _hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)


def add_bridge(*addresses: str) -> None:
    """Create the bridge that joins the pods to this host."""
    # With a fixed address: otherwise a bridge uses the address of a port and changes it with the
    # pods, and other pods send to the old address for up to a minute.
    run(["ip", "link", "add", BRIDGE, "address", "02:fa:4f:01:d0:01", "type", "bridge"])
    for address in addresses:
        run(["ip", "address", "add", address, "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])


def mounts_below(folder: Path) -> list[str]:
    """The mount points below a folder, the last mounted first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Blanks and similar characters are octal escapes.
        point = os.fsdecode(line.split()[4].encode().decode("unicode_escape").encode("latin-1"))
        if point.startswith(f"{folder}/"):
            found.append(point)
    return found[::-1]


def unmount_below(folder: Path) -> None:
    """Unmount everything below a folder, or fail: the mounts may contain user data."""
    deadline = time.monotonic() + END_TIMEOUT
    while points := mounts_below(folder):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{points[0]} cannot be unmounted: end the processes that `fuser -vm` lists"
            )
        for point in points:
            subprocess.run(["umount", point], capture_output=True, timeout=60)
        time.sleep(0.1)


def remove_traces(state: Path) -> None:
    """Remove the bridge, the control groups and the files that daemons write elsewhere."""
    if Path("/sys/class/net", BRIDGE).exists():
        run(["ip", "link", "delete", BRIDGE])
    for hierarchy in _hierarchies():
        _remove_groups(hierarchy / NAME)
    _remove_stray_files(state)


def _hierarchies() -> list[Path]:
    """The control group hierarchies: one in version 2, one per controller in version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path.parent for path in CGROUPS.glob("*/cgroup.procs")]


def _lookup_hierarchy() -> Path:
    """The hierarchy for finding processes; in version 1 one that limits no process."""
    return CGROUPS if _hierarchies() == [CGROUPS] else CGROUPS / "pids"


def _remove_stray_files(state: Path) -> None:
    """Remove files of this state's pods that cannot be in the state folder."""
    containerd = state / "run/containerd"
    for address in containerd.glob("io.containerd.runtime.v2.task/k8s.io/*/address"):
        Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)
    for sandbox in containerd.glob("io.containerd.grpc.v1.cri/sandboxes/*"):
        for result in Path("/var/lib/cni/results").glob(f"*-{sandbox.name}-*"):
            result.unlink(missing_ok=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{state}/"):
            link.unlink(missing_ok=True)


def _members(group: Path) -> set[int]:
    found: set[int] = set()
    for folder, _, _ in os.walk(group):
        # A group may be removed at any time.
        with contextlib.suppress(OSError):
            found.update(map(int, Path(folder, "cgroup.procs").read_text().split()))
    return found


def _remove_groups(group: Path) -> None:
    deadline = time.monotonic() + END_TIMEOUT
    for folder, _, _ in os.walk(group, topdown=False):
        while Path(folder).exists():
            try:
                os.rmdir(folder)
            except OSError as error:
                # A group is busy until its last killed process has ended.
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"control group {folder} cannot be removed: {error}"
                    ) from None
                time.sleep(0.1)
