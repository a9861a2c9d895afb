"""Fit the confidence of an index to photos whose place is known, and keep it in the index.

Two small logistic regressions over the evidence (see ``confidence``): "the photo shows the city"
and "the answer is right". Thresholds and radii are set on probabilities of photos that the
regression was not fitted to (cross-validation), since those it has seen look better than they are.
Radii follow from the probability of being right and from how far off right and wrong answers were.
What the report claims is measured likewise: thresholds and radii are set on four fifths of the
photos and tried on the last, in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selavpr import metrics
from selavpr.confidence import VERDICTS, Evidence, Verdict
from selavpr.errors import IndexFileError, OptionError
from selavpr.indexfiles import MANIFEST, manifest_text, read_manifest
from selavpr.judgement import MOST_DEVIATIONS, Calibration
from selavpr.regression import fit_logistic, logistic
from selavpr.structs import ASKING, ModelConfig

FEWEST = FOLDS = 5
"""Folds of the cross-validation, each of which needs a photo of the city and one from elsewhere."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Strengths of the regularisation, in units of one photo per standardised weight, that are tried;
the one that predicts held-out photos best is taken."""

SURE_SHARE = 0.95
"""Of the answers called sure, this share was right on photos held out..."""
SURE_FROM, SURE_CASES = 0.95, 10
"""...at this probability or more, and at least so many of them; else nothing is called sure."""

WRONGLY_REFUSED = 0.05
"""At most this share of the city's own photos is told that it is not here."""

