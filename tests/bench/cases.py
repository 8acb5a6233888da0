"""The cases that need no cluster: the workers as processes, compared with other tools."""

from __future__ import annotations

import builtins
import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import pairwise, product
from pathlib import Path
from statistics import median

from count import count as count_words
from fanfold import records as fanfold_records
from fanfold.names import LEVEL_FILE, LEVEL_RESULT, NEWEST_PLAN, PART_RECORD, RESULT, RESULTS
from fanfold.plan import Plan
from measure import (
    CORES,
    GIB,
    HERE,
    KEYWORDS,
    MIB,
    ROOT,
    Command,
    Job,
    Runs,
    Totals,
    environ,
    in_turn,
    measure,
    middle,
    records,
    worker,
    workers,
    write_log,
)
from report import Section, size, spread


@dataclass(frozen=True)
class Sizes:
    """The sizes of the inputs, and the numbers of runs."""

    repeats: int
    starts: int  # repeats of a job of milliseconds
    log: int  # bytes, of log-count and split
    part: int  # bytes, of count
    sparse: int  # bytes, of the sparse log of split
    parts: tuple[int, ...]  # of split and merge
    files: tuple[int, ...]  # of the aggregation
    pods: int  # real ones, at scale
    simulated: int  # parts there
    without: tuple[str, ...] = ()  # peers to leave out


FULL = Sizes(
    5, 21, GIB, 256 * MIB, 1 << 40, (10, 1000, 10_000, 100_000), (32, 512, 100_000), 2000, 10_000
)
QUICK = Sizes(
    2, 5, 64 * MIB, 32 * MIB, 1 << 36, (10, 1000, 10_000), (32, 512), 20, 40, without=("pyspark",)
)  # fmt: skip


def walls(runs: Runs) -> list[tuple[str, list[float]]]:
    """The seconds of each job that was run."""
    return [(label, [run["wall"] for run in found]) for label, found in runs.items() if found]


def each(runs: Runs, number_of: Mapping[str, int]) -> dict[str, str]:
    """Microseconds per part or file of each job."""
    return {
        label: f"{middle(found, 'wall') / number_of[label] * 1e6:.0f}"
        for label, found in runs.items()
    }


# --- log-count, whole


def log_count_job(folder: Path, log: str, mode: str, parts: int) -> Job:
    """Split, as many counts at once as there are cores, merge."""
    run_dir = f"run-{mode}-{parts}"
    settings = {"INPUT": log, "RUN_DIR": run_dir, "NUM_PARTS": parts, "SPLIT_MODE": mode}
    result = folder / run_dir / "result.json"
    return Job(
        f"fanfold {mode}, {parts} part{'s' * (parts > 1)}",
        [
            [worker(folder, "split", **settings)],
            [worker(folder, "count", **settings, PART_ID=number) for number in range(parts)],
            [worker(folder, "merge", **settings)],
        ],
        lambda _: dict(json.loads(result.read_bytes())),
        [folder / run_dir],
    )


def tallied(output: str) -> Totals:
    """The sum per word of lines of `uniq -c`. A word can have several lines."""
    totals = dict.fromkeys(KEYWORDS, 0)
    for count, word in re.findall(r"(\d+)[ :]+(\w+)", output):
        totals[word] += int(count)
    return totals


