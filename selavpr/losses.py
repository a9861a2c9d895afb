"""Losses: what makes photos of one place alike and of two places unlike, globally and locally.

All take the features of a batch and two masks ``[B, B]`` of bool: ``same[i, j]`` where photo j
shows the place of anchor i, ``different[i, j]`` where it surely does not. Pairs in neither mask
(the anchor itself, neighbours of unsure overlap) count for nothing, and a row without a pair of
each kind is no anchor. So one signature serves the paper's triplets and whole batches alike. The
global ones also compare a batch with other photos, ``others``; the masks are then ``[B, C]``.

All compute in float32 under any autocast, and return a scalar; 0 (with a gradient of zero) where
the masks hold no anchor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selavpr.errors import OptionError
from selavpr.matching import TEMPERATURE, mutual_nearest

PAIRED_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Similarities of pairs computed at once: 16 MB that stay in a cache, half a GB that fill a GPU"""


def triplet(
    descriptors: Tensor,
    same: Tensor,
    different: Tensor,
    others: Tensor | None = None,
    margin: float = 0.1,
) -> Tensor:
    """The paper's global loss: triplet margin, averaged over all (anchor, same, different).

    max(0, |a - s| - |a - d| + margin) with the L2 distance (paper, eq. 8; margin 0.1).

    Args:
        descriptors: ``[B, D]``.
        same: ``[B, C]`` bool.
        different: ``[B, C]`` bool.
        others: ``[C, D]``, what the columns of the masks stand for; None for the batch itself.
        margin: how much farther the strangers have to be.

    Raises:
        OptionError: the shapes do not fit together.
    """
    others = descriptors if others is None else others
    _check(descriptors, others, same, different, 2)
    anchor, other, stranger = _triplets(same, different)
    if not len(anchor):
        return descriptors.sum() * 0.0
    with torch.autocast(descriptors.device.type, enabled=False):
        x, y = descriptors.float(), others.float()
        near = F.pairwise_distance(x[anchor], y[other])
        far = F.pairwise_distance(x[anchor], y[stranger])
        return F.relu(near - far + margin).mean()


def multi_similarity(
    descriptors: Tensor,
    same: Tensor,
    different: Tensor,
    others: Tensor | None = None,
    alpha: float = 2.0,
    beta: float = 40.0,
    base: float = 0.5,
    margin: float = 0.1,
) -> Tensor:
    """Multi-similarity loss (Wang et al., CVPR 2019, eq. 6) on its own hard pairs (eqs. 3 and 4).

    Of an anchor's pairs only those are kept that are harder than its easiest opponent by
    ``margin``; each weighs by how hard it is among them.

    Args:
        descriptors: ``[B, D]``; compared by cosine.
        same: ``[B, C]`` bool.
        different: ``[B, C]`` bool.
        others: ``[C, D]``, what the columns of the masks stand for; None for the batch itself.
        alpha: how sharply the least similar of the same place dominate.
        beta: how sharply the most similar strangers dominate.
        base: similarity that parts the two kinds.
        margin: of the choice of pairs.

    Raises:
        OptionError: the shapes do not fit together.
    """
    others = descriptors if others is None else others
    _check(descriptors, others, same, different, 2)
    with torch.autocast(descriptors.device.type, enabled=False):
        x, y = (F.normalize(z.float(), dim=-1) for z in (descriptors, others))
        similarity = x @ y.T
        anchors = same.any(1) & different.any(1)
        least = similarity.masked_fill(~same, torch.inf).amin(1, keepdim=True)
        most = similarity.masked_fill(~different, -torch.inf).amax(1, keepdim=True)
        pulled = same & (similarity - margin < most)
        pushed = different & (similarity + margin > least)
        pull = _log1p_sum(-alpha * (similarity - base), pulled) / alpha
        push = _log1p_sum(beta * (similarity - base), pushed) / beta
        return ((pull + push) * anchors).sum() / anchors.sum().clamp(min=1)


