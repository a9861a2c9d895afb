"""How place recognition benchmarks lay out their photos, read into one form.

==============  ===================================================================================
layout          where the positions are
==============  ===================================================================================
``utm``         in the names: ``@east@north@zone@letter@lat@lon@pano@tile@heading@...@.jpg``, in
                folders ``database`` and ``queries``, often below ``images/test``
``msls``        ``<city>/{database,query}/{raw,postprocessed}.csv`` beside ``images/<key>.jpg``
``gsv-cities``  in the names below ``Images/<City>``
``table``       a CSV or GeoJSON table with a column ``role`` (``query``, ``database``, ``any``)
==============  ===================================================================================
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from selavpr import msls
from selavpr.benchmarkphotos import BenchmarkPhoto, Role, photo_files
from selavpr.errors import LocationError, OptionError
from selavpr.geo import Location
from selavpr.tables import read_table
from selavpr.utm import from_utm, read_zone

Layout = Literal["utm", "msls", "gsv-cities", "table"]

SPLITS = ("test", "val", "train")
_ROLES: tuple[tuple[Role, str], ...] = (
    ("database", r"(database|reference|references|gallery)"),
    ("query", r"quer(y|ies)([_-].+)?"),
)
_GSV = re.compile(
    r"(?P<city>.+)_(?P<place>\d{7})_(?P<year>\d{4})_(?P<month>\d{1,2})_(?P<heading>-?\d{1,3})"
    r"_(?P<lat>-?\d+(\.\d+)?)_(?P<lon>-?\d+(\.\d+)?)_(?P<pano>.+)"
)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark folder holds, each list in order of the paths.

    Attributes:
        layout: how it was read.
        queries: photos to locate.
        database: photos to find.
        unassigned: photos without a role; a protocol has to divide them.
    """

    layout: Layout
    queries: tuple[BenchmarkPhoto, ...]
    database: tuple[BenchmarkPhoto, ...]
    unassigned: tuple[BenchmarkPhoto, ...] = ()


def read_benchmark(
    folder: str | os.PathLike[str],
    layout: Layout | None = None,
    *,
    split: str | None = None,
    cities: Sequence[str] = (),
    utm_zone: str = "",
) -> Benchmark:
    """Read a benchmark folder.

    Args:
        folder: the benchmark, or for ``table`` the table itself.
        layout: found out when None.
        split: ``"test"``, ``"val"`` or ``"train"`` of a ``utm`` folder that has several; the first
            that is there when None.
        cities: take only these (MSLS and GSV-Cities); all when empty.
        utm_zone: such as ``"10N"``, for names that carry no zone.

    Raises:
        OptionError: the folder is none of the layouts, or lacks the split or a city.
        LocationError: a name or row carries no valid position.
        PhotoError: a table names a photo outside its folder.
    """
    folder = Path(folder)
    layout = layout or find_layout(folder)
    if layout == "utm":
        photos = read_utm(folder, split=split, utm_zone=utm_zone)
    elif layout == "msls":
        photos = msls.read_msls(folder, cities)
    elif layout == "gsv-cities":
        photos = read_gsv_cities(folder, cities)
    else:
        photos = _read_table(folder)
    if not photos:
        raise OptionError(f"There are no photos in {folder} (read as {layout}).")
    by_role = {role: tuple(p for p in photos if p.role == role) for role in get_args(Role)}
    return Benchmark(layout, by_role["query"], by_role["database"], by_role["any"])


def find_layout(folder: Path) -> Layout:
    """Tell how a folder is laid out.

    Raises:
        OptionError: it is none of the layouts.
    """
    if folder.is_file():
        return "table"
    if not folder.is_dir():
        raise OptionError(f"There is no folder {folder}.")
    if msls.find_tables(folder):
        return "msls"
    if _gsv_images(folder) is not None:
        return "gsv-cities"
    if any(path.name.startswith("@") for path in photo_files(folder)):
        return "utm"
    return "table"


def read_utm(folder: Path, *, split: str | None = None, utm_zone: str = "") -> list[BenchmarkPhoto]:
    """Photos named ``@east@north@...@.jpg``; others in the folder are passed over.

    Raises:
        OptionError: there is no such split.
        LocationError: a name starts with @ but its position cannot be read; it is quoted.
    """
    zone = read_zone(utm_zone) if utm_zone else None
    root = _split_folder(folder, split)
    return [_utm_photo(path, root, zone) for path in photo_files(root) if path.name.startswith("@")]


