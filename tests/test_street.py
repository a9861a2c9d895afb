"""Street imagery: searching Panoramax and Mapillary, downloading, resuming, crediting."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from street_server import TOKEN, Street, serving

from selavpr import DownloadError, LocationError, OptionError, collecting, mapillary, panoramax
from selavpr.collecting import collect, file_name
from selavpr.download import Fetcher
from selavpr.geo import Location
from selavpr.offers import Area, Offer, search
from selavpr.tables import read_table

AREA = Area(2.0, 48.0, 2.1, 48.1)


@pytest.fixture
def street() -> Iterator[Street]:
    with serving(Street()) as served:
        for i in range(12):
            served.add(f"p{i:02}", 2.0 + i / 120, 48.0 + (i * 5 % 12) / 120, heading=i * 30)
        yield served


def fetcher(street: Street, **options: Any) -> Fetcher:
    return Fetcher(street.address, rate=100, backoff_s=0, **options)


def found_by(
    street: Street, service: Any = panoramax, area: Area = AREA
) -> tuple[list[Offer], list[str]]:
    problems: list[str] = []
    secret = {"Authorization": f"OAuth {TOKEN}"} if service is mapillary else {}
    with fetcher(street, secret=secret) as asking:
        pages = service.find(area, asking, street.address, problems)
        return [offer for page in pages for offer in page], problems


# Areas


def test_an_area_is_two_corners_in_any_order() -> None:
    assert Area.parse("2.1,48.1, 2.0,48") == AREA
    assert str(AREA) == "2.0000000,48.0000000,2.1000000,48.1000000"
    assert Location(48.1, 2.0) in AREA and Location(48.2, 2.05) not in AREA


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,x", "1,2,3,4,5", "a"])
def test_no_area(text: str) -> None:
    with pytest.raises(OptionError, match="lon1,lat1,lon2,lat2"):
        Area.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("1,2,1,3", "differ in both"), ("1,2,3,2", "differ"), ("139,35,140,95", "outside"),
     ("nan,1,2,3", "finite"), ("170,1,190,2", "outside"), ("35.6,139.6,35.7,139.8", "swapped")],
)  # fmt: skip
def test_areas_that_are_none(text: str, words: str) -> None:
    with pytest.raises(LocationError, match=words):
        Area.parse(text)


@given(
    st.floats(-179, 178), st.floats(-89, 88), st.floats(1e-4, 1), st.floats(1e-4, 1),
    st.floats(0.01, 0.2), st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=100)
def test_tiles_cover_an_area(
    west: float, south: float, width: float, height: float, side: float, x: float, y: float
) -> None:
    area = Area(west, south, west + width, south + height)
    tiles = area.tiles(side)
    for tile in tiles:
        assert tile.east - tile.west <= side * 1.0001 and tile.north - tile.south <= side * 1.0001
    place = Location(min(south + y * height, area.north), min(west + x * width, area.east))
    assert any(place in tile for tile in tiles) and any(place in q for q in area.quarters())
    total = sum((t.east - t.west) * (t.north - t.south) for t in tiles)
    assert total == pytest.approx((area.east - area.west) * (area.north - area.south))


def test_a_spot_with_too_many_photos_ends() -> None:
    asked = []

    def ask(area: Area) -> tuple[list[Offer], bool]:
        asked.append(area)
        return [], Location(48, 2) in area

    assert [page for page in search([Area(2, 48, 2.1, 48.1)], ask) if page] == []
    assert len(asked) < 100


# Panoramax


@pytest.mark.parametrize(("limit", "pages"), [(1000, False), (3, True), (3, False)])
def test_panoramax_all_photos_once(street: Street, limit: int, pages: bool) -> None:
    street.limit, street.pages = limit, pages
    # What the server gives at most is less than what is asked for; a short answer is full.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panoramax, "LIMIT", limit)
        offers, problems = found_by(street)
    assert problems == []
    assert sorted(offer.photo_id for offer in offers) == sorted(street.photos)
    (first,) = (offer for offer in offers if offer.photo_id == "p01")
    assert first == Offer(
        "panoramax", "p01", f"{street.address}/photo/p01.jpg", Location(48 + 5 / 120, 2 + 1 / 120),
        30.0, False, "2025-05-01T10:00:00+00:00", "Ann", "CC-BY-SA-4.0",
        f"{street.address}/?pic=p01",
    )  # fmt: skip


def test_panoramax_that_gives_less_than_is_asked_for(street: Street) -> None:
    street.limit, street.counts = 3, True
    assert len(found_by(street)[0]) == 12


def test_panoramax_part_of_an_area(street: Street) -> None:
    offers, _ = found_by(street, area=Area(2.0, 48.0, 2.05, 48.05))
    inside = [
        name for name, about in street.photos.items()
        if about["lon"] <= 2.05 and about["lat"] <= 48.05
    ]  # fmt: skip
    assert [offer.photo_id for offer in offers] == inside and 0 < len(inside) < 12


def test_an_empty_area(street: Street) -> None:
    assert found_by(street, area=Area(-70, -20, -69.9, -19.9)) == ([], [])


def test_panoramax_items_that_are_malformed(street: Street) -> None:
    good = street.item("p00")
    street.photos.clear()
    bad: list[tuple[Any, str]] = [
        (None, "no id"), ([], "no id"), ({}, "no id"), ({"id": 7}, "no id"),
        ({**good, "assets": None}, "no file"), ({**good, "assets": {"sd": {}}}, "no file"),
        ({**good, "geometry": None}, "no valid position"),
        ({**good, "geometry": {"coordinates": [200, 48]}}, "no valid position"),
        ({**good, "geometry": {"coordinates": ["a", "b"]}}, "no valid position"),
        ({**good, "geometry": {"coordinates": 5}}, "no valid position"),
        ({**good, "properties": {}}, "no open licence that is known here: none"),
        ({**good, "properties": {"license": "proprietary"}}, "here: proprietary"),
    ]  # fmt: skip
    street.extra = [item for item, _ in bad]
    offers, problems = found_by(street)
    assert offers == []
    assert all(words in problem for problem, (_, words) in zip(problems, bad, strict=True))


def test_panoramax_unknowns_stay_unknown(street: Street) -> None:
    item = street.item("p00")
    item["properties"] = {"license": "etalab-2.0", "view:azimuth": None, "datetime": 5}
    item["providers"] = "?"
    item["assets"] = {"hd": {"href": "/photo/p00.jpg"}}
    street.photos.clear()
    street.extra = [item]
    ((offer,), problems) = found_by(street)
    assert (offer.heading, offer.panorama, offer.captured_at, offer.credit) == (None, False, "", "")
    assert offer.url == f"{street.address}/photo/p00.jpg" and problems == []


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"features": {}}', b'"x"'])
def test_not_panoramax(street: Street, answer: bytes) -> None:
    street.faults["/api/search"] = [("body", answer)]
    with pytest.raises(DownloadError, match="does not answer as a Panoramax server"):
        found_by(street)


def test_pages_of_another_server_are_not_asked(street: Street) -> None:
    answer = street.search({"bbox": str(AREA), "limit": "500"})
    answer["links"] = [{"rel": "next", "href": "http://example.org/api/search"}]
    street.faults["/api/search"] = [("body", json.dumps(answer).encode())]
    assert len(found_by(street)[0]) == 12


def test_panoramax_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANORAMAX_URL", raising=False)
    assert panoramax.address() == panoramax.INSTANCE
    monkeypatch.setenv("PANORAMAX_URL", "https://x.org/")
    assert panoramax.address() == "https://x.org" and panoramax.address("http://y/") == "http://y"


# Mapillary


@pytest.mark.parametrize("limit", [2000, 2])
def test_mapillary_all_photos_once(
    street: Street, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapillary, "LIMIT", limit)
    offers, problems = found_by(street, mapillary)
    assert sorted(offer.photo_id for offer in offers) == sorted(street.photos) and problems == []
    boxes = [[float(x) for x in query["bbox"].split(",")] for _, query, _ in street.asked]
    assert all((east - west) * (north - south) <= 0.01 for west, south, east, north in boxes)
    (first,) = (offer for offer in offers if offer.photo_id == "p01")
    assert (first.heading, first.credit, first.licence) == (30, "bob", "CC-BY-SA-4.0")
    assert first.captured_at == "2023-11-14T22:13:20+00:00"


def test_mapillary_photos_on_borders_come_once(street: Street) -> None:
    """Searches go by the phone's position; what counts is the computed one, some metres off."""
    street.photos.clear()
    off = 0.0004
    street.add("outside", 1.9999, 48.05, gps=(2.0 + off, 48.05))
    street.add("inside", 2.0001, 48.05, gps=(2.0001 - off, 48.05))
    street.add("north", 2.02, 48.1, gps=(2.02, 48.1 + off))
    street.add("corner", 2.1, 48.0, gps=(2.1 + off, 48.0 - off))
    for i in range(101):  # some lie just where two of the areas meet that are asked for
        street.add(f"row{i}", 2.0 + i / 1000, 48.05)
        street.add(f"across{i}", 2.05, 48.0 + i / 1000, gps=(2.05 - off, 48.0 + i / 1000))
    offers, problems = found_by(street, mapillary)
    found = sorted(offer.photo_id for offer in offers)
    assert found == sorted(street.photos.keys() - {"outside"}) and problems == []


