"""Losses against naive loops, their gradients, their edges, and their use of masks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selavpr import losses
from selavpr.errors import OptionError

B, N, D = 7, 9, 6


def masks() -> tuple[Tensor, Tensor]:
    """Three places of 3, 2 and 2 photos; the pair (0, 3) is unsure."""
    place = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    same = (place[:, None] == place) & ~torch.eye(B, dtype=torch.bool)
    different = place[:, None] != place
    different[0, 3] = different[3, 0] = False
    return same, different


def features(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1).float().requires_grad_()


def naive_triplet(x: Tensor, same: Tensor, different: Tensor) -> Tensor:
    terms = []
    for a in range(B):
        for p in range(B):
            for n in range(B):
                if same[a, p] and different[a, n]:
                    near = ((x[a] - x[p] + 1e-6) ** 2).sum().sqrt()  # torch's own epsilon
                    far = ((x[a] - x[n] + 1e-6) ** 2).sum().sqrt()
                    terms.append(torch.clamp(near - far + 0.1, min=0))
    return torch.stack(terms).mean()


def naive_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Mean similarity of mutual nearest neighbours, by the definition."""
    chosen = []
    for i in range(len(a)):
        j = max(range(len(b)), key=lambda j: float((a[i] @ b[j]).detach()))
        if i == max(range(len(a)), key=lambda k: float((a[k] @ b[j]).detach())):
            chosen.append(a[i] @ b[j])
    return torch.stack(chosen).mean()


def naive_mutual(x: Tensor, same: Tensor, different: Tensor) -> Tensor:
    terms = []
    for a in range(B):
        for p in range(B):
            for n in range(B):
                if same[a, p] and different[a, n]:
                    far, near = naive_similarity(x[a], x[n]), naive_similarity(x[a], x[p])
                    terms.append(torch.clamp(far - near, min=0))
    return torch.stack(terms).mean()


def naive_multi_similarity(x: Tensor, same: Tensor, different: Tensor) -> Tensor:
    x = F.normalize(x, dim=-1)
    terms = []
    for a in range(B):
        near = {j: x[a] @ x[j] for j in range(B) if same[a, j]}
        far = {j: x[a] @ x[j] for j in range(B) if different[a, j]}
        if not near or not far:
            continue
        most = max(float(s.detach()) for s in far.values())
        least = min(float(s.detach()) for s in near.values())
        pull = sum(
            torch.exp(-2 * (s - 0.5)) for s in near.values() if float(s.detach()) - 0.1 < most
        )
        push = sum(
            torch.exp(40 * (s - 0.5)) for s in far.values() if float(s.detach()) + 0.1 > least
        )
        one = torch.tensor(1.0)
        terms.append(torch.log(one + pull) / 2 + torch.log(one + push) / 40)
    return torch.stack(terms).mean()


def naive_soft_count(x: Tensor, same: Tensor, different: Tensor) -> Tensor:
    def count(a: Tensor, b: Tensor) -> Tensor:
        s = a @ b.T / 0.05
        return (s.softmax(0) * s.softmax(1)).sum() ** 4

    terms = []
    for a in range(B):
        for p in range(B):
            if same[a, p]:
                near = count(x[a], x[p])
                far = sum(count(x[a], x[n]) for n in range(B) if different[a, n])
                terms.append((-torch.log(near / (near + far)), int(same[a].sum())))
    return sum(t / k for t, k in terms) / B


CASES = [
    (losses.triplet, naive_triplet, (B, D)),
    (losses.multi_similarity, naive_multi_similarity, (B, D)),
    (losses.mutual, naive_mutual, (B, N, D)),
    (losses.soft_count, naive_soft_count, (B, N, D)),
]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("loss", "naive", "shape"), CASES)
def test_value_and_gradient(loss: Loss, naive: Loss, shape: tuple[int, ...], seed: int) -> None:
    x, y = features(*shape, seed=seed), features(*shape, seed=seed)
    got, expected = loss(x, *masks()), naive(y, *masks())
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)
    assert float(got.detach()) > 0
    got.backward()
    expected.backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("loss", "naive", "shape"), CASES)
def test_autocast_changes_nothing(loss: Loss, naive: Loss, shape: tuple[int, ...]) -> None:
    del naive
    x = features(*shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x, *masks())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(x, *masks()))


@pytest.mark.parametrize(("loss", "naive", "shape"), CASES)
def test_half_precision_features(loss: Loss, naive: Loss, shape: tuple[int, ...]) -> None:
    """Similarities in bfloat16 would tie; the losses compare in float32."""
    del naive
    x = features(*shape).detach().bfloat16()
    assert torch.equal(loss(x, *masks()), loss(x.float(), *masks()))


