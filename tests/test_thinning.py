"""Thinning against the definition, tried pair by pair."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import OptionError
from selavpr.geo import Location
from selavpr.thinning import Spot, apart

HERE = Location(60.17, 24.94)

headings = st.none() | st.floats(0, 360)
nearby = st.builds(
    lambda x, y, h: (HERE.moved(x, y), h), st.floats(-60, 60), st.floats(-60, 60), headings
)
anywhere = st.builds(
    lambda lat, lon, h: (Location(lat, lon), h),
    st.sampled_from([89.99999, 90.0, -90.0, 0.0, 60.0]),
    st.sampled_from([180.0, -180.0, 179.9999, -179.9999, 0.0, 0.0001]),
    headings,
)


def alike(a: Spot, b: Spot, distance: float, turn: float) -> bool:
    if a[0].distance_m(b[0]) > distance or (a[1] is None) != (b[1] is None):
        return False
    if a[1] is None or b[1] is None:
        return True
    difference = abs(a[1] - b[1]) % 360
    return min(difference, 360 - difference) <= turn


@given(
    st.lists(nearby | anywhere, max_size=30), st.sampled_from([1.0, 10.0, 35.0, 500.0]),
    st.sampled_from([0.0, 30.0, 180.0]),
)  # fmt: skip
def test_as_if_every_pair_were_tried(spots: list[Spot], distance: float, turn: float) -> None:
    expected: list[int] = []
    for i, spot in enumerate(spots):
        if not any(alike(spot, spots[j], distance, turn) for j in expected):
            expected.append(i)
    assert apart(spots, distance, turn) == expected


def test_a_street(tmp_path: object) -> None:
    spots = [(HERE.moved(i, 0), 90.0 if i % 2 else 270.0) for i in range(100)]
    assert apart(spots, 0) == list(range(100))
    # Both directions keep one photo every ten metres or a little more.
    assert len(apart(spots, 9.5)) == 20


@pytest.mark.parametrize(("distance", "turn"), [(-1, 30), (math.inf, 30), (5, -1), (math.nan, 1)])
def test_limits_that_are_none(distance: float, turn: float) -> None:
    with pytest.raises(OptionError, match="from 0"):
        apart([], distance, turn)
