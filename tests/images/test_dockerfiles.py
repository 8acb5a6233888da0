"""The text of the Dockerfiles, without a build."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "images/Dockerfile.shared"
DOCKERFILES = {name: ROOT / f"Dockerfile.{name}" for name in ("split", "map", "reduce")}
ENTRYPOINTS = {"split": ("split",), "map": ("count", "map", "process"), "reduce": ("merge",)}
MAY_DIFFER = (
    "COPY workers/",
    "CMD ",
    "LABEL org.opencontainers.image.title=",
    "      org.opencontainers.image.description=",
)

each = pytest.mark.parametrize("name", DOCKERFILES)


def instructions(file: Path, word: str) -> list[str]:
    """The arguments of each instruction `word` in a file."""
    lines = file.read_text().splitlines()
    return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def test_they_differ_only_in_files_labels_and_command() -> None:
    """The three Dockerfiles differ only in a few lines."""
    first, *others = (file.read_text().splitlines() for file in DOCKERFILES.values())

    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            prefixes = [prefix for prefix in MAY_DIFFER if mine.startswith(prefix)]
            assert mine == theirs or (prefixes and theirs.startswith(prefixes[0]))


def test_the_base_is_a_parameter() -> None:
    """The base is an argument of the build, and the images start from scratch."""
    before = SHARED.read_text().partition("\nFROM ")[0].splitlines()

    assert [line for line in before if line[:1] not in ("", "#")] == ["ARG BASE=debian:trixie-slim"]
    assert instructions(SHARED, "FROM") == [
        "${BASE} AS build",
        "${BASE} AS packages",
        "scratch AS oss2",
    ]
    for file in DOCKERFILES.values():
        assert instructions(file, "FROM") == ["build AS workers", "scratch"]


@each
def test_an_image_copies_only_its_workers(name: str) -> None:
    """COPY names the package, which is the same in all images, and the image's own entrypoints."""
    entrypoints = " ".join(f"workers/{module}.py" for module in ENTRYPOINTS[name])

    copies = [*instructions(SHARED, "COPY"), *instructions(DOCKERFILES[name], "COPY")]
    assert [copy for copy in copies if copy.startswith("workers/")] == [
        "workers/fanfold /fanfold/fanfold",
        f"{entrypoints} /fanfold/",
    ]


@each
def test_the_command_is_in_exec_form(name: str) -> None:
    """ENTRYPOINT and CMD need no shell: the images have none."""
    file = DOCKERFILES[name]

    assert [json.loads(text) for text in instructions(file, "ENTRYPOINT")] == [["python"]]
    assert [json.loads(text) for text in instructions(file, "CMD")] == [
        [ENTRYPOINTS[name][0] + ".py"]
    ]


@each
def test_the_user_is_a_number(name: str) -> None:
    """A cluster knows that a number is not root; it cannot know this for a name."""
    assert instructions(DOCKERFILES[name], "USER") == ["65532:65532"]


def test_dockerignore_lists_the_allowed_files() -> None:
    """A builder gets only listed files, and never the local runner."""
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    assert patterns == [
        "*",
        "!images/rootfs.sh",
        "!images/oss2.sh",
        "!images/oss2.lock.txt",
        "!workers/*.py",
        "!workers/fanfold/*.py",
        "!workers/fanfold/storage/*.py",
        "workers/run.py",
    ]


def test_the_lock_file_has_a_hash_for_each_package() -> None:
    """The lock file has the wanted version of oss2, which the tests use too, and all hashes."""
    lock = (ROOT / "images/oss2.lock.txt").read_text()
    packages = re.findall(r"(?m)^(\S+)==(\S+)(.*(?:\n    --hash=sha256:\w{64}.*)+)", lock)

    assert len(packages) == len(re.findall("(?m)^[a-z]", lock)) > 10
    (wanted,) = re.findall("(?m)^oss2==.*$", (ROOT / "images/oss2.in").read_text())
    assert wanted in [f"{name}=={version}" for name, version, _ in packages]
    assert f'"{wanted}"' in (ROOT / "pyproject.toml").read_text()
