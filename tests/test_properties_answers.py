"""What holds for any answer: in numbers, in words, as pictures, on the page and on the map."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_fixtures import COUNT, drawn
from fake_recognizer import NASTY, FakeRecognizer
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from PIL import Image
from strategies import FEW
from test_properties import cities, seeds

from selavpr import OptionError, SelaVPRError, cards, confidence, findings, maps, report, text, viz
from selavpr.confidence import Evidence
from selavpr.evaluation import ALL, Evaluation, summarise, table, write_json
from selavpr.findings import Finding
from selavpr.geo import Location
from selavpr.index import Manifest
from selavpr.installed import check_extra, check_packages, check_python
from selavpr.machine import free_memory, room_in
from selavpr.planning import Plan, size_text, time_text
from selavpr.recognizer import Recognizer
from selavpr.session import Site
from selavpr.structs import (
    Candidate,
    Estimate,
    Features,
    KeypointMatches,
    Place,
    Recognition,
)

TAGS = frozenset(
    "a article b button code details div figcaption figure footer h1 h2 h3 i iframe img li ol p "
    "section span summary ul svg rect path circle".split()
)
VOID = {"img"}
MANIFEST = Manifest("town", NASTY, "tiny", "", 1, (0, 0, 0, 0), NASTY, NASTY)

words = st.text(max_size=12) | st.sampled_from([NASTY, "Harbour Street", "市场街", "{x}", "\u2028"])


class Page(HTMLParser):
    """Reads HTML strictly: known tags only, closed in order, no handlers in attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.shown = ""
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        assert not any(name.startswith("on") for name, _ in attrs)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown += data

    def of(self, tag: str, attribute: str) -> list[str]:
        return [value for t, name, value in self.attributes if (t, name) == (tag, attribute)]


@st.composite
def recognitions(draw: st.DrawFn) -> Recognition:
    count = draw(st.integers(1, 12))
    shown = draw(st.integers(1, count))
    rng = np.random.default_rng(draw(seeds))
    depth = draw(st.integers(0, count))
    expected = draw(st.booleans())
    centre = draw(cities)
    scores = sorted((float(x) for x in rng.uniform(0, 40, depth)), reverse=True)
    order = [*rng.permutation(depth).tolist(), *range(depth, count)]
    found = [
        Candidate(
            Place(
                f"p{i}", f"images/{i}.jpg", centre.moved(*rng.normal(0, 60, 2)), street=draw(words)
            ),
            row=i,
            global_rank=i + 1,
            rank=rank,
            similarity=1 - i / count,
            matches=None if i >= depth else scores[rank - 1] if expected else int(scores[rank - 1]),
        )
        for rank, i in enumerate(order, 1)
    ]
    near = draw(st.none() | st.floats(0, 1e5))
    estimate = Estimate(
        centre.moved(*rng.normal(0, 60, 2)),
        near,
        None if near is None else near * 3,
        draw(st.none() | st.floats(0, 1)),
        draw(st.sampled_from(confidence.VERDICTS)),
        draw(words),
    )
    return Recognition(
        (320, 240),
        tuple(found[:shown]),
        estimate,
        min(found, key=lambda c: c.global_rank).place.location,
        Features(torch.zeros(1, 4), torch.zeros(1, 2, 2, 4)),
        {"open": 1.0, "extract": float(rng.uniform(0, 5000))},
        tuple(
            sorted(
                (c for c in found[shown:] if c.global_rank <= shown), key=lambda c: c.global_rank
            )
        ),
    )


# Evidence and plain data


@FEW
@given(recognitions(), cities, st.floats(0, 1), st.integers(0, 4000))
def test_evidence_of_any_answer(
    answer: Recognition, place: Location, agreeing: float, descriptors: int
) -> None:
    found = confidence.gather(answer.candidates, place, agreeing, descriptors)
    assert found.agreeing == agreeing and 0 <= found.together <= 1 and found.share >= 0
    assert 0 <= found.lead <= 1 and found.margin >= 0
    assert found.similarity == max(c.similarity for c in answer.candidates)
    assert 0 <= found.similarity_lead <= 1
    vector = found.vector()
    assert vector.shape == (len(confidence.FEATURES),) and np.isfinite(vector).all()
    # Standing at the best candidate's place, at least that one is near.
    best = answer.candidates[0].place.location
    assert confidence.gather(answer.candidates, best, agreeing, descriptors).together > 0


