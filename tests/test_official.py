"""Checkpoints of the reference implementation: every way they were written, damaged or hostile."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import TINY, random_model
from damage import damage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_weights import SLOW_FIXTURE, State, same, sentence

from selavpr import ModelConfig, SelaVPR, SelaVPRError, WeightsError, official, weights


@pytest.fixture(scope="module")
def tiny_model() -> SelaVPR:
    """One network for all tests here; none changes it."""
    return random_model(TINY)


def official_state(model: SelaVPR, prefix: str = "module.") -> State:
    """A network's tensors by the reference's names, Meta's way of storing registers included."""
    made = model.to_weights()
    state: State = {}
    for name, tensor in made.trained.items():
        name = name.replace("attn_adapter.", "adapter1.").replace("mlp_adapter.", "adapter2.")
        name = name.replace(".down.", ".D_fc1.").replace(".up.", ".D_fc2.")
        name = name.replace("local_head.up", "LocalAdapt.upconv").replace("pool", "aggregation.1")
        state[prefix + name] = tensor
    frozen = dict(made.backbone)
    if "reg_token" in frozen:
        frozen["register_tokens"] = frozen.pop("reg_token")
        position = torch.full((1, 1, model.config.width), 0.25)
        frozen["cls_token"] = frozen["cls_token"] - position
        frozen["pos_embed"] = torch.cat([position, frozen["pos_embed"]], dim=1)
    frozen["mask_token"] = torch.zeros(1, model.config.width)
    return state | {f"{prefix}backbone.{name}": tensor for name, tensor in frozen.items()}


