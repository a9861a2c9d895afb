"""From what a user names as the source of an index to photos on disk with their places.

==================================  ===============================================================
source                              read as
==================================  ===============================================================
a folder with places.csv, a table   ``table``: CSV or GeoJSON, see ``tables``
a folder of photos                  ``exif``: places from the photos' own EXIF data
folders of benchmarks               ``utm``, ``msls``, ``gsv-cities``, see ``layouts``
a video                             ``video``: with a GPX track, see ``video``
``panoramax:lon1,lat1,lon2,lat2``   ``panoramax``: downloaded
``mapillary:lon1,lat1,lon2,lat2``   ``mapillary``: downloaded, with a token
==================================  ===============================================================

Queries of a benchmark are left out: an index that holds them would find each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from selavpr import (
    collecting,
    folders,
    layouts,
    mapillary,
    msls,
    panorama,
    panoramax,
    tables,
    thinning,
    video,
)
from selavpr.benchmarkphotos import photo_files
from selavpr.download import Fetcher
from selavpr.errors import OptionError
from selavpr.folders import Found
from selavpr.offers import Area, Offer
from selavpr.sources import unique

Kind = Literal["table", "exif", "utm", "msls", "gsv-cities", "video", "panoramax", "mapillary"]
SERVICES = ("panoramax", "mapillary")
VIEWS = "views"
SAMPLES = 4
"""Photos a dry run looks at."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much it is (0: not known)."""


@dataclass(frozen=True)
class Options:
    """How a source is read; a reason stands beside each field.

    Attributes are those of the command line, see ``cli_source``.
    """

    where: Mapping[str, str] = field(default_factory=dict)  # rows of a table to take
    cities: tuple[str, ...] = ()  # of MSLS and GSV-Cities; all when empty
    split: str | None = None  # of an @utm@ folder that has several
    utm_zone: str = ""  # for names that carry none
    gpx: Path | None = None  # track of a video
    every_m: float = video.EVERY_M  # between frames of a video
    video_start: str = ""  # in place of what the video says
    time_offset_s: float = 0.0  # of the camera's clock
    headings: tuple[float, ...] = panorama.HEADINGS  # cut out of panoramas; none: as they are
    field_of_view: float = panorama.FIELD_OF_VIEW
    thin_m: float = 0.0  # photos nearer than this to another that looks the same way are left out
    thin_deg: float = thinning.TURN_DEG
    limit: int = 0  # photos at most, spread evenly; 0: all
    workers: int = 4  # downloads, or photos looked into, at a time
    rate: float = 5.0  # requests a second
    server: str = ""  # of Panoramax


@dataclass
class Gathered(Found):
    """What a source holds.

    Attributes:
        kind: how the source was read.
        offers: photos that are not downloaded; in a dry run only.
        expected: photos a video will give; in a dry run only.
        sample: makes some of these in a folder; None where there are none.
    """

    kind: Kind = "table"
    offers: list[Offer] = field(default_factory=list)
    expected: int = 0
    sample: Callable[[Path], Sequence[Path]] | None = None


def kind_of(source: str, layout: str = "") -> Kind:
    """How a source is to be read.

    Args:
        source: a path, or a service with an area.
        layout: one of ``Kind`` where the user says it.

    Raises:
        OptionError: there is nothing at the path, or it is nothing that can be read.
    """
    service, colon, _ = source.partition(":")
    if colon and service.lower() in SERVICES:
        return _as_kind(service.lower())
    if layout:
        return _as_kind(layout)
    try:
        return _kind_on_disk(Path(source))
    except OSError as error:
        raise OptionError(f"Cannot read {source}: {error.strerror or error}.") from error


