"""The program that mounts the bucket (s3fs, or the ossfs or ossfs2 in MOUNT_CLIENT), and the mount
options of the bundle's volume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

COMPONENTS = Path(__file__).parents[2] / "manifests/components"
REGION = "cn-hangzhou"  # of the fake OSS
BUCKET = "bucket"

CLIENT = os.environ.get("MOUNT_CLIENT") or "s3fs"
# The options for the rights of users. All other options are about caches or sizes.
OWNER = {"allow_other", "uid", "gid", "umask", "file_mode", "dir_mode"}


def kind_of(client: str) -> str:
    """The kind of a client, by its name: ossfs2, ossfs or s3fs, or empty."""
    name = Path(client).name
    return next((each for each in ("ossfs2", "ossfs", "s3fs") if name.startswith(each)), "")


def missing(client: str = CLIENT) -> str:
    """The error if this client cannot be started, with the remedy; empty if it can."""
    if shutil.which(client) and kind_of(client):
        return ""
    if client == "s3fs":
        return "s3fs must be installed: apt-get install s3fs"
    return (
        f"MOUNT_CLIENT must be the path of ossfs or ossfs2, got {client!r}: set it to such a path"
    )


def of_volume(kind: str) -> list[str]:
    """The mount options of the bundle's volume for a client, from the manifests."""
    if kind == "ossfs2":
        path = "oss-volume-ossfs2/client/patches/persistentvolume.ossfs2.yaml"
        patch = yaml.safe_load((COMPONENTS / path).read_text())
        (text,) = (each["value"] for each in patch if each["path"].endswith("/otherOpts"))
    else:
        path = "oss-volume/pv-oss-persistentvolume.yaml"
        volume = yaml.safe_load((COMPONENTS / path).read_text())
        text = volume["spec"]["csi"]["volumeAttributes"]["otherOpts"]
    return [each for each in text.split() if each != "-o"]


def owner(kind: str) -> str:
    """The options of every mount: the rights of users."""
    return ",".join(each for each in of_volume(kind) if each.partition("=")[0] in OWNER)


def uncached(kind: str) -> str:
    """The other options of the volume. s3fs does not know them: one option replaces them."""
    if kind == "s3fs":
        return "max_stat_cache_size=0"
    return ",".join(each for each in of_volume(kind) if each.partition("=")[0] not in OWNER)


def command(
    client: str, address: str, key: tuple[str, str], root: Path, options: Sequence[str]
) -> list[str]:
    """The command that mounts the bucket at `root` with these options, in the foreground. Writes
    the file with the key next to `root`; for ossfs2 this file is also its configuration."""
    secret = root.with_name(f"{root.name}.conf")
    secret.touch(mode=0o600)
    if kind_of(client) == "ossfs2":
        own = {
            "oss_endpoint": address,
            "oss_bucket": BUCKET,
            "oss_region": REGION,
            "oss_access_key_id": key[0],
            "oss_access_key_secret": key[1],
            "log_dir": f"{root}.log",
            "f": "true",
        }
        lines = [*(f"{name}={value}" for name, value in own.items()), *options]
        secret.write_text("".join(f"--{line}\n" for line in lines))
        return [client, "mount", str(root), "-c", str(secret)]
    secret.write_text(":".join(key))
    signed = ["sigv4", f"region={REGION}"] if kind_of(client) == "ossfs" else []
    own_options = [f"url={address}", f"passwd_file={secret}", "use_path_request_style", *signed]
    return [client, BUCKET, str(root), "-f", "-o", ",".join([*own_options, *options])]
