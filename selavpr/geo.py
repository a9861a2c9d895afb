"""Places on Earth: validated coordinates and the distances between them."""

from __future__ import annotations

import math
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
        if not (math.isfinite(lat) and math.isfinite(lon)):
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
