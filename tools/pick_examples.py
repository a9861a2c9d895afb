"""Make assets/examples: test queries of the rendered city that show what the app can do.

    python -m tools.pick_examples CITY [--index prebuilt_index/helsinki] [--work runs/answers]

CITY is what tools/city renders. The index is asked every query of the split ``test``, none of which
its calibration has seen; answers of an earlier ``selavpr eval`` with the same ``--work`` are taken
from there. Of each condition, the query in the middle of those that are located within 25 m is
taken; then the one whose first place by the global stage alone is farthest from the truth, of those
that re-ranking brings within 10 m; and of the photos that the city does not contain, the one in the
middle of those it refuses. All but the last are taken of the answers that are not "unsure", where
there are such.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from tqdm import tqdm

from selavpr import confidence
from selavpr.cityeval import Answer, ask, read_queries
from selavpr.metrics import RIGHT_M
from selavpr.recognizer import Recognizer

ROOT = Path(__file__).resolve().parent.parent
NEAR_M = 10.0
SETTLED = ("sure", "probably")
TITLES_ZH = {
    "Summer day": "夏日",
    "Evening": "傍晚",
    "Night": "夜晚",
    "Rain": "雨天",
    "Snow": "雪天",
    "Crowded": "人车拥挤",
    "Put right by re-ranking": "重排序纠正了位置",
    "Not in this city": "不在此城市",
}


def first_errors(answer: Answer, recognizer: Recognizer) -> tuple[float, float]:
    """Metres from the truth to the first place by the global stage, and after re-ranking."""
    truth = answer.query.location
    assert truth is not None, "only photos of the city are asked this"
    rows = (answer.rows[0], answer.ranked[0])
    before, after = (truth.distance_m(recognizer.index.places[row].location) for row in rows)
    return before, after


def choose(answers: list[Answer], recognizer: Recognizer) -> list[tuple[str, Answer]]:
    """Titles and answers, as the docstring above says."""
    said = {a.query.path: verdict(a, recognizer) for a in answers}
    inside = [a for a in answers if a.query.location is not None]
    errors = {a.query.path: first_errors(a, recognizer) for a in inside}
    chosen: dict[str, Answer] = {}
    groups: dict[str, list[Answer]] = {}
    for answer in inside:
        if (answer.error_m or 0.0) <= RIGHT_M and errors[answer.query.path][1] <= RIGHT_M:
            groups.setdefault(answer.query.condition, []).append(answer)
    for condition, members in groups.items():
        chosen[condition.replace("_", " ").capitalize()] = middle(members, said, SETTLED)
    taken = {a.query.path for a in chosen.values()}
    saved = [
        a
        for a in inside
        if errors[a.query.path][1] <= NEAR_M
        and (a.error_m or 0.0) <= NEAR_M
        and a.query.path not in taken
    ]
    saved = [a for a in saved if said[a.query.path] in SETTLED] or saved
    if saved:
        chosen["Put right by re-ranking"] = max(saved, key=lambda a: errors[a.query.path][0])
    if elsewhere := [a for a in answers if a.query.location is None]:
        chosen["Not in this city"] = middle(elsewhere, said, ("not here",))
    return list(chosen.items())


def verdict(answer: Answer, recognizer: Recognizer) -> confidence.Verdict:
    """The one the page would show."""
    calibration = recognizer.calibration
    if calibration is None:
        return confidence.verdict(answer.evidence)
    return calibration.judge(answer.evidence).verdict


def middle(
    members: list[Answer], said: Mapping[Path, confidence.Verdict], wanted: Collection[str]
) -> Answer:
    """The one in the middle of those with a wanted verdict; of all, where none has one."""
    members = [a for a in members if said[a.query.path] in wanted] or members
    return members[len(members) // 2]


def main() -> None:
    """Ask, choose, copy, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("city", type=Path)
    parser.add_argument("--index", default=str(ROOT / "prebuilt_index" / "helsinki"))
    parser.add_argument("--work", type=Path, default=Path("runs/answers"))
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "examples")
    args = parser.parse_args()
    recognizer = Recognizer.load(args.index, device="cpu", precision="float32")
    queries = read_queries(args.city, split="test")
    with tqdm(total=len(queries), unit="photo") as bar:
        answers, problems = ask(
            recognizer,
            queries,
            args.work,
            top_k=recognizer.depth,
            progress=lambda done, _: bar.update(done - bar.n) and None,
        )
    assert not problems, problems
    with (args.city / "places.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    chosen = choose(answers, recognizer)
    if args.out.exists() and not (args.out / "examples.csv").is_file():
        raise SystemExit(f"{args.out} holds no examples; it is left as it is.")
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "examples.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image", "title", "latitude", "longitude", "title_zh"))
        for title, answer in chosen:
            name = title.lower().replace(" ", "-") + ".jpg"
            shutil.copyfile(answer.query.path, partial / name)
            row = rows[answer.query.path.relative_to(args.city.resolve()).as_posix()]
            place = (row["latitude"], row["longitude"])  # of photos from elsewhere, too
            table.writerow((name, title, *place, TITLES_ZH.get(title, title)))
            print(f"{title}: {answer.query.path.name}")
    shutil.rmtree(args.out, ignore_errors=True)
    partial.rename(args.out)


if __name__ == "__main__":
    main()
