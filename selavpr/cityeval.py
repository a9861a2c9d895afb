"""An index put to the test: photos whose place is known, and photos from elsewhere.

The photos come as a table with the columns image, latitude, longitude and, where there are such,
condition, role (``query``, or ``outside`` for photos from elsewhere; other rows are passed over)
and split. What the recogniser answers is kept in a journal, so that a stopped run goes on, and so
that another calibration can be judged without recognising anything again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selavpr import metrics
from selavpr.benchmarkphotos import photo_files
from selavpr.calibration import Sample, quality
from selavpr.confidence import VERDICTS, Evidence, Verdict, verdict
from selavpr.errors import LocationError, OptionError, SelaVPRError
from selavpr.evaluation import FUSED, GLOBAL, RERANKED, Evaluation, summarise
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from selavpr.journal import Journal
from selavpr.judgement import Calibration
from selavpr.recognizer import Recognizer
from selavpr.structs import Recognition
from selavpr.tables import find_table, read_table

QUERY, OUTSIDE = "query", "outside"

ANSWERS = 6
"""Raise it when positions or evidence come out otherwise: what older journals say is then asked
again."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Query:
    """A photo to put the index to the test with.

    Attributes:
        path: the photo.
        location: where it was taken; None for a photo from elsewhere.
        condition: such as ``"night"``; empty where unknown.
    """

    path: Path
    location: Location | None
    condition: str = ""


@dataclass(frozen=True)
class Answer:
    """What the recogniser said of a query.

    Attributes:
        query: the photo.
        rows: of the candidates, in their global order.
        ranked: the same as the second stage has them.
        depth: how many candidates the first stage handed on.
        reranked: how many were re-ranked; some of those beside the best may be in no row.
        location: the fused position.
        evidence: for the answer.
        milliseconds: by stage.
    """

    query: Query
    rows: list[int]
    ranked: list[int]
    depth: int
    reranked: int
    location: Location
    evidence: Evidence
    milliseconds: dict[str, float]

    @property
    def error_m(self) -> float | None:
        """From the answer to the truth; None for a photo from elsewhere."""
        truth = self.query.location
        return None if truth is None else truth.distance_m(self.location)


def read_queries(
    source: Path, *, split: str | None = None, outside: Path | None = None
) -> list[Query]:
    """The photos of a table, those of the city first.

    Args:
        source: the table, or the folder that holds it.
        split: take only rows whose column ``split`` says this.
        outside: a folder of photos from elsewhere to add.

    Raises:
        OptionError: no table, no such split, or no row that is a query.
        LocationError: a query's coordinates are no place on Earth.
        PhotoError: a row names a photo outside the table's folder.
    """
    table = find_table(source)
    rows = read_table(table, None if split is None else {"split": split}, need_location=False)
    roles = [row.texts.get("role", "").lower() for row in rows]
    told = any("role" in row.texts for row in rows)  # else all are queries
    asked = [row for row, role in zip(rows, roles, strict=True) if not told or role == QUERY]
    others = [row for row, role in zip(rows, roles, strict=True) if told and role == OUTSIDE]
    if not asked:
        wanted = f" of the split {split!r}" if split is not None else ""
        raise OptionError(f"{table} has no queries{wanted}.")
    if lost := [row.where for row in asked if row.location is None]:
        raise LocationError(
            f"{lost[0]} has no position; photos from elsewhere have the role {OUTSIDE}."
        )
    found = [Query(row.path, row.location, row.texts.get("condition", "")) for row in asked]
    found += [Query(row.path, None, row.texts.get("condition", "")) for row in others]
    if outside is not None:
        if not outside.is_dir():
            raise OptionError(f"There is no folder {outside}.")
        found += [Query(path, None) for path in photo_files(outside)]
    return found


def ask(
    recognizer: Recognizer,
    queries: Sequence[Query],
    journals: Path,
    *,
    top_k: int = 20,
    progress: Progress = lambda done, total: None,
) -> tuple[list[Answer], list[str]]:
    """Recognise the queries that no earlier run has.

    Args:
        recognizer: of the index.
        queries: in any order.
        journals: folder for what is done.
        top_k: candidates to re-rank.
        progress: called with queries done and queries in all.

    Returns:
        An answer for each query that could be read, and a sentence for each that could not.

    Raises:
        OptionError: an option is out of range, or the journal cannot be written.
    """
    settings = {
        "answers": ANSWERS,
        "index": recognizer.index.manifest.files,
        "model": recognizer.model.fingerprint(),
        "precision": str(recognizer.model.precision),
        "device": recognizer.model.device.type,
        "asking": recognizer.model.config.asking,
        "top_k": top_k,
    }
    answers: list[Answer] = []
    problems: list[str] = []
    with Journal(journals, "answers", settings) as journal:
        missing = [q for q in queries if _key(q) not in journal.done]
        done = len(queries) - len(missing)
        progress(done, len(queries))
        found = recognizer.recognize_many(
            [q.path for q in missing], top_k=top_k, rerank_depth=top_k
        )
        for query, recognition in zip(missing, found, strict=True):
            if isinstance(recognition, SelaVPRError):
                problems.append(f"{query.path}: {recognition}")
            else:
                journal.add(_key(query), _record(recognizer, recognition))
            done += 1
            progress(done, len(queries))
        for query in queries:
            if record := journal.done.get(_key(query)):
                answers.append(_answer(query, record))
    return answers, problems


