"""The commands that measure: ``eval`` on an index or a benchmark, ``index calibrate``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from selavpr import calibration, cityeval
from selavpr.cityeval import Answer
from selavpr.confidence import Calibration
from selavpr.errors import OptionError
from selavpr.evaluation import table, write_json
from selavpr.index import PlaceIndex
from selavpr.recognizer import Recognizer
from selavpr.terminal import INTERRUPTED, Parsers, add_model, plain

JOURNALS = Path("eval")
"""Where journals and feature caches are kept unless said otherwise: in the working folder."""


def evaluate(args: argparse.Namespace) -> int:
    """Measure recall."""
    if args.index is None or args.queries is None:
        raise OptionError("Say --index and --queries.")
    recognizer = Recognizer.load(
        args.index, model=args.model, device=args.device, precision=args.precision
    )
    answers = _ask(recognizer, args)
    if answers is None:
        return INTERRUPTED
    found = cityeval.evaluate(
        recognizer.index,
        answers,
        distance_m=args.distance,
        calibration=recognizer.calibration,
    )
    print(plain_lines(found.to_markdown()))
    if args.json:
        write_json(args.json, found.to_dict())
    return 0


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
        return INTERRUPTED
    fitted, said = calibration.fit(cityeval.samples(answers), args.top_k)
    print(_report(fitted, said))
    if args.json:
        write_json(args.json, {"calibration": fitted.to_dict(), "held_out": said})
    if args.dry_run:
        print("Nothing was written.")
        return 0
    calibration.store(recognizer.index.folder, fitted)
    print(f"Stored in {recognizer.index.folder}.")
    return 0


def plain_lines(text: str) -> str:
    """Without what could steer a terminal, line by line."""
    return "\n".join(plain(line) for line in text.splitlines())


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
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
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
        help="measure how well an index or a model finds places",
        description="Measure on an index: --index DIR --queries TABLE, with the columns image, "
        "latitude, longitude and, where known, condition, role (query, or outside for photos from "
        "elsewhere) and split. What is done is kept in --work, so a stopped run goes on.",
    )
    add = parser.add_argument
    add("--index", type=Path, metavar="DIR", help="evaluate this index")
    _add_queries(parser, required=False)
    add("--distance", type=float, default=25.0, metavar="M",
        help="answers this close are right (default 25)")  # fmt: skip
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
    _add_queries(parser, required=True)
    parser.add_argument("--dry-run", action="store_true", help="report, but write nothing")
    parser.set_defaults(run=calibrate)


def _add_queries(parser: argparse.ArgumentParser, *, required: bool) -> None:
    add = parser.add_argument
    add("--queries", type=Path, metavar="TABLE", required=required,
        help="table of photos, or the folder that holds it")  # fmt: skip
    add("--split", metavar="NAME", help="only rows whose column split says this")
    add("--outside", type=Path, metavar="FOLDER", help="more photos from elsewhere")
    add("--top-k", type=int, default=20, metavar="N", help="candidates to re-rank (default 20)")
    add_model(parser)
    add("--work", type=Path, default=JOURNALS, metavar="DIR",
        help=f"keeps what is done (default {JOURNALS}/)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="write the figures")
    add("--quiet", action="store_true", help="show no progress")
