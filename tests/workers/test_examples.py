"""The examples in manifests/runs, with the commands in these files, in the local run.
tests/e2e/test_programs.py runs them on the cluster."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples import (
    BROKEN,
    DAMAGED,
    RUNS,
    SEEDS,
    compressed_logs,
    is_thumbnail,
    log_lines,
    model_of_filter,
    model_of_scenarios,
    model_of_simulations,
    photos,
    pixels,
    scenarios,
    tiles,
)

ROOT = Path(__file__).resolve().parents[2]
# The options of the local run for the parameters of the templates.
OPTIONS = {
    "numParts": "parts",
    "partsPerPod": "parts-per-pod",
    "mapCommand": "map",
    "mapSettings": "map-settings",
    "fanIn": "fan-in",
    "files": "files",
    "processCommand": "process",
    "reduceCommand": "reduce",
    "splitMode": "mode",
    "outputDir": "output-dir",
    "outputSuffix": "output-suffix",
    "filesAtOnce": "files-at-once",
    "toleratedFailures": "tolerated-failures",
}
# The tests set another input; the local run sets the other parameters itself.
LEFT_OUT = {"input", "output", "fileSuffix", "onlyMissing"}


def run_here(example: str, source: Path | str, folder: Path, **more: str) -> tuple[int, str]:
    """Run an example on this machine; return its exit code and output."""
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
        cwd=RUNS,  # the folder with the program of simulations
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


def result(folder: Path, name: str) -> bytes:
    """Return the only result of a run."""
    (path,) = folder.glob(f"*/*/{name}")
    return path.read_bytes()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder with these files."""
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of outputs.jsonl, by the base names of their files."""
    lines = map(json.loads, result(folder, "outputs.jsonl").splitlines())
    return {os.path.basename(line["name"]): line for line in lines}


def need_convert() -> str:
    """Skip a test without ImageMagick."""
    if not (found := shutil.which("convert")):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no ImageMagick")
    return found


def test_filter(tmp_path: Path) -> None:
    """Lines with ERROR become JSON Lines, in the order of the log."""
    (tmp_path / "log").write_bytes(log := b"".join(log_lines()))

    code, words = run_here("filter", tmp_path / "log", tmp_path / "runs")

    assert code == 0, words
    assert result(tmp_path / "runs", "result.out") == model_of_filter(log)


def test_sort(tmp_path: Path) -> None:
    """The lines of 64 files, sorted in groups and merged, are the sorted lines of all files."""
    lines = log_lines()
    random.Random(64).shuffle(lines)
    (tmp_path / "files").mkdir()
    for number in range(64):
        (tmp_path / f"files/{number}.txt").write_bytes(b"".join(lines[number::64]))

    code, words = run_here("sort", tmp_path / "files", tmp_path / "runs")

    assert code == 0, words
    assert result(tmp_path / "runs", "aggregation-demo/result.txt") == b"".join(sorted(lines))


@pytest.mark.parametrize("fan_in", ["8", "4"])
def test_pictures(tmp_path: Path, fan_in: str) -> None:
    """64 tiles make one picture, pixel by pixel; another fan-in makes another picture."""
    need_convert()
    (tmp_path / "files").mkdir()
    for number, tile in enumerate(tiles()):
        (tmp_path / f"files/{number}.png").write_bytes(tile)

    code, words = run_here("pictures", tmp_path / "files", tmp_path / "runs", fanIn=fan_in)

    assert code == 0, words
    made = pixels(result(tmp_path / "runs", "aggregation-demo/result.txt"))
    shown = pixels((RUNS / "pictures.png").read_bytes())
    assert (made == shown) == (fan_in == "8")


def test_simulations(tmp_path: Path) -> None:
    """Each of 1,000 seeds is in the result once, in order, although the program fails for ten of
    them."""
    (tmp_path / "seeds").write_bytes(SEEDS)
    attempts = []

    for _ in range(11):
        code, words = run_here("simulations", tmp_path / "seeds", tmp_path / "runs")
        attempts.append(words)
        if not code:
            break

    assert len(attempts) > 1
    assert "no luck with seed" in attempts[0]
    assert code == 0, attempts[-1]
    assert result(tmp_path / "runs", "result.out") == model_of_simulations()


def test_compressed_logs(tmp_path: Path) -> None:
    """The counts of 40 compressed logs are equal to the counts of zgrep."""
    logs = write(tmp_path / "logs", compressed_logs())

    code, words = run_here("compressed-logs", logs / "*.gz", tmp_path / "runs")

    assert code == 0, words
    counts = json.loads(result(tmp_path / "runs", "result.json"))
    assert set(counts) == {"INFO", "WARN", "ERROR", "DEBUG"}
    for word, count in counts.items():
        files = " ".join(shlex.quote(str(path)) for path in logs.iterdir())
        command = f"zgrep -h -o {word} {files} | wc -l"
        assert count == int(subprocess.check_output(command, shell=True))  # noqa: S602 - a pipe
    assert count > 0


def test_thumbnails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three damaged photos are tolerated and named. After their repair, the program runs only three
    times, and all 200 thumbnails exist."""
    calls = tmp_path / "calls"
    counted = write(tmp_path / "bin", {"convert": b""}) / "convert"
    counted.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nexec {need_convert()} "$@"\n')
    counted.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    source = write(tmp_path / "photos", photos() | DAMAGED)
    thumbnails = tmp_path / "runs"

    code, words = run_here("thumbnails", source / "*.png", thumbnails)

    assert code == 0, words
    assert f"200 files, {len(DAMAGED)} failed" in words
    found = outputs(thumbnails)
    assert {name for name, line in found.items() if line["exit"] != 0} == set(DAMAGED)
    assert all("image" in found[name]["said"] for name in DAMAGED)
    assert len(calls.read_text().split()) == 197 + 3 * len(DAMAGED)

    calls.unlink()
    write(source, {name: photos()[name] for name in DAMAGED})
    code, words = run_here("thumbnails", source / "*.png", thumbnails)

    assert code == 0, words
    assert sorted(calls.read_text().split()) == [str(source / name) for name in sorted(DAMAGED)]
    found = outputs(thumbnails)
    assert list(found) == list(photos())
    for number in (0, 17, 99, 180, 199):
        assert is_thumbnail(number, Path("/", found[f"{number:03}.png"]["output"]).read_bytes())


def test_scenarios(tmp_path: Path) -> None:
    """Passed and failed scenarios are added up. Invalid scenarios are named."""
    source = write(tmp_path / "scenarios", scenarios())

    code, words = run_here("scenarios", f"{source}/", tmp_path / "runs")

    assert code == 0, words
    assert json.loads(result(tmp_path / "runs", "result.out")) == model_of_scenarios()
    failed = {name: line for name, line in outputs(tmp_path / "runs").items() if line["exit"] != 0}
    assert set(failed) == set(BROKEN)
    for line in failed.values():
        assert (line["exit"], line["tries"]) == (2, 1)
        assert "stdin must be a scenario, got" in line["said"]
