"""The files of an index, read with distrust: an index may come from a stranger.

Every reader here either returns what the rest of the program may rely on, or raises
``IndexFileError`` with a sentence that names the file. Nothing in a file is run, and no number in
it is believed before it has been held against the size of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selavpr import searchfiles
from selavpr.errors import IndexFileError, OptionError, WeightsError
from selavpr.localcodecs import CODECS
from selavpr.localfeatures import Codec
from selavpr.searchers import Searcher
from selavpr.weights import digest, read_tensors

FORMAT_VERSION = 1
MANIFEST, PLACES, ROWS, PHOTOS, GLOBAL, CODES, SCALES, GRIDS, CODEC, BASEMAP = (
    "manifest.json",
    "places.csv",
    "rows.npy",
    "photos.sha256",
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
CELLS = "cells.npy"
OWN_FILES = frozenset(
    (MANIFEST, PLACES, ROWS, PHOTOS, GLOBAL, CODES, SCALES, CELLS, GRIDS, CODEC, BASEMAP)
)
"""Names in an index folder that no photo may have."""

MAX_JSON_BYTES = 64 << 20

NAMED = 5
"""Authors and licences that an index names itself."""

_OUTSIDE = re.compile(r"^/|[\\:\0]|(^|/)\.\.(/|$)|^[./]*$")
"""Paths that lead out of a folder, or name the folder itself."""

_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")
"""A line of ``photos.sha256``, as the program sha256sum writes it."""

_LATER = ("local", "search")
"""Fields younger than the format: they count only where they are set, so that older indexes stay
as they were sealed."""


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
    local: str = "tokens"  # how local features are kept, see ``localcodecs``
    search: dict[str, Any] | None = None  # of a search that is not exact, see ``searchers``
    format_version: int = FORMAT_VERSION
    checksum: str = ""  # over all other fields, see ``sealed``

    def __post_init__(self) -> None:
        """Check every field once, so that nothing downstream has to."""
        for name in ("name", "title", "model", "fingerprint", "license", "attribution", "created",
                     "command", "checksum", "local"):  # fmt: skip
            if not isinstance(getattr(self, name), str):
                raise IndexFileError(f"{name} must be text, not {getattr(self, name)!r:.50}.")
            # Halves of a sign, as in file names that are no UTF-8: no file or page can hold them.
            if re.search("[\ud800-\udfff]", getattr(self, name)):
                raise IndexFileError(f"{name} is no text: {getattr(self, name)!r:.50}.")
        if not _is_count(self.count):
            raise IndexFileError(f"count must be a whole number from 0, not {self.count!r:.50}.")
        if not isinstance(self.bounds, tuple) or not _are_bounds(self.bounds):
            raise IndexFileError("bounds must be south, west, north and east in degrees.")
        if not isinstance(self.calibration, (dict, type(None))):
            raise IndexFileError("calibration must be a table.")
        if self.local not in CODECS:
            known = ", ".join(CODECS)
            raise IndexFileError(f"local must be one of {known}, not {self.local!r:.50}.")
        if self.search is not None and not (
            isinstance(self.search, dict) and _is_count(self.search.get("probes"))
        ):
            raise IndexFileError("search must say how many lists to probe.")
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
        fields = self.fields()
        del fields["checksum"]
        return digest(fields)

    def fields(self) -> dict[str, Any]:
        """As written."""
        fields = dataclasses.asdict(self)
        for later in dataclasses.fields(self):
            if later.name in _LATER and fields[later.name] == later.default:
                del fields[later.name]
        return fields

    @property
    def probes(self) -> int:
        """Inverted lists a query reads; 0 where the search is exact."""
        return int(self.search["probes"]) if self.search else 0


def named(names: Sequence[str]) -> str:
    """Authors or licences as a manifest has them: the first few, since the table names all."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


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


def read_searcher(path: Path, probes: int) -> Searcher:
    """The search over global descriptors, which have unit norm.

    Raises:
        IndexFileError: it is missing, damaged or of another kind.
    """
    try:
        return searchfiles.read(path, probes)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RuntimeError) as error:
        raise damaged(path, str(error)) from error


