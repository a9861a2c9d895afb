"""Indexes merged, added to and taken from: nothing extracted twice, nothing changed that stays."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import COUNT, MANIFEST, content

from selavpr import IndexFileError, OptionError, SelaVPR, building, editing, searchers, writing
from selavpr.building import build
from selavpr.index import PlaceIndex, verify
from selavpr.indexfiles import BASEMAP, CODES, GLOBAL, PHOTOS, manifest_text, read_manifest
from selavpr.indexfiles import MANIFEST as MANIFEST_FILE
from selavpr.localcodecs import CODECS
from selavpr.recognizer import Recognizer
from selavpr.sources import SourcePhoto


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "town"))


@pytest.fixture(scope="module")
def halves(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Photos 0 to 6, and 6 to 11: one of them in both."""
    folder = tmp_path_factory.mktemp("halves")
    first = dataclasses.replace(MANIFEST, attribution="A", calibration={"x": 1.0})
    build(folder / "a", photos[:7], network, first, rank=8)
    second = dataclasses.replace(MANIFEST, name="b", license="ODbL", attribution="B")
    build(folder / "b", photos[6:], network, second, rank=8)
    return folder / "a", folder / "b"


def ids(index: PlaceIndex) -> list[str]:
    return [place.place_id for place in index.places]


def only(folder: Path) -> None:
    """Nothing is left over beside the index."""
    assert sorted(p.name for p in folder.parent.iterdir() if p.name.startswith(".")) == []


# Add and remove


@pytest.mark.parametrize("local", CODECS)
def test_added_then_removed_gives_the_index_back(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, local: str
) -> None:
    town, rank = tmp_path / "town", {"product": 4, "keypoint": 20}.get(local, 6)
    build(town, photos[:8], network, MANIFEST, local=local, rank=rank)
    before = content(town)
    grown, problems = editing.add(town, photos[8:], network)
    assert problems == [] and ids(grown) == [f"p{i}" for i in range(COUNT)]
    assert verify(town) == []
    found = Recognizer(network, grown).recognize(photos[10].path, top_k=5)
    assert found.candidates[0].place.place_id == "p10"
    made, count = editing.remove(town, ids=[f"p{i}" for i in range(8, COUNT)])
    assert count == 4 and len(made) == 8
    assert content(town) == before
    only(town)


