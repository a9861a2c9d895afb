"""Pieces of the page as HTML strings: verdict, ranking columns, timings, drawings.

Pure functions; whatever comes from photos, indexes or users is escaped here.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from selavpr import viz
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.index import Manifest
from selavpr.metrics import RIGHT_M
from selavpr.structs import Candidate, Place, Recognition
from selavpr.text import both, by_language, distance, duration, percent, plain

SHOWN = 5
"""Candidates a column shows before "more"."""


@dataclass(frozen=True)
class Example:
    """A photo the page offers to try in the first city.

    Attributes:
        photo: its file.
        title: what to call it.
        truth: where it was taken; None where unknown.
        chinese: the title in Chinese; the same where empty.
    """

    photo: Path
    title: str
    truth: Location | None = None
    chinese: str = ""


@dataclass(frozen=True)
class Truth:
    """What an answer is compared with.

    Attributes:
        location: None where the photo turned out to carry none.
        own: whether it is what the photo's own EXIF data say, rather than known.
    """

    location: Location | None
    own: bool = False


def header() -> str:
    """Name, promise and the two switches."""
    switch = (
        f'<button type="button" class="sv-chip" data-do="language">{both("language_switch")}'
        "</button>"
    )
    return (
        f'<a class="sv-skip" href="#sv-answer">{both("skip")}</a>'
        f'<div class="sv-header"><div class="sv-logo">{_LOGO}</div>'
        f"<div><h1>{both('title')}</h1><p>{both('tagline')}</p></div>"
        f'<div class="sv-switches">{switch}'
        '<button type="button" class="sv-chip" data-do="theme" aria-pressed="false">'
        f'<span aria-hidden="true">◐</span> {both("theme_switch")}</button></div></div>'
    )


def empty(title: str, count: int, overview: str) -> str:
    """What stands where the answer will be.

    Args:
        title: of the city.
        count: of its reference photos.
        overview: a map of where they were taken, as HTML.
    """
    note = both("empty_note", count=f"{count:,}", city=title)
    return (
        '<section class="sv-empty" id="sv-answer" tabindex="-1">'
        f'<div class="sv-lead"><div aria-hidden="true">{_LOGO}</div>'
        f"<div><h2>{both('empty')}</h2><p>{note}</p></div></div>{overview}</section>"
    )


def waiting(kind: str) -> str:
    """What keeps the room of a part of the answer that is still being made: a map or columns."""
    return f'<div class="sv-waiting sv-waiting-{html.escape(kind)}" aria-hidden="true"></div>'


def notice(note: Mapping[str, str]) -> str:
    """Something to know before using the page, by language."""
    return f'<p class="sv-notice" role="note">{by_language(note)}</p>'


def thumbnail(photo: Image.Image) -> str:
    """Address of a small copy of a photo."""
    return viz.data_uri(viz.thumbnail(photo, (240, 180)), quality=70)


def examples(offered: Sequence[Example]) -> str:
    """The example photos as buttons.

    Raises:
        PhotoError: one of them cannot be opened.
    """
    buttons = "".join(
        f'<button type="button" data-example="{i}" aria-pressed="false">'
        f'<img src="{thumbnail(load_image(example.photo))}" alt="" width="112" height="84">'
        f"<span>{_title(example)}</span></button>"
        for i, example in enumerate(offered)
    )
    return f'<h2 class="sv-small">{both("examples")}</h2><div class="sv-examples">{buttons}</div>'


def verdict(recognition: Recognition, city: str, truth: Truth | None = None) -> str:
    """The answer in words, with its distance from the truth where there is one to compare with."""
    estimate = recognition.location
    location = estimate.location
    at = f"{location.latitude:.6f}, {location.longitude:.6f}"
    named = estimate.street or at
    here = estimate.verdict != "not here"
    facts = []
    if estimate.radius50_m is not None and here:
        facts.append(both("within", distance=distance(estimate.radius50_m)))
    # Of a place a visitor asks whether it is right; of none, whether this is the city at all.
    probability = estimate.right if here else estimate.confidence
    if probability is not None:
        key = "percent" if here else "percent_not"
        share = percent(probability)
        facts.append(both(key, percent=share, city=city, right=distance(RIGHT_M)))
    else:
        facts.append(both("uncalibrated"))
    if truth is not None and truth.location is None:
        facts.append(both("no_position"))
    elif truth is not None and truth.location is not None:
        key = "error_own" if truth.own else "error"
        facts.append(both(key, distance=distance(location.distance_m(truth.location))))
    kind = estimate.verdict.replace(" ", "-")
    note = f"{estimate.verdict}_note"
    return (
        f'<section class="sv-verdict sv-{kind}" id="sv-answer" role="status" tabindex="-1">'
        f'<div class="sv-sign" aria-hidden="true">{_SIGNS[estimate.verdict]}</div><div>'
        f"<h2>{both(estimate.verdict, street=named, city=city)}</h2>"
        f"<p>{both(note, street=named)}</p>"
        f'<ul class="sv-facts">{"".join(f"<li>{fact}</li>" for fact in facts)}'
        f'<li><a href="{_OSM.format(location.latitude, location.longitude)}" target="_blank" '
        f'rel="noopener"><code>{at}</code><span class="sv-hidden"> {both("open_map")}</span> '
        '<span aria-hidden="true">↗</span></a></li></ul></div></section>'
    )


def map_key(recognition: Recognition, truth: Truth | None = None, *, moves: bool = False) -> str:
    """What the pins, circles and lines of the map mean, in words below it.

    Args:
        recognition: the answer.
        truth: what it is compared with.
        moves: whether the map has lines of what re-ranking moved.
    """
    estimate = recognition.location
    here = estimate.verdict != "not here"
    rows = [("answer", both("answer" if here else "guess"))]
    if truth is not None and truth.location is not None:
        rows.append(("truth", both("truth_own" if truth.own else "truth")))
    if here and estimate.radius50_m is not None and estimate.radius90_m is not None:
        near, far = distance(estimate.radius50_m), distance(estimate.radius90_m)
        rows.append(("circles", both("circles", near=near, far=far)))
    if moves:
        rows.append(("moves", both("moves")))
    items = "".join(f'<li class="sv-k-{kind}">{words}</li>' for kind, words in rows)
    return f'<ul class="sv-key">{items}</ul>'


def columns(
    recognition: Recognition, thumbnail: Callable[[int], str], picked: int, manifest: Manifest
) -> str:
    """Both rankings side by side.

    Args:
        recognition: the answer.
        thumbnail: address of the picture of a row of the index.
        picked: position in ``recognition.either`` that is drawn below.
        manifest: of the index, which names the photos' author where they do not themselves.
    """
    position = {c.row: i for i, c in enumerate(recognition.either)}
    reranked = any(c.matches is not None for c in recognition.candidates)
    most = max((c.matches or 0 for c in recognition.candidates), default=0)

    def column(kind: str, candidates: Sequence[Candidate]) -> str:
        cards = [
            _card(
                c,
                position[c.row],
                kind,
                thumbnail(c.row),
                position[c.row] == picked,
                manifest,
                most,
            )
            for c in candidates
        ]
        more = ""
        if len(cards) > SHOWN:
            rest = f'<ol start="{SHOWN + 1}">{"".join(cards[SHOWN:])}</ol>'
            more = f"<details><summary>+ {len(cards) - SHOWN}</summary>{rest}</details>"
        title = "reranked" if kind == "rerank" else "global_only"
        note = "global_note" if kind == "global" else "reranked_note"
        if kind == "rerank" and not _counted(candidates):
            note = "reranked_note_expected"
        return (
            f'<div class="sv-column sv-{kind}"><h3>{both(title)}</h3><p>{both(note)}</p>'
            f"<ol>{''.join(cards[:SHOWN])}</ol>{more}</div>"
        )

    first = column("global", recognition.by_global_rank)
    second = (
        column("rerank", recognition.candidates)
        if reranked
        else f'<div class="sv-column sv-rerank"><h3>{both("reranked")}</h3>'
        f"<p>{both('reranked_off')}</p></div>"
    )
    metres = recognition.location.location.distance_m(recognition.global_location)
    moved = (
        f'<p class="sv-moved">{both("moved", distance=distance(metres))}</p>'
        if metres >= 1
        else f'<p class="sv-stayed">{both("not_moved")}</p>'
    )
    moved = moved if reranked else ""
    return (
        f'<section aria-labelledby="sv-ranking"><h2 id="sv-ranking">{both("ranking")}</h2>'
        f'{moved}<p class="sv-note">{both("ranking_note")}</p>'
        f'<div class="sv-columns">{first}{second}</div></section>'
    )


def matches(
    candidate: Candidate, manifest: Manifest, picture: str, shown: int, total: int, agreeing: int
) -> str:
    """The matched details of one candidate.

    Args:
        candidate: the one that is picked.
        manifest: of its index, see ``credit``.
        picture: address of the drawing.
        shown: matches drawn.
        total: matches found.
        agreeing: of those found, how many agree on one geometry.
    """
    street = _name(candidate)
    title = both("picked", rank=candidate.rank, street=street)
    author = credit(candidate.place, manifest)
    thanks = f'<span class="sv-credit">{both("theirs", credit=author)}</span>' if author else ""
    counts = {"shown": f"{shown:,}", "total": f"{total:,}", "agreeing": f"{agreeing:,}"}
    # A score that is no count would seem to contradict the counts beside it.
    score = "" if _counted([candidate]) else both("match_score", score=candidate.matches_text)
    alt = html.escape(plain("match_image", "en", street=street))
    # The picture may be wider than a phone: it scrolls, by the keyboard too.
    return (
        f'<div id="sv-matches"><h3 class="sv-picked" id="sv-picked">{title}</h3>'
        f'<p id="sv-counts">{both("match_summary", **counts)} {score}</p>'
        f'<div class="sv-pair" tabindex="0" role="group" aria-labelledby="sv-picked">'
        f'<img src="{picture}" alt="{alt}" aria-labelledby="sv-picked sv-counts"></div>'
        f'<p class="sv-pair-names"><span>{both("yours")}</span>{thanks}</p>'
        f'<p class="sv-legend">{both("match_legend")} '
        f'<span style="background:{viz.legend()}"></span></p><p class="sv-links">'
        f'<a class="sv-chip" download="matches.webp" href="{picture}">{both("save_picture")}</a>'
        "</p></div>"
    )


def heat(before: str, after: str) -> str:
    """The two heat-maps beside each other, by address; if they are one and the same, it says so."""
    same = f" {both('heat_same')}" if before == after else ""
    figures = "".join(
        f'<figure><img src="{picture}" alt="{plain(key, "en")}" aria-labelledby="sv-{key}">'
        f'<figcaption id="sv-{key}">{both(key)}</figcaption></figure>'
        for key, picture in (("heat_before", before), ("heat_after", after))
    )
    return (
        f'<section><h2>{both("heat")}</h2><p class="sv-note">{both("heat_note")}{same}</p>'
        f'<div class="sv-heat">{figures}</div><p class="sv-legend">{both("heat_scale")} '
        f'<span style="background:{viz.legend()}"></span></p></section>'
    )


def timings(milliseconds: Mapping[str, float]) -> str:
    """How long each stage took, as one bar."""
    total = sum(milliseconds.values())
    parts, words = [], []
    for stage, ms in milliseconds.items():
        key = f"stage_{stage}"
        name = both(key)
        share = 100 * ms / max(total, 1e-9)
        parts.append(f'<i class="sv-t-{html.escape(stage)}" style="width:{share:.2f}%"></i>')
        took = by_language(duration(ms))
        words.append(f'<li class="sv-t-{html.escape(stage)}">{name} <b>{took}</b></li>')
    return (
        f"<section><h2>{both('time', total=duration(total))}</h2>"
        f'<div class="sv-bar" aria-hidden="true">{"".join(parts)}</div>'
        f'<ul class="sv-times">{"".join(words)}</ul></section>'
    )


def downloads(
    answer: Mapping[str, Any], places: Mapping[str, Any], name: str, *, linked: bool = False
) -> str:
    """Links that carry the answer themselves, so that nothing is kept on the server.

    Args:
        answer: what the JSON file holds.
        places: what the GeoJSON file holds.
        name: of the photo; the files are named after it.
        linked: offer the page's address, which reopens an example with its settings.
    """
    stem = html.escape(Path(name).stem or "answer", quote=True)
    links = "".join(
        f'<a class="sv-chip" download="{stem}.{suffix}" href="data:{mime};base64,'
        f'{base64.b64encode(_json(data)).decode()}">'
        f"{label}</a>"
        for label, suffix, mime, data in (
            ("JSON", "json", "application/json", answer),
            ("GeoJSON", "geojson", "application/geo+json", places),
        )
    )
    links += f'<button type="button" class="sv-chip" data-do="picture">{both("picture")}</button>'
    if linked:
        links += (
            f'<button type="button" class="sv-chip" data-do="link">{both("link")}</button>'
            f'<span class="sv-note" role="status" hidden>{both("copied")}</span>'
        )
    return f'<section><h2>{both("save")}</h2><p class="sv-links">{links}</p></section>'


def _json(data: Mapping[str, Any]) -> bytes:
    # File names may hold bytes that are no UTF-8; their escapes are what JSON writes, too.
    text = json.dumps(data, ensure_ascii=False, indent=1)
    return text.encode(errors="backslashreplace")


def credit(place: Place, manifest: Manifest) -> str:
    """Author and licence of a reference photo, the index's own where it has none; not escaped."""
    author, licence = place.credit or manifest.attribution, place.licence or manifest.license
    return " · ".join(part for part in (author, licence) if part)


