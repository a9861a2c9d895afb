"""A searchable city: reference photos with their places, global descriptors and compact features.

An index is a folder, written once and then only read::

    manifest.json       format, model it belongs to, counts, bounds, licence, checksums
    places.csv          one row per photo: id, image, latitude, longitude, heading, ...
    global.faiss        faiss index over the global descriptors, row by row the places
    codes.npy           [T, r] int8 and
    scales.npy          [T] float16: the coded tokens of all photos, one photo after another
    grids.npy           [n, 2] uint16: rows and columns of tokens of each photo
    codec.safetensors   mean and basis of the code
    images/             the photos, without metadata
    basemap.geojson     optional: streets, water and buildings, for a map without the internet

Opening maps the large files into memory, so only what a query touches is read.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import faiss
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from selavpr.codec import TokenCodec
from selavpr.errors import IndexFileError, LocationError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.structs import Place

FORMAT_VERSION = 1
MANIFEST, PLACES, GLOBAL, CODES, SCALES, GRIDS, CODEC, BASEMAP = (
    "manifest.json",
    "places.csv",
    "global.faiss",
    "codes.npy",
    "scales.npy",
    "grids.npy",
    "codec.safetensors",
    "basemap.geojson",
)
COLUMNS = (
    "id",
    "image",
    "latitude",
    "longitude",
    "heading",
    "captured_at",
    "street",
    "credit",
    "licence",
)
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Manifest:
    """What an index says of itself; fields as in manifest.json."""

    name: str
    title: str
    model: str
    fingerprint: str
    count: int
    bounds: tuple[float, float, float, float]  # south, west, north, east in degrees
    license: str = ""
    attribution: str = ""
    created: str = ""
    command: str = ""
    calibration: dict[str, Any] | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Entry:
    """One reference photo on its way into an index.

    Attributes:
        place: id, position and what else is known; ``place.image`` is its path inside the index.
        photo: JPEG bytes of the photo as stored, without metadata.
        descriptor: ``[D]`` global descriptor.
        tokens: ``[h, w, C]``.
    """

    place: Place
    photo: bytes
    descriptor: Tensor
    tokens: Tensor


class PlaceIndex:
    """An opened index. Nothing in it changes; threads may share it."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        rows: Sequence[Sequence[str]],
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
        self._rows = rows
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
        manifest = _read_manifest(folder)
        try:
            with (folder / PLACES).open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                header = next(reader, [])
                rows = list(reader)
            if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
                raise IndexFileError(f"{PLACES} in {folder} does not have the right columns.")
            searcher = faiss.read_index(str(folder / GLOBAL), faiss.IO_FLAG_MMAP)
            code = safetensors.torch.load_file(folder / CODEC)
            codec = TokenCodec(code["mean"], code["basis"])
            codes, scales, grids = (
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
                for name in (CODES, SCALES, GRIDS)
            )
        except (OSError, ValueError, KeyError, RuntimeError, csv.Error, SafetensorError) as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IndexFileError(
                f"The index in {folder} is damaged or incomplete: {text}."
            ) from error
        index = cls(folder, manifest, rows, searcher, codec, codes, scales, grids)
        lengths = {manifest.count, len(rows), searcher.ntotal, len(grids)}
        tokens = {int(index._starts[-1]), len(codes), len(scales)}
        if len(lengths) > 1 or len(tokens) > 1 or codes.shape[1:] != (codec.rank,):
            raise IndexFileError(f"The parts of the index in {folder} do not fit together.")
        return index

    def __len__(self) -> int:
        """Number of reference photos."""
        return len(self._rows)

    def place(self, row: int) -> Place:
        """What is known of one reference photo.

        Raises:
            IndexFileError: its row in the table is not readable.
        """
        values = dict(zip(COLUMNS, self._rows[row], strict=True))
        try:
            location = Location(float(values["latitude"]), float(values["longitude"]))
            heading = float(values["heading"]) if values["heading"] else None
        except (ValueError, LocationError) as error:
            raise IndexFileError(f"Row {row + 1} of {PLACES} is damaged: {error}.") from error
        return Place(
            place_id=values["id"],
            image=values["image"],
            location=location,
            heading=heading,
            captured_at=values["captured_at"],
            street=values["street"],
            credit=values["credit"],
            licence=values["licence"],
        )

    def search(self, descriptor: Tensor, top_k: int) -> list[tuple[int, float]]:
        """The most similar reference photos by global descriptor.

        Args:
            descriptor: ``[D]`` of unit norm.
            top_k: how many; fewer come back when the index is smaller.

        Returns:
            ``(row, cosine)`` pairs, most similar first, ties by row.
        """
        query = descriptor.detach().cpu().float().numpy()[None]
        similarity, rows = self._searcher.search(query, min(top_k, len(self)))
        found = [(int(r), float(s)) for r, s in zip(rows[0], similarity[0], strict=True) if r >= 0]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def grid(self, row: int) -> tuple[int, int]:
        """Rows and columns of tokens of a photo."""
        h, w = self._grids[row]
        return int(h), int(w)

    def tokens(self, row: int) -> Tensor:
        """The decoded tokens ``[h, w, C]`` of a photo; reads only that photo's bytes."""
        part = slice(self._starts[row], self._starts[row + 1])
        decoded = self.codec.decode(np.asarray(self._codes[part]), np.asarray(self._scales[part]))
        return decoded.reshape(*self.grid(row), -1)

    def photo(self, row: int) -> Image.Image:
        """A reference photo.

        Raises:
            IndexFileError: the table points outside the index folder.
            PhotoError: the photo is missing or damaged.
        """
        return load_image(self.photo_path(row))

    def photo_path(self, row: int) -> Path:
        """Where a reference photo lies, checked to be inside the index folder."""
        root = self.folder.resolve()
        path = (root / self._rows[row][COLUMNS.index("image")]).resolve()
        if not path.is_relative_to(root):
            raise IndexFileError(f"Row {row + 1} of {PLACES} points outside the index.")
        return path

    def basemap(self) -> dict[str, Any] | None:
        """Streets, water and buildings as a GeoJSON FeatureCollection; None without one."""
        path = self.folder / BASEMAP
        return _read_json(path) if path.is_file() else None


