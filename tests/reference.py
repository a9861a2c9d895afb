"""The reference network once more, in plain torch: what ours is compared with.

Written from the facts in REFERENCE.md alone, sharing no code with selavpr.model: own attention,
own block, own bicubic resampling by an explicit matrix. Module names give the official keys, so
``state_dict()`` is a ``model_state_dict`` of the reference once ``module.`` stands in front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Container(nn.Module):
    """Holds named children; the arithmetic is in the functions below."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))


class Power(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))


@dataclass(frozen=True)
class Outputs:
    tokens: Tensor  # [B, h, w, C]
    descriptor: Tensor  # [B, C]
    local: Tensor  # [B, 4h-3, 4w-3, d]


class Reference(nn.Module):
    """SelaVPR as published: DINOv2 with adapters, GeM, two up-convolutions."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        registers: int = 0,
        local_hidden: int = 256,
        local_dim: int = 128,
    ) -> None:
        super().__init__()
        self.width, self.heads, self.registers = width, heads, registers
        vit = nn.Module()
        vit.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        vit.pos_embed = nn.Parameter(torch.zeros(1, 1 + 37 * 37, width))
        if registers:
            vit.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        vit.mask_token = nn.Parameter(torch.zeros(1, width))
        vit.patch_embed = Container(proj=nn.Conv2d(3, width, 14, stride=14))
        vit.blocks = nn.ModuleList(reference_block(width) for _ in range(depth))
        vit.norm = nn.LayerNorm(width, eps=1e-6)
        self.backbone = vit
        self.aggregation = nn.ModuleList([nn.Identity(), Power(), nn.Identity()])
        self.LocalAdapt = Container(
            upconv1=nn.ConvTranspose2d(width, local_hidden, 3, stride=2, padding=1),
            upconv2=nn.ConvTranspose2d(local_hidden, local_dim, 3, stride=2, padding=1),
        )

    @torch.no_grad()
    def randomise(self, seed: int) -> Reference:
        """Give every tensor seeded values of a size that keeps activations near 1."""
        generator = torch.Generator().manual_seed(seed)
        for name, x in self.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            if name.endswith(".p"):
                x.fill_(2.6)
            elif "norm" in name and name.endswith("weight"):
                x.copy_(1 + 0.1 * noise)
            elif name.endswith("gamma"):
                x.copy_(0.2 + 0.1 * noise)
            elif x.ndim >= 2 and "token" not in name and "embed" not in name.split(".")[-1]:
                # Inputs of an output: all but the first axis; of an up-convolution, the first.
                fan_in = x.shape[0] if "upconv" in name else x[0].numel()
                x.copy_(noise / math.sqrt(fan_in))
            else:
                x.copy_(0.1 * noise)
        return self

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Outputs:
        """``[B, 3, H, W]``, normalised, to all three outputs."""
        vit = self.backbone
        h, w = pixel_values.shape[2] // 14, pixel_values.shape[3] // 14
        patches = vit.patch_embed.proj(pixel_values)  # [B, C, h, w]
        patches = patches.permute(0, 2, 3, 1) + resampled(vit.pos_embed[0, 1:], h, w)
        rows = []
        for picture in patches:
            row = [vit.cls_token[0] + vit.pos_embed[0, :1]]
            if self.registers:
                row.append(vit.register_tokens[0])  # after the positions: registers have none
            rows.append(torch.cat([*row, picture.reshape(h * w, self.width)]))
        x = torch.stack(rows)
        for block in vit.blocks:
            x = self.run_block(block, x)
        tokens = vit.norm(x)[:, 1 + self.registers :].reshape(-1, h, w, self.width)
        return Outputs(tokens, self.pooled(tokens), self.dense(tokens))

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        attended = attention(block.attn, block.norm1(x), self.heads)
        x = x + block.ls1.gamma * (attended + adapter(block.adapter1, attended))
        normed = block.norm2(x)
        hidden = block.mlp.fc1(normed)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))  # the exact GELU
        return x + block.ls2.gamma * (block.mlp.fc2(hidden) + 0.2 * adapter(block.adapter2, normed))

    def pooled(self, tokens: Tensor) -> Tensor:
        p = self.aggregation[1].p
        unit = tokens / tokens.norm(dim=3, keepdim=True)
        mean = torch.clamp(unit, min=1e-6).flatten(1, 2).pow(p).mean(1).pow(1 / p)
        return mean / mean.norm(dim=1, keepdim=True)

    def dense(self, tokens: Tensor) -> Tensor:
        head = self.LocalAdapt
        x = head.upconv2(torch.clamp(head.upconv1(tokens.permute(0, 3, 1, 2)), min=0))
        return (x / x.norm(dim=1, keepdim=True)).permute(0, 2, 3, 1)


def reference_block(width: int) -> nn.Module:
    return Container(
        norm1=nn.LayerNorm(width, eps=1e-6),
        attn=Container(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)),
        ls1=Scale(width),
        norm2=nn.LayerNorm(width, eps=1e-6),
        mlp=Container(fc1=nn.Linear(width, 4 * width), fc2=nn.Linear(4 * width, width)),
        ls2=Scale(width),
        adapter1=Container(D_fc1=nn.Linear(width, width // 2), D_fc2=nn.Linear(width // 2, width)),
        adapter2=Container(D_fc1=nn.Linear(width, width // 2), D_fc2=nn.Linear(width // 2, width)),
    )


def adapter(module: nn.Module, x: Tensor) -> Tensor:
    return module.D_fc2(torch.clamp(module.D_fc1(x), min=0))


def attention(module: nn.Module, x: Tensor, heads: int) -> Tensor:
    """Multi-head attention, one head at a time."""
    width = x.shape[2]
    size = width // heads
    queries, keys, values = module.qkv(x).split(width, dim=2)
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(size)
        out.append(torch.softmax(scores, dim=2) @ values[..., part])
    return module.proj(torch.cat(out, dim=2))


def resampled(grid: Tensor, h: int, w: int) -> Tensor:
    """Positions ``[37*37, C]`` as ``[h, w, C]``: bicubic, scale (n + 0.1) / 37, no antialias."""
    square = grid.reshape(37, 37, -1).double()
    if (h, w) != (37, 37):
        square = torch.einsum("ij,kl,jlc->ikc", bicubic(h), bicubic(w), square)
    return square.to(grid.dtype)


def bicubic(n: int) -> Tensor:
    """``[n, 37]``: weights of the 37 samples in each output, Keys' cubic with a = -0.75."""
    matrix = np.zeros((n, 37))
    for i in range(n):
        centre = (i + 0.5) * 37 / (n + 0.1) - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            d, a = abs(centre - j), -0.75
            if d <= 1:
                weight = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                weight = a * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[i, min(max(j, 0), 36)] += weight  # the border repeats outside
    return torch.from_numpy(matrix)


def write_official(network: Reference, path: Path) -> None:
    """Save as the authors' train.py does: everything around the weights included."""
    recalls = np.array([81.2, 90.4, 92.3, 95.1])
    torch.save(
        {
            "epoch_num": 7,
            "model_state_dict": {f"module.{k}": x for k, x in network.state_dict().items()},
            "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-5, "params": [0]}]},
            "recalls": recalls,
            "best_r5": recalls[1],  # a NumPy scalar, as in the reference
            "not_improved_num": 0,
        },
        path,
    )
