"""Whether everything is here that the app needs, and what to do about what is not.

Each check gives findings, prints nothing and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from PIL import Image

from selavpr import bundle, gpu, hub, weights
from selavpr.errors import HubError, OptionError, SelaVPRError
from selavpr.findings import Finding
from selavpr.index import verify
from selavpr.installed import (
    EXTRAS,
    ROOT,
    check_extra,
    check_packages,
    check_python,
    requirements,
)
from selavpr.machine import free_memory, room_in
from selavpr.model import Precision, SelaVPR
from selavpr.published import open_index
from selavpr.recognizer import Recognizer
from selavpr.structs import ModelConfig

CITIES = ROOT / "prebuilt_index"

PROBE = ("timm/vit_small_patch14_dinov2.lvd142m", "config.json")
"""A small file on the Hub beside one of the backbones that models are made of."""

MEMORY = 1_500_000_000
"""Bytes: app, bundled model and bundled city took 1.3 to 1.4 GB on a CPU (benchmarks/load.py)."""
DOWNLOADS = 2_000_000_000
"""Bytes: a full-size model takes 1.4 GB in float32."""
UPLOADS = 200_000_000

_GET_TORCH = "Install a torch built for it: https://pytorch.org/get-started/locally/"
_POINTER = b"version https://git-lfs"
_TINY = ModelConfig(width=32, depth=1, heads=2, local_hidden=8, local_dim=8, input_size=28)


def examine(
    model: str = weights.DEFAULT_MODEL,
    indexes: Sequence[str] = (),
    *,
    device: str = "auto",
    precision: Precision = "auto",
) -> Iterator[Finding]:
    """All checks, one after another; some take seconds.

    Args:
        model: bundled name, folder or Hub repository.
        indexes: folders and Hub repositories; the bundled cities where empty.
        device: as for ``SelaVPR.from_pretrained``.
        precision: likewise.
    """
    yield check_python(platform.python_version())
    yield from check_packages(requirements())
    yield check_device(device, precision)
    yield check_memory(free_memory())
    network, finding = check_model(model)
    yield finding
    yield from check_indexes(indexes or [str(folder) for folder in bundle.find(CITIES)], network)
    yield check_hub()
    yield check_uploads()
    for name, folder in (("Hub cache", hub.settings().cache), ("index cache", hub.home())):
        yield check_cache(name, folder)
    for extra, needed in EXTRAS.items():
        yield check_extra(extra, [Requirement(text) for text in needed])


def check_device(device: str = "auto", precision: Precision = "auto") -> Finding:
    """Which device and precision would be taken, and whether they compute: a tiny network runs."""
    if gpu.is_lent():
        return Finding("device", "ok", "a GPU lent by the call (ZeroGPU)")
    try:
        with torch.random.fork_rng(devices=[]):
            network = SelaVPR(_TINY).eval().place(device, precision)
        features = network.extract([Image.new("RGB", (28, 28), "gray")])
        if not torch.isfinite(features.descriptor).all():
            raise RuntimeError("it computes values that are not finite")
    except OptionError as error:
        return Finding("device", "bad", str(error), "Leave out --device and --precision.")
    except RuntimeError as error:  # of CUDA: no kernels for this GPU, out of memory, ...
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        return Finding("device", "bad", f"cannot compute: {reason}", f"{_GET_TORCH}; or use a CPU.")
    chosen = network.device
    about = f"{_described(chosen)}, {str(network.precision).removeprefix('torch.')}"
    if chosen.type == "cpu" and device == "auto" and shutil.which("nvidia-smi"):
        return Finding("device", "note", f"{about}; an NVIDIA GPU lies idle", _GET_TORCH)
    return Finding("device", "ok", about)


def check_memory(free: int | None) -> Finding:
    """Whether the bundled model and city have room.

    Args:
        free: bytes, None where unknown.
    """
    if free is None:
        return Finding("memory", "ok", "this system does not say how much is free")
    if free < MEMORY:
        return Finding(
            "memory", "note", f"{_gb(free)} free", f"The app takes about {_gb(MEMORY)} with the "
            "bundled model, more with others: end other programs.",
        )  # fmt: skip
    return Finding("memory", "ok", f"{_gb(free)} free")


def check_model(name: str) -> tuple[SelaVPR | None, Finding]:
    """Load a model, which compares its backbone with the fingerprint it was published with.

    Returns:
        The model, None when it cannot be loaded, and what was found.
    """
    try:
        network = SelaVPR.from_pretrained(name, device="cpu", precision="float32")
    except SelaVPRError as error:
        bundled = name in (weights.DEFAULT_MODEL, *weights.bundled_models())
        advice = _restore(weights.BUNDLED / name) if bundled else ""
        return None, Finding("model", "bad", str(error), advice)
    return network, Finding("model", "ok", f"{name}, {network.fingerprint()[:19]}…")


def check_indexes(names: Sequence[str], network: SelaVPR | None) -> list[Finding]:
    """Compare the files of indexes with their checksums, and the indexes with the model.

    Args:
        names: folders and Hub repositories; of the latter only what is here is read.
        network: the model; None when it could not be loaded.
    """
    if not names:
        advice = "Get the repository anew, or build one: python -m selavpr index build"
        return [Finding("index", "bad", f"there is none in {CITIES}", advice)]
    return [_check_index(name, network) for name in names]


def _check_index(name: str, network: SelaVPR | None) -> Finding:
    folder = Path(name)
    called = f"index {folder.name}" if folder.is_dir() else f"index {name}"
    advice = _restore(folder) if folder.resolve().is_relative_to(CITIES) else ""
    try:
        index = open_index(name)
        if problems := verify(folder) if folder.is_dir() else []:
            more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
            return Finding(called, "bad", problems[0] + more, advice or "Get the index anew.")
    except SelaVPRError as error:
        return Finding(called, "bad", str(error), advice)
    about = f"{index.manifest.title}, {len(index):,} photos"
    if network is None:
        return Finding(called, "note", f"{about}; without a model, whether it fits is unknown")
    try:
        Recognizer(network, index)
    except SelaVPRError as error:
        return Finding(called, "bad", str(error))
    whole = ", every file as built" if folder.is_dir() else ""
    return Finding(called, "ok", f"{about}{whole}, belongs to the model")


def check_hub() -> Finding:
    """Whether the Hub answers; nothing that is bundled needs it."""
    known = hub.settings()
    token = "with a token" if known.has_token else "without a token"
    if known.offline:
        return Finding(
            "Hub", "note", "HF_HUB_OFFLINE is set",
            "Unset it to download models and cities; what is bundled or cached works.",
        )  # fmt: skip
    try:
        hub.ping(*PROBE)
    except HubError as error:
        return Finding(
            "Hub", "note", str(error),
            "What is bundled or cached works without it. Behind a proxy set HTTPS_PROXY, for a "
            "mirror HF_ENDPOINT.",
        )  # fmt: skip
    return Finding("Hub", "ok", f"{known.endpoint} answers, {token}")


def check_uploads() -> Finding:
    """Whether photos that visitors send have room."""
    advice = "Set TMPDIR (and GRADIO_TEMP_DIR, if you use it) to a folder with room."
    try:
        folder = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    except OSError as error:
        return Finding("uploads", "bad", str(error.strerror or error), advice)
    return _room("uploads", folder, UPLOADS, "bad", advice)


def check_cache(name: str, folder: Path) -> Finding:
    """Whether what is fetched from the Hub has room."""
    advice = "Free some room, or set HF_HOME to a folder with room; downloads need it."
    return _room(name, folder, DOWNLOADS, "note", advice)


def _room(
    name: str, folder: Path, needed: int, status: Literal["note", "bad"], advice: str
) -> Finding:
    room = room_in(folder)
    if room.problem:
        return Finding(name, status, f"{folder} cannot be written: {room.problem}", advice)
    about = f"{folder}, {_gb(room.free)} free"
    return (
        Finding(name, status, about, advice) if room.free < needed else Finding(name, "ok", about)
    )


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"cuda ({torch.cuda.get_device_name(device)}, {_gb(free)} of {_gb(total)} free)"
    threads = f" ({torch.get_num_threads()} threads)" if device.type == "cpu" else ""
    return f"{device}{threads}"


def _restore(folder: Path) -> str:
    """How to get bundled files back; a clone without Git LFS holds only pointers to them."""
    for path in folder.glob("*"):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    return "The files were not fetched: git lfs install && git lfs pull"
    return f"git checkout -- {folder}"


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
