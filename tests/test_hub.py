"""Downloads and uploads against a local server that speaks the Hub's protocol.

Most tests run in this process with huggingface_hub's constants pointed at the server; one runs in a
process of its own with HF_ENDPOINT and HF_HOME set, as a user would.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_server import HubServer, Repo
from huggingface_hub import constants

from selavpr import HubError, SelaVPR, hub, weights

BIG = hashlib.shake_256(b"any bytes").digest(300_000)
SMALL = b'{"a": 1}\n'
NEW_HUB = int(huggingface_hub.__version__.split(".")[0]) >= 2


@pytest.fixture
def server(
    running: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    running.reset()
    running.repos["org/name"] = Repo({"big.bin": BIG, "small.json": SMALL})
    point_at(running.url, tmp_path / "cache", monkeypatch)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # huggingface_hub waits a second between attempts.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    yield running
    huggingface_hub.close_session()


def point_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT, HF_HOME and friends do at import."""
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
    # It keeps what it has received in chunks of 10 MB; the files here are smaller.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sentence(error: pytest.ExceptionInfo[Any]) -> str:
    """The message, held to what every message has to be: one line, ended, no traceback talk."""
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", ")")) and len(text) < 400, text
    assert "Traceback" not in text and "httpx" not in text, text
    return text


def test_a_large_file_is_fetched_once_and_then_needs_no_server(server: HubServer) -> None:
    path = hub.fetch("org/name", "big.bin")
    assert path.read_bytes() == BIG
    assert [r.method for r in server.gets("big.bin")] == ["GET", "GET"]  # address, then content
    server.requests.clear()
    assert hub.fetch("org/name", "big.bin") == path
    assert server.requests == []


def test_the_token_stays_with_the_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fetch("org/name", "big.bin")
    told = {r.path.startswith("/storage/"): r.authorization for r in server.requests}
    assert told == {False: "Bearer hf_secret", True: None}


def test_small_file_and_commit(server: HubServer) -> None:
    path = hub.fetch("org/name", "small.json")
    assert path.read_bytes() == SMALL
    assert hub.commit_of(path) == server.repos["org/name"].commit
    assert hub.fetch("org/name", "small.json", server.repos["org/name"].commit) == path
    assert hub.commit_of(Path("/some/folder/config.json")) is None


def test_refresh_sees_a_new_version_and_survives_without_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fetch("org/name", "small.json")
    server.repos["org/name"].files["small.json"] = b"new"
    assert hub.fetch("org/name", "small.json").read_bytes() == SMALL
    assert hub.fetch("org/name", "small.json", refresh=True).read_bytes() == b"new"
    server.status = 503
    assert hub.fetch("org/name", "small.json", refresh=True).read_bytes() == b"new"
    assert "Going on with the cached small.json" in caplog.text


@pytest.mark.parametrize(
    ("repo", "revision", "filename", "state", "words"),
    [
        ("org/absent", None, "small.json", "public", ["no repository org/absent", "private"]),
        ("org/name", None, "absent.json", "public", ["org/name has no file absent.json"]),
        ("org/name", "v9", "small.json", "public", ["no revision 'v9'"]),
        ("org/name", None, "small.json", "gated", ["gated", "accept its terms", "HF_TOKEN"]),
        ("org/name", None, "small.json", "disabled", ["disabled org/name"]),
    ],
)
def test_what_the_hub_refuses(
    server: HubServer, repo: str, revision: str | None, filename: str, state: str, words: list[str]
) -> None:
    server.repos["org/name"].state = state
    with pytest.raises(HubError) as error:
        hub.fetch(repo, filename, revision)
    text = sentence(error)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "repo",
    ["", "name", "a/b/c", "../../etc/passwd", "org/..", "/abs/path", "org/na me", "org/na\nme",
     "org/a--b", "org/" + "x" * 100, "https://huggingface.co/org/name", "ört/näme"],
)  # fmt: skip
def test_invalid_names_never_reach_the_network(server: HubServer, repo: str) -> None:
    with pytest.raises(HubError, match="is not a Hub repository name"):
        hub.fetch(repo, "small.json")
    assert server.requests == []


