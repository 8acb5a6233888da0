"""log-count on a real cluster: its results, its errors, its limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scenario import (
    WORDS,
    Volume,
    argo,
    get,
    kubectl,
    model,
    pods_of,
    submit,
    submit_variant,
    template_of,
)

pytestmark = pytest.mark.e2e
FIVE = {"split": 1, "map": 5, "reduce": 1}


def test_static_fan_out(volume: Volume, log: bytes) -> None:
    """The static DAG gives the same totals, and the mode range stores no parts."""
    run_dir = "e2e/static"

    found = submit("static-fan-out", splitMode="range", runDir=run_dir).succeed()

    assert pods_of(found) == FIVE
    assert volume.result(run_dir) == model(log, WORDS)
    assert volume.names(f"{run_dir}/split-output") == ["plan.json"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"input": "no-such.txt"}, "INPUT no-such.txt is no file and no folder with files"),
        ({"numParts": "0"}, "NUM_PARTS is '0': give a whole number from 1 to 100000"),
        (
            {"numParts": "35000"},
            "NUM_PARTS is 35000, whose ids take 268892 bytes, and OUTPUT_LIMIT is",
        ),
        ({"keywords": "INFO,INFO"}, "KEYWORDS is 'INFO,INFO', where 'INFO' is empty, repeated"),
    ],
    ids=["input", "numParts", "ids", "keywords"],
)
def test_bad_input(log: bytes, parameters: dict[str, str], sentence: str) -> None:
    """What the operator must fix fails in one attempt, and `argo get` shows the worker's words."""
    run = submit("log-count", runDir="e2e/bad", **parameters)

    found = run.fail()

    assert pods_of(found) == {"split": 1}
    assert sentence in " ".join(argo("get", run.name, "--no-color").split())


def test_parameters_arrive_as_given(volume: Volume) -> None:
    """Keywords, input and run directory are what was given, whatever kubelet makes of a $."""
    words = ("US$$", "$", "$(WORK_DIR)", '"q"', "it's", "\\ ")
    content = b'US$$ and $(WORK_DIR) "q" it\'s \\ all\n' * 20
    volume.put("e2e/$$in.txt", content)
    run = {"input": "e2e/$$in.txt", "keywords": ",".join(words), "numParts": "1"}

    for run_dir in ("e2e/as$$given", "e2e/as$given"):
        submit("log-count", runDir=run_dir, **run).succeed()

        assert volume.result(run_dir) == model(content, words)


def test_redrive(volume: Volume, log: bytes) -> None:
    """A part that fails for good fails the run; once mended, a run maps that part alone, and one
    more maps none: split prints [], and reduce gives the result."""
    run_dir = "e2e/redrive"
    volume.put(f"{run_dir}/cout-output/3.json/in-the-way", b"")
    failed = submit("log-count", runDir=run_dir).fail()
    assert pods_of(failed) == {"split": 1, "map": 5}
    volume.run("import shutil; shutil.rmtree(sys.argv[1])", f"{run_dir}/cout-output/3.json")

    for pods in ({"split": 1, "map": 1, "reduce": 1}, {"split": 1, "reduce": 1}):
        found = submit("log-count", runDir=run_dir, onlyMissing="true").succeed()

        assert pods_of(found) == pods
        assert volume.result(run_dir) == model(log, WORDS)
        volume.run("os.remove(sys.argv[1])", f"{run_dir}/result.json")  # the next makes its own
    names = volume.names(f"{run_dir}/split-output")
    assert names == ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "plan.json"]
    assert b"".join(volume.get(f"{run_dir}/split-output/{name}") for name in names[:5]) == log
    assert volume.names(f"{run_dir}/cout-output") == [f"{number}.json" for number in range(5)]


def test_two_runs_at_once(volume: Volume, log: bytes) -> None:
    """Runs on one directory queue, runs on different ones go side by side, and all are right."""
    same = [submit("log-count", runDir="e2e/same", numParts=parts) for parts in (1, 2)]
    other = submit("log-count", runDir="e2e/other/", numParts=1)

    # Of two that were submitted within a second either may come first.
    first, second = sorted(
        (run.succeed() for run in same), key=lambda found: str(found["status"]["startedAt"])
    )
    third = other.succeed()

    assert second["status"]["startedAt"] >= first["status"]["finishedAt"]
    assert third["status"]["startedAt"] < first["status"]["finishedAt"]
    assert volume.result("e2e/same") == volume.result("e2e/other") == model(log, WORDS)


def test_300_parts(volume: Volume, log: bytes) -> None:
    """A run of 300 parts stays far below the size that a workflow object may have."""
    run = submit("log-count", runDir="e2e/300", numParts=300, splitMode="range")

    found = run.succeed(1500)

    assert pods_of(found) == {"split": 1, "map": 300, "reduce": 1}
    assert volume.result("e2e/300") == model(log, WORDS)
    assert volume.names("e2e/300/split-output") == ["plan.json"]
    size = len(json.dumps(get(f"workflow/{run.name}"), separators=(",", ":")))
    print(f"workflow object: {size} bytes of JSON, {size // 300} a part")
    assert size < 512 * 1024  # half of what Argo takes before it compresses


def test_10000_ids(volume: Volume, log: bytes) -> None:
    """What split prints at 10,000 parts is parsed whole; its last three ids are fanned out."""

    def last_three(spec: dict[str, Any]) -> None:
        main = template_of(spec, "main")["dag"]
        main["tasks"] = [task for task in main["tasks"] if task["name"] != "reduce"]
        ids = "{{=toJson(jsonpath(tasks['split'].outputs.result, '$[9997:]'))}}"
        next(task for task in main["tasks"] if task["name"] == "map")["withParam"] = ids

    found = submit_variant(
        "log-count", last_three, numParts="10000", splitMode="range", runDir="e2e/10000"
    ).succeed()

    assert pods_of(found) == {"split": 1, "map": 3}
    assert volume.names("e2e/10000/cout-output") == ["9997.json", "9998.json", "9999.json"]


def test_reclaim(volume: Volume, log: bytes) -> None:
    """Pods go when they succeed and a workflow when its time is up; the outputs stay."""

    def short(spec: dict[str, Any]) -> None:
        spec["ttlStrategy"] = {"secondsAfterCompletion": 20}

    run = submit_variant("log-count", short, numParts="1", runDir="e2e/reclaim")
    run.succeed()
    label = f"-lworkflows.argoproj.io/workflow={run.name}"
    kubectl("wait", "--for=delete", "pod", label, "--timeout=60s", timeout=70)
    kubectl("wait", "--for=delete", f"workflow/{run.name}", "--timeout=60s", timeout=70)

    left = get("workflowtaskresults", label)["items"]

    assert left == []
    assert sorted(volume.names("e2e/reclaim")) == ["cout-output", "result.json", "split-output"]
    assert json.loads(volume.get("e2e/reclaim/result.json")) == model(log, WORDS)
