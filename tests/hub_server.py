"""A small stand-in for the Hugging Face Hub, on this machine, that misbehaves on request.

It speaks what huggingface_hub asks of the real one: resolving files (HEAD and GET with ranges and a
redirect to a storage path for large files), creating a repository and committing to it. One switch
per way of failing; ``requests`` records everything that came in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """One repository: files by revision, and how it treats visitors.

    Models are known to the server as ``org/name``, data sets as ``datasets/org/name``.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "public"  # or "gated", "disabled"

    @property
    def commit(self) -> str:
        """A 40-digit name that changes with the content."""
        sha = hashlib.sha1(usedforsecurity=False)
        for name, data in sorted(self.files.items()):
            sha.update(f"{name}\0{len(data)}\0".encode() + data)
        return sha.hexdigest()


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class HubServer:
    """The server; use it as a context manager. ``url`` is what HF_ENDPOINT is to be set to."""

    LARGE = 1000
    """Files of this many bytes and more are kept as large files: SHA-256 tag and a redirect."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.token: str | None = None  # writing needs it
        self.uploads: dict[str, bytes] = {}
        self.reset()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def reset(self) -> None:
        """Forget repositories, requests and switches."""
        self.repos.clear()
        self.requests.clear()
        self.uploads.clear()
        self.token = None
        self.status: int | None = None  # answer everything with this error
        self.cut_after: list[int] = []  # one entry per GET: send this many bytes, then cut
        self.reset_connection = False  # cut by a TCP reset instead of an orderly end
        self.corrupt = False  # flip a byte of every body
        self.announce: int | None = None  # announce this size instead of the true one
        self.delay = 0.0  # seconds before any answer
        self.redirect_loop = False
        self.not_a_hub = False  # answer like a login page
        self.ignore_range = False

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def gets(self, name: str) -> list[Request]:
        """GET requests for the content of a file, large or small."""
        blobs = {
            hashlib.sha256(repo.files[name]).hexdigest()
            for repo in self.repos.values()
            if name in repo.files
        }
        return [
            r
            for r in self.requests
            if r.method == "GET"
            and (r.path.endswith(f"/{name}") or r.path.removeprefix("/storage/") in blobs)
        ]


def _wait(seconds: float) -> None:
    """Like time.sleep, which tests replace."""
    threading.Event().wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _begin(self) -> bool:
        """Record the request and apply the switches that concern all; False when answered."""
        hub = self.server_hub
        hub.requests.append(
            Request(
                self.command,
                unquote(urlsplit(self.path).path),
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        if hub.delay:
            _wait(hub.delay)
        if hub.status:
            self._error(hub.status, None)
        elif hub.redirect_loop:
            self._answer(307, b"", {"Location": self.path})
        elif hub.not_a_hub:
            self._answer(200, b"<html>Please log in</html>", {"ETag": '"login"'})
        else:
            return True
        return False

    def _get(self) -> None:
        if not self._begin():
            return
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/storage/"):
            for repo in hub.repos.values():
                for data in repo.files.values():
                    if hashlib.sha256(data).hexdigest() == path.rpartition("/")[2]:
                        self._content(data, {})
                        return
            self._error(404, None)
            return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repo = hub.repos.get(match[1])
            if repo is None:
                self._error(404, "RepoNotFound")
            else:
                self._json({"id": match[1], "sha": repo.commit, "siblings": []})
            return
        if match := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/tree/[^/]+/?", path):
            repo = hub.repos.get(match[1], Repo())
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                    for name, data in sorted(repo.files.items())
                ]
            )
            return
        match = re.fullmatch(r"/(datasets/[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = match or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+(?:/[^/]+)?)/([^/]+)", path)
        if match is None:
            self._error(404, None)
            return
        repo = hub.repos.get(match[1])
        if repo is None:
            # The real one tells visitors without a token nothing but 401.
            self._error(401, "RepoNotFound")
        elif repo.state == "gated":
            self._error(403, "GatedRepo")
        elif repo.state == "disabled":
            self._error(403, None, "Access to this resource is disabled.")
        elif match[2] not in ("main", repo.commit):
            self._error(404, "RevisionNotFound")
        elif match[3] not in repo.files:
            self._error(404, "EntryNotFound", headers={"X-Repo-Commit": repo.commit})
        else:
            self._file(repo, repo.files[match[3]])

    def _file(self, repo: Repo, data: bytes) -> None:
        hub = self.server_hub
        headers = {"X-Repo-Commit": repo.commit}
        if len(data) < hub.LARGE:
            git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
            self._content(data, {**headers, "ETag": f'"{git.hexdigest()}"'})
            return
        sha = hashlib.sha256(data).hexdigest()
        size = hub.announce if hub.announce is not None else len(data)
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(size)}
        # "localhost" is another host to a client than 127.0.0.1, as the Hub's storage is.
        storage = hub.url.replace("127.0.0.1", "localhost")
        self._answer(302, b"", {**headers, "Location": f"{storage}/storage/{sha}"})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        hub = self.server_hub
        if hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        status, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        stop = len(data)
        if asked and not hub.ignore_range:
            status, start = 206, int(asked[1])
            stop = min(int(asked[2] or stop) + bool(asked[2]), stop)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        body = data[start:stop]
        cut = hub.cut_after.pop(0) if hub.cut_after and self.command == "GET" else None
        self._answer(status, body, {**headers, "Accept-Ranges": "bytes"}, cut)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._begin():
            return
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._error(401, None, "Invalid credentials in Authorization header")
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("type") == "dataset":
                name = f"datasets/{name}"
            if name.startswith("forbidden/"):
                self._error(403, None, "You don't have the rights to create a model there.")
            elif name in hub.repos:
                address = {"url": f"{hub.url}/{name}"}
                self._error(409, None, "You already created this model repo", extra=address)
            else:
                hub.repos[name] = Repo()
                self._json({"url": f"{hub.url}/{name}", "id": "1"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= hub.LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            self._json({"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    "oid": one["oid"],
                    "size": one["size"],
                    "actions": {"upload": {"href": f"{hub.url}/upload/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/(models/|(?=datasets/))(.+)/commit/main", path):
            self._commit(match[2], body)
        else:
            # Validating a model card, and the like: nothing to object to.
            self._json({})

    def _commit(self, name: str, body: bytes) -> None:
        hub = self.server_hub
        repo = hub.repos[name]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repo.files[value["path"]] = hub.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del repo.files[value["path"]]
        self._json(
            {
                "success": True,
                "commitOid": repo.commit,
                "commitUrl": f"{hub.url}/{name}/commit/{repo.commit}",
                "hookOutput": "",
            }
        )

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._begin():
            return
        self.server_hub.uploads[self.path.rpartition("/")[2]] = body
        self._answer(200, b"", {})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(
        self,
        status: int,
        code: str | None,
        message: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        headers = dict(headers or {})
        if code:
            headers["X-Error-Code"] = code
        headers["X-Error-Message"] = message or code or "no luck"
        body = {"error": headers["X-Error-Message"], **(extra or {})}
        self._answer(status, json.dumps(body).encode(), headers)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is None:
            self.wfile.write(body)
            return
        self.wfile.write(body[:cut])
        self.wfile.flush()
        self.close_connection = True
        if self.server_hub.reset_connection:
            # Lingering for no time makes close() send a reset. The wait lets the client take in
            # what was sent: a reset may overtake it.
            _wait(0.1)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            os.close(self.connection.detach())
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
