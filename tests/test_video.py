"""GPX tracks, and photos out of videos; those that decode need PyAV."""

from __future__ import annotations

import csv
import importlib.util
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selavpr import LocationError, OptionError, video
from selavpr.geo import Location
from selavpr.gpx import Track, iso, read_gpx, read_time
from selavpr.video import extract, find_track, plan, shots_of

HERE = Location(48.0, 11.0)
NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z
needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="PyAV is not installed")


def track(*points: tuple[float, float, float]) -> Track:
    """From seconds, metres east and metres north."""
    return Track(
        tuple(NOON + t for t, _, _ in points), tuple(HERE.moved(x, y) for _, x, y in points)
    )


def gpx(path: Path, route: Track) -> Path:
    points = "".join(
        f'<trkpt lat="{p.latitude}" lon="{p.longitude}"><ele>1</ele><time>{iso(s)}</time></trkpt>'
        for s, p in zip(route.seconds, route.places, strict=True)
    )
    path.write_text(
        f'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{points}</trkseg></trk></gpx>'
    )
    return path


ROUND_THE_CORNER = track((0, 0, 0), (10, 0, 50), (20, 50, 50))


def test_positions_between_points() -> None:
    for second, (east, north) in ((0, (0, 0)), (5, (0, 25)), (10, (0, 50)), (17, (35, 50))):
        assert ROUND_THE_CORNER.at(NOON + second).distance_m(HERE.moved(east, north)) < 0.01
    for second in (-1, 21):
        with pytest.raises(LocationError):
            ROUND_THE_CORNER.at(NOON + second)


def test_headings_along_the_way() -> None:
    assert ROUND_THE_CORNER.heading(NOON + 4) == pytest.approx(0, abs=1e-6)
    assert ROUND_THE_CORNER.heading(NOON + 15) == pytest.approx(90, abs=0.1)
    assert track((0, 0, 0), (9, 0, 0)).heading(NOON + 4) is None
    south = track((0, 0, 0), (9, 0, -90))
    assert south.heading(NOON) == south.heading(NOON + 9) == pytest.approx(180, abs=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 20), st.floats(-30, 30), st.floats(-30, 30)), min_size=2,
        max_size=12,
    ),
    st.floats(1, 40), st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_steps_are_of_the_length_asked_for(
    legs: list[tuple[float, float, float]], step: float, a: float, b: float
) -> None:
    points, t, x, y = [], 0.0, 0.0, 0.0
    for seconds, east, north in legs:
        points.append((t, x, y))
        t, x, y = t + seconds, x + east, y + north
    way = track(*points)
    start = way.start + a * (way.end - way.start) / 2
    end = start + b * (way.end - start)
    times = way.every(step, start, end)
    assert times[0] == start and times == sorted(times) and times[-1] <= end + 1e-6
    knots = [start, *(s for s in way.seconds if start < s < end), end]

    def length(until: float) -> float:
        stops = [*(k for k in knots if k < until), until]
        return sum(way.at(p).distance_m(way.at(q)) for p, q in itertools.pairwise(stops))

    for i, second in enumerate(times):
        assert length(min(second, end)) == pytest.approx(i * step, abs=0.02)
    assert length(end) < len(times) * step + 0.02


