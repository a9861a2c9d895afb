"""Both stages over two lists of photos, without an index: what a benchmark is measured with.

Everything slow is kept on disk: features in a ``FeatureCache``, ranked lists in a ``Journal``; the
same call goes on where it was stopped. The search is exact, the matching too unless asked
otherwise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from selavpr.errors import OptionError
from selavpr.featurecache import FeatureCache
from selavpr.journal import Journal
from selavpr.matching import Mode
from selavpr.model import SelaVPR
from selavpr.reranking import order_of, score_tokens

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Retrieval:
    """Ranked lists for each query, with what making them cost.

    Attributes:
        first: rows of the database in the order of the first stage, as many as were asked for;
            empty for a query that cannot be read.
        reranked: the same rows, more matches first; None without re-ranking.
        matches: of each row of ``first``, counted or expected; None without re-ranking.
        problems: a sentence for each photo that could not be read.
        extract_ms: per photo.
        search_ms: per query.
        rerank_ms: per query; None without re-ranking.
        peak_mb: most memory the process has held; None where the system does not say.
        peak_gpu_mb: likewise on the GPU; None without one.
    """

    first: list[list[int]]
    reranked: list[list[int]] | None
    matches: list[list[float]] | None
    problems: list[str]
    extract_ms: float
    search_ms: float
    rerank_ms: float | None
    peak_mb: float | None
    peak_gpu_mb: float | None


def retrieve(
    model: SelaVPR,
    queries: Sequence[Path],
    database: Sequence[Path],
    folder: Path,
    *,
    top_k: int | None = 100,
    excluded: Sequence[Collection[int]] | None = None,
    rerank: bool = True,
    mode: Mode = "exact",
    batch_size: int = 8,
    progress: Progress = lambda stage, done, total: None,
) -> Retrieval:
    """Rank the database for each query.

    Args:
        model: extracts and matches.
        queries: photos to locate.
        database: photos to find.
        folder: for features and ranked lists.
        top_k: candidates to re-rank; None for the whole database.
        excluded: for each query rows of the database that it is never offered, such as itself.
        rerank: run the second stage.
        mode: how to count matches, where the model has them counted; see
            ``matching.count_mutual``.
        batch_size: photos per pass.
        progress: called with the stage, what is done and what there is in all.

    Raises:
        OptionError: an option is out of range, no photo is usable, or the folder is not writable.
        WeightsError: the model gives values that are not finite.
    """
    if top_k is not None and top_k < 1:
        raise OptionError(f"top_k must be 1 or more, not {top_k}.")
    if not queries or not database:
        raise OptionError(f"There are {len(queries)} queries and {len(database)} references.")

    def extracted(what: str, photos: Sequence[Path], scale: float = 1.0) -> FeatureCache:
        return FeatureCache(
            folder / "features",
            photos,
            model,
            batch_size=batch_size,
            scale=scale,
            progress=lambda done, total: progress(what, done, total),
        )

    asked, known = extracted("queries", queries), extracted("database", database)
    start = time.perf_counter()
    first = _search(asked, known, top_k or len(database), excluded or [()] * len(queries))
    search_ms = 1000 * (time.perf_counter() - start) / len(queries)
    matches, rerank_ms = None, None
    looks = [asked]
    if rerank:
        looks += [extracted("queries", queries, scale) for scale in model.config.query_scales]
        matches, rerank_ms = _rerank(model, looks, known, first, folder, mode, progress)
    return Retrieval(
        first=first,
        reranked=None
        if matches is None
        else [[rows[i] for i in order_of(m)] for rows, m in zip(first, matches, strict=True)],
        matches=matches,
        problems=asked.problems + known.problems,
        extract_ms=1000
        * (known.seconds + sum(look.seconds for look in looks))
        / (len(asked) + len(known)),
        search_ms=search_ms,
        rerank_ms=rerank_ms,
        peak_mb=peak_memory_mb(),
        peak_gpu_mb=torch.cuda.max_memory_allocated() / 1e6
        if model.device.type == "cuda"
        else None,
    )


def _search(
    asked: FeatureCache, known: FeatureCache, top_k: int, excluded: Sequence[Collection[int]]
) -> list[list[int]]:
    """The most similar rows of each query, ties by row; unreadable photos are in no list."""
    usable = torch.tensor([i for i in range(len(known)) if known.usable(i)])
    references = known.descriptors[usable]
    most = top_k + max(map(len, excluded))
    found: list[list[int]] = []
    for start in range(0, len(asked), 256):
        similarity = asked.descriptors[start : start + 256] @ references.T
        order = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :most]
        for i, rows in enumerate(usable[order].tolist(), start):
            never = set(excluded[i])
            found.append([row for row in rows if row not in never][:top_k])
    return [rows if asked.usable(i) else [] for i, rows in enumerate(found)]


@torch.inference_mode()
def _rerank(
    model: SelaVPR,
    looks: Sequence[FeatureCache],
    known: FeatureCache,
    first: list[list[int]],
    folder: Path,
    mode: Mode,
    progress: Progress,
) -> tuple[list[list[float]], float]:
    """Matches of every candidate, and milliseconds per query."""
    settings = {
        "model": model.fingerprint(),
        "precision": str(model.precision),
        "device": model.device.type,
        "mode": mode,
        "asking": model.config.asking,
        "lists": first,
        "queries": [str(path) for path in looks[0].photos],
        "database": [str(path) for path in known.photos],
    }
    counts: list[list[float]] = []
    spent = 0.0
    with Journal(folder, "matches", settings) as journal:
        for query, rows in enumerate(first):
            record = journal.done.get(str(query))
            if record is None:
                start = time.perf_counter()
                found: Sequence[float] = []
                if rows:
                    tokens = [look.tokens(query) for look in looks]
                    found = score_tokens(model, tokens, rows, known.grid, known.tokens, mode)
                record = {"matches": found, "ms": 1000 * (time.perf_counter() - start)}
                journal.add(str(query), record)
            counts.append([c if isinstance(c, int) else float(c) for c in record["matches"]])
            spent += float(record["ms"])
            progress("re-ranking", query + 1, len(first))
    return counts, spent / len(first)


def peak_memory_mb() -> float | None:
    """The most memory this process has held, in megabytes; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