@FEW
@given(
    *[st.tuples(st.floats(0, 1), st.floats(-50, 500), st.floats(0, 1))] * 2,
    st.sampled_from(["count", "expected"]),
)
def test_more_evidence_never_makes_a_weaker_verdict(one: Any, two: Any, scoring: Any) -> None:
    least, most = ([pick(pair) for pair in zip(one, two, strict=True)] for pick in (min, max))
    less, stronger = (
        Evidence(agreeing, margin, 0.5, lead=lead, scoring=scoring)
        for agreeing, margin, lead in (least, most)
    )
    assert {confidence.verdict(less), confidence.verdict(stronger)} <= {"probably", "unsure"}
    assert confidence.verdict(less) == "unsure" or confidence.verdict(stronger) == "probably"


@FEW
@given(recognitions(), words)
def test_an_answer_is_json_and_its_map_says_the_same(answer: Recognition, name: str) -> None:
    plain = report.to_dict(answer, name)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert [c["rank"] for c in plain["candidates"]] == list(range(1, len(answer.candidates) + 1))
    first, alone, *others = report.to_geojson(answer, name)["features"]
    assert first["properties"]["photo"] == name
    for feature, at in ((first, plain["location"]), (alone, plain["global_location"])):
        assert feature["geometry"]["coordinates"] == [at["lon"], at["lat"]]
    assert first["properties"]["radius50_m"] == plain["location"]["radius50_m"]
    for feature, candidate in zip(others, plain["candidates"], strict=True):
        place = feature["geometry"]["coordinates"]
        assert place == [candidate["lon"], candidate["lat"]]
        assert {**feature["properties"], "lon": place[0], "lat": place[1]} == {
            **candidate,
            "kind": "candidate",
        }


@FEW
@given(recognitions())
def test_both_orders_are_as_long_and_whole(answer: Recognition) -> None:
    ordered, shown = answer.by_global_rank, len(answer.candidates)
    assert [c.global_rank for c in ordered] == list(range(1, shown + 1))
    assert [c.rank for c in answer.candidates] == list(range(1, shown + 1))
    rows = [c.row for c in answer.either]
    assert rows[:shown] == [c.row for c in answer.candidates]
    assert len(set(rows)) == len(rows)
    assert set(rows) == {c.row for c in (*ordered, *answer.candidates)}
    for candidate in ordered:
        said, number = candidate.matches_text, candidate.matches
        assert (said == "-") == (number is None)
        assert number is None or abs(float(said.replace(",", "")) - number) <= 0.05 + 1e-9


# Words


@given(st.floats(0, 1), st.floats(0, 1))
def test_nothing_is_certain(one: float, other: float) -> None:
    less, more = (text.percent(probability) for probability in sorted((one, other)))
    assert 1 <= less <= more <= 99
    assert abs(less - 100 * min(one, other)) <= 1


KEYS = sorted(text.gradio_table()["en"])


@FEW
@given(st.sampled_from(KEYS), words)
def test_a_text_holds_its_values_escaped_in_both_languages(key: str, value: str) -> None:
    names = "city street distance number count percent total rank detail near far".split()
    names += "shown agreeing value credit asked served".split()
    values = dict.fromkeys(names, value)
    said = text.both_plain(key, **values)
    assert said == {lang: text.plain(key, lang, **values) for lang in text.LANGUAGES}
    assert text.plain(key, "zh-CN", **values) == said["zh"]
    assert text.both(key, **values) == text.by_language(said)
    page = Page(text.both(key, **values))
    assert {tag for tag, *_ in page.attributes} <= {"span"}
    assert page.shown == said["en"] + ("" if said["en"] == said["zh"] else said["zh"])


@FEW
@given(st.sampled_from([e.__name__ for e in SelaVPRError.__subclasses__()] + ["New"]), words)
def test_any_error_is_said_in_both_languages(kind: str, detail: str) -> None:
    page = Page(text.error([kind, "SelaVPRError"], detail))
    assert page.shown.startswith(detail)


