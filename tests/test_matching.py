"""Mutual nearest neighbours, worked by hand and against a naive implementation.

The rule, ties included: row i of the query chooses the first column j that holds the maximum of
row i of the similarity matrix S. The pair is mutual when S[i, j] is also the maximum of column j.
Where several rows are mutual with one column, the first of them is the match.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selavpr import OptionError, count_mutual, matching, mutual_nearest
from selavpr.matching import (
    FINALISTS,
    MOST_FINALISTS,
    STRIDES,
    STRIP,
    _through,
    expect_mutual,
    grid_centres,
    keypoints,
)

Pairs = list[tuple[int, int]]


def naive(query: list[list[int]], candidate: list[list[int]]) -> Pairs:
    """The rule above in plain Python and whole numbers."""
    if not query or not candidate:
        return []
    similarity = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in candidate] for a in query]
    pairs: Pairs = []
    taken: set[int] = set()
    for i, row in enumerate(similarity):
        j = row.index(max(row))
        if row[j] == max(other[j] for other in similarity) and j not in taken:
            pairs.append((i, j))
            taken.add(j)
    return pairs


def pairs_of(query: Tensor, candidate: Tensor) -> Pairs:
    found = mutual_nearest(query, candidate)
    return list(zip(found.query.tolist(), found.candidate.tolist(), strict=True))


def count_one(query: Tensor, candidate: Tensor) -> int:
    return int(count_mutual(query, candidate[None])[0])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def from_similarity(matrix: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Descriptors whose inner products are the matrix: its rows against the unit vectors."""
    rows = torch.tensor(matrix)
    return rows, torch.eye(rows.shape[1])


# ---- worked by hand


def test_five_points() -> None:
    """Rows 0, 2, 4 and their columns choose each other; rows 1 and 3 are outbid.

    Row maxima:    0->1 (.9)  1->1 (.8)  2->3 (.7)  3->0 (.4)  4->0 (.6)
    Column maxima: 0: .6 (row 4)  1: .9 (row 0)  2: .5 (row 2)  3: .7 (row 2)  4: .3 (row 3)
    """
    query, candidate = from_similarity(
        [
            [0.1, 0.9, 0.2, 0.3, 0.0],
            [0.2, 0.8, 0.1, 0.4, 0.1],
            [0.3, 0.1, 0.5, 0.7, 0.2],
            [0.4, 0.2, 0.3, 0.1, 0.3],
            [0.6, 0.5, 0.4, 0.2, 0.1],
        ]
    )
    found = mutual_nearest(query, candidate)
    assert found.query.tolist() == [0, 2, 4]
    assert found.candidate.tolist() == [1, 3, 0]
    assert found.similarity.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert (found.query.dtype, found.candidate.dtype) == (torch.int64, torch.int64)
    assert found.similarity.dtype == torch.float32
    assert count_one(query, candidate) == 3


def test_five_points_that_are_permuted() -> None:
    order = [3, 0, 4, 1, 2]
    assert pairs_of(torch.eye(5), torch.eye(5)[order]) == [(0, 1), (1, 3), (2, 4), (3, 0), (4, 2)]


def test_exactly_one_match_counts_one() -> None:
    """All rows prefer column 0 and only row 2 is preferred by it; the reference counts 0 here."""
    query, candidate = from_similarity(
        [[0.5, 0.1, 0.1], [0.6, 0.2, 0.1], [0.9, 0.3, 0.2], [0.4, 0.1, 0.0], [0.3, 0.0, 0.0]]
    )
    assert pairs_of(query, candidate) == [(2, 0)]
    assert count_one(query, candidate) == 1
    assert count_one(query[:1], candidate[:1]) == 1


def test_there_is_always_a_match() -> None:
    """The largest of all similarities is the maximum of its row and of its column."""
    for seed in range(20):
        assert count_one(unit(7, 3, seed=seed), unit(5, 3, seed=100 + seed)) >= 1


def test_rows_that_tie_for_a_column() -> None:
    query, candidate = from_similarity([[0.1, 0.7], [0.2, 0.9], [0.3, 0.9], [0.0, 0.9], [0.8, 0.1]])
    assert pairs_of(query, candidate) == [(1, 1), (4, 0)]
    assert count_one(query, candidate) == 2