class Numpy1Pickler(pickle._Pickler):
    """Names NumPy's functions as NumPy 1 did, under whichever NumPy runs."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__name__", "") in ("_reconstruct", "scalar"):
            self.write(b"cnumpy.core.multiarray\n" + obj.__name__.encode() + b"\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    # The table of the base class knows functions by their type.
    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, type(len): save_global}


class Numpy1Pickle:
    """A pickle module for torch.save."""

    Pickler = Numpy1Pickler

    @staticmethod
    def dump(content: Any, file: Any, protocol: int) -> None:
        Numpy1Pickler(file, protocol).dump(content)


def checkpoint(model: SelaVPR, prefix: str = "module.", **changes: Any) -> dict[str, Any]:
    recalls = np.array([90.8, 96.4, 97.2])
    return {
        "epoch_num": 7,
        "model_state_dict": official_state(model, prefix),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "recalls": recalls,
        "best_r5": recalls[1],
        "not_improved_num": 0,
        **changes,
    }


def save_official(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, pickle_module=Numpy1Pickle, **options)
    return path


def test_the_fixtures_are_like_numpy_1_wrote_them(tiny_model: SelaVPR, tmp_path: Path) -> None:
    path = save_official(tmp_path / "x.pth", checkpoint(tiny_model))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x/data.pkl")
    assert b"numpy.core.multiarray\n_reconstruct" in content
    assert b"numpy.core.multiarray\nscalar" in content
    assert b"numpy._core" not in content


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("registers", [0, 4])
def test_official_checkpoint(
    request: pytest.FixtureRequest, tmp_path: Path, prefix: str, registers: int
) -> None:
    model = request.getfixturevalue("tiny_reg4_model" if registers else "tiny_model")
    path = save_official(tmp_path / "msls.pth", checkpoint(model, prefix))
    loaded = official.load_official(path)
    made = model.to_weights()
    assert loaded.config == ModelConfig(
        width=32, depth=2, heads=4, registers=registers, local_hidden=16, local_dim=8
    )
    assert same(loaded.trained, made.trained)
    assert same(loaded.backbone, made.backbone, 1e-6)  # (a - 0.25) + 0.25
    assert loaded.card["training"] == {"epoch": 7}
    assert loaded.card["recall"] == {"validation_r5": 96.4}
    SelaVPR.from_official_checkpoint(path, device="cpu")
    folder = weights.save(loaded, tmp_path / "m", with_backbone=True)
    assert same(weights.load(folder).backbone, loaded.backbone)


@pytest.mark.parametrize(
    "change",
    [
        {"recalls": None}, {"best_r5": 96.4}, {"best_r5": "96"}, {"best_r5": float("nan")},
        {"recalls": np.float32(1)}, {"recalls": np.arange(3)}, {"epoch_num": np.int64(3)},
        {"best_r5": np.array([1.0])}, {"recalls": [np.float64(1)]},
    ],
    ids=str,
)  # fmt: skip
def test_other_contents_of_a_checkpoint_do_not_matter(
    tiny_model: SelaVPR, tmp_path: Path, change: dict[str, Any]
) -> None:
    made = tiny_model.to_weights()
    path = save_official(tmp_path / "x.pth", checkpoint(tiny_model, **change))
    assert same(official.load_official(path).trained, made.trained)
    torch.save(checkpoint(tiny_model, **change), path)  # with this NumPy's names
    assert same(official.load_official(path).trained, made.trained)


def test_bare_state_dict_doubles_and_the_old_file_format(
    tiny_model: SelaVPR, tmp_path: Path
) -> None:
    made = tiny_model.to_weights()
    state = collections.OrderedDict(official_state(tiny_model))
    doubles = {name: x.double() for name, x in state.items()}
    for content in (state, doubles):
        for new in (True, False):
            path = save_official(tmp_path / "x.pth", content, _use_new_zipfile_serialization=new)
            loaded = official.load_official(path)
            assert same(loaded.trained, made.trained)
            assert {x.dtype for x in loaded.backbone.values()} == {torch.float32}
            assert "training" not in loaded.card and "recall" not in loaded.card


@pytest.mark.parametrize(
    "content",
    [{}, {"a": 1}, [1], 1, torch.ones(3), {"model_state_dict": None}, {"model_state_dict": {}},
     {"model_state_dict": {"a": 1}}, {"a": torch.ones(1)}, {1: torch.ones(1)},
     {"LocalAdapt.upconv2.weight": torch.ones(2, 2)}],
    ids=lambda content: str(content)[:40],
)  # fmt: skip
def test_not_a_selavpr_checkpoint(tmp_path: Path, content: Any) -> None:
    path = save_official(tmp_path / "x.pth", content)
    with pytest.raises(WeightsError, match=r"x\.pth .*not a SelaVPR checkpoint") as error:
        official.load_official(path)
    sentence(error)


@pytest.mark.parametrize("data", [b"", b"random bytes" * 50, b"PK\x03\x04", b"\x80\x02}.", b"."])
def test_not_a_checkpoint_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"x\.pth"):
        official.load_official(path)
    with pytest.raises(WeightsError, match="There is no checkpoint at"):
        official.load_official(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="There is no checkpoint at"):
        official.load_official(tmp_path)


def test_truncated_checkpoint(tiny_model: SelaVPR, tmp_path: Path) -> None:
    path = save_official(tmp_path / "x.pth", checkpoint(tiny_model))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="cut off"):
        official.load_official(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stranger.weight": torch.ones(1)}, "it has stranger.weight"),
        ({"backbone.blocks.0.adapter3.x": torch.ones(1)}, "unexpected: blocks.0.adapter3.x"),
        ({"backbone.blocks.0.adapter1.D_fc3.bias": torch.ones(1)}, "unexpected"),
        ({"aggregation.1.power": torch.ones(1)}, "it has aggregation.1.power"),
        ({"backbone.norm.bias": torch.ones(31)}, r"norm.bias is \[31\] but should be \[32\]"),
        ({"backbone.pos_embed": torch.ones(1, 257, 32)}, r"pos_embed is \[1, 257, 32\]"),
        ({"backbone.norm.bias": torch.full((32,), torch.inf)}, "not finite"),
        ({"backbone.norm.bias": torch.ones(32).long()}, "is torch.int64"),
        ({"backbone.norm.bias": torch.ones(32).to_sparse()}, r"x\.pth"),
        ({"backbone.norm.bias": torch.ones(32).to(torch.cfloat)}, "is torch.complex64"),
        ({"backbone.register_tokens": torch.ones(4)}, "other names or shapes"),
        ({"backbone.patch_embed.proj.weight": torch.tensor(1.0)}, "not a SelaVPR checkpoint"),
        ({"LocalAdapt.upconv1.weight": torch.ones(32)}, "not a SelaVPR checkpoint"),
        ({"backbone.blocks.x.norm": torch.ones(1)}, "not a SelaVPR checkpoint"),
        ({"backbone.blocks.99.norm1.bias": torch.ones(32)}, "for 2 blocks, the network has 100"),
    ],
)  # fmt: skip
def test_wrong_tensors_in_a_checkpoint_are_named(
    tiny_model: SelaVPR, tmp_path: Path, change: State, words: str
) -> None:
    state = official_state(tiny_model, prefix="") | change
    path = save_official(tmp_path / "x.pth", {"model_state_dict": state})
    with pytest.raises(WeightsError, match=words) as error:
        official.load_official(path)
    sentence(error)


def test_adapters_of_another_ratio(tiny_model: SelaVPR, tmp_path: Path) -> None:
    state = official_state(tiny_model, prefix="")
    for name in list(state):
        if ".D_fc1." in name:
            state[name] = state[name][:8]
        elif name.endswith(".D_fc2.weight"):
            state[name] = state[name][:, :8]
    path = save_official(tmp_path / "x.pth", state)
    with pytest.raises(WeightsError, match=r"attn_adapter.down.bias is \[8\] but should be \[16\]"):
        official.load_official(path)


@pytest.mark.parametrize("missing", ["aggregation.1.p", "backbone.cls_token",
                                     "backbone.blocks.1.adapter2.D_fc2.bias",
                                     "backbone.patch_embed.proj.weight",
                                     "LocalAdapt.upconv1.weight"])  # fmt: skip
def test_missing_tensors_in_a_checkpoint_are_named(
    tiny_model: SelaVPR, tmp_path: Path, missing: str
) -> None:
    state = official_state(tiny_model, prefix="")
    del state[missing]
    path = save_official(tmp_path / "x.pth", state)
    last = missing.replace("aggregation.1", "pool").split(".")[-1]
    with pytest.raises(WeightsError, match=last):
        official.load_official(path)


class Attack:
    """Runs a command when unpickled by pickle."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_not_run(tiny_model: SelaVPR, tmp_path: Path, legacy: bool) -> None:
    proof = tmp_path / "ran"
    pickle.loads(pickle.dumps(Attack(proof)))
    proof.rmdir()  # the attack works where it is not prevented; it raises FileNotFoundError if not
    path = tmp_path / "x.pth"
    content = checkpoint(tiny_model, recalls=Attack(proof))
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"holds more than weights \(.*mkdir.*not loaded"):
        official.load_official(path)
    path.write_bytes(pickle.dumps(Attack(proof)))
    with pytest.raises(WeightsError):
        official.load_official(path)
    assert not proof.exists()


