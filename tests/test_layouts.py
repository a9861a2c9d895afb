"""Benchmarks in the layouts they are published in, and with the mistakes people make."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selavpr import LocationError, OptionError
from selavpr.benchmarkphotos import photo_files
from selavpr.geo import Location
from selavpr.layouts import find_layout, read_benchmark, read_utm
from selavpr.utm import to_utm

HERE = Location(37.7749, -122.4194)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def utm_name(place: Location, *, zone: bool = True, degrees: bool = True, heading: str = "") -> str:
    """A name as the VPR benchmarks have it."""
    east, north, number, _ = to_utm(place)
    fields = [f"{east:.2f}", f"{north:.2f}", str(number) if zone else "", "S" if zone else ""]
    fields += [f"{place.latitude}", f"{place.longitude}"] if degrees else ["", ""]
    fields += ["pano1", "", heading, "", "", "", "201504", "note"]
    return f"@{'@'.join(fields)}@.jpg"


def test_utm(tmp_path: Path) -> None:
    there = HERE.moved(100, 0)
    a = touch(tmp_path / "images/test/database" / utm_name(HERE, heading="-90"))
    b = touch(tmp_path / "images/test/queries" / utm_name(there, degrees=False))
    touch(tmp_path / "images/val/queries" / utm_name(there))
    touch(tmp_path / "images/test/queries/readme.jpg")
    assert find_layout(tmp_path) == "utm"
    read = read_benchmark(tmp_path)
    assert read.layout == "utm" and read.unassigned == ()
    (first,), (query,) = read.database, read.queries
    assert (first.path, first.heading, first.key, first.captured_at) == (a, 270, "pano1", "201504")
    assert first.location == HERE and first.condition == "note"
    # The letter S beside a zone is the latitude band of San Francisco, not the southern half.
    assert query.path == b and query.location is not None
    assert query.location.distance_m(there) < 0.1
    assert first.distance_m(query) == pytest.approx(100, rel=0.01)
    assert len(read_benchmark(tmp_path, split="val").queries) == 1
    with pytest.raises(OptionError, match="no split 'train'"):
        read_benchmark(tmp_path, split="train")


def test_utm_without_zones(tmp_path: Path) -> None:
    touch(tmp_path / "database" / utm_name(HERE, zone=False, degrees=False))
    touch(tmp_path / "queries_night" / utm_name(HERE, zone=False, degrees=False))
    read = read_benchmark(tmp_path)
    assert read.database[0].location is None and read.database[0].metres is not None
    assert read.database[0].distance_m(read.queries[0]) == 0
    (placed,) = read_benchmark(tmp_path, utm_zone="10N").database
    assert placed.location is not None and placed.location.distance_m(HERE) < 0.1
    touch(tmp_path / "database" / utm_name(HERE, degrees=False))  # this one says its own
    for photo in read_benchmark(tmp_path, utm_zone="9N").database:
        assert photo.location is not None
        assert (photo.location.distance_m(HERE) < 0.1) == ("@10@" in photo.path.name)


def test_frames_in_place_of_metres(tmp_path: Path) -> None:
    """Nordland numbers its frames in the first field."""
    for folder, frame in (("database", 10), ("queries", 13)):
        touch(tmp_path / folder / f"@{frame}@0@@@@@{frame}@@@@@@@@.jpg")
    read = read_benchmark(tmp_path, utm_zone="32N")
    assert read.database[0].location is None
    assert read.database[0].distance_m(read.queries[0]) == 3


@pytest.mark.parametrize("name", ["@a@b@.jpg", "@.jpg", "@1@@.jpg", "@nan@1@.jpg"])
def test_names_without_a_position(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name)
    with pytest.raises(LocationError, match="does not start with @utm_east@utm_north@"):
        read_benchmark(tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(
    ["", "1", "500000", "5e6", "-3", "nan", "inf", "1e400", "32", "99", "S", "T", "x", "48.1", "²"]
), max_size=15))  # fmt: skip
def test_any_name_is_a_photo_or_a_clear_error(tmp_path: Path, fields: list[str]) -> None:
    path = touch(tmp_path / f"@{'@'.join(fields)}@.jpg")
    try:
        (photo,) = read_utm(tmp_path)
        assert photo.metres and all(map(math.isfinite, photo.metres))
    except LocationError as error:
        assert path.name in str(error)
    path.unlink()


def msls_city(folder: Path, *, raw: str = "", more: str = "") -> None:
    for role in ("database", "query"):
        (folder / role / "images").mkdir(parents=True)
        (folder / role / "raw.csv").write_text(
            raw
            or f",key,lon,lat,ca,captured_at,pano\n0,{role}0,12.5,55.6,350.5,2019-01-01,False\n"
            f"1,{role}1,12.5,55.6,,2019-01-01,True\n2,{role}2,12.501,55.6,10,2019-01-01,False\n"
        )
        (folder / role / "postprocessed.csv").write_text(
            more
            or ",key,easting,northing,unique_cluster,night,control_panel,view_direction\n"
            f"0,{role}0,1000.5,2000,1,True,False,Forward\n1,{role}1,1,1,1,False,False,Forward\n"
            f"2,{role}2,1100.5,2000,1,False,True,Forward\n"
        )


def test_msls(tmp_path: Path) -> None:
    msls_city(tmp_path / "train_val" / "cph")
    msls_city(tmp_path / "train_val" / "sf")
    assert find_layout(tmp_path) == find_layout(tmp_path / "train_val" / "sf") == "msls"
    read = read_benchmark(tmp_path)
    # Panoramas are no part of the benchmark; photos that show a dashboard are.
    assert [photo.key for photo in read.queries] == ["query0", "query2"] * 2
    first = read.database[0]
    assert first.path == tmp_path / "train_val/cph/database/images/database0.jpg"
    assert (first.location, first.metres) == (Location(55.6, 12.5), (1000.5, 2000))
    assert (first.heading, first.condition, first.captured_at) == (350.5, "night", "2019-01-01")
    assert len(read_benchmark(tmp_path, cities=["sf"]).queries) == 2
    with pytest.raises(OptionError, match="no city 'oslo'; it has cph, sf"):
        read_benchmark(tmp_path, cities=["oslo"])


@pytest.mark.parametrize(
    ("row", "words"),
    [("0,../x,1,2,3,,False", "no key"), ("0,k,12,x,3,,False", "line 2 of"),
     ("0,k,12,95,3,,False", "outside"), ("0,k,12", "line 2")],
)  # fmt: skip
def test_bad_rows_of_msls(tmp_path: Path, row: str, words: str) -> None:
    msls_city(tmp_path, raw=f",key,lon,lat,ca,captured_at,pano\n{row}\n")
    with pytest.raises(LocationError, match=words):
        read_benchmark(tmp_path, "msls")


def test_gsv_cities(tmp_path: Path) -> None:
    name = "New_York_0000123_2019_07_-15_40.71_-74.006_9Xy_-aaaaaaaaaaaaaaaaa.JPG"
    path = touch(tmp_path / "Images" / "New_York" / name)
    touch(tmp_path / "Images" / "New_York" / "other.jpg")
    touch(tmp_path / "Images" / "Rome" / "Rome_0000001_2010_11_090_41.9_12.5_pano.JPG")
    assert find_layout(tmp_path) == "gsv-cities"
    read = read_benchmark(tmp_path)
    assert read.queries == read.database == ()
    first, second = read.unassigned
    assert (first.path, first.location, first.heading) == (path, Location(40.71, -74.006), 345)
    assert (first.place_id, first.captured_at) == ("New_York_0000123", "2019-07")
    assert second.place_id == "Rome_0000001"
    assert read_benchmark(tmp_path, cities=["Rome"]).unassigned == (second,)


def test_table(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(
        "path,place_id,role,condition,lat,lon\n"
        "1.jpg,a,query,night,48,11\n2.jpg,a,database,day,48,11.001\n3.jpg,b,any,,,\n"
    )
    assert find_layout(tmp_path) == "table"
    read = read_benchmark(tmp_path)
    (query,), (first,), (free,) = read.queries, read.database, read.unassigned
    assert (query.condition, query.place_id, free.location) == ("night", "a", None)
    width = math.radians(0.001) * 6_371_008.8 * math.cos(math.radians(48))
    assert query.distance_m(first) == pytest.approx(width, rel=1e-6)
    with pytest.raises(LocationError, match="not both known"):
        query.distance_m(free)
    (tmp_path / "images.csv").write_text("path,role,lat,lon\n1.jpg,test,48,11\n")
    with pytest.raises(OptionError, match="must be query, database or any, not 'test'"):
        read_benchmark(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="There is no folder"):
        read_benchmark(tmp_path / "absent")
    with pytest.raises(OptionError, match=r"no places\.csv"):
        read_benchmark(tmp_path)
    with pytest.raises(OptionError, match="no folder Images"):
        read_benchmark(tmp_path, "gsv-cities")
    with pytest.raises(OptionError, match="There are no photos"):
        read_benchmark(tmp_path, "utm")


def test_photo_files(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.heic", "a.png", ".hidden/x.jpg", ".x.jpg", "notes.txt"):
        touch(tmp_path / name)
    found = [path.relative_to(tmp_path).as_posix() for path in photo_files(tmp_path)]
    assert found == ["a.png", "b/1.heic", "b/2.JPG"]