@pytest.mark.parametrize("revision", ["", "../../../etc", "a//b", "main\n", "-x", "a/../b"])
def test_invalid_revisions_never_reach_the_network(server: HubServer, revision: str) -> None:
    with pytest.raises(HubError, match="is not a branch, tag or commit"):
        hub.fetch("org/name", "small.json", revision)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "answered 500"), (503, "answered 503"), (429, "pause"), (403, "does not allow")],
)
def test_a_failing_hub_is_reported_at_once(server: HubServer, status: int, words: str) -> None:
    server.status = status
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert words in sentence(error)
    if NEW_HUB or status != 429:  # 1.0 waits and asks again after 429
        assert len(server.requests) == 1


def test_no_network(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cached = hub.fetch("org/name", "big.bin")
    point_at(f"http://127.0.0.1:{closed_port()}", tmp_path / "cache", monkeypatch)
    assert hub.fetch("org/name", "big.bin") == cached
    started = time.monotonic()
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "small.json")
    assert "cannot be reached" in sentence(error)
    # huggingface_hub alone would try for more than 20 s.
    assert time.monotonic() - started < 5


def test_hf_hub_offline(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fetch("org/name", "big.bin")
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "small.json")
    assert "HF_HUB_OFFLINE is set" in sentence(error)
    assert server.requests == []


