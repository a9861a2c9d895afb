"""Changes to a training photo that leave its place the same: another camera, hour, passer-by.

Rendered streets are cleaner than real ones; what is drawn here at random is what a network trained
on them must learn to look past.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Rng = np.random.Generator
Pixels = NDArray[np.float32]


def augment(
    photo: Image.Image, size: tuple[int, int], rng: Rng, strength: float = 1.0, zoom: float = 0.0
) -> Image.Image:
    """Draw another photo of the same place.

    Args:
        photo: RGB.
        size: ``(width, height)`` of the result.
        rng: the source of chance; the same state gives the same photo.
        strength: 0 only scales, 1 is strongest.
        zoom: share of its sides, below 1, that may be cut off even where the strength allows less;
            lenses differ by more than light does.

    Returns:
        An RGB image of that size.
    """
    if strength <= 0:
        return photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    moved = reframe(photo, size, rng, strength, zoom)
    pixels: Pixels = np.asarray(np.asarray(moved) / 255, np.float32)
    if rng.random() < 0.5 * strength:
        pixels = occlude(pixels, rng)
    pixels = relight(pixels, rng, strength)
    return degrade(pixels, rng, strength)


def reframe(
    photo: Image.Image, size: tuple[int, int], rng: Rng, strength: float, zoom: float = 0.0
) -> Image.Image:
    """Crop at random, tilt and turn a little: where the camera stood and how it was held.

    The crop has the shape of the result, up to a sixth narrower or wider, so that a wide photo
    gives an upright one by losing its sides, not by being squeezed.
    """
    width, height = photo.size
    aspect = size[0] / size[1] * np.exp(rng.uniform(-0.15, 0.15) * strength)
    share = 1 - rng.uniform(0, max(0.35 * strength, zoom))  # of the largest such crop, by side
    crop_w = share * min(width, height * aspect)
    crop_h = crop_w / aspect
    left = rng.uniform(0, width - crop_w)
    top = rng.uniform(0, height - crop_h)
    angle = np.radians(rng.normal(0, 3.0) * strength)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    unit = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    jitter = rng.uniform(-0.06, 0.06, (4, 2)) * strength
    corners = ((unit + jitter) * [crop_w, crop_h]) @ turn.T
    corners += [left + crop_w / 2, top + crop_h / 2]
    target = (unit + 0.5) * size
    # Pillow samples a transform at single points: scale down first, lest fine texture alias.
    shrink = max(1, int(crop_w // size[0]))
    if shrink > 1:
        photo, corners = photo.reduce(shrink), corners / shrink
    return photo.transform(
        size,
        Image.Transform.PERSPECTIVE,
        tuple(homography(target, corners)),
        Image.Resampling.BICUBIC,
    )


def homography(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """The eight coefficients (a..h) that take four points to four others, as Pillow wants them.

    x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1).

    Args:
        source: ``[4, 2]``.
        target: ``[4, 2]``.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))


def relight(pixels: Pixels, rng: Rng, strength: float) -> Pixels:
    """Another hour and another camera: exposure, contrast, colour, cast, a shadow across.

    Args:
        pixels: ``[H, W, 3]`` in 0 to 1.
        rng: the source of chance.
        strength: 0 to 1.
    """
    pixels = np.clip(pixels, 0, 1) ** np.exp(rng.normal(0, 0.35 * strength))
    pixels = (pixels - pixels.mean()) * np.exp(rng.normal(0, 0.2 * strength)) + pixels.mean()
    grey = pixels.mean(axis=2, keepdims=True)
    colour = 0.0 if rng.random() < 0.1 * strength else np.exp(rng.normal(0, 0.3 * strength))
    pixels = grey + (pixels - grey) * colour
    pixels = (
        pixels * np.exp(rng.normal(0, 0.08 * strength, 3)) * np.exp(rng.normal(0, 0.2 * strength))
    )
    if rng.random() < 0.3 * strength:
        # Light falls off across the picture, as a low sun or a lamp makes it.
        height, width = pixels.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * x + np.sin(angle) * y
        pixels = pixels * np.exp(rng.uniform(0, 0.6) * ramp)[..., None]
    return np.asarray(pixels, np.float32)


def occlude(pixels: Pixels, rng: Rng) -> Pixels:
    """Hide one to three patches, as people, cars and branches do; up to a third of each side."""
    height, width = pixels.shape[:2]
    pixels = pixels.copy()
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(int(rng.integers(1, 4))):
        h, w = rng.uniform(0.08, 0.35, 2) * (height, width)
        cy, cx = rng.uniform(0.3, 1.0) * height, rng.uniform(0, 1) * width
        u, v = np.abs(x - cx) / (w / 2), np.abs(y - cy) / (h / 2)
        # Between an ellipse (2) and a rectangle (large powers).
        power = rng.uniform(2, 8)
        hidden = u**power + v**power < 1
        fill = rng.uniform(0, 1, 3) + rng.normal(0, rng.uniform(0, 0.2), (height, width, 1))
        pixels[hidden] = np.broadcast_to(fill, pixels.shape)[hidden]
    return pixels


def degrade(pixels: Pixels, rng: Rng, strength: float) -> Image.Image:
    """Blur, noise and JPEG."""
    sigma = rng.exponential(0.015) * strength
    noisy = pixels + rng.normal(0, sigma, pixels.shape)
    image = Image.fromarray((np.clip(noisy, 0, 1) * 255).round().astype(np.uint8))
    if rng.random() < 0.4 * strength:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.5 * strength:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=int(rng.integers(25, 90)))
        image = Image.open(packed).convert("RGB")
    return image
