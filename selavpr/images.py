"""Photos in: open safely, upright RGB, bounded size; then tensors as the network wants them."""

from __future__ import annotations

import functools
import io
import math
import os.path
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from selavpr.errors import PhotoError
from selavpr.structs import PATCH, ModelConfig

PhotoSource = str | PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]

MAX_PIXELS = 64_000_000
"""Largest photo that is decoded: 50-megapixel phones pass, a 100-megapixel bomb does not."""

MIN_SIDE = 28
"""Smallest usable side: two patches."""

MAX_SIDE_RATIO = 16
"""Longest side over shortest. A narrower strip shows no place, could be stored at 640 pixels with
less than ``MIN_SIDE`` across, and beside another one its matches would fit in no WebP picture."""

MAX_ASPECT = 3.0
"""Wider (or taller) photos are squashed to this aspect when the aspect is kept."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Files that hold several frames on purpose yet show one photo: MPO is what many phones call a JPEG
# with a depth map or preview behind it; HEIF keeps the photo's auxiliary pictures.
_MULTI_FRAME_PHOTOS = {"MPO", "HEIF"}

# Named one by one: Pillow's other readers include EPS, which starts Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


def load_image(source: PhotoSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a photo as upright 8-bit RGB.

    JPEG, PNG, WebP, HEIC, AVIF, TIFF, BMP, GIF and what else Pillow reads; 16-bit, CMYK, palette,
    grey and transparent ones too (transparency is laid over white). The EXIF rotation is applied;
    nothing else of the EXIF data is read or kept.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array ``[H, W]``, ``[H, W, 1]``,
            ``[H, W, 3]`` or ``[H, W, 4]`` of uint8, uint16, bool, or floats in [0, 1].
        max_pixels: larger photos are refused before they are decoded.

    Returns:
        An RGB image of at least 28 x 28 pixels, its longer side at most 16 times the shorter,
        without metadata.

    Raises:
        PhotoError: no such file, not a photo, cut off, animated, empty, too small, too large or
            too narrow.
    """
    if isinstance(source, np.ndarray):
        return _checked(_from_array(source), max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, max_pixels, "The photo")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), max_pixels, "The photo")
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        if not os.path.isfile(path):  # unlike Path.is_file, false for names no system can hold
            raise PhotoError(f"There is no photo at {path}.")
        return _open(path, max_pixels, path.name)
    raise PhotoError(
        f"A photo must be a path, bytes, a PIL image or an array, not {type(source).__name__}."
    )


def preprocess(
    photo: Image.Image, config: ModelConfig, device: str | torch.device = "cpu"
) -> Tensor:
    """Turn an RGB photo into the network's input.

    Without antialias this is the reference's evaluation: scale to [0, 1], normalise by ImageNet's
    mean and deviation, then resize the tensor bilinearly. With antialias Pillow resizes first.

    Args:
        photo: RGB.
        config: gives size, aspect and antialias.
        device: where the tensor is made, and resized where Pillow does not.

    Returns:
        ``[3, H, W]`` float32; ``(H, W)`` is ``network_size(photo.size, config)``.
    """
    height, width = network_size(photo.size, config)
    if config.antialias:
        photo = photo.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    tensor = normalise(photo, device)
    if tensor.shape[1:] != (height, width):
        tensor = torch.nn.functional.interpolate(
            tensor[None], size=(height, width), mode="bilinear", align_corners=False
        )[0]
    return tensor


def normalise(photo: Image.Image, device: str | torch.device = "cpu") -> Tensor:
    """``[3, H, W]`` float32 of an RGB photo: scaled to [0, 1], then by ImageNet's statistics."""
    return standardise(torch.from_numpy(np.array(photo, dtype=np.uint8)).to(device))


def standardise(pixels: Tensor) -> Tensor:
    """``[..., 3, H, W]`` float32 of ``[..., H, W, 3]`` uint8; see ``normalise``."""
    pixels = pixels.movedim(-1, -3)
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=pixels.device).view(3, 1, 1)
    return pixels.to(torch.float32).div_(255.0).sub_(mean).div_(std)


