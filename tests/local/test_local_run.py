"""The local run, as a user with a checkout runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import run
from fake import FakeOSS
from fanfold.page import MARK
from pipeline import KEYWORDS, model, settings_of
from run import sample

ROOT = Path(__file__).resolve().parents[2]


RUNNER = str(ROOT / "workers/run.py")


def start(
    folder: Path,
    *arguments: str,
    program: Sequence[str] = (RUNNER,),
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start the runner, with its outputs in `folder`."""
    strange = {"PLAN_ID": "of another run", "MAP_SETTINGS": "of another map", "RUN_ID": "another"}
    return subprocess.Popen(
        [sys.executable, *program, *arguments, "--folder", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, **strange},
        cwd=cwd,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return its exit code, stdout and stderr."""
    output, words = process.communicate(timeout=120)
    return process.returncode, output, words


def result(folder: Path) -> dict[str, int]:
    """Return the only result.json in the folder."""
    (path,) = folder.glob("runs/*/result.json")
    found: dict[str, int] = json.loads(path.read_bytes())
    return found


def test_the_sample(tmp_path: Path) -> None:
    """Without an input it counts a sample. The second time nothing is counted again."""
    code, output, words = finish(start(tmp_path, "log-count"))
    log = (tmp_path / "log-count-data.txt").read_bytes()
    again = finish(start(tmp_path, "log-count"))

    assert (code, "by earlier runs" in words) == (0, False)
    assert log.count(b"\n") >= 10_000
    assert result(tmp_path) == {
        word: log.count(word.encode()) for word in ("INFO", "WARN", "ERROR", "DEBUG")
    }
    assert "result.json" in output
    assert (again[0], "5 of 5 parts were mapped by earlier runs" in again[2]) == (0, True)


def test_several_parts_per_worker(tmp_path: Path) -> None:
    """The result is the same. Parts that were counted one by one count for groups, and the other
    way round."""
    log = tmp_path / "app.log"
    log.write_text("INFO\nWARN\n" * 100)
    arguments = ("log-count", "--input", str(log), "--parts", "10", "--parts-per-pod")
    code, output, words = finish(start(tmp_path, *arguments, "4"))
    assert (code, "by earlier runs" in words) == (0, False)
    assert result(tmp_path) == {"INFO": 100, "WARN": 100, "ERROR": 0, "DEBUG": 0}
    (records,) = tmp_path.glob("runs/*/cout-output/*")
    assert len(list(records.iterdir())) == 10
    for number in (1, 2, 9):
        (records / f"{number}.json").unlink()
    for per_pod, before in (("4", 7), ("1", 10)):
        code, output, words = finish(start(tmp_path, *arguments, per_pod))
        assert (code, f"{before} of 10 parts were mapped by earlier runs" in words) == (0, True)
        assert output.split()[1:4:2] == ["100", "100"]
    assert finish(start(tmp_path, *arguments, "0"))[0] == 2


def files_in(folder: Path) -> list[str]:
    """Return all files, with one name for what differs per run, plan and job."""
    differs = r"\d{8}T\d{6}Z-local-\d+-[0-9a-f]{16}|\b[0-9a-f]{32}\b"
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(re.sub(differs, "ID", name) for name in found)


def test_outputs_of_files_stay(tmp_path: Path) -> None:
    """A later run in the same folder, also in another mode, removes no output that any
    outputs.jsonl names."""
    here, out = tmp_path / "in", tmp_path / "out"
    here.mkdir()
    files = ["--input", f"{here}/", "--parts", "2"]
    program = ["--map", "cat", "--map-settings", "1", "--mode", "files"]
    for number, output in enumerate(("map-output", "sc-output", "map-output")):
        (here / str(number)).write_text("INFO\n")
        more = [*program, "--output-dir", output]
        code, _, words = finish(start(out, "log-count", *files, *more))
        assert code == 0, words
    code, _, words = finish(start(out, "log-count", *files, "--mode", "range"))
    assert code == 0, words
    (made,) = out.glob("runs/*/outputs.jsonl")
    lines = [json.loads(line) for line in made.read_text().splitlines()]
    # In the third run the first file's output is from the first run.
    assert [Path("/", line["output"]).read_text() for line in lines] == ["INFO\n"] * 3
    jobs = [re.findall("/([0-9a-f]{32})/", line["output"])[0] for line in lines]
    assert len({*jobs}) == 2
    assert jobs[1] == jobs[2]


def test_files_that_fail(tmp_path: Path) -> None:
    """A run after a repair maps only the failed files, if MAP_SETTINGS was set in the run before.
    Otherwise the run prints a hint."""
    here, out, started = tmp_path / "in", tmp_path / "out", tmp_path / "started"
    here.mkdir()
    for number in range(4):
        (here / str(number)).write_text("bad" if number == 2 else "good")
    program = f"sh -c 'echo >>{started}; grep -q good'"
    for more, starts in (([], 3 + 3 + 4), (["--map-settings", "1"], 3 + 3 + 1)):
        (here / "2").write_text("bad")
        options = ["--input", f"{here}/", "--mode", "files", "--map", program, *more]
        code, _, words = finish(start(out, "log-count", *options, "--map-exit-ok", "0"))
        assert code == 2
        assert ("Without MAP_SETTINGS the next run maps all" in words) == (not more)
        assert "event=file_failed" in words
        assert "run again with the same KEYWORDS or MAP_SETTINGS, which maps only" in words
        (here / "2").write_text("good")
        code, output, words = finish(start(out, "log-count", *options))
        assert code == 0, words
        (outputs,) = re.findall("(?m)^outputs: (.*)", output)
        assert [path.name for path in Path(outputs).rglob("2")] == ["2"]
        assert started.read_text().count("\n") == starts
        started.unlink()


def test_a_name_with_an_at(tmp_path: Path) -> None:
    """A file with a name that begins with @ is not a list if INPUT is its path."""
    (tmp_path / "@x").write_text("INFO\n")
    (tmp_path / "x").write_text("none\n")
    run = start(tmp_path / "local", "log-count", "--input", "./@x", "--mode", "files", cwd=tmp_path)
    code, output, words = finish(run)
    assert code == 0, words
    assert "1 files, 0 failed" in output


def test_runs_leave_what_does_not_grow(tmp_path: Path) -> None:
    """Every run has its own results; the newest five are kept. No other file of earlier runs is
    kept, and no copies or levels of the last run. This is true if every run has another log, and if
    a run was killed."""
    log, out = tmp_path / "app.log", tmp_path / "out"
    seen: list[str] = []
    left = []
    for number in range(7):
        log.write_text("INFO\n" * (10 + number))
        if number == 5:
            killed = start(out, "aggregate", "--files", "9")
            while not [*out.glob("aggregate-9/aggregation-demo/l2/local-*")]:
                assert killed.poll() is None
            killed.terminate()
            assert finish(killed)[0] != 0
        for arguments in (("log-count", "--input", str(log)), ("aggregate", "--files", "9")):
            code, _, words = finish(start(out, *arguments))
            assert code == 0, words
        assert result(out)["INFO"] == 10 + number
        there = sorted(path.name for path in out.glob("runs/*/results/2*"))
        for mine in (*out.glob("runs/*/results"), out / "aggregate-9/aggregation-demo/l2"):
            (mine / "notes").mkdir(exist_ok=True)
        seen = sorted({*seen, *there})
        assert (there, len(seen)) == (seen[-5:], number + 1)
        left.append(files_in(out))

    assert left[4] == left[5] == left[6]
    assert len([name for name in left[6] if name.endswith("/notes")]) == 2
    gone = re.compile(r"\.tmp$|split-output/.*\.txt$|/l[2-9]/(?!notes)")
    assert [name for name in left[6] if gone.search(name)] == []


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """A run prints its own totals, and a notice that the final result is of a run with a later
    start."""
    log = tmp_path / "app.log"
    later = time.time_ns() + 3600 * 10**9
    future = f"import runpy, time; time.time_ns = lambda: {later}; RUN = {RUNNER!r}"
    program = ("-c", f"{future}; runpy.run_path(RUN, run_name='__main__')")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "workers")}
    ended = []
    for lines, runner in ((10, program), (20, (RUNNER,))):
        log.write_text("INFO\n" * lines)
        arguments = ("log-count", "--input", str(log))
        ended.append(finish(start(tmp_path, *arguments, program=runner, environ=environ)))

    assert [output.split()[1] for _, output, _ in ended] == ["10", "20"]
    assert ["of a run with a later start" in words for *_, words in ended] == [False, True]
    assert result(tmp_path)["INFO"] == 10


def test_a_folder_that_holds_the_run(tmp_path: Path) -> None:
    """The output of a run must not be its input, or the input of the next run."""
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("x")
    for arguments in (("aggregate",), ("log-count",)):
        for _ in range(2):
            done = start(tmp_path / "out", *arguments, "--input", f"{tmp_path}/")
            code, output, words = finish(done)
            assert (code, output) == (2, "")
            assert "INPUT must not overlap" in words
            assert "use another INPUT, OUTPUT or RUN_DIR" in words


def test_inputs_of_one_name(tmp_path: Path) -> None:
    """Two inputs with the same base name can be counted in parallel."""
    runs = []
    for word in ("INFO", "WARN"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "app.log").write_text(f"{word}\n" * 100_000)
        log = str(tmp_path / word / "app.log")
        runs.append(start(tmp_path / "out", "log-count", "--input", log, "--parts", "3"))

    outputs = [finish(run)[1] for run in runs]

    assert [output.split()[1:4:2] for output in outputs] == [["100,000", "0"], ["0", "100,000"]]


def test_inputs_with_long_names(tmp_path: Path) -> None:
    """Names of the maximum length that differ only in the last letter: each has its own run. A
    UTF-8 name is cut between two letters."""
    for name in ("x" * 250 + "é", "x" * 250 + "e", "é" * 127, "é" * 126 + "e"):
        log = tmp_path / name
        log.write_text("INFO\n" * len(name))
        code, output, words = finish(start(tmp_path / "out", "log-count", "--input", str(log)))
        assert (code, output.split()[:2]) == (0, ["INFO", str(len(name))]), words

    runs = [path.name for path in tmp_path.glob("out/runs/*")]
    assert len(runs) == 4
    assert max(len(os.fsencode(name)) for name in runs) <= 255
    assert {name[:99] for name in runs} == {"x" * 99, "é" * 99}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run on an input that is being counted is refused with a message."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(4 << 30)
    first = start(tmp_path, "log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    time.sleep(1)

    second = finish(start(tmp_path, "log-count", "--input", str(log)))
    first.terminate()

    assert second[0] == 1
    assert "is in use by another run: wait until that run ends" in second[2]
    assert finish(first)[0] != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM to the runner also end the workers."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(16 << 30)
    run = start(tmp_path, "log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    time.sleep(1.5)
    run.send_signal(number)

    code, _, _ = finish(run)

    assert code != 0
    assert workers_in(tmp_path) == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_signal_while_a_worker_starts(tmp_path: Path) -> None:
    """SIGTERM after the worker has started and before its Popen exists."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(16 << 30)
    prologue = f"""
import os, runpy, signal, subprocess
class Popen(subprocess.Popen):
    def __init__(self, command, **rest):
        super().__init__(command, **rest)
        if "count.py" in str(command):
            os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen = Popen
runpy.run_path({RUNNER!r}, run_name="__main__")
"""
    arguments = ("log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "workers")}
    run = start(tmp_path, *arguments, program=("-c", prologue), environ=environ)

    assert finish(run)[0] != 0
    assert workers_in(tmp_path) == []


def workers_in(folder: Path) -> list[str]:
    """Return the processes with this folder in their settings."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if str(folder).encode()[1:] in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_a_failing_worker(tmp_path: Path) -> None:
    """The run ends with the worker's message and exit code."""
    code, output, words = finish(start(tmp_path, "log-count", "--keywords", "a,a"))

    assert (code, output) == (2, "")
    assert "got 'a,a', where 'a' is repeated" in words


@pytest.mark.parametrize(("files", "fan_in", "workers"), [(32, 2, 31), (20, 3, 11), (1, 8, 1)])
def test_aggregate(tmp_path: Path, files: int, fan_in: int, workers: int) -> None:
    """The letters are in order. There is one worker per node of the tree."""
    code, output, _ = finish(
        start(tmp_path, "aggregate", "--files", str(files), "--fan-in", str(fan_in))
    )

    demo = tmp_path / f"aggregate-{files}/aggregation-demo"
    letters = "".join((demo / f"l1/{number}.txt").read_text() for number in range(files))
    assert (code, (demo / "result.txt").read_text()) == (0, letters)
    assert f"{workers} workers on" in output
    assert Path(output.partition("\nreport: ")[2].rstrip("\n")).read_text().startswith(MARK)


def test_programs(tmp_path: Path) -> None:
    """A map and a last step by programs. They run again in the next run, because the programs may
    have changed, unless MAP_SETTINGS describes them. Their stderr is shown."""
    log, out, script = tmp_path / "app.log", tmp_path / "out", tmp_path / "map.sh"
    log.write_text("".join(f"{n % 7} {'ERROR' if n % 3 else 'INFO'}\n" for n in range(1000)))
    for word in ("ERROR", "INFO"):
        script.write_text(f"echo note >&2; head -c 100000 /dev/zero >&2; echo >&2; grep {word}")
        options = ("--map", f"sh {script}", "--map-exit-ok", "0,1", "--reduce", "sort -u")
        code, output, words = finish(start(out, "log-count", "--input", str(log), *options))
        assert code == 0, words
        lines = [line for line in log.read_text().splitlines() if word in line]
        (result,) = out.glob("runs/*/result.out")
        assert result.read_text().splitlines() == sorted(set(lines))
        assert f"\nresult: {result}\n" in output
        assert "\0\n" in words

    failing = ("--map", "sh -c 'cat >/dev/null; echo because >&2; exit 7'")
    code, _, words = finish(start(out, "log-count", "--input", str(log), *failing))
    assert (code, "because" in words) == (7, True)
    assert workers_in(tmp_path) == []


def test_errors_name_the_settings_of_make(tmp_path: Path) -> None:
    """The worker's NUM_PARTS is PARTS in make, and SPLIT_MODE is MODE."""
    for option, name in (("--parts", "PARTS"), ("--mode", "MODE"), ("--map", "MAP")):
        code, _, words = finish(start(tmp_path, "log-count", option, "'"))
        assert (code, f'error="{name} must ' in words) == (2, True), words
    code, _, words = finish(start(tmp_path, "log-count", "--input", "/no/file"))
    assert (code, "got 'no/file': copy it to /no/file, or correct INPUT" in words) == (2, True)
    code, _, words = finish(start(tmp_path, "aggregate", "--fan-in", "1"))
    assert (code, "FAN_IN must be a whole number from 2 " in words) == (2, True)


def test_a_reduce_without_a_map(tmp_path: Path) -> None:
    """One message and exit code 2, before split runs."""
    code, output, words = finish(start(tmp_path, "log-count", "--reduce", "sort -u"))
    assert (code, output, words.count("\n")) == (2, "", 1)
    assert "REDUCE must be set with MAP, got only REDUCE: set MAP too" in words
    assert [path for path in tmp_path.glob("runs/*/*") if not path.name.startswith(".")] == []


def test_settings_of_a_program(tmp_path: Path) -> None:
    """With MAP_SETTINGS a part that was mapped before a failure is not mapped again."""
    log, seen = tmp_path / "app.log", tmp_path / "seen"
    log.write_text("a\nb\nc\n")
    what = f"sh -c 'echo $PART_ID >>{seen}; cat; test $PART_ID = 0 || ! test -e {tmp_path}/bad'"
    for settings in ("", "1"):
        seen.write_text("")
        arguments = ("log-count", "--input", str(log), "--parts", "2", "--map", what,
                     "--map-settings", settings)  # fmt: skip
        (tmp_path / "bad").touch()
        assert finish(start(tmp_path / "out", *arguments))[0] == 1
        (tmp_path / "bad").unlink()
        assert finish(start(tmp_path / "out", *arguments))[0] == 0
        assert sorted(seen.read_text().split()) == ["0", "1", "1"] if settings else list("0011")


def test_aggregate_a_folder(tmp_path: Path) -> None:
    """The files of a folder, in the order of their numbers, by programs: again with one file less,
    and with a wrong number."""
    folder, out = tmp_path / "in put", tmp_path / "out"
    folder.mkdir()
    for number in range(11):
        (folder / f"it's {number}.csv").write_text(f"{number}\n")
    programs = (
        *("--process", "sh -c 'cat \"$@\" >$0; echo ${0##*/} >>$0' {output} {inputs}"),
        *("--reduce", "sh -c 'cat \"$@\" | tac' x {inputs}"),
    )
    for count in (11, 10):
        code, _, words = finish(start(out, "aggregate", "--input", f"{folder}/", *programs))
        assert code == 0, words
        (result,) = out.glob("aggregate/*/aggregation-demo/result.txt")
        lines = result.read_text().split()
        assert [int(line) for line in lines if line.isdigit()] == [*reversed(range(count))]
        assert {line for line in lines if not line.isdigit()} == {"output.csv"}
        (folder / f"it's {count - 1}.csv").unlink()
    for files, source, sentence in (
        ("8", f"{folder}/", "FILES must be 9, the number of files in"),
        ("", f"{tmp_path}/nothing/", "INPUT must be a folder with files, got "),
        ("", result, f"INPUT must be a folder, got the file '{result}': name the folder"),
    ):
        done = finish(start(out, "aggregate", "--input", str(source), "--files", files))
        assert (done[0], sentence in done[2], done[2].count("\n")) == (2, True, 1), done[2]


@pytest.fixture
def fake() -> Iterator[FakeOSS]:
    """A fake OSS."""
    with FakeOSS() as served:
        yield served


def keys(fake: FakeOSS) -> dict[str, str]:
    """The environment of a user with a bucket."""
    return {**os.environ, **settings_of(fake)}


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count_in_a_bucket(tmp_path: Path, fake: FakeOSS, mode: str) -> None:
    """The requests and bytes of a run. No byte of the log is sent. A little is read around each
    cut, and each byte once, from the log itself if there are no copies. No copies are left, and a
    second run makes none, because it counts nothing again."""
    log = "".join(sample()).encode()
    fake.bucket().put("logs/app.log", log)
    arguments = ("log-count", "--work-dir", "oss://bucket/logs", "--input", "app.log")

    code, output, words = finish(start(tmp_path, *arguments, "--mode", mode, environ=keys(fake)))

    assert code == 0, words
    counted = fake.counters.read()
    run = output.partition("result: oss://bucket/")[2].partition("result.json")[0]
    written = {key: fake.bucket().get(key) for key in fake.bucket().objects if run in key}
    assert json.loads(written[f"{run}result.json"]) == model([log], KEYWORDS)
    assert [key for key in written if key.endswith(".txt")] == []
    looks = 4 * (64 << 10) + 16  # the cuts, and the first bytes
    read = {key: size for key, size in counted["down_by_key"].items() if key.endswith(".txt")}
    assert counted["down_by_key"]["logs/app.log"] == looks + (len(log) if mode == "range" else 0)
    made = counted["requests"].get("UploadPartCopy", 0)
    assert (made, len(read)) == ((5, 5) if mode == "copy" else (0, 0))
    assert counted["requests"].get("DeleteObject", 0) == made
    assert "UploadPart" not in counted["requests"]
    # The mark of the run's start, two plans, five records, result.json and the page twice, the
    # summary and its record.
    assert counted["requests"]["PutObject"] == 1 + 2 + 5 + 6
    assert counted["up"]["PutObject"] == sum(map(len, written.values()))
    assert list(tmp_path.rglob("*.json")) == []

    fake.counters.reset()
    words = finish(start(tmp_path, *arguments, "--mode", mode, environ=keys(fake)))[2]
    assert "5 of 5 parts were mapped by earlier runs" in words
    counted = fake.counters.read()
    assert "UploadPartCopy" not in counted["requests"]
    assert counted["down_by_key"]["logs/app.log"] == looks


def test_a_long_key(tmp_path: Path, fake: FakeOSS) -> None:
    """A key has no limit of 255 bytes per step."""
    log = "".join(sample()).encode()
    for key in ("x" * 304, "é" * 500):
        fake.bucket().put(f"logs/{key}", log)
        arguments = ("log-count", "--work-dir", "oss://bucket/logs", "--input", key)
        code, _, words = finish(start(tmp_path, *arguments, environ=keys(fake)))
        assert code == 0, words

    results = [key for key in fake.bucket().objects if key.endswith("/result.json")]
    totals = [json.loads(fake.bucket().get(key)) for key in results if "/results/" not in key]
    assert totals == [model([log], KEYWORDS)] * 2


@pytest.mark.parametrize("upper", [False, True])
def test_a_bucket_behind_a_proxy(tmp_path: Path, fake: FakeOSS, upper: bool) -> None:
    """The workers use the proxy of the runner. All of them connect directly to a host in
    no_proxy."""
    log = "".join(sample()).encode()
    fake.bucket().put("app.log", log)
    arguments = ("log-count", "--work-dir", "oss://bucket", "--input", "app.log")
    proxies = {"http_proxy": fake.endpoint, "no_proxy": "other.test"}
    if upper:
        proxies = {name.upper(): value for name, value in proxies.items()}
    environ = {**keys(fake), "OSS_ENDPOINT": f"http://{fake.domain}", **proxies}

    code, output, words = finish(start(tmp_path, *arguments, environ=environ))
    assert code == 0, words
    assert int(output.split()[1].replace(",", "")) == model([log], KEYWORDS)["INFO"]

    proxies = {name: value.replace("other", "127.0.0.1,other") for name, value in proxies.items()}
    nowhere = {name: re.sub("http:.*", "http://127.0.0.2:9", it) for name, it in proxies.items()}
    code, _, words = finish(start(tmp_path, *arguments, environ={**keys(fake), **nowhere}))
    assert code == 0, words


def test_what_a_client_of_http_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These variables reach the workers only if the work is in a bucket."""
    cases = [
        name
        for each in ("http", "https", "all", "no")
        for name in (f"{each}_proxy", f"{each}_PROXY".upper())
    ]
    given = [*cases, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "OSS_REGION"]
    given += ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"]
    for name in [*given, "PARTS", "http_proxy_of_another"]:
        monkeypatch.setenv(name, "cn-hangzhou")

    for work_dir in ("oss://bucket", ""):
        with run.run_place(tmp_path, "a", work_dir) as (settings, *_):
            passed = {name for name, value in settings.items() if value == "cn-hangzhou"}
        assert passed == (set(given) if work_dir else set())


def test_too_many_keywords(tmp_path: Path) -> None:
    """If the keywords are too long to start a worker, there is a message."""
    for text, code in (("x" * 131062, 0), ("x" * 131063, 2)):
        done = finish(start(tmp_path, "log-count", "--keywords", text))
        assert done[0] == code, done[2]
    assert done[2].count("\n") == 1
    assert "KEYWORDS must have at most 131062 bytes" in done[2]


def test_make_in_a_bucket(fake: FakeOSS) -> None:
    """The make commands of a user. The sample log gets another name."""
    work_dir = "WORK_DIR=oss://bucket/team a"
    environ = keys(fake)
    programs = ("run", "MODE=range", "MAP=grep ERROR", "REDUCE=wc -l {inputs}", "MAP_EXIT_OK=0,1")
    fake.bucket().put("team a/in/9", b"A\n")
    fake.bucket().put("team a/in/10", b"B\n")
    folder = ("aggregate", "INPUT=in/", "PROCESS=cat", "REDUCE=tac {inputs}")
    for command in (programs, folder, ("run", "MODE=range"), ("aggregate", "FILES=5")):
        done = subprocess.run(
            ["make", *command, work_dir], cwd=ROOT, env=environ, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    log = fake.bucket().get("team a/log-count-sample.txt")
    results = [key for key in fake.bucket().objects if key.endswith("/result.json")]
    (totals,) = (key for key in results if "/results/" not in key)
    demo = "team a/aggregate-5/aggregation-demo"
    letters = b"".join(fake.bucket().get(f"{demo}/l1/{number}.txt") for number in range(5))
    assert json.loads(fake.bucket().get(totals)) == model([log], KEYWORDS)
    assert fake.bucket().get(f"{demo}/result.txt") == letters
    made = [fake.bucket().get(key) for key in fake.bucket().objects if "/results/" in key]
    counted = [data.split()[-2] for data in made if data.endswith(b" total\n")]
    assert counted == [b"%d" % log.count(b"ERROR")]
    assert b"B\nA\n" in made


def test_the_tests_of_a_real_bucket(fake: FakeOSS) -> None:
    """They run in the bucket in WORK_DIR, and leave nothing. Without a bucket they print that they
    are skipped. Only some are run here: all take minutes."""
    fake.bucket().put("team/log", b"INFO")
    place = "WORK_DIR=oss://bucket/team"
    environ = {**keys(fake), "PYTEST_ADDOPTS": "-k 'test_bucket.py or test_pipeline.py or killed'"}
    outputs = []
    for work_dir in (place, "WORK_DIR="):
        done = subprocess.run(
            ["make", "test-oss", work_dir], cwd=ROOT, env=environ, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        outputs.append(done.stdout)

    assert re.search(r"\b[3-9]\d passed", outputs[0])
    assert (outputs[1][:8], outputs[1].count("\n")) == ("skipped:", 1)
    assert fake.counters.read()["requests"]["UploadPartCopy"] > 0
    assert (list(fake.bucket().objects), fake.uploads()) == (["team/log"], {})


def test_a_bucket_without_keys(tmp_path: Path, fake: FakeOSS) -> None:
    """One message and exit code 2, whether the runner or a worker detects it."""
    arguments = ("log-count", "--work-dir", "oss://bucket", "--input", "app.log")
    bare = {**keys(fake), "OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": ""}
    wrong = {**keys(fake), "OSS_ACCESS_KEY_SECRET": "a-wrong-one"}

    for environ, sentence in ((bare, "no credentials for OSS"), (wrong, "SignatureDoesNotMatch")):
        code, output, words = finish(start(tmp_path, *arguments, environ=environ))
        assert (code, output, words.count("\n")) == (2, "", 1)
        assert sentence in words
        assert "a-wrong-one" not in words


def test_the_commands_of_the_documents() -> None:
    """Every make command of the documents that runs here succeeds, with its quotes and dollars."""
    documents = [(ROOT / name).read_text() for name in ("README.md", "workers/local-run.md")]
    local = {
        line.partition(" #")[0].strip(): None
        for text in documents
        for line in text.splitlines()
        if line.startswith(("make run", "make aggregate"))
    }
    odd = """make run 'INPUT=workers/run.py' 'KEYWORDS=it'"'"'s,$5,"' MODE=range"""

    assert len(local) > 5
    for command in [*local, odd]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stderr)
