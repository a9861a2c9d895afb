"""Bytes per photo against recall, for every way of keeping local features.

    python -m benchmarks.storage CITY --plot storage.svg

CITY is a folder of photos with a table of their places in which a column tells reference photos
from queries, such as tools/city renders. Features are extracted once; then an index is written for
each representation, and each query's candidates, the same for all, are put in order by the model's
score: exact counts of mutual matches, or their expected number. The yardstick is what the reference
implementation stores: dense local descriptors in float32. Prints a Markdown table; ``--plot`` draws
it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.plots import Point, draw
from selavpr.building import stored_photo
from selavpr.geo import Location
from selavpr.index import Manifest, PlaceIndex
from selavpr.localfeatures import Local, dense_cells
from selavpr.metrics import RIGHT_M
from selavpr.model import SelaVPR
from selavpr.reranking import count_local, expect_local, order_of
from selavpr.sources import SourcePhoto, read_folder
from selavpr.structs import ModelConfig
from selavpr.writing import Entry, write

KINDS: tuple[tuple[str, int | None], ...] = (
    *(("tokens", rank) for rank in (16, 24, 36, 44, 64, 96, 192, 384)),
    *(("keypoint", keep) for keep in (60, 120, 240, 480)),
    *(("product", parts) for parts in (2, 4, 8, 16)),
    ("dense", None),
    ("none", None),
)


@dataclass(frozen=True)
class Query:
    """A photo to locate: local descriptors to rank by; what stage one found."""

    local: Local
    rows: list[int]
    right: set[int]


@dataclass(frozen=True)
class Result:
    """What came of one representation."""

    kind: str
    rank: int | None
    bytes_per_photo: float
    r1: float
    r5: float
    same_first: float
    read_ms: float


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("city", type=Path)
    parser.add_argument("--references", default="role=reference", metavar="COLUMN=VALUE")
    parser.add_argument("--queries", default="role=query", metavar="COLUMN=VALUE")
    parser.add_argument("--model", default=None)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--limit", type=int, default=0, help="queries, evenly taken")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND[:RANK]")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    # Exact arithmetic: what is compared are codes.
    model = SelaVPR.from_pretrained(*([args.model] if args.model else []), precision="float32")
    references = taken(args.city, args.references)
    queries = taken(args.city, args.queries)
    if args.limit:
        step = max(1, len(queries) // args.limit)
        queries = queries[::step][: args.limit]
    entries = [entry for photo in references if (entry := extracted(photo, model))]
    asked = [asked_with(photo, entries, model, args.top_k) for photo in queries]
    print(f"{len(entries):,} references, {len(asked):,} queries, top {args.top_k} re-ranked\n")
    orders, results = dense_orders(asked, entries, model)
    wanted = [kind for kind in KINDS if not args.only or is_wanted(kind, args.only)]
    for kind, rank in wanted:
        if kind == "tokens" and rank is not None and rank > model.config.width:
            continue
        results.append(measured(kind, rank, asked, entries, model, orders))
        print(f"  {label(results[-1])}: R@1 {results[-1].r1:.1%}", flush=True)
    print("\n" + table(results))
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if args.plot:
        plot(results, args.plot)


def taken(city: Path, condition: str) -> list[SourcePhoto]:
    """Photos whose row has this value."""
    column, _, value = condition.partition("=")
    return read_folder(city, {column: value})


def is_wanted(kind: tuple[str, int | None], only: Sequence[str]) -> bool:
    """Whether KIND or KIND:RANK was asked for."""
    return kind[0] in only or f"{kind[0]}:{kind[1]}" in only


def extracted(photo: SourcePhoto, model: SelaVPR) -> Entry:
    """A reference with its features."""
    image, jpeg = stored_photo(photo.path)
    features = model.extract([image])
    return Entry(
        photo.place, jpeg, features.descriptor[0].cpu().float(), features.tokens[0].cpu().half()
    )


def asked_with(photo: SourcePhoto, entries: list[Entry], model: SelaVPR, top_k: int) -> Query:
    """A query with its candidates."""
    features = model.extract([photo.path], local=True)
    assert features.local is not None
    similarity = torch.stack([e.descriptor for e in entries]) @ features.descriptor[0].cpu().float()
    rows = similarity.argsort(descending=True, stable=True)[:top_k].tolist()
    place: Location = photo.place.location
    right = {i for i in rows if place.distance_m(entries[i].place.location) <= RIGHT_M}
    local = Local(features.local[0].flatten(0, 1), dense_cells(features.tokens.shape[1:3]))
    expected = model.config.scoring == "expected"
    return Query(local.centres if expected else local, rows, right)


Read = Callable[[Sequence[int]], Sequence[Local]]
"""Rows to local descriptors; where matches are expected, to those at the tokens' centres."""


