"""Every overlay and every combination of components builds, and renders as expected."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import bundle
import pytest
import yaml
from checks import at
from fanfold import settings


def test_golden() -> None:
    """The overlays render as in the golden files, and every golden file has an overlay."""
    rendered = bundle.golden({each: bundle.overlay(each) for each in bundle.OVERLAYS})
    golden = {path.name: path.read_text() for path in bundle.GOLDEN.iterdir()}

    problems = "".join(
        bundle.changes(name, golden.get(name, "no such file"), rendered.get(name, "no overlay"))
        for name in sorted({*golden, *rendered})
    )
    assert not problems, f"{problems}update with: python tests/manifests/bundle.py --update golden"


def test_base_builds_alone() -> None:
    """The base builds without components."""
    kinds = {each["kind"] for each in bundle.base()}

    assert kinds == {
        *("ServiceAccount", "Role", "RoleBinding", "PodDisruptionBudget", "WorkflowTemplate")
    }


INITLESS_POD = (
    bundle.MANIFESTS / "components/initless-pod/patches/workflowtemplate.initless-pod.yaml"
)
# The fields in which four components differ: the client and its credentials.
MOUNTED = " ".join(
    f"spec/csi/{each}"
    for each in (
        "volumeAttributes/authType",
        "nodePublishSecretRef/name",
        "volumeAttributes/fuseType",
    )
)
# The effect of a component: a path in an object, or several, and the value there.
EFFECTS = {
    "local-volume": ("PersistentVolume pv-local", "spec/hostPath/type", "Directory"),
    **{
        f"oss-volume{suffix}": ("PersistentVolume pv-oss", MOUNTED, [*how, client])
        for suffix, client, *how in (
            ("", None, None, "oss-secret"),
            ("-rrsa", None, "rrsa", None),
            ("-ossfs2", "ossfs2", None, "oss-secret"),
            ("-ossfs2-rrsa", "ossfs2", "rrsa", None),
        )
    },
    "oss-direct": (
        "WorkflowTemplate log-count",
        "spec/templateDefaults/container/env/0/valueFrom/secretKeyRef/name",
        "oss-secret",
    ),
    "oss-direct-rrsa": (
        "WorkflowTemplate log-count",
        "spec/volumes/1/projected/sources/0/serviceAccountToken/audience",
        "sts.aliyuncs.com",
    ),
    "eci-spot": (
        "WorkflowTemplate log-count",
        "spec/templates/2/metadata/annotations/k8s.aliyun.com~1eci-spot-strategy",
        "SpotAsPriceGo",
    ),
    "acs-best-effort": (
        "WorkflowTemplate log-count",
        "spec/templates/2/metadata/labels/alibabacloud.com~1compute-qos",
        "best-effort",
    ),
    "artifacts": (
        "WorkflowTemplate log-count",
        "spec/templates/3/outputs/artifacts/0/name",
        "result",
    ),
    "parallelism": ("WorkflowTemplate aggregate", "spec/parallelism", 100),
    "initless-pod": (
        "WorkflowTemplate log-count",
        "spec/podSpecPatch",
        yaml.safe_load(INITLESS_POD.read_text())[0]["value"],
    ),
    "smoke-run": ("Workflow smoke-run", "spec/entrypoint", "smoke-run"),
    "schedule": (
        "CronWorkflow log-count",
        "spec/workflowSpec/workflowTemplateRef/name",
        "log-count",
    ),
    "programs": (
        "WorkflowTemplate aggregate",
        "spec/arguments/parameters/4/name",
        "processCommand",
    ),
    "runs-as-steps": ("Role fanfold-runs", "rules/0/resources/0", "workflows"),
    "semaphore": (
        "WorkflowTemplate process-data",
        "spec/templates/1/synchronization/semaphores/0/configMapKeyRef/name",
        "fanfold-limits",
    ),
    "network-policy": ("NetworkPolicy fanfold", "spec/policyTypes/1", "Egress"),
    "metrics": (
        "WorkflowTemplate static-fan-out",
        "spec/metrics/prometheus/0/name",
        "fanfold_run_seconds",
    ),
}


def test_combinations() -> None:
    """Every combination builds, and has exactly the effects of its components."""
    problems = []
    for components in bundle.combinations():
        name = "+".join(components)
        try:
            found = {bundle.label(each): each for each in bundle.combination(components)}
        except ValueError as error:
            problems.append(f"{name} does not build: {error}")
            continue
        for component, (label, path, effect) in EFFECTS.items():
            values = [at(found.get(label), one) for one in path.split()]
            value = values if isinstance(effect, list) else values[0]
            if (value == effect) != (component in components):
                must = "must" if component in components else "must not"
                problems.append(f"{name}: {label} {path} {must} be {effect!r}, got {value!r}")
        claims = [each for each in found if each.startswith("PersistentVolumeClaim ")]
        if len(claims) != (components[0] in bundle.VOLUMES):
            problems.append(f"{name}: the claims are {claims}")
    assert not problems, "\n".join(problems)


def test_combinations_match_the_matrix() -> None:
    """Every two components are in a combination together, except pairs that the README's matrix
    excludes. A new component must be in these lists, and have an effect."""
    together = {
        pair for some in bundle.combinations() for pair in itertools.combinations(sorted(some), 2)
    }
    excluded = {
        *itertools.combinations(sorted(bundle.VOLUMES + bundle.DIRECT), 2),
        ("acs-best-effort", "eci-spot"),
        *(("artifacts", direct) for direct in bundle.DIRECT),
    }

    assert set(itertools.combinations(bundle.COMPONENTS, 2)) - together == excluded
    assert sorted(EFFECTS) == bundle.COMPONENTS


def test_order_does_not_matter(tmp_path: Path) -> None:
    """Components can be listed in any order, as the README documents, except the last ones."""
    problems = []
    for storage in bundle.VOLUMES + bundle.DIRECT:
        extras = [each for each in bundle.EXTRAS if bundle.allowed((storage, each))]
        longest = [storage, "eci-spot", *extras]
        there, back = (
            {bundle.label(each): each for each in bundle.compose(tmp_path, some)}
            for some in (longest, [*longest[-3::-1], *bundle.LAST])
        )
        problems += [
            f"{storage}: {label} depends on the order of the components"
            for label in sorted({*there, *back})
            if there.get(label) != back.get(label)
        ]
    assert not problems, "\n".join(problems)


def test_a_map_counts_in_hundredths() -> None:
    """A map has the progress 0/100 from the start, as its worker reports it; other pods have
    none."""
    found = bundle.combination(("local-volume", "programs"))
    counts = {
        f"{template['metadata']['name']}/{each['name']}": progress
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for each in template["spec"]["templates"]
        if (progress := at(each, "metadata/annotations/workflows.argoproj.io~1progress"))
    }
    assert counts == dict.fromkeys(("log-count/map", "map-reduce/map"), "0/100")


@pytest.mark.parametrize(
    ("last", "path"),
    [*zip(bundle.LAST, ("templates/2/synchronization", "metrics"), strict=True)],
)
def test_order_of_the_last_components(tmp_path: Path, last: str, path: str) -> None:
    """Components that map-reduce would miss in another order: programs refuses that order."""
    with pytest.raises(ValueError, match=rf"programs.*testing value /spec/{path} failed"):
        bundle.compose(tmp_path, ("local-volume", last, "programs"))


def test_semaphore() -> None:
    """Only the pods of maps take a place of the ConfigMap's number: a step with substeps would wait
    for itself."""
    found = bundle.combination(("local-volume", "programs", "semaphore"))
    (limits,) = bundle.of_kind(found, "ConfigMap")
    place = {"name": limits["metadata"]["name"], "key": "maps"}
    held = {
        f"{template['metadata']['name']}/{each['name']}": each["synchronization"]
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for each in template["spec"]["templates"]
        if "synchronization" in each
    }
    assert int(limits["data"]["maps"]) > 0
    assert {*held} == {"log-count/map", "map-reduce/map", "process-data/process-data"}
    assert all(each == {"semaphores": [{"configMapKeyRef": place}]} for each in held.values())


def test_metrics() -> None:
    """Each metric has one help, one kind of value and the same few labels in all templates. Its
    label `template` is the WorkflowTemplate's name."""
    found = bundle.combination(("local-volume", "programs", "metrics"))
    seen: dict[str, set[object]] = {}
    places: dict[str, set[str]] = {}
    for template in bundle.of_kind(found, "WorkflowTemplate"):
        name = template["metadata"]["name"]
        for place in (template["spec"], *template["spec"]["templates"]):
            for one in at(place, "metrics/prometheus") or ():
                labels = {each["key"]: each["value"] for each in one["labels"]}
                assert labels.pop("template") == name
                assert set(labels.values()) <= {"{{workflow.status}}"}  # few values, none per run
                kind = "histogram" if "histogram" in one else "counter"
                # With an expression in a template, Argo may not create its pods.
                assert place is template["spec"] or "{{=" not in str(one)
                seen.setdefault(one["name"], set()).add((one["help"], kind, *labels))
                places.setdefault(one["name"], set()).add(name)

    of_logs, of_files = {"log-count", "static-fan-out", "map-reduce"}, {"process-data", "aggregate"}
    assert {name: len(each) for name, each in seen.items()} == dict.fromkeys(places, 1)
    assert places == {
        "fanfold_run_seconds": of_logs | of_files,
        "fanfold_input_bytes_total": of_logs,
        "fanfold_part_seconds": {"log-count", "map-reduce", "process-data"},
        "fanfold_part_failures_total": {"log-count", "map-reduce", "process-data"},
    }


