"""Paths, names and settings that must agree: kustomize and Argo skip mistakes in them silently."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundle
import yaml
from checks import Check, at, checks

CONFIGURATIONS = sorted((bundle.MANIFESTS / "base").glob("kustomizeconfig*.yaml"))
KINDS = ("Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate")
# Fields of Argo's kinds that are lists. `steps` is a list of lists.
LISTS = {
    *("containers", "env", "envFrom", "headers", "imagePullSecrets", "initContainers"),
    *("parameters", "semaphores", "sidecars", "sources", "tasks", "templates", "volumes"),
}

Case = tuple[str, str, str, str]  # section, what a name refers to, the referrer's kind, path


def cases() -> Iterator[Case]:
    """Every line of the configurations, once per kind that the line covers."""
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
HASHED = re.compile("pre-target-suf-[a-z0-9]{10}")  # a generated ConfigMap or Secret


def nest(path: str, value: Any) -> Any:
    """An object in the shape of Argo's kinds with `value` at this path."""
    for step in reversed(path.split("/")):
        value = {step: [[value]] if step == "steps" else [value] if step in LISTS else value}
    return value


def name_of(number: int, path: str) -> str:
    """The name of a case's object: a volume's handle is the volume's own name."""
    return "target" if path.endswith("volumeHandle") else f"case-{number}"


def probe(folder: Path, configurations: list[Path]) -> list[bundle.Object]:
    """An object per case, after a build that changes everything that kustomize can change."""
    folder.mkdir()
    for file in configurations:
        (folder / file.name).write_text(file.read_text())
    core = ("ServiceAccount", "PersistentVolumeClaim", "PersistentVolume", "PodDisruptionBudget")
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
            "metadata": {"name": name_of(number, path)},
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
            "configurations": [file.name for file in configurations],
        },
        **files,
    )
    seen = {bundle.label(each): each for each in found}
    return [
        seen[f"{kind} pre-{name_of(number, path)}-suf"]
        for number, (_, _, kind, path) in enumerate(CASES)
    ]


@checks
def test_configuration(tmp_path: Path) -> Iterator[Check]:
    """Each line of the configurations makes its field change; without the line it does not
    change."""
    without = probe(tmp_path / "without", [])
    configured = probe(tmp_path / "with", CONFIGURATIONS)
    for number, (section, target, kind, path) in enumerate(CASES):
        name = f"{section} {target} {kind}"
        hashed = target in ("ConfigMap", "Secret")
        after = HASHED if hashed else AFTER.get(section, "pre-target-suf")
        yield "without configuration", name, without[number], {path: BEFORE.get(section)}
        yield "with configuration", name, configured[number], {path: after}


@checks
def test_components_are_reached(tmp_path: Path) -> Iterator[Check]:
    """A user's overlay also renames, retags and moves the objects of components."""
    found = bundle.compose(
        tmp_path,
        ("oss-volume", "schedule"),
        namespace="elsewhere",
        namePrefix="a-",
        nameSuffix="-z",
        secretGenerator=[{"name": "oss-secret", "literals": ["akId=x", "akSecret=y"]}],
    )
    templates = bundle.of_kind(found, "WorkflowTemplate")
    (secret,) = bundle.of_kind(found, "Secret")
    objects = {bundle.label(each): each for each in found}
    csi = "PersistentVolume a-pv-oss-z/spec/csi"
    reached = {
        f"{csi}/volumeHandle": "a-pv-oss-z",
        f"{csi}/nodePublishSecretRef/name": secret["metadata"]["name"],
        f"{csi}/nodePublishSecretRef/namespace": "elsewhere",
        "PersistentVolume a-pv-oss-z/spec/claimRef/name": "a-pvc-oss-z",
        "PersistentVolume a-pv-oss-z/spec/claimRef/namespace": "elsewhere",
        f"{bundle.label(secret)}/metadata/namespace": "elsewhere",
        "PersistentVolumeClaim a-pvc-oss-z/spec/volumeName": "a-pv-oss-z",
        "CronWorkflow a-log-count-z/spec/workflowSpec/workflowTemplateRef/name": "a-log-count-z",
    }
    for name in re.findall(r"'templateRef': {'name': '([^']+)'", str(templates)):
        reached[f"WorkflowTemplate {name}/metadata/name"] = name
    yield "overlay with components", "the objects", objects, reached
    template = {
        "spec/serviceAccountName": "a-fanfold-z",
        "spec/volumes/0/persistentVolumeClaim/claimName": "a-pvc-oss-z",
    }
    for each in templates:
        yield "overlay with components", bundle.label(each), each, template


