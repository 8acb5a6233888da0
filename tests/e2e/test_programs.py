"""Programs on the cluster: the examples of manifests/runs, with killed pods, and runs as steps of
another Workflow. tests/workers/test_examples.py runs the same examples locally."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples import (
    BROKEN,
    DAMAGED,
    RUNS,
    SEEDS,
    compressed_logs,
    is_thumbnail,
    model_of_filter,
    model_of_scenarios,
    model_of_simulations,
    photos,
    pixels,
    scenarios,
    tiles,
)
from scenario import (
    NAMESPACE,
    ROOT,
    WORDS,
    Run,
    Volume,
    argo,
    get,
    kill,
    kubectl,
    model,
    outputs_of,
    own_join,
    pods_of,
    results_folder,
    tool,
)
from scenario import submit as submit_template

pytestmark = pytest.mark.e2e


PROGRAMS = (ROOT / "manifests/docs/programs.md").read_text()


def apply(checkout: Path, prefix: str, image: str = "", **more: Any) -> None:
    """Apply the bundle with programs under a prefix of its names, because other tests use the
    cluster too; with the image of an example for map and reduce."""
    local = checkout / "manifests/overlays/local"
    folder = checkout / f"manifests/overlays/{prefix}"
    shutil.copytree(local, folder)
    overlay = yaml.safe_load((local / "kustomization.yaml").read_text())
    last = more.pop("last", ())
    overlay["components"] += ["../../components/programs", "../../components/runs-as-steps", *last]
    overlay["patches"] += more.pop("patches", [])
    for each in overlay["images"][1:] if image else ():
        each["newName"] = f"localhost/fanfold-{image}"
    content = {**overlay, "namePrefix": f"{prefix}-", **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    tool("kubectl", "apply", "-k", str(folder))


def create(workflow: dict[str, Any], *more: str) -> Run:
    """Submit a Workflow."""
    made = kubectl("create", "-f", "-", "-o", "name", *more, stdin=json.dumps(workflow).encode())
    return Run(made.strip().rpartition("/")[2])


def submit(example: str, prefix: str = "", **parameters: str) -> Run:
    """Submit an example with these parameters and the templates with this prefix. The default
    prefix is the example's name."""
    run = yaml.safe_load((RUNS / f"{example}.yaml").read_text())
    reference = run["spec"]["workflowTemplateRef"]
    reference["name"] = f"{prefix or example}-{reference['name']}"
    values = {each["name"]: each["value"] for each in run["spec"]["arguments"]["parameters"]}
    values |= {"runDir": f"e2e/{example}", **parameters}
    arguments = [{"name": name, "value": value} for name, value in values.items()]
    run["spec"]["arguments"]["parameters"] = arguments
    return create(run)


@pytest.mark.each_argo
def test_filter(volume: Volume, log: bytes, checkout: Path) -> None:
    """A map pod and the reduce pod are deleted by force. The output is right, in runDir and in the
    run's folder."""
    apply(checkout, "filter")
    run = submit("filter", numParts="2")
    kill(run, ".map", {"Pending", "Running"})
    kill(run, ".reduce", {"Pending", "Running"})

    found = run.succeed()

    assert volume.get("e2e/filter/errors.jsonl") == model_of_filter(log)
    own = f"e2e/filter/results/{results_folder(found)}"
    assert volume.get(f"{own}/errors.jsonl") == model_of_filter(log)
    assert outputs_of(found) == {
        "result": "{}",
        "resultPath": f"/mnt/vol/{own}/result.json",
        "summary": volume.get(f"{own}/summary.json").decode().strip(),
    }


