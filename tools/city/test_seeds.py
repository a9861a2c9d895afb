"""Tests that the seed alone makes the town, and that a build's check finds what is wrong with it.

They need shapely, osmium and mapbox_earcut, but neither Blender nor the extract.
"""

from __future__ import annotations

import numpy as np
import pytest

for module in ("shapely", "osmium", "mapbox_earcut"):
    pytest.importorskip(module)

from shapely.geometry import LineString, box  # noqa: E402

from tools.city import check, geo  # noqa: E402
from tools.city.facades import FacadeBuilder  # noqa: E402
from tools.city.meshes import FaceArrays, MeshBuilder  # noqa: E402
from tools.city.osm import Building, City, Street  # noqa: E402
from tools.city.plan import Capture  # noqa: E402
from tools.city.poses import Pose  # noqa: E402
from tools.city.streets import build_ground, make_ground  # noqa: E402
from tools.city.traffic import Placed, Traffic  # noqa: E402

WALLS = ((100, -150, 130, -132), (140, -150, 175, -132), (100, -110, 150, -95))


@pytest.fixture(scope="module")
def town() -> City:
    line = LineString([(60, -121), (220, -121)])
    return City(
        buildings=[Building(i, box(*wall), {"building": "yes"}) for i, wall in enumerate(WALLS)],
        streets=[Street(1, line, "residential", "Testikatu", 8.0, {})],
        trams=[line],
        green=[box(60, -90, 220, -60)],
        crossings=[(120.0, -121.0)],
        bounds=(60.0, -160.0, 220.0, -60.0),
    )


def facades(town: City, seed: int) -> dict[str, list[FaceArrays]]:
    mesh = MeshBuilder()
    FacadeBuilder(town, seed, mesh, {}).build()
    return {material: mesh.merged(material) for material in sorted(mesh.faces)}


def ground(town: City) -> dict[str, list[FaceArrays]]:
    mesh = MeshBuilder()
    build_ground(mesh, town, make_ground(town))
    return {material: mesh.merged(material) for material in sorted(mesh.faces)}


def equal(one: dict[str, list[FaceArrays]], other: dict[str, list[FaceArrays]]) -> bool:
    return one.keys() == other.keys() and all(
        len(one[m]) == len(other[m])
        and all(
            np.array_equal(a.points, b.points)
            and np.array_equal(a.uv, b.uv)
            and np.array_equal(a.tint, b.tint)
            for a, b in zip(one[m], other[m], strict=True)
        )
        for m in one
    )


def test_the_same_seed_gives_the_same_facades_and_another_does_not(town: City) -> None:
    first = facades(town, 2025)
    assert sum(len(faces.points) for group in first.values() for faces in group) > 500
    assert equal(first, facades(town, 2025))
    assert not equal(first, facades(town, 101))


def test_streets_need_no_seed(town: City) -> None:
    assert equal(ground(town), ground(town))


def test_what_moves_is_drawn_anew_for_each_capture(town: City) -> None:
    def drawn(seed: int) -> list[Placed]:
        return Traffic(town, make_ground(town)).draw(120.0, -121.0, 90.0, 1.0, seed)

    assert drawn(1) and drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def capture(name: str, role: str, x: float, y: float, links: tuple[str, ...] = ()) -> Capture:
    pose = Pose(x, y, 2.0, 90.0, 0.0, 0.0, 75.0, "Testikatu")
    return Capture(
        name, role, pose, "summer_day", 0, 7, 1, role, "test", place_ids=links
    )  # fmt: skip


@pytest.fixture
def build(town: City, monkeypatch: pytest.MonkeyPatch) -> dict[str, Capture]:
    monkeypatch.setattr(check, "load_city", lambda: town)
    made = (
        capture("r0", "reference", 120, -121),
        capture("q0", "query", 123, -121, ("r0",)),
        capture("o0", "outside", 100, 700),
    )
    return {c.image: c for c in made}


def test_a_right_build_has_no_problems(build: dict[str, Capture]) -> None:
    assert check.check_rows([c.row() for c in build.values()], build) == []


def test_queries_may_stand_in_a_table_without_references(build: dict[str, Capture]) -> None:
    query = build["query/q0.jpg"].row() | {"place_ids": ""}
    assert check.check_rows([query], build) == []
    assert check.check_rows([query | {"split": "validation"}], build) != []


@pytest.mark.parametrize(
    ("image", "at", "columns", "problem"),
    [
        ("reference/r0.jpg", (120.0, -140.0), {}, "inside a building"),
        ("reference/r0.jpg", (120.0, -119.5), {}, "pin off the rendered position"),
        ("query/q0.jpg", (120.3, -121.0), {}, "query at a reference position"),
        ("query/q0.jpg", None, {"split": "validation"}, "split validation is not that"),
        ("outside/o0.jpg", (120.0, -115.0), {}, "outside outside its zone"),
        ("query/q0.jpg", None, {"place_ids": ""}, "no reference shows this place"),
        ("query/q0.jpg", None, {"place_ids": "r9"}, "unknown place r9"),
        ("query/q0.jpg", None, {"image": "query/q9.jpg"}, "not in the plan"),
    ],
)
def test_what_is_wrong_is_named(
    build: dict[str, Capture],
    image: str,
    at: tuple[float, float] | None,
    columns: dict[str, str],
    problem: str,
) -> None:
    rows = {c.image: c.row() for c in build.values()}
    if at is not None:
        columns = dict(zip(("latitude", "longitude"), map(str, geo.to_wgs84(*at)), strict=True))
    rows[image] |= columns
    found = check.check_rows(list(rows.values()), build)
    assert any(problem in sentence for sentence in found), found
