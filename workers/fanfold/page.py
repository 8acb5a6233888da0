"""Page: builds the HTML of a report: texts, tables, charts and style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

LETTERS = 200  # characters of a name or a sentence
TOTALS = 100  # rows of totals
BINS = 24  # of a histogram
ENTITIES = {ord(letter): f"&#{ord(letter)};" for letter in "&<>\"'"}

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1c2024;--soft:#60646c;--line:#d9d9e0;
--bad:#b42318;--r1:#0b3d70;--r2:#2166a5;--r3:#5b9bd0;--r4:#9cc7e8;--r5:#cfe5f5}
@media(prefers-color-scheme:dark){:root{--page:#16181b;--text:#edeef0;--soft:#b0b4ba;
--line:#3a3f45;--bad:#ff9592;--r1:#d6ebfb;--r2:#9bcbf0;--r3:#5da0d6;--r4:#2f6ea6;--r5:#1d4468}}
body{margin:0 auto;max-width:64rem;padding:1rem;background:var(--page);color:var(--text);
font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}p{margin:.3rem 0}
.soft{color:var(--soft)}.bad{color:var(--bad);font-weight:600}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.15rem .6rem .15rem 0;
vertical-align:top;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:400}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{display:block;width:100%;border-bottom:1px solid var(--line)}
rect{fill:var(--r3);shape-rendering:crispEdges}
.r1{fill:var(--r1)}.r2{fill:var(--r2)}.r3{fill:var(--r3)}.r4{fill:var(--r4)}.r5{fill:var(--r5)}
.edge{stroke:var(--page);stroke-width:1}
.ends{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem;color:var(--soft)}
.key{white-space:nowrap;margin-right:.6em}td svg{border:0;margin-top:.3em}
.key svg{display:inline-block;width:1em;height:.8em;border:1px solid var(--soft);margin-right:.3em}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:0 2rem}
@media(max-width:40rem){.wide thead{display:none}.wide td{display:inline-block;border:0;
text-align:left;padding-right:1rem}.wide tr{display:block;border-bottom:1px solid var(--line)}
.wide td[title]:not(:empty)::before{content:attr(title)' ';color:var(--soft)}}
@media print{:root{color-scheme:light}body{max-width:none}svg,tr{break-inside:avoid}}
""".replace("\n", "")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MARK = (  # the beginning of every page of fanfold
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="generator" content="fanfold">'
)
HEAD = (
    f'{MARK}<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
)


def shown(text: object) -> str:
    """Format a text as HTML and replace characters that cannot be printed."""
    found = str(text)
    if not found.isprintable():
        found = "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in found)
    return escape(found[: 5 * LETTERS])


def escape(text: str) -> str:
    """Escape a text for HTML. (The module html would use half a MiB for its table of names.)"""
    return text.translate(ENTITIES)


def chart(inside: str, height: float, label: str) -> str:
    """Return a chart of 1,000 units by `height`, as wide as the page."""
    return (
        f'<svg viewBox="0 0 1000 {height}" height="{height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{inside}</svg>'
    )


def table(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: range = range(0)) -> str:
    """Return a table. `numbers` are the columns with numbers."""

    def cells(row: Sequence[str]) -> Iterator[str]:
        for column, (name, text) in enumerate(zip(names, row, strict=True)):
            kind = ' class="n"' if column in numbers else ""
            yield f'<td{kind} title="{name}">{shown(text)}</td>'

    head = "".join(
        f"<th{' class=n' if column in numbers else ''}>{name}</th>"
        for column, name in enumerate(names)
    )
    body = "".join(f"<tr>{''.join(cells(row))}</tr>" for row in rows)
    return f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def bars_of(totals: Mapping[str, int | float]) -> str:
    """Return totals as bars, at most TOTALS of them."""
    if not totals:
        return ""
    some = list(totals.items())[:TOTALS]
    most = max(abs(float_of(total)) for _, total in some) or 1
    rows = "".join(
        f'<tr><td>{shown(name[:LETTERS])}</td><td class="n">{number(total)}</td><td width="50%">'
        f'<svg viewBox="0 0 1000 12" height="12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{1000 * abs(float_of(total)) / most:.1f}" height="12"/></svg></td></tr>'
        for name, total in some
    )
    more = f"<p>The first {TOTALS} of {len(totals):,}; result.json has all.</p>"
    return f"<h2>Totals</h2><table>{rows}</table>{more if len(totals) > TOTALS else ''}"


def float_of(total: float) -> float:
    """Convert a number for a chart; an integer may be too large for a float."""
    return float(max(-(10**300), min(10**300, total)))


def number(total: float) -> str:
    """Format a number for a table."""
    return f"{total:,}" if abs(total) < 10**30 else f"{float_of(total):.6g}"


def decimal(value: float) -> str:
    """Format a measured number to a tenth, or to three digits."""
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"


def histogram(what: str, values: Sequence[float]) -> str:
    """Return a histogram of values with quantiles."""
    low, high = min(values), max(values)
    step = (high - low) / BINS or 1
    found = Counter(min(BINS - 1, int((value - low) / step)) for value in values)
    most, order = max(found.values()), sorted(values)
    rects = "".join(
        f'<rect x="{1000 * k / BINS:.1f}" y="{100 - 96 * n / most:.1f}" width="{900 / BINS:.1f}" '
        f'height="{96 * n / most:.1f}"/>'
        for k, n in sorted(found.items())
    )
    median, ninety = (order[min(len(order) - 1, len(order) * part // 10)] for part in (5, 9))
    summary = f"{what}: median {decimal(median)}, 9 of 10 up to {decimal(ninety)}"
    ends = f'<p class="ends"><span>{decimal(low)}</span><span>{decimal(high)} {what}</span></p>'
    return f"<div><p>{summary}</p>{chart(rects, 100, summary)}{ends}</div>"
