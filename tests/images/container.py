"""Build images, read their OCI archives, and run them by runc as the pods of the manifests do."""

import gzip
import io
import json
import os
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("split", "map", "reduce")
TAG = "test"
LABELS = {"VERSION": "1.2.3", "REVISION": "0" * 40, "SOURCE_DATE_EPOCH": "1700000000"}
MEBIBYTE = 1 << 20
VOLUME = "/mnt/vol"


@dataclass(frozen=True)
class Image:
    """An image and its unpacked root."""

    digest: str
    config: dict[str, Any]
    layers: tuple[str, ...]
    compressed: int
    root: Path


def build(base: str, folder: Path, *arguments: str) -> None:
    """Run build.sh, with archives in `folder`."""
    settings = os.environ | LABELS | {"BASE": base, "TAG": TAG}
    bash(f"{ROOT}/images/build.sh --archive {folder} {' '.join(arguments)}", settings)


@contextmanager
def own_storage(folder: Path) -> Iterator[None]:
    """Let builders keep images and layers in `folder`, and empty it in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE", str(folder))
        yield
        builder("empty_storage")


def build_from_map(folder: Path) -> Path:
    """Build an image from the Dockerfile in `folder`, layer by layer as podman does by default, and
    return its archive."""
    name, archive = f"localhost/fanfold-own:{TAG}", folder / "own.tar"
    builder(f"build --file {folder}/Dockerfile --tag {name} {folder}; save {name} {archive}")
    return archive


def builder(command: str) -> str:
    """Run a command that uses the functions of images/builder.sh; return its output."""
    return bash(f"source {ROOT}/images/builder.sh; choose_builder; {command}", os.environ)


def bash(command: str, environ: Mapping[str, str]) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        ["bash", "-euc", command],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def unpack(archive: Path, root: Path) -> Image:
    """Read an OCI archive and unpack its layers to `root`."""
    with tarfile.open(archive) as tar:

        def blob(digest: str) -> bytes:
            file = tar.extractfile(f"blobs/{digest.replace(':', '/')}")
            assert file
            return file.read()

        index = tar.extractfile("index.json")
        assert index
        digest = json.load(index)["manifests"][0]["digest"]
        manifest = json.loads(blob(digest))
        compressed = 0
        for layer in manifest["layers"]:
            content = blob(layer["digest"])
            # A docker daemon saves layers uncompressed; a registry has them compressed.
            gzipped = content.startswith(b"\x1f\x8b")
            compressed += len(content if gzipped else gzip.compress(content))
            plain = gzip.decompress(content) if gzipped else content
            with tarfile.open(fileobj=io.BytesIO(plain)) as files:
                files.extraction_filter = lambda member, _path: member
                files.extractall(root)  # noqa: S202
        return Image(
            digest,
            json.loads(blob(manifest["config"]["digest"])),
            tuple(layer["digest"] for layer in manifest["layers"]),
            compressed,
            root,
        )


def bundle(
    image: Image,
    volume: Path,
    arguments: tuple[str, ...],
    environ: Mapping[str, str],
    networks: tuple[str, ...],
) -> dict[str, Any]:
    """The runtime's config.json: the settings of a pod of the manifests, and an empty network, or
    this machine's network if `networks` is empty.

    It sets no rlimits and no score for the out-of-memory killer: to raise them needs a right that
    a test machine may lack.
    """
    config = image.config["config"]
    uid, gid = map(int, config["User"].split(":"))
    capabilities: dict[str, list[str]] = {
        kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": uid, "gid": gid},
            "args": [*config.get("Entrypoint", ()), *(arguments or config["Cmd"])],
            "env": [*config["Env"], *(f"{key}={value}" for key, value in environ.items())],
            "cwd": config["WorkingDir"],
            "capabilities": capabilities,
            "noNewPrivileges": True,
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {
                "destination": VOLUME,
                "source": str(volume),
                "options": ["bind", "rw", "nosuid", "nodev", "noexec"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", *networks)],
        },
    }


class Container:
    """A container from start to end. The context manager ends it."""

    def __init__(
        self,
        image: Image,
        volume: Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        networks: tuple[str, ...] = ("network",),
    ) -> None:
        """Describe a container of `image`, with `arguments` instead of its default command."""
        self.name = f"fanfold-{uuid.uuid4().hex}"
        self.folder = tempfile.TemporaryDirectory()
        self.config = bundle(image, volume, arguments, environ or {}, networks)

    def __enter__(self) -> "Container":
        """Start it."""
        Path(self.folder.name, "config.json").write_text(json.dumps(self.config))
        self.process = subprocess.Popen(
            [*self.runc("run"), "--bundle", self.folder.name, self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.control("delete", "--force")
        self.process.communicate(timeout=30)
        self.folder.cleanup()

    def runc(self, *arguments: str) -> list[str]:
        """A runc command, with its state in a separate folder."""
        return ["runc", "--root", os.path.join(self.folder.name, "state"), *arguments]

    def control(self, verb: str, *arguments: str) -> None:
        """A runc command about this container, such as `kill`."""
        options = [argument for argument in arguments if argument.startswith("--")]
        rest = [argument for argument in arguments if not argument.startswith("--")]
        command = [*self.runc(verb), *options, self.name, *rest]
        subprocess.run(command, capture_output=True, check=False, timeout=30)

    def wait(self, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """The exit code and the output of the container."""
        output, errors = self.process.communicate(timeout=timeout)
        return subprocess.CompletedProcess([], self.process.returncode, output, errors)


def run(
    image: Image, volume: Path, *arguments: str, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a container to its end, with the settings `environ`."""
    with Container(image, volume, *arguments, environ=environ) as container:
        return container.wait()
