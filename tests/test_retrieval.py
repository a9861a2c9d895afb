"""Both stages over lists of photos: what they find, that they resume, that they survive damage."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import drawn
from PIL import Image

from selavpr import OptionError, PhotoError, SelaVPR, count_mutual, featurecache, load_image
from selavpr.featurecache import FeatureCache
from selavpr.reranking import score_tokens
from selavpr.retrieval import peak_memory_mb, retrieve


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Ten drawn photos; the last three repeat the first three, a little smaller."""
    paths = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        drawn(i % 7, (112, 84) if i < 7 else (100, 76)).save(path)
        paths.append(path)
    return paths


def test_finds_the_same_pictures(network: SelaVPR, photos: list[Path], tmp_path: Path) -> None:
    found = retrieve(network, photos[7:], photos[:7], tmp_path / "work", top_k=4)
    assert [rows[0] for rows in found.first] == [0, 1, 2]
    assert found.reranked is not None and [rows[0] for rows in found.reranked] == [0, 1, 2]
    assert all(len(rows) == 4 for rows in found.first) and found.problems == []
    assert found.extract_ms > 0 and found.rerank_ms is not None and found.rerank_ms > 0


def test_counts_and_order_are_those_of_the_parts(
    network: SelaVPR, photos: list[Path], tmp_path: Path
) -> None:
    found = retrieve(network, photos[:2], photos[2:], tmp_path / "work", top_k=None)
    features = network.extract(photos, local=True)
    assert features.local is not None and found.matches is not None
    similarity = features.descriptor[:2] @ features.descriptor[2:].T
    local = features.local.flatten(1, 2)
    for query, rows in enumerate(found.first):
        assert rows == similarity[query].argsort(descending=True, stable=True).tolist()
        exact = count_mutual(local[query], local[2:])[rows].tolist()
        # Tokens are kept in half precision: a few ties may fall the other way.
        for kept, whole in zip(found.matches[query], exact, strict=True):
            assert abs(kept - whole) <= 4
    assert found.reranked is not None
    ordered = [[m for _, m in sorted(zip(rows, counts, strict=True))] for rows, counts in
               zip(found.first, found.matches, strict=True)]  # fmt: skip
    for rows, counts in zip(found.reranked, ordered, strict=True):
        sorted_counts = [counts[row] for row in rows]
        assert sorted_counts == sorted(sorted_counts, reverse=True)


def test_further_sizes_of_a_query(photos: list[Path], tmp_path: Path) -> None:
    shape = dataclasses.replace(TINY, scoring="expected", query_scales=(1.5,))
    model = random_model(shape)
    found = retrieve(model, photos[:2], photos[2:], tmp_path / "work", top_k=None)
    assert found.matches is not None
    for query, rows in enumerate(found.first):
        looks = [model.extract_each([photos[query]], scale=s)[0].tokens[0] for s in (1.0, 1.5)]
        known = [model.extract([photos[2 + row]]).tokens[0] for row in rows]
        grids = [(len(x), len(x[0])) for x in known]
        numbers = range(len(rows))
        expected = score_tokens(model, looks, numbers, grids.__getitem__, known.__getitem__)
        assert found.matches[query] == pytest.approx(expected, rel=1e-2)
    # Another size is another question: nothing of it is taken from this run's journal.
    usual = random_model(dataclasses.replace(shape, query_scales=()))
    alone = retrieve(usual, photos[:2], photos[2:], tmp_path / "work", top_k=None)
    assert alone.first == found.first and alone.matches != found.matches


def test_a_photo_is_never_its_own_answer(
    network: SelaVPR, photos: list[Path], tmp_path: Path
) -> None:
    found = retrieve(network, photos, photos, tmp_path / "work", top_k=3,
                     excluded=[{i} for i in range(10)], rerank=False)  # fmt: skip
    assert all(len(rows) == 3 and i not in rows for i, rows in enumerate(found.first))
    assert [found.first[i][0] for i in (0, 1, 2, 7, 8, 9)] == [7, 8, 9, 0, 1, 2]


def test_without_re_ranking(network: SelaVPR, photos: list[Path], tmp_path: Path) -> None:
    found = retrieve(network, photos[:1], photos[1:], tmp_path / "work", rerank=False)
    assert found.matches is found.reranked is found.rerank_ms is None
    assert len(found.first[0]) == 9


