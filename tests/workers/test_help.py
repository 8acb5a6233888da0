"""Settings: the code, `--help` of every entrypoint and the tables of the documents agree."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from fanfold import WorkerError, map_part
from fanfold.storage import credentials, open_storage
from pipeline import INPUT, LEVEL_1, MAINS, WORKERS, Main, Volume, bare_environ

pytestmark = pytest.mark.usefixtures("storage")

ROOT = WORKERS.parent
SETTINGS = (WORKERS / "settings.md").read_text()
IMAGES = (ROOT / "images/README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
HEAD = "| name | type | default | read by | example | meaning |\n|---|---|---|---|---|---|\n"
CUSTOM = "a custom map"
OF_BUCKETS = ("OSS_", "ALIBABA_")

Settings = dict[str, str]  # by name the default, which may be empty

# Arguments and settings of runs that read all that the worker reads; the last one of each fails.
RUNS: dict[str, list[tuple[list[str], dict[str, object]]]] = {
    "split": [([], {"SPLIT_MODE": "files"}), ([], {}), ([], {"NUM_PARTS": 0})],
    "count": [([], {"PART_ID": 0}), ([], {})],
    "map": [([], {"PART_ID": 0, "MAP_COMMAND": "cat"}), ([], {})],
    CUSTOM: [([], {"PART_ID": 0, "MAP_SETTINGS": "1"}), ([], {})],
    "process": [(["0", "1"], {"PROCESS_COMMAND": "cat"}), (["0", "1"], {}), ([], {})],
    "merge": [
        ([], {}),
        (["1"], {"LEVEL": 2, "REDUCE_COMMAND": "cat"}),
        (["1"], {}),
        (["1", "2"], {}),
    ],
}
STEPS: dict[str, Main] = {
    **MAINS,
    CUSTOM: lambda _, environ: map_part(lambda part: {"size": part.size}, environ),
}
PROGRAMS = [worker for worker in RUNS if worker != CUSTOM]
MAP = '''"""Count the lines."""

from fanfold import map_part

raise SystemExit(map_part(lambda part: {"lines": len(list(part.lines()))}))
'''
# By type a value that is none of it. Of the other types every text is one, or the storage decides.
WRONG = {
    "number": "x",
    "number or share": "x",
    "part numbers": "x",
    "exit codes": "x",
    "words": ",",
    "name": "../x",
    "command": "'",
    "`true` or `false`": "maybe",
    "`copy`, `range` or `files`": "maybe",
    "`Succeeded`, `Failed`, `Errored` or `Skipped`": "maybe",
}


@dataclass(frozen=True)
class Row:
    """A setting in a table."""

    name: str
    type: str
    default: str
    readers: list[str]
    example: str


def rows(text: str) -> list[Row]:
    """The settings in the tables of a document. A default that depends on the region is none."""
    found = []
    for table in text.split(HEAD)[1:]:
        for line in table.partition("\n\n")[0].splitlines():
            name, kind, default, readers, example, _ = map(str.strip, line.strip("|").split(" | "))
            literal = re.fullmatch("`([^`]*)`", default)
            value = literal[1] if literal and "REGION" not in default else ""
            shown = example.strip("`")
            found.append(Row(name.strip("`"), kind, value, readers.split(", "), shown))
    return found


ROWS = rows(SETTINGS.partition("\n## The local run\n")[0])


def of_step(step: str) -> list[str]:
    """The settings of a step, in the table that has all settings by step."""
    (cell,) = re.findall(rf"(?m)^\| {re.escape(step)} \| (`.*) \|$", SETTINGS)
    return re.findall("`([A-Z_]+)`", cell)


class Recorder(dict[str, str]):
    """An environment that knows what was read of it, and with which default."""

    def __init__(self, environ: dict[str, str], read: Settings) -> None:
        super().__init__(environ)
        self.read = read

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """The setting, noted."""
        self.read[name] = self.read.get(name) or default or ""
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        """The setting, noted."""
        self.get(name)
        return super().__getitem__(name)


def recorded(volume: Volume, step: str) -> Settings:
    """The settings that a step reads in runs of all kinds, the last of which fails."""
    volume.write(INPUT, b"INFO\n")
    for number in range(2):
        volume.write(LEVEL_1.format(number), b"A")
    if step != "split":
        volume.log_count(SPLIT_MODE="files")
        volume.split(MAP_COMMAND="cat", SPLIT_MODE="files")
        volume.aggregate(2)
    read: Settings = {}
    codes = []
    for arguments, more in RUNS[step]:
        codes.append(STEPS[step](arguments, Recorder(volume.environ(more), read)))
    assert codes[0] == 0
    assert codes[-1] == 2
    return read


def help_of(*command: str | Path, **environ: str) -> str:
    """What a program prints at --help, which has to go well without any setting."""
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        env={**bare_environ(), **environ},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def told(text: str) -> tuple[Settings, set[str]]:
    """The settings that a help names, and those of a bucket."""
    of_all, _, of_bucket = text.partition("\nAll take ")[2].partition(" in a bucket\n")
    takes = re.findall(r"\nTakes +(.*(?:\n {8}.*)*)", text)
    names = r"\b([A-Z][A-Z_]{3,})(?:=([^\s]+))?(?=[\s,]|$)"
    found = re.findall(names, " ".join([*takes, of_all]))
    return dict(found), set(re.findall("OSS_[A-Z]+", of_bucket))


@pytest.mark.parametrize("step", RUNS)
def test_the_settings_are_those_that_are_read(volume: Volume, step: str) -> None:
    """In both tables and in the help: no setting too many, none too few, no other default."""
    read = recorded(volume, step)
    of_bucket = {name for name in read if name.startswith(OF_BUCKETS)}
    own = {name: read[name] for name in read if name not in of_bucket}

    table = [
        row
        for row in ROWS
        if {"all", step} & {*row.readers} and not row.name.startswith(OF_BUCKETS)
    ]
    assert {row.name: row.default for row in table} == own
    named = of_step("every step") + of_step(step if step == CUSTOM else f"`{step}.py`")
    assert sorted(named) == sorted(own)
    if step != CUSTOM:
        settings, shown = told(help_of(WORKERS / f"{step}.py"))
        assert settings == own
        assert not volume.in_bucket or shown <= of_bucket


@pytest.mark.folder
def test_the_settings_of_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has those that the help names, and those of all credentials."""
    read: Settings = {}
    (tmp_path / "token").touch()
    keys = dict.fromkeys(credentials.KEY, "key")
    role = dict.fromkeys(credentials.RRSA, str(tmp_path / "token"))

    def post(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "post", post)
    with pytest.raises(WorkerError):  # after a look at all sources
        credentials.find(Recorder({}, read), "region")
    place = {"WORK_DIR": "oss://bucket", "OSS_REGION": "region"}
    open_storage(Recorder({**place, **keys}, read))
    with pytest.raises(requests.ConnectionError):
        credentials.assume_role(Recorder(role, read), "region")

    table = {row.name: row.default for row in ROWS if row.name.startswith(OF_BUCKETS)}
    assert table == {name: read[name] for name in read if name.startswith(OF_BUCKETS)}
    assert told(help_of(WORKERS / "split.py"))[1] <= {*table}


