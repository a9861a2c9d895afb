"""How long it takes to open an index of 100,000 photos, and to read one candidate of it.

    python -m benchmarks.opening [--places 100000] [--search flat]

The index is synthetic: random descriptors, places along a line, and local features that are all
zero, so that their file takes no room where the file system keeps holes. It is opened in a process
of its own, which prints what it took; its files have just been written, so a disk is not measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.apart import apart
from benchmarks.search import resident, unit
from selavpr import searchers
from selavpr.codec import TokenCodec
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from selavpr.indexfiles import GRIDS, Manifest
from selavpr.localcodecs import TokensCodec
from selavpr.structs import Place
from selavpr.writing import finish

T = TypeVar("T")

GRID = (26, 26)
"""Tokens of a photo of the bundled model, which looks at as many pixels as 364 x 364."""
OPENED, READ = 7, 50
"""Times that the index is opened, and candidates that are read, for a median each."""


@dataclass(frozen=True)
class Opening:
    """What was measured, in its medians.

    Attributes:
        first_s: seconds to open it for the first time.
        open_s: seconds to open it again.
        place_ms: milliseconds for a candidate's row.
        tokens_ms: milliseconds for its tokens, decoded.
        memory_mb: that the process grew by, for one opened index and the candidates read.
    """

    first_s: float
    open_s: float
    place_ms: float
    tokens_ms: float
    memory_mb: float


def synthetic(
    folder: Path, count: int, width: int, rank: int, search: searchers.Search
) -> dict[str, int]:
    """Write an index without photos; the sizes of its files."""
    rng = np.random.default_rng(0)
    searcher, about = searchers.make(unit(rng.standard_normal((count, width), np.float32)), search)
    codec = TokensCodec(TokenCodec(torch.zeros(width), torch.eye(width)[:rank].contiguous()))
    folder.mkdir(parents=True)
    np.save(folder / GRIDS, np.full((count, 2), GRID, dtype=np.uint16))
    rows = count * GRID[0] * GRID[1]
    for name, (dtype, columns) in codec.arrays.items():
        # Mapped and never written to: a hole but for its header.
        shape = (rows, columns) if columns else (rows,)
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
    places = [
        Place(f"p{i}", f"images/{i // 1000}/{i}.jpg", Location(60 + i / 1e6, 25), 90.0,
              "2026-05-01T12:00:00", f"Street {i // 100}", "A photographer", "CC BY-SA 4.0")
        for i in range(count)
    ]  # fmt: skip
    manifest = Manifest("x", "", "", "", 0, (0, 0, 0, 0), search=about or None)
    # Nobody verifies it, so gigabytes of zeros need no checksum.
    finish(folder, places, searcher, codec, manifest, dict.fromkeys(codec.arrays, "0" * 64))
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def measured(folder: Path) -> Opening:
    """Open an index, and read candidates from anywhere in it."""
    before = resident()
    first, index = timed(lambda: PlaceIndex.open(folder))
    rows = np.random.default_rng(1).integers(0, len(index), READ).tolist()
    places = [timed(lambda row=row: index.place(row))[0] for row in rows]
    tokens = [timed(lambda row=row: index.tokens(row))[0] for row in rows]
    memory = resident() - before
    again = [timed(lambda: PlaceIndex.open(folder))[0] for _ in range(OPENED)]
    return Opening(
        first,
        statistics.median(again),
        1e3 * statistics.median(places),
        1e3 * statistics.median(tokens),
        memory / 1e6,
    )


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Write, open, print."""
    parser = argparse.ArgumentParser(description="How long opening a large index takes.")
    parser.add_argument("--places", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384, help="384 for ViT-S, 1024 for ViT-L")
    parser.add_argument("--rank", type=int, default=44, help="components kept of a token")
    parser.add_argument("--search", choices=("auto", "flat", "ivf"), default="auto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        sizes = synthetic(folder, args.places, args.width, args.rank, args.search)
        found = apart(measured, folder)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    files = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.items())
    print(f"{args.places:,} places{load}: {files}")
    print(
        f"first opening {1e3 * found.first_s:.0f} ms, again {1e3 * found.open_s:.0f} ms; "
        f"a candidate: {found.place_ms:.2f} ms for its row, {found.tokens_ms:.2f} ms for its "
        f"tokens; memory for one opening and {READ} candidates: {found.memory_mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
