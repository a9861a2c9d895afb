"""Damage well-formed files in every way and see what the code that reads them makes of it.

    python -m tools.fuzz --minutes 60 --seed 1
    python -m tools.fuzz --minutes 2 --seed 7 --target images --target index
    python -m tools.fuzz --replay fuzz-findings/images-1-512

Only ``SelaVPRError`` may come out, with one line of text. Anything else, a dead process, more than
10 s of processor time or 2 GB of memory is a finding: its files and what happened are kept in a
folder, and the exit code is 1. The same seed gives the same cases; how many depends on the time.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faiss
import torch

from tools.fuzz.mutation import Files
from tools.fuzz.targets import TARGETS
from tools.fuzz.watch import Outcome, watched, write

TURN_S = 10.0
"""How long one target is fuzzed before the next one; each turn has a process of its own."""

KEPT = 3
"""Findings kept of one cause; more are only counted."""


def fuzz(names: list[str], seed: int, minutes: float, cases: int | None, out: Path) -> int:
    """Fuzz targets in turn, all for the same time; returns how many causes were found.

    Args:
        names: of targets.
        seed: of all chance.
        minutes: for all together.
        cases: of each target at most.
        out: folder for findings.
    """
    numbers = dict.fromkeys(names, 0)
    tallies: dict[str, Counter[str]] = {name: Counter() for name in names}
    causes: Counter[tuple[str, str, str]] = Counter()
    for name in names:
        began = time.monotonic()
        count = len(TARGETS[name].seeds)
        print(f"{name}: {count} seeds in {time.monotonic() - began:.1f} s", flush=True)
    until = time.monotonic() + 60 * minutes
    open_ended = cases or sys.maxsize
    for name in itertools.cycle(names):
        left = until - time.monotonic()
        if left <= 0 or min(numbers.values()) >= open_ended:
            break
        turn = min(TURN_S, left, 60 * minutes / len(names))
        for found in watched(
            TARGETS[name].run, _cases(name, seed, numbers[name], open_ended), turn
        ):
            numbers[name] = max(numbers[name], found.number + 1)
            tallies[name][found.kind] += 1
            if found.is_finding:
                cause = (name, found.kind, found.signature)
                causes[cause] += 1
                if causes[cause] <= KEPT:
                    _keep(name, seed, found, out)
    for name in names:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tallies[name].items()))
        print(f"{name:<12} {sum(tallies[name].values()):>9,} cases: {kinds}")
    for (name, kind, signature), count in causes.most_common():
        print(f"FOUND {name}: {kind} {signature}, {count} times")
    print(f"{sum(numbers.values()):,} cases, {len(causes)} causes of findings")
    return len(causes)


def _cases(name: str, seed: int, start: int, stop: int) -> Iterator[tuple[int, Files]]:
    for number in range(start, stop):
        yield number, TARGETS[name].case(name, seed, number)


def _keep(name: str, seed: int, found: Outcome, out: Path) -> None:
    folder = out / f"{name}-{seed}-{found.number}"
    print(f"found {folder}: {found.kind} {found.signature}", flush=True)
    if found.number < 0 or folder.exists():
        return
    write(TARGETS[name].case(name, seed, found.number), folder / "files")
    (folder / "finding.txt").write_text(f"{found.kind}\n{found.details}\n", encoding="utf-8")


def replay(folder: Path) -> int:
    """Run a finding again; 1 when it still is one."""
    name = folder.name.split("-")[0]
    files = {
        path.relative_to(folder / "files").as_posix(): path.read_bytes()
        for path in sorted((folder / "files").rglob("*"))
        if path.is_file()
    }
    found = next(watched(TARGETS[name].run, [(0, files)], 0.0))
    print(f"{found.kind} {found.signature}\n{found.details}".strip())
    return int(found.is_finding)


def main() -> int:
    """Fuzz or replay; 1 after a finding."""
    parser = argparse.ArgumentParser(prog="tools.fuzz", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=60.0, help="all targets together (default %(default)s)")
    add("--cases", type=int, help="of each target at most (default: as many as there is time for)")
    add("--seed", type=int, default=1)
    add("--target", action="append", choices=sorted(TARGETS), help="default: all")
    add("--out", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    add("--replay", type=Path, action="append", metavar="FOLDER", help="of a finding")
    args = parser.parse_args()
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if args.replay:
        return max(replay(folder) for folder in args.replay)
    names = args.target or list(TARGETS)
    return int(fuzz(names, args.seed, args.minutes, args.cases, args.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
