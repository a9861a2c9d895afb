"""``eval`` and ``index calibrate`` as a user gives them, on a drawn town."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_fixtures import ORIGIN, drawn

from selavpr import Location, LocationError, SelaVPR, cityeval, cli, judgement, weights
from selavpr.index import PlaceIndex, verify
from selavpr.recognizer import Recognizer
from selavpr.terminal import INTERRUPTED, USER_ERROR


@pytest.fixture(scope="module")
def saved(network: SelaVPR, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    weights.save(network.to_weights(), folder, with_backbone=True)
    return str(folder)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of the town, smaller than its references, and six from elsewhere."""
    folder = tmp_path_factory.mktemp("queries")
    lines = ["image,latitude,longitude,condition,role,split"]
    for i in range(12):
        drawn(i, (100, 76)).save(folder / f"q{i}.png")
        place = ORIGIN.moved(3, 40 * i)
        split = "validation" if i % 2 else "test"
        lines.append(
            f"q{i}.png,{place.latitude},{place.longitude},{'day' if i < 6 else 'night'},query,"
            f"{split}"
        )
    for i in range(6):
        drawn(100 + i).save(folder / f"o{i}.png")
        lines.append(f"o{i}.png,49,12,day,outside,{'validation' if i % 2 else 'test'}")
    lines.append("absent.png,48,11,day,reference,none")
    (folder / "places.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


def test_eval_on_an_index(
    built: Path, queries: Path, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ("eval", "--index", built, "--queries", queries, "--model", saved, "--quiet",
               "--work", tmp_path, "--json", tmp_path / "e.json")  # fmt: skip
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "## Drawn Town" in shown and "| night" in shown and "fused position" in shown
    data = json.loads((tmp_path / "e.json").read_text())
    day, night, both = data["rows"]
    assert (day["queries"], night["queries"], both["queries"]) == (6, 6, 12)
    assert both["recalls"]["re-ranked"]["1"]["value"] == 1
    # References 40 m apart: only the one 3 m away is right, 1 of 12.
    assert both["chance"]["1"] == pytest.approx(1 / 12)
    assert both["errors_m"]["re-ranked"][0] == pytest.approx(3, abs=0.01)
    assert sum(v["photos"] for v in data["facts"]["verdicts"].values()) == 18
    by_condition = data["facts"]["verdicts by condition"]
    assert {c: sum(v.values()) for c, v in by_condition.items()} == {
        "day": 6, "night": 6, "elsewhere": 6
    }  # fmt: skip
    # Again, with everything in the journal.
    monkeypatch.setattr(Recognizer, "_answer", None)
    assert run(*command) == 0
    assert json.loads((tmp_path / "e.json").read_text()) == data


def test_calibrate_then_eval(
    built: Path, queries: Path, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "town"
    folder.mkdir()
    for path in built.rglob("*"):
        target = folder / path.relative_to(built)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    rest = ("--queries", queries, "--model", saved, "--quiet", "--work", tmp_path / "work")
    assert run("index", "calibrate", folder, *rest, "--dry-run") == 0
    assert PlaceIndex.open(folder).manifest.calibration is None
    assert "Nothing was written" in capsys.readouterr().out
    assert run("index", "calibrate", folder, *rest, "--json", tmp_path / "c.json") == 0
    assert "12 photos of the city and 6 from elsewhere" in capsys.readouterr().out
    stored = json.loads((tmp_path / "c.json").read_text())
    assert PlaceIndex.open(folder).manifest.calibration == stored["calibration"]
    assert verify(folder) == []
    assert run("eval", "--index", folder, *rest, "--json", tmp_path / "e.json") == 0
    facts = json.loads((tmp_path / "e.json").read_text())["facts"]
    assert facts["calibrated"] is True and facts["auc_in_city"] > 0.9
    assert facts["inside_radius90"] == 1
    # It was fitted to twenty candidates each, of which there are twelve.
    capsys.readouterr()
    other = tmp_path / "other.json"
    assert run("eval", "--index", folder, *rest, "--top-k", 5, "--json", other) == 0
    assert "calibrated for 12 re-ranked" in capsys.readouterr().err
    assert json.loads(other.read_text())["facts"]["calibrated"] is False
    # What it is calibrated for is what is asked unless told otherwise.
    assert run("index", "calibrate", folder, *rest, "--top-k", 5) == 0
    assert run("eval", "--index", folder, *rest, "--json", other) == 0
    facts = json.loads(other.read_text())["facts"]
    assert (facts["calibrated"], facts["candidates re-ranked (mean)"]) == (True, 5)
    # An older calibration is none.
    manifest = folder / "manifest.json"
    for version, calibrated in ((judgement.VERSION - 1, False), (judgement.VERSION, True)):
        fields = json.loads(manifest.read_text())
        fields["calibration"]["version"] = version
        manifest.write_text(json.dumps(fields, indent=1))
        capsys.readouterr()
        assert run("index", "info", folder, "--json") == 0
        assert json.loads(capsys.readouterr().out)["calibrated"] is calibrated
    # Calibrated anew although what is stored is damaged.
    manifest.write_text(manifest.read_text().replace('"probably_from": 0.5', '"probably_from": 5'))
    capsys.readouterr()
    assert run("eval", "--index", folder, *rest) == USER_ERROR
    assert "calibration in the index is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("--index", "x", "--queries", "q", "--no-rerank"), ("--index", "x", "--keys", "k"),
     ("x", "--split", "test"), ("x", "--queries", "q")],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_an_error(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", *arguments) == USER_ERROR
    option = arguments[4] if "--no-rerank" in arguments else arguments[-2]
    assert f"{option} does not go with" in capsys.readouterr().err


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_roles_are_found_however_the_table_is_written(tmp_path: Path, separator: str) -> None:
    lines = ["Image,Lat,Lon,Role", "q.jpg,60,25,Query", "r.jpg,60,25,reference", "o.jpg,,,outside"]
    (tmp_path / "t.csv").write_text("\n".join(lines).replace(",", separator) + "\n")
    found = cityeval.read_queries(tmp_path / "t.csv")
    assert [(q.path.name, q.location) for q in found] == [
        ("q.jpg", Location(60, 25)), ("o.jpg", None)
    ]  # fmt: skip
    (tmp_path / "t.csv").write_text("image,lat,lon,split\na.jpg,60,25,test\n")
    assert len(cityeval.read_queries(tmp_path / "t.csv")) == 1
    (tmp_path / "t.csv").write_text("image,lat,lon\na.jpg,,\n")
    with pytest.raises(LocationError, match=r"line 2 .* has no position"):
        cityeval.read_queries(tmp_path / "t.csv")


def test_splits_and_photos_from_elsewhere(queries: Path, tmp_path: Path) -> None:
    found = cityeval.read_queries(queries, split="validation")
    assert [q.path.stem for q in found] == ["q1", "q3", "q5", "q7", "q9", "q11", "o1", "o3", "o5"]
    drawn(3).save(tmp_path / "more.png")
    found = cityeval.read_queries(queries, split="test", outside=tmp_path)
    assert found[-1].path == tmp_path / "more.png" and found[-1].location is None
    table = tmp_path / "plain.csv"
    table.write_text("image,lat,lon\nmore.png,48,11\n")
    assert [q.location is None for q in cityeval.read_queries(table)] == [False]


def test_eval_on_a_benchmark(
    queries: Path, town: Path, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path,role,lat,lon"]
    for i in range(4):
        (tmp_path / f"q{i}.png").write_bytes((queries / f"q{i}.png").read_bytes())
        (tmp_path / f"d{i}.png").write_bytes((town / "images" / f"{i}.png").read_bytes())
        place = ORIGIN.moved(0, 40 * i)
        rows += [f"{x}{i}.png,{role},{place.latitude},{place.longitude}"
                 for x, role in (("q", "query"), ("d", "database"))]  # fmt: skip
    (tmp_path / "images.csv").write_text("\n".join(rows) + "\n")
    command = ("eval", tmp_path / "images.csv", "--model", saved, "--quiet", "--work",
               tmp_path / "work", "--exhaustive", "--json", tmp_path / "e.json",
               "--ranked", tmp_path / "r.jsonl")  # fmt: skip
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "A reference within 25 m" in shown and "4 queries, 4 references" in shown
    data = json.loads((tmp_path / "e.json").read_text())
    assert data["rows"][0]["recalls"]["re-ranked"]["1"]["value"] == 1
    assert data["rows"][0]["chance"]["1"] == 0.25
    lists = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [Path(x["reranked"][0]).name for x in lists] == [f"d{i}.png" for i in range(4)]
    assert all(Path(x["right"][0]).name == Path(x["reranked"][0]).name for x in lists)
    assert run(*command[:-4], "--distance", 45, "--no-rerank") == 0
    assert "Right within 45 m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a benchmark's folder, or an index"),
        (("x", "--index", "y"), "Name a benchmark's folder, or an index"),
        (("--index", "y"), "--index needs --queries"),
        (("absent",), "There is no folder absent"),
        (("absent", "--protocol", "z"), "no protocol 'z'"),
        (("absent", "--distance", "0"), "--distance must be more than 0"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", *arguments) == USER_ERROR
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_ctrl_c_keeps_what_is_done(
    built: Path, queries: Path, saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    add = cityeval.Journal.add

    def stop(self: cityeval.Journal, key: str, record: dict[str, object]) -> None:
        add(self, key, record)
        if len(self.done) == 3:
            raise KeyboardInterrupt

    command = ("eval", "--index", built, "--queries", queries, "--model", saved, "--quiet",
               "--work", tmp_path)  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(cityeval.Journal, "add", stop)
        assert run(*command) == INTERRUPTED
    assert "goes on from here" in capsys.readouterr().err
    (journal,) = tmp_path.glob("*.jsonl")
    assert journal.read_text().count("\n") == 3
    assert run(*command) == 0
    assert journal.read_text().count("\n") == 18
