"""Progress: how far a map has come, in the file that ARGO_PROGRESS_FILE names.

Argo reads that file every 3 seconds. It is a picture of the work and no part of it: nothing that
goes wrong with it is an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

EVERY = 3  # seconds


class Progress:
    """How much of a total is done: bytes, or in the mode files files, of all parts together."""

    def __init__(self, total: int, environ: Mapping[str, str]) -> None:
        self.path, self.total = environ.get("ARGO_PROGRESS_FILE", ""), max(total, 1)
        self.due = time.monotonic() + EVERY  # a short map says nothing

    def at(self, done: int) -> None:
        """So much is done. A map that has read everything may still write: only its end is 100."""
        if not self.path or (now := time.monotonic()) < self.due:
            return
        self.due = now + EVERY
        text = f"{min(100 * done // self.total, 99)}/100\n"
        # Without O_NONBLOCK a pipe that nobody reads would hold the map up.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
        with suppress(OSError):
            fd = os.open(self.path, flags, 0o666)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
