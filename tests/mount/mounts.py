"""A bucket on a server of this host, and mounts of it, as the nodes of a cluster have them."""

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
FOLDER = "fanfold-mount-"  # and the id of the process whose mounts lie in it
TIMEOUT = 30

KIND = clients.kind_of(CLIENT)
UNCACHED = clients.uncached(KIND)  # as our volume mounts
# All caches as they come; but with those of ossfs2 totals are wrong.
CACHED = UNCACHED if KIND == "ossfs2" else ""
FEW_RETRIES = "" if KIND == "ossfs2" else "retries=1"


def missing() -> str:
    """What there is to do before anything can be mounted here; empty if nothing."""
    if os.geteuid() != 0:
        return "no root, which alone may mount: run the tests as root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse: load the kernel's module fuse"
    return clients.missing()


def wait_for(what: str, attempt: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait until `attempt` gives something true."""
    deadline = time.monotonic() + timeout
    while not attempt():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one, however this one ends."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)])


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started, and wait for it."""
    process.kill()
    process.wait(TIMEOUT)


def mounted(folder: Path) -> list[str]:
    """Where something is mounted at or below a folder, the innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = (line.split()[1] for line in lines)
    return sorted((at for at in points if Path(at).is_relative_to(folder)), reverse=True)


def unmount(folder: Path) -> None:
    """Unmount all that is mounted at or below a folder, in use or not."""
    for point in mounted(folder):
        subprocess.run(["umount", "--lazy", point], timeout=TIMEOUT, check=True)


def sweep() -> None:
    """Remove what test processes have left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if not Path("/proc", folder.name.removeprefix(FOLDER)).exists():
            unmount(folder)
            shutil.rmtree(folder)


class S3:
    """The S3 server for s3fs, a process of its own."""

    key = ("key", "secret")

    def __init__(self, folder: Path) -> None:
        self._failing = folder / "failing"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> S3:
        """Serve, with a bucket."""
        self._server = start(sys.executable, HERE / "serve.py", str(self._port), self._failing)
        try:
            wait_for("the S3 server", self._make)
        except BaseException:
            stop(self._server)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        stop(self._server)

    def _ask(self, method: str, name: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            # The server wants a signature and checks none.
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
        """It answers 503 meanwhile."""
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
        """Serve."""
        self._fake.__enter__()
        return self

    def __exit__(self, *of_an_error: Any) -> None:
        """End."""
        self._fake.__exit__(*of_an_error)

    def get(self, name: str) -> bytes:
        """A file in the bucket."""
        if name not in self._fake.bucket(BUCKET).objects:
            raise FileNotFoundError(name)
        return self._fake.bucket(BUCKET).get(name)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """It answers 503 meanwhile."""
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
        """A new one; in the end nothing of it is left."""
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
        """What the bucket holds under a name, asked of the server: no mount's cache is between."""
        return self.server.get(name)

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """The server answers 503 meanwhile."""
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
    """One node: a mount with caches of its own."""

    def __init__(self, bucket: Bucket, name: str, options: Sequence[str]) -> None:
        self.bucket, self.root = bucket, bucket.folder / name
        self.root.mkdir(exist_ok=True)
        given = ",".join(filter(None, (clients.owner(KIND), CACHED, *options))).split(",")
        self._options = list(dict.fromkeys(given))  # CACHED can be UNCACHED
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        """Mount the bucket, and wait until it is."""
        server = self.bucket.server
        command = clients.command(CLIENT, server.address, server.key, self.root, self._options)
        process = self._process = start(*command)
        wait_for(f"the mount {self.root}", lambda: mounted(self.root) or process.poll() is not None)
        if process.returncode is not None:
            raise OSError(f"{CLIENT} ended with {process.returncode}")

    def kill(self) -> None:
        """Kill the mount's process. The folder stays mounted, and all access to it fails."""
        if self._process:
            stop(self._process)
            self._process = None

    def unmount(self) -> None:
        """Kill it and clear its folder."""
        self.kill()
        unmount(self.root)

    def remount(self) -> None:
        """As kubelet or an operator does once the mount has died."""
        self.unmount()
        self.mount()

    def volume(self, **settings: object) -> Volume:
        """The volume that the workers on this node see."""
        return Volume(self.root).having(**settings)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Put inputs in place, each as a whole, and in a second of their own: the mount tells the
        time of a change in whole seconds."""
        time.sleep(1.02 - time.time() % 1)
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)
