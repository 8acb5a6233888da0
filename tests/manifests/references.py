"""The fields of Argo's kinds with an image or another object's name, read from Argo's CRDs.

`python tests/manifests/bundle.py --update` writes them to kustomizeconfig.argo.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Three kinds have a workflow in spec, as Workflow does. CronWorkflow has it in spec/workflowSpec.
CRDS = ("workflows", "cronworkflows")
# Patterns of paths in a spec, and the kind that a path names, or "image". The first match counts.
TARGETS = {
    r"/rbd/image$": "",  # of a disk
    r"^spec/volumes/image/|/(initC|c)ontainers/image$": "",  # kustomize knows these
    # Hundreds of paths. An artifact repository is set once, in artifactRepositoryRef.
    r"/(artifacts|artifactPaths|archiveLocation|artifactLocation|data)/": "",
    r"/image(/reference)?$": "image",
    r"/serviceAccountName$": "ServiceAccount",
    r"/claimName$": "PersistentVolumeClaim",
    r"/(workflowT|t)emplateRef/name$": "WorkflowTemplate",
    r"/(configMap(KeyRef|Ref)?/name|artifactRepositoryRef/configMap)$": "ConfigMap",
    r"/(imagePullSecrets/name|secretName|(secret|\w*SecretRef|secretRef|secretKeyRef)/name)$": (
        "Secret"
    ),
}
HEAD = """\
# yamllint disable rule:line-length
# Generated from Argo's CRDs by `python tests/manifests/bundle.py --update`: fields of Argo's kinds
# with an image or another object's name, which kustomize must rewrite. Workflow, WorkflowTemplate
# and ClusterWorkflowTemplate have these fields in spec, CronWorkflow in spec/workflowSpec. The
# Secrets of artifact stores are left out, and so are all hooks except exit.
"""


def paths(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every path to a string. Of a map only the key `exit` counts, a hook's: kustomize has no
    pattern for keys."""
    while "items" in schema:
        schema = schema["items"]
    if schema.get("type") == "string":
        yield path
    for name, field in schema.get("properties", {}).items():
        yield from paths(field, f"{path}/{name}")
    if isinstance(more := schema.get("additionalProperties"), dict):
        yield from paths(more, f"{path}/exit")


def target(path: str) -> str:
    """The kind that a path names, or "image"; empty if kustomize must not rewrite the path."""
    return next((kind for pattern, kind in TARGETS.items() if re.search(pattern, path)), "")


def found(manifests: Path) -> dict[str, list[str]]:
    """The paths in the CRDs of Argo's manifests, by target."""
    by_target: dict[str, list[str]] = {}
    for name in CRDS:
        file = manifests / f"base/crds/full/argoproj.io_{name}.yaml"
        crd = yaml.load(file.read_text(), yaml.CSafeLoader)
        (version,) = crd["spec"]["versions"]
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for path in paths(spec, "spec"):
            if kind := target(path):
                by_target.setdefault(kind, []).append(path)
    return by_target


def configuration(manifests: Path) -> str:
    """The text of kustomizeconfig.argo.yaml."""
    by_target = found(manifests)
    lines = [HEAD + "images:"]
    lines += [f"- group: argoproj.io\n  path: {path}" for path in by_target.pop("image")]
    lines.append("\nnameReference:")
    for kind, some in sorted(by_target.items()):
        group = "group: argoproj.io" if kind == "WorkflowTemplate" else "version: v1"
        lines.append(f"- kind: {kind}\n  {group}\n  fieldSpecs:")
        lines += [f"  - group: argoproj.io\n    path: {path}" for path in some]
    return "\n".join(lines) + "\n"
