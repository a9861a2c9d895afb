"""The ``index`` commands: build, describe and check an index of reference photos."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

from tqdm import tqdm

from selavpr import building, sources, tables
from selavpr.cli_eval import add_calibrate
from selavpr.errors import OptionError
from selavpr.index import Manifest, PlaceIndex, verify
from selavpr.model import SelaVPR
from selavpr.terminal import INTERRUPTED, NOT_HERE, Parsers, add_model, plain


def index_build(args: argparse.Namespace) -> int:
    """Build an index from a folder with a table of places."""
    wanted = {}
    for condition in args.where:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise OptionError(f"--where takes column=value, not {condition!r}.")
        wanted[column] = value
    photos = sources.read_folder(args.folder, wanted)
    if not photos:
        raise OptionError(f"No row of the table in {args.folder} fits; check --where.")
    model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
    name = args.name or args.out.resolve().name
    manifest = Manifest(
        name=name,
        title=args.title or name,
        model=args.model,
        fingerprint="",
        count=0,
        bounds=(0, 0, 0, 0),
        license=args.license,
        attribution=args.attribution,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=args.command_line,
    )
    try:
        with tqdm(total=len(photos), unit="photo", disable=args.quiet) as bar:
            made, problems = building.build(
                args.out,
                photos,
                model,
                manifest,
                rank=args.rank,
                basemap=args.basemap,
                batch_size=args.batch_size,
                progress=lambda done, total: bar.update(done - bar.n),
            )
    except KeyboardInterrupt:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    for problem in problems:
        print(f"selavpr: left out: {problem}", file=sys.stderr)
    size = sum(about["bytes"] for about in made.manifest.files.values())
    print(f"Wrote {made.folder}: {len(made):,} photos, {size / 1e6:.1f} MB", end="")
    print(f"; {len(problems)} left out" if problems else "")
    return 0


def index_info(args: argparse.Namespace) -> int:
    """Say what an index holds."""
    index = PlaceIndex.open(args.index)
    manifest = index.manifest
    sizes = {name: about["bytes"] for name, about in manifest.files.items()}
    photos = sum(size for name, size in sizes.items() if name.startswith("images/"))
    local = sum(sizes.get(name, 0) for name in ("codes.npy", "scales.npy"))
    about = {
        "name": manifest.name,
        "title": manifest.title,
        "photos": len(index),
        "bounds": list(manifest.bounds),
        "model": manifest.model,
        "fingerprint": manifest.fingerprint,
        "rank": index.codec.rank,
        "calibrated": manifest.calibration is not None,
        "license": manifest.license,
        "attribution": manifest.attribution,
        "created": manifest.created,
        "command": manifest.command,
        "bytes": sum(sizes.values()),
        "bytes_of_photos": photos,
        "bytes_of_local_features_per_photo": round(local / max(len(index), 1)),
    }
    if args.json:
        print(json.dumps(about))
        return 0
    width = max(len(name) for name in about)
    for name, value in about.items():
        shown = f"{value:,}" if isinstance(value, int) and value > 999 else str(value)
        print(f"{name.replace('_', ' '):<{width}}  {plain(shown)}".rstrip())
    return 0


def index_verify(args: argparse.Namespace) -> int:
    """Compare an index with its checksums."""
    problems = verify(args.index)
    for problem in problems:
        print(plain(problem))
    if problems:
        return NOT_HERE
    print(f"{args.index} is as it was built.")
    return 0


def add_index(commands: Parsers) -> None:
    """Declare ``index`` and its commands."""
    parser = commands.add_parser("index", help="build, describe or check an index of photos")
    below = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_index_build(below)
    info = below.add_parser("info", help="say what an index holds")
    info.add_argument("index", type=Path, metavar="DIR")
    info.add_argument("--json", action="store_true", help="print one line of JSON")
    info.set_defaults(run=index_info)
    check = below.add_parser(
        "verify",
        help="compare an index with its checksums",
        description="Compare every file of an index with its checksum; exit code 1 when one is "
        "damaged or missing.",
    )
    check.add_argument("index", type=Path, metavar="DIR")
    check.set_defaults(run=index_verify)
    add_calibrate(below)


def _add_index_build(commands: Parsers) -> None:
    parser = commands.add_parser(
        "build",
        help="build an index from a folder of photos",
        description=f"Build an index from a folder that holds a table {tables.TABLE}: one row per "
        "photo with the columns image, latitude, longitude and, where known, id, heading, "
        "captured_at, street, credit, licence. A build that was stopped goes on when the same "
        "command is given again.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="index folder to make or replace")
    add("--from", dest="folder", type=Path, required=True, metavar="FOLDER", help="the photos")
    add("--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="take only rows with this value; may be repeated")  # fmt: skip
    add_model(parser)
    add("--name", default="", help="short name (default: that of the folder OUT)")
    add("--title", default="", help="name for people, such as the city's")
    add("--license", default="", help="of the photos")
    add("--attribution", default="", help="whom to name for the photos")
    add("--basemap", type=Path, metavar="FILE", help="GeoJSON of streets, water and buildings")
    add("--rank", type=int, default=building.DEFAULT_RANK, metavar="N",
        help=f"bytes per token of local features (default {building.DEFAULT_RANK})")  # fmt: skip
    add("--batch-size", type=int, default=8, metavar="N", help="photos per pass (default 8)")
    add("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=index_build)
