"""`make release` sets the images in one place, and every overlay has them."""

from __future__ import annotations

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
    """Release a copy of the bundle; the exit code and what was said."""
    if not folder.exists():
        shutil.copytree(bundle.MANIFESTS, folder)
    done = subprocess.run(
        [sys.executable, str(folder / "release.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("digests", [{}, DIGESTS], ids=["tags", "digests"])
def test_release(digests: dict[str, str], tmp_path: Path) -> None:
    """Only the base changes; an overlay's file has the release's images, but where the overlay says
    otherwise."""
    folder = tmp_path / "manifests"
    before = {path: path.read_bytes() for path in bundle.MANIFESTS.rglob("*.yaml")}

    code, said = release(folder, "1.2", *(f"{name}={value}" for name, value in digests.items()))

    assert code == 0, said
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([""], "VERSION is '': give one such as 1.2.3"),
        (["1.2.3", "map=sha256:12"], "'map=sha256:12' is no digest"),
        (["1.2.3", f"map={DIGESTS['map']}"], "digests of map alone: give all three or none"),
    ],
)
def test_a_slip_is_refused(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """A release without a version or with half its digests is refused, and nothing is written."""
    folder = tmp_path / "manifests"

    code, said = release(folder, *arguments)

    assert code == 2
    assert sentence in said
    kustomization = "base/kustomization.yaml"
    assert (folder / kustomization).read_text() == (bundle.MANIFESTS / kustomization).read_text()
