"""The seconds that a node takes to pull the images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cases import ARCHIVES, Sizes, layers_of
from measure import ROOT
from on_cluster import versions
from registry import serve
from report import Section, size, spread
from scenario import get, kubectl, until

IMAGES = ("split", "map", "reduce", "pictures")  # in the order of the pulls
HEAD = ("", "compressed", "of these, new on the node", "seconds")
TEXT = (
    "A node without images of fanfold pulls four images, one after the other. The seconds are the "
    "kubelet's, and include the unpacking of the layers. The registry is on the same machine, so "
    "add the time of your network. The image `pictures` is an example of an image for programs: "
    "`manifests/runs/Dockerfile.pictures`, with Debian, ImageMagick and fanfold. "
)
LEFT_OUT = (
    "left out: this case needs the test cluster of this machine, and the archives of all images in "
    "build/images (images/build.sh --archive build/images, then tests/e2e/examples.sh)"
)
PUSH = """
source images/builder.sh
choose_builder buildah
for name in "${@:2}"; do
    run_builder pull --quiet "oci-archive:build/images/$name.tar"
    push "localhost/fanfold-$name:dev" "$1/fanfold-$name:dev"
done
"""


def socket_of_node() -> Path:
    """The address of containerd on the node of the test cluster."""
    return Path(os.environ["E2E_KUBECONFIG"]).parent / "run/containerd.sock"


def is_possible() -> bool:
    """Whether the node is this machine, and the archives exist."""
    needed = [socket_of_node(), *(ARCHIVES / f"{name}.tar" for name in IMAGES)]
    return all(path.exists() for path in needed)


def ctr(*arguments: str) -> list[list[str]]:
    """Run a command of containerd on the node. Return the rows it prints."""
    command = ["ctr", f"--address={socket_of_node()}", "--namespace=k8s.io", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split() for line in output.splitlines()[1:]]


def forget() -> None:
    """Remove the images of fanfold from the node, under all names. A container keeps the layers of
    its image, and the kubelet removes the containers of deleted pods once per minute."""

    def is_unused() -> bool:
        return not any("fanfold-" in image for _, image, *_ in ctr("containers", "ls"))

    until("no container has an image of fanfold", 150, is_unused)
    digests = {name: digest for name, _, digest, *_ in ctr("images", "ls")}
    ours = {digest for name, digest in digests.items() if "fanfold-" in name}
    ctr("images", "rm", "--sync", *(name for name, digest in digests.items() if digest in ours))


def pulled(image: str) -> float:
    """Run a pod with this image. Return the seconds of the pull by the kubelet's event."""
    container = {  # with what the namespace demands of a pod
        "name": "main",
        "image": image,
        "imagePullPolicy": "Always",
        "command": ["python3", "-c", "pass"],
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "pull-"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    name = kubectl("create", "-o", "name", "-f", "-", stdin=json.dumps(pod).encode()).strip()
    try:
        is_done = "--for=jsonpath={.status.phase}=Succeeded"
        kubectl("wait", name, is_done, "--timeout=300s", timeout=310)
        which = f"--field-selector=reason=Pulled,involvedObject.name={name.removeprefix('pod/')}"
        (event,) = until("the event of the pull", 30, lambda: get("events", which)["items"])
    finally:
        kubectl("delete", name)
    found = re.search(r" in (?:(\d+)m)?([\d.]+)(m?)s ", event["message"])
    assert found, event["message"]
    return int(found[1] or 0) * 60 + float(found[2]) / (1000 if found[3] else 1)


def pull(sizes: Sizes) -> Section:
    """All images on a node that has none, several times."""
    found: dict[str, list[float]] = {name: [] for name in IMAGES}
    kubectl("delete", "pod", "toolbox", "--ignore-not-found")  # of the other cases
    with tempfile.TemporaryDirectory() as made, serve(Path(made)) as address:
        settings = {
            "STORAGE": f"{made}/storage",
            "CONTAINERS_REGISTRIES_CONF": f"{made}/registries.conf",
        }
        command = ["bash", "-euc", f"{PUSH}empty_storage", "push", address, *IMAGES]
        subprocess.run(
            command, cwd=ROOT, env=os.environ | settings, check=True, stdout=sys.stderr, timeout=600
        )
        try:
            for number in range(sizes.repeats):
                forget()
                for name in IMAGES:
                    print(f"  {number + 1}/{sizes.repeats} {name}", file=sys.stderr, flush=True)
                    found[name].append(pulled(f"{address}/fanfold-{name}:dev"))
        finally:
            archives = map(str, ARCHIVES.glob("*.tar"))
            load = ["python3", "tests/cluster/cluster.py", "load", *archives]
            subprocess.run(load, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=300)
    section = Section("pull", "The images on a new node", TEXT + versions())
    known: set[str] = set()
    rows: list[Sequence[str]] = []
    for name, seconds in found.items():
        bytes_of = {digest: len(layer) for digest, layer in layers_of(name).items()}
        new = sum(count for digest, count in bytes_of.items() if digest not in known)
        rows.append((f"`{name}`", size(sum(bytes_of.values())), size(new), spread(seconds)))
        known |= bytes_of.keys()
    section.tables.append(("", HEAD, rows))
    section.bars = list(found.items())
    return section
