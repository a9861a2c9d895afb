"""Contact sheets, one per role and condition: ``python -m tools.city.contact OUT``."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
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
        lines = -(-len(chosen) // columns)
        sheet = Image.new("RGB", (columns * 240, lines * 180), (24, 24, 24))
        for i, name in enumerate(chosen):
            thumb = ImageOps.contain(Image.open(out / name), (236, 176))
            left = i % columns * 240 + (240 - thumb.width) // 2
            sheet.paste(thumb, (left, i // columns * 180 + 2))
        path = out / f"contact_{role}_{condition}.png"
        sheet.save(path)
        made.append(path)
    return made


if __name__ == "__main__":
    for sheet_path in write_sheets(Path(sys.argv[1])):
        print(sheet_path)
