"""What docs/scale.md says: costs add up, and a search of any size is mapped, not loaded."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from benchmarks.scale import SIZES, Rates, costs, measure, search_bytes, table
from selavpr import SelaVPR, building, searchers, searchfiles
from selavpr.sources import SourcePhoto


def unit(count: int, width: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("search", ["flat", "ivf"])
def test_a_search_is_mapped_and_as_large_as_reckoned(
    search: searchers.Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, width = 39 * 4 * 160, 16  # enough for four square roots of lists
    made, _ = searchers.make(unit(count, width), search)
    path = tmp_path / "global.faiss"
    path.write_bytes(faiss.serialize_index(made.index).tobytes())
    opened = searchfiles.read(path, made.probes)
    if search == "ivf":
        monkeypatch.setattr("benchmarks.scale.FLAT_UP_TO", 0)
        lists = faiss.downcast_InvertedLists(opened.index.invlists)
        assert isinstance(lists, faiss.OnDiskInvertedLists)
    # Headers, and the range of each component, do not grow.
    assert 0 < path.stat().st_size - search_bytes(count, width) < 400 + 8 * width
    maps = Path("/proc/self/maps")
    if maps.exists() and hasattr(faiss, "IO_FLAG_MMAP_IFC"):
        assert str(path) in maps.read_text()


def test_costs() -> None:
    rates = Rates(384, 0.36, 0.036, 400e3, 80e3, 1e6)
    small, large = costs(rates, 10_000), costs(rates, 1_000_000)
    assert (small.extract_h, small.write_h) == pytest.approx((1, 0.1))
    assert large.extract_h == pytest.approx(100) and large.parts_bytes == 400e9
    assert small.search_bytes == 4 * 384 * 10_000
    assert large.search_bytes == 392 * 1_000_000 + 4000 * (4 * 384 + 8)
    assert large.index_bytes == 80e9 + large.search_bytes
    assert all(f"| {size:,} |" in table(rates) for size in SIZES)


def test_measured(network: SelaVPR, photos: list[SourcePhoto]) -> None:
    paths = [photo.path for photo in photos]
    rates = measure(paths, network)
    part = building.part_of(paths, network, 8)
    assert rates.width == 32 and rates.part_bytes == len(part) / len(paths)
    # 4 x 4 tokens of 32 components and a scale of two bytes; the JPEG comes on top, and the table.
    assert 16 * 34 < rates.index_bytes < rates.part_bytes
    assert rates.extract_s > 0 and rates.write_s > 0
    assert rates.source_bytes == np.mean([path.stat().st_size for path in paths])
