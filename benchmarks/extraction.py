"""Time to extract one photo: ViT-S and ViT-L, float32 and bfloat16, global only and with local.

    python -m benchmarks.extraction [--repeats 5] [--json OUT]

Weights are random: time does not depend on them. The photo is 640 x 480 and already decoded.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selavpr import ModelConfig, SelaVPR, replay


def seconds(model: SelaVPR, photo: Image.Image, local: bool, repeats: int) -> float:
    """Median seconds of one photo, after one to warm up; on a GPU after as many as it records."""
    times = []
    warm = replay.SEEN + 2 if model.device.type == "cuda" else 1
    for _ in range(repeats + warm):
        start = time.perf_counter()
        model.extract([photo], local=local)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm:])


def machine(device: str) -> str:
    """What it runs on."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def measure(device: str, repeats: int) -> dict[str, Any]:
    """Time every model in every precision; prints the table."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    report: dict[str, Any] = {"machine": machine(device), "rows": []}
    print(f"{'model':<8} {'precision':<9} {'global ms':>10} {'with local ms':>14}")
    for preset in ("vit-s", "vit-l"):
        model = SelaVPR(ModelConfig.preset(preset)).eval()
        for precision in ("float32", "bfloat16"):
            model.place(device, precision)  # type: ignore[arg-type]
            plain, full = (1e3 * seconds(model, photo, x, repeats) for x in (False, True))
            print(f"{preset:<8} {precision:<9} {plain:10.1f} {full:14.1f}")
            report["rows"].append(
                {
                    "model": preset,
                    "precision": precision,
                    "device": str(model.device),
                    "global_ms": plain,
                    "local_ms": full,
                }
            )
    return report


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = measure(args.device, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
