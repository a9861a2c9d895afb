"""A Hub that means harm, or stands behind something broken: what it says is never believed.

``test_hub.py`` has what goes wrong on honest lines (cuts, resets, damage, wrong sizes of large
files, a redirect to oneself, a login page); here the answers themselves are forged.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer, Repo, _Handler
from huggingface_hub import constants
from test_hub import BIG, NEW_HUB, SMALL, point_at, sentence

from selavpr import HubError, hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Forgery:
    """How answers with content are changed on their way out."""

    headers: dict[str, str | None] = field(default_factory=dict)  # None takes one away
    body: bytes | None = None
    status: int | None = None
    drip: float = 0.0  # seconds between two bytes
    redirect: str = ""  # a step of a circle, see ``_Forger``
    honest: int = 0  # answers to HEAD before the first forged one


class _Forger(_Handler):
    forgery = Forgery()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that has had enough
            super().handle()

    def do_GET(self) -> None:
        if self.forgery.redirect and self._begin():
            # From one place to the next and back: no address repeats at once.
            other = "b" if self.path.endswith("a") else "a"
            self._answer(302, b"", {"Location": f"/{self.forgery.redirect}-{other}"})
        elif not self.forgery.redirect:
            super().do_GET()

    do_HEAD = do_GET

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        forged = self.forgery
        if status >= 400 or forged.redirect or self.path.startswith("/api/"):
            super()._answer(status, body, headers, cut)
            return
        if self.command == "HEAD" and forged.honest:
            forged.honest -= 1
            super()._answer(status, body, headers, cut)
            return
        headers = {**headers, **forged.headers}
        headers = {name: value for name, value in headers.items() if value is not None}
        if forged.status and status < 300:
            status = forged.status
        if forged.body is not None and status < 300:
            body = forged.body
        if not forged.drip or self.command != "GET" or status >= 300:
            super()._answer(status, body, headers, cut)
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        wait = threading.Event()
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                wait.wait(forged.drip)
        except OSError:  # the client has had enough
            return


@pytest.fixture(scope="module")
def running() -> Iterator[HubServer]:
    with HubServer() as server:

        class Forger(_Forger):
            server_hub = server

        server._server.RequestHandlerClass = Forger
        yield server


@pytest.fixture
def server(
    running: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    running.reset()
    running.repos["org/name"] = Repo({"big.bin": BIG, "small.json": SMALL})
    # Deep enough that a way out of it still ends in the test's own folder.
    point_at(running.url, tmp_path / "a" / "b" / "c" / "d" / "hub", monkeypatch)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    yield running
    huggingface_hub.close_session()


@pytest.fixture
def forgery(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Forgery:
    forged = Forgery()
    monkeypatch.setattr(_Forger, "forgery", forged)
    return forged


def kept(tmp_path: Path) -> list[Path]:
    """Files that came to lie outside the cache, or as content inside it."""
    cache = Path(constants.HF_HUB_CACHE)
    return [
        path
        for path in tmp_path.rglob("*")
        if path.is_file()
        and (not path.is_relative_to(cache) or ("blobs" in path.parts or "snapshots" in path.parts))
        and not path.name.endswith((".lock", ".incomplete"))
    ]


# Sizes


@pytest.mark.parametrize("size", ["1000000000000000", "9" * 30])
def test_a_size_beyond_the_disk_is_refused_before_a_byte_is_fetched(
    forgery: Forgery, server: HubServer, tmp_path: Path, size: str
) -> None:
    forgery.headers = {"X-Linked-Size": size}
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "not enough room" in sentence(error)
    assert server.gets("big.bin") == [] and kept(tmp_path) == []


@pytest.mark.parametrize("size", ["-5", "many", "1e3", ""])
def test_a_size_that_is_none(forgery: Forgery, tmp_path: Path, size: str) -> None:
    forgery.headers = {"X-Linked-Size": size}
    try:
        assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    except HubError:
        assert kept(tmp_path) == []


def test_an_empty_file_is_a_file(server: HubServer) -> None:
    server.repos["org/name"].files["empty.txt"] = b""
    assert hub.fetch("org/name", "empty.txt").read_bytes() == b""


@pytest.mark.parametrize("body", [BIG + b"more", BIG[:-1], b"", BIG * 3])
def test_content_of_another_size_is_not_kept(
    forgery: Forgery, server: HubServer, tmp_path: Path, body: bytes
) -> None:
    forgery.body = body
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")
    assert "big.bin" in sentence(error) and kept(tmp_path) == []
    forgery.body = None
    for _ in range(2):  # a part that was kept may turn out to be of another file
        try:
            path = hub.fetch("org/name", "big.bin")
            break
        except HubError:
            continue
    assert path.read_bytes() == BIG


# Hashes


@pytest.mark.parametrize(("name", "true"), [("big.bin", BIG), ("small.json", SMALL)])
def test_content_of_another_hash_is_not_kept(
    forgery: Forgery, tmp_path: Path, name: str, true: bytes
) -> None:
    forgery.body = bytes(reversed(true))
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", name)
    assert "arrived damaged" in sentence(error) and kept(tmp_path) == []
    forgery.body = None
    assert hub.fetch("org/name", name).read_bytes() == true


@pytest.mark.parametrize(
    "tag",
    ["../../../../evil", "..", "/evil", "a/b", "x" * 300, "\\evil", "C:evil", ".", "%2e%2e%2fevil"],
)
@pytest.mark.parametrize("header", ["ETag", "X-Repo-Commit"])
def test_names_in_headers_never_leave_the_cache(
    forgery: Forgery, tmp_path: Path, header: str, tag: str
) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    forgery.headers = {header: f'"{tag}"' if header == "ETag" else tag}
    try:
        path = hub.fetch("org/name", "small.json")
        assert path.is_relative_to(cache) and path.resolve().is_relative_to(cache)
        assert path.read_bytes() == SMALL
    except HubError as error:
        assert str(error)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(cache)]
    assert outside == []


@pytest.mark.parametrize(
    "forged", [{"ETag": '"../../../../evil"'}, {"X-Repo-Commit": "../../../../evil"}]
)
def test_only_the_answer_that_was_checked_is_used(
    forgery: Forgery, server: HubServer, tmp_path: Path, forged: dict[str, str | None]
) -> None:
    forgery.headers, forgery.honest = forged, 1
    path = hub.fetch("org/name", "small.json")
    assert path.read_bytes() == SMALL
    cache = Path(constants.HF_HUB_CACHE)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_relative_to(cache)]
    assert outside == [] and "evil" not in {p.name for p in tmp_path.rglob("*")}
    assert [r.method for r in server.requests].count("HEAD") == 1


def test_the_cache_is_laid_out_as_huggingface_hub_does_it(server: HubServer) -> None:
    ours = {name: hub.fetch("org/name", name) for name in ("big.bin", "small.json")}
    server.requests.clear()
    commit = server.repos["org/name"].commit
    for name, path in ours.items():
        for revision in (None, commit):
            theirs = huggingface_hub.hf_hub_download(
                "org/name", name, revision=revision, local_files_only=True
            )
            assert Path(theirs) == path and path.is_symlink()
    assert server.requests == []
    (cached,) = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert (cached.nb_files, cached.size_on_disk) == (2, len(BIG) + len(SMALL))
    assert set(cached.refs) == {"main"}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "a\\b", "c:x", "", "a/."])
def test_names_of_files_that_lead_elsewhere(server: HubServer, name: str) -> None:
    for ask in (
        lambda: hub.fetch("org/name", name),
        lambda: hub.fetch_range("org/name", name, COMMIT, 0, 9),
    ):
        with pytest.raises(HubError, match="is not the name of a file"):
            ask()
    assert server.requests == []


# Pages instead of content


HTML = b"<!doctype html><html><body>Please log in to the hotel's network</body></html>"


@pytest.mark.parametrize("name", ["big.bin", "small.json"])
@pytest.mark.parametrize("honest_tags", [True, False])
def test_a_page_instead_of_content(
    forgery: Forgery, tmp_path: Path, name: str, honest_tags: bool
) -> None:
    forgery.body = HTML
    forgery.headers = {"Content-Type": "text/html"}
    if not honest_tags:
        forgery.headers |= dict.fromkeys(("ETag", "X-Linked-Etag", "X-Repo-Commit"))
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", name)
    assert sentence(error)
    assert all(HTML not in path.read_bytes() for path in kept(tmp_path))


@pytest.mark.parametrize("status", [200, 206])
def test_a_page_instead_of_a_part(forgery: Forgery, status: int) -> None:
    forgery.body, forgery.status = HTML, status
    with pytest.raises(HubError) as error:
        part(0, 100)
    assert sentence(error)


# Parts of files


def part(start: int, stop: int) -> tuple[bytes, int]:
    server_commit = Repo({"big.bin": BIG, "small.json": SMALL}).commit
    return hub.fetch_range("org/name", "big.bin", server_commit, start, stop)


def test_a_part(forgery: Forgery) -> None:
    assert part(100, 300) == (BIG[100:300], len(BIG))


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-199/300000", "bytes 100-299/*", "bytes */300000", "bytes 100-299/-1", "pages 1-2/3",
     "bytes 100-299/" + "9" * 5000, None],
)  # fmt: skip
def test_a_part_that_is_said_to_be_another(forgery: Forgery, content_range: str | None) -> None:
    forgery.headers = {"Content-Range": content_range}
    with pytest.raises(HubError) as error:
        part(100, 300)
    assert sentence(error)


@pytest.mark.parametrize(
    ("body", "words"), [(BIG[:199], "ended early"), (b"", "ended early"), (BIG, "more bytes")]
)
def test_a_part_of_another_size(forgery: Forgery, body: bytes, words: str) -> None:
    forgery.body = body
    with pytest.raises(HubError) as error:
        part(100, 300)
    assert words in sentence(error)


# Circles


@pytest.mark.skipif(not NEW_HUB, reason="huggingface_hub 1.0 follows redirects for ever")
def test_redirects_that_go_round(forgery: Forgery, server: HubServer) -> None:
    forgery.redirect = "org/name/resolve/main/x"
    for ask in (lambda: hub.fetch("org/name", "big.bin"), lambda: part(0, 100)):
        server.requests.clear()
        with pytest.raises(HubError) as error:
            ask()
        assert "round in circles" in sentence(error) or "cannot be reached" in sentence(error)
        assert len(server.requests) < 200


# Slowness


def test_a_part_that_only_drips_is_given_up(
    forgery: Forgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgery.drip = 0.02  # each byte comes long before any time-out
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    started = time.monotonic()
    with pytest.raises(HubError) as error:
        part(0, 10_000)  # in full this would take 200 s
    assert "too slow" in sentence(error)
    assert time.monotonic() - started < 20


def test_a_file_that_only_drips_is_given_up(
    forgery: Forgery, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgery.drip = 0.02
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    started = time.monotonic()
    with pytest.raises(HubError) as error:
        hub.fetch("org/name", "big.bin")  # in full this would take 6,000 s
    assert "too slow" in sentence(error)
    assert time.monotonic() - started < 20
    # What came is kept, and a faster line goes on from there.
    forgery.drip = 0
    server.requests.clear()
    assert hub.fetch("org/name", "big.bin").read_bytes() == BIG
    assert all(r.range for r in server.gets("big.bin"))


def test_a_silence_is_given_up(forgery: Forgery, monkeypatch: pytest.MonkeyPatch) -> None:
    forgery.drip = 30.0  # after the first byte
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    for ask in (lambda: hub.fetch("org/name", "big.bin"), lambda: part(0, 100)):
        with pytest.raises(HubError) as error:
            ask()
        assert sentence(error)
