"""Tables in the forms that people and programs write them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selavpr import LocationError, OptionError, SelaVPRError
from selavpr.geo import Location
from selavpr.placetable import PlaceTable, write_places
from selavpr.structs import Place
from selavpr.tables import as_cell, find_table, fits, from_cell, read_table


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def geojson(*features: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def feature(image: Any, lon: Any = 11, lat: Any = 48, **more: Any) -> dict[str, Any]:
    geometry = {"type": "Point", "coordinates": [lon, lat]}
    return {"type": "Feature", "geometry": geometry, "properties": {"image": image, **more}}


def test_geojson(tmp_path: Path) -> None:
    text = geojson(feature("a.jpg", heading=90, author="Ann", y=1), feature("b.jpg", 11.5, 48.5))
    first, second = read_table(write(tmp_path / "map.geojson", text))
    assert (first.path, first.location) == (tmp_path / "a.jpg", Location(48, 11))
    assert (first.heading, first.texts["credit"]) == (90, "Ann")
    assert second.location == Location(48.5, 11.5) and second.heading is None


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read as GeoJSON"), ("[]", "cannot be read"), ("{}", "cannot be read"),
     ('{"features": 3}', "no list"), (geojson(), "needs a column 'image'"),
     (geojson({"type": "Feature"}), "needs a column 'image'"), ("[" * 100_000, "cannot be read")],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_no_geojson(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_table(write(tmp_path / "map.geojson", text))


@pytest.mark.parametrize(
    ("bad", "words"),
    [(feature("b.jpg", 48, 139), "feature 2 of .* look swapped"),
     (feature("b.jpg", "x", "y"), "feature 2 of .* not a number"),
     ({"type": "Feature", "properties": {"image": "b.jpg"}}, "feature 2 of .* no position"),
     (None, "feature 2 of")],
)  # fmt: skip
def test_bad_features_are_named(tmp_path: Path, bad: Any, words: str) -> None:
    table = write(tmp_path / "map.geojson", geojson(feature("a.jpg"), bad))
    with pytest.raises((LocationError, Exception), match=words):
        read_table(table)


@pytest.mark.parametrize(
    "text",
    ["file;lat;lng\na.jpg;48,5;11,25\n", "Filename\tLATITUDE\tLong\na.jpg\t48.5\t11.25\n",
     '"path","y","x"\r\n"a.jpg","48.5","11.25"\r\n', '\ufeffphoto,lat,lon\na.jpg,"48,5",11.25\n'],
    ids=["semicolons", "tabs", "quotes", "decimal comma"],
)  # fmt: skip
def test_dialects(tmp_path: Path, text: str) -> None:
    (row,) = read_table(write(tmp_path / "places.csv", text))
    assert row.location == Location(48.5, 11.25) and row.path == tmp_path / "a.jpg"


def test_a_row_that_is_swapped_among_others(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,{48 + i / 100},{11 + i / 100}" for i in range(5)]
    rows[3] = "3.jpg,11.03,48.03"
    with pytest.raises(LocationError, match=r"line 5 of .* look swapped"):
        read_table(write(tmp_path / "places.csv", "image,lat,lon\n" + "\n".join(rows)))
    # Far away is no mistake as long as it does not fit the other way round.
    rows[3] = "3.jpg,-33.9,151.2"
    assert len(read_table(write(tmp_path / "places.csv", "image,lat,lon\n" + "\n".join(rows)))) == 5


def test_columns_that_mean_the_same(tmp_path: Path) -> None:
    """The plainer name wins, whatever the order."""
    (row,) = read_table(write(tmp_path / "t.csv", "x,longitude,y,latitude,image\n9,11,9,48,a.jpg"))
    assert row.location == Location(48, 11)


def test_which_table(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no places\.csv"):
        find_table(tmp_path)
    a = write(tmp_path / "a.csv", "image,lat,lon\n")
    assert find_table(tmp_path) == find_table(a) == a
    write(tmp_path / "b.geojson", "{}")
    with pytest.raises(OptionError, match=r"several tables \(a\.csv, b\.geojson\)"):
        find_table(tmp_path)
    assert find_table(write(tmp_path / "places.csv", "")).name == "places.csv"
    assert find_table(tmp_path).name == "places.csv"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["properties", "geometry", "coordinates", "image", "heading", "role", "y"]),
        inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, max_size=3))
def test_any_geojson_is_rows_or_a_clear_error(tmp_path: Path, features: list[Any]) -> None:
    table = write(tmp_path / "map.geojson", geojson(feature("a.jpg"), *features))
    try:
        assert len(read_table(table)) == 1 + len(features)
    except SelaVPRError as error:
        assert str(error)


def test_fits(tmp_path: Path) -> None:
    assert fits(write(tmp_path / "a.csv", "image,lat,lon\n"))
    assert not fits(write(tmp_path / "b.csv", "city,people\n"))
    assert not fits(write(tmp_path / "c.json", "{}"))


# Names that spreadsheets would run

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "  =1", "\uff1d1", "a;=1", "'=1", "''-1", "a; '+1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_guarded(text: str) -> None:
    for cell in as_cell(text).split(";"):
        assert cell[:1] == "'" or cell == "a"


@pytest.mark.parametrize("text", ["", "Weg 1", "'s-Gravenhage", "a-b", "a=b", "x+y@z", "\u2019=1"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert as_cell(text) == text == from_cell(text)


@given(st.text(st.one_of(st.sampled_from("'=+-@; a"), st.characters())))
def test_any_text_is_read_back_as_it_was(text: str) -> None:
    assert from_cell(as_cell(text)) == text
    assert all(part.lstrip()[:1] not in set("=+-@") - {""} for part in as_cell(text).split(";"))


def test_a_written_table_runs_nothing_and_is_read_back(tmp_path: Path) -> None:
    here = Location(-33.5, -70.25)
    places = [
        Place(text, f"images/{i}.jpg", here, 10.5, text, text, text, text)
        for i, text in enumerate(FORMULAS)
    ]
    write_places(tmp_path, places)
    found = PlaceTable.open(tmp_path)
    assert [found[i] for i in range(len(found))] == places
    with (tmp_path / "places.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    for _, _, latitude, longitude, heading, *texts in rows:
        assert (float(latitude), float(longitude), float(heading)) == (-33.5, -70.25, 10.5)
        assert all(text.startswith(("'", "a;'")) for text in texts)
    # Our other reader, which takes anybody's tables; it strips cells.
    again = read_table(tmp_path)
    assert [(row.texts["id"], row.texts["credit"]) for row in again] == [
        (text.strip(), text.strip()) for text in FORMULAS
    ]
    assert {row.location for row in again} == {here}


def test_a_table_that_guards_nothing_is_read_as_it_is(tmp_path: Path) -> None:
    text = "image,lat,lon,id\n-1.jpg,-33.5,-70.25,=p\n"
    (row,) = read_table(write(tmp_path / "places.csv", text))
    assert (row.path.name, row.texts["id"], row.location) == (
        "-1.jpg",
        "=p",
        Location(-33.5, -70.25),
    )
