from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, random_model
from PIL import Image

from selavpr import Features, ModelConfig, OptionError, PhotoError, SelaVPR
from selavpr.model import Adapter, GeM, LocalHead
from selavpr.structs import PRESETS


def pixels(batch: int = 2, height: int = 56, width: int = 56, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def photo(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def assert_same(found: Features, expected: Features, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.descriptor, expected.descriptor, rtol=0, atol=atol)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=atol)
    assert (found.local is None) == (expected.local is None)
    if found.local is not None and expected.local is not None:
        torch.testing.assert_close(found.local, expected.local, rtol=0, atol=atol)


# ---- what trains


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: x for name, x in model.named_parameters() if x.requires_grad}


def on_meta(preset: str) -> SelaVPR:
    """Shapes without memory: a full-size network in no time."""
    with torch.device("meta"):
        return SelaVPR(ModelConfig.preset(preset))


@pytest.mark.parametrize("preset", ["vit-l", "vit-l-reg4"])
def test_the_papers_number_of_trainable_parameters(preset: str) -> None:
    counts = {"adapters": 0, "local head": 0, "p": 0}
    for name, x in trainable(on_meta(preset)).items():
        part = "p" if name == "pool.p" else "adapters" if "_adapter." in name else "local head"
        counts[part] += x.numel()
    assert counts == {"adapters": 50_405_376, "local head": 2_654_592, "p": 1}
    assert sum(counts.values()) == 53_059_969


@pytest.mark.parametrize("preset", PRESETS)
def test_trainable_parameters_by_formula(preset: str) -> None:
    """Two adapters a block of C*C/2 weights each way; two 3 x 3 up-convolutions; p."""
    c, depth = PRESETS[preset]["width"], PRESETS[preset]["depth"]
    adapter = 2 * (c * c // 2) + c // 2 + c
    head = 9 * c * 256 + 256 + 9 * 256 * 128 + 128
    expected = 2 * depth * adapter + head + 1
    assert sum(x.numel() for x in trainable(on_meta(preset)).values()) == expected


@pytest.mark.parametrize("registers", [0, 4])
def test_the_backbone_is_frozen(registers: int) -> None:
    """Gradients reach all of the adapters, the local head and p, and nothing else."""
    model = random_model(dataclasses.replace(TINY, registers=registers)).train()
    out = model(pixels(), local=True)
    assert out.local is not None
    target = torch.randn(out.local.shape, generator=torch.Generator().manual_seed(1))
    (out.descriptor[:, 0].sum() + (out.local * target).sum()).backward()
    for name, x in model.named_parameters():
        ours = "_adapter." in name or name.startswith("local_head.") or name == "pool.p"
        assert x.requires_grad == ours, name
        if ours:
            assert x.grad is not None and x.grad.abs().max() > 0, name
        else:
            assert x.grad is None, name


def test_an_untrained_network_is_the_plain_backbone() -> None:
    model = SelaVPR(TINY).eval()
    with torch.inference_mode():
        assert_same(model(pixels(), adapted=True), model(pixels(), adapted=False), atol=0)


def test_trained_adapters_matter_and_can_be_left_out(tiny_model: SelaVPR) -> None:
    with torch.inference_mode():
        with_adapters = tiny_model(pixels())
        plain = tiny_model(pixels(), adapted=False)
        assert (with_adapters.tokens - plain.tokens).abs().max() > 1e-3
        for name, x in tiny_model.named_parameters():
            if "_adapter.up" in name:
                x.zero_()
        assert_same(tiny_model(pixels()), plain, atol=0)


def test_adapters_hold_what_they_are_given() -> None:
    adapter = Adapter(4)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0]]))
        adapter.down.bias.copy_(torch.tensor([0.5, 0.0]))
        adapter.up.weight.copy_(torch.tensor([[2.0, 0], [0, 3], [1, 1], [0, 0]]))
        adapter.up.bias.copy_(torch.tensor([0.0, 0, 0, 7]))
    # Hidden: relu(1 + .5) = 1.5 and relu(-2) = 0.
    out = adapter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert out.tolist() == [3, 0, 1.5, 7]


# ---- shapes


