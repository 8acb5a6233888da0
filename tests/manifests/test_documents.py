"""What the documents state of the tests, and of each other."""

from __future__ import annotations

import re

import bundle
import pytest

TESTS = bundle.REPOSITORY / "tests"
HEADING = "\n## Guarantees and their tests\n"
FOLDERS = ("images", "manifests", "tests", "workers")
DOCUMENTS = [
    str(path.relative_to(bundle.REPOSITORY))
    for found in (
        bundle.REPOSITORY.glob("*.md"),
        *((bundle.REPOSITORY / folder).rglob("*.md") for folder in FOLDERS),
    )
    for path in sorted(found)
]


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
    """What a link to a heading can name."""
    headings = re.findall("^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_guarantees_have_tests() -> None:
    """Each sentence that workers/guarantees.md promises has a row in the table of tests/README.md,
    and the tests that the row names exist."""
    laws = (bundle.REPOSITORY / "workers/guarantees.md").read_text()
    promised = re.findall(r"^\d+\. \*\*(.+?)\*\*", laws, re.MULTILINE | re.DOTALL)
    _, _, text = (TESTS / "README.md").read_text().partition(HEADING)
    rows = re.findall(r"^\| (\S.*?) \| (`.*`) \|$", text.partition("\n## ")[0], re.MULTILINE)

    assert rows
    assert [sentence for sentence, _ in rows] == [" ".join(each.split()) for each in promised]
    assert not without_test(str([row for _, row in rows]))


def test_security_has_tests() -> None:
    """Each promise of SECURITY.md names tests, and they exist."""
    _, _, text = (bundle.REPOSITORY / "SECURITY.md").read_text().partition("\n|---|---|\n")
    rows = re.findall(r"^\| (\S.*) \| (.*) \|$", text, re.MULTILINE)

    assert rows
    assert [promise for promise, tests in rows if " -k " not in tests] == []
    assert not without_test(str([tests for _, tests in rows]))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Each link within this repository names a file that is there, and a heading of that file."""
    path = bundle.REPOSITORY / document
    links = re.findall(r"\]\((?!https:)([^)#\s]*)#?([^)\s]*)\)", path.read_text())

    wrong = []
    for name, anchor in links:
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            wrong.append(f"{name}#{anchor}")
    assert wrong == []
