"""Two runs in one run directory, or two attempts of one step, at every moment of each other.

With RUN_ID the newer run succeeds whatever an older run does, and has the final names. The older
run has a right result under its own name in results/, or fails. By hand the result is right, or
there is none.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import faulty
import pytest
from pipeline import Volume
from runs import (
    ARGO,
    BY_HAND,
    COPY,
    COUNT,
    FILES,
    JOIN,
    LEVELS,
    MAP,
    MAY_NOTICE,
    OLD,
    OTHER,
    OTHER_WORDS,
    PROGRAM,
    PROGRAMS,
    SAME,
    STEPS,
    THREE_PARTS,
    Pipeline,
    Run,
    begin,
    moments,
    nested,
    place,
    some,
    write_aside,
)

pytestmark = pytest.mark.usefixtures("storage")

each_step = pytest.mark.parametrize("step", STEPS)
each_mode = pytest.mark.parametrize("ids", [ARGO, BY_HAND], ids=["argo", "by hand"])


def go_on_late(
    volume: Volume,
    stopped: tuple[Pipeline, int, dict[str, str]],
    after: Pipeline,
    variant: str,
    ids: tuple[Any, ...],
) -> None:
    """A step of an older run is stopped at any moment and continues after any step of a newer run.
    The remaining steps of both follow, in either order."""
    pipeline, at, settings = stopped
    stops = moments(Run.of(place(volume, **settings), pipeline, OLD, **ids[0]), at)
    for moment, steps in some(volume, product(stops, range(len(after.steps) + 1)), 8):
        where = place(volume, **settings)
        older = begin(Run.of(where, pipeline, OLD, **ids[0]), at)
        newer = Run.of(where, after, variant, **ids[1])
        ends: list[int] = []

        def meanwhile(steps: int = steps, newer: Run = newer, ends: list[int] = ends) -> None:
            newer.write()
            ends += map(newer.do, range(steps))

        late = [older.do(at, nested(moment, meanwhile))]
        assert len(ends) == steps
        if moment % 2:
            ends += newer.finish(steps)
        if late == [0] or ids is BY_HAND:
            late += older.finish(at + 1)
        if not moment % 2:
            ends += newer.finish(steps)

        assert {*ends, *late} <= {0, 2, 75}
        if ids is ARGO:
            assert not any(ends), (moment, steps)
            assert newer.final() == newer.results() == newer.right, (moment, steps)
            # the step may not have started to read
            its_own = [older.right, *[newer.right] * (at == 0)]
            assert older.results() in ([{}] if any(late) else its_own), (moment, steps)
        else:
            refused = ends[-1] and at < pipeline.last
            right = [older.right, newer.right] if older.files is newer.files else [newer.right]
            assert newer.final() in right + [{}] * bool(refused), (moment, steps)
            again = Run.of(where, after, variant)
            assert not any(again.finish()), (moment, steps)
            assert again.final() == again.right


@each_mode
@pytest.mark.parametrize("variant", [SAME, OTHER])
@each_step
def test_an_older_run_goes_on(volume: Volume, step: str, variant: str, ids: Any) -> None:
    """The newer run has another input, in files of the same or other sizes."""
    go_on_late(volume, STEPS[step], STEPS[step][0], variant, ids)


@each_mode
@pytest.mark.parametrize("after", [THREE_PARTS, OTHER_WORDS], ids=lambda after: after.name)
@pytest.mark.parametrize("at", [0, 1, 3], ids=["split", "count", "merge"])
def test_an_older_run_of_one_input_goes_on(
    volume: Volume, at: int, after: Pipeline, ids: Any
) -> None:
    """The newer run has the same input, with other cuts or other keywords."""
    go_on_late(volume, (COUNT, at, COPY), after, OLD, ids)


@each_step
def test_two_attempts(volume: Volume, step: str) -> None:
    """Two attempts of one step, each stopped at any moment (SIGSTOP) while the other continues.
    Both succeed, but a last step may need a retry. The output and numbers of every part are from
    one attempt."""
    pipeline, at, settings = STEPS[step]
    argo = {**settings, **ARGO[0]}
    stops = moments(Run.of(place(volume), pipeline, OLD, **argo), at)
    for one, two in some(volume, product(stops, repeat=2), 4):
        run = begin(Run.of(place(volume), pipeline, OLD, **argo), at)
        attempt = partial(run.do, at)
        with faulty.Stopped(attempt, one) as first:
            assert first.code is None
            if step.startswith("merge "):
                # so that the next attempt finds another attempt's output
                assert run.do(at - 1) == 0
            with faulty.Stopped(attempt, two) as second:
                ends = [first.go_on(), second.go_on()]

        assert set(ends) <= {0, 75 if at == pipeline.last else 0}, (one, two)
        assert not any(run.finish(at)), (one, two)
        assert run.final() == run.results() == run.right, (one, two)


@pytest.mark.parametrize("step", ["merge copy", "merge range", "merge files"])
def test_a_merge_while_a_part_is_made_again(volume: Volume, step: str) -> None:
    """A late pod of this run writes another output and record at any moment of the merge: the merge
    uses either of them."""
    pipeline, at, settings = STEPS[step]
    argo = {**settings, **ARGO[0]}
    stops = moments(Run.of(place(volume), pipeline, OLD, **argo), at, MAY_NOTICE)
    for moment in some(volume, stops, 4):
        run = begin(Run.of(place(volume), pipeline, OLD, **argo), at)
        assert run.do(at, nested(moment, lambda: run.do(at - 1))) == 0, moment  # noqa: B023
        assert run.final() == run.results() == run.right, moment


@pytest.mark.parametrize("pipeline", [MAP, JOIN], ids=["merge", "merge files"])
@pytest.mark.parametrize("killed", [False, True], ids=["fails", "is killed"])
def test_between_look_and_write(volume: Volume, pipeline: Pipeline, killed: bool) -> None:
    """The last step of an older run has found no newer run. Before it writes a final name a newer
    run publishes, and then the older step fails or is killed at any moment. Until the next attempt
    a final name may have the older result, but results/ is right."""
    at = pipeline.last

    def both() -> tuple[Run, Run]:
        where = place(volume)
        newer = begin(Run.of(where, pipeline, SAME, **ARGO[1]), at)
        return begin(Run.of(where, pipeline, OLD, **ARGO[0]), at), newer

    def publish(newer: Run) -> None:
        newer.write()
        assert newer.do(at) == 0

    for moment in moments(both()[0], at)[-3:]:
        code, end = 1, moment
        while code:
            end += 3 if volume.in_bucket else 1
            older, newer = both()
            if killed:
                with faulty.Stopped(partial(older.do, at), moment, end) as late:
                    publish(newer)
                    code = late.go_on()
            else:

                def fail(number: int, _: str, newer: Run = newer, end: int = end) -> None:
                    if number == moment:  # noqa: B023
                        publish(newer)
                    if number == end:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))

                code = older.do(at, fail)

            assert code in (0, -signal.SIGKILL if killed else 75)
            assert newer.results() == newer.right
            for name in newer.right:
                published = [
                    found.get(os.path.basename(name)) for found in newer.volume.results().values()
                ]
                assert newer.volume.final(name) in published, (moment, end)
            assert older.do(at) == 0
            assert newer.final() == newer.right


@dataclass
class Driven:
    """A run with a process per step. For each step three attempts are killed at a random moment,
    unless they end earlier, and the next attempt is not killed."""

    run: Run
    id_file: Path
    step = attempts = killed = pid = 0
    end = 0.0

    def go_on(self, dice: random.Random, longest: float) -> None:
        """Start an attempt, kill it if its time has come, and check whether it has ended."""
        if not self.pid:
            self.end = time.monotonic() + (dice.uniform(0, longest) if self.attempts < 3 else 60)
            self.pid = os.fork()
            if self.pid == 0:
                code = 1
                try:
                    code = self.run.do(self.step)
                finally:
                    os._exit(code)
        if time.monotonic() > self.end:
            os.kill(self.pid, signal.SIGKILL)
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            assert code in (0, -signal.SIGKILL)
            self.pid, self.attempts, self.killed = 0, self.attempts + 1, self.killed + (code != 0)
            if code == 0:
                self.step, self.attempts = self.step + 1, 0
            if self.step and self.id_file.exists():
                self.run.volume = self.run.volume.having(PLAN_ID=self.id_file.read_text())


@pytest.mark.parametrize(
    "pipeline", [MAP, LEVELS, PROGRAM, PROGRAMS], ids=lambda pipeline: pipeline.name
)
def test_two_runs_and_sigkill(volume: Volume, tmp_path: Path, pipeline: Pipeline) -> None:
    """Two runs in parallel, with real processes that are killed in every step at random moments,
    and retried: both succeed, each in results/, and the newer run has the final names."""
    dice, longest = random.Random(9), 0.05 if volume.in_bucket else 0.01
    killed, files = 0, [tmp_path / "older", tmp_path / "newer"]
    write_aside(volume)
    for _ in range(3 if volume.in_bucket else 12):
        where = place(volume)
        older, newer = (
            Driven(Run.of(where, pipeline, variant, PLAN_ID_FILE=file, **ids).read_aside(), file)
            for ids, file, variant in zip(
                ARGO, files, (OLD, OLD if pipeline.inputs is FILES else OTHER), strict=True
            )
        )
        while going := [one for one in (older, newer) if one.step <= pipeline.last]:
            for one in going:
                one.go_on(dice, longest)
            time.sleep(0.0005)

        assert older.run.results() == older.run.right
        assert newer.run.results() == newer.run.final() == newer.run.right
        killed += older.killed + newer.killed
        for file in files:
            file.unlink(missing_ok=True)
    assert killed > 10
