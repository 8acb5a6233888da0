"""log-count on a real cluster: results, errors and limits."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from scenario import (
    ROOT,
    WORDS,
    Volume,
    argo,
    get,
    kubectl,
    model,
    pods_of,
    results_folder,
    submit,
    submit_variant,
    template_of,
)

pytestmark = pytest.mark.e2e
FIVE = {"split": 1, "map": 5, "reduce": 1}
PATCH_OF_ARTIFACTS = "manifests/components/artifacts/patches/workflowtemplate.artifacts.yaml"


def test_static_fan_out(volume: Volume, log: bytes) -> None:
    """The static DAG has the same totals, and the mode range stores no parts."""
    run_dir = "e2e/static"

    found = submit("static-fan-out", splitMode="range", runDir=run_dir).succeed()

    assert pods_of(found) == FIVE
    assert volume.result(run_dir) == volume.own_result(found, run_dir) == model(log, WORDS)
    names = volume.files(f"{run_dir}/split-output")
    assert {name.rpartition("/")[2] for name in names if "/runs/" not in name} == {"plan.json"}


@pytest.mark.each_argo
def test_outputs(volume: Volume, log: bytes) -> None:
    """`argo get` shows the totals and their path, with four parts in two pods. The path in the
    component `artifacts` is the path of the run's own result."""
    patch = yaml.safe_load((ROOT / PATCH_OF_ARTIFACTS).read_text())
    artifact, page = patch[-1]["value"]
    assert page["path"] == artifact["path"].replace("result.json", "report.html")

    def read_the_artifact(spec: dict[str, Any]) -> None:
        outputs = template_of(spec, "reduce")["outputs"]["parameters"]
        value = {"name": "artifact", "valueFrom": {"path": artifact["path"]}}
        outputs.append({**value, "globalName": "artifact"})

    run_dir = "e2e/outputs"
    parts = {"numParts": "4", "partsPerPod": "2"}
    run = submit_variant("log-count", read_the_artifact, **parts, runDir=run_dir)

    found = run.succeed()

    assert pods_of(found) == {"split": 1, "map": 2, "reduce": 1}
    shown = argo("get", run.name, "--no-color")
    _, _, outputs = shown.partition("Output Parameters:")
    totals = json.dumps(model(log, WORDS))
    path = f"/mnt/vol/{run_dir}/results/{results_folder(found)}/result.json"
    assert re.search(rf"^ +result: +{re.escape(totals)}$", outputs, re.MULTILINE)
    assert re.search(rf"^ +resultPath: +{re.escape(path)}$", outputs, re.MULTILINE)
    assert re.search(rf"^ +artifact: +{re.escape(totals)}$", outputs, re.MULTILINE)


@pytest.mark.each_argo
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"input": "no-such.txt"},
            "INPUT must be a file or a folder of files in WORK_DIR, got 'no-such.txt'",
        ),
        ({"numParts": "0"}, "NUM_PARTS must be a whole number from 1 to 100000, got '0'"),
        (
            {"numParts": "5001"},
            "NUM_PARTS=5001 with PARTS_PER_POD=1 must take at most MAX_PODS=5000 map pods, got",
        ),
        ({"keywords": "INFO,INFO"}, "got 'INFO,INFO', where 'INFO' is repeated"),
    ],
    ids=["input", "numParts", "pods", "keywords"],
)
def test_bad_input(log: bytes, parameters: dict[str, str], sentence: str) -> None:
    """Errors of the operator fail in one attempt, and `argo get` shows the worker's error."""
    run = submit("log-count", runDir="e2e/bad", **parameters)

    found = run.fail()

    assert pods_of(found) == {"split": 1}
    assert sentence in " ".join(argo("get", run.name, "--no-color").split())


def test_parameters_arrive_unchanged(volume: Volume) -> None:
    """Keywords, input and run directory reach the workers unchanged, also with a $."""
    words = ("US$$", "$", "$(WORK_DIR)", '"q"', "it's", "\\ a")
    content = b'US$$ and $(WORK_DIR) "q" it\'s \\ all\n' * 20
    volume.put("e2e/$$in.txt", content)
    run = {"input": "e2e/$$in.txt", "keywords": ",".join(words), "numParts": "1"}

    for run_dir in ("e2e/as$$given", "e2e/as$given"):
        submit("log-count", runDir=run_dir, **run).succeed()

        assert volume.result(run_dir) == model(content, words)


