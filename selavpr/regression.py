"""Logistic regression in a few lines: small, regularised, the same numbers on every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def logistic(weights: Floats, z: Floats) -> Floats:
    """Probabilities ``[n]`` from ``weights [1 + F]``, the intercept first, and ``z [n, F]``."""
    line = np.clip(weights[0] + z @ weights[1:], -30, 30)
    probabilities: Floats = 1 / (1 + np.exp(-line))
    return probabilities


def fit_logistic(z: Floats, labels: NDArray[np.bool_], strength: float) -> Floats:
    """Logistic regression by Newton's method: the same numbers on every run.

    Labels are drawn in a little from 0 and 1 (Platt 1999), so that separable or one-sided data
    give finite weights and no claim of certainty.

    Args:
        z: ``[n, F]`` standardised features.
        labels: ``[n]``.
        strength: of the penalty on squared weights; the intercept is free.

    Returns:
        ``[1 + F]``, the intercept first.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    columns = np.column_stack([np.ones(len(z)), z])
    penalty = np.full(columns.shape[1], strength)
    penalty[0] = 1e-9
    weights = np.zeros(columns.shape[1])

    def loss(w: Floats) -> float:
        line = columns @ w
        return float((np.logaddexp(0, line) - target * line).sum() + (penalty * w * w).sum() / 2)

    for _ in range(50):
        p = logistic(weights, z)
        gradient = columns.T @ (p - target) + penalty * weights
        curvature = (columns * (p * (1 - p) + 1e-9)[:, None]).T @ columns + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        # Newton's step may overshoot where the curve is flat: halve it until it helps.
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return weights
