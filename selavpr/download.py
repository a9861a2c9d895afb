"""Polite and careful downloads: slow enough, patient with servers that are busy, bounded in size.

The only module that knows requests. A server is not trusted: its addresses must be http or https
and name no private network, a file has an upper size, and headers with a secret go to nobody but
the server they are meant for, not even after a redirect. What a server says is never shown as it
stands, and of an address only host and path are, since the rest may hold a token.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from selavpr.addresses import is_public
from selavpr.errors import DownloadError, StoppedError

logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""Times a request is tried: at once again, then after 2, 4, 8 and 16 s, half a minute in all."""

LONGEST_WAIT_S = 300.0
"""A server that asks for a longer pause (Retry-After) is asked again after this."""

LONG_WAIT_S = 5.0
"""A pause that is worth a word to whoever watches."""

MAX_JSON_BYTES = 64 << 20
MAX_PHOTO_BYTES = 64 << 20
MAX_REDIRECTS = 5
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two pieces of an answer
LONGEST_ANSWER_S = 900.0  # against a server that sends a byte a minute

_BLOCK = 1 << 16
_BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))
_BROKEN = (requests.RequestException, HTTPError, OSError)


class Fetcher:
    """Requests to one service, spread over time; safe to use from several threads.

    Args:
        home: address of the service; it may be on a private network, others then may be as well.
        rate: requests a second at most.
        secret: headers, such as a token, that only the service's own host gets.
        backoff_s: half the wait after the second failure; it doubles with each.
        workers: threads that will use it.
    """

    def __init__(
        self,
        home: str,
        *,
        rate: float = 5.0,
        secret: Mapping[str, str] | None = None,
        backoff_s: float = 1.0,
        workers: int = 8,
    ) -> None:
        """Nothing is sent yet."""
        parts = _split(home)
        self._origin = (parts.scheme, parts.netloc)
        self._host = parts.hostname or ""
        self._private = _is_private(self._host)
        self._secret = dict(secret or {})
        self._retry = Retry(total=ATTEMPTS - 1, backoff_factor=backoff_s, backoff_max=60)
        self._pause = 1 / rate
        self._next = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "selavpr-place-finder (index build)"
        self._session.auth = lambda request: request  # not what a .netrc may hold for a host
        adapter = _Adapter(self._may_lead_to, workers)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def close(self) -> None:
        """Let go of the connections; whoever still waits for a turn gets ``StoppedError``."""
        self._stopped.set()
        self._session.close()

    def __enter__(self) -> Fetcher:
        """Close at the end of a ``with`` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever happened."""
        self.close()

    def json(self, url: str, params: Mapping[str, str] | None = None) -> Any:
        """The JSON at an address.

        Raises:
            DownloadError: it cannot be had, is too large, or is no JSON.
        """

        def read(response: requests.Response) -> Any:
            data = b"".join(_blocks(response, MAX_JSON_BYTES))
            try:
                return json.loads(data)
            except (ValueError, RecursionError) as error:
                raise DownloadError(f"{plain_url(url)} did not answer with JSON.") from error

        return self._get(url, params, read)

    def file(self, url: str, path: Path, max_bytes: int = MAX_PHOTO_BYTES) -> int:
        """Download a file; it appears at its path only when it is whole.

        Args:
            url: where it is.
            path: where it goes; its folder exists.
            max_bytes: larger ones are refused.

        Returns:
            Its size in bytes.

        Raises:
            DownloadError: it cannot be had, is empty or too large.
            OSError: it cannot be written.
        """
        partial = path.with_name(f"{path.name}.part")

        def read(response: requests.Response) -> int:
            with _Writing(partial) as out:
                size = sum(out.write(block) for block in _blocks(response, max_bytes))
            if not size:
                raise DownloadError(f"{plain_url(url)} is empty.")
            return size

        try:
            size: int = self._get(url, None, read)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return size

    def _get(
        self,
        url: str,
        params: Mapping[str, str] | None,
        read: Callable[[requests.Response], Any],
    ) -> Any:
        """Ask, wait and ask again as long as there is hope, and read the answer."""
        retry = self._retry
        while True:
            wait, status, reason = 0.0, None, "the connection broke off"
            try:
                with contextlib.closing(self._send(url, params)) as response:
                    status = response.status_code
                    if status == 200:
                        return read(response)
                    reason = f"the server answers {status}"
                    wait = self._asked_wait(response)
            except _DiskError as error:
                raise error.cause from error
            except ValueError:  # how requests and urllib call addresses they cannot take
                raise DownloadError(
                    f"{plain_url(url)} is, or leads to, what is no http or https address."
                ) from None
            except _BROKEN as error:
                if isinstance(error, requests.Timeout):
                    reason = "the server does not answer in time"
                elif isinstance(error, requests.ConnectionError) and status is None:
                    reason = "there is no connection to the server"
            failed = DownloadError(f"{plain_url(url)} cannot be had: {reason}.", status)
            if status not in _BUSY | {None, 200}:
                raise failed
            try:
                retry = retry.increment("GET", plain_url(url), error=HTTPError(reason))
            except HTTPError:
                raise failed from None
            self._hold_off(max(wait, retry.get_backoff_time()), reason)

    def _asked_wait(self, response: requests.Response) -> float:
        asked = response.headers.get("Retry-After", "")
        with contextlib.suppress(HTTPError, ValueError, OverflowError):
            return min(self._retry.parse_retry_after(asked), LONGEST_WAIT_S)
        return 0.0

    def _send(self, url: str, params: Mapping[str, str] | None) -> requests.Response:
        """One request, and those it is redirected to; every address is checked first."""
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._checked(url)
            own = (parts.scheme, parts.netloc) == self._origin
            self._take_turn()
            response = self._session.get(
                url,
                params=params,
                headers=self._secret if own else None,
                timeout=TIMEOUT_S,
                stream=True,
                allow_redirects=False,
            )
            if not response.is_redirect:
                return response
            response.close()
            target = urljoin(response.url, response.headers["Location"])
            if parts.scheme == "https" and urlsplit(target).scheme == "http":
                raise DownloadError(f"{plain_url(url)} leads to an address without encryption.")
            url, params = target, None
        raise DownloadError(f"{plain_url(url)} leads from one address to the next without end.")

    def _checked(self, url: str) -> SplitResult:
        parts = _split(url)
        if _is_private(parts.hostname or "") and not self._private:
            raise _private_network(parts.hostname or "")
        return parts

    def _may_lead_to(self, host: str, address: str) -> bool:
        """Whether a host may be asked that turned out to be at this address."""
        if self._private or host == self._host or is_public(address):
            return True
        # Whoever names a service inside the network has it lead to others there.
        with contextlib.suppress(OSError):
            found = {str(info[4][0]) for info in socket.getaddrinfo(self._host, None)}
            self._private = not all(map(is_public, found))
        return self._private

    def _take_turn(self) -> None:
        """Wait for this request's place in the row."""
        with self._lock:
            now = time.monotonic()
            mine = max(self._next, now)
            self._next = mine + self._pause
        if self._stopped.wait(max(mine - now, 0)):
            raise StoppedError("The downloads were stopped.")

    def _hold_off(self, seconds: float, reason: str) -> None:
        """A busy server is busy for all: nobody asks before the time is over."""
        if seconds > LONG_WAIT_S:
            logger.warning("%s: %s; trying again in %.0f s.", self._origin[1], reason, seconds)
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Adapter(HTTPAdapter):
    """Looks at whom a connection reached: many names and numbers may stand for one address.

    Not behind a proxy, which alone knows.
    """

    def __init__(self, may_lead_to: Callable[[str, str], bool], workers: int) -> None:
        self._may_lead_to = staticmethod(may_lead_to)
        super().__init__(pool_maxsize=max(workers, 1), max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": self._watched(HTTPConnectionPool, HTTPConnection),
            "https": self._watched(HTTPSConnectionPool, HTTPSConnection),
        }

    def _watched(self, pool: type, connection: type) -> Any:
        watched = type("Watched", (_Watched, connection), {"may_lead_to": self._may_lead_to})
        return type("Pool", (pool,), {"ConnectionCls": watched})


