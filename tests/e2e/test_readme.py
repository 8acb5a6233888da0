"""Run every command of README.md and of the documents of the bundle and the local run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from scenario import (
    ROOT,
    WORDS,
    Run,
    Volume,
    at_volume,
    check_three_levels,
    kubectl,
    model,
    pods_of,
    tool,
)

pytestmark = pytest.mark.e2e
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "workers/local-run.md", "manifests/README.md")),
    *sorted((ROOT / "manifests/docs").iterdir()),
]
# A command needs an account if one of these is in its row of a table, or in the text between it and
# the previous command. ALL_OF_THIS marks a whole block.
NEEDS_ACCOUNT = re.compile("Alibaba Cloud account|ACK|AccessKey|account of the registry")
ALL_OF_THIS = re.compile("All of this needs (an Alibaba Cloud account|Sealed Secrets)")
# Commands that do not run here, because the cluster exists already, and the files that run them.
ELSEWHERE = {
    r"git clone .*": ("tests/cold.sh", "git clone"),
    r"kind create cluster": ("tests/run.sh", "start_cluster"),
    r"kubectl create namespace argo": ("tests/cluster/cluster.py", "argo-namespace.yaml"),
    r"kubectl apply .*/install\.yaml": ("tests/cluster/cluster.py", "cluster-install"),
    r".*\banalytics\b.*": ("tests/e2e/test_where.py", 'OWN = "analytics"'),
    r"images/build\.sh --archive build/images": ("tests/run.sh", "build.sh --archive build/images"),
    r"kind load image-archive .*": ("tests/run.sh", "cluster load build/images/*.tar"),
    r"make images PUSH=.*": ("tests/images/test_push.py", "PUSH="),
    r"make (run|aggregate)\b.*": ("tests/local/test_local_run.py", "test_the_commands_of_the_doc"),
    r"OSS_REGION=.* make run .*": ("tests/local/test_local_run.py", "test_make_in_a_bucket"),
    r"make test": (".ci/run", "make test"),
    r"make release .*": ("tests/manifests/test_release.py", "test_release"),
    r"manifests/validate\.sh .*": ("tests/manifests/test_validate.py", "validate.sh"),
}
# This machine replaces kind's node. Other tests read the log at the same time: it does not change.
NODE = {
    r"docker exec kind-control-plane (.*)": r"\1",
    r"docker cp (\S+) kind-control-plane:(\S+)": r"cmp -s \1 \2 || cp \1 \2",
}
TOTALS = "kubectl get workflow "
STARTED = re.compile(r"^Name: +(\S+)|^workflow\.argoproj\.io/(\S+) created", re.MULTILINE)


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Every command in the shell blocks and tables of a text, and whether it needs an account."""
    about, fence, block = "", "", False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line.removeprefix("```") or "text"
            block = bool(ALL_OF_THIS.search(about))
            assert fence in ("", "sh", "text", "yaml", "xml", "json")
        elif fence == "sh" and line and not line.startswith("#"):
            yield line.partition("  #")[0].rstrip(), block or bool(NEEDS_ACCOUNT.search(about))
            about = ""
        elif line.startswith("|") and (found := re.search("`((?:argo|kubectl) [^`]+)`", line)):
            yield found[1], bool(NEEDS_ACCOUNT.search(line))
            about = ""
        else:
            about = "" if line.startswith("##") else f"{about} {line}"


def documented() -> dict[str, bool]:
    """The commands of all documents, each once. A command that is the beginning of another command
    is left out. A command that only some places mark runs."""
    found: dict[str, bool] = {}
    for path in DOCUMENTS:
        for command, marked in commands(path.read_text()):
            found[command] = found.get(command, True) and marked
    return {
        command: marked
        for command, marked in found.items()
        if not any(other.startswith(f"{command} ") for other in found)
    }


