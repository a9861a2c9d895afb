"""The state of a training run in one safetensors file: nothing in it is ever executed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selavpr.errors import OptionError
from selavpr.mining import Batch


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        trained: parameters by name.
        moments: the optimiser's tensors, ``<parameter>.<key>``.
        plan: the epoch's batches.
        memory: descriptors of past batches and their rows, by name; may be empty.
        about: counters and history, as JSON.
    """

    trained: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    plan: tuple[Batch, ...]
    memory: Mapping[str, Tensor]
    about: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it beside and rename, so that a stop at any moment leaves a whole file.

    Raises:
        OptionError: it cannot be written.
    """
    tensors = {f"trained/{n}": t.contiguous() for n, t in checkpoint.trained.items()}
    tensors |= {f"moments/{n}": t.contiguous() for n, t in checkpoint.moments.items()}
    tensors |= {f"memory/{n}": t.contiguous() for n, t in checkpoint.memory.items()}
    for i, batch in enumerate(checkpoint.plan):
        tensors |= {
            f"plan/{i}/rows": torch.from_numpy(batch.rows),
            f"plan/{i}/same": torch.from_numpy(batch.same),
            f"plan/{i}/different": torch.from_numpy(batch.different),
        }
    partial = path.with_suffix(".part")
    try:
        partial.write_bytes(save(tensors, {"about": json.dumps(checkpoint.about)}))
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise OptionError(f"The checkpoint {path} cannot be written: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read it back.

    Raises:
        OptionError: it is damaged.
    """
    parts: dict[str, dict[str, Tensor]] = {
        "trained": {}, "moments": {}, "plan": {}, "memory": {},
    }  # fmt: skip
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            for key in file.keys():
                kind, name = key.split("/", 1)
                parts[kind][name] = file.get_tensor(key)
        plan = parts["plan"]
        batches = tuple(
            Batch(*(plan[f"{i}/{name}"].numpy() for name in ("rows", "same", "different")))
            for i in range(len(plan) // 3)
        )
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise OptionError(f"The checkpoint {path} is damaged; delete it to begin anew.") from error
    return Checkpoint(parts["trained"], parts["moments"], batches, parts["memory"], about)
