"""Ways of keeping local features in an index, behind one interface; the builder chooses.

======== ================================================== ======================================
kind     what is stored of a photo                          at query time
======== ================================================== ======================================
tokens   principal components of its tokens, 8 bits each    decoded, up-convolved (``codec``)
dense    its local descriptors in float16                   read
keypoint the most distinctive local descriptors, 8 bits     read, with their positions
product  every local descriptor, product-quantised          looked up in the code books
none     nothing                                            extracted anew from the stored photo
======== ================================================== ======================================

A code belongs to its index: fitted once, kept in ``codec.safetensors``, and used for photos added
later. ``benchmarks/storage.py`` measures bytes against recall for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selavpr.codec import SMALLEST_SCALE, TokenCodec
from selavpr.errors import OptionError
from selavpr.structs import Features

DENSIFY_BATCH = 10
"""Photos whose tokens are up-convolved at once."""

SAMPLE = 65536
"""Tokens, or local descriptors, that settle a code, taken evenly from all photos."""

Arrays = tuple[NDArray[Any], ...]


class Network(Protocol):
    """What of the network reading and coding local features takes; ``SelaVPR`` is one."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def densify(self, tokens: Tensor) -> Tensor:
        """Local descriptors ``[B, 4h-3, 4w-3, d]`` from tokens ``[B, h, w, C]``."""

    def extract_each(self, photos: Sequence[Image.Image], *, local: bool = False) -> list[Features]:
        """Features of photos."""


@dataclass(frozen=True)
class Stored:
    """What an index holds of one photo.

    Attributes:
        grid: rows and columns of tokens.
        arrays: the photo's part of each of the codec's arrays.
        photo: opens the stored photo.
    """

    grid: tuple[int, int]
    arrays: Arrays
    photo: Callable[[], Image.Image]


@dataclass(frozen=True)
class Local:
    """Local descriptors of one photo.

    Attributes:
        descriptors: ``[N, d]`` of unit norm.
        grid: rows and columns of the dense grid they are from.
        cells: ``[N]`` int64, which cells of the grid; None when it is all of them, in order.
    """

    descriptors: Tensor
    grid: tuple[int, int]
    cells: Tensor | None = None

    def cell(self, rows: Tensor) -> Tensor:
        """Cells of the dense grid, for rows of ``descriptors``."""
        return rows if self.cells is None else self.cells.to(rows.device)[rows]


class Sample(Protocol):
    """Features of the photos an index will hold, to fit a code to."""

    def tokens(self, count: int) -> Tensor:
        """About so many tokens ``[n, C]`` float32, evenly from all photos."""

    def local(self, count: int) -> Tensor:
        """About so many local descriptors ``[n, d]``, evenly from all photos."""


class Codec(Protocol):
    """One way of keeping local features.

    Attributes:
        kind: its name.
        arrays: the files it fills: name, element type, columns (0 for a plain list). All have a
            row per feature, one photo after another.
        rank: columns of the first of them; for people.
    """

    kind: ClassVar[str]

    @property
    def arrays(self) -> Mapping[str, tuple[type[np.generic], int]]:
        """See the class."""

    @property
    def rank(self) -> int:
        """See the class."""

    @classmethod
    def fitted(cls, sample: Sample, rank: int | None) -> Codec:
        """A code for photos like these; OptionError when the rank does not fit."""

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Codec:
        """From what ``tensors`` gave; KeyError or ValueError when they do not fit together."""

    def tensors(self) -> dict[str, Tensor]:
        """What to keep of the code."""

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows that photos of these token grids ``[n, 2]`` take in the arrays."""

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The rows of a photo with tokens ``[h, w, C]``."""

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The rows of a photo that another code of this kind stored."""

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Local descriptors of photos, on the network's device; ValueError when damaged."""


def same(one: Codec, other: Codec) -> bool:
    """Whether two codes are equal, so that their rows may stand side by side."""
    mine, theirs = one.tensors(), other.tensors()
    return (
        one.kind == other.kind
        and mine.keys() == theirs.keys()
        and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    )


