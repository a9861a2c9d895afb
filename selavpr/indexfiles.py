"""The files of an index, read with distrust: an index may come from a stranger.

Every reader here either returns what the rest of the program may rely on, or raises
``IndexFileError`` with a sentence that names the file. Nothing in a file is run, and no number in
it is believed before it has been held against the size of the file.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from selavpr.codec import TokenCodec
from selavpr.errors import IndexFileError, LocationError, WeightsError
from selavpr.geo import Location
from selavpr.weights import digest, read_tensors

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

_OUTSIDE = re.compile(r"^/|[\\:\0]|(^|/)\.\.(/|$)|^[./]*$")
"""Paths that lead out of a folder, or name the folder itself."""

_FLAT_HEADER = struct.Struct("<4siqqqBiQ")
"""How faiss starts a flat index of inner products: kind, width, rows, two unused numbers, trained,
metric, floats that follow."""


@dataclass(frozen=True)
class Manifest:
    """What an index says of itself; fields as in manifest.json.

    Raises:
        IndexFileError: a field is of the wrong type or outside its domain.
    """

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
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path: {"bytes", "sha256"}
    format_version: int = FORMAT_VERSION
    checksum: str = ""  # over all other fields, see ``sealed``

    def __post_init__(self) -> None:
        """Check every field once, so that nothing downstream has to."""
        for name in ("name", "title", "model", "fingerprint", "license", "attribution", "created",
                     "command", "checksum"):  # fmt: skip
            if not isinstance(getattr(self, name), str):
                raise IndexFileError(f"{name} must be text, not {getattr(self, name)!r:.50}.")
        if not _is_count(self.count):
            raise IndexFileError(f"count must be a whole number from 0, not {self.count!r:.50}.")
        if not isinstance(self.bounds, tuple) or not _are_bounds(self.bounds):
            raise IndexFileError("bounds must be south, west, north and east in degrees.")
        if not isinstance(self.calibration, (dict, type(None))):
            raise IndexFileError("calibration must be a table.")
        if not isinstance(self.files, dict):
            raise IndexFileError("files must be a table.")
        for path, about in self.files.items():
            if not isinstance(path, str) or not is_inside(path):
                raise IndexFileError(f"files names {path!r:.50}, which is outside the index.")
            if not isinstance(about, dict) or not _is_count(about.get("bytes")):
                raise IndexFileError(f"files does not say how many bytes {path!r:.50} has.")
            if not isinstance(about.get("sha256"), str):
                raise IndexFileError(f"files has no checksum for {path!r:.50}.")

    def sealed(self) -> Manifest:
        """With the checksum that ``verify`` compares."""
        return dataclasses.replace(self, checksum=self._checksum())

    def is_intact(self) -> bool:
        """Whether no field was changed after ``sealed``; true where it never was."""
        return self.checksum in ("", self._checksum())

    def _checksum(self) -> str:
        fields = dataclasses.asdict(self)
        del fields["checksum"]
        return digest(fields)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """What an index says of itself.

    Raises:
        IndexFileError: there is no manifest, or it is damaged or of another format.
    """
    if not holds_index(folder):
        raise IndexFileError(f"There is no index in {folder}: it holds no {MANIFEST}.")
    fields = read_json(folder / MANIFEST)
    version = fields.get("format_version")
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise IndexFileError(
            f"The index in {folder} has format {version!r:.20}; this version reads "
            f"{FORMAT_VERSION}. Build it again, or update selavpr."
        )
    if isinstance(fields.get("bounds"), list):
        fields["bounds"] = tuple(fields["bounds"])
    try:
        return Manifest(**fields)
    except (TypeError, IndexFileError) as error:
        reason = str(error).removeprefix("Manifest.__init__() ").rstrip(".")[:200]
        raise IndexFileError(f"{MANIFEST} in {folder} is damaged: {reason}.") from error


@dataclass(frozen=True)
class PlacesTable:
    """The places.

    Attributes:
        rows: the cells of each row, as text.
        numbers: ``[n, 3]`` float64 latitude, longitude, heading (NaN where unknown).
    """

    rows: Sequence[Sequence[str]]
    numbers: NDArray[np.float64]


def read_places(path: Path) -> PlacesTable:
    """The table of places, every cell of which has been checked.

    Raises:
        IndexFileError: it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = list(reader)
        if tuple(header) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError("it does not have the right columns")
        first = COLUMNS.index("latitude")
        cells = [float(x or "nan") for row in rows for x in row[first : first + 3]]
        numbers = np.array(cells, dtype=np.float64).reshape(-1, 3)
        # By columns, since a hundred thousand rows are to be opened in under a second.
        fits = (np.abs(numbers[:, :2]) <= (90, 180)).all(axis=1)  # false for NaN
        fits &= np.isnan(numbers[:, 2]) | ((numbers[:, 2] >= 0) & (numbers[:, 2] <= 360))
        fits &= [not row[1] or is_inside(row[1]) for row in rows]
        if not fits.all():
            row = int(fits.argmin())
            Location(float(numbers[row, 0]), float(numbers[row, 1]))  # says what is wrong with it
            raise ValueError(f"row {row + 1} has a bad heading or points outside the index")
        if len({row[0] for row in rows}) < len(rows):
            raise ValueError("an id appears twice")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, LocationError, csv.Error) as error:
        raise _damaged(path, str(error)) from error
    return PlacesTable(rows, numbers)