@FEW
@given(st.floats(0, 2e7), st.floats(0, 2e7))
def test_distances_and_times_in_words_are_near_and_in_order(one: float, two: float) -> None:
    low, high = sorted((one, two))
    for said, units in (
        (text.distance, {"m": 1, "km": 1000, "米": 1, "公里": 1000}),
        (text.duration, {"ms": 1, "s": 1000, "毫秒": 1, "秒": 1000}),
    ):
        for language in text.LANGUAGES:
            less, more = (_number(said(x)[language], units) for x in (low, high))
            assert less <= more
            assert low == pytest.approx(less, rel=0.06, abs=0.51)


@FEW
@given(st.floats(0, 1e15), st.floats(0, 1e15))
def test_sizes_and_times_of_a_plan_are_near_and_in_order(one: float, two: float) -> None:
    low, high = sorted((one, two))
    sizes = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    times = {"s": 1.0, "min": 60.0, "h": 3600.0, "days": 86_400.0}
    # 150 seconds are 2 minutes.
    for said, units, off in ((size_text, sizes, 0.05), (time_text, times, 0.26)):
        less, more = (_number(said(x), units) for x in (low, high))
        assert less <= more
        assert low == pytest.approx(less, rel=off, abs=0.51)


def _number(said: str, units: dict[str, float]) -> float:
    number, unit = said.split(" ")
    return float(number.replace(",", "")) * units[unit]


@FEW
@given(
    st.builds(
        Plan,
        *[st.integers(0, 10**7)] * 2,
        st.none() | st.integers(0, 10**13),
        *[st.none() | st.floats(0, 1e9)],
        st.none() | st.integers(0, 10**13),
        st.none() | st.floats(0, 1e9),
        st.integers(0, 4),
    )
)
def test_a_plan_says_how_many_photos_there_are(plan: Plan) -> None:
    lines = plan.lines()
    assert f"{plan.photos:,}" in lines[0] and all(line.strip() == line for line in lines)
    assert any("to download" in line for line in lines) == bool(plan.downloads)


checks = st.builds(Finding, words, st.sampled_from(["ok", "note", "bad"]), words, words)


@FEW
@given(st.lists(checks, max_size=5))
def test_a_report_is_well_unless_something_is_bad(found: list[Finding]) -> None:
    bad = sum(f.status == "bad" for f in found)
    assert findings.is_well(found) == (bad == 0)
    assert findings.summary(found).startswith(f"{bad} of {len(found)}" if bad else "All is well")
    said = json.loads(findings.to_json(found))
    assert "\n" not in findings.to_json(found) and said["ok"] == (bad == 0)
    assert [Finding(**fields) for fields in said["findings"]] == found
    for finding in found:
        first, *advice = finding.lines()
        assert first.startswith(finding.status) and bool(advice) == bool(finding.advice)


@FEW
@given(st.integers(2, 4), st.integers(0, 40), st.integers(0, 20), st.sampled_from(["", "rc1"]))
def test_python_fits_from_3_10_to_3_13(major: int, minor: int, micro: int, pre: str) -> None:
    found = check_python(f"{major}.{minor}.{micro}{pre}")
    # What comes before 3.14 is not 3.14, and before 3.10 not 3.10, by the order of versions.
    lowest = (major, minor, micro, not pre) >= (3, 10, 0, True)
    assert (found.status == "ok") == (lowest and (major, minor) < (3, 14))
    assert bool(found.advice) == (found.status != "ok")


@FEW
@given(st.sampled_from([("torch", True), ("no-such-package-here", False)]), st.integers(0, 2))
def test_packages_fit_if_they_are_there_and_new_enough(
    package: tuple[str, bool], major: int
) -> None:
    name, there = package
    needed = [Requirement(f"{name}>={1000 * major}")]
    [found] = check_packages(needed)
    assert (found.status == "ok") == (there and not major) == (not found.advice)
    extra = check_extra("tests", needed)
    assert extra.status == ("ok" if found.status == "ok" else "note")
    gone = Requirement(f"{name}>=0; python_version < '3'")
    assert check_packages([gone]) == []  # not for this Python


limits = st.sampled_from(["max", "", "x", "12 13"])


