"""A controller that runs nothing but what its templates say, as README recommends.

The setting is the whole controller's, so this runs with no other test beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_programs
from examples import model_of_filter
from scenario import WORDS, Volume, kubectl, model, submit, submit_variant, until

pytestmark = pytest.mark.e2e
CONFIG = "configmap/workflow-controller-configmap"


def configure(restrictions: str | None) -> None:
    """Set the controller's restrictions, or remove them; it reads them anew by itself."""
    patch = json.dumps({"data": {"workflowRestrictions": restrictions}})
    kubectl("patch", CONFIG, "--type=merge", "--patch", patch)


@pytest.fixture
def strict() -> Iterator[None]:
    """A controller that refuses a workflow with a spec of its own."""
    configure("templateReferencing: Strict\n")  # without the line end it is no YAML to Argo
    yield
    configure(None)


@pytest.mark.usefixtures("strict")
def test_strict_template_referencing(volume: Volume, log: bytes, checkout: Path) -> None:
    """Runs of the bundle's templates go on as ever, also those whose parameters are programs; a
    workflow that brings its own spec does not run."""
    test_programs.apply(checkout, "strict")

    def refused() -> bool:
        status = submit_variant("log-count", lambda _: None, runDir="e2e/own").wait()["status"]
        return "must use workflowTemplateRef" in status.get("message", "")

    until("a refusal", 120, refused)

    programs = test_programs.submit("filter", "strict", runDir="e2e/strict-programs")
    submit("log-count", runDir="e2e/strict").succeed()
    programs.succeed()

    assert volume.get("e2e/strict-programs/errors.jsonl") == model_of_filter(log)
    assert volume.result("e2e/strict") == model(log, WORDS)
