"""The uncalibrated verdict and the evidence it rests on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr.confidence import FEATURES, Evidence, gather, margin, verdict
from selavpr.geo import Location
from selavpr.structs import Candidate, Place


def test_margin_by_hand() -> None:
    # Without the largest: 90, 100, 110; median 100, median deviation 10, robust deviation 14.826.
    assert margin([100, 110, 1000, 90]) == pytest.approx(900 / 14.826)
    # No spread: half the chance deviation of a count of 1,600 (its root, 40) stands in.
    assert margin([1600, 1700, 1600, 1600]) == pytest.approx(100 / 20)


@pytest.mark.parametrize("counts", [[], [5], [5, 900], [7] * 10, [0] * 3])
def test_nothing_stands_out(counts: list[int]) -> None:
    assert margin(counts) == 0


@given(st.lists(st.integers(0, 4000), min_size=3, max_size=30))
def test_margin_does_not_depend_on_the_order(counts: list[int]) -> None:
    shuffled = sorted(counts)
    assert margin(counts) == margin(shuffled) >= 0
    assert margin([*shuffled[:-1], shuffled[-1] + 100]) > margin(counts)
    assert np.isfinite(margin(counts))


def test_counts_of_chance_rarely_stand_out() -> None:
    """20 candidates of random features: about 1,870 matches each, deviation like its root."""
    rng = np.random.default_rng(0)
    found = [margin(rng.normal(1870, 1870**0.5, 20).astype(int).tolist()) for _ in range(1000)]
    # The largest of 20 normal values lies about 1.87 deviations above the middle.
    assert 1.5 < float(np.median(found)) < 2.5 and np.mean(np.array(found) >= 4) < 0.15


def test_probably_needs_both_signs_and_more_is_never_claimed() -> None:
    for agreeing, stands_out in itertools.product([0.34, 0.35, 1.0], [9.9, 10.0, 99.0]):
        expected = "probably" if agreeing >= 0.35 and stands_out >= 10 else "unsure"
        for together in (0.0, 1.0):
            assert verdict(Evidence(agreeing, stands_out, together)) == expected
    # Nor where one elsewhere has more matches, and the best is first by its surroundings.
    assert verdict(Evidence(1.0, 99.0, 1.0, lead=0.0)) == "probably"
    assert verdict(Evidence(1.0, 99.0, 1.0, lead=-0.01)) == "unsure"


def test_expected_matches_stand_out_sooner() -> None:
    """They are small and smooth: the root of a count would drown them."""
    values = [7.6, 3.8, 4.0, 3.6, 3.7, 3.9]
    # The middle of the other five is 3.8, their median deviation 0.1.
    assert margin(values, "expected") == pytest.approx(3.8 / max(0.14826, 0.19))
    assert margin(values) < margin(values, "expected")
    assert margin([4.0] * 5, "expected") == margin([0.0] * 5, "expected") == 0
    for stands_out, lead in itertools.product([3.9, 4.0, 50.0], [0.24, 0.25, 1.0]):
        expected = "probably" if stands_out >= 4 and lead >= 0.25 else "unsure"
        evidence = Evidence(0.5, stands_out, 1.0, lead=lead, scoring="expected")
        assert verdict(evidence) == expected


HOME = Location(60.0, 25.0)


def ranked(*rows: tuple[float, int | None, float]) -> list[Candidate]:
    """Candidates so many metres north of home, in order of rank and of global rank."""
    return [
        Candidate(Place(str(i), "", HOME.moved(0, north)), i, i, i, similarity, matches)
        for i, (north, matches, similarity) in enumerate(rows, 1)
    ]


def test_evidence_by_hand() -> None:
    candidates = ranked((0, 400, 0.9), (30, 350, 0.8), (900, 100, 0.7), (2000, 120, 0.6))
    evidence = gather(candidates, HOME, 0.25, 1000)
    assert (evidence.share, evidence.agreeing, evidence.together) == (0.4, 0.25, 0.5)
    # The second lies 30 m off: of the same place, so no rival. Those elsewhere have 120 and 0.7.
    assert evidence.lead == pytest.approx((400 - 120) / 400)
    assert (evidence.similarity, evidence.similarity_lead) == (0.9, pytest.approx(0.2))
    assert evidence.margin == margin([400, 350, 100, 120])


def test_evidence_from_the_first_twenty_and_the_best() -> None:
    """However many were re-ranked, the noise is measured on the same candidates."""
    many = ranked(*((900.0 * i, 100, 0.9 - i / 100) for i in range(60)))
    best = Candidate(many[50].place, 50, 51, 1, many[50].similarity, 300)
    evidence = gather([best, *many[:50]], best.place.location, 0.5, 1000)
    assert evidence.lead == pytest.approx(200 / 300) and evidence.similarity == 0.9
    assert evidence.margin == margin([100] * 20 + [300])


@pytest.mark.parametrize("matches", [None, 0])
def test_evidence_of_nothing(matches: int | None) -> None:
    for rows in ([(0.0, matches, 0.5)], [(0.0, matches, 0.0)] * 3):
        evidence = gather(ranked(*rows), HOME, 0.0, 0)
        assert evidence.share == evidence.lead == evidence.margin == evidence.similarity_lead == 0
        assert np.isfinite(evidence.vector()).all() and len(evidence.vector()) == len(FEATURES)
