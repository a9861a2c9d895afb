"""``python -m selavpr``: the command line, or a word on what is missing for it."""

from __future__ import annotations

import platform
import sys

from selavpr.findings import Finding, summary, to_json

GET_ALL = f"{sys.executable} -m pip install -r requirements.txt"


def main() -> int:
    """Run a command; where packages cannot be imported, say which."""
    try:
        from selavpr.cli import main as run  # noqa: PLC0415  # needs them all
    except (ImportError, OSError) as error:  # OSError: a library of torch's cannot be loaded
        package = (getattr(error, "name", None) or "packages").partition(".")[0]
        if package == "selavpr":
            raise
        if "doctor" not in sys.argv[1:2]:
            sys.stderr.write(
                f"selavpr: {error}. Something that is needed is not installed as it should be; "
                "`python -m selavpr doctor` says what.\n"
            )
            return 2
        found = [Finding(package, "bad", f"cannot be imported: {error}", GET_ALL), *_installed()]
        lines = [*(line for finding in found for line in finding.lines()), summary(found)]
        sys.stdout.write((to_json(found) if "--json" in sys.argv else "\n".join(lines)) + "\n")
        return 1
    return run()


def _installed() -> list[Finding]:
    """What can be said of Python and the packages while some are missing."""
    try:
        from selavpr import installed  # noqa: PLC0415  # needs one of them, too
    except ImportError:
        return []
    return [
        installed.check_python(platform.python_version()),
        *installed.check_packages(installed.requirements()),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
