"""What counts as right in which benchmark, each fact with where it comes from.

A protocol says how a folder is read, which photos are queries, and within what distance a
reference is right. The counts are those of the benchmark as published: a folder with others is
measured all the same, and the report says that it is not the whole benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from selavpr import msls
from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.errors import LocationError, OptionError
from selavpr.layouts import Layout, find_layout, read_benchmark
from selavpr.metrics import great_circle_m

GMBERTON = "gmberton/VPR-datasets-downloader"


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is measured.

    Attributes:
        name: as the command line has it.
        layout: how its folder is read; found out when None.
        distance_m: references this close are right.
        facts: sentences for the report, with sources.
        split: of a folder that has several.
        cities: take only these.
        counts: queries and references of the published benchmark; None where there is none.
        subtask: take only what MSLS's own subtask_index.csv lists as "all".
    """

    name: str
    layout: Layout | None
    distance_m: float
    facts: tuple[str, ...]
    split: str | None = None
    cities: tuple[str, ...] = ()
    counts: tuple[int, int] | None = None
    subtask: bool = False


_UTM = f"Photos named @utm_east@utm_north@..., as {GMBERTON} formats them."
_25 = "A reference within 25 m of the query is right, whichever way it looks."

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "msls-val-740", "msls", 25.0,
            ("MSLS validation as its authors have it (mapillary/mapillary_sls): Copenhagen and "
             "San Francisco together, photos listed as 'all' in subtask_index.csv, no panoramas, "
             "queries with a reference within 25 m: 740 queries, 18,871 references.",
             "The reference implementation reports these (Lu-Feng/SelaVPR, README and issue 1): "
             "90.8 R@1, against 86.6 on the 11,000 queries of the other formatting.", _25),
            cities=("cph", "sf"), counts=(740, 18871), subtask=True,
        ),
        Protocol(
            "msls-val-11k", "utm", 25.0,
            (f"MSLS validation as {GMBERTON} formats it: every query, about 11,000; figures are "
             "some 4 points below those of the official 740.", _25),
            split="val",
        ),
        Protocol("pitts30k", "utm", 25.0, ("Pitts30k, test split. " + _UTM, _25),
                 split="test", counts=(6816, 10000)),
        Protocol("pitts250k", "utm", 25.0, ("Pitts250k, test split. " + _UTM, _25),
                 split="test", counts=(8280, 83952)),
        Protocol("tokyo247", "utm", 25.0, ("Tokyo 24/7, test split. " + _UTM, _25),
                 split="test", counts=(315, 75984)),
        Protocol("st-lucia", "utm", 25.0, ("St Lucia, test split. " + _UTM, _25),
                 split="test", counts=(1464, 1549)),
        Protocol(
            "nordland", "utm", 25.0,
            (f"Nordland as {GMBERTON} formats it: Patch-NetVLAD's photos, frames put 2.4 m apart "
             "on a line, so that 25 m are ten frames: a reference within 10 frames is right.",
             "The reference implementation's Nordland-test is another one (Olid et al. 2018, three "
             "sections of 1,150 frames); for that, use --distance with frames as positions."),
            split="test", counts=(27592, 27592),
        ),
        Protocol("utm", "utm", 25.0, (_UTM, _25)),
        Protocol("msls", "msls", 25.0, ("Folders of MSLS, all cities there are.", _25)),
        Protocol("gsv-cities", "gsv-cities", 25.0,
                 ("GSV-Cities: every photo is query and reference; it has no official test.", _25)),
        Protocol("table", "table", 25.0,
                 ("A table with a column role: query, database, or any for both.", _25)),
    )
}  # fmt: skip
"""By name."""


@dataclass(frozen=True)
class Task:
    """Queries, references and truth.

    Attributes:
        queries: photos to locate.
        database: photos to find.
        truths: for each query the numbers of the references that are right.
        excluded: for each query the reference that is the same photo, if there is one.
        measured: whether all positions are known; else places are told apart by name only.
        notes: sentences for the report.
    """

    queries: tuple[BenchmarkPhoto, ...]
    database: tuple[BenchmarkPhoto, ...]
    truths: tuple[frozenset[int], ...]
    excluded: tuple[frozenset[int], ...]
    measured: bool
    notes: tuple[str, ...]


def choose(folder: Path, name: str | None) -> Protocol:
    """The protocol of this name, or the plain one of the folder's layout.

    Raises:
        OptionError: there is no such protocol, or none for the layout.
    """
    if name is None:
        name = find_layout(folder)
    if name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise OptionError(f"There is no protocol {name!r} for {folder}; there are {known}.")
    return PROTOCOLS[name]


