"""What holds for any index: its files, its codes, its search, what is put in and taken out."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, random_model
from engine_fixtures import COUNT, MANIFEST, content, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import FEW, json_values
from test_properties import cities, seeds, unit

from selavpr import IndexFileError, OptionError, SelaVPR, SelaVPRError, hub
from selavpr.building import build, check_photos, check_place, extracted, part_of, stored_photo
from selavpr.cityeval import Answer, Query, ask, evaluate
from selavpr.codec import TokenCodec
from selavpr.confidence import Evidence
from selavpr.datacard import card, map_picture
from selavpr.densecodecs import DenseCodec, KeypointCodec, ProductCodec
from selavpr.editing import add, merge, remove
from selavpr.featurecache import FeatureCache, any_readable, file_states
from selavpr.geo import Location
from selavpr.index import PlaceIndex, replaced, verify, work_folder
from selavpr.indexfiles import (
    MANIFEST as MANIFEST_FILE,
)
from selavpr.indexfiles import (
    NAMED,
    Manifest,
    check_basemap,
    checksum,
    damaged,
    holds_index,
    is_inside,
    named,
    read_array,
    read_codec,
    read_json,
    read_searcher,
    read_sums,
    strangers,
    sums_text,
    unreadable,
)
from selavpr.localcodecs import CODECS, NoCodec, TokensCodec
from selavpr.localfeatures import (
    Local,
    Stored,
    dense_cells,
    dense_counts,
    densified,
    densified_centres,
    densify_each,
    same,
)
from selavpr.localfeatures import unit as of_unit_length
from selavpr.maps import basemap_of
from selavpr.matching import count_mutual, expect_mutual
from selavpr.placetable import PlaceTable, write_places
from selavpr.recognizer import Recognizer
from selavpr.reranking import count_local, expect_local, order_of, score_tokens
from selavpr.retrieval import retrieve
from selavpr.searchers import Searcher, describe, edited, make, recall, tuned
from selavpr.sources import SourcePhoto, clean
from selavpr.structs import Place
from selavpr.writing import ArrayWriter, Entry, finish, link, replacing, write

NETWORK = random_model(TINY)
KINDS = (TokensCodec, DenseCodec, KeypointCodec, ProductCodec, NoCodec)
RANKS = {"tokens": 6, "product": 4, "keypoint": 5}

grids = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4)
texts = st.text(max_size=8) | st.sampled_from(["=1+1", "'-x", 'a"b', "a,b;=c", "\u2028", "  x "])


def tokens_of(seed: int, shapes: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.standard_normal((*s, TINY.width))).half() for s in shapes]


class Sample:
    """Features to fit a code to."""

    def __init__(self, tokens: list[torch.Tensor]) -> None:
        self._tokens = tokens
        self.per_photo = sum(math.prod(x.shape[:2]) for x in tokens) / len(tokens)

    def tokens(self, count: int) -> torch.Tensor:
        return torch.cat([x.flatten(0, 1) for x in self._tokens]).float()[:count]

    def local(self, count: int) -> torch.Tensor:
        return torch.cat([densified(x, NETWORK) for x in self._tokens])[:count]

    def scored(self, tokens: torch.Tensor) -> torch.Tensor:
        return NETWORK.project(tokens).detach()


def agree(one: Local, other: Local) -> None:
    """The same descriptors, but for rounding, of the same cells."""
    assert one.grid == other.grid and one.cells is not None and other.cells is not None
    assert torch.equal(one.cells, other.cells)
    assert torch.allclose(one.descriptors, other.descriptors, atol=1e-3)


def index_of(folder: Path, seed: int, shapes: Sequence[tuple[int, int]], **options: Any) -> Any:
    """An index of drawn features; gives it with its descriptors and places."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    descriptors = unit(rng, len(shapes), TINY.width)
    centre = Location(48, 11)
    places = [
        Place(f"p{i}", f"images/{i}.jpg", centre.moved(*rng.normal(0, 500, 2)), float(i))
        for i in range(len(shapes))
    ]
    entries = [
        Entry(place, b"photo", descriptor, tokens)
        for place, descriptor, tokens in zip(
            places, descriptors, tokens_of(seed, shapes), strict=True
        )
    ]
    assert write(folder, entries, MANIFEST, network=NETWORK, **options) == len(shapes)
    return PlaceIndex.open(folder), descriptors, places


