"""What runs inside the map: its styles and its script, as text.

The script is a function of Leaflet's map, the layer of tiles (or null) and plain data, see
``maps``; it never makes HTML of a name.
"""

from __future__ import annotations

STYLE = """
html,body{height:100%;margin:0;background:#f4f1ea;font-family:system-ui,sans-serif}
.folium-map{position:absolute;inset:0;background:#f4f1ea}
.dark,.dark .folium-map{background:#161d26}
.dark .leaflet-tile-pane{filter:invert(1) hue-rotate(180deg) brightness(.85) contrast(.9)}
.pin{display:grid;place-items:center;font:700 12px/1 system-ui,sans-serif;box-sizing:border-box;
 border-radius:50%;cursor:pointer}
.pin.rerank{background:#0f766e;color:#fff;border:2px solid #fff;box-shadow:0 1px 4px #0007}
.pin.global{background:#fff;color:#5b21b6;border:2px solid #7c3aed}
.pin.dot{opacity:.75}
.move{stroke:#7c3aed}.tip svg{display:block}.tip path{fill:#7c3aed}
.dark .move{stroke:#c4b5fd}.dark .tip path{fill:#c4b5fd}
.key{display:inline-block;width:11px;height:11px;border-radius:50%;box-sizing:border-box;
 vertical-align:-1px;margin:0 5px 0 3px;border:2px solid #7c3aed;background:#fff}
.key.rerank{background:#0f766e;border-color:#0f766e}
.key.moves{width:14px;height:0;border-radius:0;border-width:0 0 2px;border-bottom-style:dashed;
 vertical-align:3px;background:none}
.end{fill:#7c3aed;stroke:#fff}.end.from{fill:#fff;stroke:#7c3aed}
.dark .key.moves{border-color:#c4b5fd}
.pin:focus-visible{outline:3px solid #f59e0b;outline-offset:2px}
.spot{filter:drop-shadow(0 2px 3px #0008)}
.leaflet-control-layers,.leaflet-bar a{font-size:13px}
.leaflet-control-layers .leaflet-control-layers-toggle{background-size:22px;background-image:\
url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' \
stroke='%230f766e' stroke-width='2'%3E%3Cpath d='M12 3l9 5-9 5-9-5zM3 12l9 5 9-5M3 16l9 5 9-5'/%3E\
%3C/svg%3E")}
.dark .leaflet-control-layers,.dark .leaflet-bar a,.dark .leaflet-popup-content-wrapper,
.dark .leaflet-popup-tip,.dark .leaflet-control-attribution{background:#1f2937;color:#e5e7eb}
.dark .leaflet-control-attribution a{color:#7dd3c8}
.dark .leaflet-container a.leaflet-popup-close-button{color:#e5e7eb}
.leaflet-control-attribution a{text-decoration:underline}
.leaflet-control-attribution{max-width:min(75vw,560px);white-space:normal;font-size:11px}
@media (max-width:640px){
 .leaflet-control-attribution{max-width:calc(100vw - 130px);box-sizing:border-box}
 .leaflet-control-attribution:not(:hover,:focus-within){white-space:nowrap;overflow:hidden;
  text-overflow:ellipsis}
}
.beyond{filter:blur(10px)}
.name{font:600 11px/1.1 system-ui,sans-serif;color:#57534e;white-space:nowrap;width:auto!important;
 text-shadow:0 0 3px #fff,0 0 3px #fff;pointer-events:none;transform:translate(-50%,-50%)}
.dark .name{color:#cbd5e1;text-shadow:0 0 3px #0f172a,0 0 3px #0f172a}
.name span{display:inline-block;transform:translate(-50%,-50%)}
"""

