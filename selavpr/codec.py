"""Compact local features: what an index keeps of each reference photo for re-ranking.

The reference implementation stores dense local descriptors, 1,905 KB of float32 a photo. They are
made from 16 times fewer tokens by two up-convolutions, so tokens are what is worth keeping: reduced
to some components, in 8 bits each, and up-convolved again when a photo is a candidate.

Components that tell most about the tokens, the principal ones, are not those that tell most about
the descriptors made of them. Where it is known what is made of tokens, the components are those
from which it can be foretold best: reduced-rank regression (Izenman, 1975).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selavpr.errors import OptionError

TINY = 1e-9
"""Shares of the largest, and sizes, below which nothing is told from rounding."""

SMALLEST_SCALE = 2.0**-14
"""The smallest float16 of full precision; tokens are thousands of times larger."""


@dataclass(frozen=True)
class TokenCodec:
    """A linear code for tokens: centre, project, scale each token to 8 bits.

    Attributes:
        mean: ``[C]`` float32.
        basis: ``[r, C]`` float32, what a token is put together from; r is the number of bytes it
            takes, beside two for its scale.
        encoder: ``[r, C]`` float32, whose products with a token are its components: the inverse of
            the basis, ``basis @ encoder.T = 1``. None where the basis has orthonormal rows and is
            its own.
    """

    mean: Tensor
    basis: Tensor
    encoder: Tensor | None = None

    @classmethod
    def fit(cls, tokens: Tensor, rank: int, made: Tensor | None = None) -> TokenCodec:
        """Components of sample tokens.

        Args:
            tokens: ``[n, C]`` from photos of the kind the index will hold.
            rank: components to keep, 1 to C.
            made: ``[n, d]`` what is made of these tokens and has to stay as it is; None for the
                tokens themselves, whose components are then the principal ones.

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
        if made is None:
            basis = _principal(centred, rank)
            return cls(mean.float(), basis.float().contiguous())
        encoder, basis = _telling(centred, made.double() - made.double().mean(0), rank)
        if len(basis) < rank:
            # All that can be foretold is; the rest goes to the tokens' own principal components.
            rest = centred - centred @ encoder.T @ basis
            more = _principal(rest, rank - len(basis))
            own = more - more @ basis.T @ encoder
            # Eight bits are shared by all components, so they have to be of one size.
            sizes = [(centred @ rows.T).norm() / max(1, len(rows)) for rows in (own, encoder)]
            scale = sizes[0] / sizes[1] if min(sizes) > TINY else 1.0
            encoder, basis = torch.cat([encoder, own / scale]), torch.cat([basis, more * scale])
        return cls(mean.float(), basis.float().contiguous(), encoder.float().contiguous())

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
        encoder = self.basis if self.encoder is None else self.encoder
        components = (tokens.cpu().float() - self.mean) @ encoder.T
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


def _principal(data: Tensor, rank: int) -> Tensor:
    """``[rank, C]`` leading principal components of centred rows ``[n, C]``, orthonormal."""
    values, vectors = torch.linalg.eigh(data.T @ data)
    del values  # ascending, so the leading components are the last columns
    return _signed(vectors.flip(1)[:, :rank].T)


def _telling(data: Tensor, made: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Encoder and basis, ``[r, C]`` each, of what foretells ``made`` best; r is at most ``rank``.

    What is made of the tokens is foretold linearly from all of them; its principal components are
    linear in the tokens, too, and the tokens are in turn foretold from these.

    Args:
        data: ``[n, C]`` centred tokens.
        made: ``[n, d]`` centred.
        rank: components at most.
    """
    foretold = torch.linalg.lstsq(data, made, driver="gelsd").solution  # [C, d]
    values, vectors = torch.linalg.eigh((data @ foretold).T @ (data @ foretold))
    kept = min(rank, int((values > TINY * values[-1].clamp(min=TINY)).sum()))
    encoder = _signed(vectors.flip(1)[:, :kept].T) @ foretold.T
    components = data @ encoder.T
    basis = torch.linalg.lstsq(components, data, driver="gelsd").solution
    return encoder, basis


def _signed(vectors: Tensor) -> Tensor:
    """The sign of an eigenvector is arbitrary; fixing it makes two builds equal to the byte."""
    return vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