STEPS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Probabilities of a right answer from which smaller radii are promised. The radii of a step are
for its lower end, so none rests on more than the 95 % that "sure" stands for."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """One calibration photo.

    Attributes:
        evidence: for the answer it got.
        error_m: from the answer to where it was taken; None for a photo from elsewhere.
    """

    evidence: Evidence
    error_m: float | None


@dataclass(frozen=True)
class _Cut:
    """Everything that is set on held-out probabilities."""

    not_here_below: float
    sure_from: float
    radius50_m: tuple[float, ...]
    radius90_m: tuple[float, ...]


def fit(
    samples: Sequence[Sample], top_k: int, config: ModelConfig | None = None
) -> tuple[Calibration, dict[str, Any]]:
    """Fit a calibration.

    Args:
        samples: photos of the city and from elsewhere; the shares in which the city's own and
            others will come are taken to be as here.
        top_k: candidates that were re-ranked.
        config: of the model that answered; None for one that asks as the paper's does.

    Returns:
        The calibration, and what held-out photos say of it, see ``quality``.

    Raises:
        OptionError: there are too few photos of one kind.
    """
    inside = np.array([s.error_m is not None for s in samples], dtype=bool)
    for count, what in ((inside.sum(), "of the city"), ((~inside).sum(), "from elsewhere")):
        if count < FEWEST:
            raise OptionError(
                f"Calibration needs at least {FEWEST} photos {what}; there are {count}."
            )
    errors = np.array([math.inf if s.error_m is None else s.error_m for s in samples])
    right = errors <= metrics.RIGHT_M
    raw = np.stack([s.evidence.vector() for s in samples])
    mean, scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)
    z = np.clip((raw - mean) / scale, -MOST_DEVIATIONS, MOST_DEVIATIONS)  # as it will be judged
    folds = _folds(inside)
    held: dict[str, Floats] = {}
    weights: dict[str, Floats] = {}
    for name, labels in (("here", inside), ("right", right)):
        tried = {s: _held_out(z, labels, folds, s) for s in STRENGTHS}
        best = min(tried, key=lambda s: _log_loss(tried[s], labels))
        held[name], weights[name] = tried[best], fit_logistic(z, labels, best)
    held["here"] = np.maximum(held["here"], held["right"])  # as it will be judged
    cut = _cut(held["here"], held["right"], inside, errors)
    calibration = _calibration(mean, scale, weights, cut, top_k, inside)
    parts = [
        _cut(held["here"][o], held["right"][o], inside[o], errors[o])
        for o in (folds != f for f in range(FOLDS))
    ]
    trials = [_calibration(mean, scale, weights, part, top_k, inside) for part in parts]
    verdicts: list[Verdict] = [
        trials[f].verdict(h, r) for f, h, r in zip(folds, held["here"], held["right"], strict=True)
    ]
    steps = np.searchsorted(STEPS, held["right"], "right")
    radii = [
        (parts[f].radius50_m[s], parts[f].radius90_m[s]) for f, s in zip(folds, steps, strict=True)
    ]
    asking = config.asking if config else ASKING
    calibration = dataclasses.replace(calibration, **asking)
    return calibration, quality(held["here"], held["right"], errors, verdicts, radii)


def quality(
    here: Floats,
    right: Floats,
    errors_m: Floats,
    verdicts: Sequence[Verdict],
    radii: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """How good verdicts, probabilities and radii are.

    Args:
        here: ``[n]`` probabilities that the photo shows the city.
        right: ``[n]`` probabilities that the answer is right; or ``here`` again where unknown.
        errors_m: ``[n]`` metres from the answer to the truth; infinite for photos from elsewhere.
        verdicts: in words.
        radii: metres that are to hold 50 % and 90 % of the truths.

    Returns:
        Areas under curves, expected calibration errors, how many got which verdict and how many of
        those were right, curves as ``[threshold, precision, recall]``, and the share of truths
        inside each radius; None where undefined.
    """
    inside, correct = np.isfinite(errors_m), errors_m <= metrics.RIGHT_M
    words = np.array(verdicts)
    near, far = (np.array([pair[i] for pair in radii]) for i in (0, 1))

    def share(of: Flags) -> float | None:
        return float(of.mean()) if of.size else None

    def curve(scores: Floats, positive: Flags) -> list[list[float]]:
        points = np.stack(metrics.precision_recall(scores, positive), axis=1)
        return [[round(float(x), 4) for x in point] for point in points]

    return {
        "photos_of_the_city": int(inside.sum()),
        "photos_from_elsewhere": int((~inside).sum()),
        "auc_in_city": metrics.roc_auc(here, inside),
        "average_precision_in_city": metrics.average_precision(here, inside),
        "calibration_error_in_city": metrics.calibration_error(here, inside),
        "auc_right": metrics.roc_auc(right, correct),
        "average_precision_right": metrics.average_precision(right, correct),
        "calibration_error_right": metrics.calibration_error(right, correct),
        "verdicts": {
            word: {
                "photos": int((words == word).sum()),
                "right": share(correct[words == word]),
                "from_elsewhere": int(((words == word) & ~inside).sum()),
            }
            for word in VERDICTS
        },
        "precision_recall_in_city": curve(here, inside),
        "precision_recall_right": curve(right, correct),
        "inside_radius50": share(errors_m[inside] <= near[inside]),
        "inside_radius90": share(errors_m[inside] <= far[inside]),
    }


def store(folder: Path, calibration: Calibration | None) -> None:
    """Write a calibration into an index: its manifest is replaced whole, with a new checksum.

    Raises:
        IndexFileError: there is no index, or it cannot be written.
    """
    manifest = read_manifest(folder)
    if not manifest.is_intact():
        raise IndexFileError(
            f"{MANIFEST} in {folder} was changed after the index was built; get the index anew, "
            "or build it again, before calibrating it."
        )
    fields = None if calibration is None else calibration.to_dict()
    changed = dataclasses.replace(manifest, calibration=fields).sealed()
    partial = folder / f".{MANIFEST}.tmp"
    try:
        partial.write_text(manifest_text(changed), encoding="utf-8")
        partial.replace(folder / MANIFEST)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise IndexFileError(f"Cannot write {MANIFEST}: {error.strerror or error}.") from error


def _folds(inside: Flags) -> NDArray[np.int64]:
    """A fold for each photo, both kinds spread evenly; the same every time."""
    folds = np.zeros(len(inside), dtype=np.int64)
    rng = np.random.default_rng(0)
    for kind in (True, False):
        members = rng.permutation(np.flatnonzero(inside == kind))
        folds[members] = np.arange(len(members)) % FOLDS
    return folds


def _held_out(z: Floats, labels: Flags, folds: NDArray[np.int64], strength: float) -> Floats:
    """For each photo the probability by a regression fitted to the other folds."""
    found = np.zeros(len(z))
    for fold in range(FOLDS):
        mine = folds == fold
        found[mine] = logistic(fit_logistic(z[~mine], labels[~mine], strength), z[mine])
    return found


def _log_loss(probabilities: Floats, labels: Flags) -> float:
    p = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return float(-np.log(np.where(labels, p, 1 - p)).mean())


def _cut(here: Floats, right: Floats, inside: Flags, errors_m: Floats) -> _Cut:
    """Thresholds and radii from held-out probabilities."""
    correct = errors_m <= metrics.RIGHT_M
    order = np.argsort(-right, kind="stable")
    cases = np.arange(1, len(order) + 1)
    good = np.cumsum(correct[order]) / cases
    safe = (good >= SURE_SHARE) & (cases >= SURE_CASES) & (right[order] >= SURE_FROM)
    sure_from = float(right[order][np.flatnonzero(safe)[-1]]) if safe.any() else 1.5
    refused = np.sort(here[inside])[int(WRONGLY_REFUSED * inside.sum())]
    hits, misses = errors_m[correct], errors_m[inside & ~correct]

    def radii(share: float) -> tuple[float, ...]:
        surest_first = [radius(hits, misses, p, share) for p in (*STEPS[::-1], 0.0)]
        # With few right ones seen, less evidence could promise less; the larger keeps the promise.
        return tuple(itertools.accumulate(surest_first, max))[::-1]

    return _Cut(min(0.5, float(refused)), sure_from, radii(0.5), radii(0.9))


def radius(right_m: Floats, wrong_m: Floats, probability: float, share: float) -> float:
    """The radius that holds a new truth with at least this probability (weighted split conformal).

    An answer errs like one of the n right ones seen, or like one not seen, with the probability of
    being right spread evenly over these n + 1; and likewise for the wrong ones. Where an answer was
    sure, its error is thus taken from all that were right and not only from the few that were just
    as sure (Tibshirani et al., NeurIPS 2019, with such weights).

    Args:
        right_m: ``[n]`` metres by which right answers were off, in any order.
        wrong_m: ``[m]`` likewise of wrong answers.
        probability: that the answer is right, 0 to 1.
        share: how often the radius is to hold the truth, 0 to 1.

    Returns:
        Metres, rounded up to a decimetre. The largest error seen where no radius is safe enough; 0
        where none was seen.
    """
    errors = np.concatenate([right_m, wrong_m])
    if not errors.size:
        return 0.0
    each = [probability / (right_m.size + 1), (1 - probability) / (wrong_m.size + 1)]
    order = np.argsort(errors, kind="stable")
    held = np.cumsum(np.repeat(each, [right_m.size, wrong_m.size])[order])
    place = min(int(np.searchsorted(held, share - 1e-9)), errors.size - 1)
    return math.ceil(float(errors[order][place]) * 10) / 10


def _calibration(
    mean: Floats, scale: Floats, weights: dict[str, Floats], cut: _Cut, top_k: int, inside: Flags
) -> Calibration:
    def rounded(values: Floats) -> tuple[float, ...]:
        return tuple(float(f"{x:.9g}") for x in values)

    return Calibration(
        mean=rounded(mean),
        scale=rounded(scale),
        here=rounded(weights["here"]),
        right=rounded(weights["right"]),
        not_here_below=cut.not_here_below,
        probably_from=0.5,
        sure_from=cut.sure_from,
        steps=STEPS,
        radius50_m=cut.radius50_m,
        radius90_m=cut.radius90_m,
        top_k=top_k,
        photos=int(inside.sum()),
        outside=int((~inside).sum()),
    )
