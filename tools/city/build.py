"""Renders a list of captures, resumably, and writes the tables beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from shapely.geometry import MultiPoint
from tqdm import tqdm

from .basemap import write_basemap
from .conditions import CONDITIONS
from .lens import develop
from .plan import Capture, write_table

log = logging.getLogger(__name__)
_VIEW = 200.0  # metres of town built around the cameras


def pending(out: Path, captures: Sequence[Capture]) -> list[Capture]:
    """The captures without a picture, ordered so that few settings change between them."""
    todo = [c for c in captures if not (out / c.image).exists()]
    return sorted(
        todo, key=lambda c: (c.look, c.role != "reference", c.condition, c.moment, c.seed % 3)
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
    todo = pending(out, captures)[part::parts]
    if limit:
        todo = todo[:limit]
    raw = cache / f"raw{part}.png"
    looks = sorted({c.look for c in todo})
    done = 0
    with tqdm(
        total=len(todo), desc=f"render {part}", unit="img", smoothing=0.1, position=part
    ) as bar:
        for look in looks:
            group = [c for c in todo if c.look == look]
            for cluster in _clusters(group):
                done += _render_cluster(out, cluster, look, cache, raw, threads, bar)
    return done


def _clusters(group: Sequence[Capture]) -> list[list[Capture]]:
    """Far-apart zones are built one after the other, so that each scene stays small."""
    parts: dict[str, list[Capture]] = {}
    for c in group:
        west = c.pose.x < -170
        part = "index" if c.role != "outside" else "west" if west else "north"
        parts.setdefault(part, []).append(c)
    return list(parts.values())


def _render_cluster(
    out: Path, cluster: list[Capture], look: int, cache: Path, raw: Path, threads: int, bar: tqdm
) -> int:
    from .scene import Shot, Stage  # noqa: PLC0415 - Blender is loaded only to render

    area = MultiPoint([(c.pose.x, c.pose.y) for c in cluster]).convex_hull.buffer(_VIEW)
    stage = Stage(cache, look, area, threads)
    log.info("built %d faces for %d captures", stage.faces, len(cluster))
    for c in cluster:
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
            c.samples,
        )
        target = out / c.image
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # another process was faster
            bar.update()
            continue
        stage.render(shot, raw)
        develop(raw, target, CONDITIONS[c.condition], c.seed)
        bar.update()
    return len(cluster)


def finish(out: Path, captures: Sequence[Capture]) -> None:
    """Writes the table of the pictures that exist, and the map."""
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "places.csv", [c for c in captures if (out / c.image).exists()])
    write_basemap(out / "basemap.geojson")
