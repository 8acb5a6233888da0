"""The benchmark runs, measures the whole tree of processes, and ends if totals differ."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from measure import MIB, Job, environ, in_turn, measure
from report import Section
from scale import ASSUMED, GB, TB, bound, costs, simulate

HERE = Path(__file__).parent
LOCAL = ("log-count", "split", "count", "merge", "start", "oss", "scale")


def test_it_runs(tmp_path: Path) -> None:
    """Every local case runs on small inputs. The peers find the same totals. The page names the
    peers that are not installed. The name of the folder is neither expanded nor executed."""
    made = HERE.parents[1] / "build/bench"
    shutil.rmtree(made, ignore_errors=True)
    folder = tmp_path / """a $(shell touch pwned) $(touch pwned) `touch pwned` it's "x" 9%[y]* &"""
    folder.mkdir()
    ended = subprocess.run(
        ["make", "bench", "QUICK=1", f"CASES={' '.join(LOCAL)}", f"FOLDER={folder}"],
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=600,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    page = (made / "BENCHMARKS.md").read_text()
    assert page.count("| PySpark (left out: not with QUICK=1) |") == 2
    for peer in ("cp (a copy)", "cat (a read)", "grep -o, sort, uniq -c", "DuckDB", "Polars"):
        assert page.count(f"\n| {peer} |") == 2
    for peer, tool in (
        ("ripgrep, one pass per keyword", "rg"),
        ("parallel --pipepart, grep", "parallel"),
    ):
        assert f"\n| {peer} {'|' if shutil.which(tool) else '(left out'}" in page
    for case in LOCAL:
        assert f"(results/{case}.svg)" in page
        ElementTree.parse(made / "results" / f"{case}.svg")  # noqa: S314 - our own
    assert (list(folder.iterdir()), list(tmp_path.iterdir())) == ([], [folder])
    assert not (HERE.parents[1] / "pwned").exists()


@pytest.mark.parametrize(
    ("case", "settings", "reason"),
    [
        ("clock", {}, "there is no cluster"),
        ("pull", {"E2E_KUBECONFIG": "another/kubeconfig"}, "needs the test cluster"),
    ],
)
def test_a_case_is_left_out(
    case: str, settings: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case that this machine cannot run touches nothing. The output says what is missing."""
    monkeypatch.delenv("E2E_KUBECONFIG", raising=False)
    ended = subprocess.run(
        [sys.executable, str(HERE / "bench.py"), case],
        env=os.environ | settings, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (ended.returncode, ended.stdout) == (0, "")
    assert reason in ended.stderr


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends all processes and removes the inputs."""
    script = str(HERE / "bench.py")
    command = [sys.executable, script, "oss", "--size", "quick", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr
        while "1 at once" not in bench.stderr.readline():
            assert bench.poll() is None
        bench.terminate()
        bench.communicate(timeout=60)  # a process that is left would hold the pipe open
    assert bench.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_in_turn(tmp_path: Path) -> None:
    """The jobs take turns, and the files of a run are removed before the next run."""
    log, left = tmp_path / "log", tmp_path / "left"
    jobs = [
        Job(name, [[(("sh", "-c", f"mkdir {left} && echo {name} >> {log}"), environ(tmp_path))]],
            clean=[left])
        for name in "AB"
    ]  # fmt: skip
    runs = in_turn(jobs, 3, tmp_path)
    assert log.read_text().split() == ["A", "B"] * 3
    assert [len(found) for found in runs.values()] == [3, 3]


def test_a_section() -> None:
    """A table has medians with their range. A target is a minimum or a maximum."""
    section = Section("x", "X", "")
    runs = [{"wall": wall, "cpu": 2.0, "peak": 1024.0, "read": 0.0, "written": 0.0}
            for wall in (9.0, 1.0, 2.0)]  # fmt: skip
    section.compare({"job": runs}, "ratio", {"job": "1"})
    ((_, _, (row,)),) = section.tables
    assert row[:4] == ("job", "2 (1-9)", "2", "1 KiB")
    for sign, found in (("<", 1), ("<", 3), (">", 1), (">", 3)):
        section.target("what", sign, 2, found)
    assert [target[-1] for target in section.targets] == [True, False, False, True]


def shell(script: str, folder: Path, totals: int | None = None) -> Job:
    """A job of one shell script."""
    found = None if totals is None else lambda output: {"x": output.count("x")}
    return Job(script, [[(("sh", "-c", script), environ(folder))]], found)


def test_other_totals(tmp_path: Path) -> None:
    """A peer with other totals is an error, not a row."""
    in_turn([shell("echo xx", tmp_path, 2)], 2, tmp_path, {"x": 2})
    with pytest.raises(SystemExit, match=r"echo x found \{'x': 1\}, and there are \{'x': 2\}"):
        in_turn([shell("echo x", tmp_path, 2)], 1, tmp_path, {"x": 2})


def test_a_failure(tmp_path: Path) -> None:
    """The error has the output of the failed job."""
    with pytest.raises(SystemExit, match=r"(?s)echo no room.*exit 3.*no room"):
        measure(shell("echo no room >&2; exit 3", tmp_path), tmp_path)


def test_figures_are_of_the_whole_tree(tmp_path: Path) -> None:
    """Figures contain the bytes, memory and CPU of grandchildren."""
    (tmp_path / "input").write_bytes(bytes(8 * MIB))
    read, _ = measure(
        shell(f"(cat {tmp_path}/input; true) | cat >/dev/null; true", tmp_path), tmp_path
    )
    assert 16 * MIB <= read["read"] < 17 * MIB
    assert 8 * MIB <= read["written"] < 17 * MIB

    hold = f"{sys.executable} -c 'import time; b = b\"x\" * {64 * MIB}; time.sleep(1)'; true"
    held, _ = measure(shell(f"({hold}) & ({hold}); wait", tmp_path), tmp_path)
    assert 64 * MIB < held["peak"] < 120 * MIB
    assert held["wall"] >= 1

    work = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.5: pass'; true"
    worked, _ = measure(shell(work, tmp_path), tmp_path)
    assert 0.5 <= worked["cpu"] < 2


@pytest.mark.parametrize("pods", [10, 100, 1000])
@pytest.mark.parametrize("waves", [1, 7])
def test_the_simulation_keeps_to_the_bounds(pods: int, waves: int) -> None:
    """The simulation is not faster than any bound. If no pod is lost, it is not slower than the sum
    of the bounds."""
    known = {name: value for name, value, *_ in ASSUMED} | {"reclaimed": 0}
    seconds, _ = simulate(TB, pods * waves, pods, known)
    least, _ = bound(TB, pods * waves, pods, known)
    alone = waves * (1.5 * known["start"] + TB / (pods * waves) / known["network"])
    together = alone + pods * waves / known["creations"] + 1.01 * TB / (12.5 * GB)

    assert 0.75 * least <= seconds <= together  # a start takes half to one and a half of its time


def test_costs_of_more_parts() -> None:
    """More parts cost more only by the start of each pod and by the plan that each pod reads."""
    known = {name: value for name, value, *_ in ASSUMED}
    free = costs(
        360 * GB, known | {"network": 0.1 * GB, "start": 0, "line": 0, "vcpu": 1, "memory": 1}
    )
    assert {row[2:6] for row in free} == {("1.00", "0%", "4.00", "0.40 to 2.80")}
    prices = [float(row[4]) for row in costs(TB, known)]
    assert prices == sorted(set(prices))
