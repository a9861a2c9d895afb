"""Agreement on one geometry: planted maps are found among outliers, noise has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr.geometry import MIN_AGREEING, TOLERANCE, agreement

SIZE = (640, 480)
LIMIT = TOLERANCE * np.hypot(*SIZE)  # 24 pixels


def scene(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0), SIZE, (count, 2))


def turned(degrees: float, scale: float = 1.0) -> np.ndarray:
    a = np.radians(degrees)
    return scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


@pytest.mark.parametrize("inliers", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    "linear",
    [np.eye(2), turned(20), turned(-30, 1.5), turned(0, 0.5), np.array([[1.2, 0.3], [-0.1, 0.8]])],
    ids=["same", "turned", "nearer", "farther", "sheared"],
)
def test_a_planted_map_is_found(linear: np.ndarray, inliers: float) -> None:
    count, rng = 400, np.random.default_rng(1)
    query = scene(count)
    candidate = query @ linear.T + (30, -20) + rng.normal(0, 3, (count, 2))
    planted = np.arange(count) < inliers * count
    candidate[~planted] = scene(count, 2)[~planted]
    found = agreement(query, candidate, SIZE)
    assert found[planted].mean() > 0.95
    # Of the outliers only those that land near their place by chance: a disk of 24 pixels' radius
    # holds 0.6 % of the picture.
    assert found[~planted].sum() <= 0.03 * count


def test_identity_agrees_entirely() -> None:
    query = scene(50)
    assert agreement(query, query, SIZE).all()


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_few_in_agreement(seed: int) -> None:
    found = agreement(scene(1800, seed), scene(1800, seed + 100), SIZE)
    assert found.mean() < 0.05


@pytest.mark.parametrize(
    "linear",
    [np.diag([-1.0, 1.0]), np.diag([1.0, -1.0]), turned(180), turned(120), turned(0, 6.0),
     turned(0, 0.1), np.diag([3.9, 0.2])],
    ids=["mirrored", "upside down", "turned over", "lying", "huge", "tiny", "stretched"],
)  # fmt: skip
def test_maps_no_camera_makes_are_passed_over(linear: np.ndarray) -> None:
    query = scene(300)
    candidate = (query - (320, 240)) @ linear.T + (320, 240)
    # Where everything is squeezed onto a spot, a lot is near anything; but not more than that.
    assert agreement(query, candidate, SIZE).mean() < 0.5


@pytest.mark.parametrize("count", range(MIN_AGREEING))
def test_too_few_matches_never_agree(count: int) -> None:
    query = scene(count)
    found = agreement(query, query, SIZE)
    assert found.shape == (count,) and not found.any()


@pytest.mark.parametrize("count", [6, 7, 100])
def test_degenerate_positions_never_raise(count: int) -> None:
    spot = np.full((count, 2), 100.0)
    line = np.column_stack([np.linspace(0, 640, count), np.linspace(0, 480, count)])
    horizontal = np.column_stack([np.linspace(0, 640, count), np.full(count, 240.0)])
    two = np.repeat([[0.0, 0.0], [640.0, 480.0]], [count - 1, 1], axis=0)
    for query in (spot, line, horizontal, two):
        for candidate in (spot, line, horizontal, two, scene(count)):
            found = agreement(query.astype(np.float32), candidate.astype(np.float32), SIZE)
            assert found.shape == (count,) and found.dtype == bool
            assert not found.any()  # no triple of them defines a map
    assert not agreement(scene(count), spot, SIZE).any()


@given(
    st.integers(0, 60).flatmap(
        lambda n: st.lists(
            st.tuples(*[st.sampled_from([0.0, 1.0, 3.5, 100.0, 479.0, 640.0])] * 4),
            min_size=n, max_size=n,
        )
    )
)  # fmt: skip
def test_any_positions_give_an_answer(rows: list[tuple[float, float, float, float]]) -> None:
    points = np.array(rows, dtype=np.float32).reshape(-1, 4)
    found = agreement(points[:, :2], points[:, 2:], SIZE)
    assert found.shape == (len(rows),)
    assert not found.any() or found.sum() >= MIN_AGREEING


def test_the_same_seed_gives_the_same_answer() -> None:
    query, candidate = scene(200), scene(200, 9)
    candidate[:80] = query[:80]
    first = agreement(query, candidate, SIZE)
    assert np.array_equal(first, agreement(query, candidate, SIZE))
