"""The second stage: mutual matches between a photo and candidates of whatever shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selavpr.localfeatures import Local, densify_each
from selavpr.matching import Mode, count_mutual
from selavpr.model import SelaVPR

COUNT_BLOCK = 100
"""Candidates whose local descriptors are held at once: 190 MB at 61 x 61 of 128 channels. Within a
block those that lead are counted in full, so the first of all blocks is exact, too."""


def count_matches(
    model: SelaVPR,
    query: Tensor,
    rows: Sequence[int],
    grid: Callable[[int], tuple[int, int]],
    tokens: Callable[[int], Tensor],
    mode: Mode = "fast",
) -> list[int]:
    """As ``count_local``, of tokens that ``model`` up-convolves; see ``densify_each``."""
    return count_local(query, rows, lambda some: densify_each(some, grid, tokens, model), mode)


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
        groups: dict[int, list[tuple[int, Tensor]]] = {}
        for i, one in enumerate(local(rows[start : start + COUNT_BLOCK]), start):
            groups.setdefault(len(one.descriptors), []).append((i, one.descriptors))
        sizes |= groups.keys()
        if mode == "fast" and len(sizes) > 1:
            mode = "exact"
            if start:  # those before were estimated
                return count_local(query, rows, local, mode)
        for members in groups.values():
            candidates = torch.stack([descriptors for _, descriptors in members])
            scores = count_mutual(query, candidates, mode=mode)
            for (i, _), score in zip(members, scores.tolist(), strict=True):
                counts[i] = score
    return counts


def order_of(counts: Sequence[int]) -> list[int]:
    """More matches first, ties by the order the candidates came in: the global one."""
    return sorted(range(len(counts)), key=lambda i: (-counts[i], i))
