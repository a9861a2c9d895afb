"""Photos that lie on disk, with what tells where they were taken: tables, EXIF data, names."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from selavpr import tables
from selavpr.benchmarkphotos import BenchmarkPhoto, photo_files
from selavpr.errors import OptionError
from selavpr.exif import read_capture
from selavpr.indexfiles import holds_index
from selavpr.sources import SourcePhoto, from_rows, stem, unique
from selavpr.structs import Place


@dataclass
class Found:
    """What was read; filled by the functions of this module.

    Attributes:
        photos: in a fixed order.
        problems: a sentence for each photo that is left out because something is wrong with it.
        notes: sentences about photos left out on purpose.
        panoramas: files among the photos that show 360 degrees.
    """

    photos: list[SourcePhoto] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    panoramas: set[Path] = field(default_factory=set)

    def licences(self) -> list[str]:
        """Licences of the photos, the most frequent first."""
        return _by_number(photo.place.licence for photo in self.photos)

    def credits(self) -> list[str]:
        """Authors of the photos, the most frequent first."""
        return _by_number(photo.place.credit for photo in self.photos)


def read_table(path: Path, where: Mapping[str, str], result: Found) -> None:
    """Add the photos of a table, or of the table in a folder; queries only if asked for by role.

    Raises:
        OptionError: there is no table, or it lacks a column.
        LocationError: a row's position is none, or looks swapped.
        PhotoError: a row names a photo outside the folder.
    """
    found = list(tables_in(path)) if path.is_dir() else [path]
    if len(found) > 1 and found[0].name != tables.TABLE:
        names = ", ".join(table.name for table in found[:5])
        raise OptionError(f"{path} holds several tables of photos ({names}); name one of them.")
    table = found[0] if found else tables.find_table(path)
    rows = tables.read_table(table, where, need_location=False)
    kept = rows if "role" in where else [row for row in rows if not _is_query(row)]
    if len(kept) < len(rows):
        result.notes.append(f"{len(rows) - len(kept):,} queries are left out (column role).")
    result.problems += [f"{row.where} has no position." for row in kept if row.location is None]
    result.photos = from_rows(kept, table.parent.resolve())
    result.panoramas = {
        row.path for row in kept if row.texts.get("panorama", "").lower() in tables.YES
    }


def read_exif(
    path: Path,
    workers: int,
    result: Found,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    work: Path | None = None,
) -> None:
    """Add the photos below a folder that say themselves where they were taken.

    Args:
        path: the folder. Indexes below it are none of its photos, since people build them there.
        workers: photos looked into at a time.
        result: is added to.
        progress: called with photos done and their number.
        work: a folder of ours, which may be below it as well.

    Raises:
        OptionError: none of them does.
    """
    ours = work.resolve() if work else None
    files = list(photo_files(path, lambda at: _is_index(at) or at.resolve() == ours))
    found = []
    with ThreadPoolExecutor(workers) as pool:
        for i, (file, about) in enumerate(zip(files, pool.map(_look, files), strict=True), 1):
            place, is_panorama = about
            progress(i, len(files))
            if place is None:
                result.problems.append(f"{file.name} has no position in its EXIF data.")
                continue
            name = stem(file, path)
            place = dataclasses.replace(place, place_id=name, image=name)
            found.append(SourcePhoto(file, place))
            if is_panorama:
                result.panoramas.add(file)
    if files and not found:
        raise OptionError(
            f"None of the {len(files):,} photos in {path} has a position in its EXIF data; "
            f"messengers and web sites remove it. Write a table {tables.TABLE} with the columns "
            "image, latitude and longitude."
        )
    result.photos = unique(found)


def read_benchmark(photos: Sequence[BenchmarkPhoto], root: Path, result: Found) -> None:
    """Add the photos of a benchmark, without its queries.

    Args:
        photos: as ``layouts`` reads them.
        root: the folder they lie in.
        result: is added to.
    """
    kept = [photo for photo in photos if photo.role != "query"]
    if len(kept) < len(photos):
        result.notes.append(f"{len(photos) - len(kept):,} queries are left out.")
    found = []
    for photo in kept:
        if photo.location is None:
            result.problems.append(
                f"{photo.path.name} has no UTM zone in its name; give it with --utm-zone."
            )
            continue
        place = Place(
            photo.key, stem(photo.path, root), photo.location, photo.heading, photo.captured_at
        )
        found.append(SourcePhoto(photo.path, place))
    result.photos = unique(found)


def tables_in(folder: Path) -> Iterator[Path]:
    """The tables of photos in a folder: ``places.csv`` whatever is in it, others if they fit."""
    if (folder / tables.TABLE).exists():
        yield folder / tables.TABLE
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in tables.ENDINGS and path.is_file() and path.name != tables.TABLE:
            if tables.fits(path):
                yield path


def _is_index(folder: Path) -> bool:
    # Other programs write a manifest.json, too.
    return holds_index(folder) and (folder / tables.TABLE).is_file()


def _look(path: Path) -> tuple[Place | None, bool]:
    """What a photo says of its place, and whether it calls itself a panorama."""
    about = read_capture(path)
    if about.location is None:
        return None, False
    turns = False
    with contextlib.suppress(Exception), Image.open(path, formats=("JPEG",)) as image:
        if image.width == 2 * image.height:  # else nothing is read: most photos are none
            data = image.info.get("xmp", b"")
            turns = b"equirectangular" in (data.encode() if isinstance(data, str) else data)
    return Place("", "", about.location, about.heading, about.captured_at), turns


def _is_query(row: tables.Row) -> bool:
    return row.texts.get("role", "").lower() in ("query", "queries")


def _by_number(texts: Iterable[str]) -> list[str]:
    counts: dict[str, int] = {}
    for text in texts:
        if text:
            counts[text] = counts.get(text, 0) + 1
    return sorted(counts, key=lambda text: (-counts[text], text))
