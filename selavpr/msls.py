"""Mapillary Street-Level Sequences: ``<city>/{database,query}`` with tables beside the images."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
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


def listed(photos: Sequence[BenchmarkPhoto]) -> list[BenchmarkPhoto]:
    """Those that the benchmark's own subtask_index.csv lists as "all".

    Raises:
        OptionError: a table is missing, or lacks a column.
    """
    wanted: set[Path] = set()
    for folder in {p.path.parent.parent for p in photos}:
        numbers = {row[""]: row["key"] for row in _rows(folder / "postprocessed.csv", "", "key")}
        for row in _rows(folder / "subtask_index.csv", "", "all"):
            if _true(row["all"]) and row[""] in numbers:
                wanted.add(folder / "images" / f"{numbers[row['']]}.jpg")
    return [p for p in photos if p.path in wanted]


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


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a table that has to be there, with these columns."""
    if not path.is_file():
        raise OptionError(f"{path} cannot be read: there is no such file.")
    rows = [row for _, row in _csv_rows(path)]
    if missing := [c for c in columns if rows and c not in rows[0]]:
        raise OptionError(f"{path} has no column {missing[0]!r}.")
    return rows


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Numbered rows; none where there is no table."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Cells beyond the header's go nowhere: "" is a column of these tables.
            reader = csv.DictReader(file, restkey="more", restval="")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{path} cannot be read as a UTF-8 CSV table: {error}.") from error


def _true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("true", "1", "1.0")
