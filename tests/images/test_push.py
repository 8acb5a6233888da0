"""`make images PUSH=...` pushes to a real registry and prints lines for an overlay."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from container import NAMES, ROOT, Image, builder
from registry import NoRegistryError, serve

MEDIA = "application/vnd.oci.image.manifest.v1+json"
MEDIA_OF_DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def get(url: str, *accepted: str) -> tuple[bytes, str]:
    """The registry's content at an address, and the digest of the content."""
    request = urllib.request.Request(url, headers={"Accept": ", ".join(accepted)})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return answer.read(), answer.headers.get("Docker-Content-Digest", "")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a registry without TLS, which the builder is configured for."""
    try:
        with serve(tmp_path) as address:
            monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
            yield address
    except NoRegistryError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


def make_images(**settings: str) -> subprocess.CompletedProcess[str]:
    """`make images` with these settings on its command line."""
    words = [f"{name}={value}" for name, value in settings.items()]
    return subprocess.run(
        ["make", "images", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def lines_of(output: str) -> list[Mapping[str, str]]:
    """The images in the lines for an overlay."""
    _, _, lines = output.partition("\nimages:\n")
    found: list[Mapping[str, str]] = yaml.safe_load(lines)
    return found


@pytest.mark.images
def test_pushed(images: dict[str, Image], base: str, registry: str) -> None:
    """The registry has each image under the printed name, tag and digest. The base is a tag of this
    registry: the images are built from its digest, which is printed and recorded."""
    tag = f"{registry}/debian:trixie-slim"
    # A new image: the machine may know the base by another digest already.
    output = builder(
        f"build --tag {tag} --label of=the-registry --file - images <<<'FROM {base}'; "
        f"push {tag} {tag}; run_builder rmi {tag}; echo $digest"
    )
    pinned = f"{tag}@{output.split()[-1]}"

    done = make_images(PUSH=f"{registry}/team/logs", BASE=tag, TAG="1.0")

    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[0] == f"base: {pinned}"
    found = lines_of(done.stdout)
    assert [each["name"] for each in found] == [f"fanfold-{name}" for name in NAMES]
    for each in found:
        assert each["newName"] == f"{registry}/team/logs/{each['name']}"
        assert each["newTag"] == "1.0"
        repository = f"http://{registry}/v2/team/logs/{each['name']}"
        manifest, digest = get(f"{repository}/manifests/1.0", MEDIA, MEDIA_OF_DOCKER)
        assert each["digest"] == digest == f"sha256:{sha256(manifest).hexdigest()}"
        config, _ = get(f"{repository}/blobs/{json.loads(manifest)['config']['digest']}")
        label = json.loads(config)["config"]["Labels"]["org.opencontainers.image.base.name"]
        assert label == pinned
        image = images[each["name"].removeprefix("fanfold-")]
        assert json.loads(config)["rootfs"] == image.config["rootfs"]


@pytest.mark.images
def test_no_registry(images: dict[str, Image], base: str) -> None:
    """If a registry does not answer, the error has a remedy, and no lines for an overlay follow."""
    done = make_images(PUSH="127.0.0.1:9/team", BASE=base)

    assert done.returncode
    assert "PUSH must be a registry that accepts 127.0.0.1:9/team/fanfold-split:dev" in done.stderr
    assert "images:" not in done.stdout


@pytest.mark.parametrize(
    "value",
    [
        *("https://registry.example.com/team", "registry.example.com/Team", "a.example/team/"),
        *("team", "-x.example/team", "..", "a.example/../team", "a.example:1234567/team"),
    ],
)
def test_bad_push(value: str) -> None:
    """A wrong PUSH is refused before the build."""
    done = make_images(PUSH=value)

    assert f"PUSH must be REGISTRY/FOLDER, got '{value}': set it in lower case" in done.stderr
    assert done.stdout == ""


def test_bad_tag() -> None:
    """A wrong TAG is refused before the build."""
    done = make_images(TAG="a b")

    assert "TAG must be at most 128 letters, digits, '_', '.' and '-', got 'a b': " in done.stderr
    assert done.stdout == ""


def test_no_syft() -> None:
    """A SYFT that is no program is refused before the build."""
    done = make_images(SYFT="/nowhere/syft")

    assert "SYFT must be a program, got '/nowhere/syft': run make images" in done.stderr
    assert done.stdout == ""


DOCKER = """#!/bin/bash
echo "$*" >>"$0.log"
case $1 in
    buildx) [[ $2 != build ]] || cat >/dev/null ;;
    push)
        echo "The push refers to repository [${2%:*}]"
        echo "5f70bf18a086: Pushed"
        echo "${2##*:}: digest: sha256:$(sha256sum <<<"$2" | cut -d ' ' -f 1) size: 1234" ;;
esac
"""


def test_docker_pushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of docker's push has the digest. A fake docker, because the machines of these
    tests have none."""
    docker = tmp_path / "docker"  # and `true` for syft: there is no image to read
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    done = make_images(PUSH="registry.example.com/team", SOURCE_DATE_EPOCH="0", SYFT="true")

    assert done.returncode == 0, done.stderr
    for name, each in zip(NAMES, lines_of(done.stdout), strict=True):
        target = f"registry.example.com/team/fanfold-{name}:dev"
        calls = (tmp_path / "docker.log").read_text().splitlines()
        assert calls.index(f"tag localhost/fanfold-{name}:dev {target}") < calls.index(
            f"push {target}"
        )
        digest = sha256(f"{target}\n".encode()).hexdigest()
        assert each["digest"] == f"sha256:{digest}"
