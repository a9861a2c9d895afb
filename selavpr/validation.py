"""The short examination after every epoch: recall on places that are not trained on.

Tokens wait on disk, in the folder for temporary files: those of a large database fit no memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.errors import OptionError, PhotoError
from selavpr.featurecache import FeatureCache
from selavpr.layouts import find_layout, has_split, read_benchmark
from selavpr.metrics import RIGHT_M, first_hits
from selavpr.model import SelaVPR
from selavpr.protocols import within
from selavpr.recipes import Recipe
from selavpr.reranking import order_of, score_tokens
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
    parted = recipe.validation_queries or recipe.validation_database
    if parted and source.exists() and find_layout(source) == "table":
        asked, known = (
            [
                BenchmarkPhoto(row.path, "any", location=row.location)
                for row in read_table(source, of)
            ]
            for of in (recipe.validation_queries, recipe.validation_database)
        )
    else:
        found = read_benchmark(source, split="val" if has_split(source, "val") else None)
        asked, known = list(found.queries), list(found.database)
    if not asked or not known:
        raise OptionError(
            f"{source} gives {len(asked)} validation queries and {len(known)} database photos; "
            "both are needed. In a table the column role says which is which (query, reference), "
            "or the recipe does with validation_queries and validation_database."
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
        OptionError: there is no room for temporary files.
        WeightsError: the model gives values that are not finite.
    """
    first, second = [], []
    # A folder of its own: the model is another one after every epoch.
    with tempfile.TemporaryDirectory(prefix="selavpr-", ignore_cleanup_errors=True) as folder:
        asked, known = (
            FeatureCache(Path(folder), paths, model) for paths in (photos.queries, photos.database)
        )
        if problems := asked.problems + known.problems:
            raise PhotoError(problems[0])
        for query in range(len(asked)):
            similarity = known.descriptors @ asked.descriptors[query]
            order = torch.argsort(-similarity, stable=True)[:RERANKED].tolist()
            scores = score_tokens(
                model, [asked.tokens(query)], order, known.grid, known.tokens, mode="exact"
            )
            first.append(order)
            second.append([order[i] for i in order_of(scores)])
    return {
        f"{name} R@{n}": float((first_hits(ranked, photos.truths) <= n).mean())
        for name, ranked in (("global", first), ("re-ranked", second))
        for n in _AT
    }
