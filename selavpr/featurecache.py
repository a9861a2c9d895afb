"""Features of many photos on disk: extracted once, in parts, so that a stopped run goes on.

A part holds the descriptors and the tokens, in half precision, of a few dozen photos. Its name is
a digest of the model and of the photos' files: a changed photo or model never meets old features.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from selavpr.errors import OptionError, PhotoError, WeightsError
from selavpr.images import load_image
from selavpr.model import SelaVPR
from selavpr.weights import digest

PART = 32
"""Photos in a part."""

OPEN_PARTS = 64
"""Parts kept open while candidates are read."""

Progress = Callable[[int, int], None]


class FeatureCache:
    """The features of a list of photos. A photo that cannot be read has none."""

    def __init__(
        self,
        folder: Path,
        photos: Sequence[Path],
        model: SelaVPR,
        *,
        batch_size: int = 8,
        scale: float = 1.0,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Extract what is not there yet.

        Args:
            folder: for the parts; made when there is none.
            photos: in the order of their numbers.
            model: extracts.
            batch_size: photos per pass.
            scale: share of the model's input size in which they are looked at.
            progress: called with photos done and photos in all.

        Raises:
            OptionError: the folder cannot be written, or none of the photos is usable.
            WeightsError: the model gives values that are not finite.
        """
        self.photos = tuple(photos)
        self.problems: list[str] = []
        self.seconds = 0.0  # that extracting all of it took, in whichever runs
        self._paths: list[Path] = []
        self._grids: dict[int, tuple[int, int]] = {}
        rows: list[Tensor | None] = []
        fingerprint = model.fingerprint()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(photos), PART):
                group = photos[start : start + PART]
                about: list[Any] = [fingerprint, str(model.precision), model.device.type]
                about += [file_states(group), *([] if scale == 1 else [scale])]
                path = folder / f"{digest(about).partition(':')[2]}.safetensors"
                part = _read(path)
                if part is None or any_readable(_left_out(part[0], group)):
                    _extract(path, group, model, batch_size, scale)
                    part = _read(path)
                if part is None:
                    raise OptionError(f"{path} cannot be read back; is the disk full?")
                tensors, notes = part
                self._paths.append(path)
                self.seconds += float(notes["seconds"])
                self.problems += json.loads(notes["problems"])
                for i in range(len(group)):
                    rows.append(tensors.get(f"{i}.descriptor"))
                    if f"{i}.grid" in tensors:
                        h, w = tensors[f"{i}.grid"].tolist()
                        self._grids[start + i] = (h, w)
                progress(start + len(group), len(photos))
        except OSError as error:
            raise OptionError(
                f"Cannot keep features in {folder}: {error.strerror or error}."
            ) from error
        known = [row for row in rows if row is not None]
        if not known:
            raise OptionError(f"None of the {len(photos)} photos is usable. {self.problems[:1]}")
        nothing = torch.zeros_like(known[0])
        self.descriptors = torch.stack([nothing if row is None else row for row in rows])
        self._open = functools.lru_cache(maxsize=OPEN_PARTS)(
            lambda path: safetensors.safe_open(path, framework="pt")
        )

    def __len__(self) -> int:
        """Number of photos, readable or not."""
        return len(self.photos)

    def usable(self, number: int) -> bool:
        """Whether a photo could be read."""
        return number in self._grids

    def grid(self, number: int) -> tuple[int, int]:
        """Rows and columns of tokens of a photo."""
        return self._grids[number]

    def tokens(self, number: int) -> Tensor:
        """The tokens ``[h, w, C]`` float32 of a photo; reads only that photo's bytes."""
        part: Any = self._open(self._paths[number // PART])
        tokens: Tensor = part.get_tensor(f"{number % PART}.tokens").float()
        return tokens


def _left_out(part: Mapping[str, Tensor], photos: Sequence[Path]) -> list[Path]:
    return [photo for i, photo in enumerate(photos) if f"{i}.grid" not in part]


def _extract(
    path: Path, photos: Sequence[Path], model: SelaVPR, batch_size: int, scale: float
) -> None:
    state: dict[str, Tensor] = {}
    images: list[Image.Image] = []
    numbers: list[int] = []
    problems = []
    for i, photo in enumerate(photos):
        try:
            images.append(load_image(photo))
            numbers.append(i)
        except PhotoError as error:
            problems.append(f"{photo}: {error}")
    start = time.perf_counter()
    extracted = model.extract_each(images, batch_size=batch_size, scale=scale)
    for i, features in zip(numbers, extracted, strict=True):
        tokens = features.tokens[0].cpu().half().contiguous()
        descriptor = features.descriptor[0].cpu().float().clone()
        if not (torch.isfinite(descriptor).all() and torch.isfinite(tokens).all()):
            raise WeightsError(
                f"The model gives values that are not finite for {photos[i].name}; use another "
                "model, or precision float32."
            )
        state[f"{i}.descriptor"], state[f"{i}.tokens"] = descriptor, tokens
        state[f"{i}.grid"] = torch.tensor(tokens.shape[:2])
    notes = {
        "seconds": f"{time.perf_counter() - start:.3f}",
        "problems": json.dumps(problems),
    }
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    partial.write_bytes(safetensors.torch.save(state, metadata=notes))
    partial.replace(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Descriptors, grids and notes of a part; None where it is not there, or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as part:
            notes = part.metadata()
            names = [name for name in part.keys() if not name.endswith(".tokens")]
            tensors = {name: part.get_tensor(name) for name in names}
        if notes is None or not notes.keys() >= {"seconds", "problems"}:
            return None
        return tensors, notes
    except (OSError, SafetensorError):
        return None


def any_readable(photos: Iterable[Path]) -> bool:
    """Whether one that was left out can be read by now: given other rights, its state is as before.

    Args:
        photos: those of which no features could be extracted.
    """
    for photo in photos:
        with contextlib.suppress(PhotoError):
            load_image(photo)
            return True
    return False


def file_states(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What tells that none of the files was changed since their features were extracted."""
    found = []
    for path in paths:
        try:
            about = path.stat()
            found.append((str(path), about.st_size, about.st_mtime_ns))
        except OSError:
            found.append((str(path), 0, 0))
    return found
