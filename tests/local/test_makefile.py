"""Values that users pass to make: a value reaches the program unchanged, and nothing in it is run
or expanded, in no target and no variable.

The programs are stand-ins that record their calls. The Makefile is the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pipeline import model

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
HELP = set(re.findall(r"\b([A-Z_]+)=", " ".join(re.findall(r"## (.*)", MAKEFILE))))
SETTINGS = re.sub(r"\\\n", "", MAKEFILE).partition(".settings := ")[2].partition("\n")[0].split()
# Unrelated variables of an environment or a command line.
OTHERS = ("VERSION", "REVISION", "SOURCE_DATE_EPOCH", "PIP_CERT", "PIP_INDEX_URL", "OSS_REGION",
          "BUILDAH_ISOLATION", "E2E_KUBECONFIG", "OSS", "SETTINGS", "name", "FOO")  # fmt: skip
NAMES = sorted({*HELP, *SETTINGS, *OTHERS})
VALUE = """$(shell touch pwned) $5 $$ ${HOME} 100% "it's" `touch pwned` ; touch pwned & #| * x\\"""

STAND_IN = f"""#!{sys.executable} -SE
import json, os, sys
with open("calls", "a") as file:
    print(json.dumps([sys.argv, dict(os.environ)]), file=file)
"""
STAND_INS = (
    *(f".venv/bin/{name}" for name in ("python", "pip", "pytest", "ruff", "mypy", "yamllint")),
    *(".venv/bin/shellcheck", "images/build.sh", "tests/run.sh", "tests/cold.sh", "bin/git"),
)