def test_numpy_objects_are_never_built(tiny_model: SelaVPR, tmp_path: Path) -> None:
    # Arrays of objects, and a structured dtype whose flags hide that it holds pointers, which makes
    # NumPy's own unpickling take raw bytes for addresses.
    objects = np.array([{"a": 1}, None], dtype=object)
    hidden = np.zeros(2, dtype=[("a", "O")])
    for recalls in (objects, hidden):
        path = save_official(tmp_path / "x.pth", checkpoint(tiny_model, recalls=recalls))
        content = official._unpickle(path)
        assert type(content["recalls"]) is official._Inert
        assert same(official.load_official(path).trained, tiny_model.to_weights().trained)


@settings(max_examples=100, suppress_health_check=SLOW_FIXTURE)
@given(apply=damage(early=300), legacy=st.booleans())
@example(apply=lambda data: data, legacy=True)
def test_checkpoints_fuzzed_by_byte(
    tiny_model: SelaVPR, tmp_path: Path, apply: Callable[[bytes], bytes], legacy: bool
) -> None:
    buffer = io.BytesIO()
    torch.save(
        checkpoint(tiny_model), buffer, pickle_module=Numpy1Pickle,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    path = tmp_path / "x.pth"
    path.write_bytes(apply(buffer.getvalue()))
    try:
        official.load_official(path)
    except SelaVPRError as error:
        assert isinstance(error, WeightsError) and str(error)