def ranked(asked: list[Query], read: Read, config: ModelConfig) -> tuple[list[list[int]], float]:
    """Each query's candidates in their new order, and milliseconds to read one.

    What was read stays: one photo is a candidate of many queries.
    """
    known: dict[int, Local] = {}
    orders, seconds = [], 0.0

    def known_of(some: Sequence[int]) -> list[Local]:
        return [known[i] for i in some]

    for query in asked:
        missing = [row for row in query.rows if row not in known]
        start = time.perf_counter()
        if missing:
            known.update(zip(missing, read(missing), strict=True))
        seconds += time.perf_counter() - start
        scores: Sequence[float]
        if config.scoring == "expected":
            scores = expect_local([query.local], query.rows, known_of, config.agreement)
        else:
            scores = count_local(query.local.descriptors, query.rows, known_of, "exact")
        orders.append([query.rows[i] for i in order_of(scores)])
    return orders, seconds / max(len(known), 1) * 1000


def judged(
    kind: str, rank: int | None, size: float, asked: list[Query], orders: list[list[int]],
    truth: list[list[int]], read_ms: float,
) -> Result:  # fmt: skip
    """Recall of an order."""
    n = max(len(asked), 1)
    first = sum(order[0] in q.right for q, order in zip(asked, orders, strict=True)) / n
    five = sum(bool(q.right & set(order[:5])) for q, order in zip(asked, orders, strict=True)) / n
    same = sum(a[0] == b[0] for a, b in zip(orders, truth, strict=True)) / n
    return Result(kind, rank, size, first, five, same, read_ms)


def dense_orders(
    asked: list[Query], entries: list[Entry], model: SelaVPR
) -> tuple[list[list[int]], list[Result]]:
    """The yardstick: dense float32."""

    @torch.inference_mode()
    def dense(row: int) -> Local:
        tokens = entries[row].tokens[None].float().to(model.device)
        grid = dense_cells((tokens.shape[1], tokens.shape[2]))
        return Local(model.densify(tokens)[0].flatten(0, 1), grid)

    expected = model.config.scoring == "expected"

    def read(rows: Sequence[int]) -> list[Local]:
        return [found.centres if expected else found for found in map(dense, rows)]

    orders, read_ms = ranked(asked, read, model.config)
    size = float(dense(0).descriptors.numel() * 4)
    return orders, [judged("float32", None, size, asked, orders, orders, read_ms)]


def measured(
    kind: str, rank: int | None, asked: list[Query], entries: list[Entry], model: SelaVPR,
    truth: list[list[int]],
) -> Result:  # fmt: skip
    """Recall and size of one representation, through an index on disk."""
    manifest = Manifest("storage", "Storage", "", model.fingerprint(), 0, (0, 0, 0, 0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write(path, entries, manifest, network=model, local=kind, rank=rank)
        index = PlaceIndex.open(path)
        size = sum((path / name).stat().st_size for name in index.codec.arrays) / len(entries)
        read = index.centres if model.config.scoring == "expected" else index.local
        orders, read_ms = ranked(asked, lambda rows: read(rows, model), model.config)
    return judged(kind, rank, size, asked, orders, truth, read_ms)


def label(result: Result) -> str:
    """A representation in a word or two."""
    return result.kind if result.rank is None else f"{result.kind} {result.rank}"


def table(results: list[Result]) -> str:
    """Markdown."""
    base = results[0]
    lines = [
        "| local features | KB per photo | R@1 | against float32 | R@5 | same first | ms to read |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in results:
        lines.append(
            f"| {label(r)} | {r.bytes_per_photo / 1000:,.1f} | {r.r1:.1%} | "
            f"{(r.r1 - base.r1) * 100:+.1f} points | {r.r5:.1%} | {r.same_first:.1%} | "
            f"{r.read_ms:.1f} |"
        )
    return "\n".join(lines)


def plot(results: list[Result], path: Path) -> None:
    """Draw R@1 over KB per photo."""
    points = [
        Point(r.kind, "" if r.rank is None else str(r.rank), r.bytes_per_photo / 1000, r.r1)
        for r in results
        if r.bytes_per_photo > 0
    ]
    draw([("KB per photo", points)], "re-ranked R@1", path)


if __name__ == "__main__":
    main()
