"""``index build`` from every kind of source, as a user gives it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_fixtures import content, draw_town, drawn
from PIL import Image
from street_server import Street, along_a_street
from test_gather import AREA, HERE, snap

from selavpr import SelaVPR, building, cli, cli_build, cli_source, planning
from selavpr.index import PlaceIndex, work_folder
from selavpr.planning import Plan, find_batch_size, size_text, time_text
from selavpr.tables import NAMES
from selavpr.terminal import INTERRUPTED, USER_ERROR

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    network: SelaVPR, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:  # fmt: skip
    """Run ``index build`` with the tiny network; exit code, stdout, stderr."""
    monkeypatch.setattr(SelaVPR, "from_pretrained", lambda *_, **__: network)
    monkeypatch.chdir(tmp_path)

    def runner(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["index", "build", *(str(a) for a in arguments), "--rate", "100"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return runner


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    with along_a_street(HERE, 9, monkeypatch) as served:
        yield served


def test_own_photos(run: Run, tmp_path: Path) -> None:
    for i in range(5):
        snap(tmp_path / f"my town/{i}.jpg", HERE.moved(0, 30 * i), 10.0 * i, i)
    snap(tmp_path / "my town/no.jpg", None)
    code, out, error = run("town", "--from", "my town", "--quiet")
    assert code == 0 and "5 photos" in out and "1 left out" in out
    assert error == "selavpr: left out: no.jpg has no position in its EXIF data.\n"
    index = PlaceIndex.open(tmp_path / "town")
    assert [place.place_id for place in index.places] == ["0", "1", "2", "3", "4"]
    assert [place.heading for place in index.places] == [0, 10, 20, 30, 40]
    for stored in (tmp_path / "town" / "images").iterdir():
        with Image.open(stored) as image:
            assert not image.getexif() and "exif" not in image.info and "xmp" not in image.info
    assert not (tmp_path / "town.photos").exists()


def test_panoramax(run: Run, street: Street, tmp_path: Path) -> None:
    street.photos["p3"]["credit"] = "Zoé"
    code, out, error = run("town", "--from", f"panoramax:{AREA}")
    assert code == 0 and "9 photos" in out and "left out" not in error
    assert all(what in error for what in ("search", "downloads", "photo/s", "9/9"))
    index = PlaceIndex.open(tmp_path / "town")
    assert (index.manifest.license, index.manifest.attribution) == ("CC-BY-SA-4.0", "Ann, Zoé")
    assert index.places[3].credit == "Zoé" and index.places[3].licence == "CC-BY-SA-4.0"
    assert (tmp_path / "town.photos" / "ATTRIBUTION.md").is_file()


def test_mapillary_with_everything_going_wrong(run: Run, street: Street, tmp_path: Path) -> None:
    street.faults = {
        "/images": [("status", 429, {"Retry-After": "0"}), ("cut",)],
        "/photo/p1.jpg": [("status", 404)],
        "/photo/p2.jpg": [("status", 503, {"Retry-After": "0"}), ("cut",)],
        "/photo/p4.jpg": [("body", b"<html>")],
        "/photo/p5.jpg": [("body", b"\xff\xd8\xff no photo at all")],
    }
    code, out, error = run("town", "--from", f"mapillary:{AREA}", "--quiet", "--license", "mine")
    assert code == 0 and "6 photos" in out and "3 left out" in out
    assert [f"p{i}" in error for i in (1, 2, 4, 5)] == [True, False, True, True]
    assert "secret" not in out + error
    assert PlaceIndex.open(tmp_path / "town").manifest.license == "mine"


def test_a_build_that_was_stopped_equals_one_that_was_not(
    run: Run, street: Street, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART", 2)
    source = ("--from", f"panoramax:{AREA}", "--quiet", "--workers", "1", "--name", "x")
    assert run("straight", *source)[0] == 0
    stops = iter(["downloads", "build"])
    show, extract = cli_source.Bars.show, SelaVPR.extract_each

    def stop_downloads(self: Any, what: str, done: int, total: int) -> None:
        show(self, what, done, total)
        if what == "downloads" and done == 4 and next(stops, None):
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_source.Bars, "show", stop_downloads)
    code, _, error = run("stopped", *source)
    assert code == INTERRUPTED and "the same command goes on from here" in error
    monkeypatch.setattr(cli_source.Bars, "show", show)
    calls = 0

    def stop_extracting(self: SelaVPR, images: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return extract(self, images, **options)

    monkeypatch.setattr(SelaVPR, "extract_each", stop_extracting)
    assert run("stopped", *source)[0] == INTERRUPTED
    assert run("stopped", *source)[0] == 0
    assert calls == 3 + 3  # two of five parts are kept, the third is begun anew
    first, second = (content(tmp_path / name) for name in ("straight", "stopped"))
    for files in (first, second):
        about = json.loads(files.pop("manifest.json"))
        assert about["name"] == "x"
    assert first == second


def test_no_resume(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "PART", 2)
    town = draw_town(tmp_path / "source", 4)
    extract, calls = SelaVPR.extract_each, []

    def stopping(self: SelaVPR, images: Any, **options: Any) -> Any:
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return extract(self, images, **options)

    monkeypatch.setattr(SelaVPR, "extract_each", stopping)
    assert run("town", "--from", town, "--quiet")[0] == INTERRUPTED
    assert any((work_folder(tmp_path / "town") / "parts").iterdir())
    assert run("town", "--from", town, "--quiet", "--no-resume")[0] == 0
    assert calls == [2, 2, 2, 2]


# Dry runs


def test_dry_run_of_a_folder(run: Run, tmp_path: Path, network: SelaVPR) -> None:
    town = draw_town(tmp_path / "source")
    code, out, _ = run("town", "--from", town, "--dry-run", "--quiet", "--rank", 8)
    lines = out.splitlines()
    assert code == 0 and lines[0] == "12 photos for the index"
    assert lines[1].startswith("index of ") and "to build" in lines[1]
    assert lines[-1] == "on cpu, 8 photos at a time; nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_size_that_is_foretold(run: Run, tmp_path: Path, network: SelaVPR) -> None:
    town = draw_town(tmp_path / "source")
    found = cli_build.gather.gather(str(town), "table", cli_build.gather.Options(), tmp_path)
    told = planning.plan(
        found, network, work=tmp_path, fetcher=None, workers=1, rate=1, views=4, local="tokens",
        rank=8, batch_size=8,
    )  # fmt: skip
    run("town", "--from", town, "--quiet", "--rank", 8)
    true = sum(path.stat().st_size for path in (tmp_path / "town").rglob("*") if path.is_file())
    assert told.index_bytes == pytest.approx(true, rel=0.25)
    assert (told.photos, told.downloads, told.samples) == (12, 0, planning.SAMPLES)


def test_dry_run_of_a_service(run: Run, street: Street, tmp_path: Path) -> None:
    street.photos["p2"]["pano"] = True
    dry = ("town", "--from", f"panoramax:{AREA}", "--dry-run", "--headings", "0,120,240")
    code, out, _ = run(*dry)
    assert code == 0 and "11 photos for the index" in out and "9 to download, " in out
    assert "estimated from 4 of the photos" in out and list(tmp_path.iterdir()) == []
    each = sum(len(street.picture(f"p{i}")) for i in (0, 2, 4, 6)) / 4
    assert size_text(each * 9) in out
    run("town", "--from", f"panoramax:{AREA}", "--quiet", "--limit", 3)
    assert "6 to download" in run(*dry)[1]


def test_dry_run_with_photos_that_cannot_be_measured(
    run: Run, street: Street, tmp_path: Path
) -> None:
    street.faults = {f"/photo/p{i}.jpg": [("status", 404)] * 9 for i in range(9)}
    code, out, _ = run("town", "--from", f"panoramax:{AREA}", "--dry-run", "--quiet")
    assert code == 0 and "9 to download, of unknown size" in out and "from 0 of" in out


def test_figures_for_people() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 12_345, 9_950_000, 2.5e9, 7e15)] == [
        "0 B", "999 B", "1.0 kB", "12 kB", "9.9 MB", "2.5 GB", "7000 TB"
    ]  # fmt: skip
    assert [time_text(s) for s in (0.4, 119, 120, 7199, 7200, 172_799, 864_000)] == [
        "0 s", "119 s", "2 min", "120 min", "2.0 h", "48 h", "10.0 days"
    ]  # fmt: skip
    assert "of unknown size" in " ".join(Plan(1, 1, None, None, None, None, 0).lines())


# Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "absent"], "did you mean panoramax:"),
        (["--from", "panoramax:1,2"], "four numbers"),
        (["--from", "panoramax:-70,-20,-69,-19"], "no photos in panoramax"),
        (["--from", "source", "--headings", "north"], "--headings takes degrees"),
        (["--from", "source", "--headings", "nan"], "finite"),
        (["--from", "source", "--where", "x"], "column=value"),
        (["--from", "source", "--where", "street=no"], "No row"),
        (["--from", "source", "--workers", "0"], "--workers"),
        (["--from", "source", "--local", "tokens", "--rank", "0"], "rank"),
        (["--from", "source", "--layout", "msls"], "no photos to index"),
        (["--from", f"panoramax:{AREA}", "--photos", "source"], "holds something else"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "",
)  # fmt: skip
def test_mistakes_are_one_line_and_code_2(
    run: Run, street: Street, tmp_path: Path, options: list[str], words: str
) -> None:
    draw_town(tmp_path / "source", 2)
    code, out, error = run("town", *options, "--quiet")
    assert code == USER_ERROR and out == "" and words in error
    assert error.startswith("selavpr: ") and error.count("\n") == 1
    assert not (tmp_path / "town").exists()


@pytest.mark.parametrize("size", ["0", "-1", "x", "1.5"])
def test_batch_sizes_that_are_none(
    run: Run, tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("town", "--from", "x", "--batch-size", size)
    assert "--batch-size" in capsys.readouterr().err


def test_many_problems_are_counted(run: Run, tmp_path: Path) -> None:
    for i in range(cli_source.SHOWN_PROBLEMS + 5):
        drawn(i).save(tmp_path / f"{i:02}.jpg")
    snap(tmp_path / "good.jpg")
    _, _, error = run("town", "--from", ".", "--quiet", "--layout", "exif")
    assert error.count("has no position") == cli_source.SHOWN_PROBLEMS
    assert error.endswith("selavpr: left out: 5 more; --verbose lists them.\n")
    _, _, error = run("town2", "--from", ".", "--quiet", "--verbose", "--layout", "exif")
    assert error.count("has no position") == cli_source.SHOWN_PROBLEMS + 5


@pytest.mark.parametrize("name", [b"town\xdfe", b"town", b"x" * 300])
def test_sources_that_are_hard_to_name(run: Run, tmp_path: Path, name: bytes) -> None:
    source = os.fsdecode(name)
    if len(name) > 255:
        code, _, error = run("town2", "--from", source, "--quiet")
        assert code == USER_ERROR and "too long" in error
        return
    draw_town(tmp_path / source, 2)
    assert run("town2", "--from", source, "--quiet")[0] == 0
    assert "town" in PlaceIndex.open(tmp_path / "town2").manifest.command


def test_what_some_photos_say_is_said_of_no_others(run: Run, tmp_path: Path) -> None:
    town = draw_town(tmp_path / "source", 3)
    head, *rows = (town / "places.csv").read_text().splitlines()
    for licences, whole in ((("A", "A", "B"), "A, B"), (("A", "", "A"), "")):
        lines = [
            f"{head},licence,credit",
            *(f"{r},{x},{x}" for r, x in zip(rows, licences, strict=True)),
        ]
        (town / "places.csv").write_text("\n".join(lines) + "\n")
        assert run("town", "--from", town, "--quiet")[0] == 0
        manifest = PlaceIndex.open(tmp_path / "town").manifest
        assert (manifest.license, manifest.attribution) == (whole, whole)


def test_names_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    drawn(1).save(tmp_path / "\x1b[31mred.jpg")
    snap(tmp_path / "good.jpg")
    _, _, error = run("town", "--from", ".", "--quiet", "--layout", "exif")
    assert "\x1b" not in error and "?[31mred.jpg" in error


# Documentation

GUIDE = (Path(__file__).parent.parent / "docs" / "own-city.md").read_text(encoding="utf-8")


def test_the_guide_names_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["index", "build", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) | {"--index"}
    # Its section on a benchmark speaks of another program.
    about = re.sub(r"^## Ten real photos$.*?(?=^## )", "", GUIDE, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"--[a-z][a-z-]+", about)) <= known


def test_the_guide_names_columns_that_exist() -> None:
    rows = re.findall(r"^\| (`image`|`latitude`.*?|`id`|`heading`|`captured_at`|`street`.*?|"
                      r"`panorama`|`role`) \| (.*?) \|$", GUIDE, re.MULTILINE)  # fmt: skip
    assert len(rows) == 8
    for ours, others in rows:
        names = [name for column in re.findall(r"`(\w+)`", ours) for name in NAMES[column]]
        if ours != "`role`":
            assert set(re.findall(r"\w+", others.split(":")[0])) <= set(names)


# Batches


def test_batch_size(network: SelaVPR, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_batch_size(network) == planning.CPU_BATCH
    tried = []

    def extract_each(photos: list[Any], batch_size: int) -> None:
        tried.append(batch_size)
        if batch_size > 4:
            raise torch.OutOfMemoryError("out of memory")

    class OnGpu:
        device = torch.device("cuda")
        config = network.config

    monkeypatch.setattr(OnGpu, "extract_each", staticmethod(extract_each), raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert find_batch_size(OnGpu()) == 4 and tried == [16, 8, 4]  # type: ignore[arg-type]
