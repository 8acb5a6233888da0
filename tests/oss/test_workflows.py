"""The bundle without a volume on a cluster: its pods use a fake OSS on this host."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from fake import FakeOSS
from pipeline import model

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from scenario import (
    NAMESPACE,
    ROOT,
    get,
    kill,
    kubectl,
    outputs_of,
    pods_of,
    results_folder,
    submit,
    tool,
)

pytestmark = pytest.mark.e2e
LOCAL = ROOT / "manifests/overlays/local"
AUDIENCE = "sts.aliyuncs.com"
PARTS = 5
LOOK = 64 << 10  # bytes that split reads to find a cut
FIRST_BYTES = 16  # of an input, which split checks for other formats
LOG = b"".join(b"[%b] a line\n" % word for word in (b"INFO", b"WARN", b"INFO", b"ERROR")) * 50_000


class Issued(set[str]):
    """The tokens that the API server has issued to an account for STS only, checked by the API
    server."""

    def __init__(self, account: str) -> None:
        super().__init__()
        self.user = f"system:serviceaccount:{NAMESPACE}:{account}"

    def __contains__(self, token: object) -> bool:
        """Check a token with the API server; a valid token stays valid."""
        if not super().__contains__(token) and self._holds(token):
            self.add(str(token))
        return super().__contains__(token)

    def _holds(self, token: object) -> bool:
        return self._user(token, [AUDIENCE]) == self.user and not self._user(token, [])

    def _user(self, token: object, audiences: list[str]) -> str:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        }
        given = json.dumps(review).encode()
        answer = tool("kubectl", "create", "-f", "-", "-o", "json", stdin=given)
        return str(json.loads(answer)["status"].get("user", {}).get("username", ""))


def own_address() -> str:
    """Return the address of this host for pods: the one that a node uses."""
    addresses = get("nodes")["items"][0]["status"]["addresses"]
    node = next(one["address"] for one in addresses if one["type"] == "InternalIP")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((node, 9))  # sends nothing
        return str(way.getsockname()[0])


@contextmanager
def bundle(prefix: str, component: str) -> Iterator[FakeOSS]:
    """The bundle with a component and a name prefix, because other tests may use the cluster, and
    the OSS of its pods."""
    if "E2E_KUBECONFIG" not in os.environ:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "no cluster: `make test` builds one, or set E2E_KUBECONFIG to yours"
        )
    local = yaml.safe_load((LOCAL / "kustomization.yaml").read_text())
    (sizes,) = local["patches"]
    with FakeOSS(host=own_address()) as fake, tempfile.TemporaryDirectory() as overlay:
        settings = {
            "WORK_DIR": "oss://bucket/fanfold",
            "OSS_ENDPOINT": fake.endpoint,
            "OSS_REGION": fake.service.region,
        }
        if component == "oss-direct-rrsa":
            fake.sts.tokens = Issued(f"{prefix}fanfold")
            settings |= {
                "ALIBABA_CLOUD_STS_ENDPOINT": fake.endpoint,
                "ALIBABA_CLOUD_ROLE_ARN": fake.sts.role_arn,
                "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": fake.sts.provider_arn,
            }
            fake.service.keys.clear()  # all except those of STS
            secrets = []
        else:
            secrets = [{"name": "oss-secret", "literals": ["akId=id", "akSecret=secret"]}]
        patch = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "oss-direct"},
            "data": settings,
        }
        manifests = os.path.relpath(ROOT / "manifests", overlay)
        Path(overlay, "kustomization.yaml").write_text(
            json.dumps(
                {
                    "namespace": NAMESPACE,
                    "namePrefix": prefix,
                    "resources": [f"{manifests}/base"],
                    "components": [f"{manifests}/components/{component}"],
                    "secretGenerator": secrets,
                    "images": local["images"],
                    "patches": [
                        {"patch": json.dumps(patch)},
                        {"patch": (LOCAL / sizes["path"]).read_text(), "target": sizes["target"]},
                    ],
                }
            )
        )
        remove(prefix, overlay)  # leftovers of a killed test
        kubectl("apply", "-k", overlay)
        try:
            yield fake
        finally:
            remove(prefix, overlay)


def remove(prefix: str, overlay: str) -> None:
    """Delete all objects of this test."""
    workflows = kubectl("get", "workflows", "-o", "name").split()
    if own := [name for name in workflows if name.startswith(f"workflow.argoproj.io/{prefix}")]:
        kubectl("delete", "--ignore-not-found", *own, timeout=120)
    kubectl("delete", "--ignore-not-found", "-k", overlay, "--timeout=60s", timeout=90)


def result(fake: FakeOSS, run_dir: str) -> dict[str, int]:
    """Return the content of result.json."""
    found: dict[str, int] = json.loads(fake.bucket().get(f"fanfold/{run_dir}/result.json"))
    return found


def test_with_keys() -> None:
    """A run without copies: its pods read each byte of the log once and send none of it. Then a run
    with copies and an aggregation, while requests fail and a map pod and the reduce pod die: both
    results are right and no upload is left."""
    log = "fanfold/log.txt"
    with bundle("oss-", "oss-direct") as fake:
        fake.bucket().put(log, LOG)
        run = submit(
            "oss-log-count", input="log.txt", splitMode="range", numParts=PARTS, runDir="range"
        )
        found = run.succeed(300)
        counted = fake.counters.read()

        assert result(fake, "range") == model([LOG])
        own = f"fanfold/range/results/{results_folder(found)}/result.json"
        assert outputs_of(found)["resultPath"] == f"oss://bucket/{own}"
        assert json.loads(outputs_of(found)["result"]) == json.loads(fake.bucket().get(own))
        assert pods_of(found) == {"split": 1, "map": PARTS, "reduce": 1}
        assert counted["down_by_key"][log] == len(LOG) + (PARTS - 1) * LOOK + FIRST_BYTES
        assert counted["up_by_key"].get(log, 0) == 0
        written = [key for key in fake.bucket().objects if key.startswith("fanfold/range/")]
        assert sum(counted["up"].values()) == sum(len(fake.bucket().get(key)) for key in written)

        fake.faults.add("bandwidth", key="*/split-output/*.txt", rate=300_000)
        fake.faults.add("error", share=0.1, seed=1)
        fake.faults.add("error", share=0.1, seed=2, status=429, code="TooManyRequests")
        fake.faults.add("reset", share=0.1, seed=3)
        fake.faults.add("truncate", operation="GetObject", share=0.2, seed=4, at=1000)
        demo = "fanfold/letters/aggregation-demo"
        for number in range(8):
            fake.bucket().put(f"{demo}/l1/{number}.txt", b"%d" % number)
        run = submit("oss-log-count", input="log.txt", numParts=PARTS, runDir="copy")
        joined = submit("oss-aggregate", files=8, fanIn=4, runDir="letters")
        kill(run, ".map", {"Running"})
        kill(run, ".reduce", {"Pending", "Running"})
        run.succeed(300)
        joined.succeed(300)

        assert fake.bucket().get(f"{demo}/result.txt") == b"01234567"
        assert result(fake, "copy") == model([LOG])
        assert all(rule.used for rule in fake.faults.rules)
        assert fake.uploads() == {}


def test_with_a_role() -> None:
    """With a role and no key: each pod uses the token that the API server has issued to its account
    for STS. The letters of prepare-data are in order in the end, although requests fail."""
    with bundle("rrsa-", "oss-direct-rrsa") as fake:
        submit("rrsa-prepare-data", files=8, runDir="data").succeed(300)
        fake.faults.add("error", share=0.1, seed=1)
        fake.faults.add("truncate", operation="GetObject", share=0.2, seed=2, at=0)
        found = submit("rrsa-process-data", numbers=4, runDir="data").succeed(300)

        demo = "fanfold/data/aggregation-demo"
        letters = b"".join(fake.bucket().get(f"{demo}/l1/{number}.txt") for number in range(8))
        assert re.fullmatch(rb"[A-Z]{8}", letters)
        assert fake.bucket().get(f"{demo}/result.txt") == letters
        assert pods_of(found) == {"process-data": 6, "merge-data": 1}
        assert len(fake.sts.tokens) >= 8  # a token per pod
