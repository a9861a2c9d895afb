"""The trainer on a toy town: the paper's formulas step by step, resuming, what may change."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from selavpr import ModelConfig, SelaVPR, cli, losses, mining, training, weights
from selavpr.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from selavpr.errors import OptionError, PhotoError
from selavpr.geo import Location
from selavpr.images import load_image, preprocess
from selavpr.layouts import read_benchmark
from selavpr.memory import Memory
from selavpr.mining import Batch
from selavpr.recipes import Recipe, from_dict, read_recipe
from selavpr.structs import Features
from selavpr.training import CHECKPOINT, LOG, MODEL, learning_rate, prepare, train
from selavpr.training_data import read_training
from selavpr.validation import read_validation
from tests.test_losses import naive_similarity

TINY = ModelConfig(width=32, depth=2, heads=4, local_hidden=16, local_dim=8, input_size=28)
PLACES, VIEWS = 6, 3


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose adapters are untrained, as the first bundled one was."""
    torch.manual_seed(0)
    model = SelaVPR(TINY)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_adapter." in name:
                parameter.zero_()
    folder = tmp_path_factory.mktemp("start") / "model"
    return weights.save(model.to_weights(), folder, with_backbone=True)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six places 111 m apart, each with a picture of its own and three noisy views of it."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(0)
    with (folder / "places.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "latitude", "longitude", "heading", "part"])
        for place in range(PLACES):
            scene = rng.uniform(0, 255, (7, 7, 3)).repeat(6, 0).repeat(6, 1)
            for view in range(VIEWS):
                pixels = np.clip(scene + rng.normal(0, 25, scene.shape), 0, 255).astype(np.uint8)
                name = f"p{place}v{view}.png"
                Image.fromarray(pixels).save(folder / name)
                part = ("database", "query", "query")[view]
                table.writerow([name, 60 + place / 1000, 24 + view / 1e6, 0, part])
    return folder


def recipe_of(start: Path, town: Path, **changes: Any) -> Recipe:
    paper = dict(model=str(start), data=[str(town)], input_size=28, epochs=2, triplets=2)
    return from_dict({**paper, "learning_rate": 1e-3, "checkpoint_steps": 1, **changes})


def losses_of(run: Path) -> list[float]:
    entries = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return [e["loss"] for e in entries if "loss" in e]


def trained(run: Path) -> Mapping[str, torch.Tensor]:
    return read_checkpoint(run / CHECKPOINT).trained


def test_the_papers_recipe_step_by_step(start: Path, town: Path, tmp_path: Path) -> None:
    """Two epochs of it against the formulas written out with the same triplets.

    The triplets come from the run's own checkpoint; features, losses, Adam and averages are
    written anew here.
    """
    recipe = recipe_of(start, town, epochs=1, checkpoint_steps=1)
    plans = []
    seen: list[Mapping[str, Any]] = []

    def watch(entry: Mapping[str, Any]) -> None:
        seen.append(entry)

    def stop(entry: Mapping[str, Any]) -> None:
        if entry["update"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", stop)
    plans = read_checkpoint(tmp_path / "run" / CHECKPOINT).plan
    train(recipe, tmp_path / "again", watch)
    got = [e["loss"] for e in seen if "loss" in e]
    assert len(got) == len(plans) >= 4

    model = prepare(recipe)
    files = read_training(recipe.data, {}, positive_m=10, positive_degrees=40, negative_m=25).paths
    config = dataclasses.replace(TINY, antialias=True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for batch, expected in zip(plans, got, strict=True):
        x = torch.stack([preprocess(load_image(files[i]), config) for i in batch.rows])
        features = model(x, local=True)
        assert features.local is not None
        total = torch.zeros(())
        examples = len(batch.rows) // 4
        for first in range(0, len(batch.rows), 4):  # query, positive, two negatives
            g, d = features.descriptor[first : first + 4], features.local[first : first + 4]
            d = d.flatten(1, 2)
            for n in (2, 3):
                near, far = (
                    F.pairwise_distance(g[:1], g[1:2]),
                    F.pairwise_distance(g[:1], g[n : n + 1]),
                )
                total = total + torch.clamp(near - far + 0.1, min=0).sum()
                simp, simn = naive_similarity(d[0], d[1]), naive_similarity(d[0], d[n])
                total = total + torch.clamp(simn - simp, min=0)
        loss = total / (examples * 2)
        assert float(loss.detach()) == pytest.approx(expected, abs=2e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


PLACES_RECIPE = dict(
    batches="places", places=3, views=3, global_loss="multi-similarity", local_loss="soft-count",
    local_stride=2, optimizer="adamw", schedule="cosine", warmup=2, clip=1.0, augment=1.0,
    shapes=[[28, 42], [42, 28]], mining="partial",
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        PLACES_RECIPE,
        {**PLACES_RECIPE, "accumulate": 2},
        {**PLACES_RECIPE, "memory": 12},
    ],
)
@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_stopped_run_ends_with_the_same_weights(
    start: Path, town: Path, tmp_path: Path, changes: dict[str, Any], stop_at: int
) -> None:
    recipe = recipe_of(start, town, epochs=3, **changes)
    train(recipe, tmp_path / "whole")

    def stop(entry: Mapping[str, Any]) -> None:
        if entry["update"] == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", stop)
    train(recipe, tmp_path / "broken")
    whole, broken = trained(tmp_path / "whole"), trained(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")


def test_learns_the_town_and_leaves_the_backbone_alone(
    start: Path, town: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(
        start, town, **{**PLACES_RECIPE, "augment": 0.0, "shapes": [], "learning_rate": 1e-2},
        validation=str(town), validation_queries={"part": "query"},
        validation_database={"part": "database"}, patience=99,
    )  # fmt: skip
    recipe = dataclasses.replace(recipe, epochs=20)
    folder = train(recipe, tmp_path / "run")
    losses = losses_of(tmp_path / "run")
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])  # batches differ in difficulty
    before, after = weights.load(start), weights.load(folder)
    assert all(torch.equal(before.backbone[n].half(), x.half()) for n, x in after.backbone.items())
    changed = [n for n, x in after.trained.items() if not torch.equal(x, before.trained[n].half())]
    assert any("_adapter." in n for n in changed) and any("local_head" in n for n in changed)
    assert after.card["training"]["updates"] > 0
    assert 0 <= after.card["recall"]["validation"]["re-ranked R@5"] <= 1
    assert after.config.input_size == 28
    SelaVPR.from_pretrained(folder, device="cpu")
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.size == (880, 660)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"adapters": False}, "_adapter."),
        ({"local_head": False}, "local_head."),
        ({"local_loss": "none"}, "local_head."),
    ],
)
def test_ablations_train_only_their_part(start: Path, changes: dict[str, Any], still: str) -> None:
    model = prepare(from_dict({"model": str(start), "input_size": 28, **changes}))
    for name, parameter in model.named_parameters():
        if still in name:
            assert not parameter.requires_grad
    assert any(p.requires_grad for p in model.parameters())
    assert not any(
        p.requires_grad
        for n, p in model.named_parameters()
        if not n.startswith(("local_head.", "pool.")) and "_adapter." not in n
    )


