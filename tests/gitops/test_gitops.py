"""The bundle in a real Argo CD: a series of commits, in the order of the tests."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from argocd import NAMESPACE, OVERLAY, PROGRAMS, Application, ArgoCD, Fork, Object, kubectl
from e2e.scenario import ROOT, Run, argo, get, pods_of, submit, template_of, tool, until

pytestmark = pytest.mark.e2e

PREFIX = "gitops-"  # of every object: other tests use the namespace argo
KUSTOMIZATION = f"{OVERLAY}/kustomization.yaml"
LOG_COUNT = "manifests/base/log-count-workflowtemplate.yaml"
AGGREGATE = "manifests/base/aggregate-workflowtemplate.yaml"
CONTAINERD = Path(os.environ.get("E2E_KUBECONFIG", "")).parent / "run/containerd.sock"
LOG = b"2026-01-01 [INFO] one\n[WARN] two INFO\n[ERROR] three\n" * 500
TOTALS = {"INFO": 1000, "WARN": 500, "ERROR": 500, "DEBUG": 0}
# In the order of the waves.
KINDS = (
    *("serviceaccount", "role", "rolebinding", "persistentvolume", "persistentvolumeclaim"),
    *("workflowtemplate", "cronworkflow", "workflow"),
)


@dataclass(frozen=True)
class Site:
    """The objects of all tests."""

    argocd: ArgoCD
    application: Application
    fork: Fork
    volume: Path

    def result(self, run_dir: str = "") -> dict[str, int]:
        """The totals in a run directory."""
        found: dict[str, int] = json.loads((self.volume / run_dir / "result.json").read_text())
        return found


def patch(kind: str, name: str, path: str, value: object) -> Object:
    """A patch for a kustomization: one field of one object, or of all objects of a kind."""
    operation = {"op": "replace", "path": path, "value": value}
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps([operation])}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A fork with a schedule, its Application not applied yet, and a log on its volume. The logs of
    Argo CD stay in build/gitops."""
    if not (CONTAINERD.is_socket() and (PROGRAMS / "argocd").is_file()):
        why = "the test cluster with Argo CD must run on this machine: run `make test`"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    folder = ROOT / "build/gitops"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "home").mkdir(parents=True)
    volume = Path(os.environ["E2E_VOLUME"], "gitops")
    shutil.rmtree(volume, ignore_errors=True)
    volume.mkdir()
    os.chown(volume, 65532, 65532)
    (volume / "log-count-data.txt").write_bytes(LOG)
    fork = Fork(folder / "fork")
    with fork.edit("manifests/gitops/source/source-configmap.yaml") as source:
        source["data"]["repoURL"] = f"file://{fork.folder}"
    with fork.edit(KUSTOMIZATION) as overlay:
        overlay["namePrefix"] = PREFIX
        overlay["components"].append("../../components/schedule")
        overlay["patches"].append(
            patch("PersistentVolume", "pv-local", "/spec/hostPath/path", str(volume))
        )
    try:
        with ArgoCD(folder / "home").running() as argocd:
            yield Site(argocd, Application(), fork, volume)
            with suppress(AssertionError):  # it still exists if a test has failed
                Application().delete()
    finally:
        for kind in reversed(KINDS):
            if names := [each["metadata"]["name"] for each in own_objects(kind)]:
                kubectl("delete", "--namespace=argo", "--timeout=60s", kind, *names)
        shutil.rmtree(volume)


def own_objects(kind: str) -> list[Object]:
    """The objects of a kind with the prefix of these tests."""
    return [each for each in get(kind)["items"] if each["metadata"]["name"].startswith(PREFIX)]


def image_of_map(run: Run) -> str:
    """The image of a run's map pods, from the template that the run has stored."""
    kept = run.get()["status"]["storedWorkflowTemplateSpec"]
    return str(template_of(kept, "map")["container"]["image"])