@pytest.mark.parametrize("direct", bundle.DIRECT)
def test_no_artifact_without_a_volume(direct: str, tmp_path: Path) -> None:
    """The build refuses artifacts without a volume, in any order: a run would fail at its end."""
    for components in ((direct, "artifacts"), ("artifacts", direct)):
        with pytest.raises(ValueError, match=r"testing value /spec/\S+ failed"):
            bundle.compose(tmp_path, components)


def test_local_volume_can_be_changed(tmp_path: Path) -> None:
    """The two patches in the comment of local-volume have their effects."""
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


def test_readme_names_everything() -> None:
    """Every template and parameter is in templates.md, and every component, overlay, run and
    document is in the README."""
    readme = (bundle.MANIFESTS / "README.md").read_text()
    templates = (bundle.DOCS / "templates.md").read_text()
    programs = bundle.combination(("local-volume", "programs"))
    map_reduce = bundle.named(programs, "WorkflowTemplate", "map-reduce")
    for template in [*bundle.of_kind(bundle.base(), "WorkflowTemplate"), map_reduce]:
        parameters = [each["name"] for each in template["spec"]["arguments"]["parameters"]]
        (row,) = re.findall(rf"^\| `{template['metadata']['name']}` \|.*$", templates, re.MULTILINE)
        assert re.findall(r"`(\w+)`", row.split("|")[3]) == parameters

    for name in [*bundle.COMPONENTS, *bundle.OVERLAYS]:
        assert f"| `{name}` |" in readme
    for path in [*(bundle.MANIFESTS / "runs").glob("*.*"), *bundle.DOCS.iterdir()]:
        assert f"({path.parent.name}/{path.name})" in readme


