"""Calibration: honest on data whose truth is known, stored safely, distrusted when read."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from selavpr import IndexFileError, OptionError, SelaVPR
from selavpr.calibration import STEPS, Sample, fit, radius, store
from selavpr.confidence import FEATURES, Evidence
from selavpr.index import PlaceIndex, verify
from selavpr.judgement import Calibration
from selavpr.recognizer import Recognizer
from selavpr.regression import fit_logistic, logistic


def drawn_samples(count: int = 600, seed: int = 0, signal: float = 2.0) -> list[Sample]:
    """Photos whose evidence tells, imperfectly, whether they are of the city and right.

    One hidden strength moves every feature; right answers are 1 to 10 m off, wrong ones 100 m.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        inside = rng.random() < 0.7
        right = inside and rng.random() < 0.7
        strength = signal * (inside * 0.5 + right * 1.0) + rng.normal()
        values = [strength + rng.normal() for _ in FEATURES]
        evidence = Evidence(**{
            name: (math.expm1(max(v, 0.0)) if name == "margin" else v)
            for name, v in zip(FEATURES, values, strict=True)
        })  # fmt: skip
        error = rng.uniform(1, 10) if right else rng.uniform(100, 1000)
        found.append(Sample(evidence, float(error) if inside else None))
    return found


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit(drawn_samples(), 20)[0]


def test_newton_reaches_the_minimum() -> None:
    """At the minimum the gradient of the penalised likelihood vanishes."""
    rng = np.random.default_rng(2)
    z, labels = rng.normal(size=(80, 3)), rng.random(80) < 0.4
    weights = fit_logistic(z, labels, strength=1.0)
    positive, negative = labels.sum(), (~labels).sum()
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    gradient = np.column_stack([np.ones(80), z]).T @ (logistic(weights, z) - target)
    gradient[1:] += weights[1:]
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("labels", [[True] * 6, [False] * 6, [True] * 3 + [False] * 3])
def test_separable_and_one_sided_data_stay_finite(labels: list[bool]) -> None:
    z = np.arange(6.0)[:, None] * -1
    p = logistic(fit_logistic(z, np.array(labels), 0.3), z)
    assert np.isfinite(p).all() and 0 < p.min() and p.max() < 1


def test_probabilities_keep_their_word_on_new_photos(fitted: Calibration) -> None:
    new = drawn_samples(2000, seed=1)
    judged = [fitted.judge(s.evidence) for s in new]
    inside = np.array([s.error_m is not None for s in new])
    right = np.array([s.error_m is not None and s.error_m <= 25 for s in new])
    for claimed, happened in ((np.array([j.confidence for j in judged]), inside),
                              (np.array([j.right for j in judged]), right)):  # fmt: skip
        for low in (0.0, 0.25, 0.5, 0.75):
            part = (claimed >= low) & (claimed < low + 0.25)
            assert abs(claimed[part].mean() - happened[part].mean()) < 0.1
    sure = np.array([j.verdict == "sure" for j in judged])
    assert sure.sum() > 100 and right[sure].mean() > 0.9
    refused = np.array([j.verdict == "not here" for j in judged])
    assert refused.sum() > 100 and inside[refused].mean() < inside.mean()
    assert refused[inside].mean() < 0.08


def test_radii_hold_what_they_promise(fitted: Calibration) -> None:
    inside = [s for s in drawn_samples(2000, seed=3) if s.error_m is not None]
    judged = [fitted.judge(s.evidence) for s in inside]
    errors = np.array([s.error_m for s in inside])
    near = np.array([j.radius50_m for j in judged])
    far = np.array([j.radius90_m for j in judged])
    assert 0.45 < (errors <= near).mean() < 0.75
    assert 0.87 < (errors <= far).mean() <= 1
    assert list(fitted.radius90_m) == sorted(fitted.radius90_m, reverse=True)


def test_the_report_does_not_boast() -> None:
    """Where evidence says nothing, held-out figures say so, and nothing is called sure."""
    calibration, said = fit(drawn_samples(300, signal=0.0), 20)
    assert abs(said["auc_in_city"] - 0.5) < 0.12
    assert said["verdicts"]["sure"]["photos"] <= 3
    assert calibration.sure_from > 0.7
    assert said["inside_radius90"] > 0.85


def test_the_report_by_hand() -> None:
    _, said = fit(drawn_samples(), 20)
    counted = said["verdicts"].values()
    assert sum(v["photos"] for v in counted) == 600
    assert said["photos_of_the_city"] + said["photos_from_elsewhere"] == 600
    curve = np.array(said["precision_recall_right"])
    assert curve[-1, 2] == 1 and (np.diff(curve[:, 0]) <= 0).all() and curve[0, 1] > 0.9
    assert said["auc_in_city"] > 0.75 and said["calibration_error_in_city"] < 0.1


def test_the_same_photos_give_the_same_calibration(fitted: Calibration) -> None:
    assert fit(drawn_samples(), 20)[0] == fitted


@pytest.mark.parametrize("kinds", [(4, 50), (50, 4), (0, 0)])
def test_too_few_photos(kinds: tuple[int, int]) -> None:
    evidence = Evidence(0, 0, 0)
    samples = [Sample(evidence, 5.0)] * kinds[0] + [Sample(evidence, None)] * kinds[1]
    with pytest.raises(OptionError, match="needs at least 5 photos"):
        fit(samples, 20)


def test_photos_that_all_look_alike() -> None:
    evidence = Evidence(0.5, 3.0, 1.0)
    calibration, said = fit([Sample(evidence, 5.0)] * 5 + [Sample(evidence, None)] * 5, 20)
    assert 0.3 < calibration.judge(evidence).confidence < 0.7
    assert said["auc_in_city"] == pytest.approx(0.5, abs=0.3)


NONE = np.empty(0)


def test_radius_of_sure_answers_by_hand() -> None:
    """Nine errors: the ceil(10 x 0.9) = 9th; four: there is no 5th, so the largest."""
    assert radius(np.arange(1.0, 10.0), NONE, 1, 0.9) == 9
    assert radius(np.arange(1.0, 10.0), NONE, 1, 0.5) == 5
    assert radius(np.arange(1.0, 5.0), NONE, 1, 0.9) == 4
    assert radius(np.array([3.01]), NONE, 1, 0.5) == 3.1
    assert radius(NONE, NONE, 1, 0.5) == 0


def test_radius_of_doubtful_answers_by_hand() -> None:
    """Right ones off by 9 to 1 m weigh p / 10 each, wrong ones by 100 to 400 m (1 - p) / 5."""
    right, wrong = np.arange(9.0, 0.0, -1.0), np.arange(100.0, 500.0, 100.0)
    assert radius(right, wrong, 0.8, 0.5) == 7  # 7 x 0.08 = 0.56
    assert radius(right, wrong, 0.8, 0.72) == 9
    assert radius(right, wrong, 0.8, 0.75) == 100  # 0.72 + 0.04
    assert radius(right, wrong, 0.8, 0.85) == 400
    assert radius(right, wrong, 0.8, 0.95) == 400  # 0.88 at most
    assert radius(right, wrong, 0, 0.5) == 300
    assert radius(right, NONE, 0.1, 0.5) == 9


def test_radii_do_not_hang_on_a_few_photos(fitted: Calibration) -> None:
    """The surest answers are promised what 95 % certainty of any right answer is worth."""
    assert fitted.steps == STEPS
    right = np.array([s.error_m for s in drawn_samples() if (s.error_m or 99) <= 25])
    assert fitted.radius50_m[-1] == pytest.approx(np.quantile(right, 0.5 / 0.95), abs=0.5)


# In the index