def read_codec(path: Path, kind: str) -> Codec:
    """The code of the local features.

    Raises:
        IndexFileError: it is missing or damaged.
    """
    try:
        return CODECS[kind].from_tensors(read_tensors(path))  # finite float32
    except WeightsError as error:
        raise IndexFileError(str(error)) from error
    except KeyError as error:
        raise damaged(path, f"it has no {error}") from error
    except (ValueError, RuntimeError) as error:
        raise damaged(path, str(error)) from error


def read_array(path: Path, dtype: type[np.generic], dimensions: int) -> NDArray[Any]:
    """An array mapped into memory, of this type and number of dimensions.

    Raises:
        IndexFileError: it is missing, damaged or another one.
    """
    try:
        # Not np.load, which would also open archives and leave them open.
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:
        # A hostile header makes NumPy raise anything from SyntaxError to MemoryError.
        raise damaged(path, str(error)) from error
    if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
        raise damaged(path, f"it holds {array.dtype} {list(array.shape)}")
    return array


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        IndexFileError: it is missing, too large, or no JSON object.
    """
    try:
        return _json_object(path)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def check_basemap(path: Path) -> None:
    """Whether a file can be the basemap of an index, which is read as ``read_json`` does.

    Raises:
        OptionError: it is missing, too large, or no GeoJSON FeatureCollection.
    """
    try:
        if not isinstance(_json_object(path).get("features"), list):
            raise ValueError("it is no FeatureCollection")
    except OSError as error:
        raise OptionError(f"The basemap {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise OptionError(f"{path} cannot be a basemap: {reason}.") from error


def _json_object(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        most = MAX_JSON_BYTES >> 20
        raise ValueError(f"it is too large, {size / 2**20:.0f} MB where {most} MB is the most")
    value = json.loads(
        path.read_text(encoding="utf-8-sig"),  # some editors put a byte order mark before it
        parse_constant=_no_constant,
        parse_int=_whole,
        parse_float=_real,
    )
    if not isinstance(value, dict):
        raise ValueError("it does not hold a JSON object")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    # JSON's whole numbers have no end, and what computes with them has.
    if len(text.lstrip("-")) > 19:
        raise ValueError(f"{text:.20} is too large")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.20} is too large")
    return value


def read_sums(path: Path) -> dict[str, str]:
    """Photos and their SHA-256, of an index whose manifest does not list them.

    Raises:
        IndexFileError: the list is missing or damaged.
    """
    try:
        # Not splitlines, which parts at signs that may stand in a photo's name, such as U+2028.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if lines == [""]:
        return {}
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        found = _SUM.fullmatch(line)
        if found is None or not is_inside(found[2]):
            raise damaged(path, f"line {number} is no checksum of a photo")
        sums[found[2]] = found[1]
    return sums


def sums_text(sums: Mapping[str, str]) -> str:
    """The content of photos.sha256."""
    return "".join(f"{sha}  {name}\n" for name, sha in sums.items())


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    return json.dumps(manifest.fields(), indent=1, ensure_ascii=False) + "\n"


def holds_index(folder: Path) -> bool:
    """Whether there is an index in a folder, whole or not."""
    return os.path.isfile(folder / MANIFEST)  # unlike Path.is_file, false for impossible names


def strangers(folder: Path) -> list[Path]:
    """What lies in an index folder and is none of the index's, relative to it and in order.

    Raises:
        IndexFileError: what the index holds cannot be told.
    """
    own = {*OWN_FILES, *read_manifest(folder).files}
    if (folder / PHOTOS).is_file():
        own |= read_sums(folder / PHOTOS).keys()
    found = []
    for here, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in (*files, *links):
            path = Path(here, name).relative_to(folder)
            if path.as_posix() not in own:
                found.append(path)
    return sorted(found)


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


def damaged(path: Path, reason: str) -> IndexFileError:
    """The error for a file that is not what it should be."""
    reason = " ".join(reason.split())[:200].rstrip(".") or "it cannot be read"
    return IndexFileError(f"{path} is damaged: {reason}. Get the index anew, or build it again.")


def unreadable(path: Path, error: OSError) -> IndexFileError:
    """The error for a file that is missing or cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return IndexFileError(f"The index in {path.parent} is incomplete: {path.name} is missing.")
    return IndexFileError(f"{path} cannot be read: {error.strerror or error}.")
