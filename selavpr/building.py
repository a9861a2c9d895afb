"""From photos to an index: extract, keep what is done, write, swap.

All of it happens in one hidden folder beside the index, so that the index itself is never seen
half-made::

    .NAME.building/
        lock             held while a build runs
        parts/           features, saved in small parts while they are extracted
        new/             the index being written from them
        old/             the index that was replaced, for the blink of an eye

A build that was stopped, by whatever, goes on from the last whole part and gives the same bytes as
one that was not: both read every feature back from the parts. Memory is bounded by a part and the
global descriptors, whatever the number of photos.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import faiss
import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from selavpr.codec import TokenCodec
from selavpr.errors import IndexFileError, OptionError, PhotoError
from selavpr.images import load_image
from selavpr.index import PlaceIndex, replaced, work_folder
from selavpr.indexfiles import (
    BASEMAP,
    CODEC,
    CODES,
    COLUMNS,
    GLOBAL,
    GRIDS,
    MANIFEST,
    PLACES,
    SCALES,
    Manifest,
    checksum,
    holds_index,
    is_inside,
    manifest_text,
)
from selavpr.model import SelaVPR
from selavpr.sources import SourcePhoto
from selavpr.structs import Place
from selavpr.weights import digest

PART = 16
"""Photos per saved part: some five seconds of work on two cores, all that a stop can cost."""

STORED_SIDE = 640
STORED_QUALITY = 85
"""Longest side and JPEG quality of the photos kept in the index: for people to look at."""

DEFAULT_RANK = 96
"""Bytes a token takes in the index, beside two for its scale: 25 KB a photo at 16 x 16 tokens."""

SAMPLE = 65536
"""Tokens that settle the code, taken evenly from all photos."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One reference photo on its way into an index.

    Attributes:
        place: id, position and what else is known; ``place.image`` is its path inside the index.
        photo: JPEG bytes of the photo as stored, without metadata.
        descriptor: ``[D]`` global descriptor.
        tokens: ``[h, w, C]``.
    """

    place: Place
    photo: bytes
    descriptor: Tensor
    tokens: Tensor


def build(
    out: str | os.PathLike[str],
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    manifest: Manifest,
    *,
    rank: int = DEFAULT_RANK,
    basemap: Path | None = None,
    batch_size: int = 8,
    progress: Progress = lambda done, total: None,
) -> tuple[PlaceIndex, list[str]]:
    """Build an index folder; an interrupted build with the same photos and model is resumed.

    Args:
        out: the index folder to make, or to replace when the new one is whole.
        photos: where the photos are and what is known of their places.
        model: extracts the features; the index will be bound to it.
        manifest: name, title, licence and attribution; the rest is filled in.
        rank: components kept of each token, see ``codec.TokenCodec``; at most the model's width.
        basemap: GeoJSON to copy in.
        batch_size: photos per pass through the network.
        progress: called with photos done and photos in all.

    Returns:
        The opened index, and a sentence for each photo that could not be used.

    Raises:
        OptionError: there are no photos, ids or image paths repeat, or an option is out of range.
        IndexFileError: no photo was usable, another build of this index is running, or the folder
            cannot be written.
    """
    out = Path(out).resolve()
    _check(out, photos, rank, batch_size, basemap)
    work = work_folder(out)
    lock = work / "lock"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            made, problems = _build(
                out, photos, model, manifest, rank, basemap, batch_size, progress
            )
    except Timeout as error:
        raise IndexFileError(
            f"Another build of {out} is running; wait until it is done."
        ) from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IndexFileError(
            f"Cannot write the index to {out}: {reason}. What is done so far is kept in {work}, "
            "and the next build goes on from there."
        ) from error
    with contextlib.suppress(OSError):  # another build may have begun to use them
        lock.unlink(missing_ok=True)
        work.rmdir()
    return made, problems


def _check(
    out: Path, photos: Sequence[SourcePhoto], rank: int, batch_size: int, basemap: Path | None
) -> None:
    """Find out before hours of work what would make them useless."""
    if not photos:
        raise OptionError("There are no photos to index.")
    if out.exists() and not holds_index(out) and (not out.is_dir() or any(out.iterdir())):
        raise IndexFileError(f"{out} exists and is not an index; choose another place.")
    if rank < 1 or batch_size < 1:
        raise OptionError(f"rank and batch size must be 1 or more, not {rank} and {batch_size}.")
    if basemap is not None and not basemap.is_file():
        raise OptionError(f"There is no basemap at {basemap}.")
    for what in ("place_id", "image"):
        seen: set[str] = set()
        for photo in photos:
            value = getattr(photo.place, what)
            if value in seen:
                raise OptionError(f"The {what} {value!r} appears twice; each must be unique.")
            seen.add(value)
    own = {MANIFEST, PLACES, GLOBAL, CODES, SCALES, GRIDS, CODEC, BASEMAP}
    for photo in photos:
        image = photo.place.image
        if not is_inside(image) or PurePosixPath(image).parts[0] in own:
            raise OptionError(f"{image!r} is no path for a photo inside an index.")


def _build(
    out: Path,
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    manifest: Manifest,
    rank: int,
    basemap: Path | None,
    batch_size: int,
    progress: Progress,
) -> tuple[PlaceIndex, list[str]]:
    work, old = work_folder(out), replaced(out)
    (work / "parts").mkdir(exist_ok=True)
    if holds_index(old) and not holds_index(out):
        old.rename(out)  # a build was killed between the two renamings below
    fingerprint = model.fingerprint()
    parts: list[tuple[Sequence[SourcePhoto], Path]] = []
    problems: list[str] = []
    for start in range(0, len(photos), PART):
        group = photos[start : start + PART]
        key = digest(
            [fingerprint, str(model.precision), model.device.type, batch_size, _state(group)]
        )
        path = work / "parts" / f"{key.partition(':')[2]}.safetensors"
        parts.append((group, path))
        if _read_part(path) is None:
            _write_part(path, *_extract(group, model, batch_size))
        with safetensors.safe_open(path, framework="pt") as part:
            problems += [text for _, text in sorted((part.metadata() or {}).items())]
        progress(start + len(group), len(photos))
    entries = _Entries(parts)
    new = work / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    if not write(
        new, entries, dataclasses.replace(manifest, fingerprint=fingerprint), rank, basemap
    ):
        raise IndexFileError(f"None of the {len(photos)} photos is usable. {problems[0]}")
    PlaceIndex.open(new)  # what cannot be opened must not replace what can
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    for done in (old, work / "parts"):
        shutil.rmtree(done, ignore_errors=True)
    return PlaceIndex.open(out), problems


class _Entries:
    """The entries in the saved parts, read again on every pass, one part in memory at a time."""

    def __init__(self, parts: Sequence[tuple[Sequence[SourcePhoto], Path]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Entry]:
        for photos, path in self._parts:
            part = _read_part(path)
            if part is None:
                raise IndexFileError(f"{path} was damaged meanwhile; start the build again.")
            for i, photo in enumerate(photos):
                if f"{i}.descriptor" in part:
                    yield Entry(
                        photo.place,
                        part[f"{i}.photo"].numpy().tobytes(),
                        part[f"{i}.descriptor"],
                        part[f"{i}.tokens"],
                    )


def write(
    folder: Path, entries: Sequence[Entry] | _Entries, manifest: Manifest, rank: int,
    basemap: Path | None = None,
) -> int:  # fmt: skip
    """Write the files of an index into an empty folder; the manifest comes last.

    Args:
        folder: exists and is empty.
        entries: in order of their rows; gone through three times.
        manifest: count, bounds, files and checksum are filled in.
        rank: components kept of each token; fewer when there are not as many.
        basemap: GeoJSON to copy in.

    Returns:
        The number of entries; without any, nothing is written.

    Raises:
        OSError: the folder cannot be written.
    """
    descriptors: list[Tensor] = []
    places: list[Place] = []
    grids: list[tuple[int, int]] = []
    for entry in entries:
        places.append(_clean(entry.place))
        descriptors.append(entry.descriptor)
        grids.append((entry.tokens.shape[0], entry.tokens.shape[1]))
    if not places:
        return 0
    _write_places(folder / PLACES, places)
    searcher = faiss.IndexFlatIP(len(descriptors[0]))
    searcher.add(torch.stack(descriptors).float().numpy())
    # Through Python's file, so that a full disk is an OSError; faiss has its own.
    (folder / GLOBAL).write_bytes(faiss.serialize_index(searcher).tobytes())
    np.save(folder / GRIDS, np.array(grids, dtype=np.uint16))
    each = -(-SAMPLE // len(places))
    sample = torch.cat([_some_tokens(entry, each) for entry in entries])
    codec = TokenCodec.fit(sample, min(rank, *sample.shape))
    code = safetensors.torch.save({"mean": codec.mean, "basis": codec.basis})
    (folder / CODEC).write_bytes(code)
    tokens = sum(h * w for h, w in grids)
    with (folder / CODES).open("wb") as codes_file, (folder / SCALES).open("wb") as scales_file:
        _write_header(codes_file, np.dtype(np.int8), (tokens, codec.rank))
        _write_header(scales_file, np.dtype(np.float16), (tokens,))
        for place, entry in zip(places, entries, strict=True):
            codes, scales = codec.encode(entry.tokens.flatten(0, 1))
            codes_file.write(codes.tobytes())
            scales_file.write(scales.tobytes())
            path = folder / place.image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.photo)
    if basemap is not None:
        shutil.copyfile(basemap, folder / BASEMAP)
    lat = [place.location.latitude for place in places]
    lon = [place.location.longitude for place in places]
    complete = dataclasses.replace(
        manifest,
        count=len(places),
        bounds=(min(lat), min(lon), max(lat), max(lon)),
        files={
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": checksum(path),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )
    (folder / MANIFEST).write_text(manifest_text(complete.sealed()), encoding="utf-8")
    return len(places)


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


def _state(photos: Sequence[SourcePhoto]) -> list[tuple[str, int, int]]:
    """What tells that none of the files was changed since their features were extracted."""
    found = []
    for photo in photos:
        try:
            about = photo.path.stat()
            found.append((str(photo.path), about.st_size, about.st_mtime_ns))
        except OSError:
            found.append((str(photo.path), 0, 0))
    return found


def _extract(
    photos: Sequence[SourcePhoto], model: SelaVPR, batch_size: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a part, and a sentence for each photo that is not in it, by its number."""
    images: list[Image.Image] = []
    numbers: list[int] = []
    state: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    for i, photo in enumerate(photos):
        try:
            image, jpeg = stored_photo(photo.path)
        except PhotoError as error:
            problems[f"{i:03d}"] = str(error)
            continue
        images.append(image)
        numbers.append(i)
        state[f"{i}.photo"] = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    for i, features in zip(numbers, model.extract_each(images, batch_size=batch_size), strict=True):
        descriptor = features.descriptor[0].cpu().float().clone()
        # Half precision is far finer than the eight bits the index keeps.
        tokens = features.tokens[0].cpu().half().clone()
        if not (torch.isfinite(descriptor).all() and torch.isfinite(tokens).all()):
            raise IndexFileError(
                f"The model gives values that are not finite for {photos[i].path.name}; "
                "use another model, or precision float32."
            )
        state[f"{i}.descriptor"], state[f"{i}.tokens"] = descriptor, tokens
    return state, problems


