"""What every pod, container and template of the bundle has to have."""

from __future__ import annotations

import re
from collections.abc import Iterator

import bundle
import pytest
import yaml

RENDERED = {
    overlay: bundle.objects(bundle.build(bundle.MANIFESTS / "overlays" / overlay))
    for overlay in bundle.OVERLAYS
} | {direct: bundle.combination((direct,)) for direct in bundle.DIRECT}
RENDERED["smoke-run"] = bundle.combination(("oss-volume", "smoke-run"))
TEMPLATES = [
    pytest.param(template, id=f"{overlay}/{template['metadata']['name']}")
    for overlay, found in RENDERED.items()
    for template in bundle.of_kind(found, "WorkflowTemplate")
]
FINAL = 2  # the workers' exit code for what only the operator can fix


def containers(template: bundle.Object) -> Iterator[tuple[str, bundle.Object]]:
    """Every container of every pod: the workers and, by podSpecPatch, Argo's init and wait."""
    yield from bundle.workers(template).items()
    patch = yaml.safe_load(template["spec"]["podSpecPatch"])
    yield from ((each["name"], each) for each in patch["initContainers"] + patch["containers"])


@pytest.mark.parametrize("template", TEMPLATES)
def test_containers(template: bundle.Object) -> None:
    """Each container has requests and limits, a read-only root and no privileges."""
    names = [name for name, _ in containers(template)]
    assert names[-2:] == ["init", "wait"]
    for name, container in containers(template):
        for amounts in ("requests", "limits"):
            assert set(container["resources"][amounts]) == {"cpu", "memory"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


@pytest.mark.parametrize("template", TEMPLATES)
def test_pods(template: bundle.Object) -> None:
    """Pods run as nobody in particular, with the bundle's account, and only Argo's containers have
    its token."""
    spec = template["spec"]
    patch = yaml.safe_load(spec["podSpecPatch"])
    mount = {
        "name": "executor-token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "fsGroup" not in spec["securityContext"]
    assert spec["serviceAccountName"] == "fanfold"
    assert patch["automountServiceAccountToken"] is False
    for container in patch["initContainers"] + patch["containers"]:
        assert container["volumeMounts"] == [mount]
    for container in bundle.workers(template).values():
        assert "executor-token" not in str(container)


@pytest.mark.parametrize("template", TEMPLATES)
def test_workers(template: bundle.Object) -> None:
    """A worker names its command, pulls its image only when it must, and leaves its sentence."""
    for container in bundle.workers(template).values():
        assert container["command"]
        assert container["imagePullPolicy"] == "IfNotPresent"
        assert {"name": "ERROR_FILE", "value": "/dev/termination-log"} in container["env"]
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


COMPUTED = {"partId", "planId", "level"}  # by the workflow itself
AS_GIVEN = r'\{\{=sprig\.replace\("\$", "\$\$", (workflow|inputs)\.parameters\.\w+\)\}\}'


@pytest.mark.parametrize("template", TEMPLATES)
def test_parameters_arrive_as_given(template: bundle.Object) -> None:
    """The kubelet would make $$ a $ and $(NAME) a variable in what a worker is given."""
    for container in bundle.workers(template).values():
        for each in container["env"]:
            value = each.get("value", "")
            if set(re.findall(r"parameters\.(\w+)", value)) - COMPUTED:
                assert re.fullmatch(AS_GIVEN, value), each["name"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_parts_do_not_wait_for_each_other_to_fail(template: bundle.Object) -> None:
    """A part that fails for good does not keep the others from being counted."""
    for each in template["spec"]["templates"]:
        if len(each.get("dag", {}).get("tasks", [])) > 1:
            assert each["dag"]["failFast"] is False


@pytest.mark.parametrize("template", TEMPLATES)
def test_retries(template: bundle.Object) -> None:
    """Every worker is tried again, but not after the exit code that is final."""
    spec = template["spec"]
    retried = [each for each in spec["templates"] if {"container", "script"} & set(each)]
    for each in retried:
        strategy = each["retryStrategy"]
        assert strategy["retryPolicy"] == "Always"
        assert strategy["expression"] == f"asInt(lastRetry.exitCode) != {FINAL}"
        assert 1 <= int(strategy["limit"]) <= 10
        assert {"duration", "factor", "cap"} == set(strategy["backoff"])

    # A retry of a whole DAG would run what has succeeded again.
    others = [each for each in spec["templates"] if each not in retried]
    assert not any("retryStrategy" in each for each in others)
    assert "retryStrategy" not in spec


def test_final_is_the_workers_exit_code() -> None:
    """The exit code that is not retried is the one of the workers' own error."""
    contract = (bundle.REPOSITORY / "workers" / "contract.py").read_text()

    (code,) = re.findall(
        r"class WorkerError\(Exception\):.*?exit_code = (\d+)", contract, re.DOTALL
    )

    assert int(code) == FINAL


@pytest.mark.parametrize("template", TEMPLATES)
def test_reclaim(template: bundle.Object) -> None:
    """Runs end, are cleaned up, and queue for the directory that they write to."""
    spec = template["spec"]

    assert 0 < spec["templateDefaults"]["activeDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert set(spec["ttlStrategy"]) == {"secondsAfterSuccess", "secondsAfterFailure"}
    assert spec["podGC"]["strategy"] == "OnPodSuccess"
    assert "workflow.parameters.runDir" in spec["synchronization"]["mutexes"][0]["name"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_metadata(template: bundle.Object) -> None:
    """Templates and pods are labelled; a template says what it is, and so does each parameter."""
    labels = template["metadata"]["labels"]
    annotations = template["metadata"]["annotations"]

    assert labels["app.kubernetes.io/name"] == labels["app.kubernetes.io/part-of"] == "fanfold"
    assert labels["app.kubernetes.io/component"] == template["metadata"]["name"]
    for metadata in ("podMetadata", "workflowMetadata"):
        assert template["spec"][metadata]["labels"]["app.kubernetes.io/part-of"] == "fanfold"
    for key in ("title", "description"):
        assert annotations[f"workflows.argoproj.io/{key}"].strip()
    for parameter in template["spec"]["arguments"]["parameters"]:
        assert parameter["description"].endswith(".")
        assert isinstance(parameter["value"], str)
        assert parameter["value"] in parameter.get("enum", [parameter["value"]])


@pytest.mark.parametrize("direct", bundle.DIRECT)
def test_direct_differs_in_its_storage_alone(direct: str) -> None:
    """Without a volume a run is what it is with one: mutex, retries, deadlines, all but a few
    lines."""
    mounted = {each["metadata"]["name"]: each for each in bundle.combination(("local-volume",))}
    for template in bundle.of_kind(RENDERED[direct], "WorkflowTemplate"):
        other = mounted[template["metadata"]["name"]]

        def shared(found: bundle.Object) -> bundle.Object:
            spec = {**found["spec"], "volumes": None, "templateDefaults": None}
            return {**found, "spec": spec}

        assert shared(template) == shared(other)
        assert "persistentVolumeClaim" not in str(template)
        assert "/mnt/vol" not in str(template)
        for name, container in bundle.workers(template).items():
            before = bundle.workers(other)[name]
            changed = {key for key in container if container[key] != before.get(key)}
            assert changed == {"env", "envFrom", "volumeMounts", "resources"}
            names = [{each["name"] for each in one["env"]} for one in (before, container)]
            assert names[0] - names[1] == {"WORK_DIR"}


def test_rrsa_has_a_token_and_no_key() -> None:
    """With RRSA no Secret is named, and the token lies where the workers are told, for them
    alone."""
    (settings,) = bundle.of_kind(RENDERED["oss-direct-rrsa"], "ConfigMap")
    for template in bundle.of_kind(RENDERED["oss-direct-rrsa"], "WorkflowTemplate"):
        assert not re.search("secret(KeyRef|Ref|Name)|ACCESS_KEY", str(template))
        (volume,) = (each for each in template["spec"]["volumes"] if "projected" in each)
        (source,) = volume["projected"]["sources"]
        token = source["serviceAccountToken"]
        assert token["audience"] == "sts.aliyuncs.com"
        for container in bundle.workers(template).values():
            (mount,) = (
                each for each in container["volumeMounts"] if each["name"] == volume["name"]
            )
            assert mount["readOnly"] is True
            path = f"{mount['mountPath']}/{token['path']}"
            assert settings["data"]["ALIBABA_CLOUD_OIDC_TOKEN_FILE"] == path
        assert volume["name"] not in template["spec"]["podSpecPatch"]


@pytest.mark.parametrize("overlay", RENDERED)
def test_rights(overlay: str) -> None:
    """The account may report outputs and nothing else."""
    (role,) = bundle.of_kind(RENDERED[overlay], "Role")
    (binding,) = bundle.of_kind(RENDERED[overlay], "RoleBinding")

    assert role["rules"] == [
        {
            "apiGroups": ["argoproj.io"],
            "resources": ["workflowtaskresults"],
            "verbs": ["create", "patch"],
        }
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [each["name"] for each in binding["subjects"]] == ["fanfold"]


@pytest.mark.parametrize("overlay", RENDERED)
def test_objects(overlay: str) -> None:
    """Everything is labelled, and no key is in the tree."""
    for each in RENDERED[overlay]:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "fanfold"
        assert each["kind"] != "Secret"