def problem_of(row: Row, value: str, volume: Volume, folder: Path) -> str:
    """The error of the first step that reads a setting, with this value; empty without one."""
    if row.name.startswith(OF_BUCKETS):
        keys = dict.fromkeys(credentials.KEY, "key")
        environ = {"WORK_DIR": "oss://bucket", "OSS_REGION": "region", **keys, row.name: value}
        try:
            open_storage(environ)
        except WorkerError as error:
            return str(error)
        return ""
    step = "split" if row.readers == ["all"] else row.readers[0]
    arguments, more = RUNS[step][row.name.startswith(("LEVEL", "REDUCE"))]
    run = {"RUN_ID": "1", "RUN_STARTED": 0} if row.name.startswith("RUN_") else {}
    path = folder / "error"
    path.unlink(missing_ok=True)
    STEPS[step](arguments, volume.environ({**run, **more, "ERROR_FILE": path, row.name: value}))
    return path.read_text() if path.exists() else ""


def made(volume: Volume) -> Volume:
    """A volume with a plan and with levels."""
    volume.write(INPUT, b"ERROR\n")
    volume.write("logs/app.log", b"")
    for number in range(2):
        volume.write(LEVEL_1.format(number), b"A\n")
    volume.log_count(SPLIT_MODE="files")
    volume.aggregate(2)
    return volume


