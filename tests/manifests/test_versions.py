"""Versions of other programs: the table in versions.md, the oldest kustomize, and settings that
some versions of Argo's controller do not have."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import bundle
import pytest
import yaml

VERSIONS = bundle.DOCS / "versions.md"
# Every component at least once.
COMBINATIONS = (
    ("local-volume", "artifacts", "schedule", "smoke-run"),
    ("oss-volume", "acs-best-effort", "parallelism"),
    ("oss-volume-rrsa", "eci-spot", "initless-pod"),
    *(("oss-volume-ossfs2",), ("oss-volume-ossfs2-rrsa",)),
    ("oss-direct", "parallelism", "smoke-run", "network-policy"),
    ("oss-direct-rrsa", "schedule", "programs", "runs-as-steps", "semaphore", "metrics"),
)
# Fields that a Workflow may set in addition to workflowTemplateRef if the controller has
# templateReferencing: Strict. Argo 4.0.5 allows a few more.
ALLOWED_BY_STRICT = {
    *("workflowTemplateRef", "arguments", "entrypoint"),
    *("activeDeadlineSeconds", "priority", "ttlStrategy", "podGC"),
}


def render(name: str, folder: Path) -> str:
    """The output of the kustomize with this name for a folder, including errors."""
    done = subprocess.run(
        [bundle.require(name), "build", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout


def test_oldest_kustomize(tmp_path: Path) -> None:
    """The oldest supported kustomize renders the bundle to the same bytes as the newest."""
    bundle.require("kustomize-oldest")
    folders = [path.parent for path in bundle.MANIFESTS.glob("overlays/*/kustomization.yaml")]
    folders += [bundle.MANIFESTS / "gitops" / name for name in (*bundle.OVERLAYS, "fleet")]
    for components in COMBINATIONS:
        folder = tmp_path / "+".join(components)
        folder.mkdir()
        bundle.compose(folder, components)
        folders.append(folder)

    different = [
        folder for folder in folders
        if render("kustomize", folder) != render("kustomize-oldest", folder)
    ]  # fmt: skip

    assert different == []
    assert set().union(*COMBINATIONS) == set(bundle.COMPONENTS)


def test_the_tested_versions_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has exactly the versions that the tests build or run on. README installs the newest
    Argo of the table."""
    monkeypatch.syspath_prepend(bundle.REPOSITORY / "tests/cluster")
    builds = importlib.import_module("builds")
    project = tomllib.loads((bundle.REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = (bundle.REPOSITORY / "images/oss2.lock.txt").read_text()
    (in_images,) = re.findall(r"--python-version (\S+)", lock)
    tested = {
        *(("Argo Workflows", version) for version in builds.ARGO.values()),
        *(("kustomize", version) for version in builds.KUSTOMIZE.values()),
        ("Kubernetes", builds.KUBERNETES),
        ("Argo CD", builds.ARGO_CD),
        ("Python", project["requires-python"].removeprefix(">=")),
        ("Python", in_images),
    }

    table, _, _ = VERSIONS.read_text().partition("\n## ")
    rows = re.findall(r"^\| (\w[\w ]*) \| (\d[\d.]*) \|", table, re.MULTILINE)

    readme = (bundle.REPOSITORY / "README.md").read_text()
    installed = f"download/{builds.ARGO[builds.NEWEST_ARGO]}/install.yaml"

    assert len(rows) == len(set(rows))
    assert installed in readme
    assert set(rows) == {(program, version.removeprefix("v")) for program, version in tested}


def test_runs_pass_strict() -> None:
    """Each Workflow of the bundle names its template, and sets only fields that Argo accepts with
    templateReferencing: Strict."""
    files = sorted((bundle.MANIFESTS / "runs").glob("*.yaml"))
    found = bundle.combination(("local-volume", "schedule", "smoke-run"))
    specs = {path.name: yaml.safe_load(path.read_text())["spec"] for path in files}
    specs["smoke-run"] = bundle.named(found, "Workflow", "smoke-run")["spec"]
    specs["schedule"] = bundle.named(found, "CronWorkflow", "log-count")["spec"]["workflowSpec"]

    # A user's own Workflow, as its comment states.
    own = yaml.safe_dump(specs.pop("run-as-step.yaml"))
    assert "workflowTemplateRef" not in own
    for name, spec in specs.items():
        assert spec["workflowTemplateRef"]["name"], name
        assert set(spec) <= ALLOWED_BY_STRICT, name


def test_initless_pod() -> None:
    """The component sets for supervisor the fields of wait in the base, and no other container."""
    base, initless = (
        {
            each["metadata"]["name"]: yaml.safe_load(each["spec"]["podSpecPatch"])
            for each in bundle.of_kind(bundle.combination(components), "WorkflowTemplate")
        }
        for components in (("oss-volume",), ("oss-volume", "initless-pod"))
    )
    for patch in base.values():
        (init,), (wait,) = patch.pop("initContainers"), patch["containers"]
        assert {**init, "name": "wait"} == wait
        patch["containers"] = [{**wait, "name": "supervisor"}]

    assert initless == base
