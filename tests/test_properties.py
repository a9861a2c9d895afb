"""What holds for any input of the pure functions, where their own tests go by example."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from selavpr import Location, SelaVPRError, count_mutual, losses, metrics, mutual_nearest
from selavpr.codec import TokenCodec
from selavpr.geo import consensus
from selavpr.geometry import MIN_AGREEING, agreement
from selavpr.images import normalise, standardise
from selavpr.indexfiles import is_inside
from selavpr.matching import FINALISTS, grid_centres
from selavpr.mining import Town, place_batches, triplet_batches, triplets
from selavpr.panorama import view
from selavpr.tables import read_table
from selavpr.terminal import plain
from selavpr.thinning import apart

seeds = st.integers(0, 2**32 - 1)
cities = st.builds(Location, st.floats(-75, 75), st.floats(-180, 180))
metres = st.floats(-5000, 5000)


def unit(rng: np.random.Generator, *shape: int) -> Tensor:
    x = torch.from_numpy(rng.standard_normal(shape)).float()
    return torch.nn.functional.normalize(x, dim=-1)


# Places


@given(cities, metres, metres)
def test_moved_is_the_inverse_of_offset(start: Location, east: float, north: float) -> None:
    there = start.moved(east, north)
    assert start.offset_m(there) == pytest.approx((east, north), abs=1e-3)
    apart = math.dist(start.from_centre_m(), there.from_centre_m())
    assert apart == pytest.approx(start.distance_m(there), abs=2e-3)
    # Within a city the plane is flat to a thousandth, 75 degrees north included.
    assert start.distance_m(there) == pytest.approx(math.hypot(east, north), rel=2e-3, abs=1e-3)


@given(st.builds(Location, st.floats(-90, 90), st.floats(-180, 180)), metres, metres)
def test_moving_never_leaves_the_earth(start: Location, east: float, north: float) -> None:
    start.moved(east, north)  # a place that is none would raise


@given(cities, st.lists(st.tuples(metres, metres), min_size=1, max_size=8), seeds)
def test_consensus_does_not_depend_on_the_scale_of_weights(
    centre: Location, offsets: list[tuple[float, float]], seed: int
) -> None:
    places = [centre.moved(*offset) for offset in offsets]
    # Whole numbers scaled by a power of two: not a bit of any comparison changes.
    weights = [float(w) for w in np.random.default_rng(seed).integers(1, 100, len(places))]
    fused, agrees = consensus(places, weights)
    assert consensus(places, [w * 2.0**20 for w in weights]) == (fused, agrees)
    assert any(agrees)
    assert all(fused.distance_m(p) < 31 for p, near in zip(places, agrees, strict=True) if near)


@given(
    st.lists(st.tuples(cities, st.none() | st.floats(0, 360)), max_size=12), st.floats(0, 20_000)
)
@example([(Location(1.0, 0.0), None), (Location(1.0, 0.0), None)], 5e-324)
def test_thinning_what_is_thin_keeps_all(
    spots: list[tuple[Location, float | None]], distance: float
) -> None:
    kept = apart(spots, distance)
    assert kept == sorted(set(kept)) and (not spots or kept[0] == 0)
    thin = [spots[i] for i in kept]
    assert apart(thin, distance) == list(range(len(thin)))


# Matching


@settings(max_examples=50)
@given(seeds, st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_counts_of_any_photos(seed: int, n: int, m: int, photos: int) -> None:
    rng = np.random.default_rng(seed)
    query, candidates = unit(rng, n, 8), unit(rng, photos, m, 8)
    exact = count_mutual(query, candidates)
    assert exact.tolist() == [len(mutual_nearest(query, c)) for c in candidates]
    assert 1 <= int(exact.min()) and int(exact.max()) <= min(n, m)
    fast = count_mutual(query, candidates, "fast")
    # Estimates stand below every full count, so whoever is first was counted in full.
    first = int(fast.argmax())
    assert fast[first] == exact[first]
    assert 0 <= int(fast.min()) and int((fast == exact).sum()) >= min(FINALISTS, photos)


@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_turning_all_descriptors_alike_changes_no_match(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    query, candidate = unit(rng, n, 6), unit(rng, m, 6)
    turn = torch.from_numpy(np.linalg.qr(rng.standard_normal((6, 6)))[0]).float()
    found, turned = mutual_nearest(query, candidate), mutual_nearest(query @ turn, candidate @ turn)
    # Rounding may only decide what was as good as equal.
    similarity = (query @ candidate.T).double()
    gaps = [s.sort(dim=d).values.diff(dim=d) for d, s in ((0, similarity), (1, similarity))]
    assume(all(not gap.numel() or float(gap.min()) > 1e-5 for gap in gaps))
    assert torch.equal(found.query, turned.query)
    assert torch.equal(found.candidate, turned.candidate)


@given(st.integers(1, 70), st.integers(1, 70))
def test_centres_are_a_quarter_patch_apart(height: int, width: int) -> None:
    centres = grid_centres(torch.arange(height * width), width).reshape(height, width, 2)
    assert centres[0, 0].tolist() == [7.0, 7.0]
    assert (centres.diff(dim=1) == torch.tensor([3.5, 0.0])).all()
    assert (centres.diff(dim=0) == torch.tensor([0.0, 3.5])).all()


@settings(max_examples=30)
@given(seeds, st.integers(MIN_AGREEING, 40), st.floats(-200, 200), st.floats(-200, 200))
def test_matches_that_are_all_shifted_alike_all_agree(
    seed: int, count: int, x: float, y: float
) -> None:
    query = np.random.default_rng(seed).uniform(0, 640, (count, 2))
    assert agreement(query, query + np.array([x, y]), (640, 480)).all()


# Codes


@settings(max_examples=30)
@given(seeds, st.integers(1, 12), st.integers(12, 40))
def test_a_code_is_a_projection(seed: int, rank: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.standard_normal((count, 12))).float()
    code = TokenCodec.fit(tokens, rank)
    assert torch.allclose(code.basis @ code.basis.T, torch.eye(rank), atol=1e-5)
    again = TokenCodec.fit(tokens, rank)
    assert torch.equal(code.basis, again.basis) and torch.equal(code.mean, again.mean)
    # What was decoded loses at most the step of its scale when it is coded again.
    decoded = code.decode(*code.encode(tokens))
    twice = code.decode(*code.encode(decoded))
    largest = ((decoded - code.mean) @ code.basis.T).abs().amax(dim=1, keepdim=True)
    assert bool(((twice - decoded).norm(dim=1, keepdim=True) <= largest / 100 * rank**0.5).all())


# Numbers of an evaluation


rankings = st.lists(
    st.tuples(st.permutations(range(6)), st.sets(st.integers(0, 5), max_size=6)),
    min_size=1,
    max_size=20,
)
scored = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30)


@given(rankings)
def test_recall_rises_with_n_to_the_share_of_queries_with_an_answer(
    queries: list[tuple[list[int], set[int]]],
) -> None:
    hits = metrics.first_hits([q[0] for q in queries], [q[1] for q in queries])
    scores = [metrics.recall(hits, n) for n in range(1, 7)]
    values = [score.value for score in scores]
    assert values == sorted(values)
    assert values[-1] == sum(bool(truth) for _, truth in queries) / len(queries)
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in scores)


@given(rankings, st.integers(1, 8))
def test_chance_is_a_share_and_rises_with_n(
    queries: list[tuple[list[int], set[int]]], n: int
) -> None:
    truths = [truth for _, truth in queries]
    assert 0 <= metrics.chance(truths, 6, n) <= metrics.chance(truths, 6, n + 1) + 1e-12 <= 1 + 1e-9
    share = sum(bool(truth) for truth in truths) / len(truths)
    assert metrics.chance(truths, 6, 6) == pytest.approx(share)
    # One answer drawn at random is right as often as there are right ones.
    once = sum(len(truth) for truth in truths) / 6 / len(truths)
    assert metrics.chance(truths, 6, 1) == pytest.approx(once)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_wilson_holds_the_share_and_mirrors(right: int, total: int) -> None:
    assume(right <= total)
    low, high = metrics.wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1 and low < high
    mirrored = metrics.wilson(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.lists(st.floats(0, 1e7), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_lie_in_order_among_the_errors(
    errors: list[float], one: float, two: float
) -> None:
    low, high = metrics.quantiles(errors, sorted((one, two)))
    assert low is not None and high is not None
    assert min(errors) <= low <= high * (1 + 1e-12) and high <= max(errors) * (1 + 1e-12)


@given(scored)
def test_precision_and_recall_at_every_threshold(rows: list[tuple[float, bool]]) -> None:
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    thresholds, precision, recall = metrics.precision_recall(scores, labels)
    assert list(thresholds) == sorted(set(scores), reverse=True)
    for threshold, p, r in zip(thresholds, precision, recall, strict=True):
        taken = [y for s, y in rows if s >= threshold]
        assert p == pytest.approx(sum(taken) / len(taken))
        assert r == pytest.approx(sum(taken) / max(sum(labels), 1))
    average = metrics.average_precision(scores, labels)
    assert (average is None) == (not any(labels))
    assert average is None or 0 < average <= 1 + 1e-12


@given(scored, st.integers(1, 20))
def test_calibration_error_is_a_share(rows: list[tuple[float, bool]], bins: int) -> None:
    claimed, happened = [p for p, _ in rows], [y for _, y in rows]
    assert 0 <= metrics.calibration_error(claimed, happened, bins) <= 1 + 1e-12
    # Who claims certainty and is right errs not at all.
    assert metrics.calibration_error([float(y) for y in happened], happened, bins) == 0


# Training


@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
def test_photos_are_standardised_one_by_one_or_together(
    seed: int, photos: int, height: int, width: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (photos, height, width, 3), np.uint8)
    together = standardise(torch.from_numpy(pixels))
    one_by_one = torch.stack([normalise(Image.fromarray(photo)) for photo in pixels])
    assert together.shape == (photos, 3, height, width)
    assert torch.equal(together, one_by_one) and float(together.abs().max()) < 3


@st.composite
def towns(draw: st.DrawFn) -> Town:
    count = draw(st.integers(2, 14))
    rng = np.random.default_rng(draw(seeds))
    heading = rng.choice([0.0, 30.0, 90.0, 200.0, np.nan], count)
    some = draw(st.none() | st.sets(st.integers(0, count - 1), min_size=1))
    return Town(
        position=rng.integers(0, 8, (count, 2)) * 6.0,
        heading=heading,
        world=rng.integers(0, 2, count),
        references=None if some is None else np.array(sorted(some)),
    )


@given(towns())
def test_no_photo_is_of_the_place_and_a_stranger(town: Town) -> None:
    rows = np.arange(len(town))
    same, different = town.masks(rows, rows)
    assert not (same & different).any() and not same.diagonal().any()
    assert not different.diagonal().any()
    referred = np.ones(len(town), bool)
    if town.references is not None:
        referred = np.isin(rows, town.references)
    assert not same[:, ~referred].any() and not different[:, ~referred].any()
    # Between references both are symmetric.
    inside = np.ix_(referred, referred)
    assert (same[inside] == same[inside].T).all()
    assert (different[inside] == different[inside].T).all()


@given(towns(), seeds, st.integers(1, 3), st.booleans())
def test_triplets_are_what_they_say(town: Town, seed: int, negatives: int, mined: bool) -> None:
    rng = np.random.default_rng(seed)
    descriptors = unit(rng, len(town), 5).numpy() if mined else None
    pool = np.arange(len(town))
    examples = triplets(town, town.anchors, pool, descriptors, rng, negatives)
    for anchor, positive, others in examples:
        assert town.positives(anchor)[positive] and town.strangers(anchor)[others].all()
        assert len(set(others.tolist())) == negatives
    for batch in triplet_batches(examples, 2):
        assert batch.same.sum() * negatives == batch.different.sum()
        assert not (batch.same & batch.different).any()


@given(towns(), seeds, st.integers(1, 4), st.integers(1, 3))
def test_a_batch_shows_no_photo_twice(town: Town, seed: int, places: int, views: int) -> None:
    rng = np.random.default_rng(seed)
    for batch in place_batches(town, places, views, rng, unit(rng, len(town), 5).numpy()):
        assert len(set(batch.rows.tolist())) == len(batch.rows) <= places * views
        same, different = town.masks(batch.rows, batch.rows)
        assert (batch.different == different).all() and (batch.same >= same).all()
        # Where a heading is unknown, one photo an anchor is taken for a view of its place.
        guessed = batch.same & ~same
        doubtful = np.stack([town.doubtful(int(row))[batch.rows] for row in batch.rows])
        near = np.stack([town.positives(int(row))[batch.rows] for row in batch.rows])
        assert (doubtful & (near | near.T) >= guessed).all() and (guessed == guessed.T).all()
        assert guessed.sum() <= 2 * places


LOSSES: list[tuple[Callable[..., Tensor], bool]] = [
    (losses.triplet, False),
    (losses.multi_similarity, False),
    (losses.mutual, True),
    (losses.soft_count, True),
]


@settings(max_examples=25)
@pytest.mark.parametrize(("loss", "local"), LOSSES)
@given(seeds, st.integers(1, 6))
def test_losses_do_not_depend_on_the_order_of_photos(
    loss: Callable[..., Tensor], local: bool, seed: int, photos: int
) -> None:
    rng = np.random.default_rng(seed)
    features = unit(rng, photos, 4, 5) if local else unit(rng, photos, 5)
    kinds = torch.from_numpy(rng.integers(0, 3, (photos, photos)))
    kinds.fill_diagonal_(0)
    same, different = kinds == 1, kinds == 2
    value = loss(features, same, different)
    assert value.shape == () and math.isfinite(value) and value >= 0
    order = torch.from_numpy(rng.permutation(photos))
    shuffled = loss(features[order], same[order][:, order], different[order][:, order])
    assert float(shuffled) == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    # A photo that is neither to anybody changes nothing.
    more = torch.cat([features, features[:1]])
    pad = torch.nn.ZeroPad2d((0, 1, 0, 1))
    wider = loss(more, pad(same.int()).bool(), pad(different.int()).bool())
    assert float(wider) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


# Panoramas, tables, names


@settings(max_examples=30)
@given(seeds, st.floats(-720, 720), st.floats(20, 140), st.floats(-90, 90), st.integers(0, 255))
def test_views_show_only_what_the_panorama_holds(
    seed: int, turn: float, fov: float, pitch: float, grey: int
) -> None:
    pixels = np.random.default_rng(seed).integers(40, 200, (16, 32, 3), dtype=np.uint8)
    cut = view(pixels, turn, fov, (12, 8), pitch)
    assert cut.shape == (8, 12, 3) and cut.min() >= pixels.min() and cut.max() <= pixels.max()
    flat = np.full((16, 32, 3), grey, dtype=np.uint8)
    assert (view(flat, turn, fov, (12, 8), pitch) == grey).all()


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"])
)
table_rows = st.lists(st.tuples(cities, st.floats(-720, 720), texts), min_size=1, max_size=5)


@settings(max_examples=40)
@given(table_rows)
def test_a_table_that_was_written_is_read(rows: list[tuple[Location, float, str]]) -> None:
    # Far-flung rows may look swapped to the reader, which is a matter of other tests.
    rows = rows[:2]
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "places.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["image", "lat", "lon", "heading", "street"])
            for i, (place, heading, street) in enumerate(rows):
                table.writerow([f"{i}.jpg", place.latitude, place.longitude, heading, street])
        found = read_table(folder)
    assert [row.location for row in found] == [place for place, _, _ in rows]
    assert [row.heading for row in found] == [heading % 360 for _, heading, _ in rows]
    assert [row.texts["street"] for row in found] == [street.strip() for _, _, street in rows]


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.text("image,ltogud;\t\n\"'.0123456789-e", max_size=200))
def test_any_bytes_are_a_table_or_a_clear_error(data: bytes | str) -> None:
    data = data if isinstance(data, bytes) else f"image,lat,lon\n{data}".encode()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "places.csv").write_bytes(data)
        try:
            read_table(folder)
        except SelaVPRError as error:
            assert str(error).strip()


@given(st.lists(st.sampled_from(["..", ".", "a", "b c", "", "C:", "..."]), max_size=5), st.text())
def test_paths_that_are_inside_stay_inside(parts: list[str], name: str) -> None:
    root = Path("/index/folder")
    for path in ("/".join(parts), name, "/".join([*parts, name])):
        if is_inside(path):
            inside = Path(*root.parts, *[p for p in path.split("/") if p not in ("", ".")])
            assert ".." not in inside.parts and inside != root
            assert not Path(path).is_absolute() and "\\" not in path and "\0" not in path


@given(st.text())
def test_printed_text_cannot_steer_a_terminal(text: str) -> None:
    assert plain(text).isprintable() and len(plain(text)) == len(text)
    assert plain(plain(text)) == plain(text)
