"""From the click on Locate to the answer, in a real browser: what a visitor waits.

    python -m benchmarks.page [--photos 12] [--json OUT]

Starts the app on this machine and opens its page in chromium, which shares the processor with it.
Every photo is new to the app, comes from a visitor of its own, and is asked for with the options as
they are; the first is not counted, as it waits for what is loaded once. Prints a Markdown table of
seconds after the click.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.load import photos
from selavpr.evaluation import table
from tools.processes import app
from tools.screenshots import CHROMIUM, OPTIONS, map_drawn, opened

PARTS = {
    "the verdict": ".sv-verdict",
    "both columns": ".sv-column.sv-rerank .sv-card",
    "matched details": "#sv-matches img",
    "heat-map": ".sv-heat img",
}


def waited(browser: Browser, address: str, photo: Path) -> dict[str, float]:
    """Seconds from the click to each part of the answer, to the map, and to all of it."""
    with opened(browser, address) as page:
        page.locator('#sv-photo input[type="file"]').first.set_input_files(photo)
        page.locator("#sv-photo img").first.wait_for()
        page.wait_for_timeout(500)  # the picture has come; let the page settle
        start = time.perf_counter()
        page.locator("#sv-locate").click()
        seconds = {}
        for name, part in PARTS.items():
            page.locator(part).first.wait_for()
            seconds[name] = time.perf_counter() - start
        map_drawn(page)
        return {**seconds, "all, with the map": time.perf_counter() - start}


def main() -> None:
    """Ask for every photo and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=12, help="after the first (default 12)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, app() as running, sync_playwright() as playwright:
        print(running.serves, flush=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        asked = photos(Path(folder), args.photos + 1)
        measured = [waited(browser, running.address, photo) for photo in asked][1:]
        browser.close()
    rows = []
    for part in measured[0]:
        seconds = [times[part] for times in measured]
        rows.append([part, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"])
    print(table(["seconds after the click", "median", "slowest"], rows))
    if args.json:
        args.json.write_text(json.dumps(measured, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
