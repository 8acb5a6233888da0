"""Every overlay and every combination of components builds, and renders what was agreed on."""

from __future__ import annotations

import re
from pathlib import Path

import bundle
import pytest
import yaml


@pytest.mark.parametrize("overlay", bundle.OVERLAYS)
def test_golden(overlay: str) -> None:
    """An overlay renders as its golden file says, to the byte."""
    rendered = bundle.build(bundle.MANIFESTS / "overlays" / overlay)

    golden = bundle.GOLDEN / f"{overlay}.yaml"

    assert rendered == golden.read_text(), "renew with: python tests/manifests/bundle.py --update"


def test_golden_files_are_those_of_the_overlays() -> None:
    """No golden file outlives its overlay."""
    assert sorted(path.stem for path in bundle.GOLDEN.iterdir()) == bundle.OVERLAYS


def test_base_builds_alone() -> None:
    """The base needs nothing beside it."""
    kinds = {each["kind"] for each in bundle.objects(bundle.build(bundle.MANIFESTS / "base"))}

    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "WorkflowTemplate"}


# What a component is there for: a path into an object, and what stands there with it.
EFFECTS = {
    "local-volume": ("PersistentVolume pv-local", "spec/hostPath/type", "Directory"),
    "oss-volume": ("PersistentVolume pv-oss", "spec/csi/nodePublishSecretRef/name", "oss-secret"),
    "oss-volume-rrsa": ("PersistentVolume pv-oss", "spec/csi/volumeAttributes/authType", "rrsa"),
    "oss-direct": (
        "WorkflowTemplate log-count",
        "spec/templateDefaults/container/env/2/valueFrom/secretKeyRef/name",
        "oss-secret",
    ),
    "oss-direct-rrsa": (
        "WorkflowTemplate log-count",
        "spec/volumes/1/projected/sources/0/serviceAccountToken/audience",
        "sts.aliyuncs.com",
    ),
    "eci-spot": (
        "WorkflowTemplate log-count",
        "spec/podMetadata/annotations/k8s.aliyun.com~1eci-spot-strategy",
        "SpotAsPriceGo",
    ),
    "acs-best-effort": (
        "WorkflowTemplate log-count",
        "spec/podMetadata/labels/alibabacloud.com~1compute-qos",
        "best-effort",
    ),
    "artifacts": (
        "WorkflowTemplate log-count",
        "spec/templates/3/outputs/artifacts/0/name",
        "result",
    ),
    "parallelism": ("WorkflowTemplate aggregate", "spec/parallelism", 100),
    "smoke-run": ("Workflow smoke-run", "spec/entrypoint", "smoke-run"),
    "schedule": (
        "CronWorkflow log-count",
        "spec/workflowSpec/workflowTemplateRef/name",
        "log-count",
    ),
}


def look_up(found: list[bundle.Object], name: str, path: str) -> object:
    """What stands at a JSON pointer in an object, or None."""
    kind, name = name.split()
    here: object = next(
        (each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)), None
    )
    for step in path.split("/"):
        if isinstance(here, list):
            here = here[int(step)] if int(step) < len(here) else None
        elif isinstance(here, dict):
            here = here.get(step.replace("~1", "/"))
    return here


@pytest.mark.parametrize("components", list(bundle.combinations()), ids="+".join)
def test_combination(components: tuple[str, ...]) -> None:
    """A combination has the effect of each component in it and of no other."""
    found = bundle.combination(components)

    effective = {
        name for name, effect in EFFECTS.items() if look_up(found, *effect[:2]) == effect[2]
    }
    assert effective == set(components)
    claims = bundle.of_kind(found, "PersistentVolumeClaim")
    assert len(claims) == (components[0] in bundle.VOLUMES)


@pytest.mark.parametrize("storage", bundle.VOLUMES + bundle.DIRECT)
def test_order_does_not_matter(storage: str, tmp_path: Path) -> None:
    """Components can be listed in any order, as the README says."""
    longest = max((each for each in bundle.combinations() if each[0] == storage), key=len)
    there, back = tmp_path / "there", tmp_path / "back"
    for folder in (there, back):
        folder.mkdir()

    def sort(found: list[bundle.Object]) -> list[bundle.Object]:
        return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert sort(bundle.compose(there, longest)) == sort(bundle.compose(back, longest[::-1]))


