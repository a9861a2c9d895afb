"""Tileable textures, signs and skies, all made here from seeded noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .osm import City

SIZE = 512
_FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSerif-Bold.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf",
)


def noise(size: int, power: float, rng: np.random.Generator, stretch: float = 1.0) -> np.ndarray:
    """Periodic 1/f^power noise `[size,size]` with mean 0 and standard deviation 1."""
    f = np.fft.fftfreq(size) * size
    fx, fy = np.meshgrid(f, f * stretch)
    radius = np.hypot(fx, fy)
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) / radius**power
    field = np.fft.ifft2(spectrum).real
    return (field - field.mean()) / field.std()


def _grid(size: int, rows: int, cols: int, bond: float, joint: float) -> tuple[np.ndarray, ...]:
    """Masonry: block index per pixel `[size,size]` and the joint mask (1 in a joint)."""
    y, x = np.mgrid[0:size, 0:size] / size
    row = np.floor(y * rows).astype(int)
    shifted = x * cols + (row % 2) * bond
    col = np.floor(shifted).astype(int) % cols
    fy, fx = y * rows % 1.0, shifted % 1.0
    edge = np.minimum(np.minimum(fy, 1 - fy) / rows, np.minimum(fx, 1 - fx) / cols)
    mask = np.clip(1.0 - edge / joint, 0.0, 1.0)
    return row * cols + col, mask


def _masonry(
    rng: np.random.Generator, rows: int, cols: int, joint: float, spread: float, dark: float
) -> tuple[np.ndarray, np.ndarray]:
    index, mask = _grid(SIZE, rows, cols, 0.5, joint)
    shade = rng.normal(1.0, spread, rows * cols)[index]
    grain = 1.0 + 0.06 * noise(SIZE, 0.6, rng) + 0.05 * noise(SIZE, 1.5, rng)
    albedo = shade * grain * (1 - mask) + dark * mask
    height = 0.6 * (1 - mask) + 0.03 * noise(SIZE, 0.9, rng)
    return albedo, height


def _plaster(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    streaks = noise(SIZE, 1.4, rng, stretch=0.18)
    albedo = 1.0 + 0.035 * noise(SIZE, 1.6, rng) + 0.03 * streaks + 0.02 * noise(SIZE, 0.3, rng)
    return albedo, 0.5 + 0.05 * noise(SIZE, 0.7, rng)


def _asphalt(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    grain = noise(SIZE, 0.1, rng)
    albedo = 1.0 + 0.12 * grain + 0.10 * noise(SIZE, 1.5, rng)
    cracks = np.abs(noise(SIZE, 1.8, rng)) < 0.012
    soft = Image.fromarray((cracks * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    albedo *= 1.0 - 0.5 * np.asarray(soft) / 255.0
    return albedo, 0.5 + 0.12 * grain


def _slabs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return _masonry(rng, 8, 6, 0.006, 0.06, 0.55)


def _setts(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    index, mask = _grid(SIZE, 20, 14, 0.5, 0.011)
    albedo = rng.normal(1.0, 0.13, 280)[index] * (1 - mask) + 0.45 * mask
    return albedo * (1 + 0.08 * noise(SIZE, 0.5, rng)), 0.8 * (1 - mask) ** 0.5


def _seam(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = np.mgrid[0:SIZE, 0:SIZE][1] / SIZE * 6 % 1.0
    ridge = np.clip(1 - np.minimum(x, 1 - x) / 0.06, 0, 1)
    albedo = 1.0 + 0.06 * noise(SIZE, 1.5, rng) - 0.15 * ridge
    return albedo, ridge


def _grass(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return 1 + 0.25 * noise(SIZE, 0.4, rng) + 0.15 * noise(SIZE, 1.6, rng), noise(SIZE, 0.3, rng)


def _concrete(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    index, mask = _grid(SIZE, 2, 2, 0.0, 0.005)
    albedo = rng.normal(1.0, 0.03, 4)[index] + 0.04 * noise(SIZE, 1.5, rng) - 0.4 * mask
    return albedo, 0.6 * (1 - mask) + 0.03 * noise(SIZE, 0.6, rng)


TILES: dict[str, tuple[float, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]]] = {
    "plaster": (6.0, _plaster),
    "brick": (2.0, lambda r: _masonry(r, 27, 8, 0.0045, 0.12, 1.25)),
    "ashlar": (3.6, lambda r: _masonry(r, 8, 4, 0.006, 0.09, 0.5)),
    "cladding": (4.8, lambda r: _masonry(r, 8, 6, 0.0025, 0.05, 0.6)),
    "concrete": (6.4, _concrete),
    "asphalt": (5.0, _asphalt),
    "slabs": (2.8, _slabs),
    "setts": (2.2, _setts),
    "seam": (3.6, _seam),
    "grass": (3.0, _grass),
}
"""Texture name to (metres per tile, maker of albedo around 1 and height around 0.5)."""


def write_tiles(folder: Path, seed: int = 7) -> None:
    """Writes every tile as `<name>.png` (grey albedo, 0.5 = tint as given) and `_h.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, make) in TILES.items():
        if (folder / f"{name}_h.png").exists():
            continue
        digest = int(hashlib.sha256(f"{seed}{name}".encode()).hexdigest()[:8], 16)
        albedo, height = make(np.random.default_rng(digest))
        for array, suffix in ((albedo * 0.5, ""), (height, "_h")):
            grey = (np.clip(array, 0, 1) * 255).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{name}{suffix}.png")


def _room(rng: np.random.Generator, size: int) -> Image.Image:
    """What one sees through a window: a dim room, curtains, a blind, a lamp, plants."""
    base = rng.uniform(0.05, 0.16)
    warm = np.array([1.0, 0.92, 0.8]) * base
    im = Image.new("RGB", (size, size), tuple(int(255 * c) for c in warm))
    d = ImageDraw.Draw(im)
    d.rectangle([0, 0, size, int(size * 0.22)], fill=tuple(int(255 * c * 1.6) for c in warm))
    if rng.random() < 0.5:
        x = rng.integers(0, size)
        d.rectangle([x, size // 3, x + size // 4, size], fill=(34, 26, 20))
    if rng.random() < 0.4:
        x, y = rng.integers(10, size - 10, 2)
        d.ellipse([x - 8, y // 3, x + 8, y // 3 + 12], fill=(235, 215, 160))
    kind = rng.random()
    tone = int(rng.uniform(120, 225))
    cloth = (tone, int(tone * rng.uniform(0.9, 1)), int(tone * rng.uniform(0.78, 1)))
    if kind < 0.45:
        width = int(size * rng.uniform(0.1, 0.3))
        for x in range(0, width, 3):
            k = 0.75 + 0.25 * np.sin(x * 0.9)
            fold = tuple(int(c * k) for c in cloth)
            d.rectangle([x, 0, x + 2, size], fill=fold)
            d.rectangle([size - x - 3, 0, size - x, size], fill=fold)
    elif kind < 0.7:
        depth = int(size * rng.uniform(0.15, 0.9))
        for y in range(0, depth, 5):
            d.rectangle([0, y, size, y + 3], fill=cloth)
    if rng.random() < 0.35:
        for _ in range(rng.integers(1, 4)):
            x = int(rng.integers(10, size - 10))
            for _ in range(14):
                dx, dy = rng.normal(0, 7, 2)
                y = size - 16 + dy
                d.ellipse([x + dx - 3, y - 3, x + dx + 3, y + 3], fill=(40, 78, 34))
            d.rectangle([x - 5, size - 10, x + 5, size], fill=(130, 80, 60))
    return im.filter(ImageFilter.GaussianBlur(0.8))


def _muted(rng: np.random.Generator, low: int, high: int, chroma: float) -> np.ndarray:
    """A random colour `[3]` whose saturation is cut, as real goods are seldom pure."""
    colour = rng.integers(low, high, 3).astype(float)
    return colour.mean() + chroma * (colour - colour.mean())


def _shop(rng: np.random.Generator, size: int) -> Image.Image:
    """A shop window: shelves or rails with coloured goods, posters, lamps in the ceiling."""
    wall = _muted(rng, 60, 190, 0.25)
    im = Image.new("RGB", (size, size), tuple(int(c) for c in wall * 0.55))
    d = ImageDraw.Draw(im)
    d.rectangle([0, 0, size, size // 6], fill=tuple(int(c) for c in wall * 0.4))
    for x in range(8, size, 24):
        d.ellipse([x, 4, x + 7, 9], fill=(255, 244, 214))
    accent = _muted(rng, 30, 230, 0.6)
    kind = rng.integers(0, 4)
    if kind == 0:
        for y in range(size // 4, size - 6, size // 6):
            d.rectangle([0, y + size // 8, size, y + size // 8 + 2], fill=(60, 50, 45))
            x = 2
            while x < size:
                w, h = int(rng.integers(4, 12)), int(rng.integers(6, size // 8))
                c = np.clip(accent + rng.normal(0, 30) + rng.normal(0, 22, 3), 20, 250)
                d.rectangle([x, y + size // 8 - h, x + w, y + size // 8], fill=tuple(map(int, c)))
                x += w + int(rng.integers(1, 6))
    elif kind == 1:
        for _ in range(rng.integers(2, 4)):
            x = int(rng.integers(14, size - 14))
            c = tuple(map(int, np.clip(accent + rng.normal(0, 40) + rng.normal(0, 20, 3), 20, 250)))
            d.ellipse([x - 5, size * 0.3, x + 5, size * 0.4], fill=(222, 198, 178))
            body = [
                (x - 10, size * 0.42),
                (x + 10, size * 0.42),
                (x + 13, size * 0.9),
                (x - 13, size * 0.9),
            ]
            d.polygon(body, fill=c)
    elif kind == 2:
        d.rectangle([8, size // 4, size - 8, size - 20], fill=tuple(map(int, accent)))
        for y in range(size // 3, size - 30, 10):
            w = int(rng.integers(20, size - 40))
            d.rectangle([18, y, 18 + w, y + 4], fill=(245, 240, 230))
    else:
        for x in range(10, size, 34):
            d.ellipse([x, size * 0.62, x + 24, size * 0.7], fill=(120, 84, 56))
            d.rectangle([x + 10, size * 0.68, x + 13, size * 0.95], fill=(40, 34, 30))
            lamp = [(x + 4, size * 0.3), (x + 20, size * 0.3), (x + 12, size * 0.2)]
            d.polygon(lamp, fill=(250, 220, 150))
    return im.filter(ImageFilter.GaussianBlur(0.7))


ATLAS_CELLS = 8


def write_interiors(folder: Path, seed: int = 11) -> None:
    """Writes `rooms.png` and `shops.png`, each 8 by 8 interiors of 128 pixels."""
    for name, make in (("rooms", _room), ("shops", _shop)):
        path = folder / f"{name}.png"
        if path.exists():
            continue
        rng = np.random.default_rng(seed)
        sheet = Image.new("RGB", (ATLAS_CELLS * 128, ATLAS_CELLS * 128))
        for i in range(ATLAS_CELLS**2):
            sheet.paste(make(rng, 128), (i % ATLAS_CELLS * 128, i // ATLAS_CELLS * 128))
        sheet.save(path)


def prepare(cache: Path) -> None:
    """Paints all textures that do not depend on the part of town."""
    write_tiles(cache)
    write_interiors(cache)


SIGN_COLUMNS, SIGN_ROWS = 8, 160
SIGN_WIDTH, SIGN_HEIGHT = 384, 48
_SIGN_COLOURS = (
    ((250, 248, 240), (20, 20, 22)),
    ((20, 20, 22), (250, 246, 235)),
    ((160, 20, 28), (255, 255, 255)),
    ((12, 58, 110), (255, 255, 255)),
    ((14, 84, 52), (250, 240, 200)),
    ((238, 190, 30), (25, 20, 20)),
    ((90, 20, 70), (250, 230, 240)),
    ((225, 225, 222), (150, 20, 30)),
    ((60, 40, 28), (232, 200, 140)),
    ((0, 110, 120), (255, 255, 255)),
    ((240, 110, 30), (255, 255, 255)),
    ((40, 44, 52), (130, 220, 200)),
)


def sign_style(name: str) -> tuple[tuple[int, int, int], tuple[int, int, int], str]:
    """Background, letter colour and font of a shop's sign, fixed by its name."""
    h = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    back, ink = _SIGN_COLOURS[h % len(_SIGN_COLOURS)]
    return back, ink, _FONTS[h // 16 % len(_FONTS)]


def write_signs(path: Path, names: list[str]) -> dict[str, tuple[int, float]]:
    """Writes, where it is missing, an atlas with one shop name per cell.

    Returns:
        For each name its cell number and how much of the cell's width the text fills.
    """
    exists = path.exists()
    sheet = Image.new("RGB", (SIGN_COLUMNS * SIGN_WIDTH, SIGN_ROWS * SIGN_HEIGHT), (30, 30, 30))
    cells: dict[str, tuple[int, float]] = {}
    for i, name in enumerate(names[: SIGN_COLUMNS * SIGN_ROWS]):
        back, ink, font_path = sign_style(name)
        h = int(hashlib.sha256(name.encode()).hexdigest()[8:12], 16)
        text = name.upper() if h % 3 == 0 else name
        size = 35
        font = ImageFont.truetype(font_path, size)
        while font.getlength(text) > SIGN_WIDTH - 18 and size > 9:
            size -= 2
            font = ImageFont.truetype(font_path, size)
        width = font.getlength(text)
        cells[name] = (i, min((width + 18) / SIGN_WIDTH, 1.0))
        if not exists:
            cell = Image.new("RGB", (SIGN_WIDTH, SIGN_HEIGHT), back)
            draw = ImageDraw.Draw(cell)
            draw.text((9, SIGN_HEIGHT / 2), text, font=font, fill=ink, anchor="lm")
            sheet.paste(cell, (i % SIGN_COLUMNS * SIGN_WIDTH, i // SIGN_COLUMNS * SIGN_HEIGHT))
    if not exists:
        sheet.save(path)
    return cells


def sign_names(city: City) -> list[str]:
    """The shop names that get a sign, in a fixed order."""
    return list(dict.fromkeys(name for _, _, name, _ in city.shops))


def sky_image(
    sun: np.ndarray, cover: float, night: float, seed: int, height: int = 256
) -> np.ndarray:
    """An equirectangular sky with clouds.

    Args:
        sun: Unit vector `[3]` towards the sun (or moon).
        cover: Cloud cover from 0 (clear) to 1 (overcast).
        night: 0 by day to 1 in the night, when a city glow remains.
        seed: Seed of the clouds.
        height: Rows of the image; it is twice as wide.

    Returns:
        Linear radiance `[height, 2*height, 3]`, first row straight down as Blender stores it.
    """
    rng = np.random.default_rng(seed)
    width = 2 * height
    v, u = np.mgrid[0:height, 0:width]
    elevation = (v + 0.5) / height * np.pi - np.pi / 2
    # Blender's equirectangular map: the image's centre looks along +Y is u=0.75 for +X-left;
    # direction = (cos(el)*cos(az), cos(el)*sin(az), sin(el)), az = pi - 2*pi*u.
    az = np.pi - 2 * np.pi * (u + 0.5) / width
    d = np.stack(
        [np.cos(elevation) * np.cos(az), np.cos(elevation) * np.sin(az), np.sin(elevation)], -1
    )
    up = np.clip(d[..., 2], 0.0, 1.0)
    low = float(np.clip(sun[2], 0.0, 1.0))
    zenith = np.array([0.10, 0.22, 0.55]) * (0.35 + 0.9 * low)
    horizon = np.array([0.62, 0.72, 0.85]) * (0.4 + 0.75 * low)
    if low < 0.3:
        warm = 1.0 - low / 0.3
        toward = np.clip((d @ sun + 1) / 2, 0, 1)[..., None] ** 2
        horizon = horizon * (1 - warm * toward) + np.array([1.0, 0.60, 0.34]) * warm * toward
    blend = (1 - up[..., None]) ** 4.0
    sky = zenith * (1 - blend) + horizon * blend
    angle = np.clip(d @ sun, -1, 1)
    sky += (np.exp((angle - 1) * 60) * 0.9 + np.exp((angle - 1) * 8) * 0.18)[..., None] * np.array(
        [1.0, 0.86, 0.66]
    )
    plane = d[..., :2] / (up[..., None] + 0.12)
    size = 512
    field = noise(size, 1.75, rng) + 0.25 * noise(size, 1.2, rng)
    ij = np.floor(plane * 60).astype(int) % size
    value = field[ij[..., 0], ij[..., 1]]
    threshold = 1.7 - 3.4 * cover
    alpha = np.clip((value - threshold) / 0.9, 0, 1)[..., None] * np.clip(up * 9, 0, 1)[..., None]
    if cover > 0.95:
        alpha = np.maximum(alpha, 0.97)
    lit = 0.75 + 0.35 * np.clip(angle, 0, 1)[..., None] - 0.22 * np.clip(value, 0, 2)[..., None]
    tone = np.array([1.0, 0.98, 0.96]) if low > 0.3 else np.array([1.0, 0.82, 0.70])
    if cover > 0.95:
        tone = np.array([0.80, 0.86, 0.95])
        lit = 0.62 + 0.10 * np.clip(value, -2, 2)[..., None] * 0.6 + 0.25 * up[..., None]
    clouds = tone * np.clip(lit, 0.15, 1.4) * (0.35 + 0.85 * low + (0.2 if cover > 0.95 else 0))
    sky = sky * (1 - alpha) + clouds * alpha
    dark = np.array([0.012, 0.017, 0.035]) + blend * np.array([0.045, 0.032, 0.022])
    dark = dark * (1 - alpha) + np.array([0.030, 0.026, 0.026]) * alpha
    sky = sky * (1 - night) + dark * night
    below = d[..., 2] < 0
    sky[below] = sky[below] * 0.25
    return sky.astype(np.float32)
