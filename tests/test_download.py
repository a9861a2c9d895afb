"""Downloads from a server that is busy, broken, or up to no good."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from street_server import Street, serving

from selavpr import download
from selavpr.download import ATTEMPTS, Fetcher, plain_url
from selavpr.errors import DownloadError, StoppedError


@pytest.fixture
def street() -> Iterator[Street]:
    with serving(Street()) as served:
        served.add("a", 2.0, 48.0)
        yield served


@pytest.fixture
def fetcher(street: Street) -> Iterator[Fetcher]:
    with Fetcher(street.address, rate=100, backoff_s=0, secret={"X-Secret": "s3cret"}) as made:
        yield made


def photo(street: Street) -> str:
    return f"{street.address}/photo/a.jpg"


def test_a_file(street: Street, fetcher: Fetcher, tmp_path: Path) -> None:
    size = fetcher.file(photo(street), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == street.picture("a")
    assert size == len(street.picture("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    "faults",
    [
        [("status", 429, {"Retry-After": "0"}), ("status", 503)],
        [("status", 500), ("status", 502), ("status", 504), ("status", 408)],
        [("cut",), ("cut",)],
        [("status", 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})],
        [("status", 429, {"Retry-After": "soon"})],
    ],
    ids=["429 and 503", "5xx", "cut off", "a date", "nonsense"],
)
def test_what_passes_is_tried_again(
    street: Street, fetcher: Fetcher, tmp_path: Path, faults: list[tuple[object, ...]]
) -> None:
    street.faults["/photo/a.jpg"] = list(faults)
    fetcher.file(photo(street), tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == street.picture("a")
    assert street.count("/photo/a.jpg") == len(faults) + 1


def test_what_does_not_pass_is_given_up(street: Street, fetcher: Fetcher, tmp_path: Path) -> None:
    street.faults["/photo/a.jpg"] = [("status", 503)] * 99
    with pytest.raises(DownloadError, match=r"/photo/a\.jpg cannot be had: .* answers 503") as e:
        fetcher.file(photo(street), tmp_path / "a.jpg")
    assert e.value.status == 503 and street.count("/photo/a.jpg") == ATTEMPTS
    street.faults["/photo/a.jpg"] = [("cut",)] * 99
    with pytest.raises(DownloadError, match="broke off"):
        fetcher.file(photo(street), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_is_final_is_not_asked_again(street: Street, fetcher: Fetcher, code: int) -> None:
    street.faults["/api/search"] = [("status", code)]
    with pytest.raises(DownloadError, match=str(code)) as error:
        fetcher.json(f"{street.address}/api/search")
    assert error.value.status == code and street.count("/api/search") == 1


def test_retry_after_holds_off_everybody(
    street: Street,
    fetcher: Fetcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The waits are those the server asks for, up to a limit; no time passes in this test."""
    now, waits = [1000.0], []

    def wait(seconds: float) -> bool:
        waits.append(round(seconds, 2))
        now[0] += seconds
        return False

    monkeypatch.setattr(download.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fetcher._stopped, "wait", wait)
    street.faults["/api/search"] = [
        ("status", 429, {"Retry-After": "7"}), ("status", 503, {"Retry-After": "999999"})
    ]  # fmt: skip
    fetcher.json(f"{street.address}/api/search", {"bbox": "1,1,2,2"})
    fetcher.json(f"{street.address}/api/search", {"bbox": "1,1,2,2"})
    assert waits == [0, 7, download.LONGEST_WAIT_S, 0.01]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "the server answers 429; trying again in 7 s.",
        "the server answers 503; trying again in 300 s.",
    ]


def test_backoff_doubles(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], []

    def wait(seconds: float) -> bool:
        waits.append(round(seconds))
        now[0] += seconds
        return False

    monkeypatch.setattr(download.time, "monotonic", lambda: now[0])
    with Fetcher(street.address, rate=100) as fetcher:
        monkeypatch.setattr(fetcher._stopped, "wait", wait)
        street.faults["/api/search"] = [("status", 500)] * 99
        with pytest.raises(DownloadError):
            fetcher.json(f"{street.address}/api/search")
    assert waits == [0, 0, 2, 4, 8, 16]


def test_requests_keep_their_distance(street: Street, tmp_path: Path) -> None:
    begin = time.monotonic()
    with Fetcher(street.address, rate=50) as fetcher:
        for _ in range(6):
            fetcher.file(photo(street), tmp_path / "a.jpg")
    assert time.monotonic() - begin >= 5 / 50


def test_too_large(
    street: Street, fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="larger than"):
        fetcher.file(photo(street), tmp_path / "a.jpg", max_bytes=100)
    street.faults["/photo/a.jpg"] = [("length", 10**12)]
    with pytest.raises(DownloadError, match="larger than 67 MB"):
        fetcher.file(photo(street), tmp_path / "a.jpg")
    monkeypatch.setattr(download, "MAX_JSON_BYTES", 10)
    with pytest.raises(DownloadError, match="larger than"):
        fetcher.json(f"{street.address}/api/search", {"bbox": "1,1,2,2"})
    assert list(tmp_path.iterdir()) == []
    assert street.count("/photo/a.jpg") == 2  # no second try


def test_an_empty_body(street: Street, fetcher: Fetcher, tmp_path: Path) -> None:
    street.faults["/photo/a.jpg"] = [("body", b"")]
    with pytest.raises(DownloadError, match="is empty"):
        fetcher.file(photo(street), tmp_path / "a.jpg")


