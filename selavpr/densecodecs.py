"""Codes of dense local descriptors: in float16, the most distinctive ones, or product-quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selavpr.codec import SMALLEST_SCALE
from selavpr.errors import OptionError
from selavpr.localfeatures import (
    SAMPLE,
    Arrays,
    Codec,
    Local,
    Network,
    Sample,
    Stored,
    dense_cells,
    dense_counts,
    densified,
    densified_centres,
    unit,
)


@dataclass(frozen=True)
class DenseCodec:
    """Local descriptors in float16: fast to read, large."""

    width: int
    kind: ClassVar[str] = "dense"

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """Descriptors."""
        return {"codes.npy": (np.float16, self.width)}

    @property
    def rank(self) -> int:
        """Components of a descriptor."""
        return self.width

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> DenseCodec:
        """Nothing to fit."""
        return cls(sample.local(1).shape[1])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> DenseCodec:
        """A tensor as wide as the descriptors."""
        return cls(_width(tensors["width"]))

    def tensors(self) -> dict[str, Tensor]:
        """A tensor as wide as the descriptors."""
        return {"width": torch.ones(self.width)}

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A row per cell."""
        return dense_counts(grids)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The descriptors."""
        return (densified(tokens, network).half().numpy(),)

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The same."""
        return stored.arrays

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Read."""
        return [
            Local(
                unit(torch.from_numpy(one.arrays[0].astype(np.float32)).to(network.device)),
                dense_cells(one.grid),
            )
            for one in stored
        ]

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Of what is read."""
        return densified_centres(self, stored, network)


@dataclass(frozen=True)
class KeypointCodec:
    """The local descriptors that are least like their photo's average, 8 bits a component.

    Attributes:
        keep: how many of each photo.
        width: components of a descriptor.
    """

    keep: int
    width: int
    kind: ClassVar[str] = "keypoint"
    DEFAULT_KEEP: ClassVar[int] = 240

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """Codes, scales, cells."""
        return {
            "codes.npy": (np.int8, self.width),
            "scales.npy": (np.float16, 0),
            "cells.npy": (np.uint32, 0),
        }

    @property
    def rank(self) -> int:
        """Descriptors kept."""
        return self.keep

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> KeypointCodec:
        """Nothing to fit."""
        return cls(rank or cls.DEFAULT_KEEP, sample.local(1).shape[1])

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> KeypointCodec:
        """Their number, and a tensor as wide as the descriptors."""
        keep = int(tensors["keep"].item())
        if not 1 <= keep <= 2**24:
            raise ValueError("it keeps an impossible number of descriptors")
        return cls(keep, _width(tensors["width"]))

    def tensors(self) -> dict[str, Tensor]:
        """Their number, and a tensor as wide as the descriptors."""
        return {"keep": torch.tensor([float(self.keep)]),
                "width": torch.ones(self.width)}  # fmt: skip

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """As many as are kept, where there are as many."""
        return np.minimum(dense_counts(grids), self.keep)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The most distinctive descriptors, in order of their cells."""
        dense = densified(tokens, network)
        likeness = dense @ dense.mean(dim=0)
        order = torch.sort(likeness, stable=True).indices[: self.keep]
        cells = order.sort().values
        return (*_bytes(dense[cells]), cells.numpy().astype(np.uint32))

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The same; the numbers kept must agree."""
        if other != self:
            raise OptionError("The indexes keep different numbers of keypoints of each photo.")
        return stored.arrays

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Read."""
        found = []
        for one in stored:
            codes, scales, cells = one.arrays
            grid = dense_cells(one.grid)
            if len(cells) and int(cells.max()) >= grid[0] * grid[1]:
                raise ValueError("cells.npy names cells outside the grid")
            descriptors = torch.from_numpy(codes.astype(np.float32))
            descriptors *= torch.from_numpy(scales.astype(np.float32))[:, None]
            where = torch.from_numpy(cells.astype(np.int64))
            found.append(Local(unit(descriptors.to(network.device)), grid, where))
        return found

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Of what is read."""
        return densified_centres(self, stored, network)


