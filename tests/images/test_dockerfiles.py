"""The Dockerfiles, read and not built."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = {name: ROOT / f"Dockerfile.{name}" for name in ("split", "map", "reduce")}
ENTRYPOINTS = {"split": ("split",), "map": ("count", "process"), "reduce": ("merge",)}
MAY_DIFFER = (
    "COPY workers/",
    "CMD ",
    "LABEL org.opencontainers.image.title=",
    "      org.opencontainers.image.description=",
)

each = pytest.mark.parametrize("name", DOCKERFILES)


def lines(name: str) -> list[str]:
    """The Dockerfile of an image."""
    return DOCKERFILES[name].read_text().splitlines()


def instructions(name: str, word: str) -> list[str]:
    """What follows the instruction `word`, wherever it stands."""
    return [line.removeprefix(f"{word} ") for line in lines(name) if line.startswith(f"{word} ")]


def worker_files(name: str) -> set[str]:
    """The workers that an image gets."""
    (copy,) = (copy for copy in instructions(name, "COPY") if copy.startswith("workers/"))
    return {Path(word).stem for word in copy.split()[:-1]}


def imported(module: str) -> set[str]:
    """The module and all workers that it imports, at any depth."""
    found: set[str] = set()
    left = {module}
    while left:
        path = ROOT / f"workers/{left.pop()}.py"
        found.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            left |= {name for name in names if (ROOT / f"workers/{name}.py").exists()} - found
    return found


def test_they_differ_only_in_files_labels_and_command() -> None:
    """One image is read like the next."""
    first, *others = (lines(name) for name in DOCKERFILES)

    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            prefixes = [prefix for prefix in MAY_DIFFER if mine.startswith(prefix)]
            assert mine == theirs or (prefixes and theirs.startswith(prefixes[0]))


@each
def test_the_base_comes_first(name: str) -> None:
    """The base is a parameter, and what is built on it is copied to an empty image."""
    assert lines(name)[0] == "ARG BASE=debian:trixie-slim"
    assert instructions(name, "FROM") == [
        "${BASE} AS build",
        "${BASE} AS packages",
        "scratch AS oss2",
        "scratch",
    ]


@each
def test_an_image_has_the_workers_that_it_runs_and_no_other(name: str) -> None:
    """COPY names what the entrypoints import, at any depth."""
    needed = set().union(*(imported(module) for module in ENTRYPOINTS[name]))

    assert worker_files(name) == needed


@each
def test_the_command_is_in_exec_form(name: str) -> None:
    """There is no shell for the other form."""
    assert [json.loads(text) for text in instructions(name, "ENTRYPOINT")] == [["python"]]
    assert [json.loads(text) for text in instructions(name, "CMD")] == [
        [ENTRYPOINTS[name][0] + ".py"]
    ]


@each
def test_the_user_is_a_number(name: str) -> None:
    """A cluster can tell that a number is not root; of a name it cannot."""
    assert instructions(name, "USER") == ["65532:65532"]


def test_dockerignore_is_a_list_of_what_is_allowed() -> None:
    """Nothing new gets to a builder by itself; the local runner never does."""
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
        "workers/run.py",
    ]


def test_the_lock_file_has_a_hash_for_each_package() -> None:
    """Those of the version asked for, which is the one that the tests have too."""
    lock = (ROOT / "images/oss2.lock.txt").read_text()
    packages = re.findall(r"(?m)^(\S+)==(\S+)(.*(?:\n    --hash=sha256:\w{64}.*)+)", lock)

    assert len(packages) == len(re.findall("(?m)^[a-z]", lock)) > 10
    (wanted,) = re.findall("(?m)^oss2==.*$", (ROOT / "images/oss2.in").read_text())
    assert wanted in [f"{name}=={version}" for name, version, _ in packages]
    assert f'"{wanted}"' in (ROOT / "pyproject.toml").read_text()