@checks
def test_direct_is_reached(tmp_path: Path) -> Iterator[Check]:
    """An overlay also renames a Secret and a ConfigMap that containers and scripts name."""
    found = bundle.compose(
        tmp_path,
        ("oss-direct",),
        namePrefix="a-",
        secretGenerator=[{"name": "oss-secret", "literals": ["akId=x", "akSecret=y"]}],
    )
    (secret,) = bundle.of_kind(found, "Secret")
    name = secret["metadata"]["name"]
    yield "oss-direct", "Secret", secret, {"metadata/name": re.compile("a-oss-secret-.*")}
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        for worker, container in bundle.workers(template).items():
            where = f"{template['metadata']['name']} {worker}"
            config = {"envFrom": [{"configMapRef": {"name": "a-oss-direct"}}]}
            yield "oss-direct", where, container, config
            keys = [at(each, "valueFrom/secretKeyRef/name") for each in container["env"]]
            yield "oss-direct", where, {"secrets": {*keys} - {None}}, {"secrets": {name}}


@checks
def test_namespaces_agree(tmp_path: Path) -> Iterator[Check]:
    """Everything of an overlay is in the namespace that one line sets, including the volume's
    claim, its Secret and the binding's account."""
    shutil.copytree(bundle.MANIFESTS, tmp_path / "manifests")
    for overlay in bundle.OVERLAYS:
        folder = tmp_path / "manifests/overlays" / overlay
        file = folder / "kustomization.yaml"
        text = re.sub(r"^namespace: argo\b", "namespace: analytics", file.read_text(), flags=re.M)
        file.write_text(text)
        for namespace, rendered in (
            ("argo", bundle.overlay(overlay)),
            ("analytics", bundle.build(folder)),
        ):
            for each in bundle.objects(rendered):
                fields = [f"subjects/{n}/namespace" for n in range(len(each.get("subjects", ())))]
                if each["kind"] != "PersistentVolume":
                    fields.append("metadata/namespace")
                else:
                    fields.append("spec/claimRef/namespace")
                if at(each, "spec/csi/nodePublishSecretRef"):
                    fields.append("spec/csi/nodePublishSecretRef/namespace")
                yield overlay, bundle.label(each), each, dict.fromkeys(fields, namespace)


@checks
def test_images_of_an_overlay() -> Iterator[Check]:
    """Each images entry of an overlay changes a template, and no image keeps a name of the base. A
    tag that an overlay does not set is the release's tag."""
    base = yaml.safe_load((bundle.MANIFESTS / "base/kustomization.yaml").read_text())["images"]
    release = {each["name"]: each["newTag"] for each in base}
    for overlay in bundle.OVERLAYS:
        file = bundle.MANIFESTS / "overlays" / overlay / "kustomization.yaml"
        images = {
            f"{each['newName']}:{each.get('newTag', release[each['name']])}"
            for each in yaml.safe_load(file.read_text())["images"]
        }
        used = {
            container["image"].partition("@")[0]
            for template in bundle.of_kind(
                bundle.objects(bundle.overlay(overlay)), "WorkflowTemplate"
            )
            for container in bundle.workers(template).values()
        }
        yield overlay, "WorkflowTemplates", {"images": used}, {"images": images}


@functools.cache
def base_workers() -> dict[str, bundle.Object]:
    """The containers that the base starts, by "WorkflowTemplate/template"."""
    return {
        f"{template['metadata']['name']}/{name}": container
        for template in bundle.of_kind(bundle.base(), "WorkflowTemplate")
        for name, container in bundle.workers(template).items()
    }


def image_of(container: bundle.Object) -> str:
    """The short name of the image that a container of the base runs."""
    (image,) = re.findall(r"^fanfold-(\w+):", container["image"])
    return str(image)


