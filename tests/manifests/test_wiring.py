"""What kustomize and Argo would skip in silence: paths, names and settings that must agree."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundle
import pytest
import yaml

CONFIGURATIONS = sorted((bundle.MANIFESTS / "base").glob("kustomizeconfig*.yaml"))
KINDS = ("Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate")
# Fields that are lists in Argo's kinds; a step is a list in a list.
LISTS = {
    *("containers", "env", "envFrom", "headers", "imagePullSecrets", "initContainers"),
    *("parameters", "semaphores", "sidecars", "sources", "tasks", "templates", "volumes"),
}

Case = tuple[str, str, str, str]  # section, what a name refers to, the referrer's kind, path


def cases() -> Iterator[Case]:
    """Every line of the configurations, once for each kind that it is meant for."""
    loaded = [yaml.safe_load(path.read_text()) for path in CONFIGURATIONS]
    entries = [(name, entry) for each in loaded for name in each for entry in each[name]]
    for section, entry in entries:
        target = entry["kind"] if "fieldSpecs" in entry else ""
        for line in entry.get("fieldSpecs", [entry]):
            path = line["path"]
            kinds = ("CronWorkflow",) if path.startswith("spec/workflowSpec/") else KINDS
            for kind in (line["kind"],) if "kind" in line else kinds:
                yield section, target, kind, path


CASES = list(cases())
BEFORE = {"images": "probe:old", "nameReference": "target", "namespace": "before"}
AFTER = {"images": "probe:new", "namespace": "after", "templateLabels": {"probe": "label"}}


def nest(path: str, value: Any) -> Any:
    """An object in the shape of Argo's kinds with `value` at this path."""
    for step in reversed(path.split("/")):
        value = {step: [[value]] if step == "steps" else [value] if step in LISTS else value}
    return value


def dig(tree: Any, path: str) -> Any:
    """What stands at this path, with the first item of every list."""
    for step in path.split("/"):
        while isinstance(tree, list):
            tree = tree[0]
        tree = tree.get(step) if tree else None
    return tree


def probe(folder: Path, configurations: list[str]) -> dict[Case, Any]:
    """What kustomize puts at each path when everything that it can change is changed."""
    core = ("ServiceAccount", "PersistentVolumeClaim", "PersistentVolume")
    files: dict[str, bundle.Object] = {
        kind.lower(): {"apiVersion": "v1", "kind": kind, "metadata": {"name": "target"}}
        for kind in core
    }
    argo = {"apiVersion": "argoproj.io/v1alpha1"}
    files["template"] = {**argo, "kind": "WorkflowTemplate", "metadata": {"name": "target"}}
    for number, (section, _, kind, path) in enumerate(CASES):
        files[f"case-{number}"] = {
            **(argo if "Workflow" in kind else {"apiVersion": "v1"}),
            "kind": kind,
            # A volume's handle is the volume's own name.
            "metadata": {"name": "target" if path.endswith("volumeHandle") else f"case-{number}"},
            **(nest(path, BEFORE[section]) if section in BEFORE else {"spec": {}}),
        }
        if path.endswith("volumeHandle"):
            del files["persistentvolume"]
    found = bundle.kustomize(
        folder,
        {
            "namespace": "after",
            "namePrefix": "pre-",
            "nameSuffix": "-suf",
            "images": [{"name": "probe", "newTag": "new"}],
            "labels": [{"pairs": {"probe": "label"}, "includeTemplates": True}],
            "configMapGenerator": [{"name": "target", "literals": ["key=value"]}],
            "secretGenerator": [{"name": "target", "literals": ["key=value"]}],
            "configurations": configurations,
        },
        **files,
    )
    seen = {(each["kind"], each["metadata"]["name"]): each for each in found}
    return {
        case: dig(
            seen[case[2], "pre-target-suf"]
            if case[3].endswith("volumeHandle")
            else seen[case[2], f"pre-case-{number}-suf"],
            case[3],
        )
        for number, case in enumerate(CASES)
    }


