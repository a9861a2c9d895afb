"""``app.py`` over the tiny network and a drawn town, and what the documents ask it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine_fixtures import MANIFEST, drawn

from selavpr import SelaVPR, weights
from selavpr.building import build
from selavpr.sources import SourcePhoto

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "space.md"
CITY = "helsinki"
"""What the documents call the city."""

ASKED = 3
"""The place that ``photo.jpg`` shows."""


@dataclass(frozen=True)
class App:
    """A running ``app.py``."""

    address: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> Any:
        """JSON by curl, as the documents ask for it."""
        got = subprocess.run(
            ["curl", "-sf", self.address + path], capture_output=True, text=True, check=True
        )
        return json.loads(got.stdout)


def lay_out(folder: Path, network: SelaVPR, photos: list[SourcePhoto]) -> None:
    """Write a model, an index that belongs to it, and a photo to ask for."""
    weights.save(network.to_weights(), folder / "model", with_backbone=True)
    build(folder / CITY, photos, network, replace(MANIFEST, name=CITY), rank=32)
    drawn(ASKED).save(folder / "photo.jpg", quality=95)


@contextmanager
def serving(folder: Path, command: Sequence[str] = (), **variables: str) -> Iterator[App]:
    """Start the app over what ``lay_out`` wrote.

    Args:
        folder: what was laid out.
        command: the beginning of the command line, before Python.
        **variables: of the environment.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SELAVPR", "HF_", "GRADIO"))}
    with (folder / "app.log").open("w") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "app.py", "--device", "cpu",
             "--model", str(folder / "model"), "--index", str(folder / CITY)],
            cwd=ROOT, env={**kept, "HF_HUB_OFFLINE": "1", **variables},
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http"), (folder / "app.log").read_text()
        yield App(address, process)
    finally:
        process.kill()
        process.communicate()


def blocks(language: str, word: str) -> list[str]:
    """The document's examples in a language that contain a word."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for block in found if word in block]


def run_example(example: str, command: Sequence[str], app: App, folder: Path) -> str:
    """What one of the document's examples prints, with this app's address put in."""
    here = example.replace("http://127.0.0.1:7860/", app.address)
    assert app.address in here
    done = subprocess.run([*command, here], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def located_by_curl(app: App, folder: Path) -> dict[str, Any]:
    """The answer to the document's lines for curl."""
    (lines,) = blocks("bash", "curl")
    said = run_example(lines, ["bash", "-euo", "pipefail", "-c"], app, folder)
    events = re.findall(r"^event: (\w+)\ndata: (.*)$", said, re.MULTILINE)
    assert [kind for kind, _ in events if kind != "heartbeat"] == ["complete"], said
    answer: dict[str, Any] = json.loads(events[-1][1])[0]
    return answer