def test_every_command_is_run_or_marked() -> None:
    """Only commands that need an account are marked. All others run below, or in the files of
    ELSEWHERE."""
    marked = [command for command, is_marked in documented().items() if is_marked]
    of_accounts = (
        *("docker login", "make images PUSH=", "validate.sh manifests/overlays/ack", "oss-secret"),
        *(
            "apply -k manifests/overlays/ack",
            "ossutil cp",
            "validate.sh manifests/overlays/ack-one",
        ),
        "apply -k manifests/overlays/ack-one",
        "apply -k manifests/overlays/acs",
        # The example of manifests/docs/files.md; test_programs.py runs the same files.
        *("PUSH=registry.example.com/team-a", "docker build", "docker push", "your-overlay"),
        *("ossutil cp -r photos/", "thumbnails.yaml", "oss://your-bucket/thumbnails/", "outputs."),
        *("create secret generic oss-secret --namespace", "kubeseal", "cd ", "kustomize edit"),
        "registry-secret",
    )

    assert all(what in command for what, command in zip(of_accounts, marked, strict=True))
    for pattern, (path, words) in ELSEWHERE.items():
        assert [command for command in documented() if re.fullmatch(pattern, command)], pattern
        assert words in (ROOT / path).read_text()


def on_this_node(command: str) -> str:
    """The command for this machine; empty if it runs elsewhere, or if root is missing."""
    if any(re.fullmatch(pattern, command) for pattern in ELSEWHERE):
        return ""
    for pattern, here in NODE.items():
        if re.fullmatch(pattern, command):
            # Without root, the folder and the log were created before, at the cluster.
            return "" if os.geteuid() else re.sub(pattern, here, at_volume(command))
    return at_volume(command)


def started_by(output: str) -> Run | None:
    """The run that a command has started, from its output."""
    found = STARTED.search(output)
    return Run(found[1] or found[2]) if found else None


def test_every_command(volume: Volume, log: bytes, checkout: Path) -> None:
    """Run each documented command, one after the other. Every run that they start succeeds, with
    the documented pods and results."""
    kubectl("delete", "--ignore-not-found", "workflow", "log-count-once")
    (checkout / "your.log").write_bytes(log)
    runs: dict[str, Run] = {}
    for command, marked in documented().items():
        if marked or command.startswith(TOTALS) or not (here := on_this_node(command)):
            continue
        try:
            output = tool("bash", "-euc", here, cwd=checkout, timeout=900).decode()
        except AssertionError as error:
            started_by(str(error))
            raise
        if command.startswith("argo get "):  # shows another run
            assert re.search("^Status: ", output, re.MULTILINE)
        elif run := started_by(output):
            runs[command] = run
    ended = {command: run.succeed() for command, run in runs.items()}

    def log_count(parts: int) -> dict[str, int]:
        return {"split": 1, "map": parts, "reduce": 1}

    process_data = "argo submit manifests/runs/process-data.yaml --wait"
    assert {command: pods_of(workflow) for command, workflow in ended.items()} == {
        "argo submit -n argo --from workflowtemplate/log-count -p numParts=8 --watch": log_count(8),
        "argo submit manifests/runs/log-count.yaml --watch": log_count(5),
        "argo submit manifests/runs/prepare-data.yaml --wait": {"create-file": 1},
        process_data: {"process-data": 16 + 8, "merge-data": 1},
        "kubectl create -f manifests/runs/log-count.yaml": log_count(5),
        "kubectl apply -f manifests/runs/log-count-once.yaml": log_count(5),
    }
    check_three_levels(volume, runs[process_data], [16, 8, 1])
    assert volume.result() == model(log, WORDS)
    assert list(volume.result()) == list(WORDS)
    # The command shows the newest run, which may belong to another test: select this run.
    (command,) = (each for each in documented() if each.startswith(TOTALS))
    only = f"{command} --field-selector=metadata.name={next(iter(runs.values())).name}"
    assert json.loads(tool("bash", "-euc", only)) == model(log, WORDS)
    # They used one directory, and queued for it.
    times = sorted(
        (flow["status"]["startedAt"], flow["status"]["finishedAt"]) for flow in ended.values()
    )
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
