"""Our two stages beside what people would take instead, in one run.

    python -m benchmarks.baselines --photos FOLDER [--city TABLE] [--sets bgu-day bgu-night ...]
        [--candidates 20] [--queries N] [--matchers ours raw sift xfeat] [--json OUT]
        [--precision float32] [--plot SVG] [--costs JSON]

First stages: our global descriptor and those of ``benchmarks.describers``. Second stages, all on
the same candidates: our mutual matches, those of the raw backbone's tokens (all our blocks; or as
raw-7 its first seven at 448 pixels, as raw-9 its first nine at 224 x 224), SIFT and XFeat, each of
these two with RANSAC. raw-7 and raw-9 are measured only when named. Where positions are known, a
second row of each second stage has its narrow leads settled by what stands around, as the
recogniser has ours (``locating.foremost``).

FOLDER holds photo sets, each a folder with ``images.csv`` (path, place_id, role, condition, lat,
lon). The candidates of a query are the first by our model's global descriptor; ``--candidates 0``
takes every reference. Scores of pairs are kept in ``--work``, so a stopped run goes on.

==============  ====================================================================================
set             queries and references
==============  ====================================================================================
bgu-day         bgu_campus: phone B by day, against phone A by day
bgu-night       bgu_campus: phone B by night, against phone A by day
penn            penn_campus: its queries against its database
seasons         seasons_5x12: every photo against the ten places of every other visit, in turn
city            the queries of a city's table (``tools/city``) against its references
==============  ====================================================================================

A reference is right within 10 m, or 25 m, or when it shows the same place where no position is
known. Phones' positions are 5 to 15 m off; the last column leaves out references between 25 and
50 m, of which nobody can say whether they are right. Queries that nothing could answer are left
out; how many are left stands in the head of each column. Ties go by the global order.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import describers
from benchmarks.matchers import Matcher, build
from benchmarks.plots import Point, draw
from selavpr import SelaVPR, metrics
from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.evaluation import table
from selavpr.journal import Journal
from selavpr.layouts import read_benchmark
from selavpr.localfeatures import Local
from selavpr.locating import foremost
from selavpr.reranking import order_of
from selavpr.tables import read_table
from selavpr.weights import DEFAULT_MODEL, digest

SETS = ("bgu-day", "bgu-night", "penn", "seasons", "city")
MATCHERS = ("ours", "raw", "raw-7", "raw-9", "sift", "xfeat")
USUAL = ("ours", "raw", "sift", "xfeat")
"""Those of the tables in README.md and docs/evaluation.md; the others are measured when named."""


@dataclass(frozen=True)
class Trial:
    """Queries, references, and what may be compared.

    Attributes:
        name: of the set.
        queries: photos to locate.
        database: photos to find.
        allowed: ``[Q, N]`` whether a reference is offered to a query at all.
        distances_m: ``[Q, N]``; 0 for the same place and infinite for another where no positions
            are known.
    """

    name: str
    queries: list[BenchmarkPhoto]
    database: list[BenchmarkPhoto]
    allowed: NDArray[np.bool_]
    distances_m: NDArray[np.float64]

    @property
    def known(self) -> bool:
        """Whether positions are known."""
        return bool(np.isfinite(self.distances_m).all())


FOLDERS = {"bgu": "bgu_campus", "penn": "penn_campus", "seasons": "seasons_5x12"}
"""Of photo sets, by the first part of their names."""


def listing(name: str, photos: Path) -> Path:
    """The table of a photo set."""
    return photos / FOLDERS[name.partition("-")[0]] / "images.csv"


def is_there(name: str, photos: Path | None, city: Path | None) -> bool:
    """Whether a set can be measured: a city that was named, or photos in their folder."""
    if name == "city":
        return city is not None
    return photos is not None and listing(name, photos).is_file()


def trial(name: str, photos: Path, city: Path | None, limit: int) -> Trial:
    """Read a set; at most ``limit`` of its queries, by lot, when it is not 0."""
    if name == "city":
        assert city is not None, "--city names the table"
        queries, database = read_city(city)
    else:
        listed = read_benchmark(listing(name, photos))
        queries = list(listed.queries + listed.unassigned)
        database = list(listed.database + listed.unassigned)
    if name.startswith("bgu"):
        queries = [q for q in queries if q.condition == name.partition("-")[2]]
        database = [p for p in database if p.condition == "day"]
    visits: list[str | None] = [None] * len(queries)
    if name == "seasons":
        every = sorted({p.condition for p in database})
        pairs = [(q, visit) for q in queries for visit in every if visit != q.condition]
        queries, visits = [q for q, _ in pairs], [visit for _, visit in pairs]
    if 0 < limit < len(queries):
        # By lot, since every so-manieth might always be of the same visit.
        chosen = sorted(np.random.default_rng(0).permutation(len(queries))[:limit].tolist())
        queries, visits = [queries[i] for i in chosen], [visits[i] for i in chosen]
    allowed = np.array([[v is None or v == p.condition for p in database] for v in visits])
    return Trial(name, queries, database, allowed, distances(queries, database))


def read_city(table_path: Path) -> tuple[list[BenchmarkPhoto], list[BenchmarkPhoto]]:
    """Queries and references of a city's table; those from elsewhere are no queries here."""

    def photos(role: str) -> list[BenchmarkPhoto]:
        return [
            BenchmarkPhoto(
                row.path,
                "query" if role == "query" else "database",
                location=row.location,
                condition=row.texts.get("condition", ""),
            )
            for row in read_table(table_path, {"role": role})
        ]

    return photos("query"), photos("reference")


