"""docs/RELIABILITY.md names tests that exist, and has a figure for each hazard."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_test_that_is_named_exists() -> None:
    named = []
    for line in (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8").splitlines():
        file = ""
        for path, test in re.findall(
            r"`(?:((?:tests|benchmarks)/\w+\.py)(?:::)?)?(test_\w+)?`", line
        ):
            file = path or file
            if path or test:
                named.append((file, test))
    assert len(named) > 50
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file} has no {test}"


def test_every_hazard_has_its_figure() -> None:
    text = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| .*`(tests|benchmarks)/", line)]
    assert len(rows) > 50
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []
