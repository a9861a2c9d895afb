"""What holds for any input of what trains, calibrates and describes networks."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TINY, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import FEW, json_values
from test_properties import cities, metres, seeds, towns, unit

from selavpr import OptionError, SelaVPR, SelaVPRError, WeightsError, losses, metrics
from selavpr.augment import augment, degrade, homography, occlude, reframe, relight
from selavpr.calibration import FEWEST, Sample, fit, quality, radius, store
from selavpr.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from selavpr.confidence import VERDICTS, Evidence
from selavpr.curves import draw_curves
from selavpr.geo import Location
from selavpr.images import IMAGENET_MEAN, IMAGENET_STD, network_size, normalise, preprocess
from selavpr.indexfiles import Manifest, manifest_text, read_manifest
from selavpr.judgement import Calibration
from selavpr.memory import Memory
from selavpr.mining import Batch, Town, to_describe
from selavpr.model import AdaptedBlock, Adapter, GeM, LocalHead
from selavpr.recipes import Recipe, from_dict, read_recipe
from selavpr.regression import fit_logistic, logistic
from selavpr.shapes import (
    adapter_width,
    check_fit,
    compare,
    frozen_shapes,
    some,
    trained_shapes,
)
from selavpr.structs import PRESETS, Features, Matches, ModelConfig, is_number
from selavpr.training import batch_loss, learning_rate
from selavpr.training_data import TrainingPhotos, collate, read_training
from selavpr.weights import (
    check_names,
    check_target,
    checked,
    cut,
    digest,
    fingerprint,
    read_tensors,
    timm_names,
)

any_json = json_values(st.integers(), st.floats(allow_nan=False))


def photo(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Augmentation


@settings(max_examples=25)
@given(
    seeds,
    st.tuples(st.integers(28, 90), st.integers(28, 90)),
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.floats(0, 1),
    st.floats(0, 0.9),
)
def test_augmented_photos_have_the_size_and_depend_on_the_seed_alone(
    seed: int, size: tuple[int, int], wanted: tuple[int, int], strength: float, zoom: float
) -> None:
    original = photo(seed, *size)
    one, again = (
        augment(original, wanted, np.random.default_rng(seed), strength, zoom) for _ in range(2)
    )
    assert one.size == wanted and one.mode == "RGB" and one.tobytes() == again.tobytes()
    moved = reframe(original, wanted, np.random.default_rng(seed), strength, zoom)
    assert moved.size == wanted and moved.mode == "RGB"
    assert original.tobytes() == photo(seed, *size).tobytes()


def test_a_weak_augmentation_may_zoom_far() -> None:
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).convert("RGB")

    def shares(zoom: float) -> list[float]:
        """What each of many views shows of the width."""
        views = [
            np.asarray(reframe(ramp, (80, 60), np.random.default_rng(i), 0.1, zoom))[20:40, :, 0]
            for i in range(40)
        ]
        return [float(np.ptp(view.mean(axis=0))) / 200 for view in views]

    assert min(shares(0)) > 0.85
    far = shares(0.6)
    assert min(far) < 0.5 and max(far) > 0.85


@FEW
@given(seeds)
def test_a_homography_takes_the_four_points_to_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    square = np.array([[0.0, 0.0], [10, 0], [10, 10], [0, 10]])
    source = square + rng.uniform(-2, 2, (4, 2))
    target = square + rng.uniform(-2, 2, (4, 2))
    a, b, c, d, e, f, g, h = homography(source, target)
    x, y = source.T
    found = np.stack([a * x + b * y + c, d * x + e * y + f], 1) / (g * x + h * y + 1)[:, None]
    np.testing.assert_allclose(found, target, atol=1e-6)


@settings(max_examples=40)
@given(seeds, st.integers(4, 20), st.integers(4, 20), st.floats(0, 1))
def test_changes_of_light_and_cover_keep_the_shape(
    seed: int, height: int, width: int, strength: float
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.random((height, width, 3)).astype(np.float32)
    before = pixels.copy()
    hidden = occlude(pixels, rng)
    assert hidden.shape == pixels.shape and np.isfinite(hidden).all()
    lit = relight(pixels, rng, strength)
    assert lit.shape == pixels.shape and lit.dtype == np.float32 and np.isfinite(lit).all()
    assert degrade(lit, rng, strength).size == (width, height)
    assert (pixels == before).all()  # all of them make copies
    # At no strength nothing changes but rounding.
    np.testing.assert_allclose(relight(pixels, rng, 0.0), pixels, atol=1e-5)
    assert np.abs(np.asarray(degrade(pixels, rng, 0.0)) / 255 - pixels).max() <= 0.5 / 255 + 1e-6


# Batches and losses


@FEW
@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 12), st.integers(0, 9))
def test_memory_holds_the_last_descriptors(sizes: list[int], size: int, width: int) -> None:
    memory = Memory.empty(width, torch.device("cpu"))
    everything = torch.zeros(0, dtype=torch.int64)
    for count in sizes:
        rows = torch.arange(len(everything), len(everything) + count)
        everything = torch.cat([everything, rows])
        seen = rows[:, None].expand(-1, width).float().requires_grad_()
        memory = memory.after(rows, seen, size)
        assert not memory.descriptors.requires_grad
    assert (
        memory.rows.tolist() == everything.tolist()[len(everything) - min(size, len(everything)) :]
    )
    assert memory.descriptors.tolist() == [[float(row)] * width for row in memory.rows.tolist()]


@FEW
@given(towns(), seeds)
def test_what_is_remembered_relates_as_the_town_says(town: Town, seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(len(town))
    half = max(1, len(rows) // 2)
    memory = Memory.empty(3, torch.device("cpu")).after(
        torch.from_numpy(rows[half:]), torch.zeros(len(rows) - half, 3), 100
    )
    empty = np.zeros((half, half), bool)
    past = memory.beside(Batch(rows[:half], empty, empty), town)
    same, different = town.masks(rows[:half], rows[half:])
    assert (past.same.numpy() == same).all() and (past.different.numpy() == different).all()


@FEW
@given(towns(), st.sampled_from(["full", "partial", "random"]), seeds, *[st.integers(1, 9)] * 2)
def test_what_is_described_are_anchors_and_references(
    town: Town, mining: Any, seed: int, queries: int, pool: int
) -> None:
    rng = np.random.default_rng(seed)
    if not len(town.anchors):
        with pytest.raises(OptionError):
            to_describe(town, mining, rng, queries, pool)
        return
    anchors, references = to_describe(town, mining, rng, queries, pool)
    assert set(anchors) <= set(town.anchors) and len(set(anchors)) == len(anchors)
    assert len(anchors) == min(queries, len(town.anchors))
    known = np.arange(len(town)) if town.references is None else town.references
    assert set(references) <= set(known) and (np.diff(references) > 0).all()
    assert len(references) == (len(known) if mining == "full" else min(pool, len(known)))


@settings(max_examples=40)
@given(seeds, st.integers(1, 8), st.integers(1, 8))
def test_mean_mutual_similarity_against_the_rule(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = unit(rng, n, 4), unit(rng, m, 4)
    similarity = a @ b.T
    rows, columns = similarity.argmax(1), similarity.argmax(0)
    pairs = [float(similarity[i, rows[i]]) for i in range(n) if columns[rows[i]] == i]
    found = float(losses.mean_mutual_similarity(a, b))
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    assert float(losses.mean_mutual_similarity(b, a)) == pytest.approx(found, abs=1e-5)


@settings(max_examples=15)
@given(seeds, st.sampled_from(["triplet", "multi-similarity", "none"]), st.floats(0, 3))
def test_the_loss_of_a_batch_is_the_weighted_sum(seed: int, kind: Any, weight: float) -> None:
    rng = np.random.default_rng(seed)
    features = Features(unit(rng, 4, 6), torch.zeros(4, 2, 2, 6), unit(rng, 4, 5, 5, 6))
    same = np.zeros((4, 4), bool)
    same[0, 1] = same[1, 0] = True
    batch = Batch(np.arange(4), same, ~same & ~np.eye(4, dtype=bool))
    recipe = Recipe(global_loss=kind, local_weight=weight, local_stride=2)
    without = Features(features.descriptor, features.tokens)
    whole, part = batch_loss(features, batch, recipe, 1), batch_loss(without, batch, recipe)
    assert features.local is not None
    local = features.local[:, 1::2, ::2].flatten(1, 2)
    masks = torch.from_numpy(batch.same), torch.from_numpy(batch.different)
    expected = float(part) + weight * float(losses.mutual(local, *masks))
    assert float(whole) == pytest.approx(expected, abs=1e-5)
    assert kind != "none" or float(part) == 0


@FEW
@given(
    st.floats(1e-6, 1),
    st.integers(0, 20),
    st.integers(1, 60),
    st.sampled_from(["constant", "cosine"]),
)
def test_rates_rise_in_the_warm_up_and_never_after(
    rate: float, warmup: int, updates: int, schedule: Any
) -> None:
    recipe = Recipe(learning_rate=rate, warmup=warmup, schedule=schedule)
    rates = [learning_rate(recipe, update, updates) for update in range(updates)]
    assert all(0 < r <= rate * (1 + 1e-12) for r in rates)
    warm, rest = rates[: warmup + 1], rates[warmup:]
    assert warm == sorted(warm) and rest == sorted(rest, reverse=True)


@FEW
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Recipe)]), any_json))
def test_any_values_are_a_recipe_or_a_clear_error(values: dict[str, Any]) -> None:
    try:
        recipe = from_dict(values)
    except OptionError as error:
        assert str(error)
        return
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


@settings(max_examples=40)
@given(
    st.text("abc=[]{}\"'\n#.0123456789e- _", max_size=60) | st.integers(1, 99).map("seed={}".format)
)
def test_any_text_is_a_recipe_or_a_clear_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.toml")
        path.write_text(text, encoding="utf-8")
        try:
            recipe = read_recipe(path, epochs=7)
        except OptionError as error:
            assert str(error)
            return
    assert recipe.epochs == 7


tensors = st.dictionaries(
    st.sampled_from(["a", "b.c", "d"]),
    st.lists(st.floats(-1e6, 1e6, width=32), max_size=3).map(torch.tensor),
)


@settings(max_examples=25)
@given(tensors, tensors, tensors, st.integers(0, 3), any_json)
def test_checkpoints_come_back(
    trained: Any, moments: Any, memory: Any, batches: int, about: Any
) -> None:
    plan = tuple(
        Batch(np.arange(i + 1), np.eye(i + 1, dtype=bool), ~np.eye(i + 1, dtype=bool))
        for i in range(batches)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.safetensors")
        write_checkpoint(path, Checkpoint(trained, moments, plan, memory, {"x": about}))
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
        found = read_checkpoint(path)
        assert found.about == {"x": about} and len(found.plan) == batches
        for mine, theirs in zip(plan, found.plan, strict=True):
            for name in ("rows", "same", "different"):
                assert (getattr(mine, name) == getattr(theirs, name)).all()
        for mine, theirs in (
            (trained, found.trained), (moments, found.moments), (memory, found.memory)
        ):  # fmt: skip
            assert {n: t.tolist() for n, t in mine.items()} == {
                n: t.tolist() for n, t in theirs.items()
            }
        path.write_bytes(path.read_bytes()[: -1 - batches])
        with pytest.raises(OptionError):
            read_checkpoint(path)


entries = st.fixed_dictionaries(
    {"update": st.integers(0, 99)},
    optional={"loss": st.floats(0, 9), "global R@1": st.floats(0, 1), "seconds": st.floats(0, 9)},
)


@settings(max_examples=3)
@given(st.lists(entries, max_size=4))
def test_curves_of_any_history(history: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw_curves(history, Path(folder, "c.png"))
        with Image.open(Path(folder, "c.png")) as picture:
            assert picture.size == (880, 660)


@settings(max_examples=30)
@given(
    cities,
    st.lists(st.tuples(metres, metres, st.none() | st.floats(0, 359)), min_size=1, max_size=6),
)
def test_training_photos_lie_as_far_apart_as_they_were_taken(
    centre: Location, rows: list[tuple[float, float, float | None]]
) -> None:
    places = [centre.moved(east, north) for east, north, _ in rows]
    with tempfile.TemporaryDirectory() as folder:
        lines = ["image,latitude,longitude,heading"]
        lines += [
            f"{i}.jpg,{p.latitude},{p.longitude},{'' if heading is None else heading}"
            for i, (p, (_, _, heading)) in enumerate(zip(places, rows, strict=True))
        ]
        Path(folder, "places.csv").write_text("\n".join(lines))
        found = read_training([folder], {}, positive_m=10, positive_degrees=40, negative_m=25)
        assert [path.name for path in found.paths] == [f"{i}.jpg" for i in range(len(rows))]
    town = found.town
    assert len(town) == len(rows) and len(set(town.world.tolist())) == 1
    for row, place in enumerate(places):
        apart = math.dist(town.position[row], town.position[0])
        # Meridians close in on each other, on a plane around the first photo.
        assert apart == pytest.approx(place.distance_m(places[0]), rel=5e-3, abs=0.01)
    known = [np.nan if heading is None else heading for *_, heading in rows]
    np.testing.assert_allclose(town.heading, known)


@FEW
@given(seeds, st.integers(1, 5), st.integers(28, 50), st.integers(28, 50))
def test_a_mirrored_photo_is_the_photo_from_right_to_left(
    seed: int, count: int, width: int, height: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = ["image,latitude,longitude"]
        for i in range(count):
            photo(seed + i, width, height).save(Path(folder, f"{i}.png"))
            lines.append(f"{i}.png,60,24")
        Path(folder, "places.csv").write_text("\n".join(lines))
        found: TrainingPhotos = read_training(
            [folder], {}, positive_m=10, positive_degrees=40, negative_m=25, mirror=True
        )
        assert len(found.paths) == len(found.town) == 2 * count
        for row in range(count):
            plain, mirrored = (np.asarray(found.load(r)) for r in (row, row + count))
            assert np.array_equal(plain, np.asarray(photo(seed + row, width, height)))
            assert np.array_equal(mirrored, plain[:, ::-1])


@FEW
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_a_batch_of_tensors_holds_each(count: int, height: int, width: int) -> None:
    parts = [torch.full((3, height, width), float(i)) for i in range(count)]
    assert collate(parts).shape == (count, 3, height, width)
    assert [float(x.mean()) for x in collate(parts)] == list(range(count))


# Calibration


@FEW
@given(seeds, st.integers(1, 4), st.integers(2, 30), st.floats(0.01, 10))
def test_a_regression_ends_where_its_gradient_is_none(
    seed: int, features: int, count: int, strength: float
) -> None:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, features))
    labels = rng.random(count) < 0.5
    weights = fit_logistic(z, labels, strength)
    p = logistic(weights, z)
    assert ((0 < p) & (p < 1)).all()
    positive, negative = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    gradient = z.T @ (p - target) + strength * weights[1:]
    assert np.abs(gradient).max() < 1e-5 and abs((p - target).sum()) < 1e-5
    assert (fit_logistic(z, labels, strength) == weights).all()


@FEW
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(0, 1e6), max_size=40),
    st.floats(0, 1),
    st.floats(0.01, 1),
)
def test_a_radius_holds_its_share(
    right: list[float], wrong: list[float], probability: float, share: float
) -> None:
    hits, misses, errors = np.array(right), np.array(wrong), right + wrong
    metres = radius(hits, misses, probability, share)
    assert metres <= max(errors) + 0.1 + 1e-6
    good = sum(error <= metres + 1e-9 for error in right) / (len(right) + 1)
    bad = sum(error <= metres + 1e-9 for error in wrong) / (len(wrong) + 1)
    held = probability * good + (1 - probability) * bad
    assert held >= share - 1e-6 or metres >= max(errors)
    assert radius(hits, misses, probability, min(1.0, share + 0.1)) >= metres


judged = st.tuples(
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e4) | st.just(math.inf),
    st.sampled_from(VERDICTS), st.floats(0, 100),
)  # fmt: skip


@FEW
@given(st.lists(judged, min_size=1, max_size=20))
def test_the_quality_of_verdicts_counts_every_photo(rows: list[Any]) -> None:
    here, right, errors, verdicts, radii = (list(column) for column in zip(*rows, strict=True))
    found = quality(
        np.array(here), np.array(right), np.array(errors), verdicts, [(r, 2 * r) for r in radii]
    )
    json.dumps(found, allow_nan=False)
    assert found["photos_of_the_city"] + found["photos_from_elsewhere"] == len(rows)
    assert sum(about["photos"] for about in found["verdicts"].values()) == len(rows)
    for word, about in found["verdicts"].items():
        mine = [e <= metrics.RIGHT_M for e, v in zip(errors, verdicts, strict=True) if v == word]
        assert about["right"] == (pytest.approx(sum(mine) / len(mine)) if mine else None)
    inner, outer = found["inside_radius50"], found["inside_radius90"]
    assert (inner is None) == (outer is None) == (found["photos_of_the_city"] == 0)
    assert inner is None or 0 <= inner <= outer <= 1


@settings(max_examples=4)
@given(seeds, st.integers(0, 30), st.integers(0, 30), st.integers(1, 100))
def test_a_fitted_calibration_judges_anything_and_is_kept(
    seed: int, more: int, others: int, top_k: int
) -> None:
    rng = np.random.default_rng(seed)

    def evidence() -> Evidence:
        return Evidence(*rng.random(7))

    samples = [Sample(evidence(), float(rng.exponential(30))) for _ in range(FEWEST + more)]
    samples += [Sample(evidence(), None) for _ in range(FEWEST + others)]
    with pytest.raises(OptionError):
        fit(samples[: FEWEST + more], top_k)
    plain, asking = (
        dataclasses.replace(TINY, scoring="expected", agreement=x, query_scales=(0.9,) * x)
        for x in (False, True)
    )
    assert asking.asking == {"query_scales": (0.9,), "agreement": True}
    for config, other in ((plain, asking), (asking, plain)):
        fitted = fit(samples, top_k, config)[0]
        assert fitted.speaks_of(config) and not fitted.speaks_of(other)
    found, about = fit(samples, top_k)
    assert found.speaks_of(plain)
    json.dumps(about, allow_nan=False)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert (found.photos, found.outside, found.top_k) == (FEWEST + more, FEWEST + others, top_k)
    for sample in samples[:5]:
        said = found.judge(sample.evidence)
        assert 0 < said.confidence < 1 and 0 < said.right < 1
        assert said.verdict == found.verdict(said.confidence, said.right)
        assert 0 <= said.radius50_m <= said.radius90_m
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest("n", "t", "m", "f", 0, (0.0, 0.0, 0.0, 0.0)).sealed()
        path = Path(folder, "manifest.json")
        path.write_text(manifest_text(manifest), encoding="utf-8")
        store(Path(folder), found)
        kept = read_manifest(Path(folder))
        assert kept.is_intact() and Calibration.from_dict(kept.calibration) == found
        store(Path(folder), None)
        assert read_manifest(Path(folder)) == manifest


# Networks

NETWORK = random_model(TINY)
grids = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=15)
@given(seeds, grids, st.integers(1, 2))
def test_descriptors_are_of_unit_length_and_project_is_every_fourth(
    seed: int, grid: tuple[int, int], photos: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.standard_normal((photos, *grid, TINY.width))).float()
    with torch.inference_mode():
        dense = NETWORK.densify(tokens)
        assert dense.shape == (photos, 4 * grid[0] - 3, 4 * grid[1] - 3, TINY.local_dim)
        assert torch.allclose(dense.norm(dim=-1), torch.ones(dense.shape[:-1]), atol=1e-4)
        near = NETWORK.project(tokens)
        assert torch.allclose(near, dense[:, ::4, ::4], atol=1e-5)
        head: LocalHead = NETWORK.local_head
        assert torch.equal(head.forward(tokens), dense) and torch.equal(head.project(tokens), near)
        pooled = GeM().forward(tokens)
        assert torch.allclose(pooled.norm(dim=-1), torch.ones(photos), atol=1e-5)
        # Where a token lies, and how long it is, does not matter to the whole picture.
        moved = GeM().forward(tokens.flip(1) * 3)
        assert torch.allclose(moved, pooled, atol=1e-5)


@settings(max_examples=10)
@given(seeds, st.integers(1, 3), grids)
def test_a_head_that_starts_as_a_projection_projects(
    seed: int, dim: int, grid: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    projection = torch.from_numpy(rng.standard_normal((dim, 6))).float()
    mean = torch.from_numpy(rng.standard_normal(6)).float()
    tokens = torch.from_numpy(rng.standard_normal((1, *grid, 6))).float()
    head = LocalHead(6, 2 * dim, dim)
    head.start_as_projection(mean, projection)
    expected = torch.nn.functional.normalize((tokens - mean) @ projection.T, dim=-1)
    with torch.inference_mode():
        assert torch.allclose(head.project(tokens), expected, atol=1e-4)
        assert torch.allclose(head.forward(tokens)[:, ::4, ::4], expected, atol=1e-4)
    with pytest.raises(OptionError):
        LocalHead(6, 2 * dim - 1, dim).start_as_projection(mean, projection)


@settings(max_examples=8)
@given(seeds, st.integers(1, 5))
def test_an_untrained_adapter_changes_nothing(seed: int, count: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, count, 8))).float()
    adapter = Adapter(8)
    adapter.start_as_zero()
    block = AdaptedBlock(8, num_heads=2)
    block.attn_adapter.start_as_zero()
    block.mlp_adapter.start_as_zero()
    with torch.inference_mode():
        assert not adapter.forward(x).any()
        assert torch.allclose(block.forward(x), block.forward(x, adapted=False), atol=1e-6)


@settings(max_examples=6)
@given(seeds, st.lists(st.tuples(*[st.integers(28, 80)] * 2), min_size=1, max_size=4), grids)
def test_features_do_not_depend_on_the_batch(
    seed: int, sizes: list[tuple[int, int]], grid: tuple[int, int]
) -> None:
    photos = [photo(seed + i, *size) for i, size in enumerate(sizes)]
    together = NETWORK.extract(photos, local=True, batch_size=3)
    alone = NETWORK.extract_each(photos, local=True, batch_size=1)
    assert len(together) == len(alone) == len(photos)
    joined = Features.cat(alone)
    assert torch.allclose(joined.descriptor, together.descriptor, atol=1e-5)
    assert joined.local is not None and together.local is not None
    assert torch.allclose(joined.local, together.local, atol=1e-4)
    assert together.to(torch.float64).descriptor.dtype == torch.float64
    pixels = torch.zeros(1, 3, 14 * grid[0], 14 * grid[1])
    with torch.inference_mode():
        plain = NETWORK.forward(pixels, adapted=False)
    assert plain.tokens.shape == (1, *grid, TINY.width) and plain.local is None
    with pytest.raises(OptionError):
        NETWORK.forward(pixels[:, :, :-1])
    assert NETWORK.device == torch.device("cpu") == together.descriptor.device


@settings(max_examples=4)
@given(st.integers(0, 99), st.sampled_from(["count", "expected"]))
def test_a_network_is_its_weights(seed: int, scoring: Any) -> None:
    model = random_model(dataclasses.replace(TINY, scoring=scoring), seed)
    again = SelaVPR.from_weights(model.to_weights(), device="cpu", precision="float32")
    assert again.fingerprint() == model.fingerprint() and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert again.place("cpu", "bfloat16").precision == torch.bfloat16
    with torch.no_grad():
        again.pool.p += 0.5
    assert again.fingerprint() != model.fingerprint()
    source = model.to_weights()
    config = source.config
    check_fit(config, source.trained, cut(source.backbone, config.depth))
    for expected, found in (
        (trained_shapes(config), source.trained), (frozen_shapes(config), source.backbone)
    ):  # fmt: skip
        assert expected == {name: tuple(x.shape) for name, x in found.items()}
        check_names(found, found, "tensors")
    down = source.trained["backbone.blocks.0.attn_adapter.down.weight"]
    assert down.shape == (adapter_width(config.width), config.width)


configs = st.fixed_dictionaries(
    {"width": st.integers(-1, 40), "depth": st.integers(-1, 3), "heads": st.integers(-1, 4)},
    optional={"input_size": st.integers(-14, 2100), "registers": st.integers(-1, 5)}
    | {name: any_json for name in ("resize", "adapter_scale", "antialias", "other", "scoring")}
    | {"agreement": st.booleans()}
    | {"query_scales": any_json | st.lists(st.floats(0.1, 5), max_size=3)},
)


@FEW
@given(configs | st.dictionaries(st.text(max_size=5), any_json))
def test_any_fields_are_a_shape_or_a_clear_error(fields: dict[str, Any]) -> None:
    try:
        config = ModelConfig.from_dict(fields)
    except OptionError as error:
        assert str(error)
        return
    assert ModelConfig.from_dict(dataclasses.asdict(config)) == config
    assert config.width % config.heads == 0 and config.input_size % 14 == 0
    assert all(config.at_scale(x).input_size % 14 == 0 for x in config.query_scales)


@FEW
@given(st.sampled_from(sorted(PRESETS)) | st.text(max_size=8), st.integers(1, 30))
def test_presets_take_changes(name: str, depth: int) -> None:
    if name not in PRESETS:
        with pytest.raises(OptionError):
            ModelConfig.preset(name)
        return
    config = ModelConfig.preset(name, depth=depth)
    assert (config.depth, config.width) == (depth, PRESETS[name]["width"])


@FEW
@given(any_json | st.floats() | st.integers(10**300, 10**310))
def test_numbers_are_what_arithmetic_takes(value: Any) -> None:
    try:
        finite = isinstance(value, (int, float)) and math.isfinite(float(value))
    except OverflowError:
        finite = False
    assert is_number(value) == (finite and not isinstance(value, bool))


@FEW
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), max_size=12), st.integers(-2, 14))
def test_the_top_matches_are_the_most_similar(similarity: list[float], count: int) -> None:
    rows = torch.arange(len(similarity))
    top = Matches(rows, rows.flip(0), torch.tensor(similarity)).top(count)
    order = sorted(range(len(similarity)), key=lambda i: (-similarity[i], i))[: max(count, 0)]
    assert top.query.tolist() == order and len(top) == len(order)
    assert top.similarity.tolist() == [similarity[i] for i in order]
    assert top.candidate.tolist() == [len(similarity) - 1 - i for i in order]


@settings(max_examples=25)
@given(seeds, st.tuples(*[st.integers(28, 90)] * 2), st.sampled_from(["squash", "keep-aspect"]),
       st.booleans())  # fmt: skip
def test_what_enters_the_network_lies_in_the_range_of_its_pixels(
    seed: int, size: tuple[int, int], resize: Any, antialias: bool
) -> None:
    config = dataclasses.replace(TINY, resize=resize, antialias=antialias)
    picture = photo(seed, *size)
    found = preprocess(picture, config)
    assert found.shape == (3, *network_size(size, config))
    plain = normalise(picture)
    assert plain.shape == (3, size[1], size[0])
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        back = (plain[channel] * std + mean) * 255
        assert torch.allclose(
            back, torch.tensor(np.asarray(picture))[..., channel].float(), atol=0.01
        )
        assert plain[channel].min() - 0.02 <= found[channel].min()
        assert found[channel].max() <= plain[channel].max() + 0.02


# Files of weights


@FEW
@given(
    st.dictionaries(st.text(max_size=4), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    st.dictionaries(st.text(max_size=4), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
)
def test_tensors_fit_if_names_and_shapes_are_the_same(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]
) -> None:
    held = {name: torch.empty(shape) for name, shape in found.items()}
    if expected == found:
        compare(expected, held, "tensors")
        return
    with pytest.raises(WeightsError):
        compare(expected, held, "tensors")
    with pytest.raises(WeightsError):
        check_names({n: torch.empty(s) for n, s in expected.items()}, held, "tensors")


@FEW
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=9))
def test_a_few_names_stand_for_all(names: list[str]) -> None:
    shown, _, rest = some(names).partition(" and ")
    assert shown == ", ".join(names[:3])
    assert rest == (f"{len(names) - 3} more" if len(names) > 3 else "")


blocks = st.dictionaries(
    st.sampled_from(["cls_token", "blocks.0.a", "blocks.1.a", "blocks.10.a", "xblocks.1.a"]),
    st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=3).map(torch.tensor),
)


@settings(max_examples=50)
@given(blocks, st.integers(0, 12), st.randoms())
def test_a_fingerprint_is_of_the_blocks_that_are_used(
    backbone: dict[str, torch.Tensor], depth: int, random: Any
) -> None:
    kept = cut(backbone, depth)
    unused = {n for n in backbone if n.startswith("blocks.") and int(n.split(".")[1]) >= depth}
    assert set(kept) == set(backbone) - unused
    order = list(backbone)
    random.shuffle(order)
    shuffled = {name: backbone[name].half() for name in order}
    assert fingerprint(shuffled, depth) == fingerprint(kept, depth)
    for name in kept:
        changed = {**backbone, name: backbone[name] + 1e4}
        assert fingerprint(changed, depth) != fingerprint(backbone, depth)


@FEW
@given(st.dictionaries(st.text(max_size=4), any_json), st.randoms())
def test_a_digest_does_not_depend_on_the_order_of_keys(value: Any, random: Any) -> None:
    order = list(value)
    random.shuffle(order)
    assert digest({key: value[key] for key in order}) == digest(value)
    assert digest({**value, "more": 1}) != digest({**value, "more": 2})


@settings(max_examples=40)
@given(seeds, st.booleans(), st.booleans(), st.integers(1, 5))
def test_names_of_backbones_come_out_alike(
    seed: int, registers: bool, mask: bool, count: int
) -> None:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    state = {"cls_token": drawn(1, 1, 4), "pos_embed": drawn(1, count + 1, 4)}
    state |= {"mask_token": drawn(1, 4)} if mask else {}
    state |= {"register_tokens": drawn(1, 2, 4)} if registers else {}
    found = timm_names(state)
    assert all(x.dtype == torch.float32 for x in found.values())
    assert set(found) == {"cls_token", "pos_embed"} | ({"reg_token"} if registers else set())
    # What stands before the patches is the same sum in either form.
    token = found["cls_token"] if registers else found["cls_token"] + found["pos_embed"][:, :1]
    assert torch.allclose(token.double(), state["cls_token"] + state["pos_embed"][:, :1], atol=1e-5)
    assert torch.equal(found["pos_embed"][:, -count:], state["pos_embed"][:, 1:].float())
    assert timm_names(found).keys() == found.keys()


@settings(max_examples=30)
@given(st.lists(st.floats(width=16), max_size=4), st.booleans())
def test_weights_are_finite_numbers_or_refused(values: list[float], whole: bool) -> None:
    tensor = torch.tensor(values, dtype=torch.float16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        safetensors.torch.save_file({"x": tensor.int() if whole else tensor}, path)
        if whole or not all(math.isfinite(value) for value in values):
            for attempt in (lambda: checked({"x": tensor.int() if whole else tensor}, "x"),
                            lambda: read_tensors(path)):  # fmt: skip
                with pytest.raises(WeightsError):
                    attempt()
            return
        for found in (checked({"x": tensor}, "x"), read_tensors(path)):
            assert found["x"].dtype == torch.float32 and found["x"].tolist() == tensor.tolist()


@FEW
@given(st.sets(st.sampled_from(["config.json", "adapters.safetensors", "photo.jpg", "a"])))
def test_a_model_replaces_nothing_but_a_model(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).touch()
        check_target(Path(folder, "new"))
        if names <= {"config.json", "adapters.safetensors"}:
            check_target(folder)
        else:
            with pytest.raises(SelaVPRError):
                check_target(folder)
        assert {path.name for path in Path(folder).iterdir()} == names