@pytest.mark.each_argo
def test_a_lost_part(volume: Volume, log: bytes, checkout: Path) -> None:
    """If a map has failed for good, reduce names the missing part in one attempt. After the fix,
    onlyMissing maps only this part, and then none. The command is in a ConfigMap, as in
    programs.md, with a {{ and an unchanged $."""
    (shown,) = re.findall(r"^```yaml\n([^`]*name: map-command\n[^`]*)^```", PROGRAMS, re.MULTILINE)
    recipe = yaml.safe_load(shown)
    program = (
        "import os, sys\n"
        "data = sys.stdin.buffer.read()\n"
        "is_broken = os.path.exists('/mnt/vol/e2e/lost/broken')\n"
        "if is_broken and os.environ['PART_ID'] == '1': sys.exit(2)\n"
        "sys.stdout.buffer.write(b'{{part}} $(PART_ID) $$\\n' + data)"
    )
    recipe["configMapGenerator"][0]["literals"] = [f'MAP_COMMAND=python3 -c "{program}"']
    apply(checkout, "lost", **{key: recipe[key] for key in ("configMapGenerator", "patches")})
    template = {"workflowTemplateRef": {"name": "lost-map-reduce"}}
    metadata = {"generateName": "lost-", "namespace": NAMESPACE}
    head = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata}
    values = {"numParts": "3", "runDir": "e2e/lost", "onlyMissing": "true"}
    arguments = {"parameters": [{"name": key, "value": value} for key, value in values.items()]}
    volume.run("import shutil; shutil.rmtree('e2e/lost', ignore_errors=True)")
    volume.put("e2e/lost/broken", b"")

    def start() -> Run:
        return create({**head, "spec": {**template, "arguments": arguments}})

    run = start()
    found = run.fail()

    assert pods_of(found) == {"split": 1, "map": 3, "reduce": 1}
    message = " ".join(argo("get", run.name, "--no-color").split())
    assert "MAP_STATUS is Failed" in message
    assert "results" not in volume.names("e2e/lost")

    volume.run("os.remove(sys.argv[1])", "e2e/lost/broken")
    for pods in ({"split": 1, "map": 1, "reduce": 1}, {"split": 1, "reduce": 1}):
        assert pods_of(start().succeed()) == pods
        parts = volume.get("e2e/lost/result.out").split(b"{{part}} $(PART_ID) $$\n")
        assert (len(parts), b"".join(parts)) == (4, log)


@pytest.mark.each_argo
def test_sort(volume: Volume, log: bytes, checkout: Path) -> None:
    """64 files, eight per pod; one of these pods and the last pod are deleted by force. Eight files
    are also sorted before the merge."""
    apply(checkout, "sort", image="sort")
    lines = log.splitlines(keepends=True)
    random.Random(64).shuffle(lines)
    put_level_1(volume, "e2e/sort", ".txt", [b"".join(lines[each::64]) for each in range(64)])
    files = [b"".join(lines[each:64:8]) for each in range(8)]
    put_level_1(volume, "e2e/few", ".txt", files)
    run, few = submit("sort"), submit("sort", files="8", runDir="e2e/few")
    kill(run, ".process-data", {"Pending", "Running"})
    kill(run, ".merge-data", {"Pending", "Running"})

    found = run.succeed()

    assert own_join(volume, found, "e2e/sort").encode() == b"".join(sorted(lines))
    assert set(pods_of(found)) == {"process-data", "merge-data"}
    assert own_join(volume, few.succeed(), "e2e/few").encode() == b"".join(sorted(lines[:64]))


def test_pictures(volume: Volume, checkout: Path) -> None:
    """64 tiles become the picture in runs, equal in each pixel. A pod is deleted by force."""
    apply(checkout, "pictures", image="pictures")
    put_level_1(volume, "e2e/pictures", ".png", list(tiles()))
    run = submit("pictures")
    kill(run, ".process-data", {"Pending", "Running"})

    run.succeed()

    made = volume.get("e2e/pictures/aggregation-demo/result.txt")
    assert pixels(made) == pixels((RUNS / "pictures.png").read_bytes())


@pytest.mark.each_argo
def test_simulations(volume: Volume, checkout: Path) -> None:
    """1,000 seeds in 100 parts and 4 pods, each with parts that fail at first. The output has every
    seed exactly once and in order."""
    apply(checkout, "simulations", image="simulations")
    volume.put("seeds.txt", SEEDS)
    volume.run("import shutil; shutil.rmtree('e2e/simulations', ignore_errors=True)")

    found = submit("simulations").succeed()

    assert volume.get("e2e/simulations/simulations.csv") == model_of_simulations()
    # Only failed parts are mapped again: each part has one output.
    assert pods_of(found) == {"split": 1, "map": 8, "reduce": 1}
    assert len(volume.files("e2e/simulations/map-output")) == 100