def dense_cells(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of local descriptors of a grid of tokens."""
    return 4 * grid[0] - 3, 4 * grid[1] - 3


def _dense_counts(grids: NDArray[np.int64]) -> NDArray[np.int64]:
    return (4 * grids - 3).prod(axis=1)  # type: ignore[no-any-return]


def _unit(descriptors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(descriptors, dim=-1)


def _bytes(components: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Rows in 8 bits, and a scale for each; see ``TokenCodec.encode``."""
    largest = components.abs().amax(dim=1)
    scales = (largest / 127 * 1.001).clamp(min=SMALLEST_SCALE).half()
    codes = (components / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes.numpy(), scales.numpy()


@dataclass(frozen=True, eq=False)
class TokensCodec:
    """Principal components of tokens, 8 bits each."""

    code: TokenCodec
    kind: ClassVar[str] = "tokens"
    DEFAULT_RANK: ClassVar[int] = 96

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
        return cls(TokenCodec.fit(tokens, min(rank or cls.DEFAULT_RANK, *tokens.shape)))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TokensCodec:
        """Mean and basis."""
        mean, basis = tensors["mean"], tensors["basis"]
        if mean.ndim != 1 or basis.ndim != 2 or basis.shape[1] != len(mean) or not basis.numel():
            raise ValueError("its tensors do not fit together")
        return cls(TokenCodec(mean, basis))

    def tensors(self) -> dict[str, Tensor]:
        """Mean and basis."""
        return {"mean": self.code.mean, "basis": self.code.basis}

    def counts(self, grids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A row per token."""
        return grids.prod(axis=1)  # type: ignore[no-any-return]

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
        groups: dict[tuple[int, int], list[int]] = {}
        for i, one in enumerate(stored):
            groups.setdefault(one.grid, []).append(i)
        found: dict[int, Local] = {}
        for grid, members in groups.items():
            for start in range(0, len(members), DENSIFY_BATCH):
                some = members[start : start + DENSIFY_BATCH]
                tokens = torch.stack([self.tokens(stored[i]) for i in some]).to(network.device)
                dense = network.densify(tokens).flatten(1, 2)
                found |= {i: Local(x, dense_cells(grid)) for i, x in zip(some, dense, strict=True)}
        return [found[i] for i in range(len(stored))]


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
        return _dense_counts(grids)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The descriptors."""
        return (_densified(tokens, network).half().numpy(),)

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The same."""
        return stored.arrays

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Read."""
        return [
            Local(
                _unit(torch.from_numpy(one.arrays[0].astype(np.float32)).to(network.device)),
                dense_cells(one.grid),
            )
            for one in stored
        ]


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
        return np.minimum(_dense_counts(grids), self.keep)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The most distinctive descriptors, in order of their cells."""
        dense = _densified(tokens, network)
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
            found.append(Local(_unit(descriptors.to(network.device)), grid, where))
        return found


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
        return _dense_counts(grids)

    def coded(self, tokens: Tensor, network: Network) -> Arrays:
        """The nearest parts."""
        return (self._encode(_densified(tokens, network)),)

    def recoded(self, stored: Stored, other: Codec) -> Arrays:
        """The descriptors as the other code gives them back, coded by this one."""
        assert isinstance(other, ProductCodec)
        return (self._encode(other._decode(stored.arrays[0])),)

    def local(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Looked up."""
        return [
            Local(_unit(self._decode(one.arrays[0]).to(network.device)), dense_cells(one.grid))
            for one in stored
        ]

    def _encode(self, descriptors: Tensor) -> NDArray[np.uint8]:
        parts = descriptors.chunk(len(self.books), dim=1)
        near = [_nearest(part, book) for part, book in zip(parts, self.books, strict=True)]
        return torch.stack(near, dim=1).numpy().astype(np.uint8)

    def _decode(self, codes: NDArray[np.uint8]) -> Tensor:
        rows = torch.from_numpy(codes.astype(np.int64))
        return torch.cat([book[rows[:, i]] for i, book in enumerate(self.books)], dim=1)


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


CODECS: Mapping[str, type[Codec]] = {
    codec.kind: codec for codec in (TokensCodec, DenseCodec, KeypointCodec, ProductCodec, NoCodec)
}
"""By kind."""


def _width(tensor: Tensor) -> int:
    if tensor.ndim != 1 or not len(tensor):
        raise ValueError("its tensors do not fit together")
    return len(tensor)


@torch.inference_mode()
def _densified(tokens: Tensor, network: Network) -> Tensor:
    """Local descriptors ``[N, d]`` float32 on the CPU, of tokens ``[h, w, C]``."""
    dense = network.densify(tokens[None].float().to(network.device))[0]
    return dense.flatten(0, 1).float().cpu()


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
