"""Everything of the bundled city from nothing: pictures, index, calibration, examples, figures.

    python -m tools.rebuild_city --city-python .venv-city/bin/python

Rendering has an environment of its own (see tools/city). Each step that was stopped goes on when
the command is given again. Only the last step's figures are printed.

It leaves out what the index does not need:

- the training captures: ``PYTHON -m tools.city --out city_build --set training``, with the same
  Python. Sets rendered into one folder share its table;
- the weights, which it takes as they are: the recipes of training are in ``recipes/``, their order
  in prebuilt_index/README.md;
- the pictures in README.md: ``python -m tools.screenshots``, and where the city itself has changed
  ``PYTHON -m tools.city.contact city_build``. Figures there are written by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD, CALIBRATION, INDEX = "city_build", "city_calibration", "prebuilt_index/helsinki"
RANK = 36
"""Components of the local features: what keeps prebuilt_index/ below 60 MB."""


def steps(city_python: str) -> list[list[str]]:
    """The commands, in their order."""
    ours = [sys.executable, "-m"]
    index = [*ours, "selavpr", "index"]
    return [
        [city_python, "-m", "tools.city", "--out", BUILD, "--set", "shipped"],
        [city_python, "-m", "tools.city", "--out", CALIBRATION, "--set", "calibration"],
        *([city_python, "-m", "tools.city.check", folder] for folder in (BUILD, CALIBRATION)),
        [*index, "build", INDEX, "--from", BUILD, "--where", "role=reference",
         "--device", "cpu", "--precision", "float32", "--rank", str(RANK),
         "--name", "helsinki", "--title", "Helsinki (rendered)", "--license", "CC BY 4.0",
         "--attribution", "Rendered by SelaVPR Place Finder; contains data © OpenStreetMap "
         "contributors, ODbL 1.0", "--basemap", f"{BUILD}/basemap.geojson"],
        [*index, "calibrate", INDEX, "--queries", CALIBRATION, "--top-k", "50"],
        [*ours, "tools.pick_examples", BUILD],
        [*ours, "selavpr", "eval", "--index", INDEX, "--queries", BUILD, "--split", "test"],
    ]  # fmt: skip


def main() -> None:
    """Run the steps; the first that fails ends it with its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--city-python", required=True, help="Python 3.11 with tools/city/requirements.txt"
    )
    for command in steps(parser.parse_args().city_python):
        print("$", *command, flush=True)
        if status := subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise SystemExit(status)


if __name__ == "__main__":
    main()
