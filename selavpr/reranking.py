"""The second stage: mutual matches between a photo and candidates of whatever shapes.

Two scores order them: the paper's count of mutual nearest neighbours on the dense grid, and the
expected number of them at the tokens' centres, which models trained for it rank better by
(``ModelConfig.scoring``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from selavpr.localfeatures import Local, densify_each
from selavpr.matching import Mode, count_mutual, expect_mutual
from selavpr.model import SelaVPR

COUNT_BLOCK = 100
"""Candidates whose local descriptors are held at once: 190 MB at 61 x 61 of 128 channels. Within a
block those that lead are counted in full, so the first of all blocks is exact, too."""


@torch.inference_mode()
def score_tokens(
    model: SelaVPR,
    looks: Sequence[Tensor],
    rows: Sequence[int],
    grid: Callable[[int], tuple[int, int]],
    tokens: Callable[[int], Tensor],
    mode: Mode = "fast",
) -> Sequence[float]:
    """The model's own score of each candidate.

    Args:
        model: makes local descriptors of the tokens.
        looks: tokens ``[h, w, C]`` of the photo in the model's input size, and where matches are
            expected also in its ``query_scales``.
        rows: the candidates' numbers.
        grid: number to rows and columns of tokens.
        tokens: number to tokens ``[h, w, C]``.
        mode: of counting, see ``matching.count_mutual``.
    """
    looks = [tokens.to(model.device) for tokens in looks]
    if model.config.scoring == "expected":

        def centres(some: Sequence[int]) -> list[Local]:
            return [Local.of_tokens(tokens(i), model) for i in some]

        seen = [Local.of_tokens(look, model) for look in looks]
        return expect_local(seen, rows, centres, model.config.agreement)

    def local(some: Sequence[int]) -> list[Local]:
        return densify_each(some, grid, tokens, model)

    return count_local(model.densify(looks[0][None])[0].flatten(0, 1), rows, local, mode)


@torch.inference_mode()
def expect_local(
    looks: Sequence[Local],
    rows: Sequence[int],
    centres: Callable[[Sequence[int]], Sequence[Local]],
    agreement: bool = False,
) -> list[float]:
    """Expected mutual matches of each candidate with the photo; see ``matching.expect_mutual``.

    Args:
        looks: local descriptors at the centres of the photo's tokens, for each size it was looked
            at in; what is expected of each is averaged.
        rows: the candidates' numbers.
        centres: numbers to such descriptors; called for a block of candidates at a time.
        agreement: count for more what lies alike in both photos.
    """
    scores = [0.0] * len(rows)
    for start in range(0, len(rows), COUNT_BLOCK):
        found = centres(rows[start : start + COUNT_BLOCK])
        for numbers, candidates in _groups(found):
            there = torch.stack([found[i].places for i in numbers]) if agreement else None
            each = [
                expect_mutual(
                    look.descriptors, candidates, None if there is None else (look.places, there)
                )
                for look in looks
            ]
            for i, score in zip(numbers, torch.stack(each).mean(0).tolist(), strict=True):
                scores[start + i] = score
    return scores


def _groups(found: Sequence[Local]) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers and descriptors ``[K, N, d]`` of those that have as many."""
    groups: dict[int, list[int]] = {}
    for i, one in enumerate(found):
        groups.setdefault(len(one.descriptors), []).append(i)
    for numbers in groups.values():
        yield numbers, torch.stack([found[i].descriptors for i in numbers])


@torch.inference_mode()
def count_local(
    query: Tensor,
    rows: Sequence[int],
    local: Callable[[Sequence[int]], Sequence[Local]],
    mode: Mode = "fast",
) -> list[int]:
    """Mutual matches of each candidate with the photo.

    Args:
        query: ``[N, d]`` local descriptors of the photo.
        rows: the candidates' numbers.
        local: numbers to local descriptors; called for a block of candidates at a time.
        mode: see ``matching.count_mutual``. Estimates of photos with different numbers of
            descriptors do not compare: unless all candidates have as many, all counts are exact.

    Returns:
        A count for each candidate, in their order.
    """
    counts = [0] * len(rows)
    sizes: set[int] = set()
    for start in range(0, len(rows), COUNT_BLOCK):
        found = local(rows[start : start + COUNT_BLOCK])
        sizes |= {len(one.descriptors) for one in found}
        if mode == "fast" and len(sizes) > 1:
            mode = "exact"
            if start:  # those before were estimated
                return count_local(query, rows, local, mode)
        for numbers, candidates in _groups(found):
            scores = count_mutual(query, candidates, mode=mode)
            for i, score in zip(numbers, scores.tolist(), strict=True):
                counts[start + i] = score
    return counts


def order_of(counts: Sequence[float]) -> list[int]:
    """More matches first, ties by the order the candidates came in: the global one."""
    return sorted(range(len(counts)), key=lambda i: (-counts[i], i))
