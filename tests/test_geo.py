from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import Location, LocationError
from selavpr.geo import EARTH_RADIUS_M

# Half the circumference of the sphere: nothing is farther away than the antipode.
HALF_WAY = math.pi * EARTH_RADIUS_M
DEGREE = HALF_WAY / 180  # 111,195.08 m

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
locations = st.builds(Location, latitudes, longitudes)


@pytest.mark.parametrize(
    ("latitude", "longitude"), [(90, 180), (-90, -180), (0, 0), (52.52, 13.405), (-0.0, 180.0)]
)
def test_places_on_earth_are_accepted(latitude: float, longitude: float) -> None:
    place = Location(latitude, longitude)
    assert (place.latitude, place.longitude) == (latitude, longitude)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(LocationError, match="finite"):
        Location(bad, 0)
    with pytest.raises(LocationError, match="finite"):
        Location(0, bad)


@pytest.mark.parametrize(
    ("latitude", "longitude", "swapped"),
    [
        (139.69, 35.68, True),  # Tokyo as (lon, lat)
        (-122.4, 37.8, True),
        (91, 90, True),
        (139.69, 135.68, False),  # swapping would not help
        (181, 35, False),
        (90.0001, 120, False),
    ],
)
def test_latitude_out_of_range(latitude: float, longitude: float, swapped: bool) -> None:
    with pytest.raises(LocationError, match="Latitude") as caught:
        Location(latitude, longitude)
    assert ("swapped" in str(caught.value)) == swapped


@pytest.mark.parametrize("longitude", [180.0001, -181, 1e300])
def test_longitude_out_of_range(longitude: float) -> None:
    with pytest.raises(LocationError, match="Longitude"):
        Location(10, longitude)


@given(st.floats(), st.floats())
def test_any_two_numbers_are_a_place_or_a_location_error(latitude: float, longitude: float) -> None:
    on_earth = abs(latitude) <= 90 and abs(longitude) <= 180  # false for NaN
    if on_earth:
        Location(latitude, longitude)
    else:
        with pytest.raises(LocationError):
            Location(latitude, longitude)


def test_one_degree() -> None:
    equator = Location(0, 0)
    assert pytest.approx(111_195.08, abs=0.01) == DEGREE
    assert equator.distance_m(Location(1, 0)) == pytest.approx(DEGREE, rel=1e-9)
    assert equator.distance_m(Location(0, 1)) == pytest.approx(DEGREE, rel=1e-9)
    # A degree of latitude is as long anywhere; one of longitude shrinks with the cosine.
    assert Location(60, 5).distance_m(Location(61, 5)) == pytest.approx(DEGREE, rel=1e-9)
    shrunk = Location(60, 0).distance_m(Location(60, 0.001))
    assert shrunk == pytest.approx(DEGREE * 0.001 * math.cos(math.radians(60)), rel=1e-6)


def test_a_metre_is_measured_as_a_metre() -> None:
    """The formula must not lose small distances: 25 m decides whether an answer is right."""
    here = Location(52.5, 13.4)
    for metres in (0.01, 1.0, 25.0):
        there = Location(52.5 + metres / DEGREE, 13.4)
        assert here.distance_m(there) == pytest.approx(metres, abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [((0, 0), (0, 180)), ((90, 0), (-90, 77)), ((52.5, 13.4), (-52.5, -166.6))],
)
def test_antipodes_are_half_way_round(
    first: tuple[float, float], second: tuple[float, float]
) -> None:
    assert Location(*first).distance_m(Location(*second)) == pytest.approx(HALF_WAY, rel=1e-7)


def test_the_date_line_is_no_border() -> None:
    west, east = Location(-17, 179.9995), Location(-17, -179.9995)
    expected = DEGREE * 0.001 * math.cos(math.radians(17))
    assert west.distance_m(east) == pytest.approx(expected, rel=1e-6)
    assert Location(5, 180).distance_m(Location(5, -180)) == pytest.approx(0, abs=1e-6)


def test_all_longitudes_meet_at_a_pole() -> None:
    assert Location(90, -120).distance_m(Location(90, 60)) == pytest.approx(0, abs=1e-6)


@given(locations, locations)
def test_distances_are_symmetric_and_bounded(a: Location, b: Location) -> None:
    there, back = a.distance_m(b), b.distance_m(a)
    assert there == pytest.approx(back, rel=1e-12, abs=1e-9)
    assert 0 <= there <= HALF_WAY * (1 + 1e-12)
    assert a.distance_m(a) == 0


@given(locations, locations, locations)
def test_a_detour_is_never_shorter(a: Location, b: Location, c: Location) -> None:
    assert a.distance_m(c) <= a.distance_m(b) + b.distance_m(c) + 0.5  # asin near antipodes


def test_a_location_is_a_value() -> None:
    assert Location(1, 2) == Location(1.0, 2.0)
    assert len({Location(1, 2), Location(1, 2), Location(2, 1)}) == 2
    with pytest.raises(AttributeError):
        Location(1, 2).latitude = 3  # type: ignore[misc]