def credits(manifests: Sequence[Manifest]) -> str:
    """Whose photos these are, under which licence."""
    rows = "".join(
        f"<li><b>{html.escape(m.title)}</b>: {html.escape(m.attribution) or both('no_credit')}"
        f"{' · ' + html.escape(m.license) if m.license else ''}</li>"
        for m in manifests
    )
    return (
        f'<footer class="sv-credits"><h2 class="sv-small">{both("credits")}</h2><ul>{rows}'
        "<li>SelaVPR (Lu et al., ICLR 2024, MIT) · DINOv2 (Meta AI, Apache 2.0) · Leaflet (BSD) · "
        '© <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> (ODbL)</li></ul>'
        "</footer>"
    )


def how_it_works() -> str:
    """The two stages in words and as a drawing."""
    return (
        f'<div class="sv-how">{_drawing()}<ol><li>{both("how_global")}</li>'
        f"<li>{both('how_local')}</li></ol></div>"
    )


def _counted(candidates: Sequence[Candidate]) -> bool:
    """Whether matches were counted, not weighed."""
    return all(isinstance(c.matches, int) for c in candidates if c.matches is not None)


def _title(example: Example) -> str:
    return by_language({"en": example.title, "zh": example.chinese or example.title})


def _name(candidate: Candidate) -> str:
    return candidate.place.street or candidate.place.place_id


