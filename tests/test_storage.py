"""The benchmark of bytes against recall: what it reads, counts and says of every code."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from engine_fixtures import COUNT, draw_town

from benchmarks import storage
from selavpr import SelaVPR


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A town whose every third photo is asked for, too."""
    folder = draw_town(tmp_path / "city")
    table = next(folder.glob("*.csv"))
    with table.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "role"])
        writer.writerows([*row, "reference"] for row in rows)
        for row in rows[::3]:
            again = dict(zip(header, row, strict=True)) | {"id": f"again {row[header.index('id')]}"}
            writer.writerow([*again.values(), "query"])
    return folder


def test_every_code_is_measured(
    city: Path, network: SelaVPR, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(storage.SelaVPR, "from_pretrained", lambda *_, **__: network)
    kinds = (("tokens", 6), ("keypoint", 20), ("product", 4), ("dense", None), ("none", None))
    monkeypatch.setattr(storage, "KINDS", kinds)
    out, plot = tmp_path / "out.json", tmp_path / "plot.svg"
    monkeypatch.setattr(
        sys, "argv",
        ["storage", str(city), "--top-k", "5", "--json", str(out), "--plot", str(plot)],
    )  # fmt: skip
    storage.main()
    said = capsys.readouterr().out
    queries = len(range(0, COUNT, 3))
    assert f"{COUNT} references, {queries} queries, top 5 re-ranked" in said
    results = {r["kind"]: r for r in json.loads(out.read_text(encoding="utf-8"))}
    assert list(results) == ["float32", *(kind for kind, _ in kinds)]
    # A photo that is itself a reference is its own best match, whatever is kept of it.
    for result in results.values():
        assert result["r1"] == result["r5"] == 1
        assert result["same_first"] == 1
    cells = 13 * 13
    assert results["float32"]["bytes_per_photo"] == cells * 8 * 4
    assert results["dense"]["bytes_per_photo"] == pytest.approx(cells * 8 * 2, abs=200)
    assert results["tokens"]["bytes_per_photo"] == pytest.approx(16 * 8, abs=50)
    assert results["none"]["bytes_per_photo"] == 0
    assert said.count("| +0.0 points |") == len(results)
    assert "tokens" in plot.read_text(encoding="utf-8")


def test_a_photo_is_read_once(network: SelaVPR, city: Path) -> None:
    entries = [
        entry
        for photo in storage.taken(city, "role=reference")
        if (entry := storage.extracted(photo, network))
    ]
    asked = [storage.asked_with(q, entries, network, 5) for q in storage.taken(city, "role=query")]
    orders, _ = storage.dense_orders(asked, entries, network)
    seen: list[int] = []

    def read(rows: Sequence[int]) -> list[storage.Local]:
        seen.extend(rows)
        tokens = [entries[row].tokens[None].float() for row in rows]
        return [
            storage.Local(network.densify(t)[0].flatten(0, 1), storage.dense_cells(t.shape[1:3]))
            for t in tokens
        ]

    again, _ = storage.ranked(asked, read, network.config)
    assert again == orders
    assert len(seen) == len(set(seen)) == len({row for q in asked for row in q.rows})


@pytest.mark.parametrize("only, kept", [(["dense"], 1), (["tokens:44", "none"], 2)])
def test_only_some_codes(only: list[str], kept: int) -> None:
    assert sum(storage.is_wanted(kind, only) for kind in storage.KINDS) == kept
