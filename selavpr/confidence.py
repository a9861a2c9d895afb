"""How sure is the answer? The evidence of a recognition, and the verdict without calibration.

The raw number of mutual matches says little: two random 61 x 61 grids share about 1,870 of them
(REFERENCE figures, and measured). What tells is how far the largest count stands out from the other
candidates', how many of the best one's matches agree on one geometry, how far the next best *other*
place falls behind, and whether the leading candidates lie together on the map.

A calibration (see ``judgement``) turns this evidence into probabilities. Until an index has one,
none is claimed: ``confidence`` is None, and the verdict follows from fixed, cautious rules.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from selavpr.geo import Location
from selavpr.structs import Candidate, Scoring

Verdict = Literal["sure", "probably", "unsure", "not here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

TOGETHER_M = 50.0
"""Candidates this close to the answer support it; farther ones show another place."""

LOOKED_AT = 20
"""First candidates whose similarity is evidence, however many are shown. As many are re-ranked
unless a calibration, or the user, says otherwise; the matches of the best of these, as many, are
evidence, too."""

PROBABLE: Mapping[Scoring, Mapping[str, float]] = {
    "count": {"margin": 10.0, "agreeing": 0.35, "lead": 0.0},
    "expected": {"margin": 4.0, "lead": 0.25},
}
"""Least evidence for "probably", all of it, if nobody has calibrated the index. On the bundled
city's test photos, judged as if nobody had, before queries were looked at in two sizes and what
lies alike counted for more: 164 of 258 reached the latter; 150 of these answers were right, and
five of the photos were from elsewhere."""

FEATURES = (
    "share",
    "margin",
    "lead",
    "agreeing",
    "together",
    "similarity",
    "similarity_lead",
)


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer.

    Attributes:
        agreeing: share of the best candidate's matches that agree on one geometry, 0 to 1.
        margin: how far the largest count lies above the median of all candidates, in robust
            standard deviations; 0 where nothing was re-ranked.
        together: share of the five best candidates that lie within 50 m of the answer, 0 to 1.
        share: the best candidate's matches as a share of the photo's local descriptors that could
            match, 0 to 1.
        lead: by what share of its count the best candidate beats the best one elsewhere; may be
            below 0 where its surroundings made it the best.
        similarity: cosine of the global descriptors of the photo and its most similar reference.
        similarity_lead: how far that lies above the most similar reference elsewhere.
        scoring: what the candidates' matches are.
    """

    agreeing: float
    margin: float
    together: float
    share: float = 0.0
    lead: float = 0.0
    similarity: float = 0.0
    similarity_lead: float = 0.0
    scoring: Scoring = "count"

    def vector(self) -> NDArray[np.float64]:
        """The evidence as numbers ``[F]``, in the order of ``FEATURES``, on even scales."""
        values = dataclasses.replace(self, margin=math.log1p(max(self.margin, 0.0)))
        return np.array([getattr(values, name) for name in FEATURES], dtype=np.float64)


def gather(
    candidates: Sequence[Candidate],
    location: Location,
    agreeing: float,
    descriptors: int,
    scoring: Scoring = "count",
) -> Evidence:
    """Evidence for an answer.

    Args:
        candidates: at least one, in order of ``rank``.
        location: the answer.
        agreeing: share of the best candidate's matches that agree on one geometry.
        descriptors: number of the photo's local descriptors.
        scoring: what the candidates' matches are.
    """
    seen = sorted(candidates, key=lambda c: c.global_rank)[:LOOKED_AT]
    best, nearest = candidates[0], seen[0]
    counted = [(c, c.matches) for c in candidates if c.matches is not None]
    counts = [matches for _, matches in counted]
    most = best.matches or 0
    elsewhere = [matches for c, matches in counted if not _near(c, best.place.location)]
    rival = max(elsewhere, default=min(counts, default=0))
    similar = [c.similarity for c in seen if not _near(c, nearest.place.location)]
    near = [_near(c, location) for c in candidates[:5]]
    return Evidence(
        agreeing=agreeing,
        margin=margin(counts, scoring),
        together=sum(near) / len(near),
        share=most / max(descriptors, 1),
        lead=(most - rival) / max(most, 1),
        similarity=nearest.similarity,
        similarity_lead=nearest.similarity - max(similar, default=min(c.similarity for c in seen)),
        scoring=scoring,
    )


def _near(candidate: Candidate, place: Location) -> bool:
    return candidate.place.location.distance_m(place) <= TOGETHER_M


def margin(counts: Sequence[float], scoring: Scoring = "count") -> float:
    """How far the largest of the counts stands out; 0 for fewer than three."""
    if len(counts) < 3:
        return 0.0
    values = np.asarray(counts, dtype=float)
    rest = np.sort(values)[:-1]
    middle = float(np.median(rest))
    spread = 1.4826 * float(np.median(np.abs(rest - middle)))
    # Counts vary by chance like their square root, expected numbers are smooth; without a floor two
    # equal ones would make any third look like a sensation.
    if scoring == "count":
        floor = max(float(np.sqrt(max(middle, 1.0))) / 2, 1.0)
    else:
        floor = max(middle / 20, 1e-6)
    return (float(values.max()) - middle) / max(spread, floor)


def verdict(evidence: Evidence) -> Verdict:
    """The uncalibrated verdict: "probably" or "unsure", by what ``PROBABLE`` asks for.

    It is never "sure" and never "not here"; claims like these need a calibrated index.
    """
    least = PROBABLE[evidence.scoring]
    strong = all(getattr(evidence, name) >= value for name, value in least.items())
    return "probably" if strong else "unsure"
