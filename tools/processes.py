"""Processes beside this one: the app, and how much memory one holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class App:
    """The app while it runs.

    Attributes:
        address: of its page.
        serves: model, cities and device in a line, as it says them.
        pid: of its process.
    """

    address: str
    serves: str
    pid: int


@contextmanager
def app() -> Iterator[App]:
    """Start ``app.py``; it ends with the context, and its uploads with it."""
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    try:
        address, serves = (server.stdout.readline().strip() for _ in range(2))
        if not address:
            raise SystemExit("The app did not start; it says why above.")
        yield App(address, serves, server.pid)
    finally:
        server.terminate()
        server.wait()


def resident_mb(pid: int) -> float:
    """Memory a process holds in MB; 0 when it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def own_mb(pid: int) -> float:
    """Memory of a process's own in MB, without mapped files; 0 when it has just ended.

    Pages of mapped files come and go as the system likes, and so does ``resident_mb``.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    kilobytes = (fields.get(name, "0 kB").split()[0] for name in ("RssAnon", "VmSwap"))
    return sum(int(amount) * 1024 for amount in kilobytes) / 1e6
