"""A bucket on a server of this host, and its mounts, as on the nodes of a cluster."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import clients
from clients import BUCKET, CLIENT
from fake import FakeOSS
from pipeline import Volume

HERE = Path(__file__).parent
FOLDER = "fanfold-mount-"  # and the id of the process that mounts in it
TIMEOUT = 30

KIND = clients.kind_of(CLIENT)
UNCACHED = clients.uncached(KIND)  # the options of the bundle's volume
# The default caches, but not of ossfs2, where they cause wrong totals.
CACHED = UNCACHED if KIND == "ossfs2" else ""
FEW_RETRIES = "" if KIND == "ossfs2" else "retries=1"


def missing() -> str:
    """The error if nothing can be mounted here, with the remedy; empty if it can."""
    if os.geteuid() != 0:
        return "the tests must run as root, which may mount: run them as root"
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse must exist: load the kernel's module fuse"
    return clients.missing()


def wait_for(what: str, attempt: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait until the result of `attempt` is true."""
    deadline = time.monotonic() + timeout
    while not attempt():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    """Start a process that ends with this process, even if this process is killed."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and wait for its end."""
    process.kill()
    process.wait(TIMEOUT)


def mounted(folder: Path) -> list[str]:
    """The mount points at or below a folder, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = (line.split()[1] for line in lines)
    return sorted((at for at in points if Path(at).is_relative_to(folder)), reverse=True)


def unmount(folder: Path) -> None:
    """Unmount everything at or below a folder, even if it is in use."""
    for point in mounted(folder):
        subprocess.run(["umount", "--lazy", point], timeout=TIMEOUT, check=True)


def sweep() -> None:
    """Remove the folders of killed test processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if not Path("/proc", folder.name.removeprefix(FOLDER)).exists():
            unmount(folder)
            shutil.rmtree(folder)


class S3:
    """The S3 server for s3fs, as a separate process."""

    key = ("key", "secret")

    def __init__(self, folder: Path) -> None:
        self._failing = folder / "failing"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> S3:
        """Start the server, and create the bucket."""
        self._server = start(sys.executable, HERE / "serve.py", str(self._port), self._failing)
        try:
            wait_for("the S3 server", self._make)
        except BaseException:
            stop(self._server)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        stop(self._server)

    def _ask(self, method: str, name: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            # The server requires a signature and does not check it.
            signed = {"Authorization": "AWS key:signature"}
            connection.request(method, f"/{BUCKET}/{name}", headers=signed)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _make(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask("PUT")[0] == 200
        return False

    def get(self, name: str) -> bytes:
        """A file in the bucket."""
        status, content = self._ask("GET", name)
        if status != 200:
            raise FileNotFoundError(f"{name}: {status}")
        return content

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Let the server answer 503 during the context."""
        self._failing.touch()
        try:
            yield
        finally:
            self._failing.unlink()


class OSS:
    """The fake OSS for ossfs and ossfs2, in this process."""

    key = ("id", "secret")

    def __init__(self, folder: Path) -> None:
        self._fake = FakeOSS(root=folder, buckets=[BUCKET])
        self.address = self._fake.endpoint

    def __enter__(self) -> OSS:
        """Start the server."""
        self._fake.__enter__()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        """Stop the server."""
        self._fake.__exit__(*of_an_error)

    def get(self, name: str) -> bytes:
        """A file in the bucket."""
        if name not in self._fake.bucket(BUCKET).objects:
            raise FileNotFoundError(name)
        return self._fake.bucket(BUCKET).get(name)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Let the server answer 503 during the context."""
        self._fake.faults.add("error", status=503)
        try:
            yield
        finally:
            self._fake.faults.clear()


class Bucket:
    """A bucket on a server, and a folder for its mounts."""

    def __init__(self, folder: Path, server: S3 | OSS) -> None:
        self.folder, self.server = folder, server

    @classmethod
    @contextlib.contextmanager
    def served(cls) -> Iterator[Bucket]:
        """A new bucket, removed in the end."""
        sweep()
        folder = Path(tempfile.gettempdir(), f"{FOLDER}{os.getpid()}")
        folder.mkdir()
        try:
            with S3(folder) if KIND == "s3fs" else OSS(folder) as server:
                try:
                    yield cls(folder, server)
                finally:
                    unmount(folder)
        finally:
            shutil.rmtree(folder)

    def get(self, name: str) -> bytes:
        """An object of the bucket, read from the server without the cache of a mount."""
        return self.server.get(name)

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """Let the server answer 503 during the context."""
        return self.server.failing()

    @contextlib.contextmanager
    def node(self, name: str, *options: str) -> Iterator[Node]:
        """A node with this bucket mounted."""
        node = Node(self, name, options)
        node.mount()
        try:
            yield node
        finally:
            node.unmount()


class Node:
    """One node: a mount with its own caches."""

    def __init__(self, bucket: Bucket, name: str, options: Sequence[str]) -> None:
        self.bucket, self.root = bucket, bucket.folder / name
        self.root.mkdir(exist_ok=True)
        words = ",".join(filter(None, (clients.owner(KIND), CACHED, *options))).split(",")
        self._options = list(dict.fromkeys(words))  # CACHED can be UNCACHED
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        """Mount the bucket, and wait for the mount."""
        server = self.bucket.server
        command = clients.command(CLIENT, server.address, server.key, self.root, self._options)
        process = self._process = start(*command)
        wait_for(f"the mount {self.root}", lambda: mounted(self.root) or process.poll() is not None)
        if process.returncode is not None:
            raise OSError(f"{CLIENT} ended with {process.returncode}")

    def kill(self) -> None:
        """Kill the mount's process. The folder stays mounted, and every access to it fails."""
        if self._process:
            stop(self._process)
            self._process = None

    def unmount(self) -> None:
        """Kill the mount's process and unmount the folder."""
        self.kill()
        unmount(self.root)

    def remount(self) -> None:
        """Mount again after the mount has died, as kubelet or an operator does."""
        self.unmount()
        self.mount()

    def volume(self, **settings: object) -> Volume:
        """The volume of the workers on this node."""
        return Volume(self.root).having(**settings)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write whole inputs, in a second without other writes: the mount reports times of changes
        in whole seconds."""
        time.sleep(1.02 - time.time() % 1)
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)
