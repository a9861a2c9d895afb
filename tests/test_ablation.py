"""The ablation: its variants are valid recipes, and one run measures what it says."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import ablation
from selavpr.recipes import read_recipe
from tests.test_training import recipe_of, start, town

__all__ = ["start", "town"]  # fixtures

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_variants_differ_from_the_recipe_as_they_say(name: str) -> None:
    base = read_recipe(RECIPES / "city.toml")
    made = ablation.recipe_of(name, base, Path("START"), 121)
    assert (made.model, made.epochs, made.steps) == ("START", 2, 61)
    assert made.data == base.data and made.validation_queries == base.validation_queries
    if name == "paper's recipe":
        paper = read_recipe(RECIPES / "paper.toml")
        assert (made.learning_rate, made.input_size, made.optimizer) == (
            paper.learning_rate, paper.input_size, paper.optimizer,
        )  # fmt: skip
    else:
        changes = ablation.VARIANTS[name]
        ours = {"model", "epochs", "steps", "patience", *changes}
        assert dataclasses.replace(base, **{f: getattr(made, f) for f in ours}) == made
        assert all(getattr(made, field) == value for field, value in changes.items())


def test_a_run(
    start: Path, town: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Two variants of a toy recipe; asked again, nothing is trained again."""
    base = recipe_of(
        start, town, batches="places", places=2, views=2, validation=str(town),
        validation_queries={"part": "query"}, validation_database={"part": "database"},
    )  # fmt: skip
    monkeypatch.setattr(ablation, "read_recipe", lambda path: base)
    args = ["ablation", str(start), "--updates", "2", "--input-size", "56", "--work",
            str(tmp_path / "w"), "--json", str(tmp_path / "a.json"),
            "--variants", ablation.UNTRAINED, "best recipe"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", args)
    ablation.main()
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert list(report) == [ablation.UNTRAINED, "best recipe"]
    for name, cells in report.items():
        before, after = cells["validation"]
        assert 0 <= float(before) <= 100 and 0 <= float(after) <= 100
        assert f"{before} / {after}" in shown and name in shown
    monkeypatch.setattr(ablation, "trained", None)  # would fail if it were called
    ablation.main()
    assert json.loads((tmp_path / "a.json").read_text()) == report
