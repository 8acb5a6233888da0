"""The local run, as somebody with a checkout uses it."""

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
from fake import FakeOSS
from pipeline import KEYWORDS, model, settings_of
from run import sample

ROOT = Path(__file__).resolve().parents[2]


RUNNER = str(ROOT / "workers/run.py")


def start(
    folder: Path,
    *arguments: str,
    program: Sequence[str] = (RUNNER,),
    environ: Mapping[str, str] = os.environ,
) -> subprocess.Popen[str]:
    """The runner, with its outputs in `folder`."""
    strange = {"PLAN_ID": "of another run", "MAP_SETTINGS": "of another map"}
    return subprocess.Popen(
        [sys.executable, *program, *arguments, "--folder", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, **strange},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    output, words = process.communicate(timeout=120)
    return process.returncode, output, words


def result(folder: Path) -> dict[str, int]:
    """The one result.json in the folder."""
    (path,) = folder.glob("runs/*/result.json")
    found: dict[str, int] = json.loads(path.read_bytes())
    return found


def test_the_sample(tmp_path: Path) -> None:
    """Without an input it counts a sample, and a second time nothing is counted again."""
    code, output, words = finish(start(tmp_path, "log-count"))
    log = (tmp_path / "log-count-data.txt").read_bytes()
    again = finish(start(tmp_path, "log-count"))

    assert (code, "counted before" in words) == (0, False)
    assert log.count(b"\n") >= 10_000
    assert result(tmp_path) == {
        word: log.count(word.encode()) for word in ("INFO", "WARN", "ERROR", "DEBUG")
    }
    assert "result.json" in output
    assert (again[0], "5 of 5 parts were counted before" in again[2]) == (0, True)


def test_inputs_of_one_name(tmp_path: Path) -> None:
    """Two inputs of one name, counted at once, do not meet."""
    runs = []
    for word in ("INFO", "WARN"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "app.log").write_text(f"{word}\n" * 100_000)
        log = str(tmp_path / word / "app.log")
        runs.append(start(tmp_path / "out", "log-count", "--input", log, "--parts", "3"))

    outputs = [finish(run)[1] for run in runs]

    assert [output.split()[1:4:2] for output in outputs] == [["100,000", "0"], ["0", "100,000"]]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run on an input that is being counted is refused with a sentence."""
    log = tmp_path / "long.log"
    with log.open("wb") as file:
        file.truncate(4 << 30)
    first = start(tmp_path, "log-count", "--input", str(log), "--parts", "1", "--mode", "range")
    time.sleep(1)

    second = finish(start(tmp_path, "log-count", "--input", str(log)))
    first.terminate()

    assert second[0] == 1
    assert "another run is at work in" in second[2]
    assert finish(first)[0] != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM, sent to the runner alone, end the workers, too."""
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
    """SIGTERM that comes when the worker is there and its Popen is not yet."""
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
    """The processes with this folder among their settings."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if str(folder).encode()[1:] in path.read_bytes():
                found.append(path.parent.name)
    return found


def test_a_failing_worker(tmp_path: Path) -> None:
    """The worker's sentence and its exit code are those of the run."""
    code, output, words = finish(start(tmp_path, "log-count", "--keywords", "a,a"))

    assert (code, output) == (2, "")
    assert "KEYWORDS is 'a,a'" in words


@pytest.mark.parametrize(("files", "fan_in", "workers"), [(32, 2, 31), (20, 3, 11), (1, 8, 1)])
def test_aggregate(tmp_path: Path, files: int, fan_in: int, workers: int) -> None:
    """The letters in order, by as many workers as the tree has nodes."""
    code, output, _ = finish(
        start(tmp_path, "aggregate", "--files", str(files), "--fan-in", str(fan_in))
    )

    demo = tmp_path / f"aggregate-{files}/aggregation-demo"
    letters = "".join((demo / f"l1/{number}.txt").read_text() for number in range(files))
    assert (code, (demo / "result.txt").read_text()) == (0, letters)
    assert f"{workers} workers on" in output


@pytest.fixture
def fake() -> Iterator[FakeOSS]:
    """An OSS."""
    with FakeOSS() as served:
        yield served


def keys(fake: FakeOSS) -> dict[str, str]:
    """The environment of one who works in its buckets."""
    return {**os.environ, **settings_of(fake)}


@pytest.mark.parametrize("mode", ["copy", "range"])
def test_log_count_in_a_bucket(tmp_path: Path, fake: FakeOSS, mode: str) -> None:
    """The requests and the bytes of a run: of the log nothing is sent, and read is a little around
    each cut, and each byte once where no copies are made. A second run counts nothing again."""
    log = "".join(sample()).encode()
    fake.bucket().put("logs/app.log", log)
    arguments = ("log-count", "--work-dir", "oss://bucket/logs", "--input", "app.log")

    code, output, words = finish(start(tmp_path, *arguments, "--mode", mode, environ=keys(fake)))

    assert code == 0, words
    counted = fake.counters.read()
    run = output.rpartition("oss://bucket/")[2].strip().removesuffix("result.json")
    written = {key: fake.bucket().get(key) for key in fake.bucket().objects if run in key}
    copies = [key for key in written if "/split-output/" in key and key.endswith(".txt")]
    assert json.loads(written[f"{run}result.json"]) == model([log], KEYWORDS)
    assert len(copies) == (5 if mode == "copy" else 0)
    # 4 cuts, 5 parts, the plan 7 times, 5 results, result.json
    requests = {"HeadObject": 1, "GetObject": 22, "PutObject": 7, "ListObjectsV2": 1}
    cuts, edges = 4 * (64 << 10), 5 * 2 * 4096
    if mode == "copy":
        # For each copy its size, two edges of what is copied, and two of what is read.
        uploads = ("ListMultipartUploads", "InitiateMultipartUpload", "UploadPartCopy")
        requests |= dict.fromkeys((*uploads, "CompleteMultipartUpload"), 5)
        requests |= {"HeadObject": 6, "GetObject": 42, "ListObjectsV2": 2}
        assert counted["down_by_key"]["logs/app.log"] == cuts + edges
        read = sum(counted["down_by_key"][key] for key in copies)
        assert 0 <= read - len(log) - edges < 5000  # and answers to what is no GET
    else:
        assert counted["down_by_key"]["logs/app.log"] == len(log) + cuts
    assert counted["requests"] == requests
    assert counted["up"]["PutObject"] == sum(
        len(data) for key, data in written.items() if key not in copies
    )
    assert list(tmp_path.rglob("*.json")) == []

    words = finish(start(tmp_path, *arguments, "--mode", mode, environ=keys(fake)))[2]
    assert "5 of 5 parts were counted before" in words


def test_make_in_a_bucket(fake: FakeOSS) -> None:
    """What one types. The sample log gets a name of its own."""
    work_dir = "WORK_DIR=oss://bucket/team a"
    environ = keys(fake)
    for command in (("run", "MODE=range"), ("aggregate", "FILES=5")):
        done = subprocess.run(
            ["make", *command, work_dir], cwd=ROOT, env=environ, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    log = fake.bucket().get("team a/log-count-sample.txt")
    (totals,) = (key for key in fake.bucket().objects if key.endswith("/result.json"))
    demo = "team a/aggregate-5/aggregation-demo"
    letters = b"".join(fake.bucket().get(f"{demo}/l1/{number}.txt") for number in range(5))
    assert json.loads(fake.bucket().get(totals)) == model([log], KEYWORDS)
    assert fake.bucket().get(f"{demo}/result.txt") == letters


def test_the_tests_of_a_real_bucket(fake: FakeOSS) -> None:
    """They run in the bucket they are given, and leave nothing; without one they say so. Some of
    them here: all take minutes."""
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
    """One sentence and exit 2, whether it is the runner or a worker that finds out."""
    arguments = ("log-count", "--work-dir", "oss://bucket", "--input", "app.log")
    bare = {**keys(fake), "OSS_ACCESS_KEY_ID": "", "OSS_ACCESS_KEY_SECRET": ""}
    wrong = {**keys(fake), "OSS_ACCESS_KEY_SECRET": "a-wrong-one"}

    for environ, said in ((bare, "no credentials for OSS"), (wrong, "SignatureDoesNotMatch")):
        code, output, words = finish(start(tmp_path, *arguments, environ=environ))
        assert (code, output, words.count("\n")) == (2, "", 1)
        assert said in words
        assert "a-wrong-one" not in words


def test_the_commands_of_the_readme() -> None:
    """Every make command in the README that runs here does, quotes and dollars included."""
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line.partition(" #")[0].strip() for line in lines if line.startswith("make ")]
    local = [line for line in commands if line.startswith(("make run", "make aggregate"))]
    odd = """make run 'INPUT=workers/run.py' 'KEYWORDS=it'"'"'s,$5,"' MODE=range"""

    assert len(local) >= 3
    for command in [*local, odd]:
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stderr)