def test_through_json_and_back(fitted: Calibration) -> None:
    assert Calibration.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    assert Calibration.from_dict(None) is None
    assert Calibration.from_dict({**fitted.to_dict(), "version": 99}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", [0.0]), ("scale", [0.0] * len(FEATURES)), ("here", None), ("right", ["x"] * 8),
     ("here", [float("inf")] * 8), ("not_here_below", -1), ("sure_from", "high"),
     ("sure_from", 0.1), ("steps", [0.9, 0.1, 0.2, 0.3]), ("steps", []), ("top_k", 2.5),
     ("top_k", 0), ("top_k", 10**9), ("photos", -1), ("radius50_m", [1e6] * 5),
     ("radius90_m", [-1.0] * 5), ("mean", True),
     ("features", ["other"]), ("outside", True), ("steps", [[0.1]] * 4)],
)  # fmt: skip
def test_a_damaged_calibration_is_refused(fitted: Calibration, name: str, value: object) -> None:
    with pytest.raises(IndexFileError, match="calibration in the index is damaged"):
        Calibration.from_dict({**fitted.to_dict(), name: value})


def test_a_missing_field_is_refused(fitted: Calibration) -> None:
    fields = fitted.to_dict()
    del fields["right"]
    with pytest.raises(IndexFileError, match="right is missing"):
        Calibration.from_dict(fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=10,
)


@given(st.sampled_from(sorted(f.name for f in dataclasses.fields(Calibration))), json_values)
def test_any_json_is_read_or_refused(name: str, value: object) -> None:
    width = len(FEATURES)
    fields = Calibration((0.0,) * width, (1.0,) * width, (0.0,) * (width + 1),
                         (0.0,) * (width + 1), 0.1, 0.5, 0.9, (), (5.0,), (9.0,), 20, 9, 9
                         ).to_dict()  # fmt: skip
    try:
        read = Calibration.from_dict({**fields, name: value})
    except IndexFileError:
        return
    assert read is not None
    judged = read.judge(Evidence(1.0, 1e300, -1e300, 5, 5, 5, 5))
    assert 0 <= judged.confidence <= 1 and 0 <= judged.radius50_m <= judged.radius90_m


@pytest.mark.parametrize(
    ("name", "said", "meant", "wrong"),
    [("query_scales", [0.9], (0.9,), ["0.9"]), ("agreement", True, True, 1)],
)
def test_one_that_says_nothing_of_how_the_model_asks(
    fitted: Calibration, name: str, said: object, meant: Any, wrong: object
) -> None:
    fields = fitted.to_dict()
    other = Calibration.from_dict({**fields, name: said})
    assert other == dataclasses.replace(fitted, **{name: meant})
    plain = dataclasses.replace(TINY, scoring="expected")
    asking = dataclasses.replace(plain, **{name: meant})
    assert [c.speaks_of(m) for c in (fitted, other) for m in (plain, asking)] == [
        True, False, False, True
    ]  # fmt: skip
    del fields[name]
    assert Calibration.from_dict(fields) == fitted
    with pytest.raises(IndexFileError, match=name):
        Calibration.from_dict({**fields, name: wrong})


def test_it_remembers_how_the_model_asked() -> None:
    config = dataclasses.replace(TINY, scoring="expected", query_scales=(0.9,), agreement=True)
    assert fit(drawn_samples(), 20, config)[0].speaks_of(config)


def test_stored_in_an_index(
    built: Path, network: SelaVPR, tmp_path: Path, fitted: Calibration
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    store(folder, fitted)
    assert verify(folder) == []
    assert Recognizer.load(folder, model=network).calibration == fitted
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    store(folder, None)
    assert PlaceIndex.open(folder).manifest.calibration is None
    assert (folder / "manifest.json").read_bytes() == before["manifest.json"]


def test_a_manifest_that_was_changed_is_not_sealed_again(
    built: Path, tmp_path: Path, fitted: Calibration
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("Drawn Town", "Other Town"))
    with pytest.raises(IndexFileError, match="was changed after"):
        store(folder, fitted)
    with pytest.raises(IndexFileError, match="There is no index"):
        store(tmp_path, fitted)
