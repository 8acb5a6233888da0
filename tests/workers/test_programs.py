"""Users' programs: what each program gets, and the outcome of every way to end. tests/faults has
late, doubled and killed programs."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from fanfold import Stream, WorkerError, child, command, process_group, reduce_outputs
from hypothesis import given
from hypothesis import strategies as st
from pipeline import INPUT, JOINED, LEVEL_1, WORKERS, Outcome, Volume, children, finish

pytestmark = pytest.mark.usefixtures("storage")

LINES = b"".join(b"%d %b\n" % (n, [b"INFO", b"ERROR", b"WARN"][n % 3]) for n in range(40_000))
DOCUMENT = (WORKERS / "programs.md").read_text()
REST = "cat >/dev/null; "  # reads the rest of stdin, which a shell does not read


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder for SCRATCH_DIR."""
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def volume(volume: Volume, scratch: Path) -> Volume:
    """A volume with an input of several pipe buffers, and one part."""
    volume.write(INPUT, LINES)
    return volume.having(NUM_PARTS=1, SPLIT_MODE="range", SCRATCH_DIR=scratch)


def shell(script: str, *arguments: str) -> str:
    """Return a command that runs a script."""
    assert "'" not in script
    return " ".join(["sh -c", f"'{script}'", "x", *arguments])


def map_all(volume: Volume) -> Outcome:
    """Split and map, up to the first map that fails; return the last outcome."""
    outcome = Outcome(0, "", "")
    for part_id in volume.split():
        outcome = volume.run("map", PART_ID=part_id)
        if outcome.code:
            break
    return outcome


def made(volume: Volume, **settings: object) -> bytes | None:
    """Return OUTPUT after the whole pipeline, which must succeed."""
    volume = volume.having(**settings)
    outcome = map_all(volume)
    assert outcome.code == 0, outcome.words
    volume.merge()
    assert volume.temporary_files() == []
    return volume.final("result.out")


def refused(volume: Volume, **settings: object) -> Outcome:
    """Return the outcome of a map that must fail and leave nothing visible."""
    volume = volume.having(**settings)
    volume.split()
    before = {name for name, data in volume.tree().items() if data is not None}
    outcome = volume.run("map", PART_ID=0)
    assert outcome.code != 0
    assert {name for name, data in volume.tree().items() if data is not None} == before
    assert volume.temporary_files() == []
    assert volume.run("merge").code == 75
    return outcome


class Case(NamedTuple):
    """A map, and its output from LINES in one part, or its failure."""

    command: str
    output: bytes | None = None
    code: int = 0
    words: str = ""
    settings: Mapping[str, object] = {}


