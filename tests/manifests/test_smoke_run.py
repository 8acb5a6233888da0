"""The scripts of the component smoke-run, with the workers in between, on either storage."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bundle
import pytest
from fake import FakeOSS

FOUND = bundle.combination(("oss-volume", "smoke-run"))
SCRIPTS = bundle.workers(bundle.named(FOUND, "WorkflowTemplate", "log-count"))
ARGUMENTS = {
    each["name"]: each["value"]
    for each in bundle.named(FOUND, "Workflow", "smoke-run")["spec"]["arguments"]["parameters"]
}
LOG = {each["name"]: each.get("value") for each in SCRIPTS["smoke-check"]["env"]}["LOG"]

Storage = tuple[dict[str, str], Callable[[], list[str]]]  # its settings, and the names in it


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A folder or a bucket, with a file of somebody else's."""
    if request.param == "folder":
        (tmp_path / "smoke-run.txt").touch()
        yield {"WORK_DIR": str(tmp_path)}, lambda: [path.name for path in tmp_path.rglob("*")]
        return
    with FakeOSS() as fake:
        fake.bucket().put("fanfold/smoke-run.txt", b"")
        settings = {
            "WORK_DIR": "oss://bucket/fanfold",
            "OSS_ENDPOINT": fake.endpoint,
            "OSS_REGION": "cn-hangzhou",
            "OSS_ACCESS_KEY_ID": "id",
            "OSS_ACCESS_KEY_SECRET": "secret",
        }
        yield settings, lambda: [Path(name).name for name in fake.bucket().objects]


def run(storage: Storage, template: str, **more: str) -> tuple[int, str]:
    """What a template of log-count does, with the arguments of the smoke run."""
    container = SCRIPTS[template]
    done = subprocess.run(
        [sys.executable, *(["-"] if "source" in container else container["args"])],
        input=container.get("source"),
        cwd=bundle.REPOSITORY / "workers",
        env={
            **os.environ,
            **storage[0],
            "PYTHONPATH": ".",
            "INPUT": ARGUMENTS["input"],
            "RUN_DIR": ARGUMENTS["runDir"],
            "NUM_PARTS": ARGUMENTS["numParts"],
            "KEYWORDS": ARGUMENTS["keywords"],
            "LOG": LOG,
            **more,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_smoke_run(storage: Storage) -> None:
    """It succeeds and leaves no files; where the totals are not those of the log it fails for good,
    leaves its files to be looked at, and the next one removes them."""
    for template in ("smoke-write", "split"):
        assert run(storage, template)[0] == 0
    for part in range(int(ARGUMENTS["numParts"])):
        assert run(storage, "map", PART_ID=str(part))[0] == 0
    assert run(storage, "reduce")[0] == 0

    code, said = run(storage, "smoke-check", LOG=LOG + "INFO")

    assert code == 2
    assert "is {'INFO': 3, 'WARN': 1, 'ERROR': 1, 'DEBUG': 1} and must be {'INFO': 4" in said
    assert "result.json" in storage[1]()
    assert run(storage, "smoke-check")[0] == 0
    assert storage[1]() == ["smoke-run.txt"]