def peers(folder: Path, log: str, without: Sequence[str]) -> list[Job]:
    """The other tools, used as their users would use them."""
    env = environ(folder, SPARK_LOCAL_IP="127.0.0.1", POLARS_MAX_THREADS=CORES)
    words = " ".join(f"-e {word}" for word in KEYWORDS)
    grep, tally = f"grep -aoF {words}", "sort | uniq -c"

    def shell(
        label: str, script: str, tool: str, totals: Callable[[str], Totals] | None, *clean: Path
    ) -> Job:
        missing = "" if shutil.which(tool) else f"{tool} is not installed"
        # A script runs in the folder and does not contain its name, which can have any letter.
        command = "sh", "-c", f'cd "$HOME" && {script}'
        return Job(label, [[(command, env)]], totals, clean, missing)

    def library(name: str) -> Job:
        missing = "" if importlib.util.find_spec(name) else f"{name} is not installed"
        if name == "pyspark" and not shutil.which("java"):
            missing = "java is not installed"
        if name in without:
            missing = "not with QUICK=1"
        program = (
            sys.executable,
            str(HERE / "programs.py"),
            name,
            str(folder / log),
            ",".join(KEYWORDS),
        )
        label = {"duckdb": "DuckDB", "polars": "Polars", "pyspark": "PySpark"}[name]
        return Job(label, [[(program, env)]], lambda output: dict(json.loads(output)), (), missing)

    by_word = f"printf '%s\\n' {' '.join(KEYWORDS)} | xargs -P {CORES} -I WORD sh -c"
    count = f'n=$(rg -acF --count-matches --include-zero WORD {log}); echo "$n WORD"'
    by_piece = f"parallel --no-notice -j {CORES} '{grep} {{}} | {tally}' ::: pieces/*"
    return [
        shell("cp (a copy)", f"cp {log} copy", "cp", None, folder / "copy"),
        shell("cat (a read)", f"cat {log} >/dev/null", "cat", None),
        shell("grep -o, sort, uniq -c", f"{grep} {log} | {tally}", "grep", tallied),
        shell("ripgrep -o, sort, uniq -c", f"rg -aoNIF {words} {log} | {tally}", "rg", tallied),
        shell("ripgrep, one pass per keyword", f"{by_word} '{count}'", "rg", tallied),
        shell(
            f"split -n l/{CORES}, parallel, grep",
            f"mkdir pieces && split -n l/{CORES} {log} pieces/ && {by_piece}",
            "parallel",
            tallied,
            folder / "pieces",
        ),
        shell(
            "parallel --pipepart, grep",
            f"parallel --no-notice -j {CORES} --pipepart -a {log} --block -1 '{grep} | {tally}'",
            "parallel",
            tallied,
        ),
        library("duckdb"),
        library("polars"),
        library("pyspark"),
    ]


def versions() -> str:
    """The versions of the installed peers."""
    found = [
        f"{name} {metadata.version(name)}"
        for name in ("duckdb", "polars", "pyspark")
        if importlib.util.find_spec(name)
    ]
    for tool in ("java", "parallel", "rg", "cp", "grep"):
        if shutil.which(tool):
            asked = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=60)
            found.insert(0, asked.stdout.partition("\n")[0])
    return ", ".join(found)


PROFILE = "The time of a map in this log, in one process and without its start:"


