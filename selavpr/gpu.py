"""Borrowing a GPU where one is lent by the call: ZeroGPU on Hugging Face. The home of ``spaces``.

There a task runs in another process: what goes in and comes out is pickled, and an exception loses
its text on the way unless it travels as a value. Everywhere else the task just runs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from selavpr.errors import SelaVPRError

try:
    import spaces
except ImportError:  # a laptop, or a Space with a CPU or a GPU of its own
    spaces = None
if not hasattr(spaces, "GPU"):  # any folder of this name, beside the script, is imported as well
    spaces = None

Given = ParamSpec("Given")
Made = TypeVar("Made")


def is_lent() -> bool:
    """Whether this machine lends its GPU by the call, so that tasks run in another process."""
    return spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")


def borrowing(task: Callable[Given, Made], seconds: int) -> Callable[Given, Made]:
    """The same task, with a GPU lent to it where that is how GPUs are had.

    Args:
        task: takes and returns what can be pickled, no tensor on a GPU.
        seconds: the longest a call takes; short ones wait less in the line for a GPU.
    """
    if spaces is None:
        return task

    @functools.wraps(task)
    def attempt(*args: Any, **kwargs: Any) -> tuple[Made | None, SelaVPRError | None]:
        try:
            return task(*args, **kwargs), None
        except SelaVPRError as error:
            return None, error

    lent: Callable[..., tuple[Any, SelaVPRError | None]] = spaces.GPU(duration=seconds)(attempt)

    @functools.wraps(task)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        made, error = lent(*args, **kwargs)
        if error is not None:
            raise error
        return made  # type: ignore[no-any-return]

    return call
