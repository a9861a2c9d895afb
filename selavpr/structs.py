"""The values that travel between the modules: configuration, features, matches.

All are frozen dataclasses. Tensors inside them are never written to after construction.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from selavpr.errors import OptionError
from selavpr.geo import Location

PATCH = 14
"""Side of a DINOv2 patch in input pixels; each patch becomes one token."""

MAX_INPUT = 2044
"""Largest input side: attention over 146 x 146 tokens already takes gigabytes."""

LEAST_SCALE = 0.25
"""Smallest share of its input size that a model looks at a query in; the largest is its inverse."""

Resize = Literal["squash", "keep-aspect"]
Scoring = Literal["count", "expected"]

ASKING: Mapping[str, Any] = {"query_scales": (), "agreement": False}
"""Options of the model that an index does not depend on, but a calibration does; as they are where
nothing is said of them, and always where matches are counted."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value from a file is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # Not isfinite, which fails for a whole number beyond any float, as JSON may hold.
    return abs(value) <= sys.float_info.max


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the network and of the pictures it takes. A reason stands beside each field.

    Raises:
        OptionError: a field is outside its domain.
    """

    width: int  # channels of a token: 384, 768, 1024 for ViT-S, -B, -L
    depth: int  # blocks that are run; may be fewer than the backbone has
    heads: int  # attention heads; DINOv2 uses 64 channels a head
    registers: int = 0  # 4 for the reg4 backbones, whose attention maps are cleaner
    adapter_scale: float = 0.2  # weight of the parallel adapter (paper, eq. 5: s = 0.2)
    local_hidden: int = 256  # channels between the two up-convolutions
    local_dim: int = 128  # channels of a local descriptor
    input_size: int = 224  # side of the network input in pixels, a multiple of 14
    resize: Resize = "squash"  # reference: to a square; keep-aspect: same area, photo's shape
    antialias: bool = False  # reference evaluation: off; on keeps fine texture from aliasing
    scoring: Scoring = "count"  # re-rank by mutual matches counted (paper), or by those expected
    # Further sizes a query is looked at in, in shares of input_size, their expected matches
    # averaged: lenses differ, and with them the size of things. References are looked at in one.
    query_scales: tuple[float, ...] = ()
    # Whether expected matches count for more that lie alike in both photos (see alignment). It asks
    # nothing of the network, and the paper's count does without.
    agreement: bool = False

    def __post_init__(self) -> None:
        """Check every field once, so that nothing downstream has to."""
        for name in ("width", "depth", "heads", "local_hidden", "local_dim", "input_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} must be a positive whole number, not {value!r}.")
        if isinstance(self.registers, bool) or not isinstance(self.registers, int):
            raise OptionError(f"registers must be a whole number, not {self.registers!r}.")
        if self.registers < 0:
            raise OptionError(f"registers must be 0 or more, not {self.registers}.")
        if self.width % self.heads or self.width % 2:
            raise OptionError(
                f"width must be even and divisible by heads; {self.width} with {self.heads} is not."
            )
        if self.input_size % PATCH or self.input_size > MAX_INPUT:
            raise OptionError(
                f"input_size must be a multiple of {PATCH} up to {MAX_INPUT}, "
                f"not {self.input_size}."
            )
        if self.resize not in ("squash", "keep-aspect"):
            raise OptionError(f"resize must be 'squash' or 'keep-aspect', not {self.resize!r}.")
        if self.scoring not in ("count", "expected"):
            raise OptionError(f"scoring must be 'count' or 'expected', not {self.scoring!r}.")
        for name in ("antialias", "agreement"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        if not is_number(self.adapter_scale):
            raise OptionError(
                f"adapter_scale must be a number, and finite, not {self.adapter_scale!r}."
            )
        scales = self.query_scales
        if not isinstance(scales, tuple) or not all(
            is_number(scale) and LEAST_SCALE <= scale <= 1 / LEAST_SCALE for scale in scales
        ):
            raise OptionError(
                f"query_scales must be numbers from {LEAST_SCALE:g} to {1 / LEAST_SCALE:g}, "
                f"not {scales!r}."
            )
        if scales and self.scoring == "count":
            raise OptionError("query_scales need the scoring 'expected'; counts do not add up.")
        if self.agreement and self.scoring == "count":
            raise OptionError("agreement needs the scoring 'expected'; counts are of all matches.")
        for scale in scales:
            self.at_scale(scale)

    @property
    def asking(self) -> dict[str, Any]:
        """How queries are looked at and candidates ordered; references are made alike by any."""
        return {name: getattr(self, name) for name in ASKING}

    def at_scale(self, scale: float) -> ModelConfig:
        """The same, but for photos looked at in another size.

        Args:
            scale: share of ``input_size``; the product is taken to the nearest patch.

        Raises:
            OptionError: the size is out of range.
        """
        size = max(1, round(self.input_size * scale / PATCH)) * PATCH
        return dataclasses.replace(self, input_size=size, query_scales=())

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ModelConfig:
        """The configuration of a known backbone, for example ``"vit-l"`` or ``"vit-s-reg4"``.

        Args:
            name: one of ``PRESETS``.
            **changes: fields to replace, for example ``depth=9, input_size=322``.
        """
        try:
            fields = PRESETS[name]
        except KeyError:
            known = ", ".join(PRESETS)
            raise OptionError(f"No preset is called {name!r}; there are {known}.") from None
        return cls.from_dict({**fields, **changes})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelConfig:
        """The inverse of ``dataclasses.asdict``; unknown or missing fields are errors."""
        if not isinstance(fields, Mapping):
            raise OptionError(f"Model options must be a table of names, not {fields!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise OptionError(f"Unknown model option: {', '.join(unknown)}.")
        scales = fields.get("query_scales", ())
        if isinstance(scales, list):  # as JSON and TOML have it
            fields = {**fields, "query_scales": tuple(scales)}
        try:
            return cls(**fields)
        except TypeError as error:
            raise OptionError(f"The model options are incomplete: {error}.") from error


PRESETS: dict[str, dict[str, int]] = {
    f"vit-{letter}{suffix}": dict(width=width, depth=depth, heads=heads, registers=registers)
    for letter, width, depth, heads in (("s", 384, 12, 6), ("b", 768, 12, 12), ("l", 1024, 24, 16))
    for suffix, registers in (("", 0), ("-reg4", 4))
}
"""Backbones by name: DINOv2 ViT-S, -B, -L with patch 14, with and without 4 registers."""


@dataclass(frozen=True)
class Features:
    """What the network sees in B photos of one shape.

    Attributes:
        descriptor: ``[B, D]`` global descriptors, unit L2 norm.
        tokens: ``[B, h, w, C]`` patch tokens after the last norm, not normalised.
        local: ``[B, 4h-3, 4w-3, d]`` local descriptors, unit L2 norm; None where not asked for.
    """

    descriptor: Tensor
    tokens: Tensor
    local: Tensor | None = None

    def __len__(self) -> int:
        """Number of photos."""
        return self.descriptor.shape[0]

    def __getitem__(self, rows: int | slice) -> Features:
        """The features of some of the photos; a number keeps the batch axis."""
        if not isinstance(rows, slice):
            row = range(len(self))[operator.index(rows)]  # IndexError, and negatives, as in a list
            rows = slice(row, row + 1)
        local = None if self.local is None else self.local[rows]
        return Features(self.descriptor[rows], self.tokens[rows], local)

    def __iter__(self) -> Iterator[Features]:
        """One photo at a time, each with its batch axis."""
        return (self[i] for i in range(len(self)))

    def to(self, *args: Any, **kwargs: Any) -> Features:
        """Like ``Tensor.to``, for every tensor."""
        local = None if self.local is None else self.local.to(*args, **kwargs)
        return Features(self.descriptor.to(*args, **kwargs), self.tokens.to(*args, **kwargs), local)

    @staticmethod
    def cat(parts: list[Features]) -> Features:
        """Join batches of the same shape along the batch axis.

        Raises:
            OptionError: the parts are empty or differ in shape.
        """
        if not parts:
            raise OptionError("There is nothing to join: give at least one photo.")
        if len({(part.tokens.shape[1:], part.descriptor.shape[1:]) for part in parts}) > 1:
            raise OptionError(
                "Photos of different shapes do not fit in one batch when their aspect is kept; "
                "use extract_each, or a model whose resize is 'squash'."
            )
        local = [part.local for part in parts]
        return Features(
            torch.cat([part.descriptor for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([x for x in local if x is not None]) if None not in local else None,
        )


@dataclass(frozen=True)
class Matches:
    """Mutual nearest neighbours between a query and a candidate, in query order.

    Attributes:
        query: ``[M]`` int64, rows of the query's descriptors, ascending.
        candidate: ``[M]`` int64, rows of the candidate's descriptors, each at most once.
        similarity: ``[M]`` float32 inner products.
    """

    query: Tensor
    candidate: Tensor
    similarity: Tensor

    def __len__(self) -> int:
        """Number of matches."""
        return self.query.shape[0]

    def top(self, count: int) -> Matches:
        """The ``count`` most similar matches, most similar first, ties by query row."""
        order = torch.sort(self.similarity, descending=True, stable=True).indices[: max(count, 0)]
        return Matches(self.query[order], self.candidate[order], self.similarity[order])


@dataclass(frozen=True)
class Place:
    """A reference photo of an index and where it was taken.

    Attributes:
        place_id: unique in its index.
        image: path of the stored photo inside the index folder, with forward slashes; or empty.
        location: where the camera stood.
        heading: degrees clockwise from true north, 0 to 360; None where unknown.
        captured_at: ISO 8601 date or time; empty where unknown.
        street: street or label to show; empty where unknown.
        credit: author to name; empty where none.
        licence: licence of the photo; empty where unknown.
    """

    place_id: str
    image: str
    location: Location
    heading: float | None = None
    captured_at: str = ""
    street: str = ""
    credit: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Candidate:
    """A reference photo that may show the place of the query.

    Attributes:
        place: what the index knows of it.
        row: its row in the index.
        global_rank: 1 for the most similar global descriptor.
        rank: 1 for the best after re-ranking; the same as ``global_rank`` without it.
        similarity: cosine of the global descriptors, -1 to 1.
        matches: what re-ranking orders by, but for a narrow lead (see ``locating.foremost``); None
            where not re-ranked. Mutual nearest neighbours of local features: counted, exactly for
            the leading candidates and estimated for the rest (see ``matching.count_mutual``), or
            expected (see ``matching.expect_mutual``).
    """

    place: Place
    row: int
    global_rank: int
    rank: int
    similarity: float
    matches: float | None = None

    @property
    def matches_text(self) -> str:
        """For people: "1,203" where counted, "7.8" where expected, "-" where not re-ranked."""
        if self.matches is None:
            return "-"
        return f"{self.matches:,}" if isinstance(self.matches, int) else f"{self.matches:,.1f}"


@dataclass(frozen=True)
class Estimate:
    """Where a photo was taken, and how sure that is.

    Attributes:
        location: the fused position.
        radius50_m: half of the true positions lie within this many metres; None if uncalibrated.
        radius90_m: nine tenths lie within this many metres; None if uncalibrated.
        confidence: probability that the photo shows the indexed city, 0 to 1; None if uncalibrated.
        verdict: ``"sure"``, ``"probably"``, ``"unsure"`` or ``"not here"``.
        street: label of the place nearest to the position; empty where unknown.
        right: probability that the position is within 25 m of the truth; None if uncalibrated.
    """

    location: Location
    radius50_m: float | None
    radius90_m: float | None
    confidence: float | None
    verdict: Literal["sure", "probably", "unsure", "not here"]
    street: str = ""
    right: float | None = None


@dataclass(frozen=True)
class Recognition:
    """The answer to one photo.

    Attributes:
        photo_size: ``(width, height)`` of the photo in pixels, upright.
        candidates: the first, in order of ``rank``.
        location: the answer after both stages.
        global_location: the answer of the first stage alone: its top candidate.
        features: of the photo, kept for drawing matches and heat-maps.
        timings_ms: stage name to milliseconds, in the order the stages ran.
        fallen: those that the first stage put as far in front, and the second behind
            ``candidates``, in order of ``global_rank``.
        settled: how many of the first candidates the answer was made of; 0 for all.
        reranked: how many were re-ranked, those beside the best among them.
    """

    photo_size: tuple[int, int]
    candidates: tuple[Candidate, ...]
    location: Estimate
    global_location: Location
    features: Features
    timings_ms: Mapping[str, float]
    fallen: tuple[Candidate, ...] = ()
    settled: int = 0
    reranked: int = 0

    @property
    def either(self) -> tuple[Candidate, ...]:
        """What either stage put in front: ``candidates``, and then ``fallen``."""
        return (*self.candidates, *self.fallen)

    @property
    def by_global_rank(self) -> tuple[Candidate, ...]:
        """As many as ``candidates``, as the first stage alone would give them."""
        ordered = sorted(self.either, key=lambda c: c.global_rank)
        return tuple(ordered[: len(self.candidates)])


@dataclass(frozen=True)
class KeypointMatches:
    """Matches as positions in two photos, for drawing; most similar first.

    Attributes:
        query: ``[M, 2]`` float32 (x, y) in the query photo's pixels.
        candidate: ``[M, 2]`` float32 (x, y) in the reference photo's pixels.
        similarity: ``[M]`` float32.
        agrees: ``[M]`` bool, true where the match fits the geometry most matches agree on.
    """

    query: Tensor
    candidate: Tensor
    similarity: Tensor
    agrees: Tensor
