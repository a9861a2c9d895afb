"""The command ``index build``: from a source of photos to an index."""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from selavpr import building, gather, layouts, panorama, panoramax, planning, thinning, video
from selavpr.collecting import ATTRIBUTION
from selavpr.download import Fetcher
from selavpr.errors import OptionError
from selavpr.index import Manifest, work_folder
from selavpr.localcodecs import CODECS
from selavpr.model import SelaVPR
from selavpr.searchers import SEARCHES
from selavpr.terminal import INTERRUPTED, Parsers, add_model, plain

SHOWN_PROBLEMS = 20
"""Photos left out that are listed one by one; the rest is counted, and listed with --verbose."""

NAMED = 5
"""Authors and licences that an index names itself; its table of places names all."""


def index_build(args: argparse.Namespace) -> int:
    """Build an index, or say what building it would take."""
    options = _options(args)
    kind = gather.kind_of(args.source, args.layout)
    work = args.photos or args.out.absolute().with_name(f"{args.out.absolute().name}.photos")
    bars = _Bars(args.quiet)
    try:
        with bars:
            found = gather.gather(args.source, kind, options, work, bars.show, dry=args.dry_run)
        _say_notes(found)
        if not (found.photos or found.offers or found.expected):
            _say_problems(found.problems, args.verbose)
            raise OptionError(_nothing(args, kind))
        model = SelaVPR.from_pretrained(args.model, device=args.device, precision=args.precision)
        batch_size = args.batch_size or planning.find_batch_size(model)
        if args.dry_run:
            return _dry_run(args, options, found, work, model, batch_size)
        if not args.resume:
            shutil.rmtree(work_folder(args.out.resolve()) / "parts", ignore_errors=True)
        return _build(args, found, model, batch_size)
    except KeyboardInterrupt:
        print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED


def _build(
    args: argparse.Namespace, found: gather.Gathered, model: SelaVPR, batch_size: int
) -> int:
    name = args.name or args.out.resolve().name
    manifest = Manifest(
        name=name,
        title=args.title or name,
        model=args.model,
        fingerprint="",
        count=0,
        bounds=(0, 0, 0, 0),
        license=args.license or _named(found.licences()),
        attribution=args.attribution or _named(found.credits()),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=args.command_line,
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
        )
    problems = [*found.problems, *problems]
    _say_problems(problems, args.verbose)
    size = sum(about["bytes"] for about in made.manifest.files.values())
    print(f"Wrote {made.folder}: {len(made):,} photos, {size / 1e6:.1f} MB", end="")
    print(f"; {len(problems)} left out" if problems else "")
    return 0


def _dry_run(
    args: argparse.Namespace,
    options: gather.Options,
    found: gather.Gathered,
    work: Path,
    model: SelaVPR,
    batch_size: int,
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
            views=max(len(options.headings), 1),
            local=args.local,
            rank=args.rank,
            batch_size=batch_size,
        )
    finally:
        if fetcher is not None:
            fetcher.close()
    _say_problems(found.problems, args.verbose)
    for line in made.lines():
        print(line)
    print(f"on {model.device.type}, {batch_size} photos at a time; nothing was written")
    return 0


def _options(args: argparse.Namespace) -> gather.Options:
    where = {}
    for condition in args.where:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise OptionError(f"--where takes column=value, not {condition!r}.")
        where[column] = value
    try:
        headings = tuple(float(text) % 360 for text in args.headings.split(",") if text.strip())
    except ValueError as error:
        raise OptionError(f"--headings takes degrees, such as 0,90,180,270: {error}.") from error
    if any(heading != heading for heading in headings):
        raise OptionError("--headings takes finite degrees.")
    return gather.Options(
        where=where,
        cities=tuple(args.city),
        split=args.split,
        utm_zone=args.utm_zone,
        gpx=args.gpx,
        every_m=args.every,
        video_start=args.video_start,
        time_offset_s=args.time_offset,
        headings=tuple(dict.fromkeys(headings)),
        field_of_view=args.field_of_view,
        thin_m=args.thin,
        thin_deg=args.thin_turn,
        limit=args.limit,
        workers=args.workers,
        rate=args.rate,
        server=args.server,
    )


