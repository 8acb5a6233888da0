"""The program of manifests/validate.sh: check a user's overlay as the tests check the bundle.

Builds the overlay with kustomize, lints it with argo and sends it to the API server as a dry run,
if these are available, and runs the checks of test_policy.py on the objects of the bundle.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bundle
import test_policy
import yaml
from checks import judge

OURS = "app.kubernetes.io/part-of"
# Without the checks that compare the bundle's components with each other.
POLICY = (
    *(test_policy.test_containers, test_policy.test_pods, test_policy.test_workers),
    *(test_policy.test_parameters_arrive_unchanged, test_policy.test_retries),
    test_policy.test_simple_tags_hold_no_text_of_users,
    test_policy.test_parts_do_not_wait_for_each_other_to_fail,
    *(test_policy.test_reclaim, test_policy.test_metadata, test_policy.test_rights),
    test_policy.test_claims,
    test_policy.test_mounts,
)
EXAMPLES = re.compile(
    r"your-bucket|your-ram-role|your-account-id|your-cluster-id|registry\.example\.com"
)


def renamed(tree: Any, names: dict[str, str]) -> Any:
    """A tree with each text that is a key of `names` replaced by its value."""
    if isinstance(tree, dict):
        return {key: renamed(each, names) for key, each in tree.items()}
    if isinstance(tree, list):
        return [renamed(each, names) for each in tree]
    return names.get(tree, tree) if isinstance(tree, str) else tree


def with_init_and_wait(template: bundle.Object) -> bundle.Object:
    """A template without the changes of the component initless-pod: init and wait instead of
    supervisor."""
    patch = yaml.safe_load(template["spec"].get("podSpecPatch", "")) or {}
    container, *rest = patch.get("containers") or [{}]
    if container.get("name") != "supervisor" or rest or "initContainers" in patch:
        return template
    patch["initContainers"] = [container | {"name": "init"}]
    patch["containers"] = [container | {"name": "wait"}]
    return template | {"spec": template["spec"] | {"podSpecPatch": yaml.safe_dump(patch)}}


def of_the_bundle(found: list[bundle.Object]) -> list[bundle.Object]:
    """The objects of the base and its components, without the prefix and suffix that an overlay
    adds to names. The objects of runs-as-steps are left out: they differ and have other tests."""
    bundled = [each for each in found if each["metadata"].get("labels", {}).get(OURS) == "fanfold"]
    names = {}
    for each in bundled:
        component = each["metadata"]["labels"].get("app.kubernetes.io/component")
        if (component, each["kind"]) == ("log-count", "WorkflowTemplate"):
            prefix, _, suffix = each["metadata"]["name"].partition("log-count")
            for other in bundled:
                name = other["metadata"]["name"]
                names[name] = name.removeprefix(prefix).removesuffix(suffix)
    return [
        with_init_and_wait(each) if each["kind"] == "WorkflowTemplate" else each
        for each in renamed(bundled, names)
        if each["metadata"]["name"] not in ("fanfold-runs", "run-as-step")
    ]


def examples(found: list[bundle.Object]) -> list[str]:
    """A line per value that is still an example, and per Secret."""
    lines = {line.rstrip() for each in found for line in bundle.values(each, bundle.label(each))}
    return [
        *(
            f"{field} must be your own value, got the example {example}: set it"
            for field, _, value in (line.partition(": ") for line in sorted(lines))
            for example in sorted(set(EXAMPLES.findall(value)))
        ),
        *(
            f"{bundle.label(each)} must not be in git, because of its key: create it on the cluster"
            for each in bundle.of_kind(found, "Secret")
        ),
    ]


def without_namespace(bundled: list[bundle.Object]) -> list[str]:
    """A line if the overlay sets no namespace: the volume and the rights name one."""
    if all(each["metadata"].get("namespace") for each in bundle.of_kind(bundled, "ServiceAccount")):
        return []
    return ["kustomization.yaml must set `namespace`, got none: add `namespace: argo`, or your own"]


def policy(found: list[bundle.Object]) -> tuple[int, list[str]]:
    """The number of checks of test_policy.py on this build, and a line per problem."""
    bundled = of_the_bundle(found)
    test_policy.builds = lambda: {"": bundled}  # type: ignore[assignment]
    made, problems = 0, without_namespace(bundled)
    # Without a namespace every claim is wrong, for that one reason.
    for test in [each for each in POLICY if not problems or each is not test_policy.test_claims]:
        try:
            checked, lines = judge(test.__wrapped__())  # type: ignore[attr-defined]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            checked, lines = (
                0,
                [f"{test.__name__.removeprefix('test_')} cannot be checked, got {error!r}"],
            )
        made += checked
        problems += [f"{each.removesuffix('  []')}: correct the overlay" for each in lines]
    return made, problems


def builder() -> list[str]:
    """The command that builds an overlay: kustomize, else kubectl kustomize, else nothing."""
    if kustomize := bundle.program("kustomize"):
        return [kustomize, "build"]
    kubectl = bundle.program("kubectl")
    return [kubectl, "kustomize"] if kubectl else []


def execute(*command: str, stdin: str | None = None) -> tuple[int, str]:
    """The exit code of a program, and its stdout and stderr."""
    done = subprocess.run(
        command,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout.strip()


def lint(text: str) -> tuple[str, list[str]]:
    """Whether argo linted the text, and a line per problem."""
    if not (argo := bundle.program("argo")):
        return "not linted (argo is not installed)", []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overlay.yaml"
        path.write_text(text)
        code, words = execute(argo, "lint", "--no-color", "--offline", "--strict", str(path))
    found = [line.split("✖ ", 1)[1] for line in words.splitlines() if "✖ in " in line] or [words]
    return "linted", [f"argo: {each}" for each in found] if code else []


def ask_cluster(found: list[bundle.Object]) -> tuple[str, list[str]]:
    """Whether the cluster checked the objects against its schemas, and its problems. A dry run: the
    cluster does not change."""
    kubectl = bundle.program("kubectl")
    kinds = ("api-resources", "--api-group=argoproj.io", "--output=name", "--request-timeout=10s")
    if not kubectl or "workflowtemplates" not in execute(kubectl, *kinds)[1]:
        return "schemas not checked (kubectl reaches no cluster with Argo)", []
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    options = ("--dry-run=server", "--validate=strict", "--filename=-")
    code, words = execute(kubectl, "apply", *options, stdin=everything)
    lines = [line for line in words.splitlines() if not line.endswith("(server dry run)")]
    return "schemas checked", ["\n".join(lines)] if code else []


def validate(folder: Path) -> tuple[str, list[str]]:
    """A line of counts, and a line per problem."""
    done = subprocess.run(
        [*builder(), str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        return "not built", [done.stderr.strip()]
    text = done.stdout
    found = bundle.objects(text)
    templates = bundle.of_kind(of_the_bundle(found), "WorkflowTemplate")
    if not templates:
        return f"{len(found)} objects", [
            f"a WorkflowTemplate must have the label {OURS}: fanfold, got none: add the base to "
            "resources, and keep this label"
        ]
    made, problems = policy(found)
    linted, of_argo = lint(text)
    asked, of_cluster = ask_cluster(found)
    return (
        f"{len(found)} objects, {len(templates)} templates of the bundle, {made} checks, {linted}, "
        f"{asked}",
        examples(found) + problems + of_argo + of_cluster,
    )


def main(argv: Sequence[str]) -> int:
    """Validate an overlay; exit code 2 if there is a problem."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: manifests/validate.sh OVERLAY", file=sys.stderr)
        return 2
    folder = Path(argv[0]).resolve()
    if not (folder / "kustomization.yaml").is_file():
        print(
            f"validate.sh: OVERLAY must be a folder with a kustomization.yaml, got {argv[0]!r}: "
            "pass the folder of your overlay",
            file=sys.stderr,
        )
        return 2
    if not builder():
        print(
            "validate.sh: kustomize or kubectl must be installed: install kubectl 1.32 or newer",
            file=sys.stderr,
        )
        return 2
    counts, problems = validate(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{argv[0]}: {counts}, {len(problems)} problem{'s' if len(problems) != 1 else ''}")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
