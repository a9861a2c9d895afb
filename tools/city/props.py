"""Things that stand or move in the street: trees, lamps, benches, cars, trams and people.

Each maker returns a mesh around the origin, facing +x, with the ground at z = 0.
"""

from __future__ import annotations

import math

import numpy as np

from .meshes import MeshBuilder

Colour = tuple[float, float, float]
_TYRE = (0.015, 0.015, 0.016)


def loft(
    mesh: MeshBuilder, material: str, rings: np.ndarray, tint: object, caps: bool = True
) -> None:
    """Joins closed rings `[R,N,3]` into a skin; the rings turn counter-clockwise about +z."""
    a, b = rings[:-1], rings[1:]
    nxt = np.roll(np.arange(rings.shape[1]), -1)
    quads = np.stack([a, a[:, nxt], b[:, nxt], b], axis=2).reshape(-1, 4, 3)
    mesh.add(material, quads, np.zeros((len(quads), 4, 2)), tint)
    if caps:
        for ring, order in ((rings[0], slice(None, None, -1)), (rings[-1], slice(None))):
            pts = ring[order]
            centre = pts.mean(0)
            tri = np.stack([np.broadcast_to(centre, pts.shape), pts, np.roll(pts, -1, 0)], 1)
            mesh.add(material, tri, np.zeros((len(tri), 3, 2)), tint)


