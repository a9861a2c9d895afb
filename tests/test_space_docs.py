"""The examples of docs/space.md, run as they stand there against a running app."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_app import ASKED, App, blocks, lay_out, located_by_curl, run_example, serving

from selavpr import SelaVPR
from selavpr.recognizer import Recognizer
from selavpr.report import to_dict
from selavpr.sources import SourcePhoto

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, network: SelaVPR, photos: list[SourcePhoto]
) -> Path:
    path = tmp_path_factory.mktemp("app")
    lay_out(path, network, photos)
    return path


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    with serving(folder, GRADIO_TEMP_DIR=str(folder / "uploads")) as running:
        yield running


def test_lines_for_curl(app: App, folder: Path, recognizer: Recognizer) -> None:
    answer = located_by_curl(app, folder)
    expected = to_dict(recognizer.recognize(folder / "photo.jpg", top_k=20), "photo.jpg")
    assert set(answer) == set(expected)
    assert answer["photo"] == "photo.jpg"
    assert answer["candidates"][0]["place_id"] == f"p{ASKED}"
    assert answer["location"] == pytest.approx(expected["location"])


def test_lines_for_python(app: App, folder: Path) -> None:
    (lines,) = blocks("python", "gradio_client")
    said = run_example(lines, [sys.executable, "-c"], app, folder)
    printed = said.splitlines()[-1]  # after the client's own greeting
    assert re.match(r"[\w ]+ \{'lat': 48\.\d+, 'lon': 11\.", printed), said


def test_health(app: App) -> None:
    assert app.get("health") == {"status": "ok", "cities": ["helsinki"]}
