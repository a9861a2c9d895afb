"""What is fuzzed: files to start from, and what a user would do with them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from selavpr import SelaVPR, maps, official, weights
from selavpr.checkpoint import read_checkpoint
from selavpr.confidence import Evidence
from selavpr.exif import read_capture
from selavpr.gpx import read_gpx
from selavpr.images import load_image
from selavpr.index import PlaceIndex, verify
from selavpr.indexfiles import read_json, read_manifest
from selavpr.judgement import Calibration
from selavpr.recipes import read_recipe
from selavpr.recognizer import Recognizer
from selavpr.sources import read_folder
from tools.fuzz import seeds
from tools.fuzz.mutation import Files, mutated


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        make: the files to start from; called once.
        run: uses the files in a folder; only ``SelaVPRError`` may come out.
        fixed: beginnings of names of files that are left as they are.
    """

    make: Callable[[], list[Files]]
    run: Callable[[Path], None]
    fixed: tuple[str, ...] = ()

    @functools.cached_property
    def seeds(self) -> list[Files]:
        """The files to start from."""
        return self.make()

    def case(self, name: str, seed: int, number: int) -> Files:
        """The files of one case, the same on every machine."""
        rng = Random(f"{seed}/{name}/{number}")
        return mutated(rng, rng.choice(self.seeds), self.fixed)


@functools.cache
def _model() -> SelaVPR:
    return seeds.model()


def _photo(folder: Path) -> None:
    for path in folder.iterdir():
        read_capture(path)
        read_capture(path.read_bytes())
        load_image(path)
        load_image(path.read_bytes())


def _index(folder: Path) -> None:
    index = PlaceIndex.open(folder)
    recognizer = Recognizer(_model(), index)
    found = recognizer.recognize(seeds.picture(3), top_k=5)
    recognizer.matches(found, 0)
    verify(folder)


def _manifest(folder: Path) -> None:
    read_manifest(folder)
    index = PlaceIndex.open(folder)
    Recognizer(_model(), index)
    verify(folder)


def _basemap(folder: Path) -> None:
    index = PlaceIndex.open(folder)
    places = [place.location for place in index.places]
    maps.build_overview(places, basemap=index.basemap(), attribution=index.manifest.attribution)


def _table(folder: Path) -> None:
    for path in folder.iterdir():
        read_folder(path)


def _model_folder(folder: Path) -> None:
    SelaVPR.from_weights(weights.load(folder), device="cpu").extract([seeds.picture()])


def _checkpoint(folder: Path) -> None:
    for path in folder.iterdir():
        weights.save(official.load_official(path), folder / "converted", with_backbone=False)


def _track(folder: Path) -> None:
    for path in folder.iterdir():
        track = read_gpx(path)
        for second in (track.start, track.end, (track.start + track.end) / 2):
            track.at(second)
            track.heading(second)
        if track.at(track.start).distance_m(track.at(track.end)) < 10_000:
            track.every(5.0, track.start, track.start + 60)


def _calibration(folder: Path) -> None:
    for path in folder.iterdir():
        made = Calibration.from_dict(read_json(path))
        if made is not None:
            made.judge(Evidence(agreeing=0.5, margin=12.0, together=0.8))


def _recipe(folder: Path) -> None:
    for path in folder.iterdir():
        read_recipe(path)


def _run_state(folder: Path) -> None:
    for path in folder.iterdir():
        read_checkpoint(path)


@functools.cache
def _indexes() -> list[Files]:
    return seeds.indexes(_model())


_ALL_BUT_MANIFEST = ("b", "c", "g", "i", "p", "r", "s")
_ALL_BUT_BASEMAP = ("c", "g", "i", "m", "p", "r", "s")

TARGETS: Mapping[str, Target] = {
    "images": Target(seeds.images, _photo),
    "index": Target(_indexes, _index, fixed=("manifest", "basemap")),
    "manifest": Target(_indexes, _manifest, fixed=_ALL_BUT_MANIFEST),
    "basemap": Target(lambda: _indexes()[:1], _basemap, fixed=_ALL_BUT_BASEMAP),
    "tables": Target(lambda: [{n: t.encode()} for n, t in seeds.TABLES.items()], _table),
    "model": Target(lambda: seeds.models(_model()), _model_folder),
    "official": Target(seeds.checkpoints, _checkpoint),
    "gpx": Target(lambda: [{"track.gpx": seeds.TRACK.encode()}], _track),
    "calibration": Target(
        lambda: [{"calibration.json": json.dumps(seeds.calibration()).encode()}], _calibration
    ),
    "recipes": Target(seeds.recipes, _recipe),
    "checkpoint": Target(seeds.runs, _run_state),
}
"""By name."""
