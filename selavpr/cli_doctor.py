"""The command ``doctor``: is everything here, and if not, what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json

from selavpr import doctor
from selavpr.findings import Finding
from selavpr.terminal import NOT_HERE, Parsers, add_model, plain


def examine(args: argparse.Namespace) -> int:
    """Check the installation and say what to do about it."""
    found = []
    for finding in doctor.examine(
        args.model, args.index or (), device=args.device, precision=args.precision
    ):
        found.append(finding)
        if not args.json:
            _print(finding)
    bad = sum(finding.status == "bad" for finding in found)
    notes = sum(finding.status == "note" for finding in found)
    if args.json:
        print(json.dumps({"ok": not bad, "findings": [dataclasses.asdict(f) for f in found]}))
    elif bad:
        print(f"{bad} of {len(found)} checks failed; what to do stands behind the arrows.")
    else:
        print("All is well" + (f", with {notes} to note." if notes else "."))
    return NOT_HERE if bad else 0


def _print(finding: Finding) -> None:
    print(f"{finding.status:<5} {finding.name:<20} {plain(finding.found)}", flush=True)
    if finding.advice:
        print(f"{'':<26} -> {plain(finding.advice)}", flush=True)


def add_doctor(commands: Parsers) -> None:
    """Declare ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="check that everything is here, and say what to do about what is not",
        description="Check packages, device, model, cities, Hub, memory and disk. The exit code "
        "is 1 when something keeps the app from running as it should; notes do not count.",
    )
    parser.add_argument(
        "--index",
        action="append",
        metavar="INDEX",
        help="folder or Hub repository, any number; default: the bundled cities",
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.set_defaults(run=examine)
