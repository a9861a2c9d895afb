"""How sure is the answer? From the evidence of a recognition to a probability and a verdict.

The raw number of mutual matches says little: two random 61 x 61 grids share about 1,870 of them
(REFERENCE figures, and measured). What tells is how many matches of the best candidate agree on one
geometry, how far its count stands out from the other candidates', and whether the leading
candidates lie together on the map.

Until an index is calibrated (``index calibrate``), no probability is claimed: ``confidence`` is
None, and the verdict follows from fixed, cautious rules over the same evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["sure", "probably", "unsure", "not here"]


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer.

    Attributes:
        agreeing: share of the best candidate's matches that agree on one geometry, 0 to 1.
        margin: how far the best candidate's count lies above the median of all candidates, in
            robust standard deviations; 0 where nothing was re-ranked.
        together: share of the five best candidates that lie within 50 m of the answer, 0 to 1.
    """

    agreeing: float
    margin: float
    together: float


def margin(counts: Sequence[int]) -> float:
    """How far the largest of the counts stands out; 0 for fewer than three."""
    if len(counts) < 3:
        return 0.0
    values = np.asarray(counts, dtype=float)
    rest = np.sort(values)[:-1]
    middle = float(np.median(rest))
    spread = 1.4826 * float(np.median(np.abs(rest - middle)))
    # Counts vary by chance like their square root; without that floor two equal counts would make
    # any third look like a sensation.
    return (float(values.max()) - middle) / max(spread, float(np.sqrt(max(middle, 1.0))) / 2, 1.0)


def verdict(evidence: Evidence) -> Verdict:
    """The uncalibrated verdict: "probably" or "unsure".

    It takes both signs to say "probably": on the bundled sample no photo from outside the city had
    them. It is never "sure" and never "not here"; claims like these need a calibrated index.
    """
    strong = evidence.agreeing >= 0.35 and evidence.margin >= 10
    return "probably" if strong else "unsure"
