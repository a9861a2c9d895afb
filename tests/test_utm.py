"""UTM against integrals, symmetry, a published point, and itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import LocationError
from selavpr.geo import Location
from selavpr.utm import from_utm, read_zone, to_utm


@given(st.floats(-84, 84), st.floats(-180, 180))
def test_there_and_back(latitude: float, longitude: float) -> None:
    place = Location(latitude, longitude)
    back = from_utm(*to_utm(place))
    assert back.distance_m(place) < 1e-3


@given(st.floats(-80, 80), st.floats(-3, 3), st.integers(1, 60))
def test_it_is_conformal(latitude: float, turn: float, zone: int) -> None:
    """A small step is as long and turns as much whichever way it is taken."""
    middle = 6 * zone - 183
    place = Location(latitude, middle + turn)
    step = 1e-4
    # Metres per degree along the parallel and the meridian of the ellipsoid.
    a, e2 = 6_378_137.0, 0.00669437999014
    root = math.sqrt(1 - e2 * math.sin(math.radians(latitude)) ** 2)
    east_m = math.radians(step) * a / root * math.cos(math.radians(latitude))
    north_m = math.radians(step) * a * (1 - e2) / root**3
    east, north, *_ = to_utm(place, zone)
    (e1, n1), (e2_, n2) = (
        (to_utm(other, zone)[0] - east, to_utm(other, zone)[1] - north)
        for other in (
            Location(latitude, place.longitude + step), Location(latitude + step, place.longitude)
        )
    )  # fmt: skip
    if latitude < 0 <= latitude + step:
        return  # the false northing begins here
    k1, k2 = math.hypot(e1, n1) / east_m, math.hypot(e2_, n2) / north_m
    assert k1 == pytest.approx(k2, rel=1e-5) and 0.9995 < k1 < 1.001
    assert e1 * e2_ + n1 * n2 == pytest.approx(0, abs=1e-4 * east_m * north_m)


@pytest.mark.parametrize("latitude", [10.0, 48.5, 75.0])
def test_the_central_meridian_is_the_arc_of_the_ellipse(latitude: float) -> None:
    a, e2 = 6_378_137.0, 0.00669437999014
    phi = np.linspace(0, math.radians(latitude), 200_001)
    slope = a * (1 - e2) / (1 - e2 * np.sin(phi) ** 2) ** 1.5
    arc = float(((slope[1:] + slope[:-1]) / 2 * np.diff(phi)).sum())
    east, north, zone, south = to_utm(Location(latitude, 9.0))
    assert (zone, south) == (32, False)
    assert east == pytest.approx(500_000, abs=1e-6) and north == pytest.approx(0.9996 * arc)
    assert to_utm(Location(-latitude, 9.0))[1] == pytest.approx(10_000_000 - 0.9996 * arc)


def test_a_published_point() -> None:
    """The CN Tower, as Wikipedia's article on UTM has it: 17N 630084 4833438."""
    east, north, zone, _ = to_utm(
        Location(43 + 38 / 60 + 33.24 / 3600, -79 - 23 / 60 - 13.7 / 3600)
    )
    assert (zone, round(east), round(north)) == (17, 630084, 4833439)


@pytest.mark.parametrize(
    ("text", "zone"),
    [("32N", (32, False)), (" 23 s ", (23, True)), ("17", (17, False)), ("10T", (10, False)),
     ("56H", (56, True)), ("1c", (1, True)), ("60X", (60, False))],
)  # fmt: skip
def test_zones(text: str, zone: tuple[int, bool]) -> None:
    assert read_zone(text) == zone


@pytest.mark.parametrize("text", ["", "N", "0N", "61N", "32O", "32I", "123", "-1N", "3.2N", "³N"])
def test_no_zones(text: str) -> None:
    with pytest.raises(LocationError):
        read_zone(text)


@pytest.mark.parametrize(
    ("east", "north"), [(0.0, 0.0), (5e6, 5e5), (math.nan, 1.0), (5e5, 2e7), (5e5, math.inf)]
)
def test_no_coordinates(east: float, north: float) -> None:
    with pytest.raises(LocationError, match="no UTM coordinates"):
        from_utm(east, north, 32)


def test_too_far_from_the_zone() -> None:
    for place, zone in ((Location(0, 100), 1), (Location(89, 9), None)):
        with pytest.raises(LocationError, match="cannot be given in UTM"):
            to_utm(place, zone)
