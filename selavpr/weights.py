"""Weight files: the folder format, frozen-backbone fingerprints, the authors' checkpoints.

A model is a folder, on disk or as a Hub repository::

    config.json            shape, backbone and its fingerprint, training, recall, licence
    adapters.safetensors   what was trained: adapters, local head, GeM power
    backbone.safetensors   optional; otherwise fetched from the Hub by the name in config.json

Everything here deals in names and tensors; the network itself is built in ``model``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from selavpr import hub
from selavpr.errors import OptionError, WeightsError
from selavpr.structs import ModelConfig

State = dict[str, Tensor]

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "weights"
"""Models that come with the repository, one folder each."""

DEFAULT_MODEL = "vit-s-focus"
"""The bundled model, named after where its backbone comes from; see its config.json."""

ADAPTERS_FILE, BACKBONE_FILE, CONFIG_FILE = (
    "adapters.safetensors",
    "backbone.safetensors",
    "config.json",
)
FORMAT_VERSION = 1
MAX_CONFIG_BYTES = 1 << 20

TIMM_REPOS = {
    (width, registers): f"timm/vit_{size}_patch14{reg}_dinov2.lvd142m"
    for width, size in ((384, "small"), (768, "base"), (1024, "large"))
    for registers, reg in ((0, ""), (4, "_reg4"))
}
"""Hub repositories of Meta's backbones as timm stores them, by token width and registers."""

_OFFICIAL_TRAINED = {
    r"backbone\.blocks\.(\d+)\.adapter1\.D_fc1\.": r"backbone.blocks.\1.attn_adapter.down.",
    r"backbone\.blocks\.(\d+)\.adapter1\.D_fc2\.": r"backbone.blocks.\1.attn_adapter.up.",
    r"backbone\.blocks\.(\d+)\.adapter2\.D_fc1\.": r"backbone.blocks.\1.mlp_adapter.down.",
    r"backbone\.blocks\.(\d+)\.adapter2\.D_fc2\.": r"backbone.blocks.\1.mlp_adapter.up.",
    r"LocalAdapt\.upconv1\.": "local_head.up1.",
    r"LocalAdapt\.upconv2\.": "local_head.up2.",
    r"aggregation\.1\.p$": "pool.p",
}


@dataclass(frozen=True)
class Weights:
    """Everything a model is made of.

    Attributes:
        config: shape of the network.
        trained: tensors of adapters, local head and pooling, by their names in ``SelaVPR``.
        backbone: frozen tensors by timm's names, without prefix, before any depth cut.
        card: the parts of config.json that people read: training, recall, licence, ...
        backbone_repo: Hub repository that holds the same backbone, if any.
    """

    config: ModelConfig
    trained: State
    backbone: State
    card: dict[str, Any] = field(default_factory=dict)
    backbone_repo: str | None = None


def load(name: str | os.PathLike[str], backbone: str | os.PathLike[str] | None = None) -> Weights:
    """Find a model by name and read its tensors.

    Args:
        name: a bundled model, a folder, or a Hub repository ``org/name`` or ``org/name@revision``.
        backbone: a safetensors file to use instead of the backbone the model names.

    Raises:
        WeightsError: there is no such model, or a file is damaged or of another format.
        HubError: a file could not be fetched.
    """
    text = os.fspath(name)
    if text in bundled_models():
        return _from_parts(BUNDLED / text, None, None, backbone)
    if Path(text).is_dir():
        return _from_parts(Path(text), None, None, backbone)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(.+))?", text)
    if not match or text.startswith("."):
        known = ", ".join(bundled_models()) or "none"
        raise WeightsError(
            f"No model is called {text!r}. Give a folder that holds {CONFIG_FILE}, a Hub "
            f"repository written organisation/name, or a bundled model ({known})."
        )
    return _from_parts(None, match[1], match[2], backbone)


