"""The results of the cases, as BENCHMARKS.md and one SVG picture per case.

Each section is also a JSON file: a run of some cases does not change the other sections, and
`scale` reads its figures there.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from statistics import median

from measure import Runs, middle

RESULTS = "results"  # the folder next to BENCHMARKS.md

HEAD = """\
# Benchmarks

The results of `make bench`, which writes this page. Figures are medians. Numbers in brackets are
the minimum and the maximum. The jobs of a table run in turn (A B C A B C ...), so their ratios are
right on a busy machine, too. Compare machines by the ratios of the same sizes and the same number
of cores.

Each job is a tree of processes. Its files are in memory, unless `FOLDER=` names another place. CPU
seconds, and the peak of the largest process, are the kernel's accounts of the tree. A peak under
12 MiB is the peak of the process that starts the others. Bytes read and written are bytes of system
calls on files, without files that are mapped into memory and without sockets.

```sh
make bench                          # all cases except cluster-2000 and simulated, which take hours
make bench CASES="log-count split"  # some: {cases}
make bench QUICK=1                  # small inputs, two repeats: a try, not a measurement
```
"""


@dataclass
class Section:
    """One case: its tables, the bars of its picture, its targets, and figures for `scale`."""

    case: str
    title: str
    text: str
    unit: str = "seconds"  # of the bars
    made: str = ""
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=list)
    bars: list[tuple[str, list[float]]] = field(default_factory=list)
    targets: list[tuple[str, str, str, bool]] = field(default_factory=list)  # name, limit, found
    figures: dict[str, float] = field(default_factory=dict)

    def compare(self, runs: Runs, head: str, more: Mapping[str, str], title: str = "") -> None:
        """Add a table of the figures of jobs, with a last column `head`. The label of a job that
        was left out has the reason."""
        heads = ("", "seconds", "CPU seconds", "peak of one process", "read")
        rows = [
            (
                label,
                spread([run["wall"] for run in found]),
                f"{middle(found, 'cpu'):.3g}",
                *(size(middle(found, name)) for name in ("peak", "read", "written")),
                more[label],
            )
            if found
            else (label, *[""] * 6)
            for label, found in runs.items()
        ]
        self.tables.append((title, (*heads, "written", head), rows))

    def target(self, name: str, sign: str, limit: float, found: float, unit: str = "") -> None:
        """Add a target of the project, with the sign < or >, and whether it is reached."""
        reached = found <= limit if sign == "<" else found >= limit
        words = "at most" if sign == "<" else "at least"
        self.targets.append((name, f"{words} {limit:g}{unit}", f"{found:.2f}{unit}", reached))


def spread(values: Sequence[float]) -> str:
    """A median with the minimum and the maximum."""
    low, middle, high = (f"{find(values):.3g}" for find in (min, median, max))
    return middle + ("" if low == high else f" ({low}-{high})")


def size(count: float) -> str:
    """Bytes, in the largest unit that fits."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1000 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.3g} {units[0]}"


def machine() -> str:
    """The machine and the date of a measurement."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}, "
        f"{memory / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()} ({platform.python_compiler()}), "
        f"{time.strftime('%Y-%m-%d', time.gmtime())}"
    )


def picture(title: str, unit: str, bars: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draw a bar per median, with a line from the least to the most value. If the values differ by
    more than a hundred times, the scale is logarithmic, and the title states this."""
    least = min(min(values) for _, values in bars)
    most = max(max(values) for _, values in bars)
    log = least > 0 and most / least > 100
    low = 10 ** math.floor(math.log10(least)) if log else 0
    left = 7.5 * max(len(label) for label, _ in bars) + 20

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(most / low) if log else value / (most or 1)
        return left + 360 * share

    height = 24 * len(bars) + 50
    head = f"{title}, {unit}{', logarithmic' if log else ''}"
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 440:.0f}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22" font-size="15">{escape(head)}</text>',
    ]
    for number, (label, values) in enumerate(bars):
        y, middle = 40 + 24 * number, median(values)
        drawn += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{left}" y="{y}" width="{x(middle) - left:.1f}" height="16" fill="#4a7ab5"/>',
            f'<path d="M{x(min(values)):.1f} {y + 8}H{x(max(values)):.1f}" stroke="black"/>',
            f'<text x="{x(max(values)) + 6:.1f}" y="{y + 13}">{middle:.3g}</text>',
        ]
    return "\n".join([*drawn, "</svg>", ""])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rules = ["---", *("---:" if cell[:1].isdigit() else "---" for cell in rows[0][1:])]
    lines = [head, rules, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(section: Section, folder: Path) -> None:
    """Write a section and its picture to files."""
    folder = folder / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    section.made = machine()
    path = folder / f"{section.case}.json"
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(asdict(section), indent=1) + "\n")
    whole.replace(path)
    if section.bars:
        drawn = picture(section.title, section.unit, section.bars)
        (folder / f"{section.case}.svg").write_text(drawn)


def kept(folder: Path, cases: Sequence[str]) -> dict[str, Section]:
    """The sections with a file, in the order of the cases."""
    paths = {case: folder / RESULTS / f"{case}.json" for case in cases}
    return {
        case: Section(**json.loads(path.read_text()))
        for case, path in paths.items()
        if path.exists()
    }


def write(folder: Path, cases: Sequence[str]) -> Path:
    """Write BENCHMARKS.md from the sections with a file."""
    sections = kept(folder, cases)
    text = [HEAD.format(cases=" ".join(cases))]
    targets = [target for section in sections.values() for target in section.targets]
    if targets:
        verdicts = [
            (what, limit, found, "yes" if reached else "**no**")
            for what, limit, found, reached in targets
        ]
        text.append(f"## Targets\n\n{table(('', 'target', 'measured', 'reached'), verdicts)}\n")
    for section in sections.values():
        text.append(f"## {section.title}\n\n{section.text}\n\nMeasured on {section.made}.\n")
        for title, head, rows in section.tables:
            text.append(f"{title}\n\n{table(head, rows)}\n" if title else table(head, rows) + "\n")
        if section.bars:
            text.append(f"![{section.title}, {section.unit}]({RESULTS}/{section.case}.svg)\n")
    if left := [case for case in cases if case not in sections]:
        text.append(f"Not measured: {', '.join(left)}.\n")
    path = folder / "BENCHMARKS.md"
    path.write_text("\n".join(text))
    print(path, file=sys.stderr)
    return path