def test_goes_on_where_it_stopped(
    network: SelaVPR, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featurecache, "PART", 2)
    whole = retrieve(network, photos[7:], photos[:7], tmp_path / "whole", top_k=3)

    def stop_at(stage: str, number: int) -> None:
        def progress(now: str, done: int, total: int) -> None:
            if (now, done) == (stage, number):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            retrieve(network, photos[7:], photos[:7], tmp_path / "work", top_k=3, progress=progress)

    stop_at("database", 4)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "work/features").iterdir()}
    assert len(kept) == 4  # two parts of queries, two of the database
    stop_at("re-ranking", 2)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("extracted again")

    monkeypatch.setattr(SelaVPR, "extract_each", refuse)
    again = retrieve(network, photos[7:], photos[:7], tmp_path / "work", top_k=3)
    assert (again.first, again.matches) == (whole.first, whole.matches)


def test_damaged_parts_are_made_again(network: SelaVPR, photos: list[Path], tmp_path: Path) -> None:
    first = FeatureCache(tmp_path / "f", photos, network)
    (part,) = (tmp_path / "f").iterdir()
    part.write_bytes(part.read_bytes()[:200])
    again = FeatureCache(tmp_path / "f", photos, network)
    assert torch.equal(first.descriptors, again.descriptors)
    assert again.tokens(3).shape == (4, 4, 32) and again.grid(3) == (4, 4)


def test_a_changed_photo_is_extracted_again(
    network: SelaVPR, photos: list[Path], tmp_path: Path
) -> None:
    first = FeatureCache(tmp_path / "f", photos[:2], network).descriptors
    drawn(50, (300, 200)).save(photos[1])
    second = FeatureCache(tmp_path / "f", photos[:2], network).descriptors
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])


def test_a_photo_that_can_be_read_by_now(
    network: SelaVPR, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other rights change neither size nor time of a file; one that stays damaged costs nothing."""

    def denied(path: Path) -> Image.Image:
        if path == photos[1]:
            raise PhotoError("Permission denied.")
        return load_image(path)

    with monkeypatch.context() as patched:
        patched.setattr(featurecache, "load_image", denied)
        for _ in range(2):
            found = FeatureCache(tmp_path / "f", photos[:3], network)
            assert len(found.problems) == 1 and not found.usable(1)
            patched.setattr(SelaVPR, "extract_each", None)  # not called the second time
    again = FeatureCache(tmp_path / "f", photos[:3], network)
    assert again.problems == [] and again.usable(1)


def test_photos_that_cannot_be_read(network: SelaVPR, photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_bytes(b"no photo")
    photos[8].unlink()
    found = retrieve(network, photos[7:], photos[:7], tmp_path / "work")
    assert found.first[1] == [] and found.matches is not None and found.matches[1] == []
    assert all(1 not in rows for rows in found.first) and len(found.first[0]) == 6
    assert sorted(Path(p.partition(": ")[0]).name for p in found.problems) == ["1.png", "8.png"]
    with pytest.raises(OptionError, match="None of the 1 photos"):
        retrieve(network, photos[8:9], photos[:7], tmp_path / "work")


def test_degenerate_photos(network: SelaVPR, tmp_path: Path) -> None:
    paths = []
    for i, colour in enumerate(["black", "white", "red", "black"]):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (60 + 20 * i, 60), colour).save(paths[-1])
    found = retrieve(network, paths[:1], paths[1:], tmp_path / "work")
    assert sorted(found.first[0]) == [0, 1, 2]


@pytest.mark.parametrize(("queries", "database", "top_k"), [(0, 1, 5), (1, 0, 5), (1, 1, 0)])
def test_refused(
    network: SelaVPR, photos: list[Path], tmp_path: Path, queries: int, database: int, top_k: int
) -> None:
    with pytest.raises(OptionError):
        retrieve(network, photos[:queries], photos[:database], tmp_path / "work", top_k=top_k)


def test_a_folder_that_cannot_be_written(
    network: SelaVPR, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="Cannot keep features"):
        retrieve(network, photos[:1], photos[1:], tmp_path / "file")


def test_peak_memory_is_in_megabytes() -> None:
    peak = peak_memory_mb()
    assert peak is None or (50 < peak < 100_000 and math.isfinite(peak))
