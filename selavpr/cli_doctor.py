"""The command ``doctor``: is everything here, and if not, what to do."""

from __future__ import annotations

import argparse

from selavpr import doctor
from selavpr.findings import is_well, summary, to_json
from selavpr.terminal import NOT_HERE, Parsers, add_model, plain


def examine(args: argparse.Namespace) -> int:
    """Check the installation and say what to do about it."""
    found = []
    for finding in doctor.examine(
        args.model, args.index or (), device=args.device, precision=args.precision
    ):
        found.append(finding)
        if not args.json:
            for line in finding.lines():
                print(plain(line), flush=True)
    print(to_json(found) if args.json else summary(found))
    return 0 if is_well(found) else NOT_HERE


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