def test_added_then_removed_with_inverted_lists_and_a_list_of_checksums(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LISTED", 4)
    town = tmp_path / "town"
    made, _ = build(town, photos[:8], network, MANIFEST, rank=4, search="ivf")
    assert made.manifest.search and made.manifest.search["recall"] == 1.0
    assert (town / PHOTOS).is_file()
    assert not any(name.startswith("images/") for name in made.manifest.files)
    before = content(town)
    sizes = {name: len(data) for name, data in before.items() if name != MANIFEST_FILE}
    assert made.sizes() == sizes
    grown, _ = editing.add(town, photos[8:], network)
    assert grown.manifest.search == made.manifest.search and verify(town) == []
    for i in (0, 9):
        descriptor = network.extract(photos[i].path).descriptor[0]
        assert grown.search(descriptor, 1)[0][0] == i
    editing.remove(town, ids=[f"p{i}" for i in range(8, COUNT)])
    assert content(town) == before
    (town / "images" / "3.jpg").write_bytes(b"x")
    (town / "images" / "4.jpg").unlink()
    assert PlaceIndex.open(town).sizes() == sizes | {"images/3.jpg": 1, "images/4.jpg": 0}
    assert verify(town) == [
        "images/3.jpg is damaged: its checksum differs.", "images/4.jpg is missing."
    ]  # fmt: skip


def test_what_stays_is_not_extracted_or_coded_again(
    folder: Path, photos: list[SourcePhoto], network: SelaVPR, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = PlaceIndex.open(folder)
    monkeypatch.setattr(SelaVPR, "extract_each", None)
    made, count = editing.remove(folder, ids=["p0"], where={"street": "Way 5"})
    assert count == 2 and ids(made) == [f"p{i}" for i in range(COUNT) if i not in (0, 5)]
    for row, old in ((0, 1), (4, 6), (9, 11)):
        assert torch.equal(made.tokens(row), before.tokens(old))
        assert made.place(row) == before.place(old)
    assert verify(folder) == [] and made.basemap() == before.basemap()
    south, _, north, _ = made.manifest.bounds
    assert south > before.manifest.bounds[0] and north == pytest.approx(before.manifest.bounds[2])


def test_a_small_index_that_grows_large_gets_lists(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "town", photos[:5], network, MANIFEST, rank=4)
    monkeypatch.setattr(searchers, "FLAT_UP_TO", 6)
    assert editing.add(tmp_path / "town", photos[5:6], network)[0].manifest.search is None
    grown, _ = editing.add(tmp_path / "town", photos[6:], network)
    assert grown.manifest.search and grown.manifest.search["kind"] == "ivf"
    assert verify(tmp_path / "town") == []


def test_photos_whose_file_names_are_taken_get_others(
    folder: Path, photos: list[SourcePhoto], network: SelaVPR
) -> None:
    place = dataclasses.replace(photos[1].place, place_id="new", image="images/7.JPG")
    made, _ = editing.add(folder, [SourcePhoto(photos[1].path, place)], network)
    assert made.place(COUNT).image == "images/7-2.JPG"
    assert verify(folder) == []


def test_bad_photos_are_listed(
    folder: Path, photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    places = [dataclasses.replace(photos[i].place, place_id=f"n{i}", image=f"n{i}.jpg")
              for i in (0, 1)]  # fmt: skip
    new = [SourcePhoto(tmp_path / "bad.jpg", places[0]), SourcePhoto(photos[1].path, places[1])]
    made, problems = editing.add(folder, new, network)
    assert ids(made)[COUNT:] == ["n1"] and len(problems) == 1 and "bad.jpg" in problems[0]
    before = content(folder)
    again = [dataclasses.replace(new[0], place=dataclasses.replace(places[0], place_id="m"))]
    with pytest.raises(IndexFileError, match="None of the 1 photos is usable"):
        editing.add(folder, again, network)
    assert content(folder) == before


def test_added_photos_bring_their_authors_and_licences(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    def said(number: int, credit: str, licence: str) -> SourcePhoto:
        about = photos[number]
        place = dataclasses.replace(about.place, credit=credit, licence=licence)
        return dataclasses.replace(about, place=place)

    def whole(*added: SourcePhoto) -> tuple[str, str]:
        town = Path(shutil.copytree(tmp_path / "town", tmp_path / f"town{next(numbers)}"))
        made, _ = editing.add(town, added, network)
        return made.manifest.attribution, made.manifest.license

    numbers = itertools.count()
    manifest = dataclasses.replace(MANIFEST, attribution="Ann", license="CC-BY-4.0")
    build(tmp_path / "town", [said(i, "Ann", "CC-BY-4.0") for i in range(2)], network, manifest)
    bob, ann = said(2, "Bob", "CC-BY-NC-4.0"), said(3, "Ann", "CC-BY-4.0")
    assert whole(bob) == ("Ann; Bob", "CC-BY-4.0; CC-BY-NC-4.0")
    assert whole(ann) == ("Ann", "CC-BY-4.0")
    # Of one that says nothing nobody knows; those that do, each carry their own.
    assert whole(said(4, "", "")) == ("", "")
    assert whole(bob, ann, said(4, "Bob", "")) == ("Ann; Bob", "")
    many = [said(i, f"A{i}", "CC-BY-4.0") for i in range(2, 9)]
    assert whole(*many) == ("Ann; A2, A3, A4, A5, A6 and 2 more", "CC-BY-4.0")
    shutil.rmtree(tmp_path / "town")
    # What somebody says of photos that say nothing holds for more of them.
    build(tmp_path / "town", [said(i, "", "") for i in range(2)], network, manifest)
    assert whole(said(4, "", ""), bob) == ("Ann; Bob", "CC-BY-4.0; CC-BY-NC-4.0")


def test_what_cannot_be_done_changes_nothing(
    folder: Path, photos: list[SourcePhoto], network: SelaVPR
) -> None:
    before = content(folder)
    everything = [f"p{i}" for i in range(COUNT)]
    for error, words, change in (
        (OptionError, "no photo 'x'", lambda: editing.remove(folder, ids=["x"])),
        (OptionError, "No photo of", lambda: editing.remove(folder)),
        (OptionError, "No photo of", lambda: editing.remove(folder, where={"street": "?"})),
        (OptionError, "no column 'weather'", lambda: editing.remove(folder, where={"weather": ""})),
        (OptionError, "every photo", lambda: editing.remove(folder, ids=everything)),
        (OptionError, "ids that are in the index, such as 'p2'",
         lambda: editing.add(folder, photos[2:3], network)),
        (OptionError, "no photos", lambda: editing.add(folder, [], network)),
        (IndexFileError, "another model",
         lambda: editing.add(folder, photos[:1], random_model(TINY, seed=1))),
        (IndexFileError, "no index", lambda: editing.remove(folder / "images", ids=["p1"])),
        (IndexFileError, "no index", lambda: editing.add(folder / "x", photos, network)),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            change()
        assert content(folder) == before
        only(folder)


def test_a_photo_that_is_missing_stops_a_change(folder: Path) -> None:
    (folder / "images" / "3.jpg").unlink()
    with pytest.raises(IndexFileError, match=r"images/3\.jpg is missing"):
        editing.remove(folder, ids=["p1"])
    made, _ = editing.remove(folder, ids=["p3"])
    assert len(made) == COUNT - 1 and verify(folder) == []


def test_damage_is_carried_along_where_verify_finds_it(folder: Path) -> None:
    """Checksums are those of the build, not of whatever lies there now."""
    (folder / "images" / "3.jpg").write_bytes(b"x")
    editing.remove(folder, ids=["p1"])
    assert verify(folder) == ["images/3.jpg is damaged: its checksum differs."]


def test_a_stopped_addition_goes_on_after_another_change(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART", 4)
    town = tmp_path / "town"
    build(town, photos[:4], network, MANIFEST, rank=4)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editing.add(town, photos[4:], network, progress=stop)
    editing.remove(town, ids=["p1"])
    made: list[int] = []
    part_of = building.part_of

    def counting(paths: list[Path], *about: Any) -> bytes:
        made.append(len(paths))
        return part_of(paths, *about)

    monkeypatch.setattr(building, "part_of", counting)
    editing.add(town, photos[4:], network)
    assert made == [4], "the first part was there"
    assert verify(town) == []
    only(town)


# Merge


def test_a_merger_finds_what_its_parts_find(
    halves: tuple[Path, Path], photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    parts = [content(folder) for folder in halves]
    made, notes = editing.merge(tmp_path / "all", halves, name="both", title="Both")
    assert ids(made) == [f"p{i}" for i in range(COUNT)]
    assert verify(tmp_path / "all") == []
    assert [content(folder) for folder in halves] == parts
    about = made.manifest
    assert (about.name, about.title, about.license) == ("both", "Both", "CC0-1.0; ODbL")
    assert about.attribution == "A; B" and about.calibration is None
    assert [note.split(" ")[0] for note in notes] == ["The", "1", "Calibrations"]
    first, second = (PlaceIndex.open(folder) for folder in halves)
    assert torch.equal(made.tokens(6), first.tokens(6))
    # Coded again: what the first code cannot say of the second's tokens is lost, no more.
    for row in (7, 11):
        theirs, ours = second.tokens(row - 6), made.tokens(row)
        code = first.codec.code  # type: ignore[attr-defined]
        best = (theirs - code.mean) @ code.basis.T @ code.basis + code.mean
        assert (ours - theirs).norm() <= (best - theirs).norm() * 1.05
    recognizer = Recognizer(network, made)
    for i in (1, 6, 9):
        found = recognizer.recognize(photos[i].path, top_k=COUNT)
        assert found.candidates[0].place.place_id == f"p{i}"


@pytest.mark.parametrize(("row", "words"), [(10**9, "do not exist"), (0, "leave out rows")])
def test_a_search_that_names_other_rows_is_refused(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path, row: int, words: str
) -> None:
    for name, part in (("a", photos[:6]), ("b", photos[6:])):
        build(tmp_path / name, part, network, MANIFEST, rank=4, search="ivf")
    path = tmp_path / "b" / GLOBAL
    index = faiss.read_index(str(path))
    for number in range(index.nlist):
        if size := index.invlists.list_size(number):
            faiss.rev_swig_ptr(index.invlists.get_ids(number), size)[:] = row
    faiss.write_index(index, str(path))
    with pytest.raises(IndexFileError, match=f"global search in .*b is damaged: .*{words}"):
        editing.merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "all").exists()


def test_a_merger_of_equal_codes_loses_nothing(
    folder: Path, tmp_path: Path, photos: list[SourcePhoto]
) -> None:
    shutil.copytree(folder, tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    whole = content(folder)
    editing.remove(tmp_path / "a", ids=[f"p{i}" for i in range(5, COUNT)])
    editing.remove(tmp_path / "b", ids=[f"p{i}" for i in range(5)])
    made, notes = editing.merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert notes == []
    joined = content(made.folder)
    # The maps of both are one file now, and the manifest knows its size.
    assert json.loads(joined.pop(BASEMAP)) == json.loads(whole.pop(BASEMAP))
    assert joined.pop("manifest.json") != whole.pop("manifest.json")
    for name in ("global.faiss",):  # descriptors are brought to unit length once more
        assert len(joined.pop(name)) == len(whole.pop(name))
    assert joined == whole
    assert np.allclose(
        made.searcher.descriptors(), PlaceIndex.open(folder).searcher.descriptors(), atol=1e-6
    )


def test_ids_that_clash_get_numbers(
    halves: tuple[Path, Path], network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    other = [
        SourcePhoto(photos[i + 6].path, dataclasses.replace(photos[i].place)) for i in range(3)
    ]
    build(tmp_path / "b", other, network, MANIFEST, rank=8)
    made, notes = editing.merge(tmp_path / "all", [halves[0], tmp_path / "b"])
    assert ids(made)[7:] == ["p0-2", "p1-2", "p2-2"]
    assert [place.image for place in made.places][7] == "images/0-2.jpg"
    assert any(note.startswith("3 ids appeared twice") for note in notes)
    assert verify(tmp_path / "all") == []


def change(folder: Path, **changes: Any) -> None:
    manifest = dataclasses.replace(read_manifest(folder), **changes).sealed()
    (folder / "manifest.json").write_text(manifest_text(manifest))


def test_what_does_not_belong_together(
    halves: tuple[Path, Path], folder: Path, photos: list[SourcePhoto], network: SelaVPR,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "all"
    with pytest.raises(OptionError, match="two indexes or more"):
        editing.merge(out, [folder])
    with pytest.raises(OptionError, match="is one of the indexes"):
        editing.merge(folder, [folder, halves[0]])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for name in ("full", "full/mine.txt"):
        with pytest.raises(IndexFileError, match="is not an index"):
            editing.merge(tmp_path / name, halves)
    build(tmp_path / "dense", photos[:2], network, MANIFEST, local="dense")
    with pytest.raises(IndexFileError, match="keeps other local features"):
        editing.merge(out, [folder, tmp_path / "dense"])
    change(folder, fingerprint="other")
    with pytest.raises(IndexFileError, match="another model"):
        editing.merge(out, [halves[0], folder])
    assert not out.exists()
    only(folder)


def test_maps_are_joined(halves: tuple[Path, Path], tmp_path: Path) -> None:
    for name, half in zip("ab", halves, strict=True):
        shutil.copytree(half, tmp_path / name)
        feature = {"type": "FeatureCollection", "features": [{"id": name}]}
        (tmp_path / name / BASEMAP).write_text(json.dumps(feature))
        files = dict(read_manifest(half).files)
        change(tmp_path / name, files={**files, BASEMAP: {"bytes": 0, "sha256": ""}})
    made, _ = editing.merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert made.basemap() == {
        "type": "FeatureCollection", "features": [{"id": "a"}, {"id": "b"}]
    }  # fmt: skip
    assert (made.folder / CODES).stat().st_nlink == 1


def test_a_merger_shares_no_file_with_its_parts(halves: tuple[Path, Path], tmp_path: Path) -> None:
    part = Path(shutil.copytree(halves[0], tmp_path / "a"))
    (part / BASEMAP).write_text('{"type": "FeatureCollection", "features": []}')
    made, _ = editing.merge(tmp_path / "both", [part, halves[1]])
    there = {path.stat().st_ino for path in made.folder.rglob("*") if path.is_file()}
    assert (made.folder / BASEMAP).is_file()
    assert not there & {path.stat().st_ino for path in part.rglob("*") if path.is_file()}


def test_a_map_that_cannot_be_read_stops_no_change(
    halves: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    (folder / BASEMAP).write_text("streets")
    made, _ = editing.remove(folder, ids=["p1"])
    assert (made.folder / BASEMAP).read_text() == "streets"
    shutil.copytree(halves[1], tmp_path / "b")
    good = {"type": "FeatureCollection", "features": [{"id": "b"}]}
    (tmp_path / "b" / BASEMAP).write_text(json.dumps(good))
    merged, notes = editing.merge(tmp_path / "all", [folder, tmp_path / "b"])
    assert merged.basemap() == good
    assert any(note.startswith(f"The map of {folder} was left out: ") for note in notes)


# Killed


KILLED = """
import os, sys
from pathlib import Path
from selavpr import editing

folder, step = Path(sys.argv[1]), int(sys.argv[2])
rename, left = Path.rename, step

def dying(self, target):
    global left
    left -= 1
    if left == 0:
        os._exit(9)  # as SIGKILL would: nothing is tidied up
    return rename(self, target)

Path.rename = dying
editing.remove(folder, ids=["p1"])
"""


@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_it_swaps(folder: Path, tmp_path: Path, step: int) -> None:
    """Before the old index goes, and between that and the new one's coming."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(step)], cwd=root)
    assert done.returncode == 9
    assert len(PlaceIndex.open(folder)) == COUNT
    made, count = editing.remove(folder, ids=["p1"])
    assert count == 1 and len(made) == COUNT - 1 and verify(folder) == []
    only(folder)