def mutual(local: Tensor, same: Tensor, different: Tensor) -> Tensor:
    """The paper's mutual-nearest-neighbour local feature loss, averaged over all triplets.

    max(0, S(a, d) - S(a, s)), where S is the mean similarity of the mutual nearest neighbours of
    two photos (paper, eqs. 9 and 10). S is 0 for a pair without any. Which rows match is decided
    without gradient; the gradient flows through the similarities of those that do.

    Args:
        local: ``[B, N, D]`` of unit norm.
        same: ``[B, B]`` bool.
        different: ``[B, B]`` bool.

    Raises:
        OptionError: the shapes do not fit together.
    """
    _check(local, local, same, different, 3)
    anchor, other, stranger = _triplets(same, different)
    if not len(anchor):
        return local.sum() * 0.0
    with torch.autocast(local.device.type, enabled=False):
        local = local.float()
        pairs = torch.nonzero(same | different)
        value = torch.stack([mean_mutual_similarity(local[i], local[j]) for i, j in pairs])
        of_pair = torch.full(same.shape, -1, dtype=torch.int64, device=local.device)
        of_pair[pairs[:, 0], pairs[:, 1]] = torch.arange(len(pairs), device=local.device)
        near, far = value[of_pair[anchor, other]], value[of_pair[anchor, stranger]]
        return F.relu(far - near).mean()


def soft_count(
    local: Tensor,
    same: Tensor,
    different: Tensor,
    temperature: float = TEMPERATURE,
    sharpness: float = 4.0,
) -> Tensor:
    """What re-ranking does, with a gradient: order photos by their expected mutual matches.

    ``matching.expect_mutual`` is the score. Each photo of the same place competes with the anchor's
    strangers, by the ratio of the counts: -log(s^k / (s^k + sum d^k)). A shift that all rows of a
    photo share cancels in a softmax: the network cannot win by marking photos instead of details.

    Args:
        local: ``[B, N, D]`` of unit norm.
        same: ``[B, B]`` bool.
        different: ``[B, B]`` bool.
        temperature: of the softmaxes, in units of similarity.
        sharpness: k above.

    Raises:
        OptionError: the shapes do not fit together.
    """
    _check(local, local, same, different, 3)
    anchors = same.any(1) & different.any(1)
    compared = (same | different) & anchors[:, None]
    if not compared.any():
        return local.sum() * 0.0
    with torch.autocast(local.device.type, enabled=False):
        local = local.float()
        # The score of a pair is that of the pair turned round: each is computed once.
        i, j = torch.nonzero(torch.triu(compared | compared.T), as_tuple=True)
        most = PAIRED_AT_ONCE.get(local.device.type, PAIRED_AT_ONCE["cpu"])
        at_once = max(1, most // local.shape[1] ** 2)
        counts = [
            _log_expected(local[a], local[b], temperature)
            for a, b in zip(torch.split(i, at_once), torch.split(j, at_once), strict=True)
        ]
        score = local.new_zeros(same.shape).index_put((i, j), sharpness * torch.cat(counts))
        score = (score + torch.triu(score, 1).T)[anchors]
        near, far = same[anchors], different[anchors]
        strangers = score.masked_fill(~far, -torch.inf).logsumexp(1, keepdim=True)
        losses = torch.where(near, F.softplus(strangers - score), 0.0)
        return (losses.sum(1) / near.sum(1)).mean()


def _log_expected(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """``[P]``: logarithms of the expected mutual matches of P pairs, ``[P, N, D]`` each."""
    similarity = torch.matmul(a, b.mT) / temperature
    choices = similarity.logsumexp(2, keepdim=True) + similarity.logsumexp(1, keepdim=True)
    return (2 * similarity - choices).flatten(1).logsumexp(1)


def mean_mutual_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean inner product of the mutual nearest neighbours of ``[N, D]`` and ``[M, D]``; scalar."""
    with torch.no_grad():
        found = mutual_nearest(a, b)
    if not len(found):
        return (a.sum() + b.sum()) * 0.0
    return (a[found.query] * b[found.candidate]).sum(1).mean()


def _triplets(same: Tensor, different: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All (anchor, same, different), each ``[T]``."""
    found = torch.nonzero(same[:, :, None] & different[:, None, :])
    return found[:, 0], found[:, 1], found[:, 2]


def _log1p_sum(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + the sum of exp over the mask), row by row, without overflow."""
    zero = torch.zeros_like(exponents[:, :1])
    return torch.cat([zero, exponents.masked_fill(~mask, -torch.inf)], 1).logsumexp(1)


def _check(
    features: Tensor, others: Tensor, same: Tensor, different: Tensor, dimensions: int
) -> None:
    size = (len(features), len(others))
    fits = features.ndim == others.ndim == dimensions and features.shape[1:] == others.shape[1:]
    if not fits or {same.shape, different.shape} != {size}:
        raise OptionError(
            f"Features of {size[0]} and {size[1]} photos need masks {list(size)}; these are "
            f"{list(features.shape)}, {list(others.shape)}, {list(same.shape)}, "
            f"{list(different.shape)}."
        )
    if same.dtype != torch.bool or different.dtype != torch.bool or bool((same & different).any()):
        raise OptionError("The masks must be of bool, and no pair both same and different.")
