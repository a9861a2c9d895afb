"""The command line: ``python -m selavpr COMMAND``, or ``selavpr COMMAND`` once installed.

One function runs a command and one, ``_add_<command>``, declares its arguments; ``_COMMANDS`` lists
the latter. The commands of ``index`` are in ``cli_index``. Only modules called ``cli...`` print.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import selavpr
from selavpr import hub, maps, viz, weights
from selavpr.cli_doctor import add_doctor
from selavpr.cli_eval import add_eval
from selavpr.cli_index import add_index
from selavpr.cli_train import add_train
from selavpr.errors import IndexFileError, OptionError, SelaVPRError
from selavpr.images import load_image
from selavpr.index import MANIFEST
from selavpr.metrics import RIGHT_M
from selavpr.model import SelaVPR
from selavpr.recognizer import Recognizer
from selavpr.report import to_dict, to_geojson
from selavpr.structs import Recognition
from selavpr.terminal import (
    INTERRUPTED,
    NOT_HERE,
    PIPE_CLOSED,
    USER_ERROR,
    Parsers,
    add_model,
    plain,
)
from selavpr.text import percent

PREBUILT = Path(__file__).resolve().parent.parent / "prebuilt_index"
"""Cities that come with the repository, one index folder each."""

SHOWN = 5
"""Candidates listed for people; ``--json`` has all."""

DRAWN_MATCHES = 60
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process when None.

    Returns:
        The exit code: 0, or 1 when the answer is no (a photo is not in the city, an index is
        damaged), or 2 after an error that the user can mend, or 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a street's name must not end in UnicodeEncodeError
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    args.command_line = shlex.join(["selavpr", *(sys.argv[1:] if argv is None else argv)])
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        code = run(args)
        sys.stdout.flush()
        return code
    except SelaVPRError as error:
        print(f"selavpr: {plain(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("selavpr: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would complain.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return PIPE_CLOSED


def locate(args: argparse.Namespace) -> int:
    """Say where photos were taken."""
    for path in (args.draw, args.map):
        if path is not None and not path.absolute().parent.is_dir():
            raise OptionError(f"There is no folder {path.parent} to write {path.name} into.")
    if args.draw is not None and args.draw.suffix.lower() not in PICTURES:
        raise OptionError(f"--draw writes {', '.join(PICTURES)}, not {args.draw.name}.")
    recognizer = Recognizer.load(
        args.index or _only_index(), model=args.model, device=args.device, precision=args.precision
    )
    codes = {0}
    for i, photo in enumerate(args.photos, 1):
        try:
            found = recognizer.recognize(
                photo, top_k=args.top_k, rerank=args.rerank, rerank_depth=args.rerank_depth
            )
            number = i if len(args.photos) > 1 else None
            _print_answer(args, recognizer, found, photo)
            if args.draw:
                _draw(recognizer, found, photo, _numbered(args.draw, number))
            if args.map:
                _map(recognizer, found, _numbered(args.map, number))
        except SelaVPRError as error:
            print(f"selavpr: {photo}: {plain(str(error))}", file=sys.stderr)
            codes.add(USER_ERROR)
            continue
        if found.location.verdict == "not here":
            codes.add(NOT_HERE)
    return max(codes)


def _print_answer(
    args: argparse.Namespace, recognizer: Recognizer, found: Recognition, photo: str
) -> None:
    if args.json or args.geojson:
        answer = to_dict(found, photo) if args.json else to_geojson(found, photo)
        print(json.dumps(answer, allow_nan=False), flush=True)
        return
    estimate = found.location
    where = f"{estimate.location.latitude:.6f}, {estimate.location.longitude:.6f}"
    where += f" ({plain(estimate.street)})" if estimate.street else ""
    town = plain(recognizer.index.manifest.title)
    if estimate.verdict == "not here":
        print(f"{photo}: not in {town}, it seems; the likest place is {where}")
    else:
        print(f"{photo}: {where}, {estimate.verdict} in {town}")
    if recognizer.calibration is None:
        unfit = recognizer.index.manifest.calibration is not None
        why = "was calibrated otherwise (calibrate it anew)" if unfit else "is not calibrated"
        print(f"  this index {why}, so the verdict is a rule of thumb")
    elif found.candidates[0].matches is None:
        print("  nothing was re-ranked, so the verdict is a rule of thumb")
    elif estimate.confidence is None:
        print(
            f"  the index is calibrated for {recognizer.depth} re-ranked candidates, so the "
            "verdict is a rule of thumb"
        )
    else:
        print(f"  in this city with a probability of {percent(estimate.confidence)}%")
    if estimate.right is not None:
        print(f"  within {RIGHT_M:.0f} m with a probability of {percent(estimate.right)}%")
    if estimate.radius50_m is not None and estimate.radius90_m is not None:
        print(f"  within {estimate.radius50_m:.0f} m (50 %), {estimate.radius90_m:.0f} m (90 %)")
    print("  rank  global  matches  similarity  place")
    for c in found.candidates[:SHOWN]:
        place, matches = c.place, c.matches_text
        at = f"{place.location.latitude:.6f}, {place.location.longitude:.6f}"
        print(
            f"  {c.rank:>4}  {c.global_rank:>6}  {matches:>7}  {c.similarity:>10.3f}  "
            f"{plain(place.place_id)}  {at}  {plain(place.street)}".rstrip()
        )
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in found.timings_ms.items())
    print(f"  {sum(found.timings_ms.values()):.0f} ms: {stages}", flush=True)


def _draw(recognizer: Recognizer, found: Recognition, photo: str, out: Path) -> None:
    """The photo beside its best candidate with their matches."""
    matches = recognizer.matches(found, 0)
    rows = viz.select_matches(matches, count=DRAWN_MATCHES, agreeing_only=True)
    if not len(rows):
        rows = viz.select_matches(matches, count=DRAWN_MATCHES)
    candidate = recognizer.index.photo(found.candidates[0].row)
    picture = viz.draw_matches(load_image(photo), candidate, matches, rows)
    try:
        picture.save(out)
    except OSError as error:
        raise OptionError(f"Cannot write {out}: {error.strerror or error}.") from error


def _map(recognizer: Recognizer, found: Recognition, out: Path) -> None:
    index = recognizer.index
    basemap = maps.basemap_of(index)
    page = maps.build_map(
        found,
        covered=() if basemap else index.spread(maps.DOTS),
        basemap=basemap,
        attribution=index.manifest.attribution,
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"Cannot write {out}: {error.strerror}.") from error


def _numbered(path: Path, number: int | None) -> Path:
    return path if number is None else path.with_stem(f"{path.stem}-{number}")


def _only_index() -> Path:
    """The bundled city."""
    found = sorted(path.parent for path in PREBUILT.glob(f"[!.]*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise IndexFileError(
            f"No city is bundled (in {PREBUILT}); name an index with --index, or build one with "
            "`python -m selavpr index build`."
        )
    names = ", ".join(path.name for path in found)
    raise IndexFileError(f"Several cities are bundled ({names}); choose one with --index.")


def convert(args: argparse.Namespace) -> int:
    """Turn a checkpoint of the reference implementation into a model folder."""
    weights.check_target(args.out)
    if args.push_to_hub:
        hub.check_pushable(args.push_to_hub)
    # Building the network checks every tensor's name and shape.
    model = SelaVPR.from_official_checkpoint(args.checkpoint, device="cpu", precision="float32")
    source = model.to_weights()
    config = source.config
    registers = f", {config.registers} registers" if config.registers else ""
    trainable = sum(tensor.numel() for tensor in source.trained.values())
    print(f"{args.checkpoint}: width {config.width}, {config.depth} blocks{registers}")
    print(f"  trained parameters  {trainable:,}")
    print(f"  backbone            {weights.fingerprint(source.backbone, config.depth)}")
    dtype = torch.float16 if args.half else torch.float32
    folder = weights.save(source, args.out, with_backbone=args.with_backbone, dtype=dtype)
    print(f"Wrote {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name:<22}{path.stat().st_size / 1e6:10.1f} MB")
    if not args.with_backbone and source.backbone_repo:
        print(f"Loading it fetches the backbone from {source.backbone_repo}.")
    elif not args.with_backbone:
        print(
            "selavpr: warning: no Hub repository is known for this backbone, so the folder alone "
            "cannot be loaded; convert it again with --with-backbone.",
            file=sys.stderr,
        )
    if args.push_to_hub:
        address = hub.push(folder, args.push_to_hub, message=f"Convert {args.checkpoint.name}")
        print(f"Pushed: {address}")
    return 0


def _add_convert(commands: Parsers) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn a checkpoint of the reference implementation (.pth) into a model folder",
        description="Turn a checkpoint of Lu-Feng/SelaVPR (.pth) into a model folder: config.json "
        "and adapters.safetensors. Nothing in the checkpoint but tensors and numbers is read.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the .pth file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--with-backbone",
        action="store_true",
        help="also write the frozen backbone, so that loading needs no network",
    )
    parser.add_argument("--half", action="store_true", help="write float16: half the size")
    parser.add_argument(
        "--push-to-hub", metavar="ORG/NAME", help="upload the folder to this Hub repository"
    )
    parser.set_defaults(run=convert)


def _add_locate(commands: Parsers) -> None:
    parser = commands.add_parser(
        "locate",
        help="say where photos were taken",
        description="Say where photos were taken. The exit code is 0 when all were located, 1 "
        "when one seems not to be in the city, 2 when one cannot be read.",
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="JPEG, PNG, WebP, HEIC, AVIF, ...")
    add("--index", type=Path, metavar="DIR",
        help="folder, or ORG/NAME of a data set on the Hub; default: the bundled city")  # fmt: skip
    add_model(parser)
    add("--top-k", type=int, default=20, metavar="N", help="candidates to return (default 20)")
    add("--rerank-depth", type=int, metavar="N",
        help="candidates to re-rank (default: as many as when calibrated, else 20)")  # fmt: skip
    add("--no-rerank", dest="rerank", action="store_false", help="global search only")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one line of JSON per photo")
    form.add_argument("--geojson", action="store_true", help="the same as GeoJSON")
    add("--draw", type=Path, metavar="PICTURE", help="write the matches with the best candidate; "
        "NAME-1, NAME-2, ... for several photos")  # fmt: skip
    add("--map", type=Path, metavar="PAGE.html", help="write a map, numbered likewise")
    parser.set_defaults(run=locate)


_COMMANDS: tuple[Callable[[Parsers], None], ...] = (
    _add_locate,
    add_index,
    _add_convert,
    add_eval,
    add_train,
    add_doctor,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selavpr", description="Find where a photo was taken, and show why."
    )
    parser.add_argument("--version", action="version", version=f"selavpr {selavpr.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser
