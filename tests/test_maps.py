from __future__ import annotations

import dataclasses
import html
import json
import re

import pytest
from fake_recognizer import NASTY, FakeIndex, FakeRecognizer, drawn_street

from selavpr import maps
from selavpr.geo import Location
from selavpr.structs import Recognition


@pytest.fixture(scope="module")
def recognition() -> Recognition:
    return FakeRecognizer().recognize(drawn_street(100))


def data_of(page: str) -> dict[str, object]:
    """The plain data handed to the script: the last argument of its call."""
    call = re.search(r"\(map_\w+, (?:tile_layer_\w+|null), (\{.*\})\);</script>", page)
    assert call
    found: dict[str, object] = json.loads(call[1])
    return found


def test_nothing_is_fetched_but_tiles(recognition: Recognition) -> None:
    page = maps.build_map(recognition)
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    fetched = set(re.findall(r"L\.tileLayer\(\s*\"(https?://[^\"]+)", page))
    assert fetched == {maps.TILES}
    assert "cdn" not in page.lower().replace("cdnum", "")


def test_leaflet_is_carried_inside_or_referred_to(recognition: Recognition) -> None:
    inside = maps.build_map(recognition)
    leaflet = (maps.leaflet_folder() / "leaflet.js").read_text(encoding="utf-8")
    assert leaflet in inside
    served = maps.build_map(recognition, served=maps.Served("gradio_api/file=/tmp/x y", "b.json"))
    assert leaflet not in served
    assert '<script src="gradio_api/file=/tmp/x y/leaflet.js">' in served
    assert len(served) < 60_000
    assert data_of(served)["basemap"] == "b.json"


def test_pins_carry_both_ranks_and_the_answer_its_place(recognition: Recognition) -> None:
    data = data_of(maps.build_map(recognition))
    where = recognition.location.location
    assert data["answer"] == [where.latitude, where.longitude]
    assert data["pins"] == [
        {
            "i": i,
            "at": [c.place.location.latitude, c.place.location.longitude],
            "rank": c.rank,
            "global": c.global_rank,
            "street": c.place.street,
            "similarity": round(c.similarity, 3),
            "matches": c.matches,
        }
        for i, c in enumerate(recognition.candidates)
    ]
    assert data["truth"] is None


def test_pins_and_lines_know_what_fell_behind_the_candidates(recognition: Recognition) -> None:
    behind = tuple(c for c in recognition.candidates[8:] if c.global_rank <= 8)
    assert behind, "the example has some"
    few = dataclasses.replace(recognition, candidates=recognition.candidates[:8], fallen=behind)
    data = data_of(maps.build_map(few))
    assert {p["global"] for p in data["pins"]} >= set(range(1, 9))
    assert [p["i"] for p in data["pins"]] == list(range(8 + len(behind)))
    assert data["moves"] == data_of(maps.build_map(recognition))["moves"]


def test_circles_are_drawn_when_calibrated_and_only_then(recognition: Recognition) -> None:
    data = data_of(maps.build_map(recognition))
    assert data["circles"] == [[60.0, "circle90"], [15.0, "circle50"]]
    assert data["text"]["circle50"]["en"] == "Half of answers lie this close: 15 m"
    unknown = dataclasses.replace(recognition.location, radius50_m=None, radius90_m=None)
    page = maps.build_map(dataclasses.replace(recognition, location=unknown))
    assert data_of(page)["circles"] == []


def test_lines_lead_from_each_ranks_old_place_to_its_new_one(recognition: Recognition) -> None:
    moves = data_of(maps.build_map(recognition))["moves"]
    old = {c.global_rank: c.place.location for c in recognition.candidates}
    new = {c.rank: c.place.location for c in recognition.candidates}
    expected = [
        {
            "rank": rank,
            "from": [old[rank].latitude, old[rank].longitude],
            "to": [new[rank].latitude, new[rank].longitude],
        }
        for rank in range(1, 6)
        if old[rank].distance_m(new[rank]) > 3
    ]
    assert moves == expected
    assert moves, "the drawn town shuffles its candidates"


def test_nothing_moves_without_reranking() -> None:
    alone = FakeRecognizer().recognize(drawn_street(100), rerank=False)
    assert data_of(maps.build_map(alone))["moves"] == []


