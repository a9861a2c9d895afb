"""The numbers of an evaluation: recall, chance, intervals, errors in metres, quality of verdicts.

Pure functions over lists and arrays. A query's answers are rows of the database, best first; its
truth is the set of rows that count as right, which may be empty.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selavpr.geo import EARTH_RADIUS_M

RIGHT_M = 25.0
"""An answer this close is right (paper, section 4.1), as most benchmarks have it."""

RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval are then steady to a few tenths of a point."""


@dataclass(frozen=True)
class Score:
    """A share of queries and its 95 % interval, all 0 to 1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """In per cent, with the interval."""
        return f"{100 * self.value:.1f} ({100 * self.low:.0f}-{100 * self.high:.0f})"


def first_hits(
    ranked: Sequence[Sequence[int]], truths: Sequence[Collection[int]]
) -> NDArray[np.float64]:
    """Rank of the first right answer of each query, from 1; infinite where none is right.

    Args:
        ranked: for each query rows of the database, best first.
        truths: for each query the rows that are right.

    Returns:
        ``[Q]``.
    """
    hits = np.full(len(ranked), np.inf)
    for query, (rows, truth) in enumerate(zip(ranked, truths, strict=True)):
        right = set(truth)
        hits[query] = next((i for i, row in enumerate(rows, 1) if row in right), np.inf)
    return hits


def recall(hits: NDArray[np.float64], n: int, seed: int = 0) -> Score:
    """Recall@n: the share of queries with a right answer among the first n, and its interval.

    The interval is the percentile bootstrap over queries. Where every query agrees, resampling
    would claim certainty, so Wilson's interval stands in.

    Args:
        hits: ``[Q]`` as ``first_hits`` gives them; at least one.
        n: answers that are looked at.
        seed: of the resampling.
    """
    queries = len(hits)
    right = int((hits <= n).sum())
    value = right / queries
    if right in (0, queries):
        return Score(value, *wilson(right, queries))
    # Drawing Q of Q answers that are right or wrong, with replacement, is a binomial draw.
    draws = np.random.default_rng(seed).binomial(queries, value, RESAMPLES) / queries
    low, high = np.quantile(draws, [0.025, 0.975])
    return Score(value, float(low), float(high))


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share: of some width even when all or none are right."""
    if total == 0:
        return 0.0, 1.0
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + (z / total / 2) ** 2)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def chance(truths: Sequence[Collection[int]], database: int, n: int) -> float:
    """Recall@n that a random order of the database reaches on average.

    Exact: with r right rows among N, none of n drawn ones is right with the hypergeometric
    probability C(N - r, n) / C(N, n).

    Args:
        truths: for each query the rows that are right.
        database: number of rows.
        n: answers that are looked at.
    """
    n = min(n, database)
    missed = [
        math.prod((database - len(truth) - i) / (database - i) for i in range(n))
        if len(truth) <= database - n
        else 0.0
        for truth in truths
    ]
    return 1 - sum(missed) / len(missed) if missed else 0.0


def quantiles(errors_m: ArrayLike, shares: Sequence[float] = (0.5, 0.9)) -> list[float | None]:
    """Quantiles of position errors in metres; None where there are none."""
    errors = np.asarray(errors_m, dtype=float)
    if not errors.size:
        return [None] * len(shares)
    return [float(x) for x in np.quantile(errors, shares)]


def great_circle_m(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Metres between all pairs of places, as ``Location.distance_m``.

    Args:
        a: ``[n, 2]`` latitudes and longitudes in degrees.
        b: ``[m, 2]`` likewise.

    Returns:
        ``[n, m]``; float32 is good to a metre anywhere on Earth, to a millimetre within a city.
    """
    here, there = np.radians(np.asarray(a, float)), np.radians(np.asarray(b, float))
    found = np.empty((len(here), len(there)), dtype=np.float32)
    for i, (lat, lon) in enumerate(here):  # row by row: a matrix of float64 may be large
        h = np.sin((there[:, 0] - lat) / 2) ** 2
        h += np.cos(lat) * np.cos(there[:, 0]) * np.sin((there[:, 1] - lon) / 2) ** 2
        found[i] = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(h, 0, 1)))
    return found


def roc_auc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Area under the ROC curve: how often a positive case scores above a negative one.

    Ties count half. None where one of the two kinds is missing.
    """
    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    above, below = values[labels], values[~labels]
    if not above.size or not below.size:
        return None
    ordered = np.sort(below)
    wins = np.searchsorted(ordered, above, "left") + np.searchsorted(ordered, above, "right")
    return float(wins.sum() / 2 / (above.size * below.size))


def precision_recall(
    scores: ArrayLike, positive: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of "positive" at every threshold that the scores offer.

    Returns:
        Thresholds, descending, with the precision and the recall of those at or above each.
    """
    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # last case of each equal run
    found = np.cumsum(labels[order])[ends].astype(float)
    return values[order][ends], found / (ends + 1), found / max(int(labels.sum()), 1)


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Area under the precision-recall curve as a sum of steps; None without positives."""
    if not np.asarray(positive, dtype=bool).any():
        return None
    _, precision, found = precision_recall(scores, positive)
    return float((np.diff(found, prepend=0.0) * precision).sum())


def calibration_error(probabilities: ArrayLike, happened: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: mean gap between what was claimed and what happened.

    Args:
        probabilities: claimed, 0 to 1.
        happened: whether it was so.
        bins: equal steps of the probability.

    Returns:
        0 to 1, weighted by the cases in each step; 0 without cases.
    """
    claimed, true = np.asarray(probabilities, dtype=float), np.asarray(happened, dtype=float)
    if not claimed.size:
        return 0.0
    step = np.minimum((claimed * bins).astype(int), bins - 1)
    gaps: Any = np.bincount(step, claimed - true, minlength=bins)
    return float(np.abs(gaps).sum() / claimed.size)
