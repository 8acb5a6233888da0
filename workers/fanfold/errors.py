"""Errors: which exit code each has, which of them are retried, and what remedy they name.

The workflow templates retry every exit code but 2. README.md, "Exit codes", lists them.
"""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager

# The errors of the file system that no retry cures. A remedy suits inputs and outputs alike.
FINAL = {
    "EACCES EPERM": "give the worker's user the right to it",
    "EROFS": "mount the volume for writing",
    "EEXIST ENOTDIR": "move away the file that stands where a folder must be, or use another name",
    "EISDIR ENOTEMPTY": "move away the folder that stands where a file must be, or use another "
    "name",
    "ENAMETOOLONG": "choose a shorter name",
    "EILSEQ": "choose a name that this volume can store, such as one in UTF-8",
    "ELOOP": "name the file itself, not a link that leads back to itself",
    "EFBIG": "use more and smaller files, or a volume that takes files of this size",
    "EMLINK": "use another RUN_DIR, or a volume that takes more folders in one",
    "EINVAL ENOSYS ENOTSUP EOPNOTSUPP EXDEV": "use a name and a kind of volume that allow this",
}
# A retry can cure all others.
RETRIED = {
    "ENOENT": "put it there, or run the step that writes it; if it is there, a mount may still "
    "hide it on this node and a retry elsewhere can help",
    "ENOSPC EDQUOT": "make room on the volume, and on the node's disk if its mount stages files "
    "there; a retry can help",
}


class WorkerError(Exception):
    """The operator must fix this. The message names the object, the value and the remedy."""

    exit_code = 2


class RetryError(WorkerError):
    """A retry can fix this, such as a file that a mount's cache still hides."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class RefusedError(WorkerError):
    """A storage refuses a request, whichever file the request is for."""


class BadNameError(WorkerError):
    """A storage does not take a name."""


def is_of_name(error: BaseException) -> bool:
    """Whether an error is of a name that a storage does not take, or another file stands there."""
    codes = errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST
    return isinstance(error, BadNameError) or getattr(error, "errno", None) in codes


class CommandError(WorkerError):
    """The command of a step cannot be run, whatever its input."""


class ProgramError(WorkerError):
    """A program of the user's has failed. Its exit code is the worker's."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class OldViewError(RetryError):
    """What was read is wrong, or a mount still shows an older file."""

    def __init__(self, sentence: str) -> None:
        super().__init__(
            f"{sentence}, unless this node's mount shows an old file: then a retry can help"
        )


class ChangedError(OldViewError):
    """A file is not the version that the plan names."""

    def __init__(self, name: str, old: object, new: object) -> None:
        super().__init__(
            f"{name} has changed from {old} to {new}: leave the file alone during a run and "
            "begin the run again"
        )


class Naming(AbstractContextManager["Naming"]):
    """A `with` in which an error that names no file, as those of read and close, gets this name."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __exit__(self, kind: object, error: object, trace: object) -> None:  # noqa: D105
        if isinstance(error, OSError) and not error.filename:
            error.filename = self.path


def explain(error: WorkerError | OSError) -> tuple[int, str]:
    """The exit code for an error, and the sentence for the operator."""
    if isinstance(error, WorkerError):
        return error.exit_code, str(error)
    code, remedy = RetryError.exit_code, "a retry can help"
    for kind, remedies in (WorkerError, FINAL), (RetryError, RETRIED):
        for names, text in remedies.items():
            if errno.errorcode.get(error.errno or 0) in names.split():
                code, remedy = kind.exit_code, text
    said = error.filename2 or error.filename, error.strerror or error, remedy
    return code, ": ".join(str(each) for each in said if each)