def _card(
    candidate: Candidate,
    i: int,
    kind: str,
    picture: str,
    picked: bool,
    manifest: Manifest,
    most: float,
) -> str:
    rank = candidate.rank if kind == "rerank" else candidate.global_rank
    street = html.escape(_name(candidate))
    author = credit(candidate.place, manifest)
    thanks = f' title="{html.escape(author)}"' if author else ""
    facts = [both("similarity", value=f"{candidate.similarity:.3f}")]
    move = ""
    if candidate.matches is not None:
        key = "matches" if isinstance(candidate.matches, int) else "expected_matches"
        facts.append(both(key, count=candidate.matches_text))
        if kind == "rerank" and candidate.rank == 1 and candidate.matches < most:
            facts.append(both("foremost"))
    if kind == "rerank":
        gained = candidate.global_rank - candidate.rank
        key = "up" if gained > 0 else "down" if gained < 0 else "same"
        arrow = {"up": "▲", "down": "▼", "same": "="}[key]
        number = str(abs(gained)) if gained else ""
        move = (
            f'<span class="sv-move sv-{key}"><span aria-hidden="true">{arrow}{number}</span>'
            f'<span class="sv-hidden">{both(key, count=abs(gained))}</span></span>'
        )
    return (
        f'<li><button type="button" class="sv-card" data-candidate="{i}" '
        f'aria-pressed="{str(picked).lower()}"{thanks}><span class="sv-rank">{rank}</span>'
        f'<img src="{picture}" alt="" width="120" height="90" loading="lazy">'
        f'<span class="sv-what"><b>{street}</b>'
        f"{''.join(f'<span>{fact}</span>' for fact in facts)}</span>"
        f"{move}</button></li>"
    )


