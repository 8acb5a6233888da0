"""ONLY_MISSING=true: a rerun fans out over what is left, and over nothing else."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable

import oss
import pytest
import store
from pipeline import INPUT, KEYWORDS, Volume, model

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n" * 7
PARTS = 6
ALL = [str(number) for number in range(PARTS)]


@pytest.fixture(params=["copy", "range"])
def done(volume: Volume, request: pytest.FixtureRequest) -> Volume:
    """A volume on which a run with PARTS parts has ended well."""
    volume.write(INPUT, DATA)
    made = volume.having(NUM_PARTS=PARTS, SPLIT_MODE=request.param, ONLY_MISSING="true")
    made.log_count()
    return made


def edit(**changes: object) -> Callable[[bytes], bytes]:
    """An edit of a result's JSON."""
    return lambda text: json.dumps({**json.loads(text), **changes}).encode()


# What is wrong with a result, and the word that merge.py has for it.
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "missing": ("missing", lambda _: None),
    "empty": ("corrupt", lambda _: b""),
    "truncated": ("corrupt", lambda text: text[:-3]),
    "not UTF-8": ("corrupt", lambda text: b"\xff" + text),
    "an array": ("corrupt", lambda text: b"[%b]" % text),
    "a number": ("corrupt", lambda _: b"7"),
    "nested too deeply": ("corrupt", lambda _: b"[" * 100_000),
    "without counts": ("corrupt", lambda _: b"{}"),
    "of another format": ("corrupt", edit(format=2)),
    "a count that is a string": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS, "1"))),
    "a count that is true": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS, True))),
    "a count that is null": ("corrupt", edit(counts=dict.fromkeys(KEYWORDS))),
    "of another plan": ("stale", edit(plan="0" * 64)),
    "of another part": ("stale", edit(part="1")),
    "of other keywords": ("stale", edit(keywords=[*KEYWORDS, "FATAL"])),
    "keywords in another order": ("stale", edit(keywords=list(reversed(KEYWORDS)))),
    "of a map of one's own": ("stale", edit(settings="0" * 64, keywords=None)),
    "one count too few": ("stale", edit(counts={"INFO": 1})),
    "one count too many": ("stale", edit(counts=dict.fromkeys((*KEYWORDS, "FATAL"), 1))),
    "one byte short": ("short", lambda text: edit(bytes=json.loads(text)["bytes"] - 1)(text)),
    "one byte more": ("short", lambda text: edit(bytes=json.loads(text)["bytes"] + 1)(text)),
}


def test_nothing_is_left(done: Volume) -> None:
    """After a run that ended well: [], and the copies and results stay as they are."""
    before = done.tree()

    assert done.split() == []
    assert done.tree() == before


def test_without_it_all_parts_are_mapped(done: Volume) -> None:
    """The default lists every part, whatever is there."""
    assert done.split(ONLY_MISSING="false") == ALL


@pytest.mark.parametrize(("problem", "change"), BROKEN.values(), ids=BROKEN)
def test_a_result_that_is_not_valid(
    done: Volume, problem: str, change: Callable[[bytes], bytes | None]
) -> None:
    """merge.py takes no such result, writes nothing and names the part; ONLY_MISSING lists just
    that part, and when it is counted again the total is right."""
    part, total = done.result_path("0"), done.run_dir / "result.json"
    if (text := change(part.read_bytes())) is None:
        part.unlink()
    else:
        part.write_bytes(text)
    total.write_bytes(b"an older one")
    before = done.tree()
    outcome = done.run("merge")

    assert outcome.code == (75 if problem == "missing" else 2)
    assert f"1 {problem} (0)" in outcome.words
    assert ("retry" in outcome.words) == (problem == "missing")
    assert done.tree() == before

    assert done.split() == ["0"]
    done.count(["0"])
    done.merge()
    assert done.totals() == model([DATA])


def test_other_keywords(done: Volume) -> None:
    """The results of other keywords are no results for these; the plan stays what it was."""
    plan = done.plan()

    assert done.split(KEYWORDS="1,2") == ALL
    assert done.plan() == plan
    assert done.split() == []


@pytest.mark.parametrize("data", [DATA + b"\n", DATA.replace(b"5", b"9"), b""])
def test_a_changed_input(done: Volume, data: bytes) -> None:
    """After a change of the input all parts are mapped again, even if it has its size still."""
    old = done.run_dir / "cout-output"
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    done.write(INPUT, data)

    assert done.split() == ALL
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    done.count(ALL)
    done.merge()
    assert done.totals() == model([data])


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_an_input_changed_in_the_middle(volume: Volume, mode: str) -> None:
    """An input of the same size, changed far from the ends of its parts, is another input: no copy
    and no result of the old one counts for it."""
    data = (DATA * 500)[:100_000]
    done = volume.having(NUM_PARTS=2, SPLIT_MODE=mode, ONLY_MISSING="true")
    done.write(INPUT, data)
    done.log_count()
    data = data[:25_000] + data[25_000:26_000].replace(b"WARN ", b"ERROR") + data[26_000:]
    done.write(INPUT, data)
    done.log_count()

    assert done.totals() == model([data])


def test_an_input_that_comes_back(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input is replaced by another, whose split makes its copies and then fails, and is put back
    as it was, its version too: none of these copies counts for it."""
    data = (DATA * 500)[:100_000]
    run = volume.having(NUM_PARTS=1, SPLIT_MODE="copy", ONLY_MISSING="true", RUN_DIR="run")
    path = run.write(INPUT, data)
    version = 0 if run.in_bucket else path.stat().st_mtime_ns
    run.split()
    run.write(
        INPUT, data[:25_000] + data[25_000:26_000].replace(b"WARN ", b"ERROR") + data[26_000:]
    )

    def fails(self: store.Store, name: str, pieces: Iterable[bytes]) -> None:
        if b'"parts"' in (content := b"".join(pieces)):
            raise OSError(errno.EIO, "the plan")
        put(self, name, [content])

    kind: type[store.Store] = oss.Bucket if run.in_bucket else store.Store
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
    """A copy is not forced to the disk, so a crash of the node can leave it short, or none: the
    next split makes it again, with ONLY_MISSING too."""
    volume.write(INPUT, DATA)
    done = volume.having(NUM_PARTS=PARTS, ONLY_MISSING="true")
    done.split()
    before = done.copies(PARTS)
    (volume.root / "split-output/2.txt").unlink()
    (volume.root / "split-output/3.txt").write_bytes(before[3][:-1])
    (volume.root / "split-output/4.txt").write_bytes(b"")

    assert done.split() == ALL
    assert done.copies(PARTS) == before


def test_leftovers_of_a_larger_run(done: Volume) -> None:
    """The parts and results of an earlier run with more parts, and the hidden files of pods that
    were killed, are never read."""
    more = done.having(NUM_PARTS=PARTS * 3)
    assert len(more.log_count()) == PARTS * 3
    for name in ("split-output/.0.txt.00.tmp", "cout-output/.0.json.00.tmp", ".result.json.0.tmp"):
        done.write(name, b"{")
    done.write(INPUT, data := b"INFO\nWARN\nINFO\n")

    assert done.split(NUM_PARTS=3) == ["0", "1", "2"]
    for part_id in ["2", "0"]:
        done.count([part_id])
        assert done.run("merge", NUM_PARTS=3).code == 2
    done.count(["1"])
    done.merge(NUM_PARTS=3)
    assert done.totals() == model([data])
