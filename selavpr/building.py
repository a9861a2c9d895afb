"""From photos to an index: extract, keep what is done, write.

Features are saved in small parts beside the index while they are extracted. A build that was
stopped, by whatever, goes on from the last whole part, and gives the same index as one that was
not: both read every feature back from the parts.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from selavpr import index
from selavpr.errors import IndexFileError, OptionError, PhotoError
from selavpr.images import load_image
from selavpr.model import SelaVPR
from selavpr.sources import SourcePhoto
from selavpr.weights import digest

PART = 32
"""Photos per saved part: about ten seconds of work on two cores, all that a stop can cost."""

STORED_SIDE = 640
STORED_QUALITY = 85
"""Longest side and JPEG quality of the photos kept in the index: for people to look at."""

DEFAULT_RANK = 96
"""Bytes a token takes in the index, beside two for its scale: 25 KB a photo at 16 x 16 tokens."""


def build(
    out: str | os.PathLike[str],
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    manifest: index.Manifest,
    *,
    rank: int = DEFAULT_RANK,
    basemap: Path | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[index.PlaceIndex, list[str]]:
    """Build an index folder; an interrupted build with the same photos and model is resumed.

    Args:
        out: the index folder to make or replace.
        photos: where the photos are and what is known of their places.
        model: extracts the features; the index will be bound to it.
        manifest: name, title, licence and attribution; the rest is filled in.
        rank: components kept of each token, see ``codec.TokenCodec``.
        basemap: GeoJSON to copy in.
        batch_size: photos per pass through the network.
        progress: called with photos done and photos in all.

    Returns:
        The opened index, and a sentence for each photo that could not be used.

    Raises:
        OptionError: there are no photos.
        IndexFileError: no photo was usable, or the folder cannot be written.
    """
    if not photos:
        raise OptionError("There are no photos to index.")
    out = Path(out)
    if out.exists() and not (out / index.MANIFEST).is_file():
        raise IndexFileError(f"{out} exists and is not an index; choose another place.")
    work = _work_folder(out, photos, model)
    entries: list[index.Entry] = []
    problems: list[str] = []
    for start in range(0, len(photos), PART):
        part = photos[start : start + PART]
        path = work / f"{start:09d}.safetensors"
        state = _read_part(path)
        if state is None:
            state = _extract_part(part, model, batch_size)
            partial = path.with_suffix(".tmp")
            safetensors.torch.save_file(state, partial)
            partial.replace(path)
        for i, photo in enumerate(part):
            if f"{i}.descriptor" not in state:
                problems.append(_why_not(photo))
                continue
            entries.append(
                index.Entry(
                    photo.place,
                    state[f"{i}.photo"].numpy().tobytes(),
                    state[f"{i}.descriptor"],
                    state[f"{i}.tokens"],
                )
            )
        progress(start + len(part), len(photos))
    if not entries:
        raise IndexFileError(f"None of the {len(photos)} photos is usable. {problems[0]}")
    rank = min(rank, model.config.width)
    bound = dataclasses.replace(manifest, fingerprint=model.fingerprint())
    made = index.write(out, entries, bound, rank=rank, basemap=basemap)
    shutil.rmtree(work)
    return made, problems


def stored_photo(path: Path) -> tuple[Image.Image, bytes]:
    """A photo, and the JPEG that the index keeps of it: upright, bounded, without metadata.

    Raises:
        PhotoError: the photo cannot be used.
    """
    image = load_image(path)
    small = image.copy()
    small.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=STORED_QUALITY, optimize=True)
    return image, buffer.getvalue()


def _work_folder(out: Path, photos: Sequence[SourcePhoto], model: SelaVPR) -> Path:
    """Beside the index, named after everything that decides the features."""
    listing = [
        (str(p.path), p.path.stat().st_size, p.path.stat().st_mtime_ns)
        if p.path.is_file()
        else (str(p.path), 0, 0)
        for p in photos
    ]
    key = digest([model.fingerprint(), str(model.precision), PART, listing]).partition(":")[2]
    work = out.with_name(f".{out.name}.{key[:16]}.building")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IndexFileError(f"Cannot write beside {out}: {error.strerror}.") from error
    return work


def _extract_part(
    part: Sequence[SourcePhoto], model: SelaVPR, batch_size: int
) -> dict[str, Tensor]:
    images: list[Image.Image] = []
    numbers: list[int] = []
    state: dict[str, Tensor] = {}
    for i, photo in enumerate(part):
        try:
            image, jpeg = stored_photo(photo.path)
        except PhotoError:
            continue
        images.append(image)
        numbers.append(i)
        state[f"{i}.photo"] = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    for i, features in zip(numbers, model.extract_each(images, batch_size=batch_size), strict=True):
        state[f"{i}.descriptor"] = features.descriptor[0].cpu().clone()
        # Half precision is far finer than the eight bits the index keeps.
        state[f"{i}.tokens"] = features.tokens[0].cpu().half().clone()
    return state


def _read_part(path: Path) -> dict[str, Tensor] | None:
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
        return state
    except (OSError, SafetensorError):
        return None


def _why_not(photo: SourcePhoto) -> str:
    try:
        load_image(photo.path)
    except PhotoError as error:
        return str(error)
    return f"{photo.path.name} could not be used."
