"""A storage that fails, does half of the work or kills the process at its Nth operation, for every
N.

After each: a reader sees a complete old or new output, an error is one message and leaves no
temporary file, and a rerun ends with the same bytes.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import faulty
import pytest
from fanfold.names import REPORT
from fanfold.storage import bucket
from pipeline import BucketPath, Tree, Volume, pieces_of
from runs import (
    ARGO,
    LEVELS,
    MAP,
    OLD,
    SAME,
    STEPS,
    WHOLE,
    Run,
    begin,
    place,
    some,
    write_aside,
)

pytestmark = pytest.mark.usefixtures("storage")

OLDER, NEWER = ARGO


def first(where: Volume, step: str, **settings: object) -> Run:
    """The run as it is before a step."""
    pipeline, at, more = STEPS[step]
    return ready(Run.of(where, pipeline, OLD, **{**OLDER, **more, **settings}), at)


def again(where: Volume, step: str, **settings: object) -> Run:
    """The same after an attempt that has done all of the step."""
    run = first(where, step, **settings)
    assert run.do(STEPS[step][1]) == 0
    return run


def some_done(where: Volume, step: str, **settings: object) -> Run:
    """The same after the next step, too."""
    run = again(where, step, **settings)
    assert run.do(STEPS[step][1] + 1) == 0
    return run


def after_another(where: Volume, step: str, **settings: object) -> Run:
    """The same after another run with another input has published."""
    pipeline, _, more = STEPS[step]
    assert not any(ready(Run.of(where, pipeline, SAME, **{**NEWER, **more}), 0).finish())
    return first(where, step, **settings)


def ready(run: Run, number: int) -> Run:
    """A run with all steps before a step done."""
    run.read_aside()
    assert not any(map(run.do, range(number)))
    return run


def half_done(where: Volume, step: str, **settings: object) -> Run:
    """The same after an attempt that has mapped the first part of a group."""
    run = first(where, step, **settings)
    assert run.volume.run("own", PART_ID=0).code == 0
    return run


SCENARIOS: dict[str, tuple[Callable[..., Run], str, dict[str, object]]] = {
    "split copy": (first, "split copy", {}),
    "split copy after another run": (after_another, "split copy", {}),
    "split copy again": (again, "split copy", {}),
    "split range": (first, "split range", {}),
    "split missing parts": (some_done, "split copy", {"ONLY_MISSING": "true"}),
    "count": (first, "count range", {}),
    "map": (first, "map copy", {}),
    "map again": (again, "map range", {}),
    "group": (first, "group copy", {}),
    "group half done": (half_done, "group range", {}),
    "group by hand": (half_done, "group range", {"RUN_ID": "", "RUN_STARTED": ""}),
    "group only missing": (again, "group copy", {"ONLY_MISSING": "true"}),
    "program": (first, "program copy", {}),
    "program range": (first, "program range", {}),
    "program merge": (first, "program merge", {}),
    "program level 1": (first, "program level 1", {}),
    "program level 2 by hand": (first, "program level 2", {"RUN_ID": "", "RUN_STARTED": ""}),
    "program merge files": (first, "program merge files", {}),
    "merge": (first, "merge copy", {}),
    "merge by hand": (first, "merge range", {"RUN_ID": "", "RUN_STARTED": ""}),
    "merge again": (again, "merge range", {}),
    "merge late": (after_another, "merge copy", {}),
    "merge and clean": (first, "merge copy", {"CLEAN": "true"}),
    "process": (first, "process level 1", {}),
    "process by hand": (first, "process level 1", {"RUN_ID": "", "RUN_STARTED": ""}),
    "process level 2": (first, "process level 2", {}),
    "merge files": (first, "merge files", {}),
    "merge files late": (after_another, "merge files", {}),
    "merge files and clean": (first, "merge files", {"CLEAN": "true"}),
    "join": (first, "join", {}),
    "split files": (first, "split files", {}),
    "map files": (first, "map files", {}),
    "map files again": (again, "map files", {}),
    "merge outputs": (first, "merge outputs", {}),
}
# Operations for which it matters whether they are done, half done, or the last.
WRITES = {"open", "write", "copy_file_range", "close", "fsync", "replace", "unlink", "makedirs"}
HALVES = {"pread", "write", "copy_file_range"}
UNNAMED = {"pread", "fstat", "write", "fsync", "close"}  # their errors name no file
REQUESTS = {"GET", "HEAD", "PUT", "POST", "DELETE"}


IN_FOLDERS = {"split range", "split copy again", "count", "map again", "group by hand",
              "group only missing", "program range", "program merge", "program level 1",
              "merge again", "process", "split files", "map files again"}  # fmt: skip


@pytest.fixture(
    params=[
        pytest.param(scenario, id=name, marks=[pytest.mark.folder] * (name in IN_FOLDERS))
        for name, scenario in SCENARIOS.items()
    ]
)
def scenario(volume: Volume, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A step of a run, and the state before it."""
    with pieces_of(16 if volume.in_bucket else 128), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket, "WHOLE", 1 << 20)
        yield Scenario(volume, *request.param)


