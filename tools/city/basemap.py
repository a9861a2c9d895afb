"""Writes the light vector map: streets, water and building outlines as GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path

from shapely.geometry import LineString, Polygon

from .geo import to_wgs84
from .osm import load_city
from .streets import is_driven

ATTRIBUTION = "© OpenStreetMap contributors, ODbL 1.0 (https://www.openstreetmap.org/copyright)"


def _ring(coords: object) -> list[list[float]]:
    out = []
    for x, y, *_ in coords:  # type: ignore[attr-defined]
        lat, lon = to_wgs84(x, y)
        out.append([round(lon, 6), round(lat, 6)])
    return out


def _feature(kind: str, name: str, geometry: dict[str, object]) -> dict[str, object]:
    properties = {"kind": kind, "name": name} if name else {"kind": kind}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def _area(kind: str, name: str, shape: Polygon) -> dict[str, object]:
    rings = [_ring(shape.exterior.coords), *[_ring(r.coords) for r in shape.interiors]]
    return _feature(kind, name, {"type": "Polygon", "coordinates": rings})


def write_basemap(path: Path) -> None:
    """Writes the whole extract's map; under 400 kB."""
    city = load_city()
    features = []
    for kind, shapes in (("water", city.water), ("green", city.green)):
        for shape in shapes:
            simple = shape.simplify(1.0)
            if simple.area > 60 and isinstance(simple, Polygon):
                features.append(_area(kind, "", simple))
    for b in city.buildings:
        simple = b.footprint.simplify(0.5)
        if simple.area > 25 and isinstance(simple, Polygon):
            features.append(_area("building", b.tags.get("name", ""), simple))
    for s in city.streets:
        if s.name or is_driven(s):
            line = s.line.simplify(0.5)
            if isinstance(line, LineString):
                geometry = {"type": "LineString", "coordinates": _ring(line.coords)}
                features.append(_feature("street", s.name, geometry))
    collection = {"type": "FeatureCollection", "attribution": ATTRIBUTION, "features": features}
    path.write_text(json.dumps(collection, ensure_ascii=False, separators=(",", ":")), "utf-8")