def _write_part(path: Path, state: dict[str, Tensor], problems: dict[str, str]) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_bytes(safetensors.torch.save(state, metadata=problems))
    partial.replace(path)


def _read_part(path: Path) -> dict[str, Tensor] | None:
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
        return state
    except (OSError, SafetensorError):
        return None  # not made yet, or cut off when the power went


def _some_tokens(entry: Entry, count: int) -> Tensor:
    """Up to so many tokens of a photo ``[n, C]`` float32, evenly spread over it."""
    tokens = entry.tokens.flatten(0, 1)
    if len(tokens) <= count:
        return tokens.float()
    return tokens[torch.arange(count) * len(tokens) // count].float()


def _write_places(path: Path, places: Sequence[Place]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for p in places:
            heading = "" if p.heading is None else f"{p.heading:.1f}"
            position = (f"{p.location.latitude:.7f}", f"{p.location.longitude:.7f}")
            row = (p.place_id, p.image, *position, heading, p.captured_at, p.street)
            table.writerow((*row, p.credit, p.licence))


def _write_header(
    file: io.BufferedWriter, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def _clean(place: Place) -> Place:
    """Without the line breaks and control characters that a table cannot hold."""

    def plain(text: str) -> str:
        kept = (" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
        return "".join(kept).strip()

    texts: dict[str, Any] = {
        field.name: plain(getattr(place, field.name))
        for field in dataclasses.fields(place)
        if field.name not in ("location", "heading")
    }
    return dataclasses.replace(place, **texts)
