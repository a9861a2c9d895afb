"""What an evaluation says: recall by condition and stage, errors in metres, as table and as JSON.

From ranked lists and truths to an ``Evaluation``. How the lists were made is not its business:
``retrieval`` makes them from two lists of photos, ``cityeval`` from an index.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selavpr import metrics
from selavpr.errors import OptionError
from selavpr.metrics import Score
from selavpr.text import cell

NS = (1, 5, 10, 20)
"""Recall is told among this many answers."""

ALL = "all"
"""The row over all conditions."""

GLOBAL, RERANKED, FUSED = "global only", "re-ranked", "fused position"
"""Names of the stages."""


@dataclass(frozen=True)
class Row:
    """The results of one condition.

    Attributes:
        condition: such as ``"night"``, or ``ALL``.
        queries: how many there are; all of them count.
        answerable: how many have a right answer in the database; the rest count as failures.
        chance: recall@n of a random order, by n.
        recalls: recall@n with its interval, by stage and n.
        errors_m: median and 90th percentile of the position error in metres, by stage.
    """

    condition: str
    queries: int
    answerable: int
    chance: Mapping[int, float]
    recalls: Mapping[str, Mapping[int, Score]]
    errors_m: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        title: what was evaluated.
        protocol: sentences that say what counts as right, and on whose word.
        rows: one for each condition, then one for all where there are several.
        facts: numbers and settings beside the results, such as latency.
    """

    title: str
    protocol: tuple[str, ...]
    rows: tuple[Row, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "title": self.title,
            "protocol": list(self.protocol),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "facts": dict(self.facts),
        }

    def to_markdown(self) -> str:
        """Protocol, results and facts; reads well in a terminal, too."""
        ns = sorted(next(iter(self.rows[0].recalls.values()))) if self.rows else []
        metres = any(row.errors_m for row in self.rows)
        header = ["condition", "queries", "", *(f"R@{n}" for n in ns)]
        header += ["median m", "90 % m"] if metres else []
        lines = [cells for row in self.rows for cells in _cells(row, ns, metres)]
        parts = [f"## {self.title}", "\n".join(f"- {line}" for line in self.protocol)]
        parts.append(table(header, lines))
        nested = {k: v for k, v in self.facts.items() if isinstance(v, Mapping)}
        # Curves are for JSON only.
        flat = {k: v for k, v in self.facts.items() if not isinstance(v, (Mapping, list))}
        parts.append("\n".join(f"- {_words(k)}: {_shown(value)}" for k, value in flat.items()))
        parts += [_table_of(name, value) for name, value in nested.items()]
        return "\n\n".join(part for part in parts if part) + "\n"


def summarise(
    conditions: Sequence[str],
    truths: Sequence[Collection[int]],
    database: int,
    lists: Mapping[str, Sequence[Sequence[int]]],
    errors_m: Mapping[str, Sequence[float]] | None = None,
    ns: Sequence[int] = NS,
) -> tuple[Row, ...]:
    """Results by condition.

    Args:
        conditions: of each query; an empty one is shown as unknown.
        truths: for each query the rows of the database that are right.
        database: number of rows.
        lists: by stage, for each query rows of the database, best first.
        errors_m: by stage, the position error of each query in metres; NaN where unknown.
        ns: how many answers are looked at. What is more than the lists hold is left out, unless
            they hold the whole database.

    Raises:
        OptionError: there are no queries.
    """
    if not conditions:
        raise OptionError("There are no queries to evaluate.")
    longest = max(len(ranked) for stage in lists.values() for ranked in stage)
    ns = [n for n in ns if n <= longest or longest >= database]
    hits = {stage: metrics.first_hits(ranked, truths) for stage, ranked in lists.items()}
    errors = {stage: np.asarray(e, dtype=float) for stage, e in (errors_m or {}).items()}
    names = list(dict.fromkeys(conditions))
    groups = {name: [i for i, c in enumerate(conditions) if c == name] for name in names}
    if len(names) > 1 or names == [""]:
        groups = {**groups, ALL: list(range(len(conditions)))}
    if names == [""]:
        del groups[""]
    rows = []
    for name, members in groups.items():
        known = {stage: e[members][np.isfinite(e[members])] for stage, e in errors.items()}
        quantiles = {stage: metrics.quantiles(e) for stage, e in known.items() if e.size}
        rows.append(
            Row(
                condition=name or "unknown",
                queries=len(members),
                answerable=sum(bool(truths[i]) for i in members),
                chance={n: metrics.chance([truths[i] for i in members], database, n) for n in ns},
                recalls={
                    stage: {n: metrics.recall(h[members], n) for n in ns}
                    for stage, h in hits.items()
                },
                errors_m={stage: (q[0], q[1]) for stage, q in quantiles.items()},
            )
        )
    return tuple(rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up; numbers to the right."""
    # Conditions are a table's own words: a bar or line break in one would part the row.
    cells = [[cell(words) for words in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    numeric = [
        bool(rows) and all(not row[i] or row[i][0].isdigit() or row[i] == "-" for row in cells[1:])
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all.

    Raises:
        OptionError: it cannot be written.
    """
    if not path.name:
        raise OptionError(f"{str(path)!r} is no name for a file.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OptionError(f"Cannot write {path}: {error.strerror or error}.") from error


def _cells(row: Row, ns: Sequence[int], metres: bool) -> list[list[str]]:
    """The lines of one condition: chance, then each stage."""
    count = str(row.queries)
    if row.answerable < row.queries:
        count += f" ({row.answerable} answerable)"
    blank = ["", ""] if metres else []
    lines = [["", "", "chance", *(f"{100 * row.chance[n]:.1f}" for n in ns), *blank]]
    for stage in [*row.recalls, *(s for s in row.errors_m if s not in row.recalls)]:
        recalls = row.recalls.get(stage)
        shown = [str(recalls[n]) if recalls else "" for n in ns]
        if metres:
            shown += [
                "-" if x is None else f"{x:.1f}" for x in row.errors_m.get(stage, (None,) * 2)
            ]
        lines.append(["", "", stage, *shown])
    lines[0][:2] = [row.condition, count]
    return lines


def _table_of(name: str, values: Mapping[str, Any]) -> str:
    """A table for facts about several things: a row each; or one row where they are plain."""
    if not all(isinstance(value, Mapping) for value in values.values()):
        values = {"": values}
    columns = list(dict.fromkeys(key for about in values.values() for key in about))
    rows = [
        [_words(thing), *(_shown(about.get(column)) for column in columns)]
        for thing, about in values.items()
    ]
    return table([_words(name), *map(_words, columns)], rows)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
