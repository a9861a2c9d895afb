"""Photos of every kind, whole and broken; all files are made here."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from selavpr import ModelConfig, PhotoError, load_image
from selavpr.building import STORED_SIDE
from selavpr.images import MAX_ASPECT, MAX_SIDE_RATIO, MIN_SIDE, batches, network_size, preprocess

pillow_heif.register_heif_opener()

SIZE = (64, 48)
QUADRANTS = {  # colour at top left, top right, bottom left, bottom right
    (0, 0): (255, 0, 0),
    (0, 1): (0, 255, 0),
    (1, 0): (0, 0, 255),
    (1, 1): (255, 255, 0),
}


def picture() -> Image.Image:
    """Four flat quadrants of different colours: any turn or flip shows, and JPEG keeps them."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for (down, right), colour in QUADRANTS.items():
        rows = slice(down * SIZE[1] // 2, (down + 1) * SIZE[1] // 2)
        pixels[rows, right * SIZE[0] // 2 : (right + 1) * SIZE[0] // 2] = colour
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def difference(image: Image.Image, expected: Image.Image) -> int:
    """Largest difference of a channel over the middles of a 4 x 4 grid, away from the edges."""
    assert image.size == expected.size
    width, height = image.size
    rows = [(2 * i + 1) * height // 8 for i in range(4)]
    columns = [(2 * i + 1) * width // 8 for i in range(4)]
    first, second = (np.asarray(x, dtype=int)[np.ix_(rows, columns)] for x in (image, expected))
    return int(np.abs(first - second).max())


def is_clean(image: Image.Image) -> bool:
    return image.mode == "RGB" and image.info == {} and len(image.getexif()) == 0


# ---- formats

FORMATS: dict[str, tuple[dict[str, Any], int]] = {  # options, tolerated difference
    "PNG": ({}, 0),
    "BMP": ({}, 0),
    "TIFF": ({}, 0),
    "GIF": ({}, 0),
    "JPEG": ({"quality": 95}, 4),
    "WEBP": ({"lossless": True}, 0),
    "JPEG2000": ({}, 1),
    "HEIF": ({"quality": 95}, 8),
    "AVIF": ({"quality": 95}, 8),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("kind", ["bytes", "path", "text path", "PIL image"])
def test_formats(file_format: str, kind: str, tmp_path: Path) -> None:
    options, tolerance = FORMATS[file_format]
    data = encoded(picture(), file_format, **options)
    path = tmp_path / "photo without the right suffix"
    path.write_bytes(data)
    source: Any = {"bytes": data, "path": path, "text path": str(path)}.get(kind)
    photo = load_image(Image.open(io.BytesIO(data)) if source is None else source)
    assert is_clean(photo)
    assert difference(photo, picture()) <= tolerance


def test_names_that_are_not_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Straße 東京 ☂.png"
    picture().save(path)
    assert difference(load_image(path), picture()) == 0


# ---- kinds of pixels


def flat(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (40, 30), colour)


@pytest.mark.parametrize(
    ("image", "file_format", "expected"),
    [
        (flat("L", 77), "PNG", (77, 77, 77)),
        (flat("1", 1), "PNG", (255, 255, 255)),
        (flat("1", 0), "PNG", (0, 0, 0)),
        (flat("RGBA", (10, 20, 30, 255)), "PNG", (10, 20, 30)),
        (flat("RGBA", (10, 20, 30, 0)), "PNG", (255, 255, 255)),
        (flat("RGBA", (0, 0, 0, 51)), "PNG", (204, 204, 204)),  # a fifth of black over white
        (flat("RGBA", (0, 0, 0, 51)), "WEBP", (204, 204, 204)),
        (flat("LA", (100, 0)), "PNG", (255, 255, 255)),
        (flat("LA", (100, 255)), "PNG", (100, 100, 100)),
        (flat("P", 0), "GIF", (0, 0, 0)),
        (flat("CMYK", (0, 0, 0, 0)), "TIFF", (255, 255, 255)),
        (flat("CMYK", (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (flat("CMYK", (255, 0, 0, 0)), "JPEG", (0, 255, 255)),
        (flat("CMYK", (0, 0, 0, 128)), "JPEG", (127, 127, 127)),
        (flat("YCbCr", (128, 128, 128)), "JPEG", (128, 128, 128)),
        (flat("I;16", 0), "PNG", (0, 0, 0)),
        (flat("I;16", 65535), "PNG", (255, 255, 255)),
        (flat("I;16", 257 * 100), "PNG", (100, 100, 100)),
        (flat("I;16", 257 * 100), "TIFF", (100, 100, 100)),
    ],
)
def test_modes(image: Image.Image, file_format: str, expected: tuple[int, ...]) -> None:
    photo = load_image(encoded(image, file_format))
    assert is_clean(photo) and photo.size == image.size
    found = np.asarray(photo).reshape(-1, 3).astype(int)
    assert np.abs(found - np.array(expected)).max() <= (2 if file_format in ("JPEG", "WEBP") else 1)


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (flat("P", 0), 0),
        (flat("P", 0), b"\0"),
        (flat("L", 9), 9),
        (flat("RGB", (1, 2, 3)), (1, 2, 3)),
    ],
)
def test_transparent_colours_become_white(image: Image.Image, transparency: Any) -> None:
    photo = load_image(encoded(image, "PNG", transparency=transparency))
    assert photo.getcolors() == [(40 * 30, (255, 255, 255))]


@pytest.mark.parametrize(
    "mode", ["HSV", "LAB", "RGBX", "RGBa", "PA", "I", "I;16B", "CMYK", "YCbCr"]
)
def test_modes_only_pil_images_have(mode: str) -> None:
    assert is_clean(load_image(Image.new(mode, (40, 30))))


def test_sixteen_bit_colour_png() -> None:
    """Pillow writes none: 16-bit RGB, made by hand, with 0x8000 in red."""
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x8000, 0, 0xFFFF) * 32 for _ in range(32))
    photo = load_image(png(32, 32, rows, depth=16, colour=2))
    assert photo.getpixel((5, 5)) == (128, 0, 255)


def test_floating_point_photos_are_refused() -> None:
    with pytest.raises(PhotoError, match="floating-point"):
        load_image(encoded(flat("F", 0.5), "TIFF"))


# ---- EXIF

# How each orientation turns the stored pixels upright (EXIF 2.3, tag 0x0112).
UPRIGHT: dict[int, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    options, tolerance = FORMATS[file_format]
    photo = load_image(encoded(picture(), file_format, exif=exif, **options))
    expected = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(picture()))))
    assert difference(photo, expected) <= tolerance
    assert is_clean(photo)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_turned_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), "HEIF", quality=95, exif=exif.tobytes())
    expected = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(picture()))))
    assert difference(load_image(data), expected) <= 8