def test_columns_that_tie_for_a_row() -> None:
    query, candidate = from_similarity([[0.9, 0.9, 0.9], [0.1, 0.8, 0.2]])
    assert pairs_of(query, candidate) == [(0, 0)]  # column 1 belongs to row 0, which chose 0
    assert count_one(query, candidate) == 1


def test_constant_descriptors_match_once() -> None:
    assert pairs_of(torch.ones(5, 3), torch.ones(4, 3)) == [(0, 0)]
    assert count_mutual(torch.ones(5, 3), torch.ones(2, 4, 3)).tolist() == [1, 1]
    assert count_one(torch.zeros(5, 3), torch.zeros(5, 3)) == 1
    # A uniform picture at full size, with sums that are exact in any order.
    same = torch.full((3721, 128), 0.125)
    assert count_one(same, same) == 1


def test_nearly_constant_descriptors_hardly_match() -> None:
    """Equal rows tie only up to the last bit, which BLAS rounds differently at a block's edges."""
    same = unit(1, 128).expand(1500, 128)
    assert 1 <= count_one(same, same) <= 8


def test_negative_similarities_match_too() -> None:
    query, candidate = -torch.eye(2) - 1, torch.eye(2)  # [[-2, -1], [-1, -2]]
    assert pairs_of(query, candidate) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("rows", [1, 5, STRIP - 1, STRIP, STRIP + 1, 700])
def test_identical_photos_match_everywhere(rows: int) -> None:
    photo = unit(rows, 16)
    assert pairs_of(photo, photo) == [(i, i) for i in range(rows)]
    assert count_one(photo, photo) == rows


# ---- empty and odd shapes


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_empty_sides(n: int, m: int) -> None:
    found = mutual_nearest(torch.zeros(n, 4), torch.zeros(m, 4))
    assert len(found) == 0
    assert (found.query.dtype, found.similarity.dtype) == (torch.int64, torch.float32)
    for mode in ("exact", "fast"):
        counts = count_mutual(torch.zeros(n, 4), torch.zeros(3, m, 4), mode)
        assert counts.tolist() == [0, 0, 0] and counts.dtype == torch.int64


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_no_candidates(mode: str) -> None:
    counts = count_mutual(unit(5, 4), torch.zeros(0, 6, 4), mode)  # type: ignore[arg-type]
    assert counts.shape == (0,) and counts.dtype == torch.int64


@pytest.mark.parametrize(
    ("query", "candidates"),
    [((5, 4), (3, 5, 3)), ((5, 4), (5, 4)), ((5,), (3, 5, 4)), ((1, 5, 4), (3, 5, 4))],
)
def test_shapes_that_do_not_fit(query: tuple[int, ...], candidates: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="Descriptors must be"):
        count_mutual(torch.zeros(query), torch.zeros(candidates))


@pytest.mark.parametrize(("query", "candidate"), [((5, 4), (5, 3)), ((5, 4), (4,)), ((4,), (5, 4))])
def test_pairs_that_do_not_fit(query: tuple[int, ...], candidate: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="Descriptors must be"):
        mutual_nearest(torch.zeros(query), torch.zeros(candidate))


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_is_not_a_candidate(count: int) -> None:
    with pytest.raises(OptionError, match="Descriptors must be"):
        mutual_nearest(torch.zeros(5, 4), torch.zeros(count, 5, 4))


def test_unknown_mode() -> None:
    with pytest.raises(OptionError, match="'exact' or 'fast', not 'quick'"):
        count_mutual(unit(5, 4), unit(2, 5, 4), "quick")  # type: ignore[arg-type]


# ---- against the naive implementation

numbers = st.integers(-2, 2)


def descriptors(max_rows: int = 9, dim: int = 2) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(numbers, min_size=dim, max_size=dim), max_size=max_rows)


def tensor(rows: list[list[int]], dim: int = 2) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), dim)


@given(descriptors(), descriptors())
def test_many_ties_against_the_naive_rule(query: list[list[int]], other: list[list[int]]) -> None:
    expected = naive(query, other)
    assert pairs_of(tensor(query), tensor(other)) == expected
    assert count_one(tensor(query), tensor(other)) == len(expected)


