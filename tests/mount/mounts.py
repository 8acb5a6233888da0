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

from pipeline import Volume

HERE = Path(__file__).parent
FOLDER = "fanfold-mount-"  # and the id of the process whose mounts lie in it
BUCKET = "bucket"
TIMEOUT = 30

CACHED = ""  # all caches as they come
UNCACHED = "max_stat_cache_size=0"  # as our component oss-volume mounts
USER = "uid=65532,gid=65532,umask=022"  # likewise


def missing() -> str:
    """What there is to do before anything can be mounted here; empty if nothing."""
    if os.geteuid() != 0:
        return "no root, which alone may mount: run the tests as root"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse: load the kernel's module fuse"
    if not shutil.which("s3fs"):
        return "no s3fs: apt-get install s3fs"
    return ""


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


class Bucket:
    """A server with one bucket, and a folder for its mounts."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.keys = folder / "keys"
        self.keys.touch(mode=0o600)
        self.keys.write_text("key:secret")
        self._failing = folder / "failing"

    @classmethod
    @contextlib.contextmanager
    def served(cls) -> Iterator[Bucket]:
        """A new one; in the end nothing of it is left."""
        sweep()
        folder = Path(tempfile.gettempdir(), f"{FOLDER}{os.getpid()}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder.mkdir()
        bucket = cls(folder, port)
        server = start(sys.executable, HERE / "serve.py", str(port), bucket._failing)
        try:
            wait_for("the S3 server", bucket._make)
            yield bucket
        finally:
            unmount(folder)
            stop(server)
            shutil.rmtree(folder)

    def _ask(self, method: str, name: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
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
        """What the bucket holds under a name, asked of the server: no mount's cache is between."""
        status, content = self._ask("GET", name)
        if status != 200:
            raise FileNotFoundError(f"{name}: {status}")
        return content

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """The server answers 503 meanwhile."""
        self._failing.touch()
        try:
            yield
        finally:
            self._failing.unlink()

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
        self._options = ("use_path_request_style,allow_other", USER, *filter(None, options))
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        """Mount the bucket, and wait until it is."""
        own = f"url=http://127.0.0.1:{self.bucket.port},passwd_file={self.bucket.keys}"
        options = ",".join((own, *self._options))
        process = self._process = start("s3fs", BUCKET, self.root, "-f", "-o", options)
        wait_for(f"the mount {self.root}", lambda: mounted(self.root) or process.poll() is not None)
        if process.returncode is not None:
            raise OSError(f"s3fs ended with {process.returncode}")

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
