"""Publishing: a run's results, and the final names, which belong to the newest run with results.

A run first publishes results/<start>-<run>/, its record last. Then it writes to each final name the
file of the newest run that has published one (itself, unless it is late), and repeats this until no
newer run appears. An attempt that is killed in between may leave older results there; the next
attempt corrects this. Runs are ordered by start, then by id.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from fanfold import names, records, settings
from fanfold.errors import ChangedError, RetryError, WorkerError, explain
from fanfold.names import RESULTS, digest
from fanfold.page import MARK
from fanfold.parallel import map_in_order
from fanfold.plan import UNREADABLE
from fanfold.storage import Segment, Storage, real_place
from fanfold.worker import log

RUN_FOLDER = re.compile(rf"{RESULTS}\d{{8}}T\d{{6}}Z-[\w.-]+/")
RECORD = "{}.record"  # per result: both pipelines of a workflow share the folder of its run

# By final name, the file in the run's folder. None: the name must not keep an older run's file.
Finals = dict[str, "Segment | None"]


class DamagedError(RetryError):
    """A record of results that merge.py did not write."""


def results_folder(run_id: str, started: int) -> str:
    """Return the folder of a run's results."""
    return f"{RESULTS}{names.run_name(run_id, started)}/"


def published(run: Storage, result: str, since: str = "") -> Iterator[str]:
    """Yield the folders of the runs after `since` that have published this result, newest first.
    Links and folders with other names are ignored."""
    for folder in sorted(run.folders(RESULTS), reverse=True):
        if (
            folder > since
            and RUN_FOLDER.fullmatch(folder)
            and run.has(folder + RECORD.format(result))
        ):
            yield folder


def is_final(run: Storage, result: str, final: str) -> bool:
    """Whether the file at this name was written by a run that has published here. A False is
    never wrong: a listed file that cannot be read, as on a mount with an old view, is an error."""
    content, unread = digest(run.stream(final)), None
    for folder in published(run, result):
        try:
            file = read_record(run, folder, result)[1].get(final)
            if file and run.has(file[0]) and digest(run.stream(file[0])) == content:
                return True
        except (FileNotFoundError, DamagedError) as error:
            unread = error
    if unread:
        raise unread
    return False


def read_record(run: Storage, folder: str, result: str) -> tuple[str, Finals]:
    """Return the job and files that a run has published; nothing for a copy of its folder."""
    name = folder + RECORD.format(result)
    try:
        found = records.unseal(b"".join(run.stream(name)))
        if found["folder"] != folder:
            return "", {}
        return str(found["job"]), {
            str(final): file and (str(file[0]), str(file[2]), 0, int(file[1]))
            for final, file in found["finals"].items()
        }
    except UNREADABLE:
        raise DamagedError(
            f"{name} is not a record that merge.py wrote: run merge.py of this run again (if this "
            "node's mount shows an old file, a retry can help)"
        ) from None


def is_published(run: Storage, folder: str, result: str, job: str) -> bool:
    """Whether an earlier attempt of this run has published complete results of a job that begins
    with `job`. Such results stay unchanged, because readers use their versions. A False can be
    wrong, as on a mount with an old view: the results are then proven and made again."""
    with suppress(FileNotFoundError, DamagedError):
        if not run.has(folder + RECORD.format(result)):
            return False
        made, finals = read_record(run, folder, result)
        for final, file in finals.items():
            if file and not is_page(final):
                with run.open(file[0]) as found:
                    if found.version != file[1]:
                        return False
        return made.startswith(job)
    return False


def publish(
    run: Storage,
    folder: str,
    result: str,
    job: str,
    make: Callable[[], tuple[Finals, Mapping[str, object]]],
) -> dict[str, Segment]:
    """Publish the results of a run, unless an earlier attempt has. Then publish the newest run's
    file under each final name. `make` writes the files to the folder and returns them and the
    summary. `result` is the name of the file that every such run has. Returns this run's files."""
    if not is_published(run, folder, result, job):
        files, summary = make()
        summary = {"job": job, **summary}
        run.put(f"{folder}summary.json", [json.dumps(summary).encode(), b"\n"])
        finals = {final: file and records.as_input(file) for final, file in files.items()}
        sealed = records.seal({**summary, "job": job, "folder": folder, "finals": finals})
        run.put(folder + RECORD.format(result), [sealed])
    own = read_record(run, folder, result)[1]
    seen: list[str] | None = None
    while (newer := [*published(run, result, since=folder)]) != seen:
        seen = newer
        if newer:
            log("merge", "late", newer=newer[0])
        try:
            for final, file in settle(run, result, own, reversed(newer)).items():
                if is_page(final):
                    show_page(run, final, file)
                elif file:
                    run.copy(final, run, [file])
                elif run.has(final) and is_final(run, result, final):
                    run.put(final, [])
        except (FileNotFoundError, ChangedError, DamagedError) as error:
            if not newer:
                raise
            # A newer run has the final names: this run must not replace them.
            log("merge", "left", error=explain(error)[1])
    return {final: file for final, file in own.items() if file}


def settle(run: Storage, result: str, own: Finals, newer: Iterable[str]) -> Finals:
    """Return our final names with the files of the newest runs. `newer` starts with the oldest."""
    found = dict(own)
    for folder in newer:
        others = read_record(run, folder, result)[1]
        found |= {final: others[final] for final in own.keys() & others.keys()}
    return found


def is_page(final: str) -> bool:
    """Whether a final name is a page. No step depends on a page."""
    return os.path.basename(final) == names.REPORT


def put_page(run: Storage, name: str, make: Callable[[], Iterable[bytes]]) -> Segment | None:
    """Write the page of a run, or return None: an error of a page is not an error of the run."""
    try:
        return run.put(name, [*make()])
    except Exception as error:  # also a bug in a page
        log("merge", "no_page", error=f"{type(error).__name__}: {error}")
        return None


def show_page(run: Storage, final: str, file: Segment | None) -> None:
    """Write a page to its final name, unless this name has another file or a link."""
    try:
        is_ours = run.real(final) == real_place(run, final)
        if is_ours and run.has(final):
            with run.open(final) as found:
                is_ours = found.read(0, len(MARK)) == MARK.encode()
        if not is_ours:
            log("merge", "kept", file=final, why="no run has made it")
            return
        if file:
            run.copy(final, run, [file])
        else:
            run.remove(final)
    except (WorkerError, OSError) as error:
        log("merge", "no_page", error=explain(error)[1])


def reduced(job: str, environ: Mapping[str, str]) -> str:
    """Return the id of a job with this REDUCE program: another program makes another result."""
    how = settings.program(environ, "REDUCE")
    return f"{records.job_id('', how)}/{job}" if how else job


def remove(run: Storage, found: Iterable[str]) -> None:
    """Remove files that this run made and that are no longer needed."""
    for _ in map_in_order(run.remove, found):
        pass
