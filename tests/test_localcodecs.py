"""Ways of keeping local features: each gives back what it promises, and distrusts its files."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from engine_fixtures import COUNT, MANIFEST

from selavpr import IndexFileError, OptionError, SelaVPR, reranking
from selavpr.building import build
from selavpr.index import PlaceIndex, verify
from selavpr.indexfiles import CODEC, CODES
from selavpr.localcodecs import CODECS, TokensCodec
from selavpr.localfeatures import Local
from selavpr.matching import count_mutual
from selavpr.recognizer import Recognizer
from selavpr.reranking import count_local
from selavpr.sources import SourcePhoto

CELLS = 13 * 13  # of a grid of 4 x 4 tokens
TOKENS = 4 * 4
# Bytes of a photo, by the table in the module: tokens of rank 6 and a scale; 8 channels of float16;
# 20 keypoints of 8 channels, a scale and a cell; 4 bytes a descriptor.
SIZES = {
    "tokens": (6, TOKENS * (6 + 2)),
    "dense": (None, CELLS * 8 * 2),
    "keypoint": (20, 20 * (8 + 2 + 4)),
    "product": (4, CELLS * 4),
    "none": (None, 0),
}


@pytest.fixture(scope="module")
def made(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for kind, (rank, _) in SIZES.items():
        build(folder / kind, photos, network, MANIFEST, local=kind, rank=rank)
    return {kind: folder / kind for kind in SIZES}


def test_all_kinds_are_tested() -> None:
    assert SIZES.keys() == CODECS.keys()


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_as_documented(made: dict[str, Path], kind: str) -> None:
    index = PlaceIndex.open(made[kind])
    assert index.manifest.local == kind == index.codec.kind
    stored = sum(np.load(made[kind] / name).nbytes for name in index.codec.arrays)
    assert stored == COUNT * SIZES[kind][1]
    assert index.codec.rank == (SIZES[kind][0] or {"dense": 8, "none": 0}[kind])
    assert verify(made[kind]) == []


class Tokens:
    """Photos of so many tokens each, to fit a code to."""

    def __init__(self, per_photo: float) -> None:
        self.per_photo = per_photo

    def tokens(self, count: int) -> torch.Tensor:
        return torch.randn(min(count, 400), 384, generator=torch.Generator().manual_seed(0))

    def local(self, count: int) -> torch.Tensor:
        raise NotImplementedError

    def scored(self, tokens: torch.Tensor) -> None:
        """Not known."""


@pytest.mark.parametrize("per_photo, rank", [(256, 96), (690.4, 44), (1369, 21), (99_000, 1)])
def test_a_photo_takes_32_kb_unless_asked_otherwise(per_photo: float, rank: int) -> None:
    codec = TokensCodec.fitted(Tokens(per_photo), None)
    assert codec.rank == rank
    assert rank in (1, 96) or 31_000 < per_photo * (rank + 2) <= 32_000
    assert TokensCodec.fitted(Tokens(per_photo), 200).rank == 200


@pytest.mark.parametrize("kind", SIZES)
def test_descriptors_are_those_of_the_photo(
    made: dict[str, Path], photos: list[SourcePhoto], network: SelaVPR, kind: str
) -> None:
    index = PlaceIndex.open(made[kind])
    rows = [3, 0, 7]
    found = index.local(rows, network)
    exact = network.extract([photos[row].path for row in rows], local=True).local
    assert exact is not None
    for one, truth in zip(found, exact.flatten(1, 2), strict=True):
        assert one.grid == (13, 13)
        cells = one.cell(torch.arange(len(one.descriptors)))
        assert len(cells) == (20 if kind == "keypoint" else CELLS)
        assert torch.allclose(one.descriptors.norm(dim=1), torch.ones(len(cells)), atol=1e-3)
        cosine = (one.descriptors * truth[cells]).sum(dim=1)
        # 8 bits and float16 lose next to nothing, JPEG little, 4 bytes or 6 components more. A
        # descriptor of another photo or cell would do far worse.
        low = {"dense": 0.9999, "keypoint": 0.999, "none": 0.9, "product": 0.9, "tokens": 0.5}[kind]
        assert cosine.mean() > low
        shuffled = (one.descriptors * truth[cells.roll(len(cells) // 3)]).sum(dim=1)
        assert cosine.mean() > shuffled.mean() + 0.05


@pytest.mark.parametrize("kind", SIZES)
def test_centres_are_some_of_the_descriptors(
    made: dict[str, Path], network: SelaVPR, kind: str
) -> None:
    index = PlaceIndex.open(made[kind])
    for local, centres in zip(
        index.local([2, 0], network), index.centres([2, 0], network), strict=True
    ):
        assert centres.cells is not None and centres.grid == local.grid
        torch.testing.assert_close(centres.cells, local.centres.cells)
        torch.testing.assert_close(centres.descriptors, local.centres.descriptors)
        whole = local.cells is None
        count = math.prod(index.grid(2)) if whole else len(local.descriptors)
        assert len(centres.descriptors) == len(centres.cells) == count
        # Each lies in the cell it names.
        if whole:
            torch.testing.assert_close(local.descriptors[centres.cells], centres.descriptors)


@pytest.mark.parametrize("kind", SIZES)
def test_every_kind_answers(
    made: dict[str, Path], photos: list[SourcePhoto], network: SelaVPR, kind: str
) -> None:
    recognizer = Recognizer(network, PlaceIndex.open(made[kind]))
    found = recognizer.recognize(photos[5].path, top_k=6)
    assert found.candidates[0].place.place_id == "p5"
    counts = [c.matches for c in found.candidates]
    # The photo itself matches more than any other: nearly everywhere where it is kept dense.
    assert counts[0] is not None and all(counts[0] > (other or 0) for other in counts[1:])
    matches = recognizer.matches(found, 0)
    near = (matches.query - matches.candidate).norm(dim=1) < 2  # pixels: the same cell
    assert len(matches.query) > 0 and near.float().mean() > (0.9 if kind == "dense" else 0.4)


def test_keypoints_are_the_least_average(
    made: dict[str, Path], photos: list[SourcePhoto], network: SelaVPR
) -> None:
    one = PlaceIndex.open(made["keypoint"]).local([2], network)[0]
    dense = network.extract(photos[2].path, local=True).local
    assert dense is not None and one.cells is not None
    rows = dense.flatten(0, 2)
    likeness = rows @ rows.mean(dim=0)
    kept = torch.zeros(CELLS, dtype=torch.bool)
    kept[one.cells] = True
    assert one.cells.tolist() == sorted(one.cells.tolist())
    assert likeness[kept].max() <= likeness[~kept].min() + 0.02  # tokens pass through float16


def test_more_bytes_of_a_product_code_lose_less(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    truth = network.extract(photos[0].path, local=True).local
    assert truth is not None
    errors = []
    for rank in (1, 2, 8):
        made, _ = build(
            tmp_path / str(rank), photos[:4], network, MANIFEST, local="product", rank=rank
        )
        errors.append(float((made.local([0], network)[0].descriptors - truth.flatten(0, 2)).norm()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 4


@pytest.mark.parametrize("kind", ["product", "keypoint", "dense"])
def test_built_twice_the_bytes_are_the_same(
    made: dict[str, Path], photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, kind: str
) -> None:
    build(tmp_path / "i", photos, network, MANIFEST, local=kind, rank=SIZES[kind][0])
    for name in (CODES, CODEC, "manifest.json"):
        assert (tmp_path / "i" / name).read_bytes() == (made[kind] / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"local": "sift"}, "local must be one of tokens, dense"),
        ({"local": "product", "rank": 3}, "must divide 8"),
        ({"rank": 0}, "rank must be 1 or more"),
        ({"search": "annoy"}, "search must be one of auto, flat, ivf"),
    ],
)
def test_options_out_of_range(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, options: Any, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        build(tmp_path / "i", photos[:2], network, MANIFEST, **options)


def test_only_tokens_have_tokens(made: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="keeps no tokens"):
        PlaceIndex.open(made["dense"]).tokens(0)


def test_candidates_of_different_sizes_are_counted_together() -> None:
    """Such as photos extracted anew, of which one was a token wider when it was indexed."""
    rows = torch.nn.functional.normalize(
        torch.randn(5, 40, 8, generator=torch.Generator().manual_seed(0)), dim=2
    )
    sizes = {3: 40, 1: 30, 7: 40, 2: 25}
    candidates = {row: rows[i + 1, :size] for i, (row, size) in enumerate(sizes.items())}
    counts = count_local(
        rows[0], list(sizes), lambda some: [Local(candidates[row], (1, 1)) for row in some]
    )
    assert counts == [int(count_mutual(rows[0], candidates[row][None])[0]) for row in sizes]


@pytest.mark.parametrize("odd", [0, 4, 5, 9])
def test_one_photo_of_another_size_makes_all_counts_exact(
    odd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever block it comes: a list is counted in one way or the other, never in both."""
    monkeypatch.setattr(reranking, "COUNT_BLOCK", 5)
    query, *noise = torch.randn(11, 300, 8, generator=torch.Generator().manual_seed(0))
    # Three of each block show the same as the query: the other two are only estimated.
    photos = [x + 9 * query if i % 5 < 3 else x for i, x in enumerate(noise)]
    query, *photos = (torch.nn.functional.normalize(x, dim=1) for x in (query, *photos))

    def read(some: Sequence[int]) -> list[Local]:
        return [Local(photos[row], (1, 1)) for row in some]

    truth = [int(count_mutual(query, photo[None])[0]) for photo in photos]
    assert count_local(query, range(10), read) != truth  # all of one size: some are estimates
    photos[odd] = photos[odd][:299]
    truth[odd] = int(count_mutual(query, photos[odd][None])[0])
    assert count_local(query, range(10), read) == truth


