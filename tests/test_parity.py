"""Our network against the reference: its own numbers, and an independent one at full width.

``fixtures/parity`` comes from tools/make_parity_fixtures.py; tools/check_vitl_parity.py does the
second comparison at all 24 blocks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import Reference, write_official
from safetensors.torch import load_file

from selavpr import Features, SelaVPR, load_image, weights
from selavpr.images import preprocess
from selavpr.official import load_official

PARITY = Path(__file__).parent / "fixtures" / "parity"
TOLERANCE = 1e-4
VARIANTS = ("tiny", "tiny_reg4")


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "expected.safetensors")


@pytest.fixture(scope="module", params=VARIANTS)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's tiny checkpoint; without registers it has all the other tensors in common."""
    path = PARITY / "tiny_reg4_official.pth"
    if request.param == "tiny_reg4":
        return path
    checkpoint = torch.load(path, weights_only=False)  # ours, with a pickled array in it
    del checkpoint["model_state_dict"]["module.backbone.register_tokens"]
    plain = tmp_path_factory.mktemp("official") / "tiny_official.pth"
    torch.save(checkpoint, plain)
    return plain


def variant(official: Path) -> str:
    return official.stem.removesuffix("_official")


def check(features: Features, expected: dict[str, torch.Tensor], name: str) -> None:
    assert features.local is not None
    assert features.local.shape == (2, 61, 61, 16)
    close(features.tokens, expected[f"{name}.tokens"])
    close(features.descriptor, expected[f"{name}.descriptor"])
    close(features.local[:, ::3, ::3], expected[f"{name}.local.every_third"])
    # Every position enters this, the ones between the kept ones too.
    close(features.local.mean(3), expected[f"{name}.local.channel_means"], 2e-5)


def photos() -> list[Path]:
    return [PARITY / "photo0.png", PARITY / "photo1.png"]


def test_the_fixtures_can_tell_the_variants_apart(expected: dict[str, torch.Tensor]) -> None:
    difference = expected["tiny.tokens"] - expected["tiny_reg4.tokens"]
    assert difference.abs().max() > 100 * TOLERANCE


def test_pixel_values(official: Path, expected: dict[str, torch.Tensor]) -> None:
    config = SelaVPR.from_official_checkpoint(official).config
    pixels = torch.stack([preprocess(load_image(p), config) for p in photos()])
    assert pixels.shape == (2, 3, 224, 224)
    close(pixels[:, :, ::3, ::3], expected["pixel_values.every_third"])
    close(pixels.mean(3), expected["pixel_values.row_means"], 1e-5)
    close(pixels.mean(2), expected["pixel_values.column_means"], 1e-5)


def test_official_checkpoint(official: Path, expected: dict[str, torch.Tensor]) -> None:
    model = SelaVPR.from_official_checkpoint(official, device="cpu", precision="float32")
    assert model.config.registers == (4 if variant(official) == "tiny_reg4" else 0)
    check(model.extract(photos(), local=True), expected, variant(official))


def test_converted_folder(
    official: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = weights.save(load_official(official), tmp_path / "m", with_backbone=True)
    model = SelaVPR.from_pretrained(folder, device="cpu", precision="float32")
    check(model.extract(photos(), local=True), expected, variant(official))


@pytest.mark.parametrize(("height", "width"), [(14, 14), (56, 98), (518, 28), (532, 14)])
def test_other_input_sizes(official: Path, height: int, width: int) -> None:
    """The reference takes any multiple of 14; 37 x 37 patches is where positions are as trained."""
    ours = SelaVPR.from_official_checkpoint(official, device="cpu", precision="float32")
    registers = 4 if variant(official) == "tiny_reg4" else 0
    theirs = Reference(64, 3, 4, registers, 32, 16)
    checkpoint = torch.load(official, weights_only=False)["model_state_dict"]
    theirs.load_state_dict({k.removeprefix("module."): x for k, x in checkpoint.items()})
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = ours(pixels, local=True)
    wanted = theirs(pixels)
    h, w = height // 14, width // 14
    assert found.tokens.shape == (2, h, w, 64)
    assert found.local is not None and found.local.shape == (2, 4 * h - 3, 4 * w - 3, 16)
    close(found.tokens, wanted.tokens)
    close(found.descriptor, wanted.descriptor)
    close(found.local, wanted.local)


def test_the_independent_network_agrees_with_the_reference(
    official: Path, expected: dict[str, torch.Tensor]
) -> None:
    """So that what is compared with it elsewhere is compared with the reference."""
    config = load_official(official).config
    theirs = Reference(64, 3, 4, config.registers, 32, 16)
    checkpoint = torch.load(official, weights_only=False)["model_state_dict"]
    theirs.load_state_dict({k.removeprefix("module."): x for k, x in checkpoint.items()})
    pixels = torch.stack([preprocess(load_image(p), config) for p in photos()])
    out = theirs(pixels)
    check(Features(out.descriptor, out.tokens, out.local), expected, variant(official))


@pytest.mark.parametrize("registers", [0, 4])
def test_full_width_with_random_weights(registers: int, tmp_path: Path) -> None:
    """ViT-L's width and heads, two of its 24 blocks, from a file in the official format."""
    theirs = Reference(width=1024, depth=2, heads=16, registers=registers).randomise(seed=registers)
    path = tmp_path / "SelaVPR_random.pth"
    write_official(theirs, path)
    try:
        ours = SelaVPR.from_official_checkpoint(path, device="cpu", precision="float32")
    finally:
        path.unlink()  # 160 MB that pytest would keep for three runs
    assert (ours.config.heads, ours.config.registers) == (16, registers)
    assert ours.backbone_repo is not None and "large" in ours.backbone_repo
    pixels = torch.randn(1, 3, 112, 98, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, plain = ours(pixels, local=True), ours(pixels, adapted=False)
    wanted = theirs(pixels)
    close(found.tokens, wanted.tokens)
    close(found.descriptor, wanted.descriptor)
    assert found.local is not None
    close(found.local, wanted.local)
    # The adapters have their part in that.
    assert (plain.tokens - wanted.tokens).abs().max() > 1000 * TOLERANCE
