"""The public surface: what a user may import, that it is documented, and what it costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
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


# Property tests

EXCEPTIONS: dict[str, str] = {
    "command line: parses, prints and exits; test_cli* run it": """
        __main__.* cli.* cli_build.* cli_doctor.* cli_edit.* cli_eval.* cli_index.* cli_train.*
        cli_source.Bars.show cli_source.photos_of cli_source.say_problems terminal.add_model""",
    "the page itself: builds and serves Gradio; test_ui and test_browser use it": "ui.*",
    "its whole work is asking a server; test_hub, _street, _download, _published have one": """
        collecting.collect download.Fetcher.close download.Fetcher.file download.Fetcher.json
        hub.alone hub.fetch hub.fetch_range hub.home hub.ping hub.push hub.settings mapillary.find
        panoramax.find published.*""",
    "hands work to other machines or a lent GPU; test_rayengine, test_gpu": """
        gpu.* rayengine.*""",
    "is compiled for a GPU; test_fused has it interpreted, which takes seconds": "fused.extrema",
    "asks this machine how it is; test_doctor gives it others": """
        doctor.* installed.requirements retrieval.peak_memory_mb planning.find_batch_size""",
    "loads a whole model or city, which others take apart; fuzzed by byte in test_weights": """
        bundle.load model.SelaVPR.from_official_checkpoint model.SelaVPR.from_pretrained
        recognizer.Recognizer.load""",
    "trains or times a network for seconds; test_training, test_cli_build": """
        planning.plan training.prepare training.train validation.validate""",
    "decodes a video; test_video has some": "video.extract video.shots_of",
    "waits for sockets and time; test_limits has both": "limits.*",
    "takes nothing that could vary": """
        cards.header cards.how_it_works cards.waiting images.register_heif maps.leaflet_folder
        weights.bundled_models""",
}
"""Why public functions have no property test, and which; ``module.*`` is a whole module."""

SOURCES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob("selavpr/*.py"))
}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_every_public_function_has_a_property_test_or_a_reason() -> None:
    public, tested, excused = public_functions(), under_property_test(), set[str]()
    assert tested  # the search itself works
    stale = []
    for reason, names in EXCEPTIONS.items():
        for name in names.split():
            module, star = name.removesuffix("*"), name.endswith("*")
            meant = {n for n in public if n.startswith(module)} if star else {name} & public
            # What has a property test needs no reason; of a module something must be left.
            if not meant - tested or meant & excused:
                stale.append(f"{name} ({reason})")
            excused |= meant
    assert stale == []
    assert sorted(public - tested - excused) == []


def test_what_counts_as_a_property_test() -> None:
    tree = ast.parse(
        """
CASES = [by_constant]
def helper(): by_helper()
def other(): by_nobody()
@given(strategy)
def test_a(): by_test(CASES, helper)
@pytest.fixture
def test_b(): by_example()
"""
    )
    names = {node.id for node in reached(tree) if isinstance(node, ast.Name)}
    wanted = {"by_constant", "by_helper", "by_test"}
    assert {name for name in names if name.startswith("by_")} == wanted


def public_functions() -> set[str]:
    """Public functions and methods of the package, as ``module.name`` and ``module.Class.name``."""
    found = set()
    for module, tree in SOURCES.items():
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                found.add(f"{module}.{node.name}")
            # What a Protocol says is up to the classes that follow it.
            elif isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
                methods = (m.name for m in node.body if isinstance(m, FUNCTIONS))
                found |= {f"{module}.{node.name}.{method}" for method in methods}
    return {name for name in found if "._" not in name}


def origin(module: str, name: str) -> str:
    """Where what a module calls by a name is defined: ``module.name``, or a module."""
    if module == "__init__" and name in SOURCES:
        return name
    for node in ast.walk(SOURCES[module]):  # the package's own are imported for types only
        if isinstance(node, ast.ImportFrom) and _is_ours(node):
            if name in [alias.asname or alias.name for alias in node.names]:
                return origin(_module(node), name)
    return f"{module}.{name}"


def _is_ours(node: ast.ImportFrom) -> bool:
    return (node.module or "").partition(".")[0] == "selavpr"


def _module(node: ast.ImportFrom) -> str:
    return (node.module or "").partition(".")[2] or "__init__"


def under_property_test() -> set[str]:
    """What tests with ``@given``, and what they call in their file, name of the package.

    A method counts as named where the test's file names its class, too.
    """
    public = public_functions()
    found: set[str] = set()
    for path in sorted(ROOT.glob("tests/test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: origin(_module(node), alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and _is_ours(node)
            for alias in node.names
        }
        foreign = {
            (alias.asname or alias.name).partition(".")[0]
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        } - imported.keys()
        nodes = list(reached(tree))
        # json.load is nobody's method here.
        attributes = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute)
            and not (isinstance(node.value, ast.Name) and node.value.id in foreign)
        }
        named = {imported[n.id] for n in nodes if isinstance(n, ast.Name) and n.id in imported}
        named |= {
            origin(imported[node.value.id], node.attr)
            for node in nodes
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and imported.get(node.value.id) in SOURCES
        }
        found |= named
        for name in public:
            of, _, method = name.rpartition(".")
            if method in attributes and of in {*imported.values(), *named}:
                found.add(name)
    return found & public


def reached(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node of the property tests of a file, and of what of the file they use."""
    defined: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined[node.name] = node
        for target in node.targets if isinstance(node, ast.Assign) else ():
            defined |= {n.id: node for n in ast.walk(target) if isinstance(n, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined[node.target.id] = node
    waiting = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(re.match(r"(hypothesis\.)?given\b", ast.unparse(d)) for d in node.decorator_list)
    ]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for inner in ast.walk(node):
            yield inner
            if isinstance(inner, ast.Name) and inner.id in defined:
                waiting.append(defined[inner.id])
