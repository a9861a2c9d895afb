"""The answer on a map that works without the internet; the only home of folium.

Leaflet comes from the package xstatic-leaflet, either written into the page or served beside it.
Under everything lies the index's own basemap; OpenStreetMap's tiles cover it if they load.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folium
from xstatic.pkg import leaflet

from selavpr import text
from selavpr.geo import Location
from selavpr.structs import Candidate, Recognition

TILES = "https://tile.openstreetmap.org/{z}/{x}/{y}.png"
NUMBERED = 10
"""Candidates of each stage that get a number; the rest are dots."""

_ANSWER, _TRUTH = "#c2410c", "#15803d"
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data: https://tile.openstreetmap.org"
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


def build_map(
    recognition: Recognition,
    *,
    truth: Location | None = None,
    basemap: Mapping[str, Any] | None = None,
    attribution: str = "",
    served: Served | None = None,
    tiles: bool = True,
) -> str:
    """A page showing the answer, its circles, both stages' candidates and the way between them.

    Args:
        recognition: the answer to show.
        truth: where the photo was really taken, if known.
        basemap: GeoJSON with ``kind`` and ``name`` properties, drawn under the pins; ignored when
            ``served`` names one.
        attribution: whom to name for the reference photos and the basemap.
        served: addresses of Leaflet and the basemap; without it the page carries both inside.
        tiles: try to load OpenStreetMap's tiles.

    Returns:
        A whole HTML document. All names in it are escaped.
    """
    estimate = recognition.location
    here = _pair(estimate.location)
    page = folium.Map(location=here, tiles=None, zoom_start=17, max_zoom=19, prefer_canvas=False)
    layer = None
    if tiles:
        layer = folium.TileLayer(
            TILES,
            attr='&copy; <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a>',
            max_zoom=19,
            show=False,  # the script below adds it once a tile has come through
            referrer_policy="strict-origin-when-cross-origin",
        )
        layer.add_to(page)
    for radius, opacity in ((estimate.radius90_m, 0.08), (estimate.radius50_m, 0.16)):
        if radius is not None:
            folium.Circle(
                here, radius=radius, color=_ANSWER, weight=2, fill=True, fill_opacity=opacity
            ).add_to(page)
    if truth is not None:
        folium.PolyLine([here, _pair(truth)], color=_TRUTH, weight=3, dash_array="2 7").add_to(page)
    data = {
        "answer": here,
        "truth": None if truth is None else _pair(truth),
        "global": _pair(recognition.global_location),
        "pins": [_pin(i, c) for i, c in enumerate(recognition.candidates)],
        "reranked": any(c.matches is not None for c in recognition.candidates),
        "numbered": NUMBERED,
        "basemap": served.basemap if served else basemap,
        "attribution": html.escape(attribution),
        "text": _texts(recognition, truth),
    }
    # Folium renders what it is given as a Jinja template, even twice, so no name from an index may
    # go through it: the pins are drawn by a script of our own, from plain data.
    names = f"{page.get_name()}, {layer.get_name() if layer else 'null'}"
    overlay = f"({_SCRIPT})({names}, {_for_script(data)});"
    figure = page.get_root()
    figure.render()  # fills html and script
    body, script = figure.html.render(), figure.script.render()
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Map</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="referrer" content="strict-origin-when-cross-origin">{_assets(served)}'
        f"<style>{text.HIDE_OTHER_LANGUAGE}{_STYLE}</style></head><body>{body}"
        f"<script>{script}</script><script>{overlay}</script></body></html>"
    )


def frame(document: str) -> str:
    """A page inside a page: scripts put straight into ``gradio.HTML`` would not run."""
    title = text.plain("map", "en")
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
        "street": candidate.place.street,
        "similarity": round(candidate.similarity, 3),
        "matches": candidate.matches,
    }


def _texts(recognition: Recognition, truth: Location | None) -> dict[str, dict[str, str]]:
    keys: Sequence[str] = ("answer", "global_answer", "layer_rerank", "layer_global")
    texts = {key: text.both_plain(key) for key in keys}
    if truth is not None:
        off = text.distance(recognition.location.location.distance_m(truth))
        texts["truth"] = {
            language: f"{text.plain('truth', language)}: "
            f"{text.plain('error', language, distance=off[language])}"
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


_STYLE = """
html,body{height:100%;margin:0;background:#f4f1ea;font-family:system-ui,sans-serif}
.folium-map{position:absolute;inset:0;background:#f4f1ea}
.dark,.dark .folium-map{background:#161d26}
.dark .leaflet-tile-pane{filter:invert(1) hue-rotate(180deg) brightness(.85) contrast(.9)}
.pin{display:grid;place-items:center;font:700 12px/1 system-ui,sans-serif;box-sizing:border-box;
 border-radius:50%;cursor:pointer}
.pin.rerank{background:#0f766e;color:#fff;border:2px solid #fff;box-shadow:0 1px 4px #0007}
.pin.global{background:#fff;color:#5b21b6;border:2px solid #7c3aed}
.pin.dot{opacity:.75}
.pin:focus-visible{outline:3px solid #f59e0b;outline-offset:2px}
.spot{filter:drop-shadow(0 2px 3px #0008)}
.leaflet-control-layers,.leaflet-bar a{font-size:13px}
.dark .leaflet-control-layers,.dark .leaflet-bar a,.dark .leaflet-popup-content-wrapper,
.dark .leaflet-popup-tip,.dark .leaflet-control-attribution{background:#1f2937;color:#e5e7eb}
.dark .leaflet-control-attribution a{color:#7dd3c8}
.dark .leaflet-container a.leaflet-popup-close-button{color:#e5e7eb}
.leaflet-control-attribution a{text-decoration:underline}
.leaflet-control-attribution{max-width:min(75vw,560px);white-space:normal;font-size:11px}
.name{font:600 11px/1.1 system-ui,sans-serif;color:#57534e;white-space:nowrap;width:auto!important;
 text-shadow:0 0 3px #fff,0 0 3px #fff;pointer-events:none;transform:translate(-50%,-50%)}
.dark .name{color:#cbd5e1;text-shadow:0 0 3px #0f172a,0 0 3px #0f172a}
.name span{display:inline-block;transform:translate(-50%,-50%)}
"""

_SCRIPT = r"""
function (map, tiles, data) {
  const root = document.documentElement;
  let host = document;
  try { if (window.parent.document.body) host = window.parent.document; } catch (e) {}
  const say = (key) => data.text[key][root.lang.startsWith('zh') ? 'zh' : 'en'];
  const two = (key) => '<span class="sv-en">' + data.text[key].en + '</span>' +
    '<span class="sv-zh" lang="zh">' + data.text[key].zh + '</span>';
  map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
  if (data.attribution) map.attributionControl.addAttribution(data.attribution);

  // Basemap: drawn on its own canvas under the tiles, which hide it where they load.
  map.createPane('base').style.zIndex = 150;
  const canvas = L.canvas({pane: 'base', padding: 0.3});
  const colours = () => root.classList.contains('dark')
    ? {land: '#161d26', water: '#1d3a52', building: '#27313d', green: '#1b3029', street: '#465364'}
    : {land: '#f4f1ea', water: '#b8d8e8', building: '#e0d9cc', green: '#d3e6c8', street: '#ffffff'};
  const big = /motorway|trunk|primary|secondary|tertiary/;
  const style = (feature) => {
    const p = feature.properties || {}, c = colours(), kind = p.kind;
    const zoom = Math.pow(1.6, map.getZoom() - 17);
    if (kind === 'street' || kind === 'path' || /Line/.test(feature.geometry.type)) {
      if (kind === 'water') return {color: c.water, weight: 5 * zoom, opacity: 1, fill: false};
      const wide = kind === 'path' ? 2 : big.test(p.class || p.highway || '') ? 13 : 8;
      return {color: c.street, weight: Math.max(0.7, wide * zoom), opacity: 1, fill: false};
    }
    return {stroke: false, fill: true, fillOpacity: 1, fillColor: c[kind] || c.building};
  };
  let base = null;
  const names = L.layerGroup().addTo(map);
  const streets = [];
  function drawBase(collection) {
    const order = {green: 0, water: 1, building: 2, path: 3, street: 4};
    const features = (collection.features || [])
      .filter((f) => f.geometry && !/Point/.test(f.geometry.type));
    features.sort((a, b) => (order[a.properties.kind] || 0) - (order[b.properties.kind] || 0));
    base = L.geoJSON({type: 'FeatureCollection', features: features},
      {pane: 'base', renderer: canvas, interactive: false, style: style}).addTo(map);
    base.eachLayer((line) => {
      const p = line.feature.properties;
      if (p.kind !== 'street' || !p.name || !line.getLatLngs) return;
      const points = line.getLatLngs().flat(Infinity);
      const ends = points.slice(1).map((p, i) => [points[i], p, points[i].distanceTo(p)]);
      const length = ends.reduce((sum, end) => sum + end[2], 0);
      let left = length / 2;
      const half = ends.find((end) => (left -= end[2]) <= 0);
      if (!half) return;
      const share = 1 + left / half[2];
      const at = L.latLng(half[0].lat + (half[1].lat - half[0].lat) * share,
        half[0].lng + (half[1].lng - half[0].lng) * share);
      streets.push({name: p.name, at: at, length: length});
    });
    streets.sort((a, b) => b.length - a.length);
    drawNames();
  }
  function drawNames() {
    names.clearLayers();
    if (map.getZoom() < 15 || (tiles && map.hasLayer(tiles))) return;
    const taken = [], seen = new Set(), view = map.getBounds();
    for (const s of streets) {
      if (names.getLayers().length >= 40) break;
      if (seen.has(s.name) || !view.contains(s.at)) continue;
      const at = map.latLngToContainerPoint(s.at), half = s.name.length * 3.6 + 8;
      const hits = (t) => Math.abs(t.x - at.x) < t.half + half && Math.abs(t.y - at.y) < 20;
      if (taken.some(hits)) continue;
      taken.push({x: at.x, y: at.y, half: half});
      seen.add(s.name);
      const label = document.createElement('span');
      label.textContent = s.name;
      const icon = L.divIcon({className: 'name', html: label, iconSize: [0, 0]});
      L.marker(s.at, {icon: icon, interactive: false, keyboard: false, pane: 'base'}).addTo(names);
    }
  }
  map.on('moveend', drawNames);
  map.on('zoomend', () => base && base.setStyle(style));
  if (typeof data.basemap === 'string') {
    fetch(data.basemap).then((r) => r.ok ? r.json() : {}).then(drawBase).catch(() => {});
  } else if (data.basemap) drawBase(data.basemap);

  // Tiles: one is tried first, so that a machine without a network asks once and not fifty times.
  if (tiles && navigator.onLine !== false) {
    const at = map.project(data.answer, 15).divideBy(256).floor();
    const probe = new Image();
    probe.referrerPolicy = 'strict-origin-when-cross-origin';
    probe.onload = () => { tiles.addTo(map); names.clearLayers(); };
    probe.src = L.Util.template(tiles._url, {x: at.x, y: at.y, z: 15});
  }

  // Pins.
  const groups = {rerank: L.layerGroup(), global: L.layerGroup()};
  const popup = (pin) => {
    const box = document.createElement('div'), head = document.createElement('strong');
    head.textContent = pin.street || '?';
    const facts = [pin.similarity.toFixed(3)];
    if (pin.matches !== null) facts.push(pin.matches + ' ⇄');
    facts.unshift('#' + pin.global + ' → #' + pin.rank);
    box.append(head, document.createElement('br'), facts.join(' · '));
    return box;
  };
  function place(pin, kind, number) {
    const small = number > data.numbered, size = small ? 10 : number === 1 ? 28 : 22;
    const icon = L.divIcon({className: 'pin ' + kind + (small ? ' dot' : ''),
      iconSize: [size, size], html: small ? '' : String(number)});
    const marker = L.marker(pin.at, {icon: icon, keyboard: !small,
      zIndexOffset: (kind === 'rerank' ? 600 : 300) - number * 10});
    marker.bindPopup(() => popup(pin));
    if (host !== document) {
      marker.on('click', () => window.parent.postMessage({selavprPick: pin.i}, window.origin));
    }
    const layer = kind === 'rerank' ? 'layer_rerank' : 'layer_global';
    const label = () => [pin.street || '?', say(layer), number].join(', ');
    if (!small) marker.on('add', () => marker.getElement().setAttribute('aria-label', label()));
    groups[kind].addLayer(marker);
  }
  for (const pin of data.pins) {
    place(pin, 'global', pin.global);
    if (data.reranked) place(pin, 'rerank', pin.rank);
  }
  const layers = {};
  if (data.reranked) { groups.rerank.addTo(map); layers[two('layer_rerank')] = groups.rerank; }
  groups.global.addTo(map);
  layers[two('layer_global')] = groups.global;
  L.control.layers(null, layers, {collapsed: false}).addTo(map);
  L.control.scale({imperial: false}).addTo(map);

  // The answer, the way it moved, and the truth.
  const spot = (at, colour, key, shape) => {
    const svg = '<svg class="spot" viewBox="0 0 32 42" width="34" height="44" aria-hidden="true">' +
      '<path d="M16 41C8 29 2 23 2 15a14 14 0 0 1 28 0c0 8-6 14-14 26z" fill="' + colour +
      '" stroke="#fff" stroke-width="2"/>' + shape + '</svg>';
    const icon = L.divIcon({className: '', iconSize: [34, 44], iconAnchor: [17, 43], html: svg});
    const marker = L.marker(at, {icon: icon, zIndexOffset: 1000});
    marker.bindTooltip(() => say(key), {direction: 'top', offset: [0, -38]});
    marker.on('add', () => marker.getElement().setAttribute('aria-label', say(key)));
    marker.addTo(map);
  };
  if (map.distance(data.answer, data.global) > 3) {
    L.polyline([data.global, data.answer], {color: '#7c3aed', weight: 3, dashArray: '6 6'})
      .bindTooltip(() => say('global_answer')).addTo(map);
  }
  const tick = '<path d="M9 15l5 5 9-10" fill="none" stroke="#fff" stroke-width="3.5"/>';
  if (data.truth) spot(data.truth, '#15803d', 'truth', tick);
  spot(data.answer, '#c2410c', 'answer', '<circle cx="16" cy="15" r="6" fill="#fff"/>');

  const near = data.pins.filter((p) => p.rank <= 3 || p.global === 1).map((p) => p.at);
  if (data.truth && map.distance(data.truth, data.answer) < 3000) near.push(data.truth);
  const frame = L.latLngBounds([data.answer, data.global, ...near]);
  map.fitBounds(frame, {padding: [50, 50], maxZoom: 17});

  // Theme and language follow the page around the map.
  function follow() {
    root.classList.toggle('dark', host.body.classList.contains('dark'));
    root.lang = host.documentElement.lang || 'en';
    if (base) base.setStyle(style);
  }
  if (host !== document) {
    follow();
    const observer = new MutationObserver(follow);
    observer.observe(host.body, {attributes: true, attributeFilter: ['class']});
    observer.observe(host.documentElement, {attributes: true, attributeFilter: ['lang']});
  }
  window.selavprMap = map;
  new ResizeObserver(() => map.invalidateSize()).observe(document.body);
}
"""
