"""Work that can be stopped: one line of JSON for each thing done, read again at the next start."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from selavpr.errors import OptionError
from selavpr.weights import digest


class Journal:
    """A file of finished records for one set of settings.

    The settings' digest is part of the file's name, so that runs with others keep their own.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        """Open the journal, with what an earlier run has left in it.

        Args:
            folder: made when there is none.
            name: what the file is called, before the digest.
            settings: everything that decides what the records say; JSON-able.

        Raises:
            OptionError: the file cannot be read or written, or another process writes it.
        """
        key = digest(settings).partition(":")[2][:12]
        self.path = folder / f"{name}-{key}.jsonl"
        self.done: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Two would drop each other's lines; this lock ends with its process, however it ends.
            self._lock = FileLock(self.path.with_suffix(".lock"))
            self._lock.acquire(timeout=0)
            self._file: IO[bytes] = self.path.open("a+b")
            self._read()
        except Timeout as error:
            raise OptionError(
                f"Another run is writing {self.path}; wait until it is done, or use another folder."
            ) from error
        except OSError as error:
            raise self._unusable(error) from error

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Note one thing as done; on disk when this returns.

        Raises:
            OptionError: it cannot be written.
        """
        line = json.dumps({"key": key, **record}, allow_nan=False)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unusable(error) from error
        self.done[key] = dict(record)

    def __enter__(self) -> Journal:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, and let others write it."""
        self._file.close()
        self._lock.release()

    def _read(self) -> None:
        """Take every whole line; a last one that was cut off, and what follows it, is dropped."""
        self._file.seek(0)
        good = 0
        for line in self._file:
            try:
                record = json.loads(line)
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                self.done[record.pop("key")] = record
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
            good += len(line)
        self._file.truncate(good)
        self._file.seek(good)

    def _unusable(self, error: OSError) -> OptionError:
        return OptionError(f"Cannot keep records in {self.path}: {error.strerror or error}.")
