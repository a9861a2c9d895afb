"""What to learn from next: photos of one place, and the strangers most easily taken for it.

A ``Town`` holds where and which way every training photo looks. Batches are drawn from it with the
help of descriptors computed a moment ago: by the paper's triplets, or by whole places.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selavpr.errors import OptionError

Mining = Literal["full", "partial", "random"]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Floats = NDArray[np.floating[Any]]

EVERYONE = slice(None)
"""All photos of a town, without a copy of what is known of them."""


@dataclass(frozen=True)
class Batch:
    """Photos to show together.

    Attributes:
        rows: ``[B]`` int64, photos of the town.
        same: ``[B, B]`` bool, pairs to pull together; see ``losses``.
        different: ``[B, B]`` bool, pairs to push apart.
    """

    rows: Rows
    same: Mask
    different: Mask


@dataclass(frozen=True)
class Town:
    """Where the photos of a training set were taken.

    Attributes:
        position: ``[n, 2]`` or ``[n, 3]`` float64 metres, of all photos in one frame.
        heading: ``[n]`` degrees clockwise from north; NaN where unknown.
        world: ``[n]`` int64. Photos of different worlds (two cities; or the same streets rendered
            with other facades) never show one place, and are strangers only where their positions
            differ, too: a street of the same shape with other facades says nothing.
        positive_m: photos at most this far apart may show one place.
        positive_degrees: and whose headings differ by no more than this, where both are known.
        negative_m: photos farther apart than this are strangers; between the two nothing is said.
        queries: rows that serve as anchors; None for all.
        references: rows that serve as positives and strangers; None for all.

    Raises:
        OptionError: the arrays do not fit together, or a distance is not in order.
    """

    position: NDArray[np.float64]
    heading: NDArray[np.float64]
    world: NDArray[np.int64]
    positive_m: float = 10.0
    positive_degrees: float = 180.0
    negative_m: float = 25.0
    queries: Rows | None = None
    references: Rows | None = None
    _is_reference: Mask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check once what everything below relies on."""
        n = len(self.position)
        if self.position.ndim != 2 or {len(self.heading), len(self.world)} != {n}:
            raise OptionError("Positions must be [n, 2] or [n, 3], headings and worlds [n].")
        if not np.isfinite(self.position).all():
            raise OptionError("Every training photo needs a position.")
        if not 0 < self.positive_m <= self.negative_m:
            raise OptionError(
                f"positive_m must be above 0 and at most negative_m, not {self.positive_m} and "
                f"{self.negative_m}."
            )
        mask = np.zeros(n, bool)
        mask[np.arange(n) if self.references is None else self.references] = True
        object.__setattr__(self, "_is_reference", mask)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.position)

    @functools.cached_property
    def anchors(self) -> Rows:
        """Rows that may be anchors: queries that have a positive."""
        rows = np.arange(len(self)) if self.queries is None else self.queries
        # All photos against all would take hours for half a million.
        cells = np.floor(self.position / self.positive_m).astype(np.int64).tolist()
        inside: dict[tuple[int, ...], list[int]] = {}
        for row, cell in enumerate(cells):
            inside.setdefault(tuple(cell), []).append(row)
        steps = list(itertools.product((-1, 0, 1), repeat=self.position.shape[1]))

        def around(row: int) -> Rows:
            where = (tuple(map(operator.add, cells[row], step)) for step in steps)
            near = (i for cell in where for i in inside.get(cell, ()) if i != row)
            return np.fromiter(near, dtype=np.int64)

        found = [i for i in rows if self._alike(int(i), around(int(i))).any()]
        return np.array(found, dtype=np.int64)

    def positives(self, row: int) -> Mask:
        """``[n]``: references that may show the place of a photo; never the photo itself."""
        mask = self._alike(row, EVERYONE)
        mask[row] = False
        return mask

    def _alike(self, row: int, others: Rows | slice) -> Mask:
        """Which of them may show a photo's place; the photo itself does, if it is a reference."""
        mask: Mask = self._squared_m(row, others) <= self.positive_m**2
        turn = np.abs((self.heading[others] - self.heading[row] + 180) % 360 - 180)
        # A heading that is unknown is NaN, which is not greater than anything.
        mask &= ~(turn > self.positive_degrees) & (self.world[others] == self.world[row])
        mask &= self._is_reference[others]
        return mask

    def doubtful(self, row: int) -> Mask:
        """``[n]``: photos that may look another way than this one, as a heading is unknown."""
        mask: Mask = np.isnan(self.heading) | np.isnan(self.heading[row])
        return mask

    def strangers(self, row: int) -> Mask:
        """``[n]``: references that surely show another place."""
        far: Mask = self._squared_m(row, EVERYONE) > self.negative_m**2
        return far & self._is_reference

    def masks(self, rows: Rows, others: Rows) -> tuple[Mask, Mask]:
        """What is sure, ``[B, C]`` each: which others show a photo's place, and which another.

        Without headings nothing is sure of photos taken side by side.
        """
        offset = self.position[rows][:, None] - self.position[others]
        squared = np.einsum("bcd,bcd->bc", offset, offset)
        turn = np.abs((self.heading[others] - self.heading[rows][:, None] + 180) % 360 - 180)
        offered = self._is_reference[others]
        # An unknown heading is NaN, which is not less than anything.
        same = (squared <= self.positive_m**2) & (turn <= self.positive_degrees) & offered
        same &= (self.world[rows][:, None] == self.world[others]) & (rows[:, None] != others)
        return same, (squared > self.negative_m**2) & offered

    def _squared_m(self, row: int, others: Rows | slice) -> NDArray[np.float64]:
        offset = self.position[others] - self.position[row]
        squared: NDArray[np.float64] = np.einsum("nd,nd->n", offset, offset)
        return squared


