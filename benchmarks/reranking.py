"""Re-rank 100 candidates: ours, exact and fast, against the reference's formula, in one run.

    python -m benchmarks.reranking [--photos FOLDER] [--queries 40] [--extraction] [--json OUT]

Time and memory are measured on random 61 x 61 x 128 descriptors, each method in a process of its
own. That is the worst case of fast mode, whose time depends on how close the race is, so it is
measured on features of real pictures too, squashed to 224 x 224 for the same grid, and with it
whether the order is kept: photos of FOLDER (default: the bundled city's references) are queries
against 100 others. ``--extraction`` adds what ``benchmarks.extraction`` measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import extraction
from benchmarks.apart import apart
from selavpr import SelaVPR, count_mutual

ROOT = Path(__file__).resolve().parent.parent
GRID, DIM, CANDIDATES = 61 * 61, 128, 100


def reference_formula(query: Tensor, candidates: Tensor) -> Tensor:
    """The straight formula: all similarities at once, arg-max both ways, compare.

    Written from REFERENCE.md; one match counts as one here, where the original says none.
    """
    similarity = torch.matmul(candidates, query.T)  # [K, M, N]
    best_row = similarity.argmax(dim=1)  # for each query row, its candidate row
    best_col = similarity.argmax(dim=2)  # for each candidate row, its query row
    back = best_col.gather(1, best_row)
    return (back == torch.arange(len(query), device=query.device)).sum(dim=1)


Method = Callable[[Tensor, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "reference": reference_formula,
    "exact": lambda q, c: count_mutual(q, c, mode="exact"),
    "fast": lambda q, c: count_mutual(q, c, mode="fast"),
}


def random_features(device: str) -> tuple[Tensor, Tensor]:
    """A query and 100 candidates of unit descriptors, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(1 + CANDIDATES, GRID, DIM, generator=generator)
    both = torch.nn.functional.normalize(both, dim=-1).to(device)
    return both[0], both[1:].contiguous()


def timed(method: Method, query: Tensor, candidates: Tensor) -> tuple[Tensor, float]:
    """Scores, and seconds until they are there."""
    start = time.perf_counter()
    scores = method(query, candidates)
    if scores.device.type == "cuda":
        torch.cuda.synchronize()
    return scores, time.perf_counter() - start


def resident(field: str) -> int:
    """Bytes of memory this process holds (VmRSS) or has held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(method: str, device: str, repeats: int) -> tuple[float, float, int, list[int]]:
    """Seconds (best and median), peak extra bytes and the scores of one method."""
    query, candidates = random_features(device)
    METHODS[method](query[:64], candidates[:12, :64])  # threads and libraries awake
    before = resident("VmRSS")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        # Making the features took more than matching them does: forget that peak (Linux).
        Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(repeats):
        scores, taken = timed(METHODS[method], query, candidates)
        seconds.append(taken)
    peak = resident("VmHWM")
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return min(seconds), statistics.median(seconds), peak - before, scores.tolist()


def order_kept(photos: Path, queries: int, device: str) -> dict[str, Any]:
    """Compare fast with exact on real features: first place, first ten, largest count error."""
    weights = SelaVPR.from_pretrained(precision="float32", device="cpu").to_weights()
    # The grid of the paper, as in the other half.
    config = dataclasses.replace(weights.config, input_size=224, resize="squash")
    model = SelaVPR.from_weights(
        dataclasses.replace(weights, config=config), device=device, precision="float32"
    )
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(files) // (queries + CANDIDATES))
    files = files[::step][: queries + CANDIDATES]
    parts = model.extract_each(files, local=True)
    local = torch.stack([p.local[0].flatten(0, 1) for p in parts])
    descriptors = torch.cat([p.descriptor for p in parts])
    similarity = descriptors @ descriptors.T
    similarity.fill_diagonal_(-2)
    first = ten = 0
    seconds: dict[str, list[float]] = {"exact": [], "fast": []}
    tried = list(range(0, len(files), max(1, len(files) // queries)))[:queries]
    for i in tqdm(tried, unit="query"):
        rows = similarity[i].argsort(descending=True, stable=True)[:CANDIDATES]
        rows = rows[rows != i]
        candidates, ranks = local[rows], []
        for mode, times in seconds.items():
            scores, taken = timed(METHODS[mode], local[i], candidates)
            times.append(taken)
            ranks.append(torch.sort(scores, descending=True, stable=True).indices.tolist())
        first += ranks[0][0] == ranks[1][0]
        ten += len(set(ranks[0][:10]) & set(ranks[1][:10]))
    n = len(tried)
    return {
        "photos": str(photos),
        "queries": n,
        "candidates": min(CANDIDATES, len(files) - 1),
        "first_unchanged": first / n,
        "of_first_ten_kept": ten / (10 * n),
        **{f"{mode}_mean_s": statistics.mean(times) for mode, times in seconds.items()},
        **{f"{mode}_median_s": statistics.median(times) for mode, times in seconds.items()},
    }


def compare(device: str, repeats: int) -> dict[str, Any]:
    """Time, memory and scores of every method; prints the table."""
    rows = {m: apart(measure, m, device, repeats) for m in METHODS}
    base_seconds, _, base_peak, base_scores = rows["reference"]
    methods: dict[str, Any] = {}
    print(f"{'method':<10} {'best s':>8} {'median s':>9} {'faster':>7} {'peak MB':>8} "
          f"{'less':>7}  scores")  # fmt: skip
    for method, (best, median, peak, scores) in rows.items():
        differ = sum(a != b for a, b in zip(scores, base_scores, strict=True))
        said = "same" if not differ else f"{differ} of {len(scores)} differ"
        times = base_seconds / best
        less = base_peak / max(peak, 1)
        print(f"{method:<10} {best:8.3f} {median:9.3f} {times:6.1f}x {peak / 1e6:8.0f} "
              f"{less:6.0f}x  {said}")  # fmt: skip
        methods[method] = {
            "best_s": best,
            "median_s": median,
            "times_faster": times,
            "peak_bytes": peak,
            "memory_ratio": peak / max(base_peak, 1),
            "scores_that_differ": differ,
        }
    return methods


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=ROOT / "prebuilt_index")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--extraction", action="store_true", help="extraction first")
    parser.add_argument("--only", choices=("time", "order"), help="leave the other half out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {
        "machine": extraction.machine(args.device),
        "torch": torch.__version__,
    }
    if args.extraction:
        report["extraction"] = extraction.measure(args.device, args.repeats)["rows"]
    if args.only != "order":
        report["methods"] = compare(args.device, args.repeats)
    if args.only != "time":
        order = report["order"] = order_kept(args.photos, args.queries, args.device)
        print("on features of real pictures:")
        for key, value in order.items():
            print(f"  {key:<18} {value if isinstance(value, (str, int)) else round(value, 3)}")
        if "methods" in report and order["candidates"] == CANDIDATES:
            base = report["methods"]["reference"]["best_s"]
            for mode in ("exact", "fast"):
                order[f"{mode}_times_faster"] = base / order[f"{mode}_mean_s"]
                print(f"  {mode} is {base / order[f'{mode}_mean_s']:.1f}x as fast as the reference")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