def write_program(path: Path, text: str = STAND_IN) -> None:
    """Write a program that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout with stand-ins. At the end, check that nothing in a value was run."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    for name in STAND_INS:
        write_program(folder / name)
    (folder / "images/oss2.lock.txt").touch()
    for group in ("run", "oss", "sbom", "test", "peers", "bench"):
        (folder / ".venv" / group).touch()
    for made in ("workers", "manifests"):
        (folder / made).mkdir(parents=True)
    yield folder
    assert list(folder.rglob("pwned*")) == []


Call = tuple[list[str], dict[str, str]]


def make(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> tuple[int, str, list[Call]]:
    """Run make; return its exit code, its stderr, and the calls: arguments and environment."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    clean["PATH"] = f"{folder / 'bin'}:{clean['PATH']}"
    done = subprocess.run(
        ["make", *arguments], cwd=folder, env={**clean, **(environ or {})}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    calls: Any = []
    if (folder / "calls").exists():
        calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
        (folder / "calls").unlink()
    return done.returncode, done.stderr, calls


def ways(target: str, values: Mapping[str, str]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the ways to pass values to make: arguments and environment."""
    line = [f"{name}={value}" for name, value in values.items()]
    given = dict(values)
    # As a parent make passes on its command line.
    words = (re.sub(r"[\s\\]", r"\\\g<0>", word.replace("$", "$$")) for word in line)
    return {
        "command line": ([target, *line], {}),
        "environment": ([target], given),
        "environment first": (["-e", target], given),
        "in a recipe": (["-e", target], {**given, **{f"_{name}": "outer" for name in values}}),
        "MAKEFLAGS": ([target], {"MAKEFLAGS": f" -- {' '.join(words)}"}),
    }


def expected(target: str) -> list[list[str]]:
    """Return the arguments with which a target calls its programs for these values."""
    words = VALUE.split()
    flags = {
        "run": (
            *(
                "log-count",
                "work-dir",
                "input",
                "parts",
                "parts-per-pod",
                "keywords",
                "mode",
                "map",
            ),
            *("map-exit-ok", "map-settings", "reduce", "reduce-exit-ok"),
            *("output-dir", "output-suffix", "files-at-once", "tolerated-failures"),
        ),
        "aggregate": (
            *("aggregate", "work-dir", "input", "files", "fan-in", "process"),
            *("process-exit-ok", "reduce", "reduce-exit-ok"),
        ),
    }
    if target in flags:
        command, *names = flags[target]
        rest = [text for name in names for text in (f"--{name}", VALUE)]
        return [["workers/run.py", command, *rest]]
    if target == "release":
        rendered = ["manifests/release.py", "--", VALUE, *words]
        return [rendered, ["tests/manifests/bundle.py", "--update", "golden"]]
    if target == "bench":
        options = ["--install", f"--folder={VALUE}", "--size", "quick", "--"]
        return [["tests/bench/bench.py", *options, *words]]
    return []


@pytest.mark.parametrize("target", TARGETS)
def test_a_value_arrives(checkout: Path, target: str) -> None:
    """In every target, in every way, and under unknown names, without a warning."""
    for way, (arguments, environ) in ways(target, dict.fromkeys(NAMES, VALUE)).items():
        code, words, calls = make(checkout, "-n", *arguments, environ=environ)
        assert (code, words, calls) == (0, "", []), way

        saved = shutil.copytree(checkout / ".venv", checkout.parent / "venv", dirs_exist_ok=True)
        code, words, calls = make(checkout, *arguments, environ=environ)
        assert (code, words) == (0, ""), way
        shutil.copytree(saved, checkout / ".venv", dirs_exist_ok=True)

        assert calls or target in ("help", "clean", "test-oss")  # the last is skipped: no oss://
        for _, found in calls:
            assert {name: found[name] for name in NAMES} == dict.fromkeys(NAMES, VALUE), way
        wanted = expected(target)
        assert not wanted or [argv[1:] for argv, _ in calls] == wanted, way


def test_a_bucket_arrives(checkout: Path) -> None:
    """The target test-oss passes only the name of a bucket. run needs the packages for a bucket,
    with the hashes of the images."""
    install = "-m pip install --quiet --require-hashes --no-deps --use-pep517 --requirement"
    work_dir = f"oss://{VALUE}"
    for arguments, environ in ways("test-oss", {"WORK_DIR": work_dir}).values():
        code, words, calls = make(checkout, *arguments, environ=environ)
        assert (code, words) == (0, "")
        assert [found["TEST_WORK_DIR"] for _, found in calls] == [work_dir]
    (checkout / ".venv/oss").unlink()
    for arguments, environ in ways("run", {"WORK_DIR": work_dir}).values():
        code, _, calls = make(checkout, *arguments, environ=environ)
        assert (code, [argv[1:] for argv, _ in calls][:-1]) == (
            0,
            [[*install.split(), "images/oss2.lock.txt"]],
        )
        (checkout / ".venv/oss").unlink()


def test_the_defaults(checkout: Path) -> None:
    """The values for settings that are not set or empty."""
    options = "--work-dir|{}|--input||--parts|5|--parts-per-pod|1"
    options += "|--keywords|INFO,WARN,ERROR,DEBUG|--mode|copy"
    options += "|--map||--map-exit-ok||--map-settings||--reduce||--reduce-exit-ok|"
    options += "|--output-dir||--output-suffix||--files-at-once||--tolerated-failures|"
    for arguments in (["run"], ["run", "INPUT=", "WORK_DIR="]):
        _, words, (call,) = make(checkout, *arguments)
        assert (words, "|".join(call[0][3:])) == ("", options.format(""))
    _, words, (call,) = make(checkout, "bench")
    assert (words, call[0][2:]) == ("", ["--install", "--folder=/dev/shm", "--"])


def test_python_is_a_path(checkout: Path) -> None:
    """A PYTHON path with any characters makes the venv."""
    python = checkout / VALUE.replace("/", "") / "python"
    making = 'import shutil\nif sys.argv[1:3] == ["-m", "venv"]: '
    for arguments, environ in ways("run", {"PYTHON": str(python)}).values():
        shutil.rmtree(checkout / ".venv")
        write_program(python, f"{STAND_IN}{making}shutil.copytree('bin', '.venv/bin')\n")
        for name in ("pip", "python"):
            write_program(checkout / "bin" / name)
        code, words, calls = make(checkout, *arguments, environ=environ)
        assert (code, words) == (0, "")
        venv, _, group, run = (argv for argv, _ in calls)
        assert venv == [str(python), "-m", "venv", ".venv"]
        assert group[1:] == ["-m", "pip", "install", "--quiet", "--group", "run"]
        assert run[:3] == [".venv/bin/python", "workers/run.py", "log-count"]

    shutil.rmtree(checkout / ".venv")
    for arguments, environ in ways("run", {"PYTHON": VALUE}).values():
        code, words, calls = make(checkout, *arguments, environ=environ)
        assert (code != 0, calls) == (True, [])
        assert "command not found" in words


def test_every_setting_is_in_the_list() -> None:
    """The settings in `make help`: recipes read them as _NAME, or the script of the images does."""
    script = (ROOT / "images/build.sh").read_text()
    read = {name for name in HELP if re.search(rf"\$\{{?{name}\b", script)}

    assert not HELP - {*SETTINGS} - read
    assert not set(re.findall(r"\$\$\{?_([A-Z_]+)", MAKEFILE)) - {"NAME", *SETTINGS}


@pytest.mark.parametrize("way", ["command line", "environment"])
def test_a_run(tmp_path: Path, way: str) -> None:
    """A log with special characters in its name and keywords is counted in both modes."""
    log = tmp_path / VALUE.replace("/", "")
    keywords = ["$(shell touch pwned)", "INFO", "it's", "$5", '"', "100%", "$$", "a `", "\\"]
    log.write_bytes(b"".join(f"{word} INFO\n".encode() * 3 for word in keywords))
    for mode in ("copy", "range"):
        values = {"INPUT": str(log), "KEYWORDS": ",".join(keywords), "MODE": mode}
        arguments, environ = ways("run", values)[way]
        done = subprocess.run(
            ["make", *arguments], cwd=ROOT, env={**os.environ, **environ}, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        result = Path(done.stdout.partition("result: ")[2].partition("\nreport: ")[0])
        assert json.loads(result.read_bytes()) == model([log.read_bytes()], keywords)
    assert not (ROOT / "pwned").exists()
