"""What the app serves: the cities on disk, the model they share, the photos to try.

Photos to try lie in a folder with ``examples.csv``: image (a path inside the folder), title,
latitude and longitude of where it was taken, or nothing there, and optionally title_zh.
"""

from __future__ import annotations

import csv
import errno
import itertools
import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from selavpr.cards import Example
from selavpr.errors import HubError, IndexFileError, LocationError
from selavpr.geo import Location
from selavpr.index import MANIFEST
from selavpr.model import SelaVPR
from selavpr.published import open_index
from selavpr.recognizer import Recognizer
from selavpr.text import both_plain
from selavpr.weights import DEFAULT_MODEL

log = logging.getLogger(__name__)

EXAMPLES = "examples.csv"

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@dataclass(frozen=True)
class Bundle:
    """What answers.

    Attributes:
        recognizers: by the name of their index, which is numbered where another has it already.
        notes: what a visitor should know first, by language, such as that another model serves.
        bundled: whether the first city is the one the bundled examples are of.
    """

    recognizers: dict[str, Recognizer]
    notes: tuple[dict[str, str], ...] = ()
    bundled: bool = True

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
    root: Path,
    indexes: Sequence[str] = (),
    *,
    model: str | None = None,
    device: str = "auto",
) -> Bundle:
    """Load one model and open every index that belongs to it.

    Where the Hub cannot be reached and nothing is cached, the bundled model and cities serve, and
    the notes say so. Names that are wrong are errors.

    Args:
        root: holds the bundled cities.
        indexes: folders and Hub repositories ``org/name``; all bundled cities where empty.
        model: bundled name, folder or Hub repository; the bundled model when None.
        device: as for ``SelaVPR.from_pretrained``.

    Raises:
        IndexFileError: there is no index, or none that belongs to the model.
        WeightsError: the model cannot be loaded.
        HubError: the Hub was reached, and refuses.
    """
    notes: list[dict[str, str]] = []
    try:
        network = SelaVPR.from_pretrained(model or DEFAULT_MODEL, device="cpu")
    except HubError as error:
        if not unreachable(error):
            raise
        log.warning("%s", error)
        notes.append(both_plain("other_model", asked=model, served=DEFAULT_MODEL))
        network = SelaVPR.from_pretrained(DEFAULT_MODEL, device="cpu")
    recognizers, problems, missing = _join(network, indexes or find(root))
    served_bundled = not indexes
    if not recognizers and indexes and (notes or missing):
        # What was asked for fits the model that could not be had, or could not be had itself.
        recognizers, more, _ = _join(network, find(root))
        problems += more
        served_bundled = True
        if not recognizers and model not in (None, DEFAULT_MODEL):
            log.warning("No bundled city belongs to %s.", model)
            network = SelaVPR.from_pretrained(DEFAULT_MODEL, device="cpu")
            recognizers, more, _ = _join(network, find(root))
            problems += more
    key = "other_city" if served_bundled else "missing_city"
    notes += [both_plain(key, asked=name) for name in missing]
    if not recognizers:
        raise IndexFileError(
            " ".join(problems)
            or "There is no city to search: prebuilt_index/ holds no index. Build one with "
            "`python -m selavpr index build`, or name one with --index."
        )
    for problem in problems:
        log.warning("%s", problem)
    # Last, because where a GPU is lent by the call nothing may be computed on it before.
    network.place(device)
    return Bundle(recognizers, tuple(notes), served_bundled)


def unreachable(error: HubError) -> bool:
    """Whether the Hub did not answer at all, rather than refuse: no network, or it is down."""
    cause: BaseException | None = error
    while isinstance(cause, HubError):
        cause = cause.__cause__
    if cause is None:  # a name that is none, found out before asking
        return False
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status >= 500 or status == 429
        if isinstance(cause, OSError) and cause.errno in _OF_THE_DISK:
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def _join(
    network: SelaVPR, names: Sequence[str | Path]
) -> tuple[dict[str, Recognizer], list[str], list[str | Path]]:
    """The indexes that belong to the network, by name; and of the others what is wrong.

    Third are those that lie on the Hub, which does not answer. Names come from whoever built the
    indexes, so two may be the same; each index is served.
    """
    recognizers: dict[str, Recognizer] = {}
    problems: list[str] = []
    missing: list[str | Path] = []
    for name in dict.fromkeys(names):
        try:
            index = open_index(name)
            recognizer = Recognizer.load(index, model=network)
            recognizers[_free(index.manifest.name, recognizers)] = recognizer
        except HubError as error:
            if not unreachable(error):
                raise
            problems.append(str(error))
            missing.append(name)
        except IndexFileError as error:
            problems.append(str(error))
    return recognizers, problems, missing


def _free(name: str, taken: Container[str]) -> str:
    """The name, numbered if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


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
                chinese = row.get("title_zh") or ""
                found.append(Example(photo, row["title"], truth, chinese))
    except (KeyError, TypeError, ValueError, LocationError, csv.Error) as error:
        raise IndexFileError(f"{table} is damaged: {error}.") from error
    return found
