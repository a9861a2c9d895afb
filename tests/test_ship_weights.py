"""The tool that puts a trained model where the app finds it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, random_model

from selavpr import SelaVPR, weights
from tools import ship_weights


def trained(folder: Path, seed: int, backbone: SelaVPR) -> Path:
    """What a run leaves: other adapters on the same backbone."""
    config = dataclasses.replace(TINY, scoring="expected")
    model = random_model(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    recipe = {
        "data": [f"/home/someone/city-{seed}/places.csv"],
        "validation": "",
        "model": "/a/b/c",
    }
    source = dataclasses.replace(
        model.to_weights(),
        backbone=backbone.to_weights().backbone,
        card={"training": {"recipe": recipe, "updates": seed}, "recall": {"validation": {}}},
    )
    return weights.save(source, folder, with_backbone=True, dtype=torch.float16)


@pytest.mark.parametrize("runs", [1, 2])
def test_one_run_or_the_mean_of_several(
    runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_model(dataclasses.replace(TINY, scoring="expected"))
    models = [trained(tmp_path / str(i), i, backbone) for i in range(1, runs + 1)]
    out = tmp_path / "shipped"
    out.mkdir()
    (out / weights.BACKBONE_FILE).write_bytes((models[0] / weights.BACKBONE_FILE).read_bytes())
    arguments = ["ship_weights", *map(str, models), "--out", str(out), "--query-scales", "1.5"]
    arguments += ["--agreement"]
    monkeypatch.setattr(sys, "argv", arguments)
    ship_weights.main()
    shipped = SelaVPR.from_pretrained(out, device="cpu")
    assert shipped.config.asking == {"query_scales": (1.5,), "agreement": True}
    each = [weights.load(model).trained for model in models]
    for name, tensor in shipped.to_weights().trained.items():
        mean = torch.stack([state[name].float() for state in each]).mean(0)
        torch.testing.assert_close(tensor, mean, atol=1e-3, rtol=1e-3)
    text = (out / weights.CONFIG_FILE).read_text(encoding="utf-8")
    assert "someone" not in text
    training = json.loads(text)["training"]
    told = training["mean_of"] if runs > 1 else [training]
    assert [run["updates"] for run in told] == list(range(1, runs + 1))
    assert told[0]["recipe"]["data"] == ["city-1/places.csv"]
