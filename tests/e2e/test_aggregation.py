"""process-data and aggregate on a real cluster: levels, counts of pods, results."""

from __future__ import annotations

import re

import pytest
from scenario import Volume, argo, pods_of, submit

pytestmark = pytest.mark.e2e


def letters(volume: Volume, run_dir: str, files: int) -> str:
    """Let prepare-data write files; what they hold, in order."""
    submit("prepare-data", files=files, runDir=run_dir).succeed()
    names = (f"{run_dir}/aggregation-demo/l1/{number}.txt" for number in range(files))
    return (
        volume.run("print(*(open(n).read() for n in sys.argv[1:]), sep='')", *names)
        .decode()
        .strip()
    )


@pytest.mark.parametrize(("numbers", "levels"), [(16, [16, 8, 1]), (7, [7, 4, 1])])
def test_process_data(volume: Volume, numbers: int, levels: list[int]) -> None:
    """Three levels: the letters of prepare-data in order, each once, and the tutorial's tree."""
    run_dir = f"e2e/process-{numbers}"
    expected = letters(volume, run_dir, 2 * numbers)

    run = submit("process-data", numbers=numbers, runDir=run_dir)
    found = run.succeed()

    assert re.fullmatch(r"[A-Z]+", expected)
    assert volume.get(f"{run_dir}/aggregation-demo/result.txt").decode() == expected
    assert found["status"]["progress"] == f"{sum(levels)}/{sum(levels)}"
    assert pods_of(found) == {"process-data": sum(levels[:2]), "merge-data": 1}
    tree = argo("get", run.name, "--no-color")
    steps = ("process-data-l1", "process-data-l2", "merge-data")
    assert [len(re.findall(rf"✔ {step}\(", tree)) for step in steps] == levels


@pytest.mark.parametrize(
    ("files", "fan_in", "levels"), [(1, 8, [1]), (20, 3, [7, 3, 1]), (500, 16, [32, 2, 1])]
)
def test_aggregate(volume: Volume, files: int, fan_in: int, levels: list[int]) -> None:
    """Any number of files and any fan-in: as many pods as the tree has nodes, all in order."""
    run_dir = f"e2e/aggregate-{files}"
    expected = letters(volume, run_dir, files)

    found = submit("aggregate", files=files, fanIn=fan_in, runDir=run_dir).succeed()

    assert volume.get(f"{run_dir}/aggregation-demo/result.txt").decode() == expected
    assert sum(pods_of(found).values()) == sum(levels)


def test_a_fan_in_of_one_is_refused(volume: Volume) -> None:
    """A fan-in that would never end fails in one attempt, with the worker's sentence."""
    run = submit("aggregate", files=4, fanIn=1, runDir="e2e/endless")

    found = run.fail()

    assert sum(pods_of(found).values()) == 1
    assert "FAN_IN is '1': give a whole number from 2" in " ".join(argo("get", run.name).split())