EXITS_141, KILLED = shell("cat; exit 141"), shell("cat; kill -9 $$")
CASES = {
    "a filter": Case("grep ERROR", b"".join(re.findall(rb"\d+ ERROR\n", LINES))),
    "writes 0 bytes": Case(shell(REST), b""),
    "closes stdout early": Case(shell(f"echo a; exec >&-; {REST}"), b"a\n"),
    "closes both early": Case(shell(f"echo a; exec >&- 2>&-; {REST}"), b"a\n"),
    "closes stdin early": Case("sh -c 'exec <&-; echo a'", None, 2, "must read all of its stdin"),
    "never reads": Case("echo a", None, 2, "must read all of its stdin"),
    "reads one line": Case("head -n 1", None, 2, "must read all of its stdin"),
    "does not read, but fails": Case(shell("exit 9"), None, 9, "exit code 9"),
    "forks and exits": Case(shell("cat; sleep 1000 & echo b"), LINES + b"b\n"),
    "prints no line end": Case(shell(f"{REST}printf a"), b"a"),
    "exits 141": Case(EXITS_141, None, 141, "in MAP_EXIT_OK=0, got exit code 141"),
    "exits 141, which is listed": Case(EXITS_141, LINES, 0, "", {"MAP_EXIT_OK": "0,141"}),
    "a signal": Case(KILLED, None, 137, "exit code 137"),
    "a signal that is listed": Case(KILLED, LINES, 0, "", {"MAP_EXIT_OK": "137,0"}),
    "exits 2": Case(shell(f"{REST}exit 2"), None, 2, "exit code 2: "),
    "finds nothing": Case("grep nothing", None, 1, "on stderr: nothing"),
    "finds nothing, which is listed": Case("grep nothing", b"", 0, "", {"MAP_EXIT_OK": "0,1"}),
    "its last words": Case(shell("cat; seq 9 >&2; exit 3"), None, 3, "stderr: 5 | 6 | 7 | 8 | 9\""),
    "half a last word": Case(shell("cat; printf half >&2; exit 3"), None, 3, "on stderr: half"),
    "is no program": Case("no-such-program", None, 2, "program in PATH that can be run, got 'no-s"),
    "is no program of a path": Case("/etc/passwd a", None, 2, "(Permission denied): make it an"),
    "is too long": Case(f"echo {'x' * 200_000}", None, 2, "with 1 arguments"),
    "of files": Case("cat {input}", LINES),
    "of all files": Case("cat {inputs}", LINES),
    "gets no stdin with a file": Case(shell("cat; cat $1", "{input}"), LINES),
    "writes a file": Case(shell("echo lost; cat >$1", "{output}"), LINES),
    "writes a file of a file": Case("cp {input} {output}", LINES),
    "writes a file and fails": Case(shell("cat >$1; exit 3", "{output}"), None, 3, "exit code 3"),
    "writes no file": Case(shell(REST, "{output}"), None, 2, "to {output}, got nothing"),
    "makes a link": Case(shell(f"{REST}ln -s /dev $1", "{output}"), None, 2, "got a link"),
    "makes a dead link": Case(shell(f"{REST}ln -s no $1", "{output}"), None, 2, "got a link"),
    "makes a folder": Case(shell(f"{REST}mkdir $1", "{output}"), None, 2, "got a folder"),
    "makes a pipe": Case(shell(f"{REST}mkfifo $1", "{output}"), None, 2, "got a special file"),
    "has no room": Case("cat {input}", None, 2, "must be at least", {"SCRATCH_SIZE": 1000}),
    "has room": Case("cat {input}", LINES, 0, "", {"SCRATCH_SIZE": len(LINES)}),
    "writes too much": Case(shell("exec dd of=$1", "{output}"), None, 2, "at most 1000 bytes",
                            {"SCRATCH_SIZE": 1000}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ends(volume: Volume, scratch: Path, case: Case) -> None:
    """The outcome with a file as input (in a bucket a pipe), and with a part of a file: the output,
    or an exit code and a message. Nothing is left in SCRATCH_DIR, and no process."""
    settings, others = {"MAP_COMMAND": case.command, **case.settings}, children()
    if "at least" in case.words and not volume.in_bucket:
        volume.write("in/0", LINES)  # so that the part has more than one file
        volume.write("in/1", b"")
        settings |= {"INPUT": "in/", "NUM_PARTS": 2}
    if case.output is None:
        outcome = refused(volume, **settings)
        assert outcome.code == case.code, outcome.words
        assert case.words in outcome.words.splitlines()[-1]
    else:
        assert made(volume, **settings) == case.output
    assert list(scratch.iterdir()) == []
    assert children() == others


def test_stdin(volume: Volume) -> None:
    """If a part is a whole file, this file is the program's stdin. Any other part comes through a
    pipe. Where a part continues in another file, a line does not."""
    what = shell("readlink /proc/self/fd/0; cat")
    for mode, parts in (("range", 1), ("copy", 1), ("copy", 2), ("range", 2)):
        at = volume.having(SPLIT_MODE=mode, NUM_PARTS=parts, MAP_COMMAND=what)
        found = made(at) or b""
        assert re.sub(rb"(?m)^(/|pipe:).*\n", b"", found) == LINES
        names = re.findall(rb"(?m)^(/|pipe:)", found)
        is_file = not volume.in_bucket and (mode == "copy" or parts == 1)
        assert names == [b"/" if is_file else b"pipe:"] * parts
    volume.write("in/0", b"a")
    volume.write("in/1", b"b")
    for mode in ("copy", "range"):
        for each in ("cat", "cat {input}"):
            assert made(volume, MAP_COMMAND=each, INPUT="in/", SPLIT_MODE=mode) == b"a\nb"


READ_AT = """python3 -c 'import os; os.write(1, os.pread(0, os.fstat(0).st_size, 0))'"""
MAPPED = """python3 -c 'import mmap, os; os.write(1, mmap.mmap(0, 0, mmap.MAP_SHARED, 1))'"""


@pytest.mark.parametrize("what", ["cat /dev/stdin", "wc -c", "tac", READ_AT, MAPPED])
def test_no_offset_tells(volume: Volume, what: str) -> None:
    """A program that opens a file again, asks for its size, maps it or reads it at other offsets
    seems not to have read it. It is refused, with a remedy for this case. Both remedies work. Data
    in a pipe must be read."""
    if not volume.in_bucket:
        words = refused(volume, MAP_COMMAND=what).words
        assert "got an offset before the end of " in words
        assert "as tac does, use sh -c 'cat | tac' or tac {input}" in words
    if what not in (READ_AT, MAPPED):  # which need a file
        done = subprocess.run(what.split(), input=LINES, capture_output=True, check=True)
        assert made(volume, MAP_COMMAND=shell(f"cat | {what}")) == done.stdout
    if what == "tac":
        assert made(volume, MAP_COMMAND="tac {input}") == done.stdout


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_a_part_without_a_byte(volume: Volume, mode: str) -> None:
    """The program also runs for an empty part, with an empty stdin."""
    volume.write(INPUT, b"a\n")
    volume = volume.having(NUM_PARTS=3, SPLIT_MODE=mode)
    for what in ("wc -l", shell("wc -l <$1", "{input}")):
        assert made(volume, MAP_COMMAND=what) == b"0\n1\n0\n"


NAME = """a b'"$(x).log"""


@pytest.mark.parametrize("parts", [1, 2])
def test_any_name(volume: Volume, scratch: Path, parts: int) -> None:
    """A name is passed unchanged as an argument and in the environment. A copy also keeps the
    name."""
    name = f"in put/{NAME}"
    volume.write(name, b"0\n1\n")
    script = shell('echo "$1"; echo "$INPUT_NAMES"; cat "$1"', "{input}")
    found = made(volume, INPUT=name, NUM_PARTS=parts, MAP_COMMAND=script) or b""

    paths = [line for line in found.decode().splitlines() if line.startswith("/")]
    assert {path.rpartition("/")[2] for path in paths} == {NAME}
    whole = parts == 1 and not volume.in_bucket
    assert all(path.startswith(str(volume.root if whole else scratch)) for path in paths)
    heads = [f"{path}\n{name}\n".encode() for path in paths]
    assert found == b"".join(
        head + line
        for head, line in zip(heads, (b"0\n1\n",) if parts == 1 else (b"0\n", b"1\n"), strict=True)
    )


def test_the_environment(volume: Volume, scratch: Path) -> None:
    """A program gets the container's environment, without keys, and with the variables of its step.
    It cannot read the worker's environment."""
    keys = {"OSS_ACCESS_KEY_SECRET": "s", "ALIBABA_CLOUD_ROLE_ARN": "r"}
    volume = volume.having(MINE="it's", NUM_PARTS=2, HOME="/", **{} if volume.in_bucket else keys)
    prctl = ctypes.CDLL(None).prctl
    try:
        found = (made(volume, MAP_COMMAND=shell(f"{REST}env")) or b"").decode()
        assert prctl(3) == 0  # PR_GET_DUMPABLE
    finally:
        prctl(4, 1)
    assert "OSS_" not in found
    assert "ALIBABA_CLOUD_" not in found
    lines = found.splitlines()
    for line, times in {
        "MINE=it's": 2, f"HOME={scratch}": 2, f"TMPDIR={scratch}": 2, "NUM_PARTS=2": 2,
        "PART_ID=0": 1, "PART_ID=1": 1, f"INPUT_NAMES={INPUT}": 2,
    }.items():  # fmt: skip
        assert lines.count(line) == times, line


def test_very_many_names(volume: Volume) -> None:
    """If there are more names than the environment can have, INPUT_NAMES is not set."""
    for number in range(300):
        volume.write(f"in/{number}{'n' * 240}", b"")
    found = made(volume, INPUT="in/", MAP_COMMAND=shell(f"{REST}echo $INPUT_NAMES"))
    assert found == b"\n"


def test_another_image(volume: Volume) -> None:
    """Outputs for other MAP_SETTINGS, or another command, do not count."""
    volume = volume.having(NUM_PARTS=2)
    old, new = (
        {"MAP_COMMAND": "cat", "MAP_SETTINGS": "1"},
        {"MAP_COMMAND": "cat", "MAP_SETTINGS": "2"},
    )
    assert made(volume, **old) == LINES
    assert volume.split(ONLY_MISSING="true", **old) == []
    for other in (
        new,
        {"MAP_COMMAND": "cat"},
        {"MAP_COMMAND": "grep .", "MAP_SETTINGS": "1"},
        {"MAP_SETTINGS": "1"},
    ):
        assert volume.split(ONLY_MISSING="true", **other) == ["0", "1"]
        assert volume.run("merge", **other).code == 75
    volume.write(INPUT, LINES[::-1])
    assert made(volume, **new) == LINES[::-1]


BAD = {
    "nothing": ({}, "MAP_COMMAND must be a program, got '': set a command such as grep ERROR"),
    "no word": ({"MAP_COMMAND": " \n"}, "MAP_COMMAND must be a program, got ' \\\\n'"),
    "an empty word": ({"MAP_COMMAND": "''"}, "MAP_COMMAND must be a program, got \\\"''\\\""),
    "half a quote": (
        {"MAP_COMMAND": "grep 'a"},
        "MAP_COMMAND must have quotes in pairs, got \\\"grep 'a\\\": add a quote",
    ),
    "a backslash at the end": (
        {"MAP_COMMAND": "cat \\"},
        "MAP_COMMAND must not end with a single backslash, got 'cat \\\\\\\\': remove",
    ),
    "a placeholder in a script": (
        {"MAP_COMMAND": "sh -c 'cat {input}'"},
        "MAP_COMMAND must have {input} as a separate word, got 'cat {input}': pass the file name "
        "as an argument, as in sh -c '... \\\"$1\\\" ...' x {input}",
    ),
    "a placeholder in a variable": (
        {"MAP_COMMAND": "env A={inputs} cat"},
        "got 'A={inputs}': pass the file name as an argument, as in sh -c '...",
    ),
    "a placeholder in an option": ({"MAP_COMMAND": "sort -o{output}"}, "got '-o{output}'"),
    **{
        f"codes {codes}": (
            {"MAP_COMMAND": "cat", "MAP_EXIT_OK": codes},
            f"MAP_EXIT_OK must be numbers from 0 to 255 with commas, got '{codes}': use",
        )
        for codes in ("0,x", "0,256", "0,", "")
    },
    "not 0": ({"MAP_COMMAND": "cat", "MAP_EXIT_OK": "1"}, "must contain 0, got '1': add 0"),
    "no size": ({"MAP_COMMAND": "cat", "SCRATCH_SIZE": "1Gi"}, "got '1Gi'"),
    "no folder for a program that may need none": (
        {"MAP_COMMAND": "cat", "SCRATCH_DIR": "/nothing/there"},
        "SCRATCH_DIR must be a folder that can be written, got '/nothing/there': use another",
    ),
    "no folder": (
        {"MAP_COMMAND": "cat {input}", "SCRATCH_DIR": "/nothing/there"},
        "SCRATCH_DIR must be a folder that can be written, got '/nothing/there': use another",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "words"), BAD.values(), ids=BAD)
def test_bad_settings(volume: Volume, settings: Mapping[str, object], words: str) -> None:
    """One message and exit code 2, before anything is read."""
    outcome = volume.run("map", PART_ID=0, **settings)
    assert outcome.code == 2
    assert words in outcome.words
    assert outcome.words.count("\n") == 1


@pytest.mark.folder
@given(st.lists(st.sampled_from(["a", " ", "\t", "'", '"', "\\", "\\$ ", "é", "*"])).map("".join))
def test_words_of_a_shell(text: str) -> None:
    """A command is split into the same words as by a POSIX shell. What a shell does not accept is
    refused."""
    script = 'set -f; eval "set -- $1" && for word; do printf "%s\\n" "$word"; done'
    done = subprocess.run(["sh", "-c", script, "x", text], capture_output=True, text=True)
    is_right = done.returncode == 0 and not re.search(r"(?<!\\)(\\\\)*\\$", text)
    try:
        assert "".join(f"{word}\n" for word in command.split_words("X", text)) == done.stdout
        assert is_right
    except WorkerError:
        assert not is_right


@pytest.mark.folder
def test_words_on_several_lines() -> None:
    """A line end separates words, unless it is quoted. A backslash before a line end removes it."""
    for text, words in {
        "a\nb": ["a", "b"],
        "a \\\n  b": ["a", "b"],
        "a\\\nb": ["ab"],
        "a \\\n": ["a"],
        "'a\nb\\\n'": ["a\nb\\\n"],
        '"a\nb\\\nc"': ["a\nbc"],
        "'' \"\"": ["", ""],
    }.items():
        assert command.split_words("X", text) == words


# At its end, prints the maximum memory of the process.
PEAK = r"""if True:
    import atexit, re, sys
    def peak():
        found = re.findall(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())
        print("PEAK", *found, file=sys.stderr)
    atexit.register(peak)
"""


def test_ten_gibibytes(volume: Volume) -> None:
    """A program's output is handled in pieces: 256 MiB take far less memory than their size, so 10
    GiB do, too. In a bucket 256 MiB are 31 parts of an upload, each 20 KiB larger than the one
    before; 10 GiB would be 700 parts, the last of 22 MiB."""
    size, most = 256 << 20, (96 if volume.in_bucket else 32) << 20
    volume = volume.having(MAP_COMMAND=shell(f"{REST}exec head -c {size} /dev/zero"))
    volume.split()
    outcome = volume.call("map", PART_ID=0, prologue=PEAK)
    assert outcome.code == 0, outcome.words
    assert int(outcome.words.split("PEAK")[1]) << 10 < most
    assert volume.record("0")["output"][1] == size
    volume.merge()
    assert volume.final("result.out") == bytes(size)


SLEEPER = shell("echo $$ >&2; exec sleep 1000")
DEAF = shell('trap "" TERM; echo $$ >&2; while :; do sleep 0.1; done')


@pytest.mark.parametrize("what", [SLEEPER, DEAF, shell("sleep 1000 & echo $! >&2; wait")])
def test_sigterm(volume: Volume, what: str) -> None:
    """SIGTERM to a worker ends its program, also one that ignores SIGTERM, and the processes that
    it started. Then the worker exits with 143, and no output is visible."""
    volume = volume.having(MAP_COMMAND=what)
    volume.split()
    before = set(volume.tree())
    prologue = "from fanfold import child; child.ENDING = 1"
    with volume.start("map", prologue=prologue, PART_ID=0) as worker:
        assert worker.stderr
        pid = int(worker.stderr.readline())
        worker.send_signal(signal.SIGTERM)
        outcome = finish(worker)
    assert (outcome.code, outcome.words) == (143, "")
    assert is_dead(pid)
    assert [name for name in set(volume.tree()) - before if volume.tree()[name] is not None] == []
    assert volume.temporary_files() == []


def is_dead(pid: int) -> bool:
    """Whether a process has ended, or will in a moment after SIGKILL."""
    for _ in range(1000):
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_nothing_of_the_group_is_left(volume: Volume) -> None:
    """Processes that a program leaves behind are ended after its end, also if they have closed
    their pipes."""
    for script in ("cat; sleep 1000 & echo $! >&2", "cat; sleep 1000 >&- 2>&- & echo $! >&2"):
        volume.split(MAP_COMMAND=shell(script))
        outcome = volume.run("map", PART_ID=0, MAP_COMMAND=shell(script))
        assert outcome.code == 0
        assert is_dead(int(outcome.words.split()[0]))


HOLDS = shell(
    'setsid sh -c "echo \\$\\$ >$TMPDIR/pid; $1" & '
    "until [ -s $TMPDIR/pid ]; do sleep 0.01; done; cat"
)


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("exec sleep 100", None),
        ("exec yes", None),
        ("exec sleep 100 >&2", b""),
        ("exec yes >&2", b""),
        ("sleep 0.5; echo late", b"late\n"),
    ],
)
def test_what_has_left_the_group(
    volume: Volume, scratch: Path, monkeypatch: pytest.MonkeyPatch, what: str, more: bytes | None
) -> None:
    """A process that leaves the group of its program lives on. Its output to stdout counts if it
    ends soon; otherwise no output counts. A worker does not wait for a process that keeps stderr
    open."""
    monkeypatch.setattr(child, "ENDING", 2 if more else 0.5)
    volume = volume.having(MAP_COMMAND=f"{HOLDS} '{what}'")
    start = time.monotonic()
    try:
        if more is None:
            outcome = refused(volume)
            assert outcome.code == 2
            assert "MAP_COMMAND must end after all its processes, got a process" in outcome.words
        else:
            assert made(volume) == LINES + more
    finally:
        with suppress(ProcessLookupError):
            os.kill(int((scratch / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - start < 30  # a sleep of 100 seconds


def test_stderr_comes_line_by_line(volume: Volume) -> None:
    """Whole lines are logged while the program runs. A line of more than 64 KiB is logged in
    pieces."""
    script = "printf a >&2; echo b >&2; head -c 100000 /dev/zero >&2; cat; exec sleep 1000"
    volume.split(MAP_COMMAND=shell(script))
    with volume.start("map", PART_ID=0, MAP_COMMAND=shell(script)) as worker:
        assert worker.stderr
        assert worker.stderr.readline() == "ab\n"
        assert worker.stderr.read(65537) == "\0" * 65537
        worker.send_signal(signal.SIGTERM)
        assert finish(worker).code == 143


CHANGES = {
    "grows": "echo >>$f",
    "is written again": "cp -p $f $t; cp -p $t $f",
    "is touched": "touch $f",
    "is replaced": "cp -p $f $f.new; mv $f.new $f",
    "is restored": "mv $f $f.old; echo >$f; cat $f >&2; rm $f; mv $f.old $f",
    "is removed": "rm $f",
}


@pytest.mark.folder  # in a bucket, tests/faults/test_inputs.py replaces it
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "step", ["map by stdin", "map", "group", "last step", "last step of parts"]
)
def test_a_file_that_changes(volume: Volume, step: str, change: str) -> None:
    """An input changes while the program runs and has its path, or has it as stdin: the output does
    not count, whatever the bytes, the size and the time of the file are in the end."""
    script = f'f="$1"; t=$TMPDIR/copy; cat "$f"; sleep 0.02; {CHANGES[change]}'
    command = shell(script, "{inputs}")
    volume.write_level_1([LINES])
    settings = {"REDUCE_COMMAND": command}
    if step.startswith("map"):
        given = shell(f"cat; set {volume.root / INPUT}; {script}") if "stdin" in step else command
        settings = {"MAP_COMMAND": given}
        volume.split(**settings)
        outcome = volume.run("map", PART_ID=0, **settings)
    elif step == "group":
        settings = {"PROCESS_COMMAND": command}
        outcome = volume.run("process", 0, 1, FILES=1, **settings)
    elif step == "last step":
        outcome = volume.run("merge", 1, LEVEL=1, **settings)
    else:
        outcome = log_count(volume, MAP_COMMAND="cat", **settings)
    assert outcome.code == 75, outcome.words
    assert (" No such file " if change == "is removed" else " has changed from ") in outcome.words
    records = [name for name in volume.tree() if re.search(r"(l2|results)/.*(json|txt)$", name)]
    assert records == []
    assert step.startswith("last") or not list(volume.root.glob("cout-output/*/0.json"))
    assert volume.temporary_files() == []


HALF = """if True:
    import os, signal
    from fanfold.streams import Stream
    def half(stream):
        yield b"half of a copy, " * 1000
        os.kill(os.getpid(), signal.SIGKILL)
    Stream.pieces = half
"""


@pytest.mark.parametrize("step", ["map", "merge"])
def test_half_a_copy(volume: Volume, scratch: Path, step: str) -> None:
    """A worker is killed while it copies inputs to SCRATCH_DIR, before it has checked them: no
    later attempt uses this copy as its input."""
    volume = volume.having(NUM_PARTS=2, MAP_COMMAND="cat {input}", REDUCE_COMMAND="cat {inputs}")
    volume.split()
    if step == "merge":
        if not volume.in_bucket:
            return  # its inputs are files
        assert map_all(volume).code == 0
    for _ in range(2):
        assert volume.call(step, prologue=HALF, PART_ID=0).code == -signal.SIGKILL
    left = [path for path in scratch.rglob("*") if path.is_file()]
    assert [path.read_bytes()[:9] for path in left] == [b"half of a"] * 2
    assert len({path.name for path in left}) == 1
    assert log_count(volume).code == 0
    assert volume.final("result.out") == LINES
    assert [path for path in scratch.rglob("*") if path.is_file()] == left


# --- groups and last steps


def log_count(volume: Volume, **settings: object) -> Outcome:
    """Split, map every part by program, merge; return the outcome of merge."""
    volume = volume.having(**settings)
    outcome = map_all(volume)
    assert outcome.code == 0, outcome.words
    return volume.run("merge")


ARGO = {"RUN_ID": "a", "RUN_STARTED": 1}
FILES = [b"d\nb\n", b"", b"a", b"c\n", b"e\n"]
JOINED_FILES = b"".join(FILES)


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("cat", JOINED_FILES),
        ("cat {inputs}", JOINED_FILES),
        (shell("cat | tac"), b"e\nb\nd\nac\n"),
        ("sort {inputs} -o {output}", b"a\nb\nc\nd\ne\n"),
        (shell(REST), b""),
    ],
)
def test_groups(volume: Volume, scratch: Path, command: str, result: bytes) -> None:
    """A program in every step of process-data: it gets a group's files joined, or as files."""
    volume.write_level_1(FILES)
    volume = volume.having(PROCESS_COMMAND=command, REDUCE_COMMAND=command, **ARGO)
    outcome = volume.aggregate(5, levels=3)
    assert outcome.code == 0, outcome.words
    assert volume.final(JOINED) == result
    assert volume.summary()["output_bytes"] == len(result)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("count", [8, 6, 2])
