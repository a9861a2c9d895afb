"""Mutual nearest neighbours (MNN): how many local features of two photos choose each other.

Row i of the query and row j of the candidate are mutual nearest neighbours when j is the most
similar row to i and i the most similar row to j, by inner product (SelaVPR, section 3.3). The
number of such pairs is the paper's re-ranking score; no threshold, no geometry. Similarities that
are equal to the bit are settled by the lower row number, so that the result is the same on every
run.

The reference multiplies everything at once: a K x N x N tensor, 5.5 GB for 100 candidates at
61 x 61. Here a strip of it exists at a time. Only two things are read off a strip, and both are
cheap: the arg-max of each row, and the maximum of each column so far. A pair is mutual exactly when
the row's maximum equals its column's maximum, so no second arg-max is needed.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from selavpr.alignment import LIKELIEST, aligned
from selavpr.errors import OptionError
from selavpr.structs import PATCH, Matches

Mode = Literal["exact", "fast"]

Places = tuple[Tensor, Tensor]
"""Where descriptors look in their photos: ``[N, 2]`` of a query's, ``[K, M, 2]`` of candidates'."""

STRIP = 256
"""Query rows multiplied at a time on a CPU: with 3,721 columns a strip is 3.8 MB, inside L3."""

SMALL = 1 << 19
"""Similarities of one pair, 2 MB, that torch is as soon done with as NumPy, whose BLAS leaves
waiting threads behind: they make the network a fifth slower for the next photo."""

GPU_BYTES = 128 << 20
"""Similarities held at a time on a GPU: enough to fill it, far below the 5.5 GB of the reference"""

GPU_NUMBERS = 1 << 24
"""Numbers of candidates looked at at a time by the kernel that holds no similarities; 64 MB more"""

STRIDES = (8, 4)
"""Fast mode looks at every 8th row of both photos first, then at every 4th. Grids are 4w-3 wide, an
odd number, so these row numbers visit all columns: an even sample of the picture without knowing
its shape."""

DOUBT = 2.0
"""Whoever comes within this many standard deviations of the sampled lead is looked at more closely.
A clear winner costs three full counts, a close race more: the time goes where the decision is. At
2.0 the true first got through for every query tried; see benchmarks/reranking.py."""

FINALISTS, MOST_FINALISTS = 3, 40
"""Fewest and most candidates that fast mode counts in full."""

EXPECTED_AT_ONCE = 1 << 24
"""Similarities held at a time for expected matches, 64 MB; more are made twice, in strips."""

TEMPERATURE = 0.05
"""Of the softmax that turns cosines into probabilities of being nearest, in training, too. From
0.03 to 0.07 the bundled model ranks about alike."""


def mutual_nearest(query: Tensor, candidate: Tensor) -> Matches:
    """Find all mutual nearest neighbours of one pair of photos.

    Args:
        query: ``[N, D]`` descriptors; any float type, compared in float32.
        candidate: ``[M, D]`` descriptors on the same device.

    Returns:
        The matches in order of the query's rows. Empty when either side is empty.

    Raises:
        OptionError: the shapes do not fit together.
    """
    _check(query, candidate[None])
    if not len(query) or not len(candidate):
        none = torch.empty(0, dtype=torch.int64, device=query.device)
        return Matches(none, none, none.float())
    find = _extrema_torch if len(query) * len(candidate) <= SMALL else _extrema
    best, row_max, col_max = find(query.float(), candidate.float()[None])
    rows = _mutual_rows(best[0], row_max[0], col_max[0])
    return Matches(rows, best[0][rows], row_max[0][rows])


def count_mutual(query: Tensor, candidates: Tensor, mode: Mode = "exact") -> Tensor:
    """Score candidates by their number of mutual nearest neighbours with the query.

    ``"exact"`` counts every pair in float32. ``"fast"`` counts on samples of the rows first, and in
    full only for the candidates that could still be first; the others get an estimate on the same
    scale, below every full count. On a GPU, where sampling takes longer than it saves, it is exact.

    Args:
        query: ``[N, D]`` descriptors.
        candidates: ``[K, M, D]`` descriptors on the same device.
        mode: ``"exact"`` or ``"fast"``.

    Returns:
        ``[K]`` int64 scores, 0 to min(N, M), on the query's device.

    Raises:
        OptionError: the shapes do not fit together, or the mode is unknown.
    """
    _check(query, candidates)
    if mode not in ("exact", "fast"):
        raise OptionError(f"mode must be 'exact' or 'fast', not {mode!r}.")
    if not len(query) or not candidates.shape[1]:
        return torch.zeros(len(candidates), dtype=torch.int64, device=query.device)
    if mode == "exact" or len(candidates) <= FINALISTS or query.device.type != "cpu":
        return _count(query, candidates)
    rows = torch.arange(len(candidates), device=query.device)
    rounds = []
    for stride in STRIDES:
        sample = candidates[:, ::stride][rows].contiguous()
        sampled = _count(query[::stride].contiguous(), sample)
        rounds.append((rows, sampled))
        rows = rows[_through(sampled)]
    rows = rows[:MOST_FINALISTS]
    counts = torch.zeros(len(candidates), dtype=torch.int64, device=query.device)
    counts[rows] = _count(query, candidates[rows])
    ceiling = counts[rows].min() - 1
    for entered, sampled in reversed(rounds):
        # Counts on a sample are smaller; those that went on show by how much for this query.
        known = torch.isin(entered, rows)
        scale = int(counts[rows].sum()) / max(1, int(sampled[known].sum()))
        estimate = torch.minimum((sampled.float() * scale).round().long(), ceiling).clamp(min=0)
        counts[entered[~known]] = estimate[~known]
        rows, ceiling = entered, counts[entered].min() - 1
    return counts


def _weight(query: Tensor, candidate: Tensor) -> Tensor:
    """The softmax's numerators; cosines lie so close that none leaves the range of float32."""
    return torch.exp((query @ candidate.mT - 1) / TEMPERATURE)


