"""Which share of two photos' matches lies alike in both: one scale and one shift for all of them.

From where a place was seen once it looks the same again, but for the lens and where the camera
points: everything grows by one factor and moves by one step, roughly. What other places happen to
share, such as windows, is strewn about. The paper orders candidates without geometry (SelaVPR,
section 3.3); this asks for no inliers and tries nothing at random, so that it can weigh every
candidate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selavpr.errors import OptionError

LIKELIEST = 64
"""Matches that are asked, the likeliest: of some five hundred tokens most find nothing certain."""

SCALES = tuple(1.075**i for i in range(-8, 8))
"""By how much things may be larger in the candidate, 0.56 to 1.66 times: lenses of phones differ by
1.8, and one camera may stand 25 m nearer to what it sees. With steps of 1.12 the bundled city's 302
validation and calibration queries lose a point, and so does a campus by day."""

TOLERANCE = 0.06
"""Standard deviation of what still is the same step, as a share of the root of the photo's area,
1.3 tokens: near things move farther than distant ones. 0.03 and 0.12 rank the bundled city's
queries about alike; the campus by night loses 2 and 4 points."""


def aligned(weight: Tensor, query: Tensor, candidate: Tensor) -> Tensor:
    """The share of matches that agree on one scale and one shift.

    Every match proposes its own shift for each of ``SCALES``; the others agree with it the less,
    the farther they are from it (a Gaussian of ``TOLERANCE``). The best proposal counts.

    Args:
        weight: ``[K, M]`` float32 of K candidates' matches with a photo, 0 or more.
        query: ``[K, M, 2]`` where they lie in the photo, see ``Local.places``.
        candidate: ``[K, M, 2]`` where their partners lie in the candidates.

    Returns:
        ``[K]`` float32, 0 to 1: 0 where no match has weight, and 1 where all lie alike.

    Raises:
        OptionError: the shapes do not fit together.
    """
    if query.shape != candidate.shape or query.shape != (*weight.shape, 2) or weight.ndim != 2:
        raise OptionError(
            "Matches must be [K, M] with positions [K, M, 2] in both photos; these are "
            f"{list(weight.shape)}, {list(query.shape)} and {list(candidate.shape)}."
        )
    if not weight.shape[1]:
        return torch.zeros(len(weight), device=weight.device)
    scales = torch.tensor(SCALES, device=query.device).reshape(-1, 1, 1)
    shifts = candidate[:, None] - scales * query[:, None]  # [K, S, M, 2]
    apart = torch.zeros((*shifts.shape[:3], shifts.shape[2]), device=query.device)
    for axis in shifts.unbind(-1):
        apart += (axis[..., None] - axis[..., None, :]).square_()
    apart.mul_(-0.5 / TOLERANCE**2).exp_()
    agrees = apart.flatten(1, 2) @ weight[..., None]
    total = weight.sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    return (agrees.amax((1, 2)) / total).clamp(max=1.0)