@dataclass(frozen=True, eq=False)
class ProductCodec:
    """Product-quantised local descriptors: each cut into parts, each part one of 256.

    Attributes:
        books: ``[m, 256, d/m]`` the parts to choose from.
    """

    books: Tensor
    kind: ClassVar[str] = "product"
    DEFAULT_PARTS: ClassVar[int] = 8
    ROUNDS: ClassVar[int] = 12

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """Codes."""
        return {"codes.npy": (np.uint8, len(self.books))}

    @property
    def rank(self) -> int:
        """Bytes a descriptor takes."""
        return len(self.books)

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> ProductCodec:
        """Lloyd's k-means in every part, from an even sample, so the same each time."""
        rank = rank or cls.DEFAULT_PARTS
        data = sample.local(SAMPLE).cpu().float()
        if data.shape[1] % rank:
            raise OptionError(
                f"The rank of a product code must divide {data.shape[1]}, not be {rank}."
            )
        return cls(torch.stack([_k_means(part) for part in data.chunk(rank, dim=1)]))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ProductCodec:
        """The books."""
        books = tensors["books"]
        if books.ndim != 3 or books.shape[1] != 256 or not books.numel():
            raise ValueError("its tensors do not fit together")
        return cls(books)

    def tensors(self) -> dict[str, Tensor]:
        """The books."""
        return {"books": self.books}

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A row per cell."""
        return dense_counts(grids)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The nearest parts."""
        return (self._encode(densified(tokens, network)),)

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The descriptors as the other code gives them back, coded by this one."""
        assert isinstance(other, ProductCodec)
        return (self._encode(other._decode(stored.arrays[0])),)

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Looked up."""
        return [
            Local(unit(self._decode(one.arrays[0]).to(network.device)), dense_cells(one.grid))
            for one in stored
        ]

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Of what is read."""
        return densified_centres(self, stored, network)

    def _encode(self, descriptors: Tensor) -> NDArray[np.uint8]:
        parts = descriptors.chunk(len(self.books), dim=1)
        near = [_nearest(part, book) for part, book in zip(parts, self.books, strict=True)]
        return torch.stack(near, dim=1).numpy().astype(np.uint8)

    def _decode(self, codes: NDArray[np.uint8]) -> Tensor:
        rows = torch.from_numpy(codes.astype(np.int64))
        return torch.cat([book[rows[:, i]] for i, book in enumerate(self.books)], dim=1)


def _width(tensor: Tensor) -> int:
    if tensor.ndim != 1 or not len(tensor):
        raise ValueError("its tensors do not fit together")
    return len(tensor)


def _bytes(components: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rows in 8 bits, and a scale for each; see ``TokenCodec.encode``."""
    largest = components.abs().amax(dim=1)
    scales = (largest / 127 * 1.001).clamp(min=SMALLEST_SCALE).half()
    codes = (components / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes.numpy(), scales.numpy()


def _nearest(data: Tensor, centres: Tensor) -> Tensor:
    """Which of the centres ``[k, d]`` is nearest to each of ``data [n, d]``."""
    half = centres.square().sum(dim=1) / 2
    # NumPy's argmax is several times as fast as torch's on a CPU.
    found = [(block @ centres.T - half).numpy().argmax(axis=1) for block in data.split(8192)]
    return torch.from_numpy(np.concatenate(found))


def _k_means(data: Tensor, count: int = 256) -> Tensor:
    """Centres ``[256, d]``; rows far apart in the sample are where it starts."""
    rows = torch.arange(count) * len(data) // count
    centres = data[rows].clone()
    for _ in range(ProductCodec.ROUNDS):
        near = _nearest(data, centres)
        sums = torch.zeros_like(centres).index_add_(0, near, data)
        sizes = torch.bincount(near, minlength=count)
        used = sizes > 0
        centres[used] = sums[used] / sizes[used, None]
    return centres