def test_local_uses_the_built_images() -> None:
    """The overlay `local`, `make images` and the README of the images use the same names."""
    script = (bundle.REPOSITORY / "images/build.sh").read_text()
    (prefix,) = re.findall(r"\$\{IMAGE_PREFIX:-([^}]+)\}", script)
    (tag,) = re.findall(r"tag=\$\{TAG:-([^}]+)\}", script)
    built = {f"{prefix}{image_of(each)}:{tag}" for each in base_workers().values()}

    found = bundle.objects(bundle.overlay("local"))
    asked = {
        worker["image"]
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for worker in bundle.workers(template).values()
    }

    assert asked == built
    readme = (bundle.REPOSITORY / "images/README.md").read_text()
    assert f"`{prefix}{{split,map,reduce}}:{tag}`" in readme


def test_images_match_the_dockerfiles() -> None:
    """Each image of the base has a Dockerfile and is used."""
    images = {image_of(each) for each in base_workers().values()}

    assert images == {path.suffix[1:] for path in bundle.REPOSITORY.glob("Dockerfile.*")}


def test_images_hold_the_scripts() -> None:
    """The script that a template starts is in its image, and python starts it."""
    found = bundle.combination(("local-volume", "programs"))
    programs = bundle.workers(bundle.named(found, "WorkflowTemplate", "map-reduce"))
    for container in (*base_workers().values(), *programs.values()):
        assert container["command"] in (["python"], ["python3"])
        if "source" in container:
            continue
        dockerfile = (bundle.REPOSITORY / f"Dockerfile.{image_of(container)}").read_text()
        assert f"workers/{container['args'][0].removeprefix('/fanfold/')}" in dockerfile


def test_user_matches_the_images() -> None:
    """Pods run as the user of the images."""
    found = bundle.base()
    users = {
        f"{context['runAsUser']}:{context['runAsGroup']}"
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for context in [template["spec"]["securityContext"]]
    }
    dockerfiles = [path.read_text() for path in bundle.REPOSITORY.glob("Dockerfile.*")]

    assert users == {
        user for text in dockerfiles for user in re.findall(r"^USER (.*)$", text, re.MULTILINE)
    }


# Settings of a worker that no template sets: for custom images, and settings by Argo.
LEFT_OUT = {"MAP_SETTINGS", "OUTPUT", "ARGO_PROGRESS_FILE"}
# Settings of programs, which the base does not run. MAP and the like are prefixes of names.
LEFT_OUT |= {
    "MAP_COMMAND",
    "PROCESS_COMMAND",
    "REDUCE_COMMAND",
    "MAP",
    "PROCESS",
    "REDUCE",
    "FILE_SUFFIX",
    "SCRATCH_DIR",
    "SCRATCH_SIZE",
    "MAP_STATUS",
    "OUTPUT_DIR",
    "OUTPUT_SUFFIX",
    "FILES_AT_ONCE",
}
READS = re.compile(r'(?:environ(?:\.get\(|\[|, )|[(] ?\(|\), \()"([A-Z_]+)"')
IMPORTS = re.compile(r"^from fanfold(\.[\w.]+)? import (.+)$", re.MULTILINE)
WORKERS = bundle.REPOSITORY / "workers"


def rooms(script: str) -> set[Path]:
    """A worker and all modules of the package that it imports."""
    found, new = set[Path](), {WORKERS / script}
    while new:
        found |= new
        imports = {each for path in new for each in IMPORTS.findall(path.read_text())}
        paths = (
            WORKERS / "fanfold" / name.replace(".", "/")
            for inner, names in imports
            for name in ([inner[1:]] if inner else names.split(", "))
        )
        new = {p / "__init__.py" if p.is_dir() else p.with_suffix(".py") for p in paths} - found
    return found


def settings_read(script: str) -> set[str]:
    """The environment variables that a worker reads."""
    return {name for each in rooms(script) for name in READS.findall(each.read_text())}


def test_settings_match_the_workers() -> None:
    """A template sets only settings that its worker reads, and every setting is set by a
    template."""
    scripts, set_anywhere = set(), set()
    for name, container in base_workers().items():
        keys = {each["name"] for each in container["env"]}
        if "args" in container:
            scripts.add(container["args"][0])
            assert keys <= settings_read(container["args"][0]), name
            set_anywhere |= keys

    assert set_anywhere == set().union(*map(settings_read, scripts)) - LEFT_OUT


