"""The benchmark itself: it runs, it measures what it says, and it ends where totals differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from measure import MIB, Job, environ, in_turn, measure
from scale import ASSUMED, GB, TB, bound, simulate

HERE = Path(__file__).parent
LOCAL = ("log-count", "split", "count", "merge", "start", "oss", "scale")


def test_it_runs(tmp_path: Path) -> None:
    """Every local case on tiny inputs: peers that are not here are left out and named, those that
    are find the same totals, or it would not end well."""
    ended = subprocess.run(
        [
            sys.executable, HERE / "bench.py", *LOCAL, "--size", "tiny", "--without", "pyspark",
            "--folder", tmp_path, "--output", tmp_path,
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert page.count("| PySpark (left out: --without pyspark) |") == 2
    for peer in ("cp", "cat", "grep", "ripgrep", "split", "parallel", "DuckDB", "Polars"):
        assert f"\n| {peer}" in page
    for case in LOCAL:
        assert f"(results/{case}.svg)" in page
        ElementTree.parse(tmp_path / "results" / f"{case}.svg")  # noqa: S314 - our own
    assert {path.name for path in tmp_path.iterdir()} == {"BENCHMARKS.md", "results"}


def shell(script: str, folder: Path, totals: int | None = None) -> Job:
    """A job of one shell script."""
    found = None if totals is None else lambda output: {"x": output.count("x")}
    return Job(script, [[(("sh", "-c", script), environ(folder))]], found)


def test_other_totals_end_it(tmp_path: Path) -> None:
    """A peer that finds something else is an error, not a row."""
    in_turn([shell("echo xx", tmp_path, 2)], 2, tmp_path, {"x": 2})
    with pytest.raises(SystemExit, match=r"echo x found \{'x': 1\}, and there are \{'x': 2\}"):
        in_turn([shell("echo x", tmp_path, 2)], 1, tmp_path, {"x": 2})


def test_a_failure_ends_it(tmp_path: Path) -> None:
    """With the words of what failed."""
    with pytest.raises(SystemExit, match=r"(?s)echo alas.*exit 3.*alas"):
        measure(shell("echo alas >&2; exit 3", tmp_path), tmp_path)


def test_figures_are_of_the_whole_tree(tmp_path: Path) -> None:
    """Bytes, memory and CPU of grandchildren count, and two at once add up."""
    (tmp_path / "input").write_bytes(bytes(8 * MIB))
    read, _ = measure(
        shell(f"(cat {tmp_path}/input; true) | cat >/dev/null; true", tmp_path), tmp_path
    )
    assert 16 * MIB <= read["read"] < 17 * MIB
    assert 8 * MIB <= read["written"] < 17 * MIB

    hold = f"{sys.executable} -c 'import time; b = b\"x\" * {64 * MIB}; time.sleep(1)'; true"
    held, _ = measure(shell(f"({hold}) & ({hold}); wait", tmp_path), tmp_path)
    assert 64 * MIB < held["peak"] < 120 * MIB < held["sum"] < 240 * MIB
    assert held["wall"] >= 1

    work = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.5: pass'; true"
    worked, _ = measure(shell(work, tmp_path), tmp_path)
    assert 0.5 <= worked["cpu"] < 2


@pytest.mark.parametrize("pods", [10, 100, 1000])
@pytest.mark.parametrize("waves", [1, 7])
def test_the_simulation_keeps_to_the_bounds(pods: int, waves: int) -> None:
    """No faster than any bound; where no pod dies, not slower than all of them together."""
    known = {name: value for name, value, *_ in ASSUMED} | {"reclaimed": 0}
    seconds, _ = simulate(TB, pods * waves, pods, known)
    least, _ = bound(TB, pods * waves, pods, known)
    alone = waves * (1.5 * known["start"] + TB / (pods * waves) / known["network"])
    together = alone + pods * waves / known["creations"] + 1.01 * TB / (12.5 * GB)

    assert 0.75 * least <= seconds <= together  # a start takes half to one and a half of its time
