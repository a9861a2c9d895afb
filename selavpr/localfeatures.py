"""Local features of one photo, and the interface of all ways of keeping them in an index."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selavpr.structs import Features, ModelConfig

SAMPLE = 65536
"""Tokens, or local descriptors, that settle a code, taken evenly from all photos."""

DENSIFY_BATCH = 10
"""Photos whose tokens are up-convolved at once."""

Arrays = tuple[NDArray[Any], ...]


class Network(Protocol):
    """What of the network reading and coding local features takes; ``SelaVPR`` is one."""

    config: ModelConfig

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def densify(self, tokens: Tensor) -> Tensor:
        """Local descriptors ``[B, 4h-3, 4w-3, d]`` from tokens ``[B, h, w, C]``."""

    def project(self, tokens: Tensor) -> Tensor:
        """Local descriptors ``[..., d]`` at the centres of tokens ``[..., C]``."""

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

    @classmethod
    def at_centres(cls, descriptors: Tensor, tokens: tuple[int, int]) -> Local:
        """Of descriptors ``[h * w, d]`` at the centres of ``(h, w)`` tokens."""
        grid = dense_cells(tokens)
        return cls(
            descriptors, grid, torch.arange(grid[0] * grid[1]).reshape(grid)[::4, ::4].flatten()
        )

    @classmethod
    def of_tokens(cls, tokens: Tensor, network: Network) -> Local:
        """Of tokens ``[h, w, C]``, at their centres, on the network's device."""
        projected = network.project(tokens.flatten(0, 1).to(network.device))
        return cls.at_centres(projected, (tokens.shape[0], tokens.shape[1]))

    @property
    def places(self) -> Tensor:
        """Where they look: ``[N, 2]`` float32 (x, y) from the photo's middle, on the CPU.

        The unit is the root of the photo's area, so that photos of any shape and size compare.
        """
        height, width = self.grid
        cells = torch.arange(height * width) if self.cells is None else self.cells.cpu()
        middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
        # A grid of 4w - 3 columns has w tokens.
        side = math.sqrt((width + 3) * (height + 3))
        return (torch.stack([cells % width, cells // width], dim=-1) - middle) / side

    @property
    def centres(self) -> Local:
        """Those at the centres of tokens, or all where only some are known."""
        if self.cells is not None:
            return self
        height, width = self.grid
        every_fourth = self.descriptors.reshape(height, width, -1)[::4, ::4].flatten(0, 1)
        return Local.at_centres(every_fourth, (height // 4 + 1, width // 4 + 1))

    def cell(self, rows: Tensor) -> Tensor:
        """Cells of the dense grid, for rows of ``descriptors``."""
        return rows if self.cells is None else self.cells.to(rows.device)[rows]


class Sample(Protocol):
    """Features of the photos an index will hold, to fit a code to.

    Attributes:
        per_photo: tokens of a photo, on average.
    """

    @property
    def per_photo(self) -> float:
        """See the class."""

    def tokens(self, count: int) -> Tensor:
        """About so many tokens ``[n, C]`` float32, evenly from all photos."""

    def local(self, count: int) -> Tensor:
        """About so many local descriptors ``[n, d]``, evenly from all photos."""

    def scored(self, tokens: Tensor) -> Tensor | None:
        """What re-ranking makes of tokens ``[n, C]`` and compares, ``[n, d]``.

        None where it compares descriptors between the tokens, too.
        """


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

    def centres(self, stored: Sequence[Stored], network: Network) -> list[Local]:
        """Their ``Local.centres``, in a shorter way where there is one."""


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


def dense_counts(grids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Local descriptors of photos of these token grids ``[n, 2]``."""
    return np.asarray((4 * grids - 3).prod(axis=1), dtype=np.int64)


def unit(descriptors: Tensor) -> Tensor:
    """Of unit length, where coding has changed it."""
    return torch.nn.functional.normalize(descriptors, dim=-1)


def densified_centres(codec: Codec, stored: Sequence[Stored], network: Network) -> list[Local]:
    """``Codec.centres`` of codes that know no shorter way."""
    return [one.centres for one in codec.local(stored, network)]


def densify_each(
    photos: Sequence[int],
    grid: Callable[[int], tuple[int, int]],
    tokens: Callable[[int], Tensor],
    network: Network,
) -> list[Local]:
    """Local descriptors of photos, in their order, on the network's device.

    Args:
        photos: their numbers.
        grid: number to rows and columns of tokens.
        tokens: number to tokens ``[h, w, C]``; called once for each, a few of one grid at a time.
        network: up-convolves them.
    """
    grids: dict[tuple[int, int], list[int]] = {}
    for i in photos:
        grids.setdefault(grid(i), []).append(i)
    found: dict[int, Local] = {}
    for shape, members in grids.items():
        for start in range(0, len(members), DENSIFY_BATCH):
            some = members[start : start + DENSIFY_BATCH]
            batch = torch.stack([tokens(i) for i in some]).to(network.device)
            dense = network.densify(batch).flatten(1, 2)
            found |= {i: Local(x, dense_cells(shape)) for i, x in zip(some, dense, strict=True)}
    return [found[i] for i in photos]


@torch.inference_mode()
def densified(tokens: Tensor, network: Network) -> Tensor:
    """Local descriptors ``[N, d]`` float32 on the CPU, of tokens ``[h, w, C]``."""
    dense = network.densify(tokens[None].float().to(network.device))[0]
    return dense.flatten(0, 1).float().cpu()
