from __future__ import annotations

import base64
import dataclasses
import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_recognizer import NASTY, FakeIndex, FakeRecognizer, drawn_street

from selavpr import cards, errors, text
from selavpr.cards import Example, Truth
from selavpr.errors import HubError, PhotoError
from selavpr.geo import Location
from selavpr.images import load_image
from selavpr.session import Site
from selavpr.structs import Recognition

TOWN = FakeIndex().manifest


class Text(HTMLParser):
    """Collects tags and the English text of a piece of HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._chinese = 0
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._chinese += dict(attrs).get("class") == "sv-zh"

    def handle_endtag(self, tag: str) -> None:
        if self._chinese and tag in ("span", "tspan"):
            self._chinese -= 1

    def handle_data(self, data: str) -> None:
        if not self._chinese:
            self.words += data


@pytest.fixture(scope="module")
def recognition() -> Recognition:
    return FakeRecognizer().recognize(drawn_street(100))


def with_estimate(recognition: Recognition, **changes: object) -> Recognition:
    return dataclasses.replace(
        recognition, location=dataclasses.replace(recognition.location, **changes)
    )


@pytest.mark.parametrize(
    ("kind", "headline"),
    [
        ("sure", "This is Mill Lane"),
        ("probably", "This is probably Mill Lane"),
        ("unsure", "This may be Mill Lane"),
        ("not here", "This does not look like Drawn Town"),
    ],
)
def test_verdict_in_words(recognition: Recognition, kind: str, headline: str) -> None:
    shown = Text(
        cards.verdict(with_estimate(recognition, verdict=kind, street="Mill Lane"), "Drawn Town")
    )
    assert shown.words.split("off by")[0].find(headline) >= 0
    assert ("off by about 15 m" in shown.words) == (kind != "not here")
    # Of a place: whether it is right. Of none: whether it is this city at all.
    assert ("93 % sure it is within 25 m" in shown.words) == (kind != "not here")
    assert ("97 % likely to be in Drawn Town" in shown.words) == (kind == "not here")


def test_no_number_is_claimed_without_calibration(recognition: Recognition) -> None:
    unknown = with_estimate(
        recognition, radius50_m=None, radius90_m=None, confidence=None, right=None
    )
    words = Text(cards.verdict(unknown, "Drawn Town")).words
    assert "Not calibrated" in words
    assert "%" not in words
    assert "about" not in words


def test_error_is_told_where_the_truth_is_known(recognition: Recognition) -> None:
    here = recognition.location.location
    truth = Location(here.latitude - 0.001, here.longitude)  # a thousandth of a degree is 111 m
    words = Text(cards.verdict(recognition, "Drawn Town", Truth(truth))).words
    assert "111 m from the true position" in words
    words = Text(cards.verdict(recognition, "Drawn Town", Truth(truth, own=True))).words
    assert "111 m from the photo's own GPS position" in words


def test_photo_without_a_position_is_told(recognition: Recognition) -> None:
    words = Text(cards.verdict(recognition, "Drawn Town", Truth(None, own=True))).words
    assert "carries no GPS position" in words
    assert " m from" not in words


def test_without_a_street_the_position_is_the_name(recognition: Recognition) -> None:
    nowhere = with_estimate(
        recognition, street="", verdict="probably", location=Location(60.1, -24.25)
    )
    shown = cards.verdict(nowhere, "Town")
    assert "This is probably 60.100000, -24.250000" in Text(shown).words
    assert "这里很可能是 60.100000, -24.250000" in shown


def test_candidates_without_a_street_go_by_their_number(recognition: Recognition) -> None:
    place = dataclasses.replace(recognition.candidates[0].place, street="", place_id="r0046")
    nameless = dataclasses.replace(recognition.candidates[0], place=place)
    answer = dataclasses.replace(recognition, candidates=(nameless, *recognition.candidates[1:]))
    assert "r0046" in Text(cards.columns(answer, str, 0, TOWN)).words
    assert "No. 1: r0046" in Text(cards.matches(nameless, TOWN, "data:", 1, 2, 3)).words


@pytest.mark.parametrize(
    ("probability", "kind", "words"),
    [
        (0.9999, "sure", "99 % sure it is within 25 m"),
        (0.0001, "not here", "1 % likely to be in Town"),
        (0.555, "unsure", "56 % sure it is within 25 m"),
    ],
)
def test_percents_never_claim_certainty(
    recognition: Recognition, probability: float, kind: str, words: str
) -> None:
    asked = "confidence" if kind == "not here" else "right"
    judged = with_estimate(recognition, **{asked: probability}, verdict=kind)
    assert words in Text(cards.verdict(judged, "Town")).words


def test_position_leads_to_a_map_of_the_world(recognition: Recognition) -> None:
    here = recognition.location.location
    links = [a for t, a in Text(cards.verdict(recognition, "Town")).tags if t == "a"]
    assert links[0]["href"] == (
        f"https://www.openstreetmap.org/?mlat={here.latitude:.6f}&mlon={here.longitude:.6f}"
        f"#map=18/{here.latitude:.6f}/{here.longitude:.6f}"
    )
    assert links[0]["rel"] == "noopener"


def test_map_key_names_what_is_drawn_and_no_more(recognition: Recognition) -> None:
    plain = Text(cards.map_key(recognition)).words
    assert plain == "AnswerHalf of answers lie within 15 m, nine in ten within 60 m"
    moved = Text(cards.map_key(recognition, moves=True)).words
    assert moved.startswith(plain + "Dashed: from the place")
    true = Text(cards.map_key(recognition, Truth(Location(60, 25)))).words
    assert "True position" in true
    elsewhere = with_estimate(recognition, verdict="not here")
    assert Text(cards.map_key(elsewhere, Truth(None, own=True))).words == "Best guess"


@pytest.mark.parametrize(
    ("credit", "licence", "expected"),
    [
        ("A. Nyman", "CC BY-SA 4.0", "A. Nyman · CC BY-SA 4.0"),
        ("A. Nyman", "", "A. Nyman · CC0"),
        ("", "", "Drawn by <i>nobody</i> · CC0"),
    ],
)
def test_author_and_licence_of_each_photo_are_named(
    recognition: Recognition, credit: str, licence: str, expected: str
) -> None:
    first = recognition.candidates[0]
    place = dataclasses.replace(first.place, credit=credit, licence=licence)
    candidate = dataclasses.replace(first, place=place)
    assert cards.credit(place, TOWN) == expected
    assert f"Photo: {expected}" in Text(cards.matches(candidate, TOWN, "data:", 1, 2, 3)).words
    answer = dataclasses.replace(recognition, candidates=(candidate, *recognition.candidates[1:]))
    tags = Text(cards.columns(answer, str, 0, TOWN)).tags
    assert [a["title"] for _, a in tags if a.get("data-candidate") == "0"] == [expected] * 2


def test_unknown_author_is_not_made_up(recognition: Recognition) -> None:
    unnamed = dataclasses.replace(TOWN, attribution="", license="")
    place = dataclasses.replace(recognition.candidates[0].place, credit="", licence="")
    candidate = dataclasses.replace(recognition.candidates[0], place=place)
    assert "Photo:" not in cards.matches(candidate, unnamed, "data:", 1, 2, 3)
    assert "title=" not in cards.columns(
        dataclasses.replace(recognition, candidates=(candidate,)), str, 0, unnamed
    )


def card_numbers(source: str, column: str) -> list[int]:
    part = source.split(f'sv-column sv-{column}"')[1].split("sv-column")[0]
    return [int(n) for n in re.findall(r'data-candidate="(\d+)"', part)]


def test_columns_rank_the_same_candidates_twice(recognition: Recognition) -> None:
    source = cards.columns(recognition, lambda row: f"thumb-{row}", 0, TOWN)
    assert card_numbers(source, "rerank") == list(range(20))
    ranks = [recognition.candidates[i].global_rank for i in card_numbers(source, "global")]
    assert ranks == list(range(1, 21))
    pressed = [a["data-candidate"] for t, a in Text(source).tags if a.get("aria-pressed") == "true"]
    assert pressed == ["0", "0"], "picked in both columns"


def cut(recognition: Recognition, count: int) -> Recognition:
    """The same answer with fewer candidates to show."""
    behind = [c for c in recognition.candidates[count:] if c.global_rank <= count]
    return dataclasses.replace(
        recognition,
        candidates=recognition.candidates[:count],
        fallen=tuple(sorted(behind, key=lambda c: c.global_rank)),
    )


def test_the_first_column_is_the_first_stages_own(recognition: Recognition) -> None:
    """Also where re-ranking put its leaders behind all that is shown."""
    few = cut(recognition, 8)
    assert few.fallen, "the example has some"
    source = cards.columns(few, lambda row: f"thumb-{row}", 8, TOWN)
    assert card_numbers(source, "rerank") == list(range(8))
    ranks = [few.either[i].global_rank for i in card_numbers(source, "global")]
    assert ranks == list(range(1, 9))
    pressed = [a["data-candidate"] for t, a in Text(source).tags if a.get("aria-pressed") == "true"]
    assert pressed == ["8"], "one that fell, in its only column"


def test_arrows_tell_how_far_a_candidate_moved(recognition: Recognition) -> None:
    source = cards.columns(recognition, str, 0, TOWN)
    part = source.split('sv-column sv-rerank"')[1]
    arrows = re.findall(r"([▲▼=])(\d*)</span>", part)
    expected = [
        ("▲" if gain > 0 else "▼" if gain < 0 else "=", str(abs(gain)) if gain else "")
        for gain in (c.global_rank - c.rank for c in recognition.candidates)
    ]
    assert arrows == expected
    assert {a for a, _ in arrows} == {"▲", "▼", "="}, "the example shows all three"


def test_one_stage_alone_says_so() -> None:
    one = FakeRecognizer().recognize(drawn_street(100), rerank=False)
    source = cards.columns(one, str, 0, TOWN)
    assert "Re-ranking is off" in source
    assert "sv-moved" not in source
    assert "matches" not in Text(source.split("sv-rerank")[0]).words


def test_score_and_count_of_matches_are_told_apart(recognition: Recognition) -> None:
    counted = recognition.candidates[0]
    expected = dataclasses.replace(counted, matches=10.24)
    answer = dataclasses.replace(recognition, candidates=(expected,), fallen=())
    assert "match score 10.2" in Text(cards.columns(answer, str, 0, TOWN)).words
    assert "weighed by how unmistakable they are" in Text(cards.columns(answer, str, 0, TOWN)).words
    shown = Text(cards.matches(expected, TOWN, "data:", 80, 1394, 620)).words
    assert "80 of 1,394 matches drawn; 620 of all agree" in shown
    assert "the ranking's score, 10.2, weighs them" in shown
    # Where matches are counted, the ranking and the evidence speak of the same.
    assert "score" not in Text(cards.columns(recognition, str, 0, TOWN)).words
    assert "score" not in Text(cards.matches(counted, TOWN, "data:", 1, 2, 3)).words


def test_first_place_with_fewer_matches_is_explained(recognition: Recognition) -> None:
    why = "as pictures beside it match, too"
    assert why not in Text(cards.columns(recognition, str, 0, TOWN)).words
    best, second, *rest = recognition.candidates
    swapped = (
        dataclasses.replace(second, rank=1), dataclasses.replace(best, rank=2), *rest
    )  # fmt: skip
    narrow = dataclasses.replace(recognition, candidates=swapped)
    source = cards.columns(narrow, str, 0, TOWN)
    assert Text(source).words.count(why) == 1
    assert why in Text(source.split("sv-rerank")[1].split("</li>")[0]).words


@pytest.mark.parametrize("moved", [True, False])
def test_distance_between_both_answers(recognition: Recognition, moved: bool) -> None:
    here = recognition.location.location
    there = Location(here.latitude + (0.001 if moved else 0), here.longitude)
    words = Text(
        cards.columns(dataclasses.replace(recognition, global_location=there), str, 0, TOWN)
    ).words
    sentence = "The two answers are 111 m apart" if moved else "Both stages chose the same place"
    assert sentence in words


def test_names_and_credits_are_escaped(recognition: Recognition) -> None:
    named = with_estimate(recognition, street=NASTY)
    place = dataclasses.replace(
        named.candidates[0].place, street=NASTY, credit=f'" onclick="{NASTY}', licence=NASTY
    )
    nasty = dataclasses.replace(named.candidates[0], place=place)
    named = dataclasses.replace(named, candidates=(nasty, *named.candidates[1:]))
    manifest = dataclasses.replace(
        FakeIndex().manifest, title=NASTY, attribution=NASTY, license=NASTY
    )
    for source in (
        cards.verdict(named, NASTY),
        cards.columns(named, str, 0, manifest),
        cards.matches(nasty, manifest, "data:", 1, 2, 3),
        cards.map_key(named),
        cards.credits([manifest]),
        cards.empty(NASTY, 3, "a map"),
        cards.notice({"en": NASTY, "zh": NASTY}),
        text.error(["OptionError"], NASTY),
        cards.downloads({}, {}, f'{NASTY}" onclick="x.jpg'),
    ):
        assert NASTY not in source
        assert not [a for _, a in Text(source).tags if "onclick" in a]
        assert "script" not in [t for t, _ in Text(source).tags]


def test_heat_maps_that_are_the_same_are_owned_up_to() -> None:
    assert "make no difference" in Text(cards.heat("same", "same")).words
    assert "make no difference" not in Text(cards.heat("one", "other")).words


def test_timings_share_the_bar() -> None:
    source = cards.timings({"open": 10.0, "extract": 30.0})
    assert re.findall(r"width:([\d.]+)%", source) == ["25.00", "75.00"]
    assert "Time: 40 ms" in Text(source).words
    assert "Time: 4.7 s" in Text(cards.timings({"open": 4667.0})).words
    assert "用时：4.7 秒" in cards.timings({"open": 4667.0})


def test_downloads_carry_the_data() -> None:
    source = cards.downloads({"photo": "Straße"}, {"type": "FeatureCollection"}, "a photo.jpg")
    links = [a for t, a in Text(source).tags if t == "a"]
    assert [a["download"] for a in links] == ["a photo.json", "a photo.geojson"]
    bodies = [json.loads(base64.b64decode((a["href"] or "").split(",")[1])) for a in links]
    assert bodies == [{"photo": "Straße"}, {"type": "FeatureCollection"}]


def test_link_is_offered_where_the_address_reopens_the_answer() -> None:
    for linked in (True, False):
        source = cards.downloads({}, {}, "a.jpg", linked=linked)
        assert ('data-do="link"' in source) is linked
        assert 'data-do="picture"' in source


def test_examples_are_called_by_language(tmp_path: Path) -> None:
    path = tmp_path / "rain.jpg"
    drawn_street(1).save(path)
    source = cards.examples(
        [
            Example(path, "Rain & wind", chinese="风雨"),
            Example(path, "Old bridge"),
        ]
    )
    assert '<span class="sv-en">Rain &amp; wind</span><span class="sv-zh" lang="zh">风雨' in source
    assert "<span>Old bridge</span>" in source


def test_every_picture_and_drawing_is_described(recognition: Recognition) -> None:
    for source in (
        cards.columns(recognition, str, 0, TOWN),
        cards.heat("a", "b"),
        cards.matches(recognition.candidates[0], TOWN, "data:", 1, 2, 3),
        cards.how_it_works(),
        cards.header(),
    ):
        for tag, attributes in Text(source).tags:
            if tag == "img":
                assert "alt" in attributes
            if tag == "svg":
                assert {"aria-hidden", "aria-labelledby"} & set(attributes)


def test_drawing_is_named_by_its_own_labels() -> None:
    """They are in both languages, of which one shows; a title of its own could be in one only."""
    source = cards.how_it_works()
    (drawing,) = (about for tag, about in Text(source).tags if tag == "svg")
    names = (drawing["aria-labelledby"] or "").split()
    labels = {about["id"]: about for tag, about in Text(source).tags if tag == "text"}
    assert names == list(labels)
    assert len(names) == 7
    assert source.count('<tspan class="sv-en">') == source.count('<tspan class="sv-zh"') == 7
    assert "<title" not in source


def test_languages_have_the_same_texts_and_places_to_fill() -> None:
    table = text.gradio_table()
    assert table["zh"] == table["zh-CN"] == table["zh-TW"]
    for key, english in table["en"].items():
        assert english, key
        assert set(re.findall(r"\{\w+\}", table["zh"][key])) <= set(
            re.findall(r"\{\w+\}", english)
        ), key


@pytest.mark.parametrize(
    ("metres", "english", "chinese"),
    [
        (0.2, "0 m", "0 米"),
        (999.4, "999 m", "999 米"),
        (999.6, "1.0 km", "1.0 公里"),
        (9949, "9.9 km", "9.9 公里"),
        (1_234_567, "1,235 km", "1,235 公里"),
    ],
)
def test_distances_in_words(metres: float, english: str, chinese: str) -> None:
    assert text.distance(metres) == {"en": english, "zh": chinese}


@pytest.mark.parametrize(
    ("kind", "chinese"), [(PhotoError, "照片"), (HubError, "Hub"), (errors.SelaVPRError, "出错")]
)
def test_errors_are_told_in_both_languages(kind: type[Exception], chinese: str) -> None:
    shown = text.error([k.__name__ for k in kind.__mro__], "It is <small>.")
    english, _, rest = shown.partition('<span class="sv-zh" lang="zh">')
    assert english == '<span class="sv-en">It is &lt;small&gt;.</span>'
    assert chinese in rest
    assert "It is &lt;small&gt;." in rest


def refusals(folder: Path) -> list[errors.SelaVPRError]:
    """What a visitor's photo or request can be refused for, as the engine says it."""
    (folder / "notes.jpg").write_text("words")
    drawn_street(1, (20, 40)).save(folder / "small.png")
    drawn_street(1, (600, 30)).save(folder / "strip.png")
    drawn_street(1).save(folder / "street.jpg")
    (folder / "cut.jpg").write_bytes((folder / "street.jpg").read_bytes()[:2000])
    drawn_street(1).save(folder / "pages.tiff", save_all=True, append_images=[drawn_street(2)])
    drawn_street(1).convert("F").save(folder / "float.tiff")
    photos = (
        "notes.jpg",
        "small.png",
        "strip.png",
        "cut.jpg",
        "pages.tiff",
        "float.tiff",
    )
    attempts = [functools.partial(load_image, folder / name) for name in photos]
    attempts.append(functools.partial(load_image, folder / "street.jpg", max_pixels=1_000))
    site = Site({"drawn-town": FakeRecognizer()})
    attempts.append(functools.partial(site.locate, "x.jpg", "nowhere", 5, True, 5))
    gone = str(folder / "gone.jpg")
    attempts.append(functools.partial(site.locate, gone, "drawn-town", 5, True, 5))
    refused = []
    for attempt in attempts:
        with pytest.raises(errors.SelaVPRError) as caught:
            attempt()
        refused.append(caught.value)
    return refused