def test_rotation_of_a_pil_image_leaves_it_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.open(io.BytesIO(encoded(picture(), "PNG", exif=exif)))
    assert load_image(source).size == (SIZE[1], SIZE[0])
    assert source.size == SIZE and source.getexif()[0x0112] == 6


def test_a_plain_pil_image_is_copied() -> None:
    source = picture()
    photo = load_image(source)
    photo.putpixel((0, 0), (9, 9, 9))
    assert source.getpixel((0, 0)) == (255, 0, 0)


def tiff_block(entries: list[tuple[int, int, int, bytes]], count: int | None = None) -> bytes:
    """An EXIF block of the given directory entries: tag, type, count, value."""
    block = b"II*\0" + struct.pack("<IH", 8, len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        block += struct.pack("<HHI", tag, kind, number) + value.ljust(4, b"\0")
    return b"Exif\0\0" + block + struct.pack("<I", 0)


TURNED = (0x0112, 3, 1, struct.pack("<H", 6))
FAR = struct.pack("<I", 99_999)


@pytest.mark.parametrize(
    "extra",
    [
        (0x010F, 99, 1, b"abcd"),  # no such type
        (0x010F, 2, 1000, FAR),  # text beyond the end
        (0x8825, 4, 1, FAR),  # GPS directory beyond the end
        (0x8769, 4, 1, struct.pack("<I", 8)),  # a directory that contains itself
        (0x011A, 5, 0xFFFFFFFF, struct.pack("<I", 8)),  # four thousand million fractions
        (0x927C, 7, 4, b"\xff\xff\xff\xff"),
    ],
)
def test_the_rotation_survives_broken_neighbours(extra: tuple[int, int, int, bytes]) -> None:
    photo = load_image(encoded(picture(), "JPEG", exif=tiff_block([TURNED, extra])))
    assert photo.size == (SIZE[1], SIZE[0])


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage, garbage, garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        tiff_block([(0x0112, 3, 1, struct.pack("<H", 9))]),  # no such orientation
        tiff_block([(0x0112, 3, 1, struct.pack("<H", 0))]),
        tiff_block([(0x0112, 2, 2, b"6\0")]),  # text where a number belongs
    ],
)
def test_broken_exif_is_passed_over(exif: bytes) -> None:
    photo = load_image(encoded(picture(), "JPEG", exif=exif, quality=95))
    assert difference(photo, picture()) <= 4


