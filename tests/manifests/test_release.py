"""`make release` sets the images in one place, and every overlay uses them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bundle
import pytest

DIGESTS = {
    image: f"sha256:{number:064x}" for number, image in enumerate(("split", "map", "reduce"))
}


def release(folder: Path, *arguments: str) -> tuple[int, str]:
    """Release a copy of the bundle; the exit code and what was printed to stderr."""
    if not folder.exists():
        shutil.copytree(bundle.MANIFESTS, folder)
    tools = Path(bundle.require("kustomize")).parent
    done = subprocess.run(
        [sys.executable, str(folder / "release.py"), *arguments],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("digests", [{}, DIGESTS], ids=["tags", "digests"])
def test_release(digests: dict[str, str], tmp_path: Path) -> None:
    """Only the base changes. An overlay's file has the release's images, unless the overlay sets
    others."""
    folder = tmp_path / "manifests"
    before = {path: path.read_bytes() for path in bundle.MANIFESTS.rglob("*.yaml")}

    code, errors = release(folder, "1.2", *(f"{name}={value}" for name, value in digests.items()))

    assert code == 0, errors
    changed = [
        path for path, text in before.items()
        if (folder / path.relative_to(bundle.MANIFESTS)).read_bytes() != text
    ]  # fmt: skip
    assert changed == [bundle.MANIFESTS / "base/kustomization.yaml"]
    files = (tmp_path / "build/release").iterdir()
    assert {path.name for path in files} == {
        f"fanfold-{overlay}-1.2.yaml" for overlay in bundle.OVERLAYS
    }
    for overlay in bundle.OVERLAYS:
        rendered = (tmp_path / f"build/release/fanfold-{overlay}-1.2.yaml").read_text()
        images = set(re.findall(r"fanfold-(\w+):(\S+)$", rendered, re.MULTILINE))
        assert images == {
            (
                image,
                "dev" if overlay == "local" else "1.2" + (f"@{digests[image]}" if digests else ""),
            )
            for image in DIGESTS
        }


@pytest.mark.parametrize("digests", [{}, DIGESTS], ids=["tags", "digests"])
def test_checklist(digests: dict[str, str], tmp_path: Path) -> None:
    """A release prints the steps for a person, each with an empty box; the box of the digests is
    ticked if they are set. The files and make targets that the list names exist."""
    digest_of = (f"{name}={value}" for name, value in digests.items())

    code, printed = release(tmp_path / "manifests", "1.2", *digest_of)

    assert code == 0
    head, *boxes = re.split(r"^\[(?=[x ]\] )", printed, flags=re.MULTILINE)
    assert head == "\nChecklist of release 1.2:\n"
    left = [box for box in boxes if box.startswith(" ")]
    assert len(boxes) - len(left) == bool(digests)
    assert any("DIGESTS=" in box for box in left) == (not digests)
    assert "CHANGELOG.md" in left[0]
    assert not [box for box in boxes if "{" in box]
    named = re.findall(r"\b(?:manifests|tests)/[\w/.]+\w|\w+\.(?:md|toml)\b", printed)
    assert not [name for name in named if not (bundle.REPOSITORY / name).exists()]
    targets = re.findall(r"^(\S+):", (bundle.REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert not {*re.findall(r"\bmake ([a-z-]+)", printed)} - {*targets}


def make_release(folder: Path, path: Path, version: str) -> subprocess.CompletedProcess[str]:
    """`make release` in a copy of its files, with programs only from this PATH."""
    for name in ("manifests", "tests/manifests"):
        shutil.copytree(bundle.REPOSITORY / name, folder / name)
    shutil.copy(bundle.REPOSITORY / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    program = folder / ".venv/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    (folder / ".venv/test").touch()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FANFOLD_BIN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", "release", f"VERSION={version}"],
        cwd=folder,
        env={**environment, "PATH": f"{path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_make_release(tmp_path: Path) -> None:
    """The make target needs only kustomize, and writes the golden files too."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kustomize").symlink_to(bundle.require("kustomize"))

    done = make_release(tmp_path / "copy", tools, "1.2.3")

    assert done.returncode == 0, done.stderr
    rendered = {
        overlay: (tmp_path / f"copy/build/release/fanfold-{overlay}-1.2.3.yaml").read_text()
        for overlay in bundle.OVERLAYS
    }
    golden = (tmp_path / "copy/tests/manifests/golden").iterdir()
    assert {path.name: path.read_text() for path in golden} == bundle.golden(rendered)
    released = {name for name, text in rendered.items() if "fanfold-map:1.2.3" in text}
    assert released == {*bundle.OVERLAYS} - {"local"}


def not_installed(name: str) -> Path:
    """A binarypath() that finds no program."""
    raise FileNotFoundError(name)


def test_no_kustomize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without kustomize nothing is written, and the error names the program to install. On the
    PATH, kustomize is found."""
    spec = importlib.util.spec_from_file_location("release", bundle.MANIFESTS / "release.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BASE", tmp_path / "kustomization.yaml")
    monkeypatch.setattr(module, "RENDERED", tmp_path / "release")
    monkeypatch.setattr(module, "binarypath", not_installed)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))

    with pytest.raises(SystemExit) as end:
        module.main(["1.2.3"])

    assert end.value.code == 2
    assert "kustomize must be on the PATH: install version 5.5 or newer" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "kustomize").symlink_to(bundle.require("kustomize"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.kustomize() == str(tmp_path / "kustomize")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([""], "VERSION must be a tag, got '': set it as in 1.2.3"),
        (["1.2.3", "map=sha256:12"], "reduce=sha256:..., got 'map=sha256:12': "),
        (
            ["1.2.3", f"map={DIGESTS['map']}"],
            "DIGESTS must name all three images, got map: name all",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """A release without a version, or with some digests only, is refused and writes nothing."""
    folder = tmp_path / "manifests"

    code, errors = release(folder, *arguments)

    assert code == 2
    assert sentence in errors
    kustomization = "base/kustomization.yaml"
    assert (folder / kustomization).read_text() == (bundle.MANIFESTS / kustomization).read_text()