def test_documented_overlays(tmp_path: Path) -> None:
    """The overlays that the documents show build, and their patches have effects."""
    documents = "".join(path.read_text() for path in sorted(bundle.DOCS.iterdir()))
    shown = [
        yaml.safe_load(text.replace("../../", bundle.relative(bundle.MANIFESTS, tmp_path) + "/"))
        for text in re.findall(r"^```yaml\n(.*?)^```", documents, re.DOTALL | re.MULTILINE)
        if "kind: Kustomization" in text
    ]
    assert len(shown) == documents.count("\nkind: Kustomization\n")
    for each in shown:
        found = bundle.kustomize(tmp_path, each)
        for template in bundle.of_kind(found, "WorkflowTemplate") if "images" in each else ():
            for worker in bundle.workers(template).values():
                assert "/" in worker["image"], "an image keeps a name of the base"
        for one in each.get("patches", []):
            patch = yaml.safe_load(one["patch"])
            if "tolerations" in one["patch"]:
                for name in one["target"]["name"].split("|"):
                    check_node_pool(bundle.named(found, "WorkflowTemplate", name))
            elif "PersistentVolume" in one.get("target", {}).get("kind", ""):
                (claim,) = bundle.of_kind(found, "PersistentVolumeClaim")
                assert claim["spec"]["storageClassName"] == "your-class"
                assert "volumeName" not in claim["spec"]
                assert not bundle.of_kind(found, "PersistentVolume")
            elif one.get("target", {}).get("kind") == "ServiceAccount":
                account = bundle.named(found, **one["target"])
                assert account["imagePullSecrets"] == [{"name": "registry-secret"}]
            elif "MAX_PODS" in one["patch"]:
                split = bundle.workers(bundle.named(found, **one["target"]))["split"]
                assert {"name": "MAX_PODS", "value": str(settings.MAX_PODS)} in split["env"]
            elif "programs" in str(each["components"]):
                check_programs(bundle.named(found, **one["target"]), each)
            elif "target" in one:
                worker = bundle.workers(bundle.named(found, **one["target"]))["map"]
                names = [variable["name"] for variable in worker["env"]]
                assert worker["args"] == ["status_classes.py"]
                assert {"WORK_DIR", "RUN_DIR", "ERROR_FILE", "MAP_SETTINGS"} <= set(names)
            else:
                patched = bundle.named(found, patch["kind"], patch["metadata"]["name"])
                (field,) = {"data", "spec"} & set(patch)
                assert patched[field] | patch[field] == patched[field]


