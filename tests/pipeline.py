"""A volume in a folder or a bucket, and the workers on it, in this process or in other processes.

volume.write("log-count-data.txt", b"INFO")
volume.log_count(NUM_PARTS=2)          # split, count every part, merge
assert volume.totals() == {"INFO": 1, ...}
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, cast

import count
import map as map_worker
import merge
import oss2
import process
import pytest
import split
from fake import FakeOSS
from fanfold import Part, cuts, map_part, names, records, report
from fanfold.page import MARK
from fanfold.settings import job_settings, map_settings
from fanfold.storage import bucket, folder, uploads

WORKERS = Path(split.__file__).parent
INPUT = "log-count-data.txt"
LEVEL_1 = "aggregation-demo/l1/{}.txt"
JOINED = "aggregation-demo/result.txt"
KEYWORDS = ("INFO", "WARN", "ERROR", "DEBUG")
TIMEOUT = 60  # seconds; no test needs a tenth of it

CLOCK = itertools.count(time.time_ns())

Tree = dict[str, bytes | None]  # content by name; None for anything but a file, such as a folder
Main = Callable[[list[str], Mapping[str, str]], int]

MAINS: dict[str, Main] = {
    "split": lambda _, environ: split.main(environ),
    "count": lambda _, environ: count.main(environ),
    "map": lambda _, environ: map_worker.main(environ),
    "process": process.main,
    "merge": merge.main,
}


def model(files: Iterable[bytes], keywords: Iterable[str] = KEYWORDS) -> dict[str, int]:
    """The expected totals: the keywords in all files, file by file."""
    contents = list(files)
    return {word: sum(data.count(word.encode()) for data in contents) for word in keywords}


def children() -> set[str]:
    """The ids of the child processes of this process, including the servers of other tests."""
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(task.read_text().split())
    return found


@dataclass(frozen=True)
class Outcome:
    """The exit code, stdout and stderr of a worker."""

    code: int
    output: str
    words: str

    def event(self, event: str) -> dict[str, str]:
        """The fields with plain words in the last log line of an event; empty without such a
        line."""
        lines = [line for line in self.words.splitlines() if f" event={event} " in line]
        return dict(re.findall(r"(\S+)=([^\s\"]+)", lines[-1])) if lines else {}

    @property
    def part_ids(self) -> list[str]:
        """The output of split.py, which must be exactly a JSON array of strings."""
        assert self.code == 0, self.words
        ids = json.loads(self.output)
        assert self.output == json.dumps(ids, separators=(",", ":")) + "\n"
        assert all(isinstance(part_id, str) for part_id in ids)
        return list(ids)


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket for volumes."""

    settings: Mapping[str, str]  # of the workers
    store: bucket.Bucket  # for direct access by the tests
    fake: FakeOSS | None  # the fake OSS of the bucket; None for a real OSS


class BucketPath(PurePosixPath):
    """The key of an object, with the methods of pathlib.Path that the tests use."""

    place: ClassVar[Place | None] = None  # of new volumes; None for volumes in folders
    numbers = itertools.count()

    def ask(self, request: Callable[[], Any]) -> Any:
        """The answer to a request about this key; FileNotFoundError if the object is missing."""
        assert self.place
        return self.place.store.ask(str(self), request)

    @property
    def bucket(self) -> Any:
        """The bucket object of oss2."""
        assert self.place
        return self.place.store.bucket

    def read_bytes(self) -> bytes:
        """The content of the object."""
        return bytes(self.ask(lambda: self.bucket.get_object(str(self)).read()))

    def write_bytes(self, data: bytes) -> None:
        """Write the object."""
        self.ask(lambda: self.bucket.put_object(str(self), data))

    def exists(self) -> bool:
        """Whether the object exists."""
        return bool(self.ask(lambda: self.bucket.object_exists(str(self))))

    def is_file(self) -> bool:
        """True, because rglob finds only objects: a bucket has no folders."""
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        if not missing_ok and not self.exists():
            raise FileNotFoundError(self)
        self.ask(lambda: self.bucket.delete_object(str(self)))

    def rglob(self, pattern: str) -> list[BucketPath]:
        """The objects below this name with a base name that matches the pattern."""
        found = self.ask(lambda: list(oss2.ObjectIteratorV2(self.bucket, f"{self}/")))
        below = [BucketPath(each.key) for each in found]
        return [path for path in below if fnmatch.fnmatchcase(path.name, pattern)]

    def iterdir(self) -> list[BucketPath]:
        """The objects directly below this name."""
        return [path for path in self.rglob("*") if path.parent == self]

    def uploads(self) -> list[Any]:
        """The unfinished uploads below this name, which are billed."""
        pages = oss2.MultipartUploadIterator(self.bucket, f"{self}/")
        uploads: list[Any] = self.ask(lambda: list(pages))
        return uploads

    def copy_tree(self, target: BucketPath) -> None:
        """Copy all objects below this name to another name."""
        for path in self.rglob("*"):
            names = self.bucket.bucket_name, str(path), str(target / path.relative_to(self))
            self.ask(partial(self.bucket.copy_object, *names))

    def remove_tree(self) -> None:
        """Remove all objects below this name."""
        keys = [str(path) for path in self.rglob("*")]
        for at in range(0, len(keys), 1000):  # OSS's limit per request
            self.ask(partial(self.bucket.batch_delete_objects, keys[at : at + 1000]))


