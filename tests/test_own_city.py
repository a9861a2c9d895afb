"""The trial with real photos: which are held out, and what is copied. No network is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from benchmarks import own_city
from benchmarks.own_city import errors_m, hold_out, prepare, with_position
from selavpr.exif import read_position
from selavpr.geo import Location
from selavpr.sources import SourcePhoto, read_folder
from tools.processes import App

HERE = Location(-33.45, -70.66)
PAIRS = [HERE.moved(200 * i, north) for i in range(6) for north in (0, 20)]
ALONE = [HERE.moved(200 * i, 5000) for i in range(3)]


def test_who_is_held_out_leaves_a_photo_in_reach() -> None:
    drawn = set()
    for seed in range(20):
        held, eligible = hold_out([*PAIRS, *ALONE], 4, seed)
        assert eligible == len(PAIRS), "nothing is near those alone"
        assert len({row // 2 for row in held}) == 4, "one of a pair at most"
        assert max(held) < len(PAIRS)
        assert held == hold_out([*PAIRS, *ALONE], 4, seed)[0]
        drawn.add(tuple(held))
    assert len(drawn) > 10, "the seed decides"


def test_no_more_are_held_out_than_can_be_found() -> None:
    assert len(hold_out(PAIRS, 100, 0)[0]) == len(PAIRS) // 2
    assert hold_out(ALONE, 1, 0) == ([], 0)
    assert hold_out(PAIRS, 1, 0, reach_m=19) == ([], 0)
    # In a row of three the middle one serves both others, unless it is drawn first.
    row = [HERE.moved(0, north) for north in (0, 20, 40)]
    assert {len(hold_out(row, 3, seed)[0]) for seed in range(20)} == {1, 2}


def photo(path: Path, seed: int, **options: object) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((64, 48)).save(path, **options)
    return path


@pytest.fixture
def found(tmp_path: Path) -> list[SourcePhoto]:
    rows = ["image,latitude,longitude,heading,condition,role"]
    for i, at in enumerate(PAIRS):
        name = f"walk/{i}.{'png' if i == 3 else 'jpg'}"
        photo(tmp_path / "source" / name, i)
        light = "night" if i > 3 else "day"
        rows.append(f"{name},{at.latitude:.7f},{at.longitude:.7f},{i},{light},database")
    (tmp_path / "source" / "places.csv").write_text("\n".join(rows))
    return read_folder(tmp_path / "source")


def test_the_index_is_built_of_the_others_alone(found: list[SourcePhoto], tmp_path: Path) -> None:
    truths = prepare(found, (8, 3), tmp_path / "out")
    assert [copy.name for copy in truths] == ["walk-8.jpg", "walk-3.png"]
    assert list(truths.values()) == [found[8].place.location, found[3].place.location]
    kept = read_folder(tmp_path / "out" / "reference")
    assert [p.place.location for p in kept] == [
        p.place.location for i, p in enumerate(found) if i not in (8, 3)
    ]
    assert [p.place.heading for p in kept] == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    assert kept[3].path.read_bytes() == found[4].path.read_bytes()
    assert kept[3].path.stat().st_mtime == found[4].path.stat().st_mtime
    with Image.open(next(iter(truths))) as copy, Image.open(found[8].path) as given:
        assert copy.tobytes() == given.tobytes()


def test_another_division_needs_another_folder(found: list[SourcePhoto], tmp_path: Path) -> None:
    assert prepare(found, (1, 6), tmp_path) == prepare(found, (1, 6), tmp_path)
    with pytest.raises(SystemExit, match="choose another folder"):
        prepare(found, (1, 4), tmp_path)


def test_position_is_put_back(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[Base.Orientation] = 6
    turned = photo(tmp_path / "turned.jpg", 1, exif=tags)
    for place in (HERE, Location(51.4778, 0.0015)):
        with_position(turned, place, tmp_path / "copy.jpg")
        read = read_position(tmp_path / "copy.jpg")
        assert read is not None and read.distance_m(place) < 0.1
        with Image.open(tmp_path / "copy.jpg") as image:
            assert image.getexif()[Base.Orientation] == 6
        # Another position than its own would be a lie.
        with_position(tmp_path / "copy.jpg", HERE.moved(900, 0), tmp_path / "again.jpg")
        assert (tmp_path / "again.jpg").read_bytes() == (tmp_path / "copy.jpg").read_bytes()


def test_errors_are_those_of_both_stages() -> None:
    def at(east_m: float) -> dict[str, float]:
        place = HERE.moved(east_m, 0)
        return {"lat": place.latitude, "lon": place.longitude}

    answer = {"global_location": at(300), "candidates": [at(40), at(300)], "location": at(10)}
    assert errors_m(answer, HERE) == pytest.approx((300, 40, 10), rel=0.01)


def test_every_photo_held_out_is_asked_for_and_reported(
    found: list[SourcePhoto],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Path] = []

    @contextmanager
    def app() -> Iterator[App]:
        assert own_city.os.environ["SELAVPR_INDEX"] == str(tmp_path / "out" / "index")
        yield App("http://here", "it serves", 0)

    def ask(client: object, photo: Path) -> dict[str, object]:
        """The first stage is right about the first two photos, the second about all."""
        asked.append(photo)
        truth = next(p.place.location for p in found if f"walk-{p.path.name}" == photo.name)
        far = truth.moved(0, 10 if len(asked) <= 2 else 300)
        first, best = ({"lat": at.latitude, "lon": at.longitude} for at in (far, truth))
        return {
            "global_location": first, "candidates": [best], "location": best, "verdict": "sure"
        }  # fmt: skip

    monkeypatch.setenv("SELAVPR_INDEX", "")  # so that it is put back
    monkeypatch.setattr(own_city, "build", lambda reference, index, title: 61.0)
    monkeypatch.setattr(own_city, "app", app)
    monkeypatch.setattr(own_city, "ask", ask)
    monkeypatch.setattr(own_city, "Client", lambda *_, **__: SimpleNamespace(close=lambda: None))
    options = ["--photos", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["own_city", *options, "--hold-out", "4"])
    assert own_city.main() == 0
    said = capsys.readouterr().out
    assert "12 photos with places (table)" in said and "12 have another within 25 m" in said
    assert len(asked) == len(set(asked)) == 4 and all(photo.name in said for photo in asked)
    assert "global     2 of 4 within 25 m, median 155 m" in said
    assert "re-ranked  4 of 4 within 25 m, median 0 m" in said
    assert "right for 12%" in said, "one photo of the eight left is near each of the four"
    monkeypatch.setattr(sys, "argv", ["own_city", *options, "--hold-out", "7"])
    with pytest.raises(SystemExit, match="fewer than --hold-out 7"):
        own_city.main()
    monkeypatch.setattr(sys, "argv", ["own_city", *options, "--where", "condition=day"])
    with pytest.raises(SystemExit, match="fewer than --hold-out 10"):
        own_city.main()
    assert "4 photos with places (table)" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["own_city", *options, "--where", "day"])
    with pytest.raises(SystemExit, match="takes column=value"):
        own_city.main()