def test_programs_are_set_in_full() -> None:
    """With the component `programs` each worker gets all its settings of programs, except settings
    that no run of Argo needs."""
    found = bundle.combination(("local-volume", "programs"))
    left_out = {"SCRATCH_DIR", "PROCESS_SETTINGS", "REDUCE_SETTINGS"}
    of_programs = re.compile(
        "(MAP|PROCESS|REDUCE)_.*|SCRATCH_.*|FILE_SUFFIX|OUTPUT|PARTS_PER_POD"
        "|OUTPUT_DIR|OUTPUT_SUFFIX|FILES_AT_ONCE|TOLERATED_FAILURES|SUMMARY_FILE"
    )
    workers = {
        f"{name}/{worker}": container
        for name in ("map-reduce", "process-data")
        for worker, container in bundle.workers(
            bundle.named(found, "WorkflowTemplate", name)
        ).items()
    }
    # merge.py is the last step of both templates: each leaves out the settings of the other.
    others = {
        "map-reduce/reduce": "PROCESS_.*|FILE_SUFFIX",
        "process-data/merge-data": "MAP_.*|OUTPUT.*|TOLERATED_FAILURES|SUMMARY_FILE",
    }
    for where, container in workers.items():
        script = container["args"][0].removeprefix("/fanfold/")
        assert container["command"] == ["python3"], where
        (taken,) = re.findall(
            r"^Takes +([^\n]*(?:\n +[^\n]*)*)", (WORKERS / script).read_text(), re.MULTILINE
        )
        names = {each.partition("=")[0] for each in taken.split()}
        other = re.compile(others.get(where, "-"))
        takes = {
            each for each in names if of_programs.fullmatch(each) and not other.fullmatch(each)
        }
        keys = {each["name"] for each in container["env"]}
        variables = {each for each in keys if of_programs.fullmatch(each)}
        assert variables == takes - left_out, where


def test_scratch_has_one_size() -> None:
    """SCRATCH_SIZE is the size of the volume at /tmp in each template that may run a program."""
    found = bundle.combination(("local-volume", "programs"))
    for name in ("map-reduce", "process-data", "aggregate"):
        template = bundle.named(found, "WorkflowTemplate", name)
        (tmp,) = (each for each in template["spec"]["volumes"] if each["name"] == "tmp")
        sizes = {
            each["value"]
            for container in bundle.workers(template).values()
            for each in container["env"]
            if each["name"] == "SCRATCH_SIZE"
        }
        assert sizes <= {tmp["emptyDir"]["sizeLimit"]} == {"1073741824"}
        assert sizes or name == "aggregate"  # its pods are in process-data


def test_one_limit_of_pods() -> None:
    """The templates and the documents have the same limit of pods per run."""
    found = bundle.combination(("local-volume", "programs"))
    (limit,) = {
        int(each["value"])
        for name in ("log-count", "map-reduce")
        for each in bundle.workers(bundle.named(found, "WorkflowTemplate", name))["split"]["env"]
        if each["name"] == "MAX_PODS"
    }
    texts = {
        name: yaml.safe_dump(bundle.named(found, "WorkflowTemplate", name), width=1000)
        for name in ("log-count", "map-reduce", "aggregate", "process-data")
    }
    assert f"A run can have {limit} map pods" in texts["log-count"]
    assert f"A run can have {limit} map pods" in texts["map-reduce"]
    assert (
        re.findall(r"(?<=<= )\d+(?=}})|(?<=at most )\d+(?= pods:)", texts["aggregate"])
        == [str(limit)] * 2
    )
    (numbers,) = map(int, set(re.findall(r"1 to (\d+)", texts["process-data"])))
    assert numbers + numbers // 2 + 1 <= limit
    assert f"up to {limit:,} map pods" in (bundle.MANIFESTS / "docs/size.md").read_text()


def test_default_program() -> None:
    """The default program of map-reduce outputs the lines of the log with an ERROR."""
    found = bundle.combination(("local-volume", "programs"))
    spec = bundle.named(found, "WorkflowTemplate", "map-reduce")["spec"]
    defaults = {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}
    log = b"[INFO] a\n[ERROR] b\n[WARN] \xff\n[ERROR] \xff c"

    words = shlex.split(defaults["mapCommand"])
    done = subprocess.run(words, input=log, capture_output=True, check=True, timeout=60)

    assert done.stdout == b"[ERROR] b\n[ERROR] \xff c"


