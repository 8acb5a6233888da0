"""The bundle as the tests see it: how it is built, and what it is built of.

`python tests/manifests/bundle.py --update` renews the golden files and kustomizeconfig.argo.yaml.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import references
import yaml
from kustomize.helpers.binaries import binarypath  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = REPOSITORY / "manifests"
REFERENCES = MANIFESTS / "base/kustomizeconfig.argo.yaml"
GOLDEN = Path(__file__).resolve().parent / "golden"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())

VOLUMES = ("local-volume", "oss-volume", "oss-volume-rrsa")
DIRECT = ("oss-direct", "oss-direct-rrsa")
PLACES = ((), ("eci-spot",), ("acs-best-effort",))
EXTRAS = ("artifacts", "parallelism", "schedule")

Object = dict[str, Any]  # a Kubernetes object


def program(name: str) -> str | None:
    """A program's path: from FANFOLD_BIN, else kustomize from the venv, else from the PATH."""
    folder = os.environ.get("FANFOLD_BIN")
    if found := shutil.which(name, path=folder) if folder else None:
        return found
    if name == "kustomize":
        with suppress(FileNotFoundError):
            return str(binarypath(name))
    return shutil.which(name)


def lacking(what: str) -> NoReturn:
    """End a test, or a module of tests, that needs more than there is: skipped on a machine,
    failed in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)


def require(name: str) -> str:
    """A program that comes with the test cluster."""
    return program(name) or lacking(
        f"{name} is neither in FANFOLD_BIN nor on the PATH: build it, tests/cluster/cluster.py does"
    )


def argo_manifests() -> Path:
    """The manifests of Argo itself, which are built with the test cluster."""
    folder = Path(os.environ.get("FANFOLD_BIN", "")) / "manifests"
    if not folder.is_dir():
        lacking("FANFOLD_BIN has no manifests of Argo: tests/cluster/cluster.py builds them")
    return folder


def cluster() -> dict[str, str]:
    """The environment in which kubectl finds the test cluster."""
    if "E2E_KUBECONFIG" not in os.environ:
        lacking("E2E_KUBECONFIG is not set: point it at a cluster, or start the test cluster")
    return {**os.environ, "KUBECONFIG": os.environ["E2E_KUBECONFIG"]}


def build(folder: Path) -> str:
    """What kustomize makes of a folder; its own words in the error if it cannot."""
    done = subprocess.run(
        [require("kustomize"), "build", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def objects(text: str) -> list[Object]:
    """The objects in a YAML stream."""
    return [each for each in yaml.safe_load_all(text) if each]


def kustomize(folder: Path, kustomization: Object, **files: Object) -> list[Object]:
    """Build a kustomization that a test writes into `folder`, with a file for each of `files`."""
    resources = [*kustomization.get("resources", []), *(f"{name}.yaml" for name in files)]
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({**kustomization, "resources": resources})
    )
    return objects(build(folder))


def relative(path: Path, folder: Path) -> str:
    """A path as kustomize takes it: relative, even to a folder elsewhere."""
    return os.path.relpath(path, folder.resolve())


def compose(folder: Path, components: Sequence[str], **more: Any) -> list[Object]:
    """Build the base with these components in namespace argo, as a user's overlay would."""
    kustomization = {
        "namespace": "argo",
        "resources": [relative(MANIFESTS / "base", folder)],
        "components": [relative(MANIFESTS / "components" / name, folder) for name in components],
        **more,
    }
    return kustomize(folder, kustomization)


@functools.cache
def combination(components: tuple[str, ...]) -> list[Object]:
    """What compose() makes of these components, built once."""
    with tempfile.TemporaryDirectory() as folder:
        return compose(Path(folder), components)


def combinations() -> Iterator[tuple[str, ...]]:
    """Every combination of components that the README's matrix allows; those with smoke-run, which
    touches nothing of the others, only where all are."""
    for storage, place in itertools.product((*VOLUMES, *DIRECT), PLACES):
        extras = tuple(each for each in EXTRAS if storage in VOLUMES or each != "artifacts")
        for size in range(len(extras) + 1):
            for some in itertools.combinations(extras, size):
                yield (storage, *place, *some)
        yield (storage, *place, *extras, "smoke-run")


def named(found: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (match,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"] == name)
    return match


def of_kind(found: list[Object], kind: str) -> list[Object]:
    """All objects of a kind."""
    return [each for each in found if each["kind"] == kind]


def merge(under: Any, over: Any) -> Any:
    """`over` laid on `under` as Argo lays a template on templateDefaults: maps merge, lists of
    named things merge by name, everything else is replaced."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {
            **under,
            **{key: merge(under[key], over[key]) if key in under else over[key] for key in over},
        }
    if (
        isinstance(under, list)
        and isinstance(over, list)
        and all(isinstance(each, dict) and "name" in each for each in under + over)
    ):
        names = {each["name"]: each for each in under}
        names |= {each["name"]: merge(names.get(each["name"], {}), each) for each in over}
        return list(names.values())
    return over


def workers(template: Object) -> dict[str, Object]:
    """The containers that a WorkflowTemplate starts, by template name, as Argo completes them."""
    spec = template["spec"]
    defaults = spec.get("templateDefaults", {})
    return {
        each["name"]: merge(defaults.get(kind, {}), each[kind])
        for each in spec["templates"]
        for kind in ("container", "script")
        if kind in each
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Renew the golden files and the list of references."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--update", action="store_true", required=True)
    parser.parse_args(argv)
    REFERENCES.write_text(references.configuration(argo_manifests()))
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.yaml"):
        old.unlink()
    for overlay in OVERLAYS:
        (GOLDEN / f"{overlay}.yaml").write_text(build(MANIFESTS / "overlays" / overlay))
        print(f"rendered {overlay}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
