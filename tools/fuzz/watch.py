"""Cases run in a child process, so that a crash, a hang or a flood of memory ends only that child.

The child says what it begins and how it ended; the parent looks at its memory and time meanwhile.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavpr.errors import SelaVPRError
from tools.fuzz.mutation import Files
from tools.processes import own_mb

CPU_S = 10.0
"""Processor time one case may take; a user waits no longer for an error."""

WALL_S = 120.0
"""The same by the clock: other programs may be running."""

MEMORY_MB = 2000
"""Memory a case may take on top of what the process held. A photo of 64 megapixels, the largest
that is opened, takes some 1,100 MB where it is transparent."""

POLL_S = 0.05


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        number: of the case.
        kind: ``"read"``, ``"refused"``, or what is wrong: ``"escaped"``, ``"message"``, ``"hang"``,
            ``"memory"`` or ``"died"``.
        details: the traceback, or what was measured.
        signature: the same for findings of one cause.
    """

    number: int
    kind: str
    details: str = ""
    signature: str = ""

    @property
    def is_finding(self) -> bool:
        """Whether something is wrong."""
        return self.kind not in ("read", "refused")


def outcome(number: int, run: Callable[[Path], None], folder: Path) -> Outcome:
    """Run a case here and judge what comes out of it."""
    try:
        run(folder)
    except SelaVPRError as error:
        said = str(error)
        if not said.strip() or "\n" in said or len(said) > 1000:
            return Outcome(number, "message", said[:2000], _where(error))
        return Outcome(number, "refused")
    except Exception as error:
        return Outcome(number, "escaped", traceback.format_exc()[-6000:], _where(error))
    return Outcome(number, "read")


def _where(error: BaseException) -> str:
    """The kind of an error and our last line that it passed through."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "/selavpr/" in frame.filename:
            place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} {place}"


def watched(
    run: Callable[[Path], None],
    cases: Iterable[tuple[int, Files]],
    seconds: float,
    *,
    cpu_s: float = CPU_S,
    memory_mb: int = MEMORY_MB,
) -> Iterator[Outcome]:
    """Run cases in a child until the time is up or one brings it down.

    Args:
        run: what to do with the files in a folder.
        cases: numbers and files; drawn in the child.
        seconds: after which no further case is begun.
        cpu_s: processor time one case may take.
        memory_mb: memory one case may take beyond what the child held.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        work = Path(name)
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(run, cases, seconds, work, writing)
        os.close(writing)
        try:
            yield from _follow(child, reading, work, cpu_s, memory_mb)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _child(
    run: Callable[[Path], None],
    cases: Iterable[tuple[int, Files]],
    seconds: float,
    work: Path,
    pipe: int,
) -> None:
    """Never returns."""
    crash = (work / "crash.txt").open("w")
    noise = os.open(os.devnull, os.O_WRONLY)
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    faulthandler.enable(crash)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    until = time.monotonic() + seconds
    try:
        for number, files in cases:
            folder = work / "case"
            folder.mkdir()
            write(files, folder)
            # Measured here: the parent may look only when the case has already swollen.
            _say(pipe, {"begun": number, "held": own_mb(os.getpid())})
            found = outcome(number, run, folder)
            _say(pipe, {"ended": [found.number, found.kind, found.details, found.signature]})
            shutil.rmtree(folder)
            if time.monotonic() > until:
                break
        os._exit(0)
    except BaseException:
        crash.write(traceback.format_exc())
        crash.flush()
        os._exit(70)


def _say(pipe: int, what: Mapping[str, Any]) -> None:
    data = (json.dumps(what) + "\n").encode()
    while data:
        data = data[os.write(pipe, data) :]


def _follow(child: int, pipe: int, work: Path, cpu_s: float, memory_mb: int) -> Iterator[Outcome]:
    number, buffer = -1, b""
    started, cpu, held = time.monotonic(), 0.0, own_mb(child)
    while True:
        ready, _, _ = select.select([pipe], [], [], POLL_S)
        if ready:
            data = os.read(pipe, 1 << 16)
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "begun" in said:
                    number = said["begun"]
                    started, cpu, held = time.monotonic(), cpu_seconds(child), said["held"]
                else:
                    number = -1
                    started, cpu = time.monotonic(), cpu_seconds(child)
                    yield Outcome(*said["ended"])
            if data:
                continue
            _, status = os.waitpid(child, 0)
            if status:
                crash = (work / "crash.txt").read_text(errors="replace")
                yield Outcome(number, "died", f"{describe(status)}\n{crash[:4000]}", _frame(crash))
            return
        used, grown = cpu_seconds(child) - cpu, own_mb(child) - held
        if number < 0:  # between two cases
            if used > cpu_s or grown > memory_mb:
                raise RuntimeError("Drawing a case takes too much time or memory.")
            continue
        if used > cpu_s or time.monotonic() - started > WALL_S:
            yield Outcome(number, "hang", f"{used:.0f} s of processor time", "hang")
            return
        if grown > memory_mb:
            yield Outcome(number, "memory", f"{grown:.0f} MB more than before", "memory")
            return


def describe(status: int) -> str:
    """How a process ended, in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"


def _frame(crash: str) -> str:
    ours = [line.strip() for line in crash.splitlines() if "/selavpr/" in line]
    return ours[0] if ours else "died"


def write(files: Files, folder: Path) -> None:
    """The files of a case."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
