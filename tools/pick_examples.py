"""Make assets/examples: one query photo of each condition, and one from outside the index.

    python -m tools.pick_examples CITY_FOLDER

CITY_FOLDER is what tools/city renders: places.csv and the pictures it names. In each condition the
query is taken that lies in the middle of the list, so that the choice depends on nothing else.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "assets" / "examples"


def main() -> None:
    """Pick, copy, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("city", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with (args.city / "places.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] in ("query", "outside")]
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        title = (
            "Not in this city"
            if row["role"] == "outside"
            else row["condition"].replace("_", " ").capitalize()
        )
        groups.setdefault(title, []).append(row)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    with (args.out / "examples.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image", "title", "latitude", "longitude"))
        for title, members in groups.items():
            row = members[len(members) // 2]
            name = title.lower().replace(" ", "-") + ".jpg"
            shutil.copyfile(args.city / row["image"], args.out / name)
            table.writerow((name, title, row["latitude"], row["longitude"]))
    print(f"{args.out}: {len(groups)} examples")


if __name__ == "__main__":
    main()
