"""The documents name existing tests, have the measured numbers, and have valid links."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import bundle
import pytest
from fanfold.part_ids import MAX_PARTS

TESTS = bundle.REPOSITORY / "tests"
HEADING = "\n## Guarantees and their tests\n"
README = bundle.REPOSITORY / "README.md"
DOCUMENTS = [
    *bundle.REPOSITORY.glob("*.md"),
    *(
        path
        for folder in ("images", "manifests", "tests", "workers")
        for path in sorted((bundle.REPOSITORY / folder).rglob("*.md"))
    ),
]


def without_test(text: str) -> list[str]:
    """The tests named in a text, as `folder/test_file.py -k word`, that do not exist."""
    missing = []
    for path, words in re.findall(r"`(\w+/test_\w+\.py)(?: -k ([^`]+))?`", text):
        file = TESTS / path
        names = re.findall(r"def (test_\w+)", file.read_text() if file.exists() else "")
        missing += [
            f"{path} has no test of {word!r}"
            for word in words.strip('"').split(" or ")
            if not any(word in name for name in names)
        ]
    return missing


def prose(document: Path) -> str:
    """A document without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", document.read_text())


def anchors(document: Path) -> set[str]:
    """The anchors of the headings in a document."""
    headings = re.findall("^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def links(document: Path) -> list[tuple[Path, str]]:
    """A document's links within this repository: the file, and the anchor or an empty text."""
    found = re.findall(r'(?:\]\(|src=")(?!https?:)([^)#"]*)#?([^)"]*)[)"]', prose(document))
    return [
        ((document.parent / name).resolve() if name else document, anchor) for name, anchor in found
    ]


def test_guarantees_have_tests() -> None:
    """Each promise of workers/guarantees.md has a row in the table of tests/README.md, and the
    tests of the row exist."""
    laws = (bundle.REPOSITORY / "workers/guarantees.md").read_text()
    promised = re.findall(r"^\d+\. \*\*(.+?)\*\*", laws, re.MULTILINE | re.DOTALL)
    _, _, text = (TESTS / "README.md").read_text().partition(HEADING)
    rows = re.findall(r"^\| (\S.*?) \| (`.*`) \|$", text.partition("\n## ")[0], re.MULTILINE)

    assert rows
    assert [sentence for sentence, _ in rows] == [" ".join(each.split()) for each in promised]
    assert not without_test(str([row for _, row in rows]))


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        ("SECURITY.md", "What is promised"),
        ("README.md", "What it guarantees"),
        ("manifests/docs/files.md", "Compared with Distributed Map"),
    ],
)
def test_promises_have_tests(document: str, heading: str) -> None:
    """Each row below the heading names tests, or has the word none. All tests that the document
    names exist."""
    text = (bundle.REPOSITORY / document).read_text()
    _, _, found = text.partition(f"\n## {heading}\n")
    rows = re.findall(r"\n\|-.*((?:\n\|.*)+)", found.partition("\n## ")[0])

    for row in "".join(rows).strip().splitlines():
        assert re.search(r"\| (.*`\w+/test_\w+\.py.*|none) \|$", row), row
    assert rows
    assert not without_test(text)


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(TESTS.parent))
)
def test_links_lead_somewhere(document: Path) -> None:
    """Each link within this repository names a file that exists, and a heading of that file."""
    broken = [
        f"{target.relative_to(bundle.REPOSITORY)}#{anchor}"
        for target, anchor in links(document)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


def test_every_document_can_be_found() -> None:
    """Links lead from README to every document."""
    found, left = {README}, [README]
    while left:
        new = {target for target, _ in links(left.pop()) if target.suffix == ".md"} - found
        found |= new
        left += new
    assert found == set(DOCUMENTS)


def results_of(case: str) -> dict[str, Any]:
    """The results of a case of `make bench`."""
    found: dict[str, Any] = json.loads((TESTS / f"bench/results/{case}.json").read_text())
    return found


def table_of(case: str, number: int = 0) -> tuple[str, dict[str, str]]:
    """The title of a table of `make bench`, and its last column by its first."""
    title, _, rows = results_of(case)["tables"][number]
    return title, {row[0]: row[-1] for row in rows}


def numbers() -> dict[str, tuple[str, ...]]:
    """Patterns of README's sentences with numbers, and the expected numbers."""
    project = tomllib.loads((bundle.REPOSITORY / "pyproject.toml").read_text())["project"]
    results = results_of("log-count")
    (log,) = re.findall(r"([\d.]+) GiB", results["text"])
    (keywords,) = re.findall(r"(\d+) keywords", results["text"])
    (_, dense), (title, rare) = (table_of("log-count", number) for number in (0, 2))
    (lines,) = re.findall(r"([\d,]+) lines", title)
    (parts,) = re.findall(r"range, (\d+) parts$", results["tables"][0][1][-1])
    cluster = table_of("cluster")[1]["log-count, 5 parts"]
    (cost,) = (row for row in results_of("scale")["tables"][1][2] if row[0] == "1,000 parts")
    labels = re.findall(r"(?m)^\| ([^|]+) \| [\d.]+ \| [\d.]+ \|$", README.read_text())
    return {
        r"Python ([\d.]+) or newer": (project["requires-python"].removeprefix(">="),),
        r"\(, (\d+) parts\) for a log of ([\d.]+) GiB and (\d+) keywords on (\d+) cores": (
            *(parts, log, keywords, results["made"].partition(" cores")[0]),
        ),
        r"in one of ([\d,]+) lines \|": (lines,),
        **{
            rf"\n\| {re.escape(label)} \| ([\d.]+) \| ([\d.]+) \|": (dense[label], rare[label])
            for label in labels
        },
        r"of 5 parts takes ([\d.]+) times as long": (cluster,),
        (
            r"for 1 TiB in ([\d,]+ parts) of (\d.* GiB) is ([\d.]+) pod-hours, "
            r"or (.*) CNY on spot instances of ECI"
        ): (*cost[:3], cost[5]),
        r"up to ([\d,]+) parts": (f"{MAX_PARTS:,}",),
    }


def test_numbers_of_the_readme() -> None:
    """README has only measured numbers, and they are right. workers/test_tutorial.py tests the
    numbers in the section "Why"."""
    text = re.sub(r"`[^`\n]*`|(?<=\])\([^)]*\)|<img .*>|(?m:^\d\. )", "", prose(README))
    text = re.sub(r"(?s)\n## Why\n.*?(?=\n## )", "", text)
    text = re.sub(r"\n(?!\|)", " ", text)  # a sentence continues in the next line

    for pattern, expected in numbers().items():
        (found,) = re.finditer(pattern, text)
        assert found.groups() == expected, found[0]
        text = text.replace(found[0], "")
    assert re.findall(r"[^.|]*\b\d[^.|]*", text) == []


def test_numbers_of_the_duration() -> None:
    """The tables of manifests/docs/duration.md have the measured seconds of a run and of the pulls,
    and the costs of `make bench CASES=scale`."""
    text = (bundle.MANIFESTS / "docs/duration.md").read_text()
    (_, _, seconds), (_, _, pulls), (_, head, costs) = (
        results_of(case)["tables"][number]
        for case, number in (("clock", 0), ("pull", 0), ("scale", 1))
    )
    rows = [seconds[0][2:], head[:6], *(row[:6] for row in costs)]
    rows += [[label, spread.partition(" ")[0]] for label, spread, *_ in seconds]
    rows += [[*row[:-1], row[-1].partition(" ")[0]] for row in pulls]
    assert [row for row in rows if f"\n| {' | '.join(row)} |" not in text] == []
    assert len(re.findall(r"\n\|.*\d", text)) == len(rows)


def test_the_readme_is_short() -> None:
    """README has at most 200 lines of at most 130 characters."""
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 130 and not line.startswith("|")] == []
