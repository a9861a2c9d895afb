"""The fuzzer: that it notices what it is for, and what it has found so far."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import TINY, random_model
from PIL import GifImagePlugin, Image

from selavpr import (
    IndexFileError,
    OptionError,
    PhotoError,
    SelaVPRError,
    WeightsError,
    errors,
    load_image,
    official,
    tables,
    weights,
)
from selavpr.checkpoint import read_checkpoint
from selavpr.indexfiles import read_json
from selavpr.matching import keypoints
from selavpr.recipes import read_recipe
from selavpr.structs import ModelConfig
from tools.fuzz.mutation import LARGEST, Files, mutated
from tools.fuzz.watch import watched

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches processes by /proc")
def test_a_few_cases_of_everything(tmp_path: Path) -> None:
    """The same ones every time; docs/RELIABILITY.md says what an hour of others gave."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", "--minutes", "10", "--cases", "25", "--seed", "5",
         "--out", str(tmp_path / "findings")],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^\w+ +25 cases: ", done.stdout, flags=re.MULTILINE)) == 11
    assert not (tmp_path / "findings").exists()


# What it notices


def escape(folder: Path) -> None:
    raise KeyError("x")


def be_silent(folder: Path) -> None:
    raise OptionError(" ")


def crash(folder: Path) -> None:
    os.abort()


def leave(folder: Path) -> None:
    os._exit(3)


def hang(folder: Path) -> None:
    while True:
        pass


def swell(folder: Path) -> None:
    held = bytearray(b"x") * (200 << 20)  # in one piece: small ones fit into what others have freed
    hang(folder if held else Path())


def read(folder: Path) -> None:
    assert (folder / "a" / "b.txt").read_bytes() == b"text"


def refuse(folder: Path) -> None:
    raise OptionError("This is no table.")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watches processes by /proc")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("run", "kind", "says"),
    [
        (escape, "escaped", "KeyError: 'x'"), (be_silent, "message", ""), (crash, "died", "ABRT"),
        (leave, "died", "exit code 3"), (hang, "hang", "processor time"),
        (swell, "memory", "more than before"), (read, "read", ""), (refuse, "refused", ""),
    ],
)  # fmt: skip
def test_each_kind_of_end(run: Callable[[Path], None], kind: str, says: str) -> None:
    cases: list[tuple[int, Files]] = [(7, {"a/b.txt": b"text"})]
    cpu_s = 0.2 if run is hang else 60
    [found] = watched(run, cases, 1.0, cpu_s=cpu_s, memory_mb=100)
    assert (found.number, found.kind) == (7, kind) and says in found.details
    assert found.is_finding == (kind not in ("read", "refused"))


def test_a_child_goes_on_after_what_it_survives() -> None:
    # In one process, so that what a case leaves behind meets the next one.
    order = [found.kind for found in watched(escape, [(i, {}) for i in range(3)], 60.0)]
    assert order == ["escaped"] * 3


# How it damages


def png() -> bytes:
    chunks = [(b"IHDR", b"\0" * 13), (b"tEXt", b"a\0b"), (b"IDAT", b"x" * 40), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in chunks
    )


def test_the_same_seed_gives_the_same_damage() -> None:
    files = {"a.png": png(), "b.json": b'{"a": [1, {"b": 2.5}]}', "c.csv": b"a,b\n1,2\n"}
    made = [[mutated(Random(f"1/{i}"), files) for i in range(300)] for _ in range(2)]
    assert made[0] == made[1]
    changed = [case for case in made[0] if case != files]
    assert len(changed) > 270
    assert max(len(data) for case in changed for data in case.values()) <= LARGEST
    assert {name for case in changed for name in files if case.get(name) != files[name]} == {*files}


def test_fixed_files_are_left_alone() -> None:
    files = {"a.json": b'{"a": 1}', "b.json": b'{"a": 1}'}
    for i in range(100):
        assert mutated(Random(i), files, fixed=("a",))["a.json"] == files["a.json"]


def test_damage_reaches_what_lies_behind_the_checksums() -> None:
    """More often than not a damaged chunk of a PNG has the right sum again."""
    right = 0
    for i in range(200):
        data, at = mutated(Random(i), {"a.png": png()}).get("a.png", b""), 8
        while at + 12 <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            body = data[at + 4 : at + 8 + size]
            if zlib.crc32(body).to_bytes(4, "big") != data[at + 8 + size : at + 12 + size]:
                break
            at += 12 + size
        right += at == len(data) and data != png()
    assert right > 60


# What it has found


HUGE = 10**400


def test_whole_numbers_beyond_any_float(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="adapter_scale"):
        ModelConfig(width=32, depth=1, heads=4, adapter_scale=HUGE)
    for text in (f"learning_rate = {HUGE}", f"seed = {'9' * 5000}", f"data = {'[' * 5000}"):
        (tmp_path / "r.toml").write_text(text)
        with pytest.raises(OptionError):
            read_recipe(tmp_path / "r.toml")
    for text in (f'{{"a": {HUGE}}}', f'{{"a": -{HUGE}}}', '{"a": 1e400}', '{"a": -1e400}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(IndexFileError, match="too large"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": [-9223372036854775, 1e308]}')
    assert read_json(tmp_path / "a.json") == {"a": [-9223372036854775, 1e308]}