@pytest.fixture(scope="module")
def with_configuration(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Any]:
    """Every path of the configurations after a build with them."""
    folder = tmp_path_factory.mktemp("with")
    for path in CONFIGURATIONS:
        (folder / path.name).write_text(path.read_text())
    return probe(folder, [path.name for path in CONFIGURATIONS])


@pytest.fixture(scope="module")
def without_configuration(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Any]:
    """The same after a build without it."""
    return probe(tmp_path_factory.mktemp("without"), [])


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_configuration(
    case: Case, with_configuration: dict[Case, Any], without_configuration: dict[Case, Any]
) -> None:
    """A line of the configurations makes its field change, which nothing else does."""
    section, target, _, _ = case

    assert without_configuration[case] == BEFORE.get(section)
    if target in ("ConfigMap", "Secret"):
        assert re.fullmatch(r"pre-target-suf-[a-z0-9]{10}", with_configuration[case])
    else:
        assert with_configuration[case] == AFTER.get(section, "pre-target-suf")


def test_components_are_reached(tmp_path: Path) -> None:
    """A user's overlay renames, retags and moves what comes from components as well."""
    found = bundle.compose(
        tmp_path,
        ("oss-volume", "schedule"),
        namespace="elsewhere",
        namePrefix="a-",
        nameSuffix="-z",
        secretGenerator=[{"name": "oss-secret", "literals": ["akId=x", "akSecret=y"]}],
    )

    volume = bundle.named(found, "PersistentVolume", "a-pv-oss-z")
    claim = bundle.named(found, "PersistentVolumeClaim", "a-pvc-oss-z")
    secret = bundle.of_kind(found, "Secret")[0]
    schedule = bundle.named(found, "CronWorkflow", "a-log-count-z")
    assert volume["spec"]["csi"]["volumeHandle"] == "a-pv-oss-z"
    assert claim["spec"]["volumeName"] == "a-pv-oss-z"
    assert volume["spec"]["csi"]["nodePublishSecretRef"] == {
        "name": secret["metadata"]["name"],
        "namespace": "elsewhere",
    }
    assert secret["metadata"]["namespace"] == "elsewhere"
    assert schedule["spec"]["workflowSpec"]["workflowTemplateRef"]["name"] == "a-log-count-z"
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        assert template["spec"]["serviceAccountName"] == "a-fanfold-z"
        assert template["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "a-pvc-oss-z"
        for reference in re.findall(r"'templateRef': {'name': '([^']+)'", str(template)):
            assert bundle.named(found, "WorkflowTemplate", reference)


def test_direct_is_reached(tmp_path: Path) -> None:
    """The same for a Secret and a ConfigMap that containers and scripts name."""
    found = bundle.compose(
        tmp_path,
        ("oss-direct",),
        namePrefix="a-",
        secretGenerator=[{"name": "oss-secret", "literals": ["akId=x", "akSecret=y"]}],
    )

    secret = bundle.of_kind(found, "Secret")[0]["metadata"]["name"]
    assert secret.startswith("a-oss-secret-")
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        for container in bundle.workers(template).values():
            assert container["envFrom"] == [{"configMapRef": {"name": "a-oss-direct"}}]
            assert {
                each["valueFrom"]["secretKeyRef"]["name"]
                for each in container["env"]
                if "valueFrom" in each
            } == {secret}


@pytest.mark.parametrize("overlay", bundle.OVERLAYS)
def test_namespaces_agree(overlay: str) -> None:
    """Everything of an overlay is in one namespace, the volume's Secret and the binding's account
    included."""
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "overlays" / overlay))
    namespaces = {
        each["metadata"].get("namespace") for each in found if each["kind"] != "PersistentVolume"
    }
    for volume in bundle.of_kind(found, "PersistentVolume"):
        if reference := volume["spec"].get("csi", {}).get("nodePublishSecretRef"):
            namespaces.add(reference["namespace"])
    for binding in bundle.of_kind(found, "RoleBinding"):
        namespaces |= {subject["namespace"] for subject in binding["subjects"]}

    assert namespaces == {"argo"}


