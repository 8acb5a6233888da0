"""The scripts of the component smoke-run, with the workers in between, on either storage."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bundle
import pytest
from fake import FakeOSS


@functools.cache
def scripts() -> dict[str, bundle.Object]:
    """The workers of log-count, including the steps of the smoke run."""
    found = bundle.combination(("oss-volume", "smoke-run"))
    return bundle.workers(bundle.named(found, "WorkflowTemplate", "log-count"))


@functools.cache
def arguments() -> dict[str, str]:
    """The arguments of the smoke run, and its log."""
    run = bundle.named(bundle.combination(("oss-volume", "smoke-run")), "Workflow", "smoke-run")
    values = {each["name"]: each["value"] for each in run["spec"]["arguments"]["parameters"]}
    log = {each["name"]: each.get("value") for each in scripts()["smoke-check"]["env"]}["LOG"]
    return {**values, "log": log}


def others() -> list[str]:
    """Names of files that do not belong to the smoke run."""
    return [f"{arguments()['runDir']}.txt", f"{arguments()['runDir']}/notes.txt"]


Storage = tuple[dict[str, str], Callable[[], list[str]]]  # its settings, and the names in it


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A folder or a bucket, with files that do not belong to the smoke run."""
    if request.param == "folder":
        for name in others():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = tmp_path.rglob
        yield (
            {"WORK_DIR": str(tmp_path)},
            lambda: sorted(
                str(each.relative_to(tmp_path)) for each in found("*") if each.is_file()
            ),
        )
        return
    with FakeOSS() as fake:
        for name in others():
            fake.bucket().put(f"fanfold/{name}", b"")
        settings = {
            "WORK_DIR": "oss://bucket/fanfold",
            "OSS_ENDPOINT": fake.endpoint,
            "OSS_REGION": "cn-hangzhou",
            "OSS_ACCESS_KEY_ID": "id",
            "OSS_ACCESS_KEY_SECRET": "secret",
        }
        yield (
            settings,
            lambda: sorted(name.removeprefix("fanfold/") for name in fake.bucket().objects),
        )


def run(storage: Storage, template: str, **more: str) -> tuple[int, str]:
    """Run a template of log-count with the arguments of the smoke run; exit code and stderr."""
    container = scripts()[template]
    done = subprocess.run(
        [sys.executable, *(["-"] if "source" in container else container["args"])],
        input=container.get("source"),
        cwd=bundle.REPOSITORY / "workers",
        env={
            **os.environ,
            **storage[0],
            "PYTHONPATH": ".",
            "INPUT": arguments()["input"],
            "RUN_DIR": arguments()["runDir"],
            "NUM_PARTS": arguments()["numParts"],
            "KEYWORDS": arguments()["keywords"],
            "LOG": arguments()["log"],
            "RUN_ID": "smoke",
            "RUN_STARTED": "1767225600",
            **more,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_smoke_run(storage: Storage) -> None:
    """The run succeeds and leaves no files. With wrong totals it fails for good and keeps its
    files; the next run removes these files and no others. Each of the last steps can run twice, as
    after a lost pod."""
    for template in ("smoke-write", "split"):
        assert run(storage, template)[0] == 0
    for part in range(int(arguments()["numParts"])):
        assert run(storage, "map", PART_ID=str(part))[0] == 0
    assert run(storage, "reduce")[0] == 0

    there = "".join(f"{name}\n" for name in storage[1]())
    code, errors = run(storage, "smoke-check", LOG=arguments()["log"] + "INFO")

    assert code == 2
    assert "must be {'INFO': 4, 'WARN': 1, 'ERROR': 1, 'DEBUG': 1}, got {'INFO': 3" in errors
    own = r"results/20260101T000000Z-smoke/result\.json\.record"
    for name in (r"result\.json", own, "cout-output/.*"):
        assert re.search(f"^{arguments()['runDir']}/{name}$", there, re.MULTILINE)
    for template in ("smoke-check", "smoke-check", "smoke-clean", "smoke-clean"):
        assert run(storage, template)[0] == 0
    assert storage[1]() == others()


def test_nothing_is_left(tmp_path: Path) -> None:
    """On a volume the folders of the run are removed too, wherever the run ended."""
    storage: Storage = {"WORK_DIR": str(tmp_path)}, list

    for templates in (("smoke-write",), ("smoke-write", "split", "map")):
        for template in (*templates, "smoke-clean", "smoke-clean"):
            assert run(storage, template, PART_ID="0")[0] == 0

    assert not list(tmp_path.iterdir())
