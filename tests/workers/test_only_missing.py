"""ONLY_MISSING=true: a rerun fans out only over the missing parts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fanfold import records
from fanfold.names import REPORT
from fanfold.storage.bucket import Bucket
from fanfold.storage.folder import Folder
from pipeline import INPUT, KEYWORDS, Volume, model

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n" * 7
PARTS = 6
ALL = [str(number) for number in range(PARTS)]


@pytest.fixture(params=["copy", "range"])
def done(volume: Volume, request: pytest.FixtureRequest) -> Volume:
    """A volume with a finished run of PARTS parts."""
    volume.write(INPUT, DATA)
    made = volume.having(NUM_PARTS=PARTS, SPLIT_MODE=request.param, ONLY_MISSING="true")
    made.log_count()
    return made


def edit(**changes: object) -> Callable[[bytes], bytes]:
    """Change fields of a valid record."""
    return lambda text: records.seal({**records.unseal(text), **changes})


# The damage to a record, and merge.py's word for it.
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "missing": ("missing", lambda _: None),
    "empty": ("corrupt", lambda _: b""),
    "not UTF-8": ("corrupt", lambda text: b"\xff" + text),
    "an array": ("corrupt", lambda text: b"[%b]" % text),
    "a number": ("corrupt", lambda _: b"7"),
    "nested too deeply": ("corrupt", lambda _: b"[" * 100_000),
    "a count changed by hand": ("corrupt", lambda text: text.replace(b'"INFO":', b'"INFO":1')),
    "a line too many": ("corrupt", lambda text: text + b"\n"),
    "of version 0.1": ("corrupt", lambda text: json.dumps(json.loads(text)).encode()),
    "of another format": ("corrupt", edit(format=3)),
    "a count that is a string": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS, "1"))),
    "a count that is true": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS, True))),
    "a count that is null": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS))),
    "of another job": ("corrupt", edit(job="0" * 32)),
    "of another part": ("corrupt", edit(part="1")),
    "one byte short": ("short", lambda text: edit(bytes=json.loads(text)["bytes"] - 1)(text)),
    "one byte more": ("short", lambda text: edit(bytes=json.loads(text)["bytes"] + 1)(text)),
}


def test_nothing_is_left(done: Volume) -> None:
    """After a successful run: [] is printed, and no file changes."""
    before = done.tree()

    assert done.split() == []
    assert done.tree() == before


def test_without_it_all_parts_are_mapped(done: Volume) -> None:
    """By default every part is listed, whatever exists."""
    assert done.split(ONLY_MISSING="false") == ALL


@pytest.mark.parametrize(("problem", "change"), BROKEN.values(), ids=BROKEN)
def test_a_result_that_is_not_valid(
    done: Volume, problem: str, change: Callable[[bytes], bytes | None]
) -> None:
    """merge.py refuses such a record, writes nothing and names the part. ONLY_MISSING lists only
    this part. After it is counted again, the total is right."""
    part, total = done.record_path("0"), done.run_dir / "result.json"
    if (text := change(part.read_bytes())) is None:
        part.unlink()
    else:
        part.write_bytes(text)
    total.write_bytes(b"an older one")
    before = done.tree()
    outcome = done.run("merge")

    assert outcome.code == 75  # a mount may show an older file
    assert f"1 {problem} (0): map these parts again" in outcome.words
    assert "a retry on another node can help" in outcome.words
    assert done.tree() == before

    assert done.split() == ["0"]
    done.count(["0"])
    done.merge()
    assert done.totals() == model([DATA])


def test_other_keywords(done: Volume) -> None:
    """Results for other keywords do not count. The plan does not change."""
    plan = done.plan()

    assert done.split(KEYWORDS="1,2") == ALL
    assert done.plan() == plan
    assert done.split() == []


@pytest.mark.parametrize("data", [DATA + b"\n", DATA.replace(b"5", b"9"), b""])
def test_a_changed_input(done: Volume, data: bytes) -> None:
    """After a change of the input, also with the same size, all parts are mapped again. Files of
    the old input stay in place."""
    before = done.tree()
    del before[INPUT], before["split-output/plan.json"], before["result.json"], before[REPORT]
    done.write(INPUT, data)

    assert done.split() == ALL
    done.count(ALL)
    done.merge()
    assert done.totals() == model([data])
    assert before.items() <= done.tree().items()


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_an_input_changed_in_the_middle(volume: Volume, mode: str) -> None:
    """An input of the same size that changed far from the ends of its parts is another input: no
    copy and no result of the old input counts."""
    data = (DATA * 500)[:100_000]
    done = volume.having(NUM_PARTS=2, SPLIT_MODE=mode, ONLY_MISSING="true")
    done.write(INPUT, data)
    done.log_count()
    data = data[:25_000] + data[25_000:26_000].replace(b"WARN ", b"ERROR") + data[26_000:]
    done.write(INPUT, data)
    done.log_count()

    assert done.totals() == model([data])


@pytest.mark.folder
def test_another_log_with_its_old_time(done: Volume) -> None:
    """`cp -p`, `rsync -t` and `tar x` replace a log by another of the same size and time: the new
    log is counted."""
    path = done.root / INPUT
    old = path.stat()
    time.sleep(0.05)  # the clock of ctime ticks every few milliseconds
    (done.root / "other.log").write_bytes(data := DATA.replace(b"WARN ", b"INFO "))
    os.utime(done.root / "other.log", ns=(old.st_atime_ns, old.st_mtime_ns))
    shutil.copy2(done.root / "other.log", path)
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (old.st_mtime_ns, old.st_size)

    assert done.split() == ALL
    done.count(ALL)
    done.merge()
    assert done.totals() == model([data])


def test_an_input_that_comes_back(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input is replaced by another. The split of the other makes copies and fails. Then the
    first input is restored: none of these copies counts for it."""
    data = (DATA * 500)[:100_000]
    run = volume.having(NUM_PARTS=1, SPLIT_MODE="copy", ONLY_MISSING="true", RUN_DIR="run")
    path = run.write(INPUT, data)
    version = 0 if run.in_bucket else path.stat().st_mtime_ns
    run.split()
    run.write(
        INPUT, data[:25_000] + data[25_000:26_000].replace(b"WARN ", b"ERROR") + data[26_000:]
    )

    def fails(self: Any, name: str, pieces: Iterable[bytes]) -> Any:
        if name.endswith("plan.json"):
            raise OSError(errno.EIO, "the plan")
        return put(self, name, pieces)

    kind: Any = Bucket if run.in_bucket else Folder
    put = kind.put
    with monkeypatch.context() as patch:
        patch.setattr(kind, "put", fails)
        assert run.run("split").code == 75
    run.write(INPUT, data)
    if not run.in_bucket:
        os.utime(path, ns=(version, version))
    run.log_count()

    assert run.totals() == model([data])


