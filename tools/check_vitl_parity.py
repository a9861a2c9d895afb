"""Compare ViT-L/14 at all 24 blocks with the independent network of tests/reference.py.

The weights are random but seeded, written and read as an official checkpoint (1.4 GB, deleted
afterwards); the suite does the same with two blocks. Needs 6 GB of memory and a few minutes.

    python -m tools.check_vitl_parity
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from selavpr import SelaVPR
from tests.reference import Reference, write_official

TOLERANCE = 1e-4


def main() -> int:
    """Print the largest difference of every output, both variants; 0 when all are small."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="side of the input in pixels")
    arguments = parser.parse_args()
    worst = max(check(registers, arguments.size) for registers in (0, 4))
    print(f"worst difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def check(registers: int, size: int) -> float:
    """The largest absolute difference over tokens, global and local features."""
    started = time.perf_counter()
    theirs = Reference(width=1024, depth=24, heads=16, registers=registers).randomise(registers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "SelaVPR_random.pth"
        write_official(theirs, path)
        print(f"{path.stat().st_size / 1e9:.2f} GB written", flush=True)
        ours = SelaVPR.from_official_checkpoint(path, device="cpu", precision="float32")
    trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, plain = ours(pixels, local=True), ours(pixels, adapted=False)
    wanted = theirs(pixels)
    assert found.local is not None
    differences = {
        "tokens": (found.tokens - wanted.tokens).abs().max().item(),
        "global": (found.descriptor - wanted.descriptor).abs().max().item(),
        "local": (found.local - wanted.local).abs().max().item(),
    }
    print(
        f"vit-l, {registers} registers, {size} x {size}, {trained:,d} trainable: "
        + ", ".join(f"{name} {x:.1e}" for name, x in differences.items())
        + f" (without adapters the tokens differ by "
        f"{(plain.tokens - wanted.tokens).abs().max().item():.2f}); "
        f"{time.perf_counter() - started:.0f} s",
        flush=True,
    )
    return max(differences.values())


if __name__ == "__main__":
    raise SystemExit(main())
