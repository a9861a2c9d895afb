"""On a GPU: extrema of similarity matrices that are never stored, by a kernel in Triton.

A plain product in float32 takes longer than everything a GPU's tensor cores could do in that time,
then writes every similarity to memory and reads it back twice. Here

- each descriptor is the sum of two float16 numbers, 22 bits of its 24, and a similarity the sum of
  three products of float16, which is as good as float32 (what is left out is smaller than what
  float32 rounds away in adding 128 numbers);
- one program takes a strip of the query's rows through all columns of one candidate: a tile of
  similarities exists in registers, gives its maxima and is forgotten.
"""

from __future__ import annotations

import contextlib
import logging

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = ((256, 64, 8, 2), (64, 32, 4, 2))
"""Rows and columns of a tile, warps that work on it, tiles loaded ahead: the fastest of ten tried
on an H100, and one for GPUs without the room for it."""

SPLIT = 1024
"""Numbers a program splits."""

WIDTHS = (16, 32, 64, 128, 256)

log = logging.getLogger(__name__)

_tiles = list(TILES)
"""Those not yet found wanting."""


@triton.jit  # type: ignore[untyped-decorator]
def _halve(numbers, largest, high, low, count, size: tl.constexpr):  # type: ignore[no-untyped-def]
    """Numbers times a power of two that brings the largest near the end of float16's range."""
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, size)
    scale = tl.exp2(14.0 - tl.ceil(tl.log2(tl.maximum(tl.load(largest), 1e-30))))
    number = tl.load(numbers + at, mask=at < count, other=0.0).to(tl.float32) * scale
    half = number.to(tl.float16)
    tl.store(high + at, half, mask=at < count)
    tl.store(low + at, (number - half.to(tl.float32)).to(tl.float16), mask=at < count)


@triton.jit  # type: ignore[untyped-decorator]
def _extrema(  # type: ignore[no-untyped-def]
    query_high,
    query_low,
    block_high,
    block_low,
    best,
    row_max,
    col_max,
    n,
    m,
    width: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    strip, pair, strips = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    row, channel = strip * rows + tl.arange(0, rows), tl.arange(0, width)
    # Past the end the last row stands again, and so does the last column: no maximum changes.
    left = tl.minimum(row, n - 1)[:, None] * width + channel[None, :]
    left_high, left_low = tl.load(query_high + left), tl.load(query_low + left)
    first = pair.to(tl.int64) * m * width
    within = tl.arange(0, columns)
    top = tl.full((rows,), float("-inf"), tl.float32)
    at = tl.zeros((rows,), tl.int32)
    for start in range(0, m, columns):
        column = start + within
        right = first + tl.minimum(column, m - 1)[None, :] * width + channel[:, None]
        right_high, right_low = tl.load(block_high + right), tl.load(block_low + right)
        similarity = tl.dot(left_high, right_low)
        similarity = tl.dot(left_low, right_high, similarity)
        similarity = tl.dot(left_high, right_high, similarity)
        tl.store(
            col_max + (pair * strips + strip).to(tl.int64) * m + column,
            tl.max(similarity, axis=0),
            mask=column < m,
        )
        high, where = tl.max(
            similarity, axis=1, return_indices=True, return_indices_tie_break_left=True
        )
        better = high > top  # the first of equals stays
        at = tl.where(better, start + where, at)
        top = tl.where(better, high, top)
    out = pair.to(tl.int64) * n + row
    tl.store(best + out, tl.minimum(at, m - 1), mask=row < n)
    tl.store(row_max + out, top, mask=row < n)


def extrema(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Arg-max and maximum of every row, maximum of every column, of the similarity matrices.

    Args:
        query: ``[N, D]`` floats of any type; neither N nor D is 0.
        block: ``[B, M, D]`` floats, on the same GPU; nothing of it is 0 either.

    Returns:
        ``best [B, N]`` int64; ``row_max [B, N]`` and ``col_max [B, M]`` float32, in a unit of
        their own, a power of two: good for comparing. None where the kernel does not work: D is no
        power of two from 16 to 256, or this machine cannot compile it.
    """
    width = query.shape[1]
    if width not in WIDTHS:
        return None
    for tile in tuple(_tiles):
        try:
            return _launch(query, block, *tile)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton's, the C compiler's, the driver's
            log.warning("Tiles of %s do not work on this GPU: %s", tile, error)
            with contextlib.suppress(ValueError):  # another thread was first
                _tiles.remove(tile)
    return None


def _launch(
    query: Tensor, block: Tensor, rows: int, columns: int, warps: int, stages: int
) -> tuple[Tensor, Tensor, Tensor]:
    size, m, width = block.shape
    n = len(query)
    strips = triton.cdiv(n, rows)
    best = torch.empty(size, n, dtype=torch.int32, device=query.device)
    row_max = torch.empty(size, n, device=query.device)
    col_max = torch.empty(size, strips, m, device=query.device)
    # Triton launches on the current GPU, whichever holds the tensors; the interpreter has none.
    with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
        _extrema[(strips, size)](
            *_halves(query), *_halves(block), best, row_max, col_max, n, m, width, rows, columns,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return best.long(), row_max, col_max.amax(1)


def _halves(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Two float16 tensors whose sum is ``numbers`` times a power of two, to 22 bits."""
    numbers = numbers.contiguous()
    high, low = (torch.empty_like(numbers, dtype=torch.float16) for _ in range(2))
    largest = torch.linalg.vector_norm(numbers, ord=float("inf"), dtype=torch.float32)
    count = numbers.numel()
    _halve[(triton.cdiv(count, SPLIT),)](numbers, largest, high, low, count, SPLIT)
    return high, low
