"""On a GPU: the same answers as on the CPU, recorded or not; a step of training.

CI has none, so these are skipped there: run them wherever one is lent.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import TINY, random_model
from PIL import Image

from selavpr import SelaVPR, count_mutual, matching, mutual_nearest, replay
from selavpr.matching import expect_mutual

fused = pytest.importorskip("selavpr.fused", reason="Triton comes with torch for GPUs")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pair() -> tuple[SelaVPR, SelaVPR]:
    model = random_model(TINY)
    return model, SelaVPR.from_weights(model.to_weights(), device="cuda", precision="float32")


def test_features_are_those_of_the_cpu_recorded_or_not() -> None:
    cpu, gpu = pair()
    for i in range(replay.SEEN + 3):
        expected, got = cpu.extract(photo(i), local=True), gpu.extract(photo(i), local=True)
        assert got.descriptor.is_cuda and got.local is not None and expected.local is not None
        torch.testing.assert_close(got.descriptor.cpu(), expected.descriptor, atol=1e-4, rtol=0)
        torch.testing.assert_close(got.tokens.cpu(), expected.tokens, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(got.local.cpu(), expected.local, atol=1e-4, rtol=0)


def test_earlier_features_stay_as_they_were() -> None:
    _, gpu = pair()
    for _ in range(replay.SEEN + 1):
        first = gpu.extract(photo(0))
    kept = first.tokens.clone()
    gpu.extract(photo(1))
    assert torch.equal(first.tokens, kept)


def test_a_recording_reads_the_weights_as_they_are() -> None:
    _, gpu = pair()
    for _ in range(replay.SEEN + 2):
        before = gpu.extract(photo(0)).tokens
    with torch.no_grad():
        gpu.backbone.norm.weight.mul_(2)
        gpu.backbone.norm.bias.mul_(2)
    torch.testing.assert_close(gpu.extract(photo(0)).tokens, 2 * before)


def test_half_precision_and_adapters_off_are_recorded_apart() -> None:
    model = random_model(TINY)
    gpu = SelaVPR.from_weights(model.to_weights(), device="cuda", precision="bfloat16")
    for adapted in (True, False) * (replay.SEEN + 2):
        expected = model.extract(photo(0), adapted=adapted).descriptor
        got = gpu.extract(photo(0), adapted=adapted).descriptor.cpu()
        torch.testing.assert_close(got, expected, atol=0.03, rtol=0)


def test_threads_share_a_model() -> None:
    cpu, gpu = pair()
    expected = [cpu.extract(photo(i)).descriptor for i in range(8)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(10):
            got = gpu.extract(photo(i)).descriptor.cpu()
            if not torch.allclose(got, expected[i], atol=1e-4):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_recordings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "KEPT", 2)
    _, gpu = pair()
    for n in (1, 2, 3, 4):
        for _ in range(replay.SEEN + 1):
            gpu.extract_each([photo(i) for i in range(n)])
    assert len(gpu._replays._recordings) == 2


def test_matches_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(61, 400, 32, generator=generator), dim=-1)
    query, candidates = features[0], features[1:]
    expected = count_mutual(query, candidates)
    for mode in ("exact", "fast"):  # which are one there
        got = count_mutual(query.cuda(), candidates.cuda(), mode=mode)  # type: ignore[arg-type]
        assert got.is_cuda
        # A rounding error may settle a near tie another way.
        assert int((got.cpu() - expected).abs().max()) <= 2
    torch.testing.assert_close(
        expect_mutual(query.cuda(), candidates.cuda()).cpu(), expect_mutual(query, candidates),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    places = torch.rand(61, 400, 2, generator=generator) - 0.5
    alike = expect_mutual(query, candidates, (places[0], places[1:]))
    there = expect_mutual(query.cuda(), candidates.cuda(), (places[0], places[1:])).cpu()
    assert (alike < expect_mutual(query, candidates)).all()
    torch.testing.assert_close(there, alike, rtol=0.02, atol=1e-3)  # near ties, likewise
    assert matching._kernel("cuda") is not None and fused._tiles  # the kernel did that
    assert count_mutual(query.cuda(), candidates[:0].cuda()).shape == (0,) and fused._tiles
    # Widths it does not take, and a GPU that does not take it.
    narrow = features[..., :20]
    exact = count_mutual(narrow[0], narrow[1:])
    assert int((count_mutual(narrow[0].cuda(), narrow[1:].cuda()).cpu() - exact).abs().max()) <= 2
    monkeypatch.setattr(fused, "_tiles", [])
    got = count_mutual(query.cuda(), candidates.cuda()).cpu()
    assert int((got - expected).abs().max()) <= 2
    found = mutual_nearest(query.cuda(), candidates[0].cuda())
    known = mutual_nearest(query, candidates[0])
    pairs = [set(zip(m.query.tolist(), m.candidate.tolist(), strict=True)) for m in (found, known)]
    assert len(pairs[0] ^ pairs[1]) <= 2