def test_mapillary_divides_what_is_too_much(street: Street) -> None:
    street.faults["/images"] = [("status", 500)] * 6
    offers, _ = found_by(street, mapillary)
    assert len(offers) == 12


def test_mapillary_is_down(street: Street) -> None:
    street.faults["/images"] = [("status", 500)] * 999
    with pytest.raises(DownloadError, match="500"):
        found_by(street, mapillary)
    assert street.count("/images") == 4 * 6


def test_the_token(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAPILLARY_TOKEN", raising=False)
    with pytest.raises(OptionError, match="MAPILLARY_TOKEN"):
        mapillary.secret()
    monkeypatch.setenv("MAPILLARY_TOKEN", "bad\ntoken")
    with pytest.raises(OptionError) as error:
        mapillary.secret()
    assert "bad" not in str(error.value)
    monkeypatch.setenv("MAPILLARY_TOKEN", "MLY|wrong|hush")
    with fetcher(street, secret=mapillary.secret()) as asking:
        with pytest.raises(DownloadError, match="check MAPILLARY_TOKEN") as refused:
            list(mapillary.find(AREA, asking, street.address, []))
    assert "hush" not in str(refused.value) and street.count("/images") == 1


def test_mapillary_items_that_are_malformed(street: Street) -> None:
    good = street.images({"bbox": str(AREA)})["data"][0]
    street.photos.clear()
    bad: list[tuple[Any, str]] = [
        (None, "no id"), ({**good, "id": "../x"}, "no id"), ({**good, "id": 5}, "no id"),
        ({**good, "thumb_2048_url": None}, "no file"),
        ({**good, "computed_geometry": None}, "no valid position"),
        ({**good, "computed_geometry": {"coordinates": [2, 95]}}, "no valid position"),
    ]  # fmt: skip
    street.extra = [item for item, _ in bad]
    with fetcher(street, secret={"Authorization": f"OAuth {TOKEN}"}) as asking:
        problems: list[str] = []
        pages = mapillary.find(Area(2, 48, 2.01, 48.01), asking, street.address, problems)
        assert [offer for page in pages for offer in page] == []
    assert all(words in problem for problem, (_, words) in zip(problems, bad, strict=True))
    unknown, _ = mapillary.read_item({**good, "captured_at": "?", "creator": None})
    assert unknown is not None and (unknown.captured_at, unknown.credit) == ("", "")


# Downloading


def collected(street: Street, folder: Path, workers: int = 3) -> tuple[Any, list[str]]:
    problems: list[str] = []
    offers, _ = found_by(street)
    with fetcher(street) as asking:
        return collect(offers, folder, asking, problems, workers=workers), problems


def test_collect(street: Street, tmp_path: Path) -> None:
    street.photos["p03"] |= {"licence": "etalab-2.0", "credit": "Zoé | <b>"}
    steps: list[tuple[int, int]] = []
    offers, _ = found_by(street)
    with fetcher(street) as asking:
        done = collect(
            offers, tmp_path / "x", asking, [], progress=lambda *step: steps.append(step)
        )
    assert (len(done.names), done.downloaded) == (12, 12)
    assert steps[-1] == (12, done.bytes) and len(steps) == 12
    with (tmp_path / "x" / "places.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"panoramax-p{i:02}" for i in range(12)]
    assert rows[3]["licence"] == "etalab-2.0" and rows[3]["credit"] == "Zoé | <b>"
    for name, row in zip(sorted(street.photos), rows, strict=True):
        assert (tmp_path / "x" / row["image"]).read_bytes() == street.picture(name)
    text = (tmp_path / "x" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "| CC-BY-SA-4.0 | panoramax | Ann | 11 |" in text
    assert "| etalab-2.0 | panoramax | Zoé b | 1 |" in text


def test_credits_run_in_no_spreadsheet(street: Street, tmp_path: Path) -> None:
    street.photos["p03"] |= {"credit": "@zoé"}
    collected(street, tmp_path / "x")
    assert ",'@zoé," in (tmp_path / "x" / "places.csv").read_text(encoding="utf-8")
    assert read_table(tmp_path / "x")[3].texts["credit"] == "@zoé"


def test_what_is_there_and_whole_is_not_fetched_again(street: Street, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    collected(street, folder)
    before = (folder / "places.csv").read_bytes()
    photos = folder / "photos"
    (photos / "panoramax-p01.jpg").write_bytes(b"cut off")
    (photos / "panoramax-p02.jpg").unlink()
    changed = bytearray((photos / "panoramax-p04.jpg").read_bytes())
    changed[-20] ^= 1
    (photos / "panoramax-p04.jpg").write_bytes(changed)
    with (folder / "downloads.jsonl").open("a") as journal:
        journal.write('{"name": "panoramax-p05.jpg", "by\nnonsense\n[]\n')
    street.asked.clear()
    again, _ = collected(street, folder)
    assert (len(again.names), again.downloaded) == (12, 3)
    asked = sorted(path for path, _, _ in street.asked if path.startswith("/photo/"))
    assert asked == ["/photo/p01.jpg", "/photo/p02.jpg", "/photo/p04.jpg"]
    assert (folder / "places.csv").read_bytes() == before
    assert collecting.missing(found_by(street)[0], folder) == []


def test_a_download_that_is_stopped_goes_on(street: Street, tmp_path: Path) -> None:
    def stop(done: int, size: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    offers, _ = found_by(street)
    with pytest.raises(KeyboardInterrupt):
        with fetcher(street) as asking:
            collect(offers, tmp_path / "x", asking, [], workers=1, progress=stop)
    assert not list((tmp_path / "x" / "photos").glob("*.part"))
    street.asked.clear()
    done, _ = collected(street, tmp_path / "x")
    assert len(done.names) == 12 and 12 - 4 - 4 <= done.downloaded <= 12 - 4


def test_bad_photos_are_listed(street: Street, tmp_path: Path) -> None:
    street.faults = {
        "/photo/p01.jpg": [("status", 404)], "/photo/p02.jpg": [("cut",)] * 99,
        "/photo/p03.jpg": [("body", b"<html>not found</html>")],
        "/photo/p04.jpg": [("length", 10**12)],
    }  # fmt: skip
    done, problems = collected(street, tmp_path / "x")
    assert len(done.names) == 8
    assert sorted(problem.split(":")[0] for problem in problems) == [
        f"panoramax photo 'p{i:02}'" for i in (1, 2, 3, 4)
    ]
    assert "no photo" in " ".join(problems) and "404" in " ".join(problems)
    names = {path.name for path in (tmp_path / "x" / "photos").iterdir()}
    assert names == {f"panoramax-p{i:02}.jpg" for i in (0, 5, 6, 7, 8, 9, 10, 11)}
    street.faults.clear()
    assert collected(street, tmp_path / "x")[0].downloaded == 4


def test_a_folder_of_something_else(street: Street, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OptionError, match="holds something else"):
        collected(street, tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "mine" / "photos").mkdir(parents=True)
    (tmp_path / "mine" / "places.csv").write_text("mine")
    for other in ("file", "mine"):
        with pytest.raises(OptionError, match="holds something else"):
            collected(street, tmp_path / other)
    assert (tmp_path / "mine" / "places.csv").read_text() == "mine"


@given(st.lists(st.text(min_size=1, max_size=90), min_size=2, max_size=6, unique=True))
def test_names_of_files_are_safe_and_differ(ids: list[str]) -> None:
    names = [
        file_name(Offer("panoramax", photo_id, "", Location(0, 0))).lower() for photo_id in ids
    ]
    assert len(set(names)) == len(ids)
    for name in names:
        assert "/" not in name and "\\" not in name and len(name) < 120
        assert name.startswith("panoramax-") and name.endswith(".jpg") and name.isascii()


# Whatever a server sends

ITEM = {"geometry": {"coordinates": [10**400, 10**400]}}
AZIMUTH = {"properties": {"license": "CC-BY-4.0", "view:azimuth": 10**400}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.just(10**400) | st.sampled_from(["CC-BY-4.0", "http://x/y.jpg", "p1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "id", "properties", "assets", "sd", "href", "geometry", "coordinates", "license",
            "view:azimuth", "pers:interior_orientation", "field_of_view", "providers", "name",
            "thumb_2048_url", "computed_geometry", "creator", "username", "captured_at", "links",
            "computed_compass_angle", "datetime", "geovisio:producer",
        ]), inner, max_size=6),
    max_leaves=12,
)  # fmt: skip


def mutations(item: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The item with some of its fields, or fields of its fields, replaced by anything."""
    changed = st.dictionaries(st.sampled_from(sorted(item)), json_values, max_size=2)
    inner = [name for name, value in item.items() if isinstance(value, dict)]
    deep = st.sampled_from(inner).flatmap(
        lambda name: st.dictionaries(
            st.sampled_from(sorted(item[name])), json_values, max_size=2
        ).map(lambda more: {name: {**item[name], **more}})
    )
    return st.builds(lambda *parts: {**item, **parts[0], **parts[1]}, changed, deep)


GOOD = Street("http://x")
GOOD.add("p1", 2.0, 48.0)


@settings(max_examples=100)
@given(json_values | mutations(GOOD.item("p1")))
@example({**GOOD.item("p1"), **ITEM})
@example({**GOOD.item("p1"), **AZIMUTH})
@example({**GOOD.item("p1"), "assets": {"sd": {"href": "http://[x"}}})
@example({**GOOD.item("p1"), "properties": {"license": "CC-BY-4.0", "view:azimuth": -1e-20}})
def test_any_item_of_panoramax(item: Any) -> None:
    offer, why = panoramax.read_item(item, "http://x")
    assert (offer is None) == bool(why) and why.isprintable()
    if offer is not None:
        assert offer.heading is None or 0 <= offer.heading < 360
        assert offer.credit.isprintable() and file_name(offer)


MAPILLARY = GOOD.images({"bbox": "1,47,3,49"})["data"][0]


@settings(max_examples=100)
@given(json_values | mutations(MAPILLARY))
@example({**MAPILLARY, "computed_geometry": ITEM["geometry"]})
@example({**MAPILLARY, "computed_compass_angle": 10**400, "captured_at": 10**400})
@example({**MAPILLARY, "creator": {"username": "a\nb\x1b[31m"}})
def test_any_item_of_mapillary(item: Any) -> None:
    offer, why = mapillary.read_item(item)
    assert (offer is None) == bool(why) and why.isprintable()
    if offer is not None:
        assert offer.heading is None or 0 <= offer.heading < 360
        assert offer.credit.isprintable() and file_name(offer)
