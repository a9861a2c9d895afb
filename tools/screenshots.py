"""Take the README's pictures of the app: screenshots, and an animation of the flow.

    python -m tools.screenshots                    # writes assets/readme/
    python -m tools.screenshots --out /tmp/shots --example 3

Starts the app on this machine and drives chromium through playwright. Every picture is taken once
the page has come to rest, so a slow machine gives the same ones. What is too large is written again
with less quality, until all files together stay below 1.5 MB.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from selavpr import bundle
from selavpr.cards import Example
from selavpr.geo import Location
from selavpr.metrics import RIGHT_M
from tools.processes import ROOT, app

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
"""The browser of the system; none where playwright has to bring its own."""

OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, WIDE = {"width": 1280, "height": 860}, {"width": 1200, "height": 630}
PHONE = {"width": 390, "height": 844}
LIMIT_BYTES = 1_500_000
QUALITIES = (80, 70, 60, 50, 40)
PATIENCE_MS = 600_000
ANIMATION_WIDTH = 960

Frame = tuple[Image.Image, int]
"""A picture, and how long it stays in milliseconds."""


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """The page in a fresh browser window, at rest."""
    context = browser.new_context(
        **{"viewport": DESKTOP, "locale": "en-US", "reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(address, timeout=PATIENCE_MS)
    map_drawn(page)
    yield page
    context.close()


def map_drawn(page: Page) -> None:
    """Wait until a map shows its basemap, or its pins."""
    page.wait_for_function(
        "[...document.querySelectorAll('iframe.sv-map')].some((f) => f.offsetParent"
        " && f.contentDocument.querySelector('canvas, .pin'))"
    )


def picture(page: Page) -> Image.Image:
    """What the window shows once it has come to rest: twice the same."""
    shown = b""
    for _ in range(40):
        before, shown = shown, page.screenshot()
        if shown == before:
            break
        page.wait_for_timeout(400)
    return Image.open(io.BytesIO(shown)).convert("RGB")


def scroll(page: Page, selector: str) -> None:
    """Bring a part of the page to the top of the window."""
    page.locator(selector).first.evaluate(
        "(part) => scrollTo({top: part.getBoundingClientRect().top + scrollY - 16})"
    )


def explained(page: Page) -> None:
    """Wait for the answer, its lines, its heat-map and its map."""
    for part in (".sv-verdict", "#sv-matches img", ".sv-heat img"):
        page.locator(part).first.wait_for()
    map_drawn(page)


def press(page: Page, what: Locator) -> Frame:
    """The window with a ring around the pointer, just before it clicks."""
    what.scroll_into_view_if_needed()
    box = what.bounding_box()
    assert box
    frame = picture(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    draw = ImageDraw.Draw(frame, "RGBA")
    draw.ellipse((x - 26, y - 26, x + 26, y + 26), fill=(245, 158, 11, 90))
    draw.ellipse((x - 26, y - 26, x + 26, y + 26), outline=(255, 255, 255, 255), width=3)
    what.click()
    return frame, 900


def flow(page: Page, photo: Path) -> list[Frame]:
    """The frames of the animation: upload, answer, matches, another candidate, back to the map."""
    frames = [(picture(page), 1400)]
    page.locator('#sv-photo input[type="file"]').first.set_input_files(photo)
    page.locator("#sv-photo img").first.wait_for()
    frames.append((picture(page), 1000))
    frames.append(press(page, page.locator("#sv-locate")))
    explained(page)
    page.evaluate("scrollTo({top: 0})")
    frames.append((picture(page), 2600))
    scroll(page, ".sv-columns")
    frames.append((picture(page), 2000))
    scroll(page, "#sv-picked")
    frames.append((picture(page), 2400))
    scroll(page, ".sv-columns")
    drawn = page.locator("#sv-matches img").get_attribute("src")
    frames.append(press(page, page.locator(".sv-column.sv-rerank .sv-card").nth(1)))
    page.wait_for_function(
        "(old) => document.querySelector('#sv-matches img')?.src !== old", arg=drawn
    )
    scroll(page, "#sv-picked")
    frames.append((picture(page), 2000))
    scroll(page, ".sv-heat")
    frames.append((picture(page), 2000))
    page.evaluate("scrollTo({top: 0})")
    frames.append((picture(page), 2200))
    return frames


def take(
    address: str, example: int, photo: Path, browser_path: str | None
) -> dict[str, list[Frame]]:
    """All pictures of a running app, by the name of their file."""
    taken: dict[str, list[Frame]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(OPTIONS))

        def shot(name: str, part: str | None = None, **options: object) -> None:
            with opened(browser, address, **options) as page:
                page.locator(f'[data-example="{example}"]').click()
                explained(page)
                page.mouse.move(0, 0)
                if part:
                    scroll(page, part)
                else:
                    page.evaluate("scrollTo({top: 0})")
                taken[name] = [(picture(page), 0)]

        with opened(browser, address) as page:
            taken["flow.webp"] = flow(page, photo)
        shot("result.webp")
        shot("evidence.webp", "#sv-picked")
        shot("dark-chinese.webp", color_scheme="dark", locale="zh-CN")
        phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
        shot("phone.webp", ".sv-verdict", device_scale_factor=2, **phone)
        shot("thumbnail.jpg", viewport=WIDE)
        browser.close()
    return taken


def write(frames: Sequence[Frame], path: Path, quality: int) -> int:
    """Write one picture, or an animation of several; its size in bytes."""
    first = frames[0][0]
    if len(frames) == 1:
        first.save(path, quality=quality, method=6)
        return path.stat().st_size
    size = (ANIMATION_WIDTH, round(ANIMATION_WIDTH * first.height / first.width))
    small = [frame.resize(size, Image.Resampling.LANCZOS) for frame, _ in frames]
    small[0].save(
        path,
        save_all=True,
        append_images=small[1:],
        duration=[stay for _, stay in frames],
        loop=0,
        quality=quality,
        method=6,
    )
    return path.stat().st_size


def write_all(taken: dict[str, list[Frame]], out: Path, limit: int = LIMIT_BYTES) -> int:
    """Write all pictures with the best quality at which they stay below the limit together.

    Returns:
        Their size in bytes; above the limit where even the least quality does not do.
    """
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for quality in QUALITIES:
        total = sum(write(frames, out / name, quality) for name, frames in taken.items())
        if total <= limit:
            break
    return total


def best_example(address: str, examples: Sequence[Example]) -> int:
    """The first example that is answered rightly and most surely; 0 where none is."""
    kinds = ("sure", "probably", "unsure")
    found: list[tuple[int, int]] = []
    client = Client(address, verbose=False)
    for i, example in enumerate(examples):
        answer = client.predict(photo=handle_file(example.photo), api_name="/locate")
        here = Location(answer["location"]["lat"], answer["location"]["lon"])
        right = example.truth is not None and here.distance_m(example.truth) <= RIGHT_M
        if right and answer["verdict"] in kinds:
            found.append((kinds.index(answer["verdict"]), i))
    client.close()
    return min(found)[1] if found else 0


def main() -> int:
    """Write all pictures; 1 when they are too large."""
    parser = argparse.ArgumentParser(description="Take the README's pictures of the app.")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "readme")
    parser.add_argument("--example", type=int, help="from 0; default: one answered rightly, surely")
    parser.add_argument("--address", help="of an app that runs already with the bundled city")
    parser.add_argument(
        "--browser",
        default=CHROMIUM,
        help="default: the system's chromium, or else playwright's own",
    )
    args = parser.parse_args()
    examples = bundle.read_examples(ROOT / "assets" / "examples")
    if not examples:
        raise SystemExit("assets/examples offers no photos to show the app with.")
    if args.address:
        taken = pictures(args.address, args.example, examples, args.browser)
    else:
        with app() as running:
            taken = pictures(running.address, args.example, examples, args.browser)
    total = write_all(taken, args.out)
    for name in taken:
        print(f"{(args.out / name).stat().st_size / 1e3:8.0f} kB  {args.out / name}")
    if total > LIMIT_BYTES:
        print(f"together {total / 1e6:.2f} MB, more than {LIMIT_BYTES / 1e6} MB", file=sys.stderr)
    return int(total > LIMIT_BYTES)


def pictures(
    address: str, example: int | None, examples: Sequence[Example], browser: str | None
) -> dict[str, list[Frame]]:
    """All pictures, with an example that is given or found to be good."""
    chosen = best_example(address, examples) if example is None else example
    print(f"example {chosen}: {examples[chosen].title}", flush=True)
    return take(address, chosen, examples[chosen].photo, browser)


if __name__ == "__main__":
    sys.exit(main())
