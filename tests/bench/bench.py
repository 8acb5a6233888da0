"""Measure both pipelines, compare them with other tools, and write BENCHMARKS.md."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workers"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "images"))

import at_scale
import cases
import clock
import on_cluster
import on_oss
import pull
import report
import scale
from measure import HERE, ROOT

SIZES = {"full": cases.FULL, "quick": cases.QUICK}
LOCAL: dict[str, Callable[[cases.Sizes, Path], report.Section]] = {
    "log-count": cases.log_count,
    "split": cases.split,
    "count": cases.count,
    "merge": cases.merge,
    "start": cases.start,
    "oss": on_oss.oss,
}
CLUSTER = {
    "cluster": on_cluster.small,
    "cluster-large": on_cluster.large,
    "clock": clock.clock,
    "pull": pull.pull,
}
# These take hours on a machine that does nothing else, so they run only by name.
LONG = {"cluster-2000": at_scale.real, "simulated": at_scale.simulated}
ON_CLUSTER = CLUSTER | LONG
CASES = [*LOCAL, *ON_CLUSTER, "scale"]
TOOLS = {"rg": "ripgrep", "parallel": "parallel"}


def install(without: Sequence[str]) -> None:
    """Install the peers that are Debian packages, where this is possible. The tables name each
    peer that is missing."""
    wanted = {**TOOLS, "java": "default-jre-headless"} if "pyspark" not in without else TOOLS
    packages = [package for tool, package in wanted.items() if not shutil.which(tool)]
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        for command in (["update"], ["install", "--no-install-recommends", *packages]):
            ended = subprocess.run(
                ["apt-get", "-qq", "-o", "Acquire::Retries=3", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                timeout=900,
            )
            if ended.returncode:
                print(
                    f"apt-get {command[0]} failed: the benchmark goes on without the missing peers",
                    file=sys.stderr,
                )
                return


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="for the inputs")  # noqa: S108
    parser.add_argument("--install", action="store_true", help="install the Debian packages")
    chosen = parser.parse_args(argv)
    if unknown := [case for case in chosen.cases if case not in CASES]:
        parser.error(
            f"CASE must be one of {', '.join(CASES)}, got {unknown[0]!r}: correct this name"
        )
    sizes = SIZES[chosen.size]
    everything = [*LOCAL, *(CLUSTER if chosen.size == "full" else ()), "scale"]
    wanted = chosen.cases or everything
    need = 4 * sizes.log if set(wanted) - {"start", "scale", *ON_CLUSTER} else 0
    if not chosen.folder.is_dir() or shutil.disk_usage(chosen.folder).free < need:
        parser.error(
            f"--folder must be a folder with {report.size(need)} free, got {chosen.folder}: set "
            "another folder (make bench FOLDER=...)"
        )
    output = HERE if chosen.size == "full" else ROOT / "build/bench"
    for number in (signal.SIGTERM, signal.SIGHUP):  # end all processes, like Ctrl-C
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if chosen.install:
        install(sizes.without)
    for case in wanted:
        print(f"== {case}", file=sys.stderr)
        if case in ON_CLUSTER and "E2E_KUBECONFIG" not in os.environ:
            print(on_cluster.NO_CLUSTER, file=sys.stderr)
            continue
        if case == "pull" and not pull.is_possible():
            print(pull.LEFT_OUT, file=sys.stderr)
            continue
        if case == "scale":
            section = scale.scale(report.kept(output, CASES))
        elif case in ON_CLUSTER:
            section = ON_CLUSTER[case](sizes)
        else:
            with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="fanfold-bench-") as made:
                section = LOCAL[case](sizes, Path(made))
        report.keep(section, output)
        report.write(output, CASES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
