"""process-data and aggregate on a real cluster: levels, counts of pods, results."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from typing import Any

import pytest
from scenario import (
    Volume,
    argo,
    check_three_levels,
    own_join,
    pods_of,
    submit,
    submit_variant,
    template_of,
)

pytestmark = pytest.mark.e2e


def letters(volume: Volume, run_dir: str, files: int) -> str:
    """Run prepare-data; return the content of its files in order."""
    submit("prepare-data", files=files, runDir=run_dir).succeed()
    return volume.join(f"{run_dir}/aggregation-demo/l1", files)


@pytest.mark.each_argo
def test_process_data_with_an_odd_number(volume: Volume) -> None:
    """Three levels; the last file of the second level has no pair."""
    run_dir = "e2e/process-7"
    letters(volume, run_dir, 14)

    run = submit("process-data", numbers=7, runDir=run_dir)
    run.succeed()

    check_three_levels(volume, run, [7, 4, 1], run_dir)


@pytest.mark.parametrize(
    ("files", "fan_in", "levels"), [(1, 8, [1]), (20, 3, [7, 3, 1]), (500, 64, [8, 1])]
)
def test_aggregate(volume: Volume, files: int, fan_in: int, levels: list[int]) -> None:
    """Any number of files and any fan-in: one pod per node of the tree, and the files in order.
    With `clean`, no file of a level between is left. `argo get` shows the result at any depth."""
    run_dir = f"e2e/aggregate-{files}"
    expected = letters(volume, run_dir, files)
    run = submit("aggregate", files=files, fanIn=fan_in, clean="true", runDir=run_dir)

    found = run.succeed()

    assert volume.get(f"{run_dir}/aggregation-demo/result.txt").decode() == expected
    assert own_join(volume, found, run_dir) == expected
    assert sum(pods_of(found).values()) == sum(levels)
    names = volume.files(f"{run_dir}/aggregation-demo")
    level_1 = [f"l1/{number}.txt" for number in range(files)]
    assert sorted(names) == sorted(["result.txt", "report.html", *level_1])
    assert re.search(rf'^ +result: +{{"bytes": {files}, ', argo("get", run.name), re.MULTILINE)


def test_512_files_are_73_pods(volume: Volume) -> None:
    """Argo computes 73 pods for 512 files; pairs would need 511. Templates without pods replace the
    pods, which the cases above test."""

    def without_pods(spec: dict[str, Any]) -> None:
        for step in chain.from_iterable(template_of(spec, "level")["steps"]):
            if step.pop("templateRef", None):
                step["template"] = "no-pod"
        inputs = {"parameters": [{"name": "level"}]}
        spec["templates"].append({"name": "no-pod", "inputs": inputs, "suspend": {"duration": "0"}})

    found = submit_variant(
        "aggregate", without_pods, files="512", fanIn="8", runDir="e2e/aggregate-512"
    ).succeed()

    nodes = found["status"]["nodes"].values()
    levels = Counter(
        node["inputs"]["parameters"][0]["value"] for node in nodes if node["type"] == "Suspend"
    )
    assert levels == {"1": 64, "2": 8, "3": 1}
    assert levels.total() == 73


@pytest.mark.parametrize(
    ("template", "parameters", "sentence"),
    [
        (
            "aggregate",
            {"files": 4, "fanIn": 1},
            "FAN_IN must be a whole number from 2 to 1000000000, got '1'",
        ),
        (
            "aggregate",
            {"files": "abc"},
            "a whole number from 1 to 1000000000, got 'abc files, 8 per pod (at most 5000",
        ),
        ("aggregate", {"files": 35_001}, "got '35001 files, 8 per pod (at most 5000"),
        ("aggregate", {"files": 8, "fanIn": 8}, "l1/0.txt, got no such file: copy the file there"),
        ("process-data", {"numbers": 1}, "l1/0.txt, got no such file: copy the file there"),
        ("process-data", {"numbers": -1}, "got '2 * -1 (numbers, 1 to 3000)'"),
        ("process-data", {"numbers": 3001}, "got '2 * 3001 (numbers, 1 to"),
        (
            "prepare-data",
            {"files": -3},
            "FILES must be a whole number from 1 to 1000000000, got '-3'",
        ),
        (
            "prepare-data",
            {"runDir": "/etc"},
            "RUN_DIR must be a name in WORK_DIR, with no leading / or .., got '/etc'",
        ),
        (
            "prepare-data",
            {"runDir": ".."},
            "RUN_DIR must be a name in WORK_DIR, with no leading / or .., got '..'",
        ),
    ],
)
def test_bad_parameters(
    volume: Volume, template: str, parameters: dict[str, object], sentence: str
) -> None:
    """Parameters that are impossible, never end, or would use up the controller's memory fail in
    one attempt of one pod, with the worker's error."""
    run = submit(template, **{"runDir": "e2e/no-files", **parameters})

    found = run.fail()

    assert sum(pods_of(found).values()) == 1
    assert sentence in " ".join(argo("get", run.name, "--no-color").split())


def test_no_file_is_left_out(volume: Volume) -> None:
    """A run refuses a level with more files than its parameter, and drops none."""
    letters(volume, "e2e/left-out", 5)

    for template, parameters in (("aggregate", {"files": 4}), ("process-data", {"numbers": 2})):
        run = submit(template, runDir="e2e/left-out", **parameters)
        run.fail()

        shown = " ".join(argo("get", run.name, "--no-color").split())
        assert re.search(
            "(FILES|NUMBER) must count all files of level 1, got 4 and also .*l1/4.txt: set", shown
        )
