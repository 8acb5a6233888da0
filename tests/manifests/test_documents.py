"""The documents name existing tests, and link to each other correctly."""

from __future__ import annotations

import re

import bundle
import pytest

TESTS = bundle.REPOSITORY / "tests"
HEADING = "\n## What holds, and "
PAPERS = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def section(path: str) -> str:
    """A document's section about what holds."""
    _, _, text = (bundle.REPOSITORY / path).read_text().partition(HEADING)
    return text.partition("\n## ")[0]


def without_test(text: str) -> list[str]:
    """The tests named in a text, as `file.py -k word`, that do not exist."""
    missing = []
    for path, words in re.findall(r"`(\S+\.py)(?: -k ([^`]+))?`", text):
        file = TESTS / path
        names = re.findall(r"def (test_\w+)", file.read_text() if file.exists() else "")
        missing += [
            f"{path} has no test of {word!r}"
            for word in words.strip('"').split(" or ")
            if not any(word in name for name in names)
        ]
    return missing


def anchors(text: str) -> set[str]:
    """The anchors of the headings in a text."""
    headings = re.findall("^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_what_holds_has_tests() -> None:
    """Each promise of the workers' README has a row in the table of tests/README.md, and the tests
    of the row exist."""
    promised = re.findall(r"^\d+\. \*\*(.+?)\*\*", section("workers/README.md"), re.M | re.S)
    rows = re.findall(r"^\| (\S.*?) \| (`.*`) \|$", section("tests/README.md"), re.MULTILINE)

    assert [sentence for sentence, _ in rows] == [" ".join(each.split()) for each in promised]
    assert not without_test(str([row for _, row in rows]))


def test_security_has_tests() -> None:
    """Each promise of SECURITY.md names tests, and they exist."""
    _, _, text = (bundle.REPOSITORY / "SECURITY.md").read_text().partition("\n|---|---|\n")
    rows = re.findall(r"^\| (\S.*) \| (.*) \|$", text, re.MULTILINE)

    assert rows
    assert [promise for promise, tests in rows if " -k " not in tests] == []
    assert not without_test(str([tests for _, tests in rows]))


@pytest.mark.parametrize("paper", PAPERS)
def test_links_lead_somewhere(paper: str) -> None:
    """Each link within this repository names an existing file, and a heading of this file."""
    text = (bundle.REPOSITORY / paper).read_text()
    links = re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", text)

    assert links
    for name, anchor in links:
        target = bundle.REPOSITORY / (name or paper)
        assert target.exists()
        assert not anchor or anchor in anchors(target.read_text())