@pytest.mark.parametrize("direct", bundle.DIRECT)
def test_no_artifact_without_a_volume(direct: str, tmp_path: Path) -> None:
    """What would fail at the end of a run is refused by the build, in any order."""
    for components in ((direct, "artifacts"), ("artifacts", direct)):
        with pytest.raises(ValueError, match=r"testing value /spec/\S+ failed"):
            bundle.compose(tmp_path, components)


def test_local_volume_can_be_changed(tmp_path: Path) -> None:
    """The two patches in the comment of local-volume do what they are for."""
    comment = (bundle.MANIFESTS / "components/local-volume/kustomization.yaml").read_text()
    elsewhere, own_class = (
        yaml.safe_load(re.sub("^# ? ?", "", text, flags=re.MULTILINE))["patches"]
        for text in re.findall(r"^#   patches:\n(?:#    ? ?.*\n)+", comment, re.MULTILINE)
    )

    moved = bundle.compose(tmp_path, ("local-volume",), patches=elsewhere)
    replaced = bundle.compose(tmp_path, ("local-volume",), patches=own_class)

    volume = bundle.named(moved, "PersistentVolume", "pv-local")
    assert volume["spec"]["hostPath"]["path"] == "/data/fanfold"
    claim = bundle.named(replaced, "PersistentVolumeClaim", "pvc-oss")
    assert claim["spec"]["storageClassName"] == "your-class"
    assert "volumeName" not in claim["spec"]
    assert not bundle.of_kind(replaced, "PersistentVolume")


def test_every_component_is_in_a_combination() -> None:
    """A new component has to find its place in the matrix and its effect."""
    used = set().union(*bundle.combinations())

    assert sorted(used) == sorted(EFFECTS) == bundle.COMPONENTS


def test_readme_names_everything() -> None:
    """Every template, parameter, component, overlay and run is in the README."""
    readme = (bundle.MANIFESTS / "README.md").read_text()
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        parameters = [each["name"] for each in template["spec"]["arguments"]["parameters"]]
        (row,) = re.findall(rf"^\| `{template['metadata']['name']}` \|.*$", readme, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row.split("|")[3]) == parameters

    for name in [*bundle.COMPONENTS, *bundle.OVERLAYS]:
        assert f"| `{name}` |" in readme
    for run in (bundle.MANIFESTS / "runs").iterdir():
        assert run.name in readme


def test_readme_overlays(tmp_path: Path) -> None:
    """The overlays that the README shows build, and what they patch is as they say."""
    readme = (bundle.MANIFESTS / "README.md").read_text()
    shown = [
        yaml.safe_load(text.replace("../../", bundle.relative(bundle.MANIFESTS, tmp_path) + "/"))
        for text in re.findall(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    ]
    assert shown
    for each in shown:
        found = bundle.kustomize(tmp_path, each)
        for template in bundle.of_kind(found, "WorkflowTemplate") if "images" in each else ():
            for worker in bundle.workers(template).values():
                assert "/" in worker["image"], "a name of the base, which no registry has"
        for one in each.get("patches", []):
            patch = yaml.safe_load(one["patch"])
            if "target" in one:
                worker = bundle.workers(bundle.named(found, **one["target"]))["map"]
                names = [variable["name"] for variable in worker["env"]]
                assert worker["args"] == ["status_classes.py"]
                assert {"WORK_DIR", "RUN_DIR", "ERROR_FILE", "MAP_SETTINGS"} <= set(names)
            else:
                patched = bundle.named(found, patch["kind"], patch["metadata"]["name"])
                assert patched["data"] == patch["data"]


def test_readme_matrix() -> None:
    """A dot in the matrix is a component that the overlay's kustomization names."""
    readme = (bundle.MANIFESTS / "README.md").read_text()
    matrix = {
        overlay: {
            name
            for name in bundle.COMPONENTS
            for row in re.findall(rf"^\| `{name}` \|.*$", readme, re.MULTILINE)
            if row.split("|")[4 + column].strip() == "●"
        }
        for column, overlay in enumerate(("local", "ack", "ack-one"))
    }

    for overlay, components in matrix.items():
        folder = bundle.MANIFESTS / "overlays" / overlay
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert {Path(each).name for each in kustomization["components"]} == components


def test_one_object_a_file() -> None:
    """Each file of an object holds one, and is named after it: <name>-<kind>.yaml."""
    for path in bundle.MANIFESTS.rglob("*.yaml"):
        if path.parent.name in ("patches", "runs") or path.name.startswith("kustomiz"):
            continue
        (each,) = yaml.safe_load_all(path.read_text())
        assert path.name == f"{each['metadata']['name']}-{each['kind'].lower()}.yaml"