def test_gpx(tmp_path: Path) -> None:
    read = read_gpx(gpx(tmp_path / "a.gpx", ROUND_THE_CORNER))
    assert read.seconds == ROUND_THE_CORNER.seconds
    assert all(
        p.distance_m(q) < 1e-6 for p, q in zip(read.places, ROUND_THE_CORNER.places, strict=True)
    )
    # Without name space, out of order, with fractions, an offset, and a point without time.
    (tmp_path / "b.gpx").write_text(
        '<gpx><trk><trkseg><trkpt lat="2" lon="3"><time>2026-01-01T13:00:01.5+01:00</time></trkpt>'
        '<trkpt lat="1" lon="3"/>'
        '<trkpt lat="1" lon="3"><time>2026-01-01T12:00:00.25Z</time></trkpt>'
        "</trkseg></trk></gpx>"
    )
    read = read_gpx(tmp_path / "b.gpx")
    assert read.seconds == (NOON + 0.25, NOON + 1.5) and read.places[0] == Location(1, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read as GPX"), ("<gpx/>", "fewer than two positions"),
     ('<gpx><trkpt lat="1" lon="2"><time>now</time></trkpt></gpx>', "fewer than two"),
     ('<gpx><trkpt lat="91" lon="2"><time>2026-01-01T12:00:00Z</time></trkpt></gpx>', "point 1 of"),
     ('<gpx><trkpt lon="2"><time>2026-01-01T12:00:00Z</time></trkpt></gpx>', "point 1 of"),
     ('<!DOCTYPE x [<!ENTITY a "b">]><gpx>&a;</gpx>', "defines entities")],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_no_gpx(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.gpx").write_text(text)
    with pytest.raises((OptionError, LocationError), match=words):
        read_gpx(tmp_path / "x.gpx")


def test_times() -> None:
    for text in ("2026-01-01T12:00:00Z", "2026-01-01 12:00:00", "2026-01-01T14:00:00.0+02:00"):
        assert read_time(text) == NOON
    assert iso(NOON) == "2026-01-01T12:00:00+00:00"
    with pytest.raises(OptionError, match="is no time"):
        read_time("noon")


def test_plan() -> None:
    way = track((0, 0, 0), (100, 0, 100))
    shots = plan(way, 30, None, every_m=10)
    assert [round(shot.offset) for shot in shots] == [0, 10, 20, 30]
    # What the video says, what the user says, and a clock that was 5 s slow.
    assert plan(way, 30, NOON + 50, every_m=10)[0].second == NOON + 50
    assert plan(way, 30, NOON + 50, every_m=10, start=iso(NOON + 20))[0].second == NOON + 20
    assert plan(way, 30, NOON + 50, every_m=10, offset_s=5)[0].second == NOON + 55
    # A video that begins before the track: the first photo is where the track begins.
    early = plan(way, 30, NOON - 12, every_m=10)[0]
    assert (early.offset, early.second) == (12, NOON)
    with pytest.raises(OptionError, match="no time in common"):
        plan(way, 30, NOON + 101)
    for bad in ({"every_m": 0}, {"every_m": float("nan")}, {"offset_s": float("inf")}):
        with pytest.raises(OptionError):
            plan(way, 30, None, **bad)


def test_the_track_beside_a_video(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").touch()
    with pytest.raises(OptionError, match=r"put v\.gpx beside it"):
        find_track(tmp_path / "v.mp4", None)
    (tmp_path / "v.gpx").touch()
    assert find_track(tmp_path / "v.mp4", None) == tmp_path / "v.gpx"
    with pytest.raises(OptionError):
        find_track(tmp_path / "v.mp4", tmp_path / "absent.gpx")


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(video.importlib, "import_module", missing)
    gpx(tmp_path / "v.gpx", ROUND_THE_CORNER)
    with pytest.raises(OptionError, match=r"pip install \"av>=14\""):
        shots_of(tmp_path / "v.mp4")


def film(path: Path, seconds: int = 20, rate: int = 5, created: str = "") -> Path:
    """A video whose grey level is 10 times the second."""
    import av  # noqa: PLC0415 - only where it is installed

    with av.open(str(path), "w") as container:
        if created:
            container.metadata["creation_time"] = created
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, rate)
        for i in range(seconds * rate):
            grey = np.full((48, 64, 3), 10 * (i // rate), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@needs_av
def test_extract(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4")
    gpx(tmp_path / "v.gpx", track((0, 0, 0), (100, 0, 100)))
    steps: list[tuple[int, int]] = []
    found = shots_of(tmp_path / "v.mp4", every_m=5)
    made = extract(
        tmp_path / "v.mp4", tmp_path / "out", *found, progress=lambda *step: steps.append(step)
    )
    count = len(made)
    with (tmp_path / "out" / "places.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert count == len(rows) and count in (4, 5)  # the last may fall on the video's very end
    assert steps[-1][0] == count
    for i, row in enumerate(rows[:4]):
        with Image.open(tmp_path / "out" / row["image"]) as image:
            assert abs(np.asarray(image).mean() - 50 * i) < 6
        place = Location(float(row["latitude"]), float(row["longitude"]))
        assert place.distance_m(HERE.moved(0, 5 * i)) < 0.1
        assert float(row["heading"]) == pytest.approx(0, abs=0.1)
        assert row["captured_at"] == iso(NOON + 5 * i)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "places.csv").write_text("mine")
    with pytest.raises(OptionError, match="table of other photos"):
        extract(tmp_path / "v.mp4", tmp_path / "mine", *found)
    # Again: nothing is decoded; one photo lost: only that one is written.
    frames = sorted((tmp_path / "out" / "frames").iterdir())
    times = [path.stat().st_mtime_ns for path in frames]
    frames[2].unlink()
    assert extract(tmp_path / "v.mp4", tmp_path / "out", *found) == made
    assert frames[2].exists()
    now = [path.stat().st_mtime_ns for path in frames]
    assert [a == b for a, b in zip(times, now, strict=True)] == [i != 2 for i in range(len(frames))]


@needs_av
def test_the_videos_own_time(tmp_path: Path) -> None:
    film(tmp_path / "v.mp4", seconds=3, created=iso(NOON + 40))
    gpx(tmp_path / "v.gpx", track((0, 0, 0), (100, 0, 100)))
    extract(tmp_path / "v.mp4", tmp_path / "out", *shots_of(tmp_path / "v.mp4", every_m=50))
    with (tmp_path / "out" / "places.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["captured_at"] == iso(NOON + 40)


@needs_av
def test_no_video(tmp_path: Path) -> None:
    gpx(tmp_path / "v.gpx", ROUND_THE_CORNER)
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(OptionError, match="cannot be read as a video"):
        shots_of(tmp_path / "v.mp4")
