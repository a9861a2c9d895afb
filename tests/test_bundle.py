from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_recognizer import FakeIndex, drawn_street

from selavpr import bundle
from selavpr.errors import HubError, IndexFileError
from selavpr.geo import Location
from selavpr.weights import DEFAULT_MODEL


@dataclass
class Machine:
    """Stands in for the Hub and the disk: which models load, which folders hold which index."""

    models: set[str]
    indexes: dict[str, str]  # folder name to the model its index was built with

    def network(self, name: str, *, device: str) -> Any:
        if name not in self.models:
            raise HubError(f"{name} could not be fetched.")
        return SimpleNamespace(name=name, device=device)

    def open(self, folder: Path) -> FakeIndex:
        if folder.name not in self.indexes:
            raise IndexFileError(f"There is no index in {folder}.")
        return FakeIndex(folder.name, folder.name.title(), count=3)

    def join(self, index: FakeIndex, *, model: Any) -> Any:
        if self.indexes[index.manifest.name] != model.name:
            raise IndexFileError(f"{index.manifest.name} was built with another model.")
        return SimpleNamespace(index=index, model=model)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine({DEFAULT_MODEL}, {"oslo": DEFAULT_MODEL, "bergen": DEFAULT_MODEL, "odd": "x"})
    monkeypatch.setattr(bundle.SelaVPR, "from_pretrained", made.network)
    monkeypatch.setattr(bundle.PlaceIndex, "open", made.open)
    monkeypatch.setattr(bundle.Recognizer, "load", made.join)
    return made


def test_all_cities_share_one_model(machine: Machine) -> None:
    served = bundle.load([Path("bergen"), Path("oslo")], device="cpu")
    assert list(served.recognizers) == ["bergen", "oslo"]
    assert len({id(r.model) for r in served.recognizers.values()}) == 1
    assert served.note == ""
    assert "Bergen (3 photos), Oslo (3 photos), device cpu" in str(served)


def test_index_of_another_model_is_left_out_and_logged(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(bundle.load([Path("odd"), Path("oslo")]).recognizers) == ["oslo"]
    assert "odd was built with another model" in caplog.text


def test_only_index_of_another_model_is_an_error(machine: Machine) -> None:
    with pytest.raises(IndexFileError, match="odd was built with another model"):
        bundle.load([Path("odd")])


def test_bundled_model_serves_when_the_hub_does_not_answer(machine: Machine) -> None:
    served = bundle.load([Path("oslo")], model="somebody/large")
    assert "somebody/large could not be fetched" in served.note
    assert DEFAULT_MODEL in served.note
    assert list(served.recognizers) == ["oslo"]


def test_bundled_model_that_cannot_be_loaded_is_an_error(machine: Machine) -> None:
    machine.models.clear()
    with pytest.raises(HubError):
        bundle.load([Path("oslo")])


def test_no_city_says_what_to_do() -> None:
    with pytest.raises(IndexFileError, match="index build"):
        bundle.load([])


def test_find_takes_folders_with_a_manifest_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "manifest.json").write_text("{}")
    assert [path.name for path in bundle.find(tmp_path)] == ["a", "b"]
    assert bundle.find(tmp_path / "missing") == []


def table(folder: Path, *rows: str, header: str = "image,title,latitude,longitude") -> Path:
    drawn_street(1).save(folder / "rain.jpg")
    (folder / bundle.EXAMPLES).write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return folder


def test_examples_with_and_without_a_known_place(tmp_path: Path) -> None:
    folder = table(tmp_path, "rain.jpg,Rain,60.5,24.5", "rain.jpg,Elsewhere,,")
    one, two = bundle.read_examples(folder)
    assert (one.photo, one.title, one.truth) == (folder / "rain.jpg", "Rain", Location(60.5, 24.5))
    assert two.truth is None


def test_folder_without_a_table_has_no_examples(tmp_path: Path) -> None:
    assert bundle.read_examples(tmp_path) == []


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("gone.jpg,Gone,60,24", "'gone.jpg', which is not there"),
        ("../secret.jpg,Out,60,24", "'../secret.jpg', which is not there"),
        ("rain.jpg,Rain,north,24", "is damaged"),
        ("rain.jpg,Rain,95,24", "is damaged"),
        ("rain.jpg,Rain", "is damaged"),
    ],
)
def test_damaged_examples_are_named(tmp_path: Path, row: str, complaint: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    folder = tmp_path / "examples"
    folder.mkdir()
    with pytest.raises(IndexFileError, match=re.escape(complaint)):
        bundle.read_examples(table(folder, row))


def test_examples_without_their_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="is damaged"):
        bundle.read_examples(table(tmp_path, "rain.jpg", header="image"))
