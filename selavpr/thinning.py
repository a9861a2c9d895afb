"""Leave out photos that show what another one shows: near it, and looking the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence

from selavpr.errors import OptionError
from selavpr.geo import EARTH_RADIUS_M, Location

Spot = tuple[Location, float | None]
"""Where a photo was taken, and its heading in degrees; None where unknown, or for panoramas."""

TURN_DEG = 30.0
"""Photos that differ by more than this in direction share less than half of what they show."""


def apart(spots: Sequence[Spot], distance_m: float, turn_deg: float = TURN_DEG) -> list[int]:
    """Choose spots so that none lies within a distance and a turn of one chosen before it.

    Args:
        spots: in order of preference.
        distance_m: 0 chooses all.
        turn_deg: a spot without heading is near others without heading only.

    Returns:
        The numbers of the chosen ones, ascending.

    Raises:
        OptionError: a limit is negative or not finite.
    """
    if not (0 <= distance_m < math.inf and 0 <= turn_deg < math.inf):
        raise OptionError("Thinning takes a distance in metres and a turn in degrees from 0.")
    if not distance_m:
        return list(range(len(spots)))
    kept: list[int] = []
    cells: dict[tuple[int, int], list[Spot]] = {}
    for i, spot in enumerate(spots):
        # Cells may be wider than the distance; below a millimetre their numbers would overflow.
        near = _cells_near(spot[0], max(distance_m, 1e-3))
        others = (other for cell in near for other in cells.get(cell, ()))
        if not any(_alike(spot, other, distance_m, turn_deg) for other in others):
            kept.append(i)
            cells.setdefault(near[0], []).append(spot)
    return kept


def _alike(a: Spot, b: Spot, distance_m: float, turn_deg: float) -> bool:
    if (a[1] is None) != (b[1] is None):
        return False
    if a[1] is not None and b[1] is not None:
        if abs(math.remainder(a[1] - b[1], 360)) > turn_deg:
            return False
    return a[0].distance_m(b[0]) <= distance_m


def _cells_near(place: Location, side_m: float) -> list[tuple[int, int]]:
    """The cell of a grid that holds a place, first, and those that may hold something near it.

    Rows are as high as the side. The columns of a row are that wide at the end of the row that is
    nearer to a pole, so that nowhere in it they are narrower.
    """
    rows = math.degrees(side_m / EARTH_RADIUS_M)
    row = math.floor(place.latitude / rows)
    found = []
    for r in (row, row - 1, row + 1):
        edge = min(max(abs(r * rows), abs((r + 1) * rows)), 90.0)
        # A row that touches a pole is one cell; elsewhere a whole number of columns goes round.
        count = max(int(360 * math.cos(math.radians(edge)) / rows), 1)
        column = math.floor((place.longitude + 180) / 360 * count)
        found += [(r, (column + step) % count) for step in (0, -1, 1)]
    return found
