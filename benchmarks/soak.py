"""Memory held over many queries: does a process that answers all day stay as small as it is?

    python -m benchmarks.soak                          # the bundled city and model, 1,000 queries
    python -m benchmarks.soak --model tiny             # a tiny random network: minutes, not an hour
    python -m benchmarks.soak --queries 200 --top-k 5

Photos of changing size are recognised one after another, each decoded from its file, re-ranked and
drawn as the page does it. Printed are the memory of the process (resident set, /proc/PID/statm) at
the start, after 100 queries and at the end, and the slope of a line through the second half, in KB
a query. The exit code is 1 when it grows by more than ``ALLOWED_KB`` a query there.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from selavpr import ModelConfig, SelaVPR, building, maps
from selavpr.geo import Location
from selavpr.indexfiles import Manifest
from selavpr.recognizer import Recognizer
from selavpr.sources import SourcePhoto
from selavpr.structs import Place
from tools.processes import ROOT, resident_mb

ALLOWED_KB = 20.0
"""Growth a query that still counts as noise: 20 MB in a thousand. The map page of one answer alone
takes 400 KB, so anything that is kept of an answer shows."""

SIZES = ((640, 480), (480, 640), (1024, 768), (800, 800))


def photos(seed: int = 0) -> Iterator[bytes]:
    """JPEG files without end, no two of them alike."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        file = io.BytesIO()
        size = SIZES[number % len(SIZES)]
        blocks.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
        yield file.getvalue()
        number += 1


def tiny(folder: Path) -> Recognizer:
    """A random network and an index of 40 drawn photos."""
    config = ModelConfig(
        width=32,
        depth=2,
        heads=4,
        local_hidden=16,
        local_dim=8,
        input_size=56,
        resize="keep-aspect",
    )
    torch.manual_seed(0)
    model = SelaVPR(config).eval()
    listed = []
    for i, data in zip(range(40), photos(seed=1), strict=False):
        path = folder / f"{i}.jpg"
        path.write_bytes(data)
        place = Place(f"p{i}", f"images/{i}.jpg", Location(48 + i / 2500, 11))
        listed.append(SourcePhoto(path, place))
    manifest = Manifest("town", "Town", "tiny", "", 0, (0, 0, 0, 0))
    index, _ = building.build(folder / "index", listed, model, manifest)
    return Recognizer(model, index)


def soak(recognizer: Recognizer, queries: int, top_k: int) -> list[float]:
    """Memory in MB before the first query and after each."""
    basemap = recognizer.index.basemap()
    held = [resident_mb(os.getpid())]
    for number, photo in zip(range(1, queries + 1), photos(), strict=False):
        found = recognizer.recognize(photo, top_k=top_k)
        recognizer.matches(found, 0)
        maps.build_map(found, basemap=basemap)
        del found
        held.append(resident_mb(os.getpid()))
        if number % 100 == 0:
            print(f"  {number:,} queries: {held[-1]:.0f} MB", flush=True)
    return held


def slope_kb(held: list[float]) -> float:
    """Growth in KB a query, of a straight line through the second half."""
    half = held[len(held) // 2 :]
    return float(np.polyfit(np.arange(len(half)), half, 1)[0]) * 1000


def main() -> int:
    """Measure and print; 1 when memory grows."""
    parser = argparse.ArgumentParser(description="Memory held over many queries.")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--model", choices=("bundled", "tiny"), default="bundled")
    args = parser.parse_args()
    if args.queries < 4:
        parser.error("--queries must be 4 or more")
    with tempfile.TemporaryDirectory() as folder:
        if args.model == "tiny":
            recognizer = tiny(Path(folder))
        else:
            recognizer = Recognizer.load(
                next((ROOT / "prebuilt_index").glob("*/manifest.json")).parent
            )
        gc.collect()
        began = time.monotonic()
        held = soak(recognizer, args.queries, args.top_k)
    slope = slope_kb(held)
    early = held[min(100, len(held) - 1)]
    print(
        f"{args.model} model, {args.queries:,} queries in {time.monotonic() - began:.0f} s: "
        f"{held[0]:.0f} MB at the start, {early:.0f} MB after {min(100, args.queries)}, "
        f"{held[-1]:.0f} MB at the end, {max(held):.0f} MB at most; "
        f"{slope:+.1f} KB a query over the second half"
    )
    return int(slope > ALLOWED_KB)


if __name__ == "__main__":
    sys.exit(main())
