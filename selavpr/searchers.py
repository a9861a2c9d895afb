"""Global search: which faiss index suits how many photos, how it is trained, and how it is read.

Up to ``FLAT_UP_TO`` photos the search is exact. Beyond, descriptors lie in inverted lists, 8 bits a
component: a query reads the few lists nearest to it and nothing else, so an index larger than
memory works, photos can be added and removed, and a file from a stranger can be checked cheaply. A
graph (HNSW) answers faster, by milliseconds that extraction takes hundreds of, but keeps every
descriptor in memory as floats, cannot forget a photo, and would have to be walked whole to be
checked; ``benchmarks/search.py`` measures all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from selavpr.errors import OptionError

Search = Literal["auto", "flat", "ivf"]
SEARCHES: tuple[Search, ...] = ("auto", "flat", "ivf")

FLAT_UP_TO = 50_000
"""Photos up to which ``"auto"`` is exact: some 10 ms a query at width 384 on two cores."""

TARGET_RECALL = 0.99
"""Share of the true nearest ``SAMPLE_TOP`` the inverted lists have to find, on a sample."""

SAMPLE, SAMPLE_TOP = 200, 20
"""Queries of that sample, and how many neighbours of each are counted."""


@dataclass(frozen=True)
class Searcher:
    """A faiss index of unit vectors by inner product, with what is needed to ask it.

    Attributes:
        index: flat, or inverted lists of 8 bits a component.
        probes: lists to read for a query; 0 for a flat index.
    """

    index: Any
    probes: int = 0

    @property
    def width(self) -> int:
        """Components of a descriptor."""
        return int(self.index.d)

    def __len__(self) -> int:
        """Number of descriptors."""
        return int(self.index.ntotal)

    def nearest(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """``count`` similarities and rows for each of ``queries [q, D]``; row -1 where none."""
        if not self.probes:
            return self.index.search(queries, count)  # type: ignore[no-any-return]
        wanted, probes, lists = min(count, len(self)), self.probes, int(self.index.nlist)
        while True:
            options: Any = faiss.SearchParametersIVF()
            options.nprobe = min(probes, lists)
            similarity, rows = self.index.search(queries, count, params=options)
            if probes >= lists or (rows[:, wanted - 1] >= 0).all():
                return similarity, rows
            probes *= 4  # these lists do not hold as many

    def descriptors(self) -> NDArray[np.float32]:
        """All descriptors ``[n, D]``, row by row; those of inverted lists as they were rounded.

        Raises:
            ValueError: inverted lists name rows that do not exist, or leave rows out.
        """
        if not self.probes:
            return self.index.reconstruct_n(0, len(self))  # type: ignore[no-any-return]
        out = np.zeros((len(self), self.width), dtype=np.float32)
        for i, (rows, codes) in enumerate(self.lists()):
            if (rows < 0).any() or (rows >= len(out)).any():
                raise ValueError("its lists name rows that do not exist")
            if len(rows):
                packed = np.concatenate([_list_prefix(self.index, i, len(rows)), codes], axis=1)
                out[rows] = self.index.sa_decode(np.ascontiguousarray(packed))
        if not out.any(axis=1).all():
            raise ValueError("its lists leave out rows")
        return out

    def lists(self) -> list[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Rows and codes of each inverted list."""
        lists = self.index.invlists
        found = []
        for i in range(int(self.index.nlist)):
            size = lists.list_size(i)
            if not size:
                found.append((np.empty(0, np.int64), np.empty((0, lists.code_size), np.uint8)))
                continue
            ids, codes = lists.get_ids(i), lists.get_codes(i)
            rows = faiss.rev_swig_ptr(ids, size).copy()
            found.append(
                (rows, faiss.rev_swig_ptr(codes, size * lists.code_size).reshape(size, -1).copy())
            )
            lists.release_ids(i, ids)
            lists.release_codes(i, codes)
        return found