# Codes


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_centres_of_tokens_are_every_fourth_cell(height: int, width: int, size: int) -> None:
    """Laid out on the dense grid, centres are found again where their tokens are."""
    centres = Local.at_centres(torch.rand(height * width, size), (height, width))
    assert centres.grid == (4 * height - 3, 4 * width - 3) and centres.cells is not None
    assert not (centres.cells // centres.grid[1] % 4).any()
    assert not (centres.cells % centres.grid[1] % 4).any()
    dense = torch.rand(math.prod(centres.grid), size)
    dense[centres.cells] = centres.descriptors
    agree(Local(dense, centres.grid).centres, centres)
    assert centres.centres is centres


@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_projected_tokens_are_the_centres_of_the_dense_grid(
    seed: int, height: int, width: int
) -> None:
    tokens = torch.randn(height, width, TINY.width, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        (dense,) = NETWORK.densify(tokens[None])
        expected = Local(dense.flatten(0, 1), (dense.shape[0], dense.shape[1])).centres
        agree(Local.of_tokens(tokens, NETWORK), expected)


@settings(max_examples=5)
@pytest.mark.parametrize("kind", KINDS)
@given(seeds, grids)
def test_a_code_gives_back_what_it_was_given(
    kind: Any, seed: int, shapes: list[tuple[int, int]]
) -> None:
    tokens = tokens_of(seed, [*shapes, (3, 3)])
    codec = kind.fitted(Sample(tokens), RANKS.get(kind.kind))
    again = kind.from_tensors(codec.tensors())
    assert same(codec, again) and same(again, codec) and codec.rank == again.rank
    assert CODECS[kind.kind] is kind
    sizes = np.array([x.shape[:2] for x in tokens], dtype=np.int64)
    stored = [
        Stored((x.shape[0], x.shape[1]), codec.coded(x, NETWORK), lambda: drawn(1)) for x in tokens
    ]
    for one, count in zip(stored, codec.counts(sizes).tolist(), strict=True):
        for array, (dtype, columns) in zip(one.arrays, codec.arrays.values(), strict=True):
            assert array.dtype == dtype and array.shape == (
                (count, columns) if columns else (count,)
            )
    with torch.inference_mode():
        local, centres = codec.local(stored, NETWORK), codec.centres(stored, NETWORK)
        # Coded anew by the same code, it is what it was, but for rounding.
        recoded = [Stored(s.grid, codec.recoded(s, again), s.photo) for s in stored]
        twice = codec.local(recoded, NETWORK)
    for one, other, near, x in zip(local, twice, centres, tokens, strict=True):
        norms = one.descriptors.norm(dim=1)
        assert torch.allclose(norms, torch.ones(len(norms)), atol=1e-3)
        likeness = (one.descriptors * other.descriptors).sum(1)
        assert float(likeness.min()) > 0.9
        agree(near, one.centres)
        rows = torch.arange(len(one.descriptors))
        assert one.cell(rows).tolist() == (rows if one.cells is None else one.cells).tolist()
        if kind is not NoCodec:
            assert one.grid == dense_cells((x.shape[0], x.shape[1]))
            exact = densified(x, NETWORK)[one.cell(rows)]
            if kind in (DenseCodec, KeypointCodec):
                assert torch.allclose(one.descriptors, exact, atol=0.02)
    if isinstance(codec, TokensCodec):
        code: TokenCodec = codec.code
        assert (code.rank, code.width) == (codec.rank, TINY.width)
        assert codec.tokens(stored[0]).shape == tokens[0].shape
    if isinstance(codec, DenseCodec):
        found = densified_centres(codec, stored, NETWORK)
        assert all(
            torch.equal(a.descriptors, b.descriptors) for a, b in zip(found, centres, strict=True)
        )


@settings(max_examples=15)
@given(seeds, grids)
def test_local_features_of_photos_come_in_their_order(
    seed: int, shapes: list[tuple[int, int]]
) -> None:
    tokens = tokens_of(seed, shapes)
    order = np.random.default_rng(seed).permutation(len(shapes)).tolist()
    with torch.inference_mode():
        found = densify_each(order, shapes.__getitem__, lambda i: tokens[i].float(), NETWORK)
    counts = dense_counts(np.array(shapes, dtype=np.int64))
    for i, one in zip(order, found, strict=True):
        assert one.grid == dense_cells(shapes[i]) and len(one.descriptors) == counts[i]
        assert torch.allclose(one.descriptors, densified(tokens[i], NETWORK), atol=1e-5)
        longer = of_unit_length(one.descriptors * 3)
        assert torch.allclose(longer, one.descriptors, atol=1e-5)


@settings(max_examples=20)
@given(seeds, st.lists(st.integers(1, 6), max_size=7), st.integers(1, 6))
def test_candidates_are_scored_as_if_alone(seed: int, sizes: list[int], own: int) -> None:
    rng = np.random.default_rng(seed)
    query, others = unit(rng, own, 4), [unit(rng, n, 4) for n in sizes]
    rows = rng.permutation(len(sizes)).tolist()
    alone = [int(count_mutual(query, others[i][None])[0]) for i in rows]
    found = count_local(
        query, rows, lambda some: [Local(others[i], (1, sizes[i])) for i in some], "exact"
    )
    assert found == alone
    expected = expect_local(
        [Local(query, (1, own))], rows,
        lambda some: [Local(others[i], (1, sizes[i])) for i in some],
    )  # fmt: skip
    assert expected == pytest.approx(
        [float(expect_mutual(query, others[i][None])[0]) for i in rows]
    )
    other = unit(rng, own + 1, 4)
    both = expect_local(
        [Local(query, (1, own)), Local(other, (1, own + 1))], rows,
        lambda some: [Local(others[i], (1, sizes[i])) for i in some],
    )  # fmt: skip
    second = [float(expect_mutual(other, others[i][None])[0]) for i in rows]
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(expected, second, strict=True)])
    order = order_of(expected)
    assert sorted(order) == list(range(len(rows)))
    pairs = [(-expected[i], i) for i in order]
    assert pairs == sorted(pairs)


