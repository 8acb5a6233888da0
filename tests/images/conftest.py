"""Let the tests of this folder import its modules, and build the images once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from container import NAMES, ROOT, Image, build, own_storage, unpack


def missing() -> str:
    """The program or right that this machine lacks to build and run an image; empty if none."""
    if os.geteuid() != 0:
        return "root"
    if not shutil.which("runc"):
        return "runc"
    if not any(shutil.which(builder) for builder in ("docker", "podman", "buildah")):
        return "docker, podman or buildah"
    if "BASE" not in os.environ and not shutil.which("mmdebstrap"):
        return "mmdebstrap (or BASE, an image of Debian 13)"
    return ""


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Images and layers only for these tests: the STORAGE of the test run, or an empty folder."""
    if os.environ.get("STORAGE"):
        yield
        return
    with own_storage(tmp_path_factory.mktemp("storage")):
        yield


@pytest.fixture(scope="session")
def base(storage: None) -> str:
    """The image of the build stage. Skips the tests on a machine that cannot run them."""
    if lack := missing():
        reason = f"images are not built and run: this machine lacks {lack}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    if chosen := os.environ.get("BASE"):
        return chosen
    script = [ROOT / "images/base.sh"]
    return subprocess.run(script, stdout=-1, text=True, check=True, timeout=600).stdout.strip()


@pytest.fixture(scope="session")
def images(base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """The three images by name, built and unpacked."""
    folder = tmp_path_factory.mktemp("images")
    build(base, folder, "--sbom", str(folder))
    yield {name: unpack(folder / f"{name}.tar", folder / name) for name in NAMES}
    shutil.rmtree(folder)
