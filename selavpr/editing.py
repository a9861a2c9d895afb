"""Indexes changed without extracting anything twice: merged, added to, with photos removed.

Coded features, descriptors and photos of what stays are copied as they are, so adding photos and
removing them again gives the same bytes. A new code is never fitted here: photos that are added
take the index's own, and in a merger the code of the first index; where that differs, the others'
features are decoded and coded once more, which a note says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selavpr import searchers
from selavpr.building import Progress, check_photos, check_place, extracted
from selavpr.errors import IndexFileError, OptionError
from selavpr.index import PlaceIndex
from selavpr.indexfiles import (
    BASEMAP,
    MAX_JSON_BYTES,
    PHOTOS,
    Manifest,
    holds_index,
    named,
    read_sums,
)
from selavpr.localfeatures import Arrays, Codec, same
from selavpr.model import SelaVPR
from selavpr.searchers import Searcher
from selavpr.sources import SourcePhoto, clean
from selavpr.structs import Place
from selavpr.writing import ArrayWriter, Entry, finish, link, replacing

CALIBRATED = (
    "The calibration was made before this change and is kept; `index calibrate` makes a new one."
)


@dataclass(frozen=True)
class _Row:
    """A photo of the new index: what is known of it, and how its parts are come by."""

    place: Place
    grid: tuple[int, int]
    arrays: Callable[[], Arrays]
    put_photo: Callable[[Path], None]
    sha256: str = ""


def remove(
    folder: str | os.PathLike[str],
    *,
    ids: Iterable[str] = (),
    where: Mapping[str, str] | None = None,
) -> tuple[PlaceIndex, int]:
    """Take photos out of an index.

    Args:
        folder: of the index, which is replaced when the new one is whole.
        ids: of photos to take out.
        where: column values; photos that have them all are taken out, too.

    Returns:
        The index without them, and how many they were.

    Raises:
        OptionError: an id or column does not exist, or nothing, or everything, would go.
        IndexFileError: the index is damaged or cannot be written.
    """
    out = Path(folder).resolve()
    with replacing(_existing(out), "change", keep_parts=True) as new:
        count = _remove(out, new, set(ids), dict(where or {}))
    return PlaceIndex.open(out), count


def _remove(out: Path, new: Path, ids: set[str], where: dict[str, str]) -> int:
    index = PlaceIndex.open(out)
    places = index.places
    if unknown := sorted(ids - {place.place_id for place in places}):
        raise OptionError(f"There is no photo {unknown[0]!r} in {out}.")
    keep = [
        row
        for row, place in enumerate(places)
        if place.place_id not in ids and not (where and _fits(place, where))
    ]
    if len(keep) == len(index):
        raise OptionError(f"No photo of {out} fits; nothing was changed.")
    if not keep:
        raise OptionError(f"That would remove every photo of {out}; delete the folder instead.")
    rows = np.array(keep, dtype=np.int64)
    none = np.empty((0, index.width), dtype=np.float32)
    searcher = _edited(index, rows, none)
    _copy_basemap([index], new, link)
    _write(new, _rows(index, keep, places, link), index.codec, searcher, index.manifest)
    return len(index) - len(keep)


def add(
    folder: str | os.PathLike[str],
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    *,
    batch_size: int = 8,
    progress: Progress = lambda done, total: None,
) -> tuple[PlaceIndex, list[str]]:
    """Put more photos into an index; stopped, it goes on where it was when called again.

    Args:
        folder: of the index, which is replaced when the new one is whole.
        photos: to add.
        model: the one the index was built with.
        batch_size: photos per pass through the network.
        progress: called with photos done and photos in all.

    Returns:
        The index with them, and a sentence for each photo that could not be used.

    Raises:
        OptionError: an id is in the index already, or photos repeat.
        IndexFileError: the index belongs to another model, is damaged or cannot be written, or
            none of the photos was usable.
    """
    out = Path(folder).resolve()
    check_photos(photos)
    with replacing(_existing(out), "change") as new:
        problems = _add(out, new, photos, model, batch_size, progress)
    return PlaceIndex.open(out), problems


def _add(
    out: Path,
    new: Path,
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    batch_size: int,
    progress: Progress,
) -> list[str]:
    index = PlaceIndex.open(out)
    if index.manifest.fingerprint != model.fingerprint():
        raise IndexFileError(
            f"The index in {out} was built with another model ({index.manifest.model!r:.80}); "
            "add with that model."
        )
    places = index.places
    taken = {place.place_id for place in places}
    again = [name for photo in photos if (name := clean(photo.place).place_id) in taken]
    if again:
        raise OptionError(
            f"{len(again)} of the photos have ids that are in the index, such as {again[0]!r}: "
            "remove those first, or give the new photos other ids."
        )
    entries, problems = extracted(new.parent / "parts", photos, model, batch_size, progress)
    images = {place.image.casefold() for place in places}
    rows, descriptors = _rows(index, range(len(index)), places, link), []
    added = _Added(entries, index.codec, model)
    for entry in entries:
        place = clean(entry.place)
        place = dataclasses.replace(place, image=_free(place.image, images))
        descriptors.append(entry.descriptor.numpy())
        grid = (entry.tokens.shape[0], entry.tokens.shape[1])
        rows.append(_Row(place, grid, added.arrays, added.put_photo))
    if not descriptors:
        raise IndexFileError(f"None of the {len(photos)} photos is usable. {problems[0]}")
    more = np.stack(descriptors).astype(np.float32)
    kept = np.arange(len(index), dtype=np.int64)
    manifest, searcher = index.manifest, _edited(index, kept, more)
    if not searcher.probes and len(searcher) > searchers.FLAT_UP_TO >= len(index):
        searcher, about = searchers.make(searcher.descriptors(), "auto")
        manifest = dataclasses.replace(manifest, search=about or None)
    fresh = [row.place for row in rows[len(index) :]]
    manifest = dataclasses.replace(
        manifest,
        license=_stated(manifest.license, [p.licence for p in places], [p.licence for p in fresh]),
        attribution=_stated(
            manifest.attribution, [p.credit for p in places], [p.credit for p in fresh]
        ),
    )
    _copy_basemap([index], new, link)
    _write(new, rows, index.codec, searcher, manifest)
    return problems


def merge(
    out: str | os.PathLike[str],
    folders: Sequence[str | os.PathLike[str]],
    *,
    name: str = "",
    title: str = "",
) -> tuple[PlaceIndex, list[str]]:
    """Make one index of several of the same model.

    Args:
        out: the index to make; an index that is there is replaced.
        folders: of the indexes, which stay as they are. The first one's codes are used.
        name: of the new index; the first one's when empty.
        title: likewise.

    Returns:
        The new index, and a sentence for everything that is not as it was in one of them.

    Raises:
        OptionError: fewer than two indexes, or ``out`` is one of them.
        IndexFileError: they are of different models or kinds, one is damaged, or ``out`` cannot
            be written.
    """
    target = Path(out).resolve()
    if len(folders) < 2:
        raise OptionError("Merging takes two indexes or more.")
    if target in [Path(folder).resolve() for folder in folders]:
        raise OptionError(f"{target} is one of the indexes to merge; choose another place.")
    check_place(target)
    with replacing(target, "change", keep_parts=True) as new:
        notes = _merge(new, [PlaceIndex.open(folder) for folder in folders], name, title)
    return PlaceIndex.open(target), notes


def _merge(new: Path, indexes: Sequence[PlaceIndex], name: str, title: str) -> list[str]:
    first, notes = indexes[0], []
    for index in indexes[1:]:
        if index.manifest.fingerprint != first.manifest.fingerprint or index.width != first.width:
            raise IndexFileError(
                f"{index.folder} was built with another model ({index.manifest.model!r:.80}) than "
                f"{first.folder} ({first.manifest.model!r:.80}); they cannot be searched together."
            )
        if index.manifest.local != first.manifest.local:
            raise IndexFileError(
                f"{index.folder} keeps other local features ({index.manifest.local}) than "
                f"{first.folder} ({first.manifest.local}); build one of them again."
            )
        if not same(index.codec, first.codec):
            notes.append(
                f"The local features of {index.folder} were coded again with the code of "
                f"{first.folder}, which loses a little; building from the photos does not."
            )
    ids: set[str] = set()
    images: set[str] = set()
    seen: set[tuple[str, str]] = set()
    rows: list[_Row] = []
    descriptors = []
    renamed = dropped = 0
    for index in indexes:
        keep = []
        for i, row in enumerate(_rows(index, range(len(index)), index.places, _copy, first.codec)):
            key = (row.place.place_id, row.sha256)
            if row.sha256 and key in seen:
                dropped += 1
                continue
            seen.add(key)
            place_id = _free(row.place.place_id, ids, whole=True)
            renamed += place_id != row.place.place_id
            image = _free(row.place.image, images) if row.place.image else ""
            place = dataclasses.replace(row.place, place_id=place_id, image=image)
            rows.append(dataclasses.replace(row, place=place))
            keep.append(i)
        with _distrusted(index):
            descriptors.append(index.searcher.descriptors()[keep])
    if dropped:
        notes.append(f"{dropped:,} photos that are in several of the indexes were taken once.")
    if renamed:
        notes.append(f"{renamed:,} ids appeared twice and got a number.")
    vectors = np.concatenate(descriptors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # those of lists were rounded
    searcher, about = searchers.make(vectors, "auto")
    if any(index.manifest.calibration for index in indexes):
        notes.append("Calibrations do not hold for the whole and were dropped.")
    manifest = dataclasses.replace(
        first.manifest,
        name=name or first.manifest.name,
        title=title or first.manifest.title,
        license=_joined(index.manifest.license for index in indexes),
        attribution=_joined(index.manifest.attribution for index in indexes),
        calibration=None,
        search=about or None,
    )
    notes += _copy_basemap(indexes, new, _copy)
    _write(new, rows, first.codec, searcher, manifest)
    return notes


def _rows(
    index: PlaceIndex,
    keep: Iterable[int],
    places: Sequence[Place],
    put: Callable[[Path, Path], None],
    codec: Codec | None = None,
) -> list[_Row]:
    """Rows of an index as they are, or coded again where the code is another."""
    files = index.manifest.files
    sums = {name: str(about["sha256"]) for name, about in files.items()}
    if PHOTOS in sums:
        sums |= read_sums(index.folder / PHOTOS)
    again = codec is not None and not same(codec, index.codec)

    def arrays(row: int) -> Callable[[], Arrays]:
        if codec is not None and again:
            return lambda: codec.recoded(index.stored(row), index.codec)
        return lambda: index.stored(row).arrays

    def photo(row: int) -> Callable[[Path], None]:
        def put_photo(target: Path) -> None:
            source = index.photo_path(row)
            if not source.is_file():
                raise IndexFileError(
                    f"{places[row].image} is missing in {index.folder}; remove that photo, or get "
                    "the index anew."
                )
            put(source, target)

        return put_photo

    return [
        _Row(places[row], index.grid(row), arrays(row), photo(row), sums.get(places[row].image, ""))
        for row in keep
    ]


class _Added:
    """Features and photos that are new, in order of their rows, one in memory at a time."""

    def __init__(self, entries: Iterable[Entry], codec: Codec, model: SelaVPR) -> None:
        self._entries = iter(entries)
        self._codec = codec
        self._model = model
        self._photo = b""

    def arrays(self) -> Arrays:
        """Of the next photo."""
        entry = next(self._entries)
        self._photo = entry.photo
        return self._codec.coded(entry.tokens, self._model)

    def put_photo(self, target: Path) -> None:
        """That of which the arrays were asked for last."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self._photo)


