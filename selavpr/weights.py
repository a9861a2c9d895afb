"""Weight files: the folder format, strict loading, fingerprints of frozen backbones.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from selavpr import hub
from selavpr.errors import HubError, OptionError, WeightsError
from selavpr.shapes import State, check_fit, compare, some
from selavpr.structs import PRESETS, ModelConfig

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "weights"
"""Models that come with the repository, one folder each."""

DEFAULT_MODEL = "vit-s-focus"
"""The bundled model, named after where its backbone comes from; see its config.json."""

ADAPTERS_FILE, BACKBONE_FILE, CONFIG_FILE = (
    "adapters.safetensors",
    "backbone.safetensors",
    "config.json",
)
MODEL_FILES = (ADAPTERS_FILE, BACKBONE_FILE, CONFIG_FILE)
"""All that a model's folder may hold; the backbone may be the Hub's instead."""

FORMAT_VERSION = 1
MAX_CONFIG_BYTES = 1 << 20

TIMM_REPOS = {
    (width, registers): f"timm/vit_{size}_patch14{reg}_dinov2.lvd142m"
    for width, size in ((384, "small"), (768, "base"), (1024, "large"))
    for registers, reg in ((0, ""), (4, "_reg4"))
}
"""Hub repositories of Meta's backbones as timm stores them, by token width and registers."""


class DamagedError(WeightsError):
    """A file of tensors that cannot be read; a fresh copy of it may help."""


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
        return _from_folder(BUNDLED / text, backbone)
    if text and Path(text).is_dir():
        return _from_folder(Path(text), backbone)
    if Path(text).is_file():
        raise WeightsError(
            f"{text} is a file; a model is a folder. A checkpoint of the reference implementation "
            "becomes one by: python -m selavpr convert CHECKPOINT FOLDER"
        )
    match = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@(.+))?", text)
    if not match or not isinstance(name, str):
        known = ", ".join(bundled_models()) or "none here"
        raise WeightsError(
            f"No model is called {text!r}. Give a folder that holds {CONFIG_FILE}, a Hub "
            f"repository written organisation/name, or a bundled model ({known})."
        )
    return _from_hub(match[1], match[2], backbone)


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
        WeightsError: the folder holds other things than a model, or cannot be written.
        OptionError: another dtype.
    """
    if dtype not in (torch.float32, torch.float16):
        raise OptionError(f"Weights are saved as float32 or float16, not {dtype}.")
    target = Path(folder).resolve()
    check_target(target)
    shape = weights.config
    config = {
        "format_version": FORMAT_VERSION,
        "preset": _preset_name(shape),
        "model": dataclasses.asdict(shape),
        "backbone": {
            "fingerprint": fingerprint(weights.backbone, shape.depth),
            "repo": weights.backbone_repo,
            "file": BACKBONE_FILE if with_backbone else None,
        },
    }
    config |= {key: value for key, value in weights.card.items() if key not in config}
    unique = f".{target.name}.{uuid.uuid4().hex[:8]}"
    partial, old = target.with_name(f"{unique}.partial"), target.with_name(f"{unique}.old.partial")
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        partial.mkdir(parents=True)
        _write(weights.trained, partial / ADAPTERS_FILE, dtype)
        if with_backbone:
            _write(weights.backbone, partial / BACKBONE_FILE, dtype)
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
        if target.exists():
            target.rename(old)
        try:
            partial.rename(target)
        except BaseException:  # Ctrl-C too
            if old.exists():
                old.rename(target)
            raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"Cannot write the model to {target}: {reason}.") from error
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The model's card cannot be written as JSON: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    return target


def check_target(folder: str | os.PathLike[str]) -> None:
    """Refuse to write a model where anything but an older model is.

    Raises:
        WeightsError: the folder holds other files, or is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise WeightsError(f"{target} is a file; give the name of a folder.")
    if not target.exists():
        return
    try:
        others = sorted({path.name for path in target.iterdir()} - set(MODEL_FILES))
    except OSError as error:
        raise WeightsError(f"Cannot look into {target}: {error.strerror}.") from error
    if others:
        raise WeightsError(
            f"{target} holds {some(others)}, which saving a model there would delete; "
            "choose another folder."
        )


def fingerprint(backbone: Mapping[str, Tensor], depth: int) -> str:
    """SHA-256 over the frozen tensors that a network of ``depth`` blocks uses.

    Values are rounded to half precision first, so that a backbone and its float16 copy are the
    same backbone; names and shapes are hashed too.
    """
    digest = hashlib.sha256()
    for name in sorted(cut(backbone, depth)):
        tensor = backbone[name].detach().cpu().to(torch.float16).contiguous()
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().astype("<f2", copy=False).data)
    return "sha256:" + digest.hexdigest()


def cut(backbone: Mapping[str, Tensor], depth: int) -> State:
    """Drop the blocks at ``depth`` and beyond."""
    block = re.compile(r"blocks\.(\d{1,9})\.")  # no network is as deep as more digits say
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
        position, token = out.get("pos_embed"), out.get("cls_token")
        # Tensors of any other shape are left as they are, for the strict check to name.
        if position is not None and token is not None and position.ndim == token.ndim == 3:
            out["cls_token"] = token + position[:, :1]
            out["pos_embed"] = position[:, 1:]
    return out


def read_tensors(path: Path) -> State:
    """All tensors of a safetensors file, in float32.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    if not path.is_file():
        raise WeightsError(f"There is no {path.name} in {path.parent}.")
    try:
        path.open("rb").close()  # safetensors says of a file that may not be read: no such file
        state = safetensors.torch.load_file(path)
    except PermissionError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}.") from error
    except Exception as error:
        # Beside SafetensorError, the library lets KeyError and more through on a hostile header.
        raise DamagedError(
            f"{path} is no safetensors file, or is damaged or cut off ({error}); "
            "delete it and get it anew."
        ) from error
    return checked(state, str(path))


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that are missing, unexpected or of another shape, naming them.

    Raises:
        WeightsError: they differ.
    """
    compare({name: tuple(x.shape) for name, x in expected.items()}, found, what)


