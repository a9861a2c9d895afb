"""SelaVPR visual place recognition: find where a photo was taken, and show why."""

import importlib
import typing

from selavpr.errors import (
    DownloadError,
    HubError,
    IndexFileError,
    LocationError,
    OptionError,
    PhotoError,
    SelaVPRError,
    StoppedError,
    WeightsError,
)
from selavpr.geo import Location

if typing.TYPE_CHECKING:
    from selavpr.images import load_image
    from selavpr.matching import count_mutual, mutual_nearest
    from selavpr.model import SelaVPR
    from selavpr.structs import Features, Matches, ModelConfig

__version__ = "0.1.0"

__all__ = [
    "DownloadError",
    "Features",
    "HubError",
    "IndexFileError",
    "Location",
    "LocationError",
    "Matches",
    "ModelConfig",
    "OptionError",
    "PhotoError",
    "SelaVPR",
    "SelaVPRError",
    "StoppedError",
    "WeightsError",
    "count_mutual",
    "load_image",
    "mutual_nearest",
]

_HOMES = {
    "Features": "structs",
    "Matches": "structs",
    "ModelConfig": "structs",
    "SelaVPR": "model",
    "count_mutual": "matching",
    "load_image": "images",
    "mutual_nearest": "matching",
}
"""Names that need torch, with their modules. They are imported when they are asked for, so that
``python -m selavpr doctor`` can say so where torch is missing."""


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