@settings(max_examples=6)
@given(seeds, grids, st.sampled_from(["count", "expected"]))
def test_no_photo_scores_above_itself(
    seed: int, shapes: list[tuple[int, int]], scoring: Any
) -> None:
    tokens = [x.float() for x in tokens_of(seed, shapes)]
    model = random_model(dataclasses.replace(TINY, scoring=scoring))
    for i, x in enumerate(tokens):
        scores = score_tokens(
            model, [x], range(len(tokens)), shapes.__getitem__, tokens.__getitem__, "exact"
        )
        cells = np.prod(dense_cells(shapes[i]) if scoring == "count" else shapes[i])
        assert all(0 <= score <= cells + 1e-3 for score in scores)
        if scoring == "count":
            assert scores[i] == cells


# Search


@settings(max_examples=12)
@given(seeds, st.integers(1, 120), st.sampled_from(["flat", "ivf", "auto"]))
def test_a_search_holds_every_descriptor_once(seed: int, count: int, search: Any) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng, count, 8).numpy()
    searcher, about = make(vectors, search)
    assert (len(searcher), searcher.width) == (count, 8)
    np.testing.assert_allclose(searcher.descriptors(), vectors, atol=0.02)
    assert (describe(about) == "exact") == (search != "ivf") == (not about)
    assert 0 <= recall(searcher, vectors) <= 1 and (about or recall(searcher, vectors) == 1)
    keep = np.flatnonzero(rng.random(count) < 0.7)
    # Lists are not trained anew: what is added looks like what was there.
    more = unit(rng, 3, 8).numpy() if search != "ivf" else vectors[rng.integers(0, count, 3)]
    changed = edited(searcher, keep, more)
    np.testing.assert_allclose(
        changed.descriptors(), np.concatenate([vectors[keep], more]), atol=0.03
    )
    if search == "ivf":
        rows = np.concatenate([rows for rows, _ in searcher.lists()])
        assert sorted(rows.tolist()) == list(range(count))
        again, said = tuned(searcher.index, vectors)
        assert said == about and again.probes == searcher.probes <= about["lists"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "global.faiss")
        path.write_bytes(_faiss(searcher))
        opened = read_searcher(path, searcher.probes)
        assert (opened.descriptors() == searcher.descriptors()).all()
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(IndexFileError):
            read_searcher(path, searcher.probes)