# Damage


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("product", {"books": torch.zeros(4, 255, 2)}),
        ("product", {"books": torch.zeros(256, 2)}),
        ("product", {}),
        ("product", {"books": torch.zeros(3, 256, 2)}),
        ("keypoint", {"keep": torch.zeros(1), "width": torch.ones(8)}),
        ("keypoint", {"keep": torch.tensor([1e30]), "width": torch.ones(8)}),
        ("keypoint", {"keep": torch.ones(2), "width": torch.ones(8)}),
        ("keypoint", {"keep": torch.full((1,), 20.0), "width": torch.ones(0)}),
        ("keypoint", {"keep": torch.full((1,), 21.0), "width": torch.ones(8)}),
        ("dense", {"width": torch.ones(7)}),
        ("dense", {"width": torch.ones(())}),
    ],
    ids=str,
)
def test_codes_that_do_not_fit(
    made: dict[str, Path], tmp_path: Path, kind: str, tensors: dict[str, torch.Tensor]
) -> None:
    folder = shutil.copytree(made[kind], tmp_path / "i")
    safetensors.torch.save_file(tensors, folder / CODEC)
    with pytest.raises(IndexFileError):
        PlaceIndex.open(folder)


def test_cells_outside_the_grid(made: dict[str, Path], network: SelaVPR, tmp_path: Path) -> None:
    folder = shutil.copytree(made["keypoint"], tmp_path / "i")
    cells = np.load(folder / "cells.npy")
    cells[45] = CELLS
    np.save(folder / "cells.npy", cells)
    index = PlaceIndex.open(folder)
    assert index.local([1], network)
    with pytest.raises(IndexFileError, match="outside the grid"):
        index.local([2], network)


def test_dense_descriptors_that_are_not_finite(
    made: dict[str, Path], network: SelaVPR, tmp_path: Path
) -> None:
    folder = shutil.copytree(made["dense"], tmp_path / "i")
    codes = np.load(folder / CODES)
    codes[CELLS * 3] = np.nan
    np.save(folder / CODES, codes)
    with pytest.raises(IndexFileError, match=r"codes\.npy .* damaged at row 4"):
        PlaceIndex.open(folder).local([2, 3], network)
