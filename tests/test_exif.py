from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from selavpr import exif, images
from selavpr.exif import Capture, read_capture, read_position
from selavpr.geo import Location

HELSINKI = {
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (60.0, 10.0, 12.0),
    GPS.GPSLongitudeRef: "E",
    GPS.GPSLongitude: (24.0, 56.0, 6.0),
}
WHERE = Location(60 + 10 / 60 + 12 / 3600, 24 + 56 / 60 + 6 / 3600)


def photo(
    gps: dict[int, Any] | None = None, tags: dict[int, Any] | None = None, form: str = "JPEG"
) -> bytes:
    data = Image.Exif()
    if gps is not None:
        data[IFD.GPSInfo] = gps
    if tags is not None:
        data[IFD.Exif] = tags
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, form, exif=data.tobytes())
    return buffer.getvalue()


def close(found: Location | None, expected: Location) -> bool:
    return found is not None and found.distance_m(expected) < 0.1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_position_of_every_format(form: str) -> None:
    images.register_heif()
    assert close(read_position(photo(HELSINKI, form=form)), WHERE)


def test_path_and_bytes_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "here.jpg"
    path.write_bytes(photo(HELSINKI))
    assert read_capture(path) == read_capture(str(path)) == read_capture(photo(HELSINKI))


def test_south_and_west_are_negative() -> None:
    gps = {**HELSINKI, GPS.GPSLatitudeRef: "S", GPS.GPSLongitudeRef: "W"}
    assert close(read_position(photo(gps)), Location(-WHERE.latitude, -WHERE.longitude))


@pytest.mark.parametrize("latitude", [(60.17,), (60.0, 10.2)])
def test_degrees_may_be_decimal_or_minutes(latitude: tuple[float, ...]) -> None:
    # 60.17 degrees are 60 degrees and 10.2 minutes.
    gps = {**HELSINKI, GPS.GPSLatitude: latitude}
    assert close(read_position(photo(gps)), Location(60.17, WHERE.longitude))


@pytest.mark.parametrize(
    "change",
    [
        {GPS.GPSLatitudeRef: None},
        {GPS.GPSLatitudeRef: "X"},
        {GPS.GPSLatitude: None},
        {GPS.GPSLatitude: (95.0, 0.0, 0.0)},
        {GPS.GPSLatitude: (0.0, 0.0, 0.0), GPS.GPSLongitude: (0.0, 0.0, 0.0)},
    ],
)
def test_what_is_no_place_is_none(change: dict[int, Any]) -> None:
    gps = {key: value for key, value in {**HELSINKI, **change}.items() if value is not None}
    assert read_position(photo(gps)) is None


def test_division_by_zero_is_no_place() -> None:
    whole = photo(HELSINKI)
    # 60/1 as the file stores it; 60/0 is what a camera without a fix may write.
    sixty = (60).to_bytes(4, "little") + (1).to_bytes(4, "little")
    if sixty not in whole:
        sixty = (60).to_bytes(4, "big") + (1).to_bytes(4, "big")
    assert whole.count(sixty) == 1
    assert read_position(whole.replace(sixty, sixty[:4] + bytes(4))) is None


def test_direction_is_true_north_only() -> None:
    for reference, expected in (("T", 10.5), ("M", None)):
        gps = {**HELSINKI, GPS.GPSImgDirectionRef: reference, GPS.GPSImgDirection: 370.5}
        assert read_capture(photo(gps)).heading == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({Base.DateTimeOriginal: "2024:05:01 12:34:56"}, "2024-05-01T12:34:56"),
        (
            {Base.DateTimeOriginal: "2024:05:01 12:34:56", Base.OffsetTimeOriginal: "+03:00"},
            "2024-05-01T12:34:56+03:00",
        ),
        ({Base.DateTimeDigitized: "2024:05:01 12:34:56"}, "2024-05-01T12:34:56"),
        ({Base.DateTimeOriginal: "0000:00:00 00:00:00"}, ""),
        ({Base.DateTimeOriginal: "yesterday"}, ""),
    ],
)
def test_time_is_iso(tags: dict[int, Any], expected: str) -> None:
    assert read_capture(photo(tags=tags)).captured_at == expected


@pytest.mark.parametrize("content", [b"", b"words", photo(HELSINKI)[:60], photo()])
def test_what_says_nothing_says_nothing(content: bytes) -> None:
    assert read_capture(content) == Capture()


def test_missing_file_says_nothing(tmp_path: Path) -> None:
    assert read_capture(tmp_path / "gone.jpg") == Capture()


def test_too_many_pixels_are_not_decoded_to_look_for_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exif, "MAX_PIXELS", 40 * 30 - 1)
    assert read_capture(photo(HELSINKI)) == Capture()


def test_recognising_never_sees_it() -> None:
    opened = images.load_image(photo(HELSINKI))
    assert not opened.getexif()
    assert opened.info == {}
    assert (np.asarray(opened) == 0).all()
