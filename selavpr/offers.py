"""Photos that street imagery services offer, and the areas one asks them for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selavpr.errors import LocationError, OptionError
from selavpr.geo import Location
from selavpr.structs import is_number

SMALLEST_DEG = 1e-5
"""An area of about a metre is not divided further, however many photos it holds."""

MAX_TEXT = 200
"""Characters kept of what a service says, such as an author's name."""


@dataclass(frozen=True)
class Offer:
    """A photo that can be downloaded.

    Attributes:
        service: ``"panoramax"`` or ``"mapillary"``.
        photo_id: the service's own; names the file once it is made safe.
        url: where the photo is.
        location: where the camera stood.
        heading: of the picture's middle, degrees clockwise from north; None where unknown.
        panorama: whether it is a full turn of 360 degrees, equirectangular.
        captured_at: ISO 8601; empty where unknown.
        credit: whom to name.
        licence: identifier of the licence.
        page: where people can see the photo at its source.
    """

    service: str
    photo_id: str
    url: str
    location: Location
    heading: float | None = None
    panorama: bool = False
    captured_at: str = ""
    credit: str = ""
    licence: str = ""
    page: str = ""


@dataclass(frozen=True)
class Area:
    """A rectangle of degrees.

    Raises:
        LocationError: it is empty, inside out or not on the globe.
    """

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        """Check once what every request relies on."""
        Location(self.south, self.west)
        Location(self.north, self.east)
        if not (self.west < self.east and self.south < self.north):
            raise LocationError(
                "An area is lon1,lat1,lon2,lat2 in degrees, two corners that differ in both; "
                f"{self} is none."
            )

    @classmethod
    def parse(cls, text: str) -> Area:
        """Read ``"lon1,lat1,lon2,lat2"``, two opposite corners in any order.

        Raises:
            OptionError: these are not four numbers.
            LocationError: they are no area, or latitude and longitude look swapped.
        """
        try:
            lon1, lat1, lon2, lat2 = (float(part) for part in text.split(","))
        except ValueError as error:
            raise OptionError(
                f"An area is four numbers, lon1,lat1,lon2,lat2 in degrees, not {text!r}."
            ) from error
        if not all(map(math.isfinite, (lon1, lat1, lon2, lat2))):
            raise LocationError("The corners of an area must be finite numbers.")
        if abs(lon1 - lon2) > 180 and max(abs(lon1), abs(lon2)) <= 180:
            raise LocationError(
                f"{text} is an area around more than half the globe. Across the 180th meridian, "
                "take two areas."
            )
        return cls(min(lon1, lon2), min(lat1, lat2), max(lon1, lon2), max(lat1, lat2))

    def __str__(self) -> str:
        """As services take it: west, south, east, north."""
        return ",".join(f"{value:.7f}" for value in (self.west, self.south, self.east, self.north))

    def __contains__(self, place: Location) -> bool:
        """Whether a place lies inside, the border included."""
        return (
            self.west <= place.longitude <= self.east and self.south <= place.latitude <= self.north
        )

    def quarters(self) -> list[Area]:
        """Four areas that cover it; two where one side is too short to be cut."""
        sides = self.east - self.west, self.north - self.south
        columns, rows = (2 if side > SMALLEST_DEG else 1 for side in sides)
        return self._cut(columns, rows)

    def tiles(self, side_deg: float) -> list[Area]:
        """Areas of at most so many degrees a side that cover it, in rows from the south-west."""
        columns = math.ceil((self.east - self.west) / side_deg)
        rows = math.ceil((self.north - self.south) / side_deg)
        return self._cut(columns, rows)

    def _cut(self, columns: int, rows: int) -> list[Area]:
        def steps(low: float, high: float, count: int) -> list[float]:
            return [low + (high - low) * i / count for i in range(count)] + [high]

        x, y = steps(self.west, self.east, columns), steps(self.south, self.north, rows)
        return [Area(x[i], y[j], x[i + 1], y[j + 1]) for j in range(rows) for i in range(columns)]


def search(
    areas: Sequence[Area], ask: Callable[[Area], tuple[list[Offer], bool]]
) -> Iterator[list[Offer]]:
    """Ask for area after area, dividing those that hold more than one answer can carry.

    Services differ in whether they page, and some page only for part of their answers. Dividing
    works with all of them.

    Args:
        areas: to search.
        ask: gives the photos of an area, and whether there are more than it gave.

    Yields:
        The photos that no area before had, one list per answer.
    """
    waiting = list(reversed(areas))
    seen: set[str] = set()
    while waiting:
        area = waiting.pop()
        offers, more = ask(area)
        if more and max(area.east - area.west, area.north - area.south) > SMALLEST_DEG:
            waiting += reversed(area.quarters())
        new = [offer for offer in offers if offer.photo_id not in seen]
        seen.update(offer.photo_id for offer in new)
        yield new


def read_place(geometry: Any) -> Location | None:
    """The place of a GeoJSON point; None where it is none. Nothing about it is believed."""
    try:
        longitude, latitude = geometry["coordinates"][:2]
        return Location(latitude, longitude)
    except (LocationError, TypeError, ValueError, KeyError, OverflowError):
        return None


def read_number(value: Any) -> float | None:
    """A finite number of a JSON answer; None where it is none."""
    return float(value) if is_number(value) else None


def read_heading(value: Any) -> float | None:
    """A direction of a JSON answer, 0 to below 360 degrees; None where it is none."""
    number = read_number(value)
    # Twice, since a hair below 0 becomes 360 itself.
    return None if number is None else number % 360 % 360


def read_text(value: Any) -> str:
    """A text of a JSON answer, fit to be shown; empty where it is none."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in value)[:MAX_TEXT]
