"""Rules for every pod, container and template of the bundle."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import bundle
import yaml
from checks import Check, at, checks

TERMINATED = 143  # a worker's exit code after SIGTERM
FINAL = 2  # the workers' exit code for errors that only the operator can fix
TEXT = re.compile(r"(?s)(?#a text).*\S.*")
KIND = "NetworkPolicy"


@functools.cache
def builds() -> dict[str, list[bundle.Object]]:
    """Every overlay, and builds with the components that no overlay has."""
    found = {overlay: bundle.objects(bundle.overlay(overlay)) for overlay in bundle.OVERLAYS}
    ossfs2 = ("oss-volume-ossfs2", "oss-volume-ossfs2-rrsa")
    found |= {storage: bundle.combination((storage,)) for storage in (*bundle.DIRECT, *ossfs2)}
    rest = ("oss-volume", "acs-best-effort", "artifacts", "schedule")
    found["the rest"] = bundle.combination(rest)
    found |= {name: bundle.combination(("oss-volume", name)) for name in ("smoke-run", "programs")}
    found["metrics"] = bundle.combination(("oss-volume", "programs", "metrics"))
    return found


def templates() -> Iterator[tuple[str, str, bundle.Object]]:
    """The build, the name and the tree of every WorkflowTemplate."""
    for build, found in builds().items():
        for template in bundle.of_kind(found, "WorkflowTemplate"):
            yield build, template["metadata"]["name"], template


def workers() -> Iterator[tuple[str, str, bundle.Object]]:
    """The build, the name and the tree of every worker's container."""
    for build, name, template in templates():
        for worker, container in bundle.workers(template).items():
            yield build, f"{name} {worker}", container


def argos() -> Iterator[tuple[str, str, bundle.Object]]:
    """The build, the name and the tree of every podSpecPatch, for Argo's containers init and
    wait."""
    for build, name, template in templates():
        patch = yaml.safe_load(template["spec"].get("podSpecPatch", ""))
        yield build, f"{name} podSpecPatch", patch


def environment(container: bundle.Object) -> dict[str, str]:
    """The variables of a container that have a plain value."""
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}


