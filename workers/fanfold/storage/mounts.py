"""Mounts: properties of a file's file system."""

from __future__ import annotations

import os
from contextlib import suppress

# File systems on which an inode number is the same on every node for the life of the file. With
# FUSE, or a sandbox over it (virtiofs, 9p), each client makes up its own numbers.
NUMBERED = {b"ext4", b"nfs", b"nfs4", b"tmpfs", b"xfs"}

known: dict[int, bool] = {}  # by device


def are_numbered(device: int) -> bool:
    """Whether the inode number identifies a file on this device."""
    if device not in known:
        known[device] = find_type(f"{os.major(device)}:{os.minor(device)}".encode()) in NUMBERED
    return known[device]


def find_type(device: bytes) -> bytes:
    """Return the file system type of a device, from mountinfo (see proc_pid_mountinfo(5)), or
    nothing if mountinfo does not exist, as on macOS. Other errors are errors of the step: without
    the inode, the version of a file would differ between nodes."""
    with suppress(FileNotFoundError, PermissionError), open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == device:
                return fields[fields.index(b"-") + 1]
    return b""
