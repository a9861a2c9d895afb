"""The short examination after every epoch: recall on places that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from selavpr.errors import OptionError
from selavpr.layouts import find_layout, read_benchmark
from selavpr.matching import count_mutual
from selavpr.metrics import first_hits
from selavpr.model import SelaVPR
from selavpr.recipes import Recipe
from selavpr.structs import Features
from selavpr.tables import read_table

RIGHT_M = 25.0
"""An answer this near counts as right (paper, section 4.1)."""
RERANKED = 20
"""Candidates that are re-ranked: enough to see an epoch's effect, cheap enough for every epoch."""
_AT = (1, 5, 10)


@dataclass(frozen=True)
class ValidationSet:
    """Queries, the database, and for each query the rows of the database that are right."""

    queries: tuple[Path, ...]
    database: tuple[Path, ...]
    truths: tuple[frozenset[int], ...]


def read_validation(recipe: Recipe) -> ValidationSet:
    """The validation photos a recipe names; queries without a right answer are left out.

    Raises:
        OptionError: there are no queries or no database photos.
    """
    source = Path(recipe.validation)
    if source.exists() and find_layout(source) == "table":
        asked = read_table(source, recipe.validation_queries)
        known = read_table(source, recipe.validation_database)
    else:
        found = read_benchmark(source, split="val" if (source / "val").is_dir() else None)
        asked, known = found.queries, found.database  # type: ignore[assignment]
    places = [photo.location for photo in known]
    queries, truths = [], []
    for photo in asked:
        right = frozenset(
            i
            for i, place in enumerate(places)
            if place and photo.location and photo.location.distance_m(place) <= RIGHT_M
        )
        if right:
            queries.append(photo.path)
            truths.append(right)
    if not queries:
        raise OptionError(
            f"No validation query in {source} has a database photo within {RIGHT_M:g} m."
        )
    chosen = np.random.default_rng(recipe.seed).permutation(len(queries))
    chosen = np.sort(chosen[: recipe.validation_limit])
    return ValidationSet(
        tuple(queries[i] for i in chosen),
        tuple(photo.path for photo in known),
        tuple(truths[i] for i in chosen),
    )


@torch.inference_mode()
def validate(model: SelaVPR, photos: ValidationSet) -> Mapping[str, float]:
    """Recall before and after re-ranking.

    Returns:
        ``"global R@1"``, ``"re-ranked R@1"``, ... from 0 to 1.

    Raises:
        PhotoError: a photo cannot be read.
    """
    database = model.extract_each(photos.database)
    queries = model.extract_each(photos.queries)
    table = torch.cat([f.descriptor for f in database])
    order = [
        torch.argsort(-(q.descriptor @ table.T)[0], stable=True)[:RERANKED].tolist()
        for q in queries
    ]
    return {
        f"{name} R@{n}": float((hits <= n).mean())
        for name, ranked in (
            ("global", order),
            (
                "re-ranked",
                [_rerank(model, q, database, o) for q, o in zip(queries, order, strict=True)],
            ),
        )
        for hits in [first_hits(ranked, photos.truths)]
        for n in _AT
    }


def _rerank(
    model: SelaVPR, query: Features, database: Sequence[Features], rows: list[int]
) -> list[int]:
    local = model.densify(query.tokens).flatten(1, 2)[0]
    counts = [
        int(count_mutual(local, model.densify(database[i].tokens).flatten(1, 2))[0]) for i in rows
    ]
    # More matches first; ties stay in the global order.
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: -counts[i])]
