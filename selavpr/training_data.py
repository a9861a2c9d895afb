"""Training photos on disk: where they are, where they were taken, and as augmented tensors."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from selavpr.augment import augment
from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.errors import OptionError, PhotoError
from selavpr.images import load_image
from selavpr.layouts import find_layout, has_split, read_benchmark
from selavpr.mining import Town
from selavpr.tables import read_table


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos and the town they show, row by row.

    Attributes:
        paths: ``n`` files.
        town: of ``n`` photos.
        mirrored: ``[n]`` bool, which are shown in a mirror.
    """

    paths: tuple[Path, ...]
    town: Town
    mirrored: NDArray[np.bool_]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with every photo, its place and its order: what row numbers stand on."""
        known = hashlib.sha256("\n".join(map(str, self.paths)).encode(errors="surrogateescape"))
        town = self.town
        for array in (town.position, town.heading, town.world, town.queries, town.references):
            if array is not None:
                known.update(np.ascontiguousarray(array).tobytes())
        return known.hexdigest()

    def load(self, row: int) -> Image.Image:
        """A photo as RGB.

        Raises:
            PhotoError: it cannot be read; the sentence names it.
        """
        try:
            photo = load_image(self.paths[row])
        except PhotoError as error:
            raise PhotoError(f"Training photo {self.paths[row]}: {error}") from error
        return ImageOps.mirror(photo) if self.mirrored[row] else photo


@dataclass(frozen=True)
class View:
    """One augmented look at a photo: which, how large, and the seed of all chance in it."""

    row: int
    size: tuple[int, int]  # width, height
    seed: tuple[int, ...]


def read_training(
    sources: Sequence[str],
    where: Mapping[str, str],
    *,
    positive_m: float,
    positive_degrees: float,
    negative_m: float,
    mirror: bool = False,
) -> TrainingPhotos:
    """Read the photos of one or more sources; each source is a world of its own.

    They may show the same town: what lies near in one source is no stranger in another.

    Args:
        sources: tables (columns ``image, latitude, longitude``, where known ``heading``, and
            ``world`` where photos at the same coordinates may show different towns), or folders in
            the ``@utm@``, MSLS or GSV-Cities layout.
        where: column values that rows of tables must have.
        positive_m: see ``mining.Town``.
        positive_degrees: see ``mining.Town``.
        negative_m: see ``mining.Town``.
        mirror: take every photo a second time, in a mirror: a mirrored town is another town, and
            costs no photos. Its photos come after the others, in the same order.

    Raises:
        OptionError: a source holds nothing usable.
        LocationError: a photo's position is wrong or missing.
    """
    heading: list[float] = []
    world: list[int] = []
    queries: list[int] = []
    references: list[int] = []
    worlds: dict[tuple[str, str], int] = {}
    found: list[BenchmarkPhoto] = []
    for source in sources:
        photos, names = _read(source, where)
        for row, (photo, name) in enumerate(zip(photos, names, strict=True), len(found)):
            heading.append(float("nan") if photo.heading is None else photo.heading)
            world.append(worlds.setdefault((source, name), len(worlds)))
            if photo.role != "database":
                queries.append(row)
            if photo.role != "query":
                references.append(row)
        found += photos
    if not found:
        raise OptionError("The recipe names no training photos; set `data` (and check `where`).")
    times = 2 if mirror else 1
    again = np.repeat(np.arange(times), len(found))  # which time, row by row
    # The same positions in another world: of a street and its mirror image nothing is said.
    town = Town(
        np.tile(_positions(found), (times, 1)),
        np.tile(np.array(heading, np.float64), times),
        np.tile(np.array(world, np.int64), times) + again * len(worlds),
        positive_m=positive_m,
        positive_degrees=positive_degrees,
        negative_m=negative_m,
        queries=_each_time(queries, times, len(found)),
        references=_each_time(references, times, len(found)),
    )
    return TrainingPhotos(tuple(photo.path for photo in found) * times, town, again == 1)


class Views(Dataset[Tensor | PhotoError]):
    """Augmented photos as tensors, so that torch's DataLoader can read them in other processes."""

    def __init__(self, photos: TrainingPhotos, strength: float, zoom: float = 0.0) -> None:
        """Take the photos and how strongly to augment them; see ``augment.augment``."""
        self._photos = photos
        self._how = (strength, zoom)

    def __getitem__(self, view: View) -> Tensor | PhotoError:
        """``[H, W, 3]`` uint8: a quarter of the bytes that have to get to the device.

        An error is returned: torch makes a page of traceback of one that is raised elsewhere.
        """
        try:
            photo = self._photos.load(view.row)
        except PhotoError as error:
            return error
        rng = np.random.default_rng(view.seed)
        return torch.from_numpy(np.array(augment(photo, view.size, rng, *self._how)))


def collate(views: Sequence[Tensor | PhotoError]) -> Tensor | PhotoError:
    """``[B, H, W, 3]`` of tensors of one shape, or the first error."""
    tensors = []
    for view in views:
        if isinstance(view, PhotoError):
            return view
        tensors.append(view)
    return torch.stack(tensors)


def _each_time(rows: Sequence[int], times: int, photos: int) -> NDArray[np.int64]:
    """Rows of a set of photos, and of each repetition of it."""
    return np.concatenate([np.array(rows, np.int64) + i * photos for i in range(times)])


def _read(source: str, where: Mapping[str, str]) -> tuple[list[BenchmarkPhoto], list[str]]:
    path = Path(source)
    if not path.exists():
        raise OptionError(f"There are no training photos at {source}.")
    if find_layout(path) == "table":
        rows = read_table(path, where)
        photos = [
            BenchmarkPhoto(r.path, "any", location=r.location, heading=r.heading) for r in rows
        ]
        names = [r.texts.get("world", "") for r in rows]
    else:
        found = read_benchmark(path, split="train" if has_split(path, "train") else None)
        photos = [*found.queries, *found.database, *found.unassigned]
        names = [""] * len(photos)
    if not photos:
        raise OptionError(f"No photo in {source} fits; check `where` in the recipe.")
    return photos, names


def _positions(photos: Sequence[BenchmarkPhoto]) -> NDArray[np.float64]:
    """``[n, 3]`` metres, all in one frame, or photos of two sources could not be told apart.

    That is a benchmark's own plane where all photos are on one (``protocols.within`` does so, too),
    else around the middle of the Earth. A photo of which only the former is known is far from all
    others there.
    """
    on_plane = all(photo.metres is not None for photo in photos)
    found = []
    for photo in photos:
        if photo.location is not None and not on_plane:
            found.append(photo.location.from_centre_m())
        elif photo.metres is not None:
            found.append((*photo.metres, 0.0))
        else:
            raise OptionError(f"The position of {photo.path} is unknown.")
    return np.array(found, np.float64)
