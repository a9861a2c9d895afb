"""The kernel for GPUs, in Triton's interpreter, which needs none: the same extrema as torch's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from selavpr import matching

fused = pytest.importorskip("selavpr.fused", reason="Triton comes with torch for GPUs")

COMPARE = """
import torch
from selavpr import fused
from selavpr.matching import _extrema_torch

torch.set_num_threads(1)
fused._tiles[:] = fused._tiles[-1:]
for n, m, width, size, scale in (
    (70, 40, 128, 3, 1.0), (64, 32, 16, 1, 1e-3), (5, 33, 64, 2, 300.0), (1, 1, 32, 2, 1.0),
):
    generator = torch.Generator().manual_seed(n)
    query = torch.randn(n, width, generator=generator) * scale
    block = torch.randn(size, m, width, generator=generator) * scale
    best, row_max, col_max = fused.extrema(query, block)
    known = _extrema_torch(query, block)
    assert (best != known[0]).float().mean() <= 0.01, (n, best, known[0])
    unit = 2.0 ** torch.log2(row_max / known[1]).median().round()
    tolerance = dict(rtol=0, atol=2e-5 * scale**2)
    torch.testing.assert_close(row_max / unit, known[1], **tolerance)
    torch.testing.assert_close(col_max / unit, known[2], **tolerance)
# Half precision is split, too; widths that no tile has are refused.
half = torch.randn(9, 16).bfloat16()
assert (fused.extrema(half, half[None])[0][0] == torch.arange(9)).all()
assert fused.extrema(torch.zeros(4, 20), torch.zeros(1, 4, 20)) is None
print("same")
"""


def test_extrema_are_torchs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "same", done.stderr


def test_a_tile_that_does_not_work_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def launch(query: Any, block: Any, *tile: int) -> Any:
        tried.append(tile)
        if tile == (1, 1, 1, 1):
            raise RuntimeError("out of resource: shared memory")
        return "found"

    monkeypatch.setattr(fused, "_launch", launch)
    monkeypatch.setattr(fused, "_tiles", [(1, 1, 1, 1), (2, 2, 2, 2)])
    one = torch.zeros(1, 16)
    assert fused.extrema(one, one[None]) == fused.extrema(one, one[None]) == "found"  # type: ignore[comparison-overlap]
    assert tried == [(1, 1, 1, 1), (2, 2, 2, 2), (2, 2, 2, 2)]
    assert "shared memory" in caplog.text
    monkeypatch.setattr(fused, "_tiles", [])
    assert fused.extrema(one, one[None]) is None


def test_memory_that_runs_out_is_no_fault_of_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "_launch", launch)
    tiles = list(fused._tiles)
    with pytest.raises(torch.OutOfMemoryError):
        fused.extrema(torch.zeros(1, 16), torch.zeros(1, 1, 16))
    assert fused._tiles == tiles


@pytest.mark.parametrize("kernel", ["missing", "refuses", "works"])
def test_counts_on_a_gpu_with_or_without_the_kernel(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """What is done with its extrema; the kernel itself needs a GPU, see test_cuda.py."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(8, 50, 16, generator=generator), dim=-1)
    expected = matching.count_mutual(rows[0], rows[1:])

    class Kernel:
        def extrema(self, query: torch.Tensor, block: torch.Tensor) -> Any:
            if kernel == "refuses":
                return None
            best, row_max, col_max = matching._extrema_torch(query, block)
            return best, row_max * 2**20, col_max * 2**20  # a unit of its own

    monkeypatch.setattr(matching, "_kernel", lambda _: None if kernel == "missing" else Kernel())
    monkeypatch.setattr(matching, "GPU_BYTES", 50 * 50 * 4 * 2)  # several strips
    none = matching._count(rows[0], rows[:0])
    assert none.shape == (0,) and none.dtype == torch.int64
    found = matching._extrema_gpu(rows[0], rows[1:])
    assert torch.equal(matching._distinct(*found), expected)
