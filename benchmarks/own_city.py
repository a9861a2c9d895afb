"""A folder of real photos becomes an index with one command, and the app finds ten held out.

    python -m benchmarks.own_city --photos FOLDER --out DIR
    python -m benchmarks.own_city --photos FOLDER --out DIR --screenshots
    python -m benchmarks.own_city --photos bgu_campus --out DIR --where condition=day

FOLDER is whatever ``index build`` reads places from: a table, EXIF data, a benchmark's names. Ten
photos are held out by seed, each with another one within 25 m left, or nothing could find it. The
others are copied to DIR/reference, ``python -m selavpr index build`` makes DIR/index of them, and
app.py on this machine is asked for the ten. ``--screenshots`` uploads each in chromium as well.
Given again, the same command goes on with a build that was stopped.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradio_client import Client
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from benchmarks.load import ask
from selavpr import gather
from selavpr.cli_source import conditions
from selavpr.errors import SelaVPRError
from selavpr.exif import read_position
from selavpr.geo import Location
from selavpr.images import FORMATS
from selavpr.metrics import RIGHT_M
from selavpr.placetable import write_places
from selavpr.sources import SourcePhoto
from tools.processes import ROOT, app


def hold_out(
    places: Sequence[Location], count: int, seed: int, reach_m: float = RIGHT_M
) -> tuple[list[int], int]:
    """Draw photos to hold out, each with another within reach that is not held out.

    Looks at every pair, which is quick for some thousands of photos.

    Args:
        places: where the photos were taken.
        count: photos wanted; fewer come back where more would leave one of them alone.
        seed: the same draws the same.
        reach_m: how near the other photo must be.

    Returns:
        The rows held out, in the order they were drawn, and how many photos had another in reach.
    """
    near = [
        {j for j, other in enumerate(places) if j != i and place.distance_m(other) <= reach_m}
        for i, place in enumerate(places)
    ]
    eligible = [i for i, others in enumerate(near) if others]
    held: list[int] = []
    for i in random.Random(seed).sample(eligible, len(eligible)):
        if len(held) < count and all(near[k] - {*held, i} for k in (*held, i)):
            held.append(i)
    return held, len(eligible)


def with_position(photo: Path, location: Location, copy: Path) -> None:
    """Copy a photo as a phone would have written it: its place in its EXIF data.

    The app compares with that after its answer. Pixels stay as they are; a photo that has a
    position of its own, or is no JPEG, is copied unchanged.
    """
    with Image.open(photo, formats=FORMATS) as image:
        jpeg, turned = image.format == "JPEG", image.getexif().get(Base.Orientation, 1)
    if not jpeg or read_position(photo) is not None:
        shutil.copy2(photo, copy)
        return
    lat, lon = location.latitude, location.longitude
    tags = Image.Exif()
    tags[Base.Orientation] = turned
    tags[IFD.GPSInfo] = {
        GPS.GPSLatitudeRef: "N" if lat >= 0 else "S",
        GPS.GPSLatitude: (abs(lat), 0.0, 0.0),
        GPS.GPSLongitudeRef: "E" if lon >= 0 else "W",
        GPS.GPSLongitude: (abs(lon), 0.0, 0.0),
    }
    block, data = tags.tobytes(), photo.read_bytes()
    length = (len(block) + 2).to_bytes(2, "big")
    # The first segment of the file is the one that is read.
    copy.write_bytes(data[:2] + b"\xff\xe1" + length + block + data[2:])


def prepare(photos: Sequence[SourcePhoto], held: Sequence[int], out: Path) -> dict[Path, Location]:
    """Copy the photos to index to ``out/reference``, those held out to ``out/held-out``.

    Returns:
        The copies of the photos held out, with where they were taken.

    Raises:
        SystemExit: the folder holds photos that were divided otherwise.
    """
    reference, asked = out / "reference", out / "held-out"
    asked.mkdir(parents=True, exist_ok=True)
    reference.mkdir(exist_ok=True)
    names = [Path(photo.place.image).with_suffix(photo.path.suffix) for photo in photos]
    truths = {asked / "-".join(names[i].parts[1:]): photos[i].place.location for i in held}
    kept = [i for i in range(len(photos)) if i not in set(held)]
    there = {path for folder in (reference, asked) for path in folder.rglob("*") if path.is_file()}
    tables = {reference / name for name in ("places.csv", "rows.npy")}
    if there - tables - {reference / names[i] for i in kept} - set(truths):
        raise SystemExit(f"{out} holds photos divided otherwise; choose another folder.")
    for i in kept:
        (reference / names[i]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(photos[i].path, reference / names[i])  # with its date, or builds begin anew
    write_places(reference, [replace(photos[i].place, image=names[i].as_posix()) for i in kept])
    for i, (copy, truth) in zip(held, truths.items(), strict=True):
        with_position(photos[i].path, truth, copy)
    return truths


def build(reference: Path, index: Path, title: str) -> float:
    """Build the index with the one command; seconds it took."""
    command = ["-m", "selavpr", "index", "build", str(index), "--from", str(reference)]
    command += ["--title", title, "--resume"]
    print(f"\npython {shlex.join(command)}", flush=True)
    start = time.monotonic()
    if subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
        raise SystemExit("The index was not built; it says why above.")
    return time.monotonic() - start


def errors_m(answer: dict[str, Any], truth: Location) -> tuple[float, float, float]:
    """Metres from the truth: the first stage's answer, the best re-ranked photo, the fused one."""
    found = (answer["global_location"], answer["candidates"][0], answer["location"])
    first, best, fused = (Location(at["lat"], at["lon"]).distance_m(truth) for at in found)
    return first, best, fused


