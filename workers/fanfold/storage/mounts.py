"""Mounts: what is known of the file system that a file is on."""

from __future__ import annotations

import os
from contextlib import suppress

# Where the number of a file is the same on every node and for as long as the file exists. What
# FUSE, or a sandbox above it (virtiofs, 9p), gives as a number is made up by each client.
NUMBERED = {b"ext4", b"nfs", b"nfs4", b"tmpfs", b"xfs"}

known: dict[int, bool] = {}  # by device


def are_numbered(device: int) -> bool:
    """Whether the inode number is part of what a file of this device is."""
    if device not in known:
        known[device] = find_type(f"{os.major(device)}:{os.minor(device)}".encode()) in NUMBERED
    return known[device]


def find_type(device: bytes) -> bytes:
    """The type of the file system of a device, from mountinfo (see proc_pid_mountinfo(5)). Empty if
    there is none, as on macOS. Any other error is one of the step: a version without its inode
    would differ from that of the same file elsewhere."""
    with suppress(FileNotFoundError, PermissionError), open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == device:
                return fields[fields.index(b"-") + 1]
    return b""
