"""The share of matches that lie alike in two photos."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selavpr import OptionError, alignment, matching
from selavpr.alignment import SCALES, TOLERANCE, aligned
from selavpr.localfeatures import Local
from selavpr.matching import expect_mutual


def strewn(*shape: int, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 2, generator=chance) - 0.5


def naive(weight: Tensor, query: Tensor, candidate: Tensor) -> float:
    """One match, scale and proposal at a time, in float64."""
    best = 0.0
    for scale in SCALES:
        shifts = [
            [float(c) - scale * float(q) for q, c in zip(*pair, strict=True)]
            for pair in zip(query.double(), candidate.double(), strict=True)
        ]
        for mine in shifts:
            near = [
                float(w) * math.exp(-(math.dist(mine, other) ** 2) / (2 * TOLERANCE**2))
                for w, other in zip(weight, shifts, strict=True)
            ]
            best = max(best, sum(near))
    return best / float(weight.sum())


@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 99))
def test_the_best_proposal_counts(matches: int, candidates: int, seed: int) -> None:
    query, there = (
        strewn(candidates, matches, seed=seed),
        strewn(candidates, matches, seed=seed + 1),
    )
    weight = torch.rand(candidates, matches, generator=torch.Generator().manual_seed(seed)) + 0.01
    expected = [naive(*parts) for parts in zip(weight, query, there, strict=True)]
    assert aligned(weight, query, there).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_one_scale_and_shift_for_all(scale: float) -> None:
    query = strewn(1, 40)
    weight = torch.linspace(0.1, 1, 40)[None]
    moved = scale * query + torch.tensor([0.2, -0.1])
    assert float(aligned(weight, query, moved)) == pytest.approx(1, abs=1e-4)
    assert float(aligned(weight, query, moved[:, torch.randperm(40)])) < 0.5


def test_a_mirror_image_does_not_lie_alike() -> None:
    query = strewn(1, 40)
    assert float(aligned(torch.ones(1, 40), query, query * torch.tensor([-1.0, 1.0]))) < 0.5


def test_weight_decides_who_is_asked() -> None:
    """Three certain matches that agree among thirty faint ones that do not."""
    query, there = strewn(1, 33), strewn(1, 33, seed=1)
    there[:, :3] = query[:, :3] + 0.1
    certain = torch.full((1, 33), 0.001)
    certain[:, :3] = 1
    assert float(aligned(certain, query, there)) > 0.95
    assert float(aligned(torch.ones(1, 33), query, there)) < 0.5


def test_no_matches() -> None:
    assert aligned(torch.zeros(2, 0), torch.zeros(2, 0, 2), torch.zeros(2, 0, 2)).tolist() == [0, 0]
    assert aligned(torch.zeros(1, 3), strewn(1, 3), strewn(1, 3)).tolist() == [0]
    assert aligned(torch.ones(0, 3), strewn(0, 3), strewn(0, 3)).shape == (0,)
    with pytest.raises(OptionError, match="Matches must be"):
        aligned(torch.ones(1, 3), strewn(1, 3), strewn(1, 4))


# In the score


def of(grid: tuple[int, int], seed: int = 0) -> Local:
    chance = torch.Generator().manual_seed(seed)
    found = torch.randn(grid[0] * grid[1], 32, generator=chance)
    return Local.at_centres(torch.nn.functional.normalize(found, dim=-1), grid)


def score(query: Local, candidate: Local) -> tuple[float, float]:
    """With and without asking where the matches lie."""
    here, there = query.descriptors, candidate.descriptors[None]
    with_places = expect_mutual(here, there, (query.places, candidate.places[None]))
    return float(with_places), float(expect_mutual(here, there))


def test_the_geometric_mean_of_all_and_of_those_alike() -> None:
    query = of((5, 6))
    alike, all_ = score(query, query)
    assert alike == pytest.approx(all_, rel=1e-3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    scattered = Local.at_centres(query.descriptors[order], (5, 6))
    alike, all_ = score(query, scattered)
    # Each row's partner is the one it is; they are all about as certain.
    share = naive(torch.ones(30), query.places, scattered.places[order.argsort()])
    assert alike == pytest.approx(all_ * math.sqrt(share), rel=0.05)


@given(st.integers(0, 99))
def test_a_gpu_would_score_alike(seed: int) -> None:
    """Its way of multiplying, on the CPU."""
    query, known = of((3, 5), seed), torch.stack([of((4, 3), seed + i).descriptors for i in (1, 2)])
    blocks = matching._expect_block(query.descriptors, known)
    each = zip(*(matching._expect(query.descriptors, one) for one in known), strict=True)
    for block, one in zip(blocks, each, strict=True):
        torch.testing.assert_close(block, torch.stack(one))


def test_only_the_likeliest_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def asked(weight: Tensor, query: Tensor, candidate: Tensor) -> Tensor:
        seen.append((weight, query.shape, candidate.shape))
        return torch.ones(len(weight))

    monkeypatch.setattr(matching, "aligned", asked)
    query, other = of((9, 10)), of((8, 8), 1)
    score(query, other)
    ((weight, *shapes),) = seen
    assert shapes == [(1, alignment.LIKELIEST, 2)] * 2
    assert weight[0].tolist() == sorted(weight[0].tolist(), reverse=True)


def test_places_have_to_fit() -> None:
    query, other = of((3, 4)), of((4, 4), 1)
    with pytest.raises(OptionError, match="a position for each descriptor"):
        expect_mutual(
            query.descriptors, other.descriptors[None], (query.places, query.places[None])
        )


# Where local features look


@given(st.integers(1, 9), st.integers(1, 9))
def test_places_are_those_of_tokens(rows: int, columns: int) -> None:
    count = rows * columns
    places = Local.at_centres(torch.zeros(count, 4), (rows, columns)).places
    assert places.shape == (count, 2) and places.dtype == torch.float32
    x = [(i % columns + 0.5 - columns / 2) / math.sqrt(count) for i in range(count)]
    y = [(i // columns + 0.5 - rows / 2) / math.sqrt(count) for i in range(count)]
    torch.testing.assert_close(places, torch.tensor(list(zip(x, y, strict=True))))
    dense = Local(
        torch.zeros((4 * rows - 3) * (4 * columns - 3), 4), (4 * rows - 3, 4 * columns - 3)
    )
    torch.testing.assert_close(dense.centres.places, places)
    assert len(dense.places) == len(dense.descriptors)
    assert torch.equal(dense.places[0], dense.centres.places[0])
