"""The structure of the workers: imports go one way, and files are short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import fanfold
import pytest
from pipeline import WORKERS, bare_environ

# From the bottom up: a module may import only the modules before it. An entrypoint may import all
# modules.
MODULES = [
    "fanfold.errors",
    "fanfold.names",
    "fanfold.part_ids",
    "fanfold.parallel",
    "fanfold.progress",
    "fanfold.settings",
    "fanfold.storage.mounts",
    "fanfold.storage.walk",
    "fanfold.storage.folder",
    "fanfold.storage.credentials",
    "fanfold.storage.session",
    "fanfold.storage.retries",
    "fanfold.storage.uploads",
    "fanfold.storage.listing",
    "fanfold.storage.bucket",
    "fanfold.storage",
    "fanfold.formats",
    "fanfold.patterns",
    "fanfold.decode",
    "fanfold.plan",
    "fanfold.inputs",
    "fanfold.cuts",
    "fanfold.streams",
    "fanfold.records",
    "fanfold.page",
    "fanfold.report",
    "fanfold.worker",
    "fanfold.child",
    "fanfold.command",
    "fanfold.levels",
    "fanfold.group",
    "fanfold.publish",
    "fanfold.parts",
    "fanfold.files",
    "fanfold.outputs",
    "fanfold.fold_levels",
    "fanfold.fold",
    "fanfold.mapping",
    "fanfold",
]
# Maximum lines, without run.py. WHOLE is 3,210 for text; 710 for users' programs (its words, files,
# process, end and error messages: 410), their streams, map.py, functions for every step, and an API
# with lazy imports; 210 for several parts per pod: their ids, their failures, the parts that a
# retry skips; 1,610 for files as items: patterns, lists and listings (460), compressed files (150),
# a map per file and its failures (310), outputs.jsonl and results taken over from it (200),
# settings, cuts, their errors, and requests that take little memory and CPU time; 500 for the page
# of a run; 70 for the progress of a map; 30 for keywords that are searched for by a rare byte; 90
# for errors that name their cause.
MODULE, ENTRYPOINT, WHOLE = 320, 220, 3210 + 710 + 210 + 1610 + 500 + 70 + 30 + 90
PATHS = {
    ".".join(path.relative_to(WORKERS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in WORKERS.rglob("*.py")
}
ENTRYPOINTS = sorted(set(PATHS) - set(MODULES))


def lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return path.read_text().count("\n")


def imported(path: Path) -> set[str]:
    """Return the modules of the project that a file imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "an import names the package"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members if members <= set(PATHS) else {*members, str(node.module)}
    return found & set(PATHS)


def test_every_module_has_its_place() -> None:
    """A new file of the package must be in the list above, and in the list of README.md."""
    _, _, text = (WORKERS / "README.md").read_text().partition("\n## The modules\n")
    tree = re.findall(r"(?m)^ +(\w+\.py) ", text.split("```")[1])

    assert set(MODULES) <= set(PATHS)
    assert ENTRYPOINTS == ["count", "map", "merge", "process", "run", "split"]
    assert tree == [PATHS[name].name for name in reversed(MODULES)]


@pytest.mark.parametrize("name", PATHS)
def test_imports_go_one_way(name: str) -> None:
    """Imports go down, so there is no circle. No file imports an entrypoint, or the package as its
    users do."""
    below = MODULES[: MODULES.index(name)] if name in MODULES else MODULES[:-1]

    assert imported(PATHS[name]) <= set(below)


def test_sizes() -> None:
    """A module is short, and the whole does not grow unnoticed."""
    long = {name: lines(path) for name, path in PATHS.items() if name != "run"}

    assert {
        name: size
        for name, size in long.items()
        if size > (MODULE if name in MODULES else ENTRYPOINT)
    } == {}
    assert sum(long.values()) <= WHOLE


def test_the_api_is_imports_and_no_more() -> None:
    """All names of the API are in one place."""
    docstring, _, choice, names = ast.parse(PATHS["fanfold"].read_text()).body

    assert isinstance(docstring, ast.Expr)
    assert isinstance(choice, ast.If)
    imports = [node for node in choice.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(choice.body)
    typed = {str(node.module): [name.name for name in node.names] for node in imports}
    assert typed == {f"fanfold.{module}": names for module, names in vars(fanfold)["HOMES"].items()}
    assert isinstance(names, ast.Assign)
    assert set(ast.literal_eval(names.value)) == {
        *("Part", "Stream", "WorkerError"),
        *("map_part", "process_group", "reduce_outputs"),
    }
    for module, found in typed.items():
        for name in found:
            assert getattr(fanfold, name) is getattr(import_module(module), name)
    assert not hasattr(fanfold, "nothing")


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("split", "outputs files decode mapping streams child command levels group publish fold"),
        ("count", "files decode outputs child command levels group publish fold"),
        ("map", "files decode levels group publish fold"),
        ("process", "publish fold mapping"),
        ("merge", "group mapping outputs files decode"),
    ],
)
def test_a_start_is_short(name: str, without: str) -> None:
    """A worker imports only the modules that it uses: with thousands of pods each import has a
    cost."""
    code = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=WORKERS, env=bare_environ(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = done.stdout.split()
    assert name in loaded
    assert {f"fanfold.{module}" for module in without.split()} & set(loaded) == set()