def pieces(log: Path) -> Iterator[bytes]:
    """The bytes of a log as a worker reads them."""
    with log.open("rb", buffering=0) as file:
        while piece := file.read(MIB):
            yield piece


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """The CPU seconds of each call, in this process."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds


def pass_per_word(log: Path, words: Sequence[str]) -> int:
    """Read a log, and search each piece once per word."""
    return sum(piece.count(word.encode()) for piece in pieces(log) for word in words)


def counted(log: Path, words: Sequence[str]) -> Totals:
    """Count the words of a log as count.py does."""
    return count_words(pieces(log), words)


def profile(log: Path, repeats: int) -> list[Sequence[str]]:
    """The CPU seconds of the reads of a log, and of the reads and a count."""
    work: dict[str, Callable[[], object]] = {"read only": partial(pass_per_word, log, ())}
    for words in (*((word,) for word in KEYWORDS), KEYWORDS):
        work[f"count {', '.join(words)}"] = partial(counted, log, words)
    return [(label, spread(times(each, repeats))) for label, each in work.items()]


def log_count(sizes: Sizes, folder: Path) -> Section:
    """The whole log-count, compared with other tools."""
    section = Section(
        "log-count",
        "The whole log-count",
        f"A log of {size(sizes.log)} in the page cache, {len(KEYWORDS)} keywords. A run is split, "
        "one map per core at a time, and merge. Each worker is one process. All jobs except `cp` "
        "and `cat` found the same totals: a different total ends the benchmark. Two things limit "
        "the workers: the copy of each byte from the page cache, and the passes for the keywords. "
        "With a keyword in each line every keyword costs about one pass of `bytes.count`, and "
        "nothing is shared. With rare keywords only ERROR, which has only frequent letters, costs "
        "a pass, and the other keywords share faster passes for a few rare letters. "
        "A custom map can be another program. The network of a pod is usually slower than both. "
        f"{versions()}.",
    )
    # Chosen by name: a choice by time would pick the luckiest run.
    ours, copy = "fanfold range, 2 parts", "fanfold copy, 2 parts"
    for log, every, what, faster in (
        ("dense", 1, "a keyword per line", 3),
        ("rare", 1000, "a keyword in one of 1,000 lines", 1.5),
    ):
        expected = write_log(folder / log, sizes.log, records(KEYWORDS, every), KEYWORDS)
        jobs = [
            log_count_job(folder, log, mode, n) for mode in ("range", "copy") for n in (1, 2, 8)
        ]
        theirs = peers(folder, log, sizes.without)
        runs = in_turn([*jobs, *theirs], sizes.repeats, folder, expected)
        shares = profile(folder / log, sizes.repeats)
        (folder / log).unlink()
        wall = {label: median(values) for label, values in walls(runs)}
        ratio = {label: seconds / wall[ours] for label, seconds in wall.items()}
        ratios = {label: f"{share:.2f}" for label, share in ratio.items()}
        section.compare(runs, f"time / {ours}", ratios, f"### A log with {what}")
        section.tables.append((PROFILE, ("", "CPU seconds"), shares))
        section.bars += [(f"{log}: {label}", values) for label, values in walls(runs)]
        fastest = min(ratio[job.label] for job in theirs if job.totals and job.label in ratio)
        section.target(f"{what}: the fastest peer's time / `range`", ">", faster, fastest)
        both = wall["cp (a copy)"] + wall[ours]
        section.target(f"{what}: `copy` / `cp` and `range`", "<", 1.3, wall[copy] / both)
        peak = max(run["peak"] for job in jobs for run in runs[job.label])
        section.target(f"{what}: peak of a worker", "<", 32, peak / MIB, " MiB")
    return section


# --- split


def write_sparse(path: Path, total: int, parts: int) -> None:
    """Write a sparse log: a few lines around the end of each of `parts`, and holes between."""
    line = next(records(KEYWORDS))
    with path.open("wb") as file:
        file.truncate(total)
        for number in range(1, parts):
            file.seek(total * number // parts - len(line))
            file.write(line * 2)


def split(sizes: Sizes, folder: Path) -> Section:
    """split.py alone, in both modes and with many sizes."""
    write_log(folder / "small", MIB, records(KEYWORDS), KEYWORDS)
    write_log(folder / "large", sizes.log, records(KEYWORDS), KEYWORDS)
    write_sparse(folder / "sparse", sizes.sparse, max(sizes.parts))
    section = Section(
        "split",
        "split alone",
        "The mode `range` takes one small read per part. The mode `copy` also copies each byte. "
        "The sparse file has lines around each cut, and holes between them.",
    )
    jobs, parts_of = [], {}
    for name, mode, parts in product(("small", "large", "sparse"), ("range", "copy"), sizes.parts):
        if mode == "copy" and (name == "sparse" or parts > 10_000):
            continue  # the rows of 10,000 parts show the cost of a file per part
        total = size((folder / name).stat().st_size)
        label = f"{total}{' sparse' * (name == 'sparse')}, {mode}, {parts:,} parts"
        parts_of[label] = parts
        settings = {"INPUT": name, "RUN_DIR": "run", "SPLIT_MODE": mode, "NUM_PARTS": parts}
        command = worker(folder, "split", **settings)
        jobs.append(Job(label, [[command]], clean=[folder / "run"]))
    runs = in_turn(jobs, sizes.repeats, folder)
    section.compare(runs, "µs per part", each(runs, parts_of))
    section.bars = [(label, values) for label, values in walls(runs) if "range" in label]
    for label, values in section.bars:
        if "sparse" in label:
            section.figures[str(parts_of[label])] = median(values)
            if parts_of[label] == 1000:
                section.target(f"split of {label}", "<", 0.5, median(values), " s")
    return section


# --- count


def record_name(plan: bytes, part: int, words: Sequence[str]) -> str:
    """The name of the record of a part, for a plan.json and the keywords."""
    job = fanfold_records.job_id(Plan(NEWEST_PLAN, [plan]).id, {"keywords": list(words)})
    return PART_RECORD.format(job, part)


def count(sizes: Sizes, folder: Path) -> Section:
    """count.py alone. Each row changes one thing of the first row."""
    many = [*KEYWORDS, "TRACE", "FATAL", "NOTICE", "ALERT", "PANIC", "AUDIT", "CRIT", "EMERG"]
    many += ["DENIED", "TIMEOUT", "REFUSED", "ABORT"]
    many += [name for name in dir(builtins) if name.endswith("Error")][: 64 - len(many)]
    base = {"words": 4, "every": 1, "length": 100, "lines": 1, "chunk": MIB}
    variants: list[tuple[str, dict[str, int]]] = [
        ("4 keywords, one in 100 bytes, lines of 100 bytes, 1 MiB at once", {}),
        ("1 keyword", {"words": 1}),
        ("16 keywords", {"words": 16}),
        *((f"{n} keywords, one in 100,000 bytes", {"words": n, "every": 1000}) for n in (16, 64)),
        ("a keyword in 10 bytes", {"length": 10, "lines": 10}),
        ("a keyword in 100,000 bytes", {"every": 1000}),
        ("no keyword", {"every": 0}),
        ("lines of 20 bytes, as many keywords", {"length": 20, "every": 5}),
        ("lines of 10,000 bytes", {"lines": 100}),
        ("no line end", {"lines": 0}),
        *((f"{size(n)} at once", {"chunk": n}) for n in (65536, 262144, 4 * MIB, 16 * MIB)),
    ]
    jobs, expected = [], {}
    for label, other in variants:
        have = {**base, **other}
        name = "-".join(str(have[key]) for key in ("words", "every", "length", "lines"))
        words = many[: have["words"]]
        settings = {"INPUT": name, "RUN_DIR": f"run-{name}", "NUM_PARTS": 1, "SPLIT_MODE": "range"}
        settings["KEYWORDS"] = ",".join(words)
        if name not in expected:
            source = records(words, have["every"], have["length"], have["lines"])
            expected[name] = write_log(folder / name, sizes.part, source, words)
            measure(Job("split", [[worker(folder, "split", **settings)]]), folder)
        script, env = worker(folder, "count", **settings, PART_ID=0)
        program = (
            f"import sys; sys.path.insert(0, {str(workers(folder))!r}); import count;"
            "from fanfold.storage import folder;"
            f"folder.PIECE = {have['chunk']}; sys.exit(count.main())"
        )
        if have["chunk"] != MIB:
            script = (sys.executable, "-c", program)
        plan = (folder / f"run-{name}" / NEWEST_PLAN).read_bytes()
        result = folder / f"run-{name}" / record_name(plan, 0, words)

        def unlike(_: str, result: Path = result, name: str = name) -> Totals:
            found = dict(json.loads(result.read_bytes())["counts"])
            return {} if found == expected[name] else found

        jobs.append(Job(label, [[(script, env)]], unlike, [result]))
    runs = in_turn(jobs, sizes.repeats, folder, {})
    section = Section(
        "count",
        "count alone",
        f"One part of {size(sizes.part)} in the mode `range`, from the start of the process to its "
        "end. Each row changes one thing of the first row. GiB per CPU second is the rate of one "
        "core that does not wait for its storage.",
        "GiB per CPU second",
    )
    section.bars = [
        (label, [sizes.part / GIB / run["cpu"] for run in found]) for label, found in runs.items()
    ]
    rates = {label: spread(values) for label, values in section.bars}
    section.compare(runs, section.unit, rates)
    section.figures = {"rate": median(section.bars[0][1]) * GIB}
    for number in (16, 64):
        label = f"{number} keywords, one in 100,000 bytes"
        passes = partial(pass_per_word, folder / f"{number}-1000-100-1", many[:number])
        ratio = median(times(passes, sizes.repeats)) / middle(runs[label], "cpu")
        section.target(f"{label}: a pass of `bytes.count` per keyword / count.py", ">", 4, ratio)
    return section


# --- merge and the aggregation


def write_records(folder: Path, parts: int) -> str:
    """Write a plan of `parts` parts and the records of all parts, as maps write them."""
    run_dir = f"merge-{parts}"
    settings = {"INPUT": "small", "RUN_DIR": run_dir, "NUM_PARTS": parts, "SPLIT_MODE": "range"}
    measure(Job("split", [[worker(folder, "split", **settings)]]), folder)
    text = (folder / run_dir / NEWEST_PLAN).read_bytes()
    plan = Plan(NEWEST_PLAN, [text])
    made_by = fanfold_records.maker({}, 1767225600.12)
    for part, (at, stop) in enumerate(pairwise(plan.cuts())):
        path = folder / run_dir / record_name(text, part, KEYWORDS)
        record = {
            "job": path.parent.name,
            "plan": plan.id,
            "part": str(part),
            "bytes": stop - at,
            "counts": dict.fromkeys(KEYWORDS, 1),
            "output": None,
            **made_by,
        }
        path.write_bytes(fanfold_records.seal(record))
    return run_dir


def merge(sizes: Sizes, folder: Path) -> Section:
    """merge.py alone, and the levels of the aggregation."""
    section = Section(
        "merge",
        "merge, and the aggregation",
        "The merge of log-count is one process. Here one process runs all levels of process-data. "
        "On a cluster each pod also takes the time of its start.",
    )
    write_log(folder / "small", MIB, records(KEYWORDS), KEYWORDS)
    jobs, number_of = [], {}
    for parts in sizes.parts:
        label = f"merge of {parts:,} records"
        number_of[label] = parts
        run_dir = write_records(folder, parts)
        command = worker(folder, "merge", RUN_DIR=run_dir, NUM_PARTS=parts)

        def unlike(_: str, parts: int = parts, run_dir: str = run_dir) -> Totals:
            found = dict(json.loads((folder / run_dir / RESULT).read_bytes()))
            return {} if found == dict.fromkeys(KEYWORDS, parts) else found

        clean = [folder / run_dir / name for name in (RESULT, RESULTS)]
        jobs.append(Job(label, [[command]], unlike, clean))
    for files, fan_in in product(sizes.files, (2, 8, 64)):
        levels, pods = 1, 1
        left = files
        while left > fan_in:
            left = -(-left // fan_in)
            levels, pods = levels + 1, pods + left
        label = f"{files:,} files, fan-in {fan_in} (levels: {levels}, pods: {pods:,})"
        number_of[label] = files
        volume = folder / f"files-{files}"
        if not volume.exists():
            (volume / LEVEL_FILE.format(1, 0)).parent.mkdir(parents=True)
            for n in range(files):
                (volume / LEVEL_FILE.format(1, n)).write_bytes(b"%d\n" % n)
        program = (sys.executable, str(HERE / "programs.py"), "aggregate", str(files), str(fan_in))

        def lost(_: str, files: int = files, volume: Path = volume) -> Totals:
            joined = (volume / LEVEL_RESULT).read_bytes().split()
            return {} if joined == [b"%d" % n for n in range(files)] else {"files": len(joined)}

        run = {"RUN_ID": "bench", "RUN_STARTED": 1767225600}
        stages = [[(program, environ(folder, WORK_DIR=volume, **run))]]
        made = [(volume / LEVEL_FILE.format(level, 0)).parent for level in range(2, levels + 1)]
        clean = [volume / LEVEL_RESULT, volume / RESULTS, *made]
        jobs.append(Job(label, stages, lost, clean))
    runs = in_turn(jobs, sizes.repeats, folder, {})
    section.compare(runs, "µs per record or file", each(runs, number_of))
    section.bars = walls(runs)
    for label, values in section.bars:
        if label.startswith("merge"):
            section.figures[str(number_of[label])] = median(values)
            if number_of[label] == 10_000:
                section.target(label, "<", 1, median(values), " s")
    return section


# --- a worker's start


def start(sizes: Sizes, folder: Path) -> Section:
    """The start of each worker, and its imports."""
    line = next(records(KEYWORDS))
    (folder / "line").write_bytes(line)
    settings = {"INPUT": "line", "RUN_DIR": "start", "NUM_PARTS": 1, "SPLIT_MODE": "range"}
    group = LEVEL_FILE.format(1, 0)
    (folder / "start" / group).parent.mkdir(parents=True, exist_ok=True)
    (folder / "start" / group).write_bytes(line)

    def python(*arguments: str) -> Command:
        return (sys.executable, *arguments), environ(folder)

    floor, path = "python3 -c pass", str(workers(folder))
    imported = f"import sys; sys.path[:0] = [{path!r}]; import fanfold.storage.bucket"
    commands = {
        floor: python("-c", "pass"),
        "python3 -I -S -c pass": python("-I", "-S", "-c", "pass"),
        "split.py": worker(folder, "split", **settings),
        "count.py": worker(folder, "count", **settings, PART_ID=0),
        "merge.py": worker(folder, "merge", **settings),
        "process.py": worker(folder, "process", 0, 1, **settings, FILES=1),
        "bucket.py, imported": python("-c", imported),
    }
    clean = {
        "merge.py": [folder / "start" / RESULTS],
        "process.py": [(folder / "start" / LEVEL_FILE.format(2, 0)).parent],
    }
    jobs = [
        Job(label, [[command]], None, clean.get(label, ())) for label, command in commands.items()
    ]
    runs = in_turn(jobs, sizes.starts, folder)
    wall = {label: median(values) for label, values in walls(runs)}
    section = Section(
        "start",
        "A worker's start",
        "The time of a worker from its start to its end, with an input of one line. This is a "
        "little more than the time of the start alone. "
        f"Medians of {sizes.starts} runs. The imports limit the start: JSON, SIGTERM and the "
        "proofs take `json`, `signal`, `contextlib` and `hashlib`, which import `re` and `enum`. "
        "These imports alone take 2.3 times the instructions of `pass`, by callgrind. Only a "
        "worker in a bucket without a mount imports bucket.py, and with it oss2. The package oss2 "
        "imports its client-side encryption, which no worker uses. This takes 40 % of the time to "
        "import oss2. Nothing smaller than the package can be imported without a change of oss2. "
        "The times of imports "
        "are from `-X importtime`, each module without its own imports, the longest first.",
        bars=walls(runs),
    )
    ratios = {label: f"{seconds / wall[floor]:.2f}" for label, seconds in wall.items()}
    section.compare(runs, f"time / {floor}", ratios)
    heads = ("imports", "modules", "milliseconds", "the longest, each in milliseconds")
    repeats = max(3, sizes.starts // 3)
    rows = [(label, *imports(commands[label], repeats)) for label in commands if "-I" not in label]
    section.tables += [
        ("", heads, rows),
        ("", ("image", "compressed", "unpacked"), list(image_sizes())),
    ]
    for label in commands:
        if ".py" in label:
            section.target(f"start of {label} / `{floor}`", "<", 1.5, wall[label] / wall[floor])
    return section


def imports(command: Command, repeats: int) -> tuple[str, str, str]:
    """The number of modules that a command imports, their milliseconds, and the slowest modules."""
    (python, *arguments), env = command
    took: dict[str, list[int]] = {}
    for _ in range(repeats):
        found = subprocess.run(
            [python, "-X", "importtime", *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stderr
        for own, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", found):
            took.setdefault(name, []).append(int(own))
    times = {name: median(all_) / 1000 for name, all_ in took.items()}
    longest = sorted(times, key=lambda name: -times[name])[:6]
    words = ", ".join(f"{name} {times[name]:.1f}" for name in longest)
    return str(len(times)), f"{sum(times.values()):.1f}", words


ARCHIVES = ROOT / "build/images"


def layers_of(image: str) -> dict[str, bytes]:
    """The compressed layers of an image in the archives of images/build.sh --archive, by digest."""
    with tarfile.open(ARCHIVES / f"{image}.tar") as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file, name
            return file.read()

        def blob(digest: str) -> bytes:
            return read(f"blobs/{digest.replace(':', '/')}")

        manifest = json.loads(blob(json.loads(read("index.json"))["manifests"][0]["digest"]))
        return {layer["digest"]: blob(layer["digest"]) for layer in manifest["layers"]}


def image_sizes() -> Iterator[tuple[str, str, str]]:
    """The sizes of the images in these archives."""
    for image in ("split", "map", "reduce"):
        if not (ARCHIVES / f"{image}.tar").exists():
            yield image, "left out: run images/build.sh --archive build/images", ""
            continue
        layers = layers_of(image).values()
        unpacked = sum(len(gzip.decompress(layer)) for layer in layers)
        yield image, size(sum(map(len, layers))), size(unpacked)
