"""Before a build: how many photos, how large, how long; and how many fit through at a time."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from selavpr import building, collecting
from selavpr.download import Fetcher
from selavpr.errors import DownloadError, PhotoError
from selavpr.gather import SAMPLES, Gathered
from selavpr.geo import Location
from selavpr.indexfiles import CODEC, MANIFEST, Manifest
from selavpr.model import SelaVPR
from selavpr.sources import SourcePhoto, unique
from selavpr.structs import Place

logger = logging.getLogger(__name__)

T = TypeVar("T")

CPU_BATCH = 8
"""Photos per pass without a GPU, where larger batches gain nothing and take memory."""


@dataclass(frozen=True)
class Plan:
    """What a build will take; figures are estimates but for the number of photos.

    Attributes:
        photos: that will be in the index, views of panoramas counted one by one.
        downloads: photos that are still to be downloaded.
        download_bytes: their size; None where nothing could be measured.
        download_s: time for them.
        index_bytes: size of the index; None where nothing could be measured.
        build_s: time to extract features.
        samples: photos that were measured.
    """

    photos: int
    downloads: int
    download_bytes: int | None
    download_s: float | None
    index_bytes: int | None
    build_s: float | None
    samples: int

    def lines(self) -> list[str]:
        """The plan for people."""
        shown = [f"{self.photos:,} photos for the index"]
        if self.downloads:
            known = self.download_bytes
            size = "of unknown size" if known is None else size_text(known)
            shown.append(f"{self.downloads:,} to download, {size}{_about(self.download_s)}")
        if self.index_bytes is not None:
            shown.append(f"index of {size_text(self.index_bytes)}{_about(self.build_s)} to build")
        shown.append(f"estimated from {self.samples} of the photos")
        return shown


def plan(
    found: Gathered,
    model: SelaVPR,
    *,
    work: Path,
    fetcher: Fetcher | None,
    workers: int,
    rate: float,
    views: int,
    local: str,
    rank: int | None,
    batch_size: int,
    engines: int = 1,
) -> Plan:
    """Measure a few photos and reckon from them.

    Args:
        found: the source, gathered in a dry run.
        model: that will extract the features.
        work: folder of earlier downloads; nothing is written there.
        fetcher: for samples of photos that are not on disk; None where all are.
        workers: downloads at a time.
        rate: requests a second.
        views: photos that are cut from a panorama.
        local: how local features are kept, as in ``building.build``.
        rank: of what is kept, as there.
        batch_size: photos per pass.
        engines: that extract at a time, each taken to be as fast as this machine.
    """
    missing = collecting.missing(found.offers, work)
    panoramas = len(found.panoramas) + sum(offer.panorama for offer in found.offers)
    photos = len(found.photos) + len(found.offers) + found.expected + panoramas * (views - 1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [photo.path for photo in _some(found.photos)]
        if found.sample is not None:
            paths += found.sample(Path(folder))
        sizes: list[int] = []
        seconds: list[float] = []
        if fetcher is not None:
            for i, offer in enumerate(_some(missing or found.offers)):
                path = Path(folder, f"{i}.jpg")
                begin = time.perf_counter()
                try:
                    sizes.append(fetcher.file(offer.url, path))
                except DownloadError as error:
                    logger.warning("A sample could not be measured: %s", error)
                    continue
                seconds.append(time.perf_counter() - begin)
                paths.append(path)
        each_s = _seconds(paths, model, batch_size)
        fixed, each, samples = 0, 0, 0
        if each_s is not None:
            fixed, each, samples = _bytes(paths, model, local, rank, Path(folder))
    downloads = len(missing)
    mean_s = sum(seconds) / len(seconds) if seconds else None
    return Plan(
        photos,
        downloads,
        downloads * sum(sizes) // len(sizes) if sizes else None,
        None if mean_s is None else downloads * max(mean_s / workers, 1 / rate),
        fixed + photos * each if samples else None,
        None if each_s is None else photos * each_s / engines,
        samples,
    )


def find_batch_size(model: SelaVPR) -> int:
    """The largest batch that fits, of those that make sense; the same on every run.

    A build that is resumed with another batch size starts anew, since sums may round differently;
    so nothing is timed here, which would come out differently on a busy machine.
    """
    if model.device.type != "cuda":
        return CPU_BATCH
    blank = Image.new("RGB", (model.config.input_size, model.config.input_size))
    size = building.PART
    while size > 1:
        try:
            model.extract_each([blank] * size, batch_size=size)
            return size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            size //= 2
    return size


def size_text(size: float) -> str:
    """Bytes for people: ``"12 MB"``, ``"3.4 GB"``."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    digits = 1 if size < 10 and units[0] != "B" else 0
    return f"{size:.{digits}f} {units[0]}"


def time_text(seconds: float) -> str:
    """A time for people: ``"40 s"``, ``"12 min"``, ``"5.5 h"``, ``"3.2 days"``."""
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            value = seconds / length
            return f"{value:.1f} {unit}" if value < 10 and unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _seconds(paths: Sequence[Path], model: SelaVPR, batch_size: int) -> float | None:
    """Seconds to open a photo and extract its features; None where none can be opened."""
    begin, images = time.perf_counter(), []
    for path in paths:
        with contextlib.suppress(PhotoError):
            images.append(building.stored_photo(path)[0])
    if not images:
        return None
    opening = time.perf_counter() - begin
    model.extract_each(images[:1])  # the first pass of a network is slower than any other
    begin = time.perf_counter()
    model.extract_each(images, batch_size=batch_size)
    return (opening + time.perf_counter() - begin) / len(images)


def _bytes(
    paths: Sequence[Path], model: SelaVPR, local: str, rank: int | None, folder: Path
) -> tuple[int, int, int]:
    """Bytes of an index that do not grow with it, those of a photo, and photos measured.

    An index of the samples is made in a folder that is thrown away.
    """
    photos = unique(
        SourcePhoto(path, Place(str(i), str(i), Location(0, 0))) for i, path in enumerate(paths)
    )
    about = Manifest("plan", "", "", "", 0, (0, 0, 0, 0))
    made, _ = building.build(
        folder / "index", photos, model, about, local=local, rank=rank, search="flat"
    )
    sizes = {path.name: path.stat().st_size for path in made.folder.rglob("*") if path.is_file()}
    fixed = sizes.get(CODEC, 0) + sizes.get(MANIFEST, 0)
    return fixed, (sum(sizes.values()) - fixed) // len(made), len(made)


def _some(items: Sequence[T]) -> list[T]:
    count = min(SAMPLES, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", about {time_text(seconds)}"
