"""Mapillary Street-Level Sequences: ``<city>/{database,query}`` with tables beside the images."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from selavpr.benchmarkphotos import BenchmarkPhoto, Role
from selavpr.errors import LocationError, OptionError
from selavpr.geo import Location


def read_msls(folder: Path, cities: Sequence[str] = ()) -> list[BenchmarkPhoto]:
    """Mapillary Street-Level Sequences; as in the authors' loader, only panoramas are left out.

    Raises:
        OptionError: a city or table is not there, or a table lacks a column.
        LocationError: a row has no valid position.
    """
    tables = find_tables(folder)
    known = {table.parent.parent.name for table in tables}
    check_cities(cities, known, folder)
    return [
        photo
        for table in tables
        if not cities or table.parent.parent.name in cities
        for photo in _photos(table)
    ]


def check_cities(cities: Sequence[str], known: set[str], folder: Path) -> None:
    """Whether a benchmark has the cities asked for.

    Raises:
        OptionError: one is not there.
    """
    if missing := [city for city in cities if city not in known]:
        raise OptionError(
            f"{folder} has no city {missing[0]!r}; it has {', '.join(sorted(known)) or 'none'}."
        )


def find_tables(folder: Path) -> list[Path]:
    """The raw.csv of each city and role, whether the folder is a city, all of them, or the root."""
    found: list[Path] = []
    for depth in ("", "*/", "*/*/"):
        for role in ("database", "query"):
            found += folder.glob(f"{depth}{role}/raw.csv")
        if found:
            break
    return sorted(found)


def _photos(table: Path) -> Iterator[BenchmarkPhoto]:
    folder = table.parent
    role: Role = "database" if folder.name == "database" else "query"
    more = {row.get("key", ""): row for _, row in _csv_rows(folder / "postprocessed.csv")}
    for line, row in _csv_rows(table):
        key = row.get("key", "")
        extra = more.get(key, {})
        if _true(row.get("pano")):
            continue
        if not re.fullmatch(r"[\w-]+", key):
            raise LocationError(f"line {line} of {table} has no key that names a photo: {key!r}.")
        try:
            location = Location(float(row.get("lat", "")), float(row.get("lon", "")))
            metres = None
            if extra.get("easting") and extra.get("northing"):
                metres = float(extra["easting"]), float(extra["northing"])
            heading = float(row["ca"]) % 360 if row.get("ca") else None
        except (LocationError, ValueError) as error:
            raise LocationError(f"line {line} of {table}: {error}") from error
        night = extra.get("night")
        yield BenchmarkPhoto(
            folder / "images" / f"{key}.jpg",
            role,
            metres,
            location,
            heading if heading is None or math.isfinite(heading) else None,
            condition="" if night is None else "night" if _true(night) else "day",
            key=key,
            captured_at=row.get("captured_at", ""),
        )


def _csv_rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{path} cannot be read as a UTF-8 CSV table: {error}.") from error


def _true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("true", "1", "1.0")
