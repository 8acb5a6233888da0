"""What refers to other objects in Argo's kinds, and what is an image: read from Argo's own CRDs.

`python tests/manifests/bundle.py --update` writes it to kustomizeconfig.argo.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Of the three kinds whose spec is a workflow's; CronWorkflow has the same in spec/workflowSpec.
CRDS = ("workflows", "cronworkflows")
# What a path into a spec refers to, or "image". The first that fits counts.
TARGETS = {
    r"/rbd/image$": "",  # of a disk
    r"^spec/volumes/image/|/(initC|c)ontainers/image$": "",  # kustomize finds these by itself
    # Hundreds of paths, and who has an artifact repository says it once, in artifactRepositoryRef.
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
# Generated from Argo's CRDs by `python tests/manifests/bundle.py --update`: where Argo's kinds keep
# images and the names of other objects, which kustomize rewrites elsewhere by itself. Workflow,
# WorkflowTemplate and ClusterWorkflowTemplate have them in spec, CronWorkflow in spec/workflowSpec.
# Left out are the keys of artifact stores; of the hooks, those that are not named exit.
"""


def paths(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every path to a text. Of a map only the key `exit` counts, that of a hook: kustomize has no
    way to say any key."""
    while "items" in schema:
        schema = schema["items"]
    if schema.get("type") == "string":
        yield path
    for name, field in schema.get("properties", {}).items():
        yield from paths(field, f"{path}/{name}")
    if isinstance(more := schema.get("additionalProperties"), dict):
        yield from paths(more, f"{path}/exit")


def target(path: str) -> str:
    """What a path refers to; empty for nothing that is rewritten."""
    return next((kind for pattern, kind in TARGETS.items() if re.search(pattern, path)), "")


def found(manifests: Path) -> dict[str, list[str]]:
    """The paths, by what they refer to, in the CRDs that lie below Argo's manifests."""
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