@pytest.mark.parametrize(("loss", "naive", "shape"), CASES)
def test_no_anchor_is_zero_with_zero_gradient(
    loss: Loss, naive: Loss, shape: tuple[int, ...]
) -> None:
    del naive
    x = features(*shape)
    none = torch.zeros(B, B, dtype=torch.bool)
    value = loss(x, none, none)
    value.backward()
    assert float(value.detach()) == 0 and x.grad is not None and not x.grad.any()


@pytest.mark.parametrize(("loss", "naive", "shape"), CASES)
def test_a_step_along_the_gradient_lowers_the_loss(
    loss: Loss, naive: Loss, shape: tuple[int, ...]
) -> None:
    del naive
    x = features(*shape, seed=5)
    before = loss(x, *masks())
    before.backward()
    assert x.grad is not None
    after = loss(x.detach() - 0.03 * x.grad, *masks())
    assert float(after) < float(before.detach())


def test_unsure_pairs_and_others_places_do_not_count() -> None:
    """Moving a photo that is in neither mask of the only anchor changes nothing."""
    same, different = torch.zeros(2, B, B, dtype=torch.bool)
    same[0, 1] = different[0, 2] = True
    for loss, _, shape in CASES:
        x = features(*shape).detach()
        moved = x.clone()
        moved[3:] = features(*shape, seed=9).detach()[3:]
        assert torch.equal(loss(x, same, different), loss(moved, same, different))


def test_mutual_similarity_with_one_match() -> None:
    """Everything prefers row 0 of the other side: one mutual pair, which the reference counts 0."""
    a = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    b = torch.tensor([[1.0, 0.0], [0.9, -0.436]])
    assert float(losses.mean_mutual_similarity(a, b)) == 1.0


def test_mutual_similarity_without_rows() -> None:
    a = torch.zeros(0, 3, requires_grad=True)
    for value in (
        losses.mean_mutual_similarity(a, a),
        losses.mean_mutual_similarity(a, torch.ones(2, 3)),
        losses.mean_mutual_similarity(torch.ones(2, 3), a),
    ):
        assert float(value.detach()) == 0.0 and value.requires_grad


def test_soft_count_becomes_the_hard_count() -> None:
    """With hardly any temperature the ratio of soft counts is that of mutual neighbours."""
    same, different = torch.zeros(2, 3, 3, dtype=torch.bool)
    same[0, 1] = different[0, 2] = True
    x = features(3, 40, 8, seed=4).detach()

    def hard(i: int, j: int) -> int:
        s = x[i] @ x[j].T
        best = s.argmax(1)
        return int((s.argmax(0)[best] == torch.arange(40)).sum())

    got = float(losses.soft_count(x, same, different, temperature=1e-4, sharpness=1.0))
    near, far = hard(0, 1), hard(0, 2)
    assert near != far
    assert math.isclose(got, -math.log(near / (near + far)), rel_tol=1e-3)


def test_soft_count_ignores_what_a_whole_photo_shares() -> None:
    same, different = masks()
    x = features(B, N, D).detach()
    tagged = torch.cat([x, torch.linspace(-3, 3, B)[:, None, None].expand(B, N, 1)], dim=2)
    a = losses.soft_count(x, same, different)
    assert torch.allclose(a, losses.soft_count(tagged, same, different), atol=1e-4)


@pytest.mark.parametrize("loss", [losses.triplet, losses.multi_similarity])
def test_others_add_columns_that_batches_alone_lack(loss: Callable[..., Tensor]) -> None:
    same, different = masks()
    x = features(B, D)
    assert torch.equal(loss(x, same, different, x), loss(x, same, different))
    # Rows of the first three among all: the same as all rows with the others' masks emptied.
    rows = torch.zeros(B, 1, dtype=torch.bool)
    rows[:3] = True
    part = loss(x[:3], same[:3], different[:3], x)
    torch.testing.assert_close(part, loss(x, same & rows, different & rows))


@pytest.mark.parametrize("loss", [losses.triplet, losses.mutual])
def test_refuses_what_does_not_fit(loss: Loss) -> None:
    same, different = masks()
    with pytest.raises(OptionError, match="need masks"):
        loss(torch.zeros(B + 1, D), same, different)
    with pytest.raises(OptionError, match="no pair both"):
        loss(features(*((B, D) if loss is losses.triplet else (B, N, D))), same, same)