def test_overview_shows_every_place_or_evenly_chosen_ones() -> None:
    here = [Location(60 + i / 1e5, 24.9) for i in range(4001)]
    few = data_of(maps.build_overview(here[:7]))["dots"]
    assert few == [[place.latitude, place.longitude] for place in here[:7]]
    many = data_of(maps.build_overview(here))["dots"]
    assert len(many) == 1334, "every third of 4001"
    assert many[1] == [here[3].latitude, 24.9]


def test_truth_shows_with_its_distance(recognition: Recognition) -> None:
    here = recognition.location.location
    truth = Location(here.latitude + 0.001, here.longitude)  # 0.001 degree of latitude is 111 m
    data = data_of(maps.build_map(recognition, truth=truth))
    assert data["truth"] == [truth.latitude, truth.longitude]
    assert data["text"]["truth"]["en"] == "True position: 111 m from the true position"
    own = data_of(maps.build_map(recognition, truth=truth, own=True))
    assert own["text"]["truth"]["en"].endswith("111 m from the photo's own GPS position")


def test_tiles_can_be_left_out(recognition: Recognition) -> None:
    page = maps.build_map(recognition, tiles=False)
    assert "L.tileLayer" not in page.split("function (map, tiles, data)")[0].split("<body>")[1]
    assert re.search(r"\(map_\w+, null, \{", page)


def test_tiles_name_their_authors_and_send_a_referrer(recognition: Recognition) -> None:
    page = maps.build_map(recognition)
    assert "openstreetmap.org/copyright" in page
    assert '"referrerPolicy": "strict-origin-when-cross-origin"' in page
    assert 'referrerpolicy="strict-origin-when-cross-origin"' in maps.frame(page)


def test_names_cannot_break_out_of_the_script(recognition: Recognition) -> None:
    basemap = FakeIndex().basemap()
    page = maps.build_map(recognition, basemap=basemap, attribution="<img src=x onerror=1>")
    # Leaflet, folium's script, ours, and nothing that a name brought in.
    assert len(re.findall(r"<script\b", page)) == 3
    assert len(re.findall(r"</script>", page)) == 3
    assert NASTY not in page
    assert "<img src=x" not in page
    data = data_of(page)
    # Whole, too: folium would have run "{{x}}" as a template.
    assert NASTY in {pin["street"] for pin in data["pins"]}
    assert data["attribution"] == "&lt;img src=x onerror=1&gt;"
    assert data["basemap"] == basemap


def test_frame_keeps_the_page_whole(recognition: Recognition) -> None:
    page = maps.build_map(recognition)
    source = re.search(r'srcdoc="([^"]*)"', maps.frame(page))
    assert source
    assert html.unescape(source[1]) == page


def test_map_is_named_in_both_languages(recognition: Recognition) -> None:
    """What only a screen reader says; the script puts what the page's language has for it."""
    overview = maps.build_overview([Location(60, 24.9)])
    for page, english, chinese in (
        (maps.build_map(recognition), "Map of the answer", "结果地图"),
        (overview, "Where the photos of this city were taken", "这座城市参考照片的拍摄位置"),
    ):
        said = data_of(page)["text"]
        assert said["map"] == {"en": english, "zh": chinese}
        assert f"<title>{english}</title>" in page
        assert said["zoom_in"] == {"en": "Zoom in", "zh": "放大"}
        assert {"zoom_out", "layers", "close"} < set(said)


def test_popups_name_their_numbers(recognition: Recognition) -> None:
    """A score is no count of matches, and neither is a number without a word."""
    said = data_of(maps.build_map(recognition))["text"]
    assert said["similarity"] == {"en": "similarity {value}", "zh": "相似度 {value}"}
    assert said["matches"]["en"] == "{count} matches"
    first = dataclasses.replace(recognition.candidates[0], matches=10.24)
    expected = dataclasses.replace(recognition, candidates=(first,), fallen=())
    assert data_of(maps.build_map(expected))["text"]["matches"]["en"] == "match score {count}"


def test_moves_are_explained_only_where_there_are_some(recognition: Recognition) -> None:
    assert maps.has_moves(recognition)
    assert not maps.has_moves(FakeRecognizer().recognize(drawn_street(100), rerank=False))


def test_authors_are_named_in_the_pages_language(recognition: Recognition) -> None:
    said = data_of(maps.build_map(recognition, attribution="A. Nyman"))
    assert said["attribution"] == "A. Nyman"
    assert said["text"]["photos_of"] == {"en": "Photos: {credit}", "zh": "参考照片：{credit}"}
