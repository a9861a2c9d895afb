"""What the app serves: the cities on disk, the model they share, the photos to try.

Photos to try lie in a folder with ``examples.csv``: image (a path inside the folder), title, and
latitude and longitude of where it was taken, or nothing there.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selavpr.cards import Example
from selavpr.errors import HubError, IndexFileError, LocationError
from selavpr.geo import Location
from selavpr.index import MANIFEST, PlaceIndex
from selavpr.model import SelaVPR
from selavpr.recognizer import Recognizer
from selavpr.weights import DEFAULT_MODEL

log = logging.getLogger(__name__)

EXAMPLES = "examples.csv"


@dataclass(frozen=True)
class Bundle:
    """What answers.

    Attributes:
        recognizers: by the name of their index.
        note: what a visitor should know first, such as that another model serves; or empty.
    """

    recognizers: dict[str, Recognizer]
    note: str = ""

    def __str__(self) -> str:
        """One line saying model, cities and device."""
        cities = ", ".join(f"{r.index.manifest.title} ({len(r.index):,} photos)" for r in self._all)
        first = self._all[0]
        return f"model {first.index.manifest.model}, index {cities}, device {first.model.device}"

    @property
    def _all(self) -> list[Recognizer]:
        return list(self.recognizers.values())


def find(root: Path) -> list[Path]:
    """The index folders in a folder, by name."""
    return sorted(path.parent for path in root.glob(f"[!.]*/{MANIFEST}"))


def load(
    folders: Sequence[Path],
    *,
    model: str | None = None,
    device: str = "auto",
) -> Bundle:
    """Open the indexes and load one model for all of them.

    Args:
        folders: of the indexes; an index of another model than the first's is left out.
        model: as for ``SelaVPR.from_pretrained``; the bundled one when None. When the Hub does not
            answer and nothing is cached, the bundled model serves and the note says so.
        device: as for ``SelaVPR.from_pretrained``.

    Raises:
        IndexFileError: there is no index, or none that belongs to the model.
        WeightsError: the model cannot be loaded.
    """
    if not folders:
        raise IndexFileError(
            "There is no city to search: prebuilt_index/ holds no index. Build one with "
            "`python -m selavpr index build`, or name one with --index."
        )
    note = ""
    try:
        network = SelaVPR.from_pretrained(model or DEFAULT_MODEL, device=device)
    except HubError as error:
        if model in (None, DEFAULT_MODEL):
            raise
        log.warning("%s", error)
        note = f"{model} could not be fetched, so the bundled model {DEFAULT_MODEL} serves."
        network = SelaVPR.from_pretrained(DEFAULT_MODEL, device=device)
    recognizers: dict[str, Recognizer] = {}
    problems: list[str] = []
    for folder in folders:
        try:
            index = PlaceIndex.open(folder)
            recognizers[index.manifest.name] = Recognizer.load(index, model=network)
        except IndexFileError as error:
            problems.append(str(error))
    if not recognizers:
        raise IndexFileError(" ".join(problems))
    for problem in problems:
        log.warning("%s", problem)
    return Bundle(recognizers, note)


def read_examples(folder: Path) -> list[Example]:
    """The photos a folder offers to try; none without ``examples.csv``.

    Raises:
        IndexFileError: the table is damaged, or names a photo that is missing or lies elsewhere.
    """
    table = folder / EXAMPLES
    if not table.is_file():
        return []
    found = []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if None in row.values():
                    raise ValueError("a row is too short")
                photo = (folder / row["image"]).resolve()
                if not photo.is_relative_to(folder.resolve()) or not photo.is_file():
                    raise IndexFileError(f"{table} names {row['image']!r}, which is not there.")
                place = (row["latitude"], row["longitude"])
                truth = Location(float(place[0]), float(place[1])) if all(place) else None
                found.append(Example(photo, row["title"], truth))
    except (KeyError, TypeError, ValueError, LocationError, csv.Error) as error:
        raise IndexFileError(f"{table} is damaged: {error}.") from error
    return found