def _write(
    new: Path, rows: Sequence[_Row], codec: Codec, searcher: Searcher, manifest: Manifest
) -> None:
    grids = np.array([row.grid for row in rows], dtype=np.uint16)
    with torch.inference_mode(), ArrayWriter(new, codec, grids) as writer:
        for row in rows:
            writer.add(row.arrays())  # before its photo, see _Added
            if row.place.image:
                row.put_photo(new / row.place.image)
    sums = {row.place.image: row.sha256 for row in rows if row.sha256}
    finish(new, [row.place for row in rows], searcher, codec, manifest, sums)


def _edited(index: PlaceIndex, keep: NDArray[np.int64], more: NDArray[np.float32]) -> Searcher:
    with _distrusted(index):
        return searchers.edited(index.searcher, keep, more)


@contextlib.contextmanager
def _distrusted(index: PlaceIndex) -> Iterator[None]:
    """Its global search may come from a stranger."""
    try:
        yield
    except ValueError as error:
        raise IndexFileError(
            f"The global search in {index.folder} is damaged: {error}; build the index again."
        ) from error


def _copy_basemap(
    indexes: Sequence[PlaceIndex], new: Path, put: Callable[[Path, Path], None]
) -> list[str]:
    """The map of one index, as it is, or of all together."""
    mapped = [index for index in indexes if (index.folder / BASEMAP).is_file()]
    if not mapped:
        return []
    if len(mapped) == 1:
        put(mapped[0].folder / BASEMAP, new / BASEMAP)
        return []
    features: list[Any] = []
    notes = []
    for index in mapped:
        try:
            found = (index.basemap() or {}).get("features")
        except IndexFileError as error:
            notes.append(f"The map of {index.folder} was left out: {error}")
            continue
        features += found if isinstance(found, list) else []
    if len(notes) == len(mapped):
        return notes
    text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
    if len(text.encode()) > MAX_JSON_BYTES:
        return [
            *notes,
            "The maps together are too large and were left out; give one with --basemap.",
        ]
    (new / BASEMAP).write_text(text, encoding="utf-8")
    return notes


