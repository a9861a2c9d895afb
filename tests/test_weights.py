"""The folder format, its errors, and checkpoints of the reference implementation."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import TINY, random_model
from damage import damage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from selavpr import ModelConfig, OptionError, SelaVPR, WeightsError, weights
from selavpr.weights import ADAPTERS_FILE, BACKBONE_FILE, CONFIG_FILE, DamagedError, Weights

State = dict[str, Tensor]
CARD = {"license": "mit", "training": {"epoch": 3}, "recall": {"r5": 0.5}}


def same(a: State, b: State, tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance / 100) for name in a
    )


@pytest.fixture(scope="module")
def tiny_model() -> SelaVPR:
    """One network for all tests here; none changes it."""
    return random_model(TINY)


@pytest.fixture(scope="module")
def saved(tiny_model: SelaVPR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = dataclasses.replace(tiny_model.to_weights(), card=CARD)
    return weights.save(made, tmp_path_factory.mktemp("saved") / "model", with_backbone=True)


@pytest.fixture
def source(tiny_model: SelaVPR) -> Weights:
    made = tiny_model.to_weights()
    trained = {name: x.clone() for name, x in made.trained.items()}
    backbone = {name: x.clone() for name, x in made.backbone.items()}
    return Weights(made.config, trained, backbone, CARD, None)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    change(config)
    (folder / CONFIG_FILE).write_text(json.dumps(config))


def change_tensors(path: Path, change: Callable[[State], Any]) -> None:
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path)


def sentence(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600, text
    return text


# The folder


def test_round_trip(source: Weights, folder: Path) -> None:
    loaded = weights.load(folder)
    assert loaded.config == source.config
    assert loaded.card == source.card
    assert same(loaded.trained, source.trained)
    assert same(loaded.backbone, source.backbone)


def test_config_says_what_people_need(source: Weights, folder: Path) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert list(config)[:4] == ["format_version", "preset", "model", "backbone"]
    assert config["preset"] is None and config["model"]["input_size"] == 56
    assert config["license"] == "mit" and config["recall"] == {"r5": 0.5}
    assert config["backbone"] == {
        "fingerprint": weights.fingerprint(source.backbone, source.config.depth),
        "repo": None,
        "file": BACKBONE_FILE,
    }


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ModelConfig.preset("vit-l-reg4", input_size=322), "vit-l-reg4"),
        (ModelConfig.preset("vit-s"), "vit-s"),
        (ModelConfig.preset("vit-s", depth=9), None),
    ],
)
def test_preset_name(config: ModelConfig, name: str | None) -> None:
    assert weights._preset_name(config) == name


def test_half_precision(source: Weights, tmp_path: Path) -> None:
    full = weights.save(source, tmp_path / "full", with_backbone=True)
    half = weights.save(source, tmp_path / "half", with_backbone=True, dtype=torch.float16)
    for name in (ADAPTERS_FILE, BACKBONE_FILE):
        ratio = (half / name).stat().st_size / (full / name).stat().st_size
        assert 0.5 <= ratio < 0.6  # the header does not shrink
    loaded = weights.load(half)
    # 11 significant bits: relative error at most 2^-11.
    assert same(loaded.trained, source.trained, 2**-11)
    assert weights.fingerprint(loaded.backbone, 2) == weights.fingerprint(source.backbone, 2)
    assert all(x.dtype == torch.float32 for x in loaded.trained.values())


def test_who_may_read_a_model_is_for_the_umask_to_say(
    source: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = weights.save(source, tmp_path / "model", with_backbone=True)
    plain = tmp_path / "plain"
    plain.touch()
    assert {p.stat().st_mode for p in folder.iterdir()} == {plain.stat().st_mode}

    def denied(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    # Whoever runs this may be root, who may read all.
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(WeightsError, match=r"Cannot read .*: Permission denied") as error:
        weights.read_tensors(folder / "adapters.safetensors")
    assert not isinstance(error.value, DamagedError)


def test_half_precision_must_hold_the_values(source: Weights, tmp_path: Path) -> None:
    source.trained["local_head.up1.bias"][0] = 1e6
    with pytest.raises(WeightsError, match=r"local_head.up1.bias .* not finite in float16"):
        weights.save(source, tmp_path / "half", with_backbone=False, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OptionError, match="float32 or float16"):
        weights.save(source, tmp_path / "m", with_backbone=False, dtype=torch.bfloat16)


def test_fingerprint_is_of_names_shapes_values_and_used_blocks(source: Weights) -> None:
    first = weights.fingerprint(source.backbone, 2)
    assert weights.fingerprint(dict(reversed(source.backbone.items())), 2) == first
    assert weights.fingerprint(source.backbone, 1) != first
    deeper = {**source.backbone, "blocks.2.norm1.weight": torch.ones(32)}
    assert weights.fingerprint(deeper, 2) == first
    for name in ("norm.bias", "blocks.1.ls1.gamma"):
        other = {**source.backbone, name: source.backbone[name] + 0.01}
        assert weights.fingerprint(other, 2) != first
    reshaped = {**source.backbone, "norm.bias": source.backbone["norm.bias"][None]}
    assert weights.fingerprint(reshaped, 2) != first


def test_a_deeper_backbone_file_serves_a_shallower_network(source: Weights, tmp_path: Path) -> None:
    deeper = dict(source.backbone)
    deeper |= {n.replace("s.1.", "s.2."): x.clone() for n, x in deeper.items() if "blocks.1." in n}
    safetensors.torch.save_file(deeper, tmp_path / "deep.safetensors")
    folder = weights.save(source, tmp_path / "m", with_backbone=False)
    model = SelaVPR.from_pretrained(folder, device="cpu", backbone=tmp_path / "deep.safetensors")
    assert len(model.backbone.blocks) == 2


def test_tensors_that_share_memory_are_saved(source: Weights, tmp_path: Path) -> None:
    zeros = torch.zeros(64)
    source.trained["local_head.up1.bias"] = zeros[:16]
    source.trained["local_head.up2.bias"] = zeros[8:16]
    folder = weights.save(source, tmp_path / "m", with_backbone=True)
    assert weights.load(folder).trained["local_head.up2.bias"].tolist() == [0.0] * 8


# Saving is all or nothing


def test_saving_replaces_an_older_model(source: Weights, folder: Path) -> None:
    source.trained["pool.p"][0] = 4.0
    weights.save(source, folder, with_backbone=False)
    assert sorted(path.name for path in folder.iterdir()) == [ADAPTERS_FILE, CONFIG_FILE]
    state = weights.read_tensors(folder / ADAPTERS_FILE)
    assert state["pool.p"].item() == 4.0
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("broken", ["_write", "json.dumps", "Path.write_text", "Path.rename"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_model(
    source: Weights, folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str,
    error: BaseException,
) -> None:  # fmt: skip
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(f"selavpr.weights.{broken}", fail_with(error, broken))
    with pytest.raises((WeightsError, KeyboardInterrupt)) as caught:
        weights.save(source, folder, with_backbone=True)
    if isinstance(error, OSError):
        assert "Cannot write the model to" in sentence(caught)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def fail_with(error: BaseException, broken: str) -> Callable[..., Any]:
    original = Path.rename

    def failing(*args: Any, **kwargs: Any) -> Any:
        # Of the renames, only that of the new folder into place.
        if broken == "Path.rename" and not (
            args[0].name.endswith(".partial") and not args[0].name.endswith(".old.partial")
        ):
            return original(*args, **kwargs)
        raise error

    return failing


@pytest.mark.parametrize("stray", ["notes.txt", "code/"])
def test_saving_never_deletes_other_files(source: Weights, folder: Path, stray: str) -> None:
    if stray.endswith("/"):
        (folder / stray).mkdir()
    else:
        (folder / stray).write_text("precious")
    with pytest.raises(WeightsError) as error:
        weights.save(source, folder, with_backbone=True)
    assert stray.rstrip("/") in sentence(error)
    assert (folder / stray).exists()


def test_saving_over_a_file_or_below_one(source: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(WeightsError, match="is a file"):
        weights.save(source, tmp_path / "file", with_backbone=True)
    with pytest.raises(WeightsError, match="Cannot write the model"):
        weights.save(source, tmp_path / "file" / "model", with_backbone=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_saving_into_an_empty_folder_and_through_a_link(source: Weights, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    for _ in range(2):
        weights.save(source, link, with_backbone=True)
    assert link.is_symlink() and (real / CONFIG_FILE).is_file()


def test_a_card_that_is_no_json(source: Weights, tmp_path: Path) -> None:
    for value in (object(), float("nan"), "\ud800"):
        bad = Weights(source.config, source.trained, source.backbone, {"x": value}, None)
        with pytest.raises(WeightsError, match="cannot be written as JSON"):
            weights.save(bad, tmp_path / "m", with_backbone=False)
    assert list(tmp_path.iterdir()) == []


def test_the_card_cannot_override_the_format(source: Weights, tmp_path: Path) -> None:
    bad = Weights(source.config, source.trained, source.backbone, {"model": "x", "a": 1}, None)
    assert weights.load(weights.save(bad, tmp_path / "m", with_backbone=True)).card == {"a": 1}


# Strict loading


@pytest.mark.parametrize(
    ("file", "what"), [(ADAPTERS_FILE, "adapters"), (BACKBONE_FILE, "backbone's tensors")]
)
def test_every_wrong_tensor_is_named(folder: Path, file: str, what: str) -> None:
    path = folder / file
    state = safetensors.torch.load_file(path)
    name = next(n for n in sorted(state) if n.endswith("bias"))
    changes: list[tuple[Callable[[State], Any], str]] = [
        (lambda s: s.pop(name), f"missing: {name}"),
        (lambda s: s.update(stranger=torch.ones(1)), "unexpected: stranger"),
        (lambda s: s.update({name: torch.ones(7)}), rf"{name} is \[7\] but should be \["),
        (
            lambda s: s.update({name: s[name].double() * torch.nan}),
            rf"{name} in .*{file} holds values that are not finite",
        ),
        (lambda s: s.update({name: s[name].int()}), rf"{name} in .* is torch.int32"),
    ]
    for change, words in changes:
        change_tensors(path, change)
        with pytest.raises(WeightsError, match=words) as error:
            weights.load(folder)
        if "finite" not in words and "int32" not in words:
            assert f"The {what} do not fit the network" in sentence(error)
        safetensors.torch.save_file(state, path)
    weights.load(folder)


def test_another_backbone_is_refused(folder: Path) -> None:
    change_tensors(folder / BACKBONE_FILE, lambda s: s["norm.bias"].add_(0.01))
    with pytest.raises(WeightsError, match=r"not the one the adapters .* were trained on") as error:
        weights.load(folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["backbone"]["fingerprint"][:19] in sentence(error)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no config\.json in"):
        weights.load(tmp_path)
    with pytest.raises(WeightsError, match=r"There is no gone\.safetensors"):
        weights.load(folder, backbone=tmp_path / "gone.safetensors")
    for file in (BACKBONE_FILE, ADAPTERS_FILE):
        (folder / file).unlink()
        with pytest.raises(WeightsError, match=f"There is no {file}"):
            weights.load(folder)


def test_a_model_without_backbone_says_so(source: Weights, tmp_path: Path) -> None:
    folder = weights.save(source, tmp_path / "m", with_backbone=False)
    with pytest.raises(WeightsError, match="comes without a backbone and names none"):
        weights.load(folder)


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", "nothing", "/no/where", "./a/b", "../b", "a/b/c", "a b/c", "a\\b", "-/"):
        with pytest.raises(WeightsError, match="No model is called"):
            weights.load(name)
    # A Path is never a Hub repository.
    with pytest.raises(WeightsError, match="No model is called"):
        weights.load(Path("org/name"))
    Path("msls.pth").touch()
    with pytest.raises(WeightsError, match="python -m selavpr convert"):
        weights.load("msls.pth")


def test_bundled_models(source: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BUNDLED", tmp_path / "absent")
    assert weights.bundled_models() == []
    monkeypatch.setattr(weights, "BUNDLED", tmp_path)
    weights.save(source, tmp_path / "small", with_backbone=True)
    assert weights.bundled_models() == ["small"]
    assert same(weights.load("small").trained, source.trained)


# Hostile config.json


def write_config(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "1", '"x"', "{}", "[" * 100_000, '{"a":' * 100_000, "\x00",
        '{"format_version": 1}', '{"format_version": NaN}', '{"format_version": 1, "model": {}}',
        '{"format_version": 1' + "0" * 5000 + "}", " " * (2 << 20),
    ],
    ids=lambda text: repr(text[:25]),
)  # fmt: skip
def test_config_that_is_no_config(folder: Path, text: str) -> None:
    write_config(folder, text)
    with pytest.raises(WeightsError) as error:
        weights.load(folder)
    assert CONFIG_FILE in sentence(error) or "format" in sentence(error)


def test_config_that_is_no_utf8(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(WeightsError, match="is damaged"):
        weights.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2}, {"format_version": "1"}, {"format_version": None},
        {"model": None}, {"model": []}, {"model": "abc"}, {"model": [["a"]]}, {"model": {"x": 1}},
        {"backbone": None}, {"backbone": []}, {"backbone": "x"}, {"backbone": {}},
    ],
    ids=str,
)  # fmt: skip
def test_config_of_wrong_types(folder: Path, change: dict[str, Any]) -> None:
    change_config(folder, lambda config: config.update(change))
    with pytest.raises(WeightsError):
        weights.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../etc/passwd"}, {"file": "/etc/passwd"}, {"file": True}, {"file": 1},
        {"file": ["backbone.safetensors"]}, {"fingerprint": 1}, {"fingerprint": "sha256:"},
        {"fingerprint": None}, {"repo": 5}, {"repo": {}},
        {"repo": "../../x", "file": None}, {"repo": "http://evil/x", "file": None},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_backbone_entry(folder: Path, change: dict[str, Any]) -> None:
    change_config(folder, lambda config: config["backbone"].update(change))
    with pytest.raises(WeightsError):
        weights.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 2**40), ("depth", 10**9), ("registers", 10**9), ("local_hidden", 2**50),
        ("local_dim", 2**50), ("width", "32"), ("width", 32.0), ("width", None), ("width", -32),
        ("width", True), ("depth", 1), ("depth", 3), ("heads", 5), ("heads", 0),
        ("registers", -1), ("input_size", 55), ("resize", "x"), ("antialias", 1), ("extra", 1),
    ],
)  # fmt: skip
def test_a_shape_that_is_not_the_tensors_never_allocates(
    folder: Path, key: str, value: Any
) -> None:
    change_config(folder, lambda config: config["model"].update({key: value}))
    with pytest.raises(WeightsError):
        weights.load(folder)


def test_extra_keys_are_kept(folder: Path) -> None:
    change_config(folder, lambda config: config.update(comment=["anything", {"a": None}]))
    assert weights.load(folder).card["comment"] == ["anything", {"a": None}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                               max_size=3),
    max_leaves=6,
)  # fmt: skip
SLOW_FIXTURE = [HealthCheck.function_scoped_fixture]
PATHS = [
    ("format_version",), ("model",), ("backbone",), ("backbone", "fingerprint"),
    ("backbone", "file"), ("model", "width"), ("model", "depth"), ("model", "heads"),
    ("model", "registers"), ("model", "adapter_scale"), ("model", "resize"), ("preset",),
]  # fmt: skip


@settings(max_examples=150, suppress_health_check=SLOW_FIXTURE)
@given(path=st.sampled_from(PATHS), value=JSON)
def test_config_fuzzed_by_value(folder: Path, path: tuple[str, ...], value: Any) -> None:
    original = (folder / CONFIG_FILE).read_bytes()
    config = json.loads(original)
    entry = config
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    try:
        weights.load(folder)
    except WeightsError as error:
        assert str(error)
    finally:
        (folder / CONFIG_FILE).write_bytes(original)


@settings(max_examples=150, suppress_health_check=SLOW_FIXTURE)
@given(apply=damage(early=300), file=st.sampled_from([CONFIG_FILE, ADAPTERS_FILE]))
def test_files_fuzzed_by_byte(folder: Path, apply: Callable[[bytes], bytes], file: str) -> None:
    original = (folder / file).read_bytes()
    (folder / file).write_bytes(apply(original))
    try:
        weights.load(folder)
    except WeightsError as error:
        assert str(error)
    finally:
        (folder / file).write_bytes(original)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 8, b"\xff" * 100, struct.pack("<Q", 2**62) + b"{}", pickle.dumps({"a": 1}),
     struct.pack("<Q", 2) + b"[]"],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_files_that_are_no_safetensors(folder: Path, data: bytes) -> None:
    (folder / ADAPTERS_FILE).write_bytes(data)
    with pytest.raises(weights.DamagedError, match=ADAPTERS_FILE) as error:
        weights.load(folder)
    assert "get it anew" in sentence(error)
