"""Debian's docker-registry, on an address of this machine, without TLS."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# An installation would start a public registry, so the package is only unpacked.
UNPACK = """
fetch() { apt-get download -qq docker-registry; }
fetch || { apt-get update -qq && fetch; }
dpkg-deb --extract docker-registry_*.deb .
"""


class NoRegistryError(Exception):
    """The package is not available."""


def unpacked() -> Path:
    """The program from Debian's package, which stays in FANFOLD_CACHE."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FANFOLD_CACHE") or Path(home, "fanfold")) / "registry"
    program = folder / "usr/bin/docker-registry"
    if not program.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as new:
            command = ["bash", "-euc", UNPACK]
            done = subprocess.run(command, cwd=new, capture_output=True, check=False, timeout=300)
            if done.returncode:
                reason = done.stderr.decode()
                raise NoRegistryError(f"docker-registry of Debian must be available: {reason}")
            shutil.copytree(new, folder, symlinks=True, dirs_exist_ok=True)
    return program


def answers(address: str) -> bool:
    """Whether a registry answers at this address."""
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run a registry that keeps its images in `folder`, and yield its address. With the file
    `folder`/registries.conf buildah and podman use this registry without TLS. Docker needs no
    setting for addresses of this machine."""
    program = unpacked()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": address},
    }
    (folder / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML, too
    insecure = f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    (folder / "registries.conf").write_text(insecure)
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "registry.yml")], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(address):
            if time.monotonic() > deadline:
                raise TimeoutError((folder / "registry.log").read_text())
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()
