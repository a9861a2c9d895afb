"""Protocols: what counts as right in each layout, on small folders worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selavpr import LocationError, OptionError
from selavpr.geo import Location
from selavpr.protocols import PROTOCOLS, choose, prepare

HOME = Location(55.0, 12.0)


def utm_folder(root: Path, queries: list[float], database: list[float]) -> Path:
    """Photos on a line going north, named as the benchmarks do; their pixels are never read."""
    for role, norths in (("queries", queries), ("database", database)):
        folder = root / "images" / "test" / role
        folder.mkdir(parents=True)
        for i, north in enumerate(norths):
            (folder / f"@0500000.00@{6_000_000 + north:.2f}@33@U@@@{role}{i}@@@@@@@@.jpg").touch()
    return root


def test_pitts_style(tmp_path: Path) -> None:
    root = utm_folder(tmp_path, [0, 100, 500], [10, 24.9, 25.1, 90, 200])
    task = prepare(root, PROTOCOLS["pitts30k"])
    assert task.truths == ({0, 1}, {3}, frozenset())
    assert task.measured and task.queries[0].distance_m(task.database[3]) == pytest.approx(90)
    notes = " ".join(task.notes)
    assert "3 queries, 5 references" in notes and "not the whole benchmark" in notes
    assert "6,816 queries and 10,000" in notes and "1 queries have no right" in notes
    assert task.excluded == (frozenset(),) * 3


def test_ten_frames_of_nordland(tmp_path: Path) -> None:
    """Frames 2.4 m apart: the tenth neighbour is 24 m away and right, the eleventh 26.4 m."""
    frames = [2.4 * i for i in range(30)]
    task = prepare(utm_folder(tmp_path, frames[:1], frames), PROTOCOLS["nordland"])
    assert task.truths == (frozenset(range(11)),)


def test_another_distance_and_a_list_of_keys(tmp_path: Path) -> None:
    root = utm_folder(tmp_path, [0, 100], [10, 24, 90])
    (tmp_path / "keys.txt").write_text("queries0  other")
    task = prepare(root, PROTOCOLS["utm"], distance_m=12, keys=tmp_path / "keys.txt")
    assert task.truths == ({0},)
    assert any("12 m" in note for note in task.notes)
    names = [path.name for path in sorted((root / "images/test/queries").iterdir())]
    for called in (names[0], f"/far/away/{names[0]}", f"a\\b\\{names[0]}", names[0][:-4],
                   "cph/query/images/queries0.jpg", "a/b@c@queries0.jpg"):  # fmt: skip
        (tmp_path / "keys.txt").write_text(f"x\n{called}\n")
        (query,) = prepare(root, PROTOCOLS["utm"], keys=tmp_path / "keys.txt").queries
        assert query.path.name == names[0]
    with pytest.raises(OptionError, match=r"keys\.txt names none of the 2 queries"):
        (tmp_path / "keys.txt").write_text("nobody")
        prepare(root, PROTOCOLS["utm"], keys=tmp_path / "keys.txt")


@pytest.mark.parametrize("metres", [0, -1, float("nan"), float("inf")])
def test_distances_out_of_range(tmp_path: Path, metres: float) -> None:
    with pytest.raises(OptionError, match="distance"):
        prepare(utm_folder(tmp_path, [0], [0]), PROTOCOLS["utm"], distance_m=metres)


def msls_city(root: Path, city: str, queries: str, database: str) -> None:
    """Tables as MSLS has them; each photo as ``key north listed pano``, one a line."""
    for role, photos in (("query", queries), ("database", database)):
        folder = root / "train_val" / city / role
        folder.mkdir(parents=True)
        raw, post, sub = [",key,lon,lat,ca,captured_at,pano"], [",key,easting,northing"], [",all"]
        for i, line in enumerate(photos.splitlines()):
            key, north, listed, pano = line.split()
            place = HOME.moved(0, float(north))
            raw.append(f"{i},{key},{place.longitude},{place.latitude},90,2019-01-01,{pano}")
            post.append(f"{i},{key},300000,{6_000_000 + float(north)}")
            sub.append(f"{i},{listed}")
        for name, lines in (("raw", raw), ("postprocessed", post), ("subtask_index", sub)):
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_the_official_queries_of_msls(tmp_path: Path) -> None:
    msls_city(
        tmp_path, "cph",
        "a 0 True False\nb 0 False False\nc 0 True True\nd 900 True False",
        "x 10 True False\ny 12 False False\nz 14 True True\nw 100 True False",
    )  # fmt: skip
    msls_city(tmp_path, "sf", "e 100 True False", "v 100 True False")
    msls_city(tmp_path, "oslo", "f 0 True False", "u 0 True False")
    task = prepare(tmp_path, PROTOCOLS["msls-val-740"])
    # b is not listed, c a panorama, d has no reference within 25 m, oslo not in the validation.
    assert [q.key for q in task.queries] == ["a", "e"]
    assert [p.key for p in task.database] == ["x", "w", "v"]
    assert task.truths == ({0}, {1, 2})  # one plane for both cities, as the authors have it
    assert "740 queries" in " ".join(PROTOCOLS["msls-val-740"].facts)


def test_msls_without_its_index(tmp_path: Path) -> None:
    for city in ("cph", "sf"):
        msls_city(tmp_path, city, "a 0 True False", "x 10 True False")
    (tmp_path / "train_val/cph/query/subtask_index.csv").unlink()
    with pytest.raises(OptionError, match=r"subtask_index\.csv cannot be read"):
        prepare(tmp_path, PROTOCOLS["msls-val-740"])


def table_of(folder: Path, rows: str) -> Path:
    table = folder / "images.csv"
    table.write_text("path,place_id,role,condition,lat,lon\n" + rows)
    return table


def test_a_table_with_positions(tmp_path: Path) -> None:
    near = HOME.moved(0, 20)
    table = table_of(
        tmp_path,
        f"q.jpg,,query,night,{HOME.latitude},{HOME.longitude}\n"
        f"d.jpg,,database,day,{near.latitude},{near.longitude}\n",
    )
    task = prepare(table, choose(table, None))
    assert task.truths == ({0},) and task.queries[0].condition == "night"
    assert task.measured
    assert task.queries[0].distance_m(task.database[0]) == pytest.approx(20, abs=0.05)


def test_a_table_of_places_without_positions(tmp_path: Path) -> None:
    """Every photo is query and reference; none is its own answer."""
    table = table_of(tmp_path, "1.jpg,a,any,,,\n2.jpg,b,any,,,\n3.jpg,a,any,,,\n")
    task = prepare(table, PROTOCOLS["table"])
    assert task.truths == ({2}, frozenset(), {0}) and not task.measured
    assert task.excluded == ({0}, {1}, {2})
    assert any("same place" in note for note in task.notes)


def test_a_split_is_no_role(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,split,lat,lon\n1.jpg,test,48,11\n2.jpg,val,48,11\n")
    task = prepare(tmp_path / "t.csv", PROTOCOLS["table"])
    assert task.truths == ({1}, {0})


def test_neither_position_nor_place(tmp_path: Path) -> None:
    table = table_of(tmp_path, "1.jpg,,any,,,\n2.jpg,b,any,,,\n")
    with pytest.raises(LocationError, match="neither"):
        prepare(table, PROTOCOLS["table"])


def test_distances_are_those_of_locations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = [HOME.moved(*rng.uniform(-3000, 3000, 2)) for _ in range(6)]
    rows = "".join(
        f"{i}.jpg,,{'query' if i < 3 else 'database'},,{p.latitude},{p.longitude}\n"
        for i, p in enumerate(places)
    )
    table = table_of(tmp_path, rows)
    for metres in (500, 2000, 4000):
        right = prepare(table, PROTOCOLS["table"], distance_m=metres).truths
        for i, query in enumerate(places[:3]):
            near = {j for j, place in enumerate(places[3:]) if query.distance_m(place) <= metres}
            assert right[i] == near


def test_no_such_protocol(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no protocol 'nonsense'"):
        choose(tmp_path, "nonsense")
