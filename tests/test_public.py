"""The public surface: what a user may import, that it is documented, and what it costs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import selavpr
from selavpr import errors

ROOT = Path(__file__).resolve().parent.parent
# Optional front ends that need what the core does not: imported where they are used.
FRONT_ENDS = {"ui", "cli", "cli_index", "maps", "index", "recognizer", "__main__"}
MODULES = sorted(m.name for m in pkgutil.iter_modules(selavpr.__path__) if m.name not in FRONT_ENDS)


def test_all_names_resolve() -> None:
    assert len(set(selavpr.__all__)) == len(selavpr.__all__)
    assert list(selavpr.__all__) == sorted(selavpr.__all__)
    for name in selavpr.__all__:
        assert getattr(selavpr, name) is not None


def test_the_names_the_documentation_promises() -> None:
    promised = {"SelaVPR", "load_image", "count_mutual", "mutual_nearest", "Features", "Matches"}
    assert promised <= set(selavpr.__all__)
    for method in ("from_pretrained", "from_official_checkpoint", "extract", "densify"):
        assert callable(getattr(selavpr.SelaVPR, method))


def test_nothing_public_is_left_out() -> None:
    """Whatever the package's top level offers without underscore is a module or in __all__."""
    assert all(hasattr(selavpr, name) for name in selavpr.__all__)  # some come when asked for
    names = {
        name
        for name, value in vars(selavpr).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names == set(selavpr.__all__)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", selavpr.__version__)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: str) -> None:
    undocumented = [
        name
        for name, value in public_members(importlib.import_module(f"selavpr.{module}"))
        if not (value.__doc__ or "").strip()
    ]
    assert undocumented == []


def public_members(module: ModuleType) -> list[tuple[str, Any]]:
    """The module, its own public functions and classes, and their public methods."""
    members: list[tuple[str, Any]] = [(module.__name__, module)]
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            members.append((name, value))
        elif inspect.isclass(value):
            members.append((name, value))
            members += [
                (f"{name}.{attribute}", inspect.unwrap(getattr(method, "__func__", method)))
                for attribute, method in vars(value).items()
                if not attribute.startswith("_")
                and (inspect.isfunction(method) or isinstance(method, (classmethod, property)))
            ]
    return members


def test_every_error_is_a_selavpr_error() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) >= 7
    for error in classes:
        assert issubclass(error, errors.SelaVPRError)
        assert getattr(selavpr, error.__name__) is error
        assert error.__name__ in (errors.__doc__ or "")  # drawn in the tree


def test_errors_form_the_tree_that_is_drawn() -> None:
    assert issubclass(errors.HubError, errors.WeightsError)
    direct = {"PhotoError", "OptionError", "LocationError", "WeightsError", "IndexFileError"}
    assert {c.__name__ for c in errors.SelaVPRError.__subclasses__()} >= direct
    assert errors.SelaVPRError.__bases__ == (Exception,)


def test_importing_is_light_and_silent() -> None:
    """No front end, no index, no network, no output, no logging set up, no threads changed."""
    code = """
import logging, sys, warnings
import torch
threads = torch.get_num_threads()
import selavpr
heavy = {'gradio', 'folium', 'faiss', 'matplotlib', 'pandas', 'uvicorn'} & set(sys.modules)
assert not heavy, heavy
assert not logging.getLogger().handlers
assert torch.get_num_threads() == threads
assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