@FEW
@given(st.text(max_size=60) | st.integers(0, 10**9).map("MemAvailable: {} kB".format), limits)
def test_any_system_files_give_memory_or_nothing(meminfo: str, limit: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path, content in (("proc/meminfo", meminfo), ("sys/fs/cgroup/memory.max", limit)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content, encoding="utf-8")
        free = free_memory(root)
        if re.fullmatch(r"MemAvailable: \d+ kB", meminfo):
            assert free == int(meminfo.split()[1]) * 1024
        assert free is None or isinstance(free, int)


@FEW
@given(st.lists(st.sampled_from(["a", "b c", "..", "\0", "x" * 300]), max_size=4))
def test_asking_for_room_makes_nothing(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        room = room_in(Path(folder, "new", *(part for part in parts if part != "..")))
        assert bool(room.problem) != bool(room.free)
        assert not any(Path(folder).iterdir())


# Evaluation

queries = st.lists(
    st.tuples(
        st.sampled_from(["night", "day", "", "a|b"]),
        st.sets(st.integers(0, 5)),
        st.permutations(range(6)),
        st.floats(0, 1e4) | st.just(float("nan")),
    ),
    min_size=1,
    max_size=12,
)


@FEW
@given(queries)
def test_an_evaluation_counts_every_query_once(rows: list[Any]) -> None:
    conditions, truths, ranked, errors = (list(column) for column in zip(*rows, strict=True))
    found = summarise(conditions, truths, 6, {"first": ranked}, {"first": errors}, (1, 3))
    parts = [row for row in found if row.condition != ALL] or list(found)
    whole = [row for row in found if row.condition == ALL] or parts
    assert sum(row.queries for row in parts) == len(rows) == whole[0].queries
    assert sum(row.answerable for row in parts) == sum(map(bool, truths))
    right = sum(bool(set(r[:3]) & t) for r, t in zip(ranked, truths, strict=True))
    assert whole[0].recalls["first"][3].value == pytest.approx(right / len(rows))
    said = Evaluation("Title", ("how",), found, {"seconds": 1.5, "nested": {"a": {"b": None}}})
    assert json.loads(json.dumps(said.to_dict()))["title"] == "Title"
    shown = said.to_markdown()
    assert shown.startswith("## Title\n") and shown.endswith("\n")
    # Every line of the table has as many cells as its header.
    lines = [line for line in shown.split("\n\n")[2].split("\n")]
    assert len({len(_cells(line)) for line in lines}) == 1
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "e.json"), said.to_dict())
        assert json.loads(Path(folder, "e.json").read_text("utf-8")) == json.loads(
            json.dumps(said.to_dict())
        )
        assert [path.name for path in Path(folder).iterdir()] == ["e.json"]


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


@FEW
@given(st.text("ab| \n\t\r\u2028", max_size=12))
def test_a_cell_keeps_its_words_and_parts_no_row(words: str) -> None:
    made = text.cell(words)
    assert len(made.splitlines()) <= 1
    assert not re.search(r"(?<!\\)\|", made)
    assert made.replace("\\|", "|").split() == words.split()


@FEW
@given(st.integers(1, 4), st.integers(0, 4), st.data())
def test_a_table_holds_its_cells(columns: int, rows: int, data: st.DataObject) -> None:
    row = st.lists(st.text("ab| 1-\n", max_size=8), min_size=columns, max_size=columns)
    header, *body = data.draw(st.lists(row, min_size=rows + 1, max_size=rows + 1))
    lines = table(header, body).split("\n")
    assert len(lines) == rows + 2 and len({len(line) for line in lines}) == 1
    for cells, line in zip([header, *body], [lines[0], *lines[2:]], strict=True):
        shown = [cell.strip().replace("\\|", "|") for cell in _cells(line)]
        assert shown == [" ".join(cell.split()) for cell in cells]


# Pictures

pixels = st.tuples(st.integers(1, 40), st.integers(1, 40), seeds).map(
    lambda x: Image.fromarray(
        np.random.default_rng(x[2]).integers(0, 256, (x[1], x[0], 3), dtype=np.uint8)
    )
)


@FEW
@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_colours_are_for_any_number_and_grow_lighter(values: list[float]) -> None:
    array = np.array(values, np.float32)
    found = viz.colours(array)
    assert found.shape == (len(values), 3) and found.dtype == np.uint8
    order = np.argsort(np.clip(np.nan_to_num(array), 0, 1), kind="stable")
    light = found[order].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) >= -1).all()  # in whole steps of 256