SCRIPT = r"""
function (map, tiles, data) {
  const root = document.documentElement;
  let host = document;
  try { if (window.parent.document.body) host = window.parent.document; } catch (e) {}
  const say = (key) => data.text[key][root.lang.startsWith('zh') ? 'zh' : 'en'];
  const two = (key) => '<span class="sv-en">' + data.text[key].en + '</span>' +
    '<span class="sv-zh" lang="zh">' + data.text[key].zh + '</span>';
  // What a screen reader says, in the language of the page; Leaflet itself speaks English.
  const name = (element, words) => element && element.setAttribute('aria-label', words);
  const named = {'.leaflet-control-zoom-in': 'zoom_in', '.leaflet-control-zoom-out': 'zoom_out',
    '.leaflet-control-layers-toggle': 'layers', '.leaflet-popup-close-button': 'close'};
  const rename = () => {
    for (const [part, key] of Object.entries(named)) {
      for (const element of document.querySelectorAll(part)) {
        element.title = say(key);
        name(element, say(key));
      }
    }
    document.title = say('map');
    if (window.frameElement) window.frameElement.title = document.title;
    map.fire('language');
  };
  map.on('popupopen', rename);
  const nameMarker = (marker, words) => {
    const set = () => name(marker.getElement(), words());
    marker.on('add', set);
    map.on('language', set);
  };
  map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
  if (data.attribution) {
    const credit = (language) =>
      data.text.photos_of[language].replace('{credit}', () => data.attribution);
    map.attributionControl.addAttribution('<span class="sv-en">' + credit('en') + '</span>' +
      '<span class="sv-zh" lang="zh">' + credit('zh') + '</span>');
  }

  // Basemap: drawn on its own canvas under the tiles, which hide it where they load.
  map.createPane('base').style.zIndex = 150;
  const canvas = L.canvas({pane: 'base', padding: 0.3});
  const colours = () => root.classList.contains('dark')
    ? {land: '#161d26', water: '#1d3a52', building: '#27313d', green: '#1b3029', street: '#465364'}
    : {land: '#f4f1ea', water: '#b8d8e8', building: '#e0d9cc', green: '#d3e6c8', street: '#ffffff'};
  const big = /motorway|trunk|primary|secondary|tertiary/;
  const style = (feature) => {
    const p = feature.properties, c = colours(), kind = p.kind;
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
      .filter((f) => f && f.geometry && !/Point/.test(f.geometry.type))
      .map((f) => ({...f, properties: f.properties || {}}));  // GeoJSON lets them be null
    features.sort((a, b) => (order[a.properties.kind] || 0) - (order[b.properties.kind] || 0));
    base = L.geoJSON(null,
      {pane: 'base', renderer: canvas, interactive: false, style: style}).addTo(map);
    for (const feature of features) {
      try { base.addData(feature); } catch (e) {}  // a damaged one costs itself
    }
    fadeOut(base.getBounds());
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
  // Where the basemap ends the land goes on: its edge fades instead of breaking off.
  let beyond = null;
  function fadeOut(bounds) {
    if (!bounds.isValid()) return;
    map.createPane('beyond').style.zIndex = 160;
    const hole = bounds.pad(-0.01), far = L.latLngBounds([-89, -540], [89, 540]);
    const ring = (b) => [b.getSouthWest(), b.getNorthWest(), b.getNorthEast(), b.getSouthEast()];
    beyond = L.polygon([ring(far), ring(hole)], {pane: 'beyond', className: 'beyond', stroke: false,
      renderer: L.svg({pane: 'beyond', padding: 0.3}), interactive: false, fillOpacity: 1,
      fillColor: colours().land}).addTo(map);
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
      L.marker(s.at, {icon: icon, interactive: false, keyboard: false, pane: 'base',
        zIndexOffset: 1000}).addTo(names);  // over the canvas, which has 100
    }
  }
  // Without one, the places of the reference photos show where the streets run.
  for (const dot of data.covered || []) {
    L.circleMarker(dot, {pane: 'base', renderer: canvas, interactive: false, radius: 3,
      stroke: false, fillColor: '#8b93a1', fillOpacity: 0.7}).addTo(map);
  }
  map.on('moveend', drawNames);
  map.on('zoomend', () => base && base.setStyle(style));
  if (typeof data.basemap === 'string') {
    fetch(data.basemap).then((r) => r.ok ? r.json() : {}).then(drawBase).catch(() => {});
  } else if (data.basemap) {
    try { drawBase(data.basemap); } catch (e) {}  // what follows is worth more than the basemap
  }

  // Tiles: one is tried first, once for all maps of a page, and by a worker, so that a machine
  // without a network asks once and not fifty times, and complains to nobody.
  const home = host.defaultView;
  function tryTile() {
    const at = map.project(map.getCenter(), 15).divideBy(256).floor();
    const tile = L.Util.template(tiles._url, {x: at.x, y: at.y, z: 15});
    const polite = {mode: 'no-cors', referrer: home.location.href,
      referrerPolicy: 'strict-origin-when-cross-origin'};
    const task = 'onmessage = (e) => fetch(...e.data)' +
      '.then(() => postMessage(true), () => postMessage(false))';
    // The page around may take this map away while it waits, so the waiting is done out there.
    const script = host.createElement('script');
    script.textContent = 'window.selavprTiles = new Promise((done) => { try {' +
      'const worker = new Worker(URL.createObjectURL(new Blob([' + JSON.stringify(task) + '])));' +
      'worker.onmessage = (event) => { worker.terminate(); done(event.data); };' +
      'worker.postMessage(' + JSON.stringify([tile, polite]) + ');' +
      '} catch (e) { done(false); } });';
    host.head.append(script);
  }
  if (tiles && navigator.onLine !== false) {
    if (!home.selavprTiles) tryTile();
    home.selavprTiles.then((come) => {
      if (!come) return;
      tiles.addTo(map);
      names.clearLayers();
    });
  }
  L.control.scale({imperial: false}).addTo(map);
  map.on('click focus', () => map.scrollWheelZoom.enable());
  map.on('blur', () => map.scrollWheelZoom.disable());

  // An overview has nothing but dots.
  if (data.dots) {
    const painter = L.canvas();
    const look = {renderer: painter, radius: 4, weight: 1.5, color: '#fff', fillColor: '#0f766e',
      fillOpacity: 0.9, interactive: false};
    for (const dot of data.dots) L.circleMarker(dot, look).addTo(map);
    map.fitBounds(L.latLngBounds(data.dots), {padding: [24, 24], maxZoom: 17});
  } else drawAnswer();

  function drawAnswer() {
    // Pins. A candidate that leads in both stages has two, which touch at its place.
    const groups = {rerank: L.layerGroup(), global: L.layerGroup(), moves: L.layerGroup()};
    const shown = {};
    const popup = (pin) => {
      const box = document.createElement('div'), head = document.createElement('strong');
      head.textContent = pin.street || '?';
      const facts = ['#' + pin.global + ' → #' + pin.rank,
        say('similarity').replace('{value}', pin.similarity.toFixed(3))];
      if (pin.matches !== null) facts.push(say('matches').replace('{count}', pin.matches));
      box.append(head, document.createElement('br'), facts.join(' · '));
      return box;
    };
    function place(pin, kind, number) {
      const small = number > data.numbered, size = small ? 10 : number === 1 ? 28 : 22;
      const both = data.reranked && pin.rank <= data.numbered && pin.global <= data.numbered;
      const left = !both ? size / 2 : kind === 'rerank' ? 1 : size - 1;
      const icon = L.divIcon({className: 'pin ' + kind + (small ? ' dot' : ''),
        iconSize: [size, size], iconAnchor: [left, size / 2], html: small ? '' : String(number)});
      const marker = L.marker(pin.at, {icon: icon, keyboard: !small,
        zIndexOffset: (small ? 0 : kind === 'rerank' ? 600 : 300) - number});
      marker.bindPopup(() => popup(pin), {autoPanPadding: [30, 30]});
      if (host !== document) {
        const pick = () => window.parent.postMessage({selavprPick: pin.i}, window.origin);
        marker.on('click', pick);
        marker.on('keypress', (event) => event.originalEvent.key === 'Enter' && pick());
      }
      const layer = kind === 'rerank' ? 'layer_rerank' : 'layer_global';
      const label = () => [pin.street || '?', say(layer), number].join(', ');
      if (!small) nameMarker(marker, label);
      groups[kind].addLayer(marker);
      shown[pin.i] = marker;
    }
    // A number or two for each candidate, or else one dot.
    for (const pin of data.pins) {
      const leads = {global: pin.global <= data.numbered,
        rerank: data.reranked && pin.rank <= data.numbered};
      if (leads.global || !(leads.rerank || data.reranked)) place(pin, 'global', pin.global);
      if (leads.rerank || (data.reranked && !leads.global)) place(pin, 'rerank', pin.rank);
    }

    // What re-ranking moved: from each leading rank's old place to its new one.
    for (const move of data.moves) {
      const a = map.project(move.from, 18), b = map.project(move.to, 18), first = move.rank === 1;
      L.polyline([move.from, move.to], {className: 'move', dashArray: '6 6',
        weight: first ? 3 : 1.5, opacity: first ? 0.9 : 0.5})
        .bindTooltip(() => say('move').replaceAll('{rank}', move.rank), {sticky: true})
        .addTo(groups.moves);
      for (const [at, end] of [[move.from, 'from'], [move.to, 'to']]) {
        L.circleMarker(at, {className: 'end ' + end, radius: first ? 5 : 4, weight: 2,
          fillOpacity: 1, interactive: false}).addTo(groups.moves);
      }
      const turn = 'rotate(' + Math.atan2(b.y - a.y, b.x - a.x) + 'rad)';
      const tip = '<svg viewBox="0 0 12 12" width="12" height="12" style="transform:' + turn +
        '" aria-hidden="true"><path d="M2 1l9 5-9 5z"/></svg>';
      const icon = L.divIcon({className: 'tip', html: tip, iconSize: [12, 12]});
      const middle = map.unproject(a.add(b).divideBy(2), 18);
      L.marker(middle, {icon: icon, interactive: false, keyboard: false,
        opacity: first ? 1 : 0.6}).addTo(groups.moves);
    }

    const layers = {};
    for (const kind of ['rerank', 'global', 'moves']) {
      if (!groups[kind].getLayers().length) continue;
      groups[kind].addTo(map);
      layers['<i class="key ' + kind + '"></i>' + two('layer_' + kind)] = groups[kind];
    }
    L.control.layers(null, layers, {collapsed: window.innerWidth < 480}).addTo(map);

    // How far off the answer may be.
    for (const [radius, key] of data.circles) {
      L.circle(data.answer, {className: 'circle', radius: radius, color: '#c2410c', weight: 2,
        fillOpacity: key === 'circle50' ? 0.16 : 0.08}).bindTooltip(() => say(key)).addTo(map);
    }

    // The answer and the truth.
    const spot = (at, key, size, anchor, shape) => {
      const svg = '<svg class="spot" viewBox="0 0 32 ' + 32 * size[1] / size[0] + '" width="' +
        size[0] + '" height="' + size[1] + '" aria-hidden="true">' + shape + '</svg>';
      const icon = L.divIcon({className: '', iconSize: size, iconAnchor: anchor, html: svg});
      const marker = L.marker(at, {icon: icon, zIndexOffset: key === 'answer' ? 1200 : 1000});
      marker.bindTooltip(() => say(key), {direction: 'top', offset: [0, 4 - anchor[1]]});
      nameMarker(marker, () => say(key));
      marker.addTo(map);
    };
    if (data.truth) {
      // A disc, so that it shows beside the answer's pin where they are one and the same place.
      const tick = '<circle cx="16" cy="16" r="14.5" fill="#15803d" stroke="#fff" ' +
        'stroke-width="3"/><path d="M9 16l5 5 9-10" fill="none" stroke="#fff" stroke-width="3.5"/>';
      L.polyline([data.answer, data.truth], {color: '#15803d', weight: 3, dashArray: '2 7'})
        .bindTooltip(() => say('truth'), {sticky: true}).addTo(map);
      spot(data.truth, 'truth', [28, 28], [14, 14], tick);
    }
    spot(data.answer, 'answer', [34, 44], [17, 43], '<path d="M16 41C8 29 2 23 2 15a14 14 0 0 1 ' +
      '28 0c0 8-6 14-14 26z" fill="#c2410c" stroke="#fff" stroke-width="2"/>' +
      '<circle cx="16" cy="15" r="6" fill="#fff"/>');

    // In view: the answer with its circles and what leads in either stage, not the stragglers.
    const frame = L.latLngBounds([data.answer, data.global]);
    for (const pin of data.pins) {
      const leads = pin.rank <= 3 || pin.global <= 3;
      if (leads && map.distance(pin.at, data.answer) < 300) frame.extend(pin.at);
    }
    if (data.truth && map.distance(data.truth, data.answer) < 3000) frame.extend(data.truth);
    for (const [radius] of data.circles) {
      if (radius < 400) frame.extend(L.latLng(data.answer).toBounds(2 * radius));
    }
    // Pins keep clear of the controls and of the line of authors at the bottom.
    const foot = document.querySelector('.leaflet-control-attribution').offsetHeight;
    map.fitBounds(frame, {paddingTopLeft: [56, 52], paddingBottomRight: [40, foot + 28],
      maxZoom: 18});

    // A candidate picked on the page around is shown here.
    window.addEventListener('message', (event) => {
      if (event.source !== window.parent || !data.pins) return;
      const marker = shown[event.data && event.data.selavprShow];
      if (!marker) return;
      if (!marker._map) for (const group of Object.values(groups)) {
        if (group.hasLayer(marker)) group.addTo(map);
      }
      map.panInside(marker.getLatLng(), {padding: [60, 60]});
      marker.openPopup();
    });
  }

  // Theme and language follow the page around the map.
  function follow() {
    root.classList.toggle('dark', host.body.classList.contains('dark'));
    root.lang = host.documentElement.lang || 'en';
    if (base) base.setStyle(style);
    if (beyond) beyond.setStyle({fillColor: colours().land});
    rename();
  }
  if (host === document) rename();
  else {
    follow();
    const observer = new MutationObserver(follow);
    observer.observe(host.body, {attributes: true, attributeFilter: ['class']});
    observer.observe(host.documentElement, {attributes: true, attributeFilter: ['lang']});
  }
  window.selavprMap = map;
  new ResizeObserver(() => map.invalidateSize()).observe(document.body);
}
"""
