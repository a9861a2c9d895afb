"""What the commands of the command line share: exit codes, common options, safe printing."""

from __future__ import annotations

import argparse
from typing import Any

from selavpr import weights

NOT_HERE = 1
"""Exit code when a photo is not in the city, or an index is damaged: the answer is no."""
USER_ERROR = 2
"""Exit code of mistakes a user can mend, as argparse has it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
PIPE_CLOSED = 141
"""Exit code when nobody reads on, as shells have it."""

Parsers = Any  # argparse keeps the type of add_subparsers() to itself


def add_model(parser: argparse.ArgumentParser) -> None:
    """Options of every command that runs the network."""
    add = parser.add_argument
    add("--model", default=weights.DEFAULT_MODEL, help="bundled name, folder or Hub repository "
        f"(default {weights.DEFAULT_MODEL})")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, mps or auto (default)")
    add("--precision", default="auto", help="float32, bfloat16, float16 or auto (default)")


def plain(text: str) -> str:
    """Without what could steer a terminal: an index may come from a stranger."""
    return "".join(c if c.isprintable() else "?" for c in text)
