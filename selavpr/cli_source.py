"""Options of the commands that take photos from a source, and the bars shown meanwhile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from selavpr import gather, layouts, panorama, panoramax, thinning, video
from selavpr.collecting import ATTRIBUTION
from selavpr.errors import OptionError
from selavpr.terminal import plain

SHOWN_PROBLEMS = 20
"""Photos left out that are listed one by one; the rest is counted, and listed with --verbose."""


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command that takes photos ``--from`` a source."""
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="SOURCE", help="where the photos are")
    add("--verbose", action="store_true", help="list all photos that are left out")
    add("--quiet", action="store_true", help="show no progress")
    add("--limit", type=int, default=0, metavar="N", help="take N photos at most, spread evenly; a "
        "panorama is one")  # fmt: skip
    add("--thin", type=float, default=0, metavar="M", help="leave out photos within M metres of "
        "another that looks the same way (default 0: keep all)")  # fmt: skip
    add("--thin-turn", type=float, default=thinning.TURN_DEG, metavar="DEG",
        help="that is, by up to DEG degrees (default %(default)g)")  # fmt: skip
    add = parser.add_argument_group("tables and benchmarks").add_argument
    add("--layout", default="", choices=("table", "exif", "utm", "msls", "gsv-cities"),
        help="how to read a folder (default: found out)")  # fmt: skip
    add("--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="take only rows with this value; may be repeated")  # fmt: skip
    add("--city", action="append", default=[], metavar="NAME",
        help="only this city of MSLS or GSV-Cities; may be repeated")  # fmt: skip
    add("--split", choices=layouts.SPLITS, help="of an @utm@ folder with several "
        "(default: the first)")  # fmt: skip
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
        "(default: beside the index, with .photos to its name)")  # fmt: skip
    add("--workers", type=int, default=4, metavar="N",
        help="downloads, or photos looked into, at a time (default %(default)s)")  # fmt: skip
    add(
        "--rate", type=float, default=5, metavar="N", help="requests a second (default %(default)g)"
    )
    add("--server", default="", metavar="URL",
        help=f"Panoramax server (default PANORAMAX_URL, or {panoramax.INSTANCE})")  # fmt: skip


def options_of(args: argparse.Namespace) -> gather.Options:
    """What the user chose of the options that ``add_source`` declares.

    Raises:
        OptionError: an option cannot be read.
    """
    try:
        headings = tuple(float(text) % 360 for text in args.headings.split(",") if text.strip())
    except ValueError as error:
        raise OptionError(f"--headings takes degrees, such as 0,90,180,270: {error}.") from error
    if any(heading != heading for heading in headings):
        raise OptionError("--headings takes finite degrees.")
    return gather.Options(
        where=conditions(args.where),
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


def conditions(texts: Sequence[str]) -> dict[str, str]:
    """What ``--where`` asks for.

    Raises:
        OptionError: it is not column=value.
    """
    wanted = {}
    for condition in texts:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise OptionError(f"--where takes column=value, not {condition!r}.")
        wanted[column] = value
    return wanted


def photos_of(args: argparse.Namespace, work: Path, *, dry: bool = False) -> gather.Gathered:
    """The photos of the source the user names, and on stderr what is to be said of it.

    Args:
        args: of a parser that ``add_source`` was given, with ``quiet``.
        work: folder for downloads, frames and views, unless the user names one.
        dry: download and make nothing.

    Raises:
        OptionError: there are no photos, or an option cannot be read.
        SelaVPRError: as ``gather.gather``.
    """
    options = options_of(args)
    kind = gather.kind_of(args.source, args.layout)
    with Bars(args.quiet) as bars:
        found = gather.gather(args.source, kind, options, args.photos or work, bars.show, dry=dry)
    for note in found.notes:
        print(f"selavpr: {plain(note)}", file=sys.stderr)
    if not (found.photos or found.offers or found.expected):
        say_problems(found.problems, args.verbose)
        raise OptionError(_nothing(args, kind))
    return found


def say_problems(problems: Sequence[str], verbose: bool) -> None:
    """List on stderr which photos are left out and why."""
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


class Bars:
    """One bar for each thing that is done before the build, with its rate and time left."""

    def __init__(self, quiet: bool) -> None:
        """Nothing is shown yet, or ever where ``quiet``."""
        self._quiet = quiet
        self._bar: tqdm[None] | None = None
        self._what = ""

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar; as ``gather.Progress``."""
        if self._bar is None or what != self._what:
            self.__exit__()
            self._bar = tqdm(total=total or None, desc=what, unit="photo", disable=self._quiet)
            self._what = what
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bars:
        """Close the last bar at the end of a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
