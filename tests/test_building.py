"""Building an index: whole or not at all, resumable, the same bytes however often it is stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import BASEMAP, COUNT, MANIFEST, content, draw_town, drawn
from PIL import Image

from selavpr import (
    IndexFileError,
    ModelConfig,
    OptionError,
    PhotoError,
    SelaVPR,
    building,
    editing,
    indexfiles,
)
from selavpr.building import build
from selavpr.geo import Location
from selavpr.index import PlaceIndex, verify, work_folder
from selavpr.recognizer import Recognizer
from selavpr.sources import SourcePhoto, read_folder, unique
from selavpr.structs import Place


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "PART", 4)


def photo(path: Path, number: int = 0, **about: Any) -> SourcePhoto:
    place = Place(f"p{number}", f"images/{number}.jpg", Location(1, 2))
    return SourcePhoto(path, dataclasses.replace(place, **about))


def test_the_same_photos_give_the_same_bytes(
    photos: list[SourcePhoto], network: SelaVPR, built: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(building, "PART", 8)
    (tmp_path / "map.geojson").write_bytes((built / "basemap.geojson").read_bytes())
    progress: list[tuple[int, int]] = []
    made, problems = build(
        tmp_path / "town", photos, network, MANIFEST, rank=32, basemap=tmp_path / "map.geojson",
        progress=lambda *args: progress.append(args),
    )  # fmt: skip
    # Nor does the size of the parts matter, as long as batches are the same.
    assert content(made.folder) == content(built)
    assert problems == []
    assert progress == [(8, 12), (12, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.geojson", "town"]


def test_dates_and_commands_change_the_manifest_only(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    found = []
    for created in ("2026-01-01", "2026-01-02"):
        manifest = dataclasses.replace(MANIFEST, created=created, command=f"build {created}")
        made, _ = build(tmp_path / created, photos[:3], network, manifest)
        assert made.manifest.created == created
        found.append(content(made.folder))
    assert found[0].pop("manifest.json") != found[1].pop("manifest.json")
    assert found[0] == found[1]


def test_features_are_those_of_the_model(
    photos: list[SourcePhoto], network: SelaVPR, built: Path
) -> None:
    index = PlaceIndex.open(built)
    for row in (0, 7):
        features = network.extract(photos[row].path)
        first, similarity = index.search(features.descriptor[0], 1)[0]
        assert first == row and similarity == pytest.approx(1, abs=1e-5)
        # At full rank only the 8 bits cost: half a step of the largest component, in 32 of them.
        error = (index.tokens(row) - features.tokens[0]).norm(dim=-1)
        bound = features.tokens[0].sub(index.codec.code.mean).norm(dim=-1) / 127 / 2 * 32**0.5
        assert (error <= bound * 1.01 + 0.01).all()


def test_photos_that_cannot_be_used_are_listed(network: SelaVPR, tmp_path: Path) -> None:
    folder = draw_town(tmp_path / "source", 6)
    (folder / "images" / "1.png").write_bytes(b"no photo")
    (folder / "images" / "2.png").unlink()
    Image.new("RGB", (5, 5)).save(folder / "images" / "4.png")
    for _ in range(2):
        made, problems = build(tmp_path / "town", read_folder(folder), network, MANIFEST)
        assert [place.place_id for place in made.places] == ["p0", "p3", "p5"]
        assert [p.split(" is ")[0] for p in problems] == ["1.png", "There", "4.png"]
        assert "2.png" in problems[1]
        assert verify(tmp_path / "town") == []


def test_only_bad_photos(network: SelaVPR, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    bad = [photo(tmp_path / "x.jpg"), photo(tmp_path / "absent.jpg", 1)]
    with pytest.raises(IndexFileError, match=r"None of the 2 photos is usable\. x\.jpg"):
        build(tmp_path / "town", bad, network, MANIFEST)
    assert not (tmp_path / "town").exists()


def test_stored_photos_are_small_and_without_metadata(network: SelaVPR, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    exif[0x8825] = {1: "N", 2: (48.0, 0.0, 0.0)}  # where it was taken
    drawn(1, (1600, 1200)).save(tmp_path / "x.jpg", exif=exif)
    made, _ = build(tmp_path / "town", [photo(tmp_path / "x.jpg")], network, MANIFEST)
    with Image.open(made.photo_path(0)) as stored:
        assert stored.size == (480, 640) and not stored.getexif() and "exif" not in stored.info


def test_an_index_made_from_an_index_keeps_its_photos(built: Path, tmp_path: Path) -> None:
    """For another model: nothing is compressed twice."""
    other = random_model(TINY, seed=1)
    made, _ = build(tmp_path / "anew", read_folder(built), other, MANIFEST, rank=32)
    before, after = ({n: b for n, b in content(folder).items() if n.startswith("images/")}
                     for folder in (built, made.folder))  # fmt: skip
    assert after == before
    assert [made.place(i).location for i in range(COUNT)] == [
        PlaceIndex.open(built).place(i).location for i in range(COUNT)
    ]


@pytest.mark.parametrize(
    "hidden", ["after the end", "a comment", "EXIF", "a small picture", "other tables"]
)
def test_only_a_photo_without_anything_else_is_kept_as_it_is(tmp_path: Path, hidden: str) -> None:
    drawn(3, (80, 60)).save(tmp_path / "a.png")
    _, stored = building.stored_photo(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(stored)
    assert building.stored_photo(tmp_path / "b.jpg")[1] == stored
    with Image.open(tmp_path / "b.jpg") as image:
        options: dict[str, Any] = {"quality": building.STORED_QUALITY, "progressive": True}
        if hidden == "EXIF":
            exif = Image.Exif()
            exif[0x010E] = "at home, 12 Elm Street"
            options["exif"] = exif
        elif hidden == "a comment":
            options["comment"] = b"at home, 12 Elm Street"
        elif hidden == "other tables":
            options["quality"] = 90
        image.save(tmp_path / "c.jpg", **options)
    if hidden == "after the end":
        with (tmp_path / "c.jpg").open("ab") as file:
            file.write(b"at home, 12 Elm Street\xff\xd9")
    if hidden == "a small picture":
        small = b"at home, 12 Elm Street".ljust(27, b".")  # 3 x 3 pixels of three bytes
        length, rest = (16 + len(small)).to_bytes(2, "big"), stored[6:18] + b"\x03\x03"
        (tmp_path / "c.jpg").write_bytes(stored[:4] + length + rest + small + stored[20:])
    given = (tmp_path / "c.jpg").read_bytes()
    kept = building.stored_photo(tmp_path / "c.jpg")[1]
    assert kept != given and b"Elm Street" not in kept


def test_one_photo_and_more_rank_than_tokens(network: SelaVPR, tmp_path: Path) -> None:
    drawn(1).save(tmp_path / "x.png")
    made, _ = build(tmp_path / "town", [photo(tmp_path / "x.png")], network, MANIFEST, rank=999)
    assert made.codec.rank == 16 and len(made) == 1  # one photo has 4 x 4 tokens


def test_photos_of_several_shapes(tmp_path: Path) -> None:
    config = ModelConfig(
        width=32, depth=1, heads=4, local_hidden=16, local_dim=8, input_size=56,
        resize="keep-aspect",
    )  # fmt: skip
    sizes = [(100, 100), (200, 100), (100, 200), (200, 100), (100, 100)]
    for i, size in enumerate(sizes):
        drawn(i, size).save(tmp_path / f"{i}.png")
    listed = [photo(tmp_path / f"{i}.png", i) for i in range(5)]
    made, _ = build(tmp_path / "town", listed, SelaVPR(config).eval(), MANIFEST)
    assert [made.grid(i) for i in range(5)] == [(4, 4), (3, 6), (6, 3), (3, 6), (4, 4)]


def test_text_of_every_kind_survives(network: SelaVPR, tmp_path: Path) -> None:
    drawn(1).save(tmp_path / "x.png")
    texts = ["a,b", 'say "x"', "市场街", "line\r\nbreak", "nul\0", "\ud800", " spaces ", "خیابان‌ها"]
    listed = [photo(tmp_path / "x.png", i, street=text) for i, text in enumerate(texts)]
    made, _ = build(tmp_path / "town", listed, network, MANIFEST)
    assert [place.street for place in made.places] == [
        "a,b", 'say "x"', "市场街", "line  break", "nul", "", "spaces", "خیابان‌ها"
    ]  # fmt: skip


def test_names_that_differ_in_what_is_taken_out_stay_apart(
    network: SelaVPR, tmp_path: Path
) -> None:
    """Spaces at an id's end, and control characters, are not written."""
    names = ("a", "a ", "b\x85", "b ")
    found = []
    for i, name in enumerate(names):
        drawn(i).save(tmp_path / f"{i}.png")
        found.append(photo(tmp_path / f"{i}.png", place_id=name, image=name))
    for made, _ in (
        build(tmp_path / "town", unique(found), network, MANIFEST),
        build(tmp_path / "grown", unique(found)[:1], network, MANIFEST),
    ):
        if len(made) == 1:
            made, _ = editing.add(made.folder, unique(found)[1:], network)
        assert [place.place_id for place in made.places] == ["a", "a-2", "b", "b-2"]
        assert verify(made.folder) == []
        for i in range(len(names)):
            assert made.photo_path(i).read_bytes() == building.stored_photo(found[i].path)[1]