@given(descriptors(), descriptors())
def test_what_a_match_is(query: list[list[int]], other: list[list[int]]) -> None:
    """Without looking at how ties are settled: both ends are a best choice, and one to one."""
    found = mutual_nearest(tensor(query), tensor(other))
    similarity = tensor(query) @ tensor(other).T
    for i, j, value in zip(found.query, found.candidate, found.similarity, strict=True):
        assert value == similarity[i, j] == similarity[i].max() == similarity[:, j].max()
    assert found.query.tolist() == sorted(set(found.query.tolist()))
    assert len(set(found.candidate.tolist())) == len(found)


def test_ties_across_strips_against_the_naive_rule() -> None:
    """Small whole numbers: thousands of ties, and more rows than one strip holds."""
    generator = np.random.default_rng(3)
    query = generator.integers(-3, 4, (2 * STRIP + 17, 3))
    candidate = generator.integers(-3, 4, (STRIP + 60, 3))
    expected = naive(query.tolist(), candidate.tolist())
    assert len(expected) > 1
    first, second = torch.from_numpy(query).float(), torch.from_numpy(candidate).float()
    assert pairs_of(first, second) == expected
    assert count_one(first, second) == len(expected)


@pytest.mark.parametrize(("n", "m"), [(3, 8), (8, 3), (1, 9), (9, 1), (700, 300), (300, 700)])
def test_sides_of_different_size(n: int, m: int) -> None:
    query, candidate = unit(n, 8, seed=1), unit(m, 8, seed=2)
    similarity = query.double() @ candidate.double().T
    best, chosen = similarity.argmax(1), similarity.argmax(0)
    expected = [(i, int(j)) for i, j in enumerate(best) if chosen[j] == i]
    assert pairs_of(query, candidate) == expected
    assert count_one(query, candidate) == len(expected) <= min(n, m)


def test_counts_are_the_lengths_of_the_matches() -> None:
    query, candidates = unit(600, 16, seed=1), unit(5, 500, 16, seed=2)
    candidates[3] = candidates[1]
    candidates[4, :, :] = query[:500]
    lengths = [len(mutual_nearest(query, one)) for one in candidates]
    assert count_mutual(query, candidates).tolist() == lengths
    assert lengths[4] == 500 and lengths[3] == lengths[1]


def test_the_same_on_every_run() -> None:
    query, candidates = unit(600, 32, seed=1), unit(12, 600, 32, seed=2)
    for mode in ("exact", "fast"):
        first = count_mutual(query, candidates, mode)
        assert torch.equal(first, count_mutual(query, candidates, mode))
        assert torch.equal(first, count_mutual(query.clone(), candidates.clone(), mode))


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_counts_move_with_their_candidates(order: list[int]) -> None:
    query, candidates = unit(40, 4, seed=1), unit(6, 30, 4, seed=2)
    assert torch.equal(
        count_mutual(query, candidates[order]), count_mutual(query, candidates)[order]
    )


@settings(max_examples=30)
@given(st.permutations(range(12)), st.permutations(range(10)))
def test_matches_move_with_their_rows(rows: list[int], columns: list[int]) -> None:
    query, candidate = unit(12, 4, seed=3), unit(10, 4, seed=4)
    moved = {(rows[i], columns[j]) for i, j in pairs_of(query[rows], candidate[columns])}
    assert moved == set(pairs_of(query, candidate))


def test_matching_is_symmetric_without_ties() -> None:
    first, second = unit(60, 8, seed=5), unit(50, 8, seed=6)
    assert {(j, i) for i, j in pairs_of(second, first)} == set(pairs_of(first, second))


# ---- types, layout, gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_compared_in_float32(dtype: torch.dtype) -> None:
    """Stored features may be of any type: the result is that of the rounded values."""
    query, candidates = unit(300, 16, seed=1).to(dtype), unit(3, 300, 16, seed=2).to(dtype)
    counts = count_mutual(query, candidates)
    assert torch.equal(counts, count_mutual(query.float(), candidates.float()))
    assert pairs_of(query, candidates[0]) == pairs_of(query.float(), candidates[0].float())
    assert mutual_nearest(query, candidates[0]).similarity.dtype == torch.float32


