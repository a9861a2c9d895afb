"""What a real camera adds: falling rain or snow, haze, vignette, noise and JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from .conditions import Condition


def _streaks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rows, cols = shape
    layer = np.zeros((rows, cols), np.float32)
    for _ in range(rows * cols // 900):
        x, y = rng.integers(0, cols), rng.integers(0, rows)
        long = int(rng.integers(rows // 40, rows // 14))
        for k in range(long):
            yy, xx = y + k, x + k // 7
            if yy < rows and xx < cols:
                layer[yy, xx] = max(layer[yy, xx], rng.uniform(0.10, 0.22))
    return layer


def _flakes(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rows, cols = shape
    im = Image.new("L", (cols, rows))
    px = np.zeros((rows, cols), np.float32)
    count = rows * cols // 700
    y, x = rng.integers(0, rows, count), rng.integers(0, cols, count)
    px[y, x] = rng.uniform(0.5, 1.0, count)
    im = Image.fromarray((px * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rows / 500))
    layer = np.asarray(im, np.float32) / 255 * 3.0
    big = np.zeros((rows, cols), np.float32)
    count = rows * cols // 14000
    y, x = rng.integers(0, rows, count), rng.integers(0, cols, count)
    big[y, x] = 1.0
    soft = Image.fromarray((big * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(rows / 170)
    )
    peak = np.asarray(soft, np.float32)
    layer += peak / max(float(peak.max()), 1.0) * 0.7
    return np.clip(layer, 0, 0.85)


def automatic(im: np.ndarray, night: float) -> np.ndarray:
    """The camera's own exposure and white balance: lifts dark streets, tempers colour casts.

    Args:
        im: Display-referred picture `[H,W,3]` in 0 to 1.
        night: 1 after dark, when cameras leave the picture darker.
    """
    level = float(np.mean(np.sqrt(np.clip(im, 0, 1)))) ** 2
    target = 0.40 - 0.13 * night
    gamma = np.clip(np.log(target) / np.log(max(level, 1e-3)), 0.62, 1.12)
    im = np.clip(im, 0, None) ** gamma
    mean = im.mean(axis=(0, 1))
    im = im * (mean.mean() / np.maximum(mean, 1e-3)) ** (0.4 - 0.2 * night)
    im = np.clip(im, 0, 1)
    # A gentle S-curve, as cameras apply, after the lift of the shadows.
    return 0.7 * im + 0.3 * im * im * (3 - 2 * im)


def develop(source: Path, target: Path, c: Condition, seed: int, quality: int = 85) -> None:
    """Reads a clean render and writes the photograph."""
    rng = np.random.default_rng([seed, 13])
    im = np.asarray(Image.open(source).convert("RGB"), np.float32) / 255
    im = automatic(im, float(c.night > 0.5))
    rows, cols = im.shape[:2]
    if c.clutter == "rain":
        im = im + _streaks((rows, cols), rng)[..., None] * (0.9 - im)
    elif c.clutter == "snow":
        im = im + _flakes((rows, cols), rng)[..., None] * (0.97 - im)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    im = im * (1 - 0.10 * (x * x + y * y)[..., None])
    balance = 1 + rng.normal(0, 0.018, 3)
    im = im * balance * rng.uniform(0.95, 1.05)
    grain = 0.006 + 0.005 * float(c.night > 0.5)
    im = im + rng.normal(0, grain, im.shape) + rng.normal(0, grain * 0.5, (rows, cols, 1))
    out = Image.fromarray((np.clip(im, 0, 1) * 255).astype(np.uint8))
    partial = target.with_suffix(".part")
    out.save(partial, "JPEG", quality=quality, optimize=True)
    partial.replace(target)