def test_between_files(volume: Volume, count: int) -> None:
    """Nothing is added between files, whether they are joined by a program or by fanfold: they may
    be compressed, or pictures."""
    files = [b"", b"a", b"", b"b\n", b"\n", b"c", b"\xff\0", b""][:count]
    volume.write_level_1(files)
    result = b"".join(files)
    for program in ("cat", "cat {inputs}", ""):
        assert volume.run("merge", count, LEVEL=1, REDUCE_COMMAND=program).code == 0
        assert volume.final(JOINED) == result
        group = volume.having(PROCESS_COMMAND=program, FAN_IN=8, FILES=count)
        assert group.run("process", 0, 1).code == 0
        assert group.run("merge", 1, LEVEL=2).code == 0
        assert group.final(JOINED) == result
    for program in ("cat", ""):
        parts = volume.having(NUM_PARTS=2, MAP_COMMAND=shell(f"{REST}printf x"))
        assert log_count(parts, REDUCE_COMMAND=program).code == 0
        assert volume.final("result.out") == b"xx"


def test_a_level_that_no_program_has_made(volume: Volume) -> None:
    """With PROCESS_COMMAND the files of level 1 are not used as output of the program."""
    volume.write_level_1(FILES)
    outcome = volume.run("merge", 5, LEVEL=1, PROCESS_COMMAND="sort {inputs}")
    assert outcome.code == 2
    assert "LEVEL must be 2 or more with PROCESS_COMMAND, got 1" in outcome.words


