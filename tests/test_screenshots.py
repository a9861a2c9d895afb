"""The tool that takes the README's pictures: what it writes, without a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="the tool drives a browser")

from tools import screenshots


def noise(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (90, 128, 3), dtype=np.uint8))


def test_flow_is_an_animation_and_the_rest_are_pictures(tmp_path: Path) -> None:
    taken = {
        "flow.webp": [(noise(1), 700), (noise(2), 900)],
        "result.webp": [(noise(3), 0)],
        "thumbnail.jpg": [(noise(4), 0)],
    }
    total = screenshots.write_all(taken, tmp_path / "new")
    assert total == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    with Image.open(tmp_path / "new" / "flow.webp") as flow:
        assert flow.n_frames == 2
        assert flow.info["loop"] == 0
        assert flow.size == (screenshots.ANIMATION_WIDTH, screenshots.ANIMATION_WIDTH * 90 // 128)
    with Image.open(tmp_path / "new" / "thumbnail.jpg") as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (128, 90))


def test_what_is_too_large_is_written_with_less_quality(tmp_path: Path) -> None:
    taken = {"result.webp": [(noise(3), 0)]}
    best = screenshots.write_all(taken, tmp_path)
    assert screenshots.write_all(taken, tmp_path, limit=best) == best
    assert screenshots.write_all(taken, tmp_path, limit=best - 1) < best
    assert screenshots.write_all(taken, tmp_path, limit=0) > 0, (
        "and the tool says that it is too large"
    )
