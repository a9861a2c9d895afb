"""The examination after every epoch: right, and within bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selavpr import PhotoError, SelaVPR, featurecache
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
