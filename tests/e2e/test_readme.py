"""Every command that README.md and manifests/README.md give for a cluster, read from there."""

from __future__ import annotations

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
# What marks a command as one that needs an account: one of these, in its row of a table or in the
# text between it and the command before.
NEEDS_ACCOUNT = re.compile("Alibaba Cloud account|ACK|AccessKey")
STARTED = re.compile(r"^Name: +(\S+)|^workflow\.argoproj\.io/(\S+) created", re.MULTILINE)


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Every command in the blocks of shell and the tables of a text, and whether it is marked."""
    about, fence = "", ""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line.removeprefix("```") or "text"
            assert fence in ("", "sh", "text", "yaml")
        elif fence == "sh" and line and not line.startswith("#"):
            yield line, bool(NEEDS_ACCOUNT.search(about))
            about = ""
        elif line.startswith("|") and (found := re.search("`((?:argo|kubectl) [^`]+)`", line)):
            yield found[1], bool(NEEDS_ACCOUNT.search(line))
            about = ""
        else:
            about = "" if line.startswith("##") else f"{about} {line}"


def documented() -> dict[str, bool]:
    """The commands of both, each once: one that another only continues goes with that one."""
    _, _, text = (ROOT / "README.md").read_text().partition("\n## Run it on your cluster\n")
    section, _, _ = text.partition("\n## ")
    found = dict(commands(section)) | dict(commands((ROOT / "manifests/README.md").read_text()))
    return {
        command: marked
        for command, marked in found.items()
        if not any(other.startswith(f"{command} ") for other in found)
    }


def test_every_command_is_run_or_marked() -> None:
    """Only what has no meaning without an account is marked; all the rest is run below."""
    marked = [command for command, is_marked in documented().items() if is_marked]
    of_oss = (
        "apply -k manifests/overlays/ack",
        "apply -k manifests/overlays/ack-one",
        "oss-secret",
    )

    assert all(what in command for what, command in zip(of_oss, marked, strict=True))


def started_by(said: str) -> Run | None:
    """The run that a command says it has started."""
    found = STARTED.search(said)
    return Run(found[1] or found[2]) if found else None


def test_every_command(volume: Volume, log: bytes, checkout: Path) -> None:
    """Each command as it stands there, one after the other: every run that one of them starts
    succeeds, with the pods and the results that are documented."""
    kubectl("delete", "--ignore-not-found", "workflow", "log-count-once")
    runs: dict[str, Run] = {}
    for command, marked in documented().items():
        # Making the volume's folder takes root; who is not has made it where the cluster is.
        if marked or (command.startswith("install ") and os.geteuid()):
            continue
        try:
            said = tool("bash", "-euc", at_volume(command), cwd=checkout, timeout=900).decode()
        except AssertionError as error:
            started_by(str(error))
            raise
        if command.startswith("argo get "):  # of another run
            assert re.search("^Status: ", said, re.MULTILINE)
        elif run := started_by(said):
            runs[command] = run
    ended = {command: run.succeed() for command, run in runs.items()}

    def log_count(parts: int) -> dict[str, int]:
        return {"split": 1, "map": parts, "reduce": 1}

    process_data = "argo submit manifests/runs/process-data.yaml --wait"
    assert {command: pods_of(workflow) for command, workflow in ended.items()} == {
        "argo submit -n argo --from workflowtemplate/log-count -p numParts=8": log_count(8),
        "argo submit manifests/runs/log-count.yaml --watch": log_count(5),
        "argo submit manifests/runs/prepare-data.yaml --wait": {"create-file": 1},
        process_data: {"process-data": 16 + 8, "merge-data": 1},
        "kubectl create -f manifests/runs/log-count.yaml": log_count(5),
        "kubectl apply -f manifests/runs/log-count-once.yaml": log_count(5),
    }
    check_three_levels(volume, runs[process_data], [16, 8, 1])
    assert volume.result() == model(log, WORDS)
    assert list(volume.result()) == list(WORDS)
    # They had one directory, and queued for it.
    times = sorted(
        (flow["status"]["startedAt"], flow["status"]["finishedAt"]) for flow in ended.values()
    )
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
