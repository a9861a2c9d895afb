"""Which tensors a network of a given shape has, and the refusal of any that do not fit.

Knowing the shapes without building the network keeps a hostile config.json from asking for memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from selavpr.errors import WeightsError
from selavpr.structs import PATCH, ModelConfig

State = dict[str, Tensor]
Shape = tuple[int, ...]

POSITIONS = 37 * 37
"""DINOv2's position embedding is for a grid of 37 x 37 patches."""


def check_fit(config: ModelConfig, trained: State, backbone: State) -> None:
    """Hold the tensors against the shape in config.json before a network is built from it.

    Without this, a config.json that claims a width of a billion would ask for that memory.
    """
    blocks = {name.split(".")[2] for name in trained if name.startswith("backbone.blocks.")}
    if len(blocks) != config.depth:
        raise WeightsError(
            f"The adapters do not fit the network: they are for {len(blocks)} blocks, "
            f"the network has {config.depth}."
        )
    compare(trained_shapes(config), trained, "adapters")
    compare(frozen_shapes(config), backbone, "backbone's tensors")


def compare(expected: Mapping[str, Shape], found: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that are missing, unexpected or of another shape, naming them.

    Args:
        expected: shapes by name.
        found: tensors by name.
        what: the tensors in a user's words, plural.

    Raises:
        WeightsError: they differ.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing: {some(missing)}")
    if unexpected := sorted(set(found) - set(expected)):
        problems.append(f"unexpected: {some(unexpected)}")
    wrong = [
        f"{name} is {list(found[name].shape)} but should be {list(expected[name])}"
        for name in sorted(set(expected) & set(found))
        if tuple(found[name].shape) != expected[name]
    ]
    if wrong:
        problems.append(some(wrong))
    if problems:
        raise WeightsError(f"The {what} do not fit the network: {'; '.join(problems)}.")


def adapter_width(width: int) -> int:
    """Channels inside an adapter of a network ``width`` wide (paper: bottleneck ratio 0.5)."""
    return width // 2


def trained_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of adapters, local head and pooling, by their names in ``SelaVPR``."""
    c, hidden, dim = config.width, config.local_hidden, config.local_dim
    narrow = adapter_width(c)
    shapes: dict[str, Shape] = {
        "pool.p": (1,),
        "local_head.up1.weight": (c, hidden, 3, 3),
        "local_head.up1.bias": (hidden,),
        "local_head.up2.weight": (hidden, dim, 3, 3),
        "local_head.up2.bias": (dim,),
    }
    for block in range(config.depth):
        for adapter in ("attn_adapter", "mlp_adapter"):
            prefix = f"backbone.blocks.{block}.{adapter}"
            shapes |= _linear(f"{prefix}.down", narrow, c) | _linear(f"{prefix}.up", c, narrow)
    return shapes


def frozen_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Shapes of the backbone's tensors, by timm's names without prefix."""
    c, registers = config.width, config.registers
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, c),
        # timm keeps the class token's position inside the token where there are registers.
        "pos_embed": (1, POSITIONS + (0 if registers else 1), c),
        "patch_embed.proj.weight": (c, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (c,),
        "norm.weight": (c,),
        "norm.bias": (c,),
    }
    if registers:
        shapes["reg_token"] = (1, registers, c)
    for block in range(config.depth):
        prefix = f"blocks.{block}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"{prefix}.{name}"] = (c,)
        shapes |= _linear(f"{prefix}.attn.qkv", 3 * c, c) | _linear(f"{prefix}.attn.proj", c, c)
        shapes |= _linear(f"{prefix}.mlp.fc1", 4 * c, c) | _linear(f"{prefix}.mlp.fc2", c, 4 * c)
        shapes |= {f"{prefix}.ls1.gamma": (c,), f"{prefix}.ls2.gamma": (c,)}
    return shapes


def some(names: Sequence[str]) -> str:
    """The first three of the names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