def _faiss(searcher: Searcher) -> bytes:
    data: bytes = faiss.serialize_index(searcher.index).tobytes()
    return data


# Files


@settings(max_examples=60)
@given(st.lists(st.tuples(texts, texts, cities, st.none() | st.floats(0, 360)), max_size=5))
def test_places_come_back_from_their_table(rows: list[Any]) -> None:
    places = [
        clean(Place(f"{i}{a}", f"images/{i}.jpg", place, heading, a, b, a, b))
        for i, (a, b, place, heading) in enumerate(rows)
    ]
    assert [clean(place) for place in places] == places
    with tempfile.TemporaryDirectory() as folder:
        write_places(Path(folder), places)
        table = PlaceTable.open(Path(folder))
        table.check()
        found = [table[row] for row in range(len(table))]
        Path(folder, "rows.npy").unlink()
        parsed = PlaceTable.open(Path(folder))
        assert [parsed[row] for row in range(len(parsed))] == found
    for mine, theirs in zip(places, found, strict=True):
        assert theirs.location.distance_m(mine.location) < 0.02
        assert (theirs.heading is None) == (mine.heading is None)
        kept = dataclasses.replace(theirs, location=mine.location, heading=mine.heading)
        assert kept == mine


names = st.lists(st.text("ab .é\u2028\x85", min_size=1), min_size=1, max_size=3).map("/".join)


@FEW
@given(st.dictionaries(names.map("images/{}.jpg".format).filter(is_inside), st.binary()))
def test_checksums_come_back_from_their_list(photos: dict[str, bytes]) -> None:
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in photos.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photos.sha256")
        path.write_text(sums_text(sums), encoding="utf-8", newline="\n")
        assert read_sums(path) == sums
        assert checksum(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def refused(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except IndexFileError as error:
        assert str(error) and "\n" not in str(error)
        return True
    return False


@FEW
@given(st.binary(max_size=40) | st.text('{}[]":,0123456789eE-.nulINFa ', max_size=30))
def test_any_bytes_are_a_part_of_an_index_or_a_clear_error(data: bytes | str) -> None:
    data = data if isinstance(data, bytes) else data.encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MANIFEST_FILE)
        assert not holds_index(Path(folder))
        path.write_bytes(data)
        assert holds_index(Path(folder))
        for attempt in (
            lambda: read_searcher(path, 1),
            lambda: read_codec(path, "tokens"),
            lambda: read_array(path, np.uint16, 2),
            lambda: verify(folder),
            lambda: PlaceIndex.open(folder),
        ):
            assert refused(attempt)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            assert refused(lambda: read_json(path))
        refused(lambda: read_sums(path))


@FEW
@given(
    st.binary(max_size=40)
    | st.sampled_from(["", "\ufeff"]).flatmap(
        lambda mark: st.builds(
            lambda features: (mark + json.dumps({"features": features})).encode(),
            st.lists(st.none() | st.dictionaries(st.text(), st.text())) | st.integers(0, 9),
        )
    )
)
def test_a_basemap_is_one_that_can_be_drawn(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "map.geojson")
        path.write_bytes(data)
        index: Any = SimpleNamespace(basemap=lambda: read_json(path))
        found = basemap_of(index)
        assert (found is None) == refused(index.basemap)
        try:
            check_basemap(path)
        except OptionError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            assert found is None or not isinstance(found.get("features"), list)
        else:
            assert found == json.loads(data.decode("utf-8-sig"))


@FEW
@given(
    st.sampled_from([np.uint16, np.float16, np.int8, np.float64]),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.booleans(),
)
def test_an_array_is_read_if_it_is_the_one_expected(
    dtype: Any, shape: list[int], fortran: bool
) -> None:
    array = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    if fortran:
        array = np.asfortranarray(array)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npy")
        np.save(path, array)
        if not array.size:
            refused(lambda: read_array(path, dtype, len(shape)))  # nothing to map on some systems
            return
        other = np.uint16 if dtype is not np.uint16 else np.int8
        assert refused(lambda: read_array(path, other, len(shape)))
        assert refused(lambda: read_array(path, dtype, len(shape) + 1))
        if array.flags.c_contiguous:
            assert (np.asarray(read_array(path, dtype, len(shape))) == array).all()


any_json = json_values(
    st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False)
)