def _drawing() -> str:
    def label(x: int, y: int, key: str) -> str:
        return (
            f'<text x="{x}" y="{y}" id="sv-{key}"><tspan class="sv-en">{plain(key, "en")}</tspan>'
            f'<tspan class="sv-zh" lang="zh">{plain(key, "zh")}</tspan></text>'
        )

    bars = "".join(
        f'<rect x="{312 + 9 * i}" y="{72 - h}" width="6" height="{h}" rx="2" class="g"/>'
        for i, h in enumerate((18, 34, 12, 40, 26, 30, 10, 36))
    )
    grid = "".join(
        f'<circle cx="{318 + 14 * (i % 5)}" cy="{150 + 13 * (i // 5)}" r="3.4" class="l"/>'
        for i in range(20)
    )
    city = "".join(
        f'<circle cx="{480 + 17 * (i % 6)}" cy="{36 + 15 * (i // 6)}" r="4" '
        f'class="{"g" if i in (8, 9, 14) else "d"}"/>'
        for i in range(18)
    )
    threads = "".join(
        f'<line x1="500" y1="{152 + 11 * i}" x2="562" y2="{156 + 9 * j}" class="t"/>'
        for i, j in enumerate((0, 2, 1, 3))
    )
    arrows = "".join(
        f'<path d="{path}" class="p"/>'
        for path in (
            "M110 108h34",
            "M256 92C280 70 282 56 302 56",
            "M256 124c24 22 26 46 46 46",
            "M390 56h80",
            "M392 170h88",
            "M528 82v48",
            "M592 170c34 0 50-14 58-36",
        )
    )
    labels = {
        f"sv-{key}": label(x, y, key)
        for key, x, y in (
            ("svg_photo", 60, 164),
            ("svg_network", 202, 174),
            ("svg_fingerprint", 345, 22),
            ("svg_city", 522, 22),
            ("svg_details", 345, 216),
            ("svg_mutual", 535, 218),
            ("svg_answer", 680, 168),
        )
    }
    return (
        # Named by its own labels, of which one language shows.
        f'<svg viewBox="0 0 760 226" role="img" aria-labelledby="{" ".join(labels)}">'
        "<defs><marker id='sv-tip' viewBox='0 0 8 8' refX='7' refY='4' "
        "markerWidth='7' markerHeight='7' orient='auto'><path d='M0 0l8 4-8 4z' class='a'/>"
        "</marker></defs>"
        '<rect x="12" y="72" width="96" height="72" rx="8" class="b"/>'
        '<path d="M20 136l24-32 18 20 14-16 24 28z" class="d"/><circle cx="84" cy="92" r="7" '
        'class="d"/><rect x="150" y="62" width="104" height="92" rx="12" class="n"/>'
        '<path d="M168 84h68M168 100h68M168 116h68M168 132h68" class="w"/>'
        f"{arrows}"
        f"{bars}{grid}{city}"
        '<rect x="488" y="140" width="36" height="60" rx="5" class="b"/>'
        '<rect x="546" y="140" width="36" height="60" rx="5" class="b"/>'
        f"{threads}"
        '<path d="M680 146c-14-18-22-26-22-38a22 22 0 0 1 44 0c0 12-8 20-22 38z" class="m"/>'
        '<circle cx="680" cy="107" r="8" fill="#fff"/>'
        f"{''.join(labels.values())}</svg>"
    )


_LOGO = (
    '<svg viewBox="0 0 48 48" width="44" height="44" aria-hidden="true"><rect x="2" y="2" '
    'width="44" height="44" rx="12" fill="#0f766e"/><path d="M8 37l10-13 7 8 5-6 10 11z" '
    'fill="#99d5cb"/><path d="M31 26c-6-7-8-9-8-13a8 8 0 0 1 16 0c0 4-2 6-8 13z" fill="#fb923c" '
    'stroke="#fff" stroke-width="2"/><circle cx="31" cy="13" r="3" fill="#fff"/></svg>'
)

_OSM = "https://www.openstreetmap.org/?mlat={0:.6f}&amp;mlon={1:.6f}#map=18/{0:.6f}/{1:.6f}"

_SIGNS = {"sure": "✓", "probably": "≈", "unsure": "?", "not here": "✕"}