def test_a_slow_hub_is_given_up(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.delay = 0.5
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "cannot be reached" in sentence(error)


@pytest.mark.skipif(not NEW_HUB, reason="huggingface_hub 1.0 follows such redirects for ever")
def test_redirect_loop(server: HubServer) -> None:
    server.redirect_loop = True
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "round in circles" in sentence(error)


def test_a_login_page_in_between(server: HubServer) -> None:
    server.not_a_hub = True
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "does not answer like the Hub" in sentence(error)


def test_a_cut_is_mended_inside_the_call(server: HubServer) -> None:
    server.cut_after = [100_000]
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    stored = [r for r in server.gets("big.bin") if r.path.startswith("/storage/")]
    assert [r.range for r in stored] == [None, "bytes=100000-"]


def test_a_download_that_broke_off_is_resumed_by_the_next_call(server: HubServer) -> None:
    server.cut_after, server.reset_connection = [100_000], True
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    text = sentence(error)
    assert "broke off after 0.1 MB of 0.3 MB" in text and "goes on from there" in text
    server.requests.clear()
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    assert {r.range for r in server.gets("big.bin")} == {"bytes=100000-"}
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_resuming_with_a_server_that_knows_no_ranges(server: HubServer) -> None:
    server.cut_after, server.reset_connection = [100_000], True
    with pytest.raises(HubError):
        hub.fetch("org/name", "big.bin")
    server.ignore_range = True
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG


def test_a_damaged_part_is_not_kept(server: HubServer) -> None:
    server.corrupt = True
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "arrived damaged; run it again" in sentence(error)
    server.corrupt = False
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG


@pytest.mark.parametrize("announced", [len(BIG) - 1000, len(BIG) + 1000])
def test_wrong_size(server: HubServer, announced: int) -> None:
    server.announce = announced
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "The download of big.bin of org/name" in sentence(error)
    server.announce = None
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG


def test_disk_full_is_seen_before_downloading(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        "selavpr.hub.shutil.disk_usage", lambda _: usage._replace(free=len(BIG) - 1)
    )
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "not enough room for big.bin" in sentence(error) and "HF_HOME" in str(error.value)
    assert server.gets("big.bin") == []


def test_disk_full_while_writing(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("selavpr.hub._receive", full)
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "not enough room" in sentence(error)


def test_cache_not_writable(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "cache")
        folder.mkdir()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
        Path(base).chmod(0o755)
        folder.chmod(0o555)
        root = os.geteuid() == 0  # root may write anywhere, so be nobody for a moment
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(HubError) as error:
                hub.fetch("org/name", "big.bin")
        finally:
            if root:
                os.seteuid(0)
        text = sentence(error)
        assert "Cannot write big.bin of org/name into the cache" in text and str(folder) in text


def test_cache_is_a_file(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "Cannot write" in sentence(error)


@pytest.mark.parametrize("filename", ["big.bin", "small.json"])
def test_discard_damaged(server: HubServer, filename: str) -> None:
    path = hub.fetch("org/name", filename)
    assert not hub.discard_damaged(path)
    path.resolve().write_bytes(b"damaged")
    assert hub.discard_damaged(path)
    data = server.repos["org/name"].files[filename]
    assert hub.fetch("org/name", filename).read_bytes() == data


def test_discard_leaves_users_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    path.write_bytes(b"x")
    assert not hub.discard_damaged(path)
    assert path.exists()


# A model on the Hub


@pytest.fixture
def published(server: HubServer, tiny_model: SelaVPR, tmp_path: Path) -> Repo:
    folder = weights.save(tiny_model.to_weights(), tmp_path / "model", with_backbone=True)
    repo = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    server.repos["org/model"] = repo
    return repo


def test_model_from_the_hub_and_then_without_it(
    server: HubServer, published: Repo, tiny_model: SelaVPR, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    for name in ("org/model", "org/model@main", f"org/model@{published.commit}"):
        model = SelaVPR.from_pretrained(name, device="cpu")
        assert model.fingerprint() == tiny_model.fingerprint()
    server.requests.clear()
    SelaVPR.from_pretrained("org/model", device="cpu")
    assert server.requests == []
    point_at(f"http://127.0.0.1:{closed_port()}", tmp_path / "cache", monkeypatch)
    SelaVPR.from_pretrained("org/model", device="cpu")


def test_all_files_come_from_one_commit(
    server: HubServer, published: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fetch("org/model", weights.CONFIG_FILE)
    first = published.commit
    published.files[weights.ADAPTERS_FILE] += b"newer and of another size"
    with pytest.raises(HubError, match=f"no revision '{first}'"):
        # The server has forgotten the commit; what matters is that it was asked for it.
        weights.load("org/model")


def test_a_damaged_cache_mends_itself(server: HubServer, published: Repo) -> None:
    weights.load("org/model")
    path = hub.fetch("org/model", weights.ADAPTERS_FILE)
    path.resolve().write_bytes(path.read_bytes()[:-50])
    weights.load("org/model")
    assert path.read_bytes() == published.files[weights.ADAPTERS_FILE]


def test_a_damaged_cache_without_network(
    server: HubServer, published: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights.load("org/model")
    hub.fetch("org/model", weights.ADAPTERS_FILE).resolve().write_bytes(b"damaged")
    point_at(f"http://127.0.0.1:{closed_port()}", tmp_path / "cache", monkeypatch)
    with pytest.raises(HubError) as error:
        weights.load("org/model")
    assert "was damaged and has been removed" in sentence(error)


def test_a_file_damaged_by_its_publisher_is_named(server: HubServer, published: Repo) -> None:
    published.files[weights.ADAPTERS_FILE] = BIG
    with pytest.raises(weights.DamagedError) as error:
        weights.load("org/model")
    assert weights.ADAPTERS_FILE in sentence(error)
    server.requests.clear()
    with pytest.raises(weights.DamagedError):
        weights.load("org/model")
    assert server.requests == []  # fetching the same bytes again would not help


def test_backbone_from_its_own_repository(
    server: HubServer, tiny_model: SelaVPR, tmp_path: Path
) -> None:
    source = tiny_model.to_weights()
    whole = weights.save(source, tmp_path / "whole", with_backbone=True)
    named = weights.Weights(source.config, source.trained, source.backbone, {}, "timm/vit_tiny")
    folder = weights.save(named, tmp_path / "adapters", with_backbone=False)
    with pytest.raises(HubError, match="no repository timm/vit_tiny"):
        weights.load(folder)
    data = (whole / weights.BACKBONE_FILE).read_bytes()
    server.repos["timm/vit_tiny"] = Repo({"model.safetensors": data})
    assert SelaVPR.from_pretrained(folder, device="cpu").fingerprint() == tiny_model.fingerprint()


def test_a_mistyped_folder_is_told_apart_from_a_repository(server: HubServer) -> None:
    with pytest.raises(HubError) as error:
        weights.load("runs/best")
    assert "There is no folder runs/best here either" in sentence(error)


# Uploads


@pytest.fixture
def token(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    server.token = "hf_test"
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    return "hf_test"


# huggingface_hub's own call of its HTTP client.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_and_load_again(
    server: HubServer, token: str, tiny_model: SelaVPR, tmp_path: Path
) -> None:
    folder = weights.save(tiny_model.to_weights(), tmp_path / "model", with_backbone=True)
    for _ in range(2):  # into a new repository, and into one that exists
        address = hub.push(folder, "org/pushed", message="Tiny")
        files = server.repos["org/pushed"].files
        assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert address == f"{server.url}/org/pushed/commit/{server.repos['org/pushed'].commit}"
    model = SelaVPR.from_pretrained("org/pushed", device="cpu")
    assert model.fingerprint() == tiny_model.fingerprint()


def test_push_without_token(server: HubServer, tmp_path: Path) -> None:
    with pytest.raises(HubError) as error:
        hub.push(tmp_path, "org/pushed", message="x")
    assert "needs a token" in sentence(error)
    assert server.requests == []


def test_push_where_one_may_not(
    server: HubServer, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(HubError) as error:
        hub.push(tmp_path, "forbidden/name", message="x")
    assert "does not let this token write to forbidden/name" in sentence(error)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError) as error:
        hub.push(tmp_path, "org/pushed", message="x")
    assert "does not let this token write to org/pushed" in sentence(error)


def test_push_without_network(
    server: HubServer, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_at(f"http://127.0.0.1:{closed_port()}", tmp_path / "cache", monkeypatch)
    with pytest.raises(HubError) as error:
        hub.push(tmp_path, "org/pushed", message="x")
    assert "The upload to org/pushed failed" in sentence(error)


# As a user: environment variables, a fresh process

SCRIPT = """
import json, sys, time, types
package = types.ModuleType("selavpr")  # without __init__, which takes seconds to import torch
package.__path__ = ["selavpr"]
sys.modules["selavpr"] = package
from selavpr import hub
from selavpr.errors import SelaVPRError
for name in ("big.bin", "small.json", "absent.json"):
    started = time.monotonic()
    try:
        path = hub.fetch("org/name", name)
        result = path.read_bytes().hex()
    except SelaVPRError as error:
        result = str(error)
    print(json.dumps([result, time.monotonic() - started]))
"""


def in_a_fresh_process(cache: Path, **variables: str) -> list[tuple[str, float]]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE"))
    }
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment, capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_environment_variables(server: HubServer, tmp_path: Path) -> None:
    first = in_a_fresh_process(tmp_path, HF_ENDPOINT=server.url)
    assert [result for result, _ in first] == [
        BIG.hex(),
        SMALL.hex(),
        "org/name has no file absent.json; check that it is a repository for this program.",
    ]
    server.requests.clear()
    offline = in_a_fresh_process(tmp_path, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1")
    assert [result for result, _ in offline[:2]] == [BIG.hex(), SMALL.hex()]
    assert "HF_HUB_OFFLINE is set" in offline[2][0]
    assert server.requests == []
    nowhere = in_a_fresh_process(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{closed_port()}")
    assert [result for result, _ in nowhere[:2]] == [BIG.hex(), SMALL.hex()]
    assert "cannot be reached" in nowhere[2][0]
    assert all(seconds < 5 for _, seconds in offline + nowhere)