class _Bars:
    """One bar for each thing that is done before the build, with its rate and time left."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[None] | None = None
        self._what = ""

    def show(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            self.__exit__()
            self._bar = tqdm(total=total or None, desc=what, unit="photo", disable=self._quiet)
            self._what = what
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _say_notes(found: gather.Gathered) -> None:
    for note in found.notes:
        print(f"selavpr: {plain(note)}", file=sys.stderr)


def _say_problems(problems: list[str], verbose: bool) -> None:
    shown = problems if verbose else problems[:SHOWN_PROBLEMS]
    for problem in shown:
        print(f"selavpr: left out: {plain(problem)}", file=sys.stderr)
    if len(shown) < len(problems):
        rest = len(problems) - len(shown)
        print(f"selavpr: left out: {rest:,} more; --verbose lists them.", file=sys.stderr)


def _nothing(args: argparse.Namespace, kind: gather.Kind) -> str:
    if kind in gather.SERVICES:
        return (
            f"There are no photos in {args.source}; take a larger area or another service, and "
            "check that each longitude comes before its latitude."
        )
    if args.where:
        return f"No row of the table in {args.source} fits; check --where."
    return f"There are no photos to index in {args.source} (read as {kind})."


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(plain(name) for name in names[:NAMED]) + more


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
    add("--from", dest="source", required=True, metavar="SOURCE", help="where the photos are")
    add("--dry-run", action="store_true",
        help="say how many photos, how big and how long, and write nothing")  # fmt: skip
    add("--limit", type=int, default=0, metavar="N", help="take N photos at most, spread evenly")
    add("--thin", type=float, default=0, metavar="M", help="leave out photos within M metres of "
        "another that looks the same way (default 0: keep all)")  # fmt: skip
    add("--thin-turn", type=float, default=thinning.TURN_DEG, metavar="DEG",
        help="that is, by up to DEG degrees (default %(default)g)")  # fmt: skip
    _add_sources(parser)
    add_model(parser)
    _add_index(parser)
    parser.set_defaults(run=index_build)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tables and benchmarks").add_argument
    add("--layout", default="", choices=("table", "exif", "utm", "msls", "gsv-cities"),
        help="how to read a folder (default: found out)")  # fmt: skip
    add("--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="take only rows with this value; may be repeated")  # fmt: skip
    add("--city", action="append", default=[], metavar="NAME",
        help="only this city of MSLS or GSV-Cities; may be repeated")  # fmt: skip
    add("--split", choices=layouts.SPLITS, help="of a folder with several (default: the first)")
    add("--utm-zone", default="", metavar="ZONE",
        help="such as 32N, for @utm@ names that carry none")  # fmt: skip
    add = parser.add_argument_group("videos").add_argument
    add("--gpx", type=Path, metavar="FILE", help="track (default: that beside the video)")
    add("--every", type=float, default=video.EVERY_M, metavar="M",
        help="metres between photos (default %(default)g)")  # fmt: skip
    add("--video-start", default="", metavar="TIME",
        help="when it was begun, as 2026-05-01T12:30:00Z, if the video does not say")  # fmt: skip
    add("--time-offset", type=float, default=0, metavar="S",
        help="seconds by which the camera's clock was slow")  # fmt: skip
    add = parser.add_argument_group("360-degree panoramas").add_argument
    add("--headings", default=",".join(f"{h:g}" for h in panorama.HEADINGS), metavar="DEG,...",
        help="compass directions of the views to cut (default %(default)s); an empty text leaves "
        "panoramas as they are")  # fmt: skip
    add("--field-of-view", type=float, default=panorama.FIELD_OF_VIEW, metavar="DEG",
        help="of a view from left to right (default %(default)g)")  # fmt: skip
    add = parser.add_argument_group("downloads").add_argument
    add("--photos", type=Path, metavar="DIR",
        help=f"folder for downloads, frames and views, kept, with {ATTRIBUTION} "
        "(default: OUT.photos)")  # fmt: skip
    add("--workers", type=int, default=4, metavar="N",
        help="downloads, or photos looked into, at a time (default %(default)s)")  # fmt: skip
    add(
        "--rate", type=float, default=5, metavar="N", help="requests a second (default %(default)g)"
    )
    add("--server", default="", metavar="URL",
        help=f"Panoramax server (default PANORAMAX_URL, or {panoramax.INSTANCE})")  # fmt: skip


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
        f"{building.DEFAULT_RANK}) or descriptor (product), descriptors (keypoint)")  # fmt: skip
    add("--search", choices=SEARCHES, default="auto", help="global search: flat is exact, ivf is "
        "for many photos (default auto: by their number)")  # fmt: skip
    add("--batch-size", type=_batch_size, default=0, metavar="N",
        help="photos per pass (default auto: what fits)")  # fmt: skip
    add("--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from where a build was stopped")  # fmt: skip
    add("--verbose", action="store_true", help="list all photos that are left out")
    add("--quiet", action="store_true", help="show no progress")


def _batch_size(text: str) -> int:
    """A number of photos; 0 stands for ``auto``."""
    number = 0 if text == "auto" else int(text)
    if text != "auto" and number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more, or auto")
    return number
