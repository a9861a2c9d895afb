"""Indexes on the Hub, against a local server: pushed whole, opened in part, then kept."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from engine_fixtures import COUNT, MANIFEST, content
from hub_server import HubServer, Repo
from huggingface_hub import constants
from PIL import Image
from test_hub import point_at

from selavpr import HubError, IndexFileError, SelaVPR, datacard, editing, hub, published
from selavpr.building import build
from selavpr.geo import Location
from selavpr.index import PlaceIndex
from selavpr.indexfiles import CODES, manifest_text, read_manifest
from selavpr.indexfiles import MANIFEST as MANIFEST_FILE
from selavpr.recognizer import Recognizer
from selavpr.sources import SourcePhoto
from selavpr.structs import Place
from selavpr.weights import DEFAULT_MODEL

REPO = "org/town"

# huggingface_hub's own way of uploading, with httpx2 that would like it another way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def server(
    running: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    running.reset()
    point_at(running.url, tmp_path / "home" / "hub", monkeypatch)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr(huggingface_hub.hf_api, "is_xet_available", lambda: False, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield running
    huggingface_hub.close_session()


@pytest.fixture
def city(built: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Published by hand; its arrays are large enough to be fetched in parts."""
    server.repos[f"datasets/{REPO}"] = Repo(dict(content(built)))
    monkeypatch.setattr(published, "WHOLE", 600)
    monkeypatch.setattr(published, "BLOCK", 512)  # one photo's codes: 16 tokens of 32 bytes
    return built


def asked_for(server: HubServer) -> set[str]:
    """Files of which content was sent."""
    repo = server.repos[f"datasets/{REPO}"]
    return {name for name in repo.files if server.gets(name)}


# Push


def test_pushed_and_opened(built: Path, server: HubServer) -> None:
    address = published.push(built, REPO)
    repo = server.repos[f"datasets/{REPO}"]
    assert address == f"{server.url}/datasets/{REPO}/commit/{repo.commit}"
    assert {**content(built), **repo.files} == repo.files
    assert repo.files.keys() - content(built).keys() == {"README.md", "map.png"}
    # The manifest comes last: whoever finds it finds everything.
    commits = [i for i, r in enumerate(server.requests) if r.path.endswith("/commit/main")]
    assert len(commits) == 2
    opened = published.open_index(REPO)
    assert len(opened) == COUNT and opened.photo(4).size == PlaceIndex.open(built).photo(4).size
    assert not any(path.name.startswith(".push") for path in built.parent.iterdir())


