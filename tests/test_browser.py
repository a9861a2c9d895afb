"""The page in a real browser. Screenshots go to $CI_OUTPUT, or to pytest's own folder."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_recognizer import NASTY, FakeRecognizer, drawn_street
from fake_server import Server, serving
from PIL import Image
from PIL.ExifTags import IFD

from selavpr import maps

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 1000.0
PATIENCE = 60 * SECONDS  # a shared machine may be slow; nothing waits this long when it works

sync_api = pytest.importorskip("playwright.sync_api") if "CI" not in os.environ else None
if sync_api is None:
    import playwright.sync_api as sync_api

if not Path(CHROMIUM).exists():
    if "CI" in os.environ:
        raise RuntimeError(f"CI must test the page in a browser, and {CHROMIUM} is missing.")
    pytest.skip(f"{CHROMIUM} is not installed", allow_module_level=True)

Page = sync_api.Page
expect = sync_api.expect


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if wanted := os.environ.get("CI_OUTPUT"):
        folder = Path(wanted) / "screenshots"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
    return tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "my street.jpg"
    drawn_street(300, (640, 480)).save(path)
    return path


class Visitor:
    """An opened page that remembers what it asked of other machines and what it complained of."""

    def __init__(self, browser: sync_api.Browser, address: str, **context: object) -> None:
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", self._asked)  # of workers, too
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open(address)
        expect(self.page.locator(".sv-header h1")).to_be_visible(timeout=PATIENCE)

    def open(self, address: str) -> None:
        # Leaving a page breaks its streams off, and Gradio's client complains on its way out.
        said = list(self.complaints)
        self.page.goto("about:blank")
        self.complaints[:] = said
        self.page.goto(address)

    def _asked(self, request: sync_api.Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
            self.outside.append(request.url)

    def _said(self, message: sync_api.ConsoleMessage) -> None:
        # Gradio's client warns this of itself whenever it ends the progress stream of an upload.
        if message.text == "Method not implemented.":
            return
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}")

    def upload(self, path: Path) -> None:
        self.page.locator('#sv-photo input[type="file"]').first.set_input_files(path)

    def try_example(self, number: int = 0) -> None:
        self.page.locator(f'[data-example="{number}"]').click()
        self.explained()

    def explained(self) -> None:
        """Wait until everything that follows an answer is on the page."""
        expect(self.page.locator(".sv-verdict")).to_be_visible(timeout=PATIENCE)
        expect(self.page.locator(".sv-heat img")).to_have_count(2, timeout=PATIENCE)
        expect(self.page.locator("#sv-matches img")).to_have_count(1, timeout=PATIENCE)

    def wait_for(self, condition: str, argument: object = None) -> None:
        self.page.wait_for_function(condition, arg=argument, timeout=PATIENCE)

    @property
    def map(self) -> sync_api.FrameLocator:
        return self.page.frame_locator("iframe.sv-map")


@pytest.fixture
def visit(browser: sync_api.Browser, server: Server) -> Iterator[object]:
    opened: list[Visitor] = []

    def enter(**context: object) -> Visitor:
        context = {"viewport": {"width": 1360, "height": 900}, "locale": "en-US", **context}
        opened.append(Visitor(browser, server.address, **context))
        return opened[-1]

    yield enter
    for visitor in opened:
        visitor.context.close()
    # Every test is also a test of these two.
    assert [url for visitor in opened for url in visitor.outside] == []
    assert [line for visitor in opened for line in visitor.complaints] == []


def source(visitor: Visitor) -> str:
    found = visitor.page.locator("#sv-matches img").get_attribute("src")
    assert found
    return found


def test_upload_then_locate(visit, shots: Path, photo: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.page.screenshot(path=shots / "start.png", full_page=True)
    visitor.upload(photo)
    expect(visitor.page.locator("#sv-photo img")).to_be_visible(timeout=PATIENCE)
    visitor.page.get_by_role("button", name="Locate").click()
    visitor.explained()
    expect(visitor.page.locator(".sv-verdict")).to_contain_text("about 15 m")
    expect(visitor.page.locator(".sv-verdict")).to_contain_text("93 % sure")
    expect(visitor.page.locator(".sv-verdict")).not_to_contain_text("true position")
    assert visitor.page.evaluate("document.activeElement.id") == "sv-answer"
    link = visitor.page.get_by_role("link", name="GeoJSON")
    assert link.get_attribute("download") == "my street.geojson"


def test_verdict_comes_before_what_takes_longer(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.page.evaluate(
        """() => {
          const later = '.sv-card, #sv-more iframe, #sv-matches, .sv-heat';
          window.seen = [];
          new MutationObserver(() => {
            const here = document.querySelector('.sv-verdict')?.textContent;
            if (here && here !== window.last) {
              window.seen.push(document.querySelectorAll(later).length);
            }
            window.last = here;
          }).observe(document.body, {childList: true, characterData: true, subtree: true});
        }"""
    )
    visitor.try_example(0)
    visitor.try_example(1)
    visitor.wait_for("window.seen.length >= 2")
    # Nor does anything of the first photo stay beside the second verdict.
    assert visitor.page.evaluate("window.seen") == [0, 0]


def test_pasted_photo_is_taken(visit, photo: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    paste = """([name, data]) => {
      const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
      const clipboard = new DataTransfer();
      clipboard.items.add(new File([bytes], name, {type: 'image/jpeg'}));
      document.body.dispatchEvent(
        new ClipboardEvent('paste', {clipboardData: clipboard, bubbles: true, cancelable: true}));
    }"""
    data = base64.b64encode(photo.read_bytes()).decode()
    shown = visitor.page.locator("#sv-photo img")
    for name in ("first.jpg", "second.jpg"):  # the second in place of the first
        before = shown.get_attribute("src") if shown.count() else None
        visitor.page.evaluate(paste, [name, data])
        visitor.wait_for(
            "(old) => ![null, undefined, old].includes("
            "document.querySelector('#sv-photo img')?.getAttribute('src'))",
            before,
        )
    visitor.page.get_by_role("button", name="Locate").click()
    visitor.explained()
    expect(visitor.page.locator("[download='second.json']")).to_have_count(1)
    # Words are pasted as ever.
    words = "new ClipboardEvent('paste', {clipboardData: new DataTransfer(), cancelable: true})"
    assert visitor.page.evaluate(f"document.body.dispatchEvent({words})")


def test_photo_of_the_webcam_is_taken(  # type: ignore[no-untyped-def]
    browser: sync_api.Browser, server: Server, shots: Path
) -> None:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    filming = browser.browser_type.launch(executable_path=CHROMIUM, args=[*QUIET, *camera])
    visitor = Visitor(
        filming, server.address, viewport={"width": 1360, "height": 900}, permissions=["camera"]
    )
    page = visitor.page
    page.locator("#sv-photo").get_by_role("button", name="Capture from camera").click()
    page.get_by_text("webcam").first.click()
    visitor.wait_for("document.querySelector('#sv-photo video')?.videoWidth > 0")
    page.screenshot(path=shots / "webcam.png")
    page.get_by_role("button", name="capture photo").click()
    expect(page.locator("#sv-photo img")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Locate").click()
    visitor.explained()
    expect(page.locator(".sv-verdict")).to_contain_text("93 % sure")
    filming.close()
    assert visitor.complaints == []


def test_example_runs_at_one_click_and_knows_the_truth(visit, shots: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    expect(visitor.page.locator(".sv-verdict")).to_contain_text("m from the true position")
    visitor.wait_for("document.querySelector('iframe.sv-map').contentWindow.selavprMap")
    visitor.page.screenshot(path=shots / "result.png", full_page=True)


def test_address_reopens_the_example_with_its_settings(  # type: ignore[no-untyped-def]
    visit, server: Server
) -> None:
    visitor = visit()
    visitor.open(f"{server.address}?example=1&k=7&rerank=0")
    expect(visitor.page.locator(".sv-column.sv-global .sv-card")).to_have_count(7, timeout=PATIENCE)
    expect(visitor.page.locator(".sv-column.sv-rerank")).to_contain_text("Re-ranking is off")
    visitor.explained()
    assert visitor.page.url == f"{server.address}?example=1&k=7&rerank=0&depth=16"
    visitor.try_example(0)
    expect(visitor.page.locator("[download='example-0.json']")).to_have_count(1, timeout=PATIENCE)
    visitor.wait_for("location.search === '?example=0&k=7&rerank=0&depth=16'")


def test_address_reopens_the_candidate_that_was_picked(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example(1)
    visitor.page.locator(".sv-column.sv-rerank .sv-card").nth(2).click()
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 3", timeout=PATIENCE)
    assert visitor.page.url.endswith("?example=1&k=20&rerank=1&depth=16&pick=2")
    visitor.open(visitor.page.url)
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 3", timeout=PATIENCE)
    card = visitor.page.locator(".sv-column.sv-rerank .sv-card").nth(2)
    expect(card).to_have_attribute("aria-pressed", "true")
    visitor.try_example(0)
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 1", timeout=PATIENCE)
    visitor.wait_for("location.search === '?example=0&k=20&rerank=1&depth=16'")


def test_edited_address_falls_back(visit, server: Server) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.open(f"{server.address}?example=0&k=-1x&rerank=maybe&pick=99x")
    expect(visitor.page.locator(".sv-column.sv-rerank .sv-card")).to_have_count(
        20, timeout=PATIENCE
    )
    visitor.explained()


def test_map_shows_pins_without_a_network(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    expect(visitor.map.locator(".pin.rerank:not(.dot)")).to_have_count(10, timeout=PATIENCE)
    expect(visitor.map.locator(".pin.global:not(.dot)")).to_have_count(10)
    expect(visitor.map.locator(".spot")).to_have_count(2)
    expect(visitor.map.locator("path.leaflet-interactive[fill='#c2410c']")).to_have_count(2)
    # The basemap comes from the app: its street names are on the map, as text.
    expect(visitor.map.locator(".name").filter(has_text="Mill Lane")).to_have_count(1)
    visitor.map.locator(".leaflet-control-layers").get_by_text("Re-ranked").click()
    expect(visitor.map.locator(".pin.rerank")).to_have_count(0)


def test_the_start_shows_what_the_city_covers(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    start = visitor.page.locator(".sv-empty")
    expect(start).to_contain_text("24 photos of Drawn Town")
    count = "document.querySelector('iframe.sv-map').contentWindow.selavprMap"
    visitor.wait_for(f"{count} && Object.values({count}._layers).some((l) => l._radius === 4)")
    visitor.page.get_by_label("Where to search").click()
    visitor.page.get_by_role("option", name="Other Town").click()
    expect(start).to_contain_text("6 photos of Other Town", timeout=PATIENCE)


def test_depth_is_what_the_city_is_calibrated_for(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.page.get_by_role("button", name="Options").click()
    depth = visitor.page.get_by_role("spinbutton", name="Re-rank the best")
    expect(depth).to_have_value("16")
    visitor.page.get_by_label("Where to search").click()
    visitor.page.get_by_role("option", name="Other Town").click()
    expect(depth).to_have_value("4", timeout=PATIENCE)
    visitor.try_example()  # of the first city
    expect(depth).to_have_value("16")
    depth.fill("7")
    depth.press("Enter")
    visitor.try_example(1)
    visitor.wait_for("location.search === '?example=1&k=20&rerank=1&depth=7'")


def test_picking_a_candidate_draws_its_lines(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    before = source(visitor)
    cards = visitor.page.locator(".sv-column.sv-rerank .sv-card")
    cards.nth(2).click()
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 3", timeout=PATIENCE)
    expect(visitor.page.locator("#sv-matches img")).not_to_have_attribute("src", before)
    expect(cards.nth(2)).to_have_attribute("aria-pressed", "true")
    expect(cards.nth(0)).to_have_attribute("aria-pressed", "false")
    expect(visitor.map.locator(".leaflet-popup-content")).to_contain_text("→ #3")


def test_pin_on_the_map_picks_its_candidate(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    pin = visitor.map.locator(".pin.rerank", has_text=re.compile("^4$"))
    pin.dispatch_event("click")
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 4", timeout=PATIENCE)
    expect(visitor.map.locator(".leaflet-popup-content")).to_contain_text("→ #4")
    other = visitor.map.locator(".pin.rerank", has_text=re.compile("^3$"))
    other.focus()
    before = visitor.page.evaluate("scrollY")
    visitor.page.keyboard.press("Enter")
    expect(visitor.page.locator(".sv-picked")).to_contain_text("No. 3", timeout=PATIENCE)
    assert visitor.page.evaluate("scrollY") == before  # whoever looks at the map stays there


def test_scrolling_past_the_map_does_not_zoom_it(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    zooms = "document.querySelector('iframe.sv-map').contentWindow.selavprMap.scrollWheelZoom"
    visitor.wait_for(f"{zooms} && !{zooms}.enabled()")
    visitor.map.locator(".leaflet-container").click(position={"x": 20, "y": 200})
    visitor.wait_for(f"{zooms}.enabled()")


def test_sliders_choose_lines(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    caption = visitor.page.locator(".sv-picked + p")
    expect(caption).to_contain_text("80 of 120 matches drawn")
    visitor.page.get_by_label("Only what agrees on one geometry").check()
    expect(caption).to_contain_text("40 of 120 matches drawn", timeout=PATIENCE)
    number = visitor.page.get_by_label(re.compile("number input for Lines", re.I))
    number.fill("7")
    number.press("Enter")
    expect(caption).to_contain_text("7 of 120 matches drawn", timeout=PATIENCE)


def test_names_are_shown_and_not_obeyed(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.try_example()
    shown = visitor.page.locator(".sv-what b", has_text="R&D").first
    expect(shown).to_have_text(NASTY)
    assert visitor.page.locator("[onclick]").count() == 0
    expect(visitor.page.locator(".sv-credits")).to_contain_text("<i>nobody</i>")
    expect(visitor.page.locator(".sv-credit")).to_contain_text("Photo: nobody · CC0")


def test_page_on_the_api_opens_by_its_address(visit, server: Server) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.open(f"{server.address}?view=api")
    told = visitor.page.locator(".api-docs")
    for words in ("/locate", "/matches", "city: name of the index to search"):
        expect(told).to_contain_text(words, timeout=PATIENCE)
    expect(told).not_to_contain_text("[object Object]")
    # Without --mcp there is no such schema, which the page finds out by asking for it.
    visitor.complaints[:] = [c for c in visitor.complaints if "mcp/schema" not in c]


def test_what_is_not_a_photo_is_said_at_once(visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    disguised = tmp_path / "notes.jpg"
    disguised.write_text("Not a photo at all.")
    visitor.upload(disguised)
    toast = visitor.page.get_by_text("is not a photo this app can read")
    expect(toast.first).to_be_visible(timeout=PATIENCE)
    expect(visitor.page.get_by_text("无法使用这张照片")).to_be_hidden()
    expect(visitor.page.locator("#sv-photo img")).to_have_count(0)
    assert "Traceback" not in visitor.page.content()


def test_error_is_told_in_the_visitors_language(visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit(locale="zh-CN")
    disguised = tmp_path / "notes.jpg"
    disguised.write_text("Not a photo at all.")
    visitor.upload(disguised)
    expect(visitor.page.get_by_text("不是可读取的照片").first).to_be_visible(timeout=PATIENCE)
    heading = (
        "getComputedStyle(document.querySelector('.toast-title-row>span'), '::before').content"
    )
    assert visitor.page.evaluate(heading) == '"请注意"'


def test_every_photo_of_a_visitor_is_read_the_same_way(  # type: ignore[no-untyped-def]
    visit, tmp_path: Path, photo: Path
) -> None:
    """Gradio makes a visitor a new photo box for an answer to it, which must read files as ours."""
    visitor = visit()
    page = visitor.page
    visitor.upload(photo)
    page.get_by_role("button", name="Locate").click()
    visitor.explained()
    page.get_by_label("Remove Image").click()
    # What is still shown is no answer to what is chosen now.
    visitor.wait_for("document.body.classList.contains('sv-outdated')")
    disguised = tmp_path / "notes.jpg"
    disguised.write_text("Not a photo at all.")
    visitor.upload(disguised)
    toast = page.get_by_text("is not a photo this app can read")
    expect(toast.first).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#sv-photo img")).to_have_count(0)
    visitor.upload(photo)
    expect(page.locator("#sv-photo img")).to_have_count(1, timeout=PATIENCE)
    page.get_by_role("button", name="Locate").click()
    visitor.wait_for("!document.body.classList.contains('sv-outdated')")


def test_bomb_is_refused(visit, tmp_path: Path, shots: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    bomb = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(bomb)  # 100 megapixels in some kilobytes
    visitor.upload(bomb)
    toast = visitor.page.get_by_text("larger than 64 megapixels").first
    expect(toast).to_be_visible(timeout=PATIENCE)
    expect(visitor.page.locator("#sv-photo img")).to_have_count(0)
    visitor.page.wait_for_timeout(600)  # it fades in
    visitor.page.screenshot(path=shots / "error.png")


def tagged(path: Path, north: float) -> Path:
    tags = Image.Exif()
    tags[IFD.GPSInfo] = {1: "N", 2: (north, 0.0, 0.0), 3: "E", 4: (24.94, 0.0, 0.0)}
    drawn_street(300, (640, 480)).save(path, exif=tags)
    return path


def test_photos_own_position_is_compared_only_if_asked(visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    page = visitor.page
    found = []
    for north, asked in ((60.165, False), (60.165, True), (12.5, True)):
        visitor.upload(tagged(tmp_path / f"street{north}{asked}.jpg", north))
        expect(page.locator("#sv-photo img")).to_be_visible(timeout=PATIENCE)
        if asked and not page.get_by_label("Compare with the photo").is_visible():
            page.get_by_role("button", name="Options").click()
        if asked:
            page.get_by_label("Compare with the photo").check()
        page.get_by_role("button", name="Locate").click()
        link = f"[download='street{north}{asked}.json']"
        expect(page.locator(link)).to_have_count(1, timeout=PATIENCE)
        visitor.explained()
        verdict = page.locator(".sv-verdict")
        own = verdict.get_by_text("from the photo's own GPS position")
        expect(own).to_have_count(1 if asked else 0)
        expect(visitor.map.locator(".spot")).to_have_count(2 if asked else 1)
        data = page.locator(link).get_attribute("href")
        assert data
        answer = json.loads(base64.b64decode(data.partition(",")[2]))
        assert "12.5" not in json.dumps(answer["location"])
        found.append((answer["location"], answer["candidates"]))
        page.get_by_role("button", name=re.compile("remove image|clear", re.I)).first.click()
    # Wherever the photo says it was taken, the answer is the same.
    assert found[0] == found[1] == found[2]


def test_photo_without_a_position_says_so_when_asked(visit, photo: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.page.get_by_role("button", name="Options").click()
    visitor.page.get_by_label("Compare with the photo").check()
    visitor.upload(photo)
    expect(visitor.page.locator("#sv-photo img")).to_be_visible(timeout=PATIENCE)
    visitor.page.get_by_role("button", name="Locate").click()
    visitor.explained()
    expect(visitor.page.locator(".sv-verdict")).to_contain_text("carries no GPS position")


def test_link_and_picture_can_be_taken_along(visit, server: Server) -> None:  # type: ignore[no-untyped-def]
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.page
    visitor.try_example(1)
    visitor.wait_for("location.search.includes('depth=16')")
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_text("Link copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{server.address}?example=1&k=20&rerank=1&depth=16"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Picture", exact=True).click()
    assert saved.value.suggested_filename == "matches.webp"
    with Image.open(saved.value.path()) as picture:
        assert picture.height == 480


@pytest.mark.parametrize(("locale", "said"), [("en-US", "Many people"), ("zh-CN", "等候队列已满")])
def test_full_line_is_told_kindly(
    browser: sync_api.Browser, server: Server, locale: str, said: str
) -> None:
    visitor = Visitor(browser, server.address, locale=locale)
    # What Gradio answers when its queue is full.
    visitor.page.route(
        "**/queue/join*",
        lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}),
    )
    visitor.page.locator("#sv-locate").click()
    expect(visitor.page.get_by_text(said).first).to_be_visible(timeout=PATIENCE)
    visitor.context.close()


def test_text_file_is_refused(visit, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    notes = tmp_path / "notes.txt"
    notes.write_text("Not a photo at all.")
    visitor.upload(notes)
    toast = visitor.page.get_by_text(re.compile("invalid file type", re.I))
    expect(toast.first).to_be_visible(timeout=PATIENCE)


def test_locate_without_a_photo_asks_for_one(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    visitor.page.get_by_role("button", name="Locate").click()
    expect(visitor.page.get_by_text("Choose a photo first.")).to_be_visible(timeout=PATIENCE)


def test_keyboard_alone(visit) -> None:  # type: ignore[no-untyped-def]
    visitor = visit()
    page = visitor.page

    def tab_to(condition: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({condition!r})"):
                return
        raise AssertionError(f"Tab never came to {condition}")

    tab_to(".sv-skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "sv-answer"
    page.evaluate("document.querySelector('.sv-skip').focus()")
    tab_to("[data-do=theme]")
    tab_to("#sv-locate")
    tab_to("[data-example='0']")
    page.keyboard.press("Enter")
    visitor.explained()
    assert page.evaluate("document.activeElement.id") == "sv-answer"
    page.locator(".sv-column.sv-rerank .sv-card").nth(1).focus()
    page.keyboard.press("Space")
    expect(page.locator(".sv-picked")).to_contain_text("No. 2", timeout=PATIENCE)


def luminance(visitor: Visitor, selector: str) -> float:
    colour = visitor.page.evaluate(
        "(s) => getComputedStyle(document.querySelector(s)).backgroundColor", selector
    )
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_dark_and_light(visit, shots: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit(color_scheme="dark")
    visitor.try_example()
    assert luminance(visitor, "body") < 60
    assert luminance(visitor, ".sv-verdict") < 60
    inside = "document.querySelector('iframe.sv-map').contentDocument.documentElement"
    visitor.wait_for(f"{inside}.classList.contains('dark')")
    visitor.page.screenshot(path=shots / "dark.png", full_page=True)
    dark = "document.body.classList.contains('dark')"
    visitor.page.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {dark} }})")
    visitor.page.pdf(path=shots / "paper.pdf")
    assert visitor.page.evaluate("window.printed") is False
    visitor.wait_for(dark)
    switch = visitor.page.get_by_role("button", name="Dark mode")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")
    assert luminance(visitor, ".sv-verdict") > 200
    visitor.wait_for(f"!{inside}.classList.contains('dark')")


def test_phone_width(visit, shots: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    visitor.try_example()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(visitor.page.locator(".sv-verdict")).to_be_in_viewport()
    columns = visitor.page.locator(".sv-column")
    left, right = columns.nth(0).bounding_box(), columns.nth(1).bounding_box()
    assert left and right
    assert abs(left["y"] - right["y"]) < 2, "the two rankings stay side by side"
    visitor.page.screenshot(path=shots / "phone.png", full_page=True)


def test_language_follows_the_browser_and_switches(visit, shots: Path) -> None:  # type: ignore[no-untyped-def]
    visitor = visit(locale="zh-CN")
    page = visitor.page
    expect(page.get_by_role("button", name="开始定位")).to_be_visible(timeout=PATIENCE)
    visitor.try_example()
    expect(page.locator(".sv-verdict")).to_contain_text("误差约 15 米")
    expect(visitor.map.locator(".leaflet-control-layers")).to_contain_text("重排后")
    page.screenshot(path=shots / "chinese.png", full_page=True)
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Locate")).to_be_visible(timeout=PATIENCE)
    expect(page.locator(".sv-verdict").get_by_text("about 15 m")).to_be_visible()
    expect(page.locator(".sv-verdict").get_by_text("误差约 15 米")).to_be_hidden()
    visitor.open(page.url)
    expect(page.get_by_role("button", name="Locate")).to_be_visible(timeout=PATIENCE)


def test_two_visitors_see_their_own_answers(visit) -> None:  # type: ignore[no-untyped-def]
    one, two = visit(), visit()
    one.page.locator('[data-example="0"]').click()
    two.page.locator('[data-example="1"]').click()
    one.explained()
    two.explained()
    places = [v.page.locator(".sv-facts code").inner_text() for v in (one, two)]
    links = [
        v.page.get_by_role("link", name="JSON", exact=True).get_attribute("download")
        for v in (one, two)
    ]
    assert links == ["example-0.json", "example-1.json"]
    assert places[0] != places[1]


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tiled"), "--tiles") as running:
        yield running


def test_tiles_are_tried_once_and_missed_gracefully(
    browser: sync_api.Browser, tiled: Server
) -> None:
    visitor = Visitor(browser, tiled.address, viewport={"width": 1360, "height": 900})
    visitor.context.route("https://**", lambda route: route.abort())
    visitor.try_example()
    expect(visitor.map.locator(".pin.rerank:not(.dot)")).to_have_count(10, timeout=PATIENCE)
    expect(visitor.map.locator(".name").first).to_be_attached()
    visitor.context.close()
    assert len(visitor.outside) == 1
    assert visitor.outside[0].startswith("https://tile.openstreetmap.org/")
    assert all("tile.openstreetmap.org" in line for line in visitor.complaints)


def test_without_names_of_hosts_the_map_complains_to_nobody(
    browser: sync_api.Browser, tiled: Server
) -> None:
    # As on a machine whose DNS answers NXDOMAIN.
    cut_off = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    nameless = browser.browser_type.launch(executable_path=CHROMIUM, args=[*QUIET, cut_off])
    visitor = Visitor(nameless, tiled.address, viewport={"width": 1360, "height": 900})
    visitor.try_example()
    expect(visitor.map.locator(".pin.rerank:not(.dot)")).to_have_count(10, timeout=PATIENCE)
    visitor.wait_for("window.selavprTiles.then((come) => come === false)")
    nameless.close()
    assert visitor.complaints == []


def test_tiles_cover_the_basemap_when_they_load(
    browser: sync_api.Browser, tiled: Server, tmp_path: Path
) -> None:
    picture = tmp_path / "tile.png"
    drawn_street(1, (256, 256)).save(picture)
    asked: list[str | None] = []

    waiting: list[sync_api.Route] = []

    def answer(route: sync_api.Route) -> None:
        asked.append(route.request.headers.get("referer"))
        if asked == [tiled.address]:
            waiting.append(route)  # the first tile comes late, when its map has gone
        else:
            route.fulfill(path=picture)

    visitor = Visitor(browser, tiled.address, viewport={"width": 1360, "height": 900})
    visitor.context.route("https://tile.openstreetmap.org/**", answer)
    visitor.try_example()
    expect(visitor.map.locator(".pin.rerank:not(.dot)")).to_have_count(10, timeout=PATIENCE)
    waiting[0].fulfill(path=picture)
    expect(visitor.map.locator("img.leaflet-tile-loaded").first).to_be_visible(timeout=PATIENCE)
    expect(visitor.map.locator(".leaflet-control-attribution")).to_contain_text("OpenStreetMap")
    expect(visitor.map.locator(".name")).to_have_count(0)
    visitor.context.close()
    assert visitor.complaints == []
    # OpenStreetMap's tile policy: say who asks, and no more than that.
    assert set(asked) == {tiled.address}


LINE = {"type": "LineString", "coordinates": [[24.939, 60.165], [24.941, 60.165]]}
STREET = {"type": "Feature", "properties": {"kind": "street", "name": "Way"}, "geometry": LINE}


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ([{**STREET, "properties": None}, STREET], ["Way"]),  # which GeoJSON allows
        ([STREET, {**STREET, "geometry": {"type": "LineString", "coordinates": ["?"]}}], ["Way"]),
        ([STREET, {**STREET, "geometry": {"type": "Circle"}}, None], ["Way"]),
        ({"a": 1}, []),
    ],
)
def test_a_strange_basemap_costs_no_pin(
    browser: sync_api.Browser, tmp_path: Path, features: object, names: list[str]
) -> None:
    """On the page of ``locate --map``, which carries everything inside."""
    recognition = FakeRecognizer().recognize(drawn_street(100))
    basemap = {"type": "FeatureCollection", "features": features}
    answer, overview = tmp_path / "answer.html", tmp_path / "overview.html"
    answer.write_text(maps.build_map(recognition, basemap=basemap, tiles=False), encoding="utf-8")
    places = [candidate.place.location for candidate in recognition.candidates]
    overview.write_text(maps.build_overview(places, basemap=basemap, tiles=False), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(answer.as_uri())
    expect(page.locator(".pin.rerank:not(.dot)")).to_have_count(10, timeout=PATIENCE)
    expect(page.locator("path.circle")).to_have_count(2)
    assert page.locator(".name").all_inner_texts() == names
    page.goto(overview.as_uri())
    page.wait_for_function("window.selavprMap", timeout=PATIENCE)
    dots = "Object.values(selavprMap._layers).filter((x) => x.options.radius === 4).length"
    assert page.evaluate(dots) == len(places)
    context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme: str) -> None:  # type: ignore[no-untyped-def]
    axe = pytest.importorskip("axe_playwright_python", reason="brings axe-core")
    script = next(Path(axe.__file__).parent.rglob("axe.min.js")).read_text(encoding="utf-8")
    visitor = visit(color_scheme=scheme)
    visitor.try_example()
    visitor.page.get_by_role("button", name="Options").click()
    expect(visitor.page.locator(".sv-how")).to_be_visible()
    for frame in visitor.page.frames:
        frame.evaluate(script)
    found = visitor.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (v["id"], [node["html"][:120] for node in v["nodes"]])
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
