"""Tables of photos: CSV or GeoJSON, columns found by the names people give them.

A mistake in a row is an error that names the row: a table is written once, and its author can mend
it; a photo that cannot be read is another matter and left to the build.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavpr.errors import LocationError, OptionError, PhotoError
from selavpr.geo import Location

TABLE = "places.csv"
ENDINGS = (".csv", ".tsv", ".geojson", ".json")
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "path", "file", "filename", "file_name", "filepath", "photo", "img"),
    "latitude": ("latitude", "lat", "y", "gps_lat", "gps_latitude"),
    "longitude": ("longitude", "lon", "lng", "long", "x", "gps_lon", "gps_longitude"),
    "id": ("id", "place_id", "key"),
    "heading": ("heading", "bearing", "yaw", "compass", "compass_angle", "azimuth", "northdeg"),
    "captured_at": ("captured_at", "date", "time", "datetime", "timestamp", "taken"),
    "street": ("street", "label", "name", "address"),
    "credit": ("credit", "author", "creator", "photographer"),
    "licence": ("licence", "license"),
    "role": ("role",),
    "condition": ("condition", "weather"),
    "panorama": ("panorama", "pano", "is_pano", "360"),
    "world": ("world",),  # rows of different worlds never show one place (rendered twins)
}
YES = ("yes", "true", "1", "1.0", "y")
REQUIRED = ("image", "latitude", "longitude")
_NUMBERS = ("latitude", "longitude", "heading")

_FORMULA = r"(?=[\s']*[-=+@－＝＋＠])"
_BARE = re.compile(rf"(?:^|(?<=;)){_FORMULA}")
_GUARDED = re.compile(rf"(?:^|(?<=;))'{_FORMULA}")
"""What a spreadsheet may run: at the beginning of a cell, and after a semicolon, where those of
half the world begin one. Apostrophes in front count, so that taking one away again is exact."""

_FAR_M, _NEAR_M = 500_000.0, 100_000.0
"""A row is called swapped when it lies this far from the others, and this near when swapped."""


@dataclass(frozen=True)
class Row:
    """A row of a table, checked.

    Attributes:
        where: names the row in messages, such as ``"line 3 of x.csv"``.
        path: the photo, inside the table's folder; whether it exists is not known.
        location: where the camera stood; None where the row leaves both coordinates out.
        heading: degrees clockwise from north, 0 to 360; None where unknown.
        texts: the other columns we know, by our names; empty text where a row has none.
    """

    where: str
    path: Path
    location: Location | None
    heading: float | None
    texts: Mapping[str, str]


def read_table(
    source: str | os.PathLike[str],
    keep: Mapping[str, str] | None = None,
    *,
    need_location: bool = True,
) -> list[Row]:
    """The rows of a table.

    Args:
        source: the table, or a folder that holds one; paths in it are relative to its folder.
        keep: column values a row must have to be taken, for example ``{"role": "database"}``; names
            in upper or lower case.
        need_location: refuse rows without coordinates.

    Raises:
        OptionError: there is no table, more than one, or it lacks a column.
        LocationError: a row's coordinates are not a place on Earth, or look swapped.
        PhotoError: a row names a photo outside the folder.
    """
    table = find_table(Path(source))
    features = table.suffix.lower() in (".geojson", ".json")
    header, rows = _read(table)
    columns = _columns(header, table)
    plain, kept = _plain(header), {}
    for name, value in (keep or {}).items():
        column = name if name in header else plain.get(name.lower())
        if column is None:
            raise OptionError(f"{table} has no column {name!r}; it has {', '.join(header)}.")
        kept[column] = value
    folder = _Folder(table.parent)
    found = []
    for number, cells in rows:
        if all(cells.get(column) == value for column, value in kept.items()):
            where = f"{'feature' if features else 'line'} {number} of {table}"
            row = _row(folder, where, cells, columns)
            if row.location is None and need_location:
                raise LocationError(f"{where} holds something that is not a number: no position.")
            found.append(row)
    _check_swapped(found)
    return found


def as_cell(text: str) -> str:
    """A text as a CSV file of ours holds it: an apostrophe keeps spreadsheets from running it.

    For texts only: a negative number would become one.
    """
    return _BARE.sub("'", text)


def from_cell(cell: str) -> str:
    """The inverse of ``as_cell``; leaves a formula that nobody guarded as it is."""
    return _GUARDED.sub("", cell) if "'" in cell else cell


def put_rows(
    table: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """Write rows into a CSV table of ours; what it says of other photos beside it stays.

    Args:
        table: made if need be, and whole at any time.
        columns: with ``image`` among them.
        rows: texts by column; they take the place of what was known of the same images.

    Returns:
        All rows, the earlier ones first.

    Raises:
        OSError: it cannot be written.
    """
    new = {row["image"] for row in rows}
    folder = _Folder(table.parent)
    earlier: list[dict[str, str]] = []
    with contextlib.suppress(OptionError):  # there is none, or what was there is no table
        _, found = _read_csv(table)
        for _, row in found:
            path = folder.file(row.get("image", ""))
            if row.get("image") not in new and path is not None and path.is_file():
                earlier.append(row)
    every: list[Mapping[str, str]] = [*earlier, *rows]
    header = list(dict.fromkeys([*columns, *(name for row in earlier for name in row)]))
    partial = table.with_name(f"{table.name}.part")
    with partial.open("w", newline="", encoding="utf-8", errors="replace") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(header)
        for texts in every:
            cells = ((name, texts.get(name, "")) for name in header)
            out.writerow([cell if name in _NUMBERS else as_cell(cell) for name, cell in cells])
    partial.replace(table)
    return every


def find_table(source: Path) -> Path:
    """The table at a path, or the one in a folder.

    Raises:
        OptionError: there is none, or several of which none is called ``places.csv``.
    """
    # Unlike Path's, these are false, not errors, for names that no system can hold.
    if not os.path.isdir(source):
        if source.suffix.lower() in ENDINGS and os.path.isfile(source):
            return source
        raise OptionError(f"There is no {TABLE} in {source}.")
    if os.path.exists(source / TABLE):
        return source / TABLE
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables[:5])
        raise OptionError(f"{source} holds several tables ({names}); name one of them.")
    if not tables:
        raise OptionError(f"There is no {TABLE} in {source}.")
    return tables[0]


def fits(table: Path) -> bool:
    """Whether a file is a table of photos, as far as its columns say."""
    try:
        header, _ = _read(table)
        _columns(header, table)
    except OptionError:
        return False
    return True


def _read(table: Path) -> tuple[list[str], Iterable[tuple[int, dict[str, str]]]]:
    """The header and the numbered rows of a table, which come as they are read."""
    is_csv = table.suffix.lower() not in (".geojson", ".json")
    return _read_csv(table) if is_csv else _read_geojson(table)


def _read_csv(table: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    lines = _lines(table)
    _, header = next(lines, (0, []))

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for number, cells in lines:
            cells += [""] * (len(header) - len(cells))
            pairs = zip(header, cells, strict=False)
            yield number, {name: from_cell(cell) for name, cell in pairs if name}

    return header, rows()


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of a CSV table's lines and the lines' numbers, the header first."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # Spreadsheets of half the world write semicolons, and commas inside the numbers.
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            for cells in reader:
                if cells or reader.line_num == 1:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{table} cannot be read as a UTF-8 CSV table: {error}.") from error


def _read_geojson(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        data = json.loads(table.read_text(encoding="utf-8-sig"))
        features = data["features"]
        if not isinstance(features, list):
            raise TypeError("its features are no list")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise OptionError(
            f"{table} cannot be read as GeoJSON, a FeatureCollection of points: {error}."
        ) from error
    rows = [(i, _properties(feature)) for i, feature in enumerate(features, 1)]
    return list(dict.fromkeys(name for _, row in rows for name in row)), rows


def _properties(feature: Any) -> dict[str, str]:
    """A feature as a row; its point becomes the columns latitude and longitude."""
    feature = feature if isinstance(feature, dict) else {}
    known = feature.get("properties")
    row = {
        str(name): "" if value is None else str(value)
        for name, value in (known if isinstance(known, dict) else {}).items()
        if not isinstance(value, (dict, list))
    }
    geometry = feature.get("geometry")
    point = geometry.get("coordinates") if isinstance(geometry, dict) else None
    if isinstance(point, list) and len(point) >= 2:
        # Names that come first among those of a column, so that the point is believed.
        row = {k: v for k, v in row.items() if k.strip().lower() not in ("latitude", "longitude")}
        row["longitude"], row["latitude"] = str(point[0]), str(point[1])
    return row


def _plain(header: Sequence[str]) -> dict[str, str]:
    """The table's names by what they are in lower case."""
    return {name.strip().lower(): name for name in header}


