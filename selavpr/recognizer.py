"""The recogniser: photo in, candidates, place and reasons out. The page and the shell use this.

Two stages (SelaVPR, section 3.4): the global descriptor finds the most similar reference photos,
then their local features are matched against the photo's and the order follows the number of
mutual nearest neighbours, counted or expected as the model was trained for. Then those have their
turn, too, that the first stage found less similar but that stand beside the best, and a narrow lead
is settled by what the surroundings match. How many are re-ranked settles place, verdict and
probability; how many are shown does not.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from selavpr import confidence, viz
from selavpr.confidence import Evidence
from selavpr.errors import IndexFileError, OptionError, SelaVPRError, WeightsError
from selavpr.geo import Location
from selavpr.geometry import agreement
from selavpr.images import PhotoSource, load_image
from selavpr.index import PlaceIndex
from selavpr.judgement import MAX_TOP_K, Calibration
from selavpr.localfeatures import Local
from selavpr.locating import LEADERS, beside, foremost, fused
from selavpr.matching import keypoints, mutual_nearest
from selavpr.model import Precision, SelaVPR
from selavpr.published import open_index
from selavpr.reranking import count_local, expect_local, order_of
from selavpr.structs import Candidate, Estimate, Features, KeypointMatches, Recognition
from selavpr.weights import DEFAULT_MODEL

Progress = Callable[[str, float], None]

REACH = 4
"""How far down the first stage's list, in depths, places beside the best candidates are sought."""


