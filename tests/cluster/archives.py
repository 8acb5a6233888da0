"""Images of single programs as OCI archives, written without a container tool."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
BUSYBOX = Path("/bin/busybox")
ZONES = Path("/usr/share/zoneinfo")
OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """An image of one statically linked program, which is on the PATH by its name."""

    name: str
    program: Path
    command: tuple[str, ...]
    user: str = ""
    # Other names of the program.
    links: tuple[str, ...] = ()
    # Folders of this machine to copy.
    folders: tuple[Path, ...] = ()


def needed(programs: Path) -> list[Image]:
    """The images that every workflow needs, with the users of Argo's images."""
    listing = subprocess.run([BUSYBOX, "--list"], stdout=-1, text=True, check=True, timeout=10)
    return [
        # The sandbox of every pod, and a shell for pods of tests.
        Image(
            "localhost/busybox:dev",
            BUSYBOX,
            ("sleep", "2147483647"),
            links=tuple(name for name in listing.stdout.split() if name != BUSYBOX.name),
        ),
        Image("localhost/argoexec:dev", programs / "argoexec", ("argoexec",)),
        Image(
            "localhost/workflow-controller:dev",
            programs / "workflow-controller",
            ("workflow-controller",),
            user="8737",
            folders=(ZONES,),
        ),
    ]


def write_archive(image: Image, path: Path) -> None:
    """Write the image as a tar of an OCI layout with a single layer."""
    layer = _layer(image)
    config = _json(
        {
            "os": "linux",
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "config": {"Env": ["PATH=/bin"], "User": image.user, "Entrypoint": image.command},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor("config.v1+json", config),
            "layers": [_descriptor("layer.v1.tar", layer)],
        }
    )
    named = {"annotations": {"org.opencontainers.image.ref.name": image.name}}
    index = _descriptor("manifest.v1+json", manifest) | named
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [index]}))
        for blob in (config, manifest, layer):
            _add(tar, f"blobs/{_digest(blob).replace(':', '/')}", blob)


def _layer(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, f"bin/{image.program.name}", image.program.read_bytes(), 0o755)
        for name in image.links:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, image.program.name
            tar.addfile(entry)
        for path in image.folders:
            tar.add(path, path.relative_to("/"))
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{OCI}.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
