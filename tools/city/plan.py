"""Lists every capture of a build: pose, condition, seed, role and split. No rendering."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry import Point
from shapely.geometry.base import BaseGeometry

from .conditions import CONDITIONS, REFERENCE
from .geo import to_wgs84
from .osm import City, load_city
from .poses import Pose, Stand, query_pose, reference_poses, same_place, stands_along
from .streets import TOWN_SEED, make_ground, park_trees
from .zones import split_of, zone_of

SEED = TOWN_SEED
TRAIN_LOOKS = (101, 102, 103)  # facade seeds of the training town
MORE_LOOKS = (104, 105)  # and of the sixth round's
QUERY_CONDITIONS = ("summer_day", "evening", "night", "rain", "snow", "crowded")
COLUMNS = (
    "image",
    "latitude",
    "longitude",
    "heading",
    "fov",
    "captured_at",
    "street",
    "condition",
    "role",
    "split",
    "place_ids",
    "world",
)


@dataclass(frozen=True)
class Capture:
    """One picture to take."""

    name: str  # unique, and the id of a reference
    folder: str
    pose: Pose
    condition: str
    moment: int
    seed: int
    look: int  # facade seed
    role: str
    split: str
    width: int = 480
    rows: int = 360
    samples: int = 3
    place_ids: tuple[str, ...] = field(default=())

    @property
    def image(self) -> str:
        """Path of the picture inside the output folder."""
        return f"{self.folder}/{self.name}.jpg"

    @property
    def captured_at(self) -> datetime:
        """The moment of capture, which also sets the sun."""
        return CONDITIONS[self.condition].moments[self.moment]

    @property
    def paths(self) -> int:
        """Samples per pixel: the many small lights of a night need twice as many."""
        return self.samples * (2 if self.condition == "night" else 1)

    def row(self) -> dict[str, str]:
        """The capture's line in the table."""
        lat, lon = to_wgs84(self.pose.x, self.pose.y)
        return {
            "image": self.image,
            "latitude": f"{lat:.7f}",
            "longitude": f"{lon:.7f}",
            "heading": f"{self.pose.heading:.2f}",
            "fov": f"{self.pose.fov:.2f}",
            "captured_at": self.captured_at.isoformat(),
            "street": self.pose.street,
            "condition": self.condition,
            "role": self.role,
            "split": self.split,
            "place_ids": ";".join(self.place_ids),
            # Training looks at the same streets with other facades: other places.
            "world": str(self.look),
        }


@dataclass(frozen=True)
class Draw:
    """Which queries are taken of all that could be."""

    mark: str  # before their names
    stream: int  # of random numbers, for places and poses
    traffic: int  # seeds of what moves
    splits: tuple[str, ...]


SHOWN = Draw("", 50, 100, ("validation", "test"))
SAMPLE = Draw("s", 50, 100, ("validation", "test"))  # of other references: other pictures
CALIBRATION = Draw("c", 250, 700, ("validation",))


@lru_cache(maxsize=1)
def obstacles() -> tuple[BaseGeometry, BaseGeometry]:
    """The walls, and all areas where no camera may stand (buildings, water, tree trunks)."""
    city = load_city()
    walls = shapely.union_all([b.footprint for b in city.buildings])
    trees = park_trees(city, make_ground(city), SEED)
    trunks = shapely.union_all([Point(t).buffer(1.4) for t in trees])
    box = shapely.box(*city.bounds).buffer(-8)
    blocked = shapely.union_all([walls.buffer(1.0), trunks, *city.water])
    outer = shapely.box(*city.bounds).buffer(500).difference(box)
    blocked = blocked.union(outer)
    for shape in (walls, blocked):
        shapely.prepare(shape)
    return walls, blocked


def _stands(city: City, zone: str, spacing: float) -> list[Stand]:
    lines = [
        (s.name, s.line) for s in city.streets if s.name and s.tags.get("bridge", "no") == "no"
    ]
    return [s for s in stands_along(lines, spacing) if zone_of(s.x, s.y) == zone]


def _frame(rng: np.random.Generator, pose: Pose) -> tuple[Pose, int, int]:
    """One picture in three is an upright phone's, with its narrower horizontal view."""
    if rng.random() < 0.33:
        tall = 2 * math.degrees(math.atan(math.tan(math.radians(pose.fov / 2)) * 0.75))
        upright = Pose(
            pose.x, pose.y, pose.height, pose.heading, pose.pitch + 4, pose.roll, tall, pose.street
        )
        return upright, 360, 480
    return pose, 480, 360