def verify(folder: str | os.PathLike[str]) -> list[str]:
    """Compare every file of an index with its checksum.

    Returns:
        One sentence per problem; empty when all is well.

    Raises:
        IndexFileError: there is no readable manifest.
    """
    folder = Path(folder)
    problems = []
    for name, expected in sorted(_read_manifest(folder).files.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing.")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}.")
        elif _sha256(path) != expected["sha256"]:
            problems.append(f"{name} is damaged: its checksum differs.")
    return problems


def write(
    folder: str | os.PathLike[str],
    entries: Sequence[Entry],
    manifest: Manifest,
    *,
    rank: int,
    basemap: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> PlaceIndex:
    """Write an index; it appears whole or not at all, and replaces an older one.

    Args:
        folder: where to.
        entries: the reference photos in the order of their rows; ids and image paths unique.
        manifest: what it says of itself; count, bounds and files are filled in here.
        rank: components kept of each token, see ``TokenCodec``.
        basemap: GeoJSON to copy in.
        progress: called with the number of photos written.

    Raises:
        IndexFileError: no entries, or ids that repeat, or the folder is something else.
    """
    target = Path(folder)
    if not entries:
        raise IndexFileError("An index needs at least one photo.")
    if target.exists() and not (target / MANIFEST).is_file():
        raise IndexFileError(f"{target} exists and is not an index; choose another place.")
    for what in (lambda e: e.place.place_id, lambda e: e.place.image):
        values = [what(entry) for entry in entries]
        if len(set(values)) < len(values):
            twice = next(v for v in values if values.count(v) > 1)
            raise IndexFileError(f"{twice!r} appears twice; ids and image paths must be unique.")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_parts(partial, entries, rank, basemap, progress)
        lat = [e.place.location.latitude for e in entries]
        lon = [e.place.location.longitude for e in entries]
        files = {
            str(PurePosixPath(path.relative_to(partial))): {
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        complete = dataclasses.replace(
            manifest,
            count=len(entries),
            bounds=(min(lat), min(lon), max(lat), max(lon)),
            files=files,
        )
        text = json.dumps(dataclasses.asdict(complete), indent=1, ensure_ascii=False) + "\n"
        (partial / MANIFEST).write_text(text, encoding="utf-8")
        if target.exists():
            old = target.with_name(target.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        raise IndexFileError(f"Cannot write the index to {target}: {error.strerror}.") from error
    return PlaceIndex.open(target)


def _write_parts(
    folder: Path,
    entries: Sequence[Entry],
    rank: int,
    basemap: Path | None,
    progress: Callable[[int], None],
) -> None:
    with (folder / PLACES).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for entry in entries:
            p = entry.place
            heading = "" if p.heading is None else f"{p.heading:.1f}"
            position = (f"{p.location.latitude:.7f}", f"{p.location.longitude:.7f}")
            row = (p.place_id, p.image, *position, heading, p.captured_at, p.street)
            table.writerow((*row, p.credit, p.licence))
    descriptors = torch.stack([e.descriptor for e in entries]).float().numpy()
    searcher = faiss.IndexFlatIP(descriptors.shape[1])
    searcher.add(descriptors)
    faiss.write_index(searcher, str(folder / GLOBAL))
    # A sample of tokens settles the code: every photo has its say, memory stays bounded.
    stride = max(1, len(entries) * entries[0].tokens.shape[0] * entries[0].tokens.shape[1] // 65536)
    sample = torch.cat(
        [e.tokens.flatten(0, 1)[i % stride :: stride] for i, e in enumerate(entries)]
    )
    codec = TokenCodec.fit(sample.float(), rank)
    safetensors.torch.save_file({"mean": codec.mean, "basis": codec.basis}, folder / CODEC)
    coded = [codec.encode(e.tokens.flatten(0, 1)) for e in entries]
    np.save(folder / CODES, np.concatenate([codes for codes, _ in coded]))
    np.save(folder / SCALES, np.concatenate([scales for _, scales in coded]))
    np.save(folder / GRIDS, np.array([e.tokens.shape[:2] for e in entries], dtype=np.uint16))
    for done, entry in enumerate(entries, 1):
        path = folder / entry.place.image
        if not path.resolve().is_relative_to(folder.resolve()):
            raise IndexFileError(f"{entry.place.image!r} would lie outside the index.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.photo)
        progress(done)
    if basemap is not None:
        shutil.copyfile(basemap, folder / BASEMAP)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise IndexFileError(f"There is no index in {folder}: it holds no {MANIFEST}.")
    fields = _read_json(path)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise IndexFileError(
            f"The index in {folder} has format {version}; this version reads {FORMAT_VERSION}. "
            "Build it again, or update selavpr."
        )
    try:
        fields["bounds"] = tuple(float(x) for x in fields["bounds"])
        manifest = Manifest(**fields)
        if len(manifest.bounds) != 4 or not isinstance(manifest.count, int):
            raise ValueError("bounds or count")
        for name, about in manifest.files.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError("a file outside the index")
            int(about["bytes"])
            str(about["sha256"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise IndexFileError(f"{MANIFEST} in {folder} is damaged: {error}.") from error
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IndexFileError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise IndexFileError(f"{path} does not hold a JSON object.")
    return value


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
