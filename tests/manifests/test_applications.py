"""The objects for Argo CD: one address, least rights, and a wave per object."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import bundle
import yaml
from checks import Check, checks

GITOPS = bundle.MANIFESTS / "gitops"
CLUSTER_WIDE = {"PersistentVolume"}


def applied(folder: str) -> list[bundle.Object]:
    """The objects that are applied for an overlay, or for a fleet."""
    return bundle.objects(bundle.build(GITOPS / folder))


def application(folder: str) -> bundle.Object:
    """The spec of the Application for an overlay, or of the Applications of a fleet."""
    if folder == "fleet":
        found = bundle.named(applied(folder), "ApplicationSet", "fanfold")
        return dict(found["spec"]["template"]["spec"])
    return dict(bundle.named(applied(folder), "Application", "fanfold")["spec"])


FOLDERS = (*bundle.OVERLAYS, "fleet")


@checks
def test_address_is_set_in_one_place() -> Iterator[Check]:
    """Every address and revision comes from one file; no other file has any."""
    file = GITOPS / "source/source-configmap.yaml"
    source = yaml.safe_load(file.read_text())
    yield "source", file.name, source, {"data": {"repoURL", "revision", "namespace"}}

    url, revision, namespace = (source["data"][key] for key in ("repoURL", "revision", "namespace"))
    kinds = {"kind": re.compile("AppProject|Application|ApplicationSet")}
    for folder in FOLDERS:
        address = {"source/repoURL": url, "source/targetRevision": revision}
        address["destination/namespace"] = namespace
        yield folder, "Application fanfold", application(folder), address
        project = bundle.named(applied(folder), "AppProject", "fanfold")
        allowed = {"spec/sourceRepos": [url], "spec/destinations/0/namespace": namespace}
        yield folder, "AppProject fanfold", project, allowed | {"spec/destinations/1": None}
        for each in applied(folder):
            yield folder, bundle.label(each), each, kinds
    for path in sorted(set(GITOPS.rglob("*.yaml")) - {file}):
        text = path.read_text().replace("https://kubernetes.default.svc", "")
        found = {"addresses": re.findall(r"\S*://\S*", text)}
        yield path.parent.name, path.name, found, {"addresses": []}


@checks
def test_one_application_per_overlay() -> Iterator[Check]:
    """Each overlay has an Application. All Applications differ only in path and server."""
    for overlay in bundle.OVERLAYS:
        path = {"source/path": f"manifests/overlays/{overlay}"}
        yield overlay, "Application fanfold", application(overlay), path
    specs = {folder: application(folder) for folder in FOLDERS}
    for spec in specs.values():
        del spec["source"]["path"], spec["destination"]["server"]
    for folder, spec in specs.items():
        yield folder, "Application fanfold", {"spec": spec}, {"spec": specs["local"]}


def test_least_rights() -> None:
    """The project allows exactly the kinds of the bundle."""
    project = bundle.named(applied("ack"), "AppProject", "fanfold")["spec"]
    kinds = {
        (each["apiVersion"].split("/")[0] if "/" in each["apiVersion"] else "", each["kind"])
        for some in bundle.combinations()
        # No overlay has these components: users of them add the kind ConfigMap.
        if not set(some) & {*bundle.DIRECT, "semaphore"}
        for each in bundle.combination(some)
    }

    def allowed(scope: str) -> set[tuple[str, str]]:
        return {(each["group"], each["kind"]) for each in project[f"{scope}ResourceWhitelist"]}

    assert allowed("cluster") == {each for each in kinds if each[1] in CLUSTER_WIDE}
    assert allowed("namespace") == {each for each in kinds if each[1] not in CLUSTER_WIDE}


WAVES = {
    **dict.fromkeys(("ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget"), "0"),
    **dict.fromkeys(("PersistentVolume", "PersistentVolumeClaim"), "1"),
    "WorkflowTemplate": "2",
    **dict.fromkeys(("CronWorkflow", "Workflow"), "3"),
}


@checks
def test_waves(tmp_path: Path) -> Iterator[Check]:
    """With the components of its Application, every object of an overlay has a wave, and its
    storage has options that keep it."""
    shutil.copytree(bundle.MANIFESTS, tmp_path / "manifests")
    for overlay in bundle.OVERLAYS:
        folder = tmp_path / "manifests/overlays" / overlay
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        kustomization["components"] += [
            "../../components/schedule",
            *application(overlay)["source"]["kustomize"]["components"],
        ]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

        found = bundle.objects(bundle.build(folder))

        kinds = {each["kind"]: None for each in found}
        yield overlay, "the objects", {"kinds": kinds}, {"kinds": set(WAVES)}
        for each in found:
            options: dict[str, object] = {"sync-wave": WAVES.get(each["kind"])}
            if each["kind"].startswith("PersistentVolume"):
                options["sync-options"] = "Prune=false,Delete=false"
                options["compare-options"] = "IgnoreExtraneous"
            elif each["kind"] != "Workflow":
                options["sync-options"] = None
            path = "metadata/annotations/argocd.argoproj.io~1"
            fields = {path + name: value for name, value in options.items()}
            yield overlay, bundle.label(each), each, fields
