"""Measured programs, each one process: peers that are libraries, and many workers in one process.

programs.py duckdb FILE INFO,WARN      # the totals as JSON, as every peer prints them
programs.py oss2 http://127.0.0.1:9000 4
programs.py aggregate 100000 8         # process-data on WORK_DIR, one worker after the other
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

NO_SUCH_BYTE = "\x01"  # the separator of a file with one column


def duckdb(path: str, words: list[str]) -> dict[str, int]:
    """DuckDB, one column of text."""
    sums = ", ".join(
        f"sum((length(line) - length(replace(line, '{word}', ''))) // {len(word)})"
        for word in words
    )
    found = import_module("duckdb").sql(
        f"SELECT {sums} FROM read_csv('{path}', columns = {{'line': 'VARCHAR'}}, auto_detect = "  # noqa: S608
        f"false, header = false, delim = '{NO_SUCH_BYTE}', quote = '', escape = '')"
    )
    return dict(zip(words, map(int, found.fetchall()[0]), strict=True))


def polars(path: str, words: list[str]) -> dict[str, int]:
    """Polars, lazily and streaming."""
    pl: Any = import_module("polars")
    lines = pl.scan_csv(
        path, has_header=False, new_columns=["line"], separator=NO_SUCH_BYTE, quote_char=None
    )
    counts = (pl.col("line").str.count_matches(word, literal=True).sum() for word in words)
    found = lines.select(**dict(zip(words, counts, strict=True))).collect(engine="streaming")
    return {word: int(found[word][0]) for word in words}


def pyspark(path: str, words: list[str]) -> dict[str, int]:
    """Spark with one thread per core, in this process and its JVM."""
    sql: Any = import_module("pyspark.sql")
    spark = (
        sql.SparkSession.builder.master("local[*]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.warehouse.dir", str(Path(path).parent / "spark"))
        .getOrCreate()
    )
    sums = [
        f"sum((length(value) - length(replace(value, '{word}', ''))) / {len(word)})"
        for word in words
    ]
    row = spark.read.text(path).selectExpr(*sums).first()
    java = spark.sparkContext._gateway.proc
    spark.stop()
    java.stdin.close()
    java.wait(timeout=60)  # its CPU seconds count only after a wait
    return dict(zip(words, map(int, row), strict=True))


def oss2(endpoint: str, lanes: int) -> None:
    """A plain download, one range per thread. The bytes are discarded."""
    client: Any = import_module("oss2")
    auth = client.AuthV4("id", "secret")
    bucket = client.Bucket(
        auth, endpoint, "bench", region="cn-hangzhou", enable_crc=False,
        session=client.Session(pool_size=lanes),
    )  # fmt: skip
    total = bucket.head_object("log").content_length

    def read(lane: int) -> None:
        first, last = total * lane // lanes, total * (lane + 1) // lanes - 1
        answer = bucket.get_object("log", byte_range=(first, last))
        while answer.read(1 << 20):
            pass

    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(read, range(lanes)))


def aggregate(files: int, fan_in: int) -> None:
    """The levels of process-data, every worker's main called in turn."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workers"))
    process, merge = import_module("process"), import_module("merge")
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - a line per worker
    level = 1
    while files > fan_in:
        settings = {**os.environ, "FILES": str(files), "FAN_IN": str(fan_in)}
        files = -(-files // fan_in)
        for number in range(files):
            if code := process.main([str(number), str(level)], settings):
                raise SystemExit(code)
        level += 1
    raise SystemExit(merge.main([str(files)], {**os.environ, "LEVEL": str(level)}))


PEERS: dict[str, Callable[[str, list[str]], dict[str, int]]] = {
    "duckdb": duckdb,
    "polars": polars,
    "pyspark": pyspark,
}


def main() -> int:
    """Run the program that the arguments name."""
    name, *arguments = sys.argv[1:]
    if name == "aggregate":
        aggregate(int(arguments[0]), int(arguments[1]))
    elif name == "oss2":
        oss2(arguments[0], int(arguments[1]))
    else:
        file = Path(arguments[0])
        os.chdir(file.parent)  # its name may have letters with a meaning in SQL or in a pattern
        print(json.dumps(PEERS[name](file.name, arguments[1].split(","))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
