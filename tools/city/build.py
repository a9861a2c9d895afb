"""Renders a list of captures, resumably, and writes the tables beside them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shapely.geometry import MultiPoint
from tqdm import tqdm

from .basemap import write_basemap
from .conditions import CONDITIONS
from .contact import write_sheets
from .lens import develop
from .plan import Capture, write_table

log = logging.getLogger(__name__)
_TILE = 240.0  # metres; one scene is built for the cameras of one tile
_NEAR = 110.0  # buildings this near to a camera are built in full detail
_VIEW = 320.0  # and to this distance at all
_FEW = 24  # tiles with fewer captures are joined to a neighbour
_CENTRE = (150.0, -150.0)  # tiles are rendered outwards from here


def pending(out: Path, captures: Sequence[Capture]) -> list[Capture]:
    """The captures without a picture."""
    return [c for c in captures if not (out / c.image).exists()]


def _ordered(tile: Sequence[Capture]) -> list[Capture]:
    """References first, and few changes of weather or sky between pictures."""
    return sorted(
        tile, key=lambda c: (c.role != "reference", c.condition, c.moment, c.seed % 3, c.name)
    )


def render_all(
    out: Path,
    captures: Sequence[Capture],
    cache: Path,
    threads: int = 1,
    limit: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> int:
    """Renders what is still missing.

    Args:
        out: Output folder.
        captures: What to render.
        cache: Folder for textures.
        threads: Render threads.
        limit: Stop after so many pictures; 0 means all.
        shard: Which part of how many this process takes.

    Returns:
        How many pictures were rendered.
    """
    part, parts = shard
    work = _tiles(pending(out, captures))[part::parts]
    raw = cache / f"raw{part}-{os.getpid()}.png"  # two runs may share a cache
    done = 0
    total = sum(len(tile) for tile in work)
    with tqdm(
        total=min(total, limit or total),
        desc=f"render {part}",
        unit="img",
        smoothing=0.1,
        position=part,
    ) as bar:
        for tile in work:
            if limit:
                tile = tile[: limit - done]
            if tile:
                done += _render_tile(out, tile, cache, raw, threads, bar)
    raw.unlink(missing_ok=True)
    return done


def _tiles(todo: Sequence[Capture]) -> list[list[Capture]]:
    """Groups captures by look and place, so that each scene stays small; shipped ones first.

    Blender copies the whole scene for every picture, so a scene of the whole town would cost
    more time than the rendering itself.
    """
    tiles: dict[tuple[int, int, int], list[Capture]] = {}
    for c in todo:
        key = (c.look, math.floor(c.pose.x / _TILE), math.floor(c.pose.y / _TILE))
        tiles.setdefault(key, []).append(c)

    for key in sorted(tiles, key=lambda k: len(tiles[k])):
        # Building a scene for a handful of pictures does not pay; the next tile takes them.
        near = [k for k in tiles if k[0] == key[0] and 0 < math.dist(k[1:], key[1:]) < 1.5]
        if len(tiles[key]) < _FEW and near:
            tiles[min(near, key=lambda k: math.dist(k[1:], key[1:]))] += tiles.pop(key)

    def rank(tile: list[Capture]) -> tuple[bool, float]:
        x = sum(c.pose.x for c in tile) / len(tile) - _CENTRE[0]
        y = sum(c.pose.y for c in tile) / len(tile) - _CENTRE[1]
        return tile[0].role == "training", math.hypot(x, y)

    return sorted((_ordered(tile) for tile in tiles.values()), key=rank)


def _render_tile(
    out: Path, tile: list[Capture], cache: Path, raw: Path, threads: int, bar: tqdm
) -> int:
    from .scene import Shot, Stage  # noqa: PLC0415 - Blender is loaded only to render

    hull = MultiPoint([(c.pose.x, c.pose.y) for c in tile]).convex_hull
    stage = Stage(cache, tile[0].look, hull.buffer(_VIEW), hull.buffer(_NEAR), threads)
    log.info("built %d faces for %d captures", stage.faces, len(tile))
    for c in tile:
        p = c.pose
        shot = Shot(
            p.x,
            p.y,
            p.height,
            p.heading,
            p.pitch,
            p.roll,
            p.fov,
            c.width,
            c.rows,
            c.condition,
            c.moment,
            c.seed,
            c.paths,
        )
        target = out / c.image
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # another process was faster
            bar.update()
            continue
        stage.render(shot, raw)
        develop(raw, target, CONDITIONS[c.condition], c.seed)
        bar.update()
    return len(tile)


def finish(out: Path, captures: Sequence[Capture]) -> None:
    """Writes the table of the pictures that exist, the map and the contact sheets.

    Args:
        out: Output folder.
        captures: All that it may hold, not only what was just rendered.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = [c for c in captures if (out / c.image).exists()]
    names = {c.name for c in made}
    # While a build is unfinished, links may only name pictures that are there.
    linked = [replace(c, place_ids=tuple(p for p in c.place_ids if p in names)) for c in made]
    write_table(out / "places.csv", linked)
    write_basemap(out / "basemap.geojson")
    write_sheets(out)
