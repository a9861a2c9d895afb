"""The bundled city is what its card and the page say: size, files, licences, examples."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from selavpr import cards
from selavpr.bundle import read_examples
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from tools import rebuild_city

ROOT = Path(__file__).resolve().parents[1]
CITIES = ROOT / "prebuilt_index"
CONDITIONS = {"Summer day", "Evening", "Night", "Rain", "Snow", "Crowded"}


@pytest.fixture(scope="module")
def city() -> PlaceIndex:
    return PlaceIndex.open(CITIES / "helsinki")


@pytest.fixture(scope="module")
def card() -> str:
    return (CITIES / "README.md").read_text(encoding="utf-8")


def test_a_clone_stays_small() -> None:
    assert sum(path.stat().st_size for path in CITIES.rglob("*") if path.is_file()) < 60e6


def test_the_card_names_every_file_and_column_and_counts_right(city: PlaceIndex, card: str) -> None:
    named = set(re.findall(r"`(?:helsinki/)?([\w.]+)`", card))
    files = {name.split("/")[0] for name in city.manifest.files}
    assert files - {"images"} <= named and "`images/`" in card
    with (city.folder / "places.csv").open(encoding="utf-8", newline="") as file:
        assert set(next(csv.reader(file))) <= named
    spots = {place.location for place in city.places}
    streets = {place.street for place in city.places}
    assert f"{len(city)} pictures of" in card
    assert f"from {len(spots)} places along {len(streets)} streets" in card
    south, west, north, east = city.manifest.bounds
    assert f"{south:.4f} to {north:.4f} north, {west:.4f} to {east:.4f} east" in card
    assert city.photo(0).size == (480, 360) and "480 x 360" in card


def test_the_card_rebuilds_it_as_it_was_built(city: PlaceIndex, card: str) -> None:
    """From its own photos; from nothing, with the same options, by tools.rebuild_city."""
    assert f"python -m {city.manifest.command}\n" in card
    assert "python -m tools.rebuild_city" in card
    here = [word for word in shlex.split(city.manifest.command) if "/" not in word]
    anew = next(step for step in rebuild_city.steps("python") if "build" in step)
    assert set(here) <= set(anew)


def test_licences_are_in_the_manifest_the_card_the_readme_and_the_page(
    city: PlaceIndex, card: str
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = cards.credits([city.manifest])
    manifest = f"{city.manifest.license} {city.manifest.attribution}"
    for text in (manifest, card, readme, page):
        for words in ("CC BY 4.0", "ODbL", "OpenStreetMap"):
            assert words in text, words
    basemap = city.basemap()
    assert basemap and "ODbL" in basemap["attribution"]
    front = card.split("---\n")[1]
    assert "license: [cc-by-4.0, odbl]" in front and "pretty_name:" in front


def test_examples_show_every_condition_and_what_the_city_does_not_contain(
    city: PlaceIndex,
) -> None:
    examples = {example.title: example for example in read_examples(ROOT / "assets" / "examples")}
    assert 8 <= len(examples) <= 10
    assert examples.keys() == CONDITIONS | {"Put right by re-ranking", "Not in this city"}

    def nearest(place: Location) -> float:
        return min(place.distance_m(reference.location) for reference in city.places)

    for title, example in examples.items():
        assert example.truth is not None and example.chinese
        away = nearest(example.truth)
        # A photo of the city is none of its references, and one from elsewhere is far from all.
        assert away > 100 if title == "Not in this city" else 1 <= away <= 25, (title, away)
        with Image.open(example.photo) as photo:
            assert not photo.getexif()
