"""What a visitor may cost: bytes sent here, fetched from an address they give, and left behind.

Gradio bounds the files it receives, but neither other requests nor what it fetches for one.
The home of ``safehttpx``, by which Gradio fetches from the very address that was checked.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import httpx
import safehttpx  # type: ignore[import-untyped]
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selavpr.addresses import is_public

FETCH_SECONDS = 30.0
"""A photo that takes longer to come is given up: it would hold up the line."""

_SLOW = "The photo's address answers too slowly."

_redirected_until: ContextVar[float | None] = ContextVar("redirected_until", default=None)
"""When the time ends of a fetch that was redirected, which goes on in the same task."""

_T = TypeVar("_T")


class BodyLimit:
    """Refuses requests with a longer body, whatever they are for."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Stand before an app.

        Args:
            app: whatever answers requests.
            limit: bytes.
        """
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, as far as its body goes within the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > self._limit):
            told = {"detail": f"A request may hold {self._limit // 2**20} MB at most."}
            await JSONResponse(told, 413)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            # Longer than announced, or not announced: as if the visitor had gone.
            return message if got <= self._limit else {"type": "http.disconnect"}

        await self._app(scope, counted, send)


class BoundedFetch(httpx.AsyncBaseTransport):
    """Fetches from public addresses only, so many bytes and seconds at most."""

    def __init__(
        self,
        limit: int,
        refuse: Callable[[str], Exception],
        *,
        seconds: float = FETCH_SECONDS,
        reach: Callable[[str], Awaitable[httpx.AsyncBaseTransport]] | None = None,
    ) -> None:
        """Set the bounds.

        Args:
            limit: bytes.
            refuse: makes the error that tells a visitor why.
            seconds: from the look-up of the first host to the last byte, redirects included.
            reach: opens the way to a host; to a public one only by default.
        """
        self._limit, self._refuse, self._seconds = limit, refuse, seconds
        self._reach = reach or self._public

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; a redirect's is one of its own, in the time left to the first."""
        until = _redirected_until.get() or time.monotonic() + self._seconds
        _redirected_until.set(None)
        # Packed, a few bytes could become gigabytes in memory.
        request.headers["Accept-Encoding"] = "identity"
        try:
            way = await _by(until, self._reach(request.url.host))
        except asyncio.TimeoutError as error:
            raise self._refuse(_SLOW) from error
        try:
            reply = await _by(until, way.handle_async_request(request))
        except BaseException as error:  # a visitor who goes cancels it
            await way.aclose()
            if isinstance(error, asyncio.TimeoutError):
                raise self._refuse(_SLOW) from error
            if isinstance(error, httpx.HTTPError):
                raise self._refuse("The photo's address does not answer.") from error
            raise
        assert isinstance(reply.stream, httpx.AsyncByteStream)
        stream = _Counted(reply.stream, way, self._limit, until, self._refuse)
        if reply.headers.get("content-encoding", "identity") != "identity":
            await stream.aclose()
            raise self._refuse("The photo's address sends it packed; give the photo itself.")
        if reply.has_redirect_location:
            _redirected_until.set(until)
        return httpx.Response(reply.status_code, headers=reply.headers, stream=stream)

    async def _public(self, host: str) -> httpx.AsyncBaseTransport:
        try:
            # Not safehttpx's look-up: it takes 100.64.0.0/10 for public, where clouds have services
            # of their own, and asks Google about hosts that it finds inside the network.
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
            address = next(str(at[0]) for *_, at in found if is_public(str(at[0])))
        except (OSError, ValueError, StopIteration) as error:
            raise self._refuse("The photo's address is none that anybody can reach.") from error
        way: httpx.AsyncBaseTransport = safehttpx.AsyncSecureTransport(address)
        return way


def sweep(folder: Path, age: float) -> None:
    """Delete the files below a folder that are too old.

    Gradio deletes the uploads it knows of; one that broke off is none of them, and would stay.

    Args:
        folder: need not exist.
        age: seconds since a file was last written, moved or touched.
    """
    now = time.time()
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it may have gone meanwhile
                if now - Path(parent, name).lstat().st_ctime > age:
                    Path(parent, name).unlink()


@asynccontextmanager
async def swept(folder: Path, every: float, age: float) -> AsyncIterator[None]:
    """Sweep a folder every so many seconds while the context lasts; see ``sweep``."""

    async def again() -> None:
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(sweep, folder, age)

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _by(until: float, step: Awaitable[_T]) -> _T:
    """What a step gives; it is cancelled once ``time.monotonic()`` is past ``until``.

    httpx's own time limits do not count: safehttpx's transport drops them.

    Raises:
        asyncio.TimeoutError: it took longer.
    """
    return await asyncio.wait_for(step, until - time.monotonic())


class _Counted(httpx.AsyncByteStream):
    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        way: httpx.AsyncBaseTransport,
        limit: int,
        until: float,
        refuse: Callable[[str], Exception],
    ) -> None:
        self._stream, self._way = stream, way
        self._limit, self._until, self._refuse = limit, until, refuse

    async def __aiter__(self) -> AsyncIterator[bytes]:
        got, chunks = 0, aiter(self._stream)
        try:
            while True:
                try:
                    chunk = await _by(self._until, anext(chunks))
                except StopAsyncIteration:
                    return
                got += len(chunk)
                if got > self._limit:
                    raise self._refuse(
                        f"The photo at that address is larger than {self._limit // 2**20} MB."
                    )
                yield chunk
        except asyncio.TimeoutError as error:
            raise self._refuse(_SLOW) from error
        except httpx.HTTPError as error:
            raise self._refuse("The photo's address stopped in the middle of it.") from error

    async def aclose(self) -> None:
        await self._stream.aclose()
        await self._way.aclose()