def test_compressed_logs(volume: Volume, checkout: Path) -> None:
    """40 compressed logs in 8 parts and 2 pods."""
    apply(checkout, "compressed-logs")
    logs = compressed_logs()
    put_files(volume, "compressed-logs", logs)

    found = submit("compressed-logs").succeed()

    text = b"".join(map(gzip.decompress, logs.values()))
    assert volume.own_result(found, "e2e/compressed-logs") == model(text, WORDS)
    assert pods_of(found) == {"split": 1, "map": 2, "reduce": 1}
    assert summary_of(found)["files"] == 40


def test_thumbnails(volume: Volume, checkout: Path) -> None:
    """Three of 200 photos are damaged: the run succeeds, counts them and names them. After their
    repair, the same run makes only these three thumbnails."""
    apply(checkout, "thumbnails", image="pictures")
    put_files(volume, "photos", photos() | DAMAGED)
    volume.run("import shutil; shutil.rmtree('e2e/thumbnails', ignore_errors=True)")

    found = submit("thumbnails").succeed()

    assert pods_of(found) == {"split": 1, "map": 2, "reduce": 1}
    summary = summary_of(found)
    assert (summary["files"], summary["failed"], summary["taken"]) == (200, 3, 0)
    assert failed(lines_of(volume, "e2e/thumbnails")) == set(DAMAGED)

    for name in DAMAGED:
        volume.put(f"photos/{name}", photos()[name])
    found = submit("thumbnails").succeed()

    summary = summary_of(found)
    assert (summary["files"], summary["failed"], summary["taken"]) == (200, 0, 197)
    lines = lines_of(volume, "e2e/thumbnails")
    assert list(lines) == list(photos())
    assert not failed(lines)
    made = volume.files(f"e2e/thumbnails/thumbnails/{summary['job']}")
    assert made == [f"photos/{name}.png" for name in sorted(DAMAGED)]
    for number in (16, 17):
        assert is_thumbnail(number, volume.get(lines[f"{number:03}.png"]["output"]))


def test_scenarios(volume: Volume, checkout: Path) -> None:
    """Passed and failed scenarios are counted; broken scenarios are named. A map pod is deleted by
    force."""
    apply(checkout, "scenarios", image="simulations")
    put_files(volume, "scenarios", scenarios())
    run = submit("scenarios")
    kill(run, ".map", {"Pending", "Running"})

    found = run.succeed()

    assert json.loads(volume.get("e2e/scenarios/scenarios.json")) == model_of_scenarios()
    assert summary_of(found)["failed"] == len(BROKEN)
    assert failed(lines_of(volume, "e2e/scenarios")) == set(BROKEN)


@pytest.mark.each_argo
def test_a_lost_pod_is_tolerated(volume: Volume, checkout: Path) -> None:
    """A program kills the worker, and the pod is not retried: the last step runs and counts the
    files of this part as failed. With fewer tolerated failures the run fails and names the file."""
    patch = (
        "- {op: test, path: /spec/templates/2/name, value: map}\n"
        '- {op: replace, path: /spec/templates/2/retryStrategy/limit, value: "0"}'
    )
    target = {"kind": "WorkflowTemplate", "name": "map-reduce"}
    apply(checkout, "lost-pod", patches=[{"target": target, "patch": patch}])
    put_files(volume, "lost-pod", {"0": b"die", "1": b"a", "2": b"b", "3": b"c"})
    program = "import os, sys; sys.stdin.read() == 'die' and os.kill(os.getppid(), 9)"

    def start(most: str) -> Run:
        parameters = {
            "input": "lost-pod/",
            "numParts": "2",
            "splitMode": "files",
            "mapCommand": f'python3 -c "{program}"',
            "toleratedFailures": most,
            "runDir": f"e2e/lost-pod-{most}",
        }
        return submit_template("lost-pod-map-reduce", **parameters)

    some, fewer = start("1"), start("0")
    found = some.succeed()

    lines = lines_of(volume, "e2e/lost-pod-1")
    assert pods_of(found) == {"split": 1, "map": 2, "reduce": 1}
    assert summary_of(found)["failed"] == 1
    assert failed(lines) == {"0"}
    assert lines["0"]["said"] == "no pod has mapped part 0 to its end"
    fewer.fail()
    message = " ".join(argo("get", fewer.name, "--no-color").split())
    assert "1 of 4 files failed: lost-pod/0 (no pod has mapped it)" in message


