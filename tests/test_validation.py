"""The examination after every epoch: right, and within bounded memory."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, random_model
from torch import Tensor

from selavpr import PhotoError, SelaVPR, featurecache, reranking
from selavpr.sources import SourcePhoto
from selavpr.validation import ValidationSet, validate


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_few_photos_are_in_memory_at_a_time(
    photos: list[SourcePhoto], network: SelaVPR, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    database = tuple(photo.path for photo in photos[:7])
    # Each query is one of the database, and the last is said to be of another place.
    queries = (database[4], database[0], database[2])
    truths = (frozenset({4}), frozenset({0, 1}), frozenset({6}))
    monkeypatch.setattr(featurecache, "PART", 2)
    together: list[int] = []
    extract_each = SelaVPR.extract_each

    def counted(self: SelaVPR, some: Sequence[Any], **options: Any) -> Any:
        together.append(len(some))
        return extract_each(self, some, **options)

    monkeypatch.setattr(SelaVPR, "extract_each", counted)
    found = validate(network, ValidationSet(queries, database, truths))
    assert max(together) == 2 and sum(together) == len(queries) + len(database)
    for stage in ("global", "re-ranked"):
        assert found[f"{stage} R@1"] == pytest.approx(2 / 3)
        assert found[f"{stage} R@10"] == 1
    assert list(temporary.iterdir()) == []


def test_a_model_is_examined_by_its_own_score(photos: list[SourcePhoto]) -> None:
    database = tuple(photo.path for photo in photos[:5])
    model = random_model(dataclasses.replace(TINY, scoring="expected"))
    asked = ValidationSet((photos[7].path,), database, (frozenset({1}),))
    seen = []

    def scored(query: Tensor, candidates: Tensor, places: None) -> Tensor:
        seen.extend([candidates.shape[1]] * len(candidates))
        return torch.arange(len(candidates)).eq(1).float()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "expect_mutual", scored)
        validate(model, asked)
    assert seen == [16] * 5  # the tokens of 56 x 56 pixels


def test_a_photo_that_cannot_be_read(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, temporary: Path
) -> None:
    known = tuple(photo.path for photo in photos[:2])
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    truths = (frozenset({0}),)
    for queries, database in (
        ((tmp_path / "bad.jpg", known[0]), known), ((known[0],), (*known, tmp_path / "bad.jpg"))
    ):  # fmt: skip
        with pytest.raises(PhotoError, match=r"bad\.jpg"):
            validate(network, ValidationSet(queries, database, truths))
    assert list(temporary.iterdir()) == []
