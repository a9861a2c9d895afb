"""The command line, run in this process; one test starts it as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_fixtures import COUNT, draw_town, drawn
from PIL import Image
from test_official import checkpoint, save_official

import selavpr
from selavpr import (
    SelaVPR,
    building,
    cli,
    cli_index,
    confidence,
    datacard,
    hub,
    viz,
    weights,
    writing,
)
from selavpr.calibration import store
from selavpr.index import PlaceIndex
from selavpr.judgement import Calibration
from selavpr.terminal import INTERRUPTED, PIPE_CLOSED, USER_ERROR


@pytest.fixture
def official(tiny_model: SelaVPR, tmp_path: Path) -> Path:
    return save_official(tmp_path / "msls.pth", checkpoint(tiny_model))


def test_convert(
    official: Path, tiny_model: SelaVPR, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["convert", str(official), str(out), "--with-backbone"]) == 0
    shown = capsys.readouterr()
    trained = sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)
    source = tiny_model.to_weights()
    assert "width 32, 2 blocks\n" in shown.out
    assert f"{trained:,}" in shown.out
    assert weights.fingerprint(source.backbone, 2) in shown.out
    assert all(name in shown.out for name in (str(out), "adapters.safetensors", "config.json"))
    assert shown.err == ""
    model = SelaVPR.from_pretrained(out, device="cpu")
    pixels = torch.rand(1, 3, 56, 56)
    with torch.inference_mode():
        assert torch.equal(model(pixels).descriptor, tiny_model(pixels).descriptor)


def test_convert_reg4_half(
    tiny_reg4_model: SelaVPR, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_official(tmp_path / "x.pth", checkpoint(tiny_reg4_model))
    out = tmp_path / "out"
    assert cli.main(["convert", str(path), str(out), "--with-backbone", "--half"]) == 0
    assert "2 blocks, 4 registers" in capsys.readouterr().out
    assert weights.load(out).config.registers == 4


def test_convert_warns_where_nobody_has_the_backbone(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", str(official), str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "warning" in error and "--with-backbone" in error


def test_convert_names_the_repository_of_a_known_backbone(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(weights.TIMM_REPOS, (32, 0), "timm/vit_known")
    assert cli.main(["convert", str(official), str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "fetches the backbone from timm/vit_known" in shown.out and shown.err == ""
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["backbone"]["repo"] == "timm/vit_known"


def test_mistakes_are_one_line_and_code_2(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    (tmp_path / "bad.pth").write_bytes(b"bad")
    for arguments in (
        [str(tmp_path / "absent.pth"), str(tmp_path / "out")],
        [str(tmp_path / "bad.pth"), str(tmp_path / "out")],
        [str(official), str(tmp_path / "mine")],
        [str(official), str(tmp_path / "out"), "--push-to-hub", "not a name"],
    ):
        assert cli.main(["convert", *arguments]) == USER_ERROR
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("selavpr: ") and shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_push(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The upload itself is tested in test_hub.py, against a server.
    pushed = []
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(hub, "push", lambda *args, **kw: pushed.append((args, kw)) or "address")
    out = tmp_path / "out"
    arguments = ["convert", str(official), str(out), "--with-backbone", "--push-to-hub", "org/n"]
    assert cli.main(arguments) == 0
    assert pushed == [((out, "org/n"), {"message": "Convert msls.pth"})]
    assert "Pushed: address" in capsys.readouterr().out


def test_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SelaVPR, "from_official_checkpoint", interrupted)
    assert cli.main(["convert", "x.pth", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "selavpr: interrupted.\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["convert"], 2),
        (["--help"], 0),
        (["convert", "--help"], 0),
        (["locate"], 2),
        (["index"], 2),
        (["index", "build", "x"], 2),
        (["index", "--help"], 0),
        (["locate", "x", "--json", "--geojson"], 2),
        (["locate", "x", "--top-k", "y"], 2),
    ],
)
def test_usage(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == code
    shown = capsys.readouterr()
    assert "usage: selavpr" in (shown.err if code else shown.out)


@pytest.mark.parametrize(
    ("line", "function"),
    [
        ("convert a b", cli.convert), ("locate a.jpg b.jpg", cli.locate),
        ("index build out --from in", cli_index.index_build),
        ("index info out", cli_index.index_info),
        ("index verify out", cli_index.index_verify),
    ],
)  # fmt: skip
def test_every_command_runs_a_function(line: str, function: object) -> None:
    assert cli._parser().parse_args(line.split()).run is function


def test_as_a_module() -> None:
    script = (
        "import sys, runpy; sys.argv[1:] = ['--version']\n"
        "try: runpy.run_module('selavpr', run_name='__main__', alter_sys=True)\n"
        "finally: print(sorted({'gradio', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"selavpr {selavpr.__version__}", "[]"], done.stderr


# Locating and indexing

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    network: SelaVPR, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command with the tiny network as the model; exit code, stdout, stderr."""
    monkeypatch.setattr(SelaVPR, "from_pretrained", lambda *_, **__: network)

    def runner(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(a) for a in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return runner


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Photos of three places of the town."""
    for i in range(3):
        drawn(i).save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(3)]


@pytest.fixture
def _sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "verdict", lambda evidence: "probably")


@pytest.mark.usefixtures("_sure")
def test_locate_for_people(run: Run, built: Path, files: list[Path]) -> None:
    code, out, error = run("locate", files[1], "--index", built)
    assert code == 0 and error == ""
    lines = out.splitlines()
    latitude = 48 + 40 / 6_371_008.8 * 57.29577951308232
    assert lines[0] == f"{files[1]}: {latitude:.6f}, 11.000000 (Way 1), probably in Drawn Town"
    assert "not calibrated" in lines[1]
    assert lines[2].split() == ["rank", "global", "matches", "similarity", "place"]
    assert len(lines) == 3 + cli.SHOWN + 1
    assert lines[3].split()[:2] == ["1", "1"] and "p1 " in lines[3] and lines[3].endswith("Way 1")
    assert all(stage in lines[-1] for stage in ("open", "extract", "search", "rerank", "locate"))


def test_an_answer_that_was_not_re_ranked_is_not_blamed_on_the_index(
    run: Run, network: SelaVPR, built: Path, files: list[Path], tmp_path: Path
) -> None:
    width = len(confidence.FEATURES)
    zeros, line = (0.0,) * width, (0.0,) * (width + 1)
    index = Path(shutil.copytree(built, tmp_path / "town"))
    store(index, Calibration(zeros, (1.0,) * width, line, line, 0.1, 0.5, 0.9, (), (5.0,), (9.0,),
                             20, 9, 9))  # fmt: skip
    _, out, _ = run("locate", files[0], "--index", index)
    assert "in this city with a probability of 50%" in out
    assert "within 25 m with a probability of 50%" in out
    _, out, _ = run("locate", files[0], "--index", index, "--no-rerank")
    assert "nothing was re-ranked" in out and "not calibrated" not in out
    _, out, _ = run("locate", files[0], "--index", index, "--rerank-depth", 5)
    assert "calibrated for 12 re-ranked candidates" in out and "probability" not in out
    _, out, _ = run("locate", files[0], "--index", built, "--no-rerank")
    assert "not calibrated" in out
    store(index, Calibration(zeros, (1.0,) * width, line, line, 0.1, 0.5, 0.9, (), (5.0,), (9.0,),
                             20, 9, 9, query_scales=(0.9,)))  # fmt: skip
    _, out, _ = run("locate", files[0], "--index", index)
    assert "was calibrated otherwise" in out and "probability" not in out


def test_locate_re_ranks_as_many_as_asked(run: Run, built: Path, files: list[Path]) -> None:
    options = ("locate", files[1], "--index", built, "--json", "--top-k", 4)
    matches = [
        c["matches"] for c in json.loads(run(*options, "--rerank-depth", 2)[1])["candidates"]
    ]
    assert len(matches) == 4 and None not in matches[:2] and matches[2:] == [None, None]
    whole = [
        c["place_id"] for c in json.loads(run(*options, "--rerank-depth", 12)[1])["candidates"]
    ]
    everything = run("locate", files[1], "--index", built, "--json", "--top-k", 12)[1]
    assert whole == [c["place_id"] for c in json.loads(everything)["candidates"]][:4]
    code, _, error = run(*options, "--rerank-depth", 0)
    assert code == USER_ERROR and "rerank_depth must be 1 to 1000" in error


@pytest.mark.usefixtures("_sure")
def test_locate_json_is_a_line_per_photo(run: Run, built: Path, files: list[Path]) -> None:
    code, out, error = run("locate", *files, "--index", built, "--json", "--top-k", 4)
    assert code == 0 and error == ""
    answers = [json.loads(line) for line in out.splitlines()]
    assert [a["photo"] for a in answers] == [str(path) for path in files]
    assert [a["candidates"][0]["place_id"] for a in answers] == ["p0", "p1", "p2"]
    assert all(len(a["candidates"]) == 4 for a in answers)
    assert set(answers[0]) == {
        "photo", "verdict", "confidence", "right", "location", "global_location", "candidates",
        "timings_ms",
    }  # fmt: skip
    _, out, _ = run("locate", files[0], "--index", built, "--json", "--no-rerank")
    assert json.loads(out)["candidates"][0]["matches"] is None
    _, out, _ = run("locate", files[0], "--index", built, "--geojson")
    assert json.loads(out)["type"] == "FeatureCollection"


@pytest.mark.parametrize(("verdict", "code"), [("not here", 1), ("unsure", 0)])
def test_exit_code_of_a_photo_from_elsewhere(
    run: Run, built: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch, verdict: str,
    code: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(confidence, "verdict", lambda evidence: verdict)
    found, out, _ = run("locate", files[0], "--index", built)
    assert found == code and ("not in Drawn Town" in out) == bool(code)


def test_messages_do_not_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    """What a file holds is quoted in messages, and may come from a stranger."""
    (tmp_path / "places.csv").write_text("image,latitude,\x1b[2Jlongitude\n")
    _, _, error = run("eval", tmp_path / "places.csv")
    assert "needs a column 'longitude'" in error and "?[2Jlongitude" in error
    assert "\x1b" not in error


def test_a_bad_photo_does_not_stop_the_others(
    run: Run, built: Path, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    photos = (files[0], tmp_path / "bad.jpg", tmp_path / "absent.jpg", files[1])
    code, out, error = run("locate", *photos, "--index", built, "--json")
    assert code == USER_ERROR
    assert [json.loads(line)["photo"] for line in out.splitlines()] == [str(p) for p in files[:2]]
    assert [line.split(": ")[1] for line in error.splitlines()] == [str(p) for p in photos[1:3]]


def test_draw_and_map(run: Run, built: Path, files: list[Path], tmp_path: Path) -> None:
    out = (tmp_path / "d.png", tmp_path / "m.html")
    run("locate", files[0], "--index", built, "--draw", out[0], "--map", out[1])
    with Image.open(out[0]) as picture:
        assert picture.height == viz.MATCHES_HEIGHT and picture.width > picture.height
    assert "<!doctype html>" in out[1].read_text(encoding="utf-8")
    run("locate", *files, "--index", built, "--draw", out[0].with_name("x.jpg"))
    assert sorted(p.name for p in tmp_path.glob("x*")) == ["x-1.jpg", "x-2.jpg", "x-3.jpg"]


@pytest.mark.parametrize(
    "options",
    [["--draw", "absent/x.png"], ["--map", "absent/x.html"], ["--draw", "x.txt"],
     ["--draw", "x"], ["--index", "absent"], ["--device", "nonsense"]],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_be_met(
    run: Run, built: Path, files: list[Path], options: list[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "--device" in options:
        monkeypatch.undo()  # the real loading
    code, out, error = run("locate", files[0], "--index", built, *options)
    assert code == USER_ERROR and out == ""
    assert error.startswith("selavpr: ") and error.count("\n") == 1


def test_top_k_out_of_range(run: Run, built: Path, files: list[Path]) -> None:
    code, _, error = run("locate", files[0], "--index", built, "--top-k", 0)
    assert code == USER_ERROR and "top_k must be 1 to 1000" in error


def test_the_bundled_city(
    run: Run, built: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PREBUILT", tmp_path / "prebuilt")
    code, _, error = run("locate", files[0])
    assert code == 2 and "No city is bundled" in error and "--index" in error
    shutil.copytree(built, tmp_path / "prebuilt" / "town")
    (tmp_path / "prebuilt" / ".other.building").mkdir()
    (tmp_path / "prebuilt" / ".other.building" / "manifest.json").touch()
    assert run("locate", files[0])[0] in (0, 1)
    shutil.copytree(built, tmp_path / "prebuilt" / "village")
    code, _, error = run("locate", files[0])
    assert code == 2 and "(town, village); choose one with --index" in error


def test_terminal_codes_of_a_strangers_index_are_not_printed(
    run: Run, tmp_path: Path, files: list[Path]
) -> None:
    source = draw_town(tmp_path / "source", 3)
    run("index", "build", tmp_path / "town", "--from", source, "--title", "\x1b[31mred", "--quiet")
    _, out, _ = run("locate", files[0], "--index", tmp_path / "town")
    _, info, _ = run("index", "info", tmp_path / "town")
    assert "\x1b" not in out + info and "?[31mred" in info


def test_sizes_of_an_index_that_lists_its_photos_apart(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LISTED", 2)
    out = tmp_path / "town"
    source = draw_town(tmp_path / "source", 3)
    _, shown, _ = run("index", "build", out, "--from", source, "--quiet")
    files = {p: p.stat().st_size for p in out.rglob("*") if p.is_file()}
    size = sum(files.values()) - files[out / "manifest.json"]
    photos = sum(bytes_ for path, bytes_ in files.items() if path.suffix == ".jpg")
    assert f", {size / 1e6:.1f} MB" in shown
    about = json.loads(run("index", "info", out, "--json")[1])
    assert (about["bytes"], about["bytes_of_photos"]) == (size, photos)
    page = datacard.card(PlaceIndex.open(out), "org/town")
    assert f"| size | {size / 1e6:,.1f} MB |" in page


def test_index_build_info_verify(run: Run, tmp_path: Path) -> None:
    source = draw_town(tmp_path / "source")
    (source / "images" / "4.png").write_bytes(b"bad")
    (tmp_path / "map.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    out = tmp_path / "my town"
    code, shown, error = run(
        "index", "build", out, "--from", source, "--title", "Town", "--license", "CC0",
        "--attribution", "Ann", "--basemap", tmp_path / "map.geojson", "--rank", 8,
        "--batch-size", 3, "--quiet",
    )  # fmt: skip
    assert code == 0 and f"Wrote {out}: {COUNT - 1} photos" in shown and "1 left out" in shown
    assert error.startswith("selavpr: left out: 4.png ") and error.count("\n") == 1
    index = PlaceIndex.open(out)
    manifest = index.manifest
    assert (manifest.name, manifest.title, manifest.license) == ("my town", "Town", "CC0")
    assert manifest.attribution == "Ann" and manifest.model == weights.DEFAULT_MODEL
    assert manifest.created[:2] == "20" and manifest.created.endswith("+00:00")
    assert manifest.command.startswith("selavpr index build '") and "--rank 8" in manifest.command
    assert index.codec.rank == 8 and index.basemap() is not None

    code, shown, _ = run("index", "info", out)
    assert code == 0 and "Town" in shown and "CC0" in shown
    code, shown, _ = run("index", "info", out, "--json")
    about = json.loads(shown)
    assert (about["photos"], about["rank"], about["calibrated"]) == (COUNT - 1, 8, False)
    assert about["bytes"] == sum(
        p.stat().st_size for p in out.rglob("*") if p.is_file() and p.name != "manifest.json"
    )
    # 16 tokens of 8 + 2 bytes; the two headers of 128 bytes are shared by all photos.
    assert about["bytes_of_local_features_per_photo"] == round(160 + 256 / (COUNT - 1))

    assert run("index", "verify", out)[0] == 0
    (out / "images" / "3.jpg").unlink()
    code, shown, error = run("index", "verify", out)
    assert (code, shown, error) == (1, "images/3.jpg is missing.\n", "")
    for command in ("info", "verify"):
        code, _, error = run("index", command, tmp_path)
        assert code == 2 and "There is no index" in error


def test_index_build_where(run: Run, tmp_path: Path) -> None:
    source = draw_town(tmp_path / "source", 4)
    out = tmp_path / "town"
    build = ("index", "build", out, "--from", source, "--quiet")
    assert run(*build, "--where", "street=Way 2", "--where", "id=p2")[0] == 0
    assert [place.place_id for place in PlaceIndex.open(out).places] == ["p2"]
    mistakes = {"street=no": "No row", "x=1": "no column 'x'", "x": "column=value", "=1": "column="}
    for condition, words in mistakes.items():
        code, _, error = run(*build, "--where", condition)
        assert code == 2 and words in error
    assert len(PlaceIndex.open(out)) == 1


def test_index_build_shows_progress(run: Run, tmp_path: Path) -> None:
    source = draw_town(tmp_path / "source", 3)
    _, _, error = run("index", "build", tmp_path / "town", "--from", source)
    assert "3/3" in error and "photo/s" in error


def test_index_build_stopped_and_resumed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "PART", 2)
    source, extract = draw_town(tmp_path / "source", 6), SelaVPR.extract_each
    calls: list[int] = []

    def stopping(self: SelaVPR, images: list[Any], **options: Any) -> Any:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return extract(self, images, **options)

    monkeypatch.setattr(SelaVPR, "extract_each", stopping)
    build = ("index", "build", tmp_path / "town", "--from", source, "--quiet")
    code, _, error = run(*build)
    assert code == INTERRUPTED and "the same command goes on from here" in error
    assert run(*build)[0] == 0
    assert calls == [2, 2, 2, 2]  # two parts, the stop, the last part
    assert len(PlaceIndex.open(tmp_path / "town")) == 6


def test_nobody_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(args: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli_index, "index_info", closed)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["index", "info", "x"]) == PIPE_CLOSED
