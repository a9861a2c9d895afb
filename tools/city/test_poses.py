"""Tests of the pose geometry; they need shapely but neither Blender nor the OSM extract."""

import math

import numpy as np
import pytest

shapely = pytest.importorskip("shapely")

from shapely.geometry import LineString, Point, box  # noqa: E402

from tools.city import poses  # noqa: E402
from tools.city.poses import Pose  # noqa: E402

WALLS = shapely.union_all([box(-100, 8, 100, 20), box(-100, -20, 100, -8)])
STREET = [("Testikatu", LineString([(-80, 0), (80, 0)]))]


def test_stands_are_evenly_spaced_and_look_along_the_street() -> None:
    stands = poses.stands_along(STREET, 20.0)
    xs = sorted(s.x for s in stands)
    assert len(xs) == 8
    assert np.allclose(np.diff(xs), 20.0)
    assert {round(s.along) for s in stands} <= {90, 270}


def test_the_second_carriageway_of_a_street_adds_no_stands() -> None:
    twin = [*STREET, ("Testikatu", LineString([(-80, 6), (80, 6)]))]
    assert len(poses.stands_along(twin, 20.0)) == 8


@pytest.mark.parametrize(
    ("heading", "distance"), [(0, 8), (180, 8), (90, 30), (45, 8 * math.sqrt(2))]
)
def test_free_distance_meets_the_first_wall(heading: float, distance: float) -> None:
    assert poses.free_distance(0, 0, heading, WALLS, 30.0) == pytest.approx(distance)


def test_references_see_both_ways_and_stay_off_the_walls() -> None:
    refs = poses.reference_poses(poses.stands_along(STREET, 20.0), WALLS, Point(0, 500), seed=1)
    assert 16 <= len(refs) <= 32
    assert all(WALLS.distance(Point(p.x, p.y)) > 1.5 for p in refs)
    again = poses.reference_poses(poses.stands_along(STREET, 20.0), WALLS, Point(0, 500), seed=1)
    assert refs == again


def test_queries_keep_their_distance_and_their_bounds() -> None:
    base = Pose(0, 0, 2.2, 90, 0, 0, 75, "Testikatu")
    rng = np.random.default_rng(4)
    for _ in range(20):
        query = poses.query_pose(base, WALLS, Point(0, 500), rng)
        assert query is not None
        assert abs(query.y) >= 1.0
        assert WALLS.distance(Point(query.x, query.y)) >= 1.2
        assert abs((query.heading - 90 + 180) % 360 - 180) <= 30


def test_no_query_where_there_is_no_room() -> None:
    tight = shapely.union_all([box(-9, 0.5, 9, 9), box(-9, -9, 9, -0.5)])
    base = Pose(0, 0, 2.2, 90, 0, 0, 75, "")
    assert poses.query_pose(base, tight, Point(0, 500), np.random.default_rng(1)) is None


def test_same_place_needs_nearness_and_a_like_view() -> None:
    a = Pose(0, 0, 2, 10, 0, 0, 75, "")
    assert poses.same_place(a, Pose(20, 0, 2, 350, 0, 0, 75, ""))
    assert not poses.same_place(a, Pose(26, 0, 2, 10, 0, 0, 75, ""))
    assert not poses.same_place(a, Pose(0, 0, 2, 100, 0, 0, 75, ""))


def test_zones_are_apart_and_so_are_the_splits() -> None:
    from tools.city import zones

    shapes = {"index": zones.INDEX, "train": zones.TRAIN}
    shapes["outside"] = shapely.union_all([zones.OUTSIDE_NORTH, zones.OUTSIDE_WEST])
    assert zones.INDEX.is_valid and zones.TRAIN.is_valid
    assert shapes["index"].distance(shapes["train"]) > 5
    assert not shapes["index"].intersects(shapes["outside"].buffer(-1))
    assert zones.split_of(200, -500) == "validation"
    assert zones.split_of(200, -385) == "none"
    assert zones.split_of(200, -200) == "test"
    assert zones.split_of(-300, -500) == "train"
