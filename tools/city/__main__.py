"""Command line: ``python -m tools.city`` rebuilds the whole twin; see ``--help``."""

from __future__ import annotations

import argparse
import csv
import logging
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from . import plan
from .build import finish, pending, render_all
from .osm import load_city
from .textures import prepare, sign_names, write_signs

SETS = {
    "all": plan.everything,
    "shipped": lambda: [c for c in plan.everything() if c.role != "training"],
    "training": plan.training,
    "more-training": plan.more_training,
    "calibration": plan.calibration,
    "sample": plan.sample,
}


def run_shards(jobs: int) -> None:
    """Runs this same command in several processes, each with its share of the captures.

    Preparing a scene uses one thread only, so two processes keep two cores busier than two
    threads do.
    """
    command = [sys.executable, "-m", "tools.city", *sys.argv[1:]]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # they end with this process
    running = [subprocess.Popen([*command, "--shard", f"{i}/{jobs}"]) for i in range(jobs)]
    try:
        failed = [p.wait() for p in running]
    except KeyboardInterrupt:
        for p in running:
            p.terminate()
        raise
    if any(failed):
        raise SystemExit("a render process failed; run the same command again to resume")


def all_of(captures: list[plan.Capture]) -> list[plan.Capture]:
    """All that an output folder may hold: other sets rendered into it stay in its table.

    The sample's links are its own, as its references are some of the city's.
    """
    whole = plan.everything()
    return whole if set(captures) <= set(whole) else captures


def check_folder(out: Path, whole: list[plan.Capture]) -> None:
    """Stops where a table would be replaced that names pictures beside the whole of a set."""
    table = out / "places.csv"
    if not table.exists():
        return
    names = {c.image for c in whole}
    with table.open(newline="", encoding="utf-8") as file:
        others = [row["image"] for row in csv.DictReader(file) if row["image"] not in names]
    if others:
        raise SystemExit(f"{out} holds another set, with {others[0]}; choose another --out.")


def main() -> None:
    """Parses the arguments and builds, or only counts."""
    parser = argparse.ArgumentParser(prog="python -m tools.city", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("city_build"), help="output folder")
    parser.add_argument("--cache", type=Path, default=None, help="textures (default: OUT/.cache)")
    parser.add_argument("--set", choices=sorted(SETS), default="all", help="which captures")
    parser.add_argument("--jobs", type=int, default=2, help="render processes")
    parser.add_argument("--threads", type=int, default=1, help="render threads of each process")
    parser.add_argument("--shard", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help="stop after so many pictures")
    parser.add_argument("--tables", action="store_true", help="only write tables and sheets")
    parser.add_argument("--count", action="store_true", help="only say what would be rendered")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    captures = SETS[args.set]()
    if args.count:
        print(
            Counter((c.role, c.split) for c in captures),
            "pending",
            len(pending(args.out, captures)),
        )
        return
    cache = (args.cache or args.out / ".cache").resolve()
    part, parts = (int(n) for n in args.shard.split("/"))
    if parts > 1:
        render_all(args.out, captures, cache, args.threads, args.limit, (part, parts))
        return
    whole = all_of(captures)
    check_folder(args.out, whole)
    cache.mkdir(parents=True, exist_ok=True)
    if not args.tables and args.jobs > 1:
        # Before the processes start, so that no two paint the same file.
        prepare(cache)
        write_signs(cache / "signs.png", sign_names(load_city()))
        run_shards(args.jobs)
    elif not args.tables:
        render_all(args.out, captures, cache, args.threads, args.limit)
    finish(args.out, whole)


if __name__ == "__main__":
    main()