def checked(state: Mapping[Any, Tensor], where: str) -> State:
    """The tensors in float32, refusing what cannot be weights.

    Args:
        state: tensors by name.
        where: the file they come from, for the message.

    Raises:
        WeightsError: a tensor is not of real numbers, or not finite.
    """
    out: State = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise WeightsError(f"{name} in {where} is {tensor.dtype}; weights are real numbers.")
        out[str(name)] = tensor.detach().float()
        if not torch.isfinite(out[str(name)]).all():
            raise WeightsError(
                f"{name} in {where} holds values that are not finite numbers; "
                "the training that wrote it failed, use another file."
            )
    return out


def _from_folder(folder: Path, backbone: str | os.PathLike[str] | None) -> Weights:
    def tensors(filename: str) -> State:
        return read_tensors(folder / filename)

    return _assemble(str(folder), folder / CONFIG_FILE, tensors, backbone)


def _from_hub(repo: str, revision: str | None, backbone: str | os.PathLike[str] | None) -> Weights:
    try:
        config = hub.fetch(repo, CONFIG_FILE, revision)
    except HubError as error:
        raise HubError(f"{error} (There is no folder {repo} here either.)") from error
    # All files from one commit, also when a newer one is published between two downloads.
    commit = hub.commit_of(config) or revision

    def tensors(filename: str) -> State:
        return _fetch_tensors(repo, filename, commit)

    return _assemble(f"{repo} on the Hub", config, tensors, backbone)


def _assemble(
    where: str,
    config_path: Path,
    tensors: Callable[[str], State],
    backbone_file: str | os.PathLike[str] | None,
) -> Weights:
    """Put a model together from its config.json and a way to get its tensors."""
    config, card, about = _read_config(config_path, where)
    trained = tensors(ADAPTERS_FILE)
    if backbone_file is not None:
        backbone = read_tensors(Path(backbone_file))
    elif about["file"]:
        backbone = tensors(BACKBONE_FILE)
    elif about["repo"]:
        backbone = _fetch_tensors(about["repo"], "model.safetensors", None)
    else:
        raise WeightsError(
            f"The model in {where} comes without a backbone and names none; "
            "give the backbone's safetensors file."
        )
    backbone = timm_names(backbone)
    check_fit(config, trained, cut(backbone, config.depth))
    actual = fingerprint(backbone, config.depth)
    if actual != about["fingerprint"]:
        raise WeightsError(
            f"The backbone is not the one the adapters in {where} were trained on: its fingerprint "
            f"is {actual[:19]}… where {about['fingerprint'][:19]}… is wanted. Use that backbone."
        )
    return Weights(config, trained, backbone, card, about["repo"])


def _fetch_tensors(repo: str, filename: str, revision: str | None) -> State:
    """Tensors of a file on the Hub; a cached copy that was damaged is replaced once."""
    path = hub.fetch(repo, filename, revision)
    try:
        return read_tensors(path)
    except DamagedError as error:
        if not hub.discard_damaged(path):
            raise
        try:
            return read_tensors(hub.fetch(repo, filename, revision))
        except HubError as second:
            raise HubError(
                f"The cached {filename} of {repo} was damaged and has been removed; "
                f"getting it anew failed: {second}"
            ) from error


def _read_config(path: Path, where: str) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """Shape, card and the backbone entry of a config.json."""
    if not path.is_file():
        raise WeightsError(f"There is no {CONFIG_FILE} in {where}; it is not a model folder.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        card = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        if not isinstance(card, dict):
            raise ValueError("it is not a JSON object")
        if (version := card.pop("format_version")) != FORMAT_VERSION:
            raise WeightsError(
                f"The model in {where} has format {version!r:.20}; this version reads "
                f"{FORMAT_VERSION}. Update selavpr."
            )
        card.pop("preset", None)  # follows from the shape
        shape = ModelConfig.from_dict(card.pop("model"))
        backbone = card.pop("backbone")
        entry = {key: backbone[key] for key in ("fingerprint", "repo", "file")}
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", entry["fingerprint"]):
            raise ValueError("the backbone's fingerprint is no SHA-256")
        if not isinstance(entry["repo"], (str, type(None))):
            raise ValueError("the backbone's repo is not text")
        if entry["file"] not in (None, BACKBONE_FILE):
            raise ValueError(f"the backbone's file can only be {BACKBONE_FILE}")
    except KeyError as error:
        raise WeightsError(f"{CONFIG_FILE} in {where} is damaged: it has no {error}.") from error
    except OSError as error:
        raise WeightsError(f"Cannot read {CONFIG_FILE} in {where}: {error.strerror}.") from error
    except (OptionError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise WeightsError(f"{CONFIG_FILE} in {where} is damaged: {reason}.") from error
    return shape, card, entry


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _preset_name(config: ModelConfig) -> str | None:
    """The preset that has this backbone and this depth, if there is one."""
    shape = dataclasses.asdict(config)
    names = (name for name, want in PRESETS.items() if want.items() <= shape.items())
    return next(names, None)


def _write(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    tensors: State = {}
    for name in sorted(state):
        # Copies, since safetensors refuses tensors that share memory.
        tensors[name] = state[name].detach().to("cpu", dtype, copy=True).contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise WeightsError(
                f"{name} holds values that are not finite in {str(dtype).removeprefix('torch.')}; "
                "it was not saved."
            )
    # Not save_file, whose files none but their owner may read, whatever the umask says.
    path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
