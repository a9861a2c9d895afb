"""The recogniser: photo in, candidates, place and reasons out. The page and the shell use this.

Two stages (SelaVPR, section 3.4): the global descriptor finds the ``top_k`` most similar reference
photos, then their local features are matched against the photo's and the order follows the number
of mutual nearest neighbours.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selavpr import confidence
from selavpr.errors import IndexFileError, OptionError, WeightsError
from selavpr.geo import consensus
from selavpr.geometry import agreement
from selavpr.images import PhotoSource, load_image
from selavpr.index import PlaceIndex
from selavpr.matching import Mode, count_mutual, keypoints, mutual_nearest
from selavpr.model import Precision, SelaVPR
from selavpr.structs import Candidate, Estimate, Features, KeypointMatches, Recognition
from selavpr.weights import DEFAULT_MODEL

MAX_TOP_K = 1000
TOGETHER_M = 50.0
"""Candidates this close to the answer support it."""

DENSIFY_BATCH = 10
"""Candidates whose tokens are up-convolved at once."""

COUNT_BLOCK = 100
"""Candidates whose local descriptors are held at once: 190 MB at 61 x 61 of 128 channels. Within a
block those that lead are counted in full, so the first of all blocks is exact, too."""

Progress = Callable[[str, float], None]


class Recognizer:
    """A model and an index that belong together. Threads may share one."""

    def __init__(self, model: SelaVPR, index: PlaceIndex) -> None:
        """Join a loaded model with an opened index.

        Raises:
            IndexFileError: the index was built with another model.
        """
        fits = index.width == model.config.width
        if not fits or index.manifest.fingerprint != model.fingerprint():
            raise IndexFileError(
                f"The index in {index.folder} was built with another model "
                f"({index.manifest.model!r:.80}); load that model, or build the index again."
            )
        self.model = model
        self.index = index
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        index: str | os.PathLike[str] | PlaceIndex,
        *,
        model: str | os.PathLike[str] | SelaVPR = DEFAULT_MODEL,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> Recognizer:
        """Open an index and load the model it was built with.

        Args:
            index: a folder, or an opened index.
            model: as for ``SelaVPR.from_pretrained``, or a loaded model to share.
            device: see ``SelaVPR.from_pretrained``.
            precision: see ``SelaVPR.from_pretrained``.

        Raises:
            IndexFileError: no such index, damaged, or of another model.
            WeightsError: no such model, or damaged.
        """
        opened = index if isinstance(index, PlaceIndex) else PlaceIndex.open(index)
        if not isinstance(model, SelaVPR):
            model = SelaVPR.from_pretrained(model, device=device, precision=precision)
        return cls(model, opened)

    def recognize(
        self,
        photo: PhotoSource,
        *,
        top_k: int = 20,
        rerank: bool = True,
        progress: Progress | None = None,
    ) -> Recognition:
        """Find where a photo was taken.

        Args:
            photo: anything ``load_image`` opens.
            top_k: candidates the first stage hands to the second, 1 to 1000.
            rerank: run the second stage; without it the global order is the answer.
            progress: called with the stage's name and the share of the work done so far.

        Raises:
            PhotoError: the photo cannot be used.
            OptionError: ``top_k`` is out of range.
            WeightsError: the model gives no usable features.
            IndexFileError: the index is damaged.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= MAX_TOP_K:
            raise OptionError(f"top_k must be 1 to {MAX_TOP_K}, not {top_k!r}.")
        progress = progress or _silent
        timings: dict[str, float] = {}
        progress("open", 0.0)
        with _timed(timings, "open"):
            image = load_image(photo)
        progress("extract", 0.1)
        with _timed(timings, "extract"), self._lock:
            features = self.model.extract([image], local=rerank)
        if not torch.isfinite(features.descriptor).all():
            raise WeightsError(
                "The model gives values that are not finite for this photo; use another model, or "
                "precision float32."
            )
        progress("search", 0.4)
        with _timed(timings, "search"):
            found = self.index.search(features.descriptor[0], top_k)
        rows = [row for row, _ in found]
        counts: list[int] | None = None
        if rerank:
            progress("rerank", 0.5)
            with _timed(timings, "rerank"), self._lock:
                counts = self._counts(features, rows)
        progress("locate", 0.9)
        with _timed(timings, "locate"):
            candidates = self._ranked(found, counts)
            estimate = self._locate(features, image.size, candidates)
        progress("done", 1.0)
        first = min(candidates, key=lambda c: c.global_rank)
        return Recognition(
            photo_size=image.size,
            candidates=candidates,
            location=estimate,
            global_location=first.place.location,
            features=features,
            timings_ms=timings,
        )

    def matches(self, recognition: Recognition, i: int) -> KeypointMatches:
        """Matched keypoints between the photo and one of its candidates, most similar first.

        Args:
            recognition: what ``recognize`` returned.
            i: position in ``recognition.candidates``.

        Raises:
            OptionError: there is no such candidate.
        """
        if not 0 <= i < len(recognition.candidates):
            raise OptionError(
                f"There is no candidate {i}; there are {len(recognition.candidates)}."
            )
        row = recognition.candidates[i].row
        return self._keypoint_matches(
            recognition.features, recognition.photo_size, row, self.index.photo(row).size
        )

    def heatmap(self, photo: PhotoSource, *, adapted: bool = True) -> NDArray[np.float32]:
        """What the network looks at: the negated channel mean of the tokens, scaled to 0..1.

        Args:
            photo: anything ``load_image`` opens.
            adapted: False shows the plain backbone, before adaptation.

        Returns:
            ``[h, w]``, to be stretched over the photo.
        """
        with self._lock:
            tokens = self.model.extract([load_image(photo)], adapted=adapted).tokens[0]
        heat = -tokens.mean(dim=-1)
        low, high = heat.min(), heat.max()
        scaled = (heat - low) / (high - low).clamp(min=1e-6)
        return scaled.cpu().numpy().astype(np.float32)

    @torch.inference_mode()
    def _local(self, features: Features) -> torch.Tensor:
        """The photo's local descriptors ``[h, w, d]``, made now if they were not asked for."""
        if features.local is not None:
            return features.local[0]
        return self.model.densify(features.tokens)[0]

    @torch.inference_mode()
    def _counts(self, features: Features, rows: list[int]) -> list[int]:
        """Mutual matches of each candidate; candidates of one grid are counted together."""
        query = self._local(features).flatten(0, 1)
        counts = [0] * len(rows)
        grids: dict[tuple[int, int], list[int]] = {}
        for i, row in enumerate(rows):
            grids.setdefault(self.index.grid(row), []).append(i)
        # Estimates of different grids do not compare, so fast counting needs a single grid.
        mode: Mode = "fast" if len(grids) == 1 else "exact"
        for members in grids.values():
            for start in range(0, len(members), COUNT_BLOCK):
                block = members[start : start + COUNT_BLOCK]
                scores = count_mutual(query, self._dense([rows[i] for i in block]), mode=mode)
                for i, score in zip(block, scores.tolist(), strict=True):
                    counts[i] = score
        return counts

    def _dense(self, rows: list[int]) -> torch.Tensor:
        """Local descriptors ``[K, N, d]`` of reference photos of one grid."""
        dense = []
        for start in range(0, len(rows), DENSIFY_BATCH):
            tokens = [self.index.tokens(row) for row in rows[start : start + DENSIFY_BATCH]]
            batch = torch.stack(tokens).to(self.model.device)
            dense.append(self.model.densify(batch).flatten(1, 2))
        return torch.cat(dense)

    def _ranked(
        self, found: list[tuple[int, float]], counts: list[int] | None
    ) -> tuple[Candidate, ...]:
        """More matches first; ties, and everything without counts, by the global order."""
        order = list(range(len(found)))
        if counts is not None:
            order.sort(key=lambda i: (-counts[i], i))
        return tuple(
            Candidate(
                place=self.index.place(found[i][0]),
                row=found[i][0],
                global_rank=i + 1,
                rank=rank,
                similarity=found[i][1],
                matches=None if counts is None else counts[i],
            )
            for rank, i in enumerate(order, 1)
        )

    def _locate(
        self, features: Features, photo_size: tuple[int, int], candidates: tuple[Candidate, ...]
    ) -> Estimate:
        """Fuse the leading candidates, those with more weight whose evidence is stronger."""
        counts = [c.matches for c in candidates if c.matches is not None]
        if counts:
            # Chance matches are common to all candidates; what exceeds them is evidence.
            floor = float(np.median(counts))
            weights = [max((c.matches or 0) - floor, 0.0) ** 2 for c in candidates]
        else:
            floor = min(c.similarity for c in candidates)
            weights = [(c.similarity - floor) ** 2 for c in candidates]
        leader = candidates[0].place.location
        # The leader stays in: others may pull the answer along the street, not across the town.
        close = [i for i, c in enumerate(candidates) if leader.distance_m(c.place.location) <= 30]
        places = [candidates[i].place.location for i in close]
        location, _ = consensus(places, [weights[i] for i in close])
        near = [location.distance_m(c.place.location) <= TOGETHER_M for c in candidates[:5]]
        evidence = confidence.Evidence(
            agreeing=self._agreeing(features, photo_size, candidates[0].row),
            margin=confidence.margin(counts),
            together=sum(near) / len(near),
        )
        nearest = min(candidates, key=lambda c: location.distance_m(c.place.location))
        return Estimate(
            location=location,
            radius50_m=None,
            radius90_m=None,
            confidence=None,
            verdict=confidence.verdict(evidence),
            street=nearest.place.street,
        )

    def _agreeing(self, features: Features, photo_size: tuple[int, int], row: int) -> float:
        # The sizes only set the scale in which agreement is measured; the photo need not be read.
        found = self._keypoint_matches(features, photo_size, row, photo_size)
        return float(found.agrees.float().mean()) if len(found.agrees) else 0.0

    @torch.inference_mode()
    def _keypoint_matches(
        self,
        features: Features,
        photo_size: tuple[int, int],
        row: int,
        candidate_size: tuple[int, int],
    ) -> KeypointMatches:
        mine = self._local(features)
        theirs = self.model.densify(self.index.tokens(row)[None].to(self.model.device))[0]
        found = mutual_nearest(mine.flatten(0, 1), theirs.flatten(0, 1))
        found = found.top(len(found))
        here = keypoints(found.query, (mine.shape[0], mine.shape[1]), photo_size)
        there = keypoints(found.candidate, (theirs.shape[0], theirs.shape[1]), candidate_size)
        agrees = agreement(here.numpy(), there.numpy(), candidate_size)
        return KeypointMatches(
            query=here,
            candidate=there,
            similarity=found.similarity.cpu(),
            agrees=torch.from_numpy(agrees),
        )


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[Any]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = (time.perf_counter() - start) * 1000


def _silent(stage: str, share: float) -> None:
    """Report no progress."""
