"""The page's endpoints through gradio's own client, over a recogniser that answers at once."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fake_recognizer import FakeIndex, FakeRecognizer, drawn_street
from fake_server import Server, serving
from gradio import processing_utils
from gradio.data_classes import PredictBodyInternal
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from PIL.ExifTags import IFD

from selavpr import ui
from selavpr.cards import Example
from selavpr.errors import OptionError
from selavpr.exif import read_position
from selavpr.geo import Location
from selavpr.report import to_dict
from selavpr.session import Session
from selavpr.text import plain


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "street.png"
    drawn_street(100, (640, 480)).save(path)
    return path


@pytest.fixture(scope="module")
def town() -> FakeRecognizer:
    return FakeRecognizer()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    return server.address


@pytest.fixture(scope="module")
def client(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    connected = Client(address, verbose=False, download_files=tmp_path_factory.mktemp("client"))
    yield connected
    connected.close()


def test_locate_gives_the_schema_of_the_command_line(
    client: Client, town: FakeRecognizer, photo: Path
) -> None:
    answer = client.predict(handle_file(photo), "drawn-town", 5, True, 3, api_name="/locate")
    expected = to_dict(town.recognize(photo, top_k=5, rerank_depth=3), "street.png")
    # Opening the photo is timed by the page, which opens it.
    assert answer["timings_ms"].pop("open") > expected["timings_ms"].pop("open")
    assert answer == json.loads(json.dumps(expected))
    assert [c["matches"] is None for c in answer["candidates"]] == [False] * 3 + [True] * 2


def test_matches_of_a_candidate(client: Client, town: FakeRecognizer, photo: Path) -> None:
    answer = client.predict(handle_file(photo), "drawn-town", 5, True, 5, 2, api_name="/matches")
    second = town.recognize(photo, top_k=5).candidates[1]
    assert answer["rank"] == 2
    assert answer["place_id"] == second.place.place_id
    assert answer["photo_size"] == [640, 480]
    assert answer["candidate_size"] == [320, 240]
    assert len(answer["matches"]) == 120
    first = answer["matches"][0]
    assert set(first) == {"query", "candidate", "similarity", "agrees"}
    assert first["similarity"] == max(m["similarity"] for m in answer["matches"])


def test_stages_can_be_switched_off(client: Client, photo: Path) -> None:
    answer = client.predict(handle_file(photo), "other-town", 3, False, 3, api_name="/locate")
    assert [c["matches"] for c in answer["candidates"]] == [None, None, None]
    assert answer["confidence"] is None
    assert "rerank" not in answer["timings_ms"]


@pytest.mark.parametrize(("city", "depth"), [("drawn-town", 16), ("other-town", 4)])
def test_as_many_are_reranked_as_the_city_is_calibrated_for(
    client: Client, photo: Path, city: str, depth: int
) -> None:
    answer = client.predict(photo=handle_file(photo), city=city, api_name="/locate")
    assert sum(c["matches"] is not None for c in answer["candidates"]) == depth
    assert len(answer["candidates"]) > depth


def test_the_page_offers_what_any_city_is_calibrated_for(address: str) -> None:
    with urllib.request.urlopen(f"{address}config", timeout=10) as reply:
        parts = [part["props"] for part in json.load(reply)["components"]]
    # The first city's to begin with; broken-town's is the most there is.
    assert [p.get("value") for p in parts if p.get("maximum") == 120] == [16, None]


def test_only_the_two_endpoints_are_public_and_they_are_documented(client: Client) -> None:
    described: dict[str, Any] = client.view_api(return_format="dict", print_info=False)
    endpoints = described["named_endpoints"]
    assert set(endpoints) == {"/locate", "/matches"}
    names = [p["parameter_name"] for p in endpoints["/locate"]["parameters"]]
    assert names == ["photo", "city", "top_k", "rerank", "rerank_depth"]
    assert "error radii" in endpoints["/locate"]["description"]
    labels = [p["label"] for p in endpoints["/matches"]["parameters"]]
    assert labels == [
        "street photo",
        "city: name of the index to search",
        "candidates to return",
        "order by matched details",
        "candidates to re-rank; left out, as many as calibrated for",
        "rank of the candidate, 1 for the best",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"just words", "is not a photo this app can read"), (b"\x89PNG\r\n\x1a\n", "notes.png is")],
)
def test_what_is_not_a_photo_is_said_plainly(
    client: Client, tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(AppError, match=complaint):
        client.predict(handle_file(path), "drawn-town", 5, True, 5, api_name="/locate")


def test_a_bomb_is_refused_before_it_is_decoded(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    drawn_street(1, (10_000, 10_000)).save(path)
    with pytest.raises(AppError, match="larger than 64 megapixels"):
        client.predict(handle_file(path), "drawn-town", 5, True, 5, api_name="/locate")


@pytest.mark.parametrize(
    ("city", "top_k", "complaint"),
    [
        ("drawn-town", 5, "Choose a photo first"),
        ("nowhere", 5, "no city 'nowhere'|not in the list"),
    ],
)
def test_wrong_arguments_are_named(
    client: Client, photo: Path, city: str, top_k: int, complaint: str
) -> None:
    given = handle_file(photo) if city == "nowhere" else None
    with pytest.raises(AppError, match=complaint):
        client.predict(given, city, top_k, True, 5, api_name="/locate")


def test_other_failures_are_logged_and_kept_from_the_visitor(
    client: Client, server: Server, photo: Path
) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(photo), "broken-town", 5, True, 5, api_name="/locate")
    assert "Something went wrong" in str(caught.value)
    assert "secret detail" not in str(caught.value)
    assert "RuntimeError: secret detail" in server.log()


def answered(address: str, number: int, data: list[Any], visitor: str) -> dict[str, Any]:
    """What the page is told when a visitor sets off one of its events."""
    asked = {"fn_index": number, "data": data, "event_data": {"number": 0}, "session_hash": visitor}
    request = urllib.request.Request(
        f"{address}gradio_api/queue/join",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()
    told = f"{address}gradio_api/queue/data?session_hash={visitor}"
    with urllib.request.urlopen(told, timeout=20) as events:
        for line in events:
            message = json.loads(line.removeprefix(b"data: ")) if line.strip() else {}
            if message.get("msg") == "process_completed":
                return dict(message)
    raise AssertionError("no answer")


def test_answer_that_was_forgotten_is_said_by_all_that_needs_one(
    address: str, server: Server
) -> None:
    """As to a page that was open for too long; this visitor never had an answer."""
    with urllib.request.urlopen(f"{address}config", timeout=10) as reply:
        page = json.load(reply)
    value = {part["id"]: part["props"].get("value") for part in page["components"]}
    session = next(part["id"] for part in page["components"] if part["type"] == "state")
    needy = [
        event
        for event in page["dependencies"]
        if event["inputs"][:1] == [session] and event["backend_fn"]
    ]
    assert len(needy) == 12, "four that follow an answer, in two ways; a pick; three controls"
    for event in needy:
        data = [value[part] for part in event["inputs"]]
        told = answered(address, event["id"], data, f"forgotten-{event['id']}")
        assert not told["success"]
        assert "has been forgotten; press Locate again." in told["output"]["error"]
        assert "这个结果已不再保留" in told["output"]["error"]
    assert "NoneType" not in server.log()


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_leaflet_is_served_and_other_files_are_not(address: str, tmp_path: Path) -> None:
    with urllib.request.urlopen(f"{address}config", timeout=10) as reply:
        config = reply.read().decode()
    assert "fonts.googleapis" not in config
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    here = Path(__file__).resolve()
    for path in (secret, here, here.parents[1] / "requirements.txt", Path("/etc/passwd")):
        assert status(f"{address}gradio_api/file={path}") in (403, 404), path


def test_request_that_is_too_long_is_refused_before_it_comes(address: str) -> None:
    at = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()  # and not a byte of it
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.load(reply) == {"detail": "A request may hold 31 MB at most."}
    connection.close()


def test_visitors_get_their_own_answers(address: str, town: FakeRecognizer, tmp_path: Path) -> None:
    wanted, got, clients = {}, {}, []
    for number in range(3):
        path = tmp_path / f"street{number}.png"
        drawn_street(200 + number, (320, 240)).save(path)
        wanted[number] = to_dict(town.recognize(path, top_k=4), path.name)["candidates"]
        clients.append((number, path, Client(address, verbose=False)))

    def ask(number: int, path: Path, visitor: Client) -> None:
        answer = visitor.predict(handle_file(path), "drawn-town", 4, True, 4, api_name="/locate")
        got[number] = answer["candidates"]

    threads = [threading.Thread(target=ask, args=visitor) for visitor in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, _, visitor in clients:
        visitor.close()
    assert got == wanted
    assert wanted[0] != wanted[1] != wanted[2]


def test_health_answers_outside_the_line(address: str) -> None:
    with urllib.request.urlopen(f"{address}health", timeout=10) as reply:
        assert json.load(reply) == {
            "status": "ok",
            "cities": ["drawn-town", "other-town", "broken-town"],
        }


def test_photos_own_position_is_in_no_answer(client: Client, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[IFD.GPSInfo] = {1: "N", 2: (12.0, 34.0, 0.0), 3: "E", 4: (56.0, 7.0, 0.0)}
    path = tmp_path / "tagged.jpg"
    drawn_street(100, (640, 480)).save(path, exif=tags)
    assert read_position(path) is not None
    answer = client.predict(handle_file(path), "drawn-town", 5, True, 5, api_name="/locate")
    assert "12.5" not in json.dumps(answer["location"])
    assert "truth" not in json.dumps(answer)


def test_mcp_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(OptionError, match="gradio\\[mcp\\]"):
        ui.launch(None, mcp=True)


class Unstarted:
    """A page whose start fails so many times."""

    def __init__(self, site: Path, *failures: Exception) -> None:
        self.site = SimpleNamespace(folder=site, recognizers={})
        self.failures = list(failures)
        self.closed = 0

    def launch(self, **options: object) -> tuple[None, str, None]:
        if self.failures:
            raise self.failures.pop(0)
        return None, "http://127.0.0.1:7860/", None

    def close(self, **options: object) -> None:
        self.closed += 1


LATE = "When localhost is not accessible, a shareable link must be created."


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ([OSError("Cannot find empty port in range: 80-80.")], "port 80: another program may"),
        ([OverflowError("bind(): port must be 0-65535.")], "port 80: another program may"),
        ([ValueError(LATE)] * 3, "does not reach it: except localhost from the proxy"),
    ],
)
def test_start_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: list[Exception], said: str
) -> None:
    monkeypatch.setattr(processing_utils, "async_transport", None)
    with pytest.raises(OptionError, match=said):
        ui.launch(Unstarted(tmp_path, *failures), port=80)


def test_start_on_a_busy_machine_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing_utils, "async_transport", None)
    page = Unstarted(tmp_path, ValueError(LATE), ValueError(LATE))
    assert ui.launch(page) == "http://127.0.0.1:7860/"
    assert page.closed == 2
    with pytest.raises(ValueError, match="other"):
        ui.launch(Unstarted(tmp_path, ValueError("some other thing")))


class Page:
    """The page over two towns, its handlers called as Gradio would call them."""

    def __init__(self, tmp_path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.photos = [tmp_path / "a.png", tmp_path / "b.png"]
        for number, path in enumerate(self.photos):
            drawn_street(3 + 50 * number, (320, 240)).save(path)
        towns = {"a": FakeRecognizer(), "b": FakeRecognizer(FakeIndex("b", "B Town"))}
        example = Example(self.photos[0], "One", Location(60.166, 24.942))
        self.demo = ui.build_demo(towns, [example], tiles=False)
        self.state = SessionState(self.demo)
        self.request = gr.Request(session_hash="me", headers={}, query_params={}, cookies={})

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def named(self, name: str) -> Any:
        return next(fn for fn in self.demo.fns.values() if fn.api_name == name)

    async def call(self, name: str, *inputs: object, **options: Any) -> Any:
        done = await self.demo.process_api(
            self.named(name), list(inputs), state=self.state, request=self.request, **options
        )
        return done["data"]

    async def locate(self, photo: int, city: str) -> Any:
        file = {"path": str(self.photos[photo]), "meta": {"_type": "gradio.FileData"}}
        return await self.call("show", file, city, 5, True, 5, False, None)

    @property
    def session(self) -> Session:
        found: Session = self.state[self.named("columns").inputs[0]._id]
        return found


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    # Gradio makes a loop where none runs, and leaves it open.
    loop = asyncio.new_event_loop()

    async def made() -> Page:
        return Page(tmp_path, loop)

    yield loop.run_until_complete(made())
    loop.close()


def test_a_full_line_stops_photos_and_nothing_else(page: Page) -> None:
    number = {fn.api_name: i for i, fn in page.demo.fns.items()}

    async def asked(name: str, visitor: str) -> tuple[bool, str]:
        body = PredictBodyInternal(session_hash=visitor, fn_index=number[name], data=[])
        taken, _, why = await page.demo._queue.push(body, None, None)
        return taken, why

    async def everybody() -> None:
        for i in range(ui.QUEUE):
            assert (await asked("locate", f"v{i}"))[0]
        for name in ("locate", "matches", "show"):
            assert await asked(name, "late") == (False, "queue_full")
        for name in ("draw_map", "columns", "first_pick", "heat", "pick", "redraw", "_check"):
            assert (await asked(name, "served"))[0], name
        for i in range(ui.QUEUE * ui.PER_VISITOR):  # nor is anything else without end
            taken, why = await asked("redraw", f"r{i}")
        assert (taken, why) == (False, "queue_full")

    page.run(everybody())


def test_what_comes_late_is_of_no_answer(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second photo is answered while the first one's matches are drawn."""
    begun, gate = threading.Event(), threading.Event()
    draw = page.demo.site.matches

    def slow(*given: Any) -> str:
        begun.set()
        assert gate.wait(20)
        return str(draw(*given))

    async def both() -> None:
        await page.locate(0, "a")
        assert page.session.name == "a.png"
        monkeypatch.setattr(page.demo.site, "matches", slow)
        event = gr.EventData(None, {"number": 1})
        late = asyncio.create_task(page.call("pick", None, 80, 0, False, event_data=event))
        await asyncio.to_thread(begun.wait, 20)
        await page.locate(1, "b")
        gate.set()
        _, picture = await late
        assert picture["__type__"] == "update" and picture["props"] == {"__type__": "update"}
        assert (page.session.name, page.session.city) == ("b.png", "b")
        await page.call("first_pick", None, 80, 0, False)
        assert page.session.matches is not None and page.session.name == "b.png"

    page.run(both())


