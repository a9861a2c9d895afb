"""The short examination after every epoch: recall on places that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.errors import OptionError
from selavpr.layouts import find_layout, read_benchmark
from selavpr.metrics import RIGHT_M, first_hits
from selavpr.model import SelaVPR
from selavpr.protocols import within
from selavpr.recipes import Recipe
from selavpr.reranking import count_matches, order_of
from selavpr.tables import read_table

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
        OptionError: there are no queries or no database photos, or no query has a right answer.
        LocationError: the position of a photo is unknown.
    """
    source = Path(recipe.validation)
    if source.exists() and find_layout(source) == "table":
        asked, known = (
            [
                BenchmarkPhoto(row.path, "any", location=row.location)
                for row in read_table(source, of)
            ]
            for of in (recipe.validation_queries, recipe.validation_database)
        )
    else:
        found = read_benchmark(source, split="val" if (source / "val").is_dir() else None)
        asked, known = list(found.queries), list(found.database)
    if not asked or not known:
        raise OptionError(
            f"{source} gives {len(asked)} validation queries and {len(known)} database photos; "
            "both are needed."
        )
    if shared := {photo.path for photo in asked} & {photo.path for photo in known}:
        raise OptionError(
            f"{len(shared)} validation photos are query and database at once and would find "
            "themselves; part them with validation_queries and validation_database."
        )
    right, _ = within(asked, known, RIGHT_M)
    queries = [photo.path for photo, rows in zip(asked, right, strict=True) if rows]
    truths = [rows for rows in right if rows]
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
    table = torch.cat([f.descriptor for f in database])
    first, second = [], []
    for query in model.extract_each(photos.queries):
        order = torch.argsort(-(query.descriptor @ table.T)[0], stable=True)[:RERANKED].tolist()
        counts = count_matches(
            model,
            model.densify(query.tokens)[0].flatten(0, 1),
            order,
            lambda row: (database[row].tokens.shape[1], database[row].tokens.shape[2]),
            lambda row: database[row].tokens[0],
            mode="exact",
        )
        first.append(order)
        second.append([order[i] for i in order_of(counts)])
    return {
        f"{name} R@{n}": float((first_hits(ranked, photos.truths) <= n).mean())
        for name, ranked in (("global", first), ("re-ranked", second))
        for n in _AT
    }