def tube(
    mesh: MeshBuilder,
    material: str,
    start: np.ndarray,
    end: np.ndarray,
    r0: float,
    r1: float,
    tint: object,
    sides: int = 6,
) -> None:
    """A tapered tube between two points."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    axis /= max(float(np.linalg.norm(axis)), 1e-9)
    helper = np.array([0.0, 0.0, 1.0]) if abs(axis[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    u = np.cross(helper, axis)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    angle = np.arange(sides) / sides * 2 * np.pi
    circle = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    loft(mesh, material, np.stack([start + circle * r0, end + circle * r1]), tint)


def ball(
    mesh: MeshBuilder, material: str, centre: object, radius: object, tint: object, n: int = 8
) -> None:
    """An ellipsoid; `radius` is one number or three."""
    r = np.broadcast_to(np.asarray(radius, float), (3,))
    lat = np.linspace(-np.pi / 2 + 0.15, np.pi / 2 - 0.15, n - 1)
    lon = np.arange(n) / n * 2 * np.pi
    rings = np.stack(
        [
            np.cos(lat)[:, None] * np.cos(lon),
            np.cos(lat)[:, None] * np.sin(lon),
            np.broadcast_to(np.sin(lat)[:, None], (n - 1, n)),
        ],
        -1,
    )
    loft(mesh, material, rings * r + np.asarray(centre, float), tint)


def tree(seed: int, leaves: bool) -> MeshBuilder:
    """A lime-like street tree of about nine metres."""
    rng = np.random.default_rng([seed, 5])
    mesh = MeshBuilder()
    bark = (0.09, 0.07, 0.055)
    tips: list[np.ndarray] = []

    def grow(start: np.ndarray, direction: np.ndarray, length: float, r: float, level: int) -> None:
        end = start + direction * length
        tube(mesh, "bark", start, end, r, r * 0.68, bark, 7 if level < 2 else 4)
        if level >= 2:
            tips.append(start + direction * length * 0.6)
            tips.append(end)
        if level == 5:
            return
        for _ in range(3 if level < 3 else 2):
            turn = direction + rng.normal(0, 0.42, 3) + np.array([0, 0, 0.10])
            grow(
                end,
                turn / np.linalg.norm(turn),
                length * rng.uniform(0.66, 0.86),
                r * 0.62,
                level + 1,
            )

    trunk = np.array([rng.normal(0, 0.03), rng.normal(0, 0.03), 1.0])
    grow(np.zeros(3), trunk / np.linalg.norm(trunk), rng.uniform(2.3, 2.9), 0.17, 0)
    if leaves:
        centres = np.array(tips)
        count = 16000
        c = centres[rng.integers(0, len(centres), count)] + rng.normal(0, 0.30, (count, 3))
        normal = rng.normal(0, 1, (count, 3))
        u = np.cross(normal, [0.3, 0.2, 1.0])
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        v = np.cross(normal, u)
        v /= np.linalg.norm(v, axis=1, keepdims=True)
        size = rng.uniform(0.06, 0.13, (count, 1))
        quads = np.stack([c - u * size, c - v * size * 0.7, c + u * size, c + v * size * 0.7], 1)
        tint = np.array([0.10, 0.20, 0.035]) * rng.uniform(0.55, 1.5, (count, 1))
        tint[:, 0] *= rng.uniform(0.8, 1.5, count)
        mesh.add("leaf", quads, np.zeros((count, 4, 2)), tint)
    return mesh


def lamp() -> MeshBuilder:
    """A street lamp; its light is added by the scene at (1.1, 0, 7.4)."""
    mesh = MeshBuilder()
    grey = (0.06, 0.065, 0.065)
    tube(mesh, "metal", (0, 0, 0), (0, 0, 1.0), 0.10, 0.09, grey, 8)
    tube(mesh, "metal", (0, 0, 1.0), (0, 0, 7.4), 0.065, 0.045, grey, 8)
    tube(mesh, "metal", (0, 0, 7.2), (1.0, 0, 7.6), 0.035, 0.03, grey)
    mesh.add_boxes("metal", np.array([1.15, 0, 7.62]), np.array([0.7, 0.26, 0.10]), 0.0, grey)
    mesh.add_boxes("lamp", np.array([1.15, 0, 7.56]), np.array([0.6, 0.2, 0.05]), 0.0)
    return mesh


def bench() -> MeshBuilder:
    """A park bench."""
    mesh = MeshBuilder()
    wood, iron = (0.20, 0.11, 0.05), (0.04, 0.04, 0.04)
    for y in (-0.16, 0.0, 0.16):
        mesh.add_boxes("paint", np.array([y, 0, 0.45]), np.array([0.12, 1.8, 0.04]), 0.0, wood)
    for z in (0.62, 0.78):
        mesh.add_boxes("paint", np.array([-0.26, 0, z]), np.array([0.04, 1.8, 0.1]), 0.0, wood)
    for y in (-0.75, 0.75):
        mesh.add_boxes("metal", np.array([0, y, 0.22]), np.array([0.4, 0.05, 0.44]), 0.0, iron)
        mesh.add_boxes("metal", np.array([-0.27, y, 0.6]), np.array([0.04, 0.05, 0.5]), 0.0, iron)
    return mesh


def litter_bin() -> MeshBuilder:
    """A green bin."""
    mesh = MeshBuilder()
    tube(mesh, "metal", (0, 0, 0.1), (0, 0, 0.95), 0.22, 0.26, (0.03, 0.10, 0.05), 10)
    return mesh


def traffic_signal() -> MeshBuilder:
    """A traffic light on its pole, lamps towards +x."""
    mesh = MeshBuilder()
    tube(mesh, "metal", (0, 0, 0), (0, 0, 3.3), 0.06, 0.05, (0.10, 0.10, 0.10), 8)
    mesh.add_boxes(
        "metal", np.array([0.12, 0, 2.9]), np.array([0.2, 0.3, 0.9]), 0.0, (0.02, 0.02, 0.02)
    )
    for z, tint in ((3.17, (0.9, 0.05, 0.03)), (2.9, (0.10, 0.06, 0.0)), (2.63, (0.0, 0.08, 0.03))):
        mesh.add_boxes("lampdim", np.array([0.225, 0, z]), np.array([0.02, 0.17, 0.17]), 0.0, tint)
    return mesh


def _wheel(mesh: MeshBuilder, x: float, y: float, radius: float, side: float) -> None:
    tube(mesh, "rubber", (x, y, radius), (x, y + side * 0.20, radius), radius, radius, _TYRE, 16)
    tube(
        mesh,
        "metal",
        (x, y + side * 0.17, radius),
        (x, y + side * 0.215, radius),
        radius * 0.64,
        radius * 0.55,
        (0.42, 0.42, 0.44),
        10,
    )


_CAR_SHAPES = {
    # x of: rear, boot end, rear glass top, windscreen top, windscreen foot, front; heights of
    # the boot, roof and bonnet; half width
    "saloon": ((-2.3, -1.65, -0.95, 0.35, 1.05, 2.3), (0.98, 1.45, 0.90), 0.89),
    "hatch": ((-2.0, -1.9, -1.45, 0.35, 1.05, 2.05), (1.05, 1.50, 0.95), 0.88),
    "estate": ((-2.35, -2.3, -1.95, 0.35, 1.05, 2.35), (1.02, 1.48, 0.92), 0.90),
    "suv": ((-2.2, -2.1, -1.75, 0.30, 0.95, 2.25), (1.20, 1.72, 1.10), 0.94),
    "van": ((-2.6, -2.58, -2.5, 1.35, 2.05, 2.6), (1.30, 2.25, 1.25), 0.98),
}
CAR_KINDS = tuple(_CAR_SHAPES)


def car(kind: str, paint: Colour) -> MeshBuilder:
    """A car, lofted from cross sections along its length."""
    (xr, xb, xt, xw, xf, xn), (hb, hr, hn), w = _CAR_SHAPES[kind]
    mesh = MeshBuilder()
    floor = 0.24 if kind != "suv" else 0.32
    stations = [
        (xr, hb * 0.62, 0.90),
        (xr + 0.10, hb * 0.93, 0.97),
        ((xr + xb) / 2, hb, 1.0),
        (xb, hb, 1.0),
        ((xt + xw) / 2, (hb + hn) / 2 + 0.02, 1.0),
        (xf, hn, 1.0),
        ((xf + xn) / 2, hn - 0.04, 0.99),
        (xn - 0.18, hn - 0.13, 0.95),
        (xn, hn * 0.62, 0.84),
    ]
    rings = []
    for x, h, k in stations:
        ww = w * k
        section = [
            (-ww * 0.86, floor),
            (ww * 0.86, floor),
            (ww * 0.98, floor + 0.2),
            (ww, h * 0.66),
            (ww * 0.94, h - 0.06),
            (ww * 0.82, h),
            (-ww * 0.82, h),
            (-ww * 0.94, h - 0.06),
            (-ww, h * 0.66),
            (-ww * 0.98, floor + 0.2),
        ]
        rings.append([(x, y, z) for y, z in section])
    loft(mesh, "carpaint", np.array(rings)[:, ::-1], paint)
    belt, roof_w = w * 0.90, w * 0.70
    low = (hb + hn) / 2 - 0.03
    base = [(xb, -belt, low), (xf, -belt, low), (xf, belt, low), (xb, belt, low)]
    roof = [(xt, -roof_w, hr), (xw, -roof_w, hr), (xw, roof_w, hr), (xt, roof_w, hr)]
    loft(mesh, "carglass", np.array([base, roof]), (0.02, 0.025, 0.03), caps=False)
    crown = [
        (xt + 0.15, -roof_w * 0.9, hr + 0.05),
        (xw - 0.2, -roof_w * 0.9, hr + 0.05),
        (xw - 0.2, roof_w * 0.9, hr + 0.05),
        (xt + 0.15, roof_w * 0.9, hr + 0.05),
    ]
    loft(mesh, "carpaint", np.array([roof, crown]), paint)
    for side in (-1, 1):
        for t0, t1 in ((0.0, 0.06), (0.50, 0.55), (0.95, 1.0)):
            lo = [(xb + (xf - xb) * t, side * (belt + 0.012), low) for t in (t0, t1)]
            hi = [(xt + (xw - xt) * t, side * (roof_w + 0.012), hr + 0.01) for t in (t0, t1)]
            quad = [lo[0], lo[1], hi[1], hi[0]] if side < 0 else [lo[1], lo[0], hi[0], hi[1]]
            mesh.add("carpaint", np.array([quad]), np.zeros((1, 4, 2)), paint)
        for x in (xr + 0.82, xn - 0.88):
            _wheel(mesh, x, side * (w - 0.17), 0.33 if kind != "suv" else 0.37, side)
            arch = np.array([x, side * (w - 0.02), 0.42])
            mesh.add_boxes("rubber", arch, np.array([0.82, 0.05, 0.46]), 0.0, (0.01, 0.01, 0.01))
        mesh.add_boxes(
            "paint",
            np.array([xf - 0.15, side * (w + 0.08), low + 0.1]),
            np.array([0.12, 0.2, 0.14]),
            0.0,
            (0.03, 0.03, 0.03),
        )
        mesh.add_boxes(
            "headlight",
            np.array([xn - 0.10, side * w * 0.62, hn * 0.70]),
            np.array([0.16, 0.34, 0.13]),
            0.0,
        )
        mesh.add_boxes(
            "taillight",
            np.array([xr + 0.06, side * w * 0.66, hb * 0.78]),
            np.array([0.14, 0.28, 0.16]),
            0.0,
            (0.45, 0.01, 0.01),
        )
    for x, z in ((xn + 0.0, 0.42), (xr - 0.0, 0.62)):
        mesh.add_boxes(
            "paint", np.array([x, 0, z]), np.array([0.05, 0.5, 0.11]), 0.0, (0.75, 0.75, 0.75)
        )
    mesh.add_boxes(
        "rubber", np.array([xn - 0.02, 0, 0.58]), np.array([0.06, 0.9, 0.14]), 0.0, (0.01,) * 3
    )
    return mesh


def tram() -> MeshBuilder:
    """A Helsinki tram, green below and cream above, in three sections."""
    mesh = MeshBuilder()
    green, cream = (0.015, 0.16, 0.075), (0.80, 0.72, 0.45)
    w = 1.15
    for x0, x1 in ((-13.0, -4.6), (-4.2, 4.2), (4.6, 13.0)):
        for material, tint, z0, z1, ww in (
            ("carpaint", green, 0.25, 1.35, w),
            ("carglass", (0.02, 0.025, 0.03), 1.35, 2.45, w - 0.03),
            ("carpaint", cream, 2.45, 3.15, w),
            ("metal", (0.35, 0.36, 0.36), 3.15, 3.45, w - 0.2),
        ):
            mesh.add_boxes(
                material,
                np.array([(x0 + x1) / 2, 0, (z0 + z1) / 2]),
                np.array([x1 - x0, 2 * ww, z1 - z0]),
                0.0,
                tint,
            )
        for x in np.arange(x0 + 0.1, x1, 1.6):
            mesh.add_boxes(
                "carpaint", np.array([x, 0, 1.9]), np.array([0.18, 2 * w - 0.02, 1.12]), 0.0, cream
            )
    for x in (-4.4, 4.4):
        mesh.add_boxes(
            "rubber", np.array([x, 0, 1.75]), np.array([0.5, 1.9, 2.8]), 0.0, (0.02,) * 3
        )
    for end in (-1, 1):
        for y in (-0.75, 0.75):
            mesh.add_boxes(
                "headlight", np.array([end * 13.0, y, 0.85]), np.array([0.08, 0.3, 0.16]), 0.0
            )
    tube(mesh, "metal", (0, 0, 3.4), (0.9, 0, 4.4), 0.03, 0.03, (0.05,) * 3)
    tube(mesh, "metal", (0.9, 0, 4.4), (0.0, 0, 5.6), 0.03, 0.03, (0.05,) * 3)
    return mesh


_SKIN = ((0.55, 0.36, 0.26), (0.62, 0.42, 0.32), (0.30, 0.17, 0.11), (0.48, 0.30, 0.2))
_CLOTH = (
    (0.03, 0.035, 0.05),
    (0.06, 0.06, 0.065),
    (0.30, 0.28, 0.25),
    (0.04, 0.08, 0.20),
    (0.35, 0.05, 0.04),
    (0.45, 0.42, 0.36),
    (0.08, 0.16, 0.09),
    (0.50, 0.36, 0.08),
    (0.55, 0.55, 0.55),
    (0.20, 0.12, 0.07),
    (0.28, 0.40, 0.48),
)


_TROUSERS = (
    (0.02, 0.025, 0.035),
    (0.05, 0.08, 0.16),
    (0.10, 0.14, 0.24),
    (0.16, 0.13, 0.09),
    (0.05,) * 3,
)


def person(seed: int) -> MeshBuilder:
    """A walking or standing adult, about 1.7 m tall."""
    rng = np.random.default_rng([seed, 9])
    mesh = MeshBuilder()
    skin = _SKIN[rng.integers(len(_SKIN))]
    top = _CLOTH[rng.integers(len(_CLOTH))]
    legs = _TROUSERS[rng.integers(len(_TROUSERS))]
    hair = ((0.02, 0.015, 0.01), (0.12, 0.07, 0.03), (0.35, 0.25, 0.12), (0.3, 0.3, 0.3))[
        rng.integers(4)
    ]
    stride = rng.uniform(0.0, 0.34)
    k = rng.uniform(0.93, 1.07)
    hip, knee = 0.92 * k, 0.50 * k
    for side, swing in ((-1, stride), (1, -stride)):
        y = side * 0.095
        kx = swing * 0.55 + 0.05
        tube(mesh, "fabric", (swing * 0.9, y, 0.07), (kx, y, knee), 0.055, 0.075, legs)
        tube(mesh, "fabric", (kx, y, knee), (0, y, hip), 0.078, 0.105, legs)
        ball(
            mesh,
            "rubber",
            (swing * 0.9 + 0.06, y, 0.05),
            (0.14, 0.05, 0.05),
            (0.03, 0.025, 0.02),
            6,
        )
        shoulder = np.array([0.0, side * 0.20, 1.42 * k])
        elbow = np.array([swing * -0.5 - 0.03, side * 0.25, 1.14 * k])
        hand = np.array([swing * -0.9 + 0.10, side * 0.22, 0.90 * k])
        tube(mesh, "fabric", shoulder, elbow, 0.062, 0.05, top)
        tube(mesh, "fabric", elbow, hand, 0.05, 0.04, top)
        ball(mesh, "fabric", hand, 0.05, skin, 6)
    long_coat = rng.random() < 0.35
    profile = [
        (0.70 if long_coat else 0.86, 0.15, 0.19),
        (0.98, 0.13, 0.175),
        (1.12, 0.12, 0.16),
        (1.32, 0.14, 0.205),
        (1.44, 0.11, 0.20),
        (1.50, 0.06, 0.09),
    ]
    angle = np.arange(10) / 10 * 2 * np.pi
    rings = [[(math.cos(a) * rx, math.sin(a) * ry, z * k) for a in angle] for z, rx, ry in profile]
    loft(mesh, "fabric", np.array(rings), top)
    tube(mesh, "fabric", (0, 0, 1.46 * k), (0.01, 0, 1.56 * k), 0.05, 0.05, skin)
    ball(mesh, "fabric", (0.015, 0, 1.64 * k), (0.095, 0.08, 0.115), skin, 10)
    ball(mesh, "fabric", (-0.015, 0, 1.675 * k), (0.10, 0.09, 0.105), hair, 10)
    if rng.random() < 0.5:
        bag = _CLOTH[rng.integers(len(_CLOTH))]
        mesh.add_boxes(
            "fabric", np.array([-0.19, 0, 1.25 * k]), np.array([0.16, 0.3, 0.42]), 0.0, bag
        )
    return mesh