def distances(
    queries: Sequence[BenchmarkPhoto], database: Sequence[BenchmarkPhoto]
) -> NDArray[np.float64]:
    """Metres, or 0 and infinity by the name of the place."""
    if all(p.location is not None for p in (*queries, *database)):
        return np.array([[q.distance_m(p) for p in database] for q in queries])
    return np.array([[0 if q.place_id == p.place_id else np.inf for p in database]
                     for q in queries])  # fmt: skip


def ranked(
    queries: NDArray[np.float32], database: NDArray[np.float32], task: Trial, candidates: int
) -> list[list[int]]:
    """The most similar allowed references of each query; all of them for 0 candidates."""
    order = np.argsort(-(queries @ database.T), axis=1, kind="stable")
    lists = [[int(r) for r in rows if ok[r]] for rows, ok in zip(order, task.allowed, strict=True)]
    return [rows[: candidates or len(rows)] for rows in lists]


def global_lists(
    model: SelaVPR, task: Trial, candidates: int, work: Path
) -> tuple[list[list[int]], float]:
    """Our first stage's candidates, and seconds it takes to describe a photo."""
    database = [p.path for p in task.database]
    both, seconds = descriptors("ours", model, database, [q.path for q in task.queries], work)
    found = both["ours"]
    return ranked(found[len(database) :], found[: len(database)], task, candidates), seconds


