"""Pictures that explain an answer: matched points, what the network looks at, thumbnails.

Pure functions from Pillow images and arrays to Pillow images. Colours come from a map whose
lightness rises evenly, so that they read the same in grey and to colour-blind eyes.
"""

from __future__ import annotations

import base64
import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from selavpr.structs import KeypointMatches

MATCHES_HEIGHT = 480
"""Height of the two photos in the picture of matches."""

_GAP = 12
_GAP_COLOUR = (128, 136, 146)  # sits well on light and dark pages
_OVERSAMPLE = 2  # Pillow draws hard-edged lines; drawing larger and shrinking smooths them

_PARTS = (8, 6)
"""Parts of a photo, across and down, that lines are taken from in turn."""

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]


def colours(values: _Floats) -> _Bytes:
    """Colour of each value, dark violet for 0 through teal to light yellow for 1.

    Args:
        values: any shape, clipped to 0..1.

    Returns:
        ``[..., 3]`` uint8 sRGB.
    """
    table = _table()
    rows = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0.0, 1.0) * (len(table) - 1)
    return table[np.rint(rows).astype(np.int64)]


def draw_matches(
    query: Image.Image,
    candidate: Image.Image,
    matches: KeypointMatches,
    rows: NDArray[np.int64],
    *,
    query_size: tuple[int, int] | None = None,
    candidate_size: tuple[int, int] | None = None,
) -> Image.Image:
    """The two photos side by side with lines between what matches.

    Lines that fit the common geometry are opaque and end in dots, the others are faint. Colour
    tells the similarity among the lines drawn.

    Args:
        query: the user's photo, possibly smaller than the one recognised.
        candidate: the reference photo, likewise.
        matches: positions in photos of ``query_size`` and ``candidate_size``.
        rows: ``[n]`` which of the matches to draw, see ``select_matches``.
        query_size: ``(width, height)`` the positions refer to; that of ``query`` when None.
        candidate_size: likewise for ``candidate``.

    Returns:
        RGB, ``MATCHES_HEIGHT`` high.
    """
    left, right = (_to_height(photo, MATCHES_HEIGHT) for photo in (query, candidate))
    canvas = Image.new("RGB", (left.width + _GAP + right.width, MATCHES_HEIGHT), _GAP_COLOUR)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + _GAP, 0))
    if not len(rows):
        return canvas
    start = _scaled(matches.query.numpy()[rows], query_size or query.size, left.size)
    end = _scaled(matches.candidate.numpy()[rows], candidate_size or candidate.size, right.size)
    end[:, 0] += left.width + _GAP
    similarity = matches.similarity.numpy()[rows]
    agrees = matches.agrees.numpy()[rows]
    spread = max(float(similarity.max() - similarity.min()), 1e-6)
    rgb = colours(0.25 + 0.75 * (similarity - similarity.min()) / spread)

    big = (canvas.width * _OVERSAMPLE, canvas.height * _OVERSAMPLE)
    overlay = Image.new("RGBA", big, (0, 0, 0, 0))
    draw = ImageDraw.Draw(overlay)
    # The weakest first and those that agree last, so that what counts lies on top.
    for i in sorted(range(len(rows)), key=lambda i: (agrees[i], similarity[i])):
        a, b = (tuple(point * _OVERSAMPLE) for point in (start[i], end[i]))
        colour = tuple(int(c) for c in rgb[i])
        if not agrees[i]:
            draw.line((*a, *b), fill=(*colour, 110), width=_OVERSAMPLE)
            continue
        draw.line((*a, *b), fill=(10, 20, 30, 150), width=4 * _OVERSAMPLE)
        draw.line((*a, *b), fill=(*colour, 255), width=2 * _OVERSAMPLE)
        for x, y in (a, b):
            r = 4 * _OVERSAMPLE
            draw.ellipse(
                (x - r, y - r, x + r, y + r), fill=(*colour, 255), outline="white", width=2
            )
    smooth = overlay.resize(canvas.size, Image.Resampling.BOX)
    canvas.paste(smooth, mask=smooth)
    return canvas