def test_another_output_of_the_same_run(volume: Volume) -> None:
    """A retry with another OUTPUT also writes this file. An older run's file of this name does not
    stay."""
    volume = volume.having(MAP_COMMAND="cat", RUN_STARTED=1)
    older = volume.having(RUN_ID="a", OUTPUT="report")
    assert log_count(older, REDUCE_COMMAND=shell(f"{REST}echo old")).code == 0
    for name in ("wrong", "report"):
        newer = volume.having(RUN_ID="b", OUTPUT=name)
        assert log_count(newer, REDUCE_COMMAND=shell(f"{REST}echo new")).code == 0
        assert volume.final(name) == b"new\n"


@pytest.mark.parametrize("command", ["cat |sort", "cat&& sort", "cat;", "cat 2>/dev/null", "a<b"])
def test_an_operator_of_a_shell(volume: Volume, command: str) -> None:
    """No shell runs the command: split refuses the operator before it reads. In quotes it is an
    argument."""
    for worker in ("split", "map"):
        outcome = volume.run(worker, PART_ID=0, MAP_COMMAND=command)
        assert outcome.code == 2
        assert re.search("must have no [|&;<>]+ outside of quotes", outcome.words)
    assert made(volume, MAP_COMMAND="grep -e '|' -e '2' -e \\;") == b"".join(
        line for line in LINES.splitlines(keepends=True) if re.search(b"[|2;]", line)
    )


