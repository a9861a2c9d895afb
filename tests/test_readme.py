"""What the README says is run: its Python, and its commands on the bundled city."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from selavpr import cli
from tools import check_readme, rebuild_city

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BUNDLED = [
    words[3:]
    for words in check_readme.commands(TEXT)
    if words[:3] == ["python", "-m", "selavpr"]
    and any(word.startswith("prebuilt_index") for word in words)
    and "city_build" not in words  # is rendered first
]


def test_the_python_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    os.symlink(ROOT / "prebuilt_index", tmp_path / "prebuilt_index")
    for photo, example in (("photo.jpg", "snow.jpg"), ("other.jpg", "evening.jpg")):
        shutil.copyfile(ROOT / "assets" / "examples" / example, tmp_path / photo)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    place, matches = capsys.readouterr().out.strip().splitlines()
    assert place.startswith("Location(latitude=60.1")
    assert re.fullmatch(r"[1-9]\d* mutual matches", matches)


@pytest.mark.parametrize("words", BUNDLED, ids=" ".join)
def test_commands_on_the_bundled_city(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(words) in (0, 1)  # 1: a photo seems to be from elsewhere
    said = capsys.readouterr()
    assert said.out and "error" not in said.err


def test_nothing_is_wrong_in_the_documents() -> None:
    assert check_readme.problems() == []


def test_there_are_such_commands() -> None:
    assert {tuple(words[:2]) for words in BUNDLED} >= {("index", "info"), ("index", "verify")}
    assert any(words[0] == "locate" for words in BUNDLED)


def test_the_steps_that_remake_the_city_can_be_run() -> None:
    """As far as that can be told without rendering it: options exist, and so do the modules."""
    steps = rebuild_city.steps("python3.11")
    assert steps[0][0] == "python3.11"
    for command in steps:
        assert check_readme._wrong(["python", *command[1:]]) == []
    manifest = json.loads((ROOT / rebuild_city.INDEX / "manifest.json").read_text())
    assert {manifest["name"], manifest["title"], manifest["attribution"]} < set(
        next(step for step in steps if "build" in step)
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](docs/nothing.md)", "links to docs/nothing.md"),
        ("```python\nprint(\n```", "does not parse"),
        ("```bash\npython -m selavpr locat x.jpg\n```", "invalid choice"),
        ("```bash\npython -m selavpr locate x.jpg --indx a\n```", "--indx"),
        ("```bash\npython -m selavpr locate\n```", "are required"),
        ("```bash\nA=b python -m selavpr index build o --from a \\\n  --bach 3\n```", "--bach"),
        ("```bash\npip install -r requirements-x.txt && python app.py\n```", "does not exist"),
        ("```bash\npython app.py --mpc\n```", "no --mpc there"),
        ("```python\nx = 1\n```\nOr\n```bash\npython app.py --mpc\n```", "no --mpc there"),
        ("```bash\npython -m benchmarks.lod\n```", "benchmarks/lod.py does not exist"),
        ("Say `python -m tools.fuzz --hours 1`.", "no --hours there"),
        ("Say `python tools/pick_examples.py`.", "it is python -m tools.pick_examples"),
    ],
)
def test_what_is_wrong_is_found(text: str, problem: str) -> None:
    (found,) = check_readme.check(text, ROOT, "README.md")
    assert problem in found


@pytest.mark.parametrize(
    "text",
    [
        "See `python -m selavpr convert` and `python -m selavpr locate --json`.",
        "```bash\npython app.py --index my_city --mcp  # comment --nothing\n```",
        "```bash\nHF_TOKEN=... python tools/push_space.py my-org/x --weights a b\n```",
        "```\npython -m selavpr index build my-city --from SOURCE\n```",
        "[a](docs/space.md#the-api) [b](https://example.org/x)",
    ],
)
def test_what_is_right_passes(text: str) -> None:
    assert check_readme.check(text, ROOT, "README.md") == []


CARD = (ROOT / "assets/weights/vit-s-focus/README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
DATA_CARD = (ROOT / "prebuilt_index/README.md").read_text(encoding="utf-8")


def cells(text: str, name: str) -> list[str]:
    """The row of a Markdown table that begins with this, without emphasis."""
    rows = [
        [cell.strip(" *") for cell in line.replace("**", "").strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    (found,) = [row for row in rows if row[0] == name]
    return found


def percent(text: str) -> str:
    """The first figure of a cell."""
    found = re.search(r"\d+\.\d+", text)
    assert found, text
    return found[0]


def conditions() -> list[list[str]]:
    """README's rows of the bundled city by condition, without that of all."""
    table = TEXT.partition("| condition | queries |")[2].partition("| **all** |")[0]
    return [[c.strip() for c in line.strip("| ").split("|")] for line in table.splitlines()[2:]]


