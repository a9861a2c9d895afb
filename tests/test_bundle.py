from __future__ import annotations

import errno
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


class AnswerError(Exception):
    """What an HTTP library raises for an answer that is an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


def hub_error(cause: Exception | None) -> HubError:
    error = HubError("It could not be fetched.")
    error.__cause__ = cause
    return error


@dataclass
class Machine:
    """Stands in for the Hub and the disk: which models load, which folders hold which index."""

    models: set[str]
    indexes: dict[str, str]  # folder name to the model its index was built with
    why: Exception | None  # what the Hub's errors come from
    placed: list[str]

    def network(self, name: str, *, device: str) -> Any:
        if name not in self.models:
            raise hub_error(self.why)
        assert device == "cpu", "nothing is computed on a GPU before all is loaded"
        return SimpleNamespace(name=name, device=device, place=self.placed.append)

    def open(self, folder: Path | str) -> FakeIndex:
        name = Path(folder).name
        if str(folder).startswith("somebody/"):
            raise hub_error(self.why)
        if name not in self.indexes:
            raise IndexFileError(f"There is no index in {folder}.")
        index = FakeIndex(name, name.title(), count=3)
        index.folder = Path(folder)
        return index

    def join(self, index: FakeIndex, *, model: Any) -> Any:
        if self.indexes[index.manifest.name] != model.name:
            raise IndexFileError(f"{index.manifest.name} was built with another model.")
        return SimpleNamespace(index=index, model=model)

    def find(self, root: Path) -> list[Path]:
        return [root / name for name in sorted(self.indexes) if name != "far"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(
        {DEFAULT_MODEL, "x"},
        {"oslo": DEFAULT_MODEL, "bergen": DEFAULT_MODEL, "odd": "x", "far": "somebody/large"},
        ConnectionError("no route"),
        [],
    )
    monkeypatch.setattr(bundle.SelaVPR, "from_pretrained", made.network)
    monkeypatch.setattr(bundle, "open_index", made.open)
    monkeypatch.setattr(bundle.Recognizer, "load", made.join)
    monkeypatch.setattr(bundle, "find", made.find)
    return made


ROOT = Path("bundled")


def test_all_cities_share_one_model(machine: Machine) -> None:
    served = bundle.load(ROOT, ["bergen", "oslo"], device="cuda")
    assert list(served.recognizers) == ["bergen", "oslo"]
    assert len({id(r.model) for r in served.recognizers.values()}) == 1
    assert served.notes == ()
    assert not served.bundled
    assert machine.placed == ["cuda"]
    assert "Bergen (3 photos), Oslo (3 photos), device cpu" in str(served)


def test_cities_of_one_name_are_all_served(machine: Machine) -> None:
    """As of ``--index paris/index --index london/index``; one named twice is served once."""
    asked = ["oslo", "old/oslo", "bergen", "older/oslo", "oslo"]
    served = bundle.load(ROOT, asked)
    assert list(served.recognizers) == ["oslo", "oslo-2", "bergen", "oslo-3"]
    folders = [str(r.index.folder) for r in served.recognizers.values()]
    assert folders == asked[:4]


def test_bundled_cities_serve_where_none_is_named(machine: Machine) -> None:
    served = bundle.load(ROOT)
    assert list(served.recognizers) == ["bergen", "oslo"]
    assert served.bundled


def test_index_of_another_model_is_left_out_and_logged(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(bundle.load(ROOT, ["odd", "oslo"]).recognizers) == ["oslo"]
    assert "odd was built with another model" in caplog.text


def test_only_index_of_another_model_is_an_error(machine: Machine) -> None:
    with pytest.raises(IndexFileError, match="odd was built with another model"):
        bundle.load(ROOT, ["odd"])


def test_bundled_model_and_city_serve_when_the_hub_does_not_answer(machine: Machine) -> None:
    served = bundle.load(ROOT, ["far"], model="somebody/large")
    assert [note["en"] for note in served.notes] == [
        f"somebody/large could not be fetched, so the bundled model {DEFAULT_MODEL} serves."
    ]
    assert "somebody/large" in served.notes[0]["zh"]
    assert list(served.recognizers) == ["bergen", "oslo"]
    assert served.bundled


def test_bundled_city_serves_when_the_hub_does_not_answer(machine: Machine) -> None:
    served = bundle.load(ROOT, ["somebody/city"])
    assert "somebody/city could not be fetched" in served.notes[0]["en"]
    assert list(served.recognizers) == ["bergen", "oslo"]
    assert "so the bundled city serves" in served.notes[0]["en"]


def test_bundled_model_serves_where_a_kept_one_has_no_city(machine: Machine) -> None:
    """As on a Space that has the weights on its disk and its index on the Hub."""
    machine.models.add("kept")
    served = bundle.load(ROOT, ["somebody/city"], model="kept", device="cuda")
    assert list(served.recognizers) == ["bergen", "oslo"] and served.bundled
    assert {r.model.name for r in served.recognizers.values()} == {DEFAULT_MODEL}
    assert ["so the bundled city serves" in note["en"] for note in served.notes] == [True]
    assert machine.placed == ["cuda"]


def test_other_city_serves_beside_one_that_could_not_be_fetched(machine: Machine) -> None:
    served = bundle.load(ROOT, ["somebody/city", "oslo"])
    assert list(served.recognizers) == ["oslo"] and not served.bundled
    assert [note["en"] for note in served.notes] == [
        "somebody/city could not be fetched, so this city is missing here for now."
    ]


@pytest.mark.parametrize(
    "why",
    [
        None,  # the name is none the Hub takes
        AnswerError(401),
        AnswerError(403),
        AnswerError(404),
        OSError(errno.ENOSPC, "disk full"),
        PermissionError(errno.EACCES, "cache not writable"),
    ],
)
def test_what_the_user_can_mend_is_an_error(machine: Machine, why: Exception | None) -> None:
    machine.why = why
    with pytest.raises(HubError):
        bundle.load(ROOT, model="somebody/typo")
    with pytest.raises(HubError):
        bundle.load(ROOT, ["somebody/typo"])


@pytest.mark.parametrize(
    "why",
    [ConnectionError("no route"), TimeoutError(), AnswerError(500), AnswerError(429)],
)
def test_silence_and_failures_of_the_hub_are_not(machine: Machine, why: Exception) -> None:
    wrapped = LookupError("not cached")
    wrapped.__cause__ = why
    assert bundle.unreachable(hub_error(why))
    assert bundle.unreachable(hub_error(wrapped))
    assert bundle.unreachable(hub_error(hub_error(wrapped)))


def test_name_that_is_none_is_not_silence() -> None:
    assert not bundle.unreachable(hub_error(hub_error(None)))


def test_bundled_model_that_cannot_be_loaded_is_an_error(machine: Machine) -> None:
    machine.models.clear()
    with pytest.raises(HubError):
        bundle.load(ROOT)


def test_no_city_says_what_to_do(machine: Machine) -> None:
    machine.indexes.clear()
    with pytest.raises(IndexFileError, match="index build"):
        bundle.load(ROOT)


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
    assert one.chinese == ""


def test_examples_may_have_chinese_titles(tmp_path: Path) -> None:
    folder = table(tmp_path, "rain.jpg,Rain,,,雨", header="image,title,latitude,longitude,title_zh")
    assert bundle.read_examples(folder)[0].chinese == "雨"


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
