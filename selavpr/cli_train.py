"""The ``train`` command: adapters for your own city, from photos with positions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selavpr.errors import OptionError
from selavpr.recipes import read_recipe
from selavpr.terminal import INTERRUPTED, Parsers


def train(args: argparse.Namespace) -> int:
    """Train adapters by a recipe."""
    changes: dict[str, Any] = {}
    if args.data:
        changes["data"] = args.data
    if args.validation:
        changes |= {
            "validation": args.validation,
            "validation_queries": {},
            "validation_database": {},
        }
    if args.epochs is not None:
        changes["epochs"] = args.epochs
    recipe = read_recipe(args.recipe, **changes)
    try:
        from selavpr import training  # noqa: PLC0415 - needs packages that only training needs
    except ModuleNotFoundError as error:
        raise OptionError(
            f"Training needs {error.name}; install it with `pip install -r requirements-train.txt`."
        ) from error
    with tqdm(unit="step", disable=args.quiet, dynamic_ncols=True) as bar:

        def report(entry: Mapping[str, Any]) -> None:
            recall = {name: value for name, value in entry.items() if "R@" in name}
            if recall:
                shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in recall.items())
                bar.write(f"epoch {entry['epoch'] + 1}: {shown}", file=sys.stdout)
            else:
                bar.total = entry["updates"]
                bar.set_postfix(loss=f"{entry['loss']:.3f}", epoch=entry["epoch"] + 1)
                bar.update(entry["update"] - bar.n)

        try:
            folder = training.train(recipe, args.out, report)
        except KeyboardInterrupt:
            print("selavpr: stopped; the same command goes on from here.", file=sys.stderr)
            return INTERRUPTED
    print(f"Wrote {folder}; see {args.out / training.CURVES}.")
    return 0


def add_train(commands: Parsers) -> None:
    """Declare ``train``."""
    parser = commands.add_parser(
        "train",
        help="train adapters on photos with positions",
        description="Train adapters and local head on photos with positions; the backbone stays "
        "as it is. A run that was stopped goes on when the same command is given again. Several "
        "GPUs: `accelerate launch -m selavpr train ...`.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="RUN", help="folder of the run, to make or to resume")
    add("--config", dest="recipe", type=Path, required=True, metavar="RECIPE.toml",
        help="what to do; see recipes/")  # fmt: skip
    add("--data", action="append", metavar="SOURCE", help="train on these photos instead of the "
        "recipe's; may be repeated")  # fmt: skip
    add("--validation", metavar="SOURCE", help="choose the best epoch, and stop, by the recall on "
        "these photos: a benchmark's folder, or a table whose column role says query or "
        "reference")  # fmt: skip
    add("--epochs", type=int, metavar="N", help="instead of the recipe's")
    add("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=train)
