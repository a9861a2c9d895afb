"""What a city of 10,000, a million and a hundred million photos costs: machine-hours, gigabytes.

    python -m benchmarks.scale [--photos FOLDER] [--count 64] [--preset vit-l] [--device cuda]

Builds an index of some photos (by default those of the bundled city) and reckons from its times
and bytes. ``--preset`` takes random weights of another size, on which neither depends. Prints the
rates and a Markdown table. The machine has to be idle; a minute on two cores with ViT-S.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from selavpr import ModelConfig, SelaVPR, building
from selavpr.benchmarkphotos import photo_files
from selavpr.geo import Location
from selavpr.indexfiles import CODEC, GLOBAL, MANIFEST, Manifest
from selavpr.planning import find_batch_size, size_text
from selavpr.searchers import FLAT_UP_TO
from selavpr.sources import SourcePhoto
from selavpr.structs import Place

SIZES = (10_000, 1_000_000, 100_000_000)
BUNDLED = Path(__file__).parent.parent / "prebuilt_index" / "helsinki" / "images"


@dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes:
        width: components of a descriptor.
        extract_s: seconds a photo takes to be opened, made small and put through the network.
        write_s: seconds a photo takes to be coded and written.
        part_bytes: of a photo while the index is built.
        index_bytes: of a photo in the index, without the global search.
        source_bytes: of a photo as it was.
    """

    width: int
    extract_s: float
    write_s: float
    part_bytes: float
    index_bytes: float
    source_bytes: float


@dataclass(frozen=True)
class Costs:
    """Of a city.

    Attributes:
        photos: in it.
        extract_h: machine-hours of extraction, which any number of machines can share.
        write_h: hours of writing, which one machine does.
        index_bytes: the index, with its global search.
        search_bytes: the global search alone.
        parts_bytes: needed beside it while it is built.
        memory_bytes: of the machine that writes, at least: descriptors twice, a token of each
            photo for the code, and the search.
    """

    photos: int
    extract_h: float
    write_h: float
    index_bytes: float
    search_bytes: float
    parts_bytes: float
    memory_bytes: float


def costs(rates: Rates, photos: int) -> Costs:
    """Reckon for so many photos."""
    search = search_bytes(photos, rates.width)
    return Costs(
        photos,
        photos * rates.extract_s / 3600,
        photos * rates.write_s / 3600,
        photos * rates.index_bytes + search,
        search,
        photos * rates.part_bytes,
        3 * 4 * photos * rates.width + search,
    )


def search_bytes(photos: int, width: int) -> int:
    """Of ``global.faiss``, as ``searchers.make`` chooses it; its header is left out."""
    if photos <= FLAT_UP_TO:
        return 4 * photos * width
    lists = round(4 * math.sqrt(photos))
    return photos * (width + 8) + lists * (4 * width + 8)


class Timed:
    """One process, with a clock: a ``building.Engine``."""

    workers = building.ONE_PROCESS.workers

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.seconds = 0.0
        self.bytes = 0

    def decides(self, model: SelaVPR) -> tuple[str, int]:
        """As one process."""
        return building.ONE_PROCESS.decides(model)

    def parts(
        self, groups: Mapping[int, Sequence[Path]], model: SelaVPR, batch_size: int
    ) -> Iterator[tuple[int, bytes]]:
        """As one process."""
        start = time.perf_counter()
        for number, part in building.ONE_PROCESS.parts(groups, model, batch_size):
            self.seconds += time.perf_counter() - start
            self.bytes += len(part)
            yield number, part
            start = time.perf_counter()


def measure(photos: Sequence[Path], model: SelaVPR) -> Rates:
    """Build an index of photos and keep the times and bytes."""
    sources = [
        SourcePhoto(path, Place(str(i), f"images/{i}.jpg", Location(60, 25), street="A street"))
        for i, path in enumerate(photos)
    ]
    batch_size, engine = find_batch_size(model), Timed()
    building.part_of(photos[: building.PART], model, batch_size)  # the first pass is the slowest
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        made, problems = building.build(
            Path(folder) / "index", sources, model, Manifest("x", "", "", "", 0, (0, 0, 0, 0)),
            batch_size=batch_size, engine=engine,
        )  # fmt: skip
        writing = time.perf_counter() - start - engine.seconds
        size = sum(
            size for name, size in made.sizes().items()
            if name not in (CODEC, GLOBAL, MANIFEST)
        )  # fmt: skip
    for problem in problems:
        print(f"left out: {problem}")
    count = len(made)
    return Rates(
        made.width,
        engine.seconds / count,
        writing / count,
        engine.bytes / count,
        size / count,
        sum(path.stat().st_size for path in photos) / len(photos),
    )


def table(rates: Rates) -> str:
    """The costs at all sizes, in Markdown."""
    lines = [
        "| photos | extraction | writing | index | its global search | meanwhile | memory |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for photos in SIZES:
        c = costs(rates, photos)
        cells = [
            f"{photos:,}", f"{c.extract_h:,.1f} h", f"{c.write_h:,.1f} h",
            size_text(c.index_bytes), size_text(c.search_bytes), size_text(c.parts_bytes),
            size_text(c.memory_bytes),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=BUNDLED, help="folder, with any below it")
    parser.add_argument("--count", type=int, default=64, help="photos to measure")
    parser.add_argument("--model", default="", help="name or folder (default: the bundled one)")
    parser.add_argument("--preset", default="", help="size of a random network instead: vit-l")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.preset:
        model = SelaVPR(ModelConfig.preset(args.preset)).eval().place(args.device, args.precision)
    else:
        named = (args.model,) if args.model else ()
        model = SelaVPR.from_pretrained(*named, device=args.device, precision=args.precision)
    found = sorted(photo_files(args.photos))
    step = max(1, len(found) // args.count)
    rates = measure(found[::step][: args.count], model)
    kind, threads = building.ONE_PROCESS.decides(model)
    where = torch.cuda.get_device_name() if kind == "cuda" else f"{threads} threads"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.machine()}, {where}, {str(model.precision).removeprefix('torch.')}{load}")
    print(
        f"a photo: {1e3 * rates.extract_s:.1f} ms to extract",
        f"{1e3 * rates.write_s:.1f} ms to write; {size_text(rates.source_bytes)} as it was, "
        f"{size_text(rates.index_bytes)} in the index, {size_text(rates.part_bytes)} meanwhile",
        sep=", ",
    )
    print(table(rates))
    if args.json:
        report = {"rates": asdict(rates), "costs": [asdict(costs(rates, n)) for n in SIZES]}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
