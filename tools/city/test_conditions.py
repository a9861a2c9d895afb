"""Tests that every condition stands under a fitting sun; they need NumPy only."""

import pytest

from tools.city.conditions import CONDITIONS, REFERENCE, Condition
from tools.city.geo import sun_position


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=lambda c: c.name)
def test_the_sun_fits_the_condition(condition: Condition) -> None:
    for moment in condition.moments:
        elevation = sun_position(moment).elevation
        if condition.name == "night":
            assert elevation < -12
        elif condition.name == "evening":
            assert 3 < elevation < 20
        elif condition.name == "snow":
            assert elevation > 3
        else:
            assert elevation > 25


def test_references_are_taken_in_plain_summer_daylight() -> None:
    plain = CONDITIONS[REFERENCE]
    assert (plain.wet, plain.snow, plain.night) == (0, 0, 0)
    assert plain.crowd < CONDITIONS["crowded"].crowd


def test_moments_know_their_offset_from_utc() -> None:
    assert all(m.utcoffset() is not None for c in CONDITIONS.values() for m in c.moments)
