"""From photos to an index: extract, keep what is done, write, swap.

A build that was stopped, by whatever, goes on from the last whole part and gives the same bytes as
one that was not: both read every feature back from the parts. Memory is bounded by a part and the
global descriptors, whatever the number of photos. ``writing`` says where it all lies meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Protocol

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from selavpr.errors import IndexFileError, OptionError, PhotoError
from selavpr.featurecache import any_readable, file_states
from selavpr.images import load_image
from selavpr.index import PlaceIndex
from selavpr.indexfiles import (
    OWN_FILES,
    Manifest,
    check_basemap,
    holds_index,
    is_inside,
    read_manifest,
)
from selavpr.localcodecs import CODECS, TokensCodec
from selavpr.model import SelaVPR
from selavpr.searchers import SEARCHES, Search
from selavpr.sources import SourcePhoto, clean
from selavpr.weights import digest
from selavpr.writing import Entries, Entry, replacing, write

__all__ = ["DEFAULT_BYTES", "Engine", "Entry", "build", "extracted", "stored_photo", "write"]

PART = 16
"""Photos per saved part: some five seconds of work on two cores, all that a stop can cost."""

STORED_SIDE = 640
STORED_QUALITY = 75
"""Longest side and JPEG quality of the photos kept in the index: for people to look at."""

JPEG_HEAD, JPEG_END = 20, b"\xff\xd9"
"""Bytes of a JPEG's beginning, with the size of the small picture in it; and a JPEG's end."""

DEFAULT_BYTES = TokensCodec.DEFAULT_BYTES
"""What the tokens of a photo take in the index, at most, unless ``rank`` says otherwise."""

Progress = Callable[[int, int], None]


class Engine(Protocol):
    """Where photos are opened and their features extracted: here, or elsewhere (``rayengine``)."""

    @property
    def workers(self) -> int:
        """Groups that are worked on at a time."""

    def decides(self, model: SelaVPR) -> tuple[str, int]:
        """What of the machines decides the last bits: type of device, threads (0 on a GPU)."""

    def parts(
        self, groups: Mapping[int, Sequence[Path]], model: SelaVPR, batch_size: int
    ) -> Iterator[tuple[int, bytes]]:
        """The part of each group of photos, see ``part_of``, with its number.

        In any order, each as soon as it is made.

        Raises:
            IndexFileError: the model gives no usable features, or the machines fail.
        """


class _OneProcess:
    """Everything in this process, one group after another."""

    workers = 1

    def decides(self, model: SelaVPR) -> tuple[str, int]:
        kind = model.device.type
        return kind, torch.get_num_threads() if kind == "cpu" else 0

    def parts(
        self, groups: Mapping[int, Sequence[Path]], model: SelaVPR, batch_size: int
    ) -> Iterator[tuple[int, bytes]]:
        for number, photos in groups.items():
            yield number, part_of(photos, model, batch_size)


ONE_PROCESS: Engine = _OneProcess()


def build(
    out: str | os.PathLike[str],
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    manifest: Manifest,
    *,
    local: str = "tokens",
    rank: int | None = None,
    search: Search = "auto",
    basemap: Path | None = None,
    batch_size: int = 8,
    progress: Progress = lambda done, total: None,
    engine: Engine = ONE_PROCESS,
    resume: bool = True,
) -> tuple[PlaceIndex, list[str]]:
    """Build an index folder; an interrupted build with the same photos and model is resumed.

    Args:
        out: the index folder to make, or to replace when the new one is whole. Files in it that
            are none of the index's stay.
        photos: where the photos are and what is known of their places.
        model: extracts the features; the index will be bound to it.
        manifest: name, title, licence and attribution; the rest is filled in.
        local: how local features are kept: ``"tokens"``, ``"dense"``, ``"keypoint"``,
            ``"product"`` or ``"none"``, see ``localcodecs``.
        rank: components kept of each token (tokens), bytes per descriptor (product), or
            descriptors per photo (keypoint); None for the default of each.
        search: ``"flat"`` is exact, ``"ivf"`` is for many photos, ``"auto"`` chooses; the
            manifest's ``search`` says what it costs.
        basemap: a GeoJSON FeatureCollection to copy in.
        batch_size: photos per pass through the network.
        progress: called with photos done and photos in all.
        engine: makes the features.
        resume: go on from what a stopped build has left; else that is deleted first.

    Returns:
        The opened index, and a sentence for each photo that could not be used.

    Raises:
        OptionError: there are no photos, ids or image paths repeat, an option is out of range, or
            the basemap is none.
        IndexFileError: no photo was usable, another build of this index is running, the folder
            cannot be written, or the engine fails.
    """
    out = Path(out).resolve()
    _check(out, photos, batch_size, basemap)
    if local not in CODECS:
        raise OptionError(f"local must be one of {', '.join(CODECS)}, not {local!r}.")
    if search not in SEARCHES:
        raise OptionError(f"search must be one of {', '.join(SEARCHES)}, not {search!r}.")
    if rank is not None and rank < 1:
        raise OptionError(f"rank must be 1 or more, not {rank}.")
    manifest = dataclasses.replace(manifest, fingerprint=model.fingerprint())
    with replacing(out) as new:
        if not resume:
            shutil.rmtree(new.parent / "parts", ignore_errors=True)
        entries, problems = extracted(
            new.parent / "parts", photos, model, batch_size, progress, engine
        )
        if not write(
            new, entries, manifest,
            network=model, local=local, rank=rank, search=search, basemap=basemap,
        ):  # fmt: skip
            raise IndexFileError(f"None of the {len(photos)} photos is usable. {problems[0]}")
    return PlaceIndex.open(out), problems


def _check(out: Path, photos: Sequence[SourcePhoto], batch_size: int, basemap: Path | None) -> None:
    """Find out before hours of work what would make them useless."""
    check_place(out)
    if batch_size < 1:
        raise OptionError(f"batch size must be 1 or more, not {batch_size}.")
    if basemap is not None:
        check_basemap(basemap)
    check_photos(photos)


def check_place(out: Path) -> None:
    """Whether an index may be put there: nothing of another kind is replaced.

    Raises:
        IndexFileError: there is a file, or a folder that holds something else.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError as error:  # libraries that are to write there refuse it
        raise IndexFileError(f"The name {str(out)!r} is no UTF-8; choose another place.") from error
    if holds_index(out):
        try:
            read_manifest(out)
        except IndexFileError as error:  # other programs write a manifest.json, too
            raise IndexFileError(
                f"{out} holds no index that could be replaced: {error} Choose another place, or "
                "delete it yourself."
            ) from error
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFileError(f"{out} exists and is not an index; choose another place.")