def references(spacing: float = 25.0) -> list[Capture]:
    """The references of the indexed area."""
    walls, blocked = obstacles()
    poses = reference_poses(_stands(load_city(), "index", spacing), walls, blocked, SEED)
    moments = len(CONDITIONS[REFERENCE].moments)
    poses.sort(key=lambda p: (p.street, p.x, p.y))
    out = [
        Capture(
            f"r{i:04d}",
            "references",
            p,
            REFERENCE,
            (i // 40) % moments,
            SEED * 10 + i,
            SEED,
            "reference",
            split_of(p.x, p.y),
        )
        for i, p in enumerate(poses)
    ]
    return _linked(out, out)


def _linked(captures: Sequence[Capture], refs: Sequence[Capture]) -> list[Capture]:
    out = []
    for c in captures:
        ids = tuple(r.name for r in refs if r.name != c.name and same_place(r.pose, c.pose))
        out.append(Capture(**{**c.__dict__, "place_ids": ids}))
    return out


def queries(refs: Sequence[Capture], per_condition: int = 44, draw: Draw = SHOWN) -> list[Capture]:
    """Queries of the indexed area, the same number in each condition, never at a reference."""
    walls, blocked = obstacles()
    out: list[Capture] = []
    spots = np.array([(r.pose.x, r.pose.y) for r in refs])
    usable = [r for r in refs if r.split in draw.splits]
    for k, condition in enumerate(QUERY_CONDITIONS):
        rng = np.random.default_rng([SEED, draw.stream + k])
        order = rng.permutation(len(usable))
        made = 0
        for j in order:
            if made == per_condition:
                break
            pose = query_pose(usable[j].pose, walls, blocked, rng)
            if pose is None or zone_of(pose.x, pose.y) != "index":
                continue
            split = split_of(pose.x, pose.y)
            if split not in draw.splits or np.min(np.hypot(*(spots - (pose.x, pose.y)).T)) < 1.0:
                continue
            pose, width, rows = _frame(rng, pose)
            moment = made * len(CONDITIONS[condition].moments) // per_condition
            c = Capture(
                f"{draw.mark}q_{condition}_{made:03d}",
                "queries",
                pose,
                condition,
                moment,
                SEED * draw.traffic + 1000 * k + made,
                SEED,
                "query",
                split,
                width,
                rows,
            )
            linked = _linked([c], refs)[0]
            if linked.place_ids:
                out.append(linked)
                made += 1
    return out


def outside(count: int = 72, draw: Draw = SHOWN) -> list[Capture]:
    """Queries from parts of town that have no references."""
    walls, blocked = obstacles()
    bases = reference_poses(_stands(load_city(), "outside", 16.0), walls, blocked, SEED + 1)
    bases = [b for b in bases if split_of(b.x, b.y) in draw.splits]
    rng = np.random.default_rng([SEED, draw.stream + 40])
    out: list[Capture] = []
    for j in rng.permutation(len(bases)):
        if len(out) == count:
            break
        pose = query_pose(bases[j], walls, blocked, rng)
        if pose is None or zone_of(pose.x, pose.y) != "outside":
            continue
        k = len(out)
        condition = QUERY_CONDITIONS[k % len(QUERY_CONDITIONS)]
        pose, width, rows = _frame(rng, pose)
        moment = k // len(QUERY_CONDITIONS) % len(CONDITIONS[condition].moments)
        out.append(
            Capture(
                f"{draw.mark}o_{k:03d}",
                "outside",
                pose,
                condition,
                moment,
                SEED * 2 * draw.traffic + k,
                SEED,
                "outside",
                split_of(pose.x, pose.y),
                width,
                rows,
            )
        )
    return out


def calibration(per_condition: int = 40, away: int = 60) -> list[Capture]:
    """Queries of the validation area on which nothing but the calibration is chosen.

    They have a folder and a table of their own, which holds no references.
    """
    return [*queries(references(), per_condition, CALIBRATION), *outside(away, CALIBRATION)]


def training(
    count: int = 2100,
    width: int = 288,
    rows: int = 216,
    samples: int = 3,
    looks: Sequence[int] = TRAIN_LOOKS,
    passings: int = 4,
) -> list[Capture]:
    """Small captures of the training streets, whose facades are drawn from other seeds.

    Args:
        count: Captures of all looks together.
        width: Of a picture.
        rows: Of a picture.
        samples: Of the renderer.
        looks: Seeds of facades.
        passings: Captures of a place beside the plain one by day.
    """
    walls, blocked = obstacles()
    bases = reference_poses(_stands(load_city(), "train", 19.0), walls, blocked, SEED + 2)
    out: list[Capture] = []
    per_look = math.ceil(count / len(looks))
    for look in looks:
        rng = np.random.default_rng([SEED, look])
        # Each chosen place is seen once plainly by day, then in passing.
        places = rng.permutation(len(bases))
        group: list[Capture] = []
        for j in (places[i % len(places)] for i in range(len(places) * 4)):
            if len(group) >= per_look:
                break
            order = [QUERY_CONDITIONS[i] for i in rng.permutation(len(QUERY_CONDITIONS))][:passings]
            for v, condition in enumerate(["summer_day", *order]):
                pose: Pose | None = bases[j]
                if v:
                    pose = query_pose(bases[j], walls, blocked, rng)
                if pose is None or len(group) >= per_look:
                    continue
                moment = int(rng.integers(len(CONDITIONS[condition].moments)))
                n = len(group)
                group.append(
                    Capture(
                        f"t{look}_{n:04d}",
                        "training",
                        pose,
                        condition,
                        moment,
                        SEED * 300 + look * 10000 + n,
                        look,
                        "training",
                        "train",
                        width,
                        rows,
                        samples,
                    )
                )
        # A few stand just over the border. They go last of all, so that no other's name changes.
        group = [c for c in group if zone_of(c.pose.x, c.pose.y) == "train"]
        for c in group:
            ids = tuple(o.name for o in group if o.name != c.name and same_place(o.pose, c.pose))
            out.append(Capture(**{**c.__dict__, "place_ids": ids}))
    return out


def more_training() -> list[Capture]:
    """Two looks more, of nearly all places, and sharper.

    Where every stand of a street is seen, its neighbours are there to be told apart from it.
    """
    return training(2226, 336, 252, 3, MORE_LOOKS, 2)


def everything() -> list[Capture]:
    """All captures of the full build."""
    refs = references()
    return [*refs, *queries(refs), *outside(), *training()]


def sample() -> list[Capture]:
    """A small set around Kasarmitori to try the rest of the project on."""
    area = Point(140, -290)
    refs = [r for r in references() if area.distance(Point(r.pose.x, r.pose.y)) < 115][:60]
    near = queries(refs, 4, SAMPLE)
    away = outside(6, SAMPLE)
    return [*_linked(refs, refs), *near, *away]


def write_table(path: Path, captures: Sequence[Capture]) -> None:
    """Writes the table of captures as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(c.row() for c in captures)