@pytest.mark.parametrize("kind", [SelaVPRError, OptionError, errors.DownloadError])
def test_messages_are_one_line_of_bounded_length(kind: type[SelaVPRError]) -> None:
    text = str(kind(f"The name {'x' * 5000}\r\nand {'y' * 5000} is unknown.\nGet the file anew."))
    assert "\n" not in text and "\r" not in text and len(text) <= errors.LONGEST
    assert text.startswith("The name xxx") and text.endswith("is unknown. Get the file anew.")
    assert str(kind("As it is.")) == "As it is."


def test_history_without_end_in_a_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file({"trained/a": torch.ones(1)}, path, {"about": "[" * 100_000})
    with pytest.raises(OptionError, match="damaged"):
        read_checkpoint(path)


def test_pages_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GIF of very many tiny frames is refused at its second one."""
    frames = [Image.new("L", (30, 30), shade) for shade in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "a.gif").read_bytes()
    frame = data[data.rindex(b"\x21\xf9") : -1]
    visited: list[int] = []
    original = GifImagePlugin.GifImageFile._seek

    def counting(self: Any, number: int, *args: Any) -> None:
        visited.append(number)
        original(self, number, *args)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", counting)
    with pytest.raises(PhotoError, match="animation"):
        load_image(data[:-1] + frame * 20_000 + data[-1:])
    assert 1 in visited and len(visited) < 10


def checkpoint_with(tensor: torch.Tensor, path: Path) -> Path:
    fixture = ROOT / "tests" / "fixtures" / "parity" / "tiny_reg4_official.pth"
    state = torch.load(fixture, weights_only=False)["model_state_dict"]
    torch.save({"model_state_dict": state | {"module.backbone.norm.bias": tensor}}, path)
    return path


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(64, device="meta"), torch.ones(1).expand(10**6, 10**6),
     torch.ones(1, dtype=torch.float16).expand(10**9)],
    ids=["without numbers", "one number as a terabyte", "one number as two gigabytes"],
)  # fmt: skip
def test_tensors_that_claim_more_than_they_hold(tensor: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="fewer numbers than its tensors claim"):
        official.load_official(checkpoint_with(tensor, tmp_path / "x.pth"))


def test_a_checkpoint_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    path = checkpoint_with(torch.zeros(10_000_000), tmp_path / "x.pth")
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < path.stat().st_size / 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **options: pytest.fail("it was unpacked"))
        with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
            official.load_official(packed)


def test_a_training_counter_without_end(tmp_path: Path) -> None:
    fixture = ROOT / "tests" / "fixtures" / "parity" / "tiny_reg4_official.pth"
    content = torch.load(fixture, weights_only=False)
    torch.save({"model_state_dict": content["model_state_dict"], "epoch_num": HUGE}, tmp_path / "x")
    assert "training" not in official.load_official(tmp_path / "x").card


def test_whole_numbers_that_a_tensor_cannot_be_multiplied_by() -> None:
    """Finite as a float, too long for torch as an integer."""
    model = random_model(dataclasses.replace(TINY, adapter_scale=10**30))
    assert isinstance(model.backbone.blocks[0].adapter_scale, float)
    model.extract([Image.new("RGB", (40, 40), "teal")])


def test_a_block_number_without_end() -> None:
    names = ["blocks.0.a", "blocks.1.a", f"blocks.{'9' * 5000}.a", "norm"]
    kept = weights.cut(dict.fromkeys(names, torch.ones(1)), 1)
    assert list(kept) == ["blocks.0.a", names[2], "norm"]  # no block: named as unexpected


def test_a_table_asks_for_its_folders_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{folder}/{i}.jpg,48.0,11.0" for i in range(500) for folder in ("a", "b/c")]
    (tmp_path / "t.csv").write_text("\n".join(["image,lat,lon", *rows]))
    asked: list[Path] = []
    original = Path.resolve

    def counting(self: Path, strict: bool = False) -> Path:
        asked.append(self)
        return original(self, strict)

    monkeypatch.setattr(Path, "resolve", counting)
    found = tables.read_table(tmp_path / "t.csv")
    assert len(found) == 1000 and found[1].path == tmp_path.resolve() / "b" / "c" / "0.jpg"
    assert len(asked) < 10


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_a_class_without_end_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """PyTorch takes minutes to word that it does not know a class of a million characters."""
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=packed)
    endless = b"c" + b"x" * 1_000_000 + b"\ny\n."
    if packed:
        with zipfile.ZipFile(path) as old:
            parts = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, data in parts.items():
                new.writestr(name, endless if name.endswith("data.pkl") else data)
    else:
        data = path.read_bytes()
        at = data.index(b"ctorch._utils")
        path.write_bytes(data[:at] + endless + data[at:])
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("it was asked"))
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        official.load_official(path)


def test_a_grid_without_end_in_an_index() -> None:
    """Positions of a few cells take no memory for all the others."""
    grid = (4 * 65535 - 3, 4 * 65535 - 3)
    found = keypoints(torch.tensor([0, grid[1] - 1, grid[0] * grid[1] - 1]), grid, (640, 480))
    cell = torch.tensor([640.0, 480.0]) / 65535
    expected = torch.stack([cell / 2, torch.tensor([640.0, 0.0]), torch.tensor([640.0, 480.0])])
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
