"""Make tests/fixtures/parity from the reference's own numbers in ../shared/parity.

The two checkpoints there differ in the register tokens alone, so only the one with registers is
kept; the tests take the registers out for the other. Its float64 tensors are stored as float32,
which is what the network computes in, except the ones named in KEEP_DOUBLE. Tensors too bulky to
keep whole are kept at every third position, together with sums that every position enters.

    python -m tools.make_parity_fixtures [../shared/parity] [tests/fixtures/parity]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image

VARIANTS = ("tiny", "tiny_reg4")
KEEP_DOUBLE = ("module.backbone.blocks.0.adapter1.D_fc1.weight",)
REGISTERS = "module.backbone.register_tokens"
STEP = 3


def main() -> None:
    """Read the reference's files, check what is assumed about them, write the fixtures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/parity"))
    parser.add_argument("target", type=Path, nargs="?", default=Path("tests/fixtures/parity"))
    arguments = parser.parse_args()
    arguments.target.mkdir(parents=True, exist_ok=True)
    write_checkpoint(arguments.source, arguments.target)
    write_expected(arguments.source, arguments.target)
    for path in sorted(arguments.target.iterdir()):
        print(f"{path.stat().st_size:>9,d}  {path}")


def write_checkpoint(source: Path, target: Path) -> None:
    """Store the checkpoint with registers in the official format, most tensors halved in size."""
    # The files hold a pickled NumPy array, and they are ours: trusted.
    plain, reg4 = (torch.load(source / f"{v}_official.pth", weights_only=False) for v in VARIANTS)
    state = reg4["model_state_dict"]
    rest = {name: x for name, x in state.items() if name != REGISTERS}
    assert list(rest) == list(plain["model_state_dict"])
    assert all(torch.equal(x, plain["model_state_dict"][name]) for name, x in rest.items())
    reg4["model_state_dict"] = {
        name: x.clone() if name in KEEP_DOUBLE else x.float().clone() for name, x in state.items()
    }
    torch.save(reg4, target / "tiny_reg4_official.pth")


def write_expected(source: Path, target: Path) -> None:
    """Store the photos losslessly and the numbers the reference computed from them."""
    first, second = (
        safetensors.torch.load_file(source / f"{v}_expected.safetensors") for v in VARIANTS
    )
    for shared in ("images_uint8", "pixel_values"):
        assert torch.equal(first[shared], second[shared])
    for i, photo in enumerate(first["images_uint8"]):
        Image.fromarray(photo.numpy()).save(target / f"photo{i}.png", optimize=True)
    pixels = first["pixel_values"]
    out = {
        "pixel_values.every_third": pixels[:, :, ::STEP, ::STEP],
        "pixel_values.row_means": pixels.double().mean(3),
        "pixel_values.column_means": pixels.double().mean(2),
    }
    for variant, expected in zip(VARIANTS, (first, second), strict=True):
        local = expected["local"]
        out[f"{variant}.tokens"] = expected["patch_tokens"]
        out[f"{variant}.descriptor"] = expected["global"]
        out[f"{variant}.local.every_third"] = local[:, ::STEP, ::STEP]
        out[f"{variant}.local.channel_means"] = local.double().mean(3)
    tensors = {name: x.float().contiguous() for name, x in out.items()}
    safetensors.torch.save_file(tensors, target / "expected.safetensors")


if __name__ == "__main__":
    main()
