"""Write a release into the bundle and render it, for `make release`.

Writes the tags of the three images, and digests if there are any, to base/kustomization.yaml, and
each overlay to one plain file in build/release, for use without kustomize. Prints the checklist of
the release to stderr.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kustomize.helpers.binaries import binarypath  # type: ignore[import-untyped]

MANIFESTS = Path(__file__).resolve().parent
BASE = MANIFESTS / "base/kustomization.yaml"
RENDERED = MANIFESTS.parent / "build/release"
IMAGES = ("split", "map", "reduce")
# The steps of a release that a person does, in order.
CHECKLIST = """
Checklist of release {version}:
[ ] CHANGELOG.md has a section [{version}] with the date of today, and pyproject.toml this version.
[ ] The images are built from a clean checkout, from a base named by digest, and in an empty STORAGE
    (with docker after docker builder prune):
    make images TAG={version} PUSH=REGISTRY/FOLDER BASE=debian:trixie-slim@sha256:... STORAGE=FOLDER
[{done}] Their digests are in the bundle:
    make release VERSION={version} DIGESTS="split=sha256:... map=sha256:... reduce=sha256:..."
[ ] git diff shows changes only in manifests/base/kustomization.yaml and tests/manifests/golden.
[ ] make test, on a machine with a cluster: everything passes, nothing is skipped.
[ ] Commit, then git tag --sign v{version}, and push both.
[ ] build/release/*-{version}.yaml and build/sbom/*.spdx.json are attached to the release, with its
    section of CHANGELOG.md as the text.
[ ] manifests/validate.sh of an overlay with the pushed images, and one log-count there, succeed.
"""


def version(text: str) -> str:
    """A tag of an image."""
    if not re.fullmatch(r"\w[\w.-]{0,127}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"VERSION must be a tag, got {text!r}: set it as in 1.2.3")
    return text


def digest(text: str) -> tuple[str, str]:
    """An image and its digest."""
    image, _, value = text.partition("=")
    if image not in IMAGES or not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise argparse.ArgumentTypeError(
            f"DIGESTS must be split=sha256:... map=sha256:... reduce=sha256:..., got {text!r}: "
            "set it to what make images PUSH= prints"
        )
    return image, value


def pinned(text: str, tag: str, digests: dict[str, str]) -> str:
    """The text of the base's kustomization with the tag and the digests of the release."""
    block = "images:\n"
    for image in IMAGES:
        block += f'- name: fanfold-{image}\n  newTag: "{tag}"\n'
        if digests:
            block += f"  digest: {digests[image]}\n"
    text, found = re.subn(r"^images:\n(?:[- ] .+\n)+", block, text, flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"{BASE} must have one list of images, got {found}: keep one")
    return text


def kustomize() -> str | None:
    """The path of kustomize: from the venv, else from the PATH."""
    with suppress(FileNotFoundError):
        return str(binarypath("kustomize"))
    found = shutil.which("kustomize")
    # In an active venv, `found` may be the wrapper that has just found no kustomize.
    return None if found and Path(found).parent == Path(sys.executable).parent else found


def main(argv: Sequence[str] | None = None) -> int:
    """Set the release and render the overlays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", type=version, metavar="VERSION")
    parser.add_argument("digests", nargs="*", type=digest, metavar="IMAGE=DIGEST")
    arguments = parser.parse_args(argv)
    digests = dict(arguments.digests)
    if digests and set(digests) != set(IMAGES):
        parser.error(
            f"DIGESTS must name all three images, got {', '.join(sorted(digests))}: name all"
        )
    program = kustomize()
    if not program:
        parser.error("kustomize must be on the PATH: install version 5.5 or newer")
    BASE.write_text(pinned(BASE.read_text(), arguments.version, digests))
    RENDERED.mkdir(parents=True, exist_ok=True)
    for overlay in sorted((MANIFESTS / "overlays").iterdir()):
        path = RENDERED / f"fanfold-{overlay.name}-{arguments.version}.yaml"
        with path.open("w") as file:
            subprocess.run([program, "build", overlay], stdout=file, check=True, timeout=60)
        print(path)
    done = "x" if digests else " "
    print(CHECKLIST.format(version=arguments.version, done=done), end="", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
