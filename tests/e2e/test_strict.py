"""A controller that runs only WorkflowTemplates, as README recommends.

All tests share the controller, so these tests run alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_programs
from examples import model_of_filter
from scenario import (
    ROOT,
    WORDS,
    Run,
    Volume,
    argo,
    kubectl,
    model,
    submit,
    submit_variant,
    until,
)

pytestmark = pytest.mark.e2e
CONFIG = "configmap/workflow-controller-configmap"
OWN = {"name": "main", "container": {"image": "localhost/busybox:dev", "command": ["id"]}}
# Fields that change a pod, by Argo's name of the field.
CHANGES: dict[str, dict[str, object]] = {
    "PodSpecPatch": {"podSpecPatch": '{"containers": [{"name": "main", "image": "own"}]}'},
    "Templates": {"templates": [OWN]},
    "ServiceAccountName": {"serviceAccountName": "argo"},
}

README = (ROOT / "manifests/README.md").read_text()


def configure(restrictions: str | None) -> None:
    """Set or remove the controller's restrictions. It reads the change without a restart."""
    patch = json.dumps({"data": {"workflowRestrictions": restrictions}})
    kubectl("patch", CONFIG, "--type=merge", "--patch", patch)


def create(
    reference: str = "log-count", status: object = None, by: str = "", **spec: object
) -> Run:
    """Submit a run of a WorkflowTemplate, with these additional fields, as this user."""
    return test_programs.create(
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"generateName": "strict-own-"},
            "spec": {"workflowTemplateRef": {"name": reference}, **spec},
            **({"status": status} if status else {}),
        },
        *([f"--as={by}"] if by else []),
    )


def refusal(**more: object) -> str:
    """The API server's error for a run; empty if the server accepts it."""
    try:
        create(**more)  # type: ignore[arg-type]
    except AssertionError as error:
        return str(error)
    return ""


@pytest.fixture
def strict() -> Iterator[None]:
    """A controller that refuses a workflow with its own spec."""
    configure("templateReferencing: Strict\n")  # Argo needs the line end to parse it as YAML
    yield
    configure(None)


@pytest.mark.usefixtures("strict")
def test_strict_template_referencing(volume: Volume, log: bytes, checkout: Path) -> None:
    """Runs of the bundle's templates succeed, also with programs as parameters. A workflow with its
    own spec does not run."""
    test_programs.apply(checkout, "strict")

    def refused() -> bool:
        status = submit_variant("log-count", lambda _: None, runDir="e2e/own").wait()["status"]
        return "must use workflowTemplateRef" in status.get("message", "")

    until("a refusal", 120, refused)
    version = tuple(map(int, re.findall(r"v(\d+)\.(\d+)\.(\d+)", argo("version", "--short"))[0]))
    if version >= (4, 0, 5) or (3, 7, 14) <= version < (4,):  # older versions: see README
        ended = {field: create(**spec).wait()["status"] for field, spec in CHANGES.items()}  # type: ignore[arg-type]
        for field, status in ended.items():
            assert status["phase"] == "Error"
            assert f"fields [{field}] are not permitted" in status["message"]

    programs = test_programs.submit("filter", "strict", runDir="e2e/strict-programs")
    submit("log-count", runDir="e2e/strict").succeed()
    programs.succeed()

    assert volume.get("e2e/strict-programs/errors.jsonl") == model_of_filter(log)
    assert volume.result("e2e/strict") == model(log, WORDS)


@pytest.fixture
def policies() -> Iterator[None]:
    """The role and the policy that manifests/README.md shows."""
    (text,) = re.findall(r"(?s)\n## Let others run and not write\n(.*?)\n## ", README)
    _, role, policy = re.findall(r"(?s)```yaml\n(.*?)```", text)
    manifest = f"{role}---\n{policy}".encode()
    kubectl("apply", "-f", "-", stdin=manifest)
    kubectl("create", "rolebinding", "e2e-submit", "--role=fanfold-submit", "--user=e2e-runner")
    yield
    kubectl("delete", "rolebinding", "e2e-submit")
    kubectl("delete", "-f", "-", stdin=manifest)


@pytest.mark.usefixtures("volume", "policies")
def test_others_run_and_do_not_write() -> None:
    """A user with README's role can submit runs and cannot change them. The API server refuses a
    run with a spec in its status, and a run with a tag of Argo in a parameter."""

    def may(verb: str, kind: str) -> bool:
        try:
            return bool(kubectl("auth", "can-i", verb, kind, "--as=e2e-runner"))
        except AssertionError:
            return False

    assert may("create", "workflows.argoproj.io")
    assert not any(may(verb, "workflows.argoproj.io") for verb in ("update", "patch", "delete"))
    assert not any(may(verb, "workflowtemplates.argoproj.io") for verb in ("create", "update"))
    assert not may("create", "pods")

    def tagged(parameter: dict[str, object]) -> str:
        parameters = [{"name": "input", **parameter}, {"name": "runDir", "value": "e2e/tag"}]
        return refusal(arguments={"parameters": parameters})

    own = {"storedWorkflowTemplateSpec": {"entrypoint": "main", "templates": [OWN]}}
    until("a refusal", 60, lambda: "a new Workflow has no status" in refusal(status=own))
    assert "a new Workflow has no status" in refusal(status={"phase": "Succeeded"})
    assert "a parameter has {{" in tagged({"value": "{{=1+1}}.txt"})
    default = {"configMapKeyRef": {"name": "no", "key": "no"}, "default": "{{=1+1}}.txt"}
    assert "no value of its own" in tagged({"valueFrom": default})
    assert tagged({"value": "of {curly} {brackets}.txt"}) == ""
    # The controller starts the runs of a schedule, with a status.
    assert refusal(status={"phase": ""}, by="system:serviceaccount:argo:argo") == ""
