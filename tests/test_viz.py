from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from selavpr import viz
from selavpr.images import MAX_SIDE_RATIO
from selavpr.model import GeM
from selavpr.structs import KeypointMatches

GREY = (128, 128, 128)


def matches(
    query: list[tuple[float, float]],
    candidate: list[tuple[float, float]],
    similarity: list[float],
    agrees: list[bool],
) -> KeypointMatches:
    return KeypointMatches(
        torch.tensor(query, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(candidate, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(similarity, dtype=torch.float32),
        torch.tensor(agrees, dtype=torch.bool),
    )


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


FOUR = matches(
    [(1, 1), (2, 2), (3, 3), (4, 4)],
    [(1, 1), (2, 2), (3, 3), (4, 4)],
    [0.5, 0.9, 0.9, 0.1],
    [True, False, True, True],
)


def test_select_takes_what_agrees_then_the_most_similar() -> None:
    assert viz.select_matches(FOUR, count=3).tolist() == [2, 0, 3], "what agrees first"
    assert viz.select_matches(FOUR, count=99).tolist() == [2, 0, 3, 1]
    assert viz.select_matches(FOUR, count=0).tolist() == []


def test_select_filters_before_it_counts() -> None:
    assert viz.select_matches(FOUR, count=2, agreeing_only=True).tolist() == [2, 0]
    assert viz.select_matches(FOUR, count=9, min_similarity=0.5).tolist() == [2, 0, 1]
    assert viz.select_matches(FOUR, count=9, min_similarity=0.95).tolist() == []


def test_select_takes_from_all_over_the_photo_in_turn() -> None:
    # Three details in the left upper corner, two in the right lower one, of 80 x 60 pixels.
    crowd = matches(
        [(1, 1), (2, 2), (3, 3), (79, 59), (80, 60)],
        [(0, 0)] * 5,
        [0.9, 0.8, 0.7, 0.2, 0.1],
        [True, True, True, True, False],
    )
    assert viz.select_matches(crowd, count=2, query_size=(80, 60)).tolist() == [0, 3]
    assert viz.select_matches(crowd, count=9, query_size=(80, 60)).tolist() == [0, 3, 1, 2, 4]
    assert viz.select_matches(crowd, count=2).tolist() == [0, 1]


def test_lines_run_from_point_to_point_whatever_size_the_photos_have() -> None:
    # Both photos become 480 high: the query 480 wide, the candidate 960, with 12 between them.
    one = matches([(50, 50)], [(200, 100)], [1.0], [True])
    picture = viz.draw_matches(
        grey(240, 240),
        grey(400, 200),
        one,
        np.array([0]),
        query_size=(100, 100),  # the position refers to a photo of another size
    )
    assert picture.size == (480 + 12 + 960, 480)
    pixels = np.asarray(picture)
    # (50, 50) of 100 x 100 is the middle, (240, 240); (200, 100) of 400 x 200 is (480, 240).
    for x in (240, 300, 480 + 12 + 480):
        assert tuple(pixels[240, x]) != GREY, x
    assert tuple(pixels[240, 200]) == GREY, "nothing left of the point"
    assert tuple(pixels[240, 480 + 12 + 520]) == GREY, "nothing right of the point"
    assert tuple(pixels[300, 300]) == GREY, "nothing beside the line"


def test_agreeing_lines_stand_out() -> None:
    def change(agrees: bool) -> float:
        one = matches([(10, 50)], [(90, 50)], [1.0], [agrees])
        picture = viz.draw_matches(grey(100, 100), grey(100, 100), one, np.array([0]))
        return float(np.abs(np.asarray(picture, dtype=float)[:, 100:380] - 128).sum())

    assert change(True) > 4 * change(False) > 0


def test_colour_follows_similarity() -> None:
    two = matches([(10, 20), (10, 80)], [(90, 20), (90, 80)], [0.9, 0.3], [True, True])
    picture = np.asarray(
        viz.draw_matches(grey(100, 100), grey(100, 100), two, np.array([0, 1])), dtype=float
    )
    high, low = picture[96, 300].sum(), picture[384, 300].sum()
    assert high > low, "more similar is lighter"


def test_no_matches_shows_just_the_photos() -> None:
    picture = viz.draw_matches(
        grey(100, 100), grey(100, 100), matches([], [], [], []), np.array([], dtype=np.int64)
    )
    pixels = np.asarray(picture)
    assert (pixels[:, :480] == 128).all()
    assert (pixels[:, 480:492] == (128, 136, 146)).all()


def test_lightness_of_the_colour_map_rises_evenly() -> None:
    rgb = viz.colours(np.linspace(0, 1, 256, dtype=np.float32)).astype(float) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    # CIE L*: its steps are what the eye sees as even.
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.diff(lightness[::8])
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()


def test_colours_clip_and_survive_nan() -> None:
    odd = viz.colours(np.array([-5.0, np.nan, 0.0, 1.0, 7.0], dtype=np.float32))
    assert (odd[0] == odd[2]).all()
    assert (odd[1] == odd[2]).all()
    assert (odd[3] == odd[4]).all()


def test_heat_is_each_tokens_share_in_the_fingerprint() -> None:
    tokens = np.zeros((1, 3, 2), dtype=np.float32)
    tokens[0, 0] = (3, 4)  # of length 1: (0.6, 0.8)
    tokens[0, 1] = (0, 2)  # (0, 1)
    tokens[0, 2] = (-5, 0)  # nothing that is positive: no share
    # Powers of 2: sums 0.36 and 1.64 by channel, which are also the fingerprint's squares, up to
    # scale. Shares: (0.36 + 0.64) / 2 and 1 / 2 of it.
    assert viz.heat_of(tokens, 2.0).round(4).tolist() == [[1, 1, 0]]
    # Powers of 4: 0.1296 and 1.4096; squares 0.36 and 1.1873 of 1.5473.
    shares = [(0.36 + 1.1873 * 0.4096 / 1.4096) / 1.5473, 1.1873 / 1.4096 / 1.5473]
    expected = [[shares[0] / shares[1], 1.0, 0.0]]
    np.testing.assert_allclose(viz.heat_of(tokens, 4.0), expected, atol=1e-3)
    assert (viz.heat_of(np.ones((2, 2, 3), dtype=np.float32)) == 0).all()


def test_shares_are_those_of_the_networks_own_pooling() -> None:
    """What each token adds to the similarity of the fingerprint with itself."""
    pool = GeM()
    tokens = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    descriptor = pool(tokens)[0].detach().numpy()
    unit = torch.nn.functional.normalize(tokens[0], dim=-1).clamp(min=1e-6).numpy() ** 3
    share = (unit / unit.sum((0, 1)) * descriptor**2).sum(-1)
    assert share.sum() == pytest.approx(1, abs=1e-5)
    scaled = (share - share.min()) / np.ptp(share)
    np.testing.assert_allclose(viz.heat_of(tokens[0].numpy()), scaled, atol=1e-4)


def test_heat_lies_where_the_grid_is_hot() -> None:
    heat = np.zeros((4, 4), dtype=np.float32)
    heat[0, 3] = 1.0  # top right
    overlay = np.asarray(viz.heat_overlay(grey(200, 100), heat), dtype=float)
    assert overlay.shape == (100, 200, 3)
    brightness = overlay.mean(axis=2)
    assert brightness[:25, 150:].mean() > brightness[75:, :50].mean() + 20


def test_heat_of_a_single_value_and_of_bad_numbers() -> None:
    flat = viz.heat_overlay(grey(30, 20), np.full((1, 1), 0.5, dtype=np.float32))
    assert len(set(map(tuple, np.asarray(flat).reshape(-1, 3)))) == 1
    bad = viz.heat_overlay(grey(30, 20), np.full((2, 2), np.nan, dtype=np.float32))
    assert bad.size == (30, 20)


def test_thumbnail_fills_its_size_from_the_middle() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    small = viz.thumbnail(wide, (50, 50))
    assert small.size == (50, 50)
    assert all(pixel == (0, 0, 255) for pixel in small.crop((5, 5, 45, 45)).get_flattened_data())


@pytest.mark.parametrize(("size", "expected"), [((2000, 1000), (500, 250)), ((30, 40), (30, 40))])
def test_shrink_bounds_the_longer_side_and_never_enlarges(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    photo = grey(*size)
    assert viz.shrink(photo, 500).size == expected
    assert photo.size == size, "the original stays"


def test_data_uri_holds_the_picture() -> None:
    head, _, body = viz.data_uri(Image.new("RGB", (40, 30), "red")).partition(",")
    assert head == "data:image/webp;base64"
    opened = Image.open(io.BytesIO(base64.b64decode(body)))
    assert opened.size == (40, 30)
    red, green, blue = opened.convert("RGB").getpixel((20, 15))
    assert red > 200 > 60 > max(green, blue)


def test_legend_goes_from_the_lowest_to_the_highest_colour() -> None:
    first, last = (bytes(c).hex() for c in viz.colours(np.array([0.0, 1.0], dtype=np.float32)))
    assert viz.legend(3).startswith(f"linear-gradient(90deg, #{first}, ")
    assert viz.legend(3).endswith(f"#{last})")


def test_matches_of_the_narrowest_photos_fit_in_a_picture() -> None:
    """WebP holds 16,383 pixels a side."""
    strip = grey(60 * MAX_SIDE_RATIO, 60)
    drawn = viz.draw_matches(strip, strip, FOUR, np.arange(4))
    assert viz.data_uri(drawn).startswith("data:image/webp")