def test_an_id_that_is_taken_but_for_a_space_is_refused(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    build(tmp_path / "town", photos[:1], network, MANIFEST)
    again = photo(photos[1].path, 1, place_id="p0 ")
    with pytest.raises(OptionError, match="'p0' appears twice"):
        build(tmp_path / "x", [photos[0], again], network, MANIFEST)
    with pytest.raises(OptionError, match="ids that are in the index, such as 'p0'"):
        editing.add(tmp_path / "town", [again], network)


# What is refused before any work


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"place_id": "p0"}, "'p0' appears twice"),
        ({"image": "images/0.jpg"}, "'images/0.jpg' appears twice"),
        ({"image": "../x.jpg"}, "no path for a photo"), ({"image": "/x.jpg"}, "no path"),
        ({"image": ""}, "no path"), ({"image": "manifest.json"}, "no path"),
        ({"image": "codes.npy/x.jpg"}, "no path"), ({"image": "a\\b"}, "no path"),
    ],
)  # fmt: skip
def test_places_that_do_not_fit(
    network: SelaVPR, town: Path, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path = town / "images" / "0.png"
    with pytest.raises(OptionError, match=words):
        build(tmp_path / "x", [photo(path), photo(path, 1, **change)], network, MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_options_out_of_range(network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path) -> None:
    for options in ({"rank": 0}, {"batch_size": 0}, {"basemap": tmp_path / "absent"}):
        with pytest.raises(OptionError):
            build(tmp_path / "x", photos, network, MANIFEST, **options)
    with pytest.raises(OptionError, match="no photos"):
        build(tmp_path / "x", [], network, MANIFEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("streets", "cannot be a basemap: Expecting value"),
        ("[]", "cannot be a basemap: it does not hold a JSON object"),
        ('{"type": "Feature", "geometry": null}', "basemap: it is no FeatureCollection"),
        (BASEMAP + " " * 2_100_000, "it is too large, 2 MB where 1 MB is the most"),
        (None, "cannot be read: No such file"),
    ],
    ids=lambda text: str(text)[:9],
)  # fmt: skip
def test_basemaps_that_cannot_be_served(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    text: str | None, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(indexfiles, "MAX_JSON_BYTES", 1 << 20)
    if text is not None:
        (tmp_path / "map.geojson").write_text(text)
    with pytest.raises(OptionError, match=words):
        build(tmp_path / "x", photos, network, MANIFEST, basemap=tmp_path / "map.geojson")
    assert not (tmp_path / "x").exists()


def test_a_basemap_may_have_a_byte_order_mark(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    (tmp_path / "map.geojson").write_text(BASEMAP, encoding="utf-8-sig")
    basemap = tmp_path / "map.geojson"
    made, _ = build(tmp_path / "x", photos[:1], network, MANIFEST, basemap=basemap)
    assert made.basemap() == json.loads(BASEMAP)


def test_other_folders_are_never_replaced(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file", "file/below"):
        with pytest.raises(IndexFileError):
            build(tmp_path / name, photos[:2], network, MANIFEST)
    assert (tmp_path / "mine" / "precious.txt").exists() and (tmp_path / "file").is_file()
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", photos[:2], network, MANIFEST)
    assert len(PlaceIndex.open(tmp_path / "empty")) == 2


def test_a_manifest_of_another_program_is_no_index(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "My site", "start_url": "."}')
    (tmp_path / "thesis.txt").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(IndexFileError, match="no index that could be replaced"):
        build(tmp_path, photos[:2], network, MANIFEST)
    assert content(tmp_path) == before


def test_what_people_put_beside_an_index_stays(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    """Notes, links and the photos; a name that the new index wants for itself stops the change."""
    town = tmp_path / "town"
    build(town, photos[:3], network, MANIFEST)
    draw_town(town / "originals", 2)
    (town / "NOTES.md").write_text("mine")
    (town / "images" / "mine.txt").write_text("mine, too")
    (town / "link").symlink_to("NOTES.md")
    (town / "way").symlink_to("originals")
    mine = {
        name: data
        for name, data in content(town).items()
        if name.startswith(("NOTES", "originals", "images/mine", "link"))
    }
    assert len(mine) >= 6

    def changes() -> Iterator[PlaceIndex]:
        yield build(town, photos[:4], network, MANIFEST)[0]
        yield editing.add(town, [photos[5]], network)[0]
        yield editing.remove(town, ids=[photos[5].place.place_id])[0]
        yield build(town, read_folder(town / "originals"), network, MANIFEST)[0]

    for made in changes():
        assert {name: data for name, data in content(town).items() if name in mine} == mine
        assert (town / "link").is_symlink() and (town / "way").is_symlink()
        assert verify(made.folder) == []
        assert not mine.keys() & made.manifest.files.keys()
    there = town / photos[2].place.image
    there.write_text("mine as well")
    with pytest.raises(IndexFileError, match="move it elsewhere"):
        build(town, photos[:3], network, MANIFEST)
    assert there.read_text() == "mine as well" and len(PlaceIndex.open(town)) == 2


def test_a_folder_whose_name_is_no_text(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    with pytest.raises(IndexFileError, match=r"no UTF-8; choose another place"):
        build(tmp_path / os.fsdecode(b"caf\xe9"), photos[:2], network, MANIFEST)
    with pytest.raises(IndexFileError, match="title is no text"):
        dataclasses.replace(MANIFEST, title="\udce9")


def test_a_damaged_photo_whose_name_is_no_text(network: SelaVPR, tmp_path: Path) -> None:
    town = read_folder(draw_town(tmp_path / "source", 2))
    bad = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    bad.write_bytes(b"no photo")
    made, problems = build(tmp_path / "town", [*town, photo(bad, 9)], network, MANIFEST)
    assert len(made) == 2 and len(problems) == 1 and "caf" in problems[0]
    problems[0].encode()


def test_a_photo_that_can_be_read_by_now(
    network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other rights change neither size nor time of a file."""
    town = read_folder(draw_town(tmp_path / "source", 6))

    def denied(path: Path) -> Image.Image:
        raise PhotoError(f"{path.name} cannot be read: Permission denied.")

    with monkeypatch.context() as patched:
        patched.setattr(building, "load_image", denied)
        with pytest.raises(IndexFileError, match="None of the 6"):
            build(tmp_path / "town", town, network, MANIFEST)
    made, problems = build(tmp_path / "town", town, network, MANIFEST)
    assert len(made) == 6 and problems == []


def test_through_a_link(network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for count in (2, 3):
        build(tmp_path / "link", photos[:count], network, MANIFEST)
        assert (tmp_path / "link").is_symlink() and len(PlaceIndex.open(tmp_path / "real")) == count


# Stopped, failed, resumed


def test_a_finished_part_is_not_extracted_again(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "town", photos, network, MANIFEST, progress=stop)
    assert not (tmp_path / "town").exists()
    extracted: list[int] = []
    original = SelaVPR.extract_each

    def counting(self: SelaVPR, images: list[Any], **options: Any) -> Any:
        extracted.append(len(images))
        return original(self, images, **options)

    monkeypatch.setattr(SelaVPR, "extract_each", counting)
    made, _ = build(tmp_path / "town", photos, network, MANIFEST)
    assert extracted == [4] and len(made) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_part_is_made_anew(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path, damage: bytes | None
) -> None:
    whole, _ = build(tmp_path / "whole", photos, network, MANIFEST)

    def spoil(done: int, total: int) -> None:
        if done == 12:
            for path in (work_folder(tmp_path / "town") / "parts").iterdir():
                path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "town", photos, network, MANIFEST, progress=spoil)
    made, _ = build(tmp_path / "town", photos, network, MANIFEST)
    assert content(made.folder) == content(whole.folder)


def test_a_changed_photo_or_model_is_extracted_again(
    network: SelaVPR, tiny_reg4_model: SelaVPR, tmp_path: Path
) -> None:
    folder = draw_town(tmp_path / "source", 4)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "town", read_folder(folder), network, MANIFEST, progress=stop)
    drawn(77, (120, 90)).save(folder / "images" / "2.png")
    made, _ = build(tmp_path / "town", read_folder(folder), tiny_reg4_model, MANIFEST)
    assert made.photo(2).size == (120, 90)
    Recognizer(tiny_reg4_model, made)
    with pytest.raises(IndexFileError, match="another model"):
        Recognizer(network, made)


def test_a_failed_build_leaves_the_old_index(
    network: SelaVPR, photos: list[SourcePhoto], built: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    target = Path(shutil.copytree(built, tmp_path / "town"))
    before = content(target)
    full = OSError(28, "No space left on device")

    def failing(after: int, original: Callable[..., Any]) -> Callable[..., Any]:
        calls = iter(range(after))

        def call(*args: Any, **options: Any) -> Any:
            if next(calls, None) is None:
                raise full
            return original(*args, **options)

        return call

    for method, after in (("write_bytes", 0), ("write_bytes", 2), ("write_bytes", 4),
                          ("write_bytes", 6), ("mkdir", 0), ("mkdir", 2), ("write_text", 0),
                          ("rename", 0)):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, failing(after, getattr(Path, method)))
            with pytest.raises(IndexFileError, match="No space left on device") as error:
                build(target, photos, network, MANIFEST)
            assert str(target) in str(error.value) and "\n" not in str(error.value)
        assert content(target) == before
    made, _ = build(target, photos, network, MANIFEST)
    assert content(made.folder) != before  # another rank
    assert [path.name for path in tmp_path.iterdir()] == ["town"]


def test_two_builds_of_one_index(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    """The second is told so, whether it comes from another thread or another process."""
    errors: list[str] = []

    def second() -> None:
        try:
            build(tmp_path / "town", photos[:3], network, MANIFEST, resume=False)
        except IndexFileError as error:
            errors.append(str(error))

    def meanwhile(done: int, total: int) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    made, _ = build(tmp_path / "town", photos, network, MANIFEST, progress=meanwhile)
    assert not (tmp_path / ".town.building").exists()  # the second asked to begin anew, in vain
    assert len(errors) == 3 and len(made) == COUNT and verify(made.folder) == []
    assert "Another build of" in errors[0]
    second()
    assert len(errors) == 3 and len(PlaceIndex.open(tmp_path / "town")) == 3


def test_a_model_that_gives_nonsense(
    network: SelaVPR, photos: list[SourcePhoto], tmp_path: Path
) -> None:
    broken = SelaVPR(network.config).eval()
    torch.nn.init.constant_(broken.backbone.norm.weight, torch.inf)
    with pytest.raises(IndexFileError, match=r"not finite for 0\.png"):
        build(tmp_path / "town", photos, broken, MANIFEST)


KILLER = Path(__file__).parent / "kill_builder.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_killed_at_any_moment(town: Path, tmp_path: Path) -> None:
    """See kill_builder.py: 24 kills between file operations, 16 at random times."""
    done = subprocess.run(
        [sys.executable, str(KILLER), str(town), str(tmp_path)],
        capture_output=True, text=True, cwd=KILLER.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join([str(KILLER.parent.parent), str(KILLER.parent)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kills = int(done.stdout.split()[0])
    assert kills >= 24, done.stdout
