"""A folder with a table of its photos: every way to write it, every mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selavpr import LocationError, OptionError, PhotoError, SelaVPRError
from selavpr.sources import read_folder


def folder(tmp_path: Path, table: str, *photos: str) -> Path:
    (tmp_path / "places.csv").write_text(table, encoding="utf-8")
    for name in photos:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_all_columns(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        "id,image,latitude,longitude,heading,captured_at,street,credit,licence,other\n"
        "a,images/x/1.png,48.5,11.25,-90,2024-05-01,Way 1,Ann,CC0,?\n",
        "images/x/1.png",
    )
    (photo,) = read_folder(made)
    assert photo.path == tmp_path / "images" / "x" / "1.png"
    place = photo.place
    assert (place.place_id, place.image) == ("a", "images/x/1.jpg")
    assert (place.location.latitude, place.location.longitude) == (48.5, 11.25)
    assert (place.heading, place.captured_at, place.street) == (270.0, "2024-05-01", "Way 1")
    assert (place.credit, place.licence) == ("Ann", "CC0")


@pytest.mark.parametrize(
    "header", ["path,lat,lon", "file,Lat,LNG", " Photo , y , x ", "\ufeffimage,latitude,longitude"]
)
def test_other_names_of_columns(tmp_path: Path, header: str) -> None:
    (photo,) = read_folder(folder(tmp_path, f"{header}\n1.jpg, 1.5 ,-2\n", "1.jpg"))
    assert (photo.place.location.latitude, photo.place.location.longitude) == (1.5, -2)
    assert (photo.place.place_id, photo.place.image) == ("1", "images/1.jpg")
    assert photo.place.heading is None


def test_repeated_ids_and_names_are_numbered(tmp_path: Path) -> None:
    rows = ["a/1.jpg,0,0,p", "a/1.png,0,0,p", "A/1.jpg,0,0,P", "b.jpg,0,0,", "a/1.jpg,0,0,p-2"]
    made = folder(tmp_path, "image,lat,lon,id\n" + "\n".join(rows))
    places = [photo.place for photo in read_folder(made)]
    assert [p.place_id for p in places] == ["p", "p-2", "P-3", "b", "p-2-2"]
    assert [p.image for p in places] == [
        "images/a/1.jpg", "images/a/1-2.jpg", "images/A/1-3.jpg", "images/b.jpg", "images/a/1-4.jpg"
    ]  # fmt: skip
    assert len({p.image.casefold() for p in places}) == 5


def test_names_that_some_system_cannot_store(tmp_path: Path) -> None:
    made = folder(tmp_path, 'image,lat,lon\n"a:b\\c?.jpg",0,0\n')
    assert read_folder(made)[0].place.image == "images/a_b_c_.jpg"


def test_only_some_rows(tmp_path: Path) -> None:
    made = folder(
        tmp_path, "image,lat,lon,role,year\n1.jpg,0,0,a,1\n2.jpg,0,0,b,1\n3.jpg,0,0,a,2\n"
    )
    assert [p.place.place_id for p in read_folder(made, {"role": "a"})] == ["1", "3"]
    assert [p.place.place_id for p in read_folder(made, {"role": "a", "year": "2"})] == ["3"]
    assert read_folder(made, {"role": "c"}) == []
    with pytest.raises(OptionError, match=r"no column 'rule'; it has image, lat"):
        read_folder(made, {"rule": "a"})
    loud = folder(tmp_path, "Image,Lat,Lon,Role\n1.jpg,0,0,a\n2.jpg,0,0,b\n")
    for name in ("role", "Role", "ROLE"):
        assert [p.place.place_id for p in read_folder(loud, {name: "a"})] == ["1"]


def test_no_table(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("x" * 300)):
        with pytest.raises(OptionError, match=r"There is no places\.csv in"):
            read_folder(path)
    (tmp_path / "places.csv").mkdir()
    with pytest.raises(OptionError, match="cannot be read"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "needs a column 'image'"), ("lat,lon\n", "needs a column 'image'"),
        ("image,lon\n", r"needs a column 'latitude' \(or lat, y, gps_lat, "),
        ("image,lat\n", "needs a column 'longitude'"), ("a" * 200_000, "cannot be read"),
    ],
    ids=lambda x: x[:20],
)  # fmt: skip
def test_tables_without_the_columns(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_folder(folder(tmp_path, table))


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_bytes(b"image,lat,lon\n\xff\xfe,1,2\n")
    with pytest.raises(OptionError, match="UTF-8"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.jpg,91,0,", "line 3 .* outside -90 to 90"), ("1.jpg,139.7,35.7,", "look swapped"),
        ("1.jpg,,0,", "line 3 .* not a number"), ("1.jpg,x,0,", "not a number"),
        ("1.jpg,nan,0,", "finite"), ("1.jpg,0,0,nan", "heading must be finite"),
        ("1.jpg,0,0,north", "not a number"), ("1.jpg", "not a number"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(LocationError, match=words):
        read_folder(folder(tmp_path, f"image,lat,lon,heading\n0.jpg,0,0,\n{row}\n"))


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "", ".", "a/../../x", "link/x.jpg"])
def test_photos_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "link").symlink_to(tmp_path)
    with pytest.raises(PhotoError, match=r"line 2 of .* names no photo inside the folder"):
        read_folder(folder(tmp_path / "f", f"image,lat,lon\n{name},0,0\n"))


def test_absent_photos_are_left_to_the_build(tmp_path: Path) -> None:
    assert len(read_folder(folder(tmp_path, "image,lat,lon\nabsent.jpg,0,0\n"))) == 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.lists(st.text(max_size=8), min_size=3, max_size=5).map(",".join))
def test_any_text_is_rows_or_a_clear_error(tmp_path: Path, text: str) -> None:
    data = ("image,lat,lon,heading\n" + text).encode("utf-8", "surrogatepass")
    (tmp_path / "places.csv").write_bytes(data)
    try:
        read_folder(tmp_path)
    except SelaVPRError as error:
        assert str(error)
