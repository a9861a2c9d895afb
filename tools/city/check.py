"""Checks a finished build against the OSM geometry: ``python -m tools.city.check OUT``."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry import Point

from .geo import to_local
from .osm import load_city
from .plan import Capture, calibration, everything, sample
from .zones import split_of, zone_of

PIN_TOLERANCE = 1.0  # metres


def check_rows(rows: list[dict[str, str]], captures: dict[str, Capture]) -> list[str]:
    """All that is wrong with a table; an empty list when it is right.

    Args:
        rows: The lines of places.csv.
        captures: The planned captures by image path, whose poses were handed to the renderer.
    """
    problems: list[str] = []
    walls = shapely.union_all([b.footprint for b in load_city().buildings])
    shapely.prepare(walls)
    spots = [to_local(float(r["latitude"]), float(r["longitude"])) for r in rows]
    refs = np.array([s for s, r in zip(spots, rows, strict=True) if r["role"] == "reference"])
    names = {Path(r["image"]).stem for r in rows}
    for (x, y), row in zip(spots, rows, strict=True):
        image, role = row["image"], row["role"]
        if walls.contains(Point(x, y)):
            problems.append(f"{image}: camera inside a building")
        planned = captures.get(image)
        if planned is None:
            problems.append(f"{image}: not in the plan")
        elif math.hypot(planned.pose.x - x, planned.pose.y - y) > PIN_TOLERANCE:
            problems.append(f"{image}: pin off the rendered position")
        if role == "query" and len(refs) and np.min(np.hypot(*(refs - (x, y)).T)) < PIN_TOLERANCE:
            problems.append(f"{image}: query at a reference position")
        if row["split"] != split_of(x, y):
            problems.append(f"{image}: split {row['split']} is not that of its area")
        zone = {"reference": "index", "query": "index", "training": "train"}.get(role, role)
        if zone_of(x, y) != zone:
            problems.append(f"{image}: {role} outside its zone")
        links = [p for p in row["place_ids"].split(";") if p]
        # Queries of a table without references have none to link to.
        if role == "query" and len(refs) and not links:
            problems.append(f"{image}: no reference shows this place")
        if role in ("reference", "query"):
            problems += [f"{image}: unknown place {p}" for p in links if p not in names]
    return problems


def main() -> None:
    """Checks the build in the folder named on the command line."""
    out = Path(sys.argv[1])
    with (out / "places.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for captures in (everything, calibration, sample):
        plan = {c.image: c for c in captures()}
        if all(r["image"] in plan for r in rows):
            break
    problems = check_rows(rows, plan)
    problems += [f"{r['image']}: no picture" for r in rows if not (out / r["image"]).is_file()]
    if not rows:
        problems.append("places.csv names no picture")
    for problem in problems:
        print(problem)
    print(f"{len(rows)} captures, {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
