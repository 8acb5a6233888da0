"""What the documents say of the tests."""

from __future__ import annotations

import re

import bundle

TESTS = bundle.REPOSITORY / "tests"
HEADING = "\n## What holds, and "


def section(path: str) -> str:
    """The section on what holds of a document."""
    _, _, text = (bundle.REPOSITORY / path).read_text().partition(HEADING)
    return text.partition("\n## ")[0]


def test_what_holds_has_tests() -> None:
    """Each sentence that the workers' README promises has a row in the table of tests/README.md,
    and the tests that the row names exist."""
    promised = re.findall(r"^\d+\. \*\*(.+?)\*\*", section("workers/README.md"), re.M | re.S)
    rows = re.findall(r"^\| (\S.*?) \| (`.*`) \|$", section("tests/README.md"), re.MULTILINE)

    assert [sentence for sentence, _ in rows] == [" ".join(each.split()) for each in promised]
    missing = []
    for path, words in re.findall(r"`(\S+\.py)(?: -k ([^`]+))?`", str([row for _, row in rows])):
        file = TESTS / path
        names = re.findall(r"def (test_\w+)", file.read_text() if file.exists() else "")
        missing += [
            f"{path} has no test of {word!r}"
            for word in words.strip('"').split(" or ")
            if not any(word in name for name in names)
        ]
    assert not missing, "\n".join(missing)
