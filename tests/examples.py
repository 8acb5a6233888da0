"""The inputs of the examples in manifests/runs, and what must come of them, each in a few lines."""

from __future__ import annotations

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
    """What filter.yaml makes of a log."""
    found = (line.split(" ", 2) for line in log.decode().splitlines() if " [ERROR] " in line)
    return "".join(json.dumps({"time": a, "message": c}) + "\n" for a, _, c in found).encode()


def model_of_simulations() -> bytes:
    """What simulations.yaml makes of SEEDS."""
    spec = importlib.util.spec_from_file_location("simulations", RUNS / "simulations.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "".join(f"{seed},{module.estimate(seed)}\n" for seed in range(1000)).encode()


def shade(x: int, y: int) -> int:
    """A pixel of the picture, which is the Mandelbrot set."""
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
    """The tiles, row by row: what a renderer would write."""
    rows = picture()
    for down in range(0, SIDE * TILES, SIDE):
        for right in range(0, SIDE * TILES, SIDE):
            yield png([row[right : right + SIDE] for row in rows[down : down + SIDE]])


def pixels(picture: bytes) -> bytes:
    """The pixels of a picture, as ImageMagick reads them."""
    command = ["convert", "png:-", "-depth", "8", "ppm:-"]
    return subprocess.run(command, input=picture, capture_output=True, check=True).stdout