def test_environment_of_a_group(volume: Volume) -> None:
    """The program gets FILE_NUMBER, LEVEL and the names of the files."""
    volume.write_level_1(FILES)
    script = shell(f'{REST}echo "$FILE_NUMBER $LEVEL $INPUT_NAMES"')
    volume = volume.having(PROCESS_COMMAND=script, REDUCE_COMMAND="cat")
    assert volume.aggregate(5, levels=2).code == 0
    names = [LEVEL_1.format(number) for number in range(5)]
    groups = [names[:2], names[2:4], names[4:]]
    lines = [f"{n} 1 " + "\n".join(group) + "\n" for n, group in enumerate(groups)]
    assert (volume.final(JOINED) or b"").decode() == "".join(lines)


@pytest.mark.parametrize("parts", [1, 4])
def test_reduce(volume: Volume, parts: int) -> None:
    """The outputs of the parts, in order, become OUTPUT through a program. Numbers are added up as
    before. The program also runs if no map wrote, but not for count.py."""
    volume = volume.having(NUM_PARTS=parts, MAP_COMMAND="grep WARN")
    warned = re.findall(rb"\d+ WARN\n", LINES)
    for what, result in {
        "cat": b"".join(warned),
        "cat {inputs}": b"".join(warned),
        shell("cat | tac"): b"".join(reversed(warned)),
        shell("wc -l >$1", "{output}"): b"%d\n" % len(warned),
        shell(f"{REST}echo $NUM_PARTS"): b"%d\n" % parts,
    }.items():
        assert log_count(volume, REDUCE_COMMAND=what).code == 0
        assert volume.final("result.out") == result
        assert volume.totals() == {}
    counting = volume.having(MAP_COMMAND="", REDUCE_COMMAND="wc -l", RUN_DIR="counting")
    counting.count(counting.split())
    outcome = counting.run("merge")
    assert (outcome.code, counting.results()) == (2, {})
    assert "REDUCE_COMMAND must be set with MAP_COMMAND or MAP_SETTINGS" in outcome.words
    custom = counting.having(MAP_SETTINGS="1")
    assert custom.fan_out(lambda part: {"n": sum(1 for _ in part.lines())}).code == 0
    assert custom.final("result.out") == b"0\n"
    assert custom.totals() == {"n": len(LINES.splitlines())}