def bundled_models() -> list[str]:
    """Names of the models that come with the repository."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def save(
    weights: Weights,
    folder: str | os.PathLike[str],
    *,
    with_backbone: bool,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder; it appears whole or not at all, and replaces an older one.

    Args:
        weights: the model.
        folder: where to.
        with_backbone: also write the frozen backbone, so that the folder needs no Hub.
        dtype: float32, or float16 for half the size.

    Raises:
        WeightsError: the folder exists and is not a model folder, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and not (target / CONFIG_FILE).is_file() and any(_entries(target)):
        raise WeightsError(f"{target} exists and is not a model folder; choose another place.")
    config = {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(weights.config),
        "backbone": {
            "fingerprint": fingerprint(weights.backbone, weights.config.depth),
            "repo": weights.backbone_repo,
            "file": BACKBONE_FILE if with_backbone else None,
        },
        **weights.card,
    }
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        _write(weights.trained, partial / ADAPTERS_FILE, dtype)
        if with_backbone:
            _write(weights.backbone, partial / BACKBONE_FILE, dtype)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
        if target.exists():
            old = partial.with_suffix(".old")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        raise WeightsError(f"Cannot write the model to {target}: {error.strerror}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def fingerprint(backbone: Mapping[str, Tensor], depth: int) -> str:
    """SHA-256 over the frozen tensors that a network of ``depth`` blocks uses.

    Values are rounded to half precision first, so that a backbone and its float16 copy are the
    same backbone; names and shapes are hashed too.
    """
    digest = hashlib.sha256()
    for name in sorted(cut(backbone, depth)):
        tensor = backbone[name].detach().cpu().to(torch.float16).contiguous()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f2").tobytes())
    return "sha256:" + digest.hexdigest()


def cut(backbone: Mapping[str, Tensor], depth: int) -> State:
    """Drop the blocks at ``depth`` and beyond."""
    block = re.compile(r"blocks\.(\d+)\.")
    return {
        name: tensor
        for name, tensor in backbone.items()
        if not (match := block.match(name)) or int(match[1]) < depth
    }


def digest(value: Any) -> str:
    """SHA-256 over a value that JSON can hold, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def timm_names(state: Mapping[str, Tensor]) -> State:
    """Bring a DINOv2 state dict, Meta's or timm's, to timm's names in float32.

    timm keeps the class token's position inside the token where there are registers, and has no
    mask token.
    """
    out = {name: tensor.float() for name, tensor in state.items() if name != "mask_token"}
    if "register_tokens" in out:
        out["reg_token"] = out.pop("register_tokens")
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    return out


