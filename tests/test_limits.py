"""What a visitor may cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import safehttpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from selavpr.addresses import is_public
from selavpr.limits import BodyLimit, BoundedFetch, sweep, swept

LIMIT = 2**20


async def count(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def send(content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    app = BodyLimit(Starlette(routes=[Route("/", count, methods=["POST"])]), LIMIT)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/", content=content)

    return asyncio.run(post())


async def pieces(number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield bytes(2**16)


def test_requests_pass_up_to_the_limit() -> None:
    assert send(bytes(LIMIT)).text == str(LIMIT)
    assert send(pieces(16)).text == str(LIMIT), "unannounced"


def test_longer_requests_are_refused_before_they_are_read() -> None:
    refused = send(bytes(LIMIT + 1))
    assert refused.status_code == 413
    assert refused.json() == {"detail": "A request may hold 1 MB at most."}
    assert send(pieces(17)).status_code >= 400, "unannounced: cut off where it grows too long"


class Elsewhere(httpx.AsyncBaseTransport):
    """Another machine, which sends what it is told to and remembers what it was asked."""

    def __init__(self, parts: Iterable[bytes], status: int = 200, **headers: str) -> None:
        self.parts, self.status, self.headers = parts, status, headers
        self.asked: list[httpx.Request] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return httpx.Response(self.status, headers=self.headers, content=self._sent())

    async def _sent(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part

    async def aclose(self) -> None:
        self.closed += 1


def fetch(elsewhere: httpx.AsyncBaseTransport) -> httpx.Response:
    async def reach(host: str) -> httpx.AsyncBaseTransport:
        assert host == "example.org"
        return elsewhere

    async def get() -> httpx.Response:
        bounded = BoundedFetch(LIMIT, RuntimeError, reach=reach)
        async with httpx.AsyncClient(transport=bounded) as client:
            return await client.get("https://example.org/photo.jpg")

    return asyncio.run(get())


def test_photo_at_an_address_comes_whole() -> None:
    elsewhere = Elsewhere([b"a" * 1000, b"b"])
    assert fetch(elsewhere).content == b"a" * 1000 + b"b"
    assert elsewhere.asked[0].headers["accept-encoding"] == "identity"
    assert elsewhere.closed == 1


def endless() -> Iterable[bytes]:
    while True:
        yield bytes(2**16)


def broken_off() -> Iterable[bytes]:
    yield bytes(2**16)
    raise httpx.ReadTimeout("no more")


@pytest.mark.parametrize(
    ("elsewhere", "why"),
    [
        (lambda: Elsewhere(endless()), "larger than 1 MB"),
        (lambda: Elsewhere([b"x"], **{"content-encoding": "gzip"}), "packed"),
        (lambda: Elsewhere(broken_off()), "stopped in the middle"),
    ],
)
def test_what_would_cost_too_much_is_given_up(elsewhere: Callable[[], Elsewhere], why: str) -> None:
    asked = elsewhere()
    with pytest.raises(RuntimeError, match=why):
        fetch(asked)
    assert asked.closed == 1


def test_machine_that_does_not_answer_is_said() -> None:
    class Silent(Elsewhere):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectTimeout("no")

    silent = Silent([])
    with pytest.raises(RuntimeError, match="does not answer"):
        fetch(silent)
    assert silent.closed == 1


class Listening:
    """A server on this machine that tells every connection the same, and then nothing more."""

    def __init__(self, says: bytes, after: float = 0.0) -> None:
        self.says, self.after = says, after
        self.came = self.left = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        # An asker whose time ends just as the answer comes leaves it unread: a reset, not an end.
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(self.after)
            writer.write(self.says)
            await reader.read()  # until the asker leaves
        self.left += 1
        writer.close()

    async def asked(self, seconds: float) -> httpx.Response:
        way = safehttpx.AsyncSecureTransport("127.0.0.1")  # which drops httpx's time limits

        async def reach(host: str) -> httpx.AsyncBaseTransport:
            return way

        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        address = f"http://example.org:{server.sockets[0].getsockname()[1]}/photo.jpg"
        bounded = BoundedFetch(LIMIT, RuntimeError, seconds=seconds, reach=reach)
        async with server, httpx.AsyncClient(transport=bounded, follow_redirects=True) as client:
            try:
                return await asyncio.wait_for(client.get(address), 20)
            finally:
                while self.left < self.came:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("says", "after"),
    [
        (b"", 0.0),
        (b"HTTP/1.1 200 OK\r\nContent-Len", 0.0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 0.0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome of it", 0.0),
        (b"HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n", 0.2),
    ],
    ids=["silent", "in the head", "after the head", "in the photo", "redirects without end"],
)
def test_machine_that_keeps_us_waiting_is_left(says: bytes, after: float) -> None:
    machine = Listening(says, after)
    with pytest.raises(RuntimeError, match="answers too slowly"):
        asyncio.run(asyncio.wait_for(machine.asked(seconds=1.0), 60))
    assert machine.left == machine.came > 0, "every connection is closed"


def test_host_that_is_looked_up_for_ever_is_given_up() -> None:
    async def reach(host: str) -> httpx.AsyncBaseTransport:
        await asyncio.Event().wait()
        raise AssertionError

    async def get() -> httpx.Response:
        bounded = BoundedFetch(LIMIT, RuntimeError, seconds=0.05, reach=reach)
        async with httpx.AsyncClient(transport=bounded) as client:
            return await client.get("https://example.org/photo.jpg")

    with pytest.raises(RuntimeError, match="answers too slowly"):
        asyncio.run(asyncio.wait_for(get(), 20))


def test_each_photo_has_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after another one that was redirected, in the same task."""
    now = [100.0]
    monkeypatch.setattr("selavpr.limits.time.monotonic", lambda: now[0])
    found = [
        Elsewhere([], 302, location="/here"),
        Elsewhere([b"first"]),
        Elsewhere([b"second"]),
    ]

    async def reach(host: str) -> httpx.AsyncBaseTransport:
        return found.pop(0)

    async def get() -> list[bytes]:
        bounded = BoundedFetch(LIMIT, RuntimeError, seconds=30, reach=reach)
        got = []
        async with httpx.AsyncClient(transport=bounded, follow_redirects=True) as client:
            for _ in range(2):
                got.append((await client.get("https://example.org/photo.jpg")).content)
                now[0] += 60
        return got

    assert asyncio.run(get()) == [b"first", b"second"]


