"""The curves of a training run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss over updates, smoothed, and below it every recall that was measured.

    Args:
        history: entries of a run's log.
        path: the PNG to write.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    losses = [(h["update"], h["loss"]) for h in history if "loss" in h]
    if losses:
        update, loss = np.array(losses).T
        above.plot(update, loss, alpha=0.3, label="one batch")
        window = max(1, len(loss) // 30)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        above.plot(update[window - 1 :], smooth, label=f"mean of {window}")
        above.legend()
    above.set_ylabel("loss")
    names = sorted({name for h in history for name in h if "R@" in name})
    for name in names:
        points = [(h["update"], 100 * h[name]) for h in history if name in h]
        below.plot(*zip(*points, strict=True), marker="o", label=name)
    if names:
        below.legend()
    below.set_ylabel("recall, %")
    below.set_xlabel("update")
    figure.savefig(path, dpi=110)
