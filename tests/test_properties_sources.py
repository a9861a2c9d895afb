"""What holds for any source of photos: tables, names, tracks, answers of servers, settings."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import ipaddress
import itertools
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from strategies import FEW, json_values
from test_properties import cities, metres

from selavpr import (
    HubError,
    LocationError,
    OptionError,
    SelaVPRError,
    hub,
    layouts,
    mapillary,
    msls,
    panoramax,
    tables,
)
from selavpr.addresses import is_public
from selavpr.benchmarkphotos import PHOTO_ENDINGS, BenchmarkPhoto, photo_files
from selavpr.bundle import find, read_examples, unreachable
from selavpr.cityeval import Answer, Query, read_queries, samples
from selavpr.cli_source import add_source, conditions, options_of
from selavpr.collecting import attribution, file_name, missing, table_row
from selavpr.confidence import Evidence
from selavpr.download import plain_url
from selavpr.exif import read_capture, read_position
from selavpr.folders import Found, read_benchmark, read_exif, read_table, tables_in
from selavpr.gather import Options, gather, kind_of
from selavpr.geo import Location
from selavpr.gpx import Track, iso, read_gpx, read_time
from selavpr.offers import (
    Area,
    Offer,
    read_heading,
    read_number,
    read_place,
    read_text,
    search,
)
from selavpr.panorama import cut_all, views_of
from selavpr.protocols import PROTOCOLS, choose, prepare, within
from selavpr.recipes import Recipe
from selavpr.sources import SourcePhoto, clean, from_rows, stem, unique
from selavpr.structs import Place
from selavpr.tables import Row, find_table, fits, put_rows
from selavpr.utm import read_zone, to_utm
from selavpr.validation import read_validation
from selavpr.video import find_track, plan

names = st.text("abAB.-_ é/\x85", min_size=1, max_size=6)
any_json = json_values(st.integers(), st.floats())
numbers = st.sampled_from([0, 45.5, -179, 360, 1e400, "1", None, True, 10**400])


def raises_only(attempt: Callable[[], Any]) -> Any:
    """What it gives; None after an error of ours, and no other error."""
    try:
        return attempt()
    except SelaVPRError as error:
        assert str(error)
        return None


# Benchmarks

benchmark_photos = st.builds(
    BenchmarkPhoto,
    st.sampled_from("abcdef").map(Path),
    st.sampled_from(["query", "database", "any"]),
    st.none() | st.tuples(metres, metres),
    st.none() | cities,
    place_id=st.sampled_from(["", "x", "y"]),
)


@FEW
@given(benchmark_photos, benchmark_photos)
def test_distances_of_a_benchmark_are_the_same_both_ways(
    a: BenchmarkPhoto, b: BenchmarkPhoto
) -> None:
    there = raises_only(lambda: a.distance_m(b))
    back = raises_only(lambda: b.distance_m(a))
    assert (there is None) == (back is None)
    known = (a.metres and b.metres) or (a.location and b.location)
    assert (there is None) == (not known)
    assert there is None or (there >= 0 and there == pytest.approx(back, abs=1e-6))


@FEW
@given(
    st.lists(benchmark_photos, max_size=5),
    st.lists(benchmark_photos, max_size=5),
    st.floats(0, 1e4),
)
def test_right_is_what_is_near_or_of_the_same_place(
    asked: list[BenchmarkPhoto], known: list[BenchmarkPhoto], limit: float
) -> None:
    everyone = [*asked, *known]
    found = raises_only(lambda: within(asked, known, limit))
    plane = all(p.metres is not None for p in everyone)
    globe = all(p.location is not None for p in everyone)
    if not (plane or globe or all(p.place_id for p in everyone)):
        assert found is None
        return
    right, measured = found
    assert measured == (plane or globe) and len(right) == len(asked)
    for query, rows in zip(asked, right, strict=True):
        for row, photo in enumerate(known):
            if not measured:
                assert (row in rows) == (photo.place_id == query.place_id)
                continue
            apart = (
                math.dist(query.metres or (), photo.metres or ())
                if plane
                else query.distance_m(dataclasses.replace(photo, metres=None))
            )
            if abs(apart - limit) > 2:  # single precision, on a globe
                assert (row in rows) == (apart <= limit)


FILES = ["a.jpg", "b.JPG", ".c.jpg", "d.txt", "sub/e.png", ".hid/f.jpg", "z/g.webp", "sub/h"]


@FEW
@given(st.sets(st.sampled_from(FILES)))
def test_photos_of_a_folder_are_those_by_ending_that_are_not_hidden(files: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            Path(folder, name).parent.mkdir(exist_ok=True)
            Path(folder, name).touch()
        found = [p.relative_to(folder).as_posix() for p in photo_files(Path(folder))]
        rest = [p.name for p in photo_files(Path(folder), lambda at: at.name == "sub")]
    wanted = {
        name
        for name in files
        if Path(name).suffix.lower() in PHOTO_ENDINGS
        and not any(part.startswith(".") for part in Path(name).parts)
    }
    assert len(found) == len(set(found)) and set(found) == wanted
    assert set(rest) == {Path(n).name for n in wanted if not n.startswith("sub/")}


gsv_names = st.builds(
    "{}_{:07}_{}_{:02}_{:03}_{}_{}_{}.jpg".format,
    st.sampled_from(["Paris", "Rio_X"]), st.integers(0, 99), st.integers(2000, 2020),
    st.integers(1, 12), st.integers(0, 359), st.integers(-89, 89), st.integers(-179, 179),
    st.just("pano"),
)  # fmt: skip


@settings(max_examples=30)
@given(st.sets(gsv_names, min_size=1, max_size=4))
def test_gsv_cities_are_read_from_their_names(photos: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "Images", "City")
        images.mkdir(parents=True)
        for name in photos:
            (images / name).touch()
        assert layouts.find_layout(Path(folder)) == "gsv-cities" == choose(Path(folder), None).name
        found = layouts.read_gsv_cities(Path(folder), ["City"])
        whole = layouts.read_benchmark(folder)
        assert list(whole.unassigned) == found and not whole.queries and not whole.database
        assert kind_of(folder) == "gsv-cities"
        task = prepare(Path(folder), PROTOCOLS["gsv-cities"], distance_m=5)
        with pytest.raises(OptionError):
            layouts.read_gsv_cities(Path(folder), ["Nowhere"])
    assert {photo.path.name for photo in found} == photos
    for photo in found:
        _, _, _, heading, lat, lon, _ = photo.key.rsplit("_", 6)
        assert photo.location == Location(float(lat), float(lon))
        assert photo.heading == float(heading)
    # Nobody is the answer to itself, and whoever is one has the other.
    assert len(task.queries) == len(task.database) == len(found)
    for i, truth in enumerate(task.truths):
        assert i not in truth and all(i in task.truths[j] for j in truth)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), cities, st.booleans(), st.booleans()),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_msls_gives_what_its_tables_say(rows: list[tuple[str, Location, bool, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        here = root / "cph" / "database"
        here.mkdir(parents=True)
        lines = [f"{key},{p.latitude},{p.longitude},{pano}" for key, p, pano, _ in rows]
        (here / "raw.csv").write_text("\n".join(["key,lat,lon,pano", *lines]))
        about = [f"{i},{key}" for i, (key, *_) in enumerate(rows)]
        (here / "postprocessed.csv").write_text("\n".join([",key", *about]))
        chosen = [f"{i},{kept}" for i, (*_, kept) in enumerate(rows)]
        (here / "subtask_index.csv").write_text("\n".join([",all", *chosen]))
        assert msls.find_tables(root) == [here / "raw.csv"]
        found = msls.read_msls(root, ["cph"])
        assert [(p.key, p.location) for p in found] == [
            (k, p) for k, p, pano, _ in rows if not pano
        ]
        kept = [key for key, _, pano, all_ in rows if all_ and not pano]
        assert [photo.key for photo in msls.listed(found)] == kept
        assert layouts.find_layout(root) == "msls" == kind_of(name)


@FEW
@given(st.lists(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_a_city_that_is_not_there_is_refused(asked: list[str], known: set[str]) -> None:
    if set(asked) <= known:
        msls.check_cities(asked, known, Path("x"))
        return
    with pytest.raises(OptionError):
        msls.check_cities(asked, known, Path("x"))


@FEW
@given(st.text("0123456789NSCXIO ²", max_size=5) | st.integers(1, 60).map("{}T".format))
def test_any_text_is_a_zone_or_a_clear_error(text: str) -> None:
    found = raises_only(lambda: read_zone(text))
    if found is not None:
        zone, south = found
        assert 1 <= zone <= 60
        assert read_zone(f"{zone}{'S' if south else 'N'}") == found


@FEW
@given(cities)
def test_the_zone_of_a_place_can_be_read_back(place: Location) -> None:
    _, _, zone, south = to_utm(place)
    assert read_zone(f" {zone} {'S' if south else 'N'} ") == (zone, south)


# Tables


@settings(max_examples=50)
@given(st.lists(st.tuples(names, names), max_size=6))
def test_photos_get_names_and_ids_of_their_own(photos: list[tuple[str, str]]) -> None:
    found = unique(
        SourcePhoto(Path(str(i)), Place(place_id, image, Location(1, 2)))
        for i, (place_id, image) in enumerate(photos)
    )
    assert [photo.path for photo in found] == [Path(str(i)) for i in range(len(photos))]
    for values in ([p.place.place_id for p in found], [p.place.image for p in found]):
        # Some systems take A.jpg and a.jpg for one file.
        assert len({value.casefold() for value in values}) == len(found)
    for photo, (place_id, _) in zip(found, photos, strict=True):
        assert photo.place.place_id.startswith(clean(Place(place_id, "", Location(1, 2))).place_id)
        assert clean(photo.place) == photo.place, "nothing is taken out after they are unique"
        assert photo.place.image.startswith("images/") and photo.place.image.endswith(".jpg")


@FEW
@given(st.lists(st.tuples(names.filter(lambda n: not n.startswith("/")), st.none() | cities)))
def test_rows_with_a_place_become_photos(rows: list[tuple[str, Location | None]]) -> None:
    root = Path("/root")
    table = [Row("here", root / "x" / f"{n}.jpg", place, None, {"id": n}) for n, place in rows]
    found = from_rows(table, root)
    assert [p.path for p in found] == [row.path for row in table if row.location is not None]
    for photo in found:
        name = photo.path.relative_to(root).as_posix()
        assert stem(photo.path, root) in (name, name.removesuffix(".jpg"))


@settings(max_examples=40)
@given(
    st.sets(st.sampled_from(["places.csv", "b.csv", "c.tsv", "d.geojson", "notes.txt"])),
    st.booleans(),
)
def test_the_table_of_a_folder_is_places_csv_or_the_only_one(files: set[str], good: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in files:
            text = "image,lat,lon\na.jpg,1,2\n" if good else "other,columns\n1,2\n"
            if name.endswith("geojson"):
                text = '{"features": []}' if good else "[]"
            Path(folder, name).write_text(text)
        kinds = {name for name in files if name != "notes.txt"}
        found = raises_only(lambda: find_table(Path(folder)))
        if "places.csv" in kinds or len(kinds) == 1:
            assert found.name == ("places.csv" if "places.csv" in kinds else min(kinds))
        else:
            assert found is None
        fitting = {name for name in kinds if fits(Path(folder, name))}
        assert fitting == ({n for n in kinds if not n.endswith("geojson")} if good else set())
        listed = [path.name for path in tables_in(Path(folder))]
        assert set(listed) == fitting | ({"places.csv"} & kinds) and listed == sorted(
            listed, key=lambda name: (name != "places.csv", name)
        )


roles = st.sampled_from(["", "query", "database", "Queries", "any"])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.none() | cities, roles, st.booleans()), min_size=1, max_size=2))
def test_every_row_of_a_table_is_a_photo_a_query_or_a_problem(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "places.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "lat", "lon", "role", "pano", "licence", "credit"])
            for i, (place, role, pano) in enumerate(rows):
                where = ("", "") if place is None else (place.latitude, place.longitude)
                table.writerow([f"{i}.jpg", *where, role, "yes" if pano else "", "CC0", f"A{i}"])
        found = Found()
        read_table(Path(folder), {}, found)
        again = gather(folder, "table", Options(headings=()), Path(folder, "work"))
        asked = raises_only(lambda: read_queries(Path(folder)))
    asking = [role.lower() in ("query", "queries") for _, role, _ in rows]
    kept = [row for row, query in zip(rows, asking, strict=True) if not query]
    assert len(found.photos) == sum(place is not None for place, *_ in kept)
    assert len(found.problems) == sum(place is None for place, *_ in kept)
    assert len(found.panoramas) == sum(pano for *_, pano in kept)
    assert bool(found.notes) == any(asking)
    assert found.licences() == (["CC0"] if found.photos else [])
    assert len(found.credits()) == len(found.photos)
    assert [p.place for p in again.photos] == [p.place for p in found.photos]
    if asked is not None:
        assert all(q.location is not None for q in asked)
        assert len(asked) == sum(role == "query" for _, role, _ in rows)


@FEW
@given(st.lists(benchmark_photos, max_size=6))
def test_references_of_a_benchmark_are_photos_or_problems(photos: list[BenchmarkPhoto]) -> None:
    photos = [
        dataclasses.replace(p, path=Path("root", f"{i}{p.path}.jpg"), key=f"k{i}")
        for i, p in enumerate(photos)
    ]
    found = Found()
    read_benchmark(photos, Path("root"), found)
    kept = [photo for photo in photos if photo.role != "query"]
    assert len(found.photos) + len(found.problems) == len(kept)
    assert [p.place.location for p in found.photos] == [p.location for p in kept if p.location]
    assert bool(found.notes) == (len(kept) < len(photos))


@settings(max_examples=40)
@given(st.lists(st.tuples(cities, st.booleans()), min_size=2, max_size=3))
def test_validation_photos_are_of_queries_that_have_an_answer(
    rows: list[tuple[Location, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = ["image,latitude,longitude,split"]
        lines += [
            f"{i}.jpg,{p.latitude},{p.longitude},{'q' if query else 'd'}"
            for i, (p, query) in enumerate(rows)
        ]
        Path(folder, "places.csv").write_text("\n".join(lines))
        recipe = Recipe(
            validation=folder,
            validation_queries={"split": "q"},
            validation_database={"split": "d"},
        )
        found = raises_only(lambda: read_validation(recipe))
    if found is not None:
        assert len(found.queries) == len(found.truths) and all(found.truths)
        assert len(found.database) == sum(not query for _, query in rows)


# EXIF


def degrees(value: float) -> tuple[IFDRational, ...]:
    whole = round(abs(value) * 3600 * 1000)
    return (
        IFDRational(whole // 3_600_000),
        IFDRational(whole // 60_000 % 60),
        IFDRational(whole % 60_000, 1000),
    )


def tagged(place: Location | None, heading: float | None, when: str = "") -> bytes:
    exif = Image.Exif()
    gps: dict[int, Any] = {}
    if place is not None:
        gps |= {1: "N" if place.latitude >= 0 else "S", 2: degrees(place.latitude)}
        gps |= {3: "E" if place.longitude >= 0 else "W", 4: degrees(place.longitude)}
    if heading is not None:
        gps |= {16: "T", 17: IFDRational(round(heading * 100), 100)}
    exif[0x8825] = gps
    exif[0x8769] = {0x9003: when}
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@settings(max_examples=50)
@given(st.none() | cities, st.none() | st.floats(0, 359), st.datetimes())
def test_what_a_camera_wrote_is_read(
    place: Location | None, heading: float | None, when: Any
) -> None:
    data = tagged(place, heading, when.strftime("%Y:%m:%d %H:%M:%S").rjust(19, "0"))
    found = read_capture(data)
    assert found.location == read_position(data)
    assert found.captured_at == when.replace(microsecond=0).isoformat()
    assert (found.heading is None) == (heading is None)
    if heading is not None and found.heading is not None:
        assert found.heading == pytest.approx(round(heading, 2), abs=0.011)
    if place is not None and place.distance_m(Location(0, 0)) > 1:
        assert found.location is not None
        assert found.location.distance_m(place) < 0.1


@settings(max_examples=15)
@given(st.lists(st.none() | cities, min_size=1, max_size=3))
def test_photos_without_a_position_are_problems(places: list[Location | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for i, place in enumerate(places):
            Path(folder, f"{i}.jpg").write_bytes(tagged(place, None))
        found = Found()
        raises_only(lambda: read_exif(Path(folder), 2, found))
    known = [i for i, p in enumerate(places) if p and p.distance_m(Location(0, 0)) > 1]
    if known:
        assert [photo.path.name for photo in found.photos] == [f"{i}.jpg" for i in known]
    assert len(found.problems) == len(places) - len(known)


# Tracks


@st.composite
def tracks(draw: st.DrawFn) -> Track:
    steps = draw(st.lists(st.floats(0.5, 100), min_size=1, max_size=6))
    seconds = tuple(itertools.accumulate(steps, initial=draw(st.integers(0, 2**31)) * 1.0))
    places = [draw(cities)]
    for _ in steps:
        places.append(places[-1].moved(draw(st.floats(-50, 50)), draw(st.floats(-50, 50))))
    return Track(seconds, tuple(places))


@FEW
@given(tracks(), st.floats(0, 1), st.floats(0.5, 30))
def test_a_track_is_covered_between_its_ends(track: Track, part: float, reach: float) -> None:
    second = min(track.start + part * (track.end - track.start), track.end)
    place = track.at(second)
    i = max(i for i, s in enumerate(track.seconds) if s <= second)
    around = track.places[i : i + 2]
    length = around[0].distance_m(around[-1])
    assert place.distance_m(around[0]) <= length * 1.01 + 1e-3
    for known, where in zip(track.seconds, track.places, strict=True):
        assert track.at(known).distance_m(where) < 1e-3
    heading = track.heading(second, reach)
    assert heading is None or 0 <= heading <= 360
    for outside in (track.start - 1, track.end + 1):
        with pytest.raises(LocationError):
            track.at(outside)


@FEW
@given(tracks(), st.floats(1, 500), st.none() | st.floats(-50, 50), st.floats(1, 40))
def test_frames_of_a_video_lie_on_its_track(
    track: Track, duration: float, late: float | None, every: float
) -> None:
    recorded = None if late is None else track.start + late
    shots = raises_only(lambda: plan(track, duration, recorded, every_m=every))
    begin = track.start if recorded is None else recorded
    if shots is None:
        assert begin > track.end or begin + duration < track.start
        return
    for shot in shots:
        track.at(shot.second)  # one it does not cover would raise
        assert -1e-6 <= shot.offset <= duration + 1e-6
        assert shot.second - begin == pytest.approx(shot.offset, abs=1e-6)
    offsets = [shot.offset for shot in shots]
    assert offsets == sorted(offsets)


@settings(max_examples=40)
@given(tracks(), st.text("<>trkpt lat='1'&!", max_size=30))
def test_a_gpx_file_gives_its_track_and_any_other_text_a_clear_error(
    track: Track, junk: str
) -> None:
    points = "".join(
        f"<trkpt lat='{p.latitude!r}' lon='{p.longitude!r}'><time>{iso(s)}</time></trkpt>"
        for s, p in zip(track.seconds, track.places, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        video, path = Path(folder, "v.mp4"), Path(folder, "v.gpx")
        with pytest.raises(OptionError):
            find_track(video, None)
        path.write_text(f"<gpx><trk><trkseg>{points}</trkseg></trk></gpx>")
        assert find_track(video, None) == path == find_track(video, path)
        found = raises_only(lambda: read_gpx(path))
        whole = {read_time(iso(s)) for s in track.seconds}
        assert (found is None) == (len(whole) < 2)
        if found is not None:
            assert found.seconds == tuple(sorted(whole))
            assert found.places[0] == track.places[0]
        path.write_text(junk)
        assert raises_only(lambda: read_gpx(path)) is None


@FEW
@given(st.integers(0, 4_000_000_000) | st.text("0123456789-:.TZ+ ", max_size=26))
def test_times_come_back_and_any_text_is_one_or_a_clear_error(time: int | str) -> None:
    if isinstance(time, int):
        assert read_time(iso(time)) == time
        assert read_time(iso(time).replace("+00:00", "Z")) == time
        return
    found = raises_only(lambda: read_time(time))
    assert found is None or math.isfinite(found)


# Services


@FEW
@given(any_json | numbers)
def test_nothing_of_an_answer_is_believed(value: Any) -> None:
    number, heading, text = read_number(value), read_heading(value), read_text(value)
    assert number is None or math.isfinite(number)
    assert (heading is None) == (number is None) and (heading is None or 0 <= heading < 360)
    assert text.isprintable() and len(text) <= 200
    for geometry in (value, {"coordinates": value}, {"coordinates": [value, 5]}):
        place = read_place(geometry)
        assert place is None or isinstance(place, Location)


@FEW
@given(cities)
def test_a_point_is_read_with_longitude_first(place: Location) -> None:
    assert read_place({"coordinates": [place.longitude, place.latitude, 12]}) == place


areas = st.builds(
    lambda west, south, width, height: Area(west, south, west + width, south + height),
    st.floats(-170, 160), st.floats(-80, 70), st.floats(0.001, 10), st.floats(0.001, 10),
)  # fmt: skip


@FEW
@given(areas | st.text("0123456789.,- nai", max_size=20))
def test_an_area_is_read_from_any_two_corners_or_refused(area: Area | str) -> None:
    if isinstance(area, str):
        found = raises_only(lambda: Area.parse(area))
        assert found is None or (found.west < found.east and found.south < found.north)
        return
    for lon, lat in itertools.permutations((0, 1)):
        x, y = (area.west, area.east), (area.south, area.north)
        text = f"{x[lon]!r},{y[lat]!r},{x[1 - lon]!r},{y[1 - lat]!r}"
        assert Area.parse(text) == area


@settings(max_examples=50)
@given(areas, st.lists(st.tuples(*[st.floats(0, 1)] * 2), max_size=12), st.integers(1, 4))
def test_a_search_finds_every_photo_once(
    area: Area, spots: list[tuple[float, float]], page: int
) -> None:
    everything = [
        Offer(
            "mapillary",
            str(i),
            "",
            Location(
                min(area.south + y * (area.north - area.south), area.north),
                min(area.west + x * (area.east - area.west), area.east),
            ),
        )
        for i, (x, y) in enumerate(dict.fromkeys(spots))
    ]

    def ask(part: Area) -> tuple[list[Offer], bool]:
        inside = [offer for offer in everything if offer.location in part]
        return inside[:page], len(inside) > page

    found = [offer for offers in search([area], ask) for offer in offers]
    assert len({offer.photo_id for offer in found}) == len(found)
    # A metre is not divided further, so of a crowd on one spot some may be missed.
    crowded = any(
        abs(a.location.latitude - b.location.latitude) < 1e-4
        or abs(a.location.longitude - b.location.longitude) < 1e-4
        for a, b in itertools.combinations(everything, 2)
    )
    if not crowded:
        assert {offer.photo_id for offer in found} == {offer.photo_id for offer in everything}


offers = st.lists(
    st.builds(
        Offer, st.sampled_from(["mapillary", "panoramax"]), st.text(min_size=1, max_size=8),
        st.just(""), cities, credit=st.text(max_size=8), licence=st.text(max_size=8),
    ),
    max_size=5, unique_by=lambda offer: (offer.service, offer.photo_id),
)  # fmt: skip


cells = st.text("aé=-+@'; \",\n.0", max_size=6)
kept_rows = st.dictionaries(st.sampled_from(["a.jpg", "b/c.jpg", "d.jpg"]), cells, max_size=3)


@FEW
@given(kept_rows, kept_rows, st.booleans())
def test_a_table_keeps_what_it_says_of_other_photos(
    before: dict[str, str], after: dict[str, str], deleted: bool
) -> None:
    """As read_table reads it, which takes blanks away at both ends."""
    columns = ("image", "latitude", "longitude", "credit")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for image in {*before, *after}:
            (folder / image).parent.mkdir(exist_ok=True)
            (folder / image).touch()
        for said in (before, after):
            place = {"latitude": "-33.5", "longitude": "-0.25"}
            rows = [{"image": image, "credit": who, **place} for image, who in said.items()]
            found = put_rows(folder / "places.csv", columns, rows)
            if said is before and deleted and before:
                (folder / next(iter(before))).unlink()
        there = {image: who for image, who in before.items() if (folder / image).exists()}
        wanted = {**{image: who for image, who in there.items() if image not in after}, **after}
        assert {row["image"]: row["credit"] for row in found} == wanted
        read = tables.read_table(folder)
        assert {
            row.path.relative_to(folder.resolve()).as_posix(): row.texts["credit"] for row in read
        } == {image: who.strip() for image, who in wanted.items()}
        assert {row.location for row in read} <= {Location(-33.5, -0.25)}


@FEW
@given(st.sets(st.sampled_from(layouts.SPLITS)), st.booleans())
def test_the_parts_of_a_benchmark(parts: set[str], below: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        for part in parts:
            Path(name, "images" if below else "", part, "queries").mkdir(parents=True)
        assert {part for part in layouts.SPLITS if layouts.has_split(Path(name), part)} == parts


@settings(max_examples=40)
@given(offers)
def test_attribution_counts_every_photo(given_: list[Offer]) -> None:
    lines = attribution([table_row(offer) for offer in given_]).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert sum(int(row.rstrip("| ").rpartition("| ")[2]) for row in rows) == len(given_)
    assert all(row.count("|") == 5 for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        assert missing(given_, Path(folder, "new")) == given_  # nothing is there yet
        assert len({file_name(offer) for offer in given_}) == len(given_)


@FEW
@given(
    st.text(max_size=30) | st.builds("https://{}@host/{}?token={}#x".format, names, names, names)
)
def test_what_is_shown_of_an_address_has_no_secrets(url: str) -> None:
    shown = plain_url(url)
    assert shown.isprintable() and len(shown) <= 200
    assert not re.fullmatch(r"https://[^/?#]*@host/[^?#]*\?token=.*", url) or "token" not in shown


@FEW
@given(st.text(max_size=10).filter(lambda t: "\0" not in t and t.isprintable()))
def test_servers_are_named_by_the_environment(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANORAMAX_URL", name)
        patch.setenv("MAPILLARY_URL", name)
        patch.setenv("MAPILLARY_TOKEN", name)
        assert panoramax.address("chosen/") == "chosen"
        for found, usual in (
            (panoramax.address(), panoramax.INSTANCE),
            (mapillary.address(), mapillary.SERVER),
        ):
            assert found == (name or usual).rstrip("/")
        secret = raises_only(mapillary.secret)
        assert (secret is None) == (not name.strip() or not name.strip().isascii())
        assert secret is None or secret == {"Authorization": f"OAuth {name.strip()}"}


@FEW
@given(st.text(max_size=12) | st.sampled_from(["org/name", "a/b/c", "../x", "org/na--me"]))
def test_only_names_of_repositories_can_be_pushed_to(repo: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: "hf_x")
        try:
            hub.check_pushable(repo)
        except HubError:
            assert not re.fullmatch("[a-z]+/[a-z]+", repo)
            return
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII) and ".." not in repo


@FEW
@given(st.lists(st.sampled_from(["a", "snapshots", "b"]), max_size=5))
def test_the_commit_of_a_cached_file_follows_snapshots(parts: list[str]) -> None:
    commit = hub.commit_of(Path("/", *parts, "file"))
    pairs = list(itertools.pairwise(parts))
    after = [name for before, name in pairs if before == "snapshots"]
    assert commit == (after[-1] if after else None)


@FEW
@given(st.lists(st.sampled_from([None, 200, 404, 429, 500, 503]), max_size=3))
def test_the_hub_is_out_of_reach_if_nobody_answered(statuses: list[int | None]) -> None:
    error: Exception = HubError("x")
    last = error
    for status in statuses:
        cause = Exception(str(status))
        if status is not None:
            cause.response = argparse.Namespace(status_code=status)  # type: ignore[attr-defined]
        last.__cause__ = cause
        last = cause
    assert isinstance(error, HubError)
    first = next((status for status in statuses if status is not None), None)
    expected = bool(statuses) and (first is None or first >= 500 or first == 429)
    assert unreachable(error) == expected


@settings(max_examples=40)
@given(
    st.sets(st.sampled_from(["a", "b", ".c"])),
    st.lists(st.tuples(st.sampled_from(["p.jpg", "../x", "none"]), st.none() | cities), max_size=2),
    st.text("image,title\n", max_size=20),
)
def test_bundled_cities_are_found_and_their_examples_read_or_refused(
    cities_: set[str], rows: list[tuple[str, Location | None]], junk: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for city in cities_:
            (root / city).mkdir()
            (root / city / "manifest.json").touch()
        assert [path.name for path in find(root)] == sorted(cities_ - {".c"})
        (root / "p.jpg").touch()
        lines = ["image,title,latitude,longitude"]
        lines += [f"{i},T,{p.latitude if p else ''},{p.longitude if p else ''}" for i, p in rows]
        assert read_examples(root) == []
        (root / "examples.csv").write_text("\n".join(lines))
        found = raises_only(lambda: read_examples(root))
        if all(image == "p.jpg" for image, _ in rows):
            assert [example.truth for example in found] == [place for _, place in rows]
        else:
            assert found is None
        (root / "examples.csv").write_text(junk)
        raises_only(lambda: read_examples(root))


# Panoramas and settings


@settings(max_examples=5)
@given(
    st.none() | st.integers(0, 359),
    st.lists(st.integers(0, 359), min_size=1, max_size=2, unique=True),
    st.sampled_from([(64, 32), (64, 40)]),
)
def test_views_of_a_panorama_look_where_they_say(
    middle: int | None, headings: list[int], size: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "p.png")
        drawn(1, size).save(path)
        work = Path(folder, "views")
        place = Place("p", "images/p.jpg", Location(1, 2), middle)
        photos = [SourcePhoto(path, place), SourcePhoto(Path(folder, "other.png"), place)]
        problems: list[str] = []
        found = cut_all(photos, {path}, work, problems, headings=headings)
        assert photos[1] in found and photos[0] not in found
        assert len(problems) == (size[1] != 32)
        if not problems:
            again = views_of(photos[0], work, headings, 90.0)
            assert again == found[:-1] and len(again) == len(headings)
            known = [None if middle is None else heading for heading in headings]
            assert [view.place.heading for view in again] == known
            assert len({view.path for view in again}) == len(again)


@FEW
@given(st.lists(st.text(max_size=6)))
def test_conditions_are_columns_and_values_or_refused(texts: list[str]) -> None:
    found = raises_only(lambda: conditions(texts))
    good = all(text.partition("=")[0] and "=" in text for text in texts)
    assert (found is not None) == good
    if good:
        assert found == dict(text.split("=", 1) for text in texts)


@FEW
@given(
    st.lists(st.floats(-1000, 1000) | st.sampled_from(["nan", "x", ""]), max_size=4),
    st.floats(0, 100),
)
def test_options_are_what_was_said_or_refused(headings: list[Any], thin: float) -> None:
    parser = argparse.ArgumentParser()
    add_source(parser)
    text = ",".join(map(str, headings))
    args = parser.parse_args([f"--headings={text}", f"--thin={thin}", *SOURCE])
    found = raises_only(lambda: options_of(args))
    if {"nan", "x"} & set(map(str, headings)):
        assert found is None
        return
    wanted = [heading % 360 for heading in headings if heading != ""]
    assert found.headings == tuple(dict.fromkeys(wanted)) and found.thin_m == thin


SOURCE = ["--from", "folder"]


@FEW
@given(st.sampled_from(["", "utm", "exif", "nonsense"]), st.sampled_from(["mapillary:1,2", "/x"]))
def test_a_source_is_of_a_known_kind_or_refused(layout: str, source: str) -> None:
    found = raises_only(lambda: kind_of(source, layout))
    if source.startswith("mapillary"):
        assert found == "mapillary"
    else:
        assert found == (layout if layout in ("utm", "exif") else None)


@FEW
@given(st.none() | cities, cities)
def test_answers_become_samples_with_their_errors(truth: Location | None, place: Location) -> None:
    answer = Answer(Query(Path("x"), truth), [0], [0], 1, 1, place, Evidence(0.5, 1, 0.2), {})
    assert answer.error_m == (None if truth is None else truth.distance_m(place))
    [sample] = samples([answer])
    assert (sample.evidence, sample.error_m) == (answer.evidence, answer.error_m)


# Addresses


@FEW
@given(st.ip_addresses(v=4))
def test_an_address_in_disguise_is_no_more_public(address: ipaddress.IPv4Address) -> None:
    plain = is_public(str(address))
    for network in "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16", "224.0.0.0/4":
        assert not (plain and address in ipaddress.ip_network(network))
    # The same machine, mapped and through a translator, which may be inside the network.
    mapped, translated = (
        str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) + int(address)))
        for prefix in ("::ffff:0:0", "64:ff9b::")
    )
    assert not is_public(translated)
    assert plain or not is_public(mapped)