def check_node_pool(template: bundle.Object) -> None:
    """Exactly the template of the maps, or of the pods that join files, runs on the nodes of the
    pool. The document names the places of all templates."""
    text = (bundle.DOCS / "interruptions.md").read_text()
    (row,) = re.findall(rf"^\| .*`{template['metadata']['name']}`.*\|$", text, re.MULTILINE)
    templates = [each["name"] for each in template["spec"]["templates"]]
    documented = re.findall(r"`([\w-]+)`", row.split("|", 2)[2])
    assert templates[1 : 1 + len(documented)] == documented
    pool = [each["name"] for each in template["spec"]["templates"] if "tolerations" in each]
    assert pool == [each for each in templates if each in ("map", "process-data")]
    for each in template["spec"]["templates"]:
        assert each.get("nodeSelector") == ({"pool": "spot"} if each["name"] in pool else None)


def check_programs(template: bundle.Object, overlay: bundle.Object) -> None:
    """The overlay changes the size of scratch, or takes the command from a ConfigMap."""
    workers = bundle.workers(template)
    variables = {
        name: {each["name"]: each for each in worker["env"]} for name, worker in workers.items()
    }
    if "images" in overlay:
        (tmp,) = (each for each in template["spec"]["volumes"] if each["name"] == "tmp")
        sizes = {variables[name]["SCRATCH_SIZE"]["value"] for name in ("map", "reduce")}
        assert sizes == {tmp["emptyDir"]["sizeLimit"]} == {str(10 << 30)}
    else:
        commands = [variables[name]["MAP_COMMAND"] for name in ("split", "map", "reduce")]
        for each in commands:
            assert set(each) == {"name", "valueFrom"}
            assert re.fullmatch("map-command-.+", each["valueFrom"]["configMapKeyRef"]["name"])


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


def test_one_object_per_file() -> None:
    """A file has one object and the object's name: <name>-<kind>.yaml."""
    for path in bundle.MANIFESTS.rglob("*.yaml"):
        if path.parent.name in ("patches", "runs") or path.name.startswith("kustomiz"):
            continue
        (each,) = yaml.safe_load_all(path.read_text())
        assert path.name == f"{each['metadata']['name']}-{each['kind'].lower()}.yaml"