def make(descriptors: NDArray[np.float32], search: Search) -> tuple[Searcher, dict[str, Any]]:
    """Index descriptors.

    Args:
        descriptors: ``[n, D]`` of unit length.
        search: ``"flat"``, ``"ivf"``, or ``"auto"`` to choose by the number of descriptors.

    Returns:
        The search, and what the manifest says of it: empty for an exact one, else its kind, lists,
        probes, and the share of the true neighbours it finds.

    Raises:
        OptionError: there is no such search.
    """
    if search not in SEARCHES:
        raise OptionError(f"search must be one of {', '.join(SEARCHES)}, not {search!r}.")
    count, width = descriptors.shape
    if search == "flat" or (search == "auto" and count <= FLAT_UP_TO):
        flat: Any = faiss.IndexFlatIP(width)
        flat.add(descriptors)
        return Searcher(flat), {}
    # faiss advises 4 to 16 square roots of lists, and at least 39 vectors to train each.
    lists = max(1, min(round(4 * math.sqrt(count)), count // 39))
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT, True,
    )  # fmt: skip
    index.cp.spherical = True  # means of unit vectors, to be compared by inner product
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = 64
    index.train(descriptors)
    index.add(descriptors)
    return tuned(index, descriptors)


def tuned(index: Any, descriptors: NDArray[np.float32]) -> tuple[Searcher, dict[str, Any]]:
    """Read as many lists as ``TARGET_RECALL`` takes, and say what it costs against exact search."""
    lists, probes = int(index.nlist), 1
    while True:
        searcher = Searcher(index, probes)
        found = recall(searcher, descriptors)
        if found >= TARGET_RECALL or probes >= lists:
            break
        probes = min(2 * probes, lists)
    return searcher, {
        "kind": "ivf",
        "lists": lists,
        "probes": probes,
        "recall": round(found, 4),
        "recall_of": SAMPLE_TOP,
        "sample": min(SAMPLE, len(descriptors)),
    }


def edited(searcher: Searcher, keep: NDArray[np.int64], more: NDArray[np.float32]) -> Searcher:
    """The search with some rows left out and others added; nothing is trained again.

    Args:
        searcher: stays as it is.
        keep: rows to keep, ascending; they are numbered anew from 0.
        more: ``[m, D]`` descriptors that follow them.
    """
    if not searcher.probes:
        flat: Any = faiss.IndexFlatIP(searcher.width)
        flat.add(searcher.descriptors()[keep])
        flat.add(more)
        return Searcher(flat)
    old, width, count = searcher.index, searcher.width, int(searcher.index.nlist)
    centres: Any = faiss.IndexFlatIP(width)
    centres.add(faiss.downcast_index(old.quantizer).reconstruct_n(0, count))
    index: Any = faiss.IndexIVFScalarQuantizer(
        centres, width, count, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, True
    )
    faiss.copy_array_to_vector(faiss.vector_to_array(old.sq.trained), index.sq.trained)
    index.is_trained = True
    numbers = np.full(len(searcher), -1, dtype=np.int64)
    numbers[keep] = np.arange(len(keep))
    for i, (rows, codes) in enumerate(searcher.lists()):
        if (rows < 0).any() or (rows >= len(numbers)).any():
            raise ValueError("its lists name rows that do not exist")
        kept = numbers[rows] >= 0
        ids, left = numbers[rows][kept], np.ascontiguousarray(codes[kept])
        if len(ids):
            index.invlists.add_entries(i, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(left))
    index.ntotal = len(keep)
    if len(more):
        index.add(more)
    return Searcher(index, searcher.probes)


def recall(searcher: Searcher, descriptors: NDArray[np.float32]) -> float:
    """Share of the exact nearest neighbours that a search finds, itself left out.

    Args:
        searcher: holds the descriptors.
        descriptors: ``[n, D]``; a sample of them, evenly taken, is asked for.
    """
    count = len(descriptors)
    rows = np.arange(min(SAMPLE, count)) * count // min(SAMPLE, count)
    top = min(SAMPLE_TOP + 1, count)
    exact, _ = _exact(descriptors, rows, top)
    _, found = searcher.nearest(np.ascontiguousarray(descriptors[rows]), top)
    hits = total = 0
    for row, true, given in zip(rows.tolist(), exact.tolist(), found.tolist(), strict=True):
        wanted = set(true) - {row}
        hits += len(wanted & set(given))
        total += len(wanted)
    return hits / total if total else 1.0  # one alone has no neighbours to miss


def describe(about: dict[str, Any] | None) -> str:
    """The manifest's entry in words."""
    if not about:
        return "exact"
    said = f"inverted lists, {about.get('probes')} of {about.get('lists')} read per query"
    share = about.get("recall")
    if not isinstance(share, (int, float)):  # it comes from a file, perhaps a stranger's
        return said
    return f"{said}; finds {share:.1%} of the true nearest {about.get('recall_of')}"


def _exact(
    descriptors: NDArray[np.float32], rows: NDArray[np.int64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    flat: Any = faiss.IndexFlatIP(descriptors.shape[1])
    best = np.full((len(rows), top), -np.inf, dtype=np.float32)
    where = np.full((len(rows), top), -1, dtype=np.int64)
    queries = np.ascontiguousarray(descriptors[rows])
    for start in range(0, len(descriptors), 65536):  # a second copy of a block only
        flat.reset()
        flat.add(descriptors[start : start + 65536])
        similarity, found = flat.search(queries, min(top, flat.ntotal))
        best = np.concatenate([best, similarity], axis=1)
        where = np.concatenate([where, found + start], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :top]
        best = np.take_along_axis(best, order, axis=1)
        where = np.take_along_axis(where, order, axis=1)
    return where, best


def _list_prefix(index: Any, number: int, count: int) -> NDArray[np.uint8]:
    """The list's number as faiss puts it in front of a code that stands alone."""
    length = int(index.coarse_code_size())
    prefix = np.frombuffer(number.to_bytes(8, "little")[:length], dtype=np.uint8)
    return np.tile(prefix, (count, 1))
