"""Without kustomize the tests of the bundle end with a message instead of a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WITHOUT_KUSTOMIZE = """
import sys, pytest
from kustomize.helpers import binaries
def binarypath(name):
    raise FileNotFoundError(name)
binaries.binarypath = binarypath
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("ci", [False, True])
def test_without_kustomize(ci: bool) -> None:
    """Tests that build are skipped, or fail if CI is true."""
    environ = {name: os.environ[name] for name in os.environ if name not in ("CI", "FANFOLD_BIN")}
    command = [
        sys.executable,
        "-c",
        WITHOUT_KUSTOMIZE,
        str(HERE / "test_policy.py"),
        "-p",
        "no:xdist",
    ]
    found = subprocess.run(
        command,
        env={**environ, "PATH": "", **({"CI": "true"} if ci else {})},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )

    assert "kustomize must be in FANFOLD_BIN or on the PATH" in found.stdout
    assert "Traceback" not in found.stdout
    assert found.returncode == (pytest.ExitCode.TESTS_FAILED if ci else pytest.ExitCode.OK)