def test_rounding_to_bfloat16_moves_the_counts_little() -> None:
    """A cosine moves by less than 2 * 2**-9 by rounding; few pairs are that close to a rival."""
    query = unit(1000, 64, seed=1)
    noisy = torch.nn.functional.normalize(query + 0.15 * unit(1000, 64, seed=2), dim=1)
    exact, rounded = count_one(query, noisy), count_one(query.bfloat16(), noisy.bfloat16())
    assert exact > 900
    assert abs(exact - rounded) <= 0.01 * exact


def test_query_and_candidates_may_differ_in_type() -> None:
    query, candidates = unit(50, 8, seed=1), unit(3, 50, 8, seed=2).half()
    assert torch.equal(count_mutual(query, candidates), count_mutual(query, candidates.float()))


def test_views_are_read_as_they_look() -> None:
    query, candidates = unit(60, 8, seed=1), unit(4, 50, 8, seed=2)
    expected = count_mutual(query, candidates)
    columns_first = candidates.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.zeros(60, 16)
    wide[:, ::2] = query
    assert not columns_first.is_contiguous() and not wide[:, ::2].is_contiguous()
    assert torch.equal(count_mutual(wide[:, ::2], columns_first), expected)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_inputs_are_left_alone(mode: str) -> None:
    query = unit(40, 8, seed=1).requires_grad_()
    candidates = unit(FINALISTS + 3, 40, 8, seed=2).requires_grad_()
    before = query.detach().clone(), candidates.detach().clone()
    counts = count_mutual(query, candidates, mode)  # type: ignore[arg-type]
    assert not counts.requires_grad
    assert torch.equal(query, before[0]) and torch.equal(candidates, before[1])


# ---- bounded memory


