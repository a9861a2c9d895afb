"""The journal: what was added is there after any end, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavpr import OptionError
from selavpr.journal import Journal

ROOT = Path(__file__).resolve().parent.parent
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


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        journal.add("mine", {"x": 1})
        with pytest.raises(OptionError, match=r"Another run is writing .*jsonl; wait until"):
            Journal(tmp_path, "a", {"k": 1})
        with Journal(tmp_path, "a", {"k": 2}) as other:  # of other settings
            other.add("theirs", {})
        journal.add("again", {"x": 2})
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        assert journal.done == {"mine": {"x": 1}, "again": {"x": 2}}


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from selavpr.journal import Journal
Journal(Path(sys.argv[1]), "a", {"k": 1}).add("done", {"x": 1})
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    with Journal(tmp_path, "a", {"k": 1}) as journal:
        assert journal.done == {"done": {"x": 1}}