def network_size(photo_size: tuple[int, int], config: ModelConfig) -> tuple[int, int]:
    """Height and width, multiples of 14, at which a photo enters the network.

    Args:
        photo_size: ``(width, height)`` in pixels, as ``Image.size``.
        config: ``"squash"`` gives the square ``input_size``; ``"keep-aspect"`` gives the same
            number of pixels in the photo's shape, to the nearest patch.
    """
    if config.resize == "squash":
        return config.input_size, config.input_size
    aspect = min(max(photo_size[0] / photo_size[1], 1 / MAX_ASPECT), MAX_ASPECT)
    side = config.input_size / PATCH
    rows = max(1, round(side / math.sqrt(aspect)))
    columns = max(1, round(side * math.sqrt(aspect)))
    return rows * PATCH, columns * PATCH


def batches(sizes: Sequence[tuple[int, int]], limit: int) -> list[list[int]]:
    """Group photo numbers so that each group has one size and at most ``limit`` members."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate(sizes):
        groups.setdefault(size, []).append(i)
    return [g[i : i + limit] for g in groups.values() for i in range(0, len(g), limit)]


@functools.cache
def register_heif() -> None:
    """Teach Pillow HEIC, once."""
    pillow_heif.register_heif_opener()


def _open(file: Path | io.BytesIO, max_pixels: int, name: str) -> Image.Image:
    register_heif()
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _decode(image, max_pixels, name)
    except UnidentifiedImageError as error:
        raise PhotoError(
            f"{name} is not a photo this app can read; use JPEG, PNG, WebP, HEIC or AVIF."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(_too_large(name, max_pixels)) from error
    except PhotoError:
        raise
    except OSError as error:
        raise PhotoError(f"{name} is cut off or damaged and cannot be read: {error}.") from error
    except Exception as error:
        # Pillow's plugins raise all sorts on malformed files (SyntaxError, struct.error, ...).
        raise PhotoError(f"{name} is damaged and cannot be read.") from error


def _too_large(name: str, max_pixels: int) -> str:
    return f"{name} is larger than {max_pixels / 1e6:.0f} megapixels; scale it down first."


def _decode(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoError(_too_large(name, max_pixels))
    # Not n_frames: a GIF or TIFF of a million pages would be walked through to count them.
    if getattr(image, "is_animated", False) and image.format not in _MULTI_FRAME_PHOTOS:
        raise PhotoError(f"{name} is an animation or has several pages; save one picture of it.")
    try:
        image.load()
        rgb = _to_rgb(_upright(image), name)
    except PhotoError:
        raise
    except Exception as error:
        # Pillow raises all sorts on malformed files and odd modes.
        raise PhotoError(f"{name} is cut off or damaged and cannot be read: {error}.") from error
    return _checked(rgb, max_pixels, name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it all the same
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF is common and says nothing about the pixels: show the photo as it is stored.
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greys. Mode "I" is 32-bit, but PNG and TIFF fill it from 16-bit files.
        return _from_array(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
    if image.mode == "F":
        raise PhotoError(f"{name} holds floating-point values; save it as 8- or 16-bit.")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(canvas, image)
    # Metadata lie in info and beside it; a fresh image carries none.
    clean = Image.new("RGB", image.size)
    clean.paste(image if image.mode == "RGB" else image.convert("RGB"))
    return clean


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise PhotoError(
            f"An array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not {list(array.shape)}."
        )
    if not array.size:
        raise PhotoError("The photo has no pixels.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise PhotoError("An array of floats must hold values from 0 to 1.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PhotoError(f"An array must be uint8, uint16, bool or float, not {array.dtype}.")
    image = Image.fromarray(np.ascontiguousarray(array))
    return _to_rgb(image, "The photo")


def _checked(image: Image.Image, max_pixels: int, name: str = "The photo") -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise PhotoError(_too_large(name, max_pixels))
    if min(width, height) < MIN_SIDE:
        raise PhotoError(
            f"{name} is {width} x {height} pixels; at least {MIN_SIDE} on each side are needed."
        )
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise PhotoError(
            f"{name} is {width} x {height} pixels, a strip more than {MAX_SIDE_RATIO} times as "
            "long as wide; cut a shorter piece out of it."
        )
    return image