def _kind_on_disk(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if path.is_file() and suffix in video.VIDEO_ENDINGS:
        return "video"
    if path.is_file() and suffix in tables.ENDINGS:
        return "table"
    if not path.is_dir():
        raise OptionError(
            f"There is no folder, table or video {path}; or did you mean "
            "panoramax:lon1,lat1,lon2,lat2?"
        )
    if (path / tables.TABLE).exists():
        return "table"
    found = layouts.find_layout(path)
    if found != "table":
        return found
    return "table" if any(folders.tables_in(path)) or not any(photo_files(path)) else "exif"


def gather(
    source: str,
    kind: Kind,
    options: Options,
    work: Path,
    progress: Progress = lambda what, done, total: None,
    *,
    dry: bool = False,
) -> Gathered:
    """Find the photos of a source, downloading or making what is not on disk.

    Args:
        source: as the user names it.
        kind: see ``kind_of``.
        options: how to read it.
        work: folder for downloads, frames and views; made if need be, and kept.
        progress: called now and then.
        dry: download and make nothing; ``offers`` and ``expected`` say what would be.

    Raises:
        OptionError: the source is not what it is said to be, or an option is out of range.
        LocationError: a table or name holds a position that is none.
        PhotoError: a table names a photo outside its folder.
        DownloadError: a service cannot be asked.
    """
    if options.workers < 1 or options.limit < 0 or not 0 < options.rate <= 100:
        raise OptionError("--workers is 1 or more, --limit 0 or more, --rate above 0 to 100.")
    if options.where and kind not in ("table",):
        raise OptionError("--where chooses rows of a table; this source has none.")
    if options.split and kind != "utm":
        instead = {"table": "--where split=NAME does", "msls": "--city does"}.get(kind, "")
        raise OptionError(
            "--split chooses a part of an @utm@ folder, not of this source"
            + (f"; {instead}." if instead else ".")
        )
    result = Gathered(kind=kind)
    made: Collection[str] | None = None  # names of what this source gave; all if None
    if kind in SERVICES:
        offers = _search(source, kind, options, result, progress)
        if dry:
            result.offers = offers
            return result
        made = _download(offers, options, work, result, progress)
        source, kind = str(work), "table"
    elif kind == "video":
        track, shots = video.shots_of(
            Path(source), options.gpx, every_m=options.every_m, start=options.video_start,
            offset_s=options.time_offset_s,
        )  # fmt: skip
        if dry:
            result.expected = len(shots)
            first = shots[:SAMPLES]
            result.sample = lambda folder: video.extract(Path(source), folder, track, first)
            return result
        frames = video.extract(
            Path(source), work, track, shots, lambda done, total: progress("frames", done, total)
        )
        made = {path.name for path in frames}
        source, kind = str(work), "table"
    try:
        _read(Path(source), kind, options, result, progress, work)
    except OSError as error:
        raise OptionError(f"Cannot read {source}: {error.strerror or error}.") from error
    if made is not None:
        result.photos = [photo for photo in result.photos if photo.path.name in made]
    _choose(result, options)
    if result.panoramas and options.headings and not dry:
        result.photos = unique(
            panorama.cut_all(
                result.photos,
                result.panoramas,
                work / VIEWS,
                result.problems,
                headings=options.headings,
                field_of_view=options.field_of_view,
                progress=lambda done, total: progress("panoramas", done, total),
            )
        )
    return result


def _read(
    path: Path, kind: Kind, options: Options, result: Gathered, progress: Progress, work: Path
) -> None:
    """Photos that lie on disk."""
    if kind == "table":
        folders.read_table(path, options.where, result)
    elif kind == "exif":
        folders.read_exif(
            path, options.workers, result, lambda done, total: progress("photos", done, total),
            work=work,
        )  # fmt: skip
    elif kind == "utm":
        photos = layouts.read_utm(path, split=options.split, utm_zone=options.utm_zone)
        folders.read_benchmark(photos, path, result)
    elif kind == "msls":
        folders.read_benchmark(msls.read_msls(path, options.cities), path, result)
    else:
        folders.read_benchmark(layouts.read_gsv_cities(path, options.cities), path, result)


def _search(
    source: str, kind: Kind, options: Options, result: Gathered, progress: Progress
) -> list[Offer]:
    """What a service offers, thinned and limited."""
    area = Area.parse(source.partition(":")[2])
    service = panoramax if kind == "panoramax" else mapillary
    if kind == "panoramax":
        home, secret = panoramax.address(options.server), {}
    else:
        home, secret = mapillary.address(), mapillary.secret()
    offers: list[Offer] = []
    with Fetcher(home, rate=options.rate, secret=secret, workers=1) as fetcher:
        for found in service.find(area, fetcher, home, result.problems):
            offers += found
            progress("search", len(offers), 0)
    offers.sort(key=lambda offer: offer.photo_id)
    spots = [(o.location, None if o.panorama else o.heading) for o in offers]
    kept = thinning.apart(spots, options.thin_m, options.thin_deg)
    _note_thinned(result, len(offers) - len(kept))
    kept = _spread(kept, options.limit)
    return [offers[i] for i in kept]


def _download(
    offers: Sequence[Offer], options: Options, work: Path, result: Gathered, progress: Progress
) -> Collection[str]:
    home = panoramax.address(options.server)
    if any(offer.service == "mapillary" for offer in offers):
        home = mapillary.address()
    with Fetcher(home, rate=options.rate, workers=options.workers) as fetcher:
        found = collecting.collect(
            offers,
            work,
            fetcher,
            result.problems,
            workers=options.workers,
            progress=lambda done, size: progress("downloads", done, len(offers)),
        )
    return frozenset(found.names)


def _choose(result: Gathered, options: Options) -> None:
    """Thin and limit what was read; what was downloaded has been thinned and limited before."""
    spots = [
        (p.place.location, None if p.path in result.panoramas else p.place.heading)
        for p in result.photos
    ]
    kept = thinning.apart(spots, options.thin_m, options.thin_deg)
    _note_thinned(result, len(spots) - len(kept))
    result.photos = [result.photos[i] for i in _spread(kept, options.limit)]
    result.panoramas &= {photo.path for photo in result.photos}


def _note_thinned(result: Gathered, count: int) -> None:
    if count:
        result.notes.append(f"{count:,} near-duplicates are left out.")


def _spread(numbers: list[int], limit: int) -> list[int]:
    """At most so many of the numbers, evenly."""
    if not limit or len(numbers) <= limit:
        return numbers
    return [numbers[i * len(numbers) // limit] for i in range(limit)]


def _as_kind(name: str) -> Kind:
    for kind in get_args(Kind):
        if name == kind:
            found: Kind = kind
            return found
    raise OptionError(f"A layout is one of {', '.join(get_args(Kind))}, not {name!r}.")
