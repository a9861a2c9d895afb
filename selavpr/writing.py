"""Writing the files of an index, and putting a new index in the place of an old one.

Whatever makes an index, a build or an edit, writes it to a hidden folder beside its destination and
swaps it in when it is whole, so that the index itself is never seen half-made::

    .NAME.building/
        lock             held while somebody writes
        parts/           features, saved in small parts while they are extracted (``building``)
        new/             the index being written
        old/             the index that was replaced, for the blink of an eye
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from selavpr import searchers
from selavpr.errors import IndexFileError, SelaVPRError
from selavpr.index import PlaceIndex, replaced, work_folder
from selavpr.indexfiles import (
    BASEMAP,
    CODEC,
    GLOBAL,
    GRIDS,
    MANIFEST,
    PHOTOS,
    Manifest,
    checksum,
    holds_index,
    manifest_text,
    strangers,
    sums_text,
)
from selavpr.localcodecs import CODECS
from selavpr.localfeatures import Arrays, Codec, Network
from selavpr.placetable import write_places
from selavpr.searchers import Search, Searcher
from selavpr.sources import clean
from selavpr.structs import Place

LISTED = 10_000
"""Photos whose checksums the manifest lists; those of more are in a file of their own, which
opening the index need not read."""


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


class Entries(Protocol):
    """Entries in order of their rows, which can be gone through several times."""

    def __iter__(self) -> Iterator[Entry]:
        """From the first."""


@contextlib.contextmanager
def replacing(out: Path, what: str = "build", *, keep_parts: bool = False) -> Iterator[Path]:
    """A place to write a new index, swapped in for the one at ``out`` when the block ends well.

    Args:
        out: an index folder, or where one is to be.
        what: what is being done, for messages.
        keep_parts: leave the parts of a build or an addition that was stopped; what made use of
            them removes them when it is done.

    Yields:
        An empty folder to write into; its parent may hold more and is removed at the end, unless
        parts are kept in it.

    Raises:
        IndexFileError: somebody else is writing this index, or the disk does not take it.
    """
    out = Path(out).resolve()
    work, old = work_folder(out), replaced(out)
    lock = work / "lock"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield from _swap(out, old, work / "new")
                if not keep_parts:
                    shutil.rmtree(work / "parts", ignore_errors=True)
            finally:
                shutil.rmtree(work / "new", ignore_errors=True)
                with contextlib.suppress(OSError):  # it holds parts to go on from
                    (work / "parts").rmdir()
    except Timeout as error:
        raise IndexFileError(
            f"Another {what} of {out} is running; wait until it is done."
        ) from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise IndexFileError(
            f"Cannot write the index to {out}: {reason}. What is done so far is kept in {work}, "
            f"and the next {what} goes on from there."
        ) from error
    except SelaVPRError:
        _tidy(work)
        raise
    _tidy(work)


def _swap(out: Path, old: Path, new: Path) -> Iterator[Path]:
    if holds_index(old) and not holds_index(out):
        old.rename(out)  # somebody was killed between the two renamings below
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    yield new
    PlaceIndex.open(new)  # what cannot be opened must not replace what can
    if holds_index(out):
        _keep(out, new)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _keep(out: Path, new: Path) -> None:
    """Have what people put beside the files of the old index in the new one, too."""
    for name in strangers(out):
        path, target = out / name, new / name
        if os.path.lexists(target):
            raise IndexFileError(
                f"{path} is none of the index's own files, and one of them is to have its name; "
                "move it elsewhere."
            )
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.readlink())
        else:
            link(path, target)


def _tidy(work: Path) -> None:
    """Remove the hidden folder unless there is something in it to go on from."""
    if {path.name for path in work.iterdir()} <= {"lock"}:
        with contextlib.suppress(OSError):  # somebody may have begun to use it
            (work / "lock").unlink(missing_ok=True)
            work.rmdir()


def write(
    folder: Path,
    entries: Entries,
    manifest: Manifest,
    *,
    network: Network | None = None,
    local: str = "tokens",
    rank: int | None = None,
    search: Search = "auto",
    basemap: Path | None = None,
) -> int:
    """Write the files of an index into an empty folder; the manifest comes last.

    Args:
        folder: exists and is empty.
        entries: in order of their rows; gone through three times.
        manifest: count, bounds, files and checksum are filled in.
        network: makes local descriptors of tokens, for codes that keep those.
        local: how local features are kept, see ``localcodecs``.
        rank: bytes of a feature or number of features, as the code has it; None for its default.
        search: see ``searchers``.
        basemap: GeoJSON to copy in.

    Returns:
        The number of entries; without any, nothing is written.

    Raises:
        OptionError: the rank does not suit the code, or there is no such search.
        OSError: the folder cannot be written.
    """
    descriptors: list[Tensor] = []
    places: list[Place] = []
    grids: list[tuple[int, int]] = []
    for entry in entries:
        places.append(clean(entry.place))
        descriptors.append(entry.descriptor)
        grids.append((entry.tokens.shape[0], entry.tokens.shape[1]))
    if not places:
        return 0
    vectors = torch.stack(descriptors).float().numpy()
    searcher, about = searchers.make(vectors, search)
    codec = CODECS[local].fitted(_EntrySample(entries, grids, network), rank)
    writer = ArrayWriter(folder, codec, np.array(grids, dtype=np.uint16))
    with writer:
        for place, entry in zip(places, entries, strict=True):
            # A code that needs no network is given none only by tests.
            writer.add(codec.coded(entry.tokens, network))  # type: ignore[arg-type]
            path = folder / place.image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.photo)
    if basemap is not None:
        shutil.copyfile(basemap, folder / BASEMAP)
    manifest = dataclasses.replace(manifest, local=local, search=about or None)
    finish(folder, places, searcher, codec, manifest)
    return len(places)


def finish(
    folder: Path,
    places: list[Place],
    searcher: Searcher,
    codec: Codec,
    manifest: Manifest,
    sums: Mapping[str, str] | None = None,
) -> None:
    """Write what is left when arrays and photos are in the folder; the manifest comes last.

    Args:
        folder: of the new index.
        places: in order of their rows.
        searcher: over their descriptors.
        codec: of their local features.
        manifest: count, bounds, files and checksum are filled in.
        sums: checksums of photos where known, by their names.

    Raises:
        OSError: the folder cannot be written.
    """
    write_places(folder, places)
    # Through Python's file, so that a full disk is an OSError; faiss has its own.
    (folder / GLOBAL).write_bytes(faiss.serialize_index(searcher.index).data)
    (folder / CODEC).write_bytes(
        safetensors.torch.save({k: v.contiguous() for k, v in codec.tensors().items()})
    )
    photos = {place.image for place in places}
    files: dict[str, dict[str, Any]] = {}
    own: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        sha = (sums or {}).get(name) or checksum(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": sha}
        if name in photos:
            own[name] = sha
    if len(own) > LISTED:
        (folder / PHOTOS).write_text(sums_text(own), encoding="utf-8", newline="\n")
        files = {name: about for name, about in files.items() if name not in own}
        path = folder / PHOTOS
        files[PHOTOS] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
    # As many digits as the table has, so that an edit of the table's places gives the same.
    lat = [round(place.location.latitude, 7) for place in places]
    lon = [round(place.location.longitude, 7) for place in places]
    complete = dataclasses.replace(
        manifest,
        count=len(places),
        bounds=(min(lat), min(lon), max(lat), max(lon)),
        files=dict(sorted(files.items())),
    )
    (folder / MANIFEST).write_text(manifest_text(complete.sealed()), encoding="utf-8")


class ArrayWriter:
    """Fills a codec's arrays photo by photo, so that none of them has to fit into memory."""

    def __init__(self, folder: Path, codec: Codec, grids: NDArray[np.uint16]) -> None:
        """Write the grids; open the arrays.

        Args:
            folder: to write into.
            codec: whose arrays.
            grids: ``[n, 2]`` of all photos that will come.
        """
        np.save(folder / GRIDS, grids)
        self._rows = int(codec.counts(grids.astype(np.int64)).sum())
        self._folder = folder
        self._codec = codec
        self._files: list[io.BufferedWriter] = []
        self._open = contextlib.ExitStack()  # closes all, also when one cannot be written out

    def __enter__(self) -> ArrayWriter:
        """Open the files."""
        for name, (dtype, columns) in self._codec.arrays.items():
            file = self._open.enter_context((self._folder / name).open("wb"))
            self._files.append(file)
            shape = (self._rows, columns) if columns else (self._rows,)
            descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        return self

    def add(self, arrays: Arrays) -> None:
        """The rows of the next photo."""
        for file, array in zip(self._files, arrays, strict=True):
            file.write(np.ascontiguousarray(array).tobytes())

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._open.close()