def test_memory_is_bounded() -> None:
    """A full matrix is 55 MB for one candidate; a strip of it is 3.8 MB."""
    size, count = 3721, 3
    query, candidates = unit(size, 128, seed=1), unit(count, size, 128, seed=2)
    tracemalloc.start()
    try:
        count_mutual(query, candidates)
        mutual_nearest(query, candidates[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # That NumPy's memory is seen at all: the strip itself is there. Its maxima and copies of it
    # would stay below four strips; a matrix would not.
    strip = 4 * STRIP * size
    assert strip < peak < 4 * strip < 4 * size * size


# ---- fast mode


def photos_of_places(count: int, rows: int = 400, dim: int = 16) -> tuple[Tensor, Tensor]:
    """A query and candidates that show ever less of it: the share of rows they have in common."""
    query = unit(rows, dim, seed=1)
    candidates = unit(count, rows, dim, seed=2)
    for k in range(count):
        shared = rows - rows * k // count
        candidates[k, :shared] = query[:shared]
    return query, candidates


@pytest.mark.parametrize("count", [1, FINALISTS - 1, FINALISTS])
def test_fast_is_exact_for_few_candidates(count: int) -> None:
    query, candidates = unit(200, 8, seed=1), unit(count, 200, 8, seed=2)
    assert torch.equal(
        count_mutual(query, candidates, "fast"), count_mutual(query, candidates, "exact")
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("structured", [True, False])
def test_fast_counts_its_finalists_exactly(structured: bool, seed: int) -> None:
    count = 60
    if structured:
        query, candidates = photos_of_places(count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        candidates = candidates[order]
    else:
        query, candidates = unit(300, 8, seed=seed), unit(count, 300, 8, seed=100 + seed)
    exact, fast = count_mutual(query, candidates), count_mutual(query, candidates, "fast")
    assert fast.dtype == torch.int64 and fast.shape == (count,)
    assert fast.min() >= 0 and fast.max() <= 300 + 100 * structured
    # What fast mode does, told by its parts: each round counts on fewer rows who goes on.
    finalists = torch.arange(count)
    for stride in STRIDES:
        sampled = count_mutual(query[::stride], candidates[finalists, ::stride])
        finalists = finalists[_through(sampled)]
    finalists = finalists[:MOST_FINALISTS]
    others = torch.ones(count, dtype=torch.bool)
    others[finalists] = False
    assert torch.equal(fast[finalists], exact[finalists])
    assert fast[others].max() < fast[finalists].min()
    if structured:
        assert FINALISTS <= len(finalists) < MOST_FINALISTS
        assert fast.argmax() == exact.argmax()


def test_those_in_reach_of_the_lead_go_through() -> None:
    # The lead is 100, its deviation 10, so 80 is in reach and 79 is not.
    assert _through(torch.tensor([79, 80, 5, 100, 85, 81])).tolist() == [3, 4, 5, 1]


def test_at_least_three_go_through_even_behind_a_clear_winner() -> None:
    assert _through(torch.tensor([10, 30, 900, 30, 20])).tolist() == [2, 1, 3]


@pytest.mark.parametrize("value", [0, 7])
def test_all_go_through_when_all_tie_in_their_order(value: int) -> None:
    assert _through(torch.full((100,), value)).tolist() == list(range(100))


def test_fast_looks_at_every_eighth_row_first() -> None:
    """Agreement in the rows between is not seen by the first look, and does not make a finalist."""
    query, candidates = unit(400, 16, seed=1), unit(3 * FINALISTS, 400, 16, seed=2)
    seen = torch.arange(400) % STRIDES[0] == 0
    candidates[:FINALISTS, seen] = query[seen]
    hidden = 2 * FINALISTS
    candidates[hidden, ~seen] = query[~seen]
    exact, fast = count_mutual(query, candidates), count_mutual(query, candidates, "fast")
    assert exact.argmax() == hidden
    assert fast[hidden] < fast[:FINALISTS].min()


def test_fast_with_candidates_that_are_all_the_same() -> None:
    """Ties go to those that came first, which the global stage put first."""
    query = unit(100, 8, seed=1)
    candidates = unit(1, 100, 8, seed=2).expand(2 * MOST_FINALISTS, -1, -1)
    exact, fast = count_mutual(query, candidates), count_mutual(query, candidates, "fast")
    assert torch.equal(fast[:MOST_FINALISTS], exact[:MOST_FINALISTS])
    assert (fast[MOST_FINALISTS:] < fast[0]).all()


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 50), (50, 1), (3, 2), (5, 7)])
def test_fast_with_hardly_any_rows(n: int, m: int) -> None:
    query, candidates = unit(n, 4, seed=1), unit(2 * FINALISTS, m, 4, seed=2)
    exact, fast = count_mutual(query, candidates), count_mutual(query, candidates, "fast")
    assert (fast >= 0).all() and (fast <= min(n, m)).all()
    assert (fast == exact).sum() >= FINALISTS


# ---- where the descriptors look


def test_centres_at_224() -> None:
    centres = grid_centres(torch.arange(61 * 61), 61)
    assert centres.shape == (3721, 2) and centres.dtype == torch.float32
    line = 7 + 3.5 * torch.arange(61)
    assert torch.equal(centres[:61, 0], line)  # row by row: x runs first
    assert (centres[:61, 1] == 7).all()
    assert torch.equal(centres[::61, 1], line)
    assert centres[0].tolist() == [7, 7] and centres[-1].tolist() == [217, 217]
    # Every fourth centre is the middle of a patch.
    assert torch.equal(line[::4], 14 * torch.arange(16) + 7.0)


def test_centres_of_other_shapes() -> None:
    centres = grid_centres(torch.arange(5 * 9), 9)  # 2 x 3 tokens
    assert centres.shape == (45, 2)
    assert centres[0].tolist() == [7, 7] and centres[-1].tolist() == [35, 21]
    assert torch.equal(grid_centres(torch.arange(1), 1), torch.tensor([[7.0, 7.0]]))


def test_keypoints_in_the_photo() -> None:
    """On 640 x 480 the 224-pixel input is stretched by 640/224 and 480/224."""
    found = keypoints(torch.tensor([0, 60, 3720, 61]), (61, 61), (640, 480))
    expected = torch.tensor([[20.0, 15.0], [620.0, 15.0], [620.0, 465.0], [20.0, 10.5 * 480 / 224]])
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32


def test_keypoints_of_a_non_square_grid() -> None:
    """Grid of 4 x 8 tokens: input 112 wide, 56 high; the photo is ten times as large."""
    found = keypoints(torch.tensor([0, 28, 13 * 29 - 1]), (13, 29), (1120, 560))
    torch.testing.assert_close(found, torch.tensor([[70.0, 70], [1050, 70], [1050, 490]]))


def test_keypoints_of_no_matches() -> None:
    assert keypoints(torch.empty(0, dtype=torch.int64), (5, 5), (100, 100)).shape == (0, 2)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(28, 4000), st.integers(28, 4000))