@FEW
@given(st.dictionaries(st.text(max_size=5), any_json))
def test_json_objects_come_back(value: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.json")
        path.write_text(json.dumps(value), encoding="utf-8")
        assert read_json(path) == value


@FEW
@given(st.text(max_size=400), st.booleans())
def test_errors_of_files_are_a_line_of_bounded_length(reason: str, there: bool) -> None:
    error = OSError(5, reason) if there else FileNotFoundError(2, reason)
    for said in (damaged(Path("a/b"), reason), unreadable(Path("a/b"), error)):
        assert isinstance(said, IndexFileError) and "b" in str(said)
        assert len(str(said).splitlines()) == 1 and len(str(said)) <= 1000


@FEW
@given(
    st.sampled_from(["name", "title", "local", "count", "bounds", "files", "search", "checksum"]),
    any_json,
)
def test_any_field_of_a_manifest_is_kept_or_refused(name: str, value: Any) -> None:
    try:
        manifest = dataclasses.replace(MANIFEST, **{name: value}).sealed()
    except IndexFileError:
        return
    assert manifest.is_intact() and Manifest(**manifest.fields()) == manifest
    assert manifest.probes == (manifest.search or {}).get("probes", 0)
    changed = dataclasses.replace(manifest, title=manifest.title + "x")
    assert not changed.is_intact()


@FEW
@given(st.text("ab./ ", max_size=8))
def test_the_work_folder_is_hidden_and_beside(name: str) -> None:
    folder = Path("/data", name.lstrip("/"), "index")
    work = work_folder(folder)
    assert work.name.startswith(".") and work.name != folder.name
    assert replaced(folder).parent == work


@settings(max_examples=8)
@given(seeds, grids, st.sampled_from(sorted(CODECS)))
def test_an_index_holds_what_was_written(
    seed: int, shapes: list[tuple[int, int]], local: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "index")
        index, descriptors, places = index_of(
            folder, seed, shapes, local=local, rank=RANKS.get(local)
        )
        assert verify(folder) == []
        assert (len(index), index.width) == (len(shapes), TINY.width)
        assert [p.place_id for p in index.places] == [p.place_id for p in places]
        assert [index.grid(row) for row in range(len(index))] == shapes
        everywhere = [place.location for place in index.places]
        assert index.spread(len(index)) == everywhere and index.spread(1) == everywhere[:1]
        assert all(0 < len(index.spread(most)) <= most for most in range(1, len(index) + 2))
        for row, descriptor in enumerate(descriptors):
            found = index.search(descriptor, len(index))
            assert found[0][0] == row and found[0][1] == pytest.approx(1, abs=1e-5)
            assert sorted(r for r, _ in found) == list(range(len(index)))
            assert index.photo_path(row).read_bytes() == b"photo"
            counts = index.codec.counts(np.array([shapes[row]], dtype=np.int64))
            assert all(len(array) == counts[0] for array in index.stored(row).arrays)
        again = Path(shutil.copytree(folder, Path(name, "again")))
        (again / MANIFEST_FILE).unlink()
        finish(again, index.places, index.searcher, index.codec, index.manifest)
        assert content(again) == content(folder)
        if local != "none":
            rows = list(range(len(index)))
            for one, near in zip(
                index.local(rows, NETWORK), index.centres(rows, NETWORK), strict=True
            ):
                agree(near, one.centres)


@settings(max_examples=20)
@given(seeds, st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
def test_arrays_hold_the_rows_photo_by_photo(seed: int, shapes: list[tuple[int, int]]) -> None:
    codec = DenseCodec(4)
    rng = np.random.default_rng(seed)
    parts = [
        rng.standard_normal((count, 4)).astype(np.float16)
        for count in codec.counts(np.array(shapes, dtype=np.int64)).tolist()
    ]
    with tempfile.TemporaryDirectory() as folder:
        with ArrayWriter(Path(folder), codec, np.array(shapes, np.uint16)) as writer:
            for part in parts:
                writer.add((part,))
        assert (np.load(Path(folder, "codes.npy")) == np.concatenate(parts)).all()
        assert np.load(Path(folder, "grids.npy")).tolist() == [list(shape) for shape in shapes]


@FEW
@given(st.binary(max_size=20))
def test_a_linked_file_has_the_same_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a"), Path(folder, "b", "c")
        source.write_bytes(data)
        link(source, target)
        source.unlink()
        assert target.read_bytes() == data


@settings(max_examples=5)
@given(seeds, st.booleans(), st.booleans())
def test_an_index_is_replaced_whole_or_not_at_all(seed: int, before: bool, whole: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        out, other = Path(name, "index"), Path(name, "other")
        index_of(other, seed, [(1, 2)], rank=2)
        old = {}
        if before:
            index_of(out, seed + 1, [(2, 1)], rank=2)
            old = content(out)
            sizes = {name: len(data) for name, data in old.items() if name != MANIFEST_FILE}
            assert PlaceIndex.open(out).sizes() == sizes
            assert refused(lambda: check_place(out / MANIFEST_FILE))
        check_place(out)
        try:
            with replacing(out) as new:
                for path, data in content(other).items():
                    (new / path).parent.mkdir(parents=True, exist_ok=True)
                    (new / path).write_bytes(data)
                if not whole:
                    raise OptionError("stop")
        except OptionError:
            assert not whole
        assert (content(out) if out.exists() else {}) == (content(other) if whole else old)
        assert {path.name for path in Path(name).iterdir()} <= {"index", "other"}


@FEW
@given(st.booleans(), st.binary(max_size=20), st.binary(max_size=20))
def test_only_damaged_files_of_the_cache_are_discarded(
    named: bool, data: bytes, other: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        name = hashlib.sha256(data).hexdigest() if named else "name"
        blob, pointer = Path(folder, name), Path(folder, "pointer")
        blob.write_bytes(other)
        pointer.symlink_to(blob)
        gone = named and data != other
        assert hub.discard_damaged(pointer) == gone
        assert pointer.is_symlink() == blob.exists() == (not gone)


@settings(max_examples=30)
@given(texts, texts, texts, st.lists(cities, min_size=1, max_size=4))
def test_the_card_of_an_index_is_read_back(
    title: str, licence: str, author: str, places: list[Location]
) -> None:
    class Index:
        """As much of one as its card takes."""

        manifest = dataclasses.replace(MANIFEST, title=title, license=licence, attribution=author)
        codec = DenseCodec(4)

        def __len__(self) -> int:
            return len(places)

        @property
        def places(self) -> list[Place]:
            return [Place(str(i), "", place) for i, place in enumerate(places)]

        def sizes(self) -> dict[str, int]:
            return {"places.csv": 1_000_000}

    index: Any = Index()
    text = card(index, "org/name")
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["pretty_name"] == (title or MANIFEST.name)
    assert about["license"] != "other" or about.get("license_name", "") == licence
    rows = [line for line in body.split("\n") if line.startswith("| ")]
    assert len(rows) == 11 and f"| photos | {len(places)} |" in rows
    with Image.open(io.BytesIO(map_picture(index.places))) as picture:
        assert picture.size == (720, 720)


# Built, changed and asked


@FEW
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(
    ["a.jpg", "x/b.jpg", "../c.jpg", "manifest.json", "/d", ""])), max_size=3))  # fmt: skip
def test_photos_that_cannot_be_kept_are_refused_before_work(rows: list[tuple[str, str]]) -> None:
    photos = [SourcePhoto(Path("x"), Place(i, image, Location(0, 0))) for i, image in rows]
    ids, images = ([row[column] for row in rows] for column in (0, 1))
    good = all(image in ("a.jpg", "x/b.jpg") for image in images) and bool(rows)
    if good and len(set(ids)) == len(set(images)) == len(rows):
        check_photos(photos)
        return
    with pytest.raises(OptionError):
        check_photos(photos)


@FEW
@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=9))
def test_some_are_named_and_all_are_counted(names: list[str]) -> None:
    shown, _, more = named(names).partition(" and ")
    first = shown.split(", ") if shown else []
    assert first == names[: len(first)] and len(first) == min(len(names), NAMED)
    assert len(first) + int(more.removesuffix(" more") or 0) == len(names)


