"""Take the README's pictures of the app: screenshots, and an animation of the flow.

    python tools/screenshots.py                    # writes assets/docs/
    python tools/screenshots.py --out /tmp/shots --example 3

Starts the app on this machine and drives the system's chromium through playwright. All files
together stay below 1.5 MB.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = "/usr/bin/chromium"
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LIMIT_BYTES = 1_500_000
PATIENCE_MS = 120_000
ANIMATION_WIDTH = 880


@contextmanager
def app() -> Iterator[str]:
    """The app's address while it runs."""
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


@contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """The page in a fresh browser window."""
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-US", **options})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(address)
    map_drawn(page)
    yield page
    context.close()


def map_drawn(page: Page) -> None:
    """Wait until the map shows its basemap, and the view has come to rest."""
    page.wait_for_function(
        "[...document.querySelectorAll('iframe.sv-map')].some((f) => f.offsetParent"
        " && f.contentDocument.querySelector('canvas, .pin'))"
    )
    page.wait_for_timeout(1500)


def locate(page: Page, example: int) -> None:
    """Try an example and wait for all that explains it."""
    page.locator(f'[data-example="{example}"]').click()
    explained(page)


def explained(page: Page) -> None:
    """Wait for the answer, its lines, its heat-map and its map."""
    for part in (".sv-verdict", "#sv-matches img", ".sv-heat img"):
        page.locator(part).first.wait_for()
    map_drawn(page)


def picture(page: Page) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def scrolled(page: Page, selector: str) -> Image.Image:
    """What the window shows with a part of the page at its top."""
    page.locator(selector).first.evaluate(
        "(part) => scrollTo({top: part.getBoundingClientRect().top + scrollY - 16})"
    )
    page.wait_for_timeout(600)
    return picture(page)


def flow(page: Page, example: int) -> list[tuple[Image.Image, int]]:
    """The frames of the animation, each with how long it stays, in milliseconds."""
    frames = [(picture(page), 1600)]
    page.locator(f'[data-example="{example}"]').hover()
    frames.append((picture(page), 500))
    page.locator(f'[data-example="{example}"]').click()
    page.wait_for_timeout(700)
    frames.append((picture(page), 700))
    explained(page)
    page.evaluate("scrollTo({top: 0})")
    frames.append((picture(page), 2400))
    frames.append((scrolled(page, ".sv-columns"), 2200))
    frames.append((scrolled(page, ".sv-picked"), 2400))
    page.get_by_label("Only what agrees on one geometry").check()
    page.wait_for_timeout(2500)
    frames.append((scrolled(page, ".sv-picked"), 1800))
    before = page.locator("#sv-matches img").get_attribute("src")
    page.locator(".sv-column.sv-rerank .sv-card").nth(1).click()
    page.wait_for_function(
        "(old) => document.querySelector('#sv-matches img')?.src !== old", arg=before
    )
    page.wait_for_timeout(600)
    frames.append((scrolled(page, ".sv-picked"), 1800))
    frames.append((scrolled(page, ".sv-heat"), 2200))
    return frames


def animate(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """Write an animated WebP."""
    height = round(ANIMATION_WIDTH * DESKTOP["height"] / DESKTOP["width"])
    small = [
        frame.resize((ANIMATION_WIDTH, height), Image.Resampling.LANCZOS) for frame, _ in frames
    ]
    small[0].save(
        path,
        save_all=True,
        append_images=small[1:],
        duration=[stay for _, stay in frames],
        loop=0,
        quality=72,
        method=6,
    )


def main() -> int:
    """Write all pictures; 1 when they are too large."""
    parser = argparse.ArgumentParser(description="Take the README's pictures of the app.")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "docs")
    parser.add_argument("--example", type=int, default=0, help="which example photo, from 0")
    parser.add_argument("--address", help="of an app that runs already")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.address:
        take(args.address, args.out, args.example)
    else:
        with app() as address:
            take(address, args.out, args.example)
    total = 0
    for path in sorted(args.out.glob("*.webp")):
        total += path.stat().st_size
        print(f"{path.stat().st_size / 1e3:8.0f} kB  {path}")
    if total > LIMIT_BYTES:
        print(f"together {total / 1e6:.2f} MB, more than {LIMIT_BYTES / 1e6} MB", file=sys.stderr)
    return int(total > LIMIT_BYTES)


def take(address: str, out: Path, example: int) -> None:
    """All pictures of a running app."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        with opened(browser, address) as page:
            animate(flow(page, example), out / "flow.webp")
        for name, options in {
            "light": {},
            "dark": {"color_scheme": "dark"},
            "chinese": {"locale": "zh-CN"},
            "phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True},
        }.items():
            with opened(browser, address, **options) as page:
                locate(page, example)
                if name == "phone":
                    scrolled(page, ".sv-verdict")
                else:
                    page.evaluate("scrollTo({top: 0})")
                picture(page).save(out / f"{name}.webp", quality=80, method=6)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
