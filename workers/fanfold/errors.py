"""Errors: the exit code of each error, whether a retry can help, and the remedy in its message.

The workflow templates retry every exit code except 2. README.md, "Exit codes", lists the codes.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager

# File system errors that no retry fixes. Each remedy suits inputs and outputs.
FINAL = {
    "EACCES EPERM": "allow user {user} to read it, or to write it if it is an output",
    "EROFS": "mount the volume for writing",
    "EEXIST ENOTDIR": "a folder must be there: move the file away, or use another name",
    "EISDIR ENOTEMPTY": "a file must be there: move the folder away, or use another name",
    "ENAMETOOLONG": "choose a shorter name",
    "EILSEQ": "choose a name that this volume can store, such as a UTF-8 name",
    "ELOOP": "name the file, not a link that leads back to itself",
    "EFBIG": "use more and smaller files, or a volume that takes files of this size",
    "EMLINK": "use another RUN_DIR, or a volume that takes more folders in one",
    "EINVAL ENOSYS ENOTSUP EOPNOTSUPP EXDEV": "use a name and a kind of volume that allow this",
}
# A retry can fix all other errors.
RETRIED = {
    "ENOENT": "create the file, or run the step that writes it (split.py writes plan.json), or "
    "correct RUN_DIR or PLAN_ID; if the file exists, this node's mount may still hide it and a "
    "retry on another node can help",
    "ENOSPC EDQUOT": "free space on the volume, and on the node's disk if its mount stages files "
    "there; a retry can help",
}


class WorkerError(Exception):
    """An error that the operator must fix. Its message names the object, value and remedy."""

    exit_code = 2


class RetryError(WorkerError):
    """An error that a retry can fix, such as a file that a mount's cache still hides."""

    exit_code = 75  # EX_TEMPFAIL in sysexits.h


class RefusedError(WorkerError):
    """The storage refuses a request, and would refuse it for every file."""


class BadNameError(WorkerError):
    """The storage does not accept a name."""


def is_of_name(error: BaseException) -> bool:
    """Whether the storage does not accept a file's name, or something else has this name."""
    codes = errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST
    return isinstance(error, BadNameError) or getattr(error, "errno", None) in codes


class CommandError(WorkerError):
    """The command of a step cannot be run on any input."""


class ProgramError(WorkerError):
    """A user's program has failed. The worker exits with the program's exit code."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class OldViewError(RetryError):
    """The data is wrong, or a mount still shows an older file."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence} (if this node's mount shows an old file, a retry can help)")


class ChangedError(OldViewError):
    """A file is not at the version that the plan names."""

    def __init__(self, name: str, old: object, new: object) -> None:
        super().__init__(
            f"{name} has changed from {old} to {new}: do not change the file during a run, and "
            "start the run again"
        )


class Naming(AbstractContextManager["Naming"]):
    """Adds a path to OSErrors without a file name, such as errors of read and close."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __exit__(self, kind: object, error: object, trace: object) -> None:  # noqa: D105
        if isinstance(error, OSError) and not error.filename:
            error.filename = self.path


def explain(error: WorkerError | OSError) -> tuple[int, str]:
    """Return the exit code and the message for the operator."""
    if isinstance(error, WorkerError):
        return error.exit_code, str(error)
    code, remedy = RetryError.exit_code, "a retry can help"
    for kind, remedies in (WorkerError, FINAL), (RetryError, RETRIED):
        for names, text in remedies.items():
            if errno.errorcode.get(error.errno or 0) in names.split():
                code, remedy = kind.exit_code, text.replace("{user}", str(os.geteuid()))
    words = error.filename2 or error.filename, error.strerror or error, remedy
    return code, ": ".join(str(each) for each in words if each)
