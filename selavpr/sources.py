"""Reference photos with their places, found where the user keeps them.

Today: a folder that holds a table of its photos, ``places.csv``. Columns are found by name.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selavpr.errors import LocationError, OptionError, PhotoError
from selavpr.geo import Location
from selavpr.structs import Place

TABLE = "places.csv"
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "path", "file", "filename", "photo"),
    "latitude": ("latitude", "lat", "y"),
    "longitude": ("longitude", "lon", "lng", "long", "x"),
    "id": ("id", "place_id"),
    "heading": ("heading", "bearing", "yaw", "compass"),
    "captured_at": ("captured_at", "date", "time", "datetime"),
    "street": ("street", "label", "name"),
    "credit": ("credit", "author"),
    "licence": ("licence", "license"),
}
REQUIRED = ("image", "latitude", "longitude")


@dataclass(frozen=True)
class SourcePhoto:
    """A photo on disk and what is known of its place; ``place.image`` is its name in the index."""

    path: Path
    place: Place


def read_folder(
    folder: str | os.PathLike[str], keep: Mapping[str, str] | None = None
) -> list[SourcePhoto]:
    """The photos a folder's ``places.csv`` names.

    Args:
        folder: holds the table; the paths in it are relative to the folder.
        keep: column values a row must have to be taken, for example ``{"role": "reference"}``.

    Raises:
        OptionError: there is no table, or it lacks a column.
        LocationError: a row's coordinates are not a place on Earth; the row is named.
        PhotoError: a row names a photo outside the folder. One that does not exist is no error
            here: building an index reports it with the others that cannot be read.
    """
    folder = Path(folder)
    table = folder / TABLE
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise OptionError(f"There is no {TABLE} in {folder}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{table} cannot be read as a UTF-8 CSV table: {error}.") from error
    columns = _columns(header, table)
    if missing := [name for name in keep or {} if name not in header]:
        raise OptionError(f"{table} has no column {missing[0]!r}; it has {', '.join(header)}.")
    return _unique(
        _photo(folder, f"line {line} of {table}", row, columns)
        for line, row in rows
        if all(row.get(name) == value for name, value in (keep or {}).items())
    )


def _columns(header: list[str], table: Path) -> dict[str, str]:
    """Our names to the table's."""
    plain = {name.strip().lower(): name for name in header}
    found = {
        ours: plain[alias]
        for ours, aliases in NAMES.items()
        for alias in reversed(aliases)
        if alias in plain
    }
    if missing := [name for name in REQUIRED if name not in found]:
        raise OptionError(
            f"{table} needs a column {missing[0]!r} (or {', '.join(NAMES[missing[0]][1:])}); "
            f"it has {', '.join(header) or 'none'}."
        )
    return found


def _photo(
    folder: Path, where: str, row: Mapping[str, str | None], columns: Mapping[str, str]
) -> SourcePhoto:
    def value(name: str) -> str:
        return (row.get(columns[name]) or "").strip() if name in columns else ""

    name = value("image")
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name no system can hold, or a circle of links
        path = folder.resolve()
    if not name or not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise PhotoError(f"{where} names no photo inside the folder: {name!r}.")
    try:
        location = Location(float(value("latitude")), float(value("longitude")))
        heading = float(value("heading")) % 360 if value("heading") else None
        if heading is not None and not math.isfinite(heading):
            raise ValueError("the heading must be finite")
    except LocationError as error:
        raise LocationError(f"{where}: {error}") from error
    except ValueError as error:
        raise LocationError(f"{where} holds something that is not a number: {error}.") from error
    relative = path.relative_to(folder.resolve())
    return SourcePhoto(
        path,
        Place(
            place_id=value("id") or relative.with_suffix("").as_posix(),
            image=f"images/{relative.with_suffix('').as_posix().removeprefix('images/')}",
            location=location,
            heading=heading,
            captured_at=value("captured_at"),
            street=value("street"),
            credit=value("credit"),
            licence=value("licence"),
        ),
    )


def _unique(photos: Iterable[SourcePhoto]) -> list[SourcePhoto]:
    """Number the ids and stored names that repeat: several photos may show one place."""
    ids: set[str] = set()
    images: set[str] = set()
    found = []
    for photo in photos:
        place_id = _new(photo.place.place_id, ids)
        # Some systems take A.jpg and a.jpg for one file, and none can hold every character.
        image = _new(re.sub(r'[\x00-\x1f\\:*?"<>|\ud800-\udfff]', "_", photo.place.image), images)
        place = dataclasses.replace(photo.place, place_id=place_id, image=f"{image}.jpg")
        found.append(SourcePhoto(photo.path, place))
    return found


def _new(name: str, taken: set[str]) -> str:
    number, numbered = 1, name
    while numbered.casefold() in taken:
        number += 1
        numbered = f"{name}-{number}"
    taken.add(numbered.casefold())
    return numbered