@pytest.mark.parametrize(("height", "width"), [(14, 14), (56, 56), (28, 98), (112, 42), (518, 14)])
@pytest.mark.parametrize("registers", [0, 4])
def test_shapes(height: int, width: int, registers: int) -> None:
    model = random_model(dataclasses.replace(TINY, registers=registers))
    h, w = height // 14, width // 14
    with torch.inference_mode():
        out = model(pixels(3, height, width), local=True)
    assert out.descriptor.shape == (3, 32)
    assert out.tokens.shape == (3, h, w, 32)
    assert out.local is not None and out.local.shape == (3, 4 * h - 3, 4 * w - 3, 8)
    assert {x.dtype for x in (out.descriptor, out.tokens, out.local)} == {torch.float32}
    ones = torch.ones(())
    torch.testing.assert_close(out.descriptor.norm(dim=-1), ones.expand(3))
    norms = out.local.norm(dim=-1)
    torch.testing.assert_close(norms, ones.expand_as(norms))


def test_local_is_made_from_tokens_where_it_is_asked_for(tiny_model: SelaVPR) -> None:
    with torch.inference_mode():
        without, with_local = tiny_model(pixels()), tiny_model(pixels(), local=True)
        assert without.local is None and with_local.local is not None
        assert torch.equal(tiny_model.densify(without.tokens), with_local.local)


def test_projected_tokens_are_every_fourth_local_descriptor(tiny_model: SelaVPR) -> None:
    with torch.inference_mode():
        features = tiny_model(pixels(), local=True)
        projected = tiny_model.project(features.tokens)
    assert features.local is not None and projected.shape[:3] == features.tokens.shape[:3]
    torch.testing.assert_close(projected, features.local[:, ::4, ::4])


def test_a_fingerprint_tells_how_a_model_ranks(tiny_model: SelaVPR) -> None:
    expected = dataclasses.replace(TINY, scoring="expected")
    other = random_model(expected)
    assert other.fingerprint() != tiny_model.fingerprint() == random_model(TINY).fingerprint()
    # References are described alike, so their index serves either.
    asking = random_model(dataclasses.replace(expected, query_scales=(1.5,), agreement=True))
    assert asking.fingerprint() == other.fingerprint()


def test_extract_in_another_size(tiny_model: SelaVPR) -> None:
    config = dataclasses.replace(TINY, input_size=round(TINY.input_size * 1.5 / 14) * 14)
    (found,) = tiny_model.extract_each([photo(1)], local=True, scale=1.5)
    assert found.tokens.shape[1] == config.input_size // 14 != TINY.input_size // 14
    assert_same(found, random_model(config).extract(photo(1), local=True))
    with pytest.raises(OptionError, match="input_size"):
        tiny_model.extract_each([photo(1)], scale=1000)


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 56, 55), (2, 3, 57, 56), (2, 1, 56, 56), (3, 56, 56), (0, 3, 56, 56), (2, 3, 0, 56)],
)
def test_shapes_that_do_not_fit(tiny_model: SelaVPR, shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="multiples of 14"):
        tiny_model(torch.zeros(shape))


def test_position_matters(tiny_model: SelaVPR) -> None:
    """A wall of equal patches still has tokens that differ: by their positions alone."""
    with torch.inference_mode():
        out = tiny_model(torch.zeros(1, 3, 56, 56))
    tokens = out.tokens.flatten(0, 2)
    apart = torch.cdist(tokens, tokens) + torch.eye(16)
    assert apart.min() > 1e-3


# ---- pooling and local head


def test_gem_by_hand() -> None:
    """Tokens (3, 4) and (1, 0), as unit vectors (.6, .8) and (1, 0), p = 3."""
    tokens = torch.tensor([[[[3.0, 4.0], [1.0, 0.0]]]])
    x, y = ((0.6**3 + 1) / 2) ** (1 / 3), ((0.8**3 + 1e-18) / 2) ** (1 / 3)
    expected = torch.tensor([[x, y]]) / (x * x + y * y) ** 0.5
    torch.testing.assert_close(GeM()(tokens), expected)


def test_gem_clamps_what_is_negative() -> None:
    out = GeM()(torch.tensor([[[[-3.0, 4.0]]]]))
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, torch.tensor([[1e-6 / 0.8, 1.0]]), rtol=1e-3, atol=1e-8)


