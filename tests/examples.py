"""The inputs of the examples in manifests/runs, and short models of the expected outputs."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

from run import sample

RUNS = Path(__file__).resolve().parents[1] / "manifests/runs"
SEEDS = b"".join(b"%d\n" % seed for seed in range(1000))
SIDE, TILES = 32, 8  # pixels of a tile, tiles of a row
BANDS = 12  # shades of the picture


def log_lines() -> list[bytes]:
    """The lines of the sample log."""
    return [line.encode() for line in sample()]


def model_of_filter(log: bytes) -> bytes:
    """The expected output of filter.yaml for a log."""
    found = (line.split(" ", 2) for line in log.decode().splitlines() if " [ERROR] " in line)
    return "".join(json.dumps({"time": a, "message": c}) + "\n" for a, _, c in found).encode()


def model_of_simulations() -> bytes:
    """The expected output of simulations.yaml for SEEDS."""
    spec = importlib.util.spec_from_file_location("simulations", RUNS / "simulations.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "".join(f"{seed},{module.estimate(seed)}\n" for seed in range(1000)).encode()


def shade(x: int, y: int) -> int:
    """A pixel of the picture: the Mandelbrot set."""
    size = SIDE * TILES
    c = complex(2.6 * (x + 0.5) / size - 1.95, 2.6 * (y + 0.5) / size - 1.3)
    z = 0j
    for step in range(6 * BANDS):
        z = z * z + c
        if abs(z) > 2:
            return 255 - step % BANDS * (200 // BANDS)
    return 0


def png(rows: list[bytes]) -> bytes:
    """A picture of one byte per pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = len(data), zlib.crc32(kind + data)
        return length.to_bytes(4, "big") + kind + data + check.to_bytes(4, "big")

    size = len(rows[0]).to_bytes(4, "big") + len(rows).to_bytes(4, "big")
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0])) + chunk(b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def picture() -> list[bytes]:
    """The rows of the picture."""
    whole = range(SIDE * TILES)
    return [bytes(shade(x, y) for x in whole) for y in whole]


def tiles() -> Iterator[bytes]:
    """The tiles, row by row, as a renderer would write them."""
    rows = picture()
    for down in range(0, SIDE * TILES, SIDE):
        for right in range(0, SIDE * TILES, SIDE):
            yield png([row[right : right + SIDE] for row in rows[down : down + SIDE]])


def pixels(picture: bytes) -> bytes:
    """The pixels of a picture, as ImageMagick reads them."""
    command = ["convert", "png:-", "-depth", "8", "ppm:-"]
    return subprocess.run(command, input=picture, capture_output=True, check=True).stdout


def compressed_logs() -> dict[str, bytes]:
    """40 logs by name, each of two gzip members, as a restarted logger writes them."""
    lines = log_lines()

    def packed(number: int) -> bytes:
        halves = lines[number::80], lines[number + 40 :: 80]
        return b"".join(gzip.compress(b"".join(half), mtime=0) for half in halves)

    return {f"2026-01-{number:02}.log.gz": packed(number) for number in range(40)}


DAMAGED = {"017.png": b"", "099.png": b"no picture", "180.png": png([bytes([1] * 48)] * 32)[:-40]}


def photos() -> dict[str, bytes]:
    """200 pictures by name, each in one shade of grey: its number."""
    return {f"{number:03}.png": png([bytes([number] * 48)] * 32) for number in range(200)}


def is_thumbnail(number: int, picture: bytes) -> bool:
    """Whether `picture` is the thumbnail of a photo."""
    return pixels(picture) == b"P6\n16 11\n255\n" + bytes([number] * 3 * 16 * 11)


BROKEN = {"20.json": b"", "60.json": b'{"speed": 9}', "61.json": b"no scenario"}


def scenarios() -> dict[str, bytes]:
    """100 scenarios by name, including three broken ones."""

    def made(number: int) -> bytes:
        scenario = {"speed": 10 + number % 25, "gap": 50, "reaction": 1, "brakes": 6 + number % 3}
        return json.dumps(scenario).encode()

    return {f"{number:02}.json": made(number) for number in range(100)} | BROKEN


def model_of_scenarios() -> dict[str, int]:
    """The expected output of scenarios.yaml: the distance to stop is a formula."""
    loaded = [json.loads(text) for name, text in scenarios().items() if name not in BROKEN]
    left = [
        one["gap"] - one["speed"] * one["reaction"] - one["speed"] ** 2 / 2 / one["brakes"]
        for one in loaded
    ]
    assert min(map(abs, left)) > 0.1  # metres: more than a step of the simulation
    passed = sum(each > 0 for each in left)
    return {"passed": passed, "failed": len(left) - passed}
