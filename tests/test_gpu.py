from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from selavpr import gpu
from selavpr.errors import PhotoError


def double(number: int) -> int:
    if number < 0:
        raise PhotoError("Too small.")
    return 2 * number


class Lender:
    """Stands in for the package ``spaces``: a task's values are pickled, its exceptions wiped."""

    def __init__(self) -> None:
        self.durations: list[int] = []

    def GPU(self, duration: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(task: Callable[..., Any]) -> Callable[..., Any]:
            def elsewhere(*args: Any, **kwargs: Any) -> Any:
                self.durations.append(duration)
                args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
                try:
                    return pickle.loads(pickle.dumps(task(*args, **kwargs)))
                except Exception as error:
                    raise RuntimeError(type(error).__name__) from None

            return elsewhere

        return decorate


@pytest.fixture
def lender(monkeypatch: pytest.MonkeyPatch) -> Lender:
    made = Lender()
    monkeypatch.setattr(gpu, "spaces", made)
    return made


def test_without_a_lender_the_task_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "spaces", None)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert gpu.borrowing(double, 5) is double
    assert not gpu.is_lent()


def test_lent_for_as_long_as_asked(lender: Lender) -> None:
    assert gpu.borrowing(double, 5)(21) == 42
    assert lender.durations == [5]


def test_errors_keep_their_text_on_the_way(lender: Lender) -> None:
    with pytest.raises(PhotoError, match=r"Too small\."):
        gpu.borrowing(double, 5)(-1)


def test_other_exceptions_are_left_to_the_lender(lender: Lender) -> None:
    with pytest.raises(RuntimeError, match="TypeError"):
        gpu.borrowing(double, 5)("x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("", False)])
def test_lent_only_where_the_machine_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
) -> None:
    monkeypatch.setattr(gpu, "spaces", SimpleNamespace())
    monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert gpu.is_lent() is expected


def test_a_folder_named_spaces_is_not_taken_for_the_package(tmp_path: Path) -> None:
    """Python imports any folder beside the script, or where ``python -m`` is run."""
    (tmp_path / "spaces").mkdir()
    root = str(Path(gpu.__file__).parent.parent)
    code = f"import sys; sys.path.append({root!r}); from selavpr import gpu; print(gpu.spaces)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