def test_projection_start_projects_and_interpolates() -> None:
    """The head then is a centred projection, upsampled bilinearly from corner to corner."""
    generator = torch.Generator().manual_seed(0)
    head = LocalHead(12, 10, 4)
    mean, projection = torch.randn(12, generator=generator), torch.randn(4, 12, generator=generator)
    head.start_as_projection(mean, projection)
    tokens = torch.randn(2, 3, 5, 12, generator=generator)
    coarse = ((tokens - mean) @ projection.T).permute(0, 3, 1, 2)
    dense = F.interpolate(coarse, size=(9, 17), mode="bilinear", align_corners=True)
    expected = F.normalize(dense.permute(0, 2, 3, 1), dim=-1)
    torch.testing.assert_close(head(tokens), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("hidden", "dim"), [(7, 4), (8, 3)])
def test_projection_start_needs_room(hidden: int, dim: int) -> None:
    with pytest.raises(OptionError, match="twice local_dim"):
        LocalHead(12, hidden, dim).start_as_projection(torch.zeros(12), torch.zeros(4, 12))


# ---- extract


def test_extract_keeps_the_order_whatever_the_batches(tiny_model: SelaVPR) -> None:
    photos = [photo(i) for i in range(5)]
    together = tiny_model.extract(photos, local=True)
    assert len(together) == 5
    for batch_size in (1, 2, 100):
        again = tiny_model.extract(photos, local=True, batch_size=batch_size)
        assert_same(again, together)
    for i, one in enumerate(photos):
        assert_same(tiny_model.extract(one, local=True), together[i])


