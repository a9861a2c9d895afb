"""Checkpoints of the reference implementation (Lu-Feng/SelaVPR, .pth files), read safely.

They hold a network and what its training left: optimiser state, recalls, counters. The tensors are
brought to our names; nothing in the file is run.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from selavpr.errors import OptionError, WeightsError
from selavpr.shapes import State, check_fit, some
from selavpr.structs import ModelConfig
from selavpr.weights import TIMM_REPOS, Weights, checked, cut, timm_names

LONGEST_NAME = 1000
"""Of a class that a checkpoint names; "torch._utils._rebuild_tensor_v2" has 31 characters."""

_TRAINED = {
    r"backbone\.blocks\.(\d+)\.adapter1\.D_fc1\.": r"backbone.blocks.\1.attn_adapter.down.",
    r"backbone\.blocks\.(\d+)\.adapter1\.D_fc2\.": r"backbone.blocks.\1.attn_adapter.up.",
    r"backbone\.blocks\.(\d+)\.adapter2\.D_fc1\.": r"backbone.blocks.\1.mlp_adapter.down.",
    r"backbone\.blocks\.(\d+)\.adapter2\.D_fc2\.": r"backbone.blocks.\1.mlp_adapter.up.",
    r"LocalAdapt\.upconv1\.": "local_head.up1.",
    r"LocalAdapt\.upconv2\.": "local_head.up2.",
    r"aggregation\.1\.p$": "pool.p",
}


def load_official(path: str | os.PathLike[str]) -> Weights:
    """Read a checkpoint of the reference implementation (Lu-Feng/SelaVPR, a .pth file).

    Only tensors, numbers and arrays are unpickled; anything else in the file is refused.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, or not a SelaVPR checkpoint.
    """
    path = Path(path)
    checkpoint = _unpickle(path)
    state: Any = checkpoint
    if isinstance(checkpoint, dict):
        state = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError(
            f"{path.name} holds no model_state_dict; it is not a SelaVPR checkpoint."
        )
    # Strides of 0 make a tensor of any size out of one number, and "meta" ones have no numbers.
    claimed = sum(x.numel() * x.element_size() for x in state.values())
    if claimed > path.stat().st_size or any(x.is_meta for x in state.values()):
        raise WeightsError(f"{path.name} holds fewer numbers than its tensors claim; get it anew.")
    trained: State = {}
    frozen: State = {}
    for name, tensor in state.items():
        name = str(name).removeprefix("module.")
        for pattern, replacement in _TRAINED.items():
            if re.match(pattern, name):
                trained[re.sub(pattern, replacement, name)] = tensor
                break
        else:
            frozen[name] = tensor
    strangers = sorted(name for name in frozen if not name.startswith("backbone."))
    if strangers or "local_head.up2.weight" not in trained:
        found = f"it has {some(strangers)}" if strangers else "it has no local head"
        raise WeightsError(f"{path.name} is not a SelaVPR checkpoint: {found}.")
    trained = checked(trained, path.name)
    frozen = {name.removeprefix("backbone."): t for name, t in frozen.items()}
    backbone = timm_names(checked(frozen, path.name))
    config = _config(path.name, backbone, trained)
    check_fit(config, trained, cut(backbone, config.depth))
    card: dict[str, Any] = {
        "description": f"Converted from {path.name} of the reference implementation.",
        "source": "https://github.com/Lu-Feng/SelaVPR",
        "license": "mit",
    }
    if (epoch := _number(checkpoint, "epoch_num")) is not None:
        card["training"] = {"epoch": int(epoch)}
    if (recall := _number(checkpoint, "best_r5")) is not None:
        card["recall"] = {"validation_r5": recall}
    repo = TIMM_REPOS.get((config.width, config.registers))
    return Weights(config, trained, backbone, card, repo)


def _config(name: str, backbone: State, trained: State) -> ModelConfig:
    """The network's shape, read off the tensors of a checkpoint."""
    try:
        width = backbone["patch_embed.proj.weight"].shape[0]
        depth = 1 + max(int(n.split(".")[1]) for n in backbone if n.startswith("blocks."))
        up1, up2 = trained["local_head.up1.weight"], trained["local_head.up2.weight"]
        return ModelConfig(
            width=width,
            depth=depth,
            # DINOv2's heads are 64 wide; nothing in a checkpoint tells, and no real one differs.
            # Networks too small for that, as tests use, have four heads.
            heads=max(4, width // 64),
            registers=backbone["reg_token"].shape[1] if "reg_token" in backbone else 0,
            local_hidden=up1.shape[1],
            local_dim=up2.shape[1],
        )
    except KeyError as error:
        raise WeightsError(f"{name} is not a SelaVPR checkpoint: it has no {error}.") from error
    except (IndexError, ValueError) as error:
        raise WeightsError(
            f"{name} is not a SelaVPR checkpoint: its tensors have other names or shapes."
        ) from error
    except OptionError as error:
        raise WeightsError(f"{name} is not a SelaVPR checkpoint: {error}") from error


class _Inert:
    """Stands in for the NumPy objects in a checkpoint, which are not needed.

    NumPy's own unpickling trusts the file: a crafted dtype makes it read raw bytes as pointers. So
    none of it is run.
    """

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def _unpickle(path: Path) -> Any:
    """The content of a .pth file: tensors, plain values, and ``_Inert`` for NumPy's."""
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint at {path}.")
    # The names of NumPy 1, which wrote the authors' files, and of NumPy 2.
    names = ["numpy.ndarray", "numpy.dtype"]
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [f"{package}._reconstruct", f"{package}.scalar"]
    stand_ins: list[Any] = [(_Inert, name) for name in names]
    try:
        _check_pickles(path)
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:
        # torch.load raises anything from EOFError to KeyError on what is not its file.
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise WeightsError(
                f"{path.name} holds more than weights ({code[1]}), which could run code; it was "
                "not loaded."
            ) from error
        raise WeightsError(
            f"{path.name} is not a PyTorch checkpoint, or is damaged or cut off; get it anew."
        ) from error


def _check_pickles(path: Path) -> None:
    """Refuse what ``torch.load`` would take for ever over; any exception says so."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # before PyTorch 1.6: five pickles, then the numbers
            file.seek(0)
            for _ in range(5):
                _check_names(file)
            return
    with zipfile.ZipFile(path) as archive:
        # PyTorch packs nothing: what unpacks to more than the file is made to fill memory.
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed")
        for name in archive.namelist():
            if name.endswith(".pkl"):
                with archive.open(name) as part:
                    _check_names(part)


def _check_names(file: IO[bytes]) -> None:
    """Read a pickle's opcodes, which builds nothing, for names of classes without end.

    PyTorch refuses them, and takes the square of their length to word why.
    """
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST") and len(str(argument)) > LONGEST_NAME:
            raise ValueError("a name without end")


def _number(checkpoint: Mapping[str, Any], key: str) -> float | None:
    """A number of a checkpoint, also a NumPy float64; None where there is none."""
    value = checkpoint.get(key)
    if isinstance(value, _Inert) and len(value.args) == 2 and isinstance(value.args[1], bytes):
        kind, raw = value.args
        if isinstance(kind, _Inert) and kind.args[:1] == ("f8",) and len(raw) == 8:
            value = struct.unpack("<d", raw)[0]
    if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:
        return float(value)
    return None