def select_matches(
    matches: KeypointMatches,
    *,
    count: int,
    min_similarity: float = -1.0,
    agreeing_only: bool = False,
    query_size: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """Rows of the matches to draw: those that agree on one geometry first.

    Neighbouring details are much alike, so the most similar matches crowd in few places. With
    ``query_size`` they are taken from all over the photo in turn: the most similar of each part of
    it, then the second of each, and so on.

    Args:
        matches: to choose from.
        count: at most so many.
        min_similarity: leave out what is less similar.
        agreeing_only: leave out what does not agree.
        query_size: ``(width, height)`` of the photo; most similar first without it.
    """
    similarity, agrees = matches.similarity.numpy(), matches.agrees.numpy()
    keep = similarity >= min_similarity
    if agreeing_only:
        keep &= agrees
    rows = np.flatnonzero(keep)
    rows = rows[np.lexsort((-similarity[rows], ~agrees[rows]))]
    if query_size is not None:
        parts = np.floor(matches.query.numpy()[rows] / query_size * _PARTS).astype(np.int64)
        seen: dict[tuple[bool, int, int], int] = {}
        turn = np.zeros(len(rows), dtype=np.int64)
        for i, (row, part) in enumerate(zip(rows, parts.tolist(), strict=True)):
            key = (bool(agrees[row]), part[0], part[1])
            turn[i] = seen.get(key, 0)
            seen[key] = int(turn[i]) + 1
        rows = rows[np.lexsort((turn, ~agrees[rows]))]
    return np.asarray(rows[: max(count, 0)], dtype=np.int64)


def heat_of(tokens: _Floats, power: float = 3.0) -> _Floats:
    """What the network looks at: each token's share in the fingerprint, scaled to 0..1.

    The fingerprint ``d`` is the generalised mean of the tokens, channel by channel, at length 1. A
    token's share of a channel is its power's share of the sum of powers there; of the fingerprint,
    the mean of these, each channel weighing ``d * d``. So the shares of all tokens sum to 1, and
    where a token has none, the fingerprint would be the same direction without it.

    Args:
        tokens: ``[h, w, C]``.
        power: of the generalised mean, see ``model.GeM``.

    Returns:
        ``[h, w]``, for ``heat_overlay``; 0 for the least and 1 for the largest share.
    """
    given = np.asarray(tokens, np.float64)
    length = np.linalg.norm(given, axis=-1, keepdims=True)
    powers = np.maximum(given / np.maximum(length, 1e-12), 1e-6) ** power
    sums = powers.sum(axis=(0, 1))
    weights = sums ** (2 / power) / (sums ** (2 / power)).sum()
    share = (powers / sums) @ weights
    low, high = float(np.min(share)), float(np.max(share))
    # Differences that small are rounding: all tokens are alike.
    spread = high - low if high - low > 1e-9 else np.inf
    return np.asarray((share - low) / spread, dtype=np.float32)


def heat_overlay(photo: Image.Image, heat: _Floats, *, opacity: float = 0.6) -> Image.Image:
    """A heat-map laid over a photo.

    Args:
        photo: RGB.
        heat: ``[h, w]`` in 0..1; stretched over the photo.
        opacity: of the hottest spot; cold spots show the photo in grey.

    Returns:
        RGB of the photo's size.
    """
    grid = Image.fromarray(np.clip(np.nan_to_num(np.asarray(heat, np.float32)), 0, 1))
    smooth = np.asarray(grid.resize(photo.size, Image.Resampling.BICUBIC), dtype=np.float32)
    smooth = np.clip(smooth, 0.0, 1.0)
    base = np.asarray(ImageOps.grayscale(photo).convert("RGB"), dtype=np.float32)
    weight = (opacity * (0.35 + 0.65 * smooth))[..., None]
    mixed = base * (1 - weight) + colours(smooth) * weight
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def thumbnail(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a photo, filling ``size`` (width, height)."""
    return ImageOps.fit(photo, size, Image.Resampling.BILINEAR)


def shrink(photo: Image.Image, side: int) -> Image.Image:
    """A copy no longer than ``side`` pixels on either side; never enlarged."""
    small = photo.copy()
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    return small


def data_uri(image: Image.Image, quality: int = 80) -> str:
    """The picture as a ``data:`` address, so that no file has to be served for it."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def legend(steps: int = 9) -> str:
    """The colour map as a CSS gradient, left to right."""
    stops = colours(np.linspace(0, 1, steps, dtype=np.float32))
    return f"linear-gradient(90deg, {', '.join('#' + bytes(c).hex() for c in stops)})"


def _to_height(photo: Image.Image, height: int) -> Image.Image:
    width = max(1, round(photo.width * height / photo.height))
    return photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)


def _scaled(points: _Floats, size: tuple[int, int], shown: tuple[int, int]) -> _Floats:
    factor = np.array([shown[0] / size[0], shown[1] / size[1]], dtype=np.float32)
    return np.asarray(points * factor, dtype=np.float32)


@functools.cache
def _table() -> _Bytes:
    """256 colours along a line in OKLCh: lightness even, hue from violet over teal to yellow."""
    t = np.linspace(0, 1, 256)
    lightness = 0.28 + 0.66 * t
    hue = np.radians(300 - 195 * t)
    chroma = 0.075 + 0.085 * np.sin(np.pi * (0.15 + 0.7 * t))
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    # OKLab to linear sRGB, by the matrices of its definition.
    lms = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    ) @ (lms**3)
    linear = np.clip(linear, 0, 1).T
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(srgb * 255), dtype=np.uint8)
