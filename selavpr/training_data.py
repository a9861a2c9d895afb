"""Training photos on disk: where they are, where they were taken, and as augmented tensors."""

from __future__ import annotations

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
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.layouts import find_layout, read_benchmark
from selavpr.mining import Town
from selavpr.tables import read_table

TOWN_M = 50_000.0
"""Up to this far from an origin, degrees become metres to within some 1 %."""


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
    paths: list[Path] = []
    position: list[tuple[float, float]] = []
    heading: list[float] = []
    world: list[int] = []
    queries: list[int] = []
    references: list[int] = []
    worlds: dict[tuple[str, str, int], int] = {}
    for source in sources:
        photos, names = _read(source, where)
        origins: list[Location] = []  # of this source
        for photo, name in zip(photos, names, strict=True):
            row = len(paths)
            place, origin = _metres(photo, origins)
            paths.append(photo.path)
            position.append(place)
            heading.append(float("nan") if photo.heading is None else photo.heading)
            world.append(worlds.setdefault((source, name, origin), len(worlds)))
            if photo.role != "database":
                queries.append(row)
            if photo.role != "query":
                references.append(row)
    if not paths:
        raise OptionError("The recipe names no training photos; set `data` (and check `where`).")
    times = 2 if mirror else 1
    again = np.repeat(np.arange(times), len(paths))  # which time, row by row
    # The same positions in another world: of a street and its mirror image nothing is said.
    town = Town(
        np.tile(np.array(position, np.float64), (times, 1)),
        np.tile(np.array(heading, np.float64), times),
        np.tile(np.array(world, np.int64), times) + again * len(worlds),
        positive_m=positive_m,
        positive_degrees=positive_degrees,
        negative_m=negative_m,
        queries=_each_time(queries, times, len(paths)),
        references=_each_time(references, times, len(paths)),
    )
    return TrainingPhotos(tuple(paths) * times, town, again == 1)


class Views(Dataset[Tensor]):
    """Augmented photos as tensors, so that torch's DataLoader can read them in other processes."""

    def __init__(self, photos: TrainingPhotos, strength: float) -> None:
        """Take the photos and how strongly to augment them."""
        self._photos = photos
        self._strength = strength

    def __getitem__(self, view: View) -> Tensor:
        """``[H, W, 3]`` uint8: a quarter of the bytes that have to get to the device.

        Raises:
            PhotoError: the photo cannot be read.
        """
        photo = self._photos.load(view.row)
        rng = np.random.default_rng(view.seed)
        return torch.from_numpy(np.array(augment(photo, view.size, rng, self._strength)))


def collate(tensors: Sequence[Tensor]) -> Tensor:
    """``[B, H, W, 3]`` of tensors of one shape."""
    return torch.stack(list(tensors))


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
        has_split = any((path / folder).is_dir() for folder in ("train", "images/train"))
        found = read_benchmark(path, split="train" if has_split else None)
        photos = [*found.queries, *found.database, *found.unassigned]
        names = [""] * len(photos)
    if not photos:
        raise OptionError(f"No photo in {source} fits; check `where` in the recipe.")
    return photos, names


def _metres(photo: BenchmarkPhoto, origins: list[Location]) -> tuple[tuple[float, float], int]:
    """East and north of a photo, and the number of the origin that they count from.

    Degrees become metres around an origin nearby, since from another town's they come out wrong;
    a photo far from all known origins is a new one.
    """
    if photo.metres is not None:
        return photo.metres, 0
    if photo.location is None:
        raise OptionError(f"The position of {photo.path} is unknown.")
    for number, origin in enumerate(origins):
        if origin.distance_m(photo.location) <= TOWN_M:
            return origin.offset_m(photo.location), number
    origins.append(photo.location)
    return (0.0, 0.0), len(origins) - 1