@checks
def test_containers() -> Iterator[Check]:
    """Each container, including Argo's two, has requests and limits, a read-only root and no
    privileges."""
    container = {
        "resources/requests": {"cpu", "memory"},
        "resources/limits": {"cpu", "memory"},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    for build, name, found in workers():
        yield build, name, found, container
    for build, name, patch in argos():
        for kind, argo in (("initContainers", "init"), ("containers", "wait")):
            yield build, name, patch, {f"{kind}/0/name": argo, f"{kind}/1": None}
            yield build, name, patch, {f"{kind}/0/{key}": container[key] for key in container}


@checks
def test_pods() -> Iterator[Check]:
    """Pods do not run as root, use the bundle's account, and mount its token only in Argo's
    containers."""
    pod = {
        "securityContext/runAsNonRoot": True,
        "securityContext/seccompProfile": {"type": "RuntimeDefault"},
        "securityContext/fsGroup": None,
        "serviceAccountName": "fanfold",
    }
    mount = {
        "name": "executor-token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        "readOnly": True,
    }
    argo = {
        "automountServiceAccountToken": False,
        "initContainers/0/volumeMounts": [mount],
        "containers/0/volumeMounts": [mount],
    }
    for build, name, template in templates():
        yield build, name, template["spec"], pod
    for build, name, patch in argos():
        yield build, name, patch, argo
    for build, name, container in workers():
        yield build, name, {"tokens": str(container).count("executor-token")}, {"tokens": 0}


@checks
def test_workers() -> Iterator[Check]:
    """A worker names its command, pulls its image only if needed, writes its error, and knows its
    run, pod and node."""
    worker = {
        "command/0": TEXT,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    variables = {
        "ERROR_FILE": "/dev/termination-log",
        "RUN_ID": "{{workflow.uid}}",
        "RUN_STARTED": "{{workflow.creationTimestamp.s}}",
    }
    fields = {"POD_NAME": "metadata.name", "NODE_NAME": "spec.nodeName"}
    for build, name, container in workers():
        yield build, name, container, worker
        yield build, name, environment(container), variables
        found = {
            each["name"]: at(each, "valueFrom/fieldRef/fieldPath") for each in container["env"]
        }
        yield build, name, found, fields


COMPUTED = {"partId", "planId", "level", "lost"}  # by the workflow itself
AS_GIVEN = r"(?#a parameter with each $ doubled, as in the base)"
AS_GIVEN += r'\{\{=sprig\.replace\("\$", "\$\$", (workflow|inputs)\.parameters\.\w+\)\}\}'


@checks
def test_parameters_arrive_unchanged() -> Iterator[Check]:
    """Each $ of a parameter is doubled: kubelet replaces $$ by $ and $(NAME) by a variable."""
    for build, name, container in workers():
        for variable, value in environment(container).items():
            if set(re.findall(r"parameters\.(\w+)", value)) - COMPUTED:
                yield build, name, {variable: value}, {variable: re.compile(AS_GIVEN)}


# Tags of Argo and of the workers, without any text of a user.
OWN_WORDS = re.compile(
    r"(?#a tag without a user's text, or an expression {{=...}})"
    r"item|retries|workflow\.(name|uid|creationTimestamp\.s|scheduledTime)"
    r"|(workflow\.)?(status|duration)"
    r"|tasks\.(split\.outputs\.(result|parameters\.planId)|lost\.status)"
)


@checks
def test_simple_tags_hold_no_text_of_users() -> Iterator[Check]:
    """Argo writes a simple tag's value into JSON, quoted by Go's rules: a BEL, a flag or a line
    separator makes the JSON invalid, and the run ends with an error about JSON. An expression,
    {{=...}}, can have any text. In valueFrom.parameter Argo only looks up the tag."""
    for build, found in builds().items():
        for each in found:
            for line in bundle.values(each, bundle.label(each)):
                field, _, value = line.partition(": ")
                for tag in re.findall(r"\{\{([^=].*?)\}\}", value):
                    if not field.endswith("/valueFrom/parameter"):
                        yield build, field, {"tag": tag}, {"tag": OWN_WORDS}


@checks
def test_parts_do_not_wait_for_each_other_to_fail() -> Iterator[Check]:
    """If a part fails for good, the other parts are still counted."""
    for build, name, template in templates():
        for each in template["spec"]["templates"]:
            if len(each.get("dag", {}).get("tasks", [])) > 1:
                yield build, f"{name} {each['name']}", each, {"dag/failFast": False}


@checks
def test_retries() -> Iterator[Check]:
    """Every worker is retried, except after the final exit code."""
    final = f"asInt(lastRetry.exitCode) != {FINAL}"
    not_started = ' && not (lastRetry.message contains "specified deadline"'
    not_started += f' && lastRetry.exitCode != "{TERMINATED}")'
    retried = {
        "retryStrategy/retryPolicy": "Always",
        "retryStrategy/expression": final,
        "retryStrategy/limit": range(1, 21),
        "retryStrategy/backoff": {"duration", "factor", "cap"},
    }
    # A retry of a whole DAG would rerun its successful steps.
    never = {"retryStrategy": None}
    for build, name, template in templates():
        yield build, name, template["spec"], never
        for each in template["spec"]["templates"]:
            is_worker = {"container", "script"} & set(each)
            expected = retried if is_worker else never
            if each["name"] == "split":
                # An image that cannot be pulled ends the run; a long split continues.
                deadline = '{{=retries == "0" ? 600 : 21600}}'
                expression = {"retryStrategy/expression": final + not_started}
                expected = retried | expression | {"activeDeadlineSeconds": deadline}
            yield build, f"{name} {each['name']}", each, expected


STEPS = {  # the step of a run that a template is, by WorkflowTemplate/template
    **dict.fromkeys(("log-count/split", "map-reduce/split"), "split"),
    **dict.fromkeys(("log-count/map", "map-reduce/map", "process-data/process-data"), "map"),
    **dict.fromkeys(("log-count/reduce", "map-reduce/reduce"), "reduce"),
    "process-data/merge-data": "reduce",
}
SPOT = {  # the metadata of a pod that can be reclaimed
    "annotations/k8s.aliyun.com~1eci-spot-strategy": "SpotAsPriceGo",
    "labels/alibabacloud.com~1compute-qos": "best-effort",
}


def steps(found: list[bundle.Object]) -> dict[str, tuple[bundle.Object, bundle.Object]]:
    """Each template that is a step of a run, with the metadata of its pods."""
    return {
        name: (each, bundle.merge(template["spec"]["podMetadata"], each.get("metadata", {})))
        for template in bundle.of_kind(found, "WorkflowTemplate")
        for each in template["spec"]["templates"]
        if {"container", "script"} & set(each)
        for name in [f"{template['metadata']['name']}/{each['name']}"]
    }


@checks
def test_disruptions() -> Iterator[Check]:
    """The budget allows no eviction, and selects exactly the pods that a whole run waits for. No
    autoscaler moves any pod. A lost pod is retried ten times."""
    unmoved = {"annotations/cluster-autoscaler.kubernetes.io~1safe-to-evict": "false"}
    backoff = {"duration": "5s", "factor": "2", "cap": "5m"}
    retried = {"retryStrategy/limit": "10", "retryStrategy/backoff": backoff}
    for build, found in builds().items():
        (budget,) = bundle.of_kind(found, "PodDisruptionBudget")
        # For pods of an unknown owner, Kubernetes accepts only a whole number.
        yield build, "PodDisruptionBudget", budget, {"spec/minAvailable": 2147483647}
        selector = budget["spec"]["selector"]["matchLabels"]
        for name, (template, pod) in steps(found).items():
            step = STEPS.get(name)
            selected = {"selected": selector.items() <= pod["labels"].items()}
            yield build, name, selected, {"selected": step in ("split", "reduce")}
            yield build, name, pod, unmoved | {"labels/app.kubernetes.io~1component": step}
            yield build, name, template, retried


@checks
def test_maps_are_spread() -> Iterator[Check]:
    """Maps are spread over zones and nodes, but no map waits for a better place."""
    keys = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    for build, found in builds().items():
        for name, (template, pod) in steps(found).items():
            patch = yaml.safe_load(template.get("podSpecPatch", "{}"))
            spread = patch.get("topologySpreadConstraints", [])
            wanted = keys if STEPS.get(name) == "map" else ()
            found_keys = tuple(each["topologyKey"] for each in spread)
            yield build, name, {"keys": found_keys}, {"keys": wanted}
            for each in spread:
                yield build, name, each, {"whenUnsatisfiable": "ScheduleAnyway"}
                labels = each["labelSelector"]["matchLabels"].items()
                yield build, name, {"own": labels <= pod["labels"].items()}, {"own": True}


@checks
def test_spot_is_for_maps() -> Iterator[Check]:
    """Only maps run on instances that can be reclaimed, including the maps of the component
    programs, in either order of the components."""
    for component, (path, value) in zip(("eci-spot", "acs-best-effort"), SPOT.items(), strict=True):
        for order in ((component, "programs"), ("programs", component)):
            build = "+".join(order)
            found = steps(bundle.combination(("oss-volume", *order)))
            for name, (_, pod) in found.items():
                spot = {"spot": STEPS.get(name) == "map"}
                yield build, name, {"spot": at(pod, path) == value}, spot


def test_final_is_the_workers_exit_code() -> None:
    """The exit code that is not retried is WorkerError's."""
    errors = (bundle.REPOSITORY / "workers/fanfold/errors.py").read_text()

    (code,) = re.findall(r"class WorkerError\(Exception\):.*?exit_code = (\d+)", errors, re.DOTALL)

    assert int(code) == FINAL


@checks
def test_reclaim() -> Iterator[Check]:
    """Runs end, are cleaned up, and queue for the directory that they write to."""
    run = {
        "ttlStrategy": {"secondsAfterSuccess", "secondsAfterFailure"},
        "podGC/strategy": "OnPodSuccess",
        "synchronization/mutexes/0/name": re.compile(
            r"(?#with runDir).*workflow\.parameters\.runDir.*"
        ),
    }
    for build, name, template in templates():
        yield build, name, template["spec"], run
        shorter = range(1, at(template, "spec/activeDeadlineSeconds") or 0)
        yield build, name, template, {"spec/templateDefaults/activeDeadlineSeconds": shorter}


@checks
def test_metadata() -> Iterator[Check]:
    """Templates and pods have labels; templates and parameters have descriptions."""
    fields = {
        "metadata/labels/app.kubernetes.io~1name": "fanfold",
        "spec/podMetadata/labels/app.kubernetes.io~1part-of": "fanfold",
        "spec/workflowMetadata/labels/app.kubernetes.io~1part-of": "fanfold",
        "metadata/annotations/workflows.argoproj.io~1title": TEXT,
        "metadata/annotations/workflows.argoproj.io~1description": TEXT,
    }
    for build, name, template in templates():
        component = {"metadata/labels/app.kubernetes.io~1component": name}
        yield build, name, template, fields | component
        for each in template["spec"]["arguments"]["parameters"]:
            values = (
                "|".join(map(re.escape, each["enum"])) if "enum" in each else "(?s)(?#a text).*"
            )
            sentence = re.compile(r"(?s)(?#a sentence).+\.")
            parameter = {"description": sentence, "value": re.compile(values)}
            yield build, f"{name} parameter {each['name']}", each, parameter


@checks
def test_direct_differs_in_its_storage_alone() -> Iterator[Check]:
    """Without a volume, a template has the same mutex, retries and deadlines: it differs only in a
    few fields of the storage."""
    mounted = {each["metadata"]["name"]: each for each in bundle.combination(("local-volume",))}
    expected = {
        "fields": {"env", "envFrom", "volumeMounts", "resources"},
        "variables": {"WORK_DIR"},
    }

    def variables(container: bundle.Object) -> set[str]:
        return {each["name"] for each in container["env"]}

    for build, name, template in templates():
        if build not in bundle.DIRECT:
            continue
        other = mounted[name]
        own = {"volumes", "templateDefaults", "podMetadata"}
        fields = {*template["spec"], *other["spec"]} - own
        yield build, name, template["spec"], {each: other["spec"].get(each) for each in fields}
        pods = other["spec"]["podMetadata"]
        labels = pods["labels"] | {"fanfold.storage": "oss-direct"}
        yield build, name, template["spec"], {"podMetadata": {**pods, "labels": labels}}
        yield build, name, template, {each: other[each] for each in other if each != "spec"}
        left = re.findall("persistentVolumeClaim|/mnt/vol", str(template))
        yield build, name, {"left of the volume": left}, {"left of the volume": []}
        for worker, container in bundle.workers(template).items():
            before = bundle.workers(other)[worker]
            differences = {
                "fields": {key for key in container if container[key] != before.get(key)},
                "variables": variables(before) - variables(container),
            }
            yield build, f"{name} {worker}", differences, expected


@checks
def test_rrsa_has_a_token_and_no_key() -> Iterator[Check]:
    """With RRSA no template names a Secret. Only workers mount the token, at the path of their
    setting."""
    build = "oss-direct-rrsa"
    (settings,) = bundle.of_kind(builds()[build], "ConfigMap")
    for template in bundle.of_kind(builds()[build], "WorkflowTemplate"):
        name = template["metadata"]["name"]
        keys = re.findall("secret(?:KeyRef|Ref|Name)|ACCESS_KEY", str(template))
        yield build, name, {"keys": keys}, {"keys": []}
        projected = [each for each in template["spec"]["volumes"] if "projected" in each]
        source = "0/projected/sources/0/serviceAccountToken"
        only = {"1": None, "0/projected/sources/1": None, f"{source}/audience": "sts.aliyuncs.com"}
        yield build, f"{name} projected volumes", projected, only
        volume = at(projected, "0/name")
        for worker, container in bundle.workers(template).items():
            mounts = [each for each in container["volumeMounts"] if each["name"] == volume]
            one = {"1": None, "0/readOnly": True}
            yield build, f"{name} {worker} mounts of the token", mounts, one
            path = f"{at(mounts, '0/mountPath')}/{at(projected, f'{source}/path')}"
            setting = {"data/ALIBABA_CLOUD_OIDC_TOKEN_FILE": path}
            yield build, "ConfigMap oss-direct", settings, setting
        argo = str(template["spec"].get("podSpecPatch")).count(str(volume))
        yield build, f"{name} podSpecPatch", {"tokens": argo}, {"tokens": 0}


@checks
def test_rights() -> Iterator[Check]:
    """The account may only report outputs."""
    rule = {
        "apiGroups": ["argoproj.io"],
        "resources": ["workflowtaskresults"],
        "verbs": ["create", "patch"],
    }
    for build, found in builds().items():
        (role,) = bundle.of_kind(found, "Role")
        (binding,) = bundle.of_kind(found, "RoleBinding")
        yield build, bundle.label(role), role, {"rules": [rule]}
        subject = {"subjects/0/name": "fanfold", "subjects/1": None}
        to_role = {"roleRef/name": role["metadata"]["name"]}
        yield build, bundle.label(binding), binding, subject | to_role


@checks
def test_network_policies() -> Iterator[Check]:
    """Every worker's pod is closed: no ingress, and egress only to DNS, the API server and, with
    oss-direct, OSS. Every rule has a port and an address."""
    ports = {"fanfold": {53}, "fanfold-api-server": {443, 6443}, "fanfold-oss": {443}}
    for storage in ("oss-volume", "oss-direct", "oss-direct-rrsa"):
        found = bundle.combination((storage, "programs", "network-policy"))
        policies = {each["metadata"]["name"]: each for each in bundle.of_kind(found, KIND)}
        yield storage, KIND, {"names": set(policies)}, {"names": set(ports)}
        closed = {"spec/policyTypes": ["Ingress", "Egress"], "spec/ingress": []}
        yield storage, "fanfold", policies["fanfold"], closed
        for name, policy in policies.items():
            (rule,) = policy["spec"]["egress"]
            yield (
                storage,
                name,
                {"ports": {each["port"] for each in rule["ports"]}},
                {"ports": ports[name]},
            )
            for to in rule["to"]:
                yield storage, name, {"open": not any(to.values())}, {"open": False}
        for template in bundle.of_kind(found, "WorkflowTemplate"):
            labels = template["spec"]["podMetadata"]["labels"]
            chosen = {
                name
                for name, policy in policies.items()
                if policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            }
            all_or_two = set(ports) if storage in bundle.DIRECT else set(ports) - {"fanfold-oss"}
            yield (
                storage,
                template["metadata"]["name"],
                {"policies": chosen},
                {"policies": all_or_two},
            )


@checks
def test_runs_as_steps() -> Iterator[Check]:
    """The pod that submits a run has all settings in its template, because a templateRef ignores
    the spec. The pod is restricted as any other pod. Its account may submit and read runs, and
    report."""
    build = "runs-as-steps"
    found = bundle.combination(("oss-volume", build))
    template = bundle.named(found, "WorkflowTemplate", "run-as-step")
    (run,) = template["spec"]["templates"]
    pod = {
        "serviceAccountName": "fanfold-runs",
        "securityContext": bundle.base()[-1]["spec"]["securityContext"],
        "retryStrategy/retryPolicy": "OnError",
        "activeDeadlineSeconds": range(86401, 200000),
    }
    yield build, "template run", run, pod
    patch = yaml.safe_load(run["podSpecPatch"])
    base = yaml.safe_load(bundle.base()[-1]["spec"]["podSpecPatch"])["initContainers"][0]
    kept = {key: base[key] for key in ("securityContext", "resources")}
    mounts = [{"name": "manifest", "mountPath": "/tmp"}]  # noqa: S108 - of the container
    for kind, container in (
        ("initContainers", {"name": "init", **kept, "volumeMounts": mounts}),
        ("containers", {"name": "main", **kept}),
    ):
        yield build, "podSpecPatch", patch, {f"{kind}/0": container}
    yield build, "podSpecPatch", patch, {"containers/1": {"name": "wait", "$patch": "delete"}}
    manifest = run["resource"]["manifest"]
    for tag in re.findall(r"\{\{(.*?)\}\}", manifest):
        yield build, "manifest", {"tag": tag}, {"tag": re.compile(r"=toJson\(.+\)")}
    inputs = {each["name"] for each in run["inputs"]["parameters"]}
    used = set(re.findall(r"inputs\.parameters\.(\w+)", manifest))
    yield build, "manifest", {"inputs": used}, {"inputs": inputs}
    rights = {"workflows": ["create", "get", "watch"], "workflowtaskresults": ["create", "patch"]}
    rules = [
        {"apiGroups": ["argoproj.io"], "resources": [name], "verbs": verbs}
        for name, verbs in rights.items()
    ]
    yield build, "Role", bundle.named(found, "Role", "fanfold-runs"), {"rules": rules}
    binding = bundle.named(found, "RoleBinding", "fanfold-runs")
    subject = {"roleRef/name": "fanfold-runs", "subjects/0/name": "fanfold-runs"}
    yield build, "RoleBinding", binding, subject | {"subjects/1": None}
    for each in bundle.of_kind(found, "WorkflowTemplate"):
        if each is not template:
            count = str(each).count("fanfold-runs")
            yield build, bundle.label(each), {"fanfold-runs": count}, {"fanfold-runs": 0}


# Options of ossfs. With any of them ossfs2 mounts nothing.
V1 = (
    *("umask", "mp_umask", "multipart_size", "parallel_count", "multipart_copy_size"),
    *("max_stat_cache_size", "stat_cache_expire", "disable_noobj_cache", "enable_noobj_cache"),
    *("simulate_mtime_ns_with_crc64", "use_cache", "del_cache", "tmpdir", "ensure_diskfree"),
    *("max_dirty_data", "readdir_optimize", "listobjectsv2", "sigv4", "dbglevel", "url"),
)
# Options of ossfs2. With any of them ossfs mounts nothing.
V2 = (
    "close_to_open",
    "fuse_attr_timeout",
    "file_mode",
    "dir_mode",
    "prefetch_concurrency_per_file",
)


@checks
def test_claims() -> Iterator[Check]:
    """A volume names the claim of its build, and the claim's namespace."""
    for build, found in builds().items():
        claims = {
            claim["metadata"]["name"]: at(claim, "metadata/namespace")
            for claim in bundle.of_kind(found, "PersistentVolumeClaim")
        }
        for volume in bundle.of_kind(found, "PersistentVolume"):
            namespace = claims.get(at(volume, "spec/claimRef/name"))
            yield build, bundle.label(volume), volume, {"spec/claimRef/namespace": namespace}


@checks
def test_mounts() -> Iterator[Check]:
    """The options of a mounted bucket belong to its client, and allow correct results."""
    for build, found in builds().items():
        for volume in bundle.of_kind(found, "PersistentVolume"):
            if at(volume, "spec/csi/driver") != "ossplugin.csi.alibabacloud.com":
                continue
            attributes = {
                name.lower(): each
                for name, each in volume["spec"]["csi"]["volumeAttributes"].items()
            }
            words = re.findall(r"-o ?(\S+)", attributes.get("otheropts", ""))
            pairs = [one.partition("=") for word in words for one in word.split(",")]
            options = {name: value for name, _, value in pairs}
            client = attributes.get("fusetype", "ossfs")
            wanted: dict[str, object] = {"use_cache": None, **dict.fromkeys(V2)}
            if client == "ossfs2":
                timeouts = {"attr_timeout", "fuse_attr_timeout"} & {*options}
                wanted = {**dict.fromkeys(V1), "close_to_open": "true"}
                wanted |= dict.fromkeys(timeouts or {"fuse_attr_timeout"}, "0")
            of_client = f"otherOpts of {client}"
            fields = {f"{of_client}/{name}": each for name, each in wanted.items()}
            tree = {of_client: options}
            yield build, bundle.label(volume), tree, fields


@checks
def test_objects() -> Iterator[Check]:
    """Every object has labels, and no object is a Secret."""
    fields = {
        "metadata/labels/app.kubernetes.io~1part-of": "fanfold",
        "kind": re.compile("(?!Secret$).+"),
    }
    for build, found in builds().items():
        for each in found:
            yield build, bundle.label(each), each, fields