def to_describe(
    town: Town, mining: Mining, rng: np.random.Generator, queries: int = 1000, pool: int = 1000
) -> tuple[Rows, Rows]:
    """Which photos need fresh descriptors for the next round of triplets.

    Args:
        town: the photos.
        mining: ``"full"`` compares every anchor with every reference, ``"partial"`` a random
            sample of both (the reference implementation's choice), ``"random"`` needs none but
            the positives.
        rng: the source of chance.
        queries: anchors of the round.
        pool: references that negatives are mined from.

    Returns:
        ``(anchors, pool)``, rows of the town; besides them the anchors' positives are compared.

    Raises:
        OptionError: an unknown way of mining, or no photo has another of its place.
    """
    if mining not in ("full", "partial", "random"):
        raise OptionError(f"mining must be full, partial or random, not {mining!r}.")
    anchors = town.anchors
    if not len(anchors):
        raise OptionError(
            f"No training photo has another within {town.positive_m:g} m that looks the same way."
        )
    references = np.nonzero(town._is_reference)[0]
    anchors = rng.permutation(anchors)[: queries or None]
    if mining == "full":
        return anchors, references
    return anchors, np.sort(rng.permutation(references)[:pool])


def triplets(
    town: Town,
    anchors: Rows,
    pool: Rows,
    descriptors: Floats | None,
    rng: np.random.Generator,
    negatives: int = 2,
) -> list[tuple[int, int, Rows]]:
    """The paper's training examples: an anchor, its best positive, its hardest negatives.

    The positive is the one nearest in feature space, since of photos around a place only some look
    its way (NetVLAD, and the reference implementation); so are the negatives, among the pool.

    Args:
        town: the photos.
        anchors: rows.
        pool: rows that negatives are taken from.
        descriptors: ``[n, D]`` of unit norm, rows of the town; None draws at random.
        rng: used where there are no descriptors.
        negatives: how many.

    Returns:
        ``(anchor, positive, negatives)``; anchors with fewer strangers are left out.
    """
    out = []
    for anchor in anchors:
        positives = np.nonzero(town.positives(int(anchor)))[0]
        strangers = pool[town.strangers(int(anchor))[pool]]
        if not len(positives) or len(strangers) < negatives:
            continue
        if descriptors is None:
            chosen = rng.permutation(strangers)[:negatives]
            out.append((int(anchor), int(rng.choice(positives)), chosen))
            continue
        own = descriptors[anchor]
        positive = positives[np.argmax(descriptors[positives] @ own)]
        order = np.argsort(-(descriptors[strangers] @ own), kind="stable")
        out.append((int(anchor), int(positive), strangers[order[:negatives]]))
    return out


