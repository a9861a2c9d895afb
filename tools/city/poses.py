"""Draws camera poses along streets: pure geometry, no rendering."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import LineString, Point
from shapely.geometry.base import BaseGeometry

from .geo import direction_of, heading_difference, heading_of

PLACE_RADIUS = 25.0
PLACE_ANGLE = 40.0


@dataclass(frozen=True)
class Stand:
    """A point on a street where a camera may stand."""

    x: float
    y: float
    along: float  # heading of the street, degrees
    street: str


@dataclass(frozen=True)
class Pose:
    """A camera in local metres; angles in degrees, `fov` is horizontal."""

    x: float
    y: float
    height: float
    heading: float
    pitch: float
    roll: float
    fov: float
    street: str


def stands_along(
    named_lines: Iterable[tuple[str, LineString]], spacing: float, clearance: float = 9.0
) -> list[Stand]:
    """Points about every `spacing` metres along the streets, dual carriageways thinned to one.

    Args:
        named_lines: Street name and centre line of every way.
        spacing: Distance between neighbours on one street.
        clearance: A point this near to one already taken is left out.
    """
    groups: dict[str, list[LineString]] = defaultdict(list)
    for name, line in named_lines:
        groups[name].append(line)
    taken: list[Stand] = []
    for name in sorted(groups):
        merged = shapely.line_merge(shapely.union_all(groups[name]))
        pieces = sorted(getattr(merged, "geoms", [merged]), key=lambda g: -g.length)
        for line in pieces:
            count = max(int(line.length / spacing), 1)
            for i in range(count):
                at = (i + 0.5) * line.length / count
                p, q = line.interpolate(max(at - 1.0, 0.0)), line.interpolate(at + 1.0)
                m = line.interpolate(at)
                near = (
                    clearance if s.street != name else max(clearance, spacing * 0.8) for s in taken
                )
                if all(
                    math.hypot(s.x - m.x, s.y - m.y) >= d for s, d in zip(taken, near, strict=True)
                ):
                    taken.append(Stand(m.x, m.y, heading_of(q.x - p.x, q.y - p.y), name))
    return taken


def free_distance(x: float, y: float, heading: float, walls: BaseGeometry, reach: float) -> float:
    """Metres from (x, y) along a heading until the first wall, at most `reach`."""
    dx, dy = direction_of(heading)
    ray = LineString([(x, y), (x + dx * reach, y + dy * reach)])
    hit = ray.intersection(walls)
    return reach if hit.is_empty else Point(x, y).distance(hit)


def is_clear(
    x: float, y: float, heading: float, walls: BaseGeometry, margin: float, ahead: float
) -> bool:
    """Whether a camera may stand here: off every wall by `margin` and not facing one closely."""
    if walls.distance(Point(x, y)) < margin:
        return False
    return all(free_distance(x, y, heading + a, walls, ahead) >= ahead for a in (-15.0, 0.0, 15.0))


def reference_poses(
    stands: Sequence[Stand], walls: BaseGeometry, blocked: BaseGeometry, seed: int
) -> list[Pose]:
    """Two to four views from each stand: along the street both ways, and across it."""
    poses = []
    for i, s in enumerate(stands):
        rng = np.random.default_rng([seed, i, 1])
        dx, dy = direction_of(s.along + 90.0)
        shift = float(rng.uniform(-1.5, 1.5))
        x, y = s.x + dx * shift, s.y + dy * shift
        if blocked.contains(Point(x, y)) or walls.distance(Point(x, y)) < 1.5:
            continue
        side = 90.0 if i % 2 else -90.0
        wanted = [0.0, 180.0, side] if i % 4 else [0.0, 180.0]
        if i % 3 == 0 and free_distance(x, y, s.along - side, walls, 60.0) > 22.0:
            wanted.append(-side)
        for turn in wanted:
            across = abs(turn) == 90.0
            heading = (s.along + turn + float(rng.uniform(-6, 6))) % 360.0
            room = free_distance(x, y, heading, walls, 60.0)
            if across and not 6.0 <= room < 60.0 or not is_clear(x, y, heading, walls, 1.5, 5.0):
                continue
            pitch = float(rng.uniform(1.0, 4.0)) + (3.0 if across else 0.0)
            height = float(rng.uniform(2.0, 2.4))
            poses.append(Pose(x, y, height, heading, pitch, 0.0, 75.0, s.street))
    return poses


def query_pose(
    base: Pose, walls: BaseGeometry, blocked: BaseGeometry, rng: np.random.Generator
) -> Pose | None:
    """A hand-held view of what `base` shows, from 1 to 8 m beside it; None if none is clear."""
    for _ in range(40):
        across = float(rng.uniform(1.0, 8.0)) * (1 if rng.random() < 0.5 else -1)
        along = float(rng.uniform(-6.0, 6.0))
        fx, fy = direction_of(base.heading)
        x, y = base.x + fx * along + fy * across, base.y + fy * along - fx * across
        heading = (base.heading + float(rng.uniform(-30.0, 30.0))) % 360.0
        if blocked.contains(Point(x, y)) or not is_clear(x, y, heading, walls, 1.2, 6.0):
            continue
        return Pose(
            x,
            y,
            float(rng.uniform(1.4, 1.85)),
            heading,
            float(rng.uniform(-1.0, 8.0)),
            float(rng.uniform(-2.5, 2.5)),
            float(rng.uniform(58.0, 84.0)),
            base.street,
        )
    return None


def same_place(a: Pose, b: Pose) -> bool:
    """Whether two views show the same place: near to each other and looking alike."""
    near = math.hypot(a.x - b.x, a.y - b.y) <= PLACE_RADIUS
    return near and heading_difference(a.heading, b.heading) <= PLACE_ANGLE
