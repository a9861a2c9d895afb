"""A server on this machine that speaks as Panoramax and Mapillary do, errors included."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from engine_fixtures import drawn

from selavpr.geo import Location

TOKEN = "MLY|123|secret-token"

Fault = tuple[Any, ...]
"""``("status", code, headers)``, ``("cut",)``, ``("body", bytes)``, ``("length", number)``,
``("redirect", address)``."""


@dataclass
class Street:
    """What the server knows and was asked.

    Attributes:
        address: of the server.
        photos: id to fields: lon, lat, heading, pano, licence, credit; gps, a pair, where searches
            go by another position.
        limit: most photos in an answer, whatever is asked for.
        pages: whether Panoramax's answers are linked to the next one.
        counts: whether they say how many photos there are in all.
        faults: path to what goes wrong with the next requests of it, in order.
        extra: items put into every search as they are.
        asked: path, query and headers of each request.
    """

    address: str = ""
    photos: dict[str, dict[str, Any]] = field(default_factory=dict)
    limit: int = 10_000
    pages: bool = False
    counts: bool = False
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    extra: list[Any] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)

    def add(self, name: str, lon: float, lat: float, **about: Any) -> None:
        self.photos[name] = {"lon": lon, "lat": lat, **about}

    def count(self, path: str) -> int:
        """How often something was asked for."""
        return sum(asked == path for asked, _, _ in self.asked)

    def picture(self, name: str) -> bytes:
        """The same picture for the same name; panoramas are twice as wide as high."""
        size = (128, 64) if self.photos.get(name, {}).get("pano") else (112, 84)
        buffer = io.BytesIO()
        drawn(sum(name.encode()), size).save(buffer, "JPEG")
        return buffer.getvalue()

    def search(self, query: dict[str, str]) -> dict[str, Any]:
        """Panoramax."""
        found, start, limit = self._inside(query)
        page = found[start : start + limit]
        answer: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": [*(self.item(name) for name in page), *self.extra],
            "links": [{"rel": "self", "href": "/"}, {"rel": "root", "href": "/"}],
        }
        if self.counts:
            answer["numberMatched"] = len(found)
        if self.pages and start + limit < len(found):
            href = f"{self.address}/api/search?bbox={query['bbox']}&start={start + limit}"
            answer["links"].append({"rel": "next", "href": f"{href}&limit={limit}"})
        return answer

    def item(self, name: str) -> dict[str, Any]:
        """A photo as Panoramax gives it."""
        about = self.photos[name]
        return {
            "type": "Feature",
            "id": name,
            "geometry": {"type": "Point", "coordinates": [about["lon"], about["lat"]]},
            "assets": {"sd": {"href": f"{self.address}/photo/{name}.jpg", "type": "image/jpeg"}},
            "providers": [{"name": about.get("credit", "Ann"), "roles": ["producer"]}],
            "properties": {
                "datetime": "2025-05-01T10:00:00+00:00",
                "license": about.get("licence", "CC-BY-SA-4.0"),
                "view:azimuth": about.get("heading", 90),
                "pers:interior_orientation": {"field_of_view": 360 if about.get("pano") else 70},
            },
        }

    def images(self, query: dict[str, str]) -> dict[str, Any]:
        """Mapillary."""
        found, _, limit = self._inside(query)
        data = [
            {
                "id": name,
                "thumb_2048_url": f"{self.address}/photo/{name}.jpg?sig=abc",
                "computed_geometry": {"coordinates": [about["lon"], about["lat"]]},
                "computed_compass_angle": about.get("heading", 90),
                "captured_at": 1_700_000_000_000,
                "is_pano": bool(about.get("pano")),
                "creator": {"id": "1", "username": about.get("credit", "bob")},
            }
            for name, about in ((name, self.photos[name]) for name in found[:limit])
        ]
        return {"data": [*data, *self.extra]}

    def _inside(self, query: dict[str, str]) -> tuple[list[str], int, int]:
        west, south, east, north = (float(part) for part in query["bbox"].split(","))
        names = [
            name
            for name, about in sorted(self.photos.items())
            for lon, lat in [about.get("gps", (about["lon"], about["lat"]))]
            if west <= lon <= east and south <= lat <= north
        ]
        limit = min(int(query.get("limit", 10)), self.limit)
        return names, int(query.get("start", 0)), limit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    street: Street

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.street.asked.append((parts.path, query, dict(self.headers)))
        waiting = self.street.faults.get(parts.path)
        if waiting:
            self._fail(waiting.pop(0))
        elif parts.path == "/api/search":
            self._send(json.dumps(self.street.search(query)).encode())
        elif parts.path == "/images":
            if self.headers.get("Authorization") != f"OAuth {TOKEN}":
                self._send(b'{"error": {"code": 190}}', 400)
            else:
                self._send(json.dumps(self.street.images(query)).encode())
        elif parts.path.startswith("/photo/"):
            self._send(self.street.picture(parts.path[7:].removesuffix(".jpg")))
        else:
            self._send(b"nothing here", 404)

    def _fail(self, fault: Fault) -> None:
        what = fault[0]
        if what == "status":
            self._send(b"busy", fault[1], fault[2] if len(fault) > 2 else {})
        elif what == "redirect":
            self._send(b"", 302, {"Location": fault[1]})
        elif what == "body":
            self._send(fault[1])
        elif what == "length":
            self._send(b"x" * 10, 200, {"Content-Length": str(fault[1])})
            self.close_connection = True
        else:  # cut off in the middle of the answer
            self._send(b"\xff\xd8\xff" + b"x" * 10, 200, {"Content-Length": "1000"})
            self.close_connection = True

    def _send(self, body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(street: Street) -> Iterator[Street]:
    """Serve while the context lasts."""
    handler = type("Handler", (_Handler,), {"street": street})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        street.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield street
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def along_a_street(
    start: Location, count: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Street]:
    """Both services on this machine, with a photo every ten metres going east."""
    with serving(Street()) as served:
        for i in range(count):
            place = start.moved(10 * i, 0)
            served.add(f"p{i}", place.longitude, place.latitude, heading=10 * i)
        monkeypatch.setenv("PANORAMAX_URL", served.address)
        monkeypatch.setenv("MAPILLARY_URL", served.address)
        monkeypatch.setenv("MAPILLARY_TOKEN", TOKEN)
        yield served
