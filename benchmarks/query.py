"""One photo from its file to the answer, by stage: ours beside the reference's way, in one run.

    python -m benchmarks.query [--index DIR] [--photos FOLDER] [--top-k 20 100] [--json OUT]

Ours is what the page and the command line do with the index. The reference's way is the same
network and search, dense float32 descriptors of the photo and of every candidate, these held in
memory as there, and its formula: all similarities, the largest both ways, compare. It takes all
candidates at once; where their similarities would not fit into 2 GB, as many at a time as do.
Medians of the photos, after one to warm up. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.reranking import reference_formula
from selavpr.benchmarkphotos import photo_files
from selavpr.images import load_image
from selavpr.recognizer import Recognizer

ROOT = Path(__file__).resolve().parent.parent
FITS = 2 * 2**30
STAGES = ("open", "extract", "search", "rerank", "locate")
Times = dict[str, float]


@contextmanager
def timed(times: Times, stage: str) -> Iterator[None]:
    """Write down the milliseconds of a stage."""
    start = time.perf_counter()
    yield
    times[stage] = (time.perf_counter() - start) * 1000


def ours(finder: Recognizer, photo: Path, top_k: int) -> Times:
    """The recogniser's own timings."""
    return dict(finder.recognize(photo, top_k=top_k, rerank_depth=top_k).timings_ms)


@torch.inference_mode()
def theirs(finder: Recognizer, photo: Path, top_k: int) -> Times:
    """The same photo the reference's way; making the candidates' descriptors is not counted."""
    times: Times = {}
    with timed(times, "open"):
        image = load_image(photo)
    with timed(times, "extract"):
        features = finder.model.extract([image], local=True)
    assert features.local is not None
    query = features.local[0].flatten(0, 1)
    with timed(times, "search"):
        found = finder.index.search(features.descriptor[0], top_k)
    held = [x.descriptors for x in finder.index.local([row for row, _ in found], finder.model)]
    with timed(times, "rerank"):
        counts = in_parts(query, held)
        counts.sort(descending=True, stable=True)
    return times


def in_parts(query: Tensor, candidates: list[Tensor]) -> Tensor:
    """The reference's formula for as many candidates at a time as memory is allowed for."""
    alike = len({x.shape for x in candidates}) == 1
    step = max(1, FITS // (4 * len(query) * len(candidates[0]))) if alike else 1
    parts = (candidates[i : i + step] for i in range(0, len(candidates), step))
    return torch.cat([reference_formula(query, torch.stack(part)) for part in parts])


def main() -> None:
    """Measure both ways for every number of candidates and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--index", default=str(ROOT / "prebuilt_index" / "helsinki"))
    add("--photos", type=Path, default=ROOT / "assets" / "examples")
    add("--limit", type=int, default=5, help="photos")
    add("--top-k", type=int, nargs="+", default=[20, 100])
    add("--json", type=Path)
    args = parser.parse_args()
    finder = Recognizer.load(args.index)
    photos = list(photo_files(args.photos))[: args.limit]
    lines = [
        f"| ms, median of {len(photos)} photos | {' | '.join(STAGES)} | all | ratio |",
        "| --- |" + " ---: |" * (len(STAGES) + 2),
    ]
    report: dict[str, Times] = {}
    for top_k in args.top_k:
        base = 0.0
        for name, way in (("reference's way", theirs), ("ours", ours)):
            way(finder, photos[0], top_k)
            runs = [way(finder, photo, top_k) for photo in photos]
            row = {s: statistics.median(r.get(s, 0.0) for r in runs) for s in STAGES}
            row["all"] = statistics.median(sum(r.values()) for r in runs)
            base = base or row["all"]
            cells = " | ".join(f"{row[s]:,.0f}" for s in (*STAGES, "all"))
            lines.append(f"| {name}, {top_k} candidates | {cells} | {base / row['all']:.1f}x |")
            report[f"{name} {top_k}"] = row
            print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
