"""Offers into a folder that can be indexed: photos, a table of their places, an attribution.

The folder can be given to ``index build --from`` again, without the network::

    FOLDER/
        photos/<service>-<id>.jpg
        places.csv          one row per photo, of earlier downloads, too: where, when, by whom,
                            under which licence
        ATTRIBUTION.md      whom to name
        downloads.jsonl     size and checksum of each photo that is whole

A download that was stopped goes on: what downloads.jsonl knows and is still as it says is kept.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from selavpr.download import Fetcher
from selavpr.errors import DownloadError, OptionError, PhotoError
from selavpr.offers import Offer
from selavpr.tables import TABLE, put_rows

PHOTOS, JOURNAL, ATTRIBUTION = "photos", "downloads.jsonl", "ATTRIBUTION.md"
COLUMNS = (
    "image", "latitude", "longitude", "id", "heading", "captured_at", "credit", "licence",
    "panorama", "source",
)  # fmt: skip

_AHEAD = 4  # downloads waiting per worker: enough to keep it busy, few to forget on Ctrl-C

Progress = Callable[[int, int], None]
"""Called with photos done and bytes downloaded."""


@dataclass(frozen=True)
class Collected:
    """What came of a download.

    Attributes:
        folder: can be indexed.
        names: files of the photos that were asked for, in order; others may lie there, too.
        downloaded: how many of these were not there before.
        bytes: what was downloaded.
    """

    folder: Path
    names: tuple[str, ...]
    downloaded: int
    bytes: int


def collect(
    offers: Iterable[Offer],
    folder: Path,
    fetcher: Fetcher,
    problems: list[str],
    *,
    workers: int = 4,
    progress: Progress = lambda done, size: None,
) -> Collected:
    """Download photos into a folder, those that are not yet there.

    Args:
        offers: what to download.
        folder: made if need be; a folder with other things in it is refused.
        fetcher: asks for the photos; no secrets in it, since photos lie on other servers.
        problems: a sentence is added for each photo that cannot be had.
        workers: downloads at a time.
        progress: called after each photo.

    Raises:
        OptionError: the folder holds something else, or cannot be written.
    """
    offers = sorted(offers, key=lambda offer: (offer.service, offer.photo_id))
    try:
        _prepare(folder)
        whole = _read_journal(folder)
        with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
            kept, downloaded, size = [], 0, 0
            # Closed at once, so that nobody downloads on while an error is told.
            with contextlib.closing(_all(offers, folder, whole, fetcher, workers)) as results:
                for offer, result in results:
                    if isinstance(result, (DownloadError, PhotoError)):
                        problems.append(f"{offer.service} photo {offer.photo_id[:50]!r}: {result}")
                    else:
                        kept.append(offer)
                        if result is not None:
                            downloaded += 1
                            size += int(str(result["bytes"]))
                            journal.write(json.dumps(result) + "\n")
                            journal.flush()
                    progress(len(kept), size)
        kept.sort(key=lambda offer: (offer.service, offer.photo_id))
        rows = put_rows(folder / TABLE, COLUMNS, [table_row(offer) for offer in kept])
        text = attribution(rows).encode("utf-8", "replace")
        (folder / ATTRIBUTION).write_bytes(text)
    except OSError as error:
        raise OptionError(
            f"Cannot write to {folder}: {error.strerror or error}. What is downloaded so far is "
            "kept; the same command goes on from there."
        ) from error
    return Collected(folder, tuple(file_name(offer) for offer in kept), downloaded, size)


def missing(offers: Iterable[Offer], folder: Path) -> list[Offer]:
    """The offers that ``collect`` would download."""
    whole = _read_journal(folder)
    return [offer for offer in offers if not _is_whole(folder, whole, file_name(offer))]


def file_name(offer: Offer) -> str:
    """The name of a photo's file: no path, nothing that a file system minds, and no collision.

    Ids come from a server. One that is not plain gets a checksum, so that no two become the same.
    """
    plain = re.sub(r"[^0-9A-Za-z-]", "_", offer.photo_id)[:64]
    if plain != offer.photo_id or plain != plain.lower():
        plain += "-" + hashlib.sha256(offer.photo_id.encode("utf-8", "replace")).hexdigest()[:12]
    return f"{offer.service}-{plain}.jpg"


def table_row(offer: Offer) -> Mapping[str, str]:
    """What the table says of a photo, by column."""
    return {
        "image": f"{PHOTOS}/{file_name(offer)}",
        "latitude": f"{offer.location.latitude:.7f}",
        "longitude": f"{offer.location.longitude:.7f}",
        "id": f"{offer.service}-{offer.photo_id}",
        "heading": "" if offer.heading is None else f"{offer.heading:.1f}",
        "captured_at": offer.captured_at,
        "credit": offer.credit,
        "licence": offer.licence,
        "panorama": "yes" if offer.panorama else "",
        "source": offer.page,
    }


def attribution(rows: Sequence[Mapping[str, str]]) -> str:
    """The text that names authors and licences of a table's photos, for people."""
    about = [[row.get(name, "") for name in ("licence", "image", "credit")] for row in rows]
    groups = collections.Counter(
        (licence, image.removeprefix(f"{PHOTOS}/").partition("-")[0], credit or "unknown")
        for licence, image, credit in about
    )
    lines = [
        "# Attribution",
        "",
        f"{len(rows):,} photos. Author, licence and address of each are in `{TABLE}`.",
        "",
        "| licence | service | author | photos |",
        "| --- | --- | --- | --- |",
    ]
    for (licence, service, credit), count in sorted(groups.items()):
        cells = (re.sub(r"[|\s\\`<>]+", " ", cell).strip() for cell in (licence, service, credit))
        lines.append(f"| {' | '.join(cells)} | {count:,} |")
    return "\n".join(lines) + "\n"


