from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from selavpr import Features, Matches, ModelConfig, OptionError
from selavpr.geo import Location
from selavpr.structs import PRESETS, Candidate, Estimate, Place, Recognition

GOOD: dict[str, Any] = dict(width=32, depth=2, heads=4)


# ---- ModelConfig


@pytest.mark.parametrize(
    "field", ["width", "depth", "heads", "local_hidden", "local_dim", "input_size"]
)
@pytest.mark.parametrize("bad", [0, -1, 1.5, 32.0, "32", None, True])
def test_positive_whole_numbers(field: str, bad: Any) -> None:
    with pytest.raises(OptionError, match=f"^{field} must be a positive whole number"):
        ModelConfig(**{**GOOD, field: bad})


@pytest.mark.parametrize("bad", [-1, 1.5, "4", None, False])
def test_registers(bad: Any) -> None:
    with pytest.raises(OptionError, match=r"^registers must be"):
        ModelConfig(**GOOD, registers=bad)
    assert ModelConfig(**GOOD, registers=0).registers == 0


@pytest.mark.parametrize(("width", "heads"), [(33, 3), (32, 5), (31, 1)])
def test_width_heads(width: int, heads: int) -> None:
    with pytest.raises(OptionError, match="even and divisible by heads"):
        ModelConfig(width=width, depth=1, heads=heads)


@pytest.mark.parametrize("bad", [1, 13, 15, 223, 225])
def test_input_size_is_a_multiple_of_14(bad: int) -> None:
    with pytest.raises(OptionError, match="multiple of 14"):
        ModelConfig(**GOOD, input_size=bad)


@pytest.mark.parametrize("bad", ["Squash", "", "crop", None, 1])
def test_resize(bad: Any) -> None:
    with pytest.raises(OptionError, match="resize must be 'squash' or 'keep-aspect'"):
        ModelConfig(**GOOD, resize=bad)


@pytest.mark.parametrize("bad", [0, 1, "yes", None])
def test_antialias(bad: Any) -> None:
    with pytest.raises(OptionError, match="antialias must be true or false"):
        ModelConfig(**GOOD, antialias=bad)


@pytest.mark.parametrize("bad", ["0.2", None, True])
def test_adapter_scale(bad: Any) -> None:
    with pytest.raises(OptionError, match="adapter_scale must be a number"):
        ModelConfig(**GOOD, adapter_scale=bad)
    assert ModelConfig(**GOOD, adapter_scale=1).adapter_scale == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_adapter_scale_is_finite(bad: float) -> None:
    with pytest.raises(OptionError, match="adapter_scale"):
        ModelConfig(**GOOD, adapter_scale=bad)


def test_the_defaults_are_the_papers() -> None:
    config = ModelConfig(**GOOD)
    assert (config.input_size, config.adapter_scale) == (224, 0.2)
    assert (config.local_hidden, config.local_dim) == (256, 128)
    assert (config.resize, config.antialias, config.registers) == ("squash", False, 0)


def test_presets() -> None:
    """The table of the DINOv2 paper: width, depth, heads; heads are 64 channels wide."""
    shapes = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
    assert set(PRESETS) == {f"vit-{x}{reg}" for x in shapes for reg in ("", "-reg4")}
    for name in PRESETS:
        config = ModelConfig.preset(name)
        assert (config.width, config.depth, config.heads) == shapes[name[4]]
        assert config.registers == (4 if name.endswith("-reg4") else 0)
        assert config.width == 64 * config.heads


def test_preset_with_changes() -> None:
    config = ModelConfig.preset("vit-s", depth=9, input_size=322)
    assert (config.width, config.depth, config.input_size) == (384, 9, 322)
    with pytest.raises(OptionError, match="multiple of 14"):
        ModelConfig.preset("vit-s", input_size=320)
    assert ModelConfig.preset("vit-s").depth == 12  # the table itself is as it was


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'vit-g'.*vit-s.*vit-l-reg4"):
        ModelConfig.preset("vit-g")


def test_preset_with_unknown_changes() -> None:
    with pytest.raises(OptionError, match="colour"):
        ModelConfig.preset("vit-s", colour=1)


def test_dict_round_trip() -> None:
    config = ModelConfig(
        **GOOD, registers=4, adapter_scale=0.5, resize="keep-aspect", antialias=True
    )
    assert ModelConfig.from_dict(dataclasses.asdict(config)) == config


def test_a_query_may_be_looked_at_in_further_sizes() -> None:
    config = ModelConfig.from_dict(
        {**GOOD, "input_size": 364, "scoring": "expected", "query_scales": [0.885, 1.5]}
    )
    assert config.query_scales == (0.885, 1.5)
    sizes = [config.at_scale(scale).input_size for scale in config.query_scales]
    assert sizes == [322, 546]
    assert config.at_scale(0.885) == dataclasses.replace(config, input_size=322, query_scales=())
    assert config.at_scale(0.001).input_size == 14


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query_scales": (0.1,)}, "from 0.25 to 4"),
        ({"query_scales": ("1",)}, "from 0.25 to 4"),
        ({"query_scales": 0.9}, "from 0.25 to 4"),
        ({"query_scales": (3.0,), "input_size": 1400}, "up to 2044, not 4200"),
        ({"query_scales": (0.9,), "scoring": "count"}, "scoring 'expected'"),
        ({"agreement": 1}, "agreement must be true or false"),
        ({"agreement": True, "scoring": "count"}, "agreement needs the scoring 'expected'"),
    ],
)
def test_ways_in_which_no_query_can_be_asked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        ModelConfig.from_dict({**GOOD, "scoring": "expected", **changes})


