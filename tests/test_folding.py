"""Folded blocks compute what the network computes."""

from __future__ import annotations

import dataclasses

import torch
from conftest import TINY, random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from selavpr.folding import FoldedBlock, fold


@settings(max_examples=6, deadline=None)
@given(
    registers=st.sampled_from([0, 4]),
    scale=st.floats(0, 2),
    sides=st.tuples(st.integers(2, 5), st.integers(2, 5)),
)
def test_a_network_of_folded_blocks_gives_the_same_features(
    registers: int, scale: float, sides: tuple[int, int]
) -> None:
    model = random_model(dataclasses.replace(TINY, registers=registers, adapter_scale=scale))
    shape = (2, 3, 14 * sides[0], 14 * sides[1])
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(pixels, local=True)
        got = model(pixels, local=True, folded=fold(model, torch.float32).blocks)
    torch.testing.assert_close(got.tokens, expected.tokens, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got.descriptor, expected.descriptor, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.local, expected.local, atol=1e-4, rtol=0)


def test_a_block_in_half_precision_errs_no_more_than_autocast() -> None:
    model = random_model(TINY)
    block = model.backbone.blocks[0]
    rows = torch.randn(1, 30, TINY.width, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact = block(rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            usual = (block(rows) - exact).abs().mean()
        error = (FoldedBlock(block, torch.bfloat16)(rows) - exact).abs().mean()
    assert 0 < error < 1.5 * usual


def test_the_plain_backbone_has_no_use_for_them() -> None:
    model = random_model(TINY)
    pixels = torch.randn(1, 3, 42, 42, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        blocks = fold(model, torch.float32).blocks
        got = model(pixels, adapted=False, folded=blocks).tokens
        assert torch.equal(got, model(pixels, adapted=False).tokens)
        assert not torch.allclose(got, model(pixels, folded=blocks).tokens, atol=1e-2)


def test_weights_outside_the_blocks_are_cast() -> None:
    model = random_model(TINY)
    weights = fold(model, torch.bfloat16).weights
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert "local_head.up1.weight" in weights and "backbone.patch_embed.proj.weight" in weights
    assert not any("blocks" in name for name in weights)
    assert set(weights) <= set(model.state_dict())
