"""Progress: reports how much of a map is done in the file that ARGO_PROGRESS_FILE names.

Argo reads this file every 3 seconds. The file is only for display: its errors are ignored.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

EVERY = 3  # seconds


class Progress:
    """How much of a total is done, over all parts: in bytes, or in files in mode files."""

    def __init__(self, total: int, environ: Mapping[str, str]) -> None:
        self.path, self.total = environ.get("ARGO_PROGRESS_FILE", ""), max(total, 1)
        self.due = time.monotonic() + EVERY  # a short map reports nothing

    def at(self, done: int) -> None:
        """Report `done`, but at most 99 %: a map that has read everything may still write."""
        if not self.path or (now := time.monotonic()) < self.due:
            return
        self.due = now + EVERY
        text = f"{min(100 * done // self.total, 99)}/100\n"
        # Without O_NONBLOCK, a pipe without a reader would block the map.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
        with suppress(OSError):
            fd = os.open(self.path, flags, 0o666)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
