"""Photos out of a video, placed by a GPX track.

PyAV decodes (``pip install "av>=14"``); it is imported where it is used, so that nothing
else needs it. The folder that is written can be given to ``index build --from`` again.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from selavpr.errors import OptionError
from selavpr.gpx import Track, iso, read_gpx, read_time
from selavpr.tables import TABLE, put_rows

VIDEO_ENDINGS = frozenset(
    (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mts", ".insv")
)
EVERY_M = 5.0
"""Default distance between photos: closer than the accuracy of a position, so none is missed."""

FRAMES = "frames"
QUALITY = 92
LONGEST_SIDE = 2048  # as street imagery services serve them; an index keeps less


@dataclass(frozen=True)
class Shot:
    """A frame to take.

    Attributes:
        offset: seconds from the video's beginning.
        second: seconds since 1970.
    """

    offset: float
    second: float


def find_track(video: Path, gpx: Path | None) -> Path:
    """The GPX file of a video: as named, or the one beside it.

    Raises:
        OptionError: there is none.
    """
    found = gpx or next(
        (p for p in (video.with_suffix(".gpx"), video.with_suffix(".GPX")) if p.is_file()), None
    )
    if found is None or not found.is_file():
        raise OptionError(
            f"{video.name} needs a GPX track: put {video.stem}.gpx beside it, "
            "or name one with --gpx."
        )
    return found


def plan(
    track: Track,
    duration: float,
    recorded: float | None,
    *,
    every_m: float = EVERY_M,
    start: str = "",
    offset_s: float = 0.0,
) -> list[Shot]:
    """When to take photos.

    Args:
        track: where the camera was.
        duration: of the video, in seconds.
        recorded: when the video says it was begun, in seconds since 1970; None where it does not.
        every_m: metres travelled between photos.
        start: when it was begun, as ISO 8601, in place of what the video says.
        offset_s: added to that time: positive where the camera's clock was slow.

    Raises:
        OptionError: an option is out of range, or video and track have no time in common.
    """
    if not 0 < every_m < math.inf or not math.isfinite(offset_s):
        raise OptionError("--every takes metres above 0, --time-offset seconds.")
    begin = read_time(start) if start else recorded if recorded is not None else track.start
    begin += offset_s
    seconds = track.every(every_m, begin, begin + duration)
    if not seconds:
        raise OptionError(
            f"The video lasts from {iso(begin)} for {duration:.0f} s, the track from "
            f"{iso(track.start)} to {iso(track.end)}: they have no time in common. Say with "
            "--video-start when the video was begun, or with --time-offset how wrong its clock was."
        )
    return [Shot(second - begin, second) for second in seconds]


def shots_of(
    video: Path,
    gpx: Path | None = None,
    *,
    every_m: float = EVERY_M,
    start: str = "",
    offset_s: float = 0.0,
) -> tuple[Track, list[Shot]]:
    """The track of a video and when to take photos; nothing is decoded.

    Args:
        video: what PyAV reads.
        gpx: the track; see ``find_track``.
        every_m: see ``plan``.
        start: see ``plan``.
        offset_s: see ``plan``.

    Raises:
        OptionError: see ``plan`` and ``find_track``; or PyAV is missing, or the video cannot be
            read.
    """
    track = read_gpx(find_track(video, gpx))
    duration, recorded = _about(video)
    shots = plan(track, duration, recorded, every_m=every_m, start=start, offset_s=offset_s)
    return track, shots


def extract(
    video: Path,
    folder: Path,
    track: Track,
    shots: Sequence[Shot],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write photos of a video and a table of their places into a folder.

    Photos that are there from a call with the same video are not made again.

    Args:
        video: what PyAV reads.
        folder: made if need be.
        track: where the camera was.
        shots: when to take photos, in order.
        progress: called with photos done and their number.

    Returns:
        The photos; fewer than asked for where the video ends before it says.

    Raises:
        OptionError: the video cannot be read, or the folder not written.
    """
    # The names tell frames of other videos and of other choices apart.
    about = (video.resolve(), video.stat().st_size, video.stat().st_mtime_ns)
    key = hashlib.sha256(repr(about).encode("utf-8", "replace")).hexdigest()[:8]
    try:
        if (folder / TABLE).exists() and not (folder / FRAMES).is_dir():
            raise OptionError(f"{folder} holds a table of other photos; choose another folder.")
        (folder / FRAMES).mkdir(parents=True, exist_ok=True)
        paths = [folder / FRAMES / f"{key}-{shot.offset * 1000:09.0f}.jpg" for shot in shots]
        taken = _take(video, shots, paths, progress)
        _write_table(folder / TABLE, track, shots[:taken], paths[:taken])
    except OSError as error:
        raise OptionError(f"Cannot write to {folder}: {error.strerror or error}.") from error
    return paths[:taken]


def _take(
    video: Path, shots: Sequence[Shot], paths: Sequence[Path], progress: Callable[[int, int], None]
) -> int:
    """Write the photos that are missing; the number until the video ended."""
    if all(path.exists() for path in paths):
        return len(paths)
    number = 0
    for offset, frame in _frames(video):
        image: Image.Image | None = None
        while number < len(shots) and offset >= shots[number].offset:
            if not paths[number].exists():
                image = image or _upright(frame)
                partial = paths[number].with_suffix(".part")
                image.save(partial, "JPEG", quality=QUALITY)
                partial.replace(paths[number])
            number += 1
            progress(number, len(shots))
        if number == len(shots):
            break
    return number


def _about(video: Path) -> tuple[float, float | None]:
    """Duration in seconds, and when the video says it was begun."""
    av = _av()
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            length = container.duration / 1e6 if container.duration else 0.0
            if not length and stream.duration and stream.time_base:
                length = float(stream.duration * stream.time_base)
            created = {**stream.metadata, **container.metadata}.get("creation_time", "")
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        raise OptionError(f"{video} cannot be read as a video: {error}.") from error
    try:
        # Cameras without a clock write 1904 or 1970.
        recorded = read_time(created) if created and created[:4] > "1990" else None
    except OptionError:
        recorded = None
    return length or math.inf, recorded


def _frames(video: Path) -> Iterator[tuple[float, Any]]:
    """Seconds from the beginning, and a frame; one that cannot be decoded is passed over."""
    av = _av()
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first: float | None = None
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    if frame.time is not None:
                        first = frame.time if first is None else first
                        yield frame.time - first, frame
    except av.error.FFmpegError as error:
        raise OptionError(f"{video} cannot be read to its end: {error}.") from error


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    # Phones store how they were held; counter-clockwise degrees, as Pillow turns.
    image = image.rotate(getattr(frame, "rotation", 0) or 0, expand=True)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def _write_table(path: Path, track: Track, shots: Sequence[Shot], paths: Sequence[Path]) -> None:
    rows = []
    for shot, photo in zip(shots, paths, strict=True):
        place, heading = track.at(shot.second), track.heading(shot.second)
        rows.append(
            {
                "image": f"{FRAMES}/{photo.name}",
                "latitude": f"{place.latitude:.7f}",
                "longitude": f"{place.longitude:.7f}",
                "heading": "" if heading is None else f"{heading:.1f}",
                "captured_at": iso(shot.second),
            }
        )
    put_rows(path, ("image", "latitude", "longitude", "heading", "captured_at"), rows)


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise OptionError(
            'Reading videos needs PyAV, which is not installed: pip install "av>=14".'
        ) from error