def test_a_link_is_offered_where_it_leads_back(page: Page) -> None:
    """It names the example, and those are of the first city."""
    _, _, _, truth = page.named("choose").fn("b", 5, SimpleNamespace(number=0))
    for city, linked in (("a", True), ("b", False)):
        shown = page.named("show").fn(
            str(page.photos[0]), city, 5, True, 5, False, truth, page.request, lambda *_, **__: None
        )
        assert ('data-do="link"' in shown[-1]) == linked


def test_a_photo_that_was_deleted_is_asked_for_again(page: Page) -> None:
    gone = str(page.photos[0].with_name("gone.png"))
    with pytest.raises(gr.Error) as error:
        page.named("show").fn(
            gone, "a", 5, True, 5, False, None, page.request, lambda *_, **__: None
        )
    assert "choose it again" in error.value.message and "重新选择" in error.value.message
    assert str(page.photos[0].parent) not in error.value.message


def test_numbers_that_are_missing_or_out_of_range(page: Page) -> None:
    """People empty a number box before they type; programs are told what is wrong."""
    *_, lines, least, _ = page.named("redraw").inputs
    assert [lines.preprocess(x) for x in (None, 500, 0, 7)] == [ui.LINES, 400, 1, 7]
    assert [least.preprocess(x) for x in (None, 2, 0.5)] == [0, 1, 0.5]
    top_k = page.named("locate").inputs[2]
    assert top_k.preprocess(None) == ui.TOP_K
    with pytest.raises(gr.Error, match="greater than maximum"):
        top_k.preprocess(500)
    found = page.named("matches").fn(str(page.photos[0]), "a", 5, True, None, None)
    assert found["rank"] == 1