def read_searcher(path: Path) -> faiss.Index:
    """The search over global descriptors, all of which have unit norm.

    Raises:
        IndexFileError: it is missing, damaged or of another kind.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_FLAT_HEADER.size)
        size = path.stat().st_size
        # Checked here because faiss believes the numbers in a file, however large.
        if len(header) < _FLAT_HEADER.size or header[:4] != b"IxFI":
            raise ValueError("it is not a flat faiss index of inner products")
        _, width, rows, _, _, _, metric, floats = _FLAT_HEADER.unpack(header)
        if floats != width * rows or size != len(header) + 4 * floats or metric or width < 1:
            raise ValueError("its size does not fit its header")
        searcher: faiss.Index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        flat: Any = searcher  # a flat index, as the header says
        vectors = faiss.rev_swig_ptr(flat.get_xb(), floats).reshape(rows, width)
        norms = np.einsum("ij,ij->i", vectors, vectors)
        if not (np.abs(norms - 1) < 0.01).all():  # false for NaN
            raise ValueError("it holds descriptors that are not of unit length")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error
    return searcher


def read_codec(path: Path) -> TokenCodec:
    """The code of the tokens.

    Raises:
        IndexFileError: it is missing or damaged.
    """
    try:
        tensors = read_tensors(path)  # finite float32
        mean, basis = tensors["mean"], tensors["basis"]
        if mean.ndim != 1 or basis.ndim != 2 or basis.shape[1] != len(mean) or not basis.numel():
            raise _damaged(path, "its tensors do not fit together")
    except WeightsError as error:
        raise IndexFileError(str(error)) from error
    except KeyError as error:
        raise _damaged(path, f"it has no {error}") from error
    return TokenCodec(mean, basis)


def read_array(path: Path, dtype: type[np.generic], dimensions: int) -> NDArray[Any]:
    """An array mapped into memory, of this type and number of dimensions.

    Raises:
        IndexFileError: it is missing, damaged or another one.
    """
    try:
        # Not np.load, which would also open archives and leave them open.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # A hostile header makes NumPy raise anything from SyntaxError to MemoryError.
        raise _damaged(path, str(error)) from error
    if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
        raise _damaged(path, f"it holds {array.dtype} {list(array.shape)}")
    return array


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        IndexFileError: it is missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError("it is too large")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise ValueError("it does not hold a JSON object")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    return json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n"


def holds_index(folder: Path) -> bool:
    """Whether there is an index in a folder, whole or not."""
    return os.path.isfile(folder / MANIFEST)  # unlike Path.is_file, false for impossible names


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_bounds(bounds: Sequence[object]) -> bool:
    numbers = [x for x in bounds if isinstance(x, (int, float)) and not isinstance(x, bool)]
    if len(numbers) != 4 or len(bounds) != 4:
        return False
    south, west, north, east = numbers
    return -90 <= south <= north <= 90 and -180 <= west <= east <= 180


def is_inside(path: str) -> bool:
    """Whether a path with forward slashes stays in its folder, on any system."""
    return bool(path) and not _OUTSIDE.search(path)


def _damaged(path: Path, reason: str) -> IndexFileError:
    reason = " ".join(reason.split())[:200].rstrip(".") or "it cannot be read"
    return IndexFileError(f"{path} is damaged: {reason}. Get the index anew, or build it again.")


def _unreadable(path: Path, error: OSError) -> IndexFileError:
    if isinstance(error, FileNotFoundError):
        return IndexFileError(f"The index in {path.parent} is incomplete: {path.name} is missing.")
    return IndexFileError(f"{path} cannot be read: {error.strerror or error}.")