def default(template: str, name: str) -> str:
    """A parameter's default in the cluster."""
    spec = get(f"workflowtemplate/{PREFIX}{template}")["spec"]
    (value,) = (each["value"] for each in spec["arguments"]["parameters"] if each["name"] == name)
    return str(value)


def test_fresh_sync(site: Site) -> None:
    """A fork becomes an Application that is Synced and Healthy, wave by wave. The smoke run has
    succeeded and left no files."""
    revision = site.fork.commit("Ours")

    kubectl("apply", "--kustomize", str(site.fork.folder / "manifests/gitops/local"))
    site.application.sync(revision)
    site.application.settle()

    times = [
        [each["metadata"]["creationTimestamp"] for each in own_objects(kind)] for kind in KINDS
    ]
    ends = (0, 3, 5, 6, 8)  # of each wave in KINDS
    waves = [[*itertools.chain(*times[a:b])] for a, b in itertools.pairwise(ends)]
    assert all(waves)
    assert all(max(one) < min(next_) for one, next_ in itertools.pairwise(waves))
    assert get(f"workflow/{PREFIX}smoke-run")["status"]["phase"] == "Succeeded"
    assert [each.name for each in site.volume.iterdir()] == ["log-count-data.txt"]


def test_second_sync_changes_nothing(site: Site) -> None:
    """A second sync writes no object, except the smoke run, which runs again."""

    def versions() -> dict[str, str]:
        found = [each for kind in KINDS[:-1] for each in own_objects(kind)]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in found}

    before, smoke_run = versions(), get(f"workflow/{PREFIX}smoke-run")["metadata"]["uid"]

    site.argocd.run("app", "sync", "fanfold", "--timeout=90", timeout=100)

    assert versions() == before
    assert get(f"workflow/{PREFIX}smoke-run")["metadata"]["uid"] != smoke_run


def test_create_workflow(site: Site) -> None:
    """Argo CD's action "Create Workflow" runs log-count with its defaults. The Application stays
    Synced for a minute."""
    select = f"--selector=workflows.argoproj.io/workflow-template={PREFIX}log-count"
    deadline = time.monotonic() + 60

    site.argocd.run(
        *("app", "actions", "run", "fanfold", "create-workflow"),
        *("--kind=WorkflowTemplate", f"--resource-name={PREFIX}log-count"),
    )

    (name,) = (each["metadata"]["name"] for each in get("workflow", select)["items"])
    while time.monotonic() < deadline:
        assert site.application.state()[0] == "Synced"
        time.sleep(3)
    found = Run(name).succeed(120)
    assert found["spec"] == {
        "arguments": {},
        "workflowTemplateRef": {"name": f"{PREFIX}log-count"},
    }
    assert pods_of(found) == {"split": 1, "map": 5, "reduce": 1}
    assert site.result() == TOTALS
    site.application.settle()


def test_rollout_under_a_run(site: Site) -> None:
    """A commit with another image, default and schedule: a run in progress keeps the old values,
    the next run has the new values."""
    tags = (f"localhost/fanfold-map:{tag}" for tag in ("dev", "next"))
    tool("ctr", f"--address={CONTAINERD}", "--namespace=k8s.io", "images", "tag", "--force", *tags)
    old = submit(f"{PREFIX}log-count", numParts=3, runDir="old")
    until("the end of split", 120, lambda: pods_of(old.get()).get("map"))
    argo("suspend", old.name)
    with site.fork.edit(KUSTOMIZATION) as overlay:
        overlay["images"][1]["newTag"] = "next"
        overlay["patches"] += [
            patch("CronWorkflow", "log-count", "/spec/schedules", ["* * * * *"]),
            patch("CronWorkflow", "log-count", "/spec/suspend", value=False),
        ]
    with site.fork.edit(LOG_COUNT) as template:
        template["spec"]["arguments"]["parameters"][1]["value"] = "1"

    site.application.sync(site.fork.commit("Another image, default and schedule"))
    argo("resume", old.name)
    new = submit(f"{PREFIX}log-count", runDir="new")

    assert pods_of(old.succeed(120)) == {"split": 1, "map": 3, "reduce": 1}
    assert pods_of(new.succeed(120)) == {"split": 1, "map": 1, "reduce": 1}
    assert image_of_map(old) == "localhost/fanfold-map:dev"
    assert image_of_map(new) == "localhost/fanfold-map:next"
    assert site.result("old") == site.result("new") == TOTALS