def read_gsv_cities(folder: Path, cities: Sequence[str] = ()) -> list[BenchmarkPhoto]:
    """GSV-Cities: everything is in the names of the photos.

    Raises:
        OptionError: a city is not there.
        LocationError: a name carries no valid position.
    """
    images = _gsv_images(folder)
    if images is None:
        raise OptionError(f"{folder} has no folder Images with photos named as in GSV-Cities.")
    msls.check_cities(cities, {path.name for path in images.iterdir() if path.is_dir()}, folder)
    found = []
    for path in photo_files(images):
        named = _GSV.fullmatch(path.stem)
        if not named or (cities and path.relative_to(images).parts[0] not in cities):
            continue
        try:
            location = Location(float(named["lat"]), float(named["lon"]))
        except LocationError as error:
            raise LocationError(f"{path.name}: {error}") from error
        found.append(
            BenchmarkPhoto(
                path,
                "any",
                location=location,
                heading=float(named["heading"]) % 360,
                place_id=f"{named['city']}_{named['place']}",
                key=path.stem,
                captured_at=f"{named['year']}-{int(named['month']):02}",
            )
        )
    return found


def has_split(folder: Path, split: str) -> bool:
    """Whether a ``utm`` folder is parted and has such a part."""
    return _part(folder, split) is not None


def _part(folder: Path, split: str) -> Path | None:
    parts = (root / split for root in (folder, folder / "images"))
    return next((part for part in parts if part.is_dir()), None)


def _split_folder(folder: Path, split: str | None) -> Path:
    for name in (split,) if split else SPLITS:
        if part := _part(folder, name):
            return part
    if split:
        raise OptionError(f"{folder} has no split {split!r}.")
    return folder


def _role_of(path: Path, root: Path) -> tuple[Role, str]:
    """The role a folder's name gives to what is in it, and the rest of that name."""
    for part in reversed(path.relative_to(root.parent).parts[:-1]):
        for role, pattern in _ROLES:
            if re.fullmatch(pattern, part.lower()):
                return role, part.lower().partition("_")[2]
    return "any", ""


def _utm_photo(path: Path, root: Path, zone: tuple[int, bool] | None) -> BenchmarkPhoto:
    fields = [field.strip() for field in path.stem.split("@")] + [""] * 16
    try:
        east, north = float(fields[1]), float(fields[2])
        if not (math.isfinite(east) and math.isfinite(north)):
            raise ValueError("not finite")
        heading = float(fields[9]) % 360 if fields[9] else None
    except ValueError as error:
        raise LocationError(
            f"{path.name} does not start with @utm_east@utm_north@: {error}."
        ) from error
    try:
        if fields[5] and fields[6]:
            location = Location(float(fields[5]), float(fields[6]))
        elif fields[3]:
            number, south = read_zone(fields[3] + fields[4])
            # In these names the letter is the band, and band S is north.
            location = from_utm(east, north, number, south and fields[4].upper() != "S")
        elif zone:
            location = from_utm(east, north, *zone)
        else:
            location = None
    except (LocationError, ValueError):
        location = None  # some benchmarks number their frames instead
    role, rest = _role_of(path, root)
    heading = heading if heading is not None and math.isfinite(heading) else None
    return BenchmarkPhoto(
        path,
        role,
        (east, north),
        location,
        heading,
        condition=fields[14] or rest,
        key=fields[7] or path.stem,
        captured_at=fields[13],
    )


def _gsv_images(folder: Path) -> Path | None:
    for images in (folder / "Images", folder):
        if images.is_dir():
            for city in sorted(path for path in images.iterdir() if path.is_dir()):
                first = next(photo_files(city), None)
                if first is not None and _GSV.fullmatch(first.stem):
                    return images
    return None


def _read_table(source: Path) -> list[BenchmarkPhoto]:
    found = []
    for row in read_table(source, need_location=False):
        text = row.texts.get("role", "").lower()
        role: Role = "any"
        for name, pattern in _ROLES:
            if re.fullmatch(pattern, text):
                role = name
        if role == "any" and text not in ("", "any"):
            raise OptionError(
                f"{row.where}: the role must be query, database or any, not {text!r}."
            )
        found.append(
            BenchmarkPhoto(
                row.path,
                role,
                location=row.location,
                heading=row.heading,
                condition=row.texts.get("condition", ""),
                place_id=row.texts.get("id", ""),
                key=row.texts.get("id", "") or row.path.stem,
                captured_at=row.texts.get("captured_at", ""),
            )
        )
    return found