def samples(answers: Sequence[Answer]) -> list[Sample]:
    """The answers as calibration takes them."""
    return [Sample(a.evidence, a.error_m) for a in answers]


def evaluate(
    index: PlaceIndex,
    answers: Sequence[Answer],
    *,
    distance_m: float = metrics.RIGHT_M,
    calibration: Calibration | None = None,
) -> Evaluation:
    """Recall, errors and verdict quality of answers.

    Args:
        index: that gave them.
        answers: to queries of the city and from elsewhere.
        distance_m: candidates this close to the truth are right.
        calibration: to judge the answers by; the uncalibrated rule when None.

    Raises:
        OptionError: there is no answer to a query of the city.
    """
    known = [(a, a.query.location) for a in answers if a.query.location is not None]
    if not known:
        raise OptionError("None of the photos of the city could be read.")
    metres = metrics.great_circle_m(
        [(truth.latitude, truth.longitude) for _, truth in known],
        [(p.location.latitude, p.location.longitude) for p in index.places],
    )
    truths = [set(np.flatnonzero(row <= distance_m).tolist()) for row in metres]
    first = [float(m[a.rows[0]]) for m, (a, _) in zip(metres, known, strict=True)]
    best = [float(m[a.ranked[0]]) for m, (a, _) in zip(metres, known, strict=True)]
    fused = [truth.distance_m(a.location) for a, truth in known]
    rows = summarise(
        [a.query.condition for a, _ in known],
        truths,
        len(index),
        {
            GLOBAL: [a.rows[: a.depth] for a, _ in known],
            RERANKED: [a.ranked[: a.depth] for a, _ in known],
        },
        {GLOBAL: first, RERANKED: best, FUSED: fused},
    )
    total = [sum(a.milliseconds.values()) for a in answers]
    facts: dict[str, Any] = {
        "references": len(index),
        # As many as were asked for, and those beside the best (see ``locating.beside``).
        "candidates re-ranked (mean)": float(np.mean([a.reranked for a in answers])),
        "fused position within the distance": float(np.mean(np.array(fused) <= distance_m)),
        "milliseconds per photo (median)": float(np.median(total)),
    }
    facts |= _verdicts(answers, calibration)
    protocol = (
        f"A candidate is right within {distance_m:g} m of where the photo was taken, whichever way "
        "it looks; errors are from the position given to that place.",
        "Recall with 95 % bootstrap intervals over the photos; chance is a random order.",
    )
    return Evaluation(index.manifest.title, protocol, rows, facts)


def _verdicts(answers: Sequence[Answer], calibration: Calibration | None) -> dict[str, Any]:
    errors = np.array([np.inf if a.error_m is None else a.error_m for a in answers])
    words: list[Verdict]
    if calibration is None:
        words = [verdict(a.evidence) for a in answers]
        unknown = np.full(len(answers), 0.5)
        said = quality(unknown, unknown, errors, words, [(0.0, 0.0)] * len(answers))
        said = {"verdicts": said["verdicts"]}
    else:
        judged = [calibration.judge(a.evidence) for a in answers]
        words = [j.verdict for j in judged]
        said = quality(
            np.array([j.confidence for j in judged]),
            np.array([j.right for j in judged]),
            errors,
            words,
            [(j.radius50_m, j.radius90_m) for j in judged],
        )
    names = [a.query.condition if a.query.location else "elsewhere" for a in answers]
    counts = {
        name or "unknown": {
            word: sum(w == word for n, w in zip(names, words, strict=True) if n == name)
            for word in VERDICTS
        }
        for name in dict.fromkeys(names)
    }
    return {"calibrated": calibration is not None, **said, "verdicts by condition": counts}


def _record(recognizer: Recognizer, found: Recognition) -> dict[str, Any]:
    place = found.location.location
    return {
        "rows": [c.row for c in sorted(found.either, key=lambda c: c.global_rank)],
        "ranked": [c.row for c in sorted(found.either, key=lambda c: c.rank)],
        "depth": found.settled,
        "reranked": found.reranked,
        "location": [place.latitude, place.longitude],
        "evidence": dataclasses.asdict(recognizer.evidence(found)),
        "milliseconds": {stage: round(ms, 1) for stage, ms in found.timings_ms.items()},
    }


def _answer(query: Query, record: dict[str, Any]) -> Answer:
    try:
        return Answer(
            query,
            [int(row) for row in record["rows"]],
            [int(row) for row in record["ranked"]],
            int(record["depth"]),
            int(record["reranked"]),
            Location(*record["location"]),
            Evidence(**record["evidence"]),
            dict(record["milliseconds"]),
        )
    except (KeyError, TypeError, ValueError, LocationError) as error:
        raise OptionError(
            f"The journal's record of {query.path} is damaged ({error}); delete the journal."
        ) from error


def _key(query: Query) -> str:
    """Names a photo and the state of its file: a changed photo is recognised again."""
    try:
        about = os.stat(query.path)
        return f"{query.path} {about.st_size} {about.st_mtime_ns}"
    except OSError:
        return str(query.path)
