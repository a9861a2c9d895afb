"""A searchable city: reference photos with their places, global descriptors and compact features.

An index is a folder, written once (by ``building`` or ``editing``) and then only read::

    manifest.json       format, model it belongs to, counts, bounds, licence, checksums
    places.csv          one row per photo: id, image, latitude, longitude, heading, ...
    rows.npy            [n+1] uint64: where the rows of places.csv begin
    global.faiss        faiss index over the global descriptors, row by row the places
    codes.npy, ...      coded local features of all photos, one photo after another
    grids.npy           [n, 2] uint16: rows and columns of tokens of each photo
    codec.safetensors   the code of the local features
    images/             the photos, without metadata
    photos.sha256       only of large indexes: checksums of the photos
    basemap.geojson     optional: streets, water and buildings, for a map without the internet

Opening maps the large files into memory, so only what a query touches is read. An index may come
from a stranger: nothing in it is trusted until it has been checked, and nothing in it is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selavpr.errors import IndexFileError, OptionError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.indexfiles import (
    BASEMAP,
    CODEC,
    GLOBAL,
    GRIDS,
    MANIFEST,
    PHOTOS,
    PLACES,
    Manifest,
    checksum,
    holds_index,
    read_array,
    read_codec,
    read_json,
    read_manifest,
    read_searcher,
    read_sums,
)
from selavpr.localcodecs import TokensCodec
from selavpr.localfeatures import Codec, Local, Network, Stored
from selavpr.placetable import PlaceTable
from selavpr.searchers import Searcher
from selavpr.structs import Place

__all__ = ["MANIFEST", "Manifest", "PlaceIndex", "verify"]

T = TypeVar("T")


class Supply(Protocol):
    """Brings parts of an index that is not whole on this machine, when they are needed."""

    def need(self, parts: Iterable[tuple[str, int, int]]) -> None:
        """Have these bytes of files: name, first byte, byte after the last."""

    def need_file(self, name: str) -> None:
        """Have a whole file, if there is such a one."""


class _Whole:
    """The supply of an index that is all there."""

    def need(self, parts: Iterable[tuple[str, int, int]]) -> None:
        """They are here."""

    def need_file(self, name: str) -> None:
        """It is here."""


class PlaceIndex:
    """An opened index. Nothing in it changes; threads may share it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        places: PlaceTable,
        searcher: Searcher,
        codec: Codec,
        arrays: Mapping[str, NDArray[Any]],
        grids: NDArray[np.uint16],
        supply: Supply,
    ) -> None:
        """Use ``open``."""
        self.folder = folder
        self.manifest = manifest
        self.codec = codec
        self.searcher = searcher
        self._places = places
        self._arrays = arrays
        self._grids = grids
        self._supply = supply
        counts = codec.counts(grids.astype(np.int64))
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, supply: Supply | None = None) -> PlaceIndex:
        """Open an index folder.

        Args:
            folder: of the index.
            supply: brings what is missing in the folder; see ``published``.

        Raises:
            IndexFileError: there is no index, or a part of it is missing, damaged or of another
                format.
        """
        folder = Path(folder)
        if not holds_index(folder) and holds_index(replaced(folder)):
            folder = replaced(folder)  # a build was killed while it swapped the new index in
        manifest = read_manifest(folder)
        codec = read_codec(folder / CODEC, manifest.local)
        index = cls(
            folder,
            manifest,
            PlaceTable.open(folder),
            read_searcher(folder / GLOBAL, manifest.probes),
            codec,
            {
                name: read_array(folder / name, dtype, 2 if columns else 1)
                for name, (dtype, columns) in codec.arrays.items()
            },
            read_array(folder / GRIDS, np.uint16, 2),
            supply or _Whole(),
        )
        index._check()
        return index

    def _check(self) -> None:
        """Whether the parts are of one index, and there is something to search in it."""
        rows, features = len(self), int(self._starts[-1])
        arrays = self.codec.arrays
        fits = (
            {self.manifest.count, len(self.searcher), len(self._grids)} == {rows}
            and self._grids.shape[1] == 2
            and bool(self._grids.all())
            and all(len(array) == features for array in self._arrays.values())
            and all(
                array.shape[1:] == ((arrays[name][1],) if arrays[name][1] else ())
                for name, array in self._arrays.items()
            )
            and (not isinstance(self.codec, TokensCodec) or self.codec.code.width == self.width)
        )
        if not fits:
            raise IndexFileError(f"The parts of the index in {self.folder} do not fit together.")
        if not rows:
            raise IndexFileError(f"The index in {self.folder} holds no photos; build it again.")

    @property
    def width(self) -> int:
        """Channels of the tokens and of the descriptors."""
        return self.searcher.width

    def __len__(self) -> int:
        """Number of reference photos."""
        return len(self._places)

    def place(self, row: int) -> Place:
        """What is known of one reference photo.

        Raises:
            IndexError: there is no such row.
            IndexFileError: the row is damaged.
        """
        return self._places[row]

    @property
    def places(self) -> list[Place]:
        """All places, in order of their rows."""
        return [self.place(row) for row in range(len(self))]

    def spread(self, most: int) -> list[Location]:
        """Where reference photos were taken: of a large index ``most`` places, evenly chosen.

        Reading every row of a large one would keep a page from opening.
        """
        return [self.place(row).location for row in range(0, len(self), -(-len(self) // most))]

    def search(self, descriptor: Tensor, top_k: int) -> list[tuple[int, float]]:
        """The most similar reference photos by global descriptor.

        Args:
            descriptor: ``[D]`` of unit norm.
            top_k: how many; fewer come back when the index is smaller.

        Returns:
            ``(row, cosine)`` pairs, most similar first, ties by row.
        """
        query = descriptor.detach().cpu().float().numpy()[None]
        wanted = min(top_k, len(self))
        asked = min(wanted + 1, len(self))
        while True:
            similarity, rows = (found[0] for found in self.searcher.nearest(query, asked))
            # faiss may cut a run of equal similarities anywhere: ask on until the run is whole.
            if asked == len(self) or not similarity[-1] == similarity[wanted - 1]:
                break
            asked = min(2 * asked, len(self))
        known = (rows >= 0) & np.isfinite(similarity)
        if (rows >= len(self)).any() or not known.any():
            raise IndexFileError(
                f"{GLOBAL} in {self.folder} is damaged: it finds rows that do not exist; "
                "get the index anew, or build it again."
            )
        similarity, rows = similarity[known], rows[known]
        best = np.lexsort((rows, -similarity))[:wanted]
        return [(int(rows[i]), float(np.clip(similarity[i], -1, 1))) for i in best]

    def grid(self, row: int) -> tuple[int, int]:
        """Rows and columns of tokens of a photo."""
        h, w = self._grids[row]
        return int(h), int(w)

    def tokens(self, row: int) -> Tensor:
        """The decoded tokens ``[h, w, C]`` of a photo; reads only that photo's bytes.

        Raises:
            IndexFileError: they are damaged.
            OptionError: the index keeps other local features.
        """
        if not isinstance(self.codec, TokensCodec):
            raise OptionError(f"The index in {self.folder} keeps no tokens; use ``local``.")
        return self.codec.tokens(self.stored(row))

    @torch.inference_mode()
    def local(self, rows: Sequence[int], network: Network) -> list[Local]:
        """Local descriptors of photos, read, decoded or extracted as the index was built.

        Args:
            rows: of the photos.
            network: the one the index was built with.

        Returns:
            One ``Local`` per row, on the network's device.

        Raises:
            IndexFileError: they are damaged.
            PhotoError: a stored photo that is to be extracted again is missing or damaged.
        """
        return self._decoded(self.codec.local, rows, network)

    @torch.inference_mode()
    def centres(self, rows: Sequence[int], network: Network) -> list[Local]:
        """Local descriptors at the tokens' centres of photos; otherwise as ``local``."""
        return self._decoded(self.codec.centres, rows, network)

    def _decoded(
        self,
        decode: Callable[[Sequence[Stored], Network], list[T]],
        rows: Sequence[int],
        network: Network,
    ) -> list[T]:
        self._supply.need(part for row in rows for part in self._parts(row))
        try:
            return decode([self.stored(row) for row in rows], network)
        except ValueError as error:
            raise IndexFileError(
                f"The local features in {self.folder} are damaged: {error}; build the index again."
            ) from error

    def stored(self, row: int) -> Stored:
        """What is kept of a photo's local features, as it is kept.

        Raises:
            IndexFileError: it is damaged.
        """
        self._supply.need(self._parts(row))
        start, stop = int(self._starts[row]), int(self._starts[row + 1])
        parts = []
        for name, array in self._arrays.items():
            part = np.asarray(array[start:stop])
            if part.dtype == np.float16 and not np.isfinite(part).all():
                raise IndexFileError(
                    f"{name} in {self.folder} is damaged at row {row + 1}; build the index again."
                )
            parts.append(part)
        return Stored(self.grid(row), tuple(parts), lambda: self.photo(row))

    def _parts(self, row: int) -> list[tuple[str, int, int]]:
        """The bytes of the arrays' files that are a photo's."""
        start, stop = int(self._starts[row]), int(self._starts[row + 1])
        return [
            # A mapped array knows how long the file's header is.
            (name, int(array.offset) + start * step, int(array.offset) + stop * step)
            for name, array in self._arrays.items()
            if isinstance(array, np.memmap) and (step := array.strides[0])
        ]

    def photo(self, row: int) -> Image.Image:
        """A reference photo.

        Raises:
            IndexFileError: its path leads outside the index folder.
            PhotoError: the photo is missing or damaged.
        """
        return load_image(self.photo_path(row))

    def photo_path(self, row: int) -> Path:
        """Where a reference photo lies, checked to be inside the index folder.

        Raises:
            IndexFileError: its path leads outside, through a link.
        """
        root = self.folder.resolve()
        image = self.place(row).image
        if image:
            self._supply.need_file(image)
        path = (root / image).resolve()
        if not path.is_relative_to(root):
            raise IndexFileError(f"Row {row + 1} of {PLACES} points outside the index.")
        return path

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, photos of a large index included, which its manifest does not list.

        Those are measured; one that is missing here has no bytes.

        Raises:
            IndexFileError: the list of photos is missing or damaged.
        """
        sizes = {name: int(about["bytes"]) for name, about in self.manifest.files.items()}
        if PHOTOS in sizes:
            for name in read_sums(self.folder / PHOTOS):
                path = self.folder / name
                sizes[name] = path.stat().st_size if path.is_file() else 0
        return sizes

    def basemap(self) -> dict[str, Any] | None:
        """Streets, water and buildings as a GeoJSON FeatureCollection; None without one.

        Raises:
            IndexFileError: it is no JSON object.
        """
        if BASEMAP in self.manifest.files:
            self._supply.need_file(BASEMAP)
        path = self.folder / BASEMAP
        return read_json(path) if path.is_file() else None


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """Compare every file of an index with its checksum, and try to open it.

    Returns:
        One sentence per problem; empty when all is well.

    Raises:
        IndexFileError: there is no readable manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = []
    if not manifest.is_intact():
        problems.append(f"{MANIFEST} was changed after the index was built.")
    sums = {name: str(about["sha256"]) for name, about in manifest.files.items()}
    sizes = {name: about["bytes"] for name, about in manifest.files.items()}
    try:
        sums |= read_sums(folder / PHOTOS) if PHOTOS in sums else {}
    except IndexFileError as error:
        problems.append(str(error))
    for name, expected in sorted(sums.items()):
        path = folder / name
        try:
            if not path.is_file():
                problems.append(f"{name} is missing.")
            elif path.stat().st_size != sizes.get(name, path.stat().st_size):
                problems.append(f"{name} has {path.stat().st_size} bytes, not {sizes[name]}.")
            elif checksum(path) != expected:
                problems.append(f"{name} is damaged: its checksum differs.")
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}.")
    try:
        index = PlaceIndex.open(folder)
        index._places.check()
    except IndexFileError as error:
        return problems or [str(error)]
    for place in index.places:
        if place.image and place.image not in sums:
            problems.append(f"{place.image} is in {PLACES}, but not among the files of {MANIFEST}.")
    return problems


def replaced(folder: Path) -> Path:
    """Where the index that was in a folder waits while a new one takes its place."""
    return work_folder(folder) / "old"


def work_folder(folder: Path) -> Path:
    """The hidden folder beside an index in which a new one is built."""
    # Not with_name(), which fails for "." and "/".
    absolute = Path(os.path.abspath(folder))
    return absolute.parent / f".{absolute.name}.building"
