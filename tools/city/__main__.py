"""Command line: ``python -m tools.city`` rebuilds the whole twin; see ``--help``."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from pathlib import Path

from . import plan
from .build import finish, pending, render_all

SETS = {
    "all": plan.everything,
    "shipped": lambda: [c for c in plan.everything() if c.role != "training"],
    "training": plan.training,
    "sample": plan.sample,
}


def main() -> None:
    """Parses the arguments and builds, or only counts."""
    parser = argparse.ArgumentParser(prog="python -m tools.city", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("city_build"), help="output folder")
    parser.add_argument("--cache", type=Path, default=None, help="textures (default: OUT/.cache)")
    parser.add_argument("--set", choices=sorted(SETS), default="all", help="which captures")
    parser.add_argument("--threads", type=int, default=2, help="render threads")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many pictures")
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
    cache = args.cache or args.out / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    render_all(args.out, captures, cache.resolve(), args.threads, args.limit)
    finish(args.out, captures)


if __name__ == "__main__":
    main()