@pytest.mark.parametrize("changes", [{"adapters": False}, {"local_head": False}])
def test_what_stays_as_it_was_is_saved_too(
    start: Path, town: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    soft = {"global_loss": "multi-similarity", "local_loss": "soft-count"}  # never quite nothing
    batch = {"batches": "places", "places": 3, "views": 2}
    recipe = recipe_of(start, town, epochs=1, **soft, **batch, **changes)
    before = prepare(recipe).to_weights().trained
    after = SelaVPR.from_pretrained(str(train(recipe, tmp_path / "run"))).to_weights().trained
    assert set(after) == set(before)
    kept = "_adapter." if "adapters" in changes else "local_head."
    for name, tensor in after.items():
        if kept in name:
            assert torch.equal(tensor, before[name].half().float())
    assert any(not torch.equal(after[name], before[name].half().float()) for name in after)


def test_untrained_adapters_start_as_the_zero_function_but_can_learn(start: Path) -> None:
    model = prepare(from_dict({"model": str(start), "input_size": 28}))
    x = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model(x).tokens, model(x, adapted=False).tokens)
    assert model.backbone.blocks[0].attn_adapter.down.weight.any()


def test_early_stop(start: Path, town: Path, tmp_path: Path) -> None:
    """A learning rate of next to nothing improves nothing after the first epoch."""
    recipe = recipe_of(
        start, town, epochs=9, patience=2, learning_rate=1e-12, mining="random",
        validation=str(town), validation_queries={"part": "query"},
        validation_database={"part": "database"},
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert max(epochs) == 2
    before = (tmp_path / "run" / LOG).read_bytes()
    assert train(recipe, tmp_path / "run") == tmp_path / "run" / MODEL  # it is done
    assert (tmp_path / "run" / LOG).read_bytes() == before


def test_learning_rate() -> None:
    flat = from_dict({"learning_rate": 1.0, "warmup": 3})
    assert [learning_rate(flat, i, 9) for i in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    wave = from_dict({"learning_rate": 1.0, "schedule": "cosine"})
    assert learning_rate(wave, 0, 10) == 1.0
    assert learning_rate(wave, 5, 10) == pytest.approx(0.505)
    assert learning_rate(wave, 10, 10) == pytest.approx(0.01)


def test_another_recipe_in_the_same_folder(start: Path, town: Path, tmp_path: Path) -> None:
    recipe = recipe_of(start, town, epochs=1)
    train(recipe, tmp_path / "run")
    with pytest.raises(OptionError, match="another recipe"):
        train(dataclasses.replace(recipe, seed=1), tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="not empty"):
        train(recipe, tmp_path / "full")


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rte": 1.0}, {"learning_rate": 0.0}, {"learning_rate": "fast"}, {"epochs": 0},
        {"zoom": 1.0}, {"epochs": 1.5}, {"epochs": True}, {"clip": -1.0}, {"clip": float("nan")},
        {"global_loss": "magic"}, {"global_loss": "none", "local_loss": "none"},
        {"adapters": False, "local_head": False}, {"adapters": False, "local_loss": "none"},
        {"adapters": "no"}, {"shapes": [[28, 30]]},
        {"shapes": [28]}, {"shapes": [[28]]}, {"where": "x"}, {"model": 3}, {"mining": "best"},
        {"patience": 0}, {"validation_limit": 0}, {"seed": 1 << 32},
        {"batches": "places", "views": 1}, {"batches": "places", "places": 1},
    ],
)  # fmt: skip
def test_bad_recipes(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        from_dict(values)


def test_recipes_as_files(tmp_path: Path) -> None:
    recipe = from_dict({"data": "a", "shapes": [[28, 42]], "where": {"part": "train"}})
    assert recipe.data == ("a",)
    assert from_dict(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    path = tmp_path / "r.toml"
    path.write_text('data = ["x", "y"]\nlearning_rate = 1e-4\nshapes = [[28, 42]]\n')
    assert read_recipe(path, epochs=7).epochs == 7
    for text in ("data = ", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(OptionError, match="not valid TOML"):
            read_recipe(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_recipe(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", ["paper.toml", "city.toml", "city-2.toml", "city-3.toml"])
def test_shipped_recipes_are_valid(name: str) -> None:
    read_recipe(Path(__file__).parent.parent / "recipes" / name)


def test_the_papers_recipe_is_the_default() -> None:
    shipped = read_recipe(Path(__file__).parent.parent / "recipes" / "paper.toml")
    same = Recipe(model=shipped.model, data=shipped.data)
    paths = ("validation", "validation_queries", "validation_database", "where")
    for field in dataclasses.fields(Recipe):
        if field.name not in paths:
            assert getattr(shipped, field.name) == getattr(same, field.name), field.name


def test_a_folder_that_cannot_be_made(start: Path, town: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="Cannot go on with the run in"):
        train(recipe_of(start, town), tmp_path / "file" / "run")


def test_a_step_is_a_step_however_many_processes(
    start: Path, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two processes takes a batch for every step, and none is left without."""
    monkeypatch.setattr(training.Accelerator, "num_processes", property(lambda self: 2))
    run = training._Run(recipe_of(start, town, steps=1), tmp_path / "run", lambda entry: None)
    assert len(run._mine()) == 2


def test_two_processes_learn_what_one_learns_from_twice_the_batches(
    start: Path, town: Path, tmp_path: Path
) -> None:
    """Launched as for two GPUs, on the CPU; rank 1's half of the batches counts, too."""
    recipe = recipe_of(start, town, epochs=1, mining="random", steps=2, accumulate=2)
    train(recipe, tmp_path / "one")
    written = tmp_path / "two.toml"
    written.write_text(
        f'model = "{start}"\ndata = "{town}"\ninput_size = 28\nepochs = 1\nmining = "random"\n'
        "steps = 2\ntriplets = 2\nlearning_rate = 1e-3\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0"]  # fmt: skip
    run = ["-m", "selavpr", "train", str(tmp_path / "two"), "--config", str(written), "--quiet"]
    done = subprocess.run([*launch, *run], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-5), name
    assert losses_of(tmp_path / "two")  # of the first process


def test_an_epoch_may_go_through_what_was_mined_more_than_once(
    start: Path, town: Path, tmp_path: Path
) -> None:
    """In other batches every time."""
    plans = []
    for passes in (1, 2):
        recipe = recipe_of(start, town, **PLACES_RECIPE, passes=passes)
        plans.append(training._Run(recipe, tmp_path / str(passes), lambda entry: None)._mine())
    once, twice = plans
    assert len(twice) == 2 * len(once)
    assert [b.rows.tolist() for b in twice[: len(once)]] == [b.rows.tolist() for b in once]
    assert [b.rows.tolist() for b in twice[len(once) :]] != [b.rows.tolist() for b in once]


def test_descriptors_mined_with_are_the_models(start: Path, town: Path, tmp_path: Path) -> None:
    recipe = recipe_of(start, town, workers=3, resize="keep-aspect")
    run = training._Run(recipe, tmp_path / "run", lambda entry: None)
    rows = np.array([4, 0, 9])
    found = run._describe(rows)
    expected = run.model.extract([run.photos.paths[i] for i in rows]).descriptor.cpu()
    assert torch.allclose(torch.from_numpy(found[rows]), expected, atol=1e-6)
    assert not found[np.setdiff1d(np.arange(len(found)), rows)].any()


def test_every_grid_of_descriptors_has_its_turn() -> None:
    """All 16 of stride 4; and the tokens' centres, where re-ranking looks, every other time."""
    counted = from_dict({"local_stride": 4})
    assert {training._offset(counted, n) % 16 for n in range(16)} == set(range(16))
    expected = from_dict({"local_stride": 4, "scoring": "expected"})
    turns = [training._offset(expected, n) % 16 for n in range(32)]
    assert set(turns) == set(range(16)) and turns[::2] == [0] * 16


def test_past_batches_join_the_global_loss(start: Path, town: Path, tmp_path: Path) -> None:
    """The first batch has no past; the second is compared with the first."""
    changes = {**PLACES_RECIPE, "global_loss": "triplet", "steps": 2, "epochs": 1}
    seen: dict[int, list[float]] = {}
    for size in (0, 9):
        train(recipe_of(start, town, **changes, memory=size), tmp_path / str(size))
        seen[size] = losses_of(tmp_path / str(size))
    assert seen[9][0] == seen[0][0] and seen[9][1] != seen[0][1]
    kept = read_checkpoint(tmp_path / "9" / CHECKPOINT).memory
    assert kept["rows"].shape == (9,) and kept["descriptors"].shape == (9, TINY.width)


def test_a_loss_with_a_past_is_that_of_one_large_batch(start: Path, town: Path) -> None:
    recipe = recipe_of(start, town, **PLACES_RECIPE, positive_m=15.0, negative_m=35.0)
    photos = read_training(
        recipe.data, recipe.where, positive_m=15.0, positive_degrees=40.0, negative_m=35.0
    )
    rows = np.random.default_rng(3).permutation(len(photos.paths))
    now, before = rows[:8], rows[8:]
    x = F.normalize(torch.randn(len(rows), TINY.width, generator=torch.manual_seed(1)), dim=-1)
    memory = Memory.empty(TINY.width, torch.device("cpu"))
    memory = memory.after(torch.from_numpy(before), x[8:], size=100)
    batch = Batch(now, *photos.town.masks(now, now))
    got = training.batch_loss(
        Features(x[:8], torch.zeros(8, 2, 2, TINY.width)),
        batch,
        dataclasses.replace(recipe, local_loss="none"),
        past=memory.beside(batch, photos.town),
    )
    same, different = map(torch.from_numpy, photos.town.masks(now, rows))
    assert torch.equal(got, losses.multi_similarity(x[:8], same, different, x))
    assert different[:, 8:].any() and same[:, 8:].any()


@pytest.mark.parametrize("scoring", ["count", "expected"])
def test_a_trained_model_ranks_as_it_was_trained_to(
    start: Path, town: Path, tmp_path: Path, scoring: str
) -> None:
    recipe = recipe_of(
        start, town, scoring=scoring, epochs=1, steps=1,
        validation=str(town), validation_queries={"part": "query"},
        validation_database={"part": "database"},
    )  # fmt: skip
    folder = train(recipe, tmp_path / "run")
    assert weights.load(folder).config.scoring == scoring


def test_memory_forgets_the_oldest() -> None:
    memory = Memory.empty(2, torch.device("cpu"))
    for first in (0, 3):
        rows = torch.arange(first, first + 3)
        x = rows[:, None].expand(3, 2).float().requires_grad_()
        memory = memory.after(rows, x, size=4)
    assert memory.rows.tolist() == [2, 3, 4, 5]
    assert memory.descriptors[:, 0].tolist() == [2, 3, 4, 5]
    assert not memory.descriptors.requires_grad


def test_damaged_checkpoint(start: Path, town: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, Checkpoint({"a": torch.ones(2)}, {}, (), {}, {"x": 1}))
    assert read_checkpoint(path).about == {"x": 1}
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OptionError, match="damaged"):
        read_checkpoint(path)


def test_command_line(
    start: Path, town: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'model = "{start}"\ndata = "{town}"\ninput_size = 28\nmining = "random"\n')
    run = ["train", str(tmp_path / "run"), "--config", str(recipe), "--epochs", "1"]
    assert cli.main([*run, "--quiet"]) == 0
    assert "curves.png" in capsys.readouterr().out
    assert cli.main([*run[:-1], "2"]) == 2
    assert "another recipe" in capsys.readouterr().err
    run[1] = str(tmp_path / "other")
    assert cli.main([*run, "--quiet", "--validation", str(town)]) == 2
    assert "column role says which" in capsys.readouterr().err
    assert cli.main([*run, "--data", str(tmp_path / "absent")]) == 2
    assert "no training photos at" in capsys.readouterr().err


def test_metres_are_metres_in_every_town_of_a_source(tmp_path: Path) -> None:
    """GSV-Cities has towns from the equator to the north in one folder."""
    rows = ["image,latitude,longitude"]
    towns = [Location(0.3, 32.5), Location(60.17, 24.94)]
    pairs = [(town, town.moved(9.5, 0)) for town in towns]
    rows += [f"{i}.jpg,{p.latitude},{p.longitude}" for i, p in enumerate(sum(pairs, ()))]
    (tmp_path / "places.csv").write_text("\n".join(rows) + "\n")
    town = read_training(
        [str(tmp_path)], {}, positive_m=10, positive_degrees=40, negative_m=25
    ).town
    for first in (0, 2):
        apart = np.linalg.norm(town.position[first + 1] - town.position[first])
        assert apart == pytest.approx(9.5, abs=0.01)
        assert np.flatnonzero(town.positives(first)).tolist() == [first + 1]


def test_what_lies_near_in_another_source_is_no_stranger(tmp_path: Path) -> None:
    """By day and by night from two ends of one town, and beyond any horizon."""
    home = Location(60.0, 24.0)
    square, far = home.moved(0, 560), home.moved(0, 49_990)
    sources = {
        "day": [home, square, far],
        "night": [square.moved(0, 600), square.moved(3, 0), far.moved(0, 11)],
    }
    for name, places in sources.items():
        (tmp_path / name).mkdir()
        rows = [f"{i}.jpg,{p.latitude},{p.longitude}" for i, p in enumerate(places)]
        (tmp_path / name / "places.csv").write_text("\n".join(["image,latitude,longitude", *rows]))
    town = read_training(
        [str(tmp_path / name) for name in sources], {},
        positive_m=12, positive_degrees=40, negative_m=25,
    ).town  # fmt: skip
    apart = np.linalg.norm(town.position[:, None] - town.position, axis=2)
    every = [place for places in sources.values() for place in places]
    true = [[a.distance_m(b) for b in every] for a in every]
    np.testing.assert_allclose(apart, true, atol=0.2)
    for row in range(6):
        assert np.flatnonzero(~town.strangers(row)).tolist() == [
            other for other in range(6) if true[row][other] <= 25
        ]
    assert not any(town.positives(row).any() for row in range(6))  # another world


def test_photos_on_a_plane_beside_photos_on_the_globe(tmp_path: Path) -> None:
    """Two benchmarks on one plane are compared there; beside a table, by degrees where known."""
    for source, east in (("a", 500_000.0), ("b", 500_008.0)):
        (tmp_path / source / "images" / "train" / "queries").mkdir(parents=True)
        (tmp_path / source / f"images/train/queries/@{east}@6100000@33@U@.jpg").touch()
    place = find_location(tmp_path / "a")
    (tmp_path / "c").mkdir()
    row = f"c.jpg,{place.latitude},{place.longitude}"
    (tmp_path / "c" / "places.csv").write_text(f"image,latitude,longitude\n{row}\n")
    about = {"positive_m": 10, "positive_degrees": 40, "negative_m": 25}
    for names in ("ab", "abc"):
        town = read_training([str(tmp_path / name) for name in names], {}, **about).town
        apart = np.linalg.norm(town.position - town.position[0], axis=1)
        assert apart == pytest.approx([0, 8, 0][: len(names)], abs=0.05)


def find_location(folder: Path) -> Location:
    (photo,) = read_benchmark(folder, split="train").queries
    assert photo.location is not None
    return photo.location


def test_the_part_of_a_benchmark_that_is_validated_on(tmp_path: Path) -> None:
    """Never the one it is tested on, wherever the parts lie."""
    for part in ("train", "val", "test"):
        for role in ("queries", "database"):
            (tmp_path / "images" / part / role).mkdir(parents=True)
            (tmp_path / "images" / part / role / "@0@0@.jpg").touch()
    found = read_validation(from_dict({"validation": str(tmp_path)}))
    trained = read_training([str(tmp_path)], {}, positive_m=1, positive_degrees=9, negative_m=2)
    assert {p.parts[-3] for p in found.queries + found.database} == {"val"}
    assert {p.parts[-3] for p in trained.paths} == {"train"}


def test_a_run_whose_photos_changed_does_not_go_on(start: Path, town: Path, tmp_path: Path) -> None:
    """The plan is of row numbers: those of other photos would be learnt as one place."""

    def stop(entry: Mapping[str, Any]) -> None:
        if entry["update"] == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "town"
    shutil.copytree(town, folder)
    recipe = recipe_of(start, folder, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", stop)
    table = folder / "places.csv"
    whole = table.read_text()
    head, *rows = whole.splitlines()
    for changed in ([*rows[1:]], [rows[1], rows[0], *rows[2:]], [*rows, "p0v0.png,61,24,0,query"]):
        table.write_text("\n".join([head, *changed]) + "\n")
        with pytest.raises(OptionError, match="training photos are others"):
            train(recipe, tmp_path / "run")
    table.write_text(whole)
    train(recipe, tmp_path / "run")
    table.write_text(head + "\n" + rows[0] + "\n")  # it is done, and needs none
    assert (train(recipe, tmp_path / "run") / "config.json").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_read(start: Path, town: Path, tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "town"
    shutil.copytree(town, folder)
    for name in folder.glob("p3*.png"):
        name.write_bytes(name.read_bytes()[:-200])
    recipe = recipe_of(start, folder, mining="random", workers=workers)
    with pytest.raises(PhotoError, match=r"^Training photo .*p3v\d.png: p3v\d.png is cut off"):
        train(recipe, tmp_path / "run")


def test_no_more_batches_are_planned_than_are_taken(
    start: Path, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = mining.place_batches

    def watched(*args: Any) -> Iterator[Batch]:
        for batch in real(*args):
            made.append(batch)
            yield batch

    monkeypatch.setattr(mining, "place_batches", watched)
    recipe = recipe_of(start, town, **PLACES_RECIPE, passes=1000, steps=3)
    run = training._Run(recipe, tmp_path / "run", lambda entry: None)
    assert len(run._mine()) == len(made) == 3


def test_validation_photos(town: Path, tmp_path: Path) -> None:
    """Positions on a plane do; a photo never finds itself; 111 m are another place."""
    parts = dict(validation_queries={"part": "query"}, validation_database={"part": "database"})
    found = read_validation(from_dict({"validation": str(town), **parts}))
    assert [p.name for p in found.database] == [f"p{i}v0.png" for i in range(PLACES)]
    assert found.truths == tuple(frozenset([i]) for i in range(PLACES) for _ in range(VIEWS - 1))
    with pytest.raises(OptionError, match="query and database at once"):
        both = {"validation_queries": {"part": "query"}, "validation_database": {"part": "query"}}
        read_validation(from_dict({"validation": str(town), **both}))
    with pytest.raises(OptionError, match="column role says which"):
        read_validation(from_dict({"validation": str(town)}))
    for role, easts in (("queries", (0, 100)), ("database", (20, 500))):
        (tmp_path / "val" / role).mkdir(parents=True)
        for east in easts:
            (tmp_path / "val" / role / f"@{east}@0@.jpg").touch()
    found = read_validation(from_dict({"validation": str(tmp_path)}))
    assert [p.name for p in found.queries] == ["@0@0@.jpg"]
    assert [found.database[i].name for i in found.truths[0]] == ["@20@0@.jpg"]


def test_worlds_and_sources(town: Path, tmp_path: Path) -> None:
    two = read_training(
        [str(town), str(town / "places.csv")], {"part": "query"},
        positive_m=10, positive_degrees=40, negative_m=25,
    )  # fmt: skip
    assert len(two.paths) == 2 * PLACES * 2
    assert set(two.town.world.tolist()) == {0, 1}
    with pytest.raises(OptionError, match="check `where`"):
        read_training([str(town)], {"part": "x"}, positive_m=10, positive_degrees=40, negative_m=25)


def test_a_mirrored_town_is_another_town(start: Path, town: Path, tmp_path: Path) -> None:
    about = {"positive_m": 10, "positive_degrees": 40, "negative_m": 25}
    plain = read_training([str(town)], {}, **about)
    both = read_training([str(town)], {}, mirror=True, **about)
    n = len(plain.paths)
    assert both.paths == plain.paths * 2
    assert both.mirrored.tolist() == [False] * n + [True] * n
    for row in range(n):
        seen, again = (np.asarray(both.load(r)) for r in (row, row + n))
        assert np.array_equal(again, seen[:, ::-1])
        alike, unlike = plain.town.positives(row), plain.town.strangers(row)
        nobody = np.zeros(n, bool)
        assert both.town.positives(row).tolist() == [*alike, *nobody]
        assert both.town.positives(row + n).tolist() == [*nobody, *alike]
        # Of a street and its own mirror image nothing is said.
        assert both.town.strangers(row).tolist() == [*unlike, *unlike]
    run = training._Run(recipe_of(start, town, mirror=True), tmp_path / "run", lambda entry: None)
    rows = np.arange(2 * n)
    found = torch.from_numpy(run._describe(rows))
    photos = [both.load(int(row)) for row in rows]
    assert torch.allclose(found, run.model.extract(photos).descriptor.cpu(), atol=1e-6)
    model = train(run.recipe, tmp_path / "whole")
    assert json.loads((model / "config.json").read_text())["training"]["photos"] == n