INSIDE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.100.100.200",  # Alibaba's cloud tells a machine's secrets there
    "127.0.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",  # 10.0.0.1, through a translator
    "fd00:ec2::254",
]


def test_public_addresses_are_told_from_others() -> None:
    assert [address for address in INSIDE if is_public(address)] == []
    assert is_public("1.1.1.1") and is_public("2606:4700:4700::1111")


@pytest.mark.parametrize("address", [*INSIDE, "x" * 70])
def test_addresses_inside_the_network_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=BoundedFetch(LIMIT, RuntimeError)) as client:
            return await client.get(f"http://{host}/latest/meta-data")

    with pytest.raises(RuntimeError, match="none that anybody can reach"):
        asyncio.run(get())


def test_only_what_is_too_old_is_swept_out(tmp_path: Path) -> None:
    inner = tmp_path / "0f3a"
    inner.mkdir()
    for path in (inner / "street.jpg", tmp_path / "tmp1x2y"):
        path.write_bytes(b"x")
    sweep(tmp_path, age=60)
    assert {path.name for path in tmp_path.rglob("*")} == {"0f3a", "street.jpg", "tmp1x2y"}
    sweep(tmp_path, age=-1)  # nothing is so young
    assert [path.name for path in tmp_path.rglob("*")] == ["0f3a"]
    sweep(tmp_path / "not there", age=0)


def test_it_is_swept_again_and_again(tmp_path: Path) -> None:
    async def watch() -> None:
        async with swept(tmp_path, every=0, age=-1):
            for name in ("first", "second"):
                path = tmp_path / name
                path.write_bytes(b"x")
                while path.exists():
                    await asyncio.sleep(0)
        (tmp_path / "third").write_bytes(b"x")
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(watch(), 60))
    assert (tmp_path / "third").exists(), "no longer"
