"""What a check of an installation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the thing.
        status: ``"bad"`` keeps the app with its model and cities from running as it should;
            ``"note"`` concerns only what goes beyond that.
        found: how it is.
        advice: what to do about it; empty where there is nothing to do.
    """

    name: str
    status: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""