def test_extract_takes_what_load_image_takes(
    tiny_model: SelaVPR, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = photo(1)
    path = tmp_path_factory.mktemp("photos") / "a.png"
    image.save(path)
    expected = tiny_model.extract([image])
    for source in (image, path, str(path), path.read_bytes(), np.asarray(image)):
        assert_same(tiny_model.extract(source), expected)
        assert_same(tiny_model.extract([source]), expected)


def test_extract_of_a_generator(tiny_model: SelaVPR) -> None:
    def photos() -> Iterator[Image.Image]:
        yield photo(1)
        yield photo(2)

    assert_same(tiny_model.extract(photos()), tiny_model.extract([photo(1), photo(2)]))  # type: ignore[arg-type]


def test_extract_without_adapters(tiny_model: SelaVPR) -> None:
    plain = tiny_model.extract(photo(1), adapted=False)
    assert (plain.tokens - tiny_model.extract(photo(1)).tokens).abs().max() > 1e-3


def test_extract_of_nothing(tiny_model: SelaVPR) -> None:
    with pytest.raises(OptionError, match="at least one photo"):
        tiny_model.extract([])
    assert tiny_model.extract_each([]) == []


@pytest.mark.parametrize("batch_size", [0, -1])
def test_extract_batch_size(tiny_model: SelaVPR, batch_size: int) -> None:
    with pytest.raises(OptionError, match="batch_size must be 1 or more"):
        tiny_model.extract([photo(1)], batch_size=batch_size)


def test_extract_of_what_is_no_photo(tiny_model: SelaVPR) -> None:
    with pytest.raises(PhotoError):
        tiny_model.extract([photo(1), b"no photo"])


def test_aspect_kept() -> None:
    model = random_model(dataclasses.replace(TINY, resize="keep-aspect", input_size=84))
    wide, high = photo(1, (120, 60)), photo(2, (60, 120))
    with pytest.raises(OptionError, match="different shapes"):
        model.extract([wide, high])
    each = model.extract_each([wide, high, photo(3, (120, 60))], local=True)
    # 6 / sqrt(2) = 4.24 and 6 * sqrt(2) = 8.49 patches
    assert [tuple(one.tokens.shape) for one in each] == [
        (1, 4, 8, 32),
        (1, 8, 4, 32),
        (1, 4, 8, 32),
    ]
    assert_same(each[1], model.extract(high, local=True))
    assert_same(each[2], model.extract(photo(3, (120, 60)), local=True))


@pytest.mark.parametrize("training", [True, False])
def test_extract_leaves_the_mode_alone(tiny_model: SelaVPR, training: bool) -> None:
    tiny_model.train(training)
    tiny_model.extract(photo(1))
    assert tiny_model.training == training
    assert all(block.training == training for block in tiny_model.backbone.blocks)


def test_extract_needs_no_gradients(tiny_model: SelaVPR) -> None:
    out = tiny_model.extract(photo(1), local=True)
    assert out.local is not None
    assert not any(x.requires_grad for x in (out.descriptor, out.tokens, out.local))
    assert all(x.grad is None for x in tiny_model.parameters())


# ---- device and precision


def test_bfloat16_is_close_to_float32(tiny_model: SelaVPR) -> None:
    exact = tiny_model.place("cpu", "float32").extract([photo(1), photo(2)], local=True)
    rounded = tiny_model.place("cpu", "bfloat16").extract([photo(1), photo(2)], local=True)
    assert rounded.local is not None and exact.local is not None
    for found, expected in (
        (rounded.descriptor, exact.descriptor),
        (rounded.local, exact.local),
        (F.normalize(rounded.tokens, dim=-1), F.normalize(exact.tokens, dim=-1)),
    ):
        assert found.dtype == torch.float32
        assert (found * expected).sum(-1).min() > 0.99
    assert not torch.equal(rounded.tokens, exact.tokens)  # it was in another precision


def test_parameters_stay_in_float32(tiny_model: SelaVPR) -> None:
    tiny_model.place("cpu", "bfloat16").extract(photo(1))
    assert {x.dtype for x in tiny_model.parameters()} == {torch.float32}


def test_float16_needs_a_gpu(tiny_model: SelaVPR) -> None:
    with pytest.raises(OptionError, match="float16 needs a GPU"):
        tiny_model.place("cpu", "float16")


@pytest.mark.parametrize("precision", ["", "double", "fp32", "float64"])
def test_unknown_precision(tiny_model: SelaVPR, precision: str) -> None:
    with pytest.raises(OptionError, match="precision must be auto, float32, bfloat16, float16"):
        tiny_model.place("cpu", precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["", "gpu", "cuda:99", "tpu"])
def test_unknown_device(tiny_model: SelaVPR, device: str) -> None:
    with pytest.raises(OptionError, match="no device"):
        tiny_model.place(device)


def test_auto_is_possible_here(tiny_model: SelaVPR) -> None:
    assert len(tiny_model.place().extract(photo(1))) == 1


# ---- identity


def test_the_weights_make_the_same_model(tiny_reg4_model: SelaVPR) -> None:
    copy = SelaVPR.from_weights(tiny_reg4_model.to_weights(), device="cpu", precision="float32")
    assert not copy.training
    assert copy.fingerprint() == tiny_reg4_model.fingerprint()
    with torch.inference_mode():
        assert_same(copy(pixels(), local=True), tiny_reg4_model(pixels(), local=True), atol=0)


@pytest.mark.parametrize("name", ["backbone.norm.weight", "local_head.up2.bias", "pool.p"])
def test_the_fingerprint_is_of_all_tensors(tiny_model: SelaVPR, name: str) -> None:
    before = tiny_model.fingerprint()
    assert before.startswith("sha256:") and before == random_model(TINY).fingerprint()
    with torch.no_grad():
        tiny_model.get_parameter(name).flatten()[0] += 0.5
    assert tiny_model.fingerprint() != before


def test_the_fingerprint_is_of_the_settings(tiny_model: SelaVPR) -> None:
    other = random_model(dataclasses.replace(TINY, antialias=True))
    assert other.fingerprint() != tiny_model.fingerprint()


def test_fewer_blocks_use_the_first_ones(tiny_model: SelaVPR) -> None:
    """A preset may stop early: the backbone file still holds all blocks."""
    whole = tiny_model.to_weights()
    shallow = dataclasses.replace(
        whole,
        config=dataclasses.replace(TINY, depth=1),
        trained={n: x for n, x in whole.trained.items() if ".blocks.1." not in n},
    )
    model = SelaVPR.from_weights(shallow, device="cpu", precision="float32")
    assert len(model.backbone.blocks) == 1
    tiny_model.backbone.blocks = tiny_model.backbone.blocks[:1]
    with torch.inference_mode():
        assert_same(model(pixels(), local=True), tiny_model(pixels(), local=True), atol=0)