class _Watched:
    """Part of a connection."""

    host: str
    sock: socket.socket
    may_lead_to: Callable[[str, str], bool]

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        if not self.may_lead_to(self.host, self.sock.getpeername()[0]):
            raise _private_network(self.host)


def _split(url: str) -> SplitResult:
    """The parts of an address that may be asked."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.username:
            return parts
    raise DownloadError(f"{plain_url(url)!r} is no http or https address.")


def plain_url(url: str) -> str:
    """Host and path of an address, fit to be shown: the rest may hold a token."""
    try:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    except ValueError:
        shown = "an address"
    return _printable(shown)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


class _DiskError(Exception):
    """Keeps a full disk apart from a broken connection: both are OSErrors."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Writing:
    """A file being written, whose errors are told apart from those of the network."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Writing:
        try:
            self._file = self._path.open("wb")
        except OSError as error:
            raise _DiskError(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise _DiskError(error) from error

    def write(self, block: bytes) -> int:
        try:
            return self._file.write(block)
        except OSError as error:
            raise _DiskError(error) from error


def _blocks(response: requests.Response, max_bytes: int) -> Iterator[bytes]:
    """The body, refused as soon as it is too large; compressed ones are counted unpacked."""
    with contextlib.suppress(ValueError):
        if int(response.headers.get("Content-Length", 0)) > max_bytes:
            raise _too_large(response.url, max_bytes)
    size, end = 0, time.monotonic() + LONGEST_ANSWER_S
    for block in response.iter_content(_BLOCK):
        if time.monotonic() > end:
            raise requests.Timeout
        size += len(block)
        if size > max_bytes:
            raise _too_large(response.url, max_bytes)
        yield block


def _too_large(url: str, max_bytes: int) -> DownloadError:
    return DownloadError(f"{plain_url(url)} is larger than {max_bytes / 1e6:.0f} MB.")


def _private_network(host: str) -> DownloadError:
    return DownloadError(f"{_printable(host)} is on a private network; it is not asked.")


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False
