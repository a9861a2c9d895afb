"""The command line, run in this process; one test starts it as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_official import checkpoint, save_official

import selavpr
from selavpr import SelaVPR, cli, hub, weights


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
        assert cli.main(["convert", *arguments]) == cli.USER_ERROR
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
    [([], 2), (["nonsense"], 2), (["convert"], 2), (["--help"], 0), (["convert", "--help"], 0)],
)
def test_usage(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == code
    shown = capsys.readouterr()
    assert "usage: selavpr" in (shown.err if code else shown.out)


def test_every_command_runs_a_function() -> None:
    parser = cli._parser()
    assert parser.parse_args(["convert", "a", "b"]).run is cli.convert


def test_as_a_module() -> None:
    script = (
        "import sys, runpy; sys.argv[1:] = ['--version']\n"
        "try: runpy.run_module('selavpr', run_name='__main__', alter_sys=True)\n"
        "finally: print(sorted({'gradio', 'folium', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"selavpr {selavpr.__version__}", "[]"], done.stderr
