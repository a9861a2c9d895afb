"""Descriptors of past batches: strangers and other views by the hundred, at no cost to the network.

A batch that fits a small machine holds a dozen strangers for an anchor; the few that are hard to
tell from it are rarely among them. Descriptors change little from one update to the next, so those
of the last batches still serve to compare with: cross-batch memory (Wang et al., CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selavpr.mining import Batch, Town


@dataclass(frozen=True)
class Past:
    """What a batch is compared with besides itself.

    Attributes:
        descriptors: ``[M, D]`` without gradient.
        same: ``[B, M]`` bool; see ``losses``.
        different: ``[B, M]`` bool.
    """

    descriptors: Tensor
    same: Tensor
    different: Tensor


@dataclass(frozen=True)
class Memory:
    """The last descriptors, oldest first.

    Attributes:
        rows: ``[M]`` int64, photos of the town.
        descriptors: ``[M, D]`` float32, on any device.
    """

    rows: Tensor
    descriptors: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> Memory:
        """Before the first batch."""
        return cls(torch.empty(0, dtype=torch.int64), torch.empty(0, width, device=device))

    def after(self, rows: Tensor, descriptors: Tensor, size: int) -> Memory:
        """With a batch added and the oldest beyond ``size`` forgotten.

        Args:
            rows: ``[B]`` int64.
            descriptors: ``[B, D]``; what is kept has no gradient.
            size: 0 or more.
        """
        first = max(0, len(self.rows) + len(rows) - size)
        return Memory(
            torch.cat([self.rows, rows.cpu()])[first:],
            torch.cat([self.descriptors, descriptors.detach().float()])[first:],
        )

    def beside(self, batch: Batch, town: Town) -> Past:
        """What of it shows a batch's places, and what surely does not."""
        same, different = town.masks(batch.rows, self.rows.numpy())
        device = self.descriptors.device
        return Past(
            self.descriptors,
            torch.from_numpy(same).to(device),
            torch.from_numpy(different).to(device),
        )