@FEW
@given(seeds, st.integers(1, 6), st.integers(1, 6), st.floats(0.5, 20), st.floats(1, 6))
def test_heat_is_from_0_to_1_whatever_the_scale(
    seed: int, height: int, width: int, scale: float, power: float
) -> None:
    tokens = np.random.default_rng(seed).standard_normal((height, width, 5)).astype(np.float32)
    heat = viz.heat_of(tokens, power)
    assert heat.shape == (height, width) and heat.min() == 0 and heat.max() in (0, 1)
    np.testing.assert_allclose(viz.heat_of(tokens * scale, power), heat, atol=5e-3)
    turned = viz.heat_of(np.ascontiguousarray(tokens[::-1]), power)
    np.testing.assert_allclose(turned[::-1], heat, atol=1e-5)


@settings(max_examples=30)
@given(pixels, seeds, st.integers(1, 50), st.integers(1, 50))
def test_pictures_have_the_size_that_was_asked_for(
    photo: Image.Image, seed: int, width: int, height: int
) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.uniform(-1, 2, (3, 4)).astype(np.float32)
    assert viz.heat_overlay(photo, heat).size == photo.size
    cold = np.asarray(viz.heat_overlay(photo, heat, opacity=0.0))
    assert (cold == np.asarray(photo.convert("L"))[..., None]).all()  # nothing laid over it
    assert viz.thumbnail(photo, (width, height)).size == (width, height)
    small = viz.shrink(photo, width)
    assert max(small.size) <= max(width, 1) or small.size == photo.size
    assert small.width <= photo.width and small.height <= photo.height
    kind, data = viz.data_uri(photo).split(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as again:
        assert kind == "data:image/webp;base64" and again.size == photo.size
    with Image.open(
        io.BytesIO(base64.b64decode(cards.thumbnail(photo).partition(",")[2]))
    ) as again:
        assert again.size == (240, 180)


@FEW
@given(st.integers(2, 12))
def test_the_legend_runs_from_the_first_colour_to_the_last(steps: int) -> None:
    shown = re.findall("#([0-9a-f]{6})", viz.legend(steps))
    ends = [bytes(c).hex() for c in viz.colours(np.array([0, 1], np.float32))]
    assert len(shown) == steps and [shown[0], shown[-1]] == ends


def found_matches(seed: int, count: int) -> KeypointMatches:
    rng = np.random.default_rng(seed)
    similarity = np.sort(rng.uniform(-1, 1, count).astype(np.float32))[::-1].copy()
    return KeypointMatches(
        torch.from_numpy(rng.uniform(0, 40, (count, 2)).astype(np.float32)),
        torch.from_numpy(rng.uniform(0, 40, (count, 2)).astype(np.float32)),
        torch.from_numpy(similarity),
        torch.from_numpy(rng.random(count) < 0.4),
    )


@FEW
@given(
    seeds, st.integers(0, 40), st.integers(-1, 50), st.floats(-1, 1), st.booleans(), st.booleans()
)
def test_lines_are_chosen_by_what_was_asked(
    seed: int, total: int, count: int, least: float, agreeing: bool, spread: bool
) -> None:
    found = found_matches(seed, total)
    size = (40, 40) if spread else None
    rows = viz.select_matches(
        found, count=count, min_similarity=least, agreeing_only=agreeing, query_size=size
    )
    fits = (found.similarity.numpy() >= least) & (found.agrees.numpy() | (not agreeing))
    assert len(set(rows.tolist())) == len(rows) == min(max(count, 0), int(fits.sum()))
    assert fits[rows].all()
    agrees = found.agrees.numpy()[rows]
    assert (np.diff(agrees.astype(int)) <= 0).all()  # those that agree come first
    if not spread:
        for kind in (True, False):
            assert (np.diff(found.similarity.numpy()[rows[agrees == kind]]) <= 0).all()


@settings(max_examples=6)
@given(pixels, pixels, seeds, st.integers(0, 12))
def test_matches_are_drawn_on_any_two_photos(
    query: Image.Image, candidate: Image.Image, seed: int, count: int
) -> None:
    found = found_matches(seed, count)
    rows = np.arange(count)
    drawn_on = viz.draw_matches(
        query, candidate, found, rows, query_size=(40, 40), candidate_size=(40, 40)
    )
    blank = viz.draw_matches(query, candidate, found, rows[:0])
    assert drawn_on.size == blank.size and drawn_on.height == viz.MATCHES_HEIGHT
    assert (drawn_on.tobytes() == blank.tobytes()) == (count == 0)


# The page


@settings(max_examples=60)
@given(recognitions(), words, st.none() | cities, st.booleans(), st.integers(0, 11))
def test_no_name_becomes_html(
    answer: Recognition, city: str, where: Location | None, own: bool, picked: int
) -> None:
    truth = cards.Truth(where, own)
    said = Page(cards.verdict(answer, city, truth)).shown
    assert f"{answer.location.location.latitude:.6f}" in said
    assert (answer.location.street or "") in said or answer.location.verdict == "not here"
    Page(cards.map_key(answer, truth))
    columns = Page(cards.columns(answer, "data:,{}".format, picked, MANIFEST))
    numbers = columns.of("button", "data-candidate")
    reranked = any(c.matches is not None for c in answer.candidates)
    assert len(numbers) == len(answer.candidates) * (2 if reranked else 1)
    shown = [answer.by_global_rank, *([answer.candidates] if reranked else [])]
    pressed = sum(answer.either[picked : picked + 1] == (c,) for column in shown for c in column)
    assert columns.of("button", "aria-pressed").count("true") == pressed
    for candidate in answer.candidates[:1]:
        page = Page(cards.matches(candidate, MANIFEST, "data:,x", 1, 2, 1))
        assert (candidate.place.street or candidate.place.place_id) in page.shown
    Page(cards.empty(city, 5, "<p>map</p>"))
    Page(cards.notice({"en": city, "zh": city}))
    Page(cards.heat("data:,a", "data:,b" if own else "data:,a"))
    assert city in Page(cards.credits([Manifest("n", city, "", "", 0, (0, 0, 0, 0))])).shown
    assert Page(cards.timings(answer.timings_ms)).shown


@FEW
@given(words, words, words, words)
def test_a_photo_names_its_author_or_the_index_does(
    author: str, licence: str, whole: str, general: str
) -> None:
    place = Place("p", "", Location(0, 0), credit=author, licence=licence)
    about = Manifest("n", "t", "", "", 0, (0, 0, 0, 0), general, whole)
    parts = [part for part in (author or whole, licence or general) if part]
    assert cards.credit(place, about) == " · ".join(parts)


@FEW
@given(recognitions(), words, st.booleans())
def test_files_carry_the_answer(answer: Recognition, name: str, linked: bool) -> None:
    plain, places = report.to_dict(answer, name), report.to_geojson(answer, name)
    page = Page(cards.downloads(plain, places, name, linked=linked))
    data = [json.loads(base64.b64decode(h.partition(",")[2])) for h in page.of("a", "href")]
    assert data == [plain, places]
    assert [n.rpartition(".")[2] for n in page.of("a", "download")] == ["json", "geojson"]
    assert ("link" in page.of("button", "data-do")) == linked


@settings(max_examples=5)
@given(st.lists(st.tuples(words, words), max_size=2))
def test_examples_are_buttons_with_their_titles(titles: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.png")
        drawn(1).save(photo)
        page = Page(cards.examples([cards.Example(photo, en, None, zh) for en, zh in titles]))
    assert page.of("button", "data-example") == [str(i) for i in range(len(titles))]
    assert all(en in page.shown and zh in page.shown for en, zh in titles)


@settings(max_examples=12)
@given(recognitions(), st.none() | cities, st.lists(cities, max_size=3), words, st.booleans())
def test_no_name_becomes_part_of_the_map(
    answer: Recognition,
    truth: Location | None,
    covered: list[Location],
    attribution: str,
    tiles: bool,
) -> None:
    document = maps.build_map(
        answer,
        truth=truth,
        covered=covered,
        attribution=attribution,
        served=maps.Served("leaflet"),
        tiles=tiles,
    )
    assert document.count("<script") == document.count("</script>") == 3
    data, _ = json.JSONDecoder().raw_decode(document[document.rindex(', {"answer"') + 2 :])
    assert maps.has_moves(answer) == bool(data["moves"])
    place = answer.location.location
    assert data["answer"] == [place.latitude, place.longitude]
    assert data["covered"] == [[p.latitude, p.longitude] for p in covered]
    names = [c.place.street or c.place.place_id for c in answer.either]
    assert [pin["street"] for pin in data["pins"]] == names
    assert html.unescape(data["attribution"]) == attribution
    assert (data["truth"] is None) == (truth is None)
    inside = Page(maps.frame(document, attribution))
    assert inside.of("iframe", "srcdoc") == [document]


@settings(max_examples=6)
@given(st.lists(cities, min_size=1, max_size=6))
def test_the_overview_shows_every_place(places: list[Location]) -> None:
    document = maps.build_overview(places, served=maps.Served("leaflet"), tiles=False)
    data, _ = json.JSONDecoder().raw_decode(document[document.rindex(', {"dots"') + 2 :])
    assert data["dots"] == [[p.latitude, p.longitude] for p in places]


@pytest.fixture(scope="module")
def site() -> Site:
    return Site({"drawn-town": FakeRecognizer()}, tiles=False)  # type: ignore[dict-item]


@settings(max_examples=4)
@given(
    st.integers(0, 99), st.integers(1, 24), st.booleans(), st.integers(1, 24), st.integers(-1, 24)
)
def test_a_visit_with_any_photo_and_settings(
    site: Site, seed: int, top_k: int, rerank: bool, depth: int, picked: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo & <b>.png")
        drawn(seed).save(photo)
        [copy] = site.publish([cards.Example(photo, "title")])
        assert copy.photo.parent == site.folder and copy.photo.read_bytes() == photo.read_bytes()
        here = site.locate(str(photo), "drawn-town", top_k, rerank, depth, visitor=str(picked))
        for shown in (
            site.verdict(here, cards.Truth(Location(60, 25))),
            site.map(here),
            site.overview(here.city),
            site.columns(here),
            site.heat(here),
        ):
            Page(shown)
        assert site.answer(here)["photo"] == photo.name
        assert len(site.answer(here)["candidates"]) == top_k
        Page(site.downloads(here, linked=True))
        with pytest.raises(OptionError):
            site.matches(here, 10, -1, False)
        if not 0 <= picked < top_k:
            return
        chosen = site.pick(here, picked)
        assert chosen.picked == picked and chosen.recognition == here.recognition
        Page(site.matches(chosen, 10, -1.0, False))
        assert not site.is_past(chosen)
        site.locate(str(photo), "drawn-town", 1, rerank, 1, visitor=str(picked))
        assert site.is_past(chosen)
        data = json.loads(json.dumps(site.match_data(chosen), allow_nan=False))
        assert data["rank"] == picked + 1 and len(data["matches"]) == 120


# The recogniser, with a tiny network


@settings(max_examples=5)
@given(
    st.integers(0, 99),
    st.tuples(st.integers(28, 90), st.integers(28, 90)),
    st.integers(1, 30),
    st.booleans(),
    st.none() | st.integers(1, 30),
)
def test_any_photo_has_an_answer(
    recognizer: Recognizer,
    number: int,
    size: tuple[int, int],
    top_k: int,
    rerank: bool,
    depth: int | None,
) -> None:
    photo = drawn(number, size)
    found = recognizer.recognize(photo, top_k=top_k, rerank=rerank, rerank_depth=depth)
    assert found.photo_size == size and len(found.candidates) == min(top_k, COUNT)
    assert [c.rank for c in found.candidates] == list(range(1, len(found.candidates) + 1))
    first, broken = recognizer.recognize_many(
        [photo, b"no photo"], top_k=top_k, rerank=rerank, rerank_depth=depth
    )
    assert isinstance(broken, SelaVPRError) and isinstance(first, Recognition)
    assert first.candidates == found.candidates and first.location == found.location
    evidence = recognizer.evidence(found)
    assert np.isfinite(evidence.vector()).all() and evidence.similarity <= 1
    matches = recognizer.matches(found, len(found.candidates) - 1)
    assert (matches.query >= 0).all() and (matches.query <= torch.tensor(size)).all()
    assert (matches.similarity.diff() <= 0).all()
    with pytest.raises(OptionError):
        recognizer.matches(found, len(found.candidates))
    for adapted in (True, False):
        heat = recognizer.heatmap(photo, adapted=adapted)
        assert heat.min() == 0 and heat.max() == 1