@pytest.mark.parametrize("overlay", bundle.OVERLAYS)
def test_images_of_an_overlay(overlay: str) -> None:
    """Each images entry of an overlay changes a template, and none is left with a base's name; a
    tag that an overlay does not set is the release's."""
    folder = bundle.MANIFESTS / "overlays" / overlay
    entries = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
    base = yaml.safe_load((bundle.MANIFESTS / "base/kustomization.yaml").read_text())["images"]
    release = {each["name"]: each["newTag"] for each in base}
    templates = bundle.of_kind(bundle.objects(bundle.build(folder)), "WorkflowTemplate")

    used = {each["image"] for template in templates for each in bundle.workers(template).values()}

    assert {image.partition("@")[0] for image in used} == {
        f"{each['newName']}:{each.get('newTag', release[each['name']])}" for each in entries
    }


def base_workers() -> dict[str, bundle.Object]:
    """The containers that the base starts, by "WorkflowTemplate/template"."""
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    return {
        f"{template['metadata']['name']}/{name}": container
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for name, container in bundle.workers(template).items()
    }


WORKERS = base_workers()


def image_of(container: bundle.Object) -> str:
    """Which of the three images a container of the base runs."""
    (image,) = re.findall(r"^fanfold-(\w+):", container["image"])
    return str(image)


def test_images_are_those_of_the_dockerfiles() -> None:
    """Each image of the base has a Dockerfile and is used."""
    images = {image_of(each) for each in WORKERS.values()}

    assert images == {path.suffix[1:] for path in bundle.REPOSITORY.glob("Dockerfile.*")}


def test_images_hold_the_scripts() -> None:
    """The script that a template starts is in its image, and python is what starts it."""
    for container in WORKERS.values():
        assert container["command"] in (["python"], ["python3"])
        if "source" in container:
            continue
        dockerfile = (bundle.REPOSITORY / f"Dockerfile.{image_of(container)}").read_text()
        assert f"workers/{container['args'][0]}" in dockerfile


def test_user_is_that_of_the_images() -> None:
    """Pods run as the user that the images are built for."""
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    users = {
        f"{context['runAsUser']}:{context['runAsGroup']}"
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for context in [template["spec"]["securityContext"]]
    }
    dockerfiles = [path.read_text() for path in bundle.REPOSITORY.glob("Dockerfile.*")]

    assert users == {
        user for text in dockerfiles for user in re.findall(r"^USER (.*)$", text, re.MULTILINE)
    }


# Settings of a worker that no template sets: for images of the users' own.
LEFT_OUT = {"MAP_SETTINGS"}
READS = re.compile(r'(?:environ(?:\.get\(|\[)|choice\(environ, )"([A-Z_]+)"')


def settings_read(*modules: str) -> set[str]:
    """The environment variables that these modules of the workers read."""
    folder = bundle.REPOSITORY / "workers"
    return {name for each in modules for name in READS.findall((folder / each).read_text())}


def test_settings_are_those_of_the_contract() -> None:
    """A template sets what its worker reads, and every setting can be reached."""
    shared = settings_read("contract.py", "store.py", "worker.py")
    scripts = {container["args"][0] for container in WORKERS.values() if "args" in container}
    set_anywhere = set()
    for name, container in WORKERS.items():
        keys = {each["name"] for each in container["env"]}
        if "args" in container:
            assert keys <= shared | settings_read(container["args"][0]), name
            set_anywhere |= keys

    assert set_anywhere == (shared | settings_read(*scripts)) - LEFT_OUT


def test_settings_of_oss_are_those_of_the_workers() -> None:
    """What oss-direct and its variant set is what the workers look for."""
    source = "".join(path.read_text() for path in (bundle.REPOSITORY / "workers").glob("*.py"))
    for direct in bundle.DIRECT:
        found = bundle.combination((direct,))
        (settings,) = bundle.of_kind(found, "ConfigMap")
        template = bundle.named(found, "WorkflowTemplate", "log-count")
        names = {each["name"] for each in bundle.workers(template)["map"]["env"]}
        for name in names | set(settings["data"]):
            assert f'"{name}"' in source


