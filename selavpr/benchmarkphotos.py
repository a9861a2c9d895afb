"""Photos of place recognition benchmarks, and photo files in folders: what ``layouts`` gives."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selavpr.errors import LocationError
from selavpr.geo import Location

Role = Literal["query", "database", "any"]

PHOTO_ENDINGS = frozenset(
    ".jpg .jpeg .png .webp .heic .heif .avif .tif .tiff .bmp .jp2".split()
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkPhoto:
    """A photo of a benchmark.

    Attributes:
        path: the file; whether it exists is not checked where a table names it.
        role: ``"any"`` where the benchmark does not say.
        metres: (east, north) as the benchmark gives them, for its own distances; None where it
            gives degrees only. Benchmarks without positions count frames here (Nordland).
        location: None where unknown: no zone is given, or the numbers are no coordinates.
        heading: degrees clockwise from north; None where unknown.
        condition: such as ``"night"``; empty where unknown.
        place_id: the same for photos of one place, where the benchmark says so; else empty.
        key: the benchmark's own name of the photo, unique in it.
        captured_at: as written; empty where unknown.
    """

    path: Path
    role: Role
    metres: tuple[float, float] | None = None
    location: Location | None = None
    heading: float | None = None
    condition: str = ""
    place_id: str = ""
    key: str = ""
    captured_at: str = ""

    def distance_m(self, other: BenchmarkPhoto) -> float:
        """Metres to another photo, on the benchmark's own plane where both are on it.

        Raises:
            LocationError: the position of one of the two is unknown.
        """
        if self.metres is not None and other.metres is not None:
            return math.dist(self.metres, other.metres)
        if self.location is not None and other.location is not None:
            return self.location.distance_m(other.location)
        raise LocationError(f"The positions of {self.path} and {other.path} are not both known.")


def photo_files(
    folder: Path, is_other: Callable[[Path], bool] = lambda path: False
) -> Iterator[Path]:
    """Every photo below a folder by its ending, without hidden ones, in the same order anywhere.

    Args:
        folder: where to look.
        is_other: says of a folder below it that its photos do not count.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not is_other(Path(here, name))
        )
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_ENDINGS:
                yield Path(here, name)