def _through(sampled: Tensor) -> Tensor:
    """Candidates whose sampled count leaves them a chance to be first, best first.

    A count of n events that come independently has a standard deviation of about sqrt(n).
    """
    # A stable sort settles ties by the order the candidates came in, which is the global order.
    ordered, rows = torch.sort(sampled, descending=True, stable=True)
    lead = int(ordered[0])
    close = int((ordered >= lead - DOUBT * math.sqrt(lead)).sum())
    return rows[: max(close, FINALISTS)]


@torch.no_grad()
def expect_mutual(query: Tensor, candidates: Tensor, places: Places | None = None) -> Tensor:
    """Score candidates by their expected number of mutual nearest neighbours with the query.

    Where details repeat, as windows do, the nearest neighbour is one of many nearly as near, and a
    count takes it for as good as a unique one. Here every row of one photo chooses rows of the
    other with the probabilities of a softmax over their similarities; i and j are mutual with the
    product of both choices' probabilities (dual softmax, Rocco et al., NeurIPS 2018), and the sum
    over all pairs is the expected number. As the temperature falls, it becomes the count.

    With ``places`` the score is the geometric mean of that number and of as many as lie alike in
    both photos, by the likeliest of them (see ``alignment``).

    Args:
        query: ``[N, D]`` descriptors of unit norm.
        candidates: ``[K, M, D]`` of unit norm on the same device.
        places: where they look, see ``Local.places``; None to ask nothing of it.

    Returns:
        ``[K]`` float32, 0 to min(N, M), on the query's device.

    Raises:
        OptionError: the shapes do not fit together.
    """
    _check(query, candidates, places)
    if not query.numel() or not candidates.numel():
        return torch.zeros(len(candidates), device=query.device)
    if query.device.type == "cpu":
        each = [_expect(query.float(), candidate.float()) for candidate in candidates]
        found = [torch.stack(parts) for parts in zip(*each, strict=True)]
    else:
        step = max(1, GPU_BYTES // (4 * len(query) * candidates.shape[1]))
        blocks = torch.split(candidates.float(), step)
        each = [_expect_block(query.float(), block) for block in blocks]
        found = [torch.cat(parts) for parts in zip(*each, strict=True)]
    expected, likely, partner = found
    if places is None:
        return expected
    weight, rows = likely.topk(min(LIKELIEST, len(query)), dim=1)
    here, there = places[0].to(query.device), places[1].to(query.device)
    partner = partner.gather(1, rows)[..., None].expand(-1, -1, 2)
    return expected * aligned(weight, here[rows], there.gather(1, partner)).sqrt()


def _expect(query: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The expected number, and of each row of the query its likeliest partner and how likely."""
    strips = torch.split(query, max(1, EXPECTED_AT_ONCE // len(candidate)))
    weights = [_weight(strips[0], candidate)] if len(strips) == 1 else None
    columns = torch.zeros(len(candidate))
    for weight in weights or (_weight(strip, candidate) for strip in strips):
        columns += weight.sum(0)
    score, likely, partner = torch.zeros(()), [], []
    for weight in weights or (_weight(strip, candidate) for strip in strips):
        rows = weight.sum(1)
        best = weight.square_().mul_(columns.reciprocal()).max(1)
        score += weight.sum(1) @ rows.reciprocal()
        likely.append(best.values / rows)
        partner.append(best.indices)
    return score, torch.cat(likely), torch.cat(partner)


def _expect_block(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of ``[B, M, D]`` candidates at once."""
    weight = _weight(query, block)
    choices = weight.sum(1, keepdim=True) * weight.sum(2, keepdim=True)
    chance = weight.square_().div_(choices)
    likely, partner = chance.max(2)
    return chance.sum((1, 2)), likely, partner


def grid_centres(rows: Tensor, width: int) -> Tensor:
    """Where local descriptors look: centres of a dense grid's cells, in network input pixels.

    Two up-convolutions of stride 2 put three new descriptors between neighbouring tokens, whose
    patches are 14 pixels wide: centres lie at 7 + 3.5 j.

    Args:
        rows: ``[M]`` row numbers of descriptors in ``local.flatten(0, 1)``.
        width: columns of the grid, ``4w - 3`` for ``w`` columns of tokens.

    Returns:
        ``[M, 2]`` float32 ``(x, y)``. Pixel edges are whole numbers.
    """
    return PATCH / 2 + PATCH / 4 * torch.stack([rows % width, rows // width], dim=-1)


def keypoints(rows: Tensor, grid: tuple[int, int], photo_size: tuple[int, int]) -> Tensor:
    """Positions of local descriptors in the photo they came from.

    Args:
        rows: ``[M]`` row numbers into the flattened grid, as in ``Matches``.
        grid: ``(height, width)`` of the grid of local descriptors.
        photo_size: ``(width, height)`` of the photo in pixels, as ``Image.size``.

    Returns:
        ``[M, 2]`` float32 ``(x, y)`` in the photo's pixels.
    """
    height, width = grid
    input_size = torch.tensor([(width + 3) / 4 * PATCH, (height + 3) / 4 * PATCH])
    return grid_centres(rows.cpu(), width) * (torch.tensor(photo_size) / input_size)


def _check(query: Tensor, candidates: Tensor, places: Places | None = None) -> None:
    if query.ndim != 2 or candidates.ndim != 3 or query.shape[1] != candidates.shape[2]:
        raise OptionError(
            "Descriptors must be [N, D] and [K, M, D] with the same D; these are "
            f"{list(query.shape)} and {list(candidates.shape)}."
        )
    if places is not None:
        shapes = places[0].shape, places[1].shape
        if shapes != ((len(query), 2), (*candidates.shape[:2], 2)):
            raise OptionError(
                "Places must be [N, 2] and [K, M, 2], a position for each descriptor; these are "
                f"{list(shapes[0])} and {list(shapes[1])}."
            )


def _count(query: Tensor, candidates: Tensor) -> Tensor:
    """Exact counts, ``[K]``, for float inputs of any type."""
    query, on_cpu = query.float(), query.device.type == "cpu"
    step = 1 if on_cpu else max(1, GPU_NUMBERS // (candidates.shape[1] * candidates.shape[2]))
    find = _extrema if on_cpu else _extrema_gpu
    blocks = torch.split(candidates, step) if len(candidates) else ()
    counts = [_distinct(*find(query, block.float())) for block in blocks]
    return torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64, device=query.device)


def _distinct(best: Tensor, row_max: Tensor, col_max: Tensor) -> Tensor:
    """Columns among mutual rows, ``[B]``: where rows tie for a column, one of them counts."""
    hit = torch.zeros_like(col_max, dtype=torch.int64)
    hit.scatter_add_(1, best, (row_max == col_max.gather(1, best)).long())
    return (hit > 0).sum(1)


def _mutual_rows(best: Tensor, row_max: Tensor, col_max: Tensor) -> Tensor:
    """Rows that are mutual, ascending, each column at most once (its lowest row)."""
    rows = torch.nonzero(row_max == col_max[best]).squeeze(1)
    order = torch.sort(best[rows], stable=True)
    first = torch.ones_like(order.values, dtype=torch.bool)
    first[1:] = order.values[1:] != order.values[:-1]
    return rows[order.indices[first]].sort().values


def _extrema(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Arg-max and maximum of every row, maximum of every column, of the similarity matrices.

    Args:
        query: ``[N, D]`` float32.
        block: ``[B, M, D]`` float32.

    Returns:
        ``best [B, N]`` int64, ``row_max [B, N]``, ``col_max [B, M]`` float32.
    """
    return (_extrema_cpu if query.device.type == "cpu" else _extrema_torch)(query, block)


def _extrema_gpu(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Like ``_extrema``, the maxima in a unit of their own."""
    kernel = _kernel(query.device.type)
    found = kernel.extrema(query, block) if kernel is not None else None
    if found is None:
        step = max(1, GPU_BYTES // (4 * len(query) * block.shape[1]))
        parts = [_extrema_torch(query, part) for part in torch.split(block, step)]
        found = (torch.cat(part) for part in zip(*parts, strict=True))
    best, row_max, col_max = found
    return best, row_max, col_max


@functools.cache
def _kernel(device: str) -> ModuleType | None:
    """None where there is no Triton: it comes with torch's builds for GPUs."""
    if device != "cuda":
        return None
    try:
        return importlib.import_module("selavpr.fused")
    except ImportError:
        return None


def _extrema_torch(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    similarity = torch.matmul(query, block.mT)
    row_max, best = similarity.max(dim=2)
    return best, row_max, similarity.amax(dim=1)


def _extrema_cpu(query: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # NumPy from end to end. Its BLAS (OpenBLAS) is as fast as torch's (MKL) on Intel and 1.4 times
    # as fast on AMD, its arg-max is vectorised (torch's takes 8 times as long), and calling torch
    # in between would make the two libraries' waiting threads fight for the cores.
    size, columns = block.shape[0], block.shape[1]
    left, right = query.detach().numpy(), block.detach().numpy()
    best = np.empty((size, len(left)), dtype=np.int64)
    row_max = np.empty((size, len(left)), dtype=np.float32)
    col_max = np.full((size, columns), -np.inf, dtype=np.float32)
    buffer = np.empty((min(STRIP, len(left)), columns), dtype=np.float32)
    for b in range(size):
        for start in range(0, len(left), STRIP):
            rows = slice(start, min(start + STRIP, len(left)))
            strip = np.matmul(left[rows], right[b].T, out=buffer[: rows.stop - start])
            strip.argmax(axis=1, out=best[b, rows])
            row_max[b, rows] = np.take_along_axis(strip, best[b, rows, None], axis=1)[:, 0]
            np.maximum(col_max[b], strip.max(axis=0), out=col_max[b])
    return torch.from_numpy(best), torch.from_numpy(row_max), torch.from_numpy(col_max)
