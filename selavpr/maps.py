"""The answer on a map that works without the internet; the only home of folium.

Leaflet comes from the package xstatic-leaflet, either written into the page or served beside it.
Under everything lies the index's own basemap; OpenStreetMap's tiles cover it if they load.
"""

from __future__ import annotations

import functools
import html
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folium
from xstatic.pkg import leaflet

from selavpr import mapscript, text
from selavpr.errors import HubError, IndexFileError
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from selavpr.structs import Candidate, Recognition

log = logging.getLogger(__name__)

TILES = "https://tile.openstreetmap.org/{z}/{x}/{y}.png"
NUMBERED = 10
"""Candidates of each stage that get a number; the rest are dots."""

MOVES = 5
"""Leading ranks whose change of place is drawn as a line."""

SAME_PLACE_M = 3.0
DOTS = 2000

_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "worker-src blob:; connect-src 'self' https://tile.openstreetmap.org; "  # standing alone
    "img-src data: https://tile.openstreetmap.org"
)


@dataclass(frozen=True)
class Served:
    """Where the page finds what it would otherwise carry inside; addresses relative to the app.

    Attributes:
        leaflet: folder with leaflet.js and leaflet.css.
        basemap: a GeoJSON file; None without one.
    """

    leaflet: str
    basemap: str | None = None


def leaflet_folder() -> Path:
    """Where the installed leaflet.js and leaflet.css lie."""
    return Path(leaflet.BASE_DIR)


def basemap_of(index: PlaceIndex) -> dict[str, Any] | None:
    """The basemap of an index, or None: an answer is worth more than the streets under it."""
    try:
        return index.basemap()
    except (IndexFileError, HubError) as error:
        log.warning("The map is drawn without its basemap: %s", error)
        return None


def build_map(
    recognition: Recognition,
    *,
    truth: Location | None = None,
    own: bool = False,
    covered: Sequence[Location] = (),
    basemap: Mapping[str, Any] | None = None,
    attribution: str = "",
    served: Served | None = None,
    tiles: bool = True,
) -> str:
    """A page showing the answer, its circles, both stages' candidates and the way between them.

    Args:
        recognition: the answer to show.
        truth: where the photo was really taken, if known.
        own: the truth is what the photo's own data say.
        covered: where references were taken, drawn under the pins as faint dots, which show the
            streets of a city without a basemap.
        basemap: GeoJSON with ``kind`` and ``name`` properties, drawn under the pins; ignored when
            ``served`` names one.
        attribution: whom to name for the reference photos and the basemap.
        served: addresses of Leaflet and the basemap; without it the page carries both inside.
        tiles: try to load OpenStreetMap's tiles.

    Returns:
        A whole HTML document. All names in it are escaped.
    """
    estimate = recognition.location
    # Around a guess in a city that the photo may not show, circles would promise too much.
    here = estimate.verdict != "not here"
    radii = ((estimate.radius90_m, "circle90"), (estimate.radius50_m, "circle50")) if here else ()
    data = {
        "answer": _pair(estimate.location),
        "truth": None if truth is None else _pair(truth),
        "global": _pair(recognition.global_location),
        "circles": [[radius, key] for radius, key in radii if radius is not None],
        "pins": [_pin(i, c) for i, c in enumerate(recognition.either)],
        "moves": _moves(recognition),
        "reranked": any(c.matches is not None for c in recognition.candidates),
        "numbered": NUMBERED,
        "covered": [_pair(place) for place in covered],
        "text": _texts(recognition, truth, own),
    }
    return _document(data, estimate.location, basemap, attribution, served, tiles)


