"""Global search by size: exact or in inverted lists, mapped, checked before faiss sees it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from damage import damage
from hypothesis import HealthCheck, given, settings

from selavpr import OptionError, searchers, searchfiles


def town(count: int = 3000, width: int = 16, seed: int = 0) -> np.ndarray:
    """Unit vectors in groups of ten, as photos of one place are."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((count // 10, width)), 10, axis=0)
    rows = centres + 0.3 * rng.standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def lists() -> tuple[np.ndarray, searchers.Searcher, dict[str, Any]]:
    rows = town()
    return rows, *searchers.make(rows, "ivf")


@pytest.fixture
def path(lists: Any, tmp_path: Path) -> Path:
    (tmp_path / "i").write_bytes(faiss.serialize_index(lists[1].index).tobytes())
    return tmp_path / "i"


def test_few_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searchers, "FLAT_UP_TO", 200)
    assert searchers.make(town(200), "auto")[1] == {}
    assert searchers.make(town(210), "auto")[1]["kind"] == "ivf"
    assert searchers.make(town(210), "flat")[1] == {}
    assert "finds" not in searchers.describe({"probes": 1, "lists": 2, "recall": "x"})
    assert searchers.describe({}) == searchers.describe(None) == "exact"
    with pytest.raises(OptionError, match="auto, flat, ivf"):
        searchers.make(town(10), "hnsw")  # type: ignore[arg-type]


def test_what_is_said_of_the_lists_is_measured(lists: Any) -> None:
    rows, searcher, about = lists
    assert about["recall"] >= searchers.TARGET_RECALL and about["probes"] < about["lists"]
    # Counted here independently, over the same sample.
    sample = np.arange(200) * len(rows) // 200
    similarity = rows[sample] @ rows.T
    similarity[np.arange(200), sample] = -2
    true = np.argsort(-similarity, axis=1)[:, :20]
    _, found = searcher.nearest(rows[sample], 21)
    hits = [len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True)]
    assert sum(hits) / 4000 == pytest.approx(about["recall"], abs=1e-4)
    assert f"{about['recall']:.1%}" in searchers.describe(about)


def test_all_can_be_asked_for(lists: Any) -> None:
    rows, searcher, _ = lists
    _, found = searcher.nearest(rows[:2], len(rows))
    assert sorted(found[1].tolist()) == list(range(len(rows)))


def test_read_back_it_finds_the_same(lists: Any, path: Path) -> None:
    rows, searcher, about = lists
    opened = searchfiles.read(path, about["probes"])
    assert len(opened) == len(rows) and opened.width == 16 and opened.probes == about["probes"]
    for mine, theirs in zip(
        opened.nearest(rows[:9], 5), searcher.nearest(rows[:9], 5), strict=True
    ):
        assert np.array_equal(mine, theirs)
    # 8 bits over the range of each component: a descriptor is known to half a step of each.
    assert np.abs(opened.descriptors() - rows).max() < 0.01
    assert searchfiles.read(path, 10**9).probes == about["lists"]
    assert searchfiles.read(path, 0).probes == 1


def test_exact_descriptors_come_back(tmp_path: Path) -> None:
    rows = town(50)
    (tmp_path / "i").write_bytes(
        faiss.serialize_index(searchers.make(rows, "flat")[0].index).tobytes()
    )
    assert np.array_equal(searchfiles.read(tmp_path / "i").descriptors(), rows)


def test_the_same_vectors_give_the_same_bytes(lists: Any) -> None:
    again, about = searchers.make(lists[0], "ivf")
    assert about == lists[2]
    assert np.array_equal(faiss.serialize_index(again.index), faiss.serialize_index(lists[1].index))


# Damage

# Where things lie in the file, by the layout that the reader checks: header 37 bytes, lists and
# probes 16, the quantiser's header 37 and length 8, its vectors, and so on.
HEADER, LISTS = 37, 16
QUANTISER = HEADER + LISTS


def test_numbers_that_do_not_fit(path: Path, lists: Any) -> None:
    original = path.read_bytes()
    count = lists[2]["lists"]
    after = QUANTISER + HEADER + 8 + 4 * count * 16  # the direct map
    changes: list[tuple[int, str, Any]] = [
        (4, "<i", 17), (4, "<i", 0), (4, "<i", 2**31 - 1), (8, "<q", 2**62), (8, "<q", -1),
        (8, "<q", 2999), (32, "<B", 0), (33, "<i", 1), (37, "<Q", 0), (37, "<Q", 2**63),
        (QUANTISER, "4s", b"IxF2"), (QUANTISER + 8, "<q", count + 1),
        (QUANTISER + HEADER, "<Q", 2**62), (QUANTISER + HEADER + 8, "<f", float("nan")),
        (QUANTISER + HEADER + 8, "<f", 3.0), (after, "<B", 1), (after + 1, "<Q", 5),
        (after + 9, "<i", 1), (after + 21, "<Q", 2**40), (after + 37, "<Q", 2**60),
        (after + 45, "<f", float("inf")), (after + 45 + 128, "<Q", 1), (after + 181, "<B", 0),
        (after + 182, "4s", b"ilxx"), (after + 186, "<Q", 2**50), (after + 202, "4s", b"what"),
        (after + 206, "<Q", 2**61), (after + 214, "<Q", 2**63), (after + 214, "<Q", 10**6),
    ]  # fmt: skip
    for position, form, value in changes:
        data = bytearray(original)
        struct.pack_into(form, data, position, value)
        assert data != original, position
        path.write_bytes(data)
        with pytest.raises(ValueError):
            searchfiles.read(path, 4)
    for length in (0, 3, 40, 60, after, after + 190, len(original) - 1):
        path.write_bytes(original[:length])
        with pytest.raises(ValueError):
            searchfiles.read(path, 4)


def test_lists_of_which_most_are_empty(tmp_path: Path) -> None:
    """faiss writes those in another way."""
    rows = town(2000)
    index, _ = searchers.make(rows, "ivf")
    index.index.reset()
    index.index.add(rows[:3])
    data = faiss.serialize_index(index.index).tobytes()
    assert b"sprs" in data
    (tmp_path / "i").write_bytes(data)
    opened = searchfiles.read(tmp_path / "i", 1)
    assert sorted(opened.nearest(rows[:1], 3)[1][0].tolist()) == [0, 1, 2]
    at = data.index(b"sprs") + 12
    for value in (10**6, struct.unpack_from("<Q", data, at + 16)[0]):  # no such list; twice
        broken = bytearray(data)
        struct.pack_into("<Q", broken, at, value)
        # Another file: the first is mapped, and threads of faiss may read it still.
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(ValueError):
            searchfiles.read(tmp_path / "broken", 1)


def test_lists_that_name_rows_that_do_not_exist() -> None:
    searcher, _ = searchers.make(town(2000), "ivf")
    lists = searcher.index.invlists
    number = next(i for i in range(searcher.index.nlist) if lists.list_size(i))
    faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))[0] = 10**9
    with pytest.raises(ValueError, match="rows that do not exist"):
        searcher.descriptors()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(apply=damage(early=2400))
def test_no_damage_brings_the_process_down(
    path: Path, lists: Any, apply: Callable[[bytes], bytes]
) -> None:
    original = path.read_bytes()
    path.unlink()  # and not written over: what is mapped must not change
    path.write_bytes(apply(original))
    try:
        similarity, rows = searchfiles.read(path, 4).nearest(lists[0][:3], 5)
        assert similarity.shape == rows.shape == (3, 5)
    except (ValueError, RuntimeError):
        pass
    finally:
        path.unlink()
        path.write_bytes(original)
