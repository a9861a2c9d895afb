"""The local metric frame, headings and the position of the sun: pure mathematics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np

ORIGIN_LAT = 60.1705
ORIGIN_LON = 24.9440
_WGS84_A = 6378137.0
_WGS84_E2 = 6.69437999014e-3


def _metres_per_degree() -> tuple[float, float]:
    s = math.sin(math.radians(ORIGIN_LAT))
    w = 1.0 - _WGS84_E2 * s * s
    meridian = _WGS84_A * (1.0 - _WGS84_E2) / w**1.5
    normal = _WGS84_A / math.sqrt(w)
    per_lat = math.radians(1.0) * meridian
    per_lon = math.radians(1.0) * normal * math.cos(math.radians(ORIGIN_LAT))
    return per_lat, per_lon


M_PER_LAT, M_PER_LON = _metres_per_degree()


def to_local(lat: float, lon: float) -> tuple[float, float]:
    """Degrees to metres east and north of the origin.

    The frame is linear in degrees, so going back is exact. Within the one-kilometre city it
    differs from a true projection by about 0.1 m in scale and 0.01 degrees in direction.
    """
    return (lon - ORIGIN_LON) * M_PER_LON, (lat - ORIGIN_LAT) * M_PER_LAT


def to_wgs84(x: float, y: float) -> tuple[float, float]:
    """Metres east and north of the origin to (latitude, longitude) in degrees."""
    return ORIGIN_LAT + y / M_PER_LAT, ORIGIN_LON + x / M_PER_LON


def heading_of(dx: float, dy: float) -> float:
    """Compass heading in degrees, clockwise from true north, of an east/north vector."""
    return math.degrees(math.atan2(dx, dy)) % 360.0


def direction_of(heading: float) -> tuple[float, float]:
    """East/north unit vector of a compass heading in degrees."""
    a = math.radians(heading)
    return math.sin(a), math.cos(a)


def heading_difference(a: float, b: float) -> float:
    """Smallest angle between two headings, in degrees from 0 to 180."""
    return abs((a - b + 180.0) % 360.0 - 180.0)


@dataclass(frozen=True)
class SunPosition:
    """Where the sun stands: degrees above the horizon, degrees clockwise from north."""

    elevation: float
    azimuth: float

    def direction(self) -> np.ndarray:
        """Unit vector `[3]` (east, north, up) from the ground towards the sun."""
        e, a = math.radians(self.elevation), math.radians(self.azimuth)
        return np.array([math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), math.sin(e)])


def sun_position(when: datetime, lat: float = ORIGIN_LAT, lon: float = ORIGIN_LON) -> SunPosition:
    """Sun position by the low-precision almanac formulae (good to about 0.05 degrees).

    Args:
        when: A timezone-aware moment.
        lat: Latitude in degrees.
        lon: Longitude in degrees, east positive.
    """
    if when.tzinfo is None:
        raise ValueError("sun_position needs a timezone-aware datetime")
    days = when.timestamp() / 86400.0 + 2440587.5 - 2451545.0
    mean_long = math.radians((280.460 + 0.9856474 * days) % 360.0)
    anomaly = math.radians((357.528 + 0.9856003 * days) % 360.0)
    ecliptic = mean_long + math.radians(1.915 * math.sin(anomaly) + 0.020 * math.sin(2.0 * anomaly))
    tilt = math.radians(23.439 - 4e-7 * days)
    right_ascension = math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
    sidereal = math.radians((280.46061837 + 360.98564736629 * days + lon) % 360.0)
    hour_angle = sidereal - right_ascension
    phi = math.radians(lat)
    sin_e = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(
        declination
    ) * math.cos(hour_angle)
    azimuth = math.atan2(
        -math.sin(hour_angle),
        math.tan(declination) * math.cos(phi) - math.sin(phi) * math.cos(hour_angle),
    )
    return SunPosition(math.degrees(math.asin(sin_e)), math.degrees(azimuth) % 360.0)
