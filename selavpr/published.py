"""Indexes on the Hugging Face Hub: published whole, opened in part.

Of a published index the manifest, the tables and the global index are fetched at once. Photos come
one by one when they are shown, and of the large arrays of local features only the blocks that hold
a candidate. What was fetched stays in a folder of its own, a folder like any index, so all checks
of an index hold and what is there needs no network::

    HF_HOME/selavpr/indexes/ORG--NAME/COMMIT/
        manifest.json, places.csv, ...     whole, linked from the Hub's cache
        codes.npy                          as large as the original, with holes
        .codes.npy.have                    a byte per block that has been fetched
        .lock                              held while such files are made
"""

from __future__ import annotations

import collections
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selavpr import datacard, hub
from selavpr.errors import HubError, IndexFileError
from selavpr.index import PlaceIndex, verify
from selavpr.indexfiles import (
    CODEC,
    GLOBAL,
    GRIDS,
    MANIFEST,
    PHOTOS,
    PLACES,
    ROWS,
    Manifest,
    checksum,
    holds_index,
    is_inside,
    read_codec,
    read_manifest,
    read_sums,
)
from selavpr.writing import link

BLOCK = 1 << 16
"""Bytes of an array fetched at a time: the tokens of two or three photos."""

WHOLE = 8 << 20
"""Arrays up to this size are fetched at once: cheaper than asking for their parts."""

HUB_FILES = 10_000
"""Files that a folder of a Hub repository may hold."""

AT_ONCE = 8
"""Requests at a time."""

_NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@(.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def open_index(name: str | os.PathLike[str], *, refresh: bool = False) -> PlaceIndex:
    """Open an index by the name of a folder or of a Hub repository.

    Args:
        name: a folder; or ``org/name`` or ``org/name@revision`` of a data-set repository.
        refresh: ask the Hub for a newer version even when one is here.

    Raises:
        IndexFileError: there is no index, or a part of it is missing, damaged or of another
            format.
        HubError: something could not be fetched.
    """
    text = os.fspath(name)
    found = _NAME.fullmatch(text.replace(os.sep, "/"))
    if found is None or os.path.exists(text) or not isinstance(name, (str, Path)):
        return PlaceIndex.open(name)
    repo, revision = found[1], found[2]
    if revision and _COMMIT.fullmatch(revision) and holds_index(_home(repo, revision)):
        commit = revision
    else:
        try:
            path = hub.fetch(repo, MANIFEST, revision, repo_type="dataset", refresh=refresh)
        except HubError as error:
            if not holds_index(Path(text)):
                raise HubError(f"{error} (There is no index folder {text} here either.)") from error
            raise
        commit = hub.commit_of(path) or ""
        if not _COMMIT.fullmatch(commit):
            raise IndexFileError(f"{path} is not where the Hub's cache keeps files; clear it.")
    try:
        mirror = _Mirror(repo, commit)
        return PlaceIndex.open(mirror.folder, supply=mirror)
    except OSError as error:
        raise IndexFileError(
            f"Cannot keep {repo} in {hub.home()}: {error.strerror or error}; free some room, or "
            "set HF_HOME to another folder."
        ) from error


def push(folder: str | os.PathLike[str], repo: str) -> str:
    """Publish an index as a data-set repository, with a card.

    Args:
        folder: of the index.
        repo: ``"org/name"``.

    Returns:
        The address of the commit.

    Raises:
        IndexFileError: the index is not whole.
        HubError: no token, no right to write there, or the Hub cannot be reached.
    """
    folder = Path(folder)
    hub.check_pushable(repo)
    index = PlaceIndex.open(folder)
    if problems := verify(folder):
        raise IndexFileError(f"{folder} is not as it was built and is not published: {problems[0]}")
    names = set(index.manifest.files)
    if PHOTOS in names:
        names |= set(read_sums(folder / PHOTOS))
    folders = collections.Counter(name.rpartition("/")[0] for name in names)
    fullest, count = folders.most_common(1)[0]
    if count > HUB_FILES:
        raise IndexFileError(
            f"{fullest or folder} holds {count:,} files, and the Hub takes {HUB_FILES:,} a folder: "
            "sort the photos into several folders and build the index again."
        )
    # Beside the index, where its files can be linked instead of copied.
    beside = folder.resolve().parent
    with tempfile.TemporaryDirectory(
        prefix=".push-", dir=beside if os.access(beside, os.W_OK) else None
    ) as temporary:
        stage = Path(temporary)
        for name in sorted(names | {MANIFEST}):
            link(folder / name, stage / name)
        (stage / datacard.CARD).write_text(datacard.card(index, repo), encoding="utf-8")
        (stage / datacard.MAP).write_bytes(datacard.map_picture(index.places))
        title = index.manifest.title or index.manifest.name
        return hub.push(
            stage, repo, repo_type="dataset", message=f"Index of {title}", last=MANIFEST
        )


class _Mirror:
    """What has been fetched of a published index; the supply of a ``PlaceIndex``."""

    def __init__(self, repo: str, commit: str) -> None:
        self.repo = repo
        self.commit = commit
        self.folder = _home(repo, commit)
        self._locks: dict[str | tuple[str, int], threading.Lock] = {}
        self._have: dict[str, NDArray[np.uint8]] = {}
        self._fetch(MANIFEST)
        self.manifest: Manifest = read_manifest(self.folder)
        for name in (PLACES, ROWS, GRIDS, CODEC, GLOBAL, PHOTOS):
            if name in self.manifest.files:
                self.need_file(name)
        # The header of each array is needed to map it.
        for name in read_codec(self.folder / CODEC, self.manifest.local).arrays:
            if name in self.manifest.files:
                self._need_begin(name)

    def need(self, parts: Iterable[tuple[str, int, int]]) -> None:
        """Have these bytes of files."""
        wanted = {
            (name, block)
            for name, start, stop in parts
            if name in self._have
            for block in range(start // BLOCK, -(-stop // BLOCK))
            if not self._have[name][block]
        }
        if wanted:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._bring, *zip(*sorted(wanted), strict=True)))

    def need_file(self, name: str) -> None:
        """Have a whole file; one the manifest knows is held against its checksum."""
        if (self.folder / name).exists() or not is_inside(name):
            return
        with self._lock(name):
            self._fetch(name, self.manifest.files.get(name, {}).get("sha256"))

    def _lock(self, what: str | tuple[str, int]) -> threading.Lock:
        """Of a file or a block, so that threads that need the same fetch it once."""
        return self._locks.setdefault(what, threading.Lock())

    def _fetch(self, name: str, sha256: str | None = None) -> None:
        target = self.folder / name
        if target.exists():
            return
        source = hub.fetch(self.repo, name, self.commit, repo_type="dataset")
        if sha256 is not None and checksum(source) != sha256 and hub.discard_damaged(source):
            source = hub.fetch(self.repo, name, self.commit, repo_type="dataset")
        if sha256 is not None and checksum(source) != sha256:
            raise IndexFileError(f"{name} of {self.repo} is not the one its manifest names.")
        partial = _partial(target)
        link(source, partial)
        partial.replace(target)

    def _need_begin(self, name: str) -> None:
        """Have an array's file, as large as it is, with at least its beginning in it."""
        size = int(self.manifest.files[name]["bytes"])
        if size <= WHOLE:
            self.need_file(name)
            return
        if not self._has_begun(name, size):
            # Another process may be opening the same index.
            with hub.alone(self.folder / ".lock"):
                if not self._has_begun(name, size):
                    self._begin(name, size)
        self._have[name] = np.frombuffer(self._marks(name).read_bytes(), dtype=np.uint8).copy()

    def _has_begun(self, name: str, size: int) -> bool:
        marks = self._marks(name)
        return _size(self.folder / name) == size and _size(marks) == -(-size // BLOCK)

    def _begin(self, name: str, size: int) -> None:
        first, total = self._range(name, 0)
        if total != size:
            raise IndexFileError(
                f"{name} of {self.repo} has {total} bytes, not {size} as its manifest says."
            )
        # Marks come first: none must speak of an array that was there before.
        _make(self._marks(name), b"\1", -(-size // BLOCK))
        # One that is as large as it should be may be mapped by others, and is left alone.
        if _size(self.folder / name) != size:
            _make(self.folder / name, first, size)

    def _bring(self, name: str, block: int) -> None:
        with self._lock((name, block)):
            if self._have[name][block]:
                return
            data, _ = self._range(name, block)
            try:
                with (self.folder / name).open("r+b") as file:
                    file.seek(block * BLOCK)
                    file.write(data)
                # Only now: a block that is marked is there.
                with self._marks(name).open("r+b") as file:
                    file.seek(block)
                    file.write(b"\1")
            except OSError as error:
                raise IndexFileError(
                    f"Cannot keep a part of {self.repo} in {self.folder}: "
                    f"{error.strerror or error}."
                ) from error
            self._have[name][block] = 1

    def _range(self, name: str, block: int) -> tuple[bytes, int]:
        start = block * BLOCK
        stop = min(start + BLOCK, int(self.manifest.files[name]["bytes"]))
        data, total = hub.fetch_range(
            self.repo, name, self.commit, start, stop, repo_type="dataset"
        )
        if len(data) != stop - start:
            raise IndexFileError(f"{name} of {self.repo} is shorter than its manifest says.")
        return data, total

    def _marks(self, name: str) -> Path:
        return self.folder / f".{name}.have"


def _make(path: Path, start: bytes, size: int) -> None:
    """Make a file that starts like this, and is zeros beyond, in one step."""
    partial = _partial(path)
    with partial.open("wb") as file:
        file.write(start)
        file.truncate(size)
    partial.replace(path)


def _partial(target: Path) -> Path:
    """A name beside a file that nobody else writes to."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _home(repo: str, commit: str) -> Path:
    return hub.home() / "indexes" / repo.replace("/", "--") / commit
