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
    assert {manifest["name"], manifest["title"], manifest["attribution"]} < set(steps[2])


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
