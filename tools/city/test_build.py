"""Tests of the order of work; they need shapely and osmium, but no Blender and no extract."""

from dataclasses import replace
from pathlib import Path

import pytest

for module in ("shapely", "osmium", "tqdm"):
    pytest.importorskip(module)

from tools.city import build, plan  # noqa: E402
from tools.city.__main__ import all_of  # noqa: E402
from tools.city.plan import Capture  # noqa: E402
from tools.city.poses import Pose  # noqa: E402


def capture(name: str, x: float, role: str = "reference", look: int = 1) -> Capture:
    pose = Pose(x, 0.0, 2.0, 90.0, 0.0, 0.0, 75.0, "Testikatu")
    return Capture(name, "references", pose, "summer_day", 0, 7, look, role, "test")


def test_a_picture_that_exists_is_not_rendered_again(tmp_path: Path) -> None:
    captures = [capture("a", 0), capture("b", 10)]
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "a.jpg").touch()
    assert [c.name for c in build.pending(tmp_path, captures)] == ["b"]


def test_far_places_and_other_facades_have_scenes_of_their_own() -> None:
    near, far = [capture(f"n{i}", 10.0) for i in range(30)], [capture("far", 5000.0)]
    other = [capture("look", 10.0, look=2)]
    assert sorted(len(t) for t in build._tiles([*near, *far, *other])) == [1, 1, 30]


def test_a_small_tile_joins_its_neighbour_and_training_comes_last() -> None:
    near, small = [capture(f"n{i}", 10.0) for i in range(30)], [capture("s", 250.0)]
    training = [capture("t", 10.0, role="training", look=2)]
    tiles = build._tiles([*training, *near, *small])
    assert [len(t) for t in tiles] == [31, 1]


def test_a_table_row_holds_true_degrees_and_an_absolute_moment() -> None:
    row = capture("a", 0.0).row()
    assert (row["latitude"], row["longitude"]) == ("60.1705000", "24.9440000")
    assert row["captured_at"].endswith("+03:00")
    assert row["heading"] == "90.00"


def test_links_of_an_unfinished_build_name_existing_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Capture] = []
    monkeypatch.setattr(build, "write_table", lambda path, captures: rows.extend(captures))
    monkeypatch.setattr(build, "write_basemap", lambda path: None)
    monkeypatch.setattr(build, "write_sheets", lambda out: None)
    a = replace(capture("a", 0), place_ids=("b", "missing"))
    (tmp_path / "references").mkdir()
    for name in ("a", "b"):
        (tmp_path / "references" / f"{name}.jpg").touch()
    build.finish(tmp_path, [a, capture("b", 1), capture("missing", 2)])
    assert [(c.name, c.place_ids) for c in rows] == [("a", ("b",)), ("b", ())]


def test_sets_rendered_into_one_folder_stay_in_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training captures are added to references; the sample, linked otherwise, is no part."""
    reference, training = capture("r", 0), capture("t", 0, role="training", look=2)
    monkeypatch.setattr(plan, "everything", lambda: [reference, training])
    assert all_of([training]) == [reference, training]
    sample = [replace(reference, place_ids=("x",))]
    assert all_of(sample) == sample
