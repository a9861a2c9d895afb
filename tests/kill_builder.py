"""Kill a build at many moments; each time the old index must be whole and the next build equal.

Run by test_building.py as ``python kill_builder.py SOURCE WORKPLACE``, in a process of its own
because it forks: every child replaces an index, and dies by SIGKILL just before its n-th file
operation (seen through Python's audit hook), or by a timer anywhere, inside C code too.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
from conftest import TINY, random_model
from engine_fixtures import MANIFEST, content

from selavpr import building
from selavpr.index import PlaceIndex, verify
from selavpr.sources import read_folder

FILE_EVENTS = ("open", "os.", "shutil.")
AT_OPERATIONS, AT_TIMES = 24, 16


def main(source: Path, workplace: Path) -> int:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    building.PART = 4
    model, photos = random_model(TINY), read_folder(source)
    target = workplace / "town"

    def rebuild() -> None:
        building.build(target, photos, model, MANIFEST)

    building.build(workplace / "old", photos[:5], model, MANIFEST)
    building.build(workplace / "new", photos, model, MANIFEST)
    old, new = content(workplace / "old"), content(workplace / "new")
    assert old != new

    def start_again() -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(workplace / ".town.building", ignore_errors=True)
        shutil.copytree(workplace / "old", target)

    def run(prepare: Callable[[], None]) -> bool:
        """Whether the child was killed."""
        child = os.fork()
        if child == 0:
            prepare()
            rebuild()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, "the build failed by itself"
        return os.WIFSIGNALED(status)

    def check(moment: str) -> None:
        opened = PlaceIndex.open(target)
        assert content(opened.folder) in (old, new), f"damaged by a kill {moment}"
        assert verify(opened.folder) == []
        rebuild()
        assert content(target) == new, f"resumed differently after a kill {moment}"
        left = sorted(path.name for path in workplace.iterdir())
        assert left == ["new", "old", "town"], f"{left} left after a kill {moment}"

    operations = count_operations(start_again, rebuild)
    rng = random.Random(0)
    # The last operations are the swap: take all of them, and a sample of those before.
    last = range(operations - 11, operations + 1)
    moments = sorted({*rng.sample(range(1, operations - 11), AT_OPERATIONS - 12), *last})
    killed = 0
    for n in moments:
        start_again()
        killed += run(lambda n=n: kill_before_operation(n))  # type: ignore[misc]
        check(f"before file operation {n} of {operations}")
    start_again()
    begun = time.perf_counter()
    rebuild()
    duration = time.perf_counter() - begun
    for _ in range(AT_TIMES):
        start_again()
        moment = rng.uniform(0, duration)
        killed += run(lambda moment=moment: kill_after(moment))  # type: ignore[misc]
        check(f"after {moment:.4f} s")
    sys.stdout.write(f"{killed} kills; {operations} file operations; {duration:.2f} s a build\n")
    return 0


def count_operations(start_again: Callable[[], None], rebuild: Callable[[], None]) -> int:
    """How many file operations a build makes, counted in a child: hooks cannot be removed."""
    start_again()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, args: object) -> None:
            nonlocal count
            count += event.startswith(FILE_EVENTS)

        sys.addaudithook(hook)
        rebuild()
        os.write(writing, str(count).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return int(pipe.read())


def kill_before_operation(n: int) -> None:
    left = n

    def hook(event: str, args: object) -> None:
        nonlocal left
        left -= event.startswith(FILE_EVENTS)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_after(seconds: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # whose default is to end the process
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
