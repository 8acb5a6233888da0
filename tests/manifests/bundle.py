"""Builds of the bundle for the tests, and helpers to read them.

`python tests/manifests/bundle.py --update` writes the golden files and kustomizeconfig.argo.yaml.
`--update golden` writes only the golden files, and needs only kustomize.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import references
import yaml
from kustomize.helpers.binaries import binarypath  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = REPOSITORY / "manifests"
DOCS = MANIFESTS / "docs"
REFERENCES = MANIFESTS / "base/kustomizeconfig.argo.yaml"
GOLDEN = Path(__file__).resolve().parent / "golden"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())

VOLUMES = (
    *("local-volume", "oss-volume", "oss-volume-rrsa"),
    *("oss-volume-ossfs2", "oss-volume-ossfs2-rrsa"),
)
DIRECT = ("oss-direct", "oss-direct-rrsa")
EXTRAS = (
    *("artifacts", "parallelism", "schedule", "smoke-run", "initless-pod"),
    *("programs", "runs-as-steps", "network-policy"),
    *(LAST := ("semaphore", "metrics")),  # programs refuses to follow these
)
# A combination takes one value from each axis; "" is no component.
AXES = ((*VOLUMES, *DIRECT), ("", "eci-spot", "acs-best-effort"), *(("", each) for each in EXTRAS))
WHOLE = "ack"  # its golden file is the full text; the others are differences

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
    """End a test, or a module of tests, because something is missing: skip it, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)


def require(name: str) -> str:
    """A program that comes with the test cluster."""
    return program(name) or lacking(
        f"{name} must be in FANFOLD_BIN or on the PATH: build it with tests/cluster/cluster.py"
    )


def argo_manifests() -> Path:
    """The folder of Argo's manifests, which is built with the test cluster."""
    folder = os.environ.get("FANFOLD_BIN")
    manifests = Path(folder or "") / "manifests"
    if not folder or not manifests.is_dir():  # the repository has a folder with this name too
        lacking("FANFOLD_BIN must have Argo's manifests: build them with tests/cluster/cluster.py")
    return manifests


def cluster() -> dict[str, str]:
    """The environment in which kubectl finds the test cluster."""
    if "E2E_KUBECONFIG" not in os.environ:
        lacking("E2E_KUBECONFIG must be set: set it to a kubeconfig, or start the test cluster")
    return {**os.environ, "KUBECONFIG": os.environ["E2E_KUBECONFIG"]}


def build(folder: Path) -> str:
    """The output of kustomize for a folder; ValueError with its message if the build fails."""
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
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


@functools.cache
def base() -> list[Object]:
    """The objects of the base, built once."""
    return objects(build(MANIFESTS / "base"))


@functools.cache
def overlay(name: str) -> str:
    """The text of an overlay, built once."""
    return build(MANIFESTS / "overlays" / name)


def kustomize(folder: Path, kustomization: Object, **files: Object) -> list[Object]:
    """Build a kustomization that a test writes into `folder`, with a file for each of `files`."""
    resources = [*kustomization.get("resources", []), *(f"{name}.yaml" for name in files)]
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({**kustomization, "resources": resources})
    )
    return objects(build(folder))


def relative(path: Path, folder: Path) -> str:
    """A path for kustomize: relative to `folder`, also if it is outside."""
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
    """The objects of compose() for these components, built once."""
    with tempfile.TemporaryDirectory() as folder:
        return compose(Path(folder), components)


def allowed(chosen: Iterable[str]) -> bool:
    """Whether the README's matrix allows these components together: artifacts needs a volume."""
    return "artifacts" not in chosen or not set(chosen) & set(DIRECT)


@functools.cache
def combinations() -> list[tuple[str, ...]]:
    """Combinations of components that contain every pair of values of two axes that the README's
    matrix allows. Each step takes the combination with the most pairs that are still missing."""
    every = [each for each in itertools.product(*AXES) if allowed(each)]
    pairs = {each: set(itertools.combinations(enumerate(each), 2)) for each in every}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        chosen.append(max(every, key=lambda each: len(pairs[each] & missing)))
        missing -= pairs[chosen[-1]]
    return [tuple(filter(None, each)) for each in chosen]


def named(found: list[Object], kind: str, name: str) -> Object:
    """The only object of this kind and name."""
    (match,) = (each for each in found if each["kind"] == kind and each["metadata"]["name"] == name)
    return match


def of_kind(found: list[Object], kind: str) -> list[Object]:
    """All objects of a kind."""
    return [each for each in found if each["kind"] == kind]


def label(found: Object) -> str:
    """An object's kind and name."""
    return f"{found['kind']} {found['metadata']['name']}"


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


def values(tree: Any, path: str) -> Iterator[str]:
    """Every value of a tree with its path, one line per value."""
    if tree and isinstance(tree, dict | list):
        for key, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from values(each, f"{path}/{str(key).replace('/', '~1')}")
    else:
        yield f"{path}: {json.dumps(tree, default=str, ensure_ascii=False)}\n"


def difference(before: str, after: str) -> str:
    """The values that differ between two YAML streams: a unified diff without line numbers and
    context, because each line names its object and field."""
    old, new = (
        [line for each in objects(text) for line in values(each, f"{label(each)} ")]
        for text in (before, after)
    )
    lines = itertools.islice(difflib.unified_diff(old, new, n=0), 2, None)
    return "".join(line for line in lines if not line.startswith("@@"))


def changes(file: str, kept: str, made: str) -> str:
    """The unified diff from a file that --update writes to its new text."""
    old, new = kept.splitlines(keepends=True), made.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, f"{file} as it is", "as it must be", n=1))


def golden(rendered: Mapping[str, str]) -> dict[str, str]:
    """The golden files of these overlays: WHOLE in full, the others as differences from WHOLE."""
    whole = rendered[WHOLE]
    others = {name: text for name, text in rendered.items() if name != WHOLE}
    return {f"{WHOLE}.yaml": whole} | {
        f"{name}.diff": difference(whole, text) for name, text in others.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the golden files and the list of references."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--update", nargs="?", const="all", choices=("all", "golden"), required=True
    )
    if parser.parse_args(argv).update == "all":
        REFERENCES.write_text(references.configuration(argo_manifests()))
    files = golden({each: overlay(each) for each in OVERLAYS})
    for old in GOLDEN.iterdir():
        old.unlink()
    for name, text in files.items():
        (GOLDEN / name).write_text(text)
        print(f"wrote {name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
