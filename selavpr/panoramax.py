"""Panoramax: open street photos of many providers behind one STAC search.

The search of a Panoramax server gives at most so many photos and, depending on its version, pages
or does not; see ``offers.search``. Its metadata are written by many hands, so that an item is taken
apart with distrust: one that lacks what we need is passed over and counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from selavpr.download import Fetcher
from selavpr.errors import DownloadError
from selavpr.offers import (
    Area,
    Offer,
    read_heading,
    read_number,
    read_place,
    read_text,
    search,
)

INSTANCE = "https://api.panoramax.xyz"
"""The federation's catalogue of all servers; ``PANORAMAX_URL`` names another."""

LIMIT = 500
PAGES = 1000

# What a Panoramax server may be set to, and what people upload under; all allow reuse.
OPEN_LICENCES = ("etalab-2.0", "cc-by-sa-4.0", "cc-by-4.0", "cc0-1.0", "odbl-1.0")

SIZES = ("sd", "hd", "thumb")
"""Files of a photo, the fittest first: ``sd`` is 2,048 pixels wide, ample for 640 kept."""


def address(chosen: str = "") -> str:
    """The server to ask: as chosen, else ``PANORAMAX_URL``, else the federation's."""
    return (chosen or os.environ.get("PANORAMAX_URL") or INSTANCE).rstrip("/")


def find(area: Area, fetcher: Fetcher, home: str, problems: list[str]) -> Iterator[list[Offer]]:
    """Search an area.

    Args:
        area: where.
        fetcher: asks.
        home: the server, as ``address`` gives it.
        problems: a sentence is added for each item that cannot be used.

    Yields:
        Photos as they are found, a list per answer.

    Raises:
        DownloadError: the server cannot be asked, or does not answer as Panoramax does.
    """

    def ask(part: Area) -> tuple[list[Offer], bool]:
        url: str | None = f"{home}/api/search"
        params: dict[str, str] | None = {"bbox": str(part), "limit": str(LIMIT)}
        found: list[Offer] = []
        for _ in range(PAGES):
            page = fetcher.json(url or "", params)
            items = page.get("features") if isinstance(page, dict) else None
            if not isinstance(items, list):
                raise DownloadError(f"{home} does not answer as a Panoramax server does.")
            for item in items:
                offer, why = read_item(item, home)
                if offer is not None and offer.location in area:
                    found.append(offer)
                elif why:
                    problems.append(why)
            url, params = _next(page, home), None
            if url is None or not items:
                return found, url is None and _is_cut_short(page, len(items))
        return found, True

    yield from search([area], ask)


def read_item(item: Any, home: str) -> tuple[Offer | None, str]:
    """A photo of an answer, or a sentence that says why it cannot be used."""
    photo_id = item.get("id") if isinstance(item, dict) else None
    if not isinstance(photo_id, str) or not photo_id:
        return None, "An item of the search has no id."
    name = f"Panoramax photo {read_text(photo_id)}"
    about = _table(item.get("properties"))
    url = _url(item.get("assets"), home)
    if url is None:
        return None, f"{name} names no file that can be downloaded."
    licence = read_text(about.get("license") or about.get("geovisio:license"))
    if licence.lower() not in OPEN_LICENCES:
        return None, f"{name} has no open licence that is known here: {licence or 'none'}."
    location = read_place(item.get("geometry"))
    if location is None:
        return None, f"{name} has no valid position."
    optics = _table(about.get("pers:interior_orientation"))
    return (
        Offer(
            "panoramax",
            photo_id,
            url,
            location,
            read_heading(about.get("view:azimuth")),
            panorama=read_number(optics.get("field_of_view")) == 360,
            captured_at=read_text(about.get("datetimetz")) or read_text(about.get("datetime")),
            credit=_producer(item, about),
            licence=licence,
            page=f"{home}/?pic={read_text(photo_id)}",
        ),
        "",
    )


def _is_cut_short(page: dict[str, Any], count: int) -> bool:
    """Whether an answer without a next page is not all: full, or fewer than the server counts."""
    matched = page.get("numberMatched", _table(page.get("context")).get("matched"))
    return count >= LIMIT or (isinstance(matched, int) and matched > count > 0)


def _next(page: dict[str, Any], home: str) -> str | None:
    """The address of the next page, if there is one on the same server."""
    links = page.get("links")
    for link in links if isinstance(links, list) else ():
        link = _table(link)
        method = read_text(link.get("method")).upper()
        if link.get("rel") == "next" and method in ("", "GET") and read_text(link.get("href")):
            with contextlib.suppress(ValueError):
                url = urljoin(f"{home}/api/search", str(link["href"]))
                if urlsplit(url).netloc == urlsplit(home).netloc:
                    return url
    return None


def _url(assets: Any, home: str) -> str | None:
    for size in SIZES:
        href = _table(_table(assets).get(size)).get("href")
        if href and isinstance(href, str):
            with contextlib.suppress(ValueError):
                return urljoin(f"{home}/", href)
    return None


def _producer(item: dict[str, Any], about: dict[str, Any]) -> str:
    producer = about.get("geovisio:producer")
    if name := read_text(producer):
        return name
    providers = item.get("providers")
    for provider in providers if isinstance(providers, list) else ():
        if name := read_text(_table(provider).get("name")):
            return name
    return ""


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
