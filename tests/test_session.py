"""What the page does, without a page."""

from __future__ import annotations

import functools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_recognizer import FakeIndex, FakeRecognizer, drawn_street
from test_gpu import Lender

from selavpr import gpu
from selavpr.errors import HubError, IndexFileError, OptionError, PhotoError
from selavpr.session import Session, Site
from selavpr.structs import KeypointMatches, Recognition


class Watched(FakeRecognizer):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(FakeIndex(count=6))
        self.asked: list[dict[str, Any]] = []
        self.warmed: list[bool] = []

    def recognize(self, photo: Any, **options: Any) -> Recognition:
        self.asked.append(options)
        return super().recognize(photo, **options)

    def heatmap(self, photo: Any, *, adapted: bool = True) -> np.ndarray:
        self.warmed.append(adapted)
        return super().heatmap(photo, adapted=adapted)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "street.png"
    drawn_street(7, (1200, 900)).save(path)
    return str(path)


def located(site: Site, photo: str) -> Session:
    return site.locate(photo, "drawn-town", 5, True, 3)


def test_stages_are_heard_and_settings_handed_on(photo: str) -> None:
    town = Watched()
    heard: list[str] = []
    found = Site({"drawn-town": town}).locate(
        photo, "drawn-town", 5, True, 3, progress=lambda stage, share: heard.append(stage)
    )
    assert heard[:3] == ["open", "open", "extract"], "the page opens, then the recogniser"
    assert (town.asked[0]["top_k"], town.asked[0]["rerank_depth"]) == (5, 3)
    assert found.name == "street.png"
    assert found.photo.size == (960, 720)
    assert found.recognition.photo_size == (1200, 900)


def test_without_a_basemap_the_map_shows_where_references_are(
    photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_streets = Site({"drawn-town": FakeRecognizer()})
    assert "&quot;covered&quot;: []" in with_streets.map(located(with_streets, photo))
    monkeypatch.setattr(FakeIndex, "basemap", lambda index: None)
    without = Site({"drawn-town": FakeRecognizer()})
    place = FakeIndex().place(0).location
    assert f"&quot;covered&quot;: [[{place.latitude}, {place.longitude}], " in without.map(
        located(without, photo)
    )


def test_a_basemap_that_cannot_be_read_stops_nothing(
    photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def basemap(index: FakeIndex) -> None:
        raise IndexFileError("basemap.geojson is damaged.")

    monkeypatch.setattr(FakeIndex, "basemap", basemap)
    site = Site({"drawn-town": FakeRecognizer()})
    assert "&quot;covered&quot;: [[" in site.map(located(site, photo))
    assert "without its basemap: basemap.geojson is damaged." in caplog.text


def test_heat_runs_the_network_once_for_what_the_answer_lacks(photo: str) -> None:
    town = Watched()
    site = Site({"drawn-town": town})
    shown = site.heat(located(site, photo))
    assert town.warmed == [False]
    assert len(re.findall("<img", shown)) == 2


def test_equal_heat_is_owned_up_to(photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site({"drawn-town": FakeRecognizer()})
    found = located(site, photo)
    assert "make no difference" not in site.heat(found)
    monkeypatch.setattr(FakeRecognizer, "heat_of", lambda town, features: town._heat(0.8))
    assert "make no difference" in site.heat(found)


class Counted(FakeRecognizer):
    """Counts who is in the network at once."""

    inside, most = 0, 0

    def _enter(self) -> None:
        Counted.inside += 1
        Counted.most = max(Counted.most, Counted.inside)
        time.sleep(0.05)
        Counted.inside -= 1

    def recognize(self, photo: Any, **options: Any) -> Recognition:
        self._enter()
        return super().recognize(photo, **options)

    def matches(self, recognition: Recognition, i: int) -> KeypointMatches:
        self._enter()
        return super().matches(recognition, i)

    def heatmap(self, photo: Any, *, adapted: bool = True) -> np.ndarray:
        self._enter()
        return super().heatmap(photo, adapted=adapted)


def test_network_is_used_one_at_a_time_by_all_cities(photo: str) -> None:
    site = Site({name: Counted(FakeIndex(name)) for name in ("drawn-town", "other-town")})
    found = [site.locate(photo, name, 5, True, 3) for name in site.recognizers]
    uses = [functools.partial(site.locate, photo, f.city, 5, True, 3) for f in found]
    uses += [functools.partial(site.pick, f, 1) for f in found]
    uses += [functools.partial(site.heat, f) for f in found]
    with ThreadPoolExecutor(len(uses)) as pool:
        list(pool.map(lambda use: use(), uses))
    assert Counted.most == 1


def test_what_is_drawn_needs_no_turn(photo: str) -> None:
    site = Site({"drawn-town": FakeRecognizer()})
    found = site.pick(located(site, photo), 0)
    with site._network:  # somebody else's photo is in it
        for shown in (site.verdict(found), site.map(found), site.columns(found)):
            assert shown
        assert site.matches(found, 10, 0, False)


def test_answer_stands_without_a_thumbnail(
    photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    town = FakeRecognizer()
    site = Site({"drawn-town": town})
    found = located(site, photo)
    whole = site.columns(found)

    def silent(row: int) -> None:
        raise HubError("The Hub cannot be reached.")

    site = Site({"drawn-town": town})
    monkeypatch.setattr(town.index, "photo", silent)
    bare = site.columns(found)
    assert bare.count("<img") == whole.count("<img")
    assert "The Hub cannot be reached." in caplog.text
    monkeypatch.undo()
    assert site.columns(found) == whole, "it is asked for again"


def test_photo_that_is_gone_is_said(photo: str) -> None:
    site = Site({"drawn-town": FakeRecognizer()})
    found = located(site, photo)
    Path(photo).unlink()
    for again in (site.heat, lambda found: site.locate(found.path, found.city, 5, True, 3)):
        with pytest.raises(PhotoError, match=r"^This photo has been deleted here meanwhile;"):
            again(found)


def test_the_last_answer_of_each_visitor_is_known(photo: str) -> None:
    site = Site({"drawn-town": FakeRecognizer()})
    mine, yours = (site.locate(photo, "drawn-town", 5, True, 3, visitor=v) for v in "ab")
    assert not site.is_past(mine) and not site.is_past(located(site, photo))
    picked = site.pick(mine, 1)
    again = site.locate(photo, "drawn-town", 5, True, 3, visitor="a")
    assert site.is_past(mine) and site.is_past(picked)
    assert not site.is_past(again) and not site.is_past(yours)


def test_lent_gpu_gets_and_gives_what_can_travel(
    photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = Lender()
    monkeypatch.setattr(gpu, "spaces", lender)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    site = Site({"drawn-town": FakeRecognizer()})
    found = site.pick(located(site, photo), 1)
    site.heat(found)
    assert len(lender.durations) == 3
    assert max(lender.durations) <= 30, "short calls wait less"
    assert found.recognition.features.tokens.device.type == "cpu"
    assert found.matches is not None
    with pytest.raises(OptionError, match="no city 'nowhere'"):
        site.locate(photo, "nowhere", 5, True, 5)