def test_from_dict_errors() -> None:
    with pytest.raises(OptionError, match="Unknown model option: colour, patch"):
        ModelConfig.from_dict({**GOOD, "patch": 16, "colour": 1})
    with pytest.raises(OptionError, match=r"incomplete.*depth"):
        ModelConfig.from_dict({"width": 32, "heads": 4})
    with pytest.raises(OptionError, match="depth must be"):
        ModelConfig.from_dict({**GOOD, "depth": "2"})


# ---- Features


def features(batch: int = 4, h: int = 2, w: int = 3, local: bool = True) -> Features:
    """Every number tells the photo it belongs to."""
    number = torch.arange(float(batch))
    return Features(
        number[:, None].expand(batch, 5).clone(),
        number[:, None, None, None].expand(batch, h, w, 5).clone(),
        number[:, None, None, None].expand(batch, 4 * h - 3, 4 * w - 3, 2).clone()
        if local
        else None,
    )


def photos_in(some: Features) -> list[float]:
    first = some.descriptor[:, 0].tolist()
    assert some.tokens[:, 0, 0, 0].tolist() == first
    if some.local is not None:
        assert some.local[:, 0, 0, 0].tolist() == first
    return [float(x) for x in first]


@pytest.mark.parametrize("local", [True, False])
def test_indexing(local: bool) -> None:
    some = features(local=local)
    assert len(some) == 4
    assert photos_in(some[0]) == [0]
    assert photos_in(some[3]) == [3]
    assert photos_in(some[-1]) == [3]
    assert photos_in(some[-4]) == [0]
    assert photos_in(some[1:3]) == [1, 2]
    assert photos_in(some[::2]) == [0, 2]
    assert photos_in(some[:0]) == []
    assert (some[1].local is None) == (not local)
    assert some[1].tokens.shape == (1, 2, 3, 5)


@pytest.mark.parametrize("row", [4, 100, -5])
def test_an_index_out_of_range_is_an_error(row: int) -> None:
    with pytest.raises(IndexError):
        features()[row]


def test_iteration() -> None:
    assert [photos_in(one) for one in features(3)] == [[0], [1], [2]]
    assert list(features(0)) == []


def test_to() -> None:
    some = features()
    half = some.to(torch.float16)
    assert half.descriptor.dtype == half.tokens.dtype == torch.float16
    assert half.local is not None and half.local.dtype == torch.float16
    assert some.tokens.dtype == torch.float32
    meta = features(local=False).to("meta")
    assert meta.tokens.device.type == "meta" and meta.local is None


def test_cat() -> None:
    some = features()
    assert photos_in(Features.cat([some[2], some[:2]])) == [2, 0, 1]
    joined = Features.cat([some[0], features(2, local=False)])
    assert len(joined) == 3 and joined.local is None
    assert joined.descriptor.shape == (3, 5)


def test_cat_errors() -> None:
    with pytest.raises(OptionError, match="at least one photo"):
        Features.cat([])
    with pytest.raises(OptionError, match="different shapes"):
        Features.cat([features(h=2, w=3), features(h=3, w=2)])


# ---- Matches


def matches(*similarity: float) -> Matches:
    count = len(similarity)
    return Matches(torch.arange(count), 10 + torch.arange(count), torch.tensor(similarity))


def test_top() -> None:
    best = matches(0.2, 0.9, 0.5, 0.9).top(3)
    assert best.query.tolist() == [1, 3, 2]  # ties by query row
    assert best.candidate.tolist() == [11, 13, 12]
    assert best.similarity.tolist() == pytest.approx([0.9, 0.9, 0.5])


@pytest.mark.parametrize(("count", "left"), [(0, 0), (-3, 0), (2, 2), (99, 2)])
def test_top_with_any_count(count: int, left: int) -> None:
    assert len(matches(0.1, 0.2).top(count)) == left
    assert len(matches().top(count)) == 0


# ---- the rest


def test_recognition_knows_the_first_stages_order() -> None:
    place = Place("a", "", Location(0, 0))
    ranks = [(3, 1), (1, 2), (2, 3)]  # (global_rank, rank)
    candidates = tuple(
        Candidate(place, row, global_rank, rank, 0.5)
        for row, (global_rank, rank) in enumerate(ranks)
    )
    answer = Recognition(
        (640, 480),
        candidates,
        Estimate(place.location, None, None, None, "unsure"),
        place.location,
        features(1),
        {},
    )
    assert [c.row for c in answer.by_global_rank] == [1, 2, 0]
    assert [c.row for c in answer.candidates] == [0, 1, 2]


@pytest.mark.parametrize("value", [ModelConfig(**GOOD), features(1), matches(0.1)])
def test_structs_are_frozen(value: Any) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)
