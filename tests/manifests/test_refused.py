"""Argo and a real API server accept the bundle and refuse broken manifests."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import bundle
import pytest
import references
import yaml

pytestmark = pytest.mark.cluster

INVALID = sorted((Path(__file__).parent / "invalid").iterdir())


def execute(
    *command: str, stdin: str | None = None, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a program; its exit code, and its stdout and stderr."""
    done = subprocess.run(
        [bundle.require(command[0]), *command[1:]],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


def lint(*paths: Path) -> tuple[int, str]:
    """Run `argo lint`, without a cluster."""
    return execute("argo", "lint", "--no-color", "--offline", "--strict", *map(str, paths))


def dry_run(found: list[bundle.Object]) -> tuple[int, str]:
    """Apply these objects as a dry run of the API server."""
    everything = {"apiVersion": "v1", "kind": "List", "items": found}
    options = "--dry-run=server", "--validate=strict", "--namespace=argo"
    return execute(
        *("kubectl", "apply", *options, "--filename=-"),
        stdin=json.dumps(everything),
        environment=bundle.cluster(),
    )


def rendered() -> dict[str, list[bundle.Object]]:
    """Every overlay and every combination of components, by name."""
    found = {name: bundle.objects(bundle.overlay(name)) for name in bundle.OVERLAYS}
    return found | {"+".join(each): bundle.combination(each) for each in bundle.combinations()}


def templates_of_runs() -> dict[Path, set[str]]:
    """The WorkflowTemplates that each run refers to."""
    return {
        path: set(re.findall(r"emplateRef:\n +name: (\S+)", path.read_text()))
        for path in sorted((bundle.MANIFESTS / "runs").glob("*.yaml"))
    }


def test_lints(tmp_path: Path) -> None:
    """Argo finds no problem in an overlay or a combination, nor in the runs that fit it."""
    problems, linted = [], set[Path]()
    for name, found in rendered().items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(found))
        names = {each["metadata"]["name"] for each in bundle.of_kind(found, "WorkflowTemplate")}
        runs = [each for each, used in templates_of_runs().items() if used <= names]
        code, output = lint(path, *runs)
        if code:
            problems.append(f"{name}: {output}")
        linted.update(runs)
    assert not problems, "\n".join(problems)
    assert linted == {*templates_of_runs()}


def test_api_server_accepts() -> None:
    """The API server accepts every field of every object of all overlays and combinations."""
    found = [each for some in rendered().values() for each in some]
    different = {json.dumps(each, sort_keys=True): each for each in found}

    code, output = dry_run(list(different.values()))

    assert code == 0, output
    assert output.count("(server dry run)") == len(different)


def test_configuration_is_complete() -> None:
    """The configuration has every reference and every image of Argo's CRDs."""
    expected = references.configuration(bundle.argo_manifests())

    problems = bundle.changes(bundle.REFERENCES.name, bundle.REFERENCES.read_text(), expected)
    assert not problems, f"{problems}update with: python tests/manifests/bundle.py --update"


def test_configuration_is_of_real_fields(tmp_path: Path) -> None:
    """The paths that are not from the CRDs are fields of Argo's kinds too: kustomize silently skips
    a wrong path."""
    from test_wiring import CASES, nest

    unknown = re.compile(r'unknown field "([^"]+)"')
    labels = [case for case in CASES if case[0] == "templateLabels"]
    for number, (_, _, kind, path) in enumerate([*labels, ("", "", "Workflow", "spec/no/such")]):
        (tmp_path / f"{number}.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "argoproj.io/v1alpha1",
                    "kind": kind,
                    "metadata": {"name": f"case-{number}"},
                    **nest(path, {"probe": "label"}),
                }
            )
        )

    _, output = lint(tmp_path)

    found = unknown.findall(output)
    assert "spec.no" in found, output  # the other paths were checked too
    problems = [f"Argo has no field {each}" for each in found if each != "spec.no"]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_broken_is_refused(path: Path) -> None:
    """A broken manifest is refused with the message in its first line."""
    tool, expected = path.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)

    if tool == "argo":
        code, output = lint(path)
    else:
        code, output = dry_run([yaml.safe_load(path.read_text())])

    assert code != 0
    assert re.search(expected, output), output
