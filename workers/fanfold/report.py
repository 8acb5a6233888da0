"""Report: the page that shows a run to a person: is the result right, what did the run cost, what
was slow?

The page is one HTML file without scripts that loads nothing. It stays below 1 MiB for any number of
parts: its lists are bounded.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect
from collections import Counter, namedtuple
from collections.abc import Mapping

from fanfold.page import HEAD, LETTERS, STYLE, bars_of, chart, decimal, histogram, shown, table
from fanfold.plan import FORMAT
from fanfold.records import from_utc, utc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Bar(NamedTuple):
        """A step that ran in a pod, from its record."""

        seconds: float
        name: str
        start: float  # seconds since 1970
        size: int  # bytes that the step read or made
        pod: str
        node: str
        attempt: int  # from 1, or 0 if unknown

else:  # as in plan.py
    Bar = namedtuple("Bar", "seconds name start size pod node attempt")

BARS = 500  # in a timeline; with more parts, it shows how many ran at each moment
SLOWEST, FAILED = 50, 100  # rows of a table
MOMENTS, SHADES = 200, 5
NONE: Mapping[str, int | float] = {}


class Report:
    """The data of a page, collected while the last step reads the records."""

    def __init__(self, run_id: str, noun: str = "part") -> None:
        """`noun` is what a step makes."""
        self.run_id, self.noun = run_id, noun
        self.others, self.untold = 0, 0  # steps of other runs, and steps without times
        self.starts, self.ends, self.sizes = array("d"), array("d"), array("Q")
        self.bars: list[Bar] = []  # the first BARS
        self.slowest: list[Bar] = []  # a heap
        self.attempts: Counter[int] = Counter()
        self.failed: list[tuple[str, str, str]] = []  # files: name, exit code, error
        self.levels: dict[int, list[tuple[float, float, Bar]]] = {}  # the place of each in the tree

    def add(self, name: str, size: int, fields: Mapping[str, object]) -> Bar | None:
        """Add a step from its record, `fields`. Steps of other runs are only counted."""
        if fields.get("run") != self.run_id:
            self.others += 1
            return None
        try:
            start, end = (from_utc(str(fields[moment])) for moment in ("start", "end"))
            attempt = int(str(fields.get("attempt", 0)))
            self.sizes.append(size)
        except (KeyError, ValueError, OverflowError):
            self.untold += 1
            return None
        pod, node = (str(fields.get(where, "")) for where in ("pod", "node"))
        bar = Bar(end - start, name, start, size, pod, node, attempt)
        self.starts.append(start)
        self.ends.append(end)
        self.attempts[attempt] += 1
        if len(self.bars) < BARS:
            self.bars.append(bar)
        (heapq.heappush if len(self.slowest) < SLOWEST else heapq.heappushpop)(self.slowest, bar)
        return bar

    def put(self, level: int, first: float, last: float, bar: Bar | None) -> None:
        """Set the place of a step in the tree of levels, as shares of level 1."""
        if bar:
            self.levels.setdefault(level, []).append((first, last, bar))

    def fail(self, name: str, code: int, sentence: str) -> None:
        """Add a failed file."""
        if len(self.failed) < FAILED:
            self.failed.append((name[:LETTERS], str(code), sentence[-LETTERS:]))

    def page(
        self, proof: str, facts: Mapping[str, object], totals: Mapping[str, int | float] = NONE,
        failed: int = 0,
    ) -> list[bytes]:  # fmt: skip
        """Return the page in pieces. Arguments: the proof, facts by name, the totals of the maps,
        the number of failed files."""
        title = f"fanfold run {self.run_id or 'by hand'}"
        sections = [
            f"{HEAD}<title>{shown(title)}</title><style>{STYLE}</style><h1>{shown(title)}</h1>",
            f"<p>{shown(proof)}</p>",
            f'<p class="bad">{failed:,} files failed (tolerated).</p>' if failed else "",
            self._facts(facts),
            bars_of(totals),
        ]
        if self.starts:
            sections += [self._tree(), self._timeline(), self._spread(), self._table()]
        sections += [self._failed(failed)]
        return [f"{each}\n".encode("utf-8", "replace") for each in sections if each]

    def _facts(self, facts: Mapping[str, object]) -> str:
        entries = {
            name.replace("_", " "): f"{fact:,}" if isinstance(fact, int) else fact
            for name, fact in facts.items()
            # This time covers earlier runs, or only the last step.
            if fact != "" and name != "seconds"
        }
        if self.starts:
            entries["first start"] = utc(min(self.starts))
            entries["last end"] = utc(max(self.ends))
            span = max(self.ends) - min(self.starts)
            entries["time between them"] = f"{span:,.1f} s ({duration(span)})"
            total = sum(self.ends) - sum(self.starts)
            entries["sum of all pods"] = f"{total:,.1f} s ({duration(total)})"
        if known := {n: count for n, count in sorted(self.attempts.items()) if n}:
            entries["attempts"] = "; ".join(
                f"{count:,} {self.noun}s at attempt {n}" for n, count in known.items()
            )
        for count, why in ((self.others, "of other runs"), (self.untold, "without times")):
            if count:
                entries[f"{self.noun}s {why}"] = f"{count:,}, not shown"
        entries["versions"] = f"records of format {FORMAT}, Python {sys.version.split()[0]}"
        rows = (f"<dt>{shown(name)}</dt><dd>{shown(fact)}</dd>" for name, fact in entries.items())
        return f"<dl>{''.join(rows)}</dl>"

    def _failed(self, failed: int) -> str:
        if not failed:
            return ""
        some = table(("file", "exit code", "error"), self.failed)
        more = f"<p>The first {len(self.failed):,} of {failed:,}. outputs.jsonl names all.</p>"
        return f"<h2>Files that failed</h2>{some}{more if failed > len(self.failed) else ''}"

    def _timeline(self) -> str:
        begin, end = min(self.starts), max(self.ends)
        span = max(end - begin, 1e-3)
        drawn = self._density if len(self.starts) > BARS else self._bars
        ends = f'<p class="ends"><span>0 s</span><span>{span:,.1f} s</span></p>'
        return f"<h2>Timeline</h2>{drawn(begin, span)}{ends}"

    def _bars(self, begin: float, span: float) -> str:
        found = sorted(rate(bar.size, bar.seconds) for bar in self.bars)
        steps = [found[len(found) * shade // SHADES] for shade in range(SHADES)]
        height = max(2, min(14, 600 // len(self.bars)))
        rows = []
        for row, bar in enumerate(self.bars):
            speed = rate(bar.size, bar.seconds)
            shade = max(k for k in range(SHADES) if speed >= steps[k])
            words = f"{bar.seconds:,.3f} s, {decimal(speed)} MB/s"
            label = f"{self.noun} {bar.name}: {words}, {bar.pod}"
            at, wide = (1000 * each / span for each in (bar.start - begin, bar.seconds))
            rows.append(
                f'<rect class="r{shade + 1}" x="{at:.1f}" y="{row * height}" '
                f'width="{max(wide, 1):.1f}" height="{height * 0.9:.1f}">'
                f"<title>{shown(label)}</title></rect>"
            )
        first, last = self.bars[0].name, self.bars[-1].name
        which = f"One bar per {self.noun}, from {first} at the top to {last} at the bottom."
        keys = "".join(
            f' <span class="key"><svg viewBox="0 0 1 1" preserveAspectRatio="none">'
            f'<rect class="r{shade + 1}" width="1" height="1"/></svg>from {decimal(step)}</span>'
            for shade, step in enumerate(steps)
            if decimal(step) not in map(decimal, steps[shade + 1 :])
        )
        words = f'<p>{shown(which)}</p><p class="soft">MB/s, from slow to fast:{keys}</p>'
        return words + chart("".join(rows), len(self.bars) * height, which)

    def _density(self, begin: float, span: float) -> str:
        starts, ends = sorted(self.starts), sorted(self.ends)
        most = max(many - bisect(ends, at) for many, at in enumerate(starts, 1))
        moments = [begin + span * (at + 0.5) / MOMENTS for at in range(MOMENTS)]
        running = [bisect(starts, moment) - bisect(ends, moment) for moment in moments]
        bars = "".join(
            f'<rect x="{1000 * at / MOMENTS:.1f}" y="{160 - 150 * many / most:.1f}" '
            f'width="{1000 / MOMENTS:.1f}" height="{150 * many / most:.1f}"/>'
            for at, many in enumerate(running)
        )
        which = f"How many {self.noun}s ran at each moment: {most:,} at most."
        return f"<p>{which}</p>{chart(bars, 160, which)}"

    def _tree(self) -> str:
        if not self.levels:
            return ""
        boxes = "".join(
            f'<rect class="r{2 + row % 2} edge" x="{1000 * first:.2f}" y="{26 * row}" '
            f'width="{1000 * (last - first):.2f}" height="24"><title>level {level}, file '
            f"{shown(bar.name)}: {bar.seconds:,.3f} s, {shown(bar.pod)}</title></rect>"
            for row, level in enumerate(sorted(self.levels))
            for first, last, bar in self.levels[level]
        )
        made = ", ".join(
            f"{len(found):,} of level {level}" for level, found in sorted(self.levels.items())
        )
        which = (
            f"One row per level and one box per file: {made}. Each file is below the files that it "
            "was made from. The result is below the last row."
        )
        return f"<h2>Levels</h2><p>{which}</p>{chart(boxes, 26 * len(self.levels), which)}"

    def _spread(self) -> str:
        spans = [end - start for start, end in zip(self.starts, self.ends, strict=True)]
        rates = list(map(rate, self.sizes, spans))
        return (
            f'<h2>Distribution</h2><div class="two">{histogram("seconds", spans)}'
            f"{histogram('MB/s', rates)}</div>"
        )

    def _table(self) -> str:
        rows = [
            (
                one.name, f"{one.seconds:,.3f}", decimal(rate(one.size, one.seconds)),
                str(one.attempt or ""), one.pod, one.node,
            )
            for one in sorted(self.slowest, reverse=True)
        ]  # fmt: skip
        names = self.noun, "seconds", "MB/s", "attempt", "pod", "node"
        title = f"The slowest {len(rows)} of {len(self.starts):,}"
        return f"<h2>{title}</h2>{table(names, rows, numbers=range(1, 4))}"


def rate(size: int, seconds: float) -> float:
    """Return MB per second."""
    return size / 1e6 / max(seconds, 1e-3)


def duration(seconds: float) -> str:
    """Format a time span as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
