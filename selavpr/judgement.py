"""What an answer's evidence is worth: the calibration of an index, read with distrust.

Fitted by ``index calibrate`` and kept in the index, it turns evidence into two probabilities: that
the photo shows the city, and that the answer is right. Verdict and radii follow from them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from selavpr.confidence import FEATURES, Evidence, Verdict
from selavpr.errors import IndexFileError
from selavpr.regression import logistic
from selavpr.structs import ModelConfig, is_number

VERSION = 3
"""Of the calibration's form, and of how the answers it speaks of are come by; another one is passed
over, which leaves the index uncalibrated."""

MAX_TOP_K = 1000
"""Most candidates an answer may be made of."""

MOST_DEVIATIONS = 4.0
"""Evidence is cut off this far from what calibration saw: beyond it nothing is known."""


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
        top_k: candidates that were re-ranked when it was fitted, 1 to 1000. It speaks only of
            answers that as many were re-ranked for.
        photos: photos of the city it was fitted to.
        outside: photos from elsewhere.
        query_scales: of the model it was fitted with, which it speaks of alone.
        agreement: likewise.

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
    query_scales: tuple[float, ...] = ()
    agreement: bool = False

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
            if not all(is_number(x) and abs(x) < 1e9 for x in values):
                raise _damaged(f"{name} holds something that is no finite number")
        for name in ("not_here_below", "probably_from", "sure_from"):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= 2:
                raise _damaged(f"{name} must be a probability")
        for name in ("top_k", "photos", "outside"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise _damaged(f"{name} must be a whole number")
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise _damaged(f"top_k must be 1 to {MAX_TOP_K}")
        scales = self.query_scales
        if not isinstance(scales, tuple) or not all(is_number(scale) for scale in scales):
            raise _damaged("query_scales must be numbers")
        if not isinstance(self.agreement, bool):
            raise _damaged("agreement must be true or false")
        if min(self.scale) <= 0:
            raise _damaged("scale must be positive")
        if self.probably_from > self.sure_from or list(self.steps) != sorted(self.steps):
            raise _damaged("its thresholds are out of order")
        pairs = zip(self.radius50_m, self.radius90_m, strict=True)
        if any(not 0 <= half <= most for half, most in pairs):
            raise _damaged("its radii are out of order")

    def speaks_of(self, config: ModelConfig) -> bool:
        """Whether a model asks as it did when this was fitted."""
        return all(getattr(self, name) == value for name, value in config.asking.items())

    @classmethod
    def from_dict(cls, fields: dict[str, Any] | None) -> Calibration | None:
        """The inverse of ``to_dict``; None for no calibration or one of another version.

        Raises:
            IndexFileError: it is damaged.
        """
        if fields is None or fields.get("version") != VERSION:
            return None
        # A field with a default is younger than some calibrations, which lack it.
        known = {
            field.name
            for field in dataclasses.fields(cls)
            if field.default is dataclasses.MISSING or field.name in fields
        }
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
        here = max(here, right)  # what is right is in the city; the two are fitted apart
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


def _damaged(reason: str) -> IndexFileError:
    return IndexFileError(
        f"The calibration in the index is damaged: {reason}. Run `selavpr index calibrate` again."
    )
