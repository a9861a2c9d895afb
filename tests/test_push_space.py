"""The script that pushes the Space, against a Hub on this machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from hub_server import HubServer
from huggingface_hub import constants

from tools import push_space

# huggingface_hub's own call of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class SpaceHub(HubServer):
    """Treats Spaces like models, and keeps their variables."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, str] = {}
        hub = self

        class Handler(self._server.RequestHandlerClass):  # type: ignore[misc,name-defined]
            def parse_request(self) -> bool:
                parsed = bool(super().parse_request())
                self.path = re.sub(r"^/api/spaces/", "/api/models/", self.path)
                return parsed

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main", path):
                    names = sorted(hub.repos[match[1]].files)
                    self._json([{"type": "file", "path": n, "oid": "0", "size": 1} for n in names])
                else:
                    super().do_GET()

            def do_POST(self) -> None:
                if self.path.endswith("/variables"):
                    asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    hub.variables[asked["key"]] = asked["value"]
                    self._json({})
                else:
                    super().do_POST()

        self._server.RequestHandlerClass = Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SpaceHub]:
    with SpaceHub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        # As HF_HUB_DISABLE_XET does at import: large files go the older way, spoken here.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "write")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.token = "write"
        yield server


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A little app under git, with things in it that are nobody's business."""
    root = tmp_path / "app"
    for name, content in {
        "README.md": "---\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n# It\n",
        "app.py": "print()\n",
        "requirements.txt": "gradio\n",
        "LICENSE": "MIT\n",
        "selavpr/ui.py": "x = 1\n",
        "assets/weights/w.bin": "w" * 2000,
        "assets/readme/thumbnail.jpg": "a picture",
        "prebuilt_index/town/manifest.json": "{}",
        "tests/test_it.py": "",
        ".github/workflows/ci.yml": "",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    run = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(root)]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "add", "."], check=True)
    subprocess.run([*run, "commit", "-qm", "It"], check=True)
    (root / "selavpr" / "secret.txt").write_text("untracked")
    (root / "assets" / ".env").write_text("HF_TOKEN=hf_x")
    return root


@pytest.fixture
def main(checkout: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(push_space, "ROOT", checkout)
    monkeypatch.setattr(push_space.app_files, "__defaults__", (checkout,))
    return push_space.main


PUSHED = [
    "LICENSE",
    "README.md",
    "app.py",
    "assets/readme/thumbnail.jpg",
    "assets/weights/w.bin",
    "prebuilt_index/town/manifest.json",
    "requirements.txt",
    "selavpr/ui.py",
]


def test_space_holds_what_git_tracks_of_the_app(hub: SpaceHub, main) -> None:  # type: ignore[no-untyped-def]
    assert main(["org/space"]) == 0
    assert sorted(hub.repos["org/space"].files) == PUSHED
    assert hub.repos["org/space"].files["assets/weights/w.bin"] == b"w" * 2000


def test_the_card_names_the_picture_of_its_own_space(  # type: ignore[no-untyped-def]
    hub: SpaceHub, main, checkout: Path
) -> None:
    here = (checkout / "README.md").read_text()
    assert main(["org/space"]) == 0
    there = hub.repos["org/space"].files["README.md"].decode()
    picture = f"{hub.url}/spaces/org/space/resolve/main/assets/readme/thumbnail.jpg"
    assert there == here.replace("---\n", f"---\nthumbnail: {picture}\n", 1)
    assert (checkout / "README.md").read_text() == here


def test_edits_that_are_not_committed_are_not_pushed_under_the_commits_name(checkout: Path) -> None:
    clean = push_space.commit_of(checkout)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (checkout / "selavpr" / "ui.py").write_text("edited")
    assert push_space.commit_of(checkout) == f"{clean}-dirty"


def test_second_push_deletes_what_is_gone(hub: SpaceHub, main, checkout: Path) -> None:  # type: ignore[no-untyped-def]
    assert main(["org/space"]) == 0
    (checkout / "selavpr" / "ui.py").unlink()
    (checkout / "selavpr" / "page.py").write_text("y = 2\n")
    subprocess.run(["git", "-C", str(checkout), "add", "selavpr/page.py"], check=True)
    assert main(["org/space"]) == 0
    left = set(hub.repos["org/space"].files)
    assert "selavpr/ui.py" not in left
    assert "selavpr/page.py" in left


def test_weights_and_index_go_along_and_are_what_serves(  # type: ignore[no-untyped-def]
    hub: SpaceHub, main, checkout: Path, built: Path
) -> None:
    weights = checkout / "mine"
    weights.mkdir()
    for name in ("adapters.safetensors", "config.json"):
        (weights / name).write_text(name)
    options = ["--weights", str(weights), "org/weights", "--index", str(built), "org/town"]
    assert main(["org/space", *options]) == 0
    assert set(hub.repos["org/weights"].files) == {"adapters.safetensors", "config.json"}
    assert {"manifest.json", "README.md"} < set(hub.repos["datasets/org/town"].files)
    assert hub.variables == {"SELAVPR_MODEL": "org/weights", "SELAVPR_INDEX": "org/town"}


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["config.json", "checkpoint.safetensors"], "There is no model in"),
        (["config.json", "adapters.safetensors", ".env"], "holds .env"),
    ],
)
def test_a_folder_that_is_more_than_a_model_is_not_pushed(  # type: ignore[no-untyped-def]
    hub: SpaceHub,
    main,
    tmp_path: Path,
    names: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("HF_TOKEN=hf_x")
    assert main(["org/space", "--weights", str(folder), "org/weights"]) == 2
    assert problem in capsys.readouterr().err
    assert hub.requests == []


def test_dry_run_asks_nobody(hub: SpaceHub, main, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert main(["org/space", "--dry-run"]) == 0
    assert hub.requests == []
    said = capsys.readouterr().out
    assert all(name in said for name in PUSHED)
    assert "secret" not in said
    assert f"{len(PUSHED)} files" in said


@pytest.mark.parametrize(
    ("space", "token", "complaint"),
    [
        ("org/space", "read", "write access"),
        ("forbidden/space", "write", "write access"),
        ("space", "write", "organisation/name"),
    ],
)
def test_refusals_are_explained(  # type: ignore[no-untyped-def]
    hub: SpaceHub,
    main,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    space: str,
    token: str,
    complaint: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert main([space]) == 2
    assert complaint in capsys.readouterr().err


def test_incomplete_app_is_not_pushed(  # type: ignore[no-untyped-def]
    hub: SpaceHub, main, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "README.md").write_text("# It\n")
    assert main(["org/space"]) == 2
    assert "sdk: gradio" in capsys.readouterr().err
    (checkout / "LICENSE").unlink()
    assert main(["org/space"]) == 2
    assert "LICENSE" in capsys.readouterr().err
    assert hub.requests == []


def test_this_repository_can_be_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    assert push_space.main(["org/space", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "selavpr/ui.py" in said
    assert "tests/" not in said
