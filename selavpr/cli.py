"""The command line: ``python -m selavpr COMMAND``, or ``selavpr COMMAND`` once installed.

One function runs a command and one, ``_add_<command>``, declares its arguments; ``_COMMANDS`` lists
the latter. Only this module prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import selavpr
from selavpr import hub, weights
from selavpr.errors import SelaVPRError
from selavpr.model import SelaVPR

USER_ERROR = 2
"""Exit code of mistakes a user can mend, as argparse has it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_Parsers = Any  # argparse keeps the type of add_subparsers() to itself


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process when None.

    Returns:
        The exit code: 0, or 2 after an error that the user can mend, or 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)
    except SelaVPRError as error:
        print(f"selavpr: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("selavpr: interrupted.", file=sys.stderr)
        return INTERRUPTED


def convert(args: argparse.Namespace) -> int:
    """Turn a checkpoint of the reference implementation into a model folder."""
    weights.check_target(args.out)
    if args.push_to_hub:
        hub.check_pushable(args.push_to_hub)
    # Building the network checks every tensor's name and shape.
    model = SelaVPR.from_official_checkpoint(args.checkpoint, device="cpu", precision="float32")
    source = model.to_weights()
    config = source.config
    registers = f", {config.registers} registers" if config.registers else ""
    trainable = sum(tensor.numel() for tensor in source.trained.values())
    print(f"{args.checkpoint}: width {config.width}, {config.depth} blocks{registers}")
    print(f"  trained parameters  {trainable:,}")
    print(f"  backbone            {weights.fingerprint(source.backbone, config.depth)}")
    dtype = torch.float16 if args.half else torch.float32
    folder = weights.save(source, args.out, with_backbone=args.with_backbone, dtype=dtype)
    print(f"Wrote {folder}:")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name:<22}{path.stat().st_size / 1e6:10.1f} MB")
    if not args.with_backbone and source.backbone_repo:
        print(f"Loading it fetches the backbone from {source.backbone_repo}.")
    elif not args.with_backbone:
        print(
            "selavpr: warning: no Hub repository is known for this backbone, so the folder alone "
            "cannot be loaded; convert it again with --with-backbone.",
            file=sys.stderr,
        )
    if args.push_to_hub:
        address = hub.push(folder, args.push_to_hub, message=f"Convert {args.checkpoint.name}")
        print(f"Pushed: {address}")
    return 0


def _add_convert(commands: _Parsers) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn a checkpoint of the reference implementation (.pth) into a model folder",
        description="Turn a checkpoint of Lu-Feng/SelaVPR (.pth) into a model folder: config.json "
        "and adapters.safetensors. Nothing in the checkpoint but tensors and numbers is read.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the .pth file")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--with-backbone",
        action="store_true",
        help="also write the frozen backbone, so that loading needs no network",
    )
    parser.add_argument("--half", action="store_true", help="write float16: half the size")
    parser.add_argument(
        "--push-to-hub", metavar="ORG/NAME", help="upload the folder to this Hub repository"
    )
    parser.set_defaults(run=convert)


_COMMANDS: tuple[Callable[[_Parsers], None], ...] = (_add_convert,)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="selavpr", description="Find where a photo was taken, and show why."
    )
    parser.add_argument("--version", action="version", version=f"selavpr {selavpr.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser
