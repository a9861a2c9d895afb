"""UTM coordinates to places and back: the names of benchmark photos carry them.

The series of Krüger to the fourth order of the third flattening, as Karney (2011, "Transverse
Mercator with an accuracy of a few nanometers") gives it; within a zone it is exact to far below a
millimetre.
"""

from __future__ import annotations

import math

from selavpr.errors import LocationError
from selavpr.geo import Location

_A = 6_378_137.0  # semi-major axis of WGS 84 in metres
_N = (1 / 298.257223563) / (2 - 1 / 298.257223563)  # third flattening
_SCALE = 0.9996  # UTM's, on the central meridian
_RADIUS = _A / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)  # of the rectifying sphere
_ECCENTRICITY = 2 * math.sqrt(_N) / (1 + _N)
_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16 + 41 * _N**4 / 180,
    13 * _N**2 / 48 - 3 * _N**3 / 5 + 557 * _N**4 / 1440,
    61 * _N**3 / 240 - 103 * _N**4 / 140,
    49561 * _N**4 / 161280,
)
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96 - _N**4 / 360,
    _N**2 / 48 + _N**3 / 15 - 437 * _N**4 / 1440,
    17 * _N**3 / 480 - 37 * _N**4 / 840,
    4397 * _N**4 / 161280,
)


def from_utm(east: float, north: float, zone: int, south: bool = False) -> Location:
    """The place at UTM coordinates.

    Args:
        east: metres, 500,000 on the zone's central meridian.
        north: metres from the equator; 10,000,000 is added on the southern half.
        zone: 1 to 60.
        south: whether the coordinates are those of the southern half.

    Raises:
        LocationError: the zone or the coordinates are none of UTM's.
    """
    _check_zone(zone)
    if not (50_000 < east < 950_000 and -100_000 <= north <= 10_100_000):  # false for NaN, too
        raise LocationError(
            f"East {east} and north {north} are no UTM coordinates in metres; they may be swapped."
        )
    xi = (north - (10_000_000 if south else 0)) / (_SCALE * _RADIUS)
    eta = (east - 500_000) / (_SCALE * _RADIUS)
    xi_, eta_ = xi, eta
    for j, beta in enumerate(_BETA, 1):
        xi_ -= beta * math.sin(2 * j * xi) * math.cosh(2 * j * eta)
        eta_ -= beta * math.cos(2 * j * xi) * math.sinh(2 * j * eta)
    # The tangent of the conformal latitude, then of the geographic one, by Newton's method.
    tau_ = math.sin(xi_) / math.hypot(math.sinh(eta_), math.cos(xi_))
    tau = tau_
    for _ in range(6):
        error = tau_ - _conformal(tau)
        step = 1 + (1 - _ECCENTRICITY**2) * tau**2
        step /= (1 - _ECCENTRICITY**2) * math.hypot(1, _conformal(tau)) * math.hypot(1, tau)
        tau += error * step
    turn = math.degrees(math.atan2(math.sinh(eta_), math.cos(xi_)))
    longitude = math.remainder(6 * zone - 183 + turn, 360.0)
    return Location(math.degrees(math.atan(tau)), longitude)


def to_utm(place: Location, zone: int | None = None) -> tuple[float, float, int, bool]:
    """A place in UTM: east and north in metres, zone, and whether it is on the southern half.

    Args:
        place: anywhere but near the poles.
        zone: the zone to use; that of the longitude when None (Norway's exceptions are not made).

    Raises:
        LocationError: the zone is none, or too far away.
    """
    if zone is None:
        zone = min(int((place.longitude + 180) // 6) + 1, 60)
    _check_zone(zone)
    turn = math.radians(math.remainder(place.longitude - (6 * zone - 183), 360.0))
    if abs(place.latitude) > 85 or abs(turn) > math.radians(30):
        raise LocationError(f"{place} cannot be given in UTM zone {zone}.")
    tau_ = _conformal(math.tan(math.radians(place.latitude)))
    xi_ = math.atan2(tau_, math.cos(turn))
    eta_ = math.asinh(math.sin(turn) / math.hypot(tau_, math.cos(turn)))
    xi, eta = xi_, eta_
    for j, alpha in enumerate(_ALPHA, 1):
        xi += alpha * math.sin(2 * j * xi_) * math.cosh(2 * j * eta_)
        eta += alpha * math.cos(2 * j * xi_) * math.sinh(2 * j * eta_)
    south = place.latitude < 0
    north = _SCALE * _RADIUS * xi + (10_000_000 if south else 0)
    return _SCALE * _RADIUS * eta + 500_000, north, zone, south


def read_zone(text: str) -> tuple[int, bool]:
    """Zone and southern half of a text such as ``"32N"``, ``"33 S"``, ``"10T"`` or ``"17"``.

    The letter may be N or S for the half, or a latitude band (C to M south, N to X north); the
    band S is the half in this program, since that is what people write. None means north.

    Raises:
        LocationError: the text is no zone.
    """
    number, letter = text.strip()[:-1].strip(), text.strip()[-1:].upper()
    if letter.isdigit():
        number, letter = text.strip(), "N"
    whole = number.isascii() and number.isdigit() and len(number) < 3
    if not whole or letter not in set("CDEFGHJKLMNPQRSTUVWX"):
        raise LocationError(f"{text!r} is no UTM zone; write it as 32N or 23S.")
    _check_zone(int(number))
    return int(number), letter == "S" or letter < "N"


def _conformal(tau: float) -> float:
    """The tangent of the conformal latitude from that of the geographic one."""
    sine = tau / math.hypot(1, tau)
    sigma = math.sinh(_ECCENTRICITY * math.atanh(_ECCENTRICITY * sine))
    return tau * math.hypot(1, sigma) - sigma * math.hypot(1, tau)


def _check_zone(zone: int) -> None:
    if not 1 <= zone <= 60:
        raise LocationError(f"UTM zones go from 1 to 60; {zone} is none.")