class Scenario:
    """One step, repeatedly from the same state, each time in a new RUN_DIR."""

    def __init__(
        self, volume: Volume, start: Callable[..., Run], step: str, settings: dict[str, object]
    ) -> None:
        """Run the step once without a fault: all other runs must end with the same result."""
        write_aside(volume)
        self.volume = volume
        self.start: Callable[[], Run] = lambda: start(place(volume), step, **settings)
        pipeline, self.at, _ = STEPS[step]
        self.step = pipeline.steps[self.at]
        clean = self.start()
        self.before = visible(clean.volume)
        with faulty.operations(lambda *_: None) as self.operations:
            self.output = self.run(clean)
        self.after = visible(clean.volume)
        assert self.output[0] == 0
        assert clean.volume.temporary_files() == []

    def moments(self, kinds: set[str]) -> list[int]:
        """Return the N to test: every operation of some kinds, or some of a bucket's requests,
        which are slow. tests/oss tests every request of every worker."""
        every = [at for at, name in enumerate(self.operations) if name in kinds | REQUESTS]
        few = BucketPath.place and (3 if BucketPath.place.fake else 2)
        return every[len(every) % 2 :: max(1, len(every) // few)] if few else every

    def run(self, run: Run) -> tuple[int, str, str]:
        """Do the step once."""
        outcome = run.volume.run(self.step.worker, *self.step.arguments, **self.step.settings)
        return outcome.code, outcome.output, outcome.words

    def code(self, run: Run) -> int:
        """Do the step once; return its exit code."""
        return self.run(run)[0]

    def check(self, run: Run) -> None:
        """No reader sees a partial result now, and a rerun ends as the clean run did."""
        for name, data in visible(run.volume).items():
            assert data in (self.before.get(name, b"?"), self.after.get(name, b"?")), name
        code, output, words = self.run(run)
        assert (code, output) == (0, self.output[1]), words
        assert visible(run.volume) == self.after
        # Map outputs and results by hand have a new name every time: leftovers are not used.
        names = (name for name in run.volume.uploads() if not re.search("map-output|by-hand", name))
        assert list(names) == []
        run.volume.remove_run()


# Replace what differs between attempts: times, versions, unique words in names, the sizes of
# outputs with these, the heads of own_map.py, and the page, which shows all of them.
VARIES = re.compile(
    rb"""(?x) "(start|end|digest|seconds|job|attempt)":[^,}]* | \[\w+\.\d{15}\]
    | \d{15,}-\d{15,}(-\d+)+ | "[0-9A-F]{32}(-\d+)?" | (?<=[-.])[0-9a-f]{16}\b
    | \d{8}T\d{6}Z(?=-by-hand) | (?<=-by-hand-)\d{6} | (?<="output":")run\d+
    | "([^"]*/)?report\.html":(null|\[[^]]*\])
    | (?<=[0-9a-f]",)\d+(?=,") | (?<=outputs\.jsonl",)\d+(?=,")"""
)


def visible(volume: Volume) -> Tree:
    """Return the files of a run that a reader may use, without what varies. An output counts if a
    record names it; then it must exist completely."""
    there = {
        str(path.relative_to(volume.run_dir)).encode(): path.read_bytes()
        for path in volume.run_dir.rglob("*")
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(REPORT)
    }
    records = b"".join(data for data in there.values() if data.startswith(b'{"digest":'))
    for name, size in re.findall(rb'\["([^"]+)",(\d+),"', records):
        cleaned = b'"finals"' in records and not name.startswith(b"results/")
        assert cleaned or name.endswith(REPORT.encode()) or len(there[name]) == int(size)
    return {
        VARIES.sub(b"", name).decode(): VARIES.sub(b"", data)
        for name, data in there.items()
        if name in records or not re.search(rb"-[0-9a-f]{16}(\.txt)?$", name)
    }


# Errors by their possible exit codes; a missing input is an error for the operator.
ERRORS = [
    (("EIO", "ENOSPC", "ESTALE", "ENXIO"), {0, 75}),
    (("EACCES", "EROFS", "EPERM", "ELOOP", "EINVAL"), {0, 2}),
    (("ENOENT",), {0, 2, 75}),
]


def test_fails(scenario: Scenario) -> None:
    """The Nth operation fails: the exit code of this error, one message that names the file, no
    temporary file. If there is another way to the same bytes, the worker may use it."""
    moments = scenario.moments(set(scenario.operations))
    for nth, (errors, codes) in some(scenario.volume, product(moments, ERRORS), 3):
        number = getattr(errno, errors[nth % len(errors)])

        def fail(at: int, name: str, nth: int = nth, number: int = number) -> None:
            if at == nth:
                named = [f"the {name}"] * (name not in UNNAMED)
                raise OSError(number, os.strerror(number), *named)

        run = scenario.start()
        with faulty.operations(fail) as seen:
            code, output, words = scenario.run(run)

        what = f"{errno.errorcode[number]} at {nth} of {seen}"
        assert code in codes, what
        assert run.volume.hidden_files() == [], what
        assert words.count("event=failed") == (code != 0), what
        if code:
            assert output == "", what
            named = number == errno.ENOENT or seen[nth] not in UNNAMED
            assert named or f"{run.volume.root}/" in words, what
        else:
            # More files, if the storage reports that a file to remove is missing.
            assert scenario.after.items() <= visible(run.volume).items(), what
        scenario.check(run)


def test_is_done_and_fails(scenario: Scenario) -> None:
    """The Nth operation succeeds but reports an error, as a close over a network may."""
    for nth in scenario.moments(WRITES):
        run = scenario.start()

        def afterwards(at: int, _: str, nth: int = nth) -> str | None:
            return faulty.AFTER if at == nth else None

        with faulty.operations(afterwards):
            code, output, words = scenario.run(run)

        assert code in (0, 75)
        assert code == 0 or output == ""
        assert run.volume.hidden_files() == []
        assert words.count("event=failed") == (code != 0)
        scenario.check(run)


def test_stops_short(scenario: Scenario) -> None:
    """Reads and writes that do half of the work, once or always, change nothing."""
    for nth in [*scenario.moments(HALVES), None]:

        def half(at: int, _: str, nth: int | None = nth) -> str | None:
            return faulty.SHORT if nth in (at, None) else None

        run = scenario.start()
        if nth is None and run.volume.in_bucket:
            continue  # an answer that always breaks off is a failed request
        with faulty.operations(half, attempts=2):
            code, output, _ = scenario.run(run)

        assert (code, output) == scenario.output[:2]
        assert visible(run.volume) == scenario.after
        run.volume.remove_run()


def test_is_killed(scenario: Scenario) -> None:
    """SIGKILL at the Nth operation: all visible files are complete, and the rerun, which finds the
    temporary file of the first run, ends with the same bytes."""
    for nth in scenario.moments(WRITES):
        run = scenario.start()
        with faulty.Stopped(partial(scenario.code, run), -1, nth) as killed:
            assert killed.code == -signal.SIGKILL, f"the run had no operation {nth}"

        assert len(run.volume.hidden_files()) <= 2  # of a part and of one of its files
        scenario.check(run)


@pytest.mark.parametrize("at", range(4), ids=["split", "map", "map 2", "merge"])
def test_a_takeover_that_ends(volume: Volume, at: int) -> None:
    """A run takes one of its files over from another run. Its step fails or is killed at the Nth
    operation, and is retried: the results are right."""
    write_aside(volume)

    def start() -> Run:
        where = place(volume)
        before = Run.of(where, WHOLE, OLD, **OLDER).read_aside()
        before.volume = before.volume.having(INPUT=f"{OLD}/in/a")
        assert not any(before.finish())
        return ready(Run.of(where, WHOLE, OLD, **NEWER, ONLY_MISSING="true"), at)

    run = start()
    with faulty.operations(lambda *_: None) as seen:
        assert run.do(at) == 0
    moments = [nth for nth, name in enumerate(seen) if name in WRITES | REQUESTS]
    for nth in some(volume, moments, 6):
        for kill in (False, True):

            def fail(number: int, _: str, nth: int = nth) -> None:
                if number == nth:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            run = start()
            if kill:
                with faulty.Stopped(partial(run.do, at), -1, nth) as killed:
                    assert killed.code == -signal.SIGKILL
            else:
                assert run.do(at, fail) in (0, 75), nth
            assert not any(run.finish(at)), nth
            assert run.final() == run.results() == run.right, nth
            assert run.volume.summary()["taken"] == 1
            run.volume.remove_run()


def test_the_storage_is_seen(volume: Volume) -> None:
    """The faulty storage sees every kind of operation that the workers use. Otherwise the tests
    above would prove nothing."""
    seen = set[str]()
    for pipeline in (MAP, LEVELS):
        run = begin(Run.of(place(volume, CLEAN="true"), pipeline, OLD, **OLDER), 0)
        with pieces_of(16):
            for number in range(pipeline.last + 1):
                assert run.do(number, lambda _, name: seen.add(name)) == 0

    assert seen == REQUESTS if volume.in_bucket else seen >= WRITES | HALVES | {"scandir", "fstat"}


@pytest.mark.folder
@pytest.mark.parametrize("step", STEPS)
def test_on_the_disk_before_the_name(volume: Volume, step: str) -> None:
    """After a power cut no name has bytes that are not on the disk: each file is synced before it
    gets its name."""
    write_aside(volume)
    run = first(place(volume), step)
    with faulty.operations(lambda *_: None) as seen:
        assert run.do(STEPS[step][1]) == 0
    order = [name for name in seen if name in ("fsync", "replace")]
    assert order == ["fsync", "replace"] * (len(order) // 2)
    assert order