def test_a_suffix(volume: Volume) -> None:
    """{output} has the suffix of the file that it becomes."""
    script = shell(f"{REST}echo $1 >$1", "{output}")
    volume = volume.having(MAP_COMMAND="cat", REDUCE_COMMAND=script, OUTPUT="some.tar.gz")
    assert log_count(volume).code == 0
    assert (volume.final("some.tar.gz") or b"").endswith(b"/output.gz\n")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (
            "false",
            1,
            "REDUCE_COMMAND must end with an exit code in REDUCE_EXIT_OK=0, got exit code 1",
        ),
        (
            "echo a",
            2,
            "REDUCE_COMMAND must read all of its stdin, got a program that ended earlier",
        ),
        ("no-such-program", 2, "that can be run, got 'no-such-program' with 0 arguments"),
        ("cat {input}", 2, "REDUCE_COMMAND must have {inputs} for 2 inputs, got {input}"),
        (
            "cat a{inputs}",
            2,
            "REDUCE_COMMAND must have {inputs} as a separate word, got 'a{inputs}'",
        ),
        (shell("cat >$1; exit 3", "{output}"), 3, "exit code 3"),
    ],
)
def test_a_last_step_that_fails(volume: Volume, command: str, code: int, words: str) -> None:
    """A failed program publishes nothing, in both pipelines and in groups."""
    volume.write_level_1(FILES[:4])
    volume = volume.having(NUM_PARTS=2, MAP_COMMAND="cat")
    settings = {"REDUCE_COMMAND": command}
    step = {"PROCESS_COMMAND": command}
    for outcome, name in (
        (log_count(volume, **settings), "REDUCE"),
        (volume.having(**settings).aggregate(4), "REDUCE"),
        (volume.run("process", 1, 1, **step), "PROCESS"),
    ):
        assert outcome.code == code, outcome.words
        assert words.replace("REDUCE", name) in outcome.words
    assert (volume.final("result.out"), volume.final(JOINED), volume.results()) == (None, None, {})
    assert volume.temporary_files() == []


