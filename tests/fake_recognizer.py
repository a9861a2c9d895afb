"""A small town drawn in code and a recogniser over it that answers at once, always the same.

It has the surface of ``selavpr.recognizer.Recognizer`` that the page uses, and nothing behind it:
photos are drawn facades, scores come from the colour of the photo's middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageDraw

from selavpr.geo import Location
from selavpr.images import PhotoSource, load_image
from selavpr.index import Manifest
from selavpr.structs import (
    Candidate,
    Estimate,
    Features,
    KeypointMatches,
    Place,
    Recognition,
)

NASTY = "<b onclick=alert(1)>R&D</b> {{x}} ${y} `street` </script>"
"""A street name that breaks pages which do not escape."""

STREETS = ("Harbour Street", "Mill Lane", NASTY, "市场街", "Bridge Road", "Elm Street")
ORIGIN = Location(60.1650, 24.9400)
SIZE = (320, 240)


def drawn_street(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A row of houses; every number has its own colours and windows."""
    rng = np.random.default_rng(number)
    width, height = size
    image = Image.new("RGB", size, (150 + number * 7 % 80, 185, 225))
    draw = ImageDraw.Draw(image)
    x = 0
    while x < width:
        house = int(rng.integers(width // 7, width // 4))
        top = int(rng.integers(height // 6, height // 2))
        wall = tuple(int(c) for c in rng.integers(90, 220, 3))
        draw.rectangle((x, top, x + house, height * 4 // 5), fill=wall)
        for wx in range(x + 8, x + house - 12, 20):
            for wy in range(top + 10, height * 4 // 5 - 14, 26):
                draw.rectangle((wx, wy, wx + 10, wy + 15), fill=(40, 50, 70))
        x += house
    draw.rectangle((0, height * 4 // 5, width, height), fill=(95, 95, 100))
    return image


class FakeIndex:
    """Places along six streets."""

    def __init__(self, name: str = "drawn-town", title: str = "Drawn Town", count: int = 24):
        self.folder = Path(name)
        self._places = [self._place(row) for row in range(count)]
        lat = [p.location.latitude for p in self._places]
        lon = [p.location.longitude for p in self._places]
        self.manifest = Manifest(
            name=name,
            title=title,
            model="fake",
            fingerprint="0",
            count=count,
            bounds=(min(lat), min(lon), max(lat), max(lon)),
            license="CC0",
            attribution="Drawn by <i>nobody</i>",
        )

    def __len__(self) -> int:
        return len(self._places)

    def place(self, row: int) -> Place:
        return self._places[row]

    def spread(self, most: int) -> list[Location]:
        return [p.location for p in self._places[:: -(-len(self) // most)]]

    def photo(self, row: int) -> Image.Image:
        return drawn_street(row)

    def basemap(self) -> dict[str, object]:
        def line(name: str, *points: tuple[float, float]) -> dict[str, object]:
            return {
                "type": "Feature",
                "properties": {"kind": "street", "name": name},
                "geometry": {"type": "LineString", "coordinates": [list(p) for p in points]},
            }

        def box(kind: str, west: float, south: float, size: float) -> dict[str, object]:
            east, north = west + size, south + size / 2
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            return {
                "type": "Feature",
                "properties": {"kind": kind, "name": ""},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }

        west, south = ORIGIN.longitude - 0.002, ORIGIN.latitude - 0.001
        features = [box("water", west - 0.004, south - 0.004, 0.012)]
        for i, street in enumerate(STREETS):
            y = ORIGIN.latitude + 0.0006 * i
            features.append(line(street, (west, y), (west + 0.006, y)))
        for i in range(30):
            x = west + 0.001 * (i % 6) + 0.0002
            y = ORIGIN.latitude + 0.0006 * (i // 6) + 0.0001
            features.append(box("building", x, y, 0.0006))
        return {"type": "FeatureCollection", "features": features}

    @staticmethod
    def _place(row: int) -> Place:
        i, along = row % len(STREETS), row // len(STREETS)
        where = Location(ORIGIN.latitude + 0.0006 * i, ORIGIN.longitude + 0.0009 * along)
        return Place(
            place_id=f"p{row:03d}",
            image=f"images/{row}.jpg",
            location=where,
            heading=float(row * 15 % 360),
            street=STREETS[i],
            credit="nobody",
            licence="CC0",
        )


class FakeRecognizer:
    """Answers from a seed made of the photo's mean colour."""

    def __init__(
        self,
        index: FakeIndex | None = None,
        *,
        calibrated: bool = True,
        broken: bool = False,
        depth: int = 20,
    ):
        self.index = index or FakeIndex()
        self.depth = min(depth, len(self.index))
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.calibrated = calibrated
        self.broken = broken

    def recognize(
        self,
        photo: PhotoSource,
        *,
        top_k: int = 20,
        rerank: bool = True,
        rerank_depth: int | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> Recognition:
        if self.broken:
            raise RuntimeError("secret detail")
        stages = ("open", "extract", "search", *(("rerank",) if rerank else ()), "locate")
        for i, stage in enumerate(stages):
            if progress:
                progress(stage, i / len(stages))
        image = load_image(photo)
        seed = int(np.asarray(image).mean() * 1000)
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(self.index))[:top_k].tolist()
        counts = rng.integers(1800, 2600, len(rows)).tolist()
        depth = min(rerank_depth or self.depth, len(rows)) if rerank else 0
        ranked = sorted(range(depth), key=lambda i: (-counts[i], i))
        order = [*ranked, *range(depth, len(rows))]
        candidates = tuple(
            Candidate(
                place=self.index.place(rows[i]),
                row=rows[i],
                global_rank=i + 1,
                rank=rank,
                similarity=0.9 - 0.01 * i,
                matches=counts[i] if i < depth else None,
            )
            for rank, i in enumerate(order, 1)
        )
        best = candidates[0].place
        return Recognition(
            photo_size=image.size,
            candidates=candidates,
            location=Estimate(
                location=Location(best.location.latitude + 0.0001, best.location.longitude),
                radius50_m=15.0 if self.calibrated else None,
                radius90_m=60.0 if self.calibrated else None,
                confidence=0.97 if self.calibrated else None,
                right=0.93 if self.calibrated else None,
                verdict="sure" if self.calibrated else "probably",
                street=best.street,
            ),
            global_location=min(candidates, key=lambda c: c.global_rank).place.location,
            features=Features(torch.zeros(1, 4), torch.zeros(1, 16, 16, 4)),
            timings_ms={stage: 10.0 * (i + 1) for i, stage in enumerate(stages)},
        )

    def matches(self, recognition: Recognition, i: int) -> KeypointMatches:
        rng = np.random.default_rng(recognition.candidates[i].row)
        width, height = recognition.photo_size
        here = rng.random((120, 2)) * (width, height)
        there = here / (width, height) * SIZE + rng.normal(0, 3, (120, 2))
        similarity = np.sort(0.4 + 0.6 * rng.random(120))[::-1].copy()
        return KeypointMatches(
            query=torch.tensor(here, dtype=torch.float32),
            candidate=torch.tensor(np.clip(there, 0, SIZE), dtype=torch.float32),
            similarity=torch.tensor(similarity, dtype=torch.float32),
            agrees=torch.arange(120) % 3 == 0,
        )

    def heatmap(self, photo: PhotoSource, *, adapted: bool = True) -> np.ndarray:
        return self._heat(0.3 if adapted else 0.8)

    @staticmethod
    def _heat(peak: float) -> np.ndarray:
        y, x = np.mgrid[0:16, 0:16] / 15
        heat = np.exp(-((x - 0.5) ** 2 + (y - peak) ** 2) * 8 / math.pi)
        return ((heat - heat.min()) / np.ptp(heat)).astype(np.float32)

    def heat_of(self, features: Features) -> np.ndarray:
        return self._heat(0.3)