def report(
    truths: dict[Path, Location], answers: Sequence[dict[str, Any]], indexed: Sequence[Location]
) -> None:
    """Print the answers, one a line, and how many are right."""
    print(f"\n{'photo':32} {'nearest':>8} {'global':>8} {'re-ranked':>9} {'fused':>8}  verdict")
    errors = []
    for (photo, truth), answer in zip(truths.items(), answers, strict=True):
        errors.append(errors_m(answer, truth))
        nearest = min(truth.distance_m(place) for place in indexed)
        metres = "{:6.0f} m {:6.0f} m {:7.0f} m {:6.0f} m".format(nearest, *errors[-1])
        print(f"{photo.name:32} {metres}  {answer['verdict']}")
    columns = zip(*errors, strict=True)
    for name, column in zip(("global", "re-ranked", "fused"), columns, strict=True):
        right = sum(error <= RIGHT_M for error in column)
        middle = statistics.median(column)
        print(f"{name:10} {right} of {len(column)} within {RIGHT_M:g} m, median {middle:.0f} m")
    chance = statistics.mean(
        truth.distance_m(place) <= RIGHT_M for truth in truths.values() for place in indexed
    )
    print(f"a photo of the index drawn at random would be right for {chance:.0%}")


def picture_all(address: str, photos: Sequence[Path], out: Path) -> None:
    """Upload each photo in a browser, wait for the answer, and save the whole page as PNG."""
    # Not needed to ask, and not installed with the app.
    from playwright.sync_api import sync_playwright

    from tools.screenshots import CHROMIUM, OPTIONS, explained, opened, picture

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        for photo in photos:
            with opened(browser, address) as page:
                page.get_by_role("button", name="Options").click()
                page.get_by_label("Compare with the photo").check()
                page.locator('#sv-photo input[type="file"]').first.set_input_files(photo)
                page.locator("#sv-photo img").first.wait_for()
                page.locator("#sv-locate").click()
                explained(page)
                page.evaluate("scrollTo({top: 0})")
                picture(page)  # at rest
                page.screenshot(path=out / f"{photo.stem}.png", full_page=True)
                print(out / f"{photo.stem}.png", flush=True)
        browser.close()


def main() -> int:
    """Divide, build, ask, report."""
    parser = argparse.ArgumentParser(description="An index of real photos, and some held out.")
    parser.add_argument("--photos", type=Path, required=True, help="folder with known places")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything written")
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="take only rows of the table with this value; may be repeated",
    )  # fmt: skip
    parser.add_argument("--hold-out", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--screenshots", action="store_true", help="one for each photo held out")
    args = parser.parse_args()
    out = args.out.resolve()
    try:
        kind = gather.kind_of(str(args.photos))
        options = gather.Options(where=conditions(args.where))
        found = gather.gather(str(args.photos), kind, options, out / "work", dry=True)
    except SelaVPRError as error:
        raise SystemExit(str(error)) from error
    if found.panoramas:
        raise SystemExit("Panoramas are no photos to hold out; cut them first.")
    places = [photo.place.location for photo in found.photos]
    held, eligible = hold_out(places, args.hold_out, args.seed)
    print(f"{args.photos}: {len(places)} photos with places ({kind}). {' '.join(found.notes)}")
    print(f"{eligible} have another within {RIGHT_M:g} m; {len(held)} are held out")
    if not held or len(held) < args.hold_out:
        raise SystemExit(f"That is fewer than --hold-out {args.hold_out}.")
    truths = prepare(found.photos, held, out)
    seconds = build(out / "reference", out / "index", args.photos.resolve().name)
    print(f"built in {seconds:.0f} s")
    os.environ["SELAVPR_INDEX"] = str(out / "index")
    with app() as running:
        print(running.serves, flush=True)
        client = Client(running.address, verbose=False)
        answers = [ask(client, photo) for photo in truths]
        client.close()
        report(truths, answers, [place for i, place in enumerate(places) if i not in held])
        if args.screenshots:
            picture_all(running.address, list(truths), out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
