"""Compact local features: what an index keeps of each reference photo for re-ranking.

The reference implementation stores dense local descriptors, 1,905 KB of float32 a photo. They are
made from 16 times fewer tokens by two up-convolutions, so tokens are what is worth keeping: reduced
to their principal components, in 8 bits each, and up-convolved again when a photo is a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selavpr.errors import OptionError

SMALLEST_SCALE = 2.0**-14
"""The smallest float16 of full precision; tokens are thousands of times larger."""


@dataclass(frozen=True)
class TokenCodec:
    """A linear code for tokens: centre, project, scale each token to 8 bits.

    Attributes:
        mean: ``[C]`` float32.
        basis: ``[r, C]`` float32 with orthonormal rows; r is the number of bytes a token takes,
            beside two for its scale.
    """

    mean: Tensor
    basis: Tensor

    @classmethod
    def fit(cls, tokens: Tensor, rank: int) -> TokenCodec:
        """Principal components of sample tokens.

        Args:
            tokens: ``[n, C]`` from photos of the kind the index will hold.
            rank: components to keep, 1 to C.

        Raises:
            OptionError: the rank is out of range, or there are fewer tokens than components.
        """
        count, width = tokens.shape
        if not 1 <= rank <= width:
            raise OptionError(f"The rank of the code must be 1 to {width}, not {rank}.")
        if count < rank:
            raise OptionError(f"A code of rank {rank} needs at least as many tokens, not {count}.")
        data = tokens.double()
        mean = data.mean(0)
        centred = data - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        del values  # ascending, so the leading components are the last columns
        basis = vectors.flip(1)[:, :rank].T
        # An eigenvector's sign is arbitrary; fixing it makes two builds equal to the byte.
        signs = basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
        return cls(mean.float(), (basis * signs).float().contiguous())

    @property
    def rank(self) -> int:
        """Components kept."""
        return self.basis.shape[0]

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.basis.shape[1]

    def encode(self, tokens: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
        """Code tokens.

        Args:
            tokens: ``[n, C]``.

        Returns:
            ``codes [n, r]`` and ``scales [n]``, such that ``codes * scales`` are the components.
        """
        components = (tokens.cpu().float() - self.mean) @ self.basis.T
        largest = components.abs().amax(dim=1)
        # A little larger than needed, since float16 may round down and no code may leave the 8
        # bits; and never so small that float16 loses its precision or becomes zero.
        scales = (largest / 127 * 1.001).clamp(min=SMALLEST_SCALE).half()
        codes = (components / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        return codes.numpy(), scales.numpy()

    def decode(self, codes: NDArray[np.int8], scales: NDArray[np.float16]) -> Tensor:
        """Tokens ``[n, C]`` float32 from ``codes [n, r]`` and ``scales [n]``."""
        components = torch.from_numpy(codes.astype(np.float32))
        components *= torch.from_numpy(scales.astype(np.float32))[:, None]
        return components @ self.basis + self.mean
