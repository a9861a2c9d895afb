"""The ``index`` commands: describe and check an index of photos; ``cli_build`` makes one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from selavpr.cli_build import add_build, index_build
from selavpr.cli_edit import add_edits
from selavpr.cli_eval import add_calibrate
from selavpr.index import PlaceIndex, verify
from selavpr.judgement import Calibration
from selavpr.searchers import describe
from selavpr.terminal import NOT_HERE, Parsers, plain

__all__ = ["add_index", "index_build", "index_info", "index_verify"]


def index_info(args: argparse.Namespace) -> int:
    """Say what an index holds."""
    index = PlaceIndex.open(args.index)
    manifest = index.manifest
    sizes = index.sizes()
    photos = sum(size for name, size in sizes.items() if name.startswith("images/"))
    local = sum(sizes.get(name, 0) for name in index.codec.arrays)
    about = {
        "name": manifest.name,
        "title": manifest.title,
        "photos": len(index),
        "bounds": list(manifest.bounds),
        "model": manifest.model,
        "fingerprint": manifest.fingerprint,
        "local_features": manifest.local,
        "rank": index.codec.rank,
        "search": describe(manifest.search),
        "calibrated": Calibration.from_dict(manifest.calibration) is not None,
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
    add_build(below)
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
    add_edits(below)