def check_photos(photos: Sequence[SourcePhoto]) -> None:
    """Whether ids and names are such as an index can hold.

    Raises:
        OptionError: there are no photos, or an id or image repeats or is no name for a file.
    """
    if not photos:
        raise OptionError("There are no photos to index.")
    places = [clean(photo.place) for photo in photos]  # as they will be written
    for what in ("place_id", "image"):
        seen: set[str] = set()
        for place in places:
            value = getattr(place, what)
            if value in seen:
                raise OptionError(f"The {what} {value!r} appears twice; each must be unique.")
            seen.add(value)
    for place in places:
        image = place.image
        if not is_inside(image) or PurePosixPath(image).parts[0] in OWN_FILES:
            raise OptionError(f"{image!r} is no path for a photo inside an index.")


def extracted(
    folder: Path,
    photos: Sequence[SourcePhoto],
    model: SelaVPR,
    batch_size: int,
    progress: Progress,
    engine: Engine = ONE_PROCESS,
) -> tuple[Entries, list[str]]:
    """Features of photos, kept in parts in a folder; parts that are there are not made again.

    A part is the same whichever engine makes it: passes through the network never cross its ends.

    Args:
        folder: for the parts.
        photos: where they are.
        model: extracts the features.
        batch_size: photos per pass.
        progress: called with photos done and photos in all.
        engine: makes the parts.

    Returns:
        The entries, and a sentence for each photo that could not be used.

    Raises:
        IndexFileError: the model gives no usable features, or the engine fails.
        OSError: a part cannot be written.
    """
    folder.mkdir(exist_ok=True)
    about = [model.fingerprint(), str(model.precision), *engine.decides(model), batch_size]
    parts: list[tuple[Sequence[SourcePhoto], Path]] = []
    for start in range(0, len(photos), PART):
        group = photos[start : start + PART]
        key = digest([*about, file_states(photo.path for photo in group)])
        parts.append((group, folder / f"{key.partition(':')[2]}.safetensors"))
    missing = {
        number: [photo.path for photo in group]
        for number, (group, path) in enumerate(parts)
        if (left_out := _problems(path)) is None or any_readable(group[i].path for i in left_out)
    }
    done = len(photos) - sum(len(paths) for paths in missing.values())
    if done:
        progress(done, len(photos))
    for number, part in engine.parts(missing, model, batch_size) if missing else ():
        _write_part(parts[number][1], part)
        done += len(missing[number])
        progress(done, len(photos))
    problems: list[str] = []
    for _, path in parts:
        found = _problems(path)
        if found is None:
            raise _damaged(path)
        problems += found.values()
    return _Entries(parts), problems


