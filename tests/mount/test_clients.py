"""The command line of each client. A program that prints its arguments replaces ossfs and ossfs2,
which are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import clients
import pytest

ADDRESS, KEY = "http://127.0.0.1:9000", ("id", "secret")


def started(name: str, folder: Path) -> list[str]:
    """The arguments of a client with this name, and the lines of the configuration file in its
    arguments."""
    client, root = folder / name, folder / "node"
    client.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nif [ "$3" = -c ]; then cat "$4"; fi\n')
    client.chmod(0o755)
    options = [clients.owner(clients.kind_of(name)), clients.uncached(clients.kind_of(name))]
    split = ",".join(options).split(",")
    command = clients.command(str(client), ADDRESS, KEY, root, split)
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.splitlines()


def test_ossfs(tmp_path: Path) -> None:
    """It starts as s3fs does, with Signature V4 and every option of the bundle's volume."""
    *arguments, options = started("ossfs", tmp_path)

    assert arguments == ["bucket", str(tmp_path / "node"), "-f", "-o"]
    assert options.split(",")[:5] == [
        f"url={ADDRESS}",
        f"passwd_file={tmp_path}/node.conf",
        "use_path_request_style",
        "sigv4",
        "region=cn-hangzhou",
    ]
    assert sorted(options.split(",")[5:]) == sorted(clients.of_volume("ossfs"))
    assert {"disable_noobj_cache", "simulate_mtime_ns_with_crc64"} <= set(options.split(","))


def test_ossfs2(tmp_path: Path) -> None:
    """Its configuration, which only the owner may read, has every option of the bundle's volume,
    and none of ossfs."""
    *arguments, _ = started("ossfs2-2.0.7", tmp_path)

    conf = tmp_path / "node.conf"
    assert arguments[:4] == ["mount", str(tmp_path / "node"), "-c", str(conf)]
    assert conf.stat().st_mode & 0o777 == 0o600
    lines = conf.read_text().splitlines()
    assert lines[:5] == [
        f"--oss_endpoint={ADDRESS}",
        "--oss_bucket=bucket",
        "--oss_region=cn-hangzhou",
        "--oss_access_key_id=id",
        "--oss_access_key_secret=secret",
    ]
    assert sorted(lines[7:]) == sorted(f"--{each}" for each in clients.of_volume("ossfs2"))
    assert {"--close_to_open=true", "--fuse_attr_timeout=0"} <= set(lines)


def test_s3fs(tmp_path: Path) -> None:
    """It gets only options that it knows."""
    *_, options = started("s3fs", tmp_path)

    names = [each.partition("=")[0] for each in options.split(",")]
    assert names == [
        *("url", "passwd_file", "use_path_request_style"),
        *("allow_other", "uid", "gid", "umask", "max_stat_cache_size"),
    ]


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        ("s3fs", "apt-get"),
        ("/no/ossfs2", "got '/no/ossfs2'"),
        (sys.executable, f"got {sys.executable!r}"),
    ],
)
def test_missing(client: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or unknown client is an error with a remedy."""
    monkeypatch.setenv("PATH", "")

    assert sentence in clients.missing(client)
