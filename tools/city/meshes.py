"""Collects polygons by material as NumPy arrays, before Blender sees any of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import mapbox_earcut
import numpy as np
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

WHITE = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class FaceArrays:
    """Faces with equal corner counts: `points [N,K,3]`, `uv [N,K,2]`, `tint [N,4]`."""

    points: np.ndarray
    uv: np.ndarray
    tint: np.ndarray


class MeshBuilder:
    """Gathers faces per material; every face owns its corners, so that nothing is welded."""

    def __init__(self) -> None:
        self.faces: dict[str, list[FaceArrays]] = defaultdict(list)

    def add(self, material: str, points: np.ndarray, uv: np.ndarray, tint: object = WHITE) -> None:
        """Adds faces.

        Args:
            material: Name of the material.
            points: Corners `[N,K,3]` in metres, counter-clockwise seen from outside.
            uv: Texture coordinates `[N,K,2]`.
            tint: One colour `[4]` (or `[3]`) or one per face `[N,4]`.
        """
        n = len(points)
        if n == 0:
            return
        colour = np.asarray(tint, np.float32)
        if colour.shape[-1] == 3:
            colour = np.concatenate([colour, np.ones((*colour.shape[:-1], 1), np.float32)], -1)
        if colour.ndim == 1:
            colour = np.tile(colour, (n, 1))
        points = np.asarray(points, np.float32)
        self.faces[material].append(FaceArrays(points, np.asarray(uv, np.float32), colour))

    def add_polygon(
        self,
        material: str,
        shape: BaseGeometry,
        z: float,
        tint: object = WHITE,
        uv_scale: float = 1.0,
    ) -> None:
        """Adds a flat polygon (or several) facing up, with world-aligned texture coordinates."""
        for piece in getattr(shape, "geoms", [shape]):
            if isinstance(piece, Polygon) and piece.area > 0.01:
                xy = triangulate(piece)
                pts = np.concatenate([xy, np.full((*xy.shape[:2], 1), z)], axis=2)
                self.add(material, pts, xy * uv_scale, tint)

    def add_skirt(
        self, material: str, shape: BaseGeometry, z0: float, z1: float, tint: object = WHITE
    ) -> None:
        """Adds vertical faces along every ring of a polygon, from `z0` up to `z1`, outward."""
        for piece in getattr(shape, "geoms", [shape]):
            if not isinstance(piece, Polygon) or piece.area < 0.01:
                continue
            for ring in oriented_rings(piece):
                a, b = ring[:-1], ring[1:]
                length = np.linalg.norm(b - a, axis=1)
                start = np.cumsum(length) - length
                pts = np.zeros((len(a), 4, 3))
                pts[:, 0, :2], pts[:, 1, :2], pts[:, 2, :2], pts[:, 3, :2] = a, b, b, a
                pts[:, :2, 2], pts[:, 2:, 2] = z0, z1
                uv = np.zeros((len(a), 4, 2))
                uv[:, 0, 0] = uv[:, 3, 0] = start
                uv[:, 1, 0] = uv[:, 2, 0] = start + length
                uv[:, :2, 1], uv[:, 2:, 1] = z0, z1
                self.add(material, pts, uv, tint)

    def add_boxes(
        self,
        material: str,
        centre: np.ndarray,
        size: np.ndarray,
        yaw: np.ndarray | float = 0.0,
        tint: object = WHITE,
    ) -> None:
        """Adds upright boxes: `centre [N,3]`, `size [N,3]`, `yaw` in radians counter-clockwise."""
        centre = np.atleast_2d(np.asarray(centre, float))
        size = np.broadcast_to(np.asarray(size, float), centre.shape)
        yaw = np.broadcast_to(np.asarray(yaw, float), (len(centre),))
        corners = (
            np.array(
                [
                    [-1, -1, -1],
                    [1, -1, -1],
                    [1, 1, -1],
                    [-1, 1, -1],
                    [-1, -1, 1],
                    [1, -1, 1],
                    [1, 1, 1],
                    [-1, 1, 1],
                ],
                float,
            )
            * 0.5
        )
        sides = np.array(
            [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7], [3, 2, 1, 0]]
        )
        local = corners[None] * size[:, None]
        c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        pts = np.stack(
            [
                local[..., 0] * c - local[..., 1] * s,
                local[..., 0] * s + local[..., 1] * c,
                local[..., 2],
            ],
            -1,
        )
        quads = (pts + centre[:, None])[:, sides].reshape(-1, 4, 3)
        wide = size[:, [0, 1, 0, 1, 0, 0]].reshape(-1)
        high = size[:, [2, 2, 2, 2, 1, 1]].reshape(-1)
        uv = np.zeros((len(quads), 4, 2))
        uv[:, 1, 0] = uv[:, 2, 0] = wide
        uv[:, 2, 1] = uv[:, 3, 1] = high
        colour = np.asarray(tint, np.float32)
        if colour.ndim == 2:
            colour = np.repeat(colour, 6, axis=0)
        self.add(material, quads, uv, colour)

    def merged(self, material: str) -> list[FaceArrays]:
        """The faces of one material, joined into one array per corner count."""
        groups: dict[int, list[FaceArrays]] = defaultdict(list)
        for f in self.faces[material]:
            groups[f.points.shape[1]].append(f)
        return [
            FaceArrays(
                np.concatenate([f.points for f in group]),
                np.concatenate([f.uv for f in group]),
                np.concatenate([f.tint for f in group]),
            )
            for group in groups.values()
        ]

    def count(self) -> int:
        """Number of faces gathered so far."""
        return sum(len(f.points) for group in self.faces.values() for f in group)


def oriented_rings(polygon: Polygon) -> list[np.ndarray]:
    """Closed rings `[N,2]`, walked so that the outside of the polygon lies on the right."""
    rings = []
    for ring, outer in [(polygon.exterior, True), *[(r, False) for r in polygon.interiors]]:
        xy = np.asarray(ring.coords)[:, :2]
        if ring.is_ccw != outer:
            xy = xy[::-1]
        rings.append(xy)
    return rings


def triangulate(polygon: Polygon) -> np.ndarray:
    """Triangles `[N,3,2]` of a polygon with holes, counter-clockwise."""
    rings = [np.asarray(r.coords)[:-1, :2] for r in (polygon.exterior, *polygon.interiors)]
    xy = np.concatenate(rings).astype(np.float64)
    ends = np.cumsum([len(r) for r in rings]).astype(np.uint32)
    tri = xy[mapbox_earcut.triangulate_float64(xy, ends).reshape(-1, 3)]
    d1, d2 = tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0]
    clockwise = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0] < 0
    tri[clockwise] = tri[clockwise][:, ::-1]
    return tri
