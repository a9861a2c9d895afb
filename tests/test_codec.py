"""The code of tokens: its error is bounded, its bytes are the same on every run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selavpr import OptionError
from selavpr.codec import SMALLEST_SCALE, TokenCodec


def tokens(count: int, width: int = 16, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Components of unequal size, as principal component analysis wants them.
    return torch.randn(count, width, generator=generator) * torch.arange(1, width + 1) * scale + 3


def round_trip(codec: TokenCodec, values: Tensor) -> Tensor:
    return codec.decode(*codec.encode(values))


def test_types_and_shapes() -> None:
    codec = TokenCodec.fit(tokens(100), 5)
    assert codec.rank == 5 and codec.width == 16
    codes, scales = codec.encode(tokens(7, seed=1))
    assert codes.shape == (7, 5) and codes.dtype == np.int8
    assert scales.shape == (7,) and scales.dtype == np.float16
    assert codec.decode(codes, scales).shape == (7, 16)


@given(st.integers(0, 1000), st.sampled_from([1e-2, 1.0, 1e2]))
def test_error_of_each_component_is_half_a_step(seed: int, scale: float) -> None:
    values = tokens(40, seed=seed, scale=scale)
    codec = TokenCodec.fit(tokens(200, scale=scale), 16)
    exact = (values - codec.mean) @ codec.basis.T
    decoded = (round_trip(codec, values) - codec.mean) @ codec.basis.T
    # Half a step of the largest component / 127; 0.2 % for the scale's rounding.
    bound = exact.abs().amax(dim=1) / 127 / 2 * 1.002
    assert ((exact - decoded).abs().amax(dim=1) <= bound + 1e-4 * scale).all()


def test_full_rank_is_nearly_lossless() -> None:
    values = tokens(50, seed=1)
    codec = TokenCodec.fit(tokens(200), 16)
    relative = (round_trip(codec, values) - values).norm() / (values - codec.mean).norm()
    # Uniform error of a step of about 2.5 sigma / 127, over components of unequal size.
    assert relative < 0.02


def test_more_rank_loses_less() -> None:
    values = tokens(300)
    errors = [
        float((round_trip(TokenCodec.fit(values, rank), values) - values).norm())
        for rank in (1, 4, 8, 12, 16)
    ]
    assert errors == sorted(errors, reverse=True)


def test_the_kept_part_is_the_principal_one() -> None:
    values = tokens(2000)
    codec = TokenCodec.fit(values, 3)
    lost = (values - codec.mean) - (values - codec.mean) @ codec.basis.T @ codec.basis
    eigenvalues = torch.linalg.eigvalsh(torch.cov(values.double().T))
    assert float(lost.double().pow(2).sum() / 1999) == pytest.approx(
        float(eigenvalues[:-3].sum()), rel=1e-4
    )
    assert torch.allclose(codec.basis @ codec.basis.T, torch.eye(3), atol=1e-5)


def test_deterministic_and_independent_of_the_batch() -> None:
    first, second = (TokenCodec.fit(tokens(100), 6) for _ in range(2))
    assert torch.equal(first.basis, second.basis) and torch.equal(first.mean, second.mean)
    # The sign of an eigenvector is settled: the largest entry of each is positive.
    assert (first.basis.gather(1, first.basis.abs().argmax(1, keepdim=True)) > 0).all()
    values = tokens(64, seed=3)
    codes, scales = first.encode(values)
    again, scales_again = first.encode(values.clone())
    assert codes.tobytes() == again.tobytes() and scales.tobytes() == scales_again.tobytes()


def test_extreme_tokens() -> None:
    codec = TokenCodec.fit(tokens(100), 16)
    values = torch.stack(
        [codec.mean, codec.mean + 1e-7, torch.zeros(16), torch.full((16,), 1e4), -codec.mean]
    )
    codes, scales = codec.encode(values)
    assert np.isfinite(scales).all() and (scales >= SMALLEST_SCALE).all()
    assert np.abs(codes.astype(int)).max() <= 127
    decoded = codec.decode(codes, scales)
    spread = (values - codec.mean).abs().amax(dim=1) * 4 / 127
    assert ((decoded - values).abs().amax(dim=1) <= spread + 16 * SMALLEST_SCALE).all()


def test_half_precision_tokens_and_constant_ones() -> None:
    codec = TokenCodec.fit(torch.full((20, 8), 2.5), 4)
    assert torch.allclose(round_trip(codec, torch.full((3, 8), 2.5).half()), torch.tensor(2.5))


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_ranks_out_of_range(rank: int) -> None:
    with pytest.raises(OptionError, match="must be 1 to 16"):
        TokenCodec.fit(tokens(100), rank)


def test_too_few_tokens() -> None:
    with pytest.raises(OptionError, match="at least as many tokens"):
        TokenCodec.fit(tokens(3), 4)
    assert TokenCodec.fit(tokens(4), 4).rank == 4


def made_of(values: Tensor, seed: int = 5) -> Tensor:
    """Something that depends on a few weak directions of 16."""
    generator = torch.Generator().manual_seed(seed)
    hidden = (values[:, 10:] @ torch.randn(6, 8, generator=generator)).relu()
    return hidden @ torch.randn(8, 5, generator=generator)


def foretold(codec: TokenCodec, values: Tensor) -> float:
    """How far what is made of decoded tokens is from what is made of the true ones."""
    return float((made_of(round_trip(codec, values)) - made_of(values)).norm())


def test_what_is_made_of_tokens_stays_as_it_is() -> None:
    """Principal components are of the strong directions, which nothing is made of."""
    values = tokens(4000) * torch.linspace(4, 0.2, 16)
    plain, telling = TokenCodec.fit(values, 6), TokenCodec.fit(values, 6, made_of(values))
    assert foretold(telling, values) < 0.2 * foretold(plain, values)
    assert telling.encoder is not None and plain.encoder is None


@pytest.mark.parametrize("rank", [1, 4, 5, 6, 12, 16])
def test_coding_what_was_decoded_changes_nothing(rank: int) -> None:
    """Whether or not there are more components than dimensions of what is made of tokens."""
    values = tokens(500)
    codec = TokenCodec.fit(values, rank, made_of(values))
    assert codec.rank == rank and codec.encoder is not None
    assert torch.allclose(codec.basis @ codec.encoder.T, torch.eye(rank), atol=1e-3)
    exact = (values - codec.mean) @ codec.encoder.T @ codec.basis + codec.mean
    again = (exact - codec.mean) @ codec.encoder.T @ codec.basis + codec.mean
    assert torch.allclose(exact, again, atol=1e-3)
    # Rounding costs little of what there is.
    assert float((round_trip(codec, values) - exact).norm() / exact.norm()) < 0.03
    first, second = (TokenCodec.fit(values, rank, made_of(values)) for _ in range(2))
    assert torch.equal(first.basis, second.basis) and torch.equal(first.encoder, second.encoder)


def test_tokens_that_tell_nothing() -> None:
    """All alike, or nothing made of them: the code is whole all the same."""
    flat = torch.full((30, 8), 2.5)
    for values, made in ((flat, flat[:, :3]), (tokens(30, 8), torch.zeros(30, 3))):
        codec = TokenCodec.fit(values, 4, made)
        assert codec.rank == 4 and codec.basis.isfinite().all()
        assert round_trip(codec, values).isfinite().all()
    assert torch.allclose(round_trip(TokenCodec.fit(flat, 4, flat[:, :3]), flat), flat, atol=1e-3)
