"""Views out of panoramas, against directions reckoned another way and colours that are known."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import selavpr.panorama
from selavpr import OptionError
from selavpr.geo import Location
from selavpr.panorama import cut_all, directions, view, views_of
from selavpr.sources import SourcePhoto
from selavpr.structs import Place


def rays(turn: float, fov: float, size: tuple[int, int], pitch: float) -> NDArray[np.float64]:
    """Unit vectors (east, north, up) of the pixels, by matrices instead of formulas."""
    width, height = size
    focal = width / 2 / math.tan(math.radians(fov / 2))
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    camera = np.stack([u - width / 2, np.full(u.shape, focal), height / 2 - v], axis=-1)
    p, t = math.radians(pitch), math.radians(turn)
    look_up = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    turn_right = np.array(
        [[math.cos(t), math.sin(t), 0], [-math.sin(t), math.cos(t), 0], [0, 0, 1]]
    )
    world = camera @ (turn_right @ look_up).T
    result: NDArray[np.float64] = world / np.linalg.norm(world, axis=-1, keepdims=True)
    return result


@given(
    st.floats(-720, 720), st.floats(20, 140), st.floats(-80, 80),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)  # fmt: skip
def test_directions(turn: float, fov: float, pitch: float, size: tuple[int, int]) -> None:
    longitude, latitude = directions(turn, fov, size, pitch)
    assert longitude.shape == (size[1], size[0])
    assert (np.abs(longitude) <= 180).all()
    east = np.cos(np.radians(latitude)) * np.sin(np.radians(longitude))
    north = np.cos(np.radians(latitude)) * np.cos(np.radians(longitude))
    found = np.stack([east, north, np.sin(np.radians(latitude))], axis=-1)
    np.testing.assert_allclose(found, rays(turn, fov, size, pitch), atol=1e-9)


def test_the_edges_of_a_view_are_its_field_of_view() -> None:
    longitude, _ = directions(0, 90, (1000, 11))
    middle = longitude[5]
    half_a_pixel = math.degrees(math.atan(1 / 500)) / 2
    assert middle[0] == pytest.approx(-45, abs=half_a_pixel)
    assert middle[-1] == pytest.approx(45, abs=half_a_pixel)


@settings(max_examples=40)
@given(st.floats(0, 360), st.floats(30, 120), st.floats(-60, 60))
def test_a_view_shows_the_directions_it_should(turn: float, fov: float, pitch: float) -> None:
    """A panorama whose colours are smooth functions of direction gives them back in the view."""
    height, width = 180, 360
    lon = np.radians((np.arange(width) + 0.5) / width * 360 - 180)[None, :]
    lat = np.radians(90 - (np.arange(height) + 0.5) / height * 180)[:, None]
    axes = np.cos(lat) * np.sin(lon), np.cos(lat) * np.cos(lon), np.sin(lat) + 0 * lon
    picture = np.rint(127.5 + 100 * np.stack(axes, axis=-1)).astype(np.uint8)
    size = (24, 18)
    shown = view(picture, turn, fov, size, pitch)
    expected = 127.5 + 100 * rays(turn, fov, size, pitch)
    # Two roundings, and the curve between pixels a degree apart: (pi/180)^2/8 of 100 a direction.
    assert np.abs(shown - expected).max() <= 1.1


def test_the_seam_is_like_any_other_place() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
    rolled = np.roll(picture, 64, axis=1)
    np.testing.assert_array_equal(view(picture, 180, 90, (32, 24)), view(rolled, 0, 90, (32, 24)))


def test_poles() -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[0], picture[-1] = 200, 100
    assert (view(picture, 0, 2, (3, 3), pitch=90) == 200).all()
    assert (view(picture, 0, 2, (3, 3), pitch=-90) == 100).all()


@pytest.mark.parametrize(
    ("fov", "size"), [(0, (9, 9)), (151, (9, 9)), (math.nan, (9, 9)), (90, (0, 9))]
)
def test_views_that_no_camera_has(fov: float, size: tuple[int, int]) -> None:
    with pytest.raises(OptionError):
        directions(0, fov, size)


def panorama(folder: Path, name: str = "p", heading: float | None = 30.0) -> SourcePhoto:
    """Grey, but for a red eighth of the turn around the middle."""
    picture = np.full((64, 128, 3), 128, np.uint8)
    picture[:, 56:72] = (255, 0, 0)
    Image.fromarray(picture).save(folder / f"{name}.png")
    place = Place(name, f"images/{name}.jpg", Location(1, 2), heading, credit="Ann", licence="CC0")
    return SourcePhoto(folder / f"{name}.png", place)


def redness(path: Path) -> float:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=float)
    middle = pixels[:, pixels.shape[1] // 2 - 5 : pixels.shape[1] // 2 + 5].mean(axis=(0, 1))
    return float(middle[0] - middle[2])


def test_headings_are_compass_directions(tmp_path: Path) -> None:
    views = views_of(panorama(tmp_path), tmp_path, (30, 120, 300), 40)
    assert [v.place.heading for v in views] == [30, 120, 300]
    assert [v.place.place_id for v in views] == ["p-030", "p-120", "p-300"]
    assert [redness(v.path) > 200 for v in views] == [True, False, False]
    assert {(v.place.credit, v.place.licence, v.place.location) for v in views} == {
        ("Ann", "CC0", Location(1, 2))
    }
    with Image.open(views[0].path) as image:
        assert image.size == (640, 480) and not image.getexif()


def test_without_a_heading_directions_count_from_the_middle(tmp_path: Path) -> None:
    views = views_of(panorama(tmp_path, heading=None), tmp_path, (0, 180), 40)
    assert [v.place.heading for v in views] == [None, None]
    assert [redness(v.path) > 200 for v in views] == [True, False]


def test_cut_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = panorama(tmp_path, "a"), panorama(tmp_path, "b")
    Image.new("RGB", (64, 64)).save(tmp_path / "square.png")
    square = SourcePhoto(tmp_path / "square.png", Place("s", "images/s.jpg", Location(0, 0)))
    problems: list[str] = []
    steps: list[tuple[int, int]] = []
    every = [first, square, other]
    options = {"headings": (0.0, 90.0), "progress": lambda *step: steps.append(step)}
    found = cut_all(every, {p.path for p in every}, tmp_path / "v", problems, **options)
    assert [p.place.place_id for p in found] == ["a-000", "a-090", "b-000", "b-090"]
    assert len(problems) == 1 and "not twice as wide as high" in problems[0]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    # What is there is not cut again.
    before = found[0].path.stat().st_mtime_ns
    monkeypatch.setattr(selavpr.panorama, "_read", None)
    again = cut_all(every, {first.path, other.path}, tmp_path / "v", [], **options)
    assert [p.path for p in again if "square" not in p.path.name] == [p.path for p in found]
    assert found[0].path.stat().st_mtime_ns == before


def test_views_are_of_their_own_panorama(tmp_path: Path) -> None:
    """Names that become the same as files, and a panorama replaced by an older file."""
    red, grey = panorama(tmp_path, "a_b"), panorama(tmp_path, "other")
    Image.new("RGB", (128, 64), (128, 128, 128)).save(grey.path)
    grey = dataclasses.replace(grey, place=dataclasses.replace(grey.place, image="images/a/b.jpg"))
    (tmp_path / "v").mkdir()
    assert redness(views_of(red, tmp_path / "v", (30,), 40)[0].path) > 200
    assert redness(views_of(grey, tmp_path / "v", (30,), 40)[0].path) == 0
    red.path.write_bytes(grey.path.read_bytes())
    os.utime(red.path, (0, 0))
    assert redness(views_of(red, tmp_path / "v", (30,), 40)[0].path) == 0


def test_names_longer_than_any_file_may_have(tmp_path: Path) -> None:
    """A path below the folder, each of whose parts is short enough, becomes one name."""
    (tmp_path / "v").mkdir()
    street = panorama(tmp_path)
    long = "/".join("街" * 29 for _ in range(4))
    found = []
    for name in "ab":
        place = dataclasses.replace(street.place, image=f"images/{long}/{name}.jpg")
        found += views_of(dataclasses.replace(street, place=place), tmp_path / "v", (30,), 40)
    assert all(len(p.place.image.rpartition("/")[2].encode()) < 200 for p in found)
    assert len({p.place.image for p in found}) == 2 and all(p.path.is_file() for p in found)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "v").touch()
    photo = panorama(tmp_path)
    with pytest.raises(OptionError, match="Cannot write views"):
        cut_all([photo], {photo.path}, tmp_path / "v", [])
