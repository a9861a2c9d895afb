"""Reports: rows by condition worked by hand, tables that line up, JSON that is JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from selavpr import OptionError
from selavpr.evaluation import FUSED, GLOBAL, RERANKED, Evaluation, summarise, table, write_json

TRUTHS = [{0}, {1}, set(), {2, 3}]
CONDITIONS = ["day", "day", "night", "night"]
LISTS = {
    GLOBAL: [[0, 1], [2, 1], [0, 1], [0, 1]],
    RERANKED: [[0, 1], [1, 2], [1, 0], [2, 0]],
}
ERRORS = {GLOBAL: [1.0, 50.0, math.nan, 30.0], FUSED: [2.0, 4.0, math.nan, math.nan]}


def test_rows_by_hand() -> None:
    day, night, both = summarise(CONDITIONS, TRUTHS, 4, LISTS, ERRORS, (1, 2))
    assert (day.condition, day.queries, day.answerable) == ("day", 2, 2)
    assert (night.condition, night.queries, night.answerable) == ("night", 2, 1)
    assert [day.recalls[GLOBAL][n].value for n in (1, 2)] == [0.5, 1]
    assert [night.recalls[s][1].value for s in (GLOBAL, RERANKED)] == [0, 0.5]
    assert both.condition == "all" and both.recalls[RERANKED][1].value == 0.75
    # Of four references, 1, 1, 0 and 2 are right.
    assert both.chance[1] == pytest.approx((1 + 1 + 0 + 2) / 4 / 4)
    assert both.errors_m[GLOBAL] == (30, pytest.approx(46))
    assert night.errors_m == {GLOBAL: (30, 30)}


@pytest.mark.parametrize(("conditions", "names"), [
    (["", ""], ["all"]), (["day", "day"], ["day"]), (["day", ""], ["day", "unknown", "all"])
])  # fmt: skip
def test_which_rows_there_are(conditions: list[str], names: list[str]) -> None:
    rows = summarise(conditions, [{0}, {0}], 2, {GLOBAL: [[0], [1]]})
    assert [row.condition for row in rows] == names


def test_no_recall_beyond_what_is_listed() -> None:
    """R@20 of lists of three would be R@3 by another name; of the whole database it is R@20."""
    few = {GLOBAL: [[0, 1, 2], []], RERANKED: [[2, 1, 0], []]}
    for database, ns in ((30, [1, 2]), (4, [1, 2]), (3, [1, 2, 5])):
        (row,) = summarise(["", ""], [{0}, {1}], database, few, ns=(1, 2, 5))
        assert list(row.chance) == list(row.recalls[GLOBAL]) == list(row.recalls[RERANKED]) == ns


def test_no_queries() -> None:
    with pytest.raises(OptionError, match="no queries"):
        summarise([], [], 3, {GLOBAL: []})


def test_markdown_and_json() -> None:
    rows = summarise(CONDITIONS, TRUTHS, 4, LISTS, ERRORS, (1, 2))
    verdicts = {"sure": {"photos": 3, "right": 2 / 3}, "unsure": {"photos": 0, "right": None}}
    facts = {"seconds": 1.234, "depth": 2000, "verdicts": verdicts, "curve": [[1, 2]]}
    report = Evaluation("Town", ("Right within 25 m.",), rows, facts)
    lines = report.to_markdown().splitlines()
    assert lines[0] == "## Town" and "- Right within 25 m." in lines
    cells = [line for line in lines if line.startswith("|")]
    # Header and rule; chance and two stages for each of three; fused where an error is known.
    assert len({len(line) for line in cells[:13]}) == 1 and len(cells) == 2 + 3 * 3 + 2 + 2 + 2
    assert cells[13:] == [
        "| verdicts | photos | right |",
        "| -------- | -----: | ----: |",
        "| sure     |      3 | 0.667 |",
        "| unsure   |      0 |     - |",
    ]
    assert any("night" in line and "2 (1 answerable)" in line for line in cells)
    assert not any("curve" in line for line in lines)
    assert "- seconds: 1.23" in lines and "- depth: 2,000" in lines
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["rows"][2]["recalls"]["re-ranked"]["1"]["value"] == 0.75


def test_table_by_hand() -> None:
    assert table(["name", "n"], [["a", "1"], ["long name", "22"]]).splitlines() == [
        "| name      |   n |",
        "| --------- | --: |",
        "| a         |   1 |",
        "| long name |  22 |",
    ]


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(OptionError, match="Cannot write"):
        write_json(tmp_path / "absent" / "a.json", {})
    with pytest.raises(OptionError, match="no name for a file"):
        write_json(Path(""), {})
