"""Training photos on disk: where they are, where they were taken, and as augmented tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
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
    """Photos and the town they show, row by row."""

    paths: tuple[Path, ...]
    town: Town


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
    town = Town(
        np.array(position, np.float64),
        np.array(heading, np.float64),
        np.array(world, np.int64),
        positive_m=positive_m,
        positive_degrees=positive_degrees,
        negative_m=negative_m,
        queries=np.array(queries, np.int64),
        references=np.array(references, np.int64),
    )
    return TrainingPhotos(tuple(paths), town)


class Views(Dataset[Tensor]):
    """Augmented photos as tensors, so that torch's DataLoader can read them in other processes."""

    def __init__(self, paths: Sequence[Path], strength: float) -> None:
        """Take the photos and how strongly to augment them."""
        self._paths = paths
        self._strength = strength

    def __getitem__(self, view: View) -> Tensor:
        """``[H, W, 3]`` uint8: a quarter of the bytes that have to get to the device.

        Raises:
            PhotoError: the photo cannot be read.
        """
        path = self._paths[view.row]
        try:
            photo = load_image(path)
        except PhotoError as error:
            raise PhotoError(f"Training photo {path}: {error}") from error
        rng = np.random.default_rng(view.seed)
        return torch.from_numpy(np.array(augment(photo, view.size, rng, self._strength)))


def collate(tensors: Sequence[Tensor]) -> Tensor:
    """``[B, H, W, 3]`` of tensors of one shape."""
    return torch.stack(list(tensors))


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