# ---- several frames


def several(file_format: str, **options: Any) -> bytes:
    others = [picture().rotate(180), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return encoded(picture(), file_format, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_are_refused(file_format: str) -> None:
    data = several(file_format)
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(PhotoError, match="animation or has several pages"):
            load_image(source)


def test_animated_avif_is_refused() -> None:
    with pytest.raises(PhotoError, match="animation"):
        load_image(several("AVIF"))


def test_an_mpo_is_its_first_picture() -> None:
    """Phones store a JPEG with a depth map or a preview behind it as MPO."""
    data = several("MPO", quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert difference(load_image(data), picture()) <= 4


def test_a_gif_of_one_frame_is_a_photo() -> None:
    assert difference(load_image(encoded(picture(), "GIF")), picture()) == 0


# ---- broken files


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "HEIF", "AVIF"])
def test_cut_off_files(file_format: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    path = tmp_path / "holiday.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PhotoError, match=r"^holiday\.jpg is "):
        load_image(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello, I am no photo\n" * 50,
        b"%PDF-1.7\n",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_files_that_are_no_photos(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(PhotoError, match=r"not a photo|damaged"):
            load_image(source)


@pytest.mark.parametrize("path", ["", "no/such/file.jpg", "a\0b.jpg", "https://example.org/a.jpg"])
def test_missing_files(path: str) -> None:
    with pytest.raises(PhotoError, match="There is no photo at"):
        load_image(path)
    with pytest.raises(PhotoError, match="There is no photo at"):
        load_image(Path(path))


def test_a_name_no_file_can_have() -> None:
    with pytest.raises(PhotoError, match="There is no photo at"):
        load_image("x" * 5000)


def test_a_directory_is_no_photo(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="There is no photo at"):
        load_image(tmp_path)


@pytest.mark.parametrize("source", [None, 5, bytearray(b"abc"), torch.zeros(3, 40, 40), ["a.jpg"]])
def test_other_things_are_no_photos(source: Any) -> None:
    with pytest.raises(PhotoError, match="must be a path, bytes, a PIL image or an array, not "):
        load_image(source)


def test_a_closed_pil_image() -> None:
    image = picture()
    image.close()
    with pytest.raises(PhotoError, match="cannot be read"):
        load_image(image)


def with_info(image: Image.Image, **info: Any) -> Image.Image:
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    "image", [Image.new("La", (40, 40)), with_info(flat("L", 0), transparency="nonsense")]
)
def test_pil_images_pillow_cannot_convert(image: Image.Image) -> None:
    with pytest.raises(PhotoError):
        load_image(image)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files the Linux way")
def test_files_are_closed(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.jpg", tmp_path / "broken.jpg"
    data = encoded(picture(), "JPEG")
    good.write_bytes(data)
    broken.write_bytes(data[:200])
    load_image(good)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_image(good)
        with pytest.raises(PhotoError):
            load_image(broken)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- sizes


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG put together by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_100, 10_000, 20_000, 2_000_000])
def test_bombs_are_refused_undecoded(side: int) -> None:
    """The pixel data is cut off: had it been looked at, the message would be another."""
    with pytest.raises(PhotoError, match="larger than 64 megapixels"):
        load_image(png(side, side, b"\0" * 100))


def test_max_pixels() -> None:
    data = encoded(Image.new("RGB", (40, 50)), "PNG")
    assert load_image(data, max_pixels=2000).size == (40, 50)
    for source in (data, Image.new("RGB", (40, 50)), np.zeros((50, 40, 3), np.uint8)):
        with pytest.raises(PhotoError, match="megapixels"):
            load_image(source, max_pixels=1999)


@pytest.mark.parametrize("size", [(MIN_SIDE - 1, 500), (500, MIN_SIDE - 1), (1, 1)])
def test_too_small(size: tuple[int, int]) -> None:
    for source in (encoded(Image.new("RGB", size), "PNG"), Image.new("RGB", size)):
        with pytest.raises(PhotoError, match=f"is {size[0]} x {size[1]} pixels; at least 28"):
            load_image(source)
    assert load_image(Image.new("RGB", (MIN_SIDE, MIN_SIDE))).size == (28, 28)


@pytest.mark.parametrize("size", [(28_000, 28), (28, 449), (1000, 30)])
def test_too_narrow(size: tuple[int, int]) -> None:
    for source in (encoded(Image.new("RGB", size), "PNG"), np.zeros((*size, 3), np.uint8)):
        with pytest.raises(PhotoError, match=r"\d+ x \d+ pixels, a strip more than 16 times"):
            load_image(source)


@given(st.integers(MIN_SIDE, 300), st.floats(1, MAX_SIDE_RATIO), st.booleans())
@example(1000, 16, True)
def test_what_is_taken_can_be_taken_again_when_stored(
    short: int, ratio: float, upright: bool
) -> None:
    """Else an index could hold a photo that it refuses to show."""
    size = (short, int(short * ratio))
    photo = load_image(Image.new("RGB", size if upright else size[::-1]))
    photo.thumbnail((STORED_SIDE, STORED_SIDE))
    assert load_image(photo).size == photo.size


@pytest.mark.parametrize("size", [(0, 0), (0, 40), (40, 0)])
def test_zero_size(size: tuple[int, int]) -> None:
    with pytest.raises(PhotoError):
        load_image(Image.new("RGB", size))
    with pytest.raises(PhotoError, match="no pixels"):
        load_image(np.zeros((*size, 3), dtype=np.uint8))
    with pytest.raises(PhotoError):
        load_image(png(*size, b""))


# ---- arrays


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((30, 40), 7, np.uint8), (7, 7, 7)),
        (np.full((30, 40, 1), 7, np.uint8), (7, 7, 7)),
        (np.full((30, 40, 3), (1, 2, 3), np.uint8), (1, 2, 3)),
        (np.full((30, 40, 4), (1, 2, 3, 255), np.uint8), (1, 2, 3)),
        (np.full((30, 40, 4), (1, 2, 3, 0), np.uint8), (255, 255, 255)),
        (np.full((30, 40), 65535, np.uint16), (255, 255, 255)),
        (np.full((30, 40, 3), (0, 257 * 50, 65535), np.uint16), (0, 50, 255)),
        (np.full((30, 40), True), (255, 255, 255)),
        (np.full((30, 40, 3), (True, False, True)), (255, 0, 255)),
        (np.full((30, 40), 0.5, np.float16), (128, 128, 128)),
        (np.full((30, 40, 3), (0, 0.2, 1), np.float32), (0, 51, 255)),
        (np.full((30, 40, 3), (0, 0.2, 1), np.float64), (0, 51, 255)),
    ],
)
def test_arrays(array: np.ndarray[Any, Any], expected: tuple[int, ...]) -> None:
    photo = load_image(array)
    assert photo.size == (40, 30) and is_clean(photo)
    assert photo.getcolors() == [(1200, expected)]


