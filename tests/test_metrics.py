"""Every number of an evaluation against one worked by hand or counted out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import Location, metrics

INF = math.inf


def test_first_hits_by_hand() -> None:
    hits = metrics.first_hits([[4, 2, 9], [1, 2], [], [7]], [{9, 2}, {5}, {1}, set()])
    assert hits.tolist() == [2, INF, INF, INF]


def test_lists_and_truths_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        metrics.first_hits([[1]], [])


def test_recall_counts_the_first_n() -> None:
    hits = np.array([1, 2, 6, INF])
    assert [metrics.recall(hits, n).value for n in (1, 5, 10)] == [0.25, 0.5, 0.75]


def test_the_interval_covers_what_it_says() -> None:
    """Of samples drawn at a known rate, about 95 % of the intervals hold it; never certainty."""
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(300):
        hits = np.where(rng.random(100) < 0.8, 1.0, INF)
        score = metrics.recall(hits, 1, seed)
        assert 0 <= score.low <= score.value <= score.high <= 1
        inside += score.low <= 0.8 <= score.high
    assert 0.90 <= inside / 300 <= 0.98


def test_the_interval_is_the_same_every_time() -> None:
    hits = np.array([1, INF, 1, 1, INF])
    assert metrics.recall(hits, 1) == metrics.recall(hits, 1)


@pytest.mark.parametrize(("right", "low", "high"), [(10, 0.722, 1.0), (0, 0.0, 0.278)])
def test_no_certainty_from_ten_queries(right: int, low: float, high: float) -> None:
    """Wilson's interval for 10 of 10 begins at 1 / (1 + z^2 / 10) = 0.7225."""
    score = metrics.recall(np.array([1.0] * right + [INF] * (10 - right)), 1)
    assert (score.low, score.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_wilson_of_nothing_says_nothing() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("right", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
def test_chance_equals_counting_all_orders(right: int, n: int) -> None:
    orders = list(itertools.combinations(range(5), min(n, 5)))
    counted = sum(any(row < right for row in order) for order in orders) / len(orders)
    assert metrics.chance([set(range(right))], 5, n) == pytest.approx(counted)


def test_chance_is_the_mean_over_queries() -> None:
    assert metrics.chance([{0}, set(), {1, 2}], 4, 1) == pytest.approx((1 / 4 + 0 + 2 / 4) / 3)
    assert metrics.chance([], 4, 1) == 0


def test_quantiles() -> None:
    assert metrics.quantiles([1, 2, 3, 4, 100]) == [3, pytest.approx(61.6)]
    assert metrics.quantiles([]) == [None, None]


scored = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.booleans()), min_size=2, max_size=20
).filter(lambda rows: {label for _, label in rows} == {True, False})


@given(scored)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    good = [s for s, label in rows if label]
    bad = [s for s, label in rows if not label]
    pairs = [(a > b) + (a == b) / 2 for a in good for b in bad]
    assert metrics.roc_auc(*zip(*rows, strict=True)) == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_one_kind_is_unknown() -> None:
    assert metrics.roc_auc([1, 2], [True, True]) is None
    assert metrics.average_precision([1, 2], [False, False]) is None


def test_precision_recall_by_hand() -> None:
    thresholds, precision, found = metrics.precision_recall(
        [0.9, 0.8, 0.8, 0.1], [True, True, False, True]
    )
    assert thresholds.tolist() == [0.9, 0.8, 0.1]
    assert precision.tolist() == pytest.approx([1, 2 / 3, 3 / 4])
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    area = (1 + 2 / 3 + 3 / 4) / 3
    assert metrics.average_precision([0.9, 0.8, 0.8, 0.1], [1, 1, 0, 1]) == pytest.approx(area)


def test_calibration_error_by_hand() -> None:
    """Claims of 0.95, half of them true: 0.45 off; claims of 0.05 never true: 0.05 off."""
    claimed, happened = [0.95] * 4 + [0.05] * 4, [1, 0, 1, 0, 0, 0, 0, 0]
    assert metrics.calibration_error(claimed, happened) == pytest.approx((0.45 + 0.05) / 2)
    assert metrics.calibration_error([1.0, 0.0], [True, False]) == 0
    assert metrics.calibration_error([], []) == 0


places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(st.lists(places, min_size=1, max_size=3), st.lists(places, min_size=1, max_size=3))
def test_great_circles_are_those_of_locations(
    here: list[tuple[float, float]], there: list[tuple[float, float]]
) -> None:
    expected = [[Location(*a).distance_m(Location(*b)) for b in there] for a in here]
    assert metrics.great_circle_m(here, there) == pytest.approx(np.array(expected), abs=2, rel=1e-6)
