"""A searchable city: reference photos with their places, global descriptors and compact features.

An index is a folder, written once (by ``building``) and then only read::

    manifest.json       format, model it belongs to, counts, bounds, licence, checksums
    places.csv          one row per photo: id, image, latitude, longitude, heading, ...
    global.faiss        faiss index over the global descriptors, row by row the places
    codes.npy           [T, r] int8 and
    scales.npy          [T] float16: the coded tokens of all photos, one photo after another
    grids.npy           [n, 2] uint16: rows and columns of tokens of each photo
    codec.safetensors   mean and basis of the code
    images/             the photos, without metadata
    basemap.geojson     optional: streets, water and buildings, for a map without the internet

Opening maps the large files into memory, so only what a query touches is read. An index may come
from a stranger: nothing in it is trusted until it has been checked, and nothing in it is run.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selavpr.codec import TokenCodec
from selavpr.errors import IndexFileError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.indexfiles import (
    BASEMAP,
    CODEC,
    CODES,
    COLUMNS,
    GLOBAL,
    GRIDS,
    MANIFEST,
    PLACES,
    SCALES,
    Manifest,
    PlacesTable,
    checksum,
    holds_index,
    read_array,
    read_codec,
    read_json,
    read_manifest,
    read_places,
    read_searcher,
)
from selavpr.structs import Place

__all__ = ["MANIFEST", "Manifest", "PlaceIndex", "verify"]


class PlaceIndex:
    """An opened index. Nothing in it changes; threads may share it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        places: PlacesTable,
        searcher: faiss.Index,
        codec: TokenCodec,
        codes: NDArray[np.int8],
        scales: NDArray[np.float16],
        grids: NDArray[np.uint16],
    ) -> None:
        """Use ``open``."""
        self.folder = folder
        self.manifest = manifest
        self.codec = codec
        self._places = places
        self._searcher = searcher
        self._codes = codes
        self._scales = scales
        self._grids = grids
        counts = grids.astype(np.int64).prod(axis=1)
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> PlaceIndex:
        """Open an index folder.

        Raises:
            IndexFileError: there is no index, or a part of it is missing, damaged or of another
                format.
        """
        folder = Path(folder)
        if not holds_index(folder) and holds_index(replaced(folder)):
            folder = replaced(folder)  # a build was killed while it swapped the new index in
        manifest = read_manifest(folder)
        index = cls(
            folder,
            manifest,
            read_places(folder / PLACES),
            read_searcher(folder / GLOBAL),
            read_codec(folder / CODEC),
            read_array(folder / CODES, np.int8, 2),
            read_array(folder / SCALES, np.float16, 1),
            read_array(folder / GRIDS, np.uint16, 2),
        )
        index._check()
        return index

    def _check(self) -> None:
        """Whether the parts are of one index."""
        codec, rows, tokens = self.codec, len(self), int(self._starts[-1])
        fits = (
            {self.manifest.count, self._searcher.ntotal, len(self._grids)} == {rows}
            and {len(self._codes), len(self._scales)} == {tokens}
            and self._grids.shape[1] == 2
            and bool(self._grids.all())
            and self._codes.shape[1] == codec.rank
            and self._searcher.d == codec.width
        )
        if not fits:
            raise IndexFileError(f"The parts of the index in {self.folder} do not fit together.")

    @property
    def width(self) -> int:
        """Channels of the tokens and of the descriptors."""
        return self.codec.width

    def __len__(self) -> int:
        """Number of reference photos."""
        return len(self._places.rows)

    def place(self, row: int) -> Place:
        """What is known of one reference photo.

        Raises:
            IndexError: there is no such row.
        """
        values = dict(zip(COLUMNS, self._places.rows[row], strict=True))
        latitude, longitude, heading = (float(x) for x in self._places.numbers[row])
        return Place(
            place_id=values["id"],
            image=values["image"],
            location=Location(latitude, longitude),
            heading=None if math.isnan(heading) else heading,
            captured_at=values["captured_at"],
            street=values["street"],
            credit=values["credit"],
            licence=values["licence"],
        )

    @property
    def places(self) -> list[Place]:
        """All places, in order of their rows."""
        return [self.place(row) for row in range(len(self))]

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
            similarity, rows = (found[0] for found in self._searcher.search(query, asked))
            # faiss may cut a run of equal similarities anywhere: ask on until the run is whole.
            if asked == len(self) or similarity[-1] < similarity[wanted - 1]:
                break
            asked = min(2 * asked, len(self))
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
        """
        part = slice(self._starts[row], self._starts[row + 1])
        scales = np.asarray(self._scales[part])
        if not np.isfinite(scales).all():
            raise IndexFileError(
                f"{SCALES} in {self.folder} is damaged at row {row + 1}; build the index again."
            )
        decoded = self.codec.decode(np.asarray(self._codes[part]), scales)
        return decoded.reshape(*self.grid(row), -1)

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
        path = (root / self._places.rows[row][COLUMNS.index("image")]).resolve()
        if not path.is_relative_to(root):
            raise IndexFileError(f"Row {row + 1} of {PLACES} points outside the index.")
        return path

    def basemap(self) -> dict[str, Any] | None:
        """Streets, water and buildings as a GeoJSON FeatureCollection; None without one.

        Raises:
            IndexFileError: it is no JSON object.
        """
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
    for name, expected in sorted(manifest.files.items()):
        path = folder / name
        try:
            if not path.is_file():
                problems.append(f"{name} is missing.")
            elif path.stat().st_size != expected["bytes"]:
                problems.append(f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}.")
            elif checksum(path) != expected["sha256"]:
                problems.append(f"{name} is damaged: its checksum differs.")
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}.")
    try:
        index = PlaceIndex.open(folder)
    except IndexFileError as error:
        return problems or [str(error)]
    listed = manifest.files.keys()
    for place in index.places:
        if place.image and place.image not in listed:
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