def test_array_views() -> None:
    """Flipped and cut arrays are read as they look, and never written to."""
    array = np.asarray(picture())
    array.flags.writeable = False
    photo = load_image(array[:, ::-1])
    assert difference(photo, picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    photo.putpixel((0, 0), (9, 9, 9))
    assert array[0, -1].tolist() == list(QUADRANTS[0, 1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_outside_zero_to_one(value: float, dtype: type) -> None:
    array = np.zeros((40, 40, 3), dtype)
    array[3, 4, 1] = value
    with pytest.raises(PhotoError, match="floats must hold values from 0 to 1"):
        load_image(array)


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint32", "complex64", "O", "U3"]
)
def test_other_array_types(dtype: str) -> None:
    with pytest.raises(PhotoError, match="must be uint8, uint16, bool or float, not"):
        load_image(np.ones((40, 40, 3)).astype(dtype))


@pytest.mark.parametrize(
    "shape", [(), (40,), (40, 40, 2), (40, 40, 5), (3, 40, 40), (1, 40, 40, 3)]
)
def test_other_array_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(PhotoError, match="An array must be"):
        load_image(np.zeros(shape, dtype=np.uint8))


# ---- nothing but PhotoError comes out

SMALL = 100_000  # pixels: mutated sizes must not make the test slow


def only_photo_errors(data: bytes) -> None:
    try:
        photo = load_image(data, max_pixels=SMALL)
    except PhotoError as error:
        assert len(str(error)) > 10 and str(error).endswith(".")
    else:
        assert is_clean(photo) and min(photo.size) >= MIN_SIDE


@given(st.binary(max_size=300))
@example(b"GIF89a")
@example(b"BM" + b"\0" * 60)
@example(b"\0\0\0\x18ftypheic" + b"\0" * 40)
def test_random_bytes(data: bytes) -> None:
    only_photo_errors(data)


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF"]
)
@settings(max_examples=40)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.floats(0.2, 1),
)
def test_mutated_files(file_format: str, changes: list[tuple[float, int]], end: float) -> None:
    data = bytearray(MUTABLE[file_format])
    for where, value in changes:
        # Squared: headers at the beginning are where the interesting mistakes are made.
        data[int(where**2 * (len(data) - 1))] = value
    only_photo_errors(bytes(data[: int(len(data) * end)]))


