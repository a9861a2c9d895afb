"""Mapillary: street photos under CC BY-SA 4.0, for those who have a token.

The server searches areas of at most 0.01 square degrees and gives at most 2,000 photos; where there
are more, or where it says that an area is too much for it, the area is divided. Addresses of photos
are valid for some days only, which is why they are asked for again by each build.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import Any

from selavpr.download import Fetcher
from selavpr.errors import DownloadError, OptionError
from selavpr.offers import Area, Offer, read_heading, read_place, read_text, search

SERVER = "https://graph.mapillary.com"
"""``MAPILLARY_URL`` names another, for tests and mirrors."""

LICENCE = "CC-BY-SA-4.0"
LIMIT = 2000
TILE_DEG = 0.05
"""Side of the areas asked for: a quarter of the 0.01 square degrees that are allowed."""

MARGIN_DEG = 0.0005
"""By so much, some 50 metres, areas are widened for the server, which searches by the position a
phone gave. Photos count by the one that was computed from their pictures."""

FIELDS = (
    "id,thumb_2048_url,computed_geometry,geometry,computed_compass_angle,compass_angle,"
    "captured_at,is_pano,camera_type,creator"
)
_TURNS = ("spherical", "equirectangular")
_TOO_MUCH = (500, 503, 504)
_IN_A_ROW = 3  # areas refused as too much before the server is taken to be down


def address() -> str:
    """The server to ask."""
    return (os.environ.get("MAPILLARY_URL") or SERVER).rstrip("/")


def secret() -> dict[str, str]:
    """The header that carries the token of ``MAPILLARY_TOKEN``.

    Raises:
        OptionError: there is no token.
    """
    token = os.environ.get("MAPILLARY_TOKEN", "").strip()
    if not token:
        raise OptionError(
            "Mapillary needs a token: make one at https://www.mapillary.com/dashboard/developers "
            "and set MAPILLARY_TOKEN to it."
        )
    if not token.isascii() or not token.isprintable():
        raise OptionError("MAPILLARY_TOKEN holds characters that no token has.")
    return {"Authorization": f"OAuth {token}"}


def find(area: Area, fetcher: Fetcher, home: str, problems: list[str]) -> Iterator[list[Offer]]:
    """Search an area; arguments and results as ``panoramax.find``.

    Raises:
        DownloadError: the server cannot be asked, refuses the token, or answers nonsense.
    """
    refused = 0

    def ask(part: Area) -> tuple[list[Offer], bool]:
        nonlocal refused
        params = {"bbox": str(part), "fields": FIELDS, "limit": str(LIMIT)}
        try:
            page = fetcher.json(f"{home}/images", params)
        except DownloadError as error:
            if error.status in (400, 401, 403):
                raise DownloadError(
                    "Mapillary does not accept the token, it seems; check MAPILLARY_TOKEN "
                    f"(the server answers {error.status}).",
                    error.status,
                ) from error
            refused += 1
            if error.status in _TOO_MUCH and refused <= _IN_A_ROW:
                return [], True  # this is how it says that an area holds too much
            raise
        refused = 0
        items = page.get("data") if isinstance(page, dict) else None
        if not isinstance(items, list):
            raise DownloadError(f"{home} does not answer as Mapillary does.")
        found = []
        for item in items:
            offer, why = read_item(item)
            if offer is not None and offer.location in area:
                found.append(offer)
            elif why:
                problems.append(why)
        return found, len(items) >= LIMIT

    wider = Area(
        max(area.west - MARGIN_DEG, -180.0),
        max(area.south - MARGIN_DEG, -90.0),
        min(area.east + MARGIN_DEG, 180.0),
        min(area.north + MARGIN_DEG, 90.0),
    )
    yield from search(wider.tiles(TILE_DEG), ask)


def read_item(item: Any) -> tuple[Offer | None, str]:
    """A photo of an answer, or a sentence that says why it cannot be used."""
    item = item if isinstance(item, dict) else {}
    photo_id = item.get("id")
    if not isinstance(photo_id, str) or not photo_id.isalnum():
        return None, "An item of the search has no id."
    name = f"Mapillary photo {photo_id[:50]}"
    url = item.get("thumb_2048_url")
    if not isinstance(url, str):
        return None, f"{name} names no file that can be downloaded."
    location = read_place(item.get("computed_geometry")) or read_place(item.get("geometry"))
    if location is None:
        return None, f"{name} has no valid position."
    heading = read_heading(item.get("computed_compass_angle"))
    if heading is None:
        heading = read_heading(item.get("compass_angle"))
    creator = item.get("creator")
    return (
        Offer(
            "mapillary",
            photo_id,
            url,
            location,
            heading,
            panorama=item.get("is_pano") is True or item.get("camera_type") in _TURNS,
            captured_at=_time(item.get("captured_at")),
            credit=read_text(creator.get("username") if isinstance(creator, dict) else None),
            licence=LICENCE,
            page=f"https://www.mapillary.com/app/?pKey={photo_id}",
        ),
        "",
    )


def _time(milliseconds: Any) -> str:
    try:
        when = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
    return when.isoformat(timespec="seconds")
