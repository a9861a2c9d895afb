"""Turns footprints and styles into walls, windows, doors, shops, signs and roofs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely.geometry import LineString, Point, Polygon
from shapely.strtree import STRtree

from .meshes import MeshBuilder, oriented_rings, triangulate
from .osm import Building, City, metres
from .props import ball, tube
from .styles import Colour, Style, draw_style
from .textures import ATLAS_CELLS, SIGN_COLUMNS, SIGN_ROWS

_GLASS_TINT = (1.0, 1.0, 1.0)
_DARK = (0.03, 0.03, 0.035)


@dataclass
class Wall:
    """One straight wall. Wall coordinates: s along it, z up, d outwards, all in metres."""

    mesh: MeshBuilder
    start: np.ndarray
    along: np.ndarray
    outward: np.ndarray
    length: float
    u0: float = 0.0

    def quad(
        self,
        material: str,
        s: list[object],
        z: list[object],
        d: list[object],
        tint: object,
        uv: np.ndarray | None = None,
    ) -> None:
        """Adds quads from four (s, z, d) corners, each a number or an array over the quads."""
        sizes = [np.size(q) for q in (*s, *z, *d)]
        n = max(sizes)
        if min(sizes) == 0:
            return
        # One array filled in place: this runs for every strip of every wall, and stacking
        # broadcast copies took most of the time of a build.
        szd = np.empty((n, 4, 3))
        for i in range(4):
            szd[:, i, 0], szd[:, i, 1], szd[:, i, 2] = s[i], z[i], d[i]
        pts = np.empty((n, 4, 3))
        pts[..., :2] = self.start + szd[..., :1] * self.along + szd[..., 2:] * self.outward
        pts[..., 2] = szd[..., 1]
        if uv is None:
            uv = szd[..., :2].copy()
            uv[..., 0] += self.u0
            if szd[0, 0, 1] == szd[0, 2, 1]:
                uv[..., 1] = szd[..., 2]  # level faces
            else:
                uv[..., 0] += szd[..., 2]
        self.mesh.add(material, pts, uv, tint)

    def rect(
        self,
        material: str,
        s0: object,
        s1: object,
        z0: object,
        z1: object,
        d: object,
        tint: object,
        uv: np.ndarray | None = None,
    ) -> None:
        """Rectangles that face outwards."""
        self.quad(material, [s0, s1, s1, s0], [z0, z0, z1, z1], [d, d, d, d], tint, uv)

    def box(
        self,
        material: str,
        s0: object,
        s1: object,
        z0: object,
        z1: object,
        d0: object,
        d1: object,
        tint: object,
    ) -> None:
        """Boxes standing out of the wall from depth d0 to d1, without a back."""
        self.rect(material, s0, s1, z0, z1, d1, tint)
        self.quad(material, [s0, s0, s0, s0], [z0, z0, z1, z1], [d0, d1, d1, d0], tint)
        self.quad(material, [s1, s1, s1, s1], [z0, z0, z1, z1], [d1, d0, d0, d1], tint)
        self.quad(material, [s0, s1, s1, s0], [z1, z1, z1, z1], [d1, d1, d0, d0], tint)
        self.quad(material, [s0, s1, s1, s0], [z0, z0, z0, z0], [d0, d0, d1, d1], tint)

    def reveal(
        self,
        material: str,
        s0: object,
        s1: object,
        z0: object,
        z1: object,
        d0: object,
        d1: object,
        tint: object,
    ) -> None:
        """The inner sides of openings, from the face of the wall at d1 in to d0."""
        self.quad(material, [s0, s0, s0, s0], [z0, z0, z1, z1], [d1, d0, d0, d1], tint)
        self.quad(material, [s1, s1, s1, s1], [z0, z0, z1, z1], [d0, d1, d1, d0], tint)
        self.quad(material, [s0, s1, s1, s0], [z0, z0, z0, z0], [d1, d1, d0, d0], tint)
        self.quad(material, [s0, s1, s1, s0], [z1, z1, z1, z1], [d0, d0, d1, d1], tint)


def _atlas_uv(cells: np.ndarray, flip: np.ndarray) -> np.ndarray:
    col, row = cells % ATLAS_CELLS, cells // ATLAS_CELLS
    u0, u1 = (col + 0.02) / ATLAS_CELLS, (col + 0.98) / ATLAS_CELLS
    u0, u1 = np.where(flip, u1, u0), np.where(flip, u0, u1)
    v0, v1 = 1 - (row + 0.98) / ATLAS_CELLS, 1 - (row + 0.02) / ATLAS_CELLS
    return np.stack(
        [
            np.stack([u0, v0], -1),
            np.stack([u1, v0], -1),
            np.stack([u1, v1], -1),
            np.stack([u0, v1], -1),
        ],
        1,
    )


def _glazing(
    wall: Wall,
    material: str,
    s0: np.ndarray,
    s1: np.ndarray,
    z0: np.ndarray,
    z1: np.ndarray,
    d: float,
    rng: np.random.Generator,
    lit: float,
) -> None:
    n = len(s0)
    uv = _atlas_uv(rng.integers(0, ATLAS_CELLS**2, n), rng.random(n) < 0.5)
    tint = np.ones((n, 4))
    # The alpha channel carries the brightness of the lit room at night, 0 for a dark one.
    tint[:, 3] = np.where(rng.random(n) < lit, rng.uniform(0.35, 1.0, n), 0.0)
    warm = rng.uniform(0, 1, (n, 1))
    tint[:, :3] = (1 - warm) * np.array([1.0, 0.72, 0.42]) + warm * np.array([1.0, 0.93, 0.80])
    wall.rect(material, s0, s1, z0, z1, d, tint, uv)


_SPLITS = {
    "single": ([], []),
    "low": ([], [0.3]),
    "two": ([0.5], []),
    "tee": ([0.5], [0.68]),
    "cross": ([0.5], [0.62]),
    "six": ([0.5], [0.34, 0.67]),
    "three": ([0.333, 0.667], [0.7]),
}


def _windows(
    wall: Wall,
    st: Style,
    s0: np.ndarray,
    s1: np.ndarray,
    z0: np.ndarray,
    z1: np.ndarray,
    rng: np.random.Generator,
    lit: float,
    detail: bool = True,
    face: float = 0.0,
) -> None:
    if len(s0) == 0:
        return
    inner = face - st.reveal
    tint = st.wall_tint if st.family != "glass" else st.frame_tint
    wall.reveal(st.wall, s0, s1, z0, z1, inner - 0.04, face, tint)
    _glazing(wall, "glass", s0, s1, z0, z1, inner - 0.03, rng, lit)
    f = 0.07
    frame = st.frame_tint
    wall.rect("paint", s0, s0 + f, z0, z1, inner, frame)
    wall.rect("paint", s1 - f, s1, z0, z1, inner, frame)
    wall.rect("paint", s0 + f, s1 - f, z0, z0 + f, inner, frame)
    wall.rect("paint", s0 + f, s1 - f, z1 - f, z1, inner, frame)
    vertical, horizontal = _SPLITS[st.mullions]
    for t in vertical:
        x = s0 + (s1 - s0) * t
        wall.rect("paint", x - 0.045, x + 0.045, z0 + f, z1 - f, inner + 0.005, frame)
    for t in horizontal:
        y = z0 + (z1 - z0) * t
        wall.rect("paint", s0 + f, s1 - f, y - 0.04, y + 0.04, inner + 0.004, frame)
    if not detail:
        return
    if st.family != "glass":
        wall.box(
            "metal", s0 - 0.05, s1 + 0.05, z0 - 0.05, z0, face - 0.1, face + 0.07, st.trim_tint
        )
    if st.surround > 0:
        w, t = st.surround, st.trim_tint
        wall.box("plaster", s0 - w, s0, z0, z1 + w, face, face + 0.07, t)
        wall.box("plaster", s1, s1 + w, z0, z1 + w, face, face + 0.07, t)
        wall.box("plaster", s0, s1, z1, z1 + w, face, face + 0.07, t)


def _columns(length: float, st: Style) -> tuple[np.ndarray, np.ndarray]:
    """Left and right edges of the windows along a wall."""
    usable = length - 1.0
    if usable < st.window_width:
        return np.zeros(0), np.zeros(0)
    n = max(int((usable - st.window_width) / st.pitch) + 1, 1)
    centre = length / 2 + (np.arange(n) - (n - 1) / 2) * st.pitch
    half = np.full(n, st.window_width / 2)
    if st.pattern == 1 and n >= 4:
        shift = (st.pitch - st.window_width) * 0.28
        centre = centre + np.where(np.arange(n) % 2 == 0, shift, -shift)
        if n % 2:
            centre[-1] -= shift
    elif st.pattern == 2 and n >= 3:
        half = np.where(
            np.arange(n) % 3 == 1, half * min(1.35, (st.pitch - 0.3) / st.window_width), half * 0.8
        )
    return centre - half, centre + half


def _punched(
    wall: Wall,
    material: str,
    tint: Colour,
    z0: float,
    z1: float,
    s0: np.ndarray,
    s1: np.ndarray,
    bottom: np.ndarray,
    top: np.ndarray,
    d: float = 0.0,
) -> None:
    """A strip of wall from z0 to z1 with one row of openings (equal bottoms and tops)."""
    if len(s0) == 0:
        wall.rect(material, 0.0, wall.length, z0, z1, d, tint)
        return
    low, high = float(np.min(bottom)), float(np.max(top))
    if low > z0 + 1e-3:
        wall.rect(material, 0.0, wall.length, z0, low, d, tint)
    if high < z1 - 1e-3:
        wall.rect(material, 0.0, wall.length, high, z1, d, tint)
    left = np.concatenate([[0.0], s1])
    right = np.concatenate([s0, [wall.length]])
    wall.rect(material, left, right, low, high, d, tint)
    shallow = bottom > low + 1e-3
    if shallow.any():
        wall.rect(material, s0[shallow], s1[shallow], low, bottom[shallow], d, tint)


def _street_wall(
    wall: Wall, st: Style, rng: np.random.Generator, door: bool, top_extra: float
) -> None:
    s0, s1 = _columns(wall.length, st)
    _ground_floor(wall, st, rng, door)
    z = st.ground_height
    top = st.height
    oriels = _oriels(s0, st, rng)
    plain = np.ones(len(s0), bool)
    for first, last in oriels:
        plain[first : last + 1] = False
    for floor in range(1, st.floors):
        base = z + (floor - 1) * st.floor_height
        bottom = np.full(len(s0), base + st.sill)
        shrink = 0.82 if floor == st.floors - 1 and st.arches else 1.0
        high = bottom + st.window_height * shrink
        end = base + st.floor_height if floor < st.floors - 1 else top + top_extra
        opens = plain if floor < st.floors - 1 or not oriels else np.ones(len(s0), bool)
        _punched(
            wall, st.wall, st.wall_tint, base, end, s0[opens], s1[opens], bottom[opens], high[opens]
        )
        _windows(wall, st, s0[opens], s1[opens], bottom[opens], high[opens], rng, 0.34)
        a, b, h = s0[opens], s1[opens], high[opens]
        if st.pediments and floor == st.hood_floor and len(a):
            w = st.surround + 0.12
            wall.box("plaster", a - w, b + w, h + w, h + w + 0.12, 0.0, 0.22, st.trim_tint)
            if st.hood_floor != 2:
                m = (a + b) / 2
                wall.quad(
                    "plaster",
                    [a - w, b + w, m, m],
                    [h + w + 0.12, h + w + 0.12, h + w + 0.5, h + w + 0.5],
                    [0.12, 0.12, 0.12, 0.12],
                    st.trim_tint,
                )
        if st.courses and floor in (1, st.floors - 1):
            wall.box(
                "plaster",
                -0.08,
                wall.length + 0.08,
                base - 0.12,
                base + 0.14,
                0.0,
                0.12,
                st.trim_tint,
            )
        _balconies(wall, st, rng, a, b, base, floor)
    if st.floors == 1:
        wall.rect(st.wall, 0.0, wall.length, z, top + top_extra, 0.0, st.wall_tint)
    for first, last in oriels:
        _oriel(wall, st, rng, float(s0[first]), float(s1[last]))
    if st.pilasters and len(s0) > 1:
        gaps = (s1[:-1] + s0[1:])[:: st.pilasters] / 2
        room = (s0[1:] - s1[:-1])[:: st.pilasters]
        w = np.clip(room * 0.28, 0.1, 0.32)
        wall.box(st.wall, gaps - w, gaps + w, z, top - 0.4, 0.0, 0.1, st.trim_tint)
    c = st.cornice
    wall.box(
        "plaster",
        -c * 0.5,
        wall.length + c * 0.5,
        top - 0.45,
        top - 0.15,
        0.0,
        c * 0.5,
        st.trim_tint,
    )
    wall.box("plaster", -c, wall.length + c, top - 0.15, top + 0.08, 0.0, c, st.trim_tint)
    if st.dentils:
        x = np.arange(0.2, wall.length - 0.2, 0.45)
        wall.box("plaster", x, x + 0.2, top - 0.34, top - 0.15, 0.0, c * 0.8, st.trim_tint)
    if wall.length > 6:
        x = np.array([0.25, wall.length - 0.37]) if wall.length > 24 else np.array([0.25])
        wall.box("metal", x, x + 0.11, 0.2, top - 0.3, 0.02, 0.14, st.roof_tint)


def _oriels(s0: np.ndarray, st: Style, rng: np.random.Generator) -> list[tuple[int, int]]:
    if not st.bays or st.floors < 4 or len(s0) < 5:
        return []
    step = int(rng.integers(3, 6))
    return [(i, i + 1) for i in range(1, len(s0) - 2, step)]


def _oriel(wall: Wall, st: Style, rng: np.random.Generator, a: float, b: float) -> None:
    """A bay that stands out of the facade from the first to the last floor but one."""
    a, b, depth = a - 0.3, b + 0.3, 0.85
    z0 = st.ground_height + 0.35
    z1 = st.ground_height + st.floor_height * (st.floors - 2)
    origin = wall.start + a * wall.along + depth * wall.outward
    front = replace(wall, start=origin, length=b - a)
    n = 2
    w = min(st.window_width, (b - a) / n - 0.35)
    centres = (np.arange(n) + 0.5) * (b - a) / n
    wall.quad(st.wall, [a] * 4, [z0, z0, z1, z1], [0.0, depth, depth, 0.0], st.wall_tint)
    wall.quad(st.wall, [b] * 4, [z0, z0, z1, z1], [depth, 0.0, 0.0, depth], st.wall_tint)
    wall.quad(st.wall, [a, b, b, a], [z0] * 4, [0.0, 0.0, depth, depth], st.trim_tint)
    wall.quad(
        "seam", [a, b, b, a], [z1, z1, z1 + 0.4, z1 + 0.4], [depth, depth, 0, 0], st.roof_tint
    )
    for floor in range(1, st.floors - 1):
        base = st.ground_height + (floor - 1) * st.floor_height
        lo = max(base, z0)
        bottom = np.full(n, base + st.sill)
        _punched(
            front,
            st.wall,
            st.wall_tint,
            lo,
            base + st.floor_height,
            centres - w / 2,
            centres + w / 2,
            bottom,
            bottom + st.window_height,
        )
        _windows(
            front,
            st,
            centres - w / 2,
            centres + w / 2,
            bottom,
            bottom + st.window_height,
            rng,
            0.34,
        )
    front.box("plaster", -0.06, b - a + 0.06, z0 - 0.14, z0 + 0.1, -depth, 0.06, st.trim_tint)
    front.box("plaster", -0.1, b - a + 0.1, z1 - 0.18, z1, -depth, 0.1, st.trim_tint)


def _balconies(
    wall: Wall,
    st: Style,
    rng: np.random.Generator,
    s0: np.ndarray,
    s1: np.ndarray,
    base: float,
    floor: int,
) -> None:
    if st.balconies <= 0 or floor < 1 or len(s0) == 0:
        return
    step = max(int(round(1 / st.balconies)), 2)
    a, b = s0[step // 2 :: step] - 0.45, s1[step // 2 :: step] + 0.45
    if len(a) == 0:
        return
    z, depth = base + 0.05, 0.95
    wall.box("concrete", a, b, z - 0.16, z, 0.0, depth, st.trim_tint)
    wall.box("metal", a, b, z + 1.0, z + 1.06, depth - 0.05, depth, st.frame_tint)
    if st.family == "jugend":
        for t in np.linspace(0.0, 1.0, 12):
            x = a + (b - a - 0.03) * t
            wall.box("metal", x, x + 0.03, z, z + 1.0, depth - 0.04, depth - 0.01, _DARK)
    else:
        wall.box("metal", a, b, z + 0.08, z + 0.95, depth - 0.04, depth - 0.01, st.awning_tint)
    for x in (a, b - 0.04):
        wall.box("metal", x, x + 0.04, z, z + 1.0, 0.0, depth, st.frame_tint)


def _ground_floor(wall: Wall, st: Style, rng: np.random.Generator, door: bool) -> None:
    h = st.ground_height
    n = max(int((wall.length - 0.8) / max(st.pitch, 2.6)), 0)
    face = 0.05
    if n == 0:
        wall.rect(st.base, 0.0, wall.length, 0.0, h, face, st.base_tint)
        return
    pitch = (wall.length - 0.8) / n
    centre = 0.4 + (np.arange(n) + 0.5) * pitch
    shop = st.shops and wall.length > 5
    width = min(pitch - 0.5, 3.4) if shop else min(st.window_width, pitch - 0.5)
    bottom = np.full(n, 0.45 if shop else 1.2)
    top = np.full(n, h - 1.05 if shop else min(h - 0.8, 1.2 + st.window_height))
    is_door = np.zeros(n, bool)
    if door:
        is_door[int(rng.integers(n))] = True
    if shop:
        is_door |= np.arange(n) % 3 == int(rng.integers(3))
    half = np.where(is_door, min(width, 1.7) / 2, width / 2)
    bottom = np.where(is_door, 0.12, bottom)
    s0, s1 = centre - half, centre + half
    _punched(wall, st.base, st.base_tint, 0.0, h, s0, s1, bottom, top, face)
    inner = face - 0.25
    wall.reveal(st.base, s0, s1, bottom, top, inner - 0.04, face, st.base_tint)
    w = ~is_door
    if shop:
        _glazing(wall, "shopglass", s0, s1, bottom, top, inner, rng, 0.85)
    else:
        small = replace(st, reveal=0.2)
        _windows(wall, small, s0[w], s1[w], bottom[w], top[w], rng, 0.3, False, face)
    frame, f = st.frame_tint, 0.08
    d0, d1 = s0[is_door], s1[is_door]
    if len(d0):
        if not shop:
            wood = (0.10 + 0.12 * rng.random(), 0.05 + 0.05 * rng.random(), 0.03)
            wall.rect("paint", d0, d1, 0.12, top[is_door] - 0.7, inner + 0.02, wood)
            _glazing(wall, "glass", d0, d1, top[is_door] - 0.7, top[is_door], inner, rng, 0.8)
            wall.rect("paint", d0 + 0.2, (d0 + d1) / 2 - 0.1, 1.2, 2.2, inner + 0.03, _DARK)
            wall.rect("paint", (d0 + d1) / 2 + 0.1, d1 - 0.2, 1.2, 2.2, inner + 0.03, _DARK)
        wall.rect(
            "paint",
            d0 + (d1 - d0) / 2 - 0.05,
            d0 + (d1 - d0) / 2 + 0.05,
            0.12,
            2.4,
            inner + 0.03,
            frame,
        )
        wall.rect("paint", d0, d1, 2.4, 2.5, inner + 0.03, frame)
        wall.box("ashlar", d0 - 0.2, d1 + 0.2, 0.0, 0.14, face - 0.2, 0.35, (0.2, 0.19, 0.18))
    for a, b in ((s0, s0 + f), (s1 - f, s1)):
        wall.rect("paint", a, b, bottom, top, inner + 0.03, frame)
    for a, b in ((bottom, bottom + f), (top - f, top)):
        wall.rect("paint", s0 + f, s1 - f, a, b, inner + 0.03, frame)
    wall.box(st.base, -0.02, wall.length + 0.02, h - 0.14, h + 0.02, 0.0, 0.12, st.base_tint)
    wall.box("ashlar", -0.02, s0[0], 0.0, 0.42, face, 0.09, (0.16, 0.15, 0.15))
    if len(s0) > 1:
        wall.box("ashlar", s1[:-1], s0[1:], 0.0, 0.42, face, 0.09, (0.16, 0.15, 0.15))
    if shop and rng.random() < 0.45:
        pick = w & (rng.random(n) < 0.75)
        a, b, t = s0[pick] - 0.1, s1[pick] + 0.1, top[pick]
        if len(a):
            wall.quad(
                "cloth",
                [a, b, b, a],
                [t - 0.55, t - 0.55, t + 0.1, t + 0.1],
                [1.1, 1.1, face, face],
                st.awning_tint,
            )
            wall.rect("cloth", a, b, t - 0.78, t - 0.55, 1.1, st.awning_tint)


def _plain_wall(
    wall: Wall, st: Style, rng: np.random.Generator, top_extra: float, street: bool
) -> None:
    """A wall with flat windows: for courtyards, and for streets too far off to show more."""
    top = st.height + top_extra
    wall.rect(st.wall, 0.0, wall.length, 0.0, top, 0.0, st.wall_tint)
    s0, s1 = _columns(wall.length, st)
    floors = np.arange(1 if street else 0, st.floors)
    if len(s0) and len(floors):
        base = np.where(floors == 0, 0.4, st.ground_height + (floors - 1) * st.floor_height)
        bottom = np.repeat(base + st.sill, len(s0))
        left, right = np.tile(s0, len(floors)), np.tile(s1, len(floors))
        high = bottom + st.window_height
        _glazing(wall, "glass", left, right, bottom, high, 0.02, rng, 0.34)
        middle = (left + right) / 2
        wall.rect("paint", middle - 0.05, middle + 0.05, bottom, high, 0.03, st.frame_tint)
    if not street:
        return
    h = st.ground_height
    wall.rect(st.base, 0.0, wall.length, 0.0, h, 0.05, st.base_tint)
    n = int((wall.length - 0.8) / max(st.pitch, 2.6))
    if n > 0:
        pitch = (wall.length - 0.8) / n
        centre = 0.4 + (np.arange(n) + 0.5) * pitch
        half = (min(pitch - 0.5, 3.4) if st.shops else min(st.window_width, pitch - 0.5)) / 2
        low, high = np.full(n, 0.45 if st.shops else 1.2), np.full(n, h - 1.05)
        kind, lit = ("shopglass", 0.85) if st.shops else ("glass", 0.3)
        _glazing(wall, kind, centre - half, centre + half, low, high, 0.07, rng, lit)
    c = st.cornice
    wall.box("plaster", -c, wall.length + c, top - 0.4, top + 0.05, 0.0, c, st.trim_tint)


def _roof(mesh: MeshBuilder, b: Building, st: Style, rng: np.random.Generator) -> None:
    h = st.height + 0.05
    shape = b.footprint
    inset = 1.6 if st.roof == "mansard" else 4.5
    inner = shape.buffer(-inset, join_style="mitre") if st.roof != "flat" else Polygon()
    if st.roof == "flat" or inner.is_empty or inner.area < 8:
        inside = shape.buffer(-0.35, join_style="mitre")
        mesh.add_polygon("gravel", inside, h - 0.1, (0.17, 0.165, 0.16))
        mesh.add_polygon("metal", shape.difference(inside), h + 0.5, st.roof_tint)
        top, flat_z = inside, h - 0.1
    else:
        outer = shape.buffer(0.25, join_style="mitre")
        rise = st.roof_height if st.roof == "hip" else 2.8
        band = outer.difference(inner)
        for piece in getattr(band, "geoms", [band]):
            if not isinstance(piece, Polygon) or piece.area < 0.01:
                continue
            xy = triangulate(piece)
            away = shapely.distance(shapely.points(xy.reshape(-1, 2)), inner).reshape(xy.shape[:2])
            z = np.where(away < 0.02, h + rise, h)
            mesh.add("seam", np.concatenate([xy, z[..., None]], -1), xy, st.roof_tint)
        mesh.add_polygon("seam", inner, h + rise, st.roof_tint)
        top, flat_z = inner, h + rise
    area = top.area
    if area > 30:
        count = int(np.clip(area / 120, 1, 8))
        x0, y0, x1, y1 = top.bounds
        for _ in range(count * 3):
            x, y = rng.uniform(x0, x1), rng.uniform(y0, y1)
            if top.buffer(-0.8).contains(Point(x, y)):
                tall = rng.uniform(0.9, 2.2)
                size = (rng.uniform(0.6, 1.8), rng.uniform(0.5, 0.8), tall)
                brick = rng.random() < 0.6
                tint = (0.24, 0.10, 0.07) if brick else (0.3, 0.3, 0.3)
                mesh.add_boxes(
                    "brick" if brick else "metal",
                    np.array([x, y, flat_z + tall / 2]),
                    np.array(size),
                    rng.uniform(0, 3),
                    tint,
                )


def _dormers(wall: Wall, st: Style, rng: np.random.Generator) -> None:
    s0, s1 = _columns(wall.length, st)
    if st.roof != "mansard" or len(s0) < 3:
        return
    a, b = s0[1:-1:2], s1[1:-1:2]
    z0, z1 = np.full(len(a), st.height + 0.5), np.full(len(a), st.height + 2.1)
    for lo, hi, c in ((a - 0.15, a, z1 + 0.15), (b, b + 0.15, z1 + 0.15)):
        wall.box("seam", lo, hi, st.height, c, -1.8, -0.25, st.roof_tint)
    wall.box("seam", a, b, z1, z1 + 0.15, -1.8, -0.2, st.roof_tint)
    wall.rect("seam", a, b, st.height, z0, -0.3, st.roof_tint)
    _windows(wall, replace(st, reveal=0.1), a, b, z0, z1, rng, 0.3, False, -0.3)


def _spire(mesh: MeshBuilder, shape: Polygon, z: float, rise: float, tint: Colour) -> None:
    centre = np.asarray(shape.centroid.coords[0])
    for ring in oriented_rings(shape)[:1]:
        a, b = ring[:-1], ring[1:]
        pts = np.zeros((len(a), 3, 3))
        pts[:, 0, :2], pts[:, 1, :2], pts[:, 2, :2] = a, b, centre
        pts[:, :, 2] = z
        pts[:, 2, 2] += rise
        mesh.add("seam", pts, pts[..., :2], tint)


def _domes(mesh: MeshBuilder, shape: Polygon, st: Style, cathedral: bool) -> None:
    """A drum and dome over the middle of a church, with four lesser ones on a cathedral."""
    x, y = shape.centroid.coords[0]
    size = float(np.sqrt(shape.area))
    copper = (0.10, 0.22, 0.17)
    spots = [(0.0, 0.0, size * 0.16, st.height + size * (0.55 if cathedral else 0.32))]
    if cathedral:
        r = size * 0.27
        spots += [
            (i * r, j * r, size * 0.06, st.height + size * 0.25) for i in (-1, 1) for j in (-1, 1)
        ]
    for dx, dy, radius, top in spots:
        at = np.array([x + dx, y + dy])
        tube(mesh, "plaster", (*at, st.height), (*at, top), radius, radius * 0.97, st.wall_tint, 20)
        tube(
            mesh,
            "plaster",
            (*at, top),
            (*at, top + 0.6),
            radius * 1.1,
            radius * 1.1,
            st.trim_tint,
            20,
        )
        for turn in np.arange(12) / 12 * 2 * np.pi:
            out = at + np.array([np.cos(turn), np.sin(turn)]) * radius
            size3 = np.array([0.3, radius * 0.22, (top - st.height) * 0.45])
            mesh.add_boxes(
                "glass", np.array([*out, st.height + (top - st.height) * 0.65]), size3, turn
            )
        ball(mesh, "seam", (*at, top + 0.6), (radius, radius, radius * 1.05), copper, 16)
        tube(
            mesh,
            "metal",
            (*at, top + radius),
            (*at, top + radius * 1.9),
            0.25,
            0.05,
            (0.5, 0.38, 0.1),
        )


class FacadeBuilder:
    """Builds every building of a city into one mesh."""

    def __init__(
        self, city: City, seed: int, mesh: MeshBuilder, signs: dict[str, tuple[int, float]]
    ) -> None:
        self.city, self.seed, self.mesh, self.signs = city, seed, mesh, signs
        self.shapes = [b.footprint for b in city.buildings]
        self.tree = STRtree(self.shapes)
        self.part_tree = STRtree([p.footprint for p in city.parts])
        self.street_tree = STRtree([s.line for s in city.streets])
        self.sign_walls: list[tuple[Wall, Style]] = []

    def _street_sees(self, mid: np.ndarray, outward: np.ndarray) -> bool:
        ray = LineString([mid + outward * 0.6, mid + outward * 26.0])
        hits = self.street_tree.query(ray, predicate="intersects")
        if len(hits) == 0:
            return False
        near = min(ray.project(self.city.streets[i].line.intersection(ray)) for i in hits)
        view = LineString([mid + outward * 0.6, mid + outward * (0.6 + near)])
        return len(self.tree.query(view, predicate="intersects")) == 0

    def build(self, within: Polygon | None = None, near: Polygon | None = None) -> None:
        """Adds all buildings, or those that touch `within`; in full detail those in `near`."""
        for i, b in enumerate(self.city.buildings):
            if within is None or within.intersects(b.footprint):
                self._building(i, b, near is None or near.intersects(b.footprint))
        self._place_signs()

    def _building(self, index: int, b: Building, detail: bool) -> None:
        b = self._with_levels(b)
        st = draw_style(b, self.seed)
        rng = np.random.default_rng([self.seed, b.osm_id, 1])
        extra = 0.55 if st.roof == "flat" else 0.05
        shape = b.footprint.simplify(0.12)
        if not isinstance(shape, Polygon) or shape.is_empty:
            return
        run = 0.0
        for ring in oriented_rings(shape):
            for a, c in zip(ring[:-1], ring[1:], strict=True):
                length = float(np.hypot(*(c - a)))
                if length < 0.05:
                    continue
                along = (c - a) / length
                outward = np.array([along[1], -along[0]])
                wall = Wall(self.mesh, a, along, outward, length, run)
                run += length
                # Each wall has its own draw: how finely one is built must not change another.
                rng = np.random.default_rng([self.seed, b.osm_id, int(run * 100)])
                mid = (a + c) / 2
                probe = Point(mid + outward * 0.5)
                others = [j for j in self.tree.query(probe, predicate="within") if j != index]
                if others:
                    wall.rect(st.wall, 0.0, length, 0.0, st.height + extra, 0.0, st.wall_tint)
                elif length > 1.2 and self._street_sees(mid, outward):
                    if detail:
                        _street_wall(wall, st, rng, length > 7, extra)
                        _dormers(wall, st, rng)
                    else:
                        _plain_wall(wall, st, rng, extra, True)
                    if length > 4:
                        self.sign_walls.append((wall, st))
                else:
                    _plain_wall(wall, st, rng, extra, False)
        _roof(self.mesh, replace(b, footprint=shape), st, rng)
        self._parts(b, st)
        if b.tags.get("building") in ("cathedral", "church", "chapel"):
            _domes(self.mesh, shape, st, b.tags["building"] == "cathedral")

    def _with_levels(self, b: Building) -> Building:
        """Takes the number of floors from the building's parts where it has none itself."""
        if "building:levels" in b.tags or "height" in b.tags:
            return b
        weights: dict[str, float] = {}
        for i in self.part_tree.query(b.footprint, predicate="intersects"):
            part = self.city.parts[i]
            levels = part.tags.get("building:levels")
            if levels and b.footprint.contains(part.footprint.representative_point()):
                weights[levels] = weights.get(levels, 0.0) + part.footprint.area
        if not weights:
            return b
        levels = max(weights, key=lambda k: weights[k])
        return replace(b, tags={**b.tags, "building:levels": levels})

    def _parts(self, b: Building, st: Style) -> None:
        """Raises those parts of a building that OSM knows to be higher than the rest."""
        for i in self.part_tree.query(b.footprint, predicate="intersects"):
            part = self.city.parts[i]
            if not b.footprint.contains(part.footprint.representative_point()):
                continue
            tall = metres(part.tags.get("height"))
            if tall is None:
                levels = metres(part.tags.get("building:levels")) or 0.0
                tall = st.ground_height + st.floor_height * (levels - 1) + 0.5
            extra = int((tall - st.height) / st.floor_height)
            if extra < 1 or part.footprint.area < 12:
                continue
            high = replace(st, floors=st.floors + extra, shops=False)
            rng = np.random.default_rng([self.seed, part.osm_id])
            for ring in oriented_rings(part.footprint.simplify(0.12)):
                for a, c in zip(ring[:-1], ring[1:], strict=True):
                    length = float(np.hypot(*(c - a)))
                    if length > 0.05:
                        along = (c - a) / length
                        outward = np.array([along[1], -along[0]])
                        # Well inside, so that it shows in no window of the facade.
                        wall = Wall(self.mesh, a - outward * 0.5, along, outward, length)
                        _plain_wall(wall, high, rng, 0.3, False)
            if part.tags.get("roof:shape") == "pyramidal" or tall > 40:
                _spire(self.mesh, part.footprint, high.height, 9.0, st.roof_tint)
            else:
                _roof(self.mesh, replace(part), replace(high, roof="flat"), rng)

    def _place_signs(self) -> None:
        """Hangs each shop's name on the street wall next to its OSM node."""
        if not self.sign_walls:
            return
        lines = [LineString([w.start, w.start + w.along * w.length]) for w, _ in self.sign_walls]
        tree = STRtree(lines)
        taken: dict[int, list[tuple[float, float]]] = {}
        for x, y, name, _ in self.city.shops:
            if name not in self.signs:
                continue
            k = int(tree.nearest(Point(x, y)))
            if lines[k].distance(Point(x, y)) > 16.0:
                continue
            wall, st = self.sign_walls[k]
            cell, fill = self.signs[name]
            tall = 0.5 if st.ground_height > 4 else 0.4
            wide = min(tall * 8 * fill, wall.length - 0.6)
            at = lines[k].project(Point(x, y))
            at = float(np.clip(at, wide / 2 + 0.3, wall.length - wide / 2 - 0.3))
            busy = taken.setdefault(k, [])
            clash = any(a - 0.2 < at + wide / 2 and at - wide / 2 < b + 0.2 for a, b in busy)
            z = st.ground_height - 0.72
            if clash:
                z = st.ground_height + 0.12
                if any(a + 1000 < at + wide / 2 + 1000 and at - wide / 2 < b for a, b in busy[1:]):
                    continue
            busy.append((at - wide / 2, at + wide / 2))
            self._sign(wall, at, wide, z, tall, cell, fill)

    def _sign(
        self, wall: Wall, at: float, wide: float, z: float, tall: float, cell: int, fill: float
    ) -> None:
        col, row = cell % SIGN_COLUMNS, cell // SIGN_COLUMNS
        u0, u1 = col / SIGN_COLUMNS, (col + fill) / SIGN_COLUMNS
        v0, v1 = 1 - (row + 1) / SIGN_ROWS, 1 - row / SIGN_ROWS
        uv = np.array([[[u0, v0], [u1, v0], [u1, v1], [u0, v1]]])
        wall.box(
            "metal",
            at - wide / 2 - 0.03,
            at + wide / 2 + 0.03,
            z - 0.03,
            z + tall + 0.03,
            0.05,
            0.2,
            _DARK,
        )
        wall.rect("sign", at - wide / 2, at + wide / 2, z, z + tall, 0.205, (1, 1, 1), uv)
        side = at + wide / 2 + 0.25
        if fill < 0.75 and side < wall.length - 0.2:
            # A projecting sign, readable along the street from both sides.
            long, high, zz = 0.12 + 1.1 * fill, 0.14 * 1.1, z - 0.1
            high = long / (8 * fill)
            wall.quad(
                "sign",
                [side] * 4,
                [zz, zz, zz + high, zz + high],
                [0.15 + long, 0.15, 0.15, 0.15 + long],
                (1, 1, 1),
                uv,
            )
            wall.quad(
                "sign",
                [side - 0.08] * 4,
                [zz, zz, zz + high, zz + high],
                [0.15, 0.15 + long, 0.15 + long, 0.15],
                (1, 1, 1),
                uv,
            )