def test_another_last_step(volume: Volume) -> None:
    """A retry of a last step keeps its published result. With another program, it publishes
    another."""
    volume = volume.having(MAP_COMMAND="cat", **ARGO)
    assert log_count(volume, REDUCE_COMMAND="wc -l").code == 0
    first = volume.results()
    assert volume.run("merge", REDUCE_COMMAND="wc -l").code == 0
    assert volume.results() == first
    for settings in ({}, {"REDUCE_SETTINGS": "2"}):
        assert volume.run("merge", REDUCE_COMMAND="wc -w", **settings).code == 0
        assert volume.results() != first
        assert volume.final("result.out") == b"%d\n" % len(LINES.split())
        first = volume.results()


def test_functions(volume: Volume, capsys: pytest.CaptureFixture[str]) -> None:
    """The same in Python: a function gets streams and yields bytes, and must read all streams."""

    def backwards(streams: Sequence[Stream]) -> Iterator[bytes]:
        yield from (b"".join(stream.pieces())[::-1] for stream in reversed(streams))

    def some(streams: Sequence[Stream]) -> Iterator[bytes]:
        yield from streams[0].lines()

    volume.write_level_1(FILES)
    for number in range(3):
        assert process_group(backwards, [str(number), "1"], volume.environ({"FILES": 5})) == 0
    assert reduce_outputs(backwards, ["3"], volume.environ({"LEVEL": 2})) == 0
    assert volume.final(JOINED) == b"".join([FILES[4], *FILES[2:4], *FILES[:2]])
    volume = volume.having(NUM_PARTS=2, MAP_COMMAND="cat")
    assert map_all(volume).code == 0
    assert reduce_outputs(backwards, [], volume.environ({})) == 0
    assert volume.final("result.out") == LINES[::-1]
    assert process_group(some, ["1", "1"], volume.environ({})) == 2
    assert reduce_outputs(some, [], volume.environ({})) == 2
    assert capsys.readouterr().err.count("the function must read all of ") == 2


