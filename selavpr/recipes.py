"""Training recipes: every choice of a training run in one validated value, read from TOML.

``recipes/paper.toml`` is the reference implementation's; ``recipes/city.toml`` and ``city-2.toml``
to ``city-4.toml`` are the four rounds of the shipped model.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from selavpr.errors import OptionError
from selavpr.mining import Mining
from selavpr.structs import PATCH, Resize, Scoring, is_number

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GlobalLoss = Literal["triplet", "multi-similarity", "none"]
LocalLoss = Literal["mutual", "soft-count", "none"]
Batches = Literal["triplets", "places"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the reference implementation's; a reason stands elsewhere.

    Raises:
        OptionError: a field is outside its domain.
    """

    data: tuple[str, ...] = ()  # folders or tables of training photos (see training_data)
    where: Mapping[str, str] = field(default_factory=dict)  # rows of tables to take
    validation: str = ""  # folder or table with queries and database photos; empty for none
    validation_queries: Mapping[str, str] = field(default_factory=dict)  # rows, if a table
    validation_database: Mapping[str, str] = field(default_factory=dict)
    validation_limit: int = 200  # queries, drawn at random: enough to choose an epoch by

    model: str = "vit-s-focus"  # what to start from
    input_size: int = 224
    resize: Resize = "squash"
    shapes: tuple[tuple[int, int], ...] = ()  # (width, height) to train at; () is the input size
    scoring: Scoring = "count"  # how the model is to re-rank, in validation and ever after
    adapters: bool = True  # train them, or leave them zero
    local_head: bool = True

    global_loss: GlobalLoss = "triplet"
    local_loss: LocalLoss = "mutual"
    local_weight: float = 1.0  # lambda (paper, eq. 11)
    local_stride: int = 1  # every n-th row and column of local descriptors enters the loss

    batches: Batches = "triplets"
    positive_m: float = 10.0
    positive_degrees: float = 180.0  # headings may differ by this much; 180: by any
    negative_m: float = 25.0
    mining: Mining = "partial"
    mined: int = 1000  # queries, and as many references, described for each round
    triplets: int = 4  # in a batch
    negatives: int = 2  # of each triplet
    places: int = 8  # in a batch of places
    views: int = 4  # of each place
    memory: int = 0  # photos of past batches that join the global loss (see memory)

    epochs: int = 250  # rounds of mining; the reference has five of them to an epoch
    passes: int = 1  # times an epoch goes through what was mined, in other batches (of places)
    steps: int = 0  # per epoch at most; 0 for all that was mined
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup: int = 0  # steps
    clip: float = 0.0  # largest norm of the gradient; 0 for any
    accumulate: int = 1  # batches per step
    augment: float = 0.0  # strength of the augmentation
    zoom: float = 0.0  # share of the sides it may cut off at least, if there is any
    mirror: bool = False  # learn from the mirrored town, too
    patience: int = 15  # epochs without a better re-ranked R@5
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int = 0  # processes that read photos
    checkpoint_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field once."""
        hints = get_type_hints(Recipe)
        for name, kind in hints.items():
            value = getattr(self, name)
            choices = get_args(kind) if getattr(kind, "__origin__", None) is Literal else ()
            if choices and value not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
            whole = kind is int and (isinstance(value, bool) or not isinstance(value, int))
            if (
                whole
                or (kind in (int, float) and not is_number(value))
                or (kind in (int, float) and value < 0)
            ):
                raise OptionError(f"{name} must be a number of 0 or more, not {value!r}.")
            if (kind is bool or kind is str) and not isinstance(value, kind):
                raise OptionError(f"{name} must be of type {kind.__name__}, not {value!r}.")
        for name in ("local_stride", "triplets", "negatives", "places", "views", "epochs",
                     "accumulate", "checkpoint_steps", "mined", "passes", "patience",
                     "validation_limit"):  # fmt: skip
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more.")
        for shape in self.shapes:
            if len(shape) != 2 or any(
                not isinstance(s, int) or s < PATCH or s % PATCH for s in shape
            ):
                raise OptionError(f"A shape is [width, height] in multiples of {PATCH}: {shape!r}.")
        if self.global_loss == "none" and self.local_loss == "none":
            raise OptionError("A recipe needs a global or a local loss.")
        if not self.adapters and (not self.local_head or self.local_loss == "none"):
            raise OptionError(
                "There is nothing to train: set adapters to true, or local_head and a local_loss."
            )
        if self.batches == "places" and self.views < 2:
            raise OptionError("views must be 2 or more: a place is learnt from several photos.")
        if self.batches == "places" and self.places < 2 and not self.memory:
            raise OptionError("places must be 2 or more, or there are no strangers in a batch.")
        if self.zoom >= 1:
            raise OptionError(f"zoom must be below 1, or nothing is left, not {self.zoom!r}.")
        if self.learning_rate <= 0:
            raise OptionError("learning_rate must be above 0.")
        if self.seed >= 1 << 32:
            raise OptionError(f"seed must be below {1 << 32}, not {self.seed}.")


def read_recipe(path: str | os.PathLike[str], **changes: Any) -> Recipe:
    """Read a recipe; paths in it are relative to the current folder.

    Args:
        path: a TOML file whose keys are the fields of ``Recipe``.
        **changes: fields to replace.

    Raises:
        OptionError: no such file, not TOML, an unknown key, or a value outside its domain.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    # Beside TOMLDecodeError, numbers of thousands of digits and lists without end.
    except (ValueError, RecursionError) as error:
        raise OptionError(f"The recipe {path} is not valid TOML: {error}.") from error
    return from_dict({**values, **changes})


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as ``dataclasses.asdict`` or TOML give them.

    Raises:
        OptionError: an unknown key, or a value outside its domain.
    """
    known = {f.name for f in dataclasses.fields(Recipe)}
    if unknown := sorted(set(values) - known):
        raise OptionError(f"Unknown in a recipe: {', '.join(unknown)}; there are {_list(known)}.")
    made = dict(values)
    if isinstance(made.get("data"), str):
        made["data"] = [made["data"]]
    try:
        made["data"] = tuple(str(path) for path in made.get("data", ()))
        made["shapes"] = tuple(tuple(shape) for shape in made.get("shapes", ()))
        for name in ("where", "validation_queries", "validation_database"):
            made[name] = {str(k): str(v) for k, v in made.get(name, {}).items()}
    except (TypeError, AttributeError) as error:
        raise OptionError(f"A list or table in the recipe has another form: {error}.") from error
    return Recipe(**made)


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))
