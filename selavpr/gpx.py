"""GPX tracks: where a camera was at a time."""

from __future__ import annotations

import bisect
import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from selavpr.errors import LocationError, OptionError
from selavpr.geo import Location

MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Track:
    """Positions in order of time.

    Attributes:
        seconds: since 1970, UTC, strictly ascending; at least two.
        places: one for each.
    """

    seconds: tuple[float, ...]
    places: tuple[Location, ...]

    @property
    def start(self) -> float:
        """The first moment, in seconds since 1970."""
        return self.seconds[0]

    @property
    def end(self) -> float:
        """The last moment, in seconds since 1970."""
        return self.seconds[-1]

    def at(self, second: float) -> Location:
        """The place at a time, straight between the two positions around it.

        Raises:
            LocationError: the track does not cover that time.
        """
        if not self.start <= second <= self.end:
            raise LocationError("The track does not cover that time.")
        i = min(bisect.bisect_right(self.seconds, second), len(self.seconds) - 1)
        before, after = self.places[i - 1], self.places[i]
        part = (second - self.seconds[i - 1]) / (self.seconds[i] - self.seconds[i - 1])
        east, north = before.offset_m(after)
        return before.moved(east * part, north * part)

    def heading(self, second: float, reach_m: float = 3.0) -> float | None:
        """The direction of travel, degrees clockwise from north.

        Args:
            second: a time the track covers.
            reach_m: the direction is that between the places so far behind and ahead, or the ends
                of the track: closer ones say more of the receiver's noise.

        Returns:
            None where the camera does not move that far.
        """
        here = self.at(second)
        i = bisect.bisect_right(self.seconds, second)
        behind = next(
            (p for p in reversed(self.places[:i]) if p.distance_m(here) >= reach_m), self.places[0]
        )
        ahead = next((p for p in self.places[i:] if p.distance_m(here) >= reach_m), self.places[-1])
        if behind.distance_m(ahead) < reach_m:
            return None
        east, north = behind.offset_m(ahead)
        return math.degrees(math.atan2(east, north)) % 360

    def every(self, step_m: float, start: float, end: float) -> list[float]:
        """Times from ``start`` at which the way travelled passes multiples of a distance.

        Args:
            step_m: metres; more than 0.
            start: seconds since 1970; the first time given, if the track covers it.
            end: none is later.
        """
        start, end = max(start, self.start), min(end, self.end)
        if start > end:
            return []
        inner = [s for s in self.seconds if start < s < end]
        found, way = [start], 0.0
        for before, after in zip([start, *inner], [*inner, end], strict=True):
            length = self.at(before).distance_m(self.at(after))
            # A micrometre is left to rounding, or the last of a whole number of steps is lost.
            while length and way + length + 1e-6 >= step_m * len(found):
                part = min((step_m * len(found) - way) / length, 1.0)
                found.append(before + part * (after - before))
            way += length
        return found


def read_gpx(path: Path) -> Track:
    """Read the track of a GPX file; all its segments are one.

    Raises:
        OptionError: it is no GPX file, or has no two positions with times.
        LocationError: a position is not on Earth.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OptionError(f"{path} is too large for a track.")
        data = path.read_bytes()
        if b"<!ENTITY" in data:
            raise OptionError(f"{path} defines entities, which no track needs; it is not read.")
        root = ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise OptionError(f"{path} cannot be read as GPX: {error}.") from error
    points: dict[float, Location] = {}
    for number, point in enumerate(root.iterfind(".//{*}trkpt"), 1):
        when = _seconds(point.findtext("{*}time") or "")
        if when is None:
            continue
        try:
            place = Location(float(point.get("lat", "")), float(point.get("lon", "")))
        except (LocationError, ValueError) as error:
            raise LocationError(f"point {number} of {path}: {error}") from error
        points.setdefault(when, place)
    if len(points) < 2:
        raise OptionError(
            f"{path} has fewer than two positions with a time; record the track with times."
        )
    seconds = sorted(points)
    return Track(tuple(seconds), tuple(points[s] for s in seconds))


def read_time(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; without an offset it is taken as UTC.

    Raises:
        OptionError: it is no time.
    """
    seconds = _seconds(text)
    if seconds is None:
        raise OptionError(f"{text!r} is no time; write it as 2026-05-01T12:30:00Z.")
    return seconds


def iso(seconds: float) -> str:
    """A time as ISO 8601 in UTC, to the second."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return when.isoformat(timespec="seconds")


def _seconds(text: str) -> float | None:
    try:
        # Python 3.10 knows neither the letter Z nor fractions of other than 3 or 6 digits.
        text = text.strip().replace("Z", "+00:00")
        whole, dot, rest = text.partition(".")
        digits = len(rest) - len(rest.lstrip("0123456789"))
        when = datetime.datetime.fromisoformat(whole + rest[digits:])
        fraction = float(f"0.{rest[:digits]}") if dot and digits else 0.0
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.timezone.utc)
        return when.timestamp() + fraction
    except (ValueError, OverflowError):
        return None
