"""Ways of keeping local features in an index, behind one interface; the builder chooses.

======== ================================================== ======================================
kind     what is stored of a photo                          at query time
======== ================================================== ======================================
tokens   components of its tokens, 8 bits each              decoded, up-convolved (``codec``)
dense    its local descriptors in float16                   read
keypoint the most distinctive local descriptors, 8 bits     read, with their positions
product  every local descriptor, product-quantised          looked up in the code books
none     nothing                                            extracted anew from the stored photo
======== ================================================== ======================================

A code belongs to its index: fitted once, kept in ``codec.safetensors``, and used for photos added
later. ``benchmarks/storage.py`` measures bytes against recall for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selavpr.codec import TokenCodec
from selavpr.densecodecs import DenseCodec, KeypointCodec, ProductCodec
from selavpr.localfeatures import (
    SAMPLE,
    Arrays,
    Codec,
    Local,
    Network,
    Sample,
    Stored,
    densify_each,
)


@dataclass(frozen=True, eq=False)
class TokensCodec:
    """Components of tokens, 8 bits each."""

    code: TokenCodec
    kind: ClassVar[str] = "tokens"
    DEFAULT_BYTES: ClassVar[int] = 32_000
    """A photo may have without anybody asking; ``benchmarks/storage.py`` shows what more brings."""
    DEFAULT_RANK: ClassVar[int] = 96
    """At most, however few tokens there are."""

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """Codes and scales."""
        return {"codes.npy": (np.int8, self.code.rank), "scales.npy": (np.float16, 0)}

    @property
    def rank(self) -> int:
        """Components kept."""
        return self.code.rank

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> TokensCodec:
        """Fewer components than asked for where the tokens have, or are, not as many."""
        tokens = sample.tokens(SAMPLE)
        # Each token has a scale of two bytes beside its components.
        affordable = max(1, int(cls.DEFAULT_BYTES / sample.per_photo) - 2)
        rank = rank or min(affordable, cls.DEFAULT_RANK)
        return cls(TokenCodec.fit(tokens, min(rank, *tokens.shape), sample.scored(tokens)))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TokensCodec:
        """Mean, basis and, where it has one, encoder."""
        mean, basis, encoder = tensors["mean"], tensors["basis"], tensors.get("encoder")
        if mean.ndim != 1 or basis.ndim != 2 or basis.shape[1] != len(mean) or not basis.numel():
            raise ValueError("its tensors do not fit together")
        if encoder is not None and encoder.shape != basis.shape:
            raise ValueError("its tensors do not fit together")
        return cls(TokenCodec(mean, basis, encoder))

    def tensors(self) -> dict[str, Tensor]:
        """Mean, basis and, where it has one, encoder."""
        code = self.code
        own = {} if code.encoder is None else {"encoder": code.encoder}
        return {"mean": code.mean, "basis": code.basis, **own}

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A row per token."""
        return np.asarray(grids.prod(axis=1), dtype=np.int64)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """Coded tokens."""
        return self.code.encode(tokens.flatten(0, 1))

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The tokens as the other code gives them back, coded by this one."""
        assert isinstance(other, TokensCodec)
        return self.code.encode(other.tokens(stored).flatten(0, 1))

    def tokens(self, stored: Stored) -> Tensor:
        """Tokens ``[h, w, C]`` of a photo."""
        codes, scales = stored.arrays
        return self.code.decode(codes, scales).reshape(*stored.grid, -1)

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Decoded and up-convolved, a few photos of one grid at a time."""
        numbers = range(len(stored))
        return densify_each(
            numbers, lambda i: stored[i].grid, lambda i: self.tokens(stored[i]), network
        )

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Decoded and projected."""
        return [Local.of_tokens(self.tokens(one), network) for one in stored]


@dataclass(frozen=True)
class NoCodec:
    """Nothing stored: candidates are extracted anew from their stored photos. Small and slow."""

    kind: ClassVar[str] = "none"

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """None."""
        return {}

    @property
    def rank(self) -> int:
        """Nothing."""
        return 0

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> NoCodec:
        """Nothing to fit."""
        return cls()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> NoCodec:
        """Nothing to read."""
        return cls()

    def tensors(self) -> dict[str, Tensor]:
        """A placeholder, since safetensors files are not empty."""
        return {"nothing": torch.zeros(1)}

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """No rows."""
        return np.zeros(len(grids), dtype=np.int64)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """Nothing."""
        return ()

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """Nothing."""
        return ()

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Extracted; the photo as stored may have another shape by a token than it once had."""
        features = network.extract_each([one.photo() for one in stored], local=True)
        found = []
        for one in features:
            assert one.local is not None  # asked for
            dense = one.local[0]
            found.append(Local(dense.flatten(0, 1), (dense.shape[0], dense.shape[1])))
        return found

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Extracted and projected."""
        extracted = network.extract_each([one.photo() for one in stored])
        return [Local.of_tokens(features.tokens[0], network) for features in extracted]


CODECS: Mapping[str, type[Codec]] = {
    codec.kind: codec for codec in (TokensCodec, DenseCodec, KeypointCodec, ProductCodec, NoCodec)
}
"""By kind."""