def test_the_card_says_what_it_is(built: Path, server: HubServer, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    manifest = dataclasses.replace(
        read_manifest(folder), license="ODbL", attribution='Anna | "B"', title="Größe: 1"
    )
    (folder / MANIFEST_FILE).write_text(manifest_text(manifest.sealed()), encoding="utf-8")
    published.push(folder, REPO)
    files = server.repos[f"datasets/{REPO}"].files
    text = files["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    assert 'pretty_name: "Größe: 1"' in front and 'license: "odbl"' in front
    assert "- n<1K" in front
    for words in ("# Größe: 1", "| photos | 12 |", 'Anna \\| "B"', "`tiny`", "48.00000, 11.00000",
                  f"--index {REPO} --model MODEL\n", "MODEL is a folder"):  # fmt: skip
        assert words in body, words
    picture = Image.open(io.BytesIO(files["map.png"]))
    assert picture.size == (720, 720) and len(picture.getcolors(1 << 16) or []) > 2


def test_a_card_of_a_town_on_the_180th_meridian() -> None:
    west, east = Location(-16.8, 179.999), Location(-16.8, -179.998)
    found = datacard._longitudes([Place("a", "", west), Place("b", "", east)])
    assert found == pytest.approx([179.999, 180.002])
    assert datacard._wrapped(sum(found) / 2) == pytest.approx(-179.9995)
    made = datacard.map_picture([Place("a", "", west), Place("b", "", east)])
    blue = np.asarray(Image.open(io.BytesIO(made)).convert("RGB"))[:600, :, 2] == 160
    columns = np.flatnonzero(blue.any(0))
    assert columns[-1] - columns[0] > 500  # the dots are 300 m apart, as wide as the picture


def test_another_licence_and_one_photo(
    photos: list[SourcePhoto], network: SelaVPR, server: HubServer, tmp_path: Path
) -> None:
    manifest = dataclasses.replace(MANIFEST, license="Ask me", model=DEFAULT_MODEL)
    build(tmp_path / "one", photos[:1], network, manifest)
    published.push(tmp_path / "one", REPO)
    text = server.repos[f"datasets/{REPO}"].files["README.md"].decode()
    assert 'license: "other"\nlicense_name: "Ask me"\n' in text
    assert f"--index {REPO}\n" in text and "MODEL is" not in text


def test_pushed_again_without_what_is_gone(built: Path, server: HubServer, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    published.push(folder, REPO)
    first = server.repos[f"datasets/{REPO}"].commit
    editing.remove(folder, ids=["p3"])
    published.push(folder, REPO)
    files = server.repos[f"datasets/{REPO}"].files
    assert "images/3.jpg" not in files and "images/4.jpg" in files
    assert len(published.open_index(REPO)) == COUNT - 1
    assert server.repos[f"datasets/{REPO}"].commit != first


def test_what_is_not_pushed(
    built: Path, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "town"))
    (folder / "images" / "3.jpg").write_bytes(b"x")
    with pytest.raises(IndexFileError, match=r"is not published: images/3\.jpg"):
        published.push(folder, REPO)
    with pytest.raises(IndexFileError, match="no index"):
        published.push(tmp_path, REPO)
    monkeypatch.setattr(published, "HUB_FILES", COUNT - 1)
    with pytest.raises(IndexFileError, match="images holds 12 files"):
        published.push(built, REPO)
    monkeypatch.setattr(published, "HUB_FILES", COUNT)
    with pytest.raises(HubError, match="not a Hub repository name"):
        published.push(built, "town")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubError, match="needs a token"):
        published.push(built, REPO)
    assert not server.repos


# Open


def test_only_what_a_query_needs_is_fetched(
    city: Path, server: HubServer, photos: list[SourcePhoto], network: SelaVPR
) -> None:
    index = published.open_index(REPO)
    whole = {"manifest.json", "places.csv", "rows.npy", "global.faiss", "codec.safetensors",
             "grids.npy", "scales.npy"}  # fmt: skip
    assert asked_for(server) == whole | {CODES}
    server.requests.clear()
    local = PlaceIndex.open(city)
    assert torch.equal(index.tokens(5), local.tokens(5))
    # 512 bytes of codes behind a header of 128: in two blocks.
    ranges = [r.range for r in server.requests if r.range and r.path.startswith("/storage")]
    assert sorted(ranges) == ["bytes=2560-3071", "bytes=3072-3583"]
    assert asked_for(server) == {CODES}
    index.photo(5)
    assert asked_for(server) == {CODES, "images/5.jpg"}
    expected = Recognizer(network, local).recognize(photos[2].path, top_k=4)
    found = Recognizer(network, index).recognize(photos[2].path, top_k=4)
    assert found.candidates == expected.candidates
    assert not any(name.startswith("images/") for name in asked_for(server) - {"images/5.jpg"})
    assert index.basemap() == local.basemap()


def test_what_was_fetched_needs_no_network(
    city: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = published.open_index(REPO)
    tokens, size = first.tokens(3), first.photo(3).size
    server.status = 503
    server.requests.clear()
    again = published.open_index(REPO)
    assert torch.equal(again.tokens(3), tokens) and again.photo(3).size == size
    assert server.requests == []
    with pytest.raises(HubError, match="answered 503"):
        again.tokens(9)
    with pytest.raises(HubError, match="answered 503"):
        again.photo(9)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        again.tokens(9)
    server.status = None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert again.tokens(9).shape == tokens.shape


def test_a_commit_is_pinned(
    city: Path, server: HubServer, photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    repo = server.repos[f"datasets/{REPO}"]
    commit = repo.commit
    index = published.open_index(REPO)
    build(tmp_path / "new", photos[:5], network, MANIFEST)
    repo.files = dict(content(tmp_path / "new"))
    server.requests.clear()
    assert len(published.open_index(f"{REPO}@{commit}")) == COUNT
    assert len(published.open_index(REPO)) == COUNT  # what is here is used
    assert server.requests == []
    assert len(published.open_index(REPO, refresh=True)) == 5
    assert len(published.open_index(f"{REPO}@{repo.commit}")) == 5
    with pytest.raises(HubError, match="no revision"):
        index.photo(1)  # the server has forgotten that commit; the Hub would not
    with pytest.raises(HubError, match="no revision 'v2'"):
        published.open_index(f"{REPO}@v2")


def test_folders_come_first(built: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch,
                            tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(built, tmp_path / "org" / "town")
    for name in ("org/town", Path("org/town"), built):
        assert len(published.open_index(name)) == COUNT
    assert server.requests == []
    with pytest.raises(HubError, match="There is no index folder org/other here either"):
        published.open_index("org/other")
    with pytest.raises(HubError, match="no index folder aaaaaa"):
        published.open_index("a" * 300 + "/b")
    for name in ("nowhere", tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(IndexFileError, match="no index"):
            published.open_index(name)


# What can go wrong


def test_a_server_without_ranges(city: Path, server: HubServer) -> None:
    server.ignore_range = True
    with pytest.raises(HubError, match="in parts is not offered"):
        published.open_index(REPO)


def test_an_array_of_another_size(city: Path, server: HubServer) -> None:
    server.repos[f"datasets/{REPO}"].files[CODES] += b"x"
    with pytest.raises(IndexFileError, match=r"codes\.npy of org/town has .* as its manifest says"):
        published.open_index(REPO)


@pytest.mark.parametrize("name", ["places.csv", "global.faiss"])
def test_a_file_that_is_not_the_manifests(city: Path, server: HubServer, name: str) -> None:
    files = server.repos[f"datasets/{REPO}"].files
    files[name] = files[name][:-1] + b"x"
    with pytest.raises(IndexFileError, match=f"{name} of org/town is not the one"):
        published.open_index(REPO)


def test_a_missing_part(city: Path, server: HubServer) -> None:
    del server.repos[f"datasets/{REPO}"].files["grids.npy"]
    with pytest.raises(HubError, match=r"no file grids\.npy"):
        published.open_index(REPO)


def test_a_cut_off_block_is_fetched_again(city: Path, server: HubServer) -> None:
    index = published.open_index(REPO)
    server.cut_after = [100]
    try:
        first = index.tokens(1)
    except HubError:
        first = index.tokens(1)
    assert torch.equal(first, PlaceIndex.open(city).tokens(1))


def test_marks_that_are_damaged(city: Path, server: HubServer) -> None:
    index = published.open_index(REPO)
    index.tokens(2)
    (index.folder / f".{CODES}.have").write_bytes(b"\1")
    assert torch.equal(published.open_index(REPO).tokens(2), PlaceIndex.open(city).tokens(2))


def test_what_another_process_has_mapped_is_never_emptied(city: Path, server: HubServer) -> None:
    first = published.open_index(REPO)
    tokens = first.tokens(2)
    (first.folder / f".{CODES}.have").unlink()  # as if its maker were not done yet
    server.requests.clear()
    second = published.open_index(REPO)
    assert torch.equal(first.tokens(2), tokens)
    # Both go on with the same file.
    assert torch.equal(second.tokens(2), tokens)
    assert torch.equal(second.tokens(7), PlaceIndex.open(city).tokens(7))
    assert torch.equal(first.tokens(7), PlaceIndex.open(city).tokens(7))


def test_two_that_open_an_index_for_the_first_time(
    city: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sees that nothing is there, and before it has the lock, another is done with it all."""
    faster: list[PlaceIndex] = []
    alone = published.hub.alone

    def late(lock: Path) -> AbstractContextManager[object]:
        monkeypatch.setattr(published.hub, "alone", alone)
        faster.append(published.open_index(REPO))
        faster[0].tokens(2)
        return alone(lock)

    monkeypatch.setattr(published.hub, "alone", late)
    slower = published.open_index(REPO)
    server.requests.clear()
    local = PlaceIndex.open(city)
    for index in (*faster, slower):
        assert torch.equal(index.tokens(2), local.tokens(2))
    assert server.requests == []  # the slower one has taken over what was there
    assert not list(slower.folder.rglob("*.part"))


def test_visitors_do_not_wait_for_each_others_downloads(
    city: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = published.open_index(REPO)
    both = threading.Barrier(2, timeout=30)  # nobody passes before the other is there
    fetch, fetch_range = hub.fetch, hub.fetch_range
    monkeypatch.setattr(hub, "fetch", lambda *a, **k: (both.wait(), fetch(*a, **k))[1])
    monkeypatch.setattr(hub, "fetch_range", lambda *a, **k: (both.wait(), fetch_range(*a, **k))[1])
    monkeypatch.setattr(published, "AT_ONCE", 1)
    local = PlaceIndex.open(city)
    with ThreadPoolExecutor(2) as pool:
        sizes = list(pool.map(lambda row: index.photo(row).size, (3, 4)))
        # Two blocks each, one after another, of which the first of both come at once.
        tokens = list(pool.map(index.tokens, (2, 8)))
    assert sizes == [local.photo(row).size for row in (3, 4)]
    assert all(torch.equal(a, local.tokens(row)) for a, row in zip(tokens, (2, 8), strict=True))


def test_what_two_need_is_fetched_once(city: Path, server: HubServer) -> None:
    index = published.open_index(REPO)
    server.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: (index.photo(3).size, index.tokens(6)), range(8)))
    assert all(torch.equal(tokens, found[0][1]) for _, tokens in found)
    content_of = [r for r in server.requests if r.method == "GET" and r.path.startswith("/storage")]
    assert len(content_of) == 3  # the photo, and the two blocks its codes lie in


def test_names_that_lead_outside(
    server: HubServer, photos: list[SourcePhoto], network: SelaVPR, tmp_path: Path
) -> None:
    build(tmp_path / "i", photos[:2], network, MANIFEST)
    files = content(tmp_path / "i")
    fields = json.loads(files[MANIFEST_FILE])
    fields["files"]["../x"] = fields["files"]["places.csv"]
    files[MANIFEST_FILE] = json.dumps(fields).encode()
    server.repos[f"datasets/{REPO}"] = Repo(files)
    with pytest.raises(IndexFileError, match="outside the index"):
        published.open_index(REPO)
