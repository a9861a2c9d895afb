"""How sure is the answer? From the evidence of a recognition to a probability and a verdict.

The raw number of mutual matches says little: two random 61 x 61 grids share about 1,870 of them
(REFERENCE figures, and measured). What tells is how far the best candidate's count stands out from
the other candidates', how many of its matches agree on one geometry, how far the next best *other*
place falls behind, and whether the leading candidates lie together on the map.

A calibration, fitted by ``index calibrate`` and kept in the index, turns this evidence into two
probabilities: that the photo shows the city, and that the answer is right. Until an index has one,
no probability is claimed: ``confidence`` is None, and the verdict follows from fixed, cautious
rules over the same evidence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from selavpr.errors import IndexFileError
from selavpr.geo import Location
from selavpr.structs import Candidate

Verdict = Literal["sure", "probably", "unsure", "not here"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

VERSION = 1
"""Of the calibration's form; another one is passed over, which leaves the index uncalibrated."""

TOGETHER_M = 50.0
"""Candidates this close to the answer support it; farther ones show another place."""

RIGHT_M = 25.0
"""An answer this close is right, as the benchmarks of place recognition have it."""

LOOKED_AT = 20
"""Candidates the evidence is gathered from: the same, however many were asked for."""

FEATURES = (
    "share",
    "margin",
    "lead",
    "agreeing",
    "together",
    "similarity",
    "similarity_lead",
)

MOST_DEVIATIONS = 4.0
"""Evidence is cut off this far from what calibration saw: beyond it nothing is known."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer.

    Attributes:
        agreeing: share of the best candidate's matches that agree on one geometry, 0 to 1.
        margin: how far the best candidate's count lies above the median of all candidates, in
            robust standard deviations; 0 where nothing was re-ranked.
        together: share of the five best candidates that lie within 50 m of the answer, 0 to 1.
        share: the best candidate's matches as a share of the photo's local descriptors, 0 to 1.
        lead: by what share of its count the best candidate beats the best one elsewhere.
        similarity: cosine of the global descriptors of the photo and its most similar reference.
        similarity_lead: how far that lies above the most similar reference elsewhere.
    """

    agreeing: float
    margin: float
    together: float
    share: float = 0.0
    lead: float = 0.0
    similarity: float = 0.0
    similarity_lead: float = 0.0

    def vector(self) -> NDArray[np.float64]:
        """The evidence as numbers ``[F]``, in the order of ``FEATURES``, on even scales."""
        values = dataclasses.replace(self, margin=math.log1p(max(self.margin, 0.0)))
        return np.array([getattr(values, name) for name in FEATURES], dtype=np.float64)


def gather(
    candidates: Sequence[Candidate], location: Location, agreeing: float, descriptors: int
) -> Evidence:
    """Evidence for an answer.

    Args:
        candidates: at least one, in order of ``rank``.
        location: the answer.
        agreeing: share of the best candidate's matches that agree on one geometry.
        descriptors: number of the photo's local descriptors.
    """
    seen = sorted(candidates, key=lambda c: c.global_rank)[:LOOKED_AT]
    best, nearest = candidates[0], seen[0]
    if best not in seen:
        seen.append(best)
    counts = [c.matches for c in seen if c.matches is not None]
    most = best.matches or 0
    elsewhere = [
        c.matches for c in seen if c.matches is not None and not _near(c, best.place.location)
    ]
    rival = max(elsewhere, default=min(counts, default=0))
    similar = [c.similarity for c in seen if not _near(c, nearest.place.location)]
    near = [_near(c, location) for c in candidates[:5]]
    return Evidence(
        agreeing=agreeing,
        margin=margin(counts),
        together=sum(near) / len(near),
        share=most / max(descriptors, 1),
        lead=(most - rival) / max(most, 1),
        similarity=nearest.similarity,
        similarity_lead=nearest.similarity - max(similar, default=min(c.similarity for c in seen)),
    )


def _near(candidate: Candidate, place: Location) -> bool:
    return candidate.place.location.distance_m(place) <= TOGETHER_M


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


@dataclass(frozen=True)
class Judgement:
    """What a calibration says of an answer.

    Attributes:
        confidence: probability that the photo shows the city.
        right: probability that the answer is within 25 m of the truth.
        verdict: in words.
        radius50_m: half of the answers like this lie within this many metres.
        radius90_m: nine tenths do.
    """

    confidence: float
    right: float
    verdict: Verdict
    radius50_m: float
    radius90_m: float