class _EntrySample:
    """Features of entries, evenly taken."""

    def __init__(
        self, entries: Entries, grids: Sequence[tuple[int, int]], network: Network | None
    ) -> None:
        self._entries = entries
        self._count = len(grids)
        self.per_photo = sum(math.prod(grid) for grid in grids) / len(grids)
        self._network = network

    def tokens(self, count: int) -> Tensor:
        each = -(-count // self._count)
        return torch.cat([_spread(entry.tokens.flatten(0, 1), each) for entry in self._entries])

    @torch.inference_mode()
    def local(self, count: int) -> Tensor:
        assert self._network is not None
        each, found, have = -(-count // self._count), [], 0
        for entry in self._entries:
            tokens = entry.tokens[None].float().to(self._network.device)
            found.append(_spread(self._network.densify(tokens)[0].flatten(0, 1).cpu(), each))
            have += len(found[-1])
            if have >= count == 1:  # only the width is asked for
                break
        return torch.cat(found)

    @torch.inference_mode()
    def scored(self, tokens: Tensor) -> Tensor | None:
        network = self._network
        if network is None or network.config.scoring == "count":
            return None
        return network.project(tokens.to(network.device)).cpu()


def _spread(rows: Tensor, count: int) -> Tensor:
    """Up to so many rows ``[n, C]`` float32, evenly taken."""
    if len(rows) <= count:
        return rows.float()
    return rows[torch.arange(count) * len(rows) // count].float()


def link(source: Path, target: Path) -> None:
    """Have a file in two places without its bytes twice, where the file system can.

    Raises:
        OSError: it cannot be read, or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
