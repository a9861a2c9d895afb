"""What a check of an installation found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
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

    def lines(self) -> list[str]:
        """As people read it, the advice on a line of its own."""
        advice = [f"{'':<26} -> {self.advice}"] if self.advice else []
        return [f"{self.status:<5} {self.name:<20} {self.found}", *advice]


def is_well(found: Sequence[Finding]) -> bool:
    """Whether nothing keeps the app from running as it should."""
    return all(finding.status != "bad" for finding in found)


def summary(found: Sequence[Finding]) -> str:
    """The last line of a report."""
    if not is_well(found):
        bad = sum(finding.status == "bad" for finding in found)
        return f"{bad} of {len(found)} checks failed; what to do stands behind the arrows."
    notes = sum(finding.status == "note" for finding in found)
    return "All is well" + (f", with {notes} to note." if notes else ".")


def to_json(found: Sequence[Finding]) -> str:
    """One line for programs."""
    findings = [dataclasses.asdict(finding) for finding in found]
    return json.dumps({"ok": is_well(found), "findings": findings})
