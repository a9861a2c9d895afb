"""Global search among 10,000, 100,000 and 1,000,000 synthetic references, by every kind of index.

    python -m benchmarks.search --sizes 10000 100000 1000000

Descriptors come in groups, as those of a real city do: districts that look alike, streets in them,
places on a street, several photos of a place; queries are further photos of the places. Each index
is built in one process and searched in another, so that memory is its own. Recall is the share of
the exact 20 nearest that are among the 20 found. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.apart import apart
from selavpr import searchers, searchfiles

TOP = 20
KINDS = ("flat", "hnsw", "ivf", "ivf-pq")


def descriptors(count: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """References ``[count, width]`` and queries ``[queries, width]``, of unit length."""
    rng = np.random.default_rng(0)
    made = np.zeros((1, width), dtype=np.float32)
    # Photos of a place have a cosine of some 0.8; places of a street 0.5, of a district 0.3.
    for per, share in ((max(count // 5000, 1), 0.55), (20, 0.45), (25, 0.55)):
        made = np.repeat(made, per, axis=0)
        made += share * rng.standard_normal(made.shape, dtype=np.float32)
    places = made[: -(-count // 10)]
    while len(places) * 10 < count:
        places = np.concatenate([places, places + 0.5 * noise(rng, places.shape)])
    noisy = np.empty((count, width), dtype=np.float32)
    for start in range(0, count, 100_000):
        rows = np.arange(start, min(start + 100_000, count)) // 10
        noisy[start : start + len(rows)] = places[rows] + 0.45 * noise(rng, (len(rows), width))
    asked = places[rng.integers(0, count // 10, queries)] + 0.5 * noise(rng, (queries, width))
    return unit(noisy), unit(asked)


def noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal."""
    return rng.standard_normal(shape, dtype=np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Of unit length, in place."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def make_flat(rows: np.ndarray) -> tuple[Any, int]:
    """Exact."""
    return searchers.make(rows, "flat")[0].index, 0


def make_lists(rows: np.ndarray) -> tuple[Any, int]:
    """Inverted lists, as ``searchers`` makes them."""
    made = searchers.make(rows, "ivf")[0]
    return made.index, made.probes


def make_graph(rows: np.ndarray) -> tuple[Any, int]:
    """A graph over all vectors."""
    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.hnsw.efSearch = 128
    index.add(rows)
    return index, 0


def make_product(rows: np.ndarray) -> tuple[Any, int]:
    """Inverted lists of product-quantised residuals, a byte for 8 components."""
    width = rows.shape[1]
    lists = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // 39))
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(width), width, lists, width // 8, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True
    index.cp.max_points_per_centroid = 64
    index.train(rows)
    index.add(rows)
    return index, searchers.tuned(index, rows)[0].probes


MAKERS: dict[str, Callable[[np.ndarray], tuple[Any, int]]] = {
    "flat": make_flat, "hnsw": make_graph, "ivf": make_lists, "ivf-pq": make_product,
}  # fmt: skip


def build(kind: str, rows_file: str, out: str) -> dict[str, Any]:
    """Index the vectors of a file; runs in a process of its own."""
    rows = np.load(rows_file)
    start = time.perf_counter()
    index, probes = MAKERS[kind](rows)
    seconds = time.perf_counter() - start
    faiss.write_index(index, out)
    return {"build_s": seconds, "probes": probes}


def search(path: str, probes: int, queries_file: str) -> dict[str, Any]:
    """Open and ask; runs in a process of its own."""
    queries = np.load(queries_file)
    searchers.make(queries[:2].copy(), "flat")[0].nearest(queries[:1], 1)  # threads, BLAS
    before = resident()
    start = time.perf_counter()
    with open(path, "rb") as file:
        checked = file.read(4) in (b"IxFI", b"IwSq")
    if checked:
        searcher = searchfiles.read(Path(path), probes)
    else:
        searcher = searchers.Searcher(faiss.read_index(path, faiss.IO_FLAG_MMAP), probes)
    opened = time.perf_counter() - start
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(searcher.nearest(query[None], TOP)[1][0].tolist())
        times.append(time.perf_counter() - start)
    return {
        "open_s": opened,
        "first_ms": times[0] * 1000,
        "median_ms": statistics.median(times[1:] or times) * 1000,
        "memory_mb": (resident() - before) / 1e6,
        "found": found,
    }


def resident() -> int:
    """Bytes of this process in memory, mapped files that were touched included."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the peak, which can only grow
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def measured(kind: str, folder: Path, truth: list[list[int]]) -> dict[str, Any]:
    """One kind at one size."""
    path = folder / f"{kind}.faiss"
    made = apart(build, kind, str(folder / "rows.npy"), str(path))
    result = apart(search, str(path), made["probes"], str(folder / "queries.npy"))
    found = result.pop("found")
    hits = sum(len(set(a) & set(b)) for a, b in zip(found, truth, strict=True))
    result["recall"] = hits / (TOP * len(truth))
    result["disk_mb"] = path.stat().st_size / 1e6
    path.unlink()
    return {"kind": kind, **made, **result}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=384, help="384 for ViT-S, 1024 for ViT-L")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = []
    print("| references | index | build | on disk | open | first query | query | memory | recall |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows, queries = descriptors(size, args.width, args.queries)
            np.save(folder / "rows.npy", rows)
            np.save(folder / "queries.npy", queries)
            exact, _ = searchers.make(rows, "flat")
            truth = exact.nearest(queries, TOP)[1].tolist()
            del exact, rows
            for kind in args.kinds:
                r = measured(kind, folder, truth)
                report.append({"size": size, "width": args.width, **r})
                print(
                    f"| {size:,} | {kind} | {r['build_s']:.1f} s | {r['disk_mb']:,.0f} MB | "
                    f"{r['open_s'] * 1000:.0f} ms | {r['first_ms']:.1f} ms | "
                    f"{r['median_ms']:.2f} ms | {r['memory_mb']:,.0f} MB | {r['recall']:.2%} |",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