@pytest.mark.parametrize("body", [b"<html>", b"", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_no_json(street: Street, fetcher: Fetcher, body: bytes) -> None:
    street.faults["/api/search"] = [("body", body)]
    with pytest.raises(DownloadError, match="did not answer with JSON"):
        fetcher.json(f"{street.address}/api/search")


def test_secrets_stay_with_their_host(street: Street, fetcher: Fetcher, tmp_path: Path) -> None:
    with serving(Street()) as other:
        other.add("b", 0, 0)
        street.faults["/photo/a.jpg"] = [("redirect", f"{other.address}/photo/b.jpg")]
        fetcher.file(photo(street), tmp_path / "a.jpg")
        fetcher.file(f"{other.address}/photo/b.jpg", tmp_path / "b.jpg")
        assert street.asked[0][2]["X-Secret"] == "s3cret"
        assert len(other.asked) == 2
        assert all("X-Secret" not in headers for _, _, headers in other.asked)
    assert (tmp_path / "a.jpg").read_bytes() == other.picture("b")


@pytest.mark.parametrize(
    ("target", "words"),
    [("file:///etc/passwd", "no http"), ("ftp://x/y", "no http"), ("http://u:p@x/", "no http"),
     ("http://[::1", "no http"), ("/photo/a.jpg", "without end")],
)  # fmt: skip
def test_redirects_that_are_not_followed(
    street: Street, fetcher: Fetcher, tmp_path: Path, target: str, words: str
) -> None:
    street.faults["/photo/a.jpg"] = [("redirect", target)] * 20
    with pytest.raises(DownloadError, match=words):
        fetcher.file(photo(street), tmp_path / "a.jpg")
    assert len(street.asked) <= download.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/x", "http://localhost/x", "http://169.254.169.254/latest", "http://[::1]/x",
     "http://10.0.0.1/", "http://printer.local/", "http://224.0.0.1/",
     "http://[64:ff9b::a00:1]/"],  # 10.0.0.1, through a translator
)  # fmt: skip
def test_a_public_service_leads_to_no_private_network(address: str, tmp_path: Path) -> None:
    with Fetcher("https://api.panoramax.xyz") as fetcher:
        with pytest.raises(DownloadError, match="private network"):
            fetcher.file(address, tmp_path / "x.jpg")


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f.1", "0", "[::ffff:127.0.0.1]", "inside.example"]
)
def test_by_whatever_name_it_goes(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Numbers that the system takes for an address, and names that anybody may point inside."""
    look_up = socket.getaddrinfo

    def pointed(name: str, *rest: object, **more: object) -> object:
        name = {"inside.example": "127.0.0.1", "api.panoramax.xyz": "8.8.8.8"}.get(name, name)
        return look_up(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", pointed)
    port = street.address.rpartition(":")[2]
    with Fetcher("https://api.panoramax.xyz", backoff_s=0) as fetcher:
        with pytest.raises(DownloadError, match=r"private network|no connection"):
            fetcher.file(f"http://{host}:{port}/photo/a.jpg", tmp_path / "x.jpg")
    assert street.asked == [] and not list(tmp_path.iterdir())


def test_a_service_inside_leads_inside(
    street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in the cellar, known by name, whose photos lie on another one there."""
    look_up = socket.getaddrinfo

    def pointed(name: str, *rest: object, **more: object) -> object:
        inside = name in ("cellar.example", "shelf.example")
        return look_up("127.0.0.1" if inside else name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", pointed)
    port = street.address.rpartition(":")[2]
    with Fetcher(f"http://cellar.example:{port}", backoff_s=0) as fetcher:
        for host in ("shelf.example", "cellar.example"):
            fetcher.file(f"http://{host}:{port}/photo/a.jpg", tmp_path / f"{host}.jpg")
    assert len(street.asked) == 2


def test_encryption_is_not_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Answer:
        is_redirect, url, headers = True, "https://x.org/a", {"Location": "http://x.org/a"}

        def close(self) -> None:
            pass

    with Fetcher("https://x.org") as fetcher:
        monkeypatch.setattr(fetcher._session, "get", lambda *_, **__: Answer())
        with pytest.raises(DownloadError, match="without encryption"):
            fetcher.file("https://x.org/a", tmp_path / "x.jpg")


@pytest.mark.parametrize("home", ["", "x.org", "ftp://x.org", "http://", "file:///x"])
def test_no_service(home: str) -> None:
    with pytest.raises(DownloadError, match="no http or https address"):
        Fetcher(home)


def test_nobody_there(fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no connection") as error:
        fetcher.file("http://127.0.0.1:1/x.jpg?token=s3cret", tmp_path / "x.jpg")
    assert error.value.status is None and "s3cret" not in str(error.value)


def test_a_full_disk_is_no_broken_connection(
    street: Street, fetcher: Fetcher, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No such file"):
        fetcher.file(photo(street), tmp_path / "absent" / "a.jpg")
    assert street.count("/photo/a.jpg") == 1


def test_closing_ends_waits(street: Street) -> None:
    fetcher = Fetcher(street.address, rate=0.001)
    fetcher.json(f"{street.address}/api/search", {"bbox": "1,1,2,2"})
    fetcher.close()
    with pytest.raises(StoppedError):
        fetcher.json(f"{street.address}/api/search", {"bbox": "1,1,2,2"})


def test_addresses_as_they_are_shown() -> None:
    assert plain_url("https://u:p@x.org:80/a/b?token=1#f") == "https://x.org/a/b"
    assert "\x1b" not in plain_url("http://x/\x1b[31m") and plain_url("http://[x") == "an address"