def descriptors(
    kind: str, model: SelaVPR, database: Sequence[Path], queries: Sequence[Path], work: Path
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Global descriptors ``[n, D]`` of database and queries, kept on disk; and seconds a photo."""
    paths = [*database, *queries]
    key = digest([kind, model.fingerprint(), str(model.precision), [str(p) for p in paths]])
    kept = work / f"descriptors-{key.partition(':')[2][:16]}.npz"
    if not kept.is_file():
        start = time.perf_counter()
        if kind == "ours":
            found = {"ours": our_descriptors(model, paths)}
        else:
            found = describers.describe(model, database, paths)
        seconds = (time.perf_counter() - start) / len(set(paths))
        work.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".tmp.npz")
        np.savez(partial, **found, seconds=np.array(seconds))
        partial.replace(kept)
    with np.load(kept) as file:
        arrays = {name: file[name] for name in file.files}
    seconds = float(arrays.pop("seconds"))
    return arrays, seconds


def our_descriptors(model: SelaVPR, paths: Sequence[Path]) -> NDArray[np.float32]:
    """Ours, each photo looked at once and alone."""
    found = {path: model.extract([path]).descriptor[0].cpu() for path in dict.fromkeys(paths)}
    return torch.stack([found[path] for path in paths]).numpy()


def rerank(
    name: str, matcher: Matcher, task: Trial, lists: list[list[int]], work: Path, about: Any
) -> tuple[list[list[int]], list[list[float]], dict[str, float]]:
    """The lists in the order of a matcher, its scores; what a query, a pair, a reference cost."""
    spent = {"ask": 0.0, "asked": 0.0, "kept": 0.0, "looked": 0.0, "score": 0.0, "scored": 0.0}
    ask = getattr(matcher, "ask", matcher.look)

    @functools.cache
    def seen(path: Path, how: Callable[[Path], Any]) -> Any:
        start = time.perf_counter()
        found = how(path)
        if how == ask:
            spent["ask"] += time.perf_counter() - start
            spent["asked"] += 1
        if how == matcher.look:
            spent["kept"] += size(found)
            spent["looked"] += 1
        return found

    ordered, scored = [], []
    settings = {"set": task.name, "matcher": name, "lists": lists, **about}
    settings |= getattr(matcher, "about", {})
    with Journal(work, f"{task.name}-{name}", settings) as journal:
        for i, rows in enumerate(lists):
            record = journal.done.get(str(i))
            if record is None:
                query = seen(task.queries[i].path, ask)
                found = [seen(task.database[row].path, matcher.look) for row in rows]
                start = time.perf_counter()
                scores = [matcher.score(query, candidate) for candidate in found]
                seconds = time.perf_counter() - start
                record = {"scores": scores, "seconds": seconds}
                journal.add(str(i), record)
            spent["score"] += record["seconds"]
            spent["scored"] += len(rows)
            best = order_of(record["scores"])
            ordered.append([rows[j] for j in best])
            scored.append([record["scores"][j] for j in best])
    costs = {
        "seconds_per_photo": spent["ask"] / max(spent["asked"], 1),
        "seconds_per_pair": spent["score"] / max(spent["scored"], 1),
        "bytes_per_photo": spent["kept"] / max(spent["looked"], 1),
    }
    return ordered, scored, costs


def settled(task: Trial, ordered: list[list[int]], scored: list[list[float]]) -> list[list[int]]:
    """The lists, narrow leads settled by what stands around (see ``locating.foremost``)."""
    places = [p.location for p in task.database if p.location is not None]

    def one(rows: list[int], scores: list[float]) -> list[int]:
        first = foremost([places[row] for row in rows], scores)
        return [rows[first], *rows[:first], *rows[first + 1 :]]

    return [one(rows, scores) for rows, scores in zip(ordered, scored, strict=True)]


def size(kept: Any) -> int:
    """Bytes of what a matcher keeps of a photo."""
    parts = kept if isinstance(kept, tuple) else (kept,)
    return sum(int((x.descriptors if isinstance(x, Local) else x).nbytes) for x in parts)


@dataclass(frozen=True)
class Rule:
    """What counts as right.

    Attributes:
        name: in a table's head.
        offered: ``[queries, references]`` bool, references that may answer.
        right: and those that are right.
        asked: rows of the queries that something answers.
    """

    name: str
    offered: NDArray[np.bool_]
    right: NDArray[np.bool_]
    asked: NDArray[np.int64]


def rules(task: Trial) -> list[Rule]:
    """Within 10 m, within 25 m, and within 25 m with the doubtful left out; or the same place."""
    kinds = (
        (("R@1 10 m", 10.0, 10.0), ("R@1 25 m", 25.0, 25.0), ("R@1 25 m, 25-50 m out", 25.0, 50.0))
        if task.known
        else (("R@1 same place", 0.0, 0.0),)
    )
    found = []
    for name, metres, doubtful in kinds:
        offered = task.allowed & ~((task.distances_m > metres) & (task.distances_m <= doubtful))
        right = offered & (task.distances_m <= metres)
        found.append(Rule(name, offered, right, np.flatnonzero(right.any(axis=1))))
    return found


def recalls(task: Trial, lists: list[list[int]] | None, first: int = 1) -> list[str]:
    """Recall by each of the rules among the ``first`` of each list; the chance level without."""
    cells = []
    for rule in rules(task):
        offered, right, asked = rule.offered, rule.right, rule.asked
        if not len(asked):
            cells.append("-")
        elif lists is None:
            cells.append(f"{100 * np.mean(right[asked].sum(1) / offered[asked].sum(1)):.1f}")
        else:
            kept = [[r for r in lists[i] if offered[i, r]] for i in asked]
            hits = metrics.first_hits(kept, [np.flatnonzero(right[i]).tolist() for i in asked])
            cells.append(str(metrics.recall(hits, first)))
    return cells


def main_recall(cells: list[str]) -> str:
    """Of what ``recalls`` gives the R@1 within 25 m, or of the same place, in percent."""
    return cells[min(1, len(cells) - 1)].split()[0]


def run(task: Trial, args: argparse.Namespace, model: SelaVPR) -> dict[str, Any]:
    """Measure one set; prints its table."""
    database, queries = ([p.path for p in photos] for photos in (task.database, task.queries))
    lists, seconds = global_lists(model, task, args.candidates, args.work)
    report: dict[str, Any] = {"queries": len(queries), "references": len(database), "rows": []}

    def add(name: str, cells: list[str], *costs: float) -> None:
        """``costs``: seconds a photo, seconds a pair, bytes a photo."""
        report["rows"].append({"name": name, "recall": cells, "costs": list(costs)})

    add("chance", recalls(task, None))
    add("global: ours", recalls(task, lists), seconds, 0, 4 * model.config.width)
    # What no re-ranker can better.
    add("among the candidates", recalls(task, lists, max(map(len, lists))))
    raw, seconds = descriptors("raw", model, database, queries, args.work)
    for name, found in raw.items():
        first = ranked(found[len(database) :], found[: len(database)], task, args.candidates)
        add(f"global: raw {name}", recalls(task, first), seconds, 0, 4 * found.shape[1])
    about = {"model": model.fingerprint(), "side": args.side, "precision": str(model.precision)}
    matchers = build(args.matchers, model, database, args.side, args.xfeat_weights)
    for name, matcher in matchers.items():
        ordered, scored, spent = rerank(name, matcher, task, lists, args.work, about)
        add(f"re-ranked: {name}", recalls(task, ordered), *spent.values())
        if all(photo.location is not None for photo in task.database):
            around = settled(task, ordered, scored)
            add(f"re-ranked: {name}, narrow leads settled", recalls(task, around))
    header = [f"{rule.name} (of {len(rule.asked)})" for rule in rules(task)]
    report["header"] = header
    depth = args.candidates or "all"
    print(f"\n## {task.name}: {len(queries)} queries, {len(database)} references, "
          f"{depth} candidates\n")  # fmt: skip
    rows = [[r["name"], *r["recall"], *shown(r["costs"])] for r in report["rows"]]
    print(table(["", *header, "ms a photo", "ms a pair", "KB a photo"], rows), flush=True)
    return report


def shown(costs: list[float]) -> list[str]:
    """Costs as a table has them; a run that took all scores from disk has measured none."""
    cells = [f"{cost * scale:.1f}" if cost else "" for cost, scale in
             zip(costs, (1000, 1000, 0.001), strict=False)]  # fmt: skip
    return cells + [""] * (3 - len(cells))


def plot(report: dict[str, Any], measured: dict[str, Any], candidates: int, path: Path) -> None:
    """Draw the mean R@1 of the sets against a query's time and a reference's bytes.

    With 0 candidates all references of a set are, as many as its report says.

    Costs are means of the sets of ``measured`` that have them; a resumed run may have none.
    """
    recall, costs = means(report)[0], means(measured)[1]
    first = costs["global: ours"]
    most = float(np.mean([found["references"] for found in report.values()]))
    time_points, byte_points = [], []
    for name in recall:
        if name not in costs:
            continue
        photo, pair, stored = costs[name]
        group, _, label = name.partition(": ")
        second = group == "re-ranked"
        # What ours asks with holds the first stage's look; another's second stage looks once more.
        extra = first[0] if second and label != "ours" else 0
        ms = 1000 * (photo + extra + pair * (candidates or most))
        kilobytes = (stored + (first[2] if second else 0)) / 1000
        time_points.append(Point(group, label, ms, recall[name]))
        byte_points.append(Point(group, label, kilobytes, recall[name]))
    panels = [("ms a query", time_points), ("KB a reference, uncompressed", byte_points)]
    draw(panels, "R@1, mean of the sets", path, joined=False)


def means(report: dict[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Of every method the mean recall, 0 to 1, and the mean costs."""
    recalls: dict[str, list[float]] = {}
    costs: dict[str, list[list[float]]] = {}
    for found in report.values():
        for row in found["rows"]:
            if not row["costs"]:
                continue  # chance, and the candidates
            recalls.setdefault(row["name"], []).append(float(main_recall(row["recall"])) / 100)
            if row["costs"][0]:
                costs.setdefault(row["name"], []).append(row["costs"])
    return (
        {name: float(np.mean(values)) for name, values in recalls.items()},
        {name: np.mean(rows, axis=0).tolist() for name, rows in costs.items()},
    )


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--photos", type=Path, help="folder of photo sets")
    add("--city", type=Path, help="table of a city, places.csv")
    add("--sets", nargs="+", choices=SETS, help="default: all that are there")
    add("--matchers", nargs="+", choices=MATCHERS, default=list(USUAL),
        help="default: " + ", ".join(USUAL))  # fmt: skip
    add("--candidates", type=int, default=20, help="of each query; 0 for all (default 20)")
    add("--queries", type=int, default=0, help="most queries of a set; 0 for all")
    add("--side", type=int, default=640, help="longest side for SIFT and XFeat (default 640)")
    add("--xfeat-weights", type=Path, help="state dict of XFeat instead of the package's")
    add("--model", default=DEFAULT_MODEL)
    add("--device", default="auto")
    add("--precision", default="auto", help="float32, bfloat16, float16 or auto (default)")
    add("--work", type=Path, default=Path("runs/baselines"))
    add("--json", type=Path)
    add("--plot", type=Path, metavar="FILE.svg", help="recall over time and over bytes")
    add("--costs", type=Path, metavar="JSON", help="plot the costs that a --json of another run "
        "has: one of few --queries, with nothing else running")  # fmt: skip
    args = parser.parse_args()
    sets = args.sets or [name for name in SETS if is_there(name, args.photos, args.city)]
    if not sets:
        parser.error("name --photos or --city")
    model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
    report = {
        name: run(trial(name, args.photos, args.city, args.queries), args, model) for name in sets
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        measured = json.loads(args.costs.read_text(encoding="utf-8")) if args.costs else report
        plot(report, measured, args.candidates, args.plot)


if __name__ == "__main__":
    main()
