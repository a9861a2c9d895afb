"""Places on Earth: validated coordinates and the distances between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from selavpr.errors import LocationError

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius of the WGS 84 ellipsoid, (2a + b) / 3."""


@dataclass(frozen=True)
class Location:
    """A point in WGS 84 degrees.

    Raises:
        LocationError: not finite, or outside latitude ±90 or longitude ±180.
    """

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        """Refuse what is not on the globe; a swapped pair is named as such where it shows."""
        lat, lon = self.latitude, self.longitude
        for value in (lat, lon):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise LocationError(f"Latitude and longitude must be numbers, not {value!r}.")
        try:
            finite = math.isfinite(lat) and math.isfinite(lon)
        except OverflowError:  # a whole number beyond any float, as JSON may hold
            finite = False
        if not finite:
            raise LocationError("Latitude and longitude must be finite numbers.")
        if abs(lat) > 90:
            swapped = " They look swapped." if abs(lon) <= 90 and abs(lat) <= 180 else ""
            raise LocationError(f"Latitude {lat} is outside -90 to 90 degrees.{swapped}")
        if abs(lon) > 180:
            raise LocationError(f"Longitude {lon} is outside -180 to 180 degrees.")

    def distance_m(self, other: Location) -> float:
        """Great-circle distance in metres (haversine), within 0.6 % of the ellipsoid's."""
        lat1, lat2 = math.radians(self.latitude), math.radians(other.latitude)
        half_lat = (lat2 - lat1) / 2
        half_lon = math.radians(other.longitude - self.longitude) / 2
        a = math.sin(half_lat) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin(half_lon) ** 2
        return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(a)))

    def offset_m(self, other: Location) -> tuple[float, float]:
        """East and north metres from here to ``other``; exact enough within a city."""
        # The shorter way round, also across the 180th meridian.
        turn = math.remainder(other.longitude - self.longitude, 360.0)
        middle = math.radians((self.latitude + other.latitude) / 2)
        east = math.radians(turn) * math.cos(middle) * EARTH_RADIUS_M
        return east, math.radians(other.latitude - self.latitude) * EARTH_RADIUS_M

    def from_centre_m(self) -> tuple[float, float, float]:
        """Metres from the middle of the Earth, with no origin to choose.

        Axes lead to 0° N 0° E, 0° N 90° E and the North Pole. Straight lines between such points
        are as long as the way between the places: to within a millimetre over 10 km.
        """
        lat, lon = math.radians(self.latitude), math.radians(self.longitude)
        flat = EARTH_RADIUS_M * math.cos(lat)
        return flat * math.cos(lon), flat * math.sin(lon), EARTH_RADIUS_M * math.sin(lat)

    def moved(self, east_m: float, north_m: float) -> Location:
        """The place so many metres away, within a city; the inverse of ``offset_m``."""
        latitude = self.latitude + math.degrees(north_m / EARTH_RADIUS_M)
        latitude = min(90.0, max(-90.0, latitude))
        middle = math.radians((self.latitude + latitude) / 2)
        turn = math.degrees(east_m / EARTH_RADIUS_M) / max(math.cos(middle), 1e-9)
        return Location(latitude, math.remainder(self.longitude + turn, 360.0))


def consensus(
    locations: Sequence[Location], weights: Sequence[float], radius_m: float = 30.0
) -> tuple[Location, list[bool]]:
    """Fuse positions that agree, starting from the one with most weight around it.

    The centre moves to the weighted mean of the positions within the radius until it rests (mean
    shift with a flat kernel). Far-off positions have no say at all, however many they are.

    Args:
        locations: at least one.
        weights: 0 or more each, the same number; all zero counts as all equal.
        radius_m: positions within this distance of the centre agree.

    Returns:
        The fused position, and for each location whether it agreed.

    Raises:
        LocationError: no locations, or a weight that is negative or not finite.
    """
    if not locations or len(locations) != len(weights):
        raise LocationError("A consensus needs as many weights as locations, at least one.")
    if any(not math.isfinite(w) or w < 0 for w in weights):
        raise LocationError("Weights must be finite and not negative.")
    heaviest = max(weights)
    # Relative to the heaviest, since the sum of huge weights would be infinite.
    weights = [w / heaviest if heaviest else 1.0 for w in weights]
    origin = locations[0]
    points = [origin.offset_m(place) for place in locations]

    def near(centre: tuple[float, float]) -> list[bool]:
        return [math.dist(centre, point) <= radius_m for point in points]

    def support(centre: tuple[float, float]) -> float:
        return sum(w for w, inside in zip(weights, near(centre), strict=True) if inside)

    centre = max(points, key=support)
    for _ in range(20):
        inside = near(centre)
        total = sum(w for w, is_in in zip(weights, inside, strict=True) if is_in)
        if not total:
            break
        mean = [
            sum(w * p[axis] for w, p, is_in in zip(weights, points, inside, strict=True) if is_in)
            / total
            for axis in (0, 1)
        ]
        moved = math.dist(centre, mean)
        centre = (mean[0], mean[1])
        if moved < 0.01:
            break
    return origin.moved(*centre), near(centre)
