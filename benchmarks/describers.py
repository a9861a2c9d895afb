"""Global descriptors people would take without training: the plain backbone's tokens, pooled.

===========  =======================================================================================
name         how
===========  =======================================================================================
mean         mean of the patch tokens
GeM          generalised mean of the unit tokens, as the model pools its own
class token  the token the backbone was trained to sum a photo up in
VLAD 32      AnyLoc's way (Keetha et al., 2023): residuals of the unit tokens from the nearest of 32
             centres, which are fitted on the database; each centre's sum, and the whole, to norm 1
===========  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selavpr import SelaVPR
from selavpr.images import load_image, preprocess

CENTRES = 32
SAMPLE = 200_000
"""Tokens the centres are fitted on."""


@torch.inference_mode()
def describe(
    model: SelaVPR, database: Sequence[Path], photos: Sequence[Path], seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Descriptors ``[n, D]`` of unit norm, by name.

    Args:
        model: whose backbone is used, without its adapters.
        database: photos the centres are fitted on.
        photos: to describe; the database among them is looked at once.
        seed: of the centres.
    """
    first: dict[Path, Tensor] = {}
    tokens: dict[Path, Tensor] = {}
    gem: dict[Path, Tensor] = {}
    seen: list[Tensor] = []
    hook = model.backbone.norm.register_forward_hook(lambda *call: seen.append(call[2][:, 0]))
    try:
        for path in dict.fromkeys([*database, *photos]):
            # Not by extract(): on a GPU that replays a recording, and calls no hook.
            pixels = preprocess(load_image(path), model.config)[None].to(model.device)
            features = model(pixels, adapted=False)
            first[path] = seen.pop()[0].float().cpu()
            gem[path] = features.descriptor[0].float().cpu()
            # Half: a city's worth of tokens is kept until the centres are known.
            tokens[path] = features.tokens[0].flatten(0, 1).half().cpu()
    finally:
        hook.remove()
    centres = fit([tokens[path] for path in database], seed)
    found = {
        "mean": [tokens[path].float().mean(dim=0) for path in photos],
        "GeM": [gem[path] for path in photos],
        "class token": [first[path] for path in photos],
        f"VLAD {len(centres)}": [vlad(tokens[path].float(), centres) for path in photos],
    }
    return {
        name: F.normalize(torch.stack(rows), dim=-1).numpy().astype(np.float32)
        for name, rows in found.items()
    }


def fit(tokens: Sequence[Tensor], seed: int) -> Tensor:
    """Centres ``[K, C]`` of tokens ``[N, C]`` of many photos, by k-means on unit tokens."""
    every = F.normalize(torch.cat([*tokens]).float(), dim=-1)
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    means = faiss.Kmeans(
        every.shape[1],
        min(CENTRES, len(every)),
        niter=25,
        seed=seed,
        max_points_per_centroid=SAMPLE,
        min_points_per_centroid=1,
    )
    means.train(every[chosen].numpy())
    return torch.from_numpy(means.centroids)


def vlad(tokens: Tensor, centres: Tensor) -> Tensor:
    """``[N, C]`` tokens and ``[K, C]`` centres to ``[K * C]``."""
    unit = F.normalize(tokens, dim=-1)
    nearest = torch.cdist(unit, centres).argmin(dim=1)
    sums = torch.zeros_like(centres).index_add_(0, nearest, unit - centres[nearest])
    return F.normalize(F.normalize(sums, dim=-1).flatten(), dim=0)