def _columns(header: Sequence[str], table: Path) -> dict[str, str]:
    """Our names to the table's."""
    plain = _plain(header)
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


class _Folder:
    """Finds files inside a folder, and no others; tables may have a million rows."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._parents: dict[str, str] = {}

    def file(self, name: str) -> Path | None:
        """Where a name, relative to the folder, leads to; None if that is not inside."""
        head, tail = os.path.split(name)
        try:
            if head not in self._parents:
                parent = (self.root / head).resolve()
                self._parents[head] = str(parent) if parent.is_relative_to(self.root) else ""
            place = os.path.join(self._parents[head], tail)
            # A file of a folder that is inside is inside, and need not be asked where it is.
            if self._parents[head] and tail not in ("", ".", "..") and not os.path.islink(place):
                return Path(place) if "\0" not in name else None
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError):  # no system can hold it, or links in a circle
            return None
        return path if path.is_relative_to(self.root) and path != self.root else None


def _row(folder: _Folder, where: str, row: Mapping[str, str], columns: Mapping[str, str]) -> Row:
    texts = {ours: str(row.get(theirs) or "").strip() for ours, theirs in columns.items()}
    name = texts["image"].replace("\\", "/") if os.sep == "\\" else texts["image"]
    path = folder.file(name)
    if path is None:
        raise PhotoError(f"{where} names no photo inside the folder: {name!r}.")
    try:
        location = None
        if texts["latitude"] or texts["longitude"]:
            location = Location(_number(texts["latitude"]), _number(texts["longitude"]))
        heading = _number(texts["heading"]) % 360 if texts.get("heading") else None
        if heading is not None and not math.isfinite(heading):
            raise ValueError("the heading must be finite")
    except LocationError as error:
        raise LocationError(f"{where}: {error}") from error
    except ValueError as error:
        raise LocationError(f"{where} holds something that is not a number: {error}.") from error
    return Row(where, path, location, heading, texts)


def _number(text: str) -> float:
    return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)


def _check_swapped(rows: Sequence[Row]) -> None:
    """Notice a row whose numbers are both possible, yet fit the other rows only when swapped."""
    places = [row.location for row in rows if row.location is not None]
    if len(places) < 3:
        return
    middle = Location(
        statistics.median(place.latitude for place in places),
        statistics.median(place.longitude for place in places),
    )
    for row, place in _located(rows):
        if abs(place.longitude) > 90 or place.distance_m(middle) < _FAR_M:
            continue
        if Location(place.longitude, place.latitude).distance_m(middle) < _NEAR_M:
            raise LocationError(
                f"{row.where}: latitude {place.latitude} and longitude {place.longitude} look "
                "swapped: the other way round they lie among the other photos."
            )


def _located(rows: Sequence[Row]) -> Iterator[tuple[Row, Location]]:
    return ((row, row.location) for row in rows if row.location is not None)
