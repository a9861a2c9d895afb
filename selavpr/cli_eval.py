"""The commands that measure: ``eval`` on an index or a benchmark, ``index calibrate``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selavpr import calibration, cityeval, protocols
from selavpr.cityeval import Answer
from selavpr.errors import OptionError
from selavpr.evaluation import GLOBAL, RERANKED, Evaluation, summarise, table, write_json
from selavpr.index import PlaceIndex
from selavpr.judgement import Calibration
from selavpr.model import SelaVPR
from selavpr.protocols import Protocol, Task
from selavpr.recognizer import Recognizer
from selavpr.retrieval import Retrieval, retrieve
from selavpr.terminal import INTERRUPTED, Parsers, add_model, plain

JOURNALS = Path("runs/eval")
"""Where journals and feature caches are kept unless said otherwise: in the working folder."""

_OF_BENCHMARKS = ("protocol", "keys", "exhaustive", "no_rerank", "ranked", "matching")
_OF_INDEXES = ("queries", "split", "outside")


def evaluate(args: argparse.Namespace) -> int:
    """Measure recall on an index or on a benchmark."""
    if (args.index is None) == (args.dataset is None):
        raise OptionError("Name a benchmark's folder, or an index with --index and --queries.")
    what, others = ("an index", _OF_BENCHMARKS) if args.index else ("a benchmark", _OF_INDEXES)
    if unused := [f"--{name.replace('_', '-')}" for name in others if getattr(args, name)]:
        raise OptionError(f"{unused[0]} does not go with {what}; leave it out.")
    if not 0 < args.distance < 1e6:
        raise OptionError(f"--distance must be more than 0 m, not {args.distance:g}.")
    found = _on_benchmark(args) if args.index is None else _on_index(args)
    if found is None:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    print("\n".join(plain(line) for line in found.to_markdown().splitlines()))
    if args.json:
        write_json(args.json, found.to_dict())
    return 0


def _on_index(args: argparse.Namespace) -> Evaluation | None:
    """None after Ctrl-C."""
    if args.queries is None:
        raise OptionError("--index needs --queries: a table of photos whose place is known.")
    recognizer = Recognizer.load(
        args.index, model=args.model, device=args.device, precision=args.precision
    )
    if args.top_k is None:
        args.top_k = recognizer.depth
    answers = _ask(recognizer, args)
    if answers is None:
        return None
    index, calibration = recognizer.index, recognizer.calibration
    if calibration is not None and min(args.top_k, len(index)) != recognizer.depth:
        calibration = None  # it says nothing of answers that were come by otherwise
        print(
            f"selavpr: warning: the index is calibrated for {recognizer.depth} re-ranked "
            "candidates; with others the verdict is a rule of thumb.",
            file=sys.stderr,
        )
    return cityeval.evaluate(index, answers, distance_m=args.distance, calibration=calibration)


def _on_benchmark(args: argparse.Namespace) -> Evaluation | None:
    """None after Ctrl-C."""
    if args.top_k is None:
        args.top_k = 100
    if args.matching is None:
        args.matching = "exact"
    protocol = protocols.choose(args.dataset, args.protocol)
    distance = None if args.distance == protocol.distance_m else args.distance
    task = protocols.prepare(args.dataset, protocol, distance_m=distance, keys=args.keys)
    model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
    with tqdm(disable=args.quiet, unit="photo") as bar:
        stages: list[str] = []

        def progress(stage: str, done: int, total: int) -> None:
            if stages[-1:] != [stage]:
                stages.append(stage)
                bar.reset(total)
                bar.set_description(stage)
            bar.update(done - bar.n)

        try:
            found = retrieve(
                model,
                [p.path for p in task.queries],
                [p.path for p in task.database],
                args.work,
                top_k=None if args.exhaustive else args.top_k,
                excluded=task.excluded,
                rerank=not args.no_rerank,
                mode=args.matching,
                batch_size=args.batch_size,
                progress=progress,
            )
        except KeyboardInterrupt:
            return None
    for problem in found.problems:
        print(f"selavpr: left out: {plain(problem)}", file=sys.stderr)
    if args.ranked:
        _write_ranked(args.ranked, task, found)
    return _summary(args, protocol, task, found)


def _summary(
    args: argparse.Namespace, protocol: Protocol, task: Task, found: Retrieval
) -> Evaluation:
    lists = {GLOBAL: found.first}
    if found.reranked is not None:
        lists[RERANKED] = found.reranked
    errors: dict[str, list[float]] = {}
    for stage, ranked in lists.items() if task.measured else ():
        errors[stage] = [
            query.distance_m(task.database[rows[0]]) if rows else math.nan
            for query, rows in zip(task.queries, ranked, strict=True)
        ]
    offered = len(task.database) - max(map(len, task.excluded))
    rows = summarise([q.condition for q in task.queries], task.truths, offered, lists, errors)
    depth = offered if args.exhaustive else args.top_k
    facts = {
        "model": args.model,
        "candidates re-ranked": 0 if args.no_rerank else min(depth, offered),
        "matching": args.matching,
        "milliseconds per photo to extract": found.extract_ms,
        "milliseconds per query to search": found.search_ms,
        "milliseconds per query to re-rank": found.rerank_ms,
        "peak memory in MB": found.peak_mb,
        "peak GPU memory in MB": found.peak_gpu_mb,
        "photos left out": len(found.problems),
    }
    about = (*protocol.facts, *task.notes, "Intervals: 95 % bootstrap; chance: a random order.")
    return Evaluation(f"{protocol.name}: {args.dataset}", about, rows, facts)


def _write_ranked(path: Path, task: Task, found: Retrieval) -> None:
    """One line of JSON per query: the references in the order of each stage."""
    names = [str(p.path) for p in task.database]
    lines = []
    for i, query in enumerate(task.queries):
        line: dict[str, Any] = {
            "query": str(query.path),
            "global": [names[row] for row in found.first[i]],
            "right": [names[row] for row in sorted(task.truths[i])],
        }
        if found.matches is not None and found.reranked is not None:
            line["matches"] = found.matches[i]
            line["reranked"] = [names[row] for row in found.reranked[i]]
        lines.append(json.dumps(line, ensure_ascii=False))
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OptionError(f"Cannot write {path}: {error.strerror or error}.") from error


def calibrate(args: argparse.Namespace) -> int:
    """Fit the confidence of an index and store it there."""
    index = PlaceIndex.open(args.index)
    # Whatever calibration is in there, damaged or not, gives way.
    index.manifest = dataclasses.replace(index.manifest, calibration=None)
    recognizer = Recognizer.load(
        index, model=args.model, device=args.device, precision=args.precision
    )
    answers = _ask(recognizer, args)
    if answers is None:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    fitted, said = calibration.fit(cityeval.samples(answers), args.top_k, recognizer.model.config)
    print(_report(fitted, said))
    if args.json:
        write_json(args.json, {"calibration": fitted.to_dict(), "held_out": said})
    if args.dry_run:
        print("Nothing was written.")
        return 0
    calibration.store(recognizer.index.folder, fitted)
    print(f"Stored in {recognizer.index.folder}.")
    return 0


def _ask(recognizer: Recognizer, args: argparse.Namespace) -> list[Answer] | None:
    """The answers to all queries; None after Ctrl-C, with what is done kept."""
    queries = cityeval.read_queries(args.queries, split=args.split, outside=args.outside)
    try:
        with tqdm(total=len(queries), unit="photo", disable=args.quiet) as bar:
            answers, problems = cityeval.ask(
                recognizer,
                queries,
                args.work,
                top_k=args.top_k,
                progress=lambda done, total: bar.update(done - bar.n),
            )
    except KeyboardInterrupt:
        return None
    for problem in problems:
        print(f"selavpr: left out: {plain(problem)}", file=sys.stderr)
    return answers


def _report(fitted: Calibration, said: dict[str, object]) -> str:
    """What was fitted, and what held-out photos say of it."""
    lines = [
        f"Fitted to {fitted.photos} photos of the city and {fitted.outside} from elsewhere; "
        f"{fitted.top_k} candidates each.",
        "All figures are of photos held out in five-fold cross-validation.",
        "",
    ]
    rows: list[Sequence[str]] = []
    for name, value in said.items():
        if isinstance(value, float):
            rows.append((name.replace("_", " "), f"{value:.3f}"))
    verdicts = said["verdicts"]
    assert isinstance(verdicts, dict)
    for word, about in verdicts.items():
        right = "" if about["right"] is None else f", {about['right']:.1%} right"
        rows.append((f"verdict {word}", f"{about['photos']} photos{right}"))
    lines.append(table(["measure", "value"], rows))
    steps = ["below", *(f"{step:.2f}" for step in fitted.steps)]
    pairs = zip(steps, fitted.radius50_m, fitted.radius90_m, strict=True)
    lines += ["", table(["right from", "50 % within m", "90 % within m"],
                        [(a, f"{b:.1f}", f"{c:.1f}") for a, b, c in pairs])]  # fmt: skip
    return "\n".join(lines)


def add_eval(commands: Parsers) -> None:
    """Declare ``eval``."""
    parser = commands.add_parser(
        "eval",
        help="measure how well a model or an index finds places",
        description="Measure a model on a benchmark's folder, or an index on a table of photos: "
        "recall with chance and intervals by condition, errors in metres, time and, of a "
        "benchmark, memory. What is done is kept in --work, so a stopped run goes on.",
    )
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", metavar="DATASET_DIR",
        help="folder of a benchmark, or a table with a column role")  # fmt: skip
    add("--protocol", metavar="NAME",
        help=f"{', '.join(protocols.PROTOCOLS)}; default: by the folder's layout")  # fmt: skip
    add("--distance", type=float, default=25.0, metavar="M",
        help="answers this close are right (default 25)")  # fmt: skip
    add("--keys", type=Path, metavar="FILE", help="take only the queries this text file names")
    add("--exhaustive", action="store_true", help="re-rank the whole database")
    add("--no-rerank", action="store_true", help="global search only")
    add("--matching", choices=("exact", "fast"),
        help="default exact; an index is asked as the app asks it")  # fmt: skip
    add("--batch-size", type=int, default=8, metavar="N", help="photos per pass (default 8)")
    add("--ranked", type=Path, metavar="FILE", help="write the ranked lists, a line per query")
    add("--index", type=Path, metavar="DIR",
        help="measure this index, a folder or ORG/NAME on the Hub, with --queries")  # fmt: skip
    _add_queries(parser, required=False, top_k=None)
    parser.set_defaults(run=evaluate)


def add_calibrate(commands: Parsers) -> None:
    """Declare ``index calibrate``."""
    parser = commands.add_parser(
        "calibrate",
        help="fit the confidence of an index to photos whose place is known",
        description="Fit confidence, verdicts and radii to photos whose place is known and photos "
        "from elsewhere, and store them in the index. Use photos that no other tuning has seen, "
        "and others for evaluation.",
    )
    parser.add_argument("index", type=Path, metavar="DIR")
    _add_queries(parser, required=True, top_k=20)
    parser.add_argument("--dry-run", action="store_true", help="report, but write nothing")
    parser.set_defaults(run=calibrate)


def _add_queries(parser: argparse.ArgumentParser, *, required: bool, top_k: int | None) -> None:
    add = parser.add_argument
    add(
        "--queries",
        type=Path,
        metavar="TABLE",
        required=required,
        help="table of photos, or the folder that holds it: columns image, latitude, longitude "
        "and, where known, condition, role (query, or outside for photos from elsewhere), split",
    )
    add("--split", metavar="NAME", help="only rows whose column split says this")
    add("--outside", type=Path, metavar="FOLDER", help="more photos from elsewhere")
    shown = top_k or "100 on a benchmark; on an index as many as when calibrated, else 20"
    add("--top-k", type=int, default=top_k, metavar="N",
        help=f"candidates to re-rank (default {shown})")  # fmt: skip
    add_model(parser)
    add("--work", type=Path, default=JOURNALS, metavar="DIR",
        help=f"keeps what is done (default {JOURNALS}/)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add("--quiet", action="store_true", help="show no progress")
