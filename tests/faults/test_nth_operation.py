"""A storage that fails, stops short or kills the process at its Nth operation, for every N.

After each: a reader sees a whole old output or a whole new one, an error is one sentence and leaves
no temporary file, and a rerun ends with the same bytes.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from itertools import count as numbers

import contract
import faulty
import pytest
from pipeline import INPUT, BucketPath, Tree, Volume, pieces_of

pytestmark = pytest.mark.usefixtures("storage")

DATA = b"INFO 1\nWARN 2\nERROR 3\nDEBUG 4\nINFO 5\nINFO 6\n" * 3

FILES = {
    name: DATA[at : at + 50] + b"\n" for name, at in {"in/a": 0, "in/b/c": 40, "in/d": 90}.items()
}
Settings = dict[str, object]
ONE: Settings = {"NUM_PARTS": 3}
MANY: Settings = {"NUM_PARTS": 4, "INPUT": "in/"}
OLD: Settings = {"NUM_PARTS": 6, "KEYWORDS": "1,2"}

# What has been run before, and what is run on the faulty storage, with which settings.
SCENARIOS: dict[str, tuple[list[tuple[str, Settings]], str, Settings]] = {
    "split copy": ([], "split", ONE),
    "split copy of many": ([], "split", MANY),
    "split copy over a larger one": ([("log_count", OLD)], "split", ONE),
    "split copy over itself": ([("log_count", ONE)], "split", ONE),
    "split range": ([], "split", {**MANY, "SPLIT_MODE": "range"}),
    "split range over copy": ([("log_count", ONE)], "split", {**ONE, "SPLIT_MODE": "range"}),
    "split what is missing": (
        [("split", ONE), ("count 0", ONE)],
        "split",
        {**ONE, "ONLY_MISSING": "true"},
    ),
    "count a copy": ([("split", ONE)], "count 1", {}),
    "count a range": ([("split", {**MANY, "SPLIT_MODE": "range"})], "count 1", {}),
    "count again": ([("log_count", ONE)], "count 1", {}),
    "merge": ([("split", ONE), ("count 0 1 2", {})], "merge", ONE),
    "merge again": ([("log_count", ONE)], "merge", ONE),
    "process": ([], "process 0 1", {}),
    "merge files": ([], "merge 4", {"LEVEL": 1}),
}


@pytest.fixture(params=list(SCENARIOS.values()), ids=list(SCENARIOS))
def scenario(volume: Volume, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    """A volume as it is before the run, and the run."""
    given, command, settings = request.param
    for name, data in {INPUT: DATA, **FILES}.items():
        volume.write(name, data)
    for number in range(4):
        volume.write(f"given/aggregation-demo/l1/{number}.txt", b"%d\r\n" % number * number)
    before = volume.having(RUN_DIR="given")
    for step, step_settings in given:
        what, *part_ids = step.split()
        if what == "count":
            before.count(part_ids, **step_settings)
        else:
            getattr(before, what)(**step_settings)
    older = [more for step, more in given if step == "log_count"]
    with pieces_of(32):
        yield Scenario(before, command, settings, older[0] if older else {})


class Scenario:
    """One run, again and again from the same start, each in a RUN_DIR of its own."""

    def __init__(self, given: Volume, command: str, settings: Settings, older: Settings) -> None:
        """Run it once without a fault, which is what all others have to end with."""
        self.given, self.older, self.names = given, older, numbers()
        self.worker, *arguments = command.split()
        part = dict(zip(["PART_ID"], arguments if self.worker == "count" else [], strict=False))
        self.arguments = [] if part else arguments
        self.settings = {**settings, **part}
        self.before = visible(given)
        clean = self.start()
        with faulty.operations(lambda *_: None) as self.operations:
            self.output = self.run(clean)
        self.after = visible(clean)
        assert self.after != self.before or self.output[0] == 0
        assert clean.temporary_files() == []

    def moments(self) -> list[int]:
        """Which N to try: every one, or of a bucket's requests, which take their time, a few.
        tests/oss has every request of every worker."""
        every = range(len(self.operations))
        few = BucketPath.place and (6 if BucketPath.place.fake else 2)
        return list(every[:: max(1, len(every) // few)] if few else every)

    def start(self) -> Volume:
        """A fresh copy of what was there before."""
        return self.given.copy_run(f"run{next(self.names)}")

    def run(self, volume: Volume) -> tuple[int, str, str]:
        """Run the worker once."""
        outcome = volume.run(self.worker, *self.arguments, **self.settings)
        return outcome.code, outcome.output, outcome.words

    def check(self, volume: Volume) -> None:
        """No reader sees a half result now, and a rerun ends as the clean run did."""
        found = visible(volume)
        for name, data in found.items():
            no_plan = name == contract.PLAN and data == contract.NO_PLAN
            assert no_plan or data in (self.before.get(name, b"?"), self.after.get(name, b"?")), (
                name
            )
        if self.worker == "split" and self.older:
            self.check_older_run(volume)
        code, output, _ = self.run(volume)
        assert (code, output) == (0, self.output[1])
        assert visible(volume) == self.after
        assert volume.uploads() == []
        volume.remove_run()

    def check_older_run(self, volume: Volume) -> None:
        """The maps and the merge of the run before, if they go on now, make its total or none."""
        old = volume.copy_run(f"{volume.settings['RUN_DIR']}-old").having(**self.older)
        (old.run_dir / "result.json").unlink()
        for number in range(int(old.settings["NUM_PARTS"])):
            old.run("count", PART_ID=number)
        old.run("merge")
        assert visible(old).get("result.json") in (None, self.before["result.json"])
        old.remove_run()


def visible(volume: Volume) -> Tree:
    """The files of a run that a reader may take, without the times in the results."""
    return {
        name: re.sub(rb'"(start|end)":"[^"]*"', b"", path.read_bytes())
        for path in sorted(volume.run_dir.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
        for name in [str(path.relative_to(volume.run_dir))]
    }


# Errors by the exit codes that they may lead to; an input that is not there is the operator's.
ERRORS = {
    "that a retry can mend": ({75}, ("EIO", "ENOSPC", "ESTALE")),
    "that somebody must mend": ({2}, ("EACCES", "EROFS", "EPERM")),
    "not there": ({75, 2}, ("ENOENT",)),
}


@pytest.mark.parametrize(("codes", "errors"), ERRORS.values(), ids=ERRORS)
def test_fails(scenario: Scenario, codes: set[int], errors: tuple[str, ...]) -> None:
    """The Nth operation fails: the exit code of that error, one sentence, no temporary file. Where
    there is another way to the same bytes the worker may take it."""
    for nth in scenario.moments():
        number = getattr(errno, errors[nth % len(errors)])

        def fail(at: int, name: str, nth: int = nth, number: int = number) -> None:
            if at == nth:
                raise OSError(number, os.strerror(number), f"the {name}")

        volume = scenario.start()
        with faulty.operations(fail) as seen:
            code, output, words = scenario.run(volume)

        what = f"{errno.errorcode[number]} at {nth} of {seen}"
        assert code in {0} | codes, what
        assert volume.hidden_files() == [], what
        assert words.count("\n") == 1, what
        if code:
            assert output == "", what
        else:
            assert visible(volume) == scenario.after, what
        scenario.check(volume)


def test_is_done_and_fails(scenario: Scenario) -> None:
    """The Nth operation is done and still reports an error, as a close over a network may."""
    for nth in scenario.moments():
        volume = scenario.start()

        def afterwards(at: int, _: str, nth: int = nth) -> str | None:
            return faulty.AFTER if at == nth else None

        with faulty.operations(afterwards):
            code, output, words = scenario.run(volume)

        assert code in (0, 75)
        assert code == 0 or output == ""
        assert volume.hidden_files() == []
        assert words.count("\n") == 1
        scenario.check(volume)


def test_stops_short(scenario: Scenario) -> None:
    """Reads and writes that do half of what was asked, one or all of them, change nothing."""
    for nth in [*scenario.moments(), None]:

        def half(at: int, _: str, nth: int | None = nth) -> str | None:
            return faulty.SHORT if nth in (at, None) else None

        if nth is None and scenario.given.in_bucket:
            continue  # a request whose answer always breaks off is one that fails
        volume = scenario.start()
        with faulty.operations(half, attempts=2):
            code, output, _ = scenario.run(volume)

        assert (code, output) == scenario.output[:2]
        assert visible(volume) == scenario.after
        volume.remove_run()


def test_is_killed(scenario: Scenario) -> None:
    """SIGKILL at the Nth operation: what lies there is whole, and the rerun, which finds the
    temporary file of the first run, ends with the same bytes."""
    for nth in scenario.moments():
        volume = scenario.start()
        child = os.fork()
        if child == 0:
            try:
                with faulty.operations(partial(kill, nth)):
                    scenario.run(volume)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)

        assert os.WIFSIGNALED(status), f"the run had no operation {nth}"
        assert len(volume.hidden_files()) <= 1
        scenario.check(volume)


def kill(nth: int, at: int, _: str) -> None:
    """End this process, as the kernel would, at its Nth operation."""
    if at == nth:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.folder
def test_the_storage_is_seen() -> None:
    """The faulty storage sees every kind of operation that the workers use: else the tests above
    would test nothing."""
    with Volume.temporary(INPUT="in/", NUM_PARTS=2) as volume:
        for name, data in FILES.items():
            volume.write(name, data)
        with pieces_of(8), faulty.operations(lambda *_: None) as seen:
            volume.log_count()

        assert {"open", "close", "pread", "fstat", "write", "replace", "fsync", "scandir"} <= set(
            seen
        )
        assert {"copy_file_range", "makedirs"} <= set(seen)


def test_the_requests_are_seen() -> None:
    """The same for a bucket."""
    with Volume.temporary(INPUT="in/", NUM_PARTS=2) as volume:
        for name, data in FILES.items():
            volume.write(name, data)
        volume.write("in/e", DATA * 2000)  # enough for OSS to make the copies
        with faulty.operations(lambda *_: None) as seen:
            volume.log_count()

        assert {"GET", "HEAD", "PUT", "POST"} <= set(seen) or not volume.in_bucket
