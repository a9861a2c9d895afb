"""Files of the global search, checked before faiss sees them: it believes whatever they say."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from selavpr.searchers import Searcher

CHECKED_ROWS = 4096
"""Rows whose length is checked on opening; smaller indexes are checked whole."""

_HEADER = struct.Struct("<4siqqqBi")
"""How every faiss index starts: kind, width, rows, two unused numbers, trained, metric."""


def read(path: Path, probes: int = 0) -> Searcher:
    """Open a search, checking the file first: faiss believes the numbers in it, however large.

    Args:
        path: of the faiss index.
        probes: lists to read per query, as the manifest says.

    Raises:
        ValueError: it is damaged or of another kind.
        OSError: it cannot be read.
        RuntimeError: faiss cannot read it.
    """
    with path.open("rb") as file:
        kind = file.read(4)
    if kind == b"IxFI":
        return _read_flat(path)
    if kind == b"IwSq":
        return _read_lists(path, max(probes, 1))
    raise ValueError("it is neither a flat faiss index of inner products nor inverted lists")


def _read_flat(path: Path) -> Searcher:
    head = struct.Struct(_HEADER.format + "Q")
    with path.open("rb") as file:
        header = file.read(head.size)
    if len(header) < head.size:
        raise ValueError("its header is cut off")
    _, width, rows, _, _, _, metric, floats = head.unpack(header)
    size = path.stat().st_size
    if floats != width * rows or size != head.size + 4 * floats or metric or width < 1:
        raise ValueError("its size does not fit its header")
    # The newer way maps the vectors; before faiss 1.11 they are read.
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)
    index = faiss.read_index(str(path), flags)
    if rows:
        vectors = np.memmap(path, np.float32, "r", head.size, (rows, width))
        _check_lengths(vectors[:: max(1, -(-rows // CHECKED_ROWS))])
    return Searcher(index)


def _read_lists(path: Path, probes: int) -> Searcher:
    """Inverted lists, of exactly the one layout that ``make`` writes."""
    size = path.stat().st_size
    with path.open("rb") as file:

        def take(form: str) -> tuple[Any, ...]:
            layout = struct.Struct("<" + form)
            data = file.read(layout.size)
            if len(data) < layout.size:
                raise ValueError("it is cut off")
            return layout.unpack(data)

        def floats(count: int) -> NDArray[np.float32]:
            if not 0 < 4 * count <= size:
                raise ValueError("its size does not fit its header")
            data = np.frombuffer(file.read(4 * count), dtype=np.float32)
            if len(data) < count or not (np.abs(data) <= 4).all():  # false for NaN
                raise ValueError("it is cut off, or holds numbers that cannot be of unit vectors")
            return data

        _, width, rows, _, _, trained, metric = take(_HEADER.format[1:])
        lists, _ = take("QQ")
        kind, q_width, q_rows, _, _, _, q_metric, count = take(_HEADER.format[1:] + "Q")
        fits = (
            kind == b"IxFI" and trained == 1 and metric == q_metric == 0 and rows >= 0
            and width == q_width and 1 <= width <= size and lists == q_rows
            and 1 <= lists <= size and count == width * lists
        )  # fmt: skip
        if not fits:
            raise ValueError("its parts do not fit together")
        _check_lengths(floats(count).reshape(lists, width))
        direct = take("BQ")
        code = take("iifQQQ")
        if direct != (0, 0) or code[:2] != (0, 0) or code[3:] != (width, width, 2 * width):
            raise ValueError("its code is not of 8 bits a component")
        floats(2 * width)
        if take("QB") != (width, 1) or take("4sQQ") != (b"ilar", lists, width):
            raise ValueError("its lists are not as expected")
        form, count = take("4sQ")
        if count > 2 * lists:
            raise ValueError("its lists are not as expected")
        sizes = np.frombuffer(file.read(8 * count), dtype=np.uint64)
        if form == b"sprs":  # faiss writes number and size where most lists are empty
            numbers, sizes = sizes[0::2], sizes[1::2]
            if len(numbers) != len(sizes) or (numbers >= lists).any():
                raise ValueError("its lists are not as expected")
            if len(np.unique(numbers)) < len(numbers):
                raise ValueError("a list appears twice")
        elif form != b"full" or len(sizes) != lists:
            raise ValueError("its lists are not as expected")
        total = sum(sizes.tolist())
        if total != rows or size - file.tell() != rows * (width + 8):
            raise ValueError("its size does not fit its header")
    # Maps the lists into memory, where the platform can.
    flags = faiss.IO_FLAG_MMAP if hasattr(faiss, "OnDiskInvertedLists") else 0
    return Searcher(faiss.read_index(str(path), flags), min(probes, lists))


def _check_lengths(vectors: NDArray[np.float32]) -> None:
    norms = np.einsum("ij,ij->i", vectors, vectors)
    if not (np.abs(norms - 1) < 0.01).all():  # false for NaN
        raise ValueError("it holds descriptors that are not of unit length")
