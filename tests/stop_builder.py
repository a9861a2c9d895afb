"""SIGTERM in the middle of ``index build``, and two processes that build one index at once.

Run by test_stops.py as ``python stop_builder.py SOURCE WORKPLACE``, in a process of its own because
it forks. Every child is the command itself, with a tiny network.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
from conftest import TINY, random_model
from engine_fixtures import content

from selavpr import SelaVPR, building, cli, cli_build
from selavpr.index import verify, work_folder

SECONDS = 5.0
"""A process that is asked to end has so long, on a machine that has time for it."""

PATIENCE = 500
"""Seconds after which nobody waits any longer for somebody who has failed."""

Show = Callable[[int, int], None]


def main(source: Path, workplace: Path) -> int:
    signal.alarm(PATIENCE)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    building.PART = 4
    model, build, target = random_model(TINY), building.build, workplace / "town"
    SelaVPR.from_pretrained = classmethod(lambda *_, **__: model)  # type: ignore[assignment]

    def command(out: Path, show: Show = lambda done, total: None, note: str = "") -> int:
        def shown(*args: object, **options: object) -> object:
            return build(*args, **{**options, "progress": show})  # type: ignore[arg-type]

        cli_build.building.build = shown  # type: ignore[assignment]
        return cli.main(
            ["index", "build", str(out), "--from", str(source), "--quiet", "--batch-size", "4",
             "--name", "town", "--title", note]
        )  # fmt: skip

    def started(show: Show, note: str) -> tuple[int, int]:
        """A child that builds; its number, and where its errors can be read."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            os.dup2(writing, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            os._exit(command(target, show, note))
        os.close(writing)
        return child, reading

    def ended(child: int, reading: int) -> tuple[int, str]:
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            return status, pipe.read()

    # SIGTERM while it extracts: the first part is done, the second one is never to be.
    assert command(target, note="old") == 0
    old = features(target)
    ready, waiting = os.pipe()

    def stop_here(done: int, total: int) -> None:
        os.write(waiting, b"x")
        signal.pause()

    child, errors = started(stop_here, "new")
    os.read(ready, 1)
    begun = time.monotonic()
    os.kill(child, signal.SIGTERM)
    status, said = ended(child, errors)
    took = time.monotonic() - begun
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, (status, said)
    assert took < SECONDS, f"it took {took:.1f} s to end"
    assert "Traceback" not in said
    assert features(target) == old and verify(target) == []
    assert len(list((work_folder(target) / "parts").glob("*.safetensors"))) == 1
    assert not list(work_folder(target).rglob("*.tmp"))
    assert command(target, note="new") == 0
    assert features(target) == old and not work_folder(target).exists()

    # Two at once: the second is refused while the first one is at work, which it does not disturb.
    go, release = os.pipe()

    def hold_here(done: int, total: int) -> None:
        os.write(waiting, b"x")
        os.read(go, 1)

    first, first_errors = started(hold_here, "first")
    os.read(ready, 1)
    second, second_errors = started(lambda done, total: None, "second")
    status, said = ended(second, second_errors)
    assert os.WEXITSTATUS(status) == 2, (status, said)
    assert said.count("\n") == 1 and "Another build of" in said, said
    os.write(release, b"x" * 3)
    status, said = ended(first, first_errors)
    assert status == 0, said
    assert features(target) == old and verify(target) == [] and not work_folder(target).exists()
    sys.stdout.write(f"ended {took:.2f} s after SIGTERM\n")
    return 0


def features(folder: Path) -> dict[str, bytes]:
    """An index without its manifest, which tells the time."""
    return {name: data for name, data in content(folder).items() if name != "manifest.json"}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
