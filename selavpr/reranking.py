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


@torch.inference_mode()
def count_matches(
    model: SelaVPR,
    query: Tensor,
    rows: Sequence[int],
    grid: Callable[[int], tuple[int, int]],
    tokens: Callable[[int], Tensor],
    mode: Mode = "fast",
) -> list[int]:
    """Mutual matches of each candidate with the photo; candidates of one grid counted together.

    Args:
        model: up-convolves the tokens.
        query: ``[N, d]`` local descriptors of the photo.
        rows: the candidates' numbers.
        grid: number to rows and columns of tokens; called for all candidates first.
        tokens: number to tokens ``[h, w, C]``; called once for each, a few at a time.
        mode: see ``matching.count_mutual``. Estimates of different grids do not compare, so fast
            counting happens only where all candidates have one grid.

    Returns:
        A count for each candidate, in their order.
    """
    counts = [0] * len(rows)
    grids: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(rows):
        grids.setdefault(grid(row), []).append(i)
    if len(grids) > 1:
        mode = "exact"
    for members in grids.values():
        for start in range(0, len(members), COUNT_BLOCK):
            block = members[start : start + COUNT_BLOCK]
            scores = count_mutual(
                query, densify_each([rows[i] for i in block], tokens, model), mode=mode
            )
            for i, score in zip(block, scores.tolist(), strict=True):
                counts[i] = score
    return counts


@torch.inference_mode()
def count_local(
    query: Tensor,
    rows: Sequence[int],
    local: Callable[[Sequence[int]], Sequence[Local]],
    mode: Mode = "fast",
) -> list[int]:
    """Like ``count_matches``, of local features as an index keeps them.

    Args:
        query: ``[N, d]`` local descriptors of the photo.
        rows: the candidates' numbers.
        local: numbers to local descriptors; called for a block of candidates at a time.
        mode: see ``matching.count_mutual``; fast only where all have as many descriptors.

    Returns:
        A count for each candidate, in their order.
    """
    counts = [0] * len(rows)
    for start in range(0, len(rows), COUNT_BLOCK):
        sizes: dict[int, list[tuple[int, Tensor]]] = {}
        for i, one in enumerate(local(rows[start : start + COUNT_BLOCK]), start):
            sizes.setdefault(len(one.descriptors), []).append((i, one.descriptors))
        for members in sizes.values():
            scores = count_mutual(
                query,
                torch.stack([descriptors for _, descriptors in members]),
                mode=mode if len(sizes) == 1 else "exact",
            )
            for (i, _), score in zip(members, scores.tolist(), strict=True):
                counts[i] = score
    return counts


def order_of(counts: Sequence[int]) -> list[int]:
    """More matches first, ties by the order the candidates came in: the global one."""
    return sorted(range(len(counts)), key=lambda i: (-counts[i], i))