def _prepare(folder: Path) -> None:
    if folder.exists() and not (folder / JOURNAL).exists():
        # A table of someone's own must not be written over.
        if not folder.is_dir() or any(folder.iterdir()):
            raise OptionError(f"{folder} holds something else; choose another folder for photos.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JOURNAL).touch()
    (folder / PHOTOS).mkdir(exist_ok=True)


def _read_journal(folder: Path) -> dict[str, Mapping[str, object]]:
    """What is known of each file that was whole; lines cut off by a crash count for nothing."""
    known: dict[str, Mapping[str, object]] = {}
    try:
        text = (folder / JOURNAL).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return known
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            known[entry["name"]] = {"bytes": entry["bytes"], "sha256": entry["sha256"]}
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return known


def _is_whole(folder: Path, whole: Mapping[str, Mapping[str, object]], name: str) -> bool:
    known, path = whole.get(name), folder / PHOTOS / name
    try:
        return (
            known is not None
            and path.stat().st_size == known["bytes"]
            and _checksum(path) == known["sha256"]
        )
    except OSError:
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # bounded by what was downloaded


Result = Mapping[str, object] | DownloadError | PhotoError | None
"""Of one photo: its line for the journal, why it is not there, or None where it was there."""


def _all(
    offers: Sequence[Offer],
    folder: Path,
    whole: Mapping[str, Mapping[str, object]],
    fetcher: Fetcher,
    workers: int,
) -> Generator[tuple[Offer, Result], None, None]:
    """Each offer with what came of it, as they are done."""

    def one(offer: Offer) -> Result:
        name = file_name(offer)
        path = folder / PHOTOS / name
        if _is_whole(folder, whole, name):
            return None
        try:
            size = fetcher.file(offer.url, path)
            _check_kind(path)
        except (DownloadError, PhotoError) as error:
            return error
        return {"name": name, "bytes": size, "sha256": _checksum(path)}

    waiting = iter(offers)
    running: dict[Future[Result], Offer] = {}
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        try:
            while True:
                while len(running) < max(workers, 1) * _AHEAD:
                    offer = next(waiting, None)
                    if offer is None:
                        break
                    running[pool.submit(one, offer)] = offer
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:  # after Ctrl-C or a full disk, nobody waits for a turn any more
            fetcher.close()
            pool.shutdown(wait=True, cancel_futures=True)


def _check_kind(path: Path) -> None:
    """Refuse the page of text that some servers send in place of a photo."""
    with path.open("rb") as file:
        start = file.read(16)
    if not (start[:3] == b"\xff\xd8\xff" or start[:4] == b"\x89PNG" or start[8:12] == b"WEBP"):
        path.unlink()
        raise PhotoError("what the server sends is no photo.")