@settings(max_examples=2)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(["tokens", "dense"]), seeds)
def test_what_is_added_can_be_removed_and_merged(
    photos: list[SourcePhoto], network: SelaVPR, first: int, batch: int, local: str, seed: int
) -> None:
    rank = RANKS.get(local)
    some = photos[:5]
    with tempfile.TemporaryDirectory() as name:
        town, rest = Path(name, "town"), Path(name, "rest")
        build(town, some[:first], network, MANIFEST, local=local, rank=rank, batch_size=batch)
        before = content(town)
        assert strangers(town) == []
        (town / "notes" / "images").mkdir(parents=True)
        (town / "notes" / "images" / "0.jpg").write_text("mine")
        build(rest, some[first:], network, MANIFEST, local=local, rank=rank)
        grown, problems = add(town, some[first:], network)
        wanted = [photo.place.place_id for photo in some]
        assert problems == [] and [p.place_id for p in grown.places] == wanted
        whole, _ = merge(Path(name, "both"), [town, rest] if first > 9 else [rest, town])
        assert sorted({p.place_id for p in whole.places}) >= sorted(wanted)
        less, count = remove(town, ids=wanted[first:])
        assert count == len(wanted) - first and len(less) == first
        assert strangers(town) == [Path("notes", "images", "0.jpg")]
        shutil.rmtree(town / "notes")
        assert content(town) == before
        parts = Path(name, "parts")
        entries, problems = extracted(parts, some, network, batch, lambda done, total: None)
        for entry, photo in zip(entries, some, strict=True):
            assert entry.photo == stored_photo(photo.path)[1]
            assert float(entry.descriptor.norm()) == pytest.approx(1, abs=1e-4)
        one = part_of([some[0].path, Path(name)], network, batch)
        assert one == part_of([some[0].path, Path(name)], network, batch)
        again = FeatureCache(Path(name, "cache"), [some[0].path, Path(name, "none")], network)
        assert again.usable(0) and not again.usable(1) and len(again.problems) == 1
        assert again.tokens(0).shape[:2] == again.grid(0)
        assert any_readable([Path(name, "none"), some[0].path])
        assert not any_readable([Path(name, "none")])
        states = file_states([some[0].path, Path(name, "none")])
        assert states[0][1] > 0 and states[1][1:] == (0, 0)
        photo_paths = [photo.path for photo in some]
        found = retrieve(network, photo_paths, photo_paths, Path(name, "r"), top_k=batch)
        assert [rows[0] for rows in found.first] == list(range(len(some)))
        assert all(len(rows) == min(batch, len(some)) for rows in found.first)
        assert found.reranked is not None
        for rows, ranked in zip(found.first, found.reranked, strict=True):
            assert sorted(rows) == sorted(ranked)


