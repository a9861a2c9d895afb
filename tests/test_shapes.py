"""The tables of shapes against the network itself."""

from __future__ import annotations

import pytest

from selavpr import ModelConfig, SelaVPR, shapes


@pytest.mark.parametrize("registers", [0, 4])
def test_shapes_are_those_of_the_network(registers: int) -> None:
    config = ModelConfig(
        width=32, depth=2, heads=4, registers=registers, local_hidden=16, local_dim=8
    )
    made = SelaVPR(config).to_weights()
    trained = {name: tuple(x.shape) for name, x in made.trained.items()}
    frozen = {name: tuple(x.shape) for name, x in made.backbone.items()}
    assert shapes.trained_shapes(config) == trained
    assert shapes.frozen_shapes(config) == frozen
