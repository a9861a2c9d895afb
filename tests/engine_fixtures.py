"""Fixtures: a drawn town of a few photos, a tiny network, the index built of them once per run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, random_model
from PIL import Image

from selavpr import SelaVPR
from selavpr.building import build
from selavpr.geo import Location
from selavpr.index import Manifest, PlaceIndex
from selavpr.recognizer import Recognizer
from selavpr.sources import SourcePhoto, read_folder

COUNT = 12
ORIGIN = Location(48.0, 11.0)
SIZE = (112, 84)
BASEMAP = '{"type": "FeatureCollection", "features": []}'
MANIFEST = Manifest("town", "Drawn Town", "tiny", "", 0, (0, 0, 0, 0), license="CC0-1.0")


def drawn(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Coarse random blocks: every number another picture, with structure at a token's scale."""
    rng = np.random.default_rng(number)
    blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return blocks.resize(size, Image.Resampling.BICUBIC)


def draw_town(folder: Path, count: int = COUNT) -> Path:
    """A folder as ``read_folder`` takes it: photos 40 m apart, going north."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,lat,lon,id,heading,street"]
    for i in range(count):
        drawn(i).save(folder / "images" / f"{i}.png")
        place = ORIGIN.moved(0, 40 * i)
        lines.append(
            f"images/{i}.png,{place.latitude},{place.longitude},p{i},{i * 30 % 360},Way {i}"
        )
    (folder / "places.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def network() -> SelaVPR:
    return random_model(TINY)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_town(tmp_path_factory.mktemp("town") / "source")


@pytest.fixture(scope="session")
def photos(town: Path) -> list[SourcePhoto]:
    return read_folder(town)


@pytest.fixture(scope="session")
def built(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An index folder; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "map.geojson").write_text(BASEMAP)
    made, problems = build(
        folder / "town", photos, network, MANIFEST, basemap=folder / "map.geojson", rank=32
    )
    assert problems == [] and len(made) == COUNT
    return folder / "town"


@pytest.fixture(scope="session")
def recognizer(built: Path, network: SelaVPR) -> Recognizer:
    return Recognizer(network, PlaceIndex.open(built))
