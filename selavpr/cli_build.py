"""The command ``index build``: from a source of photos to an index."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from selavpr import building, gather, panoramax, planning, rayengine
from selavpr.cli_source import add_source, options_of, photos_of, say_problems
from selavpr.download import Fetcher
from selavpr.index import Manifest
from selavpr.indexfiles import check_basemap, named
from selavpr.localcodecs import CODECS
from selavpr.model import SelaVPR
from selavpr.searchers import SEARCHES, describe
from selavpr.terminal import INTERRUPTED, Parsers, add_model, plain

ENGINES = ("local", "ray")
"""What extracts the features: this process, or a Ray cluster."""


def index_build(args: argparse.Namespace) -> int:
    """Build an index, or say what building it would take."""
    work = args.photos or args.out.absolute().with_name(f"{args.out.absolute().name}.photos")
    try:
        # Before hours of downloads.
        if args.engine == "ray":
            rayengine.load()
        if args.basemap is not None:
            check_basemap(args.basemap)
        found = photos_of(args, work, dry=args.dry_run)
        model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
        batch_size = args.batch_size or planning.find_batch_size(model)
        with _engine(args) as engine:
            if args.dry_run:
                return _dry_run(args, found, work, model, batch_size, engine)
            return _build(args, found, model, batch_size, engine)
    except KeyboardInterrupt:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED


@contextlib.contextmanager
def _engine(args: argparse.Namespace) -> Iterator[building.Engine]:
    if args.engine != "ray":
        yield building.ONE_PROCESS
        return
    with rayengine.connected(args.device) as engine:
        print(f"selavpr: {engine}", file=sys.stderr)
        yield engine


def _build(
    args: argparse.Namespace,
    found: gather.Gathered,
    model: SelaVPR,
    batch_size: int,
    engine: building.Engine,
) -> int:
    name = plain(args.name or args.out.resolve().name)
    places = [photo.place for photo in found.photos]
    manifest = Manifest(
        name=name,
        title=plain(args.title) or name,
        model=args.model,
        fingerprint="",
        count=0,
        bounds=(0, 0, 0, 0),
        license=plain(args.license) or _of_all(found.licences(), [p.licence for p in places]),
        attribution=plain(args.attribution) or _of_all(found.credits(), [p.credit for p in places]),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=plain(args.command_line),
    )
    with tqdm(total=len(found.photos), unit="photo", disable=args.quiet) as bar:
        made, problems = building.build(
            args.out,
            found.photos,
            model,
            manifest,
            local=args.local,
            rank=args.rank,
            search=args.search,
            basemap=args.basemap,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(done - bar.n),
            engine=engine,
            resume=args.resume,
        )
    problems = [*found.problems, *problems]
    say_problems(problems, args.verbose)
    size = sum(made.sizes().values())
    print(f"Wrote {made.folder}: {len(made):,} photos, {size / 1e6:.1f} MB", end="")
    print(f"; {len(problems)} left out" if problems else "", end="")
    print(f"; search: {describe(made.manifest.search)}")
    return 0


def _dry_run(
    args: argparse.Namespace,
    found: gather.Gathered,
    work: Path,
    model: SelaVPR,
    batch_size: int,
    engine: building.Engine,
) -> int:
    home = panoramax.address(args.server)
    fetcher = Fetcher(home, rate=args.rate) if found.offers else None
    try:
        made = planning.plan(
            found,
            model,
            work=work,
            fetcher=fetcher,
            workers=args.workers,
            rate=args.rate,
            views=max(len(options_of(args).headings), 1),
            local=args.local,
            rank=args.rank,
            batch_size=batch_size,
            engines=engine.workers,
        )
    finally:
        if fetcher is not None:
            fetcher.close()
    say_problems(found.problems, args.verbose)
    for line in made.lines():
        print(line)
    kind, _ = engine.decides(model)
    print(f"on {kind}, {batch_size} photos at a time; nothing was written")
    return 0


def _of_all(names: Sequence[str], said: Sequence[str]) -> str:
    """Licences or authors, unless some photos say none: nothing is said of those for the others."""
    return named([plain(name) for name in names]) if all(said) else ""


def add_build(commands: Parsers) -> None:
    """Declare ``index build``."""
    parser = commands.add_parser(
        "build",
        help="build an index from photos: a folder, a table, a video, Panoramax, Mapillary",
        description="Build an index of reference photos. SOURCE is a folder of photos with GPS in "
        "their EXIF data; a table (CSV or GeoJSON) or a folder with one, with columns for image, "
        "latitude and longitude and, where known, id, heading, captured_at, street, credit, "
        "licence; a folder of a benchmark (@utm_east@utm_north@...@.jpg, MSLS, GSV-Cities); a "
        "video with a GPX track; panoramax:lon1,lat1,lon2,lat2; or mapillary:lon1,lat1,lon2,lat2 "
        "with a token in MAPILLARY_TOKEN. Photos that cannot be used are listed and left out. A "
        "build that was stopped goes on when the same command is given again.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="index folder to make or replace")
    add("--dry-run", action="store_true",
        help="say how many photos, how big and how long, and write nothing")  # fmt: skip
    add_source(parser)
    add_model(parser)
    _add_index(parser)
    parser.set_defaults(run=index_build)


def _add_index(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the index").add_argument
    add("--name", default="", help="short name (default: that of the folder OUT)")
    add("--title", default="", help="name for people, such as the city's")
    add("--license", default="", help="of the photos (default: what the source says)")
    add("--attribution", default="", help="whom to name for them (default: what the source says)")
    add("--basemap", type=Path, metavar="FILE", help="GeoJSON of streets, water and buildings")
    add("--local", choices=tuple(CODECS), default="tokens",
        help="how local features are kept (default %(default)s)")  # fmt: skip
    add("--rank", type=int, metavar="N", help="how much of them: bytes per token (tokens, default "
        f"what {building.DEFAULT_BYTES // 1000} KB a photo hold) or descriptor (product), "
        "descriptors (keypoint)")  # fmt: skip
    add("--search", choices=SEARCHES, default="auto", help="global search: flat is exact, ivf is "
        "for many photos (default auto: by their number)")  # fmt: skip
    add("--batch-size", type=_batch_size, default=0, metavar="N",
        help="photos per pass (default auto: what fits)")  # fmt: skip
    add("--engine", choices=ENGINES, default="local", help="what extracts the features: this "
        "process (default), or the Ray cluster that RAY_ADDRESS names or that runs here, else one "
        "that is started; the index is the same")  # fmt: skip
    add("--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from where a build was stopped")  # fmt: skip


def _batch_size(text: str) -> int:
    """A number of photos; 0 stands for ``auto``."""
    number = 0 if text == "auto" else int(text)
    if text != "auto" and number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more, or auto")
    return number
