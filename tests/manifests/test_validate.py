"""manifests/validate.sh on users' overlays."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import bundle
import pytest
import yaml

# The lines that `make images PUSH=...` prints.
PUSHED = [
    {
        "name": f"fanfold-{name}",
        "newName": f"registry.example.org/team/fanfold-{name}",
        "newTag": "dev",
        "digest": f"sha256:{number:064x}",
    }
    for number, name in enumerate(("split", "map", "reduce"))
]
LOCAL = ("local-volume", "parallelism")


def write(folder: Path, components: tuple[str, ...], **more: Any) -> Path:
    """Write an overlay as a user does, in a folder outside the bundle."""
    kustomization = {
        "namespace": "analytics",
        "resources": [bundle.relative(bundle.MANIFESTS / "base", folder)],
        "components": [
            bundle.relative(bundle.MANIFESTS / "components" / name, folder) for name in components
        ],
        "images": PUSHED,
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def validate(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the script without a cluster, unless `environ` names one."""
    bundle.require("kustomize")
    nowhere = {"KUBECONFIG": os.devnull}
    return subprocess.run(
        [str(bundle.MANIFESTS / "validate.sh"), *map(str, arguments)],
        env={**os.environ, **nowhere, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("components", "more"),
    [
        (LOCAL, {}),
        (("oss-direct", "schedule", "programs", "eci-spot"), {"nameSuffix": "-nightly"}),
        (("local-volume", "runs-as-steps", "artifacts"), {"namePrefix": "team-a-"}),
        (("local-volume", "initless-pod", "smoke-run"), {}),
    ],
    ids="+".join,
)
def test_good(components: tuple[str, ...], more: dict[str, str], tmp_path: Path) -> None:
    """Combinations that the matrix allows have no problems, with changed names and other
    objects; oss-direct must be configured first. The images are the pushed images."""
    of_users = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "of-ours"}}
    (tmp_path / "of-ours.yaml").write_text(yaml.safe_dump(of_users))
    resources = [bundle.relative(bundle.MANIFESTS / "base", tmp_path), "of-ours.yaml"]
    write(tmp_path, components, resources=resources, **more)
    if "oss-direct" in components:
        assert (
            "must be your own value, got the example your-bucket: set it"
            in validate(tmp_path).stderr
        )
        settings = {"WORK_DIR": "oss://logs/fanfold"}
        patch = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "oss-direct"}}
        patches = [{"patch": yaml.safe_dump({**patch, "data": settings})}]
        write(tmp_path, components, resources=resources, patches=patches, **more)

    done = validate(tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    counts = re.fullmatch(
        r".+: (\d+) objects, \d templates .+, (\d+) checks, .+, 0 problems\n", done.stdout
    )
    assert counts
    assert int(counts[1]) == len(bundle.objects(bundle.build(tmp_path)))
    assert int(counts[2]) > 100
    images = set(re.findall(r"image: (\S+)$", bundle.build(tmp_path), re.MULTILINE))
    assert images == {f"{each['newName']}:dev@{each['digest']}" for each in PUSHED}


@pytest.mark.parametrize("name", ["ack", "ack-one"])
def test_with_the_settings_of_readme(name: str, tmp_path: Path) -> None:
    """An overlay for ACK with all settings that README names has no problems."""
    shutil.copytree(bundle.MANIFESTS, tmp_path / "manifests")
    overlay = tmp_path / "manifests/overlays" / name
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({**kustomization, "images": PUSHED}))
    bucket = overlay / "patches/persistentvolume.bucket.yaml"
    bucket.write_text(
        bucket.read_text().replace("your-bucket", "logs").replace("your-ram-role", "r")
    )

    done = validate(overlay)

    assert (done.returncode, done.stderr) == (0, "")


PATCH = """\
- {op: test, path: /spec/templates/2/name, value: map}
- {op: replace, path: /spec/templates/2/retryStrategy/expression, value: "true"}
- {op: replace, path: /spec/securityContext/runAsNonRoot, value: false}
"""


def test_bad(tmp_path: Path) -> None:
    """Each problem has a line and is counted."""
    write(
        tmp_path,
        ("oss-volume",),
        patches=[{"target": {"kind": "WorkflowTemplate", "name": "log-count"}, "patch": PATCH}],
        secretGenerator=[{"name": "oss-secret", "literals": ["akId=x", "akSecret=y"]}],
    )

    done = validate(tmp_path)

    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert (
        "PersistentVolume pv-oss/spec/csi/volumeAttributes/bucket must be your own value"
        in lines[0]
    )
    assert "Secret oss-secret" in lines[1]
    assert lines[2:] == [
        "log-count: securityContext/runAsNonRoot must be True, got False: correct the overlay",
        "log-count map: retryStrategy/expression must be 'asInt(lastRetry.exitCode) != 2', "
        "got 'true': correct the overlay",
    ]
    assert done.stdout.endswith(f", {len(lines)} problems\n")


MIXED = {
    "an option of ossfs with ossfs2": (
        "oss-volume-ossfs2",
        {"otherOpts": "-o close_to_open=true -o attr_timeout=0 -ouid=65532,umask=022"},
        ["ossfs2/umask must be unset, got '022'"],
    ),
    "ossfs2 with the options of ossfs": (
        "oss-volume",
        {"fusetype": "ossfs2", "otherOpts": "-o disable_noobj_cache -o allow_other"},
        [
            "ossfs2/disable_noobj_cache must be unset, got ''",
            "ossfs2/close_to_open must be 'true', got unset",
            "ossfs2/fuse_attr_timeout must be '0', got unset",
        ],
    ),
    "ossfs2 as it comes, with one of the two": (
        "oss-volume-ossfs2-rrsa",
        {"otherOpts": "-o close_to_open=true -o fuse_attr_timeout=60"},
        ["ossfs2/fuse_attr_timeout must be '0', got '60'"],
    ),
    "ossfs2 with one right and one wrong timeout": (
        "oss-volume-ossfs2",
        {"otherOpts": "-o close_to_open=true -o attr_timeout=0 -o fuse_attr_timeout=60"},
        ["ossfs2/fuse_attr_timeout must be '0', got '60'"],
    ),
    "ossfs with an option of ossfs2": (
        "oss-volume-rrsa",
        {"otherOpts": "-o allow_other -o use_cache=/tmp -o file_mode=0644"},
        ["ossfs/use_cache must be unset, got '/tmp'", "ossfs/file_mode must be unset, got '0644'"],
    ),
}


