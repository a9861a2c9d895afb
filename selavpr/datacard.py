"""The page of a published index: what it holds, where, by whom, and how to open it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from selavpr.index import PlaceIndex
from selavpr.structs import Place
from selavpr.text import cell
from selavpr.weights import DEFAULT_MODEL

CARD, MAP = "README.md", "map.png"
MAP_SIDE = 720
DOTS = 20_000

_LICENSES = {
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc0-1.0": "cc0-1.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "odbl": "odbl",
    "odbl-1.0": "odbl",
    "mit": "mit",
    "etalab-2.0": "etalab-2.0",
}
"""Names of licences as the Hub has them."""


def card(index: PlaceIndex, repo: str) -> str:
    """The README of a data-set repository.

    Args:
        index: what is published.
        repo: where, ``"org/name"``.
    """
    about = index.manifest
    south, _, north, _ = about.bounds
    places = index.places
    longitudes = _longitudes(places)
    west, east = min(longitudes), max(longitudes)
    plain = about.license.strip().lower().replace(" ", "-")
    known = _LICENSES.get(plain)
    front = {"pretty_name": about.title or about.name}
    front |= {"license": known} if known else {"license": "other"}
    if not known and about.license:
        front["license_name"] = about.license
    lines = [f"{name}: {_quoted(value)}" for name, value in front.items()]
    lines += ["viewer: false", "tags:"]
    lines += [f"- {tag}" for tag in ("selavpr", "visual-place-recognition", "geolocation")]
    lines += ["size_categories:", f"- {_category(len(index))}"]
    middle = f"{(south + north) / 2:.5f}/{_wrapped((west + east) / 2):.5f}"
    size = sum(index.sizes().values()) / 1e6
    bounds = f"{south:.5f}, {_wrapped(west):.5f} to {north:.5f}, {_wrapped(east):.5f} "
    bounds += f"([map](https://www.openstreetmap.org/#map=14/{middle}))"
    licences = sorted({place.licence for place in places if place.licence})
    rows = [
        ("photos", f"{len(index):,}"),
        ("bounds", bounds),
        ("model", f"`{about.model}` ({about.fingerprint[:19]})"),
        ("local features", f"{about.local}, {index.codec.rank}"),
        ("size", f"{size:,.1f} MB"),
        ("licence", about.license or ", ".join(licences) or "not stated"),
        ("attribution", about.attribution or "see the column credit of places.csv"),
        ("calibrated", "yes" if about.calibration else "no"),
        ("built", about.created or "unknown"),
    ]
    model = "" if about.model == DEFAULT_MODEL else " --model MODEL"
    table = "\n".join(f"| {name} | {cell(value)} |" for name, value in rows)
    return (
        "---\n" + "\n".join(lines) + "\n---\n\n"
        f"# {about.title or about.name}\n\n"
        "Reference photos of a place and their features, to find where a photo was taken with "
        "SelaVPR Place Finder.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        f"![Where the photos were taken]({MAP})\n\n"
        "```bash\n"
        f"python -m selavpr locate PHOTO.jpg --index {repo}{model}\n"
        "```\n\n"
        f"{'MODEL is a folder or Hub repository with the weights named above. ' if model else ''}"
        "Opening it fetches the tables and the global index; photos and local features follow "
        f"when a query needs them. `{repo}@COMMIT` stays with one version. Authors and licences "
        "of single photos are in places.csv.\n"
    )


def map_picture(places: list[Place]) -> bytes:
    """Where the photos were taken, as a PNG: dots, north up, with a scale."""
    lat = [place.location.latitude for place in places]
    lon = _longitudes(places)
    squeeze = max(math.cos(math.radians(sum(lat) / len(lat))), 0.01)
    # At least 200 m wide, so that one street is no cloud of dots.
    span = max((max(lon) - min(lon)) * squeeze, max(lat) - min(lat), 0.002)
    scale = (MAP_SIDE - 80) / span
    middle = ((max(lon) + min(lon)) / 2, (max(lat) + min(lat)) / 2)
    picture = Image.new("RGB", (MAP_SIDE, MAP_SIDE), (247, 247, 244))
    draw = ImageDraw.Draw(picture)
    step = max(1, len(places) // DOTS)
    for x, y in zip(lon[::step], lat[::step], strict=True):
        at = (
            MAP_SIDE / 2 + (x - middle[0]) * squeeze * scale,
            MAP_SIDE / 2 - (y - middle[1]) * scale,
        )
        draw.ellipse((at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2), fill=(53, 82, 160))
    metres = span * 111_195 / 4
    length = 10 ** math.floor(math.log10(metres))
    length *= max(n for n in (1, 2, 5) if n * length <= metres)
    pixels = length / 111_195 * scale
    draw.line((30, MAP_SIDE - 30, 30 + pixels, MAP_SIDE - 30), fill=(40, 40, 40), width=3)
    text = f"{length:g} m" if length < 1000 else f"{length / 1000:g} km"
    draw.text((30, MAP_SIDE - 26), text, fill=(40, 40, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _longitudes(places: Sequence[Place]) -> list[float]:
    """Counted on across the 180th meridian, from the first place: neighbours stay neighbours."""
    first = places[0].location.longitude
    turns = (math.remainder(place.location.longitude - first, 360) for place in places)
    return [first + turn for turn in turns]


def _wrapped(longitude: float) -> float:
    return math.remainder(longitude, 360)


def _category(count: int) -> str:
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M")):
        if count < limit:
            return name
    return "1M<n<10M" if count < 1e7 else "n>10M"


def _quoted(text: str) -> str:
    """A text for YAML, which refuses many signs that JSON leaves as they are."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