def test_keypoints_lie_inside_and_fill_the_photo_evenly(
    h: int, w: int, width: int, height: int
) -> None:
    grid = 4 * h - 3, 4 * w - 3
    found = keypoints(torch.arange(grid[0] * grid[1]), grid, (width, height))
    assert (found > 0).all()
    assert (found < torch.tensor([width, height])).all()
    middle = torch.tensor([width / 2, height / 2])
    torch.testing.assert_close(found.mean(0), middle, rtol=1e-4, atol=0)
    assert float(found[0, 0]) == pytest.approx(width / w / 2, rel=1e-5)  # half a patch


# Expected matches


def naive_expected(query: Tensor, candidate: Tensor, temperature: float) -> float:
    similarity = (query.double() @ candidate.double().T) / temperature
    return float((similarity.softmax(1) * similarity.softmax(0)).sum())


@given(n=st.integers(1, 9), m=st.integers(1, 9), d=st.integers(2, 5), seed=st.integers(0, 99))
def test_expected_matches_are_the_sum_of_the_dual_softmax(
    n: int, m: int, d: int, seed: int
) -> None:
    query, candidates = unit(n, d, seed=seed), unit(3, m, d, seed=seed + 100)
    found = expect_mutual(query, candidates)
    expected = [naive_expected(query, candidate, matching.TEMPERATURE) for candidate in candidates]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert found.max() <= min(n, m) * 1.0001 and found.min() > 0
    # Each of two photos expects as much of the other.
    assert float(expect_mutual(candidates[0], query[None])[0]) == pytest.approx(
        expected[0], rel=1e-4
    )


def test_expected_matches_become_the_count_as_it_gets_cold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, candidates = unit(40, 16), unit(5, 30, 16, seed=1)
    counts = count_mutual(query, candidates)
    warm = (expect_mutual(query, candidates) - counts).abs().max()
    monkeypatch.setattr(matching, "TEMPERATURE", 0.025)  # colder, and float32 gets too small
    assert (expect_mutual(query, candidates) - counts).abs().max() < warm
    assert naive_expected(query, candidates[0], 1e-4) == pytest.approx(int(counts[0]), abs=0.1)


def test_expected_matches_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    query, candidates = unit(23, 8), unit(4, 17, 8, seed=1)
    whole = expect_mutual(query, candidates)
    for at_once in (1, 17, 40, 23 * 17 - 1):
        monkeypatch.setattr(matching, "EXPECTED_AT_ONCE", at_once)
        torch.testing.assert_close(expect_mutual(query, candidates), whole)


def test_what_repeats_expects_less_than_what_is_unique() -> None:
    """Five windows alike give five matches to a count, but one to be expected."""
    unique, same = unit(5, 64), unit(1, 64).expand(5, 64)
    assert float(expect_mutual(unique, unique[None])[0]) == pytest.approx(5, rel=1e-3)
    assert float(expect_mutual(same, same[None])[0]) == pytest.approx(1, rel=1e-3)


def test_expected_matches_of_degenerate_input() -> None:
    # Opposite descriptors: as far apart as any can be, and still exactly one choice.
    one = torch.tensor([[1.0, 0.0]])
    assert float(expect_mutual(one, -one[None])[0]) == pytest.approx(1)
    assert expect_mutual(unit(3, 4), torch.zeros(0, 3, 4)).shape == (0,)
    assert expect_mutual(unit(3, 4), torch.zeros(2, 0, 4)).tolist() == [0, 0]
    assert expect_mutual(torch.zeros(0, 4), unit(2, 3, 4)).tolist() == [0, 0]
    half = expect_mutual(unit(9, 8).bfloat16(), unit(2, 9, 8).bfloat16())
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    with pytest.raises(OptionError, match="with the same D"):
        expect_mutual(unit(3, 4), unit(2, 3, 5))


def test_devices_but_the_cpu_are_left_to_torch() -> None:
    """NumPy sees no other memory: neither a GPU's of NVIDIA nor one of Apple."""
    query, block = torch.empty(5, 4, device="meta"), torch.empty(2, 7, 4, device="meta")
    best, row_max, col_max = matching._extrema(query, block)
    assert best.shape == row_max.shape == (2, 5) and col_max.shape == (2, 7)