@pytest.mark.each_argo
def test_redrive(volume: Volume, log: bytes) -> None:
    """A part that fails for good fails the run. After the fix, the next run maps only this part,
    and one more run maps none: split prints [], and reduce publishes the result."""
    run_dir = "e2e/redrive"

    def break_part_3(spec: dict[str, Any]) -> None:
        script = "{{=inputs.parameters.partId == '3' ? 'no-such.py' : 'count.py'}}"  # exit code 2
        template_of(spec, "map")["container"]["args"] = [script]

    failed = submit_variant("log-count", break_part_3, runDir=run_dir).fail()
    assert pods_of(failed) == {"split": 1, "map": 5}
    assert "results" not in volume.names(run_dir)

    for pods in ({"split": 1, "map": 1, "reduce": 1}, {"split": 1, "reduce": 1}):
        found = submit("log-count", runDir=run_dir, onlyMissing="true").succeed()

        assert pods_of(found) == pods
        assert volume.result(run_dir) == volume.own_result(found, run_dir) == model(log, WORDS)
        volume.run("os.remove(sys.argv[1])", f"{run_dir}/result.json")  # the next makes its own
    # All three runs have one plan and one job: its files, and one set of copies.
    plan, newest = volume.names(f"{run_dir}/split-output")
    names = volume.names(f"{run_dir}/split-output/{plan}")
    assert newest == "plan.json"
    assert names == ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "plan.json", "runs"]
    copies = (volume.get(f"{run_dir}/split-output/{plan}/{name}") for name in names[:5])
    assert b"".join(copies) == log
    (job,) = volume.names(f"{run_dir}/cout-output")
    records = [f"{number}.json" for number in range(5)]
    assert volume.names(f"{run_dir}/cout-output/{job}") == records


@pytest.mark.each_argo
def test_two_runs_in_parallel(volume: Volume, log: bytes) -> None:
    """Runs on one directory queue, runs on different directories run in parallel, and all are
    right. The directory's result.json is the result of the run that was created last."""
    words = ("INFO", "WARN,ERROR")
    same = [submit("log-count", runDir="e2e/same", keywords=each, numParts=1) for each in words]
    other = submit("log-count", runDir="e2e/other/", numParts=1)

    # Two runs that are submitted within a second may start in any order.
    ended = [run.succeed() for run in same]
    first, second = sorted(ended, key=lambda found: str(found["status"]["startedAt"]))
    third = other.succeed()

    assert second["status"]["startedAt"] >= first["status"]["finishedAt"]
    assert third["status"]["startedAt"] < first["status"]["finishedAt"]
    totals = [model(log, tuple(each.split(","))) for each in words]
    assert [volume.own_result(each, "e2e/same") for each in ended] == totals
    newest = ended.index(max(ended, key=results_folder))
    assert volume.result("e2e/same") == totals[newest]
    assert volume.result("e2e/other") == model(log, WORDS)


def test_300_parts(volume: Volume, log: bytes) -> None:
    """The workflow object of a run of 300 parts stays far below its maximum size."""
    run = submit("log-count", runDir="e2e/300", numParts=300, splitMode="range")

    found = run.succeed(1500)

    assert pods_of(found) == {"split": 1, "map": 300, "reduce": 1}
    assert volume.result("e2e/300") == model(log, WORDS)
    # The plan, the newest plan, and the mark that the run has started.
    assert len(volume.files("e2e/300/split-output")) == 3
    size = len(json.dumps(get(f"workflow/{run.name}"), separators=(",", ":")))
    print(f"workflow object: {size} bytes of JSON, {size // 300} per part")
    assert size < 512 * 1024  # half of the size at which Argo compresses


def test_5000_ids(volume: Volume, log: bytes) -> None:
    """Argo parses the ids of the maximum number of pods, and fans out the last three ids."""

    def last_three(spec: dict[str, Any]) -> None:
        del template_of(spec, "main")["outputs"]  # they need reduce
        main = template_of(spec, "main")["dag"]
        main["tasks"] = [task for task in main["tasks"] if task["name"] != "reduce"]
        ids = "{{=toJson(jsonpath(tasks['split'].outputs.result, '$[4997:]'))}}"
        next(task for task in main["tasks"] if task["name"] == "map")["withParam"] = ids

    found = submit_variant(
        "log-count", last_three, numParts="5000", splitMode="range", runDir="e2e/5000"
    ).succeed()

    assert pods_of(found) == {"split": 1, "map": 3}
    records = [name.rpartition("/")[2] for name in volume.files("e2e/5000/cout-output")]
    assert records == ["4997.json", "4998.json", "4999.json"]


def test_reclaim(volume: Volume, log: bytes) -> None:
    """Pods are deleted after they succeed, a workflow after its time to live, and with `clean` the
    copies after the result is published. Results and records stay."""

    def short(spec: dict[str, Any]) -> None:
        spec["ttlStrategy"] = {"secondsAfterCompletion": 20}

    run = submit_variant("log-count", short, numParts="1", clean="true", runDir="e2e/reclaim")
    totals = volume.own_result(run.succeed(), "e2e/reclaim")
    label = f"-lworkflows.argoproj.io/workflow={run.name}"
    kubectl("wait", "--for=delete", "pod", label, "--timeout=60s", timeout=70)
    kubectl("wait", "--for=delete", f"workflow/{run.name}", "--timeout=60s", timeout=70)

    left = get("workflowtaskresults", label)["items"]

    assert left == []
    files = (name for name in volume.files("e2e/reclaim") if "/runs/" not in name)
    steps = [name.split("/") for name in files]
    assert sorted((folder, *name[-1:]) for folder, *name in steps) == [
        ("cout-output", "0.json"),
        ("report.html",),
        ("result.json",),
        ("results", "report.html"),
        ("results", "result.json"),
        ("results", "result.json.record"),
        ("results", "summary.json"),
        ("split-output", "plan.json"),
        ("split-output", "plan.json"),
    ]
    assert volume.result("e2e/reclaim") == totals == model(log, WORDS)
