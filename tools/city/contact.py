"""Contact sheets: ``python -m tools.city.contact OUT``.

One sheet per role and condition, and one that sets a query of every condition above a
reference photo of the same place.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageOps


def write_sheets(out: Path, per_sheet: int = 24, columns: int = 6) -> list[Path]:
    """Writes `contact_<role>_<condition>.png`, pictures spread evenly over the set."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    with (out / "places.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            groups[row["role"], row["condition"]].append(row["image"])
    made = []
    for (role, condition), images in sorted(groups.items()):
        step = max(len(images) / per_sheet, 1.0)
        chosen = [images[int(i * step)] for i in range(min(per_sheet, len(images)))]
        path = out / f"contact_{role}_{condition}.png"
        _sheet([out / name for name in chosen], columns).save(path)
        made.append(path)
    return made


def write_pairs(out: Path, each: int = 2) -> list[Path]:
    """Writes `contact_pairs.webp`: a column of queries and references for each condition.

    Nothing where there are no queries, as among training captures.

    Below each query stands the most alike reference photo of the same place; ``each`` pairs stand
    below one another.
    """
    with (out / "places.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    references = {Path(row["image"]).stem: row for row in rows if row["role"] == "reference"}
    queries: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        if row["role"] == "query" and row["place_ids"]:
            queries[row["condition"]].append(row)
    if not queries:
        return []
    lines: list[list[Path]] = [[] for _ in range(2 * each)]
    for asked in queries.values():
        for i in range(each):
            query = asked[len(asked) * i // each]
            shown = (references[name] for name in query["place_ids"].split(";"))
            alike = min(shown, key=lambda row: _apart(row, query))
            lines[2 * i].append(out / query["image"])
            lines[2 * i + 1].append(out / alike["image"])
    path = out / "contact_pairs.webp"
    _sheet([photo for line in lines for photo in line], len(queries)).save(path, quality=80)
    return [path]


def _apart(a: Mapping[str, str], b: Mapping[str, str]) -> float:
    """Metres between two cameras and degrees between their directions, added up."""
    north = float(a["latitude"]) - float(b["latitude"])
    east = float(a["longitude"]) - float(b["longitude"])
    metres = 111_320 * math.hypot(north, east * math.cos(math.radians(float(a["latitude"]))))
    return metres + abs((float(a["heading"]) - float(b["heading"]) + 180) % 360 - 180)


def _sheet(photos: Sequence[Path], columns: int) -> Image.Image:
    sheet = Image.new("RGB", (columns * 240, -(-len(photos) // columns) * 180), (24, 24, 24))
    for i, photo in enumerate(photos):
        with Image.open(photo) as picture:
            thumb = ImageOps.contain(picture, (236, 176))
        left = i % columns * 240 + (240 - thumb.width) // 2
        sheet.paste(thumb, (left, i // columns * 180 + 2))
    return sheet


if __name__ == "__main__":
    for sheet_path in (*write_sheets(Path(sys.argv[1])), *write_pairs(Path(sys.argv[1]))):
        print(sheet_path)
