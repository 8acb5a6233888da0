"""The examples of manifests/runs, with the very commands of these files, by the local run.
tests/e2e/test_programs.py runs them on the cluster."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from examples import RUNS, SEEDS, log_lines, model_of_filter, model_of_simulations, pixels, tiles

ROOT = Path(__file__).resolve().parents[2]
# The options of the local run by the parameters of the templates.
OPTIONS = {
    "numParts": "parts",
    "partsPerPod": "parts-per-pod",
    "mapCommand": "map",
    "mapSettings": "map-settings",
    "fanIn": "fan-in",
    "files": "files",
    "processCommand": "process",
    "reduceCommand": "reduce",
}
LEFT_OUT = {"input", "output", "fileSuffix"}  # the first is another; the local run has its own


def run_here(example: str, source: Path, folder: Path, **more: str) -> tuple[int, str]:
    """Run an example on this machine; the exit code and what it said."""
    run = yaml.safe_load((RUNS / f"{example}.yaml").read_text())["spec"]
    given = {each["name"]: each["value"] for each in run["arguments"]["parameters"]} | more
    is_tree = run["workflowTemplateRef"]["name"] == "aggregate"
    given = {name: value for name, value in given.items() if name not in LEFT_OUT}
    options = [word for name in given for word in (f"--{OPTIONS[name]}", given[name])]
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "workers/run.py", "aggregate" if is_tree else "log-count"),
            *("--input", f"{source}/" if is_tree else source, "--folder", folder, *options),
        ],
        cwd=RUNS,  # where the program of simulations is
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


def result(folder: Path, name: str) -> bytes:
    """The one result of a run."""
    (path,) = folder.glob(f"*/*/{name}")
    return path.read_bytes()


def test_filter(tmp_path: Path) -> None:
    """Lines with ERROR become JSON Lines, in the order of the log."""
    (tmp_path / "log").write_bytes(log := b"".join(log_lines()))

    code, said = run_here("filter", tmp_path / "log", tmp_path / "runs")

    assert code == 0, said
    assert result(tmp_path / "runs", "result.out") == model_of_filter(log)


def test_sort(tmp_path: Path) -> None:
    """The lines of 64 files, sorted in groups and merged, are those of all files, sorted."""
    lines = log_lines()
    random.Random(64).shuffle(lines)
    (tmp_path / "files").mkdir()
    for number in range(64):
        (tmp_path / f"files/{number}.txt").write_bytes(b"".join(lines[number::64]))

    code, said = run_here("sort", tmp_path / "files", tmp_path / "runs")

    assert code == 0, said
    assert result(tmp_path / "runs", "aggregation-demo/result.txt") == b"".join(sorted(lines))


@pytest.mark.parametrize("fan_in", ["8", "4"])
def test_pictures(tmp_path: Path, fan_in: str) -> None:
    """64 tiles make one picture, pixel by pixel; with a smaller fan-in it is another one."""
    if not shutil.which("convert"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no ImageMagick")
    (tmp_path / "files").mkdir()
    for number, tile in enumerate(tiles()):
        (tmp_path / f"files/{number}.png").write_bytes(tile)

    code, said = run_here("pictures", tmp_path / "files", tmp_path / "runs", fanIn=fan_in)

    assert code == 0, said
    made = pixels(result(tmp_path / "runs", "aggregation-demo/result.txt"))
    shown = pixels((RUNS / "pictures.png").read_bytes())
    assert (made == shown) == (fan_in == "8")


def test_simulations(tmp_path: Path) -> None:
    """Each of 1,000 seeds is there once, in order, although the program fails for ten of them."""
    (tmp_path / "seeds").write_bytes(SEEDS)
    said = []

    for _ in range(11):
        code, words = run_here("simulations", tmp_path / "seeds", tmp_path / "runs")
        said.append(words)
        if not code:
            break

    assert len(said) > 1
    assert "no luck with seed" in said[0]
    assert code == 0, said[-1]
    assert result(tmp_path / "runs", "result.out") == model_of_simulations()
