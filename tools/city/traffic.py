"""Where cars, trams and people stand in one capture; a new draw for every capture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import LineString, Point
from shapely.strtree import STRtree

from .geo import direction_of
from .osm import City
from .props import CAR_KINDS
from .streets import KERB, Ground, is_driven

CAR_COLOURS = 8
PEOPLE = 16


@dataclass(frozen=True)
class Placed:
    """One thing: its kind (the name of a prop), position and yaw (radians, from east)."""

    kind: str
    x: float
    y: float
    z: float
    yaw: float


class Traffic:
    """Draws the movable things around a camera."""

    def __init__(self, city: City, ground: Ground) -> None:
        self.city = city
        self.driven = [s for s in city.streets if is_driven(s)]
        self.tree = STRtree([s.line for s in self.driven])
        self.tram_tree = STRtree(city.trams)
        self.crossings = np.array(city.crossings)
        self.pavement = ground.pavement.buffer(-0.35)
        shapely.prepare(self.pavement)
        self.tracks = shapely.union_all([t.buffer(2.0) for t in city.trams])
        self.road = ground.road
        shapely.prepare(self.tracks)
        shapely.prepare(self.road)
        self.walls = shapely.union_all([b.footprint for b in city.buildings]).buffer(1.3)
        shapely.prepare(self.walls)

    def draw(self, x: float, y: float, heading: float, crowd: float, seed: int) -> list[Placed]:
        """The things within view of a camera at (x, y), in local metres."""
        rng = np.random.default_rng([seed, 77])
        things = self._cars(x, y, crowd, rng)
        things += self._trams(x, y, crowd, rng)
        things += self._people(x, y, heading, crowd, rng)
        return things

    def _cars(self, x: float, y: float, crowd: float, rng: np.random.Generator) -> list[Placed]:
        things: list[Placed] = []
        spots: list[tuple[float, float]] = []
        for i in self.tree.query(Point(x, y).buffer(110), predicate="intersects"):
            s = self.driven[i]
            if s.line.length < 12:
                continue
            oneway = s.tags.get("oneway") == "yes"
            for side in (-1, 1):
                fill = (
                    rng.uniform(0.35, 0.9)
                    if s.kind in ("residential", "unclassified", "tertiary")
                    else 0.05
                )
                kerb = s.width / 2 - 1.15
                lane = s.width / 4 if s.width > 5.5 else 0.0
                for offset, share, gap in (
                    (kerb, fill, 6.3),
                    (min(lane, kerb - 2.2), 0.10 + 0.5 * crowd, 11.0),
                ):
                    if offset < 0.1:
                        continue
                    for at in np.arange(rng.uniform(5, 10), s.line.length - 5, gap):
                        if rng.random() > share:
                            continue
                        at += rng.uniform(-0.6, 0.6)
                        p, q = s.line.interpolate(at - 0.5), s.line.interpolate(at + 0.5)
                        yaw = math.atan2(q.y - p.y, q.x - p.x)
                        cx = p.x + math.sin(yaw) * offset * side
                        cy = p.y - math.cos(yaw) * offset * side
                        if math.hypot(cx - x, cy - y) < 5.0 or math.hypot(cx - x, cy - y) > 110:
                            continue
                        if any(
                            math.hypot(cx - a, cy - b) < 5.6
                            and abs((cx - a) * math.sin(yaw) - (cy - b) * math.cos(yaw)) < 2.1
                            for a, b in spots
                        ):
                            continue
                        parked = gap < 7
                        at_point = Point(cx, cy)
                        if parked and (
                            self.tracks.contains(at_point)
                            or len(self.crossings)
                            and np.min(np.hypot(*(self.crossings - (cx, cy)).T)) < 7
                        ):
                            continue
                        nose = LineString(
                            [
                                (cx - 2.3 * math.cos(yaw), cy - 2.3 * math.sin(yaw)),
                                (cx + 2.3 * math.cos(yaw), cy + 2.3 * math.sin(yaw)),
                            ]
                        )
                        if not self.road.contains(nose) or self.walls.intersects(nose):
                            continue
                        if side < 0 and not oneway:
                            yaw += math.pi
                        spots.append((cx, cy))
                        kind = str(rng.choice(CAR_KINDS, p=[0.24, 0.28, 0.24, 0.16, 0.08]))
                        shade = int(rng.integers(CAR_COLOURS))
                        things.append(Placed(f"car:{kind}:{shade}", cx, cy, 0.0, yaw))
        return things

    def _trams(self, x: float, y: float, crowd: float, rng: np.random.Generator) -> list[Placed]:
        near = self.tram_tree.query(Point(x, y).buffer(90), predicate="intersects")
        if len(near) == 0 or rng.random() > 0.25 + 0.3 * crowd:
            return []
        line = self.city.trams[int(rng.choice(near))]
        if line.length < 30:
            return []
        at = rng.uniform(14, max(line.length - 14, 15))
        p, a, b = line.interpolate(at), line.interpolate(at - 12), line.interpolate(at + 12)
        chord = LineString([(a.x, a.y), (b.x, b.y)])
        if (
            chord.distance(Point(x, y)) < 6
            or chord.distance(p) > 0.5
            or self.walls.intersects(chord)
        ):
            return []
        return [Placed("tram", p.x, p.y, 0.0, math.atan2(b.y - a.y, b.x - a.x))]

    def _people(
        self, x: float, y: float, heading: float, crowd: float, rng: np.random.Generator
    ) -> list[Placed]:
        things: list[Placed] = []
        fx, fy = direction_of(heading)
        count = int(10 + 50 * crowd)
        for _ in range(count * 4):
            if len(things) >= count:
                break
            r = rng.uniform(4, 60) if crowd < 0.8 else 2.4 + 40 * rng.random() ** 1.7
            turn = rng.normal(0, 0.55)
            px = x + r * (fx * math.cos(turn) + fy * math.sin(turn))
            py = y + r * (fy * math.cos(turn) - fx * math.sin(turn))
            inside = self.pavement.contains(Point(px, py))
            on_road = (
                not inside
                and crowd > 0.8
                and rng.random() < 0.3
                and self.road.contains(Point(px, py))
            )
            if not (inside or on_road):
                continue
            kind = f"person:{int(rng.integers(PEOPLE))}"
            things.append(Placed(kind, px, py, KERB if inside else 0.0, rng.uniform(0, 6.283)))
            if rng.random() < 0.25:
                other = f"person:{int(rng.integers(PEOPLE))}"
                yaw = things[-1].yaw
                ox, oy = px - math.sin(yaw) * 0.55, py + math.cos(yaw) * 0.55
                if self.pavement.contains(Point(ox, oy)):
                    things.append(Placed(other, ox, oy, KERB, yaw))
        return things
