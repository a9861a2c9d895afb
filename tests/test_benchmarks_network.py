"""The benchmarks of the network and its matcher: small, and with what they print of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import drawn

from benchmarks import extraction, reranking
from selavpr import ModelConfig, SelaVPR


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 x 5 descriptors and a network of two blocks; in this process."""
    monkeypatch.setattr(reranking, "GRID", 25)
    monkeypatch.setattr(ModelConfig, "preset", lambda name: TINY)
    monkeypatch.setattr(SelaVPR, "from_pretrained", lambda **options: random_model(TINY))
    monkeypatch.setattr(reranking, "apart", lambda what, *args: what(*args))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_one_run_measures_extraction_and_reranking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        drawn(i, (80, 60)).save(tmp_path / f"{i}.png")
    out = tmp_path / "report.json"
    args = ["x", "--extraction", "--photos", str(tmp_path), "--queries", "3", "--repeats", "1",
            "--device", "cpu", "--json", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", args)
    reranking.main()
    shown, report = capsys.readouterr().out, json.loads(out.read_text())
    rows = {(row["model"], row["precision"]) for row in report["extraction"]}
    assert rows == {(m, p) for m in ("vit-s", "vit-l") for p in ("float32", "bfloat16")}
    assert all(row["local_ms"] > 0 for row in report["extraction"])
    methods = report["methods"]
    assert list(methods) == ["reference", "exact", "fast"]
    assert methods["reference"]["scores_that_differ"] == 0 == methods["exact"]["scores_that_differ"]
    assert methods["reference"]["times_faster"] == 1 and "exact" in shown and "same" in shown
    assert report["order"]["queries"] == 3 and 0 <= report["order"]["first_unchanged"] <= 1


def test_the_reference_formula_by_hand() -> None:
    """Two rows choose each other; the third's choice is taken."""
    query = torch.eye(3)
    candidate = torch.stack([query[1], query[0], 0.4 * query[0] + 0.6 * query[2]])
    assert reranking.reference_formula(query, candidate[None]).tolist() == [3]
    candidate[2] = 0.9 * query[0]
    assert reranking.reference_formula(query, candidate[None]).tolist() == [2]


def test_extraction_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = extraction.measure("cpu", 1)
    assert len(report["rows"]) == 4 and "with local ms" in capsys.readouterr().out
