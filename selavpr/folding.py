"""Adapted blocks multiplied out for inference: the same function in fewer steps.

For one photo a GPU spends its time on the number of steps, not on their size. What is linear and
follows something linear becomes one matrix: the adapter's first layer with the attention's last,
LayerScale with what it scales. What is added up becomes one product: the MLP and the adapter beside
it read the same rows and write the same sum.

With a = P o + p the attention's output, g its LayerScale and s the adapter's (paper, eq. 4 and 5):

    g (a + U relu(D a + d) + u)           = [g P] o + g (p + u) + [g U] relu([D P] o + D p + d)
    g (W2 gelu(W1 n + b1) + b2
       + s (U relu(D n + d) + u))         = [g W2, g s U] [gelu(W1 n + b1); relu(D n + d)]
                                            + g (b2 + s u)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FoldedBlock:
    """What an adapted block computes without gradients, its matrices multiplied out once.

    The rows that pass from block to block stay float32; matrix products are of the precision.
    """

    @torch.no_grad()
    def __init__(self, block: Any, precision: torch.dtype) -> None:
        """Take the weights of an ``AdaptedBlock``; they are multiplied in float32, then cast."""
        attention, serial, parallel = block.attn, block.attn_adapter, block.mlp_adapter
        gain, out, down, up = block.ls1.gamma, attention.proj, serial.down, serial.up
        self.heads: int = attention.num_heads
        self.precision = precision
        self.norms = (block.norm1, block.norm2)
        self.qkv = _cast(precision, attention.qkv.weight, attention.qkv.bias)
        self.attended = _cast(
            precision,
            torch.cat([gain[:, None] * out.weight, down.weight @ out.weight]),
            torch.cat([gain * (out.bias + up.bias), down.weight @ out.bias + down.bias]),
        )
        self.serial = (gain[:, None] * up.weight).to(precision)
        gain, mlp, down, up = block.ls2.gamma, block.mlp, parallel.down, parallel.up
        scale = block.adapter_scale
        self.hidden: int = mlp.fc1.out_features
        self.widen = _cast(
            precision,
            torch.cat([mlp.fc1.weight, down.weight]),
            torch.cat([mlp.fc1.bias, down.bias]),
        )
        self.narrow = _cast(
            precision,
            gain[:, None] * torch.cat([mlp.fc2.weight, scale * up.weight], dim=1),
            gain * (mlp.fc2.bias + scale * up.bias),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` float32 to the same."""
        batch, tokens, width = x.shape
        split = (batch, tokens, 3, self.heads, width // self.heads)
        qkv = F.linear(self._normed(0, x), *self.qkv).reshape(split).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        both = F.linear(mixed.reshape(x.shape), *self.attended)
        x = x + both[..., :width] + F.linear(F.relu(both[..., width:]), self.serial)
        both = F.linear(self._normed(1, x), *self.widen)
        torch.ops.aten.gelu_(both[..., : self.hidden])
        F.relu(both[..., self.hidden :], inplace=True)
        return x + F.linear(both, *self.narrow)

    def _normed(self, i: int, x: Tensor) -> Tensor:
        norm: nn.LayerNorm = self.norms[i]
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(
            self.precision
        )


@dataclass(frozen=True)
class Folded:
    """What stands in for a network's blocks, and for the weights of the rest.

    Attributes:
        blocks: in their order; with adapters.
        weights: by name, those of matrix products and convolutions outside the blocks, cast as
            autocast would in every pass.
    """

    blocks: tuple[FoldedBlock, ...]
    weights: Mapping[str, Tensor]


def fold(network: Any, precision: torch.dtype) -> Folded:
    """Fold a ``SelaVPR``; it keeps its own weights, and what is folded does not follow changes."""
    return Folded(
        tuple(FoldedBlock(block, precision) for block in network.backbone.blocks),
        {
            f"{name}.{kind}": weight.to(precision)
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
            and ".blocks." not in name
            for kind, weight in module.named_parameters(recurse=False)
        },
    )


def _cast(precision: torch.dtype, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.to(precision), bias.to(precision)