def workflow_parameters(tree: object) -> set[str]:
    """The workflow parameters that are mentioned somewhere in here."""
    return set(re.findall(r"workflow\.parameters\.(\w+)", str(tree)))


def test_parameters_are_declared_and_used() -> None:
    """A WorkflowTemplate declares the parameters that it uses, in the templates of others too
    (which Argo finds out only when it runs), and no more."""
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    bodies = {
        (template["metadata"]["name"], body["name"]): body
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for body in template["spec"]["templates"]
    }
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        references = re.findall(
            r"'templateRef': {'name': '([^']+)', 'template': '([^']+)'}", str(template)
        )
        used = workflow_parameters(template["spec"])
        used |= workflow_parameters([bodies[each] for each in references])

        declared = {each["name"] for each in template["spec"]["arguments"]["parameters"]}
        assert used == declared, template["metadata"]["name"]


def test_script_does_what_it_is_for(tmp_path: Path) -> None:
    """The script template, which Argo starts far from the workers' modules, finds them and writes
    files of one capital letter each; it uses each of its settings."""
    (script,) = (each for each in WORKERS.values() if "source" in each)
    settings = {each["name"]: each["value"] for each in script["env"]}
    dockerfile = (bundle.REPOSITORY / f"Dockerfile.{image_of(script)}").read_text()
    assert f" {settings['PYTHONPATH']}/\n" in dockerfile
    assert set(settings) == {"FILES", "PYTHONPATH", "WORK_DIR", "RUN_DIR", "ERROR_FILE"}

    def run(files: str) -> int:
        given = {
            "FILES": files,
            "PYTHONPATH": str(bundle.REPOSITORY / "workers"),
            "WORK_DIR": str(tmp_path),
            "RUN_DIR": "run",
            "ERROR_FILE": str(tmp_path / "error"),
        }
        command = [sys.executable, "-c", script["source"]]
        return subprocess.run(command, cwd=tmp_path, env=given, check=False, timeout=60).returncode

    assert run("3") == 0
    written = {path.name: path.read_text() for path in (tmp_path / "run").rglob("*.txt")}
    assert set(written) == {"0.txt", "1.txt", "2.txt"}
    assert all(re.fullmatch("[A-Z]", text) for text in written.values())
    assert run("none") == 2
    assert "FILES is 'none'" in (tmp_path / "error").read_text()


def test_defaults_are_those_of_the_workers() -> None:
    """The parameters' defaults are what the workers do without them."""
    source = "".join(path.read_text() for path in (bundle.REPOSITORY / "workers").glob("*.py"))
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    spec = bundle.named(found, "WorkflowTemplate", "log-count")["spec"]
    defaults = {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}

    assert f'"INPUT", "{defaults["input"]}"' in source
    assert f'"KEYWORDS", "{defaults["keywords"]}"' in source
    assert f'"NUM_PARTS", "{defaults["numParts"]}"' in source
    assert defaults["runDir"] == ""


def test_runs_name_templates() -> None:
    """A run refers to a template of the base, and a fixed-name run says so in its file's name."""
    found = bundle.objects(bundle.build(bundle.MANIFESTS / "base"))
    for path in (bundle.MANIFESTS / "runs").iterdir():
        run = yaml.safe_load(path.read_text())
        reference = run["spec"]["workflowTemplateRef"]["name"]
        assert bundle.named(found, "WorkflowTemplate", reference)
        assert run["metadata"]["namespace"] == "argo"
        if "name" in run["metadata"]:
            assert path.stem == run["metadata"]["name"] == f"{reference}-once"
        else:
            assert path.stem == reference
            assert run["metadata"]["generateName"] == f"{reference}-"
