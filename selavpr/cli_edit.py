"""The commands ``index merge``, ``add``, ``remove`` and ``push``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from selavpr import editing, published
from selavpr.cli_source import add_source, conditions, photos_of, say_problems
from selavpr.errors import OptionError
from selavpr.index import PlaceIndex
from selavpr.model import SelaVPR
from selavpr.searchers import describe
from selavpr.terminal import INTERRUPTED, Parsers, add_model, plain


def index_merge(args: argparse.Namespace) -> int:
    """Make one index of several."""
    made, notes = editing.merge(args.out, args.indexes, name=args.name, title=args.title)
    for note in notes:
        print(f"selavpr: {plain(note)}", file=sys.stderr)
    _say(made, f"Wrote {made.folder}")
    return 0


def index_add(args: argparse.Namespace) -> int:
    """Put more photos into an index."""
    PlaceIndex.open(args.index)
    model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
    try:
        folder = args.index.absolute()
        found = photos_of(args, folder.with_name(f"{folder.name}.photos"))
        photos = found.photos
        with tqdm(total=len(photos), unit="photo", disable=args.quiet) as bar:
            made, problems = editing.add(
                args.index,
                photos,
                model,
                batch_size=args.batch_size,
                progress=lambda done, total: bar.update(done - bar.n),
            )
    except KeyboardInterrupt:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED
    say_problems([*found.problems, *problems], args.verbose)
    _say(made, f"Added {len(photos) - len(problems):,} photos to {args.index}")
    return 0


def index_remove(args: argparse.Namespace) -> int:
    """Take photos out of an index."""
    if not args.ids and not args.where:
        raise OptionError("Say which photos to remove, with --ids or --where.")
    made, count = editing.remove(args.index, ids=args.ids, where=conditions(args.where))
    _say(made, f"Removed {count:,} photos from {args.index}")
    return 0


def index_push(args: argparse.Namespace) -> int:
    """Publish an index."""
    address = published.push(args.index, args.repo)
    print(f"Pushed: {address}")
    print(f"Open it anywhere with --index {args.repo}")
    return 0


def _say(made: PlaceIndex, what: str) -> None:
    print(f"{what}; {len(made):,} photos, search: {describe(made.manifest.search)}")
    if made.manifest.calibration is not None:
        print(f"selavpr: {editing.CALIBRATED}", file=sys.stderr)


def add_edits(commands: Parsers) -> None:
    """Declare the commands."""
    merge = commands.add_parser(
        "merge",
        help="make one index of several",
        description="Make one index of several of the same model, without their photos' originals. "
        "Ids that clash get numbers; a photo that is in several is taken once.",
    )
    merge.add_argument("out", type=Path, metavar="OUT", help="index folder to make or replace")
    merge.add_argument("indexes", type=Path, nargs="+", metavar="DIR", help="two or more indexes")
    merge.add_argument("--name", default="", help="short name (default: that of the first)")
    merge.add_argument("--title", default="", help="name for people (default: that of the first)")
    merge.set_defaults(run=index_merge)
    more = commands.add_parser(
        "add",
        help="put more photos into an index",
        description="Put more photos into an index, from any source that `index build` takes. What "
        "is there is not extracted again. Stopped, the same command goes on.",
    )
    more.add_argument("index", type=Path, metavar="DIR")
    add_source(more)
    add_model(more)
    more.add_argument("--batch-size", type=int, default=8, metavar="N",
        help="photos per pass (default 8)")  # fmt: skip
    more.set_defaults(run=index_add)
    less = commands.add_parser(
        "remove",
        help="take photos out of an index",
        description="Take photos out of an index, by id or by what its table says of them.",
    )
    less.add_argument("index", type=Path, metavar="DIR")
    less.add_argument("--ids", nargs="+", default=[], metavar="ID")
    _add_where(less, "photos with this value, such as credit=NAME; with several, all must hold")
    less.set_defaults(run=index_remove)
    push = commands.add_parser(
        "push",
        help="publish an index on the Hugging Face Hub",
        description="Publish an index as a data set on the Hugging Face Hub, with a card that says "
        "what it holds. Needs a token with write access in HF_TOKEN.",
    )
    push.add_argument("index", type=Path, metavar="DIR")
    push.add_argument("repo", metavar="ORG/NAME")
    push.set_defaults(run=index_push)


def _add_where(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help=text)