@dataclass(frozen=True)
class Volume:
    """A folder, as the mounted volume, or a bucket; and the settings of a run on it."""

    root: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, **settings: object) -> Iterator[Volume]:
        """An empty volume: in the bucket if there is one, otherwise in a folder, in memory if
        possible."""
        if place := BucketPath.place:
            root = BucketPath(place.store.root, f"volume{next(BucketPath.numbers)}")
            yield cls(cast(Path, root)).having(**settings)
            return
        shm = "/dev/shm"  # noqa: S108 - the volume is a new folder in it
        where = shm if os.access(shm, os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=where, prefix="volume") as folder:
            yield cls(Path(folder)).having(**settings)

    def having(self, **settings: object) -> Volume:
        """The same volume with more settings."""
        return Volume(self.root, {**self.settings, **{k: str(v) for k, v in settings.items()}})

    # --- files

    @property
    def in_bucket(self) -> bool:
        """Whether the volume is in a bucket."""
        return isinstance(self.root, BucketPath)

    @property
    def run_dir(self) -> Path:
        """The directory of the run."""
        return self.root / self.settings.get("RUN_DIR", "")

    def write(self, name: str, data: bytes) -> Path:
        """Write a file on the volume."""
        path = self.root / name
        if self.in_bucket:
            path.write_bytes(data)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        now = next(CLOCK)  # its version; otherwise two quick writes may have the same
        os.utime(path, ns=(now, now))
        return path

    def sparse(self, name: str, size: int, pieces: Mapping[int, bytes] | None = None) -> Path:
        """Write a sparse file on the volume, with these bytes at these offsets."""
        path = self.root / name
        with path.open("wb") as file:
            file.truncate(size)
            for offset, data in (pieces or {}).items():
                file.seek(offset)
                file.write(data)
        return path

    def tree(self) -> Tree:
        """Everything on the volume, including hidden files and folders."""
        return {
            str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
        }

    def temporary_files(self) -> list[str]:
        """The hidden files on the volume, and the unfinished uploads."""
        return self.hidden_files() + self.uploads()

    def hidden_files(self) -> list[str]:
        """The hidden files on the volume."""
        return [str(path) for path in self.root.rglob(".*")]

    def uploads(self) -> list[str]:
        """The keys of unfinished uploads, which a lost answer may leave."""
        if not isinstance(self.root, BucketPath):
            return []
        return [upload.key for upload in self.root.uploads()]

    def copy_run(self, run_dir: str) -> Volume:
        """Copy the run to another RUN_DIR."""
        other = self.having(RUN_DIR=run_dir)
        if isinstance(self.run_dir, BucketPath):
            self.run_dir.copy_tree(cast(BucketPath, other.run_dir))
        else:
            shutil.copytree(self.run_dir, other.run_dir)
        return other

    def remove_run(self) -> None:
        """Remove the directory of the run."""
        if isinstance(self.run_dir, BucketPath):
            self.run_dir.remove_tree()
        else:
            shutil.rmtree(self.run_dir)

    def plan(self) -> dict[str, Any]:
        """The newest plan.json, which must be JSON as a whole."""
        return dict(json.loads((self.run_dir / "split-output/plan.json").read_bytes()))

    def sizes(self) -> list[int]:
        """The bytes of every part of the newest plan."""
        return [stop - at for at, stop in pairwise(self.plan()["cuts"])]

    def plan_path(self) -> Path:
        """The path of the newest plan under its id."""
        return self.run_dir / names.PLAN.format(self.plan()["id"])

    def copy_path(self, number: int) -> Path:
        """The path of the copy of a part of the newest plan."""
        return self.run_dir / names.PART_COPY.format(self.plan()["id"], number)

    def copies(self, count: int) -> list[bytes]:
        """The parts that SPLIT_MODE=copy wrote."""
        return [self.copy_path(n).read_bytes() for n in range(count)]

    def job(self, **settings: object) -> str:
        """The id of the job of the newest plan and these settings."""
        plan, environ = self.plan(), self.environ(settings)
        made_by = job_settings(map_settings(environ), str(plan["mode"]), environ)
        return records.job_id(str(plan["id"]), made_by)

    def record_path(self, part_id: str, **settings: object) -> Path:
        """The path of the record of a part of the newest plan."""
        return self.run_dir / names.PART_RECORD.format(self.job(**settings), part_id)

    def record(self, part_id: str, **settings: object) -> dict[str, Any]:
        """The record of a part, which must be JSON as a whole."""
        return dict(json.loads(self.record_path(part_id, **settings).read_bytes()))

    def reseal(self, path: Path, **changes: object) -> None:
        """Replace a record by a valid record with these changes."""
        path.write_bytes(records.seal({**records.unseal(path.read_bytes()), **changes}))

    def final(self, name: str) -> bytes | None:
        """The content at a final name; None if it does not exist."""
        path = self.run_dir / name
        return path.read_bytes() if path.exists() else None

    def results(self) -> dict[str, dict[str, bytes]]:
        """The files in results/, by folder and name, the newest run last."""
        found: dict[str, dict[str, bytes]] = {}
        for path in sorted((self.run_dir / "results").rglob("*")):
            folder, _, name = str(path.relative_to(self.run_dir / "results")).partition("/")
            if name and path.is_file():
                found.setdefault(folder, {})[name] = path.read_bytes()
        return found

    def summary(self) -> dict[str, Any]:
        """The summary.json of the newest run."""
        *_, newest = self.results().values()
        return dict(json.loads(newest["summary.json"]))

    def totals(self) -> dict[str, int | float] | None:
        """The content of result.json; None if it does not exist."""
        path = self.run_dir / "result.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    # --- workers

    def environ(self, settings: Mapping[str, object]) -> dict[str, str]:
        """The environment of a worker."""
        more = {key: str(value) for key, value in settings.items()}
        work_dir = {"WORK_DIR": str(self.root)}
        if self.in_bucket and (place := BucketPath.place):
            name = place.store.bucket.bucket_name
            work_dir = {**place.settings, "WORK_DIR": f"oss://{name}/{self.root}"}
        return {**work_dir, **self.settings, **more}

    def run(self, worker: str, *arguments: object, **settings: object) -> Outcome:
        """Run a worker in this process. Exceptions reach the caller."""
        environ = self.environ(settings)
        output, words = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(words):
            code = MAINS[worker](list(map(str, arguments)), environ)
        return Outcome(code, output.getvalue(), words.getvalue())

    def split(self, **settings: object) -> list[str]:
        """Split; return the part ids."""
        return self.run("split", **settings).part_ids

    def count(self, part_ids: Iterable[str], **settings: object) -> None:
        """Count these parts, in this order."""
        for part_id in part_ids:
            outcome = self.run("count", PART_ID=part_id, **settings)
            assert (outcome.code, outcome.output) == (0, ""), outcome.words

    def run_map(
        self, function: Callable[[Part], Any], part_id: object, **settings: object
    ) -> Outcome:
        """Run a custom map in this process. Exceptions reach the caller."""
        words = io.StringIO()
        with contextlib.redirect_stderr(words):
            code = map_part(function, self.environ({"PART_ID": part_id, **settings}))
        return Outcome(code, "", words.getvalue())

    def fan_out(self, function: Callable[[Part], Any], **settings: object) -> Outcome:
        """The whole pipeline with a custom map, which must succeed; return the outcome of merge."""
        for part_id in self.split(**settings):
            outcome = self.run_map(function, part_id, **settings)
            assert outcome.code == 0, outcome.words
        return self.run("merge", **settings)

    def write_level_1(self, files: Iterable[bytes]) -> None:
        """Write the files of level 1."""
        for number, data in enumerate(files):
            name = self.run_dir / LEVEL_1.format(number)
            self.write(str(name.relative_to(self.root)), data)

    def process(self, files: int, fan_in: int = 2, levels: int = 2, **settings: object) -> int:
        """Run process-data up to a level; return the number of files of that level."""
        for level in range(1, levels):
            more = {"FILES": files, "FAN_IN": fan_in, **settings}
            files = -(-files // fan_in)
            for number in range(files):
                outcome = self.run("process", number, level, **more)
                assert (outcome.code, outcome.output) == (0, ""), outcome.words
        return files

    def aggregate(
        self, files: int, fan_in: int = 2, levels: int = 2, **settings: object
    ) -> Outcome:
        """All of process-data for the files of level 1; return the outcome of merge."""
        width = self.process(files, fan_in, levels, **settings)
        return self.run("merge", width, LEVEL=levels, **settings)

    def merge(self, **settings: object) -> None:
        """Merge the counts."""
        outcome = self.run("merge", **settings)
        assert (outcome.code, outcome.output) == (0, ""), outcome.words

    def log_count(self, seed: int = 0, **settings: object) -> list[str]:
        """The whole pipeline, with every part counted twice in any order; return the part ids."""
        part_ids = self.split(**settings)
        again = part_ids * 2
        random.Random(seed).shuffle(again)
        self.count(again, **settings)
        self.merge(**settings)
        return part_ids

    def start(
        self, worker: str, *arguments: object, prologue: str = "", **settings: object
    ) -> subprocess.Popen[str]:
        """Start a worker as a process, after a prologue in Python. The caller ends it, or uses
        `with`."""
        script = str(WORKERS / f"{worker}.py")
        if prologue:
            path = f"import sys; sys.path.insert(0, {str(WORKERS)!r})"
            start = f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
            command = ["-c", "\n".join((path, prologue, start))]
        else:
            command = [script]
        return subprocess.Popen(
            [sys.executable, *command, *map(str, arguments)],
            env={**bare_environ(), **self.environ(settings)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(
        self,
        worker: str,
        *arguments: object,
        prologue: str = "",
        timeout: float = TIMEOUT,
        **settings: object,
    ) -> Outcome:
        """Run a worker as a process."""
        with self.start(worker, *arguments, prologue=prologue, **settings) as process:
            return finish(process, timeout)


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> Outcome:
    """Wait for a process; kill it and raise TimeoutExpired after the timeout."""
    try:
        output, words = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Outcome(process.returncode, output, words)


def bare_environ() -> dict[str, str]:
    """An environment without settings of the workers; bytecode is written outside the checkout."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return {**kept, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir(), "fanfold-bytecode"))}


def settings_of(fake: FakeOSS) -> dict[str, str]:
    """The settings of a worker for the bucket of a fake OSS."""
    return {
        "WORK_DIR": "oss://bucket",
        "OSS_ENDPOINT": fake.endpoint,
        "OSS_REGION": fake.service.region,
        "OSS_ACCESS_KEY_ID": "id",
        "OSS_ACCESS_KEY_SECRET": "secret",
    }


@contextlib.contextmanager
def volumes_in(settings: Mapping[str, str], fake: FakeOSS | None = None) -> Iterator[None]:
    """Make volumes in this bucket, below WORK_DIR. In a real bucket, remove them in the end."""
    with contextlib.ExitStack() as stack:
        direct = settings
        if fake:  # a second server without faults and counts, which accepts the key
            door = stack.enter_context(FakeOSS())
            door.service.buckets = fake.service.buckets
            direct = {**settings, "OSS_ENDPOINT": door.endpoint}
        store, _ = bucket.open_storage(direct)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(BucketPath, "place", Place(settings, store, fake))
        try:
            yield
        finally:
            if not fake:
                root = BucketPath(store.root)
                root.remove_tree()
                for left in root.uploads():
                    store.bucket.abort_multipart_upload(left.key, left.upload_id)


@contextlib.contextmanager
def pieces_of(size: int) -> Iterator[None]:
    """Let the workers read, copy and group by `size`, so that small inputs have many pieces. Parts
    of uploads shrink only in a fake OSS. The page of a run is only its first line: a whole page
    would have more pieces than everything else, and another number in each run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.Report, "page", lambda *_: [MARK.encode()])
        least = uploads.LEAST
        if place := BucketPath.place:
            size = max(size, 16 if place.fake else 256)  # one request per piece
            if place.fake:
                least = size
                limits = replace(place.fake.service.limits, part_least=least)
                patch.setattr(place.fake.service, "limits", limits)
        patch.setattr(bucket, "AHEAD", 4 * size)
        for module, value, constants in (
            (folder, size, ("PIECE", "CHUNK")),
            (cuts, size, ("PIECE", "FIRST_READ", "GROUP")),
            (bucket, size, ("PIECE",)),
            (bucket, least, ("WHOLE",)),
            (uploads, least, ("SENT", "LEAST", "MOST", "FIRST", "GROWTH")),
        ):
            for name in constants:
                patch.setattr(module, name, value)
        yield
