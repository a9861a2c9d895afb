"""Perspective views cut out of 360-degree panoramas, one photo per direction chosen.

A panorama is equirectangular: columns are directions, its middle column the heading of the picture;
rows are heights, from straight up to straight down. A view is what a camera without distortion
would have seen from the same point.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selavpr.errors import OptionError, PhotoError
from selavpr.images import load_image
from selavpr.sources import SourcePhoto

HEADINGS = (0.0, 90.0, 180.0, 270.0)
"""Directions cut when none are chosen; at 90 degrees of view they show all round once."""

FIELD_OF_VIEW = 90.0
SIZE = (640, 480)  # as large as an index keeps photos
QUALITY = 90
NAME_BYTES = 120
"""Of a panorama's path in the name of its views, from the end; 255 are a file system's most."""


def view(
    panorama: NDArray[np.uint8], turn: float, field_of_view: float = FIELD_OF_VIEW,
    size: tuple[int, int] = SIZE, pitch: float = 0.0,
) -> NDArray[np.uint8]:  # fmt: skip
    """Cut one view out of a panorama.

    Args:
        panorama: ``[H, W, 3]``, equirectangular.
        turn: direction of the view's middle in degrees clockwise from the panorama's middle.
        field_of_view: from the view's left edge to its right, in degrees.
        size: width and height of the view in pixels.
        pitch: degrees by which the camera looks up.

    Returns:
        ``[height, width, 3]``, bilinear; across the panorama's left and right edge as elsewhere.
    """
    height, width = panorama.shape[:2]
    longitude, latitude = directions(turn, field_of_view, size, pitch)
    # Pixel centres: column 0 lies half a pixel right of -180 degrees.
    x = (longitude / 360 + 0.5) * width - 0.5
    y = np.clip((0.5 - latitude / 180) * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_part = (x - left)[..., None].astype(np.float32)
    low_part = (y - top)[..., None].astype(np.float32)
    columns = left % width, (left + 1) % width
    rows = top, np.minimum(top + 1, height - 1)
    upper, lower = (
        panorama[row, columns[0]] * (1 - right_part) + panorama[row, columns[1]] * right_part
        for row in rows
    )
    pixels: NDArray[np.uint8] = np.rint(upper * (1 - low_part) + lower * low_part).astype(np.uint8)
    return pixels


def directions(
    turn: float, field_of_view: float, size: tuple[int, int], pitch: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixels of a view look.

    Returns:
        ``[height, width]`` each: degrees clockwise from the panorama's middle, -180 to 180, and
        degrees above the horizon.

    Raises:
        OptionError: no plane shows such a field of view, or the view has no pixels.
    """
    width, height = size
    if not 1 <= field_of_view <= 150:
        raise OptionError(f"A field of view must be 1 to 150 degrees, not {field_of_view}.")
    if width < 1 or height < 1:
        raise OptionError(f"A view must have pixels, not {width} x {height}.")
    focal = width / 2 / math.tan(math.radians(field_of_view) / 2)
    right, down = np.meshgrid(
        np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2
    )
    tilt = math.radians(pitch)
    ahead = focal * math.cos(tilt) + down * math.sin(tilt)
    up = focal * math.sin(tilt) - down * math.cos(tilt)
    longitude = np.degrees(np.arctan2(right, ahead)) + turn
    return (longitude + 180) % 360 - 180, np.degrees(np.arctan2(up, np.hypot(right, ahead)))


def views_of(
    photo: SourcePhoto, folder: Path, headings: Sequence[float], field_of_view: float
) -> list[SourcePhoto]:
    """Cut the views of one panorama into a folder; those that are there are not cut again.

    Args:
        photo: the panorama; its heading is that of its middle. Without one, ``headings`` count
            from the middle and the views have no heading either.
        folder: for the views; it exists.
        headings: degrees clockwise from north.
        field_of_view: in degrees.

    Raises:
        PhotoError: the panorama cannot be read, or is not twice as wide as high.
        OSError: a view cannot be written.
    """
    place = photo.place
    middle = place.heading or 0.0
    name = place.image.removeprefix("images/").removesuffix(".jpg").replace("/", "_")
    name = name.encode()[-NAME_BYTES:].decode(errors="ignore")
    # Views of other panoramas, and of one that was changed, have other names.
    key = hashlib.sha256(repr(_state(photo.path)).encode("utf-8", "replace")).hexdigest()[:8]
    pixels: NDArray[np.uint8] | None = None
    found = []
    for heading in headings:
        turn = (heading - middle) % 360
        path = folder / f"{name}-{key}-{turn:05.1f}-{field_of_view:g}.jpg"
        if not path.exists():
            if pixels is None:
                pixels = _read(photo.path)
            partial = path.with_suffix(".part")
            cut = Image.fromarray(view(pixels, turn, field_of_view))
            cut.save(partial, "JPEG", quality=QUALITY)
            partial.replace(path)
        known = None if place.heading is None else heading % 360
        about: dict[str, Any] = {
            "place_id": f"{place.place_id}-{heading:03g}",
            "image": f"images/{name}-{heading:03g}.jpg",
            "heading": known,
        }
        found.append(SourcePhoto(path, dataclasses.replace(place, **about)))
    return found


def cut_all(
    photos: Sequence[SourcePhoto],
    panoramas: Collection[Path],
    folder: Path,
    problems: list[str],
    *,
    headings: Sequence[float] = HEADINGS,
    field_of_view: float = FIELD_OF_VIEW,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SourcePhoto]:
    """The photos with every panorama among them replaced by its views.

    Args:
        photos: all.
        panoramas: files that are panoramas.
        folder: for the views; made if need be.
        problems: a sentence is added for each panorama that cannot be used.
        headings: see ``views_of``.
        field_of_view: see ``views_of``.
        progress: called with panoramas done and their number.

    Raises:
        OptionError: the views cannot be written.
    """
    found: list[SourcePhoto] = []
    done, total = 0, sum(photo.path in panoramas for photo in photos)
    for photo in photos:
        if photo.path not in panoramas:
            found.append(photo)
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found += views_of(photo, folder, headings, field_of_view)
        except PhotoError as error:
            problems.append(str(error))
        except OSError as error:
            raise OptionError(
                f"Cannot write views to {folder}: {error.strerror or error}."
            ) from error
        done += 1
        progress(done, total)
    return found


def _read(path: Path) -> NDArray[np.uint8]:
    image = load_image(path)
    width, height = image.size
    if abs(width - 2 * height) > 0.01 * width:
        raise PhotoError(
            f"{path.name} is said to be a panorama of 360 degrees, but {width} x {height} pixels "
            "are not twice as wide as high."
        )
    pixels: NDArray[np.uint8] = np.asarray(image, dtype=np.uint8)
    return pixels


def _state(path: Path) -> tuple[str, int, int]:
    """Tells a file from others and from itself after a change; no file is like one of no bytes."""
    try:
        about = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path.resolve()), about.st_size, about.st_mtime_ns