@pytest.mark.each_argo
def test_runs_as_steps(volume: Volume, log: bytes, checkout: Path) -> None:
    """Two runs as steps of another Workflow, made by Hera and submitted by kubectl. The pod that
    waits for the first run is deleted by force: the next attempt finds the run. The results are
    outputs of the steps. If a run fails, its step fails."""
    apply(checkout, "steps")
    done = subprocess.run(
        [sys.executable, str(RUNS / "own_workflow.py")], stdout=subprocess.PIPE, check=True
    )
    # With the prefix, and in a directory of this test.
    text = done.stdout.decode().replace("name: run-as-step", "name: steps-run-as-step")
    for name in ("log-count", "map-reduce"):
        text = text.replace(f"value: {name}", f"value: steps-{name}")
    text = text.replace('"daily"', '"e2e/steps"')
    wrong = text.replace('"numParts", "value": "2"', '"numParts", "value": "0"')
    broken = create(yaml.safe_load(wrong.replace("e2e/steps", "e2e/no-steps")))
    run = create(yaml.safe_load(text))
    kill(run, ".totals", {"Pending", "Running"})

    found = run.succeed()

    steps = {node["displayName"]: node for node in found["status"]["nodes"].values()}
    outputs = {each["name"]: each["value"] for each in steps["totals"]["outputs"]["parameters"]}
    first, second = (get(f"workflow/{run.name}-{name}") for name in ("totals", "errors"))
    assert json.loads(outputs["result"]) == model(log, WORDS)
    assert volume.own_result(first, "e2e/steps") == model(log, WORDS)
    assert outputs == outputs_of(first)
    assert [each["metadata"]["ownerReferences"][0]["name"] for each in (first, second)] == [
        run.name
    ] * 2
    errors = [line for line in log.splitlines(keepends=True) if b"ERROR" in line]
    assert volume.get("e2e/steps/result.out") == b"".join(errors)
    assert pods_of(broken.fail()) == {"run": 1}


def summary_of(workflow: dict[str, Any]) -> dict[str, Any]:
    """A workflow's output parameter `summary`."""
    found: dict[str, Any] = json.loads(outputs_of(workflow)["summary"])
    return found


def lines_of(volume: Volume, run_dir: str) -> dict[str, dict[str, Any]]:
    """The lines of outputs.jsonl, by the base names of their files."""
    lines = map(json.loads, volume.get(f"{run_dir}/outputs.jsonl").splitlines())
    return {os.path.basename(line["name"]): line for line in lines}


def failed(lines: Mapping[str, dict[str, Any]]) -> set[str]:
    """The names of the failed files."""
    return {name for name, line in lines.items() if line["exit"] != 0}


def put_level_1(volume: Volume, run_dir: str, suffix: str, files: list[bytes]) -> None:
    """Replace the files of level 1."""
    named = {f"{number}{suffix}": content for number, content in enumerate(files)}
    put_files(volume, f"{run_dir}/aggregation-demo/l1", named)


def put_files(volume: Volume, folder: str, files: Mapping[str, bytes]) -> None:
    """Replace the files of a folder, by one command."""
    script = (
        "import io, shutil, tarfile\n"
        "shutil.rmtree(sys.argv[1], ignore_errors=True)\n"
        "data = io.BytesIO(sys.stdin.buffer.read())\n"
        "tarfile.open(fileobj=data).extractall(sys.argv[1], filter='data')"
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    volume.run(script, folder, stdin=buffer.getvalue())
