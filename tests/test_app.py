"""``app.py`` as it is started: options, environment, the Hub, the bundled city."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny_app
from hub_server import HubServer, Repo
from test_hub import point_at

from selavpr import SelaVPR
from selavpr.sources import SourcePhoto

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
        process.communicate(timeout=60)


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


NOBODY = 65534


def as_nobody() -> list[str]:
    """How a command line begins that gives up root; empty where that cannot be had.

    The interpreter may lie where only root can read, so reading, and no more, stays allowed.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or not setpriv:
        return []
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reading = [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")] + [
        "--bounding-set=-all,+dac_read_search"
    ]
    for rights in (reading, ["--bounding-set=-all"]):
        command = [setpriv, *ids, *rights]
        tried = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True)
        if tried.returncode == 0:
            return command
    return []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users and signals")
@pytest.mark.skipif(not shutil.which("curl"), reason="asks by curl")
def test_it_needs_no_root_and_leaves_nothing_behind(
    tmp_path: Path, network: SelaVPR, photos: list[SourcePhoto]
) -> None:
    """Stopped as a service is, while a visitor's page is open, which keeps a connection."""
    tiny_app.lay_out(tmp_path, network, photos)
    command = as_nobody()
    with tempfile.TemporaryDirectory() as scratch:  # where anybody may go, unlike tmp_path
        home, temporary = Path(scratch, "home"), Path(scratch, "tmp")
        for folder in (Path(scratch), home, temporary):
            folder.mkdir(exist_ok=True)
            if command:
                os.chown(folder, NOBODY, NOBODY)
        # Nobody may write here what coverage would keep of it.
        unmeasured = ["env", "-u", "COVERAGE_PROCESS_CONFIG", *command]
        with tiny_app.serving(
            tmp_path, unmeasured, HOME=str(home), TMPDIR=str(temporary), HF_HOME=str(home / "hub")
        ) as app:
            assert app.get("health") == {"status": "ok", "cities": [tiny_app.CITY]}
            answer = tiny_app.located_by_curl(app, tmp_path)
            assert answer["candidates"][0]["place_id"] == f"p{tiny_app.ASKED}"
            photo = (tmp_path / "photo.jpg").read_bytes()
            kept = [path for path in temporary.rglob("*.jpg") if path.read_bytes() == photo]
            assert len(kept) == 1, "the upload"
            uploads = kept[0].parents[1]
            assert uploads.name.startswith("selavpr-uploads-")
            assert uploads.stat().st_mode & 0o077 == 0, "nobody else's business"
            owner = kept[0].stat().st_uid
            with urllib.request.urlopen(f"{app.address}gradio_api/heartbeat/x", timeout=60) as page:
                assert page.readline() == b"data: ALIVE\n"
                app.process.send_signal(signal.SIGTERM)
                assert app.process.wait(timeout=120) == 0
        assert [path for path in temporary.rglob("*") if path.is_file()] == []
        assert "Traceback" not in (tmp_path / "app.log").read_text()
    if owner == 0:
        pytest.skip("it served and stopped, but as root: setpriv cannot make it another user here")
    assert owner == (NOBODY if command else os.geteuid())