MUTABLE = {
    name: encoded(picture(), name)
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")
}


@settings(max_examples=100)
@given(st.binary(max_size=120))
def test_any_exif(block: bytes) -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + block, quality=95)
    assert load_image(data).size in (SIZE, SIZE[::-1])


# ---- preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(width=32, depth=1, heads=4, **changes)


@pytest.mark.parametrize("antialias", [False, True])
def test_normalisation(antialias: bool) -> None:
    tensor = preprocess(Image.new("RGB", (300, 200), (255, 128, 0)), config(antialias=antialias))
    assert tensor.shape == (3, 224, 224) and tensor.dtype == torch.float32
    for channel, value in enumerate((1.0, 128 / 255, 0.0)):
        expected = torch.full((224, 224), (value - MEAN[channel]) / STD[channel])
        torch.testing.assert_close(tensor[channel], expected, rtol=0, atol=1e-5)


def test_a_photo_of_the_right_size_is_only_normalised() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    expected = torch.from_numpy(noise).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]
    expected /= torch.tensor(STD)[:, None, None]
    for antialias in (False, True):
        found = preprocess(Image.fromarray(noise), config(input_size=56, antialias=antialias))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_antialias_averages_and_its_absence_samples() -> None:
    """Columns white, black, black, white, repeated; a quarter of the size.

    Output i lies at 4 (i + 1/2) - 1/2 = 4i + 1.5, between the two black ones: without antialias
    the white half of the picture is never seen.
    """
    line = np.tile(np.array([255, 0, 0, 255], dtype=np.uint8), 56)
    photo = Image.fromarray(np.broadcast_to(line[None, :, None], (224, 224, 3)).copy())
    red = {
        antialias: preprocess(photo, config(input_size=56, antialias=antialias))[0] * STD[0]
        + MEAN[0]
        for antialias in (False, True)
    }
    assert red[False].abs().max() < 1e-6
    assert (red[True][:, 4:-4] - 0.5).abs().max() < 0.1


