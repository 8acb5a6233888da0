"""`--help` of every entrypoint: its documentation, with the settings and defaults that it reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import INPUT, LEVEL_1, MAINS, WORKERS, Volume, bare_environ

pytestmark = pytest.mark.usefixtures("storage")

Settings = dict[str, str]  # defaults by name; a default may be empty

# Arguments and settings of runs that together read every setting of the worker. The last run of
# each worker fails.
RUNS: dict[str, list[tuple[list[str], dict[str, object]]]] = {
    "split": [([], {"SPLIT_MODE": "files"}), ([], {}), ([], {"NUM_PARTS": 0})],
    "count": [([], {"PART_ID": 0}), ([], {})],
    "map": [([], {"PART_ID": 0, "MAP_COMMAND": "cat"}), ([], {})],
    "process": [(["0", "1"], {"PROCESS_COMMAND": "cat"}), (["0", "1"], {}), ([], {})],
    "merge": [
        ([], {}),
        (["1"], {"LEVEL": 2, "REDUCE_COMMAND": "cat"}),
        (["1"], {}),
        (["1", "2"], {}),
    ],
}
MAP = '''"""Count the lines."""

from fanfold import map_part

raise SystemExit(map_part(lambda part: {"lines": len(list(part.lines()))}))
'''


class Recorder(dict[str, str]):
    """An environment that records which settings are read, and with which default."""

    def __init__(self, environ: dict[str, str], read: Settings) -> None:
        super().__init__(environ)
        self.read = read

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Record the setting and return it."""
        self.read[name] = self.read.get(name) or default or ""
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        """Record the setting and return it."""
        self.get(name)
        return super().__getitem__(name)


def help_of(*command: str | Path, **environ: str) -> str:
    """Return the output of a program for --help, which must succeed without any setting."""
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        env={**bare_environ(), **environ},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def told(text: str) -> tuple[Settings, set[str]]:
    """Return the settings in a help text, and the settings of a bucket."""
    of_all, _, of_bucket = text.partition("\nAll take ")[2].partition(" in a bucket\n")
    takes = re.findall(r"\nTakes +(.*(?:\n {8}.*)*)", text)
    names = r"\b([A-Z][A-Z_]{3,})(?:=([^\s]+))?(?=[\s,]|$)"
    found = re.findall(names, " ".join([*takes, of_all]))
    return dict(found), set(re.findall("OSS_[A-Z]+", of_bucket))


@pytest.mark.parametrize("worker", RUNS)
def test_the_settings_are_those_that_are_read(volume: Volume, worker: str) -> None:
    """The help names exactly the settings that are read, with their defaults. The many settings of
    credentials are in workers/README.md."""
    volume.write(INPUT, b"INFO\n")
    for number in range(2):
        volume.write(LEVEL_1.format(number), b"A")
    if worker != "split":
        volume.log_count(SPLIT_MODE="files")
        volume.split(MAP_COMMAND="cat", SPLIT_MODE="files")
        volume.aggregate(2)
    read: Settings = {}
    codes = []
    for arguments, more in RUNS[worker]:
        codes.append(MAINS[worker](arguments, Recorder(volume.environ(more), read)))
    assert codes[0] == 0
    assert codes[-1] == 2

    settings, of_bucket = told(help_of(WORKERS / f"{worker}.py"))
    of_oss = {name for name in read if name.startswith(("OSS_", "ALIBABA_"))}
    assert settings == {name: read[name] for name in read if name not in of_oss}
    if volume.in_bucket:
        named = re.findall("`(OSS_[A-Z]+)` \\|", (WORKERS / "README.md").read_text())
        assert of_bucket == set(named) <= of_oss


@pytest.mark.folder
@pytest.mark.parametrize("worker", RUNS)
def test_the_settings_are_those_of_the_readme(worker: str) -> None:
    """The table has the same settings for each worker, with the same defaults."""
    _, _, text = (WORKERS / "README.md").read_text().partition("| setting | default | read by |")
    table: Settings = {}
    for row in text.partition("\n\n")[0].splitlines()[2:]:
        names, default, readers = map(str.strip, row.split("|")[1:4])
        if readers == "all" or worker in readers.split(", "):
            literal = re.fullmatch("`(.*)`", default)
            table |= dict.fromkeys(re.findall("[A-Z_]+", names), literal[1] if literal else "")

    assert told(help_of(WORKERS / f"{worker}.py"))[0] == table


@pytest.mark.folder
def test_the_contract_comes_first(tmp_path: Path) -> None:
    """--help prints the docstring of the program, also of a custom map, and does nothing else."""
    custom = tmp_path / "lines.py"
    custom.write_text(MAP)
    for path in (custom, *(WORKERS / f"{worker}.py" for worker in RUNS)):
        text = help_of(path, PYTHONPATH=str(WORKERS), WORK_DIR=str(tmp_path))
        docstring = path.read_text().split('"""')[1]
        assert text.startswith(docstring)
        assert "\nAll take WORK_DIR=/mnt/vol " in text
    assert list(tmp_path.iterdir()) == [custom]
