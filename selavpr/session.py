"""What the page does, free of gradio: from a photo to the pieces that are shown.

``Site`` holds what all visitors share, ``Session`` what one of them is looking at.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selavpr import cards, gpu, maps, viz
from selavpr.cards import Example, Truth
from selavpr.errors import HubError, OptionError, PhotoError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.recognizer import Recognizer
from selavpr.report import to_dict, to_geojson
from selavpr.structs import Features, KeypointMatches, Recognition
from selavpr.text import plain

log = logging.getLogger(__name__)

SHOWN_SIDE = 960
"""Longest side of the photos kept and drawn for a visitor."""

HEAT_SIDE = 640
"""Longest side of the heat-maps."""

GPU_SECONDS = 15
"""The longest a lent GPU is held; a large model's first call moves its weights there."""

REMEMBERED = 10_000
"""Visitors of whom it is known which answer is their last: some 100 bytes each."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Session:
    """What one visitor is looking at; lives on the server while the page is open.

    Attributes:
        city: name of the index searched.
        name: the photo's name, as the visitor knows it.
        path: the photo's file, which is deleted some time after.
        photo: a copy no larger than ``SHOWN_SIDE``.
        recognition: the answer.
        visitor: who asked; empty where nobody comes back.
        number: of the answer, among all.
        picked: position of the candidate whose matches are drawn.
        matches: between the photo and that candidate, once computed.
    """

    city: str
    name: str
    path: str
    photo: Image.Image
    recognition: Recognition
    visitor: str = ""
    number: int = 0
    picked: int = 0
    matches: KeypointMatches | None = None


class Site:
    """The recognizers and what is made of their answers."""

    def __init__(self, recognizers: Mapping[str, Recognizer], *, tiles: bool = True) -> None:
        """Put what the page may fetch, and nothing else, into one folder of its own.

        Args:
            recognizers: by the name of their index.
            tiles: let the map try OpenStreetMap's tiles.

        Raises:
            OptionError: there is none.
        """
        if not recognizers:
            raise OptionError(
                "There is no city to search: no index was found in prebuilt_index/. Build one "
                "with `python -m selavpr index build`, or name one with --index."
            )
        self.recognizers = dict(recognizers)
        self.tiles = tiles
        # All cities share one network, and one visitor's photo goes through it at a time. Opening
        # photos, drawing and encoding need no turn.
        self._network = threading.Lock()
        self._recognize = gpu.borrowing(self._run_recognize, GPU_SECONDS)
        self._match = gpu.borrowing(self._run_match, GPU_SECONDS)
        self._heats = gpu.borrowing(self._run_heats, GPU_SECONDS)
        self.folder = Path(tempfile.mkdtemp(prefix="selavpr-site-"))
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}
        self._thumbnails: dict[tuple[str, int], str] = {}
        self._spreads: dict[str, list[Location]] = {}
        for name in ("leaflet.js", "leaflet.css"):
            shutil.copyfile(maps.leaflet_folder() / name, self.folder / name)
        self._served = {
            city: maps.Served(self._address(), self._basemap(i, recognizer))
            for i, (city, recognizer) in enumerate(self.recognizers.items())
        }

    def publish(self, examples: Sequence[Example]) -> list[Example]:
        """Copies of the example photos in the served folder."""
        copies = []
        for i, example in enumerate(examples):
            copy = self.folder / f"example-{i}{example.photo.suffix.lower()}"
            shutil.copyfile(example.photo, copy)
            copies.append(replace(example, photo=copy))
        return copies

    def locate(
        self,
        photo: str,
        city: str,
        top_k: int,
        rerank: bool,
        rerank_depth: int | None,
        *,
        visitor: str = "",
        progress: Progress = lambda stage, share: None,
    ) -> Session:
        """Recognise a photo.

        Raises:
            OptionError: no such city, or a number out of range.
            PhotoError: the photo cannot be used, or was deleted.
        """
        self._recognizer(city)
        start = time.perf_counter()
        progress("open", 0.0)
        image = _opened(photo)
        opening = (time.perf_counter() - start) * 1000
        # A process that lends its GPU cannot call back.
        heard = None if gpu.is_lent() else progress
        with self._network:
            found = self._recognize(image, city, top_k, rerank, rerank_depth, heard)
        timings = {**found.timings_ms, "open": found.timings_ms.get("open", 0.0) + opening}
        made = Session(
            city,
            Path(photo).name,
            photo,
            viz.shrink(image, SHOWN_SIDE),
            replace(found, timings_ms=timings),
            visitor,
            next(self._numbers),
        )
        if visitor:
            self._newest.pop(visitor, None)
            self._newest[visitor] = made.number
            if len(self._newest) > REMEMBERED:  # the oldest goes first
                del self._newest[next(iter(self._newest))]
        return made

    def is_past(self, session: Session) -> bool:
        """Whether the visitor has another answer by now."""
        return self._newest.get(session.visitor, 0) > session.number

    def verdict(self, session: Session, truth: Truth | None = None) -> str:
        """The answer in words, as HTML."""
        title = self._recognizer(session.city).index.manifest.title
        return cards.verdict(session.recognition, title, truth)

    def map(self, session: Session, truth: Truth | None = None) -> str:
        """The answer on a map, as HTML."""
        index, served = self._recognizer(session.city).index, self._served[session.city]
        document = maps.build_map(
            session.recognition,
            truth=truth.location if truth else None,
            own=bool(truth and truth.own),
            covered=() if served.basemap else self._covered(session.city),
            attribution=index.manifest.attribution,
            served=served,
            tiles=self.tiles,
        )
        moves = maps.has_moves(session.recognition)
        return maps.frame(document) + cards.map_key(session.recognition, truth, moves=moves)

    def overview(self, city: str) -> str:
        """What stands where the answer will be, with a map of where the references are."""
        index = self._recognizer(city).index
        document = maps.build_overview(
            self._covered(city),
            attribution=index.manifest.attribution,
            served=self._served[city],
            tiles=self.tiles,
        )
        frame = maps.frame(document, plain("covered", "en"))
        return cards.empty(index.manifest.title, len(index), frame)

    def columns(self, session: Session) -> str:
        """Both rankings, as HTML."""
        return cards.columns(
            session.recognition,
            lambda row: self._thumbnail(session.city, row),
            session.picked,
            self._recognizer(session.city).index.manifest,
        )

    def downloads(self, session: Session, *, linked: bool = False) -> str:
        """Links to the answer as JSON and GeoJSON, as HTML.

        Args:
            session: what is looked at.
            linked: the page's address reopens it.
        """
        return cards.downloads(
            to_dict(session.recognition, session.name),
            to_geojson(session.recognition, session.name),
            session.name,
            linked=linked,
        )

    def pick(self, session: Session, i: int) -> Session:
        """Look at another candidate.

        Raises:
            OptionError: there is no such candidate.
        """
        with self._network:
            matches = self._match(session.recognition, session.city, i)
        return replace(session, picked=i, matches=matches)

    def matches(
        self, session: Session, count: int, min_similarity: float, agreeing_only: bool
    ) -> str:
        """The matches with the candidate that is picked, as HTML.

        Raises:
            OptionError: none is picked yet.
        """
        if session.matches is None:
            raise OptionError("Pick a candidate first.")
        candidate = session.recognition.either[session.picked]
        rows = viz.select_matches(
            session.matches,
            count=count,
            min_similarity=min_similarity,
            agreeing_only=agreeing_only,
            query_size=session.recognition.photo_size,
        )
        index = self._recognizer(session.city).index
        picture = viz.draw_matches(
            session.photo,
            index.photo(candidate.row),
            session.matches,
            rows,
            query_size=session.recognition.photo_size,
        )
        return cards.matches(
            candidate,
            index.manifest,
            viz.data_uri(picture, quality=88),
            shown=len(rows),
            total=len(session.matches.similarity),
            agreeing=int(session.matches.agrees.sum()),
        )

    def heat(self, session: Session) -> str:
        """What the model looks at before and after adaptation, as HTML.

        Raises:
            PhotoError: the photo's file has been deleted since.
        """
        photo = viz.shrink(session.photo, HEAT_SIDE)
        with self._network:
            # The adapted half was made for the answer; the plain one must see the same pixels.
            # Opened only now: photos that wait would fill the memory.
            whole = _opened(session.path)
            before, after = self._heats(whole, session.recognition.features, session.city)
        shown = viz.data_uri(viz.heat_overlay(photo, after))
        if np.allclose(before, after, atol=0.01):
            return cards.heat(shown, shown)
        return cards.heat(viz.data_uri(viz.heat_overlay(photo, before)), shown)

    def answer(self, session: Session) -> dict[str, Any]:
        """The answer as plain data, in the schema of the command line."""
        return to_dict(session.recognition, session.name)

    def match_data(self, session: Session) -> dict[str, Any]:
        """The matches with the picked candidate as plain data; positions in pixels."""
        assert session.matches is not None
        candidate = session.recognition.either[session.picked]
        width, height = self._recognizer(session.city).index.photo(candidate.row).size
        found = session.matches
        return {
            "photo": session.name,
            "photo_size": list(session.recognition.photo_size),
            "place_id": candidate.place.place_id,
            "rank": candidate.rank,
            "candidate_size": [width, height],
            "matches": [
                {"query": q, "candidate": c, "similarity": round(s, 4), "agrees": a}
                for q, c, s, a in zip(
                    found.query.round(decimals=1).tolist(),
                    found.candidate.round(decimals=1).tolist(),
                    found.similarity.tolist(),
                    found.agrees.tolist(),
                    strict=True,
                )
            ],
        }

    def _run_recognize(
        self,
        photo: Image.Image,
        city: str,
        top_k: int,
        rerank: bool,
        rerank_depth: int | None,
        progress: Progress | None,
    ) -> Recognition:
        found = self._recognizer(city).recognize(
            photo, top_k=top_k, rerank=rerank, rerank_depth=rerank_depth, progress=progress
        )
        # Kept for a while, for many visitors: not in the GPU's memory.
        return replace(found, features=found.features.to("cpu"))

    def _run_match(self, recognition: Recognition, city: str, i: int) -> KeypointMatches:
        recognizer = self._recognizer(city)
        features = recognition.features.to(recognizer.model.device)
        return recognizer.matches(replace(recognition, features=features), i)

    def _run_heats(
        self, photo: Image.Image, features: Features, city: str
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        recognizer = self._recognizer(city)
        return recognizer.heatmap(photo, adapted=False), recognizer.heat_of(features)

    def _recognizer(self, city: str) -> Recognizer:
        try:
            return self.recognizers[city]
        except KeyError:
            known = ", ".join(self.recognizers)
            raise OptionError(f"There is no city {city!r} here; there are {known}.") from None

    def _thumbnail(self, city: str, row: int) -> str:
        key = (city, row)
        if key not in self._thumbnails:
            try:
                photo = self._recognizer(city).index.photo(row)
            except (PhotoError, HubError) as error:
                # The answer stands without it; a Hub that is silent now may answer later.
                log.warning("No thumbnail of photo %d of %s: %s", row + 1, city, error)
                return cards.thumbnail(Image.new("RGB", (4, 3), "grey"))
            self._thumbnails[key] = cards.thumbnail(photo)
            if len(self._thumbnails) > 5000:  # about 20 MB; the oldest goes first
                del self._thumbnails[next(iter(self._thumbnails))]
        return self._thumbnails[key]

    def _covered(self, city: str) -> list[Location]:
        """Where references are: read once, and not for every answer."""
        if city not in self._spreads:
            self._spreads[city] = self._recognizer(city).index.spread(maps.DOTS)
        return self._spreads[city]

    def _basemap(self, i: int, recognizer: Recognizer) -> str | None:
        basemap = maps.basemap_of(recognizer.index)
        if basemap is None:
            return None
        path = self.folder / f"basemap-{i}.geojson"
        path.write_text(json.dumps(basemap, separators=(",", ":")), encoding="utf-8")
        return self._address(path.name)

    def _address(self, name: str = "") -> str:
        return "gradio_api/file=" + quote((self.folder / name).as_posix(), safe="/:")


def _opened(photo: str) -> Image.Image:
    """A visitor's photo: they are deleted in time, and a page may be open for longer."""
    try:
        return load_image(photo)
    except PhotoError as error:
        if os.path.isfile(photo):
            raise
        raise PhotoError(
            "This photo has been deleted here meanwhile; please choose it again."
        ) from error
