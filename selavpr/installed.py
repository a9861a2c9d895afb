"""Python and the packages that are installed, held against what requirements.txt asks for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from selavpr.findings import Finding

ROOT = Path(__file__).resolve().parent.parent
"""Of the repository."""

PYTHON = ">=3.10,<3.14"

EXTRAS = {
    "training": ("accelerate>=1.0", "matplotlib>=3.8", "tensorboard>=2.15"),
    "video": ("av>=14",),
    "clusters": ("ray[data]>=2.51",),
}
"""What only some commands need, as in requirements-train.txt and -ray.txt and pyproject.toml."""


def check_python(version: str) -> Finding:
    """Whether the program is tested on this version of Python."""
    fits = SpecifierSet(PYTHON).contains(version, prereleases=True)
    advice = "" if fits else f"Make a virtual environment with a Python {PYTHON}."
    return Finding("Python", "ok" if fits else "bad", f"{version}, needs {PYTHON}", advice)


def requirements(root: Path = ROOT) -> list[Requirement]:
    """What the app runs on: of the repository, or of the package where that is installed."""
    table = root / "requirements.txt"
    if table.is_file():
        lines = [line.partition("#")[0].strip() for line in table.read_text("utf-8").splitlines()]
        return [Requirement(line) for line in lines if line]
    try:
        found = importlib.metadata.requires("selavpr") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Requirement(line) for line in found if "extra ==" not in line]


def check_packages(needed: Iterable[Requirement]) -> list[Finding]:
    """Whether packages are installed, in a version we can work with."""
    found = []
    for package in needed:
        if package.marker is not None and not package.marker.evaluate():
            continue
        have = _version(package)
        fits = have is not None and package.specifier.contains(have, prereleases=True)
        about = f"{have or 'missing'}, needs {package.specifier or 'any version'}"
        advice = "" if fits else f'pip install "{package.name}{package.specifier}"'
        found.append(Finding(package.name, "ok" if fits else "bad", about, advice))
    return found


def check_extra(name: str, needed: Sequence[Requirement]) -> Finding:
    """Whether the packages are here that only some commands need."""
    wrong = [finding for finding in check_packages(needed) if finding.status != "ok"]
    if not wrong:
        have = ", ".join(f"{package.name} {_version(package)}" for package in needed)
        return Finding(f"for {name}", "ok", have)
    advice = "pip install " + " ".join(f'"{package}"' for package in needed)
    return Finding(f"for {name}", "note", "; ".join(f"{w.name} {w.found}" for w in wrong), advice)


def _version(package: Requirement) -> str | None:
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