def build_overview(
    locations: Sequence[Location],
    *,
    basemap: Mapping[str, Any] | None = None,
    attribution: str = "",
    served: Served | None = None,
    tiles: bool = True,
) -> str:
    """A page showing where the reference photos of an index were taken.

    Args:
        locations: at least one; of very many, some evenly chosen are shown.
        basemap: as for ``build_map``, like the others.
        attribution: likewise.
        served: likewise.
        tiles: likewise.
    """
    shown = locations[:: -(-len(locations) // DOTS)]
    data: dict[str, Any] = {
        "dots": [_pair(place) for place in shown],
        "text": _spoken("covered"),
    }
    middle = sorted(shown, key=lambda place: place.latitude)[len(shown) // 2]
    return _document(data, middle, basemap, attribution, served, tiles)


def _document(
    data: dict[str, Any],
    centre: Location,
    basemap: Mapping[str, Any] | None,
    attribution: str,
    served: Served | None,
    tiles: bool,
) -> str:
    page = folium.Map(
        location=_pair(centre),
        tiles=None,
        zoom_start=17,
        max_zoom=19,
        prefer_canvas=False,
        # Whoever scrolls the page passes over the map; the script lets it zoom once it is in use.
        scroll_wheel_zoom=False,
    )
    layer = None
    if tiles:
        layer = folium.TileLayer(
            TILES,
            attr='&copy; <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a>',
            max_zoom=19,
            show=False,  # the script adds it once a tile has come through
            referrer_policy="strict-origin-when-cross-origin",
        )
        layer.add_to(page)
    data["basemap"] = served.basemap if served else basemap
    data["attribution"] = html.escape(attribution)
    data["text"]["photos_of"] = text.both_plain("photos_of", credit="{credit}")
    # Folium renders what it is given as a Jinja template, even twice, so no name from an index may
    # go through it: all that is drawn is drawn by a script of our own, from plain data.
    names = f"{page.get_name()}, {layer.get_name() if layer else 'null'}"
    overlay = f"({mapscript.SCRIPT})({names}, {_for_script(data)});"
    figure = page.get_root()
    figure.render()  # fills html and script
    body, script = figure.html.render(), figure.script.render()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(data['text']['map']['en'])}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="referrer" content="strict-origin-when-cross-origin">{_assets(served)}'
        f"<style>{text.HIDE_OTHER_LANGUAGE}{mapscript.STYLE}</style></head><body>{body}"
        f"<script>{script}</script><script>{overlay}</script></body></html>"
    )


def frame(document: str, title: str = "") -> str:
    """A page inside a page: scripts put straight into ``gradio.HTML`` would not run.

    Args:
        document: what ``build_map`` or ``build_overview`` returned.
        title: in English; its script puts what the visitor's language has for it.
    """
    title = html.escape(title or text.plain("map", "en"))
    return (
        f'<iframe class="sv-map" title="{title}" srcdoc="{html.escape(document)}" '
        'referrerpolicy="strict-origin-when-cross-origin"></iframe>'
    )


def _for_script(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    plain = json.dumps(data, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return plain


def _pair(location: Location) -> list[float]:
    return [location.latitude, location.longitude]


def _pin(i: int, candidate: Candidate) -> dict[str, Any]:
    return {
        "i": i,
        "at": _pair(candidate.place.location),
        "rank": candidate.rank,
        "global": candidate.global_rank,
        "street": candidate.place.street or candidate.place.place_id,
        "similarity": round(candidate.similarity, 3),
        "matches": None if candidate.matches is None else round(candidate.matches, 1),
    }


def has_moves(recognition: Recognition) -> bool:
    """Whether re-ranking moved a leading rank, which the map then shows."""
    return bool(_moves(recognition))


def _moves(recognition: Recognition) -> list[dict[str, Any]]:
    """From the place of each leading rank of the first stage to the place that took it."""
    if all(c.matches is None for c in recognition.candidates):
        return []
    before = {c.global_rank: c.place.location for c in recognition.by_global_rank}
    return [
        {"rank": c.rank, "from": _pair(before[c.rank]), "to": _pair(c.place.location)}
        for c in recognition.candidates[:MOVES]
        if c.rank in before and before[c.rank].distance_m(c.place.location) > SAME_PLACE_M
    ]


def _spoken(name: str) -> dict[str, dict[str, str]]:
    """What only screen readers say of a map: its own name, and its buttons."""
    buttons = {key: text.both_plain(key) for key in ("zoom_in", "zoom_out", "layers", "close")}
    return {"map": text.both_plain(name), **buttons}


def _texts(
    recognition: Recognition, truth: Location | None, own: bool
) -> dict[str, dict[str, str]]:
    keys = ("answer", "global_answer", "layer_rerank", "layer_global", "layer_moves", "move")
    texts = _spoken("map") | {key: text.both_plain(key, rank="{rank}") for key in keys}
    texts["similarity"] = text.both_plain("similarity", value="{value}")
    counted = isinstance(recognition.candidates[0].matches, int)
    key = "matches" if counted else "expected_matches"
    texts["matches"] = text.both_plain(key, count="{count}")
    if recognition.location.verdict == "not here":
        texts["answer"] = text.both_plain("guess")
    for radius, key in (
        (recognition.location.radius50_m, "circle50"),
        (recognition.location.radius90_m, "circle90"),
    ):
        if radius is not None:
            far, words = text.distance(radius), text.both_plain(key)
            texts[key] = {lang: f"{words[lang]}: {far[lang]}" for lang in text.LANGUAGES}
    if truth is not None:
        off = text.distance(recognition.location.location.distance_m(truth))
        name, error = ("truth_own", "error_own") if own else ("truth", "error")
        texts["truth"] = {
            language: f"{text.plain(name, language)}: "
            f"{text.plain(error, language, distance=off[language])}"
            for language in text.LANGUAGES
        }
    return texts


@functools.cache
def _inlined() -> str:
    folder = leaflet_folder()
    style = (folder / "leaflet.css").read_text(encoding="utf-8")
    script = (folder / "leaflet.js").read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{script}</script>"


def _assets(served: Served | None) -> str:
    if served is None:
        return _inlined()
    at = html.escape(served.leaflet.rstrip("/"))
    return f'<link rel="stylesheet" href="{at}/leaflet.css"><script src="{at}/leaflet.js"></script>'
