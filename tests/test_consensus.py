"""Fusing positions: a cluster is found whatever lies around it, everywhere on the globe."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import Location, LocationError
from selavpr.geo import consensus

HOME = Location(48.0, 11.0)
places = st.builds(Location, st.floats(-90, 90), st.floats(-180, 180))


def around(centre: Location, *offsets: tuple[float, float]) -> list[Location]:
    return [centre.moved(east, north) for east, north in offsets]


SQUARE = ((5, 5), (5, -5), (-5, 5), (-5, -5))


def test_one_position_is_itself() -> None:
    location, agreed = consensus([HOME], [0.3])
    assert location.distance_m(HOME) < 1e-6 and agreed == [True]


@pytest.mark.parametrize("first", [0, 4, 6])
def test_a_cluster_among_outliers(first: int) -> None:
    positions = around(HOME, *SQUARE, (900, 0), (0, -5000), (40_000, 40_000), (-400, 300))
    order = positions[first:] + positions[:first]  # whichever comes first
    location, agreed = consensus(order, [1.0] * len(order))
    assert location.distance_m(HOME) < 0.05
    assert [order[i] in positions[:4] for i in range(8)] == agreed


def test_one_heavy_outlier_does_not_outweigh_agreement() -> None:
    positions = around(HOME, *SQUARE, (500, 500))
    location, agreed = consensus(positions, [1, 1, 1, 1, 3.9])
    assert location.distance_m(HOME) < 0.05 and agreed == [True] * 4 + [False]
    location, _ = consensus(positions, [1, 1, 1, 1, 4.1])
    assert location.distance_m(positions[4]) < 0.05


def test_weights_pull() -> None:
    positions = around(HOME, (0, 0), (20, 0))
    location, _ = consensus(positions, [3, 1])
    assert HOME.offset_m(location) == pytest.approx((5, 0), abs=0.01)
    location, _ = consensus(positions, [0, 1])
    assert HOME.offset_m(location) == pytest.approx((20, 0), abs=0.01)


@pytest.mark.parametrize("weight", [0.0, 1e-300, 5e-324, 1e308])
def test_only_the_ratio_of_weights_matters(weight: float) -> None:
    location, agreed = consensus(around(HOME, (0, 0), (10, 0)), [weight] * 2)
    assert HOME.offset_m(location) == pytest.approx((5, 0), abs=0.01) and all(agreed)


@pytest.mark.parametrize(
    "centre",
    [Location(-17, 180), Location(-17, -180), Location(66.5, 179.99999), Location(0, 0),
     Location(-89, 0), Location(89.9, 45)],
    ids=str,
)  # fmt: skip
def test_date_line_equator_and_high_latitudes(centre: Location) -> None:
    positions = around(centre, *SQUARE, (1000, 1000))
    location, agreed = consensus(positions, [1.0] * 5)
    assert location.distance_m(centre) < 0.5 and agreed == [True] * 4 + [False]


def test_poles_never_raise() -> None:
    for pole in (90.0, -90.0):
        positions = [
            Location(pole, 0),
            Location(pole, 120),
            Location(math.copysign(89.9999, pole), 9),
        ]
        location, _ = consensus(positions, [1.0] * 3)
        assert location.distance_m(positions[0]) < 50


@given(st.lists(st.tuples(places, st.floats(0, 1e300)), min_size=1, max_size=12))
def test_any_positions_give_a_place_on_earth(rows: list[tuple[Location, float]]) -> None:
    location, agreed = consensus([place for place, _ in rows], [weight for _, weight in rows])
    assert abs(location.latitude) <= 90 and abs(location.longitude) <= 180
    assert len(agreed) == len(rows) and any(agreed)


@pytest.mark.parametrize(
    ("positions", "weights"),
    [([], []), ([HOME], []), ([HOME], [1, 2]), ([HOME], [-1]), ([HOME], [math.nan]),
     ([HOME, HOME], [1, math.inf])],
)  # fmt: skip
def test_refused(positions: list[Location], weights: list[float]) -> None:
    with pytest.raises(LocationError):
        consensus(positions, weights)