def test_drift_heals(site: Site) -> None:
    """Argo CD reverts a change of a template by hand."""
    change = [{"op": "replace", "path": "/spec/arguments/parameters/1/value", "value": "99"}]

    kubectl(
        *("patch", "--namespace=argo", f"workflowtemplate/{PREFIX}aggregate"),
        *("--type=json", f"--patch={json.dumps(change)}"),
    )

    until("the default in git", 120, lambda: default("aggregate", "fanIn") == "8")
    site.application.settle()


def test_broken_template_is_refused(site: Site) -> None:
    """A misspelt field is refused by its name, and nothing of the commit is applied."""
    with site.fork.edit(LOG_COUNT) as template:
        template["spec"]["entrypiont"] = template["spec"].pop("entrypoint")
    with site.fork.edit(AGGREGATE) as template:
        template["spec"]["arguments"]["parameters"][1]["value"] = "16"

    reasons = site.application.refusals(site.fork.commit("A slip"))

    assert "entrypiont: field not declared in schema" in reasons
    assert default("aggregate", "fanIn") == "8"
    site.application.look_at(site.fork.revert("A slip"))
    site.application.settle()


def test_project_refuses(site: Site) -> None:
    """The project refuses a ClusterRole and another namespace."""
    with site.fork.edit(f"{OVERLAY}/clusterrole.yaml") as role:
        role |= {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "more"},
            "rules": [],
        }
    with site.fork.edit(KUSTOMIZATION) as overlay:
        overlay["namespace"] = "default"
        overlay["resources"].append("clusterrole.yaml")

    reasons = site.application.refusals(site.fork.commit("More than it may"))
    site.argocd.run("app", "terminate-op", "fanfold")

    assert "ClusterRole is not permitted in project fanfold" in reasons
    assert "namespace default is not permitted in project 'fanfold'" in reasons
    assert not kubectl("get", "clusterrole", "--selector=app.kubernetes.io/part-of=fanfold")
    site.application.look_at(site.fork.revert("More than it may"))
    site.application.settle()


