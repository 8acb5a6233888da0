"""Whether a cluster is possible on this machine, and remedies if not."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import builds

GO_MINIMUM = (1, 26, 0)
# Bits of the effective set, from linux/capability.h.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
PACKAGES = Path(__file__).with_name("packages.txt")


def find_problems(to_build: bool) -> list[str]:
    """The problems of this machine, each as one sentence with its remedy."""
    problems = [*_privilege_problems(), *_package_problems()]
    if to_build:
        problems += go_problems()
    return problems


def _privilege_problems() -> list[str]:
    if os.geteuid():
        return ["The cluster must run as root: run it with sudo -E, or as root."]
    found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        return [f"root must have {' and '.join(lacking)}: start the container with --privileged."]
    if (
        not Path("/sys/fs/cgroup/memory").is_dir()
        and not Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    ):
        return ["/sys/fs/cgroup must have control groups: mount -t cgroup2 none /sys/fs/cgroup."]
    return []


def _package_problems() -> list[str]:
    if not shutil.which("dpkg-query"):
        return [
            "The machine must be Debian, because the cluster uses Debian's packages: "
            "set E2E_KUBECONFIG to the kubeconfig of another cluster."
        ]
    missing = []
    for package in PACKAGES.read_text().split():
        asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        if done.stdout != "installed":
            missing.append(package)
    if not missing:
        return []
    names = " ".join(missing)
    return [
        f"Debian packages must be installed: apt-get install --yes --no-install-recommends {names}"
    ]


def go_problems() -> list[str]:
    """The problems of Go, for a build of programs."""
    wanted = ".".join(map(str, GO_MINIMUM))
    remedy = f"install Go {wanted} or newer (https://go.dev/doc/install) and add it to the PATH."
    if not shutil.which("go"):
        return [f"Go must be installed to build {', '.join(builds.missing())}: {remedy}"]
    asked = ["go", "env", "GOVERSION", "GOTOOLCHAIN"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    version, _, toolchain = done.stdout.partition("\n")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    # With any other setting, Go 1.21 or newer downloads the version that a module needs.
    if numbers < GO_MINIMUM and (toolchain.strip() == "local" or numbers < (1, 21)):
        return [f"Go must be {wanted} or newer, got {version}: {remedy}"]
    return []
