"""Uploads are deleted in time: those that came through, and those that broke off."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
BOUNDARY = "part"
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'

SERVER = """
import json
from pathlib import Path
from fake_recognizer import FakeRecognizer
from selavpr import ui
with ui.private_uploads() as uploads:
    demo = ui.build_demo({"town": FakeRecognizer()}, tiles=False)
    asked = demo.delete_cache
    demo.delete_cache = ui.LOOK_SECONDS, ui.KEEP_SECONDS = 1, 1
    print(ui.launch(demo, uploads=uploads), json.dumps(asked), flush=True)
    ui.wait(demo)
"""
"""The page as it is, but in a hurry."""


def uploaded(address: str, content: bytes) -> Path:
    """Where an upload came to lie."""
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        HEAD.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return Path(json.load(reply)[0])


def broken_off(address: str, uploads: Path, until: float) -> bool:
    """Begin an upload, go away in the middle; whether there was a file of it meanwhile."""
    at = urlsplit(address)
    with socket.create_connection((at.hostname or "", at.port or 0), timeout=60) as connection:
        connection.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Length: 20000000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{HEAD}".encode()
        )
        for _ in range(1000):
            connection.sendall(bytes(10_000))
            if any(path.stat().st_size for path in uploads.glob("tmp*")):
                return True
            assert time.monotonic() < until
            time.sleep(0.005)
    return False


def test_they_go_after_their_time(tmp_path: Path) -> None:
    yesterdays = tmp_path / "holiday.jpg"
    yesterdays.write_bytes(b"somebody else's")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "GRADIO_TEMP_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent))),
        },
    ) as process:
        assert process.stdout
        try:
            address, asked = process.stdout.readline().split(maxsplit=1)
            assert json.loads(asked) == [600, 3600], "looked for every ten minutes, kept an hour"
            until = time.monotonic() + 120
            whole = uploaded(address, b"x" * 1000)
            uploads = whole.parents[1]
            assert uploads.parent == tmp_path.resolve()
            assert whole.parent.is_dir(), "it was there; the folder stays"
            assert broken_off(address, uploads, until)
            while left := [path for path in uploads.rglob("*") if path.is_file()]:
                assert time.monotonic() < until, left
                time.sleep(0.05)
            assert yesterdays.exists(), "nothing but uploads goes"
        finally:
            process.kill()
