"""``app.py`` as it is started: options, environment, the Hub, the bundled city."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import HubServer, Repo
from test_hub import point_at

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = sorted(path.parent.name for path in (ROOT / "prebuilt_index").glob("*/manifest.json"))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SELAVPR", "HF_", "GRADIO"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hub"),
        "GRADIO_TEMP_DIR": str(home / "uploads"),
        "HF_HUB_ETAG_TIMEOUT": "2",
    }


@contextmanager
def started(
    hub: HubServer, home: Path, *options: str, **variables: str
) -> Iterator[tuple[str, str]]:
    """The app's address and what it says it serves."""
    process = subprocess.Popen(
        [sys.executable, "app.py", "--device", "cpu", *options],
        cwd=ROOT,
        env={**environment(hub, home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stderr
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise AssertionError(process.stderr.read())
        yield address, process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=20)


def fetched(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return json.load(reply)


def test_bundled_city_serves_and_the_silent_hub_is_told(hub: HubServer, tmp_path: Path) -> None:
    hub.reset()
    hub.status = 503
    with started(hub, tmp_path, "--index", "org/city", SELAVPR_MODEL="org/model") as (at, said):
        assert fetched(f"{at}health") == {"status": "ok", "cities": BUNDLED}
        page = json.dumps(fetched(f"{at}config"))
    assert "device cpu" in said
    assert "org/model could not be fetched" in page
    assert "org/city could not be fetched" in page


def test_city_of_the_hub_serves(hub: HubServer, tmp_path: Path) -> None:
    hub.reset()
    folder = ROOT / "prebuilt_index" / BUNDLED[0]
    hub.repos["datasets/org/city"] = Repo(
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    )
    with started(hub, tmp_path, SELAVPR_INDEX="org/city") as (address, _):
        assert fetched(f"{address}health")["cities"] == [BUNDLED[0]]
    assert hub.gets("manifest.json")


@pytest.mark.parametrize(
    ("option", "name"),
    [("index", "no/such"), ("model", "no/such"), ("index", "nowhere"), ("model", "vit-s-focsu")],
)
def test_wrong_names_are_errors(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
) -> None:
    hub.reset()
    point_at(hub.url, tmp_path, monkeypatch)
    spec = importlib.util.spec_from_file_location("app", ROOT / "app.py")
    assert spec and spec.loader
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    monkeypatch.setattr(sys, "argv", ["app.py", f"--{option}", name])
    assert app.main() == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("app.py: ")
    assert name in said
    huggingface_hub.close_session()
