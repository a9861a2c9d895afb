"""The journal: what was added is there after any end, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import OptionError
from selavpr.journal import Journal

RECORDS = {f"photo {i}": {"rows": [i, i + 1], "text": "ä\n"} for i in range(4)}


def written(folder: Path) -> Path:
    with Journal(folder, "a", {"k": 1}) as journal:
        for key, record in RECORDS.items():
            journal.add(key, record)
    return journal.path


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    written(tmp_path)
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        assert journal.done == RECORDS
        journal.add("new", {"x": None})
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        assert journal.done == {**RECORDS, "new": {"x": None}}


def test_other_settings_have_their_own(tmp_path: Path) -> None:
    first = written(tmp_path)
    with Journal(tmp_path, "a", {"k": 2}) as journal:
        assert journal.done == {} and journal.path != first
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        assert journal.done == RECORDS


@given(cut=st.floats(0, 1), junk=st.binary(max_size=6))
def test_any_cut_keeps_the_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: float, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("j")
    path = written(folder)
    data = path.read_bytes()
    kept = data[: int(cut * len(data))]
    path.write_bytes(kept + junk.replace(b"\n", b"?"))
    with Journal(folder, "a", {"k": 1}) as journal:
        assert len(journal.done) == kept.count(b"\n")
        journal.add("new", {})
    with Journal(folder, "a", {"k": 1}) as journal:
        assert list(journal.done)[-1] == "new"
        assert len(journal.done) == kept.count(b"\n") + 1


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="Cannot keep records"):
        Journal(tmp_path / "file", "a", {})