def prepare(
    folder: Path,
    protocol: Protocol,
    *,
    distance_m: float | None = None,
    keys: Path | None = None,
) -> Task:
    """Read a benchmark and settle what is right.

    Args:
        folder: of the benchmark, or a table.
        protocol: see ``PROTOCOLS``.
        distance_m: instead of the protocol's.
        keys: a text file of names; only these queries are taken.

    Raises:
        OptionError: the folder does not hold what the protocol needs.
        LocationError: a name or row carries no valid position.
        PhotoError: a table names a photo outside its folder.
    """
    metres = protocol.distance_m if distance_m is None else distance_m
    if not 0 < metres < 1e6:
        raise OptionError(f"The distance must be more than 0 m, not {metres:g}.")
    found = read_benchmark(folder, protocol.layout, split=protocol.split, cities=protocol.cities)
    queries = list(found.queries + found.unassigned)
    database = list(found.database + found.unassigned)
    notes = [f"Right within {metres:g} m."] if metres != protocol.distance_m else []
    if protocol.subtask:
        queries, database = msls.listed(queries), msls.listed(database)
    if keys is not None:
        wanted = _names(keys)
        asked = len(queries)
        queries = [q for q in queries if not wanted.isdisjoint((q.key, q.path.stem, q.path.name))]
        if not queries:
            raise OptionError(f"{keys} names none of the {asked} queries in {folder}.")
        notes.append(f"Only the {len(queries)} queries that {keys.name} names.")
    if not queries or not database:
        raise OptionError(
            f"{folder} gives {len(queries)} queries and {len(database)} references (read as "
            f"{found.layout}); both are needed."
        )
    rows = {photo.path: row for row, photo in enumerate(database)}
    itself = [frozenset([rows[q.path]] if q.path in rows else []) for q in queries]
    close, measured = within(queries, database, metres)
    truths = [right - same for right, same in zip(close, itself, strict=True)]
    if protocol.subtask:
        # MSLS leaves out queries that nothing could answer.
        kept = [i for i, truth in enumerate(truths) if truth]
        queries, truths = [queries[i] for i in kept], [truths[i] for i in kept]
        itself = [itself[i] for i in kept]
    if not measured:
        notes.append("A reference of the same place is right; positions are not known.")
    if found.unassigned:
        notes.append("Photos of the role any are queries and references; none is its own answer.")
    counts = (len(queries), len(database))
    notes.append(f"{counts[0]:,} queries, {counts[1]:,} references.")
    if protocol.counts and counts != protocol.counts:
        notes.append(
            f"This is not the whole benchmark, which has {protocol.counts[0]:,} queries and "
            f"{protocol.counts[1]:,} references: do not compare with published figures."
        )
    unanswerable = sum(not truth for truth in truths)
    if unanswerable:
        notes.append(f"{unanswerable:,} queries have no right reference and count as failures.")
    return Task(
        tuple(queries), tuple(database), tuple(truths), tuple(itself), measured, tuple(notes)
    )


def within(
    queries: Sequence[BenchmarkPhoto], database: Sequence[BenchmarkPhoto], metres: float
) -> tuple[list[frozenset[int]], bool]:
    """For each query the references that are right, and whether all positions are known.

    Right is within the distance, on the benchmark's own plane where all are on it; where some
    positions are unknown, right is of the same place.

    Raises:
        LocationError: some photos have neither a position nor a place.
    """
    photos = (*queries, *database)
    if all(p.metres is not None for p in photos):
        asked, known = (
            np.array([p.metres for p in group], dtype=float).reshape(-1, 2)
            for group in (queries, database)
        )
        rows = (np.hypot(*(known - point).T) for point in asked)
    elif all(p.location is not None for p in photos):
        asked, known = (np.reshape(_degrees(group), (-1, 2)) for group in (queries, database))
        rows = (great_circle_m(point[None], known)[0] for point in asked)
    else:
        names = np.array([p.place_id for p in database])
        if not all(p.place_id for p in photos):
            raise LocationError("Some photos have neither a position nor a place to be told by.")
        return [frozenset(np.flatnonzero(names == q.place_id).tolist()) for q in queries], False
    # A row at a time: the distances of a large benchmark would take gigabytes.
    return [frozenset(np.flatnonzero(row <= metres).tolist()) for row in rows], True


def _degrees(photos: Sequence[BenchmarkPhoto]) -> list[tuple[float, float]]:
    return [(p.location.latitude, p.location.longitude) for p in photos if p.location is not None]


def _names(path: Path) -> set[str]:
    """What the words of a text file may call photos: keys, file names, or paths to them."""
    try:
        words = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read: {error}.") from error
    names = set(words)
    for word in words:
        name = PurePosixPath(word.replace("\\", "/"))
        fields = name.stem.split("@")  # the key is the seventh, as layouts read it, or put last
        names |= {name.name, name.stem, *fields[7:8], fields[-1]}
    return names - {""}