def test_a_copy_that_is_missing_or_short(volume: Volume) -> None:
    """A copy is not forced to the disk, so after a crash of the node it may be short or missing.
    The next split makes this copy again, also with ONLY_MISSING, and keeps complete copies."""
    volume.write(INPUT, DATA)
    done = volume.having(NUM_PARTS=PARTS, ONLY_MISSING="true")
    done.split()
    before = done.copies(PARTS)
    whole = done.copy_path(1)
    marked = whole.read_bytes().lower()  # shows whether the copy was made again
    whole.write_bytes(marked)
    done.copy_path(2).unlink()
    done.copy_path(3).write_bytes(before[3][:-1])
    done.copy_path(4).write_bytes(b"")

    assert done.split() == ALL
    assert done.copies(PARTS) == [before[0], marked, *before[2:]]


def test_a_copy_goes_on_where_it_stopped(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a split that fails at its fourth copy, the next split makes the remaining copies."""
    volume.write(INPUT, DATA)
    run = volume.having(NUM_PARTS=PARTS)
    kind: Any = Bucket if run.in_bucket else Folder
    monkeypatch.setattr(Bucket, "copies_at_once", 0)
    copy, made = kind.copy, list[str]()

    def copies(self: Any, name: str, *arguments: Any, **more: Any) -> Any:
        if len(made) == 3:
            made.append("")
            raise OSError(errno.EIO, "the fourth copy")
        made.append(name.rpartition("/")[2])
        return copy(self, name, *arguments, **more)

    monkeypatch.setattr(kind, "copy", copies)
    assert run.run("split").code == 75
    assert run.split() == ALL

    assert made == ["0.txt", "1.txt", "2.txt", "", "3.txt", "4.txt", "5.txt"]
    assert b"".join(run.copies(PARTS)) == DATA


def test_leftovers_of_a_larger_run(done: Volume) -> None:
    """Parts and results of an earlier run with more parts, and hidden files of killed pods, are
    never read."""
    more = done.having(NUM_PARTS=PARTS * 3)
    assert len(more.log_count()) == PARTS * 3
    for name in ("split-output/.plan.json.00.tmp", "cout-output/.0.json.00.tmp", ".result.json.0"):
        done.write(name, b"{")
    done.write(INPUT, data := b"INFO\nWARN\nINFO\n")

    assert done.split(NUM_PARTS=3) == ["0", "1", "2"]
    for part_id in ["2", "0"]:
        done.count([part_id])
        assert done.run("merge", NUM_PARTS=3).code == 75
    done.count(["1"])
    done.merge(NUM_PARTS=3)
    assert done.totals() == model([data])
