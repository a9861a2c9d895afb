"""The recogniser: finds what it knows, keeps its order rule, survives any photo and any thread."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import COUNT, MANIFEST, SIZE, drawn
from PIL import Image

from selavpr import (
    IndexFileError,
    ModelConfig,
    OptionError,
    PhotoError,
    SelaVPR,
    WeightsError,
    localfeatures,
    reranking,
)
from selavpr.building import build
from selavpr.confidence import FEATURES
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from selavpr.judgement import Calibration
from selavpr.localfeatures import Local
from selavpr.matching import expect_mutual
from selavpr.recognizer import Recognizer
from selavpr.report import to_dict
from selavpr.sources import SourcePhoto
from selavpr.structs import Place, Recognition

STAGES = ["open", "extract", "search", "rerank", "locate"]


def answer(recognition: Recognition) -> dict[str, object]:
    """Everything but the times."""
    found = to_dict(recognition, "x")
    del found["timings_ms"]
    return found


@pytest.mark.parametrize("number", [0, 5, 11])
def test_a_reference_photo_is_found_first(recognizer: Recognizer, number: int) -> None:
    found = recognizer.recognize(drawn(number))
    best = found.candidates[0]
    assert (best.place.place_id, best.rank, best.global_rank) == (f"p{number}", 1, 1)
    assert best.similarity == pytest.approx(1, abs=1e-4)
    # 4 x 4 tokens make 13 x 13 local descriptors; the code loses a little of them.
    assert best.matches is not None and best.matches > 0.9 * 169
    assert found.global_location == best.place.location
    assert found.location.location.distance_m(best.place.location) < 1
    assert found.location.street == f"Way {number}"
    matches = recognizer.matches(found, 0)
    assert len(matches.similarity) == best.matches
    assert matches.agrees.float().mean() > 0.99
    assert (matches.query - matches.candidate).norm(dim=1).median() == 0


def test_what_an_answer_holds(recognizer: Recognizer, network: SelaVPR) -> None:
    stages: list[tuple[str, float]] = []
    found = recognizer.recognize(drawn(3), top_k=5, progress=lambda *args: stages.append(args))
    assert found.photo_size == SIZE and len(found.candidates) == 5
    assert list(found.timings_ms) == STAGES
    assert all(ms >= 0 for ms in found.timings_ms.values())
    assert [stage for stage, _ in stages] == [*STAGES, "done"]
    shares = [share for _, share in stages]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    expected = network.extract(drawn(3), local=True)
    assert torch.equal(found.features.descriptor, expected.descriptor)
    assert found.features.local is not None
    estimate = found.location
    assert estimate.confidence is estimate.radius50_m is estimate.radius90_m is None
    assert estimate.verdict in ("probably", "unsure", "not here")
    recognizer.recognize(drawn(3), top_k=1, progress=None)


def test_more_matches_first_and_ties_by_the_global_rank(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [7, 9, 7, 9, 0, 7]
    monkeypatch.setattr(Recognizer, "_scores", lambda self, features, rows: counts[: len(rows)])
    found = recognizer.recognize(drawn(1), top_k=6, rerank_depth=6)
    assert [c.global_rank for c in found.candidates] == [2, 4, 1, 3, 6, 5]
    assert [c.rank for c in found.candidates] == [1, 2, 3, 4, 5, 6]
    assert [c.matches for c in found.candidates] == [9, 9, 7, 7, 7, 0]
    assert [c.global_rank for c in found.by_global_rank] == [1, 2, 3, 4, 5, 6]
    assert found.fallen == () and found.either == found.candidates


def by_row(patch: pytest.MonkeyPatch, scores: dict[int, int]) -> list[list[int]]:
    """Scores by row, 0 where none is given; returns the lists of rows that will be asked for."""
    asked: list[list[int]] = []

    def scored(self: Recognizer, looks: object, rows: list[int]) -> list[int]:
        asked.append(rows)
        return [scores.get(row, 0) for row in rows]

    patch.setattr(Recognizer, "_scores", scored)
    return asked


def test_those_beside_the_best_are_re_ranked_however_far_down_they_stand(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos stand 40 m apart in the order of their rows."""
    order = [c.row for c in recognizer.recognize(drawn(50), top_k=COUNT, rerank=False).candidates]
    first, rest = order[:6], order[6:]
    leader = next(row for row in first if {row - 1, row + 1} & set(rest))
    beside = [row for row in rest if abs(row - leader) == 1]
    monkeypatch.setattr("selavpr.recognizer.LEADERS", 1)
    monkeypatch.setattr("selavpr.locating.RADIUS_M", 45.0)
    asked = by_row(monkeypatch, {leader: 5, beside[0]: 9})
    found = recognizer.recognize(drawn(50), top_k=8, rerank_depth=6)
    assert asked == [first, beside]
    assert [c.row for c in found.candidates[:2]] == [beside[0], leader]
    assert found.candidates[0].matches == 9
    assert found.candidates[0].global_rank == order.index(beside[0]) + 1
    # All that were re-ranked come first, and then the next of the first stage.
    matched = [c.matches is not None for c in found.candidates]
    assert matched == sorted(matched, reverse=True) and sum(matched) == 6 + len(beside)
    assert [c.row for c in found.by_global_rank] == order[:8]
    fewer = recognizer.recognize(drawn(50), top_k=6, rerank_depth=6)
    assert fewer.reranked == found.reranked == 6 + len(beside)
    assert recognizer.evidence(found) == recognizer.evidence(fewer)


