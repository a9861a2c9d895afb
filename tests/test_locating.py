"""First place and fused position: agreement outvotes a narrow leader, never a clear one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr.geo import Location
from selavpr.locating import NARROW, RADIUS_M, VOTING, beside, foremost, fused
from selavpr.structs import Candidate, Place

HOME = Location(60.0, 25.0)
FAR = HOME.moved(500, 0)


def candidate(
    rank: int, location: Location, matches: int | None, similarity: float = 0.9
) -> Candidate:
    return Candidate(Place(f"p{rank}", "", location), rank, rank, rank, similarity, matches)


def listed(*rows: tuple[Location, int]) -> list[Candidate]:
    ordered = sorted(rows, key=lambda row: -row[1])
    return [candidate(i, place, count) for i, (place, count) in enumerate(ordered, 1)]


# Elsewhere, each alone, at the level of chance: the median of all counts is 100.
CHANCE = tuple((HOME.moved(0, 1000 + 100 * i), 100) for i in range(10))


def test_three_that_agree_outvote_a_narrow_leader() -> None:
    """1.0 for the leader alone against 3 x 0.9 for those that agree."""
    agreeing = [(HOME.moved(0, 5 * i), 190) for i in (-1, 0, 1)]
    found = fused(listed((FAR, 200), *agreeing, *CHANCE))
    assert found.distance_m(HOME) < 1


def test_a_clear_leader_is_not_outvoted() -> None:
    """1.0 against 3 x 0.3."""
    agreeing = [(HOME.moved(0, 5 * i), 130) for i in (-1, 0, 1)]
    assert fused(listed((FAR, 200), *agreeing, *CHANCE)).distance_m(FAR) < 0.01


def test_within_the_place_the_best_decides() -> None:
    """Weights 1 and 0.5 to the power of 8: 20 m times 1/257."""
    near = HOME.moved(20, 0)
    found = fused(listed((HOME, 200), (near, 150), *CHANCE))
    assert HOME.offset_m(found)[0] == pytest.approx(20 / 257, abs=0.01)


def test_two_equals_meet_in_the_middle() -> None:
    found = fused(listed((HOME, 200), (HOME.moved(20, 0), 200), *CHANCE))
    assert HOME.offset_m(found)[0] == pytest.approx(10, abs=0.01)


def test_without_matches_similarity_decides() -> None:
    rows = [(HOME, 0.9), (HOME.moved(10, 0), 0.8), (FAR, 0.7), (FAR, 0.5), (FAR, 0.3)]
    found = fused([candidate(i, place, None, s) for i, (place, s) in enumerate(rows, 1)])
    # Above the median of 0.7: 1 and 0.5, to the power of 8.
    assert HOME.offset_m(found)[0] == pytest.approx(10 / 257, abs=0.01)


def test_candidates_that_were_not_re_ranked_have_no_vote() -> None:
    rest = [candidate(i, HOME.moved(0, i), None) for i in range(3, 9)]
    assert fused([candidate(1, FAR, 80), candidate(2, HOME, 60), *rest]).distance_m(FAR) < 0.01


@given(
    st.lists(
        st.tuples(
            st.builds(Location, st.floats(-90, 90), st.floats(-180, 180)),
            st.one_of(st.none(), st.integers(0, 4000)),
            st.floats(-1, 1),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_candidates_give_a_place_on_earth(
    rows: list[tuple[Location, int | None, float]],
) -> None:
    found = fused([candidate(i, *row) for i, row in enumerate(rows, 1)])
    assert abs(found.latitude) <= 90 and abs(found.longitude) <= 180


@pytest.mark.parametrize("matches", [None, 0, 7])
def test_all_equal_is_the_mean_of_those_around_the_first(matches: int | None) -> None:
    found = fused([candidate(i, HOME.moved(10 * (i - 1), 0), matches) for i in (1, 2, 3)])
    assert HOME.offset_m(found)[0] == pytest.approx(10, abs=0.01)


@given(st.lists(st.integers(-200, 200), max_size=4), st.lists(st.integers(-200, 200), max_size=8))
def test_who_stands_beside_a_leader(leaders: list[int], others: list[int]) -> None:
    found = beside([HOME.moved(x, 0) for x in leaders], [HOME.moved(x, 0) for x in others])
    near = [min((abs(x - leader) for leader in leaders), default=999) for x in others]
    assert found == sorted(set(found))
    assert {i for i, x in enumerate(near) if x < RADIUS_M - 0.5} <= set(found)
    assert set(found) <= {i for i, x in enumerate(near) if x < RADIUS_M + 0.5}


def first(*rows: tuple[Location, float]) -> Location:
    """The foremost place; rows in any order."""
    ordered = sorted(rows, key=lambda row: -row[1])
    return ordered[foremost([place for place, _ in ordered], [count for _, count in ordered])][0]


def test_a_narrow_lead_is_settled_by_what_stands_around() -> None:
    """1.0 alone against 0.9 and two neighbours of 0.5: 0.73 + 0.125 (0.95 + 0.80) = 0.95; of 0.7,
    0.73 + 0.34 (0.95 + 0.80) = 1.33."""

    def street(count: int) -> Location:
        return first((FAR, 200), (HOME, 190), (HOME.moved(10, 0), count),
                     (HOME.moved(0, 20), count), *CHANCE)  # fmt: skip

    assert street(150) == FAR and street(170) == HOME


def test_a_clear_lead_is_not_questioned() -> None:
    """However many stand together: less than ``NARROW`` of the evidence is no contender."""
    crowd = [(HOME.moved(i, 0), 165) for i in range(5)]
    assert first((FAR, 200), *crowd, *CHANCE, *CHANCE) == FAR


def test_a_picture_that_matches_nothing_is_never_first() -> None:
    """It stands between two that match, looking the other way."""
    both = [(HOME.moved(-15, 0), 200), (HOME.moved(15, 0), 199)]
    assert first(*both, (HOME, 100), *CHANCE) == both[0][0]


def test_of_one_spot_the_view_with_most_matches_is_first() -> None:
    places = [FAR, HOME, HOME, HOME, *(place for place, _ in CHANCE)]
    assert foremost(places, [200, 190, 185, 180, *(count for _, count in CHANCE)]) == 1


@pytest.mark.parametrize("matches", [[7.0], [0.0, 0.0, 0.0], [5, 5], [3, 2]])
def test_nothing_around_leaves_the_order(matches: list[float]) -> None:
    assert foremost([HOME.moved(1000 * i, 0) for i in range(len(matches))], matches) == 0


@given(
    st.lists(
        st.tuples(st.integers(-60, 60), st.integers(-60, 60), st.integers(0, 50)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([0.01, 1.0, 300.0]),
)
def test_foremost_is_what_the_words_say(rows: list[tuple[int, int, int]], unit: float) -> None:
    rows = sorted(rows, key=lambda row: -row[2])
    places = [HOME.moved(east, north) for east, north, _ in rows]
    matches = [unit * count for *_, count in rows]
    found = foremost(places, matches)
    floor = float(np.median(matches))
    most = matches[0] - floor
    if not most:
        assert found == 0
        return
    excess = [max(m - floor, 0) / most for m in matches]
    around = [
        sum(
            vote**VOTING * math.exp(-((place.distance_m(voter) / RADIUS_M) ** 2) / 2)
            for voter, vote in zip(places, excess, strict=True)
        )
        for place in places
    ]
    contending = [i for i, value in enumerate(excess) if value >= NARROW - 1e-8]
    assert found in contending
    assert around[found] == pytest.approx(max(around[i] for i in contending), rel=1e-4)