@pytest.mark.parametrize("ids", [{}, ARGO], ids=["by hand", "argo"])
@pytest.mark.parametrize("suffix", [".png", ".tar.gz", ".json", ""])
def test_file_suffix(volume: Volume, suffix: str, ids: Mapping[str, object]) -> None:
    """The files of all levels and {output} have the suffix. The result keeps its name."""
    for number in range(5):
        volume.write(f"aggregation-demo/l1/{number}{suffix}", b"%d" % number)
    script = "sh -c 'cat \"$@\" >$0; echo ${0##*/} >>$0' {output} {inputs}"
    volume = volume.having(PROCESS_COMMAND=script, REDUCE_COMMAND=script, FILE_SUFFIX=suffix, **ids)
    assert volume.aggregate(5, levels=2).code == 0
    name = f"output{suffix}\n"
    assert volume.final(JOINED) == f"01{name}23{name}4{name}{name}".encode()
    made = [name for name in volume.tree() if re.search(r"/l2/.*/\d-[0-9a-f]{16}", name)]
    assert len(made) == 3
    assert all(re.search(rf"[0-9a-f]{{16}}{re.escape(suffix)}$", name) for name in made)
    if suffix:
        words = volume.run("process", 0, 1, FILES=5, FILE_SUFFIX=".txt").words
        assert "level 1 must have aggregation-demo/l1/0.txt, got no such file" in words


@pytest.mark.parametrize("suffix", ["txt", "/a", ".a/b", ".", "..", ".a b", ".é", f".{'a' * 70}"])
def test_no_suffix(volume: Volume, suffix: str) -> None:
    """One message and exit code 2."""
    for worker, arguments in (("process", (0, 1)), ("merge", (1,))):
        outcome = volume.run(worker, *arguments, FILE_SUFFIX=suffix)
        assert outcome.code == 2
        assert "FILE_SUFFIX must be like .txt or .tar.gz" in outcome.words


def test_levels_by_hand(volume: Volume) -> None:
    """Files of another program are not used: a level is made again, or is missing."""
    volume.write_level_1(FILES[:4])
    assert volume.having(PROCESS_COMMAND="sort {inputs}").aggregate(4).code == 0
    assert volume.final(JOINED) == b"b\nd\na\nc\n"
    for settings in ({"PROCESS_COMMAND": "cat {inputs}"}, {"PROCESS_SETTINGS": "2"}, {}):
        outcome = volume.run("merge", 2, LEVEL=2, **settings)
        assert outcome.code == 75
        assert volume.having(**settings).aggregate(4).code == 0
        assert volume.final(JOINED) == b"".join(FILES[:4])
    assert volume.run("merge", 2, LEVEL=2, PROCESS_COMMAND="sort {inputs}").code == 0
    assert volume.final(JOINED) == b"b\nd\na\nc\n"


def examples() -> dict[str, dict[str, str]]:
    """Return the example in each row of the table in workers/programs.md, by step."""
    rows = re.findall(r"(?m)^\| `(\w+\.py.*?)` \| `(\w+_COMMAND=.*?)` \|", DOCUMENT)
    return {step: dict(word.split("=", 1) for word in shlex.split(text)) for step, text in rows}


def test_the_examples(volume: Volume) -> None:
    """The examples do what the table says."""
    found = examples()
    assert len(found) == 4
    log = log_count(volume, NUM_PARTS=3, **found["map.py"], **found["merge.py"])
    assert log.code == 0, log.words
    errors = re.findall(rb"\d+ ERROR\n", LINES)
    assert volume.final("result.out") == b"".join(sorted(errors))

    files = [b"a\nd\n", b"b\n", b"c\n", b"", b"0\n"]
    volume.write_level_1(files)
    levels = volume.having(**found["process.py FILE_NUMBER LEVEL"], **found["merge.py NUMBER"])
    assert levels.aggregate(5, levels=2).code == 0
    assert volume.final(JOINED) == b"0\na\nb\nc\nd\n"


def test_the_example_of_a_function(volume: Volume, tmp_path: Path) -> None:
    """The example of process_group in workers/programs.md."""
    (source,) = re.findall(r"(?ms)^```python\n((?:(?!```).)*?process_group.*?)^```", DOCUMENT)
    script = tmp_path / "merge_sorted.py"
    script.write_text(source)
    volume.write_level_1([b"a\nd\n", b"b\nc\n"])
    prologue = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    outcome = volume.call("process", 0, 1, prologue=prologue)
    assert outcome.code == 0, outcome.words
    assert volume.run("merge", 1, LEVEL=2).code == 0
    assert volume.final(JOINED) == b"a\nb\nc\nd\n"