@settings(max_examples=2)
@given(st.integers(1, COUNT), st.booleans())
def test_answers_to_queries_are_kept_and_counted(
    recognizer: Recognizer, photos: list[SourcePhoto], top_k: int, broken: bool
) -> None:
    queries = [Query(photo.path, photo.place.location) for photo in photos[:3]]
    queries += [Query(photos[4].path, None, "night")]
    with tempfile.TemporaryDirectory() as name:
        queries += [Query(Path(name, "none.jpg"), None)] * broken
        answers, problems = ask(recognizer, queries, Path(name), top_k=top_k)
        assert len(answers) == 4 and len(problems) == broken
        assert ask(recognizer, queries, Path(name), top_k=top_k) == (answers, problems)
    found = evaluate(recognizer.index, answers)
    assert found.rows[0].queries == 3 and found.rows[0].recalls["global only"][1].value == 1
    counts = found.facts["verdicts"].values()
    assert sum(about["photos"] for about in counts) == 4
    # Those beside the best are no further answers of the first stage.
    rows = list(range(COUNT - 1))
    longer = [dataclasses.replace(a, rows=rows, ranked=rows[::-1], depth=4) for a in answers]
    for stage in evaluate(recognizer.index, longer).rows[0].recalls.values():
        assert list(stage) == [1]
    lost = [Answer(Query(Path("x"), None), [0], [0], 1, 1, Location(0, 0), Evidence(0, 0, 0), {})]
    with pytest.raises(SelaVPRError):
        evaluate(recognizer.index, lost)