@dataclass(frozen=True)
class Calibration:
    """Two logistic regressions over the evidence, thresholds, and radii; see ``calibration``.

    Attributes:
        mean: of each of ``FEATURES`` over the calibration photos.
        scale: standard deviations, positive.
        here: intercept and weights of "the photo shows the city".
        right: intercept and weights of "the answer is right".
        not_here_below: below this probability of the city the verdict is "not here".
        probably_from: from this probability of a right answer it is "probably"...
        sure_from: ...and from this one "sure"; above 1 where no threshold was safe enough.
        steps: ascending probabilities of a right answer that part the radii.
        radius50_m: for each step, and for those below the first; one more than steps.
        radius90_m: likewise.
        top_k: candidates that were re-ranked when it was fitted.
        photos: photos of the city it was fitted to.
        outside: photos from elsewhere.

    Raises:
        IndexFileError: a number is missing, not finite or outside its domain.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    here: tuple[float, ...]
    right: tuple[float, ...]
    not_here_below: float
    probably_from: float
    sure_from: float
    steps: tuple[float, ...]
    radius50_m: tuple[float, ...]
    radius90_m: tuple[float, ...]
    top_k: int
    photos: int
    outside: int

    def __post_init__(self) -> None:
        """Check every field once: an index may come from a stranger."""
        steps = self.steps if isinstance(self.steps, tuple) else ()
        width, bins = len(FEATURES), len(steps) + 1
        lengths = {"mean": width, "scale": width, "here": width + 1, "right": width + 1,
                   "radius50_m": bins, "radius90_m": bins, "steps": bins - 1}  # fmt: skip
        for name, length in lengths.items():
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != length:
                raise _damaged(f"{name} must be {length} numbers")
            if not all(_is_number(x) and abs(x) < 1e9 for x in values):
                raise _damaged(f"{name} holds something that is no finite number")
        for name in ("not_here_below", "probably_from", "sure_from"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 2:
                raise _damaged(f"{name} must be a probability")
        for name in ("top_k", "photos", "outside"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise _damaged(f"{name} must be a whole number")
        if min(self.scale) <= 0:
            raise _damaged("scale must be positive")
        if self.probably_from > self.sure_from or list(self.steps) != sorted(self.steps):
            raise _damaged("its thresholds are out of order")
        pairs = zip(self.radius50_m, self.radius90_m, strict=True)
        if any(not 0 <= half <= most for half, most in pairs):
            raise _damaged("its radii are out of order")

    @classmethod
    def from_dict(cls, fields: dict[str, Any] | None) -> Calibration | None:
        """The inverse of ``to_dict``; None for no calibration or one of another version.

        Raises:
            IndexFileError: it is damaged.
        """
        if fields is None or fields.get("version") != VERSION:
            return None
        known = {field.name for field in dataclasses.fields(cls)}
        missing = sorted(known - fields.keys())
        if missing or fields.get("features") != list(FEATURES):
            raise _damaged(f"{missing[0] if missing else 'features'} is missing or wrong")
        values: dict[str, Any] = {
            name: tuple(fields[name]) if isinstance(fields[name], list) else fields[name]
            for name in known
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data, with version and the names of the features."""
        fields = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
        return {"version": VERSION, "features": list(FEATURES), **fields}

    def judge(self, evidence: Evidence) -> Judgement:
        """What this evidence is worth."""
        z = (evidence.vector() - np.array(self.mean)) / np.array(self.scale)
        z = np.clip(z, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        here, right = (logistic(np.array(w), z[None])[0] for w in (self.here, self.right))
        step = int(np.searchsorted(self.steps, right, "right"))
        return Judgement(
            confidence=float(here),
            right=float(right),
            verdict=self.verdict(float(here), float(right)),
            radius50_m=self.radius50_m[step],
            radius90_m=self.radius90_m[step],
        )

    def verdict(self, here: float, right: float) -> Verdict:
        """The verdict for the two probabilities."""
        if here < self.not_here_below:
            return "not here"
        if right >= self.sure_from:
            return "sure"
        return "probably" if right >= self.probably_from else "unsure"


def logistic(weights: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities ``[n]`` from ``weights [1 + F]``, the intercept first, and ``z [n, F]``."""
    line = np.clip(weights[0] + z @ weights[1:], -30, 30)
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-line))
    return probabilities


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _damaged(reason: str) -> IndexFileError:
    return IndexFileError(
        f"The calibration in the index is damaged: {reason}. Run `selavpr index calibrate` again."
    )
