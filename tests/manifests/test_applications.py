"""What Argo CD is given: one address, least rights, and the turn of each object."""

from __future__ import annotations

import shutil
from pathlib import Path

import bundle
import pytest
import yaml

GITOPS = bundle.MANIFESTS / "gitops"
CLUSTER_WIDE = {"PersistentVolume"}


def given(folder: str) -> list[bundle.Object]:
    """What is applied for an overlay, or for a fleet."""
    return bundle.objects(bundle.build(GITOPS / folder))


def application(folder: str) -> bundle.Object:
    """The spec of the Application for an overlay, or of those for a fleet."""
    if folder == "fleet":
        found = bundle.named(given(folder), "ApplicationSet", "fanfold")
        return dict(found["spec"]["template"]["spec"])
    return dict(bundle.named(given(folder), "Application", "fanfold")["spec"])


@pytest.mark.parametrize("folder", [*bundle.OVERLAYS, "fleet"])
def test_address_is_set_in_one_place(folder: str) -> None:
    """Every address and revision is that of the one file; no other file has one."""
    file = GITOPS / "source/source-configmap.yaml"
    source = yaml.safe_load(file.read_text())["data"]

    spec = application(folder)["source"]
    project = bundle.named(given(folder), "AppProject", "fanfold")["spec"]

    assert {"repoURL": spec["repoURL"], "revision": spec["targetRevision"]} == source
    assert project["sourceRepos"] == [source["repoURL"]]
    assert {each["kind"] for each in given(folder)} <= {
        "AppProject",
        "Application",
        "ApplicationSet",
    }
    others = [path.read_text() for path in GITOPS.rglob("*.yaml") if path != file]
    assert not any("://" in text.replace("https://kubernetes.default.svc", "") for text in others)


def test_an_application_an_overlay() -> None:
    """Each overlay has an Application; they and the fleet's differ in what they must."""
    specs = {folder: application(folder) for folder in (*bundle.OVERLAYS, "fleet")}

    for overlay in bundle.OVERLAYS:
        assert specs[overlay]["source"]["path"] == f"manifests/overlays/{overlay}"
    for spec in specs.values():
        del spec["source"]["path"], spec["destination"]["server"]
    assert all(spec == specs["local"] for spec in specs.values())


def test_least_rights() -> None:
    """The project allows the kinds that the bundle has, and no more."""
    project = bundle.named(given("ack"), "AppProject", "fanfold")["spec"]
    kinds = {
        (each["apiVersion"].split("/")[0] if "/" in each["apiVersion"] else "", each["kind"])
        for some in bundle.combinations()
        if not set(some) & set(bundle.DIRECT)  # no overlay's: who takes it adds its ConfigMap
        for each in bundle.combination(some)
    }

    def allowed(scope: str) -> set[tuple[str, str]]:
        return {(each["group"], each["kind"]) for each in project[f"{scope}ResourceWhitelist"]}

    assert allowed("cluster") == {each for each in kinds if each[1] in CLUSTER_WIDE}
    assert allowed("namespace") == {each for each in kinds if each[1] not in CLUSTER_WIDE}
    assert [each["namespace"] for each in project["destinations"]] == ["argo"]


@pytest.mark.parametrize("overlay", bundle.OVERLAYS)
def test_turns(overlay: str, tmp_path: Path) -> None:
    """With the components of its Application an overlay has a wave for every object, and options
    that keep its storage."""
    shutil.copytree(bundle.MANIFESTS, tmp_path / "manifests")
    folder = tmp_path / "manifests/overlays" / overlay
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    kustomization["components"] += [
        "../../components/schedule",
        *application(overlay)["source"]["kustomize"]["components"],
    ]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    found = bundle.objects(bundle.build(folder))

    waves = {
        each["kind"]: int(each["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for each in found
    }
    assert waves == {
        **dict.fromkeys(("ServiceAccount", "Role", "RoleBinding"), 0),
        **dict.fromkeys(("PersistentVolume", "PersistentVolumeClaim"), 1),
        "WorkflowTemplate": 2,
        **dict.fromkeys(("CronWorkflow", "Workflow"), 3),
    }
    for each in found:
        annotations = each["metadata"]["annotations"]
        options = annotations.get("argocd.argoproj.io/sync-options")
        if each["kind"].startswith("PersistentVolume"):
            assert options == "Prune=false,Delete=false"
            assert annotations["argocd.argoproj.io/compare-options"] == "IgnoreExtraneous"
        elif each["kind"] != "Workflow":
            assert options is None
