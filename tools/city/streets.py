"""The ground: carriageways, kerbs, pavements, markings, tram tracks, wires, parks and water."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union
from shapely.strtree import STRtree

from .meshes import MeshBuilder
from .osm import City, Street

KERB = 0.12
TOWN_SEED = 2025
TRACK_GAUGE = 1.0  # Helsinki's trams run on metre gauge
WIRE_HEIGHT = 5.7
_ROAD = (0.075, 0.075, 0.08)
_PAVE = (0.24, 0.235, 0.23)
_KERB = (0.33, 0.32, 0.31)
_PAINT = (0.72, 0.72, 0.70)
_STEEL = (0.30, 0.30, 0.32)


@dataclass(frozen=True)
class Ground:
    """The areas that others must know: where cars drive, where people walk, what is built."""

    road: BaseGeometry
    pavement: BaseGeometry
    built: BaseGeometry
    water: BaseGeometry
    green: BaseGeometry


def is_driven(street: Street) -> bool:
    """Whether cars use the street, so that it has kerbs and markings."""
    return street.kind not in ("pedestrian", "service")


def make_ground(city: City) -> Ground:
    """Derives the ground areas from the OSM lines."""
    built = unary_union([b.footprint for b in city.buildings])
    box = shapely.box(*city.bounds).buffer(150)
    water = unary_union(city.water)
    road = unary_union(
        [s.line.buffer(s.width / 2, cap_style="flat") for s in city.streets if is_driven(s)]
    )
    # Closing and opening rounds the corners of crossings as kerbs are rounded.
    road = road.buffer(4.0).buffer(-6.5).buffer(2.5)
    lanes = unary_union([s.line.buffer(1.9) for s in city.streets if s.kind == "service"])
    tram_beds = unary_union([t.buffer(1.5) for t in city.trams])
    road = unary_union([road, lanes, tram_beds]).difference(built.buffer(1.6))
    road = road.simplify(0.05)
    green = unary_union(city.green).difference(road.buffer(0.4)).difference(built)
    paths = unary_union([f.buffer(1.3) for f in city.footways])
    green = green.difference(paths).difference(water)
    pavement = box.difference(road).difference(built.buffer(-0.3)).difference(water)
    pavement = pavement.difference(green)
    bridges = [s for s in city.streets if s.tags.get("bridge", "no") != "no" and is_driven(s)]
    decks = unary_union([s.line.buffer(s.width / 2 + 3.0, cap_style="flat") for s in bridges])
    pavement = pavement.union(decks.intersection(water).difference(road))
    for shape in (road, pavement, built):
        shapely.prepare(shape)
    return Ground(road, pavement, built, water, green)


def park_trees(city: City, ground: Ground, seed: int) -> list[tuple[float, float]]:
    """OSM's trees, and drawn ones where a park beside a street has none mapped.

    They depend on the seed alone, not on the facades, so that poses may keep clear of them.
    """
    rng = np.random.default_rng([seed, 21])
    spots = list(city.trees)
    lines = STRtree([s.line for s in city.streets])
    for piece in getattr(ground.green, "geoms", [ground.green]):
        if piece.area < 900:
            continue
        inner = piece.buffer(-2.5)
        shapely.prepare(inner)
        x0, y0, x1, y1 = piece.bounds
        for _ in range(int((x1 - x0) * (y1 - y0) / 90)):
            at = Point(rng.uniform(x0, x1), rng.uniform(y0, y1))
            near_street = len(lines.query(at.buffer(45), predicate="intersects")) > 0
            if not near_street or not inner.contains(at):
                continue
            if all(math.hypot(at.x - a, at.y - b) > 10.5 for a, b in spots):
                spots.append((at.x, at.y))
    return spots


def _ribbon(
    mesh: MeshBuilder, material: str, line: LineString, half: float, z: float, tint: object
) -> None:
    shape = line.buffer(half, cap_style="flat", join_style="mitre")
    mesh.add_polygon(material, shape, z, tint)


def _marking_lines(mesh: MeshBuilder, city: City, ground: Ground) -> None:
    rails = unary_union([t.buffer(1.3) for t in city.trams])
    crossings = unary_union([Point(c).buffer(7) for c in city.crossings])
    for shape in (rails, crossings):
        shapely.prepare(shape)
    for s in city.streets:
        if not is_driven(s) or s.kind == "residential" or s.line.length < 12:
            continue
        oneway = s.tags.get("oneway") == "yes"
        lanes = max(int(round(s.width / 3.2)), 1)
        offsets = [(k - lanes / 2) * s.width / lanes for k in range(1, lanes)]
        for off in offsets:
            solid = not oneway and lanes >= 4 and abs(off) < 0.1
            path = s.line if abs(off) < 0.05 else s.line.offset_curve(off)
            if path.is_empty or not isinstance(path, LineString):
                continue
            step, dash = (4.0, 3.9) if solid else (6.0, 2.2)
            at = 4.0
            while at + dash < path.length - 4.0:
                piece = shapely.ops.substring(path, at, at + dash)
                at += step
                if isinstance(piece, LineString) and not piece.intersects(crossings):
                    if not piece.intersects(rails) and ground.road.contains(piece):
                        _ribbon(mesh, "marking", piece, 0.06, 0.006, _PAINT)


def _zebras(mesh: MeshBuilder, city: City, ground: Ground) -> None:
    driven = [s for s in city.streets if is_driven(s)]
    tree = STRtree([s.line for s in driven])
    done: list[tuple[float, float]] = []
    for x, y in city.crossings:
        if any(math.hypot(x - a, y - b) < 3.0 for a, b in done):
            continue
        s = driven[int(tree.nearest(Point(x, y)))]
        if s.line.distance(Point(x, y)) > 1.5:
            continue
        done.append((x, y))
        at = s.line.project(Point(x, y))
        p, q = s.line.interpolate(max(at - 1, 0)), s.line.interpolate(at + 1)
        yaw = math.atan2(q.y - p.y, q.x - p.x)
        n = int(s.width // 1.0)
        off = (np.arange(n) - (n - 1) / 2) * 1.0
        for o in off:
            cx, cy = x - math.sin(yaw) * o, y + math.cos(yaw) * o
            if not ground.road.contains(Point(cx, cy)):
                continue
            c, sn = math.cos(yaw), math.sin(yaw)
            quad = np.array([[-1.5, -0.25], [1.5, -0.25], [1.5, 0.25], [-1.5, 0.25]])
            xy = quad @ np.array([[c, sn], [-sn, c]]) + (cx, cy)
            pts = np.concatenate([xy, np.full((4, 1), 0.007)], 1)[None]
            mesh.add("marking", pts, xy[None], _PAINT)


def _trams(mesh: MeshBuilder, city: City, ground: Ground) -> None:
    beds = unary_union([t.buffer(1.25, cap_style="flat") for t in city.trams])
    mesh.add_polygon("setts", beds.intersection(ground.road), 0.004, (0.20, 0.19, 0.185))
    for line in city.trams:
        for off in (-TRACK_GAUGE / 2, TRACK_GAUGE / 2):
            rail = line.offset_curve(off)
            if isinstance(rail, LineString) and not rail.is_empty:
                _ribbon(mesh, "steel", rail, 0.035, 0.012, _STEEL)
                groove = line.offset_curve(off * 0.88)
                if isinstance(groove, LineString) and not groove.is_empty:
                    _ribbon(mesh, "paint", groove, 0.022, 0.011, (0.02, 0.02, 0.02))
        wire(mesh, np.asarray(line.coords)[:, :2], WIRE_HEIGHT)


def wire(mesh: MeshBuilder, xy: np.ndarray, z: float | np.ndarray, half: float = 0.009) -> None:
    """A thin cable along a path `[N,2]`: two crossed strips, so that every view sees it."""
    z = np.broadcast_to(np.asarray(z, float), (len(xy),))
    pts = np.concatenate([xy, z[:, None]], 1)
    a, b = pts[:-1], pts[1:]
    t = b - a
    n = np.stack([-t[:, 1], t[:, 0], np.zeros(len(t))], 1)
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6)
    for side in (n * half, np.broadcast_to([0, 0, half], n.shape)):
        quads = np.stack([a - side, b - side, b + side, a + side], 1)
        mesh.add("paint", quads, np.zeros((len(a), 4, 2)), (0.03, 0.03, 0.03))


def _span_wires(mesh: MeshBuilder, city: City, ground: Ground) -> None:
    """Wires from facade to facade that carry the contact wire, every 28 m or so."""
    walls = ground.built.boundary
    for line in city.trams:
        for at in np.arange(6.0, line.length, 28.0):
            p, q = line.interpolate(at), line.interpolate(min(at + 0.5, line.length))
            dx, dy = q.x - p.x, q.y - p.y
            norm = math.hypot(dx, dy)
            if norm < 1e-3:
                continue
            nx, ny = -dy / norm, dx / norm
            ends = []
            for sign in (1, -1):
                ray = LineString([(p.x, p.y), (p.x + sign * nx * 22, p.y + sign * ny * 22)])
                hit = ray.intersection(walls)
                if not hit.is_empty:
                    ends.append(ray.project(shapely.ops.nearest_points(Point(p), hit)[1]) * sign)
            if len(ends) == 2:
                t = np.linspace(ends[1], ends[0], 9)
                xy = np.stack([p.x + nx * t, p.y + ny * t], 1)
                sag = WIRE_HEIGHT + 0.25 + 1.6 * (t / max(abs(ends[0]), abs(ends[1]))) ** 2
                wire(mesh, xy, sag, 0.007)


def build_ground(mesh: MeshBuilder, city: City, ground: Ground) -> None:
    """Adds everything flat, and the wires above it."""
    mesh.add_polygon("asphalt", ground.road, 0.0, _ROAD)
    mesh.add_polygon("slabs", ground.pavement, KERB, _PAVE)
    kerb = ground.road.buffer(0.16, join_style="mitre").difference(ground.road)
    kerb = kerb.difference(ground.built).difference(ground.water)
    mesh.add_polygon("ashlar", kerb, KERB + 0.004, _KERB)
    for piece in getattr(kerb, "geoms", [kerb]):
        if isinstance(piece, Polygon):
            mesh.add_skirt("ashlar", piece, -0.02, KERB + 0.004, _KERB)
    mesh.add_polygon("grass", ground.green, KERB + 0.03, (0.075, 0.13, 0.035))
    mesh.add_skirt("grass", ground.green, 0.0, KERB + 0.03, (0.075, 0.13, 0.035))
    mesh.add_polygon("water", ground.water, -1.2, (0.02, 0.035, 0.04))
    land = ground.pavement.union(ground.road).buffer(0.01)
    mesh.add_skirt("ashlar", land.difference(ground.built.buffer(0.5)), -1.5, KERB, _KERB)
    _marking_lines(mesh, city, ground)
    _zebras(mesh, city, ground)
    _trams(mesh, city, ground)
    _span_wires(mesh, city, ground)
