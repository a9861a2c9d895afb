"""Many visitors at once: does the app answer each with their own answer, and keep its memory?

    python -m benchmarks.load                      # 20 users for two minutes
    python -m benchmarks.load --users 4 --seconds 20

Starts the app on this machine. Every user has a photo of their own and asks /locate over and over
through gradio's client; a full line ("busy") is no error, they come back a second later. The exit
code is 1 after any other error, an answer that is not the user's own, or memory that kept growing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image

from tools.processes import ROOT, App, app, resident_mb

GROWTH = 0.10
"""Share by which the memory of the second half may exceed that of the first."""


@dataclass
class Tally:
    """What all users saw. Lists only grow, and appending is atomic."""

    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)


def photos(folder: Path, users: int) -> list[Path]:
    """One photo for each user: the examples, cropped by another pixel each."""
    examples = sorted((ROOT / "assets" / "examples").glob("*.jpg"))
    made = []
    for user in range(users):
        with Image.open(examples[user % len(examples)]) as photo:
            cut = user + 1
            path = folder / f"user-{user}.jpg"
            photo.crop((cut, cut, photo.width - cut, photo.height - cut)).save(path, quality=95)
        made.append(path)
    return made


def essence(answer: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same every time a photo is asked for."""
    ranked = tuple((c["place_id"], c["matches"]) for c in answer["candidates"])
    return answer["photo"], answer["location"]["lat"], answer["location"]["lon"], ranked


def ask(client: Client, photo: Path) -> dict[str, Any]:
    """One answer of /locate, with everything else as it is by default."""
    answer: dict[str, Any] = client.predict(photo=handle_file(photo), api_name="/locate")
    return answer


def visit(address: str, photo: Path, expected: tuple[Any, ...], until: float, tally: Tally) -> None:
    """One user, until the time is up."""
    try:
        client = Client(address, verbose=False)
    except Exception as error:
        tally.errors.append(f"no connection: {type(error).__name__}: {error}"[:200])
        return
    while time.monotonic() < until:
        start = time.monotonic()
        try:
            found = essence(ask(client, photo))
        except QueueError:
            tally.busy.append(time.monotonic() - start)
            time.sleep(1)
            continue
        except Exception as error:
            tally.errors.append(f"{type(error).__name__}: {error}"[:200])
            continue
        tally.seconds.append(time.monotonic() - start)
        if found != expected:
            tally.mixed_up.append(f"{photo.name}: {found[:3]} instead of {expected[:3]}")
    client.close()


def main() -> int:
    """Measure and print; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Many visitors at once.")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, app() as running:
        print(running.serves, flush=True)
        return run(running, photos(Path(folder), args.users), args.seconds)


def run(running: App, asked: list[Path], seconds: float) -> int:
    """Ask one after another first, to know the answers, then all at once."""
    client = Client(running.address, verbose=False)
    expected = [essence(ask(client, photo)) for photo in asked]
    client.close()
    tally, until = Tally(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=visit, args=(running.address, photo, answer, until, tally))
        for photo, answer in zip(asked, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(resident_mb(running.pid))
        time.sleep(0.5)
    half = len(memory) // 2
    # The first tenth is still filling caches of bounded size.
    early = max(memory[len(memory) // 10 : half])
    late = max(memory[half:])
    done = sorted(tally.seconds)
    print(f"{len(asked)} users, {seconds:.0f} s: {len(done)} answers, {len(tally.busy)} times busy")
    if done:
        slow = done[int(0.95 * (len(done) - 1))]
        print(f"  wait: median {statistics.median(done):.1f} s, 95 % within {slow:.1f} s")
    print(f"  memory: {memory[0]:.0f} MB at first, at most {early:.0f}, then {late:.0f} MB")
    for name, what in (("errors", tally.errors), ("mixed up", tally.mixed_up)):
        print(f"  {name}: {len(what)}")
        for line in sorted(set(what))[:5]:
            print(f"    {line}")
    grown = late > early * (1 + GROWTH)
    if grown:
        print(f"  memory grew by more than {GROWTH:.0%}")
    return int(bool(tally.errors or tally.mixed_up or grown or not done))


if __name__ == "__main__":
    sys.exit(main())
