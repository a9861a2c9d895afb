"""What each part of the training recipe is worth: one run a variant, all measured alike.

    python -m tools.start_weights BACKBONE PHOTOS --out START      # where every variant sets out
    python -m benchmarks.ablation START --updates 120 [--photos FOLDER [--queries N]]
        [--variants ...] [--recipe recipes/city.toml] [--work runs/ablation] [--json OUT]

Every variant is trained by the recipe with the changes named below, for the same number of updates,
and asked the recipe's validation queries, and the photo sets of ``benchmarks.baselines`` where
``--photos`` has them: R@1 within 25 m (same place where there are no positions) of the global stage
and after re-ranking its first 20. Training and figures are kept in ``--work``: a stopped run goes
on, and a variant can be added later.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import baselines
from benchmarks.matchers import Ours
from selavpr import SelaVPR, training
from selavpr.errors import OptionError
from selavpr.evaluation import table, write_json
from selavpr.recipes import Recipe, from_dict, read_recipe
from selavpr.validation import read_validation, validate
from selavpr.weights import digest

UNTRAINED = "no adapters"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    UNTRAINED: {},
    "global adapters only": {"local_head": False, "local_loss": "none"},
    "local head only": {"adapters": False, "global_loss": "none"},
    "best recipe": {},
    "without augmentation": {"augment": 0.0},
    "without mining": {"mining": "random"},
    "without memory": {"memory": 0},
    "counted, not expected": {"scoring": "count"},
    "triplet for multi-similarity": {"global_loss": "triplet"},
    "mutual for soft-count": {"local_loss": "mutual", "scoring": "count"},
    "paper's losses": {
        "global_loss": "triplet", "local_loss": "mutual", "scoring": "count", "memory": 0,
    },
    "paper's losses and batches": {
        "global_loss": "triplet", "local_loss": "mutual", "scoring": "count", "memory": 0,
        "batches": "triplets",
    },
    "paper's recipe": {"paper": True},
}  # fmt: skip
"""Changes to the recipe. ``paper`` takes recipes/paper.toml, with this recipe's data."""

PAPER = Path(__file__).parent.parent / "recipes" / "paper.toml"
EPOCHS = 2
"""Rounds of mining, however few the updates are: the second mines with what the first learned."""
CANDIDATES = 20


def recipe_of(name: str, base: Recipe, start: Path, updates: int) -> Recipe:
    """The recipe of a variant."""
    changes = dict(VARIANTS[name])
    if changes.pop("paper", False):
        data = {
            field: value
            for field, value in dataclasses.asdict(base).items()
            if field in ("data", "where", "seed") or field.startswith("validation")
        }
        base = from_dict({**dataclasses.asdict(read_recipe(PAPER)), **data})
    return dataclasses.replace(
        base,
        **changes,
        model=str(start),
        epochs=EPOCHS,
        steps=-(-updates // EPOCHS),
        patience=EPOCHS,
    )


def trained(name: str, recipe: Recipe, run: Path) -> SelaVPR:
    """The model a variant ends with; not the best epoch's, so that all had as many updates."""
    if name == UNTRAINED:
        return training.prepare(recipe, "auto").eval()
    bar = tqdm(desc=name, total=recipe.epochs * recipe.steps, unit="update")

    def show(entry: Mapping[str, Any]) -> None:
        bar.total = entry["updates"]
        bar.update(entry["update"] - bar.n)

    folder = training.train(dataclasses.replace(recipe, validation=""), run, show)
    bar.close()
    return SelaVPR.from_pretrained(str(folder), precision="float32")


def resized(model: SelaVPR, size: int) -> SelaVPR:
    """The same weights for photos of another size."""
    source = model.to_weights()
    config = dataclasses.replace(source.config, input_size=size)
    return SelaVPR.from_weights(dataclasses.replace(source, config=config), precision="float32")


def measure(
    model: SelaVPR, recipe: Recipe, photos: Path | None, queries: int, work: Path
) -> dict[str, list[str]]:
    """R@1 in percent before and after re-ranking, by set; of ``queries`` of each set, 0 for all."""
    found = validate(model, read_validation(recipe))
    cells = {"validation": [f"{100 * found[f'{x} R@1']:.1f}" for x in ("global", "re-ranked")]}
    if photos is None:
        return cells
    for name in baselines.SETS:
        if not baselines.is_there(name, photos, None):
            continue
        task = baselines.trial(name, photos, None, queries)
        lists, _ = baselines.global_lists(model, task, CANDIDATES, work)
        about = {"model": model.fingerprint(), "precision": str(model.precision)}
        ordered, *_ = baselines.rerank("ours", Ours(model), task, lists, work, about)
        cells[name] = [
            baselines.main_recall(baselines.recalls(task, ranked)) for ranked in (lists, ordered)
        ]
    return cells


def main() -> None:
    """Train and measure what is asked for, and print the table so far."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("start", type=Path, help="folder of the model that every variant starts from")
    add("--recipe", type=Path, default=PAPER.with_name("city.toml"))
    add("--updates", type=int, default=120, help="of every variant (default 120)")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--photos", type=Path, help="folder of photo sets, see benchmarks.baselines")
    add(
        "--queries",
        type=int,
        default=0,
        metavar="N",
        help="of each photo set, by lot (default all)",
    )
    add("--input-size", type=int, help="measure at this size (default: the recipe's)")
    add("--work", type=Path, default=Path("runs/ablation"))
    add("--json", type=Path)
    args = parser.parse_args()
    base = read_recipe(args.recipe)
    if not base.validation:
        raise OptionError(f"{args.recipe} names no validation photos to measure on.")
    args.work.mkdir(parents=True, exist_ok=True)
    first = SelaVPR.from_pretrained(args.start, device="cpu").fingerprint()
    report: dict[str, Any] = {}
    for name in args.variants:
        recipe = recipe_of(name, base, args.start, args.updates)
        # Another start, recipe or set of photos gets figures of its own.
        key = digest([dataclasses.asdict(recipe), first, str(args.photos)]).partition(":")[2][:8]
        run = args.work / f"{name.replace(' ', '-')}-{args.updates}-{key}"
        kept = args.work / f"{run.name}-{args.input_size or recipe.input_size}-{args.queries}.json"
        if not kept.is_file():
            model = trained(name, recipe, run)
            if args.input_size:
                model = resized(model, args.input_size)
            write_json(kept, measure(model, recipe, args.photos, args.queries, args.work / "pairs"))
        report[name] = json.loads(kept.read_text(encoding="utf-8"))
        columns = list(report[name])
        rows = [[n, *(f"{a} / {b}" for a, b in r.values())] for n, r in report.items()]
        print(table(["global / re-ranked R@1, %", *columns], rows), flush=True)
    if args.json:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
