"""What a photo's own EXIF data say of place, direction and time.

Kept apart from ``images`` on purpose: recognising a photo never reads this. Reference photos get
their places from it, and the page compares with it after the answer, if the visitor asks for that.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from selavpr.errors import LocationError
from selavpr.geo import Location
from selavpr.images import FORMATS, MAX_PIXELS, register_heif

_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


@dataclass(frozen=True)
class Capture:
    """Where, in which direction and when a photo says it was taken.

    Attributes:
        location: None where there is none, or it is no place on Earth.
        heading: degrees clockwise from true north, 0 to 360; None where unknown or magnetic.
        captured_at: ISO 8601, with the offset from UTC where the camera knew it; or empty.
    """

    location: Location | None = None
    heading: float | None = None
    captured_at: str = ""


def read_position(photo: str | PathLike[str] | bytes) -> Location | None:
    """Where a photo says it was taken; None where it does not, or cannot be read."""
    return read_capture(photo).location


def read_capture(photo: str | PathLike[str] | bytes) -> Capture:
    """What a photo's EXIF data say; what is missing, broken or not a photo says nothing.

    Args:
        photo: a path, or the bytes of a file. Pixels are not decoded where the format allows it.
    """
    register_heif()
    source = io.BytesIO(photo) if isinstance(photo, bytes) else photo
    try:
        with Image.open(source, formats=FORMATS) as image:
            # Pillow decodes a PNG to find EXIF behind its pixels, so they are bounded here too.
            if image.width * image.height > MAX_PIXELS:
                return Capture()
            tags = image.getexif()
            gps, more = tags.get_ifd(IFD.GPSInfo), tags.get_ifd(IFD.Exif)
    except Exception:
        # Pillow raises all sorts on malformed files; whether the photo opens is for load_image.
        return Capture()
    return Capture(_location(gps), _heading(gps), _captured_at(more))


def _location(gps: Mapping[int, Any]) -> Location | None:
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "NS")
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "EW")
    # Cameras without a fix write zeros, which is a buoy in the Atlantic.
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None
    try:
        return Location(latitude, longitude)
    except LocationError:
        return None


def _degrees(value: Any, reference: Any, signs: str) -> float | None:
    """Degrees, minutes and seconds with their letter, as signed degrees."""
    letter = _text(reference).upper()[:1]
    parts = value if isinstance(value, (tuple, list)) else (value,)
    numbers = [_number(part) for part in parts]
    if not letter or letter not in signs or len(numbers) > 3:
        return None
    total = 0.0
    for number, unit in zip(numbers, (1, 60, 3600), strict=False):
        if number is None or number < 0:
            return None
        total += number / unit
    return -total if letter == signs[1] else total


def _heading(gps: Mapping[int, Any]) -> float | None:
    # A magnetic direction is off by the declination, which differs by place and year.
    if _text(gps.get(GPS.GPSImgDirectionRef)).upper().startswith("M"):
        return None
    number = _number(gps.get(GPS.GPSImgDirection))
    return None if number is None else number % 360


def _captured_at(tags: Mapping[int, Any]) -> str:
    for when, offset in (
        (Base.DateTimeOriginal, Base.OffsetTimeOriginal),
        (Base.DateTimeDigitized, Base.OffsetTimeDigitized),
    ):
        if match := _TIME.match(_text(tags.get(when))):
            year, month, day, hour, minute, second = match.groups()
            if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31 and int(hour) < 24):
                continue
            zone = _OFFSET.fullmatch(_text(tags.get(offset)))
            return f"{year}-{month}-{day}T{hour}:{minute}:{second}{zone[0] if zone else ''}"
    return ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 ") if isinstance(value, str) else ""