def triplet_batches(examples: Sequence[tuple[int, int, Rows]], size: int) -> list[Batch]:
    """Join triplets, ``size`` at a time; each compares its anchor with its own others only.

    What is left at the end makes no batch, as its few triplets would weigh more than others do.
    """
    batches = []
    for start in range(0, len(examples) - size + 1, size):
        rows: list[int] = []
        pairs: list[tuple[int, int, bool]] = []
        for anchor, positive, negatives in examples[start : start + size]:
            first = len(rows)
            rows += [anchor, positive, *(int(n) for n in negatives)]
            pairs += [(first, first + j, j == 1) for j in range(1, 2 + len(negatives))]
        same = np.zeros((len(rows), len(rows)), bool)
        different = np.zeros_like(same)
        for i, j, is_same in pairs:
            (same if is_same else different)[i, j] = True
        batches.append(Batch(np.array(rows, dtype=np.int64), same, different))
    return batches


def place_batches(
    town: Town,
    places: int,
    views: int,
    rng: np.random.Generator,
    descriptors: Floats | None = None,
    described: Rows | None = None,
) -> Iterator[Batch]:
    """Batches of whole places, so that every photo is compared with every other one.

    A batch begins with a random anchor and takes the anchors that look most like it but are
    strangers (two thirds of the batch; the rest is random), each with further views of its place.
    Every anchor opens or joins a batch about once a round. Where a heading is unknown, the photo
    that looks most like the anchor is taken for a view of its place, and no other.

    Args:
        town: the photos.
        places: places in a batch.
        views: photos of each; a place with fewer gives all it has.
        rng: the source of chance.
        descriptors: ``[n, D]`` of unit norm; None fills batches at random.
        described: rows of which descriptors are known; None for all.

    Yields:
        Batches, made as they are asked for.
    """
    waiting = rng.permutation(town.anchors)
    known = np.zeros(len(town), bool)
    known[np.arange(len(town)) if described is None else described] = True
    if descriptors is not None:
        waiting = waiting[known[waiting] | ~np.isnan(town.heading[waiting])]
    while len(waiting) >= places:
        first = waiting[-1]
        free = town.strangers(first)  # of every place chosen so far
        chosen = [int(first)]
        alike = waiting[free[waiting] & known[waiting]]
        if descriptors is not None and known[first]:
            alike = alike[np.argsort(-(descriptors[alike] @ descriptors[first]), kind="stable")]
            _choose(chosen, alike, places - places // 3, free, town)
        _choose(chosen, rng.permutation(waiting), places, free, town)
        rows: list[int] = []
        guessed: list[tuple[int, int]] = []
        for row in chosen:
            doubtful = town.positives(row) & town.doubtful(row)
            sure = np.nonzero(town.positives(row) & ~doubtful)[0]
            guess = _most_alike(row, np.nonzero(doubtful)[0], rng, descriptors, known)
            others = rng.permutation(np.concatenate([sure, guess]))
            fresh = [int(o) for o in others if int(o) not in rows and int(o) not in chosen]
            rows += [row, *fresh[: views - 1]]
            guessed += [(row, int(other)) for other in guess if int(other) in rows]
        waiting = waiting[~np.isin(waiting, rows)]
        batch = np.array(rows, dtype=np.int64)
        same, different = town.masks(batch, batch)
        for row, other in guessed:
            i, j = rows.index(row), rows.index(other)
            same[i, j] = same[j, i] = True
        yield Batch(batch, same, different)


def _most_alike(
    row: int, others: Rows, rng: np.random.Generator, descriptors: Floats | None, known: Mask
) -> Rows:
    """``[0 or 1]``: the one of ``others`` nearest in feature space; any without descriptors."""
    if descriptors is None:
        return rng.permutation(others)[:1] if len(others) else others
    others = others[known[others] & known[row]]
    return others[np.argsort(-(descriptors[others] @ descriptors[row]), kind="stable")[:1]]


def _choose(chosen: list[int], candidates: Rows, count: int, free: Mask, town: Town) -> None:
    """Add candidates, in their order, that are strangers to all chosen ones."""
    for row in candidates:
        if len(chosen) >= count:
            return
        if free[row]:
            chosen.append(int(row))
            free &= town.strangers(int(row))