class Recognizer:
    """A model and an index that belong together. Threads may share one.

    Attributes:
        model: extracts and matches.
        index: is searched.
        calibration: of the index; None where it has none, or one of answers come by otherwise.
        depth: candidates that are re-ranked unless told otherwise: as many as for the calibration,
            which says nothing of answers that were come by otherwise.
    """

    def __init__(self, model: SelaVPR, index: PlaceIndex) -> None:
        """Join a loaded model with an opened index.

        Raises:
            IndexFileError: the index was built with another model.
        """
        fits = index.width == model.config.width
        if not fits or index.manifest.fingerprint != model.fingerprint():
            raise IndexFileError(
                f"The index in {index.folder} was built with another model "
                f"({index.manifest.model!r:.80}); name that one with --model, or build the index "
                "again with this one."
            )
        self.model = model
        self.index = index
        kept = Calibration.from_dict(index.manifest.calibration)
        self.calibration = kept if kept is not None and kept.speaks_of(model.config) else None
        usual = self.calibration.top_k if self.calibration else confidence.LOOKED_AT
        self.depth = min(usual, len(index))
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
            index: a folder, a Hub repository ``org/name[@revision]``, or an opened index.
            model: as for ``SelaVPR.from_pretrained``, or a loaded model to share.
            device: see ``SelaVPR.from_pretrained``.
            precision: see ``SelaVPR.from_pretrained``.

        Raises:
            IndexFileError: no such index, damaged, or of another model.
            WeightsError: no such model, or damaged.
        """
        opened = index if isinstance(index, PlaceIndex) else open_index(index)
        if not isinstance(model, SelaVPR):
            model = SelaVPR.from_pretrained(model, device=device, precision=precision)
        return cls(model, opened)

    def recognize(
        self,
        photo: PhotoSource,
        *,
        top_k: int = 20,
        rerank: bool = True,
        rerank_depth: int | None = None,
        progress: Progress | None = None,
    ) -> Recognition:
        """Find where a photo was taken.

        Args:
            photo: anything ``load_image`` opens.
            top_k: candidates to return, 1 to 1000. Those beyond the re-ranked ones follow in their
                global order, without matches.
            rerank: run the second stage; without it the global order is the answer.
            rerank_depth: candidates the first stage hands to the second, 1 to 1000; ``depth`` when
                None. With any other number no probability is claimed. Half as many more at most
                are re-ranked for standing beside the best.
            progress: called with the stage's name and the share of the work done so far.

        Raises:
            PhotoError: the photo cannot be used.
            OptionError: ``top_k`` or ``rerank_depth`` is out of range.
            WeightsError: the model gives no usable features.
            IndexFileError: the index is damaged.
        """
        depth = self._depth(top_k, rerank, rerank_depth)
        progress = progress or _silent
        timings: dict[str, float] = {}
        progress("open", 0.0)
        with _timed(timings, "open"):
            image = load_image(photo)
        progress("extract", 0.1)
        with _timed(timings, "extract"), self._lock:
            (looks,) = self._extract([image], depth, 1)
        return self._answer(image.size, looks, top_k, depth, timings, progress)

    def recognize_many(
        self,
        photos: Iterable[PhotoSource],
        *,
        top_k: int = 20,
        rerank: bool = True,
        rerank_depth: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Iterator[Recognition | SelaVPRError]:
        """Find where photos were taken, a batch at a time through the network.

        Args:
            photos: read as they are needed, so there may be any number.
            top_k: as for ``recognize``, like the next two.
            rerank: likewise.
            rerank_depth: likewise.
            batch_size: photos per pass.
            progress: called with the number of photos done.

        Yields:
            For each photo, in their order, the answer, or the error that ``recognize`` would have
            raised: a photo that cannot be read does not stop the others.

        Raises:
            OptionError: an option is out of range.
        """
        depth = self._depth(top_k, rerank, rerank_depth)
        if batch_size < 1:
            raise OptionError(f"batch_size must be 1 or more, not {batch_size}.")
        return self._each(iter(photos), top_k, depth, batch_size, progress)

    def _each(
        self,
        photos: Iterator[PhotoSource],
        top_k: int,
        depth: int,
        batch_size: int,
        progress: Callable[[int], None],
    ) -> Iterator[Recognition | SelaVPRError]:
        done = 0
        while batch := list(itertools.islice(photos, batch_size)):
            timings: dict[str, float] = {}
            with _timed(timings, "open"):
                opened = [_opened(photo) for photo in batch]
            images = [image for image in opened if isinstance(image, Image.Image)]
            with _timed(timings, "extract"), self._lock:
                extracted = iter(self._extract(images, depth, batch_size))
            # A photo's share of what was done for the batch.
            each = {stage: ms / len(batch) for stage, ms in timings.items()}
            for image in opened:
                if isinstance(image, SelaVPRError):
                    answer: Recognition | SelaVPRError = image
                else:
                    looks = next(extracted)
                    try:
                        answer = self._answer(image.size, looks, top_k, depth, dict(each))
                    except SelaVPRError as error:
                        answer = error
                done += 1
                progress(done)
                yield answer

    def _extract(
        self, images: list[Image.Image], depth: int, batch_size: int
    ) -> list[tuple[Features, ...]]:
        """Each photo in the model's input size and, if it is to be re-ranked, in further ones."""
        looks = [
            self.model.extract_each(
                images, local=depth > 0 and self._counts, batch_size=batch_size, scale=scale
            )
            for scale in (1.0, *(self.model.config.query_scales if depth else ()))
        ]
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # or the next stage would seem to take long
        return list(zip(*looks, strict=True))

    def _answer(
        self,
        photo_size: tuple[int, int],
        looks: Sequence[Features],
        top_k: int,
        depth: int,
        timings: dict[str, float],
        progress: Progress | None = None,
    ) -> Recognition:
        """Both stages for the features of one photo; a depth of 0 leaves out the second."""
        progress = progress or _silent
        features = looks[0]
        if not torch.isfinite(features.descriptor).all():
            raise WeightsError(
                "The model gives values that are not finite for this photo; use another model, or "
                "precision float32."
            )
        progress("search", 0.4)
        settling = depth or self.depth  # the candidates the answer is made of
        with _timed(timings, "search"):
            reach = max(top_k, settling)
            found = self.index.search(features.descriptor[0], max(reach, REACH * depth))
        scores: dict[int, float] = {}
        if depth:
            progress("rerank", 0.5)
            with _timed(timings, "rerank"), self._lock:
                scores = self._rerank(looks, [row for row, _ in found], depth)
        progress("locate", 0.9)
        with _timed(timings, "locate"):
            candidates = self._ranked(found, scores, reach, settling)
            usual = depth == self.depth
            estimate = self._locate(features, photo_size, candidates[:settling], usual)
        progress("done", 1.0)
        first = min(candidates, key=lambda c: c.global_rank)
        return Recognition(
            photo_size=photo_size,
            candidates=candidates[:top_k],
            location=estimate,
            global_location=first.place.location,
            features=features,
            timings_ms=timings,
            fallen=tuple(
                sorted(
                    (c for c in candidates[top_k:] if c.global_rank <= top_k),
                    key=lambda c: c.global_rank,
                )
            ),
            settled=settling,
            reranked=len(scores),
        )

    def evidence(self, recognition: Recognition) -> Evidence:
        """What speaks for an answer that shows all it was made of; calibration learns from it.

        Args:
            recognition: what ``recognize`` returned for a ``top_k`` no smaller than its depth.
        """
        return self._evidence(
            recognition.features,
            recognition.photo_size,
            recognition.candidates[: recognition.settled or None],
            recognition.location.location,
        )

    def matches(self, recognition: Recognition, i: int) -> KeypointMatches:
        """Matched keypoints between the photo and one of its candidates, most similar first.

        Args:
            recognition: what ``recognize`` returned.
            i: position in ``recognition.either``, which begins with its ``candidates``.

        Raises:
            OptionError: there is no such candidate.
        """
        shown = recognition.either
        if not 0 <= i < len(shown):
            raise OptionError(f"There is no candidate {i}; there are {len(shown)}.")
        row = shown[i].row
        return _keypoint_matches(
            self._local(recognition.features),
            self.index.local([row], self.model)[0],
            recognition.photo_size,
            self.index.photo(row).size,
        )

    def heatmap(self, photo: PhotoSource, *, adapted: bool = True) -> NDArray[np.float32]:
        """What the network looks at: each token's share in the fingerprint, scaled to 0..1.

        Args:
            photo: anything ``load_image`` opens.
            adapted: False shows the plain backbone, before adaptation.

        Returns:
            ``[h, w]``, to be stretched over the photo; see ``viz.heat_of``.
        """
        with self._lock:
            features = self.model.extract([load_image(photo)], adapted=adapted)
        return self.heat_of(features)

    def heat_of(self, features: Features) -> NDArray[np.float32]:
        """The same of a photo whose features are there already."""
        return viz.heat_of(
            features.tokens[0].float().cpu().numpy(), float(self.model.pool.p.detach())
        )

    def _depth(self, top_k: int, rerank: bool, rerank_depth: int | None) -> int:
        """How many candidates to re-rank, 0 for none; refuses numbers out of range."""
        for name, value in (("top_k", top_k), ("rerank_depth", rerank_depth)):
            if name == "rerank_depth" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOP_K:
                raise OptionError(f"{name} must be 1 to {MAX_TOP_K}, not {value!r}.")
        return min(rerank_depth or self.depth, len(self.index)) if rerank else 0

    @property
    def _counts(self) -> bool:
        """Whether the score is a count on the dense grid, not an expectation at the centres."""
        return self.model.config.scoring == "count"

    @torch.inference_mode()
    def _local(self, features: Features) -> Local:
        """The photo's local descriptors, made now if they were not asked for."""
        dense = self.model.densify(features.tokens) if features.local is None else features.local
        return Local(dense[0].flatten(0, 1), (dense.shape[1], dense.shape[2]))

    @torch.inference_mode()
    def _scored(self, features: Features) -> Local:
        """Those of the photo's local descriptors that the score looks at."""
        if self._counts:
            return self._local(features)
        return Local.of_tokens(features.tokens[0], self.model)

    def _scored_of(self, rows: Sequence[int]) -> list[Local]:
        """The same of candidates."""
        read = self.index.local if self._counts else self.index.centres
        return read(rows, self.model)

    def _scores(self, looks: Sequence[Local], rows: list[int]) -> Sequence[float]:
        """Mutual matches of each candidate, counted or expected."""
        if self._counts:
            return count_local(looks[0].descriptors, rows, self._scored_of)
        return expect_local(looks, rows, self._scored_of, self.model.config.agreement)

    def _rerank(self, looks: Sequence[Features], rows: list[int], depth: int) -> dict[int, float]:
        """Matches of the first ``depth`` rows, and of those farther down beside the best of them.

        Where a street is known from some way off, it is soon seen from where the photo was taken.

        Returns:
            Positions in ``rows``, ascending, with their matches.
        """
        seen = [self._scored(look) for look in looks]
        scores = dict(enumerate(self._scores(seen, rows[:depth])))
        best, rest = order_of(list(scores.values()))[:LEADERS], rows[depth:]

        def where(some: Sequence[int]) -> list[Location]:
            return [self.index.place(row).location for row in some]

        if near := beside(where([rows[i] for i in best]), where(rest))[: depth // 2]:
            further = self._scores(seen, [rest[i] for i in near])
            scores |= zip([depth + i for i in near], further, strict=True)
        return scores

    def _ranked(
        self, found: list[tuple[int, float]], scores: Mapping[int, float], reach: int, settling: int
    ) -> tuple[Candidate, ...]:
        """More matches first, then those that were not re-ranked; ties by the global order.

        The foremost of those that the answer is made of, the first ``settling``, goes before all.
        """
        rescored = list(scores)
        order = [rescored[i] for i in order_of(list(scores.values()))]
        order += [i for i in range(min(reach, len(found))) if i not in scores]
        places = {i: self.index.place(found[i][0]) for i in order}
        if best := order[: min(settling, len(scores))]:
            first = foremost([places[i].location for i in best], [scores[i] for i in best])
            order.insert(0, order.pop(first))
        return tuple(
            Candidate(
                place=places[i],
                row=found[i][0],
                global_rank=i + 1,
                rank=rank,
                similarity=found[i][1],
                matches=scores.get(i),
            )
            for rank, i in enumerate(order, 1)
        )

    def _locate(
        self,
        features: Features,
        photo_size: tuple[int, int],
        candidates: tuple[Candidate, ...],
        usual: bool,
    ) -> Estimate:
        """The answer; ``usual`` says whether as many were re-ranked as for the calibration."""
        location = fused(candidates)
        evidence = self._evidence(features, photo_size, candidates, location)
        nearest = min(candidates, key=lambda c: location.distance_m(c.place.location))
        street = nearest.place.street
        if self.calibration is None or not usual:
            return Estimate(location, None, None, None, confidence.verdict(evidence), street)
        judged = self.calibration.judge(evidence)
        return Estimate(
            location=location,
            radius50_m=judged.radius50_m,
            radius90_m=judged.radius90_m,
            confidence=judged.confidence,
            verdict=judged.verdict,
            street=street,
            right=judged.right,
        )

    def _evidence(
        self,
        features: Features,
        photo_size: tuple[int, int],
        candidates: Sequence[Candidate],
        location: Location,
    ) -> Evidence:
        mine, theirs = self._scored(features), self._scored_of([candidates[0].row])[0]
        # The sizes only set the scale in which agreement is measured; the photo need not be read.
        found = _keypoint_matches(mine, theirs, photo_size, photo_size)
        agreeing = float(found.agrees.float().mean()) if len(found.agrees) else 0.0
        possible = len(mine.descriptors)
        return confidence.gather(
            candidates, location, agreeing, possible, self.model.config.scoring
        )


@torch.inference_mode()
def _keypoint_matches(
    mine: Local, theirs: Local, photo_size: tuple[int, int], candidate_size: tuple[int, int]
) -> KeypointMatches:
    """Mutual nearest neighbours and where they lie in both photos, most similar first."""
    found = mutual_nearest(mine.descriptors, theirs.descriptors)
    found = found.top(len(found))
    here = keypoints(mine.cell(found.query), mine.grid, photo_size)
    there = keypoints(theirs.cell(found.candidate), theirs.grid, candidate_size)
    agrees = agreement(here.numpy(), there.numpy(), candidate_size)
    return KeypointMatches(
        query=here,
        candidate=there,
        similarity=found.similarity.cpu(),
        agrees=torch.from_numpy(agrees),
    )


def _opened(photo: PhotoSource) -> Image.Image | SelaVPRError:
    try:
        return load_image(photo)
    except SelaVPRError as error:
        return error


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[Any]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[stage] = (time.perf_counter() - start) * 1000


def _silent(stage: str, share: float) -> None:
    """Report no progress."""