@checks
def test_results_are_outputs() -> Iterator[Check]:
    """The contents of RESULT_FILE and the like become output parameters of the workflow, which
    `argo get` shows, and of the template main, with any outputs that a component adds. A missing
    file cannot make a run fail."""
    names = {"RESULT_FILE": "result", "RESULT_PATH_FILE": "resultPath", "SUMMARY_FILE": "summary"}
    sets = (("local-volume",), ("oss-volume", "artifacts"), ("oss-direct",))
    for components in (*sets, ("oss-direct", "programs")):
        build = "+".join(components)
        mains: dict[str, set[str]] = {name: set() for name in names.values()}
        for template in bundle.of_kind(bundle.combination(components), "WorkflowTemplate"):
            workers = bundle.workers(template)
            (tmp,) = (each for each in template["spec"]["volumes"] if each["name"] == "tmp")
            for body in template["spec"]["templates"]:
                where = f"{template['metadata']['name']} {body['name']}"
                found = {each["name"]: each for each in at(body, "outputs/parameters") or ()}
                container = workers.get(body["name"], {"env": [], "volumeMounts": []})
                files = {each["name"]: each.get("value") for each in container["env"]}
                mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
                for variable, name in names.items():
                    if variable in files:
                        file = {"globalName": name, "valueFrom/path": files[variable]}
                        yield build, where, found.get(name), {**file, "valueFrom/default": ""}
                        below = {"valueFrom/path": re.compile(f"{mounts['tmp']}/.+")}
                        yield build, where, found.get(name), below
                        size = re.compile("1Mi|1073741824")  # programs need more
                        yield build, "volume tmp", tmp, {"emptyDir/sizeLimit": size}
                    elif name in found:
                        source = "expression" if body["name"] == "level" else "parameter"
                        handed = re.compile(rf"(?s).*\boutputs\.parameters\.{name}\b.*")
                        fields = {f"valueFrom/{source}": handed, "valueFrom/default": ""}
                        yield build, where, found[name], fields
                        mains[name].add(where)
        of_maps = {"log-count main", "static-fan-out main"}
        of_maps |= {"map-reduce main"} if "programs" in components else set()
        of_all = {*of_maps, "process-data main", "aggregate main", "aggregate level"}
        expected = {"result": of_all, "resultPath": of_all, "summary": of_maps}
        yield build, "bundle", mains, expected


def test_settings_of_oss_match_the_workers() -> None:
    """The workers read every setting of oss-direct and oss-direct-rrsa."""
    source = "".join(path.read_text() for path in (bundle.REPOSITORY / "workers").rglob("*.py"))
    for direct in bundle.DIRECT:
        found = bundle.combination((direct,))
        (settings,) = bundle.of_kind(found, "ConfigMap")
        template = bundle.named(found, "WorkflowTemplate", "log-count")
        names = {each["name"] for each in bundle.workers(template)["map"]["env"]}
        for name in names | set(settings["data"]):
            assert f'"{name}"' in source


def workflow_parameters(tree: object) -> set[str]:
    """The workflow parameters that a tree names."""
    return set(re.findall(r"workflow\.parameters\.(\w+)", str(tree)))


def test_parameters_are_declared_and_used() -> None:
    """A WorkflowTemplate declares exactly the parameters that it uses, also in templates of other
    WorkflowTemplates: Argo notices a missing parameter only in a run."""
    for found in (bundle.base(), bundle.combination(("local-volume", "programs"))):
        check_declared(found)


def check_declared(found: list[bundle.Object]) -> None:
    """Compare the declared with the used parameters in one build."""
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


def test_arguments_are_parameters() -> None:
    """The schedule and the smoke run set only parameters of log-count. The schedule cleans up."""
    found = bundle.combination(("local-volume", "schedule", "smoke-run"))
    log_count = bundle.named(found, "WorkflowTemplate", "log-count")
    declared = {each["name"] for each in log_count["spec"]["arguments"]["parameters"]}
    schedule = bundle.named(found, "CronWorkflow", "log-count")["spec"]["workflowSpec"]
    smoke_run = bundle.named(found, "Workflow", "smoke-run")["spec"]

    of_schedule, of_smoke_run = (
        {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}
        for spec in (schedule, smoke_run)
    )

    assert {*of_schedule, *of_smoke_run} <= declared
    assert of_schedule["clean"] == "true"