@pytest.mark.folder
@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.name))
def test_the_examples_are_taken(volume: Volume, tmp_path: Path, row: Row) -> None:
    """Each example is a value that a step takes, and a value of another type is refused."""
    example = str(tmp_path / "file") if row.type == "file" else row.example
    assert example
    assert not problem_of(row, example, made(volume), tmp_path).startswith(row.name)
    if row.type in WRONG and row.name != "RETRIES":  # which only records show
        assert row.name in problem_of(row, WRONG[row.type], volume, tmp_path)


@pytest.mark.folder
def test_a_setting_has_one_row() -> None:
    """No setting is in two tables, of any document."""
    known = {row.name for row in (*rows(SETTINGS), *rows(IMAGES))}
    found = Counter(
        name
        for folder in ("", "images/", "manifests/**/", "tests/**/", "workers/")
        for path in ROOT.glob(f"{folder}*.md")
        for cell in re.findall(r"(?m)^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", path.read_text())
        for name in re.findall("[A-Z_]+", cell)
        if name in known
    )

    assert found == dict.fromkeys(known, 1)


@pytest.mark.folder
@pytest.mark.parametrize("target", ["run", "aggregate"])
def test_the_settings_of_the_local_run(target: str) -> None:
    """The tables have those that the Makefile passes on; others than the workers' have a row."""
    recipe = re.split(r"\n(?!\t)", MAKEFILE.partition(f"\n{target}: ")[2])[0]
    passed = {*re.findall(r"\$\$_([A-Z_]+)", recipe), "PYTHON"}
    defaults = dict(re.findall(r"(?m)^([A-Z_]+) \?= (.*)", MAKEFILE))
    table = [row for row in rows(SETTINGS) if f"make {target}" in row.readers]
    workers = {row.name: row.default for row in ROWS}

    assert sorted(of_step(f"`make {target}`")) == sorted(passed)
    assert {row.name for row in table} == passed - {*workers}
    for row in table:
        assert row.default == defaults.get(row.name, "")
    assert {name: workers.get(name, text) for name, text in defaults.items()} == defaults


@pytest.mark.folder
def test_the_settings_of_the_images() -> None:
    """The table has those that the scripts read, with their defaults. The help of build.sh has its
    own."""
    build, base, shared = (
        (ROOT / f"images/{name}.sh").read_text() for name in ("build", "base", "builder")
    )
    read = {
        reader: dict(re.findall(r"\$\{([A-Z][A-Z_]{2,}):[-+]([^}]*)", text + shared))
        for reader, text in {"build.sh": build, "base.sh": base}.items()
    }
    table = rows(IMAGES)

    for reader, found in read.items():
        own = {row.name: row.default for row in table if reader in row.readers}
        assert {*own} == {*found}
        assert {name: text or found[name] for name, text in own.items()} == found
    shown = re.findall("(?m)^  ([A-Z].*?)  ", build.partition("\nEnvironment:\n")[2])
    helped = set(re.findall("[A-Z_]{3,}", " ".join(shown)))
    assert {*read["build.sh"]} - helped == {"BUILDAH_ISOLATION"}


@pytest.mark.folder
def test_the_contract_comes_first(tmp_path: Path) -> None:
    """The docstring of the program, that of a custom map as well; nothing is done."""
    custom = tmp_path / "lines.py"
    custom.write_text(MAP)
    for path in (custom, *(WORKERS / f"{worker}.py" for worker in PROGRAMS)):
        text = help_of(path, PYTHONPATH=str(WORKERS), WORK_DIR=str(tmp_path))
        docstring = path.read_text().split('"""')[1]
        assert text.startswith(docstring)
        assert "\nAll take WORK_DIR=/mnt/vol " in text
    assert list(tmp_path.iterdir()) == [custom]