def test_what_a_visitor_can_mend_is_said_in_chinese(tmp_path: Path) -> None:
    for error in refusals(tmp_path):
        shown = text.error([k.__name__ for k in type(error).__mro__], str(error))
        chinese = shown.partition('<span class="sv-zh" lang="zh">')[2]
        for name in tmp_path.iterdir():
            chinese = chinese.replace(name.name, "")
        words = set(re.findall(r"\b[a-z]{2,}", chinese)) - {
            "span",
            "drawn",
            "town",
            "nowhere",
            "x27",
        }
        assert not words, (str(error), chinese)


def test_every_error_has_a_sentence_of_its_own_or_of_the_class_above() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    assert len(kinds) >= 7
    for kind in kinds:
        assert text.error([k.__name__ for k in kind.__mro__], "x")


def test_both_languages_escape_and_fill() -> None:
    shown = text.both("probably", street="<A>")
    assert shown == (
        '<span class="sv-en">This is probably &lt;A&gt;</span>'
        '<span class="sv-zh" lang="zh">这里很可能是&lt;A&gt;</span>'
    )
    assert text.plain("probably", "zh-CN", street="A") == "这里很可能是 A"
    assert text.plain("probably", "fr", street="A") == "This is probably A"


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("sure", {"street": "Vuorikatu"}, "这里是 Vuorikatu"),
        ("sure", {"street": "市场街"}, "这里是市场街"),
        ("sure", {"street": ""}, "这里是"),
        ("percent_not", {"percent": 3, "city": "Åbo"}, "位于 Åbo 的可能性为 3 %"),
        ("percent_not", {"percent": 3, "city": "北京"}, "位于北京的可能性为 3 %"),
        ("empty_note", {"count": "24", "city": "Åbo"}, "照片将与 Åbo 的 24 张照片比对。"),
    ],
)
def test_latin_letters_keep_off_chinese_ones(
    key: str, values: dict[str, object], shown: str
) -> None:
    assert text.plain(key, "zh", **values).startswith(shown)