def _fits(place: Place, where: Mapping[str, str]) -> bool:
    about = {
        "id": place.place_id,
        "image": place.image,
        "captured_at": place.captured_at,
        "street": place.street,
        "credit": place.credit,
        "licence": place.licence,
        "heading": "" if place.heading is None else f"{place.heading:.1f}",
    }
    if unknown := sorted(where.keys() - about.keys()):
        raise OptionError(f"There is no column {unknown[0]!r}; there are {', '.join(about)}.")
    return all(about[column] == value for column, value in where.items())


def _existing(out: Path) -> Path:
    if not holds_index(out):
        PlaceIndex.open(out)  # says what is wrong, unless a killed swap left it elsewhere
    return out


def _free(name: str, taken: set[str], whole: bool = False) -> str:
    """The name, numbered if it is taken; some systems take A.jpg and a.jpg for one file."""
    stem, dot, suffix = (name, "", "") if whole else name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    number, free = 1, name
    while (free if whole else free.casefold()) in taken:
        number += 1
        free = f"{stem}-{number}{dot}{suffix}"
    taken.add(free if whole else free.casefold())
    return free


def _copy(source: Path, target: Path) -> None:
    """Not a link: two indexes that stand beside each other share nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _stated(whole: str, before: Sequence[str], added: Sequence[str]) -> str:
    """What an index says of all its photos, after an addition: authors, or licences.

    Args:
        whole: what it said of all.
        before: what it says of each photo it had, if anything.
        added: likewise of each photo that is new.
    """
    if all(before) and not all(added):
        return ""  # it named those that each had their own, and is not to speak for others
    known = re.split("[,;] ", whole)
    fresh = list(dict.fromkeys(text for text in added if text and text not in known))
    return _joined([whole, named(fresh)])


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
