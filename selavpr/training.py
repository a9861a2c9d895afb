"""The trainer: adapters, local head and GeM's p learn, the backbone stays as it is.

A run is a folder::

    recipe.json               what was asked for
    log.jsonl                 one line per step and per epoch
    curves.png                loss and recall
    tensorboard/              the same for TensorBoard
    checkpoint.safetensors    all that resuming needs; of a finished run, that it is done
    model/                    the best epoch, in the shipping format

All chance is drawn from (seed, epoch, step, photo), so a run that was stopped and resumed ends with
the same weights as one that was not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from selavpr import losses, mining, weights
from selavpr.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from selavpr.curves import draw_curves
from selavpr.errors import OptionError, PhotoError
from selavpr.evaluation import write_json
from selavpr.images import batches, preprocess, standardise
from selavpr.memory import Memory, Past
from selavpr.mining import Batch
from selavpr.model import Adapter, SelaVPR
from selavpr.recipes import Recipe, from_dict
from selavpr.structs import ASKING, Features
from selavpr.training_data import TrainingPhotos, View, Views, collate, read_training
from selavpr.validation import RERANKED, ValidationSet, read_validation, validate

RECIPE, LOG, CURVES, CHECKPOINT, MODEL = (
    "recipe.json", "log.jsonl", "curves.png", "checkpoint.safetensors", "model",
)  # fmt: skip

DESCRIBED = 64
"""Photos that mining describes in one pass."""

Report = Callable[[Mapping[str, Any]], None]
_GLOBAL: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "triplet": losses.triplet,
    "multi-similarity": losses.multi_similarity,
}
_LOCAL: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mutual": losses.mutual,
    "soft-count": losses.soft_count,
}


@dataclass
class _State:
    """Where a run is. The only mutable value of the package: a run is a change of state."""

    epoch: int = 0
    step: int = 0  # of the epoch
    updates: int = 0  # of the whole run
    best: float = -1.0
    waited: int = 0  # epochs since the best
    seconds: float = 0.0
    done: bool = False


def train(recipe: Recipe, folder: str | os.PathLike[str], report: Report | None = None) -> Path:
    """Train, or go on where a run in this folder stopped.

    Args:
        recipe: what to do.
        folder: of the run; made if it is not there.
        report: called after every step and epoch with what the log gets.

    Returns:
        The folder of the trained model.

    Raises:
        OptionError: the folder holds a run of another recipe or cannot be written, or the recipe
            names no usable photos.
        WeightsError: the model to start from cannot be loaded.
        PhotoError: a training photo cannot be read.
    """
    try:
        return _Run(recipe, Path(folder), report or _silent).go()
    except OSError as error:
        raise OptionError(
            f"Cannot go on with the run in {folder}: {error.strerror or error}; the same command "
            "goes on from the last checkpoint."
        ) from error


def prepare(recipe: Recipe, device: str | torch.device = "cpu") -> SelaVPR:
    """The model a run starts from: untrained adapters get random inputs and zero outputs.

    Raises:
        WeightsError: it cannot be loaded.
    """
    source = weights.load(recipe.model)
    config = dataclasses.replace(
        source.config,
        input_size=recipe.input_size,
        resize=recipe.resize,
        scoring=recipe.scoring,
        **(source.config.asking if recipe.scoring == "expected" else ASKING),
    )
    model = SelaVPR.from_weights(
        dataclasses.replace(source, config=config), device=device, precision=recipe.precision
    )
    chance = torch.Generator().manual_seed(recipe.seed)
    for module in model.modules():
        if isinstance(module, Adapter) and not module.down.weight.any():
            # As nn.Linear starts. A zero here, too, would have no gradient at all.
            bound = 1 / math.sqrt(module.down.in_features)
            for parameter in (module.down.weight, module.down.bias):
                with torch.no_grad():
                    drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=chance)
                    parameter.copy_(drawn)
    for name, parameter in model.named_parameters():
        if "_adapter." in name:
            parameter.requires_grad = recipe.adapters
        elif name.startswith("local_head."):
            parameter.requires_grad = recipe.local_head and recipe.local_loss != "none"
        elif name == "pool.p":
            parameter.requires_grad = recipe.adapters and recipe.global_loss != "none"
    return model


def batch_loss(
    features: Features, batch: Batch, recipe: Recipe, offset: int = 0, past: Past | None = None
) -> Tensor:
    """L = Lg + lambda * Ll of one batch (paper, eq. 11).

    Args:
        features: of the batch's photos, with ``local`` where the recipe has a local loss.
        batch: the masks.
        recipe: which losses.
        offset: first row and column of local descriptors to take, below ``local_stride``.
        past: descriptors of other batches, for the global loss.
    """
    device = features.descriptor.device
    same, different = (torch.from_numpy(m).to(device) for m in (batch.same, batch.different))
    total = features.descriptor.sum() * 0.0
    if recipe.global_loss != "none":
        everyone, alike, unlike = features.descriptor, same, different
        if past is not None:
            everyone = torch.cat([everyone, past.descriptors])
            alike, unlike = (
                torch.cat(both, 1) for both in ((same, past.same), (different, past.different))
            )
        total = total + _GLOBAL[recipe.global_loss](features.descriptor, alike, unlike, everyone)
    if recipe.local_loss != "none" and features.local is not None:
        step = recipe.local_stride
        local = features.local[:, offset % step :: step, offset // step % step :: step]
        value = _LOCAL[recipe.local_loss](local.flatten(1, 2), same, different)
        total = total + recipe.local_weight * value
    return total


class _Run:
    def __init__(self, recipe: Recipe, folder: Path, report: Report) -> None:
        self.recipe = recipe
        self.folder = folder
        self.report = report
        set_seed(recipe.seed)
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        if self.accelerator.is_main_process:
            self._check_folder()
        self.model = prepare(recipe, self.accelerator.device)
        self.photos: TrainingPhotos = read_training(
            recipe.data,
            recipe.where,
            positive_m=recipe.positive_m,
            positive_degrees=recipe.positive_degrees,
            negative_m=recipe.negative_m,
            mirror=recipe.mirror,
        )
        self.validation: ValidationSet | None = None
        if recipe.validation:
            self.validation = read_validation(recipe)
        self.trainable = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        self.optimizer = kind(
            list(self.trainable.values()),
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )
        # Batches that one update takes.
        self._share = int(self.accelerator.num_processes) * recipe.accumulate
        self.state = _State()
        self.history: list[dict[str, Any]] = []
        self.plan: list[Batch] = []
        self.memory = Memory.empty(self.model.config.width, self.accelerator.device)

    def go(self) -> Path:
        """Run all epochs that are left."""
        main = self.accelerator.is_main_process
        with self.accelerator.main_process_first():  # others must not meet a folder half-made
            self._open()
        if self.state.done:
            return self.folder / MODEL
        # DistributedDataParallel wraps it; what is saved and described is the network itself.
        wrapped, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        board = SummaryWriter(str(self.folder / "tensorboard")) if main else None
        started = time.monotonic() - self.state.seconds
        while self.state.epoch < self.recipe.epochs and not self.state.done:
            if not self.plan:
                self.plan = self._mine()
            for loss in self._epoch(wrapped, optimizer):
                self.state.seconds = time.monotonic() - started
                self._log({"loss": loss}, board)
                if self.state.updates % self.recipe.checkpoint_steps == 0:
                    self._save()
            self.state.seconds = time.monotonic() - started
            self._end_epoch(board)
            self._save()
        if board is not None:
            board.close()
        return self.folder / MODEL

    def _check_folder(self) -> None:
        """Refuse a folder of something else, before photos are read."""
        path = self.folder / RECIPE
        if path.exists():
            try:
                before = from_dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise OptionError(f"{path} cannot be read; choose another folder.") from error
            if before != self.recipe:
                raise OptionError(
                    f"{self.folder} holds a run of another recipe; choose another folder."
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise OptionError(
                f"{self.folder} is not empty and holds no run; choose another folder."
            )

    def _open(self) -> None:
        """Begin the folder, or take up what is in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECIPE, dataclasses.asdict(self.recipe))
        if (self.folder / CHECKPOINT).exists():
            self._restore(read_checkpoint(self.folder / CHECKPOINT))
        if self.accelerator.is_main_process:
            # Steps after the checkpoint are done, and logged, again.
            lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
            (self.folder / LOG).write_text(lines, encoding="utf-8")

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        trained = {n: p.detach().cpu() for n, p in self.trainable.items()}
        moments = {
            f"{name}.{key}": value.detach().cpu()
            for name, p in self.trainable.items()
            for key, value in self.optimizer.state.get(p, {}).items()
        }
        memory = {"rows": self.memory.rows, "descriptors": self.memory.descriptors.cpu()}
        about = {
            "state": dataclasses.asdict(self.state),
            "history": self.history,
            "photos": self.photos.fingerprint,
        }
        write_checkpoint(
            self.folder / CHECKPOINT, Checkpoint(trained, moments, tuple(self.plan), memory, about)
        )

    def _restore(self, saved: Checkpoint) -> None:
        self.state = _State(**saved.about["state"])
        self.history = saved.about["history"]
        # A run begun before this was kept has none.
        before = saved.about.get("photos", self.photos.fingerprint)
        if before != self.photos.fingerprint and not self.state.done:
            raise OptionError(
                f"The training photos are others than when the run in {self.folder} began, or in "
                "another order; bring them back, or choose another folder for a new run."
            )
        self.plan = list(saved.plan)
        if saved.memory:  # a run begun before there was one has none
            self.memory = Memory(
                saved.memory["rows"], saved.memory["descriptors"].to(self.accelerator.device)
            )
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(saved.trained[name])
        for name, parameter in self.trainable.items():
            prefix = f"{name}."
            moments = {
                k[len(prefix) :]: v for k, v in saved.moments.items() if k.startswith(prefix)
            }
            if moments:
                device = parameter.device
                self.optimizer.state[parameter] = {
                    # Adam keeps its count of steps on the CPU.
                    k: v if k == "step" else v.to(device)
                    for k, v in moments.items()
                }

    def _mine(self) -> list[Batch]:
        """The batches of an epoch."""
        recipe, town = self.recipe, self.photos.town
        rng = np.random.default_rng([recipe.seed, self.state.epoch])
        anchors, pool = mining.to_describe(town, recipe.mining, rng, recipe.mined, recipe.mined)
        described = None
        known = np.zeros(0, np.int64)
        if recipe.mining != "random":
            near = []
            # Whose positives are chosen by looks.
            if recipe.batches == "triplets" or np.isnan(town.heading).any():
                near = [np.nonzero(town.positives(int(i)))[0] for i in anchors]
            known = np.unique(np.concatenate([anchors, pool, *near]))
            described = self._describe(known)
        if recipe.batches == "triplets":
            examples = mining.triplets(town, anchors, pool, described, rng, recipe.negatives)
            plan = mining.triplet_batches(examples, recipe.triplets)
        else:
            passes = (
                mining.place_batches(town, recipe.places, recipe.views, rng, described, known)
                for _ in range(recipe.passes)
            )
            every = itertools.chain.from_iterable(passes)
            # No more than are taken: of half a million photos each batch takes a while to choose.
            plan = list(itertools.islice(every, recipe.steps * self._share or None))
        if len(plan) < self._share:
            raise OptionError(
                f"One step takes {self._share} batches, and the training photos give only "
                f"{len(plan)}: show more places, or take smaller batches."
            )
        return plan[: recipe.steps * self._share or None]

    @torch.inference_mode()
    def _describe(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """``[n, D]`` descriptors; only the chosen rows are filled."""
        self.model.eval()
        out = np.zeros((len(self.photos.paths), self.model.config.width), np.float32)

        def read(row: int) -> Tensor:
            return preprocess(self.photos.load(row), self.model.config)

        with ThreadPoolExecutor(max(1, self.recipe.workers)) as pool:
            for part in np.array_split(rows, max(1, len(rows) // DESCRIBED)):
                tensors = list(pool.map(read, part.tolist()))
                for group in batches([(t.shape[1], t.shape[2]) for t in tensors], DESCRIBED):
                    pixels = torch.stack([tensors[i] for i in group]).to(self.model.device)
                    with self._autocast():
                        features = self.model(pixels)
                    out[part[group]] = features.descriptor.cpu().numpy()
        return out

    def _autocast(self) -> torch.autocast:
        precision = self.model.precision
        return torch.autocast(
            self.accelerator.device.type, dtype=precision, enabled=precision != torch.float32
        )

    def _epoch(self, wrapped: nn.Module, optimizer: Any) -> Iterator[float]:
        recipe, state = self.recipe, self.state
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        # All processes take the same number of steps, or the last would wait for ever.
        usable = len(self.plan) - len(self.plan) % (ranks * recipe.accumulate)
        mine = self.plan[rank:usable:ranks]
        begin = state.step * recipe.accumulate
        keys = [
            self._views(batch, (begin + i) * ranks + rank) for i, batch in enumerate(mine[begin:])
        ]
        loader = DataLoader(
            Views(self.photos, recipe.augment, recipe.zoom),
            batch_sampler=keys,
            collate_fn=collate,
            num_workers=recipe.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.model.train()
        optimizer.zero_grad()
        total = 0.0
        for i, (pixels, batch) in enumerate(zip(loader, mine[begin:], strict=True), 1):
            if isinstance(pixels, PhotoError):
                raise pixels
            with self._autocast():
                seen = standardise(pixels.to(self.accelerator.device, non_blocking=True))
                features = wrapped(seen, local=recipe.local_loss != "none")
            past = self.memory.beside(batch, self.photos.town) if recipe.memory else None
            loss = batch_loss(features, batch, recipe, _offset(recipe, state.updates), past)
            if recipe.memory:
                self._remember(batch, features.descriptor)
            self.accelerator.backward(loss / recipe.accumulate)
            total += float(loss.detach()) / recipe.accumulate
            if i % recipe.accumulate:
                continue
            if recipe.clip:
                self.accelerator.clip_grad_norm_(list(self.trainable.values()), recipe.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, state.updates, self._updates())
            optimizer.step()
            optimizer.zero_grad()
            state.step += 1
            state.updates += 1
            yield total
            total = 0.0

    def _remember(self, batch: Batch, descriptors: Tensor) -> None:
        """Keep a batch's descriptors; of all processes, so that their memories stay the same."""
        rows = torch.from_numpy(batch.rows).to(descriptors.device)
        # Batches differ in size, and only equal ones can be gathered: -1 marks what was filled in.
        padded = self.accelerator.pad_across_processes(rows, pad_index=-1)
        filled = self.accelerator.pad_across_processes(descriptors.detach())
        rows, kept = self.accelerator.gather(padded), self.accelerator.gather(filled)
        self.memory = self.memory.after(rows[rows >= 0], kept[rows >= 0], self.recipe.memory)

    def _views(self, batch: Batch, number: int) -> list[View]:
        recipe, state = self.recipe, self.state
        shapes = recipe.shapes or ((recipe.input_size, recipe.input_size),)
        rng = np.random.default_rng([recipe.seed, state.epoch, number])
        size = shapes[int(rng.integers(len(shapes)))]
        return [
            View(int(row), (size[0], size[1]), (recipe.seed, state.epoch, number, slot))
            for slot, row in enumerate(batch.rows)
        ]

    def _updates(self) -> int:
        """Updates of the whole run, for the schedule: as many in every epoch as in this one."""
        return max(1, len(self.plan) // self._share) * self.recipe.epochs

    def _log(self, values: Mapping[str, Any], board: SummaryWriter | None) -> None:
        state = self.state
        entry = {
            "epoch": state.epoch,
            "update": state.updates,
            "updates": self._updates(),
            **values,
        }
        entry["seconds"] = round(state.seconds, 1)
        entry["left_s"] = round(
            state.seconds / max(state.updates, 1) * (self._updates() - state.updates)
        )
        if not self.accelerator.is_main_process:
            return
        self.history.append(entry)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if board is not None:
            for name, value in values.items():
                board.add_scalar(name, value, state.updates)
        self.report(entry)

    def _end_epoch(self, board: SummaryWriter | None) -> None:
        recipe, state = self.recipe, self.state
        better = True
        if self.validation is not None:
            self.model.eval()
            found = validate(self.model, self.validation)
            self._log(found, board)
            # R@1 settles ties of R@5, which is soon at its ceiling on an easy validation set.
            score = found["re-ranked R@5"] + found["re-ranked R@1"] / 1000
            better = score > state.best
            state.best = max(state.best, score)
        state.waited = 0 if better else state.waited + 1
        state.epoch, state.step, self.plan = state.epoch + 1, 0, []
        state.done = state.epoch >= recipe.epochs or state.waited >= recipe.patience
        if self.accelerator.is_main_process:
            draw_curves(self.history, self.folder / CURVES)
            if better:
                self._export()

    def _export(self) -> None:
        card = dict(self.model.card)
        card["training"] = {
            "recipe": dataclasses.asdict(self.recipe),
            "photos": int((~self.photos.mirrored).sum()),
            "updates": self.state.updates,
            "hours": round(self.state.seconds / 3600, 2),
        }
        recalls = [h for h in self.history if "re-ranked R@5" in h]
        card["recall"] = None
        if recalls and self.validation is not None:
            about = {
                "input_size": self.recipe.input_size,
                "scoring": self.recipe.scoring,
                "queries": len(self.validation.queries),
                "references": len(self.validation.database),
                "re-ranked": RERANKED,
            }
            card["recall"] = {"validation": {**about, **recalls[-1]}}
        source = dataclasses.replace(self.model.to_weights(), card=card)
        bundled = source.backbone_repo is None
        weights.save(source, self.folder / MODEL, with_backbone=bundled, dtype=torch.float16)


def learning_rate(recipe: Recipe, update: int, updates: int) -> float:
    """The rate of one update: a linear warm-up, then constant or half a cosine down to 1 %.

    Args:
        recipe: rate, warm-up and schedule.
        update: from 0.
        updates: of the whole run.
    """
    warm = min(1.0, (update + 1) / (recipe.warmup + 1))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warm
    done = max(0.0, update - recipe.warmup) / max(1, updates - recipe.warmup)
    return (
        recipe.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
    )


def _offset(recipe: Recipe, update: int) -> int:
    """Which of the sparse grids of local descriptors an update looks at.

    All in turn, so that every part of the up-convolutions learns; but every other time the tokens'
    centres where re-ranking looks nowhere else.
    """
    if recipe.scoring == "expected":
        return 0 if update % 2 == 0 else update // 2
    return update


def _silent(entry: Mapping[str, Any]) -> None:
    """Report nothing."""
