"""Whether a cluster can be had on this machine, and what mends it where not."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import builds

GO_MINIMUM = (1, 26, 0)
# Bits of the effective set, as linux/capability.h numbers them.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
PACKAGES = Path(__file__).with_name("packages.txt")


def find_problems(to_build: bool) -> list[str]:
    """What is missing on this machine, each as one sentence with its remedy."""
    problems = [*_privilege_problems(), *_package_problems()]
    if to_build:
        problems += go_problems()
    return problems


def _privilege_problems() -> list[str]:
    if os.geteuid():
        return ["The cluster needs root: run it with sudo -E, or as root."]
    found = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        return [
            f"This root lacks {' and '.join(lacking)}: in a container, start it with --privileged."
        ]
    if (
        not Path("/sys/fs/cgroup/memory").is_dir()
        and not Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    ):
        return ["No control groups are mounted at /sys/fs/cgroup: mount -t cgroup2 none there."]
    return []


def _package_problems() -> list[str]:
    if not shutil.which("dpkg-query"):
        return [
            "This is no Debian machine, whose packages the cluster is made of: "
            "set E2E_KUBECONFIG to the kubeconfig of a cluster of your own."
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
    return [f"Debian packages are missing: apt-get install --yes --no-install-recommends {names}"]


def go_problems() -> list[str]:
    """What is wrong with Go, if programs are to be built."""
    wanted = ".".join(map(str, GO_MINIMUM))
    remedy = f"install Go {wanted} or newer (https://go.dev/doc/install) and put it on the PATH."
    if not shutil.which("go"):
        return [f"Go is missing, and {', '.join(builds.missing())} are not built yet: {remedy}"]
    asked = ["go", "env", "GOVERSION", "GOTOOLCHAIN"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    version, _, toolchain = done.stdout.partition("\n")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    # Any other setting lets Go, from 1.21 on, fetch the one that a module asks for.
    if numbers < GO_MINIMUM and (toolchain.strip() == "local" or numbers < (1, 21)):
        return [f"Go is {version}, which is too old: {remedy}"]
    return []
