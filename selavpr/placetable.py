"""The table of places: a CSV file that people can read, of which a query reads only a few rows.

``rows.npy`` says where in the file each row begins, so that opening a large index does not parse
it. The table remains the truth: every row is checked when it is read, and ``verify`` reads them
all. An index without ``rows.npy`` is parsed and checked whole.
"""

from __future__ import annotations

import csv
import io
import math
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selavpr.errors import LocationError
from selavpr.geo import Location
from selavpr.indexfiles import COLUMNS, PLACES, ROWS, damaged, is_inside, read_array, unreadable
from selavpr.structs import Place
from selavpr.tables import as_cell, from_cell

MAX_ROW_BYTES = 1 << 20


class PlaceTable:
    """The places of an index, in order of their rows. Threads may share one."""

    def __init__(self, path: Path, data: bytes | mmap.mmap, starts: NDArray[np.uint64]) -> None:
        """Use ``open``."""
        self._path = path
        self._data = data
        self._starts = starts

    @classmethod
    def open(cls, folder: Path) -> PlaceTable:
        """The table of an index folder.

        Raises:
            IndexFileError: it is missing or damaged.
        """
        path = folder / PLACES
        try:
            with path.open("rb") as file:
                first = file.readline(1000)
                # An empty file cannot be mapped.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if first else b""
        except OSError as error:
            raise unreadable(path, error) from error
        if first.rstrip(b"\r\n").decode("utf-8", "replace").split(",") != list(COLUMNS):
            raise damaged(path, "it does not have the right columns")
        if (folder / ROWS).is_file():
            starts = read_array(folder / ROWS, np.uint64, 1)
            fits = (
                len(starts) > 0
                and int(starts[0]) == len(first)
                and int(starts[-1]) == len(data)
                and bool((starts[1:] > starts[:-1]).all())
            )
            if not fits:
                raise damaged(folder / ROWS, f"it does not fit {PLACES}")
            return cls(path, data, starts)
        table = cls(path, data, np.array(list(_row_starts(path, len(first))), dtype=np.uint64))
        table.check()
        return table

    def __len__(self) -> int:
        """Number of places."""
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> Place:
        """One place.

        Raises:
            IndexError: there is no such row.
            IndexFileError: the row is damaged.
        """
        row = range(len(self))[row]
        try:
            start, stop = int(self._starts[row]), int(self._starts[row + 1])
            if stop - start > MAX_ROW_BYTES:
                raise ValueError("it is too long")
            if self._data[start - 1 : start] != b"\n":
                raise ValueError("it begins within another")
            text = self._data[start:stop].decode("utf-8")
            rows = list(csv.reader([text], strict=True))
            if len(rows) != 1 or len(rows[0]) != len(COLUMNS):
                raise ValueError("it does not have the right columns")
            return _place(rows[0])
        except (ValueError, LocationError, csv.Error) as error:
            raise damaged(self._path, f"row {row + 1}: {error}") from error

    def check(self) -> None:
        """Read all rows.

        Raises:
            IndexFileError: one is damaged, or an id appears twice.
        """
        seen: set[str] = set()
        for row in range(len(self)):
            place = self[row]
            if place.place_id in seen:
                raise damaged(self._path, f"the id {place.place_id!r:.50} appears twice")
            seen.add(place.place_id)


def write_places(folder: Path, places: Iterable[Place]) -> None:
    """Write the table and where its rows begin.

    Raises:
        OSError: the folder cannot be written.
    """
    starts = []
    with (folder / PLACES).open("wb") as file:
        file.write(_line(COLUMNS))
        for place in places:
            starts.append(file.tell())
            file.write(_line(_cells(place)))
        starts.append(file.tell())
    np.save(folder / ROWS, np.array(starts, dtype=np.uint64))


def _line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _cells(place: Place) -> Sequence[str]:
    heading = "" if place.heading is None else f"{place.heading:.1f}"
    position = (f"{place.location.latitude:.7f}", f"{place.location.longitude:.7f}")
    name = (as_cell(place.place_id), as_cell(place.image))
    about = map(as_cell, (place.captured_at, place.street, place.credit, place.licence))
    return (*name, *position, heading, *about)


def _place(cells: Sequence[str]) -> Place:
    values = dict(zip(COLUMNS, map(from_cell, cells), strict=True))
    heading = float(values["heading"]) if values["heading"] else None
    if heading is not None and not (math.isfinite(heading) and 0 <= heading <= 360):
        raise ValueError("the heading is not 0 to 360 degrees")
    if values["image"] and not is_inside(values["image"]):
        raise ValueError("it points outside the index")
    return Place(
        place_id=values["id"],
        image=values["image"],
        location=Location(float(values["latitude"]), float(values["longitude"])),
        heading=heading,
        captured_at=values["captured_at"],
        street=values["street"],
        credit=values["credit"],
        licence=values["licence"],
    )


def _row_starts(path: Path, first: int) -> Iterable[int]:
    """Where rows begin, in a table whose cells hold no line breaks; the end comes last."""
    position = first
    yield position
    try:
        with path.open("rb") as file:
            file.seek(first)
            for line in file:
                position += len(line)
                yield position
    except OSError as error:
        raise unreadable(path, error) from error
