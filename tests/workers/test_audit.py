"""The system calls of real workers, by Python's audit events. They are checked against an allow
list, because a volume on an object store supports few operations (see fanfold/storage)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from pipeline import INPUT, Volume

# Reports every event except the interpreter's own, as a line of JSON on stderr. stat has no event:
# it is wrapped.
PROLOGUE = """if True:
    import json, os, stat, sys
    root, plain_stat, seen = os.environ["WORK_DIR"], os.stat, []
    def there(path):
        try:
            return stat.S_IFMT(plain_stat(path).st_mode)
        except OSError:
            return 0
    def hook(event, arguments):
        if event.startswith(("compile", "exec", "import", "marshal", "object.", "code.", "sys.")):
            return
        paths = [os.fspath(a) for a in arguments if isinstance(a, (str, os.PathLike))]
        numbers = [a for a in arguments if isinstance(a, int)]
        seen.append((event, paths, numbers, [*map(there, paths)]))
    def audited_stat(path, *more, **most):
        hook("stat", (path,))
        return plain_stat(path, *more, **most)
    os.stat = audited_stat
    sys.addaudithook(hook)
    import atexit
    atexit.register(lambda: print("AUDIT", json.dumps(seen), file=sys.stderr))
"""

# Forbidden on any path: processes, locks, memory mapped files, libraries that are not Python's.
FORBIDDEN = re.compile(
    "subprocess|os.fork|os.exec|os.spawn|os.posix_spawn|os.system|fcntl|mmap|ctypes|socket|shutil|"
    "os.(link|symlink|chmod|chown|utime|truncate|rmdir|setxattr|lockf|mkfifo|mknod)|tempfile"
)
ARGO = {"RUN_ID": "a", "RUN_STARTED": 1}
OURS = "(split-output|cout-output|map-output|results|aggregation-demo)/"
TEMPORARY = rf"({OURS}([\w.-]+/)*)?\.[\w.-]+\.[0-9a-f]{{16}}\.tmp"
CLEANED = r"split-output/\w+/\d+\.txt|map-output/.*|aggregation-demo/l[2-9]/by-hand/.*"


class Event(NamedTuple):
    """One event on the volume."""

    name: str
    paths: list[str]
    flags: int
    kinds: list[int]  # of the previous file at the path; 0 for none


def events(volume: Volume, worker: str, *arguments: object, **settings: Any) -> Iterator[Event]:
    """Run a worker and return its events on the volume. A forbidden event anywhere is a failure."""
    outcome = volume.call(worker, *arguments, prologue=PROLOGUE, **settings)
    assert outcome.code == 0, outcome.words
    [line] = [line for line in outcome.words.splitlines() if line.startswith("AUDIT")]
    for name, paths, numbers, kinds in json.loads(line.removeprefix("AUDIT ")):
        assert not FORBIDDEN.match(name), (name, paths)
        ours = [path.removeprefix(f"{volume.root}/") for path in paths if str(volume.root) in path]
        if ours:
            yield Event(name, ours, numbers[0] if numbers else 0, kinds)


def check(volume: Volume, worker: str, *arguments: object, **settings: object) -> set[str]:
    """Check that every event on the volume is allowed. Return the files that were read and that
    this worker did not publish, and the folders that were listed, with a / at their end. The folder
    of a run by hand is called RUN."""
    read: set[str] = set()
    published: list[str] = []
    for event in events(volume, worker, *arguments, **settings):
        path = event.paths[0].removeprefix(str(volume.root)) or "/"
        if event.name == "open" and event.flags & os.O_ACCMODE == os.O_RDONLY:
            assert not event.flags & (os.O_CREAT | os.O_TRUNC)
            assert event.kinds[0], f"{path} was probed before it was there"
            read |= {path} - {*published}
        elif event.name == "open":
            assert event.flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL
            assert event.flags & os.O_ACCMODE == os.O_WRONLY
            assert not event.flags & (os.O_APPEND | os.O_TRUNC)
            assert re.fullmatch(TEMPORARY, path)
        elif event.name == "os.rename":
            folder, name = os.path.split(event.paths[1])
            assert re.fullmatch(TEMPORARY, path)
            assert path.startswith(os.path.join(folder, f".{name}."))
            published.append(event.paths[1])
        elif event.name == "os.remove":
            assert settings.get("CLEAN") == "true"
            assert re.fullmatch(CLEANED, path)
        elif event.name == "os.scandir":
            read.add(re.sub(r"^results/.+", "results/RUN", path.rstrip("/")) + "/")
        elif event.name == "os.mkdir":
            assert re.match(OURS, path + "/") or event.kinds == [0o040000]
        else:
            assert event.name == "stat", event
            assert event.kinds[0] in (0, 0o040000), f"{path}: a file's size or time is of its path"
    assert len(published) == len(set(published))
    return read


@pytest.fixture
def run(volume: Volume) -> Volume:
    """A volume with inputs."""
    data = b"INFO 1\nWARN 2\nERROR 3\n" * 20
    for name in (INPUT, "in/a", "in/b/c"):
        volume.write(name, data)
    for number in range(2):
        volume.write(f"aggregation-demo/l1/{number}.txt", b"%d\n" % number)
    return volume.having(NUM_PARTS=3)


@pytest.mark.parametrize("mode", ["copy", "range"])
@pytest.mark.parametrize("name", [INPUT, "in/"])
def test_log_count(run: Volume, mode: str, name: str) -> None:
    """split, split again, every map and the reduce only create hidden files and rename each once.
    They read and list only what the step needs."""
    run = run.having(SPLIT_MODE=mode, INPUT=name)
    inputs = {"in/a", "in/b/c", "in/", "in/b/"} if name == "in/" else {INPUT}
    assert check(run, "split") - {"split-output/"} >= inputs
    plan_id, job = run.plan()["id"], run.job()
    copies = {f"split-output/{plan_id}/{n}.txt" for n in range(3)} if mode == "copy" else set()
    listed = {f"split-output/{plan_id}/"} if copies else set()
    records = [f"cout-output/{job}/{n}.json" for n in range(3)]

    plan = "split-output/plan.json"
    for part_id in "01":
        read = check(run, "count", PART_ID=part_id)
        assert plan in read
        assert read - {plan} <= (copies or inputs)
    assert check(run, "count", PART_ID=1, PLAN_ID=plan_id) == (read - {plan}) | {
        f"split-output/{plan_id}/plan.json"
    }

    # A group finds what its run has done with a listing, never with a probe.
    group: dict[str, object] = {"PART_ID": "0-1", "PLAN_ID": plan_id, "RUN_DIR": "", **ARGO}
    known = {f"split-output/{plan_id}/plan.json", f"cout-output/{job}/", *records[:2]}
    assert check(run, "count", **group) - inputs - copies == known
    assert check(run, "count", **group) == known

    seen = {f"cout-output/{job}/", f"map-output/{job}/", *records[:2]}
    missing = {name for name in copies if name.endswith("/2.txt")}
    assert check(run, "split", ONLY_MISSING="true") == inputs | listed | missing | seen
    assert check(run, "split") == inputs | listed | copies
    run.count("2")
    proof = {plan, *records, *inputs}
    results = {"/", "results/", "results/RUN/"}
    assert check(run, "merge") == proof | results
    known = proof - (inputs if copies else set()) - {plan} | {f"split-output/{plan_id}/plan.json"}
    known |= {f"split-output/{plan_id}/runs/", "report.html"}  # is the file a page of fanfold?
    assert check(run, "merge", PLAN_ID=plan_id, CLEAN="true") == known | results
    assert run.final("result.json")


def test_process_data(run: Volume) -> None:
    """Process and merge read the files of their group and the records of these files. Level 1 is
    listed by the worker of its last group, and by merge, which opens all of its files."""
    files = {f"aggregation-demo/l1/{number}.txt" for number in range(2)}
    listed = {"aggregation-demo/l1/"}
    results = {"results/", "results/RUN/", "aggregation-demo/"}

    assert check(run, "process", 0, 1) == files
    assert check(run, "process", 0, 1, FILES=2) == listed | files
    assert check(run, "merge", 2, LEVEL=1) == listed | files | results
    read = check(run, "merge", 1, LEVEL=2, CLEAN="true") - listed - files - results
    read.remove("aggregation-demo/report.html")  # is the file a page of fanfold?
    assert read - {"aggregation-demo/l2/by-hand/"} == {
        "aggregation-demo/l2/by-hand/0.json",
        *(
            path
            for path in read
            if re.fullmatch(r"aggregation-demo/l2/by-hand/0-\w{16}\.txt", path)
        ),
    }
    assert len(read) == 3


def test_the_audit_sees(run: Volume) -> None:
    """Every rule above fails if a worker breaks it. Otherwise the audit would prove nothing."""
    crimes = (
        "open(root + '/x', 'w')",
        "open(root + '/x', 'ab')",
        "open(root + '/log-count-data.txt', 'r+b')",
        "open(root + '/split-output/1.txt', 'xb')",
        "os.stat(root + '/log-count-data.txt')",
        "os.path.getsize(root + '/log-count-data.txt')",
        "os.path.exists(root + '/log-count-data.txt')",
        "os.listdir(root)",
        "os.rename(root + '/in', root + '/out')",
        "os.remove(root + '/split-output/2.txt')",
        "os.symlink('x', root + '/x')",
        "os.chmod(root + '/log-count-data.txt', 0o600)",
        "os.truncate(root + '/log-count-data.txt', 1)",
        "import fcntl; fcntl.flock(2, fcntl.LOCK_SH)",
        "import mmap; mmap.mmap(-1, 10)",
        "os.system('true')",
    )
    for crime in ("pass", *crimes):
        with Volume.temporary() as volume, pytest.MonkeyPatch.context() as patch:
            volume.write(INPUT, b"")
            (volume.root / "in").mkdir()
            volume.write("split-output/2.txt", b"")
            patch.setitem(globals(), "PROLOGUE", f"{PROLOGUE}    {crime}\n")
            if crime == "pass":
                check(volume, "split")
                continue
            with pytest.raises(AssertionError) as caught:
                check(volume, "split")
            assert "Traceback" not in str(caught.value), crime