def test_a_narrow_lead_is_settled_by_the_surroundings(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos stand 40 m apart in the order of their rows: two together against one alone."""
    by_row(monkeypatch, {0: 100, 5: 99, 6: 98})
    found = recognizer.recognize(drawn(50), top_k=COUNT, rerank_depth=COUNT)
    assert [(c.row, c.rank, c.matches) for c in found.candidates[:3]] == [
        (5, 1, 99), (0, 2, 100), (6, 3, 98),
    ]  # fmt: skip
    evidence = recognizer.evidence(found)
    assert evidence.lead == pytest.approx(-1 / 99)
    by_row(monkeypatch, {0: 100, 5: 69, 6: 69})
    clear = recognizer.recognize(drawn(50), top_k=COUNT, rerank_depth=COUNT)
    assert clear.candidates[0].row == 0


def test_no_more_than_half_as_many_are_added(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selavpr.locating.RADIUS_M", 1000.0)
    order = [c.row for c in recognizer.recognize(drawn(50), top_k=COUNT, rerank=False).candidates]
    asked = by_row(monkeypatch, {})
    for depth, added in ((5, order[5:7]), (1, []), (2, order[2:3]), (COUNT, [])):
        recognizer.recognize(drawn(50), top_k=1, rerank_depth=depth)
        assert asked == [order[:depth], *([added] if added else [])]
        asked.clear()
    # Nor are they sought to the end of the list.
    monkeypatch.setattr("selavpr.recognizer.REACH", 2)
    recognizer.recognize(drawn(50), top_k=1, rerank_depth=3)
    assert asked == [order[:3], order[3:4]]


def test_what_the_first_stage_put_in_front_is_told_however_far_it_fell(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are re-ranked than shown, so the first stage's first may be among none of these."""
    counts = [0, 9, 7, 1, 8, 6]
    monkeypatch.setattr(Recognizer, "_scores", lambda self, features, rows: counts[: len(rows)])
    found = recognizer.recognize(drawn(1), top_k=3, rerank_depth=6)
    assert [c.global_rank for c in found.candidates] == [2, 5, 3]
    assert [(c.global_rank, c.rank) for c in found.fallen] == [(1, 6)]
    alone = recognizer.recognize(drawn(1), top_k=3, rerank=False)
    assert [c.row for c in found.by_global_rank] == [c.row for c in alone.candidates]
    assert found.global_location == found.by_global_rank[0].place.location
    # Its matches can be drawn like any other's.
    fallen = recognizer.matches(found, 3)
    whole = recognizer.recognize(drawn(1), top_k=6, rerank_depth=6)
    same = recognizer.matches(whole, 5)
    assert whole.candidates[5].row == found.either[3].row
    assert torch.equal(fallen.similarity, same.similarity)
    with pytest.raises(OptionError, match="no candidate 4; there are 4"):
        recognizer.matches(found, 4)


def test_counts_are_those_of_the_matches(recognizer: Recognizer) -> None:
    found = recognizer.recognize(drawn(50), top_k=8, rerank_depth=8)  # few: all counts are exact
    for i, candidate in enumerate(found.candidates):
        assert len(recognizer.matches(found, i).similarity) == candidate.matches


@pytest.fixture(scope="module")
def expecting(photos: list[SourcePhoto], tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """A model that re-ranks by expected matches, with its index."""
    model = random_model(dataclasses.replace(TINY, scoring="expected"))
    folder = tmp_path_factory.mktemp("expecting") / "town"
    made, _ = build(folder, photos, model, MANIFEST, local="dense")
    return Recognizer(model, made)


def test_expected_matches_order_the_candidates(expecting: Recognizer) -> None:
    photo = drawn(70)
    found = expecting.recognize(photo, top_k=9, rerank_depth=8)
    model, index = expecting.model, expecting.index
    query = model.extract([photo]).tokens[0].flatten(0, 1)
    expected = {
        c.row: float(
            expect_mutual(model.project(query), index.centres([c.row], model)[0].descriptors[None])[
                0
            ]
        )
        for c in found.candidates[:8]
    }
    assert [c.matches for c in found.candidates[:8]] == pytest.approx(
        sorted(expected.values(), reverse=True), rel=1e-5
    )
    assert found.candidates[8].matches is None
    assert all(c.matches_text == f"{expected[c.row]:.1f}" for c in found.candidates[:8])
    assert expecting.evidence(found).scoring == "expected"
    assert found.features.local is None  # not needed, so not made


def test_what_lies_alike_counts_for_more(expecting: Recognizer) -> None:
    source = expecting.model.to_weights()
    config = dataclasses.replace(source.config, agreement=True)
    model = SelaVPR.from_weights(
        dataclasses.replace(source, config=config), device="cpu", precision="float32"
    )
    recognizer = Recognizer(model, expecting.index)
    found = recognizer.recognize(drawn(70), top_k=8, rerank_depth=8)
    tokens = model.extract([drawn(70)]).tokens[0]
    query = Local.of_tokens(tokens, model)
    known = expecting.index.centres([c.row for c in found.candidates], model)
    there = torch.stack([one.places for one in known])
    expected = expect_mutual(
        query.descriptors, torch.stack([one.descriptors for one in known]), (query.places, there)
    )
    assert [c.matches for c in found.candidates] == pytest.approx(expected.tolist(), rel=1e-4)
    alone = {c.row: c.matches for c in expecting.recognize(drawn(70), top_k=COUNT).candidates}
    assert all((c.matches or 0) < (alone[c.row] or 0) for c in found.candidates)


def test_further_sizes_of_a_query_are_averaged(
    expecting: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = expecting.model.to_weights()
    config = dataclasses.replace(source.config, query_scales=(1.5, 0.75))
    model = SelaVPR.from_weights(
        dataclasses.replace(source, config=config), device="cpu", precision="float32"
    )
    recognizer = Recognizer(model, expecting.index)
    (found,) = recognizer.recognize_many([drawn(70)], top_k=9, rerank_depth=8)
    assert isinstance(found, Recognition)
    alone = expecting.recognize(drawn(70), top_k=9, rerank_depth=8)
    assert [c.row for c in found.by_global_rank] == [c.row for c in alone.by_global_rank]
    assert torch.equal(found.features.tokens, alone.features.tokens)
    each = []
    for size in (56, 84, 42):
        shape = dataclasses.replace(source.config, input_size=size)
        other = SelaVPR.from_weights(
            dataclasses.replace(source, config=shape), device="cpu", precision="float32"
        )
        tokens = other.extract([drawn(70)]).tokens[0].flatten(0, 1)
        assert len(tokens) == (size // 14) ** 2
        known = [x.descriptors for x in expecting.index.centres([c.row for c in
                 found.candidates[:8]], model)]  # fmt: skip
        each.append(expect_mutual(model.project(tokens), torch.stack(known)))
    mean = torch.stack(each).mean(0).tolist()
    assert [c.matches for c in found.candidates[:8]] == pytest.approx(mean, rel=1e-4)
    assert mean != pytest.approx([c.matches for c in alone.candidates[:8]], rel=1e-2)
    # Without the second stage nobody looks twice.
    scales, extract = [], model.extract_each

    def looked(photos: Any, **how: Any) -> Any:
        scales.append(how["scale"])
        return extract(photos, **how)

    monkeypatch.setattr(model, "extract_each", looked)
    recognizer.recognize(drawn(70), rerank=False)
    assert scales == [1.0]


def test_evidence_is_taken_from_what_the_score_looks_at(expecting: Recognizer) -> None:
    """A reference photo's tokens match themselves, all on one geometry."""
    found = expecting.recognize(drawn(5))
    assert expecting.evidence(found).agreeing == 1
    # What is drawn is the dense grid's: more than one match a token.
    model = expecting.model
    tokens = found.features.tokens.shape[1:3].numel()
    assert len(expecting.matches(found, 0).similarity) > tokens
    assert model.config.scoring == "expected"


def test_a_reference_photo_is_expected_first(expecting: Recognizer) -> None:
    best = expecting.recognize(drawn(5)).candidates[0]
    assert best.place.place_id == "p5" and best.matches is not None
    # Of 4 x 4 tokens each finds itself before all others.
    assert 1 < best.matches < 16
    assert to_dict(expecting.recognize(drawn(5)), "x")["candidates"][0]["matches"] == round(
        best.matches, 2
    )


def test_an_index_of_counts_is_not_ranked_by_expectation(
    expecting: Recognizer, recognizer: Recognizer
) -> None:
    with pytest.raises(IndexFileError, match="another model"):
        Recognizer(expecting.model, recognizer.index)


def test_blocks_of_candidates_change_nothing(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recognizer.recognize(drawn(51), top_k=9)
    monkeypatch.setattr(reranking, "COUNT_BLOCK", 2)
    monkeypatch.setattr(localfeatures, "DENSIFY_BATCH", 1)
    parts = recognizer.recognize(drawn(51), top_k=9)
    assert [(c.row, c.matches) for c in parts.candidates] == [
        (c.row, c.matches) for c in whole.candidates
    ]


def test_without_re_ranking(recognizer: Recognizer) -> None:
    found = recognizer.recognize(drawn(4), rerank=False)
    assert [c.rank for c in found.candidates] == [c.global_rank for c in found.candidates]
    similarities = [c.similarity for c in found.candidates]
    assert similarities == sorted(similarities, reverse=True)
    assert all(c.matches is None for c in found.candidates)
    assert "rerank" not in found.timings_ms
    assert found.candidates[0].place.place_id == "p4"
    assert len(recognizer.matches(found, 0).similarity) > 0  # local features are made when needed


def test_more_candidates_than_photos(recognizer: Recognizer) -> None:
    found = recognizer.recognize(drawn(60), top_k=1000)
    assert len(found.candidates) == COUNT
    assert sorted(c.row for c in found.candidates) == list(range(COUNT))


@pytest.mark.parametrize("top_k", [0, -1, 1001, 2.0, True, "5", None])
def test_top_k_out_of_range(recognizer: Recognizer, top_k: int) -> None:
    with pytest.raises(OptionError, match="top_k must be 1 to 1000"):
        recognizer.recognize(drawn(1), top_k=top_k)


@pytest.mark.parametrize("i", [-1, 3])
def test_no_such_candidate(recognizer: Recognizer, i: int) -> None:
    found = recognizer.recognize(drawn(1), top_k=3, rerank_depth=3)
    with pytest.raises(OptionError, match=f"no candidate {i}; there are 3"):
        recognizer.matches(found, i)


def degenerate() -> dict[str, Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    return {
        "black": Image.new("RGB", (200, 100)),
        "white": Image.new("RGB", (100, 300), "white"),
        "red": Image.new("RGB", (64, 64), "red"),
        "noise": Image.fromarray(noise),
        "smallest": Image.new("RGB", (28, 28), "gray"),
        "longest": Image.new("RGB", (448, 28), "blue"),
        "half": Image.fromarray(np.tile(np.arange(100) < 50, (60, 1)).astype(np.uint8) * 255),
    }


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("name", degenerate())
def test_degenerate_photos_never_raise(recognizer: Recognizer, name: str, rerank: bool) -> None:
    photo = degenerate()[name]
    found = recognizer.recognize(photo, top_k=4, rerank=rerank)
    assert len(found.candidates) == 4 and found.photo_size == photo.size
    for i in range(4):
        recognizer.matches(found, i)
    heat = recognizer.heatmap(photo)
    assert np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1


def test_a_black_reference_photo(network: SelaVPR, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    source = SourcePhoto(tmp_path / "black.png", _place("p0", "images/0.jpg"))
    made, _ = build(tmp_path / "i", [source], network, MANIFEST)
    recognizer = Recognizer(network, made)
    for photo in (Image.new("RGB", (64, 64)), drawn(1)):
        found = recognizer.recognize(photo)
        assert len(found.candidates) == 1 and found.location.location == _place("a", "b").location
        recognizer.matches(found, 0)


def _place(place_id: str, image: str) -> Place:
    return Place(place_id, image, Location(1, 2))


@pytest.mark.parametrize("size", [(112, 84), (300, 50), (61, 200)])
def test_keypoints_lie_inside_both_photos(recognizer: Recognizer, size: tuple[int, int]) -> None:
    found = recognizer.recognize(drawn(3, size), top_k=3)
    for i, candidate in enumerate(found.candidates):
        matches = recognizer.matches(found, i)
        there = recognizer.index.photo(candidate.row).size
        assert len(matches.query) == len(matches.candidate) == len(matches.agrees) > 0
        for points, limits in ((matches.query, size), (matches.candidate, there)):
            assert (points > 0).all() and (points < torch.tensor(limits)).all()
        assert (matches.similarity.diff() <= 0).all()  # most similar first


@pytest.mark.parametrize("resize", ["squash", "keep-aspect"])
def test_photos_of_several_shapes(tmp_path: Path, resize: str) -> None:
    config = dataclasses.replace(TINY, resize=resize)
    model = random_model(config)
    sizes = [(100, 100), (200, 100), (100, 200), (200, 90), (90, 100)]
    for i, size in enumerate(sizes):
        drawn(i, size).save(tmp_path / f"{i}.png")
    listed = [
        SourcePhoto(tmp_path / f"{i}.png", _place(f"p{i}", f"images/{i}.jpg")) for i in range(5)
    ]
    made, _ = build(tmp_path / "town", listed, model, MANIFEST, rank=32)
    recognizer = Recognizer(model, made)
    for i, size in enumerate(sizes):
        found = recognizer.recognize(drawn(i, size))
        assert found.candidates[0].row == i
        assert len(recognizer.matches(found, 0).query) > 0


# Threads


def test_eight_threads_give_the_same_answers(recognizer: Recognizer) -> None:
    numbers = list(range(20, 36))
    alone = [answer(recognizer.recognize(drawn(n), top_k=6)) for n in numbers]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: recognizer.recognize(drawn(n), top_k=6), numbers))
    assert [answer(found) for found in together] == alone


def test_the_number_of_cores_does_not_change_the_order(recognizer: Recognizer) -> None:
    cores = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append([answer(recognizer.recognize(drawn(n))) for n in (3, 40, 41)])
    finally:
        torch.set_num_threads(cores)
    ranks = [[[c["place_id"] for c in a["candidates"]] for a in run] for run in found]
    assert ranks[0] == ranks[1] == ranks[2]


# What does not belong together


def test_another_model_is_refused(built: Path, tiny_reg4_model: SelaVPR) -> None:
    other = random_model(TINY, seed=1)
    narrow = random_model(ModelConfig(width=16, depth=1, heads=4, local_hidden=8, local_dim=4))
    for model in (other, tiny_reg4_model, narrow):
        with pytest.raises(IndexFileError, match=r"built with another model \('tiny'\)") as error:
            Recognizer.load(built, model=model)
        assert "\n" not in str(error.value)


def test_an_index_that_lies_about_its_model(built: Path, tmp_path: Path, network: SelaVPR) -> None:
    narrow = random_model(ModelConfig(width=16, depth=1, heads=4, local_hidden=8, local_dim=4))
    index = PlaceIndex.open(built)
    index.manifest = dataclasses.replace(index.manifest, fingerprint=narrow.fingerprint())
    with pytest.raises(IndexFileError, match="another model"):
        Recognizer(narrow, index)


def test_loading(built: Path, network: SelaVPR, tmp_path: Path) -> None:
    index = PlaceIndex.open(built)
    assert Recognizer.load(index, model=network).index is index
    assert Recognizer.load(str(built), model=network).model is network
    with pytest.raises(IndexFileError, match="There is no index"):
        Recognizer.load(tmp_path, model=network)
    with pytest.raises(WeightsError, match="No model is called"):
        Recognizer.load(built, model="nothing")


def test_a_model_that_gives_nonsense(built: Path, network: SelaVPR) -> None:
    broken = random_model(TINY)
    recognizer = Recognizer(network, PlaceIndex.open(built))
    torch.nn.init.constant_(broken.backbone.norm.weight, torch.nan)
    recognizer.model = broken
    with pytest.raises(WeightsError, match="not finite"):
        recognizer.recognize(drawn(1))


def test_photos_that_are_none(recognizer: Recognizer, tmp_path: Path) -> None:
    for photo in (tmp_path / "absent.jpg", b"", b"no photo", Image.new("RGB", (5, 5))):
        with pytest.raises(PhotoError):
            recognizer.recognize(photo)
        with pytest.raises(PhotoError):
            recognizer.heatmap(photo)


def test_damage_met_while_recognising(built: Path, network: SelaVPR, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    scales = np.load(folder / "scales.npy")
    np.save(folder / "scales.npy", scales * np.float16(np.inf))
    recognizer = Recognizer.load(folder, model=network)
    with pytest.raises(IndexFileError, match=r"scales\.npy"):
        recognizer.recognize(drawn(1))


def test_heatmap(recognizer: Recognizer) -> None:
    adapted, plain = (recognizer.heatmap(drawn(2), adapted=x) for x in (True, False))
    for heat in (adapted, plain):
        assert heat.shape == (4, 4) and heat.dtype == np.float32
        assert heat.min() == 0 and heat.max() == 1
    assert not np.array_equal(adapted, plain)
    features = recognizer.model.extract(drawn(2))
    assert np.array_equal(recognizer.heat_of(features), adapted)
    # A token's share is how much longer the fingerprint, before it gets length 1, were with more
    # of it: the gradient of its squared length.
    weight = torch.ones(16, 1, requires_grad=True)
    power = float(recognizer.model.pool.p.detach())
    unit = torch.nn.functional.normalize(features.tokens.flatten(0, 2).clone(), dim=-1)
    powers = unit.clamp(min=1e-6).double() ** power
    ((weight * powers).sum(0) ** (2 / power)).sum().backward()
    assert weight.grad is not None
    share = weight.grad.double().reshape(4, 4).numpy()
    expected = (share - share.min()) / (share.max() - share.min())
    np.testing.assert_allclose(adapted, expected, atol=1e-3)


# The position


def test_agreeing_candidates_pull_the_answer(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos lie 40 m apart, so that none is within 30 m of another: the leader decides alone."""
    monkeypatch.setattr(
        Recognizer, "_scores", lambda self, features, rows: [100 - 10 * r for r in range(len(rows))]
    )
    found = recognizer.recognize(drawn(5))
    leader = found.candidates[0].place.location
    assert found.location.location.distance_m(leader) < 0.01


# Batches, depth, calibration


def test_many_photos_give_the_answers_of_each(recognizer: Recognizer, tmp_path: Path) -> None:
    photos = [drawn(1), tmp_path / "absent.jpg", drawn(20), drawn(5), b"no photo"]
    done: list[int] = []
    found = list(recognizer.recognize_many(photos, top_k=4, batch_size=2, progress=done.append))
    assert done == [1, 2, 3, 4, 5]
    for photo, one in zip(photos, found, strict=True):
        if isinstance(photo, Image.Image):
            assert isinstance(one, Recognition)
            single, many = answer(recognizer.recognize(photo, top_k=4)), answer(one)
            for a, b in zip(single.pop("candidates"), many.pop("candidates"), strict=True):
                # A batch may add in another order: the last digits of a cosine may differ.
                assert a.pop("similarity") == pytest.approx(b.pop("similarity"), abs=2e-6)
                assert a == b
            assert list(one.timings_ms) == STAGES
        else:
            assert isinstance(one, PhotoError)
    assert list(recognizer.recognize_many([])) == []


def test_many_photos_are_read_as_they_are_needed(recognizer: Recognizer) -> None:
    opened: list[int] = []

    def photos() -> Iterator[Image.Image]:
        for number in range(10):
            opened.append(number)
            yield drawn(number)

    found = recognizer.recognize_many(photos(), batch_size=3, rerank=False)
    first = next(found)
    assert isinstance(first, Recognition) and first.candidates[0].place.place_id == "p0"
    assert opened == [0, 1, 2]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"top_k": 0}, {"rerank_depth": 0}])
def test_many_photos_with_wrong_options(recognizer: Recognizer, wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError):
        recognizer.recognize_many([], **wrong)


def test_more_are_re_ranked_than_shown(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [5, 6, 7, 8, 90, 10]
    monkeypatch.setattr(Recognizer, "_scores", lambda self, features, rows: counts[: len(rows)])
    found = recognizer.recognize(drawn(1), top_k=2, rerank_depth=6)
    assert [(c.rank, c.global_rank, c.matches) for c in found.candidates] == [
        (1, 5, 90),
        (2, 6, 10),
    ]
    everything = recognizer.recognize(drawn(1), top_k=6, rerank_depth=6)
    assert found.global_location == everything.global_location
    assert found.location.location == everything.location.location


def test_fewer_are_re_ranked_than_shown(recognizer: Recognizer) -> None:
    found = recognizer.recognize(drawn(1), top_k=5, rerank_depth=2)
    assert [c.rank for c in found.candidates] == [1, 2, 3, 4, 5]
    assert [c.matches is None for c in found.candidates] == [False, False, True, True, True]
    assert [c.global_rank for c in found.candidates[2:]] == [3, 4, 5]


def calibrated(network: SelaVPR, built: Path, **changes: object) -> Recognizer:
    width = len(FEATURES)
    # Only the share of matches counts: half of the descriptors is the middle of the curve.
    line = (0.0, 20.0, *(0.0,) * (width - 1))
    calibration = Calibration((0.5, *(0.0,) * (width - 1)), (1.0,) * width, line, line, 0.2, 0.5,
                              0.9, (0.5,), (40.0, 4.0), (90.0, 9.0), 20, 50, 50)  # fmt: skip
    index = PlaceIndex.open(built)
    fields = {**calibration.to_dict(), **changes}
    index.manifest = dataclasses.replace(index.manifest, calibration=fields)
    return Recognizer(network, index)


def test_a_calibrated_index_says_how_sure(network: SelaVPR, built: Path) -> None:
    known = calibrated(network, built).recognize(drawn(3)).location
    assert known.verdict == "sure" and known.confidence is not None and known.confidence > 0.9
    assert (known.radius50_m, known.radius90_m) == (4, 9)
    alone = calibrated(network, built).recognize(drawn(3), rerank=False).location
    assert alone.confidence is None and alone.radius50_m is None
    strict = calibrated(network, built, not_here_below=1.0).recognize(drawn(99)).location
    assert strict.verdict == "not here" and (strict.radius50_m, strict.radius90_m) == (40, 90)


def test_a_calibration_is_silent_about_models_that_look_otherwise(
    network: SelaVPR, built: Path
) -> None:
    same, other = (calibrated(network, built, query_scales=x) for x in ([], [0.9]))
    assert same.calibration is not None and other.calibration is None
    assert other.recognize(drawn(3)).location.confidence is None


@pytest.mark.parametrize("top_k", [1, 3, 5, COUNT, 1000])
def test_the_answer_does_not_depend_on_how_many_are_shown(
    network: SelaVPR, built: Path, top_k: int
) -> None:
    recognizer = calibrated(network, built, top_k=5)
    assert recognizer.depth == 5
    for rerank in (True, False):
        usual = recognizer.recognize(drawn(50), top_k=5, rerank=rerank)
        found = recognizer.recognize(drawn(50), top_k=top_k, rerank=rerank)
        assert found.location == usual.location
        assert (found.location.confidence is not None) == rerank
        most = min(top_k, 5)
        assert found.candidates[:most] == usual.candidates[:most]
        assert len(found.candidates) == min(top_k, COUNT)
        assert all(c.matches is None for c in found.candidates[5:])
        if top_k >= 5:
            assert recognizer.evidence(found) == recognizer.evidence(usual)


@pytest.mark.parametrize("depth", [1, 4, 6, COUNT])
def test_a_calibration_is_silent_about_other_depths(
    network: SelaVPR, built: Path, depth: int
) -> None:
    recognizer = calibrated(network, built, top_k=5)
    other = recognizer.recognize(drawn(3), rerank_depth=depth).location
    assert other.confidence is other.radius50_m is other.radius90_m is None
    assert other.verdict in ("probably", "unsure")
    same = recognizer.recognize(drawn(3), rerank_depth=5).location
    assert same.confidence is not None and same.radius50_m is not None
    # What the index does not have cannot be re-ranked: twenty, or all twelve, are the same.
    whole = calibrated(network, built, top_k=20)
    assert whole.recognize(drawn(3), rerank_depth=100).location.confidence is not None


def test_a_damaged_calibration_is_refused_when_loading(network: SelaVPR, built: Path) -> None:
    with pytest.raises(IndexFileError, match="calibration in the index is damaged"):
        calibrated(network, built, here=[1])


def test_evidence_of_a_known_photo(recognizer: Recognizer) -> None:
    found = recognizer.recognize(drawn(3))
    evidence = recognizer.evidence(found)
    assert evidence.agreeing > 0.99 and evidence.similarity == pytest.approx(1, abs=1e-4)
    assert evidence.share == (found.candidates[0].matches or 0) / 169
    assert evidence.lead > 0.2 and evidence.similarity_lead > 0 and evidence.margin > 5
