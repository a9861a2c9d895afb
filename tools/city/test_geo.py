"""Tests of the local frame, headings and the sun; they need NumPy only."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from tools.city import geo


def test_local_frame_goes_there_and_back() -> None:
    lat, lon = geo.to_wgs84(*geo.to_local(60.1661, 24.9512))
    assert lat == pytest.approx(60.1661, abs=1e-10)
    assert lon == pytest.approx(24.9512, abs=1e-10)


def test_a_degree_has_its_length_at_helsinki() -> None:
    assert geo.M_PER_LAT == pytest.approx(111_417, abs=5)
    assert geo.M_PER_LON == pytest.approx(55_500, abs=100)


@pytest.mark.parametrize(
    ("dx", "dy", "heading"), [(0, 1, 0), (1, 0, 90), (0, -1, 180), (-1, 0, 270)]
)
def test_headings_turn_clockwise_from_north(dx: float, dy: float, heading: float) -> None:
    assert geo.heading_of(dx, dy) == pytest.approx(heading)
    assert np.allclose(geo.direction_of(heading), (dx, dy), atol=1e-12)


def test_heading_difference_wraps() -> None:
    assert geo.heading_difference(350, 10) == pytest.approx(20)
    assert geo.heading_difference(90, 270) == pytest.approx(180)


def test_midsummer_sun_culminates_in_the_south() -> None:
    # True noon at 24.944 E in summer time is near 13:22; elevation is 90 - 60.17 + 23.44.
    noon = datetime(2025, 6, 21, 13, 22, tzinfo=timezone(timedelta(hours=3)))
    sun = geo.sun_position(noon)
    assert sun.elevation == pytest.approx(53.27, abs=0.1)
    assert sun.azimuth == pytest.approx(180, abs=1)


def test_winter_night_is_dark_and_the_evening_sun_is_low_in_the_west() -> None:
    winter = timezone(timedelta(hours=2))
    assert geo.sun_position(datetime(2025, 1, 28, 21, tzinfo=winter)).elevation < -20
    evening = geo.sun_position(datetime(2025, 6, 16, 20, tzinfo=timezone(timedelta(hours=3))))
    assert 5 < evening.elevation < 25
    assert 270 < evening.azimuth < 320


def test_naive_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="timezone"):
        geo.sun_position(datetime(2025, 6, 1))


def test_sun_direction_is_a_unit_vector_towards_the_sun() -> None:
    east = geo.SunPosition(elevation=30, azimuth=90).direction()
    assert np.linalg.norm(east) == pytest.approx(1)
    assert east == pytest.approx([np.cos(np.pi / 6), 0, 0.5], abs=1e-12)
