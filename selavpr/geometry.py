"""Which matches agree on one geometry: a robust affine fit between two sets of keypoints.

Re-ranking needs no geometry (SelaVPR, section 3.3). It is used afterwards, on the few photos that
are shown: to highlight the matches that tell the story, and as evidence for the confidence.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIALS = 512
"""Random triples tried: finds a consensus of a quarter of the matches with 99.97 % probability."""

TOLERANCE = 0.03
"""Distance at which a match still agrees, as a share of the photo's diagonal: a grid cell is about
0.017 of it, and a facade seen at an angle is only roughly affine."""

MIN_AGREEING = 6
"""Three matches define the map, so three always agree with it; fewer than twice that is chance."""

FloatArray = NDArray[np.floating[Any]]


def agreement(
    query: FloatArray, candidate: FloatArray, candidate_size: tuple[int, int], seed: int = 0
) -> NDArray[np.bool_]:
    """Mark the matches that fit the affine map most of them agree on.

    Triples of matches are drawn at random, each gives a map, and the map with most agreeing matches
    is fitted again to those (RANSAC with one refinement). Mirrored and extremely stretched maps are
    passed over: no camera makes them.

    Args:
        query: ``[M, 2]`` pixel positions.
        candidate: ``[M, 2]`` pixel positions, row by row the partners.
        candidate_size: ``(width, height)`` of the candidate photo.
        seed: of the random triples; the same seed gives the same answer.

    Returns:
        ``[M]`` bool; all false when fewer than ``MIN_AGREEING`` agree.
    """
    count = len(query)
    nobody = np.zeros(count, dtype=bool)
    if count < MIN_AGREEING:
        return nobody
    source = np.column_stack([query, np.ones(count)]).astype(np.float64)
    target = np.asarray(candidate, dtype=np.float64)
    limit = TOLERANCE * float(np.hypot(*candidate_size))
    triples = np.random.default_rng(seed).integers(0, count, size=(TRIALS, 3))
    corners = source[triples]
    # Triples that repeat a match or lie on a line (in pixels squared) define no map.
    triples = triples[np.abs(np.linalg.det(corners)) > 1.0]
    maps = np.linalg.solve(source[triples], target[triples])
    maps = maps[_plausible(maps)]
    if not len(maps):
        return nobody
    agrees = np.linalg.norm(source @ maps - target, axis=2) < limit
    best = agrees[int(np.argmax(agrees.sum(axis=1)))]
    if best.sum() < MIN_AGREEING:
        return nobody
    refined, *_ = np.linalg.lstsq(source[best], target[best], rcond=None)
    again: NDArray[np.bool_] = np.linalg.norm(source @ refined - target, axis=1) < limit
    return again if again.sum() >= best.sum() else best


def _plausible(maps: FloatArray) -> NDArray[np.bool_]:
    """Maps ``[T, 3, 2]`` that keep orientation, do not turn far and stretch at most fourfold."""
    linear = maps[:, :2, :]
    largest = np.linalg.norm(linear, ord=2, axis=(1, 2))
    determinant = np.linalg.det(linear)
    smallest = determinant / np.maximum(largest, 1e-9)
    upright = (linear[:, 0, 0] > 0) & (linear[:, 1, 1] > 0)
    result: NDArray[np.bool_] = (determinant > 0) & (largest < 4) & (smallest > 0.25) & upright
    return result
