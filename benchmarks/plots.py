"""Recall over what it costs, as an SVG that is the same on every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter, PercentFormatter


@dataclass(frozen=True)
class Point:
    """One way of doing it.

    Attributes:
        group: points of a group share a colour and may be joined.
        label: written beside the point.
        cost: on a logarithmic axis, so above 0.
        recall: 0 to 1.
    """

    group: str
    label: str
    cost: float
    recall: float


def draw(
    panels: Sequence[tuple[str, Sequence[Point]]], recall: str, path: Path, *, joined: bool = True
) -> None:
    """Draw one panel for each kind of cost, side by side.

    Args:
        panels: the name of a cost and the points.
        recall: what is on the vertical axis.
        path: SVG or PNG to write.
        joined: whether a line joins the points of a group.
    """
    mpl.rcParams["svg.hashsalt"] = "selavpr"  # else every run names its paths anew
    figure = Figure(figsize=(6.5 * len(panels), 4.6), layout="constrained")
    style = "o-" if joined else "o"
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (cost, points) in zip(axes, panels, strict=True):
        for group in dict.fromkeys(point.group for point in points):
            some = sorted((p for p in points if p.group == group), key=lambda p: p.cost)
            axis.plot([p.cost for p in some], [p.recall for p in some], style, label=group)
        for point in points:
            axis.annotate(
                point.label, (point.cost, point.recall), textcoords="offset points", xytext=(5, 4),
                fontsize=8,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        # Labelled only where the axis is short.
        axis.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.4)))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.grid(alpha=0.3)
        axis.set_xlabel(cost)
        axis.set_ylabel(recall)
        axis.margins(x=0.12, y=0.1)
    if len({point.group for _, points in panels for point in points}) > 1:
        axes[0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