def test_script_writes_its_files(tmp_path: Path) -> None:
    """The script template, which Argo starts in another folder, finds the workers' modules and
    writes files of one capital letter each. It uses each of its settings."""
    (script,) = (each for each in base_workers().values() if "source" in each)
    settings = {each["name"]: each.get("value") for each in script["env"]}
    dockerfile = (bundle.REPOSITORY / f"Dockerfile.{image_of(script)}").read_text()
    assert f" {settings['PYTHONPATH']}/\n" in dockerfile
    of_all = {"WORK_DIR", "RUN_DIR", "ERROR_FILE", "RUN_ID", "RUN_STARTED", "POD_NAME", "NODE_NAME"}
    assert set(settings) == {"FILES", "PYTHONPATH"} | of_all

    def run(files: str) -> int:
        variables = {
            "FILES": files,
            "PYTHONPATH": str(bundle.REPOSITORY / "workers"),
            "WORK_DIR": str(tmp_path),
            "RUN_DIR": "run",
            "ERROR_FILE": str(tmp_path / "error"),
        }
        command = [sys.executable, "-c", script["source"]]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, check=False, timeout=60
        ).returncode

    assert run("3") == 0
    written = {path.name: path.read_text() for path in (tmp_path / "run").rglob("*.txt")}
    assert set(written) == {"0.txt", "1.txt", "2.txt"}
    assert all(re.fullmatch("[A-Z]", text) for text in written.values())
    assert run("none") == 2
    assert "got 'none'" in (tmp_path / "error").read_text()


def test_defaults_match_the_workers() -> None:
    """The parameters have the same defaults as the workers' settings."""
    source = "".join(path.read_text() for path in (bundle.REPOSITORY / "workers").rglob("*.py"))
    found = bundle.base()
    spec = bundle.named(found, "WorkflowTemplate", "log-count")["spec"]
    defaults = {each["name"]: each["value"] for each in spec["arguments"]["parameters"]}

    assert f'"INPUT", "{defaults["input"]}"' in source
    assert f'"KEYWORDS", "{defaults["keywords"]}"' in source
    assert f'"NUM_PARTS", "{defaults["numParts"]}"' in source
    assert defaults["runDir"] == ""


def test_runs_name_templates() -> None:
    """A run refers to a template of the base, or names the component that it needs. It sets only
    parameters of the template. A run with a fixed name has this name in its file's name."""
    templates = bundle.of_kind(bundle.base(), "WorkflowTemplate")
    found = bundle.combination(("local-volume", "programs"))
    for path in (bundle.MANIFESTS / "runs").glob("*.yaml"):
        run = yaml.safe_load(path.read_text())
        assert run["metadata"]["namespace"] == "argo"
        if "workflowTemplateRef" not in run["spec"]:
            assert "Needs the components runs-as-steps and programs." in path.read_text()
            continue
        reference = run["spec"]["workflowTemplateRef"]["name"]
        arguments = at(run, "spec/arguments/parameters") or []
        spec = bundle.named(found, "WorkflowTemplate", reference)["spec"]
        declared = {each["name"] for each in spec["arguments"]["parameters"]}
        assert {each["name"] for each in arguments} <= declared
        if "name" in run["metadata"]:
            assert path.stem == run["metadata"]["name"] == f"{reference}-once"
        else:
            assert run["metadata"]["generateName"] == f"{path.stem}-"
        if not arguments:
            assert reference == path.stem.removesuffix("-once")
        is_in_base = reference in {each["metadata"]["name"] for each in templates}
        needs = bool(arguments) and ("Command" in str(arguments))
        assert ("Needs the component programs" in path.read_text()) == needs
        assert is_in_base or needs


def test_hera_makes_the_same_workflow() -> None:
    """own_workflow.py prints the object of run-as-step.yaml."""
    folder = bundle.MANIFESTS / "runs"
    command = [sys.executable, str(folder / "own_workflow.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert yaml.safe_load(done.stdout) == yaml.safe_load((folder / "run-as-step.yaml").read_text())