def test_the_model_card_says_of_the_city_what_the_readme_says() -> None:
    every = cells(TEXT, "all")
    assert percent(cells(CARD, "R@1 global only")[1]) == percent(every[3])
    (best,) = [line for line in CARD.splitlines() if line.startswith("| R@1 re-ranked, ")]
    figures = re.findall(r"\d+\.\d+", best)
    recalls = {row[0]: percent(row[6]) for row in conditions() if len(row) > 6}
    assert figures == [percent(every[6]), min(recalls.values(), key=float)]
    (worst,) = re.findall(r"worst conditions?: ([\w ]+),", best)
    assert set(worst.split(" and ")) == {name for name in recalls if recalls[name] == figures[1]}
    assert percent(cells(CARD, "R@5 re-ranked")[1]) == every[7]


def test_queries_are_counted_alike() -> None:
    every = cells(TEXT, "all")[1]
    assert sum(int(row[1]) for row in conditions() if len(row) > 6) == int(every)
    assert re.search(rf"\b{every} test queries", CARD)
    assert re.search(rf"\b{every} \+ \d+ of `test`", DATA_CARD)
    references = json.loads((ROOT / rebuild_city.INDEX / "manifest.json").read_text())["count"]
    assert f"| pictures | {references}," in DATA_CARD
    assert f"{references} references" in CARD and f"{references} references" in MEASURED
    assert f"all\n{references} references" in TEXT or f"all {references} references" in TEXT


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("global only: ours", "global: ours"),
        ("global only: raw backbone, VLAD of 32", "global: raw tokens, VLAD of 32"),
        ("a right one among the 50", "a right one among the candidates"),
        ("re-ranked: ours", "re-ranked: ours"),
        ("re-ranked: tokens of the raw backbone", "re-ranked: raw tokens"),
        ("re-ranked: SIFT + RANSAC", "re-ranked: SIFT + RANSAC"),
        ("re-ranked: XFeat + RANSAC", "re-ranked: XFeat + RANSAC"),
    ],
)
def test_other_methods_have_the_same_recall_everywhere(here: str, there: str) -> None:
    """README has what is within 25 m, the second of three figures of docs/evaluation.md."""
    table = TEXT.partition("### Beside other methods")[2]
    city, day, night, _, visits = (cell.split(" / ") for cell in tables(MEASURED, there)[1:])
    shown = [cell.split()[0] for cell in cells(table, here)[1:]]
    assert shown == [city[1], day[1], night[1], visits[0]]


def tables(text: str, name: str) -> list[str]:
    """The row of the table of recalls, not of that of costs."""
    return cells(text.partition("\nCosts, on ")[0], name)


@pytest.mark.parametrize(
    ("photos", "column"),
    [("bgu_campus by day", 2), ("bgu_campus by night", 3), ("seasons_5x12", 4)],
)
def test_the_model_card_says_of_real_photos_what_the_readme_says(photos: str, column: int) -> None:
    table = TEXT.partition("### Beside other methods")[2]
    (line,) = [x for x in CARD.splitlines() if x.startswith(f"| {photos},")]
    first, second = (percent(cell) for cell in line.strip("| ").split("|")[1:])
    assert first == percent(cells(table, "global only: ours")[column])
    assert second == percent(cells(table, "re-ranked: ours")[column])