def test_city_changed_when_the_answer_is_forgotten(page: Page) -> None:
    change = next(
        fn.fn
        for fn in page.demo.fns.values()
        if [type(i) for i in fn.inputs] == [gr.Dropdown, gr.State]
    )
    overview, _, more, wide = change("b", None)
    assert "B Town" in overview and not more.visible and not wide.visible


def test_page_tells_how_long_a_photo_is_kept() -> None:
    """A photo just too young to be deleted stays until the next look."""
    minutes = (ui.KEEP_SECONDS + ui.LOOK_SECONDS) // 60
    for language, told in (("en", f"within {minutes} minutes"), ("zh", f"{minutes} 分钟内")):
        assert told in plain("empty_note", language, count="24", city="Åbo")


def test_cities_of_one_title_are_told_apart() -> None:
    titles = {"helsinki": "Helsinki", "helsinki-2": "Helsinki", "campus": "Campus"}
    assert ui._labelled(titles) == [
        ("Helsinki (helsinki)", "helsinki"),
        ("Helsinki (helsinki-2)", "helsinki-2"),
        ("Campus", "campus"),
    ]


def test_without_a_city_the_page_says_what_to_do() -> None:
    with pytest.raises(OptionError, match="index build"):
        ui.build_demo({})


def test_uploads_have_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "new" / "one"))
    with ui.private_uploads() as uploads:
        assert uploads.parent == (tmp_path / "new" / "one").resolve()
        assert os.environ["GRADIO_TEMP_DIR"] == str(uploads)
        assert uploads.stat().st_mode & 0o077 == 0
        (uploads / "photo.jpg").write_bytes(b"x")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(in_the_way))
    with pytest.raises(OptionError, match="Set GRADIO_TEMP_DIR"), ui.private_uploads():
        pass
