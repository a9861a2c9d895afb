"""Every kind of source becomes photos with places."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_fixtures import draw_town, drawn
from PIL import Image
from street_server import Street, along_a_street
from test_layouts import msls_city, touch, utm_name

from selavpr import DownloadError, LocationError, OptionError
from selavpr.gather import Gathered, Options, gather, kind_of
from selavpr.geo import Location
from selavpr.sources import SourcePhoto

HERE = Location(48.0, 11.0)


def gathered(
    source: object, work: Path, *, layout: str = "", dry: bool = False, **options: Any
) -> Gathered:
    kind = kind_of(str(source), layout)
    return gather(str(source), kind, Options(**{"rate": 100, **options}), work / "work", dry=dry)


def snap(
    path: Path, place: Location | None = HERE, heading: float | None = 90.0, number: int = 0,
    xmp: bytes = b"", size: tuple[int, int] = (112, 84),
) -> Path:  # fmt: skip
    """A photo as a phone saves it."""
    exif = Image.Exif()
    if place is not None:
        exif[0x8825] = {
            1: "N" if place.latitude >= 0 else "S", 2: (abs(place.latitude), 0.0, 0.0),
            3: "E" if place.longitude >= 0 else "W", 4: (abs(place.longitude), 0.0, 0.0),
            **({} if heading is None else {16: "T", 17: heading}),
        }  # fmt: skip
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05"}
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(number, size).save(path, exif=exif, **({"xmp": xmp} if xmp else {}))
    return path


# Folders of photos


def test_photos_with_their_own_positions(tmp_path: Path) -> None:
    snap(tmp_path / "town/day 1/a.jpg")
    snap(tmp_path / "town/day 2/a.jpg", HERE.moved(10, 0), None)
    snap(tmp_path / "town/no.jpg", None)
    (tmp_path / "town/broken.jpg").write_bytes(b"no photo")
    (tmp_path / "town/notes.csv").write_text("what,else\n1,2\n")
    found = gathered(tmp_path / "town", tmp_path, workers=2)
    assert found.kind == "exif" and found.notes == []
    first, second = (photo.place for photo in found.photos)
    assert (first.place_id, first.image) == ("day 1/a", "images/day 1/a.jpg")
    assert first.location.distance_m(HERE) < 0.1 and first.heading == 90
    assert first.captured_at == "2026-01-02T03:04:05" and second.heading is None
    assert sorted(found.problems) == [
        "broken.jpg has no position in its EXIF data.", "no.jpg has no position in its EXIF data."
    ]  # fmt: skip


def test_no_photo_has_a_position(tmp_path: Path) -> None:
    snap(tmp_path / "town/a.jpg", None)
    with pytest.raises(OptionError, match=r"None of the 1 photos .* Write a table places\.csv"):
        gathered(tmp_path / "town", tmp_path)


def test_panoramas_among_photos(tmp_path: Path) -> None:
    xmp = b'<x GPano:ProjectionType="equirectangular"/>'
    snap(tmp_path / "town/a.jpg", xmp=xmp, size=(128, 64))
    snap(tmp_path / "town/b.jpg", xmp=xmp)  # cut to another shape since
    snap(tmp_path / "town/c.jpg", size=(128, 64))  # only looks like one
    found = gathered(tmp_path / "town", tmp_path, headings=(0.0, 180.0))
    assert [p.place.place_id for p in found.photos] == ["a-000", "a-180", "b", "c"]
    assert found.photos[0].path.parent == tmp_path / "work" / "views"
    whole = gathered(tmp_path / "town", tmp_path, headings=())
    assert [p.place.place_id for p in whole.photos] == ["a", "b", "c"]


# Tables


def test_a_table_and_its_folder(tmp_path: Path) -> None:
    town = draw_town(tmp_path / "town", 3)
    by_folder, by_table = gathered(town, tmp_path), gathered(town / "places.csv", tmp_path)
    assert by_folder.kind == by_table.kind == "table"
    assert by_folder.photos == by_table.photos and len(by_folder.photos) == 3
    (town / "places.csv").rename(town / "my photos.csv")
    assert gathered(town, tmp_path).photos == by_folder.photos
    (town / "more.csv").write_text("image,lat,lon\n")
    with pytest.raises(OptionError, match="several tables of photos"):
        gathered(town, tmp_path)


def test_queries_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text(
        "image,lat,lon,role\n1.jpg,48,11,query\n2.jpg,48,11,database\n3.jpg,48,11,any\n4.jpg,,,any\n"
    )
    found = gathered(tmp_path, tmp_path)
    assert [p.place.place_id for p in found.photos] == ["2", "3"]
    assert found.notes == ["1 queries are left out (column role)."]
    assert len(found.problems) == 1 and "line 5" in found.problems[0]
    asked = gathered(tmp_path, tmp_path, where={"role": "query"})
    assert [p.place.place_id for p in asked.photos] == ["1"]


def test_a_table_says_what_is_a_panorama(tmp_path: Path) -> None:
    drawn(1, (128, 64)).save(tmp_path / "1.png")
    (tmp_path / "places.csv").write_text("image,lat,lon,heading,pano\n1.png,48,11,90,true\n")
    found = gathered(tmp_path, tmp_path, headings=(90.0,))
    assert [(p.place.place_id, p.place.heading) for p in found.photos] == [("1-090", 90)]


# Benchmarks


def test_benchmarks(tmp_path: Path) -> None:
    touch(tmp_path / "utm/images/test/database" / utm_name(HERE, heading="5"))
    touch(tmp_path / "utm/images/test/queries" / utm_name(HERE))
    found = gathered(tmp_path / "utm", tmp_path)
    assert found.kind == "utm" and found.notes == ["1 queries are left out."]
    (photo,) = found.photos
    assert photo.place.location == HERE and photo.place.heading == 5
    assert photo.place.image.startswith("images/test/database/@")

    msls_city(tmp_path / "msls" / "cph")
    found = gathered(tmp_path / "msls", tmp_path)
    assert found.kind == "msls"
    assert [p.place.place_id for p in found.photos] == ["database0", "database2"]
    with pytest.raises(OptionError, match="no city"):
        gathered(tmp_path / "msls", tmp_path, cities=("sf",))

    touch(tmp_path / "gsv/Images/Rome/Rome_0000001_2010_11_090_41.9_12.5_pano.JPG")
    found = gathered(tmp_path / "gsv", tmp_path)
    assert found.kind == "gsv-cities" and found.photos[0].place.location == Location(41.9, 12.5)


def test_names_without_a_zone(tmp_path: Path) -> None:
    touch(tmp_path / "t/database" / utm_name(HERE, zone=False, degrees=False))
    found = gathered(tmp_path / "t", tmp_path)
    assert found.photos == [] and "give it with --utm-zone" in found.problems[0]
    (photo,) = gathered(tmp_path / "t", tmp_path, utm_zone="32N").photos
    assert photo.place.location.distance_m(HERE) < 0.1


# Street imagery


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    with along_a_street(HERE, 6, monkeypatch) as served:
        yield served


AREA = "10.99,47.99,11.01,48.01"


@pytest.mark.parametrize(("service", "author"), [("panoramax", "Ann"), ("mapillary", "bob")])
def test_services(street: Street, tmp_path: Path, service: str, author: str) -> None:
    found = gathered(f"{service}:{AREA}", tmp_path)
    assert found.kind == service and found.problems == []
    assert [p.place.place_id for p in found.photos] == [f"{service}-p{i}" for i in range(6)]
    assert found.credits() == [author] and found.licences() == ["CC-BY-SA-4.0"]
    assert found.photos[2].place.location.distance_m(HERE.moved(20, 0)) < 0.1
    assert all(photo.path.is_file() for photo in found.photos)
    # The folder is a source as well; no one is asked.
    street.asked.clear()
    assert gathered(tmp_path / "work", tmp_path).photos == found.photos and not street.asked


def test_the_token_is_for_its_server_only(street: Street, tmp_path: Path) -> None:
    gathered(f"mapillary:{AREA}", tmp_path)
    with_token = {path for path, _, headers in street.asked if "Authorization" in headers}
    assert with_token == {"/images"}
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"secret-token" not in written


def test_services_thinned_and_limited_before_the_download(street: Street, tmp_path: Path) -> None:
    found = gathered(f"panoramax:{AREA}", tmp_path, thin_m=15)
    assert [p.place.place_id[-2:] for p in found.photos] == ["p0", "p2", "p4"]
    assert found.notes == ["3 near-duplicates are left out."]
    assert street.count("/photo/p1.jpg") == 0
    found = gathered(f"panoramax:{AREA}", tmp_path, limit=2)
    assert [p.place.place_id[-2:] for p in found.photos] == ["p0", "p3"]


def test_what_was_downloaded_before_keeps_its_authors(street: Street, tmp_path: Path) -> None:
    """A source gives its own photos only, but the folder knows whose all of them are."""
    west, east = "10.99,47.99,11.0003,48.01", "11.0003,47.99,11.01,48.01"
    street.photos["p1"] |= {"credit": "=Zoé", "licence": "etalab-2.0"}
    first = [photo.path.name for photo in gathered(f"panoramax:{west}", tmp_path).photos]
    for name in street.photos:
        street.photos[name]["credit"] = "Bob"
    second = [photo.path.name for photo in gathered(f"panoramax:{east}", tmp_path).photos]
    assert first and second and len({*first, *second}) == len(first) + len(second) == 6
    folder = tmp_path / "work"
    text = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "6 photos" in text and "| etalab-2.0 | panoramax | =Zoé | 1 |" in text
    assert f"| CC-BY-SA-4.0 | panoramax | Ann | {len(first) - 1} |" in text
    assert f"| CC-BY-SA-4.0 | panoramax | Bob | {len(second)} |" in text
    known = {photo.place.place_id: photo.place for photo in gathered(folder, tmp_path).photos}
    assert len(known) == 6 and known["panoramax-p1"].credit == "=Zoé"
    assert known["panoramax-p0"].location.distance_m(HERE) < 0.1
    # Asked for again, a photo has one row; one that is deleted has none.
    (folder / "photos" / first[0]).unlink()
    again = [photo.path.name for photo in gathered(f"panoramax:{east}", tmp_path).photos]
    assert again == second and len(gathered(folder, tmp_path).photos) == 5


def test_panoramas_of_services(street: Street, tmp_path: Path) -> None:
    street.photos["p1"]["pano"] = True
    found = gathered(f"panoramax:{AREA}", tmp_path, headings=(0.0, 90.0))
    places = {p.place.place_id: p.place for p in found.photos}
    assert len(places) == 7 and places["panoramax-p1-090"].heading == 90
    assert places["panoramax-p1-000"].credit == "Ann"


def test_a_dry_run_downloads_nothing(street: Street, tmp_path: Path) -> None:
    found = gathered(f"panoramax:{AREA}", tmp_path, dry=True)
    assert len(found.offers) == 6 and found.photos == []
    assert {path for path, _, _ in street.asked} == {"/api/search"}
    assert not (tmp_path / "work").exists()


def test_nobody_took_photos_there(street: Street, tmp_path: Path) -> None:
    assert gathered("panoramax:-70,-20,-69.99,-19.99", tmp_path).photos == []


@pytest.mark.parametrize("area", ["1,2,3", "48,139,49,140", "x", "179.9,-17,-179.9,-16"])
def test_areas_that_are_none(street: Street, tmp_path: Path, area: str) -> None:
    with pytest.raises((OptionError, LocationError)):
        gathered(f"panoramax:{area}", tmp_path)
    assert street.asked == []


def test_a_server_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no http"):
        gathered(f"panoramax:{AREA}", tmp_path, server="nonsense")


# All of them


def test_thinned_and_limited(tmp_path: Path) -> None:
    town = draw_town(tmp_path / "town", 12)  # 40 m apart, each turned by 30 degrees
    found = gathered(town, tmp_path, thin_m=100, thin_deg=180)
    assert [p.place.place_id for p in found.photos] == ["p0", "p3", "p6", "p9"]
    assert len(gathered(town, tmp_path, thin_m=100, thin_deg=5).photos) == 12
    limited = gathered(town, tmp_path, limit=5).photos
    assert [p.place.place_id for p in limited] == ["p0", "p2", "p4", "p7", "p9"]


@pytest.mark.parametrize("bad", [{"workers": 0}, {"limit": -1}, {"rate": 0}, {"thin_m": -1}])
def test_options_out_of_range(tmp_path: Path, bad: dict[str, Any]) -> None:
    town = draw_town(tmp_path / "town", 1)
    with pytest.raises(OptionError):
        gathered(town, tmp_path, **bad)


def test_kinds(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean panoramax:"):
        kind_of(str(tmp_path / "absent"))
    assert kind_of(str(touch(tmp_path / "v.MP4"))) == "video"
    assert kind_of("PANORAMAX:1,2,3,4") == "panoramax"
    assert kind_of(str(tmp_path), "exif") == "exif"
    with pytest.raises(OptionError, match="A layout is one of"):
        kind_of(str(tmp_path), "nonsense")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"no places\.csv"):
        gathered(tmp_path / "empty", tmp_path)
    snap(tmp_path / "town/a.jpg")
    with pytest.raises(OptionError, match="--where chooses rows of a table"):
        gathered(tmp_path / "town", tmp_path, where={"a": "b"})
    with pytest.raises(OptionError, match=r"not of this source\.$"):
        gathered(tmp_path / "town", tmp_path, split="test")
    table = draw_town(tmp_path / "drawn", 1)
    with pytest.raises(OptionError, match="--where split=NAME does"):
        gathered(table, tmp_path, split="test")


@pytest.mark.skipif(not importlib.util.find_spec("av"), reason="PyAV is not installed")
def test_a_video(tmp_path: Path) -> None:
    from test_video import film, gpx, track  # noqa: PLC0415 - after the check

    film(tmp_path / "v.mp4", seconds=10)
    gpx(tmp_path / "v.gpx", track((0, 0, 0), (100, 0, 200)))
    found: list[SourcePhoto] = gathered(tmp_path / "v.mp4", tmp_path, every_m=7).photos
    assert len(found) == 3 and found[1].place.location.distance_m(HERE.moved(0, 7)) < 0.1
    (tmp_path / "w.mp4").write_bytes((tmp_path / "v.mp4").read_bytes())
    other = gathered(tmp_path / "w.mp4", tmp_path, gpx=tmp_path / "v.gpx", every_m=7).photos
    assert len(other) == 3 and not {p.path for p in found} & {p.path for p in other}
    assert len(gathered(tmp_path / "work", tmp_path).photos) == 6
    dry = gathered(tmp_path / "v.mp4", tmp_path / "x", every_m=1, dry=True)
    assert (dry.photos, dry.expected, (tmp_path / "x").exists()) == ([], 21, False)
    assert dry.sample and len(dry.sample(tmp_path / "samples")) == 4