def load_official(path: str | os.PathLike[str]) -> Weights:
    """Read a checkpoint of the reference implementation (Lu-Feng/SelaVPR, a .pth file).

    Only tensors, numbers and arrays are unpickled; anything else in the file is refused.

    Raises:
        WeightsError: the file is missing, damaged, unsafe, or not a SelaVPR checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint at {path}.")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises anything from EOFError to UnpicklingError on what is not its file.
        raise WeightsError(
            f"{path.name} is not a readable PyTorch checkpoint, or it is cut off, or it holds more "
            "than weights."
        ) from error
    state: Any = checkpoint
    if isinstance(checkpoint, dict):
        state = checkpoint.get("model_state_dict", checkpoint)
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError(
            f"{path.name} holds no model_state_dict; it is not a SelaVPR checkpoint."
        )
    state = {str(name).removeprefix("module."): tensor.float() for name, tensor in state.items()}
    trained: State = {}
    frozen: State = {}
    for name, tensor in state.items():
        for pattern, replacement in _OFFICIAL_TRAINED.items():
            if re.match(pattern, name):
                trained[re.sub(pattern, replacement, name)] = tensor
                break
        else:
            frozen[name] = tensor
    strangers = sorted(name for name in frozen if not name.startswith("backbone."))
    if strangers or "local_head.up2.weight" not in trained:
        found = f"it has {strangers[0]}" if strangers else "it has no local head"
        raise WeightsError(f"{path.name} is not a SelaVPR checkpoint: {found}.")
    backbone = timm_names({name.removeprefix("backbone."): t for name, t in frozen.items()})
    config = _official_config(path.name, backbone, trained)
    repo = TIMM_REPOS.get((config.width, config.registers))
    card = {
        "description": f"Converted from {path.name} of the reference implementation.",
        "source": "https://github.com/Lu-Feng/SelaVPR",
        "license": "mit",
        "training": {"epoch": _number(checkpoint, "epoch_num")},
        "recall": {"validation_r5": _number(checkpoint, "best_r5")},
    }
    return Weights(config, trained, backbone, card, repo)


def read_tensors(path: Path) -> State:
    """All tensors of a safetensors file, in float32.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path.name} is missing from {path.parent}.")
    try:
        return {name: t.float() for name, t in safetensors.torch.load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or cut off ({error}); delete it and fetch it again."
        ) from error


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that are missing, unexpected or of another shape, naming them.

    Raises:
        WeightsError: they differ.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing: {_some(missing)}")
    if unexpected := sorted(set(found) - set(expected)):
        problems.append(f"unexpected: {_some(unexpected)}")
    for name in sorted(set(expected) & set(found)):
        if expected[name].shape != found[name].shape:
            problems.append(
                f"{name} is {list(found[name].shape)} but should be {list(expected[name].shape)}"
            )
            break
    if problems:
        raise WeightsError(f"The {what} do not fit the network: {'; '.join(problems)}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _from_parts(
    folder: Path | None,
    repo: str | None,
    revision: str | None,
    backbone_file: str | os.PathLike[str] | None,
) -> Weights:
    """Read a model from a folder, or from a Hub repository when ``folder`` is None."""

    def part(filename: str) -> Path:
        if folder is not None:
            return folder / filename
        if repo is None:  # pragma: no cover - callers give one of the two
            raise WeightsError("A model needs a folder or a repository.")
        return hub.fetch(repo, filename, revision)

    where = str(folder) if folder is not None else f"{repo} on the Hub"
    config, card, about = _read_config(part(CONFIG_FILE), where)
    trained = read_tensors(part(ADAPTERS_FILE))
    if backbone_file is not None:
        backbone = read_tensors(Path(backbone_file))
    elif about["file"]:
        backbone = read_tensors(part(BACKBONE_FILE))
    elif about["repo"]:
        backbone = read_tensors(hub.fetch(about["repo"], "model.safetensors"))
    else:
        raise WeightsError(
            f"The model in {where} comes without a backbone and names none; "
            "give the backbone's safetensors file."
        )
    backbone = timm_names(backbone)
    actual = fingerprint(backbone, config.depth)
    if actual != about["fingerprint"]:
        raise WeightsError(
            f"The backbone is not the one the adapters in {where} were trained on: its fingerprint "
            f"is {actual[:19]}… where {about['fingerprint'][:19]}… is wanted. Use that backbone."
        )
    return Weights(config, trained, backbone, card, about["repo"])


def _read_config(path: Path, where: str) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """Shape, card and the backbone entry of a config.json."""
    if not path.is_file():
        raise WeightsError(f"There is no {CONFIG_FILE} in {where}; it is not a model folder.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config.pop("format_version")
        shape = ModelConfig.from_dict(config.pop("model"))
        about = config.pop("backbone")
        entry = {key: about[key] for key in ("fingerprint", "repo", "file")}
        if not isinstance(entry["fingerprint"], str):
            raise ValueError("the fingerprint is not text")
        if not isinstance(entry["repo"], (str, type(None))):
            raise ValueError("the backbone's repo is not text")
    except (OptionError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{CONFIG_FILE} in {where} is damaged: {error}.") from error
    except OSError as error:
        raise WeightsError(f"Cannot read {CONFIG_FILE} in {where}: {error.strerror}.") from error
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"The model in {where} has format {version}; this version reads {FORMAT_VERSION}. "
            "Update selavpr."
        )
    return shape, config, entry


def _official_config(name: str, backbone: State, trained: State) -> ModelConfig:
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
    except (KeyError, IndexError, ValueError, OptionError) as error:
        raise WeightsError(f"{name} is not a SelaVPR checkpoint: {error}.") from error


def _number(checkpoint: Mapping[str, Any], key: str) -> float | None:
    value = checkpoint.get(key)
    return float(value) if isinstance(value, (int, float, np.floating)) else None


def _numpy_globals() -> list[Any]:
    """What the pickled recall array of an official checkpoint needs: arrays and scalars, no code.

    The names are those of NumPy 1, which wrote the authors' files, and of NumPy 2.
    """
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    allowed: list[Any] = [np.ndarray, np.dtype]
    allowed += [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4")]
    for package in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed.append((multiarray._reconstruct, f"{package}._reconstruct"))
        allowed.append((multiarray.scalar, f"{package}.scalar"))
    return allowed


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path]


def _write(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    tensors = {name: t.detach().cpu().to(dtype).contiguous() for name, t in sorted(state.items())}
    safetensors.torch.save_file(tensors, path)
