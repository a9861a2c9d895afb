"""What this machine has to offer: free memory, and folders that can be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's share of memory stands, in both versions of Linux's control groups."""


@dataclass(frozen=True)
class Room:
    """What a folder has to offer, or would have if it were made.

    Attributes:
        free: bytes on its disk; 0 where that cannot be told.
        problem: why nothing can be written there; empty when it can.
    """

    free: int
    problem: str = ""


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that a new program may take; None where the system does not say.

    Args:
        root: of the file system, for tests.
    """
    found = []
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        return None
    for name in _LIMITS:
        try:
            found.append(int((root / name).read_text()))
        except (OSError, ValueError):  # no control groups, or "max"
            continue
    return min(found, default=None)


def room_in(folder: Path) -> Room:
    """Whether a folder can be written, or made, without making it."""
    # Unlike Path.exists, this is false, not an error, behind a folder one may not look into.
    there = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return Room(0, error.strerror or type(error).__name__)
    return Room(free)