def test_no_namespace(tmp_path: Path) -> None:
    """An overlay without a namespace is refused with one sentence: its volume waits for a claim in
    argo."""
    done = validate(write(tmp_path, LOCAL, namespace=""))

    assert (done.returncode, done.stderr) == (
        2,
        "kustomization.yaml must set `namespace`, got none: add `namespace: argo`, or your own\n",
    )
    assert done.stdout.endswith(", 1 problem\n")


def test_every_example_is_found(tmp_path: Path) -> None:
    """With RRSA the examples of the bucket, the account, the role and the cluster are named."""
    done = validate(write(tmp_path, ("oss-direct-rrsa",)))

    found = re.findall("must be your own value, got the example (.+): set it", done.stderr)
    examples = ["your-bucket", "your-account-id", "your-cluster-id", "your-ram-role"]
    assert (done.returncode, sorted({*found})) == (2, sorted(examples))


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    """The help is on stdout, and names the argument and the exit code."""
    done = validate(option)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Validate your overlay: manifests/validate.sh OVERLAY\n")
    assert "Exit code 2 if there is a problem." in done.stdout
    assert "#" not in done.stdout
    assert "set -" not in done.stdout


@pytest.mark.parametrize(("component", "attributes", "problems"), MIXED.values(), ids=MIXED)
def test_mounts(
    component: str, attributes: dict[str, str], problems: list[str], tmp_path: Path
) -> None:
    """A mount that would fail, or could cause a wrong total, is refused."""
    attributes = {"bucket": "logs", "roleName": "r", **attributes}
    patch = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pv-oss"},
        "spec": {"csi": {"volumeAttributes": attributes}},
    }
    write(tmp_path, (component,), patches=[{"patch": yaml.safe_dump(patch)}])

    done = validate(tmp_path)

    lines = [
        f"PersistentVolume pv-oss: otherOpts of {each}: correct the overlay" for each in problems
    ]
    assert (done.returncode, done.stderr.splitlines()) == (2, lines)


def test_missing_role(tmp_path: Path) -> None:
    """An overlay without a role cannot be checked in full, which is a problem too."""
    patch = "{$patch: delete, kind: Role, metadata: {name: fanfold-executor}}"
    target = {"kind": "Role", "name": "fanfold-executor"}
    write(tmp_path, LOCAL, patches=[{"target": target, "patch": patch}])

    done = validate(tmp_path)

    assert done.returncode == 2
    assert "rights cannot be checked" in done.stderr


@pytest.mark.cluster
def test_argo_and_the_schemas(tmp_path: Path) -> None:
    """Argo finds a missing template, and the API server finds a misspelt field."""
    bundle.require("argo")
    environment = bundle.cluster()
    wrong = "- {op: replace, path: /spec/entrypoint, value: none}"
    target = {"kind": "WorkflowTemplate", "name": "log-count"}
    patches: list[dict[str, Any]] = [{"target": target, "patch": wrong}]
    misspelt = "- {op: add, path: /automount, value: true}"
    patches += [{"target": {"kind": "ServiceAccount"}, "patch": misspelt}]
    write(tmp_path, (), namespace="argo", patches=patches)

    done = validate(tmp_path, KUBECONFIG=environment["KUBECONFIG"])

    assert done.returncode == 2
    assert (
        "argo: in \"log-count\" (WorkflowTemplate): template name 'none' undefined" in done.stderr
    )
    assert 'unknown field "automount"' in done.stderr
    assert ", linted, schemas checked, 2 problems" in done.stdout


@pytest.mark.parametrize(("there", "code"), [({"kubectl"}, 0), (set[str](), 2)])
def test_kubectl_is_enough(
    there: set[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only kubectl is enough, because it has kustomize built in. With neither, an error says so."""
    import test_policy
    import validate as module

    paths = {name: bundle.require(name) for name in there}
    monkeypatch.setattr(bundle, "program", paths.get)
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    # main() replaces the builds of test_policy by this build.
    monkeypatch.setattr(test_policy, "builds", test_policy.builds)

    assert module.main([str(write(tmp_path, LOCAL))]) == code

    output, errors = capsys.readouterr()
    assert ("not linted (argo is not installed), schemas not checked" in output) == (not code)
    assert ("must be installed: install kubectl 1.32 or newer" in errors) == bool(code)


@pytest.mark.parametrize(
    ("kustomization", "sentence"),
    [
        ({"resources": ["nothing.yaml"]}, "nothing.yaml"),
        ({"configMapGenerator": [{"name": "x"}]}, "add the base to "),
    ],
)
def test_no_bundle(kustomization: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    """An overlay that does not build, or does not build the bundle, is a problem."""
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    done = validate(tmp_path)

    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stdout.endswith(", 1 problem\n")


def test_no_overlay(tmp_path: Path) -> None:
    """A folder without a kustomization is refused, and so is a missing argument."""
    done = validate(tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "OVERLAY must be a folder with a kustomization.yaml, got" in done.stderr
    assert validate().stderr == "usage: manifests/validate.sh OVERLAY\n"
