"""The commands that change and publish an index, as a shell sees them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY, random_model
from engine_fixtures import COUNT, MANIFEST, content, draw_town
from hub_server import HubServer
from huggingface_hub import constants
from test_hub import point_at

from selavpr import SelaVPR, cli, weights
from selavpr.building import build
from selavpr.index import PlaceIndex
from selavpr.sources import SourcePhoto, read_folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return Path(weights.save(random_model(TINY).to_weights(), folder, with_backbone=True))


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "town"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as running:
        point_at(running.url, tmp_path / "home" / "hub", monkeypatch)
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield running


def run(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


def test_add_then_remove(
    folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = draw_town(tmp_path / "more", COUNT + 2)
    lines = (more / "places.csv").read_text().splitlines()
    (more / "places.csv").write_text("\n".join([lines[0], *lines[-2:]]) + "\n")
    (more / "images" / f"{COUNT + 1}.png").write_bytes(b"no photo")
    before = content(folder)
    code = run("index", "add", folder, "--from", more, "--model", model_folder, "--quiet")
    out = capsys.readouterr()
    assert code == 0 and "left out: 13.png" in out.err
    assert out.out == f"Added 1 photos to {folder}; {COUNT + 1} photos, search: exact\n"
    assert run("index", "verify", folder) == 0
    assert run("index", "remove", folder, "--ids", f"p{COUNT}") == 0
    assert "Removed 1 photos" in capsys.readouterr().out
    assert content(folder) == before


def test_add_takes_conditions(
    folder: Path, town: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("index", "add", folder, "--from", town, "--model", model_folder, "--quiet")
    assert run(*command, "--where", "street=Nowhere") == 2
    assert "check --where" in capsys.readouterr().err
    assert run(*command, "--where", "street=Way 3") == 2
    assert "ids that are in the index, such as 'p3'" in capsys.readouterr().err
    assert run(*command, "--where", "street") == 2
    assert "--where takes column=value" in capsys.readouterr().err


def test_remove_by_condition(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "remove", folder) == 2
    assert "--ids or --where" in capsys.readouterr().err
    assert run("index", "remove", folder, "--where", "street=Way 3", "--ids", "p1", "p2") == 0
    ids = [place.place_id for place in PlaceIndex.open(folder).places]
    assert ids == [f"p{i}" for i in range(COUNT) if i not in (1, 2, 3)]


def test_a_calibrated_index_is_said_to_be_so(
    photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    manifest = dataclasses.replace(MANIFEST, calibration={"a": 1})
    build(tmp_path / "town", photos[:3], network, manifest)
    assert run("index", "remove", tmp_path / "town", "--ids", "p1") == 0
    assert "index calibrate" in capsys.readouterr().err
    assert PlaceIndex.open(tmp_path / "town").manifest.calibration == {"a": 1}


def test_merge(
    folder: Path, network: SelaVPR, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = read_folder(draw_town(tmp_path / "other", 3))
    build(tmp_path / "b", other, network, MANIFEST, rank=32)
    out = tmp_path / "all"
    assert run("index", "merge", out, folder, tmp_path / "b", "--title", "All") == 0
    said = capsys.readouterr()
    assert "3 photos that are in several of the indexes were taken once" in said.err
    assert said.out == f"Wrote {out}; {COUNT} photos, search: exact\n"
    assert PlaceIndex.open(out).manifest.title == "All"
    assert run("index", "merge", out, folder) == 2
    assert "two indexes or more" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_and_locate(
    folder: Path, town: Path, model_folder: Path, server: HubServer,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run("index", "push", folder, "org/town") == 0
    out = capsys.readouterr().out
    assert out.endswith("Open it anywhere with --index org/town\n") and server.url in out
    photo = town / "images" / "7.png"
    command = ("locate", photo, "--index", "org/town", "--model", model_folder, "--top-k", "5")
    assert run(*command) in (0, 1)
    assert "p7" in capsys.readouterr().out.splitlines()[3]
