"""SelaVPR visual place recognition: find where a photo was taken, and show why."""

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
