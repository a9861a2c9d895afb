"""Reference photos with their places: what every source is turned into before it is indexed."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavpr.structs import Place
from selavpr.tables import Row, read_table


@dataclass(frozen=True)
class SourcePhoto:
    """A photo on disk and what is known of its place; ``place.image`` is its name in the index."""

    path: Path
    place: Place


def read_folder(
    folder: str | os.PathLike[str], keep: Mapping[str, str] | None = None
) -> list[SourcePhoto]:
    """The photos that a folder's table names.

    Args:
        folder: holds the table, or is one; the paths in it are relative to its folder.
        keep: column values a row must have to be taken, for example ``{"role": "reference"}``.

    Raises:
        OptionError: there is no table, or it lacks a column.
        LocationError: a row's coordinates are not a place on Earth; the row is named.
        PhotoError: a row names a photo outside the folder. One that does not exist is no error
            here: building an index reports it with the others that cannot be read.
    """
    source = Path(folder)
    root = (source if os.path.isdir(source) else source.parent).resolve()
    return from_rows(read_table(source, keep), root)


def from_rows(rows: Iterable[Row], root: Path) -> list[SourcePhoto]:
    """The photos of a table's rows, those without a position left out.

    Args:
        rows: as ``read_table`` gives them.
        root: the table's folder, resolved; photos are named relative to it.
    """
    named = ((row, stem(row.path, root)) for row in rows)
    return unique(
        SourcePhoto(
            row.path,
            Place(
                place_id=row.texts.get("id") or name,
                image=name,
                location=row.location,
                heading=row.heading,
                captured_at=row.texts.get("captured_at", ""),
                street=row.texts.get("street", ""),
                credit=row.texts.get("credit", ""),
                licence=row.texts.get("licence", ""),
            ),
        )
        for row, name in named
        if row.location is not None
    )


def stem(path: Path, root: Path) -> str:
    """A photo's path below its folder, without its ending, with forward slashes."""
    # Texts, as tables name photos by the hundred thousand; and not with_suffix, which fails for
    # "..jpg" from Python 3.12 on.
    whole, folder = str(path), os.path.join(root, "")
    below = whole[len(folder) :] if whole.startswith(folder) else str(path.relative_to(root))
    return os.path.splitext(below.replace(os.sep, "/"))[0]


def unique(photos: Iterable[SourcePhoto]) -> list[SourcePhoto]:
    """Give each photo an id and a stored name of its own: several photos may show one place.

    Args:
        photos: ``place.image`` is any text; it becomes ``images/<text>.jpg`` as far as file
            systems allow, numbered where it repeats, as ids are.
    """
    ids: dict[str, int] = {}
    images: dict[str, int] = {}
    found = []
    for photo in photos:
        # Some systems take A.jpg and a.jpg for one file, and none can hold every character.
        name = f"images/{photo.place.image.removeprefix('images/')}.jpg"
        name = re.sub(r'[\x00-\x1f\\:*?"<>|\ud800-\udfff]', "_", name)
        # As they will be written: two that differ only in what is taken out would be one.
        place = clean(dataclasses.replace(photo.place, image=name))
        place_id = _new(place.place_id, ids)
        image = _new(place.image.removesuffix(".jpg"), images)
        place = dataclasses.replace(place, place_id=place_id, image=f"{image}.jpg")
        found.append(SourcePhoto(photo.path, place))
    return found


def clean(place: Place) -> Place:
    """Without the line breaks and control characters that a table cannot hold."""

    def plain(text: str) -> str:
        if text.isprintable():  # as almost all are, and sources name photos by the million
            return text.strip()
        kept = (" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        return "".join(kept).strip()

    texts: dict[str, Any] = {
        field.name: plain(getattr(place, field.name))
        for field in dataclasses.fields(place)
        if field.name not in ("location", "heading")
    }
    return dataclasses.replace(place, **texts)


def _new(name: str, taken: dict[str, int]) -> str:
    """The name, numbered if it is taken; beside each name stands the last number given to it."""
    base = name.casefold()
    number, numbered = taken.get(base, 0), name
    while numbered.casefold() in taken:
        number += 1
        numbered = f"{name}-{number}"
    taken[base] = max(number, 1)
    taken[numbered.casefold()] = max(taken.get(numbered.casefold(), 0), 1)
    return numbered
