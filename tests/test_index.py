"""Opening an index: what a whole one gives, and one clear sentence for every kind of damage."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import safetensors.torch
import torch
from damage import damage
from engine_fixtures import COUNT, MANIFEST, ORIGIN, SIZE, drawn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import opening
from selavpr import IndexFileError, PhotoError, SelaVPRError
from selavpr.building import Entry, write
from selavpr.geo import Location
from selavpr.index import Manifest, PlaceIndex, replaced, verify
from selavpr.indexfiles import (
    BASEMAP,
    CODEC,
    CODES,
    GLOBAL,
    GRIDS,
    PLACES,
    ROWS,
    SCALES,
    manifest_text,
    read_manifest,
)
from selavpr.placetable import write_places
from selavpr.structs import Place

MANIFEST_FILE = "manifest.json"
SLOW_FIXTURE = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "town"))


def refused(folder: Path, words: str = ".") -> str:
    with pytest.raises(IndexFileError, match=words) as error:
        PlaceIndex.open(folder)
    text = str(error.value)
    assert text and "\n" not in text and len(text) < 600, text
    return text


def unit_rows(count: int, width: int = 4, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def index_of(folder: Path, descriptors: torch.Tensor, grids: list[tuple[int, int]] | None = None):
    """An index with these descriptors, no real photos."""
    folder.mkdir()
    grids = grids or [(2, 2)] * len(descriptors)
    entries = [
        Entry(
            Place(f"p{i}", f"images/{i}.jpg", Location(1, 2)),
            b"",
            descriptor,
            torch.full((*grid, descriptors.shape[1]), float(i)),
        )
        for i, (descriptor, grid) in enumerate(zip(descriptors, grids, strict=True))
    ]
    write(folder, entries, MANIFEST, rank=2)
    return PlaceIndex.open(folder)


# A whole index


def test_contents(built: Path) -> None:
    index = PlaceIndex.open(built)
    assert len(index) == COUNT == index.manifest.count
    place = index.place(3)
    assert (place.place_id, place.image, place.street) == ("p3", "images/3.jpg", "Way 3")
    assert place.heading == 90.0
    assert place.location.distance_m(ORIGIN) == pytest.approx(120, abs=0.05)
    assert [p.place_id for p in index.places] == [f"p{i}" for i in range(COUNT)]
    south, west, north, east = index.manifest.bounds
    assert south == pytest.approx(ORIGIN.latitude) and west == east == ORIGIN.longitude
    assert Location(south, west).distance_m(Location(north, east)) == pytest.approx(440, abs=0.1)
    assert index.photo(3).size == SIZE
    assert index.basemap() == {"type": "FeatureCollection", "features": []}
    assert index.tokens(0).shape == (4, 4, 32)
    assert verify(built) == []


def test_photo_looks_like_the_source(built: Path) -> None:
    difference = np.abs(
        np.asarray(PlaceIndex.open(built).photo(5), dtype=int) - np.asarray(drawn(5), dtype=int)
    )
    assert difference.mean() < 10  # JPEG


def test_only_the_asked_photos_bytes_are_decoded(tmp_path: Path) -> None:
    index = index_of(tmp_path / "i", unit_rows(3), [(2, 3), (1, 1), (4, 2)])
    for row, grid in enumerate([(2, 3), (1, 1), (4, 2)]):
        assert index.grid(row) == grid
        tokens = index.tokens(row)
        assert tokens.shape == (*grid, 4)
        # Constant tokens lie on a line, so one component says it all, to 8 bits.
        assert torch.allclose(tokens, torch.full_like(tokens, float(row)), atol=0.02)


def test_without_basemap(tmp_path: Path) -> None:
    assert index_of(tmp_path / "i", unit_rows(1)).basemap() is None


# Search


def test_search_is_exact_in_order(tmp_path: Path) -> None:
    rows = unit_rows(50)
    index = index_of(tmp_path / "i", rows)
    query = unit_rows(1, seed=1)[0]
    found = index.search(query, 10)
    expected = torch.sort(rows @ query, descending=True)
    assert [row for row, _ in found] == expected.indices[:10].tolist()
    assert [s for _, s in found] == pytest.approx(expected.values[:10].tolist(), abs=1e-6)


def test_more_asked_than_there_are(tmp_path: Path) -> None:
    index = index_of(tmp_path / "i", unit_rows(3))
    assert sorted(row for row, _ in index.search(unit_rows(1)[0], 1000)) == [0, 1, 2]
    (row, similarity), *_ = index.search(unit_rows(3)[2], 1)
    assert row == 2 and similarity == pytest.approx(1) and similarity <= 1


@pytest.mark.parametrize("top_k", [1, 2, 5, 8, 20])
def test_ties_come_by_row_also_where_they_are_cut(tmp_path: Path, top_k: int) -> None:
    best, other = unit_rows(2)
    descriptors = torch.stack([other, best, other, best, best, other, best, best, best, best])
    index = index_of(tmp_path / "i", descriptors)
    expected = [1, 3, 4, 6, 7, 8, 9, 0, 2, 5]
    assert [row for row, _ in index.search(best, top_k)] == expected[:top_k]


# Damage: the manifest


def change_manifest(folder: Path, **changes: Any) -> None:
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    fields.update(changes)
    (folder / MANIFEST_FILE).write_text(json.dumps(fields))


def test_no_index(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent", Path("a\0b"), Path("/"), Path("")):
        refused(folder, "There is no index in")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "There is no index in")
    (tmp_path / MANIFEST_FILE).mkdir()
    refused(tmp_path, "There is no index in")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", "[" * 100_000, '{"a":' * 100_000, "\x00", "NaN",
     '{"format_version": 1}', '{"format_version": true}', '{"format_version": 1, "x": 1}',
     '{"format_version": 1' + "0" * 5000 + "}", '{"format_version": 1e999}'],
    ids=lambda text: repr(text[:25]),
)  # fmt: skip
def test_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / MANIFEST_FILE).write_text(text)
    refused(folder, r"manifest\.json|format")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2}, {"format_version": "1"}, {"count": -1}, {"count": "12"},
        {"count": 12.0}, {"count": True}, {"count": COUNT + 1}, {"bounds": None}, {"bounds": []},
        {"bounds": [1, 2, 3]}, {"bounds": [1, 2, 3, "4"]}, {"bounds": [0, 0, 0, 10**400]},
        {"bounds": [2, 0, 1, 0]}, {"bounds": [-91, 0, 1, 0]}, {"bounds": {"a": 1}},
        {"name": None}, {"title": ["x"]}, {"model": 1}, {"license": {}}, {"fingerprint": None},
        {"calibration": "x"}, {"calibration": []}, {"files": []}, {"files": {"a": 1}},
        {"files": {"a": {}}}, {"files": {"a": {"bytes": "1", "sha256": ""}}},
        {"files": {"a": {"bytes": -1, "sha256": ""}}}, {"files": {"a": {"bytes": 1, "sha256": 1}}},
        {"files": {"../a": {"bytes": 1, "sha256": ""}}}, {"files": {"/a": {"bytes": 1}}},
        {"files": {"C:\\a": {"bytes": 1, "sha256": ""}}}, {"stranger": 1},
    ],
    ids=str,
)  # fmt: skip
def test_manifest_of_wrong_types(folder: Path, change: dict[str, Any]) -> None:
    change_manifest(folder, **change)
    refused(folder)


def test_large_manifest(folder: Path) -> None:
    with (folder / MANIFEST_FILE).open("ab") as file:
        file.truncate((64 << 20) + 1)
    refused(folder, "too large")


def test_manifest_text_is_read_back(built: Path, tmp_path: Path) -> None:
    manifest = dataclasses.replace(read_manifest(built), title="Zürich 市", calibration={"a": 1.5})
    (tmp_path / MANIFEST_FILE).write_text(manifest_text(manifest), encoding="utf-8")
    assert read_manifest(tmp_path) == manifest
    assert isinstance(manifest, Manifest) and not manifest.is_intact()
    assert manifest.sealed().is_intact()


# Damage: the table of places


def change_places(folder: Path, change: Callable[[list[list[str]]], Any]) -> None:
    rows = [line.split(",") for line in (folder / PLACES).read_text().splitlines()]
    change(rows)
    (folder / PLACES).write_text("\n".join(",".join(row) for row in rows) + "\n")
    (folder / ROWS).unlink(missing_ok=True)  # so that it is read whole, as an older index is


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (2, ""), (2, "nan"), (2, "91"), (2, "x"), (2, "1e400"), (3, "-181"), (3, "inf"), (4, "-1"),
        (4, "361"), (4, "x"), (1, "../../etc/passwd"), (1, "/etc/passwd"), (1, "images/../../x"),
        (1, "C:\\x"), (1, "..\\x"), (0, "p1"), (5, "a,b"), (5, '"'),
    ],
)  # fmt: skip
def test_places_with_bad_cells(folder: Path, column: int, value: str) -> None:
    change_places(folder, lambda rows: rows[4].__setitem__(column, value))
    refused(folder, PLACES)


@pytest.mark.parametrize(
    ("column", "value"),
    [(2, "nan"), (2, "91.0000000"), (3, "x"), (4, "361.0"), (1, "/images/3.jp"), (5, '"')],
)  # fmt: skip
def test_a_bad_row_of_a_large_table_is_found_when_it_is_read(
    folder: Path, column: int, value: str
) -> None:
    """``rows.npy`` leaves the rows unread on opening; the same checks wait at each of them."""
    lines = (folder / PLACES).read_bytes().splitlines(keepends=True)
    cells = lines[4].decode().rstrip("\n").split(",")
    cells[column] = value
    cells[6] = ""  # makes room, so that no row moves
    line = ",".join(cells).encode()
    cells[6] = "x" * (len(lines[4]) - 1 - len(line))
    lines[4] = ",".join(cells).encode() + b"\n"
    (folder / PLACES).write_bytes(b"".join(lines))
    index = PlaceIndex.open(folder)
    assert index.place(2).place_id == "p2" and index.place(4).place_id == "p4"
    with pytest.raises(IndexFileError, match=r"places\.csv is damaged: row 4"):
        index.place(3)
    assert verify(folder) == [f"{PLACES} is damaged: its checksum differs."]


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[:-1], lambda a: a[1:], lambda a: a[::-1], lambda a: a + 1, lambda a: a * 0,
        lambda a: a[:0], lambda a: a.astype(np.int64), lambda a: a[None],
    ],
)  # fmt: skip
def test_row_starts_that_do_not_fit(folder: Path, make: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder / ROWS, make(np.load(folder / ROWS)))
    refused(folder, r"rows\.npy")


def test_starts_within_rows(folder: Path) -> None:
    starts = np.load(folder / ROWS)
    starts[3] += 2
    np.save(folder / ROWS, starts)
    index = PlaceIndex.open(folder)
    for row in (2, 3):
        with pytest.raises(IndexFileError, match="is damaged: row"):
            index.place(row)
    assert index.place(4).place_id == "p4"


def test_an_older_index_without_row_starts(folder: Path) -> None:
    expected = PlaceIndex.open(folder).places
    (folder / ROWS).unlink()
    assert PlaceIndex.open(folder).places == expected


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"id,image\n", b"\x00" * 50, b"a" * 200_000, b'"'], ids=len
)
def test_places_that_are_no_table(folder: Path, data: bytes) -> None:
    (folder / PLACES).write_bytes(data)
    refused(folder, PLACES)


def test_rows_that_are_missing_or_too_many(folder: Path) -> None:
    change_places(folder, lambda rows: rows.pop())
    refused(folder, "do not fit together")
    change_places(folder, lambda rows: rows.extend([["x", *rows[1][1:]], ["y", *rows[1][1:]]]))
    refused(folder, "do not fit together")


def test_an_index_of_no_photos_is_refused(folder: Path) -> None:
    """Its parts fit together, but no query can be answered from it."""
    index = PlaceIndex.open(folder)
    write_places(folder, [])
    faiss.write_index(faiss.IndexFlatIP(index.width), str(folder / GLOBAL))
    for name in (*index.codec.arrays, GRIDS):
        np.save(folder / name, np.load(folder / name)[:0])
    empty = dataclasses.replace(index.manifest, count=0, files={}).sealed()
    (folder / MANIFEST_FILE).write_text(manifest_text(empty), encoding="utf-8")
    text = refused(folder, "holds no photos")
    assert verify(folder) == [text]


def test_a_link_out_of_the_index_is_not_followed(folder: Path, tmp_path: Path) -> None:
    drawn(99).save(tmp_path / "secret.jpg")
    (folder / "images" / "2.jpg").unlink()
    (folder / "images" / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    index = PlaceIndex.open(folder)
    with pytest.raises(IndexFileError, match="points outside the index"):
        index.photo(2)


def test_a_missing_photo_hurts_only_when_it_is_asked_for(folder: Path) -> None:
    (folder / "images" / "2.jpg").unlink()
    index = PlaceIndex.open(folder)
    assert index.tokens(2).shape == (4, 4, 32)
    with pytest.raises(PhotoError, match="There is no photo"):
        index.photo(2)
    assert verify(folder) == ["images/2.jpg is missing."]


def test_an_index_reached_through_a_link(built: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(built)
    assert PlaceIndex.open(tmp_path / "link").photo(0).size == SIZE


# Damage: the large files


PARTS = (PLACES, ROWS, GLOBAL, CODES, SCALES, GRIDS, CODEC)


@pytest.mark.parametrize("name", [name for name in PARTS if name != ROWS])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, name.replace(".", r"\."))


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("keep", [0, 3, 40, 127, -1])
def test_a_truncated_part_is_refused(folder: Path, name: str, keep: int) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:keep])
    refused(folder)


@pytest.mark.parametrize("name", [CODES, SCALES, GRIDS])
@pytest.mark.parametrize(
    "make",
    [
        lambda a: a.astype(object), lambda a: a.astype(np.float64), lambda a: a[:-1],
        lambda a: a.astype(a.dtype.newbyteorder("S")) if a.dtype.itemsize > 1 else a[:0],
        lambda a: a[None], lambda a: a.reshape(-1)[:1], lambda a: np.concatenate([a, a]),
        lambda a: np.zeros(len(a), dtype=[("a", "i4")]), lambda a: np.array(3),
    ],
)  # fmt: skip
def test_arrays_of_other_types_and_shapes(
    folder: Path, name: str, make: Callable[[np.ndarray], np.ndarray]
) -> None:
    made = make(np.load(folder / name))
    (folder / name).unlink()
    np.save(folder / name, made)
    refused(folder)


def test_grids_of_nothing(folder: Path) -> None:
    grids = np.load(folder / GRIDS)
    grids[0] = (0, 4)
    np.save(folder / GRIDS, grids)
    refused(folder)


@pytest.mark.parametrize(
    "header",
    ["", "{", "(" * 9000, "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "1" * 9000,
     "{'descr': 'i1', 'fortran_order': False, 'shape': (9223372036854775807, 32)}",
     "{'descr': 'i1', 'fortran_order': False, 'shape': (-1, 32)}", "__import__('os').abort()",
     "{'descr': [('a', 'i1')] , 'fortran_order': 5, 'shape': 7}", "x" * 60_000],
    ids=lambda header: header[:30],
)  # fmt: skip
def test_hostile_array_headers(folder: Path, header: str) -> None:
    text = header.encode()
    (folder / CODES).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    refused(folder, r"codes\.npy is damaged")


def test_an_archive_for_an_array_is_refused_and_closed(folder: Path) -> None:
    with (folder / CODES).open("wb") as file:
        np.savez(file, np.zeros(3))
    refused(folder, r"codes\.npy is damaged")  # an open file would be a ResourceWarning, an error


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_that_are_not_finite(folder: Path, value: float) -> None:
    scales = np.load(folder / SCALES)
    scales[5 * 16 + 3] = value
    np.save(folder / SCALES, scales)
    index = PlaceIndex.open(folder)
    with pytest.raises(IndexFileError, match=r"scales\.npy .* is damaged at row 6"):
        index.tokens(5)
    assert index.tokens(4).isfinite().all()


def faiss_indexes(vectors: np.ndarray) -> dict[str, Any]:
    width = vectors.shape[1]
    made = {
        "l2": faiss.IndexFlatL2(width),
        "hnsw": faiss.IndexHNSWFlat(width, 4, faiss.METRIC_INNER_PRODUCT),
        "scalar": faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit),
        "mapped": faiss.IndexIDMap(faiss.IndexFlatIP(width)),
        "narrow": faiss.IndexFlatIP(width - 1),
        "short": faiss.IndexFlatIP(width),
        "unscaled": faiss.IndexFlatIP(width),
        "nan": faiss.IndexFlatIP(width),
    }
    made["scalar"].train(vectors)
    for name, index in made.items():
        data = {"narrow": vectors[:, 1:] / np.linalg.norm(vectors[:, 1:], axis=1)[:, None],
                "short": vectors[1:], "unscaled": vectors * 2, "nan": vectors * np.nan}.get(
                    name, vectors)  # fmt: skip
        data = np.ascontiguousarray(data)
        if name == "mapped":
            index.add_with_ids(data, np.arange(len(data)))
        else:
            index.add(data)
    return made


def test_other_faiss_indexes(folder: Path) -> None:
    vectors = faiss.read_index(str(folder / GLOBAL)).reconstruct_n(0, COUNT)
    for name, other in faiss_indexes(vectors).items():
        faiss.write_index(other, str(folder / GLOBAL))
        text = refused(folder)
        assert GLOBAL in text or "do not fit together" in text, name


@pytest.mark.parametrize(
    ("position", "form", "value"),
    [(4, "<i", 2**31 - 1), (4, "<i", -1), (4, "<i", 0), (8, "<q", 2**62), (8, "<q", -1),
     (8, "<q", 0), (33, "<i", 1), (37, "<Q", 2**63), (37, "<Q", 0), (0, "4s", b"IxF2")],
)  # fmt: skip
def test_hostile_faiss_headers(folder: Path, position: int, form: str, value: Any) -> None:
    data = bytearray((folder / GLOBAL).read_bytes())
    struct.pack_into(form, data, position, value)
    (folder / GLOBAL).write_bytes(data)
    refused(folder, GLOBAL.replace(".", r"\."))


@pytest.mark.parametrize(
    "tensors",
    [
        {}, {"mean": torch.zeros(32)}, {"mean": torch.zeros(32), "basis": torch.zeros(2, 31)},
        {"mean": torch.zeros(1, 32), "basis": torch.zeros(32, 32)},
        {"mean": torch.zeros(32), "basis": torch.zeros(0, 32)},
        {"mean": torch.full((32,), torch.nan), "basis": torch.eye(32)},
        {"mean": torch.zeros(32).int(), "basis": torch.eye(32)},
        {"mean": torch.zeros(32), "basis": torch.eye(32)[:5].contiguous()},
        {"mean": torch.zeros(33), "basis": torch.ones(32, 33)},
    ],
    ids=lambda t: str({k: list(v.shape) for k, v in t.items()}),
)  # fmt: skip
def test_codes_of_other_shapes(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, folder / CODEC)
    refused(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [MANIFEST_FILE, PLACES, GLOBAL, CODES, CODEC])
def test_unreadable_files(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    refused(folder, "annot")


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, "\x00"], ids=lambda t: t[:5])
def test_damaged_basemap(folder: Path, text: str) -> None:
    (folder / BASEMAP).write_text(text)
    index = PlaceIndex.open(folder)
    with pytest.raises(IndexFileError, match="basemap"):
        index.basemap()


@settings(max_examples=400, suppress_health_check=SLOW_FIXTURE)
@given(
    apply=damage(early=200), name=st.sampled_from((MANIFEST_FILE, *PARTS, BASEMAP, "images/0.jpg"))
)
def test_any_damage_is_found_or_harmless(
    folder: Path, apply: Callable[[bytes], bytes], name: str
) -> None:
    """Either a clear error, or an index that answers; and ``verify`` sees every change."""
    original = (folder / name).read_bytes()
    damaged = apply(original)
    (folder / name).write_bytes(damaged)
    try:
        try:
            index = PlaceIndex.open(folder)
            found = index.search(unit_rows(1, index.width)[0], 5)
            for row, similarity in found:
                assert -1 <= similarity <= 1
                assert index.place(row).place_id
                assert index.tokens(row).isfinite().all()
            index.basemap()
            index.photo(0)
        except SelaVPRError as error:
            assert "\n" not in str(error)
        try:
            problems = verify(folder)
        except IndexFileError:
            problems = ["no manifest"]
        assert bool(problems) == (damaged != original) or name == MANIFEST_FILE
    finally:
        (folder / name).write_bytes(original)


# Verify


def test_verify_finds_each_flipped_byte(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in (*PARTS, BASEMAP, "images/7.jpg"):
        original = (folder / name).read_bytes()
        data = bytearray(original)
        data[int(rng.integers(len(data)))] ^= 1
        (folder / name).write_bytes(data)
        assert f"{name} is damaged: its checksum differs." in verify(folder)
        (folder / name).write_bytes(original)
    assert verify(folder) == []


def test_verify_finds_other_sizes_and_a_changed_manifest(folder: Path) -> None:
    data = (folder / CODES).read_bytes()
    (folder / CODES).write_bytes(data[:-2])
    assert verify(folder) == [f"{CODES} has {len(data) - 2} bytes, not {len(data)}."]
    (folder / CODES).write_bytes(data)
    change_manifest(folder, title="Elsewhere")
    assert verify(folder) == ["manifest.json was changed after the index was built."]
    with pytest.raises(IndexFileError, match="no index"):
        verify(folder / "images")


def test_verify_finds_a_photo_without_checksum(folder: Path) -> None:
    manifest = read_manifest(folder)
    files = {name: about for name, about in manifest.files.items() if name != "images/4.jpg"}
    less = dataclasses.replace(manifest, files=files).sealed()
    (folder / MANIFEST_FILE).write_text(manifest_text(less))
    assert verify(folder) == [
        "images/4.jpg is in places.csv, but not among the files of manifest.json."
    ]


# A swap that was cut off


def test_the_old_index_is_found_where_a_killed_swap_left_it(folder: Path) -> None:
    replaced(folder).parent.mkdir()
    folder.rename(replaced(folder))
    assert len(PlaceIndex.open(folder)) == COUNT


def test_opening_reads_no_place_and_no_code(folder: Path) -> None:
    """What is written to the files after an index was opened is what a query reads."""
    index = PlaceIndex.open(folder)
    before = index.tokens(3)
    codes = (folder / CODES).read_bytes()
    body = codes.index(b"\n") + 1  # after the array's header
    rows = (folder / PLACES).read_bytes()
    assert rows.count(b"Way 3") == 1
    for name, data in (
        (CODES, codes[:body] + bytes(255 - byte for byte in codes[body:])),  # -1 - x as int8
        (PLACES, rows.replace(b"Way 3", b"Row 3")),
    ):
        with (folder / name).open("r+b") as file:
            file.write(data)
    assert index.place(3).street == "Row 3"
    assert not torch.equal(index.tokens(3), before)


def test_a_large_index_is_opened(tmp_path: Path) -> None:
    """The measurement of docs/indexes.md, on a smaller index."""
    sizes = opening.synthetic(tmp_path / "large", 300, 16, 8, "flat")
    assert sizes[CODES] > 300 * 26 * 26 * 8
    index = PlaceIndex.open(tmp_path / "large")
    assert index.place(299).street == "Street 2" and index.tokens(299).shape == (26, 26, 16)
    found = opening.measured(tmp_path / "large")
    assert min(found.first_s, found.open_s, found.place_ms, found.tokens_ms) > 0