def test_bilinear_resize_by_hand() -> None:
    """28 to 56 pixels: output i samples input (i + 1/2)/2 - 1/2, clamped at the border."""
    ramp = np.broadcast_to(np.arange(28, dtype=np.uint8)[None, :, None] * 8, (28, 28, 3)).copy()
    found = preprocess(Image.fromarray(ramp), config(input_size=56))[0, 10] * STD[0] + MEAN[0]
    where = ((torch.arange(56) + 0.5) / 2 - 0.5).clamp(0, 27)
    torch.testing.assert_close(found, where * 8 / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
def test_keep_aspect_gives_the_announced_size(antialias: bool) -> None:
    shape = config(resize="keep-aspect", antialias=antialias)
    photo = Image.new("RGB", (640, 480))
    assert preprocess(photo, shape).shape == (3, *network_size(photo.size, shape))


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ((500, 500), (224, 224)),
        ((640, 480), (196, 252)),  # 16 / sqrt(4/3) = 13.86, 16 * sqrt(4/3) = 18.48 patches
        ((480, 640), (252, 196)),
        ((1920, 1080), (168, 294)),  # 12.0 and 21.33 patches
    ],
)
def test_keep_aspect_sizes(photo: tuple[int, int], expected: tuple[int, int]) -> None:
    assert network_size(photo, config(resize="keep-aspect")) == expected
    assert network_size(photo, config()) == (224, 224)


@given(st.integers(28, 6000), st.floats(1 / MAX_ASPECT, MAX_ASPECT), st.integers(12, 40))
def test_keep_aspect_keeps_area_and_aspect(width: int, aspect: float, patches: int) -> None:
    height = max(1, round(width / aspect))
    true = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
    side = 14 * patches
    rows, columns = network_size((width, height), config(resize="keep-aspect", input_size=side))
    assert rows % 14 == columns % 14 == 0
    assert abs(rows * columns / side**2 - 1) < 0.15
    # Each side is rounded by half a patch at most, of at least 12 / sqrt(3) = 6.9 patches.
    half_patches = 0.5 / (patches / MAX_ASPECT**0.5)
    assert abs(columns / rows / true - 1) < 2.2 * half_patches


@pytest.mark.parametrize(
    ("photo", "same_as"), [((9000, 100), (300, 100)), ((40, 4000), (100, 300))]
)
def test_panoramas_are_squashed_to_three_to_one(
    photo: tuple[int, int], same_as: tuple[int, int]
) -> None:
    shape = config(resize="keep-aspect")
    assert network_size(photo, shape) == network_size(same_as, shape)


def test_the_smallest_input_has_a_patch() -> None:
    shape = config(resize="keep-aspect", input_size=14)
    assert network_size((3000, 28), shape) == (14, 28)
    assert min(network_size((28, 3000), shape)) == 14


# ---- batches


def test_batches_by_hand() -> None:
    sizes = [(1, 1), (2, 2), (1, 1), (1, 1), (2, 2)]
    assert batches(sizes, 2) == [[0, 2], [3], [1, 4]]
    assert batches([], 3) == []


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2))), st.integers(1, 5))
def test_batches(sizes: list[tuple[int, int]], limit: int) -> None:
    groups = batches(sizes, limit)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        assert 1 <= len(group) <= limit
        assert len({sizes[i] for i in group}) == 1