def test_schedule(site: Site) -> None:
    """The schedule starts a run every minute, in a directory named after the minute and the run."""
    select = f"--selector=workflows.argoproj.io/cron-workflow={PREFIX}log-count"

    def ended() -> list[Object]:
        runs: list[Object] = get("workflow", select)["items"]
        ended = [each for each in runs if each["status"].get("phase") in ("Succeeded", "Failed")]
        return ended if len(ended) > 1 else []

    for run in until("two ended runs", 180, ended):
        assert run["status"]["phase"] == "Succeeded"
        scheduled = run["metadata"]["annotations"]["workflows.argoproj.io/scheduled-time"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z", scheduled)
        assert site.result(f"scheduled/{scheduled}-{run['metadata']['name']}") == TOTALS


def test_rollback(site: Site) -> None:
    """A revert restores image, default and schedule."""
    site.application.sync(site.fork.revert("Another image"))

    template = get(f"workflowtemplate/{PREFIX}log-count")
    schedule = get(f"cronworkflow/{PREFIX}log-count")["spec"]
    image = template_of(template["spec"], "map")["container"]["image"]
    assert image == "localhost/fanfold-map:dev"
    assert default("log-count", "numParts") == "5"
    assert (schedule["suspend"], schedule["schedules"]) == (True, ["15 2 * * *"])


def test_failing_smoke_run(site: Site) -> None:
    """A commit that is accepted and does not work makes the Application Degraded, and the files of
    the smoke run stay. The revert makes the Application Healthy, and removes the files."""
    with site.fork.edit(KUSTOMIZATION) as overlay:
        overlay["images"][1]["newName"] = "localhost/fanfold-split"  # which has no count.py

    site.application.sync(site.fork.commit("The wrong image"))
    site.application.settle("Degraded")

    assert get(f"workflow/{PREFIX}smoke-run")["status"]["phase"] == "Failed"
    assert (site.volume / ".fanfold-smoke-run/split-output/plan.json").exists()
    site.application.sync(site.fork.revert("The wrong image"))
    site.application.settle()
    assert not (site.volume / ".fanfold-smoke-run").exists()


def test_pruning_keeps_the_volume(site: Site) -> None:
    """A removed component's objects are deleted, except the volume."""
    with site.fork.edit(KUSTOMIZATION) as overlay:
        for name in ("schedule", "local-volume"):
            overlay["components"].remove(f"../../components/{name}")

    site.application.look_at(site.fork.commit("No schedule and no volume"))

    until("no schedule", 120, lambda: not own_objects("cronworkflow"))
    site.application.settle()
    assert get(f"persistentvolumeclaim/{PREFIX}pvc-oss")["status"]["phase"] == "Bound"
    assert get(f"persistentvolume/{PREFIX}pv-local")["status"]["phase"] == "Bound"


def test_deletion_keeps_the_volume(site: Site) -> None:
    """Deleting the Application and its project deletes its objects, except the volume and its
    data."""
    folder = site.fork.folder / "manifests/gitops/local"

    kubectl("delete", "--timeout=60s", "--kustomize", str(folder))

    assert not own_objects("workflowtemplate")
    assert not own_objects("serviceaccount")
    assert get(f"persistentvolumeclaim/{PREFIX}pvc-oss")["status"]["phase"] == "Bound"
    assert get(f"persistentvolume/{PREFIX}pv-local")["status"]["phase"] == "Bound"
    assert (site.volume / "log-count-data.txt").read_bytes() == LOG


def test_fleet(site: Site) -> None:
    """The ApplicationSet makes an Application per cluster with the label. With the patch in its
    comment, each cluster has a path of the bucket."""
    fleet = site.fork.folder / "manifests/gitops/fleet"
    overlay = {"fanfold.overlay": "ack-one"}
    with site.fork.edit("manifests/gitops/fleet/kustomization.yaml") as kustomization:
        lines = (ROOT / "manifests/gitops/fleet/kustomization.yaml").read_text().splitlines()
        start = lines.index("#   - target: {kind: ApplicationSet}")
        end = lines.index("apiVersion: kustomize.config.k8s.io/v1beta1")
        comment = "\n".join(line.removeprefix("#   ") for line in lines[start:end])
        kustomization["patches"] += yaml.safe_load(comment)
    for name, labels in (("one", overlay), ("two", overlay), ("other", {})):
        cluster = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "labels": {"argocd.argoproj.io/secret-type": "cluster", **labels},
            },
            "stringData": {"name": name, "server": f"https://{name}.example.com", "config": "{}"},
        }
        kubectl(
            "apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=json.dumps(cluster).encode()
        )
    kubectl("apply", "--kustomize", str(fleet))
    rendered = yaml.safe_load_all(tool(str(PROGRAMS / "kustomize"), "build", str(fleet)))
    (found,) = (each for each in rendered if each["kind"] == "ApplicationSet")
    file = site.fork.folder / "applicationset.json"
    file.write_text(json.dumps(found))

    made = json.loads(site.argocd.run("appset", "generate", str(file), "--output=json"))

    assert len(made) == 2
    for each, name in zip(made, ("one", "two"), strict=True):
        spec = each["spec"]
        assert each["metadata"]["name"] == f"fanfold-{name}"
        assert spec["source"]["path"] == "manifests/overlays/ack-one"
        assert spec["destination"] == {"server": f"https://{name}.example.com", "namespace": "argo"}
        assert f"/{name}\n" in spec["source"]["kustomize"]["patches"][0]["patch"] + "\n"