class _Entries:
    """The entries in the saved parts, read again on every pass, one part in memory at a time."""

    def __init__(self, parts: Sequence[tuple[Sequence[SourcePhoto], Path]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Entry]:
        for photos, path in self._parts:
            part = _read_part(path)
            if part is None:
                raise _damaged(path)
            for i, photo in enumerate(photos):
                if f"{i}.descriptor" in part:
                    yield Entry(
                        photo.place,
                        part[f"{i}.photo"].numpy().tobytes(),
                        part[f"{i}.descriptor"],
                        part[f"{i}.tokens"],
                    )


def stored_photo(path: Path) -> tuple[Image.Image, bytes]:
    """A photo, and the JPEG that the index keeps of it: upright, bounded, without metadata.

    A photo that an index has kept already is kept as it is, so that an index made anew from its own
    photos, for another model, loses nothing.

    Raises:
        PhotoError: the photo cannot be used.
    """
    image = load_image(path)
    if (kept := _stored_before(path)) is not None:
        return image, kept
    small = image.copy()
    small.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.LANCZOS)
    return image, _jpeg(small)


def _stored_before(path: Path) -> bytes | None:
    """The bytes of a readable photo that is a JPEG as ``stored_photo`` makes it, and no more."""
    with Image.open(path) as image:
        if image.format != "JPEG" or image.mode != "RGB" or max(image.size) > STORED_SIDE:
            return None
        head, tables, notes = _stored_like()
        if image.quantization != tables or image.info.keys() != notes:  # type: ignore[attr-defined]
            return None
        if [name for name, _ in image.applist] != ["APP0"]:  # type: ignore[attr-defined]
            return None
    # The head may hold no small picture, and nothing may follow the end of the large one, a marker
    # that no picture's data contain.
    data = path.read_bytes()
    whole = data.startswith(head) and data.find(JPEG_END) == len(data) - len(JPEG_END)
    return data if whole else None


@functools.cache
def _stored_like() -> tuple[bytes, dict[int, list[int]], frozenset[str]]:
    """Head, quantisation tables and notes of every JPEG that ``stored_photo`` makes."""
    made = _jpeg(Image.new("RGB", (8, 8)))
    with Image.open(io.BytesIO(made)) as image:
        tables: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined]
        return made[:JPEG_HEAD], tables, frozenset(str(key) for key in image.info)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=STORED_QUALITY, optimize=True, progressive=True)
    return buffer.getvalue()


def part_of(photos: Sequence[Path], model: SelaVPR, batch_size: int) -> bytes:
    """The features of a few photos as a part keeps them.

    Args:
        photos: where they are.
        model: extracts.
        batch_size: photos per pass.

    Returns:
        A safetensors file: of each usable photo, by its number, the JPEG to store (uint8),
        ``descriptor [D]`` float32 and ``tokens [h, w, C]`` float16; of each other photo a sentence
        in the metadata.

    Raises:
        IndexFileError: the model gives values that are not finite.
    """
    images: list[Image.Image] = []
    numbers: list[int] = []
    state: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow decodes without the GIL
        opened = list(pool.map(_opened, photos))
    for i, found in enumerate(opened):
        if isinstance(found, PhotoError):
            # A name that is no UTF-8 may stand in it.
            problems[f"{i:03d}"] = str(found).encode("utf-8", "replace").decode()
            continue
        image, jpeg = found
        images.append(image)
        numbers.append(i)
        state[f"{i}.photo"] = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
    for i, features in zip(numbers, model.extract_each(images, batch_size=batch_size), strict=True):
        descriptor = features.descriptor[0].cpu().float().clone()
        # Half precision is far finer than the eight bits the index keeps.
        tokens = features.tokens[0].cpu().half().clone()
        if not (torch.isfinite(descriptor).all() and torch.isfinite(tokens).all()):
            raise IndexFileError(
                f"The model gives values that are not finite for {photos[i].name}; "
                "use another model, or precision float32."
            )
        state[f"{i}.descriptor"], state[f"{i}.tokens"] = descriptor, tokens
    made: bytes = safetensors.torch.save(state, metadata=problems)
    return made


def _opened(path: Path) -> tuple[Image.Image, bytes] | PhotoError:
    try:
        return stored_photo(path)
    except PhotoError as error:
        return error


def _write_part(path: Path, part: bytes) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_bytes(part)
    partial.replace(path)


def _read_part(path: Path) -> dict[str, Tensor] | None:
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
        return state
    except (OSError, SafetensorError):
        return None


def _problems(path: Path) -> dict[int, str] | None:
    """What a part says of photos that could not be used; None where there is no whole part."""
    try:
        with safetensors.safe_open(path, framework="pt") as part:
            return {int(i): text for i, text in sorted((part.metadata() or {}).items())}
    except (OSError, SafetensorError):
        return None  # not made yet, or cut off when the power went


def _damaged(path: Path) -> IndexFileError:
    return IndexFileError(f"{path} was damaged meanwhile; start the build again.")
